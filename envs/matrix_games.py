"""Cooperative matrix games: one step, one payoff that all agents share.

``MatrixGame`` has the methods of PettingZoo's ``ParallelEnv``, and does not need PettingZoo.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding
from numpy.typing import ArrayLike, NDArray

from rlsuite.errors import UserError

Array: TypeAlias = NDArray[Any]


def _fixed(payoff: list[list[int]]) -> NDArray[np.float64]:
    array = np.array(payoff, np.float64)
    array.flags.writeable = False
    return array


PAYOFFS: Mapping[str, NDArray[np.float64]] = MappingProxyType(
    {
        # Several equilibria, the better the larger their basin under entropy.
        "mne": _fixed([[5, -20, -20], [-20, 10, -20], [-20, -20, 20]]),
        # Claus and Boutilier (AAAI 1998); in climbing the optimum is dominated by its risk.
        "penalty": _fixed([[-100, 0, 10], [0, 2, 0], [10, 0, -100]]),
        "climbing": _fixed([[11, -30, 0], [-30, 7, 6], [0, 0, 5]]),
        # Not monotone in any agent's own value: Son et al. (QTRAN, arXiv 1905.05408).
        "nonmono": _fixed([[8, -12, -12], [-12, 0, 0], [-12, 0, 0]]),
        "anti_coordination": _fixed([[0, 1], [1, 0]]),
        "coordination": _fixed([[4, 0], [0, 1]]),
    }
)
"""Shared payoffs by name: one axis an agent, read-only float64."""


class MatrixGame:
    """A game of one step: A agents choose at once, all receive the payoff, the episode terminates.

    The observation of every agent and the state are the constant (1,) float32 one. Agents are
    called ``agent_0`` to ``agent_{A-1}``; agent i has as many actions as the payoff's axis i.
    """

    def __init__(
        self, payoff: str | ArrayLike = "mne", *, noise: float = 0.0, render_mode: None = None
    ) -> None:
        """Nothing is drawn before ``reset``.

        Args:
            payoff: a name in ``PAYOFFS``, or finite numbers of shape (X_0, ..., X_{A-1}).
            noise: standard deviation of the normal noise on the reward, the same for all agents.
            render_mode: there is nothing to see; None.

        Raises:
            UserError: for an unknown name, an array that is no payoff, or a negative noise.
        """
        self.payoff = _payoff(payoff)
        if not (noise >= 0 and np.isfinite(noise)):
            raise UserError(f"noise is {noise}: a standard deviation is a finite number from 0 on")
        self.noise = noise
        self.metadata: dict[str, Any] = {
            "name": "matrix_game",
            "render_modes": [],
            "agents_die": False,
        }
        self.render_mode = render_mode
        self.possible_agents = [f"agent_{i}" for i in range(self.payoff.ndim)]
        self.agents: list[str] = []
        self.state_space = spaces.Box(1.0, 1.0, (1,), np.float32)
        self.observation_spaces = {
            agent: spaces.Box(1.0, 1.0, (1,), np.float32) for agent in self.possible_agents
        }
        self.action_spaces = {
            agent: spaces.Discrete(n)
            for agent, n in zip(self.possible_agents, self.payoff.shape, strict=True)
        }
        self.np_random: np.random.Generator | None = None

    @property
    def unwrapped(self) -> MatrixGame:
        """Itself."""
        return self

    def observation_space(self, agent: str) -> gym.Space[Any]:
        """The constant one."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> gym.Space[Any]:
        """Discrete, as many as the payoff's axis has entries."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Array], dict[str, dict[str, Any]]]:
        """Begin an episode: observations and empty infos by agent. A seed restarts the noise."""
        if seed is not None or self.np_random is None:
            self.np_random, _ = seeding.np_random(seed)
        self.agents = list(self.possible_agents)
        return self._observations(), {agent: {} for agent in self.agents}

    def step(
        self, actions: Mapping[str, Any]
    ) -> tuple[
        dict[str, Array],
        dict[str, float],
        dict[str, bool],
        dict[str, bool],
        dict[str, dict[str, Any]],
    ]:
        """The payoff of the joint action; every agent's episode terminates.

        Raises:
            UserError: before a reset or after the end, or unless every agent has an action of its
                space.
        """
        if not self.agents or self.np_random is None:
            raise UserError("the episode is over: call reset before step")
        for agent, space in self.action_spaces.items():
            if agent not in actions or not space.contains(actions[agent]):
                given = repr(actions[agent]) if agent in actions else "missing"
                raise UserError(f"the action of {agent} is {given}; it has to be in {space}")
        joint = tuple(int(actions[agent]) for agent in self.possible_agents)
        reward = float(self.payoff[joint])
        if self.noise:
            reward += self.noise * float(self.np_random.standard_normal())
        agents, self.agents = self.agents, []
        return (
            self._observations(),
            dict.fromkeys(agents, reward),
            dict.fromkeys(agents, True),
            dict.fromkeys(agents, False),
            {agent: {} for agent in agents},
        )

    def state(self) -> Array:
        """The constant (1,) float32 one."""
        return np.ones(1, np.float32)

    def render(self) -> None:
        """There is nothing to see."""

    def close(self) -> None:
        """There is nothing to free."""

    def _observations(self) -> dict[str, Array]:
        return {agent: np.ones(1, np.float32) for agent in self.possible_agents}


def _payoff(payoff: str | ArrayLike) -> NDArray[np.float64]:
    if isinstance(payoff, str):
        if payoff not in PAYOFFS:
            close = difflib.get_close_matches(payoff, PAYOFFS, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise UserError(f"no payoff {payoff!r}; there are {', '.join(PAYOFFS)}{hint}")
        return PAYOFFS[payoff]
    try:
        array = np.array(payoff, np.float64)
    except (TypeError, ValueError):
        raise UserError("a payoff is an array of numbers with one axis an agent") from None
    if array.ndim == 0 or array.size == 0 or not np.isfinite(array).all():
        raise UserError(
            f"a payoff has one axis an agent and finite numbers; this has shape {array.shape}"
        )
    return array
