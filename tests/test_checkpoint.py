"""Weights files: saved and loaded with their spec, refused where they are not what they should be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from napari_microdiffusion import checkpoint
from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.checkpoint import Origin, VolumeRecord, fingerprint, load_weights, save_weights
from napari_microdiffusion.events import InvalidInput, RunFailed

WEIGHTS = {"prior.a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3, dtype=torch.bfloat16), "n": torch.tensor(4)}
ACQUISITION = Acquisition(slices=6, profile="gaussian", fwhm=4.0, count=5, hidden=(1,))
ORIGIN = Origin(acquisition=ACQUISITION)


def test_save_then_load(tmp_path: Path) -> None:
    origin = Origin(acquisition=ACQUISITION, input_sha256="ab12")
    path = save_weights(tmp_path / "w.safetensors", {"kind": "inr"}, WEIGHTS, origin)
    found = load_weights(path)
    assert found.origin == origin
    assert found.spec == {"kind": "inr"}
    assert found.weights.keys() == WEIGHTS.keys()
    for name, tensor in WEIGHTS.items():
        assert found.weights[name].dtype == tensor.dtype
        assert torch.equal(found.weights[name], tensor)
    assert [entry.name for entry in tmp_path.iterdir()] == ["w.safetensors"]


def test_what_base_models_record(tmp_path: Path) -> None:
    volumes = (
        VolumeRecord(name="a", shape=(9, 32, 40), sha256="ab"),
        VolumeRecord(name="b", shape=(7, 8, 9), sha256="c"),
    )
    origin = Origin(acquisition=ACQUISITION, volumes=volumes, complete=False)
    assert load_weights(save_weights(tmp_path / "w.safetensors", {}, WEIGHTS, origin)).origin == origin


def test_files_from_before_base_models(tmp_path: Path) -> None:
    record = {"format": 1, "spec": {}, "software": "1", "acquisition": {"slices": 6}, "input_sha256": "ab"}
    save_file(WEIGHTS, tmp_path / "w.safetensors", {"napari_microdiffusion": json.dumps(record)})
    found = load_weights(tmp_path / "w.safetensors")
    assert (found.origin.volumes, found.origin.complete, found.origin.input_sha256) == ((), True, "ab")


def test_the_fingerprint_is_of_names_types_shapes_and_bytes(tmp_path: Path) -> None:
    path = save_weights(tmp_path / "w.safetensors", {}, WEIGHTS, ORIGIN)
    same = fingerprint(WEIGHTS)
    assert len(same) == 64
    assert fingerprint(load_weights(path).weights) == same
    assert fingerprint(dict(reversed(WEIGHTS.items()))) == same
    base = torch.arange(12.0).reshape(3, 4)
    assert fingerprint({"t": base.T}) == fingerprint({"t": base.T.contiguous()})  # however it lies in memory
    others = [
        WEIGHTS | {"n": torch.tensor(5)},
        WEIGHTS | {"n": torch.tensor(4.0)},
        WEIGHTS | {"prior.a": WEIGHTS["prior.a"].T},
        WEIGHTS | {"more": torch.empty(0)},
        {f"{name}_": tensor for name, tensor in WEIGHTS.items()},
    ]
    assert len({same, *map(fingerprint, others)}) == 1 + len(others)


def test_shared_and_transposed_tensors(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    path = save_weights(tmp_path / "w.safetensors", {}, {"t": base.T, "part": base[1:]}, ORIGIN)
    assert torch.equal(load_weights(path).weights["t"], base.T)
    assert torch.equal(load_weights(path).weights["part"], base[1:])


def test_bad_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInput, match="trains nothing"):
        save_weights(tmp_path / "w.safetensors", {"kind": "linear"}, {}, ORIGIN)
    with pytest.raises(InvalidInput, match=r"\.safetensors"):
        save_weights(tmp_path / "w.pt", {}, WEIGHTS, ORIGIN)
    save_weights(tmp_path / "w.safetensors", {"kind": "inr"}, WEIGHTS, ORIGIN)
    with pytest.raises(InvalidInput, match="exists already"):
        save_weights(tmp_path / "w.safetensors", {}, WEIGHTS, ORIGIN)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RunFailed, match="No space left"):
        save_weights(tmp_path / "w.safetensors", {}, WEIGHTS, ORIGIN, overwrite=True)
    assert load_weights(tmp_path / "w.safetensors").spec == {"kind": "inr"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["w.safetensors"]


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 200, b"\x80\x05pickle."])
def test_not_a_weights_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(InvalidInput, match="no weights file, or damaged"):
        load_weights(tmp_path / "w.safetensors")
    with pytest.raises(InvalidInput, match="there is no weights file"):
        load_weights(tmp_path / "nowhere.safetensors")


def test_weights_in_use_do_not_hang_on_their_file(tmp_path: Path) -> None:
    """A file that is mapped and cut short would end the whole program."""
    path = save_weights(tmp_path / "w.safetensors", {}, WEIGHTS, ORIGIN)
    weights = load_weights(path).weights
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(0)
        file.truncate(size)  # zeros throughout: sums of a mapped file would be 0
    for name, tensor in WEIGHTS.items():
        assert torch.equal(weights[name], tensor)


def test_cut_short(tmp_path: Path) -> None:
    path = save_weights(tmp_path / "w.safetensors", {}, WEIGHTS, ORIGIN)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(InvalidInput, match="damaged"):
        load_weights(path)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "other software"),
        ({"format": "pt"}, "other software"),
        ({"napari_microdiffusion": "{"}, "save them again"),
        ({"napari_microdiffusion": "[]"}, "save them again"),
        ({"napari_microdiffusion": "[" * 100_000}, "save them again"),
        ({"napari_microdiffusion": json.dumps({"format": 99})}, "format 99, and this version reads 1"),
        ({"napari_microdiffusion": json.dumps({"format": checkpoint.FORMAT})}, "save them again"),
        (
            {
                "napari_microdiffusion": json.dumps(
                    {"format": 1, "spec": {}, "software": "1", "acquisition": {"slices": 0}}
                )
            },
            "save them again",
        ),
    ],
)
def test_wrong_metadata(tmp_path: Path, metadata: dict[str, str] | None, message: str) -> None:
    save_file(WEIGHTS, tmp_path / "w.safetensors", metadata)
    with pytest.raises(InvalidInput, match=message):
        load_weights(tmp_path / "w.safetensors")


def test_any_safetensors_reader_opens_it(tmp_path: Path) -> None:
    path = save_weights(tmp_path / "w.safetensors", {}, WEIGHTS, ORIGIN)
    assert torch.equal(load_file(path)["prior.a"], WEIGHTS["prior.a"])
