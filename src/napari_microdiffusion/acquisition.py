"""The forward operator: what the elongated beam does to the volume.

One projection is a weighted mean of ``slices`` consecutive slices (MicroDiffusion, Sec. 3:
X_i = 1/n Σ_k m_k). With weight on the first slice alone it is a sparsely sampled slice
(Sparse3Diff's problem). The same banded K x Z matrix A serves simulation, training losses,
consistency and residuals, for every pixel alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property, lru_cache
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from .events import InvalidInput
from .noise import noise_variance
from .numbering import HIGHEST
from .numerics import Array, along_z, least_change, linear_weights, smoothest_change

Profile = Literal["uniform", "gaussian", "point", "measured"]

MINIMUM_PROJECTIONS = 3

NEGLIGIBLE = 1e-6
"""A weight that is less of the largest counts as none: a slice at the far end of a narrow beam is not measured."""


class Acquisition(BaseModel):
    """How a volume of Z slices became K projections.

    Without ``count`` it describes the microscope alone (slices, stride, profile); `bound` ties
    it to a stack of K projections, after which the operator can be used. Arrays have z first:
    (Z, ...) for volumes, (K, ...) for projections; numpy arrays and torch tensors both work.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    slices: Annotated[int, Field(ge=1, le=1000, description="slices that one projection stands for (n)")] = 6
    stride: Annotated[
        int | None, Field(ge=1, le=10000, description="slices between the starts of two projections; default: slices")
    ] = None
    profile: Annotated[Profile, Field(description="axial weights of the beam over the n slices")] = "uniform"
    fwhm: Annotated[
        float | None,
        Field(
            ge=0.1, le=10000, description="full width at half maximum (gaussian profile), in slices; default: slices"
        ),
    ] = None
    weights: Annotated[
        tuple[float, ...] | None, Field(description="n measured weights, for the measured profile; scaled to sum to 1")
    ] = None
    count: Annotated[int | None, Field(ge=1, le=HIGHEST, description="projections acquired, hidden ones too")] = None
    hidden: Annotated[tuple[int, ...], Field(description="indices of projections that are not to be used")] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.profile == "measured") != (self.weights is not None):
            raise ValueError("the measured profile needs its weights, and only that profile takes weights")
        if self.weights is not None:
            if len(self.weights) != self.slices:
                raise ValueError(
                    f"the measured profile has {len(self.weights)} weights but slices is {self.slices}: "
                    "give one weight per slice"
                )
            values = np.asarray(self.weights)
            if not np.isfinite(values).all() or (values < 0).any() or values.sum() <= 0:
                raise ValueError("profile weights must be finite, not negative, and not all zero")
        if self.fwhm is not None and self.profile != "gaussian":
            raise ValueError("fwhm belongs to the gaussian profile alone")
        if self.hidden and (
            self.count is None
            or len(set(self.hidden)) != len(self.hidden)
            or not set(self.hidden) < set(range(self.count))
        ):
            raise ValueError("hidden must be distinct indices of the acquired projections, and leave some of them")
        return self

    def __eq__(self, other: object) -> bool:
        """Whether all fields agree; pydantic's own also compares the arrays kept beside them."""
        return isinstance(other, Acquisition) and self._fields == other._fields

    def __hash__(self) -> int:
        return hash(self._fields)

    @property
    def _fields(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in Acquisition.model_fields)

    # -- geometry ---------------------------------------------------------------------------

    @property
    def step(self) -> int:
        """Slices from one projection's start to the next."""
        return self.stride or self.slices

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

    @cached_property
    def profile_weights(self) -> NDArray[np.float64]:
        """The beam's weights over its n slices, shape (n,), summing to 1."""
        n = self.slices
        if self.profile == "uniform":
            weights = np.ones(n)
        elif self.profile == "point":
            weights = np.eye(n)[0]
        elif self.profile == "gaussian":
            offset = np.arange(n) - (n - 1) / 2
            exponent = 4 * np.log(2) * (offset / (self.fwhm or n)) ** 2
            weights = np.exp(exponent.min() - exponent)  # not 0 everywhere for a narrow beam between two slices
        else:
            weights = np.asarray(self.weights, np.float64)
        weights = np.where(weights < NEGLIGIBLE * weights.max(), 0.0, weights)
        return np.asarray(weights / weights.sum(), np.float64)

    @property
    def single(self) -> bool:
        """Whether a projection is one slice, however the profile says so."""
        return bool(np.count_nonzero(self.profile_weights) == 1)

    @property
    def effective_slices(self) -> float:
        """Slices that a projection averages in effect: 1/Σ_j w_j², n for a uniform profile and 1 for a point."""
        return 1 / float((self.profile_weights**2).sum())

    @property
    def slice_centres(self) -> NDArray[np.float64]:
        """Centre of every slice, in slices from the top of the volume, shape (Z,): k + 1/2."""
        return np.arange(self.depth, dtype=np.float64) + 0.5

    @property
    def projection_centres(self) -> NDArray[np.float64]:
        """Centre of mass of every projection in use, in slices, shape (K,): s + Σ_j w_j (j + 1/2)."""
        return self.starts.astype(np.float64) + self.first_centre

    @property
    def first_centre(self) -> float:
        """Centre of mass of the first projection that was acquired, in slices, be it in use or not."""
        return float(self.profile_weights @ (np.arange(self.slices) + 0.5))

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
    def decoupled(self) -> bool:
        """Whether every slice belongs to one projection at most, so that blocks can be treated apart."""
        return self.step > int(np.ptp(np.flatnonzero(self.profile_weights)))

    @property
    def description(self) -> str:
        """One line for people: ``6 slices, stride 6, uniform profile``."""
        width = f", FWHM {self.fwhm or self.slices:g} slices" if self.profile == "gaussian" else ""
        return f"{self.slices} slices, stride {self.step}, {self.profile} profile{width}"

    def alike(self, other: Acquisition) -> bool:
        """Whether slices, stride and weights are the same, whatever the profile is called; their number may differ."""
        same = (self.slices, self.step) == (other.slices, other.step)
        return same and np.allclose(self.profile_weights, other.profile_weights, atol=1e-6)

    def bound(self, count: int) -> Acquisition:
        """The same acquisition with ``count`` projections, none hidden."""
        return self.replace(count=count, hidden=())

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

    def ridge(self, projections: NDArray[Any], noise: float | None = None) -> float:
        """The ridge that `enforce` and `smoothest` need for these projections (K, y, x): 0 unless some overlap.

        Overlapping rows make A Aᵀ ill-conditioned, and its exact inverse would amplify noise by the
        condition number. The noise's variance over that of the change from slice to slice bounds this: under
        ‖Dx‖², slices are a random walk, and its variance follows from projections that share no slice. ``noise`` is
        the noise's variance, in squares of the intensity, where it is known otherwise than from the projections.
        """
        if self.decoupled or len(self.shown) == 1:
            return 0.0
        noise = noise_variance(projections) if noise is None else noise
        lag = self.apart
        walk = np.cumsum(self.matrix[:, ::-1], axis=1)[:, ::-1]  # what each slice's change does to the projections
        gain = float(((walk[lag:] - walk[:-lag]) ** 2).sum(1).mean())
        change = max(self.spread(projections) - 2 * noise, 0.01 * noise, 1e-30) / gain
        return max(1e-6, noise / change)

    @property
    def apart(self) -> int:
        """From one projection in use to the next that shares no slice with it, in projections."""
        return min(-(-self.slices // self.step), len(self.shown) - 1)

    def spread(self, projections: NDArray[Any]) -> float:
        """Mean squared difference between neighbouring projections (K, y, x) that share no slice."""
        pairs = zip(projections[self.apart :], projections[: -self.apart], strict=True)
        return float(np.mean([np.square(np.subtract(one, other, dtype=np.float64)).mean() for one, other in pairs]))

    def enforce(self, volume: Array, projections: Array, ridge: float = 0.0, smooth: bool = False) -> Array:
        """The nearest volume that reprojects to the measurement: x + Aᵀ(AAᵀ + ridge)⁻¹(y − Ax).

        Exact for ``ridge`` 0. Values are not clipped: clipping would break consistency.

        Parameters
        ----------
        volume, projections
            x (Z, ...) and y (K, ...).
        ridge
            See `ridge`.
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
