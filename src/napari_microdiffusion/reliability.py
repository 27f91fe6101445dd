"""How far each voxel of a volume can be trusted."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .events import InvalidInput

Z90 = 1.645
"""Half the width of the normal distribution's 90 % interval, in standard deviations."""

UNCERTAIN_SHARE = 0.1
"""Of the voxels, flagged as the least certain ones."""


@dataclass(frozen=True, eq=False)
class Reliability:
    """How far each voxel of a volume can be trusted; three arrays (z, y, x) on the volume's intensity scale.

    Parameters
    ----------
    std
        Standard deviation.
    lower, upper
        Bounds of the 90 % interval: what would have been measured of the slice, noise included (of denoised
        projections, without), lies below ``lower`` at one voxel of twenty, above ``upper`` at another. Slices that a
        projection shows by themselves were measured: all three know them as they are.

    Raises
    ------
    InvalidInput
        If the three arrays differ in shape.
    """

    std: NDArray[np.float32]
    lower: NDArray[np.float32]
    upper: NDArray[np.float32]

    def __post_init__(self) -> None:
        shapes = {self.std.shape, self.lower.shape, self.upper.shape}
        if len(shapes) > 1:
            raise InvalidInput(
                f"standard deviation {self.std.shape}, lower bound {self.lower.shape} and upper bound "
                f"{self.upper.shape} must have one shape (z, y, x)"
            )

    @cached_property
    def flagged(self) -> NDArray[np.bool_]:
        """The least certain voxels, (z, y, x): those whose standard deviation is above that of nine tenths of all.

        With ties fewer than a tenth are flagged, and none where all are equally certain: no voxel is singled out
        that is as certain as one that is not.
        """
        flagged: NDArray[np.bool_] = self.std > np.quantile(self.std, 1 - UNCERTAIN_SHARE, method="lower")
        return flagged
