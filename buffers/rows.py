"""How the leaves of a transition lie side by side in the bytes of a row."""

from __future__ import annotations

import math
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, TypeAlias

import torch
from numpy.typing import NDArray
from torch import Tensor

from rlsuite.tree import leaves
from rlsuite.types import Step, Tree

Leaf: TypeAlias = "Tensor | NDArray[Any]"
"""What a transition that is added may hold."""

NAMES = ("obs", "action", "reward", "next_obs", "terminated", "truncated")
_parts = attrgetter(*NAMES)


@dataclass(frozen=True, slots=True)
class Field:
    """Where one leaf of a transition lies in its row."""

    path: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    offset: int
    """Bytes from the start of the row."""

    @property
    def nbytes(self) -> int:
        """Bytes it takes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def view(self, rows: Tensor) -> Tensor:
        """(n, row bytes) uint8 rows seen as this leaf: (n, *shape)."""
        flat = rows[:, self.offset : self.offset + self.nbytes].view(self.dtype)
        return flat.view(rows.shape[0], *self.shape)


def pack(example: dict[str, Tensor]) -> tuple[list[Field], int]:
    """Fields for leaves of shape (N, ...) and the bytes of a row.

    Wide types come first and rows are a multiple of the widest, so that every leaf is aligned.
    """
    fields, offset = {}, 0
    for path, leaf in sorted(example.items(), key=lambda item: -item[1].dtype.itemsize):
        fields[path] = Field(path, tuple(leaf.shape[1:]), leaf.dtype, offset)
        offset += fields[path].nbytes
    align = max([4, *(field.dtype.itemsize for field in fields.values())])
    # Batches keep the order of the leaves: networks concatenate observations in it.
    return [fields[path] for path in example], -(-offset // align) * align


def nest(flat: dict[str, Tensor]) -> dict[str, Tree]:
    """The tree whose leaves have these ``/``-separated paths."""
    tree: dict[str, Tree] = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            child = node.setdefault(parent, {})
            assert isinstance(child, dict)
            node = child
        node[name] = leaf
    return tree


def flatten(step: Step) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    """The ``/``-separated paths of a transition's leaves, and the leaves, each (N, ...)."""
    parts = _parts(step)
    for part in parts:
        if type(part) is dict:
            break
    else:
        if not step.extra:
            return NAMES, parts
    tree = dict(zip(NAMES, parts, strict=True))
    if step.extra:
        tree["extra"] = dict(step.extra)
    flat = dict(leaves(tree))
    return tuple(flat), tuple(flat.values())


def mismatch(field: Field, leaf: Leaf, count: int) -> ValueError:
    """What to say of a leaf that is not as its field was at the first transition."""
    return ValueError(
        f"{field.path} is {leaf.dtype} {tuple(leaf.shape)}, "
        f"the replay holds {field.dtype} {(count, *field.shape)}"
    )
