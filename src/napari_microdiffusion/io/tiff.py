"""TIFF, ImageJ TIFF and OME-TIFF in; OME-TIFF out."""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import uuid
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile
from numpy.typing import NDArray

from ..events import InvalidInput
from .source import NAMESPACE, Index, Source
from .units import scale_um

BROKEN_OFF = re.compile(r"missing|corrupted|out of range|invalid page offset|TiffTag 270 .*invalid value offset")
"""What tifffile logs about a file that was cut short, before it goes on with what there is."""

CENTIMETRE = 3
"""TIFF's ResolutionUnit."""

CLASSIC = 2**32 - 2**25
"""Bytes of pixels that a TIFF file with offsets of 32 bits holds."""


@contextmanager
def opened(path: Path) -> Generator[Source]:
    """The first image of a TIFF file at full resolution; files that it refers to are never opened."""
    with _overheard() as complaints, _file(path) as file:
        _refuse_entities(file, path.name)
        series, axes, shape = _first(file)
        if any(BROKEN_OFF.search(line) for line in complaints):
            raise InvalidInput(f"{path.name} is incomplete: it breaks off before its end; copy or save it again")
        if file.is_ome and series.kind != "ome":
            raise InvalidInput(
                f"{path.name} has an OME description that does not fit its images, or that names other files, "
                "which are never opened: save it as one file"
            )
        scale, metadata, channels = _described(file)
        dtype = np.dtype(series.dtype)
        yield Source(
            path.name,
            shape,
            axes,
            dtype,
            lambda index: _load(series, index, shape),
            scale,
            metadata,
            channels,
            int(np.prod(series.keyframe.chunks, dtype=object)),
        )


@contextmanager
def _file(path: Path) -> Generator[tifffile.TiffFile]:
    """tifffile takes images that it has written one by one for as many images, where they are the slices of one."""
    with tifffile.TiffFile(path, _multifile=False) as file:
        every = file.series if file.is_shaped else ()  # written by tifffile, and neither OME nor ImageJ
        alike = {(each.shape, each.dtype, each.keyframe.description, _resolution(each)) for each in every}
        if len(every) < 2 or len(alike) > 1 or len(every[0].shape) != 2:
            yield file
            return
    with tifffile.TiffFile(path, _multifile=False, is_shaped=False) as file:
        yield file


def _resolution(series: tifffile.TiffPageSeries) -> tuple[Any, ...]:
    tags = series.keyframe.tags
    return tuple(tags[name].value if name in tags else None for name in ("XResolution", "YResolution"))


def _first(file: tifffile.TiffFile) -> tuple[tifffile.TiffPageSeries, str, tuple[int, ...]]:
    """The first image of a file, its axes and its shape, those of length 1 among them."""
    every: Any = file.series
    if callable(every):
        series = every(squeeze=False)[0]
        return series, series.axes, series.shape
    series = every[0]  # tifffile before 2026.5.2: all that there are for Python 3.11
    return series, series.get_axes(False), series.get_shape(False)


def write(
    path: Path,
    channels: Mapping[str, NDArray[Any]],
    scale: tuple[float, float, float] | None,
    metadata: dict[str, Any],
    name: str,
) -> None:
    """Write (z, y, x) data as OME-TIFF, the metadata as JSON in an annotation of our namespace.

    Several channels, by their names and of one shape and dtype, become an axis in front; a single one does not.
    """
    first = next(iter(channels.values()))
    ome: dict[str, Any] = {
        "axes": "ZYX",
        "Name": name,
        "Creator": NAMESPACE,
        "UUID": str(uuid.uuid4()),
        # ASCII: control characters, which XML forbids, are escaped by JSON
        "CommentAnnotation": {"Namespace": NAMESPACE, "Value": json.dumps(metadata, ensure_ascii=True)},
    }
    for letter, size in zip("ZYX", scale or (), strict=False):
        ome |= {f"PhysicalSize{letter}": size, f"PhysicalSize{letter}Unit": "µm"}
    data: Any = first
    if len(channels) > 1:
        ome |= {"axes": "CZYX", "Channel": {"Name": list(channels)}}
        data = chain.from_iterable(channels.values())  # image by image: stacking them would copy them all
    shape = first.shape if len(channels) == 1 else (len(channels), *first.shape)
    options: dict[str, Any] = {"shape": shape, "dtype": first.dtype, "bigtiff": first.nbytes * len(channels) > CLASSIC}
    with path.open("wb") as file:
        tifffile.imwrite(file, data, ome=True, photometric="minisblack", metadata=ome, **options)
        file.flush()
        os.fsync(file.fileno())


