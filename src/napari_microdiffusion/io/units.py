"""Lengths in the units that file formats use."""

from __future__ import annotations

import math
from collections.abc import Iterable

_MICROMETRES = {
    **dict.fromkeys(("pm", "picometer"), 1e-6),
    **dict.fromkeys(("å", "angstrom"), 1e-4),
    **dict.fromkeys(("nm", "nanometer", "nanometre", "nanometers", "nanometres"), 1e-3),
    **dict.fromkeys(
        (
            "µm",
            "um",
            "micron",
            "microns",
            "micrometer",
            "micrometre",
            "micrometers",
            "micrometres",
            "\\u00b5m",
            "µ",
            "u",
        ),
        1.0,
    ),
    **dict.fromkeys(("mm", "millimeter", "millimetre", "millimeters", "millimetres"), 1e3),
    **dict.fromkeys(("cm", "centimeter", "centimetre", "centimeters"), 1e4),
    **dict.fromkeys(("m", "meter", "metre", "meters"), 1e6),
    **dict.fromkeys(("in", "inch", "inches", '"'), 25_400.0),
}


def micrometres(unit: str | None) -> float | None:
    """How many µm one unit is; None for pixels and for units that are no lengths."""
    if unit is None:
        return None
    return _MICROMETRES.get(unit.strip().lower().replace("\u03bc", "\u00b5").replace("\u212b", "\u00e5"))


def scale_um(sizes: Iterable[tuple[float | None, str | None]]) -> tuple[float, float, float] | None:
    """Voxel size (z, y, x) in µm from a size and a unit for each; None unless all three are stated and positive."""
    scale = []
    for size, unit in sizes:
        factor = micrometres(unit)
        if size is None or factor is None or not (math.isfinite(size) and size > 0):
            return None
        # 12 digits: nm and mm become the same numbers as µm
        scale.append(float(f"{size * factor:.12g}"))
    z, y, x = scale
    return z, y, x
