"""Shared by all tests: a tiny phantom, and the real volumes where this project's shared data lie beside it."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import tifffile

from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.phantoms import phantom
from napari_microdiffusion.volume import ProjectionStack, Volume

SHARED = Path(__file__).resolve().parents[2] / "shared"
REAL = ("axons", "dendrites", "membranes", "nuclei_brain", "nuclei_embryo", "vessels")


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
