"""Time of planning advice: against a loop over states, and of 64 costs at once against one.

    python benchmarks/adherence_planning.py --out benchmarks/results/adherence-planning.json

float64, 1,000 states, 10 actions, 10 successors each, 100 stages; the median of the repeats, ours
and the loop's taken in turns, by the clock on the wall: wants a quiet machine. The loop is
NumPy's, state by state, over the same successor lists; it runs the last stages alone and is scaled
up. Measured with as many threads as torch takes by itself, which is what is demanded, and with one.
"""

from __future__ import annotations

import argparse
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

import numpy as np
import torch

from rlsuite.advice import AdviceModel
from rlsuite.agents.advice_planning import plan

STATES, ACTIONS, SUCCESSORS, HORIZON, COSTS = 1000, 10, 10, 100, 64
LOOP_GATE, BATCH_GATE = 10.0, 8.0
COMMIT = ["git", "describe", "--always", "--dirty", "--abbrev=40"]


def problem() -> AdviceModel:
    """Random successors, kernels, rewards, human and adherence."""
    rng = np.random.default_rng(0)
    shape = (1, STATES, ACTIONS)
    stride = STATES // SUCCESSORS  # one successor from each tenth
    listed = stride * np.arange(SUCCESSORS) + rng.integers(0, stride, (*shape, SUCCESSORS))
    tables = (
        rng.dirichlet(np.ones(SUCCESSORS), shape),
        rng.random(shape),
        rng.dirichlet(np.ones(ACTIONS), shape[:2]),
        rng.random(shape),
        np.full((1, STATES), 1 / STATES),
    )
    return AdviceModel(torch.from_numpy(listed), *(torch.from_numpy(x) for x in tables))


def loop(model: AdviceModel, horizon: int, cost: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(S,) values, one state after the other."""
    successor, probability, reward, human, adherence = (
        x[0].numpy()
        for x in (model.successor, model.probability, model.reward, model.human, model.adherence)
    )
    v = np.zeros(STATES)
    for _ in range(horizon):
        new = np.empty(STATES)
        for s in range(STATES):
            u = reward[s] + (probability[s] * v[successor[s]]).sum(1)
            alone = human[s] @ u
            new[s] = alone + max((adherence[s] * (u - alone)).max() - cost, 0)
        v = new
    return v


def seconds(run: Callable[[], object]) -> float:
    """Of one call."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def measure(model: AdviceModel, threads: int, repeats: int, stages: int) -> dict[str, Any]:
    """Medians of the repeats, and their ratios."""
    torch.set_num_threads(threads)
    costs = torch.linspace(0, 0.3, COSTS, dtype=torch.float64)
    times: dict[str, list[float]] = {"loop": [], "one": [], "batch": []}
    for _ in range(repeats):
        slow = seconds(lambda: loop(model, stages, 0.1))
        times["loop"].append(slow * HORIZON / stages)
        times["one"].append(seconds(lambda: plan(model, HORIZON, 0.1)))
        times["batch"].append(seconds(lambda: plan(model, HORIZON, costs)))
    median = {name: statistics.median(taken) for name, taken in times.items()}
    ratios = {
        "loop / one": median["loop"] / median["one"],
        "batch / one": median["batch"] / median["one"],
    }
    return {"threads": threads, "seconds": median, "ratios": ratios}


def main() -> int:
    """Print and write the figures; 1 if a gate is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--stages", type=int, default=5, help="of the loop")
    args = parser.parse_args()
    model = problem()
    same = plan(model, args.stages, 0.1).value[0, 0].numpy()
    np.testing.assert_allclose(loop(model, args.stages, 0.1), same, rtol=0, atol=1e-12)
    threads = torch.get_num_threads()
    found, single = (measure(model, n, args.repeats, args.stages) for n in (threads, 1))
    ratios = found["ratios"]
    result = {
        "command": " ".join(["python", *sys.argv]),
        "commit": subprocess.run(COMMIT, capture_output=True, text=True).stdout.strip(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "torch": torch.__version__,
        **found,
        "one thread": single,
        "passed": ratios["loop / one"] >= LOOP_GATE and ratios["batch / one"] < BATCH_GATE,
    }
    print(json.dumps(result, indent=2))
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
