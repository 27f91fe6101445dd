"""The volumes of the benchmark: real ones beside the project, and phantoms: ``phantom:KIND``, ``phantom:KIND:SEED``."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import tifffile
from numpy.typing import NDArray

from napari_microdiffusion.images import pixels_sha256
from napari_microdiffusion.volume import Volume

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"

CROP = 96, 128, 128
"""Of the real volumes, by the protocol."""

PHANTOM = "phantom:"
PHANTOM_SHAPE = 144, 128, 128
"""Deep enough for six projections of 24 slices."""

PHANTOMS_TO_TRAIN_ON = 4
"""Seeds of the same kind that a base model is trained on, to be scored on another."""

FEWEST = 4
"""Projections that a stack needs to be measured: with fewer there is no inner one to speak of."""


def protocol() -> ModuleType:
    """The measuring protocol that stands apart from the project."""
    found = importlib.util.spec_from_file_location("protocol", SHARED / "protocol.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def file_of(volume: str) -> Path:
    """Where a real volume lies."""
    return SHARED / "data" / f"{volume}.ome.tif"


def depth_of(volume: str) -> int:
    """Slices of the prepared truth, before those are dropped that fill no projection."""
    if volume.startswith(PHANTOM):
        return PHANTOM_SHAPE[0]
    with tifffile.TiffFile(file_of(volume)) as file:
        return min(CROP[0], int(file.series[0].shape[0]))


def whole(volume: str) -> Volume:
    """All of a volume, as it is in its file or as the phantom is made."""
    from napari_microdiffusion import io
    from napari_microdiffusion.phantoms import phantom

    if not volume.startswith(PHANTOM):
        return replace(io.read_volume(file_of(volume)), name=volume)
    _, kind, seed = f"{volume}:0".split(":")[:3]
    return replace(phantom(kind, PHANTOM_SHAPE, int(seed)), name=volume)  # type: ignore[arg-type]


def truth_of(volume: str, slices: int) -> NDArray[np.float32]:
    """The prepared truth (z, y, x), its depth a multiple of ``slices``; for preparation and scoring alone."""
    crop = PHANTOM_SHAPE if volume.startswith(PHANTOM) else CROP
    prepared: NDArray[np.float32] = protocol().prepare(whole(volume).data, slices, crop)
    return prepared


def others(volume: str) -> list[str]:
    """What a base model is trained on before it is scored on this: never the volume itself.

    All other real volumes, which are other kinds of sample; for a phantom, phantoms of its own kind from other seeds.
    """
    if volume.startswith(PHANTOM):
        names = [":".join([*volume.split(":")[:2], str(seed)]) for seed in range(1, 1 + PHANTOMS_TO_TRAIN_ON)]
    else:
        names = sorted(path.name.removesuffix(".ome.tif") for path in (SHARED / "data").glob("*.ome.tif"))
    return [name for name in names if name != volume]


def check_left_out(volume: str, trained_on: Mapping[str, str]) -> None:
    """Stop where the volume that is scored is among those trained on, by its name or by its pixels.

    Parameters
    ----------
    trained_on
        Names, and SHA-256 of the pixels.
    """
    if volume in trained_on or sha256_of(volume) in trained_on.values():
        raise AssertionError(f"{volume} is to be scored, and the base model was trained on it")


def sha256_of(volume: str) -> str:
    """Of the pixels of the whole volume, (z, y, x)."""
    return pixels_sha256(whole(volume).data)
