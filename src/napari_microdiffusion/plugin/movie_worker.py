"""All time points of a layer, one after the other, into files: in a worker thread."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..checkpoint import SUFFIXES, Origin
from ..checks import bytes_to_write, spoilt
from ..events import EngineError, Event, InvalidInput, Notice, RunFailed, Stage
from ..io import check_distinct, check_output, write_volume
from ..provenance import found_in, was_denoised
from ..run import Job, Result, check, run
from ..trained import Trained, load_trained, save_trained
from ..volume import ProjectionStack
from .follow import Follower, Progress
from .known import Ran
from .worker import Load, explained, followed, torch_loaded

NOTHING = "stopped before the first time point was done: nothing was written"
REUSED = "Time point {} was reconstructed with these settings before: that result is used"


@dataclass(frozen=True)
class Shot:
    """A time point to be reconstructed: what gives its projections, its job, where its volume goes.

    ``overwrite`` lets that replace what is there.
    """

    time: int
    load: Load
    job: Job
    output: Path
    overwrite: bool = False


@dataclass(frozen=True)
class Movie:
    """What has become of the shots, by time point.

    Parameters
    ----------
    done
        Files of those that are done.
    interpolated
        Those that the method gave plain interpolation for.
    left_out
        Why others could not be reconstructed.
    complete
        Whether all had their turn: they have not after a stop, and after a failure that would meet the others as well.
    """

    done: dict[int, Path] = field(default_factory=dict)
    interpolated: list[int] = field(default_factory=list)
    left_out: dict[int, str] = field(default_factory=dict)
    complete: bool = True


class _Shots(Follower):
    """Says which shot a stage belongs to; what a run says is passed on until the first one is done."""

    def __init__(self, count: int, movie: Movie) -> None:
        super().__init__("Reading the images")
        self._number, self._count, self._movie = 0, count, movie

    def next_shot(self) -> None:
        """From now on events are those of the next one."""
        self._number += 1

    def begin(self, stage: Stage) -> None:
        """A new stage: ``3 of 20: Training …``."""
        super().begin(replace(stage, name=f"{self._number} of {self._count}: {stage.name}"))

    def notice(self, notice: Notice) -> None:
        """Keep what the user should know."""
        if not self._movie.done:
            super().notice(notice)

    def doubt(self, time: int, stack: ProjectionStack) -> None:
        """Of the others what speaks against them."""
        if self._movie.done:
            for told in spoilt(stack):
                self.tell(f"time point {time}: {told}")

    def tell(self, message: str) -> None:
        """Keep what the user should know of the movie itself."""
        super().notice(Notice(message))


@explained
def film(
    cancelled: Callable[[], bool],
    shots: Sequence[Shot],
    network: Path,
    base: Trained | None,
    overwrite: bool = False,
    before: Sequence[Ran] = (),
) -> Generator[Progress, None, Movie]:
    """Reconstruct and write one shot after the other.

    A method whose weights suit further stacks (`Method.transfers`) is trained on the first shot that can be
    reconstructed, and applied to the others. One that cannot be keeps nothing from those after it. Stopped, those that
    are done by then stay. Every failure is an `EngineError`; stopped before the first is done, it is one too.

    Parameters
    ----------
    network
        Where what is learned is kept.
    base
        The base model in use, where it is in memory.
    overwrite
        Whether that may replace what is there.
    before
        Runs that are done: what one of them has made of a shot is not made again.
    """
    yield from torch_loaded()
    making = _Film(shots, network, base, overwrite, before)
    movie, follower = making.movie, making.follower
    for shot in shots:
        if cancelled():
            movie = replace(movie, complete=False)
            break
        follower.next_shot()
        try:
            goes_on = yield from making.shoot(shot, cancelled)
        except EngineError as error:
            if not movie.done and not isinstance(error, _Unusable):
                raise
            movie.left_out[shot.time] = str(error)
            goes_on = isinstance(error, InvalidInput)  # it is of this one
        if not goes_on:
            movie = replace(movie, complete=False)
            break
    yield follower.progress()  # what has not been told yet
    if movie.done:
        return movie
    if not movie.complete:
        raise RunFailed(NOTHING)
    time, reason = next(iter(movie.left_out.items()))
    raise InvalidInput(f"time point {time}: {reason}")


class _Unusable(InvalidInput):
    """There is nothing to be reconstructed in a time point, whatever the method."""


class _Film:
    """Shots, one after the other; parameters as for `film`."""

    def __init__(
        self, shots: Sequence[Shot], network: Path, base: Trained | None, overwrite: bool, before: Sequence[Ran]
    ) -> None:
        self.movie = Movie()
        self.follower = _Shots(len(shots), self.movie)
        self._shots, self._network, self._overwrite, self._before = shots, network, overwrite, before
        job = shots[0].job
        self._trained = base
        if base is None and job.weights is not None:
            self._trained = load_trained(job.weights, method=job.method)
        self._kept: Path | None = None

    def shoot(self, shot: Shot, cancelled: Callable[[], bool]) -> Generator[Progress, None, bool]:
        """Reconstruct and write one; whether it came to its end."""
        stack = _usable(shot)
        self.follower.doubt(shot.time, stack)
        if not self.movie.done:
            _check_outputs(self._shots, stack, self._network, self._overwrite)
        job = shot.job.model_copy(update={"weights": self._kept or shot.job.weights})
        result = self._made(job, stack, shot.time)
        if result is None:
            result = yield from followed(_run(job, stack, self._trained, cancelled), self.follower)
        if result.partial:
            return False
        write_volume(result.volume, shot.output, overwrite=shot.overwrite)
        self.movie.done[shot.time] = shot.output
        if found_in(result.volume.provenance).get("fell_back"):
            self.movie.interpolated.append(shot.time)
        if self._trained is None and job.method.transfers:
            self._keep(shot, job, stack, result)
        return True

    def _made(self, job: Job, stack: ProjectionStack, time: int) -> Result | None:
        """What has been made of a shot before; None where a network is given, or nothing has."""
        known = None if self._trained else next((ran.result for ran in self._before if ran.made(job, stack)), None)
        if known is not None:
            self.follower.tell(REUSED.format(time) + (", and its network" if job.method.transfers else ""))
        return known

    def _keep(self, shot: Shot, job: Job, stack: ProjectionStack, result: Result) -> None:
        """Use what was learned of a shot for those after it, and keep it in its file, named after the first one."""
        if shot is not self._shots[0]:
            self.follower.tell(f"The network in {self._network.name} was learned of time point {shot.time}")
        quiet = was_denoised(result.volume.provenance)
        origin = Origin(acquisition=stack.acquisition, input_sha256=stack.sha256, denoised=quiet)
        self._trained = Trained(job.method, result.weights, origin)
        try:
            self._kept = save_trained(self._network, job.method, result.weights, stack, self._overwrite, denoised=quiet)
        except EngineError as error:  # the others can be made all the same
            self.follower.tell(f"the network is not kept: {error}")


def _usable(shot: Shot) -> ProjectionStack:
    """The projections of a shot, (k, y, x); `_Unusable` where there are none, or nothing is in them."""
    try:
        stack, _ = shot.load()
        stack.check()
    except InvalidInput as error:
        raise _Unusable(str(error)) from error
    return stack


def _run(
    job: Job, stack: ProjectionStack, trained: Trained | None, cancelled: Callable[[], bool]
) -> Generator[Event, None, Result]:
    """Without previews, which nobody would see; refused where the weights do not suit the stack."""
    check(job, stack)
    if trained is not None and (told := trained.check(stack, job.denoise)):
        yield Notice(told)
    weights, volumes = (None, ()) if trained is None else (trained.weights, trained.origin.volumes)
    events = run(job, stack, weights=weights, volumes=volumes, cancelled=cancelled, preview_seconds=math.inf)
    return (yield from events)


def _check_outputs(shots: Sequence[Shot], stack: ProjectionStack, network: Path, overwrite: bool) -> None:
    """Refuse, with `InvalidInput`, what would be replaced unasked or by mistake, and what would not fit on the disk."""
    for shot in shots:
        if shot.job.projections is not None:
            check_distinct(shot.output, shot.job.projections)
        check_output(shot.output, len(shots) * bytes_to_write(shot.job.method, stack, None), shot.overwrite)
    if shots[0].job.method.transfers:
        check_output(network, 0, overwrite, SUFFIXES)
