"""Implicit neural representation of the volume (MicroDiffusion, Sec. 4.1)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ..events import Event, Preview, Stage, Step
from ..volume import ProjectionStack
from ._base import Context, Method, Weights, autocast, decay, finite, kept, loaded, make_consistent, seeded
from ._settings import FinalConsistency, RateSchedule, Steps, setting

if TYPE_CHECKING:
    from torch import Tensor

    from ..inr import CoordinateNet, HashGrid

PIXELS_AT_ONCE = 2**14
COARSEST = 4.0, 32.0
"""Cells of the hash encoding's coarsest level: projections along z, pixels in y and x."""


class Inr(Method):
    """A coordinate network trained so that its slices' means reproduce the projections (Eq. 1 and 2)."""

    learned: ClassVar[bool] = True
    kind: Literal["inr"] = "inr"
    consistency: FinalConsistency = "final"
    encoding: Literal["gaussian", "sincos", "hash"] = setting(
        "gaussian",
        "how coordinates enter the network: random Fourier features (gaussian), octaves (sincos), "
        "or trained grids of several resolutions (hash)",
    )
    features: int = setting(
        256, "size of the gaussian encoding: twice the number of random frequencies", ge=8, le=4096, multiple_of=2
    )
    bandwidth_z: float = setting(
        1.0, "finest detail along z that the gaussian encoding favours, in cycles per ten projections", gt=0, le=100
    )
    bandwidth_xy: float = setting(
        3.0, "finest detail in xy that the gaussian encoding favours, in cycles per 64 pixels", gt=0, le=100
    )
    octaves: int = setting(10, "levels of the sincos encoding", ge=1, le=16)
    levels: int = setting(8, "grids of the hash encoding, from coarse to fine", ge=1, le=32)
    cell_z: float = setting(
        1.0,
        "finest cell of the hash encoding along z, in projections: much below 1, nothing ties "
        "the slices of a projection together",
        ge=0.05,
        le=100,
    )
    cell_xy: float = setting(2.0, "finest cell of the hash encoding in xy, in pixels", ge=0.25, le=1000)
    table_bits: int = setting(
        16, "most entries that a grid of the hash encoding has, as a power of two: 16 is 65,536", ge=4, le=24
    )
    layers: int = setting(3, "hidden layers of the network", ge=1, le=16)
    width: int = setting(128, "neurons in each hidden layer", ge=8, le=2048)
    skip: bool = setting(False, "feed the encoding in again half way through the network")
    neighbouring: Literal["gaussian", "uniform", "none"] = setting(
        "none",
        "average n neighbouring slices when the volume is computed, as in the paper (Eq. 3); "
        "none keeps each slice as it is",
        sampling=True,
    )
    steps: Steps = 500
    epochs: int | None = setting(
        None, "training length as passes over all measured pixels, instead of steps", ge=1, le=100_000
    )
    rays: int = setting(4096, "measured pixels in each training step", ge=16, le=1_000_000)
    learning_rate: float = setting(4e-3, "learning rate of Adam", gt=0, le=1)
    schedule: RateSchedule = "cosine"
    coherence: float = setting(0.0, "weight of a penalty on the difference of adjacent slices", ge=0, le=100)

    @property
    def own_idle(self) -> frozenset[str]:
        """Those of other encodings, and such."""
        encodings = {
            "gaussian": {"features", "bandwidth_z", "bandwidth_xy"},
            "sincos": {"octaves"},
            "hash": {"levels", "cell_z", "cell_xy", "table_bits"},
        }
        others = {key for encoding, keys in encodings.items() if encoding != self.encoding for key in keys}
        return frozenset(others | ({"steps"} if self.epochs is not None else set()))

    def fit(self, stack: ProjectionStack, context: Context) -> Generator[Event, None, Weights]:
        """Train on random rays: a step draws pixels of every projection and compares means along z (Eq. 2)."""
        import torch

        net = self.network(stack, context)
        losses = self.losses(net, stack, context)
        steps = self.training_steps(stack)
        optimiser = torch.optim.Adam(net.parameters(), lr=self.learning_rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: decay(self.schedule, step / steps))
        yield Stage("Training the neural representation", steps)
        for step in range(steps):
            loss, objective = next(losses)
            optimiser.zero_grad(set_to_none=True)
            objective.backward()
            optimiser.step()
            schedule.step()
            yield Step(step + 1, finite(loss.item()))
            if context.should_stop():
                break
            if context.preview_due() and step + 1 < steps:
                yield from self._preview(net, stack, context)
        return kept(net)

    def estimate(
        self, stack: ProjectionStack, weights: Weights, context: Context
    ) -> Generator[Event, None, NDArray[np.float32]]:
        net = loaded(self.network(stack, context), weights)
        yield Stage("Computing the volume", stack.acquisition.depth)
        data = np.zeros(stack.volume_shape, np.float32)
        for z, image in self._slices(net, stack, context):
            data[z] = image
            yield Preview(z, data[z : z + 1].copy())
            yield Step(z + 1)
        return data

    def losses(self, net: CoordinateNet, stack: ProjectionStack, context: Context) -> Iterator[tuple[Tensor, Tensor]]:
        """Without end, each on new random rays: the loss (Eq. 2), and the objective, which adds coherence to it."""
        import torch

        generator = torch.Generator().manual_seed(context.seed)
        z, profile = (torch.from_numpy(a).float().to(context.device) for a in _rays(stack))
        measured = torch.from_numpy(np.ascontiguousarray(stack.data)).to(context.device).flatten(1)
        while True:
            pixels = torch.randint(measured.shape[1], (len(measured), self._rays_each(stack)), generator=generator)
            pixels = pixels.to(context.device)
            with autocast(context):
                slices = net(z, positions(pixels, stack.shape)).float()
            loss = ((slices * profile[:, None]).sum(1) - measured.gather(1, pixels)).square().mean()
            yield loss, loss + self.coherence * slices.diff(dim=1).square().mean() if self.coherence else loss

    def nodes(
        self, stack: ProjectionStack, rows: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Where the network is evaluated for weighted sums of slices, and with which weights, neighbours included.

        Parameters
        ----------
        rows
            (K, Z): weights of the slices in each sum, in every row as many.

        Returns
        -------
        tuple
            Depths in slices and weights, both (K, m); neighbours beyond the volume are its outer slices (`_slices`).
        """
        mix, offset = self._neighbours(stack.acquisition.slices)
        depth = stack.acquisition.depth
        planes = np.clip(np.arange(depth + len(mix) - 1) + 0.5 + offset, 0.5, depth - 0.5)
        spread = np.stack([np.convolve(row, mix) for row in rows])
        used = spread != 0
        return np.broadcast_to(planes, spread.shape)[used].reshape(len(rows), -1), spread[used].reshape(len(rows), -1)

    def network(self, stack: ProjectionStack, context: Context) -> CoordinateNet:
        """The untrained network; the seed fixes its frequencies and first weights."""
        from ..inr import HashNet, InrNet, gaussian_frequencies, octave_frequencies

        with seeded(context.seed) as generator:
            if self.encoding == "hash":
                return HashNet(self._grid(stack), self.layers, self.width, self.skip).to(context.device)
            if self.encoding == "gaussian":
                bandwidth = self.bandwidth_z / (10 * stack.acquisition.step), self.bandwidth_xy / 64
                frequencies = gaussian_frequencies(self.features // 2, bandwidth, generator)
            else:
                frequencies = octave_frequencies(self.octaves, stack.volume_shape)
            return InrNet(frequencies, self.layers, self.width, self.skip).to(context.device)

    def _grid(self, stack: ProjectionStack) -> HashGrid:
        """Grids with planes at the projections' centres, where a mean over slices tells most about them."""
        from ..inr import HashGrid, level_cells

        step, finest = stack.acquisition.step, (self.cell_z, self.cell_xy)
        first = map(max, COARSEST, finest)
        cells = level_cells(self.levels, *((step * z, xy, xy) for z, xy in (first, finest)))
        anchor = float(stack.acquisition.projection_centres[0]) % step
        return HashGrid(stack.volume_shape, cells, 2**self.table_bits, anchor)

    def training_steps(self, stack: ProjectionStack) -> int:
        """Steps of the whole training on this stack."""
        pixels = math.prod(stack.shape[1:])
        return self.steps if self.epochs is None else math.ceil(self.epochs * pixels / self._rays_each(stack))

    def _rays_each(self, stack: ProjectionStack) -> int:
        """Pixels of each projection in a training step."""
        return max(1, self.rays // len(stack.data))

    def untrained(self, stack: ProjectionStack, context: Context) -> Weights:
        return self.network(stack, context).state_dict()

    def memory_bytes(self, stack: ProjectionStack) -> tuple[int, str]:
        planes = len(stack.data) * stack.acquisition.slices
        points = max(self.rays * stack.acquisition.slices, planes)
        turned = 8 * planes * self.features * self.width  # the first layer's weights, for each slice its own
        own = 12 * points * self.width * self.layers + 16 * self.rays * self.features + turned
        if self.encoding == "hash":
            return own - turned + self._grid_bytes(stack), "lower rays, width, levels or table_bits"
        return own, "lower features, width or rays" if turned > own / 2 else "lower rays, width or layers"

    def _grid_bytes(self, stack: ProjectionStack) -> int:
        """Memory of the hash encoding: entries with gradient and two moments, corners of cells, features of points."""
        cells = self.cell_z * stack.acquisition.step, self.cell_xy, self.cell_xy
        finest = math.prod(size / cell + 3 for size, cell in zip(stack.volume_shape, cells, strict=True))
        entries = self.levels * min(1 << self.table_bits, math.ceil(finest))
        planes: int = 3 + math.ceil(
            stack.acquisition.slices / cells[0]
        )  # of a grid that one projection touches, at most
        corners = self.levels * max(self.rays, PIXELS_AT_ONCE) * planes
        return 32 * entries + 100 * corners + 32 * self.levels * self.rays * stack.acquisition.slices

    def _preview(self, net: CoordinateNet, stack: ProjectionStack, context: Context) -> Generator[Event, None, None]:
        """The volume as the network knows it by now, consistent if the spec asks for it: half-trained it is noisy."""
        images = [image for _, image in self._slices(net, stack, context)]
        if len(images) == stack.acquisition.depth:
            data = np.stack(images)
            if self.consistency != "none":
                make_consistent(stack, data)
            yield Preview(0, data)
        context.preview_done()

    def _slices(
        self, net: CoordinateNet, stack: ProjectionStack, context: Context
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Slices (y, x) with their z, from the top down, until the run is stopped."""
        mix, offset = self._neighbours(stack.acquisition.slices)
        depth = stack.acquisition.depth
        planes: deque[NDArray[np.float32]] = deque(maxlen=len(mix))
        for i in range(depth + len(mix) - 1):
            if context.should_stop():
                return
            planes.append(_plane(net, float(np.clip(i + 0.5 + offset, 0.5, depth - 0.5)), stack.shape, context))
            if len(planes) == len(mix):
                yield i + 1 - len(mix), np.tensordot(mix, np.stack(planes), 1)

    def _neighbours(self, n: int) -> tuple[NDArray[np.float32], float]:
        """Weights of neighbouring-based inference (Eq. 3) and the offset of the first neighbour in slices."""
        if self.neighbouring == "none":
            return np.ones(1, np.float32), 0.0
        k = np.arange(n)
        weights = np.ones(n) if self.neighbouring == "uniform" else np.exp(-(((k + 0.5) / n - 0.5) ** 2) / 2)
        return (weights / weights.sum()).astype(np.float32), -(n - 1) / 2


def _rays(stack: ProjectionStack) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centres (K, m), in slices, of the m slices with weight in each projection, and their weights (m,)."""
    profile = stack.acquisition.profile_weights
    used = np.flatnonzero(profile)
    return np.asarray(stack.acquisition.starts[:, None] + used + 0.5, np.float64), profile[used]


def positions(pixels: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Positions (..., 2) = (y, x) in pixels from the image's centre, of flat pixel indices (...)."""
    import torch

    _, y, x = shape
    return torch.stack([pixels // x + 0.5 - y / 2, pixels % x + 0.5 - x / 2], -1)


def _plane(net: CoordinateNet, z: float, shape: tuple[int, int, int], context: Context) -> NDArray[np.float32]:
    """One slice (y, x) at ``z``, in slices, in chunks of pixels that stay in the processor's cache."""
    import torch

    with torch.no_grad(), autocast(context):
        pixels = torch.arange(shape[1] * shape[2], device=context.device)
        centre = torch.full((1, 1), z, device=context.device)
        chunks = [net(centre, positions(part[None], shape)) for part in pixels.split(PIXELS_AT_ONCE)]
        image: NDArray[np.float32] = torch.cat(chunks, -1).float().cpu().numpy().reshape(shape[1:])
    return image
