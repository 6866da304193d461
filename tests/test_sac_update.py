"""SAC's update against numbers worked out by hand and against a second, plain implementation."""

import math
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sac_cases import ACT, OBS, make_batch, make_noise, weights
from torch import Tensor

from rlsuite.agents.sac import METRICS, SAC, SACConfig
from rlsuite.buffers import Replay, UniformSampler
from rlsuite.types import Batch, Step

ROWS = 32
RATE = 0.1


def set_constant(net: torch.nn.Module, *rows: list[float]) -> None:
    """Make each member return its row, whatever the input."""
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
        for member, row in enumerate(rows):
            net.biases[-1][member, 0].copy_(torch.tensor(row))


# The policy's mean is 0 and its standard deviation 1; with noise 0, u = 0, the action is 0 and
# log pi = -0.5 log(2 pi) - log(1 - 0) = -0.918939. The target critics say 5 and 3, temperature 0.5:
#   soft value of the next state = 3 - 0.5 * -0.918939 = 3.459469.
# With reward 1 and discount 0.9 the target is 1 + 0.9 * 3.459469 = 4.113522. The critics say 1 and
# 2: errors 3.113522 and 2.113522, loss 0.5 * (9.694021 + 4.466977) = 7.080499.
# After a termination the target is the reward, 1: errors 0 and 1, loss 0.5.
KEPT = (4.113522, 3.113522, 7.080499)
DROPPED = (1.0, 1.0, 0.5)


@pytest.mark.parametrize(
    ("terminated", "truncated", "expected"),
    [
        (False, False, KEPT),
        (False, True, KEPT),
        (True, False, DROPPED),
        (True, True, DROPPED),
    ],
)
def test_target_by_hand(
    terminated: bool, truncated: bool, expected: tuple[float, float, float]
) -> None:
    one = gym.spaces.Box(-2, 2, (1,), np.float32)
    agent = SAC(OBS, one, SACConfig(hidden=(4,), temperature=0.5))
    set_constant(agent.actor, [0.0, 0.0])
    set_constant(agent.target, [5.0], [3.0])
    set_constant(agent.critic, [1.0], [2.0])
    replay = Replay(1, UniformSampler(), discount=0.9)
    flags = torch.tensor([[terminated], [truncated]])
    obs = torch.randn(1, 3)
    replay.add(Step(obs, torch.tensor([[0.7]]), torch.ones(1), obs + 1, *flags))
    update = agent.learn(replay.sample(1), torch.zeros(2, 1, 1), policy=False)
    _, priority, loss = expected
    assert update.priority.item() == pytest.approx(priority, abs=2e-6)
    assert update.metrics["loss/critic"].item() == pytest.approx(loss, abs=2e-6)
    assert update.metrics["value/q"].item() == 1.5


@pytest.mark.parametrize(
    ("reward", "discount", "target"),
    [
        (-2.0, 0.0, -2.0),
        (0.5, 0.729, 0.5 + 0.729 * 3.459469),  # three steps: 0.9**3
        (0.0, 1.0, 3.459469),
    ],
)
def test_discount_of_the_batch_is_taken_as_it_is(
    reward: float, discount: float, target: float
) -> None:
    one = gym.spaces.Box(-2, 2, (1,), np.float32)
    agent = SAC(OBS, one, SACConfig(hidden=(), temperature=0.5, critics=1))
    set_constant(agent.actor, [0.0, 0.0])
    set_constant(agent.target, [3.0])
    set_constant(agent.critic, [-4.0])
    # Flags that contradict the discount: the target depends on the discount alone.
    batch = replace(
        make_batch(1, act=one),
        reward=torch.tensor([reward]),
        discount=torch.tensor([discount]),
        terminated=torch.tensor([True]),
    )
    update = agent.learn(batch, torch.zeros(2, 1, 1), policy=False)
    assert update.priority.item() == pytest.approx(target + 4.0, abs=2e-6)


