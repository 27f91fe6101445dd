"""Hearing of layers that come, go and change their names, for as long as a widget is there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from qtpy.QtCore import QObject


def watch(viewer: ViewerModel, owner: QObject, slot: Callable[[Any], None]) -> None:
    """Call a slot of ``owner`` with napari's event whenever layers are inserted, removed or renamed."""
    for event in _events(viewer):
        event.connect(slot)
    owner.destroyed.connect(partial(_forget, viewer, slot))


def _forget(viewer: ViewerModel, slot: object, *_: object) -> None:
    """The widget is gone: the viewer must not call it any more."""
    for event in _events(viewer):
        event.disconnect(slot)


def _events(viewer: ViewerModel) -> tuple[Any, ...]:
    events = viewer.layers.events
    return events.inserted, events.removed, events.renamed
