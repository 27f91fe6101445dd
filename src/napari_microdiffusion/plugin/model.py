"""The one model that the dock widget edits: what to reconstruct, how, and with which method. Knows no Qt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ..acquisition import MINIMUM_PROJECTIONS, Acquisition
from ..descriptions import DESCRIPTIONS
from ..events import InvalidInput
from ..hardware import Device
from ..images import check_image, check_lateral
from ..numbering import numbered, numbers_of
from ..presets import PRESETS, PresetName, flat, name_of, spec

if TYPE_CHECKING:
    from ..methods import Method
    from ..pretraining import Pretraining
    from ..run import Job

PRESET_HINTS = {
    "preview": "minutes on a CPU",
    "standard": "larger, for a GPU",
    "paper": "the papers' numbers, for a GPU",
}


UNNAMED = (
    "its last three axes are taken for {}, y and x. If they are others, open the file with Open… above, which "
    "reads what the file says of its axes"
)
"""Of a layer with more axes than three, as napari's own reader leaves it."""

ALIKE = "{} was itself reconstructed, so scores only tell how much alike both are"
PLACES = {"channel": "channel", "time": "time point"}
"""What people read for the axes to choose from."""


class Setup(BaseModel):
    """All that the widget lets people choose. Layers are named, not held, so that a setup can be stored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field("", description="name of the layer with the projections, or with the volume to simulate from")
    channel: int | None = Field(None, ge=0, description="channel to use, where the layer has several")
    time: int | None = Field(None, ge=0, description="time point to use, where the layer has several")
    simulate: bool = Field(False, description="the layer is a full volume: make projections from it")
    truth: str = Field("", description="name of the layer with the ground truth; empty: none")
    acquisition: Acquisition = Acquisition()
    leave_out: str = Field("", description="projections not to be used, by their numbers, counted from 1: 3, 7-9")
    denoise: bool = Field(False, description="take the noise off the projections first")
    scale_um: tuple[float, float, float] | None = Field(
        None, description="voxel size of the volume (z, y, x) in µm; None: not stated"
    )
    method: str = "axial"
    preset: PresetName = "preview"
    overrides: dict[str, Any] = Field({}, description="dotted settings over the preset")
    weights: Path | None = Field(None, description="file of a trained network to use instead of training")
    seed: int = Field(0, ge=0, lt=2**31)
    device: Device = "auto"

    def spec(self) -> Method:
        """The method with all its settings.

        Raises
        ------
        InvalidInput
            For a setting that does not exist or is out of range; names it and its range.
        """
        return spec(self.method, self.preset, self.overrides)

    def job(self, projections: Path | None = None, channel: int | None = None, time: int | None = None) -> Job:
        """The job of this setup; it can be replayed from the file ``projections``, its channel and time point."""
        from ..run import Job

        return Job(
            method=self.spec(),
            acquisition=self.acquisition,
            projections=projections,
            channel=channel,
            time=time,
            scale_um=self.scale_um,
            denoise=self.denoise,
            weights=self.weights,
            seed=self.seed,
            device=self.device,
        )

    def pretraining(self) -> Pretraining:
        """The plan of a base model with these settings, for this acquisition."""
        from ..pretraining import Pretraining

        return Pretraining(method=self.spec(), acquisition=self.acquisition, seed=self.seed, device=self.device)

    @property
    def chosen(self) -> dict[str, int]:
        """Channel and time point, for layers that have several."""
        return {"channel": self.channel or 0, "time": self.time or 0}

    @property
    def title(self) -> str:
        """``<method> <preset>``, the first part of a result's name; methods with nothing to set have no preset."""
        name = DESCRIPTIONS[self.method].short
        return f"{name} {self.preset}" if self.spec().learned else name

    def replace(self, **changes: Any) -> Setup:
        """A validated copy with some fields changed."""
        return Setup.model_validate({**dict(self), **changes})


def choices_of(method: Method) -> dict[str, Any]:
    """Fields of a setup that stand for a spec: its name, the preset that is nearest, and what differs from that."""
    name = name_of(method)
    wanted = {path: value for path, value in flat(method.model_dump()).items() if path not in method.idle}
    presets = {preset: flat(spec(name, preset).model_dump()) for preset in PRESETS}
    differing = {preset: {k: v for k, v in wanted.items() if v != values.get(k)} for preset, values in presets.items()}
    nearest = min(differing, key=lambda preset: len(differing[preset]))
    return {"method": name, "preset": nearest, "overrides": differing[nearest]}


def choices_of_job(job: Job) -> dict[str, Any]:
    """Fields of a setup that stand for a job, whatever its image; no beam where that is left to the image."""
    choices = choices_of(job.method) | {"denoise": job.denoise, "seed": job.seed, "weights": job.weights}
    if "acquisition" in job.model_fields_set:
        acquisition = job.acquisition
        choices |= {"acquisition": acquisition.unbound, "leave_out": numbers_of(acquisition.hidden)}
    return choices


