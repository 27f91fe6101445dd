"""How much wider intervals must be where it is bright, by hidden projections of the stack beside those of patches.

What is bright is rare in lateral patches and often looks different along z: there networks are surer than they should
be, while where it is dim, in most of a volume, their intervals hold what they say (benchmarks/axial.md). Of what is dim
hidden projections tell nothing: it shows little but noise, and what lies in the gap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..images import otsu
from ..numerics import along_z
from ..volume import ProjectionStack
from ._base import Context
from ._hidden import told_folds
from ._patches import Anisotropy, Cutter, along_rows
from ._planes import restored

if TYPE_CHECKING:
    from ..plane_net import PlaneNet

BATCHES, PATCHES = 48, 12
"""Batches of patches with hidden projections, and patches in each: bright ones are rare."""

FEWEST = 100
"""Bright pixels that tell something, of the stack's hidden projections and of those of patches."""

FAINTEST = 1e-3
"""Surprise of patches below which it is no measure: theirs are 0.3 to 2 where there is something to tell."""

MOST = 4.0
"""The largest factor."""


def brightness(stack: ProjectionStack) -> NDArray[np.float32]:
    """(Z, y, x), from 0 for what is as dim as half of all projected pixels to 1 for what is bright by Otsu's threshold.

    Of the conservative interpolation: what lies within a bright projection may be bright.
    """
    found = along_z(stack.interpolation, stack.data)
    low, high = np.median(stack.data), otsu(stack.data)
    if not low < high:  # most is bright
        return np.asarray(found > high, np.float32)
    found -= np.float32(low)
    found /= np.float32(high - low)
    return np.clip(found, 0, 1, out=found)


def bright_widening(
    net: PlaneNet, cut: Cutter, stack: ProjectionStack, anisotropy: Anisotropy, strength: float, context: Context
) -> float | None:
    """Factor at which intervals hold bright hidden projections as often as they hold those of patches; 1 at least.

    The surprise is the error of a hidden projection over what the network states of it, of which nine tenths are less
    than what is compared. 1 where most of the stack is bright: patches show enough of that. None when stopped.
    """
    threshold = otsu(stack.data)
    if np.median(stack.data) >= threshold:
        return 1.0
    own = []
    for fold in told_folds(net, stack, anisotropy, context):
        if fold is None:
            return None
        error = fold.measured - fold.interpolated - strength * fold.change
        own.append(_surprises(fold.interpolated, error, fold.stated, threshold))
    usual = _of_patches(net, cut, stack.ridge, anisotropy, threshold, context)
    if usual is None:
        return None
    here = np.concatenate(own)
    if min(len(here), len(usual)) < FEWEST:
        return 1.0
    surprise, measure = float(np.quantile(here, 0.9)), float(np.quantile(usual, 0.9))
    return min(max(surprise / measure, 1.0), MOST) if measure > FAINTEST else 1.0


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


def _surprises(
    interpolated: NDArray[Any], error: NDArray[Any], stated: NDArray[Any], threshold: float
) -> NDArray[np.float64]:
    """Of the pixels that look bright from their neighbours, (number of them,)."""
    bright = interpolated > threshold
    found: NDArray[np.float64] = np.abs(error[bright]) / np.maximum(stated[bright], 1e-9)
    return found
