"""One run as the viewer sees it: from the chosen layers to a finished layer, with signals on the way."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, QTimer, Signal

from ..descriptions import duration, titled
from ..events import DeviceUnavailable, InvalidInput, TooLarge
from ..numbering import numbered
from ..provenance import found_in, was_reconstructed
from ..volume import ProjectionStack, Volume
from .background import Background
from .known import Ran, facts, ran_of
from .layers import BLENDING, extra_axes, grid, in_memory, pixels, projections_layer, there
from .live import LiveLayer, place_source, show_chosen, show_middle
from .model import ALIKE, Setup
from .parts import sentence

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

    from ..trained import Trained
    from .follow import Progress
    from .worker import Load, Message, Outcome

REFUSALS = (InvalidInput, TooLarge, DeviceUnavailable)
"""Errors of a run that come before any work."""


@dataclass(frozen=True)
class Preferences:
    """What napari's preferences say about this plugin."""

    device: str = "auto"
    preview_rate: float = 2.0


def preferences() -> Preferences:
    """The user's preferences; defaults where napari does not know the plugin, as in some tests."""
    from napari.settings import get_plugin_settings

    try:
        chosen = get_plugin_settings("napari-microdiffusion").reconstruct
    except (KeyError, AttributeError, ValueError):
        return Preferences()
    return Preferences(str(chosen.device), float(chosen.preview_rate))


class Session(Background):
    """One run. Everything heavy happens in its worker; here layers are added and named."""

    scored = Signal(object, bool)  # scores, whether there is a truth
    opened = Signal(object)  # the result's layer

    def __init__(
        self,
        viewer: ViewerModel,
        setup: Setup,
        source: Image,
        truth: Image | None,
        parent: QObject,
        base: Trained | None = None,
    ) -> None:
        super().__init__(parent)
        from .worker import RunWorker

        self._viewer, self._setup, self._source = viewer, setup, source
        self._truth = source if setup.simulate else truth
        self._added: Image | None = None
        rate = preferences().preview_rate
        chosen = setup.chosen
        which = "".join(f" {name[0]}={chosen[name]}" for name in ("channel", "time") if name in extra_axes(source))
        others = {ran.job.acquisition.slices for layer in viewer.layers if (ran := ran_of(facts(layer)))}
        which += f" n={setup.acquisition.slices}" if others - {setup.acquisition.slices} else ""
        quiet = ", denoised" if setup.denoise else ""
        self._job = setup.job(*replayable(source, setup))
        unfinished = {"method": setup.method, "job": self._job.model_dump(mode="json"), "complete": False}
        name = f"{setup.title} · {source.name}{which}{quiet}"
        self._live = LiveLayer(viewer, name, {"provenance": unfinished}, self, rate)
        self._run = RunWorker(loader(setup, source, truth), self._job, max(1 / rate, 3.0), base)

    def start(self) -> None:
        """Start the worker."""
        self._start(self._run, "Reading the images", self._end)

    def check_layer(self) -> None:
        """Stop if people have removed the layer that is being written: nobody wants it any more."""
        if self._live.gone:
            self.stop()

    # -- from the worker ---------------------------------------------------------------------

    def _tell(self, message: Message) -> None:
        from .follow import Progress
        from .worker import Loaded, Opened

        match message:
            case Loaded():
                self._stack = message.stack
                self._show_source(message.stack)
            case Opened():
                layer = self._live.open(message.canvas, self._stack, self._shown, self._truth)
                show_chosen(self._viewer, self._source, self._setup.chosen)
                show_middle(self._viewer, layer)
                self.opened.emit(layer)
                QTimer.singleShot(0, self._run.shown.set)  # once it has been drawn
            case Progress():
                self._progress(message)

    def _show_source(self, stack: ProjectionStack) -> None:
        """Put the source where it was measured; when simulating, show the projections beside it."""
        scale, step = self._setup.scale_um, stack.acquisition.step
        if not self._setup.simulate:
            place_source(self._viewer, self._source, scale, step)
            self._shown = self._source
            return
        place_source(self._viewer, self._source, scale, 1)
        before = len(self._viewer.layers)
        self._shown = _simulated(self._viewer, stack, self._source)
        self._added = self._shown if len(self._viewer.layers) > before else None

    def _progress(self, progress: Progress) -> None:
        if progress.painted:
            self._live.touch()
        if progress.scores is not None:
            self.scored.emit(progress.scores, self._truth is not None)
        super()._tell(progress)

    def _end(self, outcome: Outcome) -> None:
        result = outcome.result
        removed = self._live.gone
        known = {
            "provenance": result.volume.provenance,
            "scores": outcome.scores,
            "source_dtype": result.volume.source_dtype,
            "beware": outcome.beware or self._alike(),
            "ran": Ran(self._job, self._stack, result, outcome.trained),
        }
        self.deleteLater()
        fell_back = found_in(result.volume.provenance).get("fell_back")
        self._live.finish(" (partial)" if result.partial else " (interpolation)" if fell_back else "", known)
        self.scored.emit(outcome.scores, self._truth is not None)
        if removed:
            self.ended.emit("Stopped, as its layer was removed")
        elif result.partial:
            self.ended.emit("Stopped; what was done is kept")
        else:
            self.ended.emit(f"Done in {duration(result.seconds)}")

    def _alike(self) -> str:
        """What scores must not be read without where the truth is none."""
        if self._truth is None or not was_reconstructed(facts(self._truth).get("provenance")):
            return ""
        return ALIKE.format(self._truth.name)

    def _errored(self, error: Exception) -> None:
        self.deleteLater()
        if isinstance(error, REFUSALS):
            self._withdraw()
        else:
            self._live.finish(" (failed)")
        text, name = str(error), self._source.name
        of_method = not text.startswith(f"{name} ")  # which may hold the method's name
        self.failed.emit(sentence(titled(text, self._setup.method) if of_method else text, name))

    def _withdraw(self) -> None:
        """Nothing was done: leave nothing behind, but the projections where those of an earlier run were replaced."""
        self._live.discard()
        if self._added is not None and self._added in self._viewer.layers:
            self._viewer.layers.remove(self._added)


