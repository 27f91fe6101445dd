"""Base models in the window: trained on layers and folders, stopped, saved, loaded, used; needs a display."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import collected
from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.events import InvalidInput, Notice, exhaust
from napari_microdiffusion.io import write_projections, write_volume
from napari_microdiffusion.methods import Context
from napari_microdiffusion.phantoms import phantom
from napari_microdiffusion.plugin.base import AtHand, Bases
from napari_microdiffusion.plugin.base_volumes import MADE, TRUTH, Picked, read
from napari_microdiffusion.plugin.contributions import sample
from napari_microdiffusion.plugin.follow import Progress
from napari_microdiffusion.plugin.known import KEY, facts
from napari_microdiffusion.plugin.layers import volume_layer
from napari_microdiffusion.plugin.model import Setup
from napari_microdiffusion.plugin.parts import alive
from napari_microdiffusion.plugin.scoring import _weights
from napari_microdiffusion.plugin.worker import Outcome, drive
from napari_microdiffusion.presets import spec
from napari_microdiffusion.pretraining import Pretraining, pretrain
from napari_microdiffusion.trained import Trained, load_trained, save_base
from napari_microdiffusion.volume import ProjectionStack, Volume

pytestmark = pytest.mark.skipif(
    sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")),
    reason="needs a display",
)

TINY = (36, 48, 48)
SMALL = {"steps": 2, "channels": 8, "batch": 1, "crop": 32}
SIX = Acquisition(slices=6)
Open = Callable[..., tuple[Any, Any]]


@pytest.fixture(scope="module")
def other() -> Volume:
    """Vessels of another sample than the truth."""
    return Volume(phantom("vessels", TINY, seed=5).data, (1, 0.5, 0.5), "other vessels")


@pytest.fixture(scope="module")
def trained(other: Volume) -> Trained:
    plan = Pretraining(method=spec("recurrent_mz", overrides=SMALL), acquisition=SIX, device="cpu")
    return exhaust(pretrain(plan, [other]))


@pytest.fixture
def ready(opened: Open, other: Volume) -> Open:
    """The sample, a further volume, and a method that needs a base model."""

    def make(**setup: Any) -> tuple[Any, Any]:
        layers = [*sample("vessels", TINY), volume_layer(other)]
        changed = {"method": "recurrent_mz", "overrides": SMALL, "source": "vessels projections", **setup}
        viewer, widget = opened(layers=layers)
        widget.data.choose("vessels projections")
        widget.setValue(widget.value().replace(**changed))
        return viewer, widget

    return make


def items(widget: Any) -> dict[str, Any]:
    found = widget.method.base.training.list
    return {found.item(row).text().partition("  (")[0]: found.item(row) for row in range(found.count())}


def tick(widget: Any, name: str) -> None:
    from qtpy.QtCore import Qt

    items(widget)[name].setCheckState(Qt.CheckState.Checked)


def train(qtbot: Any, widget: Any, signal: str = "ended") -> str:
    """Train on what is picked; what is said of it in the end."""
    with qtbot.waitSignal(getattr(widget._basing, signal), timeout=60_000) as caught:
        widget.method.base.training.start_button.click()
        assert widget._basing.running
        assert not widget.run_box.run_button.isEnabled()
        assert not widget.method.base.training.start_button.isEnabled()
        widget.run()
        assert not widget.running
    return str(caught.args[0])


def run(qtbot: Any, widget: Any) -> tuple[Any, list[str]]:
    """Run to the end; the result's layer, and what was said meanwhile."""
    said: list[str] = []
    with qtbot.waitSignal(widget.finished, timeout=60_000):
        widget.run()
        widget._running.session.noticed.connect(said.append)
    return widget.results()[-1], said


# -- in the window ---------------------------------------------------------------------------


def test_the_section_is_there_for_methods_that_need_it(ready: Open) -> None:
    _, widget = ready()
    form, base = widget.method._form, widget.method.base
    for method, row in (("recurrent_mz", base), ("axial", widget.method._network_row), ("linear", None)):
        widget.setValue(widget.value().replace(method=method, overrides={}))
        for each in (base, widget.method._network_row):
            assert form.isRowVisible(each) == (each is row)


