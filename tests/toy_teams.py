"""Small environments of several agents whose every number is known; workers can be sent them."""

from __future__ import annotations

import multiprocessing
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from rlsuite.envs import Skirmish, TeamEnv

NAMES = ["z_box", "a_pick", "m_multi"]
# z_box dies at its second step, the others are cut at the fourth.
FATES = {"z_box": (2, "end"), "a_pick": (4, "cut"), "m_multi": (4, "cut")}

# For every agent, the step that is its last one, and how it ends.
Fates = dict[str, tuple[int, str]]


def rolled(pattern: list[int], time: int) -> np.ndarray:
    return np.roll(np.array(pattern, np.int8), time)


class MixedTeam:
    """Three agents of different spaces, not in alphabetical order, that leave one after the other.

    Demands the actions of exactly the agents that are there, within space and mask. All it tells
    follows from the time and from the sum of what z_box did; rewards are 1, 2, 3 and time / 8.
    """

    metadata: dict[str, Any] = {"name": "mixed", "render_modes": []}  # noqa: RUF012
    possible_agents = ["z_box", "a_pick", "m_multi"]  # noqa: RUF012

    def __init__(self, fates: Fates | None = None) -> None:
        self.fates = fates
        low, high = np.array([-2, 0], np.float32), np.array([0, 5], np.float32)
        self.spaces: dict[str, tuple[gym.Space[Any], gym.Space[Any]]] = {
            "z_box": (spaces.Box(-np.inf, np.inf, (3,), np.float32), spaces.Box(low, high)),
            "a_pick": (spaces.Discrete(7, start=2), spaces.Discrete(4, start=1)),
            "m_multi": (
                spaces.Dict(
                    observation=spaces.Box(0, 255, (2, 2), np.uint8),
                    action_mask=spaces.MultiBinary(5),
                ),
                spaces.MultiDiscrete([3, 2], start=[0, 5]),
            ),
        }
        self.agents: list[str] = []
        self.draw = np.random.default_rng()

    def observation_space(self, agent):
        return self.spaces[agent][0]

    def action_space(self, agent):
        return self.spaces[agent][1]

    def reset(self, seed=None, options=None):
        if seed is not None:
            self.draw = np.random.default_rng(seed)
        self.now = self.fates or {
            agent: (int(self.draw.integers(1, 6)), str(self.draw.choice(["end", "cut"])))
            for agent in self.possible_agents
        }
        self.time, self.total = 0, np.float32(self.draw.random())
        self.agents = list(self.possible_agents)
        return self.observations(), self.infos()

    def step(self, actions):
        assert list(actions) == self.agents
        for agent, action in actions.items():
            assert self.action_space(agent).contains(action), (agent, action)
        if "z_box" in actions:
            self.total += actions["z_box"].sum()
            actions["z_box"][:] = 99  # environments may
        if "a_pick" in actions:
            assert type(actions["a_pick"]) is int
            assert self.pick_mask()[actions["a_pick"] - 1]
        if "m_multi" in actions:
            first, second = actions["m_multi"]
            assert self.multi_mask()[first] and self.multi_mask()[3 + second - 5]
        self.time += 1
        acted = self.agents
        over = {a: self.time >= self.now[a][0] for a in acted}
        terminated = {a: over[a] and self.now[a][1] in ("end", "both") for a in acted}
        truncated = {a: over[a] and self.now[a][1] in ("cut", "both") for a in acted}
        rewards = {a: 1 + self.possible_agents.index(a) + self.time / 8 for a in acted}
        observations, infos = self.observations(), self.infos()
        self.agents = [a for a in acted if not over[a]]
        return observations, rewards, terminated, truncated, infos

    def pick_mask(self):
        return rolled([1, 0, 0, 1], self.time)

    def multi_mask(self):
        return np.concatenate([rolled([1, 1, 0], self.time), rolled([0, 1], self.time)])

    def clock(self):
        return np.zeros(self.time)

    def observations(self):
        everything = {
            "z_box": np.array([self.time, 1, self.total], np.float32),
            "a_pick": 2 + self.time % 7,
            "m_multi": {
                "observation": np.full((2, 2), 10 + self.time, np.uint8),
                "action_mask": self.multi_mask(),
            },
        }
        return {agent: everything[agent] for agent in self.agents}

    def infos(self):
        return {a: {"action_mask": self.pick_mask()} if a == "a_pick" else {} for a in self.agents}

    def render(self):
        return None

    def close(self):
        pass


def make_mixed(fates: Fates | None = None) -> TeamEnv:
    return TeamEnv(MixedTeam(fates), "sum")


class BreakingTeam(Skirmish):
    """Breaks the protocol in construction if told to, else when ally_0 stays and at the next reset.

    Everywhere, or in worker processes alone.
    """

    def __init__(self, in_construction: bool = False, everywhere: bool = False) -> None:
        super().__init__(n=2)
        self.can_break = everywhere or multiprocessing.parent_process() is not None
        self.is_broken = in_construction and self.can_break

    def reset(self, seed=None, options=None):
        observations, infos = super().reset(seed)
        if self.is_broken:
            del observations["ally_1"]
        self.is_broken = False
        return observations, infos

    def step(self, actions):
        observations, rewards, *rest = super().step(actions)
        if self.can_break and actions.get("ally_0") == 0:
            self.is_broken = True
            rewards = dict.fromkeys(rewards, "one")
        return observations, rewards, *rest


def make_breaking(in_construction: bool = False, everywhere: bool = False) -> TeamEnv:
    return TeamEnv(BreakingTeam(in_construction, everywhere))


class PairTuple(gym.Env):
    """Two agents as Tuples, three steps long; an agent's reward is its own action."""

    def __init__(self):
        self.observation_space = spaces.Tuple([spaces.Box(-9, 9, (2,), np.float32)] * 2)
        self.action_space = spaces.Tuple([spaces.Discrete(3), spaces.Discrete(5)])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.observation(), {}

    def step(self, action):
        self.time += 1
        return self.observation(), list(action), self.time == 3, False, {}

    def observation(self):
        return tuple(np.array([self.time, agent], np.float32) for agent in range(2))


def broken(method, change, fates=None):
    """A MixedTeam whose ``method`` returns ``change(self, what it should)``."""

    class Broken(MixedTeam):
        pass

    def replaced(self, *args, **kwargs):
        return change(self, getattr(MixedTeam, method)(self, *args, **kwargs))

    setattr(Broken, method, replaced)
    return Broken(fates)


def drop(part, agent):
    """Take one agent out of a part of what is returned."""
    return lambda self, results: (results[part].pop(agent, None), results)[1]
