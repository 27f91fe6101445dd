"""Trained weights with the method they belong to: saved after a training, and used again without it.

A base model, trained on full volumes, is a weights file like any other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .acquisition import Acquisition
from .checkpoint import VolumeRecord, load_weights, save_weights
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
    """A method with its weights (on the CPU), and what it was trained on.

    Parameters
    ----------
    acquisition, input_sha256
        Of the projections it was trained on; the hash is None in older files. Of a base model, the acquisition that
        it is meant for; the hash of the stack that it was fitted to, None where it is as it came from the volumes.
    volumes
        That a base model was trained on; empty for others.
    complete
        Whether its training on volumes came to its end.
    denoised
        Whether the projections it was trained on, or a base model fitted to, were denoised first; None where nothing
        says, and for a base model as it came from the volumes.
    """

    method: Method
    weights: Weights = field(repr=False)
    acquisition: Acquisition
    input_sha256: str | None
    volumes: tuple[VolumeRecord, ...] = ()
    complete: bool = True
    denoised: bool | None = None

    @property
    def is_base(self) -> bool:
        """Whether these are the weights of a base model, which its method cannot do without."""
        return self.method.pretrained

    @property
    def origin(self) -> str:
        """What it was trained on and for, in one line: ``3 volumes (a, b, c), for 6 slices, stride 6, ...``."""
        if not self.is_base:
            return f"projections with {self.acquisition.description}"
        names = ", ".join(volume.name for volume in self.volumes)
        count = f"{len(self.volumes)} volume{'s' * (len(self.volumes) != 1)}"
        found = f"{count} ({names})" if names else "volumes that are not on record"
        fitted = "" if self.input_sha256 is None else ", fitted to a stack"
        stopped = "" if self.complete else ", stopped before the end"
        return f"{found}, for {self.acquisition.description}{fitted}{stopped}"

    def knows(self, stack: ProjectionStack) -> bool:
        """Whether this base model was fitted to these very projections before: see `TOO_GOOD`."""
        return self.is_base and self.input_sha256 == stack.sha256

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
            before, now = self.acquisition, stack.acquisition
            if now.alike(before):
                raise
            raise InvalidInput(
                f"the weights of {name_of(self.method)} were trained for {before.description}, and {stack.name} "
                f"has {now.description}: state slices and stride as they are, or train anew (leave the weights out)"
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
        notes = []
        if self.denoised not in (None, denoise):
            kind = "denoised, and these are not" if self.denoised else "as they were measured, and these are denoised"
            notes.append(f"the weights were trained on projections {kind}")
        if self.is_base:
            return "; ".join([*self._check_base(stack), *notes]) or None
        if not stack.acquisition.alike(self.acquisition):
            notes.append(f"the weights were trained on projections with {self.acquisition.description}")
        if self.input_sha256 is None:
            notes.append("the weights do not say which projections they were trained on")
        elif self.input_sha256 != stack.sha256:
            if any(isinstance(part, Inr) for part in (self.method, getattr(self.method, "prior", None))):
                before, now = self.acquisition, stack.acquisition
                fewer = before.count == now.count and before.hidden != now.hidden
                hint = f" ({_left_out(before)})" if fewer else ""
                raise InvalidInput(
                    f"the weights of {name_of(self.method)} were trained on other projections than {stack.name}{hint}: "
                    "a neural representation is the specimen itself, so train again for this stack (leave the "
                    "weights out)"
                )
            notes.append(self._elsewhere)
        return "; ".join(notes) or None

    def _check_base(self, stack: ProjectionStack) -> list[str]:
        before, now = self.acquisition, stack.acquisition
        if not before.alike(now):
            raise InvalidInput(
                f"the base model of {name_of(self.method)} was trained for {before.description}, and {stack.name} "
                f"has {now.description}: train one for it"
            )
        notes = [] if self.complete else ["the training of the base model was stopped before its end"]
        if self.input_sha256 not in (None, stack.sha256):
            notes.append("the base model was fitted to another stack before")
        elif self.input_sha256 and self.method.refines:
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
        return f"{suits}; they are trained on for {steps} steps" if steps else f"{suits}; else set {setting}"


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
        As in `Trained`.
    """
    values = method.model_dump(mode="json")
    volumes, complete = ((), True) if given is None else (given.volumes, given.complete)
    return save_weights(path, values, weights, stack.acquisition, overwrite, stack.sha256, volumes, complete, denoised)


def save_base(path: str | Path, base: Trained, overwrite: bool = False) -> Path:
    """Save a base model, complete or not, with what it was trained on; errors as for `checkpoint.save_weights`."""
    return save_weights(
        path,
        base.method.model_dump(mode="json"),
        base.weights,
        base.acquisition,
        overwrite,
        volumes=base.volumes,
        complete=base.complete,
    )


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
    return Trained(
        wanted,
        stored.weights,
        stored.acquisition,
        stored.input_sha256,
        stored.volumes,
        stored.complete,
        stored.denoised,
    )


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
