"""What ``evaluate`` does: scores against the truth, against the projections, and of a recipe on hidden projections."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from .. import io
from ..acquisition import Acquisition
from ..checkpoint import VolumeRecord
from ..checks import check_base, spoilt
from ..events import InvalidInput, RunFailed
from ..methods import Method, Weights, heldout
from ..metrics import evaluate, scales_apart
from ..numbering import numbered
from ..presets import METHODS, name_of, override, spec
from ..pretraining import trained_on
from ..provenance import check_no_map, found_in, was_denoised, was_reconstructed
from ..run import Job, check
from ..trained import TOO_GOOD, load_trained
from ..trust import FOLDS, held_out
from ..volume import ProjectionStack, Volume
from .console import INTERRUPTED, Interrupt, follow, note
from .jobs import contradicted
from .values import acquisition_of, given, job_of, method_of, overrides_of, voxel_size_of

LABELS = {
    "psnr": ("PSNR, mean of slices", "dB"),
    "psnr_volume": ("PSNR, whole volume", "dB"),
    "ssim": ("SSIM, mean of slices", ""),
    "dice": ("DICE, Otsu threshold", ""),
    "coverage_90": ("truth in the 90 % interval", "of the voxels"),
    "coverage_90_bright": ("the same where it is bright", "of the voxels"),
    "flagged_error_ratio": ("error², flagged / others", "times"),
    "reprojection_max_error": ("largest reprojection error", ""),
    "held_out_psnr": ("PSNR, held-out projections", "dB"),
}


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


def evaluated(options: Options) -> tuple[dict[str, Any], int]:
    """Scores, JSON-ready, and the exit code.

    8 and 16 bit exports count on the intensity scale they were exported from.

    Raises
    ------
    InvalidInput
        Saying what to give, or what does not belong together.
    """
    acquisition = acquisition_of(options.slices, options.stride, options.profile, options.fwhm)
    _check(options, acquisition)
    found = io.read_volume(*_chosen(options.volume, options))
    check_no_map(found.provenance, found.name)
    recipe = _recipe(options, found) if options.held_out else None
    known = None if options.truth is None else io.read_volume(*_chosen(options.truth, options))
    if known is not None:
        check_no_map(known.provenance, known.name)
        _warn_of_known(found, known)
    if (found.provenance or {}).get("complete") is False:
        note(f"note: {found.name} is partial: the run that made it was stopped")
    if found_in(found.provenance).get("fell_back"):
        note(f"note: {found.name} is plain interpolation: hidden projections asked for it in place of the method")
    stack = _stack(options, acquisition, recipe, found)
    values: dict[str, Any] = dict(evaluate(found, known, stack))
    if options.projections and stack and (told := contradicted(io.inspect(options.projections), stack)):
        note(f"note: {told}")
    if known is not None and (told := scales_apart(found.data, known.data)):
        note(f"note: {told}")
    made_from = (found.provenance or {}).get("input_sha256")
    if stack is not None and options.leave_out is None and made_from not in (None, stack.sha256):
        note("note: these projections are not the ones that the volume was made from")
    if stack is not None and was_denoised(found.provenance):
        note("note: the volume is of denoised projections: what was taken for noise counts as reprojection error")
    if recipe is None or stack is None:
        return values, 0
    score, finished, turns = _held_out(recipe, stack, FOLDS if options.folds is None else options.folds)
    values |= {"folds": turns, "folds_finished": finished, "held_out_psnr": score}
    return values, 0 if finished == turns else INTERRUPTED


def scores_table(values: dict[str, Any], with_truth: bool) -> str:
    """Scores for people."""
    whose = "the truth's" if with_truth else "the projections'"
    lines = []
    for key, (label, unit) in LABELS.items():
        if key not in values:
            continue
        value = values[key]
        if value is None:
            figure = "      none"
        elif key == "reprojection_max_error":
            figure = f"{value:10.2e} of {whose} range"
        else:
            figure = f"{value:10.3f} {unit}"
        lines.append(f"{label:<28}{figure}".rstrip())
    return "\n".join(lines)


def _check(options: Options, acquisition: Acquisition | None) -> None:
    """Refuse options that lack what they are about."""
    if options.held_out and options.projections is None:
        raise InvalidInput("--held-out hides projections in turn: give --projections, the file that holds them")
    names = ("voxel_size", "folds", "method", "preset", "set_", "base", "denoise", "device")
    if (told := given(options, names)) and not options.held_out:
        say = "say" if "," in told else "says"
        raise InvalidInput(f"{told} {say} how to hold projections out: give --held-out too")
    if options.truth is None and options.projections is None:
        raise InvalidInput("give --truth, --projections, or both: there is nothing to compare with")
    if options.projections is None and (acquisition is not None or options.leave_out is not None):
        raise InvalidInput(
            "--slices, --stride, --profile, --fwhm and --leave-out describe --projections: give them too"
        )


def _recipe(options: Options, volume: Volume) -> Job:
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


def _warn_of_known(volume: Volume, truth: Volume) -> None:
    """Say so where the truth was itself reconstructed, or the base model that made a volume was trained on it."""
    if was_reconstructed(truth.provenance):
        note(f"note: {truth.name} was itself reconstructed: scores only tell how much alike both are")
    listed = (volume.provenance or {}).get("trained_on")
    records = []
    for entry in listed if isinstance(listed, list) else []:
        with suppress(ValidationError):  # the record is the file's: it may say anything
            records.append(VolumeRecord.model_validate(entry))
    told = trained_on(records, truth)
    if told is not None:
        note(f"note: {told}")


def _stack(
    options: Options, acquisition: Acquisition | None, recipe: Job | None, volume: Volume
) -> ProjectionStack | None:
    """The projections, as the options describe them, else the record of the volume that was made from them.

    Of other projections their own file knows best, if it says anything.
    """
    if options.projections is None:
        return None
    path, channel, time = _chosen(options.projections, recipe or _where(options, volume))
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


def _chosen(path: Path, wanted: Options | Job) -> tuple[Path, int | None, int | None]:
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


def _held_out(recipe: Job, stack: ProjectionStack, folds: int) -> tuple[float | None, int, int]:
    """The held-out score in dB, None without one; how many folds were finished before a stop, and of how many."""
    turns = len(heldout.folds(len(stack.data), folds))
    check(recipe, stack)
    check_base(recipe.method, recipe.weights is not None)
    for told in spoilt(stack):
        note(f"note: {told}")
    method = recipe.method
    if method.retrains or (method.pretrained and method.refines):
        what = "fitted" if method.pretrained else "trained"
        note(f"note: {name_of(method)} is {what} anew in each of {turns} folds: about {turns} times as long as one run")
    interrupt = Interrupt()
    try:
        with interrupt.listening():
            weights = _trained_before(recipe, stack)
            found = follow(held_out(recipe, stack, weights=weights, folds=folds, cancelled=interrupt))
    except RunFailed as error:
        if not interrupt.pressed:
            raise
        note(f"note: {error}")
        return None, 0, turns
    if found.partial:
        note(f"note: stopped: the held-out score is that of {found.folds} of {turns} folds")
    return found.psnr, found.folds, turns


def _trained_before(job: Job, stack: ProjectionStack) -> Weights | None:
    """The weights on record, where every fold may use them; None: to be trained, once or in each fold."""
    method = job.method
    if job.weights is None or not method.learned or method.retrains:
        return None
    try:
        trained = load_trained(job.weights, method=method)
    except InvalidInput as error:
        if method.pretrained:
            raise
        note(f"note: {error}; so the network is trained once, on all projections")
        return None
    if trained.is_base:
        told = trained.check_input(stack, job.denoise), TOO_GOOD if trained.knows(stack) else None
        for each in filter(None, told):
            note(f"note: {each}")
    return trained.weights
