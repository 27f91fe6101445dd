"""What outlives the panel, which people close and open again: what was chosen for each image, what networks are for."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from pathlib import Path

    from napari.components import ViewerModel
    from napari.layers import Image

    from ..acquisition import Acquisition
    from .model import Setup

TRAINED_FOR: dict[Path | None, Acquisition] = {}
"""What the projections were of the networks that were loaded in this session, by their files."""

_CHOSEN: WeakKeyDictionary[Image, Setup] = WeakKeyDictionary()
"""By the chosen image, the newest last."""


def remember(source: Image, setup: Setup) -> None:
    """What was chosen for an image last."""
    _CHOSEN.pop(source, None)
    _CHOSEN[source] = setup


def last_chosen(viewer: ViewerModel) -> Setup | None:
    """What was chosen last for an image that is still there, whatever it is called now."""
    for source in reversed([*_CHOSEN]):
        if source in viewer.layers:
            return _CHOSEN[source].replace(source=source.name)
    return None
