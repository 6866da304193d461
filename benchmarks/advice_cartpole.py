"""CartPole with advice at 0.2 that half is followed: aware, agnostic and blind, one run a seed.

    python benchmarks/advice_cartpole.py --jobs 2 --out benchmarks/results/advice-cartpole.json

Everything is as in the configs, and ``rlsuite evaluate RUN... --json`` measures the same: without
exploration, in 100 episodes that are the same for all. A run that was stopped goes on, and one that
is done is not trained again. Demanded of AADQN: a mean net return of 200 or more and no seed below
170; advice in at most 40 % of the steps; a mean 30 above the agnostic one's and 100 above the blind
one's, who always advises; and a mean probability that its advice is executed, over all advices in
the states it comes to, within 0.05 of the truth.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from advice_runs import Rows, find_commit, finish, measure, options

from rlsuite.advice import to_exclusive
from rlsuite.build import build_evaluation, load
from rlsuite.config import load_experiment
from rlsuite.envs import AdviceVectorEnv

AWARE, AGNOSTIC, BLIND = "aadqn/cartpole", "dqn/advice_cartpole", "blind_dqn/cartpole"
CONFIGS = (AWARE, AGNOSTIC, BLIND, "blind_dqn/cartpole_threshold")
EPISODES, STEPS = 100, 500
LEAST_NET, LEAST_SEED, MOST_RATE, OVER_AGNOSTIC, OVER_BLIND, WITHIN = 200, 170, 0.4, 30, 100, 0.05


def believed(folder: Path) -> tuple[float, float]:
    """Mean P(a = m | s, m) over all advices m in the states the advisor comes to: as it believes,
    and in truth."""
    experiment, agent = load_experiment(AWARE), load(folder)
    assert experiment.advice is not None
    config = replace(experiment.run, evaluation_episodes=16)
    envs = build_evaluation(replace(experiment, run=config), None)
    assert isinstance(envs, AdviceVectorEnv)
    obs, sums = envs.reset(0), torch.zeros(2, dtype=torch.float64)
    for _ in range(STEPS):
        human = envs.people.human.probs(obs)
        truth = to_exclusive(torch.full_like(human, float(experiment.advice.adherence)), human)
        sums += torch.stack([agent.believe(obs)[1].double().mean(), truth.mean()]) / STEPS
        obs = envs.step(agent.act(obs, explore=False)[0]).obs
    envs.close()
    return float(sums[0]), float(sums[1])


def verdict(rows: Rows) -> dict[str, Any]:
    """What is demanded, with the numbers, and whether it is met."""
    by_config = {name: [row for row in rows if row["config"] == name] for name in CONFIGS}
    net = {name: mean(row["net"] for row in found) for name, found in by_config.items()}
    aware = by_config[AWARE]
    rate = mean(row["rate"] for row in aware)
    lowest = min(row["net"] for row in aware)
    error = mean(row["theta_ex"] - row["theta_ex, truth"] for row in aware)
    checks = {
        f"aware: mean net >= {LEAST_NET}": (net[AWARE], net[AWARE] >= LEAST_NET),
        f"aware: net of every seed >= {LEAST_SEED}": (lowest, lowest >= LEAST_SEED),
        f"aware: share of steps advised <= {MOST_RATE}": (rate, rate <= MOST_RATE),
        f"aware - agnostic: mean net >= {OVER_AGNOSTIC}": (
            net[AWARE] - net[AGNOSTIC],
            net[AWARE] - net[AGNOSTIC] >= OVER_AGNOSTIC,
        ),
        f"aware - blind: mean net >= {OVER_BLIND}": (
            net[AWARE] - net[BLIND],
            net[AWARE] - net[BLIND] >= OVER_BLIND,
        ),
        f"aware: mean theta_ex within {WITHIN} of the truth": (error, abs(error) <= WITHIN),
    }
    return {name: {"value": value, "met": met} for name, (value, met) in checks.items()}


def main() -> int:
    """Train, measure and judge; 1 if a demand is not met."""
    given, commit = options(__doc__, "advice-cartpole", range(5)), find_commit()
    scores, rows, folders = measure(CONFIGS, given, EPISODES)
    for row in rows:
        if row["config"] == AWARE:
            row["theta_ex"], row["theta_ex, truth"] = believed(folders[AWARE, row["seed"]])
    return finish(given, commit, verdict(rows), scores, rows)


if __name__ == "__main__":
    sys.exit(main())
