"""The conditional U-Net of all diffusion models here (MicroDiffusion, Sec. 4.2; Sparse3Diff, Sec. 2.2).

Every ResNet block's output takes the time, and the condition where it is added; else tokens are attended to.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from .conv import Conv

IMAGE_FEATURES = 128
POSITION_FEATURES = 32

Conditioning = Literal["none", "addition", "cross_attention"]


def sinusoidal(position: Tensor, size: int, period: float = 10_000.0) -> Tensor:
    """Sinusoidal embedding (B, size) of positions (B,) (Vaswani et al. 2017)."""
    frequencies = torch.exp(-math.log(period) * torch.arange(size // 2, device=position.device) / (size // 2))
    phase = position[:, None].float() * frequencies
    return torch.cat([phase.cos(), phase.sin()], 1)


class Block(nn.Module):
    """A ResNet block whose output takes the embedding of time and condition."""

    def __init__(self, inputs: int, outputs: int, embedding: int, norm: bool = True) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.GroupNorm(8, size) if norm else nn.Identity() for size in (inputs, outputs))
        self.conv1, self.conv2 = Conv(inputs, outputs), Conv(outputs, outputs)
        self.skip = Conv(inputs, outputs, kernel=(1, 1)) if inputs != outputs else nn.Identity()
        self.embed = nn.Linear(embedding, outputs)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        hidden = self.conv1(functional.silu(self.norm1(x)))
        hidden = self.conv2(functional.silu(self.norm2(hidden)))
        output: Tensor = self.skip(x) + hidden + self.embed(embedding)[:, :, None, None]
        return output


class Attention(nn.Module):
    """Self-attention over the pixels of the lowest resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.qkv, self.out = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).contiguous()
        q, k, v = tokens[:, None].chunk(3, -1)  # so, and with an axis of heads, no matrix of all pairs is kept
        mixed = functional.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2).reshape(x.shape)
        attended: Tensor = x + self.out(mixed)
        return attended


class CrossAttention(nn.Module):
    """Attention of the pixels of the lowest resolution, as queries, to the condition's tokens.

    With one token, as in MicroDiffusion's ablation (Table 3), every pixel receives the same.
    """

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.query, self.out = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, channels, 1)
        self.key_value = nn.Linear(features, 2 * channels)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """(B, c, y, x) from images of that shape and tokens (B, L, features)."""
        query = self.query(self.norm(x)).flatten(2).transpose(1, 2)
        key, value = self.key_value(tokens).chunk(2, -1)
        mixed = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(x.shape)
        attended: Tensor = x + self.out(mixed)
        return attended


class UNet(nn.Module):
    """Images (B, inputs, y, x) of any size to images (B, outputs, y, x) of that size, given time and condition.

    Parameters
    ----------
    channels
        At full resolution, a multiple of 8.
    multipliers
        Channels at each resolution, as multiples of ``channels``; each level halves the resolution.
    attention
        Self-attention at the lowest resolution.
    inputs, outputs
        Channels of the images that come in and go out.
    conditioning
        ``addition`` to the output of every block, ``cross_attention`` at the lowest resolution, or ``none``.
    features
        Size of the condition, or of each of its tokens.
    fold
        Pixels along y and x that are folded into channels: at 2, a quarter of the work.
    norm
        Group norm in every block; without it intensities keep their meaning from sample to sample.
    """

    def __init__(
        self,
        channels: int,
        multipliers: tuple[int, ...],
        attention: bool,
        inputs: int = 1,
        outputs: int = 1,
        conditioning: Conditioning = "addition",
        features: int = IMAGE_FEATURES + POSITION_FEATURES,
        fold: int = 1,
        norm: bool = True,
    ) -> None:
        super().__init__()
        widths = [channels * m for m in multipliers]
        embedding = 4 * channels
        self.channels = channels
        self.time = nn.Sequential(nn.Linear(channels, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.condition = nn.Linear(features, embedding) if conditioning == "addition" else None
        self.fold = fold
        self.enter = Conv(inputs * fold**2, channels)
        self.down = nn.ModuleList(Block(a, b, embedding, norm) for a, b in pairwise([channels, *widths]))
        self.middle = Block(widths[-1], widths[-1], embedding, norm)
        self.attention = Attention(widths[-1]) if attention else nn.Identity()
        self.cross = CrossAttention(widths[-1], features) if conditioning == "cross_attention" else None
        below = [*widths[1:], widths[-1]]
        self.up = nn.ModuleList(Block(a + b, b, embedding, norm) for a, b in zip(below, widths, strict=True))
        self.leave = nn.Sequential(
            nn.GroupNorm(8, widths[0]) if norm else nn.Identity(),
            nn.SiLU(),
            nn.Conv2d(widths[0], outputs * fold**2, 3, padding=1),
        )

    def forward(self, x: Tensor, time: Tensor, condition: Tensor | None = None) -> Tensor:
        """(B, outputs, y, x) from noisy images, noise levels ``time`` (B,) and what is known of them.

        Conditions are (B, features) where they are added, tokens (B, L, features) where they are attended to.
        """
        height, width = x.shape[2:]
        fold = self.fold * 2 ** (len(self.down) - 1)
        x = functional.pad(x, (0, -width % fold, 0, -height % fold), mode="replicate")
        embedding = self.time(sinusoidal(time, self.channels))
        if self.condition is not None:
            embedding = embedding + self.condition(condition)
        embedding = functional.silu(embedding)
        x = self.enter(functional.pixel_unshuffle(x, self.fold))
        levels = []
        for i, block in enumerate(self.down):
            x = block(functional.avg_pool2d(x, 2) if i else x, embedding)
            levels.append(x)
        x = self.attention(self.middle(x, embedding))
        x = x if self.cross is None else self.cross(x, condition)
        for i, block in reversed(list(enumerate(self.up))):
            x = block(torch.cat([x, levels.pop()], 1), embedding)
            if i:
                x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
        output = functional.pixel_shuffle(self.leave(x), self.fold)
        return output[:, :, :height, :width]


class ConditionEncoder(nn.Module):
    """c = E_img(X_z) ⊕ E_pos(p(z)) (Eq. 8): a small ResNet to 128 features and an MLP to 32, or ∅ (learned)."""

    def __init__(self) -> None:
        super().__init__()
        widths = [16, 32, 64, IMAGE_FEATURES]
        stages: list[nn.Module] = [nn.Conv2d(1, 16, 5, stride=2, padding=2)]
        stages += [ImageBlock(a, b) for a, b in pairwise(widths)]
        self.image = nn.Sequential(*stages)
        self.position = nn.Sequential(nn.Linear(32, 64), nn.SiLU(), nn.Linear(64, POSITION_FEATURES))
        self.empty = nn.Parameter(torch.zeros(IMAGE_FEATURES + POSITION_FEATURES))

    def forward(self, image: Tensor, position: Tensor) -> Tensor:
        """Conditions (B, 160) of images (B, 1, y, x) at positions (B,) in [−1, 1] along z."""
        features = self.image(image).mean((2, 3))
        where = self.position(sinusoidal(position * math.pi * 8, 32, 64.0))
        return torch.cat([features, where.to(features.dtype)], 1)


class ImageBlock(nn.Module):
    """A ResNet block that halves the resolution (ResNet-18's, with group norm: crops are few)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
        self.norm1, self.norm2 = nn.GroupNorm(8, outputs), nn.GroupNorm(8, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm2(self.conv2(functional.silu(self.norm1(self.conv1(x)))))
        return functional.silu(self.skip(x) + hidden)
