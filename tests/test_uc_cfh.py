"""UC-CFH: its dual against the extended linear program, and that it learns within the budget."""

import math

import numpy as np
import pytest
import torch
from advice_cases import random_model, see
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from test_advice import one_step

from rlsuite.agents.advice_learning import AdviceLearning, AdviceTask, Replanning
from rlsuite.agents.uc_cfh import UCCFH, UCCFHConfig, _best_kernel
from rlsuite.envs.advice_tables import FLAPPY_HORIZON, flappy
from rlsuite.errors import UserError


def test_intervals_by_hand() -> None:
    advisor = UCCFH(AdviceTask(one_step(), 2, budget=1.0), UCCFHConfig(scale=0.01, episodes=10))
    see(advisor, (0, 1, 1, 1.0, 0), (0, 1, 1, 0.0, 0), times=10)
    log = 0.01 * math.log(4 * 3 * 10 * 2 / 0.1)
    rest = 7 * log / (3 * 19)
    low, high = (end[0, 0] for end in advisor._box())
    assert low[1].tolist() == pytest.approx([1 - rest, 0, 0])
    assert high[1].tolist() == pytest.approx([1, 0, rest])
    assert high[0].tolist() == [0, 0, 1]
    bonus = math.sqrt(2 * 0.25 * log / 20) + rest
    assert advisor._reward().flatten().tolist() == pytest.approx([1, 0.5 + bonus, 1])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31))
def test_the_best_kernel_is_that_of_a_linear_program(seed: int) -> None:
    rng = np.random.default_rng(seed)
    p, width, value = rng.dirichlet(np.ones(4)), 0.5 * rng.random(4), rng.random(4)
    low, high = np.maximum(p - width, 0), np.minimum(p + width, 1)
    found = _best_kernel(*(torch.from_numpy(x)[None, None, None] for x in (value, low, high)))
    assert float(found.sum()) == pytest.approx(1)
    best = linprog(-value, A_eq=np.ones((1, 4)), b_eq=[1], bounds=list(zip(low, high, strict=True)))
    assert float((found.flatten() * torch.from_numpy(value)).sum()) == pytest.approx(-best.fun)


def extended_program(advisor: UCCFH, n: int, budget: float) -> float:
    """The program over z(h, s, m, s'), s' of all states and the unknown; by scipy."""
    horizon, (states, choices) = advisor.horizon, advisor.seen.reward.shape[1:]
    box = [np.zeros((states + 1, choices, states + 1)) for _ in range(2)]
    for full, part in zip(box, advisor._box(), strict=True):
        slots = advisor.seen.successor[n].numpy()
        for s, m, b in np.ndindex(*slots.shape):
            full[s, m, slots[s, m, b]] += part[n, s, m, b].item()
        full[:states, :, states] = part[n, ..., -1].numpy()
        full[states, :, states] = 1
    reward = np.ones((states + 1, choices))
    reward[:states] = advisor._reward()[n].numpy()
    z = np.arange(horizon * (states + 1) * choices * (states + 1)).reshape(
        horizon, states + 1, choices, states + 1
    )
    equal, right, above, below = [], [], [], []
    for h in range(horizon):
        for s in range(states + 1):
            row = np.zeros(z.size)
            row[z[h, s]] = 1
            if h:
                row[z[h - 1, :, :, s]] -= 1
            equal.append(row)
            right.append(float(advisor.initial[0, s]) if h == 0 and s < states else 0.0)
            for m in range(choices):
                for t in range(states + 1):
                    for sign, end in zip((1, -1), (box[1], box[0]), strict=True):
                        row = np.zeros(z.size)
                        row[z[h, s, m]] = -sign * end[s, m, t]
                        row[z[h, s, m, t]] += sign
                        above.append(row)
                        below.append(0.0)
    spent = np.zeros(z.shape)
    spent[:, :states, :-1] = 1  # in the unknown one would not advise
    above.append(spent.ravel())
    below.append(budget)
    gain = np.broadcast_to(reward[None, :, :, None], z.shape).ravel()
    found = linprog(
        -gain, A_ub=np.array(above), b_ub=below, A_eq=np.array(equal), b_eq=right, method="highs"
    )
    assert found.success, found.message
    return float(-found.fun)


@pytest.mark.parametrize("budget", [0.0, 0.4, 1.2])
def test_the_dual_has_the_value_of_the_extended_program(budget: float) -> None:
    task = AdviceTask(random_model(70, 3, states=3, actions=2), 3, budget=budget)
    advisor = UCCFH(task, UCCFHConfig(scale=0.02))
    learning = AdviceLearning(task, advisor)
    for episode in range(25):
        if episode in (0, 3, 24):
            value = advisor.decide().value
            for n in range(3):
                best = extended_program(advisor, n, budget)
                assert float(value[n]) == pytest.approx(best, abs=1e-7)
        learning.iterate()


def test_promises_more_than_the_optimum() -> None:
    task = AdviceTask(random_model(71, instances=20), 3, budget=0.8)
    learning = AdviceLearning(task, UCCFH(task, UCCFHConfig(scale=1.0)))
    for _ in range(30):
        learning.iterate()
        assert (learning.decision.value >= learning.optimum - 1e-9).all()


def test_learns_the_flight_on_a_budget() -> None:
    """Without advice the human earns 1.04, with the budget 3.05 is possible."""
    task = AdviceTask(flappy("greedy"), FLAPPY_HORIZON, budget=3.0, runs=2)
    learning = AdviceLearning(task, UCCFH(task), replanning=Replanning(dense=0, every=20))
    for _ in range(400):
        learning.iterate()
    assert float(learning.gross.mean()) > 1.8
    assert float(learning.advices.mean()) < 4.5


def test_a_budget_is_needed() -> None:
    with pytest.raises(UserError, match="UC-CFH needs a budget"):
        UCCFH(AdviceTask(one_step(), 1))
