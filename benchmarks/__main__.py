"""Run the cases that have no result yet, then write the tables, pictures and curves.

python -m benchmarks [--every | --table NAME] [--volumes a,b] [--methods a,b] [--fresh] [--held-out]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from itertools import chain
from pathlib import Path
from typing import Any

from napari_microdiffusion.events import EngineError

from . import base
from .case import RESULTS, Case
from .curves import write_curves
from .report import keep, write_panels, write_readme, write_table
from .tables import Table, tables
from .volumes import ROOT, SHARED

KEPT = Path(tempfile.gettempdir()) / "napari-microdiffusion-benchmarks"
"""Volumes for the pictures, and base models."""


class CaseFailed(Exception):
    """A case, or the training of its base model, broke off."""


def in_own_process(module: str, **given: Any) -> str:
    """Run ``python -m MODULE`` on a JSON file of what is given; what it printed."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(given, file)
        file.flush()
        command = [sys.executable, "-m", module, file.name]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CaseFailed(done.stderr)
    return done.stdout


def run_case(case: Case, save: Path) -> dict[str, Any]:
    """Measure a case; its base model is trained first, unless there is one from before."""
    model = _base_of(case)
    return _measured(case, model, save=str(save)) | ({} if model is None else base.record_of(model))


def run_held_out(case: Case) -> dict[str, Any]:
    """The held-out score of a case by itself."""
    return _measured(case, _base_of(case), held_out=True)


def _base_of(case: Case) -> Path | None:
    """The base model of a pretrained method, trained unless there is one from before."""
    if not case.spec().pretrained:
        return None
    model = KEPT / f"base-{base.key(case)}.safetensors"
    if not model.exists():
        print("base model ...", end=" ", flush=True)
        in_own_process("benchmarks.base", case=case.model_dump(), path=str(model))
    return model


def _measured(case: Case, model: Path | None, save: str = "", held_out: bool = False) -> dict[str, Any]:
    """What `benchmarks.case` prints last."""
    given = {"case": case.model_dump(), "base": None if model is None else str(model)}
    printed = in_own_process("benchmarks.case", **given, save=save, held_out=held_out)
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return found


def results_of(cases: list[Case], store: Path) -> dict[str, Any]:
    """The results that there are of the cases as they are today, by today's keys: in a table's file, or another's.

    A held-out score that a row lacks is that of another row of the same case, if there is one; `benchmarks.trust` has
    some, too.
    """
    known: dict[str, Any] = {}
    blind: list[dict[str, Any]] = []
    for file in [*(other for other in sorted(store.parent.glob("*.json")) if other != store), store]:
        rows = json.loads(file.read_text()) if file.exists() else {}
        known |= {key: row for key, row in rows.items() if isinstance(row, dict) and "case" in row}
        lists = [row for row in rows.values() if isinstance(row, list)]
        blind += [row for row in chain(rows.values(), *lists) if "case" in row and "held_out_psnr" in row]
    found = {}
    for case in cases:
        key = case.key()
        old = key if key in known else next((old for old, row in known.items() if case.same(row)), None)
        if old is not None:
            found[key] = _held_out_of(case, known[old], blind) | {"array": old, **known[old], "case": case.model_dump()}
    return found


def _held_out_of(case: Case, row: dict[str, Any], others: list[dict[str, Any]]) -> dict[str, Any]:
    """The held-out score that a row of a case lacks, and what it was measured with; empty where no other has it.

    Another device rounds otherwise, and which it was is kept: on a GPU none has to be measured that a CPU has measured.
    """
    lacking = "held_out_psnr" not in row
    alike = [other for other in others if case.same(other, on_any_device=True)] if lacking else []
    same = next(filter(case.same, alike), next(iter(alike), {}))
    return {key: value for key, value in same.items() if key.startswith("held_out")}


def run_table(
    name: str, table: Table, volumes: list[str], methods: list[str], fresh: bool = False, held_out: bool = False
) -> list[str]:
    """Measure what is missing of a table; results are kept case by case, so a broken-off run resumes.

    ``volumes`` and ``methods`` restrict what is measured, if not empty. Results of earlier settings are dropped. A
    case that fails keeps no other from being measured. Returns what failed.
    """
    cases, failed = table.cases(), []
    store = RESULTS / f"{name}.json"
    before = {} if fresh else results_of(cases, store)
    KEPT.mkdir(exist_ok=True)
    for case in cases:
        key = case.key()
        row = before.get(key, {})
        if (volumes and case.volume not in volumes) or (methods and case.method not in methods):
            continue
        if row and ("held_out_psnr" in row or not held_out):
            continue
        said = " ".join([name + ":", case.volume, f"n={case.slices}", case.method, str(case.settings or "")]).strip()
        print(said, "...", end=" ", flush=True)
        try:
            if not row:
                row = {"case": case.model_dump(), "array": key, **run_case(case, KEPT / f"{key}.npy")}
                keep(store, {**results_of(cases, store), key: row})
            if held_out and "held_out_psnr" not in row:
                row |= run_held_out(case)
                keep(store, {**results_of(cases, store), key: row})
        except CaseFailed as error:
            print("failed", flush=True)
            failed.append(f"{said} failed:\n{error}")
            continue
        print(_scores(row), flush=True)
    rows = results_of(cases, store)
    if rows:
        keep(store, rows)
        report(name, table, list(rows.values()))
    return failed


def _scores(row: dict[str, Any]) -> str:
    blind = f", held out {row['held_out_psnr']:.2f} dB" if "held_out_psnr" in row else ""
    return f"{row['psnr']:.2f} dB{blind}, SSIM {row['ssim']:.3f}, DICE {row['dice']:.3f}, {row['seconds']:.0f} s"


def report(name: str, table: Table, rows: list[dict[str, Any]]) -> None:
    """Everything that is made from the results of a table."""
    write_panels(RESULTS / name, rows, KEPT)
    if table.curve:
        write_curves(RESULTS / f"{name}.png", rows, table)
    write_table(RESULTS / name, rows, table)
    if name == "preview":
        write_readme(ROOT / "README.md", rows)


def gpu_is_there() -> bool:
    """Asked only where a table needs to know: torch takes seconds to load."""
    import torch

    return bool(torch.cuda.is_available())


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    every = tables()
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--table", choices=every, help="one table of cases.toml (default: those not marked slow)")
    which.add_argument("--every", action="store_true", help="all tables: days on two cores, and a GPU for some")
    parser.add_argument("--volumes", help="only these, comma-separated")
    parser.add_argument("--methods", help="only these, comma-separated")
    parser.add_argument("--fresh", action="store_true", help="measure again what has a result")
    parser.add_argument(
        "--held-out", action="store_true", help="the held-out score, too, of every row that lacks it: hours"
    )
    given = parser.parse_args()
    if not SHARED.exists():
        raise SystemExit("the benchmark volumes are not here: they belong in a folder 'shared' beside the project's")
    RESULTS.mkdir(exist_ok=True)
    volumes, methods = (only.split(",") if only else [] for only in (given.volumes, given.methods))
    failed = []
    for name, table in every.items():
        if not given.every and name != given.table and (given.table or table.slow):
            continue
        if given.every and table.device == "cuda" and not gpu_is_there():
            print(f"{name}: left out, it is for a GPU")
            continue
        try:
            failed += run_table(name, table, volumes, methods, given.fresh, given.held_out)
        except EngineError as error:
            raise SystemExit(f"table {name}: {error}") from error
    if failed:
        raise SystemExit("\n".join(failed))


if __name__ == "__main__":
    main()
