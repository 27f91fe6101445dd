"""Run: the two buttons, how far it is, and the loss curve."""

from __future__ import annotations

import math

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QGroupBox, QHBoxLayout, QLabel, QProgressBar, QPushButton, QSizePolicy, QVBoxLayout, QWidget

from ..descriptions import duration
from .follow import Progress
from .parts import paragraph, tint

CURVE_POINTS = 600
RUN = "Reconstruct the volume. The window stays usable while it runs"


class RunBox(QGroupBox):
    """Says run and stop, and shows what comes back."""

    run = Signal()
    stop = Signal()
    save_job = Signal()
    load_job = Signal()
    all_times = Signal()

    def __init__(self) -> None:
        super().__init__("3 · Run")
        self.run_button, self.stop_button = QPushButton("Run"), QPushButton("Stop")
        self.job_button, self.load_button = QPushButton("Save job…"), QPushButton("Load job…")
        self.run_button.setToolTip(RUN)
        self.stop_button.setToolTip("Stop within a second and keep what is done so far")
        self.job_button.setToolTip(
            "Save the data and settings above, to run them with: napari-microdiffusion reconstruct --job FILE"
        )
        self.load_button.setToolTip("Take over the settings of a job that was saved, and open its data")
        self.times_button = QPushButton()
        self.times_button.setToolTip(
            "Reconstruct each time point into a file of its own. What is learned of the chosen one is used for all, "
            "where the method allows it"
        )
        self.times_button.clicked.connect(self.all_times)
        self.run_button.clicked.connect(self.run)
        self.job_button.clicked.connect(self.save_job)
        self.load_button.clicked.connect(self.load_job)
        self.stop_button.clicked.connect(self._stopping)
        self._stage, self._left = QLabel("Ready"), QLabel()
        self._stage.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        self._failure = paragraph()
        tint(self._failure, "wrong")
        self._failure.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self._bar = QProgressBar()
        self._bar.setRange(0, 1)
        self._curve = LossCurve()
        layout = QVBoxLayout(self)
        layout.addLayout(_row(self.run_button, self.stop_button, self.job_button, self.load_button))
        layout.addWidget(self.times_button)
        layout.addLayout(_row(self._stage, self._left, stretch=(1, 0)))
        layout.addWidget(self._bar)
        layout.addWidget(self._failure)
        layout.addWidget(self._curve)
        self.show_failure("")
        self.set_running(False)
        self.offer_times(1)

    def set_running(self, running: bool) -> None:
        """Switch the buttons."""
        self._running = running
        self.stop_button.setEnabled(running)
        self.run_button.setEnabled(not running)
        self.times_button.setEnabled(not running)

    def offer_times(self, count: int) -> None:
        """How many time points there are; with several all can be reconstructed."""
        self.times_button.setText(f"All {count} time points…")
        self.times_button.setVisible(count > 1)

    def set_possible(self, problem: str) -> None:
        """Whether the setup can be run at all; if not, what is wrong."""
        self.run_button.setEnabled(not problem and not self._running)
        self.run_button.setToolTip(problem or RUN)
        self.times_button.setEnabled(self.run_button.isEnabled())
        self.job_button.setEnabled(not problem)

    def begin(self, stage: str = "Reading the images") -> None:
        """A run begins."""
        self.set_running(True)
        self.show_failure("")
        self._say(stage)
        self._bar.setRange(0, 1)  # not (0, 0): a moving bar has the whole window composed 60 times a second
        self._bar.setValue(0)
        self._curve.clear()

    def show_progress(self, progress: Progress) -> None:
        """Stage, bar, time left, losses."""
        if progress.fresh:
            self._curve.start_anew()
        if self.stop_button.isEnabled():  # else it says that it is stopping
            left = progress.seconds_left
            self._say(progress.stage, "" if left is None else f"{duration(math.ceil(left))} left")
        self._bar.setRange(0, max(1, progress.steps))
        self._bar.setValue(progress.done)
        self._curve.add(progress.losses)

    def end(self, message: str, done: bool = True) -> None:
        """A run has ended; what to say of it."""
        self.set_running(False)
        self._bar.setRange(0, 1)
        self._bar.setValue(int(done))
        self._say(message)

    def show_failure(self, message: str) -> None:
        """Why the last run failed, in full; empty: it did not."""
        self._failure.setText(message)
        self._failure.setVisible(bool(message))

    def forget_failure(self) -> None:
        """Other data are chosen: what was wrong with those before is of no interest any more."""
        if self._failure.text():
            self.show_failure("")
            self._say("Ready")

    def _stopping(self) -> None:
        self.stop_button.setEnabled(False)
        loading = self._stage.toolTip().startswith("Loading")
        self._say("Stopping, once the software is loaded" if loading else "Stopping")
        self.stop.emit()

    def _say(self, stage: str, left: str = "") -> None:
        self._left.setText(left)
        room = self._stage.width() - self._left.sizeHint().width() + self._left.width()
        self._stage.setText(self._stage.fontMetrics().elidedText(stage, Qt.TextElideMode.ElideRight, max(room, 80)))
        self._stage.setToolTip(stage)


