"""Seeded phantoms: vessels, dendrites, neurons, nuclei.

For tests, samples and demos; never for claims about real data.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter

from .events import InvalidInput
from .volume import Volume

Kind = Literal["vessels", "dendrites", "neurons", "nuclei"]
KINDS: tuple[str, ...] = get_args(Kind)

AXIAL_BLUR = 1.5  # slices (sigma): microscopes resolve z worse than xy
NOISE = 0.01  # standard deviation, of the full range


def phantom(kind: Kind = "vessels", shape: tuple[int, int, int] = (96, 128, 128), seed: int = 0) -> Volume:
    """A phantom volume.

    Parameters
    ----------
    kind
        ``vessels``, ``dendrites``, ``neurons`` or ``nuclei``.
    shape
        (z, y, x).
    seed
        The same seed gives the same volume.

    Returns
    -------
    Volume
        float32 (z, y, x) in [0, 1], voxels of 1 x 0.5 x 0.5 µm.

    Raises
    ------
    InvalidInput
        For an unknown kind.
    """
    if kind not in KINDS:
        raise InvalidInput(f"no phantom is called {kind!r}; there are {', '.join(KINDS)}")
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    sharp = {"vessels": _vessels, "dendrites": _dendrites, "neurons": _neurons, "nuclei": _nuclei}[kind](rng, shape)
    blurred = gaussian_filter(sharp, (AXIAL_BLUR, 0.6, 0.6))
    noisy = blurred / blurred.max() * (1 - 6 * NOISE) + NOISE * (3 + rng.standard_normal(shape))
    return Volume(np.clip(noisy, 0, 1).astype(np.float32), (1.0, 0.5, 0.5), f"{kind} phantom")


def _vessels(rng: np.random.Generator, shape: tuple[int, int, int]) -> NDArray[np.float64]:
    count = max(6, int(np.prod(shape) ** (1 / 3) / 7))
    paths = [_path(rng, rng.uniform(0, shape), 2 * max(shape), wander=0.12) for _ in range(count)]
    return _tubes(shape, paths, rng.uniform(1.5, 5.0, count), rng.uniform(0.6, 1.0, count))


def _dendrites(rng: np.random.Generator, shape: tuple[int, int, int]) -> NDArray[np.float64]:
    count = max(8, int(np.prod(shape) ** (1 / 3) / 5))
    paths = [_path(rng, rng.uniform(0, shape), 2 * max(shape), wander=0.08) for _ in range(count)]
    volume = _tubes(shape, paths, rng.uniform(0.9, 1.8, count), rng.uniform(0.4, 1.0, count))
    spines = [_path(rng, path[i], 5, wander=0.3) for path in paths for i in rng.integers(0, len(path), len(path) // 8)]
    return np.maximum(volume, _tubes(shape, spines, np.full(len(spines), 0.8), np.full(len(spines), 0.7)))


def _neurons(rng: np.random.Generator, shape: tuple[int, int, int]) -> NDArray[np.float64]:
    somas = rng.uniform(0, shape, (6, 3))
    paths = [_path(rng, soma, int(0.8 * max(shape)), wander=0.1) for soma in somas for _ in range(5)]
    neurites = _tubes(shape, paths, rng.uniform(0.8, 1.5, len(paths)), rng.uniform(0.3, 0.6, len(paths)))
    return np.maximum(neurites, _ellipsoids(shape, somas, rng.uniform(5, 8, (6, 3)), np.ones(6)))


def _nuclei(rng: np.random.Generator, shape: tuple[int, int, int]) -> NDArray[np.float64]:
    centres = np.empty((0, 3))
    for centre in rng.uniform(0, shape, (40 * int(np.prod(shape)) // 100_000 + 200, 3)):
        if (np.linalg.norm(centres - centre, axis=1) > 14).all():
            centres = np.vstack([centres, centre])
    return _ellipsoids(shape, centres, rng.uniform(4.5, 7, centres.shape), rng.uniform(0.5, 1, len(centres)))


def _path(rng: np.random.Generator, start: NDArray[np.float64], length: int, wander: float) -> NDArray[np.float64]:
    """A smooth random walk, (length, 3) in voxels."""
    turns = gaussian_filter(rng.standard_normal((length, 3)), (4, 0)) * wander * 4
    headings = rng.standard_normal(3) * (0.6, 1, 1) + np.cumsum(turns, 0)
    return np.asarray(start + np.cumsum(headings / np.linalg.norm(headings, axis=1, keepdims=True), 0))


def _tubes(
    shape: tuple[int, int, int],
    paths: list[NDArray[np.float64]],
    radii: NDArray[np.float64],
    brightness: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Soft-edged tubes of given radius (voxels) along the paths; the brightest wins.

    Radii are rounded to half voxels, so that a few distance transforms draw them all.
    """
    volume = np.zeros(shape)
    bins = np.round(radii * 2) / 2
    for radius in np.unique(bins):
        lines = np.zeros(shape)
        for i in np.flatnonzero(bins == radius):
            points = paths[i].round().astype(int)
            inside = ((points >= 0) & (points < shape)).all(1)
            lines[tuple(points[inside].T)] = brightness[i]
        if lines.any():
            distance, nearest = distance_transform_edt(lines == 0, return_indices=True)
            volume = np.maximum(volume, lines[tuple(nearest)] * _soft(radius - distance))
    return volume


def _ellipsoids(
    shape: tuple[int, int, int],
    centres: NDArray[np.float64],
    radii: NDArray[np.float64],
    brightness: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Soft-edged ellipsoids, each drawn in its own box."""
    volume = np.zeros(shape)
    for centre, radius, bright in zip(centres, radii, brightness, strict=True):
        low = np.maximum(0, np.floor(centre - radius - 3)).astype(int)
        high = np.minimum(shape, np.ceil(centre + radius + 3)).astype(int)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        grid = np.stack(np.meshgrid(*(np.arange(a, b) for a, b in zip(low, high, strict=True)), indexing="ij"), -1)
        distance = np.linalg.norm((grid - centre) / radius, axis=-1)
        volume[box] = np.maximum(volume[box], bright * _soft((1 - distance) * radius.mean()))
    return volume


def _soft(inside: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 inside, 0 outside, one voxel of transition; ``inside`` is the depth below the surface in voxels."""
    with np.errstate(over="ignore"):  # far outside: 1 / inf is the 0 that is wanted
        return np.asarray(1 / (1 + np.exp(-2 * inside)))
