"""The command line: every command on a small real crop, every exit code, and replay to the last bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from napari_microdiffusion import io, presets
from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.checkpoint import fingerprint
from napari_microdiffusion.cli import app, commands, console
from napari_microdiffusion.events import Notice, RunFailed, Stage, Step, TooLarge, exhaust
from napari_microdiffusion.methods import Context
from napari_microdiffusion.metrics import evaluate
from napari_microdiffusion.pretraining import pretrained_methods
from napari_microdiffusion.reliability import Reliability
from napari_microdiffusion.run import Job, reconstruct, run
from napari_microdiffusion.trained import load_trained, save_base, save_trained
from napari_microdiffusion.trust import held_out
from napari_microdiffusion.volume import ProjectionStack, Volume

TINY_INR = ("--method", "inr", "--set", "steps=2", "--set", "width=8", "--set", "features=8", "--set", "layers=1")


@pytest.fixture
def folder(tmp_path: Path, real_crop: Callable[[str], Volume], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder: truth.ome.tif (32 slices), its projections p.ome.tif (5 of 6), what they cover t.ome.tif."""
    monkeypatch.chdir(tmp_path)
    data = real_crop("membranes").data[:32]
    if data.dtype.kind == "f":  # a phantom in the place of the real volume, which is 8-bit
        data = (255 * np.clip(data, 0, 1)).astype(np.uint8)
    io.write_volume(Volume(data, (0.235, 0.15, 0.15)), "truth.ome.tif")
    done("simulate", "truth.ome.tif", "-o", "p.ome.tif", "--slices", "6", "--truth-out", "t.ome.tif")
    return tmp_path


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def done(*arguments: str) -> str:
    """Standard output of a command that succeeds."""
    result = invoke(*arguments)
    assert result.exit_code == 0, result.stderr or result.exception
    return str(result.stdout)


def refused(*arguments: str, code: int = 2) -> str:
    """The one line of a command that does not."""
    result = invoke(*arguments)
    assert result.exit_code == code, (result.exit_code, result.stderr, result.exception)
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1, result.stderr
    return str(result.stderr)


def axial_network() -> str:
    """Name of a file with a small network of `axial`, as after training on other projections."""
    stack = io.read_projections("p.ome.tif")
    method = presets.spec("axial", overrides={"channels": 8, "blocks": 2, "batch": 1, "steps": 2})
    other = replace(stack, data=stack.data[:, ::-1])
    weights = method.untrained(stack, Context())
    return save_trained("axial.safetensors", method, weights, other, overwrite=True, denoised=False).name


def with_a_blank_one(path: str) -> ProjectionStack:
    """The projections with the second one blank, written to a file, which says nothing of them if it is npy."""
    stack = io.read_projections("p.ome.tif")
    data = stack.data.copy()
    data[1] = 0
    blank = replace(stack, data=data)
    if path.endswith(".npy"):
        np.save(path, data)
    else:
        io.write_projections(blank, path)
    return blank


@pytest.mark.usefixtures("folder")
class TestSimulate:
    def test_files_and_what_is_said(self) -> None:
        text = done("simulate", "truth.ome.tif", "-o", "q.ome.zarr", "--slices", "6", "--truth-out", "u.zarr")
        assert "5 projections, 6 slices, stride 6, uniform profile" in text
        assert "the last 2 of 32 slices do not fill a projection and were dropped" in text
        truth, covered = io.read_volume("truth.ome.tif"), io.read_volume("u.zarr")
        np.testing.assert_array_equal(covered.data, truth.data[:30])
        assert covered.data.dtype == truth.data.dtype
        stack = io.read_projections("q.ome.zarr")
        np.testing.assert_allclose(stack.data, truth.data[:30].reshape(5, 6, *truth.shape[1:]).mean(1), rtol=1e-6)
        assert stack.volume_scale_um == pytest.approx(truth.scale_um)

    def test_profiles(self, folder: Path) -> None:
        (folder / "beam.csv").write_text("1\n2\n1\n")
        for options, expected in (
            (
                ("--slices", "4", "--profile", "gaussian", "--fwhm", "2.5"),
                Acquisition(slices=4, profile="gaussian", fwhm=2.5),
            ),
            (("--slices", "4", "--stride", "2"), Acquisition(slices=4, stride=2)),
            (("--slices", "4", "--profile", "point"), Acquisition(slices=4, profile="point")),
            (("--profile", "beam.csv"), Acquisition(slices=3, profile="measured", weights=(1, 2, 1))),
        ):
            values = json.loads(done("simulate", "truth.ome.tif", "-o", "q.tif", "--overwrite", "--json", *options))
            stack = io.read_projections("q.tif")
            assert stack.acquisition.replace(count=None) == expected
            assert values["shape"] == list(stack.shape)
            assert values["dropped_slices"] == 32 - stack.acquisition.depth

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("truth.ome.tif", "-o", "q.tif"), "give --slices"),
            (("truth.ome.tif", "--slices", "6"), "give -o"),
            (("truth.ome.tif", "-o", "q.tif", "--slices", "20"), "at least 3 are needed"),
            (("truth.ome.tif", "-o", "q.tif", "--stride", "2"), "need --slices"),
            (("truth.ome.tif", "-o", "q.tif", "--slices", "3", "--profile", "square"), "uniform, gaussian, point"),
            (("truth.ome.tif", "-o", "q.tif", "--slices", "3", "--fwhm", "2"), "gaussian"),
            (("truth.ome.tif", "-o", "p.ome.tif", "--slices", "6"), "exists already"),
            (("truth.ome.tif", "-o", "q.tif", "--slices", "6", "--truth-out", "q.tif"), "same file"),
            (("truth.ome.tif", "-o", "q.tif", "--slices", "6", "--truth-out", "t.ome.tif"), "exists already"),
            (("truth.ome.tif", "-o", "./truth.ome.tif", "--slices", "6", "--overwrite"), "the input itself"),
            (
                ("truth.ome.tif", "-o", "q.tif", "--slices", "6", "--truth-out", "truth.ome.tif", "--overwrite"),
                "the input itself",
            ),
            (("absent.tif", "-o", "q.tif", "--slices", "6"), "no file"),
        ],
    )
    def test_refused_before_any_work(self, folder: Path, arguments: tuple[str, ...], message: str) -> None:
        before = sorted(folder.iterdir())
        assert message in refused("simulate", *arguments)
        assert sorted(folder.iterdir()) == before


