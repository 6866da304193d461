"""CartPole of uncertain physics: the worst of a grid by the adversary of training (DRPG's E7).

    python benchmarks/robust_cartpole.py

Four arms have the settings of the config robust_ppo/cartpole_e7, 80 iterations of policy gradient:
"global" is the config, whose nature searches the whole box; "local" has another search, an
antithetic evolution strategy from the physics of before, with as many episodes; "randomised" draws
uniform physics (episodes 0); "nominal" trains in the environment as it is. Each policy is
evaluated, with common random numbers, at the 27 points that the lowest, the nominal and the highest
scale of each of the three parameters make. Writes results/robust-cartpole.json and .png. Runs that
were interrupted are resumed.
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from rlsuite.agents import AGENTS
from rlsuite.agents.robust_ppo import RobustPPO
from rlsuite.build import load, resume, train
from rlsuite.config import Experiment, build_experiment, load_experiment
from rlsuite.plot import COLOURS, make_figure, write_figure
from rlsuite.robustness import evaluate_robustness
from rlsuite.stats import mean, stratified_bootstrap

COMMIT = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
OUT = Path(__file__).parent / "results/robust-cartpole.json"
CONFIG = "robust_ppo/cartpole_e7"
BOX = load_experiment(CONFIG).env.uncertain
ARMS = ("nominal", "randomised", "local", "global")
GATE = 330.0
"""What E7 asks of the global arm's worst of the grid, on average over the seeds."""
EPISODES = 30
"""Of each point of the grid."""
STEPS = 3
"""Of the local search, before each rollout."""
WIDTH = 0.1
"""Standard deviation of what the local search tries, and its step for a gradient of 1, as a share
of the box's width."""


