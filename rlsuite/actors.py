"""Stochastic policies of one agent among several: a network, its actions, and their encoding.

A joint critic sees every agent's action as numbers, its encoding: a Box as it is, scaled to [-1, 1]
per dimension; a Discrete as a one-hot vector; a MultiDiscrete as the one-hot vectors of its heads
side by side. Log probabilities are of the whole action: summed over dimensions or heads.

Where only outputs are asked for, the policies of agents that are alike are computed at once
(``ActorStack``): ``from_features`` and what takes its outputs allow for an axis of agents in front
of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlsuite.distributions import squashed_normal
from rlsuite.errors import UserError
from rlsuite.nets import Encoder, drawn, orthogonal, tanh
from rlsuite.policies import SquashedNormalPolicy
from rlsuite.teams import mask_of, own
from rlsuite.types import Tree

UNAVAILABLE = -1e10
"""Logit of an action that there is not: its probability is exactly zero, its gradient too."""
Pull: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""The chain rule through a draw: from the (B, size) derivatives of a loss by the encodings, and the
(B,) or 0-d ones by their log probabilities, to the (B, outputs) derivatives by the outputs. Written
out, since autograd's graph of these few numbers takes longer than a layer of the network."""


class NormalActor(nn.Module):
    """A tanh-squashed normal policy over a bounded Box: fully connected layers with ReLU, the last
    with tanh, then means beside log standard deviations."""

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        hidden: Sequence[int],
        algorithm: str,
        *,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        """Raises UserError, which names the ``algorithm``, unless both spaces are Boxes."""
        super().__init__()
        self.policy = SquashedNormalPolicy(action_space, device, algorithm)
        self.size = self.policy.actions
        """Numbers of an encoding."""
        self.encoder = Encoder(observation_space, generator=generator, device=device)
        sizes = [self.encoder.features, *hidden]
        self.layers = nn.ModuleList(
            drawn(nn.Linear(*pair, device="meta"), generator, device) for pair in pairwise(sizes)
        )
        self.head = drawn(nn.Linear(sizes[-1], 2 * self.size, device="meta"), generator, device)

    def forward(self, obs: Tensor) -> Tensor:
        """(B, *obs) to (B, 2 size)."""
        return self.from_features(self.encoder(obs))

    def from_features(self, x: Tensor) -> Tensor:
        """(B, features) of the encoder to (B, 2 size)."""
        *inner, last = self.layers
        for layer in inner:
            x = F.relu(_linear(layer, x))
        return _linear(self.head, tanh(_linear(last, x)))

    @torch.no_grad()
    def sample(
        self, output: Tensor, mask: Tensor | None, noise: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Pull]:
        """(B, size) encodings, their (B,) log probabilities, and how both depend on the output;
        for autograd they do not."""
        mean, log_std = self.policy.mean_and_log_std(output)
        draw = torch.randn(mean.shape, generator=noise, device=output.device)
        action, log_prob = squashed_normal(mean, log_std, draw)

        def pull(by_action: Tensor, by_log_prob: Tensor) -> Tensor:
            by_log_prob = by_log_prob[..., None]
            by_mean = by_action * (1.0 - action.square()) + 2.0 * by_log_prob * action
            by_log_std = by_mean * log_std.exp() * draw - by_log_prob
            # The policy above clamps its deviation; where it did, nothing depends on the output.
            is_free = log_std == output[..., self.size :]
            return torch.cat([by_mean, by_log_std * is_free], -1)

        return action, log_prob, pull

    @torch.no_grad()
    def draw(self, output: Tensor, mask: Tensor | None, noise: torch.Generator | None) -> Tensor:
        """The (B, size) encodings that ``sample`` would give, alone."""
        mean, log_std = self.policy.mean_and_log_std(output)
        draw = torch.randn(mean.shape, generator=noise, device=output.device)
        return torch.tanh(mean + log_std.exp() * draw)

    def act(
        self, output: Tensor, mask: Tensor | None, noise: torch.Generator | None, *, explore: bool
    ) -> Tensor:
        """(B, *action shape) actions of the environment, sampled or at the squashed mean."""
        return self.policy.act(output, noise, explore=explore)

    def encode(self, action: Tree) -> Tensor:
        """(B, size) encodings of the environment's actions."""
        return self.policy.to_unit(action)

    def kl(self, output: Tensor, other: Tensor, mask: Tensor | None) -> Tensor:
        """(B,) KL divergences, in nats, of the policies of ``output`` from those of ``other``: of
        the normals, for the tanh is one to one."""
        mean, log_std = self.policy.mean_and_log_std(output)
        other_mean, other_log_std = self.policy.mean_and_log_std(other)
        scaled = (mean - other_mean) * (-other_log_std).exp()
        shrunk = log_std - other_log_std
        # expm1 keeps the digits of policies that are nearly the same.
        return 0.5 * (scaled.square() + torch.expm1(2.0 * shrunk) - 2.0 * shrunk).sum(-1)

    def target_entropy(self, share: float, mask: Tensor | None) -> float:
        """Minus the number of dimensions: nats over actions in [-1, 1]."""
        return -float(self.size)


