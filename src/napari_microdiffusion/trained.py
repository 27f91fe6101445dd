"""Trained weights with the method they belong to: saved after a training, and used again without it.

A base model, trained on full volumes, is a weights file like any other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .acquisition import Acquisition
from .checkpoint import Origin, load_weights, save_weights
from .checks import check_weights
from .events import InvalidInput
from .methods import Inr, Method, Weights
from .numbering import numbers_of
from .presets import flat, name_of, override, validated
from .settings import sampling_paths
from .volume import ProjectionStack

TOO_GOOD = "the base model was fitted to these very projections, hidden ones included: the score is too good"
"""Said of a held-out score of a base model that `Trained.knows` the stack."""


@dataclass(frozen=True)
class Trained:
    """A method with its weights (on the CPU), and what it was trained on."""

    method: Method
    weights: Weights = field(repr=False)
    origin: Origin

    @property
    def is_base(self) -> bool:
        """Whether these are the weights of a base model, which its method cannot do without."""
        return self.method.pretrained

    @property
    def description(self) -> str:
        """What it was trained on and for, in one line: ``3 volumes (a, b, c), for 6 slices, stride 6, ...``."""
        if not self.is_base:
            return f"projections with {self.origin.acquisition.description}"
        names = ", ".join(volume.name for volume in self.origin.volumes)
        count = f"{len(self.origin.volumes)} volume{'s' * (len(self.origin.volumes) != 1)}"
        found = f"{count} ({names})" if names else "volumes that are not on record"
        fitted = "" if self.origin.input_sha256 is None else ", fitted to a stack"
        stopped = "" if self.origin.complete else ", stopped before the end"
        return f"{found}, for {self.origin.acquisition.description}{fitted}{stopped}"

    def knows(self, stack: ProjectionStack) -> bool:
        """Whether this base model was fitted to these very projections before: see `TOO_GOOD`."""
        return self.is_base and self.origin.input_sha256 == stack.sha256

    def check(self, stack: ProjectionStack, denoise: bool = False) -> str | None:
        """What `check_input` says; and whether the weights fit.

        Raises
        ------
        InvalidInput
            As for `check_input` and `checks.check_weights`.
        """
        note = self.check_input(stack, denoise)
        try:
            check_weights(self.method, stack, self.weights)
        except InvalidInput as error:
            before, now = self.origin.acquisition, stack.acquisition
            if now.alike(before):
                raise
            raise InvalidInput(
                f"the weights of {name_of(self.method)} were trained for {before.description}, and {stack.name} "
                f"has {now.description}: state slices and stride as they are, or train anew, without these weights"
            ) from error
        return note

    def check_input(self, stack: ProjectionStack, denoise: bool = False) -> str | None:
        """What the user should know before these weights are used on a stack; None where all agrees.

        Parameters
        ----------
        denoise
            Whether the stack is denoised first.

        Raises
        ------
        InvalidInput
            If a neural representation would be used on other projections than its own: it would give back the
            volume it was trained on. If a base model was trained for projections that were made in another way.
        """
        notes, origin = [], self.origin
        if origin.denoised not in (None, denoise):
            kind = "denoised, and these are not" if origin.denoised else "as they were measured, and these are denoised"
            notes.append(f"the weights were trained on projections {kind}")
        if self.is_base:
            return "; ".join([*self._check_base(stack), *notes]) or None
        if not stack.acquisition.alike(origin.acquisition):
            notes.append(f"the weights were trained on projections with {origin.acquisition.description}")
        if origin.input_sha256 is None:
            notes.append("the weights do not say which projections they were trained on")
        elif origin.input_sha256 != stack.sha256:
            if any(isinstance(part, Inr) for part in (self.method, getattr(self.method, "prior", None))):
                before, now = origin.acquisition, stack.acquisition
                fewer = before.count == now.count and before.hidden != now.hidden
                hint = f" ({_left_out(before)})" if fewer else ""
                raise InvalidInput(
                    f"the weights of {name_of(self.method)} were trained on other projections than {stack.name}{hint}: "
                    "a neural representation is the specimen itself, so train again for this stack, "
                    "without these weights"
                )
            notes.append(self._elsewhere)
        return "; ".join(notes) or None

    def _check_base(self, stack: ProjectionStack) -> list[str]:
        before, now = self.origin.acquisition, stack.acquisition
        if not before.alike(now):
            raise InvalidInput(
                f"the base model of {name_of(self.method)} was trained for {before.description}, and {stack.name} "
                f"has {now.description}: train one for it"
            )
        notes = [] if self.origin.complete else ["the training of the base model was stopped before its end"]
        if self.origin.input_sha256 not in (None, stack.sha256):
            notes.append("the base model was fitted to another stack before")
        elif self.origin.input_sha256 and self.method.refines:
            notes.append("the base model was fitted to this stack before, and is once more")
        return notes

    @property
    def _elsewhere(self) -> str:
        """What to think of weights from another stack: some methods mean them for that."""
        if self.method.retrains:
            return "the weights were trained on other projections: compare the result with the conservative one"
        prior = getattr(self.method, "prior", None)
        setting, trained = ("fine_tuning", self.method) if prior is None else ("prior.fine_tuning", prior)
        steps = getattr(trained, "fine_tuning", 0)
        suits = (
            "the weights were trained on another stack, which suits the same kind of sample, microscope and voxel size"
        )
        return f"{suits}; they are trained on for {steps} steps" if steps else f"{suits}; else train on (set {setting})"


def save_trained(
    path: str | Path,
    method: Method,
    weights: Weights,
    stack: ProjectionStack,
    overwrite: bool = False,
    given: Trained | None = None,
    denoised: bool | None = None,
) -> Path:
    """Save weights with the spec and the stack they were trained for; errors as for `checkpoint.save_weights`.

    Parameters
    ----------
    given
        What the training began with: a base model stays one, with the volumes that it was trained on.
    denoised
        As in `Origin`.
    """
    values = method.model_dump(mode="json")
    before = Origin(acquisition=stack.acquisition) if given is None else given.origin
    now = {"acquisition": stack.acquisition, "input_sha256": stack.sha256, "denoised": denoised}
    return save_weights(path, values, weights, before.model_copy(update=now), overwrite)


def save_base(path: str | Path, base: Trained, overwrite: bool = False) -> Path:
    """Save a base model, complete or not, with what it was trained on; errors as for `checkpoint.save_weights`."""
    return save_weights(path, base.method.model_dump(mode="json"), base.weights, base.origin, overwrite)


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
    return Trained(wanted, stored.weights, stored.origin)


def check_sampling_only(trained: Method, wanted: Method) -> None:
    """Refuse a spec that differs from the trained one in more than sampling settings.

    Raises
    ------
    InvalidInput
        Naming what differs, and what may be changed.
    """
    if name_of(trained) != name_of(wanted) and type(trained) is not type(wanted):
        raise InvalidInput(f"these are trained weights of {name_of(trained)}, and not of {name_of(wanted)}")
    allowed = sampling_paths(trained)
    before, after = flat(trained.model_dump()), flat(wanted.model_dump())
    fixed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    fixed = [path for path in fixed if path not in {*allowed, *trained.idle, *wanted.idle}]
    if fixed:
        raise InvalidInput(
            f"{', '.join(fixed)} cannot be changed on the trained weights of {name_of(trained)}: "
            f"change {', '.join(allowed)}, or train again"
        )


def _left_out(acquisition: Acquisition) -> str:
    """Which projections were not trained on, in words."""
    numbers = numbers_of(acquisition.hidden)
    return f"without {numbers}, so leave them out here, too" if numbers else "on all of them, so leave none out here"
