"""Recurrent-MZ: what it is shown, what it is trained on, that training helps, and every kind of stack."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from conftest import collected
from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.events import Preview, RunFailed, Stage, Step, exhaust
from napari_microdiffusion.methods import Context, Linear, RecurrentMz, Weights
from napari_microdiffusion.methods._sequences import Drawer, Variety, sequences
from napari_microdiffusion.phantoms import phantom
from napari_microdiffusion.presets import sources, spec
from napari_microdiffusion.volume import ProjectionStack

POINT = Acquisition(slices=4, profile="point")
ACQUISITIONS = {
    "point": POINT.bound(5),
    "uniform": Acquisition(slices=4, count=5),
    "gaussian": Acquisition(slices=5, profile="gaussian", count=4),
    "overlap": Acquisition(slices=4, stride=3, count=5),
    "gaps": Acquisition(slices=3, stride=5, count=4),
    "hidden": Acquisition(slices=4, count=6, hidden=(0, 2, 3)),
    "hidden point": Acquisition(slices=4, profile="point", count=6, hidden=(1, 5)),
    "every slice": Acquisition(slices=1, count=6),
}


def tiny(**settings: Any) -> RecurrentMz:
    return RecurrentMz(**{"inputs": 3, "channels": 8, "steps": 2, "batch": 2, "crop": 16} | settings)


def waves(shape: tuple[int, int, int] = (24, 32, 36), seed: int = 0) -> np.ndarray:
    """A volume on the engine's scale that linear interpolation gets wrong: slanted waves."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    tilts = rng.uniform(-0.6, 0.6, (2, 2))
    parts = [np.sin(0.5 * z + a * y + b * x + rng.uniform(0, 6)) for a, b in tilts]
    return (0.5 + 0.25 * sum(parts)).astype(np.float32)


def projected(acquisition: Acquisition, size: tuple[int, int] = (33, 35)) -> ProjectionStack:
    assert acquisition.count is not None
    return ProjectionStack(acquisition.project(waves((acquisition.depth, *size), seed=9)), acquisition)


def pretrained(method: RecurrentMz, acquisition: Acquisition = POINT, volumes: Any = None, **context: Any) -> Weights:
    given = [waves(seed=seed) for seed in range(3)] if volumes is None else volumes
    return exhaust(method.pretrain(given, acquisition, Context(**context)))


# -- what is shown --------------------------------------------------------------------------


def test_nearest_from_far_to_near():
    shown = sequences(POINT.bound(5), 3)  # slices 0, 4, 8, 12, 16
    assert shown.chosen[9].tolist() == [1, 3, 2]
    np.testing.assert_allclose(shown.distances[9], [-5 / 4, 3 / 4, -1 / 4])
    assert shown.chosen[19].tolist() == [2, 3, 4]  # beyond the last one


def test_both_sides_are_shown_even_where_one_is_far():
    shown = sequences(POINT.bound(9).without((4, 5, 6, 7)), 3)  # 0, 4, 8, 12 and 32
    assert shown.chosen[14].tolist() == [4, 2, 3]
    assert sequences(POINT.bound(9).without((4, 5, 6, 7)), 2).chosen[14].tolist() == [4, 3]


def test_the_farthest_is_shown_again_where_there_are_too_few():
    shown = sequences(POINT.bound(3), 5)
    assert shown.chosen[1].tolist() == [2, 2, 2, 1, 0]
    np.testing.assert_allclose(shown.distances[1], [7 / 4, 7 / 4, 7 / 4, 3 / 4, -1 / 4])


@pytest.mark.parametrize("inputs", [2, 3, 7])
@pytest.mark.parametrize("acquisition", ACQUISITIONS.values(), ids=ACQUISITIONS)
def test_what_is_shown_encloses_every_slice(acquisition, inputs):
    shown = sequences(acquisition, inputs)
    assert shown.chosen.shape == shown.distances.shape == (acquisition.depth, inputs)
    assert (np.diff(np.abs(shown.distances), axis=1) <= 1e-6).all()
    away = acquisition.slice_centres + acquisition.step * shown.distances.T
    np.testing.assert_allclose(acquisition.projection_centres[shown.chosen].T, away, atol=1e-5)
    centres = acquisition.projection_centres
    inside = (acquisition.slice_centres >= centres[0]) & (acquisition.slice_centres <= centres[-1])
    assert (shown.distances[inside].min(1) <= 0).all()
    assert (shown.distances[inside].max(1) >= 0).all()


# -- what it is trained on ------------------------------------------------------------------


def drawer(volumes: Any = None, acquisition: Acquisition = POINT, **variety: Any) -> Drawer:
    plain = {"inputs": 3, "side": 16, "hiding": 0.0, "blur": 0.0, "noise": 0.0}
    return Drawer([waves()] if volumes is None else volumes, acquisition, Variety(**plain | variety), seed=0)


