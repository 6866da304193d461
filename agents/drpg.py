"""Double-loop robust policy gradient (Wang, Ho and Petrik, ICML 2023, arXiv 2212.10439).

A solver, for ``solve_loop``. The outer loop descends the robust cost by projected gradient steps on
the policy; the inner loop, an adversary, finds the kernel that is worst for the current policy to a
tolerance that shrinks from one outer iteration to the next.

What is guaranteed: for convex s-rectangular sets, (s,a)-rectangular ones among them, an initial
distribution that is positive everywhere, direct policies and tolerances that shrink by the discount
or faster, the best iterate becomes globally optimal, after O(gap^-4) steps of a size of order
1 / sqrt(iterations) (theorem 3.3; the steps that work in practice are longer). For a parametric
kernel the inner loop promises a stationary point and the outer one no more. Nothing is promised for
the last iterate.

Baselines are the same loop with another adversary: a fixed kernel is the non-robust policy
gradient, one ascent step the single-loop method. Shapes: ``N`` instances, ``S`` states, ``X``
actions, ``B`` successors; float64 unless the problem is in another precision.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from rlsuite.agents.adversaries import (
    Adversary,
    AdversaryName,
    AscentConfig,
    FixedKernel,
    GradientAdversary,
    make_adversary,
)
from rlsuite.agents.robust_planning import (
    UNUSED,
    occupancy,
    optimality_gap,
    policy_gradient,
    softmax_gradient,
    total_cost,
)
from rlsuite.ambiguity import summed
from rlsuite.errors import UserError
from rlsuite.projections import project_simplex
from rlsuite.robust import RobustMDP
from rlsuite.settings import NonNegative, Positive, PositiveCount, settings
from rlsuite.tilt import TiltedKernel
from rlsuite.types import Metrics, State

METRICS = {
    "cost/robust": "Cost of the policy against the adversary's kernel, mean over the instances.",
    "cost/best": "Least sum of that cost and its inner gap so far, which the solution has; mean.",
    "cost/gap": "Certified: the solution's robust cost exceeds the least by no more; greatest.",
    "inner/gap": "Greatest certified bound on what the adversary left out; 0 without certificate.",
    "inner/steps": "Linear systems that the inner loop solved.",
    "policy/entropy": "Entropy of the policy in nats, mean over states and instances.",
    "policy/step": "Step size of the outer loop, mean over the instances.",
}


@settings
class StepSize:
    """alpha_t = size * (t + 1)^-power, for iterations t from 0 on."""

    size: Positive
    """The first step. Relative: by how much the probabilities of the state with the widest spread
    of gradients move apart, before the projection."""
    power: NonNegative = 0.0
    """0 is constant, 0.5 a decay by the square root, 1 harmonic."""
    relative: bool = True
    """Whether the size is divided by the greatest spread max_a g(s, a) - min_a g(s, a) of a state,
    which makes the policies indifferent to scale and shift of the costs."""

    def __call__(self, iteration: int, gradient: Tensor) -> Tensor:
        """(N,) steps for (N, S, X) gradients."""
        size = torch.full_like(gradient[:, 0, 0], self.size * (iteration + 1) ** -self.power)
        if not self.relative:
            return size
        spread = (gradient.amax(2) - gradient.amin(2)).amax(1)
        return size / torch.where(spread > 0, spread, 1)


@settings
class Tolerance:
    """eps_t = initial * decay^t, in units of the range of the costs / (1 - discount)."""

    initial: NonNegative = 0.01
    """Of the first outer iteration, as a share of the range of the costs / (1 - discount)."""
    decay: Annotated[float, Field(gt=0, le=1)] | None = None
    """Factor from one to the next; unset is the discount, the slowest that the theorem allows."""


@settings
class DRPGConfig:
    """Settings of the outer loop."""

    policy: Literal["direct", "softmax"] = "direct"
    """What the gradient is taken by: the probabilities, or logits."""
    step: StepSize | None = None
    """None is ``PER_STATE_STEP`` for s-rectangular sets, whose optimum is not smooth, and for
    others, relative and constant: 1000 for probabilities, 10 for logits."""
    adversary: AdversaryName | None = None
    """The inner loop: "exact", "ascent" (algorithm 2 of the paper), "tilt" for a tilted kernel, or
    "nominal", whose policy is not robust. Unset is "exact", and "tilt" for a tilted kernel."""
    tolerance: Tolerance = Tolerance()
    """Of the inner loop, where it is not exact."""
    certify_every: PositiveCount = 10
    """Iterations from one lower bound on the optimum to the next: a robust Bellman step each."""


PER_STATE_STEP = StepSize(size=1.5, power=0.75)
"""1.5 / (t + 1)^0.75, relative. With 0.3 / sqrt(t + 1), and with 0.5, some of the paper's random
problems are more than 2e-3 from the optimum after 200 iterations: too short to get there, while the
last steps, which set the floor, are longer than these."""


def published(states: int) -> DRPGConfig:
    """The outer steps of the paper's Garnet experiments: 0.05 for 5 states, 0.01 for more."""
    return DRPGConfig(step=StepSize(size=0.05 if states <= 5 else 0.01, relative=False))


