"""Batch renormalisation by hand and against torch's; CrossQ's update against sb3-contrib."""

from dataclasses import replace

import pytest
import torch
from family_cases import SMALL, golden, golden_batch, golden_layers, tensors
from sac_cases import ACT, OBS, make_batch
from torch import Tensor

import rlsuite.agents.crossq
import rlsuite.policies
from rlsuite.agents.crossq import CrossQ, CrossQConfig
from rlsuite.nets import BatchRenorm
from rlsuite.rng import generator

CPU = torch.device("cpu")


def renorm(warmup: int, members: int = 3, features: int = 4) -> BatchRenorm:
    norm = BatchRenorm(members, features, device=CPU, warmup=warmup).double()
    with torch.no_grad():
        for i, p in enumerate(norm.parameters()):
            p.add_(torch.randn(p.shape, generator=generator(i)))
    return norm


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def test_at_first_it_is_batch_normalisation() -> None:
    norm = renorm(warmup=3)
    theirs = [torch.nn.BatchNorm1d(4, eps=1e-3, momentum=0.01).double() for _ in range(3)]
    for k, one in enumerate(theirs):
        one.weight.data, one.bias.data = norm.gain[k, 0].clone(), norm.shift[k, 0].clone()
        one.running_var *= 9 / 10
    for i in range(3):
        x = (3 * random(i, 3, 10, 4) + 1).requires_grad_()
        y = norm(x, training=True)
        expected = torch.stack([one(x[k]) for k, one in enumerate(theirs)])
        torch.testing.assert_close(y, expected)
        weight = random(9, *y.shape)
        grads = [torch.autograd.grad((weight * out).sum(), x)[0] for out in (y, expected)]
        torch.testing.assert_close(*grads)
    for k, one in enumerate(theirs):
        torch.testing.assert_close(norm.mean[k, 0], one.running_mean)
        # torch's running variance is unbiased: 10 / 9 of ours, also where it began.
        expected = norm.var[k, 0] - 0.99**3
        torch.testing.assert_close(expected, (one.running_var - 0.99**3 * 9 / 10) * 9 / 10)
        one.eval()
    x = random(5, 3, 6, 4)
    by_hand = (x - norm.mean) / (norm.var + 1e-3).sqrt() * norm.gain + norm.shift
    torch.testing.assert_close(norm(x, training=False), by_hand)


@pytest.mark.parametrize("scale", [1.0, 100.0, 0.01])
def test_then_it_is_renormalised(scale: float) -> None:
    """Algorithm 1 of the paper; a scale of 100 and 0.01 reaches the bounds of r, and of d."""
    norm = renorm(warmup=1, members=2)
    norm(random(0, 2, 10, 4) + 1, training=True)
    mean, var = norm.mean.clone(), norm.var.clone()
    x = (scale * (random(1, 2, 10, 4) + 0.5)).requires_grad_()
    y = norm(x, training=True)
    expected, bounded = torch.zeros_like(x), 0
    for k in range(2):
        for j in range(4):
            column = x[k, :, j]
            mu, sigma = column.mean(), (column.var(correction=0) + 1e-3).sqrt()
            running = (var[k, 0, j].item() + 1e-3) ** 0.5
            r = min(max(sigma.item() / running, 1 / 3), 3.0)
            d = min(max((mu.item() - mean[k, 0, j].item()) / running, -5.0), 5.0)
            bounded += r in (1 / 3, 3.0)
            out = (column - mu) / sigma * r + d
            expected[k, :, j] = out * norm.gain[k, 0, j] + norm.shift[k, 0, j]
    assert bounded == (0 if scale == 1.0 else 8)
    torch.testing.assert_close(y, expected)
    weight = random(9, *y.shape)
    grads = [torch.autograd.grad((weight * out).sum(), x)[0] for out in (y, expected)]
    torch.testing.assert_close(*grads)
    torch.testing.assert_close(norm.mean, 0.99 * mean + 0.01 * x.detach().mean(1, keepdim=True))
    assert norm.passes.item() == 2


def test_statistics_move_in_training_alone() -> None:
    norm = renorm(warmup=2)
    before = {name: t.clone() for name, t in norm.state_dict().items()}
    assert {"mean", "var", "passes"} <= before.keys()
    norm(random(0, 3, 10, 4), training=False)
    assert all(torch.equal(t, before[name]) for name, t in norm.state_dict().items())


def test_renormalisation_begins_after_the_warmup() -> None:
    """From the pass on at which a shift of the input is first seen in the output."""
    norm = renorm(warmup=2)
    x = random(0, 3, 10, 4)
    moved = [
        (norm(x + 4, training=True) - norm(x, training=True)).abs().max() > 0.1 for _ in range(2)
    ]
    assert moved == [False, True]


def networks(state: dict) -> dict[str, Tensor]:
    """By our name: weights, biases, gains, shifts and running statistics."""
    found = {}
    for net in ("actor", "critic"):
        for i, (weight, bias) in enumerate(golden_layers(state[net])):
            found[f"{net}/linear.weights.{i}"] = weight
            found[f"{net}/linear.biases.{i}"] = bias
        for i, layer in enumerate(zip(*(member["norms"] for member in state[net]), strict=True)):
            for j, name in enumerate(("gain", "shift", "mean", "var")):
                value = torch.tensor([[norm[j]] for norm in layer])
                found[f"{net}/norms.{i}.{name}"] = value
    return found


