"""What all methods share: frozen specs told apart by kind, the closing consistency step, previews in good time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import get_args

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.events import RunFailed, exhaust
from napari_microdiffusion.methods import AnyMethod, Context, Linear, Method, _base
from napari_microdiffusion.methods._base import seeded
from napari_microdiffusion.volume import ProjectionStack

KINDS: tuple[type[Method], ...] = get_args(get_args(AnyMethod)[0])


@pytest.mark.parametrize("cls", KINDS)
class TestSpecs:
    def test_json_brings_back_the_same_spec(self, cls):
        spec = cls()
        again = TypeAdapter(AnyMethod).validate_json(spec.model_dump_json())
        assert again == spec
        assert type(again) is cls
        assert hash(again) == hash(spec)

    def test_specs_are_frozen_and_know_their_fields(self, cls):
        with pytest.raises(ValidationError, match="frozen"):
            cls().consistency = "none"
        with pytest.raises(ValidationError, match="extra"):
            cls(nonsense=1)

    def test_every_setting_has_a_meaning_and_a_stage(self, cls):
        for name, field in cls.model_fields.items():
            if name != "kind":
                assert field.description, name
                assert (field.json_schema_extra or {})["stage"] in {"training", "sampling"}, name

    def test_defaults_are_within_their_own_range(self, cls):
        assert cls.model_validate(cls().model_dump()) == cls()

    def test_memory_comes_with_a_remedy(self, cls, stack):
        needed, remedy = cls().memory_bytes(stack)
        assert (needed > 0) == cls.learned
        assert remedy


def test_methods_without_training_have_no_weights(stack):
    assert exhaust(Linear().fit(stack, Context())) == {}


# -- the closing consistency step -----------------------------------------------------------


@pytest.mark.parametrize("stride", [6, 9])
@pytest.mark.parametrize("dtype", ["float32", "uint16"])
def test_a_volume_made_consistent_reprojects(stride, dtype):
    acquisition = Acquisition(slices=6, stride=stride, count=5)
    rng = np.random.default_rng(0)
    stack = ProjectionStack((1000 * rng.random((5, 7, 8))).astype(dtype), acquisition)
    data = (1000 * rng.random(stack.volume_shape)).astype(np.float32)
    _base.make_consistent(stack, data)
    np.testing.assert_allclose(acquisition.project(data.astype(float)), stack.data, atol=1e-3)


def test_consistency_keeps_what_projections_cannot_see():
    acquisition = Acquisition(slices=4, count=4)
    rng = np.random.default_rng(1)
    volume = rng.random((16, 5, 6)).astype(np.float32)
    stack = ProjectionStack(acquisition.project(volume), acquisition)
    data = volume.copy()
    _base.make_consistent(stack, data)
    np.testing.assert_allclose(data, volume, atol=1e-6)  # detail within each block is left as it is


def test_consistency_stops_at_the_noise_where_projections_overlap(truth):
    stack, cropped = truth.simulate(Acquisition(slices=6, stride=2))
    rng = np.random.default_rng(2)
    noisy = ProjectionStack(stack.data + 0.03 * rng.standard_normal(stack.shape).astype(np.float32), stack.acquisition)
    data = cropped.data.copy()
    _base.make_consistent(noisy, data)  # the truth explains the projections as well as their noise allows
    np.testing.assert_array_equal(data, cropped.data)
    data = cropped.data + np.float32(0.01)  # nor is it changed for as little as what the noise is found to
    _base.make_consistent(noisy, data)
    np.testing.assert_array_equal(data, cropped.data + np.float32(0.01))
    data += np.float32(0.03)
    _base.make_consistent(noisy, data)
    np.testing.assert_allclose((data - cropped.data).mean(), 0, atol=0.003)
    data = np.zeros_like(data)
    _base.make_consistent(noisy, data)  # nothing does not
    assert np.sqrt(np.mean((data - cropped.data) ** 2)) < 0.5 * np.sqrt(np.mean(cropped.data**2))


# -- small parts ----------------------------------------------------------------------------


def test_previews_take_a_tenth_of_the_time_at_most(monkeypatch):
    now = 100.0
    monkeypatch.setattr(_base.time, "monotonic", lambda: now)
    context = Context(preview_seconds=5, _last_preview=now)
    assert not context.preview_due()
    now = 105.0
    assert context.preview_due()
    assert not context.preview_due()  # asking starts the wait anew
    now = 107.0  # this preview took two seconds: the next may come eighteen later
    context.preview_done()
    now = 124.9
    assert not context.preview_due()
    now = 125.1
    assert context.preview_due()
    now = 125.2  # and this one a tenth of a second: five seconds, as asked for
    context.preview_done()
    now = 130.3
    assert context.preview_due()


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_ends_the_run(loss):
    assert _base.finite(0.5) == 0.5
    with pytest.raises(RunFailed, match="lower the learning rate"):
        _base.finite(loss)


@pytest.mark.parametrize(("schedule", "values"), [("constant", [1, 1, 1]), ("cosine", [1, 0.5, 0])])
def test_decay(schedule, values):
    assert [_base.decay(schedule, progress) for progress in (0, 0.5, 1)] == pytest.approx(values)


def test_weights_by_prefix():
    weights = {"prior.a": torch.zeros(1), "network.prior.b": torch.ones(1)}
    assert list(_base.without_prefix(weights, "prior.")) == ["a"]


@pytest.mark.parametrize(("dtype", "expected"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_autocast_is_what_the_run_asks_for(dtype, expected):
    with _base.autocast(Context(dtype=dtype)):
        assert torch.nn.Linear(4, 4)(torch.ones(1, 4)).dtype is expected


def test_a_seed_is_not_disturbed_by_another_run():
    """Runs side by side share torch's random numbers."""

    def drawn(seed):
        with seeded(seed) as generator:
            return [float(torch.rand(1)) for _ in range(200)] + [float(torch.rand(1, generator=generator))]

    alone = {seed: drawn(seed) for seed in (0, 1)}
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(lambda turn: drawn(turn % 2), range(20)))
    assert all(numbers == alone[turn % 2] for turn, numbers in enumerate(found))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_seed_leaves_the_random_numbers_of_gpus_alone(monkeypatch):
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda _: pytest.fail("they are not put back afterwards"))
    with seeded(3) as generator:
        drawn = torch.rand(4)
    assert torch.equal(drawn, torch.rand(4, generator=torch.Generator().manual_seed(3)))
    assert generator is torch.default_generator
