"""Discrete SAC: expectations, targets and remedies by hand, a second implementation, restarts."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
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
from torch import Tensor

from rlsuite.agents.discrete_sac import METRICS, DiscreteSAC, DiscreteSACConfig
from rlsuite.checkpoint import CheckpointStore
from rlsuite.errors import UserError
from rlsuite.run import Run, RunConfig
from rlsuite.types import Batch

SMALL = DiscreteSACConfig(hidden=(8,))
TWO = gym.spaces.Discrete(2, start=5)


def agent_saying(
    config: DiscreteSACConfig,
    policy: list[float],
    critics: list[list[float]],
    targets: list[list[float]],
) -> DiscreteSAC:
    """The policy's probabilities and the critics' values, whatever they see."""
    agent = DiscreteSAC(OBS, TWO, config)
    set_constant(agent.actor.head, torch.tensor(policy).log().tolist())
    for networks, rows in ((agent.critic, critics), (agent.target, targets)):
        for network, row in zip(networks, rows, strict=True):
            set_constant(network.head, row)
    return agent


def one_transition(reward: float = 1.0, discount: float = 0.9, **extra: Tensor) -> Batch:
    """Of the second action."""
    return replace(
        make_batch(1, act=TWO, extra=extra),
        action=torch.tensor([6]),
        reward=torch.tensor([reward]),
        discount=torch.tensor([discount]),
    )


# pi = 0.25, 0.75: entropy H = 0.562335. The target critics say 1, 5 and 3, 2: the least is 1, 2,
# worth 0.25 * 1 + 0.75 * 2 = 1.75, the mean is 2, 3.5, worth 3.125. With temperature 0.5 the soft
# values are 1.75 + 0.5 H = 2.031168 and 3.406168, the targets with reward 1 and discount 0.9
# 2.828051 and 4.065551; without entropy in the critics 2.575 and 3.8125; with weight 2, 3.587203.
# The critics say 0 and 1 of the action taken.
@pytest.mark.parametrize(
    ("value", "critic_temperature", "discount", "target"),
    [
        ("min", "actor", 0.9, 2.828051),
        ("mean", "actor", 0.9, 4.065551),
        ("min", 0.0, 0.9, 2.575),
        ("mean", 0.0, 0.9, 3.8125),
        ("min", 2.0, 0.9, 3.587203),
        ("min", "actor", 0.0, 1.0),
    ],
)
def test_target_by_hand(
    value: Any, critic_temperature: Any, discount: float, target: float
) -> None:
    config = DiscreteSACConfig(
        hidden=(), temperature=0.5, value=value, critic_temperature=critic_temperature
    )
    agent = agent_saying(config, [0.25, 0.75], [[7.0, 0.0], [7.0, 1.0]], [[1.0, 5.0], [3.0, 2.0]])
    update = agent.update(one_transition(discount=discount))
    assert update.priority.item() == pytest.approx(target, abs=1e-5)
    loss = 0.5 * (target**2 + (target - 1) ** 2)
    assert update.metrics["loss/critic"].item() == pytest.approx(loss, abs=1e-4)
    assert update.metrics["value/q"].item() == 0.5
    assert update.metrics["policy/entropy"].item() == pytest.approx(0.562335, abs=1e-6)
    assert update.metrics["policy/temperature"].item() == 0.5


def test_the_policys_loss_by_hand() -> None:
    """-0.5 H - (0.25 * least of 4, 3 + 0.75 * least of 1, 2) = -0.281168 - 1.5; slow critics."""
    config = DiscreteSACConfig(hidden=(), temperature=0.5, lr_critic=1e-12)
    agent = agent_saying(config, [0.25, 0.75], [[4.0, 1.0], [3.0, 2.0]], [[0.0, 0.0]] * 2)
    loss = agent.update(one_transition()).metrics["loss/actor"].item()
    assert loss == pytest.approx(-1.781168, abs=1e-5)
    agent = agent_saying(
        replace(config, value="mean"), [0.25, 0.75], [[4.0, 1.0], [3.0, 2.0]], [[0.0, 0.0]] * 2
    )
    loss = agent.update(one_transition()).metrics["loss/actor"].item()
    assert loss == pytest.approx(-0.281168 - 0.25 * 3.5 - 0.75 * 1.5, abs=1e-5)


def test_entropy_penalty_by_hand() -> None:
    """The policy acted with entropy 0.2, has 0.562335 now: 0.5 * 0.362335**2 = 0.065643 more."""
    config = DiscreteSACConfig(hidden=(), temperature=0.5, lr_critic=1e-12, entropy_penalty=0.5)
    agent = agent_saying(config, [0.25, 0.75], [[4.0, 1.0], [3.0, 2.0]], [[0.0, 0.0]] * 2)
    _, extra = agent.act(torch.zeros(3, 3))
    torch.testing.assert_close(extra["entropy"], torch.full((3,), 0.562335))
    loss = agent.update(one_transition(entropy=torch.tensor([0.2]))).metrics["loss/actor"].item()
    assert loss == pytest.approx(-1.781168 + 0.065643, abs=1e-5)


# The target is y = 1 (terminal), the clip 0.5, per transition the greater of two squares:
#   value 3 against the target network's 2.8: inside the clip, both are (3 - 1)**2 = 4.
#   value 1.5, target network 4: clipped to 3.5, (2.5)**2 = 6.25 against 0.25.
#   value 3, target network 1: clipped to 1.5, 0.25 against 4: the plain one.
@pytest.mark.parametrize(
    ("value", "old", "square", "moves"),
    [(3.0, 2.8, 4.0, True), (1.5, 4.0, 6.25, False), (3.0, 1.0, 4.0, True)],
)
def test_q_clip_by_hand(value: float, old: float, square: float, moves: bool) -> None:
    config = DiscreteSACConfig(hidden=(), critics=1, q_clip=0.5, temperature=0.5)
    agent = agent_saying(config, [0.5, 0.5], [[0.0, value]], [[0.0, old]])
    update = agent.update(one_transition(discount=0.0))
    assert update.metrics["loss/critic"].item() == pytest.approx(square / 2, abs=1e-5)
    assert update.priority.item() == pytest.approx(abs(value - 1.0), abs=1e-6)  # unclipped
    assert (agent.critic[0].head[-1].bias[1].item() != value) is moves


def test_q_clip_is_taken_per_transition() -> None:
    """The two greater squares, 6.25 and 4; the greater of the means would be that of 4 and 0.25."""
    config = DiscreteSACConfig(hidden=(), critics=1, q_clip=0.5, temperature=0.5)
    agent = agent_saying(config, [0.5, 0.5], [[1.5, 3.0]], [[4.0, 1.0]])
    batch = replace(
        make_batch(2, act=TWO),
        action=torch.tensor([5, 6]),
        reward=torch.ones(2),
        discount=torch.zeros(2),
    )
    loss = agent.update(batch).metrics["loss/critic"].item()
    assert loss == pytest.approx(0.5 * (6.25 + 4.0) / 2, abs=1e-5)


def test_expectations_equal_those_over_sampled_actions() -> None:
    """The soft value, the policy's loss and the entropy, against 200,000 draws."""
    config = DiscreteSACConfig(hidden=(16,), temperature=0.3)
    agent = DiscreteSAC(OBS, gym.spaces.Discrete(4), config, seed=1)
    with torch.no_grad():  # a policy that is not nearly uniform
        agent.actor.head[-1].weight.mul_(8)
    obs = torch.randn(1, 3)
    actions, _ = agent.act(obs.expand(200_000, 3))
    with torch.no_grad():
        log_pi = agent.actor(obs).log_softmax(1)[0]
        target = torch.stack([net(obs)[0] for net in agent.target]).amin(0)
        drawn = target[actions] - 0.3 * log_pi[actions]
        soft = agent._soft_value(obs, torch.tensor(0.3))
        tolerance = 6 * drawn.std() / math.sqrt(200_000)
        assert (drawn.mean() - soft).abs().item() < tolerance
        assert log_pi.std() > 0.1
        frequency = torch.bincount(actions, minlength=4) / 200_000
        torch.testing.assert_close(frequency, log_pi.exp(), rtol=0, atol=0.006)
        batch = replace(make_batch(1, act=gym.spaces.Discrete(4)), obs=obs)
        loss, entropy = agent._actor_loss(batch, torch.tensor(0.3))
        value = torch.stack([net(obs)[0] for net in agent.critic]).amin(0)
        drawn = 0.3 * log_pi[actions] - value[actions]
        assert (drawn.mean() - loss).abs().item() < 6 * drawn.std() / math.sqrt(200_000)
        assert (entropy + log_pi[actions].mean()).abs().item() < 0.02


