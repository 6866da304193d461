"""PPO: its policies, the pieces of its loss by hand, masks, early stops and saved states."""

import copy
import itertools
import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from hypothesis import given
from hypothesis import strategies as st
from rollout_cases import make_rollout, tensors

from rlsuite.agents.ppo import (
    METRICS,
    PPO,
    PPOConfig,
    clipped_loss,
    minibatches,
    normalized,
    value_loss,
)
from rlsuite.errors import UserError

OBS = Box(-1, 1, (3,))
ACTIONS = {
    "box": Box(np.float32([-1, 0]), np.float32([1, 5])),
    "discrete": Discrete(5, start=2),
    "multi": MultiDiscrete([3, 2], start=[0, 5]),
}
SMALL: dict[str, Any] = {"hidden": (16,), "lr": 1e-2, "batch_size": 7, "epochs": 2}


def masked(n: int) -> gym.spaces.Dict:
    return gym.spaces.Dict({"observation": OBS, "action_mask": MultiBinary(n)})


@pytest.mark.parametrize("name", ACTIONS)
def test_actions_are_of_their_space(name: str) -> None:
    agent = PPO(OBS, ACTIONS[name], PPOConfig(initial_log_std=2.0, **SMALL))
    obs = torch.randn(300, 3)
    for explore in (True, False):
        action, extra = agent.act(obs, explore=explore)
        values = action.numpy().astype(ACTIONS[name].dtype)
        assert all(ACTIONS[name].contains(value) for value in values)
        assert set(extra) == ({"sample", "log_prob", "value"} if explore else set())
        if explore and name == "box":  # the density is that of the sample, not of the clipped one
            assert not torch.equal(extra["sample"], action)
            low, high = (torch.from_numpy(b) for b in (ACTIONS[name].low, ACTIONS[name].high))
            assert torch.equal(extra["sample"].clamp(low, high), action)
    if name == "discrete":
        assert set(agent.act(obs)[0].tolist()) == {2, 3, 4, 5, 6}


@pytest.mark.parametrize("name", ACTIONS)
def test_densities_and_entropies_are_torchs(name: str) -> None:
    agent = PPO(OBS, ACTIONS[name], PPOConfig(initial_log_std=-0.7, **SMALL))
    obs = torch.randn(50, 3)
    _, extra = agent.act(obs)
    log_prob, entropy = agent.policy.evaluate(obs, None, extra["sample"])
    torch.testing.assert_close(log_prob, extra["log_prob"])
    if name == "box":
        law: Any = torch.distributions.Independent(
            torch.distributions.Normal(agent.policy.mean(obs), math.exp(-0.7)), 1
        )
        torch.testing.assert_close(log_prob, law.log_prob(extra["sample"]))
        torch.testing.assert_close(entropy, law.entropy())
        return
    parts = torch.split(agent.policy.logits(obs), agent.policy.heads, 1)
    laws = [torch.distributions.Categorical(logits=part) for part in parts]
    expected = sum(law.log_prob(extra["sample"][:, h]) for h, law in enumerate(laws))
    torch.testing.assert_close(log_prob, expected)
    torch.testing.assert_close(entropy, sum(law.entropy() for law in laws))


def test_samples_are_distributed_as_the_policy() -> None:
    """40,000 draws: frequencies within 5 standard errors; moments of the normal too."""
    agent = PPO(OBS, ACTIONS["multi"], PPOConfig(hidden=()))
    with torch.no_grad():
        agent.policy.logits.head.bias.copy_(torch.tensor([0.0, 1.0, -1.0, 0.5, -0.5]))
    obs = torch.zeros(40_000, 3)
    sample = agent.act(obs)[1]["sample"]
    for h, part in enumerate(agent.policy.log_pi(obs[:1], None)):
        p = part.exp()[0]
        share = torch.bincount(sample[:, h], minlength=len(p)) / len(obs)
        assert ((share - p).abs() < 5 * (p * (1 - p) / len(obs)).sqrt()).all()
    agent = PPO(OBS, ACTIONS["box"], PPOConfig(hidden=(), initial_log_std=0.5))
    sample = agent.act(obs)[1]["sample"]
    assert sample.mean(0).abs().max() < 5 * math.exp(0.5) / 200
    torch.testing.assert_close(sample.std(0), torch.full((2,), math.exp(0.5)), rtol=0.02, atol=0)


