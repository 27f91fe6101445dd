"""How much sharper z may be than it was found: bright hidden projections beside those of patches, counted apart."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage.filters import threshold_otsu
from torch import Tensor, nn

from conftest import collected
from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.events import RunFailed, Stage, Step, exhaust
from napari_microdiffusion.methods import Context
from napari_microdiffusion.methods import _surprise as module
from napari_microdiffusion.methods._hidden import Fold
from napari_microdiffusion.methods._patches import Anisotropy, Cutter
from napari_microdiffusion.methods._surprise import sharper
from napari_microdiffusion.volume import ProjectionStack

ACQUISITION = Acquisition(slices=4)
LOOK = Anisotropy(1.0)


class Doubtful(nn.Module):
    """Its intervals are ``more`` times wider still without blur than with one of a slice, which it leaves as it is.

    And so many times wider where structures are half as long. Of what has less blur it makes something ``other``.
    """

    fold, channels = 4, 1

    def __init__(self, more: float = 0.0, distance: float = 0.1, other: float = 1.0) -> None:
        super().__init__()
        self.more, self.distance, self.other = more, distance, other

    def forward(self, planes: Tensor, _: Tensor, conditions: Tensor) -> tuple[Tensor, Tensor]:
        sigma, shorter = conditions[:, 0], conditions[:, 1] / math.log(2)
        distance = self.distance * (1 + self.more * (1 - sigma)) * (1 + self.more * shorter.clamp_min(0))
        change = self.other * torch.sin(torch.arange(planes.shape[1])) * (1 - sigma[:, None])
        return change[:, :, None].expand_as(planes), distance[:, None, None, None].expand(-1, 2, *planes.shape[1:])


def spots(along: float) -> ProjectionStack:
    """Bright spots on a dim ground, as sharp as this from one projection to the next (smoothed over so many)."""
    found = gaussian_filter(np.random.default_rng(3).standard_normal((9, 40, 40)), (along, 2, 2))
    found = np.exp(found / found.std())
    return ProjectionStack((found / found.max()).astype(np.float32), ACQUISITION.bound(9))


def cutter(stack: ProjectionStack) -> Cutter:
    return Cutter(stack, 1.0, 3.0, 0.3, torch.Generator().manual_seed(0))


def sharper_by(
    stack: ProjectionStack, net: nn.Module, look: Anisotropy = LOOK, shorter: bool = True, strength: float = 1.0
) -> float | None:
    return exhaust(sharper(net, cutter(stack), stack, look, strength, shorter, Context()))  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def few_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCHES", 6)


@pytest.fixture(scope="module")
def surprise() -> float:
    """Error that nine tenths of the bright hidden pixels of spots(0.3) are below, over that of patches."""
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
    for _ in range(6):
        patches = cut(module.PATCHES, LOOK, hide=True)
        assert patches.acquisition.hidden
        planes = np.einsum("zk,bkx->bzx", patches.acquisition.smoothest(0.0), patches.projections)
        for k in patches.acquisition.hidden:
            told, truth = (each[:, 4 * k : 4 * k + 4].mean(1) for each in (planes, patches.truth.numpy()))
            there.append(np.abs(truth - told)[told > threshold])
    assert min(map(len, map(np.concatenate, (here, there)))) > module.FEWEST
    found = np.quantile(np.concatenate(here), 0.9) / np.quantile(np.concatenate(there), 0.9)
    assert found > 1.1
    return float(found)


@pytest.mark.parametrize("more", [0.6, 1.0, 3.0, 10.0])
def test_it_is_told_so_much_sharper_that_it_is_surprised_no_more(more: float, surprise: float) -> None:
    tried = np.array([0, 1 / 3, 1])  # two thirds less of one slice blur as little as none
    above = surprise / (1 + more * tried)
    last = int(np.flatnonzero(above > 1)[-1])
    expected = np.interp(1.0, above[[last + 1, last]], tried[[last + 1, last]])
    assert 0 < expected < 1
    assert sharper_by(spots(0.3), Doubtful(more)) == pytest.approx(expected, rel=1e-3)


def test_where_there_is_no_blur_structures_are_told_shorter() -> None:
    stack, none, net = spots(0.3), Anisotropy(0.0), Doubtful(10.0, other=0.0)
    found = sharper_by(stack, net, none)
    assert found is not None
    assert 1 < found < 1.5
    assert sharper_by(stack, net, none, shorter=False) == 1
    assert none.sharpened(1.0) == none


@pytest.mark.parametrize("more", [0.1, 0.0, -0.5])
def test_where_surprises_hardly_fall_half_of_the_blur_is_taken(more: float) -> None:
    assert sharper_by(spots(0.3), Doubtful(more)) == module.UNTOLD
    assert sharper_by(spots(0.3), Doubtful(more), Anisotropy(0.0)) == 1  # there is none


SURPRISES: dict[str, tuple[float, float, list[float], float]] = {
    "none": (3.0, 1.0, [1.0], 0.0),
    "hardly any": (3.0, 1.0, [1.04], 0.0),
    "gone at the second": (3.0, 1.0, [1.2, 0.8], 1 / 6),
    "gone, and only just lower": (3.0, 1.0, [1.2, 1.02, 0.98], 0.5),
    "lower, and no lower": (3.0, 1.0, [4.0, 3.0, 2.9], 1 / 3),
    "no lower": (3.0, 1.0, [1.2, 1.18], 0.5),
    "lower to the end": (3.0, 1.0, [4.0, 3.0, 2.5, 2.0, 1.5, 1.4], 2.0),
    "gone with shorter structures": (3.0, 1.0, [4.0, 3.0, 2.5, 2.0, 0.0], 1.25),
    "no blur": (0.0, 1.0, [4.0, 3.0, 2.5], 2.0),
    "next to no blur": (0.5, 1.0, [4.0, 3.0, 2.5], 2.0),
    "little blur": (1.0, 1.0, [4.0, 3.0, 0.0], 7 / 9),  # a third less, and none
}


@pytest.mark.parametrize(("sigma", "elongation", "surprises", "by"), SURPRISES.values(), ids=SURPRISES)
def test_how_far_it_is_told_sharper(
    sigma: float, elongation: float, surprises: list[float], by: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = iter(surprises)
    monkeypatch.setattr(module, "_surprises", lambda *_: np.array([next(left)]))
    monkeypatch.setattr(module, "_of_patches", lambda *_: np.ones(module.FEWEST))
    monkeypatch.setattr(module, "told_folds", lambda *_: [Fold(*(np.ones((1, 30, 30), np.float32) for _ in range(4)))])
    assert sharper_by(spots(0.3), Doubtful(), Anisotropy(sigma, elongation)) == pytest.approx(by)
    assert next(left, None) is None


def test_a_surprise_that_is_no_number_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_surprises", lambda *_: np.array([np.nan]))
    monkeypatch.setattr(module, "_of_patches", lambda *_: np.ones(module.FEWEST))
    with pytest.raises(RunFailed):
        sharper_by(spots(0.3), Doubtful())


@pytest.mark.parametrize(("strength", "by"), [(0.0, module.UNTOLD), (1.0, 0.0)])
def test_the_error_is_that_of_changes_as_strong_as_they_are_taken(
    strength: float, by: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    three, one = (np.full((1, 30, 30), value, np.float32) for value in (3, 1))
    monkeypatch.setattr(module, "told_folds", lambda *_: [Fold(three, 2 * one, one, one / 2)])
    monkeypatch.setattr(module, "_of_patches", lambda *_: np.ones(module.FEWEST))
    assert sharper_by(spots(0.3), Doubtful(), strength=strength) == by


@pytest.mark.parametrize("bright", [0, 1])
def test_where_too_few_pixels_are_bright_nothing_is_told(bright: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the stack, or of patches."""
    one = np.ones((1, 30, 30), np.float32)
    monkeypatch.setattr(module, "told_folds", lambda *_: [Fold(3 * one, one * bright, 0 * one, one)])
    monkeypatch.setattr(module, "_of_patches", lambda *_: np.ones(module.FEWEST - bright))
    assert sharper_by(spots(0.3), Doubtful()) == 0


