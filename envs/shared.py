"""Memory that two processes share, and how one waits there for the other.

Pipes and semaphores cost more than a step of MuJoCo. So data lie in shared memory, and whoever
waits polls a counter there; after a while it sleeps between polls, so that idle workers do not burn
a core. The memory has no name in the file system: nothing is left behind whoever is killed.
"""

from __future__ import annotations

import ctypes
import math
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from rlsuite.envs.layout import ActionCodec, Array, ObservationLayout

CONTEXT = multiprocessing.get_context("spawn")


class Slot:
    """Numbers in the control block; what the two sides write lies on different cache lines."""

    REQUEST = 0
    KIND = 1
    REPLY = 16
    FAILED = 17
    COUNT = 32


_POLLS = 20_000
"""About a millisecond, then naps begin."""
_POLLS_PER_YIELD = 100
"""The core is offered to others that often, or one that waits would keep out whom it waits for."""
_NAPS_SECONDS = (50e-6, 2e-3)
"""Each is a tenth longer than the one before, from the first to the second."""


class PeerDiedError(Exception):
    """The process that was waited for is gone."""


# Windows has no such call; a sleep of zero does the same there.
_yield_core: Callable[[], None] = getattr(os, "sched_yield", lambda: time.sleep(0))
_LOCK = threading.Lock()


def fence() -> None:
    """Keep what is written or read before it (data, say) before what comes after (the counter)."""
    # x86 does so by itself; elsewhere releasing and then acquiring a lock does.
    with _LOCK:
        pass
    with _LOCK:
        pass


def wait_for(
    control: memoryview[int], slot: int, value: int, is_peer_alive: Callable[[], bool]
) -> None:
    """Return once ``control[slot]`` is at least ``value``. Raises ``PeerDiedError``."""
    for poll in range(_POLLS):
        if control[slot] >= value:
            return fence()
        if not poll % _POLLS_PER_YIELD:
            _yield_core()
    nap, longest = _NAPS_SECONDS
    while control[slot] < value:
        if not is_peer_alive() and control[slot] < value:
            raise PeerDiedError
        time.sleep(nap)
        nap = min(1.1 * nap, longest)
    fence()


class SharedRows:
    """The shared arrays of one worker; the first axis is its environments."""

    def __init__(
        self, num_envs: int, observations: ObservationLayout, actions: ActionCodec, raw: Any = None
    ) -> None:
        """Allocate, or in the worker use ``raw``, the other side's."""
        leaves = [
            ((num_envs, *leaf.shape), torch.empty(0, dtype=leaf.dtype).numpy().dtype)
            for leaf in observations.leaves
        ]
        fields: list[tuple[tuple[int, ...], Any]] = [
            ((Slot.COUNT,), np.dtype(np.int64)),
            ((num_envs, *actions.shape[1:]), np.dtype(actions.dtype)),
            ((num_envs,), np.dtype(np.float64)),
            ((num_envs,), np.dtype(np.bool_)),
            ((num_envs,), np.dtype(np.bool_)),
            *leaves,
            *leaves,
        ]
        sizes = [-(-math.prod(shape) * dtype.itemsize // 64) * 64 for shape, dtype in fields]
        self.raw = CONTEXT.RawArray(ctypes.c_char, sum(sizes)) if raw is None else raw
        arrays: list[Array] = []
        offset = 0
        for (shape, dtype), size in zip(fields, sizes, strict=True):
            arrays.append(np.ndarray(shape, dtype, memoryview(self.raw), offset))
            offset += size
        # Indexing a memoryview takes half the time of indexing an array.
        self.control = arrays[0].data
        self.actions, self.reward, self.terminated, self.truncated = arrays[1:5]
        self.next_obs = arrays[5 : 5 + len(leaves)]
        self.first_obs = arrays[5 + len(leaves) :]
        """Where an episode began: the observation to act on."""
