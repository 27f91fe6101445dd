"""The section "Base model": which one is in use, and a fold for training one."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import QSignalBlocker, QSize, Qt, Signal
from qtpy.QtWidgets import (
    QFileDialog,
    QFrame,
    QHBoxLayout,
    QLabel,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from .parts import paragraph, side_by_side, tint

if TYPE_CHECKING:
    from napari.layers import Image

    from .base import AtHand
    from .base_volumes import Offer

NONE_YET = "none yet: this method learns from fully sampled volumes first"
TRAIN = "Train a base model on fully sampled volumes of similar samples, once for all stacks that are taken alike"
LOAD = "Use a base model that was trained and saved before. It brings its method and settings along"
SAVE = "Save the base model, to use it in later sessions and on the command line"
FOLDER = "Use every volume in a folder: TIFF, OME-TIFF, npy and OME-Zarr; what is none is left out"
NOTHING = "Tick a layer, or choose a folder"
BUSY = "Something is running: wait for it, or stop it"
ROWS, ROW_HEIGHT = 4, 22


class BaseBox(QWidget):
    """Says which base model is in use, and what people want done about it."""

    train = Signal()  # on what is picked
    opened = Signal(bool)  # whether the fold for training is open
    load = Signal()
    save = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.text = paragraph()
        self.train_button, self.load_button, self.save_button = (
            _button(text, tip) for text, tip in (("Train…", TRAIN), ("Load…", LOAD), ("Save…", SAVE))
        )
        self.training = TrainingForm()
        self.training.setVisible(False)
        self.open = False
        self.train_button.setCheckable(True)
        self.train_button.toggled.connect(self.show_training)
        self.load_button.clicked.connect(self.load)
        self.save_button.clicked.connect(self.save)
        self.training.start_button.clicked.connect(self.train)
        self.training.cancel_button.clicked.connect(lambda: self.show_training(False))
        layout, buttons = QVBoxLayout(self), QHBoxLayout()
        layout.setContentsMargins(0, 0, 0, 0)
        for button in (self.train_button, self.load_button, self.save_button):
            buttons.addWidget(button)
        layout.addWidget(self.text)
        layout.addLayout(buttons)
        layout.addWidget(self.training)
        self.show_base(None, "")

    def show_base(self, base: AtHand | None, problem: str) -> None:
        """Which one is in use, and what is wrong with it; None where there is none."""
        self.text.setText(f"<b>Base model</b>&nbsp; {problem or (NONE_YET if base is None else base.text)}")
        tint(self.text, "wrong" if problem else "")
        self.text.setToolTip("" if base is None else f"Trained on {base.trained.description}")
        unsaved = base is not None and base.path is None
        self.save_button.setEnabled(unsaved)
        self.save_button.setToolTip(SAVE if unsaved or base is None else f"It is saved: {base.path}")

    def show_training(self, shown: bool) -> None:
        """Open or close the fold for training."""
        if shown == self.open:
            return
        self.open = shown
        self.train_button.setChecked(shown)
        self.training.setVisible(shown)
        self.opened.emit(shown)

    def set_busy(self, busy: bool) -> None:
        """Whether something runs: one thing at a time. Meanwhile the fold makes room for how far it is."""
        self.training.setVisible(self.open and not busy)
        self.load_button.setEnabled(not busy)
        self.train_button.setEnabled(not busy)
        self.training.set_busy(busy)


class TrainingForm(QFrame):
    """What to train on."""

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setFrameShape(QFrame.Shape.StyledPanel)
        self.folder: Path | None = None
        self._ticked: weakref.WeakSet[Image] = weakref.WeakSet()
        self._offers: list[Offer] = []
        self._busy, self._problem = False, ""
        self._about, self._none = paragraph(), paragraph()
        self._none.setText("No other volume is open.")
        self.list = QListWidget()
        self.list.itemChanged.connect(self._tick)
        self._folder_name = QLabel()
        self._folder_name.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self._folder_button = _button("Folder…", FOLDER)
        self._folder_button.clicked.connect(self._choose_or_drop_folder)
        self.start_button = _button("Start training", "Train in the background; Stop keeps what has been learned")
        self.cancel_button = _button("Cancel", "Close this; the base model in use stays")
        self._lay_out()
        self.set_folder(None)

    def offer(self, found: list[Offer]) -> None:
        """Offer layers; those that must not be used are greyed out and say why."""
        before = [(each.layer, each.layer.name, each.reason) for each in self._offers]
        if before == [(each.layer, each.layer.name, each.reason) for each in found] and self.list.count():
            return
        self._offers = found
        with QSignalBlocker(self.list):
            self.list.clear()
            for each in found:
                self.list.addItem(self._item(each))
        self.list.setVisible(bool(found))
        self._none.setVisible(not found)
        self.list.setFixedHeight(min(ROWS, len(found)) * ROW_HEIGHT + 2 * self.list.frameWidth() + 4)
        self._show_possible()

    def _item(self, offer: Offer) -> QListWidgetItem:
        why = f"  ({offer.reason.partition(':')[0]})" if offer.reason else ""
        item = QListWidgetItem(offer.layer.name + why)
        item.setSizeHint(QSize(0, ROW_HEIGHT))
        usable = Qt.ItemFlag.ItemIsUserCheckable | Qt.ItemFlag.ItemIsEnabled
        item.setFlags(Qt.ItemFlag.NoItemFlags if offer.reason else usable)
        ticked = offer.layer in self._ticked and not offer.reason
        item.setCheckState(Qt.CheckState.Checked if ticked else Qt.CheckState.Unchecked)
        item.setToolTip(f"Not used: {offer.reason}" if offer.reason else "")
        return item

    def describe(self, what: str, problem: str) -> None:
        """What will be trained, in words, and what forbids it."""
        self._problem = problem
        self._about.setText(problem or what)
        tint(self._about, "wrong" if problem else "")
        self._show_possible()

    def ticked(self) -> list[Image]:
        """The layers to train on."""
        return [each.layer for each in self._offers if each.layer in self._ticked and not each.reason]

    def set_folder(self, folder: Path | None) -> None:
        """The folder to train on, None for none."""
        self.folder = folder
        self._folder_name.setText("no folder" if folder is None else folder.name)
        self._folder_name.setToolTip(FOLDER if folder is None else str(folder))
        self._folder_button.setText("Folder…" if folder is None else "Leave out")
        self._show_possible()

    def set_busy(self, busy: bool) -> None:
        """Whether something runs."""
        self._busy = busy
        self._show_possible()

    def _show_possible(self) -> None:
        nothing = "" if self.ticked() or self.folder is not None else NOTHING
        reason = BUSY if self._busy else self._problem or nothing
        self.start_button.setEnabled(not reason)
        self.start_button.setToolTip(reason or "Train in the background; Stop keeps what has been learned")

    def _tick(self, item: QListWidgetItem) -> None:
        layer = self._offers[self.list.row(item)].layer
        (self._ticked.add if item.checkState() == Qt.CheckState.Checked else self._ticked.discard)(layer)
        self._show_possible()

    def _choose_or_drop_folder(self) -> None:
        if self.folder is not None:
            self.set_folder(None)
            return
        name = QFileDialog.getExistingDirectory(self, "Folder with fully sampled volumes")
        if name:
            self.set_folder(Path(name))

    def _lay_out(self) -> None:
        layout, buttons = QVBoxLayout(self), QHBoxLayout()
        layout.setContentsMargins(6, 6, 6, 6)
        layout.addWidget(self._about)
        layout.addWidget(QLabel("Volumes to learn from"))
        layout.addWidget(self.list)
        layout.addWidget(self._none)
        layout.addWidget(side_by_side(self._folder_name, self._folder_button))
        for button in (self.start_button, self.cancel_button):
            buttons.addWidget(button)
        layout.addLayout(buttons)


def _button(text: str, tip: str) -> QPushButton:
    button = QPushButton(text)
    button.setToolTip(tip)
    return button
