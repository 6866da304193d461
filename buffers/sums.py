"""Weights of slots, drawn in proportion: one interface, and the form that suits the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = TypeVar("Array", Tensor, NDArray[Any])
"""On the CPU sums are of NumPy arrays, which numba compiles for."""

FLAT_LIMIT = 1 << 22
"""Slots up to which a running sum over all of them is drawn from on a device (spec: about 4M)."""


class Sums(Protocol[Array]):
    """Non-negative float64 weights of slots. A slot of weight zero is never drawn."""

    values: Array
    """(capacity,) the weights; to read alone."""

    @property
    def total(self) -> Array:
        """0-d or (1,) sum of all weights."""

    def least(self) -> Array:
        """0-d or (1,) least weight that is not zero."""

    def array(self, tensor: Tensor) -> Array:
        """The same numbers as these sums take them."""

    def sizes(self, tensor: Tensor) -> Array:
        """Its absolute values, float64, as these sums take them."""

    def tensor(self, array: Array) -> Tensor:
        """The same numbers in a tensor."""

    def compiled(self, formula: Callable[..., Any]) -> Callable[..., Any]:
        """A formula of arrays, of operators and methods alone, as fast as it can be had here."""

    def set(self, slots: Array, values: Array) -> None:
        """Give (B,) slots (B,) weights; of a slot that comes twice the greatest stays."""

    def revise(self, slots: Array, values: Array) -> None:
        """``set`` for the slots whose weight is not zero; the others stay at zero."""

    def find(self, fraction: Array) -> Array:
        """(B,) int64 slots where the running sum of weights passes (B,) fractions of the total."""

    def find_distinct(self, n: int, generator: torch.Generator) -> Array:
        """(n,) different slots, drawn one after the other in proportion to the weights left."""


def namespace(array: Any) -> Any:
    """torch or NumPy, whichever ``array`` is of: much in them has the same name and meaning."""
    return torch if isinstance(array, Tensor) else np


def make_sums(capacity: int, device: torch.device) -> Sums[Any]:
    """The fastest form: a compiled tree on the CPU; on a device a running sum over all slots, which
    is three launches, and for more than FLAT_LIMIT slots sums of blocks."""
    if device.type == "cpu":
        from rlsuite.buffers.sum_tree import TreeSums  # numba takes half a second to import

        return TreeSums(capacity)
    return FlatSums(capacity, device) if capacity <= FLAT_LIMIT else BlockSums(capacity, device)


class _Tensors:
    """What sums have in common whose arrays are tensors."""

    values: Tensor

    def least(self) -> Tensor:
        """0-d least weight that is not zero."""
        return torch.where(self.values > 0, self.values, torch.inf).min()

    def array(self, tensor: Tensor) -> Tensor:
        """The same numbers as these sums take them."""
        return tensor

    def sizes(self, tensor: Tensor) -> Tensor:
        """Its absolute values, float64."""
        return tensor.detach().abs().double()

    def tensor(self, array: Tensor) -> Tensor:
        """The same numbers in a tensor."""
        return array

    def compiled(self, formula: Callable[..., Any]) -> Callable[..., Any]:
        """The formula itself."""
        return formula


class FlatSums(_Tensors):
    """Nothing but the weights; each draw sums all of them."""

    def __init__(self, capacity: int, device: torch.device) -> None:
        self.values = torch.zeros(capacity, dtype=torch.float64, device=device)

    @property
    def total(self) -> Tensor:
        """0-d sum of all weights."""
        return self.values.sum()

    def set(self, slots: Tensor, values: Tensor) -> None:
        """Give (B,) slots (B,) weights; of a slot that comes twice the greatest stays."""
        self.values.scatter_reduce_(0, slots, values, "amax", include_self=False)

    def revise(self, slots: Tensor, values: Tensor) -> None:
        """``set`` for the slots whose weight is not zero; the others stay at zero."""
        self.set(slots, torch.where(self.values[slots] > 0, values, 0.0))

    def find(self, fraction: Tensor) -> Tensor:
        """(B,) int64 slots where the running sum of weights passes (B,) fractions of the total."""
        running = self.values.cumsum(0)
        mass = torch.minimum(fraction * running[-1], _below(running[-1]))
        slots = torch.searchsorted(running, mass, right=True).clamp_(max=len(running) - 1)
        return _nonzero(self.values, slots)

    def find_distinct(self, n: int, generator: torch.Generator) -> Tensor:
        """(n,) different slots, drawn one after the other in proportion to the weights left."""
        return _race(self.values, n, generator)


class BlockSums(_Tensors):
    """Weights in blocks of 64, the blocks' sums in blocks of 64, and so on to a single block."""

    FAN = 64

    def __init__(self, capacity: int, device: torch.device) -> None:
        self._levels: list[Tensor] = []
        rows = capacity
        while rows > 1 or not self._levels:
            rows = -(-rows // self.FAN)
            shape = (rows, self.FAN)
            self._levels.append(torch.zeros(shape, dtype=torch.float64, device=device))
        self.values = self._levels[0].view(-1)[:capacity]

    @property
    def total(self) -> Tensor:
        """0-d sum of all weights."""
        return self._levels[-1].sum()

    def set(self, slots: Tensor, values: Tensor) -> None:
        """Give (B,) slots (B,) weights; of a slot that comes twice the greatest stays."""
        self.values.scatter_reduce_(0, slots, values, "amax", include_self=False)
        for level, above in zip(self._levels, self._levels[1:], strict=False):
            slots = slots // self.FAN
            # Computed again from the children: a slot that comes twice writes the same twice.
            above.view(-1).index_copy_(0, slots, level.index_select(0, slots).sum(1))

    def revise(self, slots: Tensor, values: Tensor) -> None:
        """``set`` for the slots whose weight is not zero; the others stay at zero."""
        self.set(slots, torch.where(self.values[slots] > 0, values, 0.0))

    def find(self, fraction: Tensor) -> Tensor:
        """(B,) int64 slots where the running sum of weights passes (B,) fractions of the total."""
        node = torch.zeros_like(fraction, dtype=torch.int64)
        mass = fraction * self.total
        for level in reversed(self._levels):
            running = level.index_select(0, node).cumsum(1)
            mass = torch.minimum(mass, _below(running[:, -1]))
            child = (running <= mass[:, None]).sum(1).clamp_(max=self.FAN - 1)
            before = running.gather(1, (child - 1).clamp(min=0)[:, None])[:, 0]
            mass = mass - torch.where(child > 0, before, 0.0)
            node = node * self.FAN + child
        return _nonzero(self.values, node.clamp(max=len(self.values) - 1))

    def find_distinct(self, n: int, generator: torch.Generator) -> Tensor:
        """(n,) different slots, drawn one after the other in proportion to the weights left."""
        return _race(self.values, n, generator)


def _below(total: Tensor) -> Tensor:
    return torch.nextafter(total, torch.zeros_like(total))


def _nonzero(values: Tensor, slots: Tensor) -> Tensor:
    # A parallel running sum may grow by a rounding error where the weight is zero.
    return torch.where(values[slots] > 0, slots, values.argmax())


def _race(values: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """The first n arrivals of exponential clocks whose rates are the weights: the same law as
    drawing without putting back, in fixed shapes."""
    clocks = torch.empty_like(values).exponential_(generator=generator)
    return (values / clocks).topk(n).indices
