"""What can be set on each method: paths, types, ranges, meanings, and what each preset chooses."""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from .methods import Method
from .methods._settings import in_words, limits
from .presets import PRESETS, name_of, sources, spec, table_of


@dataclass(frozen=True)
class Setting:
    """One setting of a method.

    Parameters
    ----------
    path
        Dotted, as for `presets.override`.
    type
        ``integer``, ``number``, ``boolean``, ``choice``, ``list`` or ``text``.
    choices
        The values of a choice.
    limits
        ``ge``, ``gt``, ``le``, ``lt``, ``multiple_of``, ``min_length``, ``max_length``, as far as there are any.
    optional
        Whether it may be left unset (null).
    sampling
        Whether it may be changed on weights that are already trained.
    values
        What each preset chooses.
    sources
        Where a preset's value comes from, by preset, where it is stated: ``paper``, ``released code`` or ``ours``.
    """

    path: str
    type: str
    choices: tuple[Any, ...]
    limits: dict[str, float]
    optional: bool
    description: str
    sampling: bool
    values: dict[str, Any]
    sources: dict[str, str]

    @property
    def range(self) -> str:
        """What it may be, in words: ``0 to 1``, ``above 0, at most 100``, ``ddim or ddpm``."""
        if self.choices:
            return " or ".join(str(choice) for choice in self.choices)
        return in_words(self.limits) or {"boolean": "true or false"}.get(self.type, "")

    def origin(self, preset: str) -> str:
        """Where the preset's value comes from, in words: ``from the paper``, ``our own``; empty if it is not stated."""
        source = self.sources.get(preset, "")
        return "our own" if source == "ours" else source and f"from the {source}"


def settings_of(name: str) -> tuple[Setting, ...]:
    """Every setting of the method of this name that does something, its prior's included as ``prior.…``.

    Raises
    ------
    InvalidInput
        For an unknown name.
    """
    methods = {preset: spec(name, preset) for preset in PRESETS}
    first = next(iter(methods.values()))
    found = _settings(methods, "", sampling_paths(first))
    # of a prior's settings it may be the method itself to which some mean nothing
    return tuple(each for each in found if any(each.path not in other.own_idle for other in _variants(first)))


def sampling_paths(method: Method) -> tuple[str, ...]:
    """The settings that may be changed on trained weights; a prior's unless the network knows that one's volume."""
    own = tuple(key for key, info in type(method).model_fields.items() if _is_sampling(info))
    prior = getattr(method, "prior", None)
    below = () if prior is None or method.retrains else sampling_paths(prior)
    return own + tuple(f"prior.{path}" for path in below)


def _settings(methods: dict[str, Method], above: str, changeable: tuple[str, ...]) -> Iterator[Setting]:
    """Of one method in several presets; ``changeable`` are the paths of `sampling_paths`."""
    first = next(iter(methods.values()))
    stated = {preset: sources(preset, table_of(name_of(method))) for preset, method in methods.items()}
    for key, info in type(first).model_fields.items():
        values = {preset: getattr(method, key) for preset, method in methods.items()}
        if isinstance(getattr(first, key), Method):
            yield from _settings(values, f"{above}{key}.", changeable)
        elif key not in ("kind", "prior") and any(key not in other.own_idle for other in _variants(first)):
            kind, choices, optional = _type(info.annotation)
            yield Setting(
                path=above + key,
                type=kind,
                choices=choices,
                limits=limits(info),
                optional=optional,
                description=info.description or "",
                sampling=above + key in changeable,
                values=values,
                sources={preset: found[key] for preset, found in stated.items() if key in found},
            )


def _variants(method: Method) -> Iterator[Method]:
    """The method itself, and with each switch turned once: one choice, yes or no, given (as 1, unchecked) or not."""
    yield method
    for key, info in type(method).model_fields.items():
        kind, choices, optional = _type(info.annotation)
        if key != "prior":
            turned = choices or ((False, True) if kind == "boolean" else (None, 1) if optional else ())
            yield from (method.model_copy(update={key: value}) for value in turned)


def _type(annotation: Any) -> tuple[str, tuple[Any, ...], bool]:
    """Its name, the choices, and whether None is allowed."""
    arguments = get_args(annotation)
    if get_origin(annotation) in (Union, types.UnionType):
        rest = [argument for argument in arguments if argument is not type(None)]
        kind, choices, _ = _type(rest[0])
        return kind, choices, len(rest) < len(arguments)
    if get_origin(annotation) is Literal:
        return "choice", arguments, False
    names = {bool: "boolean", int: "integer", float: "number", tuple: "list", list: "list"}
    return names.get(get_origin(annotation) or annotation, "text"), (), False


def _is_sampling(info: FieldInfo) -> bool:
    extra = info.json_schema_extra
    return isinstance(extra, dict) and extra.get("stage") == "sampling"
