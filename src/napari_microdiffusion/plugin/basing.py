"""What happens in the section "Base model": one is trained in the background, loaded, saved, and put to use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, Signal

from ..descriptions import DESCRIPTIONS
from ..events import InvalidInput
from .background import Background
from .base import AtHand, Bases
from .base_box import BaseBox
from .base_volumes import Offer, offers, picked
from .model import Setup, choices_of

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

    from ..trained import Trained
    from .files import Files

ABOUT = "{} learns to fill in volumes from projections of {}, as set above, with the effort and the settings below."


class Basing(Background):
    """Fills the section, and does what is asked there.

    Parameters
    ----------
    box
        Shows, and says what people want.
    bases
        Where base models are kept.
    """

    STOPPED = "Stopped before the training began"

    wanted = Signal(dict)  # fields of the setup, to put a base model to use

    def __init__(self, viewer: ViewerModel, box: BaseBox, bases: Bases, files: Files, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer, self._box, self._bases, self._files = viewer, box, bases, files
        self._offers: list[Offer] = []
        self._setup = Setup()
        box.save.connect(self.save)
        box.train.connect(self.train)

    def show(self, setup: Setup, source: Image | None, truth: Image | None) -> None:
        """Show what holds for a setup."""
        self._setup = setup
        try:
            method = setup.spec()
        except InvalidInput:
            return  # it is told elsewhere
        if not method.pretrained:
            return
        self._box.show_base(self._bases.chosen(setup), self._problem(setup))
        self._offers = offers(self._viewer.layers, setup, source, truth)
        self._box.training.offer(self._offers)
        reason = method.unsuited(setup.acquisition)
        name = DESCRIPTIONS[setup.method].short
        self._box.training.describe(
            ABOUT.format(name, setup.acquisition.description), f"{name} {reason}" if reason else ""
        )

    def set_busy(self, busy: bool) -> None:
        """Whether something runs already: one thing at a time."""
        self._box.set_busy(busy)

    def train(self) -> None:
        """Train on what is picked, with the settings and for the acquisition that are chosen."""
        from .base_worker import train
        from .worker import StoppableWorker

        form = self._box.training
        if self.running or not form.start_button.isEnabled():
            return
        wanted = picked(self._offers, form.ticked(), self._setup, form.folder)
        worker = StoppableWorker(train, self._setup.pretraining(), wanted)
        self._start(worker, "Reading the volumes", self._end)

    def use(self, trained: Trained, path: Path | None) -> None:
        """Put a base model to use: it brings its method and settings."""
        self._bases.keep(AtHand(trained, path))
        self._box.show_training(False)
        self.wanted.emit({**choices_of(trained.method), "weights": path})

    def save(self, then: Any = None) -> None:
        """Ask for a name and save the base model in use; ``then`` is called when it is saved."""
        base = self._bases.chosen(self._setup)
        if base is None or base.path is not None:
            return

        def saved(path: Path) -> None:
            self._bases.keep(AtHand(base.trained, path))
            self.wanted.emit({**choices_of(base.trained.method), "weights": path})
            if callable(then):
                then()

        self._files.save_base(base.trained, saved)

    # -- what comes back ---------------------------------------------------------------------

    def _end(self, trained: Trained) -> None:
        if self._setup.method == choices_of(trained.method)["method"]:
            self.use(trained, None)
        else:
            self._bases.keep(AtHand(trained))
        state = "is trained" if trained.origin.complete else "was stopped early, and can be used as far as it is"
        self.ended.emit(f"The base model {state}: save it to keep it")

    def _problem(self, setup: Setup) -> str:
        """What is wrong with the base model; that there is none yet is no fault."""
        if self._bases.of(setup.method) is None:
            return ""
        try:
            self._bases.check(setup, setup.source)
        except InvalidInput as error:
            return str(error)
        return ""
