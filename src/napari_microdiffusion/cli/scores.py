"""What ``evaluate`` does: scores against the truth, against the projections, and of a recipe on hidden projections."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from pydantic import ValidationError

from .. import io
from ..acquisition import Acquisition
from ..checkpoint import VolumeRecord
from ..checks import check_base, spoilt
from ..events import InvalidInput, RunFailed
from ..methods import Weights, heldout
from ..metrics import evaluate, scales_apart
from ..presets import name_of
from ..pretraining import trained_on
from ..provenance import found_in, was_denoised, was_reconstructed
from ..run import Job, check
from ..trained import TOO_GOOD, load_trained
from ..trust import FOLDS, held_out
from ..volume import ProjectionStack, Volume
from .compared import Options, chosen, recipe_of, stack_of
from .console import INTERRUPTED, Interrupt, follow, note
from .jobs import contradicted
from .values import acquisition_of, given

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
    _check_contents(options)
    found = io.read_volume(*chosen(options.volume, options))
    recipe = recipe_of(options, found) if options.held_out else None
    known = None if options.truth is None else io.read_volume(*chosen(options.truth, options))
    stack = stack_of(options, acquisition, recipe, found)
    values: dict[str, Any] = dict(evaluate(found, known, stack))
    for told in (*_of_volume(found), *_of_truth(found, known), *_of_projections(options, found, stack)):
        note(f"note: {told}")
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


def _check_contents(options: Options) -> None:
    """Refuse files that hold something else than they are given for, before their pixels are read."""
    wanted = {options.volume: "give the volume that was made from them"}
    if options.truth is not None:
        wanted[options.truth] = "the truth is a fully sampled volume"
    for path, because in wanted.items():
        found = io.inspect(path)
        found.check_volume(found.name, because)


def _of_volume(volume: Volume) -> Iterator[str]:
    """What scores must not be read without, by the volume."""
    if (volume.provenance or {}).get("complete") is False:
        yield f"{volume.name} is partial: the run that made it was stopped"
    if found_in(volume.provenance).get("fell_back"):
        yield f"{volume.name} is plain interpolation: hidden projections asked for it in place of the method"


def _of_projections(options: Options, volume: Volume, stack: ProjectionStack | None) -> Iterator[str]:
    """The same by its projections, if there are any."""
    if stack is None or options.projections is None:
        return
    if told := contradicted(io.inspect(options.projections), stack):
        yield told
    if options.leave_out is None and (volume.provenance or {}).get("input_sha256") not in (None, stack.sha256):
        yield "these projections are not the ones that the volume was made from"
    if was_denoised(volume.provenance):
        yield "the volume is of denoised projections: what was taken for noise counts as reprojection error"


def _of_truth(volume: Volume, truth: Volume | None) -> Iterator[str]:
    """The same by its truth, if there is one: on another scale, itself reconstructed, or trained on."""
    if truth is None:
        return
    if told := scales_apart(volume.data, truth.data):
        yield told
    if was_reconstructed(truth.provenance):
        yield f"{truth.name} was itself reconstructed: scores only tell how much alike both are"
    listed = (volume.provenance or {}).get("trained_on")
    records = []
    for entry in listed if isinstance(listed, list) else []:
        with suppress(ValidationError):  # the record is the file's: it may say anything
            records.append(VolumeRecord.model_validate(entry))
    if told := trained_on(records, truth):
        yield told


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
