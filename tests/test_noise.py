"""The noise of images: found under structure, and as it grows with the light."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.noise import PIXELS, Noise, coloured, noise_variance


def waves(shape: tuple[int, int, int] = (4, 128, 128)) -> np.ndarray:
    """Smooth structure, 500 to 1500."""
    y, x = np.mgrid[: shape[1], : shape[2]]
    return np.broadcast_to(1000 + 500 * np.sin(y / 9) * np.cos(x / 11), shape)


@pytest.mark.parametrize("dtype", [np.float32, np.uint16])
def test_noise_variance_finds_the_noise_under_structure(dtype):
    images = waves() + 20 * np.random.default_rng(3).standard_normal(waves().shape)
    assert noise_variance(images.astype(dtype)) == pytest.approx(400, rel=0.1)


LIGHT = np.asarray([700.0, 1000.0, 1500.0])

CAMERAS = {
    "photons": (0.0, 3.0),
    "photons and reading out": (200.0, 1.5),
    "reading out": (400.0, 0.0),
    "an offset, without noise": (-1000.0, 2.5),
    "no noise": (0.0, 0.0),
}
"""Variance at zero, and how it grows with intensity."""


@pytest.mark.parametrize("name", CAMERAS)
def test_noise_grows_with_the_light_as_the_camera_has_it(name):
    at_zero, slope = CAMERAS[name]
    clean = waves()
    images = clean + np.sqrt(at_zero + slope * clean) * np.random.default_rng(0).standard_normal(clean.shape)
    np.testing.assert_allclose(Noise.of(images).variance(LIGHT), at_zero + slope * LIGHT, rtol=0.15, atol=1)


def test_counted_photons():
    """Independent of our model: a Poisson distribution's variance is its mean."""
    counts = np.random.default_rng(1).poisson(waves() / 10)
    np.testing.assert_allclose(Noise.of(counts).variance(LIGHT / 10), LIGHT / 10, rtol=0.15)


def test_a_background_that_was_cut_off_does_not_hide_the_noise():
    """More than half of the pixels at exactly zero: the median says that there is none."""
    rng = np.random.default_rng(2)
    images = np.where(np.arange(128) < 80, 0.0, waves() + 20 * rng.standard_normal(waves().shape))
    assert noise_variance(images) == 0
    assert Noise.of(images).variance(np.asarray([0.0, 1000.0])) == pytest.approx([0, 400], rel=0.5, abs=50)


def test_the_line_is_not_followed_below_the_darkest_class():
    noise = Noise.of(np.random.default_rng(3).poisson(waves() / 10))
    assert noise.variance(np.asarray([-1000.0])) == noise.least > 0


@pytest.mark.parametrize("value", [0.0, 7.0, 1e-30, 1e30])
def test_images_of_nothing_have_no_noise(value):
    assert Noise.of(np.full((3, 8, 8), value)).variance(LIGHT) == pytest.approx(0, abs=1e-12 * value**2)


def test_many_images_are_measured_in_some(monkeypatch):
    images = np.random.default_rng(4).poisson(waves((12, 64, 64)) / 10)
    monkeypatch.setattr("napari_microdiffusion.noise.PIXELS", images[::4].size)
    assert Noise.of(images) == Noise.of(images[2::4])  # not the outermost, which may be empty
    assert PIXELS >= 2048**2


def test_one_of_few_large_images_is_measured(monkeypatch):
    images = np.random.default_rng(5).poisson(waves((3, 64, 64)) / 10)
    monkeypatch.setattr("napari_microdiffusion.noise.PIXELS", 1000)
    assert Noise.of(images) == Noise.of(images[1:2])


ACQUISITION = Acquisition(slices=4, count=8)


def slices(fine: tuple[float, float]) -> tuple[np.ndarray, float]:
    """Bright discs that shrink with depth, with noise as wide as a Gaussian along z and across; its variance."""
    z, y, x = np.mgrid[: ACQUISITION.depth, :192, :192]
    discs = 300.0 * ((y % 96 - 48) ** 2 + (x % 96 - 48) ** 2 < (30 - z / 2) ** 2)
    along, across = fine
    noise = gaussian_filter(np.random.default_rng(0).standard_normal(discs.shape), (along, across, across))
    return gaussian_filter(discs, 1.5) + 20 * noise / noise.std(), 400.0


@pytest.mark.parametrize(
    ("fine", "ratio", "tolerance"),
    [
        ((0.0, 0.0), 1.0, 0.15),  # white
        ((0.5, 0.5), 1.0, 0.35),  # texture, as fine along z
        ((0.6, 0.6), 1.0, 0.35),
        ((0.3, 0.6), 2.0, 0.35),  # and in voxels twice as deep as wide
    ],
)
def test_noise_that_is_not_white_is_told_from_projections(fine, ratio, tolerance):
    """Of slices that are not shown; second differences see less of it the coarser it is."""
    truth, variance = slices(fine)
    projections = ACQUISITION.project(truth)
    noise = Noise.of(projections)
    seen = noise.variance(np.asarray([0.0]))[0] * ACQUISITION.effective_slices
    colour = coloured(noise, projections, ACQUISITION.matrix, ratio)
    assert colour * seen == pytest.approx(variance, rel=tolerance)
    assert colour == 1 or seen < 0.8 * variance


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((4, 32, 32), np.float32),
        np.random.default_rng(0).random((3, 15, 40), np.float32),
        np.random.default_rng(0).random((3, 16, 16), np.float32),
    ],
    ids=["empty", "smaller than a block", "a block"],
)
def test_where_little_is_to_be_seen_noise_is_taken_as_it_is(images):
    acquisition = Acquisition(slices=4, count=len(images))
    assert coloured(Noise.of(images), images, acquisition.matrix, 1.0) == pytest.approx(1, abs=0.6)
