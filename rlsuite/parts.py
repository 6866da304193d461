"""Small parts that several agents share."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from rlsuite.optim import descend, load_optimizer_state, make_optimizer, optimizer_state
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

    def update(self, log_prob: Tensor) -> Tensor:
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
    form with log alpha in place of alpha, whose gradient does not shrink with alpha).
    """

    def __init__(
        self, initial: float, target_entropy: float, optimizer: str, lr: float, device: torch.device
    ) -> None:
        self.target_entropy = target_entropy
        self.log_value = nn.Parameter(torch.tensor([math.log(initial)], device=device))
        self.optimizer = make_optimizer(optimizer, [self.log_value], lr)

    def value(self) -> Tensor:
        """0-d temperature, without gradient; a copy that later updates leave as it is."""
        return self.log_value.detach()[0].exp()

    def update(self, log_prob: Tensor) -> Tensor:
        """One step from (B,) log probabilities; the 0-d loss."""
        loss = -(self.log_value * (log_prob.detach() + self.target_entropy)).mean()
        descend(loss, self.optimizer)
        return loss.detach()

    def state_dict(self) -> State:
        """Log temperature and optimizer."""
        return {"log_value": self.log_value.detach(), "optimizer": optimizer_state(self.optimizer)}

    def load_state_dict(self, state: State) -> None:
        """Continue from a saved state."""
        with torch.no_grad():
            self.log_value.copy_(state["log_value"])
        load_optimizer_state(self.optimizer, state["optimizer"])


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
