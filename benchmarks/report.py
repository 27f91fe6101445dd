"""Tables (CSV, Markdown) and pictures (XY and XZ panels, same contrast) of benchmark results."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from napari_microdiffusion.io.target import replacing

from .case import Case
from .tables import Table, labels
from .volumes import FEWEST, PHANTOM, PHANTOM_SHAPE

COLUMNS = {
    "psnr": ("PSNR (dB)", ".2f"),
    "psnr_volume": ("PSNR of the volume (dB)", ".2f"),
    "ssim": ("SSIM", ".3f"),
    "dice": ("DICE", ".3f"),
    "held_out_psnr": ("held-out PSNR (dB)", ".2f"),
    "reprojection_max_error": ("reprojection error", ".0e"),
    "coverage_90": ("truth in the 90 % interval", ".3f"),
    "coverage_90_bright": ("where it is bright", ".3f"),
    "flagged_error_ratio": ("error², flagged / others", ".1f"),
    "z_smoothness": ("z-smoothness", ".2f"),
    "seconds": ("seconds", ".1f"),
    "base_seconds": ("base, seconds", ".0f"),
    "peak_memory_gb": ("peak memory (GB)", ".2f"),
    "peak_gpu_memory_gb": ("on the GPU (GB)", ".2f"),
}

LETTERS, LINE = 42, 13
"""Of a label in a picture: how many go in a line, and its height in pixels."""

MADE_BY = "commit", "threads", "instructions"
"""What a result says of the code and the processor that made it; those of before say nothing."""

HELD_OUT_BY = "held_out_commit", "held_out_device", "held_out_precision", "held_out_seconds"
"""The same of a held-out score that was measured by itself."""


def keep(store: Path, rows: dict[str, Any]) -> None:
    """Write a table's results, whole or not at all: another run may be reading them."""
    with replacing(store, overwrite=True) as temporary:
        temporary.write_text(json.dumps(rows, indent=1) + "\n")


def write_table(path: Path, rows: list[dict[str, Any]], table: Table) -> None:
    """``path``.csv with every number, and ``path``.md with one row a volume and method and what they were run on.

    Scores that no row has get no column. Pictures that there are stand below.
    """
    rows = sorted(rows, key=lambda row: row["case"]["volume"])
    cases = [Case.model_validate(row["case"]) for row in rows]
    columns = {key: column for key, column in COLUMNS.items() if any(key in row for row in rows)}
    with path.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            [*Case.model_fields, *columns, "stages", "device", "precision", "versions", *MADE_BY, *HELD_OUT_BY]
        )
        for row, case in zip(rows, cases, strict=True):
            about = case.model_dump() | {"settings": json.dumps(case.settings)}
            versions = ", ".join(f"{name} {version}" for name, version in row["versions"].items())
            measured = [row.get(key, "") for key in columns]
            stages = ", ".join(f"{name} {seconds} s" for name, seconds in row.get("stages", {}).items())
            made_by = [row.get(key, "") for key in MADE_BY + HELD_OUT_BY]
            writer.writerow([*about.values(), *measured, stages, row["device"], row["precision"], versions, *made_by])
    lines = ["| volume | n | method | seed | " + " | ".join(title for title, _ in columns.values()) + " | arithmetic |"]
    lines.append("| --- " * (len(columns) + 5) + "|")
    for row, case, label in zip(rows, cases, labels(cases), strict=True):
        numbers = " | ".join(format(row[key], style) if key in row else "" for key, (_, style) in columns.items())
        lines.append(f"| {case.volume} | {case.slices} | {label} | {case.seed} | {numbers} | {row['precision']} |")
    above = [table.title, ""] if table.title else []
    below = ["", f"![PSNR, SSIM and DICE]({path.name}.png)"] if table.curve else []
    for volume, slices in dict.fromkeys((case.volume, case.slices) for case in cases):
        picture = _panel(path, volume, slices)
        below += ["", f"![{volume}, n = {slices}]({picture.name})"] if picture.exists() else []
    if any("![" in line for line in below):
        below += ["", "A picture is of the volumes that were at hand when it was drawn; an older one may lack rows."]
    path.with_suffix(".md").write_text("\n".join([*above, *lines, "", *_notes(rows, cases, table), *below, ""]))


def _notes(rows: list[dict[str, Any]], cases: list[Case], table: Table) -> list[str]:
    """What all rows have in common, and what is not among them."""
    versions = dict.fromkeys(", ".join(f"{name} {v}" for name, v in row["versions"].items()) for row in rows)
    devices = dict.fromkeys(row["device"] for row in rows)
    stride = "" if cases[0].stride is None else f"stride {cases[0].stride}, "
    common = f"{stride}{cases[0].profile} profile, preset {cases[0].preset}"
    notes = [f"{common}; {', '.join(devices)}; {'; '.join(versions)}."]
    makers = dict.fromkeys(row["commit"] for row in rows if "commit" in row)
    if makers:
        rest = "" if all("commit" in row for row in rows) else "; some rows before commits were noted"
        notes[0] += f" Measured with commit {', '.join(makers)}{rest}."
    if table.left_out():
        which = ", ".join(f"{volume} at n = {slices}" for volume, slices in table.left_out())
        notes += ["", f"Left out, since fewer than {FEWEST} projections would be left: {which}."]
    if 0 < sum("held_out_psnr" in row for row in rows) < len(rows):
        notes += [
            "",
            "Without a held-out score: rows that were measured before this column, and methods that are trained or "
            "fitted anew for it and were not yet; `--held-out` measures them.",
        ]
    by_themselves = [row for row in rows if any(key in row for key in HELD_OUT_BY)]
    if by_themselves:
        places, precisions, commits = (
            ", ".join(dict.fromkeys(row[key] for row in by_themselves if key in row))
            for key in ("held_out_device", "held_out_precision", "held_out_commit")
        )
        made = f"on {places}, in {precisions}" + (f" with commit {commits}" if commits else "")
        notes += ["", f"Held-out scores of methods trained anew were measured by themselves, {made}."]
    if any("base_seconds" in row for row in rows):
        notes += [
            "",
            "Base models were trained on the other real volumes (those of phantoms on the same kind from other seeds), "
            "never on the one that is scored; what that took is in a column of its own, and rows that differ in "
            "sampling alone share one base model.",
        ]
    if any(case.volume.startswith(PHANTOM) for case in cases):
        notes += ["", f"Phantoms are {' x '.join(map(str, PHANTOM_SHAPE))} voxels, seed 0."]
    return notes


