"""From options to a job that has been checked: every refusal comes from here, before any work."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .. import io
from ..acquisition import Acquisition
from ..checkpoint import SUFFIXES as WEIGHTS_SUFFIXES
from ..checks import bytes_to_write, check_base
from ..descriptions import in_microns
from ..events import InvalidInput
from ..methods import Weights
from ..numbering import numbered
from ..presets import name_of
from ..run import Job, check
from ..trained import Trained, load_trained
from ..volume import ProjectionStack
from .console import quoted
from .values import acquisition_of, given, job_of, method_of, voxel_size_of


@dataclass(frozen=True)
class Options:
    """The options of ``reconstruct`` as given; None where they were left out."""

    projections: Path | None = None
    output: Path | None = None
    slices: int | None = None
    stride: int | None = None
    profile: str | None = None
    fwhm: float | None = None
    leave_out: str | None = None
    method: str | None = None
    preset: str | None = None
    set_: list[str] | None = None
    seed: int | None = None
    device: str | None = None
    channel: int | None = None
    time: int | None = None
    voxel_size: str | None = None
    denoise: bool | None = None
    job: Path | None = None
    weights: Path | None = None
    base: Path | None = None
    save_weights: Path | None = None
    dtype: str | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class Prepared:
    """A job with all that it needs, ready to run.

    Parameters
    ----------
    record
        Of a replayed job: what is known of the run before.
    """

    job: Job
    stack: ProjectionStack
    trained: Trained | None
    output: Path
    record: dict[str, Any] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)

    @property
    def weights(self) -> Weights | None:
        """Those to be used instead of training."""
        return None if self.trained is None else self.trained.weights


def prepare(options: Options) -> Prepared:
    """Check everything: input, settings, output, space, memory, device.

    Raises
    ------
    InvalidInput, DeviceUnavailable, TooLarge
        Saying what to change.
    """
    if options.dtype is not None and options.dtype not in io.EXPORT_TYPES:
        raise InvalidInput(f"there is no --dtype {options.dtype}; use {', '.join(io.EXPORT_TYPES)}")
    if options.base is not None and options.weights is not None:
        raise InvalidInput("a base model is trained weights: give --base or --weights, not both")
    if options.output is not None:
        io.check_output(options.output, 0, options.overwrite)
    draft = _replayed(options, options.job) if options.job else _ordered(options)
    check_base(draft.job.method, draft.trained is not None)
    _check_saving(options, draft)
    source = draft.job.projections
    assert source is not None
    if options.job and not source.exists():
        raise InvalidInput(
            f"there is no file {source}, which the job names; say where it is now: reconstruct STACK --job "
            f"{quoted(options.job)}"
        )
    described = io.inspect(source)
    described.check_projections(source.name)
    job, stack, told = _read(options, draft, source)
    output = options.output or Path(f"{stack.name}_{name_of(job.method)}.ome.tif")
    io.check_distinct(output, source)
    io.check_output(output, bytes_to_write(job.method, stack, options.dtype), options.overwrite)
    if job.method.gives_reliability:
        io.check_beside(output)
    check(job, stack)
    known = None if draft.trained is None else draft.trained.check(stack, job.denoise)
    notices = [contradicted(described, stack), _saved_as_volume(described), told, known]
    return Prepared(job, stack, draft.trained, output, draft.record, list(filter(None, notices)))


def _check_saving(options: Options, draft: _Draft) -> None:
    """Refuse to save weights where nothing is trained, or where they cannot be written."""
    if options.save_weights is None:
        return
    method = draft.job.method
    if not method.learned:
        raise InvalidInput(f"{name_of(method)} trains nothing: leave --save-weights out")
    if draft.trained is not None and not method.refines:
        raise InvalidInput("with trained weights nothing is trained: leave --save-weights out")
    if draft.job.weights is not None:
        io.check_distinct(options.save_weights, draft.job.weights, WEIGHTS_SUFFIXES)
    io.check_output(options.save_weights, 0, options.overwrite, WEIGHTS_SUFFIXES)


def _read(options: Options, draft: _Draft, source: Path) -> tuple[Job, ProjectionStack, str | None]:
    """The job with the projections as they are in the file, these, and what to say of their voxel size."""
    job, told = draft.job, None
    stack = io.read_projections(source, draft.acquisition, job.channel, job.time)
    if draft.others is not None and draft.record.get("input_sha256") not in (None, stack.sha256):
        stack = io.read_projections(source, draft.others, job.channel, job.time)
    if options.leave_out is not None:
        stack = stack.leaving_out(numbered(options.leave_out))
    if job.scale_um is not None and _knows_better(stack, draft, options):
        told = _overruled(job.scale_um, stack)
        job = job.model_copy(update={"scale_um": None})
    stack = stack if job.scale_um is None else stack.with_voxels(job.scale_um)
    return job.model_copy(update={"acquisition": stack.acquisition}), stack, told


def contradicted(described: io.FileInfo, stack: ProjectionStack) -> str | None:
    """What to say where a file of projections says of itself that they were made in another way than is stated."""
    own, stated = described.acquisition, stack.acquisition
    if own is None or own.alike(stated):
        return None
    return f"{described.name} says of itself {own.description}, and is taken to be of {stated.description}, as stated"


def _saved_as_volume(described: io.FileInfo) -> str | None:
    """What to say where this software saved a file, and not as projections."""
    if described.saved_as != "volume":
        return None
    return (
        f"{described.name} was saved as a stack of slices, and is taken for projections: if it is a fully sampled "
        "volume, simulate makes projections of it"
    )


@dataclass(frozen=True)
class _Draft:
    """A job whose acquisition is still to come from the file where it is None.

    Parameters
    ----------
    others
        The acquisition if the file turns out to hold other projections than the job was run on.
    """

    job: Job
    acquisition: Acquisition | None
    trained: Trained | None = None
    record: dict[str, Any] = field(default_factory=dict)
    others: Acquisition | None = None


def _ordered(options: Options) -> _Draft:
    """From options alone."""
    if options.projections is None or options.output is None:
        raise InvalidInput("give the projection stack and -o, where to write the volume; or --job")
    acquisition = acquisition_of(options.slices, options.stride, options.profile, options.fwhm)
    method, trained = method_of(options.method, options.preset, options.set_, options.weights, options.base)
    weights = options.base or options.weights
    if trained is not None:
        before = trained.origin.acquisition.unbound
        acquisition = acquisition or io.written_acquisition(options.projections) or before
    job = job_of(
        method=method,
        projections=options.projections.resolve(),
        channel=options.channel,
        time=options.time,
        scale_um=voxel_size_of(options.voxel_size),
        denoise=bool(options.denoise),
        weights=weights and weights.resolve(),
        seed=options.seed or 0,
        device=options.device or "auto",
    )
    return _Draft(job, acquisition, trained)


def _replayed(options: Options, path: Path) -> _Draft:
    """From a job file, or from the provenance of a volume that this software saved."""
    alone = () if options.projections is not None else ("voxel_size", "leave_out", "channel", "time")
    _refuse_beside_job(options, (*alone, "denoise", "method", "preset", "set_", "seed"))
    values, record = io.read_job(path)
    if "acquisition" in values:
        _refuse_beside_job(options, ("slices", "stride", "profile", "fwhm"))
    job = job_of(**values)
    source = options.projections or job.projections
    if source is None:
        raise InvalidInput(f"the job in {path.name} names no file of projections: give it as an argument")
    if options.projections is None:
        source = path.parent / source  # stays as it is where it is absolute
    changes: dict[str, Any] = {"projections": source.resolve(), "device": options.device or job.device}
    if options.projections is not None:
        changes |= _places(options, job)
    weights = options.base or options.weights or _named_weights(job, path)
    if weights is not None:
        changes["weights"] = weights.resolve()
    if options.voxel_size is not None:
        changes["scale_um"] = voxel_size_of(options.voxel_size)
    trained = None if weights is None else load_trained(changes["weights"], method=job.method)
    others = None
    if "acquisition" in values:
        acquisition: Acquisition | None = job.acquisition
    else:
        acquisition = acquisition_of(options.slices, options.stride, options.profile, options.fwhm)
    if acquisition is not None and options.projections is not None:
        acquisition, others = _fitted(acquisition, options.projections)
    return _Draft(job_of(**{**job.model_dump(), **changes}), acquisition, trained, record, others)


def _named_weights(job: Job, path: Path) -> Path | None:
    """The file of trained weights that a job names."""
    if job.weights is None:
        return None
    named = path.parent / job.weights
    if not named.exists():
        option = "--base" if job.method.pretrained else "--weights"
        raise InvalidInput(
            f"there is no weights file {named}, which the job names; say where it is now: reconstruct --job "
            f"{quoted(path)} {option} FILE"
        )
    return named


def _places(options: Options, job: Job) -> dict[str, int | None]:
    """Channel and time point of a file that is named beside a job: as stated, else the job's, where it has several."""
    assert options.projections is not None
    found = io.inspect(options.projections)
    several = {"channel": found.channels > 1, "time": found.times > 1}
    stated = {key: getattr(options, key) for key in several}
    own = {key: getattr(job, key) if there else None for key, there in several.items()}
    return {key: own[key] if stated[key] is None else stated[key] for key in several}


