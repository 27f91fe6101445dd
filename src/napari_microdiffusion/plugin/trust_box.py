"""How far to trust a result: the verdict in words, maps of where it is uncertain, a score without ground truth."""

from __future__ import annotations

import html
import re

from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import QCheckBox, QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from .found_box import FoundBox
from .maps import INTERVAL, MAPS, UNCERTAINTY
from .parts import paragraph

NO_MAP = "This result does not say how certain it is; the verdict tells why. The method axial does, where it can"
NO_RUN = "Only for results of this session: run the method first"
MOVIE = "Not shown for a movie: open the volume of a single time point"
MOVIE_RUN = "Not for a movie: choose a time point and press Run"
TOO_FEW = "Only with four projections or more: one is hidden, and the others must still make a stack"
SCORE_TOOLTIP = (
    "Hide projections in turn, reconstruct from the others, and see how well the hidden ones are predicted. "
    "It needs no ground truth. Methods that train take about four times as long as a run; Stop works. "
    "In dB: higher is better, and +6 dB halves the error; a difference below 1 dB means little"
)


class TrustBox(QWidget):
    """What a result is worth, and what can be asked of it."""

    score = Signal()
    toggled = Signal(str, bool)  # kind of map, whether to show it

    def __init__(self) -> None:
        super().__init__()
        self._verdict, self._score_text = paragraph(), paragraph()
        for text in (self._verdict, self._score_text):
            text.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.found = FoundBox()
        self._button = QPushButton("Score without truth")
        self._button.clicked.connect(self.score)
        self._score_text.setToolTip(SCORE_TOOLTIP)
        self._maps = {kind: QCheckBox(name) for kind, (name, _) in MAPS.items()}
        for kind, box in self._maps.items():
            box.toggled.connect(lambda on, kind=kind: self.toggled.emit(kind, on))
        self._lay_out()
        self.show_verdict("")
        self.show_maps(set(), set())
        self.show_score("", possible=False)

    def show_verdict(self, text: str) -> None:
        """The paragraph; hidden where there is none."""
        self._verdict.setText(in_bold(text))
        self._verdict.setVisible(bool(text))

    def show_maps(self, possible: set[str], on: set[str], lacking: str = NO_RUN, never: str = NO_RUN) -> None:
        """Which maps there can be, and which are shown; why there is no uncertainty, and why no residual."""
        for kind, box in self._maps.items():
            with QSignalBlocker(box):
                box.setChecked(kind in on)
            box.setEnabled(kind in possible)
            reason = lacking if kind in (UNCERTAINTY, INTERVAL) else never
            box.setToolTip(MAPS[kind][1] if kind in possible else reason)

    def show_score(self, text: str, possible: bool, never: str = "") -> None:
        """What the score was, and whether one can be made now; or never, and why."""
        self._score_text.setText(text)
        self._button.setEnabled(possible and not never)
        self._button.setToolTip(never or SCORE_TOOLTIP)

    def _lay_out(self) -> None:
        layout, maps, score = QVBoxLayout(self), QHBoxLayout(), QHBoxLayout()
        layout.setContentsMargins(0, 0, 0, 0)
        maps.addWidget(QLabel("Show"))
        for box in self._maps.values():
            maps.addWidget(box)
        maps.addStretch(1)
        score.addWidget(self._button)
        score.addWidget(self._score_text, 1)
        layout.addWidget(self._verdict)
        layout.addWidget(self.found)
        layout.addLayout(score)
        layout.addLayout(maps)


def in_bold(verdict: str) -> str:
    """The verdict as rich text: the word or two that begin its parts in bold, and no unit parted from its number."""
    parts = r"(Unfinished|Beware|Measured|Inferred|How sure|What would help):"
    text = re.sub(parts, r"<b>\1:</b>", html.escape(verdict, quote=False))
    return re.sub(r"(\d) (%|µm|dB)", r"\1&nbsp;\2", text)
