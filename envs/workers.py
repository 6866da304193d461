"""Environments stepped by worker processes and by this one at the same time.

Workers are spawned, not forked: a fork would copy torch's locks without its threads.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import signal
import traceback
import warnings
from collections.abc import Callable
from multiprocessing import util
from multiprocessing.connection import Connection
from typing import Any

import gymnasium as gym
import numpy as np

from rlsuite.envs.lane import End, EpisodeLog, LocalLanes, Rows, episode_seed
from rlsuite.envs.layout import ActionCodec, Array, ObservationLayout
from rlsuite.envs.shared import CONTEXT, PeerDiedError, SharedRows, Slot, fence, wait_for
from rlsuite.envs.vector import Lanes, LaneVectorEnv, build_lanes, require_equal
from rlsuite.errors import UserError

# Kinds of request.
_BEGIN, _STEP, _CLOSE = 0, 1, 2

_CLOSE_SECONDS = 5.0


class WorkerError(RuntimeError):
    """A worker died, and again when the same step was repeated in its place."""


def _serve(
    raw: Any,
    connection: Connection,
    make: Callable[[], gym.Env[Any, Any]],
    indices: range,
    observations: ObservationLayout,
    actions: ActionCodec,
) -> None:
    """The worker: answer requests until told to close, or until the main process is gone."""
    # Ctrl-C and a scheduler's SIGTERM reach the whole group; it is the main process that decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    memory = SharedRows(len(indices), observations, actions, raw)
    control = memory.control
    lanes: LocalLanes | None = None
    sequence = 0
    with contextlib.suppress(PeerDiedError, EOFError, BrokenPipeError):
        while True:
            sequence += 1
            wait_for(control, Slot.REQUEST, sequence, parent.is_alive)
            if control[Slot.KIND] == _CLOSE:
                break
            message = connection.recv() if control[Slot.KIND] == _BEGIN else None
            control[Slot.FAILED] = 0
            try:
                if lanes is None:
                    lanes = _build_equal(make, indices, observations, actions)
                _answer(lanes, memory, message)
            except Exception as error:
                is_users = isinstance(error, UserError)
                is_told = is_users or isinstance(error, RuntimeError)
                text = str(error) if is_told else f"{type(error).__name__}: {error}"
                # Words, not the exception: to load one can run code of whoever defined it.
                connection.send((is_users, text, traceback.format_exc()[-10_000:]))
                control[Slot.FAILED] = 1
            fence()
            control[Slot.REPLY] = sequence
    if lanes is not None:
        lanes.close()


def _build_equal(
    make: Callable[[], gym.Env[Any, Any]],
    indices: range,
    observations: ObservationLayout,
    actions: ActionCodec,
) -> LocalLanes:
    lanes, example = build_lanes(make, indices)
    require_equal(example, (observations.space, actions.space), indices.start)
    return lanes


def _answer(lanes: LocalLanes, memory: SharedRows, message: Any) -> None:
    if message is not None:
        seed, episodes = message
        lanes.restore(seed, episodes, memory.first_obs, memory.reward)
        return
    rows = Rows(memory.reward, memory.next_obs, [])
    lanes.request_step(memory.actions)
    lanes.step(rows)
    lanes.begin_next(rows.ends, memory.first_obs)
    memory.terminated[:] = False
    memory.truncated[:] = False
    for row, terminated, truncated in rows.ends:
        memory.terminated[row] = terminated
        memory.truncated[row] = truncated


class _Worker:
    """One process, its memory, and the requests to it."""

    def __init__(
        self,
        make: Callable[[], gym.Env[Any, Any]],
        indices: range,
        observations: ObservationLayout,
        actions: ActionCodec,
    ) -> None:
        self.memory = SharedRows(len(indices), observations, actions)
        self._control = self.memory.control
        self._connection, theirs = CONTEXT.Pipe()
        self._sequence = 0
        arguments = (self.memory.raw, theirs, make, indices, observations, actions)
        self.process = CONTEXT.Process(target=_serve, args=arguments, daemon=True)
        self.process.start()
        theirs.close()
        # Also run when this object is dropped, and at exit before daemons are sent SIGTERM.
        self.close = util.Finalize(
            self, _stop, (self.process, self._control, self._connection), exitpriority=10
        )

    def request(self, kind: int, message: Any = None) -> None:
        """Ask for something; whatever was asked before is waited for and dropped."""
        if self._control[Slot.REPLY] != self._sequence:
            with contextlib.suppress(PeerDiedError, RuntimeError, UserError):
                self.wait()
        self._sequence += 1
        self._control[Slot.KIND] = kind
        fence()
        self._control[Slot.REQUEST] = self._sequence
        if message is not None:
            with contextlib.suppress(OSError):  # a dead worker is found by wait
                self._connection.send(message)

    def wait(self) -> None:
        """Until the request is answered.

        Raises ``RuntimeError`` if an environment raised, ``UserError`` with its words if it raised
        that, ``PeerDiedError`` if the worker died.
        """
        wait_for(self._control, Slot.REPLY, self._sequence, self.process.is_alive)
        if self._control[Slot.FAILED]:
            is_users, text, trace = self._connection.recv()
            error = UserError(text) if is_users else RuntimeError(text)
            error.add_note(f"in a worker process:\n{trace}")
            raise error


def _stop(process: Any, control: memoryview[int], connection: Connection) -> None:
    control[Slot.KIND] = _CLOSE
    fence()
    control[Slot.REQUEST] += 1
    connection.close()
    process.join(_CLOSE_SECONDS)
    if process.exitcode is None:
        process.kill()
        process.join()


class WorkerLanes:
    """The environments numbered ``indices``, stepped by a worker; a dead one is replaced once."""

    def __init__(
        self,
        make: Callable[[], gym.Env[Any, Any]],
        indices: range,
        observations: ObservationLayout,
        actions: ActionCodec,
        resumable: bool,
    ) -> None:
        self._arguments = (make, indices, observations, actions)
        self._indices = indices
        self._rows = slice(indices.start, indices.stop)
        self._resumable = resumable
        self._worker = _Worker(*self._arguments)
        self._log: EpisodeLog
        self._actions: Array

    def request_begin(self, log: EpisodeLog) -> None:
        """Send what to restore."""
        self._log = log
        episodes = [log.unfinished(env) for env in self._indices]
        self._worker.request(_BEGIN, (log.seed, episodes))

    def begin(self, obs: list[Array], returns: list[float]) -> None:
        """Wait until all is reset and replayed."""
        try:
            self._worker.wait()
        except PeerDiedError:
            self._replace(self._begin_again)
        memory = self._worker.memory
        returns[self._rows] = memory.reward.tolist()
        for array, shared in zip(obs, memory.first_obs, strict=True):
            array[self._rows] = shared

    def request_step(self, actions: Array) -> None:
        """Send the actions."""
        self._actions = actions
        self._worker.memory.actions[:] = actions[self._rows]
        self._worker.request(_STEP)

    def step(self, rows: Rows) -> None:
        """Wait for the step."""
        try:
            self._worker.wait()
        except PeerDiedError:
            self._replace(self._step_again)
        memory = self._worker.memory
        rows.reward[self._rows] = memory.reward.tolist()
        for array, shared in zip(rows.next_obs, memory.next_obs, strict=True):
            array[self._rows] = shared
        for row in np.flatnonzero(memory.terminated | memory.truncated).tolist():
            terminated, truncated = bool(memory.terminated[row]), bool(memory.truncated[row])
            rows.ends.append(End(self._rows.start + row, terminated, truncated))

    def begin_next(self, ends: list[End], obs: list[Array]) -> None:
        """Fetch the first observations; the worker made them while it stepped."""
        for env, _, _ in ends:
            if env in self._indices:
                for array, shared in zip(obs, self._worker.memory.first_obs, strict=True):
                    array[env] = shared[env - self._rows.start]

    def close(self) -> None:
        """End the process; it is killed if it does not end within five seconds."""
        self._worker.close()

    def _begin_again(self) -> None:
        self.request_begin(self._log)
        self._worker.wait()

    def _step_again(self) -> None:
        self._begin_again()
        memory = self._worker.memory
        for row, env in enumerate(self._indices):
            if not self._log.is_restored(env, memory.first_obs, row, float(memory.reward[row])):
                raise WorkerError(
                    f"a worker died, and its environment {env} cannot be restored exactly: "
                    "repeating the episode's seed and actions led elsewhere"
                )
        self.request_step(self._actions)
        self._worker.wait()

    def _replace(self, repeat: Callable[[], None]) -> None:
        """Start another worker and ``repeat`` there what the dead one was asked to do."""
        process = self._worker.process
        numbers = {env: self._log.unfinished(env).number for env in self._indices}
        what = ", ".join(
            f"{env} (episode {number}, reset seed {episode_seed(self._log.seed, env, number)})"
            for env, number in numbers.items()
        )
        how = f"process {process.pid} of environments {what} died with exit code {process.exitcode}"
        if not self._resumable:
            raise WorkerError(f"{how}; the environment does not repeat itself, so resume the run")
        warnings.warn(
            f"{how}; a new one repeats its unfinished episodes", RuntimeWarning, stacklevel=5
        )
        self._worker.close()
        self._worker = _Worker(*self._arguments)
        try:
            repeat()
        except PeerDiedError as error:
            raise WorkerError(f"{how}, and again when it was repeated") from error


class WorkerVectorEnv(LaneVectorEnv):
    """``num_envs`` environments of ``make``: as ``SerialVectorEnv``, bit for bit, but in parallel.

    At most ``workers`` processes beside this one, which steps its share too: take one less than
    there are cores. ``make`` must be picklable (a module's function, or ``functools.partial`` of
    one), and a script that uses it needs ``if __name__ == "__main__":``. A worker that dies is
    replaced, with a warning, and its unfinished episodes are repeated there, so that the stream
    goes on as if nothing had happened; ``WorkerError`` if the same step kills it again.
    """

    def __init__(
        self,
        make: Callable[[], gym.Env[Any, Any]],
        num_envs: int,
        seed: int = 0,
        *,
        workers: int,
        resumable: bool = True,
    ) -> None:
        if num_envs < 1 or workers < 1:
            raise ValueError(f"num_envs and workers must be at least 1, not {num_envs}, {workers}")
        try:
            pickle.dumps(make)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ValueError(
                "make must be picklable: a module's function or functools.partial of one"
            ) from error
        workers = min(workers, num_envs - 1)
        share, extra = divmod(num_envs, workers + 1)
        local, example = build_lanes(make, range(share))
        layout = ObservationLayout(example.observation_space)
        codec = ActionCodec(example.action_space, num_envs)
        groups: list[Lanes] = [local]
        start = share
        for worker in range(workers):
            indices = range(start, start + share + (worker < extra))
            groups.append(WorkerLanes(make, indices, layout, codec, resumable))
            start = indices.stop
        super().__init__(groups, example, num_envs, seed, resumable)
