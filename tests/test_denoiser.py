"""What the network sees and predicts: estimates invert targets, guidance, condition dropout, γ."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from napari_microdiffusion.denoiser import Denoiser, Injection, condition_features
from napari_microdiffusion.diffusion import Parameterisation, Schedule, sample
from napari_microdiffusion.events import exhaust
from napari_microdiffusion.unet import Conditioning, UNet

PARAMETERISATIONS = get_args(Parameterisation)
T, MEAN, SPREAD = 50, -0.4, 0.3
SCHEDULE = Schedule(T, 1e-3, 0.1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(seed: int, count: int = 6, side: int = 16) -> Tensor:
    """Of the MEAN and SPREAD that the denoisers here are calibrated to."""
    return MEAN + SPREAD * torch.randn(count, 1, side, side, generator=generator(seed))


def denoiser(
    unet: nn.Module | None = None,
    gamma: float = 0.3,
    parameterisation: Parameterisation = "x0",
    conditioning: Conditioning = "addition",
    injection: Injection = "interpolation",
) -> Denoiser:
    torch.manual_seed(0)
    net = UNet(8, (1, 2), False, conditioning=conditioning, features=condition_features(injection))
    model = Denoiser(unet or net, SCHEDULE, gamma, parameterisation, conditioning, injection)
    if model.encoder is not None:
        nn.init.normal_(model.encoder.empty)
    model.calibrate(torch.tensor([MEAN - SPREAD, MEAN, MEAN + SPREAD]))
    return model


class Watch(nn.Module):
    """In place of a U-Net: keeps what it is given and puts out one number."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.value = value
        self.seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, x: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        self.seen.append((x, time, condition))
        return torch.full_like(x, self.value)


class Oracle(nn.Module):
    """In place of a U-Net: knows x_0 and the prior, reads the noise off its input, and puts out the true target."""

    def __init__(self, clean: Tensor, guide: Tensor, gamma: float, parameterisation: Parameterisation) -> None:
        super().__init__()
        self.clean, self.guide, self.gamma, self.parameterisation = clean, guide, gamma, parameterisation

    def forward(self, x: Tensor, time: Tensor, _: Tensor) -> Tensor:
        alpha_bar = SCHEDULE.alpha_bar[time].view(-1, 1, 1, 1)
        share, noise = self.gamma + (1 - self.gamma) * alpha_bar.sqrt(), (1 - self.gamma) * (1 - alpha_bar).sqrt()
        size = ((share * SPREAD) ** 2 + noise**2).sqrt()  # of X'_t about its mean, where the prior is x_0
        mixed = x * size + share * MEAN if self.parameterisation == "preconditioned" else x
        noisy = (mixed - self.gamma * self.guide) / (1 - self.gamma)
        epsilon = (noisy - alpha_bar.sqrt() * self.clean) / (1 - alpha_bar).sqrt()
        linear = MEAN + share * SPREAD**2 / size**2 * (mixed - share * MEAN)
        target: Tensor = {
            "x0": self.clean,
            "epsilon": epsilon,
            "v": alpha_bar.sqrt() * epsilon - (1 - alpha_bar).sqrt() * self.clean,
            "preconditioned": (self.clean - linear) / (noise * SPREAD / size),
        }[self.parameterisation]
        return target


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("parameterisation", PARAMETERISATIONS)
class TestTargets:
    def test_the_estimate_inverts_the_target(self, parameterisation, gamma):
        clean, guide, t = images(0), images(1), torch.tensor([0, 1, 10, 20, 40, T - 1])
        model = denoiser(Oracle(clean, guide, gamma, parameterisation), gamma, parameterisation)
        noisy = SCHEDULE.noised(clean, torch.randn(clean.shape, generator=generator(2)), t)
        estimate = model.estimate(noisy, guide, t, torch.zeros(6, 160))
        torch.testing.assert_close(estimate, clean, rtol=0, atol=1e-3)

    def test_the_loss_of_the_target_itself_is_nil(self, parameterisation, gamma):
        clean, guide = images(0), images(1)
        model = denoiser(Oracle(clean, guide, gamma, parameterisation), gamma, parameterisation)
        assert model.loss(clean, guide, torch.zeros(6), 0.5, generator()).item() < 1e-5
        model.unet.clean = clean + 0.1
        assert model.loss(clean, guide, torch.zeros(6), 0.5, generator()).item() > 1e-3

    def test_a_perfect_prior_does_not_make_the_loss_run_away(self, parameterisation, gamma):
        clean = images(0, 200, 8)
        loss = denoiser(Watch(), gamma, parameterisation).loss(clean, clean, torch.zeros(200), 0, generator()).item()
        assert loss == pytest.approx(MEAN**2 + SPREAD**2, rel=0.1) if parameterisation == "x0" else loss < 1.1


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.9])
def test_preconditioned_input_and_target_have_unit_size_at_every_level(gamma):
    clean, noise = images(0, T, 64), torch.randn(T, 1, 64, 64, generator=generator(1))
    t, unet = torch.arange(T), Watch()
    model = denoiser(unet, gamma, "preconditioned")
    noisy = SCHEDULE.noised(clean, noise, t)
    linear = model.estimate(noisy, clean, t, torch.zeros(T, 160))
    unet.value = 1.0
    scale = model.estimate(noisy, clean, t, torch.zeros(T, 160)) - linear
    torch.testing.assert_close(unet.seen[0][0].std((1, 2, 3)), torch.ones(T), rtol=0.06, atol=0)
    torch.testing.assert_close(((clean - linear) / scale).std((1, 2, 3)), torch.ones(T), rtol=0.06, atol=0)


