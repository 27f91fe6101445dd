"""How well hidden projections are told: what strength they ask for, and the errors that are left."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.methods import Context
from napari_microdiffusion.methods._hidden import Hidden, hidden_planes
from napari_microdiffusion.methods._patches import Anisotropy
from napari_microdiffusion.volume import ProjectionStack


def told(told_share: float, noise: float = 0.0, projections: int = 6) -> Hidden:
    """Hidden projections of which a network tells so much, and noise."""
    rng = np.random.default_rng(0)
    missing = rng.standard_normal((projections, 10000))
    change = told_share * missing + noise * rng.standard_normal(missing.shape)
    means = [product.mean(1) for product in (missing**2, missing * change, change**2)]
    return Hidden(*means)


@pytest.mark.parametrize(
    ("told_share", "noise", "asked", "share"),
    [
        (1.0, 0.0, 1.0, 0.0),
        (0.8, 0.0, 1.25, 0.0),
        (0.5, 0.0, 2.0, 0.0625),  # three quarters of it are told
        (0.8, 0.4, 1.0, 0.2),
        (2.0, 0.0, 0.5, 1.0),  # never weakened
        (1.0, 1.0, 0.5, 1.0),
        (-1.0, 0.0, -1.0, 4.0),  # the interpolation is better
    ],
)
def test_what_is_asked_and_the_error_of_known_answers(told_share, noise, asked, share):
    hidden = told(told_share, noise)
    assert hidden.asked == pytest.approx(asked, rel=0.02)
    assert hidden.error.sum() / hidden.missing.sum() == pytest.approx(share, rel=0.02, abs=1e-9)


def test_no_projection_is_scored_with_a_strength_that_was_fitted_to_it():
    """One in which the change is too weak, among others where it is right, has the others' strength: none."""
    right, weak = told(1.0, projections=20), told(0.8, projections=1)
    names = ("missing", "agreement", "change")
    both = Hidden(*(np.concatenate([getattr(right, name), getattr(weak, name)]) for name in names))
    np.testing.assert_allclose(both.error / both.missing, [0] * 20 + [0.04], atol=1e-4)
    network, interpolation = told(1.0, 0.1).scores(1.0)
    assert (network > interpolation + 15).all()


def test_a_network_that_changes_nothing_is_no_better_than_interpolation():
    hidden = told(0.0)
    np.testing.assert_array_equal(hidden.error, hidden.missing)


class Brighter(nn.Module):
    """A network that adds the same to every slice of a plane but the first of each projection."""

    fold, channels = 4, 1

    def forward(self, planes: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
        later = (torch.arange(planes.shape[1]) % 4 > 0).to(planes)[None, :, None]
        return later.expand_as(planes), torch.ones(len(planes), 2, *planes.shape[1:])


@pytest.mark.parametrize("after", [0, 3])
def test_stop_is_heeded_after_every_batch_of_planes(monkeypatch, after):
    asked = itertools.count()
    monkeypatch.setattr(Context, "at_once", lambda *_: 1)
    stack = ProjectionStack(np.random.default_rng(0).random((4, 20, 16), np.float32), Acquisition(slices=4, count=4))
    stopped = Context(cancelled=lambda: next(asked) >= after)
    assert hidden_planes(Brighter(), stack, Anisotropy(1.0), stopped) is None
    assert next(asked) == after + 1


def test_hidden_projections_are_told_by_the_others_alone():
    """Counted apart from it, one hidden at a time: what interpolation lacks, and that no shown one sees the change."""
    images = np.random.default_rng(0).random((4, 20, 16), np.float32)
    stack = ProjectionStack(images, Acquisition(slices=4, count=4))
    told = hidden_planes(Brighter(), stack, Anisotropy(1.0), Context())
    assert len(told.missing) == 2  # not the outermost
    for at, k in enumerate((1, 2)):
        shown = stack.acquisition.without((k,))
        volume = np.einsum("zk,kyx->zyx", shown.smoothest(0.0), np.delete(images, k, 0))
        lacking = images[k] - volume[4 * k : 4 * k + 4].mean(0)
        assert told.missing[at] == pytest.approx(np.square(lacking).mean(), rel=1e-4)
        later = np.where(np.arange(16) % 4 > 0, 1.0, 0.0)
        unseen = later - shown.smoothest(0.0) @ shown.matrix @ later
        assert told.change[at] == pytest.approx(unseen[4 * k : 4 * k + 4].mean() ** 2, rel=1e-3, abs=1e-9)