def test_it_tells_how_far_it_is() -> None:
    stack = spots(0.3)
    events, _ = collected(sharper(Doubtful(), cutter(stack), stack, LOOK, 1.0, True, Context()))  # type: ignore[arg-type]
    stage, *steps = events
    assert isinstance(stage, Stage)
    assert [step.done for step in steps if isinstance(step, Step)] == [1, 2, 3]
    assert stage.steps == 6  # patches; as found, a third less, none, shorter twice


def test_where_most_is_bright_nothing_is_told() -> None:
    stack = spots(0.3)
    assert sharper_by(ProjectionStack(1 - stack.data, stack.acquisition), Doubtful(10.0)) == 0


def test_patches_that_surprise_nobody_are_no_measure() -> None:
    """What is the same over whole projections leaves errors of rounding."""
    plateaus = np.zeros((9, 40, 40), np.float32)
    plateaus[::2] = 1  # on and off, the same everywhere
    plateaus[:, :30] = 0
    assert sharper_by(ProjectionStack(plateaus, ACQUISITION.bound(9)), Doubtful(10.0, 1e6)) == 0


def test_what_is_stated_of_everything_cancels() -> None:
    stack = spots(0.3)
    assert sharper_by(stack, Doubtful(1.0, 5.0)) == pytest.approx(sharper_by(stack, Doubtful(1.0, 0.2)), rel=1e-4)


def test_it_is_never_told_blurrier() -> None:
    assert sharper_by(spots(3.0), Doubtful(10.0)) == 0  # z is smoother than patches are


def test_where_next_to_nothing_is_bright_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FEWEST", 10**6)
    assert sharper_by(spots(0.3), Doubtful(10.0)) == 0


@pytest.mark.parametrize("asked", [0, 6, 13])  # at the first fold; among patches, after four; told sharper, after six
def test_it_stops_when_it_is_told_to(asked: int) -> None:
    stack, answers = spots(0.3), itertools.count()
    stopped = Context(cancelled=lambda: next(answers) >= asked)
    found = exhaust(sharper(Doubtful(1.0), cutter(stack), stack, LOOK, 1.0, True, stopped))  # type: ignore[arg-type]
    assert found is None
    assert next(answers) == asked + 1
