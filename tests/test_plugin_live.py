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
@pytest.mark.parametrize("where", [{}, {"translate": (3, 2, 1)}, NANOMETRES, {"scale": (1, 1, -1)}])
@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2)])
def test_marks_and_the_view_stay_on_the_same_pixels(scale_um: Any, where: dict[str, Any], order: Any) -> None:
    viewer = ViewerModel()
    source = viewer.add_image(STACK, name="projections", **where)
    marks = viewer.add_points([[3, 20, 10], [5, 7, 9]], **where)
    mask = viewer.add_labels(np.ones(STACK.shape, int), **where)
    flat = viewer.add_points([[20, 10]], **{key: value[1:] for key, value in where.items()})
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
    np.testing.assert_allclose(elsewhere.scale, (7, 7, 7))
    np.testing.assert_allclose(index(viewer, source), (4, 12, 11), atol=0.51)  # sliders have steps
    shown = list(order[1:])
    centre = np.zeros(3)
    centre[shown] = viewer.scene.camera.center[1:]
    np.testing.assert_allclose(index(viewer, source, centre)[shown], np.array([3, 15, 12])[shown], atol=1e-4)
    assert viewer.scene.camera.zoom * abs(source.scale[2]) == pytest.approx(zoom * abs(before[2]))


def test_what_may_be_of_another_image_stays_with_it() -> None:
    viewer = ViewerModel()
    source, other = viewer.add_image(STACK), viewer.add_image(STACK[:, :20])
    points, mask = viewer.add_points([[3, 20, 10]]), viewer.add_labels(np.ones(other.data.shape, int))
    own = viewer.add_labels(np.ones(STACK.shape, int))
    place_source(viewer, source, (1.0, 0.5, 0.5), 6)
    np.testing.assert_allclose((points.scale, mask.scale, other.scale), np.ones((3, 3)))
    np.testing.assert_allclose(own.scale, source.scale)


def test_a_source_that_was_removed_changes_no_view() -> None:
    viewer = ViewerModel()
    source = viewer.add_image(STACK)
    viewer.layers.clear()
    for layers in ([], [STACK]):
        for data in layers:
            viewer.add_image(data)
        before = viewer.dims.point, viewer.scene.camera.zoom
        place_source(viewer, source, (1.0, 0.5, 0.5 + len(layers)), 6)
        assert (viewer.dims.point, viewer.scene.camera.zoom) == before
        np.testing.assert_allclose(source.scale, (6.0, 0.5, 0.5 + len(layers)))


def test_time_that_is_looked_at_along_an_axis_is_not_rescaled() -> None:
    viewer = ViewerModel()
    source = viewer.add_image(np.stack([STACK] * 3))
    viewer.dims.order = (1, 2, 0, 3)
    viewer.scene.camera.center = (0, 2, 12)
    place_source(viewer, source, (1.0, 0.5, 0.5), 6)
    np.testing.assert_allclose(viewer.scene.camera.center, (0, 2, 6))


def test_names_are_left_alone_unless_they_were_shown_here() -> None:
    viewer = ViewerModel()
    own = viewer.add_image(STACK)
    viewer.add_image(STACK)
    own.name_overlay.visible = True
    fitted = show_side_by_side(viewer, False)
    assert own.name_overlay.visible
    fitted = show_side_by_side(viewer, True, fitted)
    viewer.canvas.grid.enabled = False  # napari's own button
    show_side_by_side(viewer, False, fitted)
    assert not own.name_overlay.visible
