"""Denoising: nearer to the light, by as much as it says, and nothing where there is no noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.stats import poisson

from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.denoising import Denoised, _counts, _roots, denoised
from napari_microdiffusion.events import Notice, Step, exhaust
from napari_microdiffusion.reliability import Reliability
from napari_microdiffusion.volume import ProjectionStack

SHAPE = (5, 64, 64)


def light() -> NDArray[np.float64]:
    """Blobs on black, 0 to 1."""
    found = gaussian_filter(np.random.default_rng(0).standard_normal(SHAPE), (0, 4, 4))
    return np.asarray((found / found.max()).clip(0))


def stack_of(images: NDArray[Any]) -> ProjectionStack:
    return ProjectionStack(images, Acquisition(slices=4))


def done(images: NDArray[Any], seed: int = 0) -> Denoised:
    found = exhaust(denoised(stack_of(images), seed, lambda: False))
    assert found is not None
    return found


def measured(name: str) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """The light, and images of it."""
    random = np.random.default_rng(1)
    peak = {"five photons": 5.0, "hundred photons": 100.0}.get(name)
    if peak is not None:
        return peak * light(), random.poisson(peak * light()).astype(np.uint16)
    if name == "photons, gain 3, offset 200":
        return 200 + 300 * light(), 200 + 3 * random.poisson(100 * light())
    return 1000 * light(), 1000 * light() + 50 * random.standard_normal(SHAPE)


CAMERAS = ["five photons", "hundred photons", "photons, gain 3, offset 200", "reading out"]


@pytest.mark.parametrize("mean", [0.0, 0.1, 0.5, 2.0, 20.0, 5000.0])
def test_means_come_back_from_the_mean_of_the_roots(mean):
    """Summed over the Poisson distribution."""
    counts = np.arange(int(mean + 20 * mean**0.5) + 50)
    root = (poisson.pmf(counts, mean) * _roots(counts)).sum()
    assert _counts(np.asarray([root]))[0] == pytest.approx(mean, rel=0.005, abs=0.001)


@pytest.mark.parametrize("name", CAMERAS)
def test_it_is_nearer_to_the_light(name):
    truth, images = measured(name)
    found = done(images)
    before, after = (np.square(each - truth).mean() for each in (images, found.stack.data))
    assert after < before / 3
    assert found.stack.data.mean() == pytest.approx(truth.mean(), rel=0.05)
    assert found.stack.data.dtype == np.float32
    assert found.stack.source_dtype == str(images.dtype)


@pytest.mark.parametrize("name", CAMERAS)
def test_it_knows_by_how_much_it_is_off(name):
    truth, images = measured(name)
    found = done(images)
    error = np.sqrt(np.square(found.stack.data - truth).mean())
    assert np.sqrt(found.variance.mean()) == pytest.approx(error, rel=0.4)
    assert found.stack.error_variance == pytest.approx(found.variance.mean())


@pytest.mark.parametrize(
    "images",
    [np.where(light() > 0.3, 1.0, 0.0), np.where(light() > 0.3, 200, 50).astype(np.uint8)],
    ids=["real", "8 bit"],
)
def test_without_noise_nothing_changes(images):
    found = done(images)
    np.testing.assert_allclose(found.stack.data, images, atol=1e-5 * np.ptp(images))
    assert found.variance.max() < (1e-5 * np.ptp(images)) ** 2


def test_a_blank_image_stays_blank():
    images = measured("hundred photons")[1]
    images[2] = 0
    found = done(images)
    np.testing.assert_allclose(found.stack.data[2], 0, atol=1e-6)
    assert np.isfinite(found.stack.data).all()
    assert np.isfinite(found.variance).all()


def test_the_same_at_any_intensity():
    images = measured("photons, gain 3, offset 200")[1].astype(np.float32)
    once, scaled = done(images), done(images * 16 - 2000)
    np.testing.assert_allclose(scaled.stack.data, once.stack.data * 16 - 2000, rtol=1e-3)


def test_the_seed_changes_the_error_alone():
    images = measured("hundred photons")[1]
    once, again, other = done(images), done(images), done(images, seed=1)
    np.testing.assert_array_equal(once.variance, again.variance)
    np.testing.assert_array_equal(once.stack.data, other.stack.data)
    assert not np.array_equal(once.variance, other.variance)


def test_stopped_in_the_middle_there_is_no_result():
    steps: list[int] = []
    events = denoised(stack_of(measured("hundred photons")[1]), 0, lambda: len(steps) >= 2)
    result: Any = "none yet"
    while result == "none yet":
        try:
            event = next(events)
        except StopIteration as stop:
            result = stop.value
            continue
        assert not isinstance(event, Notice)
        steps.extend([event.done] if isinstance(event, Step) else [])
    assert result is None
    assert steps == [1, 2]


@pytest.mark.parametrize("stride", [1, 2])
def test_projections_that_overlap_gain_too(stride):
    """What denoising left is softened as noise is: an exact inverse would amplify it."""
    acquisition = Acquisition(slices=6, stride=stride, count=12)
    truth = np.stack([np.roll(light()[0], 2 * z, 0) for z in range(acquisition.depth)]) * 20
    stack = ProjectionStack(np.random.default_rng(3).poisson(acquisition.project(truth)), acquisition)
    quiet = exhaust(denoised(stack, 0, lambda: False)).stack
    raw, found = (
        np.square(each.interpolation @ each.data.reshape(12, -1) - truth.reshape(len(truth), -1)).mean()
        for each in (stack, quiet)
    )
    assert found < raw / 2
    assert quiet.without([3]).error_variance == quiet.error_variance
    scaled, intensity = quiet.normalised()
    assert scaled.error_variance == pytest.approx(quiet.error_variance / intensity.gain**2)
    assert scaled.ridge == pytest.approx(quiet.ridge, rel=1e-3)


def test_what_was_taken_is_told():
    images = measured("reading out")[1]
    [notice] = [event.message for event in denoised(stack_of(images), 0, lambda: False) if isinstance(event, Notice)]
    share = float(notice.split()[1])
    assert 0.7 < share / (100 * 50 / np.ptp(images)) < 1.05


def test_intervals_hold_what_denoising_left():
    """Of a volume that is the interpolation itself, and says that it is sure: light that is smooth along z."""
    truth, images = measured("hundred photons")
    truth, images = truth[[0, 0, 0, 0, 0]], np.random.default_rng(2).poisson(truth[[0, 0, 0, 0, 0]])
    found = done(images)
    volume = np.tensordot(found.stack.interpolation, found.stack.data, 1).astype(np.float32)
    sure = Reliability(np.zeros_like(volume), volume.copy(), volume.copy())
    found.widen(sure)
    light_in_slices = np.repeat(truth, 4, 0)
    held = (sure.lower <= light_in_slices) & (light_in_slices <= sure.upper)
    assert 0.7 < held.mean() < 0.99
    wide = Reliability(np.full_like(volume, 30), volume - 50, volume + 40)
    found.widen(wide)
    assert (wide.std >= 30).all()
    assert (wide.lower <= volume - 50).all()
    assert (wide.upper >= volume + 40).all()


def test_an_offset_changes_nothing() -> None:
    """Signed images that were stored as unsigned ones, for example; the line of their noise is none at 0."""
    images = 1000 + 50 * np.random.default_rng(3).standard_normal(SHAPE)
    plain, raised = done(images).stack.data, done(images + 30000).stack.data
    np.testing.assert_allclose(raised - 30000, plain, atol=0.01)
