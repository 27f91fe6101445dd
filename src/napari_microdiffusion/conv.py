"""A convolution that Muon can train."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Conv(nn.Module):
    """A convolution whose kernel is kept as one matrix (outputs, inputs · kernel): Muon trains matrices."""

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int] = (3, 3), stride: int = 1) -> None:
        super().__init__()
        self._shape = outputs, inputs, *kernel
        self._stride = 1, stride
        self._padding = (kernel[0] - 1) // 2, (kernel[1] - 1) // 2
        fans = inputs * kernel[0] * kernel[1]
        bound = fans**-0.5  # as torch's own convolutions start
        self.weight = nn.Parameter(torch.empty(outputs, fans).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.weight.view(self._shape), self.bias, self._stride, self._padding)
