"""One benchmark case: a volume, an acquisition, a method, a preset, a seed; run in its own process.

`python -m benchmarks.case CASE.json` prints one JSON object of measurements, last on its output. A process of its
own makes peak memory and import time belong to the case. With ``"held_out": true`` in the file it is the held-out score
alone.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.metrics import residual_stats
from napari_microdiffusion.volume import ProjectionStack

from .volumes import ROOT, SHARED, check_left_out, protocol, truth_of, whole

if TYPE_CHECKING:
    from napari_microdiffusion.methods import Method, Weights
    from napari_microdiffusion.run import Job, Result

__all__ = ["RESULTS", "ROOT", "SHARED", "Case", "measure", "protocol", "stack_of"]

RESULTS = Path(__file__).parent / "results"

TRUST = "coverage_90", "coverage_90_bright", "flagged_error_ratio"
"""Scores of the reliability map, for methods that give one."""


class Case(BaseModel):
    """What is measured; frozen, and identified by what its result depends on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    volume: str
    method: str
    preset: str = "preview"
    profile: str = "uniform"
    slices: int = 6
    stride: int | None = None
    seed: int = 0
    device: str = "auto"
    settings: dict[str, Any] = {}

    @property
    def acquisition(self) -> Acquisition:
        """How the projections are made."""
        return Acquisition.model_validate({key: getattr(self, key) for key in ("slices", "stride", "profile")})

    def truth(self) -> NDArray[np.float32]:
        """What the projections are made of, (z, y, x); for preparation and scoring alone."""
        if self.stride is None:
            return truth_of(self.volume, self.slices)
        crop = truth_of(self.volume, 1)
        return crop[: self.acquisition.fitted(len(crop)).depth]

    def spec(self) -> Method:
        """The method as its names mean it today."""
        from napari_microdiffusion.presets import spec

        return spec(self.method, self.preset, self.settings)

    def key(self) -> str:
        """Stable while the case and the spec behind its names stay the same."""
        return hashlib.sha256((self.model_dump_json() + self.spec().model_dump_json()).encode()).hexdigest()[:16]

    def same(self, row: dict[str, Any], on_any_device: bool = False) -> bool:
        """Whether a result is of this case and of its method as it is today.

        A setting that was added since counts as its default, as it does in files of trained weights; one that a case
        states may be the preset's own.
        """
        from napari_microdiffusion.events import InvalidInput
        from napari_microdiffusion.presets import validated

        plain: dict[str, Any] = {"settings": {}} | ({"device": "auto"} if on_any_device else {})
        if "spec" not in row or Case.model_validate(row["case"] | plain) != self.model_copy(update=plain):
            return False
        try:
            return validated(row["spec"]) == self.spec()
        except InvalidInput:
            return False


def stack_of(case: Case, truth: NDArray[np.float32]) -> ProjectionStack:
    """The projections of a prepared truth, with the voxel size where the volume's file states it.

    They are the protocol's own, but where it knows none: it knows no other stride than n.
    """
    stated, acquisition = whole(case.volume).scale_um, case.acquisition
    if case.stride is None:
        projections = protocol().project(truth, case.slices, case.profile)
    else:
        projections = acquisition.fitted(len(truth)).project(truth)
    scale = None if stated is None else (stated[0] * acquisition.step, *stated[1:])
    return ProjectionStack(projections, acquisition, scale, case.volume)


def measure(case: Case, save: Path | None = None, base: Path | None = None) -> dict[str, Any]:
    """Prepare, run and score one case. The truth is read by preparation and scoring alone.

    Parameters
    ----------
    save
        Where the volume is kept, for pictures.
    base
        The base model of a pretrained method.
    """
    from napari_microdiffusion.metrics import evaluate
    from napari_microdiffusion.volume import Volume

    made_with = commit()  # first: the files may change while it runs
    truth = case.truth()
    stack = stack_of(case, truth)
    job = _job(case, stack)
    weights = None if base is None else _trained_elsewhere(base, case)
    began = time.monotonic()
    result, stages = _timed(job, stack, weights)
    seconds = time.monotonic() - began
    data, record = result.volume.data, result.volume.provenance or {}
    memory = _peak_memory(record["device"])
    if save is not None:
        np.save(save, data)
    return {
        **_scores(case, truth, data, stack),
        **{key: value for key, value in evaluate(result.volume, Volume(truth), stack).items() if key in TRUST},
        **({} if job.method.retrains or job.method.pretrained else _held_out(job, stack, result.weights or None)),
        "spec": job.method.model_dump(mode="json"),
        "found": record.get("found", {}),
        "z_smoothness": _roughness(data) / _roughness(truth),
        "seconds": seconds,
        "stages": stages,
        **memory,
        "device": record["device"],
        "precision": record["precision"],
        "versions": record["versions"] | {"python": platform.python_version()},
        "commit": made_with,
        **_processor(),
    }


