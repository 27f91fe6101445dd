"""Diffusion guided by a prior volume (MicroDiffusion, Sec. 4.2, Algorithms 1 and 2).

Naive diffusion has no prior, interpolation and cubic diffusion an interpolated one, MicroDiffusion an INR.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..events import Event
from ..volume import ProjectionStack
from ._base import Context, Method, Weights, setting
from .implicit import Inr
from .interpolation import Conservative, Cubic, Linear

Prior = Annotated[Linear | Cubic | Conservative | Inr, Field(discriminator="kind")]
Consistency = Annotated[
    Literal["none", "final", "every_step"],
    Field(
        description="make the volume reproduce the measured projections: at every sampling step, once at the end (final), or not at all (none)",
        json_schema_extra={"stage": "sampling"},
    ),
]


class Guided(Method):
    """A conditional diffusion model trained on the stack's own projections, with a frozen prior mixed into its input."""

    learned: ClassVar[bool] = True
    kind: Literal["guided"] = "guided"
    consistency: Consistency = "every_step"  # type: ignore[assignment]
    prior: Prior | None = setting(None, "method whose volume guides the diffusion; none for naive diffusion")
    gamma: float = setting(0.5, "share of the prior in the network's input, γ of Eq. 9", ge=0, le=1)
    pairing: Literal["mean", "slice"] = setting(
        "mean",
        "prior that a projection is trained with: its mean over the same n slices, or its single slice at the centre as in the paper",
    )
    parameterisation: Literal["x0", "epsilon", "v"] = setting(
        "x0", "what the network predicts: the clean image, the noise, or v, a mix of both"
    )
    timesteps: int = setting(1000, "noise levels of the training schedule, T", ge=2, le=10_000)
    beta_start: float = setting(1e-4, "noise variance of the first level", gt=0, lt=1)
    beta_end: float = setting(0.02, "noise variance of the last level", gt=0, lt=1)
    sampler: Literal["ddim", "ddpm"] = setting(
        "ddim", "ddim: few steps, no fresh noise; ddpm: random, best with all T steps", sampling=True
    )
    sampling_steps: int = setting(15, "denoising steps for each slice", ge=1, le=10_000, sampling=True)
    guidance: float = setting(
        0.0, "strength w of classifier-free guidance; 0 needs half the time", ge=0, le=20, sampling=True
    )
    p_uncond: float = setting(0.1, "share of training images that are shown without their condition", ge=0, le=1)
    channels: int = setting(32, "channels of the U-Net at full resolution", ge=8, le=512, multiple_of=8)
    multipliers: tuple[int, ...] = setting(
        (1, 2, 3), "channels at each resolution, as multiples", min_length=1, max_length=5
    )
    attention: bool = setting(False, "self-attention at the lowest resolution")
    steps: int = setting(600, "training steps of the diffusion model", ge=1, le=10_000_000)
    epochs: int | None = setting(
        None, "training length as passes over all projections, instead of steps", ge=1, le=100_000
    )
    batch: int = setting(12, "crops in each training step", ge=1, le=1024)
    crop: int = setting(64, "side of a training crop, in pixels", ge=16, le=1024, multiple_of=16)
    learning_rate: float = setting(2e-4, "learning rate of AdamW", gt=0, le=1)
    weight_decay: float = setting(1e-4, "weight decay of AdamW", ge=0, le=1)
