"""UC-CFH: optimism under a budget, the baseline of RFE-CMDP.

After Kalagarla, Jain and Nuzzo, "A Sample-Efficient Algorithm for Episodic Finite-Horizon MDP with
Constraints" (AAAI 2021, arXiv 2009.11348), from memory of its abstract and the form of its program:
the best policy, within the budget, of the best kernel whose every probability is in its confidence
interval. Theirs is an extended linear program over occupancies z_h(s, m, s'). Ours is its dual: the
price of an advice is searched for, and for a price the best kernel and policy follow by backward
induction; both have one value (tested). In place of the stochastic policy of the program there are
two deterministic ones of which each episode draws one. What was never seen to follow is one state,
in which every stage earns the most. An advisor of ``advice_learning.AdviceLearning``, for
``solve_loop``.

Shapes: ``N`` runs, ``H`` stages, ``S`` states, ``X`` actions, ``B`` successors seen; advice X is to
defer.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rlsuite.agents.advice_budget import find_price
from rlsuite.agents.advice_estimates import (
    Delta,
    RewardRange,
    Transitions,
    choose,
    deviation,
    draw_noise,
)
from rlsuite.agents.advice_learning import AdviceTask, Decision, Episodes, Mixture
from rlsuite.errors import UserError
from rlsuite.rng import generator
from rlsuite.settings import Positive, PositiveCount, settings
from rlsuite.types import State

BISECTIONS = 30
"""Of the price."""


@settings
class UCCFHConfig:
    """Settings of UC-CFH."""

    scale: Positive = 1e-3
    """Factor on the logarithm in the intervals; 1 is the theory's."""
    delta: Delta = 0.1
    """Probability with which an interval may fail, at scale 1."""
    episodes: PositiveCount = 2_000
    """K, the number of episodes that the intervals have to hold for."""
    reward: RewardRange = RewardRange()
    """Known in advance."""


class UCCFH:
    """The advisor."""

    def __init__(
        self, task: AdviceTask, config: UCCFHConfig | None = None, *, seed: int = 0
    ) -> None:
        """Of the task's tables it reads the first state alone. ``seed`` is of ties.

        Raises UserError without a budget.
        """
        if task.budget is None:
            raise UserError("UC-CFH needs a budget of advice")
        self.config, self.horizon = config or UCCFHConfig(), task.horizon
        self.budget = torch.tensor([task.budget], dtype=torch.float64)
        self.initial = task.model.initial
        n, s, x = task.size
        self.seen = Transitions(n, s, x + 1)
        self.ties = generator(seed, "UC-CFH")
        events = 4 * s * (x + 1) * self.config.episodes * self.horizon
        self.log = self.config.scale * math.log(events / self.config.delta)

    def decide(self) -> Decision:
        """The optimistic mixture that keeps the budget, as far as one can know."""
        box, reward = self._box(), self._reward()
        noise = draw_noise((self.horizon, *reward.shape), self.ties)

        def respond(price: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return self._respond(price, box, reward, noise)

        worth = self.horizon * self.config.reward.width
        found = find_price(
            respond, reward.new_full((len(reward),), worth), self.budget, 2, BISECTIONS
        )
        weight = torch.stack([found.weight, 1 - found.weight], 2)[:, 0]
        advice = Mixture(torch.cat(found.policies, 1), weight)
        return Decision(advice, advice, found.value[:, 0])

    def _box(self) -> tuple[Tensor, Tensor]:
        """(N, S, M, B + 1) least and greatest probability of the successors seen, and of the rest.

        p +- sqrt(2 p (1 - p) L / n) + 7 L / (3 (n - 1)).
        """
        count = self.seen.count
        visits = self.seen.visits[..., None]
        p = torch.cat([count, torch.zeros_like(visits)], 3) / visits.clamp(min=1)
        width = deviation(p * (1 - p), visits, self.log)
        listed = torch.cat([count > 0, torch.ones_like(visits, dtype=torch.bool)], 3)
        low = torch.where(visits > 0, (p - width).clamp(min=0), 0.0)
        high = torch.where(listed, (p + width).clamp(max=1), 0.0)
        unknown = torch.ones_like(high[..., -1])
        high[..., -1] = torch.where(visits[..., 0] > 0, high[..., -1], unknown)
        return low, high

    def _reward(self) -> Tensor:
        """(N, S, M) optimistic."""
        visits, width = self.seen.visits, self.config.reward.width
        bonus = deviation(self.seen.reward_variance(), visits, self.log, width)
        most = self.config.reward.ends(1)[1]
        reward = (self.seen.mean_reward() + bonus).clamp(max=most)
        return torch.where(visits > 0, reward, most)

    def _respond(
        self, price: Tensor, box: tuple[Tensor, Tensor], reward: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The policy (N, 1, H, S) at prices (N, 1), its (N, 1) return and number of advices."""
        n, states, choices = reward.shape
        values = reward.new_zeros((n, states + 1, 2))
        """Return and number of advices, of every state and of the unknown."""
        said = (torch.arange(choices) < choices - 1).to(reward.dtype)
        unknown = torch.full_like(self.seen.successor[..., :1], states)
        successor = torch.cat([self.seen.successor, unknown], 3)
        rows = torch.arange(n)[:, None, None, None]
        policy = torch.empty((self.horizon, n, states), dtype=torch.int64)
        for h in reversed(range(self.horizon)):
            values[:, states, 0] = self.config.reward.ends(self.horizon - h - 1)[1]
            after = values[rows, successor]
            net = after[..., 0] - price[..., None, None] * after[..., 1]
            kernel = _best_kernel(net, *box)
            now = (kernel[..., None] * after).sum(3)
            now[..., 0] += reward
            now[..., 1] += said
            policy[h] = choose(now[..., 0] - price[..., None] * now[..., 1], noise[h])
            taken = policy[h, ..., None, None].expand(-1, -1, 1, 2)
            values[:, :states] = now.gather(2, taken)[:, :, 0]
        start = (values[:, :states] * self.initial[..., None]).sum(1, keepdim=True)
        return policy.transpose(0, 1)[:, None], start[..., 0], start[..., 1]

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


def _best_kernel(value: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Probabilities between ``low`` and ``high`` of the greatest expectation, all (..., B).

    The least everywhere, then what is left over to the best successor, the next best, ...
    """
    order = value.argsort(dim=3, descending=True, stable=True)
    room = (high - low).gather(3, order)
    before = room.cumsum(3) - room
    spare = (1 - low.sum(3, keepdim=True) - before).clamp(min=0)
    extra = torch.minimum(room, spare)
    return low + torch.zeros_like(low).scatter(3, order, extra)
