"""Simulated people: what they do unaided. An assumption about people, tested on none.

A human is the probabilities of their actions, so that whoever simulates them draws from its own
stream: two advisors on one seed meet the same people in the same mood.

Shapes: ``N`` environments, ``X`` actions. Observations are trees as the environment gives them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.functional import one_hot

from rlsuite.errors import UserError
from rlsuite.tree import map_tree
from rlsuite.types import State, Tree


class Human(Protocol):
    """A policy. Only ``probs`` has to be written; the rest is for people with a memory, whom the
    theory of advice does not cover, and of whom each environment needs its own object."""

    def probs(self, obs: Tree) -> Tensor:
        """(N, X) float64 probabilities of each action, unaided. Asked once a step."""

    def begin(self, fresh: Tensor) -> None:
        """(N,) bool: where an episode begins."""
        return

    def acted(self, action: Tensor) -> None:
        """(N,) int64 what was executed, advised or not."""
        return

    def state_dict(self) -> State:
        """What is remembered."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """Continue with it."""
        return


class UniformHuman(Human):
    """Any of ``actions`` at random."""

    def __init__(self, actions: int) -> None:
        self.actions = actions

    def probs(self, obs: Tree) -> Tensor:
        """1 / X."""
        return torch.full((_rows(obs), self.actions), 1 / self.actions, dtype=torch.float64)


class ScriptedHuman(Human):
    """A rule: a function of (N, ...) observations to (N,) actions or (N, X) probabilities."""

    def __init__(self, rule: Callable[[Any], Any], actions: int) -> None:
        self.rule, self.actions = rule, actions

    def probs(self, obs: Tree) -> Tensor:
        """Those of the rule; 1 for the action if it gives one. Raises UserError for an action that
        there is not."""
        chosen = torch.as_tensor(self.rule(obs))
        if chosen.dim() == 2:
            return chosen.to(torch.float64)
        # On a device the host would have to wait, and the device refuses it itself.
        if chosen.is_cpu and bool(((chosen < 0) | (chosen >= self.actions)).any()):
            raise UserError(
                f"the rule chose {chosen.tolist()} of the actions 0 to {self.actions - 1}"
            )
        return one_hot(chosen.to(torch.int64), self.actions).to(torch.float64)


class TabularHuman(Human):
    """(S, X) probabilities by the state: a Discrete observation, one-hot rows of S numbers, or what
    ``state`` makes of (N, ...) observations, (N,) int64."""

    def __init__(
        self, table: ArrayLike | Tensor, state: Callable[[Any], Tensor] | None = None
    ) -> None:
        """Raises UserError unless rows are probabilities."""
        self.state = state or state_of
        self.table = torch.as_tensor(table, dtype=torch.float64)
        sums = self.table.sum(-1)
        right = (self.table >= 0).all() & ((sums - 1).abs() <= 1e-6).all()
        if self.table.dim() != 2 or not bool(right):
            raise UserError("a human's table is (S, X) of probabilities whose rows sum to 1")

    def probs(self, obs: Tree) -> Tensor:
        """Rows of the table. Raises UserError for a state that it has not."""
        return rows_of(self.table, self.state(obs), "human")


class AgentHuman(Human):
    """An agent that acts: one of this suite (``rlsuite.load(folder)``), a novice's checkpoint say.

    As it acts without exploration; ``EpsilonHuman`` around it makes it clumsy.
    """

    def __init__(self, agent: Any, actions: int) -> None:
        """Of ``actions`` discrete actions from 0 on.

        ``agent`` has ``probs(obs)``, (N, X), or ``act(obs, explore=False)`` that draws nothing.
        """
        self.agent, self.actions = agent, actions

    def probs(self, obs: Tree) -> Tensor:
        """Those of the agent; 1 for its action if it has none."""
        if hasattr(self.agent, "probs"):
            return self.agent.probs(obs).cpu()  # type: ignore[no-any-return]
        action = self.agent.act(obs, explore=False)[0].cpu().to(torch.int64)
        return one_hot(action, self.actions).to(torch.float64)


class _Around(Human):
    """What people have who are ``human`` with a difference: the memory of that one."""

    human: Human

    def begin(self, fresh: Tensor) -> None:
        """Pass on."""
        self.human.begin(fresh)

    def acted(self, action: Tensor) -> None:
        """Pass on."""
        self.human.acted(action)

    def state_dict(self) -> State:
        """Of the human."""
        return {"human": self.human.state_dict()}

    def load_state_dict(self, state: State) -> None:
        """Of the human."""
        self.human.load_state_dict(state["human"])


class EpsilonHuman(_Around):
    """``human``, but with probability ``epsilon`` any action at random."""

    def __init__(self, human: Human, epsilon: float) -> None:
        """Raises UserError unless epsilon is a probability."""
        if not 0 <= epsilon <= 1:
            raise UserError(f"epsilon is {epsilon}, has to be from 0 to 1")
        self.human, self.epsilon = human, epsilon

    def probs(self, obs: Tree) -> Tensor:
        """A mixture with the uniform ones."""
        probs = self.human.probs(obs)
        return (1 - self.epsilon) * probs + self.epsilon / probs.shape[1]


class SeesThrough(_Around):
    """``human``, who observes ``view`` of what the advisor does: a function of observations."""

    def __init__(self, human: Human, view: Callable[[Any], Any]) -> None:
        self.human, self.view = human, view

    def probs(self, obs: Tree) -> Tensor:
        """Of the view."""
        return self.human.probs(self.view(obs))


class StickyHuman(_Around):
    """``human``, who with probability ``stick`` repeats what was executed last, if anything."""

    def __init__(self, human: Human, stick: float) -> None:
        """Raises UserError for what is no probability."""
        if not 0 <= stick <= 1:
            raise UserError(f"stick is {stick}, has to be from 0 to 1")
        self.human, self.stick = human, stick
        self._last = torch.zeros((), dtype=torch.int64)
        self._is_first = torch.ones((), dtype=torch.bool)

    def probs(self, obs: Tree) -> Tensor:
        """A mixture with the last action."""
        probs = self.human.probs(obs)
        last = one_hot(self._last.expand(len(probs)), probs.shape[1]).to(torch.float64)
        return torch.where(
            self._is_first[..., None], probs, torch.lerp(probs, last, float(self.stick))
        )

    def begin(self, fresh: Tensor) -> None:
        """Nothing to repeat."""
        super().begin(fresh)
        self._is_first = self._is_first | fresh

    def acted(self, action: Tensor) -> None:
        """To be repeated."""
        super().acted(action)
        self._last, self._is_first = action, torch.zeros(len(action), dtype=torch.bool)

    def state_dict(self) -> State:
        """The last actions."""
        return super().state_dict() | {"last": self._last, "is_first": self._is_first}

    def load_state_dict(self, state: State) -> None:
        """Continue from them."""
        super().load_state_dict(state)
        self._last, self._is_first = state["last"], state["is_first"]


class LaggedHuman(_Around):
    """``human``, who reacts to the observation of ``lag`` steps ago, or the episode's first."""

    def __init__(self, human: Human, lag: int) -> None:
        """Raises UserError unless the lag is a whole number of 1 or more."""
        if not isinstance(lag, int) or lag < 1:
            raise UserError(f"lag is {lag} steps, has to be a whole number of 1 or more")
        self.human, self.lag = human, lag
        self._past: list[Tree] = []
        self._fresh = torch.ones((), dtype=torch.bool)

    def probs(self, obs: Tree) -> Tensor:
        """Of the observation then."""
        past = [self._renewed(tree, obs) for tree in self._past] or [obs] * self.lag
        self._past = [*past[1:], map_tree(torch.clone, obs)]
        self._fresh = torch.zeros_like(self._fresh)
        return self.human.probs(past[0])

    def begin(self, fresh: Tensor) -> None:
        """Forget what was before."""
        super().begin(fresh)
        self._fresh = self._fresh | fresh

    def state_dict(self) -> State:
        """The observations of the last steps."""
        past = {str(i): tree for i, tree in enumerate(self._past)}
        return super().state_dict() | {"fresh": self._fresh, "past": past}

    def load_state_dict(self, state: State) -> None:
        """Continue from them."""
        super().load_state_dict(state)
        self._fresh, self._past = state["fresh"], list(state["past"].values())

    def _renewed(self, old: Tree, new: Tree) -> Tree:
        """``new`` where an episode begins."""
        if isinstance(old, Tensor):
            assert isinstance(new, Tensor)
            fresh = self._fresh.view(-1, *[1] * (old.dim() - 1))
            return torch.where(fresh, new, old)
        assert isinstance(new, dict)
        return {key: self._renewed(child, new[key]) for key, child in old.items()}