@pytest.mark.usefixtures("folder")
class TestReconstruct:
    @pytest.mark.parametrize("method", ["linear", "cubic", "conservative"])
    @pytest.mark.parametrize("output", ["v.ome.tif", "v.ome.zarr"])
    def test_methods_and_formats(self, method: str, output: str) -> None:
        values = json.loads(
            done("reconstruct", "p.ome.tif", "-o", output, "--method", method, "--json").splitlines()[-1]
        )
        volume = io.read_volume(output)
        assert volume.scale_um == pytest.approx((0.235, 0.15, 0.15))
        assert (values["complete"], values["shape"], values["method"]) == (True, list(volume.shape), method)
        assert volume.provenance is not None
        assert volume.provenance["job"]["method"]["kind"] == method
        assert volume.provenance["complete"]
        assert volume.source_dtype == io.read_volume("truth.ome.tif").source_dtype

    def test_a_reconstructed_volume_is_no_stack_of_projections(self) -> None:
        done("reconstruct", "p.ome.tif", "-o", "v.ome.tif", "--method", "linear")
        told = refused("reconstruct", "v.ome.tif", "-o", "w.ome.tif", "--slices", "6", "--method", "linear")
        assert "v.ome.tif is a reconstructed volume: give the projections" in told

    @pytest.mark.parametrize(
        "ablation",
        [
            ("prior.encoding=sincos",),
            ("condition=cross_attention",),
            ("condition=none",),
            ("prior.neighbouring=gaussian",),
            ("injection=condition",),
            ("prior_training=joint", "prior.consistency=none"),
            ("prior_training=trainable", "prior.consistency=none"),
            ("gamma=0.1",),
        ],
        ids="+".join,
    )
    def test_ablations_of_the_paper(self, ablation: tuple[str, ...]) -> None:
        small = ("steps=2", "sampling_steps=2", "channels=8", "crop=16", "batch=2", "prior.steps=2", "prior.width=8")
        settings = [part for value in (*small, *ablation) for part in ("--set", value)]
        done("reconstruct", "p.ome.tif", "-o", "v.ome.tif", "--method", "microdiffusion", *settings)
        found = (io.inspect("v.ome.tif").provenance or {})["job"]["method"]
        for path, value in (setting.split("=") for setting in ablation):
            *above, name = path.split(".")
            assert str((found[above[0]] if above else found)[name]) == value

    @pytest.mark.parametrize("output", ["v.ome.tif", "v.ome.zarr"])
    def test_replay_is_the_same_to_the_last_bit(self, output: str) -> None:
        done("reconstruct", "p.ome.tif", "-o", output, *TINY_INR, "--seed", "7", "--set", "consistency=none")
        done("reconstruct", "--job", output, "-o", "again.ome.tif")
        first, second = io.read_volume(output), io.read_volume("again.ome.tif")
        np.testing.assert_array_equal(first.data, second.data)
        assert first.provenance is not None
        assert second.provenance is not None
        assert first.provenance["job"] == second.provenance["job"]
        assert first.provenance["input_sha256"] == second.provenance["input_sha256"]

    def test_job_files(self, folder: Path) -> None:
        done("reconstruct", "p.ome.tif", "-o", "v.ome.tif", "--method", "cubic", "--set", "consistency=final")
        provenance = io.inspect("v.ome.tif").provenance
        assert provenance is not None
        job = {**provenance["job"], "projections": "p.ome.tif"}  # beside the job file
        jobs = folder / "job.json"
        jobs.write_text(json.dumps(job))
        assert "p_cubic.ome.tif" in done("reconstruct", "--job", "job.json")
        np.testing.assert_array_equal(io.read_volume("p_cubic.ome.tif").data, io.read_volume("v.ome.tif").data)
        jobs.write_text(json.dumps({"method": {"kind": "linear"}}))
        done("reconstruct", "p.ome.tif", "--job", "job.json", "-o", "w.tif")
        assert "names no file of projections" in refused("reconstruct", "--job", "job.json")
        assert "leave --method, --seed out" in refused(
            "reconstruct", "--job", "job.json", "--method", "cubic", "--seed", "1"
        )
        done("reconstruct", "p.ome.tif", "-o", "x.tif", *TINY_INR, "--save-weights", "w.safetensors")
        trained = (io.inspect("x.tif").provenance or {})["job"]
        jobs.write_text(json.dumps({**trained, "projections": "p.ome.tif", "weights": "w.safetensors"}))
        done("reconstruct", "--job", "job.json", "-o", "y.tif")
        assert (io.inspect("y.tif").provenance or {})["job"]["weights"] == str(folder / "w.safetensors")
        np.testing.assert_array_equal(io.read_volume("x.tif").data, io.read_volume("y.tif").data)
        jobs.write_text(json.dumps({"method": {"kind": "linear"}, "colour": 1}))
        assert "colour = 1: there is nothing of this name" in refused("reconstruct", "--job", "job.json")
        jobs.write_text(json.dumps({"method": {"kind": "linear"}}), "utf-8-sig")  # as Windows' editor saves it
        done("reconstruct", "p.ome.tif", "--job", "job.json", "-o", "z.tif")
        jobs.write_text("[" * 100_000)
        assert "cannot be read" in refused("reconstruct", "--job", "job.json")
        jobs.write_text("[1]")
        assert "JSON object" in refused("reconstruct", "--job", "job.json")
        assert "carries no job" in refused("reconstruct", "--job", "truth.ome.tif")
        assert "cannot be read" in refused("reconstruct", "--job", "absent.json")
        jobs.write_text(json.dumps({"method": {"kind": "linear"}, "projections": "gone.tif"}))
        assert "gone.tif, which the job names" in refused("reconstruct", "--job", "job.json")

    def test_a_job_of_other_projections_takes_as_many_as_there_are(self) -> None:
        done("reconstruct", "p.ome.tif", "-o", "v.ome.tif", "--method", "conservative")
        stack = io.read_projections("p.ome.tif")
        np.save("q.npy", stack.data[:4])
        tifffile.imwrite("r.tif", np.concatenate([stack.data, stack.data]))
        for name, depth in (("q.npy", 24), ("r.tif", 60), ("p.ome.tif", 30)):
            done("reconstruct", name, "--job", "v.ome.tif", "-o", "w.ome.tif", "--overwrite")
            assert io.read_volume("w.ome.tif").shape[0] == depth

    def test_a_job_with_hidden_projections_leaves_their_gap(self) -> None:
        io.write_projections(io.read_projections("p.ome.tif").without((2,)), "h.ome.tif")
        done("reconstruct", "h.ome.tif", "-o", "v.ome.tif", "--method", "conservative")
        done("reconstruct", "h.ome.tif", "--job", "v.ome.tif", "-o", "w.ome.tif")
        np.testing.assert_array_equal(io.read_volume("v.ome.tif").data, io.read_volume("w.ome.tif").data)
        assert io.read_volume("w.ome.tif").shape[0] == 30
        stack = io.read_projections("p.ome.tif")
        io.write_projections(ProjectionStack(stack.data[:4], Acquisition(slices=6)), "q.ome.tif")
        done("reconstruct", "q.ome.tif", "--job", "v.ome.tif", "-o", "w.ome.tif", "--overwrite")
        assert io.read_volume("w.ome.tif").shape[0] == 24  # which says that none is hidden
        done("reconstruct", "p.ome.tif", "-o", "v.ome.tif", "--method", "conservative", "--overwrite")
        done("reconstruct", "h.ome.tif", "--job", "v.ome.tif", "-o", "w.ome.tif", "--overwrite")
        assert io.read_volume("w.ome.tif").shape[0] == 30

    def test_a_statement_against_the_file_is_taken_and_said(self) -> None:
        order = ("reconstruct", "p.ome.tif", "-o", "v.ome.tif", "--overwrite", "--method", "linear")
        told = "p says of itself 6 slices, stride 6, uniform profile, and is taken to be of 4 slices"
        assert told in invoke(*order, "--slices", "4").stderr
        assert io.read_volume("v.ome.tif").shape[0] == 20
        assert told in invoke("evaluate", "v.ome.tif", "--projections", "p.ome.tif", "--slices", "4").stderr
        assert "says of itself" not in invoke(*order, "--slices", "6").stderr

    def test_a_folder_is_no_output(self, folder: Path) -> None:
        told = refused("simulate", "truth.ome.tif", "-o", ".", "--slices", "6")
        assert ". is a folder: give the name of a file in it, such as out.ome.tif" in told
        (folder / "results").mkdir()
        assert "such as results/out.ome.tif" in refused("reconstruct", "p.ome.tif", "-o", "results")

    def test_projections_are_not_simulated_from_projections(self) -> None:
        assert "p.ome.tif holds projections" in refused("simulate", "p.ome.tif", "-o", "q.ome.tif", "--slices", "2")

    def test_an_export_is_as_good_a_truth_as_the_volume(self) -> None:
        truth = io.read_volume("t.ome.tif")
        floats = replace(truth, data=truth.data / np.float32(100), source_dtype="float32")
        io.write_volume(floats, "t8.ome.tif", dtype="uint8")
        done("simulate", "t8.ome.tif", "-o", "p8.ome.tif", "--slices", "6")
        done("reconstruct", "p8.ome.tif", "-o", "v.ome.tif", "--method", "linear")
        done("reconstruct", "p.ome.tif", "-o", "w.ome.tif", "--method", "linear")
        scores = [
            json.loads(done("evaluate", *pair, "--json"))["psnr"]
            for pair in (("v.ome.tif", "--truth", "t8.ome.tif"), ("w.ome.tif", "--truth", "t.ome.tif"))
        ]
        assert scores[0] == pytest.approx(scores[1], abs=0.1)

    def test_a_volume_outlives_weights_that_cannot_be_written(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: Any, **__: Any) -> None:
            raise RunFailed("w.safetensors could not be written: the disk is full")

        monkeypatch.setattr(commands, "save_trained", full)
        told = invoke("reconstruct", "p.ome.tif", "-o", "v.ome.tif", *TINY_INR, "--save-weights", "w.safetensors")
        assert told.exit_code != 0
        assert "w.safetensors could not be written" in told.stderr
        assert f"the volume is in {Path('v.ome.tif').resolve()}" in told.stderr
        assert io.read_volume("v.ome.tif").shape[0] == 30

    def test_weights_outlive_a_volume_that_cannot_be_written(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: Any, **__: Any) -> None:
            raise RunFailed("v.ome.tif could not be written: the disk is full")

        with monkeypatch.context() as patched:
            patched.setattr(io, "write_volume", full)
            told = invoke("reconstruct", "p.ome.tif", "-o", "v.ome.tif", *TINY_INR, "--save-weights", "w.safetensors")
        assert told.exit_code != 0
        assert f"--weights {Path('w.safetensors').resolve()} makes the volume again without training" in told.stderr
        done("reconstruct", "p.ome.tif", "-o", "v.ome.tif", "--weights", "w.safetensors")

    def test_what_a_reliability_would_replace_is_seen_before_any_work(self, folder: Path) -> None:
        (folder / "v_reliability.ome.tif").write_text("mine")
        order = ("reconstruct", "p.ome.tif", "-o", "v.ome.tif", "--overwrite", "--method")
        assert "no reliability file" in refused(*order, "axial")
        done(*order, "linear")

    def test_a_job_without_an_acquisition_takes_it_from_options(self, folder: Path) -> None:
        np.save("p.npy", io.read_projections("p.ome.tif").data)
        (folder / "job.json").write_text('{"projections": "p.npy", "method": {"kind": "linear"}}')
        order = ("reconstruct", "--job", "job.json", "-o", "v.ome.tif")
        assert "--slices" in refused(*order)
        done(*order, "--slices", "6")
        assert io.inspect("v.ome.tif").provenance["job"]["acquisition"]["slices"] == 6  # type: ignore[index]
        again = ("reconstruct", "--job", "v.ome.tif", "-o", "w.ome.tif", "--slices", "6")
        assert "leave --slices out" in refused(*again)

    def test_interpolation_in_place_of_what_was_asked_for_is_said_with_the_result(self) -> None:
        few = ("--leave-out", "2,4")  # three projections are too few to test a network on hidden ones
        told = done("reconstruct", "p.ome.tif", "-o", "v.ome.tif", "--method", "axial", *few)
        assert ": the conservative interpolation is given instead (see the note)" in told
        order = ("reconstruct", "p.ome.tif", "-o", "c.ome.tif", "--method", "conservative")
        plain = done(*order, *few, "--dtype", "uint16")
        assert "instead" not in plain
        assert "in the input's intensities, before the export's mapping" in plain
        rounded = np.clip(np.rint(io.read_volume("v.ome.tif").data), 0, None)
        np.testing.assert_allclose(rounded, io.read_volume("c.ome.tif").data, atol=1e-3)

    def test_a_voxel_size_that_no_file_states_is_kept_and_replayed(self) -> None:
        np.save("p.npy", io.read_projections("p.ome.tif").data)
        order = ("reconstruct", "p.npy", "--slices", "6", "--stride", "5", "--method", "conservative")
        done(*order, "-o", "v.ome.tif", "--voxel-size", "0.5,0.25,0.125")
        done("reconstruct", "--job", "v.ome.tif", "-o", "again.ome.tif")
        done(*order, "-o", "w.ome.tif")
        sizes = [io.inspect(name).scale_um for name in ("v.ome.tif", "again.ome.tif", "w.ome.tif")]
        assert sizes == [(0.5, 0.25, 0.125), (0.5, 0.25, 0.125), None]
        assert "leave --voxel-size out" in refused("reconstruct", "--job", "v.ome.tif", "--voxel-size", "1,1,1")

    def test_a_voxel_size_corrects_what_the_file_states(self) -> None:
        done("reconstruct", "p.ome.tif", "-o", "v.ome.tif", "--method", "linear", "--voxel-size", "3,2,1")
        found = io.inspect("v.ome.tif")
        assert found.scale_um == (3, 2, 1)
        assert (found.provenance or {})["job"]["scale_um"] == [3, 2, 1]

    @pytest.mark.parametrize(
        ("size", "words"),
        [("1,1", "Z,Y,X"), ("1,1,a", "Z,Y,X"), ("", "Z,Y,X"), ("1,0,1", "Z,Y,X"), ("1,1,inf", "Z,Y,X")],
    )
    def test_a_voxel_size_that_cannot_be_is_refused(self, size: str, words: str) -> None:
        order = ("reconstruct", "p.ome.tif", "-o", "v.ome.tif", "--method", "linear")
        assert words in refused(*order, "--voxel-size", size)

    def test_of_another_stack_its_own_file_knows_the_voxel_size(self) -> None:
        done("reconstruct", "p.ome.tif", "-o", "v.ome.tif", "--method", "linear", "--voxel-size", "3,2,1")
        stack = io.read_projections("p.ome.tif")
        io.write_projections(replace(stack, data=stack.data[:, ::-1]), "q.ome.tif")
        np.save("r.npy", stack.data[:, ::-1])
        Path("p.ome.tif").rename("moved.ome.tif")
        for name, size in (("q.ome.tif", (0.235, 0.15, 0.15)), ("r.npy", (3, 2, 1)), ("moved.ome.tif", (3, 2, 1))):
            told = invoke("reconstruct", name, "--job", "v.ome.tif", "-o", "w.ome.tif", "--overwrite")
            overruled = "the job states voxels of 3 × 2 × 1 µm, and q voxels of 0.235 × 0.15 × 0.15 µm, which are taken"
            assert (overruled in told.stderr) == (name == "q.ome.tif")
            assert f"voxels of {' × '.join(f'{length:g}' for length in size)} µm" in told.stdout
            assert io.inspect("w.ome.tif").scale_um == pytest.approx(size)
            again = (io.inspect("w.ome.tif").provenance or {})["job"]["scale_um"]
            assert again == (None if name == "q.ome.tif" else [3, 2, 1])
        stated = ("--job", "v.ome.tif", "--voxel-size", "4,5,6")
        done("reconstruct", "q.ome.tif", *stated, "-o", "w.ome.tif", "--overwrite")
        assert io.inspect("w.ome.tif").scale_um == (4, 5, 6)
        assert (io.inspect("w.ome.tif").provenance or {})["job"]["scale_um"] == [4, 5, 6]

    def test_other_projections_are_noticed_on_replay(self) -> None:
        done("reconstruct", "p.ome.tif", "-o", "v.ome.tif", "--method", "linear")
        done("simulate", "truth.ome.tif", "-o", "p.ome.tif", "--slices", "6", "--profile", "point", "--overwrite")
        result = invoke("reconstruct", "--job", "v.ome.tif", "-o", "w.ome.tif")
        assert result.exit_code == 0
        assert "not the ones" in result.stderr

    def test_weights(self) -> None:
        done("reconstruct", "p.ome.tif", "-o", "v.ome.tif", *TINY_INR, "--save-weights", "w.safetensors")
        done("reconstruct", "p.ome.tif", "-o", "w.ome.tif", "--weights", "w.safetensors")
        np.testing.assert_array_equal(io.read_volume("v.ome.tif").data, io.read_volume("w.ome.tif").data)
        changed = ("--weights", "w.safetensors", "--set", "neighbouring=uniform")
        done("reconstruct", "p.ome.tif", "-o", "x.ome.tif", *changed)
        done("reconstruct", "--job", "x.ome.tif", "-o", "y.ome.tif")
        np.testing.assert_array_equal(io.read_volume("x.ome.tif").data, io.read_volume("y.ome.tif").data)
        Path("w.safetensors").rename("moved.safetensors")
        replay = ("reconstruct", "--job", "x.ome.tif", "-o", "z.ome.tif")
        assert "no weights file" in refused(*replay)
        assert "not both" in refused(*replay, "--weights", "moved.safetensors", "--base", "moved.safetensors")
        done(*replay, "--weights", "moved.safetensors")
        np.testing.assert_array_equal(io.read_volume("x.ome.tif").data, io.read_volume("z.ome.tif").data)
        Path("moved.safetensors").rename("w.safetensors")
        order = ("reconstruct", "p.ome.tif", "-o", "new.ome.tif")
        assert "change consistency" in refused(*order, "--weights", "w.safetensors", "--set", "steps=9")
        assert "weights of inr, not of linear" in refused(*order, "--weights", "w.safetensors", "--method", "linear")
        assert "leave --preset out" in refused(*order, "--weights", "w.safetensors", "--preset", "paper")
        assert "exists already" in refused(*order, *TINY_INR, "--save-weights", "w.safetensors")
        assert "trains nothing" in refused(*order, "--method", "linear", "--save-weights", "v.safetensors")
        assert "no weights file" in refused(*order, "--weights", "absent.safetensors")

    def test_weights_on_another_specimen(self) -> None:
        images = io.read_projections("p.ome.tif").data
        np.save("other.npy", images[:, ::-1])
        order = ("reconstruct", "other.npy", "--weights", "w.safetensors", "-o")
        done("reconstruct", "p.ome.tif", "-o", "v.ome.tif", *TINY_INR, "--save-weights", "w.safetensors")
        assert "is the specimen itself" in refused(*order, "x.ome.tif")
        assert not Path("x.ome.tif").exists()
        assert "leave --save-weights out" in refused(*order, "x.ome.tif", "--save-weights", "again.safetensors")
        tiny = ("steps=1", "channels=8", "multipliers=[1]", "timesteps=4", "sampling_steps=1", "crop=16", "batch=1")
        changes = [part for value in tiny for part in ("--set", value)]
        done(
            "reconstruct",
            "p.ome.tif",
            "-o",
            "d.tif",
            "--method",
            "cubic_diffusion",
            *changes,
            "--save-weights",
            "w.safetensors",
            "--overwrite",
        )
        result = invoke(*order, "y.ome.tif")
        assert result.exit_code == 0, result.stderr
        assert "note: the weights were trained on other projections" in result.stderr

    def test_a_reliability_and_where_it_went(self) -> None:
        network = axial_network()
        order = ("reconstruct", "p.ome.tif", "--weights", network, "-o")
        assert "v_reliability.ome.tif: how certain each voxel is" in done(*order, "v.ome.tif")
        values = json.loads(done(*order, "w.ome.zarr", "--json").splitlines()[-1])
        assert len(values["found"]["sigma_curve"]) >= 5
        sigma, score = values["found"]["sigma_curve"][0]
        shown = done(*order, "u.ome.tif")
        assert f"hidden projections by axial blur, in slices and dB: {sigma:g}: {score:.1f}, " in shown
        assert Path(values["reliability"]).name == "w_reliability.ome.zarr"
        assert Path(values["reliability"]).exists()
        plain = done("reconstruct", "p.ome.tif", "-o", "x.ome.tif", "--method", "linear", "--json")
        assert json.loads(plain.splitlines()[-1])["reliability"] is None

    def test_space_for_the_reliability_is_asked_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        voxels = int(np.prod(io.read_projections("p.ome.tif").volume_shape))
        space = types.SimpleNamespace(free=10 * voxels + 2**20)
        monkeypatch.setattr("shutil.disk_usage", lambda _: space)
        order = ("reconstruct", "p.ome.tif", "-o", "v.ome.tif", "--overwrite")
        done(*order, "--method", "linear")
        assert "free some space" in refused(*order, "--weights", axial_network(), "--dtype", "uint8")

    def test_weights_of_axial_are_refined_and_saved_again(self) -> None:
        order = ("reconstruct", "p.ome.tif", "-o", "v.ome.tif", "--weights", axial_network())
        assert "leave --save-weights out" in refused(*order, "--save-weights", "again.safetensors")
        done(*order, "--set", "fine_tuning=2", "--save-weights", "again.safetensors")
        again = load_trained("again.safetensors")
        assert again.method.fine_tuning == 2  # type: ignore[attr-defined]
        assert not again.origin.denoised
        keep = ("--overwrite", "--save-weights", "quiet.safetensors")
        quiet = invoke(*order, "--set", "fine_tuning=1", "--denoise", *keep)
        assert "as they were measured, and these are denoised" in quiet.stderr
        assert load_trained("quiet.safetensors").origin.denoised

    def test_integer_export_says_its_mapping(self) -> None:
        order = ("reconstruct", "p.ome.tif", "-o", "v.tif", "--method", "cubic", "--dtype", "uint8", "--overwrite")
        assert "intensities kept" in done(*order)
        assert json.loads(done(*order, "--json").splitlines()[-1])["mapping"].startswith("intensities kept")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((), "give the projection stack and -o"),
            (("p.ome.tif", "-o", "v.tif"), "choose a --method: linear, cubic"),
            (("p.ome.tif", "-o", "v.tif", "--method", "magic"), "there are linear, cubic"),
            (("p.ome.tif", "-o", "v.tif", "--method", "inr", "--preset", "best"), "preview, standard, paper"),
            (("p.ome.tif", "-o", "v.tif", "--method", "inr", "--set", "colour=1"), "its settings are"),
            (("p.ome.tif", "-o", "v.tif", "--method", "inr", "--set", "steps=-1"), "steps = -1"),
            (("p.ome.tif", "-o", "v.tif", "--method", "inr", "--set", "steps"), "KEY=VALUE"),
            (("p.ome.tif", "-o", "v.tif", "--method", "linear", "--seed", "-1"), "seed = -1"),
            (("p.ome.tif", "-o", "v.tif", "--method", "linear", "--device", "abacus"), "'cuda' or 'mps'"),
            (("p.ome.tif", "-o", "v.tif", "--method", "linear", "--device", "mps"), "available: "),
            (("p.ome.tif", "-o", "v.tif", "--method", "linear", "--slices", "0"), "slices = 0"),
            (("p.ome.tif", "-o", "v.tif", "--method", "linear", "--channel", "1"), "no channel 1"),
            (("p.ome.tif", "-o", "v.tif", "--method", "linear", "--dtype", "int8"), "float32, uint8, uint16"),
            (("p.ome.tif", "-o", "v.png", "--method", "linear"), ".ome.zarr"),
            (("p.ome.tif", "-o", "absent/v.tif", "--method", "linear"), "no folder"),
            (("p.ome.tif", "-o", "t.ome.tif", "--method", "linear"), "--overwrite"),
            (("p.ome.tif", "-o", "p.ome.tif", "--method", "linear", "--overwrite"), "the input itself"),
            (("truth.ome.tif", "-o", "v.tif", "--method", "linear"), "--slices"),
            (("absent.tif", "-o", "v.tif", "--method", "linear"), "no file"),
        ],
    )
    def test_refused_before_any_work(self, folder: Path, arguments: tuple[str, ...], message: str) -> None:
        before = sorted(folder.iterdir())
        assert message in refused("reconstruct", *arguments)
        assert sorted(folder.iterdir()) == before

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda data: data[:, :20], "at least 32 x 32"),
            (lambda data: data * 0, "constant"),
            (lambda data: data * np.nan, "NaN"),
            (lambda data: data[:2], "2 projection"),
            (lambda data: data[0], "single image"),
            (lambda data: data.astype(complex), "complex"),
            (lambda data: data > 1, "boolean"),
        ],
    )
    def test_bad_pixels(self, change: Callable[[Any], Any], message: str) -> None:
        np.save("bad.npy", change(io.read_projections("p.ome.tif").data))
        assert message in refused("reconstruct", "bad.npy", "-o", "v.tif", "--slices", "6", "--method", "linear")

    @pytest.mark.parametrize(
        ("error", "code"), [(RunFailed("ran out"), 1), (TooLarge("lower it"), 2), (OSError("x"), 1)]
    )
    def test_exit_codes(self, error: Exception, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
        def fails(*_: Any, **__: Any) -> Any:
            raise error
            yield

        monkeypatch.setattr(commands, "run", fails)
        order = ("reconstruct", "p.ome.tif", "-o", "v.tif", "--method", "linear")
        assert str(error) in refused(*order, code=code)
        assert not Path("v.tif").exists()
        monkeypatch.setenv(console.DEBUG, "1")
        assert invoke(*order).exception is error

    def test_interrupted_before_the_run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def pressed(*_: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(commands, "prepare", pressed)
        assert "no file is left half-written" in refused("reconstruct", "p.ome.tif", "-o", "v.tif", code=130)
        assert not Path("v.tif").exists()

    def test_overwrite(self) -> None:
        order = ("reconstruct", "p.ome.tif", "-o", "v.tif", "--method")
        done(*order, "linear")
        first = Path("v.tif").read_bytes()
        refused(*order, "cubic")
        assert Path("v.tif").read_bytes() == first
        done(*order, "cubic", "--overwrite")
        assert Path("v.tif").read_bytes() != first


SMALL_AXIAL = ("--method", "axial", *(f"--set={each}" for each in ("steps=2", "channels=8", "blocks=2", "batch=1")))


@pytest.mark.usefixtures("folder")
class TestMistaken:
    """Files that are given for something else than they hold, or in its place."""

    def test_a_volume_for_projections(self) -> None:
        result = invoke("reconstruct", "t.ome.tif", "-o", "v.ome.tif", "--method", "linear", "--slices", "6")
        assert "t was saved as a stack of slices, and is taken for projections" in result.stderr

    def test_projections_for_a_truth(self) -> None:
        told = refused("evaluate", "t.ome.tif", "--truth", "p.ome.tif")
        assert "p holds projections: the truth is a fully sampled volume" in told
        told = refused("evaluate", "p.ome.tif", "--truth", "t.ome.tif")
        assert "p holds projections: give the volume that was made from them" in told

    def test_weights_of_another_method(self) -> None:
        done("reconstruct", "p.ome.tif", "-o", "v.ome.tif", "--method", "conservative")
        told = refused("reconstruct", "--job", "v.ome.tif", "-o", "w.ome.tif", "--weights", axial_network())
        assert "these are trained weights of axial, and not of conservative" in told

    def test_weights_are_not_saved_over_those_that_were_given(self) -> None:
        name = axial_network()
        before = Path(name).read_bytes()
        order = ("reconstruct", "p.ome.tif", "-o", "v.ome.tif", "--weights", name, "--save-weights", name)
        assert "is the input itself" in refused(*order, "--set", "fine_tuning=1", "--overwrite")
        assert Path(name).read_bytes() == before


@pytest.mark.usefixtures("folder")
class TestMovie:
    """Three time points: as in p.ome.tif, its mirror image, its negative."""

    ORDER = ("reconstruct", "movie.tif", "-o", "v.ome.tif", "--slices", "6", "--time", "all")

    @pytest.fixture(autouse=True)
    def stacks(self, folder: Path) -> list[np.ndarray]:  # noqa: ARG002
        data = io.read_projections("p.ome.tif").data
        found = [data, np.ascontiguousarray(data[:, ::-1]), data.max() - data]
        tifffile.imwrite("movie.tif", np.stack(found)[:, :, None], imagej=True, metadata={"axes": "TZCYX"})
        return found

    def test_each_time_point_as_if_it_were_alone(self, stacks: list[np.ndarray]) -> None:
        *lines, worth = done(*self.ORDER, "--method", "conservative").splitlines()
        assert worth.startswith("v_t0.ome.tif (each file holds its own verdict): Measured: 5 projections")
        for time, (line, data) in enumerate(zip(lines, stacks, strict=True)):
            volume = io.read_volume(f"v_t{time}.ome.tif")
            expected = reconstruct(ProjectionStack(data, Acquisition(slices=6, count=5)), presets.spec("conservative"))
            np.testing.assert_array_equal(volume.data, expected.data)
            assert volume.provenance is not None
            assert volume.provenance["job"]["time"] == time
            assert f"v_t{time}.ome.tif: 30 x" in line
            assert "conservative, done after" in line

    def test_brightness_that_does_not_compare_is_told(self) -> None:
        mapped = done(*self.ORDER, "--method", "conservative", "--dtype", "uint8")
        assert "brightness does not compare from file to file" in mapped
        assert all("value = " in line for line in mapped.splitlines()[:3]), mapped
        kept = done(*self.ORDER, "--method", "conservative", "--overwrite")
        assert "does not compare" not in kept

    def test_one_network_for_all(self) -> None:
        result = invoke(*self.ORDER, *SMALL_AXIAL, "--json")
        assert result.exit_code == 0, result.stderr
        assert result.stderr.count("Training on the lateral detail: 2 steps") == 1
        assert "the network of time point 0 is used for all of them, and kept in v_t0_network" in result.stderr
        values = json.loads(result.stdout)
        assert (values["failed"], len(values["time_points"])) == ({}, 3)
        network = load_trained("v_t0_network.safetensors")
        assert (network.method.steps, network.method.channels) == (2, 8)  # type: ignore[attr-defined]
        first, *others = (io.read_volume(f"v_t{time}.ome.tif").provenance or {} for time in range(3))
        assert [each["weights_sha256"] for each in others] == [fingerprint(network.weights)] * 2
        assert "weights_sha256" not in first
        done("reconstruct", "--job", "v_t2.ome.tif", "-o", "again.ome.tif")
        np.testing.assert_array_equal(io.read_volume("again.ome.tif").data, io.read_volume("v_t2.ome.tif").data)

    def test_given_weights_are_used_from_the_first_on(self) -> None:
        name = axial_network()
        result = invoke(*self.ORDER[:4], *self.ORDER[6:], "--weights", name)
        assert result.exit_code == 0, result.stderr
        assert "Training" not in result.stderr
        assert not list(Path().glob("*_network*"))

    def test_methods_that_know_their_stack_by_heart(self) -> None:
        result = invoke(*self.ORDER, *TINY_INR)
        assert result.exit_code == 0, result.stderr
        assert "inr is trained anew for each of 3 time points" in result.stderr

    def test_the_recipe_of_one_time_point_on_others(self, stacks: list[np.ndarray]) -> None:
        done(*self.ORDER[:-1], "1", "--method", "cubic", "--set", "consistency=final")
        done("reconstruct", "movie.tif", "--job", "v.ome.tif", "-o", "w.ome.tif", "--time", "2")
        done("reconstruct", "p.ome.tif", "--job", "v.ome.tif", "-o", "x.ome.tif")  # which has but one
        done("reconstruct", "movie.tif", "--job", "v.ome.tif", "-o", "y.ome.tif")
        method = presets.spec("cubic", overrides={"consistency": "final"})
        for name, data, time in (("w", stacks[2], 2), ("x", stacks[0], None), ("y", stacks[1], 1)):
            volume = io.read_volume(f"{name}.ome.tif")
            expected = reconstruct(ProjectionStack(data, Acquisition(slices=6, count=5)), method)
            np.testing.assert_array_equal(volume.data, expected.data)
            assert (volume.provenance or {})["job"]["time"] == time
        assert "leave --time out" in refused("reconstruct", "--job", "v.ome.tif", "-o", "z.ome.tif", "--time", "2")

    def test_a_time_point_that_cannot_be_is_told_in_the_end(self, stacks: list[np.ndarray]) -> None:
        stacks[1][:] = 7
        tifffile.imwrite("movie.tif", np.stack(stacks)[:, :, None], imagej=True, metadata={"axes": "TZCYX"})
        result = invoke(*self.ORDER, "--method", "linear")
        assert result.exit_code == 2
        assert "time point 1 is left out: movie is constant (7 everywhere)" in result.stdout
        assert sorted(path.name for path in Path().glob("v_*")) == ["v_t0.ome.tif", "v_t2.ome.tif"]

    def test_a_blank_first_one_is_left_out_and_the_next_is_trained_on(self, stacks: list[np.ndarray]) -> None:
        stacks[0][:] = 7
        tifffile.imwrite("movie.tif", np.stack(stacks)[:, :, None], imagej=True, metadata={"axes": "TZCYX"})
        result = invoke(*self.ORDER, *SMALL_AXIAL)
        assert result.exit_code == 2
        assert "the network of time point 1 is used" in result.stderr
        assert "time point 0 is left out: movie is constant" in result.stdout
        network = load_trained("v_t1_network.safetensors")
        used = (io.read_volume("v_t2.ome.tif").provenance or {})["weights_sha256"]
        assert used == fingerprint(network.weights)
        assert not Path("v_t0.ome.tif").exists()

    @pytest.mark.parametrize(("error", "code"), [(RunFailed("the disk is full"), 1), (TooLarge("too large"), 2)])
    def test_what_would_meet_the_others_too_ends_it(self, error, code, monkeypatch: pytest.MonkeyPatch) -> None:
        write_volume = io.write_volume

        def write(volume: Any, path: Path, *a: Any, **k: Any) -> Any:
            if "t1" in path.name:
                raise error
            return write_volume(volume, path, *a, **k)

        monkeypatch.setattr(io, "write_volume", write)
        result = invoke(*self.ORDER, "--method", "linear")
        assert result.exit_code == code
        assert f"time point 1 is left out: {error}" in result.stdout
        assert "time point 2" not in result.stderr
        assert [path.name for path in Path().glob("v_*")] == ["v_t0.ome.tif"]

    def test_ctrl_c_keeps_what_is_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def pressed(options: Any) -> Any:
            if options.time == 2:
                raise KeyboardInterrupt
            return commands.reconstructed(options)

        monkeypatch.setattr("napari_microdiffusion.cli.movie.reconstructed", pressed)
        result = invoke(*self.ORDER, "--method", "linear")
        assert result.exit_code == 130
        assert "v_t1.ome.tif" in result.stdout
        assert "left out" not in result.stdout

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("reconstruct", "p.ome.tif", "-o", "v.ome.tif", "--time", "all", "--method", "linear"), "but one time"),
            (("reconstruct", "--job", "p.ome.tif", "-o", "v.ome.tif", "--time", "all"), "a job is of one time point"),
            (("reconstruct", "movie.tif", "--time", "all"), "and -o"),
            ((*ORDER[:-1], "first", "--method", "linear"), "--time first: write the number of a time point"),
            ((*ORDER[:-1], "-1", "--method", "linear"), "--time -1: write the number"),
            ((*ORDER, "--method", "linear", "--preset", "big"), "no preset is called 'big'"),
            ((*ORDER, *TINY_INR, "--save-weights", "w.safetensors"), "no one network to save here"),
        ],
    )
    def test_refused_before_any_work(self, arguments: tuple[str, ...], message: str) -> None:
        before = sorted(Path().iterdir())
        assert message in refused(*arguments)
        assert sorted(Path().iterdir()) == before

    def test_no_file_is_replaced(self) -> None:
        Path("v_t2.ome.tif").touch()
        assert "v_t2.ome.tif exists already" in refused(*self.ORDER, "--method", "linear")
        assert not Path("v_t0.ome.tif").exists()
        done(*self.ORDER, "--method", "linear", "--overwrite")
        assert io.read_volume("v_t2.ome.tif").shape[0] == 30


