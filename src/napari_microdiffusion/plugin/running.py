"""One thing at a time: what runs in the panel, and what the box "Run" shows of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import QObject, Signal

from .background import Background

if TYPE_CHECKING:
    from .run_box import RunBox
    from .session import Session


class Running(QObject):
    """Knows what runs, shows how far it is and how it ended, and stops it.

    Parameters
    ----------
    box
        Shows it.
    beside
        What there is beside runs, and what is said where one of these has failed.
    """

    busy = Signal(bool)  # whether something runs from now on
    failed = Signal()  # and the box says why
    ended = Signal(bool)  # a run is over: by itself or by Stop, or else by a failure

    def __init__(self, box: RunBox, beside: Mapping[Background, str], parent: QObject) -> None:
        super().__init__(parent)
        self._box, self._beside = box, beside
        self._loading = False
        self.session: Session | None = None
        """The run that is under way."""
        self.message = ""
        """How the last one ended, in words."""
        box.stop.connect(self.stop)
        for part, none in beside.items():
            self._follow(part, self._finish, partial(self._none_made, line=none))

    @property
    def anything(self) -> bool:
        """Whether something runs, be it a run or beside runs."""
        return self.session is not None or self._loading or any(part.running for part in self._beside)

    def start(self, session: Session) -> None:
        """Start a run."""
        self.session = session
        self._follow(session, self._run_ended, self._run_failed)
        session.start()

    def stop(self) -> None:
        """Stop within a second and keep what is done."""
        for part in self._beside:
            part.stop()
        if self.session is not None:
            self.session.stop()

    def load(self) -> None:
        """A network is being read: until it is `loaded` nothing else begins, and it cannot be stopped."""
        self._loading = True
        self._begin("Loading the network")
        self._box.stop_button.setEnabled(False)

    def loaded(self) -> None:
        """It is there, or could not be read."""
        self._loading = False
        self._finish(self.message, "Ready", done=False)

    # -- what happens ------------------------------------------------------------------------

    def _follow(self, part: Background, ended: Callable[[str], object], failed: Callable[[str], object]) -> None:
        part.began.connect(self._begin)
        part.progressed.connect(self._box.show_progress)
        part.noticed.connect(show_info)
        part.ended.connect(ended)
        part.failed.connect(failed)

    def _begin(self, stage: str) -> None:
        self._box.begin(stage)
        self.busy.emit(True)

    def _run_ended(self, message: str) -> None:
        self._finish(message)
        self.ended.emit(True)

    def _run_failed(self, message: str) -> None:
        self._none_made(message, "The last run failed")
        self.ended.emit(False)

    def _none_made(self, message: str, line: str) -> None:
        """It failed: in the panel until other data are chosen, and as a notification."""
        self._finish(message, line, done=False)
        self._box.show_failure(message)
        self.failed.emit()
        show_error(message)

    def _finish(self, message: str, line: str | None = None, done: bool = True) -> None:
        """Nothing runs any more; the line says how it ended, else the message does."""
        self.session = None
        self.message = message
        self._box.end(message if line is None else line, done)
        self.busy.emit(False)
