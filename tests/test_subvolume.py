"""The network of subvolume diffusion: its losses by their formulas, the best linear denoiser, guidance, positions."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from napari_microdiffusion.diffusion import Schedule
from napari_microdiffusion.methods import Ddpm
from napari_microdiffusion.subvolume import EMBEDDING, RANGE, SubvolumeNet
from napari_microdiffusion.unet import UNet, sinusoidal

PARAMETERISATIONS = get_args(Ddpm.model_fields["parameterisation"].annotation)
T = 40
SCHEDULE = Schedule(T, 1e-3, 0.2)
BETWEEN = torch.tensor([0.2, 0.4, 0.6, 0.8])
M = len(BETWEEN)
SIDE = 12


class Watch(nn.Module):
    """A U-Net that keeps what it is given and what it puts out."""

    def __init__(self, unet: UNet) -> None:
        super().__init__()
        self.unet = unet
        self.leave, self.cross = unet.leave, unet.cross
        self.calls: list[tuple[Tensor, Tensor, Tensor | None, Tensor]] = []

    def forward(self, x: Tensor, t: Tensor, tokens: Tensor | None) -> Tensor:
        output: Tensor = self.unet(x, t, tokens)
        self.calls.append((x.detach(), t, tokens, output.detach()))
        return output


def network(parameterisation: Any = "v", further: int = 0, told: bool = True, trained: bool = True) -> SubvolumeNet:
    """A tiny one; ``trained``: its last layer, which may start from nothing, is filled with numbers."""
    torch.manual_seed(0)
    unet = UNet(
        8,
        (1, 2),
        False,
        inputs=2 * further + 2 + M,
        outputs=M,
        conditioning="cross_attention" if told else "none",
        features=EMBEDDING,
        fold=2,
        norm=False,
    )
    net = SubvolumeNet(Watch(unet), SCHEDULE, BETWEEN, parameterisation)  # type: ignore[arg-type]
    if trained:
        for parameter in unet.leave[-1].parameters():
            nn.init.normal_(parameter, std=0.1)
        if net.empty is not None:
            nn.init.normal_(net.empty)
    net.spread.fill_(0.3)
    return net


def example(batch: int = 3, further: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Measured images, those between, positions."""
    generator = torch.Generator().manual_seed(1)
    measured = 2 * further + 2
    known, clean = (torch.rand(batch, n, SIDE, SIDE, generator=generator) * 2 - 1 for n in (measured, M))
    return known, clean, torch.arange(measured + M).float().repeat(batch, 1)


def calls(net: SubvolumeNet) -> list[tuple[Tensor, Tensor, Tensor | None, Tensor]]:
    assert isinstance(net.unet, Watch)
    return net.unet.calls


def loss(net: SubvolumeNet, *given: Tensor, p_uncond: float = 0.0, emphasis: float = 0.0, **more: Any) -> Tensor:
    return net.loss(*given, p_uncond, emphasis, torch.Generator().manual_seed(5), **more)


