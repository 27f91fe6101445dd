"""A job from projections to volume: intensities, stops, errors, provenance, replay."""

from __future__ import annotations

import hashlib
import json
import math
import re
import tracemalloc
from collections.abc import Generator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import psutil
import pytest
import torch
from pydantic import ValidationError
from scipy.ndimage import gaussian_filter

from conftest import collected, small
from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.checkpoint import Origin, VolumeRecord, fingerprint
from napari_microdiffusion.events import (
    DeviceUnavailable,
    EngineError,
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
from napari_microdiffusion.hardware import (
    repeatable,
    resolve_device,
    resolve_precision,
)
from napari_microdiffusion.methods import Conservative, Context, Cubic, Guided, Inr, Linear, Method, Weights
from napari_microdiffusion.presets import spec
from napari_microdiffusion.provenance import was_denoised
from napari_microdiffusion.reliability import Reliability
from napari_microdiffusion.run import Job, Result, reconstruct, run
from napari_microdiffusion.trained import Trained
from napari_microdiffusion.volume import ProjectionStack, Volume

INR = Inr(features=16, width=8, layers=2, rays=256, steps=3, consistency="none", neighbouring="none")
DIFFUSION = Guided(
    prior=INR,
    channels=8,
    multipliers=(1, 2),
    timesteps=20,
    beta_end=0.2,
    sampling_steps=2,
    spacing="uniform",
    steps=3,
    batch=2,
    crop=16,
    guidance=0.0,
    consistency="none",
)
METHODS: dict[str, Method] = {"linear": Linear(), "inr": INR, "microdiffusion": DIFFUSION}


@pytest.fixture(scope="module")
def camera() -> ProjectionStack:
    """What a camera gives: uint16 on an offset of 1000; four projections of four slices."""
    z, y, x = np.meshgrid(np.arange(4), np.arange(32), np.arange(36), indexing="ij")
    images = 1000 + 800 * (1 + np.sin(z + x / 5) * np.cos(y / 4)) + 20 * np.random.default_rng(0).random(z.shape)
    return ProjectionStack(images.astype(np.uint16), Acquisition(slices=4), (4.0, 0.5, 0.5), "mine")


def job(method: Method, stack: ProjectionStack, **changes: Any) -> Job:
    return Job(
        **{"method": method, "acquisition": stack.acquisition, "device": "cpu", "precision": "float32"} | changes
    )


def painted(events: list[Event], shape: tuple[int, ...]) -> np.ndarray:
    """The volume that somebody has before them who draws every preview."""
    canvas = np.full(shape, np.nan, np.float32)
    for event in events:
        if isinstance(event, Preview):
            canvas[event.start : event.start + len(event.data)] = event.data
    return canvas


# -- intensities ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_the_first_event_is_a_whole_picture(method, camera):
    first = next(run(job(method, camera), camera))
    assert isinstance(first, Preview)
    assert first.start == 0
    smoothest = camera.acquisition.smoothest()
    expected = (smoothest @ camera.data.astype(float).reshape(4, -1)).reshape(camera.volume_shape)
    np.testing.assert_allclose(first.data, expected, atol=0.01)  # of 1000 to 2600


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_everything_is_on_the_inputs_scale(method, camera):
    events, result = collected(run(job(method, camera), camera, preview_seconds=0))
    volume = result.volume
    assert volume.data.dtype == np.float32
    assert volume.shape == (16, 32, 36)
    assert volume.scale_um == (1.0, 0.5, 0.5)
    assert volume.source_dtype == "uint16"
    for data in [volume.data, *(event.data for event in events if isinstance(event, Preview))]:
        assert 0 < data.mean() < 4000
        assert abs(data.mean() - camera.data.mean()) < 1500
    np.testing.assert_array_equal(painted(events, volume.shape), volume.data)
    assert not result.partial


@pytest.mark.parametrize("method", [Linear(), Cubic(), Conservative()], ids=lambda method: method.kind)
@pytest.mark.parametrize("consistency", ["none", "final"])
def test_interpolation_knows_no_scale(method, consistency, camera):
    method = method.model_copy(update={"consistency": consistency})
    images = camera.data.astype(np.float64)
    plain, scaled = (
        reconstruct(ProjectionStack(data, camera.acquisition), method).data for data in (images, 0.01 * images - 70)
    )
    np.testing.assert_allclose(scaled, 0.01 * plain - 70, atol=1e-4)


def test_learned_methods_know_no_scale(camera):
    """A power of two changes no digit, so not even rounding differs."""
    images = camera.data.astype(np.float32)
    for method in (INR, DIFFUSION):
        plain, scaled = (
            reconstruct(ProjectionStack(data, camera.acquisition), method).data for data in (images, 4 * images)
        )
        np.testing.assert_array_equal(scaled, 4 * plain)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_consistency_is_exact_on_the_inputs_scale(method, camera):
    consistent = exhaust(run(job(method.model_copy(update={"consistency": "final"}), camera), camera))
    residual = camera.acquisition.residual(consistent.volume.data.astype(float), camera.data)
    assert np.abs(residual).max() < 1e-3  # float32's rounding of 2600 is 1e-4
    assert consistent.residual.maximum == pytest.approx(np.abs(residual).max(), rel=1e-3)
    loose = exhaust(run(job(method, camera), camera))
    assert loose.residual.maximum > 1


class Sure(Conservative):
    """Says of each voxel how sure it is, in the working range: more so in the first slice than in the last."""

    gives_reliability: ClassVar[bool] = True

    def predict(self, stack: ProjectionStack, weights: Weights, context: Context) -> Generator[Event, None, Volume]:
        volume = yield from super().predict(stack, weights, context)
        yield Stage("Weighing", 3)
        for step in range(3):
            yield Step(step + 1)
            if context.should_stop():
                break
        std = np.linspace(0.01, 0.1, volume.data.size, dtype=np.float32).reshape(volume.shape)
        return replace(volume, reliability=Reliability(std, volume.data - 2 * std, volume.data + std))


def test_reliability_is_on_the_inputs_scale(camera):
    result = exhaust(run(job(Sure(), camera), camera))
    found, gain = result.volume.reliability, camera.normalised()[1].gain
    assert found is not None
    np.testing.assert_allclose(found.std.ravel(), gain * np.linspace(0.01, 0.1, found.std.size), rtol=1e-5)
    np.testing.assert_allclose(result.volume.data - found.lower, 2 * found.std, atol=0.01)  # of 1000 to 2600
    np.testing.assert_allclose(found.upper - result.volume.data, found.std, atol=0.01)
    assert found.flagged.mean() == pytest.approx(0.1, abs=0.001)


def test_other_methods_say_nothing_of_reliability(camera):
    assert reconstruct(camera, Conservative()).reliability is None


def test_a_method_may_be_named(camera):
    np.testing.assert_array_equal(reconstruct(camera, "linear").data, reconstruct(camera, Linear()).data)
    with pytest.raises(InvalidInput, match="no method is called 'lanczos'; there are linear, cubic"):
        reconstruct(camera, "lanczos")


def test_reconstruct_is_run_in_one_call(camera):
    once = reconstruct(camera, DIFFUSION, seed=3, device="cpu")
    result = exhaust(run(job(DIFFUSION, camera, seed=3, precision="auto"), camera))
    np.testing.assert_array_equal(once.data, result.volume.data)
    assert once.name == result.volume.name == "mine microdiffusion"
    assert once.scale_um == result.volume.scale_um


@pytest.mark.parametrize("method", [INR, DIFFUSION], ids=["inr", "microdiffusion"])
def test_with_weights_nothing_is_trained(method, camera):
    result = exhaust(run(job(method, camera), camera))
    events, again = collected(run(job(method, camera), camera, weights=result.weights))
    stages = [event.name for event in events if isinstance(event, Stage)]
    assert stages
    assert not [name for name in stages if name.startswith("Training")]
    np.testing.assert_array_equal(again.volume.data, result.volume.data)
    assert again.weights is result.weights
    assert "weights_sha256" not in (result.volume.provenance or {})
    assert (again.volume.provenance or {})["weights_sha256"] == fingerprint(result.weights)


def test_what_the_weights_were_trained_on_is_on_record(camera):
    volume = VolumeRecord.of(np.ones((3, 4, 5)), "some")
    weights = exhaust(run(job(INR, camera), camera)).weights
    record = exhaust(run(job(INR, camera), camera, weights=weights, volumes=[volume])).volume.provenance
    assert [VolumeRecord.model_validate(each) for each in record["trained_on"]] == [volume]
    assert "trained_on" not in exhaust(run(job(INR, camera), camera, weights=weights)).volume.provenance


def test_reconstruct_with_what_is_trained_already(camera):
    result = exhaust(run(job(INR, camera, precision="auto"), camera))
    origin = Origin(acquisition=camera.acquisition, input_sha256=camera.sha256)
    trained = Trained(INR, result.weights, origin)
    again = reconstruct(camera, trained, device="cpu")
    np.testing.assert_array_equal(again.data, result.volume.data)
    assert (again.provenance or {})["weights_sha256"] == fingerprint(result.weights)
    with pytest.warns(UserWarning, match="do not say which projections they were trained on"):
        reconstruct(camera, replace(trained, origin=Origin(acquisition=camera.acquisition)), device="cpu")
    with pytest.raises(InvalidInput, match="the specimen itself"):
        reconstruct(camera, replace(trained, origin=origin.model_copy(update={"input_sha256": "another"})))


# -- what the user should know --------------------------------------------------------------


def smooth(shape: tuple[int, int, int]) -> np.ndarray:
    """Random images from 0 to 1 with next to no noise."""
    random = np.random.default_rng(0)
    data = gaussian_filter(random.random(shape), (0, 2, 2))
    return (data - data.min()) / np.ptp(data) + 0.01 * random.random(shape)


def notices(acquisition: Acquisition, method: Method, hide: tuple[int, ...] = ()) -> list[str]:
    """Of a run on projections of a random volume with a trend along z."""
    acquisition = acquisition.bound(5)
    random, trend = np.random.default_rng(0), 2.0 * np.arange(acquisition.depth)
    volume = random.random((acquisition.depth, 32, 32)) + trend[:, None, None]
    stack = ProjectionStack(acquisition.project(volume), acquisition).without(hide)
    events, _ = collected(run(job(method, stack), stack))
    return [event.message for event in events if isinstance(event, Notice)]


@pytest.mark.parametrize(
    ("acquisition", "hide", "expected"),
    [
        (Acquisition(slices=4), (), []),
        (Acquisition(slices=1), (), ["there is a projection for every slice, so nothing is left to reconstruct"]),
        (Acquisition(slices=4, profile="point"), (), ["3 of 20 slices lie beyond the outermost"]),
        (Acquisition(slices=2, stride=3), (), ["4 of 14 slices lie between the projections"]),
        (Acquisition(slices=4), (0, 2), ["4 of 20 slices lie beyond", "4 of 20 slices lie between"]),
        (Acquisition(slices=4, stride=2), (), ["overlap: consistency stops at their noise, and 0."]),
    ],
)
def test_notices(acquisition, hide, expected):
    found = notices(acquisition, Linear(consistency="final"), hide)
    assert len(found) == len(expected)
    assert all(text in message for text, message in zip(expected, found, strict=True))


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda data: data, []),
        (lambda data: data[1].fill(data.max()), ["projection 2 (counted from 1) is the same", "8.3 % of the pixels"]),
        (lambda data: data[:2].fill(0.5), ["projections 1, 2 (counted from 1) are the same everywhere"]),
        (lambda data: data.clip(None, np.quantile(data, 0.98), out=data), ["2 % of the pixels have the brightest"]),
        (lambda data: data.clip(None, np.quantile(data, 0.999), out=data), []),
    ],
)
def test_blank_and_saturated_projections_are_told(spoil, expected):
    data = smooth((12, 32, 32))
    spoil(data)
    stack = ProjectionStack(data, Acquisition(slices=4))
    events, _ = collected(run(job(Linear(), stack), stack))
    found = [event.message for event in events if isinstance(event, Notice)]
    assert len(found) == len(expected)
    assert all(text in message for text, message in zip(expected, found, strict=True))


