"""UCB-AD: intervals by hand, optimism in every episode, regret that flattens."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from advice_cases import random_model, see
from test_advice import one_step
from torch.testing import assert_close

from rlsuite.agents.advice_estimates import INTERVALS
from rlsuite.agents.advice_learning import AdviceLearning, AdviceTask, Replanning
from rlsuite.agents.advice_planning import plan, plan_optimistic
from rlsuite.agents.ucb_ad import UCBAD, UCBADConfig
from rlsuite.envs.advice_tables import FLAPPY_HORIZON, flappy
from rlsuite.errors import UserError


def doubles(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_intervals_by_hand() -> None:
    matched, given = doubles(0, 0, 3, 4, 50), doubles(0, 4, 4, 4, 100)
    low, high = INTERVALS["hoeffding"](matched, given, 0.5)
    near, far = 0.25, 0.05  # sqrt(0.5 / (2 n))
    assert_close(low, doubles(0, 0, 0.75 - near, 1 - near, 0.5 - far))
    assert_close(high, doubles(1, near, 1, 1, 0.5 + far))
    low, high = INTERVALS["bernstein"](matched, given, 0.03)
    extra = 0.07 / 3  # 7 * 0.03 / (3 * (4 - 1))
    near, far = math.sqrt(2 * 0.1875 * 0.03 / 4) + extra, math.sqrt(2 * 0.25 * 0.03 / 100)
    far += 0.07 / 99
    assert_close(low, doubles(0, 0, 0.75 - near, 1 - extra, 0.5 - far))
    assert_close(high, doubles(1, extra, 0.75 + near, 1, 0.5 + far))


def test_the_interval_by_entropy_solves_its_equation() -> None:
    matched, given = doubles(0, 0, 3, 4, 50), doubles(0, 4, 4, 4, 100)
    low, high = INTERVALS["kl"](matched, given, 0.5)
    assert (low[:2] == 0).all() and float(high[0]) == 1 and float(high[3]) == 1
    # n log(1 / (1 - q)) = 0.5 where p is 0
    assert float(high[1]) == pytest.approx(1 - math.exp(-0.125))
    assert float(low[3]) == pytest.approx(math.exp(-0.125))
    for p, n, end in ((0.75, 4, low[2]), (0.75, 4, high[2]), (0.5, 100, low[4])):
        q = float(end)
        assert n * (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))) == pytest.approx(
            0.5
        )
    hoeffding = INTERVALS["hoeffding"](matched, given, 0.5)
    assert (low >= hoeffding[0] - 1e-9).all() and (high <= hoeffding[1] + 1e-9).all()  # Pinsker


def test_a_first_decision_and_one_after_an_episode_by_hand() -> None:
    """Human (0.8, 0.2), rewards (0, 1): adherence unknown, advising 1 promises 1."""
    advisor = UCBAD(AdviceTask(one_step(), 1), UCBADConfig(scale=1.0, episodes=10))
    decision = advisor.decide()
    assert decision.play.policies.flatten().tolist() == [1]
    assert decision.value.tolist() == pytest.approx([1.0])
    assert advisor.log == pytest.approx(math.log(2 * 1 * 2 * 10 * 1 / 0.1))
    see(advisor, (0, 1, 1, 1.0, 0), times=60)
    see(advisor, (0, 1, 0, 0.0, 0), times=40)
    see(advisor, (0, 2, 1, 1.0, 0))  # to defer tells nothing
    assert advisor.given.tolist() == [[[0, 100]]]
    assert advisor.matched.tolist() == [[[0, 60]]]
    expected = 0.6 + math.sqrt(advisor.log / 200)
    assert advisor.decide().value.tolist() == pytest.approx([expected])


@pytest.mark.parametrize("contrarian", [False, True])
@pytest.mark.parametrize("interval", ["hoeffding", "bernstein", "kl"])
def test_promises_more_than_the_optimum(interval: Any, contrarian: bool) -> None:
    """In every episode of 40 random problems, with the constants of the theory."""
    model = random_model(30, instances=40)
    if contrarian:
        repels = -torch.rand(40, 5, 3, generator=torch.Generator().manual_seed(0))
        theta = (repels * model.human / (1 - model.human)).double()
        model = replace(model, adherence=theta, contrarian=True)
    task = AdviceTask(model, 6, cost=0.02)
    advisor = UCBAD(task, UCBADConfig(scale=1.0, interval=interval, episodes=150))
    learning = AdviceLearning(task, advisor)
    for _ in range(150):
        learning.iterate()
        assert (learning.decision.value >= learning.optimum - 1e-12).all()


def test_promises_more_than_the_optimum_at_a_tenth_of_the_constant() -> None:
    """In the flight, 10 runs of each human; what theory does not promise, and the default relies
    on."""
    greedy, safe = flappy("greedy"), flappy("safe")
    human, theta = (
        torch.cat([getattr(one, name) for one in (greedy, safe) for _ in range(10)])
        for name in ("human", "adherence")
    )
    task = AdviceTask(replace(greedy, human=human, adherence=theta), FLAPPY_HORIZON)
    learning = AdviceLearning(
        task, UCBAD(task, UCBADConfig(scale=0.1)), replanning=Replanning(dense=20, every=10)
    )
    for _ in range(200):
        learning.iterate()
        assert (learning.decision.value >= learning.optimum - 1e-12).all()


def test_where_advice_repels_the_upper_end_alone_promises_too_little() -> None:
    """Advising the bad action to a contrarian, who then does the good one, is worth 0.9."""
    model = one_step(human=[[0.5, 0.5]], adherence=[[0.1, 0.5]], contrarian=True)
    advisor = UCBAD(AdviceTask(model, 1), UCBADConfig(scale=1.0))
    advisor.given += 1000
    advisor.matched += torch.tensor([[[100.0, 500.0]]])
    upper = plan(model.with_adherence(advisor.adherence()[1]), 1).value
    assert 0.7 < float(upper) < 0.9 < float(advisor.decide().value)


def test_optimistic_plans_are_the_best_of_the_interval() -> None:
    model = random_model(31, instances=20)
    low, high = model.adherence * 0.5, model.adherence * 0.5 + 0.5
    assert_close(
        plan_optimistic(model, low, high, 5).value, plan(model.with_adherence(high), 5).value
    )
    contrary = replace(
        model, contrarian=True, adherence=-0.5 * model.human / (1 - model.human).clamp(min=0.5)
    )
    wide = plan_optimistic(contrary, contrary.adherence, high, 5).value
    for weight in (0.0, 0.3, 1.0):
        theta = contrary.adherence + weight * (high - contrary.adherence)
        assert (wide >= plan(contrary.with_adherence(theta), 5).value - 1e-12).all()
    with pytest.raises(UserError, match="low is above high"):
        plan_optimistic(model, high, low, 5)


def learn(human: Any, episodes: int, scale: float, **kwargs: Any) -> tuple[AdviceLearning, list]:
    task = AdviceTask(flappy(human), FLAPPY_HORIZON, **kwargs)
    learning = AdviceLearning(task, UCBAD(task, UCBADConfig(scale=scale)))
    totals = []
    for _ in range(episodes):
        learning.iterate()
        totals.append(float(learning.total.mean()))
    return learning, totals


@pytest.mark.parametrize("human", ["greedy", "safe"])
def test_regret_flattens_on_the_flight(human: Any) -> None:
    """The prototype's figures after 500 and 2000 episodes: greedy 75 and 120, safe 46 and 123."""
    learning, totals = learn(human, 2000, 0.1, runs=5)
    assert totals[1999] < 200
    assert totals[1999] - totals[999] < 0.8 * totals[999]
    assert totals[1999] - totals[1899] < 100 * 0.08
    assert (learning.gap >= -1e-12).all()


def test_a_budget_is_refused() -> None:
    with pytest.raises(UserError, match="UCB-AD knows no budget"):
        UCBAD(AdviceTask(one_step(), 1, budget=1.0))
