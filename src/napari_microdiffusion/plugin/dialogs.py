"""Questions to people: under which name, in which format, whether to replace what is there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtWidgets import QFileDialog, QInputDialog, QMessageBox

if TYPE_CHECKING:
    from qtpy.QtWidgets import QWidget

TYPES = {
    "32-bit: values as they are": "float32",
    "16-bit: half the size": "uint16",
    "8-bit: a quarter of the size": "uint8",
}
WEIGHTS = "Trained network (*.safetensors)"
JOBS = "Job (*.json);;Volume that was reconstructed (*.tif *.tiff)"
SAVE_FIRST = (
    "A job names the file of its base model, and the base model in use is not saved yet.\nSave the base model first?"
)
FORMATS = "OME-TIFF (*.ome.tif);;OME-Zarr (*.ome.zarr)"


def volume_asked(parent: QWidget, name: str) -> tuple[Path, str] | None:
    """Ask where to save a volume of that name, and as which type; None if people think better of it."""
    chosen, kind = QFileDialog.getSaveFileName(parent, "Save volume", tidy(name), FORMATS)
    path = _completed(parent, chosen, volume_path(Path(chosen), zarr="Zarr" in kind))
    if path is None:
        return None
    text, agrees = QInputDialog.getItem(parent, "Save volume", "Numbers", list(TYPES), 0, False)
    return (path, TYPES[text]) if agrees else None


def movie_asked(parent: QWidget, title: str, times: int, first: int) -> Path | None:
    """Ask where the volumes of all time points go, by one name for all; None if people think better of it."""
    from ..io import network_beside, of_time
    from ..io.target import beside

    dialog = "Save the volume of each time point"
    options = QFileDialog.Option.DontConfirmOverwrite  # no file is called like this: each has its number
    name, kind = QFileDialog.getSaveFileName(parent, dialog, tidy(title), FORMATS, options=options)
    if not name:
        return None
    path = volume_path(Path(name), zarr="Zarr" in kind)
    volumes = [of_time(path, time, times) for time in range(times)]
    made = [*volumes, *map(beside, volumes), network_beside(volumes[first])]
    there = [each.name for each in made if each.exists()]
    question = f"{len(there)} of these files already exist, {', '.join(there[:3])} among them.\nReplace them?"
    return path if not there or agreed(parent, dialog, question) else None


def file_asked(parent: QWidget, title: str, name: str, suffix: str, kinds: str) -> Path | None:
    """Ask where to save something of that name in a file with a suffix; None if people think better of it."""
    chosen, _ = QFileDialog.getSaveFileName(parent, title, tidy(name) + suffix, kinds)
    return _completed(parent, chosen, Path(chosen if chosen.lower().endswith(suffix) else chosen + suffix))


def network_asked(parent: QWidget) -> Path | None:
    """Ask for the file of a trained network."""
    name, _ = QFileDialog.getOpenFileName(parent, "Load a trained network", "", WEIGHTS)
    return Path(name) if name else None


def job_asked(parent: QWidget) -> Path | None:
    """Ask for the file of a job, or of a volume that holds its own."""
    name, _ = QFileDialog.getOpenFileName(parent, "Load job", "", JOBS)
    return Path(name) if name else None


def agreed(parent: QWidget, title: str, question: str) -> bool:
    """Ask a question that is answered by yes or no."""
    return bool(QMessageBox.question(parent, title, question) == QMessageBox.StandardButton.Yes)


def _completed(parent: QWidget, name: str, path: Path) -> Path | None:
    """The path to write to, None if people think better of it; the dialog has asked about ``name`` as it was."""
    if not name:
        return None
    if path == Path(name) or not path.exists():
        return path
    return path if agreed(parent, "Save", f"{path.name} already exists.\nDo you want to replace it?") else None


def tidy(name: str) -> str:
    """A layer's name as a file name."""
    kept = "".join(c if c.isalnum() or c in "-_." else " " for c in name)
    return "_".join(kept.split()) or "volume"


def volume_path(path: Path, zarr: bool) -> Path:
    """The path with a suffix that says the format: as typed, or else the one that was chosen in the dialog."""
    typed = path.suffix.lower()
    if typed == ".zarr" or (typed in (".tif", ".tiff") and not zarr):
        return path
    name = path.name[: -len(path.suffix)].removesuffix(".ome") if typed in (".tif", ".tiff") else path.name
    return path.with_name(name + (".ome.zarr" if zarr else ".ome.tif"))
