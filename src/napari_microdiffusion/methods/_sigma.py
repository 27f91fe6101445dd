"""What hidden projections tell of a plane network: the axial blur, the strength of its changes, how sure it may be."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..acquisition import MINIMUM_PROJECTIONS
from ..events import Event, Stage, Step
from ..metrics import FLOOR
from ..numerics import along_z
from ..volume import ProjectionStack
from ._base import Context, Weights
from ._patches import Cutter, along_rows
from ._planes import Z90, deviation, restored, through_planes
from .heldout import folds

if TYPE_CHECKING:
    from ..plane_net import PlaneNet

COARSE = 5
"""Sigmas of the coarse grid."""

FALLBACK = 1.5
"""Sigma in slices where nothing tells: too few projections, or not chosen yet."""

NEAR = 0.8
"""Slices beyond the sigmas tried within which the last one's score stands for another's."""

INDIFFERENT = 0.2
"""dB of the held-out score that do not tell sigmas apart. The smallest such is taken: projections hidden between
two others ask for detail three times as coarse as that within one, and favour more blur than it
(benchmarks/axial.md)."""

GAINS = 1.0, 1.5
"""What changes are multiplied by, at least and at most. They are not weakened: what cannot be told across a hidden
projection may still be right within a shown one."""

WIDEST = 4.0
"""Most that intervals are widened by."""

SAMPLED_ROWS = 32
"""XZ planes that stand for the whole stack when projections are hidden."""

PATCHES, BATCHES = 12, 4
"""Lateral patches, likewise."""


@dataclass(frozen=True)
class Trial:
    """The sigmas that were tried, and what came of it.

    Parameters
    ----------
    scores
        Held-out scores in dB by sigma in slices; NaN for a sigma that was given and could not be tried.
    gains
        By sigma, what hidden projections ask the network's change of the interpolation to be multiplied by.
    floor
        The conservative interpolation's score, in dB; NaN where nothing could be tried.
    widening
        Factor of the intervals, at least 1; NaN where nothing could be tried.
    ratio
        Voxel ratio dz/dx that the network was trained for.
    """

    scores: dict[float, float]
    gains: dict[float, float] = field(default_factory=dict)
    floor: float = math.nan
    widening: float = math.nan
    ratio: float = 1.0

    @classmethod
    def of(cls, weights: Weights) -> Trial:
        """The trial kept with a network's weights."""
        sigmas, *curves = weights["curve"].tolist()
        scores, gains = (
            {sigma: value for sigma, value in zip(sigmas, curve, strict=True) if not math.isnan(sigma)}
            for curve in curves
        )
        told = {sigma: gain for sigma, gain in gains.items() if not math.isnan(gain)}
        return cls(scores, told, *(float(weights[name]) for name in ("floor", "widening", "ratio")))

    def weights(self) -> Weights:
        """To be kept with the network's weights."""
        import torch

        curve = torch.full((3, COARSE + 2), math.nan)
        gains = [self.gains.get(sigma, math.nan) for sigma in self.scores]
        curve[:, : len(self.scores)] = torch.tensor([list(self.scores), list(self.scores.values()), gains])
        values = {"floor": self.floor, "widening": self.widening, "ratio": self.ratio}
        return {"curve": curve} | {name: torch.tensor(value) for name, value in values.items()}

    @property
    def sigma(self) -> float:
        """The smallest that does about as well as the best, on straight lines between the scores of those tried."""
        if not self.scores:
            return FALLBACK
        enough = max(self.scores.values()) - INDIFFERENT
        tried = sorted(self.scores.items())
        at = next(i for i, (_, score) in enumerate(tried) if not score < enough)  # NaN where it was given
        if at == 0:
            return tried[0][0]
        (low, below), (high, above) = tried[at - 1 : at + 1]
        return low + (high - low) * (enough - below) / (above - below)

    def lead(self, sigma: float) -> float:
        """How much better than the interpolation hidden projections are told, in dB; NaN where nothing tells.

        Where sigma was chosen, the best score counts: the chosen one's is as good.
        """
        told = max(self.scores.values(), default=math.nan) if sigma == self.sigma else self.score(sigma)
        return told - self.floor

    def gain(self, sigma: float) -> float:
        """What changes are multiplied by: on straight lines between the sigmas tried, as far as `GAINS` allow."""
        if not self.gains:
            return 1.0
        sigmas, gains = zip(*sorted(self.gains.items()), strict=True)
        return float(np.clip(np.interp(sigma, sigmas, gains), *GAINS))

    def score(self, sigma: float) -> float:
        """On straight lines between those tried, and beyond them that of the last; NaN where that is far from it."""
        tried = sorted(self.scores.items())
        if not tried or not tried[0][0] - NEAR <= sigma <= tried[-1][0] + NEAR:
            return math.nan
        sigmas, scores = zip(*tried, strict=True)
        return float(np.interp(sigma, sigmas, scores))


