"""CartPole of uncertain physics: the worst of a grid along the training of four arms (DRPG's E7).

    python benchmarks/robust_cartpole.py

The arms have the settings of the config robust_ppo/cartpole and as many environment steps: "ppo"
trains in the nominal environment, "randomised" draws all physics anew (search 1), "robust" is the
config, "local" is the config but for its search, which is near the worst physics known alone. A run
for each budget; the longest has the updates of the config's 50,000 transitions. Each policy is
evaluated, with common random numbers, at the 27 points that the lowest, the nominal and the highest
scale of each of the three parameters make. Writes results/robust-cartpole.json and .png; 11 CPU
minutes of one core. Runs that were interrupted are resumed.
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from rlsuite.agents import AGENTS
from rlsuite.agents.robust_ppo import RobustPPO, score
from rlsuite.build import resume, train
from rlsuite.config import Experiment, build_experiment, load_experiment
from rlsuite.plot import COLOURS, format_count, make_figure, write_figure
from rlsuite.robustness import Robustness, evaluate_robustness
from rlsuite.stats import mean, stratified_bootstrap

COMMIT = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
OUT = Path(__file__).parent / "results/robust-cartpole.json"
CONFIG = "robust_ppo/cartpole"
BOX = load_experiment(CONFIG).env.uncertain
ARMS = ("ppo", "randomised", "local", "robust")
BUDGETS = tuple(2_048 * updates for updates in (5, 7, 10, 15, 24))
GATE = 330.0
"""What E7 asks of the robust arm's worst of the grid, on average over the seeds."""
STEP = 0.1
"""Standard deviation of the local search, as a share of the box's width."""


