"""The inner loops of ``LazyRRMSampler``, compiled by numba."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Any, NamedTuple

import numba
import numpy as np
from numba.typed import List

from rlsuite.buffers.sum_tree import Floats, Ints, set_weights


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
    is_full: Any
    """bool: E - A is at the cap, so that E stands still until the slot is drawn."""


# Compiled, for what Python does to such a list numba compiles anew in every process: seconds.
@numba.njit(cache=True)
def no_promises() -> Any:
    """An empty heap of (clock, slot, version): what will be of the slot then."""
    promises = List()
    promises.append((0.0, 0, 0))  # numba learns the type from it
    promises.pop()
    return promises


@numba.njit(cache=True)
def promises_to_arrays(promises: Any) -> tuple[Floats, Ints]:
    """(n,) clocks, and (n, 2) slots and versions, in the heap's order."""
    clock, slot = np.empty(len(promises)), np.empty((len(promises), 2), np.int64)
    for i in range(len(promises)):
        clock[i], slot[i, 0], slot[i, 1] = promises[i]
    return clock, slot


@numba.njit(cache=True)
def promises_from_arrays(promises: Any, clock: Floats, slot: Ints) -> None:
    """Append what ``promises_to_arrays`` returned."""
    for i in range(len(clock)):
        promises.append((clock[i], slot[i, 0], slot[i, 1]))


# ``rates`` are by how much the E of each slot grows for a unit of the clock.


@numba.njit(cache=True)
def forget(rates: Floats, accounts: Accounts, clock: float, start: int, stop: int) -> float:
    """Set A = E = 0; the sum of E - A that goes with it."""
    gone = 0.0
    for slot in range(start, stop):
        gone += accounts.expected[slot] + rates[slot] * (clock - accounts.since[slot])
        gone -= accounts.actual[slot]
        accounts.actual[slot] = accounts.expected[slot] = 0.0
        accounts.since[slot] = clock
        accounts.version[slot] += 1
        accounts.is_masked[slot] = accounts.is_full[slot] = False
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
def refresh(rates: Floats, accounts: Accounts, clock: float, slots: Ints) -> None:
    """Bring E up to the clock."""
    for slot in slots:
        accounts.expected[slot] += rates[slot] * (clock - accounts.since[slot])
        accounts.since[slot] = clock


@numba.njit(cache=True)
def promise(
    values: Floats, accounts: Accounts, clock: float, slots: Ints, cap: float, free: Any, full: Any
) -> None:
    """Mask the slots with A > E, and promise when they will be free and when E = A + cap.

    Their E has to be up to the clock.
    """
    for slot in slots:
        missing = accounts.actual[slot] - accounts.expected[slot]
        accounts.version[slot] += 1
        accounts.is_masked[slot] = missing > 0.0
        accounts.is_full[slot] = missing + cap <= 0.0
        if values[slot] > 0.0:
            if missing > 0.0:
                heappush(free, (clock + missing / values[slot], slot, accounts.version[slot]))
            if missing + cap > 0.0 and cap < np.inf:
                when = clock + (missing + cap) / values[slot]
                heappush(full, (when, slot, accounts.version[slot]))


@numba.njit(cache=True)
def draw(accounts: Accounts, slots: Ints) -> None:
    """Count a draw of each slot."""
    for slot in slots:
        accounts.actual[slot] += 1.0


@numba.njit(cache=True)
def advance(
    tree: Floats, leaf: int, accounts: Accounts, clock: float, amount: float, cap: float, full: Any
) -> float:
    """The clock when the sum of E has grown by ``amount``.

    ``tree`` holds the rates and their sum, node 1; those that become full stop on the way, and the
    others get their share.
    """
    one, nothing = np.zeros(1, np.int64), np.zeros(1)
    while len(full) > 0:
        when, slot, version = full[0]
        if accounts.version[slot] == version:
            used = (when - clock) * tree[1]
            if used > amount:
                break
            if used > 0.0:
                clock, amount = when, amount - used
            accounts.expected[slot] = accounts.actual[slot] + cap
            accounts.since[slot] = clock
            accounts.is_full[slot] = True
            one[0] = slot
            set_weights(tree, leaf, one, nothing, False)
        heappop(full)
    return clock + amount / tree[1] if tree[1] > 0.0 else clock
