"""Subvolumes: where their images lie, what they are cut from, and how they are drawn."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.methods._windows import Batch, Drawer, Variety, Windows

PROFILES: dict[str, Callable[[int], Acquisition]] = {
    "point": lambda n: Acquisition(slices=n, profile="point"),
    "uniform": lambda n: Acquisition(slices=n),
    "gaussian": lambda n: Acquisition(slices=n, profile="gaussian", fwhm=n / 2),
    "slanted": lambda n: Acquisition(slices=n, profile="measured", weights=tuple(range(1, n + 1))),
    "last": lambda n: Acquisition(slices=n, profile="measured", weights=(0.0,) * (n - 1) + (1.0,)),
    "late": lambda n: Acquisition(slices=n, profile="measured", weights=(0.0,) * (n - 2) + (1.0, 1.0)),
}

EXACT = ("point", "last")
"""Profiles of which a projection is a slice."""


def all_windows(name: str) -> list[Windows]:
    """Odd and even, side by side and with gaps, alone and among further images."""
    sizes = [(n, stride) for n in range(2, 8) for stride in (n, n + 1, n + 2)]
    return [Windows(PROFILES[name](n).replace(stride=stride), further) for n, stride in sizes for further in range(3)]


def parts(windows: Windows, rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rows, or whatever there is one of for each image: of the measured ones, and of the unknown ones."""
    split = windows.further + 1
    above, unknown, below = np.split(rows, [split, split + windows.count])
    return np.concatenate([above, below]), unknown


# -- where images lie -------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROFILES)
class TestGeometry:
    def test_every_image_is_a_mean_that_lies_where_it_is_said_to(self, name):
        for windows in all_windows(name):
            further = windows.further
            for spread in (1, 2, 3):
                matrix = windows.matrix(spread)
                assert matrix.shape == (2 * further + 2 + windows.count, windows.depth(spread))
                assert (matrix >= 0).all()
                np.testing.assert_allclose(matrix.sum(1), 1)
                centres = matrix @ (np.arange(windows.depth(spread)) + 0.5)
                above = centres[further]  # the projection above the unknown slices
                np.testing.assert_allclose(centres - above, windows.positions(spread), atol=1e-6)

    def test_measured_images_are_those_of_the_acquisition(self, name):
        for windows in all_windows(name):
            acquisition, further = windows.acquisition, windows.further
            bound = acquisition.bound(2 * further + 2)
            measured, _ = parts(windows, windows.matrix())
            np.testing.assert_allclose(measured, bound.matrix[:, : windows.depth()])
            assert not bound.matrix[:, windows.depth() :].any()
            centres, _ = parts(windows, windows.positions())
            np.testing.assert_allclose(centres, bound.projection_centres - bound.projection_centres[further])

    def test_unknown_images_are_the_slices_between_two_centres(self, name):
        """Counted from the operator's own centres, without a word from the windows."""
        for windows in all_windows(name):
            acquisition, further = windows.acquisition, windows.further
            bound = acquisition.bound(2 * further + 2)
            above, below = bound.projection_centres[further : further + 2]
            slices = bound.slice_centres
            is_slice = np.isin(np.arange(bound.depth), np.flatnonzero(bound.matrix[further]))
            alone = is_slice & (np.count_nonzero(bound.matrix[further]) == 1)
            expected = (slices > above - 1e-9) & (slices < below - 1e-9) & ~alone
            _, unknown = parts(windows, windows.matrix())
            assert set(np.unique(unknown)) == {0.0, 1.0}
            np.testing.assert_array_equal(unknown.argmax(1), np.flatnonzero(expected))
            _, centres = parts(windows, windows.positions())
            np.testing.assert_allclose(centres, slices[expected] - above, atol=1e-9)
            np.testing.assert_allclose(centres, windows.inner)

    def test_wider_ones_keep_their_slices_apart(self, name):
        for windows in all_windows(name):
            acquisition, further = windows.acquisition, windows.further
            np.testing.assert_allclose(windows.positions(2), 2 * windows.positions())
            measured, unknown = parts(windows, windows.matrix(2))
            np.testing.assert_allclose(measured, acquisition.bound(4 * further + 3).matrix[::2, : windows.depth(2)])
            assert (np.count_nonzero(unknown, axis=1) <= 2).all()  # a slice, or the mean of two

    def test_subvolumes_cover_every_slice_between_the_outermost_centres_once(self, name):
        for windows in all_windows(name):
            acquisition = windows.acquisition
            count, bound = 5, acquisition.bound(5)
            times = np.zeros(bound.depth, int)
            for k in range(count - 1):
                times[k * bound.step + windows.first :][: windows.count] += 1
            if windows.exact:
                times[bound.matrix.any(0)] += 1  # those are the projections themselves
            centres, slices = bound.projection_centres, bound.slice_centres
            inside = (slices > centres[0] - 1e-9) & (slices < centres[-1] - 1e-9)
            inside |= windows.exact & (np.abs(slices - centres[-1]) < 1e-9)
            np.testing.assert_array_equal(times, inside)

    def test_shifts_put_all_that_a_projection_weighs_among_the_unknown_slices(self, name):
        for windows in all_windows(name):
            acquisition = windows.acquisition
            weighed = np.flatnonzero(acquisition.profile_weights)
            unknown = range(windows.first, windows.first + windows.count)
            possible = [
                shift
                for shift in range(-20, 20)
                if {int(shift + offset) for offset in weighed} <= {int(z) for z in unknown}
            ]
            assert list(windows.shifts) == possible
            assert possible


