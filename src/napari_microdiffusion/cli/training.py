"""What ``pretrain`` does: volumes found and read, a base model trained on them and saved."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import io
from ..checkpoint import SUFFIXES
from ..descriptions import duration
from ..events import InvalidInput
from ..io.volumes import read_volumes
from ..presets import checked, name_of, spec
from ..pretraining import Pretraining, check_plan, pretrain
from ..trained import Trained, save_base
from .console import INTERRUPTED, Interrupt, follow, note, quoted
from .values import NAMED_PROFILES, acquisition_of, overrides_of

DEFAULT_METHOD, DEFAULT_SLICES = "sparse3diff", 6
"""Sparse3Diff's own problem: every sixth slice is measured."""


@dataclass(frozen=True)
class Options:
    """The options of ``pretrain`` as given; None where they were left out."""

    volumes: Sequence[Path]
    output: Path | None = None
    method: str | None = None
    slices: int | None = None
    stride: int | None = None
    profile: str | None = None
    fwhm: float | None = None
    preset: str | None = None
    set_: list[str] | None = None
    seed: int | None = None
    device: str | None = None
    channel: int | None = None
    time: int | None = None
    overwrite: bool = False


def pretrained(options: Options) -> tuple[list[str], dict[str, Any], int]:
    """Train a base model and save it, as far as it has come; lines, values and the exit code."""
    if options.output is None:
        raise InvalidInput("give -o, where to write the base model (.safetensors)")
    io.check_output(options.output, 0, options.overwrite, SUFFIXES)
    plan = _plan(options)
    found = read_volumes(options.volumes, options.channel, options.time)
    plan = plan.model_copy(update={"volumes": tuple(found.volumes)})
    for reason in found.left_out:
        note(f"note: not used: {reason}")
    interrupt = Interrupt()
    began = time.monotonic()
    with interrupt.listening():
        base = follow(pretrain(plan, list(found.volumes.values()), cancelled=interrupt))
        seconds = time.monotonic() - began
        output = options.output if base.origin.complete else io.unfinished(options.output)
        saved = save_base(output, base, options.overwrite) if base.weights else None
    if output != options.output:
        note(f"note: {options.output.name} stays as it was, as the training was stopped before its end")
    if saved is None:
        note("note: nothing was saved: the training was stopped before it began")
    values = {
        "output": None if saved is None else str(saved),
        "method": name_of(base.method),
        "acquisition": base.origin.acquisition.model_dump(mode="json"),
        "volumes": [record.model_dump(mode="json") for record in base.origin.volumes],
        "complete": base.origin.complete,
        "seconds": round(seconds, 3),
        "seed": plan.seed,
    }
    return _lines(base, seconds, saved), values, 0 if base.origin.complete else INTERRUPTED


def _plan(options: Options) -> Pretraining:
    """What is to be done, but for the volumes; all that can be refused without them is."""
    method = spec(options.method or DEFAULT_METHOD, options.preset or "preview", overrides_of(options.set_ or []))
    measured = options.profile not in (None, *NAMED_PROFILES)  # as many slices as its file has weights
    slices = options.slices or (None if measured else DEFAULT_SLICES)
    acquisition = acquisition_of(slices, options.stride, options.profile or "point", options.fwhm)
    assert acquisition is not None
    values = {
        "method": method,
        "acquisition": acquisition,
        "channel": options.channel,
        "time": options.time,
        "seed": options.seed or 0,
        "device": options.device or "auto",
    }
    plan = checked(Pretraining.model_validate, values)
    check_plan(plan)
    return plan


def _lines(base: Trained, seconds: float, saved: Path | None) -> list[str]:
    names = [record.name for record in base.origin.volumes]
    state = "done" if base.origin.complete else "PARTIAL, stopped"
    on = f"{len(names)} volume(s) ({', '.join(names)})"
    lines = [f"{name_of(base.method)} on {on}, {state} after {duration(seconds)}"]
    if saved is None:
        return lines
    return [
        f"{saved}: a base model for {base.origin.acquisition.description}",
        *lines,
        f"use it: napari-microdiffusion reconstruct STACK -o VOLUME --base {quoted(saved)}",
    ]
