"""Guided diffusion: its four variants, consistency, pairs, batches, seeds, weights, previews and stops."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import collected
from napari_microdiffusion import diffusion
from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.denoiser import Denoiser
from napari_microdiffusion.diffusion import slice_noise
from napari_microdiffusion.events import Event, InvalidInput, Preview, RunFailed, Stage, Step, exhaust
from napari_microdiffusion.methods import Axial, Conservative, Context, Cubic, Guided, Inr, Linear, Weights, _joint
from napari_microdiffusion.methods._base import PRIOR, with_prefix, without_prefix
from napari_microdiffusion.methods._crops import crops, cuts, paired, pairs
from napari_microdiffusion.methods._joint import JointPrior
from napari_microdiffusion.methods._trial import Trial
from napari_microdiffusion.phantoms import phantom
from napari_microdiffusion.presets import spec, validated
from napari_microdiffusion.run import check_weights
from napari_microdiffusion.trained import load_trained, save_trained
from napari_microdiffusion.unet import UNet
from napari_microdiffusion.volume import ProjectionStack

INR = Inr(features=16, width=8, layers=2, rays=256, steps=2)
PRIORS = {"none": None, "linear": Linear(), "cubic": Cubic(), "inr": INR}
TINY: dict[str, Any] = {
    "channels": 8,
    "multipliers": (1, 2),
    "attention": False,
    "timesteps": 20,
    "beta_end": 0.2,
    "sampling_steps": 3,
    "steps": 2,
    "batch": 2,
    "crop": 16,
    "guidance": 0.0,
    "spacing": "uniform",
    "sampler": "ddim",
    "consistency": "none",
}


def guided(**settings: Any) -> Guided:
    return Guided(**TINY | {"prior": Linear()} | settings)


def projected(acquisition: Acquisition = Acquisition(slices=4, count=4), size: tuple[int, int] = (32, 36)):  # noqa: B008
    """Projections of noisy waves on the engine's scale."""
    rng = np.random.default_rng(0)
    z, y, x = np.meshgrid(np.arange(acquisition.depth), np.arange(size[0]), np.arange(size[1]), indexing="ij")
    volume = 0.5 + 0.4 * np.sin(z / 3 + x / 5) * np.cos(y / 4) + 0.05 * rng.standard_normal(z.shape)
    shown = np.asarray(acquisition.shown)
    images = acquisition.project(volume.astype(np.float32))
    assert len(images) == len(shown)
    return ProjectionStack(images, acquisition)


@pytest.fixture(scope="module")
def stack() -> ProjectionStack:
    """Four uniform projections of four slices."""
    return projected()


def reconstructed(method: Guided, stack: ProjectionStack, **context: Any) -> np.ndarray:
    shared = Context(**context)
    return exhaust(method.predict(stack, exhaust(method.fit(stack, shared)), shared)).data


def steps_of(events: list[Event]) -> list[int]:
    return [event.done for event in events if isinstance(event, Step)]


def largest_residual(data: np.ndarray, stack: ProjectionStack) -> float:
    return float(np.abs(stack.acquisition.residual(data.astype(float), stack.data)).max())


# -- the four variants, end to end ----------------------------------------------------------


@pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)
@pytest.mark.parametrize("consistency", ["none", "final", "every_step"])
def test_every_prior_and_consistency(prior, consistency, stack):
    data = reconstructed(guided(prior=prior, consistency=consistency), stack)
    assert data.shape == stack.volume_shape
    assert data.dtype == np.float32
    assert np.isfinite(data).all()
    if consistency == "none":
        assert largest_residual(data, stack) > 1e-2  # two steps of training do not get there by themselves
    else:
        assert largest_residual(data, stack) < 1e-5


ACQUISITIONS = {
    "overlap": Acquisition(slices=4, stride=3, count=4),
    "gaps": Acquisition(slices=4, stride=6, count=4),
    "point": Acquisition(slices=4, profile="point", count=4),
    "measured": Acquisition(slices=3, profile="measured", weights=(1.0, 3.0, 0.5), count=4),
    "begins with zeros": Acquisition(slices=6, stride=4, profile="measured", weights=(0, 0, 0, 1, 1, 1), count=4),
    "hidden": Acquisition(slices=4, count=5, hidden=(0, 2)),
}


@pytest.mark.parametrize("acquisition", ACQUISITIONS.values(), ids=ACQUISITIONS)
@pytest.mark.parametrize("consistency", ["final", "every_step"])
def test_every_acquisition(acquisition, consistency):
    stack = projected(acquisition, (37, 45))
    data = reconstructed(guided(consistency=consistency), stack, batch_bytes=1)
    assert data.shape == (acquisition.depth, 37, 45)
    if acquisition.decoupled:
        assert largest_residual(data, stack) < 1e-5
    else:  # to within the noise
        assert np.sqrt(np.mean(acquisition.residual(data, stack.data) ** 2)) < 0.06


