from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tifffile
from scipy.interpolate import CubicSpline

from conftest import REAL
from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.events import Preview, exhaust
from napari_microdiffusion.methods import Conservative, Context, Cubic, Linear, Method
from napari_microdiffusion.methods._base import make_consistent
from napari_microdiffusion.phantoms import phantom
from napari_microdiffusion.volume import ProjectionStack, Volume

METHODS = (Linear, Cubic, Conservative)
ACQUISITIONS: dict[str, Acquisition] = {
    f"{profile} stride {stride}{' hidden' if hidden else ''}": Acquisition(
        slices=6, stride=stride, profile=profile, weights=weights, count=8, hidden=hidden
    )
    for profile, weights in [
        ("uniform", None),
        ("gaussian", None),
        ("point", None),
        ("measured", (1.0, 2.0, 4.0, 3.0, 1.0, 0.5)),
    ]
    for stride in (6, 9)
    for hidden in ((), (2, 5), (0,), (7,))
}


def predicted(method: Method, stack: ProjectionStack) -> Volume:
    return exhaust(method.predict(stack, {}, Context()))


def interpolated(method: Method, stack: ProjectionStack) -> np.ndarray:
    return predicted(method, stack).data


def random_stack(acquisition: Acquisition) -> ProjectionStack:
    rng = np.random.default_rng(7)
    return ProjectionStack(rng.random((len(acquisition.shown), 8, 9)).astype(np.float32), acquisition)


def psnr(truth: np.ndarray, estimate: np.ndarray) -> float:
    """As the protocol has it: of slices clipped to [0, 1], averaged over z."""
    errors = ((truth.astype(float) - np.clip(estimate.astype(float), 0, 1)) ** 2).mean((1, 2))
    return float(-10 * np.log10(errors).mean())


@pytest.mark.parametrize(("profile", "centre"), [("uniform", 3.0), ("point", 0.5)])
def test_linear_and_cubic_are_scipys_between_the_centres(profile, centre):
    stack = random_stack(Acquisition(slices=6, profile=profile, count=7))
    centres, z = 6 * np.arange(7) + centre, np.arange(42) + 0.5
    linear, cubic = interpolated(Linear(), stack), interpolated(Cubic(), stack)
    spline = CubicSpline(centres, stack.data, bc_type="natural")
    for y, x in [(0, 0), (3, 4), (7, 8)]:
        np.testing.assert_allclose(linear[:, y, x], np.interp(z, centres, stack.data[:, y, x]), atol=1e-6)
    inner = (z >= centres[0]) & (z <= centres[-1])
    np.testing.assert_allclose(cubic[inner], spline(z[inner]), atol=1e-5)
    for data in (linear, cubic):  # constant beyond the outer centres
        np.testing.assert_allclose(
            data[z < centres[0]], np.broadcast_to(stack.data[0], data[z < centres[0]].shape), atol=1e-6
        )
        np.testing.assert_allclose(
            data[z > centres[-1]], np.broadcast_to(stack.data[-1], data[z > centres[-1]].shape), atol=1e-6
        )


@pytest.mark.parametrize("acquisition", ACQUISITIONS.values(), ids=ACQUISITIONS)
def test_conservative_reprojects_exactly(acquisition):
    stack = random_stack(acquisition)
    data = interpolated(Conservative(), stack)
    assert data.shape == stack.volume_shape
    np.testing.assert_allclose(acquisition.project(data.astype(np.float64)), stack.data, atol=1e-5)


