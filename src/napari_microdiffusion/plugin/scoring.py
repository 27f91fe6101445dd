"""Scoring a result's recipe without a truth: hidden projections, predicted from the others, in a worker thread."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace

from ..events import RunFailed, Stage
from ..methods import Conservative, Weights
from ..trained import TOO_GOOD
from ..trust import FOLDS, HeldOut, held_out
from ..verdict import verdict
from .follow import Follower, Progress
from .known import Ran
from .preload import load_torch
from .worker import explained, followed


@dataclass(frozen=True)
class Scored:
    """The score of a method on hidden projections, that of plain interpolation, and the verdict with both.

    ``baseline`` is None where the method is plain interpolation itself, and where not all projections had their turn.
    ``doubt`` is what the score must not be read without.
    """

    own: HeldOut
    baseline: HeldOut | None
    verdict: str
    doubt: str = ""

    @property
    def text(self) -> str:
        """Both, a line each."""
        turns = f" ({self.own.folds} of {FOLDS} turns)" if self.own.partial else ""
        lines = [f"hidden projections: {self.own.psnr:.1f} dB{turns}"]
        lines += [] if self.baseline is None else [f"plain interpolation: {self.baseline.psnr:.1f} dB"]
        return "\n".join([*lines, self.doubt] if self.doubt else lines)


class _Turns(Follower):
    """Stages by shorter names: the line that shows them is narrow."""

    def begin(self, stage: Stage) -> None:
        """A new stage of a turn: ``1 of 4: Training …``."""
        super().begin(replace(stage, name=stage.name.removeprefix("Held out ")))


@explained
def score(cancelled: Callable[[], bool], ran: Ran) -> Generator[Progress, None, Scored]:
    """Score the recipe of a run and plain interpolation on the same hidden projections.

    Every failure is an `EngineError`. Stopped before the first turn is over, it is one too.
    """
    job, stack = ran.job, ran.stack
    if job.method.learned:
        load_torch()
    follower = _Turns("Hiding projections")
    own = yield from followed(held_out(job, stack, weights=_weights(ran), cancelled=cancelled), follower)
    baseline = None
    if not own.partial and not isinstance(job.method, Conservative):
        baseline = yield from _plain(ran, cancelled, follower)
    told = verdict(ran.result, stack, own.psnr, None if baseline is None else baseline.psnr, own.partial)
    return Scored(own, baseline, told, TOO_GOOD if ran.trained is not None and ran.trained.knows(stack) else "")


def _weights(ran: Ran) -> Weights | None:
    """What a score may start from: weights as they were before they saw the projections, or a finished training."""
    if ran.trained is not None:
        return ran.trained.weights
    return ran.result.weights if ran.job.method.learned and not ran.result.partial else None


def _plain(ran: Ran, cancelled: Callable[[], bool], follower: Follower) -> Generator[Progress, None, HeldOut | None]:
    """Plain interpolation's score on the same projections; None if stopped."""
    plain = ran.job.model_copy(update={"method": Conservative(), "device": "cpu"})
    try:
        found = yield from followed(held_out(plain, ran.stack, cancelled=cancelled), follower)
    except RunFailed:
        if cancelled():
            return None
        raise
    return None if found.partial else found
