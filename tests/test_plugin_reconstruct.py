"""The dock widget in a real viewer; needs a display, be it a virtual one."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.events import Event, Preview, Stage, Step
from napari_microdiffusion.io import read_volume, write_projections, write_volume
from napari_microdiffusion.methods import Conservative, Context, Weights
from napari_microdiffusion.metrics import evaluate
from napari_microdiffusion.plugin.contributions import read_layers, sample
from napari_microdiffusion.plugin.dialogs import volume_path
from napari_microdiffusion.plugin.files import as_volume
from napari_microdiffusion.plugin.follow import Follower
from napari_microdiffusion.plugin.known import KEY, facts
from napari_microdiffusion.plugin.layers import extra_axes
from napari_microdiffusion.plugin.parts import alive
from napari_microdiffusion.plugin.results import how
from napari_microdiffusion.plugin.worker import followed, torch_loaded
from napari_microdiffusion.presets import spec
from napari_microdiffusion.run import Job
from napari_microdiffusion.volume import ProjectionStack, Volume

pytestmark = pytest.mark.skipif(
    sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")),
    reason="needs a display",
)

TINY = (36, 48, 48)
INR = {"steps": 6, "rays": 256, "width": 16, "features": 16, "layers": 1}

Widget = Any
Open = Callable[..., tuple[Any, Widget]]


def finish(qtbot: Any, widget: Widget, timeout: int = 60_000) -> None:
    with qtbot.waitSignal(widget.finished, timeout=timeout):
        widget.run()
    assert not widget.running
    assert widget.run_box.run_button.isEnabled()


class Slow(Conservative):
    """Stands in for a long method: one slice a step, black and white by turns."""

    def fit(self, stack: ProjectionStack, context: Context) -> Generator[Event, None, Weights]:
        yield Stage("Training", 400)
        for step in range(400):
            time.sleep(0.01)
            yield Step(step + 1, loss=1 / (step + 1))
            yield Preview(step % stack.volume_shape[0], np.full((1, *stack.shape[1:]), step % 2, np.float32))
            if context.cancelled():
                break
        return {}


class Hungry(Conservative):
    """Runs out of memory while it trains."""

    def fit(self, stack: ProjectionStack, context: Context) -> Generator[Event, None, Weights]:  # noqa: ARG002
        import torch

        yield Stage("Training", 1)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")


def test_sample_fills_everything_in(opened: Open) -> None:
    viewer, widget = opened()
    setup = widget.value()
    assert (setup.source, setup.truth) == ("vessels projections", "vessels truth")
    assert setup.scale_um == pytest.approx((1, 0.5, 0.5))
    assert setup.acquisition.slices == 6
    assert widget.problem() == ""
    assert "6 projections of 48 × 48 → a volume of 36 × 48 × 48" in widget.data.line.text()
    assert len(viewer.layers) == 2


def test_setup_survives_the_widget(opened: Open, qtbot: Any) -> None:
    _, widget = opened()
    setup = widget.value().replace(
        method="inr", preset="paper", overrides={"width": 96, "rays": 300}, seed=5, denoise=True
    )
    with qtbot.waitSignal(widget.valueChanged) as caught:
        widget.setValue(setup)
    assert widget.value() == setup == caught.args[0]


def test_the_wheel_scrolls_the_panel_and_changes_nothing(opened: Open) -> None:
    """Qt lets it change whatever the pointer is over; a panel as long as this one is scrolled all the time."""
    from qtpy.QtCore import QPoint, QPointF, Qt
    from qtpy.QtGui import QWheelEvent
    from qtpy.QtWidgets import QAbstractSpinBox, QApplication, QComboBox

    _, widget = opened(method="inr")  # with numbers among its settings
    before = widget.value()
    fields = [f for kind in (QComboBox, QAbstractSpinBox) for f in widget.findChildren(kind) if f.isEnabled()]
    assert len(fields) > 10
    for field in fields:
        for turn in (-120, 120):
            where, keys = QPointF(field.rect().center()), (Qt.MouseButton.NoButton, Qt.KeyboardModifier.NoModifier)
            event = QWheelEvent(where, where, QPoint(), QPoint(0, turn), *keys, Qt.ScrollPhase.NoScrollPhase, False)
            QApplication.sendEvent(field, event)
            assert not event.isAccepted(), field.toolTip()
    assert widget.value() == before


def test_run_to_the_end(opened: Open, qtbot: Any) -> None:
    viewer, widget = opened(show=True)
    finish(qtbot, widget)
    layer = viewer.layers["Conservative interpolation · vessels projections"]
    truth = viewer.layers["vessels truth"]
    np.testing.assert_allclose(layer.scale, truth.scale)
    np.testing.assert_allclose(layer.translate, truth.translate)
    assert layer.units == truth.units
    assert list(layer.contrast_limits) == list(truth.contrast_limits)
    scores = facts(layer)["scores"]
    assert scores["psnr"] > 25
    assert scores["reprojection_max_error"] < 1e-5
    assert "dB" in widget.result._values["psnr"].text()
    assert widget.result._values["reprojection_max_error"].text() == "0.00%"
    volume, projections = as_volume(truth), viewer.layers["vessels projections"]
    stack = ProjectionStack(projections.data, Acquisition(slices=6))
    assert scores == pytest.approx(evaluate(as_volume(layer), volume, stack), rel=1e-9)
    assert facts(layer)["provenance"]["complete"]
    qtbot.wait(50)
    picture = viewer.screenshot(canvas_only=False, flash=False)
    assert picture[..., :3].std() > 20
    assert viewer.screenshot(canvas_only=True, flash=False)[..., :3].max() > 100


def test_how_a_result_was_made_tells_it_from_another() -> None:
    beam = Acquisition(slices=3, count=4)

    def told(**values: Any) -> str:
        return how({"job": Job(**values).model_dump(mode="json")}, "INR preview, Linear interpolation · p")

    learned = spec("inr", "preview", {"steps": 6})
    assert told(method=learned, acquisition=beam, seed=4) == (
        "3 slices, stride 3, uniform profile; preview but steps = 6; seed 4"
    )
    plain = spec("linear", "preview", {"consistency": "final"})
    assert told(method=plain, acquisition=beam.without((1,)), denoise=True) == (
        "3 slices, stride 3, uniform profile; without projection 2; denoised first; consistency = final"
    )
    stated = {"scale_um": (1, 0.48, 0.48), "weights": "some/where/net.safetensors"}
    assert told(method=plain, acquisition=beam, **stated) == (
        "3 slices, stride 3, uniform profile; voxels of 1 × 0.48 × 0.48 µm; network net.safetensors; "
        "consistency = final"
    )
    assert how({"job": Job(method=plain).model_dump(mode="json")}, "v.tif").startswith("Linear interpolation; 6 slices")
    for unknown in (None, {}, {"job": {"method": {"kind": "of tomorrow"}}}):
        assert how(unknown, "v") == ""


def test_network_trains_and_every_view_works(opened: Open, qtbot: Any) -> None:
    viewer, widget = opened(show=True, method="inr", overrides=INR)
    widget.run()
    qtbot.waitUntil(lambda: len(viewer.layers) == 3, timeout=20_000)
    for ndisplay in (3, 2):
        viewer.dims.ndisplay = ndisplay
        qtbot.wait(20)
    viewer.canvas.grid.enabled = False
    qtbot.waitUntil(lambda: not widget.running, timeout=60_000)
    assert "INR preview · vessels projections" in viewer.layers
    assert facts(viewer.layers[-1])["provenance"]["method"] == "inr"


def test_runs_stay_as_layers(opened: Open, qtbot: Any) -> None:
    viewer, widget = opened(method="linear")
    finish(qtbot, widget)
    widget.setValue(widget.value().replace(method="conservative"))
    finish(qtbot, widget)
    names = [layer.name for layer in widget.results()]
    assert names == ["Linear interpolation · vessels projections", "Conservative interpolation · vessels projections"]
    assert widget.result.current() == names[1]
    hints = [widget.result._results.itemData(row, 3) for row in range(2)]  # Qt.ToolTipRole
    assert hints == ["6 slices, stride 6, uniform profile; voxels of 1 × 0.5 × 0.5 µm"] * 2
    assert widget.result._how.text() == hints[1]
    before = widget.result._values["psnr"].text()
    widget.result._results.setCurrentText(names[0])
    assert widget.result._values["psnr"].text() != before
    viewer.layers["vessels truth"].contrast_limits = (0.1, 0.6)
    assert all(list(layer.contrast_limits) == [0.1, 0.6] for layer in widget.results())


def test_stop_keeps_what_is_done(opened: Open, qtbot: Any, method: Callable[[Any], None]) -> None:
    viewer, widget = opened()
    method(Slow(consistency="none"))
    widget.run()
    qtbot.waitUntil(lambda: widget.run_box._bar.value() > 5, timeout=20_000)
    provenance = as_volume(viewer.layers[-1]).provenance or {}
    assert (provenance["complete"], provenance["job"]["acquisition"]["slices"]) == (False, 6)
    asked = time.monotonic()
    with qtbot.waitSignal(widget.finished, timeout=5000):
        widget.run_box.stop_button.click()
    assert time.monotonic() - asked < 2
    layer = viewer.layers[-1]
    assert layer.name.endswith("(partial)")
    assert not facts(layer)["provenance"]["complete"]
    assert np.ptp(layer.data[0]) == 0  # this slice had arrived


def test_stop_while_sampling(opened: Open, qtbot: Any) -> None:
    short = {"steps": 2, "channels": 16, "sampling_steps": 250, "consistency": "none"}
    viewer, widget = opened(method="naive_diffusion", overrides=short)
    widget.run()
    label, bar = widget.run_box._stage, widget.run_box._bar
    qtbot.waitUntil(lambda: label.text() == "Denoising the slices" and bar.value() > 0, timeout=60_000)
    asked = time.monotonic()
    with qtbot.waitSignal(widget.finished, timeout=10_000):
        widget.run_box.stop_button.click()
    assert time.monotonic() - asked < 2
    assert viewer.layers[-1].name.endswith("(partial)")


def test_removing_the_layer_stops_the_run(opened: Open, qtbot: Any, method: Callable[[Any], None]) -> None:
    viewer, widget = opened()
    method(Slow(consistency="none"))
    widget.run()
    qtbot.waitUntil(lambda: len(viewer.layers) == 3, timeout=20_000)
    with qtbot.waitSignal(widget.finished, timeout=5000):
        viewer.layers.pop(2)
    assert len(viewer.layers) == 2
    assert "removed" in widget.message


def test_closing_the_widget_stops_the_run(opened: Open, qtbot: Any, method: Callable[[Any], None]) -> None:
    from superqt.utils._qthreading import WorkerBase

    viewer, widget = opened()
    method(Slow(consistency="none"))
    widget.run()
    qtbot.waitUntil(lambda: len(viewer.layers) == 3, timeout=20_000)
    assert WorkerBase._worker_set
    viewer.window.remove_dock_widget(widget)  # as the cross in its title does
    qtbot.waitUntil(lambda: not WorkerBase._worker_set, timeout=3000)
    assert viewer.layers[-1].name == "Conservative interpolation · vessels projections (partial)"
    viewer.layers.pop(0)  # nobody listens any more


def test_a_panel_that_is_put_elsewhere_lives_on(opened: Open, qtbot: Any) -> None:
    viewer, widget = opened()
    viewer.window.remove_dock_widget(widget)
    viewer.window.add_dock_widget(widget, area="left")
    qtbot.wait(50)
    finish(qtbot, widget)
    assert [layer.name for layer in widget.results()] == [widget.result.current()] == [viewer.layers[-1].name]


def test_what_comes_after_the_panel_is_closed_is_dropped(opened: Open, qtbot: Any) -> None:
    from napari_microdiffusion.plugin.background import in_background

    viewer, widget = opened()
    came: list[str] = []
    release = threading.Event()
    worker = in_background(lambda: release.wait(10) and "late", came.append, widget)
    kept = in_background(lambda: release.wait(10) and "kept", came.append)
    with qtbot.waitSignal(widget.destroyed, timeout=5000):
        viewer.window.remove_dock_widget(widget)
    with qtbot.waitSignals([worker.finished, kept.finished], timeout=10_000):
        release.set()
    qtbot.wait(50)
    assert came == ["kept"]


def test_a_panel_that_is_opened_again_knows_the_results(opened: Open, qtbot: Any) -> None:
    from napari_microdiffusion.plugin.reconstruct import ReconstructWidget

    viewer, widget = opened()
    finish(qtbot, widget)
    scores = widget.result._values["psnr"].text()
    viewer.window.remove_dock_widget(widget)
    again = ReconstructWidget(viewer)
    viewer.window.add_dock_widget(again)
    assert again.result.current() == viewer.layers[-1].name
    assert again.result._values["psnr"].text() == scores != "–"
    assert again.result._save.isEnabled()


def test_a_panel_that_is_opened_again_knows_what_was_chosen(opened: Open, qtbot: Any) -> None:
    from napari_microdiffusion.plugin.reconstruct import ReconstructWidget

    viewer, widget = opened()
    chosen = widget.value().replace(method="inr", overrides={"steps": 7}, seed=3, leave_out="2", truth="")
    chosen = chosen.replace(acquisition=Acquisition(slices=5, stride=6), scale_um=(3.0, 1.0, 1.0))
    widget.setValue(chosen)
    assert widget.value() == chosen
    viewer.window.remove_dock_widget(widget)
    viewer.layers[chosen.source].name = "mine"
    again = ReconstructWidget(viewer)
    viewer.window.add_dock_widget(again)
    assert again.value() == chosen.replace(source="mine")
    again.data.voxel.edited = False
    viewer.layers["mine"].scale = (12, 2, 2)  # it is heeded, too
    assert again.value().scale_um == (2, 2, 2)
    viewer.window.remove_dock_widget(again)
    qtbot.waitUntil(lambda: not alive(again), timeout=5000)
    viewer.layers.clear()
    viewer.add_image(np.ones((6, 40, 40)), name="mine")
    assert ReconstructWidget(viewer).value().acquisition == Acquisition()  # another image


def test_out_of_memory_is_one_readable_notice(
    opened: Open, qtbot: Any, notices: list[str], method: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer, widget = opened()
    with monkeypatch.context():
        method(Hungry())
        finish(qtbot, widget)
    assert len(notices) == 1
    assert "Memory ran out during Conservative interpolation on vessels projections" in notices[0]
    assert "crop" in notices[0]
    assert viewer.layers[-1].name.endswith("(failed)")
    provenance = as_volume(viewer.layers[-1]).provenance or {}
    assert (provenance["complete"], provenance["job"]["acquisition"]["slices"]) == (False, 6)


def test_a_failure_is_told_in_full_and_leaves_the_result_before_as_it_was(
    opened: Open, qtbot: Any, notices: list[str]
) -> None:
    viewer, widget = opened()
    finish(qtbot, widget)
    scores = widget.result._values["psnr"].text()
    first, failure = viewer.layers[-1], widget.run_box._failure
    viewer.add_image(np.where(np.arange(36)[:, None, None] == 3, np.nan, np.ones(TINY)), name="spoilt")
    widget.setValue(widget.value().replace(truth="spoilt"))
    finish(qtbot, widget)
    assert failure.text() == notices[0]
    assert failure.text().endswith("no score can be given against it")
    assert not failure.isHidden()
    assert (widget.result.current(), widget.result._values["psnr"].text()) == (first.name, scores)
    viewer.add_image(np.ones(TINY), name="of no interest")
    assert not failure.isHidden()
    widget.data.beam.slices.setValue(5)  # other data
    assert failure.isHidden()


def test_what_was_there_before_a_run_broke_off_is_shown_again(
    opened: Open, qtbot: Any, notices: list[str], method: Callable[[Any], None]
) -> None:
    viewer, widget = opened(method="linear")
    finish(qtbot, widget)
    first = viewer.layers[-1].name
    method(Hungry())
    finish(qtbot, widget)
    assert viewer.layers[-1].name.endswith("(failed)")
    assert widget.result.current() == first
    assert widget.run_box._failure.text() == notices[0]


def test_a_run_after_an_error_works(
    opened: Open, qtbot: Any, notices: list[str], method: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, widget = opened()
    method(Hungry())
    finish(qtbot, widget)
    monkeypatch.undo()
    finish(qtbot, widget)
    assert widget.message.startswith("Done")
    assert len(notices) == 1


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((64, 64), np.float32), "single image"),
        (np.zeros((2, 64, 64), np.float32), "at least 3"),
        (np.zeros((6, 16, 64), np.float32), "32 x 32"),
        (np.zeros((6, 64, 64), bool), "bool"),
    ],
)
def test_bad_input_is_refused_before_run(opened: Open, notices: list[str], array: Any, words: str) -> None:
    _, widget = opened(layers=[(array, {"name": "bad", "contrast_limits": (0, 1)}, "image")])
    assert words in widget.data.line.text()
    assert not widget.run_box.run_button.isEnabled()
    widget.run()
    assert len(notices) == 1
    assert not widget.running


@pytest.mark.parametrize(("value", "words"), [(np.nan, "NaN"), (0, "constant")])
def test_bad_pixels_are_one_notice(opened: Open, qtbot: Any, notices: list[str], value: float, words: str) -> None:
    array = np.full((6, 48, 48), value, np.float32)
    viewer, widget = opened(layers=[(array, {"name": "bad", "contrast_limits": (0, 1)}, "image")])
    finish(qtbot, widget)
    assert len(notices) == 1
    assert words in notices[0]
    assert len(viewer.layers) == 1


@pytest.mark.parametrize("simulate", [False, True])
def test_a_scale_without_units_is_kept(opened: Open, qtbot: Any, simulate: bool) -> None:
    (truth, _, _), (data, _, _) = sample("vessels", TINY)
    step = 1 if simulate else 6
    where = {"name": "mine", "scale": (3 * step, 0.5, 0.5), "translate": (7, 1, 2)}
    viewer, widget = opened(layers=[(truth if simulate else data, where, "image")], simulate=simulate)
    assert widget.value().scale_um is None
    finish(qtbot, widget)
    [result] = widget.results()
    np.testing.assert_allclose(viewer.layers["mine"].scale, (3 * step, 0.5, 0.5))
    np.testing.assert_allclose(result.scale, (3, 0.5, 0.5))
    assert result.units == viewer.layers["mine"].units
    np.testing.assert_allclose(result.translate, (7 if simulate else 7 - 2.5 * 3, 1, 2))
    if simulate:
        np.testing.assert_allclose(viewer.layers["mine projections"].scale, (18, 0.5, 0.5))
        np.testing.assert_allclose(viewer.layers["mine projections"].translate, (7 + 2.5 * 3, 1, 2))


def test_without_any_scale_voxels_are_cubes(opened: Open, qtbot: Any) -> None:
    data = sample("vessels", TINY)[1][0]
    viewer, widget = opened(layers=[(data, {"name": "mine"}, "image")])
    for slices in (6, 4):
        widget.setValue(widget.value().replace(acquisition={"slices": slices}))
        finish(qtbot, widget)
        np.testing.assert_allclose(viewer.layers["mine"].scale, (slices, 1, 1))
        np.testing.assert_allclose(widget.results()[-1].scale, (1, 1, 1))


def test_nanometres_become_micrometres(opened: Open, qtbot: Any) -> None:
    data = sample("vessels", TINY)[1][0]
    where = {"name": "mine", "scale": (6000, 500, 500), "units": "nm", "translate": (7000, 1000, 2000)}
    viewer, widget = opened(layers=[(data, where, "image")])
    finish(qtbot, widget)
    np.testing.assert_allclose(viewer.layers["mine"].scale, (6, 0.5, 0.5))
    np.testing.assert_allclose(viewer.layers["mine"].translate, (7, 1, 2))
    np.testing.assert_allclose(widget.results()[-1].translate, (4.5, 1, 2))


@pytest.mark.parametrize("at_once", [True, False])
def test_a_refused_device_leaves_nothing_behind(
    opened: Open, qtbot: Any, notices: list[str], monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("napari_microdiffusion.plugin.worker.device_is_known", lambda _: at_once)
    viewer, widget = opened(device="cuda", source="vessels truth", simulate=True)
    finish(qtbot, widget)
    assert [layer.name for layer in viewer.layers] == ["vessels truth", "vessels projections"]
    assert len(notices) == 1
    assert "no cuda device" in notices[0]
    assert widget.result._values["psnr"].text() == "–"


@pytest.mark.parametrize("there", [True, False])
def test_that_torch_is_being_loaded_is_said_where_it_is(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    import torch

    loaded: list[bool] = []
    monkeypatch.setitem(sys.modules, "torch", torch)
    if not there:
        monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr("napari_microdiffusion.plugin.worker.load_torch", lambda: loaded.append(True))
    told = [message.stage for message in torch_loaded()]
    assert told == ([] if there else ["Loading the neural network software"])
    assert loaded == ([] if there else [True])


def test_losses_of_a_short_stage_arrive() -> None:
    def events() -> Generator[Event, None, int]:
        yield Stage("Training", 2)
        yield Step(1, loss=3.0)
        yield Step(2, loss=2.0)
        yield Stage("Restoring", 1)
        yield Step(1)
        return 0

    told = list(followed(events(), Follower("First picture")))
    assert [(message.stage, message.losses) for message in told] == [("Training", ((1, 3.0), (2, 2.0)))]


def test_the_bar_never_moves_by_itself_and_stopping_is_not_unsaid(opened: Open) -> None:
    box = opened()[1].run_box
    box.begin()
    assert box._bar.maximum() > 0
    box.show_progress(Follower("Training").progress())
    assert (box._stage.toolTip(), box._bar.maximum()) == ("Training", 1)
    box.stop_button.click()
    box.show_progress(Follower("Training").progress())
    assert box._stage.toolTip() == "Stopping"
    box.end("Stopped")
    assert box._stage.toolTip() == "Stopped"


def test_simulate_from_a_volume(opened: Open, qtbot: Any) -> None:
    truth = sample("vessels", TINY)[0][0]
    data = np.concatenate([truth, truth[:2]])
    where = {"name": "stack", "scale": (1, 0.5, 0.5), "units": "µm", "translate": (7, 1, 2)}
    viewer, widget = opened(layers=[(data, where, "image")])
    widget.data._simulate.setChecked(True)
    assert widget.value().scale_um == (1, 0.5, 0.5)
    assert "left out" in widget.data.line.text()
    finish(qtbot, widget)
    finish(qtbot, widget)
    projections, result = viewer.layers["stack projections"], widget.results()[-1]
    assert sum(facts(layer).get("role") == "projections" for layer in viewer.layers) == 1
    np.testing.assert_allclose(projections.scale, (6, 0.5, 0.5))
    np.testing.assert_allclose(projections.translate, (9.5, 1, 2))
    np.testing.assert_allclose(result.translate, (7, 1, 2))
    assert "psnr" in facts(result)["scores"]


def test_channels_and_times_can_be_chosen(opened: Open, qtbot: Any, stack: ProjectionStack) -> None:
    data = np.zeros((2, 3, *stack.shape), np.float32)
    data[1, 2] = stack.data
    layer = (data, {"name": "many", "axis_labels": ("t", "c", "z", "y", "x"), "contrast_limits": (0, 1)}, "image")
    viewer, widget = opened(layers=[layer], time=1, channel=2)
    assert (widget.value().time, widget.value().channel) == (1, 2)
    finish(qtbot, widget)
    assert viewer.dims.current_step[:2] == (1, 2)  # what is shown beside the result
    assert widget.results()[-1].data.shape == stack.volume_shape
    assert widget.results()[-1].name == "Conservative interpolation · many c=2 t=1"


def test_a_truth_of_several_times_is_that_of_the_chosen_one(opened: Open, truth: Volume) -> None:
    from napari_microdiffusion.plugin.session import loader

    images = np.stack([truth.data + shift for shift in (0, 1, 2)])
    where = {"axis_labels": ("t", "z", "y", "x")}
    stack = (images[:, ::6], {"name": "p", **where}, "image")
    _, widget = opened(layers=[stack, (images, {"name": "t", **where}, "image")], truth="t", time=2)
    source, reference = widget.data.source(), widget.data.truth()
    loaded, known = loader(widget.value(), source, reference)()
    np.testing.assert_array_equal(loaded.data, images[2, ::6])
    np.testing.assert_array_equal(known.data, images[2])
    assert "Beware" not in widget.data.line.text()
    widget._viewer.layers["t"].data = images[:2]
    widget.setValue(widget.value())
    assert "Beware: t has no time point 2: its last one is used instead" in widget.data.line.text()


@pytest.mark.parametrize(("images", "told"), [(3, "3 projections of 40 × 40"), (2, "has 2 images")])
def test_axes_without_names_are_doubted(opened: Open, images: int, told: str) -> None:
    """As napari's own reader leaves them: the last three may be channels, y and x."""
    data = np.random.default_rng(0).random((2, 8, images, 40, 40), np.float32)
    _, widget = opened(layers=[(data, {"name": "Hyper", "contrast_limits": (0, 1)}, "image")])
    line = widget.data.line.text()
    assert told in line
    assert "its last three axes are taken for projections, y and x" in line


