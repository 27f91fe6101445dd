"""Sparse3Diff and its plain baseline: training, every kind of stack, alignment that must help, stops, the paper."""

from __future__ import annotations

from collections.abc import Callable, Generator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from conftest import collected
from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.events import Event, Notice, Preview, RunFailed, Stage, Step, exhaust
from napari_microdiffusion.methods import Conservative, Context, Ddpm, Sparse3Diff, Weights, sparse3diff
from napari_microdiffusion.methods._subvolumes import Subvolumes
from napari_microdiffusion.methods._windows import Windows
from napari_microdiffusion.phantoms import phantom
from napari_microdiffusion.presets import sources, spec
from napari_microdiffusion.volume import ProjectionStack

KINDS = {"sparse3diff": Sparse3Diff, "ddpm": Ddpm}
BOTH = pytest.mark.parametrize("kind", KINDS)
POINT = Acquisition(slices=4, profile="point")
ACQUISITIONS = {
    "point": POINT.bound(6),
    "uniform": Acquisition(slices=4, count=6),
    "gaps": Acquisition(slices=3, stride=5, count=5),
    "hidden": Acquisition(slices=4, count=7, hidden=(2,)),
    "neighbours hidden": Acquisition(slices=4, profile="point", count=7, hidden=(2, 3)),
    "ends hidden": Acquisition(slices=4, count=7, hidden=(0, 6)),
    "three": POINT.bound(3),
    "three of five": Acquisition(slices=4, count=5, hidden=(1, 3)),
    "every other slice": Acquisition(slices=2, profile="point", count=6),
    "late": Acquisition(slices=3, profile="measured", weights=(0, 0, 1), count=5),
}
EVERY = pytest.mark.parametrize("acquisition", ACQUISITIONS.values(), ids=ACQUISITIONS)
PLAIN = {"turning": 0.0, "hiding": 0.0, "blur": 0.0, "noise": 0.0}
ALIGNED = {"align": True, "align_tested": False}


def tiny(kind: str = "sparse3diff", **settings: Any) -> Any:
    plain = {"channels": 8, "multipliers": (1,), "steps": 2, "batch": 2, "crop": 16, "timesteps": 20, "beta_end": 0.3}
    return KINDS[kind](**plain | ({"align": False} if kind == "sparse3diff" else {}) | settings)


def waves(shape: tuple[int, int, int] = (24, 32, 36), seed: int = 0) -> NDArray[np.float32]:
    """A volume on the engine's scale that linear interpolation gets wrong: slanted waves."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    tilts = rng.uniform(-0.6, 0.6, (2, 2))
    parts = [np.sin(0.5 * z + a * y + b * x + rng.uniform(0, 6)) for a, b in tilts]
    return (0.5 + 0.25 * sum(parts)).astype(np.float32)


def projected(acquisition: Acquisition, size: tuple[int, int] = (17, 19)) -> ProjectionStack:
    return ProjectionStack(acquisition.project(waves((acquisition.depth, *size), seed=9)), acquisition)


def shaken(method: Subvolumes, stack: ProjectionStack, size: float = 0.3) -> Weights:
    """Weights that no training gave, so that what is inferred is far from interpolation."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: tensor + size * torch.randn(tensor.shape, generator=generator)
        if name.startswith("unet.leave")
        else tensor
        for name, tensor in method.untrained(stack, Context()).items()
    }


def pretrained(method: Subvolumes, acquisition: Acquisition = POINT, volumes: Any = None, **context: Any) -> Weights:
    given = [waves(seed=seed) for seed in range(2)] if volumes is None else volumes
    return exhaust(method.pretrain(given, acquisition, Context(**context)))


def estimated(method: Subvolumes, stack: ProjectionStack, weights: Weights, **context: Any) -> NDArray[np.float32]:
    return exhaust(method.estimate(stack, weights, Context(**context)))


def refined(
    method: Sparse3Diff, stack: ProjectionStack, weights: Weights, **context: Any
) -> tuple[list[Event], Weights]:
    return collected(method.refine(stack, weights, Context(**context)))


