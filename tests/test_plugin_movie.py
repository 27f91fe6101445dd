"""All time points in the window: reconstructed one after the other into files, shown as a movie; needs a display."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.checkpoint import fingerprint
from napari_microdiffusion.events import InvalidInput, RunFailed, exhaust
from napari_microdiffusion.io import read_volume
from napari_microdiffusion.phantoms import phantom
from napari_microdiffusion.plugin import movie_worker
from napari_microdiffusion.plugin.contributions import sample, write_image
from napari_microdiffusion.plugin.files import as_volume
from napari_microdiffusion.plugin.known import facts
from napari_microdiffusion.plugin.movie_worker import Shot, film
from napari_microdiffusion.plugin.trust_box import in_bold
from napari_microdiffusion.presets import spec
from napari_microdiffusion.pretraining import Pretraining, pretrain
from napari_microdiffusion.provenance import verdict_in
from napari_microdiffusion.run import Job, reconstruct
from napari_microdiffusion.trained import load_trained
from napari_microdiffusion.volume import ProjectionStack

pytestmark = pytest.mark.skipif(
    sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")),
    reason="needs a display",
)

TINY = (36, 48, 48)
SMALL = {"steps": 2, "channels": 8, "blocks": 2, "batch": 1}
Open = Callable[..., tuple[Any, Any]]


@pytest.fixture
def stacks() -> list[np.ndarray]:
    """Projections, their mirror image, their negative: (k, y, x)."""
    data = sample("vessels", TINY)[1][0]
    return [data, np.ascontiguousarray(data[:, ::-1]), data.max() - data]


@pytest.fixture
def ready(opened: Open, stacks: list[np.ndarray]) -> Open:
    def make(**setup: Any) -> tuple[Any, Any]:
        attributes = {"name": "mine", "scale": (1, 6, 1, 1), "axis_labels": ("t", "z", "y", "x")}
        layer = (np.stack(stacks), attributes, "image")
        viewer, widget = opened(layers=[layer])
        widget.data.choose("mine")
        widget.setValue(widget.value().replace(**{"acquisition": Acquisition(slices=6), "time": 0, **setup}))
        return viewer, widget

    return make


def before_each(monkeypatch: pytest.MonkeyPatch, act: Callable[[Path], object]) -> None:
    """Let something happen just before each volume is written."""
    write_volume = movie_worker.write_volume

    def write(volume: Any, path: Path, **options: Any) -> Any:
        act(path)
        return write_volume(volume, path, **options)

    monkeypatch.setattr(movie_worker, "write_volume", write)


def heard(widget: Any) -> list[str]:
    """What is told from now on."""
    told: list[str] = []
    widget._filming.noticed.connect(told.append)
    return told


def press(
    qtbot: Any,
    widget: Any,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    agree: bool = True,
    asked: list[str] | None = None,
) -> str:
    """Press the button, and answer its questions, which are kept in ``asked``; how it ends."""
    from qtpy.QtWidgets import QFileDialog, QMessageBox

    button = QMessageBox.StandardButton
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_, **__: (str(path), "OME-TIFF (*.ome.tif)"))
    asked = [] if asked is None else asked

    def answer(_: object, __: str, question: str) -> Any:
        asked.append(question)
        return button.Yes if agree else button.No

    monkeypatch.setattr(QMessageBox, "question", answer)
    widget.run_box.times_button.click()
    if not widget._filming.running:
        return ""
    assert not widget.run_box.run_button.isEnabled()
    assert not widget.run_box.times_button.isEnabled()
    widget.run()
    assert not widget.running
    qtbot.waitUntil(lambda: not widget._filming.running, timeout=60_000)
    return str(widget.message)


def test_offered_where_there_are_several(ready: Open) -> None:
    viewer, widget = ready()
    assert not widget.run_box.times_button.isHidden()
    assert widget.run_box.times_button.text() == "All 3 time points…"
    viewer.add_image(np.ones(TINY), name="one")
    widget.data.choose("one")
    assert widget.run_box.times_button.isHidden()


def test_each_time_point_as_if_it_were_alone(
    ready: Open, stacks: list[np.ndarray], qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer, widget = ready()
    said = press(qtbot, widget, tmp_path / "v", monkeypatch)
    assert said == f"3 volumes in the folder {tmp_path.name}"
    assert viewer.layers["mine"].scale == pytest.approx((1, 6, 1, 1))
    for time, data in enumerate(stacks):
        expected = reconstruct(ProjectionStack(data, Acquisition(slices=6, count=6)), spec("conservative"))
        np.testing.assert_array_equal(read_volume(tmp_path / f"v_t{time}.ome.tif").data, expected.data)
    qtbot.waitUntil(lambda: len(viewer.layers) == 2, timeout=10_000)
    assert viewer.layers[-1].name == "v_t0 to v_t2"
    assert viewer.layers[-1].data.shape == (3, *TINY)
    qtbot.waitUntil(lambda: viewer.layers[-1].name_overlay.visible, timeout=10_000)
    assert viewer.canvas.grid.enabled
    assert widget.results() == [viewer.layers[-1]]
    viewer.layers["mine"].contrast_limits = (0.1, 0.2)
    assert viewer.layers[-1].contrast_limits == [0.1, 0.2]
    widget.run()
    qtbot.waitUntil(lambda: not widget.running, timeout=20_000)
    movie, single = viewer.layers["v_t0 to v_t2"], viewer.layers[-1]  # lie where a single one does
    np.testing.assert_allclose(movie.scale[1:], single.scale)
    np.testing.assert_allclose(movie.translate[1:], single.translate)
    assert movie.units[1:] == single.units
    assert movie.colormap.name == single.colormap.name


def test_one_network_for_all_learned_of_the_chosen_time_point(
    ready: Open, qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer, widget = ready(method="axial", overrides=SMALL, time=1)
    told = heard(widget)
    press(qtbot, widget, tmp_path / "v.ome.tif", monkeypatch)
    network = load_trained(tmp_path / "v_t1_network.safetensors")
    found = [read_volume(tmp_path / f"v_t{time}.ome.tif").provenance or {} for time in range(3)]
    used = [each.get("weights_sha256") for each in found]
    assert used == [fingerprint(network.weights), None, fingerprint(network.weights)]
    assert [each["job"]["weights"] for each in found[::2]] == [str(tmp_path / "v_t1_network.safetensors")] * 2
    assert any("Plain interpolation is given for time points 0, 1:" in text for text in told)  # two steps are too few
    qtbot.waitUntil(lambda: len(viewer.layers) == 2, timeout=10_000)
    assert viewer.layers[-1].name == "v_t0 to v_t2 (interpolation at t 0, 1)"


@pytest.mark.parametrize(("change", "runs"), [({}, 2), ({"seed": 1}, 3), ({"time": 2}, 3), ({"denoise": True}, 3)])
def test_what_a_run_has_just_learned_is_not_learned_again(
    change: dict[str, Any],
    runs: int,
    ready: Open,
    qtbot: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, widget = ready(method="axial", overrides=SMALL, time=1)
    widget.run()
    qtbot.waitUntil(lambda: not widget.running, timeout=60_000)
    single = widget.results()[-1]
    widget.setValue(widget.value().replace(**change))
    begun: list[Job] = []
    run = movie_worker.run
    monkeypatch.setattr(movie_worker, "run", lambda job, *a, **k: begun.append(job) or run(job, *a, **k))
    press(qtbot, widget, tmp_path / "v.ome.tif", monkeypatch)
    assert len(begun) == runs
    network = load_trained(tmp_path / f"v_t{widget.value().time}_network.safetensors")
    learned = single.metadata["napari_microdiffusion"]["ran"].result.weights
    volume = read_volume(tmp_path / "v_t1.ome.tif").data
    assert (fingerprint(network.weights) == fingerprint(learned)) == (runs == 2)
    if runs == 2:
        np.testing.assert_array_equal(volume, single.data)


def test_a_movie_is_a_result_of_the_time_point_that_is_looked_at(
    ready: Open, qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer, widget = ready(method="linear")
    press(qtbot, widget, tmp_path / "v.ome.tif", monkeypatch)
    qtbot.waitUntil(lambda: len(viewer.layers) == 2, timeout=10_000)
    movie, result = viewer.layers[-1], widget.result
    assert (widget.results(), result.current()) == ([movie], movie.name)
    made = facts(movie)["times"]
    assert made == [read_volume(tmp_path / f"v_t{time}.ome.tif").provenance for time in range(3)]
    for time, each in enumerate(made):
        each["verdict"] = f"Measured: {time}."  # they are scaled copies of one another, and their verdicts alike
    for time in (2, 0, 1):
        viewer.dims.set_point(0, movie.scale[0] * time)
        assert result.trust._verdict.text() == in_bold(f"Measured: {time}.")
    assert not any(box.isEnabled() for box in result.trust._maps.values())
    saved = as_volume(movie, {"time": 1})  # as "Save volume…" does now
    np.testing.assert_array_equal(saved.data, movie.data[1])
    assert verdict_in(saved.provenance) == "Measured: 1."
    asked: list[Any] = []
    monkeypatch.setattr(widget._files, "save", lambda *given: asked.append(given))
    result.save.emit()
    assert asked == [(movie, {"time": 1})]
    whole, attributes, _ = movie.as_layer_data_tuple()
    with pytest.raises(InvalidInput, match=r"more than one stack .* single time point of a result"):
        write_image(str(tmp_path / "whole.ome.tif"), whole, attributes)
    frame = viewer.add_image(movie.data[2], metadata=movie.metadata)  # as napari splits stacks
    assert as_volume(frame).provenance is None  # it may be any of them
    data, attributes, _ = frame.as_layer_data_tuple()
    assert read_volume(write_image(str(tmp_path / "frame.ome.tif"), data, attributes)[0]).provenance is None
    assert as_volume(movie, {"time": 3 - 1}).provenance == made[2]


@pytest.mark.parametrize("blank", [0, 1])  # the chosen one, which comes first, and another
def test_a_time_point_that_cannot_be_is_left_out(
    ready: Open, stacks: list[np.ndarray], qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blank: int
) -> None:
    stacks[blank][:] = 7
    viewer, widget = ready(method="linear")
    told = heard(widget)
    assert press(qtbot, widget, tmp_path / "v.ome.zarr", monkeypatch).startswith("2 volumes in")
    assert any(text.startswith(f"Time point {blank} is left out: mine is constant") for text in told)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"v_t{1 - blank}.ome.zarr", "v_t2.ome.zarr"]
    qtbot.wait(50)
    assert len(viewer.layers) == 1  # a movie with a frame missing would be misread


def test_the_network_of_a_later_time_point_is_said_to_be_its(
    ready: Open, stacks: list[np.ndarray], qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stacks[0][:] = 7
    _, widget = ready(method="axial", overrides=SMALL)
    told = heard(widget)
    press(qtbot, widget, tmp_path / "v.ome.tif", monkeypatch)
    assert "The network in v_t0_network.safetensors was learned of time point 1" in told
    assert any("axial blur" in text for text in told)  # what is said of the first that can be
    assert sum("constant" in text for text in told) == 1


@pytest.mark.parametrize("loads", [0, 1])
def test_stop_is_heeded_while_none_can_be_reconstructed(stacks: list[np.ndarray], tmp_path: Path, loads: int) -> None:
    read: list[int] = []

    def load(time: int) -> tuple[ProjectionStack, None]:
        read.append(time)
        return ProjectionStack(np.full_like(stacks[time], 7), Acquisition(slices=6).bound(len(stacks[time]))), None

    method = spec("linear")
    shots = [Shot(time, partial(load, time), Job(method=method), tmp_path / f"v_t{time}.ome.tif") for time in range(3)]
    with pytest.raises(RunFailed, match="stopped before the first"):
        exhaust(film(lambda: len(read) > loads - 1, shots, tmp_path / "n.safetensors", None))
    assert len(read) == loads


def test_where_none_can_be_reconstructed_it_says_why(
    ready: Open,
    stacks: list[np.ndarray],
    qtbot: Any,
    tmp_path: Path,
    notices: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for stack in stacks:
        stack[:] = 7
    _, widget = ready(method="linear")
    press(qtbot, widget, tmp_path / "v.ome.tif", monkeypatch)
    assert notices[0].startswith("Time point 0: mine is constant")
    assert not list(tmp_path.iterdir())
    assert widget.run_box.run_button.isEnabled()


def test_nothing_is_replaced_unasked(ready: Open, qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, widget = ready(method="linear")
    before = tmp_path / "v_t2.ome.tif"
    before.write_text("of before")
    assert press(qtbot, widget, tmp_path / "v.ome.tif", monkeypatch, agree=False) == ""
    assert [path.name for path in tmp_path.iterdir()] == ["v_t2.ome.tif"]
    press(qtbot, widget, tmp_path / "v.ome.tif", monkeypatch)
    assert read_volume(before).shape == TINY


def test_stop_keeps_those_that_are_done(
    ready: Open, qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer, widget = ready(method="linear")
    before_each(monkeypatch, lambda _: widget.stop())
    assert (
        press(qtbot, widget, tmp_path / "v.ome.tif", monkeypatch) == f"Stopped; 1 volume in the folder {tmp_path.name}"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["v_t0.ome.tif"]
    assert len(viewer.layers) == 1


def test_the_projections_themselves_are_not_replaced(
    opened: Open,
    stacks: list[np.ndarray],
    qtbot: Any,
    tmp_path: Path,
    notices: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import tifffile

    from napari_microdiffusion.plugin.contributions import read_layers

    path = tmp_path / "v_t1.ome.tif"
    tifffile.imwrite(path, np.stack(stacks), metadata={"axes": "TZYX"})
    _, widget = opened(layers=read_layers(path))
    widget.data.choose("v_t1")
    widget.setValue(widget.value().replace(acquisition=Acquisition(slices=6), method="linear"))
    press(qtbot, widget, tmp_path / "v.ome.tif", monkeypatch)
    assert "is the input itself" in notices[0]
    assert tifffile.imread(path).shape[0] == 3


def test_a_stated_voxel_size_is_that_of_both(
    ready: Open, qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer, widget = ready(method="linear", scale_um=(2, 0.5, 0.5))
    press(qtbot, widget, tmp_path / "v.ome.tif", monkeypatch)
    qtbot.waitUntil(lambda: len(viewer.layers) == 2, timeout=10_000)
    source, movie = viewer.layers
    np.testing.assert_allclose(source.scale, (1, 12, 0.5, 0.5))
    np.testing.assert_allclose(movie.scale, (1, 2, 0.5, 0.5))
    assert source.units[1:] == movie.units[1:]
    extents = [layer.extent.world[:, 1] for layer in (source, movie)]
    assert np.abs(extents[0].mean() - extents[1].mean()) < 1e-6  # its middle is theirs


def test_the_network_and_reliabilities_are_asked_about_too(
    ready: Open, qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, widget = ready(method="axial", overrides=SMALL)
    for name in ("v_t0_network.safetensors", "v_t1_reliability.ome.tif"):
        (tmp_path / name).write_text("of before")
        asked: list[str] = []
        assert press(qtbot, widget, tmp_path / "v.ome.tif", monkeypatch, agree=False, asked=asked) == ""
        assert name in asked[0]
        assert [path.read_text() for path in tmp_path.iterdir()] == ["of before"]
        press(qtbot, widget, tmp_path / "v.ome.tif", monkeypatch)
        assert len(list(tmp_path.glob("v_t?.ome.tif"))) == 3
        for path in tmp_path.iterdir():
            path.unlink()


def test_a_network_that_cannot_be_kept_keeps_nothing_from_the_others(
    ready: Open, qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, widget = ready(method="axial", overrides=SMALL)
    told = heard(widget)
    before_each(monkeypatch, lambda _: (tmp_path / "v_t0_network.safetensors").write_text("theirs"))
    assert press(qtbot, widget, tmp_path / "v.ome.tif", monkeypatch).startswith("3 volumes in")
    assert (tmp_path / "v_t0_network.safetensors").read_text() == "theirs"
    assert any(text.startswith("the network is not kept: ") for text in told)
    first, *others = (read_volume(tmp_path / f"v_t{time}.ome.tif").provenance or {} for time in range(3))
    assert first["job"]["weights"] is others[1]["job"]["weights"] is None
    assert others[0]["weights_sha256"] == others[1]["weights_sha256"]


def test_what_has_come_meanwhile_is_not_replaced_and_the_rest_is_made(
    ready: Open, qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, widget = ready(method="linear")
    told = heard(widget)
    before_each(monkeypatch, lambda _: (tmp_path / "v_t1.ome.tif").write_text("theirs"))
    assert press(qtbot, widget, tmp_path / "v.ome.tif", monkeypatch).startswith("2 volumes in")
    assert (tmp_path / "v_t1.ome.tif").read_text() == "theirs"
    assert any("exists already" in text for text in told)


def test_a_full_disk_ends_it_and_what_is_done_is_told(
    ready: Open, qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, widget = ready(method="linear")
    told = heard(widget)

    def full(path: Path) -> None:
        if "t1" in path.name:
            raise RunFailed("No space left")

    before_each(monkeypatch, full)
    assert (
        press(qtbot, widget, tmp_path / "v.ome.tif", monkeypatch) == f"Stopped; 1 volume in the folder {tmp_path.name}"
    )
    assert "Time point 1 is left out: No space left" in told


def test_what_speaks_against_a_later_time_point_is_told(
    ready: Open, stacks: list[np.ndarray], qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stacks[1][2] = 0
    _, widget = ready(method="linear")
    told = heard(widget)
    press(qtbot, widget, tmp_path / "v.ome.tif", monkeypatch)
    assert any(text.startswith("time point 1: projection 3 (counted from 1) is the same everywhere") for text in told)


def test_a_movie_does_not_become_the_data_where_these_were_removed(
    ready: Open, qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer, widget = ready(method="linear")
    monkeypatch.setattr(movie_worker, "torch_loaded", lambda: iter(()))
    widget._filming.began.connect(lambda *_: viewer.layers.clear())
    press(qtbot, widget, tmp_path / "v.ome.tif", monkeypatch)
    qtbot.waitUntil(lambda: len(viewer.layers) == 1, timeout=10_000)
    assert viewer.layers[0].name == "v_t0 to v_t2"
    assert widget.value().source == ""


def test_closing_the_panel_ends_it(ready: Open, qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from qtpy.QtWidgets import QFileDialog
    from superqt.utils._qthreading import WorkerBase

    viewer, widget = ready(method="axial", overrides={**SMALL, "steps": 100_000})
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_, **__: (str(tmp_path / "v.ome.tif"), ""))
    widget.run_box.times_button.click()
    qtbot.waitUntil(lambda: widget.run_box._bar.value() > 3, timeout=60_000)
    viewer.window.remove_dock_widget(widget)
    qtbot.waitUntil(lambda: not WorkerBase._worker_set, timeout=5000)
    assert not list(tmp_path.iterdir())


# -- without a window ------------------------------------------------------------------------


def test_a_base_model_is_used_for_all(stacks: list[np.ndarray], tmp_path: Path) -> None:
    small = {"steps": 2, "channels": 8, "levels": 1, "batch": 1, "crop": 16}
    method, acquisition = spec("recurrent_mz", overrides=small), Acquisition(slices=6)
    plan = Pretraining(method=method, acquisition=acquisition, device="cpu")
    base = exhaust(pretrain(plan, [phantom("vessels", TINY, seed=5)]))
    job = Job(method=method, acquisition=acquisition, device="cpu")
    loads = [lambda data=data: (ProjectionStack(data, acquisition.bound(6), None, "p"), None) for data in stacks]
    shots = [Shot(time, load, job, tmp_path / f"v{time}.ome.tif") for time, load in enumerate(loads)]
    movie = exhaust(film(lambda: False, shots, tmp_path / "network.safetensors", base))  # type: ignore[arg-type]
    assert (sorted(movie.done), movie.complete) == ([0, 1, 2], True)
    assert len(list(tmp_path.iterdir())) == 3  # no network: the base model has a file of its own, or gets one
    for path in movie.done.values():
        provenance = read_volume(path).provenance or {}
        assert provenance["weights_sha256"] == fingerprint(base.weights)
        assert len(provenance["trained_on"]) == 1
