"""Gymnasium environments whose spaces are Tuples over agents, with PettingZoo's methods."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from rlsuite.errors import UserError


class TupleEnv:
    """A team of Level-Based Foraging, RWARE and the like, whose values are tuples over the agents.

    The agents are ``agent_0``, ``agent_1``, and so on; none leaves before the episode ends. Raises
    ``UserError`` if observation and action space are not Tuples of one length.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        observations, actions = env.observation_space, env.action_space
        is_tuple = isinstance(observations, spaces.Tuple) and isinstance(actions, spaces.Tuple)
        if not is_tuple or len(observations) != len(actions):  # type: ignore[arg-type]
            raise UserError(
                "observation and action space of several agents must be Tuples of one length, not "
                f"{observations} and {actions}"
            )
        self.env = env
        self.unwrapped = self
        self.metadata = {"name": type(env.unwrapped).__name__, **env.metadata, "agents_die": False}
        self.render_mode = env.render_mode
        self.possible_agents = [f"agent_{i}" for i in range(len(actions))]  # type: ignore[arg-type]
        self.agents: list[str] = []
        self._observation_spaces = self._by_agent(observations)
        self._action_spaces = self._by_agent(actions)

    def observation_space(self, agent: str) -> gym.Space[Any]:
        """Of one agent."""
        space: gym.Space[Any] = self._observation_spaces[agent]
        return space

    def action_space(self, agent: str) -> gym.Space[Any]:
        """Of one agent."""
        space: gym.Space[Any] = self._action_spaces[agent]
        return space

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """Begin an episode: observations and (empty) infos by agent."""
        # Level-Based Foraging would keep new units off the places of the last episode's: its seed
        # alone would not determine an episode.
        for player in getattr(self.env.unwrapped, "players", ()):
            player.position = None
        observations, _ = self.env.reset(seed=seed, options=options)
        self.agents = self.possible_agents[:]
        return self._by_agent(observations), {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, Any]) -> tuple[dict[str, Any], ...]:
        """Observations, rewards, terminated, truncated and (empty) infos by agent."""
        joint = tuple(actions[agent] for agent in self.possible_agents)
        observations, rewards, terminated, truncated, _ = self.env.step(joint)
        ended = [
            self._by_agent(np.broadcast_to(flag, len(joint)).tolist())
            for flag in (terminated, truncated)
        ]
        if any(ended[0].values()) or any(ended[1].values()):
            self.agents = []
        return (
            self._by_agent(observations),
            self._by_agent(map(float, rewards)),  # type: ignore[call-overload]
            *ended,
            {agent: {} for agent in self.possible_agents},
        )

    def render(self) -> Any:
        """As the environment does."""
        return self.env.render()

    def close(self) -> None:
        """Free the environment."""
        self.env.close()

    def _by_agent(self, values: Any) -> dict[str, Any]:
        return dict(zip(self.possible_agents, values, strict=True))
