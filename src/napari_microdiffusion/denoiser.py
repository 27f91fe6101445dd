"""The network of guided diffusion: what it sees and predicts, its loss, its estimate (MicroDiffusion, Sec. 4.2).

Intensities are on the diffusion's scale, about −1 .. 1; noise levels t are integers (B,).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from .diffusion import Parameterisation, Schedule, clean_of, guided
from .unet import IMAGE_FEATURES, POSITION_FEATURES, ConditionEncoder, Conditioning, UNet

Injection = Literal["interpolation", "condition"]


def condition_features(injection: Injection) -> int:
    """Size of c: image and position (Eq. 8), and the prior's image where it is a condition (Table 5)."""
    return IMAGE_FEATURES + POSITION_FEATURES + (IMAGE_FEATURES if injection == "condition" else 0)


class Denoiser(nn.Module):
    """Estimates x_0 from X'_t = γ m + (1 − γ) X_t (Eq. 9), or from X_t alone, the noise level and the condition.

    Parameters
    ----------
    unet
        Images, times and conditions to images; its ``conditioning`` and ``features`` fit the settings below.
    schedule
        Noise levels.
    gamma
        Share γ of the prior m in the input; 0 without prior.
    parameterisation
        What the U-Net's output means: the clean image (Algorithm 1), the noise (Eq. 5), v = √ᾱ ε − √(1−ᾱ) x_0, or the
        scaled remainder of the best linear denoiser of X'_t (Karras et al. 2022, Sec. 5, for Eq. 9's input).
    conditioning
        How c enters (Table 3): added to every block, attended to as one token, or not at all: then there is no encoder.
    injection
        How m enters (Table 5): mixed into the input (Eq. 9), or encoded into c, where γ has no effect.
    mean, spread
        Mean and standard deviation of the training images; set by `calibrate`.
    """

    def __init__(
        self,
        unet: UNet,
        schedule: Schedule,
        gamma: float,
        parameterisation: Parameterisation | Literal["preconditioned"],
        conditioning: Conditioning = "addition",
        injection: Injection = "interpolation",
    ) -> None:
        super().__init__()
        self.unet = unet
        self.encoder = None if conditioning == "none" else ConditionEncoder()
        if self.encoder is not None and injection == "condition":
            self.encoder.empty = nn.Parameter(torch.zeros(condition_features(injection)))
        self.schedule = schedule
        self.gamma = gamma if injection == "interpolation" else 0.0
        self.parameterisation = parameterisation
        self.conditioning = conditioning
        self.injection = injection
        self.mean: Tensor
        self.spread: Tensor
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("spread", torch.ones(()))

    def calibrate(self, images: Tensor) -> None:
        """Take mean and standard deviation from training images, any shape."""
        self.mean.copy_(images.mean())
        self.spread.copy_(images.std())

    def condition(self, images: Tensor, guide: Tensor, z: Tensor) -> Tensor:
        """c (B, 160) of measured images (B, 1, y, x) at normalised depths (B,) in [−1, 1] (Eq. 8).

        Where the prior is a condition, the same image encoder's features of it follow: (B, 288). Without conditions,
        (B, 0).
        """
        if self.encoder is None:
            return images.new_zeros(len(images), 0)
        encoded: Tensor = self.encoder(images, z)
        if self.injection == "interpolation":
            return encoded
        return torch.cat([encoded, self.encoder.image(guide).mean((2, 3))], 1)

    def loss(self, clean: Tensor, guide: Tensor, z: Tensor, p_uncond: float, generator: torch.Generator) -> Tensor:
        """The training loss (Algorithm 1), with the condition dropped at rate ``p_uncond``.

        Parameters
        ----------
        clean, guide
            Projections and prior, (B, 1, y, x); the projection is its own condition.
        z
            Normalised depths, (B,).
        generator
            Of noise levels, noise and dropout.
        """
        batch = len(clean)
        t = torch.randint(self.schedule.timesteps, (batch,), generator=generator).to(clean.device)
        noise = torch.randn(clean.shape, generator=generator).to(clean.device)
        dropped = (torch.rand(batch, 1, generator=generator) < p_uncond).to(clean.device)
        condition = self.condition(clean, guide, z)
        if self.encoder is not None:
            condition = torch.where(dropped, self.encoder.empty, condition)
        noisy = self.schedule.noised(clean, noise, t)
        output, (skip, scale) = self._output(noisy, guide, t, condition)
        signal, sigma = self.schedule.levels(t, clean)
        target = {
            "x0": clean,
            "epsilon": noise,
            "v": signal * noise - sigma * clean,
            "preconditioned": (clean - self.mean - skip) / scale,
        }[self.parameterisation]
        return functional.mse_loss(output.float(), target)

    def estimate(self, noisy: Tensor, guide: Tensor, t: Tensor, condition: Tensor, guidance: float = 0.0) -> Tensor:
        """x_0 (B, 1, y, x) with classifier-free guidance (Eq. 7); without conditions there is nothing to guide."""
        if guidance == 0 or self.encoder is None:
            return self._clean(noisy, guide, t, condition)
        empty = self.encoder.empty.expand_as(condition)
        with_c, without_c = self._clean(
            torch.cat([noisy, noisy]), torch.cat([guide, guide]), torch.cat([t, t]), torch.cat([condition, empty])
        ).chunk(2)
        return guided(with_c, without_c, guidance)

    def _clean(self, noisy: Tensor, guide: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        output, (skip, scale) = self._output(noisy, guide, t, condition)
        if self.parameterisation == "preconditioned":
            return self.mean + skip + scale * output.float()
        return clean_of(self.parameterisation, output.float(), noisy, self.schedule.levels(t, noisy))

    def _output(
        self, noisy: Tensor, guide: Tensor, t: Tensor, condition: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The U-Net's output, and skip and scale of the preconditioned estimate mean + skip + scale·output.

        With m close to x_0, X'_t − (share)·mean is (share)·(x_0 − mean) + (noise)·ε.
        """
        signal, sigma = self.schedule.levels(t, noisy)
        share = self.gamma + (1 - self.gamma) * signal
        noise = ((1 - self.gamma) * sigma).clamp(min=1e-3)  # no prior is x_0 to the last digit: γ = 1 would divide by 0
        mixed = self.gamma * guide + (1 - self.gamma) * noisy
        if self.parameterisation != "preconditioned":
            return self._network(mixed, t, condition), (share, noise)
        centred = mixed - share * self.mean
        size = ((share * self.spread) ** 2 + noise**2).sqrt()
        output = self._network(centred / size, t, condition)
        return output, (share * self.spread**2 / size**2 * centred, noise * self.spread / size)

    def _network(self, images: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """The U-Net's output; attended to, a condition is one token."""
        token = condition[:, None] if self.conditioning == "cross_attention" else condition
        output: Tensor = self.unet(images, t, token)
        return output
