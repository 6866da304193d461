"""The certified gap of DRPG: it holds, it ends a run, and that run resumes bit for bit."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from robust_cases import random_mdp

from rlsuite.agents.adversaries import AscentConfig, FixedKernel, GradientAdversary, TiltConfig
from rlsuite.agents.adversaries import TiltAdversary as Tilt
from rlsuite.agents.drpg import DRPG, METRICS, DRPGConfig, Tolerance
from rlsuite.agents.robust_planning import (
    RobustValueIteration,
    robust_cost,
    robust_policy_iteration,
    total_cost,
)
from rlsuite.ambiguity import L1, AmbiguitySet, L1PerState
from rlsuite.checkpoint import CheckpointStore
from rlsuite.envs.garnet import garnet, garnet_policy
from rlsuite.envs.inventory import inventory
from rlsuite.errors import UserError
from rlsuite.loops import SolvePlan, solve_loop
from rlsuite.run import Run, RunConfig
from rlsuite.types import Solver


@settings(max_examples=5)
@given(st.sampled_from([L1, L1PerState]), st.integers(0, 10**6))
def test_the_gap_is_never_below_the_distance_to_the_optimum(
    kind: type[AmbiguitySet], seed: int
) -> None:
    mdp = random_mdp(seed, kind(0.3), instances=3)
    config = DRPGConfig(tolerance=Tolerance(initial=0.1), certify_every=2)
    rough = GradientAdversary(mdp, AscentConfig(max_solves=3))
    solver = DRPG(mdp, config, adversary=rough)
    v = robust_policy_iteration(mdp).v
    least, last = total_cost(mdp, v), torch.inf
    for _ in range(5):
        solver.iterate()
        missing = float((robust_cost(mdp, solver.solution) - least).max())
        assert missing - 1e-9 <= float(solver.gap) <= last
        assert bool((solver.lower <= least + 1e-9).all())
        last = float(solver.gap)
    sweeps = RobustValueIteration(mdp)
    for _ in range(3):
        sweeps.iterate()
        missing = float((sweeps.v - v).abs().max())
        assert missing <= float(sweeps.gap) + 1e-9


PLAN = SolvePlan(total_iterations=60, tolerance=1e-6)


def make() -> DRPG:
    mdp = garnet(6, 4, 3, instances=3)
    return DRPG(mdp, DRPGConfig(certify_every=4), policy=garnet_policy(mdp))


def solve(folder: Path, solver: Solver, plan: SolvePlan = PLAN) -> None:
    folder.mkdir(exist_ok=True)
    config = RunConfig(log_every_transitions=3, checkpoint_every_transitions=2)
    with Run(folder, config, plan.total_iterations, METRICS, None, quiet=True) as session:
        solve_loop(solver, plan, session)


def outcome(folder: Path) -> tuple[list[dict[str, str]], dict[str, Any]]:
    with (folder / "metrics.csv").open() as file:
        rows = [
            {name: cell for name, cell in row.items() if not name.startswith("time/")}
            for row in csv.DictReader(file)
        ]
    state = CheckpointStore(folder / "checkpoints").load()
    assert state is not None
    return rows, {**state["solver"].pop("adversary"), **state["solver"]}


def test_a_gap_ends_a_run(tmp_path: Path) -> None:
    solver = make()
    solve(tmp_path / "whole", solver)
    rows, state = outcome(tmp_path / "whole")
    # At the end of an iteration with a lower bound, of which there is one in four.
    end = int(rows[-1]["transitions"])
    assert 4 < end < 40 and end % 4 == 1 and solver.iteration == state["iteration"] == end
    assert float(solver.gap) <= 1e-6
    best = total_cost(solver.mdp, robust_policy_iteration(solver.mdp).v)
    assert float((robust_cost(solver.mdp, solver.solution) - best).max()) <= 1e-6

    class Cut(DRPG):
        def iterate(self) -> Any:
            if self.iteration == end - 2:
                raise RuntimeError("power cut")
            return super().iterate()

    cut = Cut(solver.mdp, solver.config, policy=garnet_policy(solver.mdp))
    with pytest.raises(RuntimeError, match="power cut"):
        solve(tmp_path / "cut", cut)
    for _ in range(2):  # a run that has ended does nothing more
        solve(tmp_path / "cut", make())
        again, other = outcome(tmp_path / "cut")
        assert again == rows and other.keys() == state.keys()
        assert all(
            torch.equal(torch.as_tensor(other[k]), torch.as_tensor(v)) for k, v in state.items()
        )


def test_without_a_certificate_all_iterations_are_made(tmp_path: Path) -> None:
    mdp, short = inventory(), SolvePlan(total_iterations=3, tolerance=1e9)
    quick = Tilt(mdp, TiltConfig(starts=("ones",), random=0, tolerance=1.0))
    for i, adversary in enumerate((quick, FixedKernel(mdp))):
        solver = DRPG(mdp, adversary=adversary)
        solve(tmp_path / str(i), solver, short)
        assert solver.iteration == 3 and float(solver.gap) == torch.inf

    class Plain:
        inner = make()
        iterate = inner.iterate
        state_dict, load_state_dict = inner.state_dict, inner.load_state_dict

    with pytest.raises(UserError, match="but Plain has no certified gap: leave it out"):
        solve(tmp_path / "plain", Plain(), short)