class TestNoise:
    """Of few photons on a volume that is smooth along z."""

    @pytest.fixture
    def light(self) -> np.ndarray:
        return np.repeat(smooth((1, 48, 48)) ** 2, 6, axis=0)

    @pytest.fixture
    def photons(self, light: np.ndarray) -> ProjectionStack:
        return ProjectionStack(np.random.default_rng(1).poisson(20 * light).astype(np.uint16), Acquisition(slices=4))

    def test_it_is_told_where_it_matters(self, photons):
        def told(**changes: Any) -> list[str]:
            events, _ = collected(run(job(Conservative(), photons, **changes), photons))
            return [event.message for event in events if isinstance(event, Notice)]

        [noisy], [denoised] = told(), told(denoise=True)
        assert noisy.startswith("noise makes up nearly all of what differs between neighbouring projections")
        assert denoised.startswith("denoised: ")
        clean = replace(photons, data=smooth((6, 48, 48)).astype(np.float32))
        events, _ = collected(run(job(Conservative(), clean), clean))
        assert not any(isinstance(event, Notice) for event in events)

    @pytest.mark.parametrize("method", [Conservative(), Linear(consistency="final")], ids=["conservative", "linear"])
    def test_without_it_the_volume_is_nearer_to_the_light(self, method, photons, light):
        truth = 20 * np.repeat(light, 4, axis=0)
        raw, quiet = (exhaust(run(job(method, photons, denoise=wanted), photons)) for wanted in (False, True))
        before, after = (np.square(each.volume.data - truth).mean() for each in (raw, quiet))
        assert after < before / 3
        assert quiet.residual.rms > 100 * raw.residual.rms  # of what was measured
        np.testing.assert_array_equal(reconstruct(photons, method, denoise=True).data, quiet.volume.data)
        assert quiet.volume.provenance["job"]["denoise"]
        assert quiet.volume.source_dtype == "uint16"

    def test_intervals_hold_what_is_left_of_it(self, photons):
        raw, quiet = (exhaust(run(job(Sure(), photons, denoise=wanted), photons)) for wanted in (False, True))
        for found in (raw, quiet):
            assert (found.volume.reliability.lower <= found.volume.data).all()
            assert (found.volume.reliability.upper >= found.volume.data).all()
        assert quiet.volume.reliability.std[0].mean() > 3 * raw.volume.reliability.std[0].mean()

    @pytest.mark.parametrize("method", [Conservative(), INR], ids=["conservative", "inr"])
    def test_a_stop_meanwhile_keeps_a_picture_and_begins_nothing_more(self, method, photons):
        _, later, result = stopped(method, photons, "Denoising the projections", 2, denoise=True)
        assert not any(isinstance(event, Stage) for event in later)
        assert result.partial
        assert not was_denoised(result.volume.provenance)
        raw = reconstruct(photons, Conservative())
        np.testing.assert_allclose(result.volume.data, raw.data, atol=1e-5)

    def test_a_stop_later_knows_that_it_was_denoised(self, photons):
        _, _, result = stopped(INR, photons, "Training the neural representation", 2, denoise=True)
        assert result.partial
        assert was_denoised(result.volume.provenance)


