"""Small robust MDPs, random policies, and linear programs that know nothing of our code."""

from typing import Any

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

from rlsuite.ambiguity import AmbiguitySet
from rlsuite.robust import RobustMDP

EXACT = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
# Oracle O3 of the issue: 3 states, 2 actions, discount 0.9.
KERNEL = [
    [[0.6, 0.3, 0.1], [0.1, 0.6, 0.3]],
    [[0.2, 0.5, 0.3], [0.5, 0.25, 0.25]],
    [[0.3, 0.3, 0.4], [0.05, 0.15, 0.8]],
]
COST = [[[1, 2, 0], [0, 3, 1]], [[2, 0, 4], [1, 1, 3]], [[5, 0, 1], [2, 2, 2]]]


def three_states(ambiguity: AmbiguitySet) -> RobustMDP:
    return RobustMDP.from_arrays(
        KERNEL,
        cost=COST,
        initial=[0.5, 0.3, 0.2],
        discount=0.9,
        ambiguity=ambiguity,
        support="all",
    )


def random_mdp(
    seed: int,
    ambiguity: AmbiguitySet,
    *,
    instances: int = 1,
    states: int = 4,
    actions: int = 3,
    discount: float = 0.9,
    support: Any = "nominal",
) -> RobustMDP:
    """Kernels with lists of several lengths, one successor among them."""
    random = np.random.default_rng(seed)
    kernel = random.random((instances, states, actions, states))
    kernel *= random.random(kernel.shape) < 0.7
    kernel[..., 0] += kernel.sum(-1) == 0
    kernel /= kernel.sum(-1, keepdims=True)
    initial = random.random((instances, states)) + 0.1
    return RobustMDP.from_arrays(
        kernel,
        cost=random.normal(size=kernel.shape) * 3,
        initial=initial / initial.sum(-1, keepdims=True),
        discount=discount,
        ambiguity=ambiguity,
        support=support,
    )


def random_policy(mdp: RobustMDP, seed: int, *, zeros: bool = False) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    draw = torch.rand(mdp.nominal.shape[:3], generator=random, dtype=torch.float64) + 0.01
    if zeros:
        draw = draw * (draw > 0.4)
        draw[..., 0] += draw.sum(-1) == 0
    return draw / draw.sum(-1, keepdim=True)


def random_z(mdp: RobustMDP, seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return 5 * torch.randn(mdp.nominal.shape, generator=random, dtype=torch.float64)


def worst_by_lp(
    kind: str, radius: float, weight: list[float], z: Any, nominal: Any, support: Any
) -> float:
    """max sum_a weight_a p_a . z_a by HiGHS, for the rows of one state (or of one action)."""
    z, nominal, support = (np.asarray(x, float) for x in (z, nominal, support))
    rows, size = z.shape
    n = rows * size
    # Variables p and, for L1, m >= |p - nominal|.
    objective = np.concatenate([-(np.array(weight)[:, None] * z).ravel(), np.zeros(n)])
    sums = np.concatenate([np.kron(np.eye(rows), np.ones(size)), np.zeros((rows, n))], 1)
    eye, flat = np.eye(n), nominal.ravel()
    upper = [np.concatenate([eye, -eye], 1), np.concatenate([-eye, -eye], 1)]
    right = [flat, -flat]
    if kind == "L1":
        upper.append(np.concatenate([np.zeros(n), np.ones(n)])[None])
        right.append(np.array([radius]))
    low, high = np.zeros(n), support.ravel()
    if kind == "LInf":
        low, high = np.maximum(flat - radius, 0), np.minimum(flat + radius, 1) * high
    if kind == "Contamination":
        low = (1 - radius) * flat
    bounds = [*zip(low, high, strict=True), *[(0, None)] * n]
    result = linprog(
        objective,
        A_ub=np.concatenate(upper),
        b_ub=np.concatenate(right),
        A_eq=sums,
        b_eq=np.ones(rows),
        bounds=bounds,
        method="highs",
        options=EXACT,
    )
    assert result.status == 0, result.message
    return -float(result.fun)


def improve_by_lp(radius: float, z: Any, nominal: Any, support: Any) -> float:
    """min over policies, max over the s-rectangular L1 set, in one state: the dual, by HiGHS.

    min over pi, mu, lam, u+, u- of sum_a mu_a + radius lam + sum nominal (u+ - u-), subject to
    mu_a + u+_ai - u-_ai >= pi_a z_ai on the support, u+ + u- <= lam.
    """
    z, nominal, support = (np.asarray(x, float) for x in (z, nominal, support))
    actions, size = z.shape
    n = actions * size
    columns = 2 * actions + 1 + 2 * n
    objective = np.zeros(columns)
    objective[actions : 2 * actions] = 1
    objective[2 * actions] = radius
    objective[2 * actions + 1 :] = np.concatenate([nominal.ravel(), -nominal.ravel()])
    rows, right = [], []
    for a in range(actions):
        for i in range(size):
            plus = 2 * actions + 1 + a * size + i
            if support[a, i]:
                row = np.zeros(columns)
                row[a], row[actions + a], row[plus], row[plus + n] = z[a, i], -1, -1, 1
                rows.append(row)
                right.append(0.0)
            row = np.zeros(columns)
            row[plus], row[plus + n], row[2 * actions] = 1, 1, -1
            rows.append(row)
            right.append(0.0)
    bounds = [(0, None)] * actions + [(None, None)] * actions + [(0, None)] * (1 + 2 * n)
    equal = np.zeros((1, columns))
    equal[0, :actions] = 1
    result = linprog(
        objective, np.array(rows), right, equal, [1.0], bounds, method="highs", options=EXACT
    )
    assert result.status == 0, result.message
    return float(result.fun)
