"""A plane network at work on a stack: planes along z of the interpolated volume, made sharper and kept consistent."""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..acquisition import Acquisition
from ..events import Event, Preview, Stage, Step
from ..numerics import Array
from ..volume import ProjectionStack
from ._base import Context, autocast
from ._patches import Anisotropy, along_rows

if TYPE_CHECKING:
    from torch import Tensor

    from ..plane_net import FoldedNet, PlaneNet

Z90 = 1.645
"""Half the width of the normal distribution's 90 % interval, in standard deviations."""

Direction = tuple[int, int]
XZ, YZ = (0, 1), (1, 0)
DIRECTIONS: tuple[Direction, ...] = XZ, YZ, (1, 1), (1, -1)
"""Steps along y and x from one column of voxels in a plane to the next. Each pixel lies on one line of each direction,
and no value is interpolated; on the diagonals pixels are √2 apart, as the network is told."""


class Restored(NamedTuple):
    """Some parallel planes after restoration.

    Parameters
    ----------
    at
        Rows and columns (p,) of their columns of voxels in the volume.
    estimate
        (Z, p).
    distances
        (2, Z, p) to the bounds of the 90 % interval.
    planes
        Their number.
    """

    at: tuple[NDArray[np.int64], NDArray[np.int64]]
    estimate: NDArray[np.float32]
    distances: NDArray[np.float32]
    planes: int


def fold_of(acquisition: Acquisition) -> int:
    """Slices that are folded into the channels of one row: whole strides, as many as a projection reaches over."""
    return acquisition.step * -(-acquisition.slices // acquisition.step)


def restored(
    net: PlaneNet, acquisition: Acquisition, ridge: float, planes: Tensor, conditions: Tensor, context: Context
) -> tuple[Tensor, Tensor]:
    """Estimates (B, Z, x) that project as the interpolated ``planes`` (B, Z, x) do, and their spread (B, 2, Z, x).

    Parameters
    ----------
    conditions
        (B, 4), as of `Patches`.
    """
    unseen = planes.new_tensor(~acquisition.seen)
    with autocast(context):
        change, spread = net(planes, unseen, conditions)
    return planes + invisible(acquisition, ridge, change.float()), spread.float()


def invisible(acquisition: Acquisition, ridge: float, change: Tensor) -> Tensor:
    """What the projections do not see of a change (B, Z, x) of planes."""
    return change - along_rows(acquisition.smoothest(ridge), along_rows(acquisition.matrix, change))


def restore(
    net: PlaneNet,
    stack: ProjectionStack,
    volume: NDArray[np.float32],
    anisotropy: Anisotropy,
    strength: float,
    context: Context,
) -> Generator[Event, None, NDArray[np.float32]]:
    """Change an interpolated volume (Z, y, x) to the mean of its planes restored in all `DIRECTIONS`; until stopped.

    It is changed in place.

    Parameters
    ----------
    strength
        The change is multiplied by it.

    Returns
    -------
    distances
        (2, Z, y, x) to the bounds of the 90 % interval, as the network states them.
    """
    start = volume.copy()
    volume *= np.float32(1 - strength)
    spread = np.zeros((2, *volume.shape), np.float32)
    share = np.float32(1 / len(DIRECTIONS))
    size = start.shape[1], start.shape[2]
    yield Stage("Restoring planes along z", sum(len(lines(size, direction)[0]) for direction in DIRECTIONS))
    done = 0
    for direction in DIRECTIONS:
        for (rows, columns), estimate, distances, planes in through_planes(
            net, stack, start, direction, anisotropy, context
        ):
            volume[:, rows, columns] += np.float32(strength) * share * estimate
            spread[:, :, rows, columns] += share * distances
            done += planes
            yield Step(done)
            if context.should_stop():
                return spread
    yield Preview(0, volume.copy())
    return spread


def through_planes(
    net: PlaneNet,
    stack: ProjectionStack,
    volume: NDArray[np.float32],
    direction: Direction,
    anisotropy: Anisotropy,
    context: Context,
) -> Generator[Restored, None, None]:
    """Restore all planes of an interpolated volume (Z, y, x) that lie in one direction, batchwise."""
    import torch

    acquisition, ridge = stack.acquisition, stack.acquisition.ridge(stack.data)
    rows, columns, inside = lines((volume.shape[1], volume.shape[2]), direction)
    at_once = max(1, context.memory_bytes // plane_bytes(net, volume.shape[0] * rows.shape[1]))
    for start in range(0, len(rows), at_once):
        here = slice(start, start + at_once)
        planes = np.moveaxis(volume[:, rows[here], columns[here]], 0, 1)
        batch = torch.from_numpy(np.ascontiguousarray(planes)).to(context.device)
        conditions = anisotropy.conditions(batch, math.hypot(*direction))
        with torch.no_grad():
            estimate, spread = restored(net, acquisition, ridge, batch, conditions, context)
        yield Restored(
            (rows[here][inside[here]], columns[here][inside[here]]),
            np.moveaxis(estimate.cpu().numpy(), 1, 0)[:, inside[here]],
            np.moveaxis(spread.cpu().numpy(), 0, 2)[:, :, inside[here]],
            len(planes),
        )


def lines(
    size: tuple[int, int], direction: Direction
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """All lines of pixels across an image (y, x) in one direction: rows, columns, which lie inside; (lines, pixels).

    Diagonals run along the shorter side, and are mirrored beyond the image.
    """
    down, right = direction
    if not down or (right and size[0] > size[1]):
        columns, rows, inside = lines((size[1], size[0]), (1, right * down))
        return rows, columns, inside
    along = np.arange(size[0])
    first = np.arange(min(0, -right * along[-1]), size[1] - min(0, right * along[-1]))
    across = first[:, None] + right * along
    mirrored = np.minimum(across % (2 * size[1]), -(across + 1) % (2 * size[1]))
    return np.broadcast_to(along, across.shape), mirrored, (across >= 0) & (across < size[1])


def deviation(distances: Array) -> Array:
    """Standard deviation (...) of the normal distribution with a 90 % interval as wide as (2, ...) distances."""
    wide: Array = distances.sum(0) / (2 * Z90)
    return wide


def plane_bytes(net: FoldedNet, pixels: int) -> int:
    """Memory for one plane in the network: about twelve feature maps."""
    return 12 * 4 * pixels * net.channels // net.fold
