"""Descriptions of settings: complete, in words, and agreeing with what overrides take."""

from __future__ import annotations

from napari_microdiffusion.presets import adjusted, spec
from napari_microdiffusion.settings import sampling_paths, settings_of


def test_every_setting_says_what_it_is() -> None:
    for name in ("linear", "inr", "naive_diffusion", "microdiffusion"):
        for setting in settings_of(name):
            assert setting.description, setting.path
            assert setting.range or setting.type == "text", setting.path
            assert setting.values.keys() == {"preview", "standard", "paper"}


def test_what_would_do_nothing_is_not_listed() -> None:
    with_prior, without = (
        {setting.path for setting in settings_of(name)} for name in ("interpolation_diffusion", "naive_diffusion")
    )
    own = {path for path in with_prior if not path.startswith("prior.")}
    assert own - without == {"gamma", "pairing", "injection", "prior_training"}


def test_what_does_something_with_another_choice_is_listed() -> None:
    assert {"octaves", "levels", "steps", "features"} <= {setting.path for setting in settings_of("inr")}
    assert {"prior.octaves", "prior.levels"} <= {setting.path for setting in settings_of("microdiffusion")}
    assert {"objective_na", "wavelength_nm"} <= {setting.path for setting in settings_of("axial")}


def test_paths_are_those_of_overrides() -> None:
    plain = spec("microdiffusion")
    for setting in settings_of("microdiffusion"):
        assert adjusted(plain, {setting.path: setting.values["preview"]}) == plain


def test_ranges_in_words() -> None:
    ranges = {setting.path: setting.range for setting in settings_of("microdiffusion")}
    assert ranges["gamma"] == "0 to 1"
    assert ranges["beta_start"] == "above 0, below 1"
    assert ranges["channels"] == "8 to 512, a multiple of 8"
    assert ranges["sampler"] == "ddim or ddpm"
    assert ranges["prior.skip"] == "true or false"


def test_origins_in_words() -> None:
    found = {setting.path: setting for setting in settings_of("inr")}
    for path, origin in (("features", "from the paper"), ("width", "from the released code"), ("levels", "our own")):
        assert found[path].origin("paper") == origin
        assert found[path].origin("preview") == ""


def test_sampling_paths() -> None:
    paths = sampling_paths(spec("microdiffusion"))
    assert {"consistency", "sampler", "sampling_steps", "guidance"} <= set(paths)
    assert not {"steps", "gamma", "prior.width", "prior.neighbouring", "kind"} & set(paths)
    described = {setting.path for setting in settings_of("microdiffusion") if setting.sampling}
    assert described == set(paths)