@pytest.mark.parametrize("n", range(2, 8))
def test_places_of_a_measured_image(n):
    """Sec. 2.3: n − 1 of them among sparse slices; blocks that lie side by side leave one."""
    for name, expected in {"point": n - 1, "last": n - 1, "uniform": 1, "gaussian": 1}.items():
        assert len(Windows(PROFILES[name](n)).shifts) == expected, name
    assert len(Windows(Acquisition(slices=n, stride=n + 2)).shifts) == 3


@pytest.mark.parametrize("n", range(2, 8))
@pytest.mark.parametrize("name", PROFILES)
def test_unknown_slices(name, n):
    windows = Windows(PROFILES[name](n))
    assert windows.exact == (name in EXACT)
    assert windows.count == (n - 1 if windows.exact else n)


def test_by_hand():
    assert Windows(Acquisition(slices=6, profile="point")).positions().tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert Windows(Acquisition(slices=4)).positions().tolist() == [0, 0.5, 1.5, 2.5, 3.5, 4]
    assert Windows(Acquisition(slices=3)).positions().tolist() == [0, 0, 1, 2, 3]  # an odd number: one lies on it
    assert Windows(Acquisition(slices=2), 1).positions(2).tolist() == [-4, 0, 1, 3, 4, 8]
    assert Windows(Acquisition(slices=2)).matrix().tolist() == [
        [0.5, 0.5, 0, 0],
        [0, 1, 0, 0],
        [0, 0, 1, 0],
        [0, 0, 0.5, 0.5],
    ]


# -- how they are drawn -----------------------------------------------------------------------

PLAIN = {"side": 12, "turning": 0.0, "hiding": 0.0, "blur": 0.0, "noise": 0.0}


def drawer(
    volumes: Any, acquisition: Acquisition | None = None, further: int = 1, seed: int = 0, **variety: Any
) -> Drawer:
    windows = Windows(acquisition or Acquisition(slices=4, profile="point"), further)
    return Drawer(volumes, windows, Variety(**PLAIN | variety), seed)


def ramp(axis: int, shape: tuple[int, int, int] = (30, 20, 24)) -> NDArray[np.float32]:
    """Each voxel's index along an axis, by a hundredth."""
    return (np.indices(shape)[axis] / 100).astype(np.float32)


