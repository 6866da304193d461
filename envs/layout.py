"""How observations and actions of Gymnasium's spaces are laid out in tensors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, TypeAlias

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from rlsuite.errors import UserError
from rlsuite.types import Tree

Array: TypeAlias = NDArray[Any]

_OBSERVATION_SPACES = "Box, Discrete, MultiBinary, MultiDiscrete and Dict of them"
_CACHE_LINE = 64


def fresh(
    shape: tuple[int, ...], dtype: torch.dtype, count: int
) -> tuple[tuple[Tensor, ...], list[Array]]:
    """``count`` separate tensors of zeros, and NumPy views of them.

    They share an allocation, which is several times faster than one each. The memory is torch's and
    every tensor begins on a cache line, as it would alone: the order of sums in later kernels
    depends on alignment, so bits must not depend on NumPy's allocator or on the step.
    """
    bytes_per_row = math.prod(shape[1:]) * dtype.itemsize
    rows_per_line = _CACHE_LINE // math.gcd(_CACHE_LINE, bytes_per_row)
    rows = -(-shape[0] // rows_per_line) * rows_per_line
    block = torch.zeros((count, rows, *shape[1:]), dtype=dtype)[:, : shape[0]]
    return block.unbind(), list(block.numpy())


class Leaf(NamedTuple):
    """One tensor of an observation."""

    path: tuple[str, ...]
    """Keys from the root; empty where the observation is a bare tensor."""
    shape: tuple[int, ...]
    """Of one environment's observation."""
    dtype: torch.dtype
    """float32 for every floating space, int64 for Discrete, else the space's own."""


class ObservationLayout:
    """How observations of one space are laid out in tensors: a tree with the space's keys.

    Raises ``UserError`` for a space that is not made of Box, Discrete, MultiBinary, MultiDiscrete
    and Dict.
    """

    def __init__(self, space: gym.Space[Any]) -> None:
        self.space = space
        self.leaves = list(_observation_leaves(space, ()))
        if not self.leaves:
            raise UserError("the observation space is an empty Dict: nothing to observe")
        self.is_bare = not self.leaves[0].path
        """Whether the tree is one tensor."""

    def nbytes(self) -> int:
        """Of one environment's observation."""
        return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in self.leaves)

    def fresh(self, num_envs: int, count: int) -> tuple[list[Tree], list[list[Array]]]:
        """``count`` separate trees of (num_envs, ...) zeros, and NumPy views of their leaves."""
        blocks = [fresh((num_envs, *leaf.shape), leaf.dtype, count) for leaf in self.leaves]
        trees = [self._tree(tensors) for tensors in zip(*(b[0] for b in blocks), strict=True)]
        arrays = [list(views) for views in zip(*(b[1] for b in blocks), strict=True)]
        return trees, arrays

    def write(self, observation: Any, arrays: list[Array], row: int) -> None:
        """Store what an environment returned in row ``row`` of every leaf's array."""
        for leaf, array in zip(self.leaves, arrays, strict=True):
            array[row] = _at(observation, leaf.path)

    def check(self, observation: Any) -> None:
        """Raise ``ValueError`` if a leaf has another shape than its space says.

        NumPy would otherwise broadcast it silently.
        """
        for leaf in self.leaves:
            shape = np.shape(_at(observation, leaf.path))
            if shape != leaf.shape:
                name = "/".join(leaf.path) or "the observation"
                raise ValueError(f"{name} has shape {shape}, its space {leaf.shape}")

    def _tree(self, tensors: tuple[Tensor, ...]) -> Tree:
        if self.is_bare:
            return tensors[0]
        root: dict[str, Any] = {}
        for leaf, tensor in zip(self.leaves, tensors, strict=True):
            node = root
            for key in leaf.path[:-1]:
                node = node.setdefault(key, {})
            node[leaf.path[-1]] = tensor
        return root


