"""The noise of images, measured in them: how much, how it grows with the light, what of it is not white."""

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

BLOCK = 16
"""Side in pixels of the blocks in which fine detail is looked at."""

QUIETEST = 0.05
"""Share of the blocks that count, those with the least structure."""

SHARED = 0.5
"""Most that neighbouring pixels of noise share, as where two are merged; beyond, structure was taken for it."""

MOST = 4.0
"""Largest `excess`, likewise."""

ALIKE, ALONE = 1.25, 0.1
"""Of single photons: most that two estimates of their variance lie apart, and most that neighbours share of it."""


GRAIN = 1.4
"""Largest ratio of the variance from differences along one axis to that along two that counts as noise: it is 1 for
white noise, and more across edges."""


def noise_variance(images: NDArray[Any]) -> float:
    """Variance of white noise in images (k, y, x), robustly, from second differences (Immerkaer 1996)."""
    rows = max(BLOCK, PIXELS // 4 * images.shape[1] // max(images.size, 1))  # of every image, one may be blank
    top = max(0, (images.shape[1] - rows) // 2)
    some = _floating(images[:, top : top + rows])
    second = _second_differences(some)
    variance = _robust(second)
    return _mean_square(second) if variance == 0 and _few_photons(some, second) else variance


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
        means, variances = _by_brightness(_some(images))
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


def excess(noise: Noise, images: NDArray[Any], matrix: NDArray[np.float64], ratio: float) -> float:
    """Variance in slices of all detail as fine as noise, over that of white noise as ``noise`` tells it: 1 to `MOST`.

    Registration and deconvolution leave noise that is not white, and projections average texture away that slices
    have; second differences see little of both. Between a projection and the mean of two others, where that is
    quietest, the autocovariance is drawn on from lags of two and three pixels to none, on a straight line as that of
    edges has. What is more than it (the nugget of a variogram, Matheron 1963) is as fine, and taken to be as fine along
    z; and to be as much more than the noise where it is bright.

    Parameters
    ----------
    noise
        As `Noise.of` finds it in the images.
    images
        Floating-point projections (K, y, x). 1 is returned where none has two beside it that share no slice with it,
        and for images smaller than a block.
    matrix
        A (K, Z) of their acquisition.
    ratio
        Voxel ratio dz/dx.
    """
    apart = next((k for k in range(1, len(images)) if not (matrix[k:] * matrix[:-k]).any()), len(images))
    inner = np.arange(apart, len(images) - apart)
    if not len(inner) or min(images.shape[1:]) < BLOCK:
        return 1.0
    every = min(-(-images.size // PIXELS), len(inner))
    middle = inner[every // 2 :: every]
    rows = matrix[middle] - (matrix[middle - apart] + matrix[middle + apart]) / 2
    differences = images[middle] - (images[middle - apart] + images[middle + apart]) / 2
    lengths = np.linalg.norm(rows, axis=1).astype(images.dtype)
    blocks = _blocks(differences / lengths[:, None, None])  # white noise: as large as in slices
    varied = np.all([_varied(_blocks(images[middle + by])) for by in (-apart, 0, apart)], 0)
    if not varied.any():
        return 1.0
    light, blocks = _blocks(images[middle])[varied], blocks[varied]
    quietest = np.argsort(_cells(blocks).mean((2, 4)).var((1, 2)), kind="stable")
    quietest = quietest[: max(1, round(QUIETEST * len(blocks)))]
    fine, beside = _nugget(blocks[quietest])
    if fine <= 0:
        return 1.0
    fine /= _gain(rows, min(max(beside / fine, 0.0), SHARED) ** ratio)
    white = noise.variance(light[quietest]).mean() / np.square(matrix).sum(1).mean()
    return float(np.clip(fine / max(white, 1e-30), 1.0, MOST))


def _nugget(blocks: NDArray[Any]) -> tuple[float, float]:
    """Autocovariance of blocks (b, y, x) at lags of 0 and 1 pixel beyond a straight line through those at 2 and 3."""
    at = [_autocovariance(blocks, lag) for lag in range(4)]
    fall = max(at[2] - at[3], 0.0)
    return at[0] - at[2] - 2 * fall, at[1] - at[2] - fall


def _gain(rows: NDArray[np.float64], alike: float) -> float:
    """What weighted sums of slices (k, Z) do to noise that neighbours share, correlated so ``alike``, over white."""
    shared = 0.0
    for row in map(np.trim_zeros, rows):
        shared += float(np.correlate(row, row, "full") @ alike ** np.abs(np.arange(1.0 - len(row), len(row))))
    return shared / float(np.square(rows).sum())


def _blocks(images: NDArray[Any]) -> NDArray[Any]:
    """(blocks, `BLOCK`, `BLOCK`) of images (k, y, x), side by side; what is left at the edges does not count."""
    k, height, width = images.shape
    rows, columns = height // BLOCK, width // BLOCK
    cut = images[:, : rows * BLOCK, : columns * BLOCK].reshape(k, rows, BLOCK, columns, BLOCK)
    return cut.transpose(0, 1, 3, 2, 4).reshape(-1, BLOCK, BLOCK)


def _cells(blocks: NDArray[Any]) -> NDArray[Any]:
    """(b, 4, rows, 4, columns) of blocks (b, y, x): sixteen cells of each."""
    return blocks.reshape(len(blocks), 4, BLOCK // 4, 4, BLOCK // 4)


def _varied(blocks: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether no cell of a block (b, y, x) is constant: what lies beyond an edge, or was cut off, is not quiet."""
    cells = _cells(blocks)
    return np.asarray((cells.max((2, 4)) > cells.min((2, 4))).all((1, 2)))


def _autocovariance(blocks: NDArray[Any], lag: int) -> float:
    """Mean over y and x of that of blocks (b, y, x), each without its mean."""
    own = blocks - blocks.mean((1, 2), keepdims=True)
    along_y, along_x = own[:, lag:] * own[:, : BLOCK - lag], own[:, :, lag:] * own[:, :, : BLOCK - lag]
    return float(along_y.mean() + along_x.mean()) / 2


def _some(images: NDArray[Any]) -> NDArray[Any]:
    """Enough of images (k, y, x), spread over all."""
    every = min(-(-images.size // PIXELS), len(images))
    return _floating(images[every // 2 :: every])


def _floating(images: NDArray[Any]) -> NDArray[Any]:
    """Numbers in which their sums have room."""
    return images.astype(np.result_type(images, np.float32), copy=False)


def _by_brightness(images: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean brightness of classes of pixels of images (k, y, x), each with its noise's variance."""
    second, brightness = _second_differences(images), _brightness(images)
    means, variances, squares = _classes(second, brightness)
    if not ((variances == 0) & (squares > 0)).any():  # in every class half of the pixels differ, or none does
        return means, variances
    if _few_photons(images, second):
        return means, np.where(variances == 0, squares, variances)
    seen = (second != 0) | (brightness > brightness.min())
    if _grainy(images, second, seen):
        means, variances, _ = _classes(second[seen], brightness[seen])
    return means, variances


def _classes(
    second: NDArray[Any], brightness: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Mean brightness of `CLASSES` of pixels, by brightness, their noise's variance robustly, and from all of them."""
    parts = np.array_split(np.argsort(brightness, axis=None, kind="stable"), CLASSES)
    found = [
        (brightness.flat[part].mean(), _robust(second.flat[part]), _mean_square(second.flat[part]))
        for part in parts
        if len(part)
    ]
    means, variances, squares = np.asarray(found, np.float64).reshape(-1, 3).T
    return means, variances, squares


def _second_differences(images: NDArray[Any]) -> NDArray[Any]:
    """Along x and then y, (k, y - 2, x - 2)."""
    second = images[..., :-2] - 2.0 * images[..., 1:-1] + images[..., 2:]
    return np.asarray(second[:, :-2] - 2.0 * second[:, 1:-1] + second[:, 2:])


def _brightness(images: NDArray[Any]) -> NDArray[Any]:
    """Means over 3 x 3 pixels, (k, y - 2, x - 2): what noise does to them, second differences do not see."""
    three = images[..., :-2] + images[..., 1:-1] + images[..., 2:]
    return np.asarray((three[:, :-2] + three[:, 1:-1] + three[:, 2:]) / 9)


def _robust(second: NDArray[Any]) -> float:
    """Variance of white noise, from its second differences; nought where more than half of these are."""
    return (float(np.median(np.abs(second))) / 0.6745) ** 2 / 36


def _mean_square(second: NDArray[Any]) -> float:
    """The same from all of them, edges too."""
    return float(np.square(second, dtype=np.float64).mean()) / 36


def _grainy(images: NDArray[Any], second: NDArray[Any], seen: NDArray[np.bool_]) -> bool:
    """Whether noise is most of what differs in the part of images (k, y, x) that is seen, beside a black ground.

    Then few pixels are as bright as both beside them, and differences along one axis tell the variance that those along
    two tell. Of flat bodies most are; of edges and smooth bodies differences along one axis are larger.
    """
    along_x = (images[..., :-2] - 2.0 * images[..., 1:-1] + images[..., 2:])[:, 1:-1][seen]
    along_y = (images[:, :-2] - 2.0 * images[:, 1:-1] + images[:, 2:])[..., 1:-1][seen]
    one = [float(np.square(along, dtype=np.float64).mean()) / 6 for along in (along_x, along_y)]
    return bool(np.median(np.abs(along_x)) > 0 and sum(one) / 2 < GRAIN * _mean_square(second[seen]))


def _few_photons(images: NDArray[Any], second: NDArray[Any]) -> bool:
    """Whether single photons are what differs in images (k, y, x) that are black for the most part.

    Each stands by itself: all that second differences see is gone after one pixel, unlike edges and small bodies.
    """
    variance = _mean_square(second)
    if variance == 0 or min(images.shape[1:]) < BLOCK:
        return False
    fine, beside = _nugget(_blocks(images) / np.float32(variance**0.5))  # squares of any intensities have room
    return 1 / ALIKE < fine < ALIKE and abs(beside) < ALONE * fine
