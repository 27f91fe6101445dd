"""The coordinate networks against the features they stand for, written out point by point."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.interpolate import RegularGridInterpolator
from torch import Tensor, nn

from napari_microdiffusion.inr import (
    FourierLinear,
    HashGrid,
    HashNet,
    InrNet,
    gaussian_frequencies,
    level_cells,
    octave_frequencies,
)

SHAPE = (18, 40, 36)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def points(rays: int = 7) -> tuple[Tensor, Tensor]:
    """Slices (P, n) and pixels (P, R, 2)."""
    z = 20 * torch.rand(3, 5, generator=generator(1))
    return z, 64 * torch.rand(3, rays, 2, generator=generator(2)) - 32


def naive(layer: FourierLinear, z: Tensor, pixels: Tensor) -> Tensor:
    """The linear layer on cos and sin of 2π f·(z, y, x), for every point on its own, in float64."""
    where = torch.cat(
        [
            z[:, :, None, None].expand(-1, -1, pixels.shape[1], 1),
            pixels[:, None].expand(-1, z.shape[1], -1, 2),
        ],
        -1,
    ).double()
    phase = 2 * math.pi * where @ layer.frequencies.double().T
    return phase.cos() @ layer.cosine.double() + phase.sin() @ layer.sine.double() + layer.bias.double()


FREQUENCIES = {
    "gaussian": gaussian_frequencies(16, (0.03, 0.2), generator()),
    "octaves": octave_frequencies(6, SHAPE),
}


@pytest.mark.parametrize("frequencies", FREQUENCIES.values(), ids=FREQUENCIES)
def test_fourier_linear_is_a_linear_layer_on_fourier_features(frequencies):
    torch.manual_seed(3)
    layer = FourierLinear(frequencies, 6)
    nn.init.normal_(layer.bias)
    z, pixels = points()
    output = layer(z, layer.encode(pixels))
    assert output.shape == (3, 5, 7, 6)
    torch.testing.assert_close(output.double(), naive(layer, z, pixels), rtol=0, atol=1e-5)


def test_its_gradients_are_those_of_the_features():
    torch.manual_seed(3)
    layer = FourierLinear(FREQUENCIES["gaussian"], 6)
    z, pixels = points()
    target = torch.randn(3, 5, 7, 6, generator=generator(4))
    weights = list(layer.parameters())
    ours = torch.autograd.grad((layer(z, layer.encode(pixels)) * target).sum(), weights)
    theirs = torch.autograd.grad((naive(layer, z, pixels) * target).sum(), weights)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_frequencies_are_no_weights_but_are_saved():
    layer = FourierLinear(FREQUENCIES["gaussian"], 6)
    assert {name for name, _ in layer.named_parameters()} == {"cosine", "sine", "bias"}
    assert torch.equal(layer.state_dict()["frequencies"], FREQUENCIES["gaussian"])


# -- encodings ------------------------------------------------------------------------------


def test_octaves_are_sines_and_cosines_of_normalised_coordinates():
    """sin(2^l π v) and cos(2^l π v) of each axis: v in [−1, 1] over the volume, positions from its centre in voxels."""
    levels = 5
    frequencies = octave_frequencies(levels, SHAPE)
    assert frequencies.shape == (3 * levels, 3)
    position = torch.rand(50, 3, generator=generator()) * torch.tensor(SHAPE) - torch.tensor(SHAPE) / 2
    phase = 2 * math.pi * position @ frequencies.T
    v = 2 * position / torch.tensor(SHAPE)
    expected = torch.cat([2.0 ** torch.arange(levels) * math.pi * v[:, axis, None] for axis in range(3)], 1)
    torch.testing.assert_close(phase.sin(), expected.sin(), rtol=0, atol=1e-4)
    torch.testing.assert_close(phase.cos(), expected.cos(), rtol=0, atol=1e-4)


def test_gaussian_frequencies_have_the_bandwidths():
    count = 20_000
    frequencies = gaussian_frequencies(count, (0.025, 0.3), generator())
    assert frequencies.shape == (count, 3)
    error = 5 / (2 * count) ** 0.5
    for axis, bandwidth in enumerate((0.025, 0.3, 0.3)):
        assert float(frequencies[:, axis].std()) == pytest.approx(bandwidth, rel=error)
        assert abs(float(frequencies[:, axis].mean())) < bandwidth * error * 2**0.5
    correlation = torch.corrcoef(frequencies.T) - torch.eye(3)
    assert correlation.abs().max() < 5 / count**0.5


def test_the_generator_fixes_the_frequencies():
    one, same, other = (gaussian_frequencies(8, (1, 1), generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


# -- the network ----------------------------------------------------------------------------


def plain(net: InrNet, z: Tensor, pixels: Tensor) -> Tensor:
    """The same multilayer perceptron on features written out (no skip), in float64."""
    value = torch.relu(naive(net.first, z, pixels))
    for layer in net.hidden:
        value = torch.relu(nn.functional.linear(value, layer.weight.double(), layer.bias.double()))
    return nn.functional.linear(value, net.last.weight.double(), net.last.bias.double())[..., 0]


@pytest.mark.parametrize("layers", [1, 2, 4])
@pytest.mark.parametrize("rays", [1, 7])
def test_the_network_is_a_perceptron_on_the_features(layers, rays):
    torch.manual_seed(0)
    net = InrNet(FREQUENCIES["gaussian"], layers, 12)
    z, pixels = points(rays)
    intensity = net(z, pixels)
    assert intensity.shape == (3, 5, rays)
    torch.testing.assert_close(intensity.double(), plain(net, z, pixels), rtol=0, atol=1e-5)


@pytest.mark.parametrize("layers", [2, 3, 5])
def test_the_skip_feeds_the_encoding_in_again(layers):
    torch.manual_seed(0)
    net = InrNet(FREQUENCIES["gaussian"], layers, 12, skip=True)
    z, pixels = points()
    with_skip = net(z, pixels)
    assert net.again is not None
    for weight in net.again.parameters():
        nn.init.zeros_(weight)
    without = net(z, pixels)
    assert (with_skip - without).abs().max() > 1e-3
    torch.testing.assert_close(without.double(), plain(net, z, pixels), rtol=0, atol=1e-5)


@pytest.mark.parametrize("skip", [False, True])
def test_every_weight_has_a_gradient(skip):
    torch.manual_seed(0)
    net = InrNet(FREQUENCIES["octaves"], 3, 12, skip)
    net(*points()).square().mean().backward()
    assert [name for name, weight in net.named_parameters() if weight.grad is None or not weight.grad.any()] == []
    assert net.first.frequencies.grad is None


# -- the hash encoding ----------------------------------------------------------------------

CELLS = level_cells(4, (8.0, 12.0, 12.0), (3.0, 2.0, 2.0))
ANCHOR = 1.5


def filled_grid(entries: int, shape: tuple[int, int, int] = SHAPE, cells: Tensor = CELLS) -> HashGrid:
    """A grid with random entries of size one: as initialised they are too small to be compared."""
    grid = HashGrid(shape, cells, entries, ANCHOR)
    nn.init.normal_(grid.table, generator=generator(5))
    return grid


def inside(shape: tuple[int, int, int] = SHAPE, rays: int = 7) -> tuple[Tensor, Tensor]:
    """Slices (3, 5) and pixels (3, R, 2) all over a volume."""
    z = torch.rand(3, 5, generator=generator(1)) * shape[0]
    return z, (torch.rand(3, rays, 2, generator=generator(2)) - 0.5) * torch.tensor(shape[1:])


def axes_of(level: Tensor, shape: tuple[int, int, int]) -> list[np.ndarray]:
    """Where the planes of a level lie along z, in slices, and along y and x, in pixels from the centre."""
    z, y, x = level.tolist()
    first = ANCHOR - z * math.ceil(ANCHOR / z)
    planes = [first + z * np.arange(math.ceil((shape[0] - first) / z - 1e-4) + 1)]
    for size, cell in ((shape[1], y), (shape[2], x)):
        count = math.ceil(size / cell - 1e-4)
        planes.append(cell * (np.arange(count + 1) - count / 2))
    return planes


def features_of(grid: HashGrid, limit: int, z: Tensor, pixels: Tensor) -> np.ndarray:
    """Features (P, n, R, 2L), the first of all levels before the second: every grid point on its own, then scipy."""
    points = np.stack([*np.broadcast_arrays(z[:, :, None], pixels[:, None, :, 0], pixels[:, None, :, 1])], -1)
    table, start, found = grid.table.detach().numpy(), 0, []
    for level in grid.cells:
        planes = axes_of(level, grid.shape)
        sizes = [len(plane) for plane in planes]
        entries = math.prod(sizes)
        values = np.empty((*sizes, 2))
        for i, j, k in itertools.product(*map(range, sizes)):
            number = (i * sizes[1] + j) * sizes[2] + k
            if entries > limit:
                number = (i ^ j * 2654435761 ^ k * 805459861) % limit
            values[i, j, k] = table[:, start + number]
        found.append(RegularGridInterpolator(planes, values)(points))
        start += min(entries, limit)
    assert start == table.shape[1]
    return np.stack(found, -1).reshape(*points.shape[:-1], -1)


@pytest.mark.parametrize("entries", [2**20, 2**10, 2**5], ids=["dense", "finest hashed", "all hashed"])
@pytest.mark.parametrize("shape", [SHAPE, (5, 32, 33), (2, 40, 36)])
def test_the_grid_interpolates_its_entries(entries, shape):
    grid = filled_grid(entries, shape)
    z, pixels = inside(shape)
    features = grid(z, grid.encode(pixels))
    assert features.shape == (grid.features, 3 * 5 * 7)
    expected = features_of(grid, entries, z, pixels).reshape(-1, grid.features).T
    np.testing.assert_allclose(features.detach(), expected, atol=2e-4)


def test_coarse_levels_are_stored_one_to_one_and_finer_ones_share_entries():
    points = [math.prod(map(len, axes_of(level, SHAPE))) for level in CELLS]
    assert points == sorted(points)
    grid = HashGrid(SHAPE, CELLS, 2**8, ANCHOR)
    dense = sum(count <= 2**8 for count in points)
    assert 0 < dense == grid.dense < len(points)
    assert grid.table.shape == (2, sum(points[:dense]) + 2**8 * (len(points) - dense))


def test_grid_points_that_share_an_entry_have_the_same_features():
    """At grid points the features are the entries: of so many points, some collide at the finest level."""
    grid = filled_grid(2**8)
    z, y, x = axes_of(CELLS[-1], SHAPE)
    y, x = torch.meshgrid(torch.tensor(y[1:-1]).float(), torch.tensor(x[1:-1]).float(), indexing="ij")
    pixels = torch.stack([y, x], -1).reshape(1, -1, 2)
    finest = grid(torch.tensor([[z[2]]]).float(), grid.encode(pixels)).unflatten(0, (2, -1))[0, -1]
    assert len(finest) > 256
    entries = grid.table[0, grid.start[-1] :].detach()
    assert (finest.detach()[:, None] - entries).abs().amin(1).max() < 1e-3


@pytest.mark.parametrize("entries", [2**20, 2**6])
def test_positions_outside_are_taken_to_the_surface(entries):
    grid = filled_grid(entries)
    z, pixels = inside()
    z[0, 0], z[1, 2], pixels[0, 0, 0], pixels[2, 3, 1] = -30.0, 1e4, -500.0, 99.0
    half = torch.tensor(SHAPE[1:]) / 2
    held = grid(z.clamp(0, SHAPE[0]), grid.encode(torch.maximum(torch.minimum(pixels, half), -half)))
    assert torch.equal(grid(z, grid.encode(pixels)), held)


def test_gradients_reach_the_entries_that_were_read():
    """Against autograd's own way through indexing."""
    grid = filled_grid(2**8)
    z, pixels = inside()
    target = torch.randn(grid.features, 105, generator=generator(4))
    (grid(z, grid.encode(pixels)) * target).sum().backward()
    found = grid.table.grad
    assert found is not None
    assert 0.02 < (found != 0).float().mean() < 0.9  # a few points read a few entries
    for row, column in [(0, 3), (1, 40), *((found.abs() == found.abs().max()).nonzero().tolist())]:
        nudged = filled_grid(2**8)
        with torch.no_grad():
            nudged.table[row, column] += 1
            change = ((nudged(z, nudged.encode(pixels)) - grid(z, grid.encode(pixels))) * target).sum()
        assert float(change) == pytest.approx(float(found[row, column]), abs=1e-4)


