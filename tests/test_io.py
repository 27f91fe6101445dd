"""Files: what is saved comes back the same; what cannot be read or written is refused in plain words."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import threading
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import tifffile
import yaozarrs
import zarr

from napari_microdiffusion import io
from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.events import InvalidInput, RunFailed, TooLarge
from napari_microdiffusion.io import ome_zarr, target, tiff
from napari_microdiffusion.io.units import scale_um
from napari_microdiffusion.io.volumes import read_volumes
from napari_microdiffusion.plugin.contributions import read_layers
from napari_microdiffusion.volume import ProjectionStack, Volume

OUTPUTS = ("v.ome.tif", "v.tif", "v.ome.tiff", "v.ome.zarr", "v.zarr")
SCALE = (1.5, 0.25, 0.24)
PROVENANCE = {"job": {"method": {"kind": "linear"}, "acquisition": {"slices": 6}}, "seed": 3, "note": "é <&> {x} \x01"}


@pytest.fixture
def hyperstack() -> np.ndarray:
    """(t, c, z, y, x) = (2, 3, 5, 40, 48)."""
    return np.random.default_rng(0).integers(0, 255, (2, 3, 5, 40, 48), dtype=np.uint8)


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


class TestSaveThenLoad:
    @pytest.mark.parametrize("name", OUTPUTS)
    @pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64", ">f4"])
    def test_same_values_scale_dtype_and_provenance(self, tmp_path: Path, name: str, dtype: str) -> None:
        data = (np.random.default_rng(1).normal(size=(5, 33, 37)) * 40 + 50).astype(dtype)
        volume = Volume(data, SCALE, source_dtype="uint16", provenance=PROVENANCE)
        exported = io.write_volume(volume, tmp_path / name)
        back = io.read_volume(tmp_path / name)
        np.testing.assert_array_equal(back.data, data)
        assert back.data.dtype == np.dtype(dtype).newbyteorder("=")
        assert (back.scale_um, back.source_dtype, back.provenance) == (SCALE, "uint16", PROVENANCE)
        assert (exported.path, exported.mapping) == (tmp_path / name, None)
        assert leftovers(tmp_path) == []

    @pytest.mark.parametrize("name", OUTPUTS)
    def test_scale_that_is_not_known_stays_unknown(self, tmp_path: Path, name: str) -> None:
        io.write_volume(Volume(np.ones((4, 32, 32), np.float32)), tmp_path / name)
        back = io.read_volume(tmp_path / name)
        assert back.scale_um is None
        assert back.provenance is None

    @pytest.mark.parametrize("name", OUTPUTS)
    @pytest.mark.parametrize("sample", ["dendrites", "vessels"])
    def test_projections_carry_their_acquisition(
        self, tmp_path: Path, name: str, sample: str, real_crop: Callable[[str], Volume]
    ) -> None:
        volume = replace(real_crop(sample), scale_um=SCALE)
        stack, _ = volume.simulate(Acquisition(slices=5, stride=6, profile="gaussian", fwhm=3.5))
        io.write_projections(stack, tmp_path / name)
        back = io.read_projections(tmp_path / name)
        np.testing.assert_array_equal(back.data, stack.data)
        assert back.acquisition == stack.acquisition == io.written_acquisition(tmp_path / name)
        assert back.scale_um == (9.0, 0.25, 0.24)
        assert back.source_dtype == stack.source_dtype
        assert back.volume_scale_um == SCALE

    def test_an_acquisition_that_is_given_wins(self, tmp_path: Path, stack: ProjectionStack) -> None:
        io.write_projections(stack, tmp_path / "p.tif")
        assert io.read_projections(tmp_path / "p.tif", Acquisition(slices=2)).volume_shape[0] == 12

    def test_a_record_of_another_number_of_images_can_be_done_without(
        self, tmp_path: Path, stack: ProjectionStack
    ) -> None:
        wrong = ProjectionStack(stack.data, stack.acquisition)
        io.write_projections(wrong, tmp_path / "p.zarr")
        metadata = tmp_path / "p.zarr" / "zarr.json"
        metadata.write_text(metadata.read_text().replace('"count": 6', '"count": 7'))
        with pytest.raises(InvalidInput, match="choose the acquisition"):
            io.read_projections(tmp_path / "p.zarr")
        assert io.read_projections(tmp_path / "p.zarr", Acquisition(slices=6)).volume_shape[0] == 36

    def test_without_an_acquisition(self, tmp_path: Path, stack: ProjectionStack) -> None:
        np.save(tmp_path / "p.npy", stack.data)
        with pytest.raises(InvalidInput, match="--slices"):
            io.read_projections(tmp_path / "p.npy")
        assert io.written_acquisition(tmp_path / "p.npy") is None

    @pytest.mark.parametrize("name", ["p.ome.tif", "p.ome.zarr"])
    def test_one_that_cannot_be_used_can_be_done_without(
        self, tmp_path: Path, stack: ProjectionStack, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.setattr(Acquisition, "model_dump", lambda *_, **__: {"slices": -1})
        io.write_projections(stack, tmp_path / name)
        monkeypatch.undo()
        assert io.inspect(tmp_path / name).acquisition is None
        for use in (io.written_acquisition, lambda path: read_volumes([path], None, None), read_layers):
            with pytest.raises(InvalidInput, match="an acquisition that cannot be used"):
                use(tmp_path / name)
        with pytest.raises(InvalidInput, match=r"carries an acquisition that cannot be used .* give --slices"):
            io.read_projections(tmp_path / name)
        found = io.read_projections(tmp_path / name, Acquisition(slices=6))
        np.testing.assert_array_equal(found.data, stack.data)

    def test_hidden_projections_stay_hidden(self, tmp_path: Path, stack: ProjectionStack) -> None:
        io.write_projections(stack.without([2]), tmp_path / "p.zarr")
        back = io.read_projections(tmp_path / "p.zarr")
        assert back.acquisition.hidden == (2,)
        assert back.volume_shape == stack.volume_shape
        np.save(tmp_path / "all.npy", stack.data)  # with the one that is not wanted
        again = io.read_projections(tmp_path / "all.npy", back.acquisition)
        assert again.acquisition == back.acquisition
        np.testing.assert_array_equal(again.data, back.data)
        stated = io.read_projections(tmp_path / "p.zarr", Acquisition(slices=6))  # as the file says, but for the gap
        assert stated.acquisition == back.acquisition
        others = stack.without([3]).acquisition
        with pytest.raises(InvalidInput, match=r"p\.zarr lacks projection 3: leave it out here, too"):
            io.read_projections(tmp_path / "p.zarr", others)

    def test_ome_zarr_is_valid(self, tmp_path: Path, truth: Volume) -> None:
        io.write_volume(truth, tmp_path / "scaled.ome.zarr")
        io.write_volume(replace(truth, scale_um=None), tmp_path / "unscaled.ome.zarr")
        stores = sorted(tmp_path.iterdir())
        assert [store.name for store in stores] == ["scaled.ome.zarr", "unscaled.ome.zarr"]
        for store in stores:
            yaozarrs.validate_zarr_store(store)  # raises for what is not valid

    def test_ome_xml_is_as_the_schema_says(self, tmp_path: Path, truth: Volume) -> None:
        io.write_volume(replace(truth, provenance=PROVENANCE), tmp_path / "v.ome.tif")
        with tifffile.TiffFile(tmp_path / "v.ome.tif") as file:
            xml = file.ome_metadata
            assert xml is not None
            assert file.series[0].axes == "ZYX"
        assert f'Namespace="{tiff.NAMESPACE}"' in xml
        assert xml.index("<Image ") < xml.index("<StructuredAnnotations>")
        assert 'PhysicalSizeZ="1.0"' in xml or 'PhysicalSizeZ="1"' in xml

    def test_a_chunk_is_small_and_a_volume_has_several(self, tmp_path: Path) -> None:
        volume = Volume(np.random.default_rng(0).random((40, 300, 300), np.float32))
        io.write_volume(volume, tmp_path / "v.zarr")
        array = zarr.open_array(tmp_path / "v.zarr" / "0", mode="r")
        assert array.nchunks > 1
        np.testing.assert_array_equal(io.read_volume(tmp_path / "v.zarr").data, volume.data)


class TestExport:
    def test_floats_are_not_clipped(self, tmp_path: Path) -> None:
        data = np.linspace(-5, 70_000, 4 * 32 * 32).reshape(4, 32, 32)
        assert io.write_volume(Volume(data, source_dtype="uint16"), tmp_path / "v.tif", dtype="float32").mapping is None
        np.testing.assert_array_equal(io.read_volume(tmp_path / "v.tif").data, data.astype(np.float32))

    @pytest.mark.parametrize("name", ["v.tif", "v.zarr"])
    def test_integers_of_integers_keep_intensities(self, tmp_path: Path, name: str) -> None:
        data = np.full((3, 32, 32), 12.4, np.float32)
        data[0, 0, :3] = (-7, 70_000, 12.6)
        exported = io.write_volume(Volume(data, source_dtype="uint16"), tmp_path / name, dtype="uint16")
        assert (
            exported.mapping
            == "intensities kept, rounded to integers; 2 of 3072 values outside 0 to 65535 were clipped"
        )
        back = io.read_volume(tmp_path / name)
        assert list(back.data[0, 0, :4]) == [0, 65535, 13, 12]
        assert back.provenance is not None
        assert back.provenance["export"]["clipped"] == 2
        assert back.data.dtype == np.uint16

    @pytest.mark.parametrize("stated", ["foo", "f4,,", "i4,f4", "O", "U", "M8", "S3"])
    def test_a_dtype_that_is_none_does_not_count(self, tmp_path: Path, stated: str) -> None:
        io.write_volume(Volume(np.ones((4, 32, 32), np.float32), source_dtype=stated), tmp_path / "v.ome.tif")
        back = io.read_volume(tmp_path / "v.ome.tif")
        assert back.source_dtype == "float32"
        io.write_volume(back, tmp_path / "w.ome.tif", dtype="uint8")

    @pytest.mark.parametrize("dtype", ["uint8", "uint16"])
    def test_few_photons_are_not_rounded_away(self, tmp_path: Path, dtype: Any) -> None:
        data = np.linspace(-1.6, 18.7, 3 * 32 * 32, dtype=np.float32).reshape(3, 32, 32)
        exported = io.write_volume(Volume(data, source_dtype="uint8"), tmp_path / "v.tif", dtype=dtype)
        assert "value = " in (exported.mapping or "")
        assert np.abs(io.read_volume(tmp_path / "v.tif").data - data).max() < 0.05
        whole = data.clip(0).astype(np.uint8)
        io.write_volume(Volume(whole), tmp_path / "w.tif", dtype=dtype)
        with tifffile.TiffFile(tmp_path / "w.tif") as file:  # nothing to round
            np.testing.assert_array_equal(file.asarray(), whole)

    @pytest.mark.parametrize("dtype", ["uint8", "uint16"])
    def test_integers_of_floats_are_mapped_and_can_be_mapped_back(self, tmp_path: Path, dtype: Any) -> None:
        data = np.random.default_rng(0).normal(3, 10, (4, 32, 32)).astype(np.float32)
        volume = Volume(data, SCALE, provenance=PROVENANCE)
        exported = io.write_volume(volume, tmp_path / "v.ome.zarr", dtype=dtype)
        assert exported.mapping is not None
        assert "value = " in exported.mapping
        stored = zarr.open_array(tmp_path / "v.ome.zarr" / "0", mode="r")[:]
        assert (stored.dtype, stored.min(), stored.max()) == (dtype, 0, np.iinfo(dtype).max)
        back = io.read_volume(tmp_path / "v.ome.zarr")
        step = np.ptp(data) / np.iinfo(dtype).max
        assert np.abs(back.data - data).max() <= 0.51 * step
        io.write_volume(back, tmp_path / "again.ome.tif")
        np.testing.assert_array_equal(io.read_volume(tmp_path / "again.ome.tif").data, back.data)
        assert back.provenance is not None
        assert back.provenance["job"] == PROVENANCE["job"]

    def test_a_constant_volume_and_nan(self, tmp_path: Path) -> None:
        constant = Volume(np.full((3, 32, 32), 0.5, np.float32))
        io.write_volume(constant, tmp_path / "v.tif", dtype="uint8")
        assert (io.read_volume(tmp_path / "v.tif").data == 0.5).all()
        bad = Volume(np.full((3, 32, 32), np.nan, np.float32))
        with pytest.raises(InvalidInput, match="float32"):
            io.write_volume(bad, tmp_path / "w.tif", dtype="uint8")
        with pytest.raises(InvalidInput, match="uint16"):
            io.write_volume(constant, tmp_path / "w.tif", dtype="int8")  # type: ignore[arg-type]


class TestTiff:
    @pytest.mark.parametrize("axes", ["TCZYX", "TZCYX", "CTZYX", "ZTCYX", "CZTYX"])
    @pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
    def test_axis_orders_and_units(
        self, tmp_path: Path, hyperstack: np.ndarray, axes: str, compression: str | None
    ) -> None:
        path = tmp_path / "a.ome.tif"
        metadata = {"axes": axes, "PhysicalSizeX": 100, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 1e-4}
        metadata |= {"PhysicalSizeYUnit": "mm", "PhysicalSizeZ": 2}
        stored = hyperstack.transpose(["TCZYX".index(axis) for axis in axes])
        tifffile.imwrite(path, stored, photometric="minisblack", metadata=metadata, compression=compression)
        found = io.inspect(path)
        assert (found.axes, found.channels, found.times, found.dtype) == (axes, 3, 2, "uint8")
        for t, c in ((0, 0), (1, 2)):
            volume = io.read_volume(path, channel=c, time=t)
            np.testing.assert_array_equal(volume.data, hyperstack[t, c])
            assert volume.scale_um == (2.0, 0.1, 0.1)
        with pytest.raises(InvalidInput, match=r"3 channels: choose one, --channel 0 to 2"):
            io.read_volume(path, time=1)
        with pytest.raises(InvalidInput, match="no time 2"):
            io.read_volume(path, channel=0, time=2)

    def test_slices_written_one_by_one(self, tmp_path: Path) -> None:
        slices = np.random.default_rng(0).integers(0, 4000, (6, 40, 41)).astype(np.uint16)
        with tifffile.TiffWriter(tmp_path / "a.tif") as file:
            for image in slices:
                file.write(image)
        np.testing.assert_array_equal(io.read_volume(tmp_path / "a.tif").data, slices)
        with tifffile.TiffWriter(tmp_path / "b.tif") as file:
            file.write(slices)
            file.write(slices[0, :20])  # a thumbnail, say
        np.testing.assert_array_equal(io.read_volume(tmp_path / "b.tif").data, slices)

    def test_one_time_point_takes_the_memory_of_one(self, tmp_path: Path) -> None:
        """ImageJ describes the first image of a large stack alone, and puts the others behind it."""
        movie = np.random.default_rng(0).integers(0, 4000, (40, 6, 64, 64)).astype(">u2")
        path = tmp_path / "a.tif"
        said = "ImageJ=1.53\nimages=240\nslices=6\nframes=40\nhyperstack=true\n"
        tifffile.imwrite(path, movie[0, 0], byteorder=">", description=said, metadata=None)
        with path.open("ab") as file:
            file.write(movie.tobytes()[movie[0, 0].nbytes :])
        tracemalloc.start()
        volume = io.read_volume(path, time=7)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        np.testing.assert_array_equal(volume.data, movie[7])
        assert volume.data.dtype == np.uint16
        assert most < movie.nbytes / 4

    @pytest.mark.parametrize("axes", ["TZCYX", "ZCYX", "ZYX"])
    def test_imagej(self, tmp_path: Path, hyperstack: np.ndarray, axes: str) -> None:
        part = {"TZCYX": hyperstack.swapaxes(1, 2), "ZCYX": hyperstack[0].swapaxes(0, 1), "ZYX": hyperstack[0, 0]}
        stored = part[axes]
        metadata = {"axes": axes, "spacing": 1.5, "unit": "micron"}
        tifffile.imwrite(
            tmp_path / "a.tif", np.ascontiguousarray(stored), imagej=True, resolution=(4, 2), metadata=metadata
        )
        volume = io.read_volume(tmp_path / "a.tif", channel=0 if "C" in axes else None, time=0 if "T" in axes else None)
        np.testing.assert_array_equal(volume.data, hyperstack[0, 0])
        assert volume.scale_um == (1.5, 0.5, 0.25)

    @pytest.mark.parametrize(
        ("metadata", "resolution"),
        [({}, None), ({"spacing": 2.0}, (3, 3)), ({"unit": "um"}, (3, 3)), ({"spacing": 2.0, "unit": "pixel"}, (1, 1))],
    )
    def test_imagej_without_a_full_scale(self, tmp_path: Path, metadata: dict[str, Any], resolution: Any) -> None:
        data = np.zeros((4, 32, 32), np.uint8)
        tifffile.imwrite(
            tmp_path / "a.tif", data, imagej=True, resolution=resolution, metadata={"axes": "ZYX", **metadata}
        )
        assert io.read_volume(tmp_path / "a.tif").scale_um is None

    @pytest.mark.parametrize(("unit", "lateral"), [("um", 0.5), ("cm", 0.5), ("micron", 5e-5)])
    def test_imagej_that_counts_pixels_per_centimetre(self, tmp_path: Path, unit: str, lateral: float) -> None:
        """Beside a unit of um, as ImageJ reads it: FileOpener.decodeDescriptionString."""
        metadata = {"axes": "ZYX", "spacing": 6 if unit != "cm" else 6e-4, "unit": unit}
        data = np.zeros((4, 32, 32), np.uint8)
        written = {"imagej": True, "resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
        tifffile.imwrite(tmp_path / "a.tif", data, metadata=metadata, **written)
        assert io.read_volume(tmp_path / "a.tif").scale_um == pytest.approx((6, lateral, lateral))

    @pytest.mark.skipif(not hasattr(tifffile.TiffPageSeries, "get_axes"), reason="tifffile is new enough to do so")
    def test_series_as_tifffile_gives_them_since_2026_5_2(
        self, tmp_path: Path, hyperstack: np.ndarray, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        given = tifffile.TiffFile.series.func

        class Unsqueezed:
            def __init__(self, series: Any) -> None:
                self._series, self.axes, self.shape = series, series.get_axes(False), series.get_shape(False)

            def __getattr__(self, name: str) -> Any:
                if name in ("get_axes", "get_shape"):
                    raise AttributeError(name)
                return getattr(self._series, name)

        class Series(list[Any]):
            def __call__(self, *, squeeze: bool) -> list[Any]:
                assert not squeeze
                return [Unsqueezed(series) for series in self]

        monkeypatch.setattr(tifffile.TiffFile, "series", property(lambda file: Series(given(file))))
        for name, stored, axes in (("a.ome.tif", hyperstack[:1], "TCZYX"), ("b.ome.tif", hyperstack[0, 0], "ZYX")):
            tifffile.imwrite(tmp_path / name, stored, ome=True, metadata={"axes": axes})
            channel = 0 if "C" in axes else None
            np.testing.assert_array_equal(io.read_volume(tmp_path / name, channel=channel).data, hyperstack[0, 0])

    def test_plain_pages(self, tmp_path: Path, hyperstack: np.ndarray) -> None:
        with tifffile.TiffWriter(tmp_path / "a.TIF") as writer:
            for image in hyperstack[0, 0]:
                writer.write(image, contiguous=False, metadata=None, resolution=(300, 300), resolutionunit="INCH")
        volume = io.read_volume(tmp_path / "a.TIF")
        np.testing.assert_array_equal(volume.data, hyperstack[0, 0])
        assert (volume.name, volume.scale_um) == ("a", None)

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (np.zeros((5, 40, 48, 3), np.uint8), "colour"),
            (np.zeros((40, 48), np.uint8), "single image"),
            (np.zeros((5, 40, 48), np.complex64), "complex"),
            (np.zeros((5, 40, 48), bool), "boolean"),
        ],
    )
    def test_not_a_stack_of_grey_images(self, tmp_path: Path, data: np.ndarray, message: str) -> None:
        tifffile.imwrite(tmp_path / "a.tif", data, photometric="rgb" if data.ndim == 4 else "minisblack")
        with pytest.raises(InvalidInput, match=message):
            io.read_volume(tmp_path / "a.tif")

    def test_time_points_are_not_taken_for_slices(self, tmp_path: Path, hyperstack: np.ndarray) -> None:
        tifffile.imwrite(tmp_path / "a.tif", hyperstack[0, 0], imagej=True, metadata={"axes": "TYX"})
        with pytest.raises(InvalidInput, match="5 time points and no z axis"):
            io.read_volume(tmp_path / "a.tif")

    @pytest.mark.parametrize("kind", ["ome", "imagej", "plain", "zlib"])
    @pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.6, 0.97])
    def test_cut_short(self, tmp_path: Path, hyperstack: np.ndarray, kind: str, share: float) -> None:
        path = tmp_path / ("a.ome.tif" if kind in ("ome", "zlib") else "a.tif")
        metadata = None if kind == "plain" else {"axes": "ZYX"}
        compression = "zlib" if kind == "zlib" else None
        tifffile.imwrite(path, hyperstack[0, 0], imagej=kind == "imagej", metadata=metadata, compression=compression)
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
        with pytest.raises(InvalidInput, match="incomplete"):
            io.read_volume(path)

    def test_what_is_wrong_with_a_file_is_not_held_against_another(self, tmp_path: Path, truth: Volume) -> None:
        io.write_volume(truth, tmp_path / "good.ome.tif")
        during = threading.Event()

        def broken() -> list[str]:
            with tiff._overheard() as complaints:
                tifffile.logger().warning("corrupted page list")
                during.wait(10)
                return complaints

        with ThreadPoolExecutor(1) as another, tiff.opened(tmp_path / "good.ome.tif") as source:
            found = another.submit(broken)
            tifffile.logger().warning("of this file")
            during.set()
            assert found.result() == ["corrupted page list"]
            np.testing.assert_array_equal(source.stack(None, None), truth.data)
            with tiff._overheard() as inner:  # a reliability beside a volume
                tifffile.logger().warning("of both")
            assert inner == ["of both"]
        assert tifffile.logger().propagate

    def test_fewer_images_than_described(self, tmp_path: Path, hyperstack: np.ndarray) -> None:
        xml = tifffile.OmeXml()
        xml.addimage("uint8", (9, 40, 48), (9, 1, 1, 40, 48, 1), axes="ZYX")
        tifffile.imwrite(tmp_path / "a.ome.tif", hyperstack[0, 0], description=xml.tostring(), metadata=None)
        with pytest.raises(InvalidInput, match="incomplete"):
            io.read_volume(tmp_path / "a.ome.tif")

    def test_other_files_are_not_opened(self, tmp_path: Path, hyperstack: np.ndarray) -> None:
        xml = tifffile.OmeXml(UUID="1")
        xml.addimage("uint8", (5, 40, 48), (5, 1, 1, 40, 48, 1), axes="ZYX")
        tifffile.imwrite(tmp_path / "secret.ome.tif", hyperstack[0, 0], metadata=None)
        text = xml.tostring().replace(
            '<TiffData IFD="0" PlaneCount="5"/>',
            '<TiffData IFD="0" PlaneCount="5"><UUID FileName="secret.ome.tif">urn:uuid:2</UUID></TiffData>',
        )
        tifffile.imwrite(tmp_path / "a.ome.tif", hyperstack[0, 0], description=text, metadata=None)
        with pytest.raises(InvalidInput, match="never opened"):
            io.read_volume(tmp_path / "a.ome.tif")

    def test_entities_are_refused(self, tmp_path: Path, hyperstack: np.ndarray) -> None:
        xml = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "b">]><OME>&a;</OME>'
        tifffile.imwrite(tmp_path / "a.ome.tif", hyperstack[0, 0], description=xml, metadata=None)
        with pytest.raises(InvalidInput, match="document type"):
            io.read_volume(tmp_path / "a.ome.tif")


class TestNumpy:
    def test_read(self, tmp_path: Path, hyperstack: np.ndarray) -> None:
        np.save(tmp_path / "a.npy", np.asfortranarray(hyperstack[0, 0]))
        volume = io.read_volume(tmp_path / "a.npy")
        np.testing.assert_array_equal(volume.data, hyperstack[0, 0])
        assert volume.data.flags.c_contiguous

    def test_objects_are_refused(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", np.array([{}, {}, {}], object), allow_pickle=True)
        with pytest.raises(InvalidInput, match="Python objects"):
            io.read_volume(tmp_path / "a.npy")

    @pytest.mark.parametrize("length", [0, 4, 100, 5000])
    def test_cut_short(self, tmp_path: Path, hyperstack: np.ndarray, length: int) -> None:
        np.save(tmp_path / "a.npy", hyperstack[0, 0])
        (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:length])
        with pytest.raises(InvalidInput, match="incomplete"):
            io.read_volume(tmp_path / "a.npy")

    @pytest.mark.parametrize("shape", [(2, 5, 40, 48), (40,)])
    def test_other_numbers_of_axes(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        np.save(tmp_path / "a.npy", np.zeros(shape))
        with pytest.raises(InvalidInput, match=r"stack \(z, y, x\)"):
            io.read_volume(tmp_path / "a.npy")


def foreign_zarr(path: Path, data: np.ndarray, version: str, compressor: str = "auto") -> None:
    """An OME-Zarr as other software writes it: 5 axes, 2 levels."""
    axes = [{"name": "t", "type": "time"}, {"name": "c", "type": "channel"}]
    axes += [
        {"name": a, "type": "space", "unit": u}
        for a, u in (("z", "nanometer"), ("y", "micrometer"), ("x", "micrometer"))
    ]
    levels = [
        {
            "path": str(i),
            "coordinateTransformations": [{"type": "scale", "scale": [1, 1, 500, 0.25 * 2**i, 0.25 * 2**i]}],
        }
        for i in range(2)
    ]
    image = [{"axes": axes, "datasets": levels, "version": "0.4"}]
    wrapped = {"ome": {"version": "0.5", "multiscales": image}} if version == "0.5" else {"multiscales": image}
    group = zarr.create_group(path, zarr_format=3 if version == "0.5" else 2, attributes=wrapped)
    group.create_array("0", data=data, chunks=(1, 1, 5, 40, 48), compressors=compressor)
    group.create_array("1", data=np.ascontiguousarray(data[..., ::2, ::2]), compressors=compressor)


class Touch:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


class TestOmeZarr:
    @pytest.mark.parametrize("version", ["0.4", "0.5"])
    def test_of_other_software(self, tmp_path: Path, hyperstack: np.ndarray, version: str) -> None:
        path = tmp_path / "a.ome.zarr"
        foreign_zarr(path, hyperstack, version)
        found = io.inspect(path)
        assert (found.name, found.axes, found.channels, found.times) == ("a", "TCZYX", 3, 2)
        volume = io.read_volume(path, channel=1, time=1)
        np.testing.assert_array_equal(volume.data, hyperstack[1, 1])
        assert volume.scale_um == (0.5, 0.25, 0.25)

    @pytest.mark.parametrize("version", ["0.4", "0.5"])
    @pytest.mark.parametrize("length", [0, 10, 50, 9000])
    def test_a_chunk_cut_short(self, tmp_path: Path, hyperstack: np.ndarray, version: str, length: int) -> None:
        path = tmp_path / "a.ome.zarr"
        foreign_zarr(path, hyperstack, version)
        chunk = path / "0" / ("c/1/1/0/0/0" if version == "0.5" else "1.1.0.0.0")
        chunk.write_bytes(chunk.read_bytes()[:length])
        with pytest.raises(InvalidInput, match="incomplete"):
            io.read_volume(path, channel=1, time=1)

    def test_a_chunk_of_ours_that_is_missing(self, tmp_path: Path) -> None:
        io.write_volume(Volume(np.zeros((40, 300, 300), np.float32)), tmp_path / "a.zarr")
        chunks = [path for path in (tmp_path / "a.zarr" / "0" / "c").rglob("*") if path.is_file()]
        chunks[0].unlink()
        with pytest.raises(InvalidInput, match=f"1 of its {len(chunks)} chunks"):
            io.read_volume(tmp_path / "a.zarr")

    def test_array_or_metadata_missing(self, tmp_path: Path, truth: Volume) -> None:
        io.write_volume(truth, tmp_path / "a.zarr")
        shutil.rmtree(tmp_path / "a.zarr" / "0")
        with pytest.raises(InvalidInput, match="'0' is missing"):
            io.read_volume(tmp_path / "a.zarr")
        (tmp_path / "a.zarr" / "zarr.json").write_text("{ broken")
        with pytest.raises(InvalidInput, match="cannot be read"):
            io.read_volume(tmp_path / "a.zarr")
        (tmp_path / "a.zarr" / "zarr.json").unlink()
        with pytest.raises(InvalidInput, match="without a Zarr group"):
            io.read_volume(tmp_path / "a.zarr")

    def test_an_array_alone(self, tmp_path: Path, truth: Volume) -> None:
        io.write_volume(truth, tmp_path / "a.zarr")
        with pytest.raises(InvalidInput, match=r"is a single Zarr array, .*: choose the folder of the OME-Zarr image"):
            io.read_volume((tmp_path / "a.zarr" / "0").rename(tmp_path / "b.zarr"))

    def test_no_image_in_it(self, tmp_path: Path) -> None:
        zarr.create_group(tmp_path / "a.zarr", attributes={"bioformats2raw.layout": 3})
        with pytest.raises(InvalidInput, match="choose the image's folder"):
            io.read_volume(tmp_path / "a.zarr")

    @pytest.mark.parametrize("change", [{"filters": True}, {"compressor": True}, {"filters": True, "dtype": "|O"}])
    def test_pickled_chunks_are_never_decoded(self, tmp_path: Path, change: dict[str, Any]) -> None:
        image = {"axes": [{"name": a} for a in "zyx"], "datasets": [{"path": "0"}]}
        group = zarr.create_group(tmp_path / "a.zarr", zarr_format=2, attributes={"multiscales": [image]})
        group.create_array("0", data=np.zeros((4, 32, 32)), compressors=None)
        described = tmp_path / "a.zarr" / "0" / ".zarray"
        codec = {"filters": [{"id": "pickle", "protocol": 5}], "compressor": {"id": "pickle", "protocol": 5}}
        values = json.loads(described.read_text()) | {k: codec.get(k, v) for k, v in change.items()}
        described.write_text(json.dumps(values | {"fill_value": 0}))
        ran = tmp_path / "ran"
        (tmp_path / "a.zarr" / "0" / "0.0.0").write_bytes(pickle.dumps(Touch(ran)))
        with pytest.raises(InvalidInput, match=r"never loaded|cannot be read"):
            io.read_volume(tmp_path / "a.zarr")
        assert not ran.exists()
        pickle.loads((tmp_path / "a.zarr" / "0" / "0.0.0").read_bytes())
        assert ran.exists()  # the trap works

    def test_a_header_that_claims_more_chunks_than_can_be_counted(self, tmp_path: Path, truth: Volume) -> None:
        io.write_volume(truth, tmp_path / "a.zarr")
        header = tmp_path / "a.zarr" / "0" / "zarr.json"
        values = json.loads(header.read_text())
        values["shape"] = [10**6] * 3
        values["chunk_grid"]["configuration"]["chunk_shape"] = [1, 1, 1]
        header.write_text(json.dumps(values))
        with pytest.raises(InvalidInput, match="of its 1000000000000000000 chunks are missing"):
            io.inspect(tmp_path / "a.zarr")

    def test_scales_of_a_level_and_of_the_image_are_multiplied(self, tmp_path: Path, hyperstack: np.ndarray) -> None:
        path = tmp_path / "a.zarr"
        foreign_zarr(path, hyperstack, "0.5")
        header = json.loads((path / "zarr.json").read_text())
        image = header["attributes"]["ome"]["multiscales"][0]
        image["coordinateTransformations"] = [{"type": "scale", "scale": [1, 1, 2, 4, 4]}]
        (path / "zarr.json").write_text(json.dumps(header))
        assert io.inspect(path).scale_um == (1.0, 1.0, 1.0)

    def test_no_pixels_at_all(self, tmp_path: Path, hyperstack: np.ndarray) -> None:
        foreign_zarr(tmp_path / "a.zarr", hyperstack, "0.5")
        shutil.rmtree(tmp_path / "a.zarr" / "0" / "c")
        with pytest.raises(InvalidInput, match="no pixels at all"):
            io.inspect(tmp_path / "a.zarr")

    @pytest.mark.parametrize("name", ["../b.zarr/0", "/etc", "C:/b.zarr/0", "..\\b.zarr\\0", "\\\\host\\b\\0"])
    def test_arrays_outside_are_not_read(self, tmp_path: Path, truth: Volume, name: str) -> None:
        io.write_volume(truth, tmp_path / "b.zarr")
        image = {"axes": [{"name": a} for a in "zyx"], "datasets": [{"path": name}]}
        zarr.create_group(tmp_path / "a.zarr", attributes={"ome": {"version": "0.5", "multiscales": [image]}})
        with pytest.raises(InvalidInput, match="outside itself"):
            io.read_volume(tmp_path / "a.zarr")


class TestBadPlaces:
    def test_not_there_or_of_another_kind(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidInput, match="there is no file"):
            io.read_volume(tmp_path / "a.tif")
        (tmp_path / "a.png").touch()
        with pytest.raises(InvalidInput, match=r"\.tif, \.tiff, \.npy, \.zarr"):
            io.read_volume(tmp_path / "a.png")
        (tmp_path / "b.tif").mkdir()
        with pytest.raises(InvalidInput, match="folder"):
            io.read_volume(tmp_path / "b.tif")
        (tmp_path / "c.tif").write_bytes(b"certainly not a TIFF")
        with pytest.raises(InvalidInput, match="cannot be read"):
            io.read_volume(tmp_path / "c.tif")

    @pytest.mark.parametrize("name", ["a.npy", "a.ome.tif", "a.zarr"])
    def test_too_large_for_the_memory(
        self, tmp_path: Path, truth: Volume, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        np.save(tmp_path / name, truth.data) if name == "a.npy" else io.write_volume(truth, tmp_path / name)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
        with pytest.raises(TooLarge, match="crop it"):
            io.read_volume(tmp_path / name)
        assert io.inspect(tmp_path / name).shape == truth.shape

    def test_too_many_projections_are_refused_before_they_are_counted(self, tmp_path: Path) -> None:
        stack = ProjectionStack(np.zeros((4, 32, 32), np.float32), Acquisition(slices=6), name="p")
        io.write_projections(stack, tmp_path / "p.ome.tif")
        text = tifffile.tiffcomment(tmp_path / "p.ome.tif")
        many = text.replace("count&quot;: 4", "count&quot;: 20000000")
        assert many != text
        tifffile.tiffcomment(tmp_path / "p.ome.tif", many.encode())
        assert "cannot be used" in io.inspect(tmp_path / "p.ome.tif").unusable

    @pytest.mark.parametrize("dtype", [">u2", ">f4", "float16", "int64", "uint64"])
    def test_pixels_are_known_again_in_any_type(self, tmp_path: Path, dtype: str) -> None:
        data = np.random.default_rng(0).integers(0, 2000, (4, 32, 32)).astype(dtype)
        stack = ProjectionStack(data, Acquisition(slices=6), name="p")
        io.write_projections(stack, tmp_path / "p.ome.tif")
        assert io.read_projections(tmp_path / "p.ome.tif").sha256 == stack.sha256

    def test_outputs_that_are_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, message in (("a.png", "suffix"), ("nowhere/a.tif", "no folder"), ("a", "suffix")):
            with pytest.raises(InvalidInput, match=message):
                io.check_output(tmp_path / name, 0)
        with pytest.raises(InvalidInput, match=r"fo\\xe4\.tif is not valid UTF-8: choose another"):
            io.check_output(tmp_path / os.fsdecode(b"fo\xe4.tif"), 0)
        for name in ("a\x01b.ome.tif", "a\ufffeb.ome.zarr"):
            with pytest.raises(InvalidInput, match="holds characters that no metadata can"):
                io.check_output(tmp_path / name, 0)
        (tmp_path / "a.tif").touch()
        with pytest.raises(InvalidInput, match="--overwrite"):
            io.check_output(tmp_path / "a.tif", 0)
        assert io.check_output(tmp_path / "a.tif", 0, overwrite=True) == tmp_path / "a.tif"
        (tmp_path / "photos.zarr").mkdir()
        with pytest.raises(InvalidInput, match="no Zarr data"):
            io.check_output(tmp_path / "photos.zarr", 0, overwrite=True)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5_000_000))
        with pytest.raises(InvalidInput, match=r"needs 11\.0 MB and .* has 5\.0 MB left"):
            io.check_output(tmp_path / "b.tif", 10_000_000)

    def test_an_output_is_not_its_own_input(self, tmp_path: Path) -> None:
        (tmp_path / "a.zarr").mkdir()
        (tmp_path / "link.zarr").symlink_to(tmp_path / "a.zarr")
        for source in ("a.zarr", "link.zarr", "b/../a.zarr", "a.zarr/0"):
            with pytest.raises(InvalidInput, match="is the input itself"):
                io.check_distinct(tmp_path / "a.zarr", tmp_path / source)
        with pytest.raises(InvalidInput, match="would lie in the input"):
            io.check_distinct(tmp_path / "a.zarr" / "b.tif", tmp_path / "a.zarr")
        io.check_distinct(tmp_path / "a.zarr", tmp_path / "a.tif")
        io.check_distinct(tmp_path / "a.tif", tmp_path / "absent.tif")

    @pytest.mark.skipif(not Path("/sys").is_dir(), reason="there is no folder that not even root may write to")
    def test_a_folder_that_may_not_be_written_to(self) -> None:
        with pytest.raises(InvalidInput, match="may not be written to"):
            io.check_output("/sys/a.tif", 0)

    def test_checking_leaves_nothing_behind(self, tmp_path: Path) -> None:
        io.check_output(tmp_path / "a.tif", 0)
        assert not list(tmp_path.iterdir())

    def test_names_as_long_as_they_may_be(self, tmp_path: Path, truth: Volume) -> None:
        longest = "ä" * 113 + ".ome.tif"  # 234 bytes: with room for _reliability
        io.write_volume(truth, tmp_path / longest)
        assert io.read_volume(tmp_path / longest).shape == truth.shape
        for letters in (250, 300):
            with pytest.raises(InvalidInput, match="choose a shorter name"):
                io.check_output(tmp_path / ("a" * letters + ".tif"), 0)

    @pytest.mark.parametrize("name", [".tif", ".ome.tif", ".zarr"])
    def test_a_suffix_is_no_name(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(InvalidInput, match="no suffix that can be written"):
            io.check_output(tmp_path / name, 0)

    def test_an_output_that_has_come_meanwhile_is_not_replaced(self, tmp_path: Path) -> None:
        def write() -> None:
            with target.replacing(tmp_path / "a.tif") as temporary:
                temporary.write_text("ours")
                (tmp_path / "a.tif").write_text("theirs")

        with pytest.raises(InvalidInput, match="exists already"):
            write()
        assert (tmp_path / "a.tif").read_text() == "theirs"
        assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]

    def test_an_interruption_between_two_renamings(
        self, tmp_path: Path, truth: Volume, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        io.write_volume(truth, tmp_path / "a.zarr")
        renamed, replace_ = [], os.replace

        def interrupted(*paths: Any) -> None:
            renamed.append(paths)
            if len(renamed) == 2:
                raise KeyboardInterrupt
            replace_(*paths)

        monkeypatch.setattr(target, "os", SimpleNamespace(replace=interrupted))
        with pytest.raises(KeyboardInterrupt):
            io.write_volume(replace(truth, data=truth.data + 1), tmp_path / "a.zarr", overwrite=True)
        np.testing.assert_array_equal(io.read_volume(tmp_path / "a.zarr").data, truth.data)


@pytest.mark.parametrize(("name", "writer"), [("a.ome.tif", tiff), ("a.ome.zarr", ome_zarr)])
class TestAllOrNothing:
    def test_a_failure_leaves_what_was_there(
        self, tmp_path: Path, truth: Volume, name: str, writer: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        io.write_volume(truth, tmp_path / name)
        write = writer.write

        def full(path: Path, *rest: Any) -> None:
            write(path, *rest)
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(writer, "write", full)
        with pytest.raises(RunFailed, match="No space left"):
            io.write_volume(replace(truth, data=truth.data + 1), tmp_path / name, overwrite=True)
        np.testing.assert_array_equal(io.read_volume(tmp_path / name).data, truth.data)
        assert [path.name for path in tmp_path.iterdir()] == [name]

    def test_an_interruption_leaves_nothing(
        self, tmp_path: Path, truth: Volume, name: str, writer: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(path: Path, *_: Any) -> None:
            path.write_bytes(b"half")
            raise KeyboardInterrupt

        monkeypatch.setattr(writer, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            io.write_volume(truth, tmp_path / name)
        assert list(tmp_path.iterdir()) == []

    def test_overwriting(self, tmp_path: Path, truth: Volume, name: str, writer: Any) -> None:
        io.write_volume(truth, tmp_path / name)
        with pytest.raises(InvalidInput, match="exists already"):
            io.write_volume(truth, tmp_path / name)
        io.write_volume(replace(truth, data=truth.data + 1), tmp_path / name, overwrite=True)
        np.testing.assert_array_equal(io.read_volume(tmp_path / name).data, truth.data + 1)
        assert [path.name for path in tmp_path.iterdir()] == [name]
        assert writer is not None


class TestProfile:
    @pytest.mark.parametrize("text", ["1\n2\n3\n", "1,2,3", "# beam\n1; 2; 3 # end", "\ufeff1 2 3", "1.0,\n2e0,\n3,\n"])
    def test_read(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "p.csv").write_text(text, "utf-8")
        assert io.read_profile(tmp_path / "p.csv") == (1.0, 2.0, 3.0)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"1\nz\n", "'z' in line 2"),
            (b"", "0 weights"),
            (b"\xff\xfe\x00", "not a text file"),
            (b"1\n" * 1001, "1001 weights; 1 to 1000"),
            (b"1\n" * 2**17, "too long"),
            (b"0,2\n0,5\n0,2\n", r"several numbers in a line \(0,2\): .* a decimal point and no comma"),
            (b"0,2\n1\n0,2\n", "decimal point"),
            (b"0,2;0,5;1;0,2", "decimal point"),
            (b"0,1\t0,8\t0,1\n", "decimal point"),
            (b"1\n5,0E-01\n1", "decimal point"),
            (b"3\n0 0.1\n1 0.8\n2 0.1", r"\(0 0.1\): .* leave positions out"),
            (b"# z, weight\n0 0.5\n1 1.0\n2 0.5\n", "leave positions out"),
        ],
    )
    def test_refused(self, tmp_path: Path, content: bytes, message: str) -> None:
        (tmp_path / "p.csv").write_bytes(content)
        with pytest.raises(InvalidInput, match=message):
            io.read_profile(tmp_path / "p.csv")
        with pytest.raises(InvalidInput, match="cannot be read"):
            io.read_profile(tmp_path / "q.csv")


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(1, "µm"), (1, "μm"), (1, "um")], (1.0, 1.0, 1.0)),
        ([(100, "nm"), (0.0001, "mm"), (1e-7, "m")], (0.1, 0.1, 0.1)),
        ([(1000, "Å"), (1, "micron"), (1, "micrometer")], (0.1, 1.0, 1.0)),
        ([(1, "µm"), (1, "pixel"), (1, "µm")], None),
        ([(1, "µm"), (None, "µm"), (1, "µm")], None),
        ([(0, "µm"), (1, "µm"), (1, "µm")], None),
        ([(float("nan"), "µm"), (1, "µm"), (1, "µm")], None),
        ([(1, None), (1, None), (1, None)], None),
    ],
)
def test_units(sizes: Any, expected: Any) -> None:
    assert scale_um(sizes) == expected


def test_real_volumes_keep_their_scale(shared: Path) -> None:
    assert io.inspect(shared / "data" / "dendrites.ome.tif").scale_um == (1.0, 0.48, 0.48)
    assert io.inspect(shared / "data" / "vessels.ome.tif").scale_um is None
    assert io.read_volume(shared / "data" / "membranes.ome.tif").shape == (32, 128, 128)


@pytest.mark.parametrize(
    ("data", "reason"), [(np.zeros((9, 32, 32)), "is constant"), (np.full((9, 32, 32), np.nan), "NaN or infinite")]
)
def test_what_nothing_can_be_learned_of_is_left_out_of_a_folder(
    tmp_path: Path, truth: Volume, data: np.ndarray, reason: str
) -> None:
    np.save(tmp_path / "bad.npy", data)
    np.save(tmp_path / "good.npy", truth.data)
    found = read_volumes([tmp_path], None, None)
    assert [volume.name for volume in found.volumes.values()] == ["good"]
    assert len(found.left_out) == 1
    assert "bad.npy" in found.left_out[0]
    assert reason in found.left_out[0]
    with pytest.raises(InvalidInput, match=reason):
        read_volumes([tmp_path / "bad.npy"], None, None)