@pytest.mark.parametrize("gamma", [0.0, 0.3])
def test_a_silent_preconditioned_network_is_the_best_linear_denoiser(gamma):
    """Least squares of x_0 on X'_t over 65 000 pixels finds no better line."""
    clean = images(0, 16, 64)
    for level in (2, 25, T - 1):
        t = torch.full((16,), level)
        noisy = SCHEDULE.noised(clean, torch.randn(clean.shape, generator=generator(1)), t)
        mixed = (gamma * clean + (1 - gamma) * noisy).double().ravel()
        design = torch.stack([mixed, torch.ones_like(mixed)], 1)
        fitted = design @ torch.linalg.lstsq(design, clean.double().reshape(-1, 1)).solution
        estimate = denoiser(Watch(), gamma, "preconditioned").estimate(noisy, clean, t, torch.zeros(16, 160))
        torch.testing.assert_close(estimate.double().ravel(), fitted.ravel(), rtol=0, atol=0.02)


# -- γ --------------------------------------------------------------------------------------


def estimated(model: Denoiser, noisy: Tensor, guide: Tensor, guidance: float = 0.0) -> Tensor:
    t, condition = torch.full((len(noisy),), 30), torch.randn(len(noisy), 160, generator=generator(5))
    with torch.no_grad():
        return model.estimate(noisy, guide, t, condition, guidance)


@pytest.mark.parametrize("parameterisation", PARAMETERISATIONS)
def test_without_gamma_the_prior_is_not_seen(parameterisation):
    model = denoiser(gamma=0.0, parameterisation=parameterisation)
    assert torch.equal(estimated(model, images(0), images(1)), estimated(model, images(0), images(2)))
    assert not torch.equal(estimated(model, images(0), images(1)), estimated(model, images(3), images(1)))


@pytest.mark.parametrize("parameterisation", ["x0", "preconditioned"])
def test_with_gamma_one_only_the_prior_is_seen(parameterisation):
    model = denoiser(gamma=1.0, parameterisation=parameterisation)
    assert torch.equal(estimated(model, images(0), images(1)), estimated(model, images(2), images(1)))
    assert not torch.equal(estimated(model, images(0), images(1)), estimated(model, images(0), images(3)))


