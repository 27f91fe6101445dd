from __future__ import annotations

import numpy as np
import pytest

from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.events import InvalidInput
from napari_microdiffusion.volume import ProjectionStack, Volume

GREY = np.random.default_rng(0).integers(100, 4000, (6, 40, 48)).astype(np.uint16)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros((40, 40)), "single image"),
        (np.zeros((2, 6, 40, 40)), "choose one channel"),
        (np.zeros((40, 40, 3), np.uint8), "colour image"),
        (np.zeros((64, 48, 4), np.uint8), "colour image"),
        (np.zeros((6, 40, 40), complex), "complex"),
        (np.zeros((6, 40, 40), bool), "boolean"),
        (np.zeros((6, 40, 40), "U1"), "integers or real numbers"),
        (np.zeros((6, 0, 40)), "empty"),
    ],
)
@pytest.mark.parametrize("kind", ["volume", "projections"])
def test_arrays_that_are_no_grey_stack_are_refused(data, message, kind):
    with pytest.raises(InvalidInput, match=f"mine .*{message}"):
        _ = Volume(data, name="mine") if kind == "volume" else ProjectionStack(data, Acquisition(), name="mine")


def spoilt(value: float) -> np.ndarray:
    data = GREY.astype(np.float32)
    data[2, 3, 4:6] = value
    return data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (GREY[:2], "has 2 projection.*at least 3"),
        (GREY[:, :31], "31 x 48 pixels; at least 32 x 32"),
        (GREY[:, :, :16], "40 x 16 pixels.*field of view$"),
        (GREY.transpose(1, 2, 0), "48 x 6 pixels.*field of view; if z is its last axis, bring it to the front"),
        (spoilt(np.nan), "2 NaN or infinite"),
        (spoilt(np.inf), "2 NaN or infinite"),
        (spoilt(-np.inf), "2 NaN or infinite"),
        (np.full((6, 40, 40), 7), r"constant \(7 everywhere\)"),
        (1e9 + GREY.astype(np.float64), "results .* tell fewer than 1000 grey levels apart; subtract it first"),
        (1e6 + GREY / 1e4, "so large an offset"),
    ],
)
def test_check_refuses_what_no_method_can_use(data, message):
    stack = ProjectionStack(data, Acquisition(), name="mine")
    with pytest.raises(InvalidInput, match=f"mine .*{message}"):
        stack.check()
