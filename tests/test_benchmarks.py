"""The benchmark's case logic: what a table stands for, what is left out, resumed, labelled and trained on."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.events import exhaust
from napari_microdiffusion.hardware import resolve_precision
from napari_microdiffusion.presets import METHODS
from napari_microdiffusion.run import Job
from napari_microdiffusion.trust import held_out
from napari_microdiffusion.volume import ProjectionStack

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the benchmarks belong to the repository, not to the package

import benchmarks.__main__ as command  # noqa: E402
from benchmarks import base, photons, trust, volumes  # noqa: E402
from benchmarks.case import Case, measure, measure_held_out, stack_of  # noqa: E402
from benchmarks.curves import lines, write_curves  # noqa: E402
from benchmarks.report import keep, write_panels, write_table  # noqa: E402
from benchmarks.tables import Table, labels, tables  # noqa: E402

PRETRAINED = [name for name, (cls, _) in METHODS.items() if cls.pretrained]


TINY = {"steps": 1, "channels": 8, "batch": 1, "crop": 16}
"""Of a method that is trained on volumes."""


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Phantoms of a size for tests."""
    monkeypatch.setattr(volumes, "PHANTOM_SHAPE", (36, 40, 40))


@pytest.fixture
def depths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Volumes as deep as they are, where the data are not there too."""
    found = {"vessels": 96, "membranes": 32}
    monkeypatch.setattr("benchmarks.tables.depth_of", lambda name: found.get(name, 144))


def row_of(case: Case, **scores: float) -> dict[str, Any]:
    """A result."""
    scores = {"psnr": 30.0, "psnr_volume": 29.0, "ssim": 0.9, "dice": 0.8, **scores}
    about = {"device": "cpu", "precision": "float32", "versions": {"torch": "2"}, "array": case.key()}
    timing = {"reprojection_max_error": 1e-8, "z_smoothness": 1.0, "seconds": 1.0, "peak_memory_gb": 0.1}
    return {"case": case.model_dump(), "spec": case.spec().model_dump(mode="json"), **scores, **timing, **about}


# -- tables -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("depths")
class TestTables:
    def test_every_combination_once(self) -> None:
        table = Table(volumes=["vessels", "membranes"], methods=["linear", "cubic"], depths=[2, 4], seeds=[0, 1])
        cases = table.cases()
        assert len(cases) == len({case.key() for case in cases}) == 16
        assert table.left_out() == []

    def test_too_few_projections_are_left_out(self) -> None:
        table = Table(volumes=["vessels", "membranes", "phantom:nuclei"], methods=["linear", "cubic"], depths=[8, 24])
        assert table.left_out() == [("membranes", 24)]
        assert len(table.cases()) == 10
        assert [case.volume for case in table.model_copy(update={"depths": [3], "stride": 12}).cases()] == [
            *["vessels"] * 2,
            *["phantom:nuclei"] * 2,
        ]

    def test_settings_of_a_method_and_of_all(self) -> None:
        methods = ["linear", {"method": "inr", "settings": {"layers": 2}}]
        table = Table(
            volumes=["vessels"], methods=methods, settings=[{"consistency": "none"}, {"consistency": "final"}]
        )
        assert [(case.method, case.settings) for case in table.cases()] == [
            ("linear", {"consistency": "none"}),
            ("linear", {"consistency": "final"}),
            ("inr", {"layers": 2, "consistency": "none"}),
            ("inr", {"layers": 2, "consistency": "final"}),
        ]

    @pytest.mark.parametrize("name", tables())
    def test_each_of_cases_toml_has_cases(self, name: str) -> None:
        table = tables()[name]
        assert table.cases()
        assert table.slow or name == "preview"
        if table.curve == "gamma":
            assert all("gamma" in case.settings for case in table.cases())

    def test_labels_name_what_differs(self) -> None:
        settings: list[dict[str, Any]] = [{}, {"layers": 2, "skip": True}, {"layers": 3, "skip": True}]
        cases = [Case(volume="v", method="inr", settings=each) for each in settings]
        cases.append(Case(volume="v", method="linear", settings={"consistency": "none"}))  # alone: goes without saying
        assert labels(cases) == ["inr", "inr, layers 2, skip on", "inr, layers 3, skip on", "linear"]
        assert labels(cases[1:]) == ["inr, layers 2", "inr, layers 3", "linear"]


# -- resuming ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("depths")
class TestResume:
    @pytest.fixture
    def measured(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Case]:
        """Cases that were measured, in place of measuring them."""
        done: list[Case] = []

        def run_case(case: Case, _: Path) -> dict[str, Any]:
            if case.method == "axial":
                raise command.CaseFailed("no luck")
            done.append(case)
            row = row_of(case)
            del row["case"], row["array"]
            return row

        monkeypatch.setattr(command, "run_case", run_case)
        monkeypatch.setattr(command, "RESULTS", tmp_path)
        monkeypatch.setattr(command, "KEPT", tmp_path / "kept")
        return done

    table = Table(volumes=["vessels", "membranes"], methods=["linear", "cubic"])

    def run(self, table: Table | None = None, fresh: bool = False, methods: tuple[str, ...] = ()) -> list[str]:
        return command.run_table("trial", table or self.table, [], list(methods), fresh)

    def test_what_has_a_result_is_not_measured_again(self, measured: list[Case]) -> None:
        self.run(methods=("linear",))
        assert len(measured) == 2
        self.run()
        assert len(measured) == 4
        self.run()
        assert len(measured) == 4
        self.run(fresh=True)
        assert len(measured) == 8

    def test_a_failure_is_told_and_keeps_nothing_else_back(self, measured: list[Case]) -> None:
        failed = self.run(Table(volumes=["vessels"], methods=["axial", "linear"]))
        assert [case.method for case in measured] == ["linear"]
        assert len(failed) == 1
        assert "no luck" in failed[0]

    def test_a_setting_that_is_new_counts_as_its_default(self, measured: list[Case], tmp_path: Path) -> None:
        table = Table(volumes=["vessels"], methods=["inr"])
        self.run(table)
        store = tmp_path / "trial.json"
        (row,) = json.loads(store.read_text()).values()
        del row["spec"]["coherence"]
        store.write_text(json.dumps({"of before": row}))
        self.run(table)
        assert len(measured) == 1
        assert list(json.loads(store.read_text())) == [measured[0].key()]
        row["spec"]["layers"] += 1  # a default that was another then
        store.write_text(json.dumps({"of before": row}))
        self.run(table)
        assert len(measured) == 2

    def test_a_held_out_score_is_added_to_the_result_that_there_is(
        self, measured: list[Case], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        table, asked = Table(volumes=["vessels"], methods=["hash_inr"]), []

        def run_held_out(case: Case) -> dict[str, float]:
            asked.append(case.method)
            if len(asked) == 1:
                raise command.CaseFailed("no luck")
            return {"held_out_psnr": 20.0}

        monkeypatch.setattr(command, "run_held_out", run_held_out)
        failures = [command.run_table("trial", table, [], [], held_out=True) for _ in range(3)]
        assert [len(failed) for failed in failures] == [1, 0, 0]
        assert asked == ["hash_inr"] * 2
        assert len(measured) == 1  # kept although its held-out score failed
        (row,) = json.loads((tmp_path / "trial.json").read_text()).values()
        assert (row["held_out_psnr"], row["psnr"]) == (20.0, 30.0)
        command.run_table("trial", table, [], [], fresh=True, held_out=True)
        assert len(asked) == 3
        assert len(measured) == 2

    @pytest.mark.parametrize(
        ("changes", "same"),
        [
            ({}, True),
            ({"settings": {"encoding": "gaussian"}}, True),  # as it is anyhow
            *(({key: value}, False) for key, value in [("seed", 1), ("slices", 4), ("profile", "point")]),
            ({"settings": {"steps": 21}}, False),
            ({"volume": "axons"}, False),
        ],
    )
    @pytest.mark.parametrize("listed", [False, True])
    def test_a_held_out_score_is_not_measured_twice(
        self, tmp_path: Path, changes: dict[str, Any], same: bool, listed: bool
    ) -> None:
        case = Case(volume="vessels", method="inr")
        row = row_of(case, held_out_psnr=24.1) | {"held_out_commit": "abc"}
        keep(tmp_path / "other.json", {"vessels": [row]} if listed else {case.key(): row})  # listed: as trust has them
        asked = case.model_copy(update=changes)
        keep(tmp_path / "trial.json", {asked.key(): row_of(asked)})
        (found,) = command.results_of([asked], tmp_path / "trial.json").values()
        assert (found.get("held_out_psnr"), found.get("held_out_commit")) == ((24.1, "abc") if same else (None, None))


# -- base models ------------------------------------------------------------------------------


class TestBase:
    def test_never_the_volume_scored(self) -> None:
        assert "phantom:nuclei:1" not in volumes.others("phantom:nuclei:1")
        names = volumes.others("phantom:nuclei")
        assert len(names) == volumes.PHANTOMS_TO_TRAIN_ON
        hashes = {name: volumes.sha256_of(name) for name in names[:1]}
        volumes.check_left_out("phantom:nuclei", hashes)
        with pytest.raises(AssertionError, match="trained on it"):
            volumes.check_left_out("phantom:nuclei", {"phantom:nuclei": ""})
        with pytest.raises(AssertionError, match="trained on it"):  # the same pixels under another name
            volumes.check_left_out("phantom:nuclei", {"copy": volumes.sha256_of("phantom:nuclei:0")})

    @pytest.mark.usefixtures("shared")
    def test_real_volumes_are_left_out_one_by_one(self) -> None:
        for name in ("membranes", "vessels"):
            found = volumes.others(name)
            assert len(found) == 5
            assert name not in found

    @pytest.mark.parametrize("name", PRETRAINED)
    def test_shared_by_cases_that_differ_in_sampling_alone(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(base, "sha256_of", str.upper)
        same, other = (
            [{}, {"settings": {"consistency": "none"}}],
            [
                {"settings": {"steps": 7}},
                {"profile": "point"},
                {"slices": 4},
                {"seed": 1},
                {"volume": "phantom:vessels"},
            ],
        )
        keys = [base.key(Case(**{"volume": "phantom:nuclei", "method": name, **each})) for each in same + other]
        assert keys[0] == keys[1]
        assert len(set(keys)) == 1 + len(other)

    @pytest.mark.usefixtures("shared", "small")
    def test_neither_trained_nor_scored_on_the_volume_itself(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        case = Case(volume="phantom:nuclei", method="recurrent_mz", settings=TINY, profile="point", device="cpu")
        base.train(case, tmp_path / "base.safetensors")
        assert base.record_of(tmp_path / "base.safetensors")["trained_on"] == volumes.others(case.volume)
        assert measure(case, base=tmp_path / "base.safetensors")["psnr"] > 0
        itself = case.model_copy(update={"volume": "phantom:nuclei:1"})  # one of those trained on
        with pytest.raises(AssertionError, match="trained on it"):
            measure(itself, base=tmp_path / "base.safetensors")
        monkeypatch.setattr(base, "others", lambda volume: [volume, "phantom:nuclei:2"])
        with pytest.raises(AssertionError, match="trained on it"):
            base.train(case, tmp_path / "leaking.safetensors")
        assert not (tmp_path / "leaking.safetensors").exists()


# -- one case ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("shared", "small")
def test_what_is_measured(tmp_path: Path) -> None:
    case = Case(volume="phantom:vessels", method="linear")
    row = measure(case, tmp_path / "v.npy")
    data, truth = np.load(tmp_path / "v.npy"), volumes.truth_of(case.volume, case.slices)
    rules = volumes.protocol()
    expected = rules.score(truth, data, rules.project(truth, 6, "uniform"), 6, "uniform")
    assert {key: row[key] for key in expected} == expected
    steps = [np.abs(volume[1:] - volume[:-1]).mean() for volume in (data, truth)]
    assert row["z_smoothness"] == pytest.approx(steps[0] / steps[1], rel=1e-5)
    assert 5 < row["held_out_psnr"] < row["psnr"]
    assert (row["device"], row["spec"]["kind"]) == ("cpu", "linear")
    assert row["commit"]
    assert row["threads"] >= 1
    assert row["seconds"] >= sum(row["stages"].values()) - 0.1 * len(row["stages"])


@pytest.mark.usefixtures("shared", "small")
def test_projections_with_gaps_between_them(tmp_path: Path) -> None:
    case = Case(volume="phantom:vessels", method="conservative", slices=3, stride=6)
    row = measure(case, tmp_path / "v.npy")
    data, truth = np.load(tmp_path / "v.npy"), case.truth()
    prepared = volumes.truth_of(case.volume, 1)
    np.testing.assert_array_equal(truth, prepared[: (len(prepared) - 3) // 6 * 6 + 3])
    starts = range(0, len(truth), 6)
    made = np.stack([truth[start : start + 3].mean(0) for start in starts])
    np.testing.assert_allclose(stack_of(case, truth).data, made, atol=1e-6)
    again = np.stack([data[start : start + 3].mean(0) for start in starts])
    assert row["reprojection_max_error"] == pytest.approx(np.abs(again - made).max(), abs=1e-6)
    assert row["psnr"] == volumes.protocol().score(truth, data)["psnr"]
    assert case.key() != Case(volume="phantom:vessels", method="conservative", slices=3).key()


@pytest.mark.usefixtures("shared", "small")
def test_a_held_out_score_that_takes_training_is_measured_by_itself() -> None:
    case = Case(volume="phantom:vessels", method="hash_inr", settings={"steps": 2}, device="cpu")
    assert "held_out_psnr" not in measure(case)
    found = measure_held_out(case)
    stack = stack_of(case, volumes.truth_of(case.volume, case.slices))
    job = Job(method=case.spec(), acquisition=stack.acquisition, device="cpu")
    assert found["held_out_psnr"] == pytest.approx(exhaust(held_out(job, stack)).psnr, abs=1e-6)
    assert found["held_out_commit"]
    assert (found["held_out_device"], found["held_out_precision"]) == ("cpu", resolve_precision("auto", "cpu"))
    assert found["held_out_seconds"] > 0


def test_peak_memory_is_that_of_the_case_alone() -> None:
    """And not of the process that starts it, which may hold more."""
    held = np.ones(50_000_000)  # 400 MB
    code = "from benchmarks.case import _peak_memory; print(_peak_memory('cpu')['peak_memory_gb'])"
    alone = float(subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True).stdout)
    assert 0.02 < alone < 0.3
    assert held.nbytes > 0.3e9


# -- does the held-out score rank as the truth does ---------------------------------------------


@pytest.mark.usefixtures("shared")
class TestTrust:
    @pytest.fixture(autouse=True)
    def few(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Recipes that need no training."""
        monkeypatch.setattr(trust, "RECIPES", [("linear", {}), ("cubic", {})])

    def test_what_has_a_result_is_left_as_it_is_unless_asked_for_again(self) -> None:
        partly, whole = (list(rows) for rows in trust.recipes("membranes", [], []))
        assert len(partly) == 1
        assert [(row["method"], row["settings"]) for row in whole] == trust.RECIPES
        assert all(row["held_out_psnr"] < row["psnr"] for row in whole)
        old = [row | {"psnr": 0.0} for row in whole]
        *_, same = trust.recipes("membranes", old, [])
        assert same == old
        *_, again = trust.recipes("membranes", old, ["cubic"])
        assert again == [old[0], whole[1]]

    def test_the_table_has_both_scores_and_their_correlation(self) -> None:
        rows = [
            {"method": name, "settings": {}, "psnr": 20.0 + number, "held_out_psnr": 10.0 - number} | missed
            for number, (name, missed) in enumerate(
                {"linear": {"reprojection_rms": 0.3}, "cubic": {"reprojection_rms": 0.0}}.items()
            )
        ]
        table = trust.report({"membranes": rows, "vessels": [rows[0], rows[1] | {"held_out_psnr": 11.0}]})
        assert "| linear | 20.00 / 10.00 | 20.00 / 10.00 |" in table
        assert "| rank correlation | -1.00 | 1.00 |" in table
        assert "| with the reprojection error | 1.00 | 1.00 |" in table
        assert "Mean over the volumes 0.00; with the reprojection error 1.00" in table

    def test_missing_what_was_shown_is_added_to_missing_what_was_hidden(self) -> None:
        assert trust.both({"held_out_psnr": 20.0, "reprojection_rms": 0.1}) == pytest.approx(10 * np.log10(50))
        assert trust.both({"held_out_psnr": 20.0, "reprojection_rms": 0.0}) == pytest.approx(20.0)


