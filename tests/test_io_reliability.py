"""The reliability of a volume in a file of its own: it comes back, and never with another volume."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import yaozarrs
import zarr

from napari_microdiffusion import io
from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.events import InvalidInput, RunFailed
from napari_microdiffusion.io import ome_zarr, tiff
from napari_microdiffusion.io.target import beside
from napari_microdiffusion.metrics import evaluate
from napari_microdiffusion.reliability import Reliability
from napari_microdiffusion.volume import Volume

OUTPUTS = ("v.ome.tif", "v.tif", "v.ome.tiff", "v.ome.zarr", "v.zarr")
SCALE = (1.5, 0.25, 0.24)
PROVENANCE = {"job": {"method": {"kind": "linear"}}, "seed": 3}
NAMES = ("standard deviation", "lower 5 %", "upper 95 %")


def sure(seed: int = 0, shape: tuple[int, int, int] = (5, 33, 37)) -> Volume:
    """A volume with a reliability."""
    rng = np.random.default_rng(seed)
    data, std = rng.normal(100, 40, shape).astype(np.float32), rng.random(shape, np.float32)
    found = Reliability(std, data - 2 * std, data + 2 * std)
    return Volume(data, SCALE, source_dtype="uint16", provenance=PROVENANCE, reliability=found)


def same(one: Reliability | None, other: Reliability | None) -> bool:
    if one is None or other is None:
        return one is other
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("std", "lower", "upper"))


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("name", "second"),
    [
        ("v.ome.tif", "v_reliability.ome.tif"),
        ("v.tif", "v_reliability.tif"),
        ("V.OME.TIFF", "V_reliability.OME.TIFF"),
        ("v.ome.zarr", "v_reliability.ome.zarr"),
        ("my.v.zarr", "my.v_reliability.zarr"),
    ],
)
def test_where_it_is_kept(name: str, second: str) -> None:
    assert beside(Path("/some/folder") / name) == Path("/some/folder") / second


@pytest.mark.parametrize("name", OUTPUTS)
def test_it_comes_back_with_its_volume(tmp_path: Path, name: str) -> None:
    volume = sure()
    written = io.write_volume(volume, tmp_path / name)
    assert written.path == tmp_path / name
    assert written.reliability == beside(tmp_path / name)
    assert files(tmp_path) == sorted([name, beside(tmp_path / name).name])
    back = io.read_volume(tmp_path / name)
    assert same(back.reliability, volume.reliability)
    assert back.reliability is not None
    assert back.reliability.std.dtype == np.float32
    assert (back.scale_um, back.source_dtype, back.provenance) == (SCALE, "uint16", PROVENANCE)
    assert io.read_volume(tmp_path / name, with_reliability=False).reliability is None


@pytest.mark.parametrize("name", OUTPUTS)
def test_its_file_says_what_it_holds(tmp_path: Path, name: str) -> None:
    volume = sure()
    io.write_volume(volume, tmp_path / name)
    found = io.inspect(beside(tmp_path / name))
    assert (found.axes, found.shape, found.dtype) == ("CZYX", (3, 5, 33, 37), "float32")
    assert found.channel_names == NAMES
    assert found.scale_um == SCALE
    assert found.provenance == {**PROVENANCE, "map": "uncertainty"}  # no volume, whatever else it says
    upper = io.read_volume(beside(tmp_path / name), channel=2)
    assert volume.reliability is not None
    np.testing.assert_array_equal(upper.data, volume.reliability.upper)
    assert io.inspect(tmp_path / name).channel_names == ()


def test_other_software_can_read_it(tmp_path: Path) -> None:
    volume = sure()
    io.write_volume(volume, tmp_path / "v.ome.tif")
    io.write_volume(volume, tmp_path / "v.ome.zarr")
    yaozarrs.validate_zarr_store(tmp_path / "v_reliability.ome.zarr")
    array = zarr.open_array(tmp_path / "v_reliability.ome.zarr" / "0", mode="r")
    with tifffile.TiffFile(tmp_path / "v_reliability.ome.tif") as file:
        assert file.series[0].axes == "CZYX"
        stored = file.asarray()
    assert volume.reliability is not None
    for data in (np.asarray(array[:]), stored):
        np.testing.assert_array_equal(data[1], volume.reliability.lower)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("source_dtype", ["uint16", "float32"])
def test_an_integer_export_leaves_it_as_it_is(tmp_path: Path, dtype: Any, source_dtype: str) -> None:
    volume = replace(sure(), source_dtype=source_dtype)
    io.write_volume(volume, tmp_path / "v.ome.tif", dtype=dtype)
    back = io.read_volume(tmp_path / "v.ome.tif")
    assert same(back.reliability, volume.reliability)
    assert (back.provenance or {})["export"]["gain"] > 0


def test_scores_of_a_saved_volume_are_those_of_the_volume(tmp_path: Path, truth: Volume) -> None:
    stack, cropped = truth.simulate(Acquisition(slices=6))
    rng = np.random.default_rng(0)
    data = cropped.data + 0.1 * rng.standard_normal(cropped.shape).astype(np.float32)
    std = rng.random(cropped.shape, np.float32) * 0.2
    volume = Volume(data, reliability=Reliability(std, data - 1.6 * std, data + 1.6 * std))
    io.write_volume(volume, tmp_path / "v.ome.zarr")
    scores = evaluate(io.read_volume(tmp_path / "v.ome.zarr"), cropped, stack)
    assert scores == evaluate(volume, cropped, stack)
    assert 0 < scores["coverage_90"] < 1


@pytest.mark.parametrize("name", ["v.ome.tif", "v.ome.zarr"])
class TestItNeverComesWithAnotherVolume:
    def test_moved_away(self, tmp_path: Path, name: str) -> None:
        io.write_volume(sure(), tmp_path / name)
        shutil.move(tmp_path / name, tmp_path / f"moved_{name}")
        assert io.read_volume(tmp_path / f"moved_{name}").reliability is None

    def test_that_of_another_volume_lies_there(self, tmp_path: Path, name: str) -> None:
        io.write_volume(sure(1), tmp_path / name)
        io.write_volume(sure(2), tmp_path / f"other_{name}")
        shutil.move(beside(tmp_path / name), tmp_path / "gone")
        shutil.move(beside(tmp_path / f"other_{name}"), beside(tmp_path / name))
        assert io.read_volume(tmp_path / name).reliability is None

    def test_the_volume_was_overwritten(self, tmp_path: Path, name: str) -> None:
        io.write_volume(sure(1), tmp_path / name)
        io.write_volume(sure(2), tmp_path / name, overwrite=True)
        assert same(io.read_volume(tmp_path / name).reliability, sure(2).reliability)
        io.write_volume(replace(sure(3), reliability=None), tmp_path / name, overwrite=True)
        assert files(tmp_path) == [name]  # a map of another volume beside it would mislead
        assert io.read_volume(tmp_path / name).reliability is None

    def test_a_copy_keeps_its_own(self, tmp_path: Path, name: str) -> None:
        """Only what belongs to the volume that is replaced is taken away."""
        io.write_volume(sure(1), tmp_path / name)
        second = beside(tmp_path / name)
        (shutil.rmtree if second.is_dir() else os.remove)(tmp_path / name)
        io.write_volume(replace(sure(3), reliability=None), tmp_path / name, overwrite=True)
        assert second.exists()
        assert io.read_volume(tmp_path / name).reliability is None

    def test_a_shape_that_does_not_fit(self, tmp_path: Path, name: str) -> None:
        io.write_volume(sure(1), tmp_path / name)
        pair = _pair(tmp_path / name)
        small = sure(1, (4, 33, 37)).reliability
        assert small is not None
        writer = ome_zarr.write if name.endswith("zarr") else tiff.write
        second = beside(tmp_path / name)
        (shutil.rmtree if second.is_dir() else os.remove)(second)
        metadata = {"export": {"kind": "reliability", "pair": pair}}
        writer(second, dict(zip(NAMES, (small.std, small.lower, small.upper), strict=True)), SCALE, metadata, "v")
        with pytest.raises(InvalidInput, match="but its reliability is"):
            io.read_volume(tmp_path / name)


def _pair(path: Path) -> str:
    with io.open_source(path) as source:
        return str(source.record["pair"])


def test_a_damaged_one_is_told_and_can_be_done_without(tmp_path: Path) -> None:
    io.write_volume(sure(), tmp_path / "v.ome.tif")
    second = tmp_path / "v_reliability.ome.tif"
    second.write_bytes(second.read_bytes()[:9000])
    with pytest.raises(InvalidInput, match=r"v_reliability.ome.tif is incomplete.*move it away to read v.ome.tif"):
        io.read_volume(tmp_path / "v.ome.tif")
    second.unlink()
    assert io.read_volume(tmp_path / "v.ome.tif").reliability is None


@pytest.mark.parametrize("name", ["v.ome.tif", "v.ome.zarr"])
@pytest.mark.parametrize("failing", [1, 2])
def test_both_are_written_or_neither(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, failing: int) -> None:
    before = sure(1)
    io.write_volume(before, tmp_path / name)
    module = ome_zarr if name.endswith("zarr") else tiff
    plain, calls = module.write, []

    def write(*given: Any) -> None:
        calls.append(given)
        plain(*given)
        if len(calls) == failing:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write", write)
    with pytest.raises(RunFailed, match="No space left"):
        io.write_volume(sure(2), tmp_path / name, overwrite=True)
    assert files(tmp_path) == sorted([name, beside(tmp_path / name).name])
    assert same(io.read_volume(tmp_path / name).reliability, before.reliability)


class TestWhatIsThereAlready:
    def test_a_name_that_is_taken_is_refused_before_work_starts(self, tmp_path: Path) -> None:
        (tmp_path / "v_reliability.ome.tif").write_text("mine")
        with pytest.raises(InvalidInput, match=r"v_reliability.ome.tif exists already"):
            io.check_output(tmp_path / "v.ome.tif", 0)
        io.check_output(tmp_path / "v.tif", 0)
        io.check_output(tmp_path / "v.safetensors", 0, suffixes=(".safetensors",))

    @pytest.mark.parametrize("content", ["text", "volume"])
    def test_what_is_no_reliability_is_not_overwritten(self, tmp_path: Path, content: str) -> None:
        second = tmp_path / "v_reliability.ome.tif"
        if content == "text":
            second.write_text("mine")
        else:
            io.write_volume(replace(sure(), reliability=None), second)
        kept = second.read_bytes()
        with pytest.raises(InvalidInput, match="no reliability file"):
            io.check_beside(tmp_path / "v.ome.tif")
        with pytest.raises(InvalidInput, match="no reliability file"):
            io.write_volume(sure(), tmp_path / "v.ome.tif", overwrite=True)
        assert files(tmp_path) == [second.name]
        io.write_volume(replace(sure(), reliability=None), tmp_path / "v.ome.tif", overwrite=True)
        assert second.read_bytes() == kept

    def test_space_is_checked_for_both(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        volume = sure(shape=(64, 64, 64))
        usage = shutil.disk_usage(tmp_path)._replace(free=2**20 + 2 * volume.data.nbytes)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
        io.write_volume(replace(volume, reliability=None), tmp_path / "v.tif")
        with pytest.raises(InvalidInput, match="free some space"):
            io.write_volume(volume, tmp_path / "w.tif")
