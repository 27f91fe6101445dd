"""How far to trust a result, in the window: the verdict, the maps, the score without truth; needs a display."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from qtpy.QtCore import Qt

from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.checkpoint import Origin
from napari_microdiffusion.events import Event, Stage, Step, TooLarge, exhaust
from napari_microdiffusion.io import read_volume, write_volume
from napari_microdiffusion.methods import Conservative, Context, Linear, Weights
from napari_microdiffusion.metrics import Residual, evaluate, residual_map
from napari_microdiffusion.plugin import maps, scoring
from napari_microdiffusion.plugin.contributions import read_layers, sample, write_image
from napari_microdiffusion.plugin.files import as_volume
from napari_microdiffusion.plugin.known import Ran, facts
from napari_microdiffusion.plugin.maps import INTERVAL, RESIDUAL, UNCERTAINTY
from napari_microdiffusion.plugin.trust_box import NO_MAP, NO_RUN, TOO_FEW, TrustBox, in_bold
from napari_microdiffusion.presets import spec
from napari_microdiffusion.reliability import Reliability
from napari_microdiffusion.run import Job, Result
from napari_microdiffusion.run import run as engine_run
from napari_microdiffusion.trained import Trained
from napari_microdiffusion.trust import held_out
from napari_microdiffusion.verdict import verdict
from napari_microdiffusion.volume import ProjectionStack, Volume

pytestmark = pytest.mark.skipif(
    sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")),
    reason="needs a display",
)

TINY = (36, 48, 48)
Open = Callable[..., tuple[Any, Any]]
Use = Callable[[Any], None]


class Sure(Linear):
    """Says how certain it is, in the working range; contradicts the projections, as linear interpolation does."""

    def predict(self, stack: ProjectionStack, weights: Weights, context: Context) -> Generator[Event, None, Volume]:
        volume = yield from super().predict(stack, weights, context)
        std = np.abs(np.gradient(volume.data, axis=0)).astype(np.float32) + np.float32(0.01)
        return replace(volume, reliability=Reliability(std, volume.data - 2 * std, volume.data + 2 * std))


class Held(Sure):
    """Goes on when it is let go."""

    free: ClassVar[threading.Event] = threading.Event()

    def predict(self, stack: ProjectionStack, weights: Weights, context: Context) -> Generator[Event, None, Volume]:
        assert self.free.wait(20)
        return (yield from super().predict(stack, weights, context))


class Slow(Conservative):
    """Takes its time on hidden projections: from the turn ``quick`` on, where that is given."""

    retrains: ClassVar[bool] = True
    quick: int = 0

    def fit(self, stack: ProjectionStack, context: Context) -> Generator[Event, None, Weights]:
        yield Stage("Training", 400)
        hidden = stack.acquisition.hidden
        for step in range(400 if hidden and hidden[0] > self.quick else 2):
            time.sleep(0.01)
            yield Step(step + 1, loss=1 / (step + 1))
            if context.should_stop():
                break
        return {}


class Broken(Conservative):
    """Works on the whole stack, and runs out of memory on a part of it."""

    retrains: ClassVar[bool] = True

    def fit(self, stack: ProjectionStack, context: Context) -> Generator[Event, None, Weights]:  # noqa: ARG002
        yield Stage("Training", 1)
        if stack.acquisition.hidden:
            raise MemoryError
        return {}


def run(qtbot: Any, widget: Any) -> Any:
    """Run to the end; the result's layer."""
    with qtbot.waitSignal(widget.finished, timeout=60_000):
        widget.run()
    return widget.results()[-1]


def tick(qtbot: Any, viewer: Any, widget: Any, kind: str) -> list[Any]:
    """Ask for a map; the layers that come."""
    before = set(viewer.layers)
    widget.result.trust._maps[kind].click()
    qtbot.waitUntil(lambda: len(viewer.layers) > len(before), timeout=10_000)
    return [layer for layer in viewer.layers if layer not in before]


