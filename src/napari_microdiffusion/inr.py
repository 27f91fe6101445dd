"""A coordinate network: Fourier encoding and multilayer perceptron (MicroDiffusion, Eq. 1).

Both encodings of the paper are Fourier features, cos and sin of 2π f·(z, y, x); they differ in
their frequencies. Because cos(a + b) and sin(a + b) are linear in cos a and sin a, a linear layer on the
features of a slice is a linear layer on the features of its pixels (y, x) alone, with weights turned by
the slice's phase: pixels are encoded once, not once a slice.
"""

from __future__ import annotations

import math

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
    """Frequencies of the sin-cos encoding, sin(2^l π v) with v in [−1, 1] over the volume (NeRF).

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
