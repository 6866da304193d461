"""What every agent that shares SAC's parts has to do: actions, spaces, seeds, weights, restarts."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from family_cases import SMALL, tensors
from hypothesis import given, settings
from hypothesis import strategies as st
from sac_cases import ACT, OBS, make_batch

import rlsuite.agents
from rlsuite.checkpoint import CheckpointStore, find_nonfinite
from rlsuite.errors import UserError

every_agent = pytest.mark.parametrize("Agent", SMALL)


def metrics_of(agent: type) -> dict[str, str]:
    return rlsuite.agents.AGENTS[agent.__name__.lower()].metrics


@every_agent
def test_actions_are_in_the_environments_units(Agent: Any) -> None:
    agent = Agent(OBS, ACT, SMALL[Agent])
    action, extra = agent.act(torch.randn(500, 3))
    assert action.shape == (500, 2) and extra == {} and not action.requires_grad
    assert all(ACT.contains(a.numpy()) for a in action)
    assert (action.amax(0) > agent.policy.center).all() and (
        action.amin(0) < agent.policy.center
    ).all()
    still, _ = agent.act(torch.ones(2, 3), explore=False)
    state = agent.noise.get_state()
    assert torch.equal(agent.act(torch.ones(2, 3), explore=False)[0], still)
    assert torch.equal(agent.noise.get_state(), state)
    assert not torch.equal(agent.act(torch.ones(2, 3))[0], agent.act(torch.ones(2, 3))[0])


@every_agent
@pytest.mark.parametrize(
    ("obs", "act"),
    [
        (OBS, gym.spaces.Discrete(3)),
        (OBS, gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)),
        (gym.spaces.Discrete(3), ACT),
    ],
    ids=["discrete", "unbounded", "observation"],
)
def test_refuses_spaces_by_its_name(Agent: Any, obs: Any, act: Any) -> None:
    with pytest.raises(UserError, match=f"^{Agent.__name__} needs"):
        Agent(obs, act, SMALL[Agent])


@every_agent
def test_seeds(Agent: Any) -> None:
    def run(seed: int) -> dict[str, torch.Tensor]:
        agent = Agent(OBS, ACT, SMALL[Agent], seed=seed)
        first = tensors(agent)
        for i in range(4):
            agent.update(make_batch(16, i))
        return {f"first/{k}": v for k, v in first.items()} | tensors(agent)

    first, again, other = run(5), run(5), run(6)
    assert all(torch.equal(first[name], again[name]) for name in first)
    names = [name for name in first if name.startswith("first/") and "weights." in name]
    assert len({name.split("/")[1] for name in names}) >= 2
    assert not [name for name in names if torch.equal(first[name], other[name])]
    critics = [name for name in names if name.startswith("first/critic")]
    assert not [name for name in critics if torch.equal(*first[name][:2])]
    for name, value in first.items():
        if name.startswith("first/target"):
            assert torch.equal(value, first[name.replace("target", "critic")])


@every_agent
@pytest.mark.parametrize("through", ["references", "copies", "files"])
def test_restart_continues_bit_for_bit(Agent: Any, through: str, tmp_path: Path) -> None:
    agent = Agent(OBS, ACT, SMALL[Agent], seed=1)
    for i in range(3):
        agent.update(make_batch(16, i))
        agent.act(torch.ones(2, 3))
    state = agent.state_dict()
    if through == "copies":
        state = copy.deepcopy(state)
    elif through == "files":
        CheckpointStore(tmp_path).save(3, state)
        state = CheckpointStore(tmp_path).load()
    twin = Agent(OBS, ACT, SMALL[Agent], seed=2)
    for _ in range(2):
        twin.update(make_batch(16))  # what it had is to be forgotten
    twin.load_state_dict(state)
    for i in range(3, 7):
        for one in (agent, twin):
            one.update(make_batch(16, i))
        assert torch.equal(agent.act(torch.ones(2, 3))[0], twin.act(torch.ones(2, 3))[0]), i
    mine, its = tensors(agent), tensors(twin)
    assert [n for n in mine if not torch.equal(mine[n], its[n])] == []


@every_agent
def test_a_copy_learns_like_its_original_and_apart_from_it(Agent: Any) -> None:
    agent = Agent(OBS, ACT, SMALL[Agent], seed=1)
    agent.update(make_batch(16, 0))
    copied = copy.deepcopy(agent)
    before = copy.deepcopy(tensors(agent))
    copied.update(make_batch(16, 1))
    mine = tensors(agent)
    assert [name for name in mine if not torch.equal(mine[name], before[name])] == []
    agent.update(make_batch(16, 1))
    mine, its = tensors(agent), tensors(copied)
    assert [name for name in mine if not torch.equal(mine[name], its[name])] == []
    assert [name for name in mine if not torch.equal(mine[name], before[name])]


@every_agent
def test_importance_weights_scale_the_gradient(Agent: Any) -> None:
    """Of rows of weight zero nothing is learned; the loss is linear in the weights."""

    def step(weight: torch.Tensor) -> float:
        agent = Agent(OBS, ACT, SMALL[Agent], seed=1)
        return agent.update(replace(make_batch(6), weight=weight)).metrics["loss/critic"].item()

    alone = [step(row) for row in torch.eye(6)]
    mix = torch.tensor([0.0, 0.5, 1.0, 2.0, 3.0, 0.25])
    assert min(alone) > 0
    assert step(mix) == pytest.approx(sum(w * a for w, a in zip(mix.tolist(), alone, strict=True)))


@every_agent
@settings(deadline=None, max_examples=15)
@given(
    rows=st.integers(2, 5),
    scale=st.sampled_from([1.0, 100.0]),
    temperature=st.sampled_from(["auto", 0.2]),
    optimizer=st.sampled_from(["Adam", "AdamW"]),
)
def test_updates_to_finite_numbers(
    Agent: Any, rows: int, scale: float, temperature: Any, optimizer: str
) -> None:
    config = replace(SMALL[Agent], temperature=temperature, optimizer=optimizer)
    agent, seen = Agent(OBS, ACT, config), set()
    for i in range(6):
        batch = make_batch(rows, i)
        batch.obs.mul_(scale)
        update = agent.update(batch)
        seen |= update.metrics.keys()
        assert all(m.shape == () and not m.requires_grad for m in update.metrics.values())
        assert find_nonfinite(update.metrics) is None
        assert update.priority.shape == (rows,) and (update.priority >= 0).all()
        assert not update.priority.requires_grad
    assert seen == metrics_of(Agent).keys()
    assert find_nonfinite(agent.state_dict()) is None
