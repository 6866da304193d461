"""Counts of transitions, the empirical problem that they make, and what bounds it."""

import pytest
import torch
from advice_cases import random_model
from torch.testing import assert_close

from rlsuite.agents.advice_estimates import (
    RewardRange,
    Transitions,
    choose,
    deviation,
    draw_noise,
    moments,
)
from rlsuite.agents.advice_learning import World
from rlsuite.agents.advice_planning import plan
from rlsuite.rng import generator


def test_counts_by_hand() -> None:
    """Two runs; three successors of one choice, more than a list begins with."""
    seen = Transitions(2, states=4, choices=3)
    states = torch.tensor([[0, 1, 0, 2, 0, 3], [0, 1, 0, 1, 0, 1]])
    choices = torch.tensor([[2, 0, 2, 0, 2], [2, 0, 2, 0, 2]])
    rewards = torch.tensor([[1, 0, 0, 0, 0.5], [0.25, 0, 0.25, 1, 0.25]], dtype=torch.float64)
    seen.add(states, choices, rewards)
    assert seen.visits[:, 0, 2].tolist() == [3, 3]
    assert seen.visits.sum().item() == 10
    assert sorted(seen.successor[0, 0, 2].tolist()) == [1, 2, 3, 4]
    assert float(seen.mean_reward()[0, 0, 2]) == pytest.approx(0.5)
    assert float(seen.reward_variance()[0, 0, 2]) == pytest.approx(1.25 / 3 - 0.25)
    assert float(seen.reward_variance()[1, 0, 2]) == pytest.approx(0)
    model = seen.estimate(torch.tensor([[1.0, 0, 0, 0]]).double(), unseen=-7.0)
    values = torch.tensor([[0.0, 1, 2, 6, 9], [0, 1, 2, 6, 9]]).double()
    mean, variance = moments(model, values)
    assert mean[:, 0, 2].tolist() == pytest.approx([3, 1])
    assert variance[:, 0, 2].tolist() == pytest.approx([(1 + 4 + 36) / 3 - 9, 0])
    assert mean[0, 3].tolist() == [9] * 3 and model.reward[0, 3].tolist() == [-7] * 3
    assert mean[0, 4].tolist() == [9] * 3 and model.reward[0, 4].tolist() == [0] * 3


def test_the_empirical_problem_approaches_the_induced_one() -> None:
    """And planning in it, at a cost, the plan of the truth."""
    model, runs = random_model(40, 1), 2
    seen = Transitions(runs, 5, 4)
    world, gen = World(model, runs), generator(0, "draws")
    for _ in range(40):
        policy = torch.randint(0, 4, (runs, 500, 5), generator=gen)
        episodes = world.play(policy, gen)
        seen.add(episodes.state, episodes.advice, episodes.reward)
    found = seen.estimate(model.initial)
    kernel, reward = model.induced()
    wide = torch.zeros(runs, 6, 4, 6).double().scatter_add(3, found.successor, found.probability)
    off = 4 * (0.25 / seen.visits).sqrt()
    assert off.mean() < 0.1
    assert ((wide[:, :5, :, :5] - kernel).abs() <= off[..., None]).all()
    assert ((found.reward[:, :5] - reward).abs() <= off).all()
    truth, near = plan(model, 4, [0.0, 0.1]), plan(found, 4, [0.0, 0.1])
    assert_close(near.value[..., :5], truth.value.expand(2, -1, -1), rtol=0, atol=0.1)
    assert (near.policy != 3).all()  # to advise deferring is never better than to defer


def test_deviations_by_hand() -> None:
    trials = torch.tensor([0.0, 1, 5], dtype=torch.float64)
    found = deviation(torch.full((3,), 0.1).double(), trials, 2.0, 3.0)
    assert found.tolist() == pytest.approx([0.4**0.5 + 14, 0.4**0.5 + 14, 0.08**0.5 + 3.5])


def test_rewards_that_may_be_missing() -> None:
    assert RewardRange().ends(3) == (0, 3)
    assert RewardRange(low=-2.0, high=-1.0).ends(3) == (-6, 0)
    assert RewardRange(low=1.0, high=5.0).ends(2) == (0, 10)
    assert RewardRange(low=-1.0, high=2.0).width == 3


def test_equal_choices_are_drawn() -> None:
    q = torch.tensor([[[1.0, 2, 2 + 1e-14, 0]]]).double().expand(3000, 1, 4)
    found = choose(q, draw_noise(tuple(q.shape), generator(0, "ties")))
    assert torch.bincount(found.flatten(), minlength=4).tolist() == pytest.approx(
        [0, 1500, 1500, 0], abs=120
    )
