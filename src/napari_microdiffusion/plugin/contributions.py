"""What the manifest names besides the widget: sample data, a reader, a writer."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from ..acquisition import Acquisition
from ..events import InvalidInput, TooLarge
from ..provenance import is_map, was_reconstructed
from ..volume import ProjectionStack, Volume
from .known import KEY, LOST, at, lost, reliability
from .layers import LayerTuple, known_units_um, projections_layer, sizes_of, volume_layer

if TYPE_CHECKING:
    from ..io import FileInfo

_NUMBERS = re.compile(r"(\d+)")

SAMPLE_SHAPE = (96, 128, 128)
SAMPLE_ACQUISITION = Acquisition(slices=6)


# -- sample data -----------------------------------------------------------------------------


def sample(kind: str, shape: tuple[int, int, int] = SAMPLE_SHAPE) -> list[LayerTuple]:
    """A phantom as two layers: the ground truth, and the projections a microscope would have taken of it."""
    from ..phantoms import phantom

    stack, truth = phantom(kind, shape).simulate(SAMPLE_ACQUISITION)  # type: ignore[arg-type]
    named = Volume(truth.data, truth.scale_um, f"{kind} truth", truth.source_dtype)
    contrast = {"contrast_limits": truth.intensity_range}
    layers = [volume_layer(named, "truth"), projections_layer(stack, truth=named.name)]
    layers[1][1]["name"] = f"{kind} projections"
    return [(data, {**attributes, **contrast}, kind_) for data, attributes, kind_ in layers]


def vessels() -> list[LayerTuple]:
    """Vessels: smooth tubes of many widths."""
    return sample("vessels")


def dendrites() -> list[LayerTuple]:
    """Dendrites: thin fibres with spines, the hardest of the three."""
    return sample("dendrites")


def neurons() -> list[LayerTuple]:
    """Neurons: cell bodies with neurites."""
    return sample("neurons")


# -- files to layers -------------------------------------------------------------------------


def get_reader(path: str | Sequence[str]) -> Callable[[Any], list[LayerTuple]] | None:
    """napari's reader hook: the function that reads this path, None for what napari reads as well as we.

    That is folders that are no Zarr, single and colour images, images with further axes, and files that are opened as
    one stack, but for those of a movie (`read_movie`).
    """
    from ..io import inspect

    if not isinstance(path, str | Path):
        return read_movie if _is_movie(path) else None
    folder = Path(path)
    if folder.is_dir() and not any((folder / name).exists() for name in ("zarr.json", ".zgroup")):
        return None
    try:
        axes = set(inspect(path).axes)
    except InvalidInput:
        return read_layers  # which says what is wrong with the file
    return read_layers if "S" not in axes and len(axes - {"C", "T"}) == 3 else None


def read_layers(path: str | Path) -> list[LayerTuple]:
    """A file as layers with scale and units: a layer for each channel, time points as a first axis.

    Raises
    ------
    InvalidInput, TooLarge
        As for `io.read_volume`.
    """
    from ..io import inspect

    found = inspect(path)
    found.check_acquisition()
    _check_memory(found)
    layers = [_channel_layer(Path(path), found, channel) for channel in range(found.channels)]
    if len(layers) == 3 and _role(found) == "map":
        _show_as_maps(*layers)
    return layers


def _show_as_maps(std: LayerTuple, lower: LayerTuple, upper: LayerTuple) -> None:
    """The standard deviation from nothing on, in colours; both bounds with one contrast."""
    std[1]["colormap"] = "magma"
    low, high = float(lower[0].min()), float(upper[0].max())
    for layer, limits in ((std, (0.0, float(std[0].max()))), (lower, (low, high)), (upper, (low, high))):
        if -np.inf < limits[0] < limits[1] < np.inf:  # else napari finds some
            layer[1]["contrast_limits"] = limits


def _is_movie(paths: Sequence[str]) -> bool:
    """Whether each file holds one volume, and all are alike."""
    from ..io import inspect

    try:
        found = [each for each in map(inspect, paths) if _role(each) != "map"]
    except InvalidInput:
        return False
    return (
        len(found) > 1
        and len({(each.shape, each.scale_um) for each in found}) == 1
        and all(len(each.axes) == 3 and not {*"CTS"} & {*each.axes} and each.acquisition is None for each in found)
    )


def read_movie(paths: Sequence[str]) -> list[LayerTuple]:
    """Volumes that are opened as one stack, as a layer (t, z, y, x) with scale and units.

    Each is a time point; they are in the order of the numbers in their names. What lies beside volumes to say how far
    they can be trusted is left out.

    Raises
    ------
    InvalidInput, TooLarge
        As for `io.read_volume`.
    """
    from ..io import inspect

    found = {path: inspect(path) for path in paths}
    paths = [path for path in paths if _role(found[path]) != "map"]
    paths.sort(key=lambda path: [int(part) if part.isdigit() else part for part in _NUMBERS.split(path)])
    first, count = found[paths[0]], len(paths)
    movie = replace(first, shape=(count, *first.shape), times=count)
    _check_memory(movie)
    volumes = [_volume(Path(path), None, None) for path in paths]
    data, attributes, kind = _layer(volumes, movie)
    if all(was_reconstructed(volume.provenance) for volume in volumes):
        attributes["metadata"][KEY] |= {"role": "result", "times": [volume.provenance for volume in volumes]}
    return [(data, attributes | {"name": f"{volumes[0].name} to {volumes[-1].name}"}, kind)]


def _check_memory(found: FileInfo) -> None:
    """All channels and time points come into memory at once, and one is copied while it is stacked."""
    needed = 2 * int(np.prod(found.shape, dtype=object)) * np.dtype(found.dtype).itemsize
    free = psutil.virtual_memory().available
    if needed > free:
        raise TooLarge(
            f"{found.name} needs {needed / 1e9:.1f} GB of memory to be opened with all its {found.times} time point(s) "
            f"and {found.channels} channel(s), and {free / 1e9:.1f} GB are free: crop it, save fewer time points, or "
            "reconstruct one time point after the other on the command line (--time)"
        )


def _channel_layer(path: Path, found: FileInfo, channel: int) -> LayerTuple:
    index = channel if found.channels > 1 else None
    times = [_volume(path, index, t if found.times > 1 else None) for t in range(found.times)]
    data, attributes, kind = _layer(times, found, path=str(path.resolve()), channel=index)
    if index is not None:
        attributes["name"] += f" {found.channel_names[channel]}" if found.channel_names else f" channel {channel}"
    return data, attributes, kind


def _layer(times: list[Volume], found: FileInfo, **known: Any) -> LayerTuple:
    """A volume, or its time points; ``known`` goes with the layer."""
    first = times[0]
    facts = known | {"source_dtype": first.source_dtype}
    if found.acquisition is not None:
        stack = ProjectionStack(first.data, found.acquisition, found.scale_um, first.name, first.source_dtype)
        _, attributes, kind = projections_layer(stack, **facts)
    else:
        role = _role(found)
        facts["pair"] = found.pair if role == "result" and len(times) == 1 else ""
        _, attributes, kind = volume_layer(first, role, **facts)
    if len(times) == 1:
        return first.data, attributes, kind
    return np.stack([volume.data for volume in times]), _with_time(attributes), kind


def _role(found: FileInfo) -> str:
    if is_map(found.provenance):
        return "map"
    if was_reconstructed(found.provenance) and found.times == 1:
        return "result"
    return "volume" if found.provenance else "unknown"  # a plain file may hold either


def _volume(path: Path, channel: int | None, time: int | None) -> Volume:
    """Of a reliability beside it nothing is shown: it takes three times the memory, and opens as layers of its own."""
    from ..io import read_volume

    return read_volume(path, channel, time, with_reliability=False)


def _with_time(attributes: dict[str, Any]) -> dict[str, Any]:
    """The attributes of a 3D layer for one with time points as its first axis."""
    first = {"scale": 1.0, "translate": 0.0, "units": "pixel", "axis_labels": "t"}
    return {**attributes, **{name: (value, *attributes[name]) for name, value in first.items()}}


# -- layers to files -------------------------------------------------------------------------


def write_image(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """napari's writer hook: save one image layer; napari has asked before replacing a file.

    Raises
    ------
    InvalidInput
        For layers that are not a stack of grey images.
    """
    from ..io import write_projections, write_volume

    known = at(attributes.get("metadata", {}).get(KEY, {}), {})  # of a single time point of a movie nothing
    finest = data[0] if attributes.get("multiscale") else data  # of a pyramid, whose scale the attributes hold
    name = str(attributes.get("name", "volume"))
    if np.ndim(finest) > 3 or attributes.get("rgb"):
        raise InvalidInput(
            f"{name} is more than one stack (z, y, x): save a single time point of a result with Save volume… in the "
            "panel, or split the layer (right-click it) and save its parts"
        )
    pixels = np.asarray(finest)
    spacing = sizes_of(known_units_um(attributes.get("scale", ()), attributes.get("units", ())))
    dtype = known.get("source_dtype", "")
    if known.get("role") == "projections":
        acquisition = Acquisition.model_validate(known["acquisition"])
        written = write_projections(ProjectionStack(pixels, acquisition, spacing, name, dtype), path, overwrite=True)
    else:
        provenance = {"map": name} if known.get("role") == "map" else known.get("provenance")
        volume = Volume(pixels, spacing, name, dtype, provenance, reliability(known, pixels))
        written = write_volume(volume, path, overwrite=True)
        if lost(known, volume):
            from napari.utils.notifications import show_warning

            show_warning(f"Saved {written.path}{LOST}")
    return [str(each) for each in (written.path, written.reliability) if each is not None]
