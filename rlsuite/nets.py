"""Multilayer perceptrons, single and as an ensemble in one batched product a layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

Init = Literal["torch", "xavier"]


class EnsembleMLP(nn.Module):
    """K perceptrons with ReLU between layers; their weights are stacked: (K, in, out).

    ``init``: "torch" draws weights and biases from U(-1/sqrt(in), 1/sqrt(in)), PyTorch's default
    for a linear layer; "xavier" weights from U(+-sqrt(6 / (in + out))) and zero biases. Weights are
    drawn on the CPU, so that they are the same on every device.
    """

    def __init__(
        self,
        members: int,
        sizes: Sequence[int],
        *,
        init: Init,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for fan_in, fan_out in pairwise(sizes):
            weight = torch.empty(members, fan_in, fan_out)
            bias = torch.zeros(members, 1, fan_out)
            if init == "torch":
                bound = 1.0 / math.sqrt(fan_in)
                bias.uniform_(-bound, bound, generator=generator)
            else:
                bound = math.sqrt(6.0 / (fan_in + fan_out))
            weight.uniform_(-bound, bound, generator=generator)
            self.weights.append(nn.Parameter(weight.to(device)))
            self.biases.append(nn.Parameter(bias.to(device)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in), the same for all members, to (K, B, out)."""
        h = x.expand(self.weights[0].shape[0], -1, -1)
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.baddbmm(bias, h, weight)
            if layer < last:
                h = torch.relu(h)
        return h
