"""A stack's volume while its subvolumes are filled in, and what self-alignment takes from it."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..numerics import along_z, linear_weights
from ..volume import ProjectionStack
from ._windows import Batch, Windows

if TYPE_CHECKING:
    from torch import Tensor

Images = NDArray[np.float32]
Crop = tuple[slice, slice]
"""Of the images, (y, x)."""


class Filling:
    """The volume of a stack, on the stack's scale, from the conservative interpolation on.

    Parameters
    ----------
    stack
        Normalised; projections may be hidden.

    Attributes
    ----------
    data
        The volume (Z, y, x) as far as it has come.
    """

    def __init__(self, stack: ProjectionStack, windows: Windows) -> None:
        acquisition = stack.acquisition
        self.windows, self.shown = windows, acquisition.shown
        self.data = along_z(stack.interpolation, stack.data).astype(np.float32)
        self._measured = self._projected(acquisition.bound(len(self.shown) + len(acquisition.hidden)).starts)
        self._measured[list(self.shown)] = stack.data
        self._hold_ends()

    @property
    def gaps(self) -> list[tuple[int, int]]:
        """Neighbouring projections in use that have hidden ones between them, by their indices among all."""
        return [(a, b) for a, b in pairwise(self.shown) if b > a + 1]

    @property
    def subvolumes(self) -> range:
        """Indices of the subvolumes: each is that of the projection above it."""
        return range(self.shown[0], self.shown[-1])

    @property
    def enclosed_ones(self) -> list[int]:
        """Projections in use whose two neighbours are in use too."""
        return [k for k in self.shown if {k - 1, k + 1} <= set(self.shown)]

    def measured(self, index: int) -> Images:
        """A projection (y, x)."""
        image: Images = self._measured[index]
        return image

    def between(self, index: int, slices: Images) -> Images:
        """What the slices (m, y, x) of the subvolume between a projection's neighbours say of it, (y, x)."""
        images = np.concatenate([self._measured[index - 1][None], slices, self._measured[index + 1][None]])
        told: Images = along_z(self._weights(1, 2)[None], images)[0]
        return told

    def known(self, index: int, spread: int = 1) -> tuple[Images, NDArray[np.float64]]:
        """Measured images (M, y, x) of a subvolume, and the positions (M + m,) of all its images, in slices.

        Beyond the stack's ends, the outermost image stands for those that are not there.
        """
        wanted = index + spread * self.windows.measured
        there = np.clip(wanted, self.shown[0], self.shown[-1])
        if spread > 1:  # others may be hidden too
            shown = np.asarray(self.shown)
            there = shown[np.abs(shown[:, None] - there).argmin(0)]
        start = index * self.windows.acquisition.step + self.windows.centre
        return self._measured[there], start + self.windows.positions(spread)

    def fill(self, index: int, slices: Images) -> int:
        """Take the slices (m, y, x) of a subvolume; where they begin."""
        start = index * self.windows.acquisition.step + self.windows.first
        self.data[start : start + len(slices)] = slices
        if self.windows.exact:
            self.data[start - 1] = self._measured[index]
        return start

    def tell(self, gap: tuple[int, int], slices: Images) -> None:
        """What the slices (m, y, x) of a wider subvolume say of the hidden projections in the gap."""
        above, below = gap
        ends = self._measured[[above, below]]
        for hidden in range(above + 1, below):
            weights = self._weights(hidden - above, below - above)
            self._measured[hidden] = along_z(weights[None], np.concatenate([ends[:1], slices, ends[1:]]))[0]

    def placed(self, index: int, shift: int, crop: Crop) -> tuple[Batch, Tensor]:
        """A pseudo-subvolume of inferred slices with a projection inside, and the weights (1, m) of its slices there.

        Parameters
        ----------
        index
            Of the projection, which takes the place of its inferred slices.
        shift
            Slices from the pseudo-subvolume's start to the projection's.
        """
        windows, step = self.windows, self.windows.acquisition.step
        top = index * step - shift
        seen = np.zeros(windows.count)
        weighed = np.flatnonzero(windows.profile)
        seen[shift - windows.first + weighed] = windows.profile[weighed]
        known = self._projected(top + step * windows.measured, crop)
        clean = self.data[top + windows.first :][: windows.count, *crop]
        return self._batch(known, clean, top + windows.centre + windows.positions(), index, seen, crop)

    def enclosed(self, index: int, slices: Images, crop: Crop) -> tuple[Batch, Tensor]:
        """The subvolume between a projection's neighbours, twice as wide, and the weights (1, m) of its slices there.

        Parameters
        ----------
        slices
            (m, y, x), as inferred from the neighbours.
        """
        known, positions = self.known(index - 1, 2)
        weights = self._weights(1, 2)[1:-1]
        return self._batch(known[:, *crop], slices[:, *crop], positions, index, weights, crop)

    def _batch(
        self,
        known: Images,
        slices: Images,
        positions: NDArray[np.float64],
        index: int,
        seen: NDArray[np.float64],
        crop: Crop,
    ) -> tuple[Batch, Tensor]:
        """One training example, its slices made consistent with the projection that they are to be learned from."""
        import torch

        missing = self._measured[index][crop] - along_z(seen[None], slices)[0]
        clean = slices + (seen / (seen @ seen)).astype(np.float32)[:, None, None] * missing
        images = [torch.from_numpy(np.ascontiguousarray(part))[None] * 2 - 1 for part in (known, clean)]
        batch = Batch(images[0], images[1], torch.from_numpy(positions)[None].float(), torch.ones(1))
        return batch, torch.from_numpy(seen)[None].float()

    def _weights(self, number: int, spread: int) -> NDArray[np.float64]:
        """Of the images of a wider subvolume, (m + 2,), in the projection ``number`` steps below the one above."""
        windows, step = self.windows, self.windows.acquisition.step
        positions = np.concatenate([[0.0], spread * windows.inner, [float(spread * step)]])
        at = np.arange(len(windows.profile), dtype=np.float64) + (number * step + 0.5 - windows.centre)
        weights: NDArray[np.float64] = windows.profile @ linear_weights(positions, at)
        return weights

    def _projected(self, starts: NDArray[np.int64], crop: Crop = (slice(None), slice(None))) -> Images:
        """What the beam sees from each start in slices, (len(starts), y, x); at the ends what it sees last."""
        profile = self.windows.profile
        starts = np.clip(starts, 0, len(self.data) - len(profile))
        pieces = [along_z(profile[None], self.data[start : start + len(profile), *crop])[0] for start in starts]
        return np.stack(pieces).astype(np.float32)

    def _hold_ends(self) -> None:
        """Beyond the outermost centres the outermost projections are held."""
        step, first = self.windows.acquisition.step, self.windows.first - self.windows.exact
        self.data[: self.shown[0] * step + first] = self._measured[self.shown[0]]
        self.data[self.shown[-1] * step + first :] = self._measured[self.shown[-1]]
