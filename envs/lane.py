"""One environment among several, and the record of the episodes that are under way.

Gymnasium's autoreset is not used. Every episode begins with an explicit reset whose seed follows
from (seed, environment, episode number), so that this seed and the actions taken since are all
that is needed to restore an unfinished episode: in a resumed run, or in place of a dead worker.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from functools import reduce
from operator import add
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch

from rlsuite.envs.layout import ActionCodec, Array, ObservationLayout
from rlsuite.errors import UserError
from rlsuite.rng import derive_seed
from rlsuite.tree import leaves
from rlsuite.types import Episode, State, Tree


def episode_seed(seed: int, env: int, number: int) -> int:
    """The 31-bit seed with which environment ``env`` is reset for its episode ``number``."""
    return derive_seed(seed, "episode", env, number, bits=31)


class End(NamedTuple):
    """That an episode ended, and how."""

    row: int
    """Of the environment."""
    terminated: bool
    truncated: bool


class Rows(NamedTuple):
    """Where environments write what a step brought; the first axis is the environment."""

    reward: list[float] | Array
    next_obs: list[Array]
    """One array a leaf."""
    ends: list[End]
    """Appended, by row."""


class Unfinished(NamedTuple):
    """What restores one episode that is under way."""

    number: int
    """How many episodes this environment had finished before."""
    actions: Array
    """(t, ...) taken so far, in the units of the environment, as ``ActionCodec`` encodes them."""


# What gym.make puts around an environment. A lane resets, counts and steps by itself, so that these
# only cost time: a tenth of a HalfCheetah's step.
_PEELED = (gym.wrappers.TimeLimit, gym.wrappers.OrderEnforcing, gym.wrappers.PassiveEnvChecker)


class Lane:
    """One environment: stepped, and reset with the seed of each of its episodes."""

    def __init__(self, env: gym.Env[Any, Any], index: int, seeded_as: int | None = None) -> None:
        self.index = index
        self._seeded_as = index if seeded_as is None else seeded_as
        self.limit = sys.maxsize
        """Steps after which an episode is truncated."""
        self.length = 0
        """Steps of the episode under way."""
        self._env = inner = env
        while type(inner) in _PEELED:
            if isinstance(inner, gym.wrappers.TimeLimit):
                self.limit = min(self.limit, inner._max_episode_steps)
            assert isinstance(inner, gym.Wrapper)
            inner = inner.env
        self.env_step = inner.step
        """Gymnasium's ``step`` without the limit; ``length`` is to be counted beside it."""
        self._env_reset = inner.reset
        self._seed = self._number = 0

    def begin(self, seed: int, number: int) -> Any:
        """Reset for episode ``number`` of the run seeded ``seed``; the first observation."""
        self._seed, self._number, self.length = seed, number, 0
        return self._env_reset(seed=episode_seed(seed, self._seeded_as, number))[0]

    def begin_next(self) -> Any:
        """Reset for the following episode; its first observation."""
        return self.begin(self._seed, self._number + 1)

    def replay(self, actions: Iterable[Any]) -> tuple[Any, float]:
        """Repeat actions, at least one; the last observation and the sum of rewards.

        The sum is NaN if the episode ended meanwhile: then it was another episode.
        """
        episode_return = 0.0
        for action in actions:
            observation, reward, terminated, truncated, _ = self.env_step(action)
            self.length += 1
            episode_return += float(reward)
            if terminated or truncated or self.length >= self.limit:
                return observation, float("nan")
        return observation, episode_return

    def close(self) -> None:
        """Free the environment."""
        self._env.close()

    def failure(self, error: Exception) -> Exception:
        """What to raise when the environment, or what it returned, raised ``error``.

        A ``RuntimeError`` that says where; what a user can put right is left as it is.
        """
        if isinstance(error, UserError):
            return error
        seed = episode_seed(self._seed, self._seeded_as, self._number)
        return RuntimeError(
            f"environment {self.index}, episode {self._number} (reset seed {seed}, "
            f"step {self.length}) raised {type(error).__name__}: {error}"
        )


