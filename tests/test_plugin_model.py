"""The model that the widget edits: what it says of the input, the job it makes. No Qt."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.descriptions import DESCRIPTIONS
from napari_microdiffusion.events import InvalidInput, Preview, RunFailed, Stage, Step, TooLarge, exhaust
from napari_microdiffusion.metrics import Residual
from napari_microdiffusion.plugin.follow import Recorder, spread
from napari_microdiffusion.plugin.model import Header, Setup, choices_of, plan
from napari_microdiffusion.presets import METHODS, PRESETS, spec
from napari_microdiffusion.run import Result
from napari_microdiffusion.trained import check_sampling_only
from napari_microdiffusion.volume import ProjectionStack, Volume

STACK = Header("stack", (16, 128, 128))


def test_plan_says_what_will_be_built() -> None:
    text = plan(Setup(source="stack", scale_um=(1, 0.5, 0.5)), STACK)
    assert text == "16 projections of 128 × 128 → a volume of 96 × 128 × 128 (z, y, x), 1 × 0.5 × 0.5 µm voxels"


def test_plan_says_what_is_left_out() -> None:
    assert "of 128 × 128, denoised first → a volume" in plan(Setup(source="stack", denoise=True), STACK)
    text = plan(Setup(source="stack", leave_out="3, 7-9"), STACK)
    assert text.startswith("12 of 16 projections of 128 × 128 → a volume of 96 × 128 × 128")
    simulated = plan(Setup(simulate=True), Header("volume", (96, 64, 64)))
    assert simulated.startswith("16 projections")


def test_plan_says_what_a_simulation_leaves_out() -> None:
    text = plan(Setup(simulate=True), Header("volume", (100, 64, 64)))
    assert text.startswith("16 projections of 64 × 64 → a volume of 96 × 64 × 64 (z, y, x), voxel size not stated")
    assert "last 4 of 100 slices" in text


@pytest.mark.parametrize(
    ("setup", "source", "truth", "words"),
    [
        (Setup(), None, None, "Choose an image"),
        (Setup(), Header("s", (64, 64)), None, "single image"),
        (Setup(), Header("s", (64, 64, 3), "uint8", rgb=True), None, "colour image"),
        (Setup(), Header("s", (6, 64, 64), "complex64"), None, "holds complex data"),
        (Setup(), Header("s", (6, 64, 64), "bool"), None, "bool"),
        (Setup(), Header("s", (2, 64, 64)), None, "at least 3"),
        (Setup(), Header("s", (6, 64, 31)), None, "32 x 32 are needed"),
        (Setup(), Header("s", (64, 64, 12)), None, "use a larger field of view; if z is its last axis"),
        (Setup(), Header("s", (6, 64, 64), lacking=2), None, "s lacks 2 of the projections"),
        (Setup(leave_out="17"), STACK, None, "numbered from 1 to 16"),
        (Setup(leave_out="1-14"), STACK, None, "2 would be left"),
        (Setup(leave_out="the third"), STACK, None, "'the' names no projections"),
        (Setup(scale_um=(-6, 1, 1)), STACK, None, "give sizes above 0"),
        (Setup(), STACK, Header("t", (90, 128, 128)), "ground truth t is 90 × 128 × 128"),
        (Setup(simulate=True), Header("s", (17, 64, 64)), None, "fewer slices"),
        (Setup(method="inr", overrides={"steps": 0}), STACK, None, "steps"),
        (Setup(method="inr", overrides={"nonsense": 0}), STACK, None, "nonsense"),
    ],
)
def test_plan_says_what_is_wrong(setup: Setup, source: Header | None, truth: Header | None, words: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(words)):
        plan(setup, source, truth)


def test_every_method_is_offered_once() -> None:
    assert sorted(DESCRIPTIONS) == sorted(METHODS)


def test_job_holds_what_was_chosen(tmp_path: Path) -> None:
    setup = Setup(method="inr", overrides={"steps": 7}, seed=3, acquisition=Acquisition(slices=4), scale_um=(3, 1, 1))
    job = setup.job(tmp_path / "a.tif", channel=1)
    assert job.scale_um == (3, 1, 1)
    assert (job.method.kind, job.method.steps, job.seed, job.channel) == ("inr", 7, 3, 1)  # type: ignore[attr-defined]
    assert job.acquisition.slices == 4
    assert setup.title == "INR preview"
    assert Setup(method="linear").title == "Linear interpolation"


def test_a_job_is_what_is_chosen() -> None:
    job = Setup(method="conservative", device="cpu", seed=3).job(Path("stack.tif"), channel=1)
    assert (job.method.kind, job.device, job.seed, job.projections, job.channel) == (
        "conservative",
        "cpu",
        3,
        Path("stack.tif"),
        1,
    )


@pytest.mark.parametrize("count", [0, 1, 2, 5, 16, 97, 200])
def test_spread_visits_every_slice_once(count: int) -> None:
    assert sorted(spread(count)) == list(range(count))


def test_recorder_scores_and_times(truth: Volume, stack: ProjectionStack) -> None:
    canvas = np.zeros(stack.volume_shape, np.float32)
    recorder = Recorder(canvas, stack, truth)
    recorder.begin(Stage("Training", 10))
    recorder.step(Step(5, loss=0.5))
    recorder.paint(Preview(2, truth.data[2:4]))
    progress = recorder.progress()
    assert (progress.stage, progress.done, progress.steps, progress.losses) == ("Training", 5, 10, ((5, 0.5),))
    assert progress.seconds_left is not None
    assert progress.painted
    assert progress.scores is not None
    assert set(progress.scores) >= {"psnr", "ssim", "dice", "reprojection_max_error"}
    np.testing.assert_array_equal(canvas[2:4], truth.data[2:4])
    assert not recorder.progress().losses


@pytest.mark.parametrize(("stop", "seconds", "psnr"), [(False, -1, 120), (True, 60, 120), (True, -1, None)])
def test_the_closing_scores_can_be_stopped(
    truth: Volume, stack: ProjectionStack, monkeypatch: pytest.MonkeyPatch, stop: bool, seconds: float, psnr: Any
) -> None:
    monkeypatch.setattr("napari_microdiffusion.plugin.follow.SCORING_SECONDS", seconds)
    recorder = Recorder(np.zeros(stack.volume_shape, np.float32), stack, truth)
    found = recorder.closing_scores(Result(truth, {}, Residual(0.0, 0.0), False, 1.0), lambda: stop)
    assert found.get("psnr") == psnr
    assert "reprojection_max_error" in found


def test_too_little_memory_is_said_before_the_first_picture(
    stack: ProjectionStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_microdiffusion.plugin.worker import drive

    job = Setup(method="inr", device="cpu", overrides={"rays": 4096, "width": 512, "layers": 12}).job()
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=10**8))
    with pytest.raises(TooLarge, match="lower rays"):
        next(drive(lambda: False, lambda: (stack, None), job))


def test_after_stop_no_software_is_loaded(stack: ProjectionStack, monkeypatch: pytest.MonkeyPatch) -> None:
    from napari_microdiffusion.plugin import worker

    monkeypatch.setattr(worker, "torch_loaded", lambda: pytest.fail("torch was loaded"))
    outcome = exhaust(worker.drive(lambda: True, lambda: (stack, None), Setup(method="inr").job()))
    assert outcome.result.partial


def test_what_the_engine_wants_known_arrives(truth: Volume) -> None:
    from napari_microdiffusion.plugin.worker import drive

    gappy = truth.simulate(Acquisition(slices=4, stride=6))[0]
    messages = drive(lambda: False, lambda: (gappy, None), Setup(method="conservative", device="cpu").job())
    notices = [notice for message in messages for notice in getattr(message, "notices", ())]
    assert len(notices) == 1
    assert "between the projections" in notices[0]


def test_errors_of_a_run_are_for_users() -> None:
    from napari_microdiffusion.plugin.worker import drive

    def load() -> tuple[ProjectionStack, None]:
        raise RuntimeError("out of cheese")

    with pytest.raises(RunFailed, match="out of cheese"):
        next(drive(lambda: False, load, Setup(method="linear").job()))


@pytest.mark.parametrize("overrides", [{"prior": None}, {"injection": "condition"}])
def test_settings_that_do_nothing_do_not_keep_a_trained_network_from_being_used(overrides: dict[str, object]) -> None:
    """Perhaps they differ from every preset: files say them all."""
    trained = spec("microdiffusion", overrides=overrides).model_copy(update={"gamma": 0.3})
    choices = choices_of(trained)
    assert "gamma" not in choices["overrides"]
    chosen = Setup(**choices).spec()
    check_sampling_only(trained, chosen)
    assert chosen == trained.model_copy(update={"gamma": 0.8})


@pytest.mark.parametrize("name", ["axial", "microdiffusion", "naive_diffusion", "linear"])
@pytest.mark.parametrize("preset", PRESETS)
def test_choices_stand_for_a_spec(name: str, preset: str) -> None:
    wanted = spec(name, preset, {"consistency": "none"})
    choices = choices_of(wanted)
    assert spec(**{{"method": "name"}.get(key, key): value for key, value in choices.items()}) == wanted
    assert len(choices["overrides"]) <= 1
