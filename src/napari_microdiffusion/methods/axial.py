"""Axial super-resolution, learned from the lateral detail of the stack itself (docs/methods.md; ours).

A lateral image of the sample, degraded along one axis as the beam degrades z, shows a network what was lost: it
learns to undo that, and is applied to planes along z in four directions. No truth, and no other data.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, model_validator

from ..acquisition import MINIMUM_PROJECTIONS
from ..events import Event, InvalidInput, Notice, Preview, Step
from ..numerics import along_z
from ..optics import axial_blur_um
from ..provenance import Findings
from ..reliability import Reliability
from ..volume import ProjectionStack, Volume
from ._base import Context, Method, Weights, kept, loaded, seeded
from ._grid import ELONGATIONS, Grid
from ._lateral import LateralLoss
from ._outcome import UNTESTED, cramped, doubt, small_images, summary, widened
from ._patches import PATCH_DEPTH, PATCH_WIDTH, Anisotropy, Cutter
from ._planes import XZ, deviation, fold_of, intervals, restore, through_planes
from ._ratio import RATIOS, foreign, odd_scale, ratio_of, stated_ratio
from ._settings import Blocks, FinalConsistency, LearningRate, NetworkChannels, PatchBatch, Steps, setting
from ._training import ahead, descend, muon
from ._trial import FALLBACK, Trial, try_out

if TYPE_CHECKING:
    from ..plane_net import PlaneNet

STILL = 1e-6
"""Largest change of the interpolation, as a share of the stack's range, that counts as none."""

Auto = Annotated[float | None, BeforeValidator(lambda value: None if value == "auto" else value)]
"""A number, or ``auto`` (kept as None): found out by the method."""


