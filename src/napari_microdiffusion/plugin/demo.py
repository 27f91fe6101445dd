"""The demo: napari with a sample, or the user's own projections, reconstructed in the widget before their eyes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..acquisition import Acquisition

if TYPE_CHECKING:
    import napari

    from .reconstruct import ReconstructWidget

SHAPE = (72, 96, 96)
"""Of the sample: MicroDiffusion's preview takes less than five minutes on two CPU cores."""

SIZE = (1600, 1000)
OUTPUT = Path("demo-output")
METHOD, PRESET = "microdiffusion", "preview"


def main(
    projections: Path | None = None, acquisition: Acquisition | None = None, setup: dict[str, Any] | None = None
) -> int:
    """Run the demo.

    Without a display it runs in a virtual one, and leaves a screenshot, the volume and its scores in ``demo-output/``.

    Parameters
    ----------
    projections
        The user's own file; None takes a simulated sample.
    acquisition
        How those projections were made; None takes it from the file.
    setup
        Fields of the widget's `Setup` to be chosen instead: another method, say.

    Returns
    -------
    int
        Exit code: 0, or 1 if the run failed.
    """
    virtual = os.environ.get("NAPARI_MICRODIFFUSION_VIRTUAL") == "1"
    if not virtual and not has_display():
        return _in_virtual_display(projections, acquisition, setup)
    if sys.platform == "win32":
        import_module("torch")  # once Qt is loaded, torch's libraries no longer load on Windows
    import napari

    viewer = napari.Viewer(title="microdiffusion demo", show=True)
    viewer.window.resize(*SIZE)
    demo = Demo(viewer, projections, acquisition, OUTPUT if virtual else None, setup)
    demo.begin()
    napari.run()
    return demo.code


def has_display() -> bool:
    """Whether windows can be shown."""
    return not sys.platform.startswith("linux") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))


class Demo:
    """Opens, runs, and, where nobody watches, keeps the results and closes.

    Parameters
    ----------
    output
        Folder for the results; None leaves the window open instead.
    """

    def __init__(
        self,
        viewer: napari.Viewer,
        projections: Path | None,
        acquisition: Acquisition | None,
        output: Path | None,
        setup: dict[str, Any] | None = None,
    ) -> None:
        self._viewer, self._output = viewer, output
        self._projections, self._acquisition = projections, acquisition
        self._setup = {"method": METHOD, "preset": PRESET, **(setup or {})}
        self.code = 0

    def begin(self) -> None:
        """Show the images and the widget, and press Run."""
        dock = self._viewer.window.add_plugin_dock_widget("napari-microdiffusion", "Reconstruct volume")
        self.widget: ReconstructWidget = dock[1]
        self._add_layers()
        if self._acquisition is not None:
            self.widget.data.beam.set_value(self._acquisition.unbound)
            self.widget.data.beam.changed.emit()  # the volume's voxel size follows from the stride
        self.widget.setValue(self.widget.value().replace(**self._setup))
        self.widget.finished.connect(self._end)
        from qtpy.QtCore import QTimer

        QTimer.singleShot(0, self._run)  # once the window is drawn

    def _run(self) -> None:
        if problem := self.widget.problem():
            print(problem, file=sys.stderr)
            self._close(1)
        else:
            self.widget.run()

    def _add_layers(self) -> None:
        from napari.layers import Layer

        from .contributions import read_layers, sample

        found = sample("vessels", SHAPE) if self._projections is None else read_layers(self._projections)
        for layer in found:
            self._viewer.add_layer(Layer.create(*layer))

    def _end(self, succeeded: bool) -> None:
        if self._output is None:
            return
        if not succeeded:
            print(self.widget.message, file=sys.stderr)
        else:
            for path in keep(self.widget, self._viewer, self._output):
                print(path)
        self._close(0 if succeeded else 1)

    def _close(self, code: int) -> None:
        from qtpy.QtCore import QTimer

        self.code = code
        if self._output is not None:
            QTimer.singleShot(0, self._viewer.close)  # not from within the widget's own signal


def keep(widget: ReconstructWidget, viewer: napari.Viewer, folder: Path) -> list[Path]:
    """Save a screenshot of the whole window, the newest result's volume and its scores; their paths."""
    from qtpy.QtWidgets import QApplication

    from ..io import write_volume
    from .files import as_volume
    from .known import facts

    folder.mkdir(parents=True, exist_ok=True)
    picture, volume, scores = (folder / name for name in ("screenshot.png", "volume.ome.tif", "scores.json"))
    QApplication.processEvents()
    viewer.screenshot(str(picture), canvas_only=False, flash=False)
    layer = widget.results()[-1]
    write_volume(as_volume(layer), volume, overwrite=True)
    scores.write_text(json.dumps(facts(layer)["scores"], indent=2) + "\n", "utf-8")
    return [path.resolve() for path in (picture, volume, scores)]


def _in_virtual_display(projections: Path | None, acquisition: Acquisition | None, setup: dict[str, Any] | None) -> int:
    """This demo again, in a virtual display."""
    if shutil.which("xvfb-run") is None:
        print(
            "There is no display here, and no virtual one: install it with `apt-get install xvfb xauth` and try again, "
            "or run the demo on a desktop.",
            file=sys.stderr,
        )
        return 1
    arguments = [
        str(projections.resolve()) if projections else "",
        acquisition.model_dump_json() if acquisition else "",
        json.dumps(setup),
    ]
    program = [sys.executable, "-m", "napari_microdiffusion.plugin.demo", *arguments]
    display = ["xvfb-run", "-a", "-s", f"-screen 0 {SIZE[0]}x{SIZE[1]}x24"]
    print("No display here: the demo runs in a virtual one. This takes a few minutes.", flush=True)
    environment = {**os.environ, "NAPARI_MICRODIFFUSION_VIRTUAL": "1"}
    environment.pop("QT_QPA_PLATFORM", None)  # offscreen has no OpenGL
    return subprocess.run(display + program, env=environment, check=False).returncode


def _from_arguments(file: str, acquisition: str, setup: str) -> int:
    bound = Acquisition.model_validate_json(acquisition) if acquisition else None
    return main(Path(file) if file else None, bound, json.loads(setup))


if __name__ == "__main__":
    sys.exit(_from_arguments(*sys.argv[1:]))
