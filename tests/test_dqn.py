"""DQN: targets by hand, a second plain implementation, exploration, spaces, settings, restarts."""

import copy
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

from rlsuite.agents.dqn import DQN, METRICS, DQNConfig
from rlsuite.buffers import Replay, UniformSampler
from rlsuite.checkpoint import CheckpointStore
from rlsuite.errors import UserError
from rlsuite.parts import EpsilonGreedy, LinearSchedule
from rlsuite.types import Step

SMALL = DQNConfig(hidden=(8, 8))
TWO = gym.spaces.Discrete(2, start=5)


def constant(config: DQNConfig, online: list[float], target: list[float]) -> DQN:
    """An agent whose networks say this, whatever they see."""
    agent = DQN(OBS, TWO, config)
    set_constant(agent.online.head, online)
    set_constant(agent.target.head, target)
    return agent


# The target says 4 and 7, the online network 2 and 1: DQN bootstraps from 7, Double DQN from the 4
# of the action that the online network ranks first. With reward 1 and discount 0.9 the targets are
# 7.3 and 4.6. The action taken is the second, worth 1: errors 6.3 and 3.6, squared 39.69 and 12.96.
@pytest.mark.parametrize(
    ("double", "terminated", "truncated", "error"),
    [
        (False, False, False, 6.3),
        (False, False, True, 6.3),
        (False, True, False, 0.0),
        (True, False, False, 3.6),
        (True, False, True, 3.6),
        (True, True, True, 0.0),
    ],
)
def test_target_by_hand(double: bool, terminated: bool, truncated: bool, error: float) -> None:
    agent = constant(DQNConfig(hidden=(4,), double=double), [2.0, 1.0], [4.0, 7.0])
    replay = Replay(1, UniformSampler(), discount=0.9)
    obs = torch.randn(1, 3)
    flags = torch.tensor([[terminated], [truncated]])
    replay.add(Step(obs, torch.tensor([6]), torch.ones(1), obs + 1, *flags))
    update = agent.update(replay.sample(1))
    assert update.priority.item() == pytest.approx(error, abs=1e-6)
    assert update.metrics["loss/critic"].item() == pytest.approx(error**2, abs=1e-5)
    assert update.metrics["value/q"].item() == 1.0


def test_three_step_target_by_hand() -> None:
    """1 + 0.9 * 2 + 0.81 * 4 + 0.729 * 7 = 11.143, less the value 2."""
    agent = constant(DQNConfig(hidden=()), [2.0, 1.0], [4.0, 7.0])
    replay = Replay(3, UniformSampler(), discount=0.9, n_step=3)
    no = torch.tensor([False])
    for reward in (1.0, 2.0, 4.0):
        replay.add(
            Step(
                torch.zeros(1, 3),
                torch.tensor([5]),
                torch.tensor([reward]),
                torch.zeros(1, 3),
                no,
                no,
            )
        )
    batch = replay.sample(64)
    first = batch.index == 0
    assert first.any()
    priority = agent.update(batch).priority[first]
    torch.testing.assert_close(priority, torch.full_like(priority, 9.143), rtol=0, atol=1e-5)


def test_the_batchs_discount_is_taken_as_it_is() -> None:
    agent = constant(DQNConfig(hidden=()), [0.0, 0.0], [3.0, -1.0])
    batch = replace(
        make_batch(2, act=TWO),
        reward=torch.tensor([-2.0, 0.5]),
        discount=torch.tensor([0.0, 0.729]),
        terminated=torch.tensor([False, True]),
    )
    priority = agent.update(batch).priority
    torch.testing.assert_close(priority, torch.tensor([2.0, 0.5 + 0.729 * 3]))


def test_huber_by_hand() -> None:
    """At the threshold 0.5 errors 0.3 and 2 cost 0.045 and 0.875; weights 1 and 2."""
    agent = constant(
        DQNConfig(hidden=(), loss="huber", huber_threshold=0.5), [0.0, 0.0], [0.0, 0.0]
    )
    batch = replace(
        make_batch(2, act=TWO),
        reward=torch.tensor([0.3, -2.0]),
        weight=torch.tensor([1.0, 2.0]),
    )
    update = agent.update(batch)
    assert update.metrics["loss/critic"].item() == pytest.approx((0.045 + 1.75) / 2, abs=1e-6)
    torch.testing.assert_close(update.priority, torch.tensor([0.3, 2.0]))  # unweighted