@pytest.mark.parametrize("parameterisation", PARAMETERISATIONS)
def test_with_gamma_one_it_can_be_trained(parameterisation):
    model = denoiser(gamma=1.0, parameterisation=parameterisation)
    loss = model.loss(images(0), images(1), torch.zeros(6), 0.1, generator())
    loss.backward()
    assert loss.isfinite()
    found = [weight.grad for weight in model.parameters() if weight.grad is not None]
    assert any(grad.any() for grad in found)
    assert all(grad.isfinite().all() for grad in found)


@pytest.mark.parametrize("gamma", [0.0, 0.25, 1.0])
def test_the_network_sees_the_mixture(gamma):
    unet, noisy, guide = Watch(), images(0), images(1)
    estimated(denoiser(unet, gamma), noisy, guide)
    torch.testing.assert_close(unet.seen[0][0], gamma * guide + (1 - gamma) * noisy)


# -- how the condition enters (Table 3) -----------------------------------------------------


def test_attended_to_the_condition_is_one_token():
    for conditioning, shape in (("addition", (6, 160)), ("cross_attention", (6, 1, 160))):
        unet = Watch()
        estimated(denoiser(unet, conditioning=conditioning), images(0), images(1))
        assert unet.seen[0][2].shape == shape


@pytest.mark.parametrize("conditioning", get_args(Conditioning))
def test_whether_the_condition_is_seen(conditioning):
    model, t, z = denoiser(conditioning=conditioning), torch.full((6,), 30), torch.linspace(-1, 1, 6)
    conditions = [model.condition(images(seed), images(1), z) for seed in (2, 3)]
    with torch.no_grad():
        one, other = (model.estimate(images(0), images(1), t, condition) for condition in conditions)
    assert torch.equal(one, other) == (conditioning == "none")


@pytest.mark.parametrize("parameterisation", PARAMETERISATIONS)
def test_without_conditions_depth_dropout_and_guidance_do_nothing(parameterisation):
    model, clean = denoiser(parameterisation=parameterisation, conditioning="none"), images(0)
    losses = {
        model.loss(clean, images(1), torch.full((6,), z), p_uncond, generator()).item()
        for z in (-0.5, 0.5)
        for p_uncond in (0.0, 1.0)
    }
    assert len(losses) == 1
    assert torch.equal(estimated(model, images(0), images(1), 2.5), estimated(model, images(0), images(1)))
    unet = Watch()
    estimated(denoiser(unet, conditioning="none"), images(0), images(1), 2.5)
    assert [len(x) for x, _, _ in unet.seen] == [6]  # nor does guidance take its time
    assert not [name for name in model.state_dict() if name.startswith("encoder")]


# -- how the prior enters (Table 5) ---------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("parameterisation", PARAMETERISATIONS)
def test_a_prior_that_is_a_condition_is_not_in_the_input(parameterisation, gamma):
    unet, as_condition = Watch(), {"parameterisation": parameterisation, "injection": "condition"}
    model, z = denoiser(unet, gamma, **as_condition), torch.zeros(6)
    t, condition = torch.full((6,), 30), model.condition(images(3), images(1), z)
    model.estimate(images(0), images(1), t, condition)
    model.estimate(images(0), images(2), t, condition)
    denoiser(unet, 0.0, parameterisation).estimate(images(0), images(1), t, condition)  # naive diffusion
    inputs = [x for x, _, _ in unet.seen]
    assert torch.equal(inputs[0], inputs[1])
    assert torch.equal(inputs[0], inputs[2])
    if parameterisation != "preconditioned":
        assert torch.equal(inputs[0], images(0))  # X_t alone


@pytest.mark.parametrize("conditioning", ["addition", "cross_attention"])
def test_a_prior_that_is_a_condition_is_seen_through_it(conditioning):
    model = denoiser(conditioning=conditioning, injection="condition")
    t, z = torch.full((6,), 30), torch.linspace(-1, 1, 6)
    conditions = [model.condition(images(3), images(guide), z) for guide in (1, 2)]
    with torch.no_grad():
        one, other = (model.estimate(images(0), images(1), t, condition) for condition in conditions)
    assert (one - other).abs().amax((1, 2, 3)).min() > 1e-5


