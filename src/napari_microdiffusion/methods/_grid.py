"""Which anisotropies are tried on hidden projections, one after the other, and which of them does best."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ._patches import Anisotropy

MOST = 9
"""Sigmas that may be tried."""

ELONGATIONS = 0.5, 0.5**0.5, 1.0, 2**0.5, 2.0
"""As far as the network has seen."""

BESIDE = (-1, 0), (1, 0), (0, 1), (0, -1), (-1, 1), (1, -1)
"""Steps of sigma and elongation to what lies beside: what is longer looks blurrier, so both against each other."""

INDIFFERENT = 0.2
"""dB of the held-out score that do not tell candidates apart. Of such sigmas the smallest is taken: projections hidden
between two others ask for detail three times as coarse as that within one, and favour more blur than it
(benchmarks/axial.md). Of such elongations, the one nearest to 1."""

DOUBT = 2.0
"""Standard errors over the hidden projections within which a difference between elongations tells nothing, either."""

Scores = dict[Anisotropy, NDArray[np.float64]]
"""dB of each hidden projection, (number of them,), by what the network was told of the sample."""


@dataclass(frozen=True)
class Grid:
    """Which anisotropies are tried: sigmas evenly spaced from 0, and `ELONGATIONS`.

    Parameters
    ----------
    largest
        The largest sigma, in slices.
    sigma, elongation
        Where they are given, these alone.
    """

    largest: float
    sigma: float | None = None
    elongation: float | None = None

    def candidates(self, scores: Scores) -> Iterator[Anisotropy]:
        """One after the other: a coarse row of sigmas, up from its best, and on to the sigma that will be chosen.

        Parameters
        ----------
        scores
            Of those before: whoever asks fills it in between.
        """
        sigmas = np.linspace(0, self.largest, MOST).tolist() if self.sigma is None else [self.sigma]
        elongations = [*ELONGATIONS] if self.elongation is None else [self.elongation]
        yield from (Anisotropy(sigma, self.elongation or 1.0) for sigma in sigmas[::2])
        at = None
        while at != best(scores):
            at = best(scores)
            i, j = sigmas.index(at.sigma), elongations.index(at.elongation)
            for blurrier, longer in BESIDE:
                if 0 <= i + blurrier < len(sigmas) and 0 <= j + longer < len(elongations):
                    anisotropy = Anisotropy(sigmas[i + blurrier], elongations[j + longer])
                    yield from () if anisotropy in scores else (anisotropy,)
        chosen = least(scores)
        row = by_sigma(by_elongation(scores)[chosen])
        while min(row) > sigmas[0] and row[min(row)] >= max(row.values()) - INDIFFERENT:
            yield Anisotropy(sigmas[sigmas.index(min(row)) - 1], chosen)
            row = by_sigma(by_elongation(scores)[chosen])


def best(scores: Scores) -> Anisotropy:
    """The anisotropy with the best score."""
    return max(scores, key=lambda anisotropy: float(scores[anisotropy].mean()))


def least(scores: Scores) -> float:
    """Of elongations at their best, the one nearest to none that does about as well as the best."""
    first = scores[best(scores)]
    alike = [found for found in map(best, by_elongation(scores).values()) if not worse(scores[found], first)]
    return min(alike, key=lambda found: (round(abs(math.log2(found.elongation)), 3), -scores[found].mean())).elongation


def worse(these: NDArray[np.float64], those: NDArray[np.float64]) -> bool:
    """Whether hidden projections, two at least, are told worse beyond doubt, by dB of each."""
    losses = those - these
    error = float(losses.std(ddof=1)) / math.sqrt(len(losses))
    return float(losses.mean()) > max(INDIFFERENT, DOUBT * error)


def by_elongation(scores: Scores) -> dict[float, Scores]:
    """The scores at each elongation."""
    each = sorted({anisotropy.elongation for anisotropy in scores})
    return {e: {tried: told for tried, told in scores.items() if tried.elongation == e} for e in each}


def by_sigma(row: Scores) -> dict[float, float]:
    """Mean scores at one elongation, in dB."""
    return {anisotropy.sigma: float(told.mean()) for anisotropy, told in row.items()}
