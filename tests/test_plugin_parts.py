"""Small parts of the form: tones of text that can be read in every theme."""

from __future__ import annotations

import re

import pytest
from napari.utils.theme import available_themes, get_theme

from napari_microdiffusion.plugin.parts import TONES, tones


def luminance(colour: tuple[int, ...]) -> float:
    """Relative luminance of sRGB (WCAG 2.2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (each / 255 for each in colour)]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("theme", sorted(set(available_themes()) - {"system"}))
@pytest.mark.parametrize("tone", TONES)
def test_every_tone_can_be_read_in_every_theme(theme: str, tone: str) -> None:
    """As WCAG 2.2 asks of small text, 4.5 to 1."""
    found = re.search(rf'"{tone}"\] {{ color: #(..)(..)(..)', tones(theme))
    assert found is not None
    text = luminance(tuple(int(part, 16) for part in found.groups()))
    ground = luminance(get_theme(theme).background.as_rgb_tuple()[:3])
    dark, light = sorted((text, ground))
    assert (light + 0.05) / (dark + 0.05) >= 4.5
