"""Which voxels are flagged, and that a reliability belongs to its volume."""

from __future__ import annotations

import numpy as np
import pytest

from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.events import InvalidInput
from napari_microdiffusion.reliability import Reliability
from napari_microdiffusion.volume import Intensity, Volume

GREY = np.zeros((6, 40, 48), np.uint16)


def reliability(std: np.ndarray, width: float = 1.6) -> Reliability:
    std = std.astype(np.float32)
    return Reliability(std, -width * std, width * std)


@pytest.mark.parametrize(
    ("std", "flagged"),
    [
        (np.arange(100), np.arange(90, 100)),
        (np.arange(100)[::-1], np.arange(10)),
        (np.full(100, 0.3), []),  # all as certain as one another
        (np.repeat([1, 2], [80, 20]), []),  # no tenth can be told from the other of the same value
        (np.repeat([1, 2], [95, 5]), np.arange(95, 100)),
        (np.zeros(100), []),
    ],
)
def test_flagged_are_the_least_certain_tenth(std, flagged):
    found = reliability(np.reshape(std, (4, 5, 5))).flagged
    assert (found.shape, found.dtype) == ((4, 5, 5), bool)
    assert np.flatnonzero(found).tolist() == list(flagged)


def test_arrays_of_a_reliability_have_one_shape_and_the_volumes():
    std = np.ones((6, 40, 48), np.float32)
    with pytest.raises(InvalidInput, match="must have one shape"):
        Reliability(std, std[1:], std)
    with pytest.raises(InvalidInput, match=r"mine is \(6, 40, 48\).* reliability is \(5, 40, 48\)"):
        Volume(GREY, name="mine", reliability=reliability(std[1:]))
    assert Volume(GREY, reliability=reliability(std)).reliability is not None
    assert Volume(GREY).reliability is None


def test_a_reliability_is_restored_with_its_volume():
    working = reliability(np.random.default_rng(1).random((3, 4, 5)))
    restored = Intensity(100, 4000).restore_reliability(working)
    np.testing.assert_allclose(restored.std, 4000 * working.std, rtol=1e-6)
    np.testing.assert_allclose(restored.lower, 100 + 4000 * working.lower, rtol=1e-5)
    np.testing.assert_allclose(restored.upper, 100 + 4000 * working.upper, rtol=1e-5)
    assert {a.dtype for a in (restored.std, restored.lower, restored.upper)} == {np.dtype(np.float32)}


def test_projections_of_a_result_start_without_its_reliability(truth):
    volume = Volume(truth.data, reliability=reliability(np.ones(truth.shape)))
    assert volume.simulate(Acquisition(slices=7))[1].reliability is None
