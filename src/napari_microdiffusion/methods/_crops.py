"""What guided diffusion sees of a stack: training pairs and crops of them, depths, and its intensity scale, −1 .. 1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..numerics import along_z
from ..volume import ProjectionStack

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def paired(stack: ProjectionStack, pairing: Literal["mean", "slice"]) -> NDArray[np.float64]:
    """Weights (K, Z) of the prior's slices in what each projection is paired with: its own (``mean``), or its centre.

    A centre between two slices is their mean.
    """
    if pairing == "mean":
        return stack.acquisition.matrix
    at = np.round(stack.acquisition.projection_centres - 0.5, 6)  # a rounding error is not a slice
    unit = np.eye(stack.acquisition.depth)
    centres: NDArray[np.float64] = (unit[np.floor(at).astype(int)] + unit[np.ceil(at).astype(int)]) / 2
    return centres


def pairs(stack: ProjectionStack, prior: NDArray[np.float32] | None, pairing: Literal["mean", "slice"]) -> Tensor:
    """Projections and what guides each, (K, 2, y, x), on the diffusion's scale.

    A projection is an n-slice mean, so the prior it is paired with is one too (``mean``): paired with a single
    slice, as in the paper, the network learns to blur the prior's slices.
    """
    import torch

    measured = stack.data.astype(np.float32, copy=False)
    guide = measured if prior is None else along_z(paired(stack, pairing), prior)
    return torch.from_numpy(np.stack([measured, guide], 1)) * 2 - 1


def depths(centres: NDArray[np.float64], stack: ProjectionStack) -> Tensor:
    """Normalised depths, −1 .. 1 over the volume, float32, of centres in slices."""
    import torch

    return torch.from_numpy(2 * centres / stack.acquisition.depth - 1).float()


def intensities(images: Tensor) -> NDArray[np.float32]:
    """(m, y, x) on the stack's scale from (m, 1, y, x) on the diffusion's."""
    data: NDArray[np.float32] = (images[:, 0] / 2 + 0.5).float().cpu().numpy()
    return data


class Cut(NamedTuple):
    """Where a crop is cut from: which image, its rows and columns, and the axes it is flipped along."""

    image: int
    rows: slice
    columns: slice
    flips: tuple[int, ...]

    def of(self, image: Tensor) -> Tensor:
        """The crop (..., side, side) of an image (..., y, x)."""
        return image[..., self.rows, self.columns].flip(self.flips)


def cuts(shape: tuple[int, int, int], batch: int, side: int, generator: torch.Generator) -> list[Cut]:
    """Where random crops, flipped at random, are cut from images of shape (K, y, x)."""
    import torch

    def drawn(count: int, *size: int) -> Tensor:
        return torch.randint(count, size, generator=generator)

    height, width = (min(side, size) for size in shape[1:])
    found = []
    for image in drawn(shape[0], batch).tolist():
        top, left, flips = (int(drawn(n)) for n in (shape[1] - height + 1, shape[2] - width + 1, 4))
        axes = tuple(axis for bit, axis in ((1, -2), (2, -1)) if flips & bit)
        found.append(Cut(image, slice(top, top + height), slice(left, left + width), axes))
    return found


def crops(images: Tensor, where: list[Cut]) -> Tensor:
    """Crops (B, c, side, side) of images (K, c, y, x)."""
    import torch

    return torch.stack([cut.of(images[cut.image]) for cut in where])
