"""The axial diffusion posterior (ours): volumes as they may be, each of which explains the projections.

Axial super-resolution gives the mean of them, and how far each voxel may be off. A diffusion model learns on the same
lateral patches how deviations hang together, and draws them: the noise of a volume is taken away by XZ planes and YZ
planes in turn, at every step without what the projections would have seen of it.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ..events import Event, Notice, Preview, Stage, relay
from ..provenance import Findings
from ..reliability import Z90, Reliability
from ..volume import ProjectionStack, Volume
from ._base import (
    DENOISER,
    PRIOR,
    Context,
    Method,
    Weights,
    loaded,
    make_consistent,
    seeded,
    with_prefix,
    without_prefix,
)
from ._deviations import Deviations
from ._planes import fold_of
from ._settings import Blocks, DiffusionSteps, FinalConsistency, LearningRate, NetworkChannels, PatchBatch, setting
from ._training import ahead, descend, muon
from ._trial import Trial
from .axial import Axial

if TYPE_CHECKING:
    from torch import Tensor


UNKNOWN = "how far the sample may deviate from the mean is not known"
"""Said where axial super-resolution gives no intervals."""

SCHEDULE = 1000, 1e-4, 0.02
"""Noise levels, and the variances of the first and the last (DDPM, Ho et al. 2020)."""


class AxialPosterior(Method):
    """Samples of what the volume may be, around the one that axial super-resolution gives.

    One sample is as grainy as a real volume; the mean of many comes back to axial super-resolution.
    """

    learned: ClassVar[bool] = True
    retrains: ClassVar[bool] = False
    gives_reliability: ClassVar[bool] = True
    kind: Literal["axial_posterior"] = "axial_posterior"
    consistency: FinalConsistency = "final"
    prior: Axial = setting(
        Axial(), "axial super-resolution: it gives the mean, sigma and how far each voxel may be off"
    )
    samples: int = setting(
        1,
        "volumes drawn; of several the mean is given, with their spread as its error bars",
        ge=1,
        le=1000,
        sampling=True,
    )
    sampling_steps: int = setting(32, "denoising steps for each sample", ge=1, le=1000, sampling=True)
    channels: NetworkChannels = 32
    blocks: Blocks = 4
    steps: DiffusionSteps = 600
    batch: PatchBatch = 12
    learning_rate: LearningRate = 3e-3

    @property
    def refines(self) -> bool:
        """Where the prior does."""
        return self.prior.refines

    def fit(self, stack: ProjectionStack, context: Context) -> Generator[Event, None, Weights]:
        """Train axial super-resolution, then the diffusion model on what that leaves over."""
        prior = yield from self.prior.fit(stack, context)
        weights = with_prefix(prior, PRIOR)
        if context.should_stop():
            return weights
        # to be looked at, and left by a stop; what there is to say of it is said with the sample
        mean = yield from relay(
            self.prior.voxels(stack, prior, context), lambda event: None if isinstance(event, Notice) else event
        )
        if context.stopped:
            return weights
        yield Preview(0, mean)
        model = self._model(stack, context)
        if math.isnan(Trial.of(prior).widening):
            yield Notice(f"the diffusion of deviations is not trained: {UNKNOWN}")
        else:
            yield from self._train(model, stack, prior, context)
        return weights if context.stopped else weights | with_prefix(model.denoiser.state_dict(), DENOISER)

    def refine(self, stack: ProjectionStack, weights: Weights, context: Context) -> Generator[Event, None, Weights]:
        """Axial super-resolution as it does on a further stack; the diffusion model stays as it is."""
        if math.isnan(Trial.of(without_prefix(weights, PRIOR)).widening):  # never trained, or never tested
            return (yield from self.fit(stack, context))
        prior = yield from self.prior.refine(stack, without_prefix(weights, PRIOR), context)
        return with_prefix(prior, PRIOR) | with_prefix(without_prefix(weights, DENOISER), DENOISER)

    def predict(self, stack: ProjectionStack, weights: Weights, context: Context) -> Generator[Event, None, Volume]:
        """The sample or the mean of several (Z, y, x) float32, with its reliability: of one sample that of the mean.

        Where axial super-resolution falls back to interpolation or states no intervals, its volume is given as it is;
        so it is after a stop, the previews being the mean of what was drawn by then.
        """
        prior = without_prefix(weights, PRIOR)
        volume = yield from self.prior.predict(stack, prior, context)
        if context.stopped:
            return volume
        if volume.reliability is None:
            yield Notice(f"no volumes are drawn: {UNKNOWN}")
            return volume
        yield Preview(0, volume.data.copy())
        model = self._model(stack, context)
        loaded(model.denoiser, without_prefix(weights, DENOISER))
        trial = Trial.of(prior)
        anisotropy = self.prior.sharpest(trial)  # what the standard deviation is for; the mean is for the most blur
        levels = model.schedule.spaced(self.sampling_steps, "angular")
        yield Stage("Drawing volumes as they may be", self.samples * len(levels))
        mean, squares = np.zeros_like(volume.data), np.zeros_like(volume.data)
        known = volume.data, volume.reliability.std / np.float32(trial.widening)  # as in training
        for number in range(self.samples):
            drawn = yield from model.draw(stack, known, anisotropy, number, levels)
            if context.stopped:
                return volume
            change = drawn - mean  # Welford's running mean and sum of squares
            mean += change / np.float32(number + 1)
            squares += change * (drawn - mean)
            yield Preview(0, volume.data + mean)
        data = volume.data + mean
        if self.consistency != "none":
            make_consistent(stack, data)
        reliability = volume.reliability
        if self.samples > 1:
            std = np.sqrt(squares / np.float32(self.samples - 1))
            reliability = Reliability(std, data - np.float32(Z90) * std, data + np.float32(Z90) * std)
        return replace(volume, data=data, name=f"{stack.name} {self.kind}", reliability=reliability)

    def voxels(
        self, stack: ProjectionStack, weights: Weights, context: Context
    ) -> Generator[Event, None, NDArray[np.float32]]:
        """Drawn as far from the mean as its error bars are long, so there is no volume without them."""
        volume = yield from self.predict(stack, weights, context)
        return volume.data

    def untrained(self, stack: ProjectionStack, context: Context) -> Weights:
        denoiser = self._model(stack, context).denoiser.state_dict()
        prior = with_prefix(self.prior.untrained(stack, context), PRIOR)
        return prior | with_prefix(denoiser, DENOISER)

    def findings(self, stack: ProjectionStack, weights: Weights) -> Findings:
        """What axial super-resolution found out."""
        return self.prior.findings(stack, without_prefix(weights, PRIOR))

    def memory_bytes(self, stack: ProjectionStack) -> tuple[int, str]:
        own = self.prior.model_copy(update={"batch": self.batch, "channels": self.channels})
        return max(
            (own.memory_bytes(stack)[0], "lower batch or channels"),
            (self.prior.memory_bytes(stack)[0], "lower prior.batch or prior.channels"),
            (9 * 4 * math.prod(stack.volume_shape), "crop the images"),  # volumes that drawing holds on the device
        )

    def _train(
        self, model: Deviations, stack: ProjectionStack, prior: Weights, context: Context
    ) -> Generator[Event, None, None]:
        """Train the diffusion model in place, until the run is stopped."""
        import torch

        net = self.prior.loaded(stack, prior, context)
        fresh = replace(context, seed=context.seed + 1)  # patches that the mean was not fitted to
        cut = self.prior.cutter(stack, Trial.of(prior).ratio, fresh)
        generator = torch.Generator().manual_seed(context.seed)
        optimisers = muon(model.denoiser, self.learning_rate)
        with ahead(lambda: cut(self.batch), context) as patches:

            def loss() -> Tensor:
                return model.loss(net, patches(), stack.ridge, generator)

            yield from descend("Training the diffusion of deviations", loss, optimisers, self.steps, "cosine", context)

    def _model(self, stack: ProjectionStack, context: Context) -> Deviations:
        """The untrained diffusion model; the seed fixes its first weights."""
        from ..diffusion import Schedule
        from ..plane_net import PlaneDenoiser

        with seeded(context.seed):
            denoiser = PlaneDenoiser(fold_of(stack.acquisition), self.channels, self.blocks).to(context.device)
        return Deviations(denoiser, Schedule(*SCHEDULE, context.device), context)
