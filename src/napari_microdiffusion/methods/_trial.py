"""What hidden projections tell of a plane network: how z looks beside x, how strong its changes may be."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from ..acquisition import MINIMUM_PROJECTIONS
from ..events import Event, Stage, Step
from ..images import span
from ..volume import ProjectionStack
from ._base import Context, Weights, finite
from ._grid import ELONGATIONS, INDIFFERENT, MOST, Grid, Scores, best, by_elongation, by_sigma, least
from ._hidden import Hidden, bounded, hidden_planes
from ._lateral import widening_needed
from ._patches import Anisotropy, Cutter
from ._surprise import sharper

if TYPE_CHECKING:
    from ..plane_net import PlaneNet

USUAL = 15
"""Looks that are tried, about."""

FALLBACK = Anisotropy(1.5)
"""Where nothing tells: too few projections, or not chosen yet."""

NEAR = 0.8
"""Slices beyond the sigmas tried within which the last one's score stands for another's."""

SHORT = 1.2
"""Where lateral patches themselves need intervals so many times as wide, training was too short to learn them; trained
as in `preview`, they need 0.94 to 1.09 times."""

SINGLE = "floor", "widening", "ratio", "elongation", "sharper"
"""What a trial keeps as a single number each."""


@dataclass(frozen=True)
class Trial:
    """What was tried, and what came of it.

    Parameters
    ----------
    scores
        Held-out scores in dB by sigma in slices, at the elongation that was chosen; NaN for a sigma that was given and
        could not be tried.
    floor
        The conservative interpolation's score, in dB; NaN where nothing could be tried.
    widening
        Factor of the intervals after a training that was too short for patches, or on a stack with less noise, else 1;
        NaN where nothing was tried.
    ratio
        Voxel ratio dz/dx that the network was trained for.
    asked
        By sigma, what hidden projections ask the network's change of the interpolation to be multiplied by.
    elongation
        The one that was chosen, or given.
    elongations
        The best score in dB at each that was tried.
    sharper
        How much sharper than it was found the sample may be: intervals are for that (`Anisotropy.sharpened`).
    """

    scores: dict[float, float]
    floor: float = math.nan
    widening: float = math.nan
    ratio: float = 1.0
    asked: dict[float, float] = field(default_factory=dict)
    elongation: float = 1.0
    elongations: dict[float, float] = field(default_factory=dict)
    sharper: float = 0.0

    @classmethod
    def of(cls, weights: Weights) -> Trial:
        """The trial kept with a network's weights."""
        sigmas, scores, asked = weights["curve"].tolist()
        floor, widening, ratio, elongation, sharper = (float(weights[name]) for name in SINGLE)
        told = {sigma: value for sigma, value in _pairs(sigmas, asked).items() if not math.isnan(value)}
        elongations = _pairs(*weights["elongations"].tolist())
        return cls(_pairs(sigmas, scores), floor, widening, ratio, told, elongation, elongations, sharper)

    def weights(self) -> Weights:
        """To be kept with the network's weights."""
        import torch

        curve, elongations = torch.full((3, MOST), math.nan), torch.full((2, len(ELONGATIONS)), math.nan)
        asked = [self.asked.get(sigma, math.nan) for sigma in self.scores]
        curve[:, : len(self.scores)] = torch.tensor([list(self.scores), list(self.scores.values()), asked])
        elongations[:, : len(self.elongations)] = torch.tensor([[*self.elongations], [*self.elongations.values()]])
        values = {name: getattr(self, name) for name in SINGLE}
        return {"curve": curve, "elongations": elongations} | {
            name: torch.tensor(value) for name, value in values.items()
        }

    @property
    def sigma(self) -> float:
        """The smallest that does about as well as the best, on straight lines between the scores of those tried."""
        if not self.scores:
            return FALLBACK.sigma
        enough = max(self.scores.values()) - INDIFFERENT
        tried = sorted(self.scores.items())
        at = next(i for i, (_, score) in enumerate(tried) if not score < enough)  # NaN where it was given
        if at == 0:
            return tried[0][0]
        (low, below), (high, above) = tried[at - 1 : at + 1]
        return low + (high - low) * (enough - below) / (above - below)

    def lead(self, sigma: float) -> float:
        """How much better than the interpolation hidden projections are told, in dB; NaN where nothing tells.

        Where sigma was chosen, the best score counts, and a better one of another elongation as far as it is
        indifferent: the chosen one's is as good as can be told.
        """
        if not self.scores or not math.isclose(sigma, self.sigma, rel_tol=1e-6):  # kept in float32 with the weights
            return self.score(sigma) - self.floor
        chosen = max(self.scores.values())
        return min(max([chosen, *self.elongations.values()]), chosen + INDIFFERENT) - self.floor

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


def try_out(
    net: PlaneNet, cut: Cutter, stack: ProjectionStack, grid: Grid, context: Context
) -> Generator[Event, None, Trial]:
    """Hide projections in turn; at which anisotropy and strength does the network tell them best from the others?

    Where it is bright they also tell how much sharper the sample may be, which intervals are for. After a training too
    short for lateral patches those are widened by what such patches need.
    """
    trial = Trial(
        {} if grid.sigma is None else {grid.sigma: math.nan}, ratio=cut.ratio, elongation=grid.elongation or 1.0
    )
    if len(stack.data) <= MINIMUM_PROJECTIONS:
        return trial
    hidden: dict[Anisotropy, Hidden] = {}
    scores: Scores = {}
    extent = span(stack.data)
    yield Stage("Choosing blur and elongation by hidden projections", USUAL)
    for anisotropy in grid.candidates(scores):
        told = hidden_planes(net, stack, anisotropy, context)
        if told is None:
            return trial
        hidden[anisotropy] = told
        scores[anisotropy], floor = told.scores(extent)
        finite(float(scores[anisotropy].mean()))
        trial = _summary(scores, hidden, float(floor.mean()), cut.ratio)
        yield Step(min(len(scores), USUAL - 1))
    chosen = Anisotropy(trial.sigma, trial.elongation)
    needed = widening_needed(net, cut, stack.ridge, context)  # patches of all kinds: of extreme ones it saw few
    if needed is not None and needed > SHORT:
        needed = widening_needed(net, cut, stack.ridge, context, chosen)
    if needed is None:
        return trial
    yield Step(USUAL)
    shorter = grid.elongation is None  # else it was set, or nothing is told of it
    by = yield from sharper(net, cut, stack, chosen, trial.strength(trial.sigma), shorter, context)
    if by is None:
        return trial
    return replace(trial, widening=needed if needed > SHORT else 1.0, sharper=by)


def _summary(scores: Scores, hidden: dict[Anisotropy, Hidden], floor: float, ratio: float) -> Trial:
    """What is known after so many candidates."""
    rows, chosen = by_elongation(scores), least(scores)
    asked = {anisotropy.sigma: found.asked for anisotropy, found in hidden.items() if anisotropy.elongation == chosen}
    elongations = {elongation: float(row[best(row)].mean()) for elongation, row in rows.items()}
    return Trial(by_sigma(rows[chosen]), floor, math.nan, ratio, asked, chosen, elongations)


def _pairs(keys: list[float], values: list[float]) -> dict[float, float]:
    """By key; what was not filled is left out."""
    return {key: value for key, value in zip(keys, values, strict=True) if not math.isnan(key)}
