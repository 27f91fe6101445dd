"""Where results go: checks before any work, and writing that leaves either the whole result or nothing."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..events import InvalidInput, RunFailed

SUFFIXES = (".ome.tif", ".ome.tiff", ".tif", ".tiff", ".ome.zarr", ".zarr")
"""What a volume or projection file that we write may end in."""

_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Nothing in a file name stands for them in an OME description."""

MARGIN = 2**20
"""Bytes for metadata beside the pixels."""


def suffix(path: Path) -> str:
    """The last suffix in lower case: ``.tif`` of ``a.ome.tif``."""
    return path.suffix.lower()


def stem(path: Path) -> str:
    """The name without its suffix, a double one included: ``a`` of ``a.ome.tif``."""
    name = path.name[: -len(path.suffix)] if path.suffix else path.name
    return name[:-4] if name.lower().endswith(".ome") and len(name) > 4 else name


def beside(path: Path) -> Path:
    """Where the reliability of a volume at ``path`` is kept: ``a_reliability.ome.tif`` for ``a.ome.tif``."""
    return path.with_name(f"{stem(path)}_reliability{path.name[len(stem(path)) :]}")


def of_time(path: Path, time: int, times: int) -> Path:
    """Where one of several time points is kept: ``a_t07.ome.tif`` for ``a.ome.tif``."""
    name = stem(path)
    return path.with_name(f"{name}_t{time:0{len(str(times - 1))}}{path.name[len(name) :]}")


def network_beside(path: Path) -> Path:
    """Where a network that made several volumes is kept, beside that which it was trained with."""
    return path.with_name(f"{stem(path)}_network.safetensors")


def unfinished(path: Path) -> Path:
    """Where what a stopped run leaves is kept: beside an existing output, which may be finished, else in its place."""
    return path.with_name(f"partial_{path.name}") if path.exists() else path


def check_output(
    path: str | Path, bytes_needed: int, overwrite: bool = False, suffixes: tuple[str, ...] = SUFFIXES
) -> Path:
    """Refuse an output that could not be written in the end; call it before work starts.

    Parameters
    ----------
    bytes_needed
        Size of the pixels to be written.
    overwrite
        Whether an existing output may be replaced.

    Returns
    -------
    Path
        The output with links resolved.

    Raises
    ------
    InvalidInput
        For a suffix that is not written, an existing output or reliability file beside it, a folder that is not there
        or may not be written to, or too little space.
    """
    path = Path(path)
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError as error:  # the system takes it, but not the metadata in the file
        shown = os.fsencode(path).decode("utf-8", "backslashreplace")
        raise InvalidInput(f"the name {shown} is not valid UTF-8: choose another") from error
    if _NOT_IN_XML.search(path.name):
        raise InvalidInput(f"the name {path.name!r} holds characters that no metadata can: choose another")
    if not path.name.lower().endswith(suffixes) or path.name.lower() in suffixes:
        _check_file(path, suffixes)
        raise InvalidInput(f"{path.name} has no suffix that can be written; use one of {', '.join(suffixes)}")
    try:
        path = path.resolve()
        _check_existing(path, overwrite)
        if suffixes == SUFFIXES and not overwrite:
            _check_existing(beside(path), overwrite)  # known only after the run whether there will be one
    except OSError as error:  # a name that is too long, for itself or for what is kept beside it
        raise InvalidInput(f"no file can be called {path.name} ({error.strerror}): choose a shorter name") from error
    folder = path.parent
    if not folder.is_dir():
        raise InvalidInput(f"there is no folder {folder} to write {path.name} into: create it, or choose another")
    try:
        with tempfile.TemporaryFile(dir=folder):  # what permissions say does not hold everywhere
            pass
    except OSError as error:
        raise InvalidInput(
            f"the folder {folder} may not be written to ({error.strerror}): choose another place for {path.name}"
        ) from error
    free = shutil.disk_usage(folder).free
    if bytes_needed + MARGIN > free:
        raise InvalidInput(
            f"{path.name} needs {_size(bytes_needed + MARGIN)} and {folder} has {_size(free)} left: "
            "free some space, or choose another place"
        )
    return path


def check_distinct(output: str | Path, source: str | Path, suffixes: tuple[str, ...] = SUFFIXES) -> None:
    """Refuse an output, with one of the suffixes, that would replace its own input.

    Raises
    ------
    InvalidInput
        If both are the same file or folder, links resolved, one lies in the other, or the output is just a folder.
    """
    _check_file(Path(output), suffixes)
    target, given = Path(output).resolve(), Path(source).resolve()
    same = target.exists() and given.exists() and target.samefile(given)
    if given.is_dir() and given in target.parents:
        raise InvalidInput(f"{Path(output).name} would lie in the input {given.name}: choose another folder")
    if same or target == given or target in given.parents:
        raise InvalidInput(f"{Path(output).name} is the input itself and would be replaced: choose another name")


def _check_file(output: Path, suffixes: tuple[str, ...]) -> None:
    if output.is_dir() and not output.name.lower().endswith(suffixes):
        raise InvalidInput(
            f"{output} is a folder: give the name of a file in it, such as {output / 'out'}{suffixes[0]}"
        )


@contextmanager
def replacing(path: Path, overwrite: bool = False) -> Generator[Path]:
    """A temporary path beside ``path`` to write to; it takes the place of ``path`` if the body succeeds.

    Raises
    ------
    InvalidInput
        If the output has come to exist meanwhile.
    RunFailed
        If the system refuses to write; the temporary is gone and what was at ``path`` is untouched.
    """
    temporary = path.with_name(f".{path.name[:32]}.{uuid.uuid4().hex[:8]}.partial")  # no longer than names may be
    try:
        yield temporary
        _check_existing(path, overwrite)
        _put(temporary, path)
    except OSError as error:
        raise RunFailed(f"{path} could not be written: {error.strerror or error}") from error
    finally:
        remove(temporary)


def _put(temporary: Path, path: Path) -> None:
    """Rename, an existing folder by way of a second temporary name."""
    if not path.is_dir():
        os.replace(temporary, path)
        return
    old = temporary.with_suffix(".old")
    os.replace(path, old)
    try:
        os.replace(temporary, path)
    except BaseException:  # Ctrl-C among them
        os.replace(old, path)
        raise
    remove(old)


def _check_existing(path: Path, overwrite: bool) -> None:
    if not path.exists():
        return
    if not overwrite:
        raise InvalidInput(f"{path} exists already: choose another name, or allow it to be overwritten (--overwrite)")
    if path.is_dir() != (suffix(path) == ".zarr"):
        raise InvalidInput(
            f"{path} is a {'folder' if path.is_dir() else 'file'}, which is not overwritten by {suffix(path)} data"
        )
    if path.is_dir() and not any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zarray")):
        raise InvalidInput(f"{path} is a folder but no Zarr data, and is not overwritten: choose another name")


def remove(path: Path) -> None:
    """Delete a file, or a folder with all that is in it, if it is there and the system lets us."""
    with suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
