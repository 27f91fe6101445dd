"""A plane network at work on a stack: XZ and YZ planes of the interpolated volume, made sharper and kept consistent."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..acquisition import Acquisition
from ..metrics import FLOOR
from ..numerics import along_z
from ..volume import ProjectionStack
from ._base import Context, autocast
from ._patches import Cutter, along_rows
from .heldout import folds

if TYPE_CHECKING:
    from torch import Tensor

    from ..plane_net import PlaneNet

SAMPLED_ROWS = 32
"""XZ planes that stand for the whole stack when projections are hidden."""

PATCHES, BATCHES = 12, 4
"""Lateral patches, likewise."""

Z90 = 1.645
"""Half the width of the normal distribution's 90 % interval, in standard deviations."""


def restored(
    net: PlaneNet, acquisition: Acquisition, ridge: float, planes: Tensor, blur: Tensor, context: Context
) -> tuple[Tensor, Tensor]:
    """Estimates (B, Z, x) that project as the interpolated ``planes`` (B, Z, x) do, and their spread (B, 2, Z, x).

    Parameters
    ----------
    blur
        (B,), sigma in slices.
    """
    unseen = planes.new_tensor(~acquisition.seen)
    with autocast(context):
        change, spread = net(planes, unseen, blur)
    change = change.float()
    visible = along_rows(acquisition.matrix, change)
    return planes + change - along_rows(acquisition.smoothest(ridge), visible), spread.float()


def through_planes(
    net: PlaneNet, stack: ProjectionStack, volume: NDArray[np.float32], axis: int, sigma: float, context: Context
) -> Generator[tuple[slice, NDArray[np.float32], NDArray[np.float32]], None, None]:
    """Restore the planes of an interpolated volume (Z, y, x) along ``axis`` (1: XZ planes, 2: YZ planes), batchwise.

    Yields which planes (a slice along ``axis``), their estimates (Z, m, x) or (Z, y, m), and spreads (2, Z, m, x) or
    (2, Z, y, m).
    """
    import torch

    acquisition, ridge = stack.acquisition, stack.acquisition.ridge(stack.data)
    at_once = max(1, context.memory_bytes // _plane_bytes(net, volume.shape[0] * volume.shape[3 - axis]))
    for start in range(0, volume.shape[axis], at_once):
        here = slice(start, min(start + at_once, volume.shape[axis]))
        planes = np.moveaxis(volume, axis, 0)[here]
        batch = torch.from_numpy(np.ascontiguousarray(planes)).to(context.device)
        with torch.no_grad():
            blur = torch.full((len(batch),), sigma, device=batch.device)
            estimate, spread = restored(net, acquisition, ridge, batch, blur, context)
        yield (
            here,
            np.moveaxis(estimate.cpu().numpy(), 0, axis),
            np.moveaxis(spread.transpose(0, 1).cpu().numpy(), 1, axis + 1),
        )


@dataclass(frozen=True)
class Hidden:
    """Mean squares over hidden projections, each (number of them,).

    Parameters
    ----------
    error, interpolated
        Of the network's error and of the conservative interpolation's.
    spread
        Of the standard deviation that the network states for the slices of each, in the mean over the slices.
    """

    error: NDArray[np.float64]
    interpolated: NDArray[np.float64]
    spread: NDArray[np.float64]

    def scores(self, span: float) -> tuple[float, float]:
        """Held-out scores in dB, of the network and of the interpolation, for a stack of range ``span``."""
        relative = np.stack([self.error, self.interpolated]) / span**2
        network, interpolation = -10 * np.log10(np.maximum(relative, FLOOR)).mean(1)
        return float(network), float(interpolation)

    @property
    def surprise(self) -> float:
        """How far off the network is, in the standard deviations it states."""
        return float(np.sqrt(self.error.sum() / max(float(self.spread.sum()), 1e-30)))


def hidden_planes(net: PlaneNet, stack: ProjectionStack, sigma: float, context: Context) -> Hidden:
    """How the network tells hidden projections from the others, on some XZ planes."""
    rows = np.linspace(0, stack.shape[1] - 1, min(SAMPLED_ROWS, stack.shape[1])).round().astype(int)
    found = []
    for fold in folds(len(stack.data)):
        shown = stack.without(fold)
        forward, measured = stack.acquisition.matrix[list(fold)], stack.data[list(fold)][:, rows]
        volume = along_z(shown.acquisition.smoothest(shown.acquisition.ridge(shown.data)), shown.data[:, rows])
        estimate, spread = np.empty_like(volume), np.empty_like(volume)
        for here, planes, distances in through_planes(net, shown, volume, 1, sigma, context):
            estimate[:, here], spread[:, here] = planes, deviation(distances)
        errors = [along_z(forward, v) - measured for v in (estimate, volume)]
        found.append([(image**2).mean((1, 2)) for image in (*errors, along_z(forward, spread))])
    return Hidden(*(np.concatenate(parts).astype(np.float64) for parts in zip(*found, strict=True)))


def hidden_patches(net: PlaneNet, cut: Cutter, sigma: float, context: Context) -> Hidden:
    """The same on lateral patches, where the network is on its own ground."""
    import torch

    found = []
    for patches in (cut(PATCHES, sigma) for _ in range(BATCHES)):
        acquisition = patches.acquisition
        forward = acquisition.replace(hidden=()).matrix[list(acquisition.hidden)]
        planes = along_rows(acquisition.smoothest(), patches.projections).to(context.device)
        with torch.no_grad():
            estimate, spread = restored(net, acquisition, 0.0, planes, patches.blur.to(context.device), context)
        truth = along_rows(forward, patches.truth)
        errors = [along_rows(forward, v.cpu()) - truth for v in (estimate, planes)]
        stated = along_rows(forward, spread.sum(1).cpu() / (2 * Z90))
        found.append([image.square().mean((0, 2)).numpy() for image in (*errors, stated)])
    return Hidden(*(np.concatenate(parts).astype(np.float64) for parts in zip(*found, strict=True)))


def deviation(distances: NDArray[np.float32]) -> NDArray[np.float32]:
    """Standard deviation (...) of the normal distribution with a 90 % interval as wide as (2, ...) distances."""
    wide: NDArray[np.float32] = distances.sum(0) / np.float32(2 * Z90)
    return wide


def _plane_bytes(net: PlaneNet, pixels: int) -> int:
    """Memory for one plane in the network: about twelve feature maps."""
    return 12 * 4 * pixels * net.channels // net.fold