def same(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def losses(events: list[Event]) -> list[float]:
    return [event.loss or 0.0 for event in events if isinstance(event, Step)]


def notices(events: list[Event]) -> list[str]:
    return [event.message for event in events if isinstance(event, Notice)]


def stopped(
    make: Callable[[Context], Generator[Event, None, Any]], steps: int, **context: Any
) -> tuple[list[Event], Any]:
    """Events and result of what is told to stop once so many steps are done."""
    seen: list[Event] = []
    asked = Context(cancelled=lambda: len(losses(seen)) >= steps, **context)
    events = make(asked)
    while True:
        try:
            seen.append(next(events))
        except StopIteration as end:
            assert asked.stopped
            return seen, end.value


# -- stage A: training on volumes ---------------------------------------------------------------


@BOTH
def test_training_reduces_the_loss(kind):
    method = tiny(kind, steps=60, batch=4, emphasis=1.0, **PLAIN, learning_rate=1e-2)
    volumes = [phantom("vessels", (24, 24, 24), seed=seed).data for seed in range(2)]
    events, weights = collected(method.pretrain(volumes, POINT, Context()))
    assert isinstance(events[0], Stage)
    assert [event.done for event in events if isinstance(event, Step)] == list(range(1, 61))
    assert np.mean(losses(events)[-15:]) < 0.9 * np.mean(losses(events)[:15])
    assert not any(tensor.requires_grad for tensor in weights.values())


@BOTH
@pytest.mark.parametrize("acquisition", [POINT, Acquisition(slices=3, stride=5)])
def test_weights_are_named_and_shaped_as_untrained_ones(kind, acquisition):
    for parameterisation in ("v", "preconditioned"):
        method = tiny(kind, parameterisation=parameterisation)
        weights = pretrained(method, acquisition)
        expected = method.untrained(projected(acquisition.bound(4)), Context())
        assert {name: t.shape for name, t in weights.items()} == {name: t.shape for name, t in expected.items()}
        assert (weights["spread"] - expected["spread"]).abs() > 1e-3
        assert ("empty" in weights) == (kind == "sparse3diff")


@BOTH
def test_the_seed_fixes_the_weights(kind):
    one, again, other = (pretrained(tiny(kind), seed=seed) for seed in (3, 3, 4))
    assert same(one, again)
    assert not same(one, other)


@pytest.mark.parametrize(
    "changes",
    [
        {"parameterisation": "v"},
        {"parameterisation": "epsilon"},
        {"optimiser": "adamw"},
        {"schedule": "constant"},
        {"emphasis": 0.0},
        {"fold": 1},
        {"attention": True},
        {"multipliers": (1, 2)},
        {"further": 0},
        {"further": 2},
        {"p_uncond": 1.0},
        {"hiding": 1.0},
        {"places": "absolute"},
        {"turning": 1.0},
        {"blur": 0.0},
        {"noise": 0.0},
    ],
    ids=str,
)
def test_each_setting_has_an_effect(changes):
    stack, plain, method = projected(POINT.bound(5)), tiny(), tiny(**changes)
    data, other = (estimated(each, stack, pretrained(each)) for each in (plain, method))
    assert np.isfinite(other).all()
    assert np.abs(data - other).max() > 1e-6


@pytest.mark.parametrize(("further", "needed"), [(1, 13), (0, 12)])
def test_how_deep_a_volume_must_be(further, needed):
    """One subvolume, and three projections to see how interpolation does."""
    assert tiny(further=further).depth_to_learn(POINT) == needed
    assert pretrained(tiny(further=further), volumes=[waves((needed, 32, 32))])


def test_volumes_of_any_size():
    assert pretrained(tiny(batch=4), volumes=[waves((13, 9, 40)), waves((30, 18, 17))])


def test_a_loss_that_is_no_number_ends_the_run():
    with pytest.raises(RunFailed, match="training diverged"):
        pretrained(tiny(), volumes=[np.full((24, 32, 32), np.nan, np.float32)])


def test_stop_gives_what_was_learned_by_then():
    events, weights = stopped(lambda context: tiny(steps=50).pretrain([waves()], POINT, context), 3)
    assert [event.done for event in events if isinstance(event, Step)] == [1, 2, 3]
    assert weights.keys() == pretrained(tiny()).keys()


# -- the volume -------------------------------------------------------------------------------


@BOTH
@EVERY
def test_every_acquisition(kind, acquisition):
    stack, method = projected(acquisition), tiny(kind)
    weights = shaken(method, stack)
    events, data = collected(method.estimate(stack, weights, Context(batch_bytes=1)))
    assert data.shape == stack.volume_shape
    assert data.dtype == np.float32
    assert np.isfinite(data).all()
    previews, shown = [event for event in events if isinstance(event, Preview)], acquisition.shown
    windows = Windows(acquisition)
    starts = [k * acquisition.step + windows.first for k in range(shown[0], shown[-1])]
    assert [event.start for event in previews] == starts
    gaps = sum(b - a > 1 for a, b in pairwise(shown))
    assert [event.done for event in events if isinstance(event, Step)] == list(range(1, gaps + len(starts) + 1))
    for event in previews:
        np.testing.assert_array_equal(data[event.start :][: len(event.data)], event.data)
        assert len(event.data) == windows.count
    plain = exhaust(Conservative().predict(stack, {}, Context())).data
    inferred = [z for start in starts for z in range(start, start + windows.count)]
    assert np.abs(data - plain)[inferred].max((1, 2)).min() > 1e-3
    if windows.exact:
        np.testing.assert_array_equal(data[acquisition.matrix.any(0)], stack.data)


@BOTH
@EVERY
def test_projections_are_reproduced(kind, acquisition):
    stack, method = projected(acquisition), tiny(kind)
    data = exhaust(method.predict(stack, shaken(method, stack), Context())).data
    assert np.abs(acquisition.residual(data, stack.data)).max() < 1e-5


def test_untrained_it_interpolates_linearly():
    """The best linear denoiser of nothing but noise, in one step from the highest noise level."""
    acquisition = POINT.bound(4)
    stack, method = projected(acquisition), tiny(timesteps=1000, beta_end=0.02)
    weights = method.untrained(stack, Context())
    data = estimated(method, stack, weights | {"spread": torch.tensor(1e-3)})
    expected = np.stack(
        [(1 - z % 4 / 4) * stack.data[z // 4] + z % 4 / 4 * stack.data[min(z // 4 + 1, 3)] for z in range(13)]
    )
    np.testing.assert_allclose(data[:13], expected, atol=1e-5)


@BOTH
@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_the_seed_fixes_the_volume_and_batches_change_it_by_rounding(kind, sampler):
    stack = projected(ACQUISITIONS["hidden"])
    method = tiny(kind, sampler=sampler, sampling_steps=3)
    weights = shaken(method, stack)
    one, again, many = (estimated(method, stack, weights, batch_bytes=memory) for memory in (1, 1, 2**30))
    np.testing.assert_array_equal(one, again)
    np.testing.assert_allclose(one, many, atol=1e-4)
    assert np.abs(one - estimated(method, stack, weights, seed=1)).max() > 1e-3


def test_samplers_differ():
    stack = projected(POINT.bound(4))
    weights = shaken(tiny(), stack)
    ddim, ddpm = (estimated(tiny(sampler=s, sampling_steps=4), stack, weights) for s in ("ddim", "ddpm"))
    assert np.abs(ddim - ddpm).max() > 1e-3


def test_guidance_and_places():
    stack, plain = projected(POINT.bound(5)), tiny()
    weights = shaken(plain, stack)
    data = estimated(plain, stack, weights)
    for changes in ({"guidance": 2.0}, {"places": "absolute"}):
        other = estimated(tiny(**changes), stack, weights)
        assert np.abs(data - other).max() > 1e-4
        assert np.isfinite(other).all()


def test_positions_are_told_relative_or_absolute():
    positions = torch.tensor([[10.5, 14.5, 15.5, 16.5, 17.5, 18.5, 22.5]])
    assert tiny(places="relative").told(positions).tolist() == [[-4, 0, 1, 2, 3, 4, 8]]
    assert torch.equal(tiny(places="absolute").told(positions), positions)
    assert torch.equal(tiny("ddpm").told(positions), positions)  # it is not told


def test_relative_places_are_the_same_in_every_subvolume():
    """So a volume that repeats itself comes back so; from the top it need not."""
    acquisition = POINT.bound(9)
    image = waves((1, 17, 19))
    stack = ProjectionStack(np.repeat(image, 9, 0), acquisition)
    for places, expected in (("relative", True), ("absolute", False)):
        method = tiny(places=places, sampler="ddim", timesteps=1000, beta_end=0.05, parameterisation="v", further=0)
        weights = shaken(method, stack)
        weights["unet.cross.out.weight"] = 5 * weights["unet.cross.out.weight"]
        net = method.loaded(stack, weights, Context())
        known = torch.from_numpy(np.repeat(image, 2, 0))[None].repeat(2, 1, 1, 1)
        told = method.told(torch.stack([torch.arange(5.0), torch.arange(5.0) + 20]))
        noisy = torch.zeros(2, 3, 17, 19)
        one, other = net.estimate(known, noisy, torch.full((2,), 999), told).unbind()
        assert (torch.abs(one - other).max() < 1e-6) == expected


def test_stop_leaves_the_conservative_interpolation():
    stack = projected(ACQUISITIONS["hidden"])
    method = tiny()
    weights = shaken(method, stack)
    plain = exhaust(Conservative().predict(stack, {}, Context())).data
    for steps, done in ((0, 2), (1, 2), (2, 6)):  # the gap, and then one subvolume
        events, data = stopped(lambda context: method.estimate(stack, weights, context), steps, batch_bytes=1)
        assert len(losses(events)) == steps
        np.testing.assert_allclose(data[done:26], plain[done:26], atol=1e-5)
        assert steps < 2 or np.abs(data[2:6] - plain[2:6]).max() > 1e-3


def test_stop_takes_effect_between_sampling_steps():
    stack, asked = projected(POINT.bound(4)), []
    method = tiny(sampling_steps=20)
    context = Context(cancelled=lambda: bool(asked.append(1)) or len(asked) > 3)
    events, data = collected(method.estimate(stack, shaken(method, stack), context))
    assert len(asked) == 4
    assert losses(events) == []
    np.testing.assert_allclose(data, exhaust(Conservative().predict(stack, {}, Context())).data, atol=1e-5)


# -- stage B: self-alignment ------------------------------------------------------------------


def stacks_own() -> tuple[Sparse3Diff, ProjectionStack, Weights]:
    """A stack, and weights that are off from what it needs."""
    stack, method = projected(POINT.bound(8)), tiny(**ALIGNED, align_rate=3e-3)
    return method, stack, shaken(method, stack, 0.1)


@pytest.mark.parametrize("among", ["measured", "inferred"])
def test_alignment_changes_the_weights(among):
    method, stack, weights = stacks_own()
    method = method.model_copy(update={"align_among": among})
    before = {name: tensor.clone() for name, tensor in weights.items()}
    events, aligned = refined(method, stack, weights)
    assert same(weights, before)  # not in place
    assert not same(aligned, weights)
    assert aligned.keys() == weights.keys()
    assert not any(tensor.requires_grad for tensor in aligned.values())
    assert [event.name for event in events if isinstance(event, Stage)] == ["Aligning to the stack's own images"]
    assert [event.done for event in events if isinstance(event, Step)] == list(range(1, 7))  # k = 2 .. M − 1
    assert same(aligned, refined(method, stack, weights)[1])
    assert not same(aligned, refined(method, stack, weights, seed=1)[1])


@pytest.mark.parametrize("among", ["measured", "inferred"])
def test_every_image_is_learned_at_every_place(among, monkeypatch):
    """Sec. 2.3: for each one the model is updated n − 1 times, on the image alone."""
    seen: list[list[float]] = []
    plain = sparse3diff.Sparse3Diff._learn
    learn = lambda self, net, batch, weights, *rest: (  # noqa: E731
        seen.append(weights[0].tolist()),
        plain(self, net, batch, weights, *rest),
    )[1]
    monkeypatch.setattr(sparse3diff.Sparse3Diff, "_learn", learn)
    method, stack, weights = stacks_own()
    refined(method.model_copy(update={"align_among": among, "align_passes": 2}), stack, weights)
    assert len(seen) == 2 * 6 * 3
    assert all(sum(one) == pytest.approx(1) for one in seen)
    places = [one.index(1.0) for one in seen[:3]]
    assert sorted(places) == ([0, 1, 2] if among == "inferred" else [1, 1, 1])


def with_gain(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    """Let alignment multiply errors of images left out by this."""
    errors = iter([1.0, factor] * 2)

    def told(*_: object) -> Generator[Event, None, list[float]]:
        yield from ()
        return [next(errors)]

    monkeypatch.setattr(sparse3diff.Sparse3Diff, "_errors", told)


@pytest.mark.parametrize(
    ("factor", "told"),
    [(0.5, "3.01 dB better"), (2.0, "3.01 dB worse"), (1.0, "predicts the others no better than before")],
)
def test_alignment_is_kept_where_it_is_tested_to_help(factor, told, monkeypatch):
    method, stack, weights = stacks_own()
    method = method.model_copy(update={"align_tested": True})
    with_gain(monkeypatch, factor)
    events, aligned = refined(method, stack, weights)
    assert told in notices(events)[0]
    names = [event.name for event in events if isinstance(event, Stage)]
    assert names[:2] == [f"Testing whether aligning helps, {number} of 2" for number in (1, 2)]
    if factor < 1:
        assert names[2:] == ["Aligning to the stack's own images"]
        assert same(aligned, refined(method.model_copy(update={"align_tested": False}), stack, weights)[1])
    else:
        assert len(names) == 2
        assert aligned is weights


def test_alignment_is_tested_on_images_left_out_of_it():
    """For real: it helps a model that is off, and does not where the step is so large that it ruins the model."""
    acquisition = POINT.bound(10)
    ramp = np.linspace(-0.5, 1.5, acquisition.depth, dtype=np.float32)[:, None, None] + np.zeros(
        (1, 16, 16), np.float32
    )
    stack = ProjectionStack(acquisition.project(ramp), acquisition)
    plain = tiny(align=True, align_rate=3e-3, align_passes=4, timesteps=1000, beta_end=0.02, emphasis=1.0, further=0)
    off = shaken(plain, stack, 0.2)
    events, aligned = refined(plain, stack, off)
    assert "dB better" in notices(events)[0]
    assert not same(aligned, off)
    right = plain.untrained(stack, Context()) | {"spread": torch.tensor(0.05)}  # interpolation, which is the truth
    events, aligned = refined(plain.model_copy(update={"align_rate": 0.3}), stack, right)
    assert "dB worse" in notices(events)[0]
    assert aligned is right
    asked = [event for event in events if isinstance(event, Stage) and event.name.startswith("Predicting the images")]
    assert [event.steps for event in asked] == [4, 4] * 2  # of the 8 images between others, half a turn


def test_without_alignment_weights_are_those_given():
    method, stack, weights = stacks_own()
    method = method.model_copy(update={"align": False})
    assert not method.refines
    assert refined(method, stack, weights) == ([], weights)
    assert tiny(align=True).refines
    plain = tiny("ddpm")
    assert not plain.refines
    assert exhaust(plain.refine(stack, weights, Context())) is weights


@pytest.mark.parametrize("among", ["measured", "inferred"])
@pytest.mark.parametrize("hide", [(0,), (3,), (7,)])
def test_alignment_uses_no_pixel_of_hidden_projections(among, hide):
    method, stack, weights = stacks_own()
    method = method.model_copy(update={"align_among": among})
    spoilt = stack.data.copy()
    spoilt[list(hide)] = 1e6
    one, other = (
        refined(method, ProjectionStack(data, stack.acquisition).without(hide), weights)[1]
        for data in (stack.data, spoilt)
    )
    assert same(one, other)
    assert not same(one, weights)


@pytest.mark.parametrize(
    ("acquisition", "tested", "reason"),
    [
        (POINT.bound(3), True, "to test whether aligning helps"),
        (POINT.bound(3), False, None),
        (Acquisition(slices=4, profile="point", count=5, hidden=(1, 3)), True, "to align to"),
        (Acquisition(slices=4, profile="point", count=5, hidden=(1, 3)), False, "to align to"),
    ],
)
def test_too_few_projections(acquisition, tested, reason):
    stack, method = projected(acquisition), tiny(align=True, align_tested=tested)
    weights = shaken(method, stack)
    events, aligned = refined(method, stack, weights)
    if reason is None:
        assert len(losses(events)) == 1
        assert not same(aligned, weights)
    else:
        (message,) = notices(events)
        assert reason in message
        assert "used as it is" in message
        assert "inf" not in message
        assert aligned is weights


@pytest.mark.parametrize("name", ["uniform", "gaps", "hidden", "late"])
@pytest.mark.parametrize("among", ["measured", "inferred"])
def test_alignment_of_every_acquisition(name, among):
    stack, method = projected(ACQUISITIONS[name]), tiny(**ALIGNED, align_among=among)
    weights = shaken(method, stack)
    events, aligned = refined(method, stack, weights)
    assert len(losses(events)) >= 2
    assert not same(aligned, weights)


@pytest.mark.parametrize("among", ["measured", "inferred"])
def test_large_images_are_learned_from_crops(among, monkeypatch):
    monkeypatch.setattr(sparse3diff, "SIDE", 12)
    shapes: list[tuple[int, ...]] = []
    plain = sparse3diff.Sparse3Diff._learn
    learn = lambda self, net, batch, *rest: (  # noqa: E731
        shapes.append((*batch.known.shape, *batch.clean.shape)),
        plain(self, net, batch, *rest),
    )[1]
    monkeypatch.setattr(sparse3diff.Sparse3Diff, "_learn", learn)
    stack, method = projected(POINT.bound(4), (11, 30)), tiny(**ALIGNED, align_among=among)
    assert not same(refined(method, stack, shaken(method, stack))[1], shaken(method, stack))
    assert set(shapes) == {(1, 4, 11, 12, 1, 3, 11, 12)}


@pytest.mark.parametrize("tested", [False, True])
def test_stop_while_aligning(tested):
    method, stack, weights = stacks_own()
    method = method.model_copy(update={"align_tested": tested})
    events, aligned = stopped(lambda context: method.refine(stack, weights, context), 2)
    assert len(losses(events)) == 2
    assert notices(events) == []
    assert (aligned is weights) == tested  # what is being tested is not used
    assert tested or not same(aligned, weights)


# -- the contract -----------------------------------------------------------------------------


@BOTH
def test_what_it_cannot_work_on(kind):
    method = tiny(kind)
    assert method.unsuited(POINT) is None
    assert method.unsuited(Acquisition(slices=6, stride=3, profile="point")) is None  # slices never overlap
    assert "do not overlap" in (method.unsuited(Acquisition(slices=6, stride=4)) or "")
    assert "nothing to do" in (method.unsuited(Acquisition(slices=1)) or "")
    assert "nothing to do" in (method.unsuited(Acquisition(slices=4, stride=1, profile="point")) or "")


@BOTH
def test_it_is_trained_on_volumes_alone(kind):
    stack, method = projected(POINT.bound(4)), tiny(kind)
    assert method.pretrained
    assert not method.retrains
    assert exhaust(method.fit(stack, Context())) == {}


def test_memory():
    stack, large = projected(POINT.bound(4)), projected(POINT.bound(4), (34, 38))
    assert tiny().memory_bytes(large)[0] == 4 * tiny().memory_bytes(stack)[0]
    assert tiny(channels=64).memory_bytes(stack)[0] > 2 * tiny().memory_bytes(stack)[0]
    assert tiny(guidance=1.0).memory_bytes(stack)[0] == 2 * tiny().memory_bytes(stack)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_the_papers_values_have_a_source(kind):
    stated = sources("paper", kind)
    assert stated.keys() == KINDS[kind].model_fields.keys() - {"kind"}
    method = spec(kind, "paper")
    assert isinstance(method, Subvolumes)
    assert method.parameterisation == ("v" if kind == "sparse3diff" else "epsilon")
    for preset in ("preview", "standard", "paper"):
        weights = spec(kind, preset, {"channels": 8}).untrained(
            projected(Acquisition(profile="point", count=3)), Context()
        )
        assert weights["unet.enter.weight"].shape[0] == 8
    assert spec("sparse3diff") == Sparse3Diff()


def test_the_papers_recipe_runs_through():
    """On toys, every switch as in the paper."""
    small = {"channels": 8, "multipliers": (1, 2), "steps": 2, "batch": 2, "crop": 16, "sampling_steps": 3}
    method = spec("sparse3diff", "paper", {**small, "timesteps": 10, "beta_end": 0.5})
    assert isinstance(method, Sparse3Diff)
    stack = projected(Acquisition(slices=6, profile="point", count=4))
    weights = pretrained(method, Acquisition(slices=6, profile="point"), [waves((24, 20, 20))])
    _, aligned = refined(method, stack, weights)
    data = exhaust(method.predict(stack, aligned, Context())).data
    assert np.isfinite(data).all()
    np.testing.assert_array_equal(data[::6], stack.data)
