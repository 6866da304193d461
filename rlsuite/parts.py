"""Small parts that several agents share."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import gymnasium as gym
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlsuite.errors import UserError
from rlsuite.optim import descend, load_optimizer_state, make_optimizer, optimizer_state
from rlsuite.rng import generator
from rlsuite.types import State


def move_target(target: Iterable[Tensor], online: Iterable[Tensor], rate: float) -> None:
    """target <- (1 - rate) target + rate online, in place."""
    with torch.no_grad():
        torch._foreach_lerp_(list(target), list(online), rate)


class FixedTemperature:
    """A temperature that stays as it is."""

    def __init__(self, value: float, device: torch.device) -> None:
        self._value = torch.tensor(value, device=device)

    def value(self) -> Tensor:
        """0-d temperature."""
        return self._value

    def update(self, log_prob: Tensor, going: Tensor | None = None) -> Tensor:
        """Nothing to learn; the loss is zero."""
        return torch.zeros_like(self._value)

    def state_dict(self) -> State:
        """Nothing changes, nothing is kept."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """Nothing is kept."""


class LearnedTemperature:
    """A temperature that holds the policy's entropy at ``target_entropy`` nats.

    Loss on log alpha: -E[log alpha (log pi + target_entropy)] (arXiv 1812.05905, eq. 18, in the
    form with log alpha in place of alpha, whose gradient does not shrink with alpha). ``bounds``
    are the least and greatest log alpha.
    """

    def __init__(
        self,
        initial: float,
        target_entropy: float,
        optimizer: str,
        lr: float,
        device: torch.device,
        *,
        bounds: tuple[float, float] = (-math.inf, math.inf),
    ) -> None:
        self.target_entropy, self.bounds = target_entropy, bounds
        self.log_value = nn.Parameter(torch.tensor([math.log(initial)], device=device))
        self.optimizer = make_optimizer(optimizer, [self.log_value], lr)

    def value(self) -> Tensor:
        """0-d temperature, without gradient; a copy that later updates leave as it is."""
        return self.log_value.detach()[0].exp()

    def update(self, log_prob: Tensor) -> Tensor:
        """One step from (B,) log probabilities; the 0-d loss."""
        loss = -(self.log_value * (log_prob.detach() + self.target_entropy)).mean()
        descend(loss, self.optimizer)
        with torch.no_grad():
            self.log_value.clamp_(*self.bounds)
        return loss.detach()

    def state_dict(self) -> State:
        """Log temperature and optimizer."""
        return {"log_value": self.log_value.detach(), "optimizer": optimizer_state(self.optimizer)}

    def load_state_dict(self, state: State) -> None:
        """Continue from a saved state."""
        with torch.no_grad():
            self.log_value.copy_(state["log_value"])
        load_optimizer_state(self.optimizer, state["optimizer"])


class LearnedTemperatures:
    """Temperatures of A agents, each with its own target entropy, in one step: for every agent the
    loss is that of ``LearnedTemperature``."""

    def __init__(
        self,
        agents: int,
        initial: float,
        optimizer: str,
        lr: float,
        device: torch.device,
        *,
        bounds: tuple[float, float],
    ) -> None:
        """``bounds`` are the least and greatest log temperature."""
        self.bounds = bounds
        self.log_value = nn.Parameter(torch.full((agents,), math.log(initial), device=device))
        self.optimizer = make_optimizer(optimizer, [self.log_value], lr)

    def value(self) -> Tensor:
        """(A,) temperatures, without gradient; a copy that later updates leave as it is."""
        return self.log_value.detach().exp()

    @torch.no_grad()
    def update(self, excess: Tensor, going: Tensor | None = None) -> Tensor:
        """One step from the (A,) means of log pi plus target entropy; the (A,) losses. Where the
        (A,) bool ``going`` is false a temperature stays as it is."""
        slope = -excess
        loss = self.log_value * slope
        descend(self.log_value, self.optimizer, going=going, slope=slope)
        self.log_value.clamp_(*self.bounds)
        return loss

    def state_dict(self) -> State:
        """Log temperatures and optimizer."""
        return {"log_value": self.log_value.detach(), "optimizer": optimizer_state(self.optimizer)}

    def load_state_dict(self, state: State) -> None:
        """Continue from a saved state."""
        with torch.no_grad():
            self.log_value.copy_(state["log_value"])
        load_optimizer_state(self.optimizer, state["optimizer"])


class AnnealedTemperature:
    """A temperature that shrinks by a factor at every update, down to a least one."""

    def __init__(self, initial: float, decay: float, least: float, device: torch.device) -> None:
        self.initial, self.decay, self.least = initial, decay, least
        self.updates = torch.zeros((), dtype=torch.int64, device=device)

    def value(self) -> Tensor:
        """0-d temperature: max(least, initial decay**updates)."""
        return (self.initial * self.decay**self.updates).clamp(min=self.least).float()

    def update(self, log_prob: Tensor, going: Tensor | None = None) -> Tensor:
        """Count one update; there is nothing to learn, the loss is zero."""
        self.updates += 1
        return torch.zeros((), device=self.updates.device)

    def state_dict(self) -> State:
        """The count of updates."""
        return {"updates": self.updates.clone()}

    def load_state_dict(self, state: State) -> None:
        """Continue the count."""
        self.updates.copy_(state["updates"])


class ValueNorm:
    """Running mean and variance of values, so that a network predicts them with unit scale.

    Exponential averages of the first two moments, corrected for their start at zero (van Hasselt
    et al., arXiv 1602.07714, without the rescaling of the last layer). The variance is at least
    0.01.
    """

    def __init__(self, device: torch.device, *, rate: float = 1e-5) -> None:
        """``rate``: share of the newest batch in the averages."""
        self.rate = rate
        self.moments = torch.zeros(3, device=device)
        """Averages of values, of their squares, and of the weights, which are 1."""

    def mean_and_std(self) -> tuple[Tensor, Tensor]:
        """0-d each."""
        mean, square = self.moments[:2] / self.moments[2].clamp(min=1e-5)
        return mean, (square - mean.square()).clamp(min=0.01).sqrt()

    def update(self, values: Tensor, weight: Tensor | None = None) -> None:
        """Take (B,) values into the averages, with (B,) weights of mean 1, or 0 if none counts."""
        weight = torch.ones_like(values) if weight is None else weight
        parts = (weight * values, weight * values.square(), weight)
        self.moments.lerp_(torch.stack([part.mean() for part in parts]), self.rate)

    def normalize(self, values: Tensor) -> Tensor:
        """To the network's scale."""
        mean, std = self.mean_and_std()
        return (values - mean) / std

    def denormalize(self, values: Tensor) -> Tensor:
        """To the rewards' scale; differentiable."""
        mean, std = self.mean_and_std()
        return values * std + mean

    def state_dict(self) -> State:
        """The averages."""
        return {"moments": self.moments.clone()}

    def load_state_dict(self, state: State) -> None:
        """Continue the averages."""
        self.moments.copy_(state["moments"])


