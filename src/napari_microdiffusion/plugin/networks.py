"""Trained networks from files: loaded where people ask for one, and read where a result or a job names one."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import QWidget

from .base import AtHand
from .dialogs import network_asked
from .model import choices_of
from .remembered import TRAINED_FOR

if TYPE_CHECKING:
    from ..acquisition import Acquisition
    from ..trained import Trained
    from .base import Bases
    from .basing import Basing
    from .files import Files
    from .running import Running


class Networks(QObject):
    """Loads networks, and knows what those that are named were trained for.

    Parameters
    ----------
    basing
        Puts base models to use, which are kept in ``bases``.
    running
        While people wait for a network nothing else begins.
    """

    wanted = Signal(object)  # choices that a setup is to take over
    learned = Signal()  # what the named network is for

    def __init__(self, bases: Bases, basing: Basing, files: Files, running: Running, parent: QWidget) -> None:
        super().__init__(parent)
        self._bases, self._basing, self._files, self._running = bases, basing, files, running
        self._panel = parent
        self._named: Path | None = None

    def load(self) -> None:
        """Ask for a file, and put the network in it to use; does nothing while something runs."""
        path = None if self._running.anything else network_asked(self._panel)
        if path is not None:
            self._running.load()
            self._files.read_weights(path, partial(self._use, path.resolve()), self._running.loaded)

    def read(self, path: Path | None) -> None:
        """See, in the background, what the network was trained for that a setup names; once for each that it names."""
        if path == self._named:
            return
        self._named = path
        if path is not None and path not in TRAINED_FOR and not self._bases.has(path):
            self._files.read_weights(path, partial(self._learn, path))

    @staticmethod
    def trained_for(path: Path | None) -> Acquisition | None:
        """What the projections of a network were; None where that is not known, and for base models."""
        return TRAINED_FOR.get(path)

    # -- what comes back ---------------------------------------------------------------------

    def _use(self, path: Path, trained: Trained) -> None:
        """A network brings its method and settings."""
        if trained.is_base:
            self._basing.use(trained, path)
        else:
            TRAINED_FOR[path] = trained.origin.acquisition
            self.wanted.emit({**choices_of(trained.method), "weights": path})

    def _learn(self, path: Path, trained: Trained) -> None:
        if not trained.is_base:
            TRAINED_FOR[path] = trained.origin.acquisition
        elif path == self._named:  # else another is in use by now, which it must not replace
            self._bases.keep(AtHand(trained, path))
        self.learned.emit()