@pytest.mark.parametrize(("policy", "rises"), [([0.5, 0.5], False), ([0.99, 0.01], True)])
def test_the_temperature_rises_where_the_entropy_is_too_low(
    policy: list[float], rises: bool
) -> None:
    """The target is half of ln 2; J = log alpha (H - target) with log alpha = ln 0.5."""
    config = DiscreteSACConfig(hidden=(), initial_temperature=0.5, lr_actor=1e-12)
    agent = agent_saying(config, policy, [[0.0, 0.0]] * 2, [[0.0, 0.0]] * 2)
    metrics = agent.update(one_transition()).metrics
    entropy = -sum(p * math.log(p) for p in policy)
    expected = math.log(0.5) * (entropy - 0.5 * math.log(2))
    assert metrics["loss/temperature"].item() == pytest.approx(expected, abs=1e-5)
    assert (agent.temperature.value().item() > 0.5) is rises


@pytest.mark.parametrize(("policy", "end"), [([0.5, 0.5], -1.0), ([0.99, 0.01], 0.5)])
def test_the_temperature_stays_within_its_bounds(policy: list[float], end: float) -> None:
    config = DiscreteSACConfig(
        hidden=(), lr_temperature=0.3, lr_actor=1e-12, log_temperature_bounds=(-1.0, 0.5)
    )
    agent = agent_saying(config, policy, [[0.0, 0.0]] * 2, [[0.0, 0.0]] * 2)
    for _ in range(8):
        agent.update(one_transition())
    assert agent.temperature.log_value.item() == pytest.approx(end)


