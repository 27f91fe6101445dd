"""The noise of images: found under structure, and as it grows with the light."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.noise import MOST, PIXELS, Noise, _gain, excess, noise_variance


def waves(shape: tuple[int, int, int] = (4, 128, 128)) -> np.ndarray:
    """Smooth structure, 500 to 1500."""
    y, x = np.mgrid[: shape[1], : shape[2]]
    return np.broadcast_to(1000 + 500 * np.sin(y / 9) * np.cos(x / 11), shape)


@pytest.mark.parametrize("dtype", [np.float32, np.uint16])
def test_noise_variance_finds_the_noise_under_structure(dtype):
    images = waves() + 20 * np.random.default_rng(3).standard_normal(waves().shape)
    assert noise_variance(images.astype(dtype)) == pytest.approx(400, rel=0.1)


def test_intensities_whose_sums_their_type_has_no_room_for():
    images = 40 * waves() + 800 * np.random.default_rng(3).standard_normal(waves().shape)
    images = images.clip(0, 60_000).astype(np.float16)
    assert noise_variance(images) == pytest.approx(800**2, rel=0.1)
    assert Noise.of(images.astype(np.uint16)).variance(np.asarray([4e4])) == pytest.approx(800**2, rel=0.2)


def test_the_noise_of_a_large_stack_is_not_that_of_one_image(monkeypatch):
    images = waves((5, 128, 128)) + 20 * np.random.default_rng(3).standard_normal((5, 128, 128))
    images[2] = 0  # blank
    monkeypatch.setattr("napari_microdiffusion.noise.PIXELS", images.size // 2)
    assert noise_variance(images[[0, 1, 3, 4]]) == pytest.approx(400, rel=0.15)
    assert noise_variance(images) > 150  # a fifth of the pixels has none


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


@pytest.mark.parametrize("brightest", [0.1, 0.5, 2.0, 10.0])
def test_few_photons_on_black(brightest):
    """Counts of which most are nothing: medians see no noise, but the variance is the mean all the same."""
    light = brightest * ((waves((10, 128, 128)) - 500) / 1000) ** 4
    counts = np.random.default_rng(5).poisson(light)
    assert np.median(counts) == 0
    bright = np.asarray([0.4, 0.8]) * brightest
    np.testing.assert_allclose(Noise.of(counts).variance(bright), bright, rtol=0.4)
    if brightest < 2:  # above, the median of all is not nothing
        assert noise_variance(counts) == pytest.approx(light.mean(), rel=0.1)


@pytest.mark.parametrize("brightest", [60.0, 400.0])
def test_noise_of_what_fades_into_black(brightest):
    """Half of the pixels hold nothing, and what is dim among the others is nothing for the most part, too."""
    light = brightest * gaussian_filter(np.random.default_rng(0).standard_normal((5, 64, 64)), (0, 4, 4)).clip(0) / 0.2
    counts = np.random.default_rng(5).poisson(light)
    assert 0.4 < (counts == 0).mean() < 0.6
    bright = np.asarray([0.4, 0.8]) * brightest
    np.testing.assert_allclose(Noise.of(counts).variance(bright), bright, rtol=0.4)


def test_edges_on_black_are_no_photons():
    z, y, x = np.mgrid[:8, :64, :64] - np.asarray([4, 32, 32]).reshape(3, 1, 1, 1)
    ball = ((2 * z) ** 2 + y**2 + x**2 < 12**2).astype(np.float32)
    cubes = (np.random.default_rng(6).random((8, 16, 16)) < 0.05).repeat(4, 1).repeat(4, 2).astype(np.float32)
    for images in (ball, cubes):
        assert noise_variance(images) == 0
        assert Noise.of(images) == Noise(0, 0, 0)


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


def fine_noise(along: float, across: float, shape: tuple[int, ...] = (32, 192, 192)) -> np.ndarray:
    """Noise of unit variance, as wide as a Gaussian along z and across."""
    noise = gaussian_filter(np.random.default_rng(0).standard_normal(shape), (along, across, across))
    return noise / noise.std()


def discs() -> np.ndarray:
    """Bright discs that shrink with depth, (32, 192, 192)."""
    z, y, x = np.mgrid[:32, :192, :192]
    return gaussian_filter(300.0 * ((y % 96 - 48) ** 2 + (x % 96 - 48) ** 2 < (30 - z / 2) ** 2), 1.5)


@pytest.mark.parametrize(
    ("along", "across", "ratio"),
    [(0.0, 0.0, 1.0), (0.5, 0.5, 1.0), (0.6, 0.6, 1.0), (0.25, 0.5, 2.0), (0.3, 0.55, 2.0)],
)
def test_noise_that_is_not_white_is_told_from_projections(along, across, ratio):
    """Of slices that are not shown: second differences see less of it the coarser it is."""
    projections = ACQUISITION.project(discs() + 20 * fine_noise(along, across))
    noise = Noise.of(projections)
    seen = noise.variance(np.asarray([0.0]))[0] * ACQUISITION.effective_slices
    found = excess(noise, projections, ACQUISITION.matrix, ratio)
    assert found * seen == pytest.approx(400, rel=0.18)
    assert found < 1.05 if across == 0 else found > 1.3


def test_noise_as_wide_as_structure_is_not_told():
    projections = ACQUISITION.project(fine_noise(0.0, 0.7)).astype(np.float32)
    assert excess(Noise.of(projections), projections, ACQUISITION.matrix, 1.0) == MOST


@pytest.mark.parametrize(("slices", "stride"), [(6, 6), (6, 4), (6, 3), (8, 2), (4, 9)])
@pytest.mark.parametrize("shared", [True, False])
def test_projections_that_overlap_or_leave_gaps_have_white_noise_all_the_same(slices, stride, shared):
    """The slices' own, of which projections share some, or each projection's by itself, as a camera's is."""
    acquisition = Acquisition(slices=slices, stride=stride, count=12)
    if shared:
        images = acquisition.project(fine_noise(0, 0, (acquisition.depth, 96, 96)))
    else:
        images = fine_noise(0, 0, (12, 96, 96))
    assert excess(Noise.of(images), images, acquisition.matrix, 1.0) == pytest.approx(1, abs=0.15)