def test_a_voxel_size_that_was_set_is_not_filled_in_again(opened: Open, stack: ProjectionStack) -> None:
    _, widget = opened(layers=[(stack.data, {"name": "plain"}, "image")], scale_um=(3, 1, 1))
    widget.data.beam.slices.setValue(7)
    assert widget.value().scale_um == (3, 1, 1)


def test_a_voxel_size_that_was_cleared_stays_away(opened: Open) -> None:
    _, widget = opened()
    assert widget.value().scale_um is not None
    widget.setValue(widget.value().replace(scale_um=None))
    widget.data.beam.slices.setValue(7)
    assert widget.value().scale_um is None


@pytest.mark.parametrize(
    ("keys", "size", "red"),
    [
        ("2,5", 2.5, False),
        ("0,125", 0.125, False),
        ("1,000", None, True),
        ("1,000.5", None, True),
        ("2.5", 2.5, False),
        ("12345.67", 12345.67, False),
        ("0", None, True),
        ("1e", None, True),
    ],
)
def test_a_voxel_size_as_people_type_it(opened: Open, qtbot: Any, keys: str, size: float | None, red: bool) -> None:
    _, widget = opened()
    line = widget.data.voxel._lines[0]
    line.selectAll()
    qtbot.keyClicks(line, keys)
    scale = widget.value().scale_um
    assert (scale and scale[0]) == size
    assert (line.property("tone") == "wrong") == red
    line.editingFinished.emit()
    assert line.cursorPosition() == 0  # its first digits are in sight


