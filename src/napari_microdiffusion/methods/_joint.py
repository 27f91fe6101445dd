"""An INR that is trained together with the diffusion model it guides (MicroDiffusion, Sec. 5.5.3, Table 6)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..volume import ProjectionStack
from ._base import Context, Weights, autocast, decay
from ._crops import Cut
from .implicit import Inr, positions

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import AdamW
    from torch.optim.lr_scheduler import LambdaLR

    from ..denoiser import Denoiser

POINTS_AT_ONCE = 2**14


class JointPrior:
    """Gives crops of the prior that gradients flow through into the INR, and adds the INR's own loss.

    Parameters
    ----------
    prior
        The INR's settings.
    rows
        (K, Z): the slices' weights in what each projection is paired with, see `_crops.paired`.
    trained
        The INR's weights, which are trained further for the diffusion model's loss alone. None: both networks start at
        random, and the INR's own loss is added at a weight that decays to zero.
    """

    def __init__(
        self, prior: Inr, stack: ProjectionStack, rows: NDArray[np.float64], trained: Weights | None, context: Context
    ) -> None:
        import torch

        self.prior, self.net = prior, prior.network(stack, context)
        if trained is not None:
            self.net.load_state_dict(trained)
        self._context, self._shape = context, stack.shape
        self._z, self._weights = (torch.from_numpy(a).float().to(context.device) for a in prior.nodes(stack, rows))
        self._pixels = torch.arange(stack.shape[1] * stack.shape[2], device=context.device).view(stack.shape[1:])
        self._losses = prior.losses(self.net, stack, context) if trained is None else None

    def guides(self, where: list[Cut]) -> Tensor:
        """The prior (B, 1, side, side) that crops are paired with, on the diffusion's scale.

        Piece by piece, computed again for the gradient: memory does not grow with the crops.
        """
        import torch
        from torch.utils.checkpoint import checkpoint

        crops = []
        for cut in where:
            pixels = cut.of(self._pixels)
            pieces = pixels.flatten().split(max(1, POINTS_AT_ONCE // self._z.shape[1]))
            sums = [
                checkpoint(self._sums, cut.image, piece, use_reentrant=False, preserve_rng_state=False)
                for piece in pieces
            ]
            crops.append(torch.cat(sums).view(1, *pixels.shape))
        return torch.stack(crops) * 2 - 1

    def backward(self, progress: float) -> None:
        """Add the gradient of the INR's own loss (Eq. 2), on the diffusion's scale, at a weight falling from 1 to 0.

        The paper does not say how its weight decays: a half cosine over the training, ``progress`` 0 .. 1, is ours.
        """
        if self._losses is not None:
            _, objective = next(self._losses)
            (4 * decay("cosine", progress) * objective).backward()  # squares of differences twice as large

    def group(self, learning_rate: float, schedule: str) -> tuple[dict[str, Any], str]:
        """What the optimiser trains, and the schedule: as in its own training from the start, else as it is given.

        Without weight decay, which the INR's own training does not have either.
        """
        if self._losses is not None:
            learning_rate, schedule = self.prior.learning_rate, self.prior.schedule
        return {"params": list(self.net.parameters()), "lr": learning_rate, "weight_decay": 0.0}, schedule

    def _sums(self, image: int, pixels: Tensor) -> Tensor:
        """Intensities (R,) of the prior that projection ``image`` is paired with, at flat pixels (R,)."""
        with autocast(self._context):
            slices = self.net(self._z[image : image + 1], positions(pixels[None], self._shape)).float()
        sums: Tensor = self._weights[image] @ slices[0]
        return sums


def optimiser(
    denoiser: Denoiser, joint: JointPrior | None, learning_rate: float, weight_decay: float, schedule: str, steps: int
) -> tuple[AdamW, LambdaLR]:
    """Of the denoiser and the INR that is trained with it, with what changes their learning rates over the steps."""
    from torch.optim import AdamW
    from torch.optim.lr_scheduler import LambdaLR

    groups: list[tuple[dict[str, Any], str]] = [({"params": list(denoiser.parameters())}, schedule)]
    if joint is not None:
        groups.append(joint.group(learning_rate, schedule))
    adam = AdamW([group for group, _ in groups], lr=learning_rate, weight_decay=weight_decay)
    return adam, LambdaLR(adam, [partial(_rate, name, steps) for _, name in groups])


def _rate(schedule: str, steps: int, step: int) -> float:
    return decay(schedule, step / steps)
