"""One job from projections to volume: owns the seed, cancelling, errors and provenance."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from .acquisition import Acquisition
from .checkpoint import VolumeRecord, fingerprint
from .checks import check_suited, check_weights, doubts
from .denoising import denoised
from .events import Event, InvalidInput, Notice, Preview, Returned, exhaust, relay
from .hardware import Device, Precision, at_work, check_memory, device_of, resolve_precision
from .images import span
from .methods import AnyMethod, Conservative, Context, Method, Weights
from .methods._base import make_consistent
from .metrics import Residual, residual_stats
from .presets import name_of, spec
from .reliability import Reliability
from .trained import Trained
from .verdict import verdict
from .volume import Intensity, ProjectionStack, Volume

Size = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""A length in µm."""


class Job(BaseModel):
    """All that a result depends on, beside the input's pixels. Saved in every export, and replayed from it.

    ``projections`` may be a path, or None where the stack is handed over in memory.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: AnyMethod
    acquisition: Acquisition = Acquisition()
    projections: Path | None = Field(None, description="file of the projection stack")
    channel: int | None = Field(None, ge=0, description="channel to use, where the file has several")
    time: int | None = Field(None, ge=0, description="time point to use, where the file has several")
    scale_um: tuple[Size, Size, Size] | None = Field(
        None, description="voxel size of the volume (z, y, x) in µm; None: as the file says, if it does"
    )
    denoise: bool = Field(False, description="take the noise off the projections first")
    weights: Path | None = Field(None, description="trained weights to use instead of training")
    seed: int = Field(0, ge=0, lt=2**63)
    device: Device = "auto"
    precision: Precision = "auto"


@dataclass(frozen=True)
class Result:
    """What a run gives: the volume on the input's intensity scale, float32, and how it came about.

    Parameters
    ----------
    weights
        As the volume was made with: trained, or given and refined.
    """

    volume: Volume
    weights: Weights = field(repr=False)
    residual: Residual
    partial: bool
    seconds: float


def run(
    job: Job,
    stack: ProjectionStack,
    *,
    weights: Weights | None = None,
    volumes: Iterable[VolumeRecord] = (),
    cancelled: Callable[[], bool] = lambda: False,
    preview_seconds: float = 5.0,
) -> Generator[Event, None, Result]:
    """Run a job on a stack, step by step.

    Previews and the volume are on the stack's own intensity scale. The first event is the conservative
    interpolation as a picture of the whole volume. When ``cancelled`` says yes, the result is what the previews have
    shown by then, marked partial.

    Parameters
    ----------
    job
        What to do; where its projections lie, how they were made, their voxel size and the file of its weights are for
        the record: ``stack``, what that says, and ``weights`` are used.
    stack
        (k, y, x), any real dtype.
    weights
        Trained weights of ``job.method``: they are used, or refined where the method does so, instead of training.
        A method that is `pretrained` cannot do without: they are its base model.
    volumes
        That a base model was trained on, for the record: scores on them say nothing.

    Returns
    -------
    Result
        Its residual is what the volume leaves of ``stack`` as it was measured, also where that was denoised first.

    Raises
    ------
    InvalidInput, DeviceUnavailable, TooLarge
        Before any work.
    RunFailed
        If memory runs out or training diverges half way.
    """
    began = time.monotonic()
    check(job, stack)
    if job.weights is not None and weights is None:
        raise InvalidInput(f"the job names {job.weights}: hand over the weights in it, as load_trained reads them")
    check_weights(job.method, stack, weights)
    record = _given(weights, volumes)
    with at_work(job, stack.name, remedy(job.method, stack), cancelled, preview_seconds) as context:
        canvas, reliability, weights, quiet = yield from _work(job, stack, weights, context)
    residual = residual_stats(canvas, stack)
    if job.method.consistency != "none" and not stack.acquisition.decoupled:
        yield Notice(_unexplained(residual, stack, quiet))
    seconds = time.monotonic() - began
    provenance = _provenance(job, stack, context, seconds, quiet) | record | _findings(job, stack, weights, context)
    name = f"{stack.name} {name_of(job.method)}"
    volume = Volume(canvas, stack.volume_scale_um, name, stack.source_dtype, provenance, reliability)
    result = Result(volume, weights, residual, context.stopped, seconds)
    provenance["verdict"] = verdict(result, stack)
    return result


def reconstruct(
    stack: ProjectionStack,
    method: str | Method | Trained,
    *,
    seed: int = 0,
    device: Device = "auto",
    denoise: bool = False,
) -> Volume:
    """The volume of a stack in one call, without progress and notices; parameters and errors as for `run`.

    What matters of them is in the provenance of the volume, under ``verdict``. A warning says what speaks against
    weights that were trained on something else.

    Parameters
    ----------
    method
        A name, with the settings of `preview`; a spec, with others (`presets.spec`); or one that is trained already,
        a base model for example (`trained.load_trained`).
    denoise
        Take the noise off the projections first (`denoising.denoised`).
    """
    if isinstance(method, str):
        method = spec(method)
    recipe = method.method if isinstance(method, Trained) else method
    job = Job(method=recipe, acquisition=stack.acquisition, seed=seed, device=device, denoise=denoise)
    if not isinstance(method, Trained):
        return exhaust(run(job, stack)).volume
    if told := method.check(stack, denoise):
        warnings.warn(told, stacklevel=2)
    return exhaust(run(job, stack, weights=method.weights, volumes=method.origin.volumes)).volume


def check(job: Job, stack: ProjectionStack) -> None:
    """Refuse, before any work, what cannot succeed; errors as for `run`."""
    stack.check()
    check_suited(job.method, stack.acquisition)
    check_memory(job.method, stack, device_of(job.method, job.device))


def remedy(method: Method, stack: ProjectionStack) -> str:
    """What to do if memory runs out on a stack."""
    return f"{method.memory_bytes(stack)[1]}, or crop the stack"


def _work(
    job: Job, stack: ProjectionStack, weights: Weights | None, context: Context
) -> Generator[Event, None, tuple[NDArray[np.float32], Reliability | None, Weights, bool]]:
    """The volume (Z, y, x) on the input's scale as it is so far, its reliability, weights; whether it was denoised."""
    working, intensity = stack.normalised()
    canvas, reliability, quiet = np.empty(stack.volume_shape, np.float32), None, None
    first = yield from _first(job, working, canvas, intensity, context)
    yield from map(Notice, doubts(stack, job.denoise))
    if job.denoise:
        quiet = yield from denoised(stack, job.seed, context.should_stop)
    if quiet is not None:
        stack = quiet.stack
        working, intensity = stack.normalised()
        first = yield from _first(job, working, canvas, intensity, context)
    if job.method.learned:
        context.dtype = resolve_precision(job.precision, context.device)
    if not context.should_stop():
        train = job.method.fit(working, context) if weights is None else job.method.refine(working, weights, context)
        weights = yield from _shown(train, canvas, intensity)
    if weights is not None and not context.should_stop():
        volume = first
        if volume is None:
            volume = yield from _shown(job.method.predict(working, weights, context), canvas, intensity)
        if not context.stopped:
            canvas = intensity.restore(volume.data)
            if volume.reliability is not None:
                reliability = intensity.restore_reliability(volume.reliability)
            del volume
    if reliability is not None and quiet is not None:
        quiet.widen(reliability)
    if job.method.consistency != "none":
        _make_consistent(stack, canvas, reliability)
    return canvas, reliability, weights or {}, quiet is not None


