"""The axial diffusion posterior: its contract whatever the weights, samples, known answers, stops, weights kept."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
import pytest
import torch

from conftest import collected
from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.diffusion import Schedule
from napari_microdiffusion.events import Event, InvalidInput, Notice, Preview, Stage, Step, exhaust
from napari_microdiffusion.methods import Axial, AxialPosterior, Context, Method, Weights
from napari_microdiffusion.methods._base import DENOISER, PRIOR, with_prefix, without_prefix
from napari_microdiffusion.methods._deviations import Deviations
from napari_microdiffusion.methods._training import muon, take_step
from napari_microdiffusion.methods._trial import Trial
from napari_microdiffusion.noise import noise_variance
from napari_microdiffusion.presets import name_of, override, spec
from napari_microdiffusion.run import Job, run
from napari_microdiffusion.trained import load_trained, save_trained
from napari_microdiffusion.volume import ProjectionStack, Volume

TINY: dict[str, Any] = {"channels": 8, "blocks": 2, "batch": 1, "steps": 3, "sampling_steps": 3}
PRIOR_TINY = Axial(channels=8, blocks=2, batch=1, steps=3, ratio=1.0)

ACQUISITIONS = {
    "uniform": Acquisition(slices=6, count=6),
    "gaussian": Acquisition(slices=6, profile="gaussian", fwhm=3, count=6),
    "point": Acquisition(slices=4, profile="point", count=6),
    "gaps": Acquisition(slices=4, stride=7, count=5),
    "hidden": Acquisition(slices=4, count=7, hidden=(0, 3)),
}
OVERLAP = Acquisition(slices=6, stride=3, count=8)

BELIEVED = Trial({0.0: 20.0}, 19.0, 1.0)
"""Of a network that told hidden projections 1 dB better than the interpolation."""


def posterior(**settings: Any) -> AxialPosterior:
    return AxialPosterior(**TINY | {"prior": PRIOR_TINY} | settings)


def waves(acquisition: Acquisition = ACQUISITIONS["uniform"], size: tuple[int, int] = (32, 36)) -> ProjectionStack:
    """Projections of noisy waves on the engine's scale."""
    rng = np.random.default_rng(0)
    z, y, x = np.meshgrid(np.arange(acquisition.depth), np.arange(size[0]), np.arange(size[1]), indexing="ij")
    volume = 0.5 + 0.4 * np.sin(z / 3 + x / 5) * np.cos(y / 4) + 0.02 * rng.standard_normal(z.shape)
    return ProjectionStack(acquisition.project(volume.astype(np.float32)), acquisition)


def weights_of(method: AxialPosterior, stack: ProjectionStack, size: float = 0.05, trial: Trial = BELIEVED) -> Weights:
    """Weights of networks that say anything, of this size, and are believed; 0: nothing."""
    generator = torch.Generator().manual_seed(0)
    untrained = method.untrained(stack, Context())
    random = {name: size * torch.randn(tensor.shape, generator=generator) for name, tensor in untrained.items()}
    return random | with_prefix(trial.weights(), PRIOR)


def predicted(method: AxialPosterior, stack: ProjectionStack, weights: Weights, **context: Any) -> Volume:
    return exhaust(method.predict(stack, weights, Context(**context)))


def mean_of(method: AxialPosterior, stack: ProjectionStack, weights: Weights) -> Volume:
    """What axial super-resolution gives with the same weights."""
    return exhaust(method.prior.predict(stack, without_prefix(weights, PRIOR), Context()))


@pytest.mark.parametrize("acquisition", ACQUISITIONS.values(), ids=ACQUISITIONS)
@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("consistency", ["none", "final"])
def test_whatever_the_networks_say_every_sample_is_consistent(acquisition, samples, consistency):
    stack = waves(acquisition)
    method = posterior(samples=samples, consistency=consistency)
    weights = weights_of(method, stack)
    volume = predicted(method, stack, weights)
    assert volume.data.shape == stack.volume_shape
    assert volume.data.dtype == np.float32
    residual = np.abs(stack.acquisition.residual(volume.data.astype(float), stack.data)).max()
    assert residual < 1e-5 * max(1, np.abs(volume.data).max())
    assert np.abs(volume.data - mean_of(method, stack, weights).data).max() > 1e-2
    assert volume.reliability is not None
    assert volume.reliability.std.shape == stack.volume_shape
    assert (volume.reliability.upper >= volume.reliability.lower).all()


