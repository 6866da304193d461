"""Where metrics go: a CSV file, TensorBoard, and one line on the console."""

from __future__ import annotations

import csv
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

METRICS = {
    "episode/return": "Mean undiscounted return of the training episodes that ended.",
    "episode/length": "Mean length of those episodes, in steps.",
    "episode/count": "Training episodes ended since the start.",
    "evaluate/return": "Mean return of the evaluation episodes, without exploration.",
    "evaluate/length": "Mean length of the evaluation episodes, in steps.",
    "time/seconds": "Wall time of training and evaluation since the start, over all sessions.",
    "time/transitions_per_second": "Environment transitions a second since the last line.",
}
"""Metrics of every run. Those of an agent are ``METRICS`` of its module. All but ``time/`` are
the same in a run that was interrupted and resumed."""


class MetricsLog:
    """``metrics.csv`` (one row a line, blank where nothing was measured) and TensorBoard events."""

    def __init__(self, folder: Path, names: list[str], *, offset: int, transitions: int) -> None:
        """Continue at byte ``offset`` of the CSV file; what was written after it is dropped.

        ``names`` are the columns after ``transitions``; 0 starts a new file.
        """
        self.names = names
        self.path = folder / "metrics.csv"
        if offset:
            os.truncate(self.path, offset)
        self._file = self.path.open("a" if offset else "w", newline="")
        self._csv = csv.writer(self._file)
        if not offset:
            self._csv.writerow(["transitions", *names])
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=transitions + 1)

    def write(self, transitions: int, values: Mapping[str, float]) -> None:
        """One row. Raises KeyError for a name that is not a column."""
        unknown = values.keys() - set(self.names)
        if unknown:
            raise KeyError(f"undocumented metrics: {', '.join(sorted(unknown))}")
        self._csv.writerow([transitions, *(values.get(name, "") for name in self.names)])
        for name, value in values.items():
            self._board.add_scalar(name, value, transitions)

    def sync(self) -> int:
        """Put everything on the disk; the length of the CSV file in bytes."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._board.flush()
        return self._file.tell()

    def close(self) -> None:
        """Flush and close."""
        self._file.close()
        self._board.close()


class Progress:
    """Rate, time left and last return: a bar on a terminal, else a line now and then."""

    SECONDS_BETWEEN_LINES = 30.0

    def __init__(
        self, total: int, done: int, *, quiet: bool = False, unit: str = "transitions"
    ) -> None:
        """``done`` of ``total`` transitions are behind us."""
        self._unit = unit
        self._terminal = sys.stderr.isatty() and not quiet
        self._quiet = quiet
        self._bar = tqdm(
            total=total,
            initial=done,
            unit=f" {unit}",
            disable=not self._terminal,
            dynamic_ncols=True,
            bar_format="{percentage:3.0f}% {bar} {n_fmt}/{total_fmt} {rate_fmt} "
            "{remaining} left{postfix}",
            unit_scale=True,
        )
        self._start = self._last = time.monotonic()
        self._initial, self._done, self._total = done, done, total
        self._returns = ""

    def advance(self, n: int, last_return: float | None) -> None:
        """``n`` more transitions; the return of the last episode that ended, if one did."""
        self._done += n
        if last_return is not None:
            self._returns = f", last return {last_return:.1f}"
            self._bar.set_postfix_str(self._returns.removeprefix(", "), refresh=False)
        self._bar.update(n)
        now = time.monotonic()
        if not self._terminal and now - self._last >= self.SECONDS_BETWEEN_LINES:
            self._last = now
            rate = (self._done - self._initial) / (now - self._start)
            left = (self._total - self._done) / rate / 60
            self.say(
                f"{self._done:,} of {self._total:,} {self._unit}, {rate:.0f}/s, "
                f"{left:.0f} min left{self._returns}"
            )

    def say(self, text: str) -> None:
        """A line that does not disturb the bar."""
        if not self._quiet:
            tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()