def test_blank_projections_are_numbered_as_they_were_acquired():
    data = np.random.default_rng(0).random((5, 32, 32))
    data[3] = 0.5
    stack = ProjectionStack(data, Acquisition(slices=4)).without((1,))
    events, _ = collected(run(job(Linear(), stack), stack))
    assert any("projection 4 (counted" in event.message for event in events if isinstance(event, Notice))


def test_without_consistency_none_is_softened():
    assert notices(Acquisition(slices=4, stride=2), Linear(consistency="none")) == []


# -- stops ----------------------------------------------------------------------------------

STAGES = [
    "Training the neural representation",
    "Computing the volume",
    "Training the diffusion model",
    "Denoising the slices",
]


def test_stages_of_the_whole(camera):
    events, _ = collected(run(job(DIFFUSION, camera), camera))
    assert [event.name for event in events if isinstance(event, Stage)] == STAGES


def stopped(
    method: Method, stack: ProjectionStack, stage: str, step: int, **changes: Any
) -> tuple[list[Event], list[Event], Result]:
    """Run, with a stop at this step of a stage: events up to it, events after it, and the result."""
    seen: list[Event] = []
    later: list[Event] = []
    now, flag = "", False
    events = run(job(method, stack, **changes), stack, cancelled=lambda: flag)
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            return seen, later, end.value
        (later if flag else seen).append(event)
        now = event.name if isinstance(event, Stage) else now
        flag = flag or (now == stage and isinstance(event, Step) and event.done == step)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stop_keeps_what_was_shown(stage, camera):
    seen, later, result = stopped(DIFFUSION, camera, stage, 2)
    assert later == []
    assert result.partial
    assert result.volume.provenance is not None
    assert result.volume.provenance["complete"] is False
    np.testing.assert_array_equal(result.volume.data, painted(seen, camera.volume_shape))
    assert result.residual.maximum == pytest.approx(
        np.abs(camera.acquisition.residual(result.volume.data.astype(float), camera.data)).max()
    )


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_stopped_run_has_no_reliability(step, camera):
    _, _, result = stopped(Sure(), camera, "Weighing", step)
    assert result.partial
    assert result.volume.reliability is None


