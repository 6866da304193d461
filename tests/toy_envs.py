"""Small environments whose every number is known; workers can be sent them."""

from __future__ import annotations

import collections
import copy
import multiprocessing
import os
import signal
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

# Length of an episode, and how it ends.
Pattern = tuple[tuple[int, bool, bool], ...]


class CountingEnv(gym.Env):
    """Observations tell the reset seed (so environment and episode), the step and the actions.

    Observation: seed // 2**16, seed % 2**16, steps, sum of actions. How an episode ends depends on
    its seed and the pattern. The reward needs float64: sums in another order differ.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float64)
    action_space = spaces.Discrete(5, start=-2)

    def __init__(self, pattern: Pattern = ((3, True, False), (2, False, True), (5, True, True))):
        self.pattern = pattern
        self.seeds: list[int] = []

    def reset(self, *, seed=None, options=None):
        self.seed = seed
        self.seeds.append(seed)
        self.length, self.terminates, self.truncates = self.pattern[seed % len(self.pattern)]
        self.steps = self.total = 0
        return self.observation(), {}

    def step(self, action):
        assert type(action) is int and -2 <= action <= 2
        self.steps += 1
        self.total += action
        is_over = self.steps >= self.length
        reward = 0.1 * self.steps + action / 3 + self.seed / 7
        return (
            self.observation(),
            reward,
            is_over and self.terminates,
            is_over and self.truncates,
            {"anything": self.steps},
        )

    def observation(self):
        high, low = divmod(self.seed, 2**16)
        return np.array([high, low, self.steps, self.total], np.float64)


OBSERVATION_SPACES: dict[str, gym.Space[Any]] = {
    "box float32": spaces.Box(-1, 1, (3,), np.float32),
    "box float64": spaces.Box(np.array([-3.0, 0.0]), np.array([-1.0, 9.0]), dtype=np.float64),
    "box float16": spaces.Box(-1, 1, (2,), np.float16),
    "box scalar": spaces.Box(-1, 1, (), np.float32),
    "image": spaces.Box(0, 255, (4, 5, 3), np.uint8),
    "box int16": spaces.Box(-300, 300, (2,), np.int16),
    "discrete": spaces.Discrete(4),
    "discrete start": spaces.Discrete(4, start=10),
    "multi-binary": spaces.MultiBinary((2, 3)),
    "multi-discrete": spaces.MultiDiscrete([3, 5], start=[-1, 7]),
    "dict": spaces.Dict(
        collections.OrderedDict(
            z=spaces.Box(-1, 1, (2, 2), np.float64),
            a=spaces.Dict({"id": spaces.Discrete(3, start=1), "bits": spaces.MultiBinary(2)}),
            image=spaces.Box(0, 255, (2, 2, 1), np.uint8),
        )
    ),
}

ACTION_SPACES: dict[str, gym.Space[Any]] = {
    "discrete": spaces.Discrete(3),
    "discrete start": spaces.Discrete(3, start=7),
    "box": spaces.Box(-1, 1, (2,), np.float32),
    "box float64": spaces.Box(-1, 1, (2, 2), np.float64),
    "box asymmetric": spaces.Box(
        np.array([-5.0, 0.5], np.float32), np.array([-4.0, 8], np.float32)
    ),
}


class SampleEnv(gym.Env):
    """Any spaces: observations are samples; one in four steps ends the episode.

    Demands actions of exactly the right type. Returns the same observation object again and again
    where it can, and spoils the actions it is given, as environments may.
    """

    def __init__(self, observation: str = "dict", action: str = "box"):
        self.observation_space = copy.deepcopy(OBSERVATION_SPACES[observation])
        self.action_space = copy.deepcopy(ACTION_SPACES[action])
        self.buffer: Any = None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observe(), {}

    def step(self, action):
        if isinstance(self.action_space, spaces.Discrete):
            assert type(action) is int
        else:
            assert type(action) is np.ndarray and action.dtype == self.action_space.dtype
        assert self.action_space.contains(action)
        reward = np.float32(np.sum(action))
        if isinstance(action, np.ndarray):
            action[:] = 99
        end = self.np_random.integers(8)
        return self.observe(), reward, bool(end == 0), bool(end == 1), {}

    def observe(self):
        sample = self.observation_space.sample()
        if isinstance(sample, np.ndarray) and sample.shape:
            if self.buffer is None:
                self.buffer = sample
            self.buffer[:] = sample
            return self.buffer
        return sample


class CatchEnv(gym.Env):
    """A ball falls through 10 rows, a paddle on the last one has to be under it (Osband et al.).

    Observation: (10, 10, 2) bool, ball and paddle. Actions: left, stay, right. The only reward is
    the last one, after 9 steps: 1 if the ball is caught, else -1. Resting catches one in ten.
    """

    observation_space = spaces.Box(0, 1, (10, 10, 2), bool)
    action_space = spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.row, self.paddle = 0, 5
        self.column = int(self.np_random.integers(10))
        return self.observation(), {}

    def step(self, action):
        self.row += 1
        self.paddle = min(max(self.paddle + action - 1, 0), 9)
        is_over = self.row == 9
        reward = (1.0 if self.paddle == self.column else -1.0) if is_over else 0.0
        return self.observation(), reward, is_over, False, {}

    def observation(self):
        grid = np.zeros((10, 10, 2), bool)
        grid[self.row, self.column, 0] = grid[9, self.paddle, 1] = True
        return grid


class GlobalCounterEnv(CountingEnv):
    """Not resumable: the reward counts the steps of all instances."""

    steps_of_all = 0

    def step(self, action):
        GlobalCounterEnv.steps_of_all += 1
        observation, _, terminated, truncated, info = super().step(action)
        return observation, float(GlobalCounterEnv.steps_of_all), terminated, truncated, info


class NoisyEnv(CountingEnv):
    """Not resumable: unseeded noise in the observation."""

    def observation(self):
        return super().observation() + np.array([0, 0, 0, np.random.default_rng().random()])


class MemoryEnv(CountingEnv):
    """Not resumable: an instance remembers its earlier episodes."""

    def observation(self):
        return super().observation() + np.array([0, 0, 0, float(len(self.seeds))])


class LateDriftEnv(CountingEnv):
    """Looks resumable, but each instance drifts after 40 steps in all."""

    steps_in_all = 0

    def step(self, action):
        self.steps_in_all += 1
        observation, reward, terminated, truncated, info = super().step(action)
        if self.steps_in_all > 40:
            observation[3] += self.steps_in_all
        return observation, reward, terminated, truncated, info


class FailingEnv(CountingEnv):
    """Raises at the step and environment-identifying action it is told."""

    def step(self, action):
        if action == 2:
            raise ZeroDivisionError("the number of lives is zero")
        return super().step(action)


class KillingEnv(CountingEnv):
    """Kills the worker process that steps it with action 2, every time."""

    def step(self, action):
        if action == 2 and multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)


class BoxCountingEnv(CountingEnv):
    """The counting environment with unbounded continuous actions."""

    action_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)


class MultiActionEnv(CountingEnv):
    """Actions that are not supported."""

    action_space = spaces.MultiDiscrete([2, 2])


class WrongShapeEnv(CountingEnv):
    """Breaks its own space; NumPy would broadcast it."""

    def observation(self):
        return np.zeros(1)


class NotAnEnv:
    pass


A_NUMBER = 3


def make_counting(length: int = 3) -> CountingEnv:
    return CountingEnv(((length, True, False),))