def test_a_setting_that_is_refused_is_red_and_a_comma_is_a_point(opened: Open) -> None:
    _, widget = opened(method="axial")
    editor = widget.method.advanced._editors["objective_na"]
    for text, red in (("0,8", False), ("8", True), ("", False), ("abc", True)):
        editor._inner.setText(text)
        editor.changed.emit()
        assert (editor.field.property("tone") == "wrong") == red
        assert widget.run_box.run_button.isEnabled() != red


def test_what_speaks_against_the_choices_is_said(opened: Open, qtbot: Any) -> None:
    viewer, widget = opened()
    assert "Beware" not in widget.data.line.text()
    widget.setValue(widget.value().replace(truth=""))
    widget.data.beam.slices.setValue(4)
    assert "Beware: the file of vessels projections says 6 slices, stride 6" in widget.data.line.text()
    assert widget.data.line.property("tone") == "beware"
    assert widget.run_box.run_button.isEnabled()
    widget.data.beam.slices.setValue(6)
    finish(qtbot, widget)
    made = as_volume(viewer.layers[-1])
    viewer.add_image(made.data, name="mine", metadata={KEY: {"role": "volume", "provenance": made.provenance}})
    widget.setValue(widget.value().replace(truth="mine"))
    assert "Beware: mine was itself reconstructed" in widget.data.line.text()
    finish(qtbot, widget)  # its scores say so, too
    assert widget.result._note.text().startswith("Beware: mine was itself reconstructed, so scores only tell how much")
    viewer.layers["vessels projections"].rotate = 30
    widget.data.refresh()
    assert "is shown rotated, sheared or otherwise transformed, and the result will not be" in widget.data.line.text()