class CategoricalActor(nn.Module):
    """A policy over a Discrete or MultiDiscrete space, whose heads are independent given the
    observation: layer-normalised input, fully connected layers with ReLU and layer normalisation.

    Weights are orthogonal, with gain sqrt(2) and 0.01 for the logits; biases are zero.
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        hidden: Sequence[int],
        algorithm: str,
        *,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        """Raises UserError, which names the ``algorithm``, for other spaces."""
        super().__init__()
        self.heads, starts = action_heads(action_space, algorithm)
        """Actions of each head."""
        self.start = torch.tensor(starts, device=device)
        self.is_multi = isinstance(action_space, gym.spaces.MultiDiscrete)
        self.size = sum(self.heads)
        """Numbers of an encoding, and of logits."""
        self.encoder = Encoder(observation_space, generator=generator, device=device)
        sizes = [self.encoder.features, *hidden]
        self.norms = nn.ModuleList(nn.LayerNorm(size, device=device) for size in sizes)
        self.layers = nn.ModuleList(
            orthogonal(*pair, math.sqrt(2.0), generator, device) for pair in pairwise(sizes)
        )
        self.head = orthogonal(sizes[-1], self.size, 0.01, generator, device)

    def forward(self, obs: Tensor) -> Tensor:
        """(B, *obs) to (B, size) logits."""
        return self.from_features(self.encoder(obs))

    def from_features(self, x: Tensor) -> Tensor:
        """(B, features) of the encoder to (B, size) logits."""
        first, *rest = self.norms
        x = _norm(first, x)
        for layer, norm in zip(self.layers, rest, strict=True):
            x = _norm(norm, F.relu(_linear(layer, x)))
        return _linear(self.head, x)

    def log_pi(self, output: Tensor, mask: Tensor | None) -> Tensor:
        """(B, size) log probabilities of each head's actions; (B, size) ``mask`` is 0 where there
        is no such action."""
        return torch.cat(log_pi_of_heads(output, mask, self.heads), -1)

    def kl(self, output: Tensor, other: Tensor, mask: Tensor | None) -> Tensor:
        """(B,) KL divergences, in nats, of the policies of ``output`` from those of ``other``."""
        log_pi = self.log_pi(output, mask)
        return (log_pi.exp() * (log_pi - self.log_pi(other, mask))).sum(-1)

    def entropy(self, log_pi: Tensor) -> Tensor:
        """(B,) nats."""
        return -(log_pi.exp() * log_pi).sum(-1)

    @torch.no_grad()
    def sample(
        self, output: Tensor, mask: Tensor | None, noise: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Pull]:
        """(B, size) one-hot encodings, their (B,) log probabilities, and how both depend on the
        output; for autograd they do not.

        By the straight-through Gumbel-softmax at temperature 1 (Jang et al., arXiv 1611.01144): an
        encoding has the derivative of the softmax of log pi plus Gumbel noise.
        """
        log_pi = self.log_pi(output, mask)
        scores = torch.split(noisy(log_pi, noise), self.heads, -1)
        encoding = torch.cat([_one_hot(part) for part in scores], -1)

        def pull(by_encoding: Tensor, by_log_prob: Tensor) -> Tensor:
            by_log_prob = by_log_prob[..., None]
            rows = torch.split(by_encoding + by_log_prob * log_pi, self.heads, -1)
            soft = [part.softmax(-1) for part in scores]
            by_scores = [
                p * (row - (p * row).sum(-1, keepdim=True))
                for p, row in zip(soft, rows, strict=True)
            ]
            return torch.cat(by_scores, -1) + by_log_prob * (encoding - log_pi.exp())

        return encoding, (encoding * log_pi).sum(-1), pull

    @torch.no_grad()
    def draw(self, output: Tensor, mask: Tensor | None, noise: torch.Generator | None) -> Tensor:
        """The (B, size) encodings that ``sample`` would give, alone."""
        scores = noisy(self.log_pi(output, mask), noise)
        return torch.cat([_one_hot(part) for part in torch.split(scores, self.heads, -1)], -1)

    def act(
        self, output: Tensor, mask: Tensor | None, noise: torch.Generator | None, *, explore: bool
    ) -> Tensor:
        """(B,) or (B, heads) int64 actions of the environment, sampled or the likeliest."""
        log_pi = self.log_pi(output, mask)
        log_pi = noisy(log_pi, noise) if explore else log_pi
        parts = torch.split(log_pi, self.heads, -1)
        action = self.start + torch.stack([part.argmax(-1) for part in parts], -1)
        return action if self.is_multi else action[..., 0]

    def encode(self, action: Tree) -> Tensor:
        """(B, size) encodings of the environment's actions."""
        assert isinstance(action, Tensor)
        index = action.view(len(action), -1) - self.start
        return torch.cat(
            [
                (index[:, h, None] == torch.arange(n, device=index.device)).to(torch.float32)
                for h, n in enumerate(self.heads)
            ],
            1,
        )

    def target_entropy(self, share: float, mask: Tensor | None) -> Tensor | float:
        """``share`` of the entropy of the uniform policy over the available actions: (B,) nats."""
        if mask is None:
            return share * sum(math.log(n) for n in self.heads)
        counts = [part.sum(-1).to(torch.float32) for part in torch.split(mask, self.heads, -1)]
        return share * torch.stack(counts).log().sum(0)


