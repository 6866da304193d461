"""FUCB-AD: optimism about everything, in the factors that advice has.

Ours, not the paper's: for the environment E2 of Chen, Li, Sun and Wang (ICLR 2024, arXiv
2310.00817), where nothing is known, a learner that uses the structure. It learns the dynamics and
rewards of *executed* actions, the human's own policy and their adherence apart from each other,
each from all steps that tell of it, and plans optimistically in all of them. The same data replan
for another cost, another adherence or another human. An advisor of
``advice_learning.AdviceLearning``, for ``solve_loop``.

Shapes: ``N`` runs, ``H`` stages, ``S`` states, ``X`` actions; advice X is to defer. Values have
one state more, where nothing happens (see ``Transitions.estimate``).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rlsuite.advice import AdviceModel
from rlsuite.agents.advice_estimates import (
    Delta,
    RewardRange,
    Transitions,
    choose,
    draw_noise,
    hoeffding,
    moments,
)
from rlsuite.agents.advice_learning import AdviceTask, Decision, Episodes, pure
from rlsuite.errors import UserError
from rlsuite.rng import generator
from rlsuite.settings import Positive, PositiveCount, settings
from rlsuite.types import State

ITERATIONS = 50
"""Of the expectation-maximisation, each time from the uniform policy."""


@settings
class FUCBConfig:
    """Settings of FUCB-AD."""

    scale: Positive = 0.005
    """Factor on the bonus of dynamics and rewards."""
    human_scale: Positive = 0.03
    """Factor on the logarithm in the intervals of adherence and of the human's policy."""
    delta: Delta = 0.1
    """Probability with which the bounds may fail, with scales that theory would ask for."""
    episodes: PositiveCount = 5_000
    """K, the number of episodes that the bounds have to hold for."""
    reward: RewardRange = RewardRange()
    """Known in advance."""


class FUCB:
    """The advisor."""

    def __init__(
        self, task: AdviceTask, config: FUCBConfig | None = None, *, seed: int = 0
    ) -> None:
        """Of the task's tables it reads the first state alone. ``seed`` is of ties.

        Raises UserError for a budget.
        """
        if task.budget is not None:
            raise UserError("FUCB-AD knows no budget: give a cost, or take RFE-CMDP")
        self.config, self.horizon, self.cost = config or FUCBConfig(), task.horizon, task.cost
        self.initial = task.model.initial
        n, s, x = task.size
        self.seen = Transitions(n, s, x)
        """By action executed."""
        self.executed = torch.zeros((n, s, x + 1, x), dtype=torch.float64)
        """(N, S, X + 1, X) how often an action was executed at an advice."""
        self.ties = generator(seed, "FUCB")
        events = 2 * s * x * self.config.episodes * self.horizon
        self.log = math.log(events / self.config.delta)

    def decide(self) -> Decision:
        """Backward induction, optimistic in dynamics, human and adherence."""
        model, visits = self.seen.estimate(self.initial), self.seen.visits
        n, states, x = visits.shape
        human, trust = self.human(), self._trust()
        given, matched = self.executed[:, :, :x].sum(3), self._matched()
        ends = hoeffding(matched, given, self.config.human_scale * self.log)
        upper = model.reward.new_zeros((n, states + 1))
        policy = torch.empty((self.horizon, n, states), dtype=torch.int64)
        noise = draw_noise((self.horizon, n, states, x + 1), self.ties)
        for h in reversed(range(self.horizon)):
            u = self._execute(model, visits, upper, self.horizon - h)
            best = u.amax(2, keepdim=True)
            slack = trust * (best - u.amin(2, keepdim=True))
            alone = (human * u).sum(2, keepdim=True)
            rest = (alone - human * u) / (1 - human).clamp(min=1e-3)
            rest = torch.minimum(rest + slack, best)
            followed = torch.stack([end * u + (1 - end) * rest for end in ends])
            defer = torch.minimum(alone + slack, best)
            q = torch.cat([followed.amax(0) - self.cost, defer], 2)
            policy[h] = choose(q, noise[h])
            upper[:, :states] = q.gather(2, policy[h, ..., None])[..., 0]
        advice = pure(policy.transpose(0, 1))
        return Decision(advice, advice, (upper * model.initial).sum(1))

    def _execute(
        self, model: AdviceModel, visits: Tensor, values: Tensor, remaining: int
    ) -> Tensor:
        """(N, S, X) optimistic value of executing an action.

        U = r + E[V] + scale (sqrt(2 Var(V) L / n) + (H - h + 1) L / n), capped.
        """
        states, config, n = visits.shape[1], self.config, visits.clamp(min=1)
        least, most = config.reward.ends(remaining)
        mean, variance = (x[:, :states] for x in moments(model, values))
        bonus = (2 * variance * self.log / n).sqrt() + (most - least) * self.log / n
        u = model.reward[:, :states] + mean + config.scale * bonus
        return torch.where(visits > 0, u.clamp(max=most), most)

    def _matched(self) -> Tensor:
        """(N, S, X) how often advice was given and its action executed."""
        return self.executed[:, :, : self.executed.shape[3]].diagonal(dim1=2, dim2=3)

    def human(self) -> Tensor:
        """(N, S, X) the most likely policy of the human, uniform where nothing tells.

        Of steps at which nothing was advised, and of rejections, which are draws of the human's
        among the other actions: by expectation-maximisation, with for each rejection of b the
        expected number pi(b) / (1 - pi(b)) of draws of b that nobody saw.
        """
        told = self._rejections()
        refused = told.sum(3)
        seen = self.executed[:, :, -1] + told.sum(2)
        pi = torch.full_like(seen, 1 / seen.shape[2])
        known = seen.sum(2, keepdim=True) > 0
        for _ in range(ITERATIONS):
            draws = seen + refused * pi / (1 - pi).clamp(min=1e-12)
            pi = torch.where(known, draws / draws.sum(2, keepdim=True).clamp(min=1), pi)
        return pi

    def _rejections(self) -> Tensor:
        """(N, S, X, X) how often which action was executed in place of an advised one."""
        x = self.executed.shape[3]
        return self.executed[:, :, :x] * (1 - torch.eye(x, dtype=torch.float64))

    def _trust(self) -> Tensor:
        """(N, S, 1) half of min(2, sqrt(2 X L / n)): by what share of the values' spread the mean
        over the human's actions may be wrong, for n draws of the human's."""
        x = self.executed.shape[3]
        n = self.executed[:, :, -1].sum(2) + self._rejections().sum((2, 3))
        log = self.config.human_scale * self.log
        return 0.5 * (2 * x * log / n.clamp(min=1e-9)).sqrt().clamp(max=2)[..., None]

    def learn(self, episodes: Episodes) -> None:
        """Count what was executed at which advice, and what it led to."""
        state, advice, action, reward = episodes
        rows = torch.arange(len(state))[:, None].expand_as(advice)
        one = torch.ones_like(reward)
        self.executed.index_put_((rows, state[:, :-1], advice, action), one, accumulate=True)
        self.seen.add(state, action, reward)

    def state_dict(self) -> State:
        """Counts and the generator of ties."""
        seen, ties = self.seen.state_dict(), self.ties.get_state()
        return {"seen": seen, "executed": self.executed, "ties": ties}

    def load_state_dict(self, state: State) -> None:
        """Continue bit for bit."""
        self.seen.load_state_dict(state["seen"])
        self.executed = state["executed"].clone()
        self.ties.set_state(state["ties"])
