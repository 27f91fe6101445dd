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
import tifffile

from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.io import write_projections, write_volume
from napari_microdiffusion.methods import Cubic
from napari_microdiffusion.plugin import jobs
from napari_microdiffusion.plugin.known import facts
from napari_microdiffusion.plugin.layers import projections_layer
from napari_microdiffusion.presets import spec
from napari_microdiffusion.run import reconstruct
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


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is said of jobs that are taken over."""
    found: list[str] = []
    monkeypatch.setattr(jobs, "show_info", found.append)
    return found


def written(folder: Path, **values: Any) -> Path:
    """A job file in a folder of its own, which its paths are relative to."""
    path = folder / "jobs" / "a.job.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"method": {"kind": "conservative"}} | values))
    return path


def loaded(qtbot: Any, widget: Any, path: Path) -> None:
    with qtbot.waitSignal(widget._jobs.wanted, timeout=10_000):
        widget._jobs.take_over(path)


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
    stated = {"acquisition": STATED.model_dump(mode="json"), "scale_um": (2, 0.5, 0.5)}
    loaded(qtbot, widget, written(tmp_path, projections="../images.npy", device="cuda", **stated))
    setup = widget.value()
    assert (setup.source, setup.truth, setup.simulate, setup.device) == ("images", "", False, "cuda")
    assert (setup.acquisition, setup.scale_um) == (STATED, (2, 0.5, 0.5))
    assert len(viewer.layers) == before + (not open_already)


@pytest.mark.parametrize("chosen", [{"channel": 1, "time": 2}, {"channel": 0, "time": 0}], ids=str)
def test_a_job_brings_its_channel_and_time_point(
    chosen: dict[str, int], opened: Open, qtbot: Any, tmp_path: Path
) -> None:
    """Each channel is a layer of its own."""
    movie = np.random.default_rng(0).random((3, 5, 2, 32, 32), np.float32)
    tifffile.imwrite(tmp_path / "m.ome.tif", movie, metadata={"axes": "TZCYX"})
    viewer, widget = opened()
    loaded(qtbot, widget, written(tmp_path, projections="../m.ome.tif", **chosen))
    layer = viewer.layers[widget.value().source]
    np.testing.assert_array_equal(layer.data[widget.value().time], movie[chosen["time"], :, chosen["channel"]])
    assert widget.value().time == chosen["time"]


@pytest.mark.parametrize("edited", [False, True])
@pytest.mark.parametrize("beam", [None, {"slices": 3, "stride": 2}])
def test_what_a_job_leaves_open_is_its_images_own(
    beam: dict[str, int] | None, edited: bool, opened: Open, qtbot: Any, tmp_path: Path
) -> None:
    """Its beam, and its voxel size, whose depth hangs on the beam; whatever was typed for it before."""
    write_projections(ProjectionStack(np.ones((5, 32, 32), np.float32), STATED, (8, 0.5, 0.5)), tmp_path / "p.ome.tif")
    job = written(tmp_path, projections="../p.ome.tif", seed=3, **({} if beam is None else {"acquisition": beam}))
    _, widget = opened()
    loaded(qtbot, widget, job)
    if edited:
        widget.data.beam.slices.setValue(9)
        widget.setValue(widget.value().replace(leave_out="2", scale_um=(7, 1, 1)))
        loaded(qtbot, widget, job)
    setup, wanted = widget.value(), STATED if beam is None else Acquisition(**beam)
    assert (setup.source, setup.acquisition, setup.seed, setup.leave_out) == ("p", wanted, 3, "")
    assert setup.scale_um == pytest.approx((8 / wanted.step, 0.5, 0.5))


@pytest.mark.parametrize(
    ("values", "said"),
    [({"projections": "../gone.tif"}, "gone.tif is not there: only"), ({}, "does not say which images it is for")],
)
def test_without_its_image_a_job_is_for_the_chosen_one(
    values: dict[str, Any], said: str, opened: Open, qtbot: Any, tmp_path: Path, told: list[str]
) -> None:
    _, widget = opened()
    before = widget.value()
    beam = {"slices": 6, "count": 6, "hidden": [4]}
    loaded(qtbot, widget, written(tmp_path, method={"kind": "cubic"}, acquisition=beam, **values))
    setup = widget.value()
    assert (setup.spec(), setup.source) == (Cubic(), before.source)
    assert (setup.leave_out, setup.scale_um) == ("", before.scale_um)
    [message] = told
    assert said in message


def test_a_job_brings_its_network(opened: Open, qtbot: Any, tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    network = tmp_path / "jobs" / "n.safetensors"
    network.touch()
    _, widget = opened()
    loaded(qtbot, widget, written(tmp_path, method={"kind": "inr", "steps": 6}, weights="n.safetensors"))
    assert widget.value().weights == network


def test_a_precision_is_not_taken_over_in_silence(opened: Open, qtbot: Any, tmp_path: Path, told: list[str]) -> None:
    _, widget = opened()
    loaded(qtbot, widget, written(tmp_path, precision="float32"))
    assert "asks to calculate in float32, which cannot be chosen here" in told[-1]


def test_what_nothing_says_of_the_images_is_told(opened: Open, qtbot: Any, tmp_path: Path, told: list[str]) -> None:
    movie = np.random.default_rng(0).random((3, 5, 2, 32, 32), np.float32)
    tifffile.imwrite(tmp_path / "m.ome.tif", movie, metadata={"axes": "TZCYX"})
    _, widget = opened()
    widget.data.beam.slices.setValue(4)
    loaded(qtbot, widget, written(tmp_path, projections="../m.ome.tif"))
    assert [each.split(":")[0] for each in told] == [
        "neither the job nor m.ome.tif says how the projections were made",
        "m.ome.tif has 2 channels, and the job names none",
        "m.ome.tif has 3 time points, and the job names none",
    ]
    setup = widget.value()
    assert (setup.acquisition.slices, setup.channel, setup.time) == (4, None, 0)


@pytest.mark.parametrize("typed", [None, (7.0, 1.0, 1.0)])
def test_settings_of_a_result_are_taken_over_for_another_image(
    typed: tuple[float, float, float] | None, opened: Open, qtbot: Any, images: Path
) -> None:
    """The depth of its voxels follows the beam, unless people have typed it."""
    from napari.layers import Layer

    viewer, widget = opened(method="linear", seed=4)
    with qtbot.waitSignal(widget.finished, timeout=60_000):
        widget.run()
    stack = ProjectionStack(np.load(images), STATED, (8, 0.5, 0.5), "other")
    layer = viewer.add_layer(Layer.create(*projections_layer(stack)))
    assert layer.name_overlay.visible  # as of those beside it
    assert (widget.value().source, widget.value().scale_um) == ("other", (2, 0.5, 0.5))
    widget.setValue(widget.value().replace(method="cubic", seed=1, scale_um=typed or (2, 0.5, 0.5)))
    widget.result.reuse.emit()
    setup = widget.value()
    assert (setup.source, setup.method, setup.seed, setup.acquisition.slices) == ("other", "linear", 4, 6)
    assert setup.scale_um == pytest.approx(typed or (8 / 6, 0.5, 0.5))


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
        ({"weights": "gone.safetensors"}, "gone.safetensors, which is not there: put it back first"),
        ({"seed": 2**40}, "a.job.json holds no job for this window: seed"),
        ({"surprise": 1}, "surprise"),
        ({"projections": "../images.npy", "channel": 7}, "images.npy has no channel 7: it has but one channel"),
        ({"projections": "../images.npy", "time": 1}, "images.npy has no time 1: it has but one time point"),
        (
            {"projections": "../images.npy", "acquisition": {"slices": 6, "count": 6, "hidden": [1]}},
            "has 5 images, and",
        ),
        ({"projections": "../v.ome.tif"}, "v.ome.tif is a reconstructed volume: give the projections"),
    ],
)
def test_a_job_that_cannot_be_taken_over_is_told(
    values: dict[str, Any],
    told: str,
    opened: Open,
    qtbot: Any,
    notices: list[str],
    images: Path,
    tmp_path: Path,
) -> None:
    stack = ProjectionStack(np.load(images), STATED)
    write_volume(reconstruct(stack, Cubic()), tmp_path / "v.ome.tif")
    _, widget = opened()
    before = widget.value()
    widget._jobs.take_over(written(tmp_path, **values))
    qtbot.waitUntil(lambda: bool(notices), timeout=10_000)
    assert told in notices[0]
    assert widget.value() == before


def test_the_button_asks_which(opened: Open, qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from qtpy.QtWidgets import QFileDialog

    path = written(tmp_path, seed=6)
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (str(path), ""))
    _, widget = opened()
    with qtbot.waitSignal(widget._jobs.wanted, timeout=10_000):
        widget.run_box.load_button.click()
    assert widget.value().seed == 6