def evolve(agent: RobustPPO) -> Tensor:
    """(1, K) physics: antithetic evolution from those of before, first from the nominal ones."""
    scale = WIDTH * (agent.high - agent.low)
    physics = agent.worst[0] if agent.tried else torch.ones_like(agent.low)
    for _ in range(STEPS):
        shape = (agent.config.candidates // 2, len(scale))
        noise = torch.randn(shape, generator=agent.random)
        noise = torch.cat([noise, -noise])
        returns = agent.trial((physics + scale * noise).clamp(agent.low, agent.high))
        score = (returns - returns.mean()) / (returns.std() + 1e-8)
        gradient = (score[:, None] * noise).mean(0)
        physics = (physics - scale * gradient).clamp(agent.low, agent.high)
    return physics[None]


def local_agent(*args: Any, **kwargs: Any) -> RobustPPO:
    """Robust PPO whose nature searches near the physics of before."""
    agent = RobustPPO(*args, **kwargs)
    agent.search = functools.partial(evolve, agent)
    return agent


def experiment_of(arm: str, seed: int) -> Experiment:
    """That of the config, with what the arm changes."""
    data: dict[str, Any] = load_experiment(CONFIG).to_dict()
    data["run"] |= {"seed": seed, "evaluate_every_transitions": 0}
    if arm == "randomised":
        data["agent"]["episodes"] = 0
    if arm == "local":
        data["agent"] |= {"candidates": data["agent"]["candidates"] // STEPS, "worst": 1}
    if arm == "nominal":
        data["algorithm"], data["env"]["uncertain"] = "ppo", {}
        for name in ("candidates", "episodes", "worst"):
            del data["agent"][name]
    return build_experiment(f"{CONFIG} {arm}", data)


def measure(arm: str, seed: int, folder: Path) -> dict[str, Any]:
    """Train, or go on, and evaluate on the grid: a row of the results."""
    began = time.process_time()
    entry = AGENTS["robust_ppo"]
    if arm == "local":
        entry = entry._replace(agent=local_agent)
    with patch.dict(AGENTS, robust_ppo=entry):
        if (folder / "experiment.json").exists():
            resume(folder, quiet=True)
        else:
            train(experiment_of(arm, seed), folder, quiet=True)
    seconds = time.process_time() - began
    grid = {name: [low, 1.0, high] for name, (low, high) in BOX.items()}
    result = evaluate_robustness(folder, grid, episodes=EPISODES)
    return {
        "arm": arm,
        "seed": seed,
        "transitions": result.nominal.transitions,
        "of searches": getattr(load(folder), "transitions", 0),
        "cpu seconds": round(seconds),
        **{name: interval._asdict() for name, interval in result.summary().items()},
        "at": result.worst,
        "points": result.means.tolist(),
    }


def accept(worst: dict[str, list[float]]) -> dict[str, Any]:
    """E7's acceptance, from each arm's worst of the grid, one a seed.

    The global arm has to be at ``GATE`` on average and above, not at, "nominal" and "randomised" on
    every seed.
    """
    against = {}
    for arm in [arm for arm in worst if arm != "global"]:
        gains = np.subtract(worst["global"], worst[arm])
        against[arm] = {
            "difference": stratified_bootstrap(gains, mean)._asdict(),
            "seeds": [("below", "equal", "above")[int(np.sign(gain)) + 1] for gain in gains],
        }
    means = {arm: float(np.mean(values)) for arm, values in worst.items()}
    above = [s == "above" for arm in ("nominal", "randomised") for s in against[arm]["seeds"]]
    passed = means["global"] >= GATE and all(above)
    return {"means": means, "global against": against, "passed": passed}


def say(outcome: dict[str, Any]) -> None:
    """A few lines for people."""
    means = ", ".join(f"{arm} {value:.1f}" for arm, value in outcome["means"].items())
    print(f"{'passed' if outcome['passed'] else 'NOT PASSED'}; means {means}")
    for arm, found in outcome["global against"].items():
        point, low, high = found["difference"].values()
        seeds = ", ".join(found["seeds"])
        print(f"  global - {arm}: {point:.1f} (95 %: {low:.1f} to {high:.1f}); {seeds}", flush=True)


def draw(rows: list[dict[str, Any]], out: Path) -> None:
    """The worst, the mean and the nominal return of each run, a column an arm."""
    figure = make_figure(6.0, 3.6)
    axes = figure.subplots()
    for i, name in enumerate(("worst", "mean", "nominal")):
        label = {"worst": "worst of 27", "mean": "mean of 27"}.get(name, name)
        for j, arm in enumerate(ARMS):
            y = np.array([row[name]["point"] for row in rows if row["arm"] == arm])
            x = j + 0.18 * (i - 1) + np.linspace(-0.04, 0.04, len(y))
            axes.plot(x, y, "o", color=COLOURS[i], ms=4, alpha=0.7, label=label if j == 0 else None)
            at = [j + 0.18 * (i - 1) - 0.08, j + 0.18 * (i - 1) + 0.08]
            axes.plot(at, [y.mean()] * 2, color=COLOURS[i], lw=2)
    axes.axhline(GATE, color="grey", lw=0.8, ls="--", label=f"asked for: {GATE:g}")
    axes.set_xticks(range(len(ARMS)), ARMS)
    axes.set_ylabel("return per episode", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3, lw=0.5)
    figure.legend(loc="outside lower center", fontsize=8, frameon=False, ncols=4)
    write_figure(figure, out)


def show(row: dict[str, Any]) -> str:
    """A line for people."""
    counts = f"{row['transitions']:>9} {row['of searches']:>9} {row['cpu seconds']:>5}"
    names = ("nominal", "mean", "cvar", "worst")
    figures = " ".join(f"{row[name]['point']:>8.1f}" for name in names)
    return f"{row['arm']:<12} {row['seed']:>4} {counts} {figures}  {row['at']}"


def main() -> None:
    """Print a row a run and the outcome, and write everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--runs", type=Path, default=Path("runs/robust-cartpole"))
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    rows = []
    print(
        f"{'arm':<12} {'seed':>4} {'steps':>9} {'searches':>9} {'CPU s':>5} "
        f"{'nominal':>8} {'mean':>8} {'CVaR':>8} {'worst':>8}"
    )
    for seed in options.seeds:
        for arm in options.arms:
            rows.append(measure(arm, seed, options.runs / f"{arm}-seed{seed}"))
            print(show(rows[-1]), flush=True)
    if set(options.arms) != set(ARMS):
        return
    worst = {arm: [row["worst"]["point"] for row in rows if row["arm"] == arm] for arm in ARMS}
    outcome = accept(worst)
    say(outcome)
    commit = subprocess.run(COMMIT, capture_output=True, text=True, check=False).stdout.strip()
    content = {
        "command": " ".join(["python benchmarks/robust_cartpole.py", *sys.argv[1:]]),
        "commit": commit,
        "machine": platform.platform(),
        "episodes of a point": EPISODES,
        "experiment": experiment_of("global", options.seeds[0]).to_dict(),
        "acceptance": outcome,
        "rows": rows,
    }
    options.out.write_text(json.dumps(content, indent=1))
    draw(rows, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
