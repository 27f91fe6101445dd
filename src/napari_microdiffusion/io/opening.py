"""Opening a file by its suffix; what it holds is read later."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from ..events import EngineError, InvalidInput, TooLarge
from . import numpy_file, ome_zarr, tiff
from .source import Source
from .target import suffix

READERS = {
    ".tif": tiff.opened,
    ".tiff": tiff.opened,
    ".npy": numpy_file.opened,
    ".zarr": ome_zarr.opened,
}
"""Every suffix that can be read."""


@contextmanager
def open_source(path: Path) -> Generator[Source]:
    """Open a file by its suffix; whatever goes wrong while it is read is told in plain words.

    Raises
    ------
    InvalidInput
        If the file is not there, of a kind that is not read, or damaged.
    """
    if not path.exists():
        raise InvalidInput(f"there is no file {path}")
    kind = suffix(path)
    if kind not in READERS:
        if path.is_dir():
            raise InvalidInput(
                f"{path} is a folder: name a file in it that holds the whole stack (save pages that are files of their "
                "own as one), or the folder of an OME-Zarr image (.zarr)"
            )
        raise InvalidInput(
            f"{path.name} is of a kind that is not read: use {', '.join(READERS)} (OME-TIFF and OME-Zarr among them)"
        )
    if path.is_dir() != (kind == ".zarr"):
        raise InvalidInput(f"{path} is a {'folder' if path.is_dir() else 'file'}, which {kind} data cannot be")
    try:
        with READERS[kind](path) as source:
            yield source
    except EngineError:
        raise
    except MemoryError as error:
        raise TooLarge(f"{path.name} does not fit into the free memory: crop it, or close other programs") from error
    except Exception as error:  # decoders raise errors of many kinds on damaged data
        raise InvalidInput(f"{path.name} cannot be read; it may be damaged or incomplete ({_said(error)})") from error


def _said(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
