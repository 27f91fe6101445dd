from __future__ import annotations

import numpy as np
import pytest
from skimage.filters import threshold_otsu
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.events import InvalidInput
from napari_microdiffusion.metrics import (
    RunningScores,
    evaluate,
    residual_map,
    residual_stats,
    scales_apart,
    scored_slices,
)
from napari_microdiffusion.reliability import Reliability
from napari_microdiffusion.volume import ProjectionStack, Volume


@pytest.fixture(scope="module")
def estimate(truth: Volume) -> Volume:
    """The truth with blurred slices and noise, values beyond [0, 1] among them."""
    rng = np.random.default_rng(4)
    data = 0.5 * (truth.data + np.roll(truth.data, 1, 0)) + 0.05 * rng.standard_normal(truth.shape)
    return Volume(data.astype(np.float32))


@pytest.fixture(scope="module")
def scaled_truth(truth: Volume) -> Volume:
    """The truth with its minimum at 0 and its maximum at 1, as the protocol wants it."""
    low, high = truth.intensity_range
    return Volume((truth.data.astype(np.float64) - low) / (high - low))


def test_scores_agree_with_scikit_image(scaled_truth, estimate):
    scores = evaluate(estimate, scaled_truth)
    pairs = [(t, np.clip(e.astype(float), 0, 1)) for t, e in zip(scaled_truth.data, estimate.data, strict=True)]
    assert scores["psnr"] == pytest.approx(np.mean([peak_signal_noise_ratio(t, e, data_range=1) for t, e in pairs]))
    assert scores["ssim"] == pytest.approx(np.mean([structural_similarity(t, e, data_range=1) for t, e in pairs]))
    clipped = np.clip(estimate.data.astype(float), 0, 1)
    assert scores["psnr_volume"] == pytest.approx(peak_signal_noise_ratio(scaled_truth.data, clipped, data_range=1))
    masks = [(t > threshold_otsu(t), e > threshold_otsu(e)) for t, e in pairs]
    overlap = 2 * sum((a & b).sum() for a, b in masks) / sum(a.sum() + b.sum() for a, b in masks)
    assert scores["dice"] == pytest.approx(overlap)


@pytest.mark.parametrize("profile", ["uniform", "point"])
def test_scores_agree_with_the_protocol(scaled_truth, estimate, protocol, profile):
    projections = protocol.project(scaled_truth.data, 6, profile)
    expected = protocol.score(scaled_truth.data, estimate.data, projections, 6, profile)
    stack = ProjectionStack(projections, Acquisition(slices=6, profile=profile))
    assert evaluate(estimate, scaled_truth, stack) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["membranes", "nuclei_embryo"])
def test_scores_of_real_volumes_agree_with_the_protocol(real_crop, protocol, name):
    prepared = protocol.prepare(real_crop(name).data, 6)
    repeated = np.repeat(protocol.project(prepared, 6), 6, axis=0)
    stack = ProjectionStack(protocol.project(prepared, 6), Acquisition(slices=6))
    expected = protocol.score(prepared, repeated, stack.data, 6)
    assert evaluate(Volume(repeated), Volume(prepared), stack) == pytest.approx(expected, abs=1e-6)


def test_scores_do_not_depend_on_the_intensity_scale(scaled_truth, estimate):
    def shifted(volume: Volume) -> Volume:
        return Volume(volume.data.astype(np.float64) * 4000 + 100)

    expected = evaluate(estimate, scaled_truth)
    assert evaluate(shifted(estimate), shifted(scaled_truth)) == pytest.approx(expected, abs=1e-6)


def test_running_scores_equal_those_of_the_whole(truth, estimate):
    running = RunningScores(truth.data)
    assert running.summary() == {}
    for start in (30, 0, 12, 24, 6, 18):  # in any order
        running.update(start, estimate.data[start : start + 6])
    assert running.summary() == evaluate(estimate, truth)


def test_a_slice_that_comes_again_replaces_its_score(truth, estimate):
    running = RunningScores(truth.data)
    running.update(0, np.zeros_like(truth.data))
    running.update(0, estimate.data)
    assert running.summary() == evaluate(estimate, truth)