def test_pal_by_hand() -> None:
    """Errors 0.5 and -4, alpha 0.5: 1/8 and 8/1.5, over the mean of 1 and 2; weights 1 and 2.

    With threshold 2: sqrt(2) / 8 and 2 * 8/1.5, over the mean of sqrt(2) and 2.
    """
    root = 2**0.5
    for threshold, want in (
        (1.0, (1 / 8 + 2 * 8 / 1.5) / 1.5 / 2),
        (2.0, (root / 8 + 4 * 8 / 1.5) / ((root + 2) / 2) / 2),
    ):
        config = DQNConfig(hidden=(), loss="pal", pal_alpha=0.5, huber_threshold=threshold)
        agent = constant(config, [0.0, 0.0], [0.0, 0.0])
        batch = replace(
            make_batch(2, act=TWO),
            reward=torch.tensor([0.5, -4.0]),
            weight=torch.tensor([1.0, 2.0]),
        )
        update = agent.update(batch)
        assert update.metrics["loss/critic"].item() == pytest.approx(want, rel=1e-6)
        torch.testing.assert_close(update.priority, torch.tensor([0.5, 4.0]))


def test_dueling_by_hand() -> None:
    """V = 10 and A = 1, 2, 6: the mean 3 goes, so that Q = 8, 9, 13."""
    agent = DQN(OBS, gym.spaces.Discrete(3), DQNConfig(hidden=(4,), dueling=True))
    set_constant(agent.online.value, [10.0])
    set_constant(agent.online.advantage, [1.0, 2.0, 6.0])
    q = agent.online(torch.randn(2, 3))
    torch.testing.assert_close(q, torch.tensor([[8.0, 9.0, 13.0]]).expand(2, 3))
    assert agent.act(torch.randn(2, 3), explore=False)[0].tolist() == [2, 2]


def plain_values(state: dict[str, Tensor], obs: Tensor, config: DQNConfig, image: bool) -> Tensor:
    """Action values from a state dict with other operations: sums and products alone."""
    x = obs.to(torch.float64)
    if image:
        w, b = state["encoder.convolutions.0.weight"], state["encoder.convolutions.0.bias"]
        patches = (x / 255.0).unfold(2, 3, 1).unfold(3, 3, 1)
        x = (torch.einsum("bchwij,ocij->bohw", patches, w) + b[:, None, None]).clamp(min=0)
    x = x.reshape(len(x), -1)

    def layers(x: Tensor, name: str, last: bool) -> Tensor:
        weights = [key for key in state if key.startswith(name) and key.endswith("weight")]
        for i, key in enumerate(weights):
            x = x @ state[key].T + state[key.replace("weight", "bias")]
            if not last or i + 1 < len(weights):
                x = x.clamp(min=0)
        return x

    if not config.dueling:
        return layers(x, "head.", True)
    x = layers(x, "body.", False)
    value, advantage = layers(x, "value.", True), layers(x, "advantage.", True)
    return value + advantage - advantage.sum(1, keepdim=True) / advantage.shape[1]


VARIANTS = {
    "plain": DQNConfig(hidden=(16, 8)),
    "double": DQNConfig(hidden=(16, 8), double=True, loss="huber", huber_threshold=0.3),
    "dueling": DQNConfig(hidden=(16, 8), dueling=True, max_grad_norm=0.05),
    "eps": DQNConfig(hidden=(), double=True, lr=1e-2, optimizer_eps=1e-3),
}


