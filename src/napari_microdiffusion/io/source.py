"""An opened file whose pixels are not loaded yet: axes, scale, what it says about itself, and how to load a part."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from ..acquisition import Acquisition
from ..events import InvalidInput, TooLarge
from ..provenance import check_no_map, was_reconstructed

Index = tuple[int | slice, ...]
NAMESPACE = "napari-microdiffusion"
"""Of the OME-TIFF annotation; with an underscore, the name of the OME-Zarr attribute."""

PLACES = {"channel": "channels", "time": "time points"}
"""What one chooses from, by what it is called."""

COPIES = 2
"""Of the pixels, alive while a file is read: as stored, and in (z, y, x) order."""


@dataclass(frozen=True)
class FileInfo:
    """What a file holds.

    Parameters
    ----------
    shape, axes
        Axes longer than 1 in the file's order, with a letter each: T, C, Z, Y, X, S (colour samples), or another.
    channels, times
        How many there are to choose from; 1 where there is no such axis.
    scale_um
        Voxel size (z, y, x) in µm, None unless the file states all three.
    acquisition
        How the projections were made, for projection files that say so.
    provenance
        How the volume was made, for volumes saved by this software.
    channel_names
        As far as the file says them: one for each channel, or none.
    unusable
        What is wrong with the acquisition that it carries, where that cannot be used; else empty.
    pair
        The mark that it shares with its reliability, where one was saved and something still lies there; else empty.
    saved_as
        ``volume`` or ``projections`` where this software saved it: the first also where it was not told what a stack
        is. Else what the file says, or nothing.
    """

    name: str
    shape: tuple[int, ...]
    axes: str
    channels: int
    times: int
    scale_um: tuple[float, float, float] | None
    dtype: str
    acquisition: Acquisition | None = None
    provenance: dict[str, Any] | None = field(default=None, repr=False)
    channel_names: tuple[str, ...] = ()
    unusable: str = ""
    pair: str = ""
    saved_as: str = ""

    @property
    def images(self) -> int:
        """How many there are of one channel and time point."""
        return math.prod(size for axis, size in zip(self.axes, self.shape, strict=True) if axis not in "TCYX")

    def check_acquisition(self) -> None:
        """Refuse a file that carries an acquisition which cannot be used.

        Raises
        ------
        InvalidInput
            Saying what is wrong with it.
        """
        if self.unusable:
            raise InvalidInput(self.unusable)

    def check_projections(self, file: str, channel: int | None = None, time: int | None = None) -> None:
        """Refuse a ``file``, by its name, that holds no projections, or not that channel or time point.

        Raises
        ------
        InvalidInput
            Saying what it is, or how many it has.
        """
        check_no_map(self.provenance, file)
        if was_reconstructed(self.provenance):
            raise InvalidInput(f"{file} is a reconstructed volume: give the projections that it was made from")
        check_there(file, "channel", channel, self.channels)
        check_there(file, "time", time, self.times)

    def check_volume(self, file: str, because: str) -> None:
        """Refuse a ``file``, by its name, that holds projections or a map where a fully sampled volume is wanted.

        Raises
        ------
        InvalidInput
            Ending with the reason for it.
        """
        self.check_acquisition()
        check_no_map(self.provenance, file)
        if self.acquisition is not None:
            raise InvalidInput(f"{file} holds projections: {because}")


def check_there(file: str, word: str, index: int | None, size: int) -> None:
    """Refuse, with `InvalidInput`, a channel or time beyond those that a file has; None is none in particular."""
    if index is not None and not 0 <= index < size:
        many = f"{size} {PLACES[word]}, counted from 0" if size > 1 else f"but one {PLACES[word][:-1]}"
        raise InvalidInput(f"{file} has no {word} {index}: it has {many}")


@dataclass(frozen=True)
class Source:
    """An opened file.

    Parameters
    ----------
    axes
        One letter for each axis of ``shape``, in the file's order; Y and X among them.
    load
        Reads a part: an index or a full slice for every axis.
    metadata
        The record that this software left in the file.
    channel_names
        As the file says them; empty where it does not.
    piece
        Pixels of the smallest part that is read at once, a chunk or a tile, however little of it is wanted.
    """

    name: str
    shape: tuple[int, ...]
    axes: str
    dtype: np.dtype[Any]
    load: Callable[[Index], NDArray[Any]] = field(repr=False)
    scale_um: tuple[float, float, float] | None = None
    metadata: dict[str, Any] | None = field(default=None, repr=False)
    channel_names: tuple[str, ...] = ()
    piece: int = 0

    @property
    def record(self) -> dict[str, Any]:
        """What the metadata say of the export; empty where they say nothing."""
        record = (self.metadata or {}).get("export")
        return record if isinstance(record, dict) else {}

    @property
    def pair(self) -> str:
        """The mark that a volume and its reliability share; empty where there is none."""
        return str(self.record.get("pair") or "")

    @property
    def source_dtype(self) -> str:
        """The dtype of the data that the file's were made from; its own where it does not say, or says no dtype."""
        try:
            stated = np.dtype(self.record.get("source_dtype") or self.dtype)
        except (TypeError, ValueError, SyntaxError):  # the record is the file's: it may say anything
            stated = self.dtype
        return (stated if stated.kind in "biuf" else self.dtype).name

    @property
    def sizes(self) -> dict[str, int]:
        """Axes longer than 1, and Y and X, with their lengths, in the file's order."""
        return {a: n for a, n in zip(self.axes, self.shape, strict=True) if n > 1 or a in "YX"}

    def stack(self, channel: int | None, time: int | None) -> NDArray[Any]:
        """The pixels of one channel and time point, contiguous (z, y, x); (y, x) where there is no third axis.

        Raises
        ------
        InvalidInput
            If there is something left to choose, the choice is not there, or the pixels are coloured.
        TooLarge
            If the pixels do not fit into the free memory.
        """
        self._check_axes()
        chosen = {"C": self._choose("C", "channel", channel), "T": self._choose("T", "time", time)}
        sizes = {a: n for a, n in self.sizes.items() if a not in "CT"}
        if len(sizes) > 3:
            raise InvalidInput(
                f"{self.name} has the axes {', '.join(f'{a} ({n})' for a, n in sizes.items())}: "
                "save one stack (z, y, x) of it and try again"
            )
        self.check_memory(tuple(sizes.values()))
        data = self.load(tuple(slice(None) if a in sizes else chosen.get(a, 0) for a in self.axes))
        order = sorted(range(len(sizes)), key=lambda i: "YX".find(list(sizes)[i]))
        return np.ascontiguousarray(data.transpose(order), dtype=data.dtype.newbyteorder("="))

    def _check_axes(self) -> None:
        if "S" in self.sizes:
            raise InvalidInput(
                f"{self.name} holds colour images ({self.sizes['S']} samples a pixel): "
                "convert it to grey values, or save one colour as a stack of its own"
            )
        if len(set(self.axes)) != len(self.axes) or not {"Y", "X"} <= set(self.axes):
            raise InvalidInput(f"{self.name} has the axes {self.axes}, which do not make a stack (z, y, x)")

    def _choose(self, letter: str, word: str, index: int | None) -> int:
        size = self.sizes.get(letter, 1)
        what = PLACES[word]
        if index is None and size == 1:
            return 0
        if index is None and not set(self.sizes) - set("CTYX"):
            raise InvalidInput(
                f"{self.name} has {size} {what} and no z axis: if they are the slices of a stack, "
                "say so in the file (in Fiji: Image > Properties) and try again"
            )
        if index is None:
            raise InvalidInput(f"{self.name} has {size} {what}: choose one, --{word} 0 to {size - 1}")
        check_there(self.name, word, index, size)
        return index

    def check_memory(self, shape: tuple[int, ...], beside: int = 0) -> None:
        """Refuse to read so many of its pixels, ``beside`` others of that shape, where there is no room for them.

        Raises
        ------
        TooLarge
            Saying how much is needed.
        """
        wanted = int(np.prod(shape, dtype=object))
        needed = (COPIES * max(wanted, self.piece) + beside * wanted) * self.dtype.itemsize
        free = psutil.virtual_memory().available
        if needed > free:
            raise TooLarge(
                f"{self.name} needs {needed / 1e9:.1f} GB of memory to be read, and {free / 1e9:.1f} GB are free: "
                "crop it, or close other programs"
            )