def test_running_scores_are_those_of_the_slices_seen(truth, estimate):
    running = RunningScores(truth.data)
    running.update(5, estimate.data[5:7])
    low, high = truth.intensity_range
    expected = [
        peak_signal_noise_ratio(
            (truth.data[z].astype(float) - low) / (high - low),
            np.clip((estimate.data[z].astype(float) - low) / (high - low), 0, 1),
            data_range=1,
        )
        for z in (5, 6)
    ]
    assert running.summary()["psnr"] == pytest.approx(np.mean(expected))


def test_a_slice_that_is_not_a_number_spoils_the_score_instead_of_vanishing(truth, estimate):
    running = RunningScores(truth.data)
    running.update(0, estimate.data[:3])
    running.update(3, np.full((1, 48, 48), np.nan))
    assert np.isnan(running.summary()["psnr"])


def test_a_perfect_volume(truth):
    scores = evaluate(truth, truth)
    assert scores == pytest.approx({"psnr": 120, "psnr_volume": 120, "ssim": 1, "dice": 1})


def test_reprojection_error_is_a_fraction_of_the_truths_range(truth):
    stack, cropped = truth.simulate(Acquisition(slices=6))
    low, high = truth.intensity_range
    worse = cropped.data.copy()
    worse[6:12, 3, 4] += 0.3
    error = evaluate(Volume(worse), cropped, stack)["reprojection_max_error"]
    assert error == pytest.approx(0.3 / (high - low), rel=1e-5)
    alone = evaluate(Volume(worse), None, stack)
    assert alone.keys() == {"reprojection_max_error"}
    assert alone["reprojection_max_error"] == pytest.approx(0.3 / np.ptp(stack.data), rel=1e-5)


def test_residual_is_in_the_projections_intensities(truth):
    stack, cropped = truth.simulate(Acquisition(slices=6))
    worse = cropped.data.astype(np.float64)
    worse[:6, 0, 0] += 100
    residual = residual_stats(worse, stack)
    assert residual.maximum == pytest.approx(100)
    assert residual.rms == pytest.approx(100 / np.sqrt(stack.data.size))


@pytest.mark.parametrize("acquisition", [Acquisition(slices=6), Acquisition(slices=6, stride=4, profile="gaussian")])
def test_residual_map_is_what_the_volume_leaves_unexplained(truth, acquisition):
    stack, cropped = truth.simulate(acquisition)
    worse = cropped.data.copy()
    worse[7, 3, 4] -= 0.5  # too dark: measured minus explained is positive
    found = residual_map(worse, stack)
    expected = np.zeros(stack.shape)
    expected[:, 3, 4] = 0.5 * stack.acquisition.matrix[:, 7]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.dtype == np.float32
    assert np.abs(found).max() == pytest.approx(residual_stats(worse, stack).maximum, rel=1e-6)


def test_residual_map_is_on_the_projections_scale():
    volume = np.random.default_rng(0).integers(0, 60000, (12, 32, 32)).astype(np.uint16)
    stack, _ = Volume(volume).simulate(Acquisition(slices=4))
    np.testing.assert_allclose(residual_map(volume.astype(np.float32) - 1000, stack), 1000, rtol=1e-3)


@pytest.mark.parametrize("function", [residual_map, residual_stats])
def test_a_residual_needs_the_volume_that_the_projections_stand_for(truth, stack, function):
    with pytest.raises(InvalidInput, match="check slices and stride"):
        function(truth.data[:30], stack)


def with_reliability(truth: Volume, error: np.ndarray, std: np.ndarray, width: np.ndarray) -> Volume:
    """The truth plus an error, with an interval of ``width`` on either side of what came out."""
    data = (truth.data + error).astype(np.float32)
    found = Reliability(std.astype(np.float32), (data - width).astype(np.float32), (data + width).astype(np.float32))
    return Volume(data, reliability=found)


