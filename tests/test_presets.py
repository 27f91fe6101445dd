"""Named specs: every preset of every method, overrides, and where the paper preset's values come from."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from napari_microdiffusion.events import InvalidInput
from napari_microdiffusion.methods import Cubic, Guided, Inr, Linear
from napari_microdiffusion.methods.guided import Prior
from napari_microdiffusion.presets import (
    METHODS,
    PRESETS,
    _presets,
    name_of,
    override,
    parse_value,
    sources,
    spec,
    table_of,
)
from napari_microdiffusion.settings import settings_of


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", METHODS)
def test_every_preset_of_every_method(name, preset):
    method = spec(name, preset)
    cls, prior = METHODS[name]
    assert type(method) is cls
    assert type(method).model_validate(method.model_dump()) == method
    assert getattr(getattr(method, "prior", None), "kind", None) == prior
    assert name_of(method) == name


def test_names_are_told_by_the_prior():
    assert name_of(Guided(prior=Cubic())) == "cubic_diffusion"
    assert name_of(Guided(prior=Inr(width=8))) == "microdiffusion"


def test_every_prior_that_there_may_be_makes_a_method_with_a_name():
    union, _ = get_args(Prior)
    assert {name_of(Guided(prior=prior())) for prior in get_args(union)} == {
        name for name, (cls, prior) in METHODS.items() if cls is Guided and prior is not None
    }


def test_names_are_told_by_what_is_fixed():
    assert name_of(Inr(encoding="hash")) == name_of(spec("inr", overrides={"encoding": "hash"})) == "hash_inr"
    assert name_of(spec("hash_inr", overrides={"encoding": "sincos"})) == "inr"
    assert name_of(Guided(prior=Inr(encoding="hash"))) == "microdiffusion"


@pytest.mark.parametrize("preset", PRESETS)
def test_a_method_of_the_same_class_has_presets_of_its_own(preset):
    method, other = spec("hash_inr", preset), spec("inr", preset)
    assert isinstance(method, Inr)
    assert isinstance(other, Inr)
    assert (method.encoding, other.encoding) == ("hash", "gaussian")
    assert (method.layers, method.width, method.learning_rate) == (2, 64, 1e-2)
    assert method.width <= other.width


def test_the_prior_of_a_preset_is_that_presets():
    for preset in PRESETS:
        method = spec("microdiffusion", preset)
        assert isinstance(method, Guided)
        assert method.prior == spec("inr", preset)


def test_preview_is_what_the_methods_are_by_themselves():
    assert spec("inr") == spec("inr", "preview") == Inr()
    assert spec("interpolation_diffusion") == Guided(prior=Linear())


def test_standard_and_paper_are_larger():
    for name, key in [("inr", "features"), ("naive_diffusion", "channels"), ("naive_diffusion", "sampling_steps")]:
        preview, standard, paper = (getattr(spec(name, preset), key) for preset in PRESETS)
        assert preview < standard <= paper


@pytest.mark.parametrize("name", ["axial", "axial_posterior"])
def test_methods_of_ours_have_no_paper_and_are_as_large_as_can_be(name):
    assert spec(name, "paper") == spec(name, "standard") != spec(name, "preview")


@pytest.mark.parametrize(("name", "preset"), [("guided", "preview"), ("Linear", "preview"), ("inr", "fast")])
def test_unknown_names_are_answered_with_the_known(name, preset):
    known = ", ".join(METHODS if name != "inr" else PRESETS)
    with pytest.raises(InvalidInput, match=f"is called '{'fast' if name == 'inr' else name}'; there are {known}"):
        spec(name, preset)


# -- overrides ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("consistency", "final"),
        ("gamma", 0.25),
        ("multipliers", (1, 4)),
        ("epochs", 7),
        ("attention", True),
        ("prior.bandwidth_z", 2.5),
        ("prior.consistency", "none"),
        ("prior.epochs", None),
    ],
)
def test_overrides_change_one_setting(path, value):
    plain = spec("microdiffusion", "paper")
    method = override(plain, {path: value})
    node: Any = method
    for part in path.split("."):
        node = getattr(node, part)
    assert node == value
    changed = {s.path for s in settings_of("microdiffusion") if _at(method, s.path) != _at(plain, s.path)}
    assert changed <= {path}
    assert spec("microdiffusion", "paper", {path: value}) == method


def _at(method: Any, path: str) -> Any:
    for part in path.split("."):
        method = getattr(method, part)
    return method


@pytest.mark.parametrize(
    ("name", "overrides", "told"),
    [
        ("naive_diffusion", {"gamma": 0.3}, "gamma would do nothing on this naive_diffusion: leave it out"),
        (
            "naive_diffusion",
            {"pairing": "slice", "gamma": 0.3},
            "gamma and pairing would .*: leave them out",
        ),
        ("microdiffusion", {"prior": None, "gamma": 0.3}, "gamma would do nothing on this naive_diffusion"),
        ("microdiffusion", {"injection": "condition", "gamma": 0.3}, "gamma would do nothing on this microdiffusion"),
        ("microdiffusion", {"condition": "cross_attention", "attention": True}, "attention would"),
        ("microdiffusion", {"prior.octaves": 5}, r"prior\.octaves would do nothing on this microdiffusion"),
        ("inr", {"epochs": 3, "steps": 5}, "steps would .* depends on, too .napari-microdiffusion methods inr"),
        ("inr", {"encoding": "sincos", "features": 64}, "features would"),
        ("axial_diffusion", {"prior.fine_tuning": 9}, r"prior\.fine_tuning would do nothing on this axial_diffusion"),
        ("hash_inr", {"bandwidth_z": 1.0}, "bandwidth_z would do nothing on this hash_inr"),
        ("axial", {"wavelength_nm": 600.0}, "wavelength_nm would"),
        ("axial", {"sigma": 1.0, "objective_na": 0.8}, "objective_na would"),
        ("sparse3diff", {"align": False, "align_rate": 1e-4}, "align_rate would"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(name, overrides, told):
    with pytest.raises(InvalidInput, match=told):
        spec(name, overrides=overrides)
    for path in {"gamma", "pairing"} & overrides.keys():
        spec("microdiffusion", overrides={path: overrides[path]})


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("inr", {"encoding": "hash", "levels": 4}),
        ("microdiffusion", {"prior.encoding": "sincos", "prior.octaves": 5}),
        ("axial", {"objective_na": 0.8, "wavelength_nm": 600.0, "refractive_index": 1.5}),
        ("sparse3diff", {"align_rate": 1e-4}),
    ],
)
def test_with_what_they_depend_on_they_are_taken(name, overrides):
    method = spec(name, overrides=overrides)
    assert {path: _at(method, path) for path in overrides} == overrides


def test_a_preset_itself_may_state_what_does_nothing():
    method = spec("inr", "paper", {"consistency": "final"})
    assert "steps" in method.idle
    assert method.steps == spec("inr", "paper").steps


def test_the_original_stays_as_it_is():
    plain = spec("microdiffusion")
    override(plain, {"prior.width": 8, "multipliers": [2]})
    assert plain == spec("microdiffusion")


def test_another_prior():
    assert name_of(spec("microdiffusion", overrides={"prior": {"kind": "cubic"}})) == "cubic_diffusion"
    assert name_of(spec("microdiffusion", overrides={"prior": None})) == "naive_diffusion"


@pytest.mark.parametrize("path", ["nonsense", "prior.nonsense", "gamma.x", "kind", "prior.kind", "", "prior."])
def test_unknown_settings_are_answered_with_the_known(path):
    with pytest.raises(InvalidInput) as caught:
        spec("microdiffusion", overrides={path: 1})
    assert f"microdiffusion has no setting {path!r}" in str(caught.value)
    for setting in settings_of("microdiffusion"):
        assert setting.path in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value", "must"),
    [
        ("gamma", 1.5, "must be less than or equal to 1"),
        ("gamma", -0.1, "greater than or equal to 0"),
        ("gamma", float("nan"), "0|1|finite"),
        ("learning_rate", 0, "greater than 0"),
        ("steps", 2.5, "must be a whole number"),
        ("steps", "many", "must be a whole number"),
        ("channels", 12, "multiple of 8"),
        ("sampler", "euler", "'ddim' or 'ddpm'"),
        ("multipliers", [], "at least 1 item"),
        ("multipliers", [1, 0], "greater than or equal to 1"),
        ("multipliers", [1, -2], "greater than or equal to 1"),
        ("prior.bandwidth_z", 0, "greater than 0"),
        ("prior.neighbouring", "some", "'gaussian', 'uniform' or 'none'"),
        ("prior", {"kind": "magic"}, r"there is no such kind \('linear', 'cubic', 'conservative', 'inr'"),
        ("prior", {"steps": 5}, "must say its kind"),
        ("prior", {"kind": "linear", "stepz": 5}, "check its spelling"),
    ],
)
def test_a_setting_out_of_range_is_named_with_its_range(path, value, must):
    with pytest.raises(InvalidInput, match=f"^{path}.* = .*: .*({must})"):
        spec("microdiffusion", overrides={path: value})


@pytest.mark.parametrize("name", ["axial_diffusion", "axial_posterior"])
def test_the_range_is_that_of_the_priors_setting(name):
    with pytest.raises(InvalidInput, match=r"^prior.sigma = 99: .* \(0 to 50\)$"):
        spec(name, overrides={"prior.sigma": 99})


@pytest.mark.parametrize("name", ["axial_diffusion", "axial_posterior"])
def test_what_does_not_go_together_in_a_prior_is_told_without_all_of_it(name):
    with pytest.raises(InvalidInput, match=r"^prior: sigma = 8 is more than largest_sigma = 6, [^:]*: raise that too"):
        spec(name, overrides={"prior.sigma": 8.0})


@pytest.mark.parametrize("name", ["microdiffusion", "sparse3diff"])
def test_guidance_needs_a_network_that_saw_images_without_condition(name):
    with pytest.raises(InvalidInput, match="guidance above 0 needs p_uncond above 0"):
        spec(name, overrides={"guidance": 1.0, "p_uncond": 0.0})
    assert spec(name, overrides={"guidance": 0.0, "p_uncond": 0.0}) == spec(name, overrides={"p_uncond": 0.0})


def test_guidance_means_nothing_where_there_is_no_condition():
    overrides = {"guidance": 1.0, "p_uncond": 0.0, "condition": "none"}
    made = spec("naive_diffusion", overrides=overrides).model_dump()
    assert {key: made[key] for key in overrides} == overrides


def test_every_setting_out_of_range_is_named():
    with pytest.raises(InvalidInput, match="; ") as caught:
        spec("microdiffusion", overrides={"gamma": 2, "prior.width": 1})
    assert {part.partition(":")[0] for part in str(caught.value).split("; ")} == {"gamma = 2", "prior.width = 1"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("15", 15),
        ("1e-3", 1e-3),
        ("true", True),
        ("null", None),
        ("[1, 2, 4]", [1, 2, 4]),
        ('"15"', "15"),
        ("final", "final"),
        ("every_step", "every_step"),
        ("None", "None"),
        ("", ""),
    ],
)
def test_values_from_the_command_line(text, value):
    parsed = parse_value(text)
    assert parsed == value
    assert type(parsed) is type(value)


# -- the paper's numbers --------------------------------------------------------------------


def test_the_neural_representation_of_the_paper():
    method = spec("inr", "paper")
    assert isinstance(method, Inr)
    assert method.encoding == "gaussian"
    assert method.features == 512
    assert method.epochs == 5000
    assert method.learning_rate == 1e-3
    assert method.neighbouring == "gaussian"
    assert method.consistency == "none"


@pytest.mark.parametrize("name", ["microdiffusion", "naive_diffusion", "interpolation_diffusion", "cubic_diffusion"])
def test_the_diffusion_of_the_paper(name):
    method = spec(name, "paper")
    assert isinstance(method, Guided)
    assert method.timesteps == method.sampling_steps == 1000
    assert (method.beta_start, method.beta_end) == (1e-4, 0.02)
    assert method.sampler == "ddpm"
    assert method.spacing == "uniform"  # so 1000 steps are all 1000 levels
    assert method.epochs == 2000
    assert method.learning_rate == 2e-4
    assert method.weight_decay == 1e-4
    assert method.gamma == 0.1
    assert method.pairing == "slice"
    assert method.parameterisation == "x0"
    assert method.consistency == "none"
    assert method.prior is None or method.prior.consistency == "none"


PAPER = {  # what the paper states
    "inr": {"encoding", "features", "epochs", "learning_rate", "neighbouring", "consistency"},
    "guided": {"epochs", "learning_rate", "weight_decay", "attention", "pairing", "parameterisation", "consistency"},
}
SILENT = {  # what it does not
    "inr": {"octaves", "width", "layers", "rays", "bandwidth_z", "bandwidth_xy", "levels", "cell_z", "cell_xy"},
    "guided": {
        "gamma",
        "timesteps",
        "beta_start",
        "beta_end",
        "guidance",
        "p_uncond",
        "batch",
        "channels",
        "multipliers",
    },
}


@pytest.mark.parametrize("cls", [Inr, Guided], ids=["inr", "guided"])
def test_every_value_of_the_paper_preset_has_a_source(cls):
    kind = cls.model_fields["kind"].default
    stated = sources("paper", kind)
    assert stated.keys() == cls.model_fields.keys() - {"kind", "prior"}
    assert set(stated.values()) <= {"paper", "released code", "ours"}
    assert {key for key, source in stated.items() if source == "paper"} >= PAPER[kind]
    assert not {key for key in SILENT[kind] if stated[key] == "paper"}


def test_the_hash_encoding_of_the_paper():
    method, stated = spec("hash_inr", "paper"), sources("paper", "hash_inr")
    assert isinstance(method, Inr)
    assert stated.keys() == Inr.model_fields.keys() - {"kind"}
    paper = {"encoding": "hash", "levels": 16, "table_bits": 19, "layers": 2, "width": 64, "learning_rate": 1e-2}
    assert {key: getattr(method, key) for key in paper} == paper
    assert {stated[key] for key in paper} == {"paper"}
    found = {setting.path: setting.sources for setting in settings_of("hash_inr")}
    assert found["levels"] == {"paper": "paper"}


def test_sources_reach_the_descriptions():
    found = {setting.path: setting.sources for setting in settings_of("microdiffusion")}
    assert found["learning_rate"] == found["prior.features"] == {"paper": "paper"}
    assert found["guidance"] == {"paper": "released code"}


def test_every_table_is_that_of_a_method():
    """A table under a name that no method has would be passed over without a word."""
    tables = {table_of(name) for name in METHODS if METHODS[name][0].learned}
    assert {preset: found.keys() for preset, found in _presets().items()} == dict.fromkeys(PRESETS, tables)