@pytest.mark.parametrize("image", [False, True], ids=["vector", "image"])
@pytest.mark.parametrize("name", VARIANTS)
def test_updates_equal_a_plain_implementation(name: str, image: bool) -> None:
    config, space = VARIANTS[name], IMAGE if image else OBS
    agent = DQN(space, ACT, config, seed=3)
    with torch.no_grad():
        for p in agent.target.parameters():  # else the two could be confused unseen
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(7)))
    online, target = (
        {k: v.detach().double().clone() for k, v in net.state_dict().items()}
        for net in (agent.online, agent.target)
    )
    first = {k: torch.zeros_like(v) for k, v in online.items()}
    second = {k: torch.zeros_like(v) for k, v in online.items()}
    for step in range(1, 4):
        batch = make_batch(32, step, obs=space)
        batch.weight.copy_(torch.rand(32, generator=torch.Generator().manual_seed(step)))
        update = agent.update(batch)

        for v in online.values():
            v.requires_grad_(True)
        q = plain_values(online, batch.obs, config, image)
        with torch.no_grad():
            q_next = plain_values(target, batch.next_obs, config, image)
            ranking = plain_values(online, batch.next_obs, config, image)
        rows = range(32)
        errors = []
        for i in rows:
            chosen = max(range(4), key=lambda a: (ranking if config.double else q_next)[i, a])
            y = batch.reward[i].double() + batch.discount[i].double() * q_next[i, chosen]
            errors.append(q[i, batch.action[i] + 2] - y)
        delta = torch.stack(errors)
        penalty = delta**2
        if config.loss == "huber":
            k = config.huber_threshold
            far = delta.abs() > k
            penalty = torch.where(far, k * (delta.abs() - k / 2), delta**2 / 2)
        loss = (batch.weight.double() * penalty).mean()
        grads = dict(zip(online, torch.autograd.grad(loss, list(online.values())), strict=True))
        assert update.metrics["loss/critic"].item() == pytest.approx(loss.item(), rel=1e-5)
        torch.testing.assert_close(
            update.priority.double(), delta.detach().abs(), rtol=0, atol=1e-5
        )

        if config.max_grad_norm:
            norm = sum(g.square().sum() for g in grads.values()).sqrt()
            assert norm > config.max_grad_norm  # else nothing is clipped
            grads = {k: g * (config.max_grad_norm / (norm + 1e-6)) for k, g in grads.items()}
        eps = config.optimizer_eps or 1e-8
        for k, g in grads.items():
            first[k] = 0.9 * first[k] + 0.1 * g
            second[k] = 0.999 * second[k] + 0.001 * g**2
            mean, var = first[k] / (1 - 0.9**step), second[k] / (1 - 0.999**step)
            online[k] = (online[k] - config.lr * mean / (var.sqrt() + eps)).detach()
        for k, v in agent.online.state_dict().items():
            # Adam magnifies the rounding of gradients near its epsilon: a few weights may differ.
            error = (v.double() - online[k]).abs()
            assert (error > 1e-6).double().mean() < 0.01 and error.max() < 2 * config.lr, (step, k)
            online[k] = v.detach().double().clone()


def test_target_is_copied_when_due() -> None:
    agent = DQN(OBS, ACT, DQNConfig(hidden=(8,), target_period=3))
    start = parameters(agent.target.state_dict())
    for i in range(1, 8):
        agent.update(make_batch(8, i))
        if i % 3 == 0:
            start = parameters(agent.online.state_dict())
        assert_equal_states(parameters(agent.target.state_dict()), start)
    assert not any(p.requires_grad for p in agent.target.parameters())


def test_networks_begin_equal() -> None:
    agent = DQN(IMAGE, ACT, SMALL)
    assert_equal_states(dict(agent.online.state_dict()), dict(agent.target.state_dict()))


@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((4, 84, 84), np.uint8),
        ((10, 10, 4), bool),
        ((6, 7, 3), np.float32),
        ((3, 3, 3), np.uint8),
        ((40, 36, 3), np.uint8),
        ((5,), np.uint8),
        ((2, 3), np.float32),
        ((), np.float32),
    ],
    ids=str,
)
def test_observations(shape: tuple[int, ...], dtype: Any, dueling: bool) -> None:
    low, high = (0, 1) if dtype is bool else (0, 255)
    space = gym.spaces.Box(low, high, shape, dtype)
    agent = DQN(space, ACT, replace(SMALL, dueling=dueling))
    obs = torch.as_tensor(np.stack([space.sample() for _ in range(5)]))
    action, extra = agent.act(obs)
    assert action.shape == (5,) and action.dtype == torch.int64 and extra == {}
    assert all(ACT.contains(int(a)) for a in action)
    update = agent.update(replace(make_batch(5), obs=obs, next_obs=obs))
    assert update.priority.shape == (5,)
    assert set(update.metrics) == set(METRICS)