def split_layers(net: torch.nn.Module) -> list[list[tuple[Tensor, Tensor]]]:
    """By member: (in, out) weights and (out,) biases, copied, that gradients can be taken of."""
    members = len(net.weights[0])
    return [
        [
            (w[k].detach().double().requires_grad_(), b[k, 0].detach().double().requires_grad_())
            for w, b in zip(net.weights, net.biases, strict=True)
        ]
        for k in range(members)
    ]


def forward(layers: list[tuple[Tensor, Tensor]], x: Tensor) -> Tensor:
    *hidden, (weight, bias) = layers
    for w, b in hidden:
        x = F.relu(F.linear(x, w.T, b))
    return F.linear(x, weight.T, bias)


def doubled(batch: Batch) -> Batch:
    names = ("obs", "action", "reward", "next_obs", "discount", "weight")
    return replace(batch, **{name: getattr(batch, name).double() for name in names})


class Plain:
    """SAC as the paper's equations read, in float64, with plain gradient descent."""

    def __init__(self, agent: SAC) -> None:
        self.config = agent.config
        self.actor = split_layers(agent.actor)[0]
        self.critics = split_layers(agent.critic)
        self.targets = split_layers(agent.target)
        self.is_learned = agent.config.temperature == "auto"
        self.log_alpha = agent.temperature.value().double().log().requires_grad_()
        self.metrics: dict[str, Tensor] = {}

    def policy(self, obs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        out = forward(self.actor, obs)
        mean, raw = out[:, :2], out[:, 2:]
        if self.config.log_std == "clamp":
            std = raw.clamp(-20, 2).exp()
        else:
            std = (-5 + 7 * torch.sigmoid(2 * raw)).exp()  # sigmoid(2x) = (tanh x + 1) / 2
        u = mean + std * noise
        normal = torch.distributions.Normal(mean, std).log_prob(u)
        slope = 1 - torch.tanh(u) ** 2 + (1e-6 if self.config.log_prob == "epsilon" else 0)
        return torch.tanh(u), (normal - slope.log()).sum(1)

    def values(self, critics: list[list[tuple[Tensor, Tensor]]], *inputs: Tensor) -> Tensor:
        return torch.stack([forward(c, torch.cat(inputs, 1))[:, 0] for c in critics])

    def descend(self, loss: Tensor, layers: list[tuple[Tensor, Tensor]]) -> None:
        parameters = [p for layer in layers for p in layer]
        for p, g in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            p.data -= RATE * g

    def learn(self, batch: Batch, noise: Tensor, policy: bool) -> None:
        low, high = torch.tensor(ACT.low).double(), torch.tensor(ACT.high).double()
        unit = 2 * (batch.action - low) / (high - low) - 1
        alpha = self.log_alpha.detach().exp()
        with torch.no_grad():
            next_action, next_log_prob = self.policy(batch.next_obs, noise[0])
            least = self.values(self.targets, batch.next_obs, next_action).min(0).values
            y = batch.reward + batch.discount * (least - alpha * next_log_prob)
        q = self.values(self.critics, batch.obs, unit)
        self.priority = (q - y).abs().max(0).values.detach()
        loss = (batch.weight * (q - y) ** 2).sum() / (2 * len(y))
        self.metrics = {"loss/critic": loss, "value/q": q.mean()}
        self.descend(loss, [layer for critic in self.critics for layer in critic])
        for draw in noise[1:] if policy else []:
            self.improve_policy(batch.obs, draw)
        for target, critic in zip(self.targets, self.critics, strict=True):
            for old, new in zip(sum(target, ()), sum(critic, ()), strict=True):
                rate = self.config.target_rate
                old.data = (1 - rate) * old.data + rate * new.data

    def improve_policy(self, obs: Tensor, noise: Tensor) -> None:
        alpha = self.log_alpha.detach().exp()
        action, log_prob = self.policy(obs, noise)
        q = self.values(self.critics, obs, action)
        value = {"min": q.min(0).values, "mean": q.mean(0), "first": q[0]}[self.config.actor_value]
        loss = (alpha * log_prob - value).mean()
        self.descend(loss, self.actor)
        self.metrics |= {"loss/actor": loss, "policy/entropy": -log_prob.mean()}
        self.metrics |= {"policy/temperature": alpha, "loss/temperature": torch.zeros(())}
        if self.is_learned:
            goal = -2.0 if self.config.target_entropy == "auto" else self.config.target_entropy
            loss = -(self.log_alpha * (log_prob.detach() + goal)).mean()
            self.metrics["loss/temperature"] = loss
            self.log_alpha.data -= RATE * torch.autograd.grad(loss, self.log_alpha)[0]

    def weights(self) -> dict[str, Tensor]:
        found = {}
        nets = {"actor": [self.actor], "critic": self.critics, "target": self.targets}
        for name, members in nets.items():
            for layer in range(len(self.actor)):
                stacked = [torch.stack([m[layer][i].data for m in members]) for i in (0, 1)]
                found[f"{name}/weights.{layer}"] = stacked[0]
                found[f"{name}/biases.{layer}"] = stacked[1][:, None]
        if self.is_learned:
            found["log_temperature"] = self.log_alpha.data[None]
        return found


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"actor_value": "mean"},
        {"actor_value": "first", "critics": 3},
        {"log_std": "tanh"},
        {"log_prob": "epsilon"},
        {"temperature": 0.3},
        {"target_entropy": 1.5, "initial_temperature": 0.2, "target_rate": 0.3},
        {"policy_period": 2},
        {"policy_period": 3, "critics": 1, "hidden": ()},
    ],
    ids=str,
)
def test_update_is_that_of_the_equations(settings: dict[str, object]) -> None:
    """With plain gradient descent a step is the gradient, so that any leak would show: of the
    policy's loss into critics or temperature, of the target's into the policy."""
    config = SACConfig(
        **{"hidden": (16, 16), **settings},
        optimizer="SGD",
        lr_actor=RATE,
        lr_critic=RATE,
        lr_temperature=RATE,
    )
    agent = SAC(OBS, ACT, config, seed=4)
    with torch.no_grad():  # so that a swap of online and target critics shows
        for i, p in enumerate(agent.target.parameters()):
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
    plain = Plain(agent)
    for i in range(3):
        policy = (i + 1) % config.policy_period == 0
        batch = replace(make_batch(ROWS, i), weight=torch.linspace(0.1, 1.0, ROWS))
        noise = make_noise(agent, ROWS, i)
        before = weights(agent)
        update = agent.learn(batch, noise, policy=policy)
        plain.learn(doubled(batch), noise.double(), policy)
        expected, after = plain.weights(), weights(agent)
        assert expected.keys() == after.keys()
        for name in expected:
            moves = policy or not name.startswith(("actor", "log_temperature"))
            assert torch.equal(after[name], before[name]) != moves, name
            error = (after[name] - expected[name]).abs().max().item()
            assert error < 1e-5, name
        torch.testing.assert_close(update.priority.double(), plain.priority, rtol=1e-5, atol=1e-5)
        assert update.metrics.keys() == plain.metrics.keys()
        assert not policy or update.metrics.keys() == METRICS.keys()
        for name, value in plain.metrics.items():
            assert update.metrics[name].item() == pytest.approx(value.item(), rel=1e-4, abs=1e-5)


