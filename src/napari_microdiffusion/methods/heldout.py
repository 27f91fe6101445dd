"""Held-out projection score: hide projections in turn, reconstruct from the rest, and compare with the hidden ones.

It needs no truth, and works for every method: what a method says of light that it has not seen. It sees projections,
not slices: how a method shares light out within one projection, it cannot tell.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..acquisition import MINIMUM_PROJECTIONS
from ..events import Event, InvalidInput, Preview, Returned, RunFailed, Stage, Step, relay
from ..images import span
from ..numerics import decibels
from ..volume import ProjectionStack
from ._base import Context, Method, Weights

FOLDS = 4
"""In how many turns projections are hidden, where nothing else is wanted."""

TOO_SOON = "stopped before the first fold was finished: there is no held-out score yet; run it again"


@dataclass(frozen=True)
class HeldOut:
    """How well projections are told from the others.

    Parameters
    ----------
    psnr
        dB, mean over the projections that were hidden; relative to the range (max − min) of what was measured.
    errors
        Root mean square error of each projection in use (K,), in the stack's intensities; NaN for those never hidden.
    folds
        Folds that were finished.
    partial
        Whether it was stopped before the last fold.
    """

    psnr: float
    errors: tuple[float, ...]
    folds: int
    partial: bool = False


def folds(count: int, wanted: int = FOLDS) -> list[tuple[int, ...]]:
    """Which projections are hidden together: indices among ``count`` in use, for each fold.

    Each inner projection is hidden once, never together with the next one in use: the gap would be deeper than any in
    the stack. (It is where one beside it is left out.) The two outermost are always shown, since hiding them asks for
    extrapolation. At least three are left.

    Parameters
    ----------
    wanted
        Folds; every ``wanted``-th projection is hidden together. With more than there are inner projections, each is
        hidden alone.

    Raises
    ------
    InvalidInput
        For fewer than four projections, or fewer than two folds.
    """
    if count < MINIMUM_PROJECTIONS + 1:
        raise InvalidInput(
            f"at least {MINIMUM_PROJECTIONS + 1} projections are needed for a held-out score, and there are {count}: "
            "one is hidden, and the others must still make a stack"
        )
    if wanted < 2:
        raise InvalidInput(
            f"a held-out score needs at least 2 folds, not {wanted}: in one alone, neighbours would be hidden together"
        )
    inner = range(1, count - 1)
    together = min(wanted, len(inner))
    return [tuple(inner[first::together]) for first in range(together)]


def score(
    method: Method,
    stack: ProjectionStack,
    context: Context,
    weights: Weights | None = None,
    wanted: int = FOLDS,
    measured: NDArray[np.float32] | None = None,
) -> Generator[Event, None, HeldOut]:
    """Reconstruct without each fold's projections in turn, and compare what the volume says of them.

    Stages say which fold they belong to. Previews are left out: they would show volumes that nobody asked for.
    When the context says stop, the score is that of the folds finished by then.

    Parameters
    ----------
    stack
        Normalised, as for `Method.fit`.
    context
        Its ``volumes`` are neither used nor changed: priors computed with the hidden projections would give them away.
    weights
        Of the method, to be used in every fold; without effect where it `retrains`. None: trained once, on all
        projections. Those of a `pretrained` method are needed, and refined anew in each fold.
    wanted
        Folds, as for `folds`.
    measured
        What hidden projections are compared with, (K, y, x); None: those of the stack. Where that was denoised, they
        are as noisy as they were measured, so that recipes with and without it compare.

    Raises
    ------
    InvalidInput
        As for `folds`.
    RunFailed
        If stopped before the first fold is finished.
    """
    hidings = folds(len(stack.data), wanted)
    measured = stack.data if measured is None else measured
    if method.retrains:
        weights = None
    elif not method.pretrained:
        own = _own(context)
        train = method.fit(stack, own) if weights is None else method.refine(stack, weights, own)
        weights = yield from _told(train, "Once for all folds")
        context.stopped = own.stopped
    squares: dict[int, float] = {}
    finished = 0
    for number, fold in enumerate(hidings, 1):
        if context.should_stop():
            break
        own = _own(context)
        compared = _compared(method, stack, measured, fold, weights, own)
        found = yield from _told(compared, f"Held out {number} of {len(hidings)}")
        if found is None:
            context.stopped = True
            break
        squares.update(zip(fold, found, strict=True))
        finished = number
    if not finished:
        raise RunFailed(TOO_SOON)
    return _summary(measured, squares, finished, finished < len(hidings))


def _compared(
    method: Method,
    stack: ProjectionStack,
    measured: NDArray[Any],
    fold: tuple[int, ...],
    weights: Weights | None,
    context: Context,
) -> Generator[Event, None, list[float] | None]:
    """Mean squared error of each projection in a fold, predicted from the others; None when stopped."""
    shown = stack.without(fold)
    if weights is None:
        weights = yield from method.fit(shown, context)
    elif method.pretrained:
        weights = yield from method.refine(shown, weights, context)
    if context.should_stop():
        return None
    volume = yield from method.voxels(shown, weights, context)
    if context.stopped:
        return None
    yield Stage("Comparing with the hidden projections", len(fold))
    squares = []
    for done, index in enumerate(fold, 1):
        row = stack.acquisition.matrix[index]
        seen = np.flatnonzero(row)  # a few slices in float64, not the whole volume
        predicted = np.tensordot(row[seen], volume[seen].astype(np.float64), 1)
        squares.append(float(((predicted - measured[index]) ** 2).mean()))
        yield Step(done)
    return squares


def _told(events: Generator[Event, None, Returned], where: str) -> Generator[Event, None, Returned]:
    """Pass events on, stages under the name of where they happen, previews not at all."""

    def told(event: Event) -> Event | None:
        if isinstance(event, Stage):
            return replace(event, name=f"{where}: {event.name}")
        return None if isinstance(event, Preview) else event

    return relay(events, told)


def _own(context: Context) -> Context:
    """A context for one fold: no priors of other folds or of the whole stack, and no time spent on previews."""
    return replace(context, volumes={}, preview_seconds=math.inf)


def _summary(measured: NDArray[Any], squares: dict[int, float], finished: int, partial: bool) -> HeldOut:
    """The score, from the mean squared error of each hidden projection by its index."""
    relative = np.asarray(list(squares.values())) / max(span(measured), 1e-30) ** 2
    psnr = float(decibels(relative).mean())
    errors = tuple(math.sqrt(squares[index]) if index in squares else math.nan for index in range(len(measured)))
    return HeldOut(psnr, errors, finished, partial)