@pytest.mark.parametrize("acquisition", ACQUISITIONS.values(), ids=ACQUISITIONS)
@pytest.mark.parametrize("method", METHODS)
def test_constants_are_preserved(method, acquisition):
    stack = ProjectionStack(np.full((len(acquisition.shown), 4, 5), 3.5, np.float32), acquisition)
    np.testing.assert_allclose(interpolated(method(), stack), 3.5, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("stride", [1, 3])
def test_overlapping_projections_stay_within_their_noise(method, stride):
    """Overlap makes exact inversion useless; the volume stays tame and its residual small."""
    truth = phantom("vessels", (42, 40, 40), seed=4)
    stack, cropped = truth.simulate(Acquisition(slices=6, stride=stride))
    rng = np.random.default_rng(8)
    noisy = ProjectionStack(stack.data + 0.02 * rng.standard_normal(stack.shape).astype(np.float32), stack.acquisition)
    data = interpolated(method(consistency="final"), noisy)
    assert psnr(cropped.data, data) > 28
    assert noisy.acquisition.residual(data, noisy.data).std() < 0.03
    again = data.copy()
    make_consistent(noisy, again)
    assert psnr(cropped.data, again) > psnr(cropped.data, data) - 0.2


@pytest.mark.parametrize("consistency", ["none", "final"])
@pytest.mark.parametrize("method", METHODS)
def test_final_consistency_reprojects_exactly(method, consistency, stack):
    data = interpolated(method(consistency=consistency), stack)
    error = np.abs(stack.acquisition.residual(data.astype(np.float64), stack.data.astype(np.float64))).max()
    if consistency == "final" or method is Conservative:
        assert error < 1e-6
    else:
        assert error > 0.05


def test_conservative_is_the_natural_spline_of_the_running_integral():
    truth = phantom("vessels", (60, 48, 48), seed=3)
    stack, truth = truth.simulate(Acquisition(slices=6))
    integral = np.concatenate([np.zeros((1, 48, 48)), 6 * np.cumsum(stack.data, 0, dtype=np.float64)])
    spline = CubicSpline(6 * np.arange(11), integral, bc_type="natural")
    expected = np.diff(spline(np.arange(61)), axis=0)
    assert psnr(truth.data, interpolated(Conservative(), stack)) == pytest.approx(psnr(truth.data, expected), abs=0.05)


def test_conservative_is_linear_interpolation_between_points():
    stack = random_stack(Acquisition(slices=6, profile="point", count=7))
    np.testing.assert_allclose(interpolated(Conservative(), stack), interpolated(Linear(), stack), atol=1e-5)


def test_conservative_beats_the_papers_interpolations(truth, stack):
    scores = [psnr(truth.data, interpolated(method(), stack)) for method in METHODS]
    assert scores == sorted(scores)


@pytest.mark.parametrize("method", METHODS)
def test_one_preview_shows_the_whole_volume(method, stack):
    events = list(method(consistency="none").predict(stack, {}, Context()))
    assert [type(event) for event in events] == [Preview]
    assert events[0].start == 0
    np.testing.assert_array_equal(events[0].data, interpolated(method(consistency="none"), stack))


@pytest.mark.parametrize("method", METHODS)
def test_the_volume_knows_its_scale_and_source(method, stack):
    volume = predicted(method(), stack)
    assert volume.scale_um == stack.volume_scale_um == (1, 0.5, 0.5)
    assert volume.data.dtype == np.float32
    assert stack.name in volume.name


REFERENCE: dict[str, dict[str, Any]] = {
    # PSNR of linear, cubic and the conservative cubic spline; then of linear and cubic between point slices
    "axons": {"uniform": (31.17, 31.63, 31.89), "point": (29.42, 29.11)},
    "dendrites": {"uniform": (31.86, 32.26, 32.52), "point": (29.96, 29.56)},
    "membranes": {"uniform": (19.80, 20.69, 21.90), "point": (19.74, 20.16)},
    "nuclei_brain": {"uniform": (30.46, 31.03, 31.39), "point": (28.80, 28.53)},
    "nuclei_embryo": {"uniform": (27.36, 27.65, 27.93), "point": (24.63, 24.44)},
    "vessels": {"uniform": (31.22, 33.75, 35.31), "point": (31.54, 33.66)},
}


@pytest.mark.parametrize("name", REAL)
def test_reference_figures(name, shared, protocol):
    truth = protocol.prepare(tifffile.imread(shared / "data" / f"{name}.ome.tif"), 6)
    for profile, expected in REFERENCE[name].items():
        stack = ProjectionStack(protocol.project(truth, 6, profile), Acquisition(slices=6, profile=profile))
        between = np.ones(len(truth), bool)
        if profile == "point":
            between = (np.arange(len(truth)) % 6 != 0) & (np.arange(len(truth)) < len(truth) - 6)
        for method, figure in zip(METHODS, expected, strict=False):
            score = psnr(truth[between], interpolated(method(), stack)[between])
            assert score == pytest.approx(figure, abs=0.1 if method is Conservative else 0.01), (profile, method)
