"""C51: the projection's properties and hand cases, a second implementation, spaces, restarts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pydantic
import pytest
import torch
from dqn_cases import (
    ACT,
    IMAGE,
    OBS,
    assert_equal_states,
    draw_obs,
    make_batch,
    parameters,
    set_constant,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlsuite.agents.c51 import C51, METRICS, C51Config, project
from rlsuite.checkpoint import CheckpointStore
from rlsuite.errors import UserError

SMALL = C51Config(hidden=(8,), atoms=11)
SUPPORT = torch.linspace(-10, 10, 51)


def distributions(n: int, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return (4 * torch.randn(n, 51, generator=g)).softmax(1)


@settings(deadline=None, max_examples=100)
@given(
    reward=st.floats(-30, 30, width=32),
    discount=st.floats(0, 1, width=32),
    seed=st.integers(0, 1000),
    bounds=st.tuples(st.floats(-100, 99, width=32), st.floats(0.125, 200, width=32)),
)
def test_mass_stays_and_so_does_the_mean_inside(
    reward: float, discount: float, seed: int, bounds: tuple[float, float]
) -> None:
    low, extent = bounds
    support = torch.linspace(low, low + extent, 51)
    probability = distributions(3, seed)
    value = (reward + discount * support).expand(3, 51)
    out = project(value, probability, support)
    assert (out >= 0).all()
    torch.testing.assert_close(out.sum(1), torch.ones(3), rtol=0, atol=1e-6)
    clamped = value.clamp(support[0], support[-1]).double()  # equals value inside the support
    mean = (probability.double() * clamped).sum(1)
    found = (out.double() * support.double()).sum(1)
    torch.testing.assert_close(found, mean, rtol=1e-6, atol=1e-4)


@given(reward=st.floats(-12, 12, width=32), seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=100)
def test_after_a_termination_all_mass_is_at_the_reward(reward: float, seed: int) -> None:
    value = torch.full((1, 51), reward)
    out = project(value, distributions(1, seed), SUPPORT)[0]
    inside = min(max(reward, -10.0), 10.0)
    assert (out > 1e-6).sum() <= 2
    assert (out @ SUPPORT).item() == pytest.approx(inside, abs=1e-4)
    assert ((SUPPORT - inside).abs()[out > 1e-6] < 0.4 + 1e-5).all()


@pytest.mark.parametrize("atom", range(51))
def test_a_value_that_is_an_atom_stays_there(atom: int) -> None:
    out = project(SUPPORT[atom].expand(1, 51), distributions(1, atom), SUPPORT)[0]
    assert out[atom].item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("support", [SUPPORT, torch.linspace(-0.1, 0.3, 51), torch.arange(7.0)])
def test_without_reward_and_discount_nothing_changes(support: Tensor) -> None:
    probability = distributions(4, 0)[:, : len(support)].softmax(1)
    out = project(support.expand(4, -1), probability, support)
    torch.testing.assert_close(out, probability, rtol=0, atol=1e-5)


def test_projection_by_hand() -> None:
    """Atoms 0, 1, 2. 0.25 goes to 0 and 1 as 3 to 1; 1.5 to 1 and 2 alike; 5 to the end, 2."""
    out = project(
        torch.tensor([[0.25, 1.5, 5.0]]), torch.tensor([[0.4, 0.4, 0.2]]), torch.arange(3.0)
    )
    torch.testing.assert_close(out, torch.tensor([[0.3, 0.3, 0.4]]))


def agent_saying(online: list[list[float]], target: list[list[float]]) -> C51:
    """Atoms 0, 1, 2 and two actions; the networks' probabilities, whatever they see."""
    config = C51Config(hidden=(), atoms=3, v_min=0.0, v_max=2.0)
    agent = C51(OBS, gym.spaces.Discrete(2, start=3), config)
    for network, rows in ((agent.online, online), (agent.target, target)):
        set_constant(network.head, torch.tensor(rows).log().flatten().tolist())
    return agent