Actor = NormalActor | CategoricalActor


def make_actor(
    observation_space: gym.Space[Any],
    action_space: gym.Space[Any],
    hidden: Sequence[int],
    algorithm: str,
    *,
    generator: torch.Generator,
    device: torch.device,
) -> Actor:
    """The policy for an agent's spaces. Raises UserError, which names the ``algorithm``, unless
    actions are a bounded Box, Discrete or MultiDiscrete and observations a Box."""
    make = NormalActor if isinstance(action_space, gym.spaces.Box) else CategoricalActor
    return make(
        observation_space, action_space, hidden, algorithm, generator=generator, device=device
    )


class ActorStack:
    """The actors of agents that are alike, each with weights of its own, as one network.

    For outputs without gradients alone.
    """

    def __init__(self, actors: dict[str, Actor], stacked: Actor) -> None:
        """``actors`` have to be of one class, with equal sizes and actions; ``stacked`` is another
        one like them, whose weights are given up."""
        self.actors, self.names = actors, list(actors)
        self.stacked = stacked.requires_grad_(False)
        """Takes and gives (A, B, ...), in place of (B, ...)."""
        self.weights: list[tuple[Tensor, list[Tensor]]] = []
        """Each weight of ``stacked``, (A, ...), and those of the actors that are put into it."""
        for name, weight in self.stacked.named_parameters():
            if not name.startswith("encoder."):  # convolutions are left to each
                weight.data = weight.new_empty(len(actors), *weight.shape)
                theirs: list[Tensor] = [actor.get_parameter(name) for actor in actors.values()]
                self.weights.append((weight, theirs))

    @torch.no_grad()
    def __call__(self, obs: Tree) -> tuple[Tensor, Tensor | None]:
        """(A, B, ...) outputs for what everyone sees, and (A, B, actions) masks if there are."""
        for weight, theirs in self.weights:
            torch.stack(theirs, out=weight)
        features = [actor.encoder(own(obs, name)) for name, actor in self.actors.items()]
        output = self.stacked.from_features(torch.stack(features))
        masks = [mask_of(obs, name) for name in self.names]
        there = [mask for mask in masks if mask is not None]  # all or none
        return output, torch.stack(there) if there else None


