"""What is measured of HASAC: figures by hand, gates that fail for another method, going on."""

import math
import os
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from rlsuite import hasac_claims, hasac_report
from rlsuite.claims import Claim, Task
from rlsuite.cli import main
from rlsuite.config import load_experiment
from rlsuite.envs.matrix_games import PAYOFFS
from rlsuite.errors import UserError
from rlsuite.hasac_claims import (
    CURVES,
    GAMES,
    SCHEDULES,
    Arm,
    Curve,
    Equilibrium,
    Reached,
    anti_coordination,
    equilibrium,
    learning_curve,
    reached,
    sweeps,
    train_in_matrix,
)
from rlsuite.reproduce import PAPERS, measure, reproduce
from rlsuite.run import Run, Stopped

PAPER = PAPERS["hasac"]
UNUSED = Path("unused")


def test_what_is_reached_by_hand() -> None:
    payoff = torch.tensor(PAYOFFS["coordination"])
    first = torch.tensor([[0.75, 0.25], [0.4, 0.6]], dtype=torch.float64).log()
    second = torch.tensor([[0.5, 0.5], [1.0, 0.0]], dtype=torch.float64).log()
    found = reached(payoff, [first, second])
    assert found.optimal == pytest.approx((0.375 + 0.4) / 2)
    assert found.likeliest == 0.5  # of the second start it is (1, 0)
    assert found.payoff == pytest.approx((1.5 + 0.125 + 1.6) / 2)


@pytest.mark.parametrize("game", GAMES)
def test_the_exact_shares_of_greedy_play(game: str) -> None:
    """Best responses by argmax, without the solver; the optimum is kept once it is reached."""
    rng, payoff, n = np.random.default_rng(0), PAYOFFS[game], 40_000
    second = rng.dirichlet(np.ones(3), n)
    for _ in range(4):
        first = best(second @ payoff.T)
        second = best(first @ payoff)
    joint = first[:, :, None] * second[:, None, :]
    found = (joint * (payoff == payoff.max())).sum((1, 2))
    share = hasac_report.GREEDY[game]
    assert found.mean() == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / n))


def best(values: np.ndarray) -> np.ndarray:
    """(n, X) policies of the best responses, ties at random."""
    is_best = values == values.max(1, keepdims=True)
    return is_best / is_best.sum(1, keepdims=True)


def gated(experiment: str, repeats: int) -> list[Claim]:
    tasks = [t for t in PAPER.tasks() if t.experiment == experiment and t.repeat < repeats]
    claims = PAPER.claims(measure(PAPER, tasks, 0, UNUSED))
    return [claim for claim in claims if claim.gate]


GREEDY, MILD = SCHEDULES["greedy"], SCHEDULES["annealed from 20"]
# Experiment, arm, and what it must not be mistaken for.
CASES = [
    ("matrix mne", "annealed from 20", partial(sweeps, game="mne", schedule=GREEDY)),
    ("matrix penalty", "annealed from 50", partial(sweeps, game="penalty", schedule=GREEDY)),
    ("matrix climbing", "annealed from 20", partial(sweeps, game="climbing", schedule=GREEDY)),
    ("matrix nonmono", "annealed from 200", partial(sweeps, game="nonmono", schedule=GREEDY)),
    ("matrix mne", "greedy", partial(sweeps, game="mne", schedule=MILD)),
    ("matrix climbing", "greedy", partial(sweeps, game="climbing", schedule=MILD)),
    ("matrix order", "sequential", partial(anti_coordination, at_once=True)),
    ("matrix order", "simultaneous", partial(anti_coordination, at_once=False)),
    (
        "matrix equilibria",
        "climbing, temperature 2",
        partial(equilibrium, game="climbing", temperature=2.01),
    ),
    (
        "matrix equilibria",
        "mne, temperature 40",
        partial(equilibrium, game="mne", temperature=40.0, sweeps=3),
    ),
]


@pytest.mark.parametrize(("experiment", "arm", "other"), CASES)
def test_gates_tell_the_method_from_another(
    monkeypatch: pytest.MonkeyPatch, experiment: str, arm: str, other: object
) -> None:
    claims = gated(experiment, 1)
    assert any(claim.quantity.startswith(arm) for claim in claims)
    assert all(claim.passed for claim in claims), [claim.cells() for claim in claims]
    arms = {**hasac_claims.EXPERIMENTS[experiment].arms, arm: other}
    broken = hasac_claims.EXPERIMENTS[experiment]._replace(arms=arms)
    monkeypatch.setitem(hasac_claims.EXPERIMENTS, experiment, broken)
    failed = [claim.quantity for claim in gated(experiment, 1) if not claim.passed]
    assert failed
    assert all(quantity.startswith(arm) for quantity in failed)


PURE = {i: [float(j == i) for j in range(3)] for i in range(3)}


