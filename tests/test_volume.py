from __future__ import annotations

import numpy as np
import pytest

from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.events import InvalidInput
from napari_microdiffusion.volume import Intensity, ProjectionStack, Volume

GREY = np.random.default_rng(0).integers(100, 4000, (6, 40, 48)).astype(np.uint16)


def test_check_accepts_the_smallest_stack_there_may_be():
    ProjectionStack(GREY[:3, :32, :32], Acquisition(slices=1)).check()


def test_a_stack_binds_its_acquisition_to_its_projections():
    stack = ProjectionStack(GREY, Acquisition(slices=6, stride=4))
    assert stack.acquisition.count == 6
    assert stack.volume_shape == (26, 40, 48)


def test_an_acquisition_of_another_stack_is_refused():
    with pytest.raises(InvalidInput, match="has 6 projections but its acquisition describes 5"):
        ProjectionStack(GREY, Acquisition(slices=6, count=5))


def test_hiding_projections_takes_images_and_rows_alike():
    stack = ProjectionStack(GREY, Acquisition(slices=6), (6, 0.5, 0.5))
    kept = stack.without([0, 4]).without([1])
    np.testing.assert_array_equal(kept.data, GREY[[1, 3, 5]])
    assert kept.acquisition.shown == (1, 3, 5)
    assert kept.volume_shape == stack.volume_shape
    assert kept.volume_scale_um == stack.volume_scale_um
    assert stack.shape == (6, 40, 48)  # the original is unchanged


def test_simulate_projects_and_crops(truth):
    acquisition = Acquisition(slices=7, stride=8)
    stack, cropped = truth.simulate(acquisition)
    assert stack.shape == (4, 48, 48)
    assert cropped.shape == stack.volume_shape == (31, 48, 48)
    np.testing.assert_array_equal(cropped.data, truth.data[:31])
    for k in range(4):
        np.testing.assert_allclose(stack.data[k], truth.data[8 * k : 8 * k + 7].mean(0), atol=1e-6)
    assert stack.scale_um == (8, 0.5, 0.5)  # stride · dz
    assert stack.volume_scale_um == cropped.scale_um == (1, 0.5, 0.5)
    assert truth.name in stack.name


def test_simulate_agrees_with_the_protocol(truth, protocol):
    for profile in ("uniform", "point"):
        stack, _ = truth.simulate(Acquisition(slices=6, profile=profile))
        np.testing.assert_allclose(stack.data, protocol.project(truth.data, 6, profile), atol=1e-6)


def test_simulate_refuses_a_volume_that_is_too_shallow(truth):
    with pytest.raises(InvalidInput, match="holds 2 projection"):
        truth.simulate(Acquisition(slices=13))


@pytest.mark.parametrize(
    "scale", [(1, -2, 1), (0, 1, 1), (float("nan"), 1, 1), (1, float("inf"), 1), (1, 2), ("a", 1, 1), 3]
)
def test_what_is_no_voxel_size_is_refused(scale):
    for make in (Volume, lambda data, size: ProjectionStack(data, Acquisition(slices=6), size)):
        with pytest.raises(InvalidInput, match="give three sizes"):
            make(GREY, scale)


def test_scale_may_be_unknown():
    volume = Volume(np.repeat(GREY, 3, axis=0))
    stack, cropped = volume.simulate(Acquisition(slices=6))
    assert volume.scale_um is None
    assert stack.scale_um is None
    assert stack.volume_scale_um is None
    assert cropped.scale_um is None


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32", "float64"])
def test_the_source_dtype_is_kept(dtype):
    volume = Volume(np.repeat(GREY, 3, axis=0).astype(dtype))
    stack, cropped = volume.simulate(Acquisition(slices=6))
    assert volume.data.dtype == dtype
    assert volume.source_dtype == stack.source_dtype == cropped.source_dtype == dtype
    assert stack.data.dtype == np.float32
    assert stack.without([0]).source_dtype == dtype


def test_intensity_range():
    assert Volume(GREY).intensity_range == (GREY.min(), GREY.max())


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_normalised_and_restore_are_inverse(dtype):
    data = (np.random.default_rng(5).normal(120, 15, (6, 40, 48))).astype(dtype)
    working, intensity = ProjectionStack(data, Acquisition()).normalised()
    assert working.data.dtype == np.float32
    np.testing.assert_allclose(np.percentile(working.data, (0.1, 99.9)), (0, 1), atol=1e-5)
    assert working.data.min() < 0  # nothing is clipped
    assert working.data.max() > 1
    np.testing.assert_allclose(intensity.restore(working.data), data, rtol=1e-5, atol=1e-4)


def test_a_few_bright_pixels_on_black_are_normalised_by_their_range():
    data = np.zeros((6, 64, 64), np.float32)
    data[3, 10, 10] = 50
    working, intensity = ProjectionStack(data, Acquisition()).normalised()
    assert (working.data.min(), working.data.max()) == (0, 1)
    np.testing.assert_array_equal(intensity.restore(working.data), data)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda data: np.where(data == data.max(), np.finfo(np.float32).max, data), "stand for missing pixels"),
        (lambda data: np.where(data == data.min(), -1e20, data), "from -1e\\+20 to"),
        (lambda data: data.astype(np.float64) * 1e39, "rescale it"),
    ],
)
def test_values_without_room_in_float32_are_refused(spoil, told):
    data = np.random.default_rng(0).random((6, 40, 40)).astype(np.float32)
    with pytest.raises(InvalidInput, match=told):
        ProjectionStack(spoil(data), Acquisition()).normalised()
    working, _ = ProjectionStack(data * np.float32(1e14), Acquisition()).normalised()
    assert np.isfinite(working.data).all()


def test_restore_gives_float32():
    assert Intensity(10, 5).restore(np.array([0.0, 1.0, 2.0])).tolist() == [10, 15, 20]
    assert Intensity(10, 5).restore(np.zeros(2)).dtype == np.float32
