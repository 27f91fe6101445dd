"""Base models: training a method on fully sampled volumes, for the stacks that it is to reconstruct later.

`pretrain` does for volumes what `run.run` does for projections: a generator of events whose value is the result, a
`Trained`: for `run.reconstruct` as it is, or saved by `trained.save_base` and read again by `trained.load_trained`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator

from .acquisition import Acquisition
from .checkpoint import Origin, VolumeRecord
from .checks import check_suited
from .events import Event, InvalidInput, Notice, Preview, relay
from .hardware import Device, Precision, at_work, check_training_memory, device_of, resolve_precision
from .images import MINIMUM_LATERAL
from .methods import AnyMethod, Method
from .presets import METHODS, name_of
from .trained import Trained
from .volume import ProjectionStack, Volume


class Pretraining(BaseModel):
    """All that a base model depends on, beside the volumes' pixels.

    ``volumes`` may be paths, for the record, or empty where they are handed over in memory.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: AnyMethod
    acquisition: Acquisition = Field(description="of the projections that the base model is meant for")
    volumes: tuple[Path, ...] = Field((), description="files of the full volumes")
    channel: int | None = Field(None, ge=0, description="channel to use, where a file has several")
    time: int | None = Field(None, ge=0, description="time point to use, where a file has several")
    seed: int = Field(0, ge=0, lt=2**63)
    device: Device = "auto"
    precision: Precision = "auto"

    @field_validator("acquisition")
    @classmethod
    def _unbound(cls, value: Acquisition) -> Acquisition:
        """A base model is for stacks of any depth: how many projections there were somewhere says nothing of it."""
        return value.unbound


def pretrained_methods() -> tuple[str, ...]:
    """The names of the methods that need a base model."""
    return tuple(name for name, (cls, _) in METHODS.items() if cls.pretrained)


def pretrain(
    plan: Pretraining, volumes: Sequence[Volume], *, cancelled: Callable[[], bool] = lambda: False
) -> Generator[Event, None, Trained]:
    """Train a base model on full volumes, step by step.

    The events are `Stage`, `Step` and `Notice`: there is no volume to preview. When ``cancelled`` says yes, the base
    model is as far as it has come, and not `Origin.complete`.

    Parameters
    ----------
    plan
        What to do; its ``volumes`` paths are for the record, ``volumes`` is used.
    volumes
        One or more, (z, y, x) each, any real dtype, of any sizes. Each is brought to a common range by itself
        (0.1 and 99.9 percentiles at 0 and 1), as stacks are.

    Raises
    ------
    InvalidInput, DeviceUnavailable, TooLarge
        Before any work.
    RunFailed
        If memory runs out or training diverges half way.
    """
    check(plan, volumes)
    deep = _deep(plan, volumes)
    shallow = [volume.name for volume in volumes if volume not in deep]
    if shallow:
        needed = plan.method.depth_to_learn(plan.acquisition)
        yield Notice(f"with fewer than the {needed} slices that are needed, and left out: {', '.join(shallow)}")
    records = tuple(VolumeRecord.of(each.data, each.name) for each in deep)
    for at, record in enumerate(records):
        if twin := next((other for other in records[:at] if other.sha256 == record.sha256), None):
            yield Notice(f"{record.name} holds the same as {twin.name}, and counts twice")
    stacks = [_as_stack(volume) for volume in deep]
    data = f"{len(deep)} volumes" if len(deep) > 1 else deep[0].name
    with at_work(plan, data, _remedy(plan.method), cancelled, math.inf) as context:
        context.dtype = resolve_precision(plan.precision, context.device)
        working = [stack.normalised()[0].data for stack in stacks]
        events = plan.method.pretrain(working, plan.acquisition, context)
        weights = yield from relay(events, lambda event: None if isinstance(event, Preview) else event)
    origin = Origin(acquisition=plan.acquisition, volumes=records, complete=not context.stopped)
    return Trained(plan.method, weights, origin)


def trained_on(volumes: Iterable[VolumeRecord], truth: Volume) -> str | None:
    """What people must know where a result is compared with a truth that its base model was trained on; else None.

    Parameters
    ----------
    volumes
        That the base model was trained on.
    """
    own = VolumeRecord.of(truth.data, truth.name)
    known = next((each for each in volumes if each.matches(own)), None)
    if known is None:
        return None
    return f"the base model was trained on {known.name or 'it'}, the ground truth: the scores are worthless"


def check_plan(plan: Pretraining) -> None:
    """Refuse what no volumes could make a base model of; errors as for `pretrain`."""
    if not plan.method.pretrained:
        raise InvalidInput(
            f"{name_of(plan.method)} needs no base model; those that do: {', '.join(pretrained_methods())}"
        )
    check_suited(plan.method, plan.acquisition)


def check(plan: Pretraining, volumes: Sequence[Volume]) -> None:
    """Refuse, before any work, what cannot succeed; errors as for `pretrain`."""
    check_plan(plan)
    if not volumes:
        raise InvalidInput("there is no volume to train on: give one fully sampled volume or more")
    deep = _deep(plan, volumes)
    if not deep:
        needed, deepest = plan.method.depth_to_learn(plan.acquisition), max(volumes, key=lambda each: each.shape[0])
        raise InvalidInput(
            f"{deepest.name} has {deepest.shape[0]} slices, and {name_of(plan.method)} needs volumes of at least "
            f"{needed} to learn from ({plan.acquisition.description}): use deeper volumes, or fewer slices per "
            "projection"
        )
    for volume in deep:
        _as_stack(volume).check()
    device = device_of(plan.method, plan.device)
    check_training_memory(plan.method, deep, _least(plan, deep), _remedy(plan.method), device)


def _deep(plan: Pretraining, volumes: Sequence[Volume]) -> list[Volume]:
    """The volumes that are deep enough to be trained on."""
    needed = plan.method.depth_to_learn(plan.acquisition)
    return [volume for volume in volumes if volume.shape[0] >= needed]


def _as_stack(volume: Volume) -> ProjectionStack:
    """A full volume is the stack of its own slices: what is refused, and the range worked in, are those of a stack."""
    return ProjectionStack(volume.data, Acquisition(slices=1), volume.scale_um, volume.name, volume.source_dtype)


def _least(plan: Pretraining, volumes: Sequence[Volume]) -> ProjectionStack:
    """A stack of the size that training sees at least: the smallest volume's projections, or a crop of them."""
    volume = min(volumes, key=lambda each: each.data.size)
    bound = plan.acquisition.fitted(volume.shape[0])
    side = max(MINIMUM_LATERAL, getattr(plan.method, "crop", max(volume.shape)))
    return ProjectionStack(volume.data[: len(bound.shown), :side, :side], bound, volume.scale_um, volume.name)


def _remedy(method: Method) -> str:
    """What lowers the memory that training takes."""
    settings = [name for name in ("batch", "crop", "channels") if name in type(method).model_fields]
    return f"lower {', '.join(settings)}, or crop the volumes" if settings else "crop the volumes"
