"""The sum tree of the CPU, compiled by numba."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
ONE = np.uint64(1)


class TreeSums:
    """Non-negative weights of ``capacity`` slots, float64, in a binary tree of their sums.

    Node k has the children 2k and 2k + 1. A changed leaf has the sums above it computed again from
    their children, so that rounding does not pile up.
    """

    def __init__(self, capacity: int) -> None:
        self.leaf = 1 << max(0, capacity - 1).bit_length()
        self.tree = np.zeros(2 * self.leaf)
        self.values = self.tree[self.leaf : self.leaf + capacity]
        """(capacity,) the weights; to read alone."""
        self.total = self.tree[1:2]
        """(1,) sum of all weights, kept up to date."""

    def least(self) -> Floats:
        """(1,) least weight that is not zero."""
        least: Floats = self.values.min(initial=np.inf, where=self.values > 0, keepdims=True)
        return least

    def array(self, tensor: Tensor) -> NDArray[Any]:
        """The same numbers as these sums take them."""
        return tensor.numpy(force=True)

    def sizes(self, tensor: Tensor) -> Floats:
        """Its absolute values, float64, as these sums take them."""
        sizes: Floats = np.abs(tensor.numpy(force=True), dtype=np.float64)
        return sizes

    def tensor(self, array: NDArray[Any]) -> Tensor:
        """The same numbers in a tensor."""
        return torch.from_numpy(array)

    def compiled(self, formula: Callable[..., Any]) -> Callable[..., Any]:
        """The formula, compiled by numba."""
        return compiled(formula)

    def set(self, slots: Ints, values: Floats) -> None:
        """Give (B,) slots (B,) weights; of a slot that comes twice the greatest stays.

        Raises ValueError for a weight that is negative or no number; nothing is changed then. Slots
        are taken as they are (``checks.require_slots`` sees to them).
        """
        _check(set_weights(self.tree, self.leaf, slots, values, False))

    def revise(self, slots: Ints, values: Floats) -> None:
        """``set`` for the slots whose weight is not zero; the others stay at zero."""
        _check(set_weights(self.tree, self.leaf, slots, values, True))

    def find(self, fraction: Floats) -> Ints:
        """(B,) int64 slots where the running sum of weights passes (B,) fractions of the total.

        Fractions are float64 in [0, 1]. A slot of weight zero is never returned, whatever the
        rounding, while any other is there.
        """
        slots = np.empty(len(fraction), np.int64)
        _find(self.tree, self.leaf, fraction, slots)
        return slots

    def find_distinct(self, n: int, generator: torch.Generator) -> Ints:
        """(n,) different slots, drawn one after the other in proportion to the weights left.

        At least ``n`` weights must not be zero.
        """
        fraction = torch.rand(n, dtype=torch.float64, generator=generator)
        slots = np.empty(n, np.int64)
        _find_distinct(self.tree, self.leaf, fraction.numpy(), slots)
        return slots


def _check(bad: int) -> None:
    if bad >= 0:
        raise ValueError(f"priority {bad} of the batch is negative or no number")


@functools.cache
def compiled(formula: Callable[..., Any]) -> Callable[..., Any]:
    """What numba makes of ``formula``: the same for all sums, as compiling takes a second."""
    return numba.njit(cache=True)(formula)


@numba.njit(cache=True)
def _raise_sums(tree: Floats, nodes: Ints) -> None:
    # Overwrites nodes. A level at a time, for the same reason as in _find.
    level = nodes[0] if len(nodes) else 1
    while level > 1:
        level >>= 1
        for i in range(len(nodes)):
            nodes[i] >>= 1
            tree[nodes[i]] = tree[2 * nodes[i]] + tree[2 * nodes[i] + 1]


@numba.njit(cache=True)
def first_outside(slots: Ints, capacity: int) -> int:
    """The first place of a slot that is not in [0, capacity), or -1."""
    for i in range(len(slots)):
        if not 0 <= slots[i] < capacity:
            return i
    return -1


@numba.njit(cache=True)
def set_weights(tree: Floats, leaf: int, slots: Ints, values: Floats, live_only: bool) -> int:
    """``TreeSums.set``, or ``revise``, on its arrays: the place of the first bad weight, or -1."""
    for i in range(len(slots)):
        if not (0.0 <= values[i] < np.inf):
            return i
    for i in range(len(slots)):
        if not live_only or tree[leaf + slots[i]] != 0.0:
            tree[leaf + slots[i]] = -1.0
    for i in range(len(slots)):
        node = leaf + slots[i]
        if not live_only or tree[node] != 0.0:
            tree[node] = max(tree[node], values[i])
    _raise_sums(tree, leaf + slots)
    return -1


@numba.njit(cache=True)
def _find(tree: Floats, leaf: int, fraction: Floats, slots: Ints) -> None:
    # All draws go down together, a level at a time: their cache misses overlap then. Arithmetic
    # in place of branches, which would be guessed wrong every other time; unsigned, for numba
    # allows for indices below zero otherwise.
    mass = fraction * tree[1]
    nodes = np.ones(len(slots), np.uint64)
    level = 1
    while level < leaf:
        for i in range(len(nodes)):
            child = nodes[i] << ONE
            left, right = tree[child], tree[child | ONE]
            # Rounding may carry the mass past the end: a child without weight is never entered.
            go_right = np.uint64(mass[i] >= left) & np.uint64(right != 0.0)
            mass[i] -= left * go_right
            nodes[i] = child | go_right
        level *= 2
    for i in range(len(slots)):
        slots[i] = np.int64(nodes[i]) - leaf


@numba.njit(cache=True)
def _find_distinct(tree: Floats, leaf: int, fraction: Floats, slots: Ints) -> None:
    taken = np.empty(len(fraction))
    for i in range(len(fraction)):
        one = slots[i : i + 1]
        _find(tree, leaf, fraction[i : i + 1], one)
        taken[i] = tree[leaf + slots[i]]
        tree[leaf + slots[i]] = 0.0
        _raise_sums(tree, leaf + one)
    for i in range(len(fraction)):
        tree[leaf + slots[i]] = taken[i]
    _raise_sums(tree, leaf + slots)