# -- few photons -------------------------------------------------------------------------------


def test_photons_are_counted_on_the_same_scale() -> None:
    light = np.linspace(0, 1, 3 * 64 * 64, dtype=np.float32).reshape(3, 64, 64)
    found = photons.counted(ProjectionStack(light, Acquisition(slices=6)), 20).data
    assert found.mean() == pytest.approx(0.5, abs=0.01)
    assert np.square(found - light).mean() == pytest.approx(0.5 / 20, rel=0.05)  # the variance of counts is their mean
    np.testing.assert_allclose(found * 20, np.round(found * 20), atol=1e-5)


@pytest.mark.usefixtures("shared")
def test_few_photons_with_and_without_denoising(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photons, "PHOTONS", {"conservative": (20,)})
    monkeypatch.setattr(photons, "RESULTS", tmp_path)
    monkeypatch.setattr(photons, "STORE", tmp_path / "photons.json")
    monkeypatch.setattr(sys, "argv", ["photons", "--volumes", "membranes"])
    photons.main()
    found = json.loads((tmp_path / "photons.json").read_text())
    raw, quiet = (found[f"membranes, conservative, 20{which}"] for which in ("", ", denoised"))
    assert quiet["psnr"] > raw["psnr"] + 3
    assert quiet["held_out_psnr"] > raw["held_out_psnr"]
    assert f"{raw['psnr']:.1f} → {quiet['psnr']:.1f}" in (tmp_path / "photons.md").read_text()
    marked = {key: row | {"psnr": 0.0} for key, row in found.items()}
    (tmp_path / "photons.json").write_text(json.dumps(marked))
    photons.main()
    assert json.loads((tmp_path / "photons.json").read_text()) == marked


