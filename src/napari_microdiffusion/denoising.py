"""Noise taken off projections before a run: every method that reproduces them would reproduce it, too.

Counted photons are brought to a scale on which their noise is 1 at any brightness (Anscombe, Biometrika 35, 1948),
smoothed there by total variation (Chambolle 2004), each image by itself, and brought back without the bias of the root
(Mäkitalo & Foi, IEEE Trans. Image Process. 20, 2011). How far the result is off, it is told by doing the same to
itself with new noise (a parametric bootstrap, Efron & Tibshirani 1993).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage.restoration import denoise_tv_chambolle

from .events import Event, Notice, Stage, Step
from .images import span
from .noise import Noise
from .numerics import along_z
from .reliability import Z90, Reliability
from .volume import ProjectionStack

WEIGHT = 0.75
"""Of the total variation, where noise has the standard deviation 1."""

FLAT = 0.01
"""Growth of the noise's variance over the range of the intensities, as a share, that is too little to count."""

NOTHING = 1e-6
"""Standard deviation of the noise, over the range, that is none."""

MANY = 1e6
"""Photons whose number is as good as normally distributed."""

AROUND = 2.5
"""Sigma in pixels of the Gaussian by which squared errors are averaged."""


@dataclass(frozen=True, eq=False)
class Denoised:
    """Projections without noise, and how far each pixel may be off.

    Parameters
    ----------
    stack
        float32, (k, y, x).
    variance
        Squared standard deviation of each pixel (k, y, x), in the stack's intensities. What smoothing takes from detail
        as fine as the noise hardly shows in it.
    """

    stack: ProjectionStack
    variance: NDArray[np.float32]

    def widen(self, reliability: Reliability) -> None:
        """Add what denoising left to a reliability (z, y, x) of a volume made from them, in place.

        Slices have as much of it as the conservative interpolation passes on.
        """
        passed = np.square(self.stack.interpolation)
        for y in range(self.stack.shape[1]):  # row by row: no further volume is needed
            std, lower, upper = (each[:, y] for each in (reliability.std, reliability.lower, reliability.upper))
            error = np.sqrt(along_z(passed, self.variance[:, y]))
            middle, half = (lower + upper) / 2, np.hypot((upper - lower) / 2, Z90 * error)
            std[:] = np.hypot(std, error)
            lower[:], upper[:] = middle - half, middle + half


def denoised(
    stack: ProjectionStack, seed: int, cancelled: Callable[[], bool]
) -> Generator[Event, None, Denoised | None]:
    """Projections without the noise that `Noise.of` finds in them, a step for each image.

    No image looks at another, but for the line of the noise, which is that of the whole stack.

    Parameters
    ----------
    stack
        (k, y, x), any real dtype.
    seed
        Of the noise by which errors are found.
    cancelled
        When it says yes, there is no result: a stack of which some are denoised would be of no use.

    Returns
    -------
    Denoised or None
        With the mean of its variance as the stack's ``error_variance``. None where it was stopped.
    """
    noise = Noise.of(stack.data)
    images, variance = stack.data.astype(np.float32), np.empty(stack.shape, np.float32)
    taken = 0.0
    yield Stage("Denoising the projections", len(images))
    for index, image in enumerate(stack.data):
        if cancelled():
            return None
        smooth = _smoothed(image.astype(np.float64), noise)
        if cancelled():  # each takes seconds of a large image
            return None
        again = _smoothed(_with_noise(smooth, noise, np.random.default_rng((seed, index))), noise)
        images[index] = smooth
        variance[index] = gaussian_filter(np.square(again - smooth), AROUND)
        taken += float(np.square(smooth - image).mean()) / len(images)
        yield Step(index + 1)
    extent = span(stack.data)
    share = 100 * taken**0.5 / (extent or 1.0)
    yield Notice(f"denoised: {share:.2g} % of the projections' range (rms) was taken for noise")
    return Denoised(replace(stack, data=images, error_variance=float(variance.mean())), variance)


def _smoothed(image: NDArray[np.float64], noise: Noise) -> NDArray[np.float64]:
    """An image (y, x) without that noise; as it is where there is next to none."""
    if noise.variance(image.max()) <= (NOTHING * np.ptp(image)) ** 2:
        return image
    if not _grows(image, noise):
        deviation = float(noise.variance(image.mean())) ** 0.5
        return np.asarray(denoise_tv_chambolle(image / deviation, weight=WEIGHT) * deviation)
    dark = noise.at_zero / noise.slope  # so far below 0 there would be no photon
    roots = denoise_tv_chambolle(_roots((image + dark) / noise.slope), weight=WEIGHT)
    return np.asarray(_counts(roots) * noise.slope - dark)


def _with_noise(image: NDArray[np.float64], noise: Noise, random: np.random.Generator) -> NDArray[np.float64]:
    """An image (y, x) as it might have been measured."""
    variance = noise.at_zero + noise.slope * image
    if _grows(image, noise) and variance.max() < MANY * noise.slope**2:
        counts = random.poisson(variance.clip(0) / noise.slope**2)
        return np.asarray(image + noise.slope * counts - variance / noise.slope)
    return np.asarray(image + np.sqrt(variance.clip(0)) * random.standard_normal(image.shape))


def _grows(image: NDArray[np.float64], noise: Noise) -> bool:
    """Whether bright pixels are noisier."""
    return bool(noise.slope * np.ptp(image) > FLAT * noise.variance(image.min()))


def _roots(counts: NDArray[Any]) -> NDArray[Any]:
    """Counts as numbers whose noise is 1."""
    return np.asarray(2 * np.sqrt(np.maximum(counts, 0) + 3 / 8))


def _counts(roots: NDArray[Any]) -> NDArray[Any]:
    """Mean counts from mean roots (Mäkitalo & Foi 2011, Eq. 10)."""
    d, r = np.maximum(roots, 2 * (3 / 8) ** 0.5), (3 / 2) ** 0.5
    return np.asarray(d**2 / 4 + r / (4 * d) - 11 / (8 * d**2) + 5 * r / (8 * d**3) - 1 / 8).clip(0)
