"""Opening and saving from the widget: dialogs here, reading and writing in the background."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import QObject
from qtpy.QtWidgets import QFileDialog, QInputDialog, QMessageBox, QWidget
from superqt.utils import FunctionWorker

from ..events import EngineError
from ..presets import name_of
from ..provenance import was_denoised, was_reconstructed
from ..volume import ProjectionStack, Volume
from .collecting import start
from .layers import (
    LOST,
    LayerTuple,
    Ran,
    at,
    facts,
    header,
    in_memory,
    link_contrast,
    lost,
    pixels,
    ran_of,
    reliability,
    spacing_um,
)
from .live import show_middle
from .model import Setup, covered
from .parts import alive

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

    from ..trained import Trained

TYPES = {
    "32-bit: values as they are": "float32",
    "16-bit: half the size": "uint16",
    "8-bit: a quarter of the size": "uint8",
}
WEIGHTS = "Trained network (*.safetensors)"
SAVE_FIRST = (
    "A job names the file of its base model, and the base model in use is not saved yet.\nSave the base model first?"
)
FORMATS = "OME-TIFF (*.ome.tif);;OME-Zarr (*.ome.zarr)"


class Files:
    """Reads layers from files and writes them; errors come as one notification."""

    def __init__(self, viewer: ViewerModel, parent: QWidget) -> None:
        self._viewer, self._parent = viewer, parent

    def open(self, path: Path, then: Callable[[str], None]) -> None:
        """Add a file's layers to the viewer, then say the name of the first."""

        def read() -> list[LayerTuple]:
            from .contributions import read_layers

            return read_layers(path)

        in_background(read, lambda found: self._add(found, then), self._parent)

    def save(self, layer: Image, chosen: dict[str, int]) -> None:
        """Ask for a name, a format and a type, and save a volume; of a movie that of a time point."""
        offered = tidy(layer.name) + "".join(f"_{name[0]}{index}" for name, index in chosen.items())
        name, kind = QFileDialog.getSaveFileName(self._parent, "Save volume", offered, FORMATS)
        path = self._completed(name, volume_path(Path(name), zarr="Zarr" in kind))
        if path is None:
            return
        text, agreed = QInputDialog.getItem(self._parent, "Save volume", "Numbers", list(TYPES), 0, False)
        if agreed:
            self.write(layer, path, TYPES[text], chosen)

    def asked_for_movie(self, title: str, times: int, first: int) -> Path | None:
        """Ask where the volumes of all time points go, by one name for all; None if people think better of it."""
        from ..io import network_beside, of_time
        from ..io.target import beside

        dialog = "Save the volume of each time point"
        options = QFileDialog.Option.DontConfirmOverwrite  # no file is called like this: each has its number
        name, chosen = QFileDialog.getSaveFileName(self._parent, dialog, tidy(title), FORMATS, options=options)
        if not name:
            return None
        path = volume_path(Path(name), zarr="Zarr" in chosen)
        volumes = [of_time(path, time, times) for time in range(times)]
        made = [*volumes, *map(beside, volumes), network_beside(volumes[first])]
        there = [each.name for each in made if each.exists()]
        question = f"{len(there)} of these files already exist, {', '.join(there[:3])} among them.\nReplace them?"
        return path if not there or self._agreed(dialog, question) else None

    def open_movie(self, paths: list[Path], like: Image, placed: dict[str, Any], suffix: str) -> None:
        """Show volumes as the time points of one layer, with the contrast of another, where it is to lie."""

        def read() -> list[LayerTuple]:
            from .contributions import read_movie

            [(data, rest, kind)] = read_movie([str(path) for path in paths])
            return [(data, {**rest, **placed, "name": f"{rest['name']}{suffix}"}, kind)]

        def link(name: str) -> None:
            layer = self._viewer.layers[name]
            if like in self._viewer.layers:
                link_contrast(layer, like)
            show_middle(self._viewer, layer)

        in_background(read, lambda found: self._add(found, link), self._parent)

    def write(self, layer: Image, path: Path, dtype: str = "float32", chosen: dict[str, int] | None = None) -> None:
        """Save a result's layer in place of what is at ``path``, if that is no measurement."""
        sources = [known["path"] for other in self._viewer.layers if _measured(known := facts(other))]

        def write() -> str:
            from ..io import check_distinct, write_volume

            for source in sources:
                check_distinct(path, source)
            volume = as_volume(layer, chosen)
            written = write_volume(volume, path, dtype=dtype, overwrite=True)  # type: ignore[arg-type]
            beside = f", and its uncertainty in {written.reliability.name} beside it" if written.reliability else ""
            if lost(facts(layer), volume):
                beside = LOST
            return f"Saved {written.path}{beside}" + (f" ({written.mapping})" if written.mapping else "")

        in_background(write, show_info)

    def save_job(self, setup: Setup, source: Image) -> None:
        """Ask for a name and save the job."""
        path = self._asked("Save job", f"{tidy(f'{setup.title} {source.name}')}.job", ".json", "Job (*.json)")
        if path is not None:
            self.write_job(setup, source, path)

    def write_job(self, setup: Setup, source: Image, path: Path) -> None:
        """Save a job that the command line replays, and its projections beside it where they are in no file yet."""
        from ..io.target import check_output, replacing
        from .session import loader, replayable

        where, load, found = replayable(source, setup), loader(setup, source, None), header(source)

        def write() -> str:
            check_output(path, 0, True, (".json",))
            if where[0] is not None:
                job, beside = setup.job(*where), ""
            else:
                projections = _write_beside(load()[0], path)
                job, beside = setup.job(projections), f", and its projections {projections.name} beside it"
            if setup.leave_out:
                job = job.model_copy(update={"acquisition": covered(setup, found)})
            with replacing(path, True) as temporary:
                temporary.write_text(job.model_dump_json(indent=2), "utf-8")
            return f"Saved {path}{beside}. Repeat it with: napari-microdiffusion reconstruct --job {path.name}"

        in_background(write, show_info)

    def save_weights(self, layer: Image) -> None:
        """Ask for a name and save the network of a result."""
        ran = ran_of(facts(layer))
        if ran is None or not ran.result.weights:
            return
        path = self._asked("Save network", tidy(layer.name), ".safetensors", WEIGHTS)
        if path is not None:
            self.write_weights(ran, path)

    def write_weights(self, ran: Ran, path: Path) -> None:
        """Save the network of a run with its settings."""

        def write() -> str:
            from ..trained import save_trained

            method, result = ran.job.method, ran.result
            denoised = was_denoised(result.volume.provenance)
            saved = save_trained(path, method, result.weights, ran.stack, True, ran.trained, denoised)
            use = "use it on another stack" if method.transfers else "make this volume again without training"
            return f"Saved {saved}. To {use}: Load… under Method"

        in_background(write, show_info)

    def save_base(self, trained: Trained, then: Callable[[Path], None]) -> None:
        """Ask for a name and save a base model, then say where it is."""
        path = self._asked("Save base model", f"{name_of(trained.method)}_base", ".safetensors", WEIGHTS)
        if path is not None:
            self.write_base(trained, path, then)

    def write_base(self, trained: Trained, path: Path, then: Callable[[Path], None]) -> None:
        """Save a base model with what it was trained on."""

        def write() -> Path:
            from ..trained import save_base

            return save_base(path, trained, True).resolve()

        def told(saved: Path) -> None:
            show_info(f"Saved {saved}. On the command line: napari-microdiffusion reconstruct --base {saved.name}")
            then(saved)

        in_background(write, told, self._parent)

    def agreed_to_save_base(self) -> bool:
        """Ask whether a base model that a job needs is to be saved first."""
        return self._agreed("Save job", SAVE_FIRST)

    def asked_for_weights(self) -> Path | None:
        """Ask for a file of a trained network."""
        name, _ = QFileDialog.getOpenFileName(self._parent, "Load a trained network", "", WEIGHTS)
        return Path(name) if name else None

    def read_weights(
        self, path: Path, then: Callable[[Path, Trained], None], ended: Callable[[], object] | None = None
    ) -> None:
        """See what a network was trained for; ``ended`` is called whether it could be read or not."""

        def read() -> Trained:
            from ..trained import load_trained
            from .preload import load_torch

            load_torch()
            return load_trained(path)

        in_background(read, lambda trained: then(path.resolve(), trained), self._parent, ended)

    def _asked(self, title: str, offered: str, suffix: str, kinds: str) -> Path | None:
        """Ask for the name of a file with a suffix, with one offered; None if people think better of it."""
        name, _ = QFileDialog.getSaveFileName(self._parent, title, offered + suffix, kinds)
        return self._completed(name, Path(name if name.lower().endswith(suffix) else name + suffix))

    def _completed(self, name: str, path: Path) -> Path | None:
        """The path to write to, None if people think better of it; the dialog has asked about ``name`` as it was."""
        if not name:
            return None
        if path == Path(name) or not path.exists():
            return path
        question = f"{path.name} already exists.\nDo you want to replace it?"
        return path if self._agreed("Save", question) else None

    def _agreed(self, title: str, question: str) -> bool:
        return bool(QMessageBox.question(self._parent, title, question) == QMessageBox.StandardButton.Yes)

    def _add(self, found: list[LayerTuple], then: Callable[[str], None]) -> None:
        from napari.layers import Layer

        layers = [self._viewer.add_layer(Layer.create(*layer)) for layer in found]
        if layers:
            then(layers[0].name)


