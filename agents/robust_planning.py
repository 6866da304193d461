"""Exact planning in robust MDPs: policy evaluation, robust value iteration and policy iteration.

These are the oracles of ``agents/drpg.py``. All work on a batch of instances at once, without a
loop over states or actions; the inner problems are those of ``rlsuite.ambiguity``. Costs are
minimised, and maximised by nature. Section numbers are those of Wang, Ho and Petrik (ICML 2023,
arXiv 2212.10439) where they are given.

Shapes: ``N`` instances, ``S`` states, ``X`` actions, ``B`` successors.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rlsuite.ambiguity import L1, summed
from rlsuite.errors import UserError
from rlsuite.robust import RobustMDP
from rlsuite.types import Metrics, State

METRICS = {
    "cost/robust": "Robust cost from the initial states that the values stand for.",
    "value/change": "Greatest change of a state's value in this iteration.",
}

ROUND_OFF = 1e-13
"""Share of the greatest value below which a residual is that of the arithmetic, in float64."""

EPS = torch.finfo(torch.float64).eps

UNUSED = 1e-12
"""Probability up to which an action counts as not taken."""


class Evaluation(NamedTuple):
    """A policy against one kernel."""

    v: Tensor
    """(N, S) discounted cost from each state."""
    factor: tuple[Tensor, Tensor]
    """LU of I - discount * P_pi, and its pivots."""


class Response(NamedTuple):
    """What nature answers to a policy, and what it costs."""

    kernel: Tensor
    """(N, S, X, B)."""
    evaluation: Evaluation
    """Of the policy against this kernel."""
    worst: Tensor
    """(N, S, X, B) the best next step of nature: the worst kernel against these values."""
    gap: Tensor
    """(N,) certified: no kernel of the set costs more, in any state, by more than this."""
    steps: int
    """Linear systems solved."""


class Solution(NamedTuple):
    """A robust plan."""

    policy: Tensor
    """(N, S, X)."""
    v: Tensor
    """(N, S) its robust value: the least."""
    kernel: Tensor
    """(N, S, X, B) the worst for this policy."""
    gap: Tensor
    """(N,) certified: the distance of v to the optimum is at most this in every state."""


def evaluate(mdp: RobustMDP, policy: Tensor, kernel: Tensor) -> Evaluation:
    """v = (I - discount * P_pi)^-1 c_pi."""
    taken = policy[..., None] * kernel
    successor = mdp.successor.flatten(2)
    system = taken.new_zeros((*policy.shape[:2], mdp.states))
    system = system.scatter_add(2, successor, taken.flatten(2)).mul_(-mdp.discount)
    system.diagonal(dim1=1, dim2=2).add_(1)
    lu, pivots, _ = torch.linalg.lu_factor_ex(system)
    cost = (taken * mdp.cost).sum((2, 3))
    v: Tensor = torch.linalg.lu_solve(lu, pivots, cost[..., None])[..., 0]
    return Evaluation(v, (lu, pivots))


def occupancy(mdp: RobustMDP, evaluation: Evaluation) -> Tensor:
    """(N, S) discounted, sums to 1: (1 - discount) (I - discount * P_pi^T)^-1 initial."""
    initial = (1 - mdp.discount) * mdp.initial[..., None]
    d: Tensor = torch.linalg.lu_solve(*evaluation.factor, initial, adjoint=True)[..., 0]
    return d


def total_cost(mdp: RobustMDP, v: Tensor) -> Tensor:
    """(N,) J = initial . v."""
    return (mdp.initial * v).sum(1)


def policy_gradient(mdp: RobustMDP, d: Tensor, q: Tensor) -> Tensor:
    """(N, S, X) dJ / dpi(s, a) = d(s) q(s, a) / (1 - discount), each entry free."""
    return d[..., None] * q / (1 - mdp.discount)


def softmax_gradient(mdp: RobustMDP, d: Tensor, q: Tensor, policy: Tensor) -> Tensor:
    """(N, S, X) dJ / dlogits = d(s) pi(s, a) (q(s, a) - v(s)) / (1 - discount)."""
    advantage = q - (policy * q).sum(-1, keepdim=True)
    return d[..., None] * policy * advantage / (1 - mdp.discount)


def kernel_gradient(mdp: RobustMDP, d: Tensor, z: Tensor, policy: Tensor) -> Tensor:
    """(N, S, X, B) dJ / dp(s' | s, a) = d(s) pi(s, a) z(s, a, s') / (1 - discount)."""
    return (d[..., None] * policy)[..., None] * z / (1 - mdp.discount)


def assess(mdp: RobustMDP, policy: Tensor, kernel: Tensor) -> tuple[Evaluation, Tensor, Tensor]:
    """The evaluation, the worst kernel against its values, and the certificate.

    0 <= max_p J(policy, p) - J(policy, kernel) <= max_s (T_pi v - v)(s) / (1 - discount), with T_pi
    one call of the inner solver: the same bound holds for the value of every state. What is
    within round-off counts as 0.
    """
    evaluation = evaluate(mdp, policy, kernel)
    v = evaluation.v
    z = mdp.target(v)
    worst = mdp.worst(z, policy)
    rise = (summed(policy * summed(worst * z)) - v).amax(1)
    gap = torch.where(rise > _noise(v), rise, 0) / (1 - mdp.discount)
    return evaluation, worst, gap


def _noise(v: Tensor) -> Tensor:
    """(N,) residuals of (N, S) values up to which the arithmetic of their dtype is to blame."""
    return ROUND_OFF * (torch.finfo(v.dtype).eps / EPS) * (1 + v.abs().amax(1))


def robust_evaluate(
    mdp: RobustMDP,
    policy: Tensor,
    v: Tensor | None = None,
    *,
    kernel: Tensor | None = None,
    max_steps: int = 1000,
) -> Response:
    """The worst kernel for a fixed policy, exact: policy iteration of nature, 2 to 4 solves.

    Args:
        mdp: with a rectangular set.
        policy: (N, S, X).
        v: (N, S) values of a similar policy, which save a solve.
        kernel: the worst one against v and the policy, if it is known.
        max_steps: a guard; the values never fall, so that it stops by itself.
    """
    # Without values z is any cost to go; the nominal's are a good guess.
    v = evaluate(mdp, policy, mdp.nominal).v if v is None else v
    kernel = mdp.worst(mdp.target(v), policy) if kernel is None else kernel
    for step in range(1, max_steps + 1):
        evaluation, worst, gap = assess(mdp, policy, kernel)
        if step == max_steps or not bool((gap > 0).any()):
            break
        kernel = torch.where((gap > 0)[:, None, None, None], worst, kernel)
    return Response(fill(mdp, policy, kernel, worst), evaluation, worst, gap, step)


def fill(mdp: RobustMDP, policy: Tensor, kernel: Tensor, worst: Tensor) -> Tensor:
    """The kernel with its worst rows for actions that the policy does not take.

    It costs the same, but its action values are those of the robust Bellman operator. An
    s-rectangular set has one budget for all actions: there the kernel stays as it is.
    """
    if mdp.rectangular.per_state:
        return kernel
    return torch.where((policy <= UNUSED)[..., None], worst, kernel)


def robust_cost(mdp: RobustMDP, policy: Tensor) -> Tensor:
    """(N,) max over p of J(policy, p), exact."""
    return total_cost(mdp, robust_evaluate(mdp, policy).evaluation.v)


def optimality_gap(mdp: RobustMDP, v: Tensor) -> Tensor:
    """(N,) certified: the robust values v of a policy exceed the least ones by at most this.

    From v - v* <= max_s (v - T v)(s) / (1 - discount), T the robust Bellman operator.
    """
    return (v - mdp.improve(mdp.target(v))[1]).amax(1).clamp(min=0) / (1 - mdp.discount)


class RobustValueIteration:
    """v <- T v, a solver for ``solve_loop``; contracts by the discount."""

    def __init__(self, mdp: RobustMDP, v: Tensor | None = None) -> None:
        """Start from (N, S) values, or from 0. Raises UserError for a parametric kernel."""
        self.mdp = mdp
        self.v = torch.zeros_like(mdp.initial) if v is None else v
        self.change = torch.full_like(mdp.initial[:, 0], torch.inf)
        """(N,) of the last iteration."""
        _ = mdp.rectangular

    @property
    def gap(self) -> Tensor:
        """Certified: the distance of every value to the optimum is at most this."""
        return self.mdp.discount / (1 - self.mdp.discount) * self.change.amax()

    def iterate(self) -> Metrics:
        """One sweep."""
        new = self.mdp.improve(self.mdp.target(self.v))[1]
        self.change = (new - self.v).abs().amax(1)
        self.v = new
        cost = total_cost(self.mdp, new).mean()
        return {"cost/robust": cost, "value/change": self.change.max()}

    def state_dict(self) -> State:
        """The values."""
        return {"v": self.v}

    def load_state_dict(self, state: State) -> None:
        """Continue bit for bit."""
        self.v = state["v"].clone()


def robust_value_iteration(
    mdp: RobustMDP, tolerance: float | None = None, max_sweeps: int = 100_000
) -> Solution:
    """Sweep until every state's value is within ``tolerance`` of the optimum.

    |v - v*| <= discount / (1 - discount) * |T v - v|. Without a tolerance it is 1e-10 in float64,
    and in less precise arithmetic what that leaves: a last change of 16 units of the last place.
    Raises UserError if ``max_sweeps`` do not suffice, as for a tolerance below round-off.
    """
    solver, dtype = RobustValueIteration(mdp), mdp.nominal.dtype
    if tolerance is None and dtype == torch.float64:
        tolerance = 1e-10
    bound = mdp.discount / (1 - mdp.discount)
    for _ in range(max_sweeps):
        solver.iterate()
        gap = bound * solver.change
        noise = bound * 16 * torch.finfo(dtype).eps * (1 + solver.v.abs().amax(1))
        if bool((gap <= (noise if tolerance is None else tolerance)).all()):
            z = mdp.target(solver.v)
            policy = mdp.improve(z)[0]
            return Solution(policy, solver.v, mdp.worst(z, policy), gap)
    asked = "that of the arithmetic" if tolerance is None else f"{tolerance:.2g}"
    raise UserError(f"robust value iteration: {float(gap.max()):.2g} left, tolerance {asked}")


def robust_policy_iteration(
    mdp: RobustMDP, policy: Tensor | None = None, *, max_steps: int = 1000
) -> Solution:
    """Evaluate robustly and exactly, improve by the robust Bellman operator, until neither helps.

    Values never rise. For s-rectangular sets the improved policies are randomised.
    """
    policy = mdp.uniform() if policy is None else policy
    response = robust_evaluate(mdp, policy, max_steps=max_steps)
    for _ in range(max_steps):
        v = response.evaluation.v
        better, new = mdp.improve(mdp.target(v))
        fall = (v - new).amax(1)
        falls = fall > _noise(v)
        if not bool(falls.any()):
            break
        policy = torch.where(falls[:, None, None], better, policy)
        response = robust_evaluate(mdp, policy, v, max_steps=max_steps)
    gap = optimality_gap(mdp, response.evaluation.v) + response.gap
    return Solution(policy, response.evaluation.v, response.kernel, gap)


def nominal_policy_iteration(mdp: RobustMDP) -> Solution:
    """The optimum of the nominal kernel: a radius of 0."""
    return robust_policy_iteration(mdp.with_ambiguity(L1(0.0)))
