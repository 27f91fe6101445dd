"""``reconstruct --time all``: one time point of a movie after the other, with the network of the first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import io
from ..checkpoint import SUFFIXES as WEIGHTS_SUFFIXES
from ..checks import bytes_to_write
from ..events import EngineError, InvalidInput
from ..presets import name_of
from .commands import reconstructed
from .console import BAD_INPUT, INTERRUPTED, code_of, note
from .jobs import Options, Prepared, prepare


def all_reconstructed(options: Options) -> tuple[list[str], dict[str, Any], int]:
    """Reconstruct every time point into a file of its own; lines, values and the exit code.

    A method whose weights suit further stacks (`Method.transfers`) is trained on the first time point that can be
    reconstructed, and applied to the others. Those that cannot be are told at the end.

    Raises
    ------
    EngineError
        For what concerns all of them, before any work; and if the first breaks off.
    """
    outputs = _outputs(options)
    each, failed, code = *_checked(options, outputs), 0
    done: list[tuple[str, dict[str, Any]]] = []
    for time, output in enumerate(outputs):
        if time in failed:
            continue
        note(f"time point {time} (of 0 to {len(outputs) - 1})")
        try:
            lines, values, code = reconstructed(replace(each, time=time, output=output))
        except (EngineError, KeyboardInterrupt) as error:
            if not done:
                raise
            if isinstance(error, KeyboardInterrupt):
                code = INTERRUPTED
                break
            failed[time] = str(error)
            if isinstance(error, InvalidInput):  # of this one
                continue
            code = code_of(error)
            break
        told = [*lines[:2], *([mapping] if (mapping := values["mapping"]) else [])]
        done.append(("; ".join(told), values))
        if code:
            break
        each = _with_network(each)
    left_out = [f"time point {time} is left out: {reason}" for time, reason in failed.items()]
    results = {"time_points": [values for _, values in done], "failed": failed}
    return [*(line for line, _ in done), *_in_common(done), *left_out], results, code or BAD_INPUT * bool(failed)


def _in_common(done: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """What is to be said once: of intensities that do not compare, and what the first volume is worth."""
    mappings = {values["mapping"] for _, values in done if "mapped to" in (values["mapping"] or "")}
    apart = [
        "note: each time point is mapped by itself, so brightness does not compare from file to file: "
        "--dtype float32 keeps it"
    ]
    first = done[0][1]
    name = Path(first["output"]).name
    others = " (each file holds its own verdict)" if len(done) > 1 else ""
    return [*(apart if len(mappings) > 1 else []), f"{name}{others}: {first['verdict']}"]


def _outputs(options: Options) -> list[Path]:
    """``a_t00.ome.tif`` and so on for ``a.ome.tif``, one for each time point."""
    if options.job is not None:
        raise InvalidInput("a job is of one time point: leave --time all out, or give the options instead of --job")
    if options.projections is None or options.output is None:
        raise InvalidInput("give the projection stack and -o, where to write the volumes")
    found = io.inspect(options.projections)
    if found.times < 2:
        raise InvalidInput(f"{found.name} has but one time point: leave --time all out")
    return [io.of_time(options.output, time, found.times) for time in range(found.times)]


def _checked(options: Options, outputs: list[Path]) -> tuple[Options, dict[int, str]]:
    """The options of each, with a place for the network that they share; refuses what can be, before any work.

    And why the time points before the first that can be reconstructed cannot be.
    """
    for output in outputs:
        io.check_output(output, 0, options.overwrite)
    first, failed = _first(options, outputs)
    method, start = first.job.method, outputs[len(failed)]
    io.check_output(start, len(outputs) * bytes_to_write(method, first.stack, options.dtype), options.overwrite)
    if not method.transfers or first.trained is not None:
        if options.save_weights is not None:
            raise InvalidInput("with --time all there is no one network to save here: leave --save-weights out")
        if method.learned and first.trained is None:
            note(f"note: {name_of(method)} is trained anew for each of {len(outputs)} time points")
        return options, failed
    network = options.save_weights or io.network_beside(start)
    io.check_output(network, 0, options.overwrite, WEIGHTS_SUFFIXES)
    note(f"note: the network of time point {len(failed)} is used for all of them, and kept in {network.name}")
    return replace(options, save_weights=network), failed


def _first(options: Options, outputs: list[Path]) -> tuple[Prepared, dict[int, str]]:
    """The first time point that can be reconstructed, prepared, and why those before it cannot be."""
    failed: dict[int, str] = {}
    for time, output in enumerate(outputs):
        try:
            return prepare(replace(options, time=time, output=output)), failed
        except InvalidInput as error:
            failed[time] = str(error)
    raise InvalidInput(failed[0])  # none can be


def _with_network(options: Options) -> Options:
    """The same with the weights that a run has saved, if it has: they bring method and settings."""
    if options.save_weights is None:
        return options
    return replace(options, weights=options.save_weights, save_weights=None, method=None, preset=None, set_=None)
