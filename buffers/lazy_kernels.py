"""The inner loops of ``LazyRRMSampler``, compiled by numba."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Any, NamedTuple

import numba
import numpy as np
from numba.typed import List

from rlsuite.buffers.sum_tree import Floats, Ints


class Accounts(NamedTuple):
    """Per slot, what its counts are computed from; arrays of (capacity,)."""

    actual: Floats
    """A."""
    expected: Floats
    """E when the clock was ``since``."""
    since: Floats
    """Clock when the slot was last looked at."""
    version: Ints
    """How often the slot was looked at; a promise of an earlier version is void."""
    is_masked: Any
    """bool."""


def no_promises() -> Any:
    """An empty heap of (clock when free, slot, version)."""
    promises = List()
    promises.append((0.0, 0, 0))  # numba learns the type from it
    promises.pop()
    return promises


@numba.njit(cache=True)
def promises_to_arrays(promises: Any) -> tuple[Floats, Ints]:
    """(n,) clocks when free, and (n, 2) slots and versions, in the heap's order."""
    clock, slot = np.empty(len(promises)), np.empty((len(promises), 2), np.int64)
    for i in range(len(promises)):
        clock[i], slot[i, 0], slot[i, 1] = promises[i]
    return clock, slot


@numba.njit(cache=True)
def promises_from_arrays(promises: Any, clock: Floats, slot: Ints) -> None:
    """Append what ``promises_to_arrays`` returned."""
    for i in range(len(clock)):
        promises.append((clock[i], slot[i, 0], slot[i, 1]))


@numba.njit(cache=True)
def forget(values: Floats, accounts: Accounts, clock: float, start: int, stop: int) -> float:
    """Set A = E = 0; the sum of E - A that goes with it."""
    gone = 0.0
    for slot in range(start, stop):
        gone += accounts.expected[slot] + values[slot] * (clock - accounts.since[slot])
        gone -= accounts.actual[slot]
        accounts.actual[slot] = accounts.expected[slot] = 0.0
        accounts.since[slot] = clock
        accounts.version[slot] += 1
        accounts.is_masked[slot] = False
    return gone


@numba.njit(cache=True)
def free_kept(accounts: Accounts, clock: float, promises: Any) -> Ints:
    """Unmask the slots whose time has come."""
    freed = np.empty(len(promises), np.int64)
    count = 0
    while len(promises) > 0 and promises[0][0] <= clock:
        _, slot, version = heappop(promises)
        if accounts.version[slot] == version:
            accounts.is_masked[slot] = False
            freed[count] = slot
            count += 1
    return freed[:count]


@numba.njit(cache=True)
def refresh(values: Floats, accounts: Accounts, clock: float, slots: Ints) -> None:
    """Bring E up to the clock."""
    for slot in slots:
        accounts.expected[slot] += values[slot] * (clock - accounts.since[slot])
        accounts.since[slot] = clock


@numba.njit(cache=True)
def promise(values: Floats, accounts: Accounts, clock: float, slots: Ints, promises: Any) -> None:
    """Mask the slots with A > E, and promise when they will be free."""
    for slot in slots:
        expected = accounts.expected[slot] + values[slot] * (clock - accounts.since[slot])
        missing = accounts.actual[slot] - expected
        accounts.version[slot] += 1
        accounts.is_masked[slot] = missing > 0.0
        if missing > 0.0 and values[slot] > 0.0:
            free = clock + missing / values[slot]
            heappush(promises, (free, slot, accounts.version[slot]))


@numba.njit(cache=True)
def draw(values: Floats, accounts: Accounts, clock: float, slots: Ints, promises: Any) -> None:
    """Count a draw of each slot."""
    refresh(values, accounts, clock, slots)
    for slot in slots:
        accounts.actual[slot] += 1.0
    promise(values, accounts, clock, slots, promises)
