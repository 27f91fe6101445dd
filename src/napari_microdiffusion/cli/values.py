"""From what is written on the command line to the engine's own values."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, get_args

from .. import io
from ..acquisition import Acquisition
from ..beam import Profile
from ..events import InvalidInput
from ..methods import Method
from ..presets import METHODS, checked, name_of, parse_value, spec
from ..run import Job
from ..trained import Trained, load_trained

NAMED_PROFILES = tuple(name for name in get_args(Profile) if name != "measured")


def acquisition_of(
    slices: int | None, stride: int | None, profile: str | None, fwhm: float | None
) -> Acquisition | None:
    """The acquisition that the options describe; None where all are left out.

    Raises
    ------
    InvalidInput
        If slices are missing or a value is out of range.
    """
    if slices is None and stride is None and profile is None and fwhm is None:
        return None
    weights = None if profile is None or profile in NAMED_PROFILES else _measured(profile)
    if slices is None:
        if weights is None:
            raise InvalidInput(
                "--stride, --profile and --fwhm need --slices, the slices that one projection stands for"
            )
        slices = len(weights)
    kind = "measured" if weights else profile or "uniform"
    values = {"slices": slices, "stride": stride, "profile": kind, "fwhm": fwhm, "weights": weights}
    return checked(Acquisition.model_validate, values)


def method_of(
    name: str | None, preset: str | None, pairs: list[str] | None, weights: Path | None = None, base: Path | None = None
) -> tuple[Method, Trained | None]:
    """The method asked for, with its weights where a file of them is given, as ``--weights`` or as ``--base``.

    Raises
    ------
    InvalidInput
        Saying what is missing, or what does not belong together.
    """
    overrides = overrides_of(pairs or [])
    path = base or weights
    if path is None:
        if name is None:
            raise InvalidInput(f"choose a --method: {', '.join(METHODS)}; conservative is instant, axial goes furthest")
        return spec(name, preset or "preview", overrides), None
    if preset is not None:
        option = "--weights bring their" if base is None else "--base brings its"
        raise InvalidInput(f"{option} own settings: leave --preset out, and --set what concerns sampling")
    trained = load_trained(path, overrides)
    found = name_of(trained.method)
    if name not in (None, found):
        raise InvalidInput(f"{path.name} holds weights of {found}, not of {name}")
    if base is not None and not trained.is_base:
        raise InvalidInput(f"{path.name} holds weights of {found}, which is no base model: give them with --weights")
    return trained.method, trained


def job_of(**values: Any) -> Job:
    """A job from plain values; `InvalidInput` names the one that is wrong."""
    return checked(Job.model_validate, values)


def overrides_of(pairs: list[str]) -> dict[str, Any]:
    """Settings by dotted path, from what was given as ``--set KEY=VALUE``."""
    overrides = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise InvalidInput(f"--set {pair}: write it as KEY=VALUE, --set consistency=final for example")
        overrides[key.strip()] = parse_value(value)
    return overrides


ALL = "all"
"""Said of time points: each of them."""


def time_of(text: str | None) -> int | None:
    """A time point counted from 0, from what was given as ``--time``; None also for `ALL`."""
    if text in (None, ALL):
        return None
    if not text.isdecimal():
        raise InvalidInput(f"--time {text}: write the number of a time point, counted from 0, or all")
    return int(text)


def voxel_size_of(text: str | None) -> tuple[float, float, float] | None:
    """Voxel size (z, y, x) in µm, from what was given as ``--voxel-size``."""
    if text is None:
        return None
    try:
        z, y, x = (float(size) for size in text.split(","))
    except ValueError:
        z = y = x = math.nan
    if not all(0 < size < math.inf for size in (z, y, x)):
        raise InvalidInput(f"--voxel-size {text}: write three sizes in µm as Z,Y,X, 1.5,0.2,0.2 for example")
    return z, y, x


def given(options: object, names: tuple[str, ...]) -> str:
    """Those of some options that were given, as they are written: ``--set, --seed``; empty where none was."""
    values = {name: getattr(options, name) for name in names}
    return ", ".join(
        f"--{'no-' if value is False else ''}{name.rstrip('_').replace('_', '-')}"
        for name, value in values.items()
        if value is not None
    )


def _measured(profile: str) -> tuple[float, ...]:
    if not Path(profile).exists():
        raise InvalidInput(
            f"--profile {profile} is neither {', '.join(NAMED_PROFILES)} nor a file of measured weights that is there"
        )
    return io.read_profile(profile)