def score(qtbot: Any, widget: Any) -> None:
    widget.result.trust._button.click()
    assert widget._trust.running
    qtbot.waitUntil(lambda: not widget._trust.running, timeout=60_000)


def words(widget: Any) -> str:
    """The verdict as people read it."""
    from qtpy.QtGui import QTextDocument

    document = QTextDocument()
    document.setHtml(widget.result.trust._verdict.text())
    return str(document.toPlainText()).replace("\xa0", " ")


# -- the box alone ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("possible", "never", "enabled", "tooltip"),
    [(True, "", True, "Hide projections"), (True, TOO_FEW, False, "four projections"), (False, "", False, "Hide")],
)
def test_a_score_that_cannot_be_says_why(qtbot: Any, possible: bool, never: str, enabled: bool, tooltip: str) -> None:
    box = TrustBox()
    qtbot.addWidget(box)
    box.show_score("", possible, never)
    assert box._button.isEnabled() is enabled
    assert tooltip in box._button.toolTip()


def test_in_bold() -> None:
    text = in_bold("Measured: 6 of 9 < 12 µm to 5 %. How sure: ±3 %.")
    assert text == "<b>Measured:</b> 6 of 9 &lt; 12&nbsp;µm to 5&nbsp;%. <b>How sure:</b> ±3&nbsp;%."


@pytest.mark.parametrize(
    ("possible", "enabled", "tooltip"),
    [
        (set(), [], "run the method first"),
        ({RESIDUAL}, [RESIDUAL], "The method axial does"),
        ({UNCERTAINTY, INTERVAL, RESIDUAL}, [UNCERTAINTY, INTERVAL, RESIDUAL], "Standard deviation"),
    ],
)
def test_maps_that_cannot_be_say_why(qtbot: Any, possible: set[str], enabled: list[str], tooltip: str) -> None:
    box = TrustBox()
    qtbot.addWidget(box)
    said: list[Any] = []
    box.toggled.connect(lambda *given: said.append(given))
    box.show_maps(possible, possible, NO_MAP if possible else NO_RUN)
    assert [kind for kind, each in box._maps.items() if each.isEnabled()] == enabled
    assert [kind for kind, each in box._maps.items() if each.isChecked()] == enabled
    assert tooltip in box._maps[UNCERTAINTY].toolTip()
    assert said == []  # nobody has clicked


# -- the verdict -----------------------------------------------------------------------------


def test_the_verdict_is_that_of_the_run(opened: Open, qtbot: Any, method: Use) -> None:
    from qtpy.QtCore import Qt

    _, widget = opened(show=True)
    method(Sure())
    ran = facts(run(qtbot, widget))["ran"]
    assert words(widget) == verdict(ran.result, ran.stack)
    assert "90 % probability" in words(widget)
    label = widget.result.trust._verdict
    assert label.isVisible()
    assert label.textInteractionFlags() & Qt.TextInteractionFlag.TextSelectableByMouse
    qtbot.waitUntil(lambda: label.height() >= label.heightForWidth(label.width()), timeout=5000)  # none is cut off


def test_denoised_projections_are_told_and_what_was_taken_shows(opened: Open, qtbot: Any) -> None:
    viewer, widget = opened()
    layer = viewer.layers["vessels projections"]
    layer.data = np.random.default_rng(0).poisson(10 * layer.data / layer.data.max()).astype(np.uint16)
    run(qtbot, widget)
    assert "or denoising the projections first" in words(widget)
    widget.data._denoise.click()
    ran = facts(run(qtbot, widget))["ran"]
    assert widget.results()[-1].name == "Conservative interpolation · vessels projections, denoised"
    assert "they were denoised first, and the volume differs from what was measured by" in words(widget)
    np.testing.assert_array_equal(ran.stack.data, layer.data)
    assert ran.job.denoise
    assert ran.result.residual.rms > 0.1