def test_channels_first_and_last_are_the_same_image() -> None:
    first = gym.spaces.Box(0, 255, (4, 10, 9), np.uint8)
    last = gym.spaces.Box(0, 255, (10, 9, 4), np.uint8)
    images = draw_obs(first, 3, torch.Generator().manual_seed(0))
    a, b = DQN(first, ACT, SMALL), DQN(last, ACT, SMALL)
    expected = a.online(images)
    torch.testing.assert_close(b.online(images.permute(0, 2, 3, 1)), expected)


def test_views_of_one_tensor_of_frames() -> None:
    """As a replay gives them that stores every frame once."""
    space = gym.spaces.Box(0, 255, (4, 84, 84), np.uint8)
    frames = draw_obs(gym.spaces.Box(0, 255, (5, 84, 84), np.uint8), 3, torch.Generator())
    batch = make_batch(3)
    views = replace(batch, obs=frames[:, :4], next_obs=frames[:, 1:])
    copies = replace(batch, obs=frames[:, :4].clone(), next_obs=frames[:, 1:].clone())
    ours, theirs = (DQN(space, ACT, SMALL).update(b).priority for b in (views, copies))
    assert torch.equal(ours, theirs)


def test_the_nature_network() -> None:
    agent = DQN(gym.spaces.Box(0, 255, (4, 84, 84), np.uint8), gym.spaces.Discrete(6))
    shapes = {k: tuple(v.shape) for k, v in agent.online.state_dict().items() if "weight" in k}
    assert list(shapes.values()) == [
        (32, 4, 8, 8),
        (64, 32, 4, 4),
        (64, 64, 3, 3),
        (512, 3136),
        (6, 512),
    ]
    for key, shape in shapes.items():
        weight = agent.online.state_dict()[key]
        bound = 1 / np.sqrt(np.prod(shape[1:]))
        assert 0.95 * bound < weight.abs().max() <= bound, key


@pytest.mark.parametrize(
    "space",
    [gym.spaces.Box(-1, 1, (2,)), gym.spaces.MultiDiscrete([2, 2]), gym.spaces.MultiBinary(2)],
    ids=str,
)
def test_refuses_action_spaces(space: gym.Space[Any]) -> None:
    with pytest.raises(UserError, match="DQN needs discrete actions, the environment has") as info:
        DQN(OBS, space, SMALL)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.Discrete(3),
        gym.spaces.Dict({"a": OBS}),
        gym.spaces.Box(0, 255, (3, 2, 2), np.uint8),
    ],
    ids=str,
)
def test_refuses_observation_spaces(space: gym.Space[Any]) -> None:
    with pytest.raises(UserError) as info:
        DQN(space, ACT, SMALL)
    assert "\n" not in str(info.value)


def test_schedule() -> None:
    schedule = LinearSchedule(1.0, 0.1, 90)
    assert [schedule(step) for step in (0, 45, 90, 1000)] == pytest.approx([1.0, 0.55, 0.1, 0.1])
    assert LinearSchedule(1.0, 0.2, 0)(0) == 0.2


def test_epsilon_counts_the_transitions_that_were_explored() -> None:
    config = DQNConfig(hidden=(), epsilon_initial=0.9, epsilon_final=0.1, epsilon_transitions=100)
    agent = DQN(OBS, ACT, config)
    seen = []
    for _ in range(4):
        seen.append(agent.update(make_batch(2)).metrics["policy/epsilon"].item())
        agent.act(torch.zeros(25, 3))
        agent.act(torch.zeros(7, 3), explore=False)
    assert seen == pytest.approx([0.9, 0.7, 0.5, 0.3])


def test_epsilon_greedy_draws_uniformly_with_probability_epsilon() -> None:
    """Of 40,000 draws with epsilon 0.4 over 4 actions the greedy one gets 0.7, the others 0.1."""
    explore = EpsilonGreedy(LinearSchedule(0.4, 0.4, 1), 0.2, seed=0, device=torch.device("cpu"))
    greedy = torch.full((40_000,), 2)
    counts = torch.bincount(explore(greedy, 4, explore=True), minlength=4) / 40_000
    torch.testing.assert_close(counts, torch.tensor([0.1, 0.1, 0.7, 0.1]), rtol=0, atol=0.01)
    counts = torch.bincount(explore(greedy, 4, explore=False), minlength=4) / 40_000
    torch.testing.assert_close(counts, torch.tensor([0.05, 0.05, 0.85, 0.05]), rtol=0, atol=0.01)
    assert explore.count == 40_000