@pytest.mark.parametrize("stage", STAGES)
def test_a_stopped_volume_is_consistent_too(stage, camera):
    method = DIFFUSION.model_copy(update={"consistency": "every_step"})
    _, _, result = stopped(method, camera, stage, 1)
    assert result.partial
    assert np.abs(camera.acquisition.residual(result.volume.data.astype(float), camera.data)).max() < 1e-3


def test_a_stop_in_training_an_inr_alone(camera):
    seen, later, result = stopped(INR.model_copy(update={"steps": 1000}), camera, STAGES[0], 2)
    assert later == []
    assert result.partial
    np.testing.assert_array_equal(result.volume.data, painted(seen, camera.volume_shape))
    assert result.weights  # as far as they are trained


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_stop_from_the_beginning_leaves_the_first_picture(method, camera):
    events, result = collected(run(job(method, camera), camera, cancelled=lambda: True))
    assert result.partial
    assert len([event for event in events if isinstance(event, Step)]) <= 1
    np.testing.assert_array_equal(result.volume.data, painted(events[:1], camera.volume_shape))


def test_an_abandoned_run_can_be_closed(camera):
    events = run(job(DIFFUSION, camera), camera)
    for _ in range(3):
        next(events)
    events.close()
    with pytest.raises(StopIteration):
        next(events)