class EpisodeLog:
    """The episodes under way in ``N`` environments: numbers, actions, returns, times."""

    def __init__(
        self, seed: int, num_envs: int, observations: ObservationLayout, actions: ActionCodec
    ) -> None:
        self.seed = seed
        self.obs: Tree = {}
        """(N, ...) what to act on now."""
        self._numbers = [0] * num_envs
        self._seconds_before = [0.0] * num_envs
        self._began = [time.perf_counter()] * num_envs
        # All environments' actions and rewards of every step since the oldest unfinished episode
        # began, and where in these lists each environment's own episode begins.
        self._actions: list[Array] = []
        self._rewards: list[list[float] | Array] = []
        self._first = [0] * num_envs
        self._no_action: Array = np.zeros(actions.shape, actions.dtype)
        self._observations = observations

    def record(self, actions: Array, reward: list[float] | Array) -> None:
        """One step of all environments; (N, ...) actions and rewards are kept, not copied."""
        self._actions.append(actions)
        self._rewards.append(reward)

    def episode_return(self, env: int) -> float:
        """Undiscounted, of the episode under way in ``env``."""
        # Not sum(): from Python 3.12 on it compensates, so it differs from a running total.
        return reduce(add, (reward[env] for reward in self._rewards[self._first[env] :]), 0.0)

    def finish(self, env: int) -> Episode:
        """The record of the episode that ended in ``env``; the next one begins."""
        now = time.perf_counter()
        episode = Episode(
            env=env,
            number=self._numbers[env],
            episode_return=self.episode_return(env),
            length=len(self._actions) - self._first[env],
            seconds=self._seconds_before[env] + now - self._began[env],
        )
        self.skip(env)
        return episode

    def skip(self, env: int) -> None:
        """Go on with the next episode of ``env``."""
        self._numbers[env] += 1
        self._seconds_before[env] = 0.0
        self._began[env] = time.perf_counter()
        self._first[env] = len(self._actions)
        oldest = min(self._first)
        if oldest:
            del self._actions[:oldest], self._rewards[:oldest]
            self._first = [first - oldest for first in self._first]

    def unfinished(self, env: int) -> Unfinished:
        """What restores the episode under way in ``env``."""
        steps = [actions[env] for actions in self._actions[self._first[env] :]]
        return Unfinished(self._numbers[env], np.stack(steps) if steps else self._no_action[:0])

    def state_dict(self) -> State:
        """Seed, current observations and, for every environment, its unfinished episode."""
        now = time.perf_counter()
        episodes: State = {}
        for env in range(len(self._numbers)):
            number, actions = self.unfinished(env)
            episodes[str(env)] = {
                "number": number,
                "actions": torch.from_numpy(actions.copy()),
                "rewards": torch.tensor(
                    [reward[env] for reward in self._rewards[self._first[env] :]],
                    dtype=torch.float64,
                ),
                "seconds": self._seconds_before[env] + now - self._began[env],
            }
        return {"seed": self.seed, "obs": self.obs, "episodes": episodes}

    def load_state_dict(self, state: State) -> None:
        """Take over the unfinished episodes of a log of as many environments."""
        num_envs = len(self._numbers)
        if len(state["episodes"]) != num_envs:
            raise ValueError(f"a state of {len(state['episodes'])} environments, not {num_envs}")
        episodes = [state["episodes"][str(env)] for env in range(num_envs)]
        self.seed = state["seed"]
        self.obs = state["obs"]
        self._numbers = [episode["number"] for episode in episodes]
        self._seconds_before = [episode["seconds"] for episode in episodes]
        self._began = [time.perf_counter()] * num_envs
        lengths = [len(episode["actions"]) for episode in episodes]
        longest = max(lengths)
        self._first = [longest - length for length in lengths]
        self._actions = [self._no_action.copy() for _ in range(longest)]
        self._rewards = [[0.0] * num_envs for _ in range(longest)]
        for env, episode in enumerate(episodes):
            steps = zip(
                self._actions[self._first[env] :],
                self._rewards[self._first[env] :],
                episode["actions"].numpy(),
                episode["rewards"].tolist(),
                strict=True,
            )
            for actions, rewards, action, reward in steps:
                actions[env] = action
                rewards[env] = reward

    def is_restored(self, env: int, obs: list[Array], row: int, episode_return: float) -> bool:
        """Whether a replay led to row ``row`` of ``obs`` and to the same return, bit for bit."""
        before = dict(leaves(self.obs))
        # Bytes, not values: NaN equals itself, 0.0 is not -0.0.
        is_same_obs = all(
            array[row].tobytes() == before["/".join(leaf.path)][env].numpy().tobytes()
            for leaf, array in zip(self._observations.leaves, obs, strict=True)
        )
        return is_same_obs and episode_return == self.episode_return(env)


