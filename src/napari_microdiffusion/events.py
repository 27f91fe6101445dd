"""What the engine says while it works, and the errors it raises.

A method is a generator of these events; its result is the generator's return value. The engine
knows no callback, queue or signal.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from numpy.typing import NDArray

Returned = TypeVar("Returned")


@dataclass(frozen=True)
class Stage:
    """A stage begins: ``name`` in plain words, and how many steps it will take."""

    name: str
    steps: int


@dataclass(frozen=True)
class Step:
    """One training or sampling step of the current stage is done (``done`` counts from 1)."""

    done: int
    loss: float | None = None


@dataclass(frozen=True)
class Preview:
    """Slices of the volume as far as they are known: ``data`` (m, y, x) belongs at z = start .. start + m.

    A copy on the CPU, never a live buffer.
    """

    start: int
    data: NDArray[Any]


@dataclass(frozen=True)
class Notice:
    """Something the user should know; the run goes on."""

    message: str


Event = Stage | Step | Preview | Notice


def relay(
    events: Generator[Event, None, Returned], change: Callable[[Event], Event | None]
) -> Generator[Event, None, Returned]:
    """Pass events on as ``change`` makes them, without those it gives None for; the return value stays."""
    while True:
        try:
            event = change(next(events))
        except StopIteration as stop:
            value: Returned = stop.value
            return value
        if event is not None:
            yield event


def exhaust(events: Generator[Event, None, Returned]) -> Returned:
    """Run a generator to its end and give its return value."""
    while True:
        try:
            next(events)
        except StopIteration as stop:
            value: Returned = stop.value
            return value


class EngineError(Exception):
    """Base of the errors that are meant for users: the message says what is wrong and what to do."""


class InvalidInput(EngineError, ValueError):
    """The data, the acquisition or a setting cannot be used as they are. Raised before work starts."""


class TooLarge(EngineError):
    """The job needs more memory than there is; the message says how much, and which setting lowers it."""


class DeviceUnavailable(EngineError):
    """The compute device asked for is not there."""


class RunFailed(EngineError):
    """A run broke off: out of memory while running, or a loss that is no longer finite."""