def test_without_a_base_model_nothing_runs(ready: Open, notices: list[str]) -> None:
    viewer, widget = ready()
    before = len(viewer.layers)
    assert "none yet" in widget.method.base.text.text()
    assert not widget.run_box.run_button.isEnabled()
    assert "needs a base model first: train one" in widget.run_box.run_button.toolTip()
    assert not widget.run_box.job_button.isEnabled()
    widget.run()
    assert len(notices) == 1
    assert (widget.running, len(viewer.layers)) == (False, before)
    widget.setValue(widget.value().replace(method="conservative", overrides={}))
    assert widget.run_box.run_button.isEnabled()
    assert "Reconstruct" in widget.run_box.run_button.toolTip()


def test_which_layers_are_offered(ready: Open, qtbot: Any) -> None:
    from qtpy.QtCore import Qt

    viewer, widget = ready(method="conservative", overrides={})
    run(qtbot, widget)
    viewer.add_image(np.ones((10, 48, 48)), name="shallow", contrast_limits=(0, 1))
    viewer.add_image(np.ones((36, 20, 48)), name="narrow", contrast_limits=(0, 1))
    viewer.add_image(np.ones((48, 48)), name="flat", contrast_limits=(0, 1))
    made = viewer.add_image(np.ones(TINY), name="made", contrast_limits=(0, 1))
    made.metadata = {KEY: {"role": "volume", "provenance": {"job": {}}}}
    widget.setValue(widget.value().replace(method="recurrent_mz", overrides=SMALL))
    found = items(widget)
    assert set(found) == {"vessels truth", "other vessels", "shallow", "narrow", "made"}
    enabled = {name for name, item in found.items() if item.flags() & Qt.ItemFlag.ItemIsEnabled}
    assert enabled == {"other vessels"}
    assert TRUTH in found["vessels truth"].toolTip()
    assert "needs at least 18" in found["shallow"].toolTip()
    assert "32 × 32" in found["narrow"].toolTip()
    assert MADE in found["made"].toolTip()
    widget.setValue(widget.value().replace(truth=""))
    assert TRUTH in items(widget)["vessels truth"].toolTip()  # the projections still say that they come from it
    widget.setValue(widget.value().replace(source="other vessels", simulate=True))
    assert TRUTH in items(widget)["other vessels"].toolTip()


def test_how_deep_a_layer_must_be_depends_on_the_method(ready: Open) -> None:
    viewer, widget = ready()
    viewer.add_image(np.ones((20, 48, 48)), name="twenty", contrast_limits=(0, 1))
    said = {}
    for method in ("recurrent_mz", "sparse3diff"):
        widget.setValue(widget.value().replace(method=method))
        said[method] = items(widget)["twenty"].toolTip()
    assert "shallow" not in said["recurrent_mz"]
    assert "too shallow: of 20 slices, where this method needs at least 24" in said["sparse3diff"]


def test_train_and_use(ready: Open, qtbot: Any, tmp_path: Path) -> None:
    viewer, widget = ready()
    form = widget.method.base.training
    widget.method.base.train_button.click()
    assert not form.isHidden()
    assert "6 slices, stride 6, uniform profile" in form._about.text()
    assert "Tick a layer" in form.start_button.toolTip()
    tick(widget, "other vessels")
    assert form.start_button.isEnabled()
    assert "save it to keep it" in train(qtbot, widget)
    assert form.isHidden()
    assert "trained here on 1 volume, not saved yet" in widget.method.base.text.text()
    assert "other vessels" in widget.method.base.text.toolTip()
    assert widget.value().overrides == SMALL
    assert not widget.method.advanced._editors["channels"].isEnabled()
    assert widget.run_box.run_button.isEnabled()
    layer, said = run(qtbot, widget)
    assert not said
    ran = facts(layer)["ran"]
    assert [record.name for record in ran.trained.origin.volumes] == ["other vessels"]
    assert len(facts(layer)["provenance"]["weights_sha256"]) == 64
    assert not widget.result._weights.isEnabled()  # it is the base model itself
    assert _weights(ran) is ran.trained.weights
    saved: list[Path] = []
    widget._files.write_base(widget._bases.chosen(widget.value()).trained, tmp_path / "b.safetensors", saved.append)
    qtbot.waitUntil(lambda: bool(saved), timeout=10_000)
    assert load_trained(saved[0]).description.startswith("1 volume (other vessels), for 6 slices")
    assert len(viewer.layers) == 4


