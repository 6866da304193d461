"""Prioritized sampling with counts held to their expectation: RR-M of Fujita (arXiv 2503.02269)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from rlsuite.buffers.checks import require_choice, require_numbers, require_slots
from rlsuite.buffers.prioritized import (
    Floats,
    Greatest,
    ImportanceWeights,
    Priorities,
    Priority,
    fractions,
)
from rlsuite.buffers.sums import FlatSums
from rlsuite.rng import generator
from rlsuite.types import State

MASK = 1e-8
"""What the priority of an oversampled slot is multiplied with: not 0, so that the sum never is."""

RRMDraw = Literal["distinct", "stratified"]


def require_rrm(draw: str, deficit_cap: float | None) -> None:
    """Raises ValueError for a ``draw`` or a ``deficit_cap`` that there is not."""
    require_choice("draw", draw, RRMDraw)
    if deficit_cap is not None and not 0 < deficit_cap < math.inf:
        raise ValueError(f"deficit_cap must be above 0 and finite, or None: {deficit_cap}")


class DenseRRMSampler:
    """Random reshuffling by masking, RR-M: the paper's form, on any device, O(capacity) a batch.

    Per slot it keeps A, how often it was drawn, and E, how often plain prioritized sampling would
    have drawn it so far. A slot with A > E is masked: its priority counts for MASK times itself
    until E has caught up. Sum of A = sum of E, so that some slot is always free; and A - E < 1
    while no slot has to come more than once in a batch.

    ``draw``: "distinct" (the paper's RR-M) or "stratified" (RR-M+ST, where a slot may come twice).
    A slot whose expectation in a batch is above 1 cannot keep up when draws are distinct: E - A
    grows without bound, and when its priority falls it is drawn too often for a long time.
    ``deficit_cap`` bounds what a draw adds to E where E - A would pass it; the others get the rest,
    by priority. None is the paper's.

    Unlike the authors' code, a slot that comes twice in a stratified batch counts twice; theirs
    counts it once, and the mask weakens with time.
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
        """Without ``weights`` there are no importance weights; they are those of plain PER.

        Raises ValueError for another ``draw`` or ``greatest``, or a ``deficit_cap`` of 0 or less.
        """
        require_rrm(draw, deficit_cap)
        self.priorities = Priorities(priority, weights, greatest)
        self.deficit_cap = deficit_cap
        self.draw: RRMDraw = draw
        self._seed = seed

    def prepare(self, capacity: int, device: torch.device) -> None:
        """Take the memory for ``capacity`` slots on ``device``."""
        # Weights and masks change everywhere for every batch: a tree would only be in the way.
        self.priorities.prepare(FlatSums(capacity, device), capacity, device)
        self._free = FlatSums(capacity, device)
        self.actual = torch.zeros(capacity, dtype=Floats, device=device)
        """(capacity,) A: how often each slot was drawn since it was written."""
        self.expected = torch.zeros(capacity, dtype=Floats, device=device)
        """(capacity,) E: how often it should have been."""
        self._generator = generator(self._seed, "rrm sampler", device=device)

    def add(self, slots: range) -> None:
        """Tell that ``slots`` were written: they get the greatest priority, A = E = 0."""
        self.priorities.add(slots)

    def drop(self, slots: range) -> None:
        """Never draw these slots, the oldest, until they are added again."""
        self._settle()
        self.priorities.drop(slots)
        self._forget([slots])

    def _settle(self) -> None:
        new = self.priorities.settle()
        if new:
            self._forget(new)

    def _forget(self, slots: list[range]) -> None:
        for span in slots:
            self.actual[span.start : span.stop] = 0
            self.expected[span.start : span.stop] = 0
        self._balance()

    def _balance(self) -> None:
        expected = self.expected.sum()
        scale = torch.where(expected > 0, self.actual.sum() / expected, 1.0)
        self.expected.mul_(scale)

    def masked(self) -> Tensor:
        """(capacity,) bool: slots drawn more often than expected."""
        self._settle()
        return self.actual > self.expected

    def sample(self, n: int) -> tuple[Tensor, Tensor | None]:
        """(n,) int64 slots and (n,) float32 importance weights or None.

        Raises ValueError while too little is stored.
        """
        self.priorities.require(n if self.draw == "distinct" else 1)
        masked = self.masked()
        values = self.priorities.sums.values
        torch.mul(values, torch.where(masked, MASK, 1.0), out=self._free.values)
        if self.draw == "distinct":
            slots = self._free.find_distinct(n, self._generator)
        else:
            part = fractions(n, self.draw, self._generator, self.priorities.device)
            slots = self._free.find(part)
        self.count(slots)
        return slots, self.priorities.weigh(slots)

    def count(self, slots: Tensor) -> None:
        """Note that (n,) ``slots`` were drawn."""
        self.actual.index_add_(0, slots, torch.ones_like(slots, dtype=Floats))
        values = self.priorities.sums.values
        if self.deficit_cap is None:
            self.expected.add_(values * (len(slots) / values.sum()))
        else:
            room = (self.actual - self.expected).add_(self.deficit_cap).clamp_(min=0)
            self.expected.add_(_pour(values, room, len(slots)))

    def update(self, slots: Tensor, priority: Tensor) -> None:
        """Set priorities from (n,) errors. Of a slot that comes twice the greatest counts.

        Raises ValueError for other shapes, and on the CPU for a slot that there is not or an error
        that is no finite number; nothing is changed then.
        """
        require_slots(slots, priority, self.priorities.capacity)
        require_numbers(priority, priority.abs().max())
        self._settle()
        self.priorities.update(slots, priority)

    def state_dict(self) -> State:
        """Weights, counts and generator."""
        return {
            "priorities": self.priorities.state_dict(),
            "actual": self.actual.clone(),
            "expected": self.expected.clone(),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: State) -> None:
        """Continue the same stream of slots."""
        self.priorities.load_state_dict(state["priorities"])
        self.actual.copy_(state["actual"])
        self.expected.copy_(state["expected"])
        self._generator.set_state(state["generator"])


def _pour(values: Tensor, room: Tensor, amount: int) -> Tensor:
    """(capacity,) shares of ``amount`` in proportion to ``values``, none above its ``room``.

    A slot is full when the level, in units of its value, reaches room / value. With the k that are
    full first left out, the level would be (amount - their room) / value of the others: never too
    high, and right for the right k, so that the greatest is the level.
    """
    order = torch.where(values > 0, room / values, torch.inf).argsort()
    value, space = values.index_select(0, order), room.index_select(0, order)
    full = space.cumsum(0) - space
    others = value.flip(0).cumsum(0).flip(0)
    level = torch.where(others > 0, (amount - full) / others, 0.0).max()
    return torch.minimum(values * level, room)