def test_update_by_hand() -> None:
    """The target network says that action 0 is worth 0.6 and action 1 1.4, so action 1 is taken.

    Its atoms with reward 0.5 and discount 0.5 are at 0.5, 1, 1.5: probabilities 0.2, 0.2, 0.6 give
    0.1, 0.6, 0.3. The prediction is 0.25, 0.25, 0.5 (worth 1.25): cross-entropy
    0.7 ln 4 + 0.3 ln 2 = 1.178350, entropy 0.897946, divergence 0.280404. The terminal transition
    is worth its reward 1, all mass at the middle atom: cross-entropy and divergence ln 4. (At the
    ends of the support a bootstrapped value would be cut off.)
    """
    agent = agent_saying(
        [[0.8, 0.1, 0.1], [0.25, 0.25, 0.5]],
        [[0.5, 0.4, 0.1], [0.2, 0.2, 0.6]],
    )
    batch = replace(
        make_batch(2),
        action=torch.tensor([4, 4]),
        reward=torch.tensor([0.5, 1.0]),
        discount=torch.tensor([0.5, 0.0]),
        weight=torch.tensor([1.0, 3.0]),
    )
    update = agent.update(batch)
    expected = torch.tensor([0.280404, 1.386294])
    torch.testing.assert_close(update.priority, expected, rtol=0, atol=1e-5)
    loss = (1.178350 + 3 * 1.386294) / 2
    assert update.metrics["loss/critic"].item() == pytest.approx(loss, abs=1e-5)
    assert update.metrics["value/q"].item() == pytest.approx(1.25, abs=1e-6)


def test_greedy_on_the_mean_not_the_mode() -> None:
    agent = agent_saying(
        [[0.45, 0.0999, 0.45], [0.3, 0.6, 0.1]], [[0.3, 0.3, 0.4], [0.3, 0.3, 0.4]]
    )
    assert agent.act(torch.zeros(2, 3), explore=False)[0].tolist() == [3, 3]


def test_a_right_prediction_has_no_priority() -> None:
    row = [0.2, 0.3, 0.5]
    agent = agent_saying([row, row], [row, row])
    batch = replace(make_batch(4), action=torch.full((4,), 3))
    batch = replace(batch, reward=torch.zeros(4), discount=torch.ones(4))
    priority = agent.update(batch).priority
    assert (priority >= 0).all() and (priority < 1e-6).all()


