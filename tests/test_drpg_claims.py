"""What is measured of DRPG: figures by hand, gates that can fail, shared problems."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlsuite import drpg_claims
from rlsuite.agents.adversaries import TiltConfig
from rlsuite.agents.drpg import StepSize
from rlsuite.agents.robust_planning import evaluate, robust_cost, total_cost
from rlsuite.claims import Claim, Results
from rlsuite.cli import main
from rlsuite.drpg_claims import (
    Chatter,
    Descent,
    Garnets,
    Inventory,
    Judged,
    Toy,
    chatter,
    descend,
    inventories,
    judge,
    run,
    shifted,
    sweep,
    toy_text,
)
from rlsuite.drpg_report import ORACLE, SHIFTS, TOY_VALUES, joined, relative_gap
from rlsuite.reproduce import PAPERS

PAPER = PAPERS["drpg"]
SMALL = Garnets((5, 4, 3))


def gated(results: Results, part: str) -> Claim:
    """The only claim with a gate whose quantity holds the words."""
    (claim,) = [c for c in PAPER.claims(results) if c.gate and part in c.quantity]
    return claim


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drpg_claims, "ITERATIONS", 40)
    monkeypatch.setattr(drpg_claims, "INSTANCES", 3)


@pytest.mark.usefixtures("short")
def test_rows_of_a_descent_are_those_of_the_policies() -> None:
    mdp, policy = SMALL.draw(3, 3)
    found = descend(3, garnets=SMALL, step=StepSize(size=1e6))
    assert found.cost.shape == found.certificate.shape == (40, 3)
    assert found.cost[0] == pytest.approx(robust_cost(mdp, policy).numpy(), rel=1e-12)
    gap = relative_gap(found)
    assert gap[0].min() > 0.1 and np.abs(gap[-1]).max() < 1e-9
    assert (found.certificate >= found.cost - found.optimum - 1e-9).all()
    slow = descend(3, garnets=SMALL)
    assert relative_gap(slow)[0] == pytest.approx(gap[0])
    assert relative_gap(slow)[-1].max() > 1e-6

    # The single loop's policies are other ones, and judged as exactly.
    single = descend(3, garnets=SMALL, single=True)
    assert single.cost[0] == pytest.approx(found.cost[0], rel=1e-12)
    assert np.abs(single.cost[-1] / slow.cost[-1] - 1).min() > 1e-6
    assert (single.certificate >= single.cost - single.optimum - 1e-9).all()

    sweeps = sweep(3, garnets=SMALL)
    nominal = total_cost(mdp, evaluate(mdp, policy, mdp.nominal).v).numpy()
    assert sweeps.cost[0] == pytest.approx(nominal, rel=1e-12)
    assert sweeps.optimum == pytest.approx(found.optimum, rel=1e-9)
    assert (sweeps.certificate >= np.abs(sweeps.cost - sweeps.optimum) - 1e-9).all()


@pytest.mark.usefixtures("short")
def test_sweeps_with_a_budget_per_state() -> None:
    sweeps = drpg_claims.EXPERIMENTS["garnet per state 10-5-10"].arms["value iteration"](3)
    assert (sweeps.certificate >= np.abs(sweeps.cost - sweeps.optimum) - 1e-9).all()
    assert (sweeps.certificate[1:] <= (0.95 + 1e-9) * sweeps.certificate[:-1]).all()
    assert sweeps.cost.shape[1] == len(sweeps.optimum) == drpg_claims.INSTANCES


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("garnets", [SMALL, Garnets((5, 3, 5), "s")])
def test_policies_under_kernels_of_the_set(garnets: Garnets) -> None:
    robust, plain = (judge(5, garnets=garnets, robust=which) for which in (True, False))
    assert robust.random.shape == (3, drpg_claims.KERNELS)
    assert (robust.least == plain.least).all()
    for one in (robust, plain):
        assert (one.random <= one.worst[:, None] + 1e-9).all()
        assert (one.random.std(1) > 0).all()
        assert (one.worst >= one.least[:, 0] - 1e-9).all()
        assert (one.nominal >= one.least[:, 1] - 1e-9).all()
    # Both are optimal, or nearly so, for what they were made for.
    assert plain.nominal == pytest.approx(plain.least[:, 1], rel=1e-9)
    assert robust.worst == pytest.approx(plain.least[:, 0], rel=2e-2)
    assert (robust.worst < plain.worst - 1e-3).any()


def test_an_inner_loop_decides_whether_the_outer_one_converges(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(drpg_claims, "INNER_ITERATIONS", {1.0: 60})
    exact, cold = (
        chatter(0, ascent=drpg_claims.INNER[name], step=1.0) for name in ("exact", "cold")
    )
    assert np.median(exact.gap) < 1e-9 < 1e-3 < np.median(cold.gap)
    assert exact.solves < 4 < cold.solves


def test_inventory_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """O6 of the issue, and a random start."""
    monkeypatch.setattr(drpg_claims, "WIDER_TILT", TiltConfig(max_solves=20))
    monkeypatch.setattr(drpg_claims, "INVENTORY_STARTS", 1)
    monkeypatch.setattr(drpg_claims, "INVENTORY_ITERATIONS", 3)
    monkeypatch.setattr(drpg_claims, "SEEN", (0, 2))
    robust, plain = (inventories(1, step=0.1, robust=which) for which in (True, False))
    assert robust.cost[:, 0] == pytest.approx([70.727, 50.097], abs=1e-2)
    assert plain.cost[:, 0] == pytest.approx([70.727, 54.150], abs=1e-2)
    assert robust.cost[0, 1] == pytest.approx(plain.cost[0, 1], rel=1e-12) != 70.727
    assert (plain.nominal < robust.nominal).all()
    for one in (robust, plain):
        assert (one.ends >= one.cost[-1]).all()
        assert one.random.shape == (2, drpg_claims.KERNELS)
        assert (one.random <= one.ends[:, None]).all() and (one.random.std(1) > 0).all()


def test_frozen_lake_shifted() -> None:
    assert shifted(0, radius=0.4) == pytest.approx(SHIFTS["radius 0.4"], abs=1e-3)


def test_toy_text_needs_a_wide_start() -> None:
    found = toy_text(0, env="CliffWalking")
    assert found.values == pytest.approx(TOY_VALUES["CliffWalking"], abs=1e-5)
    assert found.mixed == pytest.approx(found.values[2], abs=1e-6)
    assert found.unmixed < -99.9


def descent(gap: float, certificate: float, optimum: float = 10.0) -> Descent:
    """Of one instance, the same in all 200 iterations."""
    gaps, bounds = (np.full((200, 1), x) for x in (gap, certificate))
    return Descent(optimum * (1 + gaps), bounds, np.array([optimum]))


def test_batches_are_put_together() -> None:
    both = joined([descent(0.5, 6.0), descent(0.1, 2.0, 20.0)])
    assert relative_gap(both)[7].tolist() == pytest.approx([0.5, 0.1])
    assert both.certificate[7].tolist() == [6, 2] and both.optimum.tolist() == [10, 20]


@pytest.mark.parametrize(
    ("name", "arm", "part", "good", "bad"),
    [
        ("garnet 5-6-3", "greedy step", "greatest relative gap", 1e-10, 1e-8),
        ("garnet 5-6-3", "step 1000", "greatest relative gap", 9e-5, 2e-4),
        ("garnet per state 15-8-15", "decaying step", "median", 7e-4, 9e-4),
        ("garnet per state 10-5-10", "decaying step", "greatest", 1.9e-3, 2.1e-3),
        ("garnet per state 10-5-10", "constant step", "median", 2e-2, 5e-3),
        ("garnet per state 10-5-10, wide", "decaying step", "median", 7e-4, 9e-4),
        ("garnet per state 10-5-10, wide", "decaying step", "greatest", 1.9e-3, 2.1e-3),
        ("garnet per state 10-5-10, wide", "constant step", "median", 2e-2, 5e-3),
    ],
)
def test_gates_of_descents(name: str, arm: str, part: str, good: float, bad: float) -> None:
    for gap, passed in ((good, True), (bad, False)):
        assert gated({(name, arm): [descent(gap, 1.0)]}, part).passed is passed


def test_gates_of_bounds() -> None:
    name = "garnet 10-6-3"
    paper, sweeps = descent(0.05, 1.0), descent(0.014, 1.0)
    results = {(name, drpg_claims.PAPER_STEP): [paper], (name, "value iteration"): [sweeps]}
    off = gated(results, "distance to value iteration")
    assert off.value == pytest.approx(0.36) and off.passed
    assert gated(results, "least certificate").passed
    assert gated(results, "factor of a sweep").passed is False  # the change does not shrink
    results = {(name, "step 1000"): [descent(0.05, 0.4)]}
    least = gated(results, "least certificate")
    assert least.value == pytest.approx(-0.1) and least.passed is False


@pytest.mark.parametrize(
    ("loop", "good", "bad"),
    [
        ("cold", (2e-3, 0, 0), (1e-4, 1e-4, 0)),
        *((loop, (0, 0, 5e-10), (0, 0, 2e-9)) for loop in ("warm", "warm and fill", "exact")),
    ],
)
def test_gates_of_inner_loops(loop: str, good: tuple[float, ...], bad: tuple[float, ...]) -> None:
    for gaps, passed in ((good, True), (bad, False)):
        results = {("inner loop", f"{loop}, step 1"): [Chatter(np.array(gaps), 3.0)]}
        assert gated(results, "greatest of 3").passed is passed
    many = {("inner loop", "warm and fill, step 1"): [Chatter(np.zeros(1), 6.0)]}
    assert gated(many, "linear systems").passed is False


def judged(worst: float, nominal: float, random: float) -> Judged:
    one = np.ones(2)
    return Judged(
        worst * one,
        nominal * one,
        random + np.array([[-1.0, 0.0, 1.0]] * 2),
        np.array([[50.0, 40.0]] * 2),
    )


def test_worth_by_hand() -> None:
    name = "worth 10-6-3"
    results = {
        (name, "robust"): [judged(50, 42, 45)],
        (name, "non-robust"): [judged(55, 40, 45), judged(60, 40, 50)],
    }
    results[name, "robust"] *= 2
    claims = {claim.quantity: claim for claim in PAPER.claims(results)}
    assert claims["worst kernel: non-robust policy above the least, %"].value == pytest.approx(15)
    assert claims["the same, greatest of 4"].value == pytest.approx(20)
    assert claims["nominal kernel: robust policy above the least, %"].value == pytest.approx(5)
    assert claims["ambiguity raises the least cost by, %"].value == pytest.approx(25)
    left = claims["worst kernel: robust policy above the least, %, greatest"]
    assert left.value == 0 and left.passed
    share = claims["random kernels under which the robust policy costs less, share"]
    assert share.value == 0.5
    over = claims["greatest cost of a random kernel less that of the worst"]
    assert over.value == -4 and over.passed
    results[name, "robust"] = [judged(50.01, 42, 51)] * 2
    assert gated(results, "less that of the worst").passed is False
    assert gated(results, "robust policy above the least").passed is False


def test_gates_of_the_inventory() -> None:
    rows = np.array(ORACLE["robust, step 0.1"])[:, None] + np.zeros((8, 11))
    plain = np.array(ORACLE["non-robust"])[:, None] + np.zeros((8, 11))
    rest = (np.full(11, 47.0), np.full(11, 16.0), np.full((11, 4), 20.0))
    results = {
        ("inventory", "robust, step 0.1"): [Inventory(rows, *rest)],
        ("inventory", "non-robust"): [Inventory(plain, *rest)],
    }
    claims = [claim for claim in PAPER.claims(results) if claim.gate]
    assert len(claims) == 19 and all(claim.passed for claim in claims)
    results["inventory", "robust, step 0.1"] = [Inventory(rows + 2, *rest)]
    failed = [claim for claim in PAPER.claims(results) if claim.passed is False]
    assert len(failed) == 8 + 1 + 1  # the uniform start, the mean, the saving


def test_gates_of_the_lake() -> None:
    for off, passed in ((5e-4, 6), (2e-3, 0)):
        moved = [value + off for value in SHIFTS["radius 0"]]
        claims = PAPER.claims({("shifted lake", "radius 0"): [moved]})
        assert sum(claim.passed is True for claim in claims) == passed


def test_gates_of_toy_text() -> None:
    values = list(TOY_VALUES["CliffWalking"])
    for toy, failures in (
        (Toy(values, values[2], -100.0), 0),
        (Toy(values, values[2] - 1e-5, -92.8), 2),
        (Toy([value + 2e-5 for value in values], values[2] + 2e-5, -100.0), 4),
    ):
        claims = PAPER.claims({("toy text", "CliffWalking"): [toy]})
        assert sum(claim.passed is False for claim in claims) == failures


def test_arms_see_the_same_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: dict[int, set[int]] = {}
    entry = drpg_claims.EXPERIMENTS["garnet 5-4-3"]
    listening = entry._replace(arms=dict.fromkeys(entry.arms, lambda seed: seed))
    monkeypatch.setitem(drpg_claims.EXPERIMENTS, "garnet 5-4-3", listening)
    for task in PAPER.tasks():
        if task.experiment == "garnet 5-4-3":
            seeds.setdefault(task.repeat, set()).add(run(task, 0, Path("unused")))
    assert len(seeds) == 5 and all(len(found) == 1 for found in seeds.values())
    assert len(set.union(*seeds.values())) == 5


def fake(experiment: str) -> Any:
    if experiment.startswith("garnet"):
        return descent(0.1, 2.0)
    if experiment.startswith("worth"):
        return judged(50, 42, 45)
    rows = np.linspace(70, 46, 88).reshape(8, 11)
    known = {
        "inventory": Inventory(rows, rows[-1], rows[-1], rows[:4].T),
        "inner loop": Chatter(np.array([0.1]), 3.0),
        "toy text": Toy([0.1] * 4, 0.1, 0.1),
        "shifted lake": [0.1] * 6,
    }
    return known[experiment]


def test_pictures_of_what_was_measured(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    results: dict[tuple[str, str], list[Any]] = {}
    for task in PAPER.tasks():
        results.setdefault((task.experiment, task.arm), []).append(fake(task.experiment))
    paths = PAPER.draw(results, tmp_path)
    names = ["convergence.png", "convergence_per_state.png", "inventory.png", "worth.png"]
    assert [path.name for path in paths] == names
    assert all(path.stat().st_size > 10_000 for path in paths)
    alone = {key: value for key, value in results.items() if key[0] == "worth 5-4-3"}
    assert [path.name for path in PAPER.draw(alone, tmp_path)] == ["worth.png"]
    assert PAPER.draw({}, tmp_path) == []
    assert {claim.experiment for claim in PAPER.claims(results)} == set(drpg_claims.EXPERIMENTS)


def test_from_the_command_line(tmp_path: Path) -> None:
    words = ["reproduce", "drpg", "--processes", "1", "--quiet", "--folder", str(tmp_path)]
    assert main([*words, "--only", "shifted"]) == 0
    table = (tmp_path / "results.csv").read_text().splitlines()
    assert len(table) == 13 and all(line.startswith("shifted lake,") for line in table[1:])