def test_crops_are_shown_as_the_acquisition_sees_them():
    ramp = np.broadcast_to(np.arange(40, dtype=np.float32)[:, None, None], (40, 20, 30))  # linear along z
    for acquisition in (POINT, Acquisition(slices=4)):
        batch = drawer([ramp], acquisition)(120)
        assert batch.images.shape == (120, 3, 16, 16)
        assert batch.truth.shape == batch.linear.shape == (120, 16, 16)
        inside = (batch.distances.min(1) <= 0) & (batch.distances.max(1) >= 0)
        assert 100 < inside.sum() < 120  # beyond the outer ones as well
        np.testing.assert_allclose(batch.linear[inside], batch.truth[inside], rtol=1e-3, atol=0.02)
        step = np.diff(batch.images[:, :, 0, 0], axis=1) / np.diff(batch.distances, axis=1) / 4
        assert np.abs(step).min() > 0.59  # intensities change by the gain
        assert np.abs(step).max() < 1.61
        assert (step < 0).any()  # turned over
        assert (step > 0).any()


def test_hidden_projections_make_larger_distances():
    near, far = (np.abs(drawer(inputs=2, hiding=hiding)(60).distances).max() for hiding in (0.0, 1.0))
    assert far > near


def test_blur_and_noise_of_most_crops():
    plain, blurred, noisy = (drawer(**variety)(60) for variety in ({}, {"blur": 3.0}, {"noise": 0.2}))
    spans = [np.median(np.ptp(batch.truth, axis=(1, 2))) for batch in (plain, blurred)]
    assert 0.1 * spans[0] < spans[1] < 0.9 * spans[0]
    rough = [np.abs(np.diff(batch.images, 2, axis=3)).mean((1, 2, 3)) for batch in (plain, noisy)]
    assert 0.5 < (rough[1] > 1.05 * rough[0].max()).mean() < 0.95
    assert np.abs(np.diff(noisy.truth, 2, axis=2)).max() < 2 * np.abs(np.diff(plain.truth, 2, axis=2)).max()  # not it


def test_volumes_weigh_alike():
    """One that is ten times as dim counts as much."""
    batch = drawer([waves(), 0.1 * waves()])(40)
    share = np.abs(batch.linear - batch.truth).mean((1, 2)) / batch.spread
    dim = batch.truth.mean((1, 2)) < 0.15
    assert 0.5 < share[dim].mean() / share[~dim].mean() < 2


def test_a_volume_that_does_not_change_along_z_outweighs_no_other():
    volume = waves()
    spread = drawer([volume, np.repeat(volume[:1], len(volume), 0)])(100).spread
    assert spread.max() < 30 * spread.min()  # of one volume they differ by the gain alone, 0.6 to 1.6


def test_volumes_of_any_size():
    sizes = [(12, 20, 90), (13, 33, 17), (50, 16, 11)]
    batch = drawer([waves(size) for size in sizes], inputs=5, side=64, hiding=0.5)(12)
    assert batch.truth.shape == (12, 11, 11)  # as large as fits all
    assert batch.images.shape == (12, 5, 11, 11)


def test_how_deep_a_volume_must_be():
    assert tiny().depth_to_learn(POINT) == 12
    assert pretrained(tiny(), volumes=[waves((12, 32, 32))])


# -- training -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained() -> tuple[RecurrentMz, list[float], Weights]:
    method = tiny(steps=120, batch=4, hiding=0.0, blur=0.0, noise=0.0, learning_rate=1e-2)
    events, weights = collected(method.pretrain([waves(seed=seed) for seed in range(4)], POINT, Context()))
    assert isinstance(events[0], Stage)
    assert [event.done for event in events if isinstance(event, Step)] == list(range(1, 121))
    return method, [event.loss or 0.0 for event in events if isinstance(event, Step)], weights


def test_training_reduces_the_loss_and_beats_what_it_started_from(trained):
    method, losses, weights = trained
    assert np.mean(losses[-20:]) < 0.8 * np.mean(losses[:20])
    truth = waves((24, 33, 35), seed=9)
    stack = ProjectionStack(POINT.bound(6).project(truth), POINT.bound(6))
    inside = slice(0, 21)
    scores = [
        -10 * np.log10(np.mean((truth - exhaust(method.predict(stack, given, Context())).data)[inside] ** 2))
        for given in (method.untrained(stack, Context()), weights)
    ]
    assert scores[1] > scores[0] + 2


def test_without_training_it_is_linear_interpolation():
    stack = projected(POINT.bound(5))
    data = exhaust(tiny().predict(stack, tiny().untrained(stack, Context()), Context())).data
    np.testing.assert_allclose(data, exhaust(Linear().predict(stack, {}, Context())).data, atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"residual": False, "loss": "berhu", "structure": 0.33, "optimiser": "adam", "schedule": "constant"},
        {"loss": "l1", "inputs": 2, "levels": 3},
        {"inputs": 6, "levels": 1, "hiding": 1.0},
    ],
)
def test_settings(changes):
    stack = projected(POINT.bound(5))
    plain, method = tiny(), tiny(**changes)
    data, other = (exhaust(m.predict(stack, pretrained(m), Context())).data for m in (plain, method))
    assert np.isfinite(other).all()
    assert np.abs(data - other).max() > 1e-4


