"""Garnet problems as in the DRPG paper (Wang, Ho and Petrik, ICML 2023, section 6): random MDPs.

Costs are uniform from 0 to 5 for each (s, a, s'), successors of a state and action are distinct
states with weights uniform from 0 to 5, normalised; so is the initial distribution. The discount is
0.95 and the set is an L1 ball of random radius that moves mass among the nominal's successors only.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from rlsuite.ambiguity import L1, L1PerState
from rlsuite.errors import UserError
from rlsuite.rng import generator
from rlsuite.robust import RobustMDP

RADII = {"sa": (0.1, 0.5), "s": (0.01, 1.0)}
"""Uniform range of the radius, by rectangularity."""


def garnet(
    states: int,
    actions: int,
    branches: int,
    *,
    instances: int = 1,
    rectangular: Literal["sa", "s"] = "sa",
    radius: tuple[float, float] | None = None,
    seed: int = 0,
) -> RobustMDP:
    """G(states, actions, branches): ``instances`` of them as one batch.

    Instance i is the same whatever the number of instances. ``radius`` is the range of the L1 radii
    if it is not that of ``RADII``. The paper's sizes are (5, 4, 3), (10, 6, 3) and (15, 8, 3) for
    (s,a)-rectangular sets, (10, 5, 10) and (15, 8, 15) for s-rectangular ones. Raises UserError
    unless 1 <= branches <= states.
    """
    if not 1 <= branches <= states:
        raise UserError(f"{branches} distinct successors of {states} states: from 1 to all of them")
    if rectangular not in RADII:
        raise UserError(f"rectangular is {rectangular!r}, has to be sa or s")
    low, high = RADII[rectangular] if radius is None else radius
    shape = (states, actions, branches)
    rows = []
    for i in range(instances):
        random = generator(seed, "garnet", *shape, i)
        initial, weights, cost = (_uniform(random, s) for s in ((states,), shape, shape))
        order = _uniform(random, (*shape[:2], states)).argsort(-1)[..., :branches]
        radii = low + (high - low) * _uniform(random, shape[: 2 if rectangular == "sa" else 1])
        rows.append((order, _normalised(weights), 5 * cost, _normalised(initial), radii))
    successor, nominal, costs, first, spread = (
        torch.stack(parts) for parts in zip(*rows, strict=True)
    )
    ambiguity = L1(spread) if rectangular == "sa" else L1PerState(spread)
    support = torch.ones_like(successor, dtype=torch.bool)
    return RobustMDP(successor, support, nominal, costs, first, 0.95, ambiguity)


def garnet_policy(mdp: RobustMDP, seed: int = 0) -> Tensor:
    """(N, S, X) the paper's first policies: uniform from 0.1 to 0.5, normalised per state."""
    shape = (mdp.states, mdp.actions)
    randoms = [generator(seed, "garnet policy", *shape, i) for i in range(mdp.instances)]
    draws = torch.stack([0.1 + 0.4 * _uniform(random, shape) for random in randoms])
    return _normalised(draws).to(mdp.nominal)


def _uniform(random: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    return torch.rand(shape, generator=random, dtype=torch.float64)


def _normalised(weights: Tensor) -> Tensor:
    return weights / weights.sum(-1, keepdim=True)
