"""No method can reach the truth: it is opened by `simulate` and `evaluate` alone.

Proven for every name in `METHODS`: two truths with the same projections give the same volume to the last bit; while
`reconstruct` works beside the truth's file, that file is not opened; a truth that is destroyed once it is projected
changes nothing; and no method's module could read one.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from typer.testing import CliRunner

from conftest import small
from napari_microdiffusion import io
from napari_microdiffusion import methods as package
from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.cli import app
from napari_microdiffusion.events import exhaust
from napari_microdiffusion.methods import Method, Weights
from napari_microdiffusion.phantoms import phantom
from napari_microdiffusion.presets import METHODS, spec
from napari_microdiffusion.pretraining import Pretraining, pretrain
from napari_microdiffusion.run import Job, run
from napari_microdiffusion.trained import save_base
from napari_microdiffusion.volume import Volume

N = 4
"""Slices of a projection: with weights of 1/4, means of small integers are exact in float32."""

SHAPE = (24, 48, 48)

CASES = [(name, "uniform") for name in METHODS]
CASES += [(name, "point") for name, (cls, _) in METHODS.items() if cls.pretrained]

opened: list[Path] | None = None
"""Files that are opened are noted here, while it is a list."""


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and opened is not None and isinstance(arguments[0], str | bytes):
        opened.append(Path(arguments[0] if isinstance(arguments[0], str) else arguments[0].decode()).resolve())


@cache
def install() -> None:
    """Once a process: such a hook cannot be taken out again."""
    sys.addaudithook(_note)


@contextmanager
def watched() -> Generator[list[Path]]:
    """Every file that Python opens, in any thread and by any library, while the block runs."""
    global opened
    install()
    opened = []
    try:
        yield opened
    finally:
        opened = None


def acquisition(profile: str) -> Acquisition:
    """Of all stacks here."""
    return Acquisition.model_validate({"slices": N, "profile": profile})


def twins(profile: str) -> tuple[Volume, Volume]:
    """Two truths of integers that differ, and by what the projections cannot see."""
    one = np.round(phantom("vessels", SHAPE, seed=2).data * 2000).astype(np.float32)
    rng = np.random.default_rng(0)
    unseen = np.zeros((SHAPE[0] // N, N, *SHAPE[1:]), np.float32)
    unseen[:, 1:3] = rng.integers(-300, 300, (SHAPE[0] // N, 2, *SHAPE[1:]))
    if profile == "uniform":
        unseen[:, 3] = -unseen[:, 1:3].sum(1)
    return Volume(one), Volume(one + unseen.reshape(SHAPE))


def base_of(name: str, profile: str, path: Path) -> Weights | None:
    """Weights of a base model trained on other phantoms, kept at ``path``; None where a method needs none."""
    method = spec(name, overrides=small(name))
    if not method.pretrained:
        return None
    others = [phantom("nuclei", SHAPE, seed=seed) for seed in (7, 8)]
    base = exhaust(pretrain(Pretraining(method=method, acquisition=acquisition(profile), device="cpu"), others))
    save_base(path, base)
    return base.weights


def command(*arguments: object) -> None:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.stderr or result.exception


def reconstructed(folder: Path, truth: Volume, name: str, profile: str, base: Path | None) -> NDArray[np.float32]:
    """By the command line, in a folder where the truth lies beside its projections; the truth is not opened."""
    folder.mkdir()
    hidden, seen, made = (folder / f"{kind}.ome.tif" for kind in ("truth", "projections", "volume"))
    io.write_volume(truth, hidden)
    command("simulate", hidden, "-o", seen, "--slices", N, "--profile", profile)
    how: list[object] = ["--base", base] if base else ["--method", name]
    if not base:
        for path, value in small(name).items():
            how += ["--set", f"{path}={value}"]
    with watched() as files:
        command("reconstruct", seen, "-o", made, *how, "--device", "cpu")
    assert seen.resolve() in files
    assert hidden.resolve() not in files
    return io.read_volume(made).data


# -- the three proofs -----------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "profile"), CASES)
def test_no_method_reaches_the_truth(name: str, profile: str, tmp_path: Path) -> None:
    one, other = twins(profile)
    stack, covered = one.simulate(acquisition(profile))
    np.testing.assert_array_equal(stack.data, other.simulate(acquisition(profile))[0].data)
    assert np.abs(one.data - other.data).mean() > 50
    weights = base_of(name, profile, tmp_path / "base.safetensors")
    base = None if weights is None else tmp_path / "base.safetensors"

    volumes = [
        reconstructed(tmp_path / kind, truth, name, profile, base)
        for kind, truth in zip("ab", (one, other), strict=True)
    ]
    np.testing.assert_array_equal(*volumes)  # two truths, one volume; neither file was opened

    for array in (stack.data, *(weights or {}).values()):
        assert not np.shares_memory(np.asarray(array), covered.data)
    covered.data[:] = np.nan  # had anything kept hold of it, it would show
    job = Job(method=spec(name, overrides=small(name)), acquisition=stack.acquisition, device="cpu")
    result = exhaust(run(job, stack, weights=weights))
    np.testing.assert_array_equal(result.volume.data, volumes[0])


@pytest.mark.parametrize("profile", ["uniform", "gaussian", "point"])
@pytest.mark.parametrize("slices", [1, 4])
def test_projections_share_no_memory_with_the_truth(profile: str, slices: int) -> None:
    truth = phantom("nuclei", (12, 32, 32))
    stack, covered = truth.simulate(Acquisition.model_validate({"slices": slices, "profile": profile}))
    assert np.shares_memory(covered.data, truth.data)
    assert not np.shares_memory(stack.data, truth.data)
    assert not np.shares_memory(stack.normalised()[0].data, truth.data)


FOLDER = Path(package.__file__).parent
NETWORKS = [
    path
    for path in sorted(FOLDER.parent.glob("*.py"))
    if re.search(r"^(from|import) torch", path.read_text("utf-8"), re.M)
]
MODULES = sorted(FOLDER.glob("*.py")) + NETWORKS
OWN = {"io", "checkpoint", "phantoms", "trained", "pretraining", "run"}
FOREIGN = {"pathlib", "os", "tifffile", "zarr", "safetensors", "imageio", "skimage"}
"""Modules of this package, and others, that a method has no business with: files, and volumes that are whole."""


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_no_method_could_read_a_truth(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    used |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert used.isdisjoint({"open", "read_volume", "imread", "load", "fromfile", "memmap", "simulate", "evaluate"})
    own, foreign, metrics = imported(tree)
    assert own.isdisjoint(OWN)
    assert foreign.isdisjoint(FOREIGN)
    assert metrics <= {"residual_stats", "residual_map", "Residual"}  # none takes a truth


def imported(tree: ast.AST) -> tuple[set[str], set[str], set[str]]:
    """Modules imported of this package, packages of others, and names from ``metrics``."""
    own: set[str] = set()
    foreign: set[str] = set()
    metrics: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            foreign |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names, module = {alias.name for alias in node.names}, node.module or ""
            if not node.level and not module.startswith("napari_microdiffusion"):
                foreign.add(module.partition(".")[0])
                continue
            own |= {*module.split("."), *names}
            metrics |= names if module.rpartition(".")[2] == "metrics" else set()
    return own, foreign, metrics


# -- that the proofs can fail -----------------------------------------------------------------------


@pytest.mark.parametrize("read", [io.read_volume, tifffile.imread, tifffile.memmap, Path.read_bytes])
def test_opening_a_truth_would_be_seen(read: Any, tmp_path: Path) -> None:
    path = tmp_path / "truth.ome.tif"
    io.write_volume(phantom("nuclei", (12, 32, 32)), path)
    with watched() as files:
        read(path)
    assert path.resolve() in files
    with watched() as files:
        pass
    assert files == []


def test_a_method_that_peeks_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = METHODS["linear"][0].estimate

    def peeking(self: Method, *arguments: Any) -> Any:
        for path in tmp_path.glob("*/truth.ome.tif"):
            io.read_volume(path)
        return plain(self, *arguments)

    monkeypatch.setattr(METHODS["linear"][0], "estimate", peeking)
    with pytest.raises(AssertionError, match="not in"):
        reconstructed(tmp_path / "a", twins("uniform")[0], "linear", "uniform", None)
