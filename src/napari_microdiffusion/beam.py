"""The elongated beam: the weights with which it averages slices, and how far apart its projections start."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

Profile = Literal["uniform", "gaussian", "point", "measured"]

NEGLIGIBLE = 1e-6
"""A weight that is less of the largest counts as none: a slice at the far end of a narrow beam is not measured."""


class Beam(BaseModel):
    """How one projection averages slices, and where the next one starts, whatever their number.

    Frozen and hashable; two are equal where all fields agree.
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

    @model_validator(mode="after")
    def _check_profile(self) -> Self:
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
        return self

    def __eq__(self, other: object) -> bool:
        """Whether all fields agree; pydantic's own also compares the arrays kept beside them."""
        return type(other) is type(self) and isinstance(other, Beam) and self._fields == other._fields

    def __hash__(self) -> int:
        return hash(self._fields)

    @property
    def _fields(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in type(self).model_fields)

    @property
    def step(self) -> int:
        """Slices from one projection's start to the next."""
        return self.stride or self.slices

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
    def first_centre(self) -> float:
        """Centre of mass of the first projection that was acquired, in slices, be it in use or not."""
        return float(self.profile_weights @ (np.arange(self.slices) + 0.5))

    @property
    def decoupled(self) -> bool:
        """Whether every slice belongs to one projection at most, so that blocks can be treated apart."""
        return self.step > int(np.ptp(np.flatnonzero(self.profile_weights)))

    @property
    def description(self) -> str:
        """One line for people: ``6 slices, stride 6, uniform profile``."""
        width = f", FWHM {self.fwhm or self.slices:g} slices" if self.profile == "gaussian" else ""
        return f"{self.slices} slices, stride {self.step}, {self.profile} profile{width}"

    def alike(self, other: Beam) -> bool:
        """Whether slices, stride and weights are the same, whatever the profile is called; their number may differ."""
        same = (self.slices, self.step) == (other.slices, other.step)
        return same and np.allclose(self.profile_weights, other.profile_weights, atol=1e-6)