# -- reports ----------------------------------------------------------------------------------


def test_results_are_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    store = tmp_path / "trial.json"
    for rows in ({"a": {"psnr": 1.0}}, {"a": {"psnr": 2.0}}):
        keep(store, rows)
        assert json.loads(store.read_text()) == rows
    with pytest.raises(TypeError):
        keep(store, {"a": {"psnr": 3.0}, "b": object()})
    assert json.loads(store.read_text()) == {"a": {"psnr": 2.0}}
    assert list(tmp_path.iterdir()) == [store]


@pytest.mark.usefixtures("depths")
def test_tables_say_what_they_are_of(tmp_path: Path) -> None:
    methods = ["linear", {"method": "inr", "settings": {"layers": 2}}, {"method": "inr", "settings": {"layers": 3}}]
    table = Table(title="A trial.", volumes=["membranes", "phantom:nuclei"], methods=methods, depths=[6, 12])
    rows = [row_of(case) for case in table.cases()]
    rows[0]["base_seconds"] = 61.0
    write_table(tmp_path / "trial", rows, table)
    text = (tmp_path / "trial.md").read_text()
    assert text.startswith("A trial.\n\n| volume | n | method")
    for part in ("inr, layers 2", "base, seconds", "| 61 |", "membranes at n = 12", "Phantoms are"):
        assert part in text
    assert "held-out" not in text  # no row has such a score
    assert "![" not in text  # nor is there a picture
    (tmp_path / "trial_phantom_nuclei_12.png").touch()
    rows[0]["held_out_psnr"] = 21.0
    rows[0] |= {"commit": "abc1234", "threads": 2, "instructions": "AVX2", "stages": {"Training": 12.5}}
    write_table(tmp_path / "trial", rows, table)
    text = (tmp_path / "trial.md").read_text()
    assert "![phantom:nuclei, n = 12](trial_phantom_nuclei_12.png)" in text
    for part in ("held-out PSNR (dB)", "| 21.00 |", "Without a held-out score"):
        assert part in text
    found = list(csv.DictReader((tmp_path / "trial.csv").read_text().splitlines()))
    assert [row["settings"] for row in found[:3]] == ["{}", '{"layers": 2}', '{"layers": 3}']
    assert {row["psnr"] for row in found} == {"30.0"}
    first, second = ([row[key] for key in ("stages", "commit", "threads", "instructions")] for row in found[:2])
    assert first == ["Training 12.5 s", "abc1234", "2", "AVX2"]
    assert second == [""] * 4
    assert "Measured with commit abc1234; some rows before commits were noted." in text


