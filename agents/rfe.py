"""RFE-AD, RFE-beta and RFE-CMDP: explore once, then advise at any cost and on any budget.

For the environment E2 of Chen, Li, Sun and Wang (ICLR 2024, arXiv 2310.00817), where dynamics,
human and adherence are unknown: exploration of the induced MDP of advices that looks neither at
rewards nor at the cost of advice; afterwards one plans with what was counted. The paper's: the
method's idea, its names, and O(H^5 S A / eps^2) episodes for all costs at once (Algorithm 2). Their
exploration function, Eq. (5), was not at hand: the one here is that of RF-Express (Menard et al.,
ICML 2021, arXiv 2007.13442) from memory, and for the rewards of advice alone the logarithm of a net
over costs in place of S, which is our reading. An advisor of ``advice_learning.AdviceLearning``,
for ``solve_loop``; regret there is of the *planned* policy, for the one that explores earns nothing
on purpose.

RFE-AD is planning at cost 0, RFE-beta at any cost, RFE-CMDP on a budget: ``decide`` deploys what
the task asks for, ``plan`` and ``plan_budget`` plan for whatever else. ``OnlineRFE`` plays what it
has planned, more and more often.

Shapes: ``N`` runs, ``H`` stages, ``S`` states, ``X`` actions; advice X is to defer.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from rlsuite.advice import AdviceModel
from rlsuite.agents import advice_budget, advice_planning
from rlsuite.agents.advice_budget import BudgetPlan
from rlsuite.agents.advice_estimates import Delta, RewardRange, Transitions, choose, draw_noise
from rlsuite.agents.advice_learning import AdviceTask, Decision, Episodes, Mixture, pure
from rlsuite.agents.advice_planning import Plan
from rlsuite.rng import generator
from rlsuite.settings import Positive, settings
from rlsuite.types import State

AVOIDED = -1e-9
"""Reward of what was never tried: of what is worth the same one plans for what is known."""


@settings
class RFEConfig:
    """Settings of reward-free exploration."""

    scale: Positive = 1e-3
    """Factor on the bonus; 1 is the theory's, at which it is exploration by the least visits."""
    rewards: Literal["advice", "any"] = "advice"
    """What one will plan for: the task's rewards at any cost of advice, or any rewards at all."""
    precision: Positive = 0.1
    """eps, by which planned policies may miss the optimum in the end."""
    delta: Delta = 0.1
    """Probability with which that may fail, at scale 1."""
    reward: RewardRange = RewardRange()
    """Known in advance."""