VARIANTS = {
    "default": DiscreteSACConfig(hidden=(16,)),
    "remedies": DiscreteSACConfig(
        hidden=(16,),
        value="mean",
        q_clip=0.05,
        entropy_penalty=0.5,
        critic_temperature=0.0,
        temperature=0.05,
    ),
    "copies": DiscreteSACConfig(
        hidden=(), critics=3, target_rate=1.0, target_period=2, optimizer_eps=1e-4
    ),
}


def mean(values: list[Tensor]) -> Tensor:
    return sum(values) / len(values)


class Plain:
    """Losses written out over transitions and actions, PyTorch's own optimizers."""

    def __init__(self, twin: DiscreteSAC) -> None:
        self.config, self.twin = twin.config, twin
        eps = self.config.optimizer_eps or 1e-8
        self.actor_adam = torch.optim.Adam(twin.actor.parameters(), lr=3e-4, eps=eps)
        self.critic_adam = torch.optim.Adam(twin.critic.parameters(), lr=3e-4, eps=eps)
        self.log_alpha = torch.zeros(1, requires_grad=True)
        self.alpha_adam = torch.optim.Adam([self.log_alpha], lr=3e-4)
        self.choose = (
            min if self.config.value == "min" else lambda values: sum(values) / len(values)
        )

    def alpha(self) -> float:
        if self.config.temperature == "auto":
            return self.log_alpha.exp().item()
        return self.config.temperature

    def targets(self, batch: Batch, alpha: float) -> list[float]:
        bonus = self.config.critic_temperature
        weight = alpha if bonus == "actor" else bonus
        with torch.no_grad():
            pi = self.twin.actor(batch.next_obs).softmax(1)
            q = [net(batch.next_obs) for net in self.twin.target]
        found = []
        for i in range(len(pi)):
            soft = sum(
                pi[i, a] * (self.choose([t[i, a] for t in q]) - weight * pi[i, a].log())
                for a in range(4)
            )
            found.append((batch.reward[i] + batch.discount[i] * soft).item())
        return found

    def improve_critics(self, batch: Batch, y: list[float]) -> tuple[float, list[float]]:
        with torch.no_grad():
            old = [net(batch.obs) for net in self.twin.target]
        q = [net(batch.obs) for net in self.twin.critic]
        loss, priorities = torch.zeros(()), [0.0] * len(y)
        for i, a in enumerate(batch.action + 2):
            for mine, its in zip(q, old, strict=True):
                error = (mine[i, a] - y[i]) ** 2
                if self.config.q_clip is not None:
                    clip = self.config.q_clip
                    change = torch.clip(mine[i, a] - its[i, a], -clip, clip)
                    error = max(error, (its[i, a] + change - y[i]) ** 2)
                loss = loss + 0.5 * batch.weight[i] * error / len(y)
                priorities[i] = max(priorities[i], abs(mine[i, a].item() - y[i]))
        step(self.critic_adam, loss)
        return loss.item(), priorities

    def improve_actor(self, batch: Batch, alpha: float) -> tuple[float, float]:
        with torch.no_grad():
            q = [net(batch.obs) for net in self.twin.critic]
        pi = self.twin.actor(batch.obs).softmax(1)
        loss, entropies = torch.zeros(()), [-sum(p * p.log() for p in row) for row in pi]
        for i, entropy in enumerate(entropies):
            for a in range(4):
                gain = self.choose([t[i, a] for t in q])
                loss = loss + pi[i, a] * (alpha * pi[i, a].log() - gain) / len(pi)
            change = batch.extra["entropy"][i] - entropy
            loss = loss + self.config.entropy_penalty * change**2 / len(pi)
        step(self.actor_adam, loss)
        return loss.item(), sum(e.item() for e in entropies) / len(pi)

    def improve_temperature(self, entropy: float) -> None:
        step(self.alpha_adam, (self.log_alpha * (entropy - 0.5 * math.log(4))).sum())

    def move_targets(self) -> None:
        rate = self.config.target_rate
        pairs = zip(self.twin.target.parameters(), self.twin.critic.parameters(), strict=True)
        with torch.no_grad():
            for t, p in pairs:
                t.copy_((1 - rate) * t + rate * p)


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@pytest.mark.parametrize("space", [OBS, IMAGE], ids=["vector", "image"])
@pytest.mark.parametrize("name", VARIANTS)
def test_updates_equal_a_plain_implementation(name: str, space: gym.spaces.Box) -> None:
    config = VARIANTS[name]
    agent, twin = (DiscreteSAC(space, ACT, config, seed=3) for _ in range(2))
    for one in (agent, twin):
        g = torch.Generator().manual_seed(7)
        with torch.no_grad():  # else online and target could be confused unseen
            for p in one.target.parameters():
                p.add_(0.1 * torch.randn(p.shape, generator=g))
    plain = Plain(twin)
    for number in range(1, 4):
        g = torch.Generator().manual_seed(number)
        batch = make_batch(16, number, obs=space, extra={"entropy": torch.rand(16, generator=g)})
        batch.weight.copy_(torch.rand(16, generator=g))
        update = agent.update(batch)
        metrics = {key: value.item() for key, value in update.metrics.items()}

        alpha = plain.alpha()
        assert metrics["policy/temperature"] == pytest.approx(alpha, abs=1e-6)
        loss, priorities = plain.improve_critics(batch, plain.targets(batch, alpha))
        assert metrics["loss/critic"] == pytest.approx(loss, rel=1e-5)
        assert update.priority.tolist() == pytest.approx(priorities, abs=1e-5)
        loss, entropy = plain.improve_actor(batch, alpha)
        assert metrics["loss/actor"] == pytest.approx(loss, rel=1e-4, abs=1e-6)
        assert metrics["policy/entropy"] == pytest.approx(entropy, abs=1e-6)
        plain.improve_temperature(entropy)
        if number % config.target_period == 0:
            plain.move_targets()
        for part in ("actor", "critic", "target"):
            ours, theirs = (getattr(one, part).parameters() for one in (agent, twin))
            for mine, its in zip(ours, theirs, strict=True):
                torch.testing.assert_close(mine, its, rtol=0, atol=2e-5, msg=part)


