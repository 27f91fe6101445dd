"""The verdict says what was measured, what was inferred, how sure that is and what would help: right for each case."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.events import exhaust
from napari_microdiffusion.methods import Conservative
from napari_microdiffusion.metrics import Residual, residual_stats
from napari_microdiffusion.numerics import along_z
from napari_microdiffusion.reliability import Reliability
from napari_microdiffusion.run import Job, Result, run
from napari_microdiffusion.verdict import verdict
from napari_microdiffusion.volume import ProjectionStack, Volume

SHAPE = (36, 48, 48)
AXIAL = Acquisition(slices=6)


def made(
    acquisition: Acquisition = AXIAL,
    noise: float = 0.0,
    offset: float = 0.0,
    half_width: float | np.ndarray | None = None,
    partial: bool = False,
    method: str = "inr",
    scale: tuple[float, float, float] | None = (2.0, 0.5, 0.5),
) -> tuple[Result, ProjectionStack]:
    """A volume from 0 to 1000, smooth along z, and its projections with noise; the volume is wrong by ``offset``."""
    z, y, x = np.meshgrid(*(np.arange(size) for size in SHAPE), indexing="ij")
    data = 500 + 500 * np.sin(z / 6 + y / 9) * np.cos(x / 8)
    stack, truth = Volume(data.astype(np.float32), scale).simulate(acquisition)
    noisy = stack.data + noise * np.random.default_rng(0).standard_normal(stack.shape).astype(np.float32)
    stack = ProjectionStack(noisy, stack.acquisition, stack.scale_um)
    values = truth.data + np.float32(offset)
    found = None
    if half_width is not None:
        half = np.broadcast_to(np.asarray(half_width, np.float32), values.shape)
        found = Reliability(half / 1.645, values - half, values + half)
    volume = Volume(values, scale, provenance={"method": method}, reliability=found)
    return Result(volume, {}, residual_stats(values, stack), partial, 1.0), stack


def widths(typical: float, doubtful: float) -> np.ndarray:
    """Half-widths of the 90 % interval: one tenth of the voxels is less certain than the others."""
    half = np.full(SHAPE, typical)
    half.flat[::10] = doubtful
    half.flat[0] = typical  # 4147 of 41472: less than a tenth, so that they can be told from the rest
    return half


def between(known: float) -> np.ndarray:
    """Half-widths of sparse slices: those that were measured are ``known`` to so much."""
    half = np.full(SHAPE, 80.0)
    half[::2] = known
    return half


def brighter(typical: float, doubtful: float) -> np.ndarray:
    """Half-widths that are larger where the volume is bright, and largest at some of those voxels."""
    half = np.where(made()[0].volume.data > 500, doubtful, typical)
    half[::5, ::4] *= 2
    return half


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ({}, "Measured: 6 projections, each the mean of 6 slices (12 µm of depth)"),
        ({"scale": None}, "each the mean of 6 slices; the volume"),
        ({"scale": (2057.6, 0.5, 0.5)}, "of 6 slices (12346 µm of depth)"),
        (
            {"acquisition": Acquisition(slices=6, profile="gaussian")},
            "each a weighted mean of 6 slices (12 µm of depth)",
        ),
        ({"acquisition": Acquisition(slices=6, profile="point")}, "6 projections, each a single slice, 6 slices apart"),
        ({"acquisition": Acquisition(slices=1, stride=5)}, "8 projections, each a single slice, 5 slices apart"),
        ({"acquisition": Acquisition(slices=1)}, "36 projections, each a slice; the volume"),
        ({}, "reproduces them to within 0.01 % of their intensity range."),
    ],
)
def test_what_was_measured(case: dict[str, Any], says: str) -> None:
    assert says in verdict(*made(**case))


def test_how_well_the_projections_are_reproduced() -> None:
    result, stack = made()
    span = float(np.ptp(stack.data))
    result = Result(result.volume, {}, Residual(0.16 * span, 0.021 * span), False, 1.0)
    assert "to within 2.1 % of their intensity range on average, 16 % at the worst pixel." in verdict(result, stack)


@pytest.mark.parametrize(
    ("acquisition", "says"),
    [
        (AXIAL, "one number per pixel for its 6 slices; with 6 numbers for 36 slices, 83 % of the detail along z is"),
        (Acquisition(slices=6, stride=3), "with 11 numbers for 36 slices, 69 % of the detail along z"),
        (Acquisition(slices=6, stride=9), "with 4 numbers for 33 slices, 88 % of the detail along z"),
        (Acquisition(slices=6, stride=9), "and 9 slices in the gaps between projections were not seen at all"),
        (Acquisition(slices=6, profile="point"), "30 of 36 slices were not measured: 83 %"),
        (Acquisition(slices=6, profile="point"), "; 5 slices beyond the outermost projection are extrapolated"),
        (Acquisition(slices=2, profile="point"), "; 1 slice beyond the outermost projection is extrapolated"),
        (Acquisition(slices=1), "Inferred: nothing along the depth, as there is a projection for every slice."),
    ],
)
def test_what_was_inferred(acquisition: Acquisition, says: str) -> None:
    assert says in verdict(*made(acquisition))


def test_gaps_and_the_beyond_are_named_only_where_there_are_any() -> None:
    text = verdict(*made())
    assert "gap" not in text
    assert "extrapolated" not in text
    hidden, stack = made()
    fewer = stack.without((0, 3))
    assert "6 slices in the gaps" in verdict(hidden, fewer)
    assert "6 slices beyond the outermost projection are extrapolated" in verdict(hidden, fewer)


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ({}, "How sure: this method gives no error bars (axial does);"),
        ({"half_width": 50.0}, "within ±5 % of the intensity range at half of the voxels, and no voxels stand out"),
        ({"half_width": widths(50, 50.1)}, "within ±5 % of the intensity range at half of the voxels, and no voxels"),
        ({"half_width": widths(30, 120)}, "within ±3 % of the intensity range at half of the voxels"),
        (
            {"acquisition": Acquisition(slices=2, profile="point"), "half_width": between(0)},
            "within ±8 % of the intensity range at half of the inferred voxels",
        ),
        (
            {"half_width": widths(30, 120)},
            ", within ±12 % at half of the least certain 10 % (flagged), and within ±3 %",
        ),
        ({"half_width": brighter(30, 120)}, "and within ±12 % at half of the bright ones (where error bars tend"),
        ({"partial": True}, "How sure: no error bars, as the run did not end;"),
    ],
)
def test_how_sure_it_is(case: dict[str, Any], says: str) -> None:
    assert says in verdict(*made(**case))


def test_axial_that_fell_back_is_plain_interpolation() -> None:
    result, stack = made(method="axial")
    curve = {"sigma_slices": 1.5, "sigma_curve": [[1.5, 25.0], [3.0, 23.4]], "interpolation_held_out_db": 25.2}
    for found, told in (({}, "it has not been tested"), (curve, "it predicts hidden projections to 25.2 dB.")):
        known = {**(result.volume.provenance or {}), "found": {"fell_back": True, **found}}
        result = replace(result, volume=replace(result.volume, provenance=known))
        assert "How sure: no error bars, as this is plain interpolation;" in verdict(result, stack)
        assert told in verdict(result, stack)


@pytest.mark.parametrize("found", [{"fell_back": True}, {"fell_back": False, "interval_widening": None}])
def test_what_a_prior_found_is_not_said_of_what_was_made_of_it(found: dict[str, Any]) -> None:
    result, stack = made(method="axial_diffusion")
    known = {**(result.volume.provenance or {}), "found": found}
    result = replace(result, volume=replace(result.volume, provenance=known))
    assert "How sure: this method gives no error bars (axial does);" in verdict(result, stack)


def test_axial_with_three_projections_has_no_error_bars_and_says_why() -> None:
    result, stack = made(method="axial")
    for widening, told in ((None, "no error bars, as there are too few projections"), (1.2, "this method gives no")):
        known = {**(result.volume.provenance or {}), "found": {"interval_widening": widening, "fell_back": False}}
        result = replace(result, volume=replace(result.volume, provenance=known))
        assert f"How sure: {told}" in verdict(result, stack)


@pytest.mark.parametrize(
    ("sigma", "told"), [(3.0, "27.4 dB, 3.2 dB"), (3.0000001, "27.4 dB, 3.2 dB"), (2.25, "26.2 dB, 2.0 dB")]
)
def test_what_axial_tested_by_itself_is_told(sigma: float, told: str) -> None:
    result, stack = made(method="axial")
    found = {"sigma_slices": sigma, "sigma_curve": [[1.5, 25.0], [3.0, 27.4]], "interpolation_held_out_db": 24.2}
    known = {**(result.volume.provenance or {}), "found": found}
    result = replace(result, volume=replace(result.volume, provenance=known))
    assert f"predicts hidden projections to {told} better than plain interpolation" in verdict(result, stack)
    assert "predicts hidden projections to 20.0 dB" in verdict(result, stack, 20.0)  # asked for, it counts
    quiet = replace(result, volume=replace(result.volume, provenance={**known, "denoised": True}))
    assert f"predicts hidden projections, denoised, to {told} better" in verdict(quiet, stack)
    assert "predicts hidden projections to 20.0 dB" in verdict(quiet, stack, 20.0)  # as they were measured
    assert "to 20.0 dB (those that had their turn before the stop)" in verdict(result, stack, 20.0, partial=True)


@pytest.mark.parametrize(
    ("method", "scores", "says", "never"),
    [
        ("inr", (), "it has not been tested on hidden projections.", "dB"),
        ("inr", (34.23,), "it predicts hidden projections to 34.2 dB.", "plain"),
        ("inr", (34.2, 32.9), "to 34.2 dB, 1.3 dB better than plain interpolation.", "prefer"),
        ("inr", (34.2, 33.6), "0.6 dB better than plain interpolation, though this test tells to about 1 dB", "prefer"),
        ("inr", (33.6, 33.6), "no better than plain interpolation (33.6 dB) as far as this test can tell", "dB better"),
        ("inr", (33.0, 33.6), "which is to about 1 dB: if in doubt, prefer the conservative interpolation", "worse"),
        ("inr", (30.0, 33.0), "to 30.0 dB, 3.0 dB worse than plain interpolation: prefer the cons", "dB better"),
        ("conservative", (33.0, 33.0), "it predicts hidden projections to 33.0 dB.", "prefer"),
    ],
)
def test_what_hidden_projections_say(method: str, scores: tuple[float, ...], says: str, never: str) -> None:
    text = verdict(*made(method=method), *scores)
    assert says in text
    assert never not in text


@pytest.mark.parametrize("method", [{}, {"prior": {"kind": "axial"}}], ids=["axial", "axial_posterior"])
def test_what_fell_back_is_not_advised_against_itself(method: dict[str, Any]) -> None:
    result, stack = made(method="axial_posterior" if method else "axial")
    known = {
        **(result.volume.provenance or {}),
        "found": {"fell_back": True, "sigma_curve": []},
        "job": {"method": method},
    }
    text = verdict(replace(result, volume=replace(result.volume, provenance=known)), stack, 21.2, 21.2)
    assert "it predicts hidden projections to 21.2 dB." in text
    assert "prefer" not in text


def test_spoilt_projections_are_named_first() -> None:
    result, stack = made()
    data = stack.data.copy()
    data[2] = data.max()
    text = verdict(result, replace(stack, data=data))
    assert text.startswith("Beware: projection 3 (counted from 1) is the same everywhere, blank or saturated")
    assert "expose for less time. Measured: 6 projections" in text


FINER, SIGNAL = "fewer slices per projection than 6", "more signal"


@pytest.mark.parametrize(
    ("case", "says", "never"),
    [
        (
            {},
            [
                f"{FINER} (a shorter beam and smaller steps), as little of what differs between",
                "neighbouring projections is noise (less than 1 %)",
            ],
            [SIGNAL],
        ),
        (
            {"noise": 300.0},
            [f"{SIGNAL} (longer exposure, averaging) or denoising the projections first, as noise makes up about 77 %"],
            [FINER],
        ),
        ({"noise": 120.0}, [FINER, SIGNAL, "what differs between neighbouring projections"], ["contradicts"]),
        (
            {"noise": 2.0, "half_width": 100.0},
            [FINER, "as little of the uncertainty is noise (less than 1 %)"],
            [SIGNAL],
        ),
        ({"noise": 60.0, "half_width": 100.0}, [SIGNAL, "nearly all of the uncertainty"], [FINER]),
        (  # a slice is as noisy as six projections, and nothing else is uncertain
            {"noise": 60.0, "half_width": 1.645 * 6**0.5 * 60},
            [SIGNAL, "nearly all of the uncertainty"],
            [FINER],
        ),
        (
            {"acquisition": Acquisition(slices=12)},
            ["four or more projections", "fewer slices per projection than 12"],
            [],
        ),
        (
            {"acquisition": Acquisition(slices=6, stride=9)},
            ["closing the gaps (a stride of 6 slices or less)", FINER],
            [],
        ),
        ({"acquisition": Acquisition(slices=6, profile="point")}, ["closer together than every 6"], [FINER, "gaps"]),
        ({"acquisition": Acquisition(slices=1, stride=4)}, ["closer together than every 4"], ["gaps"]),
        (  # slices that were measured are certain, and make the others no less uncertain
            {"acquisition": Acquisition(slices=2, profile="point"), "noise": 20.0, "half_width": between(0)},
            ["closer together than every 2, as little of the uncertainty is noise (about"],
            [SIGNAL],
        ),
        ({"acquisition": Acquisition(slices=1), "noise": 20.0}, [SIGNAL], ["fewer", "closer"]),
        ({"offset": 100.0}, ["consistency = final", "contradicts the projections by more than noise"], []),
        ({"offset": 100.0, "noise": 80.0}, [], ["consistency = final"]),  # it misses them by no more than their noise
        ({"offset": 100.0, "partial": True}, ["letting the run come to its end"], ["consistency = final"]),
    ],
)
def test_what_would_help(case: dict[str, Any], says: list[str], never: list[str]) -> None:
    advice = verdict(*made(**case)).partition("What would help: ")[2]
    assert all(text in advice for text in says), advice
    assert not any(text in advice for text in never), advice
    assert 1 <= len(advice.split("; ")) <= 2


def test_noise_that_grows_with_the_light_is_told_of_bright_pixels_too() -> None:
    """In dim images with bright objects most pixels have little noise, and most noise is in few pixels."""
    random = np.random.default_rng(0)
    clean = np.full((6, 64, 64), 100.0)
    clean[:, 16:48, 16:48] = 4000.0
    stack = ProjectionStack((clean + np.sqrt(clean) * random.standard_normal(clean.shape)).astype(np.float32), AXIAL)
    data, (result, _) = np.repeat(stack.data, 6, axis=0), made()
    text = verdict(replace(result, volume=Volume(data)), stack)
    assert "as noise makes up nearly all of what differs between neighbouring projections" in text  # nothing else does
    std = np.full_like(data, np.sqrt(2 * 100 * 6))  # twice the noise of a slice where it is dim, as the median voxel is
    found = Reliability(std, data - 2 * std, data + 2 * std)
    text = verdict(replace(result, volume=Volume(data, reliability=found)), stack)
    share = float(text.partition("noise makes up about ")[2].partition(" %")[0])
    assert share == pytest.approx(50, abs=10)


def test_a_stopped_run_is_called_unfinished() -> None:
    assert verdict(*made(partial=True)).startswith("Unfinished: the run was stopped")
    assert "Unfinished" not in verdict(*made())


def test_a_run_that_was_stopped_before_anything_was_learned_says_so() -> None:
    result, stack = made(partial=True)
    assert "this is what it had by then." in verdict(result, stack)
    plain = replace(result.volume, data=along_z(stack.interpolation, stack.data).astype(np.float32))
    assert "this is still the conservative interpolation" in verdict(replace(result, volume=plain), stack)


def test_one_paragraph_on_a_real_run_of_integers(stack: ProjectionStack) -> None:
    camera = ProjectionStack((1000 + 4000 * stack.data).astype(np.uint16), stack.acquisition, name="mine")
    result = exhaust(run(Job(method=Conservative(), acquisition=camera.acquisition, device="cpu"), camera))
    text = verdict(result, camera, 33.0, 33.0)
    parts = ["Measured: ", "Inferred: ", "How sure: ", "What would help: "]
    assert [text.count(part) for part in parts] == [1, 1, 1, 1]
    assert "\n" not in text
    assert "nan" not in text
    assert text.endswith(".")


def test_what_speaks_against_a_network_comes_first() -> None:
    result, stack = made(method="axial", half_width=30.0)
    known = {**(result.volume.provenance or {}), "found": {"beware": "it was trained for others", "fell_back": False}}
    text = verdict(replace(result, volume=replace(result.volume, provenance=known)), stack)
    assert text.startswith("Beware: it was trained for others. Measured: ")


def test_where_nothing_would_help_nothing_is_said() -> None:
    text = verdict(*made(Acquisition(slices=6, stride=1)))
    assert "What would help" not in text
    assert text.endswith(".")


def test_a_constant_volume_and_a_certain_one_divide_by_nothing() -> None:
    result, stack = made(half_width=0.0)
    flat = Volume(np.zeros(SHAPE, np.float32), reliability=result.volume.reliability)
    assert "nan" not in verdict(Result(flat, {}, result.residual, False, 0.0), stack)


def test_a_part_of_the_voxels_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_microdiffusion.verdict.VOXELS", 1000)
    text = verdict(*made(half_width=widths(30, 120)))
    assert "within ±3 % of the intensity range at half of the voxels, within ±12 %" in text
