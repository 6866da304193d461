"""DQN against Stable-Baselines3's own ``train``: same weights and batch, same weights after it."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from dqn_cases import make_batch
from torch import Tensor, nn

from rlsuite.agents.dqn import DQN, DQNConfig

pytest.importorskip("stable_baselines3")

import stable_baselines3 as sb3
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import ReplayBufferSamples

ROWS = 64


class Vectors(gym.Env):
    observation_space = gym.spaces.Box(-np.inf, np.inf, (5,), np.float32)
    action_space = gym.spaces.Discrete(3)


class Images(gym.Env):
    observation_space = gym.spaces.Box(0, 255, (4, 84, 84), np.uint8)
    action_space = gym.spaces.Discrete(3)


CASES = {
    "vectors": (Vectors, "MlpPolicy", (32, 16), 10.0),
    "clipped": (Vectors, "MlpPolicy", (32,), 0.01),
    "images": (Images, "CnnPolicy", (512,), 10.0),
}


def layers(net: nn.Module) -> list[nn.Module]:
    return [m for m in net.modules() if isinstance(m, nn.Linear | nn.Conv2d)]


def weights(net: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for layer in layers(net) for p in (layer.weight, layer.bias)]


@pytest.mark.parametrize("case", CASES)
def test_updates_agree(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    env, policy, hidden, clip = CASES[case]
    model = sb3.DQN(
        policy,
        env(),
        seed=1,
        device="cpu",
        buffer_size=1,
        max_grad_norm=clip,
        policy_kwargs={"net_arch": [] if policy == "CnnPolicy" else list(hidden)},
    )
    model.set_logger(Logger(None, []))
    with torch.no_grad():  # else online and target networks could be confused unseen
        for p in model.q_net_target.parameters():
            p.add_(0.01 * torch.randn_like(p))
    config = DQNConfig(
        hidden=hidden, loss="huber", lr=model.learning_rate, max_grad_norm=clip, target_period=1000
    )
    agent = DQN(env.observation_space, env.action_space, config)
    for ours, theirs in ((agent.online, model.q_net), (agent.target, model.q_net_target)):
        for mine, its in zip(layers(ours), layers(theirs), strict=True):
            with torch.no_grad():
                mine.weight.copy_(its.weight)
                mine.bias.copy_(its.bias)
    start = weights(agent.online)
    for update in range(3):
        batch = make_batch(ROWS, update, obs=env.observation_space, act=env.action_space)
        sample = ReplayBufferSamples(
            batch.obs,
            batch.action[:, None],
            batch.next_obs,
            batch.terminated.to(torch.float32)[:, None],
            batch.reward[:, None],
            None,
        )
        monkeypatch.setattr(model.replay_buffer, "sample", lambda *_, s=sample, **__: s)
        model.train(gradient_steps=1, batch_size=ROWS)
        loss = agent.update(batch).metrics["loss/critic"].item()
        assert loss == pytest.approx(model.logger.name_to_value["train/loss"], rel=1e-5)
        for mine, its in zip(weights(agent.online), weights(model.q_net), strict=True):
            # Adam divides the rounding of gradients near its epsilon by itself: of the 1.7 million
            # weights for images a few differ by more.
            error = (mine - its).abs()
            assert (error > 1e-6).double().mean() < 1e-5 and error.max() < 1e-5, case
    for mine, before in zip(weights(agent.online), start, strict=True):
        assert not torch.equal(mine, before)
