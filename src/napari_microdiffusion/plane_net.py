"""The network of axial super-resolution: planes (z, x) with a stride's slices folded into channels.

What the beam does repeats itself every stride, so a network that sees each stride as one row with a channel for
every slice is translation invariant exactly where the acquisition is, and works on a fraction of the pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .conv import Conv


class Residual(nn.Module):
    """x + conv(silu(conv(silu(x)))), without norm: intensities must survive."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = Conv(channels, channels), Conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = x + self.conv2(functional.silu(self.conv1(functional.silu(x))))
        return hidden


class PlaneNet(nn.Module):
    """The change of a plane that the lateral detail of the stack suggests, and how far it may be off.

    Parameters
    ----------
    fold
        Slices in one row, a multiple of the acquisition's stride.
    channels, blocks
        Width at full lateral resolution, and residual blocks there; two more, twice as wide, work at half the
        resolution.
    """

    def __init__(self, fold: int, channels: int, blocks: int) -> None:
        super().__init__()
        self.fold, self.channels = fold, channels
        self.enter = Conv(2 * fold + 1, channels)
        self.before = nn.Sequential(*(Residual(channels) for _ in range(blocks // 2)))
        self.coarser = Conv(channels, 2 * channels, kernel=(1, 4), stride=2)
        self.coarse = nn.Sequential(Residual(2 * channels), Residual(2 * channels))
        self.finer = Conv(2 * channels, channels, kernel=(1, 1))
        self.after = nn.Sequential(*(Residual(channels) for _ in range(blocks - blocks // 2)))
        self.change = nn.Conv2d(channels, fold, 3, padding=1)
        self.spread = nn.Sequential(Conv(channels, channels), nn.SiLU(), nn.Conv2d(channels, 2 * fold, 3, padding=1))
        for parameter in self.change.parameters():
            nn.init.zeros_(parameter)  # training starts from the interpolation itself

    def forward(self, planes: Tensor, unseen: Tensor, blur: Tensor) -> tuple[Tensor, Tensor]:
        """Changes (B, Z, x) of interpolated planes (B, Z, x), and distances (B, 2, Z, x) to the interval's bounds.

        Parameters
        ----------
        unseen
            (Z,), 1 for slices that no projection in use has seen, else 0.
        blur
            (B,), axial blur beyond the lateral one, as a standard deviation in slices.
        """
        _, z, x = planes.shape
        padded = functional.pad(planes[:, None], (0, -x % 2, 0, -z % self.fold), mode="replicate")
        rows = self._folded(padded)
        gaps = functional.pad(unseen, (0, -z % self.fold)).view(1, -1, self.fold).transpose(1, 2)[..., None]
        inputs = [rows, gaps.expand_as(rows), (blur / 5)[:, None, None, None].expand(-1, 1, *rows.shape[2:])]
        features = self.before(self.enter(torch.cat(inputs, 1).contiguous(memory_format=torch.channels_last)))
        coarse = self.finer(self.coarse(self.coarser(features)))
        features = self.after(features + coarse.repeat_interleave(2, 3))
        change = self._unfolded(self.change(functional.silu(features)))
        # the interval must not pull at the estimate: its head learns from the features, not they from it
        spread = functional.softplus(self._unfolded(self.spread(functional.silu(features.detach()))) - 4)
        return change[:, 0, :z, :x], spread[:, :, :z, :x]

    def _folded(self, planes: Tensor) -> Tensor:
        """(B, fold, Z / fold, x) from (B, 1, Z, x)."""
        b, _, z, x = planes.shape
        return planes.view(b, z // self.fold, self.fold, x).transpose(1, 2)

    def _unfolded(self, rows: Tensor) -> Tensor:
        """(B, c, Z, x) from (B, c·fold, Z / fold, x)."""
        b, channels, k, x = rows.shape
        split = rows.reshape(b, channels // self.fold, self.fold, k, x)
        return split.transpose(2, 3).reshape(b, -1, k * self.fold, x)
