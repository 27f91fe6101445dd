"""The held-out score of a job: refusals, intensities, devices, stops and errors are those of a run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.events import DeviceUnavailable, InvalidInput, RunFailed, Stage, TooLarge, exhaust
from napari_microdiffusion.methods import Conservative, Context, Inr, Linear, Method
from napari_microdiffusion.methods.heldout import score
from napari_microdiffusion.run import Job
from napari_microdiffusion.trust import HeldOut, held_out
from napari_microdiffusion.volume import ProjectionStack

INR = Inr(features=16, width=8, layers=2, rays=256, steps=3)


@pytest.fixture(scope="module")
def camera() -> ProjectionStack:
    """Five projections of four slices, uint16, on an offset of 1000."""
    z, y, x = np.meshgrid(np.arange(5), np.arange(32), np.arange(36), indexing="ij")
    images = 1000 + 800 * (1 + np.sin(z + x / 5) * np.cos(y / 4)) + 20 * np.random.default_rng(0).random(z.shape)
    return ProjectionStack(images.astype(np.uint16), Acquisition(slices=4), name="mine")


def job(method: Method, **changes: Any) -> Job:
    return Job(**{"method": method, "device": "cpu", "precision": "float32"} | changes)


def found(method: Method, stack: ProjectionStack, **options: Any) -> HeldOut:
    return exhaust(held_out(job(method), stack, **options))


@pytest.mark.parametrize("method", [Conservative(), INR], ids=["conservative", "inr"])
def test_it_is_the_score_of_the_normalised_stack_in_the_inputs_intensities(method, camera):
    working, intensity = camera.normalised()
    expected = exhaust(score(method, working, Context(seed=3), None, 2))
    result = exhaust(held_out(job(method, seed=3), camera, folds=2))
    assert result.psnr == expected.psnr
    assert result.errors == pytest.approx([intensity.gain * e for e in expected.errors], nan_ok=True)
    assert 20 < max(result.errors[1:-1]) < 2000


def test_it_knows_no_scale(camera):
    images = camera.data.astype(np.float64)
    plain, scaled = (found(Linear(), ProjectionStack(data, camera.acquisition)) for data in (images, 0.01 * images - 7))
    assert scaled.psnr == pytest.approx(plain.psnr, abs=1e-3)
    assert scaled.errors == pytest.approx([0.01 * error for error in plain.errors], rel=1e-3, nan_ok=True)


def test_denoising_is_scored_on_what_was_measured():
    """With few photons it tells hidden projections better, as noisy as they are."""
    y, x = np.mgrid[:48, :48]
    light = np.repeat(10 * (1 + np.sin(x / 5) * np.cos(y / 4))[None] ** 2, 6, axis=0)
    photons = ProjectionStack(np.random.default_rng(0).poisson(light).astype(np.uint16), Acquisition(slices=4))
    raw, quiet = (exhaust(held_out(job(Conservative(), denoise=wanted), photons)) for wanted in (False, True))
    assert quiet.psnr > raw.psnr + 1
    noise = np.sqrt(light.mean())  # of the hidden projection itself, which nothing can tell
    assert np.nanmean(quiet.errors) == pytest.approx(noise, rel=0.15)


def test_weights_are_ignored_where_they_know_the_projections(camera):
    trained = exhaust(INR.fit(camera.normalised()[0], Context(seed=9)))
    np.testing.assert_array_equal(found(INR, camera, weights=trained).errors, found(INR, camera).errors)
    with pytest.raises(InvalidInput, match="the weights do not fit linear"):
        found(Linear(), camera, weights=trained)


def test_a_base_model_is_needed(camera, monkeypatch):
    weights = exhaust(INR.fit(camera.normalised()[0], Context()))
    plain = found(INR, camera).psnr
    monkeypatch.setattr(Inr, "pretrained", True)
    monkeypatch.setattr(Inr, "retrains", False)
    with pytest.raises(InvalidInput, match="inr needs a base model: train one on full volumes"):
        next(held_out(job(INR), camera))
    with pytest.raises(InvalidInput, match="the weights do not fit inr"):
        next(held_out(job(INR), camera, weights={}))
    assert found(INR, camera, weights=weights).psnr != plain


def test_a_stop_in_time(camera):
    with pytest.raises(RunFailed, match="no held-out score yet"):
        found(INR, camera, cancelled=lambda: True)


@pytest.mark.parametrize(
    ("stack", "changes", "error", "message"),
    [
        (lambda s: ProjectionStack(s.data[:3], Acquisition(slices=4)), {}, InvalidInput, "at least 4 projections"),
        (lambda s: ProjectionStack(s.data * 0, s.acquisition), {}, InvalidInput, "constant"),
        (lambda s: s, {"folds": 1}, InvalidInput, "at least 2 folds"),
        (lambda s: s.without([2]), {}, InvalidInput, "inr takes no gaps"),
    ],
)
def test_refused_before_any_event(stack, changes, error, message, camera, monkeypatch):
    monkeypatch.setattr(Inr, "unsuited", lambda _, acquisition: "takes no gaps" if acquisition.hidden else None)
    with pytest.raises(error, match=message):
        next(held_out(job(INR), stack(camera), **changes))


def test_a_device_that_is_not_there(camera):
    missing = "mps" if not torch.backends.mps.is_available() else "cuda"
    with pytest.raises(DeviceUnavailable, match=f"no {missing} device"):
        next(held_out(job(Linear(), device=missing), camera))


def test_too_large_for_the_memory(camera, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    with pytest.raises(TooLarge, match="linear needs"):
        next(held_out(job(Linear()), camera))


@pytest.mark.parametrize("part", ["fit", "estimate"])
def test_running_out_of_memory_says_what_to_lower(part, camera, monkeypatch):
    def greedy(*_: Any):
        yield Stage("Using all the memory", 1)
        torch.empty(2**50, dtype=torch.uint8)

    monkeypatch.setattr(Inr, part, greedy)
    with pytest.raises(RunFailed, match="memory ran out during inr on mine: lower rays"):
        found(INR, camera)


def test_an_abandoned_score_can_be_closed(camera):
    events = held_out(job(INR), camera)
    next(events)
    events.close()
    with pytest.raises(StopIteration):
        next(events)