@pytest.mark.usefixtures("folder")
class TestEvaluate:
    def test_agrees_with_the_protocol(self, protocol: types.ModuleType) -> None:
        done("reconstruct", "p.ome.tif", "-o", "v.ome.tif", "--method", "cubic")
        order = ("evaluate", "v.ome.tif", "--truth", "t.ome.tif", "--projections", "p.ome.tif")
        scores = json.loads(done(*order, "--json"))
        truth, volume = (io.read_volume(name).data.astype(np.float64) for name in ("t.ome.tif", "v.ome.tif"))
        low, high = truth.min(), truth.max()
        projections = io.read_projections("p.ome.tif").data
        truth, volume, projections = ((a - low) / (high - low) for a in (truth, volume, projections))
        expected = protocol.score(truth, volume, projections, 6)
        assert list(scores) == list(expected)
        assert scores == pytest.approx(expected, abs=1e-6)
        text = done(*order)
        assert "dB" in text
        assert "of the truth's range" in text

    def test_without_truth(self) -> None:
        done("reconstruct", "p.ome.tif", "-o", "v.ome.tif", "--method", "conservative")
        scores = json.loads(done("evaluate", "v.ome.tif", "--projections", "p.ome.tif", "--json"))
        assert list(scores) == ["reprojection_max_error"]
        assert scores["reprojection_max_error"] < 1e-6
        assert "of the projections' range" in done("evaluate", "v.ome.tif", "--projections", "p.ome.tif")

    def test_a_volume_that_is_plain_interpolation_is_named(self) -> None:
        volume = io.read_volume("t.ome.tif")
        for fell_back in (True, False):
            made = {"complete": True, "job": {}, "found": {"fell_back": fell_back}}
            io.write_volume(replace(volume, provenance=made), "v.ome.tif", overwrite=True)
            told = invoke("evaluate", "v.ome.tif", "--truth", "t.ome.tif").stderr
            assert ("note: v is plain interpolation" in told) == fell_back

    def test_a_truth_on_another_scale_and_a_partial_volume_are_named(self) -> None:
        volume, truth = io.read_volume("t.ome.tif"), io.read_volume("t.ome.tif")
        partial = replace(volume, data=volume.data.astype(np.float32), provenance={"complete": False})
        io.write_volume(partial, "v.ome.tif")
        io.write_volume(replace(truth, data=257 * truth.data.astype(np.uint16)), "u16.ome.tif")
        for name, told in (("t.ome.tif", []), ("u16.ome.tif", ["spread 257 times as far as the volume's"])):
            notes = invoke("evaluate", "v.ome.tif", "--truth", name).stderr.splitlines()
            assert len(notes) == len(told) + 1
            assert "note: v is partial" in notes[0]
            assert all(text in note for text, note in zip(told, notes[1:], strict=True))

    @pytest.mark.parametrize("dtype", [None, "uint8"])
    def test_a_reliability_beside_the_volume_is_scored(self, dtype: Any) -> None:
        truth = io.read_volume("t.ome.tif")
        data, half = truth.data.astype(np.float32), np.linspace(0, 1, truth.data.size, dtype=np.float32)
        error = (np.where(half < 0.75, 1.0, -1.0) * 0.5 * half).reshape(data.shape).astype(np.float32)
        found = Reliability(half.reshape(data.shape), data - 1, data + np.where(half < 0.75, 1, -1).reshape(data.shape))
        io.write_volume(Volume(data + error, reliability=found), "v.ome.tif", dtype=dtype)
        order = ("evaluate", "v.ome.tif", "--truth", "t.ome.tif")
        scores = json.loads(done(*order, "--json"))
        assert scores["coverage_90"] == pytest.approx(0.75, abs=0.001)
        assert scores["flagged_error_ratio"] > 1
        assert "truth in the 90 % interval" in done(*order)
        told = refused("evaluate", "v_reliability.ome.tif", "--channel", "0", "--truth", "t.ome.tif")
        assert "v_reliability says how far a volume can be trusted" in told

    def test_eight_bit_exports_count_on_their_original_scale(self) -> None:
        volume = io.read_volume("t.ome.tif")
        io.write_volume(Volume(volume.data / np.float32(999), source_dtype="float32"), "v8.tif", dtype="uint16")
        io.write_volume(Volume(volume.data / np.float32(999)), "truth.tif")
        assert json.loads(done("evaluate", "v8.tif", "--truth", "truth.tif", "--json"))["psnr"] > 80

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((), "nothing to compare"),
            (("--truth", "truth.ome.tif"), "shapes differ"),
            (("--truth", "t.ome.tif", "--slices", "6"), "describe --projections"),
            (("--projections", "p.ome.tif", "--slices", "3"), "check slices and stride"),
        ],
    )
    def test_refused(self, arguments: tuple[str, ...], message: str) -> None:
        assert message in refused("evaluate", "t.ome.tif", *arguments)


