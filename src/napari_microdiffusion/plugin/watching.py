"""Hearing of napari's events, of layers that come and go for example, for as long as a widget is there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from qtpy.QtCore import QObject


def watch(events: tuple[Any, ...], owner: QObject, slot: Callable[[Any], None]) -> None:
    """Call a slot with each of napari's events, for as long as ``owner`` is there."""
    for event in events:
        event.connect(slot)
    owner.destroyed.connect(partial(_forget, events, slot))


def _forget(events: tuple[Any, ...], slot: object, *_: object) -> None:
    """The widget is gone: the viewer must not call it any more."""
    for event in events:
        event.disconnect(slot)


def layer_events(viewer: ViewerModel) -> tuple[Any, ...]:
    """When layers are inserted, removed or renamed."""
    events = viewer.layers.events
    return events.inserted, events.removed, events.renamed
