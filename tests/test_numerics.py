"""Numerical parts along z: products with arrays of any kind, the smoothest change, the blur against scipy's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d

from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.numerics import along_z, blurred_along_z, smoothest_change


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32", "float64"])
def test_integers_have_means_that_are_none(kind, dtype):
    array = kind(np.array([[1, 4], [2, 5]], dtype))
    found = np.asarray(along_z(np.array([[0.5, 0.5]]), array))
    np.testing.assert_array_equal(found, [[1.5, 4.5]])
    assert found.dtype == (dtype if dtype.startswith("float") else "float32")


@pytest.mark.parametrize("ridge", [0.0, 0.3])
@pytest.mark.parametrize("stride", [4, 6, 8])
def test_the_smoothest_change_is_that_of_the_dense_system(ridge, stride):
    matrix = Acquisition(slices=6, stride=stride).bound(9).matrix
    k, z = matrix.shape
    steps = np.diff(np.eye(z), axis=0)
    system = np.block([[steps.T @ steps, matrix.T], [matrix, -ridge * np.eye(k)]])
    expected = np.linalg.solve(system, np.eye(z + k)[:, z:])[:z]
    np.testing.assert_allclose(smoothest_change(matrix, ridge), expected, atol=1e-12)


@pytest.mark.parametrize("sigma", [0.05, 0.3, 1.0, 4.0])
@pytest.mark.parametrize("shape", [(1, 3, 2), (5, 4, 3), (40, 2, 2)])
def test_a_blur_is_scipys_filter(sigma, shape):
    array = np.random.default_rng(0).random(shape, np.float32)
    found = blurred_along_z(array, sigma)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, gaussian_filter1d(array, sigma, axis=0, mode="nearest"), atol=1e-6)
