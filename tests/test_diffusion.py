"""Schedule and sampler against diffusers from shared noise, and against the closed form of a Gaussian."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from napari_microdiffusion.diffusion import Schedule, clean_of, guided, sample, slice_noise, step
from napari_microdiffusion.events import exhaust

T = 100
BETAS = (1e-4, 0.02)
SHAPE = (3, 1, 5, 6)


def normal(seed: int, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def theirs(name: str, steps: int = T, timesteps: int = T):
    diffusers = pytest.importorskip("diffusers")
    settings = {"set_alpha_to_one": True} if name == "DDIMScheduler" else {"variance_type": "fixed_small"}
    scheduler = getattr(diffusers, name)(
        num_train_timesteps=timesteps,
        beta_schedule="linear",
        beta_start=BETAS[0],
        beta_end=BETAS[1],
        prediction_type="sample",
        clip_sample=False,
        timestep_spacing="trailing",
        **settings,
    )
    scheduler.set_timesteps(steps)
    return scheduler


def pair(name: str, steps: int):
    """Their scheduler and ours, on one table of ᾱ (compared on its own), so that all digits of the steps count."""
    scheduler, schedule = theirs(name, steps), Schedule(T, *BETAS)
    scheduler.alphas_cumprod = schedule.alpha_bar.double()
    return scheduler, schedule


def ours(schedule: Schedule, x: Tensor, clean: Tensor, t: int, s: int, noise: Tensor | None) -> Tensor:
    now, then = (schedule.levels(torch.tensor([level]), x) for level in (t, s))
    return step(x, clean, now, then, noise if s >= 0 else None)


# -- the schedule ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["DDPMScheduler", "DDIMScheduler"])
@pytest.mark.parametrize("timesteps", [10, 1000])
def test_alpha_bar_is_that_of_diffusers(name, timesteps):
    expected = theirs(name, timesteps=timesteps, steps=timesteps).alphas_cumprod
    torch.testing.assert_close(Schedule(timesteps, *BETAS).alpha_bar, expected, rtol=2e-5, atol=0)


def test_noised_images_are_those_of_diffusers():
    t = torch.tensor([0, 40, T - 1])
    expected = pair("DDPMScheduler", T)[0].add_noise(normal(0), normal(1), t)
    torch.testing.assert_close(Schedule(T, *BETAS).noised(normal(0), normal(1), t), expected)


def test_levels_keep_the_variance_and_end_clean():
    schedule = Schedule(T, *BETAS)
    signal, noise = schedule.levels(torch.arange(-1, T), torch.zeros(T + 1, 2, 2))
    assert signal.shape == noise.shape == (T + 1, 1, 1)
    torch.testing.assert_close(signal**2 + noise**2, torch.ones(T + 1, 1, 1))
    assert (signal[0], noise[0]) == (1, 0)
    assert (signal.diff(dim=0) < 0).all()


@pytest.mark.parametrize("steps", [1, 2, 7, 15, 50, 99, T])
def test_uniform_levels_are_the_trailing_ones_of_diffusers(steps):
    levels = Schedule(T, *BETAS).spaced(steps, "uniform")
    assert levels == theirs("DDPMScheduler", steps).timesteps.tolist()
    assert levels[0] == T - 1


@pytest.mark.parametrize("timesteps", [2, 37, 1000])
def test_all_steps_are_all_levels(timesteps):
    schedule = Schedule(timesteps, *BETAS)
    assert schedule.spaced(timesteps, "uniform") == list(range(timesteps))[::-1]
    assert schedule.spaced(10 * timesteps, "uniform") == list(range(timesteps))[::-1]


@pytest.mark.parametrize("timesteps", [2, 37, 1000])
@pytest.mark.parametrize("steps", [2, 3, 15, 50, 2000])
def test_quadratic_levels_fall_to_the_clean_image(timesteps, steps):
    levels = Schedule(timesteps, *BETAS).spaced(steps, "quadratic")
    assert (levels[0], levels[-1]) == (timesteps - 1, 0)
    assert (np.diff(levels) < 0).all()
    assert len(levels) <= steps
    half = np.searchsorted(levels[::-1], timesteps / 2)
    assert half >= len(levels) / 2  # dense near the clean image


def test_one_quadratic_step_is_from_pure_noise():
    assert Schedule(T, *BETAS).spaced(1, "quadratic") == [T - 1]


# -- one step -------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [T, 20, 7])
def test_a_step_with_noise_is_the_posterior_of_diffusers(steps):
    scheduler, schedule = pair("DDPMScheduler", steps)
    levels = schedule.spaced(steps, "uniform")
    x, clean = normal(0), normal(1)
    for i, (t, s) in enumerate(zip(levels, [*levels[1:], -1], strict=True)):
        generator = torch.Generator().manual_seed(i)
        expected = scheduler.step(clean, t, x, generator=generator).prev_sample
        torch.testing.assert_close(ours(schedule, x, clean, t, s, normal(i)), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("steps", [T, 20, 5])
def test_a_step_without_noise_is_the_ddim_of_diffusers(steps):
    scheduler, schedule = pair("DDIMScheduler", steps)
    levels = schedule.spaced(steps, "uniform")
    x, clean = normal(0), normal(1)
    for t, s in zip(levels, [*levels[1:], -1], strict=True):
        expected = scheduler.step(clean, t, x, eta=0.0).prev_sample
        torch.testing.assert_close(ours(schedule, x, clean, t, s, None), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("noisy", [False, True])
def test_the_last_step_gives_the_estimate_itself(noisy):
    schedule, clean = Schedule(T, *BETAS), normal(1)
    result = exhaust(sample(lambda *_: clean, normal(0), schedule, [3], normal if noisy else None))
    torch.testing.assert_close(result, clean)


# -- all steps ------------------------------------------------------------------------------


def denoiser(x: Tensor, t: int) -> Tensor:
    """Any smooth function of image and level serves as a fixed network."""
    return torch.tanh(0.7 * x + 0.01 * t) - 0.2 * x.flip(-1)


@pytest.mark.parametrize(("name", "steps"), [("DDPMScheduler", T), ("DDPMScheduler", 7), ("DDIMScheduler", 20)])
def test_sampling_is_that_of_diffusers(name, steps):
    scheduler, schedule = pair(name, steps)
    noise: Callable[[int], Tensor] | None = normal if name == "DDPMScheduler" else None
    expected = normal(-1)
    for i, t in enumerate(scheduler.timesteps.tolist()):
        generator = {"generator": torch.Generator().manual_seed(i)} if noise else {"eta": 0.0}
        expected = scheduler.step(denoiser(expected, t), t, expected, **generator).prev_sample
    estimates = sample(denoiser, normal(-1), schedule, schedule.spaced(steps, "uniform"), noise)
    torch.testing.assert_close(exhaust(estimates), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("spacing", ["uniform", "quadratic"])
def test_one_estimate_a_step_and_the_last_is_the_result(spacing):
    schedule = Schedule(T, *BETAS)
    levels = schedule.spaced(6, spacing)
    asked: list[int] = []

    def estimate(x: Tensor, t: int) -> Tensor:
        asked.append(t)
        return denoiser(x, t)

    estimates = list(sample(estimate, normal(0), schedule, levels))
    assert asked == levels
    assert len(estimates) == len(levels)
    result = exhaust(sample(denoiser, normal(0), schedule, levels))
    torch.testing.assert_close(estimates[-1], result)


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize(("timesteps", "beta_end"), [(1000, 0.5), (100, 0.99), (10_000, 0.02)])
def test_schedules_that_drown_the_image_still_end_in_numbers(timesteps, beta_end, noisy):
    schedule = Schedule(timesteps, 1e-4, beta_end)  # ᾱ falls below the smallest float32
    levels, noise = schedule.spaced(30, "uniform"), (lambda i: normal(i).float()) if noisy else None
    result = exhaust(sample(denoiser, normal(0).float(), schedule, levels, noise))
    assert result.isfinite().all()


# -- a Gaussian, whose denoiser is known ----------------------------------------------------

MEAN, SPREAD, COUNT = 0.8, 0.3, 40_000


def posterior(schedule: Schedule, x: Tensor, t: int) -> tuple[Tensor, Tensor]:
    """Mean and variance of x_0 given x_t, where x_0 is normal with MEAN and SPREAD."""
    signal, noise = schedule.levels(torch.tensor([t]), x)
    gain = signal * SPREAD**2 / ((signal * SPREAD) ** 2 + noise**2)
    return MEAN + gain * (x - signal * MEAN), SPREAD**2 * (1 - gain * signal)


def assert_gaussian(samples: Tensor, bias: float) -> None:
    """Mean and variance are those of x_0, within five standard errors and the sampler's own ``bias``."""
    samples = samples.double()
    assert float(samples.mean()) == pytest.approx(MEAN, abs=5 * SPREAD / COUNT**0.5 + bias * SPREAD)
    assert float(samples.var()) == pytest.approx(SPREAD**2, rel=5 * (2 / COUNT) ** 0.5 + bias)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_all_steps_with_the_exact_denoiser_give_the_gaussian(sampler):
    schedule = Schedule(1000, *BETAS)
    noise = (lambda i: normal(i, (COUNT,))) if sampler == "ddpm" else None
    samples = exhaust(
        sample(lambda x, t: posterior(schedule, x, t)[0], normal(-1, (COUNT,)), schedule, schedule.spaced(1000), noise)
    )
    assert_gaussian(samples, bias=0.01)  # of 1000 finite steps