@pytest.fixture
def volumes(folder: Path) -> Path:
    """A folder of volumes a.tif (18 slices) and b.ome.zarr (32), and of much that is none."""
    data = io.read_volume("truth.ome.tif").data
    there = folder / "volumes"
    there.mkdir()
    io.write_volume(Volume(data[:18, :40, :33]), there / "a.tif")
    io.write_volume(Volume(data), there / "b.ome.zarr")
    (there / "notes.txt").write_text("vessels, Tuesday")
    (there / ".hidden.tif").write_text("")
    (there / "more").mkdir()
    np.save(there / "image.npy", data[0])
    np.save(there / "small.npy", data[:, :20, :20])
    (there / "p.ome.tif").write_bytes(Path("p.ome.tif").read_bytes())
    done("reconstruct", "p.ome.tif", "-o", "volumes/rebuilt.ome.tif", "--method", "linear")
    return there


TINY_SUBVOLUMES = ("steps=2", "channels=8", "multipliers=[1]", "batch=1", "crop=16", "further=0", "sampling_steps=1")
TINY_BASE = ("--set", "steps=2", "--set", "channels=8", "--set", "levels=1", "--set", "batch=1", "--set", "crop=16")


@pytest.mark.usefixtures("volumes")
class TestPretrain:
    ORDER = ("pretrain", "volumes", "--method", "recurrent_mz", *TINY_BASE)
    UNIFORM = ("--slices", "6", "--profile", "uniform")

    def trained(self, output: str = "base.safetensors", *arguments: str) -> str:
        done(*self.ORDER, "-o", output, *(arguments or self.UNIFORM))
        return output

    def test_a_folder_of_volumes(self) -> None:
        result = invoke(*self.ORDER, "-o", "base.safetensors", "--slices", "6", "--seed", "3", "--json")
        assert result.exit_code == 0, result.stderr
        values = json.loads(result.stdout)
        assert values["output"] == str(Path("base.safetensors").resolve())
        assert (values["method"], values["complete"]) == ("recurrent_mz", True)
        assert [volume["name"] for volume in values["volumes"]] == ["a", "b"]
        assert values["seconds"] > 0
        left_out = [line for line in result.stderr.splitlines() if line.startswith("note: not used")]
        reasons = (
            "image.npy",
            "more",
            "notes.txt",
            "p.ome.tif holds projections",
            "rebuilt.ome.tif was recons",
            "20 x 20",
        )
        assert len(left_out) == len(reasons)  # and not the hidden file
        assert all(reason in line for reason, line in zip(reasons, left_out, strict=True))
        assert "Training on full volumes: 2 steps" in result.stderr
        trained = load_trained("base.safetensors")
        assert trained.is_base
        assert trained.origin.complete
        assert trained.origin.acquisition == Acquisition(slices=6, profile="point")
        assert [volume.shape for volume in trained.origin.volumes] == [(18, 40, 33), (32, 64, 64)]
        assert trained.method.steps == 2  # type: ignore[attr-defined]

    def test_files_are_used_once_and_what_is_said(self) -> None:
        order = ("pretrain", "volumes/a.tif", "volumes", "./volumes/../volumes/a.tif", *self.ORDER[2:])
        text = done(*order, "-o", "base.safetensors", *self.UNIFORM)
        assert "base.safetensors: a base model for 6 slices, stride 6, uniform profile" in text
        assert "recurrent_mz on 2 volume(s) (a, b), done after" in text
        assert f"--base {Path('base.safetensors').resolve()}" in text

    def test_channels_and_times_are_chosen_where_there_are_several(self, volumes: Path) -> None:
        data = io.read_volume("truth.ome.tif").data
        two = np.stack([data, data[:, ::-1]], 1).astype(np.float32)
        tifffile.imwrite(volumes / "c.ome.tif", two, metadata={"axes": "ZCYX"})
        values = json.loads(done(*self.ORDER, "-o", "base.safetensors", *self.UNIFORM, "--channel", "1", "--json"))
        sums = {volume["name"]: volume["sha256"] for volume in values["volumes"]}
        assert sums.keys() == {"a", "b", "c"}
        assert sums["c"] == ProjectionStack(two[:, 1], Acquisition(slices=1)).sha256

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"-o": None}, "give -o"),
            ({"-o": "base.pt"}, ".safetensors"),
            ({"-o": "there.safetensors"}, "exists already"),
            ({"--method": "axial"}, "axial needs no base model; those that do: "),
            ({"--method": "magic"}, "there are linear"),
            ({"--preset": "best"}, "preview, standard, paper"),
            ({"--set": "colour=1"}, "has no setting 'colour'"),
            ({"--slices": "20"}, "needs volumes of at least 60 to learn from"),
            ({"--profile": "square"}, "uniform, gaussian, point"),
            ({"--fwhm": "3"}, "gaussian"),
            ({"--device": "abacus"}, "'cuda'"),
            ({"pretrain": "absent"}, "no file"),
            ({"pretrain": "p.ome.tif"}, "holds projections"),
            ({"pretrain": "volumes/rebuilt.ome.tif"}, "was reconstructed"),
            ({"pretrain": "volumes/image.npy"}, "single image"),
            ({"pretrain": "volumes/small.npy"}, "small.npy is 20 x 20 pixels; at least 32 x 32"),
            ({"pretrain": "volumes/more"}, "there is no volume in volumes/more: it is empty"),
            ({"pretrain": "texts"}, "there is no volume in texts: "),
        ],
    )
    def test_refused_before_any_work(self, folder: Path, changes: dict[str, str | None], message: str) -> None:
        (folder / "there.safetensors").write_text("kept")
        (folder / "texts").mkdir()
        (folder / "texts" / "notes.tif").write_text("no image")
        before = sorted(folder.rglob("*"))
        options: dict[str, str | None] = {"pretrain": "volumes/b.ome.zarr", "-o": "base.safetensors", "--slices": "6"}
        options |= {"--method": "recurrent_mz"} | changes
        given = [part for key, value in options.items() if value is not None for part in (key, value)]
        assert message in refused(*given)
        assert sorted(folder.rglob("*")) == before
        assert (folder / "there.safetensors").read_text() == "kept"

    def test_volumes_and_an_output_are_enough(self) -> None:
        settings = [part for value in TINY_SUBVOLUMES for part in ("--set", value)]
        values = json.loads(done("pretrain", "volumes/b.ome.zarr", "-o", "base.safetensors", *settings, "--json"))
        assert values["method"] == "sparse3diff"
        assert values["acquisition"]["slices"] == 6
        assert values["acquisition"]["profile"] == "point"

    def test_reconstruct_with_it(self) -> None:
        base = self.trained()
        order = ("reconstruct", "p.ome.tif", "-o")
        done(*order, "v.ome.tif", "--base", base)
        done(*order, "w.ome.tif", "--weights", base, "--method", "recurrent_mz")
        first, second = io.read_volume("v.ome.tif"), io.read_volume("w.ome.tif")
        np.testing.assert_array_equal(first.data, second.data)
        assert first.provenance is not None
        assert first.provenance["job"]["weights"] == str(Path(base).resolve())
        assert first.provenance["weights_sha256"] == fingerprint(load_trained(base).weights)
        assert first.provenance["job"]["method"]["channels"] == 8
        done(*order, "x.ome.tif", "--base", base, "--set", "consistency=none")
        assert (io.inspect("x.ome.tif").provenance or {})["job"]["method"]["consistency"] == "none"

    def test_a_truth_that_was_trained_on_is_told(self) -> None:
        both = self.trained("both.safetensors")  # b is the volume that t was cut from
        Path("volumes/b.ome.zarr").rename("b.ome.zarr")
        for base, told in ((both, True), (self.trained("without.safetensors"), False)):
            done("reconstruct", "p.ome.tif", "-o", "v.ome.tif", "--base", base, "--overwrite")
            result = invoke("evaluate", "v.ome.tif", "--truth", "t.ome.tif", "--json")
            assert result.exit_code == 0
            assert ("trained on b, the ground truth: the scores are worthless" in result.stderr) is told

    def test_how_projections_were_made_comes_from_the_base_where_their_file_does_not_say(self) -> None:
        np.save("p.npy", io.read_projections("p.ome.tif").data)
        base = self.trained()
        done("reconstruct", "p.npy", "-o", "v.ome.tif", "--base", base)
        assert io.read_volume("v.ome.tif").shape[0] == 30
        order = ("reconstruct", "p.npy", "-o", "w.ome.tif", "--base", base)
        assert "was trained for 6 slices, stride 6, uniform profile, and p has 4 slices" in refused(
            *order, "--slices", "4"
        )
        assert not Path("w.ome.tif").exists()

    def test_a_base_is_needed_and_must_be_one(self) -> None:
        base = self.trained()
        order = ("reconstruct", "p.ome.tif", "-o", "v.ome.tif")
        needed = refused(*order, "--method", "recurrent_mz")
        assert "recurrent_mz needs a base model: train one" in needed
        assert "pretrain" in needed
        assert "--base" in needed
        assert "weights of axial, which is no base model: give them with --weights" in refused(
            *order, "--base", axial_network()
        )
        assert "weights of recurrent_mz, not of linear" in refused(*order, "--base", base, "--method", "linear")
        assert "leave --preset out" in refused(*order, "--base", base, "--preset", "paper")
        assert "steps cannot be changed" in refused(*order, "--base", base, "--set", "steps=9")
        assert "not both" in refused(*order, "--base", base, "--weights", base)
        assert "nothing is trained: leave --save-weights out" in refused(
            *order, "--base", base, "--save-weights", "again.safetensors"
        )
        assert "no weights file" in refused(*order, "--base", "absent.safetensors")

    def test_replay_finds_the_base_and_says_if_it_is_another(self) -> None:
        done("reconstruct", "p.ome.tif", "-o", "v.ome.tif", "--base", self.trained())
        done("reconstruct", "--job", "v.ome.tif", "-o", "w.ome.tif")
        np.testing.assert_array_equal(io.read_volume("v.ome.tif").data, io.read_volume("w.ome.tif").data)
        Path("base.safetensors").rename("moved.safetensors")
        told = refused("reconstruct", "--job", "v.ome.tif", "-o", "x.ome.tif")
        assert "no weights file" in told
        assert "which the job names; say where it is now: reconstruct --job v.ome.tif --base FILE" in told
        again = invoke("reconstruct", "--job", "v.ome.tif", "-o", "x.ome.tif", "--base", "moved.safetensors")
        assert again.exit_code == 0
        assert "not the ones" not in again.stderr
        other = self.trained("other.safetensors", *self.UNIFORM, "--seed", "9")
        result = invoke("reconstruct", "--job", "v.ome.tif", "-o", "y.ome.tif", "--base", other)
        assert result.exit_code == 0
        assert "these weights are not the ones that the job was run on before" in result.stderr

    def test_a_base_that_is_fitted_to_the_stack_is_saved_again(self) -> None:
        tiny = (*TINY_SUBVOLUMES, "align_tested=false")  # too little for a test to speak for it
        settings = [part for value in tiny for part in ("--set", value)]
        io.write_volume(Volume(io.read_volume("truth.ome.tif").data[:, :32, :32]), "small.tif")
        done("simulate", "small.tif", "-o", "s.ome.tif", "--slices", "6", "--profile", "point")
        order = ("pretrain", "volumes/b.ome.zarr", "-o", "base.safetensors", "--method", "sparse3diff")
        done(*order, "--slices", "6", *settings)
        order = ("reconstruct", "s.ome.tif", "--overwrite", "-o")
        plain = (*order, "v.ome.tif", "--base", "base.safetensors", "--set", "align=false")
        assert "leave --save-weights out" in refused(*plain, "--save-weights", "fitted.safetensors")
        done(*plain)
        done(*order, "w.ome.tif", "--base", "base.safetensors", "--save-weights", "fitted.safetensors")
        assert np.abs(io.read_volume("v.ome.tif").data - io.read_volume("w.ome.tif").data).max() > 0
        fitted, base = load_trained("fitted.safetensors"), load_trained("base.safetensors")
        assert fitted.is_base
        assert fitted.origin.volumes == base.origin.volumes
        assert fitted.origin.input_sha256 == io.read_projections("s.ome.tif").sha256
        assert fingerprint(fitted.weights) != fingerprint(base.weights)
        again = invoke(*order, "x.ome.tif", "--base", "fitted.safetensors")
        assert again.exit_code == 0, again.stderr
        assert "fitted to this stack before, and is once more" in again.stderr
        done(*order, "x.ome.tif", "--base", "fitted.safetensors", "--set", "align=false")
        np.testing.assert_array_equal(io.read_volume("w.ome.tif").data, io.read_volume("x.ome.tif").data)
        held = invoke("evaluate", "w.ome.tif", "--projections", "s.ome.tif", "--held-out", "--json")
        assert held.exit_code == 0, held.stderr
        assert "sparse3diff is fitted anew in each of 3 folds" in held.stderr
        assert "too good" not in held.stderr
        held = invoke("evaluate", "x.ome.tif", "--projections", "s.ome.tif", "--held-out", "--json")
        assert "the score is too good" in held.stderr
        overlap = ("--slices", "6", "--stride", "3", "--profile", "uniform")
        assert "sparse3diff works between" in refused(
            "pretrain", "truth.ome.tif", "-o", "c.safetensors", "--method", "sparse3diff", *overlap
        )

    def test_held_out(self) -> None:
        base = self.trained()
        done("reconstruct", "p.ome.tif", "-o", "v.ome.tif", "--base", base)
        order = ("evaluate", "v.ome.tif", "--projections", "p.ome.tif", "--held-out", "--json")
        trained = load_trained(base)
        save_base("short.safetensors", replace(trained, origin=trained.origin.model_copy(update={"complete": False})))
        assert (
            "note: the training of the base model was stopped" in invoke(*order, "--base", "short.safetensors").stderr
        )
        job = Job(method=trained.method)
        expected = exhaust(held_out(job, io.read_projections("p.ome.tif"), weights=trained.weights)).psnr
        assert json.loads(done(*order))["held_out_psnr"] == expected
        from_options = ("evaluate", "t.ome.tif", *order[2:], "--base", base)
        assert json.loads(done(*from_options))["held_out_psnr"] == expected
        Path(base).rename("moved.safetensors")
        assert "no weights file" in refused(*order)
        assert "needs a base model" in refused("evaluate", "t.ome.tif", *order[2:], "--method", "recurrent_mz")
        assert "needs a base model" in refused(*order, "--method", "sparse3diff")  # the volume's is another method's