def test_evaluations_leave_exploration_as_it_is() -> None:
    def stream(evaluate: bool) -> list[int]:
        agent = DQN(OBS, ACT, replace(SMALL, epsilon_evaluation=0.5), seed=1)
        drawn = []
        for _ in range(20):
            drawn += agent.act(torch.zeros(3, 3))[0].tolist()
            if evaluate:
                agent.act(torch.zeros(5, 3), explore=False)
        return drawn

    assert stream(True) == stream(False)
    assert len(set(stream(True))) == 4


def test_seeds() -> None:
    def start(seed: int) -> tuple[dict[str, Tensor], list[int]]:
        agent = DQN(OBS, ACT, SMALL, seed=seed)
        return parameters(agent.online.state_dict()), agent.act(torch.zeros(50, 3))[0].tolist()

    (first, acts), (again, acts_again), (other, acts_other) = start(5), start(5), start(6)
    assert_equal_states(first, again)
    assert acts == acts_again != acts_other
    assert not any(torch.equal(first[name], other[name]) for name in first)


RESTARTS = {
    "vector": (OBS, DQNConfig(hidden=(8,), target_period=2, epsilon_evaluation=0.5)),
    "image": (IMAGE, DQNConfig(hidden=(8,), target_period=4, dueling=True, double=True)),
    "rmsprop": (OBS, DQNConfig(hidden=(8,), optimizer="RMSprop")),
}


@pytest.mark.parametrize("name", RESTARTS)
def test_restart_continues_bit_for_bit(name: str, tmp_path: Path) -> None:
    space, config = RESTARTS[name]
    agent = DQN(space, ACT, config, seed=1)
    obs = draw_obs(space, 20, torch.Generator().manual_seed(0))

    def run(one: DQN, i: int) -> list[int]:
        one.update(make_batch(16, i, obs=space))
        return [a for e in (True, False) for a in one.act(obs, explore=e)[0].tolist()]

    for i in range(3):
        run(agent, i)
    CheckpointStore(tmp_path).save(3, agent.state_dict())
    twin = DQN(space, ACT, config, seed=2)
    run(twin, 9)  # what it had is to be forgotten
    twin.load_state_dict(CheckpointStore(tmp_path).load())
    assert_equal_states(copy.deepcopy(agent.state_dict()), twin.state_dict())
    for i in range(3, 8):
        assert run(agent, i) == run(twin, i)
    assert agent.exploration.epsilon() == twin.exploration.epsilon() < config.epsilon_initial
    assert_equal_states(agent.state_dict(), twin.state_dict())


NOT_POSITIVE = st.sampled_from([0.0, -1.0, float("nan"), float("inf"), "1", True])
NOT_A_COUNT = st.sampled_from([0, -3, 1.5, "1", None, True])
NOT_A_FRACTION = st.sampled_from([-0.1, 1.1, float("nan"), "0.1", None, True])
BAD: dict[str, st.SearchStrategy[Any]] = {
    "hidden": st.sampled_from([8, "8", ("8",), (0,)]),
    "loss": st.sampled_from(["l1", None]),
    "target_period": NOT_A_COUNT,
    "epsilon_transitions": st.sampled_from([-1, 1.5, None]),
    **dict.fromkeys(("lr", "huber_threshold", "max_grad_norm", "optimizer_eps"), NOT_POSITIVE),
    **dict.fromkeys(("epsilon_initial", "epsilon_final", "epsilon_evaluation"), NOT_A_FRACTION),
    "pal_alpha": NOT_A_FRACTION,
    **dict.fromkeys(("double", "dueling"), st.sampled_from([1, "yes", None])),
    "learning_rate": st.just(3e-4),
}


@settings(deadline=None, max_examples=8)
@given(data=st.data())
@pytest.mark.parametrize("field", BAD)
def test_config_refuses(field: str, data: st.DataObject) -> None:
    with pytest.raises(pydantic.ValidationError, match=field):
        DQNConfig(**{field: data.draw(BAD[field])})


def test_an_epsilon_that_an_optimizer_does_not_take() -> None:
    with pytest.raises(UserError, match="SGD"):
        DQN(OBS, ACT, DQNConfig(hidden=(), optimizer="SGD", optimizer_eps=1e-3))