def _first(
    job: Job, working: ProjectionStack, canvas: NDArray[np.float32], intensity: Intensity, context: Context
) -> Generator[Event, None, Volume | None]:
    """Show the conservative interpolation; it is kept where nothing else is asked for."""
    volume = yield from _shown(Conservative().predict(working, {}, context), canvas, intensity)
    return volume if job.method == Conservative() else None


def _make_consistent(stack: ProjectionStack, canvas: NDArray[np.float32], reliability: Reliability | None) -> None:
    """Once more on the input's scale, in place, bounds along with the volume: restoring rounds to float32."""
    rounded = canvas.copy() if reliability is not None else canvas
    make_consistent(stack, canvas)
    if reliability is not None:
        np.subtract(canvas, rounded, out=rounded)
        for bound in (reliability.lower, reliability.upper):
            bound += rounded


def _shown(
    events: Generator[Event, None, Returned], canvas: NDArray[np.float32], intensity: Intensity
) -> Generator[Event, None, Returned]:
    """Pass events on with previews on the input's intensity scale, and keep the canvas as people see it."""

    def shown(event: Event) -> Event:
        if isinstance(event, Preview):
            event = replace(event, data=intensity.restore(event.data))
            canvas[event.start : event.start + len(event.data)] = event.data
        return event

    return relay(events, shown)


def _unexplained(residual: Residual, stack: ProjectionStack, quiet: bool) -> str:
    """What consistency leaves where projections overlap."""
    share = 100 * residual.rms / span(stack.data)
    taken = ", what denoising took included" if quiet else ""
    return (
        "the projections overlap: consistency stops at their noise, and "
        f"{share:.2g} % of their range (rms) is left unexplained{taken}"
    )


def _provenance(job: Job, stack: ProjectionStack, context: Context, seconds: float, quiet: bool) -> dict[str, Any]:
    used: dict[str, Any] = {"acquisition": stack.acquisition}
    if job.scale_um is not None and (
        stack.volume_scale_um is None or not np.allclose(job.scale_um, stack.volume_scale_um)
    ):
        used["scale_um"] = None  # a replay must not state what this run was not given
    return {
        "software": "napari-microdiffusion",
        "versions": {name: version(name) for name in ("napari-microdiffusion", "torch", "numpy", "scipy")},
        "method": name_of(job.method),
        "job": job.model_copy(update=used).model_dump(mode="json"),
        "seed": job.seed,
        "device": context.device,
        "precision": context.dtype,
        "input": stack.name,
        "input_sha256": stack.sha256,
        "complete": not context.stopped,
        **({"denoised": True} if quiet else {}),
        "seconds": round(seconds, 3),
    }


def _given(weights: Weights | None, volumes: Iterable[VolumeRecord]) -> dict[str, Any]:
    """Which weights the run was given, and what they had been trained on, where it is known."""
    if weights is None:
        return {}
    records = [volume.model_dump(mode="json") for volume in volumes]
    return {"weights_sha256": fingerprint(weights)} | ({"trained_on": records} if records else {})


def _findings(job: Job, stack: ProjectionStack, weights: Weights, context: Context) -> dict[str, Any]:
    """What the method found out about the stack, under ``found``; nothing after a stop, or where there is nothing."""
    found = {} if context.stopped else job.method.findings(stack, weights)
    return {"found": found} if found else {}
