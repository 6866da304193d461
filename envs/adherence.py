"""Simulated adherence: how probable it is that a human follows. An assumption about people.

Where it depends on what happened before (``Fatigue``, ``Trust``, ``Drift``) it is not Markov in the
environment's observation and outside the theory of advice; ``features`` put what it depends on into
the advisor's observation.

Shapes: ``N`` environments, ``S`` states, ``X`` actions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from rlsuite.envs.humans import rows_of, state_of
from rlsuite.errors import UserError
from rlsuite.types import State, Tree


class Adherence(Protocol):
    """How far advice is followed. Only ``theta`` has to be written."""

    features: int = 0
    """Numbers that ``observe`` adds to the advisor's observation, each from 0 to 1."""

    def theta(self, obs: Tree, advice: Tensor, human: Tensor) -> Tensor:
        """(N,) from 0 to 1, for (N,) int64 advised actions and the human's (N, X) probabilities.

        Where nothing is said, it is asked for action 0 and the answer does not count.
        """

    def begin(self, fresh: Tensor) -> None:
        """(N,) bool: where an episode begins."""
        return

    def happened(self, advised: Tensor, matched: Tensor, reward: Tensor) -> None:
        """(N,) bool whether advice was given and done, and the environment's (N,) reward."""
        return

    def observe(self) -> Tensor:
        """(N, features) float32."""
        return torch.zeros(1, 0)

    def state_dict(self) -> State:
        """What is remembered."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """Continue with it."""
        return


class Constant(Adherence):
    """The same always."""

    def __init__(self, value: float) -> None:
        self.value = value

    def theta(self, obs: Tree, advice: Tensor, human: Tensor) -> Tensor:
        """The value."""
        return torch.full(advice.shape, self.value, dtype=torch.float64)


class TabularTheta(Adherence):
    """(S, X) by state and advice; observations as for ``TabularHuman``."""

    def __init__(
        self, table: ArrayLike | Tensor, state: Callable[[Any], Tensor] | None = None
    ) -> None:
        """Raises UserError unless the table has two axes."""
        self.state = state or state_of
        self.table = torch.as_tensor(table, dtype=torch.float64)
        if self.table.dim() != 2:
            raise UserError(
                f"adherence has a table of shape {tuple(self.table.shape)}, needs (S, X)"
            )

    def theta(self, obs: Tree, advice: Tensor, human: Tensor) -> Tensor:
        """Of the table. Raises UserError for a state or an advice that it has not."""
        if self.table.shape[1] != human.shape[1]:
            raise UserError(
                f"adherence has a table of {self.table.shape[1]} columns, needs one for each of "
                f"the {human.shape[1]} actions"
            )
        return rows_of(self.table, self.state(obs), "adherence").gather(1, advice[:, None])[:, 0]


class Buckets(Adherence):
    """A value for each group of states: ``bucket`` maps observations to (N,) numbers of groups."""

    def __init__(self, bucket: Callable[[Any], Any], values: Sequence[float]) -> None:
        """Raises UserError for what is no function, and for values that are no probabilities."""
        if not callable(bucket):
            raise UserError(f"bucket is {bucket!r}, has to be a function of observations")
        self.bucket, self.values = bucket, torch.as_tensor(values, dtype=torch.float64)
        right = ((self.values >= 0) & (self.values <= 1)).all()
        if self.values.dim() != 1 or not len(self.values) or not bool(right):
            raise UserError(f"values of buckets are {values}, needs a list of some from 0 to 1")

    def theta(self, obs: Tree, advice: Tensor, human: Tensor) -> Tensor:
        """The group's value. Raises UserError for a group that has none."""
        group = torch.as_tensor(self.bucket(obs)).to(torch.int64)
        if bool(((group < 0) | (group >= len(self.values))).any()):
            raise UserError(
                f"bucket gave the groups {group.tolist()}, and there are values for the groups 0 "
                f"to {len(self.values) - 1}"
            )
        return self.values[group]


class Called(Adherence):
    """A function of observations and (N,) advised actions to (N,) probabilities."""

    def __init__(self, function: Callable[[Any, Tensor], Any]) -> None:
        self.function = function

    def theta(self, obs: Tree, advice: Tensor, human: Tensor) -> Tensor:
        """What it returns."""
        return torch.as_tensor(self.function(obs, advice)).to(torch.float64)


