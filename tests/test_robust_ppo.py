"""Robust PPO: nature's memory and choices by hand, the policy's update, what survives a restart."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete
from hypothesis import given
from hypothesis import strategies as st
from rollout_cases import make_rollout, tensors

from rlsuite.agents.ppo import PPO, PPOConfig
from rlsuite.agents.robust_ppo import (
    METRICS,
    Memory,
    RobustPPO,
    RobustPPOConfig,
    remember,
    score,
)
from rlsuite.errors import UserError

OBS = Box(-1, 1, (3,))
PHYSICS = Box(np.float32([0.3, 1.0]), np.float32([1.0, 4.0]))
ACTION = Dict([("action", Discrete(2)), ("physics", PHYSICS)])
SMALL: dict[str, Any] = {"hidden": (8,), "batch_size": 8, "epochs": 2}


def make(seed: int = 0, **settings: Any) -> RobustPPO:
    return RobustPPO(OBS, ACTION, RobustPPOConfig(**SMALL, **settings), seed=seed)


def of_numbers(physics: list[float], returns: list[float], known: list[bool]) -> Memory:
    return Memory(torch.tensor(physics)[:, None], torch.tensor(returns), torch.tensor(known))


episodes = st.lists(st.tuples(st.sampled_from([1.0, 2.0, 3.0]), st.integers(-5, 5), st.booleans()))


@given(episodes, episodes, st.integers(1, 9))
def test_the_newest_episodes_are_remembered(first: list, second: list, size: int) -> None:
    memory = of_numbers([1.0] * size, [0.0] * size, [False] * size)
    kept: list[tuple[float, float, bool]] = []
    for batch in (first, second):
        if not batch:
            continue
        physics, returns, ended = (list(column) for column in zip(*batch, strict=True))
        memory = remember(memory, of_numbers(physics, [float(x) for x in returns], ended))
        kept = [(p, float(r), True) for p, r, e in reversed(batch) if e] + kept
    expected = (kept + [(1.0, 0.0, False)] * size)[:size]
    parts = (memory.physics[:, 0], memory.returns, memory.known)
    assert list(zip(*(part.tolist() for part in parts), strict=True)) == expected


@given(st.lists(st.tuples(st.sampled_from([1.0, 2.0, 3.0]), st.integers(-9, 9)), max_size=8))
def test_a_physics_has_the_mean_of_its_episodes(found: list[tuple[float, int]]) -> None:
    """In the row of its newest one, which comes first; what was not played is never the worst."""
    size = 8 - len(found)
    physics = [p for p, _ in found] + [1.0] * size
    returns = [float(r) for _, r in found] + [0.0] * size
    scores = score(of_numbers(physics, returns, [True] * len(found) + [False] * size))
    seen: set[float] = set()
    for row, (p, _) in enumerate(found):
        own = [r for q, r in found if q == p]
        expected = math.inf if p in seen else sum(own) / len(own)
        assert float(scores[row]) == pytest.approx(expected)
        seen.add(p)
    assert scores[len(found) :].isinf().all()


def test_episodes_are_followed_over_rollouts() -> None:
    """Physics are those chosen when an episode began, returns those of all its rewards."""
    agent = make(memory=5)
    a, b = torch.tensor([[0.3, 1.0], [0.5, 2.0]]), torch.tensor([[0.4, 3.0], [0.6, 4.0]])
    agent.chosen = agent.playing = a
    agent.so_far = torch.zeros(2)
    reward = torch.tensor([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]])
    ended = torch.tensor([[False, False], [True, False], [False, False]])
    agent._watch(reward, ended)
    assert agent.memory.returns.tolist() == [3.0, *[0.0] * 4]
    assert torch.equal(agent.memory.physics[0], a[0])
    assert agent.so_far.tolist() == [4.0, 70.0]
    agent.chosen = b  # episodes that go on keep theirs
    agent._watch(reward, torch.tensor([[True, False], [True, True], [False, False]]))
    assert agent.memory.returns.tolist() == [100.0, 2.0, 5.0, 3.0, 0.0]
    assert agent.memory.known.tolist() == [True] * 4 + [False]
    assert torch.equal(agent.memory.physics[:3], torch.stack([a[1], b[0], a[0]]))
    assert agent.so_far.tolist() == [4.0, 40.0] and torch.equal(agent.playing, b)


def test_half_search_and_half_play_the_worst() -> None:
    agent = make(memory=6)
    agent.chosen = torch.ones(8, 2)
    physics = torch.tensor([[0.5, i + 1.0] for i in (0, 1, 2, 1, 0, 0)])
    agent.memory = Memory(
        physics, torch.tensor([5.0, 1.0, 3.0, 9.0, 5.0, 0.0]), torch.arange(6) < 5
    )
    chosen = agent._choose(score(agent.memory))
    # Of three physics the lowest first (means 3, 5, 5); nothing more is known: drawn anew.
    assert torch.equal(chosen[4], physics[2])
    assert {tuple(row) for row in chosen[5:7].tolist()} == {(0.5, 1.0), (0.5, 2.0)}
    assert not any(torch.equal(chosen[7], row) for row in physics)
    assert all(PHYSICS.contains(row.numpy()) for row in chosen)


def test_physics_are_drawn_at_corners_and_anywhere() -> None:
    agent = make(search=1.0)
    agent.chosen = torch.ones(4000, 2)
    agent.memory = Memory(torch.full((64, 2), 0.5), torch.zeros(64), torch.ones(64) > 0)
    chosen = agent._choose(score(agent.memory))
    assert all(PHYSICS.contains(row.numpy()) for row in chosen)
    corners, counts = chosen[::2].unique(dim=0, return_counts=True)
    expected = torch.tensor([[low, high] for low in (0.3, 1.0) for high in (1.0, 4.0)])
    torch.testing.assert_close(corners, expected)
    assert (counts - 500).abs().max() < 5 * math.sqrt(2000 * 0.25 * 0.75)
    unit = (chosen[1::2] - agent.low) / (agent.high - agent.low)
    assert (unit.mean(0) - 0.5).abs().max() < 5 / math.sqrt(12 * 2000)
    assert (unit.std(0) - 1 / math.sqrt(12)).abs().max() < 0.02


def test_the_policy_learns_as_ppo_does() -> None:
    agent, plain = make(seed=3), PPO(OBS, Discrete(2), PPOConfig(**SMALL), seed=3)
    rollout = make_rollout(agent, OBS, 6, 4)
    other = make_rollout(plain, OBS, 6, 4)
    assert torch.equal(rollout.action["action"], other.action)  # type: ignore[arg-type,index]
    reset_lanes(agent, 4)
    plain.act(torch.zeros(4, 3))
    metrics, expected = agent.update(rollout).metrics, plain.update(other).metrics
    found, wanted = tensors(agent.ppo.state_dict()), tensors(plain.state_dict())
    assert all(torch.equal(found[path], wanted[path]) for path in wanted)
    assert set(metrics) == set(METRICS)
    assert all(torch.equal(metrics[name], expected[name]) for name in expected)


def reset_lanes(agent: RobustPPO, envs: int) -> None:
    """``make_rollout`` acts once for all steps: the next one does for its environments."""
    agent.chosen = None
    agent.act(torch.zeros(envs, 3))


def test_without_exploration_nature_is_nominal() -> None:
    agent = make()
    before = copy.deepcopy(agent.state_dict())
    action, extra = agent.act(torch.randn(5, 3), explore=False)
    assert isinstance(action, dict) and not extra
    assert torch.equal(action["physics"], torch.ones(5, 2))  # type: ignore[arg-type]
    after = tensors(agent.state_dict())
    assert all(torch.equal(after[path], tensor) for path, tensor in tensors(before).items())
    agent.act(torch.zeros(4, 3))  # as many as train; then evaluations of any number
    agent.act(torch.zeros(7, 3), explore=False)
    assert agent.act(torch.zeros(4, 3))[0]["physics"].shape == (4, 2)  # type: ignore[index]


def test_metrics_are_finite_before_an_episode_ended() -> None:
    agent = make()
    rollout = make_rollout(agent, OBS, 3, 2)
    rollout.terminated.zero_()
    rollout.truncated.zero_()
    reset_lanes(agent, 2)
    metrics = agent.update(rollout).metrics
    assert metrics["nature/mean"] == metrics["nature/worst"] == 0
    rollout.truncated[-1] = True
    metrics = agent.update(rollout).metrics
    returns = 2 * rollout.reward.sum(0)  # of both rollouts
    torch.testing.assert_close(metrics["nature/mean"], returns.mean())
    torch.testing.assert_close(metrics["nature/worst"], returns.min())


def test_a_restored_agent_goes_on_bit_for_bit() -> None:
    agent, other = make(seed=1, memory=9), make(seed=2, memory=9)
    rollouts = [make_rollout(make(seed=5), OBS, 5, 4, seed=seed) for seed in range(4)]
    reset_lanes(agent, 4)
    agent.update(rollouts[0])
    agent.update(rollouts[1])
    other.load_state_dict(copy.deepcopy(agent.state_dict()))
    for rollout in rollouts[2:]:
        action, again = agent.act(torch.ones(4, 3))[0], other.act(torch.ones(4, 3))[0]
        assert torch.equal(action["physics"], again["physics"])  # type: ignore[arg-type,index]
        agent.update(rollout)
        other.update(rollout)
    found, expected = tensors(other.state_dict()), tensors(agent.state_dict())
    assert found.keys() == expected.keys() and "/envs/so_far" in found
    assert all(torch.equal(found[path], expected[path]) for path in expected)


@pytest.mark.parametrize("space", [Discrete(2), Dict({"a": Discrete(2), "b": Discrete(2)})])
def test_other_environments_are_refused(space: Any) -> None:
    with pytest.raises(UserError, match=r"set env.uncertain, such as \{mass = \[0.5, 1.5\]\}"):
        RobustPPO(OBS, space)


def test_the_search_can_be_replaced() -> None:
    agent = make(memory=6)
    agent.draw = lambda envs: torch.full((envs, 2), 0.5)
    assert (agent.act(torch.zeros(4, 3))[0]["physics"] == 0.5).all()  # type: ignore[index,operator]
    agent.memory = Memory(torch.ones(6, 2), torch.zeros(6), torch.arange(6) < 1)
    assert agent._choose(score(agent.memory))[:, 0].tolist() == [0.5, 0.5, 1.0, 0.5]
