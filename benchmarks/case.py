"""One benchmark case: a volume, an acquisition, a method, a preset, a seed; run in its own process.

`python -m benchmarks.case CASE.json` prints one JSON object of measurements, last on its output. A process of its
own makes peak memory and import time belong to the case.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import platform
import resource
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from napari_microdiffusion.volume import ProjectionStack

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"
RESULTS = Path(__file__).parent / "results"

TRUST = "coverage_90", "flagged_error_ratio"
"""Scores of the reliability map, for methods that give one."""


class Case(BaseModel):
    """What is measured; frozen, and identified by what its result depends on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    volume: str
    method: str
    preset: str = "preview"
    profile: str = "uniform"
    slices: int = 6
    seed: int = 0
    device: str = "auto"
    settings: dict[str, Any] = {}

    def key(self) -> str:
        """Stable while the case and the spec behind its names stay the same."""
        from napari_microdiffusion.presets import spec

        method = spec(self.method, self.preset, self.settings).model_dump_json()
        return hashlib.sha256((self.model_dump_json() + method).encode()).hexdigest()[:16]


def protocol() -> ModuleType:
    """The measuring protocol that stands apart from the project."""
    found = importlib.util.spec_from_file_location("protocol", SHARED / "protocol.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def stack_of(case: Case, truth: NDArray[np.float32]) -> ProjectionStack:
    """The projections of a prepared truth, with the voxel size where the volume's file states it."""
    from napari_microdiffusion import Acquisition, ProjectionStack, io

    stated = io.read_volume(SHARED / "data" / f"{case.volume}.ome.tif").scale_um
    projections = protocol().project(truth, case.slices, case.profile)
    acquisition = Acquisition(slices=case.slices, profile=case.profile)
    scale = None if stated is None else (stated[0] * acquisition.step, *stated[1:])
    return ProjectionStack(projections, acquisition, scale, case.volume)


def measure(case: Case, save: Path | None = None) -> dict[str, Any]:
    """Prepare, run and score one case. The truth is read by preparation and scoring alone."""
    from napari_microdiffusion.events import Stage
    from napari_microdiffusion.metrics import evaluate
    from napari_microdiffusion.presets import spec
    from napari_microdiffusion.run import Job, run
    from napari_microdiffusion.volume import Volume

    rules = protocol()
    truth = rules.prepare(tifffile.imread(SHARED / "data" / f"{case.volume}.ome.tif"), case.slices)
    stack = stack_of(case, truth)
    job = Job(
        method=spec(case.method, case.preset, case.settings),
        acquisition=stack.acquisition,
        seed=case.seed,
        device=case.device,
    )
    began, stages = time.monotonic(), []
    events = run(job, stack)
    while True:
        try:
            event = next(events)
        except StopIteration as stop:
            result = stop.value
            break
        if isinstance(event, Stage):
            stages.append((event.name, time.monotonic()))
    ends = [*(start for _, start in stages[1:]), *([time.monotonic()] if stages else [])]
    data = result.volume.data
    if save is not None:
        np.save(save, data)
    return {
        **rules.score(truth, data, stack.data, case.slices, case.profile),
        **{key: value for key, value in evaluate(result.volume, Volume(truth), stack).items() if key in TRUST},
        "found": result.volume.provenance.get("found", {}),
        "z_smoothness": _roughness(data) / _roughness(truth),
        "seconds": time.monotonic() - began,
        "stages": {name: round(end - start, 1) for (name, start), end in zip(stages, ends, strict=True)},
        "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "device": result.volume.provenance["device"],
        "precision": result.volume.provenance["precision"],
        "versions": result.volume.provenance["versions"] | {"python": platform.python_version()},
    }


def _roughness(volume: NDArray[np.float32]) -> float:
    """Mean absolute difference of adjacent slices."""
    return float(np.abs(np.diff(volume, axis=0)).mean())


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_text())
    print(json.dumps(measure(Case.model_validate(given["case"]), Path(given["save"]))))
