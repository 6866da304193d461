"""Spaces, batches and readings that several tests of SAC share."""

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from rlsuite.agents.sac import SAC
from rlsuite.types import Batch

OBS = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
# Neither symmetric nor of equal ranges, so that a wrong scale or order of dimensions shows.
ACT = gym.spaces.Box(np.array([-1, 0], np.float32), np.array([0.5, 4], np.float32))


def make_batch(
    n: int,
    seed: int = 0,
    *,
    obs: gym.spaces.Box = OBS,
    act: gym.spaces.Box = ACT,
    discount: float = 0.99,
) -> Batch:
    """``n`` random transitions, about a fifth terminated and a fifth truncated."""
    g = torch.Generator().manual_seed(seed)
    low, high = torch.as_tensor(act.low), torch.as_tensor(act.high)
    terminated, truncated = torch.rand(2, n, generator=g) < 0.2
    return Batch(
        obs=torch.randn(n, *obs.shape, generator=g),
        action=low + torch.rand(n, *act.shape, generator=g) * (high - low),
        reward=torch.randn(n, generator=g),
        next_obs=torch.randn(n, *obs.shape, generator=g),
        terminated=terminated,
        truncated=truncated,
        extra={},
        discount=discount * ~terminated,
        index=torch.arange(n),
        weight=torch.ones(n),
    )


def make_noise(agent: SAC, n: int, seed: int = 0) -> Tensor:
    """What ``learn`` takes beside a batch of ``n``."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(1 + agent.config.policy_period, n, agent.actions, generator=g)


def weights(agent: SAC) -> dict[str, Tensor]:
    """Copies of all weights, targets and the log temperature, by name."""
    nets = {"actor": agent.actor, "critic": agent.critic, "target": agent.target}
    found = {f"{net}/{name}": p for net, m in nets.items() for name, p in m.named_parameters()}
    log_value = getattr(agent.temperature, "log_value", None)
    if log_value is not None:
        found["log_temperature"] = log_value
    return {name: p.detach().clone() for name, p in found.items()}
