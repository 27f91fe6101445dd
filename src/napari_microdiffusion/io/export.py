"""Values of an exported volume: as they are, or mapped to 8 or 16 bit with the mapping on record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..events import InvalidInput
from ..images import storable
from ..volume import Intensity, Volume

ExportType = Literal["float32", "uint8", "uint16"]

LEVELS = 100
"""Whole numbers between the darkest and the brightest voxel, with fewer of which rounding would show: few photons."""


@dataclass(frozen=True)
class Exported:
    """A file that was written, how its values were mapped, and its reliability's file; None where there is neither."""

    path: Path
    mapping: str | None = None
    reliability: Path | None = None


@dataclass(frozen=True)
class Converted:
    """Values to be stored, the mapping in words, and the record of it for the file."""

    data: NDArray[Any]
    mapping: str | None
    record: dict[str, Any]


def to_type(volume: Volume, dtype: ExportType | None) -> Converted:
    """The volume's values in another type.

    Nothing is clipped in ``float32``. Integers keep the intensities, rounded, where the data that the volume was made
    from are unsigned integers that fit into the type, and the volume is whole numbers or spans `LEVELS` of them at
    least; values outside the type's range are clipped then, and counted. Otherwise [minimum, maximum] becomes the
    type's full range. In both cases value = offset + gain · stored.

    Raises
    ------
    InvalidInput
        For an unknown type, and for NaN or infinite values in an integer export.
    """
    record: dict[str, Any] = {"source_dtype": volume.source_dtype}
    if dtype is None or dtype == volume.data.dtype:
        return Converted(storable(volume.data), None, record)
    if dtype == "float32":
        return Converted(volume.data.astype(np.float32), None, record)
    if dtype not in ("uint8", "uint16"):
        raise InvalidInput(f"{dtype!r} is no type for export: use float32, uint8 or uint16")
    if not np.isfinite(volume.data).all():
        raise InvalidInput(f"{volume.name} holds NaN or infinite values, which {dtype} cannot: export float32")
    source = np.dtype(volume.source_dtype)
    top = int(np.iinfo(dtype).max)
    low, high = volume.intensity_range
    whole = volume.data.dtype.kind in "ui"
    fits = source.kind == "u" and source.itemsize <= np.dtype(dtype).itemsize
    if fits and (whole or high - low >= LEVELS):
        low, high = 0.0, float(top)
    gain = (high - low) / top or 1.0
    stored, clipped = _quantised(volume.data, low, gain, dtype)
    mapping = _in_words(dtype, low, gain, clipped, stored.size)
    record |= {"mapping": mapping, "offset": low, "gain": gain, "clipped": clipped}
    return Converted(stored, mapping, record)


def original_intensities(stored: NDArray[Any], record: dict[str, Any]) -> NDArray[Any]:
    """Values of an export on the intensity scale they were exported from, float32; as they are if they were kept.

    Parameters
    ----------
    record
        Of the export, as `to_type` makes it.
    """
    if "gain" not in record or (record["offset"], record["gain"]) == (0.0, 1.0):
        return stored
    return Intensity(record["offset"], record["gain"]).restore(stored)


def _quantised(data: NDArray[Any], low: float, gain: float, dtype: str) -> tuple[NDArray[Any], int]:
    """Slice by slice in float64; the second value counts what was clipped."""
    stored = np.empty(data.shape, dtype)
    top, clipped = np.iinfo(dtype).max, 0
    for z, image in enumerate(data):
        levels = np.rint((image.astype(np.float64) - low) / gain)
        clipped += int(((levels < 0) | (levels > top)).sum())
        stored[z] = levels.clip(0, top)
    return stored, clipped


def _in_words(dtype: str, low: float, gain: float, clipped: int, size: int) -> str:
    top = np.iinfo(dtype).max
    if (low, gain) != (0.0, 1.0):
        return (
            f"values from {low:g} to {low + gain * top:g} mapped to 0 to {top}: value = {low:.9g} + {gain:.9g} · stored"
        )
    if clipped:
        return f"intensities kept, rounded to integers; {clipped} of {size} values outside 0 to {top} were clipped"
    return "intensities kept, rounded to integers; nothing was clipped"
