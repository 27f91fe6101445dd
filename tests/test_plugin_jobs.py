"""Jobs in the window: saved, and taken over again; needs a display."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.io import write_projections, write_volume
from napari_microdiffusion.plugin import jobs
from napari_microdiffusion.plugin.known import facts
from napari_microdiffusion.presets import spec
from napari_microdiffusion.run import Job, reconstruct
from napari_microdiffusion.volume import ProjectionStack

pytestmark = pytest.mark.skipif(
    sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")),
    reason="needs a display",
)

Open = Callable[..., tuple[Any, Any]]
STATED = Acquisition(slices=3, stride=4, profile="gaussian", fwhm=2)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A file of five projections that says nothing of its beam or its voxels."""
    path = tmp_path / "images.npy"
    np.save(path, np.random.default_rng(0).random((5, 32, 32), np.float32))
    return path


def written(folder: Path, **values: Any) -> Path:
    """A job file in a folder of its own, which its paths are relative to."""
    path = folder / "jobs" / "a.job.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"method": {"kind": "conservative"}} | values))
    return path


def loaded(qtbot: Any, widget: Any, path: Path) -> None:
    with qtbot.waitSignal(widget._jobs.wanted, timeout=10_000):
        widget._jobs.read(path)


def test_a_saved_job_leaves_out_what_was_left_out(opened: Open, qtbot: Any, tmp_path: Path) -> None:
    from napari_microdiffusion.cli.jobs import Options, prepare

    viewer, widget = opened()
    widget.setValue(widget.value().replace(leave_out="2"))
    path = tmp_path / "a.job.json"
    widget._jobs.write(widget.value(), widget.data.source(), path)
    qtbot.waitUntil(path.exists, timeout=10_000)
    stack = prepare(Options(job=path, output=tmp_path / "v.ome.tif")).stack
    assert stack.acquisition.hidden == (1,)
    np.testing.assert_array_equal(stack.data, np.delete(viewer.layers["vessels projections"].data, 1, 0))


def test_what_was_saved_is_taken_over_again(opened: Open, qtbot: Any, tmp_path: Path) -> None:
    """By a panel that has something else chosen; its image is opened from beside the job."""
    viewer, widget = opened()
    learned = {"method": "inr", "preset": "paper", "overrides": {"width": 96}, "seed": 5}
    setup = widget.value().replace(**learned, denoise=True, leave_out="2")
    path = tmp_path / "a.job.json"
    widget._jobs.write(setup, widget.data.source(), path)
    qtbot.waitUntil(path.exists, timeout=10_000)
    loaded(qtbot, widget, path)
    there = widget.value()
    assert there == setup.replace(source=there.source, truth="")
    assert facts(viewer.layers[there.source])["path"] == str(tmp_path / "a.projections.ome.tif")
    assert widget.problem() == ""


@pytest.mark.parametrize("open_already", [True, False])
def test_a_job_brings_its_image(open_already, opened: Open, qtbot: Any, images: Path, tmp_path: Path) -> None:
    viewer, widget = opened()
    if open_already:
        with qtbot.waitSignal(viewer.layers.events.inserted, timeout=10_000):
            widget.open(images)
        widget.data.choose("vessels projections")
    before = len(viewer.layers)
    path = written(
        tmp_path, projections="../images.npy", acquisition=STATED.model_dump(mode="json"), scale_um=(2, 0.5, 0.5)
    )
    loaded(qtbot, widget, path)
    setup = widget.value()
    assert (setup.source, setup.truth, setup.simulate) == ("images", "", False)
    assert (setup.acquisition, setup.scale_um) == (STATED, (2, 0.5, 0.5))
    assert len(viewer.layers) == before + (not open_already)


def test_a_beam_that_a_job_leaves_open_is_its_images_own(opened: Open, qtbot: Any, tmp_path: Path) -> None:
    write_projections(ProjectionStack(np.ones((5, 32, 32), np.float32), STATED, (8, 0.5, 0.5)), tmp_path / "p.ome.tif")
    _, widget = opened()
    loaded(qtbot, widget, written(tmp_path, projections="../p.ome.tif", seed=3))
    setup = widget.value()
    assert (setup.source, setup.acquisition, setup.seed) == ("p", STATED, 3)
    assert setup.scale_um == pytest.approx((2, 0.5, 0.5))


def test_without_its_image_a_job_is_for_the_chosen_one(
    opened: Open, qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(jobs, "show_info", told.append)
    _, widget = opened()
    before = widget.value()
    loaded(qtbot, widget, written(tmp_path, projections="../gone.tif", method={"kind": "linear"}))
    assert widget.value() == before.replace(method="linear", overrides=widget.value().overrides)
    assert told == [
        f"{tmp_path / 'gone.tif'} is not there: the job's settings are taken over for the image that is chosen"
    ]


def test_a_volume_brings_the_job_it_was_made_by(opened: Open, qtbot: Any, tmp_path: Path) -> None:
    stack = ProjectionStack(np.random.default_rng(0).random((5, 32, 32), np.float32), STATED)
    method = spec("linear", "preview", {"consistency": "final"})
    write_volume(reconstruct(stack, method, seed=8), tmp_path / "v.ome.tif")
    _, widget = opened()
    loaded(qtbot, widget, tmp_path / "v.ome.tif")
    setup = widget.value()
    assert (setup.spec(), setup.acquisition, setup.seed) == (method, STATED, 8)
    assert setup.source == "vessels projections"


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"method": {"kind": "of tomorrow"}}, "of tomorrow"),
        ({"weights": "gone.safetensors"}, "gone.safetensors, which is not there: put it back, or edit the job"),
        ({"seed": 2**40}, "seed"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_job_that_cannot_be_taken_over_is_told(
    values: dict[str, Any], told: str, opened: Open, qtbot: Any, notices: list[str], tmp_path: Path
) -> None:
    _, widget = opened()
    before = widget.value()
    widget._jobs.read(written(tmp_path, **values))
    qtbot.waitUntil(lambda: bool(notices), timeout=10_000)
    assert told in notices[0]
    assert widget.value() == before


def test_the_button_asks_which(opened: Open, qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from qtpy.QtWidgets import QFileDialog

    path = written(tmp_path, seed=6)
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (str(path), ""))
    _, widget = opened()
    with qtbot.waitSignal(widget._jobs.wanted, timeout=10_000):
        widget.run_box._load_button.click()
    assert widget.value().seed == 6
    assert Job.model_validate(json.loads(path.read_text())).seed == 6
