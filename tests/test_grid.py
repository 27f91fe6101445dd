"""Which anisotropies are tried on hidden projections, and which of them is taken."""

from __future__ import annotations

import math

import numpy as np
import pytest

from napari_microdiffusion.methods._grid import (
    ELONGATIONS,
    INDIFFERENT,
    MOST,
    Grid,
    Scores,
    best,
    by_elongation,
    by_sigma,
    least,
)
from napari_microdiffusion.methods._patches import Anisotropy

SHORTER, LONGER = ELONGATIONS[1], ELONGATIONS[3]


def walked(sigma: float, elongation: float, grid: Grid) -> tuple[list[Anisotropy], Anisotropy]:
    """The looks that are tried where scores fall off from a sigma and an elongation, and the best of them."""
    scores: Scores = {}
    tried = []
    for look in grid.candidates(scores):
        tried.append(look)
        away = (look.sigma - sigma) / 1.5, 2 * math.log2(look.elongation / elongation)
        scores[look] = np.full(3, 30 - away[0] ** 2 - away[1] ** 2)
    return tried, best(scores)


@pytest.mark.parametrize("sigma", [0.0, 2.4, 3.0, 5.9])
@pytest.mark.parametrize("elongation", ELONGATIONS)
def test_the_best_look_is_found(sigma, elongation):
    """To half the distance of the sigmas beside, and among the elongations; by less than half of all looks."""
    tried, found = walked(sigma, elongation, Grid(6.0))
    assert found.elongation == elongation
    assert abs(found.sigma - sigma) <= 0.375 + 1e-9
    assert len(tried) == len(set(tried)) < MOST * len(ELONGATIONS) / 2
    assert all(len([look for look in tried if look.elongation == e]) <= MOST for e in ELONGATIONS)
    assert all(0 <= look.sigma <= 6 for look in tried)


@pytest.mark.parametrize("ridge", range(20))
def test_the_curve_reaches_down_to_where_it_tells_or_to_no_blur(ridge):
    """Else the smallest sigma that was tried by chance would be taken for the smallest that does as well."""
    rng = np.random.default_rng(ridge)
    sigma, longer, along, across = rng.uniform(0, 4), rng.uniform(-1, 1), rng.uniform(0.01, 0.3), rng.uniform(0.3, 3)
    scores: Scores = {}
    for tried in Grid(6.0).candidates(scores):
        away = tried.sigma - sigma, 2 * (math.log2(tried.elongation) - longer)
        scores[tried] = np.full(3, 30 - along * (away[0] - away[1]) ** 2 - across * (away[0] + away[1]) ** 2)
    row = by_sigma(by_elongation(scores)[least(scores)])
    assert min(row) == 0 or row[min(row)] < max(row.values()) - INDIFFERENT


@pytest.mark.parametrize(
    ("scores", "elongation"),
    [
        ({1.0: 30.0, LONGER: 30.01 + INDIFFERENT}, LONGER),
        ({1.0: 30.0, LONGER: 29.99 + INDIFFERENT}, 1.0),
        ({0.5: 30.1, SHORTER: 30.0, 1.0: 29.0}, SHORTER),
        ({0.5: 30.1, SHORTER: 29.0, 1.0: 29.0}, 0.5),
        ({SHORTER: 30.0, 1.0: 29.0, LONGER: 30.1}, LONGER),
    ],
)
def test_structures_are_longer_or_shorter_only_where_that_tells(scores, elongation):
    """Of each elongation the best sigma counts."""
    alike = {Anisotropy(1.0, e): np.full(4, score) for e, score in scores.items()}
    assert least(alike) == elongation
    blurred = {Anisotropy(2.0, look.elongation): told - 1 for look, told in alike.items()}
    assert least(alike | blurred) == elongation


@pytest.mark.parametrize(
    ("gains", "elongation"),
    [
        ([0.5, 0.5, 0.5, 0.5], LONGER),
        ([0.2, 0.8, -0.8, 1.0, 0.6, 0.4], 1.0),  # 0.37 dB in the mean, but 0.26 of standard error
        ([0.3, 0.8, 0.6, 0.5, 1.0, 0.3], LONGER),
        ([0.5, -0.1], 1.0),
    ],
)
def test_what_only_some_of_the_hidden_projections_say_does_not_tell(gains, elongation):
    scores = {Anisotropy(1.0): np.full(len(gains), 30.0), Anisotropy(1.0, LONGER): 30.0 + np.asarray(gains)}
    assert least(scores) == elongation


@pytest.mark.parametrize(
    ("grid", "tried"),
    [
        (Grid(6.0, 2.5, 1.0), {(2.5, 1.0)}),
        (Grid(6.0, None, 1.3), {(sigma, 1.3) for sigma in (0, 1.5, 2.25, 3, 3.75, 4.5, 6)}),
        (Grid(6.0, 2.5), {(2.5, elongation) for elongation in (1.0, LONGER, SHORTER)}),
    ],
    ids=["both", "elongation", "sigma"],
)
def test_what_is_given_is_not_looked_for(grid, tried):
    looks, _ = walked(3.0, 1.0, grid)
    assert {(look.sigma, look.elongation) for look in looks} == tried