def cartpole_angle(epsilon: float = 0.1) -> Human:
    """CartPole: pushes to the side to which the pole leans; balances for about 43 steps."""
    return EpsilonHuman(ScriptedHuman(lambda obs: obs[:, 2] > 0, 2), epsilon)


def mountain_car_right(epsilon: float = 0.1) -> Human:
    """MountainCar: always full throttle to the right."""
    return EpsilonHuman(ScriptedHuman(lambda obs: torch.full((len(obs),), 2), 3), epsilon)


def state_of(obs: Tree) -> Tensor:
    """(N,) int64 states of Discrete observations, or of their one-hot rows."""
    if not isinstance(obs, Tensor) or obs.dim() > 2:
        raise UserError("a table by state needs Discrete observations, or one-hot rows")
    return obs.argmax(1) if obs.dim() == 2 else obs


def rows_of(table: Tensor, state: Tensor, whose: str) -> Tensor:
    """(N, X) of a table (S, X), at (N,) states. Raises UserError for a state that it has not."""
    # On a device the host would have to wait, and the device refuses it itself.
    if state.is_cpu and bool(((state < 0) | (state >= len(table))).any()):
        raise UserError(
            f"the {whose}'s table has rows for the states 0 to {len(table) - 1}, and the "
            f"environment is in {state.tolist()}: needs one for each of its states"
        )
    return table.to(state.device)[state]


def _rows(obs: Tree) -> int:
    while isinstance(obs, dict):
        obs = next(iter(obs.values()))
    return len(obs)
