"""What few photons cost, and what denoising the projections gives back: the shared volumes at several levels of light.

python -m benchmarks.photons [--volumes a,b] [--methods a,b]

Projections are counts, Poisson-distributed about the prepared truth's (n = 6, uniform profile, seed 0), so many photons
where those are 1 (their brightest pixels are 0.96 to 1). Every case is run as it is and with `Job.denoise`. Writes
results/photons.json and results/photons.md. What has a result is left as it is.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from napari_microdiffusion.checks import noise_of, noise_share
from napari_microdiffusion.events import exhaust
from napari_microdiffusion.metrics import evaluate
from napari_microdiffusion.presets import spec
from napari_microdiffusion.run import Job, run
from napari_microdiffusion.trust import held_out
from napari_microdiffusion.volume import ProjectionStack, Volume

from .case import RESULTS, Case, commit, protocol, stack_of
from .report import keep
from .volumes import file_of

VOLUMES = ["vessels", "axons", "dendrites", "membranes", "nuclei_brain", "nuclei_embryo"]
PHOTONS = {"conservative": (5, 20, 100, 500), "axial": (20, 100)}
"""By method: photons at the brightest pixel."""

STORE = RESULTS / "photons.json"

Row = dict[str, Any]


def counted(stack: ProjectionStack, photons: int) -> ProjectionStack:
    """Projections in [0, 1] as so many photons at most would show them, on the same scale."""
    counts = np.random.default_rng(0).poisson(photons * stack.data.astype(np.float64))
    return replace(stack, data=(counts / photons).astype(np.float32))


def measured(stack: ProjectionStack, truth: NDArray[np.float32], method: str, denoise: bool) -> Row:
    """Scores of one run. The truth is read by scoring alone."""
    made_with = commit()
    job = Job(method=spec(method, "preview"), acquisition=stack.acquisition, denoise=denoise)
    result = exhaust(run(job, stack))
    scores = protocol().score(truth, result.volume.data)
    known = evaluate(result.volume, Volume(truth)) if result.volume.reliability is not None else {}
    return {
        **{key: scores[key] for key in ("psnr", "ssim", "dice")},
        **{key: known[key] for key in ("coverage_90", "flagged_error_ratio") if key in known},
        "held_out_psnr": exhaust(held_out(job, stack, weights=result.weights)).psnr,
        "noise_share": noise_share(stack, noise_of(stack)[0]),
        "spec": job.method.model_dump(mode="json"),
        "commit": made_with,
    }


def report(found: dict[str, Row]) -> str:
    """A table: every method and level of light by volumes; in a cell without denoising → with it."""
    lines = []
    for method, levels in PHOTONS.items():
        for key, digits, unit in (
            ("psnr", 1, "PSNR (dB)"),
            ("ssim", 2, "SSIM"),
            ("dice", 2, "DICE"),
            ("held_out_psnr", 1, "held-out PSNR (dB)"),
            ("coverage_90", 2, "share of the truth in the 90 % interval"),
            ("flagged_error_ratio", 1, "error², flagged / others"),
        ):
            rows = [_line(found, method, level, key, digits) for level in levels]
            if any("→" in row for row in rows):
                lines += [f"| `{method}`, {unit} | " + " | ".join(VOLUMES) + " |", "| --- " * (len(VOLUMES) + 1) + "|"]
                lines += [*rows, ""]
    shares = [found[name]["noise_share"] for name in sorted(found)]
    versions = ", ".join(sorted({row["commit"] for row in found.values()}))
    lines += [
        "Without denoising → with it; n = 6, uniform profile, `preview`, seed 0. Noise makes up "
        f"{min(shares):.2f} to {max(shares):.2f} of the difference between neighbouring projections. "
        f"Measured with commit {versions}.",
        "",
    ]
    return "\n".join(lines)


def _line(found: dict[str, Row], method: str, level: int, key: str, digits: int) -> str:
    cells = []
    for volume in VOLUMES:
        pair = [found.get(_key(volume, method, level, denoise), {}).get(key) for denoise in (False, True)]
        cells.append(" → ".join(f"{value:.{digits}f}" for value in pair) if None not in pair else "")
    return f"| {level} photons | " + " | ".join(cells) + " |"


def _key(volume: str, method: str, photons: int, denoise: bool) -> str:
    return f"{volume}, {method}, {photons}{', denoised' if denoise else ''}"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.photons", description=__doc__)
    parser.add_argument("--volumes", default=",".join(VOLUMES), help="comma-separated")
    parser.add_argument("--methods", default=",".join(PHOTONS), help="comma-separated")
    given = parser.parse_args()
    found: dict[str, Row] = json.loads(STORE.read_text()) if STORE.exists() else {}
    for method in given.methods.split(","):
        for photons in PHOTONS[method]:
            for volume in given.volumes.split(","):
                truth = protocol().prepare(tifffile.imread(file_of(volume)), 6)
                stack = counted(stack_of(Case(volume=volume, method=method), truth), photons)
                for denoise in (False, True):
                    key = _key(volume, method, photons, denoise)
                    if found.get(key, {}).get("spec") == spec(method, "preview").model_dump(mode="json"):
                        continue
                    found[key] = measured(stack, truth, method, denoise)
                    keep(STORE, found)
                    print(f"{key}: {found[key]['psnr']:.2f} dB", flush=True)
    (RESULTS / "photons.md").write_text(report(found))


if __name__ == "__main__":
    main()
