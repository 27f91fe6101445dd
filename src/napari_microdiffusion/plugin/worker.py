"""A run in a worker thread: the engine's generator in, few and small messages out.

A generator worker has no backpressure: whatever is yielded queues up in Qt. So pixels never travel in a message.
They are written into one array, which the layer shows as it is, and messages come twice a second at most.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray
from superqt.utils import GeneratorWorker

from ..events import EngineError, Event, Notice, Preview, RunFailed, Stage, Step
from ..methods import Conservative
from ..pretraining import trained_on
from ..run import Job, Result, check, run
from ..trained import Trained, check_sampling_only, load_trained
from ..volume import ProjectionStack, Volume
from .follow import Follower, Progress, Recorder
from .preload import load_torch

Yielded = TypeVar("Yielded")
Returned = TypeVar("Returned")
Given = ParamSpec("Given")
Load = Callable[[], tuple[ProjectionStack, Volume | None]]


@dataclass(frozen=True)
class Loaded:
    """The input is in memory; ``truth`` where there is one."""

    stack: ProjectionStack
    truth: Volume | None


@dataclass(frozen=True)
class Opened:
    """The first picture is there: the array (z, y, x) that later previews are written into."""

    canvas: NDArray[np.float32]


@dataclass(frozen=True)
class Outcome:
    """The end of a run: the result, whose pixels are the canvas, and its scores.

    ``trained`` is the network that it was given, if it was given one; ``beware`` what makes the scores worthless.
    """

    result: Result
    scores: dict[str, float]
    trained: Trained | None = None
    beware: str = ""


Message = Loaded | Opened | Progress
Messages = Generator[Message, None, Outcome]


class StoppableWorker(GeneratorWorker[Yielded, None, Returned]):
    """Runs a generator in a thread, and closes it there whatever happens, so that the engine cleans up.

    Parameters
    ----------
    work
        Its first argument says whether to stop; then come those ``given``.
    """

    def __init__(self, work: Callable[..., Generator[Yielded, None, Returned]], *given: Any) -> None:
        self.stopped = threading.Event()
        super().__init__(work, self.cancelled, *given)

    def cancelled(self) -> bool:
        """Whether Stop was pressed or the application is closing."""
        return self.stopped.is_set() or bool(self.abort_requested)

    def work(self) -> Any:
        try:
            return super().work()
        finally:
            self._gen.close()


class RunWorker(StoppableWorker[Message, Outcome]):
    """Runs a job; ``base`` is the base model in use, where it is in memory."""

    def __init__(self, load: Load, job: Job, preview_seconds: float = 3.0, base: Trained | None = None) -> None:
        self.shown = threading.Event()
        super().__init__(drive, load, job, preview_seconds, lambda: self.shown.wait(1.0), base)


def explained(
    work: Callable[Given, Generator[Yielded, None, Returned]],
) -> Callable[Given, Generator[Yielded, None, Returned]]:
    """The same messages, and every failure as an `EngineError`.

    A RuntimeError, torch's OutOfMemoryError among them, would vanish in a Qt worker, and the widget wait for ever.
    """

    @wraps(work)
    def messages(*args: Given.args, **kwargs: Given.kwargs) -> Generator[Yielded, None, Returned]:
        try:
            return (yield from work(*args, **kwargs))
        except EngineError:
            raise
        except MemoryError as error:
            raise RunFailed("memory ran out: crop the images, or choose a smaller preset, and try again") from error
        except Exception as error:
            logging.getLogger(__name__).exception("a run broke off")
            raise RunFailed(
                f"the run broke off unexpectedly ({type(error).__name__}: {error}); please report it"
            ) from error

    return messages


@explained
def drive(
    cancelled: Callable[[], bool],
    load: Load,
    job: Job,
    preview_seconds: float = 3.0,
    wait: Callable[[], object] = lambda: None,
    base: Trained | None = None,
) -> Messages:
    """Load, run and score. Every failure is an `EngineError`.

    Parameters
    ----------
    cancelled
        Asked once a step.
    load
        Gives the projections and the truth, if there is one; may read files and simulate.
    preview_seconds
        Whole-volume previews come this far apart at least.
    wait
        Returns when the first picture is on screen: loading torch would slow the drawing down.
    base
        A base model in memory, used instead of the file that the job names, if it names one.
    """
    stack, truth = load()
    at_once = device_is_known(job)
    if at_once:
        check(job, stack)
    yield Loaded(stack, truth)
    canvas = _first_picture(job, stack)
    yield Opened(canvas)
    asked = job
    if cancelled() and base is None and job.weights is None:  # nothing to calculate, and no torch to load for it
        job = job.model_copy(update={"device": "cpu", "precision": "float32"})
    elif job.method.learned or not at_once:
        wait()
        yield from torch_loaded()
    if not at_once:
        check(job, stack)
    recorder = Recorder(canvas, stack, truth)
    trained = _trained_before(job, base, stack, recorder)
    known = None if trained is None or truth is None else trained_on(trained.origin.volumes, truth)
    if known is not None:
        recorder.notice(Notice(known))
        recorder.beware = known
    weights, volumes = (None, ()) if trained is None else (trained.weights, trained.origin.volumes)
    events = run(job, stack, weights=weights, volumes=volumes, cancelled=cancelled, preview_seconds=preview_seconds)
    try:
        result = yield from followed(events, recorder)
    finally:
        events.close()
    if job is not asked:  # a replay is to be as it was asked for
        (result.volume.provenance or {})["job"].update(device=asked.device, precision=asked.precision)
    canvas[:] = result.volume.data
    result = replace(result, volume=replace(result.volume, data=canvas))
    yield recorder.progress(painted=True)
    return Outcome(result, recorder.closing_scores(result, cancelled), trained, recorder.beware)


def _trained_before(job: Job, base: Trained | None, stack: ProjectionStack, recorder: Recorder) -> Trained | None:
    """The base model at hand, or else the network that the job names, None where it names none.

    What is to be known of it goes to the recorder.
    """
    if base is not None:
        check_sampling_only(base.method, job.method)
    elif job.weights is not None:
        base = load_trained(job.weights, method=job.method)
    if base is None:
        return None
    if note := base.check(stack, job.denoise):
        recorder.notice(Notice(note))
    return base


def torch_loaded() -> Generator[Progress, None, None]:
    """Load torch where that is still to be done, and say so first: it takes seconds."""
    if "torch" not in sys.modules:
        yield Follower("Loading the neural network software").progress()
        load_torch()


def device_is_known(job: Job) -> bool:
    """Whether the device can be checked without loading torch, which the first picture would wait for."""
    return "torch" in sys.modules or job.device == "cpu" or (job.device == "auto" and not job.method.learned)


def _first_picture(job: Job, stack: ProjectionStack) -> NDArray[np.float32]:
    """The conservative interpolation; on the CPU, as looking for another device may load torch, for seconds."""
    first = run(job.model_copy(update={"device": "cpu", "method": Conservative(), "weights": None}), stack)
    try:
        for event in first:
            if isinstance(event, Preview):
                return np.ascontiguousarray(event.data, np.float32)
    finally:
        first.close()
    return np.zeros(stack.volume_shape, np.float32)


def followed(events: Generator[Event, None, Returned], follower: Follower) -> Generator[Progress, None, Returned]:
    """Take every event in, let a message out when one is due."""
    while True:
        try:
            event = next(events)
        except StopIteration as stop:
            result: Returned = stop.value
            return result
        match event:
            case Stage():
                if follower.unsent:  # the last of the stage before
                    yield follower.progress()
                follower.begin(event)
            case Step():
                follower.step(event)
            case Preview():
                follower.paint(event)
            case Notice():
                follower.notice(event)
        if follower.due():
            yield follower.progress()
