"""Axial super-resolution: its contract whatever the weights, sigma, weights kept, stops, intervals, hard stacks."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import collected
from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.events import InvalidInput, Notice, Preview, RunFailed, Stage, Step, exhaust
from napari_microdiffusion.methods import Axial, Conservative, Context, Guided, Weights
from napari_microdiffusion.methods._base import PRIOR, with_prefix
from napari_microdiffusion.methods._grid import INDIFFERENT
from napari_microdiffusion.methods._trial import Trial
from napari_microdiffusion.methods.heldout import score
from napari_microdiffusion.metrics import evaluate
from napari_microdiffusion.noise import noise_variance
from napari_microdiffusion.phantoms import phantom
from napari_microdiffusion.presets import name_of, spec
from napari_microdiffusion.run import Job, Result, reconstruct, run
from napari_microdiffusion.trained import load_trained, save_trained
from napari_microdiffusion.volume import ProjectionStack, Volume

TINY: dict[str, Any] = {"channels": 8, "blocks": 2, "batch": 1, "steps": 3, "ratio": 1.0}
SHORT: dict[str, Any] = TINY | {"batch": 2, "steps": 100, "learning_rate": 1e-2}
"""Enough to learn something, or to be found wanting by the held-out score."""

ACQUISITIONS = {
    "uniform": Acquisition(slices=6, count=6),
    "gaussian": Acquisition(slices=6, profile="gaussian", fwhm=3, count=6),
    "point": Acquisition(slices=4, profile="point", count=6),
    "measured": Acquisition(slices=3, profile="measured", weights=(1.0, 3.0, 0.5), count=6),
    "gaps": Acquisition(slices=4, stride=7, count=5),
    "hidden": Acquisition(slices=4, count=7, hidden=(0, 3)),
    "single slices": Acquisition(slices=1, count=6),
}


RESTORING, STATING = "Restoring planes along z", "Stating the error bars"

BELIEVED = Trial({0.0: 20.0}, 19.0, 1.0).weights()
"""Of a network that told hidden projections 1 dB better than the interpolation."""


def waves(acquisition: Acquisition = ACQUISITIONS["uniform"], size: tuple[int, int] = (32, 36)) -> ProjectionStack:
    """Projections of noisy waves on the engine's scale."""
    rng = np.random.default_rng(0)
    z, y, x = np.meshgrid(np.arange(acquisition.depth), np.arange(size[0]), np.arange(size[1]), indexing="ij")
    volume = 0.5 + 0.4 * np.sin(z / 3 + x / 5) * np.cos(y / 4) + 0.02 * rng.standard_normal(z.shape)
    return ProjectionStack(acquisition.project(volume.astype(np.float32)), acquisition)


@pytest.fixture(scope="module")
def stack() -> ProjectionStack:
    """Six uniform projections of six slices."""
    return waves()


def fitted(method: Axial, stack: ProjectionStack, **context: Any) -> Weights:
    return exhaust(method.fit(stack, Context(**context)))


def scrambled(method: Axial, stack: ProjectionStack, seed: int = 0) -> Weights:
    """Weights of a network that says anything, and is believed: hidden projections were told well."""
    generator = torch.Generator().manual_seed(seed)
    network = method.network(stack, Context()).state_dict()
    random = {name: 0.2 * torch.randn(tensor.shape, generator=generator) for name, tensor in network.items()}
    return random | BELIEVED


def predicted(method: Axial, stack: ProjectionStack, weights: Weights, **context: Any) -> Volume:
    return exhaust(method.predict(stack, weights, Context(**context)))


def conservative(stack: ProjectionStack) -> np.ndarray:
    return exhaust(Conservative().predict(stack, {}, Context())).data


def job(method: Axial | Guided, stack: ProjectionStack, **changes: Any) -> Job:
    return Job(
        **{"method": method, "acquisition": stack.acquisition, "device": "cpu", "precision": "float32"} | changes
    )


def largest_residual(data: np.ndarray, stack: ProjectionStack) -> float:
    return float(np.abs(stack.acquisition.residual(data.astype(float), stack.data)).max())


# -- samples --------------------------------------------------------------------------------

CUBIC = (1.0, 1.0, 1.0)
Made = tuple[ProjectionStack, Volume]


def sample(shape: tuple[int, int, int] = (48, 48, 48), seed: int = 0) -> np.ndarray:
    """Nuclei, which look the same from all sides, between 0 and 1."""
    return phantom("nuclei", shape, seed).data


def simulated(data: np.ndarray, acquisition: Acquisition | None = None, scale: Any = CUBIC) -> Made:
    """Projections and the truth they are of."""
    return Volume(data.astype(np.float32), scale).simulate(acquisition or Acquisition(slices=6))


def gain(volume: Volume, stack: ProjectionStack, truth: Volume) -> float:
    """How much better than the conservative interpolation, in dB."""
    plain = reconstruct(stack, Conservative(), device="cpu")
    return evaluate(volume, truth)["psnr"] - evaluate(plain, truth)["psnr"]


@dataclass(frozen=True)
class Learned:
    """A run that has learned something, and what it was of."""

    stack: ProjectionStack
    truth: Volume
    method: Axial
    result: Result


