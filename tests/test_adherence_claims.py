"""What is measured of advice: figures by hand, gates that fail for another method, pictures."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from rlsuite import adherence_claims, adherence_report, kept
from rlsuite.adherence_claims import (
    BUDGETS,
    EXPERIMENTS,
    GAP_COSTS,
    LEARNERS,
    Learned,
    cliff,
    frontier,
    gaps_by_cost,
    learn,
)
from rlsuite.adherence_report import claims, draw
from rlsuite.agents.advice_learning import AdviceTask
from rlsuite.agents.advice_planning import evaluate, plan
from rlsuite.agents.rfe import RFE
from rlsuite.claims import Claim, Task
from rlsuite.envs.advice_tables import FLAPPY_HORIZON, cliff_panic, flappy
from rlsuite.kept import keep
from rlsuite.reproduce import PAPERS, find_paper, reproduce


def failed(results: Any) -> list[str]:
    found = claims(results)
    assert any(claim.gate for claim in found)
    return [claim.quantity for claim in found if claim.passed is False]


def test_exact_figures_pass_and_others_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert failed({("cliff", "exact"): [cliff(0)]}) == []
    greedy, safe = (frontier(0, human=human) for human in ("greedy", "safe"))  # type: ignore[arg-type]
    assert failed({("flight greedy", "exact"): [greedy]}) == []
    assert failed({("flight safe", "exact"): [safe]}) == []
    assert len(failed({("flight safe", "exact"): [greedy]})) == 7
    assert failed({("flight greedy", "exact"): [greedy._replace(budgets=[1.0, *BUDGETS[1:]])]})
    monkeypatch.setattr(adherence_claims, "cliff_panic", partial(cliff_panic, panic=0.5))
    assert len(failed({("cliff", "exact"): [cliff(0)]})) == 4


def test_maps_hold_the_advice_of_their_stage() -> None:
    found = frontier(0, human="greedy")
    policy = plan(flappy("greedy"), FLAPPY_HORIZON, [0.1]).policy[0, 0]
    assert found.maps[1][4] == policy[4, 28:35].tolist()


def test_learning_is_looked_at_after_the_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adherence_claims, "TAIL", 2)
    setting = {"model": partial(flappy, "safe"), "horizon": FLAPPY_HORIZON, "runs": 2}
    found = learn(3, start=LEARNERS["human alone"], episodes=6, **setting)  # type: ignore[arg-type]
    assert found.marks == [1, 2, 3, 4, 5, 6]
    gap = 2.607562 - 0.498658
    assert found.total[3] == pytest.approx([4 * gap] * 2, abs=1e-5)
    assert found.tail == pytest.approx([gap] * 2, abs=1e-5)
    assert found.by_cost == []
    odd = learn(3, start=LEARNERS["oracle"], episodes=9, **setting)  # type: ignore[arg-type]
    assert odd.marks[-2:] == [8, 9]
    explored = learn(3, start=LEARNERS["RFE-AD"], episodes=3, **setting)  # type: ignore[arg-type]
    assert torch.tensor(explored.by_cost).shape == (3, len(GAP_COSTS), 2)
    oracle = learn(3, start=LEARNERS["oracle"], episodes=2, **setting)  # type: ignore[arg-type]
    assert oracle.total[-1] == pytest.approx([0, 0], abs=1e-9)


def test_gaps_are_those_of_the_plans_in_the_truth() -> None:
    task = AdviceTask(flappy("safe"), FLAPPY_HORIZON, runs=2)
    advisor = RFE(task)
    found = gaps_by_cost(task, advisor)  # of nothing seen: the plan defers
    for cost, gaps in zip(GAP_COSTS, found, strict=True):
        best = float(task.model.start(plan(task.model, FLAPPY_HORIZON, cost).value))
        policy = advisor.plan([cost]).policy
        reached = evaluate(task.model, policy)
        net = task.model.start(reached.gross - cost * reached.advices)[:, 0]
        assert gaps == pytest.approx((best - net).tolist(), abs=1e-9)


def made_up(total: float, gap: float, gross: float = 3.0, advices: float = 3.0) -> Learned:
    marks = [mark for mark in adherence_claims.MARKS if mark <= 5000]
    rows = {
        name: [[value * mark / 5000 if name == "total" else value] * 2 for mark in marks]
        for name, value in (("total", total), ("gap", gap), ("gross", gross), ("adv", advices))
    }
    by_cost = [[[gap] * 2] * len(GAP_COSTS) for _ in marks]
    return Learned(
        marks, rows["total"], rows["gap"], rows["gross"], rows["adv"], [gap] * 30, by_cost
    )


@pytest.mark.parametrize(
    ("experiment", "arm", "good", "bad"),
    [
        ("regret greedy", "UCB-AD", made_up(259, 0.049), made_up(261, 0.051)),
        ("regret safe", "RFE-AD", made_up(9, 0.149), made_up(9, 0.151)),
        ("budget greedy", "RFE-CMDP", made_up(9, 0, 2.96, 3.09), made_up(9, 0, 2.94, 3.11)),
        ("drive env3", "UCB-AD, c = 0.1", made_up(9, 0.019), made_up(9, 0.021)),
    ],
)
def test_gates_of_learning(experiment: str, arm: str, good: Learned, bad: Learned) -> None:
    assert arm in EXPERIMENTS[experiment]
    assert failed({(experiment, arm): [good]}) == []
    gated = [claim for claim in claims({(experiment, arm): [good]}) if claim.gate]
    assert len(failed({(experiment, arm): [bad]})) == len(gated)


def test_linear_regret_fails_and_the_best_constant_is_taken() -> None:
    (name,) = failed({("adherence safe", "theta 0.5"): [made_up(100, 0.1)]})
    assert "over that after half" in name
    (total,) = claims({("adherence safe", "theta 1.0"): [made_up(0, 0)]})
    assert total.value == 0
    rivals = {"UCBVI, c = 0.02": 500, "UCBVI, c = 0.005": 301, "UCBVI, c = 0.001": 400}
    results = {("regret safe", arm): [made_up(total, 0)] for arm, total in rivals.items()}
    results["regret safe", "UCB-AD"] = [made_up(100, 0)]
    (claim,) = [claim for claim in claims(results) if "the best c" in claim.quantity]
    assert isinstance(claim, Claim) and "c = 0.005" in claim.quantity
    assert claim.value == pytest.approx(3.01) and claim.passed


def test_pictures(tmp_path: Path) -> None:
    learned = made_up(10, 0.1)
    results: dict[tuple[str, str], list[Any]] = {
        ("cliff", "exact"): [cliff(0)],
        ("flight greedy", "exact"): [frontier(0, human="greedy")],
        ("regret greedy", "RFE-AD"): [learned],
        ("regret safe", "UCB-AD"): [learned],
        ("adherence greedy", "theta 0.5"): [learned],
        ("budget greedy", "RFE-CMDP"): [learned],
    }
    names = ["adherence", "frontier", "map", "regret", "regret_by_adherence"]
    names += ["gap_by_cost", "budget"]
    paths = draw(results, tmp_path)
    assert [path.name for path in paths] == [f"{name}.png" for name in names]
    assert all(path.stat().st_size > 10_000 for path in paths)
    assert draw({}, tmp_path) == []


def test_the_paper_is_found(tmp_path: Path) -> None:
    paper = find_paper("adherence")
    assert paper is PAPERS["adherence"] and paper.claims is adherence_report.claims
    tasks = paper.tasks()
    assert len(tasks) == len(set(tasks)) == sum(len(arms) for arms in EXPERIMENTS.values())
    found = paper.run(Task("flight safe", "exact", 0), 0, tmp_path)
    assert found.net[0] == pytest.approx(2.607562, abs=1e-6)


def test_an_interrupted_reproduction_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two parts the second fails: given again, it alone is measured; with another seed both."""
    measured: list[str] = []

    def arm(seed: int, *, name: str) -> Learned:
        measured.append(name)
        if fails and name == "theta 0.5":
            raise KeyboardInterrupt
        return made_up(seed % 97 + 0.1, 0.1)

    names = ("theta 0.25", "theta 0.5")
    arms = {name: partial(arm, name=name) for name in names}
    monkeypatch.setattr(adherence_claims, "EXPERIMENTS", {"adherence safe": arms})
    fails = True
    with pytest.raises(KeyboardInterrupt):
        reproduce("adherence", tmp_path, processes=1, quiet=True)
    fails = False
    again = reproduce("adherence", tmp_path, processes=1, quiet=True)
    assert measured == [*names, "theta 0.5"]
    fresh = reproduce("adherence", tmp_path / "fresh", processes=1, quiet=True)
    assert fresh.claims == again.claims
    reproduce("adherence", tmp_path, seed=1, processes=1, quiet=True)
    assert measured[3:] == [*names, *names]