def _at(observation: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        observation = observation[key]
    return observation


def _observation_leaves(space: gym.Space[Any], path: tuple[str, ...]) -> Iterator[Leaf]:
    if isinstance(space, spaces.Dict):
        for key, child in space.spaces.items():
            if not isinstance(key, str):
                raise UserError(f"observation key {key!r} is not a string; rename it to one")
            yield from _observation_leaves(child, (*path, key))
        return
    if isinstance(space, spaces.Discrete):
        yield Leaf(path, (), torch.int64)
        return
    if not isinstance(space, spaces.Box | spaces.MultiBinary | spaces.MultiDiscrete):
        name = " ".join(repr(space).split())
        where = f" at {'/'.join(path)!r}" if path else ""
        raise UserError(
            f"observation space {name}{where} is not supported; supported are "
            f"{_OBSERVATION_SPACES}: wrap the environment"
        )
    is_float = np.issubdtype(space.dtype, np.floating)
    dtype = torch.float32 if is_float else torch.from_numpy(np.empty(0, space.dtype)).dtype
    yield Leaf(path, tuple(space.shape), dtype)


def head_sizes(space: gym.Space[Any]) -> list[int]:
    """Choices of every head of a discrete space: the lengths of the parts of its mask.

    One head for Discrete, none for a space that has no masks.
    """
    if isinstance(space, spaces.Discrete):
        return [int(space.n)]
    return space.nvec.ravel().tolist() if isinstance(space, spaces.MultiDiscrete) else []


def sample_available(space: gym.Space[Any], mask: Array | None = None) -> Any:
    """A sample of Gymnasium's own generator of the space, among what ``mask`` has at 1."""
    if mask is None:
        action = space.sample()
    elif isinstance(space, spaces.Discrete):
        action = space.sample(mask=np.asarray(mask, np.int8))
    else:
        ends = np.cumsum(head_sizes(space))[:-1]
        action = space.sample(mask=tuple(np.split(np.asarray(mask, np.int8), ends)))
    return int(action) if isinstance(space, spaces.Discrete) else action


class ActionCodec:
    """Actions as (N, ...) tensors, as arrays, and as what environments take.

    Actions of a Dict space are trees with its keys. Their array is (N, D) float64, the parts side
    by side: it holds every float32 and every integer up to 2**53 exactly.

    Raises ``UserError`` unless the space is a Box of floats, Discrete, or a Dict of these and
    MultiDiscrete.
    """

    def __init__(self, space: gym.Space[Any], num_envs: int) -> None:
        self.space = space
        self._heads: dict[str, _Head] = {}
        if isinstance(space, spaces.Dict) and space.spaces:
            self._heads = {name: _Head(child, num_envs) for name, child in space.spaces.items()}
            self.dtype: np.dtype[Any] = np.dtype(np.float64)
            self.shape: tuple[int, ...] = (num_envs, sum(h.size for h in self._heads.values()))
            return
        self._bare = _Head(space, num_envs)
        if isinstance(space, spaces.MultiDiscrete):
            raise _unsupported_action(space)
        self.dtype, self.shape = self._bare.dtype, self._bare.shape

    def encode(self, action: Tree) -> Array:
        """A fresh array of ``shape`` and ``dtype`` of tensors anywhere.

        Raises ``ValueError`` if a shape or a key is another one, or if discrete actions are floats.
        """
        if not self._heads:
            return self._bare.encode(action)
        if not isinstance(action, dict) or action.keys() != self._heads.keys():
            got = list(action) if isinstance(action, dict) else type(action).__name__
            raise ValueError(f"actions must have the keys {list(self._heads)}, not {got}")
        array = np.empty(self.shape, self.dtype)
        start = 0
        for name, head in self._heads.items():
            array[:, start : start + head.size] = head.encode(action[name]).reshape(-1, head.size)
            start += head.size
        return array

    def decode(self, actions: Array) -> Iterable[Any]:
        """(n, ...) encoded actions as environments take them: they may keep or change them."""
        if not self._heads:
            return self._bare.decode(actions)
        parts = []
        start = 0
        for head in self._heads.values():
            columns = actions[:, start : start + head.size].astype(head.dtype)
            parts.append(head.decode(columns.reshape(-1, *head.shape[1:])))
            start += head.size
        return [dict(zip(self._heads, row, strict=True)) for row in zip(*parts, strict=True)]

    def sample(self, random: torch.Generator, obs: Tree | None = None) -> Tree:
        """(N, ...) uniform actions: float32 within a Box, int64 if discrete.

        For a Dict space, discrete actions are uniform among those that ``obs["mask"][name]``, if it
        is there, has at 1. Raises ``UserError`` if a Box is unbounded.
        """
        if not self._heads:
            return self._bare.sample(random)
        masks = obs.get("mask") if isinstance(obs, dict) else None
        masks = masks if isinstance(masks, dict) else {}
        return {name: head.sample(random, masks.get(name)) for name, head in self._heads.items()}


def _unsupported_action(space: gym.Space[Any]) -> UserError:
    name = " ".join(repr(space).split())
    return UserError(
        f"action space {name} is not supported; supported are Box of floats, Discrete, and Dict of "
        "these and MultiDiscrete: wrap the environment"
    )


class _Head:
    """One space that is not a Dict."""

    def __init__(self, space: gym.Space[Any], num_envs: int) -> None:
        is_box = isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating)
        if not is_box and not isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
            raise _unsupported_action(space)
        self.space = space
        self.dtype = np.dtype(space.dtype if is_box else np.int64)
        self.shape = (num_envs, *(space.shape or ()))
        self.size = math.prod(self.shape[1:])

    def encode(self, action: Tree) -> Array:
        if not isinstance(action, Tensor):
            raise ValueError(f"actions must be a tensor, not {type(action).__name__}")
        if action.requires_grad or not action.is_cpu:
            action = action.detach().cpu()
        array: Array = action.numpy()
        if array.shape != self.shape:
            raise ValueError(f"actions must have the shape {self.shape}, not {array.shape}")
        if array.dtype.kind == "f" and self.dtype.kind != "f":
            raise ValueError("Discrete actions must be integers")
        return array.astype(self.dtype)

    def decode(self, actions: Array) -> Iterable[Any]:
        # NumPy's integers would overflow where Python's do not.
        return actions.tolist() if isinstance(self.space, spaces.Discrete) else actions.copy()

    def sample(self, random: torch.Generator, mask: Tree | None = None) -> Tensor:
        if isinstance(self.space, spaces.Box):
            return self._sample_box(random)
        assert isinstance(self.space, spaces.Discrete | spaces.MultiDiscrete)
        start = torch.as_tensor(self.space.start)
        if mask is None:
            sizes = head_sizes(self.space)
            if isinstance(self.space, spaces.Discrete):
                return torch.randint(sizes[0], self.shape, generator=random) + start
            return (
                torch.stack(
                    [torch.randint(n, self.shape[:1], generator=random) for n in sizes], 1
                ).view(self.shape)
                + start
            )
        assert isinstance(mask, Tensor)
        heads = torch.split(mask.to(torch.float32), head_sizes(self.space), dim=1)
        chosen = torch.cat([torch.multinomial(head, 1, generator=random) for head in heads], 1)
        return chosen.view(self.shape) + start

    def _sample_box(self, random: torch.Generator) -> Tensor:
        low = torch.tensor(self.space.low, dtype=torch.float32)  # type: ignore[attr-defined]
        high = torch.tensor(self.space.high, dtype=torch.float32)  # type: ignore[attr-defined]
        if not bool((low.isfinite() & high.isfinite()).all()):
            raise UserError(
                "cannot draw uniform actions from an unbounded Box; wrap the environment in "
                "gymnasium.wrappers.RescaleAction or give its action space finite bounds"
            )
        unit = torch.rand(self.shape, generator=random)
        # The product is rounded, so it could leave the Box by the last bit.
        return (low + unit * (high - low)).clamp(low, high)
