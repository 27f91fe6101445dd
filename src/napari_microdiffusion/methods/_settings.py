"""Settings of methods: how one is stated, and those that several methods have, each with its meaning and range.

Only defaults are a method's own.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.fields import FieldInfo


def setting(default: Any, description: str, *, sampling: bool = False, **limits: Any) -> Any:
    """A field of a method's spec: its default, its meaning in plain words, its range.

    ``sampling`` marks what may be changed on weights that are already trained.
    """
    return Field(default, description=description, json_schema_extra=_stage(sampling), **limits)


def shared(description: str, *, sampling: bool = False, **limits: Any) -> Any:
    """The same without a default, for a type that several methods use."""
    return Field(description=description, json_schema_extra=_stage(sampling), **limits)


def _stage(sampling: bool) -> dict[str, Any]:
    return {"stage": "sampling" if sampling else "training"}


def limits(info: FieldInfo) -> dict[str, float]:
    """The bounds of a setting, by pydantic's names, as far as there are any."""
    keys = ("ge", "gt", "le", "lt", "multiple_of", "min_length", "max_length")
    return {key: getattr(limit, key) for limit in info.metadata for key in keys if hasattr(limit, key)}


def in_words(bounds: dict[str, float]) -> str:
    """Bounds as people say them: ``0 to 1``, ``above 0, at most 100``."""
    words = {"ge": "at least {}", "gt": "above {}", "le": "at most {}", "lt": "below {}"}
    words |= {"multiple_of": "a multiple of {}", "min_length": "{} entries or more", "max_length": "{} at most"}
    if {"ge", "le"} <= bounds.keys():
        words = words | {"ge": "{}", "le": "to {}"}
        words = {key: words[key] for key in ("ge", "le", *words)}
    parts = [text.format(bounds[key]) for key, text in words.items() if key in bounds]
    return ", ".join(parts).replace(", to ", " to ")


FinalConsistency = Annotated[
    Literal["none", "final"],
    shared(
        "make the finished volume reproduce the measured projections, exactly or, where they overlap, to within their "
        "noise (final), or leave it as computed (none)",
        sampling=True,
    ),
]

# -- networks ------------------------------------------------------------------------------------

NetworkChannels = Annotated[int, shared("channels of the network at full resolution", ge=8, le=512, multiple_of=8)]
Blocks = Annotated[int, shared("residual blocks at full resolution", ge=2, le=64, multiple_of=2)]
UNetChannels = Annotated[int, shared("channels of the U-Net at full resolution", ge=8, le=512, multiple_of=8)]
Multipliers = Annotated[
    tuple[Annotated[int, Field(ge=1, le=16)], ...],
    shared("channels at each resolution, as multiples", min_length=1, max_length=5),
]

# -- training ------------------------------------------------------------------------------------

Steps = Annotated[int, shared("training steps", ge=1, le=10_000_000)]
DiffusionSteps = Annotated[int, shared("training steps of the diffusion model", ge=1, le=10_000_000)]
Crops = Annotated[int, shared("crops in each training step", ge=1, le=1024)]
Crop = Annotated[int, shared("side of a training crop, in pixels", ge=16, le=1024, multiple_of=16)]
PatchBatch = Annotated[int, shared("patches of 96 slices and 64 pixels in each training step", ge=1, le=1024)]
LearningRate = Annotated[float, shared("learning rate of the optimiser", gt=0, le=1)]
RateSchedule = Annotated[
    Literal["constant", "cosine"],
    shared("learning rate: the same throughout (constant), or falling to zero (cosine)"),
]

# -- diffusion -----------------------------------------------------------------------------------

Timesteps = Annotated[int, shared("noise levels of the training schedule, T", ge=2, le=10_000)]
BetaStart = Annotated[float, shared("noise variance of the first level", gt=0, lt=1)]
BetaEnd = Annotated[float, shared("noise variance of the last level", gt=0, lt=1)]
SamplerName = Annotated[
    Literal["ddim", "ddpm"],
    shared("ddim: few steps, no fresh noise; ddpm: random, best with all T steps", sampling=True),
]
LevelSpacing = Annotated[
    Literal["quadratic", "uniform"],
    shared(
        "noise levels of the sampling steps: dense near the clean image (quadratic) or even (uniform)", sampling=True
    ),
]
Guidance = Annotated[
    float,
    shared("strength w of classifier-free guidance; 0 needs half the time", ge=0, le=20, sampling=True),
]

UNGUIDED = "guidance above 0 needs p_uncond above 0: else the network never learns what to be guided away from"
"""Said of settings that do not go together."""
