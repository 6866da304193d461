"""Memory for batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlsuite.buffers.frames import FrameStacks
from rlsuite.buffers.rows import Field, nest
from rlsuite.types import Batch


class Arrays(NamedTuple):
    """What compiled code reads and writes of a batch, in NumPy, on the CPU."""

    slots: NDArray[np.int64]
    rows: NDArray[np.uint8]
    terminated: NDArray[np.bool_]
    discount: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Output:
    """Preallocated memory for batches of one size."""

    rows: Tensor
    """(B * window, row bytes) uint8."""
    leaves: dict[str, Tensor]
    """Views of ``rows``: (B, ...) if the window is one row, else (B, window, ...)."""
    frames: Tensor
    """(frames, frame bytes) uint8; none without stacks."""
    last: dict[str, Tensor]
    """If n_step > 1: the batch's leaves that come from the last row of the sum."""
    batch: Batch
    """What is handed out; views of ``rows`` and ``frames`` but for ``last`` and sums of rewards."""
    arrays: Arrays | None
    """None on another device than the CPU."""


def allocate(
    n: int, fields: list[Field], ring: Tensor, frames: FrameStacks | None, n_step: int
) -> Output:
    """Memory for batches of ``n`` sums over ``n_step`` rows of ``ring`` (capacity, row bytes)."""
    device = ring.device
    rows = torch.empty(n * n_step, ring.shape[1], dtype=torch.uint8, device=device)
    views = {field.path: field.view(rows) for field in fields}
    first, last = dict(views), {}
    if n_step > 1:
        views = {path: leaf.view(n, n_step, *leaf.shape[1:]) for path, leaf in views.items()}
        first = {path: leaf[:, 0] for path, leaf in views.items()}
        first["reward"] = torch.empty(n, device=device)
        for path, leaf in first.items():
            if path.split("/")[0] in ("next_obs", "terminated", "truncated"):
                last[path] = torch.empty_like(leaf)
        first |= last
    gathered = torch.empty(0, 0, dtype=torch.uint8, device=device)
    if frames:
        del first["frames"]
        # One step apart, two stacks have all but one frame each in common.
        each = frames.size + 1 if n_step == 1 else 2 * frames.size
        gathered = frames.empty(n * each)
        stacks = frames.view(gathered, n, each)
        first["obs"] = stacks[:, : frames.size]
        first["next_obs"] = stacks[:, each - frames.size :]
    tree = nest(first)
    extra = tree.pop("extra", {})
    batch = Batch(
        **tree,  # type: ignore[arg-type]
        extra=extra,  # type: ignore[arg-type]
        discount=torch.empty(n, device=device),
        index=torch.empty(n, dtype=torch.int64, device=device),
        weight=torch.ones(n, device=device),
    )
    arrays = None
    if device.type == "cpu":
        read = (batch.index, rows, batch.terminated, batch.discount)
        arrays = Arrays(*(tensor.numpy() for tensor in read))
    return Output(rows, views, gathered, last, batch, arrays)
