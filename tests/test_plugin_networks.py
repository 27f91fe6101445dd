"""Trained networks from files, loaded or named by a setup; needs a display."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.methods import Context
from napari_microdiffusion.plugin.contributions import SAMPLE_ACQUISITION, sample
from napari_microdiffusion.plugin.known import facts
from napari_microdiffusion.plugin.model import choices_of
from napari_microdiffusion.presets import spec
from napari_microdiffusion.trained import load_trained, save_trained

pytestmark = pytest.mark.skipif(
    sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")),
    reason="needs a display",
)

Open = Callable[..., tuple[Any, Any]]
SMALL = {"channels": 8, "blocks": 2, "steps": 2, "batch": 1}


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """Of `axial`, saved as after a training on other vessels."""
    from napari_microdiffusion.phantoms import phantom

    chosen = spec("axial", overrides=SMALL)
    stack = phantom("vessels", (36, 48, 48), seed=9).simulate(SAMPLE_ACQUISITION)[0]
    return save_trained(tmp_path / "w.safetensors", chosen, chosen.untrained(stack, Context()), stack)


def named(widget: Any, **changes: Any) -> None:
    """Choose what names a network, as a result or a job does."""
    widget._take_over(changes)


def test_what_a_named_network_is_for_is_told_before_the_run(opened: Open, qtbot: Any, network: Path) -> None:
    _, widget = opened()
    named(widget, **choices_of(load_trained(network).method), weights=network)
    with qtbot.waitSignal(widget._networks.learned, timeout=20_000):
        named(widget, acquisition=Acquisition(profile="gaussian"))
    assert "Beware: the network was trained for 6 slices, stride 6, uniform profile" in widget.data.line.text()
    widget.method._network_button.click()
    assert "trained for" not in widget.data.line.text()


def test_a_named_network_that_is_gone_is_told_once(opened: Open, qtbot: Any, network: Path, notices: list[str]) -> None:
    _, widget = opened()
    gone = choices_of(load_trained(network).method) | {"weights": network.with_name("gone.safetensors")}
    named(widget, **gone)
    qtbot.waitUntil(lambda: len(notices) == 1, timeout=20_000)
    named(widget, seed=3)
    qtbot.wait(200)
    [notice] = notices
    assert "gone.safetensors" in notice


def test_a_trained_network_is_applied_to_another_stack(
    opened: Open, qtbot: Any, network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qtpy.QtWidgets import QFileDialog

    _, widget = opened(show=True)
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (str(network), ""))
    widget._networks.load()
    assert widget.run_box._stage.toolTip() == "Loading the network"
    assert not widget.run_box.run_button.isEnabled()
    widget.run()  # neither by the button nor otherwise
    assert not widget.running
    qtbot.waitUntil(lambda: widget.value().weights == network.resolve(), timeout=20_000)
    assert widget.run_box.run_button.isEnabled()
    assert widget.value().spec() == load_trained(network).method
    assert "trained for" not in widget.data.line.text()
    usual = widget.value()
    widget.setValue(usual.replace(acquisition=Acquisition(profile="gaussian")))
    assert "Beware: the network was trained for 6 slices, stride 6, uniform profile" in widget.data.line.text()
    widget.setValue(usual)
    enabled = {path for path, editor in widget.method.advanced._editors.items() if editor.isEnabled()}
    assert enabled == {"consistency", "sigma", "elongation", "fine_tuning"}
    widget.method.advanced._reset()
    assert widget.value().overrides == SMALL  # what the training has fixed stays
    said: list[str] = []
    with qtbot.waitSignal(widget.finished, timeout=60_000):
        widget.run()
        widget._running.session.noticed.connect(said.append)
    assert any("trained on another stack" in text for text in said)
    known = facts(widget.results()[-1])
    assert known["provenance"]["job"]["weights"] == str(network.resolve())
    assert known["ran"].result.volume.reliability is not None
    box = widget.result.trust
    assert "beyond the lateral one ·" in box.found._text.text()
    assert box.found.isVisible()
    widget.method._network_button.click()
    assert widget.value().weights is None
    assert widget.value().overrides == SMALL
    assert widget.method.advanced.text() == f"Advanced settings ({len(SMALL)} changed)"  # folded as they are
    assert box.found.isVisible()


def test_another_method_drops_the_network(opened: Open, network: Path) -> None:
    _, widget = opened()
    widget.setValue(widget.value().replace(**choices_of(load_trained(network).method), weights=network))
    widget.method._method.setCurrentIndex(widget.method._method.findData("inr"))
    assert widget.value().weights is None
    assert widget.method.advanced._editors["steps"].isEnabled()
    method, effort = widget.method._method, widget.method._preset
    method.setCurrentIndex(method.findData("axial"))  # where it is at hand again
    assert (widget.value().weights, widget.value().overrides) == (network, SMALL)
    assert not widget.method.advanced._editors["steps"].isEnabled()
    before = effort.currentIndex()
    effort.setCurrentIndex(effort.findData("standard"))
    assert widget.value().weights is None
    effort.setCurrentIndex(before)
    assert widget.value().weights == network
    widget.method._network_button.click()
    method.setCurrentIndex(method.findData("inr"))
    method.setCurrentIndex(method.findData("axial"))
    assert widget.value().weights is None  # people wanted it trained anew


def test_a_network_is_saved_where_there_is_one(opened: Open, qtbot: Any, network: Path, tmp_path: Path) -> None:
    _, widget = opened()
    save = widget.result._weights
    assert not save.isEnabled()
    with qtbot.waitSignal(widget.finished, timeout=60_000):
        widget.run()
    assert not save.isEnabled()  # an interpolation has learned nothing
    widget.setValue(widget.value().replace(method="axial", overrides={**SMALL, "fine_tuning": 1}))
    with qtbot.waitSignal(widget.finished, timeout=60_000):
        widget.run()
    assert save.isEnabled()
    ran = facts(widget.results()[-1])["ran"]

    path = tmp_path / "again.safetensors"
    widget._files.write_weights(ran, path)
    qtbot.waitUntil(path.exists, timeout=10_000)
    gaussian = Acquisition(profile="gaussian")
    widget.setValue(widget.value().replace(weights=path, acquisition=gaussian))
    assert "the network was trained for 6 slices, stride 6, uniform profile" in widget.data.line.text()
    widget.setValue(widget.value().replace(weights=None, acquisition=ran.stack.acquisition.unbound))
    saved = load_trained(path)
    assert saved.method == ran.job.method != load_trained(network).method
    assert saved.origin.complete
    assert saved.origin.denoised is False
    widget.setValue(widget.value().replace(**choices_of(saved.method), weights=path))
    widget.setValue(widget.value().replace(overrides={**SMALL, "fine_tuning": 0}))
    with qtbot.waitSignal(widget.finished, timeout=60_000):
        widget.run()
    assert facts(widget.results()[-1])["ran"].trained is not None
    assert not save.isEnabled()  # that is the file's own network


def test_a_fine_tuned_network_does_not_replace_the_one_it_came_from(
    opened: Open, qtbot: Any, network: Path, notices: list[str]
) -> None:
    _, widget = opened()
    before = network.read_bytes()
    tuned = choices_of(load_trained(network).method) | {"overrides": {**SMALL, "fine_tuning": 1}}
    widget.setValue(widget.value().replace(**tuned, weights=network))
    with qtbot.waitSignal(widget.finished, timeout=60_000):
        widget.run()
    widget._files.write_weights(facts(widget.results()[-1])["ran"], network)
    qtbot.waitUntil(lambda: bool(notices), timeout=10_000)
    assert "is the input itself" in notices[0]
    assert network.read_bytes() == before


def test_a_network_of_other_settings_is_refused(opened: Open, qtbot: Any, network: Path, notices: list[str]) -> None:
    viewer, widget = opened()
    changed = choices_of(spec("axial", overrides={**SMALL, "channels": 16}))
    widget.setValue(widget.value().replace(**changed, weights=network))
    with qtbot.waitSignal(widget.finished, timeout=60_000):
        widget.run()
    assert len(notices) == 1
    assert "cannot be changed on the trained weights" in notices[0]
    assert len(viewer.layers) == len(sample("vessels", (36, 48, 48)))  # nothing is left behind
