"""How well hidden projections are told: what strength they ask for, and the errors that are left."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.methods import Context
from napari_microdiffusion.methods._hidden import (
    FURTHEST,
    PATCHES,
    SHOWN,
    Hidden,
    hidden_patches,
    hidden_planes,
    widening_needed,
)
from napari_microdiffusion.methods._patches import Anisotropy, Cutter
from napari_microdiffusion.methods._planes import Z90
from napari_microdiffusion.volume import ProjectionStack


def told(told_share: float, noise: float = 0.0, projections: int = 6) -> Hidden:
    """Hidden projections of which a network tells so much, and noise."""
    rng = np.random.default_rng(0)
    missing = rng.standard_normal((projections, 10000))
    change = told_share * missing + noise * rng.standard_normal(missing.shape)
    means = [product.mean(1) for product in (missing**2, missing * change, change**2)]
    return Hidden(*means, np.ones(projections))


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
    names = ("missing", "agreement", "change", "spread")
    both = Hidden(*(np.concatenate([getattr(right, name), getattr(weak, name)]) for name in names))
    np.testing.assert_allclose(both.error / both.missing, [0] * 20 + [0.04], atol=1e-4)
    network, interpolation = told(1.0, 0.1).scores(1.0)
    assert (network > interpolation + 15).all()


def test_a_network_that_changes_nothing_is_no_better_than_interpolation():
    hidden = told(0.0)
    np.testing.assert_array_equal(hidden.error, hidden.missing)


def test_surprise_is_in_standard_deviations_and_no_projection_has_the_last_word():
    plain = told(0.0, projections=8)
    twice = replace(plain, spread=plain.missing / 4)
    assert twice.surprise == pytest.approx(2)
    bright = np.where(np.arange(8) == 0, 1e4, 1.0)  # one in which nothing is told, beside seven
    assert replace(twice, missing=bright * twice.missing).surprise == pytest.approx(2 * (FURTHEST / 2) ** (1 / 8))
    empty = replace(twice, missing=twice.missing * (bright == 1), spread=twice.spread * (bright == 1))
    assert empty.surprise == pytest.approx(2 * (2 * FURTHEST) ** (-1 / 8))


class SureOfShownSlices(nn.Module):
    """A network that changes nothing, and states a standard deviation of 1 but where every fourth slice is shown."""

    fold, channels = 4, 1

    def forward(self, planes: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
        doubt = (torch.arange(planes.shape[1]) % 4 > 0).to(planes)[None, None, :, None]
        return torch.zeros_like(planes), (Z90 * doubt).expand(len(planes), 2, *planes.shape[1:])


@pytest.mark.parametrize("profile", ["uniform", "point", "gaussian"])
def test_all_slices_of_a_projection_have_a_say_in_what_is_stated(profile):
    """Also those that a beam of single slices does not show: of the one that it shows, nothing is stated here."""
    acquisition = Acquisition(slices=4, profile=profile, count=8)
    images = np.random.default_rng(0).random((8, 40, 40), np.float32)
    stack, context, net = ProjectionStack(images, acquisition), Context(), SureOfShownSlices()
    cut = Cutter(stack, 1.0, 3.0, 0.3, torch.Generator().manual_seed(0))
    told = hidden_planes(net, stack, Anisotropy(1.0), context), hidden_patches(net, cut, Anisotropy(1.0), 0.0, context)
    for hidden in told:
        np.testing.assert_allclose(hidden.spread, 0.75**2, rtol=1e-5)


class SureOfAll(nn.Module):
    """A network that changes nothing, and states the same distances to the bounds of every interval."""

    fold, channels = 4, 1

    def __init__(self, below: float, above: float) -> None:
        super().__init__()
        self.distances = torch.tensor([below, above])

    def forward(self, planes: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(planes), self.distances[:, None, None].expand(len(planes), 2, *planes.shape[1:])


@pytest.mark.parametrize(
    ("acquisition", "first", "every"),
    [(Acquisition(slices=4), 0, 1), (Acquisition(slices=2, profile="point"), 1, 2)],
    ids=["of all slices", "of those between measured ones"],
)
def test_what_intervals_of_patches_need_to_hold_nine_tenths_of_them(acquisition, first, every):
    """Counted apart from it: the errors of interpolation on the same patches."""
    stack = ProjectionStack(np.random.default_rng(0).random((8, 40, 40), np.float32), acquisition.bound(8))

    def cut() -> Cutter:
        return Cutter(stack, 1.0, 3.0, 0.3, torch.Generator().manual_seed(0))

    factor = widening_needed(SureOfAll(0.02, 0.01), cut(), Anisotropy(1.0), 0.0, Context())
    errors, again = [], cut()
    for _ in range(SHOWN):
        truth = again(PATCHES, Anisotropy(1.0)).truth.numpy()
        shown = acquisition.bound(truth.shape[1] // acquisition.slices)
        planes = np.einsum("zk,ky,byx->bzx", shown.smoothest(0.0), shown.matrix, truth)
        errors.append((truth - planes)[:, first::every])
    held = np.concatenate(errors, None)
    assert np.mean((held >= -0.02 * factor) & (held <= 0.01 * factor)) == pytest.approx(0.9, abs=1e-3)


def test_where_projections_fix_every_slice_intervals_need_nothing():
    stack = ProjectionStack(np.random.default_rng(0).random((8, 40, 40), np.float32), Acquisition(slices=1, count=8))
    cut = Cutter(stack, 1.0, 3.0, 0.3, torch.Generator())
    assert widening_needed(SureOfAll(0.01, 0.01), cut, Anisotropy(1.0), 0.0, Context()) == 1


def test_patches_stop_when_they_are_told_to():
    stack = ProjectionStack(np.random.default_rng(0).random((6, 32, 32), np.float32), Acquisition(slices=4, count=6))
    cut = Cutter(stack, 1.0, 3.0, 0.3, torch.Generator())
    stopped = Context(cancelled=lambda: True)
    assert hidden_patches(SureOfShownSlices(), cut, Anisotropy(1.0), 0.0, stopped) is None
    assert widening_needed(SureOfShownSlices(), cut, Anisotropy(1.0), 0.0, stopped) is None