def make_actors(
    observation_space: gym.Space[Any],
    spaces: dict[str, tuple[gym.Space[Any], gym.Space[Any]]],
    hidden: Sequence[int],
    algorithm: str,
    *,
    generator: torch.Generator,
    device: torch.device,
) -> tuple[dict[str, Actor], list[ActorStack]]:
    """An actor for every agent's spaces, and all of them put together where shapes of observations
    and masks are equal, and actions. Raises what ``make_actor`` raises."""
    make = partial(make_actor, hidden=hidden, algorithm=algorithm, device=device)
    actors = {name: make(*pair, generator=generator) for name, pair in spaces.items()}
    masked = observation_space.get("mask", {}).keys()  # type: ignore[attr-defined]
    groups: list[tuple[object, dict[str, Actor]]] = []
    for name, (seen, action) in spaces.items():
        kind = (seen.shape, action, name in masked)
        group = next((group for other, group in groups if other == kind), None)
        if group is None:
            groups.append((kind, group := {}))
        group[name] = actors[name]
    blank = [make(*spaces[next(iter(group))], generator=torch.Generator()) for _, group in groups]
    stacks = [ActorStack(group, one) for (_, group), one in zip(groups, blank, strict=True)]
    return actors, stacks


def action_heads(space: gym.Space[Any], algorithm: str) -> tuple[list[int], list[int]]:
    """Of a Discrete or MultiDiscrete space the actions of each head, and the first of each.

    Raises UserError, which names the ``algorithm``, for other spaces.
    """
    if isinstance(space, gym.spaces.Discrete):
        return [int(space.n)], [int(space.start)]
    if isinstance(space, gym.spaces.MultiDiscrete) and space.nvec.ndim == 1:
        return space.nvec.tolist(), np.broadcast_to(space.start, space.nvec.shape).tolist()
    raise UserError(
        f"{algorithm} needs Box, Discrete or (flat) MultiDiscrete actions, an agent has {space}"
    )


def log_pi_of_heads(logits: Tensor, mask: Tensor | None, heads: list[int]) -> list[Tensor]:
    """(B, n) log probabilities of each head's actions from (B, sum of n) logits side by side. Where
    the ``mask`` is 0 there is no such action: its probability is exactly zero."""
    if mask is not None:
        logits = logits.masked_fill(mask == 0, UNAVAILABLE)
    return [part.log_softmax(-1) for part in torch.split(logits, heads, -1)]


def noisy(log_pi: Tensor, noise: torch.Generator | None, distinct: int | None = None) -> Tensor:
    """With Gumbel noise added, so that the argmax is distributed as pi.

    Rows whose numbers are equal modulo ``distinct`` have the same noise; None: no two have.
    """
    draw = torch.empty_like(log_pi[:distinct]).exponential_(generator=noise).log()
    return log_pi - (draw if distinct is None else draw.repeat(len(log_pi) // distinct, 1))


def _linear(layer: nn.Module, x: Tensor) -> Tensor:
    """The (B, in) or, with stacked weights, (A, B, in) to (B, out) or (A, B, out)."""
    assert isinstance(layer, nn.Linear)
    if x.ndim == 2:
        return F.linear(x, layer.weight, layer.bias)
    return torch.baddbmm(layer.bias[:, None], x, layer.weight.mT)


def _norm(layer: nn.Module, x: Tensor) -> Tensor:
    """(B, D) or, with stacked weights, (A, B, D), normalised."""
    assert isinstance(layer, nn.LayerNorm)
    if x.ndim == 2:
        return F.layer_norm(x, layer.normalized_shape, layer.weight, layer.bias, layer.eps)
    x = F.layer_norm(x, layer.normalized_shape, eps=layer.eps)
    return torch.addcmul(layer.bias[:, None], x, layer.weight[:, None])


def _one_hot(scores: Tensor) -> Tensor:
    """Of the greatest of each row."""
    return F.one_hot(scores.argmax(-1), scores.shape[-1]).to(scores.dtype)
