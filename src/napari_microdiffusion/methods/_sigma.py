"""What hidden projections tell of a plane network: the axial blur, the strength of its changes, how sure it may be."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from ..acquisition import MINIMUM_PROJECTIONS
from ..events import Event, Stage, Step
from ..volume import ProjectionStack
from ._base import Context, Weights
from ._hidden import Hidden, bounded, hidden_patches, hidden_planes
from ._patches import Cutter

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

WIDEST = 4.0
"""Most that intervals are widened by."""


@dataclass(frozen=True)
class Trial:
    """The sigmas that were tried, and what came of it.

    Parameters
    ----------
    scores
        Held-out scores in dB by sigma in slices; NaN for a sigma that was given and could not be tried.
    floor
        The conservative interpolation's score, in dB; NaN where nothing could be tried.
    widening
        Factor of the intervals, at least 1; NaN where nothing could be tried.
    ratio
        Voxel ratio dz/dx that the network was trained for.
    asked
        By sigma, what hidden projections ask the network's change of the interpolation to be multiplied by.
    """

    scores: dict[float, float]
    floor: float = math.nan
    widening: float = math.nan
    ratio: float = 1.0
    asked: dict[float, float] = field(default_factory=dict)

    @classmethod
    def of(cls, weights: Weights) -> Trial:
        """The trial kept with a network's weights."""
        sigmas, *curves = weights["curve"].tolist()
        scores, asked = (
            {sigma: value for sigma, value in zip(sigmas, curve, strict=True) if not math.isnan(sigma)}
            for curve in curves
        )
        told = {sigma: value for sigma, value in asked.items() if not math.isnan(value)}
        floor, widening, ratio = (float(weights[name]) for name in ("floor", "widening", "ratio"))
        return cls(scores, floor, widening, ratio, told)

    def weights(self) -> Weights:
        """To be kept with the network's weights."""
        import torch

        curve = torch.full((3, COARSE + 2), math.nan)
        asked = [self.asked.get(sigma, math.nan) for sigma in self.scores]
        curve[:, : len(self.scores)] = torch.tensor([list(self.scores), list(self.scores.values()), asked])
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

    def strength(self, sigma: float) -> float:
        """What changes are multiplied by: as is asked, on straight lines between the sigmas tried, and bounded."""
        if not self.asked:
            return 1.0
        sigmas, asked = zip(*sorted(self.asked.items()), strict=True)
        return float(bounded(np.interp(sigma, sigmas, asked)))

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
    """Hide projections in turn, and see at which sigma and which strength the network tells them best from the others.

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
    asked: dict[float, float] = {}
    yield Stage("Choosing sigma by hidden projections", COARSE + 2)
    for sigma in _candidates(largest, scores) if given is None else iter([given]):
        told = hidden_planes(net, stack, sigma, context)
        if told is None:
            return trial
        hidden[sigma] = told
        scores[sigma], floor = told.scores(float(np.ptp(stack.data)))
        asked[sigma] = told.asked
        trial = Trial(scores, floor, math.nan, cut.ratio, asked)
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
