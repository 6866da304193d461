"""Sampling that prefers recent transitions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rlsuite.rng import generator
from rlsuite.types import State


class RecencySampler:
    """Draws the slot of age k with P proportional to exp(-k / horizon), with replacement.

    A geometric law, cut off at the number of stored slots; the newest has age 0. ``horizon`` is in
    slots, so that about 63 % of the draws are among the newest ``horizon``.
    """

    def __init__(self, seed: int = 0, *, horizon: float = 100_000.0) -> None:
        """Raises ValueError unless ``horizon`` is above 0 and finite."""
        if not 0 < horizon < math.inf:
            raise ValueError(f"horizon must be above 0 and finite, not {horizon}")
        self.horizon = horizon
        self.size = self._next = self._capacity = 0
        self._generator = generator(seed, "recency sampler")

    def prepare(self, capacity: int, device: torch.device) -> None:
        """Learn the number of slots; they are drawn on the CPU for every device."""
        self._capacity = capacity

    def add(self, slots: range) -> None:
        """Tell that ``slots`` were written, the newest last."""
        self.size = min(self.size + len(slots), self._capacity)
        self._next = slots.stop % self._capacity

    def drop(self, slots: range) -> None:
        """Never draw these slots, the oldest, until they are added again."""
        self.size -= len(slots)

    def sample(self, n: int) -> tuple[Tensor, None]:
        """(n,) int64 slots; no weights. Raises ValueError while nothing is stored."""
        if self.size == 0:
            raise ValueError("cannot sample from an empty replay: add transitions first")
        uniform = torch.rand(n, dtype=torch.float64, generator=self._generator)
        share = -math.expm1(-self.size / self.horizon)
        age = (-self.horizon * torch.log1p(-share * uniform)).to(torch.int64)
        age.clamp_(max=self.size - 1)
        return (self._next - 1 - age) % self._capacity, None

    def update(self, slots: Tensor, priority: Tensor) -> None:
        """Priorities do not matter here."""

    def state_dict(self) -> State:
        """Size, head and generator."""
        return {
            "size": self.size,
            "next": self._next,
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: State) -> None:
        """Continue the same stream of slots."""
        self.size, self._next = state["size"], state["next"]
        self._generator.set_state(state["generator"])
