"""Trees: tensors, or nested dicts of tensors. A dict's order is its insertion order."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from rlsuite.types import Tree


def leaves(tree: Tree, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield (path, tensor); the path of a bare tensor is ``prefix``, keys are joined by ``/``."""
    if not isinstance(tree, dict):
        yield prefix, tree
        return
    for key, child in tree.items():
        yield from leaves(child, f"{prefix}/{key}" if prefix else key)


def map_tree(function: Callable[[Tensor], Tensor], tree: Tree) -> Tree:
    """The tree of ``function(leaf)``."""
    if isinstance(tree, Tensor):
        return function(tree)
    return {key: map_tree(function, child) for key, child in tree.items()}


def flatten_features(tree: Tree) -> Tensor:
    """(B, ...) leaves, each flattened to float32, side by side in the tree's order: (B, D)."""
    flat = [leaf.reshape(leaf.shape[0], -1).to(torch.float32) for _, leaf in leaves(tree)]
    return flat[0] if len(flat) == 1 else torch.cat(flat, dim=1)


def to_device(tree: Tree, device: torch.device) -> Tree:
    """The tree on ``device``; copies to a device do not wait."""
    return map_tree(lambda leaf: leaf.to(device, non_blocking=True), tree)