class TemperatureSettings(Protocol):
    """The settings of a config that a temperature is made from."""

    @property
    def temperature(self) -> Literal["auto"] | float:
        """ "auto", or the fixed value."""

    @property
    def initial_temperature(self) -> float:
        """Where a learned one starts."""

    @property
    def target_entropy(self) -> Literal["auto"] | float:
        """In nats; "auto" is minus the number of action dimensions."""

    @property
    def optimizer(self) -> str:
        """Its class name."""

    @property
    def lr_temperature(self) -> float:
        """Learning rate of the log temperature."""


def make_temperature(
    config: TemperatureSettings, actions: int, device: torch.device
) -> FixedTemperature | LearnedTemperature:
    """The temperature that the settings ask for, of a policy with ``actions`` dimensions."""
    if config.temperature != "auto":
        return FixedTemperature(config.temperature, device)
    entropy = config.target_entropy
    return LearnedTemperature(
        config.initial_temperature,
        -float(actions) if entropy == "auto" else entropy,
        config.optimizer,
        config.lr_temperature,
        device,
    )


class Due:
    """How many updates are due: ``per_transition`` for every transition, fractions carried over."""

    def __init__(self, per_transition: float) -> None:
        self.per_transition = per_transition
        self.transitions = 0
        self.done = 0

    def __call__(self, transitions: int) -> int:
        """Updates to do now that ``transitions`` more were made."""
        self.transitions += transitions
        # Counting from the start instead of adding fractions keeps rounding from piling up.
        due = math.floor(self.transitions * self.per_transition + 1e-9) - self.done
        self.done += due
        return due

    def state_dict(self) -> State:
        """Both counts."""
        return {"transitions": self.transitions, "done": self.done}

    def load_state_dict(self, state: State) -> None:
        """Continue the count."""
        self.transitions, self.done = state["transitions"], state["done"]


