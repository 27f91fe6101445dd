"""Held-out projection score: which projections are hidden, what is compared, and that nothing of them leaks."""

from __future__ import annotations

from collections.abc import Generator
from itertools import pairwise
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from conftest import collected
from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.events import Event, InvalidInput, Preview, RunFailed, Stage, Step, exhaust
from napari_microdiffusion.methods import Conservative, Context, Cubic, Guided, Inr, Linear, Method
from napari_microdiffusion.methods._base import Weights
from napari_microdiffusion.methods.heldout import HeldOut, folds, score
from napari_microdiffusion.metrics import evaluate
from napari_microdiffusion.phantoms import phantom
from napari_microdiffusion.presets import METHODS
from napari_microdiffusion.run import reconstruct
from napari_microdiffusion.volume import ProjectionStack, Volume

INR = Inr(features=16, width=8, layers=2, rays=256, steps=3)
DIFFUSION = Guided(
    prior=INR, channels=8, multipliers=(1, 2), timesteps=20, beta_end=0.2, sampling_steps=2, steps=3, batch=2, crop=16
)
EVERY_KIND: dict[str, Method] = {
    "linear": Linear(),
    "conservative": Conservative(),
    "inr": INR,
    "cubic_diffusion": DIFFUSION.model_copy(update={"prior": Cubic(), "consistency": "every_step"}),
    "microdiffusion": DIFFUSION,
}


class Watched(Method):
    """Any method, with a record of what it was trained on and what it predicted."""

    kind: Literal["watched"] = "watched"
    inner: Any
    trained_on: ClassVar[list[ProjectionStack]] = []
    predicted: ClassVar[list[np.ndarray]] = []

    def fit(self, stack: ProjectionStack, context: Context) -> Generator[Event, None, Weights]:
        self.trained_on.append(stack)
        return (yield from self.inner.fit(stack, context))

    def voxels(self, stack: ProjectionStack, weights: Weights, context: Context) -> Generator[Event, None, Any]:
        data = yield from self.inner.voxels(stack, weights, context)
        self.predicted.append(data.copy())
        return data


class WatchedOnce(Watched):
    """The same, as a method whose weights do not know the projections."""

    retrains: ClassVar[bool] = False


class Fitted(Watched):
    """Any method with a base model, here without weights, that is fitted to the stack by training on it."""

    retrains: ClassVar[bool] = False
    pretrained: ClassVar[bool] = True

    def fit(self, *_: Any) -> Generator[Event, None, Weights]:
        raise AssertionError("a base model is never trained on projections")
        yield

    def refine(self, stack: ProjectionStack, weights: Weights, context: Context) -> Generator[Event, None, Weights]:
        assert weights == {}, "weights fitted in one fold must not reach another"
        return (yield from Watched.fit(self, stack, context))


class Repeat(Method):
    """Every slice is the projection in use that is nearest to it."""

    retrains: ClassVar[bool] = False
    kind: Literal["repeat"] = "repeat"

    def estimate(self, stack: ProjectionStack, *_: Any) -> Generator[Event, None, Any]:
        distance = np.abs(stack.acquisition.slice_centres[:, None] - stack.acquisition.projection_centres)
        return stack.data[distance.argmin(1)].astype(np.float32)
        yield


class Flat(Repeat):
    """Every slice is the mean of all projections in use."""

    kind: Literal["flat"] = "flat"  # type: ignore[assignment]

    def estimate(self, stack: ProjectionStack, *_: Any) -> Generator[Event, None, Any]:
        return np.repeat(stack.data.mean(0, keepdims=True, dtype=np.float32), stack.acquisition.depth, 0)
        yield


@pytest.fixture(autouse=True)
def _forget():
    Watched.trained_on.clear()
    Watched.predicted.clear()


@pytest.fixture(scope="module")
def small() -> ProjectionStack:
    """Six projections of four slices, 32 x 32, normalised."""
    return phantom("nuclei", (24, 32, 32), seed=2).simulate(Acquisition(slices=4))[0].normalised()[0]


def scored(method: Method, stack: ProjectionStack, wanted: int = 4, **changes: Any) -> HeldOut:
    return exhaust(score(method, stack, Context(**changes), {} if method.pretrained else None, wanted))


# -- which projections are hidden -----------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "wanted", "expected"),
    [
        (4, 4, [(1,), (2,)]),
        (4, 2, [(1,), (2,)]),
        (5, 4, [(1,), (2,), (3,)]),
        (5, 2, [(1, 3), (2,)]),
        (6, 2, [(1, 3), (2, 4)]),
        (8, 3, [(1, 4), (2, 5), (3, 6)]),
        (12, 4, [(1, 5, 9), (2, 6, 10), (3, 7), (4, 8)]),
        (7, 100, [(1,), (2,), (3,), (4,), (5,)]),
    ],
)
def test_folds(count, wanted, expected):
    assert folds(count, wanted) == expected


