"""Planes along z in all directions: each pixel once in each, told how far apart its columns are."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conftest import collected
from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.events import Event, Stage, Step, exhaust
from napari_microdiffusion.methods import Context
from napari_microdiffusion.methods._patches import Anisotropy
from napari_microdiffusion.methods._planes import (
    DIRECTIONS,
    PARTS,
    XZ,
    YZ,
    Direction,
    extent,
    intervals,
    lines,
    restore,
    through_planes,
)
from napari_microdiffusion.volume import ProjectionStack

SIZES = (5, 5), (4, 9), (9, 4), (1, 6), (6, 1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_each_pixel_lies_on_one_line(size, direction):
    count, length = extent(size, direction)
    pixels, inside = lines(size, direction, 0, count)
    assert pixels.shape == (count, length)
    assert sorted(pixels[inside]) == list(range(size[0] * size[1]))
    assert inside.any(1).all()  # no line for nothing
    some = [lines(size, direction, number, number + 1) for number in range(count)]
    np.testing.assert_array_equal(pixels, np.concatenate([each for each, _ in some]))
    np.testing.assert_array_equal(inside, np.concatenate([each for _, each in some]))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_lines_go_on_in_their_direction(size, direction):
    pixels, inside = lines(size, direction, 0, extent(size, direction)[0])
    rows, columns = np.divmod(pixels, size[1])
    steps = np.stack([np.diff(rows, axis=1), np.diff(columns, axis=1)], 2)[inside[:, 1:] & inside[:, :-1]]
    assert {tuple(step) for step in steps.tolist()} <= {direction, (-direction[0], -direction[1])}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("direction", [(1, 1), (1, -1)])
def test_diagonals_go_on_in_the_mirror_beyond_the_image(size, direction):
    """As through the image and its mirror images side by side, which numpy makes."""
    pixels, _ = lines(size, direction, 0, extent(size, direction)[0])
    short = min(size)
    image = np.arange(size[0] * size[1]).reshape(size)
    image = image if size[0] == short else image.T
    beside = np.pad(image, ((0, 0), (short - 1, short - 1)), mode="symmetric")
    slope = direction[1]
    first = np.arange(extent(size, direction)[0]) + (0 if slope > 0 else short - 1)
    along = np.arange(short)
    np.testing.assert_array_equal(pixels, beside[along, first[:, None] + slope * along])


class Told(nn.Module):
    """Adds to every slice of a plane but the first of each projection, as much as it is told of columns' distance."""

    fold, channels = 4, 1

    def forward(self, planes: Tensor, _: Tensor, conditions: Tensor) -> tuple[Tensor, Tensor]:
        later = (torch.arange(planes.shape[1]) % 4 > 0).to(planes)[None, :, None]
        change = (later * conditions[:, 2, None, None]).expand_as(planes)
        return change, torch.stack([planes, 2 * planes], 1)


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
    for at, estimate, *_ in through_planes(Told(), stack, start, direction, Anisotropy(1.0), Context()):
        found.reshape(len(found), -1)[:, at] = estimate
    expected = np.where(np.arange(16) % 4 > 0, 0.25, -0.75) * math.log(apart)  # what no projection sees of it
    np.testing.assert_allclose(found, np.broadcast_to(expected[:, None, None], found.shape), atol=1e-5)


@pytest.mark.parametrize("batch_bytes", [1, 2**31])
@pytest.mark.parametrize("strength", [1.0, 1.4])
def test_the_volume_is_the_mean_of_all_directions(strength, batch_bytes, stack):
    """Two of them change it here, and the change grows with the strength."""
    start = np.random.default_rng(1).random(stack.volume_shape, np.float32)
    given, context = start.copy(), Context(batch_bytes=batch_bytes)
    events, volume = collected(restore(Told(), stack, given, Anisotropy(1.0), strength, context))
    np.testing.assert_array_equal(given, start)
    change = strength * np.where(np.arange(16) % 4 > 0, 0.25, -0.75) * math.log(2) / 4
    np.testing.assert_allclose(volume, start + change[:, None, None], atol=1e-5)
    assert counted(events)


@pytest.mark.parametrize("batch_bytes", [1, 2**31])
def test_intervals_are_what_planes_state(batch_bytes, stack):
    start = np.random.default_rng(1).random(stack.volume_shape, np.float32)
    context = Context(batch_bytes=batch_bytes)
    events, distances = collected(intervals(Told(), stack, start, Anisotropy(1.0), context))
    np.testing.assert_allclose(distances, np.stack([start, 2 * start]), atol=1e-5)
    assert counted(events)
    assert sum(isinstance(event, Step) for event in events) >= 2 * PARTS  # a stop is heeded in between


def counted(events: list[Event]) -> bool:
    """Whether one stage was announced, and every step of it done."""
    stage, *steps = (event for event in events if isinstance(event, Stage | Step))
    return isinstance(stage, Stage) and steps[-1] == Step(stage.steps)


def test_stopped_half_way_what_was_restored_by_then_is_added(stack):
    start = np.random.default_rng(1).random(stack.volume_shape, np.float32)
    context = Context(cancelled=lambda: True)
    volume = exhaust(restore(Told(), stack, start, Anisotropy(1.0), 1.4, context))
    np.testing.assert_allclose(volume, start, atol=1e-5)  # XZ planes, which this network leaves as they are


def test_intervals_end_when_they_are_told_to(stack):
    start = np.zeros(stack.volume_shape, np.float32)
    events, _ = collected(intervals(Told(), stack, start, Anisotropy(1.0), Context(cancelled=lambda: True)))
    assert sum(isinstance(event, Step) for event in events) == 1