def test_update_counts_towards_the_policy_period() -> None:
    agent = SAC(OBS, ACT, SACConfig(hidden=(8,), policy_period=3))
    moved = []
    for i in range(7):
        before = weights(agent)
        agent.update(make_batch(8, i))
        moved.append(not torch.equal(weights(agent)["actor/weights.0"], before["actor/weights.0"]))
        assert not torch.equal(weights(agent)["target/weights.0"], before["target/weights.0"])
    assert moved == [False, False, True, False, False, True, False]


def test_update_draws_fresh_noise() -> None:
    first, again = (SAC(OBS, ACT, SACConfig(hidden=(8,), temperature=9.0)) for _ in range(2))
    batch = make_batch(8)
    entropies = [first.update(batch).metrics["policy/entropy"].item() for _ in range(2)]
    assert entropies[0] != pytest.approx(entropies[1], abs=0.01)  # the policy moved by 3e-4
    assert again.update(batch).metrics["policy/entropy"].item() == entropies[0]


def test_importance_weights_enter_the_critic_loss_linearly() -> None:
    config = SACConfig(hidden=(8,), optimizer="SGD", lr_critic=1.0)
    batch = make_batch(6)

    def step(weight: Tensor) -> tuple[float, Tensor]:
        agent = SAC(OBS, ACT, config, seed=1)
        before = weights(agent)["critic/weights.0"]
        update = agent.learn(replace(batch, weight=weight), make_noise(agent, 6), policy=False)
        loss = update.metrics["loss/critic"].item()
        return loss, weights(agent)["critic/weights.0"] - before

    alone = [step(row) for row in torch.eye(6)]
    mix = torch.tensor([0.0, 0.5, 1.0, 2.0, 3.0, 0.25])
    loss, move = step(mix)
    pairs = list(zip(mix.tolist(), alone, strict=True))
    assert loss == pytest.approx(sum(w * one[0] for w, one in pairs), rel=1e-5)
    expected = torch.stack([w * one[1] for w, one in pairs]).sum(0)
    torch.testing.assert_close(move, expected, rtol=1e-4, atol=1e-6)
    assert alone[0][0] > 0


