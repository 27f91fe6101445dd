"""Named specs as data: which settings ``preview``, ``standard`` and ``paper`` mean for each method."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any, Literal, TypeVar, get_args

from pydantic import TypeAdapter, ValidationError

from .events import InvalidInput
from .methods import (
    AnyMethod,
    Axial,
    AxialPosterior,
    Conservative,
    Cubic,
    Ddpm,
    Guided,
    Inr,
    Linear,
    Method,
    RecurrentMz,
    Sparse3Diff,
)
from .methods._settings import in_words, limits

Checked = TypeVar("Checked")
PresetName = Literal["preview", "standard", "paper"]
PRESETS: tuple[str, ...] = get_args(PresetName)

METHODS: dict[str, tuple[type[Method], str | None]] = {
    "linear": (Linear, None),
    "cubic": (Cubic, None),
    "conservative": (Conservative, None),
    "inr": (Inr, None),
    "hash_inr": (Inr, None),
    "naive_diffusion": (Guided, None),
    "interpolation_diffusion": (Guided, "linear"),
    "cubic_diffusion": (Guided, "cubic"),
    "conservative_diffusion": (Guided, "conservative"),
    "microdiffusion": (Guided, "inr"),
    "axial": (Axial, None),
    "axial_diffusion": (Guided, "axial"),
    "axial_posterior": (AxialPosterior, "axial"),
    "recurrent_mz": (RecurrentMz, None),
    "ddpm": (Ddpm, None),
    "sparse3diff": (Sparse3Diff, None),
}
"""Every method's name, its spec class, and the name of its prior."""

FIXED: dict[str, dict[str, Any]] = {"hash_inr": {"encoding": "hash"}}
"""Settings by which a method differs from another of its class; such a method has presets of its own."""

_WHOLE, _NUMBER, _SWITCH = "must be a whole number", "must be a number", "must be true or false"
PLAIN = {
    "int_parsing": _WHOLE,
    "int_from_float": _WHOLE,
    "int_type": _WHOLE,
    "float_parsing": _NUMBER,
    "float_type": _NUMBER,
    "finite_number": _NUMBER,
    "bool_parsing": _SWITCH,
    "bool_type": _SWITCH,
    "extra_forbidden": "there is nothing of this name; check its spelling, or remove it",
    "missing": "is missing",
    "model_attributes_type": 'must say its kind, such as {"kind": "linear"}',
    "union_tag_not_found": 'must say its kind, such as {"kind": "linear"}',
    "union_tag_invalid": "there is no such kind",
    "path_type": "must be the path of a file",
    "tuple_type": "must be a list",
}
"""What people read for pydantic's types of errors; of the others pydantic's own words are plain."""

_ADAPTER: TypeAdapter[Method] = TypeAdapter(AnyMethod)


def spec(name: str, preset: str = "preview", overrides: dict[str, Any] | None = None) -> Method:
    """A method's spec by name and preset, with dotted overrides on top.

    Parameters
    ----------
    name
        One of `METHODS`.
    preset
        One of `PRESETS`.
    overrides
        Dotted field paths to values, ``{"consistency": "final", "prior.bandwidth_z": 1.5}``.

    Raises
    ------
    InvalidInput
        For an unknown name or key (names the valid ones), or a value out of range (names the range).
    """
    if name not in METHODS:
        raise InvalidInput(f"no method is called {name!r}; there are {', '.join(METHODS)}")
    if preset not in PRESETS:
        raise InvalidInput(f"no preset is called {preset!r}; there are {', '.join(PRESETS)}")
    return override(_ADAPTER.validate_python(_values(name, preset)), overrides or {})


def name_of(method: Method) -> str:
    """The name of a spec: that of its kind, for guided diffusion that of its prior, or the one of what is `FIXED`."""
    prior = getattr(method, "prior", None)
    for name in (*FIXED, *METHODS):
        cls, prior_name = METHODS[name]
        fixed = all(getattr(method, key, None) == value for key, value in FIXED.get(name, {}).items())
        if cls is type(method) and prior_name == (prior.kind if prior else None) and fixed:
            return name
    return method.kind


def table_of(name: str) -> str:
    """The table of ``presets.toml`` with a method's settings: of its kind, or its own if something is `FIXED`."""
    cls, _ = METHODS[name]
    kind: str = cls.model_fields["kind"].default
    return name if name in FIXED else kind


