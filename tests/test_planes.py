"""Planes along z in all directions: each pixel once in each, told how far apart its columns are."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.methods import Context
from napari_microdiffusion.methods._patches import Anisotropy
from napari_microdiffusion.methods._planes import DIRECTIONS, XZ, YZ, Direction, lines, restore, through_planes
from napari_microdiffusion.run import exhaust
from napari_microdiffusion.volume import ProjectionStack

SIZES = (5, 5), (4, 9), (9, 4), (1, 6), (6, 1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_each_pixel_lies_on_one_line(size, direction):
    rows, columns, inside = lines(size, direction)
    counts = np.zeros(size, int)
    np.add.at(counts, (rows[inside], columns[inside]), 1)
    assert (counts == 1).all()
    assert inside.any(1).all()  # no line for nothing
    assert len(rows) <= sum(size)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_lines_go_on_in_their_direction_and_are_mirrored_beyond_the_image(size, direction):
    rows, columns, inside = lines(size, direction)
    steps = np.stack([np.diff(rows, axis=1), np.diff(columns, axis=1)], 2)
    within = inside[:, 1:] & inside[:, :-1]
    assert {tuple(step) for step in steps[within].tolist()} <= {direction, (-direction[0], -direction[1])}
    assert (np.abs(steps) <= 1).all()  # also beyond
    assert rows.min() == columns.min() == 0
    assert (rows.max() + 1, columns.max() + 1) == size


class Told(nn.Module):
    """Adds to every slice of a plane but the first of each projection, as much as it is told of columns' distance."""

    fold, channels = 4, 1

    def forward(self, planes: Tensor, _: Tensor, conditions: Tensor) -> tuple[Tensor, Tensor]:
        later = (torch.arange(planes.shape[1]) % 4 > 0).to(planes)[None, :, None]
        change = (later * conditions[:, 2, None, None]).expand_as(planes)
        return change, torch.ones(len(planes), 2, *planes.shape[1:])


@pytest.fixture
def stack() -> ProjectionStack:
    images = np.random.default_rng(0).random((4, 7, 10), np.float32)
    return ProjectionStack(images, Acquisition(slices=4, count=4))


@pytest.mark.parametrize(
    ("direction", "apart"), [(XZ, 1.0), (YZ, 1.0), ((1, 1), math.sqrt(2)), ((1, -1), math.sqrt(2))]
)
def test_the_network_is_told_how_far_apart_columns_are(direction: Direction, apart, stack):
    start = np.zeros(stack.volume_shape, np.float32)
    found = np.full_like(start, np.nan)
    for (y, x), estimate, _, _ in through_planes(Told(), stack, start, direction, Anisotropy(1.0), Context()):
        found[:, y, x] = estimate
    expected = np.where(np.arange(16) % 4 > 0, 0.25, -0.75) * math.log(apart)  # what no projection sees of it
    np.testing.assert_allclose(found, np.broadcast_to(expected[:, None, None], found.shape), atol=1e-5)


@pytest.mark.parametrize("strength", [1.0, 1.4])
def test_the_volume_is_the_mean_of_all_directions(strength, stack):
    """Two of them change it here; the change alone grows with the strength, and not the interval."""
    start = np.random.default_rng(1).random(stack.volume_shape, np.float32)
    volume = start.copy()
    distances = exhaust(restore(Told(), stack, volume, Anisotropy(1.0), strength, Context()))
    change = strength * np.where(np.arange(16) % 4 > 0, 0.25, -0.75) * math.log(2) / 4
    np.testing.assert_allclose(volume, start + change[:, None, None], atol=1e-5)
    np.testing.assert_allclose(distances, np.ones((2, *volume.shape)), atol=1e-6)