# -- bad input: before any event ------------------------------------------------------------


def refusal(method: Method, stack: ProjectionStack, error: type[EngineError], **changes: Any) -> str:
    """What is said when a run is refused before it begins."""
    with pytest.raises(error) as caught:
        next(run(job(method, stack, **changes), stack))
    return str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.ones((2, 40, 40)).cumsum(0), "mine has 2 projection.*at least 3"),
        (np.ones((4, 31, 40)).cumsum(0), "mine is 31 x 40 pixels; at least 32"),
        (np.ones((4, 40, 40)), "mine is constant"),
        (np.where(np.arange(40) == 3, np.nan, np.ones((4, 40, 40)).cumsum(0)), "mine holds 160 NaN or infinite"),
        (np.where(np.arange(40) == 3, np.inf, np.ones((4, 40, 40)).cumsum(0)), "mine holds 160 NaN or infinite"),
    ],
)
def test_stacks_that_no_method_can_use(data, message):
    stack = ProjectionStack(data, Acquisition(slices=4), name="mine")
    assert re.search(message, refusal(Linear(), stack, InvalidInput))


def test_a_device_that_is_not_there(camera):
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    missing = next(name for name, found in there.items() if not found)
    told = refusal(Linear(), camera, DeviceUnavailable, device=missing)
    assert re.search(f"no {missing} device .* available: .*cpu", told)
    assert resolve_device("cpu") == "cpu"
    assert there.get(resolve_device("auto"), True)


@pytest.mark.parametrize(
    ("method", "remedy"),
    [
        (Linear(), "linear needs 0.0 GB of memory .* are free: crop the images"),
        (INR.model_copy(update={"rays": 10**6}), "inr needs .* free: lower rays, width or layers"),
        (DIFFUSION.model_copy(update={"batch": 1024, "crop": 1024}), "microdiffusion needs .*: lower batch, crop"),
    ],
)
def test_too_large_for_the_memory(method, remedy, camera, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=100_000))
    assert re.search(remedy, refusal(method, camera, TooLarge))


@pytest.mark.parametrize(
    ("method", "volumes"),
    [
        (Linear(), 6),
        (Sure(), 12),
        *((spec(name, overrides=small(name)), count) for name, count in (("axial", 12), ("axial_diffusion", 12))),
        (spec("axial_posterior", overrides={**small("axial_posterior"), "samples": 2}), 18),
    ],
    ids=lambda value: getattr(value, "kind", value),
)
def test_no_run_holds_more_than_was_checked_for(method, volumes, monkeypatch):
    """A window may hold a picture beside it."""
    data = np.random.default_rng(0).integers(0, 4000, (5, 64, 64)).astype(np.uint16)
    stack = ProjectionStack(data, Acquisition(slices=12))
    size = 4 * math.prod(stack.volume_shape)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=volumes * size - 1))
    monkeypatch.setattr(type(method), "memory_bytes", lambda *_: (0, "nothing"))
    refusal(method, stack, TooLarge)
    monkeypatch.undo()
    trained = exhaust(run(job(method, stack), stack)).weights  # and what is loaded and kept for the next time
    tracemalloc.start()
    try:
        exhaust(run(job(method, stack), stack, weights=trained))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < (volumes - 1) * size


