"""The coordinate network against the Fourier features it stands for, written out point by point."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from napari_microdiffusion.inr import FourierLinear, InrNet, gaussian_frequencies, octave_frequencies

SHAPE = (18, 40, 36)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def points(rays: int = 7) -> tuple[Tensor, Tensor]:
    """Slices (P, n) and pixels (P, R, 2)."""
    z = 20 * torch.rand(3, 5, generator=generator(1))
    return z, 64 * torch.rand(3, rays, 2, generator=generator(2)) - 32


def naive(layer: FourierLinear, z: Tensor, pixels: Tensor) -> Tensor:
    """The linear layer on cos and sin of 2π f·(z, y, x), for every point on its own, in float64."""
    where = torch.cat(
        [
            z[:, :, None, None].expand(-1, -1, pixels.shape[1], 1),
            pixels[:, None].expand(-1, z.shape[1], -1, 2),
        ],
        -1,
    ).double()
    phase = 2 * math.pi * where @ layer.frequencies.double().T
    return phase.cos() @ layer.cosine.double() + phase.sin() @ layer.sine.double() + layer.bias.double()


FREQUENCIES = {
    "gaussian": gaussian_frequencies(16, (0.03, 0.2), generator()),
    "octaves": octave_frequencies(6, SHAPE),
}


@pytest.mark.parametrize("frequencies", FREQUENCIES.values(), ids=FREQUENCIES)
def test_fourier_linear_is_a_linear_layer_on_fourier_features(frequencies):
    torch.manual_seed(3)
    layer = FourierLinear(frequencies, 6)
    nn.init.normal_(layer.bias)
    z, pixels = points()
    output = layer(z, layer.encode(pixels))
    assert output.shape == (3, 5, 7, 6)
    torch.testing.assert_close(output.double(), naive(layer, z, pixels), rtol=0, atol=1e-5)


def test_its_gradients_are_those_of_the_features():
    torch.manual_seed(3)
    layer = FourierLinear(FREQUENCIES["gaussian"], 6)
    z, pixels = points()
    target = torch.randn(3, 5, 7, 6, generator=generator(4))
    weights = list(layer.parameters())
    ours = torch.autograd.grad((layer(z, layer.encode(pixels)) * target).sum(), weights)
    theirs = torch.autograd.grad((naive(layer, z, pixels) * target).sum(), weights)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_frequencies_are_no_weights_but_are_saved():
    layer = FourierLinear(FREQUENCIES["gaussian"], 6)
    assert {name for name, _ in layer.named_parameters()} == {"cosine", "sine", "bias"}
    assert torch.equal(layer.state_dict()["frequencies"], FREQUENCIES["gaussian"])


# -- encodings ------------------------------------------------------------------------------


def test_octaves_are_sines_and_cosines_of_normalised_coordinates():
    """sin(2^l π v) and cos(2^l π v) of each axis: v in [−1, 1] over the volume, positions from its centre in voxels."""
    levels = 5
    frequencies = octave_frequencies(levels, SHAPE)
    assert frequencies.shape == (3 * levels, 3)
    position = torch.rand(50, 3, generator=generator()) * torch.tensor(SHAPE) - torch.tensor(SHAPE) / 2
    phase = 2 * math.pi * position @ frequencies.T
    v = 2 * position / torch.tensor(SHAPE)
    expected = torch.cat([2.0 ** torch.arange(levels) * math.pi * v[:, axis, None] for axis in range(3)], 1)
    torch.testing.assert_close(phase.sin(), expected.sin(), rtol=0, atol=1e-4)
    torch.testing.assert_close(phase.cos(), expected.cos(), rtol=0, atol=1e-4)


def test_gaussian_frequencies_have_the_bandwidths():
    count = 20_000
    frequencies = gaussian_frequencies(count, (0.025, 0.3), generator())
    assert frequencies.shape == (count, 3)
    error = 5 / (2 * count) ** 0.5
    for axis, bandwidth in enumerate((0.025, 0.3, 0.3)):
        assert float(frequencies[:, axis].std()) == pytest.approx(bandwidth, rel=error)
        assert abs(float(frequencies[:, axis].mean())) < bandwidth * error * 2**0.5
    correlation = torch.corrcoef(frequencies.T) - torch.eye(3)
    assert correlation.abs().max() < 5 / count**0.5


def test_the_generator_fixes_the_frequencies():
    one, same, other = (gaussian_frequencies(8, (1, 1), generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


# -- the network ----------------------------------------------------------------------------


def plain(net: InrNet, z: Tensor, pixels: Tensor) -> Tensor:
    """The same multilayer perceptron on features written out (no skip), in float64."""
    value = torch.relu(naive(net.first, z, pixels))
    for layer in net.hidden:
        value = torch.relu(nn.functional.linear(value, layer.weight.double(), layer.bias.double()))
    return nn.functional.linear(value, net.last.weight.double(), net.last.bias.double())[..., 0]


@pytest.mark.parametrize("layers", [1, 2, 4])
@pytest.mark.parametrize("rays", [1, 7])
def test_the_network_is_a_perceptron_on_the_features(layers, rays):
    torch.manual_seed(0)
    net = InrNet(FREQUENCIES["gaussian"], layers, 12)
    z, pixels = points(rays)
    intensity = net(z, pixels)
    assert intensity.shape == (3, 5, rays)
    torch.testing.assert_close(intensity.double(), plain(net, z, pixels), rtol=0, atol=1e-5)


@pytest.mark.parametrize("layers", [2, 3, 5])
def test_the_skip_feeds_the_encoding_in_again(layers):
    torch.manual_seed(0)
    net = InrNet(FREQUENCIES["gaussian"], layers, 12, skip=True)
    z, pixels = points()
    with_skip = net(z, pixels)
    assert net.again is not None
    for weight in net.again.parameters():
        nn.init.zeros_(weight)
    without = net(z, pixels)
    assert (with_skip - without).abs().max() > 1e-3
    torch.testing.assert_close(without.double(), plain(net, z, pixels), rtol=0, atol=1e-5)


@pytest.mark.parametrize("skip", [False, True])
def test_every_weight_has_a_gradient(skip):
    torch.manual_seed(0)
    net = InrNet(FREQUENCIES["octaves"], 3, 12, skip)
    net(*points()).square().mean().backward()
    assert [name for name, weight in net.named_parameters() if weight.grad is None or not weight.grad.any()] == []
    assert net.first.frequencies.grad is None
