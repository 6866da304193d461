"""Two agents that learn a matrix game from noisy rewards: soft policy gradients, mean rewards.

Between the exact responses of ``hasac_claims`` and its networks. Nobody knows the payoff: a memory
keeps the mean reward of every joint action, and each agent climbs the gradient of its soft value
there (Liu et al., arXiv 2306.10715, section 4). Many seeds side by side: ``S`` is seeds, and
everything is float64 on the CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlsuite.agents.soft_policy_iteration import Annealing, Policies, average

SEEDS, STEPS = 200, 3000
NOISE = 0.1
"""Standard deviation of the reward."""
RATE = 0.03
"""Length of a gradient step: 1/L in ``penalty``, whose L is the greatest, so that one agent's step
on a known payoff never lowers the soft value. The curvature in the logits of three actions is at
most L = 0.193 (max Q - min Q) + 0.529 temperature, here 0.193 * 110 + 0.529 * 20 = 32."""
ANNEALED = Annealing(initial=20.0, decay=0.9985)
"""Temperature by step; 0.22 in the last of 3,000."""


def learn(
    payoff: Tensor,
    schedule: Annealing,
    draws: torch.Generator,
    *,
    at_once: bool = False,
    seeds: int = SEEDS,
    steps: int = STEPS,
) -> list[Tensor]:
    """(S, X_0) and (S, X_1) log probabilities after ``steps`` joint actions of each seed.

    After every one both agents take a step, in an order drawn anew for every seed, or ``at_once``.
    ``payoff`` is (X_0, X_1); logits start from N(0, 1). The same draws are made in both orders.
    """
    policies = [normal(draws, seeds, n).log_softmax(1) for n in payoff.shape]
    total = payoff.new_zeros(seeds, payoff.numel())
    count, one = torch.zeros_like(total), payoff.new_ones(seeds, 1)
    for step in range(steps):
        actions = [torch.multinomial(row.exp(), 1, generator=draws) for row in policies]
        joint = actions[0] * payoff.shape[1] + actions[1]
        total.scatter_add_(1, joint, payoff.flatten()[joint] + NOISE * normal(draws, seeds, 1))
        count.scatter_add_(1, joint, one)
        # What was never tried counts as 0.
        q = (total / count.clamp(min=1)).view(seeds, *payoff.shape)
        leads = torch.randint(2, (seeds, 1), generator=draws) == 0
        if at_once:
            policies = [ascend(q, policies, agent, schedule(step)) for agent in range(2)]
        else:
            policies = take_turns(q, policies, leads, schedule(step))
    return policies


def normal(draws: torch.Generator, *shape: int) -> Tensor:
    """Standard normal float64."""
    return torch.randn(shape, generator=draws, dtype=torch.float64)


def take_turns(q: Tensor, policies: Policies, leads: Tensor, temperature: float) -> list[Tensor]:
    """Both policies after a step of each agent, the second against the new policy of the first.

    ``leads`` is (S, 1): whether agent 0 is the first.
    """
    first, second = policies
    early = torch.where(leads, ascend(q, policies, 0, temperature), first)
    second = ascend(q, [early, second], 1, temperature)
    late = ascend(q, [early, second], 0, temperature)
    return [torch.where(leads, early, late), second]


def ascend(q: Tensor, policies: Policies, agent: int, temperature: float) -> Tensor:
    """(S, X_i) log probabilities of agent i after a gradient step on E[Q] + temperature * entropy.

    With ``q`` (S, X_0, X_1) and Q_i its mean over the other's action, the derivative in the logit
    of a is pi(a) (Q_i(a) - temperature * log pi(a) - their mean under pi). Log probabilities are
    logits too: what all of them have in common does not matter.
    """
    policy, chances = policies[agent], policies[agent].exp()
    score = average(q, policies, [agent]) - temperature * policy
    mean = (chances * score).sum(1, keepdim=True)
    return (policy + RATE * chances * (score - mean)).log_softmax(1)
