"""How networks are trained: steps go down, the rate rises and falls, a stop ends it, threads are given back."""

from __future__ import annotations

import threading
from itertools import count

import pytest
import torch
from torch import nn

from napari_microdiffusion.events import RunFailed, Stage, Step
from napari_microdiffusion.methods import Context
from napari_microdiffusion.methods._training import ahead, descend, muon, pseudo_huber, take_step


@pytest.fixture
def net() -> nn.Linear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Linear(8, 8)


def distance(net: nn.Linear) -> torch.Tensor:
    """Mean squared difference from the identity."""
    images = torch.eye(8)
    return (net(images) - images).square().mean()


def test_steps_go_down(net):
    events = list(descend("Learning", lambda: distance(net), muon(net, 1e-1), 200, "cosine", Context()))
    assert events[0] == Stage("Learning", 200)
    steps = [event for event in events if isinstance(event, Step)]
    assert [step.done for step in steps] == list(range(1, 201))
    assert steps[-1].loss < 0.05 * steps[0].loss


@pytest.mark.parametrize(
    ("error", "expected"), [(0.02, 0.02**2), (-0.02, 0.02**2), (200.0, 2 * 2 * (200 - 2)), (-200.0, 2 * 2 * (200 - 2))]
)
def test_small_errors_count_by_their_square_and_large_ones_by_their_size(error, expected):
    assert float(pseudo_huber(torch.full((5,), error), delta=2.0)) == pytest.approx(expected, rel=1e-3)


def test_matrices_go_to_muon_and_the_rest_to_adam(net):
    matrices, rest = muon(net, 1e-2)
    assert matrices.param_groups[0]["params"] == [net.weight]
    assert rest.param_groups[0]["params"] == [net.bias]


def test_a_small_rate_is_small_for_all(net):
    before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    take_step(distance(net), muon(net, 1e-5))
    for name, parameter in net.named_parameters():
        assert 0 < float((parameter.detach() - before[name]).abs().max()) < 2e-5


def test_the_rate_rises_and_falls(net):
    optimisers = muon(net, 1e-2)
    rates = [
        optimisers[0].param_groups[0]["lr"]
        for _ in descend("", lambda: distance(net), optimisers, 100, "cosine", Context())
    ]
    assert rates[1] < rates[20] < rates[30]
    assert rates[40] > rates[70] > rates[-1]
    assert max(rates) <= 1e-2


def test_a_stop_ends_it(net):
    context = Context(cancelled=lambda: True)
    events = list(descend("", lambda: distance(net), muon(net, 1e-2), 100, "cosine", context))
    assert [event.done for event in events if isinstance(event, Step)] == [1]
    assert context.stopped


def test_a_loss_that_is_no_number_ends_it(net):
    with pytest.raises(RunFailed, match="training diverged"):
        list(descend("", lambda: distance(net) * torch.nan, muon(net, 1e-2), 5, "cosine", Context()))


def test_a_step_takes_one_thread_and_gives_the_others_back(net):
    taken = []

    class Watched(torch.optim.SGD):
        def step(self, closure=None):  # noqa: ARG002
            taken.append(torch.get_num_threads())
            raise ValueError("no step")

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(ValueError, match="no step"):
            take_step(distance(net), [Watched(net.parameters(), 0.1)])
        assert taken == [1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("device", "drawn_by_now"), [("cpu", 3), ("cuda", 4)])
def test_draws_keep_their_order_and_a_gpu_has_the_next_one_drawn_meanwhile(device, drawn_by_now):
    numbers, drawn, enough = count(), [], threading.Event()

    def draw():
        drawn.append(next(numbers))
        if len(drawn) == drawn_by_now:
            enough.set()
        return drawn[-1]

    before = set(threading.enumerate())
    with ahead(draw, Context(device=device)) as following:
        assert [following() for _ in range(3)] == [0, 1, 2]
        assert enough.wait(10)
    assert len(drawn) == drawn_by_now
    assert set(threading.enumerate()) <= before  # others may have ended meanwhile


def test_a_draw_that_fails_ends_the_training_and_its_thread():
    before = set(threading.enumerate())

    def draw():
        raise ValueError("nothing to draw from")

    with pytest.raises(ValueError, match="nothing to draw from"), ahead(draw, Context(device="cuda")) as following:
        following()
    assert set(threading.enumerate()) <= before  # others may have ended meanwhile