def test_clipped_objective_by_hand() -> None:
    """Ratios 1.5, 1.5, 0.5, 0.5 and advantages 1, -1, 1, -1 with clip 0.2: the lesser of ratio A
    and clip(ratio) A is 1.2, -1.5, 0.5, -0.8. Only the second and third have a gradient."""
    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5])
    log_prob = ratio.log().requires_grad_()
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0])
    loss, metrics = clipped_loss(log_prob, torch.zeros(4), advantage, 0.2)
    assert loss.item() == pytest.approx(-(1.2 - 1.5 + 0.5 - 0.8) / 4)
    (gradient,) = torch.autograd.grad(loss, log_prob)
    torch.testing.assert_close(gradient, torch.tensor([0.0, 1.5 / 4, -0.5 / 4, 0.0]))
    assert metrics["policy/clipped"] == 1.0
    kl = (2 * (0.5 - math.log(1.5)) + 2 * (-0.5 - math.log(0.5))) / 4
    assert metrics["policy/kl"].item() == pytest.approx(kl)
    weight = torch.tensor([0.0, 2.0, 2.0, 0.0])
    loss, metrics = clipped_loss(log_prob, torch.zeros(4), advantage, 0.2, weight)
    assert loss.item() == pytest.approx(-(-1.5 + 0.5) / 2)
    near = torch.tensor([1.1, 1.3]).log()
    assert clipped_loss(near, torch.zeros(2), near, 0.2)[1]["policy/clipped"].item() == 0.5


def test_value_loss_by_hand() -> None:
    value, target = torch.tensor([0.0, 3.0]), torch.tensor([1.0, 0.0])
    assert value_loss(value, target).tolist() == [0.5, 4.5]
    assert value_loss(value, target, huber_threshold=2.0).tolist() == [0.5, 2.0 * (3.0 - 1.0)]


@given(st.integers(2, 30), st.integers(0, 1000))
def test_normalized(n: int, seed: int) -> None:
    x = 5 * torch.randn(n, generator=torch.Generator().manual_seed(seed)) + 3
    expected = (x - x.mean()) / (x.std() + 1e-8)
    torch.testing.assert_close(normalized(x), expected, rtol=1e-4, atol=1e-4)
    # Rows of weight 0 are as if they were not there, but for the correction of the deviation.
    both = torch.cat([x, 100 * x])
    weight = torch.cat([torch.full((n,), 2.0), torch.zeros(n)])
    scale = ((2 * n - 1) / (2 * n) / ((n - 1) / n)) ** 0.5
    torch.testing.assert_close(normalized(both, weight)[:n], expected * scale, rtol=1e-4, atol=1e-4)


def test_one_advantage_is_left_alone() -> None:
    assert normalized(torch.tensor([3.0])).item() == 3.0


