"""The ridge of consistency where projections overlap, and what differs between projections that share no slice."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .acquisition import Acquisition
from .noise import noise_variance


def ridge_of(acquisition: Acquisition, projections: NDArray[Any], noise: float | None = None) -> float:
    """The ridge that `Acquisition.smoothest` needs for these projections (K, y, x): 0 unless some overlap.

    Overlapping rows make A Aᵀ ill-conditioned, and its exact inverse would amplify noise by the
    condition number. The noise's variance over that of the change from slice to slice bounds this: under
    ‖Dx‖², slices are a random walk, and its variance follows from projections that share no slice. ``noise`` is
    the noise's variance, in squares of the intensity, where it is known otherwise than from the projections.
    """
    if acquisition.decoupled or len(acquisition.shown) == 1:
        return 0.0
    noise = noise_variance(projections) if noise is None else noise
    lag = _apart(acquisition)
    walk = np.cumsum(acquisition.matrix[:, ::-1], axis=1)[:, ::-1]  # what each slice's change does to the projections
    gain = float(((walk[lag:] - walk[:-lag]) ** 2).sum(1).mean())
    change = max(difference(acquisition, projections) - 2 * noise, 0.01 * noise, 1e-30) / gain
    return max(1e-6, noise / change)


def difference(acquisition: Acquisition, projections: NDArray[Any]) -> float:
    """Mean square of what differs between neighbouring projections (K, y, x) that share no slice."""
    lag = _apart(acquisition)
    pairs = zip(projections[lag:], projections[:-lag], strict=True)
    return float(np.mean([np.square(np.subtract(one, other, dtype=np.float64)).mean() for one, other in pairs]))


def _apart(acquisition: Acquisition) -> int:
    """From one projection in use to the next that shares no slice with it, in projections."""
    return min(-(-acquisition.slices // acquisition.step), len(acquisition.shown) - 1)
