"""The forward operator: what the elongated beam does to the volume.

One projection is a weighted mean of ``slices`` consecutive slices (MicroDiffusion, Sec. 3:
X_i = 1/n Σ_k m_k). With weight on the first slice alone it is a sparsely sampled slice
(Sparse3Diff's problem). The same banded K x Z matrix A serves simulation, training losses,
consistency and residuals, for every pixel alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property, lru_cache
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from .beam import Beam
from .events import InvalidInput
from .numbering import HIGHEST
from .numerics import Array, along_z, least_change, linear_weights, smoothest_change

MINIMUM_PROJECTIONS = 3


class Acquisition(Beam):
    """How a volume of Z slices became K projections.

    Without ``count`` it describes the microscope alone; `bound` ties it to a stack of K projections, after which the
    operator can be used. Arrays have z first:
    (Z, ...) for volumes, (K, ...) for projections; numpy arrays and torch tensors both work.
    """

    count: Annotated[int | None, Field(ge=1, le=HIGHEST, description="projections acquired, hidden ones too")] = None
    hidden: Annotated[tuple[int, ...], Field(description="indices of projections that are not to be used")] = ()

    @model_validator(mode="after")
    def _check_hidden(self) -> Self:
        if self.hidden and (
            self.count is None
            or len(set(self.hidden)) != len(self.hidden)
            or not set(self.hidden) < set(range(self.count))
        ):
            raise ValueError("hidden must be distinct indices of the acquired projections, and leave some of them")
        return self

    # -- geometry ---------------------------------------------------------------------------

    @property
    def depth(self) -> int:
        """Slices of the volume: Z = (K − 1)·stride + n."""
        return (self._count - 1) * self.step + self.slices

    @property
    def shown(self) -> tuple[int, ...]:
        """Indices of the projections in use, of those acquired."""
        hidden = set(self.hidden)
        return tuple(i for i in range(self._count) if i not in hidden)

    @property
    def starts(self) -> NDArray[np.int64]:
        """First slice of each projection in use, shape (K,)."""
        return np.asarray(self.shown, np.int64) * self.step

    @property
    def slice_centres(self) -> NDArray[np.float64]:
        """Centre of every slice, in slices from the top of the volume, shape (Z,): k + 1/2."""
        return np.arange(self.depth, dtype=np.float64) + 0.5

    @property
    def projection_centres(self) -> NDArray[np.float64]:
        """Centre of mass of every projection in use, in slices, shape (K,): s + Σ_j w_j (j + 1/2)."""
        return self.starts.astype(np.float64) + self.first_centre

    @property
    def seen(self) -> NDArray[np.bool_]:
        """Which slices have weight in some projection in use, shape (Z,); the others are inferred from neighbours."""
        return np.asarray(self.matrix.any(0))

    @property
    def unseen(self) -> tuple[int, int]:
        """How many slices no projection in use has seen: between two of them, and beyond the outermost ones."""
        seen = np.flatnonzero(self.seen)
        inside = int(seen[-1] - seen[0]) + 1
        return inside - len(seen), self.depth - inside

    @property
    def fixed(self) -> NDArray[np.bool_]:
        """Which slices some projection in use shows all by themselves, shape (Z,)."""
        alone = np.count_nonzero(self.matrix, axis=1) == 1
        return np.asarray(self.matrix[alone].any(0))

    @property
    def inferred(self) -> NDArray[np.bool_]:
        """Which slices no projection in use shows all by themselves, shape (Z,); all of them where each is `fixed`."""
        return ~self.fixed | self.fixed.all()

    def bound(self, count: int) -> Acquisition:
        """The same acquisition with ``count`` projections, none hidden."""
        return self.replace(count=count, hidden=())

    @property
    def unbound(self) -> Acquisition:
        """The same acquisition of any number of projections: the microscope alone."""
        return self.replace(count=None, hidden=())

    def fitted(self, depth: int) -> Acquisition:
        """The same acquisition with as many projections as fill a volume of ``depth`` slices.

        Raises
        ------
        InvalidInput
            If fewer than three projections fit.
        """
        count = (depth - self.slices) // self.step + 1 if depth >= self.slices else 0
        if count < MINIMUM_PROJECTIONS:
            raise InvalidInput(
                f"a volume of {depth} slices holds {count} projection(s) of {self.slices} slices "
                f"at stride {self.step}; at least {MINIMUM_PROJECTIONS} are needed: "
                "use fewer slices per projection or a deeper volume"
            )
        return self.bound(count)

    def without(self, indices: tuple[int, ...]) -> Acquisition:
        """The same acquisition with further projections hidden, by their index among those in use; Z stays.

        Raises
        ------
        InvalidInput
            For an index that is not there, or if none would be left.
        """
        shown = self.shown
        if not set(indices) <= set(range(len(shown))) or len(set(indices)) == len(shown):
            raise InvalidInput(
                f"cannot hide projections {sorted(set(indices))}: indices run from 0 to {len(shown) - 1}, "
                "and some projections must be left"
            )
        return self.replace(hidden=tuple(sorted({*self.hidden, *(shown[i] for i in indices)})))

    def leaving_out(self, acquired: Iterable[int]) -> Acquisition:
        """The same acquisition without some of the projections that were acquired, by their index among these.

        Raises
        ------
        InvalidInput
            For one that is not there, or if too few would be left.
        """
        unwanted = {*self.hidden, *acquired}
        if not unwanted <= set(range(self._count)):
            raise InvalidInput(
                f"there are {self._count} projections: those to be left out are numbered from 1 to {self._count}"
            )
        left = self._count - len(unwanted)
        if left < MINIMUM_PROJECTIONS:
            raise InvalidInput(
                f"with {len(unwanted)} of {self._count} projections left out {left} would be left; at least "
                f"{MINIMUM_PROJECTIONS} are needed"
            )
        return self.replace(hidden=tuple(sorted(unwanted)))

    def replace(self, **changes: Any) -> Acquisition:
        """A validated copy with some fields changed."""
        return Acquisition.model_validate({**self.model_dump(), **changes})

    # -- the operator -----------------------------------------------------------------------

    @cached_property
    def matrix(self) -> NDArray[np.float64]:
        """A, shape (K, Z): one row of profile weights per projection in use, each summing to 1."""
        matrix = np.zeros((len(self.shown), self.depth))
        for row, start in zip(matrix, self.starts, strict=True):
            row[start : start + self.slices] = self.profile_weights
        return matrix

    @property
    def linear(self) -> NDArray[np.float64]:
        """Linear interpolation between projection centres, constant beyond the outer ones: weights (Z, K)."""
        return linear_weights(self.projection_centres, self.slice_centres)

    def project(self, volume: Array) -> Array:
        """A x: projections (K, ...) of a volume (Z, ...)."""
        return along_z(self.matrix, volume)

    def backproject(self, projections: Array) -> Array:
        """Aᵀ y, the adjoint of `project`: (Z, ...) from (K, ...)."""
        return along_z(self.matrix.T, projections)

    def residual(self, volume: Array, projections: Array) -> Array:
        """y − A x: what the volume (Z, ...) leaves unexplained of the projections (K, ...)."""
        unexplained: Array = projections - self.project(volume)
        return unexplained

    def enforce(self, volume: Array, projections: Array, ridge: float = 0.0, smooth: bool = False) -> Array:
        """The nearest volume that reprojects to the measurement: x + Aᵀ(AAᵀ + ridge)⁻¹(y − Ax).

        Exact for ``ridge`` 0. Values are not clipped: clipping would break consistency.

        Parameters
        ----------
        volume, projections
            x (Z, ...) and y (K, ...).
        ridge
            For ``smooth`` that of `ridge.ridge_of`; for the least change the noise's variance over that of what is to
            be added to the volume, slice by slice.
        smooth
            Make the smoothest change along z instead of the least one (`smoothest` in place of `correction`).
            The least change is the same for all n slices of a projection and leaves steps at their edges.
        """
        change = self.smoothest(ridge) if smooth else self.correction(ridge)
        consistent: Array = volume + along_z(change, self.residual(volume, projections))
        return consistent

    def correction(self, ridge: float = 0.0) -> NDArray[np.float64]:
        """Aᵀ(AAᵀ + ridge)⁻¹, shape (Z, K), solved once in float64 for all pixels; read only."""
        return _change(self, float(ridge), False)

    def smoothest(self, ridge: float = 0.0) -> NDArray[np.float64]:
        """The Z x K matrix of argmin ‖Dx‖² subject to Ax = y, D the first difference along z.

        With a ridge, of argmin ‖Dx‖² + ‖Ax − y‖²/ridge. Solved once in float64 for all pixels; read only.
        """
        return _change(self, float(ridge), True)

    @property
    def _count(self) -> int:
        if self.count is None:
            raise ValueError("this acquisition is not bound to a stack yet: call bound(K) first")
        return self.count


@lru_cache(maxsize=8)
def _change(acquisition: Acquisition, ridge: float, smooth: bool) -> NDArray[np.float64]:
    """Solved once for an acquisition and its ridge; shared, so read only."""
    change = (smoothest_change if smooth else least_change)(acquisition.matrix, ridge)
    change.setflags(write=False)
    return change
