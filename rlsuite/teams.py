"""What agents that act together read from their environment's spaces and observations.

The layout is that of ``rlsuite.envs.team``: ``{"agents": {name: ...}, "state": ..., "mask": {name:
...}, "alive": ...}``, the last two where the environment has them.
"""

from __future__ import annotations

from typing import Any, Literal

import gymnasium as gym
import torch
from torch import Tensor

from rlsuite.errors import UserError
from rlsuite.policies import observation_size
from rlsuite.tree import flatten_features
from rlsuite.types import Tree


def agent_spaces(
    observation_space: gym.Space[Any],
    action_space: gym.Space[Any],
    algorithm: str,
    *,
    flattens: bool = False,
) -> dict[str, tuple[gym.Space[Any], gym.Space[Any]]]:
    """By agent its observation and action space.

    Raises UserError, which names the ``algorithm``, unless the spaces are keyed by agent and, if it
    does not flatten them, observations are Boxes.
    """
    keyed = isinstance(observation_space, gym.spaces.Dict) and isinstance(
        action_space, gym.spaces.Dict
    )
    if not keyed or not {"agents", "state"} <= set(observation_space.keys()):  # type: ignore[attr-defined]
        raise UserError(
            f"{algorithm} needs an environment of several agents, with observations "
            f'{{"agents": ..., "state": ...}}; this one has {observation_space}'
        )
    observations = observation_space["agents"]  # type: ignore[index]
    for name, space in observations.items():
        if not flattens and not isinstance(space, gym.spaces.Box):
            raise UserError(
                f"{algorithm} needs Box observations, but those of {name} are {space}: make them "
                "one Box, as gymnasium.spaces.flatten_space does"
            )
    return {name: (observations[name], space) for name, space in action_space.items()}  # type: ignore[attr-defined]


def state_size(observation_space: gym.Space[Any], algorithm: str) -> int:
    """Numbers in the state or, where every agent has a view of it, in a view.

    Raises UserError, which names the ``algorithm``, unless the views are of one size.
    """
    assert isinstance(observation_space, gym.spaces.Dict)
    state = observation_space["state"]
    if not isinstance(state, gym.spaces.Dict):
        return observation_size(state, algorithm)
    sizes = {name: observation_size(view, algorithm) for name, view in state.items()}
    if len(set(sizes.values())) > 1:
        given = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise UserError(f"{algorithm} needs views of the state of one size, they have {given}")
    return next(iter(sizes.values()))


def by_agent(setting: float | dict[str, float], names: list[str], name: str) -> dict[str, float]:
    """A setting of the agents, given for all or by agent, by agent. Raises UserError, which names
    the setting, if it is given for other agents than there are."""
    if not isinstance(setting, dict):
        return dict.fromkeys(names, setting)
    if set(setting) != set(names):
        raise UserError(
            f"agent.{name} names {', '.join(setting)}; the agents are {', '.join(names)}"
        )
    return setting


def own(obs: Tree, name: str) -> Tensor:
    """The observation of one agent."""
    return obs["agents"][name]  # type: ignore[index, return-value]


def mask_of(obs: Tree, name: str) -> Tensor | None:
    """(B, actions) which actions are available to an agent; None where all are."""
    assert isinstance(obs, dict)
    masks = obs.get("mask", {})
    return masks.get(name) if isinstance(masks, dict) else None  # type: ignore[return-value]


def alive_of(obs: Tree, names: list[str], batch_size: int, device: torch.device) -> Tensor:
    """(B, A) float32: 1 where an agent was alive before the step."""
    assert isinstance(obs, dict)
    if "alive" not in obs:
        return torch.ones(batch_size, len(names), device=device)
    return obs["alive"].to(torch.float32)  # type: ignore[union-attr]


def views_of(obs: Tree, names: list[str]) -> Tensor:
    """(V, B, state) views of the state: one, or every agent's."""
    assert isinstance(obs, dict)
    state = obs["state"]
    if isinstance(state, Tensor):
        return flatten_features(state)[None]
    return torch.stack([flatten_features(state[name]) for name in names])


def lived(obs: Tree) -> Tensor | None:
    """(A,) bool: which agents were alive somewhere in the batch, hence have something to learn
    from; None where the environment says that nobody dies."""
    assert isinstance(obs, dict)
    return obs["alive"].any(0) if "alive" in obs else None  # type: ignore[union-attr]


def of_living(values: Tensor, obs: Tree) -> Tensor:
    """(V, B, ...) values of the views of ``obs``, those of the dead replaced by the living's mean,
    or by zero if nobody lives.

    The team's return goes on when an agent dies, but nobody learns what its view is worth from
    then on. The mean over all V is now that over the living.
    """
    assert isinstance(obs, dict)
    if len(values) == 1 or "alive" not in obs:
        return values
    alive = obs["alive"].T.to(values.dtype)  # type: ignore[union-attr]
    alive = alive.view(*alive.shape, *[1] * (values.ndim - 2))
    mean = (alive * values).sum(0) / alive.sum(0).clamp(min=1.0)
    return torch.where(alive > 0, values, mean)


def climbed(values: Tensor, agent: int, views: Literal["all", "own"], obs: Tree) -> Tensor:
    """(V, B, ...) values of the views of ``obs`` to those that an agent's policy climbs: (B, ...),
    the mean over the living's, or those of its own view."""
    if len(values) == 1:
        return values[0]
    return values[agent] if views == "own" else of_living(values, obs).mean(0)


def view_weights(views: Tensor, obs: Tree, names: list[str]) -> Tensor:
    """(V, B) weights, with mean 1, of the (V, B, state) views in what critics learn: the dead have
    no view of the state, and count 0 where every agent has its own."""
    if len(views) == 1:
        return torch.ones(views.shape[:2], device=views.device)
    alive = alive_of(obs, names, views.shape[1], views.device)
    return alive.T / alive.mean().clamp(min=1e-8)
