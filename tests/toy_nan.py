"""An environment whose reward turns into NaN."""

import gymnasium as gym


class TurnsNaN(gym.Wrapper):
    steps = 0

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        self.steps += 1
        return obs, float("nan") if self.steps > 220 else reward, terminated, truncated, info


def make() -> gym.Env:
    return TurnsNaN(gym.make("Pendulum-v1"))
