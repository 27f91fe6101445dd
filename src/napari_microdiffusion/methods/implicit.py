"""Implicit neural representation of the volume (MicroDiffusion, Sec. 4.1)."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ..events import Event, Preview, Stage, Step
from ..volume import ProjectionStack
from ._base import Context, FinalConsistency, Method, Weights, setting

if TYPE_CHECKING:
    from ..inr import InrNet


class Inr(Method):
    """A coordinate network trained so that its slices' means reproduce the projections (Eq. 1 and 2)."""

    learned: ClassVar[bool] = True
    kind: Literal["inr"] = "inr"
    consistency: FinalConsistency = "final"
    encoding: Literal["gaussian", "sincos"] = setting(
        "gaussian", "how coordinates enter the network: random Fourier features (gaussian) or octaves (sincos)"
    )
    features: int = setting(
        256, "size of the gaussian encoding: twice the number of random frequencies", ge=8, le=4096, multiple_of=2
    )
    bandwidth_z: float = setting(
        1.5, "finest detail along z that the gaussian encoding favours, in cycles per ten projections", gt=0, le=100
    )
    bandwidth_xy: float = setting(
        12.0, "finest detail in xy that the gaussian encoding favours, in cycles per 64 pixels", gt=0, le=100
    )
    octaves: int = setting(10, "levels of the sincos encoding", ge=1, le=16)
    layers: int = setting(3, "hidden layers of the network", ge=1, le=16)
    width: int = setting(128, "neurons in each hidden layer", ge=8, le=2048)
    skip: bool = setting(False, "feed the encoding in again half way through the network")
    neighbouring: Literal["gaussian", "uniform", "none"] = setting(
        "none",
        "average n neighbouring slices when the volume is computed, as in the paper (Eq. 3); none keeps each slice as it is",
        sampling=True,
    )
    steps: int = setting(800, "training steps", ge=1, le=10_000_000)
    epochs: int | None = setting(
        None, "training length as passes over all measured pixels, instead of steps", ge=1, le=100_000
    )
    rays: int = setting(4096, "measured pixels in each training step", ge=16, le=1_000_000)
    learning_rate: float = setting(1e-3, "learning rate of Adam", gt=0, le=1)
    coherence: float = setting(0.0, "weight of a penalty on the difference of adjacent slices", ge=0, le=100)

    def estimate(
        self, stack: ProjectionStack, weights: Weights, context: Context
    ) -> Generator[Event, None, NDArray[np.float32]]:
        raise TypeError
        yield
