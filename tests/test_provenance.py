"""What a record says, and that one which says nothing is no error."""

from __future__ import annotations

from typing import Any

import pytest

from napari_microdiffusion.provenance import found_in, was_denoised, was_reconstructed


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
