"""Networks: ensembles in one batched product a layer, and values of discrete actions.

Weights are drawn on the CPU from a given generator, so that they are the same on every device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlsuite.errors import UserError

Init = Literal["torch", "xavier"]


def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent of each element of a hidden layer, to 2e-7: 2 sigmoid(2 x) - 1.

    On a CPU torch has that several times as fast as ``torch.tanh``, which keeps all digits of small
    numbers too.
    """
    y = torch.sigmoid(x + x)
    return y + y - 1.0


class EnsembleMLP(nn.Module):
    """K perceptrons with ReLU between layers; their weights are stacked: (K, in, out).

    ``init``: "torch" draws weights and biases from U(-1/sqrt(in), 1/sqrt(in)), PyTorch's default
    for a linear layer; "xavier" weights from U(+-sqrt(6 / (in + out))) and zero biases.
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


class BatchRenorm(nn.Module):
    """Batch renormalisation (Ioffe, arXiv 1702.03275) of (K, B, D): each feature of each member.

    In training the batch's own mean and (biased) variance normalise; from the ``warmup``-th
    training pass on, the factor r and shift d bring the result close to what the running
    statistics would give (algorithm 1), within ``r_max`` and ``d_max`` and without gradient.
    Otherwise the running statistics normalise; training passes move them by 1 - ``momentum``.
    """

    mean: Tensor
    var: Tensor
    passes: Tensor

    def __init__(
        self,
        members: int,
        features: int,
        *,
        device: torch.device,
        warmup: int = 100_000,
        momentum: float = 0.99,
        eps: float = 1e-3,
        r_max: float = 3.0,
        d_max: float = 5.0,
    ) -> None:
        super().__init__()
        self.warmup, self.momentum, self.eps = warmup, momentum, eps
        self.r_max, self.d_max = r_max, d_max
        shape = (members, 1, features)
        self.gain = nn.Parameter(torch.ones(shape, device=device))
        self.shift = nn.Parameter(torch.zeros(shape, device=device))
        self.register_buffer("mean", torch.zeros(shape, device=device))
        self.register_buffer("var", torch.ones(shape, device=device))
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64, device=device))

    def forward(self, x: Tensor, *, training: bool) -> Tensor:
        """(K, B, D), normalised. A training pass also moves the running statistics."""
        if not training:
            return (x - self.mean) * (self.gain * (self.var + self.eps).rsqrt()) + self.shift
        mean, var = x.mean(1, keepdim=True), x.var(1, keepdim=True, correction=0)
        std = (var + self.eps).sqrt()
        with torch.no_grad():
            running_std = (self.var + self.eps).sqrt()
            r = (std / running_std).clamp(1.0 / self.r_max, self.r_max)
            d = ((mean - self.mean) / running_std).clamp(-self.d_max, self.d_max)
            warm = self.passes >= self.warmup  # a tensor: the host never waits for it
            r, d = torch.where(warm, r, 1.0), torch.where(warm, d, 0.0)
            self.mean.lerp_(mean, 1.0 - self.momentum)
            self.var.lerp_(var, 1.0 - self.momentum)
            self.passes += 1
        return ((x - mean) / std * r + d) * self.gain + self.shift


NATURE = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
"""Channels, kernel and stride of each convolution of Mnih et al., Nature 518 (2015)."""
MINATAR = ((16, 3, 1),)
"""Those for images too small for it (Young & Tian, arXiv 1903.03176)."""
_NATURE_SIDE = 36
"""The smallest side that leaves a pixel after NATURE."""


def drawn(
    layer: nn.Linear | nn.Conv2d, generator: torch.Generator, device: torch.device
) -> nn.Linear | nn.Conv2d:
    """The layer with weights and biases from U(-1/sqrt(in), 1/sqrt(in)), PyTorch's default."""
    bound = 1.0 / math.sqrt(math.prod(layer.weight.shape[1:]))
    for name, p in list(layer.named_parameters()):
        value = torch.empty(p.shape).uniform_(-bound, bound, generator=generator)
        setattr(layer, name, nn.Parameter(value.to(device)))
    return layer


def orthogonal(
    fan_in: int, fan_out: int, gain: float, generator: torch.Generator, device: torch.device
) -> nn.Linear:
    """A layer with orthogonal weights, scaled by ``gain``, and zero biases."""
    layer = nn.Linear(fan_in, fan_out, device="meta")
    weight = nn.init.orthogonal_(torch.empty(fan_out, fan_in), gain, generator=generator)
    layer.weight = nn.Parameter(weight.to(device))
    layer.bias = nn.Parameter(torch.zeros(fan_out, device=device))
    return layer


