"""Time of robust planning and of DRPG: outer iterations, and Bellman steps against loops and LPs.

    python benchmarks/robust_mdp.py --out benchmarks/results/robust-mdp.json

One thread, float64. An outer iteration is one of DRPG with the exact adversary, the mean of the
first ones (``--iterations``) from random policies on. Its long steps arrive after a few, and what
is timed is mostly the rest, which need one linear system each: 46 to 49 in 40 iterations of
G(15,8,3). An iteration on the way takes two to four: the first three are timed beside them.

A Bellman step is ``RobustMDP.improve`` of all instances; beside it, in this run, the
same inner problems one after the other in Python: by a sort of each state and action (a NumPy
loop), and by linear programs (HiGHS). The loops take the first instance and are scaled up to all;
their values have to agree with ours.
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
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import linprog

from rlsuite.agents.drpg import DRPG
from rlsuite.envs.garnet import garnet, garnet_policy
from rlsuite.robust import RobustMDP

COMMIT = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
# (instances, states, actions, branches, rectangular): milliseconds an outer iteration, if gated.
OUTER: dict[tuple[int, int, int, int, str], float | None] = {
    (1, 15, 8, 3, "sa"): 1.8,
    (50, 15, 8, 3, "sa"): 6.0,
    (50, 15, 8, 15, "s"): None,
    (1, 100, 10, 10, "sa"): 4.05,
    (50, 100, 10, 10, "sa"): 137.0,
    (1, 300, 10, 10, "sa"): 15.0,
    (1, 1000, 10, 10, "sa"): 200.0,
    (1, 1000, 10, 100, "sa"): 578.0,
}
LOOP_GATE, LP_GATE = 10.0, 50.0
"""Times as fast as a loop over states and actions, and as linear programs."""


def outer_milliseconds(
    size: tuple[int, int, int, int, str], iterations: int, repeats: int
) -> list[float]:
    """Mean over the iterations of a run, one a repeat."""
    instances, *shape, rectangular = size
    mdp = garnet(*shape, instances=instances, rectangular=rectangular)
    times = []
    for repeat in range(repeats + 1):
        solver = DRPG(mdp, policy=garnet_policy(mdp, repeat))
        began = time.perf_counter()
        for _ in range(iterations):
            solver.iterate()
        if repeat:  # the first warms up
            times.append((time.perf_counter() - began) / iterations * 1e3)
    return times


def sort_one(z: Any, nominal: Any, radius: float) -> float:
    """The worst case of one L1 ball."""
    order = np.argsort(z)
    mass = min(radius / 2, 1 - nominal[order[-1]])
    p = nominal.copy()
    p[order[-1]] += mass
    for i in order[:-1]:
        moved = min(mass, p[i])
        p[i] -= moved
        mass -= moved
    return float(p @ z)


def program_one(z: Any, nominal: Any, radius: float) -> float:
    """The same by HiGHS: p and m >= |p - nominal|."""
    n = len(z)
    eye, one = np.eye(n), np.ones(n)
    upper = np.block([[eye, -eye], [-eye, -eye], [np.zeros((1, n)), one[None]]])
    result = linprog(
        np.concatenate([-z, np.zeros(n)]),
        upper,
        np.concatenate([nominal, -nominal, [radius]]),
        np.concatenate([one, np.zeros(n)])[None],
        [1.0],
        method="highs",
    )
    return -float(result.fun)


def step_by_loop(mdp: RobustMDP, z: Any, solve_one: Callable[[Any, Any, float], float]) -> Any:
    """(S,) robust Bellman values of the first instance."""
    nominal, radius = mdp.nominal[0].numpy(), mdp.rectangular.radius[0].numpy()
    return np.array(
        [
            min(solve_one(z[s, a], nominal[s, a], radius[s, a]) for a in range(mdp.actions))
            for s in range(mdp.states)
        ]
    )


def bellman_seconds(repeats: int) -> dict[str, list[float]]:
    """Seconds of a Bellman step of 50 instances of G(15, 8, 3), one a repeat."""
    mdp = garnet(15, 8, 3, instances=50)
    v = torch.rand((50, 15), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = mdp.target(40 + 20 * v)
    first, ours = z[0].numpy(), mdp.improve(z)[1][0].numpy()
    seconds: dict[str, list[float]] = {"rlsuite": [], "loop": [], "programs": []}
    for _ in range(repeats):
        began = time.perf_counter()
        for _ in range(100):
            mdp.improve(z)
        seconds["rlsuite"].append((time.perf_counter() - began) / 100)
        for name, solve_one in {"loop": sort_one, "programs": program_one}.items():
            began = time.perf_counter()
            values = step_by_loop(mdp, first, solve_one)
            seconds[name].append((time.perf_counter() - began) * mdp.instances)
            np.testing.assert_allclose(values, ours, atol=1e-8)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=40, help="of DRPG, a repeat")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    passed = True
    outer: dict[str, Any] = {}
    for size, target in OUTER.items():
        few = max(5, options.iterations * 100 // max(size[1], 100))
        times = outer_milliseconds(size, few, options.repeats)
        start = outer_milliseconds(size, 3, options.repeats)
        median, first = statistics.median(times), statistics.median(start)
        passed &= target is None or median <= target
        name = f"{size[0]} x G({size[1]},{size[2]},{size[3]}), {size[4]}-rectangular"
        outer[name] = {
            "milliseconds": times,
            "median": median,
            "target": target,
            "of the first three": {"milliseconds": start, "median": first},
        }
        gate = f", target {target:.0f}" if target else ""
        print(f"{name:<36}{median:>8.2f} ms{gate}; the first three {first:.2f} ms each")
    seconds = bellman_seconds(options.repeats)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = {name: medians[name] / medians["rlsuite"] for name in ("loop", "programs")}
    passed &= ratios["loop"] >= LOOP_GATE and ratios["programs"] >= LP_GATE
    print(
        f"Bellman step of 50 x G(15,8,3): {medians['rlsuite'] * 1e3:.2f} ms; a loop takes "
        f"{ratios['loop']:.0f} x (gate {LOOP_GATE:.0f}), linear programs "
        f"{ratios['programs']:.0f} x (gate {LP_GATE:.0f})"
    )
    print("passed" if passed else "FAILED")
    if options.out:
        described = subprocess.run(COMMIT, capture_output=True, text=True)
        record = {
            "command": "python benchmarks/" + " ".join(["robust_mdp.py", *sys.argv[1:]]),
            "commit": described.stdout.strip(),
            "machine": platform.platform(),
            "cores": len(os.sched_getaffinity(0)),
            "load": os.getloadavg(),
            "versions": {name: version(name) for name in ("numpy", "scipy", "torch")},
            "outer": outer,
            "bellman": {"seconds": seconds, "medians": medians, "ratios": ratios},
            "passed": passed,
        }
        options.out.write_text(json.dumps(record, indent=1))
    if not passed:
        sys.exit(1)


if __name__ == "__main__":
    main()
