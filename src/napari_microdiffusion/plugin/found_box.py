"""What a method found out about the stack by itself: the axial blur it chose, why, and the shape of the voxels."""

from __future__ import annotations

from typing import Any

import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QVBoxLayout, QWidget

from ..provenance import Findings, found_in
from .parts import paragraph

TOOLTIP = (
    "How much more blurred the sample is along z than across, beyond what each projection averages: a standard "
    "deviation, chosen so that projections hidden from the network are predicted best"
)
CURVE_TOOLTIP = (
    "How well hidden projections are predicted with each blur that was tried (higher is better; +6 dB halves the "
    "error). The filled point was chosen: the smallest blur that does about as well as the best (0.2 dB). Below the "
    "dashed line, plain interpolation would be better"
)


LEAST_DB = 1.0
"""What the axis spans at least: differences far below what the test can tell must not look large."""


class FoundBox(QWidget):
    """A line or two in words, and the score over the blurs that were tried; hidden where nothing was found."""

    def __init__(self) -> None:
        super().__init__()
        import pyqtgraph

        self._text = paragraph()
        self._text.setToolTip(TOOLTIP)
        self._text.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self._plot = pyqtgraph.PlotWidget(background=None)
        self._plot.setFixedHeight(130)
        self._plot.setToolTip(CURVE_TOOLTIP)
        self._plot.setMouseEnabled(False, False)
        self._plot.hideButtons()
        self._plot.setMenuEnabled(False)
        self._plot.setLabel("left", "PSNR (dB)")
        self._plot.setLabel("bottom", "axial blur σ (slices)")
        for side in ("left", "bottom"):
            self._plot.getAxis(side).enableAutoSIPrefix(False)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._text)
        layout.addWidget(self._plot)
        self.show_found(None)

    def show_found(self, provenance: dict[str, Any] | None, dz_um: float | None = None) -> None:
        """Show what is on record of a result.

        Parameters
        ----------
        provenance
            As `run` writes it; None or one without ``found`` hides the box.
        dz_um
            Distance of slices in µm, where it is known.
        """
        found = found_in(provenance)
        self.setVisible("sigma_slices" in found)
        if "sigma_slices" not in found:
            return
        self._text.setText(in_words(provenance or {}, dz_um))
        curve = found.get("sigma_curve", [])
        self._plot.setVisible(len(curve) > 1)
        self._draw(curve, found["sigma_slices"], found.get("interpolation_held_out_db"))

    def _draw(self, curve: list[list[float]], chosen: float, floor: float | None) -> None:
        from pyqtgraph import InfiniteLine, mkPen

        self._plot.clear()
        if len(curve) < 2:
            return
        sigmas, scores = zip(*curve, strict=True)
        line = mkPen("#3a8fd0", width=1.5)
        self._plot.plot(sigmas, scores, pen=line, symbol="o", symbolSize=5, symbolPen=line, symbolBrush=None)
        if sigmas[0] <= chosen <= sigmas[-1]:
            at = [chosen], [np.interp(chosen, sigmas, scores)]
            self._plot.plot(*at, pen=None, symbol="o", symbolSize=9, symbolPen=None, symbolBrush="#ffa726")
        shown = list(scores)
        if floor is not None:
            below = floor > max(scores)  # the name lies towards the curve, where there is room
            label = {"position": 0.98, "anchors": [(1, 0 if below else 1)] * 2, "color": "#808080"}
            pen = mkPen("#808080", style=Qt.PenStyle.DashLine)
            self._plot.addItem(InfiniteLine(floor, angle=0, pen=pen, label="interpolation", labelOpts=label))
            shown.append(floor)
        short = max(0.0, LEAST_DB - np.ptp(shown)) / 2
        self._plot.setYRange(min(shown) - short, max(shown) + short, padding=0.15)


def in_words(provenance: dict[str, Any], dz_um: float | None) -> str:
    """Blur, elongation, where they come from, voxels, strength; and plainly, if this is interpolation instead."""
    found = found_in(provenance)
    if found.get("fell_back") and not found.get("sigma_curve"):
        return "This is plain interpolation: there are too few projections to test a network on hidden ones."
    sigma, floor = found["sigma_slices"], found.get("interpolation_held_out_db")
    scores = [score for _, score in found.get("sigma_curve", [])]
    depth = "" if dz_um is None else f" ({sigma * dz_um:.2g} µm)"
    text = f"Axial blur {sigma:.2g} slices{depth} beyond the lateral one{_origin(provenance, bool(scores))}"
    if found.get("voxel_ratio") is not None:
        known = dz_um is not None or _set(provenance, "ratio") or _part(provenance, "job").get("weights")
        text += f" · voxels {'' if known else 'taken to be '}{found['voxel_ratio']:.2g} times as deep as wide"
    elongation = found.get("elongation", 1.0)
    if elongation != 1:
        text += f" · structures {elongation:.2g} times as long along z as across{_set(provenance, 'elongation')}"
    if found.get("strength") is not None and not found.get("fell_back"):
        text += f" · learned detail ×\u00a0{found['strength']:.1f}, as hidden projections ask"
    if not found.get("fell_back"):
        text += _allowed(found, sigma, elongation)
    if found.get("fell_back") and scores and floor is not None:
        text += (
            f"\nThis is plain interpolation: the network predicts hidden projections {_than(max(scores) - floor)} "
            f"({max(scores):.2f} dB against {floor:.2f} dB). The sample may look different along z than across, or "
            "training was too short."
        )
    return text


def _than(lead: float) -> str:
    return "worse" if round(lead, 2) < 0 else "no better"


def _allowed(found: Findings, sigma: float, elongation: float) -> str:
    """How much sharper than it was found the sample may be by the error bars; empty where they are for what was."""
    least, shortest = found.get("interval_sigma_slices"), found.get("interval_elongation")
    if shortest is not None and shortest < elongation:
        return f" · error bars for structures {shortest:.2g} times as long, as they may be shorter than was found"
    if least is not None and least < sigma:
        return f" · error bars for a blur of {least:.2g} slices, as it may be less than was found"
    return ""


def _origin(provenance: dict[str, Any], tried: bool) -> str:
    """Where the blur comes from, if not from hidden projections of this very stack."""
    if stated := _set(provenance, "sigma"):
        return stated
    if _finder(provenance).get("objective_na") is not None:
        return ", from the objective"
    return "" if tried else ", a usual value: there are too few projections to choose it"


def _set(provenance: dict[str, Any], setting: str) -> str:
    """Said of a value that was not found, but set."""
    return "" if _finder(provenance).get(setting) is None else ", as set"


def _finder(provenance: dict[str, Any]) -> dict[str, Any]:
    """The settings of the method that found the blur: perhaps the prior's."""
    method = _part(_part(provenance, "job"), "method")
    return _part(method, "prior") or method


def _part(record: dict[str, Any], key: str) -> dict[str, Any]:
    """A part of a record, which is a file's and may say anything; empty where it is no such part."""
    part = record.get(key)
    return part if isinstance(part, dict) else {}