class DRPG:
    """The solver: ``iterate`` is one outer iteration, ``solution`` the best policy so far."""

    def __init__(
        self,
        mdp: RobustMDP,
        config: DRPGConfig | None = None,
        *,
        adversary: Adversary | None = None,
        policy: Tensor | None = None,
    ) -> None:
        """Start from the (N, S, X) policy, uniform if there is none.

        Without an adversary it is that of the config, with its default settings. Raises UserError
        for a policy that is none.
        """
        self.mdp, self.config = mdp, config or DRPGConfig()
        self.adversary = adversary or make_adversary(mdp, self.config.adversary)
        policy = mdp.uniform() if policy is None else _checked(policy, mdp)
        self.direct = self.config.policy == "direct"
        self.parameters = policy if self.direct else policy.clamp(min=UNUSED).log()
        """(N, S, X) probabilities, or logits."""
        self.step = self.config.step or _default_step(mdp, self.direct)
        self.solution = policy
        """(N, S, X) the policy of the least cost plus inner gap so far."""
        self.bound = torch.full_like(mdp.initial[:, 0], torch.inf)
        """(N,) that sum: for an adversary with a certificate the robust cost is at most this."""
        self.lower = -self.bound
        """(N,) greatest certified lower bound on the least robust cost."""
        self.cost = self.bound
        """(N,) J of the last iteration's policy against the adversary's kernel."""
        self.iteration = 0
        most = torch.where(mdp.support, mdp.cost, -torch.inf).amax((1, 2, 3))
        self._spread = most - torch.where(mdp.support, mdp.cost, torch.inf).amin((1, 2, 3))
        """(N,) of the costs of a step."""

    @property
    def policy(self) -> Tensor:
        """(N, S, X) where the next iteration begins."""
        return self.parameters if self.direct else self.parameters.softmax(2)

    @property
    def gap(self) -> Tensor:
        """Certified: by how much the solution's robust cost can exceed the least, greatest of N.

        Infinite if the adversary has no certificate.
        """
        return (self.bound - self.lower).amax().clamp(min=0)

    def iterate(self) -> Metrics:
        """Evaluate the policy against the adversary, keep it if it is the best, and descend."""
        mdp, policy = self.mdp, self.policy
        kernel, evaluation, _, gap, solves = self.adversary.respond(policy, self._tolerance())
        self.cost = total_cost(mdp, evaluation.v)
        better = self.cost + gap < self.bound
        self.bound = torch.where(better, self.cost + gap, self.bound)
        self.solution = torch.where(better[:, None, None], policy, self.solution)
        if self.adversary.certified and self.iteration % self.config.certify_every == 0:
            # v* >= v - max_s (v - T v)(s) / (1 - discount) for any v, whatever the inner gap.
            lower = self.cost - optimality_gap(mdp, evaluation.v)
            self.lower = torch.maximum(self.lower, lower)

        q = summed(kernel * mdp.target(evaluation.v))
        d = occupancy(mdp, evaluation)
        if self.direct:
            gradient = policy_gradient(mdp, d, q)
            step = self.step(self.iteration, gradient)
            # The projection does not see what all actions share; long steps would lose digits.
            descent = gradient - gradient.amin(2, keepdim=True)
            self.parameters = project_simplex(policy - step[:, None, None] * descent)
        else:
            gradient = softmax_gradient(mdp, d, q, policy)
            step = self.step(self.iteration, gradient)
            logits = self.parameters - step[:, None, None] * gradient
            self.parameters = logits.log_softmax(2)
        self.iteration += 1
        certificate = {"cost/gap": self.gap} if self.adversary.certified else {}
        return {
            "cost/robust": self.cost.mean(),
            "cost/best": self.bound.mean(),
            **certificate,
            "inner/gap": gap.max(),
            "inner/steps": gap.new_full((), solves),
            "policy/entropy": -torch.xlogy(policy, policy).sum(2).mean(),
            "policy/step": step.mean(),
        }

    def _tolerance(self) -> Tensor:
        """(N,) eps_t in units of the cost."""
        mdp, tolerance = self.mdp, self.config.tolerance
        decay = mdp.discount if tolerance.decay is None else tolerance.decay
        return tolerance.initial * decay**self.iteration * self._spread / (1 - mdp.discount)

    def state_dict(self) -> State:
        """Policy, best policy, and what the adversary keeps."""
        # Without a certificate it is infinite, which no checkpoint takes.
        lower = {"lower": self.lower} if self.adversary.certified else {}
        return {
            **lower,
            "parameters": self.parameters,
            "solution": self.solution,
            "bound": self.bound,
            "iteration": self.iteration,
            "adversary": self.adversary.state_dict(),
        }

    def load_state_dict(self, state: State) -> None:
        """Continue bit for bit."""
        self.parameters, self.solution = state["parameters"].clone(), state["solution"].clone()
        self.bound, self.iteration = state["bound"].clone(), state["iteration"]
        self.lower = state.get("lower", self.lower).clone()
        self.adversary.load_state_dict(state["adversary"])


