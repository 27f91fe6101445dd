"""Files: TIFF, OME-TIFF, OME-Zarr and npy in, OME-TIFF and OME-Zarr out, with scale, axes and provenance.

Pixels are read only after their size has been checked against the memory at hand, and written beside the
target under a temporary name that takes the target's place when all is there. The reliability of a volume has a file of
its own beside the volume's.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, get_args

from numpy.typing import NDArray

from ..acquisition import Acquisition
from ..events import InvalidInput
from ..images import storable
from ..reliability import Reliability
from ..volume import ProjectionStack, Volume
from . import ome_zarr, reliability, tiff
from .export import Exported, ExportType, original_intensities, to_type
from .opening import READERS, open_source
from .profile import read_profile
from .projections import acquisition_in, read_projections
from .source import FileInfo, Source
from .target import (
    SUFFIXES,
    beside,
    check_distinct,
    check_output,
    network_beside,
    of_time,
    remove,
    replacing,
    stem,
    suffix,
    unfinished,
)

EXPORT_TYPES: tuple[str, ...] = get_args(ExportType)

__all__ = [
    "EXPORT_TYPES",
    "READERS",
    "SUFFIXES",
    "ExportType",
    "Exported",
    "FileInfo",
    "check_beside",
    "check_distinct",
    "check_output",
    "inspect",
    "network_beside",
    "of_time",
    "read_job",
    "read_profile",
    "read_projections",
    "read_reliability",
    "read_volume",
    "unfinished",
    "write_projections",
    "write_volume",
    "written_acquisition",
]


def inspect(path: str | Path) -> FileInfo:
    """What a file holds, without reading its pixels.

    Raises
    ------
    InvalidInput
        If the file is not there, of a kind that is not read, or damaged.
    """
    with open_source(Path(path)) as source:
        sizes = source.sizes
        acquisition, unusable = None, ""
        try:
            acquisition = acquisition_in(source)
        except InvalidInput as error:  # for those who state another
            unusable = str(error)
        return FileInfo(
            name=stem(Path(path)),
            shape=tuple(sizes.values()),
            axes="".join(sizes),
            channels=sizes.get("C", 1),
            times=sizes.get("T", 1),
            scale_um=source.scale_um,
            dtype=source.dtype.name,
            acquisition=acquisition,
            provenance=_provenance(source),
            channel_names=source.channel_names if len(source.channel_names) == sizes.get("C", 1) else (),
            unusable=unusable,
            pair=source.pair if beside(Path(path)).exists() else "",
            saved_as=str(source.record.get("kind", "")),
        )


def read_volume(
    path: str | Path, channel: int | None = None, time: int | None = None, *, with_reliability: bool = True
) -> Volume:
    """A volume (z, y, x) in the file's own dtype, with scale and provenance where the file states them.

    An 8 or 16 bit export whose values were mapped is float32, on the intensity scale it was exported from. A
    reliability that was saved with it comes along where its file still lies beside the volume's, on that scale too.

    Parameters
    ----------
    path
        TIFF, OME-TIFF, npy, or the folder of an OME-Zarr image.
    channel, time
        Which one, counted from 0, where the file has several.
    with_reliability
        Whether to look for it; it takes three times the memory of a float32 volume.

    Raises
    ------
    InvalidInput
        If the file is not there, damaged, not a stack of grey images, or has channels or time points to choose from.
    TooLarge
        If the pixels do not fit into the free memory.
    """
    path = Path(path)
    with open_source(path) as source:
        data = original_intensities(source.stack(channel, time), source.record)
        found = reliability.reliability_of(source, path) if with_reliability else None
        return Volume(data, source.scale_um, stem(path), source.source_dtype, _provenance(source), found)


def read_reliability(path: str | Path, pair: str) -> Reliability | None:
    """What was saved with the volume at ``path`` under that mark; None where it is not beside it any more.

    Errors as for `read_volume`.
    """
    path = Path(path)
    with open_source(path) as source:
        return reliability.reliability_of(source, path) if source.pair == pair else None


def read_job(path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values of a job, as a JSON file or a volume that was reconstructed holds them, and the record they come from.

    Raises
    ------
    InvalidInput
        If the file cannot be read, or holds none. The values are as they were written: nobody has checked them.
    """
    path = Path(path)
    if path.suffix.lower() in READERS:
        record: Any = inspect(path).provenance or {}
        if "job" not in record:
            raise InvalidInput(f"{path.name} carries no job: it was not made by reconstruct")
    else:
        try:
            record = json.loads(path.read_text("utf-8-sig"))
        except OSError as error:
            raise InvalidInput(f"the job file {path} cannot be read: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise InvalidInput(f"the job file {path.name} cannot be read: it is no JSON, or damaged") from error
    if not isinstance(record, dict) or not isinstance(record.get("job", record), dict):
        raise InvalidInput(f"the job file {path.name} must hold a JSON object")
    return dict(record.get("job", record)), record


def check_beside(path: str | Path) -> None:
    """Refuse a volume whose reliability would take the place of something else; call it before work starts.

    Raises
    ------
    InvalidInput
        If what lies there is no reliability file.
    """
    reliability.check_replaceable(beside(Path(path).resolve()))


def written_acquisition(path: str | Path) -> Acquisition | None:
    """The acquisition that a projection file carries, None for files that carry none.

    Raises
    ------
    InvalidInput
        As for `inspect`, and for an acquisition that cannot be used.
    """
    found = inspect(path)
    found.check_acquisition()
    return found.acquisition


def write_volume(
    volume: Volume, path: str | Path, *, dtype: ExportType | None = None, overwrite: bool = False
) -> Exported:
    """Save a volume with scale, axes and provenance; the suffix chooses the format.

    A reliability goes into a second file beside it (`target.beside`), as float32 whatever ``dtype`` is.

    Parameters
    ----------
    path
        Ends in .ome.tif, .tif, .ome.tiff, .tiff (OME-TIFF) or .ome.zarr, .zarr (OME-Zarr 0.5).
    dtype
        ``float32``: values as they are. ``uint8``, ``uint16``: see `export.to_type`. None keeps the volume's.

    Returns
    -------
    Exported
        The paths, and in words how values were mapped, where they were.

    Raises
    ------
    InvalidInput
        As for `check_output`; for NaN or infinite values in an integer export; and if something that is no
        reliability file lies where the reliability would.
    RunFailed
        If writing breaks off; what was at ``path`` is still there then.
    """
    converted = to_type(volume, dtype)
    found = volume.reliability
    path = check_output(path, converted.data.nbytes + (0 if found is None else 3 * found.std.nbytes), overwrite)
    files: Files = {path: ({"": converted.data}, {"kind": "volume", **converted.record})}
    if found is not None:
        reliability.check_replaceable(beside(path))
        files[beside(path)] = reliability.channels(found), {"kind": reliability.KIND}
    stale = reliability.left_over(path)
    provenance = {key: value for key, value in (volume.provenance or {}).items() if key != "export"}
    _write(files, provenance, volume.scale_um, overwrite)
    if found is None and stale is not None:
        remove(stale)
    return Exported(path, converted.mapping, None if found is None else beside(path))


def write_projections(stack: ProjectionStack, path: str | Path, *, overwrite: bool = False) -> Exported:
    """Save a projection stack with its acquisition, in its own dtype; parameters and errors as for `write_volume`."""
    data = storable(stack.data)
    path = check_output(path, data.nbytes, overwrite)
    record = {"kind": "projections", "source_dtype": stack.source_dtype}
    acquisition = stack.acquisition.model_dump(mode="json")
    _write({path: ({"": data}, record)}, {"acquisition": acquisition}, stack.scale_um, overwrite)
    return Exported(path)


Files = dict[Path, tuple[Mapping[str, NDArray[Any]], dict[str, Any]]]
"""Channels by name, and the record of the export, of each file that is to be written."""


def _write(files: Files, metadata: dict[str, Any], scale: tuple[float, float, float] | None, overwrite: bool) -> None:
    """Write files that belong together; none takes its place before all are complete, the first one last."""
    pair = {"pair": uuid.uuid4().hex} if len(files) > 1 else {}
    with ExitStack() as complete:
        for path, (channels, record) in files.items():
            temporary = complete.enter_context(replacing(path, overwrite))
            writer = ome_zarr.write if suffix(path) == ".zarr" else tiff.write
            writer(temporary, channels, scale, {**metadata, "export": {**record, **pair}}, stem(path))


def _provenance(source: Source) -> dict[str, Any] | None:
    """What was recorded about the making of the file; of the export, only a mapping of values is worth keeping."""
    record = {key: value for key, value in (source.metadata or {}).items() if key != "acquisition"}
    if not source.record.get("mapping"):
        record.pop("export", None)
    if source.record.get("kind") == reliability.KIND:
        record["map"] = "uncertainty"
    return record or None