def test_nothing_is_shared_and_targets_begin_equal() -> None:
    agent = DiscreteSAC(IMAGE, ACT, SMALL)
    assert_equal_states(
        parameters(agent.critic.state_dict()), parameters(agent.target.state_dict())
    )
    first = [net.encoder.convolutions[0].weight for net in (agent.actor, *agent.critic)]
    assert not any(torch.equal(first[i], first[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.parametrize("space", [OBS, IMAGE], ids=["vector", "image"])
def test_actions(space: gym.spaces.Box) -> None:
    agent = DiscreteSAC(space, ACT, SMALL)
    obs = draw_obs(space, 50, torch.Generator().manual_seed(0))
    action, extra = agent.act(obs)
    assert action.shape == (50,) and action.dtype == torch.int64 and extra == {}
    assert set(action.tolist()) == {-2, -1, 0, 1}
    greedy, _ = agent.act(obs, explore=False)
    assert torch.equal(greedy, agent.actor(obs).argmax(1) - 2)
    metrics = agent.update(make_batch(6, obs=space)).metrics
    assert set(metrics) == set(METRICS)


def test_evaluations_leave_the_noise_as_it_is() -> None:
    agent = DiscreteSAC(OBS, ACT, SMALL)
    before = agent.noise.get_state()
    agent.act(torch.zeros(5, 3), explore=False)
    assert torch.equal(agent.noise.get_state(), before)
    agent.act(torch.zeros(5, 3))
    assert not torch.equal(agent.noise.get_state(), before)


def test_refuses() -> None:
    for act, obs, text in (
        (gym.spaces.Box(-1, 1, (2,)), OBS, "discrete SAC needs discrete actions"),
        (ACT, gym.spaces.Discrete(4), "needs Box observations"),
    ):
        with pytest.raises(UserError, match=text) as info:
            DiscreteSAC(obs, act, SMALL)
        assert "\n" not in str(info.value)
    for bounds, initial in (((0.0, -1.0), 1.0), ((-10.0, 2.0), 10.0)):
        config = DiscreteSACConfig(log_temperature_bounds=bounds, initial_temperature=initial)
        with pytest.raises(UserError, match="log_temperature_bounds"):
            DiscreteSAC(OBS, ACT, config)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("value", "max"),
        ("q_clip", 0.0),
        ("entropy_penalty", -0.5),
        ("target_entropy_ratio", 1.1),
        ("log_temperature_bounds", (0.0,)),
        ("critic_temperature", "same"),
        ("target_period", 0),
    ],
)
def test_config_refuses(field: str, value: Any) -> None:
    with pytest.raises(pydantic.ValidationError, match=field):
        DiscreteSACConfig(**{field: value})


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("space", [OBS, IMAGE], ids=["vector", "image"])
def test_restart_continues_bit_for_bit(name: str, space: gym.spaces.Box, tmp_path: Path) -> None:
    agent = DiscreteSAC(space, ACT, VARIANTS[name], seed=1)
    obs = draw_obs(space, 20, torch.Generator().manual_seed(0))

    def run(one: DiscreteSAC, i: int) -> list[int]:
        one.update(make_batch(16, i, obs=space, extra={"entropy": torch.rand(16) * 0 + 0.3}))
        return one.act(obs)[0].tolist()

    for i in range(3):
        run(agent, i)
    CheckpointStore(tmp_path).save(3, agent.state_dict())
    twin = DiscreteSAC(space, ACT, VARIANTS[name], seed=2)
    run(twin, 9)
    twin.load_state_dict(CheckpointStore(tmp_path).load())
    for i in range(3, 7):
        assert run(agent, i) == run(twin, i)
    assert_equal_states(agent.state_dict(), twin.state_dict())


@pytest.mark.parametrize(("high", "passes"), [(2.0, 7.389), (100.0, 10.1)])
def test_a_temperature_that_explodes_is_told_once(
    high: float, passes: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Above 10, or at its bound: the target entropy is out of reach."""
    agent = DiscreteSAC(OBS, ACT, DiscreteSACConfig(hidden=(), log_temperature_bounds=(-10, high)))
    config = RunConfig(log_every_transitions=1)
    with Run(tmp_path, config, 9, METRICS, None, alarms=agent.alarms) as run:
        run.resume(agent=agent)
        for temperature in (1.0, 7.0, passes, passes + 1):
            assert "warning" not in capsys.readouterr().err
            run.advance(1, [])
            run.log({"policy/temperature": torch.tensor(temperature)})
            run.housekeeping()
            if temperature == passes:
                text = capsys.readouterr().err
                assert text.count("warning: policy/temperature is") == 1
                assert "lower agent.target_entropy_ratio" in text
        assert "warning" not in capsys.readouterr().err
    fixed = DiscreteSAC(OBS, ACT, DiscreteSACConfig(hidden=(), temperature=20.0))
    assert fixed.alarms == {}
