"""Where to trust a result: layers of its uncertainty, its 90 % interval and its residual, shown when asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..acquisition import Acquisition
from ..events import InvalidInput
from ..images import span
from ..metrics import residual_map
from .known import KEY, Ran, facts, ran_of, reliability
from .layers import BLENDING, link_contrast

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

UNCERTAINTY, INTERVAL, RESIDUAL = "uncertainty", "interval", "residual"
MAPS = {
    UNCERTAINTY: (
        "uncertainty",
        "Standard deviation of every voxel: the brighter, the less certain is the volume there",
    ),
    INTERVAL: (
        "90 % interval",
        "Two volumes: at nine voxels of ten, fewer where it is bright, what a camera would record of that slice should "
        "lie between the lower and the upper bound",
    ),
    RESIDUAL: (
        "residual",
        "Where the volume, seen through the same beam, differs from what was measured. Orange: more light was measured "
        "than the volume explains; blue: less. All black: it agrees, or the projection was left out. Look at it in "
        "2D: in 3D orange hides blue",
    ),
}
"""What people read for each kind of map: its name and one sentence."""

FAINTEST = 0.01
"""Of the projections' range: a residual below it is not blown up to full colour, as if rounding were a finding."""

DIVERGING = ([[0.25, 0.65, 1.0], [0.0, 0.0, 0.0], [1.0, 0.6, 0.15]], "blue-black-orange")
"""Black at 0, as on the dark canvas; blue and orange, which the colour-blind tell apart."""


@dataclass(frozen=True)
class Picture:
    """Pixels of a layer, (z, y, x) or (k, y, x), and how they look; ``limits`` None takes the volume's look."""

    title: str
    data: NDArray[np.float32]
    limits: tuple[float, float] | None = None


def possible(known: dict[str, Any]) -> set[str]:
    """The kinds of map that there can be, by what is known of a result's layer."""
    ran = ran_of(known)
    if ran is None:
        return {UNCERTAINTY, INTERVAL} if known.get("pair") else set()
    return {RESIDUAL} | ({UNCERTAINTY, INTERVAL} if ran.result.volume.reliability is not None else set())


def pictures(known: dict[str, Any], data: NDArray[Any], kind: str) -> list[Picture]:
    """The layers of one kind of map of ``data`` (z, y, x); goes over whole volumes or reads them: for a worker thread.

    Raises
    ------
    InvalidInput, TooLarge
        If what was saved with a volume cannot be read, or is no longer there.
    """
    ran = ran_of(known)
    if kind == RESIDUAL and ran is not None:
        unexplained = residual_map(ran.result.volume.data, ran.stack)
        whole = span(ran.stack.data)
        limit = max(float(np.quantile(np.abs(unexplained), 0.999)), FAINTEST * whole)
        return [Picture("Residual", _among_all(unexplained, ran.stack.acquisition), (-limit, limit))]
    found = reliability(known, data)
    if found is None:
        raise InvalidInput(
            "the uncertainty that was saved with this volume is not beside it any more, is damaged, or another's"
        )
    if kind == UNCERTAINTY:
        return [Picture("Standard deviation", found.std, (0.0, float(found.std.max()) or 1.0))]
    return [Picture("Lower bound of 90 %", found.lower), Picture("Upper bound of 90 %", found.upper)]


def _among_all(images: NDArray[np.float32], acquisition: Acquisition) -> NDArray[np.float32]:
    """Images (K, y, x) of the projections in use among all that were acquired; zeros for the others."""
    if not acquisition.hidden:
        return images
    every = np.zeros((acquisition.count or 0, *images.shape[1:]), images.dtype)
    every[list(acquisition.shown)] = images
    return every


def shown(viewer: ViewerModel, result: Image, kind: str) -> list[Image]:
    """The layers of one kind that belong to a result's layer."""
    wanted = {"role": "map", "kind": kind, "of": str(result.unique_id)}
    return [layer for layer in viewer.layers if wanted.items() <= facts(layer).items()]


def show(viewer: ViewerModel, result: Image, kind: str, found: list[Picture]) -> None:
    """Add the layers of one kind behind their result, where it lies; the residual where its projections lie."""
    from napari.layers import Image

    behind = [viewer.layers.index(result)]
    behind += [viewer.layers.index(layer) for other in MAPS for layer in shown(viewer, result, other)]
    known = {"role": "map", "kind": kind, "of": str(result.unique_id)}
    where = _place(result, ran_of(facts(result)) if kind == RESIDUAL else None)
    for place, picture in enumerate(found, max(behind) + 1):
        name = f"{picture.title} · {result.name}"
        layer = Image(picture.data, name=name, metadata={KEY: known}, **where, **_look(picture, result))
        viewer.layers.insert(place, layer)
        if picture.limits is None:
            link_contrast(layer, result)
        else:
            _show_colorbar(layer)


def hide(viewer: ViewerModel, result: Image, kind: str) -> None:
    """Take the layers of one kind away."""
    for layer in shown(viewer, result, kind):
        viewer.layers.remove(layer)


def _look(picture: Picture, result: Image) -> dict[str, Any]:
    from napari.utils import Colormap

    if picture.limits is None:
        look = {"colormap": result.colormap, "contrast_limits": tuple(result.contrast_limits)}
        return look | {"blending": BLENDING}
    if picture.limits[0] < 0:  # black is nothing: over a volume it must not hide it
        colors, name = DIVERGING
        colormap = Colormap(colors, name=name)
        return {"colormap": colormap, "contrast_limits": picture.limits, "blending": "additive"}
    return {"colormap": "magma", "contrast_limits": picture.limits, "blending": BLENDING}


def _show_colorbar(layer: Image) -> None:
    """What the colours stand for, in a corner, small enough for a cell of the grid."""
    bar = layer.colorbar
    bar.size, bar.font_size, bar.tick_length = (10, 90), 8, 4
    bar.position, bar.visible = "bottom_left", True  # names are at the top, notifications at the right


def _place(result: Image, ran: Ran | None) -> dict[str, Any]:
    """Scale, translation, units and axis names of the volume; of the projections, if a run is given."""
    (dz, dy, dx), (z, y, x) = result.scale[-3:], result.translate[-3:]
    if ran is not None:
        acquisition = ran.stack.acquisition
        z += (acquisition.first_centre - 0.5) * dz
        dz *= acquisition.step
    return {"scale": (dz, dy, dx), "translate": (z, y, x), "units": result.units, "axis_labels": ("z", "y", "x")}
