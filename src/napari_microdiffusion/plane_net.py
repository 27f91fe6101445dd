"""The network of axial super-resolution: planes (z, x) with a stride's slices folded into channels.

What the beam does repeats itself every stride, so a network that sees each stride (where projections overlap, so many
strides as hold a projection) as one row with a channel for every slice is translation invariant as the acquisition is,
and works on a fraction of the pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .conv import Conv


class ResidualBlock(nn.Module):
    """x + conv(silu(conv(silu(x)))), without norm: intensities must survive."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = Conv(channels, channels), Conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = x + self.conv2(functional.silu(self.conv1(functional.silu(x))))
        return hidden


class FoldedNet(nn.Module):
    """From images of a plane to one image of it; an untrained network gives zeros.

    Parameters
    ----------
    fold
        Slices in one row, a multiple of the acquisition's stride.
    channels, blocks
        Width at full lateral resolution, and residual blocks there; two more, twice as wide, work at half the
        resolution.
    images, numbers
        How many images of a plane enter, and how many numbers that hold for all of it.
    """

    def __init__(self, fold: int, channels: int, blocks: int, images: int = 1, numbers: int = 1) -> None:
        super().__init__()
        self.fold, self.channels = fold, channels
        self.enter = Conv((images + 1) * fold + numbers, channels)
        self.before = nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks // 2)))
        self.coarser = Conv(channels, 2 * channels, kernel=(1, 4), stride=2)
        self.coarse = nn.Sequential(ResidualBlock(2 * channels), ResidualBlock(2 * channels))
        self.finer = Conv(2 * channels, channels, kernel=(1, 1))
        self.after = nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks - blocks // 2)))
        self.change = nn.Conv2d(channels, fold, 3, padding=1)
        for parameter in self.change.parameters():
            nn.init.zeros_(parameter)  # training starts from the interpolation itself

    def features(self, images: Tensor, unseen: Tensor, numbers: Tensor) -> Tensor:
        """(B, channels, rows, x) of images (B, c, Z, x), unseen slices (Z,) and numbers (B, m)."""
        *_, z, x = images.shape
        padded = functional.pad(images, (0, -x % 2, 0, -z % self.fold), mode="replicate")
        rows = [self._folded(image) for image in padded.split(1, 1)]
        gaps = functional.pad(unseen, (0, -z % self.fold)).view(1, -1, self.fold).transpose(1, 2)[..., None]
        constant = numbers[:, :, None, None].expand(-1, -1, *rows[0].shape[2:])
        entering = torch.cat([*rows, gaps.expand_as(rows[0]), constant], 1)
        features = self.before(self.enter(entering.contiguous(memory_format=torch.channels_last)))
        coarse = self.finer(self.coarse(self.coarser(features)))
        after: Tensor = self.after(features + coarse.repeat_interleave(2, 3))
        return functional.silu(after)

    def image(self, head: nn.Module, features: Tensor, size: torch.Size) -> Tensor:
        """(B, c, Z, x) of features, by a head with c times ``fold`` outputs."""
        return self._unfolded(head(features))[:, :, : size[-2], : size[-1]]

    def _folded(self, planes: Tensor) -> Tensor:
        """(B, fold, Z / fold, x) from (B, 1, Z, x)."""
        b, _, z, x = planes.shape
        return planes.view(b, z // self.fold, self.fold, x).transpose(1, 2)

    def _unfolded(self, rows: Tensor) -> Tensor:
        """(B, c, Z, x) from (B, c·fold, Z / fold, x)."""
        b, channels, k, x = rows.shape
        split = rows.reshape(b, channels // self.fold, self.fold, k, x)
        return split.transpose(2, 3).reshape(b, -1, k * self.fold, x)


class PlaneNet(FoldedNet):
    """The change of a plane that the lateral detail of the stack suggests, and how far it may be off.

    Parameters as for `FoldedNet`.
    """

    def __init__(self, fold: int, channels: int, blocks: int) -> None:
        super().__init__(fold, channels, blocks, numbers=4)
        self.spread = nn.Sequential(Conv(channels, channels), nn.SiLU(), nn.Conv2d(channels, 2 * fold, 3, padding=1))

    def forward(self, planes: Tensor, unseen: Tensor, conditions: Tensor) -> tuple[Tensor, Tensor]:
        """Changes (B, Z, x) of interpolated planes (B, Z, x), and distances (B, 2, Z, x) to the interval's bounds.

        Parameters
        ----------
        unseen
            (Z,), 1 for slices that no projection in use has seen, else 0.
        conditions
            (B, 4): axial blur beyond the lateral one in slices, the standard deviation of the Gaussian as wide at half
            maximum; logarithms of how many times deeper and wider voxels are than usual; the blur's tails, -1, 0 or 1.
        """
        features = self.features(planes[:, None], unseen, _scaled(conditions))
        # the interval must not pull at the estimate: its head learns from the features, not they from it
        spread = functional.softplus(self.image(self.spread, features.detach(), planes.shape) - 4)
        return self.image(self.change, features, planes.shape)[:, 0], spread


class PlaneDenoiser(FoldedNet):
    """What noise is in a deviation from the mean of what a plane may be.

    Parameters as for `FoldedNet`.
    """

    def __init__(self, fold: int, channels: int, blocks: int) -> None:
        super().__init__(fold, channels, blocks, images=3, numbers=5)

    def forward(self, planes: Tensor, unseen: Tensor, conditions: Tensor, noise: Tensor) -> Tensor:
        """v (B, Z, x) of the deviations.

        Parameters
        ----------
        planes
            (B, 3, Z, x): the noisy deviation in standard deviations, the mean, the standard deviation.
        unseen, conditions
            As for `PlaneNet`.
        noise
            (B,), noise level, 0 to 1.
        """
        features = self.features(planes, unseen, torch.cat([_scaled(conditions), noise[:, None]], 1))
        return self.image(self.change, features, planes.shape)[:, 0]


def _scaled(conditions: Tensor) -> Tensor:
    """All of order 1."""
    return conditions / conditions.new_tensor([5.0, 1.0, 1.0, 1.0])
