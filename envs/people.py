"""People who get advice: what they do with it, and what an advisor observes of them."""

from __future__ import annotations

import math
import numbers
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from rlsuite.advice import AdviceSpace, Form, is_whole, to_mixture
from rlsuite.envs.adherence import Adherence, Constant
from rlsuite.envs.humans import Human
from rlsuite.errors import UserError
from rlsuite.types import State, Tree

HUMAN = ("probs", "begin", "acted", "state_dict", "load_state_dict")
"""What people are asked for."""


class Executed(NamedTuple):
    """One step of N people, each (N,)."""

    action: Tensor
    """int64 what they did."""
    advice: Tensor
    """int64 what they heard; deferring where the budget is spent."""
    advised: Tensor
    """bool."""
    human_action: Tensor
    """int64 what they would have done unaided."""
    followed: Tensor
    """bool: they would have followed any advice of this theta; meaningless where none is given."""
    theta: Tensor
    """float64 adherence to the advice, mixture form."""

    @property
    def matched(self) -> Tensor:
        """bool: advised, and done."""
        return self.advised & (self.action == self.advice)

    @property
    def privileged(self) -> dict[str, Tensor]:
        """What the simulation knows and no advisor may."""
        return {"human_action": self.human_action, "followed": self.followed, "theta": self.theta}


def remembers(person: Human | Adherence) -> bool:
    """Whether there is anything in its state."""

    def holds(state: State) -> bool:
        return any(holds(part) if isinstance(part, dict) else True for part in state.values())

    return holds(person.state_dict())


def _constant(adherence: Any) -> Constant:
    try:
        value = float(adherence)
    except (TypeError, ValueError):
        raise UserError(
            f"adherence is {adherence!r}, has to be a number or have theta(...)"
        ) from None
    if not 0 <= value <= 1:
        raise UserError(f"adherence is {value}, has to be from 0 to 1")
    return Constant(value)


def _check_numbers(cost: Any, budget: Any) -> None:
    if not (isinstance(cost, numbers.Real) and 0 <= float(cost) < math.inf):
        raise UserError(f"cost is {cost!r}, has to be a number of 0 or more")
    if budget is not None and not is_whole(budget, 1):
        raise UserError(f"budget is {budget!r}, has to be a whole number of 1 or more, or None")


