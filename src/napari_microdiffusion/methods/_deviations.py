"""Deviations from what axial super-resolution gives: how they are learned on lateral patches, and drawn for a stack."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..acquisition import Acquisition
from ..events import Event, Step
from ..volume import ProjectionStack
from ._base import Context, autocast
from ._patches import Anisotropy, Patches, along_rows
from ._planes import deviation, invisible, plane_bytes, restored

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..diffusion import Schedule
    from ..plane_net import PlaneDenoiser, PlaneNet


LEAST = 1e-3
"""Standard deviations are this large at least, on the engine's scale: deviations are divided by them."""


@dataclass(frozen=True)
class Deviations:
    """A diffusion model of how planes deviate from their mean where no projection sees it, in standard deviations.

    Parameters
    ----------
    denoiser
        Estimates v of noisy deviations (Salimans and Ho 2022): near the clean ones it has little to do.
    """

    denoiser: PlaneDenoiser
    schedule: Schedule
    context: Context

    def loss(self, net: PlaneNet, patches: Patches, ridge: float, generator: torch.Generator) -> Tensor:
        """Mean squared error of v for the deviations of patches, at a random noise level for each."""
        import torch

        patches, acquisition = patches.to(self.context.device), patches.acquisition
        start = along_rows(acquisition.smoothest(ridge), patches.projections)
        with torch.no_grad():
            mean, spread = restored(net, acquisition, ridge, start, patches.conditions, self.context)
        spread[..., ~acquisition.inferred, :] = 0  # as in the reliability of a stack
        std = deviation(spread.transpose(0, 1)).clamp_min(LEAST)
        clean = invisible(acquisition, ridge, patches.truth + patches.grain - mean) / std
        t = torch.randint(self.schedule.timesteps, (len(clean),), generator=generator).to(clean.device)
        noise = torch.randn(clean.shape, generator=generator).to(clean.device)
        planes = torch.stack([self.schedule.noised(clean, noise, t), mean, std], 1)
        _, sigma = self.schedule.levels(t, clean)
        error = (self._estimate(planes, acquisition, ridge, patches.conditions, t) - clean) / sigma.clamp_min(0.1)
        weight = std.square()  # large deviations are the sample's, small ones the camera's
        return (weight * error.square()).mean() / weight.mean()

    def draw(
        self,
        stack: ProjectionStack,
        known: tuple[NDArray[np.float32], NDArray[np.float32]],
        anisotropy: Anisotropy,
        number: int,
        levels: list[int],
    ) -> Generator[Event, None, NDArray[np.float32]]:
        """Draw deviation ``number`` (Z, y, x) of a stack's volume; unfinished once the context says stop.

        Parameters
        ----------
        known
            The restored volume and its standard deviation, (Z, y, x) each.
        levels
            Falling noise levels, from `Schedule.spaced`.
        """
        import torch

        from ..diffusion import sample, slice_noise

        acquisition, ridge, device = stack.acquisition, stack.ridge, self.context.device
        mean, std = (torch.from_numpy(volume).to(device) for volume in known)
        std = std.clamp_min(LEAST)

        axes = cycle((1, 2))

        def estimate(noisy: Tensor, t: int) -> Tensor:
            """What XZ planes say, and at the next step YZ planes."""
            axis = next(axes)
            clean = torch.empty_like(noisy)
            volumes = [volume.movedim(axis, 0) for volume in (noisy, mean, std)]  # views (planes, Z, pixels)
            at_once = self.context.at_once(plane_bytes(self.denoiser, volumes[0][0].numel()))
            for start in range(0, len(volumes[0]), at_once):
                if self.context.should_stop():
                    return noisy  # the caller asks too, and drops it
                batch = torch.stack([volume[start : start + at_once] for volume in volumes], 1)
                level = torch.full((len(batch),), t, device=device)
                with torch.no_grad():
                    found = self._estimate(batch, acquisition, ridge, anisotropy.conditions(batch), level)
                clean.movedim(axis, 0)[start : start + at_once] = found
            return clean

        noise = slice_noise(self.context.seed, range(acquisition.depth), number, stack.shape[1:]).to(device)
        clean = torch.zeros_like(noise)
        for done, estimated in enumerate(sample(estimate, noise, self.schedule, levels), 1):
            clean = estimated
            yield Step(number * len(levels) + done)
            if self.context.should_stop():
                break
        drawn: NDArray[np.float32] = (clean * std).cpu().numpy()
        return drawn

    def _estimate(
        self, planes: Tensor, acquisition: Acquisition, ridge: float, conditions: Tensor, t: Tensor
    ) -> Tensor:
        """Clean deviations (B, Z, x) of planes (B, 3, Z, x) with noise of level ``t`` (B,), without what is seen."""
        noisy, std = planes[:, 0], planes[:, 2]
        with autocast(self.context):
            v = self.denoiser(planes, planes.new_tensor(~acquisition.seen), conditions, t / self.schedule.timesteps)
        signal, sigma = self.schedule.levels(t, noisy)
        return invisible(acquisition, ridge, (signal * noisy - sigma * v.float()) * std) / std
