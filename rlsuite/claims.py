"""What a paper claims beside what was measured: one line a figure, its gate, and the verdict."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from rlsuite.stats import Interval


class Task(NamedTuple):
    """The smallest part of an experiment: one method with one seed."""

    experiment: str
    arm: str
    """What is compared, as "RR-C"."""
    repeat: int
    """0 to the number of seeds - 1; the arms see the same data in one repeat."""


Results: TypeAlias = Mapping[tuple[str, str], Sequence[Any]]
"""Experiment and arm to what was measured, by repeat."""


class Gate(NamedTuple):
    """Closed interval in which a figure has to lie; infinite where there is no end."""

    low: float = -np.inf
    high: float = np.inf

    def __str__(self) -> str:
        if np.isinf(self.high):
            return f">= {self.low:.6g}"
        if np.isinf(self.low):
            return f"<= {self.high:.6g}"
        return f"in [{self.low:.6g}, {self.high:.6g}]"


@dataclass(frozen=True, slots=True)
class Claim:
    """One figure."""

    experiment: str
    quantity: str
    prediction: str
    source: str
    """Where the prediction comes from."""
    value: float
    error: float | None = None
    """Standard error of ``value``; None if it is a count or an extreme."""
    gate: Gate | None = None
    interval: Interval | None = None
    """95 % interval, where a standard error would not do: by bootstrap, of a share Wilson's."""

    @property
    def passed(self) -> bool | None:
        """Whether the value is inside the gate (NaN is not); None without a gate."""
        return None if self.gate is None else bool(self.gate.low <= self.value <= self.gate.high)

    def cells(self) -> dict[str, str]:
        """The row of the table."""
        measured = f"{self.value:.6g}"
        if self.error is not None:
            measured = f"{self.value:.4g} ± {self.error:.2g}"
        if self.interval is not None:
            measured += f" [{self.interval.low:.4g}, {self.interval.high:.4g}]"
        verdict = {True: "pass", False: "FAIL", None: ""}[self.passed]
        return {
            "experiment": self.experiment,
            "quantity": self.quantity,
            "prediction": self.prediction,
            "source": self.source,
            "measured": measured,
            "gate": str(self.gate or ""),
            "verdict": verdict,
        }


def mean_error(values: ArrayLike) -> tuple[float, float | None]:
    """Mean of (n,) values and its standard error, None for one value."""
    array = np.asarray(values, np.float64)
    error = float(array.std(ddof=1) / np.sqrt(array.size)) if array.size > 1 else None
    return float(array.mean()), error


def ratio_error(above: ArrayLike, below: ArrayLike) -> tuple[float, float | None]:
    """Ratio of the means of two independent samples, and its standard error to first order."""
    (top, top_error), (bottom, bottom_error) = mean_error(above), mean_error(below)
    ratio = top / bottom
    if top_error is None or bottom_error is None:
        return ratio, None
    return ratio, ratio * float(np.hypot(top_error / top, bottom_error / bottom))


def markdown(claims: Sequence[Claim]) -> str:
    """A table for people."""
    rows = [claim.cells() for claim in claims]
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def table_csv(claims: Sequence[Claim]) -> str:
    """The same table for programs: value, error and the ends of the gate as numbers too."""
    out = io.StringIO()
    extra = ["value", "error", "low", "high"]
    writer = csv.DictWriter(out, [*claims[0].cells(), *extra], lineterminator="\n")
    writer.writeheader()
    for claim in claims:
        ends = claim.gate or Gate()
        numbers = [claim.value, claim.error, ends.low, ends.high]
        shown = ["" if n is None or np.isinf(n) else repr(float(n)) for n in numbers]
        writer.writerow(claim.cells() | dict(zip(extra, shown, strict=True)))
    return out.getvalue()
