"""Garbage is collected in the main thread alone while something runs in the background.

Python collects in whichever thread happens to allocate. In a worker's thread that may destroy Qt objects, and wait for
ever for the main thread, which waits for the worker.
"""

from __future__ import annotations

import gc
from functools import cache
from typing import Any

from qtpy.QtCore import QCoreApplication, QObject, QTimer
from superqt.utils import WorkerBase

MILLISECONDS = 1000
MIDDLE, OLDEST = 10, 120
"""Turns of the timer after which older objects are looked through too, as Python itself does it now and then."""


def start(worker: WorkerBase[Any]) -> None:
    """Start a worker; until it has finished, be its panel closed by then, garbage is collected in this thread alone."""
    _collection().watch(worker)
    worker.start()


class MainThreadCollection(QObject):
    """Switches automatic collection off while workers run, and meanwhile collects on a timer."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._timer = QTimer(self)
        self._timer.setInterval(MILLISECONDS)
        self._timer.timeout.connect(self._collect)
        self._running, self._turns, self._resume = 0, 0, False

    def watch(self, worker: WorkerBase[Any]) -> None:
        """A worker is about to start."""
        worker.finished.connect(self._finished)
        self._running += 1
        if self._running == 1:
            self._resume = gc.isenabled()  # somebody else may have switched it off
            gc.disable()
            self._timer.start()

    def _finished(self, *_: object) -> None:
        self._running -= 1
        if self._running == 0:
            self._timer.stop()
            if self._resume:
                gc.enable()

    def _collect(self) -> None:
        self._turns += 1
        gc.collect(2 if self._turns % OLDEST == 0 else 1 if self._turns % MIDDLE == 0 else 0)


@cache
def _collection() -> MainThreadCollection:
    """The application's own: collection is on or off for all of it."""
    return MainThreadCollection(QCoreApplication.instance())
