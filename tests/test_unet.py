"""The U-Net and the condition encoder: any lateral size, what their outputs depend on, gradients."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from napari_microdiffusion.unet import Attention, ConditionEncoder, Conditioning, CrossAttention, UNet, sinusoidal

SIZES = [(32, 32), (37, 45), (33, 64), (1, 7)]


def unet(attention: bool = False, multipliers: tuple[int, ...] = (1, 2)) -> UNet:
    torch.manual_seed(0)
    return UNet(8, multipliers, attention)


def inputs(height: int = 16, width: int = 16, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Images, times and conditions, the same at every call."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(batch, 1, height, width, generator=generator)
    return images, torch.arange(batch) * 10, torch.randn(batch, 160, generator=generator)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("multipliers", [(2,), (1, 2), (1, 2, 3)])
def test_any_size_comes_back(size, multipliers):
    images, time, condition = inputs(*size)
    output = unet(multipliers=multipliers)(images, time, condition)
    assert output.shape == images.shape
    assert output.isfinite().all()


def test_sizes_that_do_not_halve_are_extended_by_their_edge():
    images, time, condition = inputs(15, 14)
    extended = functional.pad(images, (0, 2, 0, 1), mode="replicate")
    net = unet(multipliers=(1, 2, 3))
    torch.testing.assert_close(net(images, time, condition), net(extended, time, condition)[:, :, :15, :14])


@pytest.mark.parametrize("attention", [False, True])
def test_images_of_a_batch_do_not_mix(attention):
    images, time, condition = inputs(batch=3)
    net = unet(attention)
    apart = torch.cat([net(images[i : i + 1], time[i : i + 1], condition[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(net(images, time, condition), apart, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("changed", ["image", "time", "condition"])
def test_the_output_depends_on(changed):
    images, time, condition = inputs()
    net = unet()
    before = net(images, time, condition)
    after = net(
        images + (changed == "image") * 0.1, time + (changed == "time") * 5, condition + (changed == "condition") * 0.1
    )
    assert (after - before).abs().amax((1, 2, 3)).min() > 1e-4  # in every image of the batch


def test_attention_reaches_as_far_as_the_image():
    def reach(attention: bool) -> float:
        """How much a pixel in one corner changes the other corner, beyond the convolutions' reach."""
        images, time, condition = inputs(64, 64, batch=1)
        net = unet(attention, (1, 1))
        images.requires_grad_()
        with torch.no_grad():
            for module in net.modules():  # group norm sees the whole image: take it out
                if isinstance(module, torch.nn.GroupNorm):
                    module.forward = lambda x: x  # type: ignore[method-assign]
        net(images, time, condition)[0, 0, 0, 0].backward()
        assert images.grad is not None
        return float(images.grad[0, 0, -4:, -4:].abs().max())

    assert reach(attention=False) == 0
    assert reach(attention=True) > 0


