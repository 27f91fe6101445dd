"""Trained weights with their method: only what concerns sampling may change on them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.events import InvalidInput
from napari_microdiffusion.methods import Guided, Inr
from napari_microdiffusion.presets import spec
from napari_microdiffusion.trained import load_trained, save_trained

WEIGHTS = {"a": torch.ones(2, 3)}
ACQUISITION = Acquisition(slices=6, count=5)


def test_round_trip(tmp_path: Path) -> None:
    method = spec("microdiffusion", "paper", {"prior.width": 64})
    path = save_trained(tmp_path / "w.safetensors", method, WEIGHTS, ACQUISITION)
    back, weights, acquisition = load_trained(path)
    assert back == method
    assert isinstance(back, Guided)
    assert isinstance(back.prior, Inr)
    assert weights.keys() == WEIGHTS.keys()
    assert acquisition == ACQUISITION


def test_sampling_settings_may_change(tmp_path: Path) -> None:
    path = save_trained(tmp_path / "w.safetensors", spec("microdiffusion"), WEIGHTS, ACQUISITION)
    changes = {"sampling_steps": 3, "guidance": 1.5, "consistency": "none"}
    method = load_trained(path, changes)[0]
    assert method == spec("microdiffusion", overrides=changes)
    assert load_trained(path, method=method)[0] == method


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
    path = save_trained(tmp_path / "w.safetensors", spec("microdiffusion"), WEIGHTS, ACQUISITION)
    with pytest.raises(InvalidInput, match=r"cannot be changed .* change .*sampling_steps.*, or train again"):
        load_trained(path, changes)


def test_unknown_settings(tmp_path: Path) -> None:
    path = save_trained(tmp_path / "w.safetensors", spec("inr"), WEIGHTS, ACQUISITION)
    with pytest.raises(InvalidInput, match="has no setting 'nonsense'"):
        load_trained(path, {"nonsense": 1})
