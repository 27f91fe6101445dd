"""What people and programs see: exit codes, one-line errors, progress, JSON."""

from __future__ import annotations

import io
import json
import math
import os
import shlex
import signal
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from subprocess import list2cmdline
from types import FrameType
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from ..descriptions import duration

if TYPE_CHECKING:
    from ..events import EngineError, Event, Returned

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
DEBUG = "NAPARI_MICRODIFFUSION_DEBUG"


class Reporting(TyperGroup):
    """A group of commands whose errors end in one line on standard error and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; tracebacks only where the environment variable `DEBUG` is set."""
        from ..events import EngineError

        for stream in (sys.stdout, sys.stderr):  # a pipe's encoding may lack Greek, and a result must not fail by that
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _complain("interrupted; no file is left half-written")
            raise typer.Exit(INTERRUPTED) from None
        except EngineError as error:
            if os.environ.get(DEBUG):
                raise
            _complain(str(error))
            raise typer.Exit(code_of(error)) from None
        except Exception as error:
            if os.environ.get(DEBUG) or _of_typer(error):
                raise
            _complain(f"unexpected {type(error).__name__}: {error} (set {DEBUG}=1 to see where)")
            raise typer.Exit(FAILED) from None


def code_of(error: EngineError) -> int:
    """The exit code of a failure: whether what was given is at fault, or the run broke off."""
    from ..events import RunFailed

    return FAILED if isinstance(error, RunFailed) else BAD_INPUT


def quoted(path: Path) -> str:
    """As the system's own command line takes it."""
    return list2cmdline([path]) if sys.platform == "win32" else shlex.quote(str(path))


def print_json(values: Mapping[str, Any]) -> None:
    """One JSON object on one line of standard output; numbers that are not finite become null."""
    typer.echo(json.dumps(_finite(values), allow_nan=False))


def note(message: str) -> None:
    """A line on standard error."""
    try:
        typer.echo(message, err=True)
    except BrokenPipeError:  # whatever read it has gone: go on without
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 until the program ends


class Progress:
    """Shows the events of a run on standard error: a bar on a terminal, plain lines otherwise."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)
        self._stage, self._steps, self._began, self._shown = "", 1, time.monotonic(), 0
        self._bar = _bar(self._console) if self._console.is_terminal else None
        self._task: Any = None
        self._told: set[str] = set()

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, event: Event) -> None:
        """Take note of an event."""
        from ..events import Notice, Stage, Step

        if isinstance(event, Stage):
            self._begin(event.name, max(1, event.steps))
        elif isinstance(event, Step):
            self._advance(event.done, event.loss)
        elif isinstance(event, Notice) and event.message not in self._told:  # not in every fold again
            self._told.add(event.message)
            self._line(f"note: {event.message}")

    def _begin(self, name: str, steps: int) -> None:
        self._stage, self._steps, self._began, self._shown = name, steps, time.monotonic(), 0
        if self._bar is not None:
            self._task = self._bar.add_task(name, total=steps, loss="")
        else:
            self._line(f"{name}: {steps} step{'s' * (steps != 1)}")

    def _advance(self, done: int, loss: float | None) -> None:
        said = "" if loss is None else f"loss {loss:.4g}"
        if self._bar is not None:
            if self._task is not None:
                self._bar.update(self._task, completed=done, loss=said)
            return
        tenth = 10 * done // self._steps
        if tenth > self._shown:
            self._shown = tenth
            left = (time.monotonic() - self._began) / done * (self._steps - done)
            parts = [f"{self._stage}: {10 * tenth} %", said, f"about {duration(left)} left" if tenth < 10 else ""]
            self._line(", ".join(part for part in parts if part))

    def _line(self, text: str) -> None:
        if self._bar is None:
            note(text)
        else:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def follow(events: Generator[Event, None, Returned]) -> Returned:
    """Run a generator of events to its end with its progress shown, and give its return value."""
    from ..events import exhaust, relay

    with Progress() as progress:
        return exhaust(relay(events, progress.show))


class Interrupt:
    """Whether Ctrl-C has been pressed; a second press ends the program at once."""

    def __init__(self) -> None:
        self.pressed = False

    def __call__(self) -> bool:
        return self.pressed

    @contextmanager
    def listening(self) -> Generator[None]:
        """Take Ctrl-C (SIGINT) and a polite kill (SIGTERM) as a wish to stop and keep what is done."""
        before = {number: signal.signal(number, self._press) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _press(self, _number: int, _frame: FrameType | None) -> None:
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True
        note("stopping: what is done so far is kept (once more to quit at once)")


def _bar(console: Any) -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    return Bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}", markup=False),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        console=console,
    )


def _complain(message: str) -> None:
    note(f"napari-microdiffusion: {' '.join(message.split())}")


def _of_typer(error: Exception) -> bool:
    """Exit, Abort and usage errors, which typer turns into exit codes itself."""
    return type(error).__module__.split(".")[0] in ("click", "typer")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
