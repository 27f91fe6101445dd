"""The methods: the union of all specs, told apart by ``kind``, and their names."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ._base import Context, Method, Weights
from .axial import Axial
from .axial_posterior import AxialPosterior
from .guided import Guided
from .implicit import Inr
from .interpolation import Conservative, Cubic, Linear
from .recurrent_mz import RecurrentMz
from .sparse3diff import Ddpm, Sparse3Diff

AnyMethod = Annotated[
    Linear | Cubic | Conservative | Inr | Guided | Axial | AxialPosterior | RecurrentMz | Ddpm | Sparse3Diff,
    Field(discriminator="kind"),
]

__all__ = [
    "AnyMethod",
    "Axial",
    "AxialPosterior",
    "Conservative",
    "Context",
    "Cubic",
    "Ddpm",
    "Guided",
    "Inr",
    "Linear",
    "Method",
    "RecurrentMz",
    "Sparse3Diff",
    "Weights",
]
