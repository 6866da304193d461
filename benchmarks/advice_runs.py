"""Runs of deep advisors, one a config and seed, and their table: what the benchmarks of them share.

A run that was stopped goes on, and one that is done is not trained again. ``rlsuite evaluate RUN...
--json`` measures the same: without exploration, in episodes that are the same for all.
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import mean
from typing import Any

from rlsuite.advice_report import Score, compare, table, to_json
from rlsuite.build import resume, train
from rlsuite.config import load_experiment
from rlsuite.reproduce import single_threaded

COMMIT = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
Rows = list[dict[str, Any]]


def options(doc: str, name: str, seeds: Sequence[int]) -> argparse.Namespace:
    """The command line of a benchmark of advisors."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(seeds))
    parser.add_argument("--transitions", type=int, help="default: the configs'")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--runs", type=Path, default=Path(f"runs/{name}"))
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def run(task: tuple[str, int], *, runs: Path, shared: dict[str, str]) -> Path:
    """Train one seed of a config, or go on with it; its folder."""
    name, seed = task
    folder = runs / f"{name.replace('/', '-')}-seed{seed}"
    if (folder / "experiment.json").exists():
        resume(folder, quiet=True)
    else:
        train(load_experiment(name, shared | {"run.seed": str(seed)}), folder, quiet=True)
    return folder


def best_seen(folder: Path) -> float:
    """The best mean net return of the evaluations along training, of few episodes each."""
    record = json.loads((folder / "evaluation.json").read_text())
    return max(mean(evaluation["returns"]) for evaluation in record["evaluations"])


def measure(
    configs: Sequence[str], given: argparse.Namespace, episodes: int
) -> tuple[dict[str, Sequence[Score]], Rows, dict[tuple[str, int], Path]]:
    """Train what is not trained yet. The scores of the human alone and of each config, the same by
    config and seed, and the folders of the runs."""
    total = given.transitions
    shared = {"plan.total_transitions": str(total)} if total else {}
    # By seed, so that what an interruption leaves is whole tables of fewer seeds.
    tasks = [(name, seed) for seed in given.seeds for name in configs]
    with single_threaded(given.jobs) as pool:
        work = functools.partial(run, runs=given.runs, shared=shared)
        folders = dict(zip(tasks, pool.map(work, tasks), strict=True))
        judge = functools.partial(compare, episodes=episodes)
        runs = [[folders[name, seed] for seed in given.seeds] for name in configs]
        compared = list(pool.map(judge, runs))
    scores: dict[str, Sequence[Score]] = {}
    rows: Rows = []
    for name, found in zip(configs, compared, strict=True):
        scores["human alone"] = found.pop("human")
        (scores[name],) = found.values()
        for seed, score in zip(given.seeds, to_json(found).popitem()[1], strict=True):
            seen = {"best net seen": best_seen(folders[name, seed])}
            rows.append({"config": name, "seed": seed, **score, **seen})
    return scores, rows, folders


def finish(
    given: argparse.Namespace,
    commit: str,
    demanded: dict[str, Any],
    scores: dict[str, Sequence[Score]],
    rows: Rows,
) -> int:
    """Print the table and what is demanded, write everything; 1 if a demand is not met."""
    result = {
        "command": " ".join(["python", *sys.argv]),
        "commit": commit,
        "machine": platform.platform(),
        "versions": {name: version(name) for name in ("torch", "numpy", "gymnasium", "ale-py")},
        "demanded": demanded,
        "human alone": to_json({"": scores["human alone"]})[""][0],
        "runs": rows,
    }
    if given.out:
        given.out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(scores))
    print(json.dumps(demanded, indent=1))
    return 0 if all(check["met"] for check in demanded.values()) else 1


def find_commit() -> str:
    """Of the checkout, as it is now."""
    return subprocess.run(COMMIT, capture_output=True, text=True, check=False).stdout.strip()
