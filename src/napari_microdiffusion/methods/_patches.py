"""Training material of axial super-resolution: lateral patches of a stack, degraded as its own beam would do it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..acquisition import MINIMUM_PROJECTIONS, Acquisition
from ..noise import Noise, excess, noise_variance
from ..optics import FWHM
from ..volume import ProjectionStack

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PATCH_DEPTH, PATCH_WIDTH = 96, 64
"""Slices and pixels of a training patch, at most."""

GAINS = 0.6, 1.6
LOG_STRETCH = -math.log(2), math.log(2)
"""Random factors of intensities, and of scales (their logarithms): the network should hang on neither."""

KEPT, AVERAGED = 0.5, 0.7
"""Of white noise in a patch: the share of its variance that turning and stretching leave, about, and the share of the
pixels in a slice over which the average along z acts on what is left (its neighbours are correlated by then)."""

UNBLURRED = 0.6
"""Slices up to which a blur with short tails changes nothing."""

SHORT_TAILS, GAUSSIAN, LONG_TAILS = TAILS = -1.0, 0.0, 1.0
"""How far the tails of an axial blur reach, see `blur_matrices`. Hidden projections do not tell them apart, and as with
sigma the network is asked for the least blur (benchmarks/axial.md)."""


@dataclass(frozen=True)
class Anisotropy:
    """How the sample looks along z beside across, which the network is told.

    Parameters
    ----------
    sigma
        Axial blur beyond the lateral one in slices: standard deviation of the Gaussian as wide at half maximum.
    elongation
        How many times longer structures look along z than the voxel ratio has it.
    """

    sigma: float
    elongation: float = 1.0

    def sharpened(self, by: float) -> Anisotropy:
        """Less blur by this share of it; beyond 1 none, and structures 2 ** (by - 1) times as short, as far as seen."""
        elongation = self.elongation * 0.5 ** max(0.0, by - 1)
        return Anisotropy(self.sigma * max(0.0, 1 - by), max(elongation, math.exp(LOG_STRETCH[0])))

    def conditions(self, planes: Tensor, apart: float = 1.0) -> Tensor:
        """(B, 4), as of `Patches`, for B planes whose columns are so many pixels ``apart``."""
        told = [self.sigma, -math.log(self.elongation), math.log(apart), SHORT_TAILS]
        return planes.new_tensor(told).expand(len(planes), 4)


@dataclass(frozen=True)
class Patches:
    """One batch: planes as they should be, and as the acquisition shows them.

    Parameters
    ----------
    acquisition
        Of the patches; some projections may be hidden.
    truth
        (B, Z, x), which look as ``conditions`` say, with white noise.
    grain
        (B, Z, x), what slices have besides, not in ``projections``: texture as fine as noise, and noise that is not
        white. It has their variance, and is drawn white itself. Intervals are for the part that no projection sees.
    projections
        (B, K, x) of the truth.
    conditions
        (B, 4), what the network is told of each: sigma of its blur in slices; logarithms of how many times deeper than
        the voxel ratio has it, and wider than one pixel, its voxels are; how far the blur's tails reach, of `TAILS`.
    """

    acquisition: Acquisition
    truth: Tensor
    grain: Tensor
    projections: Tensor
    conditions: Tensor

    def to(self, device: str) -> Patches:
        """The same on a device."""
        tensors = ("truth", "grain", "projections", "conditions")
        return replace(self, **{name: getattr(self, name).to(device) for name in tensors})


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

        self._acquisition = stack.acquisition.unbound
        self._images = torch.from_numpy(np.ascontiguousarray(stack.data))
        self._sources = [torch.tensor(m, dtype=torch.float32) for m in (stack.interpolation, np.eye(len(stack.data)))]
        self.ratio = ratio
        self._largest_blur, self._hiding = largest_blur, hiding
        self._generator = generator
        self._further = torch.Generator().manual_seed(generator.initial_seed() + 1)  # grain changes no patch
        self._noise, self._typical = Noise.of(stack.data), noise_variance(stack.data)
        self._beyond_white = excess(self._noise, stack.data, stack.acquisition.matrix, ratio) - 1
        self._kept = KEPT / max(1.0, AVERAGED * ratio)
        self._noisier = stack.acquisition.effective_slices  # a slice is, than the mean of so many

    @property
    def typical_noise(self) -> float:
        """Variance of the noise in slices at usual brightness, in squares of the stack's intensities."""
        return self._typical * self._noisier

    def __call__(self, batch: int, anisotropy: Anisotropy | None = None, hide: bool = False) -> Patches:
        """About ``batch`` patches of the largest size; more where the images allow small ones alone.

        With an ``anisotropy``, all look so; with ``hide``, projections are hidden for certain.
        """
        import torch

        bound = self._bound()
        depth, width = bound.depth, min(PATCH_WIDTH, *self._images.shape[1:])
        count = max(1, round(batch * PATCH_DEPTH * PATCH_WIDTH / (depth * width)))
        conditions = self._conditions(count) if anisotropy is None else anisotropy.conditions(torch.empty(count))
        patches = self._cut(depth, width, conditions[:, 1:3]) * self._uniform(*GAINS, count)[:, None, None]
        blurs = blur_matrices(conditions[:, 0], conditions[:, 3], depth)
        kept = self._kept * blurs.square().sum(2).mean(1)
        blurred = blurs @ patches
        variance = self._noise.variance(blurred)
        missing = variance * (self._noisier - kept)[:, None, None]  # of the variance in slices
        truth = blurred + missing.sqrt() * torch.randn(patches.shape, generator=self._generator)
        beyond = variance * (self._beyond_white * self._noisier)
        grain = beyond.sqrt() * torch.randn(patches.shape, generator=self._further)
        acquisition = self._hidden(bound, 1.0 if hide else self._hiding)
        return Patches(acquisition, truth, grain, along_rows(acquisition.matrix, truth), conditions)

    def _bound(self) -> Acquisition:
        """How deep the patches of this batch are: as the images allow at a random scale."""
        n, step = self._acquisition.slices, self._acquisition.step
        scale = self.ratio * math.exp(float(self._uniform(*LOG_STRETCH)))
        least = MINIMUM_PROJECTIONS * step + n  # one more than a stack needs: one can be hidden
        depth = min(int(min(self._images.shape[1:]) / scale), max(PATCH_DEPTH, least))
        return self._acquisition.bound((max(depth, least) - n) // step + 1)

    def _conditions(self, count: int) -> Tensor:
        """(count, 4) at random, as of `Patches`."""
        import torch

        blur = self._largest_blur * self._uniform(0, 1, count) ** 1.3
        tails = torch.tensor(TAILS)[torch.randint(len(TAILS), (count,), generator=self._generator)]
        return torch.stack([blur, *(self._uniform(*LOG_STRETCH, count) for _ in range(2)), tails], 1)

    def _cut(self, depth: int, width: int, scales: Tensor) -> Tensor:
        """Patches (count, depth, width) at random places, turned at random; beyond an edge, mirrored.

        Parameters
        ----------
        scales
            (count, 2): logarithms of how much deeper and wider than usual their voxels are.
        """
        import torch

        count = len(scales)
        images = self._window(round(3 * max(depth * self.ratio, width)))
        rows, height, breadth = images.shape
        sources = torch.stack([s[self._below(len(s))] for s in (self._sources[self._below(2)] for _ in range(count))])
        slices = (sources @ images.reshape(rows, -1)).view(count, 1, height, breadth)
        turn = torch.where(
            self._uniform(0, 1, count) < 0.5,
            self._uniform(0, 2 * math.pi, count),
            torch.randint(4, (count,), generator=self._generator) * (math.pi / 2),
        )
        along, across = scales.exp().unbind(1)
        along = along * self.ratio
        mirrored = 2 * torch.randint(2, (count,), generator=self._generator) - 1
        finer = max(1, round(1.5 * self.ratio))  # a deep voxel is a mean, not a sample, of the pixels in it
        u = ((torch.arange(depth * finer) + 0.5) / finer - depth / 2) * along[:, None]
        v = (torch.arange(width) + 0.5 - width / 2) * (across * mirrored)[:, None]
        cos, sin = turn.cos()[:, None, None], turn.sin()[:, None, None]
        reach = 0.35 * depth * along * torch.maximum(turn.cos().abs(), turn.sin().abs())
        y, x = (self._centres(size, reach)[:, None, None] for size in (height, breadth))
        y = y + u[:, :, None] * cos - v[:, None] * sin
        x = x + u[:, :, None] * sin + v[:, None] * cos
        grid = torch.stack([2 * x / breadth - 1, 2 * y / height - 1], -1)
        sampled = torch.nn.functional.grid_sample(
            slices, grid, mode="bicubic", padding_mode="reflection", align_corners=False
        )
        return sampled.view(count, depth, finer, width).mean(2)

    def _window(self, side: int) -> Tensor:
        """A random part (K, y, x) of the projections, at most ``side`` pixels wide and high."""
        _, height, width = self._images.shape
        top, left = self._below(max(0, height - side) + 1), self._below(max(0, width - side) + 1)
        return self._images[:, top : top + side, left : left + side]

    def _centres(self, size: int, reach: Tensor) -> Tensor:
        """Random centres of patches that reach so far, in pixels, as far as ``size`` pixels allow."""
        margin = reach.clamp_max(size / 2)
        return margin + self._uniform(0, 1, len(reach)) * (size - 2 * margin)

    def _hidden(self, bound: Acquisition, share: float) -> Acquisition:
        """In a share of the batches, every third to fifth projection hidden, as far as three are left."""
        count = bound.count or 0
        if float(self._uniform()) >= share:
            return bound
        every = 3 + self._below(3)
        hidden = tuple(range(self._below(min(every, count)), count, every))
        return bound.without(hidden[: count - MINIMUM_PROJECTIONS])

    def _uniform(self, low: float = 0.0, high: float = 1.0, count: int | None = None) -> Tensor:
        import torch

        size = () if count is None else (count,)
        return low + (high - low) * torch.rand(size, generator=self._generator)

    def _below(self, limit: int) -> int:
        import torch

        return int(torch.randint(limit, (), generator=self._generator))


def blur_matrices(blur: Tensor, tails: Tensor, depth: int) -> Tensor:
    """Blurs along z, (B, Z, Z) with rows that sum to 1: q-Gaussians (Tsallis 1988) for q = 0, 1 and 3/2.

    Parameters
    ----------
    blur
        (B,), standard deviations in slices of the Gaussians as wide at half maximum.
    tails
        (B,), of `TAILS`: a parabola, which has none (up to `UNBLURRED` slices it blurs nothing); a Gaussian, near the
        main lobe of a focus without aberrations, sinc² (Born and Wolf, Sec. 8.8); a squared Lorentzian, what two
        photons excite on the axis of a Gaussian beam.
    """
    import torch

    z = torch.arange(depth, dtype=torch.float32)
    away = ((z[:, None] - z) / (FWHM / 2 * blur).clamp_min(1e-3)[:, None, None]).square()  # 1 at half of the maximum
    short, gaussian, long = (1 - away / 2).clamp_min(0), 0.5**away, (1 + (math.sqrt(2) - 1) * away) ** -2
    reach = tails[:, None, None]
    weights = torch.where(reach == SHORT_TAILS, short, torch.where(reach == LONG_TAILS, long, gaussian))
    return weights / weights.sum(2, keepdim=True)


def along_rows(matrix: Any, planes: Tensor) -> Tensor:
    """A constant (P, Q) matrix applied along z of planes (B, Q, x)."""
    return planes.new_tensor(matrix) @ planes
