"""Training material of axial super-resolution: what patches are, that the beam degrades them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.methods._patches import (
    GAINS,
    GAUSSIAN,
    LOG_STRETCH,
    LONG_TAILS,
    PATCH_WIDTH,
    SHORT_TAILS,
    TAILS,
    Anisotropy,
    Cutter,
    Patches,
    blur_matrices,
)
from napari_microdiffusion.noise import Noise
from napari_microdiffusion.volume import ProjectionStack

ACQUISITIONS = {
    "uniform": Acquisition(slices=6),
    "point": Acquisition(slices=6, profile="point"),
    "gaussian": Acquisition(slices=6, profile="gaussian", fwhm=3),
    "gaps": Acquisition(slices=4, stride=7),
    "overlap": Acquisition(slices=6, stride=4),
    "single slices": Acquisition(slices=1),
    "hidden": Acquisition(slices=4, count=6, hidden=(0, 3)),
}


def stack_of(
    images: np.ndarray | None = None,
    acquisition: Acquisition = Acquisition(slices=6),  # noqa: B008
    size: tuple[int, int] = (48, 40),
) -> ProjectionStack:
    """Projections of the given images; else of white noise."""
    if images is None:
        count = len(acquisition.shown) if acquisition.count else 6
        images = np.random.default_rng(0).random((count, *size))
    return ProjectionStack(images.astype(np.float32), acquisition)


def batches(
    stack: ProjectionStack,
    *,
    number: int = 8,
    ratio: float = 1.0,
    largest_blur: float = 3.0,
    hiding: float = 0.3,
    seed: int = 0,
) -> Iterator[Patches]:
    """Batches of two patches of the largest size, or more that are smaller."""
    cut = Cutter(stack, ratio, largest_blur, hiding, torch.Generator().manual_seed(seed))
    return (cut(2) for _ in range(number))


# -- patches --------------------------------------------------------------------------------


@pytest.mark.parametrize("acquisition", ACQUISITIONS.values(), ids=ACQUISITIONS)
@pytest.mark.parametrize("size", [(48, 40), (32, 150)])
def test_projections_are_what_the_beam_makes_of_the_truth(acquisition, size):
    for patches in batches(stack_of(acquisition=acquisition, size=size)):
        b, depth, width = patches.truth.shape
        assert depth == patches.acquisition.depth
        assert width <= min(PATCH_WIDTH, *size)
        assert patches.conditions.shape == (b, 4)
        assert 0 <= patches.conditions[:, 0].min() <= patches.conditions[:, 0].max() <= 3
        assert patches.conditions[:, 1:3].abs().max() <= LOG_STRETCH[1]
        assert set(patches.conditions[:, 3].tolist()) <= set(TAILS)
        for truth, projections in zip(patches.truth.double().numpy(), patches.projections.numpy(), strict=True):
            np.testing.assert_allclose(projections, patches.acquisition.project(truth), atol=1e-5)


@pytest.mark.parametrize("acquisition", ACQUISITIONS.values(), ids=ACQUISITIONS)
def test_patches_are_acquired_as_the_stack_was(acquisition):
    for patches in batches(stack_of(acquisition=acquisition), hiding=0):
        assert patches.acquisition.hidden == ()
        assert patches.acquisition.replace(count=None) == acquisition.replace(count=None, hidden=())


@pytest.mark.parametrize(
    ("slices", "stride", "size"),
    [(6, None, 96), (6, None, 32), (12, None, 32), (40, None, 32), (4, 30, 40), (20, 3, 32), (1, None, 32)],
)
@pytest.mark.parametrize("ratio", [0.1, 1.0, 10.0])
def test_three_projections_at_least(slices, stride, size, ratio):
    """However few fit into the images, and however many are hidden."""
    stack = stack_of(acquisition=Acquisition(slices=slices, stride=stride), size=(size, size + 5))
    for patches in batches(stack, number=12, ratio=ratio, hiding=1.0):
        assert len(patches.acquisition.shown) >= 3
        assert patches.truth.isfinite().all()
        assert patches.projections.shape[1] == len(patches.acquisition.shown)


@pytest.mark.parametrize(("hiding", "low", "high"), [(0.0, 0, 0), (0.5, 3, 27), (1.0, 30, 30)])
def test_some_projections_are_hidden_in_a_share_of_the_batches(hiding, low, high):
    found = [bool(patches.acquisition.hidden) for patches in batches(stack_of(), number=30, hiding=hiding)]
    assert low <= sum(found) <= high


def test_the_seed_fixes_every_patch():
    once, again, other = (list(batches(stack_of(), seed=seed)) for seed in (3, 3, 4))
    for one, same in zip(once, again, strict=True):
        assert one.acquisition == same.acquisition
        assert torch.equal(one.truth, same.truth)
        assert torch.equal(one.projections, same.projections)
        assert torch.equal(one.conditions, same.conditions)
    assert not any(
        one.truth.shape == different.truth.shape and torch.equal(one.truth, different.truth)
        for one, different in zip(once, other, strict=True)
    )


def test_random_numbers_of_others_are_left_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    list(batches(stack_of()))
    assert torch.equal(torch.get_rng_state(), before)


def test_where_there_is_nothing_a_patch_is_flat():
    """Neither interpolation nor blur, edges or mirrors add anything; the brightness is changed at random."""
    levels = []
    for patches in batches(stack_of(np.full((6, 48, 40), 0.5)), ratio=2.0, hiding=0):
        level = patches.truth.mean((1, 2), keepdim=True)
        torch.testing.assert_close(patches.truth, level.expand_as(patches.truth), rtol=0, atol=1e-5)
        levels += (level.flatten() / 0.5).tolist()
    assert GAINS[0] - 1e-4 <= min(levels) < max(levels) <= GAINS[1] + 1e-4


def texture(size: int = 128) -> np.ndarray:
    """A texture that looks the same along y and x, without noise: the same in each of six projections."""
    image = np.random.default_rng(1).standard_normal((size, size))
    smooth = gaussian_filter1d(gaussian_filter1d(image, 6, 0), 6, 1)
    return np.broadcast_to(smooth / smooth.std(), (6, size, size))


@pytest.mark.parametrize(("ratio", "low", "high"), [(1.0, 0.5, 2.0), (3.0, 3.0, 30.0), (0.3, 0.01, 0.3)])
def test_deep_voxels_hold_more_pixels(ratio, low, high):
    """How fast patches change along z, against along x, in mean squares: as the square of the ratio."""
    changes = np.zeros(2)
    for patches in batches(stack_of(texture()), number=20, ratio=ratio, largest_blur=1e-3, hiding=0):
        changes += [float(patches.truth.diff(dim=dim).square().mean()) for dim in (1, 2)]
    assert low < changes[0] / changes[1] < high


def test_the_stated_blur_is_along_z():
    """The more a patch is said to be blurred, the slower it changes along z, and along x as before."""
    smooth = gaussian_filter(np.random.default_rng(0).standard_normal((6, 64, 64)), (0, 1.5, 1.5))
    stack = stack_of(smooth, Acquisition(slices=1))
    sharp, blurred = (
        next(batches(stack, number=1, largest_blur=blur, hiding=0, seed=2)) for blur in (1e-6, 6.0)
    )  # the same patches
    sigma, deeper, *_ = blurred.conditions.unbind(1)
    mild, strong = sigma > 0.5, (sigma > 2) & (deeper > 0)  # shallow slices change little from one to the next anyway
    assert strong.any()
    along = [(p.truth.diff(dim=1).square().mean((1, 2)) / p.truth.square().mean((1, 2))) for p in (blurred, sharp)]
    assert (along[0][mild] < along[1][mild]).all()
    assert (along[0][strong] < 0.4 * along[1][strong]).all()


def test_patches_are_blurred_as_is_told_and_with_all_tails():
    """The same patches without and with blur, from images without noise."""
    stack, told = stack_of(acquisition=Acquisition(slices=1)), set()
    for seed in range(5):
        sharp, blurred = (Cutter(stack, 1.0, blur, 0.0, torch.Generator().manual_seed(seed)) for blur in (1e-6, 6.0))
        for cut in (sharp, blurred):
            cut._noise = Noise(0.0, 0.0, 0.0)
        before, after = sharp(6), blurred(6)
        sigma, tails = after.conditions[:, 0], after.conditions[:, 3]
        expected = blur_matrices(sigma, tails, before.truth.shape[1]) @ before.truth
        torch.testing.assert_close(after.truth, expected, rtol=0, atol=1e-5)
        told |= set(tails.tolist())
    assert told == set(TAILS)


@pytest.mark.parametrize(("profile", "variance"), [("uniform", 6.0), ("point", 1.0)])
@pytest.mark.parametrize(
    ("ratio", "blur"), [(1.0, 1e-6), (1.0, 12.0), (0.3, 1e-6), (2.0, 1e-6), (4.0, 1e-6), (8.0, 1e-6)]
)
def test_patches_are_as_noisy_as_slices_are(profile, variance, ratio, blur):
    """A projection averages the noise of its slices; blur along z and deep voxels take a patch's own noise away."""
    noisy = stack_of(np.random.default_rng(0).standard_normal((6, 64, 64)), Acquisition(slices=6, profile=profile))
    flat = replace(noisy, data=noisy.data * 0 + 0.5)
    power = [
        np.mean([float(p.truth.diff(dim=2).square().mean()) / 2 for p in batches(s, ratio=ratio, largest_blur=blur)])
        for s in (noisy, flat)
    ]
    assert power[1] < 1e-8
    assert 0.85 * variance < power[0] < 1.4 * variance
    stated = [Cutter(s, ratio, blur, 0.3, torch.Generator()).typical_noise for s in (noisy, flat)]
    assert stated == pytest.approx([variance, 0], rel=0.1)