def test_the_seed_fixes_the_result():
    weights = [pretrained(tiny(), seed=seed) for seed in (3, 3, 4)]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=0, atol=0)
    assert any((tensor - weights[2][name]).abs().max() > 1e-3 for name, tensor in weights[0].items())


def test_stop_gives_what_was_learned_by_then():
    calls = iter(range(100))
    context = Context(cancelled=lambda: next(calls) >= 2)
    events, weights = collected(tiny(steps=50).pretrain([waves()], POINT, context))
    assert [event.done for event in events if isinstance(event, Step)] == [1, 2, 3]
    assert context.stopped
    assert weights.keys() == pretrained(tiny()).keys()


def test_a_loss_that_is_no_number_ends_the_run():
    with pytest.raises(RunFailed, match="training diverged"):
        pretrained(tiny(), volumes=[np.full((24, 32, 32), np.nan, np.float32)])


# -- reconstruction -------------------------------------------------------------------------


@pytest.mark.parametrize("acquisition", ACQUISITIONS.values(), ids=ACQUISITIONS)
def test_every_acquisition(acquisition):
    free = acquisition.replace(count=None, hidden=())
    method = tiny(consistency="none")
    weights = pretrained(method, free)
    stack = projected(acquisition)
    events, data = collected(method.estimate(stack, weights, Context(batch_bytes=1)))
    assert data.shape == stack.volume_shape
    assert data.dtype == np.float32
    assert np.isfinite(data).all()
    wanted = np.flatnonzero(~acquisition.fixed)
    assert [event.start for event in events if isinstance(event, Preview)][1:] == wanted.tolist()
    assert [event.done for event in events if isinstance(event, Step)] == list(range(1, len(wanted) + 1))
    linear = exhaust(Linear().predict(stack, {}, Context())).data
    assert len(wanted) == 0 or np.abs(data - linear)[wanted].max((1, 2)).min() > 0


def test_projections_are_reproduced():
    for acquisition in (ACQUISITIONS["point"], ACQUISITIONS["uniform"]):
        stack = projected(acquisition)
        data = exhaust(tiny().predict(stack, pretrained(tiny(), acquisition), Context())).data
        assert np.abs(acquisition.residual(data, stack.data)).max() < 1e-5


def test_known_slices_are_the_projections_themselves():
    stack = projected(POINT.bound(5))
    data = exhaust(tiny(consistency="none").predict(stack, pretrained(tiny()), Context())).data
    np.testing.assert_allclose(data[::4], stack.data, atol=1e-6)


def test_batches_change_the_result_by_rounding_at_most():
    stack = projected(Acquisition(slices=4, count=5))
    weights = pretrained(tiny())
    one, many = (exhaust(tiny().estimate(stack, weights, Context(batch_bytes=m))) for m in (1, 2**30))
    np.testing.assert_allclose(one, many, atol=1e-5)


def test_weights_are_named_as_untrained_ones_and_give_the_same_again():
    stack = projected(POINT.bound(4))
    weights = pretrained(tiny())
    expected = tiny().untrained(stack, Context())
    assert {name: tensor.shape for name, tensor in weights.items()} == {n: t.shape for n, t in expected.items()}
    copied = {name: tensor.clone() for name, tensor in weights.items()}
    first, again = (exhaust(tiny().estimate(stack, given, Context(seed=s))) for s, given in ((0, weights), (7, copied)))
    np.testing.assert_array_equal(first, again)


def test_stop_half_way_leaves_linear_interpolation():
    stack = projected(Acquisition(slices=4, count=5))
    data = exhaust(tiny().estimate(stack, pretrained(tiny()), Context(cancelled=lambda: True, batch_bytes=1)))
    linear = exhaust(Linear().predict(stack, {}, Context())).data
    np.testing.assert_allclose(data[1:], linear[1:], atol=1e-6)
    assert np.abs(data[0] - linear[0]).max() > 0


def test_it_is_trained_on_volumes_alone():
    stack = projected(POINT.bound(4))
    assert RecurrentMz.pretrained
    assert exhaust(tiny().fit(stack, Context())) == {}
    assert tiny().unsuited(stack.acquisition) is None


def test_the_papers_values_have_a_source():
    stated = sources("paper", "recurrent_mz")
    assert stated.keys() == RecurrentMz.model_fields.keys() - {"kind"}
    method = spec("recurrent_mz", "paper")
    assert isinstance(method, RecurrentMz)
    assert not method.residual
    assert method.loss == "berhu"
    assert spec("recurrent_mz") == RecurrentMz()
    assert method.channels > RecurrentMz().channels


def test_phantoms_of_the_house():
    """In two steps no more than that it runs on what people see first."""
    volumes = [phantom(kind, (24, 32, 32), seed=0).data for kind in ("vessels", "nuclei")]
    weights = pretrained(tiny(), Acquisition(slices=6), volumes)
    stack, _ = phantom("vessels", (24, 32, 32), seed=1).simulate(Acquisition(slices=6))
    assert exhaust(tiny().predict(stack, weights, Context())).data.shape == (24, 32, 32)
