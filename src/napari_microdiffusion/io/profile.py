"""Measured beam profiles from text files."""

from __future__ import annotations

import re
from pathlib import Path

from ..events import InvalidInput

LONGEST = 1000  # weights: the largest number of slices that a projection may stand for
LARGEST = 2**17
"""Bytes that so many weights never need: a larger file is something else."""


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
        with path.open("rb") as file:
            read = file.read(LARGEST + 1)
        text = read.decode("utf-8-sig")
    except OSError as error:
        raise InvalidInput(f"the profile {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"the profile {path.name} is not a text file with one weight per slice") from error
    if len(read) > LARGEST:
        raise InvalidInput(f"the profile {path.name} is too long for a text file with one weight per slice")
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    rows = [re.findall(r"[^\s,;]+", line) for line in lines]
    _refuse_columns([line for line, row in zip(lines, rows, strict=True) if row], rows, path.name)
    weights = [_number(word, path, number) for number, row in enumerate(rows, 1) for word in row]
    if not 1 <= len(weights) <= LONGEST:
        raise InvalidInput(f"the profile {path.name} holds {len(weights)} weights; 1 to {LONGEST} are needed")
    return tuple(weights)


def _refuse_columns(lines: list[str], rows: list[list[str]], name: str) -> None:
    """Positions beside weights, and decimal commas, would be taken for weights."""
    several = next((line for line, row in zip(lines, filter(None, rows), strict=True) if len(row) > 1), "")
    commas = re.search(r"\d,\d", several) and re.search(r"\d[\s;]+[-+.\d]", several)
    if several and (len(lines) > 1 or commas):
        raise InvalidInput(
            f"the profile {name} holds several numbers in a line ({several[:40]}): write one weight in each line, "
            "with a decimal point and no comma, and leave positions out"
        )


def _number(word: str, path: Path, line: int) -> float:
    try:
        return float(word)
    except ValueError as error:
        raise InvalidInput(
            f"the profile {path.name} holds {word[:40]!r} in line {line}; it must hold numbers only, one per slice"
        ) from error
