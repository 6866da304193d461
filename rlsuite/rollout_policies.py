"""Stochastic policies for learners from rollouts, which need the likelihood ratios of samples.

A sample is what was drawn: for a Box the normal variate before it is clipped to the box, (B, D)
float32; for discrete actions the (B, heads) int64 numbers of the actions, counted from 0. Log
probabilities are of the whole sample, summed over dimensions or heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from rlsuite.actors import action_heads, log_pi_of_heads, noisy
from rlsuite.distributions import normal_entropy, normal_log_prob
from rlsuite.errors import UserError
from rlsuite.nets import OrthogonalNetwork

Activation = Literal["tanh", "relu"]


class NormalPolicy(nn.Module):
    """A normal policy over a Box, whose standard deviations do not depend on the observation.

    Samples are not squashed: what leaves the box is clipped for the environment alone.
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.spaces.Box,
        hidden: Sequence[int],
        *,
        activation: Activation,
        initial_log_std: float,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        """Raises UserError for a Box of integers."""
        super().__init__()
        if not np.issubdtype(action_space.dtype, np.floating):
            raise UserError(
                f"actions must be floats or discrete, the environment has {action_space}"
            )
        self.shape = action_space.shape
        low, high = (bound.astype(np.float32) for bound in (action_space.low, action_space.high))
        self.low, self.high = (torch.as_tensor(bound, device=device) for bound in (low, high))
        self.mean = OrthogonalNetwork(
            observation_space,
            hidden,
            low.size,
            activation=activation,
            gain=0.01,
            generator=generator,
            device=device,
        )
        self.log_std = nn.Parameter(torch.full((low.size,), initial_log_std, device=device))

    def sample(
        self,
        obs: Tensor,
        mask: Tensor | None,
        noise: torch.Generator | None,
        *,
        explore: bool,
        distinct: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Samples, or without ``explore`` the means, and their (B,) log probabilities.

        ``distinct``, a divisor of B: rows whose numbers are equal modulo it have the same noise
        (common random numbers). None: no two have.
        """
        mean = self.mean(obs)
        sample = mean
        if explore:
            draw = torch.randn(mean[:distinct].shape, generator=noise, device=mean.device)
            draw = draw if distinct is None else draw.repeat(len(mean) // distinct, 1)
            sample = mean + self.log_std.exp() * draw
        return sample, normal_log_prob(sample, mean, self.log_std)

    def evaluate(self, obs: Tensor, mask: Tensor | None, sample: Tensor) -> tuple[Tensor, Tensor]:
        """(B,) log probabilities of samples and (B,) entropies, differentiable."""
        log_prob = normal_log_prob(sample, self.mean(obs), self.log_std)
        return log_prob, normal_entropy(self.log_std).expand(len(log_prob))

    def to_action(self, sample: Tensor) -> Tensor:
        """(B, *action shape) actions of the environment."""
        return torch.clamp(sample.view(-1, *self.shape), self.low, self.high)


class CategoricalPolicy(nn.Module):
    """A policy over a Discrete or MultiDiscrete space, whose heads are independent given the
    observation."""

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        hidden: Sequence[int],
        algorithm: str,
        *,
        activation: Activation,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        """Raises UserError, which names the ``algorithm``, for other spaces."""
        super().__init__()
        self.heads, starts = action_heads(action_space, algorithm)
        """Actions of each head."""
        self.start = torch.tensor(starts, device=device)
        self.is_multi = isinstance(action_space, gym.spaces.MultiDiscrete)
        self.logits = OrthogonalNetwork(
            observation_space,
            hidden,
            sum(self.heads),
            activation=activation,
            gain=0.01,
            generator=generator,
            device=device,
        )

    def log_pi(self, obs: Tensor, mask: Tensor | None) -> list[Tensor]:
        """(B, n) log probabilities of each head's actions; (B, sum of n) ``mask`` is 0 where there
        is no such action."""
        return log_pi_of_heads(self.logits(obs), mask, self.heads)

    def sample(
        self,
        obs: Tensor,
        mask: Tensor | None,
        noise: torch.Generator | None,
        *,
        explore: bool,
        distinct: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Samples, or without ``explore`` the likeliest, and their (B,) log probabilities.

        ``distinct`` is as in ``NormalPolicy.sample``.
        """
        parts = self.log_pi(obs, mask)
        scores = [noisy(part, noise, distinct) for part in parts] if explore else parts
        sample = torch.stack([score.argmax(1) for score in scores], 1)
        return sample, _gathered(parts, sample)

    def evaluate(self, obs: Tensor, mask: Tensor | None, sample: Tensor) -> tuple[Tensor, Tensor]:
        """(B,) log probabilities of samples and (B,) entropies, differentiable."""
        parts = self.log_pi(obs, mask)
        entropy = torch.stack([-(part.exp() * part).sum(1) for part in parts]).sum(0)
        return _gathered(parts, sample), entropy

    def to_action(self, sample: Tensor) -> Tensor:
        """(B,) or (B, heads) int64 actions of the environment."""
        action = self.start + sample
        return action if self.is_multi else action[:, 0]


Policy = NormalPolicy | CategoricalPolicy


def make_policy(
    observation_space: gym.Space[Any],
    action_space: gym.Space[Any],
    hidden: Sequence[int],
    algorithm: str,
    *,
    activation: Activation,
    initial_log_std: float,
    generator: torch.Generator,
    device: torch.device,
) -> Policy:
    """The policy for these spaces. Raises UserError, which names the ``algorithm``, unless actions
    are a Box of floats, Discrete or MultiDiscrete, and observations a Box."""
    if isinstance(action_space, gym.spaces.Box):
        return NormalPolicy(
            observation_space,
            action_space,
            hidden,
            activation=activation,
            initial_log_std=initial_log_std,
            generator=generator,
            device=device,
        )
    return CategoricalPolicy(
        observation_space,
        action_space,
        hidden,
        algorithm,
        activation=activation,
        generator=generator,
        device=device,
    )


def _gathered(parts: list[Tensor], sample: Tensor) -> Tensor:
    """(B,) sums over heads of the log probabilities of what was drawn."""
    return torch.stack(
        [part.gather(1, sample[:, h : h + 1])[:, 0] for h, part in enumerate(parts)]
    ).sum(0)