@dataclass(frozen=True, slots=True)
class LinearSchedule:
    """From ``initial`` to ``final`` in ``steps`` steps, then constant."""

    initial: float
    final: float
    steps: int

    def __call__(self, step: int) -> float:
        """The value after ``step`` steps."""
        share = min(1.0, step / self.steps) if self.steps else 1.0
        return (1.0 - share) * self.initial + share * self.final


class EpsilonGreedy:
    """Uniformly random actions with probability epsilon, else the given ones.

    The schedule counts the actions taken while exploring, over all environments.
    """

    def __init__(
        self, schedule: LinearSchedule, evaluation: float, *, seed: int, device: torch.device
    ) -> None:
        """``evaluation`` is the epsilon without exploration."""
        self.schedule, self.evaluation, self.device = schedule, evaluation, device
        self.count = 0
        # A stream of its own, so that evaluations leave training as it is.
        self.generators = {
            name: generator(seed, "epsilon greedy", name, device=device)
            for name in ("training", "evaluation")
        }

    def epsilon(self) -> float:
        """Of the next exploring actions."""
        return self.schedule(self.count)

    def __call__(self, greedy: Tensor, actions: int, *, explore: bool) -> Tensor:
        """(N,) int64 actions from 0 to ``actions`` - 1, mostly the greedy ones."""
        epsilon = self.epsilon() if explore else self.evaluation
        if explore:
            self.count += len(greedy)
        elif epsilon == 0.0:
            return greedy
        random = self.generators["training" if explore else "evaluation"]
        chance = torch.rand(greedy.shape, generator=random, device=self.device)
        other = torch.randint(actions, greedy.shape, generator=random, device=self.device)
        return torch.where(chance < epsilon, other, greedy)

    def probs(self, greedy: Tensor, actions: int) -> Tensor:
        """(N, X) float64 of each action without exploration, the greedy ones being (N,)."""
        chosen = F.one_hot(greedy, actions).to(torch.float64)
        return (1 - self.evaluation) * chosen + self.evaluation / actions

    def state_dict(self) -> State:
        """Count and generators."""
        states = {name: random.get_state() for name, random in self.generators.items()}
        return {"count": self.count, "generators": states}

    def load_state_dict(self, state: State) -> None:
        """Continue the schedule and the streams."""
        self.count = state["count"]
        for name, random in self.generators.items():
            random.set_state(state["generators"][name])


def discrete_actions(space: gym.Space[Any], agent: str) -> tuple[int, int]:
    """How many actions a Discrete space has, and the first. Raises UserError for other spaces."""
    if not isinstance(space, gym.spaces.Discrete):
        raise UserError(f"{agent} needs discrete actions, the environment has {space}")
    return int(space.n), int(space.start)
