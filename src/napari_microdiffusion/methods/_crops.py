"""What guided diffusion sees of a stack: training pairs and crops of them, depths, and its intensity scale, −1 .. 1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from ..volume import ProjectionStack

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def pairs(stack: ProjectionStack, prior: NDArray[np.float32] | None, pairing: Literal["mean", "slice"]) -> Tensor:
    """Projections and what guides each, (K, 2, y, x), on the diffusion's scale.

    A projection is an n-slice mean, so the prior it is paired with is one too (``mean``): paired with a single
    slice, as in the paper, the network learns to blur the prior's slices.
    """
    import torch

    measured = stack.data.astype(np.float32, copy=False)
    if prior is None:
        guide = measured
    elif pairing == "mean":
        guide = stack.acquisition.project(prior)
    else:
        at = np.round(stack.acquisition.projection_centres - 0.5, 6)  # a rounding error is not a slice
        above, below = np.floor(at).astype(int), np.ceil(at).astype(int)
        guide = (prior[above] + prior[below]) / 2
    return torch.from_numpy(np.stack([measured, guide], 1)) * 2 - 1


def depths(centres: NDArray[np.float64], stack: ProjectionStack) -> Tensor:
    """Normalised depths, −1 .. 1 over the volume, float32, of centres in slices."""
    import torch

    return torch.from_numpy(2 * centres / stack.acquisition.depth - 1).float()


def intensities(images: Tensor) -> NDArray[np.float32]:
    """(m, y, x) on the stack's scale from (m, 1, y, x) on the diffusion's."""
    data: NDArray[np.float32] = (images[:, 0] / 2 + 0.5).float().cpu().numpy()
    return data


def crops(images: Tensor, batch: int, side: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random crops (B, c, side, side), flipped at random, of images (K, c, y, x), and which images they are of (B,)."""
    import torch

    height, width = (min(side, size) for size in images.shape[2:])
    chosen = torch.randint(len(images), (batch,), generator=generator)
    pieces = []
    for image in images[chosen.to(images.device)]:
        top, left, flips = (
            int(torch.randint(n, (), generator=generator))
            for n in (image.shape[1] - height + 1, image.shape[2] - width + 1, 4)
        )
        crop = image[:, top : top + height, left : left + width]
        pieces.append(crop.flip([axis for axis in (1, 2) if flips & axis]))
    return torch.stack(pieces), chosen.to(images.device)
