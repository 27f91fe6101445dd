"""Layers to volumes and projection stacks and back: scale, units, axis names, position, contrast."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..acquisition import Acquisition
from ..provenance import was_reconstructed
from ..volume import ProjectionStack, Volume
from .known import KEY, facts
from .model import Header

if TYPE_CHECKING:
    from napari.layers import Image, Layer

CUBES = "slices_as_cubes"
"""Where it holds how many slices apart the images of a layer without scale are shown."""

FEW = 5
"""Channels at most, where nothing says whether an axis is of channels or of time points."""

MOST_AXES = 5
"""Those of a stack, channels and time points: of more, nothing says what to choose."""

BLENDING = "translucent_no_depth"
"""Of images, as napari's own: with another, those that lie in one place cut each other up in 3D."""

LayerTuple = tuple[Any, dict[str, Any], str]
Triple = tuple[float, float, float]
Units = tuple[str, ...]


# -- engine to layers ------------------------------------------------------------------------


def placed(scale_um: Triple | None, first: float, step: int = 1) -> dict[str, Any]:
    """Where a stack of images lies: the layer attributes that put them where they were measured.

    Parameters
    ----------
    scale_um
        Voxel size of the volume (z, y, x) in µm; None where unknown: voxels then count as cubes of one pixel.
    first
        Centre of the first image, in slices from the top of the volume; the first slice's is 1/2.
    step
        Slices from one image to the next.
    """
    z, y, x = scale_um or (1.0, 1.0, 1.0)
    return {
        "scale": (z * step, y, x),
        "translate": (round(z * first, 9), 0.0, 0.0),
        "units": ("pixel" if scale_um is None else "µm",) * 3,
        "axis_labels": ("z", "y", "x"),
    }


def volume_layer(volume: Volume, role: str = "volume", **facts: Any) -> LayerTuple:
    """A layer of a volume whose slice k is centred at (k + 1/2)·dz; ``facts`` go into its metadata."""
    known = {"role": role, **facts}
    if volume.provenance:
        known["provenance"] = volume.provenance
    return volume.data, {"name": volume.name, "metadata": {KEY: known}, **placed(volume.scale_um, 0.5)}, "image"


def projections_layer(stack: ProjectionStack, **facts: Any) -> LayerTuple:
    """A layer of projections, each centred where its beam was."""
    acquisition = stack.acquisition
    known = {"role": "projections", "acquisition": acquisition.model_dump(mode="json"), **facts}
    if stack.volume_scale_um is None:
        known[CUBES] = acquisition.step
    where = placed(stack.volume_scale_um, float(acquisition.projection_centres[0]), acquisition.step)
    return stack.data, {"name": stack.name, "metadata": {KEY: known}, **where}, "image"


# -- layers to engine ------------------------------------------------------------------------


def header(layer: Image) -> Header:
    """Shape (of one channel and time point) and dtype of a layer; looks at no pixel."""
    data = finest(layer)
    shape = tuple(int(n) for n in data.shape)
    lacking = len((facts(layer).get("acquisition") or {}).get("hidden", ()))
    made = was_reconstructed(facts(layer).get("provenance"))
    return Header(
        layer.name,
        shape if layer.rgb or len(shape) > MOST_AXES else shape[-3:],
        str(data.dtype),
        bool(layer.rgb),
        lacking,
        known_acquisition(layer),
        made,
        _turned(layer),
        extra_axes(layer),
        not layer.rgb and len(shape) > 3 and all(label.lstrip("-").isdigit() for label in layer.axis_labels),
    )


def _turned(layer: Image) -> bool:
    """Whether more than its scale and place tell where a layer is shown."""
    plain = np.allclose(layer.rotate, np.eye(layer.ndim)) and not np.any(layer.shear)
    return not (plain and np.allclose(layer.affine.affine_matrix, np.eye(layer.ndim + 1)))


def finest(layer: Image) -> Any:
    """The layer's array at full resolution."""
    return layer.data[0] if layer.multiscale else layer.data


def extra_axes(layer: Image) -> dict[str, int]:
    """Lengths of the axes before z, y, x, called ``channel`` and ``time``; empty for a plain stack.

    Axis labels decide; without them a short axis counts as channels, of two the second where it is short, as in OME's
    usual order.
    """
    if layer.rgb:
        return {}
    lengths = [int(n) for n in finest(layer).shape[:-3]]
    labels = [label.lower() for label in layer.axis_labels[: len(lengths)]]
    guesses = ["channel" if length <= FEW else "time" for length in lengths]
    if guesses == ["channel", "channel"]:
        guesses = ["time", "channel"]
    names: dict[str, int] = {}
    for label, length, guess in zip(labels, lengths, guesses, strict=True):
        wanted = {"c": "channel", "t": "time"}.get(label[:1], guess)
        names[wanted if wanted not in names else {"channel": "time", "time": "channel"}[wanted]] = length
    return names


def pixels(layer: Image, chosen: dict[str, int]) -> Any:
    """One channel and time point of a layer, (z, y, x), still lazy where the layer is."""
    data = finest(layer)
    for name in extra_axes(layer):
        data = data[chosen.get(name, 0)]
    return data


def there(layer: Image, axes: dict[str, int]) -> dict[str, int]:
    """The channel and time point, or the last that this layer has."""
    return {name: min(axes[name], count - 1) for name, count in extra_axes(layer).items()}


def in_memory(data: Any) -> NDArray[Any]:
    """The pixels themselves; may read files, so it belongs into a worker thread."""
    return np.asarray(data)