class Encoder(nn.Module):
    """Observations of a Box, (B, *shape) of any dtype, to (B, ``features``) float32.

    Three-dimensional observations are images, with their channels first or last, whichever axis is
    shorter (first if equal). They go through convolutions with ReLU: NATURE if both sides have 36
    pixels, else MINATAR; uint8 is scaled by 1/255. Everything else is flattened as it is.

    Raises UserError unless the space is a Box.
    """

    def __init__(
        self, space: gym.Space[Any], *, generator: torch.Generator, device: torch.device
    ) -> None:
        super().__init__()
        if not isinstance(space, gym.spaces.Box):
            raise UserError(
                f"the network needs Box observations, the environment has {space}: put "
                "gymnasium.wrappers.FlattenObservation around it"
            )
        self.convolutions = nn.ModuleList()
        self.features = int(np.prod(space.shape))
        if len(space.shape) != 3:
            return
        self.channels_last = space.shape[2] < space.shape[0]
        channels, *sides = space.shape
        if self.channels_last:
            *sides, channels = space.shape
        self.scale = 1.0 / 255.0 if space.dtype == np.uint8 else 1.0
        for filters, kernel, stride in NATURE if min(sides) >= _NATURE_SIDE else MINATAR:
            layer = nn.Conv2d(channels, filters, kernel, stride, device="meta")
            self.convolutions.append(drawn(layer, generator, device))
            channels, sides = filters, [(side - kernel) // stride + 1 for side in sides]
        if min(sides) < 1:
            raise UserError(f"images need 3 pixels a side, the environment has {space.shape}")
        self.features = channels * math.prod(sides)

    def forward(self, obs: Tensor) -> Tensor:
        """(B, *shape) to (B, features)."""
        if not self.convolutions:
            return obs.reshape(obs.shape[0], -1).to(torch.float32)
        x = obs.permute(0, 3, 1, 2) if self.channels_last else obs
        # On a CPU convolutions are faster with the channels innermost.
        x = x.to(torch.float32).contiguous(memory_format=torch.channels_last)
        first, *rest = self.convolutions
        assert isinstance(first, nn.Conv2d)
        # Scaling the weight is cheaper than scaling the pixels, and the same.
        x = F.relu(F.conv2d(x, first.weight * self.scale, first.bias, first.stride))
        for layer in rest:
            x = F.relu(layer(x))
        return x.flatten(1)


def perceptron(
    sizes: Sequence[int], generator: torch.Generator, device: torch.device
) -> nn.Sequential:
    """Linear layers with ReLU between them, not after the last."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.ReLU()] if layers else []
        layers += [drawn(nn.Linear(fan_in, fan_out, device="meta"), generator, device)]
    return nn.Sequential(*layers)


class Network(nn.Module):
    """An ``Encoder``, fully connected layers of ``hidden`` units with ReLU, ``outputs`` numbers."""

    def __init__(
        self,
        space: gym.Space[Any],
        hidden: Sequence[int],
        outputs: int,
        *,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(space, generator=generator, device=device)
        sizes = [self.encoder.features, *hidden, outputs]
        self.head = perceptron(sizes, generator, device)

    def forward(self, obs: Tensor) -> Tensor:
        """(B, *shape) to (B, outputs)."""
        out: Tensor = self.head(self.encoder(obs))
        return out


class DuelingNetwork(nn.Module):
    """Q = V + A - mean of A over actions (Wang et al., arXiv 1511.06581, eq. 9).

    The streams of V and A have a last hidden layer each; they share those before and the encoder.
    """

    def __init__(
        self,
        space: gym.Space[Any],
        hidden: Sequence[int],
        outputs: int,
        *,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(space, generator=generator, device=device)
        shared = [self.encoder.features, *hidden[:-1]]
        self.body = perceptron(shared, generator, device)
        stream = [shared[-1], *hidden[-1:]]
        self.value = perceptron([*stream, 1], generator, device)
        self.advantage = perceptron([*stream, outputs], generator, device)

    def forward(self, obs: Tensor) -> Tensor:
        """(B, *shape) to (B, outputs)."""
        h = self.encoder(obs)
        if len(self.body):
            h = F.relu(self.body(h))
        advantage: Tensor = self.advantage(h)
        value: Tensor = self.value(h)
        return value + advantage - advantage.mean(1, keepdim=True)


class OrthogonalNetwork(nn.Module):
    """An ``Encoder``, fully connected layers of ``hidden`` units with tanh or ReLU, ``outputs``
    numbers. Weights of the layers are orthogonal, with gain sqrt(2) and for the outputs ``gain``;
    biases are zero."""

    def __init__(
        self,
        space: gym.Space[Any],
        hidden: Sequence[int],
        outputs: int,
        *,
        activation: Literal["tanh", "relu"],
        gain: float,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(space, generator=generator, device=device)
        self.activation = torch.tanh if activation == "tanh" else torch.relu
        sizes = [self.encoder.features, *hidden]
        self.layers = nn.ModuleList(
            orthogonal(*pair, math.sqrt(2.0), generator, device) for pair in pairwise(sizes)
        )
        self.head = orthogonal(sizes[-1], outputs, gain, generator, device)

    def forward(self, obs: Tensor) -> Tensor:
        """(B, *shape) to (B, outputs)."""
        h = self.encoder(obs)
        for layer in self.layers:
            h = self.activation(layer(h))
        out: Tensor = self.head(h)
        return out
