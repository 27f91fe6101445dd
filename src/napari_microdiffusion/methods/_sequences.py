"""What Recurrent-MZ is shown: for a wanted slice, the nearest projections from far to near, and how far they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..acquisition import Acquisition
from ..numerics import along_z, blurred_along_z

BEYOND = 0.1
"""Share of training slices that may lie beyond the outermost projections."""

CHANGED = 0.8
"""Share of training crops that are blurred, and of those that get noise."""

LEAST = 0.1
"""Of the largest error of linear interpolation among the training volumes: each counts as having so much."""


@dataclass(frozen=True)
class Sequences:
    """Which projections are shown for each of m wanted slices, M of them from far to near.

    Parameters
    ----------
    chosen
        (m, M), indices among the projections in use.
    distances
        (m, M), from the slice to the projection's centre, signed, in strides.
    """

    chosen: NDArray[np.int64]
    distances: NDArray[np.float32]


def sequences(acquisition: Acquisition, inputs: int) -> Sequences:
    """For every slice the nearest projections in use, ``inputs`` of them (at least two): Z sequences.

    The nearest one on either side is among them, if there is one, so that they enclose the slice. Where there are
    fewer than ``inputs``, the farthest is shown several times.
    """
    centres, slices = acquisition.projection_centres, acquisition.slice_centres
    away = (centres - slices[:, None]) / acquisition.step
    rank = np.abs(away)
    for side in (away <= 0, away >= 0):
        first = np.where(side, np.abs(away), np.inf).argmin(1)
        rows = np.flatnonzero(side.any(1))
        rank[rows, first[rows]] = -1
    nearest = np.argsort(rank, axis=1, kind="stable")[:, :inputs]
    order = np.argsort(-np.abs(np.take_along_axis(away, nearest, 1)), axis=1, kind="stable")
    chosen = np.take_along_axis(nearest, order, 1)
    distances = np.take_along_axis(away, chosen, 1)
    missing = (0, 0), (inputs - chosen.shape[1], 0)
    return Sequences(np.pad(chosen, missing, mode="edge"), np.pad(distances, missing, mode="edge").astype(np.float32))


@dataclass(frozen=True)
class Batch:
    """Training crops, float32.

    Parameters
    ----------
    images, distances
        Those shown (B, M, y, x), from far to near, and their distances (B, M).
    linear, truth
        The linear interpolation and the true slice (B, y, x).
    spread
        (B,), how far linear interpolation is off in the volume that a crop is from, root mean square: every volume
        weighs alike when errors are divided by it.
    """

    images: NDArray[np.float32]
    distances: NDArray[np.float32]
    linear: NDArray[np.float32]
    truth: NDArray[np.float32]
    spread: NDArray[np.float32]


@dataclass(frozen=True)
class Variety:
    """How training crops are drawn.

    Parameters
    ----------
    inputs, side
        Images shown, and the side of a crop in pixels; smaller volumes give smaller crops.
    hiding
        Share of the crops in which a projection is hidden, so that larger distances are known too.
    blur, noise
        Most crops are blurred along z by up to so many slices (standard deviation), and the images of most of
        them get white noise of up to so much: volumes differ most in these, and the network is to see which it is.
    """

    inputs: int
    side: int
    hiding: float
    blur: float
    noise: float


class Drawer:
    """Draws training batches from full volumes: random crops, turned and dimmed, as the acquisition would see them.

    Parameters
    ----------
    volumes
        Each (Z, y, x), deep enough for three projections.
    acquisition
        Not bound to a stack.
    seed
        Fixes the draws.
    """

    def __init__(
        self, volumes: Sequence[NDArray[np.float32]], acquisition: Acquisition, variety: Variety, seed: int
    ) -> None:
        self._volumes, self._variety = volumes, variety
        self._side = min([variety.side, *(min(volume.shape[1:]) for volume in volumes)])
        # two projections more than are shown, so that one can be hidden and slices lie within and at the ends
        self._acquisitions = [
            acquisition.bound(min(variety.inputs + 2, len(acquisition.fitted(len(volume)).shown))) for volume in volumes
        ]
        self._spreads = spreads(volumes, acquisition)
        self._random = np.random.default_rng(seed)

    def __call__(self, batch: int) -> Batch:
        drawn = [self._draw() for _ in range(batch)]
        images, distances, linear, truth, spread = (np.stack(parts) for parts in zip(*drawn, strict=True))
        return Batch(images, distances, linear, truth, spread)

    def _draw(self) -> tuple[NDArray[np.float32], ...]:
        random = self._random
        which = int(random.integers(len(self._volumes)))
        acquisition = self._acquisitions[which]
        gain = np.float32(random.uniform(0.6, 1.6))
        crop = gain * self._crop(self._volumes[which], acquisition.depth)
        if self._variety.blur and random.random() < CHANGED:
            crop = blurred_along_z(crop, random.uniform(0, self._variety.blur))
        if random.random() < self._variety.hiding:
            acquisition = acquisition.without((int(random.integers(len(acquisition.shown))),))
        z = self._wanted(acquisition)
        images = acquisition.project(crop)
        if self._variety.noise and random.random() < CHANGED:
            noise = np.float32(random.uniform(0, self._variety.noise))
            images = images + noise * random.standard_normal(images.shape, np.float32)
        linear = along_z(acquisition.linear[z : z + 1], images)[0]
        shown = sequences(acquisition, self._variety.inputs)
        spread = np.asarray(gain * self._spreads[which], np.float32)
        return images[shown.chosen[z]], shown.distances[z], linear, crop[z], spread

    def _wanted(self, acquisition: Acquisition) -> int:
        """A random slice to be found, nine of ten times one that lies between two projections.

        What lies beyond the outermost is hard to tell: its errors are large, and most of training would go there.
        """
        wanted = ~acquisition.fixed
        if not wanted.any():
            wanted = ~wanted
        centres, slices = acquisition.projection_centres, acquisition.slice_centres
        between = wanted & (slices > centres[0]) & (slices < centres[-1])
        if between.any() and self._random.random() > BEYOND:
            wanted = between
        return int(self._random.choice(np.flatnonzero(wanted)))

    def _crop(self, volume: NDArray[np.float32], depth: int) -> NDArray[np.float32]:
        """(depth, side, side) of a volume, turned over and transposed at random."""
        random, side = self._random, self._side
        sizes = zip(volume.shape, (depth, side, side), strict=True)
        z, y, x = (int(random.integers(size - part + 1)) for size, part in sizes)
        crop: NDArray[np.float32] = volume[z : z + depth, y : y + side, x : x + side]
        for axis in range(3):
            crop = np.flip(crop, axis) if random.integers(2) else crop
        return np.swapaxes(crop, 1, 2) if random.integers(2) else crop


def linear_error(volume: NDArray[np.float32], acquisition: Acquisition) -> float:
    """Root mean square error of linear interpolation in the slices to be found of a volume (Z, y, x), never zero."""
    bound = acquisition.fitted(len(volume))
    volume = volume[: bound.depth]
    error = (along_z(bound.linear, bound.project(volume)) - volume)[~bound.fixed]
    return max(1e-3, float(np.sqrt(np.mean(np.square(error))))) if error.size else 1.0


def spreads(volumes: Sequence[NDArray[np.float32]], acquisition: Acquisition) -> list[float]:
    """`linear_error` of each volume, and `LEAST` of the largest at least: by these the errors in training are divided.

    A volume that hardly changes along z would count by its noise alone, and outweigh all others.
    """
    errors = [linear_error(volume, acquisition) for volume in volumes]
    return [max(error, LEAST * max(errors)) for error in errors]