def test_error_bars_take_memory_too(camera, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=9 * 16 * 32 * 36 * 4))
    exhaust(run(job(Conservative(), camera), camera))
    assert "are free" in refusal(Sure(), camera, TooLarge)


def test_needs_are_told_in_gigabytes(camera, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=3 * 10**9))
    method = DIFFUSION.model_copy(update={"batch": 1024, "crop": 256})
    needed = (method.memory_bytes(camera)[0] + 6 * 16 * 32 * 36 * 4) / 1e9
    assert re.search(f"needs {needed:.1f} GB of memory .* and 3.0 GB are free", refusal(method, camera, TooLarge))


def test_a_base_model_is_needed(camera, monkeypatch):
    monkeypatch.setattr(Inr, "pretrained", True)
    told = refusal(INR, camera, InvalidInput)
    assert re.search("inr needs a base model: train one on full volumes .*pretrain.* --base", told)


def test_projections_that_a_method_is_not_made_for(camera, monkeypatch):
    monkeypatch.setattr(Inr, "unsuited", lambda _, acquisition: f"takes no {acquisition.profile} profile")
    assert "inr takes no uniform profile" in refusal(INR, camera, InvalidInput)


# -- errors on the way ----------------------------------------------------------------------


def exceed(kind: str) -> None:
    if kind == "torch":
        torch.empty(2**50, dtype=torch.uint8)  # more than any address space holds: torch's own error
    elif kind == "numpy":
        np.empty(2**50, np.uint8)
    else:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


@pytest.mark.parametrize("kind", ["torch", "numpy", "cuda"])
@pytest.mark.parametrize("part", ["fit", "estimate"])
def test_running_out_of_memory_says_what_to_lower(kind, part, camera, monkeypatch):
    def greedy(*_: Any):
        yield Stage("Using all the memory", 1)
        exceed(kind)

    monkeypatch.setattr(Inr, part, greedy)
    with pytest.raises(RunFailed, match="memory ran out during inr on mine: lower rays, width or layers"):
        exhaust(run(job(INR, camera), camera))


@pytest.mark.parametrize("part", ["the first picture", "the closing step"])
def test_running_out_of_memory_before_and_after_the_method(part, camera, monkeypatch):
    def greedy(*_: Any):
        raise MemoryError

    if part == "the first picture":
        monkeypatch.setattr(Conservative, "matrix", greedy)
    else:
        monkeypatch.setattr("napari_microdiffusion.run.make_consistent", greedy)
    method = INR.model_copy(update={"consistency": "final"})
    with pytest.raises(RunFailed, match="memory ran out during inr on mine: lower rays, width or layers"):
        exhaust(run(job(method, camera), camera))


def test_other_failures_name_method_and_data(camera, monkeypatch):
    def fails(*_: Any):
        raise RuntimeError("the sky fell")
        yield

    monkeypatch.setattr(Inr, "estimate", fails)
    with pytest.raises(RunFailed, match="inr broke off on mine: the sky fell"):
        exhaust(run(job(INR, camera), camera))


def test_weights_that_a_job_names_are_not_left_out_without_a_word(camera):
    named = job(INR, camera, weights="w.safetensors")
    with pytest.raises(InvalidInput, match=r"the job names w\.safetensors: hand over the weights in it"):
        next(run(named, camera))
    weights = exhaust(run(job(INR, camera), camera)).weights
    assert exhaust(run(named, camera, weights=weights)).volume.shape == camera.volume_shape


@pytest.mark.parametrize("method", [INR, DIFFUSION], ids=["inr", "microdiffusion"])
def test_weights_that_do_not_fit_are_refused_before_any_work(method, camera):
    weights = exhaust(run(job(method, camera), camera)).weights
    prior = {} if method is INR else {"prior": INR.model_copy(update={"width": 16})}
    wider = method.model_copy(update=prior or {"width": 16})
    early = {name: weights[name] for name in sorted(weights)[:-1]}
    for wanted, given in ((wider, weights), (method, early), (method, {}), (Linear(), weights)):
        with pytest.raises(InvalidInput, match="the weights do not fit"):
            next(run(job(wanted, camera), camera, weights=given))


