"""The inventory problem of the DRPG paper (Wang, Ho and Petrik, ICML 2023, section 6).

8 states, 3 actions, discount 0.95, and a tilted kernel (``rlsuite.tilt``) of two state features and
two features of state and action. There is no physical inventory in it: base kernel and costs are
the random draws of the authors' code, kept here as data. Its features are what the published
exponents hold, negative squared distances: the exponential of a Gaussian is not taken there.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rlsuite.rng import generator
from rlsuite.robust import RobustMDP
from rlsuite.tilt import Parameters, TiltedKernel

# Row by row of (s, a): a line holds the 3 actions of a state, 8 successors each.
_BASE = """
    4 4 6 6 7 3 4 7   4 4 4 6 5 2 5 4   6 8 9 7 6 7 9 5
    4 4 6 8 7 4 9 8   2 6 5 2 6 9 6 9   9 3 5 7 5 2 6 9
    4 9 1 4 1 9 5 9   3 7 9 1 2 7 4 6   7 3 2 4 6 7 3 1
    5 1 5 9 3 8 9 4   4 1 6 8 6 1 8 5   9 4 5 9 1 3 2 1
    2 6 9 9 9 9 2 2   2 5 1 5 1 4 4 6   4 2 4 6 2 2 2 9
    9 6 7 4 8 1 3 9   2 8 4 8 3 7 2 1   6 5 5 2 8 6 7 4
    9 2 8 9 1 1 9 6   5 1 2 2 5 8 8 8   4 4 6 5 8 7 8 7
    5 2 8 7 2 4 3 2   3 3 5 4 2 8 2 3   9 2 1 1 9 9 6 5
"""
_COST = """
    2.61 0.81 0.44 1.2 3.39 2.51 5.04 4.43
    2.73 0.65 3.16 1.81 5.9 4.83 5.54 1.06
    0.46 1.79 4.36 1.65 3.93 3.4 2.07 6.73
    3.17 0.76 0.02 4.5 1.51 3.26 3.08 3.92
    0.92 4.97 5.08 0.11 6.03 6.1 0.27 1.65
    0.32 5.1 0.72 2.78 5.13 2.31 2.29 3.72
    0.33 2.56 2.75 5.52 0.68 1.93 2.18 2.88
    7.79 1.66 0.7 0.19 2.48 2.15 2.25 1.67
    2.78 2.07 0.43 2.26 1.91 1.42 1.9 3.03
    6.18 3.39 3.84 0.73 4.16 1.07 6.18 6.83
    0.78 2.96 0.4 1.96 8.4 1.18 1.03 4.97
    5.85 4.47 4.51 1.92 1.92 0.97 1.73 0.79
    3.69 4.88 3.47 1.83 6.14 0.68 2.39 3.6
    0.02 3.06 3.2 2.4 1.54 1.22 1.31 2.92
    2.64 1.54 2.99 3.02 0.45 3.15 0.28 3.16
    0.13 0.87 2.48 1.49 5.49 0.2 1.15 1.86
    4.04 2.1 2.87 3.52 0.47 1.48 3.58 3.8
    3.67 4.22 0.12 0.86 2.18 0.19 2.02 5.97
    1.73 3.95 3.68 1.06 2.39 1.47 0.04 1.23
    1.87 1.79 2.81 2.51 1.75 4.78 2.71 0.62
    1.8 0.66 2.18 2.1 1.84 2.58 2.53 6.99
    0.47 0.98 1.4 0.89 3.04 0.24 5.92 2.73
    0.79 0.52 3.21 3.2 0.27 1.25 4.68 4.91
    5.11 2.7 0.77 0.01 1.24 0.42 3.7 1.86
"""
_X0 = (0.25, 0.5, 0.75, 1.0, 0.25, 0.5, 0.75, 1.0)
_X1 = (1.3, -2.1, 3.4, -1.0, 2.5, 0.5, 1.8, -0.8)
_ACTIONS = (-3.0, -1.0, 5.0)
_STATE_CENTRES = ((-1.0, 2.0), (0.3, -0.6))
_PAIR_CENTRES = ((1.3, 2.1, 1.0), (-0.7, 1.5, 0.5))


def inventory(initial: Tensor | None = None) -> RobustMDP:
    """The problem with N instances for (N, 8) initial distributions, one uniform without any.

    Nominal is the kernel at the centre of the parameters, not the base.
    """
    initial = torch.full((1, 8), 1 / 8, dtype=torch.float64) if initial is None else initial
    count = len(initial)
    base, cost = (_table(text) for text in (_BASE, _COST))
    base = base / base.sum(-1, keepdim=True)
    phi, zeta = _features()
    centre = (torch.tensor(x, dtype=torch.float64) for x in ([0.4, 0.9], [0.7, 0.6]))
    base, cost, phi, zeta, theta, multiplier = (
        x.to(torch.float64).expand(count, *x.shape).clone()
        for x in (base, cost, phi, zeta, *centre)
    )
    tilt = TiltedKernel(base, phi, zeta, Parameters(theta, multiplier), (1.0, 1.0))
    successor = torch.arange(8).expand(count, 8, 3, 8).clone()
    nominal = tilt.kernel(tilt.centre, successor)
    support = torch.ones_like(successor, dtype=torch.bool)
    return RobustMDP(successor, support, nominal, cost, initial.to(torch.float64), 0.95, tilt)


def inventory_start(seed: int, instances: int) -> tuple[Tensor, Tensor]:
    """(N, 8) initial distributions and (N, 8, 3) policies as the paper's: integers 1 to 9."""
    draws: list[list[Tensor]] = [[], []]
    for i in range(instances):
        random = generator(seed, "inventory", i)
        for rows, shape in zip(draws, ((8,), (8, 3)), strict=True):
            whole = torch.randint(1, 10, shape, generator=random).to(torch.float64)
            rows.append(whole / whole.sum(-1, keepdim=True))
    return torch.stack(draws[0]), torch.stack(draws[1])


def _table(text: str) -> Tensor:
    numbers = [float(word) for word in text.split()]
    return torch.tensor(numbers, dtype=torch.float64).view(8, 3, 8)


def _features() -> tuple[Tensor, Tensor]:
    """phi (8, 2) of width 1 and zeta (8, 3, 2) of width 2."""
    x = torch.tensor([_X0, _X1], dtype=torch.float64).T
    centres = torch.tensor(_STATE_CENTRES, dtype=torch.float64)
    phi = -(x[:, None] - centres).square().sum(-1) / 2 / math.sqrt(2 * math.pi)
    actions = torch.tensor(_ACTIONS, dtype=torch.float64)
    pairs = torch.cat([x[:, None].expand(8, 3, 2), actions.expand(8, 3)[..., None]], -1)
    centres = torch.tensor(_PAIR_CENTRES, dtype=torch.float64)
    zeta = -(pairs[:, :, None] - centres).square().sum(-1) / 8 / math.sqrt(2 * math.pi * 4)
    return phi, zeta