@pytest.mark.usefixtures("depths")
def test_panels_and_curves_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = np.random.default_rng(0).random((24, 32, 32)).astype(np.float32)
    monkeypatch.setattr("benchmarks.case.truth_of", lambda *_: truth)
    table = Table(curve="slices", volumes=["phantom:nuclei"], methods=["linear", "cubic"], depths=[4, 6], seeds=[0, 1])
    rows = [row_of(case, psnr=40.0 - case.slices + case.seed) for case in table.cases()]
    for row in rows:
        np.save(tmp_path / f"{row['array']}.npy", truth)
    write_panels(tmp_path / "trial", rows, tmp_path)
    assert {path.name for path in tmp_path.glob("*.png")} == {"trial_phantom_nuclei.png", "trial_phantom_nuclei_4.png"}
    (tmp_path / f"{rows[0]['array']}.npy").unlink()
    (tmp_path / "trial_phantom_nuclei_4.png").write_text("of before")
    write_panels(tmp_path / "trial", rows, tmp_path)
    assert "trial_phantom_nuclei_4.png is not drawn anew: no volume at hand of linear" in capsys.readouterr().out
    assert (tmp_path / "trial_phantom_nuclei_4.png").read_text() == "of before"
    mean = {4: 36.5, 6: 34.5}
    assert lines(rows, "slices", "psnr") == {(name, "phantom:nuclei"): mean for name in ("linear", "cubic")}
    pytest.importorskip("matplotlib")
    write_curves(tmp_path / "trial.png", rows, table)
    assert (tmp_path / "trial.png").stat().st_size > 1000


def test_lines_over_a_setting_are_not_labelled_by_it() -> None:
    cases = [Case(volume="v", method="microdiffusion", settings={"gamma": gamma}) for gamma in (0.5, 0.0)]
    rows = [row_of(case, psnr=case.settings["gamma"]) for case in cases]
    assert lines(rows, "gamma", "psnr") == {("microdiffusion", "v"): {0.0: 0.0, 0.5: 0.5}}
