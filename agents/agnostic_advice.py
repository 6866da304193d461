"""Advice by learners that take it for actions: EULER and UCBVI in the induced MDP of advices.

The baselines of Chen, Li, Sun and Wang (ICLR 2024, arXiv 2310.00817), Figure 2: general optimistic
learners of an episodic MDP with X + 1 actions, the last of which is to defer. They ignore which
action was executed. EULER is of Zanette and Brunskill (ICML 2019), UCBVI of Azar, Osband and Munos
(ICML 2017) with its Hoeffding bonus; both from memory. A factor on the logarithm is ours: with the
constants of the theory neither leaves its caps for thousands of episodes. Advisors of
``advice_learning.AdviceLearning``, for ``solve_loop``.

Shapes: ``N`` runs, ``H`` stages, ``S`` states, ``X`` actions; advice X is to defer. Values have
one state more, where nothing happens (see ``Transitions.estimate``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from rlsuite.advice import AdviceModel
from rlsuite.agents.advice_estimates import (
    Delta,
    RewardRange,
    Transitions,
    choose,
    deviation,
    draw_noise,
    moments,
)
from rlsuite.agents.advice_learning import AdviceTask, Decision, Episodes, pure
from rlsuite.errors import UserError
from rlsuite.rng import generator
from rlsuite.settings import Positive, PositiveCount, settings
from rlsuite.types import State


@settings
class UCBVIConfig:
    """Settings of UCBVI."""

    scale: Positive = 0.005
    """Factor on the bonus; 1 is the theory's."""
    delta: Delta = 0.1
    """Probability with which the bounds may fail, with the theory's constants."""
    episodes: PositiveCount = 5_000
    """K, the number of episodes that the bounds have to hold for."""
    reward: RewardRange = RewardRange()
    """Known in advance."""


@settings
class EULERConfig:
    """Settings of EULER."""

    scale: Positive = 1e-4
    """Factor on the logarithm; 1 is the theory's."""
    delta: Delta = 0.1
    """Probability with which the bounds may fail, with the theory's constants."""
    episodes: PositiveCount = 5_000
    """K, the number of episodes that the bounds have to hold for."""
    reward: RewardRange = RewardRange()
    """Known in advance."""


Optimism: TypeAlias = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]
"""Upper and lower values (N, S + 1) of the next stage and the number of stages left to (N, S, M)
what to add to the mean of the upper and to take from that of the lower."""


class AgnosticAdvice:
    """The advisor: backward induction with a bonus on the counts of advices."""

    def __init__(
        self, task: AdviceTask, config: UCBVIConfig | EULERConfig | None = None, *, seed: int = 0
    ) -> None:
        """Of the task's tables it reads the first state alone. ``seed`` is of ties.

        Raises UserError for a budget.
        """
        if task.budget is not None:
            raise UserError("agnostic advice knows no budget: give a cost, or take UC-CFH")
        self.config: UCBVIConfig | EULERConfig = config or UCBVIConfig()
        self.horizon, self.initial = task.horizon, task.model.initial
        n, s, x = task.size
        self.seen = Transitions(n, s, x + 1)
        self.price = torch.full((x + 1,), task.cost, dtype=torch.float64)
        self.price[x] = 0
        self.ties = generator(seed, "agnostic advice")
        events = 4 * s * (x + 1) * self.config.episodes * self.horizon
        self.log = math.log(events / self.config.delta)

    def decide(self) -> Decision:
        """Optimistic, and equally good advices at random."""
        model = self.seen.estimate(self.initial)
        visits = self.seen.visits
        bonus = self._ucbvi(visits) if isinstance(self.config, UCBVIConfig) else self._euler(model)
        states = visits.shape[1]
        upper, lower = model.reward.new_zeros((2, len(visits), states + 1))
        policy = torch.empty((self.horizon, len(visits), states), dtype=torch.int64)
        reward = model.reward[:, :states]
        noise = draw_noise((self.horizon, *visits.shape), self.ties)
        for h in reversed(range(self.horizon)):
            least, most = self.config.reward.ends(self.horizon - h)
            plus, minus = bonus(upper, lower, self.horizon - h)
            after = model.expect(torch.stack([upper, lower], 2))[:, :states]
            high = (reward + after[..., 0] + plus).clamp(max=most)
            low = (reward + after[..., 1] - minus).clamp(min=least)
            high = torch.where(visits > 0, high, most) - self.price
            low = torch.where(visits > 0, low, least) - self.price
            policy[h] = choose(high, noise[h])
            upper[:, :states] = high.gather(2, policy[h, ..., None])[..., 0]
            # deferring is always possible: the optimum is no less than the least return
            lower[:, :states] = low.gather(2, policy[h, ..., None])[..., 0].clamp(min=least)
        advice = pure(policy.transpose(0, 1))
        return Decision(advice, advice, (upper * model.initial).sum(1))

    def _ucbvi(self, visits: Tensor) -> Optimism:
        """b = scale * (H - h + 1) sqrt(L / n), of rewards from 0 to 1."""
        root = self.config.scale * (self.log / visits.clamp(min=1)).sqrt()

        def bonus(upper: Tensor, lower: Tensor, remaining: int) -> tuple[Tensor, Tensor]:
            plus = remaining * self.config.reward.width * root
            return plus, plus

        return bonus

    def _euler(self, model: AdviceModel) -> Optimism:
        """b_r + phi(V) + ((4 J + B_p) / sqrt(n) + B_v ||V_up - V_low||) / sqrt(n).

        With phi(V) = sqrt(2 Var(V) L / n) + J / (n - 1), J = H L / 3, B_p = H sqrt(2 L) and B_v =
        sqrt(2 L); b_r is the empirical Bernstein bound of the mean reward.
        """
        log, width = self.config.scale * self.log, self.config.reward.width
        visits, states = self.seen.visits.clamp(min=1), self.seen.states
        j = self.horizon * width * log / 3
        b_p, b_v = self.horizon * width * math.sqrt(2 * log), math.sqrt(2 * log)
        of_reward = deviation(self.seen.reward_variance(), visits, log, width)

        def phi(values: Tensor) -> Tensor:
            variance = moments(model, values).variance[:, :states]
            return (2 * variance * log / visits).sqrt() + j / (visits - 1).clamp(min=1)

        def bonus(upper: Tensor, lower: Tensor, remaining: int) -> tuple[Tensor, Tensor]:
            distance = model.expect(((upper - lower) ** 2)[..., None])[:, :states, :, 0].sqrt()
            shared = of_reward + ((4 * j + b_p) / visits.sqrt() + b_v * distance) / visits.sqrt()
            return phi(upper) + shared, phi(lower) + shared

        return bonus

    def learn(self, episodes: Episodes) -> None:
        """Count advices and what they led to."""
        self.seen.add(episodes.state, episodes.advice, episodes.reward)

    def state_dict(self) -> State:
        """Counts and the generator of ties."""
        return {"seen": self.seen.state_dict(), "ties": self.ties.get_state()}

    def load_state_dict(self, state: State) -> None:
        """Continue bit for bit."""
        self.seen.load_state_dict(state["seen"])
        self.ties.set_state(state["ties"])