def noise_of(net: SubvolumeNet, clean: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of the last loss: (ε, √ᾱ, √(1 − ᾱ), the U-Net's output), from its input and ᾱ = Π (1 − β) alone."""
    given, t, _, output = calls(net)[-1]
    further = (given.shape[1] - M) // 2 - 1
    noisy = given[:, further + 1 : further + 1 + M]
    betas = torch.linspace(1e-3, 0.2, T, dtype=torch.float64)
    alpha_bar = torch.stack([(1 - betas[: int(level) + 1]).prod() for level in t]).float()[:, None, None, None]
    signal, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    if net.parameterisation == "preconditioned":
        noisy = noisy * (signal**2 * net.spread**2 + sigma**2).sqrt() + signal * net.interpolated(example()[0])
    return (noisy - signal * clean) / sigma, signal, sigma, output


# -- the loss ---------------------------------------------------------------------------------


def test_the_v_loss_is_that_of_the_paper():
    """Eq. 4, with λ = 1: ‖√ᾱ ε − √(1−ᾱ) X_0 − V̂‖², a mean."""
    net, (known, clean, positions) = network("v"), example()
    value = loss(net, known, clean, positions)
    noise, signal, sigma, output = noise_of(net, clean)
    assert value.item() == pytest.approx((signal * noise - sigma * clean - output).square().mean().item(), rel=1e-4)
    assert abs(noise.mean()) < 0.1
    assert 0.9 < noise.std() < 1.1


def test_the_loss_of_the_noise_is_that_of_ddpm():
    net, (known, clean, positions) = network("epsilon"), example()
    value = loss(net, known, clean, positions)
    noise, _, _, output = noise_of(net, clean)
    assert value.item() == pytest.approx((noise - output).square().mean().item(), rel=1e-3)


def test_the_preconditioned_loss_is_that_of_what_the_linear_denoiser_leaves_over():
    """Of unit variance at every noise level, where interpolation leaves over what it is calibrated to."""
    net = network("preconditioned")
    known, _, positions = example(64)
    clean = net.interpolated(known) + 0.3 * torch.randn(64, M, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        for parameter in net.unet.leave[-1].parameters():
            parameter.zero_()
        assert loss(net, known, clean, positions).item() == pytest.approx(1, rel=0.05)
        assert loss(net, known, clean, positions, emphasis=1.0).item() == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("parameterisation", PARAMETERISATIONS)
def test_a_loss_of_nothing_means_the_truth(parameterisation):
    """The output that the loss asks for makes the estimate the truth, whatever it is said to mean."""
    net, (known, clean, positions) = network(parameterisation), example()
    loss(net, known, clean, positions)
    noise, signal, sigma, _ = noise_of(net, clean)
    t = calls(net)[-1][1]
    size = (signal**2 * net.spread**2 + sigma**2).sqrt()
    rest, guide = clean - net.interpolated(known), net.interpolated(known)
    wanted = {
        "v": signal * noise - sigma * clean,
        "epsilon": noise,
        "preconditioned": (rest * sigma**2 - signal * net.spread**2 * sigma * noise) / (net.spread * sigma * size),
    }[parameterisation]
    net.unet.forward = lambda *_: wanted  # type: ignore[method-assign]
    noisy = signal * (guide + rest) + sigma * noise
    torch.testing.assert_close(net.estimate(known, noisy, t, positions), clean, atol=2e-4, rtol=0)
    assert loss(net, known, clean, positions).item() < 1e-6


def test_errors_count_by_their_volumes_spread():
    net, (known, clean, positions) = network(), example(2)
    plain = loss(net, known, clean, positions)
    same = loss(net, known, clean, positions, spread=torch.full((2,), 0.3))
    assert same.item() == pytest.approx(plain.item(), rel=1e-5)
    half = loss(net, known, clean, positions, spread=torch.full((2,), 0.6))
    assert half.item() == pytest.approx(plain.item() / 4, rel=1e-5)
    one = loss(net, known, clean, positions, spread=torch.tensor([0.3, 1e9]))
    noise, signal, sigma, output = noise_of(net, clean)
    error = (signal * noise - sigma * clean - output).square()
    assert one.item() == pytest.approx(error[0].mean().item() / 2, rel=1e-4)


@pytest.mark.parametrize("parameterisation", PARAMETERISATIONS)
def test_only_the_weighed_slices_are_learned(parameterisation):
    net, (known, clean, positions) = network(parameterisation), example(2)
    seen = torch.tensor([[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    outputs: list[Tensor] = []
    plain = net.unet.forward

    def kept(*given: Tensor) -> Tensor:
        outputs.append(plain(*given))
        outputs[-1].retain_grad()
        return outputs[-1]

    net.unet.forward = kept  # type: ignore[method-assign]
    loss(net, known, clean, positions, seen=seen).backward()
    gradient = outputs[0].grad
    assert gradient is not None
    assert torch.equal(gradient.abs().sum((2, 3)) == 0, seen == 0)


def test_the_loss_on_a_projection():
    """A projection is linear in its slices, and so is v: both sides of Eq. 4 are averaged as the beam does."""
    net, (known, clean, positions) = network("v"), example(2)
    seen = torch.tensor([[0.25, 0.5, 0.25, 0.0], [0.0, 0.0, 1.0, 0.0]])
    value = loss(net, known, clean, positions, seen=seen)
    noise, signal, sigma, output = noise_of(net, clean)
    error = ((signal * noise - sigma * clean - output) * seen[:, :, None, None]).sum(1)
    assert value.item() == pytest.approx(error.square().mean().item(), rel=1e-4)


@pytest.mark.parametrize(("emphasis", "low", "high"), [(0.0, 0, 0.06), (0.5, 0.4, 0.6), (1.0, 1, 1)])
def test_emphasis_is_the_share_at_the_highest_noise_level(emphasis, low, high):
    net, given = network(), example(400)
    with torch.no_grad():
        loss(net, *(part[:, :, :4, :4] if part.ndim == 4 else part for part in given), emphasis=emphasis)
    t = calls(net)[-1][1]
    assert low <= (t == T - 1).float().mean() <= high
    assert emphasis == 1 or (t.min() < 3 and len(t.unique()) > 30)


def test_the_generator_fixes_the_loss():
    net, given = network(), example()
    assert loss(net, *given).item() == loss(net, *given).item()
    assert loss(net, *given).item() != net.loss(*given, 0.0, 0.0, torch.Generator().manual_seed(6)).item()


def test_the_spread_is_that_of_the_subvolumes():
    net = network()
    known, _, _ = example()
    clean = net.interpolated(known) + 0.2 * torch.randn(3, M, SIDE, SIDE)
    net.calibrate(known, clean)
    assert net.spread.item() == pytest.approx(0.2, rel=0.1)
    net.calibrate(known, net.interpolated(known))
    assert net.spread.item() == pytest.approx(1e-3)  # it divides
    assert set(net.state_dict()) - {f"unet.{name}" for name in net.unet.state_dict()} == {"empty", "spread"}


# -- the estimate -----------------------------------------------------------------------------


@pytest.mark.parametrize("further", [0, 1, 2])
def test_interpolation_is_between_the_two_that_enclose(further):
    known, _, _ = example(further=further)
    above, below = known[:, further], known[:, further + 1]
    for j, share in enumerate(BETWEEN):
        expected = (1 - share) * above + share * below
        torch.testing.assert_close(network(further=further).interpolated(known)[:, j], expected)


@pytest.mark.parametrize("level", [0, 7, T - 1])
def test_untrained_it_is_the_best_linear_denoiser(level):
    """The mean of the Gaussian posterior, precisions added, of X_0 ~ N(interpolation, s²) and X_t | X_0."""
    net, (known, _, positions) = network("preconditioned", trained=False), example()
    noisy = torch.randn(3, M, SIDE, SIDE)
    signal, sigma = SCHEDULE.alpha_bar[level].sqrt(), (1 - SCHEDULE.alpha_bar[level]).sqrt()
    precisions = 1 / net.spread**2, signal**2 / sigma**2
    mean = (precisions[0] * net.interpolated(known) + precisions[1] * noisy / signal) / sum(precisions)
    found = net.estimate(known, noisy, torch.full((3,), level), positions)
    torch.testing.assert_close(found, mean, atol=1e-5, rtol=1e-4)


def test_the_unet_is_shown_what_the_linear_denoiser_leaves_at_unit_variance():
    net = network("preconditioned")
    known, _, positions = example(64)
    clean = net.interpolated(known) + 0.3 * torch.randn(64, M, SIDE, SIDE)
    loss(net, known, clean, positions)
    shown = calls(net)[-1][0][:, 1 : 1 + M]
    assert shown.std((1, 2, 3)).min() > 0.8
    assert shown.std((1, 2, 3)).max() < 1.2


@pytest.mark.parametrize("parameterisation", PARAMETERISATIONS)
@pytest.mark.parametrize("further", [0, 2])
def test_measured_images_keep_their_values(parameterisation, further):
    """The U-Net sees them without noise, around those between, and puts out the latter alone."""
    net, (known, clean, positions) = network(parameterisation, further), example(further=further)
    loss(net, known, clean, positions)
    found = net.estimate(known, torch.randn_like(clean), torch.tensor([0, 10, T - 1]), positions, guidance=1.0)
    assert found.shape == clean.shape
    assert len(calls(net)) == 2
    for given, *_ in calls(net):
        repeated = known.repeat(len(given) // len(known), 1, 1, 1)
        torch.testing.assert_close(given[:, : further + 1], repeated[:, : further + 1], atol=0, rtol=0)
        torch.testing.assert_close(given[:, further + 1 + M :], repeated[:, further + 1 :], atol=0, rtol=0)


def test_an_estimated_noise_is_kept_from_blowing_up():
    known, clean, positions = example()
    t = torch.full((3,), T - 1)
    estimates = {name: network(name).estimate(known, 50 * clean, t, positions) for name in PARAMETERISATIONS}
    assert estimates["epsilon"].abs().max() == RANGE
    assert all(estimates[name].abs().max() > RANGE for name in ("v", "preconditioned"))


# -- guidance and positions -------------------------------------------------------------------


def single(net: SubvolumeNet, guidance: float = 0.0, shift: float = 0.0) -> Tensor:
    known, clean, positions = example()
    with torch.no_grad():
        return net.estimate(known, clean, torch.tensor([3, 9, 30]), positions + shift, guidance)


def test_guidance():
    """Eq. 5: (1 + w) conditional − w unconditional, the same of estimates as of noises."""
    net = network("v")
    conditional = single(net)
    assert len(calls(net)[-1][0]) == 3  # no guidance, half the time
    tokens = calls(net)[-1][2]
    assert tokens is not None
    nothing = network("v")
    nothing._tokens = lambda _: net._nothing(tokens)  # type: ignore[method-assign]
    unconditional = single(nothing)
    assert (conditional - unconditional).abs().max() > 1e-3
    for w in (0.5, 2.0):
        torch.testing.assert_close(single(net, w), (1 + w) * conditional - w * unconditional, atol=1e-5, rtol=1e-4)


def test_positions_are_told_as_in_the_paper():
    """Eq. 3, one token a slice."""
    net = network()
    single(net, shift=4.0)
    tokens = calls(net)[-1][2]
    assert tokens is not None
    assert tokens.shape == (3, 2 + M, EMBEDDING)
    z = torch.arange(2 + M) + 4.0
    rates = 10_000.0 ** (-2 * torch.arange(EMBEDDING // 2) / EMBEDDING)
    expected = torch.cat([torch.cos(z[:, None] * rates), torch.sin(z[:, None] * rates)], 1)
    torch.testing.assert_close(tokens[0], expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(tokens[0], sinusoidal(z, EMBEDDING))


def test_positions_matter_where_they_are_told():
    assert (single(network()) - single(network(), shift=5.0)).abs().max() > 1e-4
    plain = [single(network(told=False), guidance, shift) for guidance, shift in ((0, 0), (0, 5.0), (2.0, 0))]
    for other in plain[1:]:
        torch.testing.assert_close(other, plain[0], atol=0, rtol=0)
    assert network(told=False).empty is None


@pytest.mark.parametrize(("p_uncond", "low", "high"), [(0.0, 0, 0), (0.3, 0.2, 0.4), (1.0, 1, 1)])
def test_positions_are_dropped_at_their_rate(p_uncond, low, high):
    net, given = network(), example(300)
    with torch.no_grad():
        loss(net, *(part[:, :, :4, :4] if part.ndim == 4 else part for part in given), p_uncond=p_uncond)
    tokens = calls(net)[-1][2]
    assert tokens is not None
    assert net.empty is not None
    dropped = (tokens == net.empty).all(2)
    assert torch.equal(dropped.all(1), dropped.any(1))  # all of a subvolume's, or none
    assert low <= dropped.all(1).float().mean() <= high