def test_overlapping_projections_are_explained_to_within_their_noise():
    stack, method = waves(OVERLAP), posterior()
    weights = weights_of(method, stack, size=0.02)
    volume, mean = predicted(method, stack, weights), mean_of(method, stack, weights)
    of_sample, of_mean = (np.square(OVERLAP.residual(v.data.astype(float), stack.data)).mean() for v in (volume, mean))
    assert of_sample < 2 * max(of_mean, noise_variance(stack.data))


def test_independent_deviations_are_drawn_as_wide_as_stated():
    """An untrained network knows nothing of how deviations hang together, so they are white and normal, each as wide as
    the intervals say; five of six slices' worth of them are seen by no projection.
    """
    stack = waves(size=(32, 32))
    method = posterior(samples=30, sampling_steps=25)
    weights = weights_of(method, stack, size=0.0)
    volume, mean = predicted(method, stack, weights), mean_of(method, stack, weights)
    assert volume.reliability is not None
    assert mean.reliability is not None
    stated, drawn = float(mean.reliability.std.mean()), float(np.sqrt((volume.reliability.std**2).mean()))
    assert drawn == pytest.approx(stated * np.sqrt(5 / 6), rel=0.08)
    assert np.sqrt(((volume.data - mean.data) ** 2).mean()) == pytest.approx(drawn / np.sqrt(30), rel=0.1)


def test_one_sample_keeps_the_intervals_of_the_mean_and_several_have_their_own():
    stack = waves()
    one, several = (posterior(samples=n) for n in (1, 3))
    weights = weights_of(one, stack)
    mean, first = mean_of(one, stack, weights), predicted(one, stack, weights)
    assert mean.reliability is not None
    assert first.reliability is not None
    np.testing.assert_array_equal(first.reliability.std, mean.reliability.std)
    volume = predicted(several, stack, weights)
    assert volume.reliability is not None
    half = (volume.reliability.upper - volume.reliability.lower) / 2
    np.testing.assert_allclose(half, 1.645 * volume.reliability.std, rtol=1e-2, atol=1e-5)


def test_a_run_leaves_a_sample_the_error_bars_of_the_mean(monkeypatch):
    """However far it strays from it: they are not stretched until they hold it."""
    monkeypatch.setattr(Axial, "refine", Method.refine)  # the trial stays as it is
    stack, method = waves(), posterior(sampling_steps=20)
    weights = weights_of(method, stack, size=0.0)
    job = Job(method=method, acquisition=stack.acquisition, device="cpu", precision="float32")
    plain = job.model_copy(update={"method": method.prior})
    sample = exhaust(run(job, stack, weights=weights)).volume
    mean = exhaust(run(plain, stack, weights=without_prefix(weights, PRIOR))).volume
    assert sample.reliability is not None
    assert mean.reliability is not None
    np.testing.assert_allclose(sample.reliability.upper, mean.reliability.upper, atol=1e-5)
    assert 0.02 < (sample.data > sample.reliability.upper).mean() < 0.08  # one of twenty, a little less of it drawn