def known_acquisition(layer: Image) -> Acquisition | None:
    """The acquisition that came with a layer, not bound to a number of projections; None where none did."""
    known = facts(layer).get("acquisition")
    if known is None:
        return None
    return Acquisition.model_validate(known).unbound


def voxel_um(layer: Image) -> Triple | None:
    """How large its voxels are (z, y, x) in µm, also where it is shown mirrored; None where it does not state it."""
    return sizes_of(spacing_um(layer))


def sizes_of(spacing: Triple | None) -> Triple | None:
    """Sizes (z, y, x) of what lies so far apart in either direction; None where it is not known, or nothing."""
    if spacing is None or not all(spacing):
        return None
    z, y, x = map(abs, spacing)
    return z, y, x


def spacing_um(layer: Image) -> Triple | None:
    """Distance of neighbouring images and pixels (z, y, x) in µm; None where the layer does not state it."""
    return known_units_um(layer.scale, layer.units)


def known_units_um(scale: Sequence[float], units: Sequence[Any]) -> Triple | None:
    """The last three of a layer's scales in µm; None where its units are no lengths."""
    if len(scale) < 3 or len(units) < 3:
        return None
    lengths = [_micrometres(float(step), unit) for step, unit in zip(scale[-3:], units[-3:], strict=True)]
    if any(length is None for length in lengths):
        return None
    z, y, x = (float(length) for length in lengths if length is not None)
    return z, y, x


def _micrometres(step: float, unit: Any) -> float | None:
    import pint

    unit = pint.get_application_registry().Unit(str(unit))  # type: ignore[no-untyped-call]
    return float((step * unit).to("micrometer").magnitude) if unit.is_compatible_with("micrometer") else None


def grid(layer: Image, scale_um: Triple | None, step: int) -> tuple[Triple, Units]:
    """Voxel size of a volume and its units: in µm where stated, else as the layer of its projections is shown.

    Parameters
    ----------
    layer
        Of images that are ``step`` slices apart.
    """
    if scale_um is not None:
        return scale_um, ("µm",) * 3
    z, y, x = (float(size) for size in layer.scale[-3:])
    return (z / step, y, x), tuple(str(unit) for unit in layer.units[-3:])


def top(layer: Image, dz: float, first: float) -> Triple:
    """Translation (z, y, x) of a volume's layer, from a layer whose first image is centred at ``first`` slices."""
    z, y, x = (float(t) for t in layer.translate[-3:])
    return z + (0.5 - first) * dz, y, x


def rescale(layer: Image, scale_um: Triple | None, step: int) -> None:
    """Give a source layer the scale that was stated in the widget, so that results lie where they belong.

    Without one it keeps its own; where it has none either, voxels of the volume count as cubes.
    """
    if scale_um is None:
        if unscaled(layer):
            layer.scale = (*layer.scale[:-3], float(step), 1.0, 1.0)
            layer.metadata = {**layer.metadata, KEY: {**facts(layer), CUBES: step}}
        return
    wanted = placed(scale_um, 0.0, step)
    if tuple(str(unit) for unit in layer.units[-3:]) != ("micrometer",) * 3:
        factors = [_micrometres(1.0, unit) or 1.0 for unit in layer.units[-3:]]
        moved = [float(t) * factor for t, factor in zip(layer.translate[-3:], factors, strict=True)]
        with layer.events.units.blocker():  # until scale and units belong together
            layer.units = (*layer.units[:-3], *wanted["units"])
        layer.translate = (*layer.translate[:-3], *moved)
    if not np.allclose(layer.scale[-3:], wanted["scale"]):
        layer.scale = (*layer.scale[:-3], *wanted["scale"])


def marks_on(layer: Image, others: Iterable[Layer]) -> list[Layer]:
    """Masks, points and shapes that lie on a layer: they have its scale, units and translation, masks its shape too.

    Where other images lie there, points and shapes may be theirs, and do not count.
    """
    from napari.layers import Image, Labels

    there = [other for other in others if other is not layer and _coincide(other, layer)]
    crowded = any(isinstance(other, Image) for other in there)

    def its_own(other: Layer) -> bool:
        if isinstance(other, Labels):
            return bool(other.data.shape == finest(layer).shape[-other.ndim :])
        return not crowded and not isinstance(other, Image)

    return list(filter(its_own, there))


def _coincide(other: Layer, layer: Image) -> bool:
    """Whether both have the same scale, units and translation along the axes that both have."""
    n = min(3, other.ndim)
    pairs = ((other.scale, layer.scale), (other.translate, layer.translate))
    return other.units[-n:] == layer.units[-n:] and all(np.allclose(one[-n:], two[-n:]) for one, two in pairs)


def lay(mark: Layer, layer: Image, where: NDArray[np.float64]) -> None:
    """Give a mark the scale of a layer that it lies on, and its translation along the last axes of both."""
    n = len(where)
    mark.units = (*mark.units[:-n], *layer.units[-n:])
    mark.translate = (*mark.translate[:-n], *where)
    mark.scale = (*mark.scale[:-n], *layer.scale[-n:])


def unscaled(layer: Image) -> bool:
    """Whether a layer's scale says nothing: it is napari's default, or what we made of that."""
    made = (facts(layer).get(CUBES, 1), 1, 1)
    return spacing_um(layer) is None and any(np.allclose(layer.scale[-3:], scale) for scale in ((1, 1, 1), made))


def link_contrast(layer: Image, reference: Image) -> None:
    """Show both with one contrast from now on, the reference's."""
    from napari.experimental import link_layers

    layer.contrast_limits = reference.contrast_limits
    link_layers([reference, layer], ["contrast_limits", "gamma"])
