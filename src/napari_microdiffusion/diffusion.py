"""Diffusion: noise schedule, what the network predicts, classifier-free guidance, and one sampler.

Code order follows the algorithm's. Images are tensors (B, ...), noise levels t integers 0 .. T − 1.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Parameterisation = Literal["x0", "epsilon", "v"]
Spacing = Literal["uniform", "quadratic", "angular"]


class Schedule:
    """Linear variances (DDPM, Ho et al. 2020): q(x_t | x_0) = N(√ᾱ_t x_0, 1 − ᾱ_t), MicroDiffusion's Eq. 4.

    Parameters
    ----------
    timesteps
        Number of noise levels, T.
    beta_start, beta_end
        Variances of the first and the last level.
    """

    def __init__(self, timesteps: int, beta_start: float, beta_end: float, device: str = "cpu") -> None:
        betas = torch.linspace(beta_start, beta_end, timesteps, dtype=torch.float64)
        self.alpha_bar = torch.cumprod(1 - betas, 0).clamp(min=1e-20).float().to(device)  # 0 would divide by 0
        self.timesteps = timesteps

    def levels(self, t: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """√ᾱ_t and √(1 − ᾱ_t), shaped to multiply ``image``; t = −1 is clean."""
        alpha_bar = torch.where(
            t < 0, torch.ones_like(t, dtype=image.dtype), self.alpha_bar[t.clamp(min=0)].to(image.dtype)
        )
        alpha_bar = alpha_bar.view(-1, *[1] * (image.ndim - 1))
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()

    def noised(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """A sample of q(x_t | x_0)."""
        signal, sigma = self.levels(t, clean)
        return signal * clean + sigma * noise

    def spaced(self, steps: int, spacing: Spacing = "uniform") -> list[int]:
        """At most ``steps`` falling noise levels.

        ``uniform`` ones are even, from T − 1. ``quadratic`` ones are those of the DDIM paper (Song et al. 2021,
        Appendix D.2), dense near clean images, from T − 1 to 0. ``angular`` ones are even in arccos √ᾱ, from T − 1: a
        step of DDIM over an angle δ keeps cos² δ of a normal variable's variance.
        """
        steps = min(steps, self.timesteps)
        if spacing == "angular":
            angles = self.alpha_bar.sqrt().clamp(max=1).arccos().cpu().numpy()
            wanted = angles[-1] * (1 - np.arange(steps) / steps)
            return sorted({int(np.abs(angles - angle).argmin()) for angle in wanted}, reverse=True)
        if spacing == "uniform":
            return [round(self.timesteps - i * self.timesteps / steps) - 1 for i in range(steps)]
        square = (self.timesteps - 1) * (1 - np.arange(steps) / max(1, steps - 1)) ** 2
        return sorted({int(t) for t in square.round()}, reverse=True)


def clean_of(
    parameterisation: Parameterisation, output: Tensor, noisy: Tensor, levels: tuple[Tensor, Tensor]
) -> Tensor:
    """The estimate of x_0 that a network's output means: x_0 itself, the noise, or v = √ᾱ ε − √(1−ᾱ) x_0.

    Parameters
    ----------
    output, noisy
        What the network gives, and x_t; (B, ...) both, as is the estimate.
    levels
        (√ᾱ_t, √(1 − ᾱ_t)) of the noisy images, from `Schedule.levels`.
    """
    signal, sigma = levels
    if parameterisation == "v":
        return signal * noisy - sigma * output
    return (noisy - sigma * output) / signal if parameterisation == "epsilon" else output


def guided(conditional: Tensor, unconditional: Tensor, guidance: float) -> Tensor:
    """Classifier-free guidance (Ho and Salimans 2022): (1 + w)·conditional − w·unconditional, all (B, ...).

    An estimate of x_0 is affine in that of the noise, so guiding one guides the other.
    """
    return (1 + guidance) * conditional - guidance * unconditional


def step(
    x: Tensor, clean: Tensor, now: tuple[Tensor, Tensor], then: tuple[Tensor, Tensor], noise: Tensor | None
) -> Tensor:
    """From x_t to x_s, s < t, given an estimate of x_0.

    Parameters
    ----------
    x, clean
        x_t and the estimate of x_0.
    now, then
        (√ᾱ, √(1 − ᾱ)) at t and at s, from `Schedule.levels`.
    noise
        Standard normal: a sample of the posterior q(x_s | x_t, x_0) (DDPM, Eq. 6 and 7). None: deterministic
        DDIM (Song et al. 2021, Eq. 12 with σ = 0).
    """
    (signal_t, sigma_t), (signal_s, sigma_s) = now, then
    if noise is None:
        return signal_s * clean + sigma_s * (x - signal_t * clean) / sigma_t
    alpha = (signal_t / signal_s) ** 2  # ᾱ_t / ᾱ_s
    mean = signal_s * (1 - alpha) / sigma_t**2 * clean + alpha.sqrt() * sigma_s**2 / sigma_t**2 * x
    return mean + sigma_s / sigma_t * (1 - alpha).sqrt() * noise


def sample(
    estimate: Callable[[Tensor, int], Tensor],
    x: Tensor,
    schedule: Schedule,
    levels: list[int],
    noise: Callable[[int], Tensor] | None = None,
) -> Generator[Tensor, None, Tensor]:
    """Denoise x_T step by step; yields the estimate of x_0 after each step and returns the last.

    Parameters
    ----------
    estimate
        (x_t, t) to an estimate of x_0; guidance and consistency belong in here.
    x
        Standard normal noise (B, ...).
    levels
        Falling noise levels, from `Schedule.spaced`; one network evaluation each.
    noise
        Fresh noise of step i, for DDPM; None for DDIM.
    """
    for i, (t, s) in enumerate(zip(levels, [*levels[1:], -1], strict=True)):
        clean = estimate(x, t)
        now, then = (schedule.levels(torch.tensor([level], device=x.device), x) for level in (t, s))
        x = step(x, clean, now, then, noise(i) if noise is not None and s >= 0 else None)
        yield clean
    return x


def slice_noise(seed: int, z: range, step: int, shape: tuple[int, int]) -> Tensor:
    """Standard normal noise (m, y, x) in which every slice's numbers come from (seed, z, step) alone.

    So neither the batch size, nor the device, nor a resumed run changes the result.
    """
    return torch.from_numpy(
        np.stack([np.random.default_rng([seed, k, step]).standard_normal(shape, np.float32) for k in z])
    )