class LocalLanes:
    """The first environments of a vector, stepped one after the other in this process.

    Whatever an environment raises comes out as a ``RuntimeError`` that names it, but for
    ``UserError``.
    """

    def __init__(self, lanes: list[Lane], layout: ObservationLayout, codec: ActionCodec) -> None:
        self._lanes = lanes
        self._layout = layout
        self._codec = codec
        self._log: EpisodeLog
        self._actions: Iterable[Any]

    def request_begin(self, log: EpisodeLog) -> None:
        """Remember what to restore."""
        self._log = log

    def begin(self, obs: list[Array], returns: list[float]) -> None:
        """Reset and replay, one after the other."""
        self.restore(
            self._log.seed, [self._log.unfinished(lane.index) for lane in self._lanes], obs, returns
        )

    def restore(
        self, seed: int, episodes: list[Unfinished], obs: list[Array], returns: list[float] | Array
    ) -> None:
        """Reset for the episodes of the run seeded ``seed`` and replay their actions."""
        for row, (lane, episode) in enumerate(zip(self._lanes, episodes, strict=True)):
            returns[row] = 0.0
            try:
                observation = lane.begin(seed, episode.number)
                self._layout.check(observation)
                if len(episode.actions):
                    observation, returns[row] = lane.replay(self._codec.decode(episode.actions))
                self._layout.write(observation, obs, row)
            except Exception as error:
                raise lane.failure(error) from error

    def request_step(self, actions: Array) -> None:
        """Remember the actions."""
        self._actions = self._codec.decode(actions[: len(self._lanes)])

    def step(self, rows: Rows) -> None:
        """Step, one after the other."""
        next_obs, rewards, write = rows.next_obs, rows.reward, self._layout.write
        bare = next_obs[0] if self._layout.is_bare else None
        row = 0
        try:
            for lane, action in zip(self._lanes, self._actions, strict=True):
                observation, reward, terminated, truncated, _ = lane.env_step(action)
                lane.length += 1
                rewards[row] = float(reward)
                if bare is not None:
                    bare[row] = observation
                else:
                    write(observation, next_obs, row)
                is_late = lane.length >= lane.limit
                if terminated or truncated or is_late:
                    rows.ends.append(End(row, bool(terminated), bool(truncated) or is_late))
                row += 1
        except Exception as error:
            raise self._lanes[row].failure(error) from error

    def begin_next(self, ends: list[End], obs: list[Array]) -> None:
        """Reset where an episode ended."""
        for row, _, _ in ends:
            if row < len(self._lanes):
                try:
                    self._layout.write(self._lanes[row].begin_next(), obs, row)
                except Exception as error:
                    raise self._lanes[row].failure(error) from error

    def close(self) -> None:
        """Free the environments."""
        for lane in self._lanes:
            lane.close()
