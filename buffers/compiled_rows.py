"""Packed rows in main memory, written and gathered by numba."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlsuite.buffers.rows import Field, Leaf, mismatch


class CompiledRows:
    """Packed rows of transitions in main memory: each access is one compiled call."""

    def __init__(self, fields: list[Field], rows: NDArray[np.uint8]) -> None:
        """``rows`` (capacity, row bytes) are written to and gathered from."""
        self._fields = fields
        self._rows = rows
        self._dtypes = [_array(torch.empty(0, dtype=field.dtype)).dtype for field in fields]
        self._shapes: dict[int, list[tuple[int, ...]]] = {}
        order = sorted(range(len(fields)), key=lambda i: fields[i].offset)
        self._by_offset = itemgetter(*order)
        self._places = np.array([[fields[i].offset, fields[i].nbytes] for i in order], np.int64)

    def write(self, leaves: Sequence[Leaf], start: int, count: int) -> None:
        """Put ``count`` transitions, a leaf for each field, into the rows from ``start`` on.

        Raises ValueError, and writes nothing, if a leaf has not its field's dtype or shape.
        """
        shapes = self._shapes.get(count)
        if shapes is None:
            shapes = self._shapes[count] = [(count, *field.shape) for field in self._fields]
        # To ask zip for equal lengths would take a tenth of the time of an addition.
        for leaf, dtype, shape in zip(leaves, self._dtypes, shapes):  # noqa: B905
            if leaf.dtype is not dtype or leaf.shape != shape:  # a tensor, or a mistake
                leaves = self._arrays(leaves, shapes)
                break
        in_rows: tuple[Any, ...] = self._by_offset(leaves)
        try:
            data = b"".join(in_rows)
        except TypeError:  # of arrays that are not contiguous
            data = b"".join(array.tobytes() for array in in_rows)
        _scatter(self._rows, data, self._places, start, count)

    def gather(self, index: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
        """Copy rows (B,) ``index`` to (B, row bytes) ``out``.

        Raises IndexError for a row that is not there; ``out`` is then as it was.
        """
        bad = _gather(self._rows, index, out)
        if bad >= 0:
            raise IndexError(f"slot {index[bad]} of the batch is outside [0, {len(self._rows)})")

    def bootstrap(
        self, terminated: NDArray[np.bool_], discount: float, out: NDArray[np.float32]
    ) -> None:
        """Set (B,) ``out`` to zero where ``terminated``, else to ``discount``."""
        _bootstrap(terminated, discount, out)

    def _arrays(self, leaves: Sequence[Leaf], shapes: list[tuple[int, ...]]) -> list[NDArray[Any]]:
        arrays = [leaf if isinstance(leaf, np.ndarray) else _array(leaf) for leaf in leaves]
        for i, array in enumerate(arrays):
            if array.dtype != self._dtypes[i] or array.shape != shapes[i]:
                raise mismatch(self._fields[i], leaves[i], shapes[i][0])
        return arrays


def _array(leaf: Tensor) -> NDArray[Any]:
    if leaf.dtype == torch.bfloat16:  # NumPy has none
        return leaf.view(torch.int16).numpy(force=True).view("V2")
    return leaf.numpy(force=True)


@numba.njit(cache=True)
def _scatter(
    rows: NDArray[np.uint8], data: bytes, places: NDArray[np.int64], start: int, count: int
) -> None:
    # data holds count items of the first field, then of the next. In words of four bytes where
    # that is possible; unsigned, for numba allows for indices below zero otherwise.
    source = np.frombuffer(data, np.uint8)
    source_words = source[: len(source) // 4 * 4].view(np.uint32)
    row_words = rows.view(np.uint32)
    first, n, at = np.uint64(start), np.uint64(count), np.uint64(0)
    two, four = np.uint64(2), np.uint64(4)
    for f in range(len(places)):
        offset, size = np.uint64(places[f, 0]), np.uint64(places[f, 1])
        if size % four == 0 and at % four == 0 and offset % four == 0:
            offset, size = offset >> two, size >> two
            word = at >> two
            for i in range(n):
                for j in range(size):
                    row_words[first + i, offset + j] = source_words[word + j]
                word += size
            at = word << two
        else:
            for i in range(n):
                for j in range(size):
                    rows[first + i, offset + j] = source[at + j]
                at += size


@numba.njit(cache=True)
def _gather(rows: NDArray[np.uint8], index: NDArray[np.int64], out: NDArray[np.uint8]) -> np.int64:
    source, target = rows.view(np.uint32), out.view(np.uint32)
    count, length = np.uint64(len(index)), np.uint64(source.shape[1])
    touched = np.uint32(0)
    # A word of every cache line first: they are fetched side by side, not one after the other.
    for i in range(count):
        if not 0 <= index[i] < len(source):
            return np.int64(i)
        row, word = np.uint64(index[i]), np.uint64(0)
        while word < length:
            touched |= source[row, word]
            word += np.uint64(16)
    for i in range(count):
        row = np.uint64(index[i])
        for j in range(length):
            target[i, j] = source[row, j]
    # Either is well; without a use of what was touched the compiler would leave the touching out.
    return np.int64(-1) if touched else np.int64(-2)


@numba.njit(cache=True)
def _bootstrap(terminated: NDArray[np.bool_], discount: float, out: NDArray[np.float32]) -> None:
    for i in range(len(out)):
        out[i] = 0.0 if terminated[i] else discount