class Confidence(Adherence):
    """``base + slope * pi(m | s)``, within [0, 1]: people follow what they half agree with."""

    def __init__(self, base: float, slope: float) -> None:
        self.base, self.slope = base, slope

    def theta(self, obs: Tree, advice: Tensor, human: Tensor) -> Tensor:
        """From the human's own probability of the advice."""
        own = human.gather(1, advice[:, None])[:, 0]
        return (self.base + self.slope * own).clamp(0, 1)


class Fatigue(Adherence):
    """``value * (1 - drop * share)``, share of the last ``steps`` steps that were advised.

    Not Markov: the share goes into the observation.
    """

    features = 1

    def __init__(self, value: float, drop: float, steps: int) -> None:
        """Raises UserError for less than a step."""
        if not steps >= 1:
            raise UserError(f"steps is {steps}, has to be 1 or more")
        self.value, self.drop = value, drop
        self._recent = torch.zeros(1, steps)

    def theta(self, obs: Tree, advice: Tensor, human: Tensor) -> Tensor:
        """Less the more was said lately."""
        share = self._recent.mean(1).to(torch.float64).expand(advice.shape)
        return self.value * (1 - self.drop * share)

    def begin(self, fresh: Tensor) -> None:
        """Rested."""
        self._recent = torch.where(fresh[:, None], 0.0, self._recent)

    def happened(self, advised: Tensor, matched: Tensor, reward: Tensor) -> None:
        """One more step."""
        self._recent = torch.cat([self._recent[:, 1:], advised[:, None].float()], 1)

    def observe(self) -> Tensor:
        """The share."""
        return self._recent.mean(1, keepdim=True)

    def state_dict(self) -> State:
        """The last steps."""
        return {"recent": self._recent}

    def load_state_dict(self, state: State) -> None:
        """Continue from them."""
        self._recent = state["recent"]


class Trust(Adherence):
    """Goes up by ``up`` where advice that was done brought more than ``expected``, else ``down``.

    Within [0, 1], from ``value`` on in each episode. Not Markov: it goes into the observation.
    """

    features = 1

    def __init__(self, value: float, up: float, down: float, expected: float = 0.0) -> None:
        self.value, self.up, self.down, self.expected = value, up, down, expected
        self._trust = torch.zeros((), dtype=torch.float64)

    def theta(self, obs: Tree, advice: Tensor, human: Tensor) -> Tensor:
        """The trust."""
        return self._trust.expand(advice.shape)

    def begin(self, fresh: Tensor) -> None:
        """As at first."""
        self._trust = torch.where(fresh, self.value, self._trust)

    def happened(self, advised: Tensor, matched: Tensor, reward: Tensor) -> None:
        """Judge by the reward of the step."""
        change = torch.where(reward > self.expected, self.up, -self.down)
        self._trust = (self._trust + torch.where(matched, change, 0.0)).clamp(0, 1)

    def observe(self) -> Tensor:
        """The trust."""
        return self._trust[:, None].float()

    def state_dict(self) -> State:
        """The trust."""
        return {"trust": self._trust}

    def load_state_dict(self, state: State) -> None:
        """Continue from it."""
        self._trust = state["trust"]


class Drift(Adherence):
    """From ``first`` to ``last``, linearly over ``steps`` steps of every environment, then as is.

    Over the whole run, not the episode. Not stationary; nothing of it is observed.
    """

    def __init__(self, first: float, last: float, steps: int) -> None:
        """Raises UserError for less than a step."""
        if not steps >= 1:
            raise UserError(f"steps is {steps}, has to be 1 or more")
        self.first, self.last, self.steps = first, last, steps
        self._count = 0

    def theta(self, obs: Tree, advice: Tensor, human: Tensor) -> Tensor:
        """Of now."""
        share = min(1.0, self._count / self.steps)
        value = (1 - share) * self.first + share * self.last
        return torch.full(advice.shape, value, dtype=torch.float64)

    def happened(self, advised: Tensor, matched: Tensor, reward: Tensor) -> None:
        """One more step."""
        self._count += 1

    def state_dict(self) -> State:
        """Steps so far."""
        return {"count": self._count}

    def load_state_dict(self, state: State) -> None:
        """Continue the count."""
        self._count = state["count"]
