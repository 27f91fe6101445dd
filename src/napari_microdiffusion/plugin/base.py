"""Base models at hand in the window, and what forbids to use one. Knows no Qt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..acquisition import MINIMUM_PROJECTIONS, Acquisition
from ..descriptions import DESCRIPTIONS, titled
from ..events import InvalidInput
from ..presets import name_of
from ..trained import Trained, check_sampling_only
from ..volume import ProjectionStack
from .model import Setup

if TYPE_CHECKING:
    from ..methods import Method

NEEDED = "{} needs a base model first: train one on fully sampled volumes, or load one"
OTHER = (
    "the base model at hand was trained with other settings: go back to the effort that it was trained with, "
    "or train one with these"
)


@dataclass(frozen=True)
class AtHand:
    """A base model in memory; ``path`` is where it is saved, None where it is not yet."""

    trained: Trained
    path: Path | None = None

    @property
    def text(self) -> str:
        """Which one it is, in a few words."""
        count = len(self.trained.origin.volumes)
        state = "" if self.trained.origin.complete else ", stopped early"
        if self.path is not None:
            return f"{self.path.name}{state}"
        return f"trained here on {count} volume{'s' * (count != 1)}{state}, not saved yet"


class Bases:
    """Of each method the last base model that was trained or loaded."""

    def __init__(self) -> None:
        self._kept: dict[str, AtHand] = {}

    def keep(self, base: AtHand) -> None:
        """From now on the one of its method."""
        self._kept[name_of(base.trained.method)] = base

    def of(self, method: str) -> AtHand | None:
        """The one of a method by name, whatever its settings."""
        return self._kept.get(method)

    def has(self, path: Path) -> bool:
        """Whether the one of some method is saved there."""
        return any(base.path == path for base in self._kept.values())

    def fitting(self, method: Method) -> AtHand | None:
        """The one that a method with these very settings can work with."""
        kept = self.of(name_of(method))
        if kept is None:
            return None
        try:
            check_sampling_only(kept.trained.method, method)
        except InvalidInput:
            return None
        return kept

    def chosen(self, setup: Setup) -> AtHand | None:
        """The one that a run of this setup uses; None where there is none, or where it is still in its file alone."""
        kept = self.fitting(setup.spec())
        return kept if kept is not None and setup.weights in (None, kept.path) else None

    def trained(self, setup: Setup) -> Trained | None:
        """The same, as it was trained."""
        kept = self.chosen(setup)
        return None if kept is None else kept.trained

    def check(self, setup: Setup, source: str) -> None:
        """Refuse, with `InvalidInput`, a setup whose base model is lacking or was made for something else."""
        if not setup.spec().pretrained:
            return
        chosen = self.chosen(setup)
        if chosen is not None:
            _check_suits(chosen, setup, source)
            return
        kept = self.of(setup.method)
        if kept is not None and setup.weights in (None, kept.path):
            raise InvalidInput(OTHER)
        if setup.weights is None:
            raise InvalidInput(NEEDED.format(DESCRIPTIONS[setup.method].short))


AT_HAND = Bases()
"""Those of this session. They outlive the panel: people close it and open it again."""


def _check_suits(base: AtHand, setup: Setup, source: str) -> None:
    """Refuse, with `InvalidInput`, a base model of another acquisition."""
    try:
        base.trained.check_input(_blank(setup.acquisition, source))
    except InvalidInput as error:
        raise InvalidInput(titled(str(error), setup.method)) from error


def _blank(acquisition: Acquisition, name: str) -> ProjectionStack:
    """A stack of this kind, without its pixels: what a base model was made for can be checked without them."""
    bound = acquisition.bound(MINIMUM_PROJECTIONS)
    return ProjectionStack(np.zeros((MINIMUM_PROJECTIONS, 1, 1), np.float32), bound, name=name or "the image")
