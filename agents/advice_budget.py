"""Advice on a budget: a bound on the expected number of advices an episode.

The constrained MDP of Chen, Li, Sun and Wang (ICLR 2024, arXiv 2310.00817), solved by its dual; how
the price of an advice is found is ours. ``advice_lp`` solves it by linear programming.

Shapes: ``N`` instances, ``D`` budgets, ``H`` stages, ``S`` states; see ``advice_planning``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.functional import pad

from rlsuite.advice import AdviceModel
from rlsuite.agents.advice_planning import backward, check_horizon, evaluate
from rlsuite.errors import UserError

SECTIONS, ROUNDS = 8, 20
"""A price is searched for by cutting its interval into so many parts, so many times."""


class BudgetPlan(NamedTuple):
    """Optimal advice under a bound on its expected number: two policies, drawn from per episode."""

    price: Tensor
    """(N, D) what one more advice would be worth."""
    policies: tuple[Tensor, Tensor]
    """(N, D, H, S) int64 each: the one that exceeds the budget and the one that keeps it."""
    weight: Tensor
    """(N, D) probability of the first, to be drawn at the start of each episode."""
    value: Tensor
    """(N, D) expected return."""
    advices: Tensor
    """(N, D) expected number of advices."""


def plan_budget(model: AdviceModel, horizon: int, budget: ArrayLike | Tensor) -> BudgetPlan:
    """The greatest return with at most ``budget`` advices an episode, in expectation.

    A constrained MDP, by its dual: the price of an advice is narrowed until the optimal policies
    just below and just above it spend more and no more than the budget. Mixed per episode they
    spend exactly the budget (Altman 1999); with a price of 0 the second alone is optimal.

    Args:
        model: the problems.
        horizon: H.
        budget: from 0 on, infinity for any: a number or (D,).

    Raises:
        UserError: for a negative budget, or a horizon that is no whole number from 1 on.
    """
    return _bisect(model, check_horizon(horizon), check_budget(model, budget))


def check_budget(model: AdviceModel, budget: ArrayLike | Tensor) -> Tensor:
    """(D,) budgets like the model's tables. Raises UserError for a negative one."""
    given = torch.as_tensor(budget, dtype=model.reward.dtype, device=model.reward.device)
    given = given.reshape(-1)
    if not bool((given >= 0).all()):
        raise UserError(f"a budget is {float(given.min()):.6g} advices, has to be from 0 on")
    return given


def _bisect(model: AdviceModel, horizon: int, budget: Tensor) -> BudgetPlan:
    def respond(price: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        policy = backward(model, [model.adherence], horizon, price).policy
        reached = evaluate(model, policy)
        return policy, model.start(reached.gross), model.start(reached.advices)

    # no advice is worth more than this
    worth = horizon * (model.reward.amax((1, 2)) - model.reward.amin((1, 2)))
    return find_price(respond, worth.expand(model.instances), budget, SECTIONS, ROUNDS)


def find_price(
    respond: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]],
    worth: Tensor,
    budget: Tensor,
    sections: int,
    rounds: int,
) -> BudgetPlan:
    """The dual of a constrained MDP: the price at which the budget is spent.

    Args:
        respond: to prices (N, D) or (N, D C) the optimal policies (., ., H, S), their returns and
            their numbers of advices.
        worth: (N,) a price at which nothing is bought.
        budget: (D,).
        sections: into how many parts the interval of the price is cut; C is one less, for each
            budget.
        rounds: how often.
    """
    low = budget.new_zeros((len(worth), len(budget)))
    high = torch.where(respond(low)[2] > budget, worth[:, None], low)
    inner = torch.arange(1, sections, dtype=low.dtype, device=low.device) / sections
    for _ in range(rounds):
        between = low[..., None] + (high - low)[..., None] * inner
        spent = respond(between.flatten(1))[2].view(between.shape)
        edges = torch.cat([low[..., None], between, high[..., None]], 2)
        exceeds = pad(spent > budget[:, None], (0, 1))
        # the first that keeps the budget, and the one before
        first = exceeds.to(torch.int8).argmin(2, keepdim=True)
        low, high = edges.gather(2, first)[..., 0], edges.gather(2, first + 1)[..., 0]
    first, gross, spent = respond(low)
    second, kept_gross, kept = respond(high)
    surplus = spent - kept
    weight = torch.where(spent > budget, (budget - kept) / surplus, 0.0)
    value, advices = kept_gross + weight * (gross - kept_gross), kept + weight * surplus
    return BudgetPlan(high, (first, second), weight, value, advices)
