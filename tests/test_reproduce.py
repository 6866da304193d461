"""What is measured of papers: the gates hold, and do not hold for a sampler that is not the one."""

import csv
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from rlsuite import __version__, er_rr, reproduce
from rlsuite.build import find_commit
from rlsuite.claims import Claim, Gate, Task, markdown, mean_error, ratio_error, table_csv
from rlsuite.cli import main
from rlsuite.errors import UserError
from rlsuite.reproduce import PAPERS, find_paper, measure

PAPER = PAPERS["er-rr"]
UNUSED = Path("unused")


def small(experiments: Sequence[str], repeats: int) -> list[Task]:
    return [
        task for task in PAPER.tasks() if task.experiment in experiments and task.repeat < repeats
    ]


def gated(experiment: str, repeats: int) -> list[Claim]:
    tasks = [
        task for task in small([experiment], repeats) if (experiment, task.arm) not in LEFT_OUT
    ]
    claims = PAPER.claims(measure(PAPER, tasks, 0, UNUSED))
    return [claim for claim in claims if claim.gate]


# No gate needs them, and they take long.
LEFT_OUT = {
    ("grid", "WOR"),
    *(("prioritized grid", f"PER {draw}") for draw in ("stratified", "WOR")),
}

# Experiment, repeats, the method, and what it must not be mistaken for.
CASES = [
    ("lifetime", 1, "RR-C", "uniform"),
    ("lifetime", 1, "RR-C", "WOR"),
    ("tracking", 1, "RR-M", "PER WOR"),
    ("tracking", 1, "RR-M dense", "PER WOR"),
    ("chain 200, batch 1", 20, "RR-C", "uniform"),
    ("grid", 30, "RR-C", "uniform"),
    ("prioritized grid", 6, "RR-M", "PER"),
    ("noise floor, step 0.05", 3, "RR-C", "uniform"),
    ("noise floor, step 0.2", 3, "RR-C", "uniform"),
]


@pytest.mark.parametrize(("experiment", "repeats", "method", "other"), CASES)
def test_gates_tell_the_method_from_another(
    monkeypatch: pytest.MonkeyPatch, experiment: str, repeats: int, method: str, other: str
) -> None:
    claims = gated(experiment, repeats)
    assert claims
    assert all(claim.passed for claim in claims), [claim.cells() for claim in claims]
    monkeypatch.setitem(er_rr.ARMS, method, er_rr.ARMS[other])
    broken = gated(experiment, repeats)
    failed = [claim.quantity for claim in broken if not claim.passed]
    assert failed
    assert all(method in quantity for quantity in failed)


def test_grid_values_by_hand() -> None:
    value = er_rr.grid_values()
    assert not value[er_rr.GOAL].any()
    assert value[98].tolist() == pytest.approx([0.95**2, 0.95, 0.95**2, 1.0])
    assert value[0].max() == pytest.approx(0.95**17)  # 18 moves, the last one rewarded at once
    assert value[0, 0] == pytest.approx(0.95**18)  # into the wall


def test_a_chain_is_solved_in_one_epoch_by_draws_in_the_right_order() -> None:
    class Backwards:
        def __init__(self) -> None:
            self.at = 0

        def prepare(self, capacity: int, device: object) -> None:
            self.capacity = capacity

        def add(self, slots: range) -> None: ...

        def sample(self, n: int) -> tuple[object, None]:
            self.at += n
            return np.arange(self.capacity - 1 - self.at + n, self.capacity - 1 - self.at, -1), None

    assert er_rr.chain(Backwards(), 0, length=10, batch=1) == 1.0  # type: ignore[arg-type]


