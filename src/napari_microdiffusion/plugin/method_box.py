"""Method: which one, which preset, where it runs, and the settings for those who want them."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtGui import QStandardItemModel
from qtpy.QtWidgets import QFormLayout, QGroupBox, QLabel, QPushButton, QSizePolicy, QSpinBox

from ..descriptions import DESCRIPTIONS
from ..events import EngineError
from ..presets import PRESETS, spec
from .advanced import AdvancedSettings
from .base import Bases
from .base_box import BaseBox
from .model import PRESET_HINTS, Setup, choices_of
from .parts import combo_box, paragraph, side_by_side, unscrolled

if TYPE_CHECKING:
    from ..acquisition import Acquisition
    from ..methods import Method

DEVICES = {
    "auto": "automatic (GPU if there is one)",
    "cpu": "processor (CPU)",
    "cuda": "NVIDIA GPU (CUDA)",
    "mps": "Apple GPU (MPS)",
}
LOAD = (
    "Use a network that was trained before and saved with “Save network…”, instead of training. Axial "
    "super-resolution means it for further stacks of the same sample and microscope: time points, fields of view"
)
FORGET = "Leave the trained network out, and train one on the chosen stack"


class MethodBox(QGroupBox):
    """The part of the setup that says how."""

    changed = Signal()
    load = Signal()  # a trained network is to be chosen

    def __init__(self, bases: Bases) -> None:
        super().__init__("2 · Method")
        self._bases = bases
        self._method, self._preset, self._device = combo_box(), combo_box(), combo_box()
        self._seed = QSpinBox()
        unscrolled(self._seed)
        for name, description in DESCRIPTIONS.items():
            self._method.addItem(description.title, name)
        self.offer_methods(Setup().acquisition)
        for name in PRESETS:
            self._preset.addItem(f"{name}: {PRESET_HINTS.get(name, '')}".removesuffix(": "), name)
        for name in ("auto", "cpu", "mps" if sys.platform == "darwin" else "cuda"):
            self._device.addItem(DEVICES[name], name)
        self._seed.setRange(0, 2**31 - 1)
        self._method.setToolTip("How the volume is computed")
        self._preset.setToolTip("How much effort: a set of values for all the settings below")
        self._device.setToolTip("Where the computation runs")
        self._seed.setToolTip("Start of the random numbers: the same seed gives the same volume again")
        self._hint = paragraph()
        self._weights: Path | None = None
        self._loaded: dict[str, dict[str, Any]] = {}
        """Of each method the network that was loaded last: its file, and the settings it was trained with."""
        self._network, self._network_button = QLabel(), QPushButton()
        self._network.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self._network_button.clicked.connect(self._load_or_forget)
        self._network_row = side_by_side(self._network, self._network_button)
        self.base = BaseBox()
        self.advanced = AdvancedSettings()
        self._lay_out()
        self.set_value(Setup())

    def value(self) -> dict[str, Any]:
        """The fields of the setup that are edited here."""
        return {
            "method": self._method.currentData(),
            "preset": self._preset.currentData(),
            "overrides": self.advanced.overrides(),
            "weights": self._weights,
            "seed": self._seed.value(),
            "device": self._device.currentData(),
        }

    def set_value(self, setup: Setup) -> None:
        """Show a setup without saying that it changed."""
        for combo, name in ((self._method, setup.method), (self._preset, setup.preset), (self._device, setup.device)):
            with QSignalBlocker(combo):
                if combo.findData(name) < 0:
                    combo.addItem(DEVICES.get(name, name), name)
                combo.setCurrentIndex(combo.findData(name))
        with QSignalBlocker(self._seed):
            self._seed.setValue(setup.seed)
        self._weights = setup.weights
        if setup.weights is not None:
            self._loaded[setup.method] = setup.model_dump(include={"preset", "overrides", "weights"})
        self._show_settings(setup.overrides)

    def offer_methods(self, acquisition: Acquisition) -> None:
        """Grey out the methods that cannot work on such projections; their tooltips say why."""
        model = self._method.model()
        assert isinstance(model, QStandardItemModel)
        for row in range(self._method.count()):
            name = self._method.itemData(row)
            reason = _default(name).unsuited(acquisition)
            model.item(row).setEnabled(reason is None)
            text = DESCRIPTIONS[name].text if reason is None else f"Not for these projections: it {reason}"
            self._method.setItemData(row, text, Qt.ItemDataRole.ToolTipRole)

    def _lay_out(self) -> None:
        form = QFormLayout(self)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        for text, widget in (("Method", self._method), ("Effort", self._preset)):
            form.addRow(text, widget)
            if widget is self._method:
                form.addRow(self._hint)
        form.addRow("Network", self._network_row)
        form.addRow(self.base)
        form.addRow("Computed on", self._device)
        form.addRow("Seed", self._seed)
        form.addRow(self.advanced)
        self._form = form
        self._method.currentIndexChanged.connect(self._method_chosen)
        self._preset.currentIndexChanged.connect(self._chosen)
        self.base.opened.connect(self._unlock)
        self._device.currentIndexChanged.connect(self.changed)
        self._seed.valueChanged.connect(self.changed)
        self.advanced.changed.connect(self.changed)

    def _method_chosen(self) -> None:
        """Another method: if it has a base model or a network at hand, with that one's effort."""
        choices = self._at_hand()
        if choices:
            with QSignalBlocker(self._preset):
                self._preset.setCurrentIndex(self._preset.findData(choices["preset"]))
        self._chosen()

    def _chosen(self) -> None:
        """Another method or effort: the network belonged to the one before, but what is at hand may fit."""
        choices = self._at_hand()
        if choices.get("preset") != self._preset.currentData():
            choices = {}
        self._weights = choices.get("weights")
        self._show_settings(choices.get("overrides", {}))
        self.changed.emit()

    def _at_hand(self) -> dict[str, Any]:
        """What the base model or network at hand of the chosen method was trained with; empty where there is none."""
        method = self._method.currentData()
        kept = self._bases.of(method)
        return self._loaded.get(method, {}) if kept is None else choices_of(kept.trained.method)

    def _unlock(self, training: bool) -> None:
        """While a base model is to be trained, everything can be set; afterwards the one at hand counts again."""
        if self._at_hand() and not training:
            self._method_chosen()
        else:
            self._show_settings(self.advanced.overrides())
            self.changed.emit()

    def _load_or_forget(self) -> None:
        if self._weights is None:
            self.load.emit()
            return
        self._weights = None
        self._loaded.pop(self._method.currentData(), None)
        self._show_settings(self.advanced.overrides())
        self.changed.emit()

    def _show_network(self) -> None:
        """Where the network comes from, and the button for the other way."""
        loaded = self._weights is not None
        self._network.setText(self._weights.name if self._weights else "trained on this stack")
        self._network.setToolTip(str(self._weights) if self._weights else "The method learns from the chosen stack")
        self._network_button.setText("Train anew" if loaded else "Load…")
        self._network_button.setToolTip(FORGET if loaded else LOAD)

    def _show_settings(self, overrides: dict[str, Any]) -> None:
        self._hint.setText(DESCRIPTIONS[self._method.currentData()].text)
        preset = spec(self._method.currentData(), self._preset.currentData())
        for widget in (self._preset, self._device, self._seed):
            self._form.setRowVisible(widget, preset.learned)  # an interpolation has no use for them
        self._form.setRowVisible(self._network_row, preset.learned and not preset.pretrained)
        self._form.setRowVisible(self.base, preset.pretrained)
        self._show_network()
        fixed = self._weights is not None
        if preset.pretrained:
            fixed = self._take_base(overrides) and not self.base.open
        self.advanced.set_method(self._method.currentData(), self._preset.currentData(), overrides, fixed)

    def _take_base(self, overrides: dict[str, Any]) -> bool:
        """Whether there is a base model for these settings; its file becomes the setup's."""
        try:
            kept = self._bases.fitting(spec(self._method.currentData(), self._preset.currentData(), overrides))
        except EngineError:
            return False  # it is told elsewhere
        if kept is not None and self._weights is None:
            self._weights = kept.path
        return kept is not None or self._weights is not None


@cache
def _default(name: str) -> Method:
    """A method as it is by default, to be asked which projections suit it."""
    return spec(name)
