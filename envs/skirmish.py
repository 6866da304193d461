"""A small battle on a line: action masks, agents that die, and a state for each agent."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from rlsuite.envs.layout import Array
from rlsuite.errors import UserError

STAY, LEFT, RIGHT, ATTACK = range(4)
WIDTH, RANGE, SIGHT, HEALTH, LIMIT = 10, 2, 4, 3, 40


class Skirmish:
    """``n`` allies against ``n`` enemies that follow a script, with PettingZoo's parallel methods.

    Units stand on places 0 to ``WIDTH`` and have ``HEALTH``. Actions: stay, left, right, and attack
    enemy k, which takes 1 of its health and is available within ``RANGE`` while it lives; an action
    that is not available does nothing. All allies act at once, then the living enemies: they attack
    the nearest living ally (of equal ones the first) within ``RANGE``, else step towards it. Every
    ally gets the damage that the team dealt to health above 0, and 10 when the last enemy dies.
    Terminated by a victory or a defeat, and for a dead ally at once; truncated after ``LIMIT``.

    An ally observes place and health of itself, the other allies and the enemies: (4n,) float32,
    places relative to its own, zeros for units that are dead or farther than ``SIGHT``. ``state()``
    gives every ally all units, itself first: (4n,) float32. Masks are in ``infos``.
    """

    def __init__(self, n: int = 3) -> None:
        """Raises UserError unless there is an ally."""
        if n < 1:
            raise UserError(f"a skirmish needs 1 ally or more, n is {n}")
        self.n = n
        self.unwrapped = self
        self.metadata = {"name": "skirmish", "render_modes": ["ansi"]}
        self.render_mode = "ansi"
        self.possible_agents = [f"ally_{i}" for i in range(n)]
        self.agents: list[str] = []
        box = spaces.Box(-1, 1, (4 * n,), np.float32)
        self._spaces = {a: (box, spaces.Discrete(ATTACK + n)) for a in self.possible_agents}
        self._random = np.random.default_rng()
        self._place = np.zeros((2, n), np.int64)  # row 0: allies, row 1: enemies
        self._health = np.zeros((2, n), np.int64)
        self._time = 0

    def observation_space(self, agent: str) -> gym.Space[Any]:
        """Of one ally."""
        return self._spaces[agent][0]

    def action_space(self, agent: str) -> gym.Space[Any]:
        """Of one ally."""
        return self._spaces[agent][1]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Array], dict[str, dict[str, Any]]]:
        """Allies at random among the first places, enemies among the last."""
        if seed is not None:
            self._random = np.random.default_rng(seed)
        offset = self._random.integers(0, 4, (2, self.n))
        self._place = np.stack([offset[0], WIDTH - offset[1]])
        self._health = np.full((2, self.n), HEALTH)
        self._time = 0
        self.agents = self.possible_agents[:]
        return self._observations(), self._infos()

    def step(self, actions: dict[str, int]) -> tuple[dict[str, Any], ...]:
        """Observations, rewards, terminated, truncated, infos of the allies that acted."""
        acted = self.agents
        reward = self._allies_act(actions)
        self._enemies_act()
        self._time += 1
        is_over = not self._health.any(axis=1).all()
        dead = {a: is_over or not self._health[0, i] for i, a in enumerate(self.possible_agents)}
        terminated = {agent: bool(dead[agent]) for agent in acted}
        truncated = {agent: self._time >= LIMIT and not dead[agent] for agent in acted}
        results = self._observations(), dict.fromkeys(acted, reward), terminated, truncated
        infos = self._infos()
        self.agents = [a for a in acted if not (terminated[a] or truncated[a])]
        return *results, infos

    def state(self) -> dict[str, Array]:
        """(4n,) float32 for every ally: places over the width and health, itself first."""
        return {
            agent: np.concatenate([np.roll(self._units(), -i, axis=1)[0], self._units()[1]])
            .ravel()
            .astype(np.float32)
            for i, agent in enumerate(self.possible_agents)
        }

    def mask(self, ally: int) -> Array:
        """(3 + n,) int8: what ally number ``ally`` can do."""
        place = self._place[0, ally]
        near = (abs(self._place[1] - place) <= RANGE) & (self._health[1] > 0)
        alive = self._health[0, ally] > 0
        return np.array([True, alive and place > 0, alive and place < WIDTH, *(alive & near)], "i1")

    def render(self) -> str:
        """The health of the units at every place: allies, then enemies."""
        rows = zip(self._place.tolist(), self._health.tolist(), strict=True)
        return " | ".join(" ".join(f"{x}:{h}" for x, h in zip(*row, strict=True)) for row in rows)

    def close(self) -> None:
        """Nothing to free."""

    def _allies_act(self, actions: dict[str, int]) -> float:
        before = self._health[1].sum()
        able = {
            a: self.mask(i)[actions[a]] for i, a in enumerate(self.possible_agents) if a in actions
        }
        for i, agent in enumerate(self.possible_agents):
            if not able.get(agent):
                continue
            action = int(actions[agent])
            if action >= ATTACK:
                self._health[1, action - ATTACK] -= 1
            else:
                self._place[0, i] += (action == RIGHT) - (action == LEFT)
        self._health = self._health.clip(0)
        is_won = not self._health[1].any()
        return float(before - self._health[1].sum() + 10 * is_won)

    def _enemies_act(self) -> None:
        health = self._health[0].copy()
        for k in np.flatnonzero(self._health[1]):
            distance = abs(self._place[0] - self._place[1, k])
            target = np.where(self._health[0] > 0, distance, WIDTH + 1).argmin()
            if distance[target] <= RANGE:
                health[target] -= 1
            else:
                self._place[1, k] += np.sign(self._place[0, target] - self._place[1, k])
        self._health[0] = health.clip(0)

    def _units(self) -> Array:
        """(2, n, 2): place and health of all units, scaled to 1."""
        return np.stack([self._place / WIDTH, self._health / HEALTH], axis=2)

    def _observations(self) -> dict[str, Array]:
        observations = {}
        for i, agent in enumerate(self.possible_agents):
            if agent in self.agents:
                relative = (self._place - self._place[0, i]) / WIDTH
                seen = (abs(relative) * WIDTH <= SIGHT) & (self._health > 0)
                units = np.stack([relative, self._health / HEALTH], axis=2) * seen[:, :, None]
                units[0] = np.roll(units[0], -i, axis=0)
                units[0, 0, 0] = self._place[0, i] / WIDTH
                observations[agent] = units.ravel().astype(np.float32)
        return observations

    def _infos(self) -> dict[str, dict[str, Any]]:
        numbers = {agent: i for i, agent in enumerate(self.possible_agents)}
        return {agent: {"action_mask": self.mask(numbers[agent])} for agent in self.agents}


def focus_fire(env: Skirmish) -> dict[str, int]:
    """The reference: all attack the weakest enemy in reach; those who reach none wait together.

    Who reaches nobody steps forward only if an ally is ahead; the enemies come by themselves.
    """
    actions = {}
    health, front = env._health, max(env._place[0][env._health[0] > 0])
    for i, agent in enumerate(env.possible_agents):
        if agent in env.agents:
            reach = np.flatnonzero(env.mask(i)[ATTACK:])
            if len(reach):
                weakest = reach[health[1][reach].argmin()]
                actions[agent] = int(ATTACK + weakest)
            else:
                actions[agent] = RIGHT if env._place[0, i] < front else STAY
    return actions