def as_volume(layer: Image, chosen: dict[str, int] | None = None) -> Volume:
    """A result's layer, or one of its time points, as a volume: voxel size, how it was made, how far to trust it.

    May read files, so it belongs into a worker thread.
    """
    known = at(facts(layer), chosen or {})
    data, scale = in_memory(pixels(layer, chosen or {})), spacing_um(layer)
    found = reliability(known, data)
    return Volume(data, scale, layer.name, known.get("source_dtype", ""), known.get("provenance"), found)


def _measured(known: dict[str, Any]) -> bool:
    """Whether a layer is a file that was not reconstructed: what was made from it must not take its place."""
    return known.get("path") is not None and not was_reconstructed(known.get("provenance"))


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


def tidy(name: str) -> str:
    """A layer's name as a file name."""
    kept = "".join(c if c.isalnum() or c in "-_." else " " for c in name)
    return "_".join(kept.split()) or "volume"


def volume_path(path: Path, zarr: bool) -> Path:
    """The path with a suffix that says the format: as typed, or else the one that was chosen in the dialog."""
    typed = path.suffix.lower()
    if typed == ".zarr" or (typed in (".tif", ".tiff") and not zarr):
        return path
    name = path.name[: -len(path.suffix)].removesuffix(".ome") if typed in (".tif", ".tiff") else path.name
    return path.with_name(name + (".ome.zarr" if zarr else ".ome.tif"))


def _write_beside(stack: ProjectionStack, job: Path) -> Path:
    from ..io import write_projections

    name = job.name.removesuffix(".json").removesuffix(".job") + ".projections.ome.tif"
    return write_projections(stack, job.with_name(name), overwrite=job.exists()).path
