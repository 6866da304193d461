"""Breakout with advice at 0.01 that 60 % is followed: aware, agnostic and blind, one run a seed.

    rlsuite train dqn/breakout --folder runs/breakout --plan.total_transitions 100_000
    python benchmarks/advice_breakout.py --jobs 2 --out benchmarks/results/advice-breakout.json

The first command trains the human, who is half trained, and seven actions in ten of whom are
random: to a better player so small a budget has nothing to add. The second trains everything that
advises them, as in the configs (two million frames, and a better player: those ending in
``_full``). Demanded of AADQN: a gain, the gross return above that of the human alone in the same
games, whose bootstrap 95 % interval over the seeds is above 0, and advice in fewer than all steps.
"""

from __future__ import annotations

import sys
from statistics import mean
from typing import Any

import numpy as np
from advice_runs import Rows, find_commit, finish, measure, options

from rlsuite import stats

AWARE = "aadqn/breakout"
CONFIGS = (AWARE, "blind_dqn/breakout", "dqn/advice_breakout")
EPISODES = 100


def verdict(rows: Rows) -> dict[str, Any]:
    """What is demanded, with the numbers, and whether it is met."""
    aware = [row for row in rows if row["config"] == AWARE]
    gains = np.array([[row["gain"]] for row in aware])
    interval = stats.stratified_bootstrap(gains, stats.mean)
    rate = mean(row["rate"] for row in aware)
    return {
        "aware: gain, lower end of 95 % > 0": {
            "value": [float(gains.mean()), interval.low, interval.high],
            "met": bool(interval.low > 0),
        },
        "aware: share of steps advised < 1": {"value": rate, "met": rate < 1},
    }


def main() -> int:
    """Train, measure and judge; 1 if a demand is not met."""
    given, commit = options(__doc__, "advice-breakout", range(3)), find_commit()
    scores, rows, _ = measure(CONFIGS, given, EPISODES)
    return finish(given, commit, verdict(rows), scores, rows)


if __name__ == "__main__":
    sys.exit(main())
