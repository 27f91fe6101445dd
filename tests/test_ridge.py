"""The ridge of consistency: the noise over the change from slice to slice, where projections overlap."""

from __future__ import annotations

import numpy as np
import pytest

from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.ridge import ridge_of


@pytest.fixture(scope="module")
def noisy() -> tuple[Acquisition, np.ndarray, np.ndarray]:
    """Heavily overlapping projections of a random walk along z with steps of 0.1, and noise of 0.02."""
    acquisition = Acquisition(slices=6, stride=1, count=40)
    rng = np.random.default_rng(2)
    y, x = np.mgrid[:64, :64]
    smooth = [np.sin(y / rng.uniform(6, 12) + rng.uniform(0, 6)) * np.sin(x / 8 + rng.uniform(0, 6)) for _ in range(45)]
    volume = np.cumsum(np.stack(smooth) * 0.1 / np.std(smooth), axis=0)
    projections = acquisition.project(volume)
    return acquisition, volume, projections + 0.02 * rng.standard_normal(projections.shape)


def test_the_ridge_is_the_noise_over_the_change_between_slices(noisy):
    acquisition, _, projections = noisy
    assert ridge_of(acquisition, projections) == pytest.approx(0.02**2 / 0.1**2, rel=0.5)
    assert ridge_of(acquisition, 1000 + 500 * projections) == pytest.approx(ridge_of(acquisition, projections))


def test_the_ridge_of_integers_does_not_wrap_around(noisy):
    acquisition, _, projections = noisy
    counts = (10_000 + 5_000 * projections).round().clip(0, 65535)
    assert ridge_of(acquisition, counts.astype(np.uint16)) == pytest.approx(ridge_of(acquisition, counts), rel=1e-6)


def test_the_ridge_bounds_the_noise_that_overlap_amplifies(noisy):
    acquisition, volume, projections = noisy
    ridge = ridge_of(acquisition, projections)

    def error(ridge: float) -> float:
        return float((acquisition.enforce(volume, projections, ridge) - volume).std())

    assert error(0) > 5 * 0.02  # the exact solution amplifies the noise
    assert error(ridge) < 0.4 * error(0)
    damped = acquisition.enforce(volume, projections, ridge)
    assert np.abs(acquisition.residual(damped, projections)).mean() < 0.02  # and stays within the noise


def test_the_ridge_is_zero_without_overlap(noisy):
    _, _, projections = noisy
    assert ridge_of(Acquisition(slices=6, stride=6, count=40), projections) == 0
    assert ridge_of(Acquisition(slices=6, stride=9, count=40), projections) == 0
    assert ridge_of(Acquisition(slices=6, stride=3, count=3, hidden=(0, 2)), projections[:1]) == 0
    for few in (projections[:3], np.zeros((3, 8, 8)), np.full((3, 8, 8), 7, np.uint8)):
        assert 0 < ridge_of(Acquisition(slices=6, stride=1, count=3), few) < np.inf