def test_attention_is_the_softmax_of_queries_and_keys():
    torch.manual_seed(0)
    layer, x = Attention(8), torch.randn(2, 8, 3, 4)
    q, k, v = layer.qkv(layer.norm(x)).flatten(2).chunk(3, 1)  # (B, c, pixels)
    weights = torch.einsum("bci,bcj->bij", q, k).div(8**0.5).softmax(-1)
    mixed = torch.einsum("bij,bcj->bci", weights, v).reshape(x.shape)
    torch.testing.assert_close(layer(x), x + layer.out(mixed), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", [False, True])
def test_every_weight_has_a_gradient(attention):
    net = unet(attention, (1, 2, 3))
    net(*inputs()).square().mean().backward()
    assert [name for name, weight in net.named_parameters() if weight.grad is None or not weight.grad.any()] == []


def test_attention_keeps_no_matrix_of_all_pairs_of_pixels():
    """Torch's kernels that take them block by block refuse what would need one."""
    layer, x = Attention(8), torch.randn(2, 8, 5, 6)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        assert layer(x).shape == x.shape


def test_attention_has_its_own_weights():
    names = {name for name, _ in unet(attention=True).named_parameters()}
    assert names - {name for name, _ in unet().named_parameters()} == {
        f"attention.{layer}.{part}" for layer in ("norm", "qkv", "out") for part in ("weight", "bias")
    }


# -- how conditions enter (MicroDiffusion, Table 3) -----------------------------------------


def tokens(count: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, count, 160, generator=torch.Generator().manual_seed(2))


def conditioned(conditioning: Conditioning) -> UNet:
    torch.manual_seed(0)
    return UNet(8, (1, 2), False, conditioning=conditioning)


def test_one_token_gives_every_pixel_the_same():
    torch.manual_seed(0)
    layer, x = CrossAttention(8, 160), torch.randn(2, 8, 5, 6)
    added = layer(x, tokens(1)) - x
    value = layer.key_value(tokens(1)).chunk(2, -1)[1].transpose(1, 2)[..., None]
    torch.testing.assert_close(added, layer.out(value).expand_as(x), rtol=1e-4, atol=1e-5)
    several = layer(x, tokens(3)) - x
    assert several.flatten(2).std(-1).min() > 1e-4


def test_pixels_attend_to_tokens_by_the_softmax_of_queries_and_keys():
    torch.manual_seed(0)
    layer, x = CrossAttention(8, 160), torch.randn(2, 8, 3, 4)
    q = layer.query(layer.norm(x)).flatten(2)
    k, v = layer.key_value(tokens(5)).chunk(2, -1)
    weights = torch.einsum("bci,blc->bil", q, k).div(8**0.5).softmax(-1)
    mixed = torch.einsum("bil,blc->bci", weights, v).reshape(x.shape)
    torch.testing.assert_close(layer(x, tokens(5)), x + layer.out(mixed), rtol=1e-4, atol=1e-5)


def test_the_output_depends_on_each_token():
    images, time, _ = inputs()
    net, given = conditioned("cross_attention"), tokens(3)
    before = net(images, time, given)
    for token in range(3):
        changed = given.clone()
        changed[:, token] += 0.5
        assert (net(images, time, changed) - before).abs().amax((1, 2, 3)).min() > 1e-4


def test_without_conditions_there_is_nothing_they_could_enter_by():
    images, time, condition = inputs()
    net = conditioned("none")
    assert torch.equal(net(images, time, condition), net(images, time))
    names = {which: {name for name, _ in conditioned(which).named_parameters()} for which in get_args(Conditioning)}
    assert names["addition"] - names["none"] == {"condition.weight", "condition.bias"}
    assert {name.partition(".")[0] for name in names["cross_attention"] - names["none"]} == {"cross"}


def test_every_weight_of_cross_attention_has_a_gradient():
    net = conditioned("cross_attention")
    net(*inputs()[:2], tokens(2)).square().mean().backward()
    assert [name for name, weight in net.named_parameters() if weight.grad is None or not weight.grad.any()] == []


# -- conditions -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_a_condition_of_any_image(size):
    torch.manual_seed(0)
    condition = ConditionEncoder()(inputs(*size)[0], torch.tensor([-1.0, 0.5]))
    assert condition.shape == (2, 160)
    assert condition.isfinite().all()


def test_a_condition_is_image_then_position():
    torch.manual_seed(0)
    encoder = ConditionEncoder()
    images = inputs(32, 32)[0]
    here, there = (encoder(images, torch.full((2,), z)) for z in (0.1, 0.15))
    assert torch.equal(here[:, :128], there[:, :128])
    assert (here[:, 128:] - there[:, 128:]).abs().max() > 1e-3
    other = encoder(images + torch.linspace(0, 1, 32), torch.full((2,), 0.1))
    assert torch.equal(here[:, 128:], other[:, 128:])
    assert (here[:, :128] - other[:, :128]).abs().max() > 1e-3


def test_every_weight_of_the_encoder_has_a_gradient_but_the_empty_condition():
    torch.manual_seed(0)
    encoder = ConditionEncoder()
    encoder(inputs(32, 32)[0], torch.tensor([-1.0, 0.5])).square().mean().backward()
    still = [name for name, weight in encoder.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert still == ["empty"]


def test_positions_along_the_stack_are_told_apart():
    """Depths of 60 projections: no two embeddings are closer than neighbours are."""
    encoder, embedded = ConditionEncoder(), []
    encoder.position.register_forward_pre_hook(lambda _, given: embedded.append(given[0]))
    encoder(torch.zeros(60, 1, 8, 8), torch.linspace(-1, 1, 60))
    distances = torch.cdist(embedded[0], embedded[0])
    neighbours = distances.diagonal(1).min()
    assert neighbours > 0.1
    assert (distances + 1e3 * torch.eye(60)).min() >= 0.9 * neighbours


def test_sinusoidal_embedding():
    expected = [[1.0, 1.0, 0.0, 0.0], [math.cos(3), math.cos(0.3), math.sin(3), math.sin(0.3)]]
    torch.testing.assert_close(sinusoidal(torch.tensor([0, 3]), 4, period=100.0), torch.tensor(expected))
