"""The noise of images, measured in them: how much, and how it grows with the light."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .numerics import Array

CLASSES = 10
"""Of brightness, as many pixels in each, in which noise is measured."""

PIXELS = 2**24
"""Enough to measure it in."""


def noise_variance(images: NDArray[Any]) -> float:
    """Variance of white noise in images (k, y, x), robustly, from second differences (Immerkaer 1996)."""
    return _robust(_second_differences(images))


@dataclass(frozen=True)
class Noise:
    """White noise that grows with the light: its variance is a straight line over intensity (Foi et al. 2008).

    Parameters
    ----------
    at_zero, slope
        Of the line; in squares of the intensity, and in intensities.
    least
        Of the least noisy class: the line is not followed further down.
    """

    at_zero: float
    slope: float
    least: float

    @classmethod
    def of(cls, images: NDArray[Any]) -> Noise:
        """Of images (k, y, x), some of them where they are many; constant where brighter pixels are not noisier."""
        every = min(-(-images.size // PIXELS), len(images))
        some = images[every // 2 :: every]
        second, brightness = _second_differences(some), _brightness(some)
        order = np.argsort(brightness, axis=None, kind="stable")
        classes = [
            (brightness.flat[part].mean(), _robust(second.flat[part])) for part in np.array_split(order, CLASSES)
        ]
        means, variances = np.asarray(classes, np.float64).T
        weights = np.maximum(variances, 1e-6 * variances.max() + 1e-30) ** -2  # relative errors: light hides structure
        mean, variance = (np.average(each, weights=weights) for each in (means, variances))
        together = np.average((means - mean) * (variances - variance), weights=weights)
        slope = float(together / max(np.average((means - mean) ** 2, weights=weights), 1e-30))
        if slope <= 0:
            typical = float(np.median(variances))
            return cls(typical, 0.0, typical)
        return cls(float(variance - slope * mean), slope, float(variances.min()))

    def variance(self, intensities: Array) -> Array:
        """Variances at intensities of any shape, of the same shape; in squares of the intensity."""
        line: Array = self.at_zero + self.slope * intensities
        return line.clip(self.least)


def _second_differences(images: NDArray[Any]) -> NDArray[Any]:
    """Along x and then y, (k, y - 2, x - 2)."""
    second = images[..., :-2] - 2.0 * images[..., 1:-1] + images[..., 2:]
    return np.asarray(second[:, :-2] - 2.0 * second[:, 1:-1] + second[:, 2:])


def _brightness(images: NDArray[Any]) -> NDArray[Any]:
    """Means over 3 x 3 pixels, (k, y - 2, x - 2): what noise does to them, second differences do not see."""
    three = images[..., :-2] + images[..., 1:-1] + images[..., 2:]
    return np.asarray((three[:, :-2] + three[:, 1:-1] + three[:, 2:]) / 9)


def _robust(second: NDArray[Any]) -> float:
    """Variance of white noise, from its second differences."""
    return (float(np.median(np.abs(second))) / 0.6745) ** 2 / 36
