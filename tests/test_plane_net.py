"""The network of axial super-resolution: any plane, where it starts from, what its outputs depend on, gradients."""

from __future__ import annotations

import pytest
import torch
from scipy.ndimage import correlate
from torch import Tensor, nn
from torch.nn import functional

from napari_microdiffusion.conv import Conv
from napari_microdiffusion.plane_net import PlaneNet

FOLD = 3


def plane_net(fold: int = FOLD, trained: bool = True) -> PlaneNet:
    """The smallest network; as if ``trained``, it changes planes."""
    torch.manual_seed(0)
    net = PlaneNet(fold, 8, 2)
    if trained:
        for head in (net.change, net.spread[-1]):
            assert isinstance(head, nn.Conv2d)
            nn.init.normal_(head.weight, std=3)
    return net


def inputs(depth: int = 12, width: int = 10, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Planes, unseen slices (none) and conditions, the same at every call."""
    planes = torch.randn(batch, depth, width, generator=torch.Generator().manual_seed(1))
    return planes, torch.zeros(depth), torch.linspace(0.5, 2, 4 * batch).view(batch, 4)


@pytest.mark.parametrize("fold", [1, 3, 6])
@pytest.mark.parametrize("size", [(12, 10), (13, 10), (17, 11), (2, 3), (1, 1)])
def test_any_size_comes_back(fold, size):
    planes, unseen, conditions = inputs(*size)
    change, spread = plane_net(fold)(planes, unseen, conditions)
    assert change.shape == (2, *size)
    assert spread.shape == (2, 2, *size)
    assert change.isfinite().all()
    assert spread.isfinite().all()


def test_sizes_that_do_not_fit_are_extended_by_their_edge():
    planes, unseen, conditions = inputs(13, 11)
    extended = functional.pad(planes[:, None], (0, 1, 0, 2), mode="replicate")[:, 0]
    net = plane_net()
    change, spread = net(planes, unseen, conditions)
    whole = net(extended, functional.pad(unseen, (0, 2)), conditions)
    torch.testing.assert_close(change, whole[0][:, :13, :11])
    torch.testing.assert_close(spread, whole[1][:, :, :13, :11])


def test_training_starts_from_no_change():
    planes, unseen, conditions = inputs()
    change, spread = plane_net(trained=False)(planes, unseen, conditions)
    assert not change.any()
    assert spread.min() > 0


def test_the_interval_has_a_width_everywhere():
    """Whatever the weights and the planes: a bound never crosses the estimate."""
    _, spread = plane_net()(100 * inputs()[0], *inputs()[1:])
    assert spread.min() >= 0
    assert spread.max() > 1
    assert plane_net()(*inputs())[1].min() > 0


@pytest.mark.parametrize("changed", ["planes", "unseen", "conditions"])
def test_both_outputs_depend_on(changed):
    planes, unseen, conditions = inputs()
    net = plane_net()
    before = net(planes, unseen, conditions)
    after = net(
        planes + (changed == "planes") * 0.1,
        unseen + (changed == "unseen") * 1,
        conditions + (changed == "conditions") * 1,
    )
    for one, other in zip(before, after, strict=True):
        assert (one - other).abs().flatten(1).amax(1).min() > 1e-3  # in every plane of the batch


def test_one_unseen_slice_matters_in_its_own_row_and_around():
    planes, unseen, conditions = inputs(90)
    net = plane_net()
    gap = unseen.clone()
    gap[45] = 1
    difference = (net(planes, gap, conditions)[0] - net(planes, unseen, conditions)[0]).abs().amax((0, 2))
    assert difference[45] > 1e-3
    assert difference[:6].max() == 0  # farther than the network reaches


def test_planes_of_a_batch_do_not_mix():
    planes, unseen, conditions = inputs(batch=3)
    net = plane_net()
    together = net(planes, unseen, conditions)
    apart = [net(planes[i : i + 1], unseen, conditions[i : i + 1]) for i in range(3)]
    for part, outputs in enumerate(together):
        torch.testing.assert_close(outputs, torch.cat([one[part] for one in apart]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("z", "x", "same"), [(FOLD, 0, True), (2 * FOLD, 2, True), (1, 0, False), (0, 1, False)])
def test_what_moves_by_a_stride_is_treated_the_same(z, x, same):
    """Along z by whole rows and along x by whole coarse pixels, and by nothing less."""
    planes, unseen, conditions = inputs(36 * FOLD, 60)
    net = plane_net()
    outputs = net(planes, unseen, conditions)
    moved = net(planes.roll((z, x), (1, 2)), unseen, conditions)
    inside = slice(15 * FOLD, 20 * FOLD), slice(28, 34)  # out of reach of the borders, where it is no longer a shift
    for one, other in zip(outputs, moved, strict=True):
        difference = (one.roll((z, x), (-2, -1)) - other)[..., inside[0], inside[1]].abs().max()
        assert (difference < 1e-4) == same


def test_the_interval_does_not_pull_at_the_estimate():
    net = plane_net()
    net(*inputs())[1].sum().backward()
    assert {name.split(".")[0] for name, p in net.named_parameters() if p.grad is not None} == {"spread"}


def test_every_weight_of_the_estimate_has_a_gradient():
    net = plane_net()
    net(*inputs())[0].square().sum().backward()
    still = {name.split(".")[0] for name, p in net.named_parameters() if p.grad is None or not p.grad.any()}
    assert still == {"spread"}


def test_a_convolution_that_halves_the_resolution():
    """The only one with a stride: pairs of pixels with one beyond on either side."""
    torch.manual_seed(0)
    conv = Conv(2, 3, kernel=(1, 4), stride=2)
    image = torch.randn(1, 2, 9, 10)
    padded = functional.pad(image, (1, 1))
    kernels = conv.weight.view(3, 2, 4)
    expected = torch.einsum("ocj,bcyxj->boyx", kernels, padded.unfold(3, 4, 2)) + conv.bias[:, None, None]
    torch.testing.assert_close(conv(image), expected)


@pytest.mark.parametrize("kernel", [(3, 3), (1, 1), (3, 1)])
def test_a_convolution_kept_as_a_matrix(kernel):
    """Row by row of the matrix: each output is the sum of the inputs' correlations with their own kernels."""
    torch.manual_seed(0)
    conv = Conv(2, 3, kernel)
    image = torch.randn(1, 2, 9, 10)
    found = conv(image).detach().numpy()[0]
    for output, (row, bias) in enumerate(zip(conv.weight.detach(), conv.bias.tolist(), strict=True)):
        kernels = row.view(2, *kernel).numpy()
        pairs = zip(image[0].numpy(), kernels, strict=True)
        expected = sum(correlate(channel, k, mode="constant") for channel, k in pairs) + bias
        assert abs(found[output] - expected).max() < 1e-5
