"""The microscope's part of the data: slices, stride, beam profile, voxel size."""

from __future__ import annotations

import re
from pathlib import Path

from napari.utils.notifications import show_error, show_info
from pydantic import ValidationError
from qtpy.QtCore import QLocale, QSignalBlocker, Signal
from qtpy.QtGui import QDoubleValidator, QValidator
from qtpy.QtWidgets import (
    QDoubleSpinBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QSizePolicy,
    QSpinBox,
    QWidget,
)

from ..acquisition import Acquisition
from ..events import InvalidInput
from ..presets import explain
from .layers import Triple
from .parts import combo_box, tint, unscrolled

THOUSANDS = re.compile(r"[1-9]\d{0,2}(,\d{3})+")

PROFILES = {
    "uniform": ("uniform", "Every slice counts the same: a Bessel beam of even brightness"),
    "gaussian": ("Gaussian", "Bright in the middle, fading to both ends"),
    "point": ("point (thin slices)", "Each image is one thin slice, those between were skipped"),
    "measured": ("measured, from a file…", "Weights from a CSV or text file, one number per slice"),
}


class BeamForm(QWidget):
    """Edits an acquisition that is not bound to a number of projections. Its rows join another form."""

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._weights: tuple[float, ...] | None = None
        self._shown = "uniform"
        self._before: int | None = None  # slices, until a file of weights said how many
        self.slices = _spin(1, 1000, "How many slices of the volume one projection stands for (n, the step length)")
        self.stride = _spin(
            0, 10000, "Slices from one projection's start to the next. Larger than the slices above: gaps"
        )
        self.stride.setSpecialValueText("same as slices")
        self.profile = combo_box()
        for key, (text, hint) in PROFILES.items():
            self.profile.addItem(text, key)
            self.profile.setItemData(self.profile.count() - 1, hint, 3)  # Qt.ToolTipRole
        self.profile.setToolTip("Brightness of the beam along its length")
        self.fwhm = QDoubleSpinBox()
        self.fwhm.setRange(0, 10000)
        self.fwhm.setDecimals(2)
        self.fwhm.setSpecialValueText("same as slices")
        self.fwhm.setSuffix(" slices")
        self.fwhm.setToolTip("Full width at half maximum of the beam, in slices")
        self.slices.valueChanged.connect(self.changed)
        self.stride.valueChanged.connect(self.changed)
        self.fwhm.valueChanged.connect(self.changed)
        self.profile.activated.connect(self._profile_chosen)
        for widget in (self.slices, self.stride, self.fwhm):
            unscrolled(widget)

    def add_rows(self, form: QFormLayout) -> None:
        """Put the rows into a form."""
        self._form = form
        form.addRow("Slices per projection", self.slices)
        form.addRow("Stride", self.stride)
        form.addRow("Beam profile", self.profile)
        form.addRow("Beam width (FWHM)", self.fwhm)
        self.set_value(Acquisition())

    def value(self) -> Acquisition:
        """The acquisition; always a valid one."""
        return Acquisition(
            slices=self.slices.value(),
            stride=self.stride.value() or None,
            profile=self._shown,
            fwhm=self._width() if self._shown == "gaussian" else None,
            weights=self._weights if self._shown == "measured" else None,
        )

    def set_value(self, acquisition: Acquisition) -> None:
        """Show an acquisition without saying that it changed."""
        self._weights, self._shown, self._before = acquisition.weights, acquisition.profile, None
        with QSignalBlocker(self.slices), QSignalBlocker(self.stride), QSignalBlocker(self.fwhm):
            self.slices.setValue(acquisition.slices)
            self.stride.setValue(acquisition.stride or 0)
            self.fwhm.setValue(acquisition.fwhm or 0)
            self._fwhm = self.fwhm.value(), acquisition.fwhm
        self._show()

    def _width(self) -> float | None:
        """The FWHM as it was set, until it is edited: what is shown is rounded."""
        shown, exact = self._fwhm
        width = self.fwhm.value()
        return exact if width == shown else max(0.1, width) if width else None

    def take_profile(self, path: Path) -> None:
        """Measured weights from a file; their number is that of the slices.

        Raises
        ------
        InvalidInput
            If the file holds no usable weights.
        """
        from ..io import read_profile

        weights = read_profile(path)
        before = self.slices.value() if self._before is None else self._before
        values = {"slices": len(weights), "stride": self.stride.value() or None, "profile": "measured"}
        try:
            measured = Acquisition.model_validate({**values, "weights": weights})
        except ValidationError as error:
            raise InvalidInput(f"the profile {path.name} cannot be used: {explain(error)}") from error
        self.set_value(measured)
        self._before = before
        self.changed.emit()
        if len(weights) != before:
            many = f"{len(weights)} weights" if len(weights) > 1 else "one weight"
            show_info(f"{path.name} holds {many}, and slices per projection are now {len(weights)}")

    def _profile_chosen(self) -> None:
        wanted = self.profile.currentData()
        if wanted != "measured":
            self._shown = wanted
            if self._before is not None:
                with QSignalBlocker(self.slices):
                    self.slices.setValue(self._before)
                self._before = None
        else:
            name, _ = QFileDialog.getOpenFileName(
                self, "Measured beam profile", "", "Numbers (*.csv *.txt);;All files (*)"
            )
            try:
                if name:
                    self.take_profile(Path(name))
            except InvalidInput as error:
                show_error(str(error))
        self._show()
        self.changed.emit()

    def _show(self) -> None:
        self.profile.setCurrentIndex(self.profile.findData(self._shown))
        self.slices.setEnabled(self._shown != "measured")
        self._form.setRowVisible(self.fwhm, self._shown == "gaussian")