class LossCurve(QWidget):
    """Loss over training steps, logarithmic, faint, and its trend; hidden until there is one."""

    def __init__(self) -> None:
        super().__init__()
        import pyqtgraph

        self._plot = pyqtgraph.PlotWidget(background=None)
        self._plot.setFixedHeight(118)
        self._plot.setToolTip(
            "Training loss: how far the network still is from what it learns from. It should fall and level off"
        )
        self._plot.setMouseEnabled(False, False)
        self._plot.hideButtons()
        self._plot.setMenuEnabled(False)
        self._plot.setLogMode(y=True)
        self._plot.setLabel("left", "loss")
        self._plot.setLabel("bottom", "training step")
        self._plot.plotItem.layout.setContentsMargins(0, 0, 0, 5)  # pyqtgraph puts the label's foot outside the axis
        self._plot.getAxis("left").enableAutoSIPrefix(False)
        self._faint = self._plot.plot(pen=pyqtgraph.mkPen("#3a8fd050", width=1))
        self._line = self._plot.plot(pen=pyqtgraph.mkPen("#3a8fd0", width=1.5))
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._plot)
        self.clear()

    def clear(self) -> None:
        """Forget the curve."""
        self.start_anew()
        self.setVisible(False)

    def start_anew(self) -> None:
        """A new curve; the old one stays on screen until there is something to draw."""
        self._points: list[tuple[int, float]] = []
        self._came, self._every = 0, 1

    def add(self, losses: tuple[tuple[int, float], ...]) -> None:
        """Further points; when there are too many to see, every second one is dropped, of those to come as well."""
        for step, loss in losses:
            if not (math.isfinite(loss) and loss > 0):
                continue
            if self._came % self._every == 0:
                self._points.append((step, loss))
            self._came += 1
            if len(self._points) > CURVE_POINTS:
                self._points, self._every = self._points[::2], 2 * self._every
        if len(self._points) < 3:
            return
        steps, shown = map(list, zip(*self._points, strict=True))
        self._faint.setData(steps, shown)
        self._line.setData(steps, smoothed(shown))
        self._plot.getAxis("left").setTicks([loss_ticks([loss for _, loss in self._points])])
        self.setVisible(True)


def smoothed(losses: list[float]) -> list[float]:
    """The trend: each loss replaced by the geometric mean of its neighbours, a twentieth of all."""
    reach = len(losses) // 40
    logs = [math.log(loss) for loss in losses]
    near = [logs[max(0, i - reach) : i + reach + 1] for i in range(len(logs))]
    return [math.exp(sum(part) / len(part)) for part in near]


def loss_ticks(losses: list[float]) -> list[tuple[float, str]]:
    """Places (log10) and texts of an axis: powers of ten where there are two, else the ends of the range."""
    low, high = min(losses), max(losses)
    first, last = math.ceil(math.log10(low)), math.floor(math.log10(high))
    step = max(1, (last - first) // 3)
    shown = [10.0**power for power in range(first, last + 1, step)] if last > first else sorted({low, high})
    return [(math.log10(value), f"{value:.2g}") for value in shown]


def _row(*widgets: QWidget, stretch: tuple[int, ...] = ()) -> QHBoxLayout:
    layout = QHBoxLayout()
    for i, widget in enumerate(widgets):
        layout.addWidget(widget, stretch[i] if stretch else 1)
    return layout