@pytest.mark.parametrize(
    ("width", "coverage"),
    [(np.full(36, 0.3), 1.0), (np.full(36, 0.1), 0.0), (np.repeat([0.3, 0.1], [27, 9]), 0.75)],
)
def test_coverage_is_the_share_of_voxels_within_their_interval(truth, width, coverage):
    per_slice = np.broadcast_to(width[:, None, None], truth.shape)
    volume = with_reliability(truth, np.full(truth.shape, 0.2), np.ones(truth.shape), per_slice)
    scores = evaluate(volume, truth)
    assert scores["coverage_90"] == pytest.approx(coverage)
    assert "flagged_error_ratio" not in scores  # equally certain everywhere: none is flagged


def test_coverage_of_gaussian_errors_is_what_the_interval_says(truth):
    rng = np.random.default_rng(3)
    std = np.linspace(0.01, 0.3, truth.data.size).reshape(truth.shape)
    volume = with_reliability(truth, std * rng.standard_normal(truth.shape), std, 1.6449 * std)
    assert evaluate(volume, truth)["coverage_90"] == pytest.approx(0.9, abs=0.01)


@pytest.mark.parametrize(("bright", "dim"), [(0.3, 0.1), (0.1, 0.3)])
def test_bright_voxels_are_counted_by_themselves(truth, bright, dim):
    """Few as they are: by Otsu's threshold of the volume, not of the truth."""
    error = np.full(truth.shape, 0.2, np.float32)
    shining = (truth.data + error) > threshold_otsu(truth.data + error)
    volume = with_reliability(truth, error, np.ones(truth.shape), np.where(shining, bright, dim))
    scores = evaluate(volume, truth)
    assert scores["coverage_90_bright"] == (bright > 0.2)
    assert scores["coverage_90"] == pytest.approx(shining.mean() if bright > 0.2 else 1 - shining.mean())
    flat = with_reliability(truth, 1 - truth.data, np.ones(truth.shape), np.ones(truth.shape))
    assert "coverage_90_bright" not in evaluate(flat, truth)


def test_flagged_error_ratio_compares_mean_squares(truth):
    std = np.arange(truth.data.size).reshape(truth.shape)
    flagged = std >= round(0.9 * truth.data.size)
    volume = with_reliability(truth, np.where(flagged, 0.3, -0.1), std, np.ones(truth.shape))
    assert evaluate(volume, truth)["flagged_error_ratio"] == pytest.approx(9, rel=1e-3)
    perfect = with_reliability(truth, np.zeros(truth.shape), std, np.ones(truth.shape))
    assert evaluate(perfect, truth)["flagged_error_ratio"] == pytest.approx(1)


def test_slices_without_error_bars_do_not_count_beside_others(truth):
    known = np.zeros(truth.shape)
    known[::2] = 1
    width = np.where(known, 0, 0.3)
    width[1] = 0.1
    std = np.where(known, 0, np.random.default_rng(0).random(truth.shape))
    volume = with_reliability(truth, np.where(known, 0.0, 0.2), std, width)
    assert evaluate(volume, truth)["coverage_90"] == pytest.approx(17 / 18)
    exact = with_reliability(truth, np.zeros(truth.shape), 0 * std, np.zeros(truth.shape))
    assert evaluate(exact, truth)["coverage_90"] == 1


def test_reliability_is_scored_between_the_points_of_a_point_profile(truth):
    stack, cropped = truth.simulate(Acquisition(slices=6, profile="point"))
    scored = scored_slices(36, stack.acquisition)
    width = np.broadcast_to(np.where(scored, 0.3, 0.1)[:, None, None], truth.shape)
    std = np.random.default_rng(0).random(truth.shape)
    error = np.where(scored, 0.2, 100)[:, None, None] * np.ones(truth.shape)
    volume = with_reliability(cropped, error, std, width)
    assert evaluate(volume, cropped, stack)["coverage_90"] == pytest.approx(1)
    assert evaluate(volume, cropped, stack)["flagged_error_ratio"] == pytest.approx(1, rel=1e-3)
    assert evaluate(volume, cropped)["coverage_90"] == pytest.approx(scored.mean())


def test_without_a_truth_or_a_reliability_there_is_no_coverage(truth, estimate, stack):
    assert "coverage_90" not in evaluate(estimate, truth, stack)
    volume = with_reliability(truth, np.zeros(truth.shape), np.ones(truth.shape), np.ones(truth.shape))
    assert evaluate(volume, None, stack).keys() == {"reprojection_max_error"}