def test_stop_keeps_what_was_learned(ready: Open, qtbot: Any) -> None:
    _, widget = ready(overrides={**SMALL, "steps": 100_000})
    tick(widget, "other vessels")
    with qtbot.waitSignal(widget._basing.ended, timeout=60_000) as caught:
        widget.method.base.training.start_button.click()
        qtbot.waitUntil(lambda: widget.run_box._bar.value() > 3, timeout=60_000)
        assert widget.run_box._stage.text() == "Training on full volumes"
        widget.run_box.stop_button.click()
    assert "stopped early" in caught.args[0]
    assert "stopped early" in widget.method.base.text.text()
    assert not widget._bases.of("recurrent_mz").trained.origin.complete
    _, said = run(qtbot, widget)
    assert any("stopped before its end" in text for text in said)


def test_other_methods_and_efforts_do_not_lose_it(ready: Open, trained: Trained) -> None:
    _, widget = ready(overrides={})
    widget._basing.use(trained, None)
    method, preset = widget.method._method, widget.method._preset
    method.setCurrentIndex(method.findData("conservative"))
    method.setCurrentIndex(method.findData("recurrent_mz"))
    assert widget.value().overrides == SMALL
    assert widget.problem() == ""
    preset.setCurrentIndex(preset.findData("standard"))
    assert "other settings" in widget.problem()
    assert "other settings" in widget.method.base.text.text()
    assert widget.method.advanced._editors["channels"].isEnabled()
    preset.setCurrentIndex(preset.findData("preview"))
    assert (widget.value().overrides, widget.problem()) == (SMALL, "")
    widget.method.base.train_button.click()
    assert widget.method.advanced._editors["channels"].isEnabled()
    widget.method.base.training.cancel_button.click()
    assert not widget.method.advanced._editors["channels"].isEnabled()
    assert widget.problem() == ""


def test_another_acquisition_is_told_before_the_run(ready: Open, trained: Trained) -> None:
    _, widget = ready()
    widget._basing.use(trained, None)
    assert widget.problem() == ""
    widget.setValue(widget.value().replace(acquisition=Acquisition(slices=6, profile="point")))
    words = (
        "base model of Recurrent-MZ was trained for 6 slices, stride 6, uniform profile, and vessels projections has 6"
    )
    assert words in widget.run_box.run_button.toolTip()
    assert words in widget.method.base.text.text()


