"""VMAS (Bettini et al., 2022): all environments of a vector in one step of its torch simulator."""

from __future__ import annotations

import contextlib
import io
import math
from collections import OrderedDict
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rlsuite.envs.gym_env import import_extra
from rlsuite.envs.lane import End, EpisodeLog, Rows, episode_seed
from rlsuite.envs.layout import ActionCodec, Array
from rlsuite.envs.team import check_team_reward, rewards_differ
from rlsuite.envs.vector import LaneVectorEnv
from rlsuite.errors import UserError
from rlsuite.rng import derive_seed, generator
from rlsuite.tree import flatten_features, leaves
from rlsuite.types import State, Tree

STEP_LIMIT = 100
"""Steps until an episode is truncated where nothing is said; VMAS by itself never does it."""


class VmasVectorEnv(LaneVectorEnv):
    """A ``VectorEnv`` of one VMAS scenario, such as "balance"; ``kwargs`` go to ``vmas.make_env``.

    Observations are {"agents": {name: (N, ...)}, "state": (N, D)}, float32; the state is what all
    agents see, side by side. Actions are {name: (N, ...)}: float32, or int64 with the argument
    ``continuous_actions=False``. The reward is the team's: ``team_reward`` "sum" or "mean", or
    "shared" if all agents get the same. Terminated when the scenario is done, truncated after
    ``step_limit`` steps.

    What a scenario draws once for a whole vector, as VMAS's own ``simple_reference`` its goals, is
    the same in every vector. Every episode has a seed, and so has the randomness within every step.
    ``spec.resumable`` is False if environments of one vector nevertheless influence each other,
    which 50 steps show as a rule; an episode that a resume does not restore is always told.

    Raises ``UserError`` if VMAS or the scenario is not there, or if "shared" rewards differ.
    """

    def __init__(
        self,
        scenario: str,
        num_envs: int,
        seed: int = 0,
        *,
        step_limit: int = STEP_LIMIT,
        team_reward: str = "shared",
        **kwargs: Any,
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, not {num_envs}")
        check_team_reward(team_reward)
        with contextlib.redirect_stderr(io.StringIO()):  # its old gym asks to be replaced
            vmas = import_extra("vmas", f"vmas/{scenario}", "multi-agent")
        arguments = {"max_steps": step_limit, "terminated_truncated": True, "seed": 0, **kwargs}
        try:
            env = vmas.make_env(scenario, num_envs, **arguments)
        except AssertionError as error:
            raise UserError(f"environment 'vmas/{scenario}': {error}") from error
        self._simulator = simulator = _Simulator(env, team_reward)
        example: gym.Env[Any, Any] = gym.Env()
        example.observation_space = _space_of(simulator.observe())
        example.action_space = simulator.action_space
        example.spec = gym.envs.registration.EnvSpec("vmas", max_episode_steps=step_limit)
        resumable = simulator.trace(seed, calm=True) == simulator.trace(seed, calm=False)
        super().__init__([simulator], example, num_envs, seed, resumable)

    def reset(self, seed: int | None = None) -> Tree:
        """As ``LaneVectorEnv.reset``."""
        self._simulator.steps = 0
        return super().reset(seed)

    def state_dict(self) -> State:
        """As ``LaneVectorEnv.state_dict``, and the number of steps."""
        return {**super().state_dict(), "steps": self._simulator.steps}

    def load_state_dict(self, state: State) -> None:
        """As ``LaneVectorEnv.load_state_dict``."""
        self._simulator.steps = state["steps"]
        super().load_state_dict(state)


class _Simulator:
    """All environments of a vector, as ``Lanes``."""

    def __init__(self, env: Any, team_reward: str) -> None:
        self.steps = 0
        """Of all environments together, since the stream began: they seed what a step draws."""
        self._env, self._rule = env, team_reward
        self._names = [agent.name for agent in env.agents]
        self._heads = [_modern(space) for space in env.action_space]
        self.action_space = spaces.Dict(
            OrderedDict(zip(self._names, self._heads, strict=True)),
        )
        self._sizes = [math.prod(head.shape or ()) for head in self._heads]
        self._seed = 0
        self._numbers = [0] * env.num_envs
        self._log: EpisodeLog
        self._actions: Array

    def request_begin(self, log: EpisodeLog) -> None:
        """Remember what to restore."""
        self._log = log

    def begin(self, obs: list[Array], returns: list[float]) -> None:
        """Replay the unfinished episodes so that all come to their last step together."""
        self._seed = self._log.seed
        episodes = [self._log.unfinished(row) for row in range(self._env.num_envs)]
        lengths = np.array([len(episode.actions) for episode in episodes])
        longest = int(lengths.max())
        totals = np.zeros(len(lengths))
        for t in range(longest, 0, -1):
            for row in np.flatnonzero(lengths == t).tolist():
                self._begin(row, episodes[row].number)
            actions = np.zeros((len(lengths), sum(self._sizes)))
            playing = lengths >= t
            for row in np.flatnonzero(playing).tolist():
                actions[row] = episodes[row].actions[-t]
            seen, reward, terminated, truncated = self._step(actions, self.steps - t)
            totals += np.where(playing, reward.numpy(), 0)
            totals[playing & (terminated | truncated).numpy()] = np.nan  # it was another episode
            if t == 1:
                _write(seen, obs, playing)
        for row in np.flatnonzero(lengths == 0).tolist():
            self._begin(row, episodes[row].number)
        _write(self.observe(), obs, lengths == 0)
        returns[:] = totals.tolist()

    def request_step(self, actions: Array) -> None:
        """Remember the actions."""
        self._actions = actions

    def step(self, rows: Rows) -> None:
        """One step of all."""
        seen, reward, terminated, truncated = self._step(self._actions, self.steps)
        self.steps += 1
        rows.reward[:] = reward.tolist()
        _write(seen, rows.next_obs, slice(None))
        for row in np.flatnonzero((terminated | truncated).numpy()):
            rows.ends.append(End(int(row), bool(terminated[row]), bool(truncated[row])))

    def begin_next(self, ends: list[End], obs: list[Array]) -> None:
        """Reset where an episode ended."""
        for end in ends:
            self._begin(end.row, self._numbers[end.row] + 1)
        _write(self.observe(), obs, [end.row for end in ends])

    def close(self) -> None:
        """Nothing is held."""

    def observe(self) -> Tree:
        """What is seen now."""
        return self._tree(self._env.get_from_scenario(True, False, False, False)[0])

    def trace(self, seed: int, *, calm: bool, steps: int = 50) -> list[bytes]:
        """What environment 0 gives, bit for bit, while the others do nothing, or all sorts."""
        self._seed, codec = seed, ActionCodec(self.action_space, self._env.num_envs)
        random, bits = generator(seed, "trace"), []
        first = range(min(2, self._env.num_envs))
        for row in first:
            self._begin(row, 0)
        for t in range(steps):
            actions = codec.encode(codec.sample(random))
            actions[1:] *= not calm
            seen, reward, terminated, _ = self._step(actions, t)
            parts = [leaf for _, leaf in leaves(seen)]
            bits += [part[0].numpy().tobytes() for part in (*parts, reward, terminated)]
            if t % 10 == 9 and not calm:
                self.begin_next([End(row, False, True) for row in first[1:]], [])
        return bits

    def _begin(self, row: int, number: int) -> None:
        self._numbers[row] = number
        self._env.seed(episode_seed(self._seed, row, number))
        self._env.reset_at(row, return_observations=False)

    def _step(self, actions: Array, number: int) -> tuple[Tree, Tensor, Tensor, Tensor]:
        self._env.seed(derive_seed(self._seed, "step", number, bits=31))
        parts = torch.split(torch.from_numpy(actions), self._sizes, 1)
        obs, rewards, terminated, truncated, _ = self._env.step(
            [
                part.float() if isinstance(head, spaces.Box) else part.long()
                for part, head in zip(parts, self._heads, strict=True)
            ]
        )
        by_agent = torch.stack([reward.flatten() for reward in rewards])  # some are (N, 1)
        return self._tree(obs), self._reward(by_agent), terminated, truncated

    def _reward(self, rewards: Tensor) -> Tensor:
        if self._rule != "shared":
            return rewards.sum(0) if self._rule == "sum" else rewards.mean(0)
        wrong = (rewards != rewards[0]).any(0).nonzero()
        if len(wrong):
            given = rewards[:, wrong[0, 0]].tolist()
            raise rewards_differ(dict(zip(self._names, given, strict=True)))
        return rewards[0]

    def _tree(self, obs: list[Tree]) -> Tree:
        by_name: Tree = dict(zip(self._names, obs, strict=True))
        return {"agents": by_name, "state": flatten_features(by_name)}


def _write(seen: Tree, arrays: list[Array], rows: Any) -> None:
    for array, (_, leaf) in zip(arrays, leaves(seen), strict=bool(arrays)):
        array[rows] = leaf.numpy()[rows]


def _space_of(obs: Tree) -> gym.Space[Any]:
    if isinstance(obs, Tensor):
        return spaces.Box(-np.inf, np.inf, obs.shape[1:], np.float32)
    return spaces.Dict(OrderedDict((key, _space_of(child)) for key, child in obs.items()))


def _modern(space: Any) -> gym.Space[Any]:
    """Gymnasium's space for one of the old gym's."""
    if hasattr(space, "nvec"):
        return spaces.MultiDiscrete(space.nvec)
    return (
        spaces.Discrete(int(space.n)) if hasattr(space, "n") else spaces.Box(space.low, space.high)
    )
