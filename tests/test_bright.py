"""How much wider intervals must be where it is bright: hidden projections beside those of patches, counted apart."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage.filters import threshold_otsu
from torch import Tensor, nn

from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.methods import Context
from napari_microdiffusion.methods import _bright as module
from napari_microdiffusion.methods._bright import MOST, bright_widening, brightness
from napari_microdiffusion.methods._patches import Anisotropy, Cutter
from napari_microdiffusion.methods._trial import Trial
from napari_microdiffusion.volume import ProjectionStack

ACQUISITION = Acquisition(slices=4)
LOOK = Anisotropy(1.0)


class Sure(nn.Module):
    """Changes nothing, and states the same distance to the bounds of every interval."""

    fold, channels = 4, 1

    def __init__(self, distance: float = 0.1) -> None:
        super().__init__()
        self.distance = distance

    def forward(self, planes: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(planes), torch.full((len(planes), 2, *planes.shape[1:]), self.distance)


def spots(along: float) -> ProjectionStack:
    """Bright spots on a dim ground, as sharp as this from one projection to the next (smoothed over so many)."""
    found = gaussian_filter(np.random.default_rng(3).standard_normal((9, 40, 40)), (along, 2, 2))
    found = np.exp(found / found.std())
    return ProjectionStack((found / found.max()).astype(np.float32), ACQUISITION.bound(9))


def cutter(stack: ProjectionStack) -> Cutter:
    return Cutter(stack, 1.0, 3.0, 0.3, torch.Generator().manual_seed(0))


def factor(stack: ProjectionStack, net: nn.Module | None = None) -> float | None:
    return bright_widening(net or Sure(), cutter(stack), stack, LOOK, 1.0, Context())  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def few_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCHES", 6)


def test_brightness_is_from_the_median_to_otsus_threshold() -> None:
    stack = spots(1.0)
    found, interpolated = brightness(stack), np.einsum("zk,kyx->zyx", stack.interpolation, stack.data)
    threshold = threshold_otsu(stack.data)
    assert found.shape == (36, 40, 40)
    assert (found[interpolated <= np.median(stack.data)] == 0).all()
    assert (found[interpolated >= threshold + 1e-6] == 1).all()
    half = (np.median(stack.data) + threshold) / 2
    assert np.interp(half, np.sort(interpolated, None), np.sort(found, None)) == pytest.approx(0.5, abs=0.01)


def test_the_factor_is_what_bright_hidden_projections_need_beside_those_of_patches() -> None:
    stack = spots(0.3)
    threshold, here, there = threshold_otsu(stack.data), [], []
    rows = np.linspace(0, 39, 32).round().astype(int)
    for start in range(1, 5):  # every fourth together, without the outermost
        hidden = tuple(range(start, 8, 4))
        shown = stack.acquisition.without(hidden)
        volume = np.einsum("zk,kyx->zyx", shown.smoothest(0.0), np.delete(stack.data, hidden, 0)[:, rows])
        for k in hidden:
            told = volume[4 * k : 4 * k + 4].mean(0)
            here.append(np.abs(stack.data[k][rows] - told)[told > threshold])
    cut = cutter(stack)
    for _ in range(module.BATCHES):
        patches = cut(module.PATCHES, LOOK, hide=True)
        assert patches.acquisition.hidden
        planes = np.einsum("zk,bkx->bzx", patches.acquisition.smoothest(0.0), patches.projections)
        for k in patches.acquisition.hidden:
            told, truth = (each[:, 4 * k : 4 * k + 4].mean(1) for each in (planes, patches.truth.numpy()))
            there.append(np.abs(truth - told)[told > threshold])
    assert min(map(len, map(np.concatenate, (here, there)))) > module.FEWEST
    expected = np.quantile(np.concatenate(here), 0.9) / np.quantile(np.concatenate(there), 0.9)
    assert 1 < expected < MOST
    assert factor(stack) == pytest.approx(expected, rel=1e-3)


def test_where_most_is_bright_nothing_is_widened() -> None:
    stack = spots(0.3)
    inverted = ProjectionStack(1 - stack.data, stack.acquisition)
    threshold, interpolated = (
        threshold_otsu(inverted.data),
        1 - np.einsum("zk,kyx->zyx", stack.interpolation, stack.data),
    )
    found = brightness(inverted)
    away = np.abs(interpolated - threshold) > 1e-5
    np.testing.assert_array_equal(found[away], (interpolated > threshold)[away])
    assert factor(inverted) == 1


def test_patches_that_surprise_nobody_are_no_measure() -> None:
    """What is the same over whole projections leaves errors of rounding."""
    plateaus = np.zeros((9, 40, 40), np.float32)
    plateaus[::2] = 1  # on and off, the same everywhere
    plateaus[:, :30] = 0
    assert factor(ProjectionStack(plateaus, ACQUISITION.bound(9)), Sure(1e6)) == 1


def test_intervals_are_as_many_times_as_wide_where_it_is_bright() -> None:
    stack = spots(1.0)
    usual, bright = (Trial({0.0: 20.0}, 19.0, 1.5, bright=by).factors(stack) for by in (1.0, 3.0))
    assert (usual == 1.5).all()
    np.testing.assert_allclose(bright, 1.5 * (1 + 2 * brightness(stack)), rtol=1e-6)


def test_what_is_stated_of_everything_cancels() -> None:
    stack = spots(0.3)
    assert factor(stack, Sure(5.0)) == pytest.approx(factor(stack, Sure(0.2)), rel=1e-5)


def test_intervals_are_never_narrowed() -> None:
    assert factor(spots(3.0)) == 1  # z is smoother than patches are


def test_where_next_to_nothing_is_bright_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FEWEST", 10**6)
    assert factor(spots(0.3)) == 1


@pytest.mark.parametrize("asked", [0, 6])  # at the first fold; among the patches, after four folds
def test_it_stops_when_it_is_told_to(asked: int) -> None:
    stack, answers = spots(0.3), itertools.count()
    stopped = Context(cancelled=lambda: next(answers) >= asked)
    assert bright_widening(Sure(), cutter(stack), stack, LOOK, 1.0, stopped) is None  # type: ignore[arg-type]
    assert next(answers) == asked + 1
