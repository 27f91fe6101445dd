"""The contract of every method: a frozen, serialisable spec that turns projections into a volume."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from ..acquisition import MINIMUM_PROJECTIONS, Acquisition
from ..events import Event, RunFailed
from ..metrics import residual_stats
from ..provenance import Findings
from ..volume import ProjectionStack, Volume
from ._settings import FinalConsistency

if TYPE_CHECKING:
    import torch

Weights = dict[str, "torch.Tensor"]
Net = TypeVar("Net", bound="torch.nn.Module")

_SEEDING = Lock()

EXPLAINED = 1.15
"""Times the noise that a volume may leave unexplained of projections that overlap (root mean square): trained ones left
1.02 to 1.08 times noise that was counted, and 1.3 times and more where there was structure left (measurements.md)."""


@dataclass
class Context:
    """What a method may know besides its spec and the stack.

    Parameters
    ----------
    device
        torch device, ``cpu``, ``cuda`` or ``mps``.
    dtype
        ``float32`` or ``bfloat16``: the dtype of network activations (weights stay float32).
    seed
        Fixes every random number of the run.
    cancelled
        Asked once a step through `should_stop`; when it says yes, the generator returns what it has.
    preview_seconds
        Previews of a volume in training come this far apart at least.
    batch_bytes
        The memory that a batch may take; batches of slices are sized to it.
    volumes
        Priors computed in this run, by their spec, so that sampling need not compute them again.
    stopped
        Whether a generator has broken off.
    """

    device: str = "cpu"
    dtype: str = "float32"
    seed: int = 0
    cancelled: Callable[[], bool] = lambda: False
    preview_seconds: float = 5.0
    batch_bytes: int = 2 * 2**30
    volumes: dict[str, NDArray[np.float32]] = field(default_factory=dict, repr=False)
    stopped: bool = field(default=False, repr=False)
    _last_preview: float = field(default_factory=time.monotonic, repr=False)

    def at_once(self, each: int) -> int:
        """How many slices, planes or subvolumes of so many bytes in a network make a batch."""
        return max(1, self.batch_bytes // each)

    def should_stop(self) -> bool:
        """Whether to break off now; remembered in ``stopped``."""
        self.stopped = self.stopped or self.cancelled()
        return self.stopped

    def preview_due(self) -> bool:
        """Whether it is time for the next preview; asking starts the wait anew when it is."""
        if time.monotonic() - self._last_preview < self.preview_seconds:
            return False
        self._last_preview = time.monotonic()
        return True

    def preview_done(self) -> None:
        """Put the next preview off by nine times what this one took: previews cost a tenth of the time at most."""
        now = time.monotonic()
        self._last_preview = now + max(0.0, 9 * (now - self._last_preview) - self.preview_seconds)


class Method(BaseModel):
    """A recipe that turns a projection stack into a volume.

    Stacks come in normalised (`ProjectionStack.normalised`); the volume is on the same scale.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    learned: ClassVar[bool] = False
    """Whether `fit` trains anything that can be saved."""

    retrains: ClassVar[bool] = True
    """Whether the weights know the projections themselves, so that a held-out score must train anew without the
    hidden ones."""

    pretrained: ClassVar[bool] = False
    """Whether the weights come from full volumes (`pretrain`) and not from the stack, so that a run needs a base
    model; `refine` may fit it to the stack. Such weights know no projection until then: `retrains` is false."""

    gives_reliability: ClassVar[bool] = False
    """Whether it says how far each voxel can be trusted: its volumes may come with a `Reliability`."""

    kind: str
    consistency: FinalConsistency = "none"

    @property
    def transfers(self) -> bool:
        """Whether what is learned of one stack suits further ones of the kind: time points, fields of view."""
        return self.learned and not self.retrains and not self.pretrained

    @property
    def refines(self) -> bool:
        """Whether `refine` changes the weights it is given, so that they are worth saving again."""
        return False

    @property
    def idle(self) -> frozenset[str]:
        """Settings by dotted path, a prior's included, that do nothing with the others as they are: not taken."""
        below = ((key, value.idle) for key, value in self if isinstance(value, Method))
        return self.own_idle | {f"{key}.{path}" for key, idle in below for path in idle}

    @property
    def own_idle(self) -> frozenset[str]:
        """Those that follow from its own settings."""
        return frozenset()

    def unsuited(self, acquisition: Acquisition) -> str | None:
        """Why the method cannot work on such projections, in words that follow its name; None where it can."""
        return None

    def depth_to_learn(self, acquisition: Acquisition) -> int:
        """Slices that a volume must have at least to be trained on: those of three projections."""
        return acquisition.bound(MINIMUM_PROJECTIONS).depth

    def pretrain(
        self, volumes: Sequence[NDArray[np.float32]], acquisition: Acquisition, context: Context
    ) -> Generator[Event, None, Weights]:
        """Train on fully sampled volumes, as the acquisition would see them; for methods that are `pretrained`.

        Parameters
        ----------
        volumes
            Each (Z, y, x), normalised like a stack: 0.1 and 99.9 percentiles at 0 and 1; of `depth_to_learn` slices or
            more.
        acquisition
            Of the projections that the weights are meant for; not bound to a stack.
        """
        raise TypeError(f"{type(self).__name__} is not trained on volumes")
        yield

    def fit(self, stack: ProjectionStack, context: Context) -> Generator[Event, None, Weights]:
        """Train on the stack; methods with nothing to train return no weights."""
        return {}
        yield  # a generator even so

    def refine(self, stack: ProjectionStack, weights: Weights, context: Context) -> Generator[Event, None, Weights]:
        """Weights that were trained before, perhaps on another stack, fitted to this one if the spec asks for it."""
        return weights
        yield  # a generator even so

    def findings(self, stack: ProjectionStack, weights: Weights) -> Findings:
        """What training found out about the stack, for the record and for people; most find nothing."""
        return {}

    def predict(self, stack: ProjectionStack, weights: Weights, context: Context) -> Generator[Event, None, Volume]:
        """The volume with all that the method states of it."""
        data = yield from self.voxels(stack, weights, context)
        return Volume(data, stack.volume_scale_um, f"{stack.name} {self.kind}", stack.source_dtype)

    def voxels(
        self, stack: ProjectionStack, weights: Weights, context: Context
    ) -> Generator[Event, None, NDArray[np.float32]]:
        """The volume alone, (Z, y, x) float32, with the spec's consistency enforced: no error bars are made for it."""
        data = yield from self.estimate(stack, weights, context)
        if self.consistency != "none":
            make_consistent(stack, data)
        return data

    def estimate(
        self, stack: ProjectionStack, weights: Weights, context: Context
    ) -> Generator[Event, None, NDArray[np.float32]]:
        """The volume before the closing consistency step, (Z, y, x) float32, freshly allocated."""
        raise TypeError(f"{type(self).__name__} lacks estimate")
        yield

    def untrained(self, stack: ProjectionStack, context: Context) -> Weights:
        """Weights as they are before training: the names and shapes of those that `predict` takes."""
        if self.learned:  # else weights that were saved could not be checked, and none would be taken
            raise TypeError(f"{type(self).__name__} lacks untrained")
        return {}

    def memory_bytes(self, stack: ProjectionStack) -> tuple[int, str]:
        """The least memory a run takes beside the volume itself, in bytes, and which setting lowers it.

        Of a method that trains on the stack, with a batch of its training; of one that is `pretrained`, for one sample
        of a batch, as its training is checked for as many (`hardware.check_training_memory`).
        """
        return 0, "take fewer projections"


