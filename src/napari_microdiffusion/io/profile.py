"""Measured beam profiles from text files."""

from __future__ import annotations

import re
from pathlib import Path

from ..events import InvalidInput

LONGEST = 1000  # weights: the largest number of slices that a projection may stand for


def read_profile(path: str | Path) -> tuple[float, ...]:
    """Axial weights of the beam, one per slice from the top, as measured; `Acquisition` scales them to sum 1.

    Parameters
    ----------
    path
        Text: numbers separated by line breaks, commas, semicolons or blanks; ``#`` starts a comment.

    Raises
    ------
    InvalidInput
        If the file cannot be read, or holds something else, no number or too many.
    """
    path = Path(path)
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise InvalidInput(f"the profile {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"the profile {path.name} is not a text file with one weight per slice") from error
    weights: list[float] = []
    for number, line in enumerate(text.splitlines(), 1):
        for word in re.split(r"[\s,;]+", line.partition("#")[0].strip()):
            if word:
                weights.append(_number(word, path, number))
    if not 1 <= len(weights) <= LONGEST:
        raise InvalidInput(f"the profile {path.name} holds {len(weights)} weights; 1 to {LONGEST} are needed")
    return tuple(weights)


def _number(word: str, path: Path, line: int) -> float:
    try:
        return float(word)
    except ValueError as error:
        raise InvalidInput(
            f"the profile {path.name} holds {word[:40]!r} in line {line}; it must hold numbers only, one per slice"
        ) from error
