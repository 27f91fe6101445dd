"""How deep voxels are beside their width: stated, or told by what projections look like."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import zoom

from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.methods._ratio import estimated_ratio, foreign, odd_scale, ratio_of, stated_ratio
from napari_microdiffusion.phantoms import Kind, phantom
from napari_microdiffusion.volume import ProjectionStack, Volume


def stretched(kind: Kind, factor: float, seed: int = 1, **acquisition: object) -> ProjectionStack:
    """Projections of a phantom whose voxels have become ``factor`` times as deep as wide."""
    cube = phantom(kind, (96, 64, 64), seed).data
    data = zoom(cube, (1, factor, factor), order=1)
    return Volume(data).simulate(Acquisition.model_validate({"slices": 4} | acquisition))[0]


@pytest.mark.parametrize("factor", [1.0, 2.0, 3.0])
@pytest.mark.parametrize(
    ("kind", "acquisition"),
    [("nuclei", {}), ("neurons", {"profile": "gaussian"}), ("dendrites", {"profile": "point"})],
)
def test_an_unknown_ratio_is_found_by_its_looks(kind, acquisition, factor):
    assert factor / 1.5 < estimated_ratio(stretched(kind, factor, **acquisition)) < factor * 1.5


def test_the_ratio_hangs_on_no_intensities():
    stack = stretched("nuclei", 2.0)
    counts = np.round(stack.data * 20_000 + 1000)
    found = {
        estimated_ratio(replace(stack, data=counts.astype(dtype))) for dtype in ("uint16", ">u2", "int32", "float64")
    }
    assert found == {estimated_ratio(stack.normalised()[0])}


@pytest.mark.parametrize("case", ["few projections", "hidden ones", "images too small"])
def test_the_ratio_is_one_where_nothing_tells(case):
    stack = stretched("nuclei", 3.0)  # which is told where there is more of it
    poor = {
        "few projections": ProjectionStack(stack.data[:4], Acquisition(slices=4)),
        "hidden ones": stack.without((2,)),
        "images too small": replace(stack, data=stack.data[:, :16, :16]),
    }[case]
    assert estimated_ratio(poor) == 1.0


@pytest.mark.parametrize(
    ("scale", "ratio"), [(None, None), ((8.0, 1.0, 1.0), 2.0), ((4.0, 0.5, 2.0), 1.0), ((240.0, 1.0, 1.0), 60.0)]
)
def test_the_ratio_by_the_voxel_size(scale, ratio):
    """Of slices, four to a projection here; lateral sides that differ count by their geometric mean."""
    stack = ProjectionStack(np.ones((4, 8, 8), np.float32), Acquisition(slices=4), scale)
    assert stated_ratio(stack) == (None if ratio is None else pytest.approx(ratio))


@pytest.mark.parametrize(
    ("scale", "told"),
    [
        (None, []),
        ((2.0, 1.0, 1.0), []),
        ((2.0, 1.0, 1.05), []),
        ((2.0, 3.0, 1.0), ["pixels are 3 times as long in y as in x, and are taken as squares"]),
        ((30.0, 1.0, 1.0), ["voxels are 30 times as deep as wide, and are taken as 10"]),
    ],
)
def test_scales_that_are_not_taken_as_they_are_stated_are_told(scale, told):
    stack = ProjectionStack(np.zeros((5, 32, 32)), Acquisition(slices=4))
    stack = stack if scale is None else stack.with_voxels(scale)
    found = [notice.message for notice in odd_scale(stack, 10.0 if scale == (30.0, 1.0, 1.0) else ratio_of(stack))]
    assert len(found) == len(told)
    assert all(text in message for text, message in zip(told, found, strict=True))


@pytest.mark.parametrize(("dz", "beware"), [(2.0, False), (2.1, False), (4.0, True), (1.0, True)])
def test_a_network_for_other_voxels_is_one_to_beware_of(dz, beware):
    stack = ProjectionStack(np.zeros((5, 32, 32)), Acquisition(slices=4)).with_voxels((dz, 1.0, 1.0))
    assert bool(foreign(stack, 2.0)) == beware
    assert foreign(replace(stack, scale_um=None), 2.0) == ""


def test_more_of_long_beams_is_looked_at(monkeypatch):
    """In images of 128 pixels the largest ratios could not be told for so many slices."""
    wide = zoom(phantom("nuclei", (120, 120, 120), 1).data, (1, 4, 4), order=1)
    stack = Volume(wide).simulate(Acquisition(slices=12))[0]
    monkeypatch.setattr("napari_microdiffusion.methods._ratio.GUESSED", 128)
    assert estimated_ratio(stack) == estimated_ratio(replace(stack, data=stack.data[:, 90:390, 90:390])) > 2


def test_of_large_images_the_middle_is_looked_at(monkeypatch):
    stack = stretched("nuclei", 2.0)
    monkeypatch.setattr("napari_microdiffusion.methods._ratio.GUESSED", stack.shape[1])
    found = estimated_ratio(replace(stack, data=np.pad(stack.data, ((0, 0), (40, 41), (7, 7)))))
    assert found == estimated_ratio(stack) != 1
