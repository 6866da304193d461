"""CartPole at five costs of advice: AADQN trained at each, and one network that serves them all.

    python benchmarks/advice_costs.py --out benchmarks/results/advice-costs.json

Everything is as in the config aadqn/cartpole, the human and the number of transitions too; the one
network has ``greatest_cost`` 1, and explores at costs up to it. Each is measured at each cost
without exploration, in 100 episodes that are the same for all. Demanded of the means over seeds:
the number of advices falls from cost to cost, of both; and the one network's net return is within
10 % of the others' at every cost. Whether it is at most 10 % below is told apart.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean
from typing import Any

from rlsuite.advice_report import measure
from rlsuite.build import build_evaluation, load, resume, train
from rlsuite.config import load_experiment
from rlsuite.envs import AdviceVectorEnv
from rlsuite.reproduce import single_threaded

COMMIT = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
CONFIG, EPISODES, WITHIN = "aadqn/cartpole", 100, 0.1
COSTS = (0.0, 0.05, 0.2, 0.5, 1.0)
SEEDS = (0, 1, *range(5, 13))
"""Without 2, 3 and 4, by which the way to explore was chosen."""
SEPARATE, ONE = "separate", "one network"


def scores(task: tuple[Path, dict[str, str], Sequence[float]]) -> list[dict[str, float]]:
    """Train the run of a folder, or go on with it; what it is worth at each cost."""
    folder, overrides, costs = task
    experiment = load_experiment(CONFIG, overrides)
    if (folder / "experiment.json").exists():
        resume(folder, quiet=True)
    else:
        train(experiment, folder, quiet=True)
    agent, found = load(folder), []
    assert experiment.advice is not None
    run = replace(experiment.run, evaluation_episodes=EPISODES)
    for cost in costs:
        people = replace(experiment.advice, cost=cost)
        envs = build_evaluation(replace(experiment, advice=people, run=run), None)
        assert isinstance(envs, AdviceVectorEnv)
        agent.cost = cost
        found.append(asdict(measure(agent, envs, episodes=EPISODES)))
        envs.close()
    return found


def verdict(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds by cost, and whether they are what is demanded."""
    means = {
        arm: {
            name: [mean(r[name] for r in rows if (r["arm"], r["cost"]) == (arm, c)) for c in COSTS]
            for name in ("gross", "net", "advices")
        }
        for arm in (SEPARATE, ONE)
    }
    nets = zip(means[ONE]["net"], means[SEPARATE]["net"], strict=True)
    ratios = [one / separate for one, separate in nets]
    return {
        "means": means,
        "net, one network / separate": ratios,
        "advices fall": {
            arm: all(a > b for a, b in zip(m["advices"], m["advices"][1:], strict=False))
            for arm, m in means.items()
        },
        "within 10 %": [abs(ratio - 1) <= WITHIN for ratio in ratios],
        "at most 10 % below": [ratio >= 1 - WITHIN for ratio in ratios],
    }


def main() -> int:
    """Print a row a run and cost, and write everything; 1 if a demand is not met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--transitions", type=int, help="default: the config's")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--runs", type=Path, default=Path("runs/advice-costs"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    commit = subprocess.run(COMMIT, capture_output=True, text=True, check=False).stdout.strip()
    shared = {"run.evaluate_every_transitions": "0"}
    if options.transitions:
        shared["plan.total_transitions"] = str(options.transitions)
    arms: list[tuple[str, dict[str, str], Sequence[float]]] = [
        (ONE, {"agent.greatest_cost": str(COSTS[-1])}, COSTS),
        *((SEPARATE, {"advice.cost": str(cost)}, [cost]) for cost in COSTS),
    ]
    keys = [(seed, *arm) for seed in options.seeds for arm in arms]
    tasks = []
    for seed, arm, settings, costs in keys:
        name = arm if arm == ONE else f"{arm}-{costs[0]}"
        folder = options.runs / f"{name.replace(' ', '-')}-seed{seed}"
        tasks.append((folder, shared | settings | {"run.seed": str(seed)}, costs))
    rows: list[dict[str, Any]] = []
    with single_threaded(options.jobs) as pool:
        for (seed, arm, _, costs), found in zip(keys, pool.map(scores, tasks), strict=True):
            for cost, score in zip(costs, found, strict=True):
                rows.append({"arm": arm, "cost": cost, "seed": seed, **score})
                shown = " ".join(f"{k} {score[k]:.1f}" for k in ("gross", "net", "advices"))
                print(f"{arm:<12} seed {seed} cost {cost:<5} {shown}", flush=True)
    result = {
        "command": " ".join(["python benchmarks/advice_costs.py", *sys.argv[1:]]),
        "commit": commit,
        "machine": platform.platform(),
        **verdict(rows),
        "rows": rows,
    }
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({key: result[key] for key in list(result)[3:-1]}, indent=1))
    passed = all(result["within 10 %"]) and all(result["advices fall"].values())
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
