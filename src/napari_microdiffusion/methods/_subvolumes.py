"""Diffusion over subvolumes: stage A of Sparse3Diff (Lee et al., MICCAI 2025), and sampling."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ..acquisition import Acquisition
from ..events import Event, Preview, Stage, Step
from ..volume import ProjectionStack
from ._base import Context, Method, Weights, autocast, kept, loaded, seeded
from ._filling import Filling
from ._settings import (
    BetaEnd,
    BetaStart,
    Crop,
    FinalConsistency,
    LearningRate,
    LevelSpacing,
    Multipliers,
    RateSchedule,
    SamplerName,
    Timesteps,
    UNetChannels,
    setting,
)
from ._training import ahead, descend, optimisers_of
from ._windows import Drawer, Variety, Windows

if TYPE_CHECKING:
    from torch import Tensor

    from ..subvolume import SubvolumeNet


class Subvolumes(Method):
    """What Sparse3Diff and its plain baseline share: stage A, sampling, and the settings of the diffusion model."""

    learned: ClassVar[bool] = True
    retrains: ClassVar[bool] = False
    pretrained: ClassVar[bool] = True
    consistency: FinalConsistency = "final"
    parameterisation: Literal["v", "epsilon", "preconditioned"] = setting(
        "preconditioned",
        "what the network predicts: a mix of image and noise (v), the noise (epsilon), or what the best linear "
        "denoiser about the linear interpolation leaves over (preconditioned)",
    )
    further: int = setting(
        1, "measured images shown on each side beyond the two that enclose the wanted slices", ge=0, le=8
    )
    timesteps: Timesteps = 1000
    beta_start: BetaStart = 1e-4
    beta_end: BetaEnd = 0.02
    sampler: SamplerName = "ddim"
    spacing: LevelSpacing = "uniform"
    sampling_steps: int = setting(1, "denoising steps for each subvolume", ge=1, le=10_000, sampling=True)
    channels: UNetChannels = 48
    multipliers: Multipliers = (1, 2)
    fold: int = setting(2, "pixels along y and x that the network takes as one, with more channels: faster", ge=1, le=4)
    attention: bool = setting(False, "self-attention at the lowest resolution")
    steps: int = setting(1500, "training steps on full volumes", ge=1, le=10_000_000)
    batch: int = setting(16, "subvolumes in each training step", ge=1, le=1024)
    crop: Crop = 48
    turning: float = setting(
        0.5, "share of training subvolumes whose depth is a lateral axis of the volume", ge=0, le=1
    )
    hiding: float = setting(
        0.2, "share of training subvolumes twice as wide, as hidden projections leave them", ge=0, le=1
    )
    blur: float = setting(
        3.0,
        "half of the training subvolumes are blurred along z by up to so many slices (standard deviation)",
        ge=0,
        le=20,
    )
    noise: float = setting(
        0.1,
        "the measured images of half of the training subvolumes get noise of up to this, as a share of the "
        "intensity range",
        ge=0,
        le=1,
    )
    emphasis: float = setting(
        0.5,
        "share of training subvolumes at the highest noise level, where sampling starts; the others at any level alike",
        ge=0,
        le=1,
    )
    optimiser: Literal["muon", "adamw"] = setting("muon", "muon gets further in as many steps; adamw: the usual one")
    learning_rate: LearningRate = 3e-3
    schedule: RateSchedule = "cosine"

    def unsuited(self, acquisition: Acquisition) -> str | None:
        """It works between projections that do not overlap."""
        if acquisition.step < len(Windows(acquisition).profile):
            return (
                "works between projections that do not overlap, with a profile that does not begin with zeros: use a "
                "stride of at least the slices per projection"
            )
        if acquisition.step < 2:
            return "has nothing to do where every slice is measured: use more slices per projection"
        return None

    def depth_to_learn(self, acquisition: Acquisition) -> int:
        """One subvolume, and the projections that the error of linear interpolation is taken from."""
        return max(self.windows(acquisition).depth(), super().depth_to_learn(acquisition))

    def pretrain(
        self, volumes: Sequence[NDArray[np.float32]], acquisition: Acquisition, context: Context
    ) -> Generator[Event, None, Weights]:
        """Stage A: learn the slices between measured images from volumes where all are known."""
        import torch

        windows = self.windows(acquisition)
        net = self._network(acquisition, context)
        generator = torch.Generator().manual_seed(context.seed)
        variety = Variety(self.crop, self.turning, self.hiding, self.blur, self.noise)
        draw = Drawer(volumes, windows, variety, context.seed)
        some = draw(64)
        net.calibrate(some.known.to(context.device), some.clean.to(context.device))
        optimisers = optimisers_of(net, self.optimiser, self.learning_rate)
        with ahead(lambda: draw(self.batch), context) as subvolumes:

            def loss() -> Tensor:
                batch = subvolumes()
                known, clean, positions, spread = (
                    part.to(context.device)
                    for part in (batch.known, batch.clean, self.told(batch.positions), batch.spread)
                )
                with autocast(context):
                    return net.loss(known, clean, positions, self.dropout, self.emphasis, generator, spread)

            yield from descend("Training the base model", loss, optimisers, self.steps, self.schedule, context)
        return kept(net)

    def estimate(
        self, stack: ProjectionStack, weights: Weights, context: Context
    ) -> Generator[Event, None, NDArray[np.float32]]:
        """Subvolume by subvolume; hidden projections first, from subvolumes as wide as the gap."""
        net = self.loaded(stack, weights, context)
        filling = Filling(stack, self.windows(stack.acquisition))
        yield Stage("Denoising between the projections", len(filling.gaps) + len(filling.subvolumes))
        done = 0
        for gap in filling.gaps:
            if context.should_stop():
                break
            filling.tell(gap, self.sampled(net, filling, [gap[0]], context, gap[1] - gap[0])[0])
            done += 1
            yield Step(done)
        for indices in self._batches(stack, filling.subvolumes, context):
            found = self.sampled(net, filling, indices, context)
            if context.should_stop():
                break
            for index, slices in zip(indices, found, strict=True):
                start = filling.fill(index, slices)
                done += 1
                yield Preview(start, filling.data[start : start + len(slices)].copy())
                yield Step(done)
        return filling.data

    def untrained(self, stack: ProjectionStack, context: Context) -> Weights:
        return dict(self._network(stack.acquisition, context).state_dict())

    def memory_bytes(self, stack: ProjectionStack) -> tuple[int, str]:
        return self._subvolume_bytes(stack), "crop the images, or take a base model with fewer channels"

    def sampled(
        self, net: SubvolumeNet, filling: Filling, indices: Sequence[int], context: Context, spread: int = 1
    ) -> NDArray[np.float32]:
        """Slices (B, m, y, x) of subvolumes, from noise (Eq. 2), on the stack's scale."""
        import torch

        from ..diffusion import sample, slice_noise

        images, positions = zip(*(filling.known(index, spread) for index in indices), strict=True)
        known = torch.from_numpy(np.stack(images)).to(context.device) * 2 - 1
        told = self.told(torch.from_numpy(np.stack(positions)).float()).to(context.device)
        step, count = filling.windows.acquisition.step, filling.windows.count

        def estimate(noisy: Tensor, t: int) -> Tensor:
            level = torch.full((len(noisy),), t, device=noisy.device)
            with torch.no_grad(), autocast(context):
                return net.estimate(known, noisy, level, told, self.guiding)

        def noise(i: int) -> Tensor:
            shape = known.shape[2], known.shape[3]
            parts = [slice_noise(context.seed, range(k * step, k * step + count), i, shape) for k in indices]
            return torch.stack(parts).to(context.device)

        fresh = (lambda i: noise(i + 1)) if self.sampler == "ddpm" else None
        levels = net.schedule.spaced(self.sampling_steps, self.spacing)
        for found in sample(estimate, noise(0), net.schedule, levels, fresh):
            clean = found
            if context.should_stop():
                break  # the caller asks too
        slices: NDArray[np.float32] = (clean / 2 + 0.5).float().cpu().numpy()
        return slices

    @property
    def guiding(self) -> float:
        """Strength w of classifier-free guidance; 0 for a network that is not told positions."""
        return 0.0

    @property
    def dropout(self) -> float:
        """Share of training subvolumes that are shown without positions, p_uncond."""
        return 0.0

    @property
    def conditioning(self) -> Literal["none", "cross_attention"]:
        """How the U-Net is told positions."""
        return "none"

    def told(self, positions: Tensor) -> Tensor:
        """Positions as the network is told them."""
        return positions

    def windows(self, acquisition: Acquisition) -> Windows:
        """Where measured images and unknown slices lie in a subvolume."""
        return Windows(acquisition, self.further)

    def _batches(self, stack: ProjectionStack, indices: range, context: Context) -> list[range]:
        """Subvolumes that are denoised together, as many as memory holds."""
        size = context.at_once(self._subvolume_bytes(stack))
        return [indices[start : start + size] for start in range(0, len(indices), size)]

    def _subvolume_bytes(self, stack: ProjectionStack) -> int:
        """Memory for one subvolume: its images, about twelve feature maps, doubled by guidance."""
        pixels = stack.shape[1] * stack.shape[2]
        images = 8 * (stack.acquisition.step + len(self.windows(stack.acquisition).measured))
        return 4 * pixels * (images + 12 * self.channels // self.fold**2) * (2 if self.guiding else 1)

    def _network(self, acquisition: Acquisition, context: Context) -> SubvolumeNet:
        """The untrained network; the seed fixes its first weights."""
        import torch

        from ..diffusion import Schedule
        from ..subvolume import EMBEDDING, SubvolumeNet
        from ..unet import UNet

        windows = self.windows(acquisition)
        with seeded(context.seed):
            unet = UNet(
                self.channels,
                self.multipliers,
                self.attention,
                inputs=len(windows.measured) + windows.count,
                outputs=windows.count,
                conditioning=self.conditioning,
                features=EMBEDDING,
                fold=self.fold,
                norm=False,
            )
            schedule = Schedule(self.timesteps, self.beta_start, self.beta_end, context.device)
            between = torch.from_numpy(windows.inner / acquisition.step)
            return SubvolumeNet(unet, schedule, between, self.parameterisation).to(context.device)

    def loaded(self, stack: ProjectionStack, weights: Weights, context: Context) -> SubvolumeNet:
        """The trained network, to be used as it is."""
        return loaded(self._network(stack.acquisition, context), weights)
