"""Steps per second of Atari games: ours, ale_py's own vector environment, Gymnasium's wrappers.

    python benchmarks/atari_envs.py --out benchmarks/results/atari-envs.json

All play the same game without sticky actions, with the same random actions, in turns within one
process. A step is four frames; only steps are counted that are transitions to whoever learns. With
two groups one half of the games plays while whoever acts is busy with the other: so everything is
measured bare, and with a forward pass of DQN's network for every observation.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from rlsuite.envs import AtariVectorEnv
from rlsuite.envs.atari import make_watched

COMMIT = ["git", "describe", "--always", "--dirty", "--abbrev=40"]


def nothing(obs: Any) -> None:
    """Act without looking."""


def network() -> Callable[[Any], None]:
    """A forward pass of the network of Mnih et al. (2015), the result thrown away."""
    net = nn.Sequential(
        nn.Conv2d(4, 32, 8, 4),
        nn.ReLU(),
        nn.Conv2d(32, 64, 4, 2),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(3136, 512),
        nn.ReLU(),
        nn.Linear(512, 4),
    )

    @torch.no_grad()
    def act(obs: Any) -> None:
        net(torch.as_tensor(obs).float() / 255)

    return act


class Native:
    """``ale_py``'s ``AtariVectorEnv.step`` with its defaults, which are our "dqn"."""

    def __init__(self, env_id: str, num_envs: int) -> None:
        import ale_py.vector_env

        self.envs = ale_py.vector_env.AtariVectorEnv(gym.spec(env_id).kwargs["game"], num_envs)
        self.envs.reset(seed=0)
        self.over = np.zeros(num_envs, bool)

    def play(self, actions: np.ndarray, act: Callable[[Any], None]) -> int:
        count = 0
        for row in actions:
            count += len(row) - int(self.over.sum())  # what follows an end is a reset
            obs, _, terminated, truncated, _ = self.envs.step(row)
            self.over = terminated | truncated
            act(obs)
        return count


class Ours:
    def __init__(self, env_id: str, num_envs: int, groups: int) -> None:
        self.envs = AtariVectorEnv(env_id, num_envs, protocol="dqn", groups=groups)
        self.envs.reset()
        self.groups = groups

    def play(self, actions: np.ndarray, act: Callable[[Any], None]) -> int:
        count = 0
        for row in torch.from_numpy(actions).view(len(actions) * self.groups, -1):
            new = self.envs.step(row)
            count += len(new.step.terminated)
            act(new.obs)
        return count


class Wrappers:
    """``AtariPreprocessing``, ``FrameStackObservation`` and ``SyncVectorEnv``."""

    def __init__(self, env_id: str, num_envs: int) -> None:
        make = [lambda: make_watched(env_id, "dqn", None)] * num_envs
        self.envs = gym.vector.SyncVectorEnv(make)
        self.envs.reset(seed=0)
        self.over = np.zeros(num_envs, bool)

    play = Native.play


def measure(
    env_id: str, num_envs: int, steps: int, repeats: int, act: Callable[[Any], None]
) -> dict[str, list[float]]:
    """Rates by name, one a repeat."""
    players: dict[str, Any] = {
        "ale_py step": Native(env_id, num_envs),
        "rlsuite": Ours(env_id, num_envs, 1),
        "rlsuite, 2 groups": Ours(env_id, num_envs, 2),
        "gymnasium wrappers, SyncVectorEnv": Wrappers(env_id, num_envs),
    }
    rates: dict[str, list[float]] = {name: [] for name in players}
    random = np.random.default_rng(0)
    for repeat in range(repeats + 1):
        actions = random.integers(0, 4, (steps, num_envs))
        for name, player in players.items():
            began = time.perf_counter()
            count = player.play(actions, act)
            if repeat:  # the first warms up
                rates[name].append(count / (time.perf_counter() - began))
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--games", nargs="+", default=["ALE/Pong-v5", "ALE/Breakout-v5"])
    parser.add_argument("--num-envs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=300, help="of all games, a repeat")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {
        "machine": platform.platform(),
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg(),
        "num_envs": options.num_envs,
    }
    acting = {"bare": nothing, "acting": network()}
    for env_id, (how, act) in itertools.product(options.games, acting.items()):
        rates = measure(env_id, options.num_envs, options.steps, options.repeats, act)
        native = rates["ale_py step"]
        print(f"{env_id}, {how}, {options.num_envs} games, median of {options.repeats}")
        found = result[f"{env_id}, {how}"] = {}
        for name, values in rates.items():
            ratios = [value / other for value, other in zip(values, native, strict=True)]
            rate, ratio = statistics.median(values), statistics.median(ratios)
            found[name] = {"rates": values, "median": rate, "ratio to ale_py": ratio}
            print(f"  {name:<36}{rate:>8,.0f} steps/s  {ratio:5.2f} x ale_py")
    if options.out:
        described = subprocess.run(COMMIT, capture_output=True, text=True)
        command = "python benchmarks/" + " ".join(["atari_envs.py", *sys.argv[1:]])
        record = {"command": command, "commit": described.stdout.strip(), **result}
        options.out.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
