"""A stack's volume while it is filled in: what is known, what is told, what self-alignment takes from it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.methods._filling import Filling
from napari_microdiffusion.methods._windows import Batch, Windows
from napari_microdiffusion.volume import ProjectionStack

SIZE = (11, 13)
ACQUISITIONS = {
    "point": Acquisition(slices=6, profile="point", count=6),
    "uniform": Acquisition(slices=6, count=6),
    "uniform, odd": Acquisition(slices=5, count=6),
    "gaussian": Acquisition(slices=5, profile="gaussian", count=6),
    "slanted": Acquisition(slices=4, profile="measured", weights=(4, 3, 2, 1), count=6),
    "last": Acquisition(slices=3, profile="measured", weights=(0, 0, 1), count=6),
    "late": Acquisition(slices=4, profile="measured", weights=(0, 0, 1, 1), count=6),
    "gaps": Acquisition(slices=3, stride=5, count=6),
    "gaps between points": Acquisition(slices=3, stride=7, profile="point", count=6),
    "pairs": Acquisition(slices=2, profile="point", count=6),
}
EVERY = pytest.mark.parametrize("acquisition", ACQUISITIONS.values(), ids=ACQUISITIONS)
HIDDEN = [(), (2,), (2, 3), (0,), (5,), (0, 1, 3, 5)]
WHOLE = slice(None), slice(None)


def volume(acquisition: Acquisition, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random((acquisition.depth, *SIZE), np.float32)


def linear(acquisition: Acquisition) -> NDArray[np.float32]:
    """A volume that changes along z at the same rate throughout, another in every pixel."""
    start, rate = np.random.default_rng(3).random((2, *SIZE))
    return (start + 0.1 * rate * np.arange(acquisition.depth)[:, None, None]).astype(np.float32)


def filling(truth: NDArray[np.float32], acquisition: Acquisition, further: int = 1, hidden: Any = ()) -> Filling:
    stack = ProjectionStack(acquisition.project(truth), acquisition)
    stack = stack.without(hidden) if hidden else stack
    return Filling(stack, Windows(stack.acquisition, further))


def true_slices(filled: Filling, truth: NDArray[np.float32], index: int, spread: int = 1) -> NDArray[np.float32]:
    """The images (m, y, x) between two measured ones, from the truth."""
    windows = Windows(filled.windows.acquisition)
    crop = truth[index * windows.acquisition.step :][: windows.depth(spread)]
    missing = windows.depth(spread) - len(crop)
    crop = np.pad(crop, [(0, missing), (0, 0), (0, 0)], mode="edge")
    images: NDArray[np.float32] = np.einsum("qz,zyx->qyx", windows.matrix(spread)[1:-1], crop).astype(np.float32)
    return images


def between_centres(acquisition: Acquisition) -> NDArray[np.bool_]:
    """(Z,), from the first centre in use to the last, and what shows a slice by itself."""
    centres, slices = acquisition.projection_centres, acquisition.slice_centres
    alone = acquisition.matrix.max(0) > 1 - 1e-9
    inside: NDArray[np.bool_] = (slices > centres[0] - 1e-9) & (slices < centres[-1] - 1e-9) | alone
    return inside


def filled_with(truth: NDArray[np.float32], one: Filling) -> NDArray[np.float32]:
    for index in one.subvolumes:
        one.fill(index, true_slices(one, truth, index))
    return one.data


# -- the volume -------------------------------------------------------------------------------


@EVERY
def test_the_true_slices_give_the_truth_between_the_outermost_centres(acquisition):
    truth = volume(acquisition)
    data = filled_with(truth, filling(truth, acquisition))
    assert data.shape == truth.shape
    assert data.dtype == np.float32
    inside = between_centres(acquisition)
    assert inside.sum() >= 5 * acquisition.step
    np.testing.assert_allclose(data[inside], truth[inside], atol=1e-6)


@EVERY
def test_beyond_the_outermost_centres_they_are_held(acquisition):
    truth = volume(acquisition)
    one = filling(truth, acquisition)
    projections = acquisition.project(truth)
    for _ in range(2):
        above = acquisition.slice_centres < acquisition.projection_centres[0] - 1e-9
        below = acquisition.slice_centres > acquisition.projection_centres[-1] - 1e-9
        np.testing.assert_allclose(one.data[above], projections[:1].repeat(above.sum(), 0), atol=1e-6)
        np.testing.assert_allclose(one.data[below], projections[-1:].repeat(below.sum(), 0), atol=1e-6)
        filled_with(truth, one)


@EVERY
@pytest.mark.parametrize("hidden", HIDDEN)
def test_a_stack_with_hidden_projections(acquisition, hidden):
    truth = volume(acquisition)
    one = filling(truth, acquisition, hidden=hidden)
    shown = [k for k in range(6) if k not in hidden]
    assert list(one.subvolumes) == list(range(shown[0], shown[-1]))
    assert one.gaps == [(a, b) for a, b in pairwise(shown) if b - a > 1]
    assert one.enclosed_ones == [k for k in range(1, 5) if {k - 1, k, k + 1} <= set(shown)]
    for k in shown:
        np.testing.assert_array_equal(one.measured(k), acquisition.project(truth)[k])
    for gap in one.gaps:
        one.tell(gap, true_slices(one, truth, gap[0], gap[1] - gap[0]))
    data = filled_with(truth, one)
    windows, bound = one.windows, one.windows.acquisition
    known = between_centres(bound)
    if windows.exact:  # there hidden ones are told, and not inferred
        known[[k * bound.step + windows.first - 1 for k in hidden]] = False
    np.testing.assert_allclose(data[known], truth[known], atol=1e-6)


def test_known_slices_are_kept_whatever_is_inferred():
    for name in ("point", "last", "gaps between points", "pairs"):
        acquisition = ACQUISITIONS[name]
        truth = volume(acquisition)
        one = filling(truth, acquisition)
        for index in one.subvolumes:
            start = one.fill(index, np.full((one.windows.count, *SIZE), 7, np.float32))
            assert (one.data[start : start + one.windows.count] == 7).all()
        known = acquisition.matrix.any(0)
        np.testing.assert_array_equal(one.data[known], truth[known])
        assert (one.data == 7).all((1, 2)).sum() == 5 * one.windows.count


@EVERY
def test_it_starts_from_the_conservative_interpolation(acquisition):
    truth = volume(acquisition)
    inside = between_centres(acquisition)
    expected = np.einsum("zk,kyx->zyx", acquisition.smoothest(), acquisition.project(truth).astype(np.float64))
    np.testing.assert_allclose(filling(truth, acquisition).data[inside], expected[inside], atol=1e-5)


# -- what is known of a subvolume -------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("further", range(3))
def test_known_images_and_their_positions(acquisition, further):
    one = filling(volume(acquisition), acquisition, further)
    projections, centres = acquisition.project(volume(acquisition)), acquisition.projection_centres
    for index in range(5):
        images, positions = one.known(index)
        chosen = np.clip(np.arange(index - further, index + further + 2), 0, 5)
        np.testing.assert_array_equal(images, projections[chosen])
        np.testing.assert_allclose(positions[[further, -further - 1]], centres[index : index + 2])
        unknown = positions[further + 1 : further + 1 + one.windows.count]
        start = one.fill(index, np.zeros((one.windows.count, *SIZE), np.float32))
        np.testing.assert_allclose(unknown, acquisition.slice_centres[start : start + len(unknown)])


def test_wider_ones_show_the_nearest_images_in_use():
    acquisition = Acquisition(slices=4, count=12)
    truth = volume(acquisition)
    one = filling(truth, acquisition, further=1, hidden=(5, 6, 9))
    projections = acquisition.project(truth)
    images, positions = one.known(4, 3)  # from 4 to 7: further ones would be 1 and 10
    np.testing.assert_array_equal(images, projections[[1, 4, 7, 10]])
    np.testing.assert_allclose(positions[[0, 1, -2, -1]], acquisition.projection_centres[[1, 4, 7, 10]])
    images, _ = one.known(8, 2)  # from 8 to 10: 6 is hidden, 12 is not there
    np.testing.assert_array_equal(images, projections[[7, 8, 10, 11]])


# -- what slices say of a projection ----------------------------------------------------------


@EVERY
@pytest.mark.parametrize("hidden", [(2,), (2, 3), (1, 2, 3)])
def test_hidden_projections_are_told_exactly_where_all_is_linear(acquisition, hidden):
    truth = linear(acquisition)
    one = filling(truth, acquisition, hidden=hidden)
    (gap,) = one.gaps
    slices = true_slices(one, truth, gap[0], gap[1] - gap[0])
    one.tell(gap, slices)
    for k in hidden:
        np.testing.assert_allclose(one.measured(k), acquisition.project(truth)[k], atol=1e-5)


@EVERY
def test_what_neighbours_say_of_a_projection(acquisition):
    truth = linear(acquisition)
    one = filling(truth, acquisition)
    for k in range(1, 5):
        told = one.between(k, true_slices(one, truth, k - 1, 2))
        np.testing.assert_allclose(told, acquisition.project(truth)[k], atol=1e-5)


@pytest.mark.parametrize("n", [2, 4, 6])
def test_a_known_slice_is_told_by_the_one_in_its_place(n):
    acquisition = Acquisition(slices=n, profile="point", count=5)
    truth = volume(acquisition)
    one = filling(truth, acquisition)
    np.testing.assert_allclose(one.between(2, true_slices(one, truth, 1, 2)), truth[2 * n], atol=1e-6)


# -- what self-alignment learns from ----------------------------------------------------------


def weighed(batch: Batch, seen: Any) -> NDArray[np.float32]:
    """What the slices of an example show of a projection, (y, x) on the stack's scale."""
    assert seen.shape == (1, batch.clean.shape[1])
    assert float(seen.sum()) == pytest.approx(1)
    shown: NDArray[np.float32] = ((seen[:, :, None, None] * batch.clean).sum(1)[0] / 2 + 0.5).numpy()
    return shown


