"""DroQ's critics and update against a plain implementation, and its random draws."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from family_cases import SMALL, set_constant, tensors
from sac_cases import ACT, OBS, make_batch
from torch import Tensor

from rlsuite.agents.droq import Draws, DropoutCritics, DroQ, DroQConfig
from rlsuite.nets import EnsembleMLP
from rlsuite.rng import generator
from rlsuite.types import Batch

ROWS = 16
RATE = 0.05
SGD = replace(SMALL[DroQ], optimizer="SGD", lr_actor=RATE, lr_critic=RATE, lr_temperature=RATE)


def critics(sizes: list[int]) -> DropoutCritics:
    linear = EnsembleMLP(2, sizes, init="torch", generator=generator(0), device=torch.device("cpu"))
    net = DropoutCritics(linear)
    with torch.no_grad():
        for i, p in enumerate([*net.gains, *net.shifts]):
            p.add_(torch.randn(p.shape, generator=generator(i)))
    return net


def test_layers_in_the_papers_order() -> None:
    """Each member equals torch's own Linear, (dropout,) LayerNorm and ReLU, with given factors."""
    net, x = critics([3, 5, 4, 1]), torch.randn(7, 3)
    factors = [(torch.rand(2, 7, n) < 0.6) / 0.6 for n in (5, 4)]
    values = net(x, factors)
    assert values.shape == (2, 7, 1)
    for k in range(2):
        h = x
        for i, factor in enumerate(factors):
            linear = torch.nn.Linear(h.shape[1], factor.shape[2])
            norm = torch.nn.LayerNorm(factor.shape[2])
            linear.weight.data = net.linear.weights[i][k].T
            linear.bias.data = net.linear.biases[i][k, 0]
            norm.weight.data, norm.bias.data = net.gains[i][k, 0], net.shifts[i][k, 0]
            h = F.relu(norm(linear(h) * factor[k]))
        expected = h @ net.linear.weights[-1][k] + net.linear.biases[-1][k]
        torch.testing.assert_close(values[k], expected)


def test_factors() -> None:
    agent = DroQ(OBS, ACT, DroQConfig(hidden=(50, 40), critics=3, dropout=0.3))
    draws = agent.draw(500, policy=True)
    for factors in (draws.target, draws.critic, draws.policy_critic):
        assert [f.shape for f in factors] == [(3, 500, 50), (3, 500, 40)]
        for factor in factors:
            assert factor.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
            assert (factor == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)
    assert not torch.equal(draws.target[0], draws.critic[0])
    assert not torch.equal(draws.critic[0], draws.policy_critic[0])
    assert agent.draw(5, policy=False)[3:] == (None, None)
    without = DroQ(OBS, ACT, DroQConfig(dropout=0.0)).draw(4, policy=True)
    assert all((factor == 1).all() for factor in without.policy_critic)


