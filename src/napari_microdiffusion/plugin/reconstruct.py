"""The dock widget "Reconstruct volume": four boxes, read top to bottom, that edit one setup and run it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import napari.viewer
from napari.utils.notifications import show_error
from qtpy.QtCore import QEvent, QTimer, Signal
from qtpy.QtWidgets import QVBoxLayout, QWidget

from ..events import InvalidInput
from ..provenance import was_reconstructed
from .background import Background, in_background
from .base import AT_HAND
from .basing import Basing
from .data_box import DataBox
from .files import Files
from .filming import Filming, times_of
from .jobs import Jobs
from .known import facts, opened
from .layers import header
from .live import show_chosen
from .method_box import MethodBox
from .model import Header, Setup, beware, plan
from .networks import Networks
from .parts import UprightArea, alive, sentence, tint, tones
from .remembered import last_chosen, remember
from .result_box import ResultBox
from .results import Results
from .run_box import RunBox
from .running import Running
from .session import Session, preferences
from .trusting import Trusting
from .watching import layer_events, watch

if TYPE_CHECKING:
    from napari.layers import Image


class ReconstructWidget(QWidget):
    """Edits a `Setup`, runs it, shows the result.

    Parameters
    ----------
    viewer
        napari hands it over.
    """

    valueChanged = Signal(object)  # Setup
    finished = Signal(bool)  # whether a run has come to its end, be it by Stop

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        last = last_chosen(viewer)
        self._viewer = viewer
        self._shown: tuple[Image | None, dict[str, int]] = (None, {})
        self._before = ""
        self._made: Image | None = None
        self._failed_with: dict[str, Any] = {}
        self._bases = AT_HAND
        self.data, self.method = DataBox(viewer), MethodBox(self._bases)
        self.run_box, self.result = RunBox(), ResultBox()
        self._files = Files(viewer, self)
        self._trust = Trusting(viewer, self.result.trust, self)
        self._results = Results(viewer, self.result, self._trust, self._files, self)
        self._basing = Basing(viewer, self.method.base, self._bases, self._files, self)
        self._filming = Filming(viewer, self._files, self)
        self._jobs = Jobs(viewer, self._chosen, self._bases, self._basing, self._files, self)
        beside: dict[Background, str] = {
            self._trust: "There is no score",
            self._basing: "There is no base model",
            self._filming: "There are no volumes",
        }
        self._running = Running(self.run_box, beside, self)
        self._networks = Networks(self._bases, self._basing, self._files, self._running, self)
        self._lay_out()
        self._connect()
        self._follow_theme()
        self.setValue(last or Setup(device=preferences().device).replace(**self.data.value()))
        self._offer_results()  # of a panel that was closed
        in_background(_warm_up, lambda _: None, self)

    # -- the model ---------------------------------------------------------------------------

    def value(self) -> Setup:
        """What is chosen now."""
        return Setup.model_validate({**self.data.value(), **self.method.value()})

    def setValue(self, setup: Setup) -> None:
        """Show a setup; layers that are not there are left out."""
        self.data.set_value(setup)
        self.method.set_value(setup)
        self._changed()

    def problem(self) -> str:
        """What is wrong with the setup, empty if nothing is."""
        setup = self.value()
        try:
            self._plan(setup)
            self._bases.check(setup, setup.source)
        except InvalidInput as error:
            return str(error)
        return ""

    def event(self, event: QEvent) -> bool:
        """When people close the panel napari merely lets go of it: end with it what it has begun."""
        if event.type() == QEvent.Type.ParentChange and self.parent() is None:
            QTimer.singleShot(0, self._end_if_left)  # it may be on its way to another place
        return bool(super().event(event))

    def _end_if_left(self) -> None:
        if alive(self) and self.parent() is None:
            self.deleteLater()

    # -- running -----------------------------------------------------------------------------

    def run(self) -> None:
        """Start a run; refuses with a notification what cannot work, and does nothing while something is running."""
        if self._running.anything:
            return
        setup, source = self._chosen()
        if source is None or self.problem():
            show_error(self.problem())
            return
        self._before, self._made = self.result.current(), None
        session = Session(self._viewer, setup, source, self.data.truth(), self, self._bases.trained(setup))
        session.scored.connect(self.result.show_scores)
        session.opened.connect(self._opened)
        self._running.start(session)

    def stop(self) -> None:
        """Stop within a second and keep what is done."""
        self._running.stop()

    def run_all_times(self) -> None:
        """Ask where to, and reconstruct all time points into files; does nothing where `run` would refuse."""
        setup, source = self._chosen()
        if self._running.anything or source is None or self.problem():
            return
        self._filming.ask(setup, source, self._bases.trained(setup), self._results.runs())

    @property
    def running(self) -> bool:
        """Whether a run is under way."""
        return self._running.session is not None

    @property
    def message(self) -> str:
        """How the last run ended, in words."""
        return self._running.message

    def open(self, path: Path) -> None:
        """Open a file as layers, in the background, and choose it, as data or as a result."""
        self._files.open(path, self._choose)

    def _choose(self, name: str) -> None:
        """Choose what was opened, unless it is a result."""
        if not was_reconstructed(facts(self._viewer.layers[name]).get("provenance")):
            self.data.choose(name)

    def _take_over(self, choices: dict[str, Any]) -> None:
        """Choices of a network, a result or a job; a voxel size that nobody stated follows the image and the beam."""
        stated = self.data.voxel.edited or "scale_um" in choices
        self.setValue(self.value().replace(**choices))
        if not stated:
            self.data.follow_layer()

    # -- what happens ------------------------------------------------------------------------

    def _opened(self, layer: Image) -> None:
        self._made = layer
        self._results.arrange()
        self._results.offer(layer.name)
        self._trust.show(layer)

    def _ended(self, well: bool) -> None:
        """A run is over."""
        made = self._made.name if self._made is not None and self._made in self._viewer.layers else ""
        self._offer_results(made if well else self._before)
        if well:
            QTimer.singleShot(0, self._reveal)  # once the verdict has its place
        self.finished.emit(well)

    def _set_busy(self, busy: bool) -> None:
        """Whether something runs from now on."""
        self._trust.set_busy(busy)
        self._basing.set_busy(busy)
        if not busy:
            self._changed()

    def _remember_failure(self) -> None:
        self._failed_with = self.data.value()

    def _forget_failure(self) -> None:
        if self.data.value() != self._failed_with:
            self.run_box.forget_failure()

    def _reveal(self) -> None:
        """Scroll to the result, unless people are about to click somewhere."""
        if alive(self) and not self._area.underMouse():
            self._area.ensureWidgetVisible(self.result)

    def _changed(self) -> None:
        setup, source, truth = self.value(), self.data.source(), self.data.truth()
        names = [layer.name for layer in (source, truth) if layer is not None]
        try:
            line = self._plan(setup)
            told = beware(setup, *self._headers(), self._networks.trained_for(setup.weights))
            line, tone = (f"{line}. {told}", "beware") if told else (line, "")
        except InvalidInput as error:
            line, tone = sentence(str(error), *names), "wrong"
        self.data.line.setText(line)
        tint(self.data.line, tone)
        self.method.offer_methods(setup.acquisition)
        self._basing.show(setup, source, truth)
        self._networks.read(setup.weights)
        self.run_box.offer_times(times_of(source))
        problem = self.problem()
        self.run_box.set_possible(sentence(problem, *names))
        if (source, setup.chosen) != self._shown:  # what is chosen is what is looked at
            self._shown = source, setup.chosen
            QTimer.singleShot(0, self._show_chosen)  # once napari knows the layer's axes
        if source is not None:
            remember(source, setup)
        self.valueChanged.emit(setup)

    def _show_chosen(self) -> None:
        source, chosen = self._shown if alive(self) else (None, {})
        if source is not None and source in self._viewer.layers:
            show_chosen(self._viewer, source, chosen)

    def _plan(self, setup: Setup) -> str:
        return plan(setup, *self._headers())

    def _headers(self) -> tuple[Header | None, Header | None]:
        """Of the chosen image and the chosen truth."""
        source, truth = (None if layer is None else header(layer) for layer in (self.data.source(), self.data.truth()))
        return source, truth

    def _layers_changed(self) -> None:
        self.data.refresh()
        self._offer_results(self.result.current())
        self._trust.check_layers()
        if self._running.session is not None:
            self._running.session.check_layer()

    def _chosen(self) -> tuple[Setup, Image | None]:
        """What is chosen now, and its layer."""
        return self.value(), self.data.source()

    # -- results -----------------------------------------------------------------------------

    def results(self) -> list[Image]:
        """Layers that runs have made, the newest last."""
        return self._results.layers()

    def _offer_results(self, chosen: str = "") -> None:
        self._results.offer(chosen)
        if not self.running:
            self._results.show()

    # -- building ----------------------------------------------------------------------------

    def _lay_out(self) -> None:
        inside = QWidget()
        boxes = QVBoxLayout(inside)
        boxes.setContentsMargins(2, 2, 2, 2)
        boxes.setSpacing(3)
        for box in (self.data, self.method, self.run_box, self.result):
            boxes.addWidget(box)
        boxes.addStretch(1)
        self._area = UprightArea()
        self._area.setWidget(inside)
        self._area.setWidgetResizable(True)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._area)

    def _connect(self) -> None:
        self.data.changed.connect(self._changed)
        self.data.changed.connect(self._forget_failure)
        self.method.changed.connect(self._changed)
        self.data.opened.connect(self.open)
        self.run_box.run.connect(self.run)
        self.run_box.save_job.connect(self._jobs.save)
        self.run_box.load_job.connect(self._jobs.load)
        self._jobs.found.connect(self.data.choose)
        self.run_box.all_times.connect(self.run_all_times)
        self.method.load.connect(self._networks.load)
        self.method.base.load.connect(self._networks.load)
        self._networks.learned.connect(self._changed)
        self._running.busy.connect(self._set_busy)
        self._running.failed.connect(self._remember_failure)
        self._running.ended.connect(self._ended)
        for part in (self._networks, self._basing, self._results, self._jobs):
            part.wanted.connect(self._take_over)
        watch(layer_events(self._viewer), self, self._on_layers)
        watch((self._viewer.dims.events.point,), self, self._results.look)
        watch((self._viewer.events.theme,), self, self._follow_theme)

    def _follow_theme(self, *_: object) -> None:
        self.setStyleSheet(tones(self._viewer.theme))

    def _on_layers(self, event: Any) -> None:
        added = event.value if event.type == "inserted" else None
        self._layers_changed()
        if added is None or self.running:
            return
        known = facts(added)
        if opened(known):
            self._results.show_new(added.name)
        elif known and self._results.layers():
            self._results.arrange()  # with its name, as those beside it
        first = not self.data.usable and not was_reconstructed(known.get("provenance"))
        if first or known.get("role") == "projections":
            self.data.choose(added.name)


def _warm_up() -> None:
    """Import what a run needs, but for torch, while people still read: a second that Run would wait for."""
    import_module("napari_microdiffusion.plugin.base_worker")
