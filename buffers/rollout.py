"""Storage of a rollout: ``T`` steps of ``N`` environments on the agent's device."""

from __future__ import annotations

import torch
from torch import Tensor

from rlsuite.tree import map_tree
from rlsuite.types import Rollout, State, Step, Tree

FIELDS = ("obs", "action", "reward", "next_obs", "terminated", "truncated", "extra")


class RolloutStorage:
    """A ``RolloutMemory``: every field of ``Step`` in a tree of (T, N, ...) tensors.

    They are allocated when the first step shows their shapes, and written again by every rollout.
    """

    def __init__(self, steps: int, device: torch.device | str = "cpu") -> None:
        self.steps = steps
        """T."""
        self.device = torch.device(device)
        self.written = 0
        """Steps of the rollout under way; T when it is full."""
        self._data: dict[str, Tree] = {}

    def add(self, step: Step) -> None:
        """Store one step of all environments; after a full rollout the first of the next one."""
        row: Tree = {name: getattr(step, name) for name in FIELDS}
        if not self._data:
            self._data = self._allocate(row)
        self.written %= self.steps
        _copy(self._data, self.written, row)
        self.written += 1

    def is_full(self) -> bool:
        """Whether it has all its steps."""
        return self.written == self.steps

    def take(self) -> Rollout:
        """The full rollout: the storage itself, valid until the next ``add``.

        Raises ``ValueError`` if it is not full.
        """
        if not self.is_full():
            raise ValueError(f"the rollout has {self.written} of {self.steps} steps")
        return Rollout(**self._data)  # type: ignore[arg-type]

    def cut(self, envs: list[int]) -> None:
        """Mark the newest step of these environments truncated: what comes next does not follow."""
        if envs and 0 < self.written < self.steps:
            truncated, terminated = self._data["truncated"], self._data["terminated"]
            assert isinstance(truncated, Tensor) and isinstance(terminated, Tensor)
            newest = self.written - 1
            for env in envs:
                truncated[newest, env] |= ~terminated[newest, env]

    def state_dict(self) -> State:
        """The steps of the rollout under way. A full one has been learned from: it is not kept."""
        n = self.written % self.steps
        return {"data": map_tree(lambda leaf: leaf[:n], self._data) if n else {}, "written": n}

    def load_state_dict(self, state: State) -> None:
        """Continue the rollout under way."""
        self.written = state["written"]
        if self.written:
            self._data = self._allocate(map_tree(lambda leaf: leaf[0], state["data"]))
            _copy(self._data, slice(self.written), state["data"])

    def _allocate(self, row: Tree) -> dict[str, Tree]:
        def zeros(leaf: Tensor) -> Tensor:
            return torch.zeros((self.steps, *leaf.shape), dtype=leaf.dtype, device=self.device)

        data = map_tree(zeros, row)
        assert isinstance(data, dict)
        return data


def _copy(data: Tree, at: int | slice, rows: Tree) -> None:
    if isinstance(data, Tensor):
        assert isinstance(rows, Tensor)
        data[at].copy_(rows, non_blocking=True)
        return
    assert isinstance(rows, dict)
    for name, child in data.items():
        _copy(child, at, rows[name])
