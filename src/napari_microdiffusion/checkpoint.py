"""Trained weights in a file: safetensors, with the spec they belong to as JSON, and a format version."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from .acquisition import Acquisition
from .events import InvalidInput
from .images import pixels_sha256
from .io.target import check_output, replacing

if TYPE_CHECKING:
    import torch

FORMAT = 1
"""Raised when the layout of the file changes; files of another version are refused. Entries may be added without."""

SUFFIXES = (".safetensors",)
_KEY = "napari_microdiffusion"


class VolumeRecord(BaseModel):
    """A full volume that a base model was trained on: its name, (z, y, x), and the SHA-256 of its pixels.

    Simulation leaves out the last slices where they fill no projection. What stays is known by ``first_sha256``, that
    of the first slice with more than one intensity, as float32; None in older files.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    shape: tuple[int, int, int]
    sha256: str
    first_sha256: str | None = None

    @classmethod
    def of(cls, data: NDArray[Any], name: str) -> VolumeRecord:
        """Of a volume (z, y, x)."""
        first = next((each for each in data if each.min() != each.max()), data[0])
        kept = pixels_sha256(first.astype("<f4"))  # the same in any type that holds it
        return cls(name=name, shape=data.shape, sha256=pixels_sha256(data), first_sha256=kept)

    def matches(self, other: VolumeRecord) -> bool:
        """Whether it is the same volume under any name, be it without its last slices."""
        if None in (self.first_sha256, other.first_sha256):
            alike = (self.name, self.shape[1:]) == (other.name, other.shape[1:])
        else:
            alike = self.first_sha256 == other.first_sha256
        return alike or self.sha256 == other.sha256


class Origin(BaseModel):
    """What weights were trained on; projections, or the volumes of a base model.

    Parameters
    ----------
    acquisition
        Of the projections that they were trained on. Of a base model, that which it is meant for.
    input_sha256
        SHA-256 of those projections' pixels; None in files of before it was recorded. Of a base model, that of the
        stack that it was fitted to, None where it is as it came from the volumes.
    volumes
        That a base model was trained on; empty for others.
    complete
        Whether a training on volumes came to its end.
    denoised
        Whether the noise was taken off those projections first; None in files of before it was recorded, and for a base
        model as it came from the volumes.
    """

    model_config = ConfigDict(frozen=True)

    acquisition: Acquisition
    input_sha256: str | None = None
    volumes: tuple[VolumeRecord, ...] = ()
    complete: bool = True
    denoised: bool | None = None


@dataclass(frozen=True)
class Checkpoint:
    """What a weights file holds.

    Parameters
    ----------
    spec
        The method's spec as plain values, to be validated by whoever knows the methods.
    weights
        Tensors by name, on the CPU.
    """

    spec: dict[str, Any]
    weights: dict[str, torch.Tensor] = field(repr=False)
    origin: Origin


def save_weights(
    path: str | Path,
    spec: Mapping[str, Any],
    weights: Mapping[str, torch.Tensor],
    origin: Origin,
    overwrite: bool = False,
) -> Path:
    """Write weights with their spec, all or nothing.

    Parameters
    ----------
    path
        Ends in .safetensors.
    spec
        The method's spec as plain, JSON-ready values.

    Raises
    ------
    InvalidInput
        If there are no weights, or the output cannot be written; as for `io.check_output`.
    RunFailed
        If writing breaks off; what was at ``path`` is still there then.
    """
    from safetensors.torch import save

    if not weights:
        raise InvalidInput(f"the method {spec.get('kind')} trains nothing: there are no weights to save")
    record = {
        "format": FORMAT,
        "software": version("napari-microdiffusion"),
        "spec": dict(spec),
        **origin.model_dump(mode="json"),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    target = check_output(path, size, overwrite, SUFFIXES)
    with replacing(target, overwrite) as temporary, temporary.open("wb") as file:
        file.write(save(tensors, {_KEY: json.dumps(record)}))
        file.flush()
        os.fsync(file.fileno())
    return target


def load_weights(path: str | Path) -> Checkpoint:
    """Read a weights file; nothing in it is executed.

    Raises
    ------
    InvalidInput
        If the file is not there, damaged, not ours, or of another format version.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise InvalidInput(f"there is no weights file {path}")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            record = _record(file.metadata() or {}, path)
            names = file.keys()
            weights = {name: file.get_tensor(name).clone() for name in names}  # not the file's own memory, mapped
    except OSError as error:
        raise InvalidInput(f"{path.name} cannot be read: {error.strerror or error}") from error
    except SafetensorError as error:
        raise InvalidInput(f"{path.name} is no weights file, or damaged: choose that of a trained network") from error
    try:
        return Checkpoint(dict(record["spec"]), weights, Origin.model_validate(record))
    except (KeyError, TypeError, ValueError) as error:  # pydantic's among them
        raise InvalidInput(f"{path.name} does not say completely what its weights are for: save them again") from error


def fingerprint(weights: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of weights, in the order of their names."""
    import torch

    found = sha256()
    for name, tensor in sorted(weights.items()):
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def _record(metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    if _KEY not in metadata:
        raise InvalidInput(f"{path.name} holds weights of other software: use a file written by --save-weights")
    try:
        record = json.loads(metadata[_KEY])
        found = record["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidInput(f"{path.name} does not say completely what its weights are for: save them again") from error
    if found != FORMAT:
        raise InvalidInput(
            f"{path.name} has weights format {found}, and this version reads {FORMAT}: "
            "use the version that wrote it, or train again"
        )
    return dict(record)