def override(method: Method, overrides: dict[str, Any]) -> Method:
    """A validated copy of a spec with dotted fields changed; errors as for `spec`, and for those that do nothing."""
    found = adjusted(method, overrides)
    if idle := sorted(found.idle & overrides.keys()):
        it, depends = ("it", "it depends") if len(idle) == 1 else ("them", "they depend")
        name = name_of(found)
        raise InvalidInput(
            f"with the other settings as they are, {' and '.join(idle)} would do nothing on this {name}: leave {it} "
            f"out, or change what {depends} on, too (napari-microdiffusion methods {name} lists all)"
        )
    return found


def adjusted(method: Method, overrides: dict[str, Any]) -> Method:
    """As `override`, but what does nothing is taken, too."""
    values = method.model_dump()
    for path, value in overrides.items():
        *parents, key = path.split(".")
        node: Any = values
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if not isinstance(node, dict) or key not in node or key == "kind":
            known = sorted(path for path in flat(method.model_dump()) if path.split(".")[-1] != "kind")
            raise InvalidInput(f"{name_of(method)} has no setting {path!r}; its settings are {', '.join(known)}")
        node[key] = value
    return validated(values)


def validated(values: dict[str, Any]) -> Method:
    """A spec from plain values.

    Raises
    ------
    InvalidInput
        Naming the setting and its range.
    """
    return checked(_ADAPTER.validate_python, values)


def checked(validate: Callable[[dict[str, Any]], Checked], values: dict[str, Any]) -> Checked:
    """What pydantic makes of plain values, ``Job.model_validate`` for example.

    Raises
    ------
    InvalidInput
        Naming the setting and its range.
    """
    try:
        return validate(values)
    except ValidationError as error:
        raise InvalidInput(explain(error)) from error


def explain(error: ValidationError) -> str:
    """A validation error in one line: each setting, its value, what it must be, its range."""
    kinds = {cls.model_fields["kind"].default: cls for cls, _ in METHODS.values()}
    lines = []
    for item in error.errors():
        path = ".".join(str(part) for part in item["loc"] if part not in kinds)
        said = item["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        message = PLAIN.get(item["type"], said)
        owner = _owner(item["loc"], kinds)
        info = owner.model_fields.get(str(item["loc"][-1])) if owner else None
        bounds = (in_words(limits(info)) if info else "") or item.get("ctx", {}).get("expected_tags", "")
        whole = item["type"] == "value_error" and isinstance(item["input"], dict)  # of a prior, too long to repeat
        value = "" if whole or item["type"] == "missing" else f" = {item['input']!r}"
        lines.append((f"{path}{value}: {message}" if path else message) + (f" ({bounds})" if bounds else ""))
    return "; ".join(lines)


def _owner(location: tuple[int | str, ...], kinds: dict[str, type[Method]]) -> type[Method] | None:
    """The method that the setting at a location belongs to: the prior where it leads through one."""
    owner = None
    for part in map(str, location[:-1]):
        info = owner.model_fields.get(part) if owner else None
        if part in kinds:
            owner = kinds[part]
        elif info and isinstance(info.annotation, type) and issubclass(info.annotation, Method):
            owner = info.annotation
    return owner


def parse_value(text: str) -> Any:
    """A value from the command line: JSON, or else the string itself."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def sources(preset: str, table: str) -> dict[str, str]:
    """Where each value of a preset comes from: ``paper``, ``released code`` or ``ours``, by field name.

    ``table`` is what `table_of` gives.
    """
    values = _presets()[preset].get(table, {})
    return {key: value["source"] for key, value in values.items() if isinstance(value, dict)}


def _values(name: str, preset: str) -> dict[str, Any]:
    cls, prior = METHODS[name]
    table = _presets()[preset].get(table_of(name), {})
    values = {key: value["value"] if isinstance(value, dict) else value for key, value in table.items()}
    values |= FIXED.get(name, {})
    if prior is not None:
        values["prior"] = _values(prior, preset)
    return {"kind": cls.model_fields["kind"].default, **values}


def flat(values: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Nested values by dotted path."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        result |= flat(value, f"{above}{key}.") if isinstance(value, dict) else {above + key: value}
    return result


@cache
def _presets() -> dict[str, dict[str, dict[str, Any]]]:
    return tomllib.loads(files(__package__).joinpath("presets.toml").read_text("utf-8"))