def test_what_other_code_has_measured_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert keep(tmp_path, "a, b = 1", 0, lambda: {"x": (0.1, 1e300)}) == {"x": [0.1, 1e300]}
    assert keep(tmp_path, "a, b = 1", 0, lambda: 1) == {"x": [0.1, 1e300]}
    assert [path.name for path in tmp_path.iterdir()] == ["a-b-1.json"]
    assert keep(tmp_path, "a, b: 1", 0, lambda: 2) == 2  # of the same file name
    monkeypatch.setattr(kept, "_versions", lambda: {"source": "another"})
    assert keep(tmp_path, "a, b: 1", 0, lambda: 3) == 3


def test_every_file_of_the_source_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders behind links too."""
    elsewhere = tmp_path / "agents"
    package = tmp_path / "rlsuite"
    elsewhere.mkdir(), package.mkdir()
    (package / "agents").symlink_to(elsewhere)
    (package / "__init__.py").touch()
    monkeypatch.setattr(kept.rlsuite, "__file__", str(package / "__init__.py"))
    seen = set()
    for file in (package / "a.py", elsewhere / "b.py"):
        for text in ("1", "2"):
            file.write_text(text)
            kept._versions.cache_clear()
            seen.add(kept._versions()["source"])
    kept._versions.cache_clear()
    assert len(seen) == 4
