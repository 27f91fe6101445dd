"""Numbers of projections, to and from what people write."""

from __future__ import annotations

import pytest

from napari_microdiffusion.events import InvalidInput
from napari_microdiffusion.numbering import numbered, numbers_of


@pytest.mark.parametrize(
    ("text", "indices"),
    [("", ()), ("3", (2,)), ("3, 7-9", (2, 6, 7, 8)), ("7-9 3,3", (2, 6, 7, 8)), (" 1 ", (0,)), ("4-4", (3,))],
)
def test_numbers_are_counted_from_1(text: str, indices: tuple[int, ...]) -> None:
    assert numbered(text) == indices
    assert numbered(numbers_of(indices)) == indices


@pytest.mark.parametrize("text", ["0", "x", "3-", "-3", "9-7", "1.5", "1--2", "²", "1-99999999999"])
def test_what_names_no_projections(text: str) -> None:
    with pytest.raises(InvalidInput, match="names no projections: write their numbers, counted from 1"):
        numbered(f"2, {text}")
