"""A coordinate network: an encoding of (z, y, x) and a multilayer perceptron (MicroDiffusion, Eq. 1).

`InrNet` has the Fourier encodings of the paper, `HashNet` the multiresolution hash encoding (Müller et al. 2022).

Both encodings of the paper are Fourier features, cos and sin of 2π f·(z, y, x); they differ in
their frequencies. Because cos(a + b) and sin(a + b) are linear in cos a and sin a, a linear layer on the
features of a slice is a linear layer on the features of its pixels (y, x) alone, with weights turned by
the slice's phase: pixels are encoded once, not once a slice. The hash encoding interpolates trilinearly: within a
slice once for each grid plane, and then between the few planes that the slices of a projection share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def gaussian_frequencies(count: int, bandwidth: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Random frequencies, normally distributed (Tancik et al. 2020).

    Parameters
    ----------
    count
        Number of frequencies F; the encoding has 2F features.
    bandwidth
        Standard deviations along z (cycles per slice) and along y and x (cycles per pixel).

    Returns
    -------
    Tensor
        (F, 3): cycles per slice, per pixel, per pixel.
    """
    return torch.randn(count, 3, generator=generator) * torch.tensor([bandwidth[0], bandwidth[1], bandwidth[1]])


def octave_frequencies(octaves: int, shape: tuple[int, int, int]) -> Tensor:
    """Frequencies of the sin-cos encoding, sin(2^l π v) with v in [−1, 1] over the volume.

    NeRF, Eq. 4 (Mildenhall et al. 2020).

    Returns
    -------
    Tensor
        (3·octaves, 3): each axis (z, y, x) apart, in cycles per slice and per pixel.
    """
    levels = 2.0 ** torch.arange(octaves)
    return torch.cat([torch.outer(levels / size, torch.eye(3)[axis]) for axis, size in enumerate(shape)])


