"""A plane network at work on a stack: XZ and YZ planes of the interpolated volume, made sharper and kept consistent."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

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
        (B, 3), as of `Patches`.
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
    """Change an interpolated volume (Z, y, x) to the mean of its restored XZ and YZ planes, in place; until stopped.

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
    yield Stage("Restoring XZ and YZ planes", sum(volume.shape[1:]))
    done = 0
    for axis in (1, 2):
        for here, estimate, distances in through_planes(net, stack, start, axis, anisotropy, context):
            at = (slice(None), here) if axis == 1 else (slice(None), slice(None), here)
            volume[at] += np.float32(strength / 2) * estimate
            spread[(slice(None), *at)] += distances / 2
            done += here.stop - here.start
            yield Step(done)
            if context.should_stop():
                return spread
    yield Preview(0, volume.copy())
    return spread


def through_planes(
    net: PlaneNet,
    stack: ProjectionStack,
    volume: NDArray[np.float32],
    axis: int,
    anisotropy: Anisotropy,
    context: Context,
) -> Generator[tuple[slice, NDArray[np.float32], NDArray[np.float32]], None, None]:
    """Restore the planes of an interpolated volume (Z, y, x) along ``axis`` (1: XZ planes, 2: YZ planes), batchwise.

    Yields which planes (a slice along ``axis``), their estimates (Z, m, x) or (Z, y, m), and spreads (2, Z, m, x) or
    (2, Z, y, m).
    """
    import torch

    acquisition, ridge = stack.acquisition, stack.acquisition.ridge(stack.data)
    at_once = max(1, context.memory_bytes // plane_bytes(net, volume.shape[0] * volume.shape[3 - axis]))
    for start in range(0, volume.shape[axis], at_once):
        here = slice(start, min(start + at_once, volume.shape[axis]))
        planes = np.moveaxis(volume, axis, 0)[here]
        batch = torch.from_numpy(np.ascontiguousarray(planes)).to(context.device)
        with torch.no_grad():
            estimate, spread = restored(net, acquisition, ridge, batch, anisotropy.conditions(batch), context)
        yield (
            here,
            np.moveaxis(estimate.cpu().numpy(), 0, axis),
            np.moveaxis(spread.transpose(0, 1).cpu().numpy(), 1, axis + 1),
        )


def deviation(distances: Array) -> Array:
    """Standard deviation (...) of the normal distribution with a 90 % interval as wide as (2, ...) distances."""
    wide: Array = distances.sum(0) / (2 * Z90)
    return wide


def plane_bytes(net: FoldedNet, pixels: int) -> int:
    """Memory for one plane in the network: about twelve feature maps."""
    return 12 * 4 * pixels * net.channels // net.fold
