"""What people read in the widget and on the command line: methods, times, lengths."""

from __future__ import annotations

import re
from typing import NamedTuple


class Description(NamedTuple):
    """A method's name as people read it, and what it does, what for and how long it takes (``preview`` on a CPU)."""

    title: str
    text: str

    @property
    def short(self) -> str:
        """The name without what stands in brackets."""
        return self.title.partition(" (")[0]


DESCRIPTIONS: dict[str, Description] = {
    "axial": Description(
        "Axial (super-resolution along z)",
        "Learns from the sharp lateral detail of your own sample what was lost along z, and says how certain each "
        "voxel is. Minutes. Not for samples that look different along z than across, such as layers or upright fibres.",
    ),
    "conservative": Description(
        "Conservative interpolation",
        "The smoothest volume that agrees exactly with what was measured. Instant, and hard to beat.",
    ),
    "microdiffusion": Description(
        "MicroDiffusion",
        "A neural network learns the volume, then a diffusion model refines it slice by slice. The slowest.",
    ),
    "hash_inr": Description(
        "Hash INR (fast neural grids)",
        "As INR, but what is learned is kept in grids of several resolutions: a tenth of the time. Seconds.",
    ),
    "inr": Description(
        "INR (neural representation)",
        "A small neural network learns the volume so that its slices average to your projections. Minutes.",
    ),
    "cubic": Description(
        "Cubic interpolation",
        "A smooth curve through the projections, pixel by pixel. Instant.",
    ),
    "linear": Description(
        "Linear interpolation",
        "Straight lines between the projections, pixel by pixel. Instant.",
    ),
    "axial_posterior": Description(
        "Axial posterior (one sample)",
        "Draws one of the volumes that may be, as grainy as a real one, around the result of axial super-resolution. "
        "Its fine detail is a guess, and another seed draws another: to see what could be, not to measure in. Minutes.",
    ),
    "sparse3diff": Description(
        "Sparse3Diff",
        "A diffusion model fills in the slices between measured ones, and fits itself to your images first. Needs a "
        "base model, trained on full volumes of similar samples.",
    ),
    "recurrent_mz": Description(
        "Recurrent-MZ",
        "A recurrent network makes each slice from the images nearest to it. Needs a base model, trained on full "
        "volumes of similar samples.",
    ),
    "ddpm": Description(
        "DDPM (plain diffusion)",
        "A plain diffusion model fills in the slices between measured ones. Needs a base model. For comparison.",
    ),
    "axial_diffusion": Description(
        "Diffusion on axial super-resolution",
        "A diffusion model refines the result of axial super-resolution, without its error bars. For comparison.",
    ),
    "conservative_diffusion": Description(
        "Diffusion on conservative interpolation",
        "A diffusion model refines the conservative interpolation. For comparison.",
    ),
    "cubic_diffusion": Description(
        "Diffusion on cubic interpolation",
        "A diffusion model refines the cubic interpolation. For comparison.",
    ),
    "interpolation_diffusion": Description(
        "Diffusion on linear interpolation",
        "A diffusion model refines the linear interpolation. For comparison.",
    ),
    "naive_diffusion": Description(
        "Diffusion alone",
        "A diffusion model that is shown the projections but no first guess. For comparison.",
    ),
}
"""Of every method of `presets.METHODS`, in the order in which they are offered."""


def titled(text: str, method: str) -> str:
    """A message of the engine, with the method called as people read it."""
    return re.sub(rf"\b{method}\b", DESCRIPTIONS[method].short, text, count=1)


def duration(seconds: float) -> str:
    """``0.4 s``, ``45 s``, ``3 min``, ``2.5 h``."""
    if seconds < 90:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def in_microns(size: tuple[float, float, float]) -> str:
    """A voxel size as people read it: ``1 × 0.48 × 0.48 µm``."""
    return " × ".join(f"{length:.3g}" for length in size) + " µm"
