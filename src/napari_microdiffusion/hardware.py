"""What work may use of the computer: device, precision, memory; arithmetic that repeats itself; errors in words."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from threading import Lock
from traceback import clear_frames
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import psutil
from pydantic import Field

from .events import DeviceUnavailable, RunFailed, TooLarge
from .methods import Context, Method
from .presets import name_of
from .volume import ProjectionStack, Volume

Device = Literal["auto", "cpu", "cuda", "mps"]

Precision = Annotated[
    Literal["auto", "float32", "bfloat16"],
    Field(description="arithmetic of the networks; auto takes bfloat16 where the hardware has it"),
]

CPU_BATCH_BYTES = 2**27
"""Memory for one batch of slices in the networks on a CPU: more gains no speed there, and Stop would wait for it."""

WORKING_VOLUMES = 6
"""Copies of the volume alive at the peak of a run: canvas, prior, estimate, preview, truth, display."""

RELIABILITY_VOLUMES = 6
"""Further ones for each reliability, a prior's too: its three arrays, on the engine's scale and on the input's."""

_REPEATING = Lock()
_FOUND: list[tuple[bool, bool]] = []
"""cuDNN's settings as each run that is under way has found them."""


class Work(Protocol):
    """What is common to a run and a training on volumes."""

    @property
    def method(self) -> Method:
        """The recipe."""

    @property
    def seed(self) -> int:
        """Fixes every random number."""

    @property
    def device(self) -> Device:
        """As it was asked for."""


@contextmanager
def at_work(
    work: Work, data: str, remedy: str, cancelled: Callable[[], bool], preview_seconds: float = 5.0
) -> Generator[Context]:
    """The device and the context of some work, while it lasts; errors in plain words, and memory given back at the end.

    Parameters
    ----------
    data
        What people call that which is worked on.
    remedy
        What to do if memory runs out.

    Raises
    ------
    RunFailed
        In place of torch's and numpy's own errors.
    """
    device = device_of(work.method, work.device)
    memory = batch_bytes(device)
    try:
        with repeatable(device):
            yield Context(device, "float32", work.seed, cancelled, preview_seconds, memory)
    except Exception as error:
        clear_frames(error.__traceback__)  # they hold tensors: memory in use cannot be given back
        if isinstance(error, RuntimeError | MemoryError):  # torch's OutOfMemoryError, numpy's
            raise RunFailed(_explanation(error, name_of(work.method), data, remedy)) from error
        raise
    finally:
        release_memory(device)


def _explanation(error: RuntimeError | MemoryError, name: str, data: str, remedy: str) -> str:
    words = ("out of memory", "can't allocate")
    if isinstance(error, MemoryError) or any(text in str(error).lower() for text in words):
        return f"memory ran out during {name} on {data}: {remedy}"
    return f"{name} broke off on {data}: {error}"


def device_of(method: Method, wanted: Device) -> str:
    """The torch device of a method; an interpolation needs none, and torch takes seconds to load."""
    return "cpu" if wanted == "auto" and not method.learned else resolve_device(wanted)


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


def batch_bytes(device: str) -> int:
    """Memory for one batch of slices: a quarter of what is free, so that the rest of the run and the viewer fit."""
    if device == "cuda":
        import torch

        return int(torch.cuda.mem_get_info()[0]) // 4
    return min(CPU_BATCH_BYTES, int(psutil.virtual_memory().available) // 4)


def check_memory(method: Method, stack: ProjectionStack, device: str) -> None:
    """Refuse a stack that does not fit.

    Raises
    ------
    TooLarge
        Saying how much is missing, and what lowers it.
    """
    prior = getattr(method, "prior", None)
    reliable = method.gives_reliability + (prior is not None and prior.gives_reliability)
    held = (WORKING_VOLUMES + RELIABILITY_VOLUMES * reliable) * int(np.prod(stack.volume_shape)) * 4
    what, crop = "this stack", "crop the images or take fewer projections"
    _check_memory(method, method.memory_bytes(stack), device, held, what, crop)


def check_training_memory(
    method: Method, volumes: Iterable[Volume], like: ProjectionStack, remedy: str, device: str
) -> None:
    """Refuse volumes to train on that do not fit, all at once, as float32; errors as for `check_memory`.

    Parameters
    ----------
    like
        A stack of the size that training sees at least, for the memory of the method's own batches.
    remedy
        Which settings lower that.
    """
    held = 4 * sum(volume.data.size for volume in volumes)
    batch = getattr(method, "batch", 1) * method.memory_bytes(like)[0]
    _check_memory(method, (batch, remedy), device, held, "these volumes", "crop them or take fewer")


def _check_memory(method: Method, batches: tuple[int, str], device: str, held: int, what: str, crop: str) -> None:
    """``batches`` are what the method's own take, and what lowers it."""
    batch, remedy = batches
    if device == "cuda":
        import torch

        _compare(method, what, batch, torch.cuda.mem_get_info()[0], "GPU memory", f"{remedy}, or use the CPU")
        batch = 0
    free = psutil.virtual_memory().available
    _compare(method, what, held + batch, free, "memory", remedy if batch > held else crop)


def _compare(method: Method, what: str, needed: int, free: int, kind: str, remedy: str) -> None:
    if needed > free:
        raise TooLarge(
            f"{name_of(method)} needs {needed / 1e9:.1f} GB of {kind} for {what}, "
            f"and {free / 1e9:.1f} GB are free: {remedy}"
        )


@contextmanager
def repeatable(device: str) -> Generator[None]:
    """Let cuDNN take only algorithms that give the same bits each time, and none by how fast they happen to be."""
    if device != "cuda":
        yield
        return
    from torch.backends import cudnn

    with _REPEATING:
        _FOUND.append((cudnn.deterministic, cudnn.benchmark))
        cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        with _REPEATING:  # of runs side by side the last to end leaves things as the first has found them
            found = _FOUND.pop()
            if not _FOUND:
                cudnn.deterministic, cudnn.benchmark = found
