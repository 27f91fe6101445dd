"""OME-Zarr 0.4 and 0.5 in, 0.5 out. The metadata that is written passes through yaozarrs' models of the standard."""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from yaozarrs import v05

from ..events import InvalidInput
from .source import NAMESPACE, Index, Source
from .units import scale_um

ATTRIBUTE = NAMESPACE.replace("-", "_")
LETTERS = {"t": "T", "c": "C", "z": "Z", "y": "Y", "x": "X"}
METADATA = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")
CHUNK = 2**22
"""Bytes of a chunk, about."""


@contextmanager
def opened(path: Path) -> Generator[Source]:
    """The first multiscale image of an OME-Zarr group at its highest resolution."""
    try:
        group = zarr.open_group(zarr.storage.LocalStore(path, read_only=True), mode="r")
    except FileNotFoundError as error:
        raise InvalidInput(
            f"{path} is a folder without a Zarr group: choose the folder of an OME-Zarr image"
        ) from error
    except zarr.errors.ContainsArrayError as error:
        raise InvalidInput(
            f"{path} is a single Zarr array, which does not say what its axes are: choose the folder of the OME-Zarr "
            "image that it belongs to, or save it as OME-Zarr or TIFF"
        ) from error
    attributes = dict(group.attrs)
    image = _first_image(attributes, path)
    record = attributes.get(ATTRIBUTE)
    record = dict(record) if isinstance(record, Mapping) else None
    level = image["datasets"][0]
    array = _array(group, str(level["path"]), path)
    axes = [axis if isinstance(axis, Mapping) else {"name": axis} for axis in image.get("axes", ())]
    names = [str(axis["name"]).lower() for axis in axes]
    if len(names) != array.ndim or len(set(names)) != len(names):
        raise InvalidInput(f"{path.name} is damaged: it names the axes {names} for an array of shape {array.shape}")
    _refuse_pickle(array, path.name)
    _check_chunks(array, record is not None, path)
    letters = "".join(LETTERS.get(name, "QRPVUH"[i % 6]) for i, name in enumerate(names))
    yield Source(
        path.name,
        array.shape,
        letters,
        np.dtype(array.dtype),
        lambda index: _load(array, index, path),
        _scale(image, level, axes),
        record,
        _channel_names(attributes),
        int(np.prod(array.shards or array.chunks, dtype=object)),
    )


def write(
    path: Path,
    channels: Mapping[str, NDArray[Any]],
    scale: tuple[float, float, float] | None,
    metadata: dict[str, Any],
    name: str,
) -> None:
    """Write (z, y, x) data as OME-Zarr 0.5 with one resolution; without a scale, 1 in no unit.

    Several channels, by their names and of one shape and dtype, become an axis in front; a single one does not.
    """
    first = next(iter(channels.values()))
    several = len(channels) > 1
    ome = _ome(channels, scale, name).model_dump(mode="json", exclude_none=True)
    group = zarr.create_group(
        zarr.storage.LocalStore(path), zarr_format=3, attributes={"ome": ome, ATTRIBUTE: metadata}
    )
    array = group.create_array(
        "0",
        shape=(len(channels), *first.shape) if several else first.shape,
        dtype=first.dtype,
        chunks=(1, *_chunks(first)) if several else _chunks(first),
        dimension_names=("c", "z", "y", "x") if several else ("z", "y", "x"),
        # every chunk is there, so that a missing one is known to be lost
        config={"write_empty_chunks": True},
    )
    for index, data in enumerate(channels.values()):
        array[index if several else slice(None)] = data


def _ome(channels: Mapping[str, NDArray[Any]], scale: tuple[float, float, float] | None, name: str) -> v05.Image:
    unit = None if scale is None else "micrometer"
    factors = list(scale or (1.0, 1.0, 1.0))
    axes: list[Any] = [v05.SpaceAxis(name=axis, unit=unit) for axis in "zyx"]
    omero = None
    if len(channels) > 1:
        axes, factors = [v05.ChannelAxis(name="c"), *axes], [1.0, *factors]
        omero = v05.Omero(channels=[_shown(label, data) for label, data in channels.items()])
    level = v05.Dataset(path="0", coordinateTransformations=[v05.ScaleTransformation(scale=factors)])
    return v05.Image(multiscales=[v05.Multiscale(name=name, axes=axes, datasets=[level])], omero=omero)


def _shown(label: str, data: NDArray[Any]) -> v05.OmeroChannel:
    low, high = float(data.min()), float(data.max())
    return v05.OmeroChannel(label=label, color="FFFFFF", window=v05.OmeroWindow(start=low, min=low, end=high, max=high))


