"""Projection stacks in files: with the acquisition that the file carries, or another that is given."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from pydantic import ValidationError

from ..acquisition import Acquisition
from ..events import InvalidInput
from ..numbering import numbers_of
from ..volume import ProjectionStack
from .opening import open_source
from .source import Source
from .target import stem


def read_projections(
    path: str | Path, acquisition: Acquisition | None = None, channel: int | None = None, time: int | None = None
) -> ProjectionStack:
    """A projection stack (k, y, x) in the file's own dtype; parameters and errors as for `read_volume`.

    Parameters
    ----------
    acquisition
        How the projections were made; None takes it from the file, as does one like the file's that is not bound to a
        number of projections. Those hidden in it are left out of those that the file holds.

    Raises
    ------
    InvalidInput
        Also if no acquisition is given and the file carries none, it does not describe this many projections, or it
        uses some that the file says it lacks.
    """
    path = Path(path)
    with open_source(path) as source:
        given, acquisition = acquisition, acquisition or acquisition_in(source)
        if acquisition is None:
            raise InvalidInput(
                f"{path.name} does not say how its projections were made: "
                "give the slices that one projection stands for (--slices), and the stride and profile"
            )
        data = source.stack(channel, time)
        own = _usable_acquisition(source)
        if given and given.count is None and own and own.alike(given) and len(own.shown) == len(data):
            acquisition = own
        data = _in_use(data, acquisition, source)
        return ProjectionStack(data, acquisition, source.scale_um, stem(path), source.source_dtype)


def acquisition_in(source: Source) -> Acquisition | None:
    """The acquisition that a file carries, None for files that carry none; `InvalidInput` for an unusable one."""
    values = (source.metadata or {}).get("acquisition")
    if values is None:
        return None
    try:
        return Acquisition.model_validate(values)
    except ValidationError as error:
        raise InvalidInput(
            f"{source.name} carries an acquisition that cannot be used ({error.errors()[0]['msg']}): give --slices"
        ) from error


def _usable_acquisition(source: Source) -> Acquisition | None:
    """The file's own, where it carries one that can be used."""
    with suppress(InvalidInput):
        return acquisition_in(source)
    return None


def _in_use(data: NDArray[Any], acquisition: Acquisition, source: Source) -> NDArray[Any]:
    """Those images of a file that an acquisition uses, where the file holds them and more."""
    if not acquisition.hidden:
        return data
    held = tuple(range(len(data))) if len(data) == acquisition.count else acquisition.shown
    own = _usable_acquisition(source)
    if own is not None and own.count == acquisition.count and len(own.shown) == len(data):
        held = own.shown
    lacking = set(acquisition.shown) - set(held)
    if lacking:
        raise InvalidInput(f"{source.name} lacks projection {numbers_of(sorted(lacking))}: leave it out here, too")
    return data if acquisition.shown == held else data[[held.index(index) for index in acquisition.shown]]
