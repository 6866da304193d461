"""Spaces, batches and readings that the tests of agents with discrete actions share."""

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from rlsuite.types import Batch

OBS = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
# A start other than 0, so that a forgotten shift shows.
ACT = gym.spaces.Discrete(4, start=-2)
IMAGE = gym.spaces.Box(0, 255, (4, 10, 10), np.uint8)


def draw_obs(space: gym.spaces.Box, n: int, g: torch.Generator) -> Tensor:
    if space.dtype == np.float32:
        return torch.randn(n, *space.shape, generator=g)
    high = 2 if space.dtype == bool else 256
    values = torch.randint(high, (n, *space.shape), generator=g)
    return values.to(torch.bool if space.dtype == bool else torch.uint8)


def make_batch(
    n: int,
    seed: int = 0,
    *,
    obs: gym.spaces.Box = OBS,
    act: gym.spaces.Discrete = ACT,
    discount: float = 0.99,
    extra: dict[str, Tensor] | None = None,
) -> Batch:
    """``n`` random transitions, about a fifth terminated and a fifth truncated."""
    g = torch.Generator().manual_seed(seed)
    terminated, truncated = torch.rand(2, n, generator=g) < 0.2
    start = int(act.start)
    return Batch(
        obs=draw_obs(obs, n, g),
        action=torch.randint(start, start + int(act.n), (n,), generator=g),
        reward=torch.randn(n, generator=g),
        next_obs=draw_obs(obs, n, g),
        terminated=terminated,
        truncated=truncated,
        extra=extra or {},
        discount=discount * ~terminated,
        index=torch.arange(n),
        weight=torch.ones(n),
    )


def set_constant(net: torch.nn.Sequential, row: list[float]) -> None:
    """Make a perceptron return ``row``, whatever the input."""
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
        net[-1].bias.copy_(torch.tensor(row))


def parameters(state: Any, path: str = "") -> dict[str, Tensor]:
    """Copies of all tensors of a state, by path."""
    if isinstance(state, Tensor):
        return {path: state.detach().clone()}
    if not isinstance(state, dict):
        return {}
    return {
        k: t for name, part in state.items() for k, t in parameters(part, f"{path}/{name}").items()
    }


def assert_equal_states(a: Any, b: Any) -> None:
    """Bit for bit, numbers too."""
    if isinstance(a, Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for name in a:
            assert_equal_states(a[name], b[name])
    else:
        assert a == b
