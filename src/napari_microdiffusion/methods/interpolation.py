"""Interpolation along z: the papers' baselines, and the conservative one that reprojects exactly.

Each is one constant Z x K matrix applied to all pixels at once.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from ..events import Event, Preview
from ..numerics import along_z
from ..volume import ProjectionStack
from ._base import Context, Method, Weights
from ._settings import FinalConsistency


class Interpolation(Method):
    """Shared by the three: one matrix for all pixels, from the acquisition (and, with overlap, the noise)."""

    retrains: ClassVar[bool] = False

    @abstractmethod
    def matrix(self, stack: ProjectionStack) -> NDArray[np.float64]:
        """Shape (Z, K): weights of the projections in use in every slice; rows sum to 1."""

    def estimate(
        self, stack: ProjectionStack, weights: Weights, context: Context
    ) -> Generator[Event, None, NDArray[np.float32]]:
        data = along_z(self.matrix(stack), stack.data.astype(np.float32, copy=False))
        yield Preview(0, data.copy())
        return data


class Linear(Interpolation):
    """Linear interpolation between projection centres, constant beyond the outer ones (MicroDiffusion, Sec. 5.3)."""

    kind: Literal["linear"] = "linear"

    def matrix(self, stack: ProjectionStack) -> NDArray[np.float64]:
        return stack.acquisition.linear


class Cubic(Interpolation):
    """Natural cubic spline through projection centres, constant beyond the outer ones (MicroDiffusion, Sec. 5.3)."""

    kind: Literal["cubic"] = "cubic"

    def matrix(self, stack: ProjectionStack) -> NDArray[np.float64]:
        centres, z = stack.acquisition.projection_centres, stack.acquisition.slice_centres
        spline = CubicSpline(centres, np.eye(len(centres)), bc_type="natural")
        return np.asarray(spline(z.clip(centres[0], centres[-1])))


class Conservative(Interpolation):
    """The smoothest volume that reprojects exactly: argmin ‖Dx‖² subject to Ax = y, D the first difference along z.

    For contiguous uniform projections it is the natural cubic spline of the running integral to within
    0.05 dB, for point projections linear interpolation. Overlapping projections get the ridge of
    `ridge_of` instead of the exact constraint.
    """

    kind: Literal["conservative"] = "conservative"
    consistency: FinalConsistency = "final"

    def matrix(self, stack: ProjectionStack) -> NDArray[np.float64]:
        return stack.interpolation
