"""What the manifest names: every command resolves, samples lie where they were measured, files keep what is known."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from npe2 import PluginManager, PluginManifest

from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.events import InvalidInput, TooLarge
from napari_microdiffusion.io import read_projections, read_volume, write_projections, write_volume
from napari_microdiffusion.plugin.contributions import get_reader, read_layers, read_movie, sample, write_image
from napari_microdiffusion.plugin.known import KEY
from napari_microdiffusion.plugin.layers import header
from napari_microdiffusion.reliability import Reliability
from napari_microdiffusion.volume import ProjectionStack, Volume

NAME = "napari-microdiffusion"


@pytest.fixture(scope="module")
def manifest() -> PluginManifest:
    manager = PluginManager()
    manager.discover()
    return manager.get_manifest(NAME)


def test_every_command_resolves(manifest: PluginManifest) -> None:
    manifest.validate_imports()
    points = manifest.contributions
    assert {widget.display_name for widget in points.widgets or ()} == {"Reconstruct volume"}
    assert {sample.key for sample in points.sample_data or ()} == {"vessels", "dendrites", "neurons"}
    used = [*points.widgets, *points.readers, *points.writers, *points.sample_data]
    assert {item.command for item in used} == {command.id for command in points.commands or ()}


def test_every_preference_has_a_title(manifest: PluginManifest) -> None:
    properties = (manifest.contributions.configurations or {})["reconstruct"].properties
    assert {name: bool(found.title) for name, found in properties.items()} == {"device": True, "preview_rate": True}


def test_sample_lies_where_it_was_measured() -> None:
    (truth, volume, _), (projections, stack, _) = sample("vessels", (36, 48, 48))
    assert (truth.shape, projections.shape) == ((36, 48, 48), (6, 48, 48))
    assert (volume["scale"], volume["translate"]) == ((1, 0.5, 0.5), (0.5, 0, 0))  # slice k is centred at (k + 1/2)·dz
    assert (stack["scale"], stack["translate"]) == ((6, 0.5, 0.5), (3, 0, 0))
    assert stack["units"] == ("µm",) * 3
    known = stack["metadata"][KEY]
    assert Acquisition.model_validate(known["acquisition"]).count == 6
    assert known["truth"] == volume["name"]


def test_projection_files_keep_their_acquisition(stack: ProjectionStack, tmp_path: Path) -> None:
    path = tmp_path / "stack.ome.tif"
    write_projections(stack, path)
    reader = get_reader(str(path))
    assert reader is not None
    [(data, attributes, kind)] = reader(str(path))
    assert kind == "image"
    np.testing.assert_array_equal(data, stack.data)
    assert attributes["scale"] == pytest.approx((6, 0.5, 0.5))
    assert attributes["metadata"][KEY]["role"] == "projections"
    again = write_image(str(tmp_path / "again.ome.zarr"), data, attributes)
    assert read_projections(again[0]).acquisition == stack.acquisition


def test_volume_files_keep_their_provenance(truth: Volume, tmp_path: Path) -> None:
    path = tmp_path / "volume.ome.tif"
    write_volume(Volume(truth.data, truth.scale_um, "v", provenance={"seed": 3}), path)
    [(data, attributes, _)] = read_layers(path)
    [written] = write_image(str(tmp_path / "again.ome.tif"), data, attributes)
    again = read_volume(written)
    assert again.provenance is not None
    assert again.provenance["seed"] == 3
    assert again.scale_um == pytest.approx(truth.scale_um)
    np.testing.assert_array_equal(again.data, truth.data)


def test_a_reliability_is_no_image_to_start_from(truth: Volume, tmp_path: Path) -> None:
    data = truth.data.astype(np.float32)
    reliability = Reliability(np.full_like(data, 0.1), data - 0.2, data + 0.2)
    written = write_volume(Volume(data, truth.scale_um, reliability=reliability), tmp_path / "v.ome.tif")
    assert written.reliability is not None
    for path, roles in ((written.path, ["unknown"]), (written.reliability, ["map"] * 3)):
        assert [layer[1]["metadata"][KEY]["role"] for layer in read_layers(path)] == roles
    layers = read_layers(written.reliability)
    limits = [layer[1]["contrast_limits"] for layer in layers]
    assert limits[0] == (0, pytest.approx(0.1))
    assert limits[1] == limits[2] == pytest.approx((data.min() - 0.2, data.max() + 0.2))
    flat = np.full_like(data, 100)  # of a constant one, or one that is no number, there is no contrast
    for found in (Reliability(flat * 0, flat, flat), Reliability(flat, flat * np.nan, flat)):
        write_volume(Volume(data, reliability=found), tmp_path / "odd.ome.tif", overwrite=True)
        odd = read_layers(tmp_path / "odd_reliability.ome.tif")
        assert all(np.isfinite(layer[1].get("contrast_limits", 0)).all() for layer in odd)
        assert "contrast_limits" not in odd[2][1]
    data, attributes, _ = layers[0]
    [again] = write_image(str(tmp_path / "again.ome.tif"), data, attributes)
    [(_, attributes, _)] = read_layers(again)
    assert attributes["metadata"][KEY]["role"] == "map"
    assert read_volume(again).provenance == {"map": "v_reliability standard deviation"}


def test_channels_become_layers_and_times_an_axis(tmp_path: Path) -> None:
    import tifffile

    data = np.arange(2 * 5 * 3 * 40 * 40, dtype=np.uint16).reshape(2, 5, 3, 40, 40)
    path = tmp_path / "many.ome.tif"
    tifffile.imwrite(path, data, metadata={"axes": "TZCYX"})
    layers = read_layers(path)
    assert [layer[1]["metadata"][KEY]["channel"] for layer in layers] == [0, 1, 2]
    np.testing.assert_array_equal(layers[1][0], data[:, :, 1])
    assert layers[1][1]["axis_labels"] == ("t", "z", "y", "x")
    assert len(layers[1][1]["scale"]) == 4


def movie_files(folder: Path, *shapes: tuple[int, int, int]) -> list[str]:
    """Volumes, each of a number of its own."""
    paths = [folder / f"v_t{time}.ome.tif" for time in range(len(shapes))]
    for time, (path, shape) in enumerate(zip(paths, shapes, strict=True)):
        write_volume(Volume(np.full(shape, time, np.float32), (2, 0.5, 0.5), provenance={"seed": time}), path)
    return [str(path) for path in paths]


def test_volumes_opened_as_one_stack_are_a_movie(tmp_path: Path) -> None:
    paths = movie_files(tmp_path, *[(5, 40, 41)] * 3)
    reader = get_reader(paths)
    assert reader is not None
    [(data, attributes, kind)] = reader([paths[2], paths[0], paths[1]])  # as dialogs may give them
    assert (data.shape, kind, attributes["name"]) == ((3, 5, 40, 41), "image", "v_t0 to v_t2")
    assert [frame.max() for frame in data] == [0, 1, 2]
    assert attributes["scale"] == pytest.approx((1, 2, 0.5, 0.5))
    assert attributes["axis_labels"] == ("t", "z", "y", "x")
    assert "path" not in attributes["metadata"][KEY]  # no one file to replay a run from


@pytest.mark.parametrize(
    ("provenance", "role"),
    [({"job": {}, "complete": True}, "result"), ({"complete": False}, "result"), ({"seed": 3}, "volume")],
)
def test_a_volume_that_was_reconstructed_opens_as_a_result(tmp_path: Path, provenance: Any, role: str) -> None:
    paths = [tmp_path / f"v_t{time}.ome.tif" for time in range(2)]
    data = np.random.default_rng(0).random((5, 40, 40), np.float32)
    for path in paths:
        write_volume(Volume(data, None, "v", "", provenance, Reliability(data, data - 1, data + 1)), path)
    [(_, attributes, _)] = read_layers(paths[0])
    known = attributes["metadata"][KEY]
    assert (known["role"], bool(known["pair"])) == (role, role == "result")
    chosen = sorted(str(path) for path in tmp_path.iterdir())  # all that there is in a folder
    assert len(chosen) == 4
    assert get_reader(chosen) is read_movie
    [(movie, attributes, _)] = read_movie(chosen)
    assert movie.shape == (2, *data.shape)
    known = attributes["metadata"][KEY]
    assert (known["role"], known["pair"]) == (role, "")
    assert known.get("times") == ([provenance] * 2 if role == "result" else None)
    assert len(write_image(str(tmp_path / "one.ome.tif"), movie[0], attributes)) == 1


def test_a_movie_too_large_for_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = movie_files(tmp_path, *[(5, 40, 41)] * 3)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=3 * 5 * 40 * 41 * 4))
    with pytest.raises(TooLarge, match="3 time point"):
        read_movie(paths)


def test_files_that_are_no_movie_are_left_to_napari(tmp_path: Path, stack: ProjectionStack) -> None:
    paths = movie_files(tmp_path, (5, 40, 41), (6, 40, 41))
    assert get_reader(paths) is None
    assert get_reader(paths[:1]) is None
    write_projections(stack, tmp_path / "p.ome.tif")
    assert get_reader([str(tmp_path / "p.ome.tif")] * 2) is None


def test_time_series_too_large_for_the_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tifffile

    path = tmp_path / "long.ome.tif"
    tifffile.imwrite(path, np.zeros((20, 5, 64, 64), np.uint16), metadata={"axes": "TZYX"})
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=10 * 5 * 64 * 64 * 2))
    with pytest.raises(TooLarge, match="20 time point"):
        read_layers(path)


def test_reader_leaves_other_things_alone(tmp_path: Path) -> None:
    assert get_reader(["a.tif", "b.tif"]) is None
    assert get_reader(str(tmp_path)) is None


@pytest.mark.parametrize(
    ("shape", "axes", "ours"),
    [
        ((40, 41), "YX", False),
        ((5, 40, 41), "ZYX", True),
        ((5, 40, 41), "TYX", False),
        ((3, 40, 41), "CYX", False),
        ((40, 41, 3), "YXS", False),
        ((5, 40, 41, 3), "ZYXS", False),
        ((2, 5, 40, 41), "TZYX", True),
    ],
)
def test_ordinary_images_are_left_to_napari(tmp_path: Path, shape: tuple[int, ...], axes: str, ours: bool) -> None:
    import tifffile

    path = tmp_path / "image.ome.tif"
    colour = {"photometric": "rgb"} if axes.endswith("S") else {"photometric": "minisblack"}
    tifffile.imwrite(path, np.zeros(shape, np.uint8), metadata={"axes": axes}, **colour)
    assert (get_reader(str(path)) is not None) == ours


def test_damaged_files_say_so(tmp_path: Path) -> None:
    (tmp_path / "cut.tif").write_bytes(b"II*\0")
    reader = get_reader(str(tmp_path / "cut.tif"))
    assert reader is not None
    with pytest.raises(InvalidInput, match="damaged"):
        reader(str(tmp_path / "cut.tif"))


def test_opening_the_widget_loads_no_torch() -> None:
    code = (
        "import sys\n"
        "import napari_microdiffusion.plugin.reconstruct, napari_microdiffusion.plugin.contributions\n"
        "from napari_microdiffusion.plugin.reconstruct import ReconstructWidget, _warm_up\n"
        "_warm_up()\n"
        "from qtpy.QtWidgets import QApplication\n"
        "from napari.components import ViewerModel\n"
        "app = QApplication([])\n"
        "widget = ReconstructWidget(ViewerModel())\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=_offscreen(), timeout=120)


def test_the_view_can_be_turned_while_torch_loads() -> None:
    code = (
        "import sys, types\n"
        "from napari.components import Camera\n"
        "from napari_microdiffusion.plugin import preload\n"
        "half = types.ModuleType('torch')\n"
        "preload._load_libraries = lambda: None\n"
        "preload.import_module = lambda name: sys.modules.__setitem__(name, half)\n"
        "preload.load_torch()\n"
        "camera = Camera()\n"
        "camera.angles = (10.0, 30.0, 60.0)\n"
        "camera.set_view_direction((0, 1, 0), (1, 0, 0))\n"
        "from scipy.spatial.transform import Rotation\n"
        "Rotation.from_quat([0.0, 0.0, 0.0, 1.0]).as_matrix()\n"
        "camera.up_direction, camera.view_direction\n"
        "assert abs(camera.view_direction[1] - 1) < 1e-6, camera.view_direction\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=_offscreen(), timeout=120)


def _offscreen() -> dict[str, str]:
    import os

    return {**os.environ, "QT_QPA_PLATFORM": "offscreen"}


def test_of_a_pyramid_the_finest_level_is_saved(truth: Volume, tmp_path: Path) -> None:
    from napari.layers import Image

    levels = [truth.data, truth.data[:, ::2, ::2], truth.data[::2, ::4, ::4]]
    where = {"name": "pyramid", "scale": (2, 0.5, 0.5), "units": ("µm",) * 3}
    data, attributes, _ = Image(levels, multiscale=True, **where).as_layer_data_tuple()
    write_image(str(tmp_path / "a.ome.tif"), data, attributes)
    found = read_volume(tmp_path / "a.ome.tif")
    np.testing.assert_array_equal(found.data, truth.data)
    assert found.scale_um == (2, 0.5, 0.5)


def test_projections_that_are_lacking_are_noticed(stack: ProjectionStack, tmp_path: Path) -> None:
    from napari.layers import Image

    write_projections(stack.without((2, 4)), tmp_path / "s.ome.tif")
    ((data, attributes, _),) = read_layers(tmp_path / "s.ome.tif")
    assert header(Image(data, **attributes)).lacking == 2


def test_a_mirrored_layer_is_saved_with_the_size_of_its_voxels(tmp_path: Path) -> None:
    data = np.random.default_rng(0).random((6, 32, 32), np.float32)
    attributes = {"name": "mirrored", "scale": (-2.0, 0.5, 0.5), "units": ("um", "um", "um")}
    [written] = write_image(str(tmp_path / "m.ome.tif"), data, attributes)
    assert read_volume(written).scale_um == (2.0, 0.5, 0.5)
    [written] = write_image(str(tmp_path / "flat.ome.tif"), data, attributes | {"scale": (0.0, 0.5, 0.5)})
    assert read_volume(written).scale_um is None
