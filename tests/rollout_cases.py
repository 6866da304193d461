"""Rollouts of made-up states for the tests of the learners from rollouts."""

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from hasac_cases import draw

from rlsuite.tree import map_tree
from rlsuite.types import Rollout


def tensors(tree: Any, prefix: str = "") -> dict[str, torch.Tensor]:
    """By path the tensors of a state."""
    if isinstance(tree, torch.Tensor):
        return {prefix: tree}
    if isinstance(tree, dict):
        return {
            path: tensor
            for key, child in tree.items()
            for path, tensor in tensors(child, f"{prefix}/{key}").items()
        }
    return {}


def make_rollout(
    agent: Any, observation_space: gym.Space[Any], steps: int, envs: int, seed: int = 0
) -> Rollout:
    """Random states and rewards; what the agent does there."""
    rng = np.random.default_rng(seed)

    def states() -> Any:
        flat = draw(observation_space, steps * envs, rng)
        return map_tree(shaped, _with_choices(flat))

    def shaped(leaf: torch.Tensor) -> torch.Tensor:
        return leaf.unflatten(0, (steps, envs)).contiguous()

    obs, next_obs = states(), states()
    action, extra = agent.act(map_tree(lambda leaf: leaf.flatten(0, 1), obs))
    reward = rng.standard_normal((steps, envs), np.float32)
    ends = rng.random((2, steps, envs)) < 0.1
    return Rollout(
        obs,
        map_tree(shaped, action),
        torch.from_numpy(reward),
        next_obs,
        torch.from_numpy(ends[0]),
        torch.from_numpy(ends[1]),
        {name: shaped(value) for name, value in extra.items()},
    )


def _with_choices(obs: Any) -> Any:
    """Of a masked single agent: no head without an action."""
    if isinstance(obs, dict) and "action_mask" in obs:
        obs["action_mask"][:, ::3] = 1
    return obs
