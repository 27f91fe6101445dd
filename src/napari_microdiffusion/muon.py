"""Muon (Jordan et al. 2024) in float32, all matrices of one shape together.

`torch.optim.Muon` takes one matrix after the other and multiplies in bfloat16, which most processors emulate: on such
a one it took two fifths of a training step of `axial`, where this takes a twentieth (docs/architecture.md).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

MOMENTUM = 0.95

COEFFICIENTS = 3.4445, -4.7750, 2.0315
"""Of the Newton-Schulz iteration; steep at zero: singular values come near 1 in few rounds, and stay there roughly."""

ROUNDS = 5


class Muon(torch.optim.Optimizer):
    """Momentum (Nesterov's) whose direction is made orthogonal, for matrices; no weight decay.

    Steps are as large as Adam's at the same rate: 0.2 √max(outputs, inputs) (Liu et al. 2025).

    Parameters
    ----------
    parameters
        Matrices (outputs, inputs).
    lr
        Learning rate.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """One step down the gradients; parameters without one stay as they are."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in alike.items():
                directions = orthogonal(torch.stack(self._momentum(parameters))).unbind()
                torch._foreach_add_(parameters, directions, alpha=-0.2 * max(shape) ** 0.5 * group["lr"])

    def _momentum(self, parameters: list[Tensor]) -> list[Tensor]:
        """Where the gradients and those before them point, looking ahead."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        averages = [self._average(parameter) for parameter in parameters]
        torch._foreach_lerp_(averages, gradients, 1 - MOMENTUM)
        return list(torch._foreach_lerp(gradients, averages, MOMENTUM))

    def _average(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "average" not in state:
            state["average"] = torch.zeros_like(parameter)
        average: Tensor = state["average"]
        return average


def orthogonal(matrices: Tensor) -> Tensor:
    """About UVᵀ (m, p, q) for matrices USVᵀ (m, p, q): singular values between 0.7 and 1.2, those near 0 excepted."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    for _ in range(ROUNDS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