def _load(series: tifffile.TiffPageSeries, index: Index, shape: tuple[int, ...]) -> NDArray[Any]:
    """The chosen part of a series; no more is read, unless it is compressed and many images make a page."""
    pages = series.pages
    file, offset = series.parent, series.dataoffset
    if len(pages) < 2 and file is not None and offset is not None and series.keyframe.is_final:
        stored = np.dtype(file.byteorder + series.dtype.char)  # that of a series is native
        every = file.filehandle.memmap_array(stored, shape, offset)
        return np.array(every[index], dtype=series.dtype)
    lead = len(shape) - len(series.keyframe.shape)
    while lead > 0 and int(np.prod(shape[:lead])) != len(pages):
        lead -= 1
    if lead <= 0 or len(pages) < 2:
        return np.asarray(series.asarray()).reshape(shape)[index]
    numbers = np.arange(len(pages)).reshape(shape[:lead])[index[:lead]]
    images = np.stack([np.asarray(_page(series, int(i)).asarray()).reshape(shape[lead:]) for i in numbers.flat])
    return images.reshape(*numbers.shape, *shape[lead:])[(slice(None),) * numbers.ndim + index[lead:]]


def _page(series: tifffile.TiffPageSeries, number: int) -> Any:
    page = series.pages[number]
    if page is None:
        raise InvalidInput(f"{series.parent} is incomplete: image {number} is missing")
    return page


def _described(
    file: tifffile.TiffFile,
) -> tuple[tuple[float, float, float] | None, dict[str, Any] | None, tuple[str, ...]]:
    """Voxel size, our record and channel names, from whatever the file says about itself."""
    if file.is_ome and file.ome_metadata:
        root = ElementTree.fromstring(file.ome_metadata)
        names = tuple(channel.get("Name", "") for channel in root.iterfind("{*}Image[1]/{*}Pixels/{*}Channel"))
        return _ome_scale(root), _ome_record(root), names if all(names) else ()
    if file.is_imagej and file.imagej_metadata:
        return _imagej_scale(file.imagej_metadata, file.pages.first.tags), None, ()
    return None, None, ()


def _ome_scale(root: ElementTree.Element) -> tuple[float, float, float] | None:
    pixels = root.find("{*}Image/{*}Pixels")
    if pixels is None:
        return None
    sizes = {a: pixels.get(f"PhysicalSize{a}") for a in "ZYX"}
    return scale_um(
        (None if size is None else float(size), pixels.get(f"PhysicalSize{a}Unit", "µm")) for a, size in sizes.items()
    )


def _ome_record(root: ElementTree.Element) -> dict[str, Any] | None:
    for annotation in root.iterfind("{*}StructuredAnnotations/{*}CommentAnnotation"):
        if annotation.get("Namespace") == NAMESPACE:
            record = json.loads(annotation.findtext("{*}Value") or "null")
            return record if isinstance(record, dict) else None
    return None


def _imagej_scale(said: dict[str, Any], tags: tifffile.TiffTags) -> tuple[float, float, float] | None:
    """ImageJ's resolution counts pixels per unit; without a unit it states nothing.

    Where the TIFF says that it counts pixels per cm, a unit of um is of the spacing alone, as ImageJ reads it.
    """
    unit = str(said.get("unit", ""))
    per_cm = unit == "um" and "ResolutionUnit" in tags and tags["ResolutionUnit"].value == CENTIMETRE
    sizes = [(said.get("spacing"), str(said.get("zunit", unit)))]
    for tag, key in (("YResolution", "yunit"), ("XResolution", "unit")):
        pixels, per = tags[tag].value if tag in tags else (0, 1)
        sizes.append((per / pixels if pixels else None, "cm" if per_cm else str(said.get(key, unit))))
    return scale_um(sizes)


def _refuse_entities(file: tifffile.TiffFile, name: str) -> None:
    """XML with a document type could define entities that expand without bound."""
    if any(mark in file.pages.first.description for mark in ("<!DOCTYPE", "<!ENTITY")):
        raise InvalidInput(f"{name} has a description with a document type definition, which is not read")


_listening = threading.local()
"""What each thread hears meanwhile: another may be reading a file of its own."""


@contextmanager
def _overheard() -> Generator[list[str]]:
    """What tifffile logs meanwhile, instead of on the terminal: it fills missing images with zeros and only says so."""
    tifffile.logger().addFilter(_told)  # once: the same one is not added again
    before = getattr(_listening, "lists", [])
    lines: list[str] = []
    _listening.lists = [*before, lines]
    try:
        yield lines
    finally:
        _listening.lists = before


def _told(record: logging.LogRecord) -> bool:
    """Whether a record is for others: all who listen in this thread hear it."""
    lists = getattr(_listening, "lists", [])
    for lines in lists:
        lines.append(record.getMessage())
    return not lists
