"""What a method found out by itself, a trained network used again, and whose thread collects; needs a display."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Callable, Generator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.methods import Context
from napari_microdiffusion.plugin.contributions import SAMPLE_ACQUISITION, sample
from napari_microdiffusion.plugin.found_box import FoundBox, in_words
from napari_microdiffusion.plugin.known import facts
from napari_microdiffusion.plugin.model import choices_of
from napari_microdiffusion.presets import PRESETS, spec
from napari_microdiffusion.trained import load_trained, save_trained

pytestmark = pytest.mark.skipif(
    sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")),
    reason="needs a display",
)

Open = Callable[..., tuple[Any, Any]]
SMALL = {"channels": 8, "blocks": 2, "steps": 2, "batch": 1}
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


# -- a trained network -----------------------------------------------------------------------


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """Of `axial`, saved as after a training on other vessels."""
    from napari_microdiffusion.phantoms import phantom

    chosen = spec("axial", overrides=SMALL)
    stack = phantom("vessels", (36, 48, 48), seed=9).simulate(SAMPLE_ACQUISITION)[0]
    return save_trained(tmp_path / "w.safetensors", chosen, chosen.untrained(stack, Context()), stack)


@pytest.mark.parametrize("name", ["axial", "microdiffusion", "naive_diffusion", "linear"])
@pytest.mark.parametrize("preset", PRESETS)
def test_choices_stand_for_a_spec(name: str, preset: str) -> None:
    wanted = spec(name, preset, {"consistency": "none"})
    choices = choices_of(wanted)
    assert spec(**{{"method": "name"}.get(key, key): value for key, value in choices.items()}) == wanted
    assert len(choices["overrides"]) <= 1


def test_a_trained_network_is_applied_to_another_stack(
    opened: Open, qtbot: Any, network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qtpy.QtWidgets import QFileDialog

    _, widget = opened(show=True)
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (str(network), ""))
    widget._load_network()
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


def test_a_network_of_other_settings_is_refused(opened: Open, qtbot: Any, network: Path, notices: list[str]) -> None:
    viewer, widget = opened()
    changed = choices_of(spec("axial", overrides={**SMALL, "channels": 16}))
    widget.setValue(widget.value().replace(**changed, weights=network))
    with qtbot.waitSignal(widget.finished, timeout=60_000):
        widget.run()
    assert len(notices) == 1
    assert "cannot be changed on the trained weights" in notices[0]
    assert len(viewer.layers) == len(sample("vessels", (36, 48, 48)))  # nothing is left behind


# -- garbage ---------------------------------------------------------------------------------


@pytest.fixture
def collecting(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """Automatic collection on, and as it was afterwards; workers of other tests do not count."""
    from napari_microdiffusion.plugin import collecting

    monkeypatch.setattr(collecting, "_collection", cache(collecting.MainThreadCollection))
    before = gc.isenabled()
    gc.enable()
    yield
    (gc.enable if before else gc.disable)()


@pytest.mark.usefixtures("collecting")
def test_garbage_is_collected_by_the_main_thread_alone(qtbot: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from napari_microdiffusion.plugin import collecting
    from napari_microdiffusion.plugin.background import in_background

    where: list[bool] = []
    monkeypatch.setattr(collecting.gc, "collect", lambda _: where.append(threading.current_thread() is main))
    monkeypatch.setattr(collecting, "MILLISECONDS", 5)
    main, ends = threading.main_thread(), [threading.Event(), threading.Event()]
    enabled: list[bool] = []
    for end in ends:
        in_background(lambda end=end: (enabled.append(gc.isenabled()), end.wait(10)), lambda _: None)
    qtbot.waitUntil(lambda: len(where) > 2 and len(enabled) == 2, timeout=5000)
    assert not any(enabled)
    ends[0].set()
    qtbot.wait(50)
    assert not gc.isenabled()  # one is still at it
    ends[1].set()
    qtbot.waitUntil(gc.isenabled, timeout=5000)
    assert all(where)


@pytest.mark.usefixtures("collecting")
def test_collection_that_somebody_else_has_switched_off_stays_so(qtbot: Any) -> None:
    from napari_microdiffusion.plugin.background import in_background

    gc.disable()
    release = threading.Event()
    with qtbot.waitSignal(in_background(lambda: release.wait(10), lambda _: None).finished, timeout=5000):
        release.set()
    qtbot.wait(20)
    assert not gc.isenabled()


@pytest.mark.usefixtures("collecting")
def test_a_worker_that_outlives_its_panel_collects_nothing(qtbot: Any) -> None:
    from qtpy.QtCore import QObject

    from napari_microdiffusion.plugin.background import in_background

    owner, release = QObject(), threading.Event()
    worker = in_background(lambda: release.wait(10), lambda _: None, owner)
    with qtbot.waitSignal(owner.destroyed):
        owner.deleteLater()
    qtbot.wait(50)
    assert not gc.isenabled()
    with qtbot.waitSignal(worker.finished, timeout=10_000):
        release.set()
    qtbot.waitUntil(gc.isenabled, timeout=10_000)


@pytest.mark.usefixtures("collecting")
def test_only_while_something_runs(opened: Open, qtbot: Any) -> None:
    _, widget = opened()
    gc.enable()  # the fixture of the viewer has switched it off
    with qtbot.waitSignal(widget.finished, timeout=60_000):
        widget.run()
        assert not gc.isenabled()
    qtbot.waitUntil(gc.isenabled)  # what there is to say of the result may still be on its way
    gc.disable()
