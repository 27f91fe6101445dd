"""Sparse3Diff (Lee et al., MICCAI 2025): diffusion over subvolumes, aligned to a sample; and its plain baseline."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from pydantic import model_validator

from ..events import Event, Notice, Stage, Step
from ..volume import ProjectionStack
from ._base import Context, Weights, autocast, finite, kept
from ._filling import Filling
from ._settings import UNGUIDED, Guidance, setting
from ._subvolumes import Subvolumes
from ._training import optimisers_of, take_step
from ._windows import Batch

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.optim import Optimizer

    from ..subvolume import SubvolumeNet

SIDE = 128
"""Of the crops that self-alignment learns from, in pixels: whole images may be too large to train on."""


class Ddpm(Subvolumes):
    """A diffusion model that is shown the measured images beside the noisy ones, and nothing of where they lie.

    What makes it the paper's baseline beyond that (noise estimated, many steps) are numbers of its presets.
    """

    kind: Literal["ddpm"] = "ddpm"


class Sparse3Diff(Subvolumes):
    """A diffusion model of subvolumes that knows where its slices lie, aligned to the stack's own images."""

    kind: Literal["sparse3diff"] = "sparse3diff"
    places: Literal["relative", "absolute"] = setting(
        "relative", "how slices are counted along z: within the subvolume (relative), or from the top (absolute)"
    )
    p_uncond: float = setting(0.1, "share of training subvolumes that are shown without positions", ge=0, le=1)
    guidance: Guidance = 0.0
    align: bool = setting(True, "fit the base model to the stack's own images before the volume is made", sampling=True)
    align_among: Literal["measured", "inferred"] = setting(
        "inferred",
        "what surrounds an image while the model learns it: slices that the model inferred before, as in the paper "
        "(inferred), or other images of the stack, twice as far apart (measured)",
        sampling=True,
    )
    align_tested: bool = setting(
        True,
        "keep the alignment only if images left out of it are then predicted better (true), or always, as in the paper",
        sampling=True,
    )
    align_share: float = setting(
        0.5,
        "how far the weights go from the base model's (0) to the aligned ones (1, as in the paper)",
        ge=0,
        le=1,
        sampling=True,
    )
    align_rate: float = setting(
        1e-4,
        "learning rate of the optimiser while aligning",
        gt=0,
        le=1,
        sampling=True,
    )
    align_passes: int = setting(1, "how often each image takes its turn while aligning", ge=1, le=1000, sampling=True)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        """Refuse settings that do not go together."""
        if self.guidance > 0 and self.p_uncond == 0:
            raise ValueError(UNGUIDED)
        return self

    @property
    def own_idle(self) -> frozenset[str]:
        """How to align, where it does not."""
        how = (key for key in type(self).model_fields if key.startswith("align_"))
        return frozenset(() if self.align else how)

    @property
    def refines(self) -> bool:
        return self.align

    def refine(self, stack: ProjectionStack, weights: Weights, context: Context) -> Generator[Event, None, Weights]:
        """Stage B, self-alignment (Sec. 2.3), if images left out of it are then predicted better."""
        if not self.align:
            return weights
        turns = Filling(stack, self.windows(stack.acquisition)).enclosed_ones
        if len(turns) < 1 + self.align_tested:
            purpose = "test whether aligning helps" if turns else "align to"
            yield Notice(f"too few projections lie between two others to {purpose}: the base model is used as it is")
            return weights
        if self.align_tested:
            gain = yield from self._gain(stack, weights, turns, context)
            if context.stopped:
                return weights
            if gain <= 0:
                than = f"{-gain:.2f} dB worse than" if gain <= -0.005 else "no better than"
                yield Notice(
                    f"fitted to some of the images, the base model predicts the others {than} before: "
                    "it is used as it is"
                )
                return weights
            told = f"{gain:.2f} dB better" if gain >= 0.005 else "hardly better"
            yield Notice(f"fitted to some of the images, the base model predicts the others {told} than before: kept")
        return (yield from self._aligned(stack, weights, turns, "Aligning to the stack's own images", context))

    def _gain(
        self, stack: ProjectionStack, weights: Weights, turns: list[int], context: Context
    ) -> Generator[Event, None, float]:
        """How much better images are predicted by a model aligned to the others, in dB; in two turns."""
        before, after = [], []
        for number, (learned, tested) in enumerate(((turns[::2], turns[1::2]), (turns[1::2], turns[::2])), 1):
            name = f"Testing whether aligning helps, {number} of 2"
            aligned = yield from self._aligned(stack, weights, learned, name, context)
            if context.stopped:
                break
            before += yield from self._errors(stack, weights, tested, context)
            after += yield from self._errors(stack, aligned, tested, context)
            if context.stopped:
                break
        if context.stopped:
            return 0.0
        return 10 * float(np.mean(np.log10(before) - np.log10(after)))

    def _errors(
        self, stack: ProjectionStack, weights: Weights, turns: list[int], context: Context
    ) -> Generator[Event, None, list[float]]:
        """Mean squared errors of projections as told by the subvolumes between their neighbours."""
        net = self.loaded(stack, weights, context)
        filling = Filling(stack, self.windows(stack.acquisition))
        errors = []
        yield Stage("Predicting the images that were left out", len(turns))
        for done, k in enumerate(turns, 1):
            wide = self.sampled(net, filling, [k - 1], context, spread=2)[0]
            errors.append(max(1e-12, float(np.square(filling.between(k, wide) - filling.measured(k)).mean())))
            yield Step(done)
            if context.should_stop():
                break
        return errors

    def _aligned(
        self, stack: ProjectionStack, weights: Weights, turns: Sequence[int], name: str, context: Context
    ) -> Generator[Event, None, Weights]:
        """The weights after each image has taken its turn: infer around it, then learn it at every place."""
        import torch

        net = self.loaded(stack, weights, context).requires_grad_(True)
        filling = Filling(stack, self.windows(stack.acquisition))
        optimisers = optimisers_of(net, self.optimiser, self.align_rate)
        random = np.random.default_rng(context.seed)
        generator = torch.Generator().manual_seed(context.seed)
        yield Stage(name, len(turns) * self.align_passes)
        for done, index in enumerate([k for _ in range(self.align_passes) for k in turns], 1):
            examples = self._examples(net, filling, index, random, context)
            losses = [self._learn(net, *example, optimisers, generator, context) for example in examples]
            yield Step(done, finite(float(np.mean(losses))))
            if context.should_stop():
                break
        # half way keeps what both know, and is better than either (Wortsman et al., CVPR 2022)
        found = kept(net)
        return {name: weights[name] + self.align_share * (found[name] - weights[name]) for name in found}

    def _examples(
        self, net: SubvolumeNet, filling: Filling, index: int, random: np.random.Generator, context: Context
    ) -> Iterator[tuple[Batch, Tensor]]:
        """Subvolumes with a projection among what is known or inferred around it, and the slices that it weighs."""
        sizes = filling.data.shape[1:]
        sides = [min(SIDE, size) for size in sizes]
        if self.align_among == "inferred":
            for beside in (index - 1, index):
                filling.fill(beside, self.sampled(net, filling, [beside], context)[0])
        else:
            slices = self.sampled(net, filling, [index - 1], context, spread=2)[0]
        for shift in filling.windows.shifts:
            corner = [int(random.integers(size - side + 1)) for size, side in zip(sizes, sides, strict=True)]
            y, x = (slice(start, start + side) for start, side in zip(corner, sides, strict=True))
            inferred = self.align_among == "inferred"
            yield filling.placed(index, shift, (y, x)) if inferred else filling.enclosed(index, slices, (y, x))

    def _learn(
        self,
        net: SubvolumeNet,
        batch: Batch,
        seen: Tensor,
        optimisers: list[Optimizer],
        generator: torch.Generator,
        context: Context,
    ) -> float:
        """One step down the loss on a measured image alone; its value."""
        known, clean, positions, seen = (
            tensor.to(context.device) for tensor in (batch.known, batch.clean, self.told(batch.positions), seen)
        )
        with autocast(context):
            loss = net.loss(known, clean, positions, self.dropout, self.emphasis, generator, seen=seen)
        return take_step(loss, optimisers)

    @property
    def guiding(self) -> float:
        return self.guidance

    @property
    def dropout(self) -> float:
        return self.p_uncond

    @property
    def conditioning(self) -> Literal["none", "cross_attention"]:
        return "cross_attention"

    def told(self, positions: Tensor) -> Tensor:
        return positions - positions[:, self.further : self.further + 1] if self.places == "relative" else positions
