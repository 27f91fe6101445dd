"""The README and the first-use page: their commands and code do what they say."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from napari_microdiffusion.phantoms import phantom
from napari_microdiffusion.presets import METHODS, spec
from napari_microdiffusion.volume import ProjectionStack, Volume

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "docs" / "first-use.md"]
DEFAULT_METHOD = "sparse3diff"
QUICK = {  # the settings that decide how long learned methods take
    "axial": "--set steps=2 --set channels=8 --set batch=1",
    "recurrent_mz": "--set steps=2 --set channels=8 --set batch=1 --set crop=16",
    "sparse3diff": "--set steps=2 --set channels=8 --set batch=1 --set crop=16",
}


def blocks(page: Path, language: str = "") -> list[str]:
    """The page's fenced code blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    lines = "\n".join(blocks(page)).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("napari-microdiffusion ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands(
    page: Path, truth: Volume, stack: ProjectionStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    testing = pytest.importorskip("typer.testing")
    cli = pytest.importorskip("napari_microdiffusion.cli")
    monkeypatch.chdir(tmp_path)
    tifffile.imwrite("zstack.tif", truth.data)
    tifffile.imwrite("stack.tif", stack.data)
    tifffile.imwrite("movie.tif", np.stack([stack.data] * 2)[:, :, None], imagej=True, metadata={"axes": "TZCYX"})
    Path("zstacks").mkdir()
    tifffile.imwrite("zstacks/one.tif", truth.data[::-1])
    assert len(commands(page)) >= 2
    for command in commands(page):
        arguments = shlex.split(command)[1:]
        if arguments[0] == "pretrain" and "--method" not in arguments:
            arguments += ["--method", DEFAULT_METHOD]
        if "--method" in arguments:
            arguments += QUICK.get(arguments[arguments.index("--method") + 1], "").split()
        result = testing.CliRunner().invoke(cli.app, arguments)
        assert result.exit_code == 0, f"{command}\n{result.output}\n{result.exception!r}"
        for option in ("-o", "--truth-out", "--save-weights"):
            if option in arguments:
                made = Path(arguments[arguments.index(option) + 1])
                each = [made.name.replace(".", f"_t{time}.", 1) for time in (0, 1)] if "all" in arguments else [made]
                assert all(Path(name).stat().st_size > 1000 for name in each)


def test_python(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    [code] = blocks(ROOT / "README.md", "python")
    small = phantom("vessels", (36, 40, 40))
    monkeypatch.setattr("napari_microdiffusion.phantoms.phantom", lambda *_: small)
    exec(compile(code, "README.md", "exec"), {})
    printed, verdict = capsys.readouterr().out.splitlines()
    scores = eval(printed, {"nan": np.nan})
    assert scores["psnr"] > 20
    assert scores["reprojection_max_error"] < 1e-5
    assert verdict.startswith("Measured: 6 projections, each the mean of 6 slices")


def test_python_with_a_base_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [code] = blocks(ROOT / "docs" / "first-use.md", "python")
    monkeypatch.chdir(tmp_path)
    small = {"steps": 2, "channels": 8, "batch": 1, "crop": 16}
    monkeypatch.setattr("napari_microdiffusion.presets.spec", lambda name: spec(name, overrides=small))
    monkeypatch.setattr(
        "napari_microdiffusion.phantoms.phantom", lambda kind, seed=0: phantom(kind, (24, 32, 32), seed)
    )
    found: dict[str, Any] = {}
    exec(compile(code, "first-use.md", "exec"), found)
    assert found["volume"].shape == found["truth"].shape == (24, 32, 32)
    assert len(found["volume"].provenance["trained_on"]) == 3


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_every_method_is_in_the_table(page: str) -> None:
    [table] = re.findall(r"^\| name \|.*\n((?:\|.*\n)+)", (ROOT / page).read_text("utf-8"), re.MULTILINE)
    heads = " ".join(row.split("|")[1] for row in table.splitlines())
    assert sorted(re.findall(r"`(\w+)`", heads)) == sorted(METHODS)


def test_make_targets() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    named = {target for page in PAGES for target in re.findall(r"^make (\w+)", "\n".join(blocks(page)), re.MULTILINE)}
    assert named >= {"demo", "test"}
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda p: p.name
)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8"))
    missing = [link for link in links if not (page.parent / link).exists()]
    assert missing == []
