"""Robots of Gymnasium's MuJoCo tasks whose actuators are shared out among agents.

The fully observed setting of HARL (Zhong et al., 2024): every agent sees all, and its own number.
"""

from __future__ import annotations

import re
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from rlsuite.envs.gym_env import make_env
from rlsuite.envs.layout import Array
from rlsuite.errors import UserError


def _each(count: int) -> list[list[int]]:
    return [[i] for i in range(count)]


_PAIRS = [[0, 1], [2, 3], [4, 5]]
_HUMANOID = {
    "9|8": [[2, 0, 1, 11, 12, 13, 14, 15, 16], [3, 5, 4, 6, 7, 9, 8, 10]],
    "17x1": _each(17),
}

PARTITIONS: dict[str, dict[str, list[list[int]]]] = {
    "HalfCheetah": {"2x3": [[0, 1, 2], [3, 4, 5]], "3x2": _PAIRS, "6x1": _each(6)},
    "Walker2d": {"2x3": [[2, 1, 0], [5, 4, 3]], "3x2": _PAIRS, "6x1": _each(6)},
    "Hopper": {"3x1": _each(3)},
    "Ant": {
        "4x2": [[2, 3], [4, 5], [6, 7], [0, 1]],
        "2x4": [[2, 3, 4, 5], [6, 7, 0, 1]],
        "2x4d": [[2, 3, 0, 1], [4, 5, 6, 7]],
        "8x1": _each(8),
    },
    "Humanoid": _HUMANOID,
    "HumanoidStandup": _HUMANOID,
    "Swimmer": {"2x1": _each(2)},
    "Reacher": {"2x1": _each(2)},
}
"""For each task and partition, every agent's actuators in the order of its action."""


def standardise(vectors: Array) -> Array:
    """(..., D) vectors less their mean, over their deviation: float32; zeros if constant."""
    centred = vectors - vectors.mean(axis=-1, keepdims=True)
    deviation = np.sqrt((centred * centred).mean(axis=-1, keepdims=True))
    result: Array = (centred / (deviation + (deviation == 0))).astype(np.float32)
    return result


class MultiAgentMujoco:
    """One Gymnasium MuJoCo task, such as ``HalfCheetah-v5``, with PettingZoo's parallel methods.

    Agent ``agent_i`` controls the i-th list of actuators of ``PARTITIONS``, within their own bounds
    (float32, unscaled). It observes ``standardise`` of the task's observation followed by its
    one-hot number, (D + A,) float32; the state is ``standardise`` of the task's observation, (D,).
    Every agent's reward is the task's. All end together.

    Raises ``UserError`` for a task or a partition that is not in the table.
    """

    def __init__(
        self, task: str, partition: str, *, render_mode: str | None = None, **kwargs: Any
    ) -> None:
        family = re.sub(r"-v\d+$", "", task)
        if partition not in PARTITIONS.get(family, {}):
            known = ", ".join(f"{name} {' '.join(parts)}" for name, parts in PARTITIONS.items())
            raise UserError(f"no partition {partition!r} of {task!r}; known are: {known}")
        self.env = make_env(task, kwargs=kwargs, render_mode=render_mode)
        self.render_mode = render_mode
        self.unwrapped = self
        self.metadata = {**self.env.metadata, "name": f"{task} {partition}", "agents_die": False}
        actuators = self.env.action_space
        assert isinstance(actuators, spaces.Box) and self.env.observation_space.shape is not None
        self._indices = PARTITIONS[family][partition]
        self.possible_agents = [f"agent_{i}" for i in range(len(self._indices))]
        self.agents: list[str] = []
        size = self.env.observation_space.shape[0]
        self.state_space = spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self._observation_spaces = {
            agent: spaces.Box(-np.inf, np.inf, (size + len(self._indices),), np.float32)
            for agent in self.possible_agents
        }
        self._action_spaces = {
            agent: spaces.Box(actuators.low[own], actuators.high[own], dtype=np.float32)
            for agent, own in zip(self.possible_agents, self._indices, strict=True)
        }
        self._full: Array = np.zeros(size)
        # What every agent sees, before it is standardised.
        self._views: Array = np.eye(len(self._indices), size + len(self._indices), size)

    def observation_space(self, agent: str) -> gym.Space[Any]:
        """Of one agent."""
        return self._observation_spaces[agent]

    def action_space(self, agent: str) -> gym.Space[Any]:
        """Of one agent."""
        return self._action_spaces[agent]

    def state(self) -> Array:
        """(D,) float32."""
        return standardise(self._full)

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Array], dict[str, dict[str, Any]]]:
        """Begin an episode: observations and (empty) infos by agent."""
        self._full, _ = self.env.reset(seed=seed, options=options)
        self.agents = self.possible_agents[:]
        return self._observations(), self._for_all({})

    def step(self, actions: dict[str, Array]) -> tuple[dict[str, Any], ...]:
        """Observations, rewards, terminated, truncated and the task's infos by agent."""
        joint = np.zeros(self.env.action_space.shape or (), np.float32)
        for agent, own in zip(self.possible_agents, self._indices, strict=True):
            joint[own] = actions[agent]
        self._full, reward, terminated, truncated, info = self.env.step(joint)
        if terminated or truncated:
            self.agents = []
        results = (float(reward), bool(terminated), bool(truncated), info)
        return (self._observations(), *map(self._for_all, results))

    def render(self) -> Any:
        """As the task does."""
        return self.env.render()

    def close(self) -> None:
        """Free the task."""
        self.env.close()

    def _observations(self) -> dict[str, Array]:
        self._views[:, : len(self._full)] = self._full
        return dict(zip(self.possible_agents, standardise(self._views), strict=True))

    def _for_all(self, value: Any) -> dict[str, Any]:
        return dict.fromkeys(self.possible_agents, value)
