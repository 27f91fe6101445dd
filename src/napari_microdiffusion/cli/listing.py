"""The methods and their settings, for people and for programs."""

from __future__ import annotations

import json
from typing import Any

from ..descriptions import DESCRIPTIONS
from ..events import InvalidInput
from ..presets import FIXED, METHODS, PRESETS, name_of, spec
from ..settings import Setting, settings_of

SETTINGS = "settings of one: napari-microdiffusion methods NAME; all as data: methods --json"
PRETRAIN = "a base model: napari-microdiffusion pretrain"


def as_data(name: str | None) -> dict[str, Any]:
    """Every method, or one, with all settings, JSON-ready."""
    return {"presets": list(PRESETS), "methods": [_method(each) for each in _names(name)]}


def as_text(name: str | None) -> str:
    """Names with a line each; for one method all settings."""
    if name is None:
        width = max(map(len, METHODS)) + 2
        lines = [f"{each:<{width}}{description.text}" for each, description in DESCRIPTIONS.items()]
        return "\n".join([*lines, "", SETTINGS, PRETRAIN])
    blocks = [_block(setting) for setting in settings_of(*_names(name))]
    told = [f"{name}: {DESCRIPTIONS[name].text}", _define(name), *([PRETRAIN] if spec(name).pretrained else [])]
    return "\n".join([*told, "change with --set KEY=VALUE", "", *blocks])


def _names(name: str | None) -> tuple[str, ...]:
    if name is None:
        return tuple(METHODS)
    if name not in METHODS:
        raise InvalidInput(f"no method is called {name!r}; there are {', '.join(METHODS)}")
    return (name,)


def _method(name: str) -> dict[str, Any]:
    method = spec(name)
    return {
        "name": name,
        "kind": method.kind,
        "title": DESCRIPTIONS[name].title,
        "description": DESCRIPTIONS[name].text,
        "definition": _define(name),
        "trained": method.learned,
        "needs_base_model": method.pretrained,
        "settings": [_setting(each) for each in settings_of(name)],
    }


def _setting(setting: Setting) -> dict[str, Any]:
    return {
        "key": setting.path,
        "type": setting.type,
        "choices": list(setting.choices) or None,
        "limits": setting.limits,
        "range": setting.range,
        "optional": setting.optional,
        "default": setting.values,
        "source": setting.sources,
        "changeable_after_training": setting.sampling,
        "description": setting.description,
    }


def _define(name: str) -> str:
    """What a method is, in a specialist's words."""
    method = spec(name)
    text = (type(method).__doc__ or "").strip().splitlines()[0]
    prior = getattr(method, "prior", None)
    if hasattr(method, "prior"):
        text += f" Here: {'no prior' if prior is None else f'prior {name_of(prior)}'}."
    return text + "".join(f" Here: {key} {value}." for key, value in FIXED.get(name, {}).items())


def _block(setting: Setting) -> str:
    values = "  ".join(f"{preset} {_said(value)}" for preset, value in setting.values.items())
    limits = f"{setting.range}, or null" if setting.optional else setting.range
    after = "; may be changed on trained weights" if setting.sampling else ""
    stated = "".join(f" ({preset}: {setting.origin(preset)})" for preset in setting.sources)
    return f"{setting.path}: {setting.description}\n    {limits}{after}\n    {values}{stated}"


def _said(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