class Axial(Method):
    """A network trained on lateral patches degraded along one axis, applied to planes along z and averaged.

    It adds to the conservative interpolation, reproduces every projection, and gives an interval for each voxel.
    """

    learned: ClassVar[bool] = True
    retrains: ClassVar[bool] = False
    gives_reliability: ClassVar[bool] = True
    kind: Literal["axial"] = "axial"
    consistency: FinalConsistency = "final"
    sigma: Auto = setting(
        None,
        "blur along z beyond the lateral one in slices, standard deviation of the Gaussian as wide at half maximum; "
        "auto (null): chosen by the held-out score",
        ge=0,
        le=50,
        sampling=True,
    )
    elongation: Auto = setting(
        None,
        "how many times longer structures look along z than the voxel ratio says; auto (null): by the held-out score, "
        "or 1 where the beam sees less than half of the slices",
        ge=ELONGATIONS[0],
        le=ELONGATIONS[-1],
        sampling=True,
    )
    ratio: Auto = setting(
        None,
        "voxel depth over voxel width, dz/dx; auto (null): from the voxel size, else estimated from the images",
        ge=RATIOS[0],
        le=RATIOS[1],
    )
    objective_na: float | None = setting(
        None, "numerical aperture of the detection objective: gives sigma, with the two below", gt=0, le=1.7
    )
    wavelength_nm: float = setting(520.0, "wavelength of the detected light, in nm", ge=200, le=2000)
    refractive_index: float = setting(1.33, "refractive index of the immersion medium", ge=1, le=2)
    channels: NetworkChannels = 24
    blocks: Blocks = 4
    steps: Steps = 2300
    batch: PatchBatch = 6
    learning_rate: LearningRate = 3e-3
    hiding: float = setting(0.3, "share of training batches in which some projections are hidden", ge=0, le=1)
    largest_sigma: float = setting(6.0, "largest sigma trained for and tried, in slices", gt=0, le=50)
    fine_tuning: int = setting(
        0,
        "training steps on a further stack, when weights of another stack are given",
        ge=0,
        le=1_000_000,
        sampling=True,
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        """Refuse a sigma that the network does not learn."""
        if self.sigma is not None and self.sigma > self.largest_sigma:
            raise ValueError(
                f"sigma = {self.sigma:g} is more than largest_sigma = {self.largest_sigma:g}, the most the network "
                "learns: raise that too, and train again"
            )
        return self

    @property
    def own_idle(self) -> frozenset[str]:
        """What sigma follows from, where it does not follow from it."""
        medium = {"wavelength_nm", "refractive_index"}
        if self.sigma is not None:
            return frozenset(medium | {"objective_na"})
        return frozenset(medium if self.objective_na is None else ())

    @property
    def refines(self) -> bool:
        """On a further stack, where steps for it are set."""
        return self.fine_tuning > 0

    def fit(self, stack: ProjectionStack, context: Context) -> Generator[Event, None, Weights]:
        """Train on lateral patches, then choose sigma and elongation by projections hidden from the network."""
        ratio = self.voxel_ratio(stack)
        yield from odd_scale(stack, ratio) if self.ratio is None else ()
        return (yield from self._learn(self.network(stack, context), stack, context, self.steps, ratio))

    def refine(self, stack: ProjectionStack, weights: Weights, context: Context) -> Generator[Event, None, Weights]:
        """Train on for `fine_tuning` steps on a further stack of the same microscope, and choose anew on it."""
        if not Trial.of(weights).scores:  # never trained
            return (yield from self.fit(stack, context))
        net, ratio = self.loaded(stack, weights, context), Trial.of(weights).ratio
        if self.ratio is None and (told := foreign(stack, ratio)):
            yield Notice(told)
        return (yield from self._learn(net.requires_grad_(True), stack, context, self.fine_tuning, ratio))

    def estimate(
        self, stack: ProjectionStack, weights: Weights, context: Context
    ) -> Generator[Event, None, NDArray[np.float32]]:
        """As of every method; the conservative interpolation where that is better."""
        trial, start = Trial.of(weights), interpolated(stack)
        if against := doubt(trial, stack, self.sigma):
            yield Notice(f"{against}: the conservative interpolation is given instead")
            yield Preview(0, start.copy())
            return start
        net, anisotropy = self.loaded(stack, weights, context), self.anisotropy_of(trial)
        volume = yield from restore(net, stack, start, anisotropy, trial.strength(anisotropy.sigma), context)
        if not context.stopped and np.abs(volume - start).max() < STILL:
            yield Notice(
                "the network changes nothing of the conservative interpolation: if it was trained on this stack, "
                "lower learning_rate"
            )
        return volume

    def predict(self, stack: ProjectionStack, weights: Weights, context: Context) -> Generator[Event, None, Volume]:
        """The volume (Z, y, x) float32 with its reliability, unless it is the conservative interpolation."""
        volume = yield from super().predict(stack, weights, context)
        trial = Trial.of(weights)
        if context.stopped or math.isnan(trial.widening) or doubt(trial, stack, self.sigma):
            return volume
        net = self.loaded(stack, weights, context)
        distances = yield from intervals(net, stack, interpolated(stack), self.sharpest(trial), context)
        if context.stopped:
            return volume
        distances *= np.float32(trial.widening)
        np.minimum(distances, np.ptp(stack.data), out=distances)  # what it saw nothing like may be told anything
        distances[:, ~stack.acquisition.inferred] = 0
        bounds = volume.data - distances[0], volume.data + distances[1]
        return replace(volume, reliability=Reliability(deviation(distances), *bounds))

    def findings(self, stack: ProjectionStack, weights: Weights) -> Findings:
        """Sigma in slices and elongation, those tried with scores in dB, the interpolation's, strength, voxel ratio."""
        trial = Trial.of(weights)
        anisotropy, sharpest = self.anisotropy_of(trial), self.sharpest(trial)
        tested = not math.isnan(trial.widening)
        return {
            "sigma_slices": anisotropy.sigma,
            "sigma_curve": sorted([s, score] for s, score in trial.scores.items() if not math.isnan(score)),
            "interpolation_held_out_db": None if math.isnan(trial.floor) else trial.floor,
            "elongation": anisotropy.elongation,
            "elongation_curve": sorted([elongation, score] for elongation, score in trial.elongations.items()),
            "strength": trial.strength(anisotropy.sigma) if trial.asked else None,
            "voxel_ratio": trial.ratio,
            "beware": foreign(stack, trial.ratio) if self.ratio is None else "",
            "interval_sigma_slices": sharpest.sigma if tested else None,
            "interval_elongation": sharpest.elongation if tested else None,
            "interval_widening": trial.widening if tested else None,
            "fell_back": bool(doubt(trial, stack, self.sigma)),
        }

    def _learn(
        self, net: PlaneNet, stack: ProjectionStack, context: Context, steps: int, ratio: float
    ) -> Generator[Event, None, Weights]:
        """Train the network and see what hidden projections say of it; its weights alone when stopped before."""
        given = self.given_sigma(stack)  # refuses an objective that gives none, before training
        if self.sigma is None and given == self.largest_sigma:
            yield Notice(
                f"the objective blurs z by {self.largest_sigma:g} slices or more beyond xy, and largest_sigma is taken"
            )
        if given is None and len(stack.data) <= MINIMUM_PROJECTIONS:
            yield Notice(f"{UNTESTED}: acquire four or more, or set sigma to use one all the same")
            return kept(net) | Trial({}, ratio=ratio).weights()
        if cramped(stack, ratio):
            yield Notice(small_images(stack))
        if steps:
            yield from self._train(net, self.cutter(stack, ratio, context), stack, context, steps)
        weights = kept(net)
        if context.should_stop():
            return weights
        cut = self.cutter(stack, ratio, context)  # anew: what is found must not hang on the training before it
        grid = Grid(self.largest_sigma, given, self.given_elongation(stack))
        trial = yield from try_out(net.requires_grad_(False), cut, stack, grid, context)
        if context.stopped:
            return weights
        yield Notice(summary(trial, self.ratio is None and stated_ratio(stack) is None))
        if trial.widening > 1 and not doubt(trial, stack, self.sigma):  # else there will be no error bars
            yield Notice(widened(trial))
        return weights | trial.weights()

    def cutter(self, stack: ProjectionStack, ratio: float, context: Context) -> Cutter:
        """What cuts training patches; the seed fixes them."""
        import torch

        generator = torch.Generator().manual_seed(context.seed)
        return Cutter(stack, ratio, self.largest_sigma, self.hiding, generator)

    def _train(
        self, net: PlaneNet, cut: Cutter, stack: ProjectionStack, context: Context, steps: int
    ) -> Generator[Event, None, None]:
        """Train the network in place, until the run is stopped."""
        loss = LateralLoss.of(cut, self.batch, stack.ridge, context)
        optimisers = muon(net, self.learning_rate)
        with ahead(lambda: cut(self.batch), context) as patches:
            training = descend(
                "Training on the lateral detail", lambda: loss(net, patches()), optimisers, steps, "cosine", context
            )
            for event in training:
                yield event
                under_way = isinstance(event, Step) and event.done < steps
                if under_way and context.preview_due() and not context.should_stop():
                    yield from self._preview(net, stack, context)

    def _preview(self, net: PlaneNet, stack: ProjectionStack, context: Context) -> Generator[Event, None, None]:
        """The volume from XZ planes alone, as the network knows it by now."""
        data = interpolated(stack)
        sigma = self.given_sigma(stack)
        anisotropy = Anisotropy(FALLBACK.sigma if sigma is None else sigma, self.elongation or FALLBACK.elongation)
        for at, estimate, *_ in through_planes(net, stack, data, XZ, anisotropy, context):
            data.reshape(len(data), -1)[:, at] = estimate
            if context.should_stop():
                return
        yield Preview(0, data)
        context.preview_done()

    def anisotropy_of(self, trial: Trial) -> Anisotropy:
        """What planes are restored for: as set, else as chosen."""
        return Anisotropy(
            trial.sigma if self.sigma is None else self.sigma,
            trial.elongation if self.elongation is None else self.elongation,
        )

    def sharpest(self, trial: Trial) -> Anisotropy:
        """What intervals are stated for: the sample as sharp as it may be."""
        return self.anisotropy_of(trial).sharpened(trial.sharper)

    def given_sigma(self, stack: ProjectionStack) -> float | None:
        """Sigma in slices, where it is set or follows from the objective; None where it is to be chosen.

        Raises
        ------
        InvalidInput
            If the objective is given but not the voxel size, or it is no objective for that medium.
        """
        if self.sigma is not None or self.objective_na is None:
            return self.sigma
        if stack.volume_scale_um is None:
            raise InvalidInput(
                "sigma cannot follow from the objective without the voxel size: state the scale of the stack "
                "(--voxel-size), set sigma itself, or leave objective_na empty"
            )
        blur = axial_blur_um(self.objective_na, self.wavelength_nm / 1000, self.refractive_index)
        return min(blur / stack.volume_scale_um[0], self.largest_sigma)

    def given_elongation(self, stack: ProjectionStack) -> float | None:
        """As set; 1 where the beam sees few of the slices: across still wider gaps nothing is told of it; else None."""
        few = 2 * stack.acquisition.effective_slices < stack.acquisition.step
        return 1.0 if few and self.elongation is None else self.elongation

    def voxel_ratio(self, stack: ProjectionStack) -> float:
        """dz/dx of the volume: as set, else from the voxel size, else estimated from the images."""
        return ratio_of(stack) if self.ratio is None else self.ratio

    def network(self, stack: ProjectionStack, context: Context) -> PlaneNet:
        """The untrained network; the seed fixes its first weights."""
        from ..plane_net import PlaneNet

        with seeded(context.seed):
            return PlaneNet(fold_of(stack.acquisition), self.channels, self.blocks).to(context.device)

    def untrained(self, stack: ProjectionStack, context: Context) -> Weights:
        trial = Trial({}, floor=0.0, widening=1.0).weights()
        named = {name: tensor.nan_to_num(0.0) for name, tensor in trial.items()}
        return dict(self.network(stack, context).state_dict()) | named

    def memory_bytes(self, stack: ProjectionStack) -> tuple[int, str]:
        training = 60 * 4 * self.batch * PATCH_DEPTH * PATCH_WIDTH * self.channels // stack.acquisition.step
        return training, "lower batch or channels"

    def loaded(self, stack: ProjectionStack, weights: Weights, context: Context) -> PlaneNet:
        """The trained network, to be used as it is."""
        net = self.network(stack, context)
        return loaded(net, {name: weights[name] for name in net.state_dict()})


def interpolated(stack: ProjectionStack) -> NDArray[np.float32]:
    """The conservative interpolation (Z, y, x), where training and restoring start from."""
    return along_z(stack.interpolation, stack.data)
