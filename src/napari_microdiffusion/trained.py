"""Trained weights with the method they belong to: saved after a run, and used again without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .acquisition import Acquisition
from .checkpoint import load_weights, save_weights
from .events import InvalidInput
from .methods import Method, Weights
from .presets import name_of, override, validated
from .settings import sampling_paths


def save_trained(
    path: str | Path, method: Method, weights: Weights, acquisition: Acquisition, overwrite: bool = False
) -> Path:
    """Save weights with the spec they were trained for; errors as for `checkpoint.save_weights`."""
    return save_weights(path, method.model_dump(mode="json"), weights, acquisition, overwrite)


def load_trained(
    path: str | Path, overrides: dict[str, Any] | None = None, method: Method | None = None
) -> tuple[Method, Weights, Acquisition]:
    """A trained method and its weights, with sampling settings changed if asked for.

    Parameters
    ----------
    overrides
        Dotted paths of settings to values, as for `presets.spec`.
    method
        The whole spec wanted, instead of overrides; must agree with the trained one but for sampling settings.

    Returns
    -------
    tuple
        The method, its weights (on the CPU), and the acquisition of the projections they were trained on.

    Raises
    ------
    InvalidInput
        If the file cannot be used, or a setting is to be changed that training has fixed (names those that may be).
    """
    stored = load_weights(path)
    trained = validated(stored.spec)
    wanted = method or override(trained, overrides or {})
    check_sampling_only(trained, wanted)
    return wanted, stored.weights, stored.acquisition


def check_sampling_only(trained: Method, wanted: Method) -> None:
    """Refuse a spec that differs from the trained one in more than sampling settings.

    Raises
    ------
    InvalidInput
        Naming what differs, and what may be changed.
    """
    allowed = sampling_paths(trained)
    before, after = flat(trained.model_dump()), flat(wanted.model_dump())
    fixed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    fixed = [path for path in fixed if path not in allowed]
    if fixed:
        raise InvalidInput(
            f"{', '.join(fixed)} cannot be changed on the trained weights of {name_of(trained)}: "
            f"change {', '.join(allowed)}, or train again"
        )


def flat(values: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Nested values by dotted path."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        result |= flat(value, f"{above}{key}.") if isinstance(value, dict) else {above + key: value}
    return result