@pytest.fixture(scope="module")
def learned() -> Learned:
    """A short training on nuclei."""
    stack, truth = simulated(sample())
    assert truth is not None
    method = Axial(**SHORT)
    return Learned(stack, truth, method, exhaust(run(job(method, stack), stack)))


# -- the contract ---------------------------------------------------------------------------


@pytest.mark.parametrize("acquisition", ACQUISITIONS.values(), ids=ACQUISITIONS)
@pytest.mark.parametrize("consistency", ["none", "final"])
def test_whatever_the_network_says_the_volume_is_consistent(acquisition, consistency):
    stack = waves(acquisition)
    method = Axial(**TINY, consistency=consistency)
    data = predicted(method, stack, scrambled(method, stack)).data
    assert data.shape == stack.volume_shape
    assert data.dtype == np.float32
    assert largest_residual(data, stack) < 1e-5
    assert (np.abs(data - conservative(stack)).max() > 1e-2) == (acquisition.slices > 1)  # else all is measured


def test_overlapping_projections_are_explained_to_within_their_noise():
    stack = waves(Acquisition(slices=6, stride=3, count=8))
    method = Axial(**TINY)
    weights = scrambled(method, stack)
    weights |= {
        name: weights[name] / 4 for name in ("change.weight", "change.bias")
    }  # still many times the range, of which the noise's ridge leaves a share
    data = predicted(method, stack, weights).data
    assert np.abs(data - conservative(stack)).max() > 10
    ours, smoothest = (np.square(stack.acquisition.residual(v, stack.data)).mean() for v in (data, conservative(stack)))
    assert ours < 2 * max(smoothest, noise_variance(stack.data))


@pytest.mark.parametrize("acquisition", ACQUISITIONS.values(), ids=ACQUISITIONS)
def test_without_training_it_is_the_conservative_interpolation(acquisition):
    stack = waves(acquisition)
    method = Axial(**TINY)
    volume = predicted(method, stack, method.untrained(stack, Context()) | BELIEVED)
    np.testing.assert_allclose(volume.data, conservative(stack), atol=1e-5)
    assert volume.reliability is not None  # the network was asked


def test_all_directions_count_alike(stack):
    """Turning the images turns the volume: it is the mean of planes in all directions."""
    method = Axial(**TINY)
    weights = scrambled(method, stack)
    turned = replace(stack, data=np.ascontiguousarray(stack.data.transpose(0, 2, 1)))
    one, other = predicted(method, stack, weights), predicted(method, turned, weights)
    np.testing.assert_allclose(one.data, other.data.transpose(0, 2, 1), atol=1e-5)
    assert one.reliability is not None
    assert other.reliability is not None
    np.testing.assert_allclose(one.reliability.std, other.reliability.std.transpose(0, 2, 1), atol=1e-5)


def test_batches_change_rounding_only(stack):
    method = Axial(**TINY)
    weights = scrambled(method, stack)
    whole, single = (predicted(method, stack, weights, batch_bytes=memory) for memory in (2**31, 1))
    np.testing.assert_allclose(single.data, whole.data, atol=1e-4)  # of about 10: the network says anything


