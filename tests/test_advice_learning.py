"""Learning of advice: the world draws from its tables, regret is exact, runs resume bit for bit."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from advice_cases import ADVISORS, random_model, study
from test_advice import one_step
from torch import Tensor
from torch.testing import assert_close

from rlsuite.advice import AdviceModel
from rlsuite.agents.advice_learning import (
    METRICS,
    AdviceLearning,
    AdviceTask,
    Decision,
    Episodes,
    FixedAdvice,
    Mixture,
    Replanning,
    World,
    pure,
)
from rlsuite.agents.advice_planning import evaluate, plan, silence
from rlsuite.checkpoint import CheckpointStore
from rlsuite.errors import UserError
from rlsuite.loops import SolvePlan, solve_loop
from rlsuite.rng import generator
from rlsuite.run import Run, RunConfig, Stopped

H = 4


def tree_equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(tree_equal(one[k], other[k]) for k in one)
    return torch.equal(one, other) if isinstance(one, Tensor) else bool(one == other)


@pytest.mark.parametrize("contrarian", [False, True])
def test_episodes_are_drawn_from_the_tables(contrarian: bool) -> None:
    """Frequencies of actions and successors against the joint tables and the kernel."""
    model, runs = random_model(1, instances=1), 40_000
    if contrarian:
        repels = -0.9 * model.human / (1 - model.human)
        model = replace(model, adherence=repels, contrarian=True)
    policy = torch.randint(0, 4, (runs, 2, 5), generator=generator(0, "policy"))
    seen = World(model, runs).play(policy, generator(0, "draws"))
    assert (seen.state[:, 0] == 0).all()
    assert torch.equal(seen.advice[:, 1], policy[torch.arange(runs), 1, seen.state[:, 1]])
    state, advice, action = seen.state[:, 1], seen.advice[:, 1], seen.action[:, 1]
    assert torch.equal(seen.reward[:, 1], model.reward[0, state, action])
    joint, kernel = model.joint()[0], dense(model)[0]
    for s in range(5):
        for m in range(4):
            found = action[(state == s) & (advice == m)]
            shares = torch.bincount(found, minlength=3) / len(found)
            assert_close(shares.double(), joint[s, m], rtol=0, atol=4 * (0.25 / len(found)) ** 0.5)
        for a in range(3):
            found = seen.state[:, 2][(state == s) & (action == a)]
            shares = torch.bincount(found, minlength=5) / len(found)
            assert_close(shares.double(), kernel[s, a], rtol=0, atol=4 * (0.25 / len(found)) ** 0.5)


def dense(model: AdviceModel) -> Tensor:
    """(N, S, X, S) kernel."""
    wide = model.probability.new_zeros((*model.probability.shape[:3], model.states))
    return wide.scatter_add(3, model.successor, model.probability)


def test_each_run_has_its_own_instance_and_luck() -> None:
    model = random_model(2, instances=30)
    policy = torch.full((30, 6, 5), 3)
    together = World(model, 30).play(policy, generator(1, "draws"))
    tables = (model.probability, model.human)
    swapped = replace(model, probability=tables[0].flip(0), human=tables[1].flip(0))
    other = World(swapped, 30).play(policy, generator(1, "draws"))
    assert not torch.equal(together.action, other.action)
    assert len({tuple(row) for row in together.state.tolist()}) > 15
    assert torch.equal(
        together.reward[7], model.reward[7, together.state[7, :-1], together.action[7]]
    )


class Scripted:
    """An advisor that decides what it is told, and remembers what it saw."""

    def __init__(self, decisions: list[Decision]) -> None:
        self.decisions, self.seen = decisions, list[Episodes]()

    def decide(self) -> Decision:
        return self.decisions.pop(0)

    def learn(self, episodes: Episodes) -> None:
        self.seen.append(episodes)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def test_regret_is_that_of_the_deployed_policies_in_the_true_tables() -> None:
    """By hand: deferring earns 0.2, advising action 1 earns 0.6; a mixture earns the mean."""
    task = AdviceTask(one_step(), 1, cost=0.1, runs=3)
    silent, speaks = torch.full((3, 1, 1), 2), torch.full((3, 1, 1), 1)
    both = torch.stack([silent, speaks], 1)
    weight = torch.tensor([[1, 0], [0, 1], [0.25, 0.75]], dtype=torch.float64)
    value = torch.zeros(3, dtype=torch.float64)
    decisions = [
        Decision(pure(silent), Mixture(both, weight), value),
        Decision(pure(speaks), pure(speaks), value),
    ]
    advisor = Scripted(decisions)
    learning = AdviceLearning(task, advisor, replanning=Replanning(dense=0, every=2))
    assert learning.optimum.tolist() == pytest.approx([0.5])
    learning.iterate()
    assert learning.gap.tolist() == pytest.approx([0.3, 0, 0.075])
    assert learning.gross.tolist() == pytest.approx([0.2, 0.6, 0.5])
    assert learning.advices.tolist() == pytest.approx([0, 1, 0.75])
    learning.iterate()
    metrics = learning.iterate()
    assert learning.total.tolist() == pytest.approx([0.6, 0, 0.15])
    assert float(metrics["regret/gap"]) == pytest.approx(0)
    assert float(metrics["regret/total"]) == pytest.approx(0.25)
    assert [int(seen.advice[0, 0]) for seen in advisor.seen] == [2, 2, 1]


def test_one_policy_of_a_mixture_is_drawn_per_episode_and_run() -> None:
    runs = 4000
    task = AdviceTask(random_model(3, 1), H, runs=runs)
    both = torch.stack([torch.zeros(runs, H, 5), torch.full((runs, H, 5), 3)], 1).long()
    weight = torch.tensor([[0.3, 0.7]], dtype=torch.float64).expand(runs, -1)
    mixture = Mixture(both, weight)
    advisor = Scripted([Decision(mixture, mixture, weight[:, 0])])
    AdviceLearning(task, advisor).iterate()
    advice = advisor.seen[0].advice
    assert (advice == advice[:, :1]).all()
    assert float((advice[:, 0] == 0).double().mean()) == pytest.approx(0.3, abs=0.03)


def test_a_budget_is_measured_against_its_own_optimum() -> None:
    model = random_model(4, 1)
    task = AdviceTask(model, H, budget=0.0)
    human = FixedAdvice(task, silence(model, H))
    assert float(AdviceLearning(task, human).gap) == pytest.approx(0, abs=1e-9)
    free = AdviceTask(model, H)
    oracle = AdviceLearning(free, FixedAdvice(free, plan(model, H).policy))
    assert float(oracle.gap) == pytest.approx(0, abs=1e-12)
    assert float(AdviceLearning(free, FixedAdvice(free, silence(model, H))).gap) > 0.05


def test_when_to_decide() -> None:
    due = Replanning(dense=3, every=4).due
    assert [k for k in range(13) if due(k)] == [0, 1, 2, 3, 7, 11]


@pytest.mark.parametrize("name", ADVISORS)
def test_advisors_know_only_what_they_may(name: str) -> None:
    """The same episodes in another world lead to the same advice, and the world is not changed.

    UCB-AD is given all but the adherence, the others nothing but the first state.
    """
    first = study(name, random_model(5, 2))
    other = random_model(6, 2)
    if name == "ucb_ad":
        other = first.task.model.with_adherence(other.adherence)
    second = study(name, other)
    gen = generator(3, "draws")
    for _ in range(6):
        one, two = first.advisor.decide(), second.advisor.decide()
        assert torch.equal(one.play.policies, two.play.policies)
        assert torch.equal(one.value, two.value)
        seen = first.world.play(one.play.policies[:, 0], gen)
        first.advisor.learn(seen)
        second.advisor.learn(seen)


@pytest.mark.parametrize("name", ADVISORS)
def test_runs_side_by_side_are_as_alone(name: str) -> None:
    """What one run sees does not change what another does; ties that are drawn are left out."""
    model = random_model(7, 2)
    pair, single = study(name, model), study(name, random_model(7, 2), only=1)
    gen = generator(4, "draws")
    for _ in range(5):
        seen = pair.world.play(torch.randint(0, 4, (2, H, 5), generator=gen), gen)
        pair.advisor.learn(seen)
        single.advisor.learn(Episodes(*(x[1:] for x in seen)))
    one, two = pair.advisor.decide(), single.advisor.decide()
    assert_close(one.value[1:], two.value, rtol=0, atol=1e-12)


class Interrupted:
    """A study that dies or is stopped when an episode begins."""

    def __init__(self, name: str, at: int | None, event: str) -> None:
        self.inner, self.at, self.event = study(name, random_model(8, 2)), at, event
        self.state_dict = self.inner.state_dict
        self.load_state_dict = self.inner.load_state_dict

    def iterate(self) -> dict[str, Tensor]:
        metrics = self.inner.iterate()
        if self.inner.episode == self.at:
            if self.event == "crash":
                raise RuntimeError("power cut")
            os.kill(os.getpid(), signal.SIGTERM)
        return metrics


def solve(name: str, folder: Path, at: int | None = None, event: str = "") -> None:
    folder.mkdir(exist_ok=True)
    solver, length = Interrupted(name, at, event), SolvePlan(total_iterations=17)
    config = RunConfig(log_every_transitions=3, checkpoint_every_transitions=5)
    with Run(folder, config, length.total_iterations, METRICS, None, quiet=True) as run:
        solve_loop(solver, length, run)


def outcome(folder: Path) -> tuple[list[list[str]], Any]:
    rows = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    timeless = [i for i, name in enumerate(rows[0]) if not name.startswith("time/")]
    state = CheckpointStore(folder / "checkpoints").load()
    assert state is not None
    return [[row[i] for i in timeless] for row in rows], state["solver"]


@pytest.mark.parametrize("name", ADVISORS)
def test_stopped_and_crashed_runs_end_like_an_uninterrupted_one(name: str, tmp_path: Path) -> None:
    solve(name, tmp_path / "whole")
    rows, state = outcome(tmp_path / "whole")
    assert set(METRICS) <= set(rows[0])
    with pytest.raises(Stopped, match="SIGTERM"):
        solve(name, tmp_path / "cut", 7)
    with pytest.raises(RuntimeError, match="power cut"):
        solve(name, tmp_path / "cut", 13, "crash")
    solve(name, tmp_path / "cut")
    again, other = outcome(tmp_path / "cut")
    assert again == rows
    assert tree_equal(state, other)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"runs": 0}, "there are 0 runs"),
        ({"runs": 3}, "there are 3 runs of 2 instances; needs 1 or 2"),
        ({"budget": 1.0, "cost": 0.1}, "advice has a budget and costs 0.1"),
    ],
)
def test_bad_tasks_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        AdviceTask(random_model(9, 2), H, **wrong)
    with pytest.raises(UserError, match="learning needs float64"):
        AdviceTask(random_model(9, 2).to("cpu", torch.float32), H)


def test_gap_agrees_with_planning_in_the_induced_mdp() -> None:
    model = random_model(10, 3)
    task = AdviceTask(model, H, cost=0.05)
    learning = study("ucb_ad", model, cost=0.05)
    learning.iterate()
    policy = learning.decision.deploy.policies
    kernel, reward = model.induced(0.05)
    v = torch.zeros(3, 5, dtype=torch.float64)
    for h in reversed(range(H)):
        n, s = torch.arange(3)[:, None], torch.arange(5)[None]
        m = policy[:, 0, h]
        v = reward[n, s, m] + (kernel[n, s, m] * v[:, None]).sum(2)
    best = plan(model, H, 0.05).value[:, 0, 0]
    assert_close(learning.gap, best - v[:, 0], rtol=0, atol=1e-12)
    assert_close(task.optimum(), best)
    assert evaluate(model, policy).gross.shape == (3, 1, 5)