@pytest.mark.parametrize("count", range(4, 30))
@pytest.mark.parametrize("wanted", [2, 3, 4, 7])
def test_what_holds_of_all_folds(count, wanted):
    found = folds(count, wanted)
    assert sorted(index for fold in found for index in fold) == list(range(1, count - 1))  # each inner one, once
    for fold in found:
        assert all(later - earlier > 1 for earlier, later in pairwise(fold))
        assert count - len(fold) >= 3


@pytest.mark.parametrize(
    ("count", "wanted", "message"), [(3, 4, "at least 4 projections are needed"), (8, 1, "at least 2 folds, not 1")]
)
def test_too_few(count, wanted, message):
    with pytest.raises(InvalidInput, match=message):
        folds(count, wanted)


# -- what is compared -----------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["uniform", "gaussian", "point"])
@pytest.mark.parametrize("method", [Linear(), Cubic()], ids=lambda method: method.kind)
def test_what_is_linear_in_depth_is_told_exactly(profile, method):
    rng = np.random.default_rng(0)
    acquisition = Acquisition(slices=4, profile=profile, count=7)
    volume = rng.random((1, 32, 32)) + rng.random((1, 32, 32)) * acquisition.slice_centres[:, None, None]
    stack = ProjectionStack(acquisition.project(volume), acquisition)
    assert scored(method, stack).psnr > 110


@pytest.mark.parametrize("method", [Linear(consistency="final"), Conservative()], ids=lambda method: method.kind)
def test_agrees_with_an_independent_implementation(method, small):
    found = scored(method, small, wanted=2)
    span = small.data.max() - small.data.min()
    psnr = []
    for fold in [(1, 3), (2, 4)]:
        volume = reconstruct(small.without(fold), method).data.astype(float)
        for index in fold:
            predicted = volume.reshape(6, 4, 32, 32).mean(1)[index]
            psnr.append(peak_signal_noise_ratio(small.data[index].astype(float), predicted, data_range=span))
            rms = np.sqrt(np.mean((predicted - small.data[index]) ** 2))
            assert found.errors[index] == pytest.approx(rms, rel=1e-3)
    assert found.psnr == pytest.approx(np.mean(psnr), abs=1e-3)
    assert np.isnan([found.errors[0], found.errors[5]]).all()  # never hidden
    assert (found.folds, found.partial) == (2, False)


@pytest.mark.parametrize("wanted", [2, 4])
def test_a_recipe_that_ignores_depth_falls_behind(wanted, truth, stack):
    methods = [Conservative(), Flat()]
    blind = [scored(method, stack.normalised()[0], wanted).psnr for method in methods]
    known = [evaluate(Volume(exhaust(method.predict(stack, {}, Context())).data), truth)["psnr"] for method in methods]
    assert blind[0] > blind[1] + 0.5
    assert known[0] > known[1] + 0.5


def test_how_light_is_shared_within_a_projection_is_not_seen(stack):
    """A limit of the score: a straight line and a step between two neighbours have the same mean in the middle."""
    assert scored(Linear(), stack).psnr == pytest.approx(scored(Repeat(), stack).psnr, abs=1e-3)


@pytest.mark.parametrize(
    ("acquisition", "hide"),
    [
        (Acquisition(slices=4, stride=2), ()),
        (Acquisition(slices=4, stride=6), ()),
        (Acquisition(slices=4, profile="point"), ()),
        (Acquisition(slices=3, profile="measured", weights=(1, 2, 1)), ()),
        (Acquisition(slices=4), (2,)),  # the gap is there already; indices are those of projections in use
    ],
)
@pytest.mark.parametrize("method", [Linear(consistency="final"), Conservative()], ids=lambda method: method.kind)
def test_any_acquisition(acquisition, hide, method):
    stack = phantom("vessels", (40, 32, 32), seed=3).simulate(acquisition)[0].without(hide).normalised()[0]
    found = scored(method, stack)
    assert 5 < found.psnr < 100
    assert len(found.errors) == len(stack.data)
    assert np.isfinite(found.errors[1:-1]).all()


# -- nothing of the hidden projections leaks ------------------------------------------------


