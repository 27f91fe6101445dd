"""What a method found out by itself, in words and as a curve; needs a display."""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest

from napari_microdiffusion.plugin.found_box import FoundBox, in_words

pytestmark = pytest.mark.skipif(
    sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")),
    reason="needs a display",
)

FOUND = {
    "sigma_slices": 3.75,
    "sigma_curve": [[0.0, 30.0], [3.75, 31.5], [6.0, 31.0]],
    "interpolation_held_out_db": 30.5,
    "voxel_ratio": 2.1,
    "fell_back": False,
}


def record(job: dict[str, Any] | None = None, **found: Any) -> dict[str, Any]:
    """A provenance."""
    return {"found": {**FOUND, **found}, "job": {"method": {"sigma": None, "objective_na": None}, **(job or {})}}


def method(**settings: Any) -> dict[str, Any]:
    return {"method": {"sigma": None, "objective_na": None, **settings}}


# -- in words and as a curve -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("provenance", "dz", "text"),
    [
        (record(), 0.5, "Axial blur 3.8 slices (1.9 µm) beyond the lateral one · voxels 2.1 times as deep as wide"),
        (
            record(),
            None,
            "Axial blur 3.8 slices beyond the lateral one · voxels taken to be 2.1 times as deep as wide",
        ),
        (record(method(ratio=2.1)), None, "· voxels 2.1 times as deep as wide"),
        (record(method(sigma=3.75)), None, "Axial blur 3.8 slices beyond the lateral one, as set ·"),
        (record(method(objective_na=0.8)), None, "beyond the lateral one, from the objective ·"),
        (record({"weights": "w.safetensors"}), None, "lateral one · voxels 2.1"),  # chosen anew on this stack
        (record({"weights": "w.safetensors", **method(fine_tuning=9)}), None, "beyond the lateral one ·"),
        (record(elongation=2.0), None, "as deep as wide · structures 2 times as long along z as across"),
        (
            record(method(elongation=0.71), elongation=0.71),
            None,
            "structures 0.71 times as long along z as across, as set",
        ),
        (record(strength=1.49), None, "as deep as wide · learned detail ×\u00a01.5, as hidden projections ask"),
        (
            record(interval_sigma_slices=1.3, interval_elongation=1.0),
            None,
            "as wide · error bars for a blur of 1.3 slices, as it may be less than was found",
        ),
        (
            record(sigma_slices=0.0, elongation=2.0, interval_sigma_slices=0.0, interval_elongation=1.5),
            None,
            "as across · error bars for structures 1.5 times as long, as they may be shorter than was found",
        ),
        (record(sigma_curve=[], interpolation_held_out_db=None), None, "too few projections to choose it"),
        (
            record(fell_back=True, sigma_curve=[], interpolation_held_out_db=None),
            None,
            "This is plain interpolation: there",
        ),
        (record(strength=None), None, "as deep as wide"),
        (record(fell_back=True, interpolation_held_out_db=33.0), None, "This is plain interpolation: the network pre"),
        (record(fell_back=True, interpolation_held_out_db=33.0), None, "worse (31.50 dB against 33.00 dB)"),
        (record(fell_back=True, interpolation_held_out_db=31.503), None, "no better (31.50 dB against 31.50 dB)"),
    ],
)
def test_what_was_found_in_words(provenance: dict[str, Any], dz: float | None, text: str) -> None:
    said = in_words(provenance, dz)
    assert text in said
    assert ("learned detail" in said) == (provenance["found"].get("strength") is not None)


@pytest.mark.parametrize(("least", "fell_back"), [(None, False), (3.75, False), (1.0, True)])
def test_error_bars_for_what_was_found_are_not_told_of(least: float | None, fell_back: bool) -> None:
    found = record(fell_back=fell_back, interval_sigma_slices=least, interval_elongation=1.0)
    assert "error bars" not in in_words(found, None)


@pytest.mark.parametrize("job", [None, "x", {"method": "x"}, {"method": {"prior": 3}}])
def test_records_of_files_may_say_anything(qtbot: Any, job: Any) -> None:
    box = FoundBox()
    qtbot.addWidget(box)
    box.show_found({**record(), "job": job}, 1.0)
    assert "beyond the lateral one" in box._text.text()
    box.show_found({"job": job, "found": "x"}, 1.0)
    assert box.isHidden()


def test_the_curve_and_what_was_chosen(qtbot: Any) -> None:
    box = FoundBox()
    qtbot.addWidget(box)
    assert box.isHidden()
    for provenance, hidden, curve in (
        (record(), False, True),
        (record(sigma_curve=[[2.0, 30.0]]), False, False),
        (record(sigma_slices=2.0), False, True),  # none of those that were tried
        ({"complete": False}, True, None),
        (record(interpolation_held_out_db=None), False, True),
        (None, True, None),
    ):
        box.show_found(provenance, 1.0)
        assert box.isHidden() == hidden
        assert curve is None or box._plot.isHidden() != curve
    box.show_found(record(), 1.0)
    tried, chosen = (item.getData() for item in box._plot.listDataItems())
    assert [list(axis) for axis in tried] == [[0, 3.75, 6], [30, 31.5, 31]]
    assert [list(axis) for axis in chosen] == [[3.75], [31.5]]
    box.show_found(record(sigma_slices=1.25), 1.0)
    _, between = (item.getData() for item in box._plot.listDataItems())
    assert [list(axis) for axis in between] == [[1.25], [30.5]]
    box.show_found(record(sigma_slices=7.0), 1.0)  # set, and beyond what was tried
    assert len(box._plot.listDataItems()) == 1