def test_gates_of_what_networks_learn() -> None:
    good, bad = [PURE[2], PURE[2]], [PURE[1], PURE[1]]
    results = {("matrix mne, deep", "annealed"): [good] * 9 + [bad]}
    claim = next(claim for claim in PAPER.claims(results) if claim.gate)
    assert (claim.value, claim.passed) == (9, True)
    results = {("matrix mne, deep", "annealed"): [good] * 8 + [bad] * 2}
    assert next(claim for claim in PAPER.claims(results) if claim.gate).passed is False
    top = [PURE[0], PURE[0]]
    results = {("matrix climbing, deep", "annealed"): [bad] * 9 + [top]}
    assert next(claim for claim in PAPER.claims(results) if claim.gate).passed
    results = {("matrix climbing, deep", "annealed"): [bad] * 8 + [top] * 2}
    assert next(claim for claim in PAPER.claims(results) if claim.gate).passed is False

    arm = "coordination, temperature 1"
    (exact,) = measure(PAPER, [Task("matrix equilibria", arm, 0)], 0, UNUSED).values()
    near = [
        [p + shift for p, shift in zip(row, (-0.04, 0.04), strict=True)]
        for row in exact[0].policies
    ]
    for policies, distance, passed in ((near, 0.04, True), ([[0.9, 0.1]] * 2, 0.0802, False)):
        results = {("matrix equilibria, deep", arm): [exact[0].policies, policies]}
        claim, close = PAPER.claims(results)
        assert claim.value == pytest.approx(distance, abs=1e-4)
        assert claim.passed is passed
        assert (close.value, close.gate) == (1 + passed, None)


def test_any_equilibrium_will_do() -> None:
    """At temperature 2 climbing has one near each of its best joint actions, 11 and 7; from uniform
    policies exact responses come to the second."""
    uniform, first, second, _ = hasac_claims.equilibria("climbing", 2.0)
    for rest in (uniform, first, second):
        assert rest.residual < 1e-12
    assert (
        first.policies[0][0] > 0.99
        and hasac_report._distance(second.policies, uniform.policies) < 1e-9
    )
    name = ("matrix equilibria, deep", "climbing, temperature 2")
    claim, close = PAPER.claims({name: [uniform.policies, first.policies]})
    assert claim.passed and close.value == 1
    between = np.mean([uniform.policies, first.policies], axis=0).tolist()
    claim, close = PAPER.claims({name: [uniform.policies, between]})
    assert not claim.passed


@pytest.mark.learning
def test_deep_hasac_follows_the_exact_solver() -> None:
    """Without entropy it plays the safe 2 of penalty; annealed it finds 10, from the same start."""
    annealed = hasac_report._reached("penalty", train_in_matrix(0, game="penalty"))
    greedy = train_in_matrix(0, game="penalty", temperature=hasac_claims.COLD)
    assert annealed.payoff > 9.5
    assert hasac_report._reached("penalty", greedy).payoff < 2.5
    exact = equilibrium(0, game="coordination", temperature=2.0).policies
    learned = train_in_matrix(0, game="coordination", temperature=2.0)
    assert hasac_report._distance(learned, exact) < 0.05


TINY = {
    "agent.hidden": "[8]",
    "plan.total_transitions": "1_000",
    "plan.warmup_transitions": "500",
    "run.evaluate_every_transitions": "500",
    "run.evaluation_episodes": "2",
}


def test_a_learning_curve_goes_on_where_it_stopped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    arm = Arm("hasac/spread", TINY)
    whole = learning_curve(3, tmp_path / "whole", arm=arm)
    assert whole.transitions == [500, 1_000]
    assert len(set(whole.returns)) == 2

    advance = Run.advance

    def stop(run: Run, n: int, episodes: list) -> None:
        advance(run, n, episodes)
        if run.transitions == 700:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "advance", stop)
        with pytest.raises(Stopped):
            learning_curve(3, tmp_path / "cut", arm=arm)
    lines = (tmp_path / "cut" / "metrics.csv").read_text()
    assert learning_curve(3, tmp_path / "cut", arm=arm) == whole
    after = (tmp_path / "cut" / "metrics.csv").read_text()
    assert after.startswith(lines) and len(after) > len(lines)
    assert learning_curve(3, tmp_path / "cut", arm=arm) == whole  # finished: nothing to do
    assert (tmp_path / "cut" / "metrics.csv").read_text() == after

    with pytest.raises(UserError, match="holds a run of other settings"):
        learning_curve(4, tmp_path / "cut", arm=arm)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, (_, arms) in CURVES.items():
        small = {key: Arm(arm.config, {**arm.overrides, **TINY}) for key, arm in arms.items()}
        monkeypatch.setitem(CURVES, name, (1, small))


@pytest.mark.usefixtures("tiny")
def test_every_arm_trains_in_a_folder_of_its_own(tmp_path: Path) -> None:
    result = reproduce("hasac", tmp_path, only="particles", processes=1, quiet=True)
    folders = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert folders == [
        "particles-speaker-listener-continuous-hasac-0",
        "particles-speaker-listener-discrete-hasac-0",
        "particles-spread-discrete-hasac-0",
        "particles-spread-hasac-0",
        "particles-spread-hatd3-0",
        "particles-spread-simultaneous-0",
    ]
    assert {claim.experiment for claim in result.claims} == set(CURVES)
    assert [claim.passed for claim in result.claims if claim.gate] == [False] * 4  # too short