def try_sigmas(
    net: PlaneNet, cut: Cutter, stack: ProjectionStack, sigmas: tuple[float, float | None], context: Context
) -> Generator[Event, None, Trial]:
    """Hide projections in turn, and see at which sigma the network tells them best from the others, and how strong a
    change of the interpolation fits them.

    Intervals were learned on lateral patches. If hidden projections of the real planes surprise the network more
    than hidden ones of patches do, by so much its intervals are too narrow.

    Parameters
    ----------
    sigmas
        The largest, and the one that is given, if any, in slices.
    """
    largest, given = sigmas
    hidden: dict[float, Hidden] = {}
    trial = Trial({} if given is None else {given: math.nan}, ratio=cut.ratio)
    if len(stack.data) <= MINIMUM_PROJECTIONS:
        return trial
    scores: dict[float, float] = {}
    gains: dict[float, float] = {}
    yield Stage("Choosing sigma by hidden projections", COARSE + 2)
    for sigma in _candidates(largest, scores) if given is None else iter([given]):
        told = hidden_planes(net, stack, sigma, context)
        if told is None:
            return trial
        hidden[sigma] = told
        scores[sigma], floor = told.scores(float(np.ptp(stack.data)))
        gains[sigma] = told.gain
        trial = Trial(scores, gains, floor, math.nan, cut.ratio)
        yield Step(len(scores))
    chosen = hidden.get(trial.sigma) or hidden_planes(net, stack, trial.sigma, context)
    if chosen is None:
        return trial
    expected = hidden_patches(net, cut, trial.sigma, stack.acquisition.ridge(stack.data), context)
    widening = chosen.surprise / max(expected.surprise, 1e-30)
    return replace(trial, widening=min(max(widening, 1.0), WIDEST))


def _candidates(largest: float, scores: dict[float, float]) -> Iterator[float]:
    """A coarse grid of sigmas, and then both sides of its best."""
    spacing = largest / (COARSE - 1)
    yield from (i * spacing for i in range(COARSE))
    best = max(scores, key=lambda sigma: scores[sigma])
    yield from (s for s in (best - spacing / 2, best + spacing / 2) if 0 < s < largest)


@dataclass(frozen=True)
class Hidden:
    """Means over each hidden projection, (number of them,).

    Parameters
    ----------
    missing
        Of the square of what the conservative interpolation lacks.
    agreement
        Of that times the network's change.
    change
        Of the square of the network's change.
    spread
        Of the square of the standard deviation that the network states, in the mean over the slices of each.
    """

    missing: NDArray[np.float64]
    agreement: NDArray[np.float64]
    change: NDArray[np.float64]
    spread: NDArray[np.float64]

    @property
    def gain(self) -> float:
        """What the network's changes are to be multiplied by, for the smallest error; of any size."""
        return float(self.agreement.sum() / max(float(self.change.sum()), 1e-30))

    @property
    def error(self) -> NDArray[np.float64]:
        """Mean squared error in each, with the gain that the others ask for: it was not fitted to itself."""
        agreement, change = (means.sum() - means for means in (self.agreement, self.change))
        gain = np.clip(agreement / np.maximum(change, 1e-30), *GAINS)
        error: NDArray[np.float64] = self.missing - 2 * gain * self.agreement + gain**2 * self.change
        return error

    def scores(self, span: float) -> tuple[float, float]:
        """Held-out scores in dB, of the network and of the interpolation, for a stack of range ``span``."""
        relative = np.stack([self.error, self.missing]) / span**2
        network, interpolation = -10 * np.log10(np.maximum(relative, FLOOR)).mean(1)
        return float(network), float(interpolation)

    @property
    def surprise(self) -> float:
        """How far off the network is, in the standard deviations it states."""
        return float(np.sqrt(self.error.sum() / max(float(self.spread.sum()), 1e-30)))


def hidden_planes(net: PlaneNet, stack: ProjectionStack, sigma: float, context: Context) -> Hidden | None:
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
        for here, planes, distances in through_planes(net, shown, volume, 1, sigma, context):
            estimate[:, here], spread[:, here] = planes, deviation(distances)
        missing, change = measured - along_z(forward, volume), along_z(forward, estimate - volume)
        products = missing**2, missing * change, change**2, along_z(forward, spread) ** 2
        found.append([product.mean((1, 2)) for product in products])
    return Hidden(*(np.concatenate(parts).astype(np.float64) for parts in zip(*found, strict=True)))


def hidden_patches(net: PlaneNet, cut: Cutter, sigma: float, ridge: float, context: Context) -> Hidden:
    """The same on lateral patches, where the network is on its own ground."""
    import torch

    found = []
    for patches in (cut(PATCHES, sigma) for _ in range(BATCHES)):
        acquisition = patches.acquisition
        forward = acquisition.replace(hidden=()).matrix[list(acquisition.hidden)]
        planes = along_rows(acquisition.smoothest(ridge), patches.projections).to(context.device)
        with torch.no_grad():
            estimate, spread = restored(net, acquisition, ridge, planes, patches.blur.to(context.device), context)
        missing = along_rows(forward, patches.truth - planes.cpu())
        change = along_rows(forward, (estimate - planes).cpu())
        stated = along_rows(forward, spread.sum(1).cpu() / (2 * Z90))
        products = missing**2, missing * change, change**2, stated**2
        found.append([product.mean((0, 2)).numpy() for product in products])
    return Hidden(*(np.concatenate(parts).astype(np.float64) for parts in zip(*found, strict=True)))
