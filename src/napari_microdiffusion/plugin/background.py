"""Work in worker threads: what the panel shows beside its runs, ended by Stop and with it; and short errands."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from napari.utils.notifications import show_error
from qtpy.QtCore import QObject, Signal
from superqt.utils import FunctionWorker

from ..events import EngineError, RunFailed
from .collecting import start
from .parts import alive, sentence

if TYPE_CHECKING:
    from .follow import Progress
    from .worker import StoppableWorker

Outcome = TypeVar("Outcome")


class Background(QObject):
    """Starts workers, and tells what becomes of them."""

    began = Signal(str)
    progressed = Signal(object)  # Progress
    noticed = Signal(str)
    ended = Signal(str)
    failed = Signal(str)

    STOPPED = ""
    """Said where it is stopped before there is anything to keep."""

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._worker: StoppableWorker[Any, Any] | None = None
        self._then: Callable[[Any], None] | None = None

    @property
    def running(self) -> bool:
        """Whether a worker is at it."""
        return self._worker is not None

    def stop(self) -> None:
        """Stop; `ended` follows within a step."""
        if self._worker is not None:
            self._worker.stopped.set()

    def _start(self, worker: StoppableWorker[Any, Outcome], stage: str, then: Callable[[Outcome], None]) -> None:
        """Start a worker; what it returns goes to ``then``, which says how it `ended`."""
        self._worker, self._then = worker, then
        worker.yielded.connect(self._tell)
        worker.returned.connect(self._returned)
        worker.errored.connect(self._errored)
        stopped = worker.stopped
        self.destroyed.connect(lambda *_: stopped.set())
        self.began.emit(stage)
        start(worker)

    def _over(self) -> None:
        """There is nothing to keep."""

    # -- from the worker ---------------------------------------------------------------------

    def _tell(self, progress: Progress) -> None:
        for notice in progress.notices:
            self.noticed.emit(notice)
        self.progressed.emit(progress)

    def _returned(self, outcome: Any) -> None:
        self._worker = None
        if self._then is not None:
            self._then(outcome)

    def _errored(self, error: Exception) -> None:
        stopped = self._worker is not None and self._worker.stopped.is_set()
        self._worker = None
        self._over()
        if stopped and isinstance(error, RunFailed):
            self.ended.emit(self.STOPPED)
        else:
            self.failed.emit(sentence(str(error)))


def in_background(
    work: Callable[[], Any],
    then: Callable[[Any], object],
    owner: QObject | None = None,
    ended: Callable[[], object] | None = None,
) -> FunctionWorker[tuple[bool, Any]]:
    """Do something in a worker thread, then something with its result in this one; failures become a notification.

    Parameters
    ----------
    owner
        Whose the second is: where it is gone by then nothing more is done.
    ended
        Called after that, be it a failure.
    """

    def guarded() -> tuple[bool, Any]:
        try:
            return True, work()
        except (EngineError, OSError, ValueError, MemoryError) as error:
            return False, str(error) or type(error).__name__
        except Exception as error:  # a RuntimeError would vanish in the worker
            logging.getLogger(__name__).exception("reading or writing failed")
            return False, f"{type(error).__name__}: {error}"

    def told(end: tuple[bool, Any]) -> None:
        done, found = end
        there = owner is None or alive(owner)
        try:
            if not done:
                show_error(found)
            elif there:
                then(found)
        finally:
            if there and ended is not None:
                ended()

    worker = FunctionWorker(guarded)
    worker.returned.connect(told)
    start(worker)
    return worker