@pytest.mark.usefixtures("folder")
class TestHeldOut:
    ORDER = ("evaluate", "v.ome.tif", "--projections", "p.ome.tif", "--held-out")

    def score(self, *arguments: str) -> float:
        return float(json.loads(done(*self.ORDER, *arguments, "--json"))["held_out_psnr"])

    @pytest.mark.parametrize("output", ["v.ome.tif", "v.ome.zarr"])
    def test_the_recipe_comes_from_the_volume(self, output: str) -> None:
        done("reconstruct", "p.ome.tif", "-o", output, *TINY_INR, "--seed", "7")
        result = invoke("evaluate", output, "--projections", "p.ome.tif", "--held-out", "--json")
        assert result.exit_code == 0, result.stderr
        assert "inr is trained anew in each of 3 folds: about 3 times as long as one run" in result.stderr
        assert "Held out 3 of 3: Training the neural representation: 2 steps" in result.stderr
        scores = json.loads(result.stdout)
        assert list(scores) == ["reprojection_max_error", "folds", "folds_finished", "held_out_psnr"]
        assert scores["folds"] == scores["folds_finished"] == 3
        provenance = io.inspect(output).provenance
        assert provenance is not None
        stack = io.read_projections("p.ome.tif")
        assert scores["held_out_psnr"] == exhaust(held_out(Job(**provenance["job"]), stack)).psnr

    def test_the_time_point_is_that_of_the_volume(self) -> None:
        data = io.read_projections("p.ome.tif").data
        tifffile.imwrite("movie.ome.tif", np.stack([data[:, ::-1], data]), metadata={"axes": "TZYX"})
        done("reconstruct", "movie.ome.tif", "-o", "v.ome.tif", "--method", "linear", "--slices", "6", "--time", "1")
        order = ("evaluate", "v.ome.tif", "--projections", "movie.ome.tif", "--json")
        assert json.loads(done(*order)) == json.loads(done(*order, "--time", "1"))
        assert json.loads(done(*order)) != json.loads(done(*order, "--time", "0"))

    def test_denoised_as_the_volume_was_or_as_stated(self) -> None:
        stack = io.read_projections("p.ome.tif")
        photons = np.random.default_rng(0).poisson(10 * stack.data / stack.data.max()).astype(np.uint16)
        io.write_projections(replace(stack, data=photons), "few.ome.tif")
        plain = invoke("reconstruct", "few.ome.tif", "-o", "v.ome.tif", "--method", "conservative")
        assert "what differs between neighbouring projections, and a volume that reproduces" in plain.stderr
        quiet = invoke("reconstruct", "few.ome.tif", "-o", "q.ome.tif", "--method", "conservative", "--denoise")
        assert "of the projections' range (rms) was taken for noise" in quiet.stderr
        assert "neighbouring" not in quiet.stderr
        order = ("--projections", "few.ome.tif", "--held-out", "--json")
        told = invoke("evaluate", "q.ome.tif", *order)
        assert "the volume is of denoised projections" in told.stderr
        score = json.loads(told.stdout)["held_out_psnr"]
        assert score > json.loads(done("evaluate", "v.ome.tif", *order))["held_out_psnr"]
        assert score == json.loads(done("evaluate", "v.ome.tif", *order, "--denoise"))["held_out_psnr"]
        assert score > json.loads(done("evaluate", "q.ome.tif", *order, "--no-denoise"))["held_out_psnr"]
        assert "--denoise says how" in refused("evaluate", "v.ome.tif", *order[:2], "--denoise")
        assert "leave --denoise out" in refused("reconstruct", "--job", "q.ome.tif", "-o", "w.ome.tif", "--denoise")
        done("reconstruct", "--job", "q.ome.tif", "-o", "w.ome.tif")
        np.testing.assert_array_equal(io.read_volume("w.ome.tif").data, io.read_volume("q.ome.tif").data)

    def test_other_projections_than_its_own_are_said_with_every_score(self) -> None:
        done("reconstruct", "p.ome.tif", "-o", "v.ome.tif", "--method", "linear")
        stack = io.read_projections("p.ome.tif")
        io.write_projections(replace(stack, data=stack.data[:, ::-1]), "q.ome.tif")
        for name in ("p.ome.tif", "q.ome.tif"):
            for further in ((), ("--held-out",)):
                told = invoke("evaluate", "v.ome.tif", "--projections", name, *further)
                assert told.exit_code == 0, told.stderr
                said = told.stderr.count("these projections are not the ones that the volume was made from")
                assert said == (name == "q.ome.tif")

    def test_spoilt_projections_are_named_beside_the_score(self) -> None:
        with_a_blank_one("blank.ome.tif")
        done("reconstruct", "blank.ome.tif", "-o", "v.ome.tif", "--method", "linear")
        result = invoke("evaluate", "v.ome.tif", "--projections", "blank.ome.tif", "--held-out")
        assert result.exit_code == 0, result.stderr
        assert "note: projection 2 (counted from 1) is the same everywhere" in result.stderr
        assert "leave it out" in result.stderr

    @pytest.mark.parametrize("projections", ["blank.ome.tif", "blank.npy"])
    def test_projections_left_out_stay_out(self, projections: str) -> None:
        stack = with_a_blank_one(projections)
        described = () if projections.endswith("tif") else ("--slices", "6")
        made = invoke(
            "reconstruct", projections, "-o", "v.ome.tif", "--method", "linear", "--leave-out", "2", *described
        )
        assert made.exit_code == 0, made.stderr
        assert f"without projection 2 of {len(stack.data)} (counted from 1)" in made.stdout
        assert "the same everywhere" not in made.stderr
        volume = reconstruct(stack.without([1]), presets.spec("linear"))
        np.testing.assert_array_equal(io.read_volume("v.ome.tif").data, volume.data)
        done("reconstruct", "--job", "v.ome.tif", "-o", "again.ome.tif")
        np.testing.assert_array_equal(io.read_volume("again.ome.tif").data, volume.data)
        scored = invoke("evaluate", "v.ome.tif", "--projections", projections, "--held-out", "--json")
        assert scored.exit_code == 0, scored.stderr
        assert "not the ones" not in scored.stderr
        assert "the same everywhere" not in scored.stderr
        found = exhaust(held_out(Job(method=presets.spec("linear")), stack.without([1])))
        assert json.loads(scored.stdout)["held_out_psnr"] == found.psnr
        done("reconstruct", projections, "-o", "all.ome.tif", "--method", "linear", *described)
        order = ("evaluate", "all.ome.tif", "--projections", projections, "--held-out", "--json")
        assert json.loads(done(*order, "--leave-out", "2"))["held_out_psnr"] == found.psnr
        assert json.loads(done(*order))["held_out_psnr"] != found.psnr

    def test_of_a_file_that_lacks_some_more_can_be_left_out(self) -> None:
        stack = with_a_blank_one("blank.ome.tif").without([4])
        io.write_projections(stack, "lacking.ome.tif")
        done("reconstruct", "lacking.ome.tif", "-o", "v.ome.tif", "--method", "linear", "--leave-out", "2")
        done("reconstruct", "--job", "v.ome.tif", "-o", "again.ome.tif")
        volume = reconstruct(stack.without([1]), presets.spec("linear"))
        np.testing.assert_array_equal(io.read_volume("again.ome.tif").data, volume.data)

    @pytest.mark.parametrize("projections", ["blank.ome.tif", "blank.npy"])
    def test_a_job_for_a_file_that_is_named_leaves_out_the_same_of_the_same_projections_alone(
        self, projections: str
    ) -> None:
        stack = with_a_blank_one(projections)
        described = () if projections.endswith("tif") else ("--slices", "6")
        done("reconstruct", projections, "-o", "v.ome.tif", "--method", "linear", "--leave-out", "2", *described)
        same = invoke("reconstruct", projections, "--job", "v.ome.tif", "-o", "same.ome.tif")
        assert "not the ones" not in same.stderr
        np.testing.assert_array_equal(io.read_volume("same.ome.tif").data, io.read_volume("v.ome.tif").data)
        for other in (replace(stack, data=stack.data[:, ::-1]), ProjectionStack(stack.data[:4], Acquisition(slices=6))):
            np.save("other.npy", other.data)
            result = invoke("reconstruct", "other.npy", "--job", "v.ome.tif", "-o", "o.ome.tif", "--overwrite")
            assert "not the ones that the job was run on" in result.stderr
            assert "without" not in result.stdout
            volume = reconstruct(other, presets.spec("linear"))
            np.testing.assert_array_equal(io.read_volume("o.ome.tif").data, volume.data)
            score = json.loads(done("evaluate", "o.ome.tif", "--projections", "other.npy", "--json"))
            assert score["reprojection_max_error"] == pytest.approx(
                evaluate(volume, None, other)["reprojection_max_error"]
            )
        with_all = invoke("evaluate", "v.ome.tif", "--projections", "other.npy", "--json")
        assert with_all.exit_code == 2  # another depth
        done("reconstruct", "other.npy", "--job", "v.ome.tif", "-o", "o.ome.tif", "--overwrite", "--leave-out", "3")
        assert io.read_volume("o.ome.tif").provenance["job"]["acquisition"]["hidden"] == [2]

    def test_weights_of_other_projections_say_which_were_left_out(self) -> None:
        kept = ("--save-weights", "w.safetensors", "--leave-out", "2")
        done("reconstruct", "p.ome.tif", "-o", "v.ome.tif", *TINY_INR, *kept)
        order = ("reconstruct", "p.ome.tif", "-o", "o.ome.tif", "--weights", "w.safetensors")
        assert "(without 2, so leave them out here, too)" in refused(*order)
        done(*order, "--leave-out", "2")
        np.save("p.npy", io.read_projections("p.ome.tif").data[:, ::-1])
        other = ("reconstruct", "p.npy", "-o", "n.ome.tif", "--weights", "w.safetensors", "--slices", "6")
        done("reconstruct", "p.ome.tif", "-o", "v.ome.tif", *TINY_INR, *kept[:2], "--overwrite")
        told = refused(*other, "--profile", "gaussian")
        assert "trained on other projections than p: a neural representation" in told

    @pytest.mark.parametrize(
        ("order", "words"),
        [
            (("reconstruct", "--job", "t.ome.tif", "--leave-out", "2"), "leave --leave-out out"),
            (("reconstruct", "p.ome.tif", "-o", "v.ome.tif", "--method", "linear", "--leave-out", "6"), "from 1 to 5"),
            (
                ("reconstruct", "p.ome.tif", "-o", "v.ome.tif", "--method", "linear", "--leave-out", "1-3"),
                "2 would be left",
            ),
            (
                ("reconstruct", "p.ome.tif", "-o", "v.ome.tif", "--method", "linear", "--leave-out", "0"),
                "counted from 1",
            ),
            (
                ("evaluate", "t.ome.tif", "--truth", "t.ome.tif", "--leave-out", "2"),
                "--leave-out describe --projections",
            ),
        ],
    )
    def test_what_cannot_be_left_out(self, order: tuple[str, ...], words: str) -> None:
        assert words in refused(*order)
        assert not Path("v.ome.tif").exists()

    def test_weights_on_record_serve_every_fold(self) -> None:
        done("reconstruct", "p.ome.tif", "-o", "v.ome.tif", "--weights", axial_network())
        order = ("evaluate", "v.ome.tif", "--projections", "p.ome.tif", "--held-out", "--json")
        result = invoke(*order)
        assert result.exit_code == 0, result.stderr
        assert "Training" not in result.stderr
        Path("axial.safetensors").unlink()
        again = invoke(*order, "--set", "steps=1")
        assert again.exit_code == 0, again.stderr
        assert "trained once, on all projections" in again.stderr
        assert "Training on the lateral detail: 1 step" in again.stderr

    def test_the_acquisition_comes_from_the_volume(self) -> None:
        np.save("p.npy", io.read_projections("p.ome.tif").data)  # says nothing of it
        done("reconstruct", "p.npy", "-o", "v.ome.tif", "--method", "cubic", "--slices", "6", "--profile", "point")
        order = ("evaluate", "v.ome.tif", "--projections", "p.npy", "--held-out", "--json")
        stack = io.read_projections("p.npy", Acquisition(slices=6, profile="point"))
        expected = exhaust(held_out(Job(method=presets.spec("cubic")), stack)).psnr
        assert json.loads(done(*order))["held_out_psnr"] == expected
        assert json.loads(done(*order, "--slices", "6"))["held_out_psnr"] != expected  # options come first
        error = json.loads(done(*order))["reprojection_max_error"]
        assert json.loads(done(*order[:4], "--json"))["reprojection_max_error"] == error

    def test_the_voxel_size_comes_from_the_volume(self) -> None:
        """The objective's blur in slices hangs on it, and the file of the projections does not state it."""
        np.save("p.npy", io.read_projections("p.ome.tif").data)
        small = ("channels=8", "blocks=2", "batch=1", "steps=1", "objective_na=0.8")
        settings = [part for value in small for part in ("--set", value)]
        order = ("reconstruct", "p.npy", "--slices", "6", "-o", "v.ome.tif", "--method", "axial", *settings)
        assert "(--voxel-size)" in refused(*order)
        done(*order, "--voxel-size", "0.235,0.15,0.15")
        again = ("--projections", "p.npy", "--held-out", "--json")
        score = json.loads(done("evaluate", "v.ome.tif", *again))["held_out_psnr"]
        assert score > 0
        anew = ("evaluate", "t.ome.tif", *again, "--slices", "6", "--method", "axial", *settings)  # has no record
        assert "(--voxel-size)" in refused(*anew)
        assert json.loads(done(*anew, "--voxel-size", "0.235,0.15,0.15"))["held_out_psnr"] == score
        assert "give --held-out too" in refused("evaluate", "v.ome.tif", *again[:2], "--voxel-size", "1,1,1")

    def test_other_projections_say_themselves_what_they_are(self) -> None:
        """What the volume's record says is of those it was made from."""
        done(
            "reconstruct",
            "p.ome.tif",
            "-o",
            "v.ome.tif",
            "--method",
            "conservative",
            "--profile",
            "point",
            "--slices",
            "6",
        )
        made = float(json.loads(done(*self.ORDER[:4], "--json"))["reprojection_max_error"])
        assert made < 1e-5
        done("simulate", "t.ome.tif", "-o", "q.ome.tif", "--slices", "3")
        for more in ((), ("--held-out",)):
            found = json.loads(done("evaluate", "v.ome.tif", "--projections", "q.ome.tif", *more, "--json"))
            assert found["reprojection_max_error"] > made

    def test_the_recipe_comes_from_options(self) -> None:
        order = ("evaluate", "t.ome.tif", *self.ORDER[2:], "--method", "linear", "--folds", "2")
        stack = io.read_projections("p.ome.tif")
        plain, consistent = (
            exhaust(held_out(Job(method=presets.spec("linear", "preview", changes)), stack, folds=2)).psnr
            for changes in ({}, {"consistency": "final"})
        )
        result = invoke(*order)
        assert result.exit_code == 0
        assert f"PSNR, held-out projections  {plain:10.3f} dB" in result.stdout
        assert "trained anew" not in result.stderr
        assert json.loads(done(*order, "--set", "consistency=final", "--json"))["held_out_psnr"] == consistent
        both = json.loads(done(*order, "--truth", "t.ome.tif", "--json"))
        assert next(iter(both)) == "psnr"
        assert list(both)[-1] == "held_out_psnr"

    def test_options_come_before_the_record(self) -> None:
        done("reconstruct", "p.ome.tif", "-o", "v.ome.tif", "--method", "cubic", "--set", "consistency=final")
        recorded = self.score()
        assert self.score("--set", "consistency=none") == self.score("--preset", "paper") != recorded
        assert self.score("--method", "conservative") not in (recorded, self.score("--method", "cubic"))

    def test_a_record_of_another_version_counts_only_where_nothing_else_is_said(self) -> None:
        recorded = io.read_volume("t.ome.tif")
        unknown = {"job": {"method": {"kind": "linear", "mirror": True}}}
        io.write_volume(replace(recorded, provenance=unknown), "v.ome.tif")
        assert "not one of this version (method.mirror = True" in refused(*self.ORDER)
        assert "choose a --method" in refused(*self.ORDER)
        result = invoke(*self.ORDER, "--method", "conservative", "--json")
        assert result.exit_code == 0, result.stderr
        assert "is not used" in result.stderr
        stack = io.read_projections("p.ome.tif")
        expected = exhaust(held_out(Job(method=presets.spec("conservative")), stack)).psnr
        assert json.loads(result.stdout)["held_out_psnr"] == expected

    def test_other_projections_are_noticed(self) -> None:
        done("reconstruct", "p.ome.tif", "-o", "v.ome.tif", "--method", "linear")
        done("simulate", "truth.ome.tif", "-o", "p.ome.tif", "--slices", "6", "--profile", "point", "--overwrite")
        result = invoke(*self.ORDER)
        assert result.exit_code == 0
        assert "not the ones" in result.stderr

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--projections", "p.ome.tif", "--held-out"), "does not say how it was made, so there is no recipe"),
            (("--projections", "p.ome.tif", "--held-out", "--set", "consistency=final"), "choose a --method (linear,"),
            (("--held-out",), "give --projections"),
            (("--held-out", "--truth", "t.ome.tif"), "give --projections"),
            (("--projections", "p.ome.tif", "--folds", "3", "--set", "a=1"), "--folds, --set say how to hold"),
            (("--projections", "p.ome.tif", "--held-out", "--method", "magic"), "there are linear, cubic"),
            (("--projections", "p.ome.tif", "--held-out", "--method", "linear", "--folds", "1"), "at least 2 folds"),
            (("--projections", "p.ome.tif", "--held-out", "--method", "linear", "--device", "abacus"), "'cuda'"),
            (("--projections", "truth.ome.tif", "--held-out", "--method", "linear"), "--slices"),
        ],
    )
    def test_refused(self, arguments: tuple[str, ...], message: str) -> None:
        assert message in refused("evaluate", "t.ome.tif", *arguments)

    def test_too_few_projections(self) -> None:
        done("simulate", "t.ome.tif", "-o", "q.tif", "--slices", "10", "--truth-out", "u.tif")
        order = ("evaluate", "u.tif", "--projections", "q.tif", "--held-out", "--method", "linear")
        assert "at least 4 projections are needed" in refused(*order)


