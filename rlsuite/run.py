"""One training run: its folder, clocks, log, evaluations, checkpoints and stop signals."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import filelock
from torch import Tensor

from rlsuite.checkpoint import CheckpointStore, find_nonfinite
from rlsuite.errors import NotFiniteError, UserError
from rlsuite.evaluate import Assessment, read_assessment
from rlsuite.logger import METRICS, MetricsLog, Progress
from rlsuite.settings import Count, PositiveCount, settings
from rlsuite.types import Alarm, Episode, Metrics, State, Stateful, Tree, VectorEnv


@settings
class RunConfig:
    """Where and how a run runs, and when it writes what."""

    seed: Count = 0
    """Every random stream of the run derives from it."""
    device: str = "cpu"
    """Torch device of agent and replay: cpu, cuda, cuda:1, mps."""
    threads: PositiveCount = 1
    """CPU threads of torch. Two are faster on cores that are free and many times slower on cores
    that are not; results may differ in the last bits between numbers of threads."""
    log_every_transitions: PositiveCount = 1_000
    """Transitions between two lines of metrics."""
    evaluate_every_transitions: Count = 5_000
    """Transitions between two evaluations; 0 evaluates at the end alone."""
    evaluation_episodes: PositiveCount = 10
    """Episodes of an evaluation."""
    checkpoint_every_transitions: Count = 10_000
    """Transitions between two checkpoints; 0 saves at the end alone. It never changes results."""


class Stopped(Exception):
    """A stop was asked for; the run has saved itself and can be resumed."""


class Run:
    """What goes on around a training loop.

    Use as a context manager: inside, SIGINT and SIGTERM end the run after the current step and a
    checkpoint (``Stopped``); a second signal ends the process at once.
    """

    def __init__(
        self,
        folder: Path,
        config: RunConfig,
        total_transitions: int,
        metrics: dict[str, str],
        evaluate: Callable[[int], Assessment] | None,
        *,
        alarms: Mapping[str, Alarm] | None = None,
        quiet: bool = False,
        unit: str = "transitions",
    ) -> None:
        """``metrics`` are the agent's or solver's; ``evaluate`` maps transitions to an evaluation.

        A solver whose metrics say everything has nothing to evaluate: None. ``alarms``, by metric:
        the first log line beyond a limit warns, and so does the first evaluation after too many
        rises. ``unit`` is what people are told that is counted.
        """
        self.folder = folder
        self.config = config
        self.total_transitions = total_transitions
        self.transitions = 0
        self.evaluations: list[Assessment] = []
        self._names = [*METRICS, *metrics]
        self._evaluate = evaluate
        self._alarms = dict(alarms or {})
        self._trends: dict[str, list[float]] = {}
        """Of metrics with alarms: in the newest line, at the last evaluation, rises up to it."""
        self._quiet = quiet
        self._unit = unit
        self._store = CheckpointStore(folder / "checkpoints")
        # The system lets go of it when the process ends, however it ends.
        self._lock = filelock.FileLock(folder / "lock")
        self._parts: dict[str, Stateful] = {}
        self._log: MetricsLog
        self._progress: Progress
        self._last_advance = 0
        self._window = Window()
        self._seconds = 0.0
        self._began = self._line_began = time.monotonic()
        self._line_transitions = 0
        self._stop_signal: int | None = None

    def restore(self, envs: VectorEnv, **parts: Stateful) -> Tree:
        """Load everything from the newest good checkpoint, or reset ``envs``.

        Returns the observations to act on. The episodes of ``envs.lost`` have to be cut short
        wherever they are stored.
        """
        obs = envs.observe() if self.resume(envs=envs, **parts) else envs.reset()
        if not envs.spec.resumable:
            self._progress.say(
                "warning: this environment does not repeat itself from its seed and actions: a "
                "resumed run will begin new episodes and differ from an uninterrupted one"
            )
        self._began = self._line_began = time.monotonic()
        return obs

    def resume(self, **parts: Stateful) -> bool:
        """Load ``parts`` from the newest good checkpoint; whether there was one.

        From here on they are what a checkpoint holds.
        """
        self._parts = parts
        state = self._store.recover()
        offset = 0
        if state is not None:
            for name, part in parts.items():
                part.load_state_dict(state[name])
            offset = self._load(state["run"])
        self._write_evaluations()  # drops those that were made after the checkpoint
        self._log = MetricsLog(
            self.folder, self._names, offset=offset, transitions=self.transitions
        )
        self._progress = Progress(
            self.total_transitions, self.transitions, quiet=self._quiet, unit=self._unit
        )
        if state is not None:
            self._progress.say(f"resumed at {self.transitions:,} {self._unit}")
        self._began = self._line_began = time.monotonic()
        self._line_transitions = self.transitions
        return state is not None

    def advance(self, n: int, episodes: list[Episode]) -> None:
        """Count ``n`` more transitions and the episodes that ended with them."""
        self.transitions += n
        self._last_advance = n
        for episode in episodes:
            self._window.add_episode(episode)
        self._progress.advance(n, episodes[-1].episode_return if episodes else None)

    def log(self, metrics: Metrics) -> None:
        """Add to the means of the next log line, without waiting for the device."""
        self._window.add(metrics)

    def housekeeping(self, *, finished: bool = False) -> None:
        """Write a log line, evaluate, save and stop, each when it is due.

        All are due at the end: when all transitions are made, or if the loop has ``finished``.
        """
        finished = finished or self.transitions >= self.total_transitions
        if self._due(self.config.log_every_transitions) or finished:
            self._write_line()
        if self._evaluate and (self._due(self.config.evaluate_every_transitions) or finished):
            self._run_evaluation(self._evaluate)
        asked = self._stop_signal is not None
        if self._due(self.config.checkpoint_every_transitions) or finished or asked:
            self._save()
        if asked and not finished:
            raise Stopped(signal.Signals(self._stop_signal or 0).name)

    def __enter__(self) -> Self:
        """Take the run folder and the stop signals.

        Raises UserError if another process has the folder.
        """
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            raise UserError(f"another process is training in {self.folder}") from None
        self._handlers = {
            number: signal.signal(number, self._on_signal)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give signals and folder back and close the log; NotFiniteError becomes UserError."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if hasattr(self, "_progress"):
            self._progress.close()
        if hasattr(self, "_log"):
            self._log.close()
        self._lock.release()
        if isinstance(error, NotFiniteError):
            raise self._not_finite(str(error)) from error

    def _not_finite(self, what: str) -> UserError:
        return UserError(
            f"{what} at {self.transitions:,} transitions; the last good checkpoint is kept in "
            f"{self._store.folder}"
        )

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._stop_signal is not None:
            os._exit(128 + number)
        self._stop_signal = number
        if hasattr(self, "_progress"):
            self._progress.say("stopping after a checkpoint; once more to stop at once")

    def _due(self, every: int) -> bool:
        """Whether the last advance crossed a multiple of ``every``; 0 is never."""
        if not every:
            return False
        return self.transitions // every > (self.transitions - self._last_advance) // every

    def _write_line(self) -> None:
        values = self._window.means()
        for name, value in values.items():
            if value != value or value in (float("inf"), float("-inf")):
                raise self._not_finite(f"{name} is {value}")
            if name not in self._alarms:
                continue
            self._trends.setdefault(name, [value, math.inf, 0])[0] = value
            if value > self._alarms[name].limit:
                self._warn(name, value, f"above {self._alarms[name].limit:.3g}")
        now = time.monotonic()
        rate = (self.transitions - self._line_transitions) / max(now - self._line_began, 1e-9)
        self._line_began, self._line_transitions = now, self.transitions
        values["time/transitions_per_second"] = rate
        values["time/seconds"] = self._seconds + now - self._began
        self._log.write(self.transitions, values)

    def _warn(self, name: str, value: float, what: str) -> None:
        """Sound a metric's alarm, for the last time."""
        remedy = self._alarms.pop(name).remedy
        self._progress.say(
            f"warning: {name} is {value:.3g} at {self.transitions:,} transitions, {what}: {remedy}"
        )

    def _follow_trends(self) -> None:
        for name, (newest, last, rises) in self._trends.items():
            rises = rises + 1 if newest > last else 0
            self._trends[name] = [newest, newest, rises]
            if name in self._alarms and rises >= self._alarms[name].rises:
                self._warn(name, newest, f"and has risen at {rises:.0f} evaluations in a row")

    def _run_evaluation(self, evaluate: Callable[[int], Assessment]) -> None:
        result = evaluate(self.transitions)
        self.evaluations.append(result)
        self._log.write(self.transitions, result.metrics)
        self._write_evaluations()
        self._follow_trends()
        self._progress.say(f"{result.progress:>21}: evaluation {result.summary()}")

    def _write_evaluations(self) -> None:
        path = self.folder / "evaluation.json"
        staging = path.with_suffix(".new")
        content = {"evaluations": [evaluation.to_json() for evaluation in self.evaluations]}
        staging.write_text(json.dumps(content, indent=1))
        staging.replace(path)

    def _save(self) -> None:
        state = {name: part.state_dict() for name, part in self._parts.items()}
        learned = {name: state[name] for name in ("agent", "solver") if name in state}
        bad = find_nonfinite(learned)
        if bad:
            raise self._not_finite(f"{bad} is not finite")
        state["run"] = {
            "transitions": self.transitions,
            "seconds": self._seconds + time.monotonic() - self._began,
            "window": self._window.state_dict(),
            "trends": {name: list(trend) for name, trend in self._trends.items()},
            "csv_bytes": self._log.sync(),
            "evaluations": [evaluation.to_json() for evaluation in self.evaluations],
        }
        self._store.save(self.transitions, state)

    def _load(self, state: State) -> int:
        self.transitions = state["transitions"]
        self._seconds = state["seconds"]
        self._window.load_state_dict(state["window"])
        self._trends = {name: list(trend) for name, trend in state.get("trends", {}).items()}
        self.evaluations = [read_assessment(entry) for entry in state["evaluations"]]
        return int(state["csv_bytes"])