class People:
    """N advised people: their draws, the budget, and what an advisor observes of both."""

    def __init__(
        self,
        action_space: gym.Space[Any],
        human: Human,
        adherence: Adherence | float,
        *,
        cost: float = 0.0,
        form: Form = "mixture",
        budget: int | None = None,
    ) -> None:
        """Raises UserError for actions that are not Discrete from 0 on, bad numbers, and what is no
        ``Human``."""
        if not isinstance(action_space, gym.spaces.Discrete) or action_space.start != 0:
            raise UserError(f"advice needs Discrete actions that start at 0, not {action_space}")
        _check_numbers(cost, budget)
        missing = [name for name in HUMAN if not callable(getattr(human, name, None))]
        if missing or isinstance(human, type):
            lacks = f" has no {', '.join(missing)}" if missing else " is a class, not an object"
            raise UserError(
                f"the human {human!r}{lacks}: inherit from rlsuite.envs.humans.Human, whose probs "
                "alone has to be written"
            )
        if form not in ("mixture", "exclusive"):
            raise UserError(f"form is {form!r}, has to be mixture or exclusive")
        model: Any = adherence if hasattr(adherence, "theta") else _constant(adherence)
        self.actions, self.human, self.cost = int(action_space.n), human, cost
        self.form, self.budget = form, budget
        self.adherence: Adherence = model
        self.features = self.adherence.features + (budget is not None)
        self.advice_space = AdviceSpace(
            self.actions, cost, features=self.features, limited=budget is not None
        )
        self.seeds: list[int] = []
        self._random: list[np.random.Generator] = []
        self._steps = self._spent = torch.zeros(0, dtype=torch.int64)

    def begin(self, seeds: list[int | None]) -> None:
        """Episodes begin where there is a seed for the draws of one."""
        if len(self.seeds) != len(seeds):
            self.seeds = [0] * len(seeds)
            self._random = [np.random.default_rng(0)] * len(seeds)
            self._steps = self._spent = torch.zeros(len(seeds), dtype=torch.int64)
        for i, seed in enumerate(seeds):
            if seed is not None:
                self.seeds[i], self._random[i] = seed, np.random.default_rng(seed)
        fresh = torch.tensor([seed is not None for seed in seeds])
        self._steps, self._spent = (t.masked_fill(fresh, 0) for t in (self._steps, self._spent))
        self.human.begin(fresh)
        self.adherence.begin(fresh)

    def execute(self, obs: Tree, advice: Tensor) -> Executed:
        """What they do with (N,) advice on (N, ...) observations.

        Raises:
            UserError: before ``begin``, and if the human or the adherence returns what is no
                probability.
            ValueError: if an advice is not one of 0 to X.
        """
        if not self.seeds:
            raise UserError("a step, and no episode has begun: call reset first")
        if bool(((advice < 0) | (advice > self.actions)).any()):
            raise ValueError(f"advice must be from 0 to {self.actions}, not {advice.tolist()}")
        draws = torch.from_numpy(np.stack([random.random(2) for random in self._random]))
        self._steps = self._steps + 1
        probs = torch.as_tensor(self.human.probs(obs))
        if probs.shape != (len(advice), self.actions):
            raise UserError(
                f"the human gave probabilities of shape {tuple(probs.shape)}, "
                f"needs {(len(advice), self.actions)}"
            )
        right = (probs >= 0).all(1) & ((probs.sum(1) - 1).abs() < 1e-4)
        if not bool(right.all()):
            row = probs[int((~right).nonzero()[0])]
            raise UserError(f"the human gave {row.tolist()}, which are no probabilities")
        below = draws[:, :1] >= probs.cumsum(1)[:, :-1]
        unaided = below.sum(1)
        advised = advice < self.actions
        if self.budget is not None:
            advised = advised & (self._spent < self.budget)
        said = torch.where(advised, advice, 0)
        theta = self.adherence.theta(obs, said, probs)
        if self.form == "exclusive":
            theta = to_mixture(theta, probs.gather(1, said[:, None])[:, 0])
        if bool((advised & ~((theta >= -1e-9) & (theta <= 1 + 1e-9))).any()):
            raise UserError(
                f"adherence of {theta[advised].tolist()} (mixture form) has to be from 0 to 1; in "
                "the exclusive form it cannot be below the human's own probability of the advice"
            )
        followed = draws[:, 1] < theta
        action = torch.where(advised & followed, said, unaided)
        heard = torch.where(advised, advice, self.actions)
        return Executed(action, heard, advised, unaided, followed, theta)

    def happened(self, done: Executed, reward: Tensor) -> None:
        """Tell the environment's (N,) reward of the step."""
        self._spent = self._spent + done.advised
        self.human.acted(done.action)
        self.adherence.happened(done.advised, done.matched, reward)

    @property
    def is_markov(self) -> bool:
        """Whether what they do with an advice follows from the environment's observation."""
        return self.budget is None and not remembers(self.human) and not remembers(self.adherence)

    @property
    def spent(self) -> Tensor:
        """(N,) int64 advices of the episodes under way."""
        return self._spent

    def observe(self) -> Tensor:
        """(N, features) float32: the share of the budget left, and the adherence's own."""
        parts = [self.adherence.observe()] if self.adherence.features else []
        if self.budget is not None:
            parts.insert(0, (1 - self._spent[:, None] / self.budget).float())
        return torch.cat(parts, 1)

    def observation_space(self, space: gym.Space[Any]) -> gym.Space[Any]:
        """The environment's, with what there is to observe appended. Raises UserError if it is no
        flat Box of floats."""
        if not self.features:
            return space
        is_box = isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating)
        if not is_box or len(space.shape or ()) != 1:
            raise UserError(
                "the budget, or what adherence depends on, is appended to flat float observations, "
                f"and these are {space}: flatten them below the people (gymnasium.wrappers."
                "FlattenObservation, and DtypeObservation(env, np.float32) around it)"
            )
        assert isinstance(space, gym.spaces.Box)
        ends = [np.full(self.features, end, np.float32) for end in (0, 1)]
        low, high = (np.append(a, b) for a, b in zip((space.low, space.high), ends, strict=True))
        return gym.spaces.Box(low.astype(np.float32), high.astype(np.float32))

    def append(self, obs: Tree) -> Tree:
        """The observations that go with ``observation_space``."""
        if not self.features:
            return obs
        assert isinstance(obs, Tensor)
        return torch.cat([obs, self.observe()], 1)

    def state_dict(self) -> State:
        """Draws so far, advices, and what people remember."""
        return {
            "seeds": self.seeds,
            "steps": self._steps,
            "spent": self._spent,
            "human": self.human.state_dict(),
            "adherence": self.adherence.state_dict(),
        }

    def load_state_dict(self, state: State) -> None:
        """Continue from there."""
        self.seeds, self._steps, self._spent = list(state["seeds"]), state["steps"], state["spent"]
        self._random = [np.random.default_rng(seed) for seed in self.seeds]
        for random, steps in zip(self._random, self._steps.tolist(), strict=True):
            random.random(2 * steps)
        self.human.load_state_dict(state["human"])
        self.adherence.load_state_dict(state["adherence"])