class VoxelSize(QWidget):
    """Voxel size (z, y, x) in µm; empty is not stated, and `edited` says whether people typed it."""

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.edited = False
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._lines = [QLineEdit() for _ in "zyx"]
        numbers = _Sizes(1e-6, 1e6, 9)
        plain = QLocale.c()
        plain.setNumberOptions(QLocale.NumberOption.RejectGroupSeparator)  # 1,000 would pass, and float() refuse it
        numbers.setLocale(plain)
        for line, axis in zip(self._lines, "zyx", strict=True):
            line.setValidator(numbers)
            line.setMinimumWidth(40)
            line.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
            line.setPlaceholderText("?")
            line.setToolTip(f"Size of a voxel of the volume along {axis} in µm; filled in where the file states it")
            line.textEdited.connect(self._typed)
            line.editingFinished.connect(lambda line=line: line.setCursorPosition(0))  # cut off are its last digits
            layout.addWidget(line, 1)
        layout.addWidget(QLabel("µm"))
        self.set_value(None)

    def value(self) -> Triple | None:
        """The voxel size, None unless all three are stated."""
        if self._texts() == self._shown_texts:
            return self._exact
        if not all(line.hasAcceptableInput() for line in self._lines):
            return None
        z, y, x = (float(line.text().replace(",", ".")) for line in self._lines)
        return z, y, x

    def set_value(self, scale_um: Triple | None) -> None:
        """Show a voxel size without saying that it changed."""
        for line, size in zip(self._lines, scale_um or (None,) * 3, strict=True):
            line.setText("" if size is None else f"{size:.6g}")
            line.setCursorPosition(0)
        self._mark()
        self._exact, self._shown_texts = scale_um, self._texts()  # what is shown is rounded

    def _texts(self) -> list[str]:
        return [line.text() for line in self._lines]

    def forget(self) -> None:
        """Follow the layer again."""
        self.edited = False

    def _typed(self) -> None:
        self.edited = True
        self._mark()
        self.changed.emit()

    def _mark(self) -> None:
        """In red what is no size: it counts as not stated."""
        for line in self._lines:
            tint(line, "wrong" if line.text() and not line.hasAcceptableInput() else "")


class _Sizes(QDoubleValidator):
    """Takes a comma for a point, as 2,5 would become 25 without it; but not where it may group thousands."""

    def validate(self, text: str, place: int) -> object:
        if ("," in text and "." in text) or THOUSANDS.fullmatch(text):
            return QValidator.State.Intermediate, text, place
        return super().validate(text.replace(",", "."), place)[0], text, place  # type: ignore[index]


def _spin(low: int, high: int, tooltip: str) -> QSpinBox:
    spin = QSpinBox()
    spin.setRange(low, high)
    spin.setToolTip(tooltip)
    return spin
