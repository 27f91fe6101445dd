"""The neural representation: what it is trained on, where its slices lie, neighbours, seeds, stops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.events import Event, Preview, RunFailed, Stage, Step, exhaust
from napari_microdiffusion.methods import Context, Inr
from napari_microdiffusion.trained import load_trained, save_trained
from napari_microdiffusion.volume import ProjectionStack

TINY: dict[str, Any] = {"features": 32, "width": 16, "layers": 2, "rays": 256, "steps": 4, "learning_rate": 1e-2}
ACQUISITIONS = {
    "uniform": Acquisition(slices=4),
    "odd": Acquisition(slices=5),
    "point": Acquisition(slices=4, profile="point"),
    "gaussian": Acquisition(slices=4, profile="gaussian", fwhm=2.5),
    "measured": Acquisition(slices=4, profile="measured", weights=(0.0, 1.0, 3.0, 0.5)),
    "gaps": Acquisition(slices=4, stride=7),
    "overlap": Acquisition(slices=4, stride=3),
    "hidden": Acquisition(slices=4, count=6, hidden=(1, 5)),
}


def smooth_volume(depth: int = 24) -> np.ndarray:
    """Waves along all axes, (Z, 32, 36), between 0 and 1."""
    z, y, x = np.meshgrid(np.arange(depth) + 0.5, np.arange(32) + 0.5, np.arange(36) + 0.5, indexing="ij")
    return (0.5 + 0.2 * np.sin(z / 5) * np.cos(y / 6) + 0.25 * np.sin(x / 7 + z / 9)).astype(np.float32)


def projected(acquisition: Acquisition = ACQUISITIONS["uniform"]) -> ProjectionStack:
    bound = acquisition if acquisition.count else acquisition.fitted(24)
    return ProjectionStack(bound.project(smooth_volume(bound.depth)), bound)


def reconstructed(method: Inr, stack: ProjectionStack, seed: int = 0) -> np.ndarray:
    context = Context(seed=seed)
    return exhaust(method.predict(stack, exhaust(method.fit(stack, context)), context)).data


# -- training -------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["gaussian", "sincos", "hash"])
def test_training_lowers_the_loss_and_finds_the_volume(encoding):
    stack, truth = projected(), smooth_volume()
    method = Inr(**TINY | {"steps": 60, "rays": 1024, "width": 32}, encoding=encoding, octaves=3, consistency="none")
    losses = [event.loss for event in method.fit(stack, Context()) if isinstance(event, Step)]
    assert np.mean(losses[-5:]) < 0.2 * losses[0]
    error = np.mean((reconstructed(method, stack) - truth) ** 2)
    assert error < 0.5 * truth.var()  # of the best constant


class Ramp(nn.Module):
    """In place of the network: the intensity is a linear function of position, which training would find again."""

    def __init__(self, z: float = 0.0, y: float = 0.0, x: float = 0.0) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor([z, y, x]))

    def forward(self, z: Tensor, pixels: Tensor) -> Tensor:
        return self.slope[0] * z[..., None] + (pixels @ self.slope[1:])[:, None]


@pytest.fixture
def ramp(monkeypatch: pytest.MonkeyPatch):
    """Put a ramp in the network's place."""

    def put(**slopes: float) -> None:
        monkeypatch.setattr(Inr, "network", lambda *_: Ramp(**slopes))

    return put


def ramp_stack(acquisition: Acquisition, z: float, y: float, x: float) -> ProjectionStack:
    """Projections of a ramp, with slices centred at k + 1/2 and y and x measured from the image's centre."""
    bound = acquisition if acquisition.count else acquisition.bound(6)
    plane = y * (np.arange(32) - 15.5)[:, None] + x * (np.arange(40) - 19.5)
    return ProjectionStack((z * bound.projection_centres[:, None, None] + plane).astype(np.float32), bound)


@pytest.mark.parametrize("acquisition", ACQUISITIONS.values(), ids=ACQUISITIONS)
@pytest.mark.parametrize("slopes", [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.5, -0.2, 0.1)])
def test_the_loss_compares_means_at_the_right_place(ramp, acquisition, slopes):
    """A network that is right has no loss; half a slice or half a pixel off would be 1/4."""
    ramp(**dict(zip("zyx", slopes, strict=True)))
    _, first, *_ = Inr(**TINY).fit(ramp_stack(acquisition, *slopes), Context())
    assert isinstance(first, Step)
    assert first.loss == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize("acquisition", ACQUISITIONS.values(), ids=ACQUISITIONS)
