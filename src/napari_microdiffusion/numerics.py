"""Numerical parts of the operator, matrices along z and the changes they make to a volume; decibels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

FLOOR = 1e-12
"""Of the squared error, in squares of the intensity range: a perfect slice scores 120 dB, not infinity."""

Array = TypeVar("Array", "NDArray[Any]", "torch.Tensor")


def along_z(matrix: NDArray[np.float64], array: Array) -> Array:
    """Apply a constant (P, Q) matrix along the first axis of a (Q, ...) array or tensor.

    In the array's own floating-point dtype; integers become float32.
    """
    flat = array.reshape(len(array), -1)
    shape = (len(matrix), *array.shape[1:])
    if isinstance(array, np.ndarray):
        dtype = array.dtype if array.dtype.kind == "f" else np.dtype(np.float32)
        applied: Array = (matrix.astype(dtype) @ flat.astype(dtype, copy=False)).reshape(shape)
    else:
        floating = flat if flat.is_floating_point() else flat.float()
        applied = (floating.new_tensor(matrix) @ floating).reshape(shape)
    return applied


def blurred_along_z(array: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """A (Z, ...) array after a Gaussian blur of ``sigma`` slices along its first axis; edges go on beyond it.

    As a matrix product, which takes a fraction of the time of a filter along that axis.
    """
    from scipy.ndimage import gaussian_filter1d

    return along_z(gaussian_filter1d(np.eye(len(array)), sigma, axis=0, mode="nearest"), array)


def linear_weights(knots: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Linear interpolation between rising ``knots`` (K,), constant beyond them: weights (Z, K) at positions (Z,)."""
    return np.stack([np.interp(at, knots, unit) for unit in np.eye(len(knots))], 1)


def least_change(matrix: NDArray[np.float64], ridge: float) -> NDArray[np.float64]:
    """Aᵀ(AAᵀ + ridge)⁻¹, shape (Z, K), of A (K, Z)."""
    gram = matrix @ matrix.T + ridge * np.eye(len(matrix))
    return np.asarray(np.linalg.solve(gram, matrix), np.float64).T


def decibels(error: NDArray[Any]) -> NDArray[np.float64]:
    """PSNR of mean squared errors (...), in squares of the intensity range: at most 120 dB."""
    found: NDArray[np.float64] = -10 * np.log10(np.maximum(np.asarray(error, np.float64), FLOOR))
    return found


def smoothest_change(matrix: NDArray[np.float64], ridge: float) -> NDArray[np.float64]:
    """The Z x K matrix of argmin ‖Dx‖² subject to Ax = y for A (K, Z), D the first difference along z.

    With a ridge, of argmin ‖Dx‖² + ‖Ax − y‖²/ridge: both from one KKT system, which is banded and solved as such.
    """
    from scipy.sparse import block_array, csc_array, eye_array
    from scipy.sparse.linalg import splu

    k, z = matrix.shape
    difference, operator = eye_array(z - 1, z, k=1) - eye_array(z - 1, z), csc_array(matrix)
    rough: csc_array[np.float64] = csc_array(difference.T @ difference)
    system = block_array([[rough, operator.T.tocsc()], [operator, csc_array(-ridge * eye_array(k))]], format="csc")
    right = np.concatenate([np.zeros((z, k)), np.eye(k)])
    return np.asarray(splu(system).solve(right)[:z], np.float64)