@pytest.mark.parametrize(
    "method",
    [*(Watched(inner=inner) for inner in EVERY_KIND.values()), Fitted(inner=INR)],
    ids=[*EVERY_KIND, "a base model"],
)
def test_hidden_pixels_change_no_prediction(method, small):
    """Each fold's pixels are scrambled in turn: its own prediction stays the same to the last bit, others change."""
    scored(method, small, wanted=2)
    before = [data.copy() for data in Watched.predicted]
    for number, fold in enumerate(folds(6, 2)):
        Watched.predicted.clear()
        data = small.data.copy()
        data[list(fold)] = np.random.default_rng(number).permutation(data[list(fold)].ravel()).reshape(2, 32, 32)
        scored(method, ProjectionStack(data, small.acquisition), wanted=2)
        np.testing.assert_array_equal(Watched.predicted[number], before[number])
        assert np.abs(Watched.predicted[1 - number] - before[1 - number]).max() > 1e-3


def test_priors_of_the_whole_stack_are_not_used(small):
    clean = scored(DIFFUSION, small, wanted=2).errors
    spoiled = {INR.model_dump_json(): np.full(small.volume_shape, 7, np.float32)}
    np.testing.assert_array_equal(scored(DIFFUSION, small, wanted=2, volumes=spoiled).errors, clean)
    assert list(spoiled) == [INR.model_dump_json()]
    np.testing.assert_array_equal(spoiled[INR.model_dump_json()], 7)


# -- training -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_all_that_is_trained_on_the_stack_is_trained_anew(name):
    cls, _ = METHODS[name]
    knows_projections = cls.learned and not cls.pretrained and name not in ("axial", "axial_posterior")
    assert cls.retrains is knows_projections  # those know patches, and fill gaps they were not trained on


def test_trained_in_each_fold_without_the_hidden_projections(small):
    given = exhaust(INR.fit(small, Context()))
    exhaust(score(Watched(inner=INR), small, Context(), given, 2))
    assert [stack.acquisition.hidden for stack in Watched.trained_on] == [(1, 3), (2, 4)]


def test_trained_once_where_weights_do_not_know_the_projections(small):
    method = WatchedOnce(inner=INR)
    first, _ = collected(score(method, small, Context(), None, 2))
    assert [stack.acquisition.hidden for stack in Watched.trained_on] == [()]
    assert isinstance(first[0], Stage)
    assert first[0].name == "Once for all folds: Training the neural representation"
    exhaust(score(method, small, Context(), exhaust(INR.fit(small, Context())), 2))
    assert len(Watched.trained_on) == 1  # not again with weights
    np.testing.assert_array_equal(Watched.predicted[:2], Watched.predicted[2:])


def test_a_base_model_is_fitted_anew_in_each_fold_without_the_hidden_projections(small):
    scored(Fitted(inner=INR), small, wanted=2)
    assert [stack.acquisition.hidden for stack in Watched.trained_on] == [(1, 3), (2, 4)]


# -- progress and stops ---------------------------------------------------------------------


def test_stages_say_which_fold_they_belong_to(small):
    events, _ = collected(score(DIFFUSION, small, Context(preview_seconds=0), None, 2))
    stages = [event.name for event in events if isinstance(event, Stage)]
    assert stages == [
        f"Held out {number} of 2: {stage}"
        for number in (1, 2)
        for stage in (
            "Training the neural representation",
            "Computing the volume",
            "Training the diffusion model",
            "Denoising the slices",
            "Comparing with the hidden projections",
        )
    ]
    assert not [event for event in events if isinstance(event, Preview)]


@pytest.mark.parametrize(("method", "steps"), [(INR, 3 + 24 + 2 + 2), (Linear(), 2 + 1)], ids=["inr", "linear"])
def test_a_stop_keeps_the_folds_that_are_finished(method, steps, small):
    whole = scored(method, small, wanted=2)
    seen = 0
    context = Context(cancelled=lambda: seen >= steps)
    events = score(method, small, context, None, 2)
    while True:
        try:
            seen += isinstance(next(events), Step)
        except StopIteration as end:
            found = end.value
            break
    if method.learned:
        assert (found.folds, found.partial, context.stopped) == (1, True, True)
        assert found.errors == pytest.approx(
            [np.nan, whole.errors[1], np.nan, whole.errors[3], *[np.nan] * 2], nan_ok=True
        )
    else:
        assert (found.folds, found.partial) == (2, False)  # the last fold was computed by then
    assert np.isfinite(found.psnr)


@pytest.mark.parametrize("method", [Linear(), INR, WatchedOnce(inner=INR)], ids=["linear", "inr", "once"])
def test_without_a_finished_fold_there_is_no_score(method, small):
    with pytest.raises(RunFailed, match="no held-out score yet"):
        scored(method, small, cancelled=lambda: True)