def near_worst(agent: RobustPPO, envs: int) -> Tensor:
    """(N, K) physics: antithetic pairs of normal steps from the worst known, else the nominal one.

    Clipped to the box.
    """
    centre = agent.memory.physics[score(agent.memory).argmin()]  # ones where nothing is known
    shape = ((envs + 1) // 2, len(centre))
    step = STEP * torch.randn(shape, generator=agent.random) * (agent.high - agent.low)
    pairs = torch.stack([step, -step], 1).flatten(0, 1)[:envs]
    return (centre + pairs).clamp(agent.low, agent.high)


def local_agent(*args: Any, **kwargs: Any) -> RobustPPO:
    """Robust PPO whose nature searches near the worst physics that it knows."""
    agent = RobustPPO(*args, **kwargs)
    agent.draw = functools.partial(near_worst, agent)
    return agent


def experiment_of(arm: str, seed: int, transitions: int) -> Experiment:
    """That of the config, with what the arm changes."""
    data: dict[str, Any] = load_experiment(CONFIG).to_dict()
    data["run"] |= {"seed": seed, "evaluate_every_transitions": 0}
    data["plan"]["total_transitions"] = transitions
    if arm == "randomised":
        data["agent"]["search"] = 1.0
    if arm == "ppo":
        data["algorithm"], data["env"]["uncertain"] = "ppo", {}
        del data["agent"]["search"], data["agent"]["memory"]
    return build_experiment(f"{CONFIG} {arm}", data)


def measure(arm: str, seed: int, transitions: int, folder: Path) -> Robustness:
    """Train, or go on, and evaluate on the grid."""
    entry = AGENTS["robust_ppo"]
    if arm == "local":
        entry = entry._replace(agent=local_agent)
    with patch.dict(AGENTS, robust_ppo=entry):
        if (folder / "experiment.json").exists():
            resume(folder, quiet=True)
        else:
            train(experiment_of(arm, seed, transitions), folder, quiet=True)
    return evaluate_robustness(
        folder, {name: [low, 1.0, high] for name, (low, high) in BOX.items()}
    )


def accept(worst: dict[str, list[float]]) -> dict[str, Any]:
    """E7's acceptance of one budget, from each arm's worst of the grid, one a seed.

    The robust arm has to be at ``GATE`` on average and above, not at, "ppo" and "randomised" on
    every seed.
    """
    means = {arm: float(np.mean(values)) for arm, values in worst.items()}
    against = {}
    for arm in [arm for arm in worst if arm != "robust"]:
        gains = np.subtract(worst["robust"], worst[arm])
        against[arm] = {
            "difference": stratified_bootstrap(gains, mean)._asdict(),
            "seeds": [("below", "equal", "above")[int(np.sign(gain)) + 1] for gain in gains],
        }
    above = [s == "above" for arm in ("ppo", "randomised") for s in against[arm]["seeds"]]
    passed = means["robust"] >= GATE and all(above)
    return {"means": means, "robust against": against, "passed": passed}


def say(budget: int, outcome: dict[str, Any]) -> None:
    """A few lines for people."""
    means = ", ".join(f"{arm} {value:.1f}" for arm, value in outcome["means"].items())
    print(f"{budget} transitions: {'passed' if outcome['passed'] else 'NOT PASSED'}; means {means}")
    for arm, found in outcome["robust against"].items():
        point, low, high = found["difference"].values()
        seeds = ", ".join(found["seeds"])
        print(f"  robust - {arm}: {point:.1f} (95 %: {low:.1f} to {high:.1f}); {seeds}", flush=True)


def draw(rows: list[dict[str, Any]], out: Path) -> None:
    """Mean over the seeds by transitions, a line an arm, and each seed as a dot."""
    figure = make_figure(6.0, 3.8)
    axes = figure.subplots()
    for i, arm in enumerate(ARMS):
        own = [row for row in rows if row["arm"] == arm]
        x = np.array([row["transitions"] for row in own]) * 1.02 ** (i - 1.5)  # side by side
        y = np.array([row["worst"] for row in own])
        axes.plot(x, y, ".", color=COLOURS[i], alpha=0.5, ms=5)
        means = [y[x == each].mean() for each in np.unique(x)]
        axes.plot(np.unique(x), means, color=COLOURS[i], lw=1.5, label=arm)
    axes.axhline(GATE, color="grey", lw=0.8, ls="--", label=f"asked for: {GATE:g}")
    axes.set_xscale("log")
    axes.set_xticks(BUDGETS, [format_count(round(each, -3)) for each in BUDGETS])
    axes.minorticks_off()
    axes.set_xlabel("environment transitions of training", fontsize=9)
    axes.set_ylabel("lowest mean return of 27 points", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3, lw=0.5)
    figure.legend(loc="outside lower center", fontsize=8, frameon=False, ncols=5)
    write_figure(figure, out)


def main() -> None:
    """Print a row a run and the outcome of each budget, and write everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--runs", type=Path, default=Path("runs/robust-cartpole"))
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    rows, acceptance = [], {}
    print(
        f"{'arm':<12} {'seed':>4} {'steps':>7} {'nominal':>8} {'mean':>8} {'CVaR':>8} {'worst':>8}"
    )
    for budget in BUDGETS:
        worst: dict[str, list[float]] = {arm: [] for arm in ARMS}
        for seed in options.seeds:
            for arm in ARMS:
                result = measure(arm, seed, budget, options.runs / f"{arm}-{budget}-seed{seed}")
                steps = result.nominal.transitions
                figures = {name: interval.point for name, interval in result.summary().items()}
                row = {"arm": arm, "seed": seed, "transitions": steps, **figures}
                rows.append({**row, "at": result.worst, "points": result.means.tolist()})
                worst[arm].append(figures["worst"])
                shown = " ".join(f"{value:>8.1f}" for value in figures.values())
                print(f"{arm:<12} {seed:>4} {steps:>7} {shown}  {result.worst}", flush=True)
        acceptance[budget] = accept(worst)
        say(budget, acceptance[budget])
    commit = subprocess.run(COMMIT, capture_output=True, text=True, check=False).stdout.strip()
    content = {
        "command": " ".join(["python benchmarks/robust_cartpole.py", *sys.argv[1:]]),
        "commit": commit,
        "machine": platform.platform(),
        "experiment": experiment_of("robust", options.seeds[0], BUDGETS[-1]).to_dict(),
        "acceptance": acceptance,
        "rows": rows,
    }
    options.out.write_text(json.dumps(content, indent=1))
    draw(rows, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