def test_slices_are_centred_at_k_and_a_half(ramp, acquisition):
    ramp(z=1.0, y=0.5, x=0.25)
    stack = ramp_stack(acquisition, 1, 0.5, 0.25)
    weights = Ramp(z=1.0, y=0.5, x=0.25).state_dict()
    data = exhaust(Inr(**TINY, neighbouring="none", consistency="none").predict(stack, weights, Context())).data
    z, y, x = np.ogrid[: stack.acquisition.depth, :32, :40]
    np.testing.assert_allclose(data, (z + 0.5) + 0.5 * (y - 15.5) + 0.25 * (x - 19.5), atol=1e-5)


@pytest.mark.parametrize(("epochs", "rays", "steps"), [(None, 256, 4), (1, 256, 28), (2, 1000, 14), (1, 100_000, 1)])
def test_epochs_are_passes_over_all_measured_pixels(epochs, rays, steps):
    stack = projected()  # 6 x 32 x 36 = 6912 pixels
    method = Inr(**TINY | {"rays": rays}, epochs=epochs)
    assert method.training_steps(stack) == steps
    stage, *rest = method.fit(stack, Context())
    assert stage == Stage(stage.name, steps)
    assert [event.done for event in rest] == list(range(1, steps + 1))


@pytest.mark.parametrize("stride", [4, 6])
def test_features_and_bandwidths_mean_what_they_say(stride):
    """Bandwidths are in cycles per ten projections and per 64 pixels; half of the features are cosines."""
    stack = projected(Acquisition(slices=4, stride=stride))
    net = Inr(features=4096, bandwidth_z=3.0, bandwidth_xy=8.0).network(stack, Context())
    assert net.first.frequencies.shape == (2048, 3)
    spread = net.first.frequencies.std(0) * torch.tensor([10 * stride, 64, 64])
    torch.testing.assert_close(spread, torch.tensor([3.0, 8.0, 8.0]), rtol=5 / 4096**0.5, atol=0)


def test_coherence_draws_adjacent_slices_together():
    stack = projected()
    settings = TINY | {"steps": 30, "bandwidth_z": 20.0, "consistency": "none"}
    free, bound = (reconstructed(Inr(**settings, coherence=c), stack) for c in (0.0, 10.0))
    assert (np.diff(bound, axis=0) ** 2).mean() < 0.5 * (np.diff(free, axis=0) ** 2).mean()


def test_a_loss_that_is_no_number_ends_the_run():
    stack = projected()
    huge = ProjectionStack(stack.data * np.float32(1e30), stack.acquisition)  # its square is beyond float32
    with pytest.raises(RunFailed, match="training diverged"):
        exhaust(Inr(**TINY).fit(huge, Context()))


# -- neighbouring-based inference (Eq. 3) ---------------------------------------------------


@pytest.mark.parametrize(
    ("neighbouring", "n", "weights", "offset"),
    [
        ("gaussian", 6, [0.15903, 0.16812, 0.17285, 0.17285, 0.16812, 0.15903], -2.5),
        ("uniform", 6, [1 / 6] * 6, -2.5),
        ("gaussian", 1, [1.0], 0.0),
        ("gaussian", 3, [0.327105, 0.34579, 0.327105], -1.0),
        ("none", 6, [1.0], 0.0),
    ],
)
def test_weights_of_the_neighbours(neighbouring, n, weights, offset):
    mix, first = Inr(neighbouring=neighbouring)._neighbours(n)
    np.testing.assert_allclose(mix, weights, atol=1e-5)
    assert mix.sum() == pytest.approx(1)
    assert first == offset


@pytest.mark.parametrize("slices", [4, 5])
@pytest.mark.parametrize("neighbouring", ["gaussian", "uniform"])
def test_neighbours_are_a_moving_average_of_finely_sampled_slices(neighbouring, slices):
    stack = projected(Acquisition(slices=slices))
    method = Inr(**TINY, neighbouring=neighbouring, consistency="none")
    weights = exhaust(method.fit(stack, Context()))
    net = method.network(stack, Context())
    net.load_state_dict(weights)
    depth = stack.acquisition.depth
    fine = torch.arange(1, 2 * depth) / 2  # every half slice, from the first slice's centre to the last one's
    y, x = torch.meshgrid(torch.arange(32) - 15.5, torch.arange(36) - 17.5, indexing="ij")
    with torch.no_grad():
        sampled = net(fine[None], torch.stack([y, x], -1).reshape(1, -1, 2)).reshape(-1, 32, 36).numpy()
    k = np.arange(slices)
    mix = np.exp(-(((k + 0.5) / slices - 0.5) ** 2) / 2) if neighbouring == "gaussian" else np.ones(slices)
    data = exhaust(method.predict(stack, weights, Context())).data
    for z in range(depth):
        places = np.clip(z + 0.5 + k - (slices - 1) / 2, 0.5, depth - 0.5)  # held at the ends
        expected = np.average(sampled[np.rint(2 * places).astype(int) - 1], axis=0, weights=mix)
        np.testing.assert_allclose(data[z], expected, atol=1e-5)


