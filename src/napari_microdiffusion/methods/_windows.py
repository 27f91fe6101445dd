"""Subvolumes: measured images and the slices between them, cut from volumes and from stacks (Sparse3Diff, Sec. 2).

One rule serves every profile. A subvolume reaches from a projection's centre to the next one's; the slices whose
centres lie in between are unknown, and so is the one at the first centre, unless the projection is that slice. So
sparse slices leave n − 1 unknown ones in a subvolume, and projections of n slices leave n.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..acquisition import Acquisition
from ..numerics import along_z, blurred_along_z
from ._sequences import spreads

if TYPE_CHECKING:
    from torch import Tensor


CHANGED = 0.5
"""Share of subvolumes that are blurred, and of those that get noise."""

AT_END = 0.1
"""Share of subvolumes without further images on a side."""


@dataclass(frozen=True)
class Windows:
    """Where an acquisition's measured images and unknown slices lie in a subvolume.

    Parameters
    ----------
    acquisition
        Its profile and stride are used.
    further
        Measured images on each side beyond the two that enclose the unknown slices.
    """

    acquisition: Acquisition
    further: int = 0

    @cached_property
    def profile(self) -> NDArray[np.float64]:
        """The beam's weights up to the last that is not zero, (n',)."""
        return np.trim_zeros(self.acquisition.profile_weights, "b")

    @property
    def centre(self) -> float:
        """Of a projection, in slices from its start."""
        return self.acquisition.first_centre

    @property
    def exact(self) -> bool:
        """Whether a projection is a slice."""
        return self.acquisition.single

    @property
    def first(self) -> int:
        """The first unknown slice, counted from the start of the projection above."""
        return int(np.ceil(round(self.centre - 0.5, 6))) + self.exact

    @property
    def count(self) -> int:
        """Unknown slices in a subvolume, m."""
        return self.acquisition.step - self.exact

    @property
    def inner(self) -> NDArray[np.float64]:
        """Centres of the unknown slices, (m,), in slices from the centre of the projection above."""
        return np.arange(self.count, dtype=np.float64) + self.first + 0.5 - self.centre

    @property
    def measured(self) -> NDArray[np.int64]:
        """The measured images, (M,), in projections from the one above."""
        return np.arange(-self.further, self.further + 2)

    def positions(self, spread: int = 1) -> NDArray[np.float64]:
        """Centres of all images, (M + m,), in channel order, in slices from the projection above."""
        measured = self.measured * self.acquisition.step
        return spread * np.insert(measured.astype(np.float64), self.further + 1, self.inner)

    def depth(self, spread: int = 1) -> int:
        """Slices that a subvolume spans when its images lie ``spread`` times as far apart."""
        return spread * self.acquisition.step * (2 * self.further + 1) + len(self.profile)

    def matrix(self, spread: int = 1) -> NDArray[np.float64]:
        """(M + m, depth): the images of a subvolume as weights of the slices it spans."""
        rows = np.zeros((len(self.measured) + self.count, self.depth(spread)))
        top = spread * self.further * self.acquisition.step
        unknown = range(self.further + 1, self.further + 1 + self.count)
        for index, (row, position) in enumerate(zip(rows, self.positions(spread), strict=True)):
            if index not in unknown:
                start = round(top + position)
                row[start : start + len(self.profile)] = self.profile
                continue
            at = round(top + self.centre + position - 0.5, 6)
            below = int(np.floor(at))
            row[below] = 1 - (at - below)
            if at > below:  # between two slices, where images lie an odd half of a slice apart
                row[below + 1] = at - below
        return rows

    @property
    def shifts(self) -> range:
        """How many slices above a projection subvolumes may start to have all its slices among the unknown ones.

        They are the places that self-alignment puts a measured image at (Sparse3Diff, Sec. 2.3, l).
        """
        unseen = int(np.flatnonzero(self.profile)[0])  # a measured profile may begin with zeros
        return range(self.first - unseen, self.first + self.count - len(self.profile) + 1)


@dataclass(frozen=True)
class Batch:
    """Subvolumes on the diffusion's scale.

    Parameters
    ----------
    known, clean
        Measured images (B, M, y, x) and the slices between the middle two (B, m, y, x).
    positions
        (B, M + m), in slices.
    spread
        (B,), how far linear interpolation is off in the volume that a subvolume is from, root mean square: every
        volume weighs alike when errors are divided by it.
    """

    known: Tensor
    clean: Tensor
    positions: Tensor
    spread: Tensor


@dataclass(frozen=True)
class Variety:
    """How subvolumes are drawn.

    Parameters
    ----------
    side
        Of a crop in pixels, or the images' own where they are smaller.
    turning
        Share of subvolumes whose depth is a lateral axis of the volume.
    hiding
        Share with gaps of twice the width.
    blur, noise
        Half of the subvolumes are blurred along z by up to so many slices (standard deviation), and the measured images
        of half of them get white noise of up to so much: volumes differ most in these, and the network is to see which
        it is.
    """

    side: int
    turning: float
    hiding: float
    blur: float
    noise: float


class Drawer:
    """Draws subvolumes from volumes: anywhere, flipped and transposed, brighter and darker.

    Parameters
    ----------
    volumes
        Each (Z, y, x), normalised; deep enough for one subvolume.
    seed
        Fixes the draws.
    """

    def __init__(self, volumes: Sequence[NDArray[np.float32]], windows: Windows, variety: Variety, seed: int) -> None:
        self._windows, self._variety, self._volumes = windows, variety, list(volumes)
        self._spreads = spreads(volumes, windows.acquisition)
        self._random = np.random.default_rng(seed)

    def __call__(self, batch: int) -> Batch:
        """A batch of subvolumes."""
        import torch

        pieces, positions, spreads = zip(*(self._one() for _ in range(batch)), strict=True)
        side = min(min(piece.shape[1:]) for piece in pieces)
        images = torch.from_numpy(np.stack([piece[:, :side, :side] for piece in pieces])) * 2 - 1
        split = self._windows.further + 1
        above, clean, below = images.tensor_split([split, split + self._windows.count], 1)
        known = torch.cat([above, below], 1)
        return Batch(known, clean, torch.from_numpy(np.stack(positions)).float(), torch.tensor(spreads).float())

    def _one(self) -> tuple[NDArray[np.float32], NDArray[np.float64], float]:
        """One subvolume (M + m, y, x), the positions (M + m,) of its images, and its volume's spread."""
        random, windows = self._random, self._windows
        which = int(random.integers(len(self._volumes)))
        volume, gain = self._volumes[which], random.uniform(0.6, 1.6)
        turned = volume.swapaxes(0, 1 + random.integers(2)) if random.random() < self._variety.turning else volume
        volume = turned if len(turned) >= windows.depth() else volume
        spread = 2 if random.random() < self._variety.hiding and len(volume) >= windows.depth(2) else 1
        corner, crop = self._crop(volume, windows.depth(spread))
        if self._variety.blur and random.random() < CHANGED:
            crop = blurred_along_z(crop, random.uniform(0, self._variety.blur))
        images = along_z(windows.matrix(spread), np.ascontiguousarray(crop)) * np.float32(gain)
        if random.random() < CHANGED:
            self._disturb(images)
        self._shorten(images)
        above = corner + spread * windows.further * windows.acquisition.step + windows.centre
        return images, above + windows.positions(spread), 2 * gain * self._spreads[which]

    def _crop(self, volume: NDArray[np.float32], depth: int) -> tuple[int, NDArray[np.float32]]:
        """Its first slice in the volume, and the crop (depth, y, x), flipped at random."""
        sizes = (depth, *(min(self._variety.side, size) for size in volume.shape[1:]))
        corner = [int(self._random.integers(size - part + 1)) for size, part in zip(volume.shape, sizes, strict=True)]
        crop = volume[tuple(slice(start, start + part) for start, part in zip(corner, sizes, strict=True))]
        crop = np.flip(crop, tuple(axis for axis in range(3) if self._random.random() < 0.5))
        return corner[0], crop.swapaxes(1, 2) if self._random.random() < 0.5 else crop

    def _disturb(self, images: NDArray[np.float32]) -> None:
        """Noise on the measured images, in place."""
        split = self._windows.further + 1
        level = np.float32(self._random.uniform(0, self._variety.noise))
        for measured in (images[:split], images[-split:]):
            measured += level * self._random.standard_normal(measured.shape, np.float32)

    def _shorten(self, images: NDArray[np.float32]) -> None:
        """Let some lie at a stack's end, where the outermost image stands for those beyond; in place."""
        further = self._windows.further
        if further and self._random.random() < AT_END:
            images[:further] = images[further]
        if further and self._random.random() < AT_END:
            images[-further:] = images[-further - 1]