@EVERY
def test_placed_slices_reproduce_their_projection(acquisition):
    truth = volume(acquisition)
    one = filling(truth, acquisition)
    assert one.windows.shifts
    for k in one.enclosed_ones:
        for shift in one.windows.shifts:
            batch, seen = one.placed(k, shift, WHOLE)
            np.testing.assert_allclose(weighed(batch, seen), acquisition.project(truth)[k], atol=1e-5)


@EVERY
def test_placed_images_are_those_of_the_volume(acquisition):
    """Filled with the truth, every pseudo-subvolume is one that the truth could have given."""
    truth = volume(acquisition)
    one = filling(truth, acquisition)
    filled_with(truth, one)
    windows, edge = one.windows, between_centres(acquisition)
    for k in (2, 3):
        for shift in windows.shifts:
            batch, _ = one.placed(k, shift, WHOLE)
            top = k * acquisition.step - shift - windows.acquisition.step  # of the further image above
            rows = np.zeros((batch.positions.shape[1], acquisition.depth))
            for row, source in zip(rows, windows.matrix(), strict=True):
                spot = np.flatnonzero(source)
                row[np.clip(top + spot, 0, acquisition.depth - 1)] = source[spot]
            expected = np.einsum("qz,zyx->qyx", rows, truth)
            inside = ~rows[:, ~edge].any(1) & (rows.sum(1) > 1 - 1e-6)
            known, clean = batch.known[0].numpy() / 2 + 0.5, batch.clean[0].numpy() / 2 + 0.5
            images = np.concatenate([known[:2], clean, known[2:]])
            assert inside[1:-1].all()
            np.testing.assert_allclose(images[inside], expected[inside], atol=1e-5)
            at = rows @ acquisition.slice_centres
            np.testing.assert_allclose(batch.positions[0][inside], at[inside], atol=1e-5)