def test_the_image_encoders_features_of_the_prior_follow_the_others():
    model, z = denoiser(injection="condition"), torch.linspace(-1, 1, 6)
    condition = model.condition(images(3), images(1), z)
    assert condition.shape == (6, condition_features("condition")) == (6, 288)
    assert torch.equal(condition[:, :160], model.encoder(images(3), z))
    assert torch.equal(condition[:, 160:], model.encoder(images(1), z)[:, :128])  # one encoder for both


def test_a_dropped_condition_hides_the_prior_in_it():
    model, clean = denoiser(injection="condition"), images(0)
    dropped, kept = (
        {model.loss(clean, images(guide), torch.zeros(6), p_uncond, generator()).item() for guide in (1, 2)}
        for p_uncond in (1.0, 0.0)
    )
    assert len(dropped) == 1
    assert len(kept) == 2


# -- guidance -------------------------------------------------------------------------------


@pytest.mark.parametrize("parameterisation", PARAMETERISATIONS)
@pytest.mark.parametrize("guidance", [0.0, 1.0, 2.5])
def test_guidance_leads_away_from_the_unconditional_estimate(parameterisation, guidance):
    model, noisy, guide, t = denoiser(parameterisation=parameterisation), images(0), images(1), torch.full((6,), 30)
    condition = torch.randn(6, 160, generator=generator(5))
    empty = model.encoder.empty.expand(6, -1)
    with torch.no_grad():
        with_c = model.estimate(noisy, guide, t, condition)
        without_c = model.estimate(noisy, guide, t, empty)
        guided = model.estimate(noisy, guide, t, condition, guidance)
    assert (with_c - without_c).abs().max() > 1e-3
    torch.testing.assert_close(guided, (1 + guidance) * with_c - guidance * without_c, rtol=1e-4, atol=1e-5)


def test_guiding_the_image_guides_the_noise():
    """Eq. 7 is on ε; the estimate from the guided ε is the guided estimate."""
    model, noisy, guide, t = denoiser(parameterisation="epsilon"), images(0), images(1), torch.full((6,), 30)
    condition = torch.randn(6, 160, generator=generator(5))
    mixed, empty = model.gamma * guide + (1 - model.gamma) * noisy, model.encoder.empty.expand(6, -1)
    with torch.no_grad():
        epsilon = 2.8 * model.unet(mixed, t, condition) - 1.8 * model.unet(mixed, t, empty)
        guided = model.estimate(noisy, guide, t, condition, guidance=1.8)
    signal, noise = SCHEDULE.levels(t, noisy)
    torch.testing.assert_close(guided, (noisy - noise * epsilon) / signal, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("guidance", "images_seen"), [(0.0, 6), (1.8, 12)])
def test_without_guidance_the_network_does_half_the_work(guidance, images_seen):
    unet = Watch()
    estimated(denoiser(unet), images(0), images(1), guidance)
    assert [len(x) for x, _, _ in unet.seen] == [images_seen]


# -- training -------------------------------------------------------------------------------


def test_a_dropped_condition_is_not_seen():
    model, clean = denoiser(), images(0)

    def loss(z: float, p_uncond: float) -> float:
        return model.loss(clean, clean, torch.full((6,), z), p_uncond, generator()).item()

    before = loss(0.2, 1.0), loss(0.2, 0.0)
    assert loss(-0.7, 1.0) == before[0]
    assert loss(-0.7, 0.0) != before[1]
    for weight in (*model.encoder.image.parameters(), *model.encoder.position.parameters()):
        nn.init.normal_(weight)
    assert loss(0.2, 1.0) == before[0]
    assert loss(0.2, 0.0) != before[1]


