"""Rank-based prioritized sampling (Schaul et al. 2016, section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from rlsuite.buffers.checks import require_numbers, require_slots
from rlsuite.buffers.prioritized import Floats, ImportanceWeights, importance
from rlsuite.rng import generator
from rlsuite.types import State


class RankSampler:
    """Draws the slot of rank r with P proportional to r**-alpha; rank 1 has the greatest error.

    A batch takes one rank from each of n equal parts of the mass. Slots are sorted again when
    ``stale`` times as many errors as there are slots have changed; until then a slot keeps its
    rank, and a slot written for the first time has none (the paper keeps a binary heap as an array,
    which is as approximate). New slots get the greatest error.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        alpha: float = 0.7,
        weights: ImportanceWeights | None = None,
        stale: float = 0.05,
    ) -> None:
        """Without ``weights`` there are no importance weights. Raises ValueError for alpha < 0 or
        stale outside (0, 1]."""
        if not (alpha >= 0 and 0 < stale <= 1):
            raise ValueError(f"need alpha >= 0 and stale in (0, 1]: got {alpha}, {stale}")
        self.alpha, self.weights, self.stale = alpha, weights, stale
        self.size = self.batches = 0
        self._ranked = self._changed = 0
        self._seed = seed

    def prepare(self, capacity: int, device: torch.device) -> None:
        """Take the memory for ``capacity`` slots on ``device``."""
        self.capacity, self.device = capacity, device
        self._generator = generator(self._seed, "rank sampler", device=device)
        self._error = torch.full((capacity,), -torch.inf, device=device)
        self._order = torch.arange(capacity, device=device)
        self._max = torch.ones((), device=device)
        self._mass = torch.arange(1, capacity + 1, dtype=Floats, device=device).pow_(-self.alpha)
        self._running = self._mass.cumsum(0)

    def add(self, slots: range) -> None:
        """Tell that ``slots`` were written: they get the greatest error."""
        self._error[slots.start : slots.stop] = self._max
        self.size = min(self.size + len(slots), self.capacity)
        self._changed += len(slots)

    def drop(self, slots: range) -> None:
        """Never draw these slots, the oldest, until they are added again."""
        self._error[slots.start : slots.stop] = -torch.inf
        self.size -= len(slots)
        self._sort()

    def sample(self, n: int) -> tuple[Tensor, Tensor | None]:
        """(n,) int64 slots and (n,) float32 importance weights or None.

        Raises ValueError while nothing is stored.
        """
        if self.size == 0:
            raise ValueError("cannot sample from an empty replay: add transitions first")
        if self._ranked == 0 or self._changed >= self.stale * self.size:
            self._sort()
        part = torch.rand(n, dtype=Floats, generator=self._generator, device=self.device)
        part = (torch.arange(n, device=self.device) + part) / n
        running = self._running[: self._ranked]
        rank = torch.searchsorted(running, part * running[-1], right=True)
        rank.clamp_(max=self._ranked - 1)
        slots = self._order.index_select(0, rank)
        if self.weights is None:
            return slots, None
        beta = self.weights.beta_after(self.batches)
        self.batches += 1
        mass = self._mass.index_select(0, rank)
        least = self._mass[self._ranked - 1]
        unit = self.weights.unit(mass, lambda: least, running[-1], self._ranked)
        return slots, importance(mass, unit, beta).float()

    def update(self, slots: Tensor, priority: Tensor) -> None:
        """Set (n,) errors. Of a slot that comes twice the greatest counts.

        Raises ValueError for other shapes, and on the CPU for a slot that there is not or an error
        that is no finite number; nothing is changed then.
        """
        require_slots(slots, priority, self.capacity)
        require_numbers(priority, priority.abs().max())
        error = priority.abs().to(torch.float32)
        torch.maximum(self._max, error.max(), out=self._max)
        # A slot that was dropped meanwhile stays out.
        error = torch.where(self._error[slots] >= 0, error, -torch.inf)
        self._error.scatter_reduce_(0, slots, error, "amax", include_self=False)
        self._changed += len(slots)

    def _sort(self) -> None:
        self._order = self._error.argsort(descending=True, stable=True)
        self._ranked, self._changed = self.size, 0

    def state_dict(self) -> State:
        """Errors, order, counts and generator."""
        return {
            "error": self._error.clone(),
            "order": self._order.clone(),
            "max": self._max.clone(),
            "counts": [self.size, self.batches, self._ranked, self._changed],
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: State) -> None:
        """Continue the same stream of slots."""
        self._error.copy_(state["error"])
        self._order = state["order"].to(self.device, copy=True)
        self._max.copy_(state["max"])
        self.size, self.batches, self._ranked, self._changed = state["counts"]
        self._generator.set_state(state["generator"])
