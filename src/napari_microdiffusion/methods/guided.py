"""Diffusion guided by a prior volume (MicroDiffusion, Sec. 4.2, Algorithms 1 and 2).

Naive diffusion has no prior, interpolation and cubic diffusion an interpolated one, MicroDiffusion an INR, axial
diffusion (ours) axial super-resolution.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from ..events import Event, Preview, Stage, Step
from ..numerics import along_z
from ..provenance import Findings
from ..volume import ProjectionStack
from ._base import (
    DENOISER,
    PRIOR,
    Context,
    Method,
    Weights,
    autocast,
    finite,
    loaded,
    seeded,
    with_prefix,
    without_prefix,
)
from ._crops import crops, cuts, depths, intensities, paired, pairs
from ._joint import JointPrior, optimiser
from ._sampling import Sampler
from ._settings import (
    UNGUIDED,
    BetaEnd,
    BetaStart,
    Crop,
    Crops,
    DiffusionSteps,
    Guidance,
    LevelSpacing,
    Multipliers,
    RateSchedule,
    SamplerName,
    Timesteps,
    UNetChannels,
    setting,
    shared,
)
from .axial import Axial
from .implicit import Inr
from .interpolation import Conservative, Cubic, Linear

if TYPE_CHECKING:
    from ..denoiser import Denoiser

Prior = Annotated[Linear | Cubic | Conservative | Inr | Axial, Field(discriminator="kind")]
Consistency = Annotated[
    Literal["none", "final", "every_step"],
    shared(
        "make the volume reproduce the measured projections: at every sampling step, once at the end (final), or not "
        "at all (none)",
        sampling=True,
    ),
]


class Guided(Method):
    """A conditional diffusion model trained on the stack's own projections, guided by a prior's volume or by none."""

    learned: ClassVar[bool] = True
    kind: Literal["guided"] = "guided"
    consistency: Consistency = "final"  # type: ignore[assignment]
    prior: Prior | None = setting(None, "method whose volume guides the diffusion; none for naive diffusion")
    injection: Literal["interpolation", "condition"] = setting(
        "interpolation",
        "how the prior enters: mixed into the network's input (interpolation), or encoded as a further condition, "
        "where γ would do nothing (condition)",
    )
    prior_training: Literal["frozen", "trainable", "joint"] = setting(
        "frozen",
        "training of an INR as prior: before the diffusion model's (frozen); going on with it, for its loss "
        "(trainable); or only with it, from the start, in the diffusion model's steps (joint)",
    )
    gamma: float = setting(0.8, "share of the prior in the network's input, γ of Eq. 9", ge=0, le=1)
    pairing: Literal["mean", "slice"] = setting(
        "mean",
        "prior that a projection is trained with: its mean over the same n slices (mean), "
        "or its single slice at the centre, as in the paper (slice)",
    )
    parameterisation: Literal["x0", "epsilon", "v", "preconditioned"] = setting(
        "x0",
        "what the network predicts: the clean image (x0), the noise (epsilon), a mix of both (v), "
        "or what the best linear denoiser leaves over (preconditioned)",
    )
    timesteps: Timesteps = 1000
    beta_start: BetaStart = 1e-4
    beta_end: BetaEnd = 0.02
    sampler: SamplerName = "ddim"
    spacing: LevelSpacing = "quadratic"
    sampling_steps: int = setting(12, "denoising steps for each slice", ge=1, le=10_000, sampling=True)
    guidance: Guidance = 0.0
    condition: Literal["addition", "cross_attention", "none"] = setting(
        "addition",
        "how the closest projection and the depth enter: added to every block (addition), attended to at the "
        "lowest resolution (cross_attention), or not at all (none)",
    )
    p_uncond: float = setting(0.1, "share of training images that are shown without their condition", ge=0, le=1)
    channels: UNetChannels = 16
    multipliers: Multipliers = (1, 2, 4)
    attention: bool = setting(
        False, "self-attention at the lowest resolution; attention to the condition takes its place"
    )
    steps: DiffusionSteps = 300
    epochs: int | None = setting(
        None, "training length as passes over all projections, instead of steps", ge=1, le=100_000
    )
    batch: Crops = 8
    crop: Crop = 64
    learning_rate: float = setting(2e-3, "learning rate of AdamW", gt=0, le=1)
    weight_decay: float = setting(1e-4, "weight decay of AdamW", ge=0, le=1)
    schedule: RateSchedule = "cosine"

    @model_validator(mode="after")
    def _agree(self) -> Self:
        """Refuse settings that do not go together: of each pair one would do nothing."""
        if self.prior_training != "frozen" and not isinstance(self.prior, Inr):
            raise ValueError(f"prior_training={self.prior_training} needs a prior that trains with it: inr")
        if self.injection == "condition" and self.prior is None:
            raise ValueError("injection=condition needs a prior")
        if self.injection == "condition" and self.condition == "none":
            raise ValueError("injection=condition needs condition=addition or cross_attention, to carry the prior")
        if self.guidance > 0 and self.p_uncond == 0 and self.condition != "none":
            raise ValueError(UNGUIDED)
        return self

    @property
    def own_idle(self) -> frozenset[str]:
        """How a prior enters, where there is none, and such."""
        found = {"injection", "prior_training", "gamma", "pairing"} if self.prior is None else set()
        found |= {"gamma"} if self.injection == "condition" else set()
        found |= {"attention"} if self.condition == "cross_attention" else set()
        found |= {"steps"} if self.epochs is not None else set()
        found |= {"prior.fine_tuning"} if isinstance(self.prior, Axial) else set()  # it is trained with the rest
        return frozenset(found)

    def fit(self, stack: ProjectionStack, context: Context) -> Generator[Event, None, Weights]:
        """Algorithm 1: train on crops of the projections, each with its condition and its share of the prior."""
        weights: Weights = {}
        if self.prior is not None and self.prior_training != "joint":
            fitted = yield from self.prior.fit(stack, context)
            weights |= with_prefix(fitted, PRIOR)
        if context.should_stop():
            return weights
        joint = self._joint(stack, weights, context)
        prior = (yield from self._prior_volume(stack, weights, context)) if joint is None else None
        if context.should_stop():
            return weights
        denoiser = self._denoiser(context)
        yield from self._train(denoiser, stack, prior, joint, context)
        if joint is not None:
            weights = with_prefix(joint.net.state_dict(), PRIOR)
        return weights | with_prefix(denoiser.state_dict(), DENOISER)

    def estimate(
        self, stack: ProjectionStack, weights: Weights, context: Context
    ) -> Generator[Event, None, NDArray[np.float32]]:
        """Algorithm 2, in batches of slices; consistency at every step never ties one batch to another."""
        import torch

        prior = yield from self._prior_volume(stack, weights, context)
        data = along_z(stack.acquisition.linear, stack.data) if prior is None else prior.copy()
        if context.should_stop():
            return data
        denoiser = loaded(self._denoiser(context), without_prefix(weights, DENOISER))
        sampler = self._sampler(denoiser, stack, context)
        blocks = sampler.blocks()
        yield Stage("Denoising the slices", len(blocks) * len(sampler.levels))
        done = 0
        for block in blocks:
            guide = torch.from_numpy(data[block.start : block.stop])[:, None] * 2 - 1
            for clean in sampler.estimates(block, guide.to(context.device)):
                done += 1
                yield Step(done)
                if context.should_stop():
                    return data
                if context.preview_due():
                    yield Preview(block.start, intensities(clean))
                    context.preview_done()
            data[block.start : block.stop] = intensities(clean)
            for z in block:
                yield Preview(z, data[z : z + 1].copy())
        return data

    def untrained(self, stack: ProjectionStack, context: Context) -> Weights:
        prior = {} if self.prior is None else self.prior.untrained(stack, context)
        return with_prefix(prior, PRIOR) | with_prefix(self._denoiser(context).state_dict(), DENOISER)

    def findings(self, stack: ProjectionStack, weights: Weights) -> Findings:
        """What the prior found out; not whether it fell back to interpolation, which this volume is not."""
        found: Findings = {} if self.prior is None else self.prior.findings(stack, without_prefix(weights, PRIOR))
        found.pop("fell_back", None)
        return found

    def memory_bytes(self, stack: ProjectionStack) -> tuple[int, str]:
        training = self.batch * self.crop**2 * self.channels * 4 * 60
        prior, lower = (0, "") if self.prior is None else self.prior.memory_bytes(stack)
        together = training if self.prior_training == "frozen" else training + prior
        return max(
            (together, "lower batch, crop or channels"),
            (self._slice_bytes(stack), "lower channels or crop the images"),
            (prior, lower),
        )

    def _prior_volume(
        self, stack: ProjectionStack, weights: Weights, context: Context
    ) -> Generator[Event, None, NDArray[np.float32] | None]:
        """The trained prior (Z, y, x); None for naive diffusion. A frozen one is computed once a run."""
        if self.prior is None:
            return None
        key = self.prior.model_dump_json()
        frozen = self.prior_training == "frozen"  # else the diffusion model's training has a say in the volume too
        if frozen and key in context.volumes:
            return context.volumes[key]
        volume = yield from self.prior.voxels(stack, without_prefix(weights, PRIOR), context)
        if context.should_stop():  # perhaps not all of it: neither shown nor kept
            return volume
        yield Preview(0, volume.copy())
        if frozen:
            context.volumes[key] = volume
        return volume

    def _joint(self, stack: ProjectionStack, weights: Weights, context: Context) -> JointPrior | None:
        """The INR that is trained with the diffusion model, from the weights it has or from the start."""
        if self.prior_training == "frozen" or not isinstance(self.prior, Inr):
            return None
        trained = without_prefix(weights, PRIOR) if self.prior_training == "trainable" else None
        return JointPrior(self.prior, stack, paired(stack, self.pairing), trained, context)

    def _denoiser(self, context: Context) -> Denoiser:
        """The untrained network; the seed fixes its first weights."""
        from ..denoiser import Denoiser, condition_features
        from ..diffusion import Schedule
        from ..unet import UNet

        attention = self.attention and self.condition != "cross_attention"
        with seeded(context.seed):
            unet = UNet(
                self.channels,
                self.multipliers,
                attention,
                conditioning=self.condition,
                features=condition_features(self.injection),
            )
            schedule = Schedule(self.timesteps, self.beta_start, self.beta_end, context.device)
            gamma = 0.0 if self.prior is None else self.gamma
            denoiser = Denoiser(unet, schedule, gamma, self.parameterisation, self.condition, self.injection)
            return denoiser.to(context.device)

    def _train(
        self,
        denoiser: Denoiser,
        stack: ProjectionStack,
        prior: NDArray[np.float32] | None,
        joint: JointPrior | None,
        context: Context,
    ) -> Generator[Event, None, None]:
        """Train the network in place, and the prior's where it is trained with it, until the run is stopped."""
        import torch

        images = pairs(stack, prior, self.pairing).to(context.device)
        denoiser.calibrate(images[:, 0])
        z = depths(stack.acquisition.projection_centres, stack).to(context.device)
        generator = torch.Generator().manual_seed(context.seed)
        steps = self.steps if self.epochs is None else math.ceil(self.epochs * len(images) / self.batch)
        adam, rates = optimiser(denoiser, joint, self.learning_rate, self.weight_decay, self.schedule, steps)
        yield Stage("Training the diffusion model", steps)
        for step in range(steps):
            where = cuts(stack.shape, self.batch, self.crop, generator)
            clean, guide = crops(images, where).split(1, 1)
            if joint is not None:
                guide = joint.guides(where)
            with autocast(context):
                loss = denoiser.loss(clean, guide, z[[cut.image for cut in where]], self.p_uncond, generator)
            adam.zero_grad(set_to_none=True)
            loss.backward()
            if joint is not None:
                joint.backward(step / steps)
            adam.step()
            rates.step()
            yield Step(step + 1, finite(loss.item()))
            if context.should_stop():
                return

    def _sampler(self, denoiser: Denoiser, stack: ProjectionStack, context: Context) -> Sampler:
        return Sampler(
            denoiser,
            stack,
            context,
            levels=denoiser.schedule.spaced(self.sampling_steps, self.spacing),
            fresh=self.sampler == "ddpm",
            guidance=self.guidance,
            every_step=self.consistency == "every_step",
            at_once=context.at_once(self._slice_bytes(stack)),
        )

    def _slice_bytes(self, stack: ProjectionStack) -> int:
        """Memory for one slice in the network: about twelve feature maps at full resolution, doubled by guidance."""
        pixels = stack.shape[1] * stack.shape[2]
        twice = self.guidance > 0 and self.condition != "none"
        return pixels * self.channels * 4 * 12 * (2 if twice else 1)
