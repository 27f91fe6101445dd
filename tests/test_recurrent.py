"""The network of Recurrent-MZ: any size, what its slice depends on, gradients, and its losses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from napari_microdiffusion.recurrent import ConvGru, RecurrentUNet, berhu, dissimilarity


def network(levels: int = 2, silent: bool = False) -> RecurrentUNet:
    torch.manual_seed(0)
    return RecurrentUNet(8, levels, silent)


def inputs(size: tuple[int, int] = (12, 14), shown: int = 3, batch: int = 2) -> tuple[Tensor, Tensor]:
    """Images and distances, the same at every call."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(batch, shown, *size, generator=generator)
    return images, torch.linspace(-1.5, 0.5, shown).repeat(batch, 1)


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("size", [(16, 24), (15, 17), (5, 3), (1, 1)])
@pytest.mark.parametrize("shown", [1, 4])
def test_any_size_and_any_number_of_images(levels, size, shown):
    found = network(levels)(*inputs(size, shown))
    assert found.shape == (2, *size)
    assert found.isfinite().all()


def test_a_silent_network_starts_from_nothing():
    assert not network(silent=True)(*inputs()).any()
    assert network()(*inputs()).abs().min() > 0


@pytest.mark.parametrize("which", [0, 1, 2])
def test_the_slice_depends_on_every_image_and_on_every_distance(which):
    images, distances = inputs()
    net = network()
    before = net(images, distances)
    brighter, farther = images.clone(), distances.clone()
    brighter[:, which] += 0.3
    farther[:, which] += 0.3
    assert (net(brighter, distances) - before).abs().amax((1, 2)).min() > 1e-4
    assert (net(images, farther) - before).abs().amax((1, 2)).min() > 1e-4


def test_the_sign_of_a_distance_counts():
    images, distances = inputs()
    net = network()
    assert (net(images, -distances) - net(images, distances)).abs().max() > 1e-3


def test_the_order_counts():
    """It is told what it saw last by the order alone."""
    images, distances = inputs()
    net = network()
    backwards = net(images.flip(1), distances.flip(1))
    assert (backwards - net(images, distances)).abs().max() > 1e-3


def test_slices_of_a_batch_do_not_mix():
    images, distances = inputs(batch=3)
    net = network()
    together = net(images, distances)
    apart = torch.cat([net(images[i : i + 1], distances[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)


def test_what_moves_by_coarse_pixels_is_treated_the_same():
    images, distances = inputs((96, 96))
    net = network()
    moved = net(images.roll((4, 8), (2, 3)), distances).roll((-4, -8), (1, 2))
    difference = (moved - net(images, distances))[:, 44:52, 44:52].abs().max()  # out of reach of the borders
    assert difference < 1e-4


def test_every_weight_has_a_gradient():
    net = network(3)
    net(*inputs((24, 24))).square().sum().backward()
    assert {name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()} == set()


def test_a_silent_network_learns():
    net = network(silent=True)
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    images, distances = inputs()
    losses = []
    for _ in range(30):
        loss = (net(images, distances) - images[:, 0]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_the_unit_remembers_and_stays_bounded():
    torch.manual_seed(0)
    unit = ConvGru(8)
    sequence = 10 * torch.randn(2, 40, 8, 6, 6)
    state = unit(sequence)
    assert state.abs().max() <= 1
    assert (unit(sequence[:, -1:]) - state).abs().max() > 1e-2


# -- losses ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([0.0, 0.0], 0.0),
        ([1.0, -1.0], (1 + 0.04) / 0.4),
        ([0.1, 1.0], (0.1 + (1 + 0.04) / 0.4) / 2),  # the bound is a fifth of the largest
        ([-0.2, 1.0], (0.2 + (1 + 0.04) / 0.4) / 2),  # where both parts agree
    ],
)
def test_reverse_huber(errors, expected):
    assert berhu(torch.tensor(errors)).mean().item() == pytest.approx(expected, abs=1e-6)


def test_structure_agrees_with_an_independent_ssim():
    rng = np.random.default_rng(0)
    one = rng.random((20, 24)).astype(np.float32)
    other = (0.7 * one + 0.3 * rng.random(one.shape)).astype(np.float32)
    expected = structural_similarity(one, other, data_range=1.0, use_sample_covariance=False)
    found = dissimilarity(torch.from_numpy(one)[None], torch.from_numpy(other)[None], scales=1).item()
    assert found == pytest.approx(1 - expected, abs=1e-4)


@pytest.mark.parametrize("size", [(40, 40), (9, 30), (3, 5)])
def test_the_same_image_has_the_same_structure(size):
    image = torch.rand(2, *size)
    assert dissimilarity(image, image).item() == pytest.approx(0, abs=1e-5)
    assert dissimilarity(image, 1 - image).item() > 0.5
