"""How long a step of our Muon takes, over one of torch's, on the network of `axial`: one ratio, in one run.

python -m benchmarks.muon_step
"""

from __future__ import annotations

import time

import numpy as np
import torch

from napari_microdiffusion.methods import Axial
from napari_microdiffusion.muon import Muon
from napari_microdiffusion.plane_net import PlaneNet

STEPS = 40


def main() -> None:
    """The command."""
    method = Axial()
    torch.set_num_threads(1)  # as optimisers step in training
    seconds: dict[str, list[float]] = {"ours": [], "torch": []}
    nets = {name: PlaneNet(6, method.channels, method.blocks) for name in seconds}
    matrices = {name: [p for p in net.parameters() if p.ndim == 2] for name, net in nets.items()}
    optimisers = {
        "ours": Muon(matrices["ours"], method.learning_rate),
        "torch": torch.optim.Muon(
            matrices["torch"], lr=method.learning_rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"
        ),
    }
    for _ in range(STEPS):  # in turn, so that other work on the machine slows both
        for name, optimiser in optimisers.items():
            for matrix in matrices[name]:
                matrix.grad = torch.randn_like(matrix)
            began = time.perf_counter()
            optimiser.step()
            seconds[name].append(time.perf_counter() - began)
    ours, theirs = (float(np.median(seconds[name][3:])) for name in ("ours", "torch"))
    print(f"ours {1e3 * ours:.1f} ms, torch's {1e3 * theirs:.1f} ms: {ours / theirs:.2f} of the time")


if __name__ == "__main__":
    main()
