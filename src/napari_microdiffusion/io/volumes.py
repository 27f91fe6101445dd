"""Fully sampled volumes by file or folder, for methods that learn from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..events import InvalidInput
from ..images import check_lateral, check_values
from ..provenance import was_reconstructed
from ..volume import Volume
from . import READERS, inspect, read_volume


@dataclass(frozen=True)
class Found:
    """Volumes by the files they come from, and what was left out, each with the reason."""

    volumes: dict[Path, Volume] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


def read_volumes(given: Sequence[Path], channel: int | None, time: int | None) -> Found:
    """The volumes in files and folders, each once; what is no volume is left out of a folder, and refused as a file.

    Raises
    ------
    InvalidInput
        For a file that is no volume, or if there is none at all.
    """
    found = Found()
    for path in given:
        folder = path.is_dir() and path.suffix.lower() not in READERS
        for each in sorted(path.iterdir()) if folder else [path]:
            if each.resolve() in found.volumes or (folder and each.name.startswith(".")):
                continue
            try:
                found.volumes[each.resolve()] = _volume(each, channel, time)
            except InvalidInput as error:
                if not folder:
                    raise
                found.left_out.append(str(error) if each.name in str(error) else f"{each.name}: {error}")
    if not found.volumes:
        reasons = "; ".join(found.left_out) or "it is empty"
        raise InvalidInput(f"there is no volume in {', '.join(map(str, given))}: {reasons}")
    return found


def _volume(path: Path, channel: int | None, time: int | None) -> Volume:
    described = inspect(path)
    described.check_volume(path.name, "a base model is trained on fully sampled volumes")
    if was_reconstructed(described.provenance):
        raise InvalidInput(f"{path.name} was reconstructed: a base model is trained on measured volumes")
    chosen = channel if described.channels > 1 else None, time if described.times > 1 else None
    volume = read_volume(path, *chosen, with_reliability=False)
    check_values(volume.data, path.name)
    check_lateral(volume.shape, path.name)
    return volume
