"""Every method runs in the window, on either profile, and the ground truth beside it changes nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from conftest import small
from napari_microdiffusion.acquisition import Acquisition
from napari_microdiffusion.events import exhaust
from napari_microdiffusion.methods import Method
from napari_microdiffusion.phantoms import phantom
from napari_microdiffusion.plugin.known import facts
from napari_microdiffusion.plugin.layers import projections_layer, volume_layer
from napari_microdiffusion.presets import METHODS, spec
from napari_microdiffusion.pretraining import Pretraining, pretrain
from napari_microdiffusion.run import Job, run
from napari_microdiffusion.trained import Trained

pytestmark = pytest.mark.skipif(
    sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")),
    reason="needs a display",
)

SHAPE = (20, 32, 32)


def base_model(method: Method, acquisition: Acquisition) -> Trained:
    """Hardly trained, on another sample."""
    plan = Pretraining(method=method, acquisition=acquisition, device="cpu")
    return exhaust(pretrain(plan, [phantom("nuclei", SHAPE, seed=7)]))


@pytest.mark.parametrize("profile", ["uniform", "point"])
def test_every_method_runs_beside_a_truth_and_gives_what_it_gives_without(
    opened: Callable[..., Any], qtbot: Any, profile: str
) -> None:
    acquisition = Acquisition.model_validate({"slices": 4, "profile": profile})
    stack, truth = phantom("vessels", SHAPE, seed=2).simulate(acquisition)
    layers = [volume_layer(replace(truth, name="truth")), projections_layer(replace(stack, name="projections"))]
    viewer, widget = opened(layers=layers, source="projections", truth="truth")
    for name in METHODS:
        method = spec(name, overrides=small(name))
        trained = base_model(method, acquisition) if method.pretrained else None
        changed = {"method": name, "overrides": small(name), "acquisition": acquisition}
        widget.setValue(widget.value().replace(**changed))
        if trained:
            widget._basing.use(trained, None)
        assert widget.problem() == "", name
        with qtbot.waitSignal(widget.finished, timeout=60_000):
            widget.run()
        layer = widget.results()[-1]
        assert facts(layer)["provenance"]["method"] == name
        assert facts(layer)["provenance"]["complete"]
        assert np.isfinite(facts(layer)["scores"]["psnr"])
        job = Job(method=method, acquisition=stack.acquisition, device="cpu")
        alone = exhaust(run(job, stack, weights=trained.weights if trained else None))
        np.testing.assert_array_equal(layer.data, alone.volume.data, err_msg=name)
        viewer.layers.remove(layer)  # napari's grid takes the longer, the more layers there are
