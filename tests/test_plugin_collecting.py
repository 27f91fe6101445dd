"""Whose thread collects garbage; needs a display."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Callable, Generator
from functools import cache
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(
    sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")),
    reason="needs a display",
)

Open = Callable[..., tuple[Any, Any]]


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
