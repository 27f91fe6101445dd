"""What a stack says about a recipe without any truth: the held-out projection score of a job."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import replace

from .checks import check_weights
from .denoising import denoised
from .events import Event, RunFailed
from .hardware import at_work, resolve_precision
from .methods import Weights, heldout
from .methods.heldout import FOLDS, HeldOut
from .run import Job, check, remedy
from .volume import ProjectionStack

__all__ = ["FOLDS", "HeldOut", "held_out"]


def held_out(
    job: Job,
    stack: ProjectionStack,
    *,
    weights: Weights | None = None,
    folds: int = FOLDS,
    cancelled: Callable[[], bool] = lambda: False,
) -> Generator[Event, None, HeldOut]:
    """Hide projections in turn, reconstruct from the rest with the job's method, and compare, step by step.

    Methods whose weights know the projections themselves (`Method.retrains`) are trained anew in each fold, and take
    about ``folds`` times as long as one run. They use no pixel of the hidden projections; the intensity scale alone
    (two percentiles), and where noise is taken off the line that it follows, are those of the whole stack. Axial
    super-resolution is trained once, on lateral patches of all projections, and fills gaps along z: its score is that
    of a network that has seen the hidden images from the side.
    Base models (`Method.pretrained`) have seen no projection; each fold refines them on the projections it shows.

    Parameters
    ----------
    job
        The recipe to be scored; the files it names are for the record, ``stack`` and ``weights`` are used.
    stack
        (k, y, x), any real dtype, four projections or more.
    weights
        Trained weights of ``job.method``, used in every fold. Ignored where the method is trained anew, and needed
        where it is `pretrained`.
    folds
        In how many turns each inner projection is hidden once, see `heldout.folds`.
    cancelled
        When it says yes, the score is that of the folds finished by then, marked partial.

    Returns
    -------
    HeldOut
        With errors in the stack's own intensities.

    Raises
    ------
    InvalidInput, DeviceUnavailable, TooLarge
        Before any work.
    RunFailed
        If memory runs out or training diverges half way, or if it is stopped before the first fold is finished.
    """
    check(job, stack)
    heldout.folds(len(stack.data), folds)
    check_weights(job.method, stack, None if job.method.retrains else weights)
    with at_work(job, stack.name, remedy(job.method, stack), cancelled) as context:
        if job.method.learned:
            context.dtype = resolve_precision(job.precision, context.device)
        quiet = (yield from denoised(stack, job.seed, context.should_stop)) if job.denoise else None
        if job.denoise and quiet is None:
            raise RunFailed(heldout.TOO_SOON)
        working, intensity = (stack if quiet is None else quiet.stack).normalised()
        measured = None if quiet is None else intensity.working(stack.data)
        found = yield from heldout.score(job.method, working, context, weights, folds, measured)
    return replace(found, errors=tuple(intensity.gain * error for error in found.errors))
