"""FUCB-AD: the factors that it learns, its bonuses by hand, optimism, learning."""

import math

import pytest
import torch
from advice_cases import random_model, see
from test_advice import one_step
from torch.testing import assert_close

from rlsuite.advice import AdviceModel, to_exclusive
from rlsuite.agents.advice_learning import AdviceLearning, AdviceTask, World
from rlsuite.agents.fucb import FUCB, FUCBConfig
from rlsuite.envs.advice_tables import FLAPPY_HORIZON, flappy
from rlsuite.errors import UserError
from rlsuite.rng import generator


def watch(model: AdviceModel, defers: bool, runs: int = 200, horizon: int = 500) -> FUCB:
    """What uniformly random advice shows, with or without saying nothing at times."""
    task = AdviceTask(model, horizon, runs=runs)
    advisor, gen = FUCB(task), generator(0, "watch")
    choices = model.actions + defers
    policy = torch.randint(0, choices, (runs, horizon, model.states), generator=gen)
    advisor.learn(World(model, runs).play(policy, gen))
    advisor.executed = advisor.executed.sum(0, keepdim=True)  # as one run of 100,000 steps
    return advisor


@pytest.mark.parametrize("defers", [True, False])
def test_the_human_is_known_even_from_rejections_alone(defers: bool) -> None:
    model = random_model(50, 1, states=1, actions=4)
    advisor = watch(model, defers)
    assert_close(advisor.human(), model.human, rtol=0, atol=0.02)
    matched = advisor._matched() / advisor.executed[:, :, :4].sum(3)
    assert_close(matched, to_exclusive(model.adherence, model.human), rtol=0, atol=0.02)


def test_the_human_by_hand() -> None:
    """The fixed point: of draws b, seen or not, the share is pi(b)."""
    advisor = FUCB(AdviceTask(one_step(), 1))
    assert advisor.human().tolist() == [[[0.5, 0.5]]]
    see(advisor, (0, 2, 0, 0.0, 0), times=6)
    see(advisor, (0, 2, 1, 1.0, 0), times=2)
    assert advisor.human().flatten().tolist() == pytest.approx([0.75, 0.25])
    see(advisor, (0, 1, 1, 1.0, 0), times=50)  # a match says nothing of the human
    assert advisor.human().flatten().tolist() == pytest.approx([0.75, 0.25])
    # of two actions a rejection of one is the other, whatever the human likes
    see(advisor, (0, 1, 0, 0.0, 0), times=30)
    assert advisor.human().flatten().tolist() == pytest.approx([0.75, 0.25], abs=1e-3)


def test_a_decision_by_hand() -> None:
    """One stage: dynamics, human and adherence each at the optimistic end."""
    config = FUCBConfig(scale=0.01, human_scale=0.02, episodes=10)
    advisor = FUCB(AdviceTask(one_step(), 1, cost=0.1), config)
    assert float(advisor.decide().value) == pytest.approx(1)
    see(advisor, (0, 2, 0, 0.0, 0), times=32)
    see(advisor, (0, 2, 1, 0.5, 0), times=8)
    see(advisor, (0, 1, 1, 0.5, 0), times=20)
    see(advisor, (0, 1, 0, 0.0, 0), times=20)
    see(advisor, (0, 0, 0, 0.0, 0), times=40)
    log = math.log(2 * 1 * 2 * 10 / 0.1)
    u = [0.01 * log / (32 + 20 + 40), 0.5 + 0.01 * log / 28]
    pi = advisor.human().flatten().tolist()
    assert pi == pytest.approx([0.8, 0.2], abs=1e-3)
    slack = 0.5 * math.sqrt(2 * 2 * 0.02 * log / 60) * (u[1] - u[0])  # 40 deferred, 20 rejected
    defer = pi[0] * u[0] + pi[1] * u[1] + slack
    theta = 0.5 + math.sqrt(0.02 * log / (2 * 40))
    one = theta * u[1] + (1 - theta) * (u[0] + slack) - 0.1
    assert one > defer
    decision = advisor.decide()
    assert float(decision.value) == pytest.approx(one, abs=1e-9)
    assert decision.play.policies.item() == 1
    dear = FUCB(AdviceTask(one_step(), 1, cost=0.5), config)
    dear.load_state_dict(advisor.state_dict())
    assert float(dear.decide().value) == pytest.approx(defer, abs=1e-9)


def test_advice_that_is_rarely_done_counts_at_its_low_end() -> None:
    """Advising the worse action, which is then done less often, brings the better one."""
    config = FUCBConfig(scale=0.01, human_scale=0.02, episodes=10)
    advisor = FUCB(AdviceTask(one_step(), 1), config)
    see(advisor, (0, 2, 0, 0.0, 0), times=32)
    see(advisor, (0, 2, 1, 0.5, 0), times=8)
    see(advisor, (0, 1, 0, 0.0, 0), times=40)
    see(advisor, (0, 0, 0, 0.0, 0), times=8)
    see(advisor, (0, 0, 1, 0.5, 0), times=32)
    log = math.log(2 * 1 * 2 * 10 / 0.1)
    u = [0.01 * log / (32 + 40 + 8), 0.5 + 0.01 * log / 40]
    low = 0.2 - math.sqrt(0.02 * log / (2 * 40))
    assert low > 0
    decision = advisor.decide()
    assert decision.play.policies.item() == 0
    assert float(decision.value) == pytest.approx(low * u[0] + (1 - low) * u[1], abs=1e-9)


def test_the_spread_of_what_follows_counts() -> None:
    """Two stages: action 0 leads to state 0 or 1 alike, where the human earns 0 and 1."""
    model = random_model(52, 1, states=2, actions=2)
    config = FUCBConfig(scale=0.01, human_scale=1e-12, episodes=10)
    advisor = FUCB(AdviceTask(model, 2, cost=9.0), config)
    see(advisor, (0, 2, 0, 0.0, 0), (0, 2, 0, 0.0, 1), (1, 2, 0, 1.0, 1), times=50)
    log = math.log(2 * 2 * 2 * 10 * 2 / 0.1)
    last = 0.01 * log / 100  # state 1 is capped at 1
    spread = 0.01 * (math.sqrt(2 * ((1 - last) / 2) ** 2 * log / 100) + 2 * log / 100)
    value = float(advisor.decide().value)
    assert value == pytest.approx(0.5 + last / 2 + spread, abs=1e-4)


def test_promises_more_than_the_optimum() -> None:
    task = AdviceTask(random_model(51, instances=20), 3, cost=0.02)
    config = FUCBConfig(scale=2.0, human_scale=1.0, episodes=100)
    learning = AdviceLearning(task, FUCB(task, config))
    for _ in range(100):
        learning.iterate()
        assert (learning.decision.value >= learning.optimum - 1e-12).all()


def test_learns_the_flight() -> None:
    """The prototype's regret after 500 episodes is 582, its human's is 1303."""
    task = AdviceTask(flappy("greedy"), FLAPPY_HORIZON, runs=3)
    learning = AdviceLearning(task, FUCB(task))
    for _ in range(500):
        learning.iterate()
    assert float(learning.total.mean()) < 700
    assert float(learning.gap.mean()) < 0.7


def test_a_budget_is_refused() -> None:
    with pytest.raises(UserError, match="FUCB-AD knows no budget"):
        FUCB(AdviceTask(one_step(), 1, budget=1.0))