class RFE:
    """The advisor."""

    def __init__(self, task: AdviceTask, config: RFEConfig | None = None, *, seed: int = 0) -> None:
        """Of the task's tables it reads the first state alone. ``seed`` is of ties."""
        self.task_cost, self.budget = task.cost, task.budget
        self.config, self.horizon = config or RFEConfig(), task.horizon
        self.initial = task.model.initial
        n, s, x = task.size
        self.seen = Transitions(n, s, x + 1)
        self.ties = generator(seed, "RFE")
        self.doubt = torch.full((n,), float(self.horizon), dtype=torch.float64)
        """(N,) W_1 of the first state when it was last decided."""

    def decide(self) -> Decision:
        """Explore; deploy what the task asks for."""
        play = pure(self.explore())
        if self.budget is not None:
            found = self.plan_budget(self.budget)
            policies = torch.stack([policy[:, 0] for policy in found.policies], 1)
            weight = torch.stack([found.weight, 1 - found.weight], 2)[:, 0]
            return Decision(play, Mixture(policies, weight), found.value[:, 0])
        best = self.plan(self.task_cost)
        return Decision(play, pure(best.policy[:, 0]), (best.value[:, 0] * self.initial).sum(1))

    def explore(self) -> Tensor:
        """(N, H, S) the policy that learns most.

        W_h = min(H - h + 1, 15 (H - h + 1)^2 b / n + (1 + 1 / H) E[max W_{h+1}]).
        """
        model, visits = self.seen.estimate(self.initial), self.seen.visits
        bonus = 15 * self.config.scale * self._log(visits) / visits.clamp(min=1)
        n, states, _ = visits.shape
        w = model.reward.new_zeros((n, states + 1))
        policy = torch.empty((self.horizon, n, states), dtype=torch.int64)
        noise = draw_noise((self.horizon, *visits.shape), self.ties)
        for h in reversed(range(self.horizon)):
            remaining = self.horizon - h
            after = model.expect(w[..., None])[:, :states, :, 0]
            doubt = remaining**2 * bonus + (1 + 1 / self.horizon) * after
            doubt = torch.where(visits > 0, doubt.clamp(max=remaining), remaining)
            policy[h] = choose(doubt, noise[h])
            w[:, :states] = doubt.gather(2, policy[h, ..., None])[..., 0]
        self.doubt = (w * model.initial).sum(1)
        return policy.transpose(0, 1)

    def _log(self, visits: Tensor) -> Tensor:
        """b(n): log(3 S (X + 1) H (1 + H / eps) / delta), or for any rewards the same without the
        net over costs and S log(8 e (n + 1)) more."""
        _, s, m = visits.shape
        log = math.log(3 * s * m * self.horizon / self.config.delta)
        if self.config.rewards == "any":
            return log + s * (8 * math.e * (visits + 1)).log()
        return torch.full_like(visits, log + math.log1p(self.horizon / self.config.precision))

    def explored(self) -> Tensor:
        """(N,) bool: 3 e sqrt(W_1) + W_1 <= eps / 2, in units of the reward's width.

        At scale 1 every policy planned is then within eps of its optimum, with probability 1 -
        delta.
        """
        error = 3 * math.e * self.doubt.sqrt() + self.doubt
        return error * self.config.reward.width <= self.config.precision / 2

    def plan(self, cost: ArrayLike | Tensor = 0.0) -> Plan:
        """The optimal advice for what was seen, at one or many costs; as ``advice_planning.plan``.

        What was never tried is worth the least that a reward can be.
        """
        found = advice_planning.plan(self._estimate(), self.horizon, cost)
        return Plan(found.value[..., :-1], self._advice(found.policy))

    def plan_budget(self, budget: ArrayLike | Tensor) -> BudgetPlan:
        """Likewise on one or many budgets; as ``advice_budget.plan_budget``."""
        found = advice_budget.plan_budget(self._estimate(), self.horizon, budget)
        first, second = (self._advice(policy) for policy in found.policies)
        return found._replace(policies=(first, second))

    def _estimate(self) -> AdviceModel:
        least, _ = self.config.reward.ends(self.horizon)
        return self.seen.estimate(self.initial, AVOIDED + least)

    def _advice(self, policy: Tensor) -> Tensor:
        """Of a policy of the estimate, which may charge for nothing, to one of the task."""
        return policy[..., :-1].clamp(max=self.seen.count.shape[2] - 1)

    def learn(self, episodes: Episodes) -> None:
        """Count advices and what they led to."""
        self.seen.add(episodes.state, episodes.advice, episodes.reward)

    def state_dict(self) -> State:
        """Counts, the generator of ties, and the doubt that was left."""
        seen, ties = self.seen.state_dict(), self.ties.get_state()
        return {"seen": seen, "ties": ties, "doubt": self.doubt}

    def load_state_dict(self, state: State) -> None:
        """Continue bit for bit."""
        self.seen.load_state_dict(state["seen"])
        self.ties.set_state(state["ties"])
        self.doubt = state["doubt"].clone()


class OnlineRFE:
    """Reward-free exploration that earns on the way: regret is of what it plays.

    Episode k is played by the planned policy with probability 1 - 1 / sqrt(k), else it explores; k
    is that of the last decision. On a budget exploration may ask for more than is allowed.
    """

    def __init__(self, rfe: RFE) -> None:
        self.rfe = rfe

    def decide(self) -> Decision:
        """Play and deploy the mixture; its value is at most that of the plan."""
        explore, plan, value = self.rfe.decide()
        episode = 1 + self.rfe.seen.visits[0].sum() / self.rfe.horizon
        rate = episode.rsqrt()
        both = Mixture(
            torch.cat([explore.policies, plan.policies], 1),
            torch.cat([rate * explore.weight, (1 - rate) * plan.weight], 1),
        )
        return Decision(both, both, value)

    def learn(self, episodes: Episodes) -> None:
        """As the one that explores does."""
        self.rfe.learn(episodes)

    def state_dict(self) -> State:
        """Its."""
        return self.rfe.state_dict()

    def load_state_dict(self, state: State) -> None:
        """Continue bit for bit."""
        self.rfe.load_state_dict(state)
