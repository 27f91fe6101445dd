"""PSNR, SSIM and DICE over n, or over a setting: one picture a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .case import Case
from .tables import Table, labels

AXES = {"slices": "slices per projection, n", "gamma": "share of the prior in the network's input, γ"}
SCORES = {"psnr": "PSNR (dB)", "ssim": "SSIM", "dice": "DICE"}
COLOURS = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999"
"""Of Okabe and Ito, a method each: told apart without seeing colours as most do. Volumes differ in style."""

MARKERS = "osv^Dx+*"
STYLES = "-", "--", ":", "-."

Points = dict[float, float]


def write_curves(path: Path, rows: list[dict[str, Any]], table: Table) -> None:
    """All scores side by side, a line for each method and volume."""
    from matplotlib.figure import Figure

    assert table.curve is not None
    figure = Figure(figsize=(15, 4.2), layout="constrained")
    for axes, (score, title) in zip(figure.subplots(1, len(SCORES)), SCORES.items(), strict=True):
        found = lines(rows, table.curve, score)
        methods, volumes = (list(dict.fromkeys(names)) for names in zip(*found, strict=True))
        for (method, volume), points in found.items():
            number = methods.index(method) % len(COLOURS)
            style = {"color": COLOURS[number], "marker": MARKERS[number], "markersize": 5}
            style["linestyle"] = STYLES[volumes.index(volume) % len(STYLES)]
            axes.plot(list(points), list(points.values()), label=_name(method, volume, methods, volumes), **style)
        axes.set(
            xlabel=AXES[table.curve], ylabel=title, xticks=sorted({x for points in found.values() for x in points})
        )
        axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", fontsize="small")
    figure.suptitle(table.title, fontsize="medium", wrap=True)
    figure.savefig(path, dpi=110)


def lines(rows: list[dict[str, Any]], over: str, score: str) -> dict[tuple[str, str], Points]:
    """The score at each place, from left to right, by method and volume; the mean where there are several seeds."""
    found: dict[tuple[str, str], dict[float, list[float]]] = {}
    cases = [Case.model_validate(row["case"]) for row in rows]
    bare = [
        case.model_copy(update={"settings": {key: value for key, value in case.settings.items() if key != over}})
        for case in cases
    ]
    for row, case, label in zip(rows, cases, labels(bare), strict=True):
        place = case.slices if over == "slices" else case.settings[over]
        found.setdefault((label, case.volume), {}).setdefault(place, []).append(row[score])
    return {name: {place: float(np.mean(points[place])) for place in sorted(points)} for name, points in found.items()}


def _name(method: str, volume: str, methods: list[str], volumes: list[str]) -> str:
    """Of a line: the volume alone where there is one method, the method alone where there is one volume."""
    if len(volumes) == 1:
        return method
    return volume if len(methods) == 1 else f"{method}, {volume}"
