"""What a plane network is to learn on lateral patches: small errors, and intervals, which are tested on them too."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ._base import Context
from ._patches import Anisotropy, Cutter, Patches, along_rows
from ._planes import invisible, restored
from ._training import pseudo_huber

if TYPE_CHECKING:
    from torch import Tensor

    from ..plane_net import PlaneNet

TAIL = 0.05
"""Share of the truth that may lie below the interval, and above it."""

DELTA = 0.1
"""δ² of the pseudo-Huber loss over the interpolation's mean squared error: a few edges that nothing can tell must not
outweigh the rest (benchmarks/axial.md)."""

NOISY = 25.0
"""The least δ² over the noise's variance: of noise the mean is wanted."""

BATCHES = 16
"""That the interpolation's error is measured on: one may miss a small bright object."""

TEST_BATCHES, TEST_PATCHES = 4, 12
"""Batches of patches, and patches in each, that tell whether intervals hold what they should."""


@dataclass(frozen=True)
class LateralLoss:
    """Pseudo-Huber loss after consistency, and the interval's quantile loss; of order 1, on dim samples too.

    Parameters
    ----------
    ridge
        Of consistency, see `ridge_of`.
    scale
        Mean squared error of the interpolation, in squares of the stack's intensities.
    delta
        Errors beyond count by their size, not its square; in the stack's intensities.
    """

    ridge: float
    scale: float
    delta: float
    context: Context

    @classmethod
    def of(cls, cut: Cutter, batch: int, ridge: float, context: Context) -> LateralLoss:
        """For patches of a stack: some are cut to see how far off interpolation is."""
        scale = sum(_unexplained(cut(batch), ridge) for _ in range(BATCHES)) / BATCHES
        return cls(ridge, scale, huber_delta(scale, cut.typical_noise), context)

    def __call__(self, net: PlaneNet, patches: Patches) -> Tensor:
        """The loss of a batch."""
        patches, acquisition = patches.to(self.context.device), patches.acquisition
        planes = along_rows(acquisition.smoothest(self.ridge), patches.projections)
        estimate, spread = restored(net, acquisition, self.ridge, planes, patches.conditions, self.context)
        error = patches.truth - estimate
        off = error.detach() + invisible(acquisition, self.ridge, patches.grain)
        below, above = -spread[:, 0] - off, off - spread[:, 1]
        tails = sum((side.relu() - TAIL * side).mean() for side in (below, above))
        return pseudo_huber(error, self.delta) / self.scale + tails / math.sqrt(self.scale)


def huber_delta(scale: float, noise: float) -> float:
    """δ in intensities, from the interpolation's mean squared error and the noise's variance."""
    return math.sqrt(max(DELTA * scale, NOISY * noise))


def _unexplained(patches: Patches, ridge: float) -> float:
    """Mean squared error of the interpolation of patches."""
    planes = along_rows(patches.acquisition.smoothest(ridge), patches.projections)
    return max(float((planes - patches.truth).square().mean()), 1e-12)


def widening_needed(
    net: PlaneNet, cut: Cutter, ridge: float, context: Context, anisotropy: Anisotropy | None = None
) -> float | None:
    """Factor at which the intervals of lateral patches, all projections shown, hold 90 % of the slices that none fixes.

    Patches look as the ``anisotropy`` says, else as they may in training. 1 where projections fix every slice; None
    when stopped.
    """
    import torch

    found = []
    for patches in (cut(TEST_PATCHES, anisotropy) for _ in range(TEST_BATCHES)):
        if context.should_stop():
            return None
        whole = patches.acquisition.replace(hidden=())
        inferred = ~whole.fixed
        if not inferred.any():
            return 1.0
        patches = patches.to(context.device)
        seen = along_rows(whole.smoothest(ridge) @ whole.matrix, patches.truth)
        with torch.no_grad():
            estimate, bounds = restored(net, whole, ridge, seen, patches.conditions, context)
        off = patches.truth - estimate + invisible(whole, ridge, patches.grain)
        widths = (torch.stack([-off, off], 1) / bounds.clamp_min(1e-9)).amax(1)
        found.append(widths.cpu().numpy()[:, inferred])
    return float(np.quantile(np.concatenate(found, None), 0.9))
