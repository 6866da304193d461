"""Advice that a human may ignore, as data: tables of the task, the human and their adherence.

In state s the machine advises an action m or defers (says nothing); the human executes an action a,
which the machine sees. The model is that of Chen, Li, Sun and Wang, "Learning to Make
Adherence-Aware Advice" (ICLR 2024, arXiv 2310.00817). Their full text was not at hand: the
exclusive form below is their Eq. (1) as remembered, the mixture form is that of Grand-Clement and
Pauphilet (arXiv 2209.01874), and that the two are one family is our derivation.

Following is Markov and independent from step to step, and does not react to the advisor: an
assumption about people, tested on none.

Shapes: ``N`` instances, ``S`` states, ``X`` actions, ``B`` successors kept of a state and action
(the most that any has). Actions are 0 to X - 1; advice X is to defer. A table that all instances
share may have a leading 1 in place of N.
"""

from __future__ import annotations

import numbers
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.functional import embedding_bag

from rlsuite.errors import UserError

Form: TypeAlias = Literal["mixture", "exclusive"]

ROUND_OFF = {torch.float64: 1e-9, torch.float32: 1e-5}
"""By how much a sum of probabilities may miss 1."""


def is_whole(number: Any, least: int) -> bool:
    """Whether it is an integer, NumPy's too, of ``least`` or more, and no bool."""
    is_integer = isinstance(number, numbers.Integral) and not isinstance(number, bool)
    return is_integer and number >= least


class AdviceSpace(gym.spaces.Discrete):
    """What an advisor can say: an action, 0 to X - 1, each at ``cost``; or X, nothing, for free."""

    def __init__(
        self, actions: int, cost: float, *, features: int = 0, limited: bool = False
    ) -> None:
        """Of X ``actions``.

        Args:
            actions: X.
            cost: in units of reward, paid whether advice is followed or not.
            features: how many numbers at the end of the (N, D) observations depend on what was
                advised before.
            limited: whether the first of them is the share that is left of a budget; at 0 advice
                is not heard, and costs nothing.
        """
        super().__init__(actions + 1)
        self.actions, self.cost = actions, cost
        self.features, self.limited = features, limited

    def heard(self, obs: Tensor, advice: Tensor) -> Tensor:
        """(N,) the advice that is heard on (N, D) observations: none where the budget is spent."""
        if not self.limited:
            return advice
        return torch.where(obs[:, -self.features] > 0, advice, self.actions)


def to_exclusive(mixture: Tensor, human: Tensor) -> Tensor:
    """P(a = m | s, m) of the mixture form: theta + (1 - theta) pi(m|s). Shapes (..., X)."""
    return mixture + (1 - mixture) * human


def to_mixture(exclusive: Tensor, human: Tensor) -> Tensor:
    """(theta - pi(m|s)) / (1 - pi(m|s)), and 1 where the human does m anyway. Shapes (..., X).

    Below 0 where hearing m makes the human less likely to do it.
    """
    certain = human >= 1
    return torch.where(certain, 1.0, (exclusive - human) / torch.where(certain, 1.0, 1 - human))


