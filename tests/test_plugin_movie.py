"""All time points in the window: reconstructed one after the other into files, shown as a movie; needs a display."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.checkpoint import fingerprint
from napari_microdiffusion.io import read_volume
from napari_microdiffusion.phantoms import phantom
from napari_microdiffusion.plugin.contributions import sample
from napari_microdiffusion.plugin.movie_worker import Shot, film
from napari_microdiffusion.presets import spec
from napari_microdiffusion.pretraining import Pretraining, pretrain
from napari_microdiffusion.run import Job, exhaust, reconstruct
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
        widget.setValue(widget.value().replace(acquisition=Acquisition(slices=6), **setup))
        return viewer, widget

    return make


def press(qtbot: Any, widget: Any, path: Path, monkeypatch: pytest.MonkeyPatch, agree: bool = True) -> str:
    """Press the button, and answer its questions; how it ends."""
    from qtpy.QtWidgets import QFileDialog, QMessageBox

    button = QMessageBox.StandardButton
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_, **__: (str(path), "OME-TIFF (*.ome.tif)"))
    monkeypatch.setattr(QMessageBox, "question", lambda *_: button.Yes if agree else button.No)
    widget.run_box.times_button.click()
    if not widget._filming.filming:
        return ""
    assert not widget.run_box.run_button.isEnabled()
    assert not widget.run_box.times_button.isEnabled()
    widget.run()
    assert not widget.running
    qtbot.waitUntil(lambda: not widget._filming.filming, timeout=60_000)
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
    assert said == f"3 volumes in {tmp_path}"
    for time, data in enumerate(stacks):
        expected = reconstruct(ProjectionStack(data, Acquisition(slices=6, count=6)), spec("conservative"))
        np.testing.assert_array_equal(read_volume(tmp_path / f"v_t{time}.ome.tif").data, expected.data)
    qtbot.waitUntil(lambda: len(viewer.layers) == 2, timeout=10_000)
    assert viewer.layers[-1].name == "v_t0 to v_t2"
    assert viewer.layers[-1].data.shape == (3, *TINY)
    viewer.layers["mine"].contrast_limits = (0.1, 0.2)
    assert viewer.layers[-1].contrast_limits == [0.1, 0.2]
    assert not widget.results()  # it is in files


def test_one_network_for_all_learned_of_the_chosen_time_point(
    ready: Open, qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr("napari_microdiffusion.plugin.reconstruct.show_info", told.append)
    _, widget = ready(method="axial", overrides=SMALL, time=1)
    widget._filming.noticed.connect(told.append)
    press(qtbot, widget, tmp_path / "v.ome.tif", monkeypatch)
    network = load_trained(tmp_path / "v_t1_network.safetensors")
    found = [read_volume(tmp_path / f"v_t{time}.ome.tif").provenance or {} for time in range(3)]
    used = [each.get("weights_sha256") for each in found]
    assert used == [fingerprint(network.weights), None, fingerprint(network.weights)]
    assert [each["job"]["weights"] for each in found[::2]] == [str(tmp_path / "v_t1_network.safetensors")] * 2
    assert any("Plain interpolation is given for time points" in text for text in told)  # two steps are too few


def test_a_time_point_that_cannot_be_is_left_out(
    ready: Open, stacks: list[np.ndarray], qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    stacks[1][:] = 7
    viewer, widget = ready(method="linear")
    widget._filming.noticed.connect(told.append)
    assert press(qtbot, widget, tmp_path / "v.ome.zarr", monkeypatch).startswith("2 volumes in")
    assert any(text.startswith("Time point 1 is left out: mine is constant") for text in told)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["v_t0.ome.zarr", "v_t2.ome.zarr"]
    qtbot.wait(50)
    assert len(viewer.layers) == 1  # a movie with a frame missing would be misread


def test_one_that_cannot_even_begin_says_why(
    ready: Open,
    stacks: list[np.ndarray],
    qtbot: Any,
    tmp_path: Path,
    notices: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stacks[0][:] = 7
    _, widget = ready(method="linear")
    press(qtbot, widget, tmp_path / "v.ome.tif", monkeypatch)
    assert "constant" in notices[0]
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
    from napari_microdiffusion.plugin import movie_worker

    viewer, widget = ready(method="linear")

    def write(*given: Any, **options: Any) -> Any:
        widget.stop()
        return write_volume(*given, **options)

    write_volume = movie_worker.write_volume
    monkeypatch.setattr(movie_worker, "write_volume", write)
    assert press(qtbot, widget, tmp_path / "v.ome.tif", monkeypatch) == f"Stopped; 1 volume in {tmp_path}"
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


# -- without a window ------------------------------------------------------------------------


def test_a_base_model_is_used_for_all(stacks: list[np.ndarray], tmp_path: Path) -> None:
    small = {"steps": 2, "channels": 8, "levels": 1, "batch": 1, "crop": 16}
    method, acquisition = spec("recurrent_mz", overrides=small), Acquisition(slices=6)
    plan = Pretraining(method=method, acquisition=acquisition, device="cpu")
    base = exhaust(pretrain(plan, [phantom("vessels", TINY, seed=5)]))
    job = Job(method=method, acquisition=acquisition, device="cpu")
    loads = [lambda data=data: (ProjectionStack(data, acquisition.bound(6), None, "p"), None) for data in stacks]
    shots = [Shot(time, load, job, tmp_path / f"v{time}.ome.tif") for time, load in enumerate(loads)]
    movie = exhaust(film(shots, tmp_path / "network.safetensors", base, lambda: False))  # type: ignore[arg-type]
    assert (sorted(movie.done), movie.complete) == ([0, 1, 2], True)
    assert len(list(tmp_path.iterdir())) == 3  # no network: the base model has a file of its own, or gets one
    for path in movie.done.values():
        provenance = read_volume(path).provenance or {}
        assert provenance["weights_sha256"] == fingerprint(base.weights)
        assert len(provenance["trained_on"]) == 1
