"""What is learned on lateral patches: losses of known networks, the same on bright and dim samples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.methods import Context
from napari_microdiffusion.methods._lateral import TEST_BATCHES, TEST_PATCHES, LateralLoss, huber_delta, widening_needed
from napari_microdiffusion.methods._patches import Cutter, Patches, along_rows
from napari_microdiffusion.methods._training import pseudo_huber
from napari_microdiffusion.volume import ProjectionStack


class Known(nn.Module):
    """A network that gives the changes and distances it is made of."""

    def __init__(self, change: Tensor, distance: Tensor) -> None:
        super().__init__()
        self.change, self.distance = change, distance

    def forward(self, *_: Tensor) -> tuple[Tensor, Tensor]:
        return self.change, self.distance[:, None].expand(-1, 2, -1, -1)


def cutter(gain: float = 1.0, noise: float = 0.0) -> Cutter:
    rng = np.random.default_rng(0)
    images = gaussian_filter(rng.standard_normal((6, 64, 64)), (0, 2, 2)) + noise * rng.standard_normal((6, 64, 64))
    stack = ProjectionStack((gain * images).astype(np.float32), Acquisition(slices=6))
    return Cutter(stack, 1.0, 3.0, 0.3, torch.Generator().manual_seed(0))


def losses(gain: float) -> list[float]:
    """Of a network that changes nothing, one that is right, and one that is half right."""
    cut = cutter(gain)
    loss = LateralLoss.of(cut, 2, 0.0, Context())
    patches = cut(2)
    start = along_rows(patches.acquisition.smoothest(0.0), patches.projections)
    error = patches.truth - start
    return [float(loss(Known(share * error, ((1 - share) * error).abs()), patches)) for share in (0.0, 1.0, 0.5)]


def test_the_right_change_leaves_no_loss():
    nothing, right, half = losses(1.0)
    assert right == pytest.approx(0, abs=1e-5)
    assert right < half < nothing
    assert 0.1 < nothing < 10


@pytest.mark.parametrize("gain", [1e-3, 1e3])
def test_the_loss_does_not_depend_on_the_brightness(gain):
    assert losses(gain) == pytest.approx(losses(1.0), rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(("noise", "delta"), [(0.0, 0.1), (1e-5, 0.1), (1e-3, 5 * 1e-3**0.5), (0.04, 1.0)])
def test_errors_no_larger_than_noise_count_by_their_square(noise, delta):
    """A tenth of what the interpolation lacks, in squares, but five standard deviations of the noise at least."""
    assert huber_delta(0.1, noise) == pytest.approx(delta)


def test_the_noise_is_that_of_the_patches():
    noisy = LateralLoss.of(cutter(noise=1.0), 2, 0.0, Context())
    assert noisy.delta == pytest.approx(5 * 6**0.5, rel=0.1)  # a slice has six times the variance of a projection


def test_what_the_estimate_costs():
    """With an interval of no width the quantile loss is linear in the error; the rest is pseudo-Huber."""
    cut = cutter()
    loss = LateralLoss.of(cut, 2, 0.0, Context())
    patches = cut(2)
    error = patches.truth - along_rows(patches.acquisition.smoothest(0.0), patches.projections)
    found = float(loss(Known(torch.zeros_like(error), torch.zeros_like(error)), patches))
    tails = float(error.abs().mean()) / loss.scale**0.5
    assert found == pytest.approx(float(pseudo_huber(error, loss.delta)) / loss.scale + tails, rel=1e-4)
    assert float(replace(loss, delta=1e6)(Known(torch.zeros_like(error), torch.zeros_like(error)), patches)) > found


@pytest.mark.parametrize("profile", ["uniform", "point"])
def test_grain_is_for_intervals_alone_and_only_where_no_projection_sees_it(profile):
    """It adds to how far off an interval's slices are, and nothing to what the estimate is to learn."""
    cut = cutter()
    loss = LateralLoss.of(cut, 2, 0.0, Context())
    drawn = cut(2)
    acquisition = drawn.acquisition.replace(profile=profile)
    seen = along_rows(acquisition.matrix, drawn.truth)
    patches = replace(drawn, acquisition=acquisition, projections=seen, grain=torch.zeros_like(drawn.truth))
    error = patches.truth - along_rows(acquisition.smoothest(0.0), seen)
    net = Known(torch.zeros_like(error), torch.zeros_like(error))
    grain = 10 * error.abs().max() * torch.randn(error.shape, generator=torch.Generator().manual_seed(0))
    more = float(loss(net, replace(patches, grain=grain))) - float(loss(net, patches))
    beyond = grain - along_rows(acquisition.smoothest(0.0) @ acquisition.matrix, grain)
    assert more * loss.scale**0.5 == pytest.approx(float((error + beyond).abs().mean() - error.abs().mean()), rel=1e-3)
    if profile == "point":
        assert float(beyond[:, acquisition.seen].abs().max()) < 1e-4 * float(grain.abs().max())


def test_grain_counts_where_intervals_are_tested():
    """Intervals of no more than the truth needs are too narrow for slices with much grain."""

    def grainy(share: float) -> float:
        cut = cutter()

        def drawn(number: int, _: object) -> Patches:
            patches = cut(number)
            return replace(patches, grain=share * torch.randn(patches.truth.shape, generator=generator))

        generator = torch.Generator().manual_seed(0)
        return widening_needed(SureOfAll(1.0, 1.0), drawn, 0.0, Context())

    none, much = grainy(0.0), grainy(10.0)
    assert much == pytest.approx((none**2 + (1.645 * 10) ** 2 * 5 / 6) ** 0.5, rel=0.05)  # a sixth of it is seen


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

    factor = widening_needed(SureOfAll(0.02, 0.01), cut(), 0.0, Context())
    errors, again = [], cut()
    for _ in range(TEST_BATCHES):
        truth = again(TEST_PATCHES).truth.numpy()
        shown = acquisition.bound(truth.shape[1] // acquisition.slices)
        planes = np.einsum("zk,ky,byx->bzx", shown.smoothest(0.0), shown.matrix, truth)
        errors.append((truth - planes)[:, first::every])
    held = np.concatenate(errors, None)
    assert np.mean((held >= -0.02 * factor) & (held <= 0.01 * factor)) == pytest.approx(0.9, abs=1e-3)


def test_where_projections_fix_every_slice_intervals_need_nothing():
    stack = ProjectionStack(np.random.default_rng(0).random((8, 40, 40), np.float32), Acquisition(slices=1, count=8))
    cut = Cutter(stack, 1.0, 3.0, 0.3, torch.Generator())
    assert widening_needed(SureOfAll(0.01, 0.01), cut, 0.0, Context()) == 1


def test_testing_stops_when_it_is_told_to():
    stopped = Context(cancelled=lambda: True)
    assert widening_needed(SureOfAll(0.01, 0.01), cutter(), 0.0, stopped) is None
