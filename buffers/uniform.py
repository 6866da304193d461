"""Uniform sampling with replacement."""

from __future__ import annotations

import torch
from torch import Tensor

from rlsuite.rng import generator
from rlsuite.types import State


class UniformSampler:
    """Every stored slot is equally likely in every draw."""

    def __init__(self, seed: int = 0) -> None:
        self.size = self._next = self._capacity = 0
        self._generator = generator(seed, "uniform sampler")

    def prepare(self, capacity: int, device: torch.device) -> None:
        """Learn the number of slots; they are drawn on the CPU for every device."""
        self._capacity = capacity

    def add(self, slots: range) -> None:
        """Tell that ``slots`` were written."""
        size = self.size + len(slots)
        self.size = size if size < self._capacity else self._capacity
        self._next = slots.stop % self._capacity

    def drop(self, slots: range) -> None:
        """Never draw these slots, the oldest, until they are added again."""
        self.size -= len(slots)

    def sample(self, n: int) -> tuple[Tensor, None]:
        """(n,) int64 slots; no weights. Raises ValueError while nothing is stored."""
        if self.size == 0:
            raise ValueError("cannot sample from an empty replay: add transitions first")
        if self.size == self._capacity:
            return torch.randint(self.size, (n,), generator=self._generator), None
        first = (self._next - self.size) % self._capacity
        slots = torch.randint(first, first + self.size, (n,), generator=self._generator)
        return slots.remainder_(self._capacity), None

    def update(self, slots: Tensor, priority: Tensor) -> None:
        """Priorities do not matter here."""

    def state_dict(self) -> State:
        """Size, head and generator."""
        return {"size": self.size, "next": self._next, "generator": self._generator.get_state()}

    def load_state_dict(self, state: State) -> None:
        """Continue the same stream of slots."""
        self.size, self._next = state["size"], state["next"]
        self._generator.set_state(state["generator"])
