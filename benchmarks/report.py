"""Tables (CSV, Markdown) and pictures (XY and XZ panels, same contrast) of benchmark results."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .case import SHARED, protocol

COLUMNS = {
    "psnr": ("PSNR (dB)", ".2f"),
    "psnr_volume": ("PSNR of the volume (dB)", ".2f"),
    "ssim": ("SSIM", ".3f"),
    "dice": ("DICE", ".3f"),
    "reprojection_max_error": ("reprojection error", ".0e"),
    "coverage_90": ("truth in the 90 % interval", ".3f"),
    "flagged_error_ratio": ("error², flagged / others", ".1f"),
    "z_smoothness": ("z-smoothness", ".2f"),
    "seconds": ("seconds", ".1f"),
    "peak_memory_gb": ("peak memory (GB)", ".2f"),
}


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """``path``.csv with every number, and ``path``.md with one row a volume and method and what they were run on."""
    rows = sorted(rows, key=lambda row: row["case"]["volume"])
    with path.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*rows[0]["case"], *COLUMNS, "device", "precision"])
        for row in rows:
            writer.writerow(
                [*row["case"].values(), *(row.get(key, "") for key in COLUMNS), row["device"], row["precision"]]
            )
    lines = ["| volume | n | method | seed | " + " | ".join(title for title, _ in COLUMNS.values()) + " | arithmetic |"]
    lines.append("| --- " * (len(COLUMNS) + 5) + "|")
    for row in rows:
        case = row["case"]
        numbers = " | ".join(format(row[key], style) if key in row else "" for key, (_, style) in COLUMNS.items())
        which = " | ".join(str(case[key]) for key in ("volume", "slices", "method", "seed"))
        lines.append(f"| {which} | {numbers} | {row['precision']} |")
    first = rows[0]
    versions = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
    note = f"{first['case']['profile']} profile, preset {first['case']['preset']}; "
    lines += ["", f"{note}{first['device']}; {versions}.", ""]
    path.with_suffix(".md").write_text("\n".join(lines))


def write_readme(readme: Path, rows: list[dict[str, Any]]) -> None:
    """Between the README's results marks, one row a method: PSNR on each volume, and the means of all scores."""
    volumes = list(dict.fromkeys(row["case"]["volume"] for row in rows))
    lines = ["| PSNR (dB) | " + " | ".join(volumes) + " | mean | mean SSIM | mean DICE | minutes |"]
    lines.append("| --- " * (len(volumes) + 5) + "|")
    for method in dict.fromkeys(row["case"]["method"] for row in rows):
        own = {row["case"]["volume"]: row for row in rows if row["case"]["method"] == method}
        if own.keys() != set(volumes):
            continue
        psnr, ssim, dice, seconds = (
            [own[name][key] for name in volumes] for key in ("psnr", "ssim", "dice", "seconds")
        )
        time = "instant" if max(seconds) < 5 else f"{min(seconds) / 60:.1f} to {max(seconds) / 60:.1f}"
        each = " | ".join(f"{value:.2f}" for value in psnr)
        means = f"{np.mean(psnr):.2f} | {np.mean(ssim):.3f} | {np.mean(dice):.3f}"
        lines.append(f"| `{method}` | {each} | {means} | {time} |")
    before, _, rest = readme.read_text().partition("<!-- results -->")
    _, _, after = rest.partition("<!-- /results -->")
    readme.write_text(before + "\n".join(["<!-- results -->", *lines, "<!-- /results -->"]) + after)


def write_panels(path: Path, rows: dict[str, dict[str, Any]], volumes: Path) -> None:
    """``path``_VOLUME.png: truth and methods side by side, XY above XZ, same contrast, where all are still at hand.

    Of other depths than n = 6, ``path``_VOLUME_n.png.
    """
    pictures: dict[tuple[str, int], dict[str, Path]] = {}
    for key, row in rows.items():
        if row["case"]["seed"] == 0:
            here = pictures.setdefault((row["case"]["volume"], row["case"]["slices"]), {})
            here[row["case"]["method"]] = volumes / f"{key}.npy"
    for (name, slices), methods in pictures.items():
        if not all(file.exists() for file in methods.values()):
            continue
        truth = protocol().prepare(tifffile.imread(SHARED / "data" / f"{name}.ome.tif"), slices)
        arrays: dict[str, NDArray[np.float32]] = {label: np.load(file) for label, file in methods.items()}
        tiles = [_tile(label, volume, truth) for label, volume in {"truth": truth, **arrays}.items()]
        depth = "" if slices == 6 else f"_{slices}"
        Image.fromarray(np.concatenate(tiles, 1)).save(f"{path}_{name}{depth}.png", optimize=True)


def _tile(label: str, volume: NDArray[np.float32], truth: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The slice two voxels off the middle (not a projection's centre), and the XZ plane of the brightest row."""
    row = int(truth.mean((0, 2)).argmax())
    gap = np.zeros((4, volume.shape[2]), np.float32)
    image = np.concatenate([volume[len(volume) // 2 + 2], gap, volume[:, row]])
    grey = Image.fromarray((np.clip(image, 0, 1) * 255).astype(np.uint8)).resize((256, 2 * len(image)))
    canvas = Image.new("L", (260, 2 * len(image) + 18))
    canvas.paste(grey, (2, 18))
    ImageDraw.Draw(canvas).text((4, 3), label, fill=255)
    return np.asarray(canvas)