def test_bright_patches_are_noisier_where_bright_images_are():
    """As photons have it: variance in proportion to the light."""
    clean = np.repeat([0.2, 0.8], 3)[:, None, None] * np.ones((6, 96, 96))
    images = clean + 0.1 * np.sqrt(clean) * np.random.default_rng(0).standard_normal(clean.shape)
    stack = stack_of(images, Acquisition(slices=6, profile="point"))
    truths = [truth for patches in batches(stack, number=20, hiding=0) for truth in patches.truth]
    light = np.asarray([float(truth.mean()) for truth in truths])
    power = np.asarray([float(truth.diff(dim=1).square().mean()) / 2 for truth in truths])
    dark, bright = light < 0.3, light > 0.6
    assert np.median(power[bright]) > 2.5 * np.median(power[dark])
    assert np.median((power / light)[bright]) == pytest.approx(np.median((power / light)[dark]), rel=0.3)


@pytest.mark.parametrize("width", [0.0, 0.6])
def test_grain_is_what_second_differences_miss(width):
    """None with white noise; else as much as the noise of slices has beyond it, whatever the brightness."""
    acquisition = Acquisition(slices=4, count=8)
    noise = gaussian_filter(np.random.default_rng(0).standard_normal((32, 160, 160)), width)
    projections = acquisition.project((1 + 0.05 * noise / noise.std()).astype(np.float32))
    patches = Cutter(ProjectionStack(projections, acquisition), 1.0, 3.0, 0.3, torch.Generator().manual_seed(0))(12)
    white = Noise.of(projections).variance(np.asarray([1.0]))[0] * 4
    beyond = float(np.std(patches.grain.numpy()) ** 2)
    assert beyond == pytest.approx(0.05**2 - white if width else 0, rel=0.2, abs=0.1 * white)