def test_the_seed_fixes_the_result_to_the_last_bit(stack):
    method = Axial(**TINY)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    once, again, other = (fitted(method, stack, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert once.keys() == again.keys()
    assert all(torch.equal(once[name].nan_to_num(-1), again[name].nan_to_num(-1)) for name in once)
    assert not torch.equal(once["enter.weight"], other["enter.weight"])
    one, same = (predicted(method, stack, weights | BELIEVED) for weights in (once, again))
    np.testing.assert_array_equal(one.data, same.data)
    assert one.reliability is not None
    assert same.reliability is not None
    np.testing.assert_array_equal(one.reliability.upper, same.reliability.upper)


def test_a_loss_that_is_no_number_ends_the_run(stack):
    huge = replace(stack, data=np.where(stack.data > 0.8, np.float32(1e25), 0))  # its square is beyond float32
    with pytest.raises(RunFailed, match="training diverged"):
        fitted(Axial(**TINY), huge)


# -- sigma ----------------------------------------------------------------------------------


@pytest.mark.parametrize("elongation", [None, 1.0])
def test_sigma_is_the_smallest_that_does_about_as_well_as_the_best(elongation, stack):
    method = Axial(**TINY, elongation=elongation)
    weights = fitted(method, stack)
    found = method.findings(stack, weights)
    curve = dict(found["sigma_curve"])
    score = np.interp(found["sigma_slices"], list(curve), list(curve.values()))
    assert score == pytest.approx(max(curve.values()) - INDIFFERENT) or found["sigma_slices"] == 0
    if elongation is not None:
        assert len(curve) >= 5
        assert min(curve) == 0
        assert max(curve) == method.largest_sigma


def test_auto_stands_for_what_the_method_finds():
    names = ("sigma", "elongation", "ratio")
    assert spec("axial", overrides=dict.fromkeys(names, "auto")) == spec("axial", overrides=dict.fromkeys(names))
    with pytest.raises(InvalidInput, match="sigma = 'much'"):
        spec("axial", overrides={"sigma": "much"})


def test_a_sigma_beyond_what_is_learned_is_refused():
    with pytest.raises(InvalidInput, match="sigma = 8 is more than largest_sigma = 6"):
        spec("axial", overrides={"sigma": 8.0})
    assert spec("axial", overrides={"sigma": 8.0, "largest_sigma": 8.0}).sigma == 8


def test_an_objective_that_blurs_more_than_is_trained_for_is_named(stack):
    method = Axial(**TINY, objective_na=0.2, wavelength_nm=520.0, refractive_index=1.33)
    first = next(method.fit(replace(stack, scale_um=(6.0, 1.0, 1.0)), Context()))
    assert isinstance(first, Notice)
    assert "blurs z by 6 slices or more" in first.message


def test_a_given_sigma_is_used(stack):
    free, given = Axial(**TINY), Axial(**TINY, sigma=2.5)
    weights = fitted(given, stack)
    found = given.findings(stack, weights)
    assert found["sigma_slices"] == 2.5
    assert [sigma for sigma, _ in found["sigma_curve"]] == [2.5]
    weights = scrambled(free, stack)  # whose sigma is 0
    sharp, blurred = (predicted(method, stack, weights).data for method in (free, given))
    assert np.abs(sharp - blurred).max() > 1e-4
    np.testing.assert_array_equal(predicted(Axial(**TINY, sigma=0.0), stack, weights).data, sharp)


def test_a_given_elongation_is_used(stack):
    free, given = Axial(**TINY), Axial(**TINY, elongation=1.5)
    found = given.findings(stack, fitted(given, stack))
    assert found["elongation"] == 1.5
    assert [elongation for elongation, _ in found["elongation_curve"]] == [1.5]
    weights = scrambled(free, stack)  # whose elongation is 1
    plain, long = (predicted(method, stack, weights).data for method in (free, given))
    assert np.abs(plain - long).max() > 1e-4
    np.testing.assert_array_equal(predicted(Axial(**TINY, elongation=1.0), stack, weights).data, plain)


@pytest.mark.parametrize(
    ("acquisition", "tried"),
    [
        *((ACQUISITIONS[name], True) for name in ("uniform", "gaussian", "gaps", "hidden")),
        (ACQUISITIONS["point"], False),
        (Acquisition(slices=6, profile="gaussian", fwhm=0.5, count=6), False),
        (Acquisition(slices=2, stride=5, count=5), False),
    ],
    ids=["uniform", "gaussian", "gaps", "hidden", "point", "narrow", "wide gaps"],
)
def test_elongations_are_tried_where_the_beam_sees_half_of_the_slices(acquisition, tried):
    method, stack = Axial(**TINY), waves(acquisition)
    curve = method.findings(stack, fitted(method, stack))["elongation_curve"]
    assert (len(curve) > 1) == tried
    assert 1 in dict(curve)


@pytest.mark.parametrize(("asked", "strength"), [(1.2, 1.2), (2.0, 1.5), (0.5, 1.0)])
def test_changes_are_as_strong_as_hidden_projections_ask(asked, strength, stack):
    method = Axial(**TINY)
    weights = scrambled(method, stack)
    plain, start = predicted(method, stack, weights).data, conservative(stack)
    trial = Trial({0.0: 20.0}, 19.0, 1.0, 1.0, {0.0: asked})
    strong = predicted(method, stack, weights | trial.weights()).data
    np.testing.assert_allclose(strong - start, strength * (plain - start), atol=1e-5)
    assert np.abs(plain - start).max() > 1e-2
    assert method.findings(stack, weights | trial.weights())["strength"] == pytest.approx(strength)


OBJECTIVES = {
    "water": ({"objective_na": 1.0, "refractive_index": 1.33}, 0.25, 1.6551),
    "air": ({"objective_na": 0.5, "refractive_index": 1.0, "wavelength_nm": 600.0}, 1.0, 1.6532),
    "oil": ({"objective_na": 1.4, "refractive_index": 1.518}, 0.1, 1.9254),
    "weak": ({"objective_na": 0.3, "refractive_index": 1.0}, 0.5, 6.0),  # 8.4: more than the network was trained for
}
"""Settings, slices' spacing in µm, and sigma in slices, worked out by hand."""


@pytest.mark.parametrize(("settings", "dz", "sigma"), OBJECTIVES.values(), ids=OBJECTIVES)
def test_sigma_follows_from_the_objective(settings, dz, sigma, stack):
    scaled = replace(stack, scale_um=(6 * dz, dz, dz))
    method = Axial(**TINY, **settings)
    assert method.given_sigma(scaled) == pytest.approx(sigma, abs=1e-3)
    assert method.findings(scaled, fitted(method, scaled))["sigma_slices"] == pytest.approx(sigma, abs=1e-3)
    assert Axial(**TINY, **settings, sigma=1.0).given_sigma(scaled) == 1.0  # what is set, counts


@pytest.mark.parametrize(
    ("settings", "scale", "message"),
    [
        ({"objective_na": 1.0}, None, "state the scale of the stack"),
        ({"objective_na": 1.4, "refractive_index": 1.33}, (6.0, 1.0, 1.0), "state the index of the immersion medium"),
    ],
)
def test_an_objective_that_gives_no_sigma_is_refused_before_training(settings, scale, message, stack):
    events = Axial(**TINY, **settings).fit(replace(stack, scale_um=scale), Context())
    with pytest.raises(InvalidInput, match=message):
        next(events)


@pytest.mark.parametrize(
    ("settings", "sigma", "fell"),
    [({}, 1.5, True), ({"sigma": 2.0}, 2.0, False), (OBJECTIVES["water"][0], 1.6551, False)],
)
def test_three_projections_are_too_few_to_choose_sigma(settings, sigma, fell):
    """And too few to try the network: nobody would know if it did harm, so it is used only where sigma is known."""
    stack = replace(waves(Acquisition(slices=6, count=3)), scale_um=(1.5, 0.25, 0.25))
    method = Axial(**TINY, **settings)
    events, weights = collected(method.fit(stack, Context()))
    found = method.findings(stack, weights)
    assert found["sigma_slices"] == pytest.approx(sigma, abs=1e-3)
    assert found["sigma_curve"] == []
    assert found["interpolation_held_out_db"] is None
    assert found["strength"] is None
    assert found["fell_back"] is fell
    assert any(isinstance(event, Stage) and event.name.startswith("Training") for event in events) is not fell
    tried = {name: weights[name] for name in Trial({}).weights()}
    volume = predicted(method, stack, scrambled(method, stack) | tried)
    assert np.allclose(volume.data, conservative(stack), atol=1e-6) is fell
    assert volume.reliability is None
    assert any("too few projections" in event.message for event in events if isinstance(event, Notice))


@pytest.mark.parametrize("stated", ["scale", "ratio", None])
def test_a_guessed_voxel_ratio_is_told_from_one_that_is_known(stated, stack):
    settings = {key: value for key, value in TINY.items() if key != "ratio" or stated == "ratio"}
    known = replace(stack, scale_um=(6.0, 1.0, 1.0)) if stated == "scale" else stack
    events, _ = collected(Axial(**settings, sigma=1.0).fit(known, Context()))
    said = " ".join(event.message for event in events if isinstance(event, Notice))
    assert "times as deep as wide" in said
    assert ("as their size is not stated" in said) == (stated is None)


@pytest.mark.parametrize(("scale", "named"), [((360.0, 1.0, 1.0), True), ((6.0, 1.0, 1.0), False)])
def test_voxels_that_are_deeper_than_it_can_do_are_named(scale, named, stack):
    method = Axial(**{key: value for key, value in TINY.items() if key != "ratio"})
    first = next(method.fit(replace(stack, scale_um=scale), Context()))
    said = first.message if isinstance(first, Notice) else ""
    assert ("voxels are 60 times as deep as wide, and are taken as 20" in said) == named


@pytest.mark.parametrize(
    ("settings", "scale", "ratio"),
    [({"ratio": 2.5}, (6.0, 1.0, 1.0), 2.5), ({}, (12.0, 0.5, 0.5), 4.0), ({}, (6.0, 4.0, 1.0), 0.5)],
)
def test_the_voxel_ratio_as_set_or_from_the_voxel_size(settings, scale, ratio, stack):
    method = Axial(**{key: value for key, value in TINY.items() if key != "ratio"} | settings)
    assert method.voxel_ratio(replace(stack, scale_um=scale)) == pytest.approx(ratio)


# -- falling back ---------------------------------------------------------------------------


def test_where_interpolation_is_better_it_is_given_instead(stack):
    method = Axial(**TINY)
    weights = scrambled(method, stack) | Trial({0.0: 20.0}, 21.0, 1.0).weights()
    events, volume = collected(method.predict(stack, weights, Context()))
    np.testing.assert_allclose(volume.data, conservative(stack), atol=1e-6)
    assert volume.reliability is None
    said = next(event.message for event in events if isinstance(event, Notice))
    assert said.startswith("hidden projections are predicted 1.00 dB worse")


def test_a_network_that_changes_nothing_is_told(stack):
    method = Axial(**TINY)
    still = method.untrained(stack, Context()) | Trial({0.0: 21.0}, 21.0, 1.0).weights()
    events, volume = collected(method.predict(stack, still, Context()))
    [said] = [event.message for event in events if isinstance(event, Notice)]
    assert said.startswith("the network changes nothing of the conservative interpolation")
    np.testing.assert_allclose(volume.data, reconstruct(stack, Conservative()).data, atol=1e-6)
    assert volume.reliability is not None


def test_error_bars_are_made_where_they_are_read(learned):
    """Not for the voxels alone, which are the volume's, for each fold of a held-out score, nor for a prior."""
    method, weights, (stack, _) = learned.method, learned.result.weights, learned.stack.normalised()
    events, data = collected(method.voxels(stack, weights, Context()))
    volume = predicted(method, stack, weights)
    np.testing.assert_array_equal(data, volume.data)
    assert volume.reliability is not None
    events += collected(score(method, stack, Context(), weights, 2))[0]
    diffusion = Guided(prior=method, channels=8, multipliers=(1, 2), timesteps=20, beta_end=0.2, sampling_steps=1)
    guided = {**diffusion.untrained(stack, Context()), **with_prefix(weights, PRIOR)}
    events += collected(diffusion.predict(stack, guided, Context()))[0]
    stages = [event.name for event in events if isinstance(event, Stage)]
    assert sum(RESTORING in stage for stage in stages) == 4
    assert not [stage for stage in stages if STATING in stage]


def test_a_difference_that_rounds_to_nothing_is_called_no_better(stack):
    method = Axial(**TINY)
    weights = scrambled(method, stack) | Trial({0.0: 20.999}, 21.0, 1.0).weights()
    events, _ = collected(method.predict(stack, weights, Context()))
    said = next(event.message for event in events if isinstance(event, Notice))
    assert said.startswith("hidden projections are predicted no better than by interpolation")


def test_weights_that_do_not_suit_a_stack_are_found_out(stack):
    """They say that they did well elsewhere: on the projections at hand they are tried again."""
    method = Axial(**TINY)
    result = exhaust(run(job(method, stack), stack, weights=scrambled(method, stack)))
    np.testing.assert_allclose(result.volume.data, conservative(stack), atol=1e-5)
    assert result.volume.reliability is None
    assert (result.volume.provenance or {})["found"]["fell_back"] is True


# -- intervals ------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [6, 4])
def test_the_volume_lies_within_its_intervals(stride):
    stack = waves(Acquisition(slices=6, stride=stride, count=6))
    method = Axial(**TINY)
    volume = predicted(method, stack, scrambled(method, stack))
    assert volume.reliability is not None
    assert (volume.reliability.std >= 0).all()
    assert (volume.reliability.lower <= volume.data).all()
    assert (volume.data <= volume.reliability.upper).all()
    width = volume.reliability.upper - volume.reliability.lower
    np.testing.assert_allclose(volume.reliability.std, width / (2 * 1.6449), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "acquisition",
    [ACQUISITIONS["point"], Acquisition(slices=4, profile="point", count=7, hidden=(2, 3)), ACQUISITIONS["gaps"]],
    ids=["sparse", "some hidden", "none measured by itself"],
)
def test_slices_that_were_measured_have_no_error_bars(acquisition):
    stack, method = waves(acquisition), Axial(**TINY)
    found = predicted(method, stack, scrambled(method, stack)).reliability
    certain = (found.std == 0).all((1, 2))
    np.testing.assert_array_equal(certain, acquisition.fixed)
    np.testing.assert_array_equal(found.lower[certain], found.upper[certain])


def test_where_every_slice_was_measured_error_bars_are_those_of_measuring_again():
    stack, method = waves(ACQUISITIONS["single slices"]), Axial(**TINY)
    assert (predicted(method, stack, scrambled(method, stack)).reliability.std > 0).any()


def test_no_interval_reaches_further_than_all_that_was_measured(stack):
    """A network may state anything of what looks like nothing that it has seen: a bright bead, for one."""
    method = Axial(**TINY)
    weights = scrambled(method, stack)
    loud = {name: 1e4 * tensor if name.startswith("spread.2.") else tensor for name, tensor in weights.items()}
    volume = predicted(method, stack, loud)
    far = np.maximum(volume.reliability.upper - volume.data, volume.data - volume.reliability.lower)
    assert far.max() == pytest.approx(np.ptp(stack.data), rel=1e-5)


def test_after_a_short_training_intervals_are_wide_enough_all_the_same():
    stack, truth = simulated(sample())
    method = Axial(**TINY)
    events, weights = collected(method.fit(stack, Context()))
    assert any("error bars are made" in event.message for event in events if isinstance(event, Notice))
    believed = weights | {"floor": torch.tensor(0.0)}
    held = []
    for kept in (believed, believed | {"widening": torch.tensor(1.0)}):
        reliability = exhaust(method.predict(stack, kept, Context())).reliability
        held.append(float(((reliability.lower <= truth.data) & (truth.data <= reliability.upper)).mean()))
    assert held[0] > 0.85
    assert held[1] < 0.7


def test_intervals_come_on_the_inputs_scale(learned):
    """A power of two changes no digit, so not even rounding differs; and weights find the same again."""
    stack = replace(learned.stack, data=1024 * learned.stack.data)
    plain = learned.result.volume
    bright = exhaust(run(job(learned.method, stack), stack, weights=learned.result.weights)).volume
    np.testing.assert_array_equal(bright.data, 1024 * plain.data)
    for name in ("std", "lower", "upper"):
        np.testing.assert_array_equal(getattr(bright.reliability, name), 1024 * getattr(plain.reliability, name))
    assert (bright.reliability.lower <= bright.data).all()
    assert (bright.data <= bright.reliability.upper).all()
    assert bright.reliability.std.min() > 0


# -- what it finds out ----------------------------------------------------------------------


def test_findings_are_kept_with_the_volume(stack):
    method = Axial(**TINY)
    events, result = collected(run(job(method, stack), stack))
    found = (result.volume.provenance or {})["found"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found == method.findings(stack, result.weights)
    keys = {"sigma_slices", "sigma_curve", "interpolation_held_out_db", "elongation", "elongation_curve", "strength"}
    keys |= {"voxel_ratio", "fell_back"}
    assert keys <= found.keys()
    said = " ".join(event.message for event in events if isinstance(event, Notice))
    assert f"{found['sigma_slices']:.3g} slices" in said
    assert f"{found['interpolation_held_out_db']:.1f} dB" in said


@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">u2", "float64"])
def test_any_camera_will_do(dtype):
    """Voxel size unknown: the ratio is estimated from the camera's own counts."""
    images = np.round(100 + 100 * waves().data).astype(dtype)
    stack = ProjectionStack(images, ACQUISITIONS["uniform"])
    result: Result = exhaust(run(job(Axial(**TINY | {"ratio": None}), stack), stack))
    assert result.residual.maximum < 1e-3
    assert result.volume.provenance is not None
    assert result.volume.provenance["found"]["voxel_ratio"] >= 1


# -- previews and stops ---------------------------------------------------------------------


def test_training_shows_the_volume_so_far(stack):
    method = Axial(**TINY)
    events, watched = collected(method.fit(stack, Context(preview_seconds=0)))
    previews = [event for event in events if isinstance(event, Preview)]
    assert previews
    for preview in previews:
        assert preview.data.shape == stack.volume_shape
        assert largest_residual(preview.data, stack) < 1e-5
    quiet = fitted(method, stack)
    assert all(torch.equal(quiet[name], watched[name]) for name in method.network(stack, Context()).state_dict())


STAGES = [
    "Training on the lateral detail",
    "Choosing blur and elongation by hidden projections",
    RESTORING,
    STATING,
]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stop_gives_what_there_is(stage, stack, learned):
    """After two steps of any stage: the volume shown last, whole and consistent, marked partial."""
    method, weights, told = Axial(**TINY | {"steps": 5}), None, []
    if stage in STAGES[2:]:
        method, weights, stack = learned.method, learned.result.weights, learned.stack

    def asked() -> bool:
        stages = [event.name for event in told if isinstance(event, Stage)]
        return stages[-1:] == [stage] and isinstance(told[-1], Step) and told[-1].done >= 2

    events = run(job(method, stack), stack, weights=weights, cancelled=asked, preview_seconds=math.inf)
    while True:
        try:
            told.append(next(events))
        except StopIteration as end:
            result: Result = end.value
            break
    last = max(i for i, event in enumerate(told) if isinstance(event, Stage))
    assert told[last].name == stage
    assert len([event for event in told[last:] if isinstance(event, Step)]) <= 2
    assert result.partial
    there_is = learned.result.volume.data if stage == STAGES[3] else conservative(stack)
    np.testing.assert_allclose(result.volume.data, there_is, atol=1e-5)
    assert result.volume.reliability is None
    assert result.volume.provenance is not None
    assert result.volume.provenance["complete"] is False
    assert "found" not in result.volume.provenance
    if weights is None:
        with pytest.raises(InvalidInput, match="stopped early"):
            next(run(job(method, stack), stack, weights=result.weights))


# -- weights that are kept ------------------------------------------------------------------


@pytest.fixture(scope="module")
def further() -> ProjectionStack:
    """Projections of another sample of the same kind."""
    return simulated(sample(seed=1))[0]


@pytest.mark.parametrize("which", ["its own stack", "a further stack"])
def test_saved_weights_give_the_same_volume(which, tmp_path: Path, learned, further):
    path = save_trained(tmp_path / "axial.safetensors", learned.method, learned.result.weights, learned.stack)
    trained = load_trained(path)
    assert trained.method == learned.method
    stack = learned.stack if which == "its own stack" else further
    kept, again = (
        exhaust(run(job(trained.method, stack), stack, weights=weights))
        for weights in (learned.result.weights, trained.weights)
    )
    np.testing.assert_array_equal(again.volume.data, kept.volume.data)
    assert again.residual.maximum < 1e-5
    assert np.abs(again.volume.data - conservative(stack)).max() > 1e-2
    if which == "its own stack":
        np.testing.assert_array_equal(again.volume.data, learned.result.volume.data)


def test_fine_tuning_fits_weights_to_a_further_stack(tmp_path: Path, learned, further):
    path = save_trained(tmp_path / "axial.safetensors", learned.method, learned.result.weights, learned.stack)
    plain, tuned = load_trained(path), load_trained(path, {"fine_tuning": 2})
    before = {name: tensor.clone() for name, tensor in tuned.weights.items()}
    same, changed = (exhaust(run(job(t.method, further), further, weights=t.weights)) for t in (plain, tuned))
    network = learned.method.network(further, Context()).state_dict()
    assert changed.weights.keys() == before.keys()
    assert all(torch.equal(same.weights[name], before[name]) for name in network)
    assert not any(torch.equal(changed.weights[name], before[name]) for name in network if name.endswith("weight"))
    for result in (same, changed):  # compared with this stack's interpolation
        assert float(result.weights["floor"]) == pytest.approx(float(same.weights["floor"]))
        assert float(result.weights["floor"]) != pytest.approx(float(before["floor"]))
        assert result.residual.maximum < 1e-5
    for name, tensor in before.items():  # not in place
        assert torch.equal(tuned.weights[name].nan_to_num(-1), tensor.nan_to_num(-1))


@pytest.mark.parametrize(
    ("settings", "dz", "told"), [({}, 4.0, True), ({}, 0.5, True), ({}, 1.05, False), ({"ratio": 1.0}, 4.0, False)]
)
def test_weights_for_voxels_of_another_shape_are_named(settings, dz, told, learned, further):
    method = Axial(**{key: value for key, value in SHORT.items() if key != "ratio"} | settings)
    first = next(method.refine(replace(further, scale_um=(6 * dz, 1.0, 1.0)), learned.result.weights, Context()))
    said = f"voxels are {dz:g} times as deep as wide here, and the network was trained for 1 times: train anew"
    assert (isinstance(first, Notice) and said in first.message) == told


def test_what_three_projections_could_not_train_is_trained_by_more(stack):
    method = Axial(**TINY)
    few = waves(Acquisition(slices=6, count=3))
    untrained = fitted(method, few)
    for sigma, other, trains in ((None, stack, True), (2.0, few, True), (None, few, False)):
        events, weights = collected(method.model_copy(update={"sigma": sigma}).refine(other, untrained, Context()))
        assert any(isinstance(event, Stage) and event.name.startswith("Training") for event in events) is trains
        assert bool(Trial.of(weights).scores) is trains


def test_weights_of_another_stride_do_not_fit(stack):
    other = waves(ACQUISITIONS["gaps"])
    with pytest.raises(InvalidInput, match=f"do not fit axial with these settings and {other.acquisition.description}"):
        next(run(job(Axial(**TINY), other), other, weights=fitted(Axial(**TINY), stack)))


# -- as a prior -----------------------------------------------------------------------------


def test_it_guides_a_diffusion_model(stack):
    method = Guided(
        prior=Axial(**TINY),
        channels=8,
        multipliers=(1, 2),
        timesteps=20,
        beta_end=0.2,
        sampling_steps=2,
        steps=2,
        batch=2,
        crop=16,
    )
    assert name_of(method) == "axial_diffusion"
    context = Context()
    weights = exhaust(method.fit(stack, context))
    prior = exhaust(method.prior.fit(stack, Context()))
    volume = predicted(method.prior, stack, prior)
    np.testing.assert_array_equal(context.volumes[method.prior.model_dump_json()], volume.data)
    result = exhaust(run(job(method, stack), stack, weights=weights))
    assert result.residual.maximum < 1e-5
    assert np.abs(result.volume.data - conservative(stack)).max() > 1e-2


# -- that it is worth it --------------------------------------------------------------------


def test_it_beats_the_conservative_interpolation(learned):
    volume = learned.result.volume
    assert gain(volume, learned.stack, learned.truth) > 0.3
    assert volume.provenance["found"]["fell_back"] is False
    assert 0.5 < evaluate(volume, learned.truth)["coverage_90"] <= 1


# -- hard stacks ----------------------------------------------------------------------------


def fault(change: Callable[[np.ndarray], np.ndarray]) -> Made:
    """Projections that were spoilt, and the truth they were of before."""
    stack, truth = simulated(sample())
    return replace(stack, data=change(stack.data.copy())), truth


def spoilt(data: np.ndarray, where: Any, value: float) -> np.ndarray:
    data[where] = value
    return data


def bright_object(noise: float) -> np.ndarray:
    z, y, x = np.ogrid[:48, :48, :48]
    distance = (z - 20) ** 2 + (y - 30) ** 2 + (x - 10) ** 2
    return 100 * np.exp(-distance / 12) + noise * np.random.default_rng(0).standard_normal((48, 48, 48))


DEPTHS = np.arange(48)[:, None, None]
STACKS: dict[str, Callable[[], Made]] = {
    "three projections": lambda: simulated(sample()[:18]),
    "four projections": lambda: simulated(sample()[:24]),
    "small images": lambda: simulated(sample((60, 32, 32)), Acquisition(slices=12)),
    "voxels ten times as deep": lambda: simulated(
        sample((480, 48, 48)).reshape(48, 10, 48, 48).mean(1), scale=(10.0, 1.0, 1.0)
    ),
    "pure noise": lambda: simulated(np.random.default_rng(0).standard_normal((48, 48, 48))),
    "no noise at all": lambda: simulated(sample() > 0.4),
    "one bright object": lambda: simulated(bright_object(1.0)),
    "light that fades": lambda: simulated(sample() * np.exp(-DEPTHS / 40)),
    "light that fades away": lambda: simulated(sample() * np.exp(-DEPTHS / 16)),
    "overlap": lambda: simulated(sample(), Acquisition(slices=6, stride=4)),
    "an empty projection": lambda: fault(lambda images: spoilt(images, 3, 0)),
    "empty projections": lambda: fault(lambda images: spoilt(images, slice(3, 5), 0)),
    "saturated projections": lambda: fault(lambda images: spoilt(images, slice(3, 5), 1)),
    "saturated pixels": lambda: fault(lambda images: images.clip(max=0.2)),
}


GAINS = {"four projections": 0.5, "no noise at all": 0.2, "light that fades": 0.2, "an empty projection": 0.3}
"""Least that is to be had on some of them, in dB; on the others no harm is done."""

LONGER: dict[str, dict[str, Any]] = {"an empty projection": {"steps": 200}}
"""Where half of the seeds fall back after a shorter training."""


def test_intervals_are_those_of_what_is_as_sharp_as_may_be(stack):
    """And wider after a training too short. The volume is for what was found, and no other for it."""
    found, usual = [], Axial(**TINY)
    given = (usual, 1.0, 0.5), (Axial(**TINY, sigma=0.8), 1.0, 0.0), (usual, 1.0, 0.0), (usual, 1.5, 0.5)
    for method, widening, by in given:
        trial = Trial({1.0: 20.0, 2.0: 20.5}, 19.0, widening, sharper=by)
        weights = scrambled(method, stack) | trial.weights()
        found.append(exhaust(method.predict(stack, weights, Context())))
        told = method.findings(stack, weights)
        assert told["interval_sigma_slices"] == pytest.approx(1.6 if by == 0 and method is usual else 0.8)
        assert told["interval_elongation"] == 1
    bounds = [(volume.reliability.lower, volume.reliability.upper) for volume in found]
    distances = [np.abs(np.subtract(each, volume.data)) for each, volume in zip(bounds, found, strict=True)]
    np.testing.assert_allclose(distances[0], distances[1], rtol=1e-3, atol=1e-5)
    assert np.abs(distances[0] - distances[2]).max() > 1e-2 * distances[0].max()
    np.testing.assert_array_equal(found[0].data, found[2].data)
    np.testing.assert_array_equal(found[0].data, found[3].data)
    assert np.abs(found[0].data - found[1].data).max() > 1e-3 * np.ptp(found[0].data)
    furthest = np.ptp(stack.data)
    assert (distances[0] < furthest / 1.5).any()
    np.testing.assert_allclose(distances[3], np.minimum(1.5 * distances[0], furthest), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("side", "lead", "given"), [(64, 0.5, "network"), (64, -0.1, "floor"), (48, 0.5, "floor"), (48, 1.2, "network")]
)
def test_images_too_small_for_deep_patches_ask_for_a_clear_lead(side, lead, given):
    """Patches as deep as four projections are 24 slices, here of voxels 2.5 times as deep as wide: 60 pixels."""
    stack = ProjectionStack(np.random.default_rng(0).random((8, side, 64)), Acquisition(slices=6))
    weights = Trial({0.0: 20 + lead}, 20.0, 1.0, 2.5, elongations={1.0: 20 + lead}).weights()
    assert Axial().findings(stack, weights)["fell_back"] == (given == "floor")


@pytest.mark.parametrize("name", STACKS)
def test_a_hard_stack_does_no_harm(name):
    """Finite, consistent, and no worse than the conservative interpolation, which it gives where in doubt."""
    stack, truth = STACKS[name]()
    settings = {key: value for key, value in SHORT.items() if key != "ratio"} | LONGER.get(name, {})
    result: Result = exhaust(run(job(Axial(**settings), stack), stack))
    volume = result.volume
    assert np.isfinite(volume.data).all()
    if stack.acquisition.decoupled:
        assert result.residual.maximum < 1e-5 * np.abs(stack.data).max()
    if volume.reliability is not None:
        assert np.isfinite(volume.reliability.std).all()
        assert (volume.reliability.lower <= volume.data).all()
        assert (volume.data <= volume.reliability.upper).all()
    found = (volume.provenance or {})["found"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert gain(volume, stack, truth) > GAINS.get(name, -0.1)


@pytest.mark.parametrize(("slices", "ratio", "small"), [(6, 1.0, False), (12, 1.0, True), (6, 10.0, True)])
def test_images_too_small_for_patches_are_named(slices, ratio, small):
    """No patch as deep as four projections can be cut from 32 pixels."""
    stack = waves(Acquisition(slices=slices, count=4))
    first = next(Axial(**TINY | {"ratio": ratio}).fit(stack, Context()))
    assert (isinstance(first, Notice) and "larger images or fewer slices" in first.message) == small


def test_there_are_stacks_without_noise_among_them():
    assert noise_variance(STACKS["no noise at all"]()[0].data) == 0


REFUSED: dict[str, tuple[np.ndarray, str]] = {
    "two projections": (sample((18, 32, 32))[:2], "at least 3 are needed: acquire a deeper stack"),
    "tiny images": (sample((18, 32, 31))[:4], "at least 32 x 32 are needed: use a larger field of view"),
    "not a number": (spoilt(sample((18, 32, 32))[:4], (1, 2, 3), np.nan), "replace them"),
    "constant": (np.full((4, 32, 32), 7.0, np.float32), "check the channel and the file"),
}


@pytest.mark.parametrize(("images", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_work_is_refused(images, message):
    stack = ProjectionStack(images, Acquisition(slices=6))
    with pytest.raises(InvalidInput, match=message):
        next(run(job(Axial(**TINY), stack), stack))
