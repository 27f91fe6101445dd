"""What is tried: which anisotropies, which of them is taken, how strong changes are, what is kept with the weights."""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Any

import numpy as np
import pytest
import torch

from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.events import Event, exhaust
from napari_microdiffusion.methods import Context, _trial
from napari_microdiffusion.methods._grid import INDIFFERENT, Grid
from napari_microdiffusion.methods._hidden import STRENGTHS, Hidden
from napari_microdiffusion.methods._patches import Anisotropy, Cutter
from napari_microdiffusion.methods._trial import FALLBACK, SHORT, Trial
from napari_microdiffusion.volume import ProjectionStack


@pytest.mark.parametrize(
    ("scores", "sigma"),
    [
        ({}, FALLBACK.sigma),
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
    trial = Trial({0.0: 29.0, 1.0: 30.0}, floor, elongations={1.0: 30.0})
    assert trial.sigma == pytest.approx(0.8)
    assert trial.lead(trial.sigma if sigma == 0.8 else sigma) == pytest.approx(lead, nan_ok=True)


@pytest.mark.parametrize("sigma", [2.5, 2.3])
def test_a_sigma_that_was_given_is_the_same_when_the_weights_are_read(sigma):
    """They keep it in float32."""
    trial = Trial({sigma: 27.9}, 28.0, elongations={1.0: 27.9, 2.0: 28.05})
    again = Trial.of(trial.weights())
    assert again.lead(sigma) == pytest.approx(trial.lead(sigma), abs=1e-4) == pytest.approx(0.05, abs=1e-4)


def test_a_better_elongation_that_was_not_taken_counts_too():
    """It was left for one nearer to 1 that cannot be told apart, and that alone is no reason either."""
    assert Trial({0.0: 27.9}, 28.0, elongations={1.0: 27.9, 2.0: 28.05}).lead(0.0) == pytest.approx(0.05)


def test_a_much_better_elongation_that_was_not_taken_does_not_hide_that_the_taken_one_is_bad():
    """It may be left for one that is worse, if not beyond doubt; the volume is that one's."""
    trial = Trial({0.0: 27.5}, 28.5, elongations={1.0: 27.5, 2.0: 30.05})
    assert trial.lead(0.0) == pytest.approx(INDIFFERENT - 1)


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
    ("of_all", "of_such", "widening"),
    [
        (0.9, 5.0, 1.0),  # long enough, and of such patches the network saw few
        (SHORT - 0.01, 5.0, 1.0),
        (5.0, 7.0, 7.0),
        (5.0, 0.9, 1.0),  # never narrowed
    ],
)
@pytest.mark.parametrize("elongation", [None, 1.5])
def test_intervals_are_widened_after_a_short_training_alone(of_all, of_such, widening, elongation, monkeypatch):
    """By what patches need that look as the sample was found to. How sharp it may be is asked for the same look."""
    asked, told = [], []

    def needed(*given: object) -> float:
        asked.append(given[4] if len(given) > 4 else None)
        return of_all if asked[-1] is None else of_such

    monkeypatch.setattr(_trial, "hidden_planes", lambda *_: Hidden(np.ones(4), np.full(4, 1.2), np.ones(4)))
    monkeypatch.setattr(_trial, "widening_needed", needed)

    def sharper(*given: Any) -> Generator[Event, None, float]:
        told.append(given[3:6])
        return 0.7
        yield

    monkeypatch.setattr(_trial, "sharper", sharper)
    stack = ProjectionStack(np.random.default_rng(0).random((5, 24, 24), np.float32), Acquisition(slices=2, count=5))
    cut = Cutter(stack, 1.0, 3.0, 0.3, torch.Generator())
    trial = exhaust(_trial.try_out(torch.nn.Identity(), cut, stack, Grid(3.0, 1.0, elongation), Context()))
    assert (trial.widening, trial.sharper) == (widening, pytest.approx(0.7))
    assert told == [(Anisotropy(1.0, elongation or 1.0), pytest.approx(1.2), elongation is None)]
    assert asked[1:] in ([], [Anisotropy(1.0, elongation or 1.0)])


@pytest.mark.parametrize(
    "trial",
    [
        Trial(
            {0.0: 29.0, 0.3: 30.0},
            *(28.0, 1.5, 2.0),
            {0.0: 0.5, 0.3: 1.25},
            2.0,
            {1.0: 29.0, 1.5: 28.9, 2.0: 30.0},
            0.3,
        ),
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
    for name in ("scores", "asked", "elongations"):
        there, back = getattr(trial, name), getattr(again, name)
        assert list(back) == pytest.approx(list(there))
        assert list(back.values()) == pytest.approx(list(there.values()), nan_ok=True)
    assert again.strength(again.sigma) == pytest.approx(trial.strength(trial.sigma))
    for name in ("floor", "widening", "ratio", "elongation", "sharper"):
        assert getattr(again, name) == pytest.approx(getattr(trial, name), nan_ok=True)
