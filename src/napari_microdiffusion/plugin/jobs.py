"""Jobs as files: what a run is made of, saved for the command line and for another day, and taken over again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from napari.layers import Image
from napari.utils.notifications import show_info
from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import QWidget

from ..events import InvalidInput
from ..presets import checked
from .background import in_background
from .dialogs import SAVE_FIRST, agreed, file_asked, job_asked
from .known import facts
from .layers import header
from .model import PLACES, Setup, choices_of_job, covered

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from ..io import FileInfo
    from ..run import Job
    from ..volume import ProjectionStack
    from .base import Bases
    from .basing import Basing
    from .files import Files

Chosen = tuple[Setup, Image | None]
"""What is chosen in the panel, and its layer."""


class Jobs(QObject):
    """Saves what is chosen, and gives what was saved.

    Parameters
    ----------
    chosen
        What is chosen now.
    """

    found = Signal(str)  # the layer that a job is for
    wanted = Signal(object)  # choices that a setup is to take over

    def __init__(
        self,
        viewer: Viewer,
        chosen: Callable[[], Chosen],
        bases: Bases,
        basing: Basing,
        files: Files,
        parent: QWidget,
    ) -> None:
        super().__init__(parent)
        self._viewer, self._chosen, self._files, self._panel = viewer, chosen, files, parent
        self._bases, self._basing = bases, basing

    # -- to files ----------------------------------------------------------------------------

    def save(self) -> None:
        """Ask for a name and save the job, its base model before it."""
        setup, source = self._chosen()
        base = self._bases.chosen(setup)
        if base is not None and base.path is None:
            if agreed(self._panel, "Save job", SAVE_FIRST):
                self._basing.save(self.save)
        elif source is not None:
            path = file_asked(self._panel, "Save job", f"{setup.title} {source.name}.job", ".json", "Job (*.json)")
            if path is not None:
                self.write(setup, source, path)

    def write(self, setup: Setup, source: Image, path: Path) -> None:
        """Save a job that the command line replays, and its projections beside it where they are in no file yet."""
        from ..io.target import check_output, replacing
        from .session import loader, replayable

        where, about = replayable(source, setup), header(source)
        load = loader(setup.replace(leave_out=""), source, None)  # all of them: the job says which are not used

        def write() -> str:
            check_output(path, 0, True, (".json",))
            if where[0] is not None:
                job, beside = setup.job(*where), ""
            else:
                projections = _write_beside(load()[0], path)
                job, beside = setup.job(projections), f", and its projections {projections.name} beside it"
            if setup.leave_out:
                job = job.model_copy(update={"acquisition": covered(setup, about)})
            with replacing(path, True) as temporary:
                temporary.write_text(job.model_dump_json(indent=2), "utf-8")
            return f"Saved {path}{beside}. Repeat it with: napari-microdiffusion reconstruct --job {path.name}"

        in_background(write, show_info)

    # -- from files --------------------------------------------------------------------------

    def load(self) -> None:
        """Ask for a job, and take it over."""
        path = job_asked(self._panel)
        if path is not None:
            self.take_over(path)

    def take_over(self, path: Path) -> None:
        """A job's settings, for its own image where that is still there, else for the one that is chosen."""
        in_background(lambda: _read(path), self._open, self._panel)

    def _open(self, read: tuple[Job, list[str]]) -> None:
        """Have the job's image, if there is one, then the settings."""
        job, told = read
        for each in told:
            show_info(each)
        if job.projections is None:
            choices = choices_of_job(job) | {"device": job.device}
            choices.pop("leave_out", None)  # numbers of other images
            self.wanted.emit(choices)
        elif self._layer(job) is not None:
            self._set(job)
        else:
            self._files.open(job.projections, lambda _: self._set(job))

    def _set(self, job: Job) -> None:
        """Choose the job's image, which is open, then what is to be done with it."""
        layer = self._layer(job)
        if layer is None:  # closed meanwhile
            return
        self.found.emit(layer.name)
        stated = {} if job.scale_um is None else {"scale_um": job.scale_um}
        self.wanted.emit(choices_of_job(job) | {"simulate": False, "time": job.time, "device": job.device} | stated)

    def _layer(self, job: Job) -> Image | None:
        """The layer of a job's projections, where it is open."""
        wanted = str(job.projections), job.channel or 0
        for layer in self._viewer.layers:
            known = facts(layer) if isinstance(layer, Image) else {}
            if (known.get("path"), known.get("channel") or 0) == wanted:
                return layer
        return None


def _read(path: Path) -> tuple[Job, list[str]]:
    """A job from a file, its paths absolute, without projections that are not there; and what to say of it.

    Raises
    ------
    InvalidInput
        If it is no job that this window can run.
    """
    from ..io import inspect, read_job
    from ..run import Job

    values, _ = read_job(path)
    try:
        job = checked(Job.model_validate, values)
        checked(Setup.model_validate, choices_of_job(job))
    except InvalidInput as error:
        raise InvalidInput(f"{path.name} holds no job for this window: {error}") from error
    network = job.weights and (path.parent / job.weights).resolve()
    if network and not network.is_file():
        raise InvalidInput(f"the job in {path.name} uses the network {network}, which is not there: put it back first")
    told, images = [], job.projections and (path.parent / job.projections).resolve()
    if images is None:
        told.append(f"{path.name} does not say which images it is for: only its settings are taken over")
    elif not images.exists():
        told.append(f"{images} is not there: only the settings of {path.name} are taken over")
        images = None
    else:
        told += _checked(inspect(images), images.name, job)
    if job.precision != "auto":
        told.append(f"{path.name} asks to calculate in {job.precision}, which cannot be chosen here")
    return job.model_copy(update={"projections": images, "weights": network}), told


def _checked(found: FileInfo, name: str, job: Job) -> list[str]:
    """What to say of the images of a job, that its file and it leave open.

    Raises
    ------
    InvalidInput
        If they are no projections, or not as many as the job is for.
    """
    found.check_projections(name, job.channel, job.time)
    if job.acquisition.count not in (None, found.images):
        raise InvalidInput(
            f"{name} has {found.images} images, and the job is for {job.acquisition.count} projections: "
            "this window needs all of them, and no others"
        )
    told = []
    if found.acquisition is None and "acquisition" not in job.model_fields_set:
        told.append(f"neither the job nor {name} says how the projections were made: set slices, stride and profile")
    for axis, count in (("channel", found.channels), ("time", found.times)):
        if getattr(job, axis) is None and count > 1:
            told.append(f"{name} has {count} {PLACES[axis]}s, and the job names none: the first is chosen")
    return told


def _write_beside(stack: ProjectionStack, job: Path) -> Path:
    """Save the projections of a job in a file beside it, named as it is."""
    from ..io import write_projections

    name = job.name.removesuffix(".json").removesuffix(".job") + ".projections.ome.tif"
    return write_projections(stack, job.with_name(name), overwrite=job.exists()).path
