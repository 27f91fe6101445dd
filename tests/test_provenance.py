"""What a record says, and that one which says nothing is no error."""

from __future__ import annotations

from typing import Any

import pytest

from napari_microdiffusion.events import InvalidInput
from napari_microdiffusion.provenance import (
    check_no_map,
    found_in,
    is_map,
    verdict_in,
    was_denoised,
    was_reconstructed,
)


@pytest.mark.parametrize(
    ("record", "reconstructed", "denoised", "found"),
    [
        (None, False, False, {}),
        ({}, False, False, {}),
        ({"seed": 0}, False, False, {}),
        ({"job": {}}, True, False, {}),
        ({"complete": False}, True, False, {}),  # of a run that was left alone
        ({"job": {}, "denoised": True, "found": {"elongation": 2.0}}, True, True, {"elongation": 2.0}),
        ({"job": {}, "denoised": "no"}, True, False, {}),  # files may say anything
    ],
)
def test_records(record: dict[str, Any] | None, reconstructed: bool, denoised: bool, found: dict[str, Any]) -> None:
    assert was_reconstructed(record) is reconstructed
    assert was_denoised(record) is denoised
    assert found_in(record) == found
    assert verdict_in(record) == ""


@pytest.mark.parametrize(
    "found",
    [
        None,
        5,
        [1.0],
        {"sigma_slices": "x"},
        {"sigma_slices": 1.0, "sigma_curve": None},
        {"sigma_slices": 1.0, "sigma_curve": [["a", "b"]]},
        {"sigma_slices": 1.0, "sigma_curve": [[1.0, 2.0, 3.0]]},
        {"sigma_slices": float("nan")},
    ],
)
def test_what_is_no_finding_counts_as_none(found: Any) -> None:
    assert found_in({"found": found}) == {}


@pytest.mark.parametrize(("verdict", "told"), [("Measured: all.", "Measured: all."), (None, ""), (7, ""), (["x"], "")])
def test_a_verdict_is_a_text(verdict: Any, told: str) -> None:
    assert verdict_in({"verdict": verdict}) == told


def test_a_map_is_no_volume() -> None:
    assert not is_map(None)
    assert not is_map({"job": {}})
    check_no_map({"job": {}}, "v")
    with pytest.raises(InvalidInput, match="std says how far a volume can be trusted"):
        check_no_map({"map": "standard deviation"}, "std")