@pytest.mark.parametrize("acquisition", ACQUISITIONS.values(), ids=ACQUISITIONS)
def test_memory_decides_nothing_but_how_many_slices_are_sampled_at_once(acquisition):
    stack = projected(acquisition, (36, 40))
    method = guided(consistency="every_step")
    little, much = (reconstructed(method, stack, batch_bytes=size) for size in (1, 2**30))
    assert np.abs(little - much).max() < 1e-4


def test_every_step_is_consistent_while_it_samples(stack):
    method = guided(consistency="every_step")
    events = list(method.predict(stack, exhaust(method.fit(stack, Context())), Context(preview_seconds=0)))
    early = next(event for event in events[2:] if isinstance(event, Preview))
    assert len(early.data) == stack.acquisition.depth
    assert largest_residual(early.data, stack) < 1e-4


@pytest.mark.parametrize("changes", [{"sampler": "ddpm"}, {"guidance": 1.8}, {"sampling_steps": 4}, {"gamma": 0.1}])
def test_what_a_setting_changes(changes, stack):
    base = {"sampler": "ddim", "sampling_steps": 3, "gamma": 0.5}
    assert np.abs(reconstructed(guided(**base | changes), stack) - reconstructed(guided(**base), stack)).max() > 1e-4


@pytest.mark.parametrize("parameterisation", ["preconditioned", "x0"])
def test_training_lowers_the_loss(parameterisation, stack):
    settings = {"steps": 30, "batch": 4, "learning_rate": 1e-2, "schedule": "constant", "prior": Conservative()}
    method = guided(parameterisation=parameterisation, **settings)
    losses = [event.loss for event in method.fit(stack, Context()) if isinstance(event, Step)]
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:5])


@pytest.mark.parametrize("settings", [{"parameterisation": "epsilon"}, {"parameterisation": "v"}, {"attention": True}])
def test_every_network_runs(settings, stack):
    data = reconstructed(guided(**settings, consistency="final"), stack)
    assert np.isfinite(data).all()
    assert np.abs(data - reconstructed(guided(consistency="final"), stack)).max() > 1e-3


def test_a_loss_that_is_no_number_ends_the_run(stack):
    huge = ProjectionStack(stack.data * np.float32(1e30), stack.acquisition)
    with pytest.raises(RunFailed, match="training diverged"):
        exhaust(guided(parameterisation="x0").fit(huge, Context()))


@pytest.mark.parametrize(("epochs", "batch", "steps"), [(None, 2, 2), (3, 2, 6), (3, 5, 3)])
def test_epochs_are_passes_over_the_projections(epochs, batch, steps, stack):
    stage, *rest = [e for e in guided(epochs=epochs, batch=batch).fit(stack, Context()) if not isinstance(e, Preview)]
    assert stage == Stage(stage.name, steps)
    assert steps_of(rest) == list(range(1, steps + 1))


# -- what it is trained on ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("acquisition", "centre"),
    [
        (Acquisition(slices=4), (1, 2)),  # between two slices
        (Acquisition(slices=5), (2, 2)),
        (Acquisition(slices=4, profile="point"), (0, 0)),
        (Acquisition(slices=4, stride=3), (1, 2)),
    ],
)
def test_pairs(acquisition, centre):
    stack = projected(acquisition.bound(4))
    prior = np.random.default_rng(1).random(stack.volume_shape).astype(np.float32)
    means, slices, none = (pairs(stack, v, p) for p, v in [("mean", prior), ("slice", prior), ("mean", None)])
    for both in (means, slices, none):  # on the diffusion's scale
        assert both.shape == (4, 2, 32, 36)
        np.testing.assert_allclose(both[:, 0], 2 * stack.data - 1, atol=1e-6)
    np.testing.assert_allclose(means[:, 1], 2 * stack.acquisition.project(prior) - 1, atol=1e-5)
    for k, start in enumerate(stack.acquisition.starts):
        expected = (prior[start + centre[0]] + prior[start + centre[1]]) / 2
        np.testing.assert_allclose(slices[k, 1], 2 * expected - 1, atol=1e-6)
    assert torch.equal(none[:, 0], none[:, 1])


def test_pairing_matters(stack):
    one, other = (reconstructed(guided(pairing=pairing, prior=Cubic()), stack) for pairing in ("mean", "slice"))
    assert np.abs(one - other).max() > 1e-6