def test_save_and_load(
    ready: Open, qtbot: Any, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_microdiffusion.plugin import dialogs

    _, widget = ready()
    widget._basing.use(trained, None)
    monkeypatch.setattr(dialogs.QFileDialog, "getSaveFileName", lambda *_: (str(tmp_path / "mine"), ""))
    widget.method.base.save_button.click()
    path = (tmp_path / "mine.safetensors").resolve()
    qtbot.waitUntil(lambda: widget.value().weights == path, timeout=10_000)
    assert not widget.method.base.save_button.isEnabled()
    assert "mine.safetensors" in widget.method.base.text.text()
    layer, _ = run(qtbot, widget)
    assert facts(layer)["provenance"]["job"]["weights"] == str(path)
    _, fresh = ready(overrides={})
    monkeypatch.setattr(dialogs.QFileDialog, "getOpenFileName", lambda *_: (str(path), ""))
    fresh.method.base.load_button.click()
    qtbot.waitUntil(lambda: fresh.value().weights == path, timeout=10_000)
    assert (fresh.value().overrides, fresh.problem()) == (SMALL, "")
    assert fresh._bases.of("recurrent_mz").trained.origin.volumes == trained.origin.volumes


def test_a_setup_that_names_a_file(ready: Open, qtbot: Any, trained: Trained, tmp_path: Path) -> None:
    _, widget = ready()
    saved: list[Path] = []
    widget._files.write_base(trained, tmp_path / "b.safetensors", saved.append)
    qtbot.waitUntil(lambda: bool(saved), timeout=10_000)
    widget.setValue(widget.value().replace(weights=saved[0]))
    assert widget.problem() == ""
    qtbot.waitUntil(lambda: widget._bases.of("recurrent_mz") is not None, timeout=10_000)
    assert "b.safetensors" in widget.method.base.text.text()
    assert widget.value().weights == saved[0]


def test_a_base_model_of_another_method_is_read_once(
    ready: Open, qtbot: Any, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is kept for its own method, and not read again and again for the one that names it."""
    _, widget = ready()
    saved = save_base(tmp_path / "b.safetensors", trained)
    read, asked = widget._files.read_weights, []
    monkeypatch.setattr(widget._files, "read_weights", lambda path, then: (asked.append(path), read(path, then)))
    with qtbot.waitSignal(widget._networks.learned, timeout=10_000):
        widget.setValue(widget.value().replace(method="sparse3diff", overrides={}, weights=saved))
    qtbot.wait(200)
    widget.setValue(widget.value().replace(method="recurrent_mz", overrides=SMALL, weights=saved))
    assert asked == [saved]
    assert "b.safetensors" in widget.method.base.text.text()


@pytest.mark.parametrize("agreed", [True, False])
def test_a_job_needs_its_base_model_in_a_file(
    ready: Open, qtbot: Any, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, agreed: bool
) -> None:
    from napari_microdiffusion.plugin import dialogs

    _, widget = ready()
    widget._basing.use(trained, None)
    names, asked = [tmp_path / "base.safetensors", tmp_path / "a.json"], []
    button = dialogs.QMessageBox.StandardButton

    def question(*given: Any) -> Any:
        asked.append(given[2])
        return button.Yes if agreed else button.No

    monkeypatch.setattr(dialogs.QMessageBox, "question", question)
    monkeypatch.setattr(dialogs.QFileDialog, "getSaveFileName", lambda *_: (str(names.pop(0)), ""))
    widget.run_box.job_button.click()
    assert len(asked) == 1
    assert "not saved yet" in asked[0]
    if agreed:
        qtbot.waitUntil((tmp_path / "a.json").exists, timeout=10_000)
        assert "base.safetensors" in (tmp_path / "a.json").read_text("utf-8")
    assert bool(names) != agreed


def test_a_folder(
    ready: Open, qtbot: Any, other: Volume, stack: ProjectionStack, tmp_path: Path, notices: list[str]
) -> None:
    viewer, widget = ready()
    form = widget.method.base.training
    form.set_folder(tmp_path)
    assert "folder is empty" in train(qtbot, widget, "failed")
    assert len(notices) == 1
    (tmp_path / "notes.txt").touch()
    assert "none of the files in the folder is an image" in train(qtbot, widget, "failed")
    write_volume(other, tmp_path / "one.ome.tif")
    write_volume(Volume(viewer.layers["vessels truth"].data), tmp_path / "truth.ome.tif")
    write_projections(stack, tmp_path / "projections.ome.tif")
    (tmp_path / "notes.txt").write_text("no volume")
    said: list[str] = []
    widget._basing.noticed.connect(said.append)
    train(qtbot, widget)
    assert [record.name for record in widget._bases.of("recurrent_mz").trained.origin.volumes] == ["one"]
    assert len(said) == 1
    assert "truth (ground truth" in said[0]
    assert "projections.ome.tif holds projections" in said[0]
    assert "notes" not in said[0]
    assert len(notices) == 2


def test_unsuited_methods_are_greyed_out(ready: Open) -> None:
    _, widget = ready(method="conservative", overrides={})
    combo = widget.method._method
    overlapping = Acquisition(slices=6, stride=3)

    def greyed() -> set[str]:
        found = [row for row in range(combo.count()) if not combo.model().item(row).isEnabled()]
        return {combo.itemData(row) for row in found}

    assert greyed() == set()
    widget.setValue(widget.value().replace(acquisition=overlapping, truth=""))
    assert greyed() == {"sparse3diff", "ddpm"}
    from qtpy.QtCore import Qt

    row = combo.findData("sparse3diff")
    assert "do not overlap" in combo.itemData(row, Qt.ItemDataRole.ToolTipRole)
    assert widget.problem() == ""
    widget.setValue(widget.value().replace(method="sparse3diff"))
    assert "Sparse3Diff works between projections that do not overlap" in widget.data.line.text()
    assert not widget.run_box.run_button.isEnabled()
    assert not widget.method.base.training.start_button.isEnabled()
    assert widget.value().method == "sparse3diff"  # it is not switched silently
    widget.setValue(widget.value().replace(acquisition=SIX))
    assert greyed() == set()


def test_closing_the_widget_stops_the_training(ready: Open, qtbot: Any) -> None:
    from superqt.utils._qthreading import WorkerBase

    viewer, widget = ready(overrides={**SMALL, "steps": 100_000})
    tick(widget, "other vessels")
    widget.method.base.training.start_button.click()
    qtbot.waitUntil(lambda: widget.run_box._bar.value() > 3, timeout=60_000)
    assert WorkerBase._worker_set
    viewer.window.remove_dock_widget(widget)
    widget.deleteLater()
    qtbot.waitUntil(lambda: not WorkerBase._worker_set, timeout=5000)


def test_a_panel_that_is_opened_again_knows_the_base_model(ready: Open, trained: Trained, qtbot: Any) -> None:
    from napari_microdiffusion.plugin.reconstruct import ReconstructWidget

    viewer, widget = ready()
    widget._basing.use(trained, None)
    viewer.window.remove_dock_widget(widget)
    qtbot.waitUntil(lambda: not alive(widget), timeout=5000)
    again = ReconstructWidget(viewer)
    viewer.window.add_dock_widget(again)
    again.data.choose("vessels projections")
    method = again.method._method
    method.setCurrentIndex(method.findData("recurrent_mz"))
    assert "trained here on 1 volume, not saved yet" in again.method.base.text.text()
    assert (again.value().overrides, again.problem()) == (SMALL, "")


# -- without a window ------------------------------------------------------------------------


def test_the_truth_is_withheld_wherever_it_lies(truth: Volume, other: Volume) -> None:
    deeper = Volume(np.concatenate([truth.data, truth.data[:3]]), name="deeper")
    loads = tuple(lambda each=each: each for each in (deeper, other, other))
    events, found = collected(read(Picked(loads, None, (truth.data,), 0, 0), 18, lambda: False))
    assert found == [other]
    told = events[-1]
    assert isinstance(told, Notice)
    assert "deeper (ground truth" in told.message
    assert "the same as another" in told.message
    with pytest.raises(InvalidInput, match="ground truth"):
        exhaust(read(Picked(loads[:1], None, (truth.data,), 0, 0), 18, lambda: False))


def test_scores_on_a_truth_that_was_trained_on(trained: Trained, other: Volume, truth: Volume) -> None:
    """Under its name or another, and without the slices that simulation leaves out; said once the input is there."""

    def said(known: Volume | None) -> list[str]:
        volume = truth if known is None else known
        stack, covered = volume.simulate(SIX)
        job = Setup(method="recurrent_mz", overrides=SMALL, device="cpu").job()
        messages = drive(lambda: False, lambda: (stack, known and covered), job, base=trained)
        notes: list[str] = []

        def heard() -> Generator[Any, None, Outcome]:
            outcome = yield from messages
            assert outcome.beware == next((note for note in notes if "worthless" in note), "")
            return outcome

        for message in heard():
            notes += message.notices if isinstance(message, Progress) else []
        return notes

    assert said(None) == said(truth)
    assert not any("worthless" in note for note in said(truth))
    for known in (other, Volume(other.data[:20], name=other.name), Volume(other.data, name="renamed")):
        assert any("scores are worthless" in note for note in said(known))


def test_a_base_model_by_its_settings(trained: Trained) -> None:
    kept = Bases()
    assert kept.fitting(trained.method) is None
    kept.keep(AtHand(trained))
    assert kept.fitting(spec("recurrent_mz", overrides={**SMALL, "consistency": "none"})) is not None
    assert kept.fitting(spec("recurrent_mz")) is None
    assert trained.method.untrained(ProjectionStack(np.ones((3, 32, 32)), SIX), Context()).keys() == (
        trained.weights.keys()
    )
