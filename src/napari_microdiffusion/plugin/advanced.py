"""Advanced settings: a form made from a method's fields, folded away until somebody wants it."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any, cast

from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFormLayout,
    QLabel,
    QLayout,
    QLineEdit,
    QPushButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)
from superqt import QCollapsible

from ..events import InvalidInput
from ..presets import adjusted, parse_value, spec
from ..settings import Setting, settings_of
from .parts import combo_box, tint, unscrolled

DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+")

GROUPS = {"prior": "First guess (prior)"}
LABELS = {
    "bandwidth_z": "Finest detail in z",
    "bandwidth_xy": "Finest detail in xy",
    "beta_start": "First noise variance",
    "beta_end": "Last noise variance",
    "condition": "Condition enters by",
    "injection": "Prior enters by",
    "prior_training": "Training of the prior",
    "p_uncond": "Condition dropout",
    "gamma": "Share of the prior, γ",
    "timesteps": "Noise levels",
    "sigma": "Axial blur σ (slices)",
    "elongation": "Elongation along z",
    "ratio": "Voxel depth / width",
    "objective_na": "Objective's NA",
    "wavelength_nm": "Wavelength (nm)",
    "refractive_index": "Refractive index",
    "hiding": "Share with hidden proj.",
    "largest_sigma": "Largest σ tried (slices)",
    "fine_tuning": "Fine-tuning steps",
    "inputs": "Projections for each slice",
    "residual": "Add to interpolation",
    "structure": "Weight of structure",
    "blur": "Blur in training (slices)",
    "noise": "Noise in training",
    "parameterisation": "Network predicts",
    "further": "Further images each side",
    "multipliers": "Channel multiples",
    "fold": "Pixels taken as one",
    "turning": "Share turned sideways",
    "emphasis": "Share at full noise",
    "places": "Slices counted from",
    "align": "Fit to own images",
    "align_among": "Fitted among",
    "align_tested": "Keep fit only if better",
    "align_share": "Share of the fit taken",
    "align_rate": "Learning rate of the fit",
    "align_passes": "Passes of the fit",
}
EMPTY = {"objective_na": "not given"}
"""What an empty field stands for, where it is not that the method finds the value."""

TITLE = "Advanced settings"
FIXED, IDLE = "Fixed by the training of the network in use", "Does nothing with the other settings as they are"


class AdvancedSettings(QCollapsible):
    """Edits a method's settings; what differs from the preset are the overrides."""

    changed = Signal()

    def __init__(self) -> None:
        super().__init__(TITLE, expandedIcon="▾", collapsedIcon="▸")
        self.setDuration(0)
        self.toggled.connect(self._show_open)
        self.setToolTip("Everything the method can be told. The preset's values are a good start.")
        _layout(self).setContentsMargins(0, 0, 0, 0)
        self._editors: dict[str, Editor] = {}
        self._tooltips: dict[str, str] = {}
        self._start = spec("conservative")
        self._preset: dict[str, Any] = {}
        self._fixed: set[str] = set()
        self._form = QWidget()
        self.addWidget(self._form)
        self._show_open(False)

    def set_method(self, name: str, preset: str, overrides: dict[str, Any], fixed: bool = False) -> None:
        """Show the settings of a method: the preset's values with overrides on top.

        ``fixed``: the network is trained already, so that only settings that need no training can be changed.
        """
        found = settings_of(name)
        self._start = spec(name, preset)
        self._preset = {setting.path: setting.values[preset] for setting in found}
        _layout(self.content()).removeWidget(self._form)
        self._form.setParent(None)
        self._form.deleteLater()
        self._form = self._filled(found, preset)
        self.addWidget(self._form)
        self._order_tabs()
        for path, value in overrides.items():
            if path in self._editors:
                self._editors[path].set_value(value)
        self._fixed = {setting.path for setting in found if fixed and not setting.sampling}
        self._grey_out()
        self.setVisible(bool(found))

    def overrides(self) -> dict[str, Any]:
        """Dotted settings that differ from the preset and do something."""
        idle = self._idle()
        return {path: value for path, value in self._differing().items() if path not in idle}

    def _differing(self) -> dict[str, Any]:
        now = {path: editor.value() for path, editor in self._editors.items()}
        return {path: value for path, value in now.items() if not _same(value, self._preset[path])}

    def _idle(self) -> frozenset[str]:
        """What does nothing with the others as they are; not known while one of them is wrong, as is told elsewhere."""
        try:
            return adjusted(self._start, self._differing()).idle
        except InvalidInput:
            return frozenset()

    def _show_open(self, on: bool) -> None:
        """Folded up it takes no keys, either."""
        self.content().setVisible(on)

    def _order_tabs(self) -> None:
        """Tab goes through the fields where they are, though they are younger than what is below."""
        fields = [editor.field for editor in self._editors.values()]
        for before, after in pairwise([self.toggleButton(), *fields, self._back]):
            QWidget.setTabOrder(before, after)

    def _grey_out(self) -> None:
        """Settings that cannot be changed, or do nothing; and how many differ from the preset's, also when folded."""
        idle, changed = self._idle(), len(self.overrides())
        self.setText(f"{TITLE} ({changed} changed)" if changed else TITLE)
        for path, editor in self._editors.items():
            reason = FIXED if path in self._fixed else IDLE if path in idle else ""
            editor.setEnabled(not reason)
            editor.setToolTip(reason or self._tooltips[path])
            editor.mark(self._wrong(path))

    def _wrong(self, path: str) -> bool:
        """Whether a value by itself is refused."""
        value = self._editors[path].value()
        if _same(value, self._preset[path]):
            return False
        try:
            adjusted(self._start, {path: value})
        except InvalidInput as error:
            return path in str(error)  # else it is that two values do not go together
        return False

    def _edited(self) -> None:
        self._grey_out()
        self.changed.emit()

    def _filled(self, found: tuple[Setting, ...], preset: str) -> QWidget:
        form = QWidget()
        layout = QFormLayout(form)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        self._editors, group = {}, ""
        for setting in found:
            if (part := setting.path.rpartition(".")[0]) != group:
                group = part
                layout.addRow(QLabel(f"<b>{GROUPS.get(group, group.capitalize())}</b>"))
            editor = self._editors[setting.path] = Editor(setting, setting.values[preset])
            editor.changed.connect(self._edited)
            label = QLabel(label_of(setting))
            label.setToolTip(tooltip_of(setting, preset))
            self._tooltips[setting.path] = label.toolTip()
            layout.addRow(label, editor)
        back = QPushButton("Back to the preset's values")
        back.setToolTip("Undo all changes of these settings")
        back.clicked.connect(self._reset)
        layout.addRow(back)
        self._back = back
        return form

    def _reset(self) -> None:
        for path, editor in self._editors.items():
            if path not in self._fixed:
                editor.set_value(self._preset[path])
        self._edited()