@dataclass(frozen=True)
class Header:
    """What a layer's header says, without looking at its pixels: enough to refuse what cannot work.

    Parameters
    ----------
    name
        The layer's.
    shape
        After one channel and one time point are chosen.
    dtype
        numpy's name of it.
    rgb
        Whether it is a colour image.
    lacking
        Projections that were acquired and are not among its images.
    acquisition
        How its file says that its projections were made; None where it does not.
    made
        Whether it is a volume that was reconstructed.
    turned
        Whether the layer is shown rotated, sheared, or transformed by a matrix.
    choices
        How many channels and time points there are to choose from, where there are any.
    unnamed
        Whether it has such axes, and nothing says which of its axes is which.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    rgb: bool = False
    lacking: int = 0
    acquisition: Acquisition | None = None
    made: bool = False
    turned: bool = False
    choices: Mapping[str, int] = field(default_factory=dict)
    unnamed: bool = False

    def check(self) -> None:
        """Refuse what is not a stack of grey images.

        Raises
        ------
        InvalidInput
            Saying what to do.
        """
        if self.rgb:
            raise InvalidInput(f"{self.name} is a colour image: split it into channels first (right-click the layer)")
        check_image(np.broadcast_to(np.empty((), self.dtype), self.shape), self.name)  # takes no memory
        check_lateral(self.shape, self.name)


def covered(setup: Setup, source: Header) -> Acquisition:
    """The acquisition, bound to as many projections as the source has or, when simulating, gives; without some.

    Raises
    ------
    InvalidInput
        If the source cannot be used, or there would be fewer than three projections, or those to be left out are not
        there.
    """
    source.check()
    if setup.simulate:
        return setup.acquisition.fitted(source.shape[0])
    if source.shape[0] < MINIMUM_PROJECTIONS:
        raise InvalidInput(
            f"{source.name} has {source.shape[0]} images; at least {MINIMUM_PROJECTIONS} projections are needed"
            + (f": {UNNAMED.format('projections')}" if source.unnamed else "")
        )
    if source.lacking:
        raise InvalidInput(
            f"{source.name} lacks {source.lacking} of the projections that were acquired, which this window cannot "
            "place: use all of them, or the command line, which leaves gaps where they belong"
        )
    return setup.acquisition.bound(source.shape[0]).leaving_out(numbered(setup.leave_out))


def plan(setup: Setup, source: Header | None, truth: Header | None = None) -> str:
    """What will be built, in one sentence.

    Raises
    ------
    InvalidInput
        What is wrong with the choices, before any pixel is looked at.
    """
    if source is None:
        raise InvalidInput("Choose an image: open a file, or File › Open Sample › microdiffusion")
    if setup.scale_um is not None and min(setup.scale_um) <= 0:
        raise InvalidInput(
            f"a voxel cannot measure {_by(setup.scale_um)} µm: give sizes above 0 (a layer that is shown mirrored has "
            "a negative scale: make it positive)"
        )
    acquisition = covered(setup, source)
    depth, (y, x) = acquisition.depth, source.shape[1:]
    if truth is not None and not setup.simulate:
        truth.check()
        if truth.shape != (depth, y, x):
            raise InvalidInput(
                f"the ground truth {truth.name} is {_by(truth.shape)}, but the volume will be {_by((depth, y, x))}: "
                "choose another one, or check slices and stride"
            )
    unsuited = setup.spec().unsuited(acquisition)
    if unsuited is not None:
        raise InvalidInput(f"{DESCRIPTIONS[setup.method].short} {unsuited}")
    size = "voxel size not stated" if setup.scale_um is None else f"{_by(setup.scale_um)} µm voxels"
    used = f"{len(acquisition.shown)} of {acquisition.count}" if acquisition.hidden else f"{acquisition.count}"
    quiet = ", denoised first" if setup.denoise else ""
    built = f"{used} projections of {_by((y, x))}{quiet} → a volume of {_by((depth, y, x))} (z, y, x), {size}"
    if setup.simulate and depth < source.shape[0]:
        built += f". The last {source.shape[0] - depth} of {source.shape[0]} slices fill no projection and are left out"
    return built


def beware(
    setup: Setup, source: Header | None, truth: Header | None = None, trained_for: Acquisition | None = None
) -> str:
    """What people should know of choices that work: one sentence each, empty if there is nothing.

    Parameters
    ----------
    trained_for
        What the projections of the network in use were; None where there is none, or it is not known.
    """
    if source is None:
        return ""
    told = []
    own, whole = source.acquisition, source if setup.simulate else truth
    if setup.simulate and own is not None:
        told.append(f"{source.name} holds projections, says its file, and no full volume")
    elif own is not None and not own.alike(setup.acquisition):
        told.append(f"the file of {source.name} says {own.description}")
    if trained_for is not None and not trained_for.alike(setup.acquisition):
        told.append(f"the network was trained for {trained_for.description}")
    if whole is not None and whole.made:
        told.append(ALIKE.format(whole.name))
    if source.unnamed:
        what = "z" if setup.simulate else "projections"
        guessed = ", ".join(f"axis {i} is taken for {PLACES[axis]}s" for i, axis in enumerate(source.choices, 1))
        told.append(f"{source.name} does not name its axes: {guessed}, and {UNNAMED.format(what)}")
    if truth is not None and not setup.simulate:
        lacking = [axis for axis, count in truth.choices.items() if count <= setup.chosen[axis]]
        told += [f"{truth.name} has no {PLACES[a]} {setup.chosen[a]}: its last one is used instead" for a in lacking]
    if source.turned:
        told.append(f"{source.name} is shown rotated, sheared or otherwise transformed, and the result will not be")
    return " ".join(f"Beware: {each}." for each in told)


def _by(numbers: tuple[float, ...]) -> str:
    return " × ".join(f"{number:.4g}" if number < 1e4 else f"{number:.0f}" for number in numbers)
