"""A ring of rows in memory or on disk, saved in pieces."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import psutil
import torch
from torch import Tensor

from rlsuite.errors import UserError
from rlsuite.types import Chunk, State

SEGMENT_BYTES = 4 * 2**20
"""Rows are saved in pieces of about this size; a piece is written again only if it changed."""


class Ring:
    """(capacity, row bytes) uint8 ``rows``; row i was last written as number k with
    k % capacity == i."""

    def __init__(
        self,
        name: str,
        capacity: int,
        row_bytes: int,
        device: torch.device,
        directory: Path | None,
        *,
        beside: int = 0,
    ) -> None:
        """Zeros, on ``device`` or, with ``directory``, in a file there that goes with the process.

        Raises UserError if there is too little room for them and ``beside`` further bytes, which
        another ring is going to take.
        """
        self.name = name
        self.capacity = capacity
        self.written = 0
        """Rows ever written."""
        self.rewrites = 0
        """Times a row was changed after it was written."""
        size = capacity * row_bytes
        what = f"{name} and their transitions" if beside else name
        _check_room(what, capacity, size + beside, device, directory)
        # Zeros, so that equal rows are equal bytes, also between their leaves.
        if directory is not None:
            flat = _on_disk(directory, size)
        elif device.type == "cpu":
            # NumPy asks for huge pages, in which rows at random are found sooner, and takes memory
            # as it is written.
            flat = torch.from_numpy(np.zeros(size, np.uint8))
        else:
            flat = torch.zeros(size, dtype=torch.uint8, device=device)
        self.rows = flat.view(capacity, row_bytes)

    def spans(self, count: int) -> list[tuple[int, slice]]:
        """Where the next ``count`` rows go: (offset among them, rows of the ring)."""
        spans, done = [], 0
        while done < count:
            start = (self.written + done) % self.capacity
            length = min(count - done, self.capacity - start)
            spans.append((done, slice(start, start + length)))
            done += length
        return spans

    def state_dict(self) -> State:
        """Rows in pieces that a checkpoint writes only if they changed."""
        size = max(1, SEGMENT_BYTES // max(1, self.rows.shape[1]))
        filled = min(self.written, self.capacity)
        pieces = [(a, min(a + size, filled)) for a in range(0, filled, size)]
        return {
            "written": self.written,
            "rewrites": self.rewrites,
            "rows": {f"{a:012d}": self._piece(a, b) for a, b in pieces},
        }

    def load_state_dict(self, state: State) -> None:
        """Hold the same rows."""
        self.written, self.rewrites = state["written"], state["rewrites"]
        for start, chunk in state["rows"].items():
            rows = chunk.tensors["rows"]
            self.rows[int(start) : int(start) + len(rows)].copy_(rows)

    def _piece(self, start: int, stop: int) -> Chunk:
        """Named by when it was last written, so that an equal name means equal bytes."""
        head = (self.written - 1) % self.capacity
        last = self.written - 1 - head + stop - 1
        if start <= head < stop - 1:
            last = self.written - 1
        elif last >= self.written:
            last -= self.capacity
        return Chunk(f"{self.name}-{start}-{last}-{self.rewrites}", {"rows": self.rows[start:stop]})


def _check_room(
    name: str, capacity: int, size: int, device: torch.device, directory: Path | None
) -> None:
    available, where = _available(device, directory)
    if size > available:
        fit = int(0.8 * available / size * capacity)
        raise UserError(
            f"the replay's {capacity:,} {name} need {size / 2**30:.1f} GiB, "
            f"{available / 2**30:.1f} GiB are free {where}: set replay.capacity to {fit:,} or less"
            + ("" if directory else ", or replay.directory to keep it on disk")
        )


def _available(device: torch.device, directory: Path | None) -> tuple[int, str]:
    if directory is not None:
        try:
            return shutil.disk_usage(directory).free, f"in {directory}"
        except OSError as error:
            raise UserError(
                f"replay.directory {directory} cannot be used: {error.strerror}"
            ) from error
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0], f"on {device}"
    return int(psutil.virtual_memory().available), f"on {device}"


def _on_disk(directory: Path, size: int) -> Tensor:
    try:
        handle, path = tempfile.mkstemp(prefix="replay-", dir=directory)
    except OSError as error:
        raise UserError(f"replay.directory {directory} cannot be used: {error.strerror}") from error
    try:
        _reserve(handle, size, directory)
        return torch.from_file(path, shared=True, size=size, dtype=torch.uint8)
    finally:
        os.close(handle)
        os.unlink(path)  # the mapping keeps it until the process ends


def _reserve(handle: int, size: int, directory: Path) -> None:
    """Take the blocks now: a write to the mapping of a full disk would kill the process."""
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(handle, 0, size)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):  # not every file system can
            return
        free = shutil.disk_usage(directory).free
        raise UserError(
            f"replay.directory {directory} cannot hold {size:,} bytes more, {free:,} are free: "
            f"{error.strerror}; set replay.capacity to less or make room"
        ) from error
