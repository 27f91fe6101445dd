"""The layer that a run is writing into: made from the first picture, refreshed now and then, finished at the end."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from qtpy.QtCore import QObject, QTimer

from ..metrics import SCALES_APART
from .known import KEY
from .layers import Triple, extra_axes, grid, lay, link_contrast, marks_on, rescale, top

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

    from ..volume import ProjectionStack


class LiveLayer(QObject):
    """A result's layer while it grows.

    The worker writes into the layer's own array; here a flag is set, and a timer draws. Thumbnail, highlight and extent
    stay as they are until the end: each would go over the whole volume.

    Parameters
    ----------
    known
        What is known of the result until its run has ended: who saves it meanwhile saves that with it.
    rate
        Drawings a second.
    """

    def __init__(self, viewer: ViewerModel, name: str, known: dict[str, Any], parent: QObject, rate: float) -> None:
        super().__init__(parent)
        self._viewer, self._name, self._known = viewer, name, known
        self.layer: Image | None = None
        self._stale = False
        self._timer = QTimer(self)
        self._timer.setInterval(round(1000 / rate))
        self._timer.timeout.connect(self._draw)

    def open(self, canvas: NDArray[np.float32], stack: ProjectionStack, source: Image, truth: Image | None) -> Image:
        """Add the layer, where its slices were measured, with the contrast of the truth or else of the projections."""
        first = stack.acquisition.first_centre
        reference = truth if truth is not None and _alike(truth, source) else source
        scale, units = grid(source, stack.volume_scale_um, stack.acquisition.step)
        self.layer = self._viewer.add_image(
            canvas,
            name=self._name,
            contrast_limits=tuple(reference.contrast_limits),
            colormap=reference.colormap,
            metadata={KEY: {"role": "result", **self._known}},
            scale=scale,
            translate=top(source, scale[0], first),
            units=units,
            axis_labels=("z", "y", "x"),
        )
        link_contrast(self.layer, reference)
        self.destroyed.connect(_left(self.layer))
        self._timer.start()
        return self.layer

    @property
    def gone(self) -> bool:
        """Whether the layer was there and people have removed it."""
        return self.layer is not None and self.layer not in self._viewer.layers

    def touch(self) -> None:
        """The array has changed; draw it when the timer says so."""
        self._stale = True

    def finish(self, suffix: str, facts: dict[str, Any] | None = None) -> None:
        """Stop drawing, keep what is known of the result with the layer, draw it once in full."""
        self._timer.stop()
        if self.layer is None or self.gone:
            return
        known = self._known if facts is None else facts
        self.layer.metadata = {**self.layer.metadata, KEY: {"role": "result", **known}}
        self.layer.name += suffix
        self.layer.refresh()

    def discard(self) -> None:
        """Stop drawing and take the layer away: there will be no result."""
        self._timer.stop()
        if self.layer is not None and not self.gone:
            self._viewer.layers.remove(self.layer)

    def _draw(self) -> None:
        if self._stale and self.layer is not None and not self.gone:
            self._stale = False
            self.layer.refresh(thumbnail=False, highlight=False, extent=False)


def _left(layer: Image) -> Callable[..., None]:
    """Says of a layer that it is partial, if the panel is closed before its run has ended."""
    name, known = layer.name, layer.metadata[KEY]

    def left(*_: object) -> None:
        if layer.metadata.get(KEY) is known and layer.name == name:
            with suppress(RuntimeError):  # the window may be gone as well
                layer.name += " (partial)"

    return left


def _alike(truth: Image, source: Image) -> bool:
    """Whether contrast can be the same: a truth of another bit depth would leave the volume black."""
    of_truth, of_source = (high - low for low, high in (truth.contrast_limits, source.contrast_limits))
    return bool(1 / SCALES_APART <= of_truth / max(of_source, 1e-30) <= SCALES_APART)


@dataclass(frozen=True)
class Frame:
    """Where a layer lies: scale and translation of its z, y, x."""

    scale: NDArray[np.float64]
    shift: NDArray[np.float64]

    @classmethod
    def of(cls, layer: Image) -> Frame:
        """As it lies now."""
        return cls(layer.scale[-3:].copy(), layer.translate[-3:].copy())

    def carried(self, at: ArrayLike, now: Frame, axes: NDArray[np.intp]) -> NDArray[np.float64]:
        """Where positions on the layer, along such ``axes`` of z, y, x, are since it lies as it does ``now``."""
        factors = now.scale[axes] / self.scale[axes]
        return np.asarray(now.shift[axes] + (np.asarray(at) - self.shift[axes]) * factors)


ZYX = np.arange(3)
"""z, y and x, by their places among a layer's last three axes."""