@pytest.mark.parametrize("gap", [0.5, -0.5])
def test_temperature_rises_when_the_entropy_is_too_low(gap: float) -> None:
    batch, config = make_batch(ROWS), SACConfig(hidden=(8,), lr_temperature=1e-2)
    probe = SAC(OBS, ACT, config)
    noise = make_noise(probe, ROWS)
    entropy = probe.learn(batch, noise).metrics["policy/entropy"].item()
    agent = SAC(OBS, ACT, replace(config, target_entropy=entropy + gap))
    agent.learn(batch, noise)
    # Adam's first step has the length of the learning rate.
    moved = agent.temperature.log_value.item()
    assert moved == pytest.approx(math.copysign(1e-2, gap), rel=1e-4)


@pytest.mark.parametrize("rate", [0.0, 0.005, 0.3, 1.0])
def test_targets_follow_by_lerp(rate: float) -> None:
    agent = SAC(OBS, ACT, SACConfig(hidden=(8,), target_rate=rate, lr_critic=0.1))
    for i in range(3):
        before = weights(agent)
        agent.update(make_batch(ROWS, i))
        after = weights(agent)
        for name in [name for name in before if name.startswith("target")]:
            critic = after[name.replace("target", "critic")]
            assert torch.equal(after[name], torch.lerp(before[name], critic, rate)), name
            torch.testing.assert_close(after[name], (1 - rate) * before[name] + rate * critic)


@pytest.mark.parametrize(
    ("bound", "raw", "expected"),
    [
        ("clamp", 50.0, 2.0),
        ("clamp", -50.0, -20.0),
        ("clamp", 0.7, 0.7),
        ("tanh", 50.0, 2.0),
        ("tanh", -50.0, -5.0),
        ("tanh", 0.0, -1.5),
    ],
)
def test_bounds_of_log_std(bound: str, raw: float, expected: float) -> None:
    agent = SAC(OBS, ACT, SACConfig(hidden=(4,), log_std=bound))
    set_constant(agent.actor, [0.0, 0.0, raw, raw])
    # With noise 0, u = 0 and -log pi = 2 (log std + 0.5 log(2 pi)).
    metrics = agent.learn(make_batch(4), torch.zeros(2, 4, 2)).metrics
    log_std = metrics["policy/entropy"].item() / 2 - 0.5 * math.log(2 * math.pi)
    assert log_std == pytest.approx(expected, abs=1e-5)
