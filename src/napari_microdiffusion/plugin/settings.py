"""A method's settings as rows of a form: what each means, its range, its choices. Knows no Qt."""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from ..methods import Method

Kind = Literal["choice", "switch", "integer", "number", "text"]


@dataclass(frozen=True)
class Row:
    """One setting.

    Parameters
    ----------
    path
        Dotted, as overrides name it.
    kind
        What edits it.
    value
        Now.
    optional
        Whether it may be left out (None).
    low, high
        Limits; None where there are none.
    multiple
        The value must be a multiple of it.
    """

    path: str
    kind: Kind
    value: Any
    description: str
    choices: tuple[Any, ...] = ()
    optional: bool = False
    low: float | None = None
    high: float | None = None
    multiple: int | None = None
    range: str = ""

    @property
    def label(self) -> str:
        """``Learning rate`` for ``prior.learning_rate``."""
        return LABELS.get(name := self.path.rpartition(".")[2], name.replace("_", " ").capitalize())

    @property
    def group(self) -> str:
        """The part above it: empty for the method's own settings, ``prior`` for its prior's."""
        return self.path.rpartition(".")[0]

    @property
    def tooltip(self) -> str:
        """Meaning and range in one text."""
        text = self.description[:1].upper() + self.description[1:]
        return f"{text}. {self.range}".strip() if text else self.range


LABELS = {
    "bandwidth_z": "Finest detail in z",
    "bandwidth_xy": "Finest detail in xy",
    "beta_start": "First noise variance",
    "beta_end": "Last noise variance",
    "p_uncond": "Condition dropout",
    "gamma": "Share of the prior, γ",
    "timesteps": "Noise levels",
}


def rows(method: Method, above: str = "") -> list[Row]:
    """The settings of a method, those of a method inside it (the prior) behind its own."""
    own: list[Row] = []
    nested: list[Row] = []
    for name, info in type(method).model_fields.items():
        value = getattr(method, name)
        if isinstance(value, Method):
            nested += rows(value, f"{above}{name}.")
        elif name != "kind" and not _holds_methods(info):
            own.append(_row(above + name, info, value))
    return own + nested


def _row(path: str, info: FieldInfo, value: Any) -> Row:
    kinds = [kind for kind in _members(info.annotation) if kind is not type(None)]
    optional = len(kinds) < len(_members(info.annotation))
    choices = tuple(choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind))
    limits = _limits(info)
    return Row(
        path,
        _kind(kinds, choices),
        value,
        info.description or "",
        choices,
        optional,
        limits.get("ge", limits.get("gt")),
        limits.get("le", limits.get("lt")),
        limits.get("multiple_of"),
        _range(limits, choices),
    )


def _kind(kinds: list[Any], choices: tuple[Any, ...]) -> Kind:
    if choices:
        return "choice"
    names: dict[Any, Kind] = {bool: "switch", int: "integer", float: "number"}
    return names.get(kinds[0], "text") if len(kinds) == 1 else "text"


def _members(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a union, Annotated unwrapped."""
    if hasattr(annotation, "__metadata__"):
        annotation = get_args(annotation)[0]
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _holds_methods(info: FieldInfo) -> bool:
    return any(_is_method(kind) for kind in _flat(info.annotation))


def _flat(annotation: Any) -> Iterator[Any]:
    yield annotation
    for inner in get_args(annotation):
        yield from _flat(inner)


def _is_method(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Method)


def _limits(info: FieldInfo) -> dict[str, Any]:
    return {
        name: getattr(limit, name)
        for limit in info.metadata
        for name in ("ge", "gt", "le", "lt", "multiple_of")
        if getattr(limit, name, None) is not None
    }


def _range(limits: dict[str, Any], choices: tuple[Any, ...]) -> str:
    if choices:
        return "Choices: " + ", ".join(str(choice) for choice in choices) + "."
    words = {"ge": "at least {:g}", "gt": "above {:g}", "le": "at most {:g}", "lt": "below {:g}"}
    text = ", ".join(word.format(limits[name]) for name, word in words.items() if name in limits)
    if "multiple_of" in limits:
        text += f", a multiple of {limits['multiple_of']}"
    return f"Range: {text}." if text else ""
