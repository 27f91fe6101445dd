"""Run the cases that have no result yet, then write the tables and pictures.

python -m benchmarks [--table NAME] [--volumes a,b] [--methods a,b] [--fresh]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
from itertools import product
from pathlib import Path
from typing import Any

from .case import RESULTS, ROOT, SHARED, Case
from .report import write_panels, write_readme, write_table


def cases_of(table: dict[str, Any]) -> list[Case]:
    """Every combination of a table's lists; its other keys belong to all of them."""
    lists = {key: value for key, value in table.items() if isinstance(value, list)}
    fixed = {key: value for key, value in table.items() if not isinstance(value, list)}
    singular = {"volumes": "volume", "methods": "method", "seeds": "seed", "depths": "slices", "profiles": "profile"}
    return [
        Case(**fixed, **{singular[key]: value for key, value in zip(lists, values, strict=True)})
        for values in product(*lists.values())
    ]


def run_case(case: Case, save: Path) -> dict[str, Any]:
    """Measure a case in a process of its own."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({"case": case.model_dump(), "save": str(save)}, file)
        file.flush()
        command = [sys.executable, "-m", "benchmarks.case", file.name]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{case.volume} {case.method} failed:\n{done.stderr}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def run_table(name: str, cases: list[Case], volumes: list[str], methods: list[str], fresh: bool) -> None:
    """Measure what is missing of a table; results are kept case by case, so a broken-off run resumes.

    ``volumes`` and ``methods`` restrict what is measured, if not empty. Results of earlier settings are dropped.
    """
    store = RESULTS / f"{name}.json"
    known: dict[str, Any] = json.loads(store.read_text()) if store.exists() else {}
    keys = {case.key(): case for case in cases}
    arrays = Path(tempfile.gettempdir()) / "napari-microdiffusion-benchmarks"
    arrays.mkdir(exist_ok=True)
    for key, case in keys.items():
        if (volumes and case.volume not in volumes) or (methods and case.method not in methods):
            continue
        if key in known and not fresh:
            continue
        print(f"{name}: {case.volume} {case.method} ...", end=" ", flush=True)
        known[key] = {"case": case.model_dump(), **run_case(case, arrays / f"{key}.npy")}
        row = known[key]
        print(
            f"{row['psnr']:.2f} dB, SSIM {row['ssim']:.3f}, DICE {row['dice']:.3f}, {row['seconds']:.0f} s", flush=True
        )
        store.write_text(json.dumps(known, indent=1) + "\n")
    rows = {key: known[key] for key in keys if key in known}
    store.write_text(json.dumps(rows, indent=1) + "\n")
    write_table(RESULTS / name, list(rows.values()))
    write_panels(RESULTS / name, rows, arrays)
    if name == "preview":
        write_readme(ROOT / "README.md", list(rows.values()))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    tables = tomllib.loads((Path(__file__).parent / "cases.toml").read_text())
    parser.add_argument("--table", choices=tables, help="one table of cases.toml (default: those not marked slow)")
    parser.add_argument("--volumes", help="only these, comma-separated")
    parser.add_argument("--methods", help="only these, comma-separated")
    parser.add_argument("--fresh", action="store_true", help="measure again what has a result")
    given = parser.parse_args()
    if not SHARED.exists():
        raise SystemExit("the benchmark volumes are not here: they belong in a folder 'shared' beside the project's")
    RESULTS.mkdir(exist_ok=True)
    for name, table in tables.items():
        if name != given.table and (given.table or table.get("slow")):
            continue
        table = {key: value for key, value in table.items() if key != "slow"}
        volumes, methods = (only.split(",") if only else [] for only in (given.volumes, given.methods))
        run_table(name, cases_of(table), volumes, methods, given.fresh)


if __name__ == "__main__":
    main()