class TestMethods:
    def test_as_data(self) -> None:
        found = json.loads(done("methods", "--json"))
        assert [method["name"] for method in found["methods"]] == list(presets.METHODS)
        settings = {s["key"]: s for m in found["methods"] if m["name"] == "microdiffusion" for s in m["settings"]}
        assert settings["gamma"]["limits"] == {"ge": 0, "le": 1}
        assert settings["gamma"]["source"]["paper"] == "ours"
        assert settings["sampling_steps"]["changeable_after_training"]
        assert settings["prior.features"]["default"]["paper"] == 512
        assert all(s["description"] and s["range"] for s in settings.values())
        described = {method["name"]: (method["description"], method["definition"]) for method in found["methods"]}
        assert described["hash_inr"][0].startswith("As INR, but")
        assert described["hash_inr"][1].endswith("(Eq. 1 and 2). Here: encoding hash.")
        needing = [method["name"] for method in found["methods"] if method["needs_base_model"]]
        assert needing == list(pretrained_methods())

    def test_as_text(self) -> None:
        text = done("methods")
        assert all(name in text for name in presets.METHODS)
        assert text.count("Needs a base model") == len(pretrained_methods())
        assert "prior.features" in done("methods", "microdiffusion")
        assert "pretrain" not in done("methods", "inr")
        assert "a base model: napari-microdiffusion pretrain" in done("methods", "ddpm")
        assert "there are linear" in refused("methods", "magic")


