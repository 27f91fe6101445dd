"""Garbage is collected in the main thread alone while something runs in the background.

Python collects in whichever thread happens to allocate. In a worker's thread that may destroy Qt objects, and wait for
ever for the main thread, which waits for the worker.
"""

from __future__ import annotations

import gc

from qtpy.QtCore import QObject, QThreadPool, QTimer

MILLISECONDS = 1000
MIDDLE, OLDEST = 10, 120
"""Turns of the timer after which older objects are looked through too, as Python itself does it now and then."""


class MainThreadCollection:
    """Switches automatic collection off from `begin` to `end`, and meanwhile collects on a timer of ``owner``."""

    def __init__(self, owner: QObject) -> None:
        self._timer = QTimer(owner)
        self._timer.setInterval(MILLISECONDS)
        self._timer.timeout.connect(self._collect)
        self._turns, self._resume = 0, False
        owner.destroyed.connect(lambda *_: self._left())  # which lives until then

    def begin(self) -> None:
        """Something starts to run."""
        self._resume = self._resume or gc.isenabled()
        gc.disable()
        self._timer.start()

    def end(self) -> None:
        """Nothing runs any more."""
        self._timer.stop()
        self._restore()

    def _left(self) -> None:
        """The owner is gone; what it began may take a moment to stop, just when there is much garbage."""
        if self._resume and QThreadPool.globalInstance().activeThreadCount():
            QTimer.singleShot(MILLISECONDS, lambda: self._left())
        else:
            self._restore()

    def _restore(self) -> None:
        """As it was before; somebody else may have switched it off."""
        if self._resume:
            gc.enable()
        self._resume = False

    def _collect(self) -> None:
        self._turns += 1
        gc.collect(2 if self._turns % OLDEST == 0 else 1 if self._turns % MIDDLE == 0 else 0)