def _refuse_beside_job(options: Options, names: tuple[str, ...]) -> None:
    if told := given(options, names):
        raise InvalidInput(f"--job brings its own settings: leave {told} out, or edit the job file")


def _fitted(acquisition: Acquisition, projections: Path) -> tuple[Acquisition, Acquisition]:
    """The acquisition of a job for a file: if that holds the projections it was run on, and if it holds others."""
    found = io.inspect(projections)
    if (own := found.acquisition) is not None:
        others = acquisition.replace(count=own.count, hidden=own.hidden)
        same = own.count == acquisition.count
        return others.leaving_out(acquisition.hidden) if same else others, others
    others = acquisition.unbound
    same = acquisition.count is None or found.images in (acquisition.count, len(acquisition.shown))
    return acquisition if same else others, others


def _knows_better(stack: ProjectionStack, draft: _Draft, options: Options) -> bool:
    """Whether the file of projections other than a job's own states its voxel size."""
    elsewhere = options.job is not None and options.projections is not None and options.voxel_size is None
    return elsewhere and stack.scale_um is not None and stack.sha256 != draft.record.get("input_sha256")


def _overruled(job: tuple[float, float, float], stack: ProjectionStack) -> str | None:
    """What to say where a file of other projections states another voxel size than the job; None where they agree."""
    own = stack.volume_scale_um
    if own is None or np.allclose(own, job):
        return None
    return (
        f"the job states voxels of {in_microns(job)}, and {stack.name} voxels of {in_microns(own)}, which are taken: "
        "--voxel-size would overrule them"
    )