# -- acquisitions, sizes, seeds -------------------------------------------------------------


@pytest.mark.parametrize("acquisition", ACQUISITIONS.values(), ids=ACQUISITIONS)
@pytest.mark.parametrize(
    ("neighbouring", "encoding"), [("none", "gaussian"), ("gaussian", "gaussian"), ("none", "hash")]
)
def test_every_acquisition_is_fitted(acquisition, neighbouring, encoding):
    stack = projected(acquisition)
    data = reconstructed(Inr(**TINY, neighbouring=neighbouring, encoding=encoding, consistency="final"), stack)
    assert data.shape == stack.volume_shape
    assert data.dtype == np.float32
    if stack.acquisition.decoupled:
        np.testing.assert_allclose(stack.acquisition.project(data), stack.data, atol=1e-5)
    else:
        residual = stack.acquisition.residual(data, stack.data)
        assert np.sqrt(np.mean(residual**2)) < 0.1 * stack.data.std()


@pytest.mark.parametrize("encoding", ["gaussian", "hash"])
def test_mixed_precision_changes_rounding_only(encoding):
    stack = projected()
    method = Inr(**TINY | {"steps": 30}, encoding=encoding, consistency="none")
    weights = exhaust(method.fit(stack, Context()))
    exact, mixed = (exhaust(method.predict(stack, weights, Context(dtype=t))).data for t in ("float32", "bfloat16"))
    assert mixed.dtype == np.float32
    assert 0 < np.abs(mixed - exact).max() < 0.05


@pytest.mark.parametrize("encoding", ["gaussian", "sincos", "hash"])
def test_the_seed_fixes_the_result(encoding):
    stack, method = projected(), Inr(**TINY | {"steps": 8}, encoding=encoding, skip=True)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one = reconstructed(method, stack)
    assert torch.equal(torch.random.get_rng_state(), before)  # and other programs' random numbers are left alone
    torch.manual_seed(6)
    np.testing.assert_array_equal(reconstructed(method, stack), one)
    assert np.abs(reconstructed(method, stack, seed=1) - one).max() > 1e-3


# -- previews and stops ---------------------------------------------------------------------


def test_slices_stream_in_order():
    stack, method = projected(), Inr(**TINY, neighbouring="gaussian", consistency="none")
    weights = exhaust(method.fit(stack, Context()))
    events: list[Event] = []
    generator = method.predict(stack, weights, Context())
    while True:
        try:
            events.append(next(generator))
        except StopIteration as stop:
            data = stop.value.data
            break
    previews = [event for event in events if isinstance(event, Preview)]
    assert [preview.start for preview in previews] == list(range(stack.acquisition.depth))
    np.testing.assert_array_equal(np.concatenate([preview.data for preview in previews]), data)
    assert [event.done for event in events if isinstance(event, Step)] == list(range(1, stack.acquisition.depth + 1))
    assert [event.steps for event in events if isinstance(event, Stage)] == [stack.acquisition.depth]


def test_previews_are_copies():
    stack, method = projected(), Inr(**TINY)
    weights = exhaust(method.fit(stack, Context()))
    expected = exhaust(method.predict(stack, weights, Context())).data

    def spoilt():
        generator = method.predict(stack, weights, Context())
        while True:
            try:
                event = next(generator)
            except StopIteration as stop:
                return stop.value
            if isinstance(event, Preview):
                event.data[:] = 99

    np.testing.assert_array_equal(spoilt().data, expected)


def test_training_shows_the_volume_so_far():
    stack = projected()
    events = list(Inr(**TINY).fit(stack, Context(preview_seconds=0)))
    previews = [event for event in events if isinstance(event, Preview)]
    assert previews
    for preview in previews:  # whole volumes, made consistent
        assert preview.data.shape == stack.volume_shape
        assert abs(stack.acquisition.residual(preview.data, stack.data)).max() < 1e-5
    assert isinstance(events[-1], Step)  # the last step is followed by the volume itself, not by a preview
    quiet = exhaust(Inr(**TINY).fit(stack, Context()))
    watched = exhaust(Inr(**TINY).fit(stack, Context(preview_seconds=0)))
    assert all(torch.equal(quiet[name], watched[name]) for name in quiet)


