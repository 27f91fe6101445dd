"""What a volume is compared with: the projections it was made from, and the recipe to be tried on hidden ones.

Both are as the options of ``evaluate`` say, else as the volume's own record does.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from .. import io
from ..acquisition import Acquisition
from ..events import InvalidInput
from ..methods import Method
from ..numbering import numbered
from ..presets import METHODS, name_of, override, spec
from ..run import Job
from ..volume import ProjectionStack, Volume
from .console import note
from .values import job_of, method_of, overrides_of, voxel_size_of


@dataclass(frozen=True)
class Options:
    """The options of ``evaluate`` as given; None where they were left out."""

    volume: Path
    truth: Path | None = None
    projections: Path | None = None
    slices: int | None = None
    stride: int | None = None
    profile: str | None = None
    fwhm: float | None = None
    leave_out: str | None = None
    channel: int | None = None
    time: int | None = None
    voxel_size: str | None = None
    held_out: bool = False
    folds: int | None = None
    method: str | None = None
    preset: str | None = None
    set_: list[str] | None = None
    base: Path | None = None
    denoise: bool | None = None
    device: str | None = None


def recipe_of(options: Options, volume: Volume) -> Job:
    """The job that made the volume, as it is on record, with what the options change; or from the options alone."""
    record = volume.provenance or {}
    before = _job_on_record(record, options)
    method = _method(options, before)
    changes: dict[str, Any] = {"method": method, "channel": options.channel, "time": options.time}
    changes |= {"scale_um": voxel_size_of(options.voxel_size), "device": options.device}
    changes |= {"denoise": options.denoise, "weights": options.base and options.base.resolve()}
    changes = {key: value for key, value in changes.items() if value is not None}
    kept = before.model_dump() if before else {}
    if before and name_of(method) != name_of(before.method):
        kept["weights"] = None  # they are another method's
    if before and options.denoise not in (None, before.denoise) and not method.pretrained:
        kept["weights"] = None  # they have learned from other images
    return job_of(**{**kept, **changes})


def _job_on_record(record: dict[str, Any], options: Options) -> Job | None:
    """None without one, or where it is another version's and the options have a method of their own."""
    if not isinstance(record.get("job"), dict):
        return None
    try:
        return job_of(**record["job"])
    except InvalidInput as error:
        told = f"the record of how {options.volume.name} was made is not one of this version ({error})"
        if options.method is None and options.base is None:
            raise InvalidInput(f"{told}: choose a --method, with --preset and --set if you like") from error
        note(f"note: {told}, and is not used")
        return None


def _method(options: Options, before: Job | None) -> Method:
    if options.base is not None:
        return method_of(options.method, options.preset, options.set_, base=options.base)[0]
    overrides = overrides_of(options.set_ or [])
    name = options.method or (name_of(before.method) if before else None)
    if name is None:
        raise InvalidInput(
            f"{options.volume.name} does not say how it was made, so there is no recipe to score: "
            f"choose a --method ({', '.join(METHODS)}), with --preset and --set if you like"
        )
    if before is None or options.method is not None or options.preset is not None:
        return spec(name, options.preset or "preview", overrides)
    return override(before.method, overrides)


def stack_of(
    options: Options, acquisition: Acquisition | None, recipe: Job | None, volume: Volume
) -> ProjectionStack | None:
    """The projections, as the options describe them, else the record of the volume that was made from them.

    Of other projections their own file knows best, if it says anything.
    """
    if options.projections is None:
        return None
    path, channel, time = chosen(options.projections, recipe or _where(options, volume))
    recorded = _recorded(volume)
    like = recorded and recorded.unbound
    stack = io.read_projections(path, acquisition or io.written_acquisition(path) or like, channel, time)
    made_from = (volume.provenance or {}).get("input_sha256")
    stack = _as_used(stack, recorded, made_from)
    same = stack.sha256 == made_from
    stack = replace(stack, acquisition=recorded) if acquisition is None and recorded and same else stack
    if options.leave_out is not None:
        stack = stack.leaving_out(numbered(options.leave_out))
    known = same or stack.scale_um is None or options.voxel_size is not None
    size = recipe.scale_um if recipe and known else None
    return stack if size is None else stack.with_voxels(size)


def _as_used(stack: ProjectionStack, recorded: Acquisition | None, made_from: str | None) -> ProjectionStack:
    """Without the projections that the volume was made without, where the others prove to be those it is made from."""
    if recorded is not None and recorded.hidden and recorded.count == stack.acquisition.count:
        with suppress(InvalidInput):  # too few would be left
            used = stack.leaving_out(recorded.hidden)
            return used if used.sha256 == made_from else stack
    return stack


def _recorded(volume: Volume) -> Acquisition | None:
    """The acquisition that a volume says it was made for."""
    job = (volume.provenance or {}).get("job")
    with suppress(ValidationError):  # the record is the file's: it may say anything
        if isinstance(job, dict) and job.get("acquisition") is not None:
            return Acquisition.model_validate(job["acquisition"])
    return None


def chosen(path: Path, wanted: Options | Job) -> tuple[Path, int | None, int | None]:
    """A file, and which of its channels and time points is wanted, where it has several."""
    found = io.inspect(path)
    return path, wanted.channel if found.channels > 1 else None, wanted.time if found.times > 1 else None


def _where(options: Options, volume: Volume) -> Options:
    """The options, with channel and time point as the volume was made from where they are left out."""
    job = (volume.provenance or {}).get("job")
    places: dict[str, Any] = {}
    for name in ("channel", "time"):
        place = job.get(name) if isinstance(job, dict) else None
        if getattr(options, name) is None and isinstance(place, int) and place >= 0:
            places[name] = place
    return replace(options, **places)
