"""Whether each method is right where the answer is known: phantoms made so that projections and the method's own bias
leave one volume, and the method has to find it. What real data make of a method is the benchmark's business.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.events import exhaust
from napari_microdiffusion.methods import Conservative, Guided, Method, Weights
from napari_microdiffusion.metrics import evaluate
from napari_microdiffusion.presets import METHODS, spec
from napari_microdiffusion.pretraining import Pretraining, pretrain
from napari_microdiffusion.run import Job, run
from napari_microdiffusion.volume import Volume

N = 6

PRETRAINED = [name for name, (cls, _) in METHODS.items() if cls.pretrained]


def waves(shape: tuple[int, int, int], *terms: tuple[float, float, float, float]) -> NDArray[np.float32]:
    """Oblique waves about 1/2, each an amplitude and its cycles per voxel along z, y and x."""
    z, y, x = np.meshgrid(*(np.arange(size) + 0.5 for size in shape), indexing="ij")
    found = sum(height * np.sin(2 * np.pi * (fz * z + fy * y + fx * x)) for height, fz, fy, fx in terms)
    return np.asarray(0.5 + found, np.float32)


def scores(method: Method, truth: NDArray[np.float32], profile: str = "uniform", weights: Weights | None = None) -> Any:
    """Scores of a method on the projections of a known volume."""
    acquisition = Acquisition.model_validate({"slices": N, "profile": profile})
    stack, covered = Volume(truth, (1.0, 1.0, 1.0)).simulate(acquisition)
    job = Job(method=method, acquisition=stack.acquisition, device="cpu", precision="float32")
    return evaluate(exhaust(run(job, stack, weights=weights)).volume, covered, stack)


# -- interpolations -----------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["uniform", "point"])
@pytest.mark.parametrize("name", ["linear", "cubic", "conservative"])
def test_what_does_not_change_along_z_comes_back_as_it_was(name: str, profile: str) -> None:
    truth = waves((36, 32, 32), (0.4, 0.0, 1 / 16, 1 / 20))
    assert scores(spec(name), truth, profile)["psnr"] > 110


@pytest.mark.parametrize(("name", "profile"), [("linear", "point"), ("cubic", "point"), ("conservative", "point")])
def test_a_ramp_between_known_slices_comes_back_as_it_was(name: str, profile: str) -> None:
    truth = np.linspace(0, 1, 37, dtype=np.float32)[:36, None, None] + waves((36, 32, 32), (0.2, 0.0, 1 / 16, 0.0))
    assert scores(spec(name), truth, profile)["psnr"] > 110


def smoothest(shape: tuple[int, int, int] = (36, 32, 32)) -> NDArray[np.float32]:
    """The smoothest of all volumes with the projections of some waves: what `conservative` must find."""
    some = waves(shape, (0.25, 1 / 20, 0.0, 1 / 32), (0.2, 1 / 30, 1 / 40, 0.0))
    blocks = some.reshape(-1, N, *shape[1:]).mean(1).reshape(shape[0] // N, -1).astype(np.float64)
    between = np.diff(np.eye(shape[0]), axis=0)  # first differences
    means = np.kron(np.eye(shape[0] // N), np.full((1, N), 1 / N))
    system = np.block([[between.T @ between, means.T], [means, np.zeros((len(means),) * 2)]])  # Lagrange's conditions
    solved = np.linalg.solve(system, np.concatenate([np.zeros((shape[0], blocks.shape[1])), blocks]))
    return solved[: shape[0]].reshape(shape).astype(np.float32)


def test_conservative_finds_the_smoothest_volume_and_linear_does_not() -> None:
    truth = smoothest()
    assert scores(spec("conservative"), truth)["psnr"] > 110
    assert scores(spec("linear"), truth)["psnr"] < 30


# -- trained on the projections -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["inr", "hash_inr"])
def test_a_neural_representation_finds_a_volume_without_detail_beyond_its_reach(name: str) -> None:
    truth = waves((36, 32, 32), (0.25, 1 / 20, 0.0, 1 / 32), (0.2, 1 / 30, -1 / 40, 0.0))
    settings = {"steps": 300, "width": 64, "layers": 2, "rays": 1024, "learning_rate": 1e-2, "consistency": "none"}
    encoding = {"features": 64, "bandwidth_z": 1.5, "bandwidth_xy": 1.5} if name == "inr" else {}
    found = scores(spec(name, overrides={**settings, **encoding}), truth)
    assert found["reprojection_max_error"] < 0.06  # nothing but training made it reproject
    assert found["psnr"] > 29
    assert scores(spec("linear"), truth)["psnr"] < 24


@pytest.mark.parametrize("parameterisation", ["preconditioned"])
def test_diffusion_guided_by_nothing_but_the_truth_gives_the_truth(parameterisation: str) -> None:
    """Here the prior is perfect, and at γ = 1 all that the network sees: whatever is lost, diffusion has lost."""
    settings = {"steps": 30, "channels": 8, "crop": 32, "sampling_steps": 4, "consistency": "none", "gamma": 1.0}
    method = Guided(prior=Conservative(), parameterisation=parameterisation, **settings)  # type: ignore[arg-type]
    assert scores(method, smoothest())["psnr"] > 80


@pytest.mark.slow
def test_diffusion_learns_to_trust_a_prior_that_is_right() -> None:
    """At the preset's parameterisation it has to learn so, from six images; without a prior it cannot know."""
    settings = {"steps": 150, "channels": 8, "crop": 32, "sampling_steps": 4, "consistency": "none", "gamma": 1.0}
    guided, naive = (
        scores(Guided(prior=prior, **settings), smoothest())["psnr"]  # type: ignore[arg-type]
        for prior in (Conservative(), None)
    )
    assert guided > 25
    assert guided > naive + 5


