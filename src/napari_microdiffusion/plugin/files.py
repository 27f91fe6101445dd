"""Opening and saving from the widget: dialogs here, reading and writing in the background."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_info
from qtpy.QtWidgets import QWidget

from ..presets import name_of
from ..provenance import was_denoised, was_reconstructed
from ..volume import Volume
from .background import in_background
from .dialogs import WEIGHTS, file_asked, volume_asked
from .known import LOST, Ran, at, facts, lost, ran_of, reliability
from .layers import BLENDING, LayerTuple, in_memory, link_contrast, pixels, voxel_um
from .live import show_middle
from .remembered import TRAINED_FOR

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

    from ..trained import Trained


class Files:
    """Reads layers from files and writes them; errors come as one notification."""

    def __init__(self, viewer: ViewerModel, parent: QWidget) -> None:
        self._viewer, self._parent = viewer, parent

    def open(self, path: Path, then: Callable[[str], None]) -> None:
        """Add a file's layers to the viewer, then say the name of the first."""

        def read() -> list[LayerTuple]:
            from .contributions import read_layers

            return read_layers(path)

        in_background(read, lambda found: self._add(found, then), self._parent)

    def save(self, layer: Image, chosen: dict[str, int]) -> None:
        """Ask for a name, a format and a type, and save a volume; of a movie that of a time point."""
        offered = layer.name + "".join(f" {name[0]}{index}" for name, index in chosen.items())
        asked = volume_asked(self._parent, offered)
        if asked is not None:
            self.write(layer, *asked, chosen)

    def open_movie(self, paths: list[Path], like: Image, placed: dict[str, Any], suffix: str) -> None:
        """Show volumes as the time points of one layer, with the contrast of another, where it is to lie."""

        def read() -> list[LayerTuple]:
            from .contributions import read_movie

            [(data, rest, kind)] = read_movie([str(path) for path in paths])
            return [(data, {**rest, **placed, "name": f"{rest['name']}{suffix}"}, kind)]

        def link(name: str) -> None:
            layer = self._viewer.layers[name]
            if like in self._viewer.layers:
                link_contrast(layer, like)
            show_middle(self._viewer, layer)

        in_background(read, lambda found: self._add(found, link), self._parent)

    def write(self, layer: Image, path: Path, dtype: str = "float32", chosen: dict[str, int] | None = None) -> None:
        """Save a result's layer in place of what is at ``path``, if that is no measurement."""
        sources = [known["path"] for other in self._viewer.layers if _measured(known := facts(other))]

        def write() -> str:
            from ..io import check_distinct, write_volume

            for source in sources:
                check_distinct(path, source)
            volume = as_volume(layer, chosen)
            written = write_volume(volume, path, dtype=dtype, overwrite=True)  # type: ignore[arg-type]
            beside = f", and its uncertainty in {written.reliability.name} beside it" if written.reliability else ""
            if lost(facts(layer), volume):
                beside = LOST
            return f"Saved {written.path}{beside}" + (f" ({written.mapping})" if written.mapping else "")

        in_background(write, show_info)

    def save_weights(self, layer: Image) -> None:
        """Ask for a name and save the network of a result."""
        ran = ran_of(facts(layer))
        if ran is None or not ran.result.weights:
            return
        path = file_asked(self._parent, "Save network", layer.name, ".safetensors", WEIGHTS)
        if path is not None:
            self.write_weights(ran, path)

    def write_weights(self, ran: Ran, path: Path) -> None:
        """Save the network of a run with its settings."""

        def write() -> str:
            from ..checkpoint import SUFFIXES
            from ..io import check_distinct
            from ..trained import save_trained

            method, result = ran.job.method, ran.result
            if ran.job.weights is not None:
                check_distinct(path, ran.job.weights, SUFFIXES)
            denoised = was_denoised(result.volume.provenance)
            saved = save_trained(path, method, result.weights, ran.stack, True, ran.trained, denoised)
            if ran.trained is None or not ran.trained.is_base:
                TRAINED_FOR[saved.resolve()] = ran.stack.acquisition  # whatever lay there before
            use = "use it on another stack" if method.transfers else "make this volume again without training"
            return f"Saved {saved}. To {use}: Load… under Method"

        in_background(write, show_info)

    def save_base(self, trained: Trained, then: Callable[[Path], None]) -> None:
        """Ask for a name and save a base model, then say where it is."""
        path = file_asked(self._parent, "Save base model", f"{name_of(trained.method)}_base", ".safetensors", WEIGHTS)
        if path is not None:
            self.write_base(trained, path, then)

    def write_base(self, trained: Trained, path: Path, then: Callable[[Path], None]) -> None:
        """Save a base model with what it was trained on."""

        def write() -> Path:
            from ..trained import save_base

            return save_base(path, trained, True).resolve()

        def told(saved: Path) -> None:
            show_info(f"Saved {saved}. On the command line: napari-microdiffusion reconstruct --base {saved.name}")
            then(saved)

        in_background(write, told, self._parent)

    def read_weights(
        self, path: Path, then: Callable[[Trained], None], ended: Callable[[], object] | None = None
    ) -> None:
        """See what a network was trained for; ``ended`` is called whether it could be read or not."""

        def read() -> Trained:
            from ..trained import load_trained
            from .preload import load_torch

            load_torch()
            return load_trained(path)

        in_background(read, then, self._parent, ended)

    def _add(self, found: list[LayerTuple], then: Callable[[str], None]) -> None:
        from napari.layers import Layer

        layers = [
            self._viewer.add_layer(Layer.create(data, {"blending": BLENDING, **rest}, kind))
            for data, rest, kind in found
        ]
        if layers:
            then(layers[0].name)


def as_volume(layer: Image, chosen: dict[str, int] | None = None) -> Volume:
    """A result's layer, or one of its time points, as a volume: voxel size, how it was made, how far to trust it.

    May read files, so it belongs into a worker thread; errors as for `known.reliability`.
    """
    known = at(facts(layer), chosen or {})
    data, scale = in_memory(pixels(layer, chosen or {})), voxel_um(layer)
    found = reliability(known, data)
    return Volume(data, scale, layer.name, known.get("source_dtype", ""), known.get("provenance"), found)


def _measured(known: dict[str, Any]) -> bool:
    """Whether a layer is a file that was not reconstructed: what was made from it must not take its place."""
    return known.get("path") is not None and not was_reconstructed(known.get("provenance"))
