"""RR-M in O(B log N) a batch, for the CPU: the law of ``rrm.DenseRRMSampler``, kept lazily."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from rlsuite.buffers.prioritized import (
    ImportanceWeights,
    Priorities,
    Priority,
    fractions,
    require_numbers,
)
from rlsuite.buffers.rrm import MASK
from rlsuite.rng import generator
from rlsuite.types import State


class LazyRRMSampler:
    """Random reshuffling by masking, RR-M, in O(B log N) a batch; CPU only.

    While its priority p stays, the expected count of a slot grows by p for every unit of a common
    clock, which moves on by B / sum of p with a batch of B. So a slot need be looked at only when
    it is drawn, gets another priority or is written, and it is known when a masked slot will be
    free again. The masks are those of ``DenseRRMSampler``, but for what a slot that is overwritten
    leaves behind: its E - A is spread with the next batch's growth, by priority, instead of scaling
    all expected counts.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        priority: Priority | None = None,
        weights: ImportanceWeights | None = None,
        draw: Literal["distinct", "stratified"] = "distinct",
        greatest: Literal["ever", "stored"] = "ever",
    ) -> None:
        """See ``DenseRRMSampler``, which alone looks at all slots and so can cap deficits."""
        self.priorities = Priorities(priority, weights, greatest)
        self.draw: Literal["distinct", "stratified"] = draw
        self._seed = seed
        self._clock = self._carry = 0.0

    def prepare(self, capacity: int, device: torch.device) -> None:
        """Take the memory for ``capacity`` slots. Raises ValueError for a device but the CPU."""
        if device.type != "cpu":
            raise ValueError(f"LazyRRMSampler works on the CPU alone, DenseRRMSampler on {device}")
        from rlsuite.buffers import lazy_kernels, sum_tree  # numba is heavy: only for who uses it

        self._kernels = lazy_kernels
        self._promises = lazy_kernels.no_promises()
        """(clock when free, slot, version), the earliest first."""
        self.priorities.prepare(capacity, device)
        self._values = self.priorities.sums.values.numpy()
        self._free = sum_tree.TreeSums(capacity)
        actual, expected, since = np.zeros((3, capacity))
        version, is_masked = np.zeros(capacity, np.int64), np.zeros(capacity, np.bool_)
        self._accounts = lazy_kernels.Accounts(actual, expected, since, version, is_masked)
        self._generator = generator(self._seed, "rrm sampler")

    def add(self, slots: range) -> None:
        """Tell that ``slots`` were written: they get the greatest priority, A = E = 0."""
        self.priorities.add(slots)

    def drop(self, slots: range) -> None:
        """Never draw these slots, the oldest, until they are added again."""
        self._settle()
        # Before they lose the weight with which their expected count has grown.
        self._forget(slots)
        self.priorities.drop(slots)
        self._mirror(torch.arange(slots.start, slots.stop))

    def _settle(self) -> None:
        for slots in self.priorities.unsettled:
            self._forget(slots)
        for slots in self.priorities.settle():
            self._mirror(torch.arange(slots.start, slots.stop))

    def _forget(self, slots: range) -> None:
        self._carry += self._kernels.forget(
            self._values, self._accounts, self._clock, slots.start, slots.stop
        )

    def _mirror(self, slots: Tensor) -> None:
        """Give ``slots`` their weight in the tree that is drawn from."""
        index = slots.numpy()
        weight = np.where(self._accounts.is_masked[index], MASK, 1.0) * self._values[index]
        self._free.set(slots, torch.from_numpy(weight))

    def masked(self) -> Tensor:
        """(capacity,) bool: slots drawn more often than expected."""
        self._settle()
        freed = self._kernels.free_kept(self._accounts, self._clock, self._promises)
        self._mirror(torch.from_numpy(freed))
        return torch.from_numpy(self._accounts.is_masked)

    @property
    def actual(self) -> Tensor:
        """(capacity,) A: how often each slot was drawn since it was written."""
        return torch.from_numpy(self._accounts.actual)

    @property
    def expected(self) -> Tensor:
        """(capacity,) E: how often it should have been."""
        grown = self._values * (self._clock - self._accounts.since)
        return torch.from_numpy(self._accounts.expected + grown)

    def sample(self, n: int) -> tuple[Tensor, Tensor | None]:
        """(n,) int64 slots and (n,) float32 importance weights or None.

        Raises ValueError while too little is stored.
        """
        self.priorities.require(n if self.draw == "distinct" else 1)
        self.masked()
        if self.draw == "distinct":
            slots = self._free.find_distinct(n, self._generator)
        else:
            part = fractions(n, self.draw, self._generator, self.priorities.device)
            slots = self._free.find(part)
        self.count(slots)
        return slots, self.priorities.weigh(slots)

    def count(self, slots: Tensor) -> None:
        """Note that (n,) ``slots`` were drawn."""
        owed = len(slots) + self._carry
        self._carry = min(owed, 0.0)
        self._clock += max(owed, 0.0) / float(self.priorities.sums.total)
        self._kernels.draw(self._values, self._accounts, self._clock, slots.numpy(), self._promises)
        self._mirror(slots)

    def update(self, slots: Tensor, priority: Tensor) -> None:
        """Set priorities from (n,) errors. Of a slot that comes twice the greatest counts.

        Raises ValueError on the CPU for an error that is no finite number; nothing is changed then.
        """
        require_numbers(priority)
        self._settle()
        self._kernels.refresh(self._values, self._accounts, self._clock, slots.numpy())
        self.priorities.update(slots, priority)
        self._kernels.promise(
            self._values, self._accounts, self._clock, slots.numpy(), self._promises
        )
        self._mirror(slots)

    def state_dict(self) -> State:
        """Weights, accounts, clock, promises and generator."""
        clock, slot = self._kernels.promises_to_arrays(self._promises)
        return {
            "priorities": self.priorities.state_dict(),
            "accounts": {
                name: torch.from_numpy(array.copy())
                for name, array in self._accounts._asdict().items()
            },
            "clock": [self._clock, self._carry],
            "promises": {"clock": torch.from_numpy(clock), "slot": torch.from_numpy(slot)},
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: State) -> None:
        """Continue the same stream of slots."""
        self.priorities.load_state_dict(state["priorities"])
        for name, array in self._accounts._asdict().items():
            array[:] = state["accounts"][name].numpy()
        self._clock, self._carry = state["clock"]
        self._promises = self._kernels.no_promises()
        saved = state["promises"]
        self._kernels.promises_from_arrays(
            self._promises, saved["clock"].numpy(), saved["slot"].numpy()
        )
        self._mirror(torch.arange(len(self._values)))
        self._generator.set_state(state["generator"])
