"""Does the held-out score rank results as the truth does? Methods and settings on the shared volumes, both scores each.

python -m benchmarks.trust [--volumes a,b] [--again a,b]

Writes results/trust.json and results/trust.md: PSNR against the truth beside held-out PSNR (in as many folds as users
get), and Spearman's rank correlation of the two over all recipes, for each volume; and what it would be if held-out
PSNR counted how far a volume is from its own projections, too. A volume takes half an hour or more. What has a result
is left as it is, unless its method is to be measured again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Generator, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import tifffile
from scipy.stats import spearmanr

from napari_microdiffusion.events import exhaust
from napari_microdiffusion.methods import Axial
from napari_microdiffusion.metrics import residual_stats
from napari_microdiffusion.run import Job, run
from napari_microdiffusion.trust import held_out

from .case import RESULTS, SHARED, Case, commit, protocol, stack_of
from .report import keep

VOLUMES = ["vessels", "axons", "dendrites", "membranes", "nuclei_brain", "nuclei_embryo"]

RECIPES: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in ("linear", "cubic", "conservative", "inr", "hash_inr", "microdiffusion", "axial")),
    ("hash_inr", {"steps": 20}),
    ("hash_inr", {"cell_z": 3.0}),
    *(("axial", {"sigma": sigma}) for sigma in (0.0, 1.5, 3.0, 4.5, 6.0)),
]
"""Methods as `preview` has them; one that is trained too little, one on a wrong grid; axial with sigmas set by hand."""

STORE = RESULTS / "trust.json"

Row = dict[str, Any]


def recipes(volume: str, before: list[Row], again: Sequence[str]) -> Generator[list[Row]]:
    """Both scores of every recipe on one volume, more each time. The truth is read by preparation and scoring alone.

    Parameters
    ----------
    before
        Results that there are, of any recipes.
    again
        Methods that are measured all the same.
    """
    rules = protocol()
    truth = rules.prepare(tifffile.imread(SHARED / "data" / f"{volume}.ome.tif"), 6)
    stack = stack_of(Case(volume=volume, method="linear"), truth)
    known = [row for row in before if row["method"] not in again]
    rows: list[Row] = []
    weights = None
    for name, settings in RECIPES:
        case = Case(volume=volume, method=name, settings=settings)
        row = next((row for row in known if case.same(row)), None)
        if row is None:
            made_with, method = commit(), case.spec()
            job = Job(method=method, acquisition=stack.acquisition)
            result = exhaust(run(job, stack, weights=weights if isinstance(method, Axial) else None))
            if isinstance(method, Axial):
                weights = result.weights  # one training for all sigmas: each is tried on the stack anew
            truly = rules.score(truth, result.volume.data)["psnr"]
            blind = exhaust(held_out(job, stack, weights=result.weights)).psnr
            row = {
                "method": name,
                "settings": settings,
                "case": case.model_dump(),
                "spec": method.model_dump(mode="json"),
                "psnr": truly,
                "held_out_psnr": blind,
                "reprojection_rms": residual_stats(result.volume.data, stack).rms / float(np.ptp(stack.data)),
                "held_out_device": (result.volume.provenance or {})["device"],
                "held_out_precision": (result.volume.provenance or {})["precision"],
                "held_out_commit": made_with,
            }
            print(f"{volume} {_said(name, settings)}: {truly:.2f} dB, held out {blind:.2f} dB", flush=True)
        rows.append(row)
        yield rows


def _said(name: str, settings: dict[str, Any]) -> str:
    """A recipe in words."""
    return ", ".join([name, *(f"{key} {value}" for key, value in settings.items())])


def _whole(rows: list[Row]) -> bool:
    """Whether these are results of today's recipes, one each."""
    return [(row["method"], row["settings"]) for row in rows] == RECIPES


def correlation(rows: list[Row], score: Callable[[Row], float] = itemgetter("held_out_psnr")) -> float:
    """Spearman's rank correlation of true PSNR and a score."""
    return float(spearmanr([row["psnr"] for row in rows], [score(row) for row in rows]).statistic)


def both(row: Row) -> float:
    """Held-out PSNR (dB) with the squared error added by which the volume misses the projections it was shown."""
    return float(-10 * np.log10(10 ** (-row["held_out_psnr"] / 10) + row["reprojection_rms"] ** 2))


def report(found: dict[str, list[Row]]) -> str:
    """A table: recipes by volumes, both scores, and the correlations."""
    lines = ["| PSNR / held-out PSNR (dB) | " + " | ".join(found) + " |", "| --- " * (len(found) + 1) + "|"]
    for number, (name, settings) in enumerate(RECIPES):
        cells = [f"{rows[number]['psnr']:.2f} / {rows[number]['held_out_psnr']:.2f}" for rows in found.values()]
        lines.append(f"| {_said(name, settings)} | " + " | ".join(cells) + " |")
    means = []
    for said, score in (("rank correlation", itemgetter("held_out_psnr")), ("with the reprojection error", both)):
        each = [correlation(rows, score) for rows in found.values()]
        lines.append(f"| {said} | " + " | ".join(f"{value:.2f}" for value in each) + " |")
        means.append(np.mean(each))
    lines += ["", f"Mean over the volumes {means[0]:.2f}; with the reprojection error {means[1]:.2f}.", ""]
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trust", description=__doc__)
    parser.add_argument("--volumes", default=",".join(VOLUMES), help="comma-separated")
    parser.add_argument("--again", default="", help="methods that are measured again, comma-separated")
    given = parser.parse_args()
    found: dict[str, list[Row]] = json.loads(STORE.read_text()) if STORE.exists() else {}
    for volume in given.volumes.split(","):
        before = found.get(volume, [])
        for rows in recipes(volume, before, given.again.split(",")):
            found[volume] = rows if _whole(rows) else [*before, *rows]  # of two the later counts
            keep(STORE, found)
    (RESULTS / "trust.md").write_text(report({name: found[name] for name in VOLUMES if _whole(found.get(name, []))}))


if __name__ == "__main__":
    main()