@pytest.mark.slow
def test_axial_finds_along_z_what_it_sees_along_x() -> None:
    """Isotropic, of one scale: the lateral images tell all there is to know."""
    shape, rng = (96, 64, 64), np.random.default_rng(0)
    radius = np.sqrt(sum(f**2 for f in np.meshgrid(*(np.fft.fftfreq(size) for size in shape), indexing="ij")))
    field = np.fft.ifftn(np.fft.fftn(rng.standard_normal(shape)) * np.exp(-(((radius * 16 - 1) / 0.1) ** 2))).real
    truth = (0.5 + 0.15 * field / field.std()).astype(np.float32)
    small = {"steps": 200, "channels": 16, "blocks": 2, "batch": 4, "sigma": 0.0, "ratio": 1.0, "hiding": 0.0}
    axial, conservative = (scores(spec(n, overrides=s), truth) for n, s in (("axial", small), ("conservative", {})))
    assert axial["psnr"] > conservative["psnr"] + 2
    assert axial["coverage_90"] > 0.8


# -- trained on volumes ---------------------------------------------------------------------------

OVERFIT: dict[str, dict[str, Any]] = {
    "recurrent_mz": {"hiding": 0.0, "blur": 0.0, "noise": 0.0, "inputs": 2},
    # so few steps do not teach a network what the noise is, nor 16 channels hold it folded: 20 of 28 are noise
    "ddpm": {
        "parameterisation": "preconditioned",
        "fold": 1,
        "sampling_steps": 5,
        "turning": 0.0,
        "hiding": 0.0,
        "blur": 0.0,
        "noise": 0.0,
    },
    "sparse3diff": {"turning": 0.0},
}
"""Without what makes a base model serve other samples than its own."""


@pytest.mark.slow
@pytest.mark.parametrize("name", PRETRAINED)
def test_a_base_model_gives_back_the_volume_it_was_trained_on(name: str) -> None:
    """Stripes that move half a period between known slices: a mean of two slices shows none of them."""
    truth = waves((48, 32, 32), (0.45, 1 / 18, 0.0, 1 / 16))
    method = spec(name, overrides={"steps": 600, "batch": 4, "channels": 16, "crop": 16, **OVERFIT[name]})
    acquisition = Acquisition(slices=N, profile="point")
    plan = Pretraining(method=method, acquisition=acquisition, device="cpu", precision="float32")
    base = exhaust(pretrain(plan, [Volume(truth)]))
    linear = scores(spec("linear"), truth, "point")["psnr"]
    assert linear < 25
    assert scores(method, truth, "point", base.weights)["psnr"] > linear + 4


MEMORY = 0.6
"""Correlation of neighbouring slices."""

PIXELWISE: dict[str, dict[str, Any]] = {
    "ddpm": {"steps": 500, "learning_rate": 6e-3},
    "sparse3diff": {"steps": 150, "align": False},
}
EXACT = {"timesteps": 1000, "sampler": "ddpm", "spacing": "quadratic", "sampling_steps": 100, "consistency": "none"}
PLAIN = {"channels": 8, "multipliers": [1], "fold": 1, "batch": 8, "crop": 16}
PLAIN |= dict.fromkeys(("turning", "hiding", "blur", "noise"), 0.0)


def markov(shape: tuple[int, int, int], seed: int) -> NDArray[np.float32]:
    """Standard normal, each pixel by itself, slice after slice as an autoregressive process of order 1."""
    noise = np.random.default_rng(seed).standard_normal(shape)
    for z in range(1, len(noise)):
        noise[z] = MEMORY * noise[z - 1] + np.sqrt(1 - MEMORY**2) * noise[z]
    return noise.astype(np.float32)


@pytest.mark.parametrize("name", PIXELWISE)
def test_a_trained_diffusion_model_draws_from_the_gaussian_that_is_left_between_two_known_slices(name: str) -> None:
    """Its mean is a/(1 + a²) times the sum of both, its variance (1 − a²)/(1 + a²), with a the correlation.

    With the exact denoiser so many steps of the sampler leave 0.91 of the variance; training is short.
    """
    method = spec(name, overrides={**PLAIN, **EXACT, **PIXELWISE[name]})
    acquisition = Acquisition(slices=2, profile="point")
    plan = Pretraining(method=method, acquisition=acquisition, device="cpu", precision="float32")
    base = exhaust(pretrain(plan, [Volume(markov((64, 64, 64), seed=1))]))
    stack, _ = Volume(markov((33, 40, 40), seed=0)).simulate(acquisition)
    job = Job(method=method, acquisition=stack.acquisition, device="cpu", precision="float32")
    one, other = (
        exhaust(run(job.model_copy(update={"seed": seed}), stack, weights=base.weights)).volume.data[1:-1:2].ravel()
        for seed in (0, 1)
    )
    both = np.stack([stack.data[:-1].ravel(), stack.data[1:].ravel(), np.ones(one.size)], 1)
    (above, below, offset), *_ = np.linalg.lstsq(both, one, rcond=None)
    mean, variance = MEMORY / (1 + MEMORY**2), (1 - MEMORY**2) / (1 + MEMORY**2)
    assert (above, below) == pytest.approx((mean, mean), abs=0.08)
    assert offset == pytest.approx(0, abs=0.15)
    assert np.var(one - both @ (above, below, offset)) == pytest.approx(variance, rel=0.2)
    assert np.square(one - other).mean() / 2 == pytest.approx(variance, rel=0.2)  # another seed, another draw
