"""Sampling in guided diffusion (MicroDiffusion, Algorithm 2): slices in blocks, their conditions, consistency."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..numerics import along_z
from ..volume import ProjectionStack
from ._base import Context, autocast
from ._crops import depths

if TYPE_CHECKING:
    from torch import Tensor

    from ..denoiser import Denoiser


@dataclass(frozen=True)
class Sampler:
    """Samples the slices of a stack's volume, block by block.

    Parameters
    ----------
    denoiser
        Trained.
    levels
        Falling noise levels, from `Schedule.spaced`.
    fresh
        Whether each step takes fresh noise (DDPM), or none does (DDIM).
    guidance
        Strength w of classifier-free guidance.
    every_step
        Whether each estimate is made consistent with the projections.
    at_once
        Slices in the network at a time.
    """

    denoiser: Denoiser
    stack: ProjectionStack
    context: Context
    levels: list[int]
    fresh: bool
    guidance: float
    every_step: bool
    at_once: int

    def blocks(self) -> list[range]:
        """Ranges of slices to be denoised together: whole blocks of one stride, as many as memory holds.

        With consistency at every step all slices are denoised together if a projection's weight reaches into the next
        stride: overlapping projections tie them to one another, and a profile that begins with zeros lies across
        blocks.
        """
        acquisition = self.stack.acquisition
        if self.every_step and int(np.flatnonzero(acquisition.profile_weights)[-1]) >= acquisition.step:
            return [range(acquisition.depth)]
        blocks = max(1, self.at_once // acquisition.step)
        edges = [*range(0, acquisition.depth, blocks * acquisition.step), acquisition.depth]
        return list(map(range, edges, edges[1:]))

    def estimates(self, batch: range, guide: Tensor) -> Generator[Tensor, None, None]:
        """Estimates of x_0 (m, 1, y, x) of the slices in ``batch``, one after each sampling step.

        ``guide`` is the prior's slices (m, 1, y, x), on the diffusion's scale.
        """
        import torch

        from ..diffusion import sample, slice_noise

        parts = list(torch.arange(len(batch), device=guide.device).split(self.at_once))
        conditions = self._conditions(batch, guide, parts)
        consistent = self._correction(batch)

        def estimate(noisy: Tensor, t: int) -> Tensor:
            clean = torch.empty_like(noisy)
            for p in parts:
                if self.context.should_stop():
                    return noisy  # the caller asks too, and drops it
                level = torch.full((len(p),), t, device=noisy.device)
                with torch.no_grad(), autocast(self.context):
                    clean[p] = self.denoiser.estimate(noisy[p], guide[p], level, conditions[p], self.guidance)
            return consistent(clean)

        def noise(step: int) -> Tensor:
            return slice_noise(self.context.seed, batch, step, self.stack.shape[1:])[:, None].to(guide.device)

        fresh = (lambda i: noise(i + 1)) if self.fresh else None
        yield from sample(estimate, noise(0), self.denoiser.schedule, self.levels, fresh)

    def _conditions(self, batch: range, guide: Tensor, parts: list[Tensor]) -> Tensor:
        """Conditions (m, c) of the slices in ``batch``: their depths, and the projections interpolated there."""
        import torch

        here = slice(batch.start, batch.stop)
        closest = along_z(self.stack.acquisition.linear[here], self.stack.data)
        images = torch.from_numpy(closest)[:, None].to(guide.device) * 2 - 1
        z = depths(self.stack.acquisition.slice_centres[here], self.stack).to(guide.device)
        with torch.no_grad(), autocast(self.context):
            return torch.cat([self.denoiser.condition(images[p], guide[p], z[p]).float() for p in parts])

    def _correction(self, batch: range) -> Callable[[Tensor], Tensor]:
        """What makes estimates of the slices in ``batch`` consistent at every step; else leaves them alone."""
        import torch

        acquisition = self.stack.acquisition
        rows = (acquisition.starts >= batch.start) & (acquisition.starts < batch.stop)
        if not self.every_step or not rows.any():
            return lambda clean: clean
        forward = acquisition.matrix[rows, batch.start : batch.stop]
        whole = self.stack.ridge > 0  # they overlap, so all slices are denoised together, and the ridge is for this
        change = acquisition.smoothest(self.stack.ridge) if whole else acquisition.correction()
        backward = change[batch.start : batch.stop, rows]
        measured = torch.from_numpy(self.stack.data[rows])[:, None].to(self.context.device) * 2 - 1
        return lambda clean: clean + along_z(backward, measured - along_z(forward, clean))
