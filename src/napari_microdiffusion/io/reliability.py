"""The reliability of a volume: a second file beside the volume's own, three channels in float32.

Both files of a pair bear the same random mark, so that a volume never takes up the reliability of another one that
happens to lie beside it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..events import InvalidInput, TooLarge
from ..reliability import Reliability
from .opening import open_source
from .source import Source
from .target import beside

CHANNELS = ("standard deviation", "lower 5 %", "upper 95 %")
KIND = "reliability"


def channels(reliability: Reliability) -> dict[str, NDArray[np.float32]]:
    """The three arrays (z, y, x) by the names they have in files."""
    arrays = (reliability.std, reliability.lower, reliability.upper)
    return {name: np.ascontiguousarray(data, np.float32) for name, data in zip(CHANNELS, arrays, strict=True)}


def reliability_of(volume: Source, path: Path) -> Reliability | None:
    """What was saved with the volume at ``path``, float32; None where it is not beside it.

    Only the name that follows from the volume's own is looked for, and only a file with the same mark is taken.

    Raises
    ------
    InvalidInput, TooLarge
        If it cannot be read.
    """
    try:
        if not _belongs(volume, beside(path)):
            return None
        with open_source(beside(path)) as source:
            if source.sizes.get("C") != len(CHANNELS):
                raise InvalidInput(f"{source.name} is damaged: it lacks some of {', '.join(CHANNELS)}")
            source.check_memory(tuple(n for a, n in source.sizes.items() if a != "C"), beside=len(CHANNELS) - 1)
            arrays = [source.stack(index, None).astype(np.float32, copy=False) for index in range(len(CHANNELS))]
    except (InvalidInput, TooLarge) as error:
        raise type(error)(f"{error}; or move it away to read {path.name} alone") from error
    return Reliability(*arrays)


def left_over(path: Path) -> Path | None:
    """The reliability file of the volume that is at ``path`` now, which would be stale beside another volume."""
    try:
        with open_source(path) as volume:
            return beside(path) if _belongs(volume, beside(path)) else None
    except InvalidInput:  # not there, or damaged: nothing is known to belong to it
        return None


def check_replaceable(path: Path) -> None:
    """Refuse to put a reliability in the place of something else, which nobody has agreed to lose.

    Raises
    ------
    InvalidInput
        If there is something at ``path`` that is no reliability file.
    """
    if not path.exists():
        return
    try:
        with open_source(path) as source:
            known = source.record.get("kind") == KIND
    except InvalidInput:
        known = False
    if not known:
        raise InvalidInput(
            f"{path} exists already and is no reliability file of this software: choose another name for the volume"
        )


def _belongs(volume: Source, path: Path) -> bool:
    if not volume.pair or not path.exists():
        return False
    with open_source(path) as source:
        return source.record.get("kind") == KIND and source.pair == volume.pair
