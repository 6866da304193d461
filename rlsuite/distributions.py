"""Normal distributions with a diagonal covariance, plain and tanh-squashed.

The squashed one is numerically stable (SAC, arXiv 1812.05905, appendix C).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def log_tanh_jacobian(u: Tensor) -> Tensor:
    """log(1 - tanh(u)**2) elementwise, exact for all u: 2 (log 2 - u - softplus(-2u)).

    Forming 1 - tanh**2 would lose all digits from |u| = 9 in float32.
    """
    return 2.0 * (math.log(2.0) - u - F.softplus(-2.0 * u))


def squashed_normal(
    mean: Tensor, log_std: Tensor, noise: Tensor, log_jacobian_epsilon: float | None = None
) -> tuple[Tensor, Tensor]:
    """Sample a = tanh(u), u = mean + exp(log_std) noise, by reparameterisation.

    Args:
        mean, log_std, noise: (B, D) float32; noise is standard normal.
        log_jacobian_epsilon: None for the exact density. A number e takes log(1 - a**2 + e)
            instead, as other libraries do; it caps the correction at -log e per dimension.

    Returns:
        action (B, D) in [-1, 1] and log_prob (B,), its log density over [-1, 1]**D (eq. 26).
    """
    u = mean + log_std.exp() * noise
    action = torch.tanh(u)
    if log_jacobian_epsilon is None:
        log_jacobian = log_tanh_jacobian(u)
    else:
        log_jacobian = torch.log(1.0 - action.square() + log_jacobian_epsilon)
    log_normal = -0.5 * noise.square() - log_std - 0.5 * math.log(2.0 * math.pi)
    return action, (log_normal - log_jacobian).sum(-1)


def normal_log_prob(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """(B,) log densities of (B, D) values; ``mean`` and ``log_std`` are (B, D) or (D,)."""
    score = (x - mean) * torch.exp(-log_std)
    return (-0.5 * score.square() - log_std - 0.5 * math.log(2.0 * math.pi)).sum(-1)


def normal_entropy(log_std: Tensor) -> Tensor:
    """(...,) nats of (..., D) log standard deviations."""
    return (log_std + 0.5 * math.log(2.0 * math.pi * math.e)).sum(-1)
