"""Which arrays are stacks of grey images that anything can be learned of, and what is known of their pixels."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .acquisition import MINIMUM_PROJECTIONS
from .events import InvalidInput

MINIMUM_LATERAL = 32
"""Pixels that images are wide and high at least."""

FEWEST_LEVELS = 1000
"""That results must be able to tell apart over the range of what was measured."""

_WIDER = {"float16": "float32", "int64": "float64", "uint64": "float64"}
"""Types that OME knows no name for, and what holds their values."""


def span(data: NDArray[Any]) -> float:
    """From the darkest to the brightest of all intensities, also of integers that would wrap around."""
    return float(data.max()) - float(data.min())


def otsu(image: NDArray[np.floating[Any]]) -> float:
    """Otsu's threshold of an image or a volume, (...); the highest value where all is the same."""
    from skimage.filters import threshold_otsu

    if not image.max() > image.min():  # constant, or not a number
        return float(image.max())
    return float(threshold_otsu(image))


def check_image(data: NDArray[Any], name: str) -> None:
    """Refuse arrays that are not a stack of grey images.

    Raises
    ------
    InvalidInput
        For another number of axes than three, a colour image, an empty array, complex, boolean or non-numeric data.
    """
    if data.ndim == 2:
        raise InvalidInput(
            f"{name} is a single image; a stack of at least {MINIMUM_PROJECTIONS} images (z, y, x) is needed"
        )
    if data.ndim != 3:
        raise InvalidInput(
            f"{name} has {data.ndim} axes {data.shape}; a stack (z, y, x) is needed: "
            "choose one channel and one time point"
        )
    if data.shape[2] in (3, 4) and min(data.shape[:2]) >= MINIMUM_LATERAL:
        raise InvalidInput(
            f"{name} looks like one colour image {data.shape}; a stack of grey images (z, y, x) is needed: "
            "choose one channel of a stack"
        )
    if data.dtype.kind not in "uif":
        kind = {"c": "complex", "b": "boolean (a mask)"}.get(data.dtype.kind, str(data.dtype))
        raise InvalidInput(f"{name} holds {kind} data; intensities as integers or real numbers are needed")
    if data.size == 0:
        raise InvalidInput(f"{name} is empty {data.shape}")


def check_lateral(shape: tuple[int, ...], name: str) -> None:
    """Refuse a stack (z, y, x) of images that are too small to learn from.

    Raises
    ------
    InvalidInput
        Below 32 x 32 pixels.
    """
    z, y, x = shape
    if min(y, x) < MINIMUM_LATERAL:
        turned = x < MINIMUM_LATERAL <= min(z, y)
        raise InvalidInput(
            f"{name} is {y} x {x} pixels; at least {MINIMUM_LATERAL} x {MINIMUM_LATERAL} are needed: "
            f"use a larger field of view{'; if z is its last axis, bring it to the front' if turned else ''}"
        )


def check_values(data: NDArray[Any], name: str) -> None:
    """Refuse intensities of which nothing can be learned.

    Raises
    ------
    InvalidInput
        For NaN or infinite values, and where all are the same.
    """
    if not np.isfinite(data).all():
        bad = int((~np.isfinite(data)).sum())
        raise InvalidInput(
            f"{name} holds {bad} NaN or infinite value(s): replace them (by the background, say) and try again"
        )
    if data.min() == data.max():
        raise InvalidInput(
            f"{name} is constant ({data.flat[0]:g} everywhere): there is nothing in it; check the channel and the file"
        )


def check_levels(data: NDArray[Any], name: str) -> None:
    """Refuse intensities on so large an offset that results, which are float32, have no room for what differs.

    Raises
    ------
    InvalidInput
        Saying what to do.
    """
    least, most = float(data.min()), float(data.max())
    if (most - least) < FEWEST_LEVELS * max(abs(least), abs(most)) * float(np.finfo(np.float32).eps):
        raise InvalidInput(
            f"{name} holds values from {least:.8g} to {most:.8g}: on so large an offset results (32 bit numbers) tell "
            f"fewer than {FEWEST_LEVELS} grey levels apart; subtract it first"
        )


def storable(data: NDArray[Any]) -> NDArray[Any]:
    """The array in native byte order, contiguous, and in a type that files have a name for."""
    name = data.dtype.name
    return np.ascontiguousarray(data, dtype=np.dtype(_WIDER.get(name, name)))


def pixels_sha256(data: NDArray[Any]) -> str:
    """SHA-256 of the pixels in C order as a file keeps them, however they lie in memory."""
    return sha256(storable(data).data).hexdigest()
