"""What samplers refuse, in the same words everywhere."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
from torch import Tensor

from rlsuite.errors import NotFiniteError

INT64 = np.dtype(np.int64)


def require_choice(name: str, value: Any, choices: Any) -> None:
    """Raises ValueError unless ``value`` is among the values of the type ``choices``, a Literal."""
    if value not in get_args(choices):
        known = ", ".join(map(repr, get_args(choices)))
        raise ValueError(f"{name} is {value!r} but should be one of {known}")


def require_slots(slots: Any, error: Any, capacity: int) -> None:
    """Raises ValueError unless ``slots`` and ``error`` are (n,) both and slots are int64 below
    ``capacity``, naming the first that is not.

    Both are tensors or NumPy arrays. Which slots there are is looked at on the CPU alone: elsewhere
    the host would have to wait for the device, whose kernels refuse them.
    """
    if slots.ndim != 1 or slots.shape != error.shape or not len(slots):
        raise ValueError(
            "an update needs (n,) slots and (n,) priorities, at least one: got "
            f"{tuple(slots.shape)} and {tuple(error.shape)}"
        )
    if not isinstance(slots, np.ndarray):
        if not slots.is_cpu:
            return
        slots = slots.numpy()
    if slots.dtype != INT64:
        raise ValueError(f"an update needs slots in int64, not {slots.dtype}")
    place = _first_outside()(slots, capacity)
    if place >= 0:
        raise ValueError(f"slot {slots[place]} of the batch is outside [0, {capacity})")


@functools.cache
def _first_outside() -> Callable[[Any, int], int]:
    from rlsuite.buffers.sum_tree import first_outside  # numba takes half a second to import

    return first_outside


def require_numbers(error: Tensor, greatest: Any) -> None:
    """Raises NotFiniteError for (B,) errors that are infinite or no number, naming the first.

    ``greatest`` is 0-d, of their sizes: no number if any is none. On the CPU alone: elsewhere the
    host would have to wait for the device.
    """
    if error.is_cpu and not math.isfinite(float(greatest)):
        place = int(error.isfinite().logical_not().nonzero()[0])
        raise NotFiniteError(f"priority {place} of the batch is infinite or no number")