def test_a_border_without_an_image_is_not_the_quietest_part():
    """As a registration leaves it, and one that was cut off at zero here and there."""
    whole = ACQUISITION.project(20 * fine_noise(0.5, 0.5))
    bordered = np.where(np.arange(192) < 40, 0.0, whole)
    expected = excess(Noise.of(whole), whole, ACQUISITION.matrix, 1.0)
    assert expected > 1.3
    assert excess(Noise.of(whole), bordered, ACQUISITION.matrix, 1.0) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(("width", "contrast"), [(2, 10.0), (2, 30.0), (3, 10.0)])
def test_edges_are_not_taken_for_noise(width, contrast):
    """Elsewhere in each projection, so that neighbours do not tell them, on white noise."""
    blobs = gaussian_filter(np.random.default_rng(0).standard_normal((8, 192, 192)), (0, width, width)) > 0
    images = gaussian_filter(contrast * blobs, (0, 0.6, 0.6)) + np.random.default_rng(1).standard_normal(blobs.shape)
    assert excess(Noise.of(images), images, ACQUISITION.matrix, 1.0) < 1.2


@pytest.mark.parametrize("shape", [(4, 32, 32), (3, 15, 40), (2, 64, 64)], ids=["empty", "small", "two"])
def test_where_nothing_tells_noise_is_taken_for_white(shape):
    images = np.zeros(shape) if shape[0] == 4 else fine_noise(0.5, 0.5, shape)
    acquisition = Acquisition(slices=4, count=len(images))
    assert excess(Noise.of(images), images, acquisition.matrix, 1.0) == 1


@pytest.mark.parametrize("alike", [0.0, 0.3, 0.5])
def test_what_projections_do_to_noise_that_neighbours_share(alike):
    """As a quadratic form of the noise's covariance."""
    rows = np.random.default_rng(0).standard_normal((3, 12)) * (np.arange(12) > 3)
    covariance = alike ** np.abs(np.subtract.outer(np.arange(12.0), np.arange(12.0)))
    expected = np.einsum("ki,ij,kj->", rows, covariance, rows) / np.square(rows).sum()
    assert _gain(rows, alike) == pytest.approx(expected)
