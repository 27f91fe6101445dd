"""Trained weights with the method they belong to: saved after a run, and used again without training."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .acquisition import Acquisition
from .checkpoint import load_weights, save_weights
from .events import InvalidInput
from .methods import Inr, Method, Weights
from .presets import name_of, override, validated
from .settings import sampling_paths
from .volume import ProjectionStack


@dataclass(frozen=True)
class Trained:
    """A method with its weights (on the CPU), and what it was trained on.

    Parameters
    ----------
    acquisition, input_sha256
        Of the projections it was trained on; the hash is None in older files.
    """

    method: Method
    weights: Weights = field(repr=False)
    acquisition: Acquisition
    input_sha256: str | None

    def check_input(self, stack: ProjectionStack) -> str | None:
        """What the user should know before these weights are used on a stack; None where all agrees.

        Raises
        ------
        InvalidInput
            If a neural representation would be used on other projections than its own: it would give back the
            volume it was trained on.
        """
        notes = []
        if stack.acquisition.replace(count=None, hidden=()) != self.acquisition.replace(count=None, hidden=()):
            notes.append(f"the weights were trained on projections with {self.acquisition.description}")
        if self.input_sha256 is None:
            notes.append("the weights do not say which projections they were trained on")
        elif self.input_sha256 != stack.sha256:
            if any(isinstance(part, Inr) for part in (self.method, getattr(self.method, "prior", None))):
                raise InvalidInput(
                    f"the weights of {name_of(self.method)} were trained on other projections than {stack.name}: "
                    "a neural representation is the specimen itself, so train again for this stack (leave the "
                    "weights out)"
                )
            notes.append(self._elsewhere)
        return "; ".join(notes) or None

    @property
    def _elsewhere(self) -> str:
        """What to think of weights from another stack: some methods mean them for that."""
        if self.method.retrains:
            return "the weights were trained on other projections: compare the result with the conservative one"
        steps = getattr(self.method, "fine_tuning", 0)
        suits = (
            "the weights were trained on another stack, which suits the same kind of sample, microscope and voxel size"
        )
        return f"{suits}; they are trained on for {steps} steps" if steps else f"{suits}; else set fine_tuning"


def save_trained(
    path: str | Path, method: Method, weights: Weights, stack: ProjectionStack, overwrite: bool = False
) -> Path:
    """Save weights with the spec and the stack they were trained for; errors as for `checkpoint.save_weights`."""
    values = method.model_dump(mode="json")
    return save_weights(path, values, weights, stack.acquisition, overwrite, stack.sha256)


def load_trained(path: str | Path, overrides: dict[str, Any] | None = None, method: Method | None = None) -> Trained:
    """A trained method and its weights, with sampling settings changed if asked for.

    Parameters
    ----------
    overrides
        Dotted paths of settings to values, as for `presets.spec`.
    method
        The whole spec wanted, instead of overrides; must agree with the trained one but for sampling settings.

    Raises
    ------
    InvalidInput
        If the file cannot be used, or a setting is to be changed that training has fixed (names those that may be).
    """
    stored = load_weights(path)
    trained = validated(stored.spec)
    wanted = method or override(trained, overrides or {})
    check_sampling_only(trained, wanted)
    return Trained(wanted, stored.weights, stored.acquisition, stored.input_sha256)


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