@pytest.mark.usefixtures("folder")
class TestDemo:
    def test_calls_the_plugin(self, monkeypatch: pytest.MonkeyPatch) -> None:
        calls: list[Any] = []
        stub = types.ModuleType("demo")
        stub.main = lambda *given: calls.append(given) or 0  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "napari_microdiffusion.plugin.demo", stub)
        done("demo")
        done("demo", "p.ome.tif")
        done("demo", "truth.ome.tif", "--slices", "4")
        assert calls == [(None, None), (Path("p.ome.tif"), None), (Path("truth.ome.tif"), Acquisition(slices=4))]
        assert "give --slices" in refused("demo", "truth.ome.tif")
        assert "give their file" in refused("demo", "--slices", "4")

    def test_without_napari(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(commands, "find_spec", lambda _: None)
        assert "pip install 'napari-microdiffusion[gui]'" in refused("demo")


class TestProgress:
    EVENTS = (
        Stage("Training", 20),
        *(Step(i, 1 / i) for i in range(1, 21)),
        Notice("[odd] text"),
        Stage("Sampling", 3),
    )

    def test_plain_lines(self, capsys: pytest.CaptureFixture[str]) -> None:
        with console.Progress() as progress:
            for event in self.EVENTS:
                progress.show(event)
        shown = capsys.readouterr()
        lines = shown.err.splitlines()
        assert shown.out == ""
        assert len(lines) == 1 + 10 + 1 + 1
        assert lines[0] == "Training: 20 steps"
        assert lines[5].startswith("Training: 50 %, loss 0.1, about ")
        assert lines[10] == "Training: 100 %, loss 0.05"
        assert lines[11] == "note: [odd] text"

    def test_what_every_fold_says_is_said_once(self, capsys: pytest.CaptureFixture[str]) -> None:
        with console.Progress() as progress:
            for message in ("one", "two", "one"):
                progress.show(Notice(message))
        assert capsys.readouterr().err.splitlines() == ["note: one", "note: two"]

    def test_a_bar_on_a_terminal(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("COLUMNS", "120")
        with console.Progress() as progress:
            for event in self.EVENTS:
                progress.show(event)
        shown = capsys.readouterr().err
        assert "20/20" in shown
        assert "loss 0.05" in shown

    def test_numbers_that_are_not_finite_become_null(self, capsys: pytest.CaptureFixture[str]) -> None:
        console.print_json({"a": [float("nan"), 1.0], "b": {"c": float("inf")}})
        assert json.loads(capsys.readouterr().out) == {"a": [None, 1.0], "b": {"c": None}}


class TestProcess:
    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-c", "from napari_microdiffusion.cli import app; app()", *arguments]

    def test_help_needs_neither_torch_nor_napari(self) -> None:
        code = "import sys, napari_microdiffusion.cli; print({'torch', 'napari', 'qtpy', 'zarr'} & set(sys.modules))"
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"

    def test_a_pipe_that_lacks_letters_breaks_nothing(self) -> None:
        for arguments in (("methods", "microdiffusion"), ("methods", "--json")):
            result = subprocess.run(
                self.command(*arguments), capture_output=True, env={**os.environ, "PYTHONIOENCODING": "cp1252"}
            )
            assert result.returncode == 0, result.stderr
            told = result.stdout.decode("cp1252")
            assert json.loads(told)["methods"] if "--json" in arguments else "\\u03b3" in told

    @pytest.mark.skipif(sys.platform == "win32", reason="a pipe without a reader is another error there")
    def test_a_reader_of_progress_that_goes_away_stops_nothing(self, folder: Path) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        order = self.command("reconstruct", "p.ome.tif", "-o", "v.ome.tif", "--method", "inr", "--set", "steps=2")
        with os.fdopen(writer, "wb") as gone:
            result = subprocess.run(order, stdout=subprocess.PIPE, stderr=gone)
        assert result.returncode == 0
        assert b"inr, done after" in result.stdout
        assert io.read_volume(folder / "v.ome.tif").data.shape[0] == 30

    def test_usage_errors(self) -> None:
        result = subprocess.run(self.command("reconstruct", "--slices", "x"), capture_output=True, text=True)
        assert result.returncode == 2
        assert "Traceback" not in result.stderr

    @pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C cannot be sent to one process there")
    @pytest.mark.parametrize("existing", [False, True])
    def test_ctrl_c_keeps_what_is_done(self, folder: Path, existing: bool) -> None:
        """And a finished volume, even where it may be overwritten."""
        if existing:
            done("reconstruct", "p.ome.tif", "-o", "v.ome.tif", "--method", "linear")
        before = (folder / "v.ome.tif").read_bytes() if existing else b""
        arguments = (*TINY_INR, "--set", "steps=1000000", "--json", "--save-weights", "w.safetensors", "--overwrite")
        with subprocess.Popen(
            self.command("reconstruct", "p.ome.tif", "-o", "v.ome.tif", *arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stderr is not None
            assert "steps" in process.stderr.readline()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        assert "Traceback" not in err
        assert not json.loads(out.splitlines()[-1])["complete"]
        written = Path(json.loads(out.splitlines()[-1])["output"])
        assert written.name == ("partial_v.ome.tif" if existing else "v.ome.tif")
        assert not existing or (folder / "v.ome.tif").read_bytes() == before
        volume = io.read_volume(written)
        assert volume.shape == (30, 64, 64)
        assert volume.provenance is not None
        assert volume.provenance["complete"] is False
        assert not (folder / "w.safetensors").exists()
        assert "the weights were not saved to w.safetensors: the run was stopped" in err

    @pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C cannot be sent to one process there")
    @pytest.mark.parametrize("existing", [False, True])
    def test_ctrl_c_keeps_the_base_model_as_far_as_it_is_trained(self, folder: Path, existing: bool) -> None:
        """And one that is finished, even where it may be overwritten."""
        if existing:
            (folder / "base.safetensors").write_text("finished")
        settings = (*TINY_BASE, "--set", "steps=1000000", "--slices", "6", "--json", "--overwrite")
        with subprocess.Popen(
            self.command("pretrain", "t.ome.tif", "-o", "base.safetensors", "--method", "recurrent_mz", *settings),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stderr is not None
            while "steps" not in process.stderr.readline():
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        assert "Traceback" not in err
        values = json.loads(out.splitlines()[-1])
        assert not values["complete"]
        name = "partial_base.safetensors" if existing else "base.safetensors"
        assert Path(values["output"]).name == name
        assert not existing or (folder / "base.safetensors").read_text() == "finished"
        trained = load_trained(folder / name)
        assert not trained.origin.complete
        stack = replace(io.read_projections("p.ome.tif"), acquisition=Acquisition(slices=6, profile="point"))
        assert "stopped before its end" in (trained.check_input(stack) or "")
        assert exhaust(run(Job(method=trained.method), stack, weights=trained.weights)).volume.shape == (30, 64, 64)

    @pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C cannot be sent to one process there")
    @pytest.mark.parametrize(
        ("steps", "line", "scored"), [("1000000", "Held out 1", False), ("1000", "Held out 2", True)]
    )
    @pytest.mark.usefixtures("folder")
    def test_ctrl_c_keeps_the_folds_that_are_finished(self, steps: str, line: str, scored: bool) -> None:
        arguments = ("--held-out", *TINY_INR, "--set", f"steps={steps}", "--set", "rays=16", "--json")
        with subprocess.Popen(
            self.command("evaluate", "t.ome.tif", "--projections", "p.ome.tif", *arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stderr is not None
            while not process.stderr.readline().startswith(line):
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        assert "Traceback" not in err
        scores = json.loads(out)
        assert (scores["held_out_psnr"] is not None) is scored
        assert (scores["folds"], scores["folds_finished"] > 0) == (3, scored)
        assert scores["folds_finished"] < 3
        assert ("of 3 folds" if scored else "no held-out score yet") in err
