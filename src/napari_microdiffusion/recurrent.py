"""The network of Recurrent-MZ: a U-Net that is shown images one after the other (Huang et al. 2021, Fig. 1).

Each image comes with a channel that holds its signed axial distance to the wanted slice (the paper's digital
propagation matrix). The encoder sees every image by itself; gated recurrent units on every level's skip connection
gather what the images say; the decoder works once, after the last image.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from .conv import Conv
from .plane_net import ResidualBlock

FOLD = 2
"""Pixels along y and x that are folded into channels: a quarter of the work, at nearly the same reach."""


class ConvGru(nn.Module):
    """A gated recurrent unit (Cho et al. 2014) whose products are convolutions: 3 x 3 on the state, 1 x 1 on the input.

    The input comes from convolutions already, so it need not be spread any further.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.given = Conv(channels, 3 * channels, kernel=(1, 1))
        self.gates = Conv(channels, 2 * channels)
        self.candidate = Conv(channels, channels)

    def forward(self, sequence: Tensor) -> Tensor:
        """The state (B, c, y, x) after a sequence (B, M, c, y, x); it starts from nothing."""
        b, m = sequence.shape[:2]
        given = self.given(sequence.flatten(0, 1)).unflatten(0, (b, m))
        update, _, new = given[:, 0].chunk(3, 1)
        state: Tensor = update.sigmoid() * new.tanh()
        for step in range(1, m):
            update, reset, new = given[:, step].chunk(3, 1)
            more, less = self.gates(state).chunk(2, 1)
            candidate = (new + self.candidate((reset + less).sigmoid() * state)).tanh()
            state = state + (update + more).sigmoid() * (candidate - state)
        return state


class Memory(nn.Module):
    """A skip connection: what the recurrent unit gathered of all images, added to the features of the last one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.unit = ConvGru(channels)
        self.mix = Conv(channels, channels, kernel=(1, 1))

    def forward(self, sequence: Tensor) -> Tensor:
        """(B, c, y, x) from (B, M, c, y, x)."""
        gathered: Tensor = sequence[:, -1] + self.mix(self.unit(sequence))
        return gathered


class RecurrentUNet(nn.Module):
    """One slice from a few images at known distances, seen one after the other; any number of them, of any size.

    Parameters
    ----------
    channels
        At the finest level (`FOLD` pixels wide); each further level has twice as many, at half the resolution.
    levels
        Resolutions, each with its own recurrent unit.
    silent
        Start from an output of zero, for a network that adds to an interpolation.
    """

    def __init__(self, channels: int, levels: int, silent: bool) -> None:
        super().__init__()
        widths = [channels * 2**level for level in range(levels)]
        pairs = list(pairwise(widths))
        self._multiple = FOLD * 2 ** (levels - 1)
        self.enter = Conv(FOLD**2 + 1, channels)
        self.encoder = nn.ModuleList(ResidualBlock(width) for width in widths)
        self.coarser = nn.ModuleList(Conv(4 * fine, coarse, kernel=(1, 1)) for fine, coarse in pairs)
        self.memories = nn.ModuleList(Memory(width) for width in widths)
        self.finer = nn.ModuleList(Conv(coarse, fine, kernel=(1, 1)) for fine, coarse in pairs)
        self.decoder = nn.ModuleList(ResidualBlock(width) for width in widths)
        self.leave = nn.Conv2d(channels, FOLD**2, 3, padding=1)
        if silent:
            for parameter in self.leave.parameters():
                nn.init.zeros_(parameter)

    def forward(self, images: Tensor, distances: Tensor) -> Tensor:
        """The slice (B, y, x).

        Parameters
        ----------
        images
            (B, M, y, x), in the order in which they are seen.
        distances
            (B, M), from the wanted slice to each image along z, signed, in strides.
        """
        b, m, y, x = images.shape
        padding = 0, -x % self._multiple, 0, -y % self._multiple
        folded = functional.pixel_unshuffle(functional.pad(images.flatten(0, 1)[:, None], padding, "replicate"), FOLD)
        away = distances.reshape(-1, 1, 1, 1).expand(-1, 1, *folded.shape[2:])
        features = self.enter(torch.cat([folded, away], 1).contiguous(memory_format=torch.channels_last))
        skips = []
        for level, (block, memory) in enumerate(zip(self.encoder, self.memories, strict=True)):
            if level:
                features = self.coarser[level - 1](functional.pixel_unshuffle(features, 2))
            features = block(features)
            skips.append(memory(features.unflatten(0, (b, m))))
        features = self.decoder[-1](skips[-1])
        for level in reversed(range(len(skips) - 1)):
            raised = functional.interpolate(self.finer[level](features), scale_factor=2, mode="nearest")
            features = self.decoder[level](skips[level] + raised)
        slices: Tensor = functional.pixel_shuffle(self.leave(functional.silu(features)), FOLD)[:, 0, :y, :x]
        return slices


def berhu(error: Tensor) -> Tensor:
    """Reverse Huber loss of errors: |e| up to c, a fifth of the largest, (e² + c²) / 2c beyond (Laina et al. 2016)."""
    size = error.abs()
    bound = (0.2 * size.detach().max()).clamp_min(1e-6)
    return torch.where(size <= bound, size, (size.square() + bound.square()) / (2 * bound))


def dissimilarity(estimate: Tensor, truth: Tensor, scales: int = 3) -> Tensor:
    """1 − SSIM of images (B, y, x), data range 1: the mean over halved scales, as long as they hold a window.

    A mean in place of the weighted product of MS-SSIM (Wang et al. 2003): its gradient does not vanish where one scale
    is at zero.
    """
    values = []
    pair = torch.stack([estimate, truth], 1)
    for _ in range(scales):
        values.append(1 - _similarity(*pair.unbind(1)))
        if min(pair.shape[2:]) < 2 * WINDOW:
            break
        pair = functional.avg_pool2d(pair, 2)
    return torch.stack(values).mean()


WINDOW = 7
"""Side of the window of SSIM, in pixels, as scikit-image has it."""


def _similarity(one: Tensor, other: Tensor) -> Tensor:
    """Mean SSIM of images (B, y, x) over uniform windows, data range 1."""
    side = min(WINDOW, *one.shape[1:])
    moments = torch.stack([one, other, one.square(), other.square(), one * other], 1)
    a, b, aa, bb, ab = functional.avg_pool2d(moments, side, 1).unbind(1)
    c1, c2 = 0.01**2, 0.03**2
    structure = (2 * (ab - a * b) + c2) / (aa - a.square() + bb - b.square() + c2)
    return (structure * (2 * a * b + c1) / (a.square() + b.square() + c1)).mean()
