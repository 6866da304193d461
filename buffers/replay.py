"""Ring storage on any device, put together with a sampler."""

from __future__ import annotations

from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rlsuite.buffers.frames import FrameStacks, Pending
from rlsuite.buffers.output import Output, allocate
from rlsuite.buffers.ring import Ring
from rlsuite.buffers.rows import Field, flatten, mismatch, nest, pack
from rlsuite.errors import UserError
from rlsuite.types import Batch, Sampler, State, Step

if TYPE_CHECKING:
    from rlsuite.buffers.compiled_rows import CompiledRows

KEPT_OUTPUTS = 4
"""Sizes of batches whose memory is kept for the next of the same size."""


class Sequences(NamedTuple):
    """``B`` pieces of episodes, ``L`` transitions each."""

    batch: Batch
    """Leaves are (B, L, ...), but for index and weight: (B,), of the first transition."""
    mask: Tensor
    """(B, L) bool: False after the episode's end and from the newest transition on."""

    def priority(self, td_error: Tensor, *, burn_in: int = 0, share: float = 0.9) -> Tensor:
        """(B,) priorities of the pieces, for ``Replay.update``: ``share`` of the greatest absolute
        error and the rest of the mean one (R2D2, Kapturowski et al. 2019, section 2.3).

        Of (B, L) ``td_error`` count those after the first ``burn_in`` that ``mask`` leaves; without
        any the priority is 0. Raises ValueError unless ``burn_in`` leaves something of L.
        """
        if not 0 <= burn_in < self.mask.shape[1]:
            length = self.mask.shape[1]
            raise ValueError(
                f"burn_in must be in [0, {length}), pieces are {length} long: {burn_in}"
            )
        counts = self.mask[:, burn_in:]
        error = torch.where(counts, td_error[:, burn_in:].abs(), 0.0)
        mean = error.sum(1) / counts.sum(1).clamp(min=1)
        return share * error.amax(1) + (1 - share) * mean