def place_source(viewer: ViewerModel, layer: Image, scale_um: Triple | None, step: int) -> None:
    """Rescale a source layer (`layers.rescale`); marks on it, sliders and camera stay where they are on its pixels."""
    if layer not in viewer.layers:  # people have removed it: nothing is looked at by it
        rescale(layer, scale_um, step)
        return
    marks, before = marks_on(layer, viewer.layers), Frame.of(layer)
    point, centre = viewer.dims.point[-3:], viewer.scene.camera.center
    rescale(layer, scale_um, step)
    now = Frame.of(layer)
    for mark in marks:
        last = ZYX[-min(3, mark.ndim) :]
        lay(mark, layer, before.carried(mark.translate[-len(last) :], now, last))
    if not np.allclose(now.scale, before.scale):
        viewer.dims.set_point(range(viewer.dims.ndim - 3, viewer.dims.ndim), before.carried(point, now, ZYX))
        _look(viewer, np.asarray(centre), before, now)


def _look(viewer: ViewerModel, centre: NDArray[np.float64], before: Frame, now: Frame) -> None:
    """Keep the middle of the view and its zoom; axes of time points or channels that are looked at stay as they are."""
    camera, axes = viewer.scene.camera, np.asarray(viewer.dims.displayed) - (viewer.dims.ndim - 3)
    spatial = np.flatnonzero(axes >= 0) - len(axes)  # from the end: in 2D the camera has a third, unused one in front
    centre[spatial] = before.carried(centre[spatial], now, axes[spatial])
    camera.center = tuple(centre)
    if axes[-1] >= 0:
        camera.zoom *= abs(float(before.scale[axes[-1]] / now.scale[axes[-1]]))


def show_chosen(viewer: ViewerModel, source: Image, chosen: dict[str, int]) -> None:
    """Move the sliders to the channel and time point that are used of a layer."""
    for axis, name in enumerate(extra_axes(source)):
        index = chosen.get(name, 0)
        viewer.dims.set_point(
            viewer.dims.ndim - source.ndim + axis, source.translate[axis] + index * source.scale[axis]
        )


def looked_at(viewer: ViewerModel, source: Image) -> dict[str, int]:
    """The channel and time point of a layer that the sliders are at; empty where it is not shown yet."""
    if viewer.dims.ndim < source.ndim or source not in viewer.layers:
        return {}
    found = {}
    for axis, (name, length) in enumerate(extra_axes(source).items()):
        point = viewer.dims.point[viewer.dims.ndim - source.ndim + axis]
        index = round((point - float(source.translate[axis])) / float(source.scale[axis]))
        found[name] = min(max(index, 0), length - 1)
    return found


def show_middle(viewer: ViewerModel, layer: Image) -> None:
    """Move the sliders to the middle of a layer unless they are inside it already, away from its ends."""
    if viewer.dims.ndisplay == 3:
        return
    depth = layer.data.shape[-3]
    axis = viewer.dims.ndim - 3
    top, step = float(layer.translate[-3]), float(layer.scale[-3])
    inside = (viewer.dims.point[axis] - top) / step
    if not 1 <= inside <= depth - 2:
        viewer.dims.set_point(axis, top + step * (depth // 2))


def show_side_by_side(viewer: ViewerModel, on: bool, fitted: tuple[int, int] = (1, 1)) -> tuple[int, int]:
    """Show layers beside one another with their names, or on top of one another.

    Fits the view when rows and columns are not the ones it was ``fitted`` to, and returns those it is fitted to now.
    """
    on = on and len(viewer.layers) > 1
    if on or fitted != (1, 1):  # else names are as people want them
        for layer in viewer.layers:
            layer.name_overlay.visible = on
            layer.name_overlay.font_size = 8
    viewer.canvas.grid.enabled = on
    rows, columns = viewer.canvas.grid.actual_shape(viewer.layers)
    cells = int(rows), int(columns)
    if cells != fitted:
        viewer.fit_to_view()
    return cells