# -- provenance and replay ------------------------------------------------------------------


def test_provenance_says_how_it_was_made(camera):
    result = exhaust(run(job(DIFFUSION, camera, seed=7, precision="auto"), camera))
    found = result.volume.provenance
    assert found is not None
    assert found["software"] == "napari-microdiffusion"
    assert found["versions"]["torch"] == torch.__version__
    assert found["versions"].keys() >= {"napari-microdiffusion", "numpy", "scipy"}
    assert found["method"] == "microdiffusion"
    assert found["seed"] == found["job"]["seed"] == 7
    assert found["device"] == "cpu"
    assert found["precision"] == resolve_precision("auto", "cpu")
    assert found["input"] == "mine"
    assert found["input_sha256"] == hashlib.sha256(camera.data.tobytes()).hexdigest()
    assert found["complete"] is True
    assert found["seconds"] > 0
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_the_job_in_the_provenance_gives_the_same_bits(method, camera):
    hidden = camera.without([1])
    first = exhaust(run(Job(method=method, seed=11, device="cpu"), hidden)).volume
    assert first.provenance is not None
    again = Job.model_validate_json(json.dumps(first.provenance["job"]))
    assert again.acquisition == hidden.acquisition  # the stack's own, bound to its projections
    replayed = exhaust(run(again, hidden)).volume
    np.testing.assert_array_equal(replayed.data, first.data)
    assert {**replayed.provenance, "seconds": 0} == {**first.provenance, "seconds": 0}


def test_the_hash_is_of_the_pixels_however_they_lie_in_memory(camera):
    strided = ProjectionStack(np.asfortranarray(camera.data), camera.acquisition)
    result = exhaust(run(job(Linear(), strided), strided))
    assert (result.volume.provenance or {})["input_sha256"] == hashlib.sha256(camera.data.tobytes()).hexdigest()


def test_the_seed_is_the_only_chance(camera):
    one, same, other = (reconstruct(camera, DIFFUSION, seed=seed, device="cpu").data for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1


def test_jobs_are_frozen_and_travel_as_json(camera, tmp_path):
    whole = job(
        DIFFUSION, camera, projections=tmp_path / "p.tif", weights=tmp_path / "w", channel=1, time=2, seed=2**62
    )
    assert Job.model_validate_json(whole.model_dump_json()) == whole
    with pytest.raises(ValidationError, match="frozen"):
        whole.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    "wrong", [{"seed": -1}, {"seed": 2**63}, {"device": "tpu"}, {"precision": "half"}, {"channel": -1}, {"nonsense": 1}]
)
def test_jobs_know_their_fields(wrong, camera):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        job(Linear(), camera, **wrong)


# -- precision ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({}, "float32"),
        ({"avx2": True, "amx_bf16": False, "avx512_bf16": False}, "float32"),
        ({"avx512_bf16": True}, "bfloat16"),
        ({"amx_bf16": True}, "bfloat16"),
    ],
)
def test_bfloat16_only_where_the_processor_has_it(capabilities, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert resolve_precision("auto", "cpu") == expected
    assert resolve_precision("float32", "cpu") == "float32"
    assert resolve_precision("bfloat16", "cpu") == "bfloat16"
    assert resolve_precision("auto", "mps") == "float32"


def test_cudnn_repeats_itself_during_a_run_on_cuda_only(monkeypatch):
    cudnn = torch.backends.cudnn
    monkeypatch.setattr(cudnn, "benchmark", True)
    for device, during in (("cuda", (True, False)), ("cpu", (False, True))):
        first, second = repeatable(device), repeatable(device)
        first.__enter__()
        second.__enter__()
        assert (cudnn.deterministic, cudnn.benchmark) == during
        first.__exit__(None, None, None)  # of runs side by side, the one that began first
        assert (cudnn.deterministic, cudnn.benchmark) == during
        second.__exit__(None, None, None)
        assert (cudnn.deterministic, cudnn.benchmark) == (False, True)


def test_older_torch_does_not_tell(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert resolve_precision("auto", "cpu") == "float32"


def test_bfloat16_runs_where_it_is_asked_for(camera):
    exact, mixed = (exhaust(run(job(INR, camera, precision=p), camera)).volume for p in ("float32", "bfloat16"))
    assert (mixed.provenance or {})["precision"] == "bfloat16"
    assert mixed.data.dtype == np.float32
    assert 0 < np.abs(mixed.data - exact.data).max() < 200