def test_a_known_slice_takes_every_place():
    one = filling(volume(ACQUISITIONS["point"]), ACQUISITIONS["point"])
    places = [int(one.placed(2, shift, WHOLE)[1].argmax()) for shift in one.windows.shifts]
    assert sorted(places) == [0, 1, 2, 3, 4]


@EVERY
def test_enclosed_slices_reproduce_their_projection(acquisition):
    truth = volume(acquisition)
    one = filling(truth, acquisition)
    for k in one.enclosed_ones:
        slices = volume(acquisition, seed=k + 1)[: one.windows.count]
        batch, seen = one.enclosed(k, slices, WHOLE)
        np.testing.assert_allclose(weighed(batch, seen), acquisition.project(truth)[k], atol=1e-5)
        told = np.einsum("m,myx->yx", seen[0].numpy(), slices)
        np.testing.assert_allclose(told, one.between(k, slices), atol=1e-5)  # neighbours have no part in it
        away = [i for i in range(one.windows.count) if seen[0, i] == 0]
        np.testing.assert_allclose(batch.clean[0, away] / 2 + 0.5, slices[away], atol=1e-6)


@EVERY
@pytest.mark.parametrize(("further", "hidden"), [(0, ()), (1, (0,)), (2, (5,))])
def test_what_is_known_of_an_enclosed_projection_holds_nothing_of_itself(acquisition, further, hidden):
    truth = volume(acquisition)
    stack = ProjectionStack(acquisition.project(truth), acquisition)
    stack = stack.without(hidden) if hidden else stack
    windows = Windows(stack.acquisition, further)
    whole = Filling(stack, windows)
    slices = np.zeros((windows.count, *SIZE), np.float32)
    assert whole.enclosed_ones
    for k in whole.enclosed_ones:
        images = stack.data.copy()
        images[whole.shown.index(k)] = np.random.default_rng(1).random(SIZE) * 1000
        scrambled = Filling(ProjectionStack(images, stack.acquisition), windows)
        (one, _), (other, _) = (filled.enclosed(k, slices, WHOLE) for filled in (whole, scrambled))
        np.testing.assert_array_equal(one.known, other.known)
        np.testing.assert_array_equal(one.positions, other.positions)
        assert (one.clean - other.clean).abs().max() > 100  # it is what is to be learned
        np.testing.assert_array_equal(whole.known(k - 1, 2)[0], scrambled.known(k - 1, 2)[0])
        np.testing.assert_array_equal(whole.between(k, slices), scrambled.between(k, slices))


def test_crops():
    """In quarters of whole numbers, whose sums are exact in any order: processors add up in different ones."""
    acquisition, crop = Acquisition(slices=4, count=6), (slice(3, 9), slice(2, 12))
    truth, other = ((256 * volume(acquisition, seed)).round() for seed in (0, 1))
    one = filling(truth, acquisition)
    filled_with(truth, one)
    slices = other[: one.windows.count]
    for whole, part in (
        (one.placed(2, 2, WHOLE), one.placed(2, 2, crop)),
        (one.enclosed(2, slices, WHOLE), one.enclosed(2, slices, crop)),
    ):
        for name in ("known", "clean"):
            np.testing.assert_array_equal(getattr(whole[0], name)[:, :, 3:9, 2:12], getattr(part[0], name))
        np.testing.assert_array_equal(whole[0].positions, part[0].positions)
        np.testing.assert_array_equal(whole[1], part[1])
