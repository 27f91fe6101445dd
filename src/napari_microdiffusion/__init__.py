"""Depth-resolved volumes from axial projections: engine, command line and napari plugin."""

from __future__ import annotations

import os
from importlib import import_module
from importlib.metadata import version
from typing import Any

__version__ = version("napari-microdiffusion")

# torch's OpenMP threads spin while they wait; with napari drawing on another core that makes a
# step up to ten times slower. Read when torch loads, so it is set here unless the user has.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# No name may also be a module's: after that module's import, the package's attribute is the module.
_HOMES = {
    "Acquisition": "acquisition",
    "Volume": "volume",
    "ProjectionStack": "volume",
    "Job": "run",
    "reconstruct": "run",
    "exhaust": "events",
    "Pretraining": "pretraining",
    "pretrain": "pretraining",
    "load_trained": "trained",
    "save_base": "trained",
    "save_trained": "trained",
    "held_out": "trust",
    "read_volume": "io",
    "read_projections": "io",
    "write_volume": "io",
    "write_projections": "io",
    "evaluate": "metrics",
    "phantom": "phantoms",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
