"""What was tried: which sigma is taken, how strong changes are, what is kept with the weights."""

from __future__ import annotations

import math

import pytest
import torch

from napari_microdiffusion.methods._hidden import STRENGTHS
from napari_microdiffusion.methods._sigma import FALLBACK, Trial


@pytest.mark.parametrize(
    ("scores", "sigma"),
    [
        ({}, FALLBACK),
        ({2.0: math.nan}, 2.0),  # given, and not tried
        ({0.0: 30.0, 1.0: 29.0}, 0.0),
        ({0.0: 29.9, 1.0: 30.0, 2.0: 29.0}, 0.0),
        ({2.0: 30.0, 0.0: 29.0, 1.0: 29.6}, 1.5),
        ({0.0: 20.0, 3.0: 30.0, 6.0: 29.9}, 2.94),
    ],
)
def test_sigma_is_where_scores_come_close_to_the_best(scores, sigma):
    """On straight lines between those tried, so that it does not jump when scores change by a hair."""
    assert Trial(scores).sigma == pytest.approx(sigma)


@pytest.mark.parametrize(
    ("floor", "sigma", "lead"), [(29.9, 0.8, 0.1), (30.1, 0.8, -0.1), (29.9, 0.0, -0.9), (29.9, 4.0, math.nan)]
)
def test_the_best_score_is_held_against_the_interpolation(floor, sigma, lead):
    """Sigma is chosen a little below the best on purpose, and that alone is no reason to give the network up."""
    trial = Trial({0.0: 29.0, 1.0: 30.0}, floor)
    assert trial.sigma == pytest.approx(0.8)
    assert trial.lead(trial.sigma if sigma == 0.8 else sigma) == pytest.approx(lead, nan_ok=True)


@pytest.mark.parametrize(
    ("asked", "sigma", "strength"),
    [
        ({}, 1.0, 1.0),
        ({0.0: 0.5, 2.0: 2.5}, 0.8, 1.3),
        ({2.0: 2.5, 0.0: 0.5}, 0.2, STRENGTHS[0]),
        ({0.0: 0.5, 2.0: 2.5}, 2.0, STRENGTHS[1]),
        ({1.0: 1.3}, 1.4, 1.3),
    ],
)
def test_the_strength_at_a_sigma(asked, sigma, strength):
    """As is asked, on straight lines; bounds hold for what is between those tried, not for those."""
    trial = Trial(dict.fromkeys(asked, 30.0), asked=asked)
    assert trial.strength(sigma) == pytest.approx(strength)


@pytest.mark.parametrize(
    "trial",
    [
        Trial({0.0: 29.0, 0.3: 30.0}, 28.0, 1.5, 2.0, {0.0: 0.5, 0.3: 1.25}),
        Trial({2.5: math.nan}, ratio=4.0),
        Trial({}, 28.0),
    ],
    ids=["tried", "given and not tried", "nothing tried"],
)
def test_a_trial_survives_as_weights(trial):
    """Weights are tensors alone."""
    kept = trial.weights()
    assert all(isinstance(value, torch.Tensor) for value in kept.values())
    again = Trial.of(kept)
    for name in ("scores", "asked"):
        there, back = getattr(trial, name), getattr(again, name)
        assert list(back) == pytest.approx(list(there))
        assert list(back.values()) == pytest.approx(list(there.values()), nan_ok=True)
    assert again.strength(again.sigma) == pytest.approx(trial.strength(trial.sigma))
    for name in ("floor", "widening", "ratio"):
        assert getattr(again, name) == pytest.approx(getattr(trial, name), nan_ok=True)
