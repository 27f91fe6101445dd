"""How much sharper along z a sample may be than it was found, by how much hidden projections surprise the network.

Hidden projections tell the most that the blur may be, not the least: of detail finer than a projection they show
nothing, and a network that is told too much blur is too sure of it. That shows where it is bright, where there are
structures: there hidden projections of the stack surprise the network more than those of lateral patches do
(benchmarks/axial.md). Of what is dim they tell nothing: it shows little but noise, and what lies in the gap.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..events import Event, Stage, Step
from ..images import otsu
from ..volume import ProjectionStack
from ._base import Context, finite
from ._hidden import Fold, told_folds
from ._patches import UNBLURRED, Anisotropy, Cutter, along_rows
from ._planes import restored

if TYPE_CHECKING:
    from ..plane_net import PlaneNet

BATCHES, PATCHES = 48, 12
"""Batches of patches with hidden projections, and patches in each: bright ones are rare."""

FEWEST = 100
"""Bright pixels that tell something, of the stack's hidden projections and of those of patches."""

FAINTEST = 1e-3
"""Surprise of patches below which it is no measure: theirs are 0.3 to 2 where there is something to tell."""

TRIED = 0.0, 1 / 3, 2 / 3, 1.0, 1.5, 2.0
"""Shares of the blur that are taken off; beyond 1 structures are shorter, too (`Anisotropy.sharpened`)."""

UNTOLD = 0.5
"""The share taken off where the stack surprises the network, and no less with less blur."""

LOWER = 0.95
"""A surprise is lower than another from this share of it on; less may be chance."""


def sharper(
    net: PlaneNet,
    cut: Cutter,
    stack: ProjectionStack,
    found: Anisotropy,
    strength: float,
    shorter: bool,
    context: Context,
) -> Generator[Event, None, float | None]:
    """How much sharper z must be told for bright hidden projections to surprise the network as those of patches do.

    Of `TRIED` the first, on a straight line to the one before; where surprises end to fall earlier, that one, and
    `UNTOLD` where they do not begin to. The surprise is the error of a hidden projection over what the network states
    of it, of which nine tenths are less than what is compared.

    Parameters
    ----------
    found
        How the sample looks by hidden projections; for this look they are told, and patches are cut.
    strength
        The network's changes are multiplied by it.
    shorter
        Whether shorter structures are tried, too.

    Returns
    -------
    by
        For `Anisotropy.sharpened`, 0 to 2. 0 where most of the stack is bright (patches show enough of that), where too
        little is, and where patches surprise nobody; None when stopped.

    Raises
    ------
    RunFailed
        If a surprise is NaN or infinite.
    """
    threshold = otsu(stack.data)
    if np.median(stack.data) >= threshold:
        return 0.0
    tried = _tried(found, shorter)
    yield Stage("Choosing the blur of the error bars", 1 + len(tried))
    told = told_folds(net, stack, found, context)
    if told is None:
        return None
    if sum(int((fold.interpolated > threshold).sum()) for fold in told) < FEWEST:
        return 0.0
    usual = _usual(net, cut, stack.ridge, found, threshold, context)
    if not usual:
        return usual
    yield Step(1)
    surprises: list[float] = []
    for by in tried:
        as_sharp = told_folds(net, stack, found.sharpened(by), context) if surprises else told
        if as_sharp is None:
            return None
        surprises.append(finite(_of_stack(told, as_sharp, strength, threshold) / usual))
        yield Step(1 + len(surprises))
        if (share := _enough(tried, surprises)) is not None:
            return share
    return tried[-1]


def _tried(found: Anisotropy, shorter: bool) -> list[float]:
    """Those of `TRIED` that change anything of what was found, and may be tried."""
    return [by for by in TRIED if (by >= 1 or found.sigma * (1 - by) > UNBLURRED) and (by <= 1 or shorter)]


def _usual(
    net: PlaneNet, cut: Cutter, ridge: float, anisotropy: Anisotropy, threshold: float, context: Context
) -> float | None:
    """The surprise at bright hidden projections of patches; 0 where it is no measure, None when stopped."""
    surprises = _of_patches(net, cut, ridge, anisotropy, threshold, context)
    if surprises is None:
        return None
    most = _most(surprises) if len(surprises) >= FEWEST else 0.0
    return 0.0 if most <= FAINTEST else most


def _enough(tried: list[float], surprises: list[float]) -> float | None:
    """The share that is taken off, by the surprises at the first of those tried; None where more must be asked for."""
    by, now = tried[len(surprises) - 1], surprises[-1]
    if len(surprises) == 1:
        return by if now * LOWER <= 1 else None
    at, before = tried[len(surprises) - 2], surprises[-2]
    if now <= 1:
        return at + (by - at) * (before - 1) / (before - now)
    return (at or UNTOLD) if now > LOWER * before else None


def _of_stack(told: list[Fold], as_sharp: list[Fold], strength: float, threshold: float) -> float:
    """The surprise at the stack's bright hidden projections: errors as they are ``told``, intervals ``as_sharp``."""
    found = []
    for fold, sharp in zip(told, as_sharp, strict=True):
        error = fold.measured - fold.interpolated - strength * fold.change
        found.append(_surprises(fold.interpolated, error, sharp.stated, threshold))
    return _most(np.concatenate(found))


def _of_patches(
    net: PlaneNet, cut: Cutter, ridge: float, anisotropy: Anisotropy, threshold: float, context: Context
) -> NDArray[np.float64] | None:
    """Surprises at bright hidden projections of patches, (number of them,); None when stopped."""
    import torch

    found = []
    for patches in (cut(PATCHES, anisotropy, hide=True) for _ in range(BATCHES)):
        if context.should_stop():
            return None
        acquisition = patches.acquisition
        forward = acquisition.replace(hidden=()).matrix[list(acquisition.hidden)]
        patches = patches.to(context.device)
        planes = along_rows(acquisition.smoothest(ridge), patches.projections)
        with torch.no_grad():
            estimate, distances = restored(net, acquisition, ridge, planes, patches.conditions, context)
        truth = patches.truth + patches.grain  # as slices are, and projections of them
        parts = planes, truth - estimate, distances.mean(1)
        seen, error, stated = (along_rows(forward, part).cpu().numpy() for part in parts)
        found.append(_surprises(seen, error, stated, threshold))
    return np.concatenate(found)


def _most(surprises: NDArray[np.float64]) -> float:
    """What nine tenths of surprises (number of them,) are less than."""
    return float(np.quantile(surprises, 0.9))


def _surprises(
    interpolated: NDArray[Any], error: NDArray[Any], stated: NDArray[Any], threshold: float
) -> NDArray[np.float64]:
    """Of the pixels that look bright from their neighbours, (number of them,)."""
    bright = interpolated > threshold
    found: NDArray[np.float64] = np.abs(error[bright]) / np.maximum(stated[bright], 1e-9)
    return found