def _first_image(attributes: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    ome = attributes.get("ome")
    images = (ome if isinstance(ome, Mapping) else attributes).get("multiscales")
    if not images:
        inside = (
            " It is a collection: choose the image's folder in it."
            if "bioformats2raw.layout" in str(attributes) or "plate" in str(attributes)
            else ""
        )
        raise InvalidInput(f"{path} is a Zarr group without an OME-Zarr image (no multiscales).{inside}")
    if not images[0].get("datasets"):
        raise InvalidInput(f"{path.name} is damaged: its image lists no array")
    first: Mapping[str, Any] = images[0]
    return first


def _channel_names(attributes: Mapping[str, Any]) -> tuple[str, ...]:
    ome = attributes.get("ome")
    omero = (ome if isinstance(ome, Mapping) else attributes).get("omero")
    channels = omero.get("channels", ()) if isinstance(omero, Mapping) else ()
    names = tuple(str(channel.get("label") or "") for channel in channels if isinstance(channel, Mapping))
    return names if all(names) else ()


def _array(group: zarr.Group, name: str, path: Path) -> zarr.Array[Any]:
    given = PureWindowsPath(name)  # which knows drives, and both kinds of slashes
    if given.drive or given.root or ".." in given.parts:
        raise InvalidInput(f"{path.name} refers to an array outside itself ({name}), which is not read")
    try:
        array = group[name]
    except KeyError as error:
        raise InvalidInput(f"{path.name} is incomplete: its array {name!r} is missing") from error
    if not isinstance(array, zarr.Array):
        raise InvalidInput(f"{path.name} is damaged: {name!r} is no array")
    return array


def _refuse_pickle(array: zarr.Array[Any], name: str) -> None:
    """A Zarr array may name pickle as a codec, and decoding that would run code."""
    if array.dtype.hasobject or '"pickle"' in json.dumps(array.metadata.to_dict(), default=repr).lower():
        raise InvalidInput(f"{name} holds Python objects, which are never loaded, as that could run code: save numbers")


def _check_chunks(array: zarr.Array[Any], ours: bool, root: Path) -> None:
    """In a Zarr array a chunk that is not there reads as background: writers may leave empty ones out, we do not."""
    files = (path for path in (root / array.path).rglob("*") if path.name not in METADATA and path.is_file())
    if not ours or array.shards is not None:  # which we never write
        if next(files, None) is None:
            raise InvalidInput(f"{root.name} is incomplete: it holds no pixels at all; copy it again")
        return
    named = (re.split("[/.]", path.relative_to(root / array.path).as_posix().removeprefix("c/")) for path in files)
    there = sum(len(parts) == array.ndim and all(map(str.isdigit, parts)) for parts in named)
    missing = array.nchunks - there  # files are counted: a header can claim any number of chunks
    if missing > 0:
        raise InvalidInput(
            f"{root.name} is incomplete: {missing} of its {array.nchunks} chunks are missing; copy it again"
        )


def _load(array: zarr.Array[Any], index: Index, root: Path) -> NDArray[Any]:
    """The chosen part; a blosc chunk that is cut short is refused, because its decoder would read past the end."""
    if any("blosc" in type(codec).__name__.lower() for codec in array.compressors) and array.shards is None:
        ranges = [
            range(i // chunk, i // chunk + 1) if isinstance(i, int) else range(-(-size // chunk))
            for i, chunk, size in zip(index, array.chunks, array.shape, strict=True)
        ]
        for position in product(*ranges):
            _check_blosc(root / array.path / array.metadata.encode_chunk_key(position), root.name)
    return np.asarray(array[index])


def _check_blosc(chunk: Path, name: str) -> None:
    """Compare a chunk's length with the one in its header (bytes 12 to 16, blosc format 2)."""
    if not chunk.is_file():
        return
    with chunk.open("rb") as file:
        header = file.read(16)
    if len(header) < 16 or int.from_bytes(header[12:16], "little") != chunk.stat().st_size:
        raise InvalidInput(f"{name} is incomplete: its chunk {chunk.name} is cut short; copy it again")


def _scale(
    image: Mapping[str, Any], level: Mapping[str, Any], axes: Sequence[Mapping[str, Any]]
) -> tuple[float, float, float] | None:
    factors = np.ones(len(axes))
    for transformation in (*level.get("coordinateTransformations", ()), *image.get("coordinateTransformations", ())):
        if transformation.get("type") == "scale" and len(transformation.get("scale", ())) == len(axes):
            factors *= transformation["scale"]
    sizes = {str(axis["name"]).lower(): (float(f), axis.get("unit")) for axis, f in zip(axes, factors, strict=True)}
    return scale_um(sizes.get(letter, (None, None)) for letter in "zyx")


def _chunks(data: NDArray[Any]) -> tuple[int, int, int]:
    z, y, x = (min(size, 512) for size in data.shape)
    return max(1, min(z, CHUNK // (y * x * data.dtype.itemsize))), y, x