def test_patches_look_as_they_are_asked_to():
    """All alike: what tells how far intervals are to be widened after a short training."""
    cut = Cutter(stack_of(texture()), 1.0, 3.0, 0.3, torch.Generator().manual_seed(0))
    changes = {}
    for look in (Anisotropy(0.0, 0.5), Anisotropy(0.0), Anisotropy(0.0, 2.0), Anisotropy(3.0)):
        several = [cut(4, look) for _ in range(10)]
        hidden = [bool(patches.acquisition.hidden) for patches in several]
        assert any(hidden)  # as in training
        assert not all(hidden)
        for patches in several:
            torch.testing.assert_close(patches.conditions, look.conditions(patches.truth))
        along, across = (np.mean([float(p.truth.diff(dim=dim).square().mean()) for p in several]) for dim in (1, 2))
        changes[look] = along / across
    short, plain, long, blurred = changes.values()
    assert short / plain == pytest.approx(4, rel=0.35)  # twice as much in a slice
    assert long / plain == pytest.approx(1 / 4, rel=0.35)
    assert blurred < 0.9 * plain


# -- blur -----------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.5])
def test_blur_agrees_with_scipy(sigma):
    signal = np.random.default_rng(0).random(80)
    expected = gaussian_filter1d(signal, sigma, truncate=8)
    found = blur_matrices(torch.tensor([sigma, 1.7]), torch.full((2,), GAUSSIAN), 80)[0].double().numpy() @ signal
    inside = slice(int(8 * sigma) + 1, -int(8 * sigma) - 1)
    np.testing.assert_allclose(found[inside], expected[inside], atol=1e-6)


