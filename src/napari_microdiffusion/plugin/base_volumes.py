"""What a base model is trained on: the viewer's volumes and a folder's, without the ground truth. Knows no Qt."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..events import Event, InvalidInput, Notice, RunFailed, Stage, Step
from ..images import MINIMUM_LATERAL, check_values
from ..provenance import was_reconstructed
from ..volume import Volume
from .known import facts
from .layers import header, in_memory, pixels, there, voxel_um
from .model import Setup

if TYPE_CHECKING:
    from napari.layers import Image

TRUTH = "ground truth: a base model that has seen it makes the scores worthless"
MADE = "reconstructed: a base model is trained on measured volumes"
SAME = "twice: it is the same as another one"


@dataclass(frozen=True, eq=False)
class Offer:
    """A layer that might be trained on; ``reason`` says why it must not be, and is empty where it may.

    A reason is a word or two, a colon, and what that means.
    """

    layer: Image
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Picked:
    """What was chosen to train on; the pixels are first touched in the worker.

    Parameters
    ----------
    layers
        What gives the volume of each layer.
    folder
        All volumes in it.
    withheld
        Pixels of ground truths, wherever they may turn up again.
    channel, time
        Of files that have several.
    """

    layers: tuple[Callable[[], Volume], ...]
    folder: Path | None
    withheld: tuple[Any, ...]
    channel: int
    time: int


def offers(layers: Iterable[Any], setup: Setup, source: Image | None, truth: Image | None) -> list[Offer]:
    """The volumes among a viewer's layers, and why some must not be used."""
    from napari.layers import Image

    volumes = [each for each in layers if isinstance(each, Image) and _is_volume(each)]
    if not setup.simulate:
        volumes = [each for each in volumes if each is not source]
    truths = _truths(volumes, setup, source, truth)
    least = setup.spec().depth_to_learn(setup.acquisition)
    return [Offer(each, _reason(each, least, each in truths)) for each in volumes]


def picked(offered: Iterable[Offer], chosen: Iterable[Image], setup: Setup, folder: Path | None) -> Picked:
    """The chosen layers, as far as they may be used, and a folder, ready to be read."""
    axes, offered = setup.chosen, list(offered)
    wanted = set(chosen)
    usable = [offer.layer for offer in offered if offer.layer in wanted and not offer.reason]
    withheld = [offer.layer for offer in offered if offer.reason == TRUTH]
    return Picked(
        tuple(_load(layer, axes) for layer in usable),
        folder,
        tuple(pixels(layer, there(layer, axes)) for layer in withheld),
        axes["channel"],
        axes["time"],
    )


def read(wanted: Picked, least: int, cancelled: Callable[[], bool]) -> Generator[Event, None, list[Volume]]:
    """The volumes themselves, in a worker's thread; what is none, or must not be used, is left out and told.

    Parameters
    ----------
    least
        Slices that a volume must have to be learned from.

    Raises
    ------
    InvalidInput
        If none is left.
    RunFailed
        If stopped.
    """
    loads = [*wanted.layers, *_files(wanted)]
    withheld = [in_memory(data) for data in wanted.withheld]
    volumes: list[Volume] = []
    left_out: list[str] = []
    yield Stage("Reading the volumes", len(loads))
    for done, load in enumerate(loads, 1):
        if cancelled():
            raise RunFailed("stopped before the training began")
        try:
            volumes.append(_checked(load(), least, withheld, volumes))
        except InvalidInput as error:
            left_out.append(str(error))
        yield Step(done)
    if not volumes:
        raise InvalidInput(f"there is no volume to train on: {'; '.join(left_out) or _nothing_in(wanted.folder)}")
    if left_out:
        yield Notice(f"Not used: {'; '.join(left_out)}")
    return volumes


def _nothing_in(folder: Path | None) -> str:
    """Why a folder gives no file to look at."""
    empty = folder is None or next(folder.iterdir(), None) is None
    return "the folder is empty" if empty else "none of the files in the folder is an image"


def _is_volume(layer: Image) -> bool:
    if facts(layer).get("role") in ("result", "map", "projections"):
        return False
    known = header(layer)
    return not known.rgb and len(known.shape) == 3 and np.dtype(known.dtype).kind in "uif"


def _truths(volumes: list[Image], setup: Setup, source: Image | None, truth: Image | None) -> set[Image]:
    """What the result will be compared with, and what the projections say that they come from."""
    named = "" if source is None else facts(source).get("truth", "")
    found = {each for each in volumes if each is truth or each.name == named}
    return found | {each for each in volumes if setup.simulate and each is source}


def _reason(layer: Image, least: int, is_truth: bool) -> str:
    if is_truth:
        return TRUTH
    if was_reconstructed(facts(layer).get("provenance")):
        return MADE
    depth, y, x = header(layer).shape
    return _too_small(depth, (y, x), least)


def _too_small(depth: int, size: tuple[int, int], least: int) -> str:
    if depth < least:
        return f"too shallow: of {depth} slices, where this method needs at least {least} to learn from"
    if min(size) < MINIMUM_LATERAL:
        return (
            f"too small: {size[0]} × {size[1]} pixels, where at least {MINIMUM_LATERAL} × {MINIMUM_LATERAL} are needed"
        )
    return ""


def _load(layer: Image, axes: dict[str, int]) -> Callable[[], Volume]:
    name, data, scale = layer.name, pixels(layer, there(layer, axes)), voxel_um(layer)
    return lambda: Volume(in_memory(data), scale, name)


def _files(wanted: Picked) -> list[Callable[[], Volume]]:
    """What gives the volume of each file in the folder; folders in it are not looked into."""
    from ..io import READERS
    from ..io.volumes import read_volumes

    if wanted.folder is None:
        return []
    paths = [
        path
        for path in sorted(wanted.folder.iterdir())
        if path.suffix.lower() in READERS and not path.name.startswith(".")
    ]

    def volume(path: Path) -> Volume:
        return next(iter(read_volumes([path], wanted.channel, wanted.time).volumes.values()))

    return [lambda path=path: volume(path) for path in paths]  # type: ignore[misc]


def _checked(volume: Volume, least: int, withheld: list[Any], others: list[Volume]) -> Volume:
    """The volume, if it may be used; refused with `InvalidInput` otherwise."""
    reason = _too_small(volume.shape[0], volume.shape[1:], least)
    if any(_same(volume.data, each) for each in withheld):
        reason = TRUTH
    elif any(_same(volume.data, other.data) for other in others):
        reason = SAME
    if reason:
        raise InvalidInput(f"{volume.name} ({reason})")
    check_values(volume.data, volume.name)
    return volume


def _same(one: Any, other: Any) -> bool:
    """Whether two volumes are one, perhaps with some of the last slices left out."""
    depth = min(len(one), len(other))
    return one.shape[1:] == other.shape[1:] and bool(np.array_equal(one[:depth], other[:depth]))
