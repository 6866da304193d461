"""Stacks of frames, each frame stored once."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlsuite.buffers.ring import Ring
from rlsuite.types import State


class Pending(NamedTuple):
    """Transitions of M environments that were found right, and are not stored yet."""

    envs: range
    next_obs: Tensor
    """(M, S, *frame) the stacks to go on from."""
    new: list[Tensor]
    """Frames to store."""
    frames: NDArray[np.int64]
    """(M, S + 1) a transition's frames, the last S of them the successor's, as numbers counted from
    the first ever stored."""


class FrameStacks:
    """Stacks of S frames of N environments, as numbers of frames in a ring where each is once.

    A stack that goes on from the environment's last one by a frame costs one frame; any other is
    stored whole, equal neighbours once (the padding at an episode's start). Whether it goes on is
    seen from the frames themselves, so that what comes out is always what went in.
    """

    def __init__(
        self,
        capacity: int,
        stack: Tensor,
        num_envs: int,
        device: torch.device,
        directory: Path | None,
        *,
        beside: int,
    ) -> None:
        """Room for ``capacity`` frames and 3 %; ``stack`` (M, S, *frame) tells the shape.

        ``beside``: bytes that the transitions will take there as well. Raises UserError if both
        together do not fit.
        """
        self.size = stack.shape[1]
        self.frame_shape, self.dtype = tuple(stack.shape[2:]), stack.dtype
        # A stack's first frame is needed for S + 1 turns, in which the others may store whole ones.
        least = (self.size + 1) ** 2 * num_envs
        frames = max(capacity + capacity // 32 + 2 * (self.size + 1) * num_envs, least)
        nbytes = stack[0, 0].nbytes
        self.ring = Ring("frames", frames, nbytes, device, directory, beside=beside)
        self._frames = self.ring.rows.view(self.dtype).view(frames, *self.frame_shape)
        self._numbers = np.zeros((num_envs, self.size), np.int64)
        self._last: list[Tensor | None] = [None] * num_envs

    def plan(self, envs: range, obs: Tensor, next_obs: Tensor) -> Pending:
        """How (M, S, *frame) stacks and their successors, on the CPU, will be stored.

        Changes nothing. Raises ValueError for other frames than the first were, or if a successor
        is no shifted stack.
        """
        shape = (len(envs), self.size, *self.frame_shape)
        for name, stacks in (("obs", obs), ("next_obs", next_obs)):
            if stacks.dtype != self.dtype or stacks.shape != shape:
                raise ValueError(
                    f"{name} is {stacks.dtype} {tuple(stacks.shape)}, "
                    f"the replay holds {self.dtype} {shape}"
                )
        new: list[Tensor] = []
        rows = np.empty((len(envs), self.size + 1), np.int64)
        for i, env in enumerate(envs):
            last = self._last[env]
            if last is None or not torch.equal(obs[i], last):
                rows[i, :-1] = self._number(obs[i], new)
            else:
                rows[i, :-1] = self._numbers[env]
            if not torch.equal(next_obs[i, :-1], obs[i, 1:]):
                raise ValueError(
                    "next_obs is not obs moved on by one frame: frame_stack needs observations "
                    f"(N, {self.size}, ...) with the newest frame last"
                )
            rows[i, -1] = self.ring.written + len(new)
            new.append(next_obs[i, -1])
        return Pending(envs, next_obs, new, rows)

    def places(self, pending: Pending) -> Tensor:
        """(M, S + 1) int32: where its frames are in the ring once they are stored."""
        return torch.from_numpy((pending.frames % self.ring.capacity).astype(np.int32))

    def store(self, pending: Pending) -> None:
        """Store what ``plan`` returned last."""
        self._write(pending.new)
        for i, env in enumerate(pending.envs):
            self._numbers[env] = pending.frames[i, 1:]
            self._last[env] = pending.next_obs[i].clone()

    def oldest(self) -> int:
        """Number of the oldest frame that is still there."""
        return self.ring.written - self.ring.capacity

    def empty(self, count: int) -> Tensor:
        """(count, frame bytes) uint8 on the device, for ``stacks``."""
        return torch.empty_like(self.ring.rows[:1]).repeat(count, 1)

    def pairs(self, obs: Tensor, next_obs: Tensor) -> dict[str, Tensor]:
        """Both observations from (..., S) numbers of frames: (..., S, *frame)."""
        flat = {}
        for name, numbers in {"obs": obs, "next_obs": next_obs}.items():
            frames = self.ring.rows.index_select(0, numbers.flatten())
            flat[name] = self.view(frames, *numbers.shape)
        return flat

    def stacks(self, numbers: Tensor, out: Tensor) -> None:
        """Gather (n,) frames of the ring into ``out`` (n, frame bytes) uint8."""
        torch.index_select(self.ring.rows, 0, numbers, out=out)

    def view(self, out: Tensor, *shape: int) -> Tensor:
        """``out`` of ``stacks`` seen as frames: (*shape, *frame)."""
        return out.view(self.dtype).view(*shape, *self.frame_shape)

    def _number(self, stack: Tensor, new: list[Tensor]) -> list[int]:
        numbers: list[int] = []
        for k, frame in enumerate(stack):
            if not (k and torch.equal(frame, stack[k - 1])):
                new.append(frame)
            numbers.append(self.ring.written + len(new) - 1)
        return numbers

    def _write(self, new: list[Tensor]) -> None:
        frames = torch.stack(new)
        for offset, where in self.ring.spans(len(new)):
            part = frames[offset : offset + where.stop - where.start]
            self._frames[where].copy_(part, non_blocking=True)
        self.ring.written += len(new)

    def state_dict(self) -> State:
        """The ring, and the stack that each environment goes on from."""
        last = {str(env): stack for env, stack in enumerate(self._last) if stack is not None}
        return {
            "ring": self.ring.state_dict(),
            "numbers": torch.from_numpy(self._numbers.copy()),
            "last": last,
        }

    @classmethod
    def restored(
        cls,
        state: State,
        capacity: int,
        num_envs: int,
        device: torch.device,
        directory: Path | None,
        *,
        beside: int,
    ) -> FrameStacks:
        """What ``state_dict`` saved."""
        example = next(iter(state["last"].values()))
        frames = cls(capacity, example[None], num_envs, device, directory, beside=beside)
        frames.ring.load_state_dict(state["ring"])
        frames._numbers = state["numbers"].numpy().copy()
        for env, stack in state["last"].items():
            frames._last[int(env)] = stack.clone()
        return frames