class Replay:
    """The last ``capacity`` transitions of N environments, on ``device``.

    A transition is one packed row, so that a batch costs one gather. ``next_obs`` is stored with
    its transition: it is the true successor at truncations too, and every row can be sampled.
    Transitions are stored in the order they come; slot k (modulo the ring) is of environment
    k % N. All N may come in one ``add``, or groups of them in turn.

    n-step sums (``n_step`` > 1) are taken when sampling: from a row on, up to the first end of an
    episode, the newest row or n rows, whichever comes first.

    With ``frame_stack`` S > 1 observations are stacks of S frames, (N, S, ...), the newest last:
    each frame is stored once, and stacks are put together on the device when sampling. Should
    episodes be so short that their first frames fill the room for frames, the oldest transitions
    are given up early.
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
        frame_stack: int = 1,
        directory: Path | str | None = None,
    ) -> None:
        """``capacity`` transitions, rounded up to a multiple of ``num_envs``.

        Memory is taken at the first ``add``, which tells the shapes. With ``directory`` the data
        are in a file there, for a replay that is larger than memory (CPU only). Raises ValueError
        for sizes that are no whole numbers from 1 on, a discount outside [0, 1] or what is no
        sampler, UserError for a directory with another device than the CPU.
        """
        sizes = (capacity, num_envs, n_step, frame_stack)
        if (
            not all(isinstance(size, Integral) for size in sizes)
            or min(sizes) < 1
            or not 0 <= discount <= 1
        ):
            raise ValueError(
                "need whole numbers capacity, num_envs, n_step, frame_stack >= 1 and discount in "
                f"[0, 1]: got {capacity}, {num_envs}, {n_step}, {frame_stack}, {discount}"
            )
        if isinstance(sampler, type) or not hasattr(sampler, "sample"):
            raise ValueError(f"sampler is {sampler!r} but should be one, as ReshuffleSampler() is")
        self.steps = -(-capacity // num_envs)
        self.capacity = self.steps * num_envs
        self.num_envs = num_envs
        self.device = torch.device(device)
        if directory is not None and self.device.type != "cpu":
            raise UserError(f"replay.directory needs run.device cpu, not {self.device}")
        self.directory = None if directory is None else Path(directory)
        self.n_step = n_step
        self.discount = discount
        self._discounts = torch.tensor([0.0, discount], device=self.device).unbind()
        """0-d, of what follows a terminated transition, and any other."""
        self.frame_stack = frame_stack
        self.sampler = sampler
        self._fields: list[Field] = []
        self._ring: Ring
        self._frames: FrameStacks | None = None
        self._first = 0
        """The oldest transition that can be sampled, counted from the first ever added."""
        self._oldest_frame = np.empty(0, np.int64)
        """By slot, the oldest frame that it needs, counted from the first ever stored."""
        self._paths: tuple[str, ...] = ()
        """Of the fields, in their order."""
        self._columns: dict[str, Tensor] = {}
        self._compiled: CompiledRows | None = None
        """On the CPU, without stacks; else columns are copied one by one."""
        self._outputs: dict[int, Output] = {}

    @property
    def written(self) -> int:
        """Transitions ever added; the write head is this modulo ``capacity``."""
        return self._ring.written if self._fields else 0

    def __len__(self) -> int:
        """Transitions that can be sampled."""
        return self.written - max(self._first, self.written - self.capacity)

    @property
    def nbytes(self) -> int:
        """Bytes of the storage (0 before the first ``add``)."""
        rows = self._ring.rows.nbytes if self._fields else 0
        return rows + (self._frames.ring.rows.nbytes if self._frames else 0)

    def add(self, step: Step) -> None:
        """Store one vectorised transition, of all environments or of the next group of them.

        The oldest go when the ring is full. Leaves are tensors on any device (stacks of frames on
        the CPU) or NumPy arrays, which cost less. Shapes and dtypes must stay those of the first
        transition; ValueError names a leaf that differs.
        """
        count = step.terminated.shape[0]
        if count == 0:
            return
        written = self._ring.written if self._fields else 0
        env = written % self.num_envs
        if env + count > self.num_envs:
            raise ValueError(f"got {count} transitions at environment {env} of {self.num_envs}")
        paths, leaves = flatten(step)
        frames = pending = None
        if self.frame_stack > 1:
            given = dict(zip(paths, leaves, strict=True))
            frames, pending, flat = self._plan_frames(given, range(env, env + count))
            paths, leaves = tuple(flat), tuple(flat.values())
        if not self._fields:
            self._begin(dict(zip(paths, map(torch.as_tensor, leaves), strict=True)), count)
        if paths != self._paths:
            leaves = self._in_order(dict(zip(paths, leaves, strict=True)))
        start = written % self.capacity
        if self._compiled is not None:
            self._compiled.write(leaves, start, count)
        else:
            self._copy([torch.as_tensor(leaf).detach() for leaf in leaves], start, count)
        self._ring.written += count
        if frames and pending:
            # Only now: had the row been refused, frames of the oldest would be overwritten.
            if self._frames is None:
                self._frames, self._oldest_frame = frames, np.zeros(self.capacity, np.int64)
            frames.store(pending)
            self._oldest_frame[start : start + count] = pending.frames.min()
        self.sampler.add(range(start, start + count))
        if frames:
            self._give_up(count)

    def _in_order(self, flat: dict[str, Any]) -> tuple[Any, ...]:
        if flat.keys() != self._columns.keys():
            odd = sorted(flat.keys() ^ self._columns.keys())
            raise ValueError(f"the transition's leaves changed: {', '.join(odd)}")
        return tuple(flat[path] for path in self._paths)

    def _copy(self, leaves: list[Tensor], start: int, count: int) -> None:
        for field, leaf in zip(self._fields, leaves, strict=True):
            if leaf.dtype != field.dtype or leaf.shape != (count, *field.shape):
                raise mismatch(field, leaf, count)
        for path, leaf in zip(self._paths, leaves, strict=True):
            self._columns[path][start : start + count].copy_(leaf, non_blocking=True)

    def _begin(self, example: dict[str, Tensor], count: int) -> None:
        """Take the memory for transitions like the first."""
        for path, leaf in example.items():
            if leaf.shape[:1] != (count,):
                raise ValueError(f"{path} is {tuple(leaf.shape)}, of {count} transitions")
        self._allocate(*pack(example))

    def _plan_frames(
        self, flat: dict[str, Any], envs: range
    ) -> tuple[FrameStacks, Pending, dict[str, Any]]:
        """The stacks, what they will store, and a row in which numbers of frames stand for both
        observations."""
        obs, next_obs = flat.get("obs"), flat.get("next_obs")
        if obs is None or next_obs is None or obs.ndim < 3 or obs.shape[1] != self.frame_stack:
            found = "a dict" if obs is None else f"{tuple(obs.shape)}"
            raise ValueError(f"frame_stack {self.frame_stack} needs (N, S, ...) obs, not {found}")
        obs, next_obs = torch.as_tensor(obs), torch.as_tensor(next_obs)
        rest = {path: leaf for path, leaf in flat.items() if path not in ("obs", "next_obs")}
        frames = self._frames
        if frames is None:
            row = {"frames": torch.empty(1, self.frame_stack + 1, dtype=torch.int32), **rest}
            frames = FrameStacks(
                self.capacity,
                obs,
                self.num_envs,
                self.device,
                self.directory,
                beside=self.capacity * pack(row)[1],
            )
        pending = frames.plan(envs, obs, next_obs)
        return frames, pending, {"frames": frames.places(pending), **rest}

    def _give_up(self, count: int) -> None:
        """Drop the oldest transitions, about ``count`` at once, until no frame of any is missing.

        An environment's transitions need ever newer frames, but another environment's may need
        older ones than its predecessor in the ring: the oldest of each are looked at.
        """
        assert self._frames
        self._first = max(self._first, self.written - self.capacity)
        while True:
            oldest = np.arange(self._first, min(self._first + self.num_envs, self.written))
            if self._oldest_frame[oldest % self.capacity].min() >= self._frames.oldest():
                return
            start = self._first % self.capacity
            stop = min(start + count, self.capacity)
            self.sampler.drop(range(start, stop))
            self._first += stop - start

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
            self._sum_steps(output)
        else:
            self._gather(batch.index, output)
            self._bootstrap(output)
            if self._frames:
                self._frames.stacks(output.leaves["frames"].flatten(), output.frames)
        return batch

    def _gather(self, rows: Tensor, output: Output) -> None:
        if self._compiled is None or output.arrays is None:
            torch.index_select(self._ring.rows, 0, rows, out=output.rows)
        else:
            index = output.arrays.slots if rows is output.batch.index else rows.numpy()
            self._compiled.gather(index, output.arrays.rows)

    def _bootstrap(self, output: Output) -> None:
        """Set the batch's discounts, of single transitions."""
        batch = output.batch
        if self._compiled is None or output.arrays is None:
            torch.where(batch.terminated, *self._discounts, out=batch.discount)
        else:
            self._compiled.bootstrap(
                output.arrays.terminated, self.discount, output.arrays.discount
            )

    def update(self, batch: Batch, priority: Tensor | None) -> None:
        """Hand (B,) priorities of a sampled batch to the sampler.

        Raises ValueError for another number of them, if the sampler looks at priorities.
        """
        if priority is not None:
            self.sampler.update(batch.index, priority)

    def cut(self, envs: list[int]) -> None:
        """Mark the newest transition of these environments truncated: the next does not follow."""
        if not (self.written and envs):
            return
        self._ring.rewrites += 1
        for env in envs:
            newest = self.written - 1 - (self.written - 1 - env) % self.num_envs
            if newest >= 0:
                row = self._columns["truncated"][newest % self.capacity]
                row.copy_(row | ~self._columns["terminated"][newest % self.capacity])

    def sequences(self, n: int, length: int) -> Sequences:
        """``n`` pieces of ``length`` transitions that follow each other in one environment.

        The first ones are as the sampler chooses. An agent warms its memory up on the first
        transitions of a piece (burn-in) and learns from the others. The batch is freshly
        allocated; its rewards are single steps'. Where the sampler is prioritized, a piece has the
        priority of its first transition: ``Sequences.priority`` makes one of all its errors. Raises
        ValueError while nothing is stored.
        """
        slots, weight = self.sampler.sample(n)
        index = slots.to(self.device, non_blocking=True)
        rows, stored = self._window(index, length)
        gathered = self._ring.rows.index_select(0, rows.flatten())
        flat = {f.path: f.view(gathered).view(n, length, *f.shape) for f in self._fields}
        if self._frames:
            numbers = flat.pop("frames")
            flat = {**self._frames.pairs(numbers[..., :-1], numbers[..., 1:]), **flat}
        ended = (flat["terminated"] | flat["truncated"]).to(torch.int32)
        mask = stored & (ended.cumsum(1) - ended == 0)
        weight = torch.ones(n) if weight is None else weight
        tree = nest(flat)
        batch = Batch(
            **{"extra": {}, **tree},  # type: ignore[arg-type]
            discount=self.discount * ~flat["terminated"],
            index=index,
            weight=weight.to(self.device, non_blocking=True),
        )
        return Sequences(batch, mask)

    def _window(self, slots: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """(B, length) slots of the same environment from (B,) ``slots`` on; which are stored."""
        ahead = torch.arange(length, device=self.device)
        follow = (self.written - 1 - slots) % self.capacity // self.num_envs
        rows = (slots[:, None] + ahead * self.num_envs) % self.capacity
        return rows, ahead <= follow[:, None]

    def _sum_steps(self, output: Output) -> None:
        """n-step targets: R = sum over k < m of discount**k r_{t+k}, then bootstrap from row t+m-1.

        m <= n_step counts the rows until the episode's end or the newest row, both included.
        """
        leaf, batch = output.leaves, output.batch
        rows, stored = self._window(batch.index, self.n_step)
        self._gather(rows.flatten(), output)

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
        lane = torch.arange(len(spanned), device=self.device)
        for path, target in output.last.items():
            target.copy_(leaf[path][lane, spanned - 1])
        batch.discount.copy_(powers[spanned] * ~batch.terminated)
        if self._frames:
            numbers = leaf["frames"]
            both = torch.cat([numbers[:, 0, :-1], numbers[lane, spanned - 1, 1:]], 1)
            self._frames.stacks(both.flatten(), output.frames)

    def _allocate(self, fields: list[Field], row_bytes: int) -> None:
        self._ring = Ring("transitions", self.capacity, row_bytes, self.device, self.directory)
        self.sampler.prepare(self.capacity, self.device)
        self._fields = fields
        self._paths = tuple(field.path for field in fields)
        self._columns = {field.path: field.view(self._ring.rows) for field in fields}
        # With stacks the rows are the least of it, and numba would take a tenth of the memory.
        if self.device.type == "cpu" and self.frame_stack == 1:
            from rlsuite.buffers.compiled_rows import (
                CompiledRows,  # numba takes half a second to import
            )

            self._compiled = CompiledRows(fields, self._ring.rows.numpy())

    def _output(self, n: int) -> Output:
        if len(self._outputs) == KEPT_OUTPUTS:
            del self._outputs[next(iter(self._outputs))]
        self._outputs[n] = allocate(n, self._fields, self._ring.rows, self._frames, self.n_step)
        return self._outputs[n]

    def state_dict(self) -> State:
        """Rows and frames in pieces that a checkpoint writes only if they changed; the sampler."""
        return {
            "capacity": self.capacity,
            "num_envs": self.num_envs,
            "fields": [
                [f.path, list(f.shape), str(f.dtype).removeprefix("torch."), f.offset]
                for f in self._fields
            ],
            "row_bytes": self._ring.rows.shape[1] if self._fields else 0,
            "ring": self._ring.state_dict() if self._fields else {},
            "first": self._first,
            "oldest_frame": torch.from_numpy(self._oldest_frame.copy()),
            "frames": self._frames.state_dict() if self._frames else {},
            "sampler": self.sampler.state_dict() if self._fields else {},
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
        if not state["fields"]:
            return
        fields = [
            Field(path, tuple(shape), getattr(torch, dtype), offset)
            for path, shape, dtype, offset in state["fields"]
        ]
        if state["frames"]:
            self._frames = FrameStacks.restored(
                state["frames"],
                self.capacity,
                self.num_envs,
                self.device,
                self.directory,
                beside=self.capacity * state["row_bytes"],
            )
        self._allocate(fields, state["row_bytes"])
        self.sampler.load_state_dict(state["sampler"])
        self._ring.load_state_dict(state["ring"])
        self._first = state["first"]
        self._oldest_frame = state["oldest_frame"].numpy().copy()
