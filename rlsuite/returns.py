"""Advantages and returns of rollouts."""

from __future__ import annotations

import torch
from torch import Tensor


def generalized_advantage(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    *,
    discount: float,
    trace: float,
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al., ICLR 2016, arXiv 1506.02438, eq. 16).

    A_t = delta_t + discount trace A_{t+1}, with delta_t = r_t + discount V(s_{t+1}) - V(s_t). A
    termination has no V(s_{t+1}); at either end of an episode, and at the last step, the sum stops.

    Args:
        reward: (T, N) or (T, N, ...).
        value: (T, N, ...) of the states acted in.
        next_value: (T, N, ...) of their true successors, also where an episode ended.
        terminated, truncated: (T, N) bool.
        discount, trace: gamma and lambda, from 0 to 1.

    Returns:
        (T, N, ...) advantages, and the returns that a value learns, advantage + value: TD(lambda).
    """
    lasts = terminated | truncated
    while lasts.ndim < value.ndim:
        terminated, lasts = terminated[..., None], lasts[..., None]
        reward = reward[..., None] if reward.ndim < value.ndim else reward
    delta = reward + discount * next_value * ~terminated - value
    keep = discount * trace * (~lasts).to(delta.dtype)
    advantage = torch.empty_like(delta)
    following = torch.zeros_like(delta[0])
    for t in reversed(range(len(delta))):
        following = delta[t] + keep[t] * following
        advantage[t] = following
    return advantage, advantage + value
