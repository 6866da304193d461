"""What learners of advice know of probabilities and transitions: counts, and how far to trust them.

The inequalities are Hoeffding's and the empirical Bernstein inequality of Maurer and Pontil (2009);
the interval by relative entropy is that of KL-UCB (Garivier and Cappe 2011). ``log`` is the
logarithm in them, log(events / delta), times the scale of whoever asks.

Shapes: ``N`` runs, ``S`` states, ``M`` choices, ``B`` successors seen of a state and choice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from rlsuite.advice import AdviceModel
from rlsuite.settings import Finite, settings
from rlsuite.types import State

Delta = Annotated[float, Field(gt=0, lt=1)]
"""A probability of error."""

BISECTIONS = 50

TIE = 1e-12
"""Values this near to the greatest are as good."""


@settings
class RewardRange:
    """Between which numbers the rewards are, known in advance."""

    low: Finite = 0.0
    high: Finite = 1.0

    def ends(self, remaining: int) -> tuple[float, float]:
        """The least and the greatest return of so many stages, of which some may be missing."""
        return remaining * min(self.low, 0.0), remaining * max(self.high, 0.0)

    @property
    def width(self) -> float:
        """The distance between them for one stage: 1 for rewards from 0 to 1."""
        low, high = self.ends(1)
        return high - low


def hoeffding(successes: Tensor, trials: Tensor, log: float) -> tuple[Tensor, Tensor]:
    """Ends of the interval p +- sqrt(log / (2 n)) in [0, 1]; all of it without trials."""
    return _around(successes, trials, (log / (2 * trials.clamp(min=1))).sqrt())


def bernstein(successes: Tensor, trials: Tensor, log: float) -> tuple[Tensor, Tensor]:
    """p +- sqrt(2 p (1 - p) log / n) + 7 log / (3 (n - 1)) in [0, 1]."""
    p = successes / trials.clamp(min=1)
    return _around(successes, trials, deviation(p * (1 - p), trials, log))


def kl(successes: Tensor, trials: Tensor, log: float) -> tuple[Tensor, Tensor]:
    """The q at which n KL(p || q) = log, below and above p; by bisection, from outside."""
    p = successes / trials.clamp(min=1)
    inside, low, high = p, torch.zeros_like(p), torch.ones_like(p)
    near_low, near_high = inside, inside
    for _ in range(BISECTIONS):
        middle_low, middle_high = (low + near_low) / 2, (high + near_high) / 2
        far = trials * _relative_entropy(p, middle_low) > log
        low, near_low = torch.where(far, middle_low, low), torch.where(far, near_low, middle_low)
        far = trials * _relative_entropy(p, middle_high) > log
        high = torch.where(far, middle_high, high)
        near_high = torch.where(far, near_high, middle_high)
    return low, high


INTERVALS: dict[str, Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]] = {
    "hoeffding": hoeffding,
    "bernstein": bernstein,
    "kl": kl,
}
"""Each of (...) successes among (...) trials."""


def deviation(variance: Tensor, trials: Tensor, log: float, width: float = 1.0) -> Tensor:
    """sqrt(2 variance log / n) + 7 width log / (3 (n - 1)): a mean of numbers in a range of width.

    With n - 1 at least 1.
    """
    spread = (2 * variance * log / trials.clamp(min=1)).sqrt()
    return spread + 7 * width * log / (3 * (trials - 1).clamp(min=1))


def _around(successes: Tensor, trials: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
    width = torch.where(trials > 0, width, 1.0)
    p = successes / trials.clamp(min=1)
    return (p - width).clamp(min=0), torch.where(trials > 0, p + width, 1.0).clamp(max=1)


def _relative_entropy(p: Tensor, q: Tensor) -> Tensor:
    """KL between coins."""
    q = q.clamp(1e-15, 1 - 1e-15)
    return torch.xlogy(p, p / q) + torch.xlogy(1 - p, (1 - p) / (1 - q))


class Transitions:
    """Where choices led and what they earned, in lists of the successors that were seen.

    A choice is what is counted by: an advice, or an action executed.
    """

    def __init__(self, runs: int, states: int, choices: int) -> None:
        """Nothing is seen."""
        shape = (runs, states, choices)
        self.states = states
        self.successor = torch.full((*shape, 2), states)
        """(N, S, M, B) int64; S, which is no state, where nothing is listed yet."""
        self.count = torch.zeros((*shape, 2), dtype=torch.float64)
        """(N, S, M, B) how often it was seen."""
        self.reward = torch.zeros(shape, dtype=torch.float64)
        """(N, S, M) sum."""
        self.square = torch.zeros(shape, dtype=torch.float64)
        """(N, S, M) sum of squares."""

    @property
    def visits(self) -> Tensor:
        """(N, S, M) n(s, m)."""
        return self.count.sum(3)

    def add(self, state: Tensor, choice: Tensor, reward: Tensor) -> None:
        """See episodes: states (N, H + 1), choices (N, H) and rewards (N, H)."""
        rows = torch.arange(len(state))
        for h in range(choice.shape[1]):
            place = rows, state[:, h], choice[:, h]
            after = state[:, h + 1]
            listed = self.successor[place]
            fits = (listed == after[:, None]) | (listed == self.states)
            if not bool(fits.any(1).all()):
                self._grow()
                fits = torch.cat([fits, torch.ones_like(fits)], 1)
            slot = fits.to(torch.int8).argmax(1)
            self.successor[(*place, slot)] = after
            self.count[(*place, slot)] += 1
            self.reward[place] += reward[:, h]
            self.square[place] += reward[:, h] ** 2

    def _grow(self) -> None:
        self.successor = torch.cat(
            [self.successor, torch.full_like(self.successor, self.states)], 3
        )
        self.count = torch.cat([self.count, torch.zeros_like(self.count)], 3)

    def mean_reward(self) -> Tensor:
        """(N, S, M), 0 where nothing was seen."""
        return self.reward / self.visits.clamp(min=1)

    def reward_variance(self) -> Tensor:
        """(N, S, M), of the rewards seen."""
        return (self.square / self.visits.clamp(min=1) - self.mean_reward() ** 2).clamp(min=0)

    def estimate(self, initial: Tensor, unseen: float = 0.0) -> AdviceModel:
        """The empirical problem, of S + 1 states and M actions of which the last is free.

        What was never tried earns ``unseen`` and leads to state S, where nothing is earned. Free
        is what the "human" does when nothing is advised: planning with a cost or a budget in this
        model charges every other choice, and its advice M is to take the free one.
        """
        n, s, m = self.reward.shape
        wide = (n, 1, m, self.count.shape[3])
        successor = torch.cat([self.successor, torch.full(wide, s)], 1)
        count = torch.cat([self.count, torch.zeros(wide, dtype=torch.float64)], 1)
        tried = count.sum(3) > 0
        count[..., 0] = torch.where(tried, count[..., 0], 1.0)
        last = torch.zeros((1, 1, m), dtype=torch.float64)
        last[..., -1] = 1
        reward = torch.cat([self.mean_reward(), torch.zeros((n, 1, m), dtype=torch.float64)], 1)
        reward[:, :s] = torch.where(tried[:, :s], reward[:, :s], unseen)
        return AdviceModel(
            successor,
            count / count.sum(3, keepdim=True),
            reward,
            last.expand(1, s + 1, m),
            torch.ones((1, s + 1, m), dtype=torch.float64),
            torch.cat([initial, torch.zeros_like(initial[:, :1])], 1),
        )

    def state_dict(self) -> State:
        """All counts and sums."""
        names = ("successor", "count", "reward", "square")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: State) -> None:
        """Continue bit for bit."""
        for name, tensor in state.items():
            setattr(self, name, tensor.clone())


class Moments(NamedTuple):
    """Of values at the successors of (N, S + 1, M) choices."""

    mean: Tensor
    variance: Tensor


def moments(model: AdviceModel, values: Tensor) -> Moments:
    """Of values (N, S + 1)."""
    mean, square = model.expect(torch.stack([values, values**2], 2)).unbind(3)
    return Moments(mean, (square - mean**2).clamp(min=0))


def choose(q: Tensor, noise: Tensor) -> Tensor:
    """(N, S) the greatest of (N, S, M), of equal ones that of the greatest noise.

    Were it always the first, the others of equal promise would wait until it is known.
    """
    return torch.where(q >= q.amax(2, keepdim=True) - TIE, noise, -1.0).argmax(2)


def draw_noise(shape: tuple[int, ...], ties: torch.Generator) -> Tensor:
    """Uniform numbers by which ``choose`` breaks ties."""
    return torch.rand(shape, generator=ties, dtype=torch.float64)
