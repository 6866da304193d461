"""PPO against Stable-Baselines3's ``train``: same weights, rollout and minibatches, same result.

Parameters agree to 1e-5 in float32 after two updates of several epochs, for each kind of action.
"""

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

from rlsuite.agents.ppo import PPO, PPOConfig
from rlsuite.types import Rollout

pytest.importorskip("stable_baselines3")

import stable_baselines3 as sb3
from stable_baselines3.common.logger import Logger

STEPS, ENVS, BATCH, EPOCHS = 32, 3, 20, 3  # the last minibatch of an epoch is smaller


class Anything(gym.Env):
    observation_space = gym.spaces.Box(-np.inf, np.inf, (5,), np.float32)

    def __init__(self, action_space: gym.Space) -> None:
        self.action_space = action_space


BOX = gym.spaces.Box(np.float32([-1, 0, -3]), np.float32([0.25, 2, -1]))
CASES = {
    "box": (BOX, {}, {}),
    "discrete": (gym.spaces.Discrete(4), {}, {}),
    "multi": (gym.spaces.MultiDiscrete([3, 2]), {}, {}),
    "entropy": (gym.spaces.Discrete(4), {"ent_coef": 0.1}, {"entropy_coef": 0.1}),
    "clipped values": (BOX, {"clip_range_vf": 0.05}, {"clip_value": 0.05}),
    "stops early": (BOX, {"target_kl": 0.02}, {"target_kl": 0.02}),
    "raw advantages": (
        gym.spaces.Discrete(4),
        {"normalize_advantage": False, "vf_coef": 0.25, "gamma": 0.9, "gae_lambda": 0.8},
        {"normalize_advantage": False, "value_coef": 0.5, "discount": 0.9, "trace": 0.8},
    ),
}


def pair(case: str) -> tuple[sb3.PPO, PPO]:
    space, theirs, ours = CASES[case]
    envs = sb3.common.vec_env.DummyVecEnv([lambda: Anything(space)] * ENVS)
    model = sb3.PPO(
        *("MlpPolicy", envs),
        n_steps=STEPS,
        batch_size=BATCH,
        n_epochs=EPOCHS,
        learning_rate=3e-3,
        seed=1,
        device="cpu",
        **theirs,
    )
    model.set_logger(Logger(None, []))
    config = PPOConfig(lr=3e-3, batch_size=BATCH, epochs=EPOCHS, **ours)
    agent = PPO(Anything.observation_space, space, config)
    with torch.no_grad():
        for mine, other in zip(parameters(agent), sb3_parameters(model), strict=True):
            mine.copy_(other)
    return model, agent


def parameters(agent: PPO) -> list[Tensor]:
    """In the order of SB3's."""
    if isinstance(agent.policy.start if hasattr(agent.policy, "start") else None, Tensor):
        head, log_std = agent.policy.logits, []
    else:
        head, log_std = agent.policy.mean, [agent.policy.log_std]
    layers = [*head.layers, *agent.value.layers, head.head, agent.value.head]
    return [*log_std, *(p for layer in layers for p in (layer.weight, layer.bias))]


def sb3_parameters(model: sb3.PPO) -> list[Tensor]:
    return list(model.policy.parameters())


def make_rollout(model: sb3.PPO, seed: int) -> Rollout:
    """Random states and rewards; what SB3's policy does in them; ends of both kinds."""
    rng = np.random.default_rng(seed)
    obs = torch.from_numpy(rng.standard_normal((STEPS + 1, ENVS, 5), np.float32))
    terminated = torch.from_numpy(rng.random((STEPS, ENVS)) < 0.1)
    truncated = torch.from_numpy(rng.random((STEPS, ENVS)) < 0.1) & ~terminated
    ended = (terminated | truncated)[..., None]
    other = torch.from_numpy(rng.standard_normal((STEPS, ENVS, 5), np.float32))
    next_obs = torch.where(ended, other, obs[1:])
    with torch.no_grad():
        action, value, log_prob = model.policy(obs[:-1].flatten(0, 1))
    shape = (STEPS, ENVS)
    # A policy that has moved on a little, so that some ratios are clipped.
    shift = torch.from_numpy(rng.normal(0, 0.15, shape).astype(np.float32))
    return Rollout(
        obs[:-1],
        action.view(*shape, *action.shape[1:]),
        torch.from_numpy(rng.standard_normal(shape, np.float32)),
        next_obs,
        terminated,
        truncated,
        {
            "sample": action.view(*shape, -1),
            "log_prob": log_prob.view(shape) + shift,
            "value": value.view(shape),
        },
    )


def train_sb3(
    model: sb3.PPO, rollout: Rollout, orders: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rollout buffer, filled as its ``collect_rollouts`` does, and its ``train``."""
    buffer = model.rollout_buffer
    buffer.reset()
    starts = np.ones(ENVS)
    for t in range(STEPS):
        reward = rollout.reward[t].numpy().copy()
        with torch.no_grad():
            bootstrap = model.policy.predict_values(rollout.next_obs[t])[:, 0].numpy()
        reward[rollout.truncated[t]] += model.gamma * bootstrap[rollout.truncated[t]]
        buffer.add(
            rollout.obs[t].numpy(),
            rollout.extra["sample"][t].numpy(),
            reward,
            starts,
            rollout.extra["value"][t],
            rollout.extra["log_prob"][t],
        )
        starts = (rollout.terminated | rollout.truncated)[t].numpy()
    buffer.compute_returns_and_advantage(torch.from_numpy(bootstrap), starts)
    drawn = iter(orders)
    with monkeypatch.context() as patch:
        patch.setattr(np.random, "permutation", lambda n: next(drawn))
        model.train()


@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
@pytest.mark.parametrize("case", CASES)
def test_updates_agree(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, agent = pair(case)
    start = [p.detach().clone() for p in parameters(agent)]
    rng = np.random.default_rng(0)
    for update in range(2):
        rollout = make_rollout(model, update)
        orders = [rng.permutation(STEPS * ENVS) for _ in range(EPOCHS)]
        train_sb3(model, rollout, orders, monkeypatch)
        # It lays a rollout out environment by environment, we step by step.
        rows = [torch.from_numpy(order % STEPS * ENVS + order // STEPS) for order in orders]
        metrics = agent.learn(agent.prepare(rollout), [b for r in rows for b in r.split(BATCH)])
        for mine, other in zip(parameters(agent), sb3_parameters(model), strict=True):
            torch.testing.assert_close(mine, other, rtol=0, atol=1e-5)
        if case == "stops early":
            assert model._n_updates < EPOCHS * (update + 1)  # so that the test sees a stop
            continue
        logged = model.logger.name_to_value
        names = {"loss/actor": "policy_gradient_loss", "policy/clipped": "clip_fraction"}
        for name, theirs in names.items():
            assert metrics[name].item() == pytest.approx(logged[f"train/{theirs}"], abs=1e-5)
        assert 2 * metrics["loss/critic"].item() == pytest.approx(
            logged["train/value_loss"], rel=1e-4
        )
        assert metrics["policy/clipped"].item() > 0.01
    assert all(not torch.equal(a, b) for a, b in zip(start, parameters(agent), strict=True))
