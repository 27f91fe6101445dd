"""What happens on "All time points…": a name is asked for, each is reconstructed in the background, all are shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .background import Background
from .dialogs import movie_asked
from .known import Ran
from .layers import extra_axes, grid, header, top
from .live import place_source
from .model import Setup, covered

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image
    from qtpy.QtWidgets import QWidget

    from ..trained import Trained
    from .files import Files
    from .movie_worker import Movie


class Filming(Background):
    """Reconstructs all time points of a layer into files."""

    STOPPED = "Stopped before a time point was done"

    def __init__(self, viewer: ViewerModel, files: Files, parent: QWidget) -> None:
        super().__init__(parent)
        self._viewer, self._files, self._panel = viewer, files, parent
        self._source: Image | None = None
        self._setup = Setup()

    def ask(self, setup: Setup, source: Image, base: Trained | None, before: Sequence[Ran]) -> None:
        """Ask for a name and begin; what a run ``before`` has made of a time point is used."""
        title = f"{setup.title} {source.name}"
        path = movie_asked(self._panel, title, times_of(source), setup.time or 0)
        if path is not None:
            self.film(setup, source, base, path, before)

    def film(self, setup: Setup, source: Image, base: Trained | None, path: Path, before: Sequence[Ran]) -> None:
        """Begin with the time point that is chosen; the volume of each goes beside ``path``, by its number."""
        from ..io import network_beside, of_time
        from ..io.target import beside
        from .movie_worker import Shot, film
        from .session import loader, replayable
        from .worker import StoppableWorker

        times, first, shots = times_of(source), setup.time or 0, []
        for time in (first, *(other for other in range(times) if other != first)):
            each = setup.replace(time=time)
            load, job = loader(each, source, None), each.job(*replayable(source, each))
            output = of_time(path, time, times)
            shots.append(Shot(time, load, job, output, output.exists() or beside(output).exists()))  # as was agreed
        network = network_beside(shots[0].output)
        place_source(self._viewer, source, setup.scale_um, 1 if setup.simulate else setup.acquisition.step)
        self._source, self._setup = source, setup
        worker = StoppableWorker(film, shots, network, base, network.exists(), before)
        self._start(worker, "Reading the images", self._end)

    def _end(self, movie: Movie) -> None:
        source, self._source = self._source, None
        paths = [movie.done[time] for time in sorted(movie.done)]
        for time, reason in movie.left_out.items():
            self.noticed.emit(f"Time point {time} is left out: {reason}")
        suffix = ""
        if movie.interpolated:
            which = ", ".join(map(str, sorted(movie.interpolated)))
            self.noticed.emit(f"Plain interpolation is given for time points {which}: hidden projections ask for it")
            suffix = " (interpolation)" if len(movie.interpolated) == len(paths) else f" (interpolation at t {which})"
        if source is not None and movie.complete and not movie.left_out:
            self._files.open_movie(paths, source, placed(source, self._setup), suffix)
        state = "" if movie.complete else "Stopped; "
        self.ended.emit(f"{state}{len(paths)} volume{'s' * (len(paths) != 1)} in the folder {paths[0].parent.name}")

    def _over(self) -> None:
        self._source = None


def placed(source: Image, setup: Setup) -> dict[str, Any]:
    """Where the movie (t, z, y, x) lies and how it looks, as attributes of its layer: as a single result would."""
    step, first = 1, 0.5
    if not setup.simulate:
        acquisition = covered(setup, header(source))
        step, first = acquisition.step, acquisition.first_centre
    scale, units = grid(source, setup.scale_um, step)
    time = list(extra_axes(source)).index("time")
    return {
        "scale": (float(source.scale[time]), *scale),
        "translate": (float(source.translate[time]), *top(source, scale[0], first)),
        "units": (str(source.units[time]), *units),
        "colormap": source.colormap,
    }


def times_of(layer: Image | None) -> int:
    """How many time points a layer has; 1 where it has no such axis."""
    return 1 if layer is None else extra_axes(layer).get("time", 1)
