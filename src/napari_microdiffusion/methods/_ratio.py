"""How deep voxels are beside their width: by the voxel size, else by what projections look like."""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import TYPE_CHECKING

import numpy as np

from ..acquisition import Acquisition
from ..events import Event, Notice
from ..noise import noise_variance
from ..volume import ProjectionStack
from ._patches import GAUSSIAN, along_rows, blur_matrices

if TYPE_CHECKING:
    from torch import Tensor

GUESSED = 256
"""Pixels along y and x that an unknown ratio is guessed from, if the largest can be looked for in as many."""

LAGS, GUESSES = 3, (1.0, 1.41, 2.0, 2.83, 4.0)
"""Distances in projections, and voxel ratios, at which an unknown ratio is looked for."""


RATIOS = 0.1, 20.0
"""Voxel ratios dz/dx that patches are cut for."""

SIMILAR = 1.1
"""How many times deeper, or shallower, voxels may be than a network was trained for before that is told."""


def ratio_of(stack: ProjectionStack) -> float:
    """dz/dx of the volume within `RATIOS`: from the voxel size, else estimated from the images."""
    stated = stated_ratio(stack)
    return estimated_ratio(stack) if stated is None else float(np.clip(stated, *RATIOS))


def odd_scale(stack: ProjectionStack, ratio: float) -> Generator[Event, None, None]:
    """Say so where the voxel size states oblong pixels, or another ratio than a network is to be trained for."""
    stated = stated_ratio(stack)
    _, dy, dx = stack.volume_scale_um or (1.0, 1.0, 1.0)
    if not 1 / SIMILAR < dy / dx < SIMILAR:
        yield Notice(
            f"pixels are {dy / dx:.3g} times as long in y as in x, and are taken as squares of the same area: check "
            "the scale of the stack"
        )
    if stated not in (None, ratio):
        yield Notice(
            f"by their size voxels are {stated:.3g} times as deep as wide, and are taken as {ratio:g}, as far as "
            "this method goes: check the scale of the stack"
        )


def foreign(stack: ProjectionStack, ratio: float) -> str:
    """What to beware of where the voxel size states another ratio than a network was trained for; else empty."""
    stated = stated_ratio(stack)
    if stated is None or 1 / SIMILAR < ratio_of(stack) / ratio < SIMILAR:
        return ""
    return (
        f"by their size voxels are {stated:.3g} times as deep as wide here, and the network was trained for "
        f"{ratio:.3g} times: train anew for this stack, or check its scale"
    )


def stated_ratio(stack: ProjectionStack) -> float | None:
    """dz/dx of the volume by its voxel size, None where that is not known."""
    if stack.volume_scale_um is None:
        return None
    dz, dy, dx = stack.volume_scale_um
    return dz / math.sqrt(dy * dx)


def estimated_ratio(stack: ProjectionStack) -> float:
    """The voxel ratio dz/dx at which lateral images, degraded like z, change from projection to projection as it does.

    Both the ratio and the axial blur change how fast projections differ with their distance; ratios near 1 are
    preferred where that leaves a choice. A guess, from 1 to 4; 1 for fewer than five projections, or with hidden ones.
    """
    import torch

    if len(stack.data) < LAGS + 2 or stack.acquisition.hidden:
        return 1.0
    acquisition = stack.acquisition
    side = max(GUESSED, math.ceil(GUESSES[-1] * (acquisition.slices + (LAGS + 1) * acquisition.step)))
    top, left = (max(0, size - side) // 2 for size in stack.shape[1:])
    data = stack.data[:, top : top + side, left : left + side]
    images = torch.from_numpy(data.astype(np.float32))  # torch has no arithmetic for a camera's integers
    wanted = _structure(images, noise_variance(data))
    costs = {}
    for ratio in GUESSES:
        for blur in np.arange(0, 5, 0.5):
            found = [_degraded(images, stack.acquisition, axis, ratio, float(blur)) for axis in (1, 2)]
            if all(len(planes) > LAGS + 1 for planes in found):
                shape = sum(_structure(planes, 0.0) for planes in found) / 2
                costs[ratio, blur] = float((shape / wanted).log().square().sum()) + 0.03 * math.log(ratio) ** 2
    return min(costs, key=lambda pair: costs[pair])[0] if costs else 1.0


def _degraded(images: Tensor, acquisition: Acquisition, axis: int, ratio: float, blur: float) -> Tensor:
    """Projections (k, ...) that the lateral ``axis`` of images would give, were it z; none where it is too short."""
    import torch

    images = images[:: max(1, len(images) // 16)].movedim(axis, 1)
    depth = int(images.shape[1] / ratio)
    count = (depth - acquisition.slices) // acquisition.step + 1
    if count < 1:
        return images[:0]
    planes = torch.nn.functional.interpolate(
        images[:, None], size=(depth, images.shape[2]), mode="bilinear", antialias=True, align_corners=False
    )[:, 0]
    bound = acquisition.bound(count)
    blurred = blur_matrices(torch.tensor([blur]), torch.tensor([GAUSSIAN]), depth) @ planes
    return along_rows(bound.matrix, blurred[:, : bound.depth]).movedim(1, 0)


def _structure(images: Tensor, noise: float) -> Tensor:
    """Mean squared differences of images (k, ...) one to LAGS apart, over twice their variance."""
    import torch

    images = images - images.mean(tuple(range(1, images.ndim)), keepdim=True)
    variance = images.square().mean() - noise
    differences = [(images[lag:] - images[:-lag]).square().mean() / 2 - noise for lag in range(1, LAGS + 1)]
    return (torch.stack(differences) / variance.clamp_min(1e-12)).clamp_min(1e-6)