class Window:
    """Sums since the last log line, left on their device."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._returns: list[float] = []
        self._lengths: list[int] = []
        self._episodes = 0

    def add(self, metrics: Metrics) -> None:
        """Add one update's metrics."""
        for name, value in metrics.items():
            if name in self._sums:
                self._sums[name].add_(value)
            else:
                self._sums[name] = value.clone()
            self._counts[name] = self._counts.get(name, 0) + 1

    def add_episode(self, episode: Episode) -> None:
        """Add one finished episode."""
        self._returns.append(episode.episode_return)
        self._lengths.append(episode.length)
        self._episodes += 1

    def means(self) -> dict[str, float]:
        """The means by name, and start anew."""
        values = {name: float(total) / self._counts[name] for name, total in self._sums.items()}
        if self._returns:
            values["episode/return"] = sum(self._returns) / len(self._returns)
            values["episode/length"] = sum(self._lengths) / len(self._lengths)
        values["episode/count"] = self._episodes
        self._sums, self._counts, self._returns, self._lengths = {}, {}, [], []
        return values

    def state_dict(self) -> dict[str, Any]:
        """All sums."""
        return {
            "sums": self._sums,
            "counts": self._counts,
            "returns": self._returns,
            "lengths": self._lengths,
            "episodes": self._episodes,
        }

    def load_state_dict(self, state: State) -> None:
        """Continue the sums."""
        self._sums = {name: value.clone() for name, value in state["sums"].items()}
        self._counts = dict(state["counts"])
        self._returns = list(state["returns"])
        self._lengths = list(state["lengths"])
        self._episodes = state["episodes"]
