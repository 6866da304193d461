"""A solver's run stops, dies and resumes as if it had never been interrupted, bit for bit."""

import csv
import math
import os
import signal
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rlsuite.agents.soft_policy_iteration import (
    METRICS,
    Annealing,
    MarkovGame,
    SoftPolicyIteration,
    SoftPolicyIterationConfig,
)
from rlsuite.checkpoint import CheckpointStore
from rlsuite.envs.matrix_games import PAYOFFS
from rlsuite.errors import UserError
from rlsuite.loops import SolvePlan, solve_loop
from rlsuite.run import Run, RunConfig, Stopped

PLAN = SolvePlan(total_iterations=23)
# Checkpoints fall between log lines.
CONFIG = RunConfig(log_every_transitions=3, checkpoint_every_transitions=5)


class Interrupted:
    """The solver, with something happening when iteration ``at`` begins."""

    def __init__(self, at: int | None = None, event: str = "") -> None:
        config = SoftPolicyIterationConfig(
            temperature=Annealing(initial=20.0, decay=0.9, least=0.05), drift=1.0
        )
        game = MarkovGame.one_step(torch.tensor(PAYOFFS["penalty"]))
        self.inner = SoftPolicyIteration(game, config, seed=1)
        self.at, self.event = at, event
        self.state_dict, self.load_state_dict = self.inner.state_dict, self.inner.load_state_dict

    def iterate(self) -> dict[str, Tensor]:
        metrics = self.inner.iterate()
        if self.inner.iteration == self.at:
            if self.event == "crash":
                raise RuntimeError("power cut")
            if self.event == "nan":
                return {name: value * math.nan for name, value in metrics.items()}
            if self.event == "broken":
                self.inner.policies[1] = self.inner.policies[1] * math.nan
            else:
                os.kill(os.getpid(), signal.SIGTERM)
        return metrics


def solve(folder: Path, at: int | None = None, event: str = "") -> int:
    """Iterations that this session made."""
    folder.mkdir(exist_ok=True)
    solver = Interrupted(at, event)
    with Run(folder, CONFIG, PLAN.total_iterations, METRICS, None, quiet=True) as run:
        solve_loop(solver, PLAN, run)
    return solver.inner.iteration


def outcome(folder: Path) -> tuple[list[dict[str, str]], dict[str, Tensor]]:
    with (folder / "metrics.csv").open() as file:
        rows = [
            {name: cell for name, cell in row.items() if not name.startswith("time/")}
            for row in csv.DictReader(file)
        ]
    state = CheckpointStore(folder / "checkpoints").load()
    assert state is not None
    return rows, {**state["solver"]["policies"], "generator": state["solver"]["generator"]}


def test_stopped_and_crashed_runs_end_like_an_uninterrupted_one(tmp_path: Path) -> None:
    assert solve(tmp_path / "whole") == 23
    rows, state = outcome(tmp_path / "whole")
    assert [int(row["transitions"]) for row in rows] == [3, 6, 9, 12, 15, 18, 21, 23]
    assert all(row[name] for row in rows for name in METRICS)

    with pytest.raises(Stopped, match="SIGTERM"):
        solve(tmp_path / "cut", 7)  # saves at once, between checkpoints
    assert CheckpointStore(tmp_path / "cut" / "checkpoints").load()["run"]["transitions"] == 7
    with pytest.raises(RuntimeError, match="power cut"):
        solve(tmp_path / "cut", 20, "crash")  # the lines after the checkpoint of 15 are void
    assert CheckpointStore(tmp_path / "cut" / "checkpoints").load()["run"]["transitions"] == 15
    solve(tmp_path / "cut")
    again, other = outcome(tmp_path / "cut")
    assert again == rows
    assert all(torch.equal(other[name], tensor) for name, tensor in state.items())

    before = (tmp_path / "whole" / "metrics.csv").read_bytes()
    assert solve(tmp_path / "whole") == 23  # finished: nothing is left to do
    assert (tmp_path / "whole" / "metrics.csv").read_bytes() == before


def test_a_line_holds_the_mean_of_its_iterations(tmp_path: Path) -> None:
    solve(tmp_path)
    solver = Interrupted()
    values = [float(solver.iterate()["value/soft"]) for _ in range(3)]
    rows, _ = outcome(tmp_path)
    assert float(rows[0]["value/soft"]) == pytest.approx(sum(values) / 3, rel=1e-12)


def test_what_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="value/soft is nan at 9"):
        solve(tmp_path, 8, "nan")
    with pytest.raises(UserError, match=r"solver/policies/agent_1 is not finite at 10"):
        solve(tmp_path, 10, "broken")
    assert CheckpointStore(tmp_path / "checkpoints").load()["run"]["transitions"] == 5
