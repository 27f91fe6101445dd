"""Training a base model in a worker thread."""

from __future__ import annotations

from collections.abc import Callable, Generator

from ..events import RunFailed
from ..pretraining import Pretraining, pretrain
from ..trained import Trained
from .base_volumes import Picked, read
from .follow import Follower, Progress
from .worker import explained, followed, torch_loaded

STOPPED = "stopped before the training began: there is no base model yet"


@explained
def train(cancelled: Callable[[], bool], plan: Pretraining, wanted: Picked) -> Generator[Progress, None, Trained]:
    """Read the volumes and train; when ``cancelled`` says yes, the base model is as far as it has come.

    Every failure is an `EngineError`. Stopped before the first training step, it is one too.
    """
    follower = Follower("Reading the volumes")
    volumes = yield from followed(read(wanted, plan.method.depth_to_learn(plan.acquisition), cancelled), follower)
    yield from torch_loaded()
    events = pretrain(plan, volumes, cancelled=cancelled)
    try:
        base = yield from followed(events, follower)
    finally:
        events.close()
    yield follower.progress()
    if not base.weights:
        raise RunFailed(STOPPED)
    return base
