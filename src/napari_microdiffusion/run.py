"""One job from projections to volume: owns the seed, the device, cancelling, memory and provenance."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from traceback import clear_frames
from typing import Any, Literal, TypeVar

import numpy as np
import psutil
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from .acquisition import Acquisition
from .events import DeviceUnavailable, Event, Preview, RunFailed, TooLarge
from .methods import AnyMethod, Conservative, Context, Method, Weights
from .methods._base import make_consistent
from .metrics import Residual, residual_stats
from .presets import name_of
from .volume import Intensity, ProjectionStack, Volume

Device = Literal["auto", "cpu", "cuda", "mps"]
Returned = TypeVar("Returned")

CPU_BATCH_BYTES = 2**27
"""Memory for one batch of slices in the networks on a CPU: more gains no speed there, and Stop would wait for it."""

WORKING_VOLUMES = 6
"""Copies of the volume alive at the peak of a run: canvas, prior, estimate, preview, truth, display."""


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
    weights: Path | None = Field(None, description="trained weights to use instead of training")
    seed: int = Field(0, ge=0, lt=2**63)
    device: Device = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="arithmetic of the networks; auto takes bfloat16 where the hardware has it"
    )


@dataclass(frozen=True)
class Result:
    """What a run gives: the volume on the input's intensity scale, float32, and how it came about."""

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
        What to do; its ``projections`` path is for the record, ``stack`` is used.
    stack
        (k, y, x), any real dtype.
    weights
        Trained weights of ``job.method``: nothing is trained then.

    Raises
    ------
    InvalidInput, DeviceUnavailable, TooLarge
        Before any work.
    RunFailed
        If memory runs out or training diverges half way.
    """
    began = time.monotonic()
    device = _device_of(job)
    context = Context(
        device=device,
        seed=job.seed,
        cancelled=cancelled,
        preview_seconds=preview_seconds,
        memory_bytes=_batch_bytes(device),
    )
    check(job, stack)
    working, intensity = stack.normalised()
    canvas = np.empty(stack.volume_shape, np.float32)
    yield from _shown(Conservative().predict(working, {}, context), canvas, intensity)
    try:
        if job.method.learned:
            context.dtype = resolve_precision(job.precision, device)
        if weights is None:
            weights = yield from _shown(job.method.fit(working, context), canvas, intensity)
        if not context.should_stop():
            volume = yield from _shown(job.method.predict(working, weights, context), canvas, intensity)
        if not context.stopped:
            canvas = intensity.restore(volume.data)
    except Exception as error:
        clear_frames(error.__traceback__)  # they hold tensors: memory in use cannot be given back
        if isinstance(error, RuntimeError | MemoryError):  # torch's OutOfMemoryError, numpy's
            raise RunFailed(_explanation(error, job.method, stack)) from error
        raise
    finally:
        release_memory(context.device)
    if job.method.consistency != "none":
        make_consistent(stack, canvas)  # once more on the input's scale: restoring rounds to float32
    seconds = time.monotonic() - began
    result = Volume(
        canvas,
        stack.volume_scale_um,
        f"{stack.name} {name_of(job.method)}",
        stack.source_dtype,
        _provenance(job, stack, context, seconds),
    )
    return Result(result, weights or {}, residual_stats(canvas, stack), context.stopped, seconds)


def reconstruct(stack: ProjectionStack, method: Method, *, seed: int = 0, device: Device = "auto") -> Volume:
    """The volume of a stack in one call, without progress; parameters and errors as for `run`."""
    job = Job(method=method, acquisition=stack.acquisition, seed=seed, device=device)
    return exhaust(run(job, stack)).volume


def exhaust(events: Generator[Event, None, Returned]) -> Returned:
    """Run a generator to its end and give its return value."""
    while True:
        try:
            next(events)
        except StopIteration as stop:
            value: Returned = stop.value
            return value


def check(job: Job, stack: ProjectionStack) -> None:
    """Refuse, before any work, what cannot succeed; errors as for `run`."""
    stack.check()
    device = _device_of(job)
    batch, remedy = job.method.memory_bytes(stack)
    volumes = WORKING_VOLUMES * int(np.prod(stack.volume_shape)) * 4
    if device == "cuda":
        import torch

        _check_memory(job.method, batch, torch.cuda.mem_get_info()[0], "GPU memory", f"{remedy}, or use the CPU")
        batch = 0
    crop = "crop the images or take fewer projections"
    free = psutil.virtual_memory().available
    _check_memory(job.method, volumes + batch, free, "memory", remedy if batch > volumes else crop)


def _device_of(job: Job) -> str:
    """The torch device of a job; an interpolation needs none, and torch takes seconds to load."""
    return "cpu" if job.device == "auto" and not job.method.learned else resolve_device(job.device)


def _batch_bytes(device: str) -> int:
    """Memory for one batch of slices: a quarter of what is free, so that the rest of the run and the viewer fit."""
    if device == "cuda":
        import torch

        return int(torch.cuda.mem_get_info()[0]) // 4
    return min(CPU_BATCH_BYTES, int(psutil.virtual_memory().available) // 4)


def _check_memory(method: Method, needed: int, free: int, kind: str, remedy: str) -> None:
    if needed > free:
        raise TooLarge(
            f"{name_of(method)} needs {needed / 1e9:.1f} GB of {kind} for this stack, "
            f"and {free / 1e9:.1f} GB are free: {remedy}"
        )


def resolve_device(wanted: Device) -> str:
    """The torch device to use; ``auto`` takes CUDA, then MPS, then the CPU.

    Raises
    ------
    DeviceUnavailable
        If the device asked for is not there; names those that are.
    """
    if wanted == "cpu":
        return "cpu"
    import torch

    there = ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available() + ["cpu"]
    if wanted == "auto":
        return there[0]
    if wanted not in there:
        raise DeviceUnavailable(
            f"there is no {wanted} device on this computer; available: {', '.join(there)} (or auto)"
        )
    return wanted


def resolve_precision(wanted: str, device: str) -> str:
    """``bfloat16`` where asked for or where the hardware multiplies it natively, else ``float32``.

    On processors without AMX or AVX-512 BF16 it is emulated and 10 to 50 times slower than float32.
    """
    if wanted != "auto":
        return wanted
    import torch

    if device == "cuda":
        native = torch.cuda.get_device_capability() >= (8, 0)
    elif device == "cpu":
        capabilities: Any = getattr(torch.cpu, "get_capabilities", dict)()  # older torch does not tell
        native = any(capabilities.get(flag, False) for flag in ("amx_bf16", "avx512_bf16"))
    else:
        native = False
    return "bfloat16" if native else "float32"


def release_memory(device: str) -> None:
    """Give the GPU memory that torch caches back to other programs."""
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()


def _shown(
    events: Generator[Event, None, Returned], canvas: NDArray[np.float32], intensity: Intensity
) -> Generator[Event, None, Returned]:
    """Pass events on with previews on the input's intensity scale, and keep the canvas as people see it."""
    while True:
        try:
            event = next(events)
        except StopIteration as stop:
            value: Returned = stop.value
            return value
        if isinstance(event, Preview):
            event = replace(event, data=intensity.restore(event.data))
            canvas[event.start : event.start + len(event.data)] = event.data
        yield event


def _explanation(error: RuntimeError | MemoryError, method: Method, stack: ProjectionStack) -> str:
    words = ("out of memory", "can't allocate")
    if isinstance(error, MemoryError) or any(text in str(error).lower() for text in words):
        remedy = method.memory_bytes(stack)[1]
        return f"memory ran out during {name_of(method)} on {stack.name}: {remedy}, or crop the stack"
    return f"{name_of(method)} broke off on {stack.name}: {error}"


def _provenance(job: Job, stack: ProjectionStack, context: Context, seconds: float) -> dict[str, Any]:
    return {
        "software": "napari-microdiffusion",
        "versions": {name: version(name) for name in ("napari-microdiffusion", "torch", "numpy", "scipy")},
        "method": name_of(job.method),
        "job": job.model_copy(update={"acquisition": stack.acquisition}).model_dump(mode="json"),
        "seed": job.seed,
        "device": context.device,
        "precision": context.dtype,
        "input": stack.name,
        "input_sha256": stack.sha256,
        "complete": not context.stopped,
        "seconds": round(seconds, 3),
    }
