"""What `cases.toml` says: tables, each a product of lists, as cases."""

from __future__ import annotations

import tomllib
from itertools import product
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from .case import Case
from .volumes import FEWEST, depth_of


class Variant(BaseModel):
    """A method with settings of its own, where a table compares it with methods that lack them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    settings: dict[str, Any]


class Table(BaseModel):
    """One table: every combination of its lists; the other keys belong to all of its cases.

    Parameters
    ----------
    title
        A sentence: what it shows, and which table or figure of which paper it repeats.
    slow
        Not among those that are run when no table is named.
    curve
        Draw PSNR, SSIM and DICE over this: ``slices``, or a setting.
    settings
        Settings by dotted path, each with all methods.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str = ""
    slow: bool = False
    curve: Literal["slices", "gamma"] | None = None
    volumes: list[str]
    methods: list[str | Variant]
    settings: list[dict[str, Any]] = [{}]
    depths: list[int] = [6]
    stride: int | None = None
    profile: str = "uniform"
    seeds: list[int] = [0]
    preset: str = "preview"
    device: str = "auto"

    def cases(self) -> list[Case]:
        """All but those of `left_out`, a seed after the other."""
        return [case for case in self._every() if _enough(case)]

    def left_out(self) -> list[tuple[str, int]]:
        """Volumes and n that would leave too few projections."""
        return list(dict.fromkeys((case.volume, case.slices) for case in self._every() if not _enough(case)))

    def _every(self) -> list[Case]:
        fixed = {key: getattr(self, key) for key in ("stride", "profile", "preset", "device")}
        return [
            Case(volume=volume, method=name, settings={**own, **common}, slices=depth, seed=seed, **fixed)
            for seed, volume, (name, own), common, depth in product(
                self.seeds, self.volumes, map(_named, self.methods), self.settings, self.depths
            )
        ]


def tables() -> dict[str, Table]:
    """All tables by name."""
    found = tomllib.loads((Path(__file__).parent / "cases.toml").read_text("utf-8"))
    return {name: Table.model_validate(table) for name, table in found.items()}


def labels(cases: list[Case]) -> list[str]:
    """What to call each case: its method, and those of its settings in which it differs from others of that method."""
    return [_label(case, [other.settings for other in cases if other.method == case.method]) for case in cases]


def _label(case: Case, peers: list[dict[str, Any]]) -> str:
    """A setting that all peers share goes without saying."""
    differing = [key for key in case.settings if any(peer.get(key) != case.settings[key] for peer in peers)]
    return ", ".join([case.method, *(f"{key} {_said(case.settings[key])}" for key in differing)])


def _said(value: Any) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


def _named(method: str | Variant) -> tuple[str, dict[str, Any]]:
    return (method, {}) if isinstance(method, str) else (method.method, method.settings)


def _enough(case: Case) -> bool:
    stride = case.acquisition.step
    return (depth_of(case.volume) - case.slices) // stride + 1 >= FEWEST
