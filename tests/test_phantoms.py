from __future__ import annotations

import numpy as np
import pytest

from napari_microdiffusion.events import InvalidInput
from napari_microdiffusion.phantoms import KINDS, NOISE, _soft, phantom

SHAPE = (36, 48, 40)


@pytest.mark.parametrize("kind", KINDS)
def test_phantoms_look_like_microscopy(kind):
    volume = phantom(kind, SHAPE, seed=3)
    assert volume.shape == SHAPE
    assert volume.data.dtype == np.float32
    assert volume.scale_um == (1, 0.5, 0.5)
    assert kind in volume.name
    low, high = volume.intensity_range
    assert 0 <= low < 3 * NOISE
    assert 0.9 < high <= 1
    bright = (volume.data > 0.3).mean()
    assert 0.005 < bright < 0.6  # structure on a dark ground
    background = volume.data[volume.data < 3 * NOISE + 0.01]
    assert 0.2 * NOISE < background.std() < 1.5 * NOISE


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_fixes_a_phantom(kind):
    first, again, other = (phantom(kind, SHAPE, seed).data for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.3


def test_kinds_differ():
    volumes = [phantom(kind, SHAPE).data for kind in KINDS]
    for i, one in enumerate(volumes):
        for other in volumes[i + 1 :]:
            assert np.abs(one - other).max() > 0.3


def test_phantoms_are_blurred_along_z():
    data = phantom("dendrites", (48, 48, 48), seed=2).data
    steepest = [np.abs(np.diff(data, axis=axis)).max() for axis in range(3)]
    assert steepest[0] < 0.85 * min(steepest[1:])


def test_an_unknown_kind_is_refused():
    with pytest.raises(InvalidInput, match="vessels, dendrites, neurons, nuclei"):
        phantom("bones")  # type: ignore[arg-type]


def test_far_outside_it_is_dark_without_a_warning():
    np.testing.assert_array_equal(_soft(np.array([-1e3, 0.0, 1e3])), [0, 0.5, 1])