def test_a_stop_in_training_keeps_the_weights_so_far():
    stack, method = projected(), Inr(**TINY | {"steps": 1000}, schedule="constant")
    stop, seen = False, []

    def asked() -> bool:
        return stop

    generator = method.fit(stack, Context(cancelled=asked))
    while True:
        try:
            seen.append(next(generator))
        except StopIteration as end:
            weights = end.value
            break
        stop = seen[-1] == Step(3, getattr(seen[-1], "loss", None))
    assert [event.done for event in seen if isinstance(event, Step)] == [1, 2, 3]
    expected = exhaust(Inr(**TINY | {"steps": 3}, schedule="constant").fit(stack, Context()))
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_a_stop_in_a_preview_ends_it_and_the_training():
    stack = projected()
    asked = iter([False] * 4 + [True] * 100)
    context = Context(preview_seconds=0, cancelled=lambda: next(asked))
    events = list(Inr(**TINY | {"steps": 1000}).fit(stack, context))
    assert len([event for event in events if isinstance(event, Preview)]) < stack.acquisition.depth
    assert len([event for event in events if isinstance(event, Step)]) <= 2
    assert context.stopped


def test_a_stop_in_rendering_keeps_the_slices_so_far():
    stack, method = projected(), Inr(**TINY, consistency="none")
    weights = exhaust(method.fit(stack, Context()))
    whole = exhaust(method.predict(stack, weights, Context())).data
    asked = iter([False] * 5 + [True] * 100)
    context = Context(cancelled=lambda: next(asked))
    data = exhaust(method.predict(stack, weights, context)).data
    assert context.stopped
    np.testing.assert_array_equal(data[:5], whole[:5])
    assert not data[5:].any()


# -- the hash encoding ----------------------------------------------------------------------

HASH: dict[str, Any] = TINY | {"encoding": "hash", "steps": 40}


@pytest.mark.parametrize("acquisition", ACQUISITIONS.values(), ids=ACQUISITIONS)
def test_the_finest_grid_has_planes_at_the_projections_centres(acquisition):
    stack = projected(acquisition)
    grid = Inr(**HASH).network(stack, Context()).grid
    planes = (torch.arange(int(grid.nodes[-1, 0])) - grid.origin[-1, 0]) * grid.cells[-1, 0]
    for centre in stack.acquisition.projection_centres:
        assert (planes - centre).abs().min() < 1e-3
    assert planes[0] <= 1e-3
    assert planes[-1] >= stack.acquisition.depth - 1e-3


def test_cells_mean_what_they_say():
    stack = projected(Acquisition(slices=4, stride=6))
    grid = Inr(**HASH, levels=3, cell_z=0.5, cell_xy=2).network(stack, Context()).grid
    torch.testing.assert_close(grid.cells[-1], torch.tensor([3.0, 2.0, 2.0]))
    torch.testing.assert_close(grid.cells[0], torch.tensor([24.0, 32.0, 32.0]))
    coarse = Inr(**HASH, levels=3, cell_z=8, cell_xy=64).network(stack, Context()).grid  # coarser than the coarsest
    torch.testing.assert_close(coarse.cells, torch.tensor([48.0, 64.0, 64.0]).expand(3, 3))


@pytest.mark.parametrize("bits", [4, 16])
def test_weights_of_the_hash_encoding_are_saved_and_loaded(bits, tmp_path):
    stack, method = projected(), Inr(**HASH, table_bits=bits)
    weights = exhaust(method.fit(stack, Context()))
    untrained = method.untrained(stack, Context())
    assert {k: v.shape for k, v in weights.items()} == {k: v.shape for k, v in untrained.items()}
    assert not torch.equal(weights["grid.table"], untrained["grid.table"])
    loaded = load_trained(save_trained(tmp_path / "w.safetensors", method, weights, stack))
    assert loaded.method == method
    assert all(torch.equal(loaded.weights[name], tensor) for name, tensor in weights.items())
    one, other = (exhaust(method.predict(stack, w, Context())).data for w in (weights, loaded.weights))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("settings", [{}, {"rays": 4096, "width": 8}, {"table_bits": 18, "cell_xy": 0.5, "levels": 12}])
def test_memory_covers_tables_and_points(settings):
    """What a training step holds, counted: parameters four times, and what is saved for the way back."""
    stack, method = projected(), Inr(**HASH | settings)
    net, held = method.network(stack, Context()), 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal held
        held += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        next(method.losses(net, stack, Context()))
    needed, remedy = method.memory_bytes(stack)
    own = 16 * sum(weight.numel() for weight in net.parameters())
    assert own + held < needed < 20 * (own + held) + 2**26
    assert "table_bits" in remedy
