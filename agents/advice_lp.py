"""Advice on a budget by linear programming: the same constrained MDP as ``advice_budget``'s.

The program of Chen, Li, Sun and Wang's setting (ICLR 2024, arXiv 2310.00817; see Altman 1999) over
the probabilities x(h, s, m) that at stage h the state is s and the advice m, where P and R are of
the MDP whose actions are advices (``AdviceModel.joint``) and X is to defer:

    max sum x(h, s, m) R(s, m)  with  sum_m x(1, s, m) = p_1(s),
    sum_m x(h + 1, s', m) = sum_{s, m} P(s' | s, m) x(h, s, m),  sum_{h, s, m < X} x(h, s, m) <= D.

Only states that can be reached at a stage are in it. One instance after the other, on the CPU; the
dual does all at once, on any device, and each is the other's test. Needs the extra ``lp``: HiGHS,
by SciPy.

Shapes: ``N`` instances, ``D`` budgets, ``H`` stages, ``S`` states, ``X`` actions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from rlsuite.advice import AdviceModel
from rlsuite.agents.advice_budget import check_budget
from rlsuite.agents.advice_planning import check_horizon
from rlsuite.errors import UserError


class BudgetProgram(NamedTuple):
    """Optimal advice under a bound on its expected number: one policy that draws its advice."""

    policy: Tensor
    """(N, D, H, S, X + 1) float64 probabilities of each advice and, last, of deferring, which one
    does where one never comes."""
    value: Tensor
    """(N, D) float64 expected return."""
    advices: Tensor
    """(N, D) float64 expected number of advices; not the least that brings the return."""


class Program(NamedTuple):
    """One instance's, over the variables x of the stages one after the other."""

    reward: NDArray[np.float64]
    """(V,) R."""
    flow: Any
    """(R, V) sparse: a row for each stage and state that can be reached."""
    enters: NDArray[np.float64]
    """(R,) what begins there."""
    said: NDArray[np.float64]
    """(V,) 1 where there is advice."""
    reached: list[NDArray[np.int64]]
    """The states of each stage."""


def plan_budget_lp(model: AdviceModel, horizon: int, budget: ArrayLike | Tensor) -> BudgetProgram:
    """The greatest return with at most ``budget`` advices an episode, in expectation.

    Arguments as of ``advice_budget.plan_budget``.

    Raises:
        UserError: as ``plan_budget``, without SciPy, and if the solver fails.
    """
    horizon = check_horizon(horizon)
    # The solver takes no infinite one, and nobody can spend more than an advice a stage.
    budgets = check_budget(model, budget).double().clamp(max=horizon).tolist()
    n, s, m = model.instances, model.states, model.actions + 1
    policy = torch.zeros((n, len(budgets), horizon, s, m), dtype=torch.float64)
    policy[..., -1] = 1
    value, advices = torch.zeros((2, n, len(budgets)), dtype=torch.float64)
    for i in range(n):
        program = write_program(*_induced(model, i), horizon)
        for d, most in enumerate(budgets):
            x = solve(program, most)
            value[i, d], advices[i, d] = float(program.reward @ x), float(program.said @ x)
            begins = np.cumsum([0, *(m * len(states) for states in program.reached)])
            for h, states in enumerate(program.reached):
                here = torch.from_numpy(x[begins[h] : begins[h + 1]].reshape(-1, m)).clamp(min=0)
                comes = here.sum(1, keepdim=True)
                rows = torch.from_numpy(states)
                policy[i, d, h, rows] = torch.where(comes > 0, here / comes, policy[i, d, h, rows])
    return BudgetProgram(policy, value, advices)


def write_program(
    kernel: Any, reward: NDArray[np.float64], initial: NDArray[np.float64], horizon: int
) -> Program:
    """The program of an MDP whose last action is to defer. Raises UserError without SciPy.

    Args:
        kernel: (S M, S) P(s' | s, m), dense or sparse, of M actions.
        reward: (S M,).
        initial: (S,) distribution of the first state.
        horizon: H.
    """
    sparse = _import_scipy().sparse
    m, kernel = len(reward) // len(initial), sparse.csr_array(kernel)
    here, leaving = np.flatnonzero(initial), kernel
    reached: list[NDArray[np.int64]] = []
    blocks: list[list[Any]] = []
    for h in range(horizon):
        row: list[Any] = [None] * horizon
        row[h] = sparse.kron(sparse.eye_array(len(here)), np.ones((1, m)))
        if h:
            row[h - 1] = -leaving[:, here].T
        blocks.append(row)
        reached.append(here)
        leaving = kernel[_pairs(here, m)]
        here = np.unique(leaving.nonzero()[1])
    enters = np.zeros(sum(map(len, reached)))
    enters[: len(reached[0])] = initial[reached[0]]
    variables = np.concatenate([_pairs(states, m) for states in reached])
    said = (variables % m < m - 1).astype(np.float64)
    flow = sparse.block_array(blocks, format="csr")
    return Program(reward[variables], flow, enters, said, reached)


def _pairs(states: NDArray[np.int64], m: int) -> NDArray[np.int64]:
    """Places of (s, 0) to (s, M - 1) of each state, in a row."""
    return (states[:, None] * m + np.arange(m)).ravel()


def _induced(
    model: AdviceModel, instance: int
) -> tuple[Any, NDArray[np.float64], NDArray[np.float64]]:
    """What ``write_program`` takes, of one instance and without a cost of advice."""
    sparse = _import_scipy().sparse
    s, a, m = model.states, model.actions, model.actions + 1

    def of(table: Tensor) -> NDArray[Any]:
        found: NDArray[Any] = table[instance if len(table) > 1 else 0].detach().cpu().numpy()
        return found

    listed = of(model.successor)
    advised, executed = np.arange(s * m).repeat(a), np.arange(s * a).reshape(s, 1, a)
    joint = sparse.csr_array(
        (of(model.joint()).ravel(), (advised, executed.repeat(m, 1).ravel())), (s * m, s * a)
    )
    pairs = np.arange(s * a).repeat(listed.shape[-1])
    leads = sparse.csr_array((of(model.probability).ravel(), (pairs, listed.ravel())), (s * a, s))
    return joint @ leads, joint @ of(model.reward).ravel(), of(model.initial)


def solve(program: Program, budget: float) -> NDArray[np.float64]:
    """(V,) the best x. Raises UserError without SciPy, and if the solver fails."""
    found = _import_scipy().optimize.linprog(
        -program.reward,
        A_ub=program.said[None],
        b_ub=[budget],
        A_eq=program.flow,
        b_eq=program.enters,
        method="highs",
    )
    if not found.success:
        raise UserError(f"the linear program of a budget of {budget:.6g} failed: {found.message}")
    x: NDArray[np.float64] = found.x
    return x


def _import_scipy() -> Any:
    try:
        import scipy.optimize
        import scipy.sparse
    except ImportError:
        raise UserError("linear programs need the lp extra: pip install 'rlsuite[lp]'") from None
    return scipy
