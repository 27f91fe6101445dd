"""What is known of a layer and kept in its metadata: its role, how it was made, how far it can be trusted."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..events import InvalidInput
from ..reliability import Reliability
from ..volume import ProjectionStack, Volume

if TYPE_CHECKING:
    from napari.layers import Image

    from ..run import Job, Result
    from ..trained import Trained

KEY = "napari_microdiffusion"
"""Where a layer's metadata holds what this plugin knows of it: role, acquisition, truth, provenance, scores, run."""

LOST = ", without its uncertainty: that is not beside its file any more, is damaged, or does not fit"
"""Said of an opened result that is saved again, where it is `lost`."""


@dataclass(frozen=True)
class Ran:
    """What is kept of a run with its result's layer, whose pixels are the result's.

    ``trained`` is the network that it was given, if it was given one.
    """

    job: Job
    stack: ProjectionStack
    result: Result
    trained: Trained | None = None

    def made(self, job: Job, stack: ProjectionStack) -> bool:
        """Whether the result is what a job makes of a stack, without a network of other origin."""
        alike = self.job == job and (self.stack.name, self.stack.acquisition) == (stack.name, stack.acquisition)
        return alike and self.trained is None and not self.result.partial and self.stack.sha256 == stack.sha256


def facts(layer: Image) -> dict[str, Any]:
    """What this plugin knows of a layer; empty for layers of others."""
    known = layer.metadata.get(KEY, {})
    return known if isinstance(known, dict) else {}


def opened(known: dict[str, Any]) -> bool:
    """Whether what is known of a layer is that of a result which comes from files, and was not made in this session."""
    return known.get("role") == "result" and ("path" in known or "times" in known)


def at(known: dict[str, Any], chosen: dict[str, int]) -> dict[str, Any]:
    """What is known of a result at the chosen time point: in a movie each was made by itself.

    Of one that was cut out of a movie nothing is: which one it is its layer does not say.
    """
    times = known.get("times")
    if times is None:
        return known
    time = chosen.get("time", len(times))
    return {**known, "provenance": times[time] if time < len(times) else None}


def ran_of(known: dict[str, Any]) -> Ran | None:
    """The run that made a result, by what is known of its layer; None where it was not made in this session."""
    ran = known.get("ran")
    return ran if isinstance(ran, Ran) else None


def reliability(known: dict[str, Any], data: Any) -> Reliability | None:
    """How far each voxel of ``data`` can be trusted, where that is known of its layer and still fits its shape.

    Of a result that was opened it is read now, so this belongs into a worker thread; None where it is gone or damaged.

    Raises
    ------
    TooLarge
        If it does not fit into the free memory.
    """
    from ..io import read_reliability

    ran, found = ran_of(known), None
    if ran is not None:
        found = ran.result.volume.reliability
    elif known.get("pair"):
        with suppress(InvalidInput):  # moved or damaged since then
            found = read_reliability(known["path"], known["pair"])
    return found if found is not None and found.std.shape == data.shape else None


def lost(known: dict[str, Any], volume: Volume) -> bool:
    """Whether the uncertainty that was saved with an opened result could not be read again."""
    return bool(known.get("pair")) and volume.reliability is None
