"""Shared by all tests: a tiny phantom, and the real volumes where this project's shared data lie beside it."""

from __future__ import annotations

import gc
import importlib.util
import os
from collections.abc import Callable, Generator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tifffile

from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.events import Event, Returned
from napari_microdiffusion.phantoms import phantom
from napari_microdiffusion.presets import spec
from napari_microdiffusion.settings import settings_of
from napari_microdiffusion.volume import ProjectionStack, Volume

SHARED = Path(__file__).resolve().parents[2] / "shared"
TINY = (36, 48, 48)
"""Of the sample in the widget's tests."""

REAL = ("axons", "dendrites", "membranes", "nuclei_brain", "nuclei_embryo", "vessels")


SMALL: dict[str, Any] = {
    "steps": 2,
    "sampling_steps": 2,
    "features": 16,
    "levels": 2,
    "table_bits": 8,
    "width": 16,
    "layers": 1,
    "rays": 64,
    "channels": 8,
    "blocks": 2,
    "multipliers": [1, 2],
    "batch": 2,
    "crop": 16,
    "fine_tuning": 1,
}
"""Where a method has a setting of this name, itself or in its prior."""


def small(name: str) -> dict[str, Any]:
    """Settings that make a method quick."""
    idle = spec(name).idle
    found = {setting.path: SMALL.get(setting.path.rpartition(".")[2]) for setting in settings_of(name)}
    return {path: value for path, value in found.items() if value is not None and path not in idle}


def collected(events: Generator[Event, None, Returned]) -> tuple[list[Event], Returned]:
    """All events of a generator, and what it returned."""
    seen: list[Event] = []
    while True:
        try:
            seen.append(next(events))
        except StopIteration as end:
            return seen, end.value


def pytest_configure() -> None:
    """One thread, before torch is imported: on tensors as tiny as these, more threads cost more than they gain."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def truth() -> Volume:
    """A tiny vessel phantom, (36, 48, 48)."""
    return phantom("vessels", (36, 48, 48), seed=1)


@pytest.fixture(scope="session")
def stack(truth: Volume) -> ProjectionStack:
    """Its 6 uniform projections of 6 slices."""
    return truth.simulate(Acquisition(slices=6))[0]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared data beside the repository; skips where it is not there."""
    if not (SHARED / "protocol.py").exists():
        pytest.skip("the shared data are not beside the repository")
    return SHARED


@pytest.fixture(scope="session")
def protocol(shared: Path) -> ModuleType:
    """The measuring protocol, which stands apart from the project."""
    spec = importlib.util.spec_from_file_location("protocol", shared / "protocol.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def real_crop() -> Callable[[str], Volume]:
    """A small crop, (36, 64, 64) or less, of a real volume by name; of a phantom where the data are not there."""

    def crop(name: str) -> Volume:
        path = SHARED / "data" / f"{name}.ome.tif"
        if not path.exists():
            return phantom(seed=REAL.index(name), shape=(36, 64, 64))
        data = tifffile.imread(path)
        middle = tuple(
            slice(max(0, (size - want) // 2), max(0, (size - want) // 2) + want)
            for size, want in zip(data.shape, (36, 64, 64), strict=True)
        )
        return Volume(np.ascontiguousarray(data[middle]), name=name)

    return crop


# -- the widget, in a real viewer --------------------------------------------------------------


@pytest.fixture(scope="session")
def _modules() -> Generator[None]:
    """What windows need is imported, and no garbage: napari collects whenever a layer or a viewer goes.

    Looking through all modules again each time took a sixth of the tests of the widget.
    """
    import napari.viewer  # noqa: F401
    import torch  # noqa: F401

    import napari_microdiffusion.plugin.reconstruct  # noqa: F401

    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def opened(
    _modules: None, make_napari_viewer: Callable[..., Any], qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> Generator[Callable[..., tuple[Any, Any]]]:
    """A viewer with the tiny sample and the widget.

    Meanwhile no garbage is collected: in a worker's thread, collecting the widgets of an earlier test's viewer now and
    then waits for ever for the main thread, and that for the worker. napari's fixture collects after each test.
    """
    from napari.layers import Layer

    from napari_microdiffusion.plugin import reconstruct
    from napari_microdiffusion.plugin.base import Bases
    from napari_microdiffusion.plugin.contributions import sample
    from napari_microdiffusion.plugin.reconstruct import ReconstructWidget

    monkeypatch.setattr(reconstruct, "AT_HAND", Bases())  # a session of its own

    def make(show: bool = False, layers: list[Any] | None = None, **setup: Any) -> tuple[Any, Any]:
        viewer = make_napari_viewer(show=show)
        widget = ReconstructWidget(viewer)
        viewer.window.add_dock_widget(widget, name="Reconstruct volume")
        for layer in sample("vessels", TINY) if layers is None else layers:
            viewer.add_layer(Layer.create(*layer))
        widget.setValue(widget.value().replace(**{"method": "conservative", "device": "cpu", **setup}))
        qtbot.wait(1)
        return viewer, widget

    gc.disable()
    yield make
    gc.enable()


@pytest.fixture
def notices(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Errors that the widget shows."""
    shown: list[str] = []
    for module in ("reconstruct", "running", "background"):
        monkeypatch.setattr(f"napari_microdiffusion.plugin.{module}.show_error", shown.append)
    return shown


@pytest.fixture
def method(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Make a stand-in the method of every job."""

    def use(stand_in: Any) -> None:
        from napari_microdiffusion.plugin.model import Setup

        plain = Setup.job
        monkeypatch.setattr(
            Setup, "job", lambda self, *a, **k: plain(self, *a, **k).model_copy(update={"method": stand_in})
        )

    return use
