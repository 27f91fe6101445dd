"""Volumes and projection stacks: arrays that know their scale, origin and acquisition."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from .acquisition import MINIMUM_PROJECTIONS, Acquisition
from .events import InvalidInput
from .images import check_image, check_lateral, check_levels, check_values, pixels_sha256
from .noise import noise_variance
from .reliability import Reliability
from .ridge import ridge_of

LARGEST, FURTHEST = 1e15, 1e12
"""Intensities at most, and ranges of nearly all pixels that others may lie away: squares must fit into float32."""


@dataclass(frozen=True, eq=False)
class Volume:
    """Depth-resolved intensities.

    Parameters
    ----------
    data
        (z, y, x), any real dtype.
    scale_um
        Voxel size (z, y, x) in µm, or None where the source does not state it.
    name
        What people call it: a file's stem or a layer's name.
    source_dtype
        dtype of the data it was made from; the input's own for a volume that was read.
    provenance
        How it was made (job, versions, seed, ...), JSON-ready; None for measured data.
    reliability
        How far each voxel can be trusted, where the method says so.
    """

    data: NDArray[Any]
    scale_um: tuple[float, float, float] | None = None
    name: str = "volume"
    source_dtype: str = ""
    provenance: dict[str, Any] | None = field(default=None, repr=False)
    reliability: Reliability | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_image(self.data, self.name)
        _check_scale(self.scale_um, self.name)
        if self.reliability is not None and self.reliability.std.shape != self.data.shape:
            raise InvalidInput(
                f"{self.name} is {self.data.shape} (z, y, x), but its reliability is {self.reliability.std.shape}: "
                "give the one that was made with this volume"
            )
        if not self.source_dtype:
            object.__setattr__(self, "source_dtype", str(self.data.dtype))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(z, y, x)."""
        z, y, x = self.data.shape
        return z, y, x

    @property
    def intensity_range(self) -> tuple[float, float]:
        """Minimum and maximum."""
        return float(self.data.min()), float(self.data.max())

    def simulate(self, acquisition: Acquisition) -> tuple[ProjectionStack, Volume]:
        """Project this volume, and return the projections with the part of the volume they cover.

        Raises
        ------
        InvalidInput
            If fewer than three projections fit into the depth; for NaN, infinite or constant values.
        """
        bound = acquisition.fitted(self.shape[0])
        check_values(self.data, self.name)
        truth = replace(self, data=self.data[: bound.depth], reliability=None)
        scale = None if self.scale_um is None else (self.scale_um[0] * bound.step, *self.scale_um[1:])
        images = bound.project(truth.data.astype(np.float32, copy=False))
        return ProjectionStack(images, bound, scale, f"{self.name} projections", self.source_dtype), truth


