"""Sampling by random reshuffling: RR-C of Fujita, "Experience Replay with Random Reshuffling"."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlsuite.rng import derive_seed
from rlsuite.types import State


class ReshuffleSampler:
    """Each stored slot once per epoch, in a fresh random order (arXiv 2503.02269, RR-C).

    The paper permutes the slots of the whole ring and skips those not yet filled. Here the
    permutation holds the filled slots only, and a new slot is put into it where it would have
    come: among the n + 1 slots its rank is uniform, so with probability c / (n + 1) it falls
    among the c already drawn and waits for the next epoch, else it comes at a uniform place among
    the rest. The law of the draws is the same; nothing is rejected and an insertion is O(1).
    An overwritten slot keeps its place.

    Over the life of a transition that is drawn a whole number m of times on average, its count is
    m - 1, m or m + 1 with variance 1/3 (with replacement: variance m, and exp(-m) are never seen).
    """

    def __init__(self, seed: int = 0) -> None:
        self._order: NDArray[np.int32] = np.empty(0, np.int32)
        self._size = 0
        """Slots in the order so far."""
        self._stored = 0
        """Slots written; those from ``_size`` on are put into the order at the next draw."""
        self._cursor = 0
        self._dropped = np.empty(0, np.bool_)
        """Slots that are skipped; empty while there has never been one."""
        self._capacity = 0
        self._rng = np.random.Generator(np.random.PCG64(derive_seed(seed, "reshuffle sampler")))

    def prepare(self, capacity: int, device: torch.device) -> None:
        """Learn the number of slots; they are drawn on the CPU for every device."""
        self._capacity = capacity

    def drop(self, slots: range) -> None:
        """Skip these slots until they are added again; they keep their places."""
        if not len(self._dropped):
            self._dropped = np.zeros(self._capacity, np.bool_)
        self._dropped[slots.start : slots.stop] = True

    def add(self, slots: range) -> None:
        """Tell that ``slots`` were written. New ones must follow on the last."""
        if len(self._dropped):
            self._dropped[slots.start : slots.stop] = False
        if slots.start > self._stored:
            raise ValueError(f"slots must fill in order: got {slots}, stored {self._stored}")
        self._stored = max(self._stored, slots.stop)

    def sample(self, n: int) -> tuple[Tensor, None]:
        """(n,) int64 slots, the next of the order; no weights.

        A batch that reaches the end of an epoch goes on with the next one (and may then hold a
        slot twice). Raises ValueError while nothing is stored.
        """
        if self._stored == 0 or (len(self._dropped) and self._dropped[: self._stored].all()):
            raise ValueError("cannot sample from an empty replay: add transitions first")
        self._insert_new()
        slots = np.empty(n, np.int64)
        done = 0
        while done < n:
            if self._cursor == self._size:
                # NumPy shuffles 64-bit numbers half as fast again as 32-bit ones.
                order = self._order[: self._size].astype(np.int64)
                self._rng.shuffle(order)
                self._order[: self._size] = order
                self._cursor = 0
            take = min(n - done, self._size - self._cursor)
            next_slots = self._order[self._cursor : self._cursor + take]
            self._cursor += take
            if len(self._dropped):
                next_slots = next_slots[~self._dropped[next_slots]]
            slots[done : done + len(next_slots)] = next_slots
            done += len(next_slots)
        return torch.from_numpy(slots), None

    def update(self, slots: Tensor, priority: Tensor) -> None:
        """Priorities do not matter here."""

    def _insert_new(self) -> None:
        if self._size == self._stored:
            return
        if self._stored > len(self._order):
            grown = np.empty(max(self._stored, 2 * len(self._order)), np.int32)
            grown[: self._size] = self._order[: self._size]
            self._order = grown
        while self._size < self._stored:
            self._insert(range(self._size, min(self._size + 4096, self._stored)))

    def _insert(self, slots: range) -> None:
        order = self._order
        # Doubles take 64 bits each whatever the number drawn at once, so that inserting early
        # (when a checkpoint is taken) leaves the stream as it was.
        uniform = self._rng.random((len(slots), 2)).tolist()
        for slot, (rank, place) in zip(slots, uniform, strict=True):
            if int(rank * (slot + 1)) < self._cursor:
                order[slot] = order[self._cursor]
                order[self._cursor] = slot
                self._cursor += 1
            else:
                at = self._cursor + int(place * (slot + 1 - self._cursor))
                order[slot] = order[at]
                order[at] = slot
        self._size = slots.stop

    def state_dict(self) -> State:
        """Order, cursor and generator."""
        self._insert_new()
        return {
            "order": torch.from_numpy(self._order[: self._size].copy()),
            "cursor": self._cursor,
            "dropped": torch.from_numpy(self._dropped.copy()),
            "generator": self._rng.bit_generator.state,
        }

    def load_state_dict(self, state: State) -> None:
        """Continue the same stream of slots."""
        self._order = state["order"].numpy().copy()
        self._size = self._stored = len(self._order)
        self._cursor = state["cursor"]
        self._dropped = state["dropped"].numpy().copy()
        self._rng.bit_generator.state = state["generator"]
