"""Uniform sampling with replacement."""

from __future__ import annotations

import torch
from torch import Tensor

from rlsuite.rng import generator
from rlsuite.types import State


class UniformSampler:
    """Every stored slot is equally likely in every draw."""

    def __init__(self, seed: int = 0) -> None:
        self.size = 0
        self._generator = generator(seed, "uniform sampler")

    def add(self, slots: range) -> None:
        """Tell that ``slots`` were written; overwritten slots change nothing."""
        self.size = max(self.size, slots.stop)

    def sample(self, n: int) -> tuple[Tensor, None]:
        """(n,) int64 slots; no weights. Raises ValueError while nothing is stored."""
        if self.size == 0:
            raise ValueError("cannot sample from an empty replay: add transitions first")
        return torch.randint(self.size, (n,), generator=self._generator), None

    def update(self, slots: Tensor, priority: Tensor) -> None:
        """Priorities do not matter here."""

    def state_dict(self) -> State:
        """Size and generator."""
        return {"size": self.size, "generator": self._generator.get_state()}

    def load_state_dict(self, state: State) -> None:
        """Continue the same stream of slots."""
        self.size = state["size"]
        self._generator.set_state(state["generator"])