@pytest.mark.usefixtures("tiny")
def test_a_stopped_reproduction_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(seed: int, folder: Path, *, arm: Arm) -> Curve:
        raise Stopped("SIGINT")

    monkeypatch.setattr(hasac_claims, "learning_curve", stop)
    words = ["reproduce", "hasac", "--only", "particles", "--processes", "1", "--quiet"]
    assert main([*words, "--folder", str(tmp_path)]) == 75
    assert capsys.readouterr().err == "stopped; the same command goes on from there\n"


def test_arms_share_their_seeds_and_repeats_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = []
    monkeypatch.setattr(
        hasac_claims, "learning_curve", lambda seed, folder, arm: seeds.append((seed, folder.name))
    )
    tasks = [task for task in PAPER.tasks() if task.experiment == "particles spread"]
    for task in tasks:
        hasac_claims.run(task, 0, UNUSED)
    by_arm = {
        arm: [seed for (seed, _), task in zip(seeds, tasks, strict=True) if task.arm == arm]
        for arm in ("HASAC", "simultaneous", "HATD3")
    }
    assert by_arm["HASAC"] == by_arm["simultaneous"] == by_arm["HATD3"]
    assert len(set(by_arm["HASAC"])) == 5
    assert len({name for _, name in seeds}) == 15


@pytest.mark.parametrize("name", CURVES)
def test_arms_train_and_are_evaluated_alike(name: str) -> None:
    experiments = [
        load_experiment(arm.config, dict(arm.overrides)) for arm in CURVES[name][1].values()
    ]
    for other in experiments[1:]:
        assert other.env == experiments[0].env
        assert other.plan.total_transitions == experiments[0].plan.total_transitions
        assert other.run == experiments[0].run
        assert other != experiments[0]


def test_comparison_of_arms_by_hand() -> None:
    good = [Curve([1000, 2000], [-60.0 - i, -40.0 - i]) for i in range(5)]
    bad = [Curve([1000, 2000], [-50.0 - i, -48.0 - i]) for i in range(5)]
    results = {("particles spread", "HASAC"): good, ("particles spread", "simultaneous"): bad}
    claims = {claim.quantity: claim for claim in PAPER.claims(results)}
    assert claims["HASAC: return after 2k transitions"].value == -42
    assert claims["HASAC: return after 2k transitions"].passed
    assert claims["HASAC: lowest of 5 seeds"].value == -44
    assert claims["simultaneous: return at the end, IQM"].value == -50
    at_end = claims["probability that HASAC beats simultaneous, at the end"]
    assert at_end.interval == (1, 1, 1)
    assert at_end.cells()["measured"] == "1 [1, 1]"
    # Means are -50, -51 ... against -49, -50 ...: 6 wins of 25 and 4 ties.
    over_all = claims["probability that HASAC beats simultaneous, mean of the curve"]
    assert over_all.value == pytest.approx(8 / 25)
    assert over_all.interval is not None
    assert over_all.interval.low < 8 / 25 < over_all.interval.high


def test_pictures_of_what_was_measured(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    fake: dict[str, object] = {
        "order": [0.6, 0.7, 0.9, 1.0],
        "equilibria": Equilibrium([[0.5, 0.5]] * 2, 1.0, 2.0, 0.0, 0.0),
    }
    results: dict[tuple[str, str], list[object]] = {}
    for task in PAPER.tasks():
        kind, _, rest = task.experiment.partition(" ")
        value = fake.get(rest, Reached(0.4, 0.5, 3.0))
        if kind == "particles":
            value = Curve([1000, 2000], [-70.0, -50.0 - task.repeat])
        results.setdefault((task.experiment, task.arm), []).append(value)
    paths = PAPER.draw(results, tmp_path)
    assert [path.name for path in paths] == ["matrix_games.png", "learning_curves.png"]
    assert all(path.stat().st_size > 10_000 for path in paths)
    alone = {key: value for key, value in results.items() if key[0] == "particles spread"}
    assert [path.name for path in PAPER.draw(alone, tmp_path)] == ["learning_curves.png"]
    assert PAPER.draw({}, tmp_path) == []


def test_experiments_are_chosen_by_their_beginning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["reproduce", "hasac", "--processes", "1", "--quiet", "--folder", str(tmp_path)]
    assert main([*words, "--only", "matrix order"]) == 0
    table = (tmp_path / "results.csv").read_text().splitlines()
    assert len(table) == 9
    assert all(line.startswith("matrix order,") for line in table[1:])
    capsys.readouterr()
    assert main([*words, "--only", "spread"]) == 2
    assert "no experiment of hasac begins with 'spread'; there are: part" in capsys.readouterr().err
