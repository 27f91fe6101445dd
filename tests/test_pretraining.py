"""Base models: trained on full volumes, refused before work, stopped half way, and handed on to a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import psutil
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from conftest import collected
from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.events import (
    DeviceUnavailable,
    Event,
    InvalidInput,
    Notice,
    Preview,
    RunFailed,
    Stage,
    Step,
    TooLarge,
    exhaust,
)
from napari_microdiffusion.methods import Context, Inr, Linear, Method, Weights
from napari_microdiffusion.phantoms import phantom
from napari_microdiffusion.presets import METHODS, spec
from napari_microdiffusion.pretraining import Pretraining, check, pretrain, pretrained_methods, trained_on
from napari_microdiffusion.run import Job, run
from napari_microdiffusion.trained import Trained
from napari_microdiffusion.volume import ProjectionStack, Volume

POINT = Acquisition(slices=4, profile="point")


class Levels(Linear):
    """Learns the mean intensity of volumes, and adds what it has learned to the interpolation."""

    learned: ClassVar[bool] = True
    retrains: ClassVar[bool] = False
    pretrained: ClassVar[bool] = True
    seen: ClassVar[list[tuple[Sequence[NDArray[np.float32]], Acquisition, Context]]] = []

    def unsuited(self, acquisition: Acquisition) -> str | None:
        return "works on points alone: use the point profile" if acquisition.profile != "point" else None

    def pretrain(
        self, volumes: Sequence[NDArray[np.float32]], acquisition: Acquisition, context: Context
    ) -> Generator[Event, None, Weights]:
        self.seen.append((volumes, acquisition, context))
        mean = torch.zeros(1)
        yield Stage("Training on volumes", 10)
        for step in range(10):
            mean = mean + float(np.mean([volume.mean() for volume in volumes])) / 10
            if context.preview_due():
                yield Preview(0, volumes[0])
            yield Step(step + 1, 1 / (step + 1))
            if context.should_stop():
                break
        return {"mean": mean}

    def untrained(self, *_: Any) -> Weights:
        return {"mean": torch.zeros(1)}

    def estimate(
        self, stack: ProjectionStack, weights: Weights, context: Context
    ) -> Generator[Event, None, NDArray[np.float32]]:
        return (yield from super().estimate(stack, {}, context)) + np.float32(weights["mean"].item())


@pytest.fixture(autouse=True)
def _forget() -> None:
    Levels.seen.clear()


@pytest.fixture(scope="module")
def volumes() -> list[Volume]:
    """Two of different sizes and intensities: float32, and what a camera gives."""
    other = phantom("vessels", (17, 40, 48), seed=2)
    camera = (1000 + 3000 * other.data / other.data.max()).astype(np.uint16)
    return [phantom("nuclei", (16, 32, 36), seed=1), Volume(camera, (1.0, 0.5, 0.5), "camera")]


def plan(method: Method | None = None, **changes: Any) -> Pretraining:
    return Pretraining(**{"method": method or Levels(), "acquisition": POINT, "device": "cpu"} | changes)


def test_the_volumes_come_in_the_range_that_stacks_do(volumes):
    exhaust(pretrain(plan(), volumes))
    [(seen, acquisition, _)] = Levels.seen
    assert acquisition == POINT
    for given, volume in zip(seen, volumes, strict=True):
        assert given.dtype == np.float32
        assert given.shape == volume.shape
        np.testing.assert_allclose(np.percentile(given, (0.1, 99.9)), (0, 1), atol=1e-3)
        assert given.max() > 1  # nothing is clipped
        assert np.corrcoef(given.ravel(), volume.data.ravel())[0, 1] == pytest.approx(1, abs=1e-5)


def test_a_base_says_what_it_was_trained_on(volumes):
    events, base = collected(pretrain(plan(acquisition=POINT.bound(7)), volumes))
    assert [event.name for event in events if isinstance(event, Stage)] == ["Training on volumes"]
    assert [event.done for event in events if isinstance(event, Step)] == list(range(1, 11))
    assert not [event for event in events if isinstance(event, Preview)]
    assert isinstance(base, Trained)
    assert (base.method, base.origin.acquisition, base.origin.complete) == (Levels(), POINT, True)
    assert [record.name for record in base.origin.volumes] == [volume.name for volume in volumes]
    assert [record.shape for record in base.origin.volumes] == [(16, 32, 36), (17, 40, 48)]
    assert base.origin.volumes[1].sha256 == hashlib.sha256(volumes[1].data.tobytes()).hexdigest()


def test_a_truth_that_was_trained_on_is_known_again(volumes):
    """Under another name, and without the slices that simulation leaves out; an empty first slice tells nothing."""
    empty = np.zeros((1, 32, 36), np.float32)
    hollow, alike = (Volume(np.concatenate([empty, volume.data]), name="hollow") for volume in (volumes[0], volumes[0]))
    alike.data[1:] = np.roll(alike.data[1:], 3, axis=1)
    base = exhaust(pretrain(plan(), [hollow, volumes[1]]))
    _, covered = volumes[1].simulate(POINT)
    assert covered.shape[0] < volumes[1].shape[0]
    for truth in (hollow, volumes[1], Volume(volumes[1].data, name="renamed"), Volume(covered.data, name="cut")):
        assert "scores are worthless" in str(trained_on(base.origin.volumes, truth))
    records = tuple(record.model_copy(update={"first_sha256": None}) for record in base.origin.volumes)  # of before
    assert trained_on(records, Volume(covered.data, name=volumes[1].name)) is not None
    wide = Volume(covered.data.astype(np.float32), name="cut")
    assert "trained on camera" in str(trained_on(base.origin.volumes, wide))
    for truth in (alike, Volume(np.zeros_like(hollow.data))):
        assert trained_on(base.origin.volumes, truth) is None


def test_volumes_too_shallow_are_left_out_and_not_on_record(volumes):
    shallow = Volume(volumes[0].data[:5], name="shallow")
    events, base = collected(pretrain(plan(), [shallow, *volumes]))
    assert [event.message for event in events if isinstance(event, Notice)] == [
        "with fewer than the 12 slices that are needed, and left out: shallow"
    ]
    assert [record.name for record in base.origin.volumes] == [volume.name for volume in volumes]


def test_a_volume_that_is_given_twice_is_told(volumes):
    again = Volume(volumes[0].data.copy(), name="again")
    events, _ = collected(pretrain(plan(), [*volumes, again]))
    assert [event.message for event in events if isinstance(event, Notice)] == [
        f"again holds the same as {volumes[0].name}, and counts twice"
    ]


@pytest.mark.parametrize("name", pretrained_methods())
def test_each_method_says_how_deep_a_volume_must_be(name: str) -> None:
    """One that is a slice too shallow is left out, and refused where it is alone."""
    method = spec(name, overrides={"steps": 2, "channels": 8, "batch": 1, "crop": 16})
    wanted = Pretraining(method=method, acquisition=POINT, device="cpu")
    needed = method.depth_to_learn(POINT)
    data = phantom("nuclei", (needed + 4, 48, 48), seed=3).data
    shallow, deep = Volume(data[: needed - 1], name="shallow"), Volume(data, name="deep")
    events, base = collected(pretrain(wanted, [shallow, deep]))
    assert f"fewer than the {needed} slices" in next(event.message for event in events if isinstance(event, Notice))
    assert [record.name for record in base.origin.volumes] == ["deep"]
    alone = exhaust(pretrain(wanted, [deep])).weights
    assert all(torch.equal(tensor, base.weights[key]) for key, tensor in alone.items())
    with pytest.raises(InvalidInput, match=rf"shallow has {needed - 1} slices, .* needs volumes of at least {needed}"):
        exhaust(pretrain(wanted, [shallow]))


@pytest.mark.parametrize("step", [1, 7, 10])
def test_a_stopped_base_is_as_far_as_it_had_come(step, volumes):
    whole = exhaust(pretrain(plan(), volumes))
    seen: list[Event] = []
    events = pretrain(plan(), volumes, cancelled=lambda: len(seen) > step)
    while True:
        try:
            seen.append(next(events))
        except StopIteration as end:
            base = end.value
            break
    assert isinstance(seen[-1], Step)
    assert seen[-1].done == step
    assert not base.origin.complete
    assert base.weights["mean"].item() == pytest.approx(step / 10 * whole.weights["mean"].item(), rel=1e-5)


def test_seed_device_and_precision_reach_the_method(volumes):
    exhaust(pretrain(plan(seed=5, precision="bfloat16"), volumes))
    [(_, _, context)] = Levels.seen
    assert (context.seed, context.device, context.dtype) == (5, "cpu", "bfloat16")


def test_plans_are_frozen_and_travel_as_json(tmp_path):
    whole = Pretraining(
        method=Linear(), acquisition=POINT, volumes=(tmp_path / "a.tif", tmp_path / "b.tif"), channel=1, time=2, seed=9
    )
    assert Pretraining.model_validate_json(json.dumps(whole.model_dump(mode="json"))) == whole
    with pytest.raises(ValidationError, match="frozen"):
        whole.seed = 1  # type: ignore[misc]


# -- refused before any event ---------------------------------------------------------------


def made(shape: tuple[int, int, int] = (16, 32, 32), **changes: Any) -> Volume:
    data = np.random.default_rng(0).random(shape)
    for at, value in changes.pop("pixels", {}).items():
        data[at] = value
    return Volume(data, name="mine")


@pytest.mark.parametrize(
    ("given", "changes", "error", "message"),
    [
        ([made()], {"method": Linear()}, InvalidInput, "linear needs no base model; those that do: "),
        ([made()], {"acquisition": Acquisition(slices=4)}, InvalidInput, "linear works on points alone"),
        ([], {}, InvalidInput, "no volume to train on"),
        ([made(), made((16, 31, 40))], {}, InvalidInput, "mine is 31 x 40 pixels; at least 32 x 32"),
        ([made((11, 32, 32))], {}, InvalidInput, "mine has 11 slices, and .* needs volumes of at least "),
        ([made(pixels={0: np.nan})], {}, InvalidInput, "mine holds 1024 NaN"),
        ([made(pixels={...: 3})], {}, InvalidInput, "mine is constant"),
    ],
)
def test_refused(given, changes, error, message):
    with pytest.raises(error, match=message):
        next(pretrain(plan(**changes), given))
    assert not Levels.seen


def test_a_device_that_is_not_there(volumes):
    missing = "mps" if not torch.backends.mps.is_available() else "cuda"
    with pytest.raises(DeviceUnavailable, match=f"no {missing} device"):
        next(pretrain(plan(device=missing), volumes))


def test_too_large_for_the_memory(volumes, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    with pytest.raises(TooLarge, match=r"needs 0.0 GB of memory for these volumes, .* free: crop them or take fewer"):
        next(pretrain(plan(), volumes))


@pytest.mark.parametrize("name", pretrained_methods())
def test_batches_too_large_for_the_memory(name, volumes, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2 * 10**8))
    check(plan(method=spec(name, overrides={"batch": 1})), volumes)
    with pytest.raises(TooLarge, match=r"for these volumes, and 0\.2 GB are free: lower batch, crop, channels"):
        check(plan(method=spec(name, overrides={"batch": 1024})), volumes)


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (lambda: torch.empty(2**50, dtype=torch.uint8), "memory ran out during linear on 2 volumes: crop the"),
        (lambda: torch.ones(2) @ torch.ones(3), "linear broke off on 2 volumes: "),
    ],
)
def test_failures_on_the_way_are_told_in_words(failure, message, volumes, monkeypatch):
    def fails(*_: Any):
        yield Stage("Trying", 1)
        failure()

    monkeypatch.setattr(Levels, "pretrain", fails)
    with pytest.raises(RunFailed, match=message):
        exhaust(pretrain(plan(), volumes))


def test_an_abandoned_training_can_be_closed(volumes):
    events = pretrain(plan(), volumes)
    next(events)
    events.close()
    with pytest.raises(StopIteration):
        next(events)


# -- what becomes of it ---------------------------------------------------------------------


def test_a_run_takes_the_weights(volumes):
    base = exhaust(pretrain(plan(), volumes))
    stack = phantom("nuclei", (20, 32, 36), seed=4).simulate(POINT)[0]
    job = Job(method=base.method, device="cpu")
    plain = exhaust(run(Job(method=Linear(), device="cpu"), stack)).volume.data
    found = exhaust(run(job, stack, weights=base.weights))
    gain = stack.normalised()[1].gain
    np.testing.assert_allclose(found.volume.data - plain, gain * base.weights["mean"].item(), rtol=1e-3)


def test_a_held_out_score_starts_from_the_weights_that_were_given(volumes, monkeypatch):
    def refine(_: Any, stack: ProjectionStack, weights: Weights, *_rest: Any) -> Generator[Event, None, Weights]:
        return {"mean": weights["mean"] + float(stack.data.mean())}
        yield

    monkeypatch.setattr(Levels, "refine", refine)
    base = exhaust(pretrain(plan(), volumes))
    before = base.weights["mean"].item()
    stack = phantom("nuclei", (20, 32, 36), seed=4).simulate(POINT)[0]
    result = exhaust(run(Job(method=base.method, device="cpu"), stack, weights=base.weights))
    assert base.weights["mean"].item() == before
    assert result.weights["mean"].item() > base.weights["mean"].item()


def test_methods_that_need_a_base_model():
    assert pretrained_methods() == tuple(name for name in METHODS if type(spec(name)).pretrained)
    for name in pretrained_methods():
        assert type(spec(name)).learned
        assert not type(spec(name)).retrains


def test_other_methods_are_not_trained_on_volumes():
    with pytest.raises(TypeError, match="not trained on volumes"):
        next(Inr().pretrain([], POINT, Context()))