@pytest.mark.parametrize("space", [OBS, IMAGE], ids=["vector", "image"])
def test_updates_equal_a_plain_implementation(space: gym.spaces.Box) -> None:
    """Transition by transition and atom by atom, in float64."""
    config = C51Config(hidden=(16,), atoms=7, v_min=-2.0, v_max=3.0, lr=1e-3)
    agent = C51(space, ACT, config, seed=3)
    with torch.no_grad():
        for p in agent.target.parameters():  # else the two could be confused unseen
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(7)))
    twin = C51(space, ACT, config, seed=3)
    optimizer = torch.optim.Adam(twin.online.parameters(), lr=1e-3, eps=config.optimizer_eps)
    step = 5 / 6
    atoms = [-2 + i * step for i in range(7)]
    for seed in range(3):
        batch = make_batch(32, seed, obs=space)
        batch.weight.copy_(torch.rand(32, generator=torch.Generator().manual_seed(seed)))
        q = twin.online(batch.obs).view(32, 4, 7)
        with torch.no_grad():
            q_next = agent.target(batch.next_obs).view(32, 4, 7).double().softmax(2)
        update = agent.update(batch)
        loss = torch.zeros(())
        for i in range(32):
            means = [sum(p * z for p, z in zip(row, atoms, strict=True)) for row in q_next[i]]
            best = max(range(4), key=lambda a: means[a])
            m = [0.0] * 7
            for p, z in zip(q_next[i, best].tolist(), atoms, strict=True):
                tz = batch.reward[i].item() + batch.discount[i].item() * z
                b = (min(max(tz, -2.0), 3.0) + 2) / step
                for j in range(7):
                    m[j] += p * max(0.0, 1 - abs(b - j))  # eq. 7, the triangular kernel
            log_p = q[i, batch.action[i] + 2].log_softmax(0)
            ce = -sum(a * b for a, b in zip(m, log_p, strict=True))
            loss = loss + batch.weight[i] * ce / 32
            entropy = -sum(x * np.log(x) for x in m if x > 0)
            assert update.priority[i].item() == pytest.approx(ce.item() - entropy, abs=1e-5)
        assert update.metrics["loss/critic"].item() == pytest.approx(loss.item(), rel=1e-5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for mine, its in zip(agent.online.parameters(), twin.online.parameters(), strict=True):
            torch.testing.assert_close(mine, its, rtol=0, atol=1e-5)


def test_target_is_copied_when_due() -> None:
    agent = C51(OBS, ACT, replace(SMALL, target_period=3))
    start = parameters(agent.target.state_dict())
    for i in range(1, 8):
        agent.update(make_batch(8, i))
        if i % 3 == 0:
            start = parameters(agent.online.state_dict())
        assert_equal_states(parameters(agent.target.state_dict()), start)


@pytest.mark.parametrize("space", [OBS, IMAGE], ids=["vector", "image"])
def test_actions_metrics_and_exploration(space: gym.spaces.Box) -> None:
    config = replace(SMALL, epsilon_initial=0.8, epsilon_final=0.4, epsilon_transitions=20)
    agent = C51(space, ACT, config)
    obs = draw_obs(space, 5, torch.Generator().manual_seed(0))
    action, extra = agent.act(obs)
    assert action.shape == (5,) and action.dtype == torch.int64 and extra == {}
    assert all(ACT.contains(int(a)) for a in agent.act(obs.repeat(*[9] + [1] * (obs.dim() - 1)))[0])
    agent = C51(space, ACT, config)
    agent.act(obs)
    metrics = agent.update(make_batch(6, obs=space)).metrics
    assert metrics["policy/epsilon"].item() == pytest.approx(0.7)
    assert set(metrics) == set(METRICS)


def test_refuses() -> None:
    for act, obs, text in (
        (gym.spaces.Box(-1, 1, (2,)), OBS, "C51 needs discrete actions"),
        (ACT, gym.spaces.Dict({"a": OBS}), "needs Box observations"),
    ):
        with pytest.raises(UserError, match=text) as info:
            C51(obs, act, SMALL)
        assert "\n" not in str(info.value)
    with pytest.raises(UserError, match="v_min"):
        C51(OBS, ACT, C51Config(v_min=1.0, v_max=1.0))


@pytest.mark.parametrize(
    ("field", "value"), [("atoms", 1), ("v_min", float("inf")), ("lr", 0.0), ("target_period", 0)]
)
def test_config_refuses(field: str, value: Any) -> None:
    with pytest.raises(pydantic.ValidationError, match=field):
        C51Config(**{field: value})


@pytest.mark.parametrize("space", [OBS, IMAGE], ids=["vector", "image"])
def test_restart_continues_bit_for_bit(space: gym.spaces.Box, tmp_path: Path) -> None:
    config = replace(SMALL, target_period=2, epsilon_evaluation=0.5)
    agent = C51(space, ACT, config, seed=1)
    obs = draw_obs(space, 20, torch.Generator().manual_seed(0))

    def run(one: C51, i: int) -> list[int]:
        one.update(make_batch(16, i, obs=space))
        return [a for e in (True, False) for a in one.act(obs, explore=e)[0].tolist()]

    for i in range(3):
        run(agent, i)
    CheckpointStore(tmp_path).save(3, agent.state_dict())
    twin = C51(space, ACT, config, seed=2)
    run(twin, 9)
    twin.load_state_dict(CheckpointStore(tmp_path).load())
    for i in range(3, 8):
        assert run(agent, i) == run(twin, i)
    assert_equal_states(agent.state_dict(), twin.state_dict())
