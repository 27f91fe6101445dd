"""How a plane network tells hidden projections of a stack from the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..numerics import along_z, decibels
from ..volume import ProjectionStack
from ._base import Context
from ._patches import Anisotropy
from ._planes import XZ, through_planes
from .heldout import folds

if TYPE_CHECKING:
    from ..plane_net import PlaneNet

STRENGTHS = 1.0, 1.5
"""What changes are multiplied by, at least and at most. They are not weakened: what cannot be told across a hidden
projection may still be right within a shown one."""

SAMPLED_ROWS = 32
"""XZ planes that stand for the whole stack when projections are hidden."""


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
    """

    missing: NDArray[np.float64]
    agreement: NDArray[np.float64]
    change: NDArray[np.float64]

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
        network, interpolation = decibels(relative)
        return network, interpolation


def bounded(asked: NDArray[np.float64]) -> NDArray[np.float64]:
    """Strengths (...) as hidden projections ask for them, within `STRENGTHS`."""
    strength: NDArray[np.float64] = np.clip(asked, *STRENGTHS)
    return strength


@dataclass(frozen=True)
class Fold:
    """Projections that were hidden together, on some XZ planes, each (number of them, y, x).

    Parameters
    ----------
    measured, interpolated
        As they were measured, and as the others tell them by the conservative interpolation.
    change
        The network's, of that.
    stated
        Mean over the slices of a projection of half the interval that the network states.
    """

    measured: NDArray[np.float32]
    interpolated: NDArray[np.float32]
    change: NDArray[np.float32]
    stated: NDArray[np.float32]


def told_folds(net: PlaneNet, stack: ProjectionStack, anisotropy: Anisotropy, context: Context) -> list[Fold] | None:
    """How the network tells hidden projections from the others, fold by fold; None when stopped."""
    found = []
    rows = np.linspace(0, stack.shape[1] - 1, min(SAMPLED_ROWS, stack.shape[1])).round().astype(int)
    for fold in folds(len(stack.data)):
        shown = stack.without(fold)
        forward, measured = stack.acquisition.matrix[list(fold)], stack.data[list(fold)][:, rows]
        volume = along_z(shown.interpolation, shown.data[:, rows])
        estimate, half = np.empty_like(volume), np.empty_like(volume)
        for at, planes, distances, _ in through_planes(net, shown, volume, XZ, anisotropy, context):
            estimate.reshape(len(estimate), -1)[:, at] = planes
            half.reshape(len(half), -1)[:, at] = distances.mean(0)
            if context.should_stop():
                return None
        parts = volume, estimate - volume, half
        found.append(Fold(measured, *(along_z(forward, part) for part in parts)))
    return found


def hidden_planes(net: PlaneNet, stack: ProjectionStack, anisotropy: Anisotropy, context: Context) -> Hidden | None:
    """How well the network tells hidden projections from the others; None when stopped."""
    told = told_folds(net, stack, anisotropy, context)
    if told is None:
        return None
    found = []
    for fold in told:
        missing, change = fold.measured - fold.interpolated, fold.change
        products = missing**2, missing * change, change**2
        found.append([product.mean((1, 2)) for product in products])
    return Hidden(*(np.concatenate(parts).astype(np.float64) for parts in zip(*found, strict=True)))