def make_consistent(stack: ProjectionStack, data: NDArray[np.float32]) -> None:
    """Make a volume (Z, y, x) reproject to the stack by the smoothest change along z; in place, in float64, row by row.

    So the measured part of every result is the conservative interpolation's, and a method adds what projections
    cannot see. With overlap, a volume that explains the projections to within their noise (`EXPLAINED`) stays as it is:
    a step would put the noise back that overlapping projections average away.
    """
    acquisition, ridge = stack.acquisition, stack.ridge
    if ridge and residual_stats(data, stack).rms ** 2 <= EXPLAINED**2 * stack.noise_variance:
        return
    for row in range(data.shape[1]):
        volume, measured = data[:, row].astype(np.float64), stack.data[:, row].astype(np.float64)
        data[:, row] = acquisition.enforce(volume, measured, ridge, smooth=True)


def autocast(context: Context) -> torch.autocast:
    """Mixed precision where the run asks for it; weights and losses stay float32."""
    import torch

    return torch.autocast(context.device, torch.bfloat16, enabled=context.dtype == "bfloat16")


@contextmanager
def seeded(seed: int) -> Generator[torch.Generator]:
    """torch's own random numbers from a seed, and as they were afterwards.

    They are the whole process's, so runs side by side take turns: build a network, no more.
    """
    import torch

    with _SEEDING, torch.random.fork_rng(devices=[]):
        yield torch.default_generator.manual_seed(seed)  # `torch.manual_seed` would set those of GPUs, too


def finite(loss: float) -> float:
    """The loss itself, if training has not diverged.

    Raises
    ------
    RunFailed
        If the loss is NaN or infinite.
    """
    if not math.isfinite(loss):
        raise RunFailed("training diverged: the loss is no longer finite; lower the learning rate and run again")
    return loss


def decay(schedule: str, progress: float) -> float:
    """Share of the learning rate at ``progress`` 0 .. 1 through a training: ``constant`` or ``cosine`` to zero."""
    return 1.0 if schedule == "constant" else 0.5 * (1 + math.cos(math.pi * progress))


PRIOR, DENOISER = "prior.", "denoiser."
"""Prefixes of the weights of methods with two networks."""


def kept(net: torch.nn.Module) -> Weights:
    """A network's weights by name, on the CPU, as they are kept."""
    return with_prefix(net.state_dict(), "")


def loaded(net: Net, weights: Weights) -> Net:
    """The network with these weights, to be used as it is."""
    net.load_state_dict(weights)
    return net.requires_grad_(False).eval()


def with_prefix(weights: Weights, prefix: str) -> Weights:
    """The weights under names with a prefix, on the CPU."""
    return {prefix + name: tensor.detach().cpu() for name, tensor in weights.items()}


def without_prefix(weights: Weights, prefix: str) -> Weights:
    """The weights under a prefix, by their names behind it."""
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
