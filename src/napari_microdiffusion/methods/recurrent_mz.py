"""Recurrent-MZ: a slice from a few images at known depths, seen one after the other (Huang et al. 2021).

Huang et al., "Recurrent neural network-based volumetric fluorescence microscopy", Light: Sci. Appl. 10, 62. Trained on
full volumes, without the paper's adversarial loss: it makes images look sharp, not true, and needs a second network.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ..acquisition import Acquisition
from ..events import Event, Preview, Stage, Step
from ..numerics import along_z
from ..volume import ProjectionStack
from ._base import Context, Method, Weights, autocast, kept, loaded, seeded
from ._sequences import Batch, Drawer, Variety, sequences
from ._settings import Crop, Crops, FinalConsistency, LearningRate, NetworkChannels, RateSchedule, Steps, setting
from ._training import ahead, descend, optimisers_of

if TYPE_CHECKING:
    from torch import Tensor

    from ..recurrent import RecurrentUNet


class RecurrentMz(Method):
    """A convolutional-recurrent U-Net that is shown the nearest projections of a slice, from far to near."""

    learned: ClassVar[bool] = True
    retrains: ClassVar[bool] = False
    pretrained: ClassVar[bool] = True
    kind: Literal["recurrent_mz"] = "recurrent_mz"
    consistency: FinalConsistency = "final"
    inputs: int = setting(4, "projections shown for each slice, the nearest ones", ge=2, le=16)
    residual: bool = setting(
        True, "add to the linear interpolation (true), or make the slice from nothing, as in the paper (false)"
    )
    channels: NetworkChannels = 24
    levels: int = setting(2, "resolutions of the network", ge=1, le=6)
    loss: Literal["berhu", "l1", "l2"] = setting(
        "l2", "what is made small: the reverse Huber loss as in the paper, the absolute or the squared error"
    )
    structure: float = setting(0.0, "weight of the dissimilarity in structure (1 − SSIM) beside that loss", ge=0, le=10)
    hiding: float = setting(0.2, "share of training crops in which a projection is hidden", ge=0, le=1)
    blur: float = setting(
        3.0, "most training crops are blurred along z by up to so many slices (standard deviation)", ge=0, le=20
    )
    noise: float = setting(
        0.1, "most training crops get noise of up to this, as a share of the intensity range", ge=0, le=1
    )
    steps: Steps = 1000
    batch: Crops = 8
    crop: Crop = 48
    optimiser: Literal["muon", "adam"] = setting(
        "muon", "muon: gets further in as many steps; adam: as in the released code"
    )
    learning_rate: LearningRate = 3e-3
    schedule: RateSchedule = "cosine"

    def pretrain(
        self, volumes: Sequence[NDArray[np.float32]], acquisition: Acquisition, context: Context
    ) -> Generator[Event, None, Weights]:
        """Train on random crops, each with a random slice to be found."""
        variety = Variety(self.inputs, self.crop, self.hiding, self.blur, self.noise)
        draw = Drawer(volumes, acquisition, variety, context.seed)
        net = self._network(context)
        optimisers = optimisers_of(net, self.optimiser, self.learning_rate)
        with ahead(lambda: draw(self.batch), context) as crops:

            def loss() -> Tensor:
                return self._loss(net, crops(), context)

            yield from descend("Training on full volumes", loss, optimisers, self.steps, self.schedule, context)
        return kept(net)

    def estimate(
        self, stack: ProjectionStack, weights: Weights, context: Context
    ) -> Generator[Event, None, NDArray[np.float32]]:
        """Every slice that no projection shows by itself, in batches; those that one does are as projected."""
        images = stack.data.astype(np.float32, copy=False)
        shown = sequences(stack.acquisition, self.inputs)
        data = along_z(stack.acquisition.linear, images)
        net = loaded(self._network(context), weights)
        wanted = np.flatnonzero(~stack.acquisition.fixed)
        size = context.at_once(self._slice_bytes(stack))
        yield Stage("Making the slices", len(wanted))
        yield Preview(0, data.copy())
        for first in range(0, len(wanted), size):
            here = wanted[first : first + size]
            made = _made(net, images[shown.chosen[here]], shown.distances[here], context)
            data[here] = data[here] + made if self.residual else made
            for done, z in enumerate(here, first + 1):
                yield Preview(int(z), data[z : z + 1].copy())
                yield Step(done)
            if context.should_stop():
                break
        return data

    def untrained(self, stack: ProjectionStack, context: Context) -> Weights:
        return dict(self._network(context).state_dict())

    def memory_bytes(self, stack: ProjectionStack) -> tuple[int, str]:
        return self._slice_bytes(stack), "crop the images"

    def _slice_bytes(self, stack: ProjectionStack) -> int:
        """Memory for one slice in the network: about twelve feature maps at half the resolution for each image."""
        pixels = stack.shape[1] * stack.shape[2]
        return pixels // 4 * self.channels * 4 * 12 * self.inputs

    def _network(self, context: Context) -> RecurrentUNet:
        """The untrained network; the seed fixes its first weights."""
        from ..recurrent import RecurrentUNet

        with seeded(context.seed):
            return RecurrentUNet(self.channels, self.levels, silent=self.residual).to(context.device)

    def _loss(self, net: RecurrentUNet, batch: Batch, context: Context) -> Tensor:
        """The error of the slices, and their dissimilarity in structure."""
        import torch

        from ..recurrent import berhu, dissimilarity

        images, distances, linear, truth, spread = (
            torch.from_numpy(part).to(context.device)
            for part in (batch.images, batch.distances, batch.linear, batch.truth, batch.spread)
        )
        with autocast(context):
            estimate = net(images, distances)
        estimate = estimate.float() + linear if self.residual else estimate.float()
        error = (estimate - truth) / spread[:, None, None]
        sizes = {"berhu": berhu, "l1": torch.Tensor.abs, "l2": torch.Tensor.square}
        loss: Tensor = sizes[self.loss](error).mean()
        return loss + self.structure * dissimilarity(estimate, truth) if self.structure else loss


def _made(
    net: RecurrentUNet, images: NDArray[np.float32], distances: NDArray[np.float32], context: Context
) -> NDArray[np.float32]:
    """What the network makes (m, y, x) of images (m, M, y, x) at distances (m, M)."""
    import torch

    with autocast(context):
        made = net(torch.from_numpy(images).to(context.device), torch.from_numpy(distances).to(context.device))
    slices: NDArray[np.float32] = made.float().cpu().numpy()
    return slices
