"""What learners of advice know of probabilities and transitions: counts, and how far to trust them.

The inequalities are Hoeffding's and the empirical Bernstein inequality of Maurer and Pontil (2009);
the interval by relative entropy is that of KL-UCB (Garivier and Cappe 2011). ``log`` is the
logarithm in them, log(events / delta), times the scale of whoever asks.

Shapes: ``N`` runs, ``S`` states, ``M`` choices, ``B`` successors seen of a state and choice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

Delta = Annotated[float, Field(gt=0, lt=1)]
"""A probability of error."""

BISECTIONS = 50


def hoeffding(successes: Tensor, trials: Tensor, log: float) -> tuple[Tensor, Tensor]:
    """Ends of the interval p +- sqrt(log / (2 n)) in [0, 1]; all of it without trials."""
    return _around(successes, trials, (log / (2 * trials.clamp(min=1))).sqrt())


def bernstein(successes: Tensor, trials: Tensor, log: float) -> tuple[Tensor, Tensor]:
    """p +- sqrt(2 p (1 - p) log / n) + 7 log / (3 (n - 1)) in [0, 1]."""
    p = successes / trials.clamp(min=1)
    return _around(successes, trials, deviation(p * (1 - p), trials, log))


def kl(successes: Tensor, trials: Tensor, log: float) -> tuple[Tensor, Tensor]:
    """The q at which n KL(p || q) = log, below and above p; by bisection, from outside."""
    p = successes / trials.clamp(min=1)
    inside, low, high = p, torch.zeros_like(p), torch.ones_like(p)
    near_low, near_high = inside, inside
    for _ in range(BISECTIONS):
        middle_low, middle_high = (low + near_low) / 2, (high + near_high) / 2
        far = trials * _relative_entropy(p, middle_low) > log
        low, near_low = torch.where(far, middle_low, low), torch.where(far, near_low, middle_low)
        far = trials * _relative_entropy(p, middle_high) > log
        high = torch.where(far, middle_high, high)
        near_high = torch.where(far, near_high, middle_high)
    return low, high


INTERVALS: dict[str, Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]] = {
    "hoeffding": hoeffding,
    "bernstein": bernstein,
    "kl": kl,
}
"""Each of (...) successes among (...) trials."""


def deviation(variance: Tensor, trials: Tensor, log: float, width: float = 1.0) -> Tensor:
    """sqrt(2 variance log / n) + 7 width log / (3 (n - 1)): a mean of numbers in a range of width.

    With n - 1 at least 1.
    """
    spread = (2 * variance * log / trials.clamp(min=1)).sqrt()
    return spread + 7 * width * log / (3 * (trials - 1).clamp(min=1))


def _around(successes: Tensor, trials: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
    width = torch.where(trials > 0, width, 1.0)
    p = successes / trials.clamp(min=1)
    return (p - width).clamp(min=0), torch.where(trials > 0, p + width, 1.0).clamp(max=1)


def _relative_entropy(p: Tensor, q: Tensor) -> Tensor:
    """KL between coins."""
    q = q.clamp(1e-15, 1 - 1e-15)
    return torch.xlogy(p, p / q) + torch.xlogy(1 - p, (1 - p) / (1 - q))
