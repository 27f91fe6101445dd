"""Whole runs at real settings: minutes on a CPU (`pytest -m slow`), or on a GPU (`pytest -m gpu`)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.events import Stage, Step, exhaust
from napari_microdiffusion.methods import Guided
from napari_microdiffusion.metrics import evaluate
from napari_microdiffusion.phantoms import phantom
from napari_microdiffusion.presets import spec
from napari_microdiffusion.pretraining import Pretraining, pretrain, pretrained_methods
from napari_microdiffusion.run import Job, reconstruct, run
from napari_microdiffusion.volume import ProjectionStack


@pytest.mark.slow
def test_microdiffusion_beats_linear_and_keeps_what_its_prior_knows():
    """On a phantom, at the preview preset, on a CPU."""
    stack, truth = phantom("vessels", (48, 64, 64), seed=3).simulate(Acquisition(slices=6))
    method = spec("microdiffusion")
    assert isinstance(method, Guided)
    assert method.prior is not None
    result = exhaust(run(Job(method=method, device="cpu"), stack))
    weights = {name.removeprefix("prior."): t for name, t in result.weights.items() if name.startswith("prior.")}
    prior = exhaust(run(Job(method=method.prior, device="cpu"), stack, weights=weights)).volume
    linear = reconstruct(stack, spec("linear"))
    scores = [evaluate(volume, truth)["psnr"] for volume in (result.volume, prior, linear)]
    assert scores[0] > scores[2]
    assert scores[0] > scores[1] - 0.3


@pytest.fixture
def short_stack() -> ProjectionStack:
    """Eight projections of a phantom."""
    return phantom("vessels", (48, 64, 64), seed=3).simulate(Acquisition(slices=6))[0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("name", ["inr", "microdiffusion", "axial", "axial_posterior"])
class TestCuda:
    def job(self, name: str) -> Job:
        short = {"steps": 30} | (
            {"prior.steps": 30, "sampling_steps": 4} if name in ("microdiffusion", "axial_posterior") else {}
        )
        return Job(method=spec(name, "standard", short), device="cuda", seed=5)

    def test_the_seed_fixes_a_consistent_volume(self, name: str, short_stack: ProjectionStack) -> None:
        first, second = (exhaust(run(self.job(name), short_stack)) for _ in range(2))
        np.testing.assert_array_equal(first.volume.data, second.volume.data)
        assert (first.volume.provenance or {})["device"] == "cuda"
        assert first.residual.maximum < 1e-4 * float(np.ptp(short_stack.data))
        assert not torch.backends.cudnn.deterministic  # as it was before

    def test_stop(self, name: str, short_stack: ProjectionStack) -> None:
        flag = False
        events = run(self.job(name), short_stack, cancelled=lambda: flag)
        later = []
        while True:
            try:
                event = next(events)
            except StopIteration as end:
                result = end.value
                break
            if flag and isinstance(event, Stage | Step):
                later.append(event)
            flag = flag or (isinstance(event, Step) and event.done == 3)
        assert later == []
        assert result.partial
        assert np.isfinite(result.volume.data).all()
        assert result.residual.maximum < 1e-4 * float(np.ptp(short_stack.data))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("name", pretrained_methods())
def test_a_base_model_of_a_gpu_gives_the_same_volume_on_either_device(name: str) -> None:
    every_sixth = Acquisition(slices=6, profile="point")
    small = {"recurrent_mz": {}, "ddpm": {"sampling_steps": 4}, "sparse3diff": {"align": False}}[name]
    method = spec(name, "standard", {"steps": 30, "channels": 32, **small})
    plan = Pretraining(method=method, acquisition=every_sixth, device="cuda")
    base = exhaust(pretrain(plan, [phantom("vessels", (48, 64, 64), seed=4)]))
    stack, truth = phantom("vessels", (48, 64, 64), seed=3).simulate(every_sixth)
    jobs = [Job(method=method, device=device, precision="float32") for device in ("cpu", "cuda")]  # type: ignore[arg-type]
    one, other = (exhaust(run(job, stack, weights=base.weights)).volume.data for job in jobs)
    np.testing.assert_allclose(one, other, atol=0.02 * float(np.ptp(truth.data)))
