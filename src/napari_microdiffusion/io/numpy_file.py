"""npy files: an array without scale or axis names, never pickled objects."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..events import InvalidInput
from .source import Source


@contextmanager
def opened(path: Path) -> Generator[Source]:
    """An npy file, mapped into memory and not yet read. The last three axes are taken as (z, y, x)."""
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        dtype = read_header(file)[2]
    if dtype.hasobject:
        raise InvalidInput(
            f"{path.name} holds Python objects, which are never loaded, as that could run code: save numbers"
        )
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.ndim < 2:
        raise InvalidInput(f"{path.name} has {array.ndim} axis, {array.shape}; a stack (z, y, x) is needed")
    axes = ("QRPVUHZ"[-(array.ndim - 2) :] if array.ndim > 2 else "") + "YX"
    yield Source(path.name, array.shape, axes, array.dtype, lambda index: np.array(array[index]))
