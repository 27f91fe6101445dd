from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.linalg import null_space

from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.events import InvalidInput
from napari_microdiffusion.numerics import smoothest_change
from napari_microdiffusion.ridge import ridge_of

PROFILES: dict[str, dict[str, Any]] = {
    "uniform": {"profile": "uniform"},
    "gaussian": {"profile": "gaussian"},
    "narrow gaussian": {"profile": "gaussian", "fwhm": 2.5},
    "point": {"profile": "point"},
    "measured": {"profile": "measured", "weights": (0.5, 2.0, 4.0, 3.0, 1.0, 0.0)},
}
STRIDES = (4, 6, 9)  # overlapping, contiguous, with gaps


@pytest.fixture(params=PROFILES)
def profile(request: pytest.FixtureRequest) -> dict[str, Any]:
    return PROFILES[request.param]


@pytest.fixture(params=STRIDES)
def acquisition(request: pytest.FixtureRequest, profile: dict[str, Any]) -> Acquisition:
    return Acquisition(slices=6, stride=request.param, count=5, **profile)


@pytest.fixture
def pair(acquisition: Acquisition) -> tuple[np.ndarray, np.ndarray]:
    """A random volume (Z, 4, 3) and random projections (K, 4, 3)."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((acquisition.depth, 4, 3)), rng.standard_normal((5, 4, 3))


def test_backproject_is_the_adjoint_of_project(acquisition, pair):
    volume, projections = pair
    assert np.vdot(acquisition.project(volume), projections) == pytest.approx(
        np.vdot(volume, acquisition.backproject(projections)), rel=1e-12
    )


def test_rows_sum_to_one_and_constants_are_preserved(acquisition):
    np.testing.assert_allclose(acquisition.matrix.sum(1), 1, rtol=1e-12)
    np.testing.assert_allclose(acquisition.project(np.full((acquisition.depth, 2), 7.5)), 7.5, rtol=1e-12)


def test_project_is_the_weighted_mean_of_consecutive_slices(acquisition, pair):
    volume, _ = pair
    for k, projection in enumerate(acquisition.project(volume)):
        start = k * acquisition.step
        expected = np.average(volume[start : start + 6], axis=0, weights=acquisition.profile_weights)
        np.testing.assert_allclose(projection, expected, rtol=1e-12, atol=1e-14)


def test_enforce_is_exact(acquisition, pair):
    volume, projections = pair
    consistent = acquisition.enforce(volume, projections)
    np.testing.assert_allclose(acquisition.project(consistent), projections, atol=1e-10)
    np.testing.assert_allclose(acquisition.residual(consistent, projections), 0, atol=1e-10)


def test_enforce_moves_no_further_than_it_must(acquisition, pair):
    volume, projections = pair
    moved = (acquisition.enforce(volume, projections) - volume).reshape(len(volume), -1)
    np.testing.assert_allclose(null_space(acquisition.matrix).T @ moved, 0, atol=1e-10)


def test_enforce_leaves_a_consistent_volume_alone(acquisition, pair):
    volume, _ = pair
    np.testing.assert_allclose(acquisition.enforce(volume, acquisition.project(volume)), volume, atol=1e-12)


def test_the_smoothest_change_is_exact_and_bends_least(acquisition, pair):
    volume, projections = pair
    smooth = acquisition.enforce(volume, projections, smooth=True)
    np.testing.assert_allclose(acquisition.project(smooth), projections, atol=1e-8)
    least = acquisition.enforce(volume, projections)

    def roughness(result: np.ndarray) -> float:
        return float((np.diff(result - volume, axis=0) ** 2).sum())

    assert roughness(smooth) <= roughness(least) + 1e-9
    difference = np.diff(np.eye(acquisition.depth), axis=0)
    slope = difference.T @ difference @ (smooth - volume).reshape(acquisition.depth, -1)
    np.testing.assert_allclose(null_space(acquisition.matrix).T @ slope, 0, atol=1e-8)  # no exact change bends less


def test_uniform_contiguous_consistency_shifts_each_block_by_its_residual():
    acquisition = Acquisition(slices=4, count=3)
    rng = np.random.default_rng(1)
    volume, projections = rng.standard_normal((12, 5)), rng.standard_normal((3, 5))
    shift = np.repeat(projections - volume.reshape(3, 4, 5).mean(1), 4, axis=0)
    np.testing.assert_allclose(acquisition.enforce(volume, projections), volume + shift, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tensors_and_arrays_agree(acquisition, pair, dtype):
    volume, projections = (torch.from_numpy(a).to(dtype) for a in pair)
    atol = 1e-5 if dtype is torch.float32 else 1e-12
    for name, arguments in {
        "project": (volume,),
        "backproject": (projections,),
        "residual": (volume, projections),
        "enforce": (volume, projections),
    }.items():
        result = getattr(acquisition, name)(*arguments)
        assert result.dtype is dtype
        expected = getattr(acquisition, name)(*(a.numpy() for a in arguments))
        np.testing.assert_allclose(result.numpy(), expected, atol=atol)


def test_gradient_of_project_is_backproject(acquisition, pair):
    volume, projections = (torch.from_numpy(a) for a in pair)
    volume.requires_grad_()
    (acquisition.project(volume) * projections).sum().backward()
    np.testing.assert_allclose(volume.grad.numpy(), acquisition.backproject(projections).numpy(), atol=1e-12)


def test_integers_become_float32():
    projected = Acquisition(slices=3, count=2).project(np.arange(6, dtype=np.int32).reshape(6, 1, 1))
    assert projected.dtype == np.float32
    np.testing.assert_allclose(projected.ravel(), [1, 4])


# -- geometry -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "depth", "centres"),
    [
        ({"slices": 6}, 18, [3, 9, 15]),
        ({"slices": 5}, 15, [2.5, 7.5, 12.5]),
        ({"slices": 6, "stride": 4}, 14, [3, 7, 11]),
        ({"slices": 6, "stride": 10}, 26, [3, 13, 23]),
        ({"slices": 6, "profile": "gaussian", "fwhm": 3}, 18, [3, 9, 15]),
        ({"slices": 6, "profile": "point"}, 18, [0.5, 6.5, 12.5]),
        ({"slices": 1}, 3, [0.5, 1.5, 2.5]),
        ({"slices": 2, "profile": "measured", "weights": (3, 1)}, 6, [0.75, 2.75, 4.75]),
    ],
)
def test_centres(settings, depth, centres):
    acquisition = Acquisition(count=3, **settings)
    assert acquisition.depth == depth
    np.testing.assert_allclose(acquisition.projection_centres, centres)
    np.testing.assert_allclose(acquisition.slice_centres, np.arange(depth) + 0.5)


def test_gaussian_profile_has_the_stated_width():
    weights = Acquisition(slices=7, profile="gaussian", fwhm=4).profile_weights
    assert weights[[1, 5]] == pytest.approx(weights[3] / 2)  # 2 slices from the middle: half the maximum


@pytest.mark.parametrize("slices", [5, 6])
def test_a_very_narrow_gaussian_is_still_a_profile(slices):
    weights = Acquisition(slices=slices, profile="gaussian", fwhm=0.1).profile_weights
    expected = [0, 0, 1, 0, 0] if slices == 5 else [0, 0, 0.5, 0.5, 0, 0]
    np.testing.assert_allclose(weights, expected, atol=1e-12)


def test_measured_weights_are_scaled_to_one():
    acquisition = Acquisition(slices=3, profile="measured", weights=(1, 2, 1))
    np.testing.assert_allclose(acquisition.profile_weights, [0.25, 0.5, 0.25])


def test_gaps_and_points_leave_slices_unseen():
    assert np.flatnonzero(~Acquisition(slices=2, stride=3, count=3).seen).tolist() == [2, 5]
    assert np.flatnonzero(Acquisition(slices=3, profile="point", count=3).seen).tolist() == [0, 3, 6]


@pytest.mark.parametrize(("depth", "stride", "count"), [(36, 6, 6), (41, 6, 6), (36, 4, 8), (36, 9, 4), (36, 15, 3)])
def test_fitted_takes_the_projections_that_fill_a_depth(depth, stride, count):
    fitted = Acquisition(slices=6, stride=stride).fitted(depth)
    assert fitted.count == count
    assert depth - stride < fitted.depth <= depth


@pytest.mark.parametrize("depth", [0, 5, 6, 17])
def test_too_shallow_a_volume_is_refused(depth):
    with pytest.raises(InvalidInput, match="at least 3 are needed"):
        Acquisition(slices=6).fitted(depth)


# -- hidden projections ---------------------------------------------------------------------


def test_hiding_projections_keeps_the_volume(acquisition, pair):
    volume, projections = pair
    kept = acquisition.without((1, 3))
    assert kept.depth == acquisition.depth
    np.testing.assert_array_equal(kept.matrix, acquisition.matrix[[0, 2, 4]])
    np.testing.assert_array_equal(kept.projection_centres, acquisition.projection_centres[[0, 2, 4]])
    consistent = kept.enforce(volume, projections[[0, 2, 4]])
    np.testing.assert_allclose(kept.project(consistent), projections[[0, 2, 4]], atol=1e-10)


def test_indices_count_among_the_projections_in_use():
    acquisition = Acquisition(slices=2, count=6)
    assert acquisition.without((1,)).without((1, 2)).hidden == (1, 2, 3)
    assert acquisition.without((1,)).without((1, 2)).shown == (0, 4, 5)
    assert acquisition.without((1,)).bound(4).hidden == ()


@pytest.mark.parametrize("indices", [(6,), (-1,), (0, 1, 2, 3, 4, 5)])
def test_hiding_what_is_not_there_or_everything_is_refused(indices):
    with pytest.raises(InvalidInput, match="from 0 to 5"):
        Acquisition(slices=2, count=6).without(indices)


# -- solved once ----------------------------------------------------------------------------


@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_the_smoothest_change_minimises_first_differences(acquisition, ridge):
    """The KKT system with D written out."""
    difference = np.diff(np.eye(acquisition.depth), axis=0)
    a = acquisition.matrix
    system = np.block([[difference.T @ difference, a.T], [a, -ridge * np.eye(5)]])
    expected = np.linalg.solve(system, np.eye(len(system))[:, acquisition.depth :])[: acquisition.depth]
    np.testing.assert_allclose(smoothest_change(a, ridge), expected, atol=1e-9)


def test_acquisitions_are_equal_by_their_fields(acquisition):
    again = Acquisition.model_validate_json(acquisition.model_dump_json())
    assert acquisition.matrix is not again.matrix  # both hold arrays by now
    assert acquisition == again
    assert hash(acquisition) == hash(again)
    assert acquisition != acquisition.replace(count=6)
    assert acquisition != "acquisition"


def test_changes_are_solved_once_for_equal_acquisitions_and_cannot_be_spoilt(acquisition):
    again = acquisition.replace()
    for solve in (Acquisition.smoothest, Acquisition.correction):
        assert solve(again, 0.25) is solve(acquisition, 0.25)
        assert solve(acquisition, 0.5) is not solve(acquisition, 0.25)
        assert solve(acquisition.without((2,)), 0.25).shape == (acquisition.depth, 4)
        with pytest.raises(ValueError, match="read-only"):
            solve(acquisition, 0.25)[0, 0] = 1


# -- the ridge ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "slices"),
    [
        ({}, 6.0),
        ({"profile": "point"}, 1.0),
        ({"profile": "gaussian", "fwhm": 1000.0}, 6.0),
        ({"profile": "measured", "weights": (1.0, 0.0, 0.0, 0.0, 0.0, 1.0)}, 2.0),
        ({"profile": "measured", "weights": (1.0, 2.0, 1.0, 0.0, 0.0, 0.0)}, 16 / 6),
    ],
)
def test_effective_slices_tell_how_much_a_projection_averages_noise(settings, slices):
    acquisition = Acquisition(slices=6, count=4, **settings)
    assert acquisition.effective_slices == pytest.approx(slices, rel=1e-4)
    noise = np.random.default_rng(0).standard_normal((acquisition.depth, 100, 100))
    assert 1 / acquisition.project(noise).var() == pytest.approx(slices, rel=0.05)


# -- the model ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"slices": 0}, "greater than or equal to 1"),
        ({"stride": 0}, "greater than or equal to 1"),
        ({"slices": 2.5}, "integer"),
        ({"profile": "airy"}, "'uniform', 'gaussian', 'point' or 'measured'"),
        ({"profile": "gaussian", "fwhm": 0}, "greater than or equal to 0.1"),
        ({"fwhm": 3}, "gaussian profile alone"),
        ({"profile": "measured"}, "needs its weights"),
        ({"slices": 2, "weights": (1, 1)}, "only that profile takes weights"),
        ({"slices": 3, "profile": "measured", "weights": (1, 1)}, "2 weights but slices is 3"),
        ({"slices": 2, "profile": "measured", "weights": (1, -1)}, "not negative"),
        ({"slices": 2, "profile": "measured", "weights": (0, 0)}, "not all zero"),
        ({"slices": 2, "profile": "measured", "weights": (1, float("nan"))}, "finite"),
        ({"hidden": (0,)}, "distinct indices"),
        ({"count": 3, "hidden": (3,)}, "distinct indices"),
        ({"count": 3, "hidden": (1, 1)}, "distinct indices"),
        ({"count": 3, "hidden": (0, 1, 2)}, "leave some"),
        ({"width": 3}, "width"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        Acquisition(**settings)


def test_an_unbound_acquisition_has_no_operator():
    with pytest.raises(ValueError, match="not bound"):
        _ = Acquisition(slices=6).depth


def test_json_round_trip(acquisition):
    hidden = acquisition.without((2,))
    assert hidden.matrix.shape == (4, hidden.depth)  # what is cached is not part of the value
    assert Acquisition.model_validate_json(hidden.model_dump_json()) == hidden


@pytest.mark.parametrize(
    ("acquisition", "text"),
    [
        (Acquisition(), "6 slices, stride 6, uniform profile"),
        (
            Acquisition(slices=8, stride=4, profile="gaussian"),
            "8 slices, stride 4, gaussian profile, FWHM 8 slices",
        ),
    ],
)
def test_description(acquisition, text):
    assert acquisition.description == text


@pytest.mark.parametrize(
    ("acquisition", "unseen"),
    [
        (Acquisition(slices=6, count=4), (0, 0)),
        (Acquisition(slices=6, stride=4, count=4), (0, 0)),
        (Acquisition(slices=6, stride=9, count=4), (9, 0)),
        (Acquisition(slices=6, count=4).without((1,)), (6, 0)),
        (Acquisition(slices=6, count=4).without((0, 3)), (0, 12)),
        (Acquisition(slices=6, profile="point", count=4), (15, 5)),
        (Acquisition(slices=1, count=4), (0, 0)),
    ],
)
def test_slices_that_no_projection_has_seen(acquisition, unseen):
    assert acquisition.unseen == unseen
    assert sum(unseen) == (~acquisition.seen).sum()


SECOND = {"slices": 4, "profile": "measured", "weights": (0, 1, 0, 0)}


@pytest.mark.parametrize(
    ("acquisition", "fixed"),
    [
        (Acquisition(slices=4, profile="point", count=3), [0, 4, 8]),
        (Acquisition(slices=4, profile="point", count=3).without((1,)), [0, 8]),
        (Acquisition(slices=1, stride=4, count=3), [0, 4, 8]),
        (Acquisition(slices=1, count=3), [0, 1, 2]),
        (Acquisition(slices=5, stride=4, profile="gaussian", fwhm=0.1, count=3), [2, 6, 10]),
        (Acquisition(**SECOND, count=3), [1, 5, 9]),
        (Acquisition(slices=4, count=3), []),
        (Acquisition(slices=4, profile="gaussian", count=3), []),
    ],
)
def test_slices_that_a_projection_shows_by_themselves(acquisition, fixed):
    assert np.flatnonzero(acquisition.fixed).tolist() == fixed
    assert acquisition.single == bool(fixed)


@pytest.mark.parametrize(
    ("acquisition", "decoupled"),
    [
        (Acquisition(slices=6), True),
        (Acquisition(slices=6, stride=5), False),
        (Acquisition(slices=6, stride=3, profile="point"), True),
        (Acquisition(slices=6, stride=3, profile="measured", weights=(0, 1, 2, 1, 0, 0)), True),
        (Acquisition(slices=6, stride=3, profile="measured", weights=(0, 1, 2, 1, 1e-3, 0)), False),
        (Acquisition(slices=6, stride=3, profile="gaussian"), False),
    ],
)
def test_projections_that_share_no_slice_are_decoupled(acquisition, decoupled):
    assert acquisition.decoupled == decoupled
    bound = acquisition.bound(4)
    assert (np.count_nonzero(bound.matrix, axis=0) <= 1).all() == decoupled
    stack = np.random.default_rng(0).random((4, 8, 8))
    assert (ridge_of(bound, stack) == 0) == decoupled


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ({}, {"stride": 6, "count": 9, "hidden": (2,)}, True),
        ({"profile": "gaussian"}, {"profile": "gaussian", "fwhm": 6.0}, True),
        ({"profile": "point"}, {"profile": "measured", "weights": (2.0, 0, 0, 0, 0, 0)}, True),
        ({"profile": "point"}, {}, False),
        ({}, {"stride": 5}, False),
        ({}, {"slices": 5, "stride": 6}, False),
    ],
)
def test_made_in_the_same_way(one: dict[str, Any], other: dict[str, Any], alike: bool) -> None:
    first, second = Acquisition.model_validate(one), Acquisition.model_validate(other)
    assert first.alike(second) == second.alike(first) == alike


@pytest.mark.parametrize(("acquired", "shown"), [((), (0, 2, 3, 5)), ((1,), (0, 2, 3, 5)), ((5, 1), (0, 2, 3))])
def test_projections_are_left_out_by_their_place_among_all(acquired: tuple[int, ...], shown: tuple[int, ...]) -> None:
    acquisition = Acquisition(slices=6, count=6, hidden=(1, 4))
    fewer = acquisition.leaving_out(acquired)
    assert fewer.shown == shown
    assert fewer.depth == acquisition.depth
    assert fewer.first_centre == acquisition.leaving_out((0,)).first_centre == pytest.approx(3)


@pytest.mark.parametrize(("acquired", "words"), [((6,), "from 1 to 6"), ((-1,), "from 1 to 6"), ((0, 2), "2 would be")])
def test_projections_that_cannot_be_left_out(acquired: tuple[int, ...], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        Acquisition(slices=6, count=6, hidden=(1, 4)).leaving_out(acquired)