@pytest.mark.parametrize("value", [0.0012345678, 1e-5, 0.1 + 0.2, 3.0])
def test_a_setting_keeps_all_its_digits(opened: Open, value: float) -> None:
    _, widget = opened(method="axial", overrides={"sigma": value})
    widget.method.advanced._editors["sigma"].changed.emit()
    assert widget.value().overrides == {"sigma": value}


def test_save_and_replay(opened: Open, qtbot: Any, tmp_path: Path) -> None:
    from napari_microdiffusion.run import Job

    _, widget = opened()
    finish(qtbot, widget)
    [layer] = widget.results()
    path, job_path = tmp_path / "v.ome.tif", tmp_path / "a.job.json"
    widget._files.write(layer, path)
    widget._jobs.write(widget.value(), widget.data.source(), job_path)
    qtbot.waitUntil(lambda: path.exists() and job_path.exists(), timeout=10_000)
    saved = read_volume(path)
    np.testing.assert_array_equal(saved.data, layer.data)
    assert saved.scale_um == pytest.approx((1, 0.5, 0.5))
    assert (saved.provenance or {})["method"] == "conservative"
    job = Job.model_validate(json.loads(job_path.read_text()))
    assert job.projections is not None
    assert job.projections.exists()


@pytest.mark.parametrize(
    ("typed", "zarr", "name"),
    [
        ("a", False, "a.ome.tif"),
        ("a", True, "a.ome.zarr"),
        ("a_1.5", True, "a_1.5.ome.zarr"),
        ("a.tif", False, "a.tif"),
        ("a.ome.tif", True, "a.ome.zarr"),
        ("a.zarr", False, "a.zarr"),
    ],
)
def test_suffix_of_a_saved_volume(typed: str, zarr: bool, name: str) -> None:
    assert volume_path(Path(typed), zarr) == Path(name)


