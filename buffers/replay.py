"""Ring storage on any device, put together with a sampler."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import psutil
import torch
from torch import Tensor

from rlsuite.errors import UserError
from rlsuite.tree import leaves
from rlsuite.types import Batch, Chunk, Sampler, State, Step, Tree

SEGMENT_BYTES = 4 * 2**20
"""Rows are saved in pieces of about this size; a piece is written again only if it changed."""


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


@dataclass(frozen=True, slots=True)
class Output:
    """Preallocated memory for batches of one size."""

    rows: Tensor
    """(B * n_step, row bytes) uint8."""
    leaves: dict[str, Tensor]
    """Views of ``rows``: (B, ...) if n_step is 1, else (B, n_step, ...)."""
    last: dict[str, Tensor]
    """If n_step > 1: the batch's leaves that come from the last row of the sum."""
    batch: Batch
    """What is handed out; views of ``rows`` but for ``last`` and the sum of rewards."""


class Replay:
    """The last ``capacity`` transitions of N environments, on ``device``.

    A transition is one packed row, so that a batch costs one gather. ``next_obs`` is stored with
    its transition: it is the true successor at truncations too, and every row can be sampled.
    Slot ``t * N + i`` holds step t (modulo the ring) of environment i.

    n-step sums (``n_step`` > 1) are taken when sampling: from row t on, up to the first end of an
    episode, the newest row or n rows, whichever comes first.
    """

    def __init__(
        self,
        capacity: int,
        sampler: Sampler,
        *,
        num_envs: int = 1,
        device: torch.device | str = "cpu",
        n_step: int = 1,
        discount: float = 0.99,
    ) -> None:
        """``capacity`` transitions, rounded up to a multiple of ``num_envs``.

        Memory is taken at the first ``add``, which tells the shapes. Raises ValueError for sizes
        below one or a discount outside [0, 1].
        """
        if min(capacity, num_envs, n_step) < 1 or not 0 <= discount <= 1:
            raise ValueError(
                "need capacity, num_envs, n_step >= 1 and discount in [0, 1]: got "
                f"{capacity}, {num_envs}, {n_step}, {discount}"
            )
        self.steps = -(-capacity // num_envs)
        self.capacity = self.steps * num_envs
        self.num_envs = num_envs
        self.device = torch.device(device)
        self.n_step = n_step
        self.discount = discount
        self.sampler = sampler
        self.steps_added = 0
        """Vectorised steps ever added; the write head is this modulo ``steps``."""
        self.cuts = 0
        self._fields: list[Field] = []
        self._rows = torch.empty(0, 0, dtype=torch.uint8, device=self.device)
        self._columns: dict[str, Tensor] = {}
        self._outputs: dict[int, Output] = {}

    def __len__(self) -> int:
        """Transitions that can be sampled."""
        return min(self.steps_added, self.steps) * self.num_envs

    @property
    def nbytes(self) -> int:
        """Bytes of the storage (0 before the first ``add``)."""
        return self._rows.nbytes

    def add(self, step: Step) -> None:
        """Store one vectorised transition; the oldest goes when the ring is full.

        Leaves may be on any device. Shapes and dtypes must stay those of the first transition;
        ValueError names a leaf that differs.
        """
        flat = _flatten(step)
        if not self._fields:
            self._allocate(*pack(flat))
        if flat.keys() != self._columns.keys():
            odd = sorted(flat.keys() ^ self._columns.keys())
            raise ValueError(f"the transition's leaves changed: {', '.join(odd)}")
        start = self.steps_added % self.steps * self.num_envs
        for path, leaf in flat.items():
            column = self._columns[path]
            expected = (self.num_envs, *column.shape[1:])
            if leaf.shape != expected or leaf.dtype != column.dtype:
                raise ValueError(
                    f"{path} is {leaf.dtype} {tuple(leaf.shape)}, "
                    f"the replay holds {column.dtype} {expected}"
                )
            column[start : start + self.num_envs].copy_(leaf, non_blocking=True)
        self.sampler.add(range(start, start + self.num_envs))
        self.steps_added += 1

    def sample(self, n: int) -> Batch:
        """``n`` transitions, as the sampler chooses.

        The batch lives in memory that the next ``sample`` of the same size overwrites: clone what
        has to last. Raises ValueError while nothing is stored.
        """
        slots, weight = self.sampler.sample(n)
        output = self._outputs.get(n) or self._output(n)
        batch = output.batch
        batch.index.copy_(slots, non_blocking=True)
        if weight is not None:
            batch.weight.copy_(weight, non_blocking=True)
        if self.n_step > 1:
            return self._sum_steps(slots, output)
        torch.index_select(self._rows, 0, batch.index, out=output.rows)
        torch.mul(~batch.terminated, self.discount, out=batch.discount)
        return batch

    def update(self, batch: Batch, priority: Tensor | None) -> None:
        """Hand (B,) priorities of a sampled batch to the sampler."""
        if priority is not None:
            self.sampler.update(batch.index, priority)

    def cut(self, envs: list[int]) -> None:
        """Mark the newest transition of these environments truncated: the next does not follow."""
        if self.steps_added and envs:
            self.cuts += 1
            start = (self.steps_added - 1) % self.steps * self.num_envs
            for env in envs:
                row = self._columns["truncated"][start + env]
                row.copy_(row | ~self._columns["terminated"][start + env])

    def _sum_steps(self, slots: Tensor, output: Output) -> Batch:
        """n-step targets: R = sum over k < m of discount**k r_{t+k}, then bootstrap from row t+m-1.

        m <= n_step counts the rows until the episode's end or the newest row, both included.
        """
        step, env = slots // self.num_envs, slots % self.num_envs
        newest = (self.steps_added - 1 - step) % self.steps
        ahead = torch.arange(self.n_step)
        rows = (step[:, None] + ahead) % self.steps * self.num_envs + env[:, None]
        stored = (ahead <= newest[:, None]).to(self.device, non_blocking=True)
        index = rows.flatten().to(self.device, non_blocking=True)
        torch.index_select(self._rows, 0, index, out=output.rows)

        leaf, batch = output.leaves, output.batch
        ended = (leaf["terminated"] | leaf["truncated"]).to(torch.int32)
        alive = stored & (ended.cumsum(1) - ended == 0)
        spanned = alive.sum(1)
        powers = self.discount ** torch.arange(
            self.n_step + 1, dtype=torch.float32, device=self.device
        )
        # Rows not yet written hold anything, also NaN, which a product would let through.
        reward = torch.where(alive, leaf["reward"], 0.0)
        batch.reward.copy_(  # type: ignore[union-attr]
            (reward * powers[:-1]).sum(1)
        )
        lane = torch.arange(len(slots), device=self.device)
        for path, target in output.last.items():
            target.copy_(leaf[path][lane, spanned - 1])
        batch.discount.copy_(powers[spanned] * ~batch.terminated)
        return batch

    def _allocate(self, fields: list[Field], row_bytes: int) -> None:
        needed = self.capacity * row_bytes
        available = _available_bytes(self.device)
        if needed > available:
            raise UserError(
                f"a replay of {self.capacity:,} transitions of {row_bytes:,} bytes needs "
                f"{needed / 2**30:.1f} GiB, {available / 2**30:.1f} GiB are free on {self.device}: "
                f"set replay.capacity to {int(0.8 * available / row_bytes):,} or less"
            )
        self._fields = fields
        # Zeros, so that equal transitions are equal bytes, also between their leaves.
        self._rows = torch.zeros(self.capacity, row_bytes, dtype=torch.uint8, device=self.device)
        self._columns = {field.path: field.view(self._rows) for field in fields}

    def _output(self, n: int) -> Output:
        rows = torch.empty(
            n * self.n_step, self._rows.shape[1], dtype=torch.uint8, device=self.device
        )
        views = {field.path: field.view(rows) for field in self._fields}
        first, last = views, {}
        if self.n_step > 1:
            views = {
                path: leaf.view(n, self.n_step, *leaf.shape[1:]) for path, leaf in views.items()
            }
            first = {path: leaf[:, 0] for path, leaf in views.items()}
            first["reward"] = torch.empty(n, device=self.device)
            for path, leaf in first.items():
                if path.split("/")[0] in ("next_obs", "terminated", "truncated"):
                    last[path] = torch.empty_like(leaf)
            first |= last
        tree = nest(first)
        extra = tree.pop("extra", {})
        batch = Batch(
            **tree,  # type: ignore[arg-type]
            extra=extra,  # type: ignore[arg-type]
            discount=torch.empty(n, device=self.device),
            index=torch.empty(n, dtype=torch.int64, device=self.device),
            weight=torch.ones(n, device=self.device),
        )
        self._outputs[n] = Output(rows, views, last, batch)
        return self._outputs[n]

    def state_dict(self) -> State:
        """Rows in pieces that a checkpoint writes only if they changed, and the sampler."""
        return {
            "steps_added": self.steps_added,
            "cuts": self.cuts,
            "capacity": self.capacity,
            "num_envs": self.num_envs,
            "row_bytes": self._rows.shape[1],
            "fields": [
                [f.path, list(f.shape), str(f.dtype).removeprefix("torch."), f.offset]
                for f in self._fields
            ],
            "rows": {f"{a:012d}": self._segment(a, b) for a, b in self._segments()},
            "sampler": self.sampler.state_dict(),
        }

    def load_state_dict(self, state: State) -> None:
        """Hold the same transitions and continue the same stream of batches.

        Raises UserError if the state is of a replay of another size.
        """
        for key in ("capacity", "num_envs"):
            if state[key] != getattr(self, key):
                raise UserError(
                    f"the saved replay has {key} {state[key]}, this one {getattr(self, key)}"
                )
        self.steps_added, self.cuts = state["steps_added"], state["cuts"]
        self.sampler.load_state_dict(state["sampler"])
        if not state["fields"]:
            return
        fields = [
            Field(path, tuple(shape), getattr(torch, dtype), offset)
            for path, shape, dtype, offset in state["fields"]
        ]
        self._allocate(fields, state["row_bytes"])
        for start, chunk in state["rows"].items():
            rows = chunk.tensors["rows"]
            self._rows[int(start) : int(start) + len(rows)].copy_(rows)

    def _segments(self) -> Sequence[tuple[int, int]]:
        size = max(1, SEGMENT_BYTES // max(1, self._rows.shape[1]))
        return [(a, min(a + size, len(self))) for a in range(0, len(self), size)]

    def _segment(self, start: int, stop: int) -> Chunk:
        """Named by when it was last written, so that an equal name means equal bytes."""
        head = (self.steps_added - 1) % self.steps
        last = self.steps_added - 1 - head + (stop - 1) // self.num_envs
        if start // self.num_envs <= head < (stop - 1) // self.num_envs:
            last = self.steps_added - 1
        elif last >= self.steps_added:
            last -= self.steps
        return Chunk(f"rows-{start}-{last}-{self.cuts}", {"rows": self._rows[start:stop]})


def _flatten(step: Step) -> dict[str, Tensor]:
    flat: dict[str, Tensor] = {}
    for name in ("obs", "action", "reward", "next_obs", "terminated", "truncated"):
        flat.update(leaves(getattr(step, name), name))
    if step.extra:
        flat.update(leaves(dict(step.extra), "extra"))
    return flat


def _available_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return int(psutil.virtual_memory().available)
