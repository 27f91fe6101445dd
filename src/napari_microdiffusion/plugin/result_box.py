"""Result: how good the volume is, and where to keep it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QGridLayout,
    QGroupBox,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QVBoxLayout,
)

from .known import Ran, ran_of
from .parts import combo_box, paragraph
from .trust_box import TrustBox

SCORES = {
    "psnr": (
        "PSNR",
        "{:.1f} dB",
        "How close the volume is to the ground truth, slice by slice: +6 dB halves the error; 30 is good",
    ),
    "ssim": ("SSIM", "{:.3f}", "How alike the structures look to the ground truth's: 1 is identical"),
    "dice": ("DICE", "{:.3f}", "How well bright structures overlap with the ground truth's: 1 is perfect"),
    "reprojection_max_error": (
        "Residual",
        "{:.2%}",
        "Largest difference between the volume, seen through the same beam, and the measured projections, in percent "
        "of the ground truth's intensity range (of the projections', where there is no truth): 0 % agrees exactly",
    ),
}
NO_TRUTH = "No ground truth: the residual only says how far the volume agrees with what was measured, noise included."
COVERED = "Of the true intensities, {:.0f} % lie in the 90 % interval{}: 90 % would be right."
BRIGHT = ", where the volume is bright {:.0f} %"
FLAGGED = " Where it is least certain, the squared error is {flagged_error_ratio:.1f} times that of the rest."


class ResultBox(QGroupBox):
    """Scores of the chosen result, and what can be done with it."""

    save = Signal()
    save_weights = Signal()
    reuse = Signal()
    side_by_side = Signal(bool)
    chosen = Signal()

    def __init__(self) -> None:
        super().__init__("4 · Result")
        self._results = combo_box()
        self._results.setToolTip("Which run's scores to show, and which volume to save")
        self._results.currentIndexChanged.connect(self.chosen)
        self._how = paragraph()
        self._how.setTextFormat(Qt.TextFormat.PlainText)  # it may hold a file's name
        self._results.currentIndexChanged.connect(self._tell)
        self._values: dict[str, QLabel] = {}
        self._note = paragraph()
        self.trust = TrustBox()
        self.grid = QCheckBox("Show layers side by side")
        self.grid.setChecked(True)
        self.grid.setToolTip("Projections, ground truth and results next to one another instead of on top")
        self.grid.toggled.connect(self.side_by_side)
        self._save = QPushButton("Save volume…")
        self._save.setToolTip("Save the volume as OME-TIFF or OME-Zarr, with its voxel size and how it was made")
        self._weights = QPushButton("Save network…")
        self._weights.setToolTip(
            "Save what the method has learned, to use it without training on further stacks of the same sample and "
            "microscope, such as time points: Load… under Method"
        )
        self._again = QPushButton("Use settings")
        self._again.setToolTip("Take over the beam, method and settings of this result, for the chosen image")
        self._again.clicked.connect(self.reuse)
        self._weights.clicked.connect(self.save_weights)
        self._save.clicked.connect(self.save)
        self._lay_out()
        self.show_scores({}, has_truth=True)
        self.offer({}, None)

    def offer(self, names: Mapping[str, str], chosen: str | None) -> None:
        """The results there are, each with how it was made, and the one to show."""
        with QSignalBlocker(self._results):
            self._results.clear()
            for row, (name, how) in enumerate((names or {"no result yet": ""}).items()):
                self._results.addItem(name)
                self._results.setItemData(row, how, Qt.ItemDataRole.ToolTipRole)
            self._results.setCurrentText(chosen or "")
        self._tell()
        self._results.setEnabled(bool(names))
        self._save.setEnabled(bool(names))
        self._again.setEnabled(False)
        self._weights.setEnabled(False)  # until it is known what the chosen one has learned

    def _tell(self) -> None:
        """How the chosen one was made."""
        self._how.setText(self._results.currentData(Qt.ItemDataRole.ToolTipRole) or "")
        self._how.setVisible(bool(self._how.text()))

    def current(self) -> str:
        """Name of the chosen result's layer."""
        return self._results.currentText() if self._results.isEnabled() else ""

    def show_scores(self, scores: dict[str, float], has_truth: bool, beware: str = "") -> None:
        """The figures there are, dashes for the others; what is to be known of them."""
        for key, label in self._values.items():
            label.setText(SCORES[key][1].format(scores[key]) if key in scores else "–")
        bright = BRIGHT.format(100 * scores["coverage_90_bright"]) if "coverage_90_bright" in scores else ""
        note = COVERED.format(100 * scores["coverage_90"], bright) if "coverage_90" in scores else ""
        note += FLAGGED.format(**scores) if "flagged_error_ratio" in scores else ""
        note = note if has_truth or not scores else NO_TRUTH
        self._note.setText(f"Beware: {beware}. {note}" if beware else note)
        self._note.setVisible(bool(self._note.text()))

    def show_known(self, known: dict[str, Any], has_job: bool) -> None:
        """The scores kept with a result's layer; whether its settings are known."""
        self._again.setEnabled(has_job)
        scores, ran = known.get("scores", {}), ran_of(known)
        self._weights.setEnabled(ran is not None and _worth_saving(ran))
        self.show_scores(scores, "psnr" in scores, known.get("beware", ""))

    def _lay_out(self) -> None:
        layout, scores, buttons = QVBoxLayout(self), QGridLayout(), QHBoxLayout()
        for column, (key, (title, _, tooltip)) in enumerate(SCORES.items()):
            head, value = QLabel(title), QLabel("–")
            value.setStyleSheet("font-weight: bold")
            for label, row in ((head, 0), (value, 1)):
                label.setAlignment(Qt.AlignmentFlag.AlignCenter)
                label.setToolTip(tooltip)
                scores.addWidget(label, row, column)
            self._values[key] = value
        for button in (self._save, self._weights, self._again):
            buttons.addWidget(button)
        layout.addWidget(self._results)
        layout.addWidget(self._how)
        layout.addLayout(scores)
        layout.addWidget(self._note)
        layout.addWidget(self.trust)
        layout.addWidget(self.grid)
        layout.addLayout(buttons)


def _worth_saving(ran: Ran) -> bool:
    """Whether a run has learned something to the end; what it merely took from a file is saved already."""
    return bool(ran.result.weights) and not ran.result.partial and (ran.trained is None or ran.job.method.refines)