def loader(setup: Setup, source: Image, truth: Image | None) -> Load:
    """What gives the worker its input; the pixels are first touched there."""
    name, data = source.name, pixels(source, setup.chosen)
    dtype = str(facts(source).get("source_dtype") or data.dtype)
    reference = None if truth is None else (truth.name, pixels(truth, there(truth, setup.chosen)))

    def load() -> tuple[ProjectionStack, Volume | None]:
        array = in_memory(data)
        if setup.simulate:
            return Volume(array, setup.scale_um, name, dtype).simulate(setup.acquisition)
        stack = ProjectionStack(array, setup.acquisition.bound(len(array)), None, name, dtype)
        stack = stack.leaving_out(numbered(setup.leave_out))
        stack = stack.with_voxels(setup.scale_um) if setup.scale_um else stack
        return stack, reference and Volume(in_memory(reference[1]), setup.scale_um, reference[0])

    return load


def replayable(source: Image, setup: Setup) -> tuple[Path | None, int | None, int | None]:
    """File, channel and time point that a job can be replayed from; None for layers that our reader did not open."""
    path = facts(source).get("path")
    if path is None or setup.simulate:
        return None, None, None
    return Path(path), facts(source).get("channel"), setup.time


def _simulated(viewer: ViewerModel, stack: ProjectionStack, volume: Image) -> Image:
    """The layer of simulated projections beside their volume; it takes the place of that of an earlier run."""
    from napari.layers import Image

    data, attributes, _ = projections_layer(stack, truth=volume.name, simulated=True)
    acquisition = stack.acquisition
    (dz, dy, dx), units = grid(volume, stack.volume_scale_um, 1)
    z, y, x = (float(t) for t in volume.translate[-3:])
    first = float(acquisition.projection_centres[0])
    attributes |= {
        "scale": (dz * acquisition.step, dy, dx),
        "translate": (z + (first - 0.5) * dz, y, x),
        "units": units,
    }
    attributes["contrast_limits"] = tuple(volume.contrast_limits)
    look, place = {"colormap": volume.colormap}, len(viewer.layers)
    for layer in [x for x in viewer.layers if isinstance(x, Image)]:
        if layer.name == stack.name and facts(layer).get("simulated"):
            look = {key: getattr(layer, key) for key in ("colormap", "visible", "opacity")}
            place = viewer.layers.index(layer)
            viewer.layers.remove(layer)
    shown = Image(data, blending=BLENDING, **attributes, **look)
    viewer.layers.insert(place, shown)
    return shown
