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
from ..reliability import Z90
from ..volume import ProjectionStack
from ._base import Context, autocast
from ._patches import Anisotropy, along_rows

if TYPE_CHECKING:
    from torch import Tensor

    from ..plane_net import FoldedNet, PlaneNet

Direction = tuple[int, int]
XZ, YZ = (0, 1), (1, 0)
DIRECTIONS: tuple[Direction, ...] = XZ, YZ, (1, 1), (1, -1)
"""Steps along y and x from one column of voxels in a plane to the next. Each pixel lies on one line of each direction,
and no value is interpolated; on the diagonals pixels are √2 apart, as the network is told."""

PARTS = 4
"""Of the planes in one direction, restored one after the other: copies of all would outweigh the volumes themselves."""


class RestoredPlanes(NamedTuple):
    """Some parallel planes after restoration.

    Parameters
    ----------
    at
        (p,), where their columns of voxels lie: flat indices into an image (y, x).
    estimate
        (Z, p).
    distances
        (2, Z, p) to the bounds of the 90 % interval.
    planes
        Their number.
    """

    at: NDArray[np.int64]
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
    start: NDArray[np.float32],
    anisotropy: Anisotropy,
    strength: float,
    context: Context,
) -> Generator[Event, None, NDArray[np.float32]]:
    """The mean (Z, y, x) of an interpolated volume's planes restored in all `DIRECTIONS`; what there is when stopped.

    Parameters
    ----------
    start
        The interpolated volume (Z, y, x), contiguous.
    strength
        The change is multiplied by it.
    """
    volume = start.copy()
    size = volume.shape[1], volume.shape[2]
    share = np.float32(1 / len(DIRECTIONS))
    yield Stage("Restoring planes along z", sum(extent(size, direction)[0] for direction in DIRECTIONS))
    done = 0
    for direction in DIRECTIONS:
        restoring = through_planes(net, stack, start, direction, anisotropy, context, PARTS)
        for at, estimate, _, planes in restoring:
            for z, image in enumerate(volume):  # numpy is slow to index the last two of three axes
                image.reshape(-1)[at] += np.float32(strength) * share * (estimate[z] - start[z].reshape(-1)[at])
            done += planes
            yield Step(done)
            if context.should_stop():
                return volume
    yield Preview(0, volume.copy())
    return volume


def intervals(
    net: PlaneNet, stack: ProjectionStack, start: NDArray[np.float32], anisotropy: Anisotropy, context: Context
) -> Generator[Event, None, NDArray[np.float32]]:
    """Distances (2, Z, y, x) to the bounds of the 90 % interval: the mean of what XZ and YZ planes state.

    They vary little from place to place, so these two directions do. Unfinished once the context says stop.

    Parameters
    ----------
    start
        The interpolated volume (Z, y, x), contiguous.
    """
    stated = np.zeros((2, *start.shape), np.float32)
    yield Stage("Stating the error bars", sum(start.shape[1:]))
    done = 0
    for direction in (XZ, YZ):
        for at, _, distances, planes in through_planes(net, stack, start, direction, anisotropy, context, PARTS):
            for z in range(len(start)):
                for bound, distance in zip(stated[:, z], distances[:, z], strict=True):
                    bound.reshape(-1)[at] += distance / 2
            done += planes
            yield Step(done)
            if context.should_stop():
                return stated
    return stated


def through_planes(
    net: PlaneNet,
    stack: ProjectionStack,
    volume: NDArray[np.float32],
    direction: Direction,
    anisotropy: Anisotropy,
    context: Context,
    parts: int = 1,
) -> Generator[RestoredPlanes, None, None]:
    """Restore all planes of an interpolated volume (Z, y, x) that lie in one direction, in batches, so many at least.

    A batch is read before it is given: the volume may be changed there.
    """
    import torch

    acquisition, ridge = stack.acquisition, stack.ridge
    depth, height, width = volume.shape
    images, (count, length) = volume.reshape(depth, -1), extent((height, width), direction)
    at_once = min(context.at_once(plane_bytes(net, depth * length)), -(-count // parts))
    for start in range(0, count, at_once):
        pixels, inside = lines((height, width), direction, start, min(start + at_once, count))
        planes = np.take(images, pixels, axis=1).transpose(1, 0, 2)
        batch = torch.from_numpy(np.ascontiguousarray(planes)).to(context.device)
        conditions = anisotropy.conditions(batch, math.hypot(*direction))
        with torch.no_grad():
            estimate, spread = restored(net, acquisition, ridge, batch, conditions, context)
        yield RestoredPlanes(
            pixels[inside],
            estimate.transpose(0, 1).cpu().numpy()[:, inside],
            spread.permute(1, 2, 0, 3).cpu().numpy()[:, :, inside],
            len(planes),
        )


def extent(size: tuple[int, int], direction: Direction) -> tuple[int, int]:
    """How many lines in one of `DIRECTIONS` cover an image (y, x), and of how many pixels each."""
    height, width = size
    return {XZ: (height, width), YZ: (width, height)}.get(direction, (height + width - 1, min(size)))


def lines(
    size: tuple[int, int], direction: Direction, start: int, stop: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Lines of pixels across an image (y, x), by their numbers.

    Parameters
    ----------
    direction
        One of `DIRECTIONS`. Diagonals run along the shorter side, and are mirrored beyond the image.

    Returns
    -------
    pixels
        (lines, pixels of each): flat indices into the image.
    inside
        Of the same shape, whether they lie inside it.
    """
    down, right = direction
    turned = not down or (right and size[0] > size[1])  # runs along x
    length, breadth = size[::-1] if turned else size
    slope, along = right * down, np.arange(length)
    across = np.arange(start, stop)[:, None] + min(0, -slope * (length - 1)) + slope * along
    mirrored = np.minimum(across % (2 * breadth), -(across + 1) % (2 * breadth))
    pixels = mirrored * size[1] + along if turned else along * size[1] + mirrored
    return pixels, (across >= 0) & (across < breadth)


def deviation(distances: Array) -> Array:
    """Standard deviation (...) of the normal distribution with a 90 % interval as wide as (2, ...) distances."""
    wide: Array = distances.sum(0) / (2 * Z90)
    return wide


def plane_bytes(net: FoldedNet, pixels: int) -> int:
    """Memory for one plane in the network: about twelve feature maps."""
    return 12 * 4 * pixels * net.channels // net.fold
