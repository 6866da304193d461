"""Steps per second of the particle environments: ours, all in one step, and mpe2's one by one.

    python benchmarks/mpe_envs.py --out benchmarks/results/mpe-envs.json

Both play the same scenario with the same random actions, in turns within one process, resets
included. A step is one of one environment, with all its agents. The gate is the ratio.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from rlsuite.envs import ParticleVectorEnv
from rlsuite.envs.particles import SCENARIOS

COMMIT = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
GATE = 20.0
"""Times as fast as mpe2."""


class Ours:
    def __init__(self, scenario: str, num_envs: int, continuous: bool) -> None:
        self.envs = ParticleVectorEnv(scenario, num_envs, continuous=continuous)
        self.envs.reset()

    def play(self, actions: list[Any]) -> None:
        for row in actions:
            self.envs.step(row)


class Mpe2:
    """Its parallel environments, one after the other."""

    def __init__(self, scenario: str, num_envs: int, continuous: bool) -> None:
        module = importlib.import_module(f"mpe2.{SCENARIOS[scenario].mpe2_name}")
        self.envs = [module.parallel_env(continuous_actions=continuous) for _ in range(num_envs)]
        for seed, env in enumerate(self.envs):
            env.reset(seed=seed)

    def play(self, actions: list[Any]) -> None:
        for row in actions:
            for env, action in zip(self.envs, row, strict=True):
                env.step(action)
                if not env.agents:
                    env.reset()


def one_by_one(row: dict[str, torch.Tensor], num_envs: int) -> list[dict[str, Any]]:
    """What every environment of mpe2 takes."""
    arrays = {name: leaf.numpy() for name, leaf in row.items()}
    return [
        {name: a[i] if a.ndim > 1 else int(a[i]) for name, a in arrays.items()}
        for i in range(num_envs)
    ]


def measure(
    scenario: str, continuous: bool, num_envs: int, steps: int, repeats: int
) -> dict[str, list[float]]:
    """Steps per second by name, one a repeat."""
    ours, mpe2 = (kind(scenario, num_envs, continuous) for kind in (Ours, Mpe2))
    rates: dict[str, list[float]] = {"rlsuite": [], "mpe2": []}
    for repeat in range(repeats + 1):
        rows: list[Any] = [ours.envs.sample_actions() for _ in range(steps)]
        few = rows[: max(steps // 10, 25)]  # as many seconds, more or less
        plays: dict[str, tuple[Any, list[Any]]] = {
            "rlsuite": (ours, rows),
            "mpe2": (mpe2, [one_by_one(row, num_envs) for row in few]),
        }
        for name, (player, actions) in plays.items():
            began = time.perf_counter()
            player.play(actions)
            seconds = time.perf_counter() - began
            if repeat:  # the first warms up
                rates[name].append(len(actions) * num_envs / seconds)
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-envs", type=int, default=20)
    parser.add_argument("--steps", type=int, default=1000, help="of all environments, a repeat")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {
        "machine": platform.platform(),
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg(),
        "versions": {name: version(name) for name in ("numpy", "torch", "mpe2")},
        "num_envs": options.num_envs,
        "gate": GATE,
    }
    lowest = float("inf")
    for scenario, continuous in itertools.product(SCENARIOS, (True, False)):
        name = f"{scenario}, {'continuous' if continuous else 'discrete'}"
        rates = measure(scenario, continuous, options.num_envs, options.steps, options.repeats)
        ratios = [a / b for a, b in zip(rates["rlsuite"], rates["mpe2"], strict=True)]
        ratio = statistics.median(ratios)
        lowest = min(lowest, ratio)
        medians = {who: statistics.median(values) for who, values in rates.items()}
        result[name] = {"rates": rates, "medians": medians, "ratios": ratios, "ratio": ratio}
        print(
            f"{name:<30}{medians['rlsuite']:>9,.0f} steps/s, mpe2 {medians['mpe2']:>7,.0f}: "
            f"{ratio:.1f} x ({min(ratios):.1f} to {max(ratios):.1f})"
        )
    result["passed"] = lowest >= GATE
    print(f"lowest {lowest:.1f} x, gate {GATE:.0f} x: {'passed' if result['passed'] else 'FAILED'}")
    if options.out:
        described = subprocess.run(COMMIT, capture_output=True, text=True)
        command = "python benchmarks/" + " ".join(["mpe_envs.py", *sys.argv[1:]])
        record = {"command": command, "commit": described.stdout.strip(), **result}
        options.out.write_text(json.dumps(record, indent=1))
    if not result["passed"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
