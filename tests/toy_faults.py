"""Environments that misbehave."""

import gymnasium as gym
import numpy as np


class TurnsNaN(gym.Wrapper):
    """The reward is NaN from the 221st step on."""

    steps = 0

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        self.steps += 1
        return obs, float("nan") if self.steps > 220 else reward, terminated, truncated, info


class Unseeded(gym.RewardWrapper):
    """Noise on the reward that no seed determines."""

    noise = np.random.default_rng()

    def reward(self, reward):
        return reward + self.noise.normal()


def make() -> gym.Env:
    return TurnsNaN(gym.make("Pendulum-v1"))


def make_unseeded() -> gym.Env:
    return Unseeded(gym.make("Pendulum-v1"))