@dataclass(frozen=True, eq=False)
class ProjectionStack:
    """K images, each a weighted mean of consecutive slices of an unknown volume.

    Parameters
    ----------
    data
        (k, y, x), any real dtype.
    acquisition
        The forward operator, bound to K projections in use.
    scale_um
        (stride·dz, y, x) in µm, or None where unknown; `volume_scale_um` is the volume's.
    error_variance
        By which the images are off, in squares of the intensity, where it is known otherwise than from them: what
        denoising left.
    """

    data: NDArray[Any]
    acquisition: Acquisition
    scale_um: tuple[float, float, float] | None = None
    name: str = "projections"
    source_dtype: str = ""
    error_variance: float | None = None

    def __post_init__(self) -> None:
        check_image(self.data, self.name)
        _check_scale(self.scale_um, self.name)
        if self.acquisition.count is None:
            object.__setattr__(self, "acquisition", self.acquisition.bound(len(self.data)))
        if len(self.acquisition.shown) != len(self.data):
            raise InvalidInput(
                f"{self.name} has {len(self.data)} projections but its acquisition describes "
                f"{len(self.acquisition.shown)}: choose the acquisition that belongs to this stack"
            )
        if not self.source_dtype:
            object.__setattr__(self, "source_dtype", str(self.data.dtype))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(k, y, x)."""
        k, y, x = self.data.shape
        return k, y, x

    @property
    def volume_shape(self) -> tuple[int, int, int]:
        """(z, y, x) of the volume to be reconstructed."""
        return self.acquisition.depth, *self.shape[1:]

    @property
    def volume_scale_um(self) -> tuple[float, float, float] | None:
        """Voxel size (dz, y, x) of the volume in µm."""
        if self.scale_um is None:
            return None
        return self.scale_um[0] / self.acquisition.step, *self.scale_um[1:]

    def with_voxels(self, scale_um: tuple[float, float, float]) -> Self:
        """The same stack, of a volume whose voxels have that size (dz, y, x) in µm."""
        dz, y, x = scale_um
        return replace(self, scale_um=(dz * self.acquisition.step, y, x))

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the pixels, (k, y, x)."""
        return pixels_sha256(self.data)

    @cached_property
    def ridge(self) -> float:
        """What `ridge_of` finds for these projections; 0 unless they overlap."""
        return ridge_of(self.acquisition, self.data, self.error_variance)

    @cached_property
    def noise_variance(self) -> float:
        """Variance by which the images are off, in squares of the intensity: white noise, or what denoising left."""
        return noise_variance(self.data) if self.error_variance is None else self.error_variance

    @property
    def interpolation(self) -> NDArray[np.float64]:
        """The conservative interpolation as weights (Z, K) of the projections, see `Acquisition.smoothest`."""
        return self.acquisition.smoothest(self.ridge)

    def without(self, indices: Iterable[int]) -> ProjectionStack:
        """The stack with some projections (indices among those in use) hidden; the volume keeps its depth."""
        hide = tuple(indices)
        keep = [i for i in range(len(self.data)) if i not in set(hide)]
        return replace(self, data=self.data[keep], acquisition=self.acquisition.without(hide))

    def leaving_out(self, acquired: Iterable[int]) -> ProjectionStack:
        """The stack without some projections, see `Acquisition.leaving_out`."""
        fewer = self.acquisition.leaving_out(acquired)
        shown = self.acquisition.shown
        return self.without(shown.index(k) for k in fewer.hidden if k in shown) if fewer != self.acquisition else self

    def normalised(self) -> tuple[Self, Intensity]:
        """The stack as float32 with its 0.1 and 99.9 percentiles at 0 and 1, and the way back. Nothing is clipped.

        Raises
        ------
        InvalidInput
            For values so large, or so far from all others, that float32 has no room for sums of their squares.
        """
        low, high = (float(v) for v in np.percentile(self.data, (0.1, 99.9)))
        least, most = float(self.data.min()), float(self.data.max())
        if high <= low:  # a few bright pixels on black
            low, high = least, most
        if max(most - high, low - least) > FURTHEST * (high - low) or max(abs(least), abs(most)) > LARGEST:
            raise InvalidInput(
                f"{self.name} holds values from {least:.3g} to {most:.3g}, nearly all of them between {low:.3g} and "
                f"{high:.3g}: replace those that stand for missing pixels (by the background, say), or rescale it"
            )
        scale = Intensity(low, (high - low) or 1.0)
        error = None if self.error_variance is None else self.error_variance / scale.gain**2
        return replace(self, data=scale.working(self.data), error_variance=error), scale

    def check(self) -> None:
        """Refuse what no method can use.

        Raises
        ------
        InvalidInput
            Fewer than three projections, lateral size below 32 pixels, NaN or infinite values, a constant stack, an
            offset that leaves no room for what differs.
        """
        k = len(self.data)
        if k < MINIMUM_PROJECTIONS:
            raise InvalidInput(
                f"{self.name} has {k} projection(s); at least {MINIMUM_PROJECTIONS} are needed: acquire a deeper stack"
            )
        check_lateral(self.shape, self.name)
        check_values(self.data, self.name)
        check_levels(self.data, self.name)


@dataclass(frozen=True)
class Intensity:
    """The map between the engine's working range and the input's intensities: value = offset + gain · working."""

    offset: float
    gain: float

    def working(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Intensities on the input's scale, any shape, as the engine works with them."""
        found: NDArray[np.float32] = (values.astype(np.float32) - np.float32(self.offset)) / np.float32(self.gain)
        return found

    def restore(self, working: NDArray[Any]) -> NDArray[np.float32]:
        """Working intensities, any shape, on the input's scale."""
        restored: NDArray[np.float32] = working.astype(np.float32)
        restored *= np.float32(self.gain)
        restored += np.float32(self.offset)
        return restored

    def restore_reliability(self, working: Reliability) -> Reliability:
        """A reliability on the input's scale: bounds as intensities, the standard deviation by the gain alone."""
        std = working.std.astype(np.float32)
        std *= np.float32(self.gain)
        return Reliability(std, self.restore(working.lower), self.restore(working.upper))


def _check_scale(scale_um: tuple[float, float, float] | None, name: str) -> None:
    """Refuse, with `InvalidInput`, what is no voxel size."""
    try:
        sizes = (1.0, 1.0, 1.0) if scale_um is None else tuple(map(float, scale_um))
    except (TypeError, ValueError):
        sizes = ()
    if len(sizes) != 3 or not all(0 < size < math.inf for size in sizes):
        raise InvalidInput(
            f"{name} cannot have voxels of {scale_um} µm: give three sizes (z, y, x) above 0, or None where they are "
            "not known"
        )
