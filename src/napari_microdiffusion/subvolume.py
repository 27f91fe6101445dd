"""The network of subvolume diffusion: the images between two measured ones, all at once (Sparse3Diff, Sec. 2.2).

A subvolume B^k = [s^k, X^k, s^(k+1)] is an image with a channel for every slice. The measured ones keep their values at
every noise level, noise goes to those between them alone. Further measured images may be shown on both sides (ours).
Intensities are on the diffusion's scale, about −1 .. 1.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from .diffusion import Parameterisation, Schedule, clean_of, guided
from .unet import UNet, sinusoidal

EMBEDDING = 32
"""Size d_c of a slice's position embedding (Eq. 3)."""

RANGE = 1.5
"""Intensities beyond ± this are no image's: the brightest and darkest pixels lie a little outside −1 .. 1."""


class SubvolumeNet(nn.Module):
    """Estimates the m images between two measured ones from their noisy versions, the noise level and the positions.

    Parameters
    ----------
    unet
        Of M + m channels to m, attending to the positions or to nothing; M measured images, half of them above.
    schedule
        Noise levels.
    between
        (m,), where the images lie between the two measured ones that enclose them, 0 .. 1.
    parameterisation
        What the U-Net's output means: v = √ᾱ ε − √(1−ᾱ) X_0 (Eq. 4), the noise, or the scaled remainder of the best
        linear denoiser about the linear interpolation (Karras et al. 2022, Sec. 5).
    spread
        Root mean square of what interpolation leaves over; set by `calibrate`.
    """

    def __init__(
        self,
        unet: UNet,
        schedule: Schedule,
        between: Tensor,
        parameterisation: Parameterisation | Literal["preconditioned"],
    ) -> None:
        super().__init__()
        self.unet = unet
        self.schedule = schedule
        self.parameterisation = parameterisation
        if parameterisation == "preconditioned":
            for parameter in unet.leave[-1].parameters():
                nn.init.zeros_(parameter)  # training starts from the best linear denoiser
        self.empty = None if unet.cross is None else nn.Parameter(torch.zeros(EMBEDDING))
        self.between: Tensor
        self.spread: Tensor
        self.register_buffer("between", between.float()[:, None, None], persistent=False)
        self.register_buffer("spread", torch.ones(()))

    def interpolated(self, known: Tensor) -> Tensor:
        """(B, m, y, x), linear between the middle two of the measured images (B, M, y, x)."""
        half = known.shape[1] // 2
        return known[:, half - 1 : half] * (1 - self.between) + known[:, half : half + 1] * self.between

    def calibrate(self, known: Tensor, clean: Tensor) -> None:
        """Take the spread from training subvolumes."""
        self.spread.copy_((clean - self.interpolated(known)).square().mean().sqrt().clamp(min=1e-3))

    def loss(
        self,
        known: Tensor,
        clean: Tensor,
        positions: Tensor,
        p_uncond: float,
        emphasis: float,
        generator: torch.Generator,
        spread: Tensor | None = None,
        seen: Tensor | None = None,
    ) -> Tensor:
        """The V-loss (Eq. 4), positions dropped at rate ``p_uncond``.

        Parameters
        ----------
        known, clean
            Measured images (B, M, y, x) and those between the middle two (B, m, y, x).
        positions
            (B, M + m), along z, in slices.
        emphasis
            Share of subvolumes at the highest noise level, where sampling starts; the others at any level alike.
        generator
            Of noise levels, noise and dropout.
        spread
            (B,): errors are divided by it, relative to that of all training subvolumes. None: they count as they are.
        seen
            (B, m): weights of the images in a projection, on which alone the loss is then computed, as in
            self-alignment. None: on every image.
        """
        batch = len(clean)
        t = torch.randint(self.schedule.timesteps, (batch,), generator=generator)
        t[torch.rand(batch, generator=generator) < emphasis] = self.schedule.timesteps - 1
        t = t.to(clean.device)
        noise = torch.randn(clean.shape, generator=generator).to(clean.device)
        dropped = (torch.rand(batch, 1, 1, generator=generator) < p_uncond).to(clean.device)
        tokens = self._tokens(positions)
        if tokens is not None:
            tokens = torch.where(dropped, self._nothing(tokens), tokens)
        noisy = self.schedule.noised(clean, noise, t)
        error = self._clean(known, noisy, t, tokens) - clean
        if seen is not None:  # a projection is linear in its slices, and so is v
            error = (error * seen[:, :, None, None]).sum(1, keepdim=True)
        if spread is not None:
            error = error * (self.spread / spread)[:, None, None, None]
        return (self._weight(t, clean) * error).square().mean()

    def estimate(self, known: Tensor, noisy: Tensor, t: Tensor, positions: Tensor, guidance: float = 0.0) -> Tensor:
        """X_0 (B, m, y, x) with classifier-free guidance (Eq. 5)."""
        tokens = self._tokens(positions)
        if tokens is None or guidance == 0:
            clean = self._clean(known, noisy, t, tokens)
        else:
            both = torch.cat([tokens, self._nothing(tokens)])
            known, noisy, t = (torch.cat([tensor, tensor]) for tensor in (known, noisy, t))
            with_c, without_c = self._clean(known, noisy, t, both).chunk(2)
            clean = guided(with_c, without_c, guidance)
        # 1/√ᾱ blows the errors of an estimated noise up, most at the first step: keep to the range, as Ho et al. do
        return clean.clamp(-RANGE, RANGE) if self.parameterisation == "epsilon" else clean

    def _tokens(self, positions: Tensor) -> Tensor | None:
        """(B, M + m, d_c): each slice's position (Eq. 3); None where the network is not told."""
        if self.empty is None:
            return None
        return sinusoidal(positions.flatten(), EMBEDDING).view(*positions.shape, -1)

    def _nothing(self, tokens: Tensor) -> Tensor:
        assert self.empty is not None
        return self.empty.expand_as(tokens)

    def _clean(self, known: Tensor, noisy: Tensor, t: Tensor, tokens: Tensor | None) -> Tensor:
        """The estimate of X_0 that the U-Net's output means."""
        signal, sigma = self.schedule.levels(t, noisy)
        above, below = known.chunk(2, 1)
        output: Tensor
        if self.parameterisation != "preconditioned":
            output = self.unet(torch.cat([above, noisy, below], 1), t, tokens).float()
            return clean_of(self.parameterisation, output, noisy, (signal, sigma))
        guide = self.interpolated(known)
        size = ((signal * self.spread) ** 2 + sigma**2).sqrt()
        rest = (noisy - signal * guide) / size
        output = self.unet(torch.cat([above, rest, below], 1), t, tokens).float()
        skip = signal * self.spread**2 / size
        clean: Tensor = guide + skip * rest + self.spread * sigma / size * output
        return clean

    def _weight(self, t: Tensor, image: Tensor) -> Tensor:
        """What turns an error of X_0 into one of the network's output: √λ_t / σ of Eq. 4."""
        signal, sigma = self.schedule.levels(t, image)
        if self.parameterisation == "v":
            return 1 / sigma
        if self.parameterisation == "epsilon":
            return signal / sigma
        return ((signal * self.spread) ** 2 + sigma**2).sqrt() / (self.spread * sigma)
