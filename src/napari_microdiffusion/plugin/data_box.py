"""Data: which layer, how it was acquired, its voxel size, what to compare with."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QFileDialog,
    QFormLayout,
    QGroupBox,
    QLineEdit,
    QPushButton,
)

from ..events import InvalidInput
from ..provenance import was_reconstructed
from .beam import BeamForm, VoxelSize
from .known import facts, opened
from .layers import Triple, extra_axes, header, known_acquisition, spacing_um
from .live import looked_at
from .model import Setup
from .parts import alive, combo_box, hinted, offer, paragraph, side_by_side

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

READABLE = "Images (*.tif *.tiff *.npy *.zarr);;All files (*)"


class DataBox(QGroupBox):
    """The part of the setup that says what is measured."""

    changed = Signal()
    opened = Signal(object)  # Path

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__("1 · Data")
        self._viewer = viewer
        self._busy, self._lost = False, False
        self._held: tuple[Callable[[], Image | None], ...] = (_reference(None), _reference(None))
        self._source, self._truth = combo_box(), combo_box()
        hinted(self._source, "The layer with your projections, one image per beam position")
        hinted(self._truth, "A fully sampled volume of the same sample, if you have one: it is only used for scores")
        self._simulate = QCheckBox("This is a full volume: simulate projections from it")
        self._simulate.setToolTip(
            "Tick this if the layer is an ordinary z-stack. Projections are computed from it as a microscope would "
            "take them, and the stack serves as ground truth."
        )
        self._channel, self._time = combo_box(), combo_box()
        self._time.setToolTip("The time point to reconstruct, counted from 0; for all of them see below Run")
        self._leave_out = QLineEdit()
        self._leave_out.setPlaceholderText("none")
        self._leave_out.setToolTip(
            "Projections that are blank, saturated or otherwise spoilt, by their numbers, counted from 1 (the slider "
            "below the image counts from 0): 3 or 3, 7-9. What they would have shown is inferred from their neighbours."
        )
        self._denoise = QCheckBox("Denoise the projections first")
        self._denoise.setToolTip(
            "For few photons or a noisy camera. Noise that the projections hold is in every volume that reproduces "
            "them. This smooths it away, and with it detail as faint or as fine: small bright spots and thin fibres "
            "become dimmer. To see whether it helps, run Conservative interpolation once with and once without it, and "
            "compare both results by Score without truth."
        )
        self.beam, self.voxel = BeamForm(), VoxelSize()
        self._heeded: weakref.WeakSet[Image] = weakref.WeakSet()
        self._rescaled = self._then(self._fill_voxel)
        self._form = self._laid_out()
        self._connect()
        self.refresh()

    # -- the model ---------------------------------------------------------------------------

    def value(self) -> dict[str, Any]:
        """The fields of the setup that are edited here."""
        return {
            "source": self._source.currentText(),
            "channel": self._channel.currentData(),
            "time": self._time.currentData(),
            "simulate": self._simulate.isChecked(),
            "truth": "" if self._simulate.isChecked() else str(self._truth.currentData() or ""),
            "acquisition": self.beam.value(),
            "leave_out": "" if self._simulate.isChecked() else self._leave_out.text().strip(),
            "denoise": self._denoise.isChecked(),
            "scale_um": self.voxel.value(),
        }

    def set_value(self, setup: Setup) -> None:
        """Show a setup without saying that it changed."""
        with _Quiet(self):
            self._source.setCurrentText(setup.source)
            if (layer := self.source()) is not None:
                self._heed(layer)
            self._offer_axes()
            self._simulate.setChecked(setup.simulate)
            self._truth.setCurrentIndex(max(0, self._truth.findData(setup.truth)))
            for combo, index in ((self._channel, setup.channel), (self._time, setup.time)):
                combo.setCurrentIndex(max(0, index or 0) if combo.count() else -1)
            self.beam.set_value(setup.acquisition)
            self._leave_out.setText(setup.leave_out)
            self._denoise.setChecked(setup.denoise)
            self.voxel.set_value(setup.scale_um)
            self.voxel.edited = setup.scale_um != self._stated()
            self._show_own_rows()
            self._hold()

    def source(self) -> Image | None:
        """The chosen layer."""
        return self._layer(self._source.currentText())

    @property
    def usable(self) -> bool:
        """Whether a layer is chosen that can be reconstructed, or simulated from."""
        return self._usable(self._source.currentText())

    def _usable(self, name: str) -> bool:
        layer = self._layer(name)
        try:
            if layer is not None:
                header(layer).check()
        except InvalidInput:
            return False
        return layer is not None

    def truth(self) -> Image | None:
        """The chosen ground truth; None while simulating, where it comes from the source."""
        return None if self._simulate.isChecked() else self._layer(str(self._truth.currentData() or ""))

    def refresh(self) -> None:
        """Offer the viewer's image layers, keeping the choice where it is there, be it renamed."""
        with _Quiet(self):
            images = self._images()
            names = [layer.name for layer in images]
            self._lost |= bool(self._source.currentText()) and self._held[0]() not in images
            measured = [x.name for x in images if not was_reconstructed(facts(x).get("provenance"))]
            first = self._name_now(self._held[0]) or min(measured, key=lambda name: not self._usable(name), default="")
            offer(self._source, [(name, name) for name in names], first)
            if self._lost or not first:  # none takes the place of one that was removed, or is a result by itself
                self._source.setCurrentIndex(-1)
            offer(self._truth, [("none", ""), *((name, name) for name in names)], self._name_now(self._held[1]))
            if self.source() is not self._held[0]():
                self._take_over()
            self._hold()
        self.changed.emit()

    def _hold(self) -> None:
        """Remember the chosen layers themselves: people rename them."""
        self._lost &= self.source() is None
        self._held = tuple(_reference(layer) for layer in (self.source(), self.truth()))

    def _name_now(self, held: Callable[[], Image | None]) -> str:
        layer = held()
        return layer.name if layer is not None else ""

    # -- from layers -------------------------------------------------------------------------

    def choose(self, name: str) -> None:
        """Choose a layer by name, with all that it says of itself; anew where it is chosen already."""
        if self._source.currentText() == name:
            self._then(self._take_over)()
        else:
            self._source.setCurrentText(name)

    def follow_layer(self) -> None:
        """Fill in the voxel size that the chosen layer states, whose depth hangs on the beam."""
        self.voxel.forget()
        self._rescaled()

    def _images(self) -> list[Image]:
        from napari.layers import Image

        return [x for x in self._viewer.layers if isinstance(x, Image) and not _ours(facts(x))]

    def _layer(self, name: str) -> Image | None:
        return next((layer for layer in self._images() if layer.name == name), None)

    def _take_over(self) -> None:
        """Fill in what the chosen layer says of itself: axes, acquisition, voxel size, truth."""
        self._offer_axes()
        layer = self.source()
        self._leave_out.clear()
        if layer is None:
            self.voxel.set_value(None)
            return
        self._heed(layer)
        known = known_acquisition(layer)
        if known is not None:
            self.beam.set_value(known)
        self._simulate.setChecked(known is None and facts(layer).get("role") in ("truth", "volume", "result"))
        self._truth.setCurrentIndex(max(0, self._truth.findData(facts(layer).get("truth", ""))))
        self.voxel.forget()
        self._fill_voxel()
        self._show_rows()

    def _heed(self, layer: Image) -> None:
        """Hear of a layer's voxel size where people, or other plugins, state it later."""
        if layer in self._heeded:
            return
        self._heeded.add(layer)
        box = weakref.ref(self)  # the layer may outlive the panel

        def rescaled(*_: object) -> None:
            found = box()
            if found is not None and alive(found):
                found._rescaled()

        for event in (layer.events.scale, layer.events.units):
            event.connect(rescaled)

    def _offer_axes(self) -> None:
        """The channels and time points that there are; chosen are those that are looked at."""
        layer = self.source()
        axes, now = (extra_axes(layer), looked_at(self._viewer, layer)) if layer is not None else ({}, {})
        for combo, name in ((self._channel, "channel"), (self._time, "time")):
            offer(combo, [(str(i), i) for i in range(axes.get(name, 0))], now.get(name, 0))
            self._form.setRowVisible(combo, axes.get(name, 0) > 1)

    def _fill_voxel(self) -> None:
        """The voxel size that the layer states; a projection layer's z step is stride slices."""
        if self.source() is not None and not self.voxel.edited:
            self.voxel.set_value(self._stated())

    def _stated(self) -> Triple | None:
        """The voxel size (z, y, x) of the volume in µm, as the chosen layer states it."""
        layer = self.source()
        spacing: Triple | None = None if layer is None else spacing_um(layer)
        if spacing is not None and not self._simulate.isChecked():
            spacing = (spacing[0] / self.beam.value().step, *spacing[1:])
        return spacing

    # -- building ----------------------------------------------------------------------------

    def _laid_out(self) -> QFormLayout:
        form = QFormLayout(self)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        button = QPushButton("Open…")
        button.setToolTip("Open a TIFF, OME-TIFF or npy file; drop OME-Zarr folders on the window instead")
        button.clicked.connect(self._ask)
        form.addRow("Image", side_by_side(self._source, button))
        form.addRow("Channel", self._channel)
        form.addRow("Time point", self._time)
        form.addRow(self._simulate)
        self.beam.add_rows(form)
        form.addRow("Leave out projections", self._leave_out)
        form.addRow(self._denoise)
        form.addRow("Voxel z, y, x", self.voxel)
        form.addRow("Ground truth", self._truth)
        self.line = paragraph()
        form.addRow(self.line)
        return form

    def _connect(self) -> None:
        self._source.currentIndexChanged.connect(self._then(self._take_over))
        self._simulate.toggled.connect(self._then(self._show_rows))
        self.beam.changed.connect(self._then(self._fill_voxel))
        for signal in (
            self._truth.currentIndexChanged,
            self._channel.currentIndexChanged,
            self._time.currentIndexChanged,
            self.voxel.changed,
            self._leave_out.textChanged,
            self._denoise.toggled,
        ):
            signal.connect(self._then(lambda: None))

    def _then(self, act: Callable[[], None]) -> Callable[..., None]:
        """A slot that does something, quietly, and says once that the data changed."""

        def slot(*_: object) -> None:
            if self._busy:
                return
            with _Quiet(self):
                act()
                self._hold()
            self.changed.emit()

        return slot

    def _show_rows(self) -> None:
        self._show_own_rows()
        self._fill_voxel()

    def _show_own_rows(self) -> None:
        """Rows of projections that were measured, not simulated."""
        for widget in (self._truth, self._leave_out):
            self._form.setRowVisible(widget, not self._simulate.isChecked())

    def _ask(self) -> None:
        name, _ = QFileDialog.getOpenFileName(self, "Open projections or a volume", "", READABLE)
        if name:
            self.opened.emit(Path(name))


class _Quiet:
    """Keeps a data box from answering its own changes."""

    def __init__(self, box: DataBox) -> None:
        self._box = box

    def __enter__(self) -> None:
        self._before, self._box._busy = self._box._busy, True

    def __exit__(self, *_: object) -> None:
        self._box._busy = self._before


def _reference(layer: Image | None) -> Callable[[], Image | None]:
    return weakref.ref(layer) if layer is not None else lambda: None


def _ours(known: dict[str, Any]) -> bool:
    """Whether a layer is a map, or a result of this session; one that was opened may serve as a truth."""
    return known.get("role") in ("map", "result") and not opened(known)
