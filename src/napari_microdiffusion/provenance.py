"""What is on record of how a volume was made."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from .events import InvalidInput

Pair = Annotated[list[float], Field(min_length=2, max_length=2)]


class Findings(TypedDict, total=False):
    """What a method found out about its stack, JSON-ready and kept with the volume; any key may be missing."""

    __pydantic_config__ = ConfigDict(allow_inf_nan=False)  # type: ignore[misc]
    sigma_slices: float
    """Axial blur beyond the lateral one, in slices, as it was taken."""
    sigma_curve: list[Pair]
    """Blurs that were tried, in slices, each with its score: dB of hidden projections."""
    interpolation_held_out_db: float | None
    """The conservative interpolation's score; None where none could be hidden."""
    elongation: float
    """How many times longer structures look along z than the voxel ratio has it."""
    elongation_curve: list[Pair]
    """Elongations that were tried, each with the best score in dB."""
    strength: float | None
    """What the network's changes were multiplied by; None where nothing asked for it."""
    voxel_ratio: float
    """Voxel depth over voxel width, as the network was trained for it."""
    beware: str
    """What speaks against the network on this stack; empty where nothing does."""
    interval_sigma_slices: float | None
    """Axial blur that the 90 % intervals are for, in slices; None where there are none."""
    interval_elongation: float | None
    """Elongation that they are for, likewise."""
    interval_widening: float | None
    """Factor of the 90 % intervals; None where they could not be tested, and there are none."""
    fell_back: bool
    """Whether the volume is the conservative interpolation, as that was told better."""


_FINDINGS = TypeAdapter(Findings)


def found_in(provenance: dict[str, Any] | None) -> Findings:
    """What is on record of a volume's `Findings`; empty where there is nothing, or what is no finding."""
    try:
        return _FINDINGS.validate_python((provenance or {}).get("found", {}))
    except ValidationError:  # the record is a file's: it may say anything
        return {}


def verdict_in(provenance: dict[str, Any] | None) -> str:
    """What a volume is worth in plain words, as it is on record; empty where it is not."""
    told = (provenance or {}).get("verdict", "")
    return told if isinstance(told, str) else ""


def is_map(provenance: dict[str, Any] | None) -> bool:
    """Whether an image says something of a volume, its uncertainty for example, and is none itself."""
    return "map" in (provenance or {})


def check_no_map(provenance: dict[str, Any] | None, name: str) -> None:
    """Refuse, with `InvalidInput`, an image that `is_map`."""
    if is_map(provenance):
        raise InvalidInput(f"{name} says how far a volume can be trusted, and holds no intensities: give another file")


def was_reconstructed(provenance: dict[str, Any] | None) -> bool:
    """Whether a record of how a volume was made is that of a run, finished or not, so that it is no measurement."""
    return not {"job", "complete"}.isdisjoint(provenance or {})


def was_denoised(provenance: dict[str, Any] | None) -> bool:
    """Whether noise was taken off the projections of a volume first, by the record of how it was made."""
    return (provenance or {}).get("denoised") is True
