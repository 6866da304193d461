"""Our samplers inside TorchRL's ``ReplayBuffer`` and ``TensorDictReplayBuffer``.

ReplayBuffer(
    storage=LazyTensorStorage(100_000),
    sampler=TorchRLSampler(100_000, ReshuffleSampler),
    batch_size=256,
)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlsuite.buffers import ReshuffleSampler
from rlsuite.errors import UserError
from rlsuite.samplers import PriorityWatch, made
from rlsuite.types import Sampler, State

try:
    from torchrl.data.replay_buffers import samplers as torchrl_samplers
except ImportError:
    raise UserError("TorchRL needs the torchrl extra: pip install 'rlsuite[torchrl]'") from None


class TorchRLSampler(torchrl_samplers.Sampler):  # type: ignore[misc]
    """One of our samplers as a TorchRL ``Sampler``.

    Random reshuffling stays exact while the storage fills: each item once per epoch (TorchRL's
    ``SamplerWithoutReplacement`` draws a new permutation whenever the storage grows). Priorities
    are set with ``buffer.update_priority(index, td_error)``, where the index is ``batch["index"]``
    of a ``TensorDictReplayBuffer`` or that of ``sample(return_info=True)``. Note that TorchRL's
    ``update_tensordict_priority`` does nothing for a sampler that is not its own; a warning says
    once that no priority was ever set. Importance weights are in ``priority_weight``.

    Items have to be written in order (TorchRL's round-robin writers, the default) to a storage of
    one dimension.
    """

    def __init__(
        self,
        max_capacity: int,
        sampler: Callable[[int], Sampler] = ReshuffleSampler,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        """``max_capacity`` is the ``max_size`` of the storage, ``device`` where its data lie.

        ``sampler`` is called with the seed: a class of ``rlsuite.buffers`` or a partial of one.
        Raises UserError for anything else.
        """
        self.max_capacity = max_capacity
        self.device = torch.device(device)
        self._make_sampler, self._seed = sampler, seed
        self._empty()

    def _empty(self) -> None:
        """Forget all items and begin the stream anew."""
        self._sampler = made(self._make_sampler, self._seed)
        self._sampler.prepare(self.max_capacity, self.device)
        self._next = 0
        self._watch = PriorityWatch(
            self._sampler,
            "needs buffer.update_priority(index, td_error); update_tensordict_priority does "
            "nothing for it",
        )

    def add(self, index: Any) -> None:
        """Tell that an item was written. Raises UserError unless items are written in order."""
        self.extend(index)

    def extend(self, index: Any) -> None:
        """Tell that (n,) items were written, in order.

        Raises UserError for another order or a storage of several dimensions.
        """
        if isinstance(index, tuple) or (isinstance(index, Tensor) and index.dim() > 1):
            raise UserError("TorchRLSampler needs a storage of one dimension (ndim=1)")
        written = torch.as_tensor(index).flatten().cpu()
        due = (self._next + torch.arange(len(written))) % self.max_capacity
        if not torch.equal(written, due):
            raise UserError(
                f"TorchRLSampler({self.max_capacity}) expects items to be written in order, the "
                f"next at {self._next}, not at {written[:4].tolist()}: it needs a storage with "
                f"max_size={self.max_capacity} and a round-robin writer"
            )
        for slots in self._spans(len(written)):
            self._sampler.add(slots)
        self._next = (self._next + len(written)) % self.max_capacity

    def _spans(self, count: int) -> Iterator[range]:
        """The next ``count`` slots; none reaches past the end."""
        start = self._next
        while count:
            stop = min(start + count, self.max_capacity)
            yield range(start, stop)
            count -= stop - start
            start = 0

    def sample(self, storage: Any, batch_size: int) -> tuple[Tensor, dict[str, Tensor]]:
        """(B,) int64 indices, and ``priority_weight`` (B,) float32 if the sampler has weights.

        Raises ValueError while nothing is stored.
        """
        index, weight = self._sampler.sample(batch_size)
        self._watch.sampled()
        index = index.to(self.device)
        return index, {} if weight is None else {"priority_weight": weight.to(self.device)}

    def update_priority(self, index: Any, priority: Any, *, storage: Any = None) -> None:
        """Set priorities from (B,) errors, or one error for all of (B,) indices.

        Raises ValueError for more or fewer errors or, on the CPU, an index outside the storage.
        """
        slots = torch.as_tensor(index, device=self.device).flatten()
        error = torch.as_tensor(priority, device=self.device).detach().flatten()
        self._watch.updated()
        self._sampler.update(slots, error.expand(slots.shape) if len(error) == 1 else error)

    def mark_update(self, index: Any, *, storage: Any = None) -> None:
        """Changed items keep their priority."""

    def state_dict(self) -> State:
        """All that the stream of indices depends on."""
        return {"sampler": self._sampler.state_dict(), "next": self._next}

    def load_state_dict(self, state_dict: State) -> None:
        """Continue the same stream of indices."""
        self._sampler.load_state_dict(state_dict["sampler"])
        self._next = state_dict["next"]

    def dumps(self, path: Path | str) -> None:
        """Write the state to the folder ``path``."""
        Path(path).mkdir(parents=True, exist_ok=True)
        torch.save(self.state_dict(), Path(path) / "sampler.pt")

    def loads(self, path: Path | str) -> None:
        """Read what ``dumps`` wrote (without running code from the file)."""
        self.load_state_dict(torch.load(Path(path) / "sampler.pt", weights_only=True))

    def __repr__(self) -> str:
        return f"TorchRLSampler({self.max_capacity}, {type(self._sampler).__name__})"