class Plain:
    """DroQ as algorithm 2 reads, in float64, with plain gradient descent and autograd's graph."""

    def __init__(self, agent: DroQ) -> None:
        self.p = {n: t.double().requires_grad_() for n, t in tensors(agent).items()}
        self.rate = agent.config.target_rate

    def actor(self, obs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        h = F.relu(obs @ self.p["actor/weights.0"][0] + self.p["actor/biases.0"][0])
        h = F.relu(h @ self.p["actor/weights.1"][0] + self.p["actor/biases.1"][0])
        out = h @ self.p["actor/weights.2"][0] + self.p["actor/biases.2"][0]
        normal = torch.distributions.Normal(out[:, :2], out[:, 2:].clamp(-20, 2).exp())
        u = normal.mean + normal.stddev * noise
        density = normal.log_prob(u) - (1 - torch.tanh(u) ** 2).log()
        return torch.tanh(u), density.sum(1)

    def values(self, net: str, obs: Tensor, action: Tensor, factors: list[Tensor]) -> Tensor:
        h = torch.cat([obs, action], 1).expand(2, -1, -1)
        for i, factor in enumerate(factors):
            h = h @ self.p[f"{net}/linear.weights.{i}"] + self.p[f"{net}/linear.biases.{i}"]
            h = h * factor.double()
            mean, var = h.mean(2, keepdim=True), h.var(2, keepdim=True, correction=0)
            h = (h - mean) / (var + 1e-5).sqrt()
            h = F.relu(h * self.p[f"{net}/gains.{i}"] + self.p[f"{net}/shifts.{i}"])
        last = len(factors)
        h = h @ self.p[f"{net}/linear.weights.{last}"] + self.p[f"{net}/linear.biases.{last}"]
        return h[..., 0]

    def descend(self, loss: Tensor, net: str) -> None:
        params = [p for name, p in self.p.items() if name.startswith(net)]
        for p, g in zip(params, torch.autograd.grad(loss, params), strict=True):
            p.data -= RATE * g

    def learn(self, batch: Batch, draws: Draws) -> Tensor:
        low, high = torch.tensor(ACT.low).double(), torch.tensor(ACT.high).double()
        unit = 2 * (batch.action.double() - low) / (high - low) - 1
        obs, next_obs = batch.obs.double(), batch.next_obs.double()
        alpha = self.p["log_temperature"].exp().detach()
        with torch.no_grad():
            action, log_prob = self.actor(next_obs, draws.next_action.double())
            least = self.values("target", next_obs, action, draws.target).min(0).values
            y = batch.reward.double() + batch.discount.double() * (least - alpha * log_prob)
        error = self.values("critic", obs, unit, draws.critic) - y
        self.descend((batch.weight.double() * error**2).mean(1).sum() / 2, "critic")
        if draws.policy_action is not None:
            action, log_prob = self.actor(obs, draws.policy_action.double())
            q = self.values("critic", obs, action, draws.policy_critic).mean(0)
            self.descend((alpha * log_prob - q).mean(), "actor")
            gap = (log_prob.detach() - 2).mean()  # the target entropy is -2
            self.p["log_temperature"].data += RATE * gap
        for name in [name for name in self.p if name.startswith("target")]:
            new = self.p[name.replace("target", "critic")].data
            self.p[name].data = (1 - self.rate) * self.p[name].data + self.rate * new
        return error.detach().abs().max(0).values


def test_update_is_that_of_the_equations() -> None:
    agent = DroQ(OBS, ACT, replace(SGD, target_rate=0.1), seed=4)
    with torch.no_grad():  # so that a swap of online and target critics shows
        for i, p in enumerate(agent.target.parameters()):
            p.add_(0.1 * torch.randn(p.shape, generator=generator(i)))
    plain = Plain(agent)
    for i in range(4):
        batch = replace(make_batch(ROWS, i), weight=torch.linspace(0.1, 1.0, ROWS))
        draws = agent.draw(ROWS, policy=i % 2 == 1)
        before = tensors(agent)
        update, priority = agent.learn(batch, draws), plain.learn(batch, draws)
        torch.testing.assert_close(update.priority.double(), priority, rtol=1e-5, atol=1e-5)
        for name, value in tensors(agent).items():
            torch.testing.assert_close(value.double(), plain.p[name].data, rtol=0, atol=1e-5)
            moves = i % 2 == 1 or not name.startswith(("actor", "log_temperature"))
            assert torch.equal(value, before[name]) != moves, name


def test_dropout_is_active_in_the_targets() -> None:
    """The targets' factors alone change the error of the critics."""
    agent, batch = DroQ(OBS, ACT, SMALL[DroQ], seed=1), make_batch(ROWS)
    draws, others = (agent.draw(ROWS, policy=False) for _ in range(2))
    state = {k: v.clone() for k, v in agent.target.state_dict().items()}
    agent.critic_optimizer.param_groups[0]["lr"] = 0.0
    first = agent.learn(batch, draws).priority
    agent.target.load_state_dict(state)
    assert torch.equal(agent.learn(batch, draws).priority, first)
    agent.target.load_state_dict(state)
    assert not torch.equal(agent.learn(batch, draws._replace(target=others.target)).priority, first)


def test_one_policy_update_in_as_many_critic_updates() -> None:
    agent = DroQ(OBS, ACT, replace(SGD, critic_updates_per_policy_update=3))
    steps = []
    agent.actor_optimizer.register_step_post_hook(lambda *_: steps.append(agent.updates))
    for i in range(7):
        metrics = agent.update(make_batch(ROWS, i)).metrics
        assert ("loss/actor" in metrics) == (agent.updates % 3 == 0)
    assert steps == [3, 6]


def test_the_policy_climbs_the_mean() -> None:
    agent = DroQ(OBS, ACT, replace(SMALL[DroQ], critic_updates_per_policy_update=1))
    set_constant(agent.critic.linear, [1.0], [5.0])
    agent.critic_optimizer.param_groups[0]["lr"] = 0.0
    metrics = agent.update(make_batch(4)).metrics
    loss = -metrics["policy/entropy"].item() - 3.0  # the temperature is 1
    assert metrics["loss/actor"].item() == pytest.approx(loss, abs=1e-5)