def grain(shape: tuple[int, int, int] = (30, 20, 24), seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random(shape, np.float32)


def in_order(batch: Batch, further: int) -> NDArray[np.float64]:
    """All images of a batch on the volume's scale, (B, M + m, y, x)."""
    above, below = np.split(batch.known.numpy(), [further + 1], 1)
    return np.concatenate([above, batch.clean.numpy(), below], 1).astype(np.float64) / 2 + 0.5


def slopes(batch: Batch, axis: int) -> NDArray[np.float64]:
    """Of each subvolume: change per slice along z (axis 0, by its stated positions), or per pixel.

    Without the outer images, which are now and then those next to them once more.
    """
    images = in_order(batch, 1)[:, 1:-1]
    if axis:
        return np.diff(images, axis=axis + 1).mean((1, 2, 3))
    positions = batch.positions.numpy().astype(np.float64)[:, 1:-1]
    positions -= positions.mean(1, keepdims=True)
    return (positions[:, :, None, None] * images).sum(1).mean((1, 2)) / (positions**2).sum(1)


@pytest.mark.parametrize("further", range(3))
@pytest.mark.parametrize("name", PROFILES)
def test_images_of_a_batch(name, further):
    """Cut from a ramp, every image says where it lies: its gain and its direction are all that may differ."""
    windows = Windows(PROFILES[name](5), further)
    batch = drawer([ramp(0, (60, 16, 16))], windows.acquisition, further)(8)
    assert batch.known.shape == (8, 2 * further + 2, 12, 12)
    assert batch.clean.shape == (8, windows.count, 12, 12)
    assert batch.positions.shape == (8, 2 * further + 2 + windows.count)
    at = batch.positions - batch.positions[:, further : further + 1]
    np.testing.assert_allclose(at, np.broadcast_to(windows.positions(), at.shape), atol=1e-4)
    images = in_order(batch, further)[:, :, 0, 0]
    for one, positions in zip(images, batch.positions.numpy(), strict=True):
        inner = slice(further, further + windows.count + 2)  # further ones may be the outermost once more
        slope = (one[inner][-1] - one[inner][0]) / (positions[inner][-1] - positions[inner][0]) * 100
        assert 0.59 < abs(slope) < 1.61
        np.testing.assert_allclose(
            one[inner], one[inner][0] + slope * (positions - positions[further])[inner] / 100, atol=1e-5
        )


def test_positions_are_those_in_the_volume():
    batch = drawer([ramp(0)], Acquisition(slices=4))(200)
    upward = slopes(batch, 0) > 0  # not turned over: intensity over gain is the centre, less half a slice
    gains = slopes(batch, 0)[upward] * 100
    images = in_order(batch, 1)[upward, 1, 0, 0]
    np.testing.assert_allclose(images / gains * 100 + 0.5, batch.positions[upward, 1], atol=1e-3)
    assert batch.positions[:, 0].min() == 2  # the first projection's two upper slices lie above it
    assert batch.positions[:, -1].max() == 28
    assert len(batch.positions[:, 0].unique()) > 10


def test_every_subvolume_is_cut_from_its_volume():
    """With distinct voxels, each crop is found again as it stands, turned over, mirrored or transposed."""
    volume, found = grain((14, 12, 12)), set()
    batch = drawer([volume], Acquisition(slices=3, profile="point"), further=0, side=12)(40)
    matrix = Windows(Acquisition(slices=3, profile="point")).matrix()
    for images in in_order(batch, 0):
        for flips in product((1, -1), repeat=3):
            for swap in (False, True):
                turned = volume[:: flips[0], :: flips[1], :: flips[2]]
                turned = turned.swapaxes(1, 2) if swap else turned
                for corner in range(14 - 4 + 1):
                    crop = np.einsum("qz,zyx->qyx", matrix, turned[corner : corner + 4].astype(np.float64))
                    gain = (crop * images).sum() / (crop**2).sum()
                    if np.abs(gain * crop - images).max() < 1e-5:
                        found.add((flips, swap))
                        assert 0.6 <= gain <= 1.6
                        break
    assert len(found) > 10


def test_the_seed_fixes_the_draws():
    draws = [drawer([grain()], seed=seed, turning=0.5, hiding=0.5, blur=1.0, noise=0.1) for seed in (3, 3, 4)]
    for _ in range(3):
        one, same, other = (cut(3) for cut in draws)
        for name in ("known", "clean", "positions", "spread"):
            np.testing.assert_array_equal(getattr(one, name), getattr(same, name))
        assert one.clean.shape != other.clean.shape or (one.clean != other.clean).any()


@pytest.mark.parametrize(("turning", "axes"), [(0.0, {0}), (1.0, {1, 2}), (0.5, {0, 1, 2})])
def test_depth_may_be_a_lateral_axis(turning, axes):
    seen = set()
    for axis in range(3):
        batch = drawer([ramp(axis)], turning=turning)(40)
        if (np.abs(slopes(batch, 0)) > 5e-3).any():
            seen.add(axis)
    assert seen == axes


def test_flips():
    for axis in range(3):
        signs = np.sign(slopes(drawer([ramp(axis)])(60), axis))
        assert {-1, 1} <= set(signs)
        tilted = signs[signs != 0]  # lateral ramps may be transposed too
        assert 0.25 < (tilted > 0).mean() < 0.75


def test_an_axis_too_short_is_not_made_the_depth():
    batch = drawer([ramp(0, (30, 10, 11))], turning=1.0)(20)  # 13 slices are needed
    assert batch.clean.shape == (20, 3, 10, 10)
    assert (np.abs(slopes(batch, 0)) > 5e-3).all()


def test_small_volumes_give_small_crops():
    batch = drawer([grain((30, 40, 40)), grain((30, 9, 40))], side=32)(30)
    assert batch.clean.shape[2:] == (9, 9)


def depths(batch: Batch) -> NDArray[np.float32]:
    """From the first image's centre to the last one's, in slices, (B,)."""
    return np.ptp(batch.positions.numpy(), axis=1)


def test_gaps_twice_as_wide():
    batch = drawer([ramp(0)], hiding=1.0)(20)  # 25 slices of 30
    np.testing.assert_allclose(np.diff(batch.positions[0]), [8, 2, 2, 2, 2, 8])
    assert (np.abs(slopes(batch, 0)) > 5e-3).all()
    shares = [(depths(drawer([ramp(0)], hiding=hiding)(60)) == 24).mean() for hiding in (0.0, 0.5)]
    assert shares[0] == 0
    assert 0.3 < shares[1] < 0.7
    shallow = drawer([ramp(0, (24, 20, 20))], hiding=1.0)(10)
    assert (depths(shallow) == 12).all()


def test_noise_comes_to_measured_images_alone():
    flat = np.full((30, 20, 24), 0.5, np.float32)
    batch = drawer([flat], noise=0.2)(200)
    rough = batch.known.std((2, 3)) / 2
    assert batch.clean.std((2, 3)).max() < 1e-6
    noisy = (rough > 1e-6).all(1)
    np.testing.assert_array_equal(noisy, (rough > 1e-6).any(1))
    assert 0.35 < noisy.float().mean() < 0.65
    assert 0.05 < rough[noisy].mean() < 0.15
    assert rough.max() < 0.25
    upper, lower = (batch.known[noisy][:, i] - batch.known[noisy][:, i].mean((1, 2), keepdim=True) for i in (1, 2))
    assert abs((upper * lower).mean()) < 0.05 * (upper * upper).mean()  # not the same on both


def test_blur_along_z():
    stripes = np.zeros((32, 20, 24), np.float32)
    stripes[::2] = 1
    plain, blurred = (drawer([stripes], blur=blur)(100) for blur in (0.0, 3.0))
    assert np.ptp(plain.clean.numpy(), axis=1).min() > 1.1
    assert 0.3 < (np.ptp(blurred.clean.numpy(), axis=1).max((1, 2)) < 1.1).mean() < 0.6
    across = drawer([np.zeros_like(stripes) + np.arange(24, dtype=np.float32) % 2], blur=3.0)(50)
    assert np.ptp(across.clean.numpy(), axis=(2, 3)).min() > 1.1  # and along z alone


def test_at_a_stacks_end_the_outermost_image_stands_for_further_ones():
    batch = drawer([grain((40, 12, 12))], further=2)(400)
    for outer, end in (((0, 1), 2), ((4, 5), 3)):
        same = [(batch.known[:, i] == batch.known[:, end]).all((1, 2)).float().mean() for i in outer]
        assert same[0] == same[1]
        assert 0.05 < same[0] < 0.16


def test_volumes_weigh_alike():
    """Spread is the error of linear interpolation, on the diffusion's scale."""
    batch = drawer([grain(), 0.1 * grain(seed=1)], Acquisition(slices=4, profile="point"), further=0)(200)
    between = torch.tensor([0.25, 0.5, 0.75])[:, None, None]
    linear = batch.known[:, :1] * (1 - between) + batch.known[:, 1:] * between
    share = (linear - batch.clean).square().mean((1, 2, 3)).sqrt() / batch.spread
    dim = batch.clean.mean((1, 2, 3)) < -0.7
    assert 60 < dim.sum() < 140
    for some in (dim, ~dim):
        assert 0.85 < share[some].mean() < 1.15


def test_a_volume_that_does_not_change_along_z_outweighs_no_other():
    volumes = [grain(), np.repeat(grain()[:1], len(grain()), 0)]
    spread = drawer(volumes, Acquisition(slices=4, profile="point"), further=0)(100).spread
    assert spread.max() < 30 * spread.min()  # of one volume they differ by the gain alone, 0.6 to 1.6
