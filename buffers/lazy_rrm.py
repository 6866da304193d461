"""RR-M in O(B log N) a batch, for the CPU: the law of ``rrm.DenseRRMSampler``, kept lazily."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlsuite.buffers.checks import require_numbers, require_slots
from rlsuite.buffers.prioritized import (
    Greatest,
    ImportanceWeights,
    Priorities,
    Priority,
    fractions,
)
from rlsuite.buffers.rrm import MASK, RRMDraw, require_rrm
from rlsuite.rng import generator
from rlsuite.types import State


class LazyRRMSampler:
    """Random reshuffling by masking, RR-M, in O(B log N) a batch; CPU only.

    While its priority p stays, the expected count of a slot grows by p for every unit of a common
    clock, which moves on by B / sum of p with a batch of B. So a slot need be looked at only when
    it is drawn, gets another priority or is written, and it is known when a masked slot will be
    free again, and when its deficit will be at the cap and stop growing. The masks are those of
    ``DenseRRMSampler``, but for what a slot that is overwritten leaves behind: its E - A is spread
    with the next batch's growth, by priority, instead of scaling all expected counts.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        priority: Priority | None = None,
        weights: ImportanceWeights | None = None,
        draw: RRMDraw = "distinct",
        greatest: Greatest = "ever",
        deficit_cap: float | None = None,
    ) -> None:
        """See ``DenseRRMSampler``."""
        require_rrm(draw, deficit_cap)
        self.priorities = Priorities(priority, weights, greatest)
        self._cap = math.inf if deficit_cap is None else deficit_cap
        self.draw: RRMDraw = draw
        self._seed = seed
        self._clock = self._carry = 0.0

    def prepare(self, capacity: int, device: torch.device) -> None:
        """Take the memory for ``capacity`` slots. Raises ValueError for a device but the CPU."""
        if device.type != "cpu":
            raise ValueError(f"LazyRRMSampler works on the CPU alone, DenseRRMSampler on {device}")
        from rlsuite.buffers import lazy_kernels, sum_tree  # numba is heavy: only for who uses it

        self._kernels = lazy_kernels
        self._to_be_free = lazy_kernels.no_promises()
        """(clock when no longer masked, slot, version), the earliest first."""
        self._to_be_full = lazy_kernels.no_promises()
        """(clock when the deficit is at the cap, slot, version), the earliest first."""
        sums = sum_tree.TreeSums(capacity)
        self.priorities.prepare(sums, capacity, device)
        self._values = sums.values
        self._growing = sums if self._cap == math.inf else sum_tree.TreeSums(capacity)
        """The weights of all slots whose deficit is below the cap: E grows by them."""
        self._rates = self._growing.values
        self._free = sum_tree.TreeSums(capacity)
        actual, expected, since = np.zeros((3, capacity))
        version, (is_masked, is_full) = np.zeros(capacity, np.int64), np.zeros((2, capacity), bool)
        self._accounts = lazy_kernels.Accounts(actual, expected, since, version, is_masked, is_full)
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
        self._look(np.arange(slots.start, slots.stop))

    def _settle(self) -> None:
        for slots in self.priorities.unsettled:
            self._forget(slots)
        for slots in self.priorities.settle():
            self._look(np.arange(slots.start, slots.stop))

    def _forget(self, slots: range) -> None:
        self._carry += self._kernels.forget(
            self._rates, self._accounts, self._clock, slots.start, slots.stop
        )

    def _look(self, slots: NDArray[np.int64]) -> None:
        """See which of ``slots`` are masked or full, until when. Their E are up to the clock."""
        self._kernels.promise(
            *(self._values, self._accounts, self._clock, slots, self._cap),
            *(self._to_be_free, self._to_be_full),
        )
        self._mirror(slots)

    def _mirror(self, slots: NDArray[np.int64]) -> None:
        """Give ``slots`` their weights in the trees that are drawn from and grown by."""
        value = self._values[slots]
        self._free.set(slots, np.where(self._accounts.is_masked[slots], MASK, 1.0) * value)
        if self._cap < math.inf:
            self._growing.set(slots, np.where(self._accounts.is_full[slots], 0.0, value))

    def masked(self) -> Tensor:
        """(capacity,) bool: slots drawn more often than expected."""
        self._settle()
        freed = self._kernels.free_kept(self._accounts, self._clock, self._to_be_free)
        self._mirror(freed)
        return torch.from_numpy(self._accounts.is_masked)

    @property
    def actual(self) -> Tensor:
        """(capacity,) A: how often each slot was drawn since it was written."""
        return torch.from_numpy(self._accounts.actual)

    @property
    def expected(self) -> Tensor:
        """(capacity,) E: how often it should have been."""
        grown = self._rates * (self._clock - self._accounts.since)
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
            slots = self._free.find(part.numpy())
        drawn = torch.from_numpy(slots)
        self.count(drawn)
        return drawn, self.priorities.weigh(slots)

    def count(self, slots: Tensor) -> None:
        """Note that (n,) ``slots`` were drawn."""
        index = slots.numpy()
        # Drawn first: that makes room below the cap.
        self._kernels.refresh(self._rates, self._accounts, self._clock, index)
        self._kernels.draw(self._accounts, index)
        self._look(index)
        owed = len(slots) + self._carry
        self._carry = min(owed, 0.0)
        self._clock = self._kernels.advance(
            *(self._growing.tree, self._growing.leaf, self._accounts, self._clock),
            *(max(owed, 0.0), self._cap, self._to_be_full),
        )

    def update(self, slots: Tensor, priority: Tensor) -> None:
        """Set priorities from (n,) errors. Of a slot that comes twice the greatest counts.

        Raises ValueError for other shapes, and on the CPU for a slot that there is not or an error
        that is no finite number; nothing is changed then.
        """
        index = slots.numpy(force=True)
        require_slots(index, priority, self.priorities.capacity)
        require_numbers(priority, priority.abs().max())
        self._settle()
        self._kernels.refresh(self._rates, self._accounts, self._clock, index)
        self.priorities.update(slots, priority)
        self._look(index)

    def state_dict(self) -> State:
        """Weights, accounts, clock, promises and generator."""
        promises = {"free": self._to_be_free, "full": self._to_be_full}
        return {
            "priorities": self.priorities.state_dict(),
            "accounts": {
                name: torch.from_numpy(array.copy())
                for name, array in self._accounts._asdict().items()
            },
            "clock": [self._clock, self._carry],
            "promises": {
                name: [torch.from_numpy(x) for x in self._kernels.promises_to_arrays(heap)]
                for name, heap in promises.items()
            },
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: State) -> None:
        """Continue the same stream of slots."""
        self.priorities.load_state_dict(state["priorities"])
        for name, array in self._accounts._asdict().items():
            array[:] = state["accounts"][name].numpy()
        self._clock, self._carry = state["clock"]
        self._to_be_free = self._kernels.no_promises()
        self._to_be_full = self._kernels.no_promises()
        for name, heap in {"free": self._to_be_free, "full": self._to_be_full}.items():
            saved = (x.numpy() for x in state["promises"][name])
            self._kernels.promises_from_arrays(heap, *saved)
        self._mirror(np.arange(len(self._values)))
        self._generator.set_state(state["generator"])