def test_every_result_has_its_own_verdict(opened: Open, qtbot: Any) -> None:
    _, widget = opened(method="linear")
    linear = run(qtbot, widget)
    first = words(widget)
    widget.setValue(widget.value().replace(method="conservative"))
    run(qtbot, widget)
    assert words(widget) != first
    widget.result._results.setCurrentText(linear.name)
    assert words(widget) == first


def test_without_a_result_there_is_nothing_to_trust(opened: Open, qtbot: Any) -> None:
    viewer, widget = opened()
    box = widget.result.trust
    assert not box._button.isEnabled()
    viewer.layers.remove(run(qtbot, widget))
    assert words(widget) == ""
    assert not box._button.isEnabled()
    assert not any(each.isEnabled() for each in box._maps.values())


def test_a_stopped_run_is_called_unfinished(opened: Open, qtbot: Any, method: Use) -> None:
    viewer, widget = opened()

    class Endless(Slow):
        def fit(self, stack: ProjectionStack, context: Context) -> Generator[Event, None, Weights]:  # noqa: ARG002
            yield Stage("Training", 1000)
            while not context.should_stop():
                time.sleep(0.01)
                yield Step(1)
            return {}

    method(Endless())
    widget.run()
    qtbot.waitUntil(lambda: len(viewer.layers) == 3, timeout=20_000)
    assert words(widget) == ""  # of this result nothing is known yet
    with qtbot.waitSignal(widget.finished, timeout=10_000):
        widget.stop()
    assert words(widget).startswith("Unfinished")


def test_coverage_is_told_where_there_is_a_truth(opened: Open, qtbot: Any, method: Use) -> None:
    viewer, widget = opened()
    method(Sure())
    layer = run(qtbot, widget)
    ran, truth = facts(layer)["ran"], as_volume(viewer.layers["vessels truth"])
    scores = evaluate(as_volume(layer), truth, ran.stack)
    assert facts(layer)["scores"] == pytest.approx(scores)
    note = widget.result._note.text()
    assert f"{100 * scores['coverage_90']:.0f} % lie in the 90 % interval" in note
    assert f"{scores['flagged_error_ratio']:.1f} times" in note


# -- maps ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [UNCERTAINTY, INTERVAL])
def test_maps_lie_where_the_volume_lies(opened: Open, qtbot: Any, method: Use, kind: str) -> None:
    where = {"name": "mine", "scale": (6, 0.5, 0.4), "units": "µm", "translate": (7, 1, 2)}
    viewer, widget = opened(layers=[(sample("vessels", TINY)[1][0], where, "image")])
    method(Sure())
    volume = run(qtbot, widget)
    for layer in tick(qtbot, viewer, widget, kind):
        np.testing.assert_allclose(layer.scale, volume.scale)
        np.testing.assert_allclose(layer.translate, volume.translate)
        assert layer.units == volume.units
        assert layer.axis_labels == volume.axis_labels == ("z", "y", "x")
        assert layer.name.endswith("· Conservative interpolation · mine")


