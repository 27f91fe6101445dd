"""Scores of a volume: against the truth where there is one, against its own projections always.

PSNR and SSIM are taken slice by slice along z and averaged; DICE is that of all slices together, each after an Otsu
threshold of its own (MicroDiffusion, Sec. 5.4.1 and 7). Truth and estimate are mapped by the truth's minimum and
maximum to [0, 1], and the estimate is clipped to that range.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from .acquisition import Acquisition
from .events import InvalidInput
from .images import otsu, span
from .numerics import FLOOR, decibels
from .volume import ProjectionStack, Volume

SCALES_APART = 8.0
"""Times that a truth's intensities may spread as far as a volume's: noise that n projected slices share out is √n times
as wide in each of them."""

SSIM_WINDOW = 7
"""Pixels along each side of the window that SSIM compares at a time."""


class RunningScores:
    """Scores of a volume whose slices arrive one by one.

    Parameters
    ----------
    truth
        The fully sampled volume, (z, y, x), any intensity scale.
    acquisition
        Where projections are single slices, these (known exactly) and the extrapolated ones beyond the outermost are
        left out: see `scored_slices`.

    Raises
    ------
    InvalidInput
        If the truth is constant, holds NaN or infinite values, or its images are too small for SSIM's window.
    """

    def __init__(self, truth: NDArray[Any], acquisition: Acquisition | None = None) -> None:
        self._low, high = float(truth.min()), float(truth.max())
        if not np.isfinite([self._low, high]).all():
            raise InvalidInput("the truth holds NaN or infinite values: no score can be given against it")
        if min(truth.shape[1:]) < SSIM_WINDOW:
            raise InvalidInput(
                f"images of {truth.shape[1]} x {truth.shape[2]} pixels cannot be scored: "
                f"SSIM needs {SSIM_WINDOW} x {SSIM_WINDOW} at least"
            )
        if high <= self._low:
            raise InvalidInput("the truth is constant: no score can be given against it")
        self._gain = high - self._low
        self._truth = truth
        self._scored = scored_slices(len(truth), acquisition)
        self._seen = np.zeros(len(truth), bool)
        self._psnr, self._ssim, self._both, self._either = np.zeros((4, len(truth)))

    def update(self, start: int, slices: NDArray[Any]) -> None:
        """Score ``slices`` (m, y, x), on the truth's intensity scale, at z = start .. start + m."""
        for z, image in enumerate(slices, start):
            if not self._scored[z]:
                continue
            self._seen[z] = True
            truth = self._map(self._truth[z])
            estimate = np.clip(self._map(image), 0, 1)
            self._psnr[z] = decibels(((truth - estimate) ** 2).mean())
            self._ssim[z] = structural_similarity(truth, estimate, data_range=1.0, win_size=SSIM_WINDOW)
            a, b = bright(truth), bright(estimate)
            self._both[z], self._either[z] = (a & b).sum(), a.sum() + b.sum()

    def summary(self) -> dict[str, float]:
        """psnr (dB, mean of slices), psnr_volume (dB), ssim, dice over the slices seen; empty before the first."""
        seen = self._seen
        if not seen.any():
            return {}
        return {
            "psnr": float(self._psnr[seen].mean()),
            "psnr_volume": float(-10 * np.log10((10 ** (-self._psnr[seen] / 10)).mean())),
            "ssim": float(self._ssim[seen].mean()),
            "dice": float(2 * self._both[seen].sum() / max(1.0, self._either[seen].sum())),
        }

    def _map(self, image: NDArray[Any]) -> NDArray[np.float64]:
        mapped: NDArray[np.float64] = (image.astype(np.float64) - self._low) / self._gain
        return mapped


def evaluate(
    volume: Volume, truth: Volume | None = None, projections: ProjectionStack | None = None
) -> dict[str, float]:
    """Scores of a volume against the truth, its projections, or both.

    Returns
    -------
    dict
        With a truth: psnr, psnr_volume (dB), ssim, dice, and for a volume with a reliability those of
        `reliability_scores`. With projections: reprojection_max_error, max |A x − y| as a fraction of the truth's
        intensity range (of the projections' without truth).

    Raises
    ------
    InvalidInput
        If shapes do not match, the truth is constant, or a value is NaN or infinite.
    """
    for image in (volume, truth, projections):
        if image is not None and not np.isfinite(image.data).all():
            raise InvalidInput(f"{image.name} holds NaN or infinite values: no score can be given")
    if projections is not None:
        _check_shape(volume.shape, projections)
    scores: dict[str, float] = {}
    if truth is not None:
        if truth.shape != volume.shape:
            raise InvalidInput(
                f"shapes differ: the truth is {truth.shape} (z, y, x), the volume {volume.shape}; "
                "crop the truth to what the projections cover (simulate --truth-out saves it)"
            )
        acquisition = projections.acquisition if projections else None
        running = RunningScores(truth.data, acquisition)
        running.update(0, volume.data)
        scores |= running.summary() | reliability_scores(volume, truth, acquisition)
    if projections is not None:
        residual = residual_stats(volume.data, projections)
        scores["reprojection_max_error"] = residual.maximum / max(span((truth or projections).data), 1e-30)
    return scores


