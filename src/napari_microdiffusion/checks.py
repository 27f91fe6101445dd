"""What is refused before any work: projections that a method is not made for, weights that are not its own, or none.

And what is not refused, but said.
"""

from __future__ import annotations

import math

import numpy as np

from .acquisition import MINIMUM_PROJECTIONS, Acquisition
from .events import InvalidInput
from .methods import Context, Method, Weights
from .noise import Noise
from .numbering import numbers_of
from .presets import name_of
from .ridge import difference
from .volume import ProjectionStack

SATURATED = 0.005
"""Share of the pixels at the brightest value of all, above which it is no chance that so many are equal."""

IMAGES = 8
"""Noise is estimated from so many projections, spread over the stack: of all of them it would take much memory."""

NOISY = 0.1
"""Share of noise from which on denoising first gained 0.5 dB and more on all volumes (docs/measurements.md)."""


def check_suited(method: Method, acquisition: Acquisition) -> None:
    """Refuse projections that the method is not made for, with `InvalidInput`."""
    reason = method.unsuited(acquisition)
    if reason is not None:
        raise InvalidInput(f"{name_of(method)} {reason}")


def check_base(method: Method, given: bool) -> None:
    """Refuse a method that is trained on volumes where no weights are given, with `InvalidInput`."""
    if method.pretrained and not given:
        raise InvalidInput(
            f"{name_of(method)} needs a base model: train one on full volumes with `napari-microdiffusion pretrain`, "
            "and give it with --base (in the window, train or load it in the section Base model; in Python, hand what "
            "`load_trained` gives to `reconstruct`)"
        )


def check_weights(method: Method, stack: ProjectionStack, weights: Weights | None) -> None:
    """Refuse weights that are not those of the method, and their lack where it needs a base model.

    Raises
    ------
    InvalidInput
        Saying what to do.
    """
    check_base(method, weights is not None)
    if weights is None:
        return
    given, expected = (
        {name: tuple(tensor.shape) for name, tensor in found.items()}
        for found in (weights, method.untrained(stack, Context()))
    )
    if given != expected:
        raise InvalidInput(
            f"the weights do not fit {name_of(method)} with these settings and {stack.acquisition.description}, or "
            "their training was stopped early, or another version of this program saved them: use the settings and "
            "slices per projection they were trained with, or train again"
        )


def bytes_to_write(method: Method, stack: ProjectionStack, dtype: str | None) -> int:
    """Bytes of the file of a volume, and of its reliability beside it where the method gives one.

    Parameters
    ----------
    dtype
        That the volume is exported as; None: float32, as the reliability always is.
    """
    voxels = math.prod(stack.volume_shape)
    reliability = 3 * 4 if method.gives_reliability else 0
    return voxels * ({"uint8": 1, "uint16": 2}.get(dtype or "", 4) + reliability)


def spoilt(stack: ProjectionStack) -> list[str]:
    """Which projections are the same everywhere, and whether many pixels share the brightest value, in sentences."""
    told = []
    shown = zip(stack.acquisition.shown, stack.data, strict=True)
    blank = [index for index, image in shown if image.min() == image.max()]
    if blank:
        several, others = len(blank) > 1, " and others" if len(blank) > 5 else ""
        dispensable = len(stack.data) - len(blank) >= MINIMUM_PROJECTIONS
        remedy = f"; leave {'them' if several else 'it'} out" if dispensable else ""
        told.append(
            f"projection{'s' if several else ''} {numbers_of(blank[:5])}{others} (counted from 1) "
            f"{'are' if several else 'is'} the same everywhere, blank or saturated: what is said of that depth, and "
            f"the scores, mean little{remedy}"
        )
    brightest = float((stack.data == stack.data.max()).mean())
    if brightest > SATURATED:
        told.append(
            f"{100 * brightest:.2g} % of the pixels have the brightest value of all: if the camera was saturated "
            "there, what was brighter is lost; expose for less time"
        )
    return told


def doubts(stack: ProjectionStack, denoise: bool) -> list[str]:
    """What people should know of their projections before they look at what is made of them."""
    noise = None if denoise else noisy(stack)
    return [*_unmeasured(stack.acquisition), *spoilt(stack), *([noise] if noise else [])]


def _unmeasured(acquisition: Acquisition) -> list[str]:
    """Which slices no projection in use has seen; those between single slices are what is to be found."""
    told, (gaps, beyond) = [], acquisition.unseen
    if len(acquisition.matrix) == acquisition.depth:
        told.append(
            "there is a projection for every slice, so nothing is left to reconstruct: if each shows several slices, "
            "state how many"
        )
    if beyond:
        told.append(f"{beyond} of {acquisition.depth} slices lie beyond the outermost measured one: extrapolated")
    if gaps and not acquisition.single:
        told.append(f"{gaps} of {acquisition.depth} slices lie between the projections: inferred from their neighbours")
    return told


def noise_of(stack: ProjectionStack) -> tuple[float, float]:
    """Variances of the noise, in squares of the intensity: the mean over pixels, and that at the median brightness."""
    images = stack.data[:: -(-len(stack.data) // IMAGES)].astype(np.float32)
    noise = Noise.of(images)
    mean, usual = noise.variance(images).mean(), noise.variance(np.median(images, keepdims=True))
    return float(mean), usual.item()


def noise_share(stack: ProjectionStack, mean: float) -> float:
    """Which share of what differs between neighbouring projections is noise, in squares: 0 to about 1.

    Parameters
    ----------
    mean
        Variance of the noise, in squares of the intensity, as `noise_of` gives it.
    """
    return 2 * mean / max(difference(stack.acquisition, stack.data), 1e-30)


def noisy(stack: ProjectionStack) -> str | None:
    """What to say of projections that are mostly noise; None of others."""
    share = noise_share(stack, noise_of(stack)[0])
    if share < NOISY:
        return None
    return (
        f"noise makes up {about(share)} of what differs between neighbouring projections, and a volume that reproduces "
        "them keeps it: try Denoise (in the window under Data; --denoise)"
    )


def about(share: float) -> str:
    """A share as people say it: ``about 40 %``."""
    if share >= 0.95:
        return "nearly all"
    return f"about {100 * share:.0f} %" if share >= 0.01 else "less than 1 %"