@pytest.mark.parametrize("tails", TAILS)
def test_blur_keeps_constants_and_none_keeps_all(tails):
    matrices = blur_matrices(torch.tensor([0.0, 0.3, 2.0, 50.0]), torch.full((4,), tails), 30)
    torch.testing.assert_close(matrices.sum(2), torch.ones(4, 30))
    torch.testing.assert_close(matrices[0], torch.eye(30), rtol=0, atol=1e-12 if tails != LONG_TAILS else 1e-10)
    assert (matrices >= 0).all()


def q_gaussian(away: np.ndarray, q: float) -> np.ndarray:
    """Tsallis' family: 1 at 0, and 1/2 at 1."""
    beta = (2 ** (q - 1) - 1) / (q - 1)
    return np.clip(1 + (q - 1) * beta * away**2, 0, None) ** (-1 / (q - 1))


@pytest.mark.parametrize(("tails", "q"), [(SHORT_TAILS, 0.0), (GAUSSIAN, 1 + 1e-9), (LONG_TAILS, 1.5)])
@pytest.mark.parametrize("sigma", [0.8, 3.0])
def test_blurs_are_as_wide_at_half_maximum_whatever_their_tails(tails, q, sigma):
    kernel = blur_matrices(torch.tensor([sigma]), torch.tensor([tails]), 81)[0, 40].double().numpy()
    half = np.sqrt(2 * np.log(2)) * sigma
    expected = q_gaussian((np.arange(81) - 40) / half, q)
    np.testing.assert_allclose(kernel, expected / expected.sum(), atol=1e-6)


def test_longer_tails_reach_farther():
    blurs = blur_matrices(torch.full((3,), 3.0), torch.tensor([SHORT_TAILS, GAUSSIAN, LONG_TAILS]), 81)[:, 40]
    far = blurs[:, :30].sum(1)  # beyond three standard deviations
    assert far[0] == 0
    assert 0 < 10 * far[1] < far[2]
    none = blur_matrices(torch.tensor([0.6]), torch.tensor([SHORT_TAILS]), 9)[0]
    torch.testing.assert_close(none, torch.eye(9))  # so short that blurs like this are no blur


def test_the_network_is_asked_for_the_shortest_tails():
    assert Anisotropy(1.0).conditions(torch.zeros(2, 8, 8))[:, 3].tolist() == [SHORT_TAILS, SHORT_TAILS]


@pytest.mark.parametrize(
    ("by", "sigma", "elongation"),
    [(0.0, 3.0, 1.5), (0.25, 2.25, 1.5), (1.0, 0.0, 1.5), (2.0, 0.0, 0.75), (3.0, 0.0, 0.5)],  # no shorter is seen
)
def test_what_is_sharper_has_less_blur_first_and_is_shorter_then(by, sigma, elongation):
    found = Anisotropy(3.0, 1.5).sharpened(by)
    assert (found.sigma, found.elongation) == pytest.approx((sigma, elongation))
