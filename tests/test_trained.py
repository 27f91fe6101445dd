"""Trained weights with their method: only what concerns sampling may change on them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.checkpoint import Origin, VolumeRecord, save_weights
from napari_microdiffusion.events import InvalidInput
from napari_microdiffusion.methods import Context, Guided, Inr
from napari_microdiffusion.presets import spec
from napari_microdiffusion.trained import Trained, load_trained, save_base, save_trained
from napari_microdiffusion.volume import ProjectionStack

WEIGHTS = {"a": torch.ones(2, 3)}
STACK = ProjectionStack(np.random.default_rng(0).random((5, 32, 32)), Acquisition(slices=6), name="mine")
ORIGIN = Origin(acquisition=STACK.acquisition)


def test_round_trip(tmp_path: Path) -> None:
    method = spec("microdiffusion", "paper", {"prior.width": 64})
    path = save_trained(tmp_path / "w.safetensors", method, WEIGHTS, STACK)
    trained = load_trained(path)
    back = trained.method
    assert back == method
    assert isinstance(back, Guided)
    assert isinstance(back.prior, Inr)
    assert trained.weights.keys() == WEIGHTS.keys()
    assert trained.origin.acquisition == STACK.acquisition
    assert trained.origin.input_sha256 == STACK.sha256


def test_what_sampling_makes_idle_may_be_left_out(tmp_path: Path) -> None:
    """Sigma comes before the objective: a recipe that states it alone is of the same training."""
    path = save_trained(tmp_path / "w.safetensors", spec("axial", overrides={"objective_na": 0.8}), WEIGHTS, STACK)
    alone = spec("axial", overrides={"sigma": 2.0})
    assert load_trained(path, method=alone).method == alone
    with pytest.raises(InvalidInput, match="objective_na cannot be changed"):
        load_trained(path, method=spec("axial"))


def test_sampling_settings_may_change(tmp_path: Path) -> None:
    path = save_trained(tmp_path / "w.safetensors", spec("microdiffusion"), WEIGHTS, STACK)
    changes = {"sampling_steps": 3, "guidance": 1.5, "consistency": "none"}
    method = load_trained(path, changes).method
    assert method == spec("microdiffusion", overrides=changes)
    assert load_trained(path, method=method).method == method


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 3},
        {"prior.width": 64},
        {"prior.neighbouring": "gaussian"},
        {"prior": None},
        {"prior": {"kind": "cubic"}},
    ],
)
def test_others_may_not(tmp_path: Path, changes: dict[str, object]) -> None:
    path = save_trained(tmp_path / "w.safetensors", spec("microdiffusion"), WEIGHTS, STACK)
    with pytest.raises(InvalidInput, match=r"cannot be changed .* change .*sampling_steps.*, or train again"):
        load_trained(path, changes)


def test_unknown_settings(tmp_path: Path) -> None:
    path = save_trained(tmp_path / "w.safetensors", spec("inr"), WEIGHTS, STACK)
    with pytest.raises(InvalidInput, match="has no setting 'nonsense'"):
        load_trained(path, {"nonsense": 1})


OTHER = ProjectionStack(STACK.data + 1, STACK.acquisition, name="other")


@pytest.mark.parametrize("name", ["inr", "microdiffusion"])
def test_a_neural_representation_serves_its_own_stack_alone(tmp_path: Path, name: str) -> None:
    trained = load_trained(save_trained(tmp_path / "w.safetensors", spec(name), WEIGHTS, STACK))
    assert trained.check_input(STACK) is None
    with pytest.raises(InvalidInput, match=r"other projections than other.* is the specimen itself, so train again"):
        trained.check_input(OTHER)


def test_other_networks_may_serve_another_stack(tmp_path: Path) -> None:
    trained = load_trained(save_trained(tmp_path / "w.safetensors", spec("cubic_diffusion"), WEIGHTS, STACK))
    assert trained.check_input(STACK) is None
    assert "trained on other projections" in (trained.check_input(OTHER) or "")
    gaps = ProjectionStack(STACK.data, Acquisition(slices=6, stride=8))
    assert "with 6 slices, stride 6" in (trained.check_input(gaps) or "")


def test_files_from_before_the_hash(tmp_path: Path) -> None:
    path = save_weights(tmp_path / "w.safetensors", spec("inr").model_dump(mode="json"), WEIGHTS, ORIGIN)
    assert "do not say which projections" in (load_trained(path).check_input(STACK) or "")


POINT = Acquisition(slices=6, profile="point")
RECORDS = tuple(VolumeRecord(name=name, shape=(18, 40, 40), sha256=2 * name) for name in "ab")


def base_file(folder: Path, acquisition: Acquisition = POINT, **changes: Any) -> Path:
    method = spec("recurrent_mz", overrides={"channels": 8})
    base = Trained(method, WEIGHTS, Origin(acquisition=acquisition, volumes=RECORDS, **changes))
    return save_base(folder / "w.safetensors", base)


def pointed(acquisition: Acquisition = POINT, side: int = 32) -> ProjectionStack:
    return ProjectionStack(np.random.default_rng(1).random((5, side, side)), acquisition, name="points")


def test_a_base_model_is_trained_weights_too(tmp_path: Path) -> None:
    trained = load_trained(base_file(tmp_path), {"consistency": "none"})
    assert trained.is_base
    assert trained.origin.complete
    assert trained.origin.volumes == RECORDS
    assert trained.origin.acquisition == POINT
    assert trained.origin.input_sha256 is None
    assert trained.method == spec("recurrent_mz", overrides={"channels": 8, "consistency": "none"})
    assert trained.description == "2 volumes (a, b), for 6 slices, stride 6, point profile"
    with pytest.raises(InvalidInput, match="channels cannot be changed"):
        load_trained(tmp_path / "w.safetensors", {"channels": 16})
    other = load_trained(save_trained(tmp_path / "o.safetensors", spec("inr"), WEIGHTS, STACK))
    assert not other.is_base
    assert other.description == "projections with 6 slices, stride 6, uniform profile"


@pytest.mark.parametrize(
    ("acquisition", "side"),
    [(POINT, 32), (POINT, 64), (Acquisition(slices=6, stride=6, profile="measured", weights=(2, 0, 0, 0, 0, 0)), 32)],
)
def test_a_base_model_serves_any_stack_of_its_kind(tmp_path: Path, acquisition: Acquisition, side: int) -> None:
    trained = load_trained(base_file(tmp_path))
    assert trained.check_input(pointed(acquisition, side)) is None
    assert trained.check_input(pointed(acquisition, side).without([2])) is None


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (Acquisition(slices=4, profile="point"), "4 slices, stride 4, point profile"),
        (Acquisition(slices=6, stride=8, profile="point"), "6 slices, stride 8, point profile"),
        (Acquisition(slices=6), "6 slices, stride 6, uniform profile"),
        (Acquisition(slices=6, profile="gaussian", fwhm=3), "FWHM 3 slices"),
    ],
)
def test_a_base_model_is_refused_on_projections_of_another_kind(tmp_path: Path, other: Acquisition, said: str) -> None:
    trained = load_trained(base_file(tmp_path))
    with pytest.raises(InvalidInput, match=f"base model of recurrent_mz was trained for .* points has .*{said}: train"):
        trained.check_input(pointed(other))


def test_measured_profiles_differ_by_their_weights(tmp_path: Path) -> None:
    beams = [
        Acquisition(slices=3, profile="measured", weights=weights) for weights in ((1, 2, 1), (2, 4, 2), (1, 2, 3))
    ]
    trained = load_trained(base_file(tmp_path, beams[0]))
    assert trained.check_input(pointed(beams[1])) is None
    with pytest.raises(InvalidInput, match="train one for it"):
        trained.check_input(pointed(beams[2]))


def test_a_base_model_that_was_stopped_or_fitted_to_a_stack_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = load_trained(base_file(tmp_path, complete=False))
    assert not stopped.origin.complete
    assert "stopped before its end" in (stopped.check_input(pointed()) or "")
    assert stopped.description.endswith("stopped before the end")
    for noisy in (True, False):
        path = save_trained(tmp_path / "g.safetensors", stopped.method, WEIGHTS, pointed(), True, denoised=not noisy)
        told = load_trained(path).check_input(pointed(), denoise=noisy) or ""
        assert "and these are" in told
    path = save_trained(tmp_path / "s.safetensors", stopped.method, WEIGHTS, pointed(), given=stopped)
    assert "stopped before its end" in (load_trained(path).check_input(pointed()) or "")
    base = replace(stopped, origin=stopped.origin.model_copy(update={"complete": True}))
    path = save_trained(tmp_path / "f.safetensors", base.method, WEIGHTS, pointed(), given=base)
    fitted = load_trained(path)
    assert (fitted.origin.volumes, fitted.is_base) == (RECORDS, True)
    assert "2 volumes (a, b), for 6 slices" in fitted.description
    assert "fitted to a stack" in fitted.description
    assert fitted.check_input(pointed()) is None
    assert (fitted.knows(pointed()), fitted.knows(pointed(side=40)), stopped.knows(pointed())) == (True, False, False)
    assert "fitted to another stack" in (fitted.check_input(pointed(side=40)) or "")
    monkeypatch.setattr(type(fitted.method), "refines", True)
    assert "fitted to this stack before, and is once more" in (fitted.check_input(pointed()) or "")


def test_axial_is_meant_for_further_stacks(tmp_path: Path) -> None:
    path = save_trained(tmp_path / "w.safetensors", spec("axial"), WEIGHTS, STACK)
    assert load_trained(path).check_input(STACK) is None
    note = load_trained(path).check_input(OTHER) or ""
    assert "same kind of sample, microscope and voxel size" in note
    assert "set fine_tuning" in note
    assert "conservative" not in note
    tuned = load_trained(path, {"fine_tuning": 50, "sigma": 2.0})
    assert tuned.method == spec("axial", overrides={"fine_tuning": 50, "sigma": 2.0})
    assert "trained on for 50 steps" in (tuned.check_input(OTHER) or "")
    with pytest.raises(InvalidInput, match="ratio cannot be changed"):
        load_trained(path, {"ratio": 2.0})


@pytest.mark.parametrize(
    ("trained", "used", "told"),
    [
        (False, False, None),
        (True, True, None),
        (True, False, "projections denoised, and these are not"),
        (False, True, "projections as they were measured, and these are denoised"),
    ],
)
def test_noise_in_training_and_in_use_should_agree(tmp_path: Path, trained: bool, used: bool, told: str | None) -> None:
    path = save_trained(tmp_path / "w.safetensors", spec("axial"), WEIGHTS, STACK, denoised=trained)
    note = load_trained(path).check_input(STACK, denoise=used)
    assert note == told or (told is not None and told in (note or ""))


def test_weights_of_before_it_was_recorded_say_nothing_of_noise(tmp_path: Path) -> None:
    path = save_trained(tmp_path / "w.safetensors", spec("axial"), WEIGHTS, STACK, denoised=None)
    assert all(load_trained(path).check_input(STACK, denoise=used) is None for used in (True, False))


def test_weights_that_do_not_fit_say_what_they_were_trained_for(tmp_path: Path) -> None:
    method = spec("axial", overrides={"channels": 8, "blocks": 2})
    weights = method.untrained(STACK, Context())
    trained = load_trained(save_trained(tmp_path / "w.safetensors", method, weights, STACK))
    assert trained.check(STACK) is None
    other = ProjectionStack(STACK.data, Acquisition(slices=4), name="other")
    with pytest.raises(InvalidInput, match=r"trained for 6 slices, stride 6, .* and other has 4 slices, stride 4"):
        trained.check(other)
    damaged = replace(trained, weights={})
    with pytest.raises(InvalidInput, match="do not fit axial with these settings"):
        damaged.check(STACK)


@pytest.mark.parametrize("acquisition", [Acquisition(slices=6, stride=6), Acquisition(slices=6)])
def test_how_projections_were_made_may_be_stated_in_other_words(tmp_path: Path, acquisition: Acquisition) -> None:
    path = save_trained(tmp_path / "w.safetensors", spec("axial"), WEIGHTS, STACK)
    assert load_trained(path).check_input(ProjectionStack(STACK.data, acquisition)) is None
    other = load_trained(path).check_input(ProjectionStack(STACK.data, Acquisition(slices=6, stride=7)))
    assert "trained on projections with 6 slices, stride 6" in (other or "")