def write_readme(readme: Path, rows: list[dict[str, Any]]) -> None:
    """Between the README's results marks, one row a method: PSNR on each volume, and the means of all scores."""
    volumes = list(dict.fromkeys(row["case"]["volume"] for row in rows))
    lines = ["| PSNR (dB) | " + " | ".join(volumes) + " | mean | mean SSIM | mean DICE | mean held-out | minutes |"]
    lines.append("| --- " * (len(volumes) + 6) + "|")
    for method in dict.fromkeys(row["case"]["method"] for row in rows):
        own = {row["case"]["volume"]: row for row in rows if row["case"]["method"] == method}
        if own.keys() != set(volumes):
            continue
        psnr, ssim, dice, seconds = (
            [own[name][key] for name in volumes] for key in ("psnr", "ssim", "dice", "seconds")
        )
        minutes = " to ".join(dict.fromkeys(f"{bound / 60:.1f}" for bound in (min(seconds), max(seconds))))
        time = "instant" if max(seconds) < 5 else minutes
        each = " | ".join(f"{value:.2f}" for value in psnr)
        means = f"{np.mean(psnr):.2f} | {np.mean(ssim):.3f} | {np.mean(dice):.3f}"
        blind = [own[name].get("held_out_psnr", np.nan) for name in volumes]
        means += " | –" if np.isnan(blind).any() else f" | {np.mean(blind):.2f}"
        lines.append(f"| `{method}` | {each} | {means} | {time} |")
    before, _, rest = readme.read_text().partition("<!-- results -->")
    _, _, after = rest.partition("<!-- /results -->")
    readme.write_text(before + "\n".join(["<!-- results -->", *lines, "<!-- /results -->"]) + after)


def write_panels(path: Path, rows: list[dict[str, Any]], kept: Path) -> None:
    """``path``_VOLUME.png: truth and methods side by side, XY above XZ, same contrast, where all are still at hand.

    Of other depths than n = 6, ``path``_VOLUME_n.png. Says which pictures stay as they were, older than the table.
    """
    pictures: dict[tuple[str, int], tuple[Case, dict[str, Path]]] = {}
    cases = [Case.model_validate(row["case"]) for row in rows]
    for row, case, label in zip(rows, cases, labels(cases), strict=True):
        if case.seed == 0:
            pictures.setdefault((case.volume, case.slices), (case, {}))[1][label] = kept / f"{row['array']}.npy"
    for (name, slices), (case, methods) in pictures.items():
        picture = _panel(path, name, slices)
        lacking = [label for label, file in methods.items() if not file.exists()]
        if lacking:
            print(
                f"{picture.name} is not drawn anew: no volume at hand of {'; '.join(lacking)} (--fresh measures again)"
            )
            continue
        truth = case.truth()
        arrays: dict[str, NDArray[np.float32]] = {label: np.load(file) for label, file in methods.items()}
        arrays = {"truth": truth, **arrays}
        head = LINE * max(len(wrap(label, LETTERS)) for label in arrays) + 6
        tiles = [_tile(label, head, volume, truth) for label, volume in arrays.items()]
        Image.fromarray(np.concatenate(tiles, 1)).save(picture, optimize=True)


def _panel(path: Path, volume: str, slices: int) -> Path:
    """The picture of one volume of the table ``path``."""
    depth = "" if slices == 6 else f"_{slices}"
    return Path(f"{path}_{volume.replace(':', '_')}{depth}.png")


def _tile(label: str, head: int, volume: NDArray[np.float32], truth: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The slice two voxels off the middle (not a projection's centre), and the XZ plane of the brightest row.

    The label is above, in as many pixels as ``head`` says.
    """
    row = int(truth.mean((0, 2)).argmax())
    gap = np.zeros((4, volume.shape[2]), np.float32)
    image = np.concatenate([volume[len(volume) // 2 + 2], gap, volume[:, row]])
    grey = Image.fromarray((np.clip(image, 0, 1) * 255).astype(np.uint8)).resize((256, 2 * len(image)))
    canvas = Image.new("L", (260, 2 * len(image) + head))
    canvas.paste(grey, (2, head))
    ImageDraw.Draw(canvas).text((4, 3), "\n".join(wrap(label, LETTERS)), fill=255)
    return np.asarray(canvas)