def test_maps_are_computed_beside_the_window_and_added_in_it(
    opened: Open, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    for name in ("pictures", "show"):
        plain = getattr(maps, name)
        monkeypatch.setattr(
            maps, name, lambda *given, plain=plain: (threads.append(threading.current_thread().name), plain(*given))[1]
        )
    viewer, widget = opened()
    run(qtbot, widget)
    tick(qtbot, viewer, widget, RESIDUAL)
    assert threads[0] != "MainThread"
    assert threads[1] == "MainThread"


def test_maps_show_the_reliability(opened: Open, qtbot: Any, method: Use) -> None:
    viewer, widget = opened(show=True)
    method(Sure())
    volume = run(qtbot, widget)
    found = facts(volume)["ran"].result.volume.reliability
    [std] = tick(qtbot, viewer, widget, UNCERTAINTY)
    np.testing.assert_array_equal(std.data, found.std)
    assert std.name.startswith("Standard deviation")
    assert std.colormap.name == "magma"
    assert list(std.contrast_limits) == pytest.approx([0, found.std.max()])
    assert std.colorbar.visible
    lower, upper = tick(qtbot, viewer, widget, INTERVAL)
    assert lower.blending == upper.blending == widget.results()[-1].blending  # else they cut each other up in 3D
    np.testing.assert_array_equal(lower.data, found.lower)
    np.testing.assert_array_equal(upper.data, found.upper)
    viewer.layers["vessels truth"].contrast_limits = (0.1, 0.6)
    assert [list(layer.contrast_limits) for layer in (lower, upper)] == [[0.1, 0.6]] * 2
    assert viewer.layers.index(volume) < min(viewer.layers.index(layer) for layer in (std, lower, upper))
    assert viewer.canvas.grid.enabled


@pytest.mark.parametrize(
    "where",
    [
        {"scale": (6, 0.5, 0.4), "units": "µm", "translate": (7, 1, 2)},
        {"scale": (18, 0.5, 0.5), "translate": (7, 1, 2)},
        {},
    ],
)
def test_the_residual_lies_where_the_projections_lie(opened: Open, qtbot: Any, where: dict[str, Any]) -> None:
    data = sample("vessels", TINY)[1][0]
    viewer, widget = opened(layers=[(data, {"name": "mine", **where}, "image")], method="linear")
    volume = run(qtbot, widget)
    source = viewer.layers["mine"]
    [layer] = tick(qtbot, viewer, widget, RESIDUAL)
    np.testing.assert_allclose(layer.scale, source.scale)
    np.testing.assert_allclose(layer.translate, source.translate)
    assert layer.units == source.units
    np.testing.assert_array_equal(layer.data, residual_map(volume.data, facts(volume)["ran"].stack))
    low, high = layer.contrast_limits
    assert low == -high
    assert 0.5 * np.abs(layer.data).max() < high <= np.abs(layer.data).max()
    middle = layer.colormap.map(np.array([0.5]))[0]
    assert middle[:3].max() < 0.02  # black where they agree


def test_projections_left_out_leave_their_place_empty(opened: Open, qtbot: Any) -> None:
    viewer, widget = opened()
    widget.data._leave_out.setText("1, 3")
    assert "4 of 6 projections of 48 × 48 → a volume of 36 × 48 × 48" in widget.data.line.text()
    volume = run(qtbot, widget)
    truth, projections = viewer.layers["vessels truth"], viewer.layers["vessels projections"]
    assert volume.data.shape == truth.data.shape
    np.testing.assert_allclose(volume.translate, truth.translate)
    assert "4 of 6 projections" in words(widget)
    stack = facts(volume)["ran"].stack
    assert stack.acquisition.hidden == (0, 2)
    np.testing.assert_array_equal(stack.data, np.delete(projections.data, (0, 2), 0))
    [residual] = tick(qtbot, viewer, widget, RESIDUAL)
    np.testing.assert_allclose(residual.translate, projections.translate)
    np.testing.assert_array_equal(np.delete(residual.data, (0, 2), 0), residual_map(volume.data, stack))
    assert residual.data.shape == projections.data.shape
    assert not residual.data[[0, 2]].any()
    score(qtbot, widget)
    assert "it predicts hidden projections to" in words(widget)
    widget.data.choose("vessels truth")
    widget.data.choose("vessels projections")
    assert widget.value().leave_out == ""  # of another layer


def test_rounding_is_not_blown_up_to_a_residual(opened: Open, qtbot: Any) -> None:
    viewer, widget = opened()
    run(qtbot, widget)
    [layer] = tick(qtbot, viewer, widget, RESIDUAL)
    span = np.ptp(viewer.layers["vessels projections"].data)
    assert layer.contrast_limits[1] == pytest.approx(0.01 * span, rel=1e-5)
    assert np.abs(layer.data).max() < 1e-5 * span


def test_maps_come_and_go(opened: Open, qtbot: Any, method: Use) -> None:
    from superqt.utils._qthreading import WorkerBase

    viewer, widget = opened()
    method(Sure())
    run(qtbot, widget)
    boxes = widget.result.trust._maps
    tick(qtbot, viewer, widget, INTERVAL)
    boxes[INTERVAL].click()
    assert len(viewer.layers) == 3
    [std] = tick(qtbot, viewer, widget, UNCERTAINTY)
    viewer.layers.remove(std)  # by hand
    assert not boxes[UNCERTAINTY].isChecked()
    boxes[UNCERTAINTY].click()
    boxes[UNCERTAINTY].click()  # thought better of it before it came
    qtbot.waitUntil(lambda: not WorkerBase._worker_set, timeout=5000)
    qtbot.wait(50)
    assert len(viewer.layers) == 3
    for _ in range(3):
        boxes[UNCERTAINTY].click()
    qtbot.waitUntil(lambda: not WorkerBase._worker_set, timeout=5000)
    qtbot.wait(50)
    assert len(viewer.layers) == 4
    assert boxes[UNCERTAINTY].isChecked()


def test_maps_belong_to_their_result(opened: Open, qtbot: Any) -> None:
    viewer, widget = opened(method="linear")
    linear = run(qtbot, widget)
    tick(qtbot, viewer, widget, RESIDUAL)
    widget.setValue(widget.value().replace(method="cubic"))
    cubic = run(qtbot, widget)
    boxes = widget.result.trust._maps
    assert not boxes[RESIDUAL].isChecked()
    linear.name = "renamed"
    widget.result._results.setCurrentText("renamed")
    assert boxes[RESIDUAL].isChecked()
    widget.result._results.setCurrentText(cubic.name)
    assert not boxes[RESIDUAL].isChecked()


def test_maps_are_no_data_to_reconstruct_from(opened: Open, qtbot: Any) -> None:
    viewer, widget = opened()
    run(qtbot, widget)
    tick(qtbot, viewer, widget, RESIDUAL)
    assert widget.value().source == "vessels projections"
    offered = [widget.data._source.itemText(i) for i in range(widget.data._source.count())]
    assert offered == ["vessels truth", "vessels projections"]
    assert len(widget.results()) == 1


# -- the score without truth -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["linear", "conservative"])
def test_score_without_truth(opened: Open, qtbot: Any, name: str) -> None:
    _, widget = opened(method=name, truth="")
    layer = run(qtbot, widget)
    score(qtbot, widget)
    ran = facts(layer)["ran"]
    expected = exhaust(held_out(ran.job, ran.stack)).psnr
    plain = exhaust(held_out(ran.job.model_copy(update={"method": Conservative()}), ran.stack)).psnr
    text = widget.result.trust._score_text.text()
    assert f"hidden projections: {expected:.1f} dB" in text
    assert (f"plain interpolation: {plain:.1f} dB" in text) == (name == "linear")
    assert words(widget) == verdict(ran.result, ran.stack, expected, plain)
    assert widget.run_box.run_button.isEnabled()
    assert not widget.run_box.stop_button.isEnabled()
    assert widget.run_box._stage.text() == "Scored"


def test_a_score_stays_with_its_result(opened: Open, qtbot: Any) -> None:
    _, widget = opened(method="linear")
    linear = run(qtbot, widget)
    score(qtbot, widget)
    scored = words(widget)
    widget.setValue(widget.value().replace(method="conservative"))
    run(qtbot, widget)
    assert widget.result.trust._score_text.text() == ""
    widget.result._results.setCurrentText(linear.name)
    assert words(widget) == scored
    assert "dB" in widget.result.trust._score_text.text()


def test_one_thing_at_a_time(opened: Open, qtbot: Any, method: Use) -> None:
    _, widget = opened()
    method(Slow())
    run(qtbot, widget)
    button = widget.result.trust._button
    button.click()
    qtbot.waitUntil(lambda: widget.run_box._stage.text() == "1 of 4: Training", timeout=20_000)
    assert not button.isEnabled()
    assert not widget.run_box.run_button.isEnabled()
    widget.run()
    assert not widget.running
    asked = time.monotonic()
    widget.run_box.stop_button.click()
    qtbot.waitUntil(lambda: not widget._trust.running, timeout=5000)
    assert time.monotonic() - asked < 2
    assert button.isEnabled()
    assert widget.run_box.run_button.isEnabled()
    run(qtbot, widget)


@pytest.mark.parametrize(
    ("quick", "text", "message"),
    [
        (0, "", "Stopped before there was a score"),
        (2, "(2 of 4 turns)", "Stopped; the score is that of the turns so far"),
    ],
)
def test_stop_while_scoring(
    opened: Open, qtbot: Any, method: Use, notices: list[str], quick: int, text: str, message: str
) -> None:
    _, widget = opened()
    method(Slow(quick=quick))
    run(qtbot, widget)
    widget.result.trust._button.click()
    stage = f"{quick + 1} of 4: Training"
    qtbot.waitUntil(lambda: widget.run_box._stage.text() == stage, timeout=20_000)
    widget.run_box.stop_button.click()
    qtbot.waitUntil(lambda: not widget._trust.running, timeout=5000)
    assert text in widget.result.trust._score_text.text()
    assert ("dB (those that had their turn before the stop)" in words(widget)) == bool(text)
    assert widget.run_box._stage.text() == message
    assert notices == []


def test_a_score_that_fails_is_one_notice(opened: Open, qtbot: Any, method: Use, notices: list[str]) -> None:
    _, widget = opened()
    method(Broken())
    run(qtbot, widget)
    score(qtbot, widget)
    assert len(notices) == 1
    assert "emory ran out" in notices[0]
    assert widget.run_box.run_button.isEnabled()
    assert widget.result.trust._button.isEnabled()


def test_too_few_projections_are_refused_in_words(opened: Open, qtbot: Any, notices: list[str]) -> None:
    data = sample("vessels", TINY)[1][0][:3]
    _, widget = opened(layers=[(data, {"name": "mine"}, "image")])
    run(qtbot, widget)
    widget.result.trust._button.click()
    assert not widget._trust.running
    assert "four projections or more" in widget.result.trust._button.toolTip()
    assert notices == []


def test_removing_the_result_stops_its_score(opened: Open, qtbot: Any, method: Use, notices: list[str]) -> None:
    viewer, widget = opened()
    method(Slow())
    layer = run(qtbot, widget)
    widget.result.trust._button.click()
    qtbot.waitUntil(lambda: widget.run_box._stage.text() == "1 of 4: Training", timeout=20_000)
    viewer.layers.remove(layer)
    qtbot.waitUntil(lambda: not widget._trust.running, timeout=5000)
    assert notices == []


@pytest.mark.parametrize(
    ("name", "settings", "given", "first"),
    [
        ("axial", {}, True, "before"),
        ("axial", {"fine_tuning": 2}, True, "before"),  # else the score would tune them twice
        ("axial", {"fine_tuning": 2}, False, "after"),
        ("sparse3diff", {}, True, "before"),
    ],
)
def test_a_score_starts_from_weights_that_were_not_fitted_yet(
    name: str, settings: dict[str, Any], given: bool, first: str
) -> None:
    weights: dict[str, Weights] = {"before": {}, "after": {}}
    stack = ProjectionStack(np.zeros((5, 32, 32), np.float32), Acquisition(slices=6))
    method = spec(name, overrides=settings)
    before = Trained(method, weights["before"], Origin(acquisition=stack.acquisition)) if given else None
    result = Result(Volume(np.zeros(stack.volume_shape)), weights["after"], Residual(0, 0), False, 1.0)
    ran = Ran(Job(method=method), stack, result, before)
    assert scoring._weights(ran) is weights[first]


@pytest.mark.parametrize("fitted", [True, False])
def test_a_score_that_is_too_good_says_so(stack: ProjectionStack, fitted: bool) -> None:
    result = exhaust(engine_run(Job(method=Conservative()), stack))
    base = Trained(
        spec("recurrent_mz"), {}, Origin(acquisition=stack.acquisition, input_sha256=stack.sha256 if fitted else None)
    )
    scored = exhaust(scoring.score(lambda: False, Ran(Job(method=Conservative()), stack, result, base)))
    assert ("fitted to these very projections" in scored.text) == fitted


def test_closing_the_widget_stops_scoring(opened: Open, qtbot: Any, method: Use) -> None:
    from superqt.utils._qthreading import WorkerBase

    viewer, widget = opened()
    method(Slow())
    run(qtbot, widget)
    widget.result.trust._button.click()
    qtbot.waitUntil(lambda: widget.run_box._stage.text() == "1 of 4: Training", timeout=20_000)
    assert WorkerBase._worker_set
    viewer.window.remove_dock_widget(widget)
    widget.deleteLater()
    qtbot.waitUntil(lambda: not WorkerBase._worker_set, timeout=3000)


# -- files -----------------------------------------------------------------------------------


def test_saving_keeps_the_reliability(
    opened: Open, qtbot: Any, method: Use, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("napari_microdiffusion.plugin.files.show_info", said.append)
    _, widget = opened()
    method(Sure())
    layer = run(qtbot, widget)
    widget._files.write(layer, tmp_path / "v.ome.tif")
    qtbot.waitUntil(lambda: bool(said), timeout=10_000)
    assert "its uncertainty in v_reliability.ome.tif" in said[0]
    found = facts(layer)["ran"].result.volume.reliability
    saved = read_volume(tmp_path / "v.ome.tif").reliability
    assert saved is not None
    np.testing.assert_array_equal(saved.std, found.std)
    data, attributes, _ = layer.as_layer_data_tuple()
    names = [Path(path).name for path in write_image(str(tmp_path / "w.ome.zarr"), data, attributes)]
    assert names == ["w.ome.zarr", "w_reliability.ome.zarr"]


def test_a_cropped_result_is_saved_without_its_reliability(
    opened: Open, qtbot: Any, method: Use, tmp_path: Path
) -> None:
    _, widget = opened()
    method(Sure())
    layer = run(qtbot, widget)
    data, attributes, _ = layer.as_layer_data_tuple()
    assert len(write_image(str(tmp_path / "w.ome.tif"), data[:6], attributes)) == 1


def test_a_saved_result_is_one_again_when_it_is_opened(opened: Open, qtbot: Any, method: Use, tmp_path: Path) -> None:
    from napari.layers import Layer

    method(Sure())
    viewer, widget = opened()
    layer = run(qtbot, widget)
    score(qtbot, widget)
    told, found = words(widget), facts(layer)["ran"].result.volume.reliability
    assert "hidden projections" in told
    path = tmp_path / "v.ome.tif"
    write_volume(as_volume(layer), path)
    viewer.layers.remove(layer)
    for saved in read_layers(path):
        viewer.add_layer(Layer.create(*saved))
    assert [each.name for each in widget.results()] == ["v"]
    assert (widget.result.current(), words(widget)) == ("v", told)
    assert "6 slices, stride 6" in widget.result._results.itemData(0, Qt.ItemDataRole.ToolTipRole)
    trust = widget.result.trust
    assert not trust._button.isEnabled()
    assert "this session" in trust._button.toolTip()
    made = widget.value()
    widget.setValue(made.replace(method="inr", preset="standard", acquisition=Acquisition(slices=5), seed=3))
    widget.result._again.click()
    assert widget.value() == made.replace(method="linear")  # what `Sure` is
    assert [kind for kind, box in trust._maps.items() if box.isEnabled()] == [UNCERTAINTY, INTERVAL]
    [shown] = tick(qtbot, viewer, widget, UNCERTAINTY)
    np.testing.assert_array_equal(shown.data, found.std)
    again = as_volume(widget.results()[-1])  # to be saved in another format
    assert again.reliability is not None
    np.testing.assert_array_equal(again.reliability.upper, found.upper)


@pytest.mark.parametrize("change", ["moved", "another's", "damaged"])
def test_an_uncertainty_that_is_gone_is_told_and_no_other_is_taken(
    opened: Open,
    qtbot: Any,
    method: Use,
    notices: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
) -> None:
    from napari.layers import Layer

    said: list[str] = []
    monkeypatch.setattr("napari_microdiffusion.plugin.files.show_info", said.append)
    method(Sure())
    viewer, widget = opened()
    layer = run(qtbot, widget)
    volume, path = as_volume(layer), tmp_path / "v.ome.tif"
    write_volume(volume, path)
    saved = viewer.add_layer(Layer.create(*read_layers(path)[0]))
    if change == "moved":
        path.rename(tmp_path / "w.ome.tif")
    elif change == "damaged":
        (tmp_path / "v_reliability.ome.tif").write_bytes(b"no image")
    else:
        write_volume(replace(volume, data=volume.data + 1), path, overwrite=True)
    assert widget.result.current() == "v"
    widget.result.trust._maps[INTERVAL].click()
    qtbot.waitUntil(lambda: bool(notices), timeout=10_000)
    assert "not beside it any more, is damaged, or another's" in notices[0]
    assert not widget.result.trust._maps[INTERVAL].isChecked()
    widget._files.write(saved, tmp_path / "again.ome.tif")  # the pixels are kept all the same
    qtbot.waitUntil(lambda: bool(said), timeout=10_000)
    assert "without its uncertainty: that is not beside its file" in said[0]
    assert read_volume(tmp_path / "again.ome.tif").reliability is None


def test_for_want_of_memory_nothing_is_lost(
    opened: Open, qtbot: Any, method: Use, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method(Sure())
    _, widget = opened()
    write_volume(as_volume(run(qtbot, widget)), tmp_path / "v.ome.tif")
    [(data, attributes, _)] = read_layers(tmp_path / "v.ome.tif")
    with monkeypatch.context() as little:
        little.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=10))
        with pytest.raises(TooLarge):
            write_image(str(tmp_path / "v.ome.tif"), data, attributes)
    assert read_volume(tmp_path / "v.ome.tif").reliability is not None


def test_a_file_that_is_opened_meanwhile_does_not_take_the_place_of_a_run(
    opened: Open, qtbot: Any, method: Use, tmp_path: Path
) -> None:
    from napari.layers import Layer

    method(Sure())
    viewer, widget = opened()
    write_volume(as_volume(run(qtbot, widget)), tmp_path / "v.ome.tif")
    [saved] = read_layers(tmp_path / "v.ome.tif")
    method(Held())
    Held.free.clear()
    with qtbot.waitSignal(widget.finished, timeout=60_000):
        widget.run()
        qtbot.waitUntil(lambda: len(widget.results()) == 2, timeout=30_000)
        made = widget.result.current()
        viewer.add_layer(Layer.create(*saved))
        Held.free.set()
    assert widget.result.current() == made != "v"
    viewer.layers.remove("v")
    source = widget.value().source
    widget.open(tmp_path / "v.ome.tif")  # when nothing runs it is what people want to see, and no data
    qtbot.waitUntil(lambda: widget.result.current() == "v", timeout=10_000)
    qtbot.wait(50)
    assert widget.value().source == source


def test_a_reliability_opens_as_layers_by_its_names(tmp_path: Path) -> None:
    from napari_microdiffusion.io import write_volume

    data = np.random.default_rng(0).random((5, 40, 40), np.float32)
    write_volume(Volume(data, reliability=Reliability(data, data - 1, data + 1)), tmp_path / "v.ome.tif")
    names = [attributes["name"] for _, attributes, _ in read_layers(tmp_path / "v_reliability.ome.tif")]
    assert names == [f"v_reliability {name}" for name in ("standard deviation", "lower 5 %", "upper 95 %")]
    assert len(read_layers(tmp_path / "v.ome.tif")) == 1
