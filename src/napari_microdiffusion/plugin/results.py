"""What runs have made: which result is chosen, its scores, how it lies beside the rest, and where it is kept."""

from __future__ import annotations

from os.path import isfile
from typing import TYPE_CHECKING, Any

from napari.layers import Image
from pydantic import ValidationError
from qtpy.QtCore import QObject, Signal

from ..descriptions import DESCRIPTIONS, in_microns
from ..numbering import numbers_of
from .known import Ran, at, facts, ran_of
from .live import looked_at, show_side_by_side
from .model import choices_of, choices_of_job

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from ..run import Job
    from .files import Files
    from .result_box import ResultBox
    from .trusting import Trusting


def job_in(provenance: dict[str, Any] | None) -> Job | None:
    """The job on record; None where there is none, or it is not of this version."""
    from ..run import Job

    try:
        return Job.model_validate((provenance or {}).get("job"))
    except ValidationError:
        return None


def how(provenance: dict[str, Any] | None, name: str) -> str:
    """How a result was made, where its ``name`` does not tell it from another: method, beam, settings, seed.

    Empty where that is not on record.
    """
    job = job_in(provenance)
    if job is None:
        return ""
    settings = choices_of(job.method)
    changed = ", ".join(f"{path} = {value}" for path, value in settings["overrides"].items())
    acquisition, short = job.acquisition, DESCRIPTIONS[settings["method"]].short
    told = [
        "" if short in name else short,
        acquisition.description,
        f"without projection {numbers_of(acquisition.hidden)}" if acquisition.hidden else "",
        "" if job.scale_um is None else f"voxels of {in_microns(job.scale_um)}",
        "denoised first" if job.denoise else "",
        "" if job.weights is None else f"network {job.weights.name}",
    ]
    if job.method.learned:
        told += [f"{settings['preset']}{f' but {changed}' if changed else ''}", f"seed {job.seed}"]
    else:
        told.append(changed)
    return "; ".join(filter(None, told))


class Results(QObject):
    """Fills the box "Result", and does what is asked there of the chosen result.

    Parameters
    ----------
    box
        Shows, and says what people want.
    """

    wanted = Signal(object)  # choices that a setup is to take over

    def __init__(self, viewer: Viewer, box: ResultBox, trust: Trusting, files: Files, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer, self._box, self._trust, self._files = viewer, box, trust, files
        self._fitted = (1, 1)
        self._shown: dict[str, int] = {}
        box.chosen.connect(self.show)
        box.save.connect(self.save)
        box.save_weights.connect(self.save_weights)
        box.reuse.connect(self.reuse)
        box.side_by_side.connect(self.arrange)
        trust.rearranged.connect(self.arrange)

    def layers(self) -> list[Image]:
        """Layers that runs have made, the newest last."""
        return [x for x in self._viewer.layers if isinstance(x, Image) and facts(x).get("role") == "result"]

    def runs(self) -> list[Ran]:
        """What is kept of the runs that made them."""
        return [ran for layer in self.layers() if (ran := ran_of(facts(layer))) is not None]

    def chosen(self) -> Image | None:
        """The layer chosen in the box."""
        return next((layer for layer in self.layers() if layer.name == self._box.current()), None)

    def offer(self, chosen: str = "") -> None:
        """Offer what there is, with one chosen by name, else the newest."""
        offered = {layer.name: how(self._known(layer).get("provenance"), layer.name) for layer in self.layers()}
        newest = next(reversed(offered), None)
        self._box.offer(offered, chosen if chosen in offered else newest)

    def show(self) -> None:
        """Show what is known of the chosen one."""
        layer = self.chosen()
        self._shown = {} if layer is None else looked_at(self._viewer, layer)
        self._trust.show(layer)
        known = {} if layer is None else self._known(layer)
        self._box.show_known(known, job_in(known.get("provenance")) is not None)

    def look(self, *_: object) -> None:
        """The sliders have moved: of a movie another time point may be looked at."""
        layer = self.chosen()
        if layer is not None and "times" in facts(layer) and looked_at(self._viewer, layer) != self._shown:
            self.show()

    def show_new(self, name: str) -> None:
        """A result has come beside runs."""
        self.arrange()
        self.offer(name)
        self.show()

    def _known(self, layer: Image) -> dict[str, Any]:
        """What is known of a result, of a movie at the time point that is looked at."""
        return at(facts(layer), looked_at(self._viewer, layer))

    def arrange(self) -> None:
        """Layers side by side or on top of one another, as the box says."""
        self._fitted = show_side_by_side(self._viewer, self._box.grid.isChecked(), self._fitted)

    def reuse(self) -> None:
        """Take over how the chosen one was made, whatever image is chosen now."""
        layer = self.chosen()
        job = None if layer is None else job_in(self._known(layer).get("provenance"))
        if job is not None:
            there = job.weights if job.weights is not None and isfile(job.weights) else None
            self.wanted.emit(choices_of_job(job) | {"weights": there})

    def save(self) -> None:
        """Save the chosen one's volume."""
        layer = self.chosen()
        if layer is not None:
            self._files.save(layer, looked_at(self._viewer, layer))

    def save_weights(self) -> None:
        """Save the chosen one's network."""
        layer = self.chosen()
        if layer is not None:
            self._files.save_weights(layer)
