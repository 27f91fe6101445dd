"""How networks are trained: Muon for their matrices, a rate that rises and falls, one event a step."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from threading import Lock
from typing import TYPE_CHECKING, TypeVar

from ..events import Event, Stage, Step
from ._base import Context, decay, finite

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

Drawn = TypeVar("Drawn")

_STEPPING = Lock()

WARM_UP = 30
"""Steps over which the learning rate rises."""

ADAM_OVER_MUON = 1 / 3
"""Ratio of the learning rates: Adam has its usual 1e-3 where Muon has 3e-3; where a trained network is only to be
adjusted, both are small."""


def muon(net: nn.Module, learning_rate: float) -> list[Optimizer]:
    """Muon (Jordan et al. 2024) for the matrices of a network (`conv.Conv` keeps kernels as such), Adam for the rest.

    It gets further in as many steps than Adam for all.

    Parameters
    ----------
    learning_rate
        Of Muon; Adam's follows it.
    """
    import torch

    from ..muon import Muon

    large = [parameter for parameter in net.parameters() if parameter.ndim == 2]
    small = [parameter for parameter in net.parameters() if parameter.ndim != 2]
    return [
        Muon(large, learning_rate),
        torch.optim.Adam(small, lr=ADAM_OVER_MUON * learning_rate),
    ]


def optimisers_of(net: nn.Module, name: str, learning_rate: float) -> list[Optimizer]:
    """``muon`` as above, or ``adam`` or ``adamw`` for all parameters."""
    import torch

    match name:
        case "muon":
            return muon(net, learning_rate)
        case "adamw":
            return [torch.optim.AdamW(net.parameters(), lr=learning_rate, weight_decay=1e-4)]
        case _:
            return [torch.optim.Adam(net.parameters(), lr=learning_rate)]


def pseudo_huber(error: Tensor, delta: float) -> Tensor:
    """Mean of error² well below δ, of 2δ(|error| − δ) well beyond (Charbonnier et al. 1997); errors of any shape."""
    return 2 * (error.square() / (((error / delta).square() + 1).sqrt() + 1)).mean()


def take_step(loss: Tensor, optimisers: list[Optimizer]) -> float:
    """One step of every optimiser down a loss; the loss before it."""
    for optimiser in optimisers:
        optimiser.zero_grad(set_to_none=True)
    loss.backward()
    with _one_thread() if loss.device.type == "cpu" else nullcontext():
        for optimiser in optimisers:
            optimiser.step()
    return float(loss.item())


@contextmanager
def _one_thread() -> Generator[None]:
    """Without torch's other threads: waking them for products as small as Muon's takes longer than those.

    The number of threads is the whole process's, so trainings side by side take turns.
    """
    import torch

    with _STEPPING:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


@contextmanager
def ahead(draw: Callable[[], Drawn], context: Context) -> Generator[Callable[[], Drawn]]:
    """What draws training material; one draw ahead in a thread of its own where the steps are taken on a GPU.

    There drawing takes as long as a step. The order of the draws, and with it what the seed fixes, is the same.
    """
    if context.device == "cpu":
        yield draw
        return
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(draw)

        def drawn() -> Drawn:
            nonlocal coming
            found, coming = coming.result(), thread.submit(draw)
            return found

        yield drawn


def descend(
    name: str, loss: Callable[[], Tensor], optimisers: list[Optimizer], steps: int, schedule: str, context: Context
) -> Generator[Event, None, None]:
    """Take so many steps down a loss that is drawn anew for each; until the run is stopped.

    Parameters
    ----------
    name
        Of the stage, for people.
    schedule
        Of the learning rate after it has risen, as for `decay`.
    """
    import torch

    schedules = [
        torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: min(1.0, (step + 1) / WARM_UP) * decay(schedule, step / steps)
        )
        for optimiser in optimisers
    ]
    yield Stage(name, steps)
    for step in range(steps):
        value = take_step(loss(), optimisers)
        for rate in schedules:
            rate.step()
        yield Step(step + 1, finite(value))
        if context.should_stop():
            return
