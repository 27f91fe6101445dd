"""How long the window is deaf while a reconstruction runs: gaps between ticks of a 10 ms timer, in a real window.

    xvfb-run -a -s "-screen 0 1600x1000x24" python benchmarks/gui_latency.py --method microdiffusion

Prints JSON: percentiles of all gaps, and of gaps less the time that drawing took in them (software OpenGL is slow).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

TICK_MS = 10


class Clock:
    """Ticks of a timer, and the spans that were spent on drawing.

    Qt draws and shows a window's contents while it handles the window's UpdateRequest; that is what is timed.
    """

    def __init__(self) -> None:
        from napari._qt.qt_main_window import _QtMainWindow
        from qtpy.QtCore import QEvent, Qt, QTimer

        self.ticks: list[float] = []
        self.draws: list[tuple[float, float]] = []
        handle, update = _QtMainWindow.event, QEvent.Type.UpdateRequest

        def timed(window: Any, event: Any) -> bool:
            if event.type() != update:
                return bool(handle(window, event))
            began = time.perf_counter()
            done = bool(handle(window, event))
            self.draws.append((began, time.perf_counter()))
            return done

        _QtMainWindow.event = timed
        self._timer = QTimer()
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.setInterval(TICK_MS)
        self._timer.timeout.connect(lambda: self.ticks.append(time.perf_counter()))

    def start(self) -> None:
        """Begin to count."""
        self.ticks.clear()
        self.draws.clear()
        self._timer.start()

    def gaps(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Gaps between ticks in ms: all of each, and without drawing."""
        ticks = np.asarray(self.ticks)
        gaps = np.diff(ticks)
        drawing = np.zeros(len(gaps))
        for began, ended in self.draws:
            index = int(np.searchsorted(ticks, began)) - 1
            if 0 <= index < len(gaps):
                drawing[index] += ended - began
        return gaps * 1000, (gaps - drawing).clip(0) * 1000


def summary(gaps: NDArray[np.float64]) -> dict[str, float]:
    """Percentiles in ms."""
    points = {f"p{p:g}": round(float(np.percentile(gaps, p)), 1) for p in (50, 90, 99, 99.9)}
    return {**points, "max": round(float(gaps.max()), 1), "over_50_ms": int((gaps > 50).sum())}


def main() -> int:
    """Run a reconstruction of the sample and print how the window fared."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="microdiffusion")
    parser.add_argument("--seconds", type=float, default=600, help="stop the run after this long")
    parser.add_argument("--shape", type=int, nargs=3, default=(96, 128, 128), metavar=("Z", "Y", "X"))
    parser.add_argument("--grid", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()

    import napari
    from napari.layers import Layer
    from qtpy.QtCore import QTimer

    from napari_microdiffusion.plugin.contributions import sample

    clock = Clock()
    viewer = napari.Viewer(show=True)
    viewer.window.resize(1600, 1000)
    widget: Any = viewer.window.add_plugin_dock_widget("napari-microdiffusion", "Reconstruct volume")[1]
    for layer in sample("vessels", tuple(options.shape)):
        viewer.add_layer(Layer.create(*layer))
    widget.setValue(widget.value().replace(method=options.method))
    widget.result.grid.setChecked(options.grid)
    times: dict[str, float] = {}
    began = 0.0

    def begin() -> None:
        nonlocal began
        clock.start()
        began = time.perf_counter()
        widget.run()

    def end(_: bool) -> None:
        times["ended"] = time.perf_counter()
        QTimer.singleShot(0, viewer.close)

    def stop() -> None:
        times["stopped"] = time.perf_counter()
        widget.stop()

    viewer.layers.events.inserted.connect(lambda _: times.setdefault("picture", time.perf_counter()))
    widget.finished.connect(end)
    QTimer.singleShot(3000, begin)
    QTimer.singleShot(3000 + round(options.seconds * 1000), stop)
    napari.run()
    everything, quiet = clock.gaps()
    report = {
        "method": options.method,
        "shape": list(options.shape),
        "outcome": widget.message,
        "first_picture_s": round(times["picture"] - began, 2),
        "run_s": round(times["ended"] - began, 1),
        "stop_s": round(times["ended"] - times["stopped"], 2) if "stopped" in times else None,
        "ticks": len(everything),
        "gaps_ms": summary(everything),
        "gaps_without_drawing_ms": summary(quiet),
    }
    print(json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