def test_updates_are_those_of_sb3_contrib(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (rlsuite.agents.crossq, rlsuite.policies):
        monkeypatch.setattr(module, "flatten_features", lambda tree: tree)  # else float32
    expected = golden("crossq")
    config = CrossQConfig(
        hidden_actor=(6,), hidden_critic=(5, 5), critic_updates_per_policy_update=2
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        agent = CrossQ(OBS, ACT, config)
        policy = agent.policy
        policy.epsilon = 1e-6
        policy.center, policy.half_range = policy.center.double(), policy.half_range.double()
        start, end = networks(expected["start"]), networks(expected["end"])
        for net in ("actor", "critic"):
            state = {n.removeprefix(f"{net}/"): t for n, t in start.items() if n.startswith(net)}
            missing = getattr(agent, net).load_state_dict(state, strict=False).missing_keys
            assert all(name.endswith(".passes") for name in missing)
        for i, update in enumerate(expected["updates"]):
            batch, noise = golden_batch(update, agent)
            metrics = agent.learn(batch, noise, policy=i % 2 == 1).metrics
            for ours, theirs in (("loss/critic", "critic_loss"), ("loss/actor", "actor_loss")):
                assert (ours in metrics) == (theirs in update["losses"])
                if ours in metrics:
                    loss = update["losses"][theirs]
                    assert metrics[ours].item() == pytest.approx(loss, rel=1e-9)
        found = tensors(agent)
    finally:
        torch.set_default_dtype(before)
    passes = {name for name in found if name.endswith("passes")}
    assert end.keys() == found.keys() - passes - {"log_temperature"}
    for name, value in end.items():
        assert not torch.equal(value, start[name])
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-9, msg=name)
    temperature = expected["end"]["log_temperature"]
    assert found["log_temperature"].item() == pytest.approx(temperature, rel=1e-9)


def test_no_gradient_through_the_next_value() -> None:
    """Critics that are a constant c: the gradient is the error, not (1 - discount) of it."""
    agent = CrossQ(OBS, ACT, replace(SMALL[CrossQ], temperature=0.5))
    linear = agent.critic.linear
    with torch.no_grad():
        linear.weights[-1].zero_()
        linear.biases[-1].fill_(2.0)
    agent.critic_optimizer = torch.optim.SGD(agent.critic.parameters(), lr=0.1)
    batch = replace(make_batch(8), discount=torch.full((8,), 0.9))
    draw = torch.randn(2, 8, 2, generator=generator(0))
    with torch.no_grad():
        output = agent.actor(batch.next_obs, training=False)[0]
        _, log_prob = agent.policy.sample(output, draw[0])
    error = 2.0 - (batch.reward + 0.9 * (2.0 - 0.5 * log_prob))
    update = agent.learn(batch, draw, policy=False)
    torch.testing.assert_close(update.priority, error.abs())
    torch.testing.assert_close(linear.biases[-1].flatten(), (2.0 - 0.1 * error.mean()).expand(2))


def test_acting_uses_the_running_statistics() -> None:
    """An action does not depend on the others of its batch, and nothing is learned from it."""
    agent = CrossQ(OBS, ACT, SMALL[CrossQ], seed=1)
    for i in range(6):
        agent.update(make_batch(16, i))
    before, obs = tensors(agent), torch.randn(5, 3, generator=generator(0))
    together, _ = agent.act(obs, explore=False)
    alone = torch.cat([agent.act(row[None], explore=False)[0] for row in obs])
    torch.testing.assert_close(together, alone)
    assert all(torch.equal(value, before[name]) for name, value in tensors(agent).items())


def test_passes_and_policy_updates() -> None:
    agent = CrossQ(OBS, ACT, replace(SMALL[CrossQ], critic_updates_per_policy_update=3))
    steps = []
    agent.actor_optimizer.register_step_post_hook(lambda *_: steps.append(agent.updates))
    for i in range(7):
        before = tensors(agent)
        metrics = agent.update(make_batch(16, i)).metrics
        policy = agent.updates % 3 == 0
        assert ("loss/actor" in metrics) == policy
        for name, value in tensors(agent).items():
            if "actor" in name:
                assert torch.equal(value, before[name]) != policy, name
    assert steps == [3, 6]
    assert {norm.passes.item() for norm in agent.critic.norms} == {7}
    assert {norm.passes.item() for norm in agent.actor.norms} == {2}
    assert all(norm.warmup == 2 for norm in agent.critic.norms)


def test_first_beta() -> None:
    agent = CrossQ(OBS, ACT, CrossQConfig(hidden_actor=(4,), hidden_critic=(4,), beta1=0.3))
    for optimizer, beta1 in (
        (agent.actor_optimizer, 0.3),
        (agent.critic_optimizer, 0.3),
        (agent.temperature.optimizer, 0.9),
    ):
        assert optimizer.param_groups[0]["betas"] == (beta1, 0.999)