class FourierLinear(nn.Module):
    """A linear layer on the Fourier features of points given as slices times pixels.

    Parameters
    ----------
    frequencies
        (F, 3), from `gaussian_frequencies` or `octave_frequencies`.
    width
        Number of outputs H.
    """

    def __init__(self, frequencies: Tensor, width: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", frequencies)
        self.frequencies: Tensor
        bound = 1 / math.sqrt(2 * len(frequencies))
        self.cosine = nn.Parameter(torch.empty(len(frequencies), width).uniform_(-bound, bound))
        self.sine = nn.Parameter(torch.empty(len(frequencies), width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(width))

    def encode(self, pixels: Tensor) -> Tensor:
        """Features (..., 2F) of pixel positions (..., 2) = (y, x) in pixels."""
        fy, fx = self.frequencies[:, 1], self.frequencies[:, 2]  # no matmul: autocast would round phases to bfloat16
        phase = 2 * math.pi * (pixels[..., :1] * fy + pixels[..., 1:] * fx)
        return torch.cat([phase.cos(), phase.sin()], -1)

    def forward(self, z: Tensor, features: Tensor) -> Tensor:
        """Outputs (P, n, R, H) at slices ``z`` (P, n), in slices, and encoded pixels (P, R, 2F)."""
        phase = 2 * math.pi * z[..., None] * self.frequencies[:, 0]
        cos, sin = phase.cos()[..., None], phase.sin()[..., None]
        turned = torch.cat([self.cosine * cos + self.sine * sin, self.sine * cos - self.cosine * sin], -2)
        return features[:, None] @ turned + self.bias


class InrNet(nn.Module):
    """Intensity at continuous coordinates.

    Parameters
    ----------
    frequencies
        (F, 3), see `FourierLinear`.
    layers, width
        Hidden layers and neurons in each.
    skip
        Feed the encoding in again before the middle hidden layer, as the authors' code does.
    """

    def __init__(self, frequencies: Tensor, layers: int, width: int, skip: bool = False) -> None:
        super().__init__()
        self.first = FourierLinear(frequencies, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(layers - 1))
        self.again = FourierLinear(frequencies, width) if skip else None
        self.last = nn.Linear(width, 1)

    def forward(self, z: Tensor, pixels: Tensor) -> Tensor:
        """Intensities (P, n, R) at slices ``z`` (P, n) and pixels (P, R, 2) = (y, x), measured from the centre."""
        features = self.first.encode(pixels)
        value = torch.relu(self.first(z, features))
        for i, layer in enumerate(self.hidden):
            value = layer(value)
            if self.again is not None and i == len(self.hidden) // 2:
                value = value + self.again(z, features)
            value = torch.relu(value)
        intensity: Tensor = self.last(value)[..., 0]
        return intensity


HASH_FACTORS = 1, 2_654_435_761, 805_459_861
"""Of z, y, x in the hash of a grid point (Müller et al. 2022, Eq. 4)."""

ENTRY = 2
"""Features of a grid point (F in the paper)."""


def level_cells(levels: int, coarsest: Sequence[float], finest: Sequence[float]) -> Tensor:
    """Cell sizes (L, 3) along z, y, x, which shrink geometrically from the coarsest to the finest level (Eq. 2, 3)."""
    first, last = (torch.tensor(tuple(cells), dtype=torch.float32) for cells in (coarsest, finest))
    share = torch.linspace(0, 1, levels)[:, None] if levels > 1 else torch.ones(1, 1)
    return first * (last / first) ** share


class _Lookup(torch.autograd.Function):
    """Σ over corners of weights times table entries; index_add along one axis is the fast way back to a table.

    table (F, N), rows (L, 4, P, m, R) and weights (L, 4, P, 1, R) give (F, L, P, m, R).
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(rows, weights)
        ctx.entries = table.shape[1]
        return torch.stack([(row.index_select(0, rows.flatten()).view(rows.shape) * weights).sum(1) for row in table])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        rows, weights = ctx.saved_tensors
        table = gradients[0].new_zeros(len(gradients[0]), ctx.entries)
        for row, gradient in zip(table, gradients[0], strict=True):
            row.index_add_(0, rows.flatten(), (gradient[:, None] * weights).flatten())
        return table, None, None


class HashGrid(nn.Module):
    """Features of points given as slices times pixels: trilinear interpolation of grids of several resolutions.

    A level with no more grid points than ``entries`` has an entry for each; finer levels share ``entries`` by hashing
    (Müller et al. 2022, Sec. 3). Positions outside the volume are taken to its surface.

    Parameters
    ----------
    shape
        Of the volume (Z, Y, X).
    cells
        (L, 3) from `level_cells`: sizes in slices, pixels, pixels, none larger than that of the level before.
    entries
        Largest number of entries of a level, a power of two.
    anchor
        Where along z, in slices, each level has a grid plane. In xy grids lie symmetric about the image's centre.
    """

    def __init__(self, shape: tuple[int, int, int], cells: Tensor, entries: int, anchor: float = 0.0) -> None:
        super().__init__()
        extent = torch.tensor(shape, dtype=torch.float32)
        below = torch.ceil(anchor / cells[:, 0] - 1e-4)  # planes below the anchor, so that they begin at 0 or under
        nodes = torch.ceil(extent / cells - 1e-4) + 1
        nodes[:, 0] = below + torch.ceil((extent[0] - anchor) / cells[:, 0] - 1e-4) + 1
        origin = (nodes - 1) / 2
        origin[:, 0] = below - anchor / cells[:, 0]
        points = [math.prod(map(int, level)) for level in nodes.tolist()]
        counts = [min(count, entries) for count in points]
        self.shape, self.mask = shape, entries - 1
        self.dense = sum(count <= entries for count in points)
        strides = torch.stack([nodes[:, 1] * nodes[:, 2], nodes[:, 2], torch.ones(len(nodes))], 1).long()
        strides[self.dense :] = torch.tensor(HASH_FACTORS)
        self.cells, self.origin, self.nodes = nn.Buffer(cells), nn.Buffer(origin), nn.Buffer(nodes)
        self.strides, self.start = nn.Buffer(strides), nn.Buffer(torch.tensor([0, *counts[:-1]]).cumsum(0))
        self.table = nn.Parameter(torch.empty(ENTRY, sum(counts)).uniform_(-1e-4, 1e-4))

    @property
    def features(self) -> int:
        """Features of a point: two a level."""
        return ENTRY * len(self.cells)

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The four grid points around each of the pixels (P, R, 2) = (y, x) from the centre, within a grid plane.

        Returns
        -------
        codes, weights
            (L, 4, P, R): shares of the entries' numbers, to be joined with those of a plane; bilinear weights.
        """
        low, place = [], []
        for axis in (1, 2):
            half = self.shape[axis] / 2
            position = self._on_grid(pixels[..., axis - 1].clamp(-half, half), axis)
            low.append(torch.minimum(position.floor(), _lift(self.nodes[:, axis] - 2, position)))
            place.append(position - low[-1])
        step = [_lift(self.strides[:, axis], place[0]) for axis in (1, 2)]
        y, x = (part.long() * stride for part, stride in zip(low, step, strict=True))
        codes = [self._join(y + i * step[0], x + j * step[1]) for i in (0, 1) for j in (0, 1)]
        (top, bottom), (left, right) = ((1 - part, part) for part in place)
        weights = [top * left, top * right, bottom * left, bottom * right]
        return torch.stack(codes, 1), torch.stack(weights, 1)

    def forward(self, z: Tensor, encoded: tuple[Tensor, Tensor]) -> Tensor:
        """Features (2L, P·n·R), points last, at slices ``z`` (P, n) and encoded pixels."""
        codes, weights = encoded
        position = self._on_grid(z.clamp(0, self.shape[0]), 0)  # (L, P, n)
        first = position.amin(-1).floor()
        planes = int((position.amax(-1) - first).max()) + 2
        plane = first[..., None] + torch.arange(planes, device=z.device)  # (L, P, m): all that slices of a row touch
        between = (1 - (position[..., None] - plane[:, :, None]).abs()).clamp_min(0)
        stored = torch.minimum(plane, _lift(self.nodes[:, 0] - 1, plane)).long() * _lift(self.strides[:, 0], plane)
        rows = self._join(codes[:, :, :, None], stored[:, None, ..., None])
        rows += _lift(self.start, rows)
        values: Tensor = _Lookup.apply(self.table, rows, weights[:, :, :, None])  # type: ignore[no-untyped-call]
        with torch.autocast(z.device.type, enabled=False):  # weights of the planes are positions: not in bfloat16
            features: Tensor = between @ values
        return features.flatten(0, 1).flatten(1)

    def _on_grid(self, position: Tensor, axis: int) -> Tensor:
        """Positions (...) along an axis in units of each level's cells, (L, ...)."""
        position = position[None]
        scaled = position / _lift(self.cells[:, axis], position) + _lift(self.origin[:, axis], position)
        return scaled.clamp_min(0)  # rounding

    def _join(self, one: Tensor, other: Tensor) -> Tensor:
        """Numbers of entries, of two parts (L, ...) of them: added where stored one to one, else hashed (Eq. 4)."""
        dense = self.dense
        return torch.cat([one[:dense] + other[:dense], (one[dense:] ^ other[dense:]) & self.mask])


def _lift(values: Tensor, like: Tensor) -> Tensor:
    """A value a level, (L,), as (L, 1, ...) with as many axes as ``like``."""
    return values.view(-1, *[1] * (like.dim() - 1))


class HashNet(nn.Module):
    """Intensity at continuous coordinates, from a hash grid; ``layers``, ``width`` and ``skip`` as for `InrNet`."""

    def __init__(self, grid: HashGrid, layers: int, width: int, skip: bool = False) -> None:
        super().__init__()
        self.grid = grid
        self.hidden = nn.ModuleList(nn.Linear(width if i else grid.features, width) for i in range(layers))
        self.again = nn.Linear(grid.features, width, bias=False) if skip else None
        self.last = nn.Linear(width, 1)

    def forward(self, z: Tensor, pixels: Tensor) -> Tensor:
        """Intensities (P, n, R) at slices ``z`` (P, n) and pixels (P, R, 2) = (y, x), measured from the centre."""
        value = features = self.grid(z, self.grid.encode(pixels))
        for i, layer in enumerate(self.hidden):
            value = _points_last(layer, value)
            if self.again is not None and i == (len(self.hidden) + 1) // 2:
                value = value + self.again.weight @ features
            value = torch.relu(value)
        return _points_last(self.last, value).view(*z.shape, pixels.shape[1])


def _points_last(layer: nn.Module, values: Tensor) -> Tensor:
    """A linear layer on values (features, points), as the grid gives them: turning them over would cost more."""
    assert isinstance(layer, nn.Linear)
    return torch.addmm(layer.bias[:, None], layer.weight, values)


CoordinateNet = InrNet | HashNet