@pytest.mark.parametrize(
    ("acquisition", "depth", "scored"),
    [
        (None, 5, [0, 1, 2, 3, 4]),
        (Acquisition(slices=3, count=2), 6, [0, 1, 2, 3, 4, 5]),
        (Acquisition(slices=3, profile="point", count=3), 9, [1, 2, 4, 5]),
        (Acquisition(slices=1, stride=3, profile="point", count=3), 7, [1, 2, 4, 5]),
        (Acquisition(slices=3, profile="point", count=4).without((1,)), 12, [1, 2, 3, 4, 5, 7, 8]),
        (Acquisition(slices=3, profile="point", count=4).without((0,)), 12, [4, 5, 7, 8]),
        (Acquisition(slices=1, stride=3, count=3), 7, [1, 2, 4, 5]),
        (Acquisition(slices=3, profile="measured", weights=(0, 1, 0), count=3), 9, [2, 3, 5, 6]),
        (Acquisition(slices=1, profile="point", count=3), 3, [0, 1, 2]),  # nothing was inferred
    ],
)
def test_scored_slices(acquisition, depth, scored):
    assert np.flatnonzero(scored_slices(depth, acquisition)).tolist() == scored


@pytest.mark.parametrize(
    ("times", "offset", "told"),
    [
        (1.0, 0.0, None),
        (0.5, 3.0, None),
        (7.5, 0.0, None),
        (257.0, 0.0, "spread 257 times"),
        (0.01, 9.0, "0.01 times"),
    ],
)
def test_a_truth_on_another_scale_is_named(truth, times, offset, told):
    said = scales_apart(truth.data, times * truth.data + offset)
    assert said is None if told is None else told in said


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_of_a_volume_without_contrast_or_numbers_no_scale_is_told(truth, value):
    assert scales_apart(np.full(truth.shape, value), truth.data) is None
    assert scales_apart(truth.data, np.full(truth.shape, value)) is None


def test_shapes_must_match(truth, stack):
    with pytest.raises(InvalidInput, match="shapes differ"):
        evaluate(Volume(truth.data[:30]), truth)
    with pytest.raises(InvalidInput, match="check slices and stride"):
        evaluate(Volume(truth.data[:30]), None, stack)
    deeper = ProjectionStack(np.ones((9, *truth.shape[1:])), Acquisition(slices=6, profile="point"))
    with pytest.raises(InvalidInput, match="check slices and stride"):
        evaluate(truth, truth, deeper)


def test_a_constant_truth_is_refused(truth):
    with pytest.raises(InvalidInput, match="constant"):
        evaluate(truth, Volume(np.ones(truth.shape)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_truth_that_is_not_finite_is_refused(truth, value):
    spoilt = truth.data.copy()
    spoilt[3, 4, 5] = value
    with pytest.raises(InvalidInput, match="the truth holds NaN or infinite"):
        RunningScores(spoilt)


@pytest.mark.parametrize(("y", "x"), [(6, 7), (7, 6)])
def test_images_below_the_window_of_ssim_are_refused(truth, y, x):
    small = Volume(truth.data[:, :y, :x])
    with pytest.raises(InvalidInput, match=f"images of {y} x {x} pixels cannot be scored: SSIM needs 7 x 7"):
        evaluate(small, small)
    assert evaluate(Volume(truth.data[:, :7, :7]), Volume(truth.data[:, :7, :7]))["ssim"] == pytest.approx(1)


@pytest.mark.parametrize("spoilt", ["volume", "truth", "projections"])
def test_values_that_are_no_numbers_are_refused(truth, stack, spoilt):
    def spoil(data: np.ndarray) -> np.ndarray:
        data = data.copy()
        data[1, 2, 3] = np.nan
        return data

    volume = Volume(spoil(truth.data), name="volume") if spoilt == "volume" else truth
    reference = Volume(spoil(truth.data), name="truth") if spoilt == "truth" else truth
    if spoilt == "projections":
        stack = ProjectionStack(spoil(stack.data), stack.acquisition)
    with pytest.raises(InvalidInput, match=f"{spoilt} holds NaN"):
        evaluate(volume, reference, stack)