def measure_held_out(case: Case, base: Path | None = None) -> dict[str, Any]:
    """The held-out score of a case, in as many folds as users get, and what it was measured with; no truth is needed.

    Parameters
    ----------
    base
        The base model of a pretrained method.
    """
    from napari_microdiffusion.hardware import resolve_device, resolve_precision

    made_with = commit()
    stack = stack_of(case, case.truth())
    job = _job(case, stack)
    began = time.monotonic()
    found = _held_out(job, stack, None if base is None else _trained_elsewhere(base, case))
    device = resolve_device(case.device)
    return found | {
        "held_out_seconds": time.monotonic() - began,
        "held_out_device": device,
        "held_out_precision": resolve_precision(job.precision, device),
        "held_out_commit": made_with,
    }


def _scores(
    case: Case, truth: NDArray[np.float32], data: NDArray[np.float32], stack: ProjectionStack
) -> dict[str, float]:
    """The protocol's, but for the reprojection error of strides that it does not know."""
    if case.stride is None:
        return protocol().score(truth, data, stack.data, case.slices, case.profile)  # type: ignore[no-any-return]
    return {**protocol().score(truth, data), "reprojection_max_error": residual_stats(data, stack).maximum}


def _job(case: Case, stack: ProjectionStack) -> Job:
    from napari_microdiffusion.run import Job

    return Job(method=case.spec(), acquisition=stack.acquisition, seed=case.seed, device=case.device)


def commit() -> str:
    """That of the code which is running, marked where files differ from it; results may, while they are measured."""
    code = ["src", "benchmarks/*.py", "benchmarks/*.toml"]
    try:
        name, changed = (
            subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
            for command in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "--", *code])
        )
    except (OSError, subprocess.CalledProcessError):  # no git, or no repository
        return "not known"
    return f"{name}-changed" if changed else name


def _processor() -> dict[str, Any]:
    """What of it torch uses; asked after memory was measured, since torch takes some itself."""
    import torch

    return {"threads": torch.get_num_threads(), "instructions": torch.backends.cpu.get_cpu_capability()}


def _trained_elsewhere(base: Path, case: Case) -> Weights:
    """The weights of a base model, which says itself that it has not seen the volume that is scored."""
    from napari_microdiffusion.trained import load_trained

    trained = load_trained(base, method=case.spec())
    assert trained.origin.volumes
    check_left_out(case.volume, {volume.name: volume.sha256 for volume in trained.origin.volumes})
    return trained.weights


def _timed(job: Job, stack: ProjectionStack, weights: Weights | None) -> tuple[Result, dict[str, float]]:
    """The result, and the seconds that each stage took."""
    from napari_microdiffusion.events import Event, Stage, exhaust, relay
    from napari_microdiffusion.run import run

    began: list[tuple[str, float]] = []

    def noted(event: Event) -> Event:
        if isinstance(event, Stage):
            began.append((event.name, time.monotonic()))
        return event

    events = run(job, stack, weights=weights, preview_seconds=math.inf)  # nobody looks at them
    result = exhaust(relay(events, noted))
    ends = [*(start for _, start in began[1:]), time.monotonic()][: len(began)]
    return result, {name: round(end - start, 1) for (name, start), end in zip(began, ends, strict=True)}


def _held_out(job: Job, stack: ProjectionStack, weights: Weights | None) -> dict[str, Any]:
    from napari_microdiffusion.events import exhaust
    from napari_microdiffusion.trust import held_out

    return {"held_out_psnr": exhaust(held_out(job, stack, weights=weights)).psnr}


def _peak_memory(device: str) -> dict[str, float]:
    """Of this process since it was started; and on the GPU, where it was used."""
    status = Path("/proc/self/status")
    if status.exists():  # the system's other figure begins with that of the process which started this one
        kilobytes = next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    else:
        kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1)
    own = {"peak_memory_gb": kilobytes * 1024 / 1e9}
    if device == "cuda":
        import torch

        own["peak_gpu_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
    return own


def _roughness(volume: NDArray[np.float32]) -> float:
    """Mean absolute difference of adjacent slices."""
    return float(np.abs(np.diff(volume, axis=0)).mean())


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_text())
    model = None if given["base"] is None else Path(given["base"])
    of = Case.model_validate(given["case"])
    print(json.dumps(measure_held_out(of, model) if given.get("held_out") else measure(of, Path(given["save"]), model)))
