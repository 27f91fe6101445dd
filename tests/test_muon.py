"""Muon: steps like torch's own, which multiplies in bfloat16; directions with singular values near 1."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from napari_microdiffusion.muon import Muon, orthogonal

SHAPES = [(8, 8), (8, 24), (24, 8), (8, 24)]


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_steps_are_those_of_torch(generator):
    starts = [torch.randn(shape, generator=generator) for shape in SHAPES]
    ours, theirs = ([nn.Parameter(start.clone()) for start in starts] for _ in range(2))
    optimisers = Muon(ours, 0.1), torch.optim.Muon(theirs, lr=0.1, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    for _ in range(10):
        gradients = [torch.randn(shape, generator=generator) for shape in SHAPES]
        for parameters, optimiser in zip((ours, theirs), optimisers, strict=True):
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient.clone()
            optimiser.step()
    for start, own, their in zip(starts, ours, theirs, strict=True):
        way = their.detach() - start
        assert float((own.detach() - their.detach()).norm() / way.norm()) < 0.02  # bfloat16 has three digits


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 8, 40), (2, 40, 8), (1, 1, 5)])
def test_directions_have_singular_values_near_one(shape, generator):
    matrices = 1e-3 * torch.randn(shape, generator=generator)
    found = orthogonal(matrices)
    assert found.shape == matrices.shape
    left, singular, right = torch.linalg.svd(matrices, full_matrices=False)
    along = (left.mT @ found @ right.mT).diagonal(dim1=1, dim2=2)
    large = singular > 0.1 * singular.amax(1, keepdim=True)
    assert float(along[large].min()) > 0.6
    assert float(along[large].max()) < 1.3


def test_no_gradient_no_step(generator):
    still, moved = (nn.Parameter(torch.randn((4, 4), generator=generator)) for _ in range(2))
    before = still.detach().clone()
    moved.grad = torch.ones(4, 4)
    Muon([still, moved], 0.1).step()
    assert torch.equal(still, before)


def test_a_gradient_of_nothing_moves_nothing():
    parameter = nn.Parameter(torch.ones(4, 6))
    parameter.grad = torch.zeros(4, 6)
    Muon([parameter], 0.1).step()
    assert torch.equal(parameter, torch.ones(4, 6))