@pytest.mark.parametrize("p_uncond", [0.0, 0.2, 1.0])
def test_conditions_are_dropped_at_the_rate_asked_for(p_uncond):
    unet, clean = Watch(), images(0, 800, 8)
    model = denoiser(unet)
    model.loss(clean, clean, torch.zeros(800), p_uncond, generator())
    dropped = (unet.seen[0][2] == model.encoder.empty).all(1)
    assert float(dropped.float().mean()) == pytest.approx(p_uncond, abs=5 * (p_uncond * (1 - p_uncond) / 800) ** 0.5)
    kept = ~dropped
    torch.testing.assert_close(unet.seen[0][2][kept], model.condition(clean, clean, torch.zeros(800))[kept])


def test_every_level_is_trained():
    unet, clean = Watch(), images(0, 800, 8)
    denoiser(unet).loss(clean, clean, torch.zeros(800), 0.1, generator())
    assert set(unet.seen[0][1].tolist()) == set(range(T))


@pytest.mark.parametrize("parameterisation", PARAMETERISATIONS)
@pytest.mark.parametrize(
    "settings",
    [{}, {"conditioning": "none"}, {"conditioning": "cross_attention"}, {"injection": "condition"}],
    ids=["default", "none", "cross_attention", "injection"],
)
def test_the_loss_reaches_every_weight(parameterisation, settings: dict[str, Any]):
    model, clean = denoiser(parameterisation=parameterisation, **settings), images(0, 16)
    model.loss(clean, images(1, 16), torch.linspace(-1, 1, 16), 0.5, generator()).backward()
    still = {name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()}
    chosen = {"norm", "query"} if settings.get("conditioning") == "cross_attention" else ()  # one token: no choice
    assert still == {f"unet.cross.{layer}.{part}" for layer in chosen for part in ("weight", "bias")}


def test_the_generator_fixes_the_loss():
    model, clean = denoiser(), images(0)
    losses = [model.loss(clean, clean, torch.zeros(6), 0.5, generator(seed)).item() for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


def test_calibration_is_saved_with_the_weights():
    model, data = denoiser(), 3 + 2 * torch.randn(4, 1, 20, 20, generator=generator(9))
    model.calibrate(data)
    saved = model.state_dict()
    assert float(saved["mean"]) == pytest.approx(float(data.mean()))
    assert float(saved["spread"]) == pytest.approx(float(data.std()))
    assert not {"mean", "spread"} & {name for name, _ in model.named_parameters()}


def test_estimates_are_float32_in_mixed_precision():
    model = denoiser(parameterisation="preconditioned")
    exact = estimated(model, images(0), images(1), guidance=1.0)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = estimated(model, images(0), images(1), guidance=1.0)
    assert mixed.dtype == torch.float32
    assert 0 < (mixed - exact).abs().max() < 0.1


# -- sampling -------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_a_gaussian_is_sampled_with_its_mean_and_variance(sampler):
    """Of a Gaussian, the preconditioned estimate is exact where the network is silent."""
    schedule = Schedule(1000, 1e-4, 0.02)
    model = Denoiser(Watch(), schedule, 0.0, "preconditioned")
    model.mean.fill_(MEAN)
    model.spread.fill_(SPREAD)
    shape, draws = (40, 1, 32, 32), generator(3)
    start = torch.randn(shape, generator=draws)
    condition = torch.zeros(len(start), 160)

    def estimate(x: Tensor, t: int) -> Tensor:
        return model.estimate(x, x, torch.full((len(x),), t), condition)

    fresh = (lambda _: torch.randn(shape, generator=draws)) if sampler == "ddpm" else None
    samples = exhaust(sample(estimate, start, schedule, schedule.spaced(1000), fresh)).double()
    assert float(samples.mean()) == pytest.approx(MEAN, abs=SPREAD * (5 / samples.numel() ** 0.5 + 0.01))
    assert float(samples.var()) == pytest.approx(SPREAD**2, rel=5 * (2 / samples.numel()) ** 0.5 + 0.01)
