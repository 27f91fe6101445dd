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
from napari_microdiffusion.methods._lateral import LateralLoss, huber_delta
from napari_microdiffusion.methods._patches import Cutter, along_rows
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