def test_all_arms_meet_the_same_experience(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def note(sampler: object, seed: int) -> float:
        seen.append((seed, sampler))
        return 0.0

    grid = er_rr.EXPERIMENTS["grid"]._replace(measure=note)
    monkeypatch.setitem(er_rr.EXPERIMENTS, "grid", grid)
    for repeat in range(2):
        for arm in grid.arms:
            er_rr.run(Task("grid", arm, repeat), 0, UNUSED)
    seeds = [seed for seed, _ in seen]
    assert len(set(seeds[:3])) == len(set(seeds[3:])) == 1
    assert seeds[0] != seeds[3]


def test_figures_do_not_depend_on_processes() -> None:
    tasks = small(["noise floor, step 0.2", "chain 200, batch 8"], 2)
    alone, together = measure(PAPER, tasks, 3, UNUSED), measure(PAPER, tasks, 3, UNUSED, 2)
    assert alone == together
    assert alone != measure(PAPER, tasks, 4, UNUSED)


def test_workers_end_with_whoever_is_killed() -> None:
    program = """
import os, time
from rlsuite.reproduce import single_threaded
pool = single_threaded(1)
print(pool.submit(os.getpid).result(), flush=True)
pool.submit(time.sleep, 600).result()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        parent.kill()
    until = time.monotonic() + 20
    while Path(f"/proc/{worker}").exists() and time.monotonic() < until:
        time.sleep(0.05)
    alive = Path(f"/proc/{worker}").exists()
    if alive:
        os.kill(worker, signal.SIGKILL)
    assert not alive


def test_claims_by_hand() -> None:
    assert mean_error([1.0, 3.0]) == (2.0, 1.0)
    assert mean_error([5.0]) == (5.0, None)
    ratio, error = ratio_error([3.0, 5.0], [2.0, 2.0])
    assert (ratio, error) == (2.0, pytest.approx(0.5))
    claim = Claim("x", "y", "1", "z", 1.5, 0.25, Gate(1, 2))
    assert claim.passed
    assert markdown([claim]).splitlines()[2] == "| x | y | 1 | z | 1.5 ± 0.25 | in [1, 2] | pass |"
    assert not Claim("x", "y", "1", "z", math.nan, gate=Gate(1)).passed
    assert Claim("x", "y", "1", "z", 9.0).passed is None
    assert str(Gate(low=25)) == ">= 25"
    assert str(Gate(high=0.6)) == "<= 0.6"
    row = next(csv.DictReader(table_csv([claim]).splitlines()))
    assert [row[key] for key in ("value", "error", "low", "high")] == ["1.5", "0.25", "1.0", "2.0"]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = small(["lifetime", "tracking"], 1)
    paper = PAPER._replace(tasks=lambda: tasks, draw=lambda results, folder: [])
    monkeypatch.setitem(PAPERS, "er-rr", paper)


@pytest.mark.usefixtures("tiny")
def test_command_passes_and_fails_by_its_gates(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["reproduce", "er-rr", "--processes", "1", "--folder", str(tmp_path)]
    assert main(words) == 0
    captured = capsys.readouterr()
    assert "| lifetime | RR-C: draws in a life, variance | 1/3 |" in captured.out
    assert "lifetime" in captured.err  # the progress
    table = (tmp_path / "results.md").read_text()
    assert PAPER.title in table
    assert f"Seed 0, rlsuite {__version__} at commit {find_commit()}." in table
    monkeypatch.setitem(er_rr.ARMS, "RR-C", er_rr.ARMS["uniform"])
    assert main([*words, "--quiet"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("failed: lifetime, RR-C: draws in a life, variance: ")
    assert "FAIL" in (tmp_path / "results.csv").read_text()


def test_pictures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    results = {
        (task.experiment, task.arm): [FAKE.get(task.experiment.partition(" ")[0], 1.0)] * 2
        for task in PAPER.tasks()
    }
    for arm in ("uniform", "WOR", "RR-C"):
        results["lifetime", arm] = [np.array([7, 8, 8, 9])] * 2
    for path in PAPER.draw(results, tmp_path):
        assert path.stat().st_size > 10_000
    for experiment, name in (("lifetime", "counts.png"), ("grid", "learning.png")):
        alone = {key: value for key, value in results.items() if key[0] == experiment}
        assert [path.name for path in PAPER.draw(alone, tmp_path)] == [name]


FAKE = {"grid": np.linspace(1, 0, 24), "prioritized": np.linspace(1, 0, 24)}


@pytest.mark.usefixtures("tiny")
def test_without_pictures_the_figures_are_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def draw(results: object, folder: Path) -> list[Path]:
        raise UserError("plots need matplotlib: pip install 'rlsuite[report]'")

    monkeypatch.setitem(PAPERS, "er-rr", PAPERS["er-rr"]._replace(draw=draw))
    words = ["reproduce", "er-rr", "--processes", "1", "--quiet", "--folder", str(tmp_path)]
    assert main(words) == 0
    assert "warning: no pictures: plots need matplotlib: pip install" in capsys.readouterr().err
    assert (tmp_path / "results.csv").exists()


def test_a_task_has_one_thread() -> None:
    def threads(task: Task, seed: int, folder: Path) -> int:
        return torch.get_num_threads()

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = measure(PAPER._replace(run=threads), [Task("any", "arm", 0)], 0, UNUSED)
        assert (found["any", "arm"], torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(before)


def test_papers_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        [name, *paper.title.split()] for name, paper in PAPERS.items()
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["er-r"], "no paper called er-r: did you mean er-rr?"),
        (["xyzzy"], "no paper called xyzzy: there are: er-rr, hasac, drpg, adherence"),
        (["er-rr", "--processes", "0"], "0 is less than 1"),
        (["er-rr", "--processes", "x"], "invalid int value: 'x'"),
        (["er-rr", "--seed", "x"], "invalid int value: 'x'"),
        (["er-rr", "--seed", "-1"], "-1 is less than 0"),
        (["er-rr", "--folder", __file__], "File exists"),
    ],
)
def test_mistakes_get_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(["reproduce", *words])
    except SystemExit as stop:
        code = int(stop.code or 0)
    (line,) = capsys.readouterr().err.splitlines()
    assert code == 2
    assert said in line


def test_a_paper_is_found_by_its_name() -> None:
    assert find_paper("er-rr") is PAPERS["er-rr"]
    with pytest.raises(UserError, match="1 or more"):
        reproduce.reproduce("er-rr", UNUSED, processes=0)
    with pytest.raises(UserError, match="seed has to be 0 or more, not -1"):
        reproduce.reproduce("er-rr", UNUSED, seed=-1)
