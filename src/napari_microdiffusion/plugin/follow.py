"""Following a run, in the worker's thread: time left, the loss curve, scores of the slices that have arrived. No Qt."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..events import Notice, Preview, Stage, Step
from ..images import span
from ..metrics import Residual, RunningScores, reliability_scores, residual_stats, scales_apart
from ..run import Result
from ..volume import ProjectionStack, Volume

MESSAGE_SECONDS = 0.5
"""For each, Qt composes the whole window: without a graphics card ten a second leave two thirds of the training steps
that two leave (docs/architecture.md)."""

SCORING_SECONDS = 0.4
"""A preview's scores may take this long; of larger ones, slices spread over the depth are scored."""

RESIDUAL_SECONDS = 2.0


@dataclass(frozen=True)
class Progress:
    """How far a run is; ``losses`` are those since the last message, ``fresh`` marks a new stage's first."""

    stage: str
    done: int
    steps: int
    seconds_left: float | None
    fresh: bool
    painted: bool
    losses: tuple[tuple[int, float], ...] = ()
    scores: dict[str, float] | None = None
    notices: tuple[str, ...] = ()


class Follower:
    """Stages, steps, losses and notices since the last message."""

    def __init__(self, stage: str) -> None:
        self._stage, self._began, self._done = Stage(stage, 1), time.monotonic(), 0
        self._last = time.monotonic()
        self._losses: list[tuple[int, float]] = []
        self._start_anew(fresh=True)

    def begin(self, stage: Stage) -> None:
        """A new stage: its time and its losses start anew."""
        self._stage, self._began, self._done = stage, time.monotonic(), 0
        self._fresh, self._losses = True, []

    def step(self, step: Step) -> None:
        """A step is done."""
        self._done = step.done
        if step.loss is not None:
            self._losses.append((step.done, step.loss))

    def paint(self, preview: Preview) -> None:
        """Slices have arrived: nobody looks at them here."""

    def notice(self, notice: Notice) -> None:
        """Keep what the user should know for the next message."""
        self._notices.append(notice.message)

    @property
    def unsent(self) -> bool:
        """Whether there are losses that no message has told yet."""
        return bool(self._losses)

    def due(self) -> bool:
        """Whether it is time for a message."""
        return time.monotonic() - self._last >= MESSAGE_SECONDS

    def progress(self, painted: bool = False) -> Progress:
        """What has happened since the last message."""
        message = Progress(
            self._stage.name,
            self._done,
            self._stage.steps,
            self._seconds_left(),
            self._fresh,
            painted,
            tuple(self._losses),
            None,
            tuple(self._notices),
        )
        self._last = time.monotonic()
        self._start_anew()
        return message

    def _seconds_left(self) -> float | None:
        if not self._done or not self._stage.steps:
            return None
        return (time.monotonic() - self._began) / self._done * max(0, self._stage.steps - self._done)

    def _start_anew(self, fresh: bool = False) -> None:
        self._fresh = fresh
        self._losses = []
        self._notices: list[str] = []


class Recorder(Follower):
    """A follower that also shows the slices, and says what they are worth.

    Parameters
    ----------
    canvas
        (z, y, x), what the layer shows; previews are written into it.
    truth
        For scores; None where there is none.
    """

    def __init__(self, canvas: NDArray[np.float32], stack: ProjectionStack, truth: Volume | None) -> None:
        super().__init__("First picture")
        self._canvas, self._stack, self._truth = canvas, stack, truth
        reference = truth.data if truth is not None else stack.data
        self._range = max(span(reference), 1e-30)  # as `metrics.evaluate`
        self._running = RunningScores(truth.data, stack.acquisition) if truth is not None else None
        self._others: dict[str, float] = {}
        self._residual_at = 0.0
        self._painted, self._scored = False, False
        self.beware = "" if truth is None else scales_apart(canvas, truth.data) or ""
        """What makes the scores worthless."""
        if self.beware:
            self.notice(Notice(self.beware))
        self._score(0, canvas)

    def paint(self, preview: Preview) -> None:
        """Slices have arrived: show and score them."""
        self._canvas[preview.start : preview.start + len(preview.data)] = preview.data
        self._painted = True
        self._score(preview.start, preview.data)

    def progress(self, painted: bool = False) -> Progress:
        """What has happened since the last message."""
        message = replace(
            super().progress(painted or self._painted), scores=dict(self._scores) if self._scored else None
        )
        self._painted, self._scored = False, False
        return message

    def closing_scores(self, result: Result, cancelled: Callable[[], bool]) -> dict[str, float]:
        """Scores of the finished volume, of all its slices; of a partial one, of those that can be scored at once.

        After Stop there is only the residual, unless scoring all takes no longer than `SCORING_SECONDS`.
        """
        if self._running is not None and self._truth is not None and not result.partial:
            until = time.monotonic() + SCORING_SECONDS
            for z in range(len(result.volume.data)):
                if cancelled() and time.monotonic() > until:
                    self._running = None  # most of its scores are those of previews
                    break
                self._running.update(z, result.volume.data[z : z + 1])
            else:
                self._others |= reliability_scores(result.volume, self._truth, self._stack.acquisition)
        elif result.partial:
            self._score(0, self._canvas)
        self._others |= self._relative(result.residual)
        return self._scores

    @property
    def _scores(self) -> dict[str, float]:
        return {**(self._running.summary() if self._running else {}), **self._others}

    def _score(self, start: int, slices: NDArray[np.float32]) -> None:
        self._scored = True
        if self._running is not None:
            until = time.monotonic() + SCORING_SECONDS
            for index in spread(len(slices)):
                self._running.update(start + index, slices[index : index + 1])
                if time.monotonic() > until:
                    break
        if time.monotonic() - self._residual_at > RESIDUAL_SECONDS:
            self._others = self._relative(residual_stats(self._canvas, self._stack))
            self._residual_at = time.monotonic()

    def _relative(self, residual: Residual) -> dict[str, float]:
        return {"reprojection_max_error": residual.maximum / self._range}


def spread(count: int) -> Iterator[int]:
    """All of 0 .. count − 1, coarsely first: every 64th, then those half way between, and so on."""
    gaps = (64, 32, 16, 8, 4, 2, 1)
    yield from dict.fromkeys(index for gap in gaps for index in range(gap // 2, count, gap))