@dataclass(frozen=True, slots=True)
class AdviceModel:
    """``N`` problems of one size. Raises UserError unless the tensors make them up."""

    successor: Tensor
    """(N or 1, S, X, B) int64: s' by its place in the list of (s, a)."""
    probability: Tensor
    """(N or 1, S, X, B) p(s' | s, a); padding has 0."""
    reward: Tensor
    """(N or 1, S, X) mean reward r(s, a) of executing a."""
    human: Tensor
    """(N or 1, S, X) pi^H(a | s): what the human does unaided."""
    adherence: Tensor
    """(N or 1, S, X) mixture form: with this probability advice is followed, else the human acts
    as if unaided. From 0 to 1."""
    initial: Tensor
    """(N or 1, S) distribution of the first state."""
    contrarian: bool = False
    """Whether adherence may be below 0, down to -pi / (1 - pi): advice that repels. The value is
    then no longer monotone in it."""

    def __post_init__(self) -> None:
        self._check_tensors()
        tables = (("probability", self.probability), ("human", self.human))
        for name, table in (*tables, ("initial", self.initial)):
            wrong = ((table.sum(-1) - 1).abs() > ROUND_OFF[table.dtype]) | (table < 0).any(-1)
            if bool(wrong.any()):
                total = float(table.sum(-1)[wrong][0])
                raise UserError(
                    f"{name} at {_first(wrong)} sums to {total:.10g} or has negative entries;"
                    " probabilities are from 0 on and sum to 1"
                )
        wrong = (self.adherence > 1 + 1e-12) | (to_exclusive(self.adherence, self.human) < -1e-12)
        if not self.contrarian:
            wrong = wrong | (self.adherence < 0)
        if bool(wrong.any()):
            value = float(self.adherence.expand(wrong.shape)[wrong][0])
            raise UserError(
                f"adherence of {value:.6g} (mixture form) at {_first(wrong)}, has to be from 0 to"
                " 1; below 0 advice repels, which needs contrarian=True"
            )

    def _check_tensors(self) -> None:
        if self.probability.dim() != 4 or self.probability.numel() == 0:
            given = tuple(self.probability.shape)
            raise UserError(f"probability has shape {given}, needs (N, S, X, B)")
        shape = self.probability.shape
        if self.successor.shape != shape or self.successor.dtype != torch.int64:
            kind = f"{self.successor.dtype} of shape {tuple(self.successor.shape)}"
            raise UserError(f"successor is {kind}, needs torch.int64 of {tuple(shape)}")
        if bool(((self.successor < 0) | (self.successor >= shape[1])).any()):
            raise UserError(f"a successor is not one of the states 0 to {shape[1] - 1}")
        if self.probability.dtype not in ROUND_OFF:
            kind = str(self.probability.dtype)
            raise UserError(f"probability is {kind}, has to be torch.float64 or torch.float32")
        self._check_table("probability", shape[1:])
        for name in ("reward", "human", "adherence"):
            self._check_table(name, shape[1:3])
        self._check_table("initial", shape[1:2])

    def _check_table(self, name: str, axes: torch.Size) -> None:
        table: Tensor = getattr(self, name)
        if table.shape[1:] != axes or table.shape[0] not in (1, self.instances):
            needed = f"({self.instances} or 1, {', '.join(map(str, axes))})"
            raise UserError(f"{name} has shape {tuple(table.shape)}, needs {needed}")
        if table.dtype != self.probability.dtype:
            raise UserError(f"{name} is {table.dtype}, the probability {self.probability.dtype}")
        if not bool(torch.isfinite(table).all()):
            raise UserError(f"{name} is not finite at {_first(~torch.isfinite(table))}")

    @classmethod
    def from_arrays(
        cls,
        kernel: ArrayLike,
        *,
        reward: ArrayLike,
        human: ArrayLike,
        adherence: ArrayLike,
        initial: ArrayLike,
        form: Form = "mixture",
        contrarian: bool = False,
    ) -> AdviceModel:
        """From dense arrays, each of one instance or with a leading N.

        Args:
            kernel: (S, X, S) p(s' | s, a).
            reward: (S, X).
            human: (S, X) pi^H(a | s).
            adherence: (S, X), or what broadcasts to it, such as a number.
            initial: (S,) distribution of the first state, or an int, the state.
            form: what the adherence means: "mixture", the probability of following, beside which
                the human may do the same unaided; or "exclusive", P(a = m | s, m).
            contrarian: whether advice may repel.

        Raises:
            UserError: for arrays that are no such model.
        """
        dense = _leading(kernel, 3)
        if dense.dim() != 4 or dense.shape[-1] != dense.shape[-3]:
            raise UserError(f"kernel has shape {tuple(dense.shape)}, needs (S, X, S), (N, S, X, S)")
        if form not in ("mixture", "exclusive"):
            raise UserError(f"form is {form!r}, has to be mixture or exclusive")
        states, actions = dense.shape[1:3]
        first = initial
        if isinstance(initial, int | np.integer):
            if not 0 <= initial < states:
                raise UserError(f"initial is state {initial}, has to be from 0 to {states - 1}")
            first = np.eye(states)[initial]
        pi, theta = _leading(human, 2), _leading(adherence, 2)
        theta = _spread(theta, states, actions)
        if form == "exclusive":
            theta = to_mixture(theta, pi)
            theta = torch.where((theta < 0) & (theta > -1e-12), 0.0, theta)  # rounding
        listed = dense != 0
        size = int(listed.sum(-1).max().clamp(min=1))
        order = listed.to(torch.int8).argsort(dim=-1, descending=True, stable=True)[..., :size]
        return cls(
            order,
            dense.gather(-1, order),
            _leading(reward, 2),
            pi,
            theta,
            _leading(first, 1),
            contrarian,
        )

    @property
    def instances(self) -> int:
        """N."""
        tables = (self.probability, self.reward, self.human, self.adherence, self.initial)
        return max(table.shape[0] for table in tables)

    @property
    def states(self) -> int:
        """S."""
        return self.probability.shape[1]

    @property
    def actions(self) -> int:
        """X, which is also the number of the advice to defer."""
        return self.probability.shape[2]

    @property
    def live(self) -> Tensor:
        """(N or 1, S) bool: an episode is not over here, for the state can be left or pays."""
        here = torch.arange(self.states, device=self.successor.device)[:, None, None]
        leaves = ((self.successor != here) & (self.probability > 0)).flatten(2).any(2)
        return leaves | (self.reward != 0).any(2)

    def expect(self, values: Tensor) -> Tensor:
        """(N, S, X, C) expected values at the successors, of values (N, S, C)."""
        n, s, c = values.shape
        shared = self.successor.shape[0] == 1
        rows, weights = self.successor.flatten(0, 2), self.probability.flatten(0, 2)
        if shared:
            table = values.transpose(0, 1).reshape(s, n * c)
        else:
            offset = torch.arange(0, n * s, s, device=values.device)[:, None, None, None]
            rows, table = (self.successor + offset).flatten(0, 2), values.reshape(n * s, c)
        out = embedding_bag(rows, table, mode="sum", per_sample_weights=weights)
        if shared:
            return out.view(s, self.actions, n, c).permute(2, 0, 1, 3)
        return out.view(n, s, self.actions, c)

    def start(self, values: Tensor) -> Tensor:
        """(N, C) expectation over the first state of values (N, C, S)."""
        return (values * self.initial[:, None]).sum(2)

    def joint(self) -> Tensor:
        """(N, S, X + 1, X) g(a | s, m), the action executed when m is advised; the paper's Eq. (1).

        Row X is the human unaided.
        """
        unaided = self.human[..., None, :]
        follow = torch.eye(self.actions, dtype=unaided.dtype, device=unaided.device)
        theta = self.adherence[..., None]
        advised = theta * follow + (1 - theta) * unaided
        return torch.cat([advised, unaided.expand(len(advised), -1, -1, -1)], 2)

    def induced(self, cost: float = 0.0) -> tuple[Tensor, Tensor]:
        """Dense kernel (N, S, X + 1, S) and reward (N, S, X + 1) of the MDP whose actions are
        advices, each but deferring at ``cost``.
        """
        wide = self.probability.new_zeros((*self.probability.shape[:3], self.states))
        dense = wide.scatter_add(3, self.successor, self.probability)
        joint = self.joint()
        reward = (joint @ self.reward[..., None])[..., 0]
        reward[..., : self.actions] -= cost
        return joint @ dense, reward

    def with_adherence(self, adherence: ArrayLike | Tensor) -> AdviceModel:
        """The same problem, with advice followed otherwise (mixture form).

        Args:
            adherence: a number, (S, X) or (N, S, X), or what broadcasts to them: (N, 1, 1) is one
                number an instance, to see advice change with adherence.
        """
        given = torch.as_tensor(adherence, dtype=self.human.dtype, device=self.human.device)
        return replace(self, adherence=_spread(given, self.states, self.actions))

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float64) -> AdviceModel:
        """On another device or in another precision."""
        names = ("probability", "reward", "human", "adherence", "initial")
        parts: dict[str, Any] = {name: getattr(self, name).to(device, dtype) for name in names}
        return replace(self, successor=self.successor.to(device), **parts)


def _leading(given: ArrayLike | Tensor, axes: int) -> Tensor:
    """float64 with a leading instance axis."""
    array = given if isinstance(given, Tensor) else torch.from_numpy(np.array(given, np.float64))
    array = array.to(torch.float64)
    return array[None] if array.dim() == axes else array


def _spread(adherence: Tensor, states: int, actions: int) -> Tensor:
    """(N or 1, S, X) of what broadcasts to it; anything else as it is, for the checks to name."""
    wide = adherence.reshape((1,) * (3 - adherence.dim()) + adherence.shape)
    try:
        return wide.expand(len(wide), states, actions).clone()
    except RuntimeError:
        return adherence


def _first(wrong: Tensor) -> str:
    names = ("instance", "state", "action", "successor")
    place = wrong.nonzero()[0].tolist()
    return ", ".join(f"{name} {i}" for name, i in zip(names, place, strict=False))
