"""How well hidden projections are told: what strength they ask for, and the errors that are left."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.methods._hidden import Hidden, extent


def told(told_share: float, noise: float = 0.0, projections: int = 6) -> Hidden:
    """Hidden projections of which a network tells so much, and noise."""
    rng = np.random.default_rng(0)
    missing = rng.standard_normal((projections, 10000))
    change = told_share * missing + noise * rng.standard_normal(missing.shape)
    means = [product.mean(1) for product in (missing**2, missing * change, change**2)]
    return Hidden(*means, np.ones(projections))


@pytest.mark.parametrize(
    ("told_share", "noise", "asked", "share"),
    [
        (1.0, 0.0, 1.0, 0.0),
        (0.8, 0.0, 1.25, 0.0),
        (0.5, 0.0, 2.0, 0.0625),  # three quarters of it are told
        (0.8, 0.4, 1.0, 0.2),
        (2.0, 0.0, 0.5, 1.0),  # never weakened
        (1.0, 1.0, 0.5, 1.0),
        (-1.0, 0.0, -1.0, 4.0),  # the interpolation is better
    ],
)
def test_what_is_asked_and_the_error_of_known_answers(told_share, noise, asked, share):
    hidden = told(told_share, noise)
    assert hidden.asked == pytest.approx(asked, rel=0.02)
    assert hidden.error.sum() / hidden.missing.sum() == pytest.approx(share, rel=0.02, abs=1e-9)


def test_no_projection_is_scored_with_a_strength_that_was_fitted_to_it():
    """One in which the change is too weak, among others where it is right, has the others' strength: none."""
    right, weak = told(1.0, projections=20), told(0.8, projections=1)
    names = ("missing", "agreement", "change", "spread")
    both = Hidden(*(np.concatenate([getattr(right, name), getattr(weak, name)]) for name in names))
    np.testing.assert_allclose(both.error / both.missing, [0] * 20 + [0.04], atol=1e-4)
    network, interpolation = told(1.0, 0.1).scores(1.0)
    assert (network > interpolation + 15).all()


def test_a_network_that_changes_nothing_is_no_better_than_interpolation():
    hidden = told(0.0)
    np.testing.assert_array_equal(hidden.error, hidden.missing)


def test_surprise_is_in_standard_deviations_and_no_projection_has_the_last_word():
    plain = told(0.0, projections=8)
    twice = replace(plain, spread=plain.missing / 4)
    assert twice.surprise == pytest.approx(2)
    bright = np.where(np.arange(8) == 0, 1e4, 1.0)  # one in which nothing is told, beside seven
    assert replace(twice, missing=bright * twice.missing).surprise == pytest.approx(2 * 10 ** (2 / 8))


@pytest.mark.parametrize("profile", ["uniform", "point", "gaussian"])
def test_all_slices_of_a_projection_have_a_say_in_what_is_stated(profile):
    """Also those that a beam of single slices does not show."""
    acquisition = Acquisition(slices=4, profile=profile, count=5)
    np.testing.assert_allclose(extent(acquisition).matrix, np.kron(np.eye(5), np.full(4, 0.25)))
