"""Numerical parts along z: the blur against scipy's own."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

from napari_microdiffusion.numerics import blurred_along_z


@pytest.mark.parametrize("sigma", [0.05, 0.3, 1.0, 4.0])
@pytest.mark.parametrize("shape", [(1, 3, 2), (5, 4, 3), (40, 2, 2)])
def test_a_blur_is_scipys_filter(sigma, shape):
    array = np.random.default_rng(0).random(shape, np.float32)
    found = blurred_along_z(array, sigma)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, gaussian_filter1d(array, sigma, axis=0, mode="nearest"), atol=1e-6)
