"""How a plane network tells hidden projections from the others: of the stack's own planes, and of lateral patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..acquisition import Acquisition
from ..metrics import FLOOR
from ..numerics import along_z
from ..volume import ProjectionStack
from ._base import Context
from ._patches import Anisotropy, Cutter, along_rows
from ._planes import Z90, deviation, restored, through_planes
from .heldout import folds

if TYPE_CHECKING:
    from ..plane_net import PlaneNet

STRENGTHS = 1.0, 1.5
"""What changes are multiplied by, at least and at most. They are not weakened: what cannot be told across a hidden
projection may still be right within a shown one."""

SAMPLED_ROWS = 32
"""XZ planes that stand for the whole stack when projections are hidden."""

PATCHES, BATCHES, SHOWN = 12, 16, 4
"""Lateral patches, likewise; batches of them in which nothing is hidden."""

FURTHEST = 8.0
"""Standard deviations that a projection's error counts for at most, or its inverse at least: an empty one must not have
the last word."""


@dataclass(frozen=True)
class Hidden:
    """Means over the pixels of each hidden projection, each (number of them,), in squares of the stack's intensities.

    Parameters
    ----------
    missing
        Of the square of what the conservative interpolation lacks.
    agreement
        Of what the interpolation lacks times the network's change of it.
    change
        Of the square of the network's change.
    spread
        Of the square of the standard deviation that the network states, in the mean over the slices of each, all alike.
    """

    missing: NDArray[np.float64]
    agreement: NDArray[np.float64]
    change: NDArray[np.float64]
    spread: NDArray[np.float64]

    @property
    def asked(self) -> float:
        """The strength of the network's changes that gives the smallest error; of any size."""
        return float(self.agreement.sum() / max(float(self.change.sum()), 1e-30))

    @property
    def error(self) -> NDArray[np.float64]:
        """Mean squared error in each, with the strength that the others ask for: it was not fitted to itself."""
        agreement, change = (means.sum() - means for means in (self.agreement, self.change))
        strength = bounded(agreement / np.maximum(change, 1e-30))
        error: NDArray[np.float64] = self.missing - 2 * strength * self.agreement + strength**2 * self.change
        return np.maximum(error, 0)  # a difference of means of float32

    def scores(self, span: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """dB of each hidden projection, told by the network and by the interpolation, for a stack of range ``span``."""
        relative = np.stack([self.error, self.missing]) / span**2
        network, interpolation = -10 * np.log10(np.maximum(relative, FLOOR))
        return network, interpolation

    @property
    def surprise(self) -> float:
        """How far off the network is, in the standard deviations it states: their geometric mean, as of the scores."""
        each = np.sqrt(self.error / np.maximum(self.spread, 1e-30))
        return float(np.exp(np.log(np.clip(each, 1 / FURTHEST, FURTHEST)).mean()))


def uniform(acquisition: Acquisition) -> Acquisition:
    """The same with a uniform profile: all slices of a projection have a say in what is stated of it.

    One that a beam shows by itself has no spread but where it is hidden, which is too seldom for a network to learn.
    """
    return acquisition.replace(profile="uniform", fwhm=None, weights=None)


def bounded(asked: NDArray[np.float64]) -> NDArray[np.float64]:
    """Strengths (...) as hidden projections ask for them, within `STRENGTHS`."""
    strength: NDArray[np.float64] = np.clip(asked, *STRENGTHS)
    return strength


def hidden_planes(net: PlaneNet, stack: ProjectionStack, anisotropy: Anisotropy, context: Context) -> Hidden | None:
    """How the network tells hidden projections from the others, on some XZ planes; None when stopped."""
    rows = np.linspace(0, stack.shape[1] - 1, min(SAMPLED_ROWS, stack.shape[1])).round().astype(int)
    found = []
    for fold in folds(len(stack.data)):
        if context.should_stop():
            return None
        shown = stack.without(fold)
        forward, measured = stack.acquisition.matrix[list(fold)], stack.data[list(fold)][:, rows]
        volume = along_z(shown.acquisition.smoothest(shown.acquisition.ridge(shown.data)), shown.data[:, rows])
        estimate, spread = np.empty_like(volume), np.empty_like(volume)
        for here, planes, distances in through_planes(net, shown, volume, 1, anisotropy, context):
            estimate[:, here], spread[:, here] = planes, deviation(distances)
        missing, change = measured - along_z(forward, volume), along_z(forward, estimate - volume)
        stated = along_z(uniform(stack.acquisition).matrix[list(fold)], spread)
        products = missing**2, missing * change, change**2, stated**2
        found.append([product.mean((1, 2)) for product in products])
    return Hidden(*(np.concatenate(parts).astype(np.float64) for parts in zip(*found, strict=True)))


def hidden_patches(net: PlaneNet, cut: Cutter, anisotropy: Anisotropy, ridge: float, context: Context) -> Hidden | None:
    """The same on lateral patches, where the network is on its own ground; None when stopped."""
    import torch

    found = []
    for patches in (cut(PATCHES, anisotropy) for _ in range(BATCHES)):
        if context.should_stop():
            return None
        acquisition = patches.acquisition
        whole, hidden = acquisition.replace(hidden=()), list(acquisition.hidden)
        forward = whole.matrix[hidden]
        planes = along_rows(acquisition.smoothest(ridge), patches.projections).to(context.device)
        with torch.no_grad():
            estimate, spread = restored(net, acquisition, ridge, planes, patches.conditions.to(context.device), context)
        missing = along_rows(forward, patches.truth - planes.cpu())
        change = along_rows(forward, (estimate - planes).cpu())
        stated = along_rows(uniform(whole).matrix[hidden], spread.sum(1).cpu() / (2 * Z90))
        products = missing**2, missing * change, change**2, stated**2
        found.append([product.mean((0, 2)).numpy() for product in products])
    return Hidden(*(np.concatenate(parts).astype(np.float64) for parts in zip(*found, strict=True)))


def widening_needed(net: PlaneNet, cut: Cutter, anisotropy: Anisotropy, ridge: float, context: Context) -> float | None:
    """Factor at which the intervals of lateral patches, all projections shown, hold 90 % of the slices that none fixes.

    1 where projections fix every slice; None when stopped.
    """
    import torch

    found = []
    for patches in (cut(PATCHES, anisotropy) for _ in range(SHOWN)):
        if context.should_stop():
            return None
        whole = patches.acquisition.replace(hidden=())
        alone = np.count_nonzero(whole.matrix, 1) == 1
        inferred = ~whole.matrix[alone].any(0)
        if not inferred.any():
            return 1.0
        seen = along_rows(whole.smoothest(ridge) @ whole.matrix, patches.truth).to(context.device)
        with torch.no_grad():
            estimate, bounds = restored(net, whole, ridge, seen, patches.conditions.to(context.device), context)
        off = patches.truth.to(context.device) - estimate
        widths = (torch.stack([-off, off], 1) / bounds.clamp_min(1e-9)).amax(1)
        found.append(widths.cpu().numpy()[:, inferred])
    return float(np.quantile(np.concatenate(found, None), 0.9))