def test_another_seed_draws_another_volume():
    stack, method = waves(), posterior()
    weights = weights_of(method, stack)
    first, again, other = (predicted(method, stack, weights, seed=seed).data for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-2


def test_the_size_of_batches_does_not_matter():
    stack, method = waves(), posterior()
    weights = weights_of(method, stack)
    whole, planes = (predicted(method, stack, weights, batch_bytes=size).data for size in (2**31, 1))
    np.testing.assert_allclose(whole, planes, atol=1e-4)


def test_what_a_held_out_score_reads_is_the_volume_that_is_drawn():
    stack, method = waves(), posterior()
    weights = weights_of(method, stack)
    voxels = exhaust(method.voxels(stack, weights, Context()))
    np.testing.assert_array_equal(voxels, predicted(method, stack, weights).data)


@pytest.mark.parametrize(
    "trial", [Trial({0.0: 18.0}, 19.0, 1.0), Trial({}, 0.0)], ids=["misled", "too few projections to hide any"]
)
def test_where_nothing_is_known_of_deviations_none_are_drawn(trial):
    stack, method = waves(), posterior()
    weights = weights_of(method, stack, trial=trial)
    events, volume = collected(method.predict(stack, weights, Context()))
    np.testing.assert_array_equal(volume.data, mean_of(method, stack, weights).data)
    assert volume.reliability is None
    assert any(isinstance(event, Notice) and "no volumes are drawn" in event.message for event in events)


def test_deviations_are_drawn_as_wide_as_they_were_trained_on(monkeypatch):
    """For the blur that intervals are for; not as wide as those of the mean, which a trial may have widened."""
    widths: list[np.ndarray] = []
    draw, blurs = Deviations.draw, []

    def noted(self, stack, known, anisotropy, *rest):
        widths.append(known[1])
        blurs.append(anisotropy.sigma)
        return draw(self, stack, known, anisotropy, *rest)

    monkeypatch.setattr(Deviations, "draw", noted)
    stack, method = waves(), posterior()
    for widening in (1.0, 2.0):
        weights = weights_of(method, stack, trial=Trial({2.0: 20.0}, 19.0, widening, sharper=0.25))
        mean = mean_of(method, stack, weights)
        predicted(method, stack, weights)
        assert mean.reliability is not None
        np.testing.assert_allclose(widths[-1] * widening, mean.reliability.std, rtol=1e-6)
    np.testing.assert_allclose(*widths, rtol=1e-3, atol=1e-6)
    assert blurs == pytest.approx([1.5, 1.5])


def test_errors_weigh_as_much_as_deviations_are_large(monkeypatch):
    """A network that says nothing: what it misses are the deviations themselves."""
    seen: dict[str, torch.Tensor] = {}
    noised = Schedule.noised

    def noted(self, clean, noise, t):
        seen.update(clean=clean, t=t)
        return noised(self, clean, noise, t)

    def nothing(self, planes, *_):  # noqa: ARG001
        seen.update(std=planes[:, 2])
        return torch.zeros_like(planes[:, 0])

    monkeypatch.setattr(Schedule, "noised", noted)
    monkeypatch.setattr(Deviations, "_estimate", nothing)
    stack, context, method = waves(size=(64, 64)), Context(), posterior()
    model, net = method._model(stack, context), method.prior.network(stack, context)
    patches = method.prior.cutter(stack, 1.0, context)(1)
    loss = float(model.loss(net, patches, 0.0, torch.Generator().manual_seed(0)))
    _, sigma = model.schedule.levels(seen["t"], seen["clean"])
    errors, weights = (seen["clean"] / sigma.clamp_min(0.1)).square(), seen["std"].square()
    assert loss == pytest.approx(float((weights * errors).sum() / weights.sum()), rel=1e-4)
    assert abs(loss / float(errors.mean()) - 1) > 0.01  # or weights would not matter here


def test_training_learns_how_deviations_hang_together():
    """On the same patches again and again, deviations are told apart from their noise ever better."""
    stack, context = waves(size=(64, 64)), Context()
    method = posterior(channels=16)
    model, net = method._model(stack, context), method.prior.network(stack, context)
    patches = method.prior.cutter(stack, 1.0, context)(1)
    generator, optimisers = torch.Generator().manual_seed(0), muon(model.denoiser, 1e-2)
    losses = [take_step(model.loss(net, patches, 0.0, generator), optimisers) for _ in range(150)]
    assert np.mean(losses[-30:]) < 0.75 * np.mean(losses[:30])


@pytest.fixture
def believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Axial super-resolution does not fall back to interpolation, though its network has learned nothing."""

    def tried(*_: Any) -> Generator[Event, None, Trial]:
        yield Stage("Choosing blur and elongation by hidden projections", 1)
        return BELIEVED

    monkeypatch.setattr("napari_microdiffusion.methods.axial.try_out", tried)


@pytest.mark.usefixtures("believed")
def test_fitting_trains_the_mean_first_and_then_its_deviations():
    events, weights = collected(posterior().fit(waves(), Context()))
    names = [event.name for event in events if isinstance(event, Stage)]
    assert names[0] == "Training on the lateral detail"
    assert names[-1] == "Training the diffusion of deviations"
    assert "Stating the error bars" not in names  # of a mean that is only looked at
    shown = [event for event in events if isinstance(event, Preview)][-1]  # what a stop leaves from then on
    np.testing.assert_array_equal(shown.data, mean_of(posterior(), waves(), weights).data)
    untrained = posterior().untrained(waves(), Context())
    assert {name: tensor.shape for name, tensor in weights.items()} == {n: t.shape for n, t in untrained.items()}
    assert any(not torch.equal(weights[name], untrained[name]) for name in weights if name.startswith(DENOISER))


def test_progress_reaches_its_end_and_a_stop_gives_the_mean():
    stack, method = waves(), posterior(samples=2)
    weights = weights_of(method, stack)
    events, _ = collected(method.predict(stack, weights, Context()))
    stage = [event for event in events if isinstance(event, Stage)][-1]
    assert [event.done for event in events if isinstance(event, Step)][-stage.steps :] == list(
        range(1, stage.steps + 1)
    )
    asked = iter(range(1000))
    context = Context(cancelled=lambda: next(asked) > 26)  # restoring asks 16 times, stating error bars 8
    volume = exhaust(method.predict(stack, weights, context))
    assert context.stopped
    np.testing.assert_array_equal(volume.data, mean_of(method, stack, weights).data)


def test_trained_weights_are_saved_and_applied_again(tmp_path):
    stack = waves()
    method = posterior()
    job = Job(method=method, acquisition=stack.acquisition, device="cpu", precision="float32")
    result = exhaust(run(job, stack))
    assert {name.split(".")[0] + "." for name in result.weights} == {PRIOR, DENOISER}
    path = save_trained(tmp_path / "w.safetensors", method, result.weights, stack)
    again = exhaust(run(job, stack, weights=load_trained(path).weights))
    np.testing.assert_array_equal(again.volume.data, result.volume.data)
    assert again.volume.provenance["found"]["voxel_ratio"] == 1.0


@pytest.mark.usefixtures("believed")
def test_a_stop_in_training_leaves_no_weights_that_look_complete():
    stack, method = waves(), posterior(steps=50)
    events = method.fit(stack, context := Context())
    asked = iter(range(10**6))
    for event in events:
        if isinstance(event, Stage) and "deviations" in event.name:
            context.cancelled = lambda: next(asked) > 2
        last = event
    assert context.stopped
    assert isinstance(last, Step)
    assert last.done < 50
    weights = collected(method.fit(stack, Context(cancelled=lambda: next(asked) % 40 == 39)))[1]
    assert weights.keys() < method.untrained(stack, Context()).keys()


def test_too_few_projections_to_hide_any_are_told_before_training():
    events, weights = collected(posterior().fit(waves(Acquisition(slices=6, count=3)), Context()))
    assert any(isinstance(event, Notice) and "not trained" in event.message for event in events)
    assert not any(isinstance(event, Stage) and "deviations" in event.name for event in events)
    assert any(name.startswith(DENOISER) for name in weights)


def test_settings_of_the_mean_may_be_changed_on_trained_weights(tmp_path):
    stack, method = waves(), posterior()
    path = save_trained(tmp_path / "w.safetensors", method, method.untrained(stack, Context()), stack)
    wanted = override(method, {"samples": 3, "prior.sigma": 1.0, "prior.fine_tuning": 2})
    trained = load_trained(path, method=wanted)
    assert trained.method == wanted
    assert "trained on for 2 steps" in (trained.check_input(waves(size=(32, 40))) or "")
    with pytest.raises(InvalidInput, match=r"prior\.channels cannot be changed"):
        load_trained(path, method=override(method, {"prior.channels": 16}))


def test_its_name_and_presets():
    method = spec("axial_posterior", "standard", {"samples": 4, "prior.sigma": 2.0})
    assert isinstance(method, AxialPosterior)
    assert name_of(method) == "axial_posterior"
    assert method.prior == spec("axial", "standard", {"sigma": 2.0})
    assert not method.refines
    assert spec("axial_posterior", overrides={"prior.fine_tuning": 5}).refines