class Editor(QWidget):
    """One setting's editor, chosen by its kind."""

    changed = Signal()

    def __init__(self, setting: Setting, value: Any) -> None:
        super().__init__()
        self._setting = setting
        makers = {"choice": self._choice, "boolean": self._switch, "integer": self._integer}
        self._inner: Any = makers.get(setting.type, self._line)()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._inner)
        self.set_value(value)

    def value(self) -> Any:
        """The setting as a plain value; texts that are no JSON stay texts, for the engine to refuse by name."""
        match self._inner:
            case QComboBox():
                return self._inner.currentData()
            case QCheckBox():
                return self._inner.isChecked()
            case QSpinBox():
                unused = self._setting.optional and self._inner.value() == self._inner.minimum()
                return None if unused else self._inner.value()
            case _:
                text = self._inner.text().strip()
                text = text.replace(",", ".") if DECIMAL_COMMA.fullmatch(text) else text
                return parse_value(text) if text else None

    @property
    def field(self) -> QWidget:
        """What takes the keys."""
        return cast(QWidget, self._inner)

    def mark(self, wrong: bool) -> None:
        """Whether the value is refused."""
        tint(self._inner, "wrong" if wrong else "")

    def set_value(self, value: Any) -> None:
        """Show a value without saying that it changed."""
        with QSignalBlocker(self._inner):
            match self._inner:
                case QComboBox():
                    self._inner.setCurrentIndex(self._inner.findData(value))
                case QCheckBox():
                    self._inner.setChecked(bool(value))
                case QSpinBox():
                    self._inner.setValue(self._inner.minimum() if value is None else int(value))
                case _:
                    self._inner.setText(_as_text(value))

    def _choice(self) -> QWidget:
        combo = combo_box()
        for choice in self._setting.choices:
            combo.addItem(str(choice), choice)
        combo.currentIndexChanged.connect(self.changed)
        return combo

    def _switch(self) -> QWidget:
        box = QCheckBox()
        box.toggled.connect(self.changed)
        return box

    def _integer(self) -> QWidget:
        spin = QSpinBox()
        limits = self._setting.limits
        low, high = int(limits.get("ge", 0)), int(min(limits.get("le", 2**31 - 1), 2**31 - 1))
        if self._setting.optional:
            low -= 1
            spin.setSpecialValueText("not used")
        spin.setRange(low, high)
        spin.setSingleStep(int(limits.get("multiple_of", 1)))
        spin.setKeyboardTracking(False)
        spin.valueChanged.connect(self.changed)
        return unscrolled(spin)

    def _line(self) -> QWidget:
        line = QLineEdit()
        if self._setting.optional:
            line.setPlaceholderText(EMPTY.get(self._setting.path.rpartition(".")[2], "automatic"))
        line.editingFinished.connect(self.changed)
        return line


def label_of(setting: Setting) -> str:
    """``Learning rate`` for ``prior.learning_rate``."""
    name = setting.path.rpartition(".")[2]
    return LABELS.get(name, name.replace("_", " ").capitalize())


def tooltip_of(setting: Setting, preset: str) -> str:
    """Meaning, range, and where the preset's value comes from."""
    text = setting.description[:1].upper() + setting.description[1:]
    if setting.range:
        text += f".\nRange: {setting.range}" + (", or empty" if setting.optional else "")
    if preset in setting.sources:
        text += f".\nThis preset's value is {setting.origin(preset)}"
    return text


def _layout(widget: QWidget) -> QLayout:
    layout = widget.layout()
    assert layout is not None
    return layout


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return str(list(value))
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{value:g}"
    return str(value)  # with all its digits: what is shown is what is used


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return list(one) == list(other)
    return bool(one == other)