@given(rows=st.integers(1, 40), size=st.integers(1, 50), epochs=st.integers(1, 3))
def test_every_epoch_takes_every_row_once(rows: int, size: int, epochs: int) -> None:
    orders = np.random.Generator(np.random.PCG64(0))
    batches = [b.tolist() for b in minibatches(orders, rows, size, epochs, torch.device("cpu"))]
    assert all(len(batch) <= size for batch in batches)
    assert len(batches) == epochs * -(-rows // size)
    taken = list(itertools.chain(*batches))
    for epoch in range(epochs):
        assert sorted(taken[epoch * rows : (epoch + 1) * rows]) == list(range(rows))
    assert rows < 20 or epochs == 1 or taken[:rows] != taken[rows : 2 * rows]


def test_what_is_not_available_has_probability_zero_and_no_gradient() -> None:
    agent = PPO(masked(5), ACTIONS["multi"], PPOConfig(**SMALL))
    mask = torch.tensor([[1, 0, 1, 0, 1]], dtype=torch.int8).expand(500, -1)
    obs = {"observation": torch.randn(500, 3), "action_mask": mask}
    sample = agent.act(obs)[1]["sample"]
    assert set(sample[:, 0].tolist()) == {0, 2} and set(sample[:, 1].tolist()) == {1}
    assert (agent.act(obs, explore=False)[0][:, 0] != 1).all()
    first, second = agent.policy.log_pi(obs["observation"], mask)
    assert (first[:, 1].exp() == 0).all() and (second[:, 0].exp() == 0).all()
    assert (second[:, 1] == 0).all()
    log_prob, entropy = agent.policy.evaluate(obs["observation"], mask, sample)
    bias = agent.policy.logits.head.bias
    (gradient,) = torch.autograd.grad((log_prob + entropy).sum(), bias)
    assert gradient[1] == 0 and gradient[3] == 0 and gradient[0] != 0
    assert torch.isfinite(gradient).all()


def test_masks_go_through_an_update() -> None:
    agent = PPO(masked(5), ACTIONS["multi"], PPOConfig(**SMALL))
    rollout = make_rollout(agent, masked(5), 6, 4)
    metrics = agent.update(rollout).metrics
    assert all(torch.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize("name", ACTIONS)
def test_an_update_raises_what_paid_and_moves_all_weights(name: str) -> None:
    """The likelihood of the one sample with a great advantage grows."""
    agent = PPO(OBS, ACTIONS[name], PPOConfig(**SMALL | {"batch_size": 32}))
    rollout = make_rollout(agent, OBS, 8, 4)
    rollout.reward[:] = 0
    rollout.reward[3, 2] = 100.0
    rollout.terminated[:] = True
    before = [p.detach().clone() for p in agent.optimizer.param_groups[0]["params"]]
    metrics = agent.update(rollout).metrics
    assert metrics.keys() == METRICS.keys()
    assert metrics["policy/kl"] > 0 and metrics["loss/critic"] > 0
    after = agent.optimizer.param_groups[0]["params"]
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    new, _ = agent.policy.evaluate(rollout.obs[3, 2:3], None, rollout.extra["sample"][3, 2:3])
    assert new.item() > rollout.extra["log_prob"][3, 2].item()


def test_targets_drop_the_bootstrap_on_terminations_alone() -> None:
    """trace 0: targets are r + discount V(true successor), r alone after a termination."""
    agent = PPO(OBS, ACTIONS["box"], PPOConfig(trace=0.0, discount=0.9, **SMALL))
    rollout = make_rollout(agent, OBS, 8, 4)
    rollout.truncated[:] = torch.arange(4) % 2 == 0
    rollout.terminated[:] = torch.arange(4) == 1
    with torch.no_grad():
        value = agent.value(rollout.next_obs.flatten(0, 1)).view(8, 4)
    expected = rollout.reward + 0.9 * value
    expected[:, 1] = rollout.reward[:, 1]
    torch.testing.assert_close(agent.prepare(rollout).target.view(8, 4), expected)


def test_after_the_greatest_divergence_nothing_moves() -> None:
    """Beyond 1.5 target_kl weights, moments and counts of the optimizer stay: bit for bit."""
    free, held = (PPO(OBS, ACTIONS["box"], PPOConfig(target_kl=kl, **SMALL)) for kl in (None, 1e-6))
    rollout = make_rollout(free, OBS, 8, 4)
    batches = list(minibatches(free.orders, 32, 8, 3, torch.device("cpu")))
    samples = free.prepare(rollout)
    free.learn(samples, batches[:1])
    held.learn(samples, batches)
    held.noise.set_state(free.noise.get_state())  # the rollout's draws
    a, b = tensors(free.state_dict()), tensors(held.state_dict())
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    far = PPO(OBS, ACTIONS["box"], PPOConfig(target_kl=1e6, **SMALL))
    far.learn(samples, batches)
    free.learn(samples, batches[1:])
    moved, whole = tensors(far.state_dict()), tensors(free.state_dict())
    assert not any(torch.equal(moved[name], b[name]) for name in b if "policy" in name)
    assert all(torch.equal(moved[name], whole[name]) for name in whole if "policy" in name)


def test_scaled_values_come_back_in_the_rewards_scale() -> None:
    agent = PPO(OBS, ACTIONS["box"], PPOConfig(normalize_values=True, **SMALL))
    rollout = make_rollout(agent, OBS, 32, 4)
    rollout.reward[:] = 50.0
    rollout.terminated[:] = True
    for _ in range(30):
        agent.update(rollout)
    _, extra = agent.act(rollout.obs[0])
    assert (extra["value"] - 50.0).abs().max() < 2.0


def test_old_values_are_those_that_the_network_gave() -> None:
    """In its own scale, of the statistics that it was asked with: clip_value is around them."""
    agent = PPO(OBS, ACTIONS["box"], PPOConfig(normalize_values=True, **SMALL))
    for _ in range(3):  # statistics that move
        rollout = make_rollout(agent, OBS, 32, 4)
        with torch.no_grad():
            given = agent.value(rollout.obs.flatten(0, 1))[:, 0]  # type: ignore[union-attr]
        samples = agent.prepare(rollout)
        torch.testing.assert_close(samples.value, given, rtol=1e-4, atol=1e-5)


def test_a_saved_state_continues_bit_for_bit() -> None:
    config = PPOConfig(normalize_values=True, **SMALL)
    agent, other = (
        PPO(OBS, ACTIONS["box"], config, seed=0),
        PPO(OBS, ACTIONS["box"], config, seed=1),
    )
    agent.update(make_rollout(agent, OBS, 8, 4))
    other.load_state_dict(copy.deepcopy(agent.state_dict()))
    for _ in range(2):
        mine, theirs = make_rollout(agent, OBS, 8, 4), make_rollout(other, OBS, 8, 4)
        assert torch.equal(mine.extra["sample"], theirs.extra["sample"])
        agent.update(mine)
        other.update(theirs)
    a, b = tensors(agent.state_dict()), tensors(other.state_dict())
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_images() -> None:
    image = Box(0, 255, (8, 8, 3), np.uint8)
    agent = PPO(image, ACTIONS["discrete"], PPOConfig(**SMALL))
    metrics = agent.update(make_rollout(agent, image, 4, 2)).metrics
    assert all(torch.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize(
    ("obs", "action", "message"),
    [
        (Discrete(3), Discrete(2), "needs Box observations"),
        (gym.spaces.Dict({"a": OBS}), Discrete(2), "or a Dict of observation and action_mask"),
        (OBS, MultiBinary(3), "PPO needs Box, Discrete or"),
        (OBS, Box(0, 3, (2,), np.int64), "actions must be floats or discrete"),
    ],
)
def test_bad_spaces_are_named(obs: Any, action: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        PPO(obs, action)