def test_cells_shrink_geometrically():
    cells = level_cells(4, (8, 27, 27), (1, 1, 1))
    torch.testing.assert_close(cells, torch.tensor([[8.0, 27, 27], [4, 9, 9], [2, 3, 3], [1, 1, 1]]))
    assert level_cells(1, (8, 8, 8), (2, 3, 3)).tolist() == [[2, 3, 3]]


def test_bfloat16_leaves_positions_alone():
    grid = filled_grid(2**10)
    z, pixels = inside()
    exact = grid(z, grid.encode(pixels))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(grid(z, grid.encode(pixels)), exact)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_hash_network_is_a_perceptron_on_the_grids_features(layers):
    torch.manual_seed(0)
    net = HashNet(filled_grid(2**8), layers, 12)
    z, pixels = inside()
    value = net.grid(z, net.grid.encode(pixels)).T
    for layer in net.hidden:
        value = torch.relu(layer(value))
    torch.testing.assert_close(net(z, pixels), net.last(value).view(3, 5, 7), rtol=0, atol=1e-5)


@pytest.mark.parametrize("skip", [False, True])
def test_every_weight_of_the_hash_network_has_a_gradient(skip):
    torch.manual_seed(0)
    net = HashNet(HashGrid(SHAPE, CELLS, 2**8, ANCHOR), 3, 12, skip)
    net(*inside()).square().mean().backward()
    assert [name for name, weight in net.named_parameters() if weight.grad is None or not weight.grad.any()] == []
    assert ("again.weight" in net.state_dict()) == skip