@pytest.mark.parametrize(("side", "expected"), [(16, (16, 16)), (64, (20, 25))])
def test_crops_are_pieces_of_the_images(side, expected):
    k, y, x = np.meshgrid(np.arange(3), np.arange(20), np.arange(25), indexing="ij")
    codes = torch.from_numpy(10_000 * k + 100 * y + x)
    where = cuts((3, 20, 25), 40, side, torch.Generator().manual_seed(0))
    pieces, chosen = crops(torch.stack([codes, -codes], 1), where), torch.tensor([cut.image for cut in where])
    assert pieces.shape == (40, 2, *expected)
    assert torch.equal(pieces[:, 0], -pieces[:, 1])  # image and prior are cut and flipped alike
    assert torch.equal(pieces[:, 0].flatten(1) // 10_000, chosen[:, None].expand(-1, expected[0] * expected[1]))
    down, right = pieces[:, 0].diff(dim=1), pieces[:, 0].diff(dim=2)
    for steps, size in ((down, 100), (right, 1)):
        assert set(steps.unique().tolist()) == {-size, size}  # both ways round
        assert torch.equal(steps.flatten(1).min(1).values, steps.flatten(1).max(1).values)
    corners = {int(crop.min()) % 10_000 for crop in pieces[:, 0]}
    assert len(corners) > 20 if side == 16 else corners == {0}


# -- what must not change the result --------------------------------------------------------


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
@pytest.mark.parametrize("consistency", ["none", "every_step"])
def test_the_batch_size_changes_rounding_only(sampler, consistency, stack):
    method = guided(sampler=sampler, consistency=consistency, guidance=0.5)
    weights = exhaust(method.fit(stack, Context()))
    results, lengths = [], []
    for memory in (1, 2 * 4 * method._slice_bytes(stack), 2**30):  # one slice, two blocks, all
        context = Context(batch_bytes=memory)
        events, volume = collected(method.predict(stack, weights, context))
        results.append(volume.data)
        lengths.append(len(steps_of(events)))
    assert lengths == [12, 6, 3]  # three steps for each of four, two, one batches
    np.testing.assert_allclose(results[1], results[0], atol=1e-5)
    np.testing.assert_allclose(results[2], results[0], atol=1e-5)


def test_overlap_in_batches_changes_rounding_only():
    stack = projected(ACQUISITIONS["overlap"])
    for consistency in ("none", "every_step"):
        method = guided(consistency=consistency)
        weights = exhaust(method.fit(stack, Context()))
        small, large = (exhaust(method.estimate(stack, weights, Context(batch_bytes=memory))) for memory in (1, 2**30))
        np.testing.assert_allclose(small, large, atol=1e-5)


def test_every_step_explains_overlapping_projections_to_within_their_noise():
    stack, _ = phantom("vessels", (16, 32, 32), seed=1).simulate(Acquisition(slices=4, stride=2))
    noise = 0.05 * np.random.default_rng(0).standard_normal(stack.shape).astype(np.float32)
    noisy = ProjectionStack(stack.data + noise, stack.acquisition)
    method = guided(consistency="every_step")
    sampled = exhaust(method.estimate(noisy, exhaust(method.fit(noisy, Context())), Context()))
    unexplained = noisy.acquisition.residual(sampled.astype(float), noisy.data)
    assert np.sqrt(np.mean(unexplained**2)) < 0.05
    np.testing.assert_allclose(unexplained.mean((1, 2)), 0, atol=0.01)


@pytest.mark.parametrize(("sampler", "draws"), [("ddim", 1), ("ddpm", 3)])
def test_noise_is_fresh_at_every_step(sampler, draws, stack, monkeypatch):
    method, asked = guided(sampler=sampler), []
    weights = exhaust(method.fit(stack, Context()))

    def noise(seed: int, z: range, step: int, shape: tuple[int, int]) -> torch.Tensor:
        asked.append((seed, step, *z))
        return slice_noise(seed, z, step, shape)

    monkeypatch.setattr(diffusion, "slice_noise", noise)
    exhaust(method.predict(stack, weights, Context(seed=4, batch_bytes=1)))
    assert asked == [(4, step, *range(z, z + 4)) for z in (0, 4, 8, 12) for step in range(draws)]


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_the_seed_fixes_the_result(sampler, stack):
    method = guided(sampler=sampler, prior=INR)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one = reconstructed(method, stack)
    assert torch.equal(torch.random.get_rng_state(), before)  # and other programs' random numbers are left alone
    torch.manual_seed(6)
    np.testing.assert_array_equal(reconstructed(method, stack), one)
    assert np.abs(reconstructed(method, stack, seed=1) - one).max() > 1e-3


def test_previews_do_not_change_the_result(stack):
    method = guided(prior=INR, sampler="ddpm")
    np.testing.assert_array_equal(
        reconstructed(method, stack, preview_seconds=0), reconstructed(method, stack, preview_seconds=1e9)
    )


def test_saved_weights_give_the_same_volume_without_training(stack, tmp_path: Path):
    method = guided(prior=INR, consistency="every_step")
    context = Context()
    weights = exhaust(method.fit(stack, context))
    volume = exhaust(method.predict(stack, weights, context))
    path = save_trained(tmp_path / "w.safetensors", method, weights, stack)
    trained = load_trained(path)
    found = trained.weights
    events, again = collected(trained.method.predict(stack, found, Context()))
    np.testing.assert_array_equal(again.data, volume.data)
    assert all(event.loss is None for event in events if isinstance(event, Step))  # nothing is trained
    resampled = load_trained(path, {"sampling_steps": 5, "sampler": "ddpm"}).method
    events, other = collected(resampled.predict(stack, found, Context()))
    assert steps_of(events)[-5:] == [1, 2, 3, 4, 5]
    assert np.abs(other.data - volume.data).max() > 1e-4


# -- the prior ------------------------------------------------------------------------------


def test_the_prior_is_computed_once_and_stays_as_it_is(stack):
    method, context = guided(prior=INR), Context()
    events, weights = collected(method.fit(stack, context))
    rendered = [event for event in events if isinstance(event, Stage) and event.name == "Computing the volume"]
    assert len(rendered) == 1
    [prior] = context.volumes.values()
    before = prior.copy()
    events, _ = collected(method.predict(stack, weights, context))
    assert [event.name for event in events if isinstance(event, Stage)] == ["Denoising the slices"]
    np.testing.assert_array_equal(prior, before)
    alone = {name.removeprefix("prior."): tensor for name, tensor in weights.items() if name.startswith("prior.")}
    np.testing.assert_array_equal(exhaust(INR.predict(stack, alone, Context())).data, prior)


def test_the_prior_is_not_trained_further(stack):
    alone = exhaust(INR.fit(stack, Context()))
    weights = exhaust(guided(prior=INR, steps=3).fit(stack, Context()))
    assert {name for name in weights if name.startswith("prior.")} == {f"prior.{name}" for name in alone}
    assert all(torch.equal(weights[f"prior.{name}"], tensor) for name, tensor in alone.items())


@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_gamma_decides_whether_the_prior_is_seen(gamma, stack):
    """γ = 0 is naive diffusion, and γ = 1 needs no noise."""
    method = guided(gamma=gamma, parameterisation="x0", sampling_steps=1)
    with_prior = reconstructed(method, stack)
    if gamma == 0:
        np.testing.assert_array_equal(
            with_prior, reconstructed(guided(prior=None, parameterisation="x0", sampling_steps=1), stack)
        )
    else:
        weights = exhaust(method.fit(stack, Context()))
        np.testing.assert_array_equal(exhaust(method.predict(stack, weights, Context(seed=9))).data, with_prior)


# -- the paper's ablations ------------------------------------------------------------------

ABLATIONS: dict[str, dict[str, Any]] = {
    "cross_attention": {"condition": "cross_attention"},
    "no_condition": {"condition": "none"},
    "prior_as_condition": {"injection": "condition"},
    "both": {"injection": "condition", "condition": "cross_attention"},
    "trainable": {"prior_training": "trainable"},
    "joint": {"prior_training": "joint"},
    "trainable_as_condition": {"prior_training": "trainable", "injection": "condition"},
}
ablations = pytest.mark.parametrize("changes", ABLATIONS.values(), ids=ABLATIONS)


@ablations
def test_every_ablation_is_another_model(changes, stack):
    method, default = guided(prior=INR, guidance=0.5, **changes), guided(prior=INR, guidance=0.5)
    data = reconstructed(method, stack)
    assert np.isfinite(data).all()
    assert np.abs(data - reconstructed(default, stack)).max() > 1e-4


@ablations
def test_the_seed_fixes_an_ablation(changes, stack):
    method = guided(prior=INR, **changes)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one = reconstructed(method, stack)
    assert torch.equal(torch.random.get_rng_state(), before)
    np.testing.assert_array_equal(reconstructed(method, stack), one)


@ablations
def test_ablations_with_hidden_projections(changes):
    acquisition = Acquisition(slices=4, count=6, hidden=(1, 4))
    data = reconstructed(guided(prior=INR, consistency="final", **changes), stack := projected(acquisition, (20, 21)))
    assert data.shape == (24, 20, 21)
    assert largest_residual(data, stack) < 1e-5


@ablations
def test_saved_weights_of_an_ablation(changes, stack, tmp_path: Path):
    method, context = guided(prior=INR, **changes), Context()
    weights = exhaust(method.fit(stack, context))
    volume = exhaust(method.predict(stack, weights, context))
    trained = load_trained(save_trained(tmp_path / "w.safetensors", method, weights, stack))
    check_weights(trained.method, stack, trained.weights)
    np.testing.assert_array_equal(exhaust(trained.method.predict(stack, trained.weights, Context())).data, volume.data)
    for other in ({}, *ABLATIONS.values()):
        if other != changes:
            with pytest.raises(InvalidInput, match="cannot be changed on the trained weights"):
                load_trained(tmp_path / "w.safetensors", method=guided(prior=INR, **other))


def test_weights_of_another_network_are_refused(stack):
    weights = exhaust(guided(prior=INR).fit(stack, Context()))
    for changes in ({"condition": "none"}, {"condition": "cross_attention"}, {"injection": "condition"}):
        with pytest.raises(InvalidInput, match="do not fit"):
            check_weights(guided(prior=INR, **changes), stack, weights)


@ablations
def test_a_stop_in_training_an_ablation(changes, stack):
    stop = Stop(is_step(True, 3), stage="Training the diffusion model")
    method = guided(prior=INR, **changes | {"steps": 1000})
    weights = stop.run(method.fit(stack, stop.context))
    assert stop.after == []
    assert weights.keys() == method.untrained(stack, Context()).keys()
    assert np.isfinite(exhaust(method.predict(stack, weights, Context())).data).all()  # they can be used


def test_table_2_how_coordinates_enter_the_prior(stack):
    """Each encoding's prior is that INR's own volume, and no other encoding's."""
    priors = {}
    for encoding in ("gaussian", "sincos", "hash"):
        prior, context = INR.model_copy(update={"encoding": encoding}), Context()
        exhaust(guided(prior=prior).fit(stack, context))
        [priors[encoding]] = context.volumes.values()
        alone = exhaust(prior.predict(stack, exhaust(prior.fit(stack, Context())), Context())).data
        np.testing.assert_allclose(priors[encoding], alone, atol=1e-6)
    for one, other in (("gaussian", "sincos"), ("gaussian", "hash"), ("sincos", "hash")):
        assert np.abs(priors[one] - priors[other]).max() > 1e-3


@pytest.mark.parametrize("condition", ["addition", "cross_attention", "none"])
def test_table_3_whether_the_projections_are_a_condition(condition, stack):
    """Without prior, the closest projection is all that tells one stack's volume from another's."""
    method = guided(prior=None, condition=condition, guidance=1.0)
    weights = exhaust(method.fit(stack, Context()))
    upside_down = ProjectionStack(np.ascontiguousarray(stack.data[::-1]), stack.acquisition)
    one, other = (exhaust(method.predict(given, weights, Context())).data for given in (stack, upside_down))
    assert np.array_equal(one, other) == (condition == "none")


def test_table_3_cross_attention_takes_the_place_of_self_attention(stack):
    parts = {
        condition: {name.split(".")[2] for name in method.untrained(stack, Context()) if ".unet." in name}
        for condition in ("addition", "cross_attention", "none")
        for method in [guided(condition=condition, attention=True)]
    }
    assert parts["addition"] - parts["none"] == {"condition"}
    assert parts["none"] >= {"attention"}
    assert parts["none"] ^ parts["cross_attention"] == {"attention", "cross"}


def test_table_3_without_condition_guidance_takes_no_memory(stack):
    def twice(**changes: Any) -> float:
        return guided(guidance=1.0, **changes)._slice_bytes(stack) / guided(**changes)._slice_bytes(stack)

    assert twice() == 2
    assert twice(condition="none") == 1


@pytest.mark.parametrize("neighbouring", ["none", "uniform", "gaussian"])
def test_table_4_how_the_prior_is_inferred(neighbouring):
    """Of an odd number n of slices the neighbours are slices themselves: their mean is told from the plain volume."""
    stack = projected(Acquisition(slices=3, count=5), (16, 17))
    named = spec("microdiffusion", "paper", {"prior.neighbouring": neighbouring})
    assert isinstance(named, Guided)
    assert isinstance(named.prior, Inr)
    assert named.prior.neighbouring == neighbouring
    prior, context = INR.model_copy(update={"neighbouring": neighbouring, "consistency": "none"}), Context()
    weights = exhaust(guided(prior=prior).fit(stack, context))
    [volume] = context.volumes.values()
    plain = prior.model_copy(update={"neighbouring": "none"})
    alone = exhaust(plain.predict(stack, without_prefix(weights, "prior."), Context())).data
    k = np.exp(-(((np.arange(3) + 0.5) / 3 - 0.5) ** 2) / 2)
    share = {"none": np.array([0, 1, 0]), "uniform": np.ones(3) / 3, "gaussian": k / k.sum()}[neighbouring]
    expected = share[0] * alone[:-2] + share[1] * alone[1:-1] + share[2] * alone[2:]
    np.testing.assert_allclose(volume[1:-1], expected, atol=1e-5)


def test_table_5_gamma_has_no_effect_on_a_prior_that_is_a_condition(stack):
    low, high = (reconstructed(guided(injection="condition", gamma=gamma), stack) for gamma in (0.0, 1.0))
    np.testing.assert_array_equal(low, high)


@pytest.mark.parametrize("injection", ["interpolation", "condition"])
def test_table_5_where_the_prior_is_seen(injection, stack, monkeypatch):
    """In the network's input or in the condition, in training (paired) and in sampling (slice by slice)."""
    inputs, guides = [], []

    def forward(self: UNet, x: torch.Tensor, time: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        inputs.append(x.detach())
        return plain_forward(self, x, time, condition)

    def condition(self: Denoiser, images: torch.Tensor, guide: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        guides.append(guide)
        return plain_condition(self, images, guide, z)

    plain_forward, plain_condition = UNet.forward, Denoiser.condition
    monkeypatch.setattr(UNet, "forward", forward)
    monkeypatch.setattr(Denoiser, "condition", condition)
    prior = Cubic(consistency="none")
    method = guided(prior=prior, injection=injection, steps=1, crop=64, sampling_steps=1, pairing="mean")
    weights = exhaust(method.fit(stack, Context()))
    exhaust(method.predict(stack, weights, Context()))
    volume = exhaust(prior.predict(stack, {}, Context())).data
    paired = 2 * stack.acquisition.project(volume) - 1
    for guide in guides[0][:, 0].numpy():  # crops as large as the image, perhaps flipped
        flips = [paired[:, ::up, ::left] for up in (1, -1) for left in (1, -1)]
        assert min(np.abs(image - guide).max() for images in flips for image in images) < 1e-5
    np.testing.assert_allclose(guides[1][:, 0], 2 * volume - 1, atol=1e-5)
    noise = slice_noise(0, range(16), 0, stack.shape[1:]).numpy()  # X_T
    gamma = method.gamma if injection == "interpolation" else 0
    np.testing.assert_allclose(inputs[1][:, 0], gamma * (2 * volume - 1) + (1 - gamma) * noise, atol=1e-5)


@pytest.mark.parametrize("gamma", [0.1, 1.0])
def test_table_5_a_prior_that_is_a_condition_guides(gamma, stack):
    """The same weights with another prior give another volume."""
    weights = exhaust(guided(injection="condition", gamma=gamma).fit(stack, Context()))
    one, other = (
        exhaust(guided(prior=prior, injection="condition", gamma=gamma).predict(stack, weights, Context())).data
        for prior in (Linear(), Cubic())
    )
    assert np.abs(one - other).max() > 1e-6


def inr_weights(stack: ProjectionStack, prior: Inr = INR, **changes: Any) -> Weights:
    """The INR's weights after a training of guided diffusion."""
    return without_prefix(exhaust(guided(prior=prior, **changes).fit(stack, Context())), "prior.")


def largest_change(one: Weights, other: Weights) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize("changes", [{}, {"injection": "condition"}], ids=["interpolation", "condition"])
def test_table_6_a_trainable_prior_goes_on_from_its_own_training(changes, stack):
    """At the diffusion model's learning rate; through Eq. 9 and through the condition."""
    alone = exhaust(INR.fit(stack, Context()))
    trained = {
        rate: inr_weights(stack, prior_training="trainable", learning_rate=rate, **changes) for rate in (1e-9, 1e-2)
    }
    assert largest_change(alone, trained[1e-9]) < 1e-7
    assert largest_change(alone, trained[1e-2]) > 1e-3


def test_table_6_a_trainable_prior_that_is_not_seen_stays_as_it_is(stack):
    alone = exhaust(INR.fit(stack, Context()))
    assert largest_change(alone, inr_weights(stack, prior_training="trainable", gamma=0.0)) == 0


def test_table_6_joint_training_begins_at_random(stack):
    """At the INR's own learning rate."""
    start = INR.network(stack, Context()).state_dict()
    for rate, changed in ((1e-9, False), (1e-2, True)):
        prior = INR.model_copy(update={"learning_rate": rate})
        assert (largest_change(start, inr_weights(stack, prior, prior_training="joint")) > 1e-3) == changed


def test_table_6_joint_training_lowers_the_loss_of_the_inr(stack):
    prior = INR.model_copy(update={"learning_rate": 1e-2})
    method, context = guided(prior=prior, prior_training="joint", steps=40, schedule="constant"), Context()
    weights = exhaust(method.fit(stack, context))

    def loss(weights: Weights) -> float:
        net = prior.network(stack, context)
        net.load_state_dict(weights)
        return next(prior.losses(net, stack, context))[0].item()

    assert loss(without_prefix(weights, "prior.")) < 0.5 * loss(prior.network(stack, context).state_dict())


@pytest.mark.parametrize(
    ("training", "stages"),
    [
        ("frozen", [("Training the neural representation", 2), ("Training the diffusion model", 3)]),
        ("trainable", [("Training the neural representation", 2), ("Training the diffusion model", 3)]),
        ("joint", [("Training the diffusion model", 3)]),
    ],
)
def test_table_6_the_diffusion_model_trains_for_as_many_steps(training, stages, stack):
    events, _ = collected(guided(prior=INR, prior_training=training, steps=3).fit(stack, Context()))
    found = [event for event in events if isinstance(event, Stage) and event.name.startswith("Training")]
    assert [(stage.name, stage.steps) for stage in found] == stages
    trained = [event.done for event in events if isinstance(event, Step) and event.loss is not None]
    assert trained == [done + 1 for _, steps in stages for done in range(steps)]


@pytest.mark.parametrize("training", ["trainable", "joint"])
def test_table_6_the_prior_of_sampling_is_that_of_the_final_weights(training, stack):
    context = Context()
    exhaust(guided(prior=INR).fit(stack, context))  # leaves the volume of the frozen prior in the context
    method = guided(prior=INR, prior_training=training, learning_rate=1e-2)
    weights = exhaust(method.fit(stack, context))
    events, volume = collected(method.predict(stack, weights, context))
    shown = next(event.data for event in events if isinstance(event, Preview) and len(event.data) == len(volume.data))
    final = exhaust(INR.predict(stack, without_prefix(weights, "prior."), Context())).data
    np.testing.assert_array_equal(shown, final)
    np.testing.assert_array_equal(volume.data, exhaust(method.predict(stack, weights, Context())).data)


@pytest.mark.parametrize("neighbouring", ["none", "gaussian"])
@pytest.mark.parametrize("pairing", ["mean", "slice"])
@pytest.mark.parametrize("acquisition", [Acquisition(slices=5, count=4), *ACQUISITIONS.values()])
def test_table_6_what_a_prior_in_training_gives_is_what_its_volume_would(
    acquisition, pairing, neighbouring, monkeypatch
):
    stack = projected(acquisition, (20, 25))
    prior = INR.model_copy(update={"neighbouring": neighbouring, "consistency": "none"})
    weights = exhaust(prior.fit(stack, Context()))
    volume = exhaust(prior.predict(stack, weights, Context())).data
    where = cuts(stack.shape, 6, 16, torch.Generator().manual_seed(1))
    monkeypatch.setattr(_joint, "POINTS_AT_ONCE", 100)
    joint = JointPrior(prior, stack, paired(stack, pairing), weights, Context())
    expected = crops(pairs(stack, volume, pairing), where)[:, 1:]
    torch.testing.assert_close(joint.guides(where).detach(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pairing", ["mean", "slice"])
def test_table_6_gradients_reach_the_inr_in_pieces_as_at_once(pairing, stack, monkeypatch):
    where = cuts(stack.shape, 3, 16, torch.Generator().manual_seed(1))
    pull = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(2))
    weights, rows = exhaust(INR.fit(stack, Context())), paired(stack, pairing)

    def gradients(points: int) -> list[torch.Tensor]:
        monkeypatch.setattr(_joint, "POINTS_AT_ONCE", points)
        joint = JointPrior(INR, stack, rows, weights, Context())
        (joint.guides(where) * pull).sum().backward()
        return [weight.grad for weight in joint.net.parameters()]

    net, z = INR.network(stack, Context()), torch.from_numpy(stack.acquisition.slice_centres).float()[None]
    net.load_state_dict(weights)
    y, x = torch.meshgrid(torch.arange(32) - 15.5, torch.arange(36) - 17.5, indexing="ij")
    volume = net(z, torch.stack([y, x], -1).reshape(1, -1, 2)).view(16, 32, 36)  # all of it, in one graph
    images = torch.einsum("kz,zyx->kyx", torch.from_numpy(rows).float(), volume)[:, None] * 2 - 1
    (crops(images, where) * pull).sum().backward()
    for small, large, expected in zip(gradients(64), gradients(2**20), net.parameters(), strict=True):
        assert small.any()
        torch.testing.assert_close(small, large, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(small, expected.grad, rtol=1e-3, atol=1e-4)


def test_table_6_crops_of_the_prior_keep_no_activations(stack):
    kept: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    where = cuts(stack.shape, 8, 32, torch.Generator().manual_seed(1))
    joint = JointPrior(INR, stack, paired(stack, "mean"), None, Context())
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        guides = joint.guides(where)
    assert guides.requires_grad
    assert sum(kept) <= guides.numel()  # which pixel each is; activations of one layer are n times its width as many


def test_table_6_the_loss_of_the_inr_fades(stack):
    joint = JointPrior(INR, stack, paired(stack, "mean"), None, Context())
    net = INR.network(stack, Context())
    losses, sizes = INR.losses(net, stack, Context()), []
    for progress, weight in ((0.0, 4.0), (0.5, 2.0), (1.0, 0.0)):
        for module in (joint.net, net):
            module.zero_grad()
        joint.backward(progress)
        next(losses)[1].backward()
        for ours, plain in zip(joint.net.parameters(), net.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, weight * plain.grad, rtol=1e-4, atol=1e-7)
        sizes.append(max(float(ours.grad.abs().max()) for ours in joint.net.parameters()))
    assert sizes[0] > sizes[1] > sizes[2] == 0
    further = JointPrior(INR, stack, paired(stack, "mean"), net.state_dict(), Context())
    further.backward(0.0)  # trained further, the diffusion model's loss is all there is
    assert all(weight.grad is None for weight in further.net.parameters())


@pytest.mark.parametrize("training", ["trainable", "joint"])
def test_table_6_training_together_takes_the_memory_of_both(training, stack):
    small, large = (INR.model_copy(update={"rays": rays}) for rays in (256, 2**20))
    more = large.memory_bytes(stack)[0] - small.memory_bytes(stack)[0]
    taken = [guided(prior=prior, prior_training=training).memory_bytes(stack)[0] for prior in (small, large)]
    assert taken[1] - taken[0] == more
    assert taken[0] > guided(prior=small).memory_bytes(stack)[0]


@pytest.mark.parametrize("training", ["trainable", "joint"])
@pytest.mark.parametrize("prior", [None, Linear(), Axial()], ids=["none", "linear", "axial"])
def test_table_6_only_an_inr_trains_with_the_diffusion_model(prior, training):
    values = guided(prior=prior).model_dump() | {"prior_training": training}
    with pytest.raises(InvalidInput, match=f"^prior_training={training} needs a prior that trains with it: inr$"):
        validated(values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prior": None, "injection": "condition"}, "injection=condition needs a prior"),
        ({"injection": "condition", "condition": "none"}, "needs condition=addition or cross_attention"),
    ],
)
def test_settings_that_exclude_one_another(changes, message):
    with pytest.raises(InvalidInput, match=message):
        validated(guided().model_dump() | changes)


@pytest.mark.parametrize("gamma", [0.0, 1.0])
@pytest.mark.parametrize(("n", "training"), [(2, "frozen"), (3, "frozen"), (9, "frozen"), (2, "joint"), (3, "joint")])
def test_any_step_length_with_four_projections_left(n, training, gamma):
    stack = projected(Acquisition(slices=n, count=6, hidden=(1, 4)), (16, 18))
    data = reconstructed(guided(prior=INR, gamma=gamma, pairing="slice", prior_training=training), stack)
    assert data.shape == (6 * n, 16, 18)
    assert np.isfinite(data).all()


# -- previews and stops ---------------------------------------------------------------------


def test_slices_replace_the_prior_one_by_one(stack):
    method, context = guided(prior=INR), Context(batch_bytes=1)
    weights = exhaust(method.fit(stack, context))
    events, volume = collected(method.predict(stack, weights, context))
    done = [event for event in events if isinstance(event, Preview)]
    assert [event.start for event in done] == list(range(stack.acquisition.depth))
    np.testing.assert_array_equal(np.concatenate([event.data for event in done]), volume.data)
    [stage] = [event for event in events if isinstance(event, Stage)]
    assert steps_of(events) == list(range(1, stage.steps + 1))


def test_training_shows_the_prior_first(stack):
    method, context = guided(prior=INR), Context()
    events, _ = collected(method.fit(stack, context))
    names = [event.name for event in events if isinstance(event, Stage)]
    assert names == ["Training the neural representation", "Computing the volume", "Training the diffusion model"]
    whole = [event for event in events if isinstance(event, Preview) and len(event.data) == stack.acquisition.depth]
    assert len(whole) == 1
    np.testing.assert_array_equal(whole[0].data, next(iter(context.volumes.values())))
    later = events[[event is whole[0] for event in events].index(True) :]
    assert [event.name for event in later if isinstance(event, Stage)] == names[2:]


class Stop:
    """A cancel flag, set when an event is seen, in a stage if one is named; keeps what came after."""

    def __init__(self, when: Callable[[Event], bool], stage: str | None = None, **context: Any) -> None:
        self.when = when
        self.stage = stage
        self.begun = stage is None
        self.flag = False
        self.after: list[Event] = []
        self.context = Context(cancelled=lambda: self.flag, **context)

    def run(self, events: Generator[Event, None, Any]) -> Any:
        while True:
            try:
                event = next(events)
            except StopIteration as end:
                return end.value
            if self.flag:
                self.after.append(event)
            self.begun = self.begun or (isinstance(event, Stage) and event.name == self.stage)
            self.flag = self.flag or (self.begun and self.when(event))


def is_step(stage_losses: bool, done: int) -> Callable[[Event], bool]:
    """Whether an event is this step, of a training (which has losses) or not."""
    return lambda event: isinstance(event, Step) and event.done == done and (event.loss is not None) == stage_losses


def test_a_stop_in_training_the_prior(stack):
    stop = Stop(is_step(True, 3))
    method = guided(prior=INR.model_copy(update={"steps": 1000}))
    weights: Weights = stop.run(method.fit(stack, stop.context))
    assert stop.after == []
    assert stop.context.stopped
    assert stop.context.volumes == {}
    assert {name.partition(".")[0] for name in weights} == {"prior"}


def test_a_stop_in_computing_the_prior(stack):
    stop = Stop(is_step(False, 5))
    stop.run(guided(prior=INR).fit(stack, stop.context))
    assert stop.after == []  # above all no volume with slices that were not reached
    assert stop.context.volumes == {}


def test_a_stop_in_training_the_diffusion_model(stack):
    stop = Stop(is_step(True, 3))
    method = guided(steps=1000)
    weights = stop.run(method.fit(stack, stop.context))
    assert stop.after == []
    assert np.isfinite(exhaust(method.predict(stack, weights, Context())).data).all()  # they can be used


@pytest.mark.parametrize("prior", [None, Linear()], ids=["none", "linear"])
def test_a_stop_in_sampling_keeps_the_prior_where_no_slice_was_reached(prior, stack):
    method = guided(prior=prior)
    weights = exhaust(method.fit(stack, Context()))
    whole = exhaust(method.predict(stack, weights, Context(batch_bytes=1))).data
    stop = Stop(is_step(False, 5), batch_bytes=1)  # the second of four blocks
    data = stop.run(method.predict(stack, weights, stop.context)).data
    assert stop.after == []
    np.testing.assert_array_equal(data[:4], whole[:4])
    np.testing.assert_array_equal(data[4:], exhaust(Linear().predict(stack, {}, Context())).data[4:])


def test_a_stop_in_computing_the_prior_from_saved_weights(stack):
    method = guided(prior=INR)
    weights = exhaust(method.fit(stack, Context()))
    stop = Stop(is_step(False, 2))
    stop.run(method.predict(stack, weights, stop.context))
    assert stop.after == []


def test_a_prior_that_fell_back_makes_no_interpolation_of_the_volume(stack):
    """What it found else is told: the blur, for one."""
    prior = Axial()
    weights = prior.untrained(stack, Context()) | Trial({0.0: 27.0}, 28.0, 1.0).weights()
    own = prior.findings(stack, weights)
    assert own.pop("fell_back") is True
    assert guided(prior=prior).findings(stack, with_prefix(weights, PRIOR)) == own
