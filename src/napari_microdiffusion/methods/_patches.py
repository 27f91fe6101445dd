"""Training material of axial super-resolution: lateral patches of a stack, degraded as its own beam would do it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..acquisition import MINIMUM_PROJECTIONS, Acquisition
from ..numerics import noise_variance
from ..volume import ProjectionStack

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PATCH_DEPTH, PATCH_WIDTH = 96, 64
"""Slices and pixels of a training patch, at most."""

GAINS = 0.6, 1.6
JITTER = 0.8, 1.25
"""Random factors of the intensities and of the voxel ratio: the network should hang on neither."""


LAGS, RATIOS = 3, (1.0, 1.41, 2.0, 2.83, 4.0)
"""Distances in projections, and voxel ratios, at which an unknown ratio is looked for."""


@dataclass(frozen=True)
class Patches:
    """One batch: planes as they should be, and as the acquisition shows them.

    Parameters
    ----------
    acquisition
        Of the patches; some projections may be hidden.
    truth
        (B, Z, x), blurred along z by ``blur``.
    projections
        (B, K, x) of the truth.
    blur
        (B,), standard deviations in slices.
    """

    acquisition: Acquisition
    truth: Tensor
    projections: Tensor
    blur: Tensor


class Cutter:
    """Cuts patches out of projections and of interpolated slices, along y and along x, as if that axis were z.

    Projections show the detail that was measured; slices between them are as thin as the planes to be restored.

    Parameters
    ----------
    stack
        Normalised.
    ratio
        Voxel ratio dz/dx: pixels of the projections in one slice.
    largest_blur
        Patches are blurred by 0 to this many slices, more often by little.
    hiding
        Share of batches in which some projections are hidden.
    """

    def __init__(
        self, stack: ProjectionStack, ratio: float, largest_blur: float, hiding: float, generator: torch.Generator
    ) -> None:
        import torch

        self._acquisition = stack.acquisition.replace(count=None, hidden=())
        self._images = torch.from_numpy(np.ascontiguousarray(stack.data))
        slices = stack.acquisition.smoothest(stack.acquisition.ridge(stack.data))
        self._sources = [torch.from_numpy(m).float() for m in (slices, np.eye(len(stack.data)))]
        self._ratio, self._largest_blur, self._hiding = ratio, largest_blur, hiding
        self._generator = generator
        # a slice is noisier than a projection, its weighted mean: patches get the noise that slices would have
        averaged = float((stack.acquisition.profile_weights**2).sum())
        self._noise = math.sqrt(noise_variance(stack.data) * (1 / averaged - 1))

    def __call__(self, batch: int) -> Patches:
        """About ``batch`` patches of the largest size; more where the images allow small ones alone."""
        import torch

        images = self._images if self._below(2) else self._images.transpose(1, 2)
        length, width = images.shape[1], min(PATCH_WIDTH, images.shape[2])
        bound, ratio = self._depth(length)
        depth = bound.depth
        span = min(length, round(depth * ratio))
        count = max(1, round(batch * PATCH_DEPTH * PATCH_WIDTH / (depth * width)))
        patches = torch.stack([self._cut(images, span, width) for _ in range(count)])
        if span != depth:
            patches = torch.nn.functional.interpolate(
                patches[:, None], size=(depth, width), mode="bilinear", antialias=True, align_corners=False
            )[:, 0]
        patches = patches * self._uniform(*GAINS, count)[:, None, None]
        blur = self._largest_blur * self._uniform(0, 1, count) ** 1.3
        truth = blur_matrices(blur, depth) @ patches
        truth = truth + self._noise * torch.randn(truth.shape, generator=self._generator)
        acquisition = self._hidden(bound)
        return Patches(acquisition, truth, along_rows(acquisition.matrix, truth), blur)

    def _depth(self, length: int) -> tuple[Acquisition, float]:
        """How deep patches are in this batch, and the ratio they are cut at: smaller where the images are too small."""
        n, step = self._acquisition.slices, self._acquisition.step
        ratio = self._ratio * math.exp(float(self._uniform(math.log(JITTER[0]), math.log(JITTER[1]))))
        least = (MINIMUM_PROJECTIONS - 1) * step + n
        ratio = min(ratio, length / least)
        depth = max(least, min(int(length / ratio), max(PATCH_DEPTH, least + step)))
        return self._acquisition.bound((depth - n) // step + 1), ratio

    def _cut(self, images: Tensor, span: int, width: int) -> Tensor:
        """One patch (span, width), flipped at random."""
        source = self._sources[self._below(2)]
        which, top, left, flips = (
            self._below(n) for n in (len(source), images.shape[1] - span + 1, images.shape[2] - width + 1, 4)
        )
        patch = images[:, top : top + span, left : left + width]
        patch = (source[which] @ patch.reshape(len(images), -1)).view(span, width)  # a slice of no stored volume
        return patch.flip([axis for axis in (0, 1) if flips >> axis & 1])

    def _hidden(self, bound: Acquisition) -> Acquisition:
        """In some batches, every third to fifth projection hidden."""
        count = bound.count or 0
        if float(self._uniform()) >= self._hiding or count <= MINIMUM_PROJECTIONS:
            return bound
        every = 3 + self._below(3)
        hidden = tuple(range(self._below(every), count, every))
        return bound.without(hidden) if count - len(hidden) >= MINIMUM_PROJECTIONS else bound

    def _uniform(self, low: float = 0.0, high: float = 1.0, count: int | None = None) -> Tensor:
        import torch

        size = () if count is None else (count,)
        return low + (high - low) * torch.rand(size, generator=self._generator)

    def _below(self, limit: int) -> int:
        import torch

        return int(torch.randint(limit, (), generator=self._generator))


def blur_matrices(blur: Tensor, depth: int) -> Tensor:
    """Gaussian blurs along z, (B, Z, Z) with rows that sum to 1, of standard deviations (B,) in slices."""
    import torch

    z = torch.arange(depth, dtype=torch.float32)
    offsets = (z[:, None] - z) / blur.clamp_min(0.1)[:, None, None]
    weights = (-(offsets**2) / 2).exp()
    return weights / weights.sum(2, keepdim=True)


def along_rows(matrix: Any, planes: Tensor) -> Tensor:
    """A constant (P, Q) matrix applied along z of planes (B, Q, x)."""
    return planes.new_tensor(matrix) @ planes


def estimated_ratio(stack: ProjectionStack) -> float:
    """The voxel ratio dz/dx at which lateral images, degraded like z, change from projection to projection as it does.

    Both the ratio and the axial blur change how fast projections differ with their distance; ratios near 1 are
    preferred where that leaves a choice. A guess within a factor of two or so; 1 for fewer than five projections.
    """
    import torch

    if len(stack.data) < LAGS + 2 or stack.acquisition.hidden:
        return 1.0
    noise = noise_variance(stack.data)
    wanted = _structure(torch.from_numpy(stack.data), noise)
    costs = {}
    for ratio in RATIOS:
        for blur in np.arange(0, 5, 0.5):
            found = [_degraded(stack, axis, ratio, float(blur)) for axis in (1, 2)]
            if all(len(images) > LAGS + 1 for images in found):
                shape = sum(_structure(images, 0.0) for images in found) / 2
                costs[ratio, blur] = float((shape / wanted).log().square().sum()) + 0.03 * math.log(ratio) ** 2
    return min(costs, key=lambda pair: costs[pair])[0] if costs else 1.0


def _degraded(stack: ProjectionStack, axis: int, ratio: float, blur: float) -> Tensor:
    """Projections (k, ...) that the lateral ``axis`` of a stack would give, were it z; none where it is too short."""
    import torch

    images = torch.from_numpy(stack.data[:: max(1, len(stack.data) // 16)]).movedim(axis, 1)
    depth = int(images.shape[1] / ratio)
    acquisition = stack.acquisition
    count = (depth - acquisition.slices) // acquisition.step + 1
    if count < 1:
        return images[:0]
    planes = torch.nn.functional.interpolate(
        images[:, None], size=(depth, images.shape[2]), mode="bilinear", antialias=True, align_corners=False
    )[:, 0]
    bound = acquisition.bound(count)
    blurred = blur_matrices(torch.tensor([blur]), depth) @ planes
    return along_rows(bound.matrix, blurred[:, : bound.depth]).movedim(1, 0)


def _structure(images: Tensor, noise: float) -> Tensor:
    """Mean squared differences of images (k, ...) one to LAGS apart, over twice their variance."""
    import torch

    images = images - images.mean(tuple(range(1, images.ndim)), keepdim=True)
    variance = images.square().mean() - noise
    differences = [(images[lag:] - images[:-lag]).square().mean() / 2 - noise for lag in range(1, LAGS + 1)]
    return (torch.stack(differences) / variance.clamp_min(1e-12)).clamp_min(1e-6)