def scales_apart(volume: NDArray[Any], truth: NDArray[Any]) -> str | None:
    """What to say of a truth (z, y, x) that seems to be on another scale than a volume (z, y, x); else None."""
    spread, wanted = (float(data[:, ::3, ::3].std(dtype=np.float64)) for data in (volume, truth))  # some will do
    if not (spread > 0 and wanted > 0) or 1 / SCALES_APART <= wanted / spread <= SCALES_APART:
        return None
    times = wanted / spread
    return (
        f"the ground truth's intensities spread {times:.3g} times as far as the volume's, so it is probably on another "
        "scale (8 and 16 bit?) or another sample: PSNR, SSIM and the residual mean nothing until both are on one scale"
    )


def reliability_scores(volume: Volume, truth: Volume, acquisition: Acquisition | None = None) -> dict[str, float]:
    """How well a volume knows where it is wrong, over `scored_slices`; empty for a volume that says nothing of it.

    Slices without error bars count only where none has any: these were measured, and nothing was inferred.

    Returns
    -------
    dict
        coverage_90, the share of voxels whose true value lies in the 90 % interval, bounds included: 0.9 is right,
        less means too sure. coverage_90_bright, that of the voxels that are `bright` in the volume, few as they may be.
        flagged_error_ratio, the mean squared error of the flagged voxels over that of the
        others: 1 means that the flags say nothing; left out where none or all of the voxels scored are flagged.
    """
    found = volume.reliability
    if found is None:
        return {}
    inside, squares, counts = 0, np.zeros(2), np.zeros(2)  # of the others, of the flagged
    shining, held, lit = bright(volume.data), 0, 0
    scored = scored_slices(len(truth.data), acquisition)
    uncertain = scored & found.std.any((1, 2))
    for z in np.flatnonzero(uncertain if uncertain.any() else scored):
        true = truth.data[z].astype(np.float64)
        holds = (found.lower[z] <= true) & (true <= found.upper[z])
        inside += int(holds.sum())
        held, lit = held + int(holds[shining[z]].sum()), lit + int(shining[z].sum())
        error, flagged = (volume.data[z] - true) ** 2, found.flagged[z]
        squares += error[~flagged].sum(), error[flagged].sum()
        counts += (~flagged).sum(), flagged.sum()
    scores = {"coverage_90": float(inside / counts.sum())}
    if lit:
        scores["coverage_90_bright"] = held / lit
    if counts.all():
        others, least_certain = squares / counts
        floor = FLOOR * span(truth.data) ** 2
        scores["flagged_error_ratio"] = float(max(least_certain, floor) / max(others, floor))
    return scores


@dataclass(frozen=True)
class Residual:
    """|A x − y| in the projections' intensities."""

    maximum: float
    rms: float


def residual_stats(volume: NDArray[Any], projections: ProjectionStack) -> Residual:
    """How far a volume (z, y, x) is from reprojecting to its projections; one image row at a time, in float64.

    Raises
    ------
    InvalidInput
        If the volume's shape is not the one the projections stand for.
    """
    maximum, squares = 0.0, 0.0
    for _, error in _residual_rows(volume, projections):
        maximum = max(maximum, float(np.abs(error).max()))
        squares += float((error**2).sum())
    return Residual(maximum, float(np.sqrt(squares / projections.data.size)))


def residual_map(volume: NDArray[Any], projections: ProjectionStack) -> NDArray[np.float32]:
    """y − A x, what a volume (z, y, x) leaves unexplained at every pixel of its projections: (k, y, x).

    In the projections' intensities; positive where more light was measured than the volume accounts for. Errors as
    for `residual_stats`.
    """
    unexplained = np.empty(projections.shape, np.float32)
    for row, error in _residual_rows(volume, projections):
        unexplained[:, row] = error
    return unexplained


def _residual_rows(volume: NDArray[Any], projections: ProjectionStack) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Each image row with its y − A x, (k, x): in float64 without a copy of the whole volume."""
    _check_shape(volume.shape, projections)
    for row in range(volume.shape[1]):
        measured = projections.data[:, row].astype(np.float64)
        yield row, projections.acquisition.residual(volume[:, row].astype(np.float64), measured)


def _check_shape(shape: tuple[int, ...], projections: ProjectionStack) -> None:
    """Refuse, with `InvalidInput`, a shape (z, y, x) that is not the one the projections stand for."""
    if shape != projections.volume_shape:
        raise InvalidInput(
            f"the projections stand for a volume of {projections.volume_shape} (z, y, x) with "
            f"{projections.acquisition.description}, but the volume is {shape}: check slices and stride"
        )


def scored_slices(depth: int, acquisition: Acquisition | None) -> NDArray[np.bool_]:
    """Which of the slices count in a score, shape (depth,): all, or of sparse slices those between acquired ones."""
    scored = np.ones(depth, bool)
    if acquisition is not None and acquisition.single:
        acquired = np.flatnonzero(acquisition.fixed)
        scored[: acquired[0]] = scored[acquired] = scored[acquired[-1] :] = False
    return scored if scored.any() else ~scored  # every slice acquired: nothing was inferred, so all count


def bright(image: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
    """What is brighter than Otsu's threshold of all, (...) of (...); nothing where all is the same."""
    mask: NDArray[np.bool_] = image > otsu(image)
    return mask
