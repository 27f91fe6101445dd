"""Layers as they are placed and looked at: a source that is rescaled takes what lies on it along."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_microdiffusion.plugin.live import place_source, show_side_by_side

STACK = np.random.default_rng(0).random((6, 40, 30), np.float32)
NANOMETRES: dict[str, Any] = {"scale": (3000, 500, 500), "translate": (6000, 0, 1000), "units": ("nm",) * 3}


def index(viewer: ViewerModel, layer: Any, world: Any = None) -> Any:
    """Where a point of the world lies in a layer's data; by default where the sliders are."""
    at = np.asarray(viewer.dims.point if world is None else world, float)
    return np.asarray(layer.world_to_data(at))


@pytest.mark.parametrize("scale_um", [(1.0, 0.5, 0.25), (2.0, 0.5, 0.5), None])
@pytest.mark.parametrize("where", [{}, {"translate": (3, 2, 1)}, NANOMETRES])
@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2)])
def test_marks_and_the_view_stay_on_the_same_pixels(scale_um: Any, where: dict[str, Any], order: Any) -> None:
    viewer = ViewerModel()
    source = viewer.add_image(STACK, name="projections", **where)
    marks = viewer.add_points([[3, 20, 10], [5, 7, 9]], **where)
    mask = viewer.add_labels(np.ones(STACK.shape, int), **where)
    flat = viewer.add_points([[20, 10]], **{key: value[1:] for key, value in where.items()})
    other = viewer.add_image(STACK, **where)
    elsewhere = viewer.add_points([[3, 20, 10]], scale=(7, 7, 7))
    viewer.dims.order = order
    viewer.dims.set_point(range(3), source.data_to_world((4, 12, 11)))
    viewer.scene.camera.center = (0, *np.asarray(source.data_to_world((3, 15, 12)))[list(order[1:])])
    zoom, before = viewer.scene.camera.zoom, source.scale.copy()
    place_source(viewer, source, scale_um, 6)
    if scale_um is not None:
        np.testing.assert_allclose(source.scale, (6 * scale_um[0], *scale_um[1:]))
    for mark in (marks, mask):
        np.testing.assert_allclose(mark.scale, source.scale)
        np.testing.assert_allclose(index(viewer, source, mark.data_to_world((3, 20, 10))), (3, 20, 10), atol=1e-5)
        assert mark.units == source.units
    np.testing.assert_allclose(
        flat.data_to_world((20, 10)), np.asarray(source.data_to_world((0, 20, 10)))[1:], rtol=1e-5
    )
    np.testing.assert_allclose((other.scale, elsewhere.scale), (before, (7, 7, 7)))
    np.testing.assert_allclose(index(viewer, source), (4, 12, 11), atol=0.51)  # sliders have steps
    shown = list(order[1:])
    centre = np.zeros(3)
    centre[shown] = viewer.scene.camera.center[1:]
    np.testing.assert_allclose(index(viewer, source, centre)[shown], np.array([3, 15, 12])[shown], atol=1e-4)
    assert viewer.scene.camera.zoom * source.scale[2] == pytest.approx(zoom * before[2])


def test_names_are_left_alone_unless_they_were_shown_here() -> None:
    viewer = ViewerModel()
    own = viewer.add_image(STACK)
    viewer.add_image(STACK)
    own.name_overlay.visible = True
    show_side_by_side(viewer, False)
    assert own.name_overlay.visible
    show_side_by_side(viewer, True)
    show_side_by_side(viewer, False)
    assert not own.name_overlay.visible