def nominal_policy_gradient(mdp: RobustMDP, config: DRPGConfig | None = None) -> DRPG:
    """The paper's non-robust baseline: the same outer loop, nature never moves.

    Its costs are those of the nominal kernel; ``robust_planning.robust_cost`` gives the robust one.
    """
    return DRPG(mdp, config, adversary=FixedKernel(mdp))


def single_loop(
    mdp: RobustMDP,
    config: DRPGConfig | None = None,
    *,
    step: float = 0.1,
    policy: Tensor | None = None,
) -> DRPG:
    """The single-loop baseline: one ascent step on the kernel for each descent step."""
    ascent = AscentConfig(step=step, fill=False, max_solves=2)
    return DRPG(mdp, config, adversary=GradientAdversary(mdp, ascent), policy=policy)


def _default_step(mdp: RobustMDP, direct: bool) -> StepSize:
    if not isinstance(mdp.ambiguity, TiltedKernel) and mdp.ambiguity.per_state:
        return PER_STATE_STEP
    return StepSize(size=1000.0 if direct else 10.0)


def _checked(policy: Tensor, mdp: RobustMDP) -> Tensor:
    shape = mdp.nominal.shape[:3]
    if policy.shape != shape or policy.dtype != mdp.nominal.dtype:
        given = f"{policy.dtype} of shape {tuple(policy.shape)}"
        raise UserError(f"the policy is {given}, needs {mdp.nominal.dtype} of {tuple(shape)}")
    # So that NaN is refused too.
    if not bool((policy >= 0).all()) or not bool(((policy.sum(2) - 1).abs() <= 1e-6).all()):
        raise UserError("the policy has to hold probabilities that sum to 1 over the actions")
    return policy
