"""Numbers of projections as people write and read them: counted from 1."""

from __future__ import annotations

from collections.abc import Iterable

from .events import InvalidInput

HIGHEST = 100_000
"""Number that a projection may have: a slip of the keyboard must not take the memory."""


def numbered(text: str) -> tuple[int, ...]:
    """Indices of projections from their numbers: ``3, 7-9``.

    Raises
    ------
    InvalidInput
        Saying how to write them.
    """
    found: set[int] = set()
    for part in text.replace(",", " ").split():
        first, several, last = part.partition("-")
        last = last if several else first
        if not (first.isdecimal() and last.isdecimal() and 0 < int(first) <= int(last) <= HIGHEST):
            raise InvalidInput(
                f"{part!r} names no projections: write their numbers, counted from 1, such as 3 or 3, 7-9"
            )
        found |= set(range(int(first) - 1, int(last)))
    return tuple(sorted(found))


def numbers_of(indices: Iterable[int]) -> str:
    """The numbers of projections, ``3, 7``, from their indices."""
    return ", ".join(str(index + 1) for index in indices)