@pytest.mark.parametrize("levels", [[999, 400, 120, 10], [999, 998, 500, 499, 0]])
def test_few_steps_from_draws_of_the_posterior_give_the_gaussian_exactly(levels):
    """x_s from q(x_s | x_t, x_0) with x_0 from q(x_0 | x_t) has the marginal q(x_s), however far apart t and s are."""
    schedule = Schedule(1000, *BETAS)
    draws = iter(range(1000, 2000))

    def drawn(x: Tensor, t: int) -> Tensor:
        mean, variance = posterior(schedule, x, t)
        return mean + variance.sqrt() * normal(next(draws), (COUNT,))

    t = torch.tensor([levels[0]])
    clean = MEAN + SPREAD * normal(-2, (COUNT,))
    x = schedule.noised(clean, normal(-1, (COUNT,)), t)
    assert_gaussian(exhaust(sample(drawn, x, schedule, levels, lambda i: normal(i, (COUNT,)))), bias=0)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_with_a_measurement_the_samples_are_those_of_the_closed_form_posterior(sampler):
    """x_0 normal, y = x_0 + error: mean and variance of x_0 given y, for each y its own mean."""
    schedule, error = Schedule(1000, *BETAS), 0.2
    y = MEAN + torch.linspace(-0.6, 0.6, 7, dtype=torch.float64)[:, None].expand(-1, COUNT // 4)
    variance = 1 / (1 / SPREAD**2 + 1 / error**2)
    mean = variance * (MEAN / SPREAD**2 + y / error**2)

    def estimate(x: Tensor, t: int) -> Tensor:
        """E[x_0 | x_t, y], from the three Gaussians that know of x_0."""
        signal, noise = schedule.levels(torch.tensor([t]), x)
        weight = (signal / noise) ** 2
        return (MEAN / SPREAD**2 + y / error**2 + weight * x / signal) / (1 / variance + weight)

    noise = (lambda i: normal(i, tuple(y.shape))) if sampler == "ddpm" else None
    samples = exhaust(sample(estimate, normal(-1, tuple(y.shape)), schedule, schedule.spaced(1000), noise))
    spread, count = variance**0.5, y.shape[1]
    torch.testing.assert_close(
        samples.mean(1), mean[:, 0], rtol=0, atol=5 * spread / count**0.5 + 0.01 * spread, check_dtype=False
    )
    torch.testing.assert_close(
        samples.var(1), torch.full((7,), variance, dtype=torch.float64), rtol=5 * (2 / count) ** 0.5 + 0.01, atol=0
    )


# -- noise of slices ------------------------------------------------------------------------


def test_a_slices_noise_is_its_own():
    whole = slice_noise(7, range(9), 2, (5, 6))
    assert whole.shape == (9, 5, 6)
    assert whole.dtype == torch.float32
    parts = torch.cat([slice_noise(7, range(4), 2, (5, 6)), slice_noise(7, range(4, 9), 2, (5, 6))])
    assert torch.equal(parts, whole)
    assert len({tuple(image.ravel().tolist()) for image in whole}) == 9


def test_noise_depends_on_seed_slice_and_step():
    draws = [slice_noise(seed, range(z, z + 1), step, (4, 4)) for seed in (0, 1) for z in (0, 1) for step in (0, 1)]
    assert len({tuple(draw.ravel().tolist()) for draw in draws}) == 8


def test_noise_is_standard_normal():
    noise = slice_noise(2**62, range(10), 0, (64, 64)).double()
    count = noise.numel()
    assert abs(float(noise.mean())) < 5 / count**0.5
    assert float(noise.var()) == pytest.approx(1, abs=5 * (2 / count) ** 0.5)
    across = float((noise[1:] * noise[:-1]).mean())  # from slice to slice
    assert abs(across) < 5 / count**0.5


def test_angular_levels_keep_the_variance_that_even_angles_keep():
    """Of a standard normal variable, whose x_0 is √ᾱ x_t: cos² of the angle at each step."""
    schedule = Schedule(1000, 1e-4, 0.02)
    levels = schedule.spaced(10, "angular")
    assert levels[0] == 999
    assert levels == sorted(set(levels), reverse=True)
    x = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    angle = math.acos(float(schedule.alpha_bar[-1].sqrt())) / 10
    *_, last = sample(lambda x, t: schedule.alpha_bar[t].sqrt() * x, x, schedule, levels)
    assert float(last.var()) == pytest.approx(math.cos(angle) ** 20, rel=0.02)


@pytest.mark.parametrize("parameterisation", ["x0", "epsilon", "v"])
def test_what_a_perfect_network_predicts_means_the_clean_image(parameterisation):
    clean, noise, t = normal(1), normal(2), torch.tensor([0, T // 2, T - 1])
    schedule = Schedule(T, *BETAS)
    signal, sigma = levels = schedule.levels(t, clean)
    output = {"x0": clean, "epsilon": noise, "v": signal * noise - sigma * clean}[parameterisation]
    torch.testing.assert_close(clean_of(parameterisation, output, schedule.noised(clean, noise, t), levels), clean)


def test_guidance_goes_on_beyond_the_condition():
    with_c, without_c = normal(1), normal(2)
    torch.testing.assert_close(guided(with_c, without_c, 0.0), with_c)
    torch.testing.assert_close(guided(with_c, without_c, 1.5) - with_c, 1.5 * (with_c - without_c))
    torch.testing.assert_close(guided(with_c, with_c, 1.5), with_c)
