"""CartPole of uncertain physics: PPO, domain randomisation and robust PPO on a grid of the box.

    python benchmarks/robust_cartpole.py --out benchmarks/results/robust-cartpole.json
    python benchmarks/robust_cartpole.py --box wide --out benchmarks/results/robust-wide.json

The three arms have the settings of the config robust_ppo/cartpole and as many transitions: "ppo"
trains in the nominal environment, "randomised" draws all physics anew (search 1), "robust" is the
config. Each policy is evaluated, with common random numbers, at the 27 points that the lowest, the
nominal and the highest scale of each of the three parameters make.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from rlsuite.build import resume, train
from rlsuite.config import Experiment, build_experiment, load_experiment
from rlsuite.robustness import Robustness, evaluate_robustness

COMMIT = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
CONFIG = "robust_ppo/cartpole"
ARMS = ("ppo", "randomised", "robust")
BOXES = {
    "config": load_experiment(CONFIG).env.uncertain,
    "wide": {"pole_mass": (0.1, 10.0), "pole_length": (0.2, 5.0), "force": (0.3, 3.0)},
}


def experiment_of(
    arm: str, seed: int, box: str = "config", transitions: int | None = None
) -> Experiment:
    """That of the config, with what box and arm change."""
    data: dict[str, Any] = load_experiment(CONFIG).to_dict()
    data["env"]["uncertain"] = BOXES[box]
    data["run"] |= {"seed": seed, "evaluate_every_transitions": 0}
    data["plan"]["total_transitions"] = transitions or data["plan"]["total_transitions"]
    if arm == "randomised":
        data["agent"]["search"] = 1.0
    if arm == "ppo":
        data["algorithm"], data["env"]["uncertain"] = "ppo", {}
        del data["agent"]["search"], data["agent"]["memory"]
    return build_experiment(f"{CONFIG} {arm}", data)


def measure(experiment: Experiment, box: str, folder: Path) -> Robustness:
    """Train, or go on, and evaluate on the grid."""
    if (folder / "experiment.json").exists():
        resume(folder, quiet=True)
    else:
        train(experiment, folder, quiet=True)
    ranges = {name: [low, 1.0, high] for name, (low, high) in BOXES[box].items()}
    return evaluate_robustness(folder, ranges)


def main() -> None:
    """Print a row a run, and write everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=ARMS, choices=ARMS)
    parser.add_argument("--box", default="config", choices=BOXES)
    parser.add_argument("--transitions", type=int, help="default: the config's")
    parser.add_argument("--runs", type=Path, default=Path("runs/robust-cartpole"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = []
    print(f"{'arm':<12} {'seed':>4} {'nominal':>8} {'mean':>8} {'CVaR':>8} {'worst':>8}  at")
    for seed in options.seeds:
        for arm in options.arms:
            folder = options.runs / options.box / f"{arm}-seed{seed}"
            experiment = experiment_of(arm, seed, options.box, options.transitions)
            result = measure(experiment, options.box, folder)
            figures = {name: interval.point for name, interval in result.summary().items()}
            means = result.means.tolist()
            rows.append({"arm": arm, "seed": seed, **figures, "at": result.worst, "points": means})
            shown = " ".join(f"{value:>8.1f}" for value in figures.values())
            print(f"{arm:<12} {seed:>4} {shown}  {result.worst}", flush=True)
    if options.out:
        commit = subprocess.run(COMMIT, capture_output=True, text=True, check=False).stdout.strip()
        content = {
            "command": " ".join(["python benchmarks/robust_cartpole.py", *sys.argv[1:]]),
            "commit": commit,
            "machine": platform.platform(),
            "experiment": experiment_of("robust", 0, options.box, options.transitions).to_dict(),
            "rows": rows,
        }
        options.out.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
