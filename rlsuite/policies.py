"""The tanh-squashed normal policy over a bounded Box of actions, and the spaces it needs."""

from __future__ import annotations

from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from rlsuite.distributions import squashed_normal
from rlsuite.errors import UserError
from rlsuite.tree import flatten_features
from rlsuite.types import Tree


class SquashedNormalPolicy:
    """Actions tanh(mean + std noise), scaled from [-1, 1] per dimension to a bounded Box.

    Has no network: it takes the (B, 2D) output of one, means beside log standard deviations. Log
    probabilities are over the actions in [-1, 1]**D. There may be more axes in front of B.

    ``log_std``: how the log standard deviation is bounded, clamped to [-20, 2] or by a tanh to
    [-5, 2]. ``epsilon``: as in ``squashed_normal``.
    """

    def __init__(
        self,
        action_space: gym.Space[Any],
        device: torch.device,
        algorithm: str,
        *,
        log_std: Literal["clamp", "tanh"] = "clamp",
        epsilon: float | None = None,
    ) -> None:
        """Raises UserError, which names the ``algorithm``, unless the space is a bounded Box."""
        low, high = action_bounds(action_space, algorithm)
        self.shape, self.actions = low.shape, low.size
        self.low = torch.as_tensor(low, device=device).flatten()
        self.high = torch.as_tensor(high, device=device).flatten()
        self.center, self.half_range = (self.high + self.low) / 2, (self.high - self.low) / 2
        self.log_std, self.epsilon = log_std, epsilon

    def mean_and_log_std(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D) mean and (B, D) bounded log standard deviation, both before the tanh."""
        mean, log_std = output.chunk(2, dim=-1)
        if self.log_std == "clamp":
            return mean, log_std.clamp(-20.0, 2.0)
        return mean, -5.0 + 3.5 * (torch.tanh(log_std) + 1.0)

    def sample(self, output: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D) actions in [-1, 1] and their (B,) log probabilities, differentiable, from (B, D)
        standard normal ``noise``."""
        mean, log_std = self.mean_and_log_std(output)
        return squashed_normal(mean, log_std, noise, self.epsilon)

    def act(self, output: Tensor, noise: torch.Generator | None, *, explore: bool) -> Tensor:
        """(B, *action shape) actions in the Box: sampled with noise from the generator (None is
        torch's own) or, without ``explore``, at the squashed mean."""
        u, log_std = self.mean_and_log_std(output)
        if explore:
            draw = torch.randn(u.shape, generator=noise, device=u.device)
            u = u + log_std.exp() * draw
        action = self.center + self.half_range * torch.tanh(u)
        action = torch.clamp(action, self.low, self.high)  # rounding could leave the box
        return action.view(*action.shape[:-1], *self.shape)

    def to_unit(self, action: Tree) -> Tensor:
        """(B, *action shape) actions in the Box, as (B, D) in [-1, 1]."""
        return (flatten_features(action) - self.center) / self.half_range


def observation_size(space: gym.Space[Any], algorithm: str) -> int:
    """Numbers in an observation, flattened. Raises UserError, which names the ``algorithm``, unless
    the space is a Box or a Dict of them."""
    if isinstance(space, gym.spaces.Dict):
        return sum(observation_size(child, algorithm) for child in space.values())
    if isinstance(space, gym.spaces.Box | gym.spaces.MultiBinary):
        return int(np.prod(space.shape))
    raise UserError(
        f"{algorithm} needs Box observations (or a Dict of them), the environment has {space}"
    )


def action_bounds(space: gym.Space[Any], algorithm: str) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest actions, float32. Raises UserError, which names the ``algorithm``, unless
    the space is a bounded Box."""
    if not isinstance(space, gym.spaces.Box) or not np.issubdtype(space.dtype, np.floating):
        raise UserError(
            f"{algorithm} needs continuous actions (a Box), the environment has {space}"
        )
    with np.errstate(over="ignore"):
        low, high = space.low.astype(np.float32), space.high.astype(np.float32)
        if not np.isfinite(high - low).all():
            raise UserError(f"{algorithm} needs bounded actions, the environment has {space}")
    if (low >= high).any():
        raise UserError(f"{algorithm} needs low < high in every action dimension, got {space}")
    return low, high
