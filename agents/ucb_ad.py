"""UCB-AD: optimism about adherence, where all else is known.

Algorithm 1 of Chen, Li, Sun and Wang (ICLR 2024, arXiv 2310.00817), for their environment E1: the
dynamics, the rewards and the human's own policy are known, whom the human follows is not. An
advisor of ``advice_learning.AdviceLearning``, for ``solve_loop``.

The paper's: the optimal value never falls in adherence, so that planning with the upper ends of
confidence intervals is an optimistic plan; a sample complexity of O(H^2 S^2 A / eps^2). Its text
was not at hand in full: the intervals are the textbook's, their constants, the interval "kl" and
the default scale are ours. For "hoeffding" with scale 1 our derivation gives, with probability
1 - delta, Regret(K) <= 2 H sqrt(2 L S A H K) + O(H^1.5 sqrt(K log(1 / delta))).

Shapes: ``N`` runs, ``S`` states, ``X`` actions.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from rlsuite.advice import to_mixture
from rlsuite.agents.advice_estimates import INTERVALS, Delta
from rlsuite.agents.advice_learning import AdviceTask, Decision, Episodes, pure
from rlsuite.agents.advice_planning import plan_optimistic
from rlsuite.errors import UserError
from rlsuite.settings import Positive, PositiveCount, settings
from rlsuite.types import State


@settings
class UCBADConfig:
    """Settings of UCB-AD."""

    interval: Literal["hoeffding", "bernstein", "kl"] = "hoeffding"
    """Of the probability that the advised action is executed."""
    scale: Positive = 0.1
    """Factor on the logarithm in the interval. 1 is what the theory asks for, and slow."""
    delta: Delta = 0.1
    """Probability with which an interval may fail, at scale 1."""
    episodes: PositiveCount = 5_000
    """K, the number of episodes that the intervals have to hold for."""


class UCBAD:
    """The advisor. It counts how often advice was given and how often its action was executed."""

    def __init__(self, task: AdviceTask, config: UCBADConfig | None = None) -> None:
        """Of the task's tables it reads all but the adherence. Raises UserError for a budget."""
        if task.budget is not None:
            raise UserError("UCB-AD knows no budget of advice: give a cost, or take RFE-CMDP")
        self.config, self.horizon, self.cost = config or UCBADConfig(), task.horizon, task.cost
        self.known = task.model.with_adherence(1.0)
        self.size = n, s, x = task.size
        self.given = torch.zeros((n, s, x), dtype=torch.float64)
        """(N, S, X) n(s, m): how often m was advised in s."""
        self.matched = torch.zeros_like(self.given)
        """(N, S, X) y(s, m): how often it was then executed."""
        decisions = 2 * s * x * self.config.episodes * self.horizon
        self.log = self.config.scale * math.log(decisions / self.config.delta)

    def adherence(self) -> tuple[Tensor, Tensor]:
        """(N, S, X) ends of the intervals, in the mixture form."""
        low, high = INTERVALS[self.config.interval](self.matched, self.given, self.log)
        low, high = (to_mixture(end, self.known.human) for end in (low, high))
        if self.known.contrarian:
            return low, high
        return low.clamp(min=0), high.clamp(min=0)  # no advice makes an action less likely

    def decide(self) -> Decision:
        """The optimal policy for the adherence that promises most; ties go to deferring."""
        low, high = self.adherence()
        best = plan_optimistic(self.known, low, high, self.horizon, self.cost)
        advice = pure(best.policy[:, 0])
        return Decision(advice, advice, self.known.start(best.value)[:, 0])

    def learn(self, episodes: Episodes) -> None:
        """Count advice and matches; to defer says nothing of adherence."""
        n, _, x = self.size
        said = episodes.advice < x
        rows = torch.arange(n)[:, None].expand_as(said)
        place = rows[said], episodes.state[:, :-1][said], episodes.advice[said]
        matched = (episodes.advice == episodes.action)[said].to(torch.float64)
        self.given.index_put_(place, torch.ones_like(matched), accumulate=True)
        self.matched.index_put_(place, matched, accumulate=True)

    def state_dict(self) -> State:
        """The counts."""
        return {"given": self.given, "matched": self.matched}

    def load_state_dict(self, state: State) -> None:
        """Continue bit for bit."""
        self.given, self.matched = state["given"].clone(), state["matched"].clone()