def test_a_measurement_is_not_replaced_by_its_volume(
    opened: Open, qtbot: Any, notices: list[str], stack: ProjectionStack, tmp_path: Path
) -> None:
    from napari.layers import Layer

    path = tmp_path / "p.ome.tif"
    write_projections(stack, path)
    before = path.read_bytes()
    viewer, widget = opened(layers=read_layers(path))
    finish(qtbot, widget)
    widget._files.write(viewer.layers[-1], path)
    qtbot.waitUntil(lambda: bool(notices), timeout=10_000)
    assert "is the input itself and would be replaced" in notices[0]
    assert path.read_bytes() == before
    saved = tmp_path / "v.ome.tif"  # what was made from it may take its own place, open or not
    write_volume(as_volume(viewer.layers[-1]), saved)
    for layer in read_layers(saved):
        viewer.add_layer(Layer.create(*layer))
    saved_at = saved.stat().st_ino
    widget._files.write(widget.results()[-1], saved)
    qtbot.waitUntil(lambda: saved.exists() and saved.stat().st_ino != saved_at, timeout=10_000)


def test_saving_asks_before_it_replaces(
    opened: Open, qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qtpy.QtWidgets import QMessageBox

    from napari_microdiffusion.plugin import dialogs

    _, widget = opened()
    finish(qtbot, widget)
    offered, asked, answers = [], [], [QMessageBox.StandardButton.No, QMessageBox.StandardButton.Yes]

    def name(*given: str) -> tuple[str, str]:
        offered.append(given[2])
        return str(tmp_path / "v"), "OME-Zarr (*.ome.zarr)"

    def question(*given: str) -> Any:
        asked.append(given[2])
        return answers.pop(0)

    monkeypatch.setattr(dialogs.QFileDialog, "getSaveFileName", name)
    monkeypatch.setattr(dialogs.QInputDialog, "getItem", lambda *_: (next(iter(dialogs.TYPES)), True))
    monkeypatch.setattr(dialogs.QMessageBox, "question", question)
    path = tmp_path / "v.ome.zarr"
    widget._results.save()
    qtbot.waitUntil(path.exists, timeout=10_000)
    assert not asked
    assert "." not in offered[0]
    before = path.stat().st_ino
    widget._results.save()
    assert "v.ome.zarr already exists" in asked[0]
    widget._results.save()
    qtbot.waitUntil(lambda: path.exists() and path.stat().st_ino != before, timeout=10_000)
    read_volume(path)


def test_beam_width_is_not_rounded_until_it_is_edited(opened: Open) -> None:
    beam = Acquisition(slices=6, profile="gaussian", fwhm=3.14159)
    _, widget = opened(acquisition=beam)
    assert widget.value().acquisition == beam
    widget.data.beam.fwhm.setValue(2.5)
    assert widget.value().acquisition.fwhm == 2.5
    widget.data.beam.fwhm.setValue(0)
    assert widget.value().acquisition.fwhm is None


def test_settings_that_do_nothing_are_greyed_out_and_left_out(opened: Open) -> None:
    _, widget = opened()
    widget.setValue(widget.value().replace(method="inr", overrides={"features": 64}))
    editors = widget.method.advanced._editors
    encoding, features = editors["encoding"]._inner, editors["features"]
    for chosen, others, overrides in (
        ("gaussian", {"octaves", "levels", "cell_z"}, {"features": 64}),
        ("hash", {"octaves", "features", "bandwidth_z"}, {"encoding": "hash"}),
        ("gaussian", {"octaves", "levels", "cell_z"}, {"features": 64}),
    ):
        encoding.setCurrentIndex(encoding.findData(chosen))
        assert not any(editors[path].isEnabled() for path in others)
        assert "Does nothing" in editors["octaves"].toolTip()
        assert editors["steps"].isEnabled()
        assert widget.value().overrides == overrides
        assert widget.value().spec().encoding == chosen
    assert features.isEnabled()
    assert "random frequencies" in features.toolTip()
    widget.method.advanced._reset()
    assert widget.value().overrides == {}


def test_simulate_is_ticked_for_volumes_only(opened: Open) -> None:
    truth, projections = sample("vessels", TINY)
    plain = (projections[0], {"name": "plain"}, "image")
    _, widget = opened(layers=[truth, projections, plain])
    for name, ticked in [("vessels truth", True), ("plain", False), ("vessels truth", True)]:
        widget.data.choose(name)
        assert widget.value().simulate == ticked
    widget.data.choose("vessels projections")
    assert not widget.value().simulate


def test_open_a_file(opened: Open, qtbot: Any, notices: list[str], stack: ProjectionStack, tmp_path: Path) -> None:
    from napari_microdiffusion.io import write_projections

    thin = replace(stack, acquisition=Acquisition(slices=4).bound(len(stack.data)))
    write_projections(thin, tmp_path / "mine.ome.tif")
    _, widget = opened()
    widget.open(tmp_path / "mine.ome.tif")
    qtbot.waitUntil(lambda: widget.value().source == "mine", timeout=10_000)
    assert widget.value().acquisition == Acquisition(slices=4)
    widget.open(tmp_path / "none.tif")
    qtbot.waitUntil(lambda: len(notices) == 1, timeout=10_000)


@pytest.mark.parametrize(
    ("losses", "texts"),
    [
        ([0.031, 0.02, 0.0071], ["0.0071", "0.031"]),
        ([5.0, 0.2, 0.004], ["0.01", "0.1", "1"]),
        ([0.5, 0.5], ["0.5"]),
    ],
)
def test_ticks_of_the_loss_curve(losses: list[float], texts: list[str]) -> None:
    from napari_microdiffusion.plugin.run_box import loss_ticks

    assert [text for _, text in loss_ticks(losses)] == texts


def test_a_long_loss_curve_is_thinned_evenly(qtbot: Any) -> None:
    from napari_microdiffusion.plugin.run_box import LossCurve

    curve = LossCurve()
    qtbot.addWidget(curve)
    for start in range(0, 5000, 7):
        curve.add(tuple((step, 1.0) for step in range(start, min(start + 7, 5000))))
    steps, _ = curve._line.getData()
    assert len(steps) > 300
    assert set(np.diff(steps)) == {16}


def test_the_trend_of_the_loss() -> None:
    from napari_microdiffusion.plugin.run_box import smoothed

    assert smoothed([1.0, 4.0, 1.0]) == pytest.approx([1, 4, 1])  # too few to smooth
    flat = smoothed([1.0, 4.0] * 40)
    assert len(flat) == 80
    assert min(flat[2:-2]) > 1.5
    assert max(flat[2:-2]) < 2.7


def test_a_new_column_fits_the_view(opened: Open, qtbot: Any) -> None:
    viewer, widget = opened(source="vessels truth", simulate=True)
    for method in ("conservative", "linear", "cubic"):
        widget.setValue(widget.value().replace(method=method))
        finish(qtbot, widget)
    assert [layer.name.partition(" ·")[0] for layer in viewer.layers] == [
        "vessels truth",
        "vessels projections",
        "vessels truth projections",
        "Conservative interpolation",
        "Linear interpolation",
        "Cubic interpolation",
    ]
    zoom = viewer.scene.camera.zoom
    viewer.fit_to_view()
    assert viewer.scene.camera.zoom == zoom


def test_truth_is_only_scored(opened: Open, qtbot: Any) -> None:
    viewer, widget = opened(truth="")
    finish(qtbot, widget)
    assert set(facts(viewer.layers[-1])["scores"]) == {"reprojection_max_error"}
    assert widget.result._note.text().startswith("No ground truth")


def test_scores_that_say_nothing_say_so(qtbot: Any) -> None:
    from napari_microdiffusion.plugin.result_box import ResultBox

    box = ResultBox()
    qtbot.addWidget(box)
    box.show_known({"scores": {"psnr": 40.0}, "beware": "the scores are worthless"}, has_job=False)
    assert box._note.text().startswith("Beware: the scores are worthless.")


def test_scores_go_with_their_result(opened: Open, qtbot: Any) -> None:
    viewer, widget = opened()
    finish(qtbot, widget)
    assert widget.result._values["psnr"].text().endswith("dB")
    viewer.layers.remove(widget.results()[-1])
    assert {label.text() for label in widget.result._values.values()} == {"–"}
    assert not widget.result._note.isVisibleTo(widget.result)


@pytest.mark.parametrize(("times", "told"), [(1.0, 0), (16.0, 1), (257.0, 1)])
def test_a_truth_of_another_bit_depth_is_named_and_darkens_nothing(
    opened: Open,
    qtbot: Any,
    truth: Volume,
    stack: ProjectionStack,
    times: float,
    told: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layers = [(stack.data, {"name": "p"}, "image"), (times * truth.data, {"name": "t"}, "image")]
    _, widget = opened(layers=layers, source="p", truth="t")
    said: list[str] = []
    monkeypatch.setattr("napari_microdiffusion.plugin.running.show_info", said.append)
    finish(qtbot, widget)
    assert len([notice for notice in said if "on another scale" in notice]) == told
    assert ("on another scale" in widget.result._note.text()) == bool(told)  # and stays beside the scores
    low, high = widget.results()[-1].contrast_limits
    assert high - low < 5 * np.ptp(stack.data)


@pytest.mark.parametrize(
    ("text", "name", "shown"),
    [
        ("no memory is left", "e2", "No memory is left"),
        ("e2 has 2 images", "e2", "e2 has 2 images"),
        ("projections are blank", "p", "Projections are blank"),
        ("there is none", "", "There is none"),
    ],
)
def test_messages_begin_with_a_capital_but_names_stay(text: str, name: str, shown: str) -> None:
    from napari_microdiffusion.plugin.session import sentence

    assert sentence(text, name) == shown


@pytest.mark.parametrize(
    ("text", "slices", "told"),
    [
        ("1\n2\n1\n", 3, "beam.csv holds 3 weights, and slices per projection are now 3"),
        ("1\n" * 6, 6, ""),
        ("1\n-2\n1\n", 6, "beam.csv cannot be used: profile weights must be finite, not negative"),
        ("0,2\n0,5\n0,2\n", 6, "several numbers in a line"),
    ],
)
def test_a_measured_profile(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, slices: int, told: str
) -> None:
    from qtpy.QtWidgets import QFileDialog

    said: list[str] = []
    for name in ("show_error", "show_info"):
        monkeypatch.setattr(f"napari_microdiffusion.plugin.beam.{name}", said.append)
    (tmp_path / "beam.csv").write_text(text)
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (str(tmp_path / "beam.csv"), ""))
    _, widget = opened()
    beam = widget.data.beam
    profiles = beam.profile
    for key, expected in (("measured", slices), ("uniform", 6)):  # what it was before comes back
        profiles.setCurrentIndex(profiles.findData(key))
        profiles.activated.emit(profiles.currentIndex())
        assert beam.value().slices == expected
    assert told in "".join(said)
    assert bool(said) == bool(told)
    assert "pydantic" not in "".join(said)


def test_a_layer_that_is_removed_is_not_replaced_by_another(opened: Open) -> None:
    viewer, widget = opened()
    assert widget.value().source == "vessels projections"
    viewer.layers.remove("vessels projections")
    assert widget.value().source == ""
    assert "Choose an image" in widget.problem()
    viewer.layers[0].name = "renamed"  # other things that happen choose nothing either
    assert widget.value().source == ""
    viewer.add_image(np.ones(TINY), name="new")
    assert widget.value().source == "new"


def test_a_voxel_size_that_a_layer_states_later_is_taken(opened: Open, stack: ProjectionStack) -> None:
    viewer, widget = opened(layers=[(stack.data, {"name": "p"}, "image")])
    widget.setValue(widget.value().replace(acquisition=Acquisition(slices=6)))
    assert widget.value().scale_um is None
    layer = viewer.layers["p"]
    layer.units = "um"
    layer.scale = (12, 0.5, 0.5)
    assert widget.value().scale_um == pytest.approx((2, 0.5, 0.5))
    widget.setValue(widget.value().replace(scale_um=(3, 1, 1)))
    layer.scale = (6, 0.5, 0.5)
    assert widget.value().scale_um == pytest.approx((3, 1, 1))  # people have the last word


def test_a_result_that_is_opened_does_not_become_the_data(opened: Open, stack: ProjectionStack) -> None:
    made = {"name": "of yesterday", "metadata": {KEY: {"role": "volume", "provenance": {"complete": True, "job": {}}}}}
    viewer, widget = opened(layers=[(np.ones(TINY), made, "image")])
    assert widget.value().source == ""
    viewer.add_image(stack.data, name="mine")
    assert widget.value().source == "mine"


def test_more_axes_than_can_be_chosen_from_are_refused_before_the_run(opened: Open) -> None:
    _, widget = opened(layers=[(np.random.default_rng(0).random((2, 3, 4, 5, 40, 40)), {"name": "p"}, "image")])
    assert "p has 6 axes (2, 3, 4, 5, 40, 40)" in widget.problem()


@pytest.mark.parametrize(
    ("lengths", "labels", "axes"),
    [
        ((3, 2), None, {"time": 3, "channel": 2}),
        ((40, 2), None, {"time": 40, "channel": 2}),
        ((2, 40), None, {"channel": 2, "time": 40}),
        ((3, 2), ("c", "t", "z", "y", "x"), {"channel": 3, "time": 2}),
        ((4,), None, {"channel": 4}),
        ((40,), None, {"time": 40}),
    ],
)
def test_axes_that_nobody_names_are_guessed_and_that_is_told(opened: Open, lengths, labels, axes) -> None:
    attributes = {"name": "p"} | ({} if labels is None else {"axis_labels": labels})
    viewer, widget = opened(layers=[(np.random.default_rng(0).random((*lengths, 6, 40, 40)), attributes, "image")])
    assert extra_axes(viewer.layers[0]) == axes
    told = "is taken for time points" in widget.data.line.text() or "is taken for channels" in widget.data.line.text()
    assert told == (labels is None)


def test_what_is_chosen_is_what_is_looked_at(opened: Open, qtbot: Any, stack: ProjectionStack) -> None:
    layer = (np.stack([stack.data] * 5), {"name": "movie", "axis_labels": ("t", "z", "y", "x")}, "image")
    viewer, widget = opened(layers=[layer])
    assert widget.value().time == viewer.dims.current_step[0] == 2  # where napari puts a new layer's sliders
    viewer.add_image(stack.data, name="still")
    widget.data.choose("still")
    viewer.dims.set_current_step(0, 4)
    widget.data.choose("movie")
    assert widget.value().time == 4
    widget.data._time.setCurrentIndex(3)
    qtbot.waitUntil(lambda: viewer.dims.current_step[0] == 3, timeout=5000)
    viewer.dims.set_current_step(0, 1)  # people look elsewhere
    widget.setValue(widget.value().replace(seed=5))
    qtbot.wait(50)
    assert viewer.dims.current_step[0] == 1


def test_names_that_the_box_cuts_off_are_in_its_tooltip(opened: Open) -> None:
    _, widget = opened()
    assert widget.data._source.toolTip().startswith("vessels projections\nThe layer with your projections")


def test_renamed_layers_stay_chosen(opened: Open) -> None:
    viewer, widget = opened()
    viewer.layers["vessels projections"].name = "mine"
    assert widget.value().source == "mine"
    assert widget.value().truth == "vessels truth"


def test_demo_keeps_its_results(tmp_path: Path, make_napari_viewer: Callable[..., Any], qtbot: Any) -> None:
    from napari_microdiffusion.plugin import demo

    viewer = make_napari_viewer(show=True)
    show = demo.Demo(viewer, None, None, None, {"method": "conservative"})
    show.begin()
    qtbot.waitUntil(lambda: show.widget.message.startswith("Done"), timeout=30_000)
    found = demo.keep(show.widget, viewer, tmp_path)
    assert [path.name for path in found] == ["screenshot.png", "volume.ome.tif", "scores.json"]
    assert json.loads(found[2].read_text())["psnr"] > 25
    assert isinstance(read_volume(found[1]), Volume)
    assert KEY in viewer.layers[-1].metadata


def test_settings_that_are_folded_up_take_no_keys(opened: Open) -> None:
    _, widget = opened(method="inr")
    advanced = widget.method.advanced
    for expanded in (False, True, False):
        (advanced.expand if expanded else advanced.collapse)()
        assert advanced._editors["steps"].field.isVisibleTo(widget) == expanded


def test_tab_goes_through_the_settings_in_their_order(opened: Open) -> None:
    _, widget = opened(method="inr")
    widget.method.advanced.expand()
    fields = [editor.field for editor in widget.method.advanced._editors.values()]
    following, at = [], widget.method.advanced.toggleButton()
    while len(following) < len(fields):
        at = at.nextInFocusChain()
        following += [at] if at in fields else []
        assert at is not widget.run_box.run_button
    assert following == fields


def test_what_can_be_reconstructed_is_chosen_first(opened: Open) -> None:
    photo = (np.zeros((40, 40, 3), np.uint8), {"name": "photo", "rgb": True}, "image")
    stack = (sample("vessels", TINY)[1][0], {"name": "mine"}, "image")
    _, widget = opened(layers=[photo, stack])  # opened one after the other
    assert widget.value().source == "mine"
    viewer, widget = opened(layers=[photo])
    assert "colour image" in widget.problem()
    viewer.add_image(stack[0], name="mine")
    assert widget.value().source == "mine"


def test_results_of_other_beams_have_other_names(opened: Open, qtbot: Any) -> None:
    _, widget = opened(layers=[sample("vessels", TINY)[0]], simulate=True)
    for slices in (6, 4):
        widget.data.beam.slices.setValue(slices)
        finish(qtbot, widget)
    assert [layer.name.rpartition("truth")[2] for layer in widget.results()] == ["", " n=4"]


def test_projections_that_are_simulated_anew_look_as_before(opened: Open, qtbot: Any) -> None:
    viewer, widget = opened(layers=[sample("vessels", TINY)[0]], simulate=True)
    finish(qtbot, widget)
    before = next(layer for layer in viewer.layers if layer.name.endswith("projections"))
    before.colormap, before.visible = "viridis", False
    finish(qtbot, widget)
    after = next(layer for layer in viewer.layers if layer.name.endswith("projections"))
    assert after is not before
    assert (after.colormap.name, after.visible, after.blending) == ("viridis", False, "translucent_no_depth")
