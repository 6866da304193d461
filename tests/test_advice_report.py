"""What is reported of an advisor, by hand on a line of ten steps."""

import json
import math
from dataclasses import astuple
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from test_advice_env import Line, advice, envs
from torch import Tensor

from rlsuite.advice_report import Score, Silent, compare, find_oracle, measure, report, table
from rlsuite.agents.advice_planning import blind, evaluate, plan, silence
from rlsuite.build import build_evaluation, train
from rlsuite.cli import main
from rlsuite.config import Experiment, build_experiment, load_experiment
from rlsuite.envs import AdviceVectorEnv, SerialVectorEnv
from rlsuite.envs.adherence import Fatigue
from rlsuite.envs.advice_games import flappy_human
from rlsuite.envs.advice_tables import FLAPPY_HORIZON, ROWS, flappy
from rlsuite.envs.humans import Human, LaggedHuman, ScriptedHuman
from rlsuite.envs.people import People
from rlsuite.errors import UserError

ZERO = ScriptedHuman(lambda obs: advice(*[0] * len(obs)), 3)


class Speaks:
    """Advises action 2 in the first four steps; thinks that it is done with probability 0.75."""

    def act(self, obs: Any, *, explore: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
        assert not explore
        return torch.where(obs[:, 1] < 4, 2, 3), {}

    def believe(self, obs: Any) -> tuple[Tensor, Tensor]:
        return torch.full((len(obs), 3), 1 / 3), torch.full((len(obs), 3), 0.75)


def test_every_figure_by_hand() -> None:
    """Always followed, 4 of 10 steps pay 2: 8, less 4 * 0.25. The human alone earns nothing."""
    people = envs(ZERO, 1.0, cost=0.25)
    score = measure(Speaks(), people, episodes=7, seed=3)
    nan = float("nan")
    hand = Score(8, 7, 8, 4, 0.4, 1, 2, 1, 0.0625, nan)
    assert astuple(score) == pytest.approx(astuple(hand), nan_ok=True)
    ignored = measure(Speaks(), envs(ZERO, 0.0, cost=0.25), episodes=7)
    hand = Score(0, -1, 0, 4, 0.4, 0, 0, 1, 0.5625, nan)
    assert astuple(ignored) == pytest.approx(astuple(hand), nan_ok=True)
    needless = measure(Speaks(), envs(ScriptedHuman(lambda o: advice(2, 2, 2), 3), 1.0))
    assert (needless.gross, needless.gain, needless.needed) == (20, 0, 0)
    silent = measure(Silent(people), people)
    assert (silent.gross, silent.net, silent.gain, silent.advices) == (0, 0, 0, 0)
    assert math.isnan(silent.matched) and math.isnan(silent.needed) and math.isnan(silent.brier)
    lines = table({"human": [silent], "speaks": [score, ignored]}).splitlines()
    assert lines[1].split() == ["human", "1", "0", "0", "0", "0", "0", *"-----"]
    assert lines[2].split()[:6] == ["speaks", "2", "4", "3", "(-1", "to"]


def test_the_same_luck_for_all() -> None:
    """Half the advice is followed: twice the same figures, other ones for another seed."""
    people = envs(adherence=0.5)
    found = [measure(Speaks(), people, episodes=9, seed=seed).gross for seed in (0, 0, 5)]
    assert found[0] == found[1] != found[2]
    assert people.spec.action_space.n == Line.action_space.n + 1


class Uneven(Line):
    """Ends after 5 steps in state 1."""

    def step(self, action: int) -> Any:
        obs, reward, over, truncated, info = super().step(action)
        return obs, reward, over or self.steps == 5 * (2 - self.state), truncated, info


def test_what_follows_the_episodes_does_not_count() -> None:
    people = AdviceVectorEnv(SerialVectorEnv(Uneven, 6), ZERO, 1.0)
    states = people.reset(4)[:, 0]
    assert set(states.tolist()) == {0, 1}
    score = measure(Speaks(), people, episodes=6, seed=4)
    assert (score.advices, score.gross) == (4, 8)
    assert score.rate == pytest.approx(4 * 6 / float((10 - 5 * states).sum()))


class Plays:
    """A policy (H, S) of the flight or the drive, where the state says what stage it is."""

    def __init__(self, policy: Tensor, width: int, state: Any) -> None:
        self.policy, self.width, self.state = policy, width, state

    def act(self, obs: Any, *, explore: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
        state = self.state(obs)
        return self.policy[(state // self.width).clamp(max=len(self.policy) - 1), state], {}


FLIGHT = {
    "id": "rlsuite.envs.advice_games:FlappyAdvice-v0",
    "kwargs": {"obs": "grid"},
    "num_envs": 4,
}
FLIERS = {
    "human": "rlsuite.envs.advice_games:flappy_human",
    "adherence": "rlsuite.envs.advice_games:flappy_adherence",
    "cost": 0.1,
}


def flight(**env: Any) -> tuple[Experiment, AdviceVectorEnv]:
    data = {"algorithm": "aadqn", "env": FLIGHT | env, "advice": FLIERS}
    experiment = build_experiment("flight", data)
    made = build_evaluation(experiment, None)
    assert isinstance(made, AdviceVectorEnv)
    return experiment, made


def test_regret_is_exact_where_there_are_tables() -> None:
    """0 for the oracle; for others that of exact evaluation, which what is measured comes near."""
    experiment, people = flight()
    oracle = find_oracle(experiment, people.people)
    assert oracle is not None
    model, horizon = flappy("greedy"), FLAPPY_HORIZON
    best = float(model.start(plan(model, horizon, 0.1).value))
    assert oracle.optimum == pytest.approx(best)
    state = flappy_human().state
    for policy in (plan(model, horizon, 0.1).policy, blind(model, horizon)):
        reached = evaluate(model, policy)
        net = float(model.start(reached.gross) - 0.1 * model.start(reached.advices))
        agent = Plays(policy[0, 0], ROWS, state)
        score = measure(agent, people, episodes=400, oracle=oracle)
        assert score.regret == pytest.approx(best - net)
        assert score.net == pytest.approx(net, abs=0.2)
    alone = float(model.start(evaluate(model, silence(model, horizon)).gross))
    assert oracle.regret(Silent(people)) == pytest.approx(best - alone)


def test_the_oracle_keeps_the_time_limit() -> None:
    """Eight of the nineteen steps."""
    experiment, people = flight(time_limit=8)
    oracle = find_oracle(experiment, people.people)
    assert oracle is not None and oracle.horizon == 8
    model = flappy("greedy")
    best = [float(model.start(plan(model, h, 0.1).value)) for h in (8, FLAPPY_HORIZON)]
    assert best[0] < best[1] - 0.5
    assert oracle.optimum == pytest.approx(best[0])
    alone = float(model.start(evaluate(model, silence(model, 8)).gross))
    assert oracle.regret(Silent(people)) == pytest.approx(best[0] - alone)


@pytest.mark.parametrize(
    ("human", "adherence", "budget"),
    [
        (flappy_human(), 0.5, 3),
        (flappy_human(), Fatigue(0.8, 0.5, 3), None),
        (LaggedHuman(flappy_human(), 2), 0.5, None),
    ],
    ids=["budget", "fatigue", "lag"],
)
def test_no_oracle_of_people_with_a_memory(human: Human, adherence: Any, budget: Any) -> None:
    space = gym.spaces.Discrete(3)
    assert find_oracle(flight()[0], People(space, human, adherence, budget=budget)) is None
    markov = People(space, flappy_human(), 0.5)
    assert find_oracle(flight()[0], markov) is not None
    assert find_oracle(load_experiment("aadqn/cartpole"), markov) is None


def test_a_report_of_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By itself and by ``rlsuite evaluate``, which has the evaluation of each run before it."""
    for name, cost in (("a", "0.2"), ("b", "0.2"), ("c", "0.2"), ("other", "0.3")):
        short = {"plan.total_transitions": "400", "plan.warmup_transitions": "350"}
        short |= {"run.seed": str(len(name)), "advice.cost": cost, "env.num_envs": "4"}
        short |= {"agent.hidden": "[8]"} if name == "c" else {}
        train(load_experiment("aadqn/cartpole", short), tmp_path / name, quiet=True)
    lines = report([tmp_path / name for name in "abc"], episodes=4).splitlines()
    assert [line.split()[0] for line in lines] == [
        *("seeds", "human", "aadqn"),
        str(tmp_path / "c"),
    ]
    assert lines[2].split()[2] == "2"
    with pytest.raises(UserError, match="other people"):
        report([tmp_path / "a", tmp_path / "other"], episodes=4)
    dqn = load_experiment("dqn/cartpole", {"plan.total_transitions": "600"})
    train(dqn, tmp_path / "dqn", quiet=True)
    assert report([tmp_path / "dqn"]) == ""
    with pytest.raises(UserError, match="dqn has no section advice"):
        report([tmp_path / "a", tmp_path / "dqn"])

    def printed(*names: str, code: int = 0) -> list[str]:
        words = [str(tmp_path / name) if name in "abc" or name == "dqn" else name for name in names]
        assert main(["evaluate", *words, "--episodes", "4"]) == code
        found = capsys.readouterr()
        return (found.err if code else found.out).splitlines()

    one, plain = printed("a"), printed("dqn")
    assert one[0] == plain[0].replace("600", "400") == "after 400 transitions"
    assert one[len(plain) :] == ["", *report([tmp_path / "a"], episodes=4).splitlines()]
    several = printed("a", "b", "c")
    assert several[0] == f"{tmp_path / 'a'}, {one[0]}"
    assert several[1 : len(plain)] == one[1 : len(plain)]
    assert several[3 * len(plain) :] == ["", *lines]
    two = printed("dqn", "dqn")
    assert two == [f"{tmp_path / 'dqn'}, {plain[0]}", *plain[1:]] * 2
    *episodes, advisors = (json.loads(line) for line in printed("a", "b", "--json"))
    assert [len(episode["returns"]) for episode in episodes] == [4, 4]
    found = compare([tmp_path / name for name in "ab"], episodes=4)
    assert list(advisors["advisors"]) == list(found)
    for name, seeds in found.items():
        told = advisors["advisors"][name]
        assert [score["net"] for score in told] == [score.net for score in seeds]
        assert all(score["regret"] is None for score in told)  # there are no tables
        assert [score.gain for score in seeds] == [s.gross - found["human"][0].gross for s in seeds]
    assert [len(json.loads(line)["returns"]) for line in printed("dqn", "--json")] == [4]
    assert "no section advice" in printed("a", "dqn", code=2)[0]
    assert printed("a", "b", "--perturb", "mass=1", code=2) == [
        "error: --perturb is for one run, not 2"
    ]
