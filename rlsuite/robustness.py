"""Robust evaluation: how the policy of a run fares where the environment is not as in training.

The newest checkpoint is evaluated once as it was trained and at every point of a grid of perturbed
environments (``rlsuite.envs.perturb``), each time with the same seeds.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from rlsuite.build import build_evaluation, read_experiment, run_evaluator
from rlsuite.envs.perturb import nominal
from rlsuite.errors import UserError
from rlsuite.evaluate import Evaluation
from rlsuite.plot import COLOURS, format_count, make_figure, write_figure
from rlsuite.stats import Array, Interval, cvar, mean, paired_bootstrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Ranges: TypeAlias = dict[str, list[float]]
"""Parameter to the values it takes, in the order given."""

CVAR_LEVEL = 0.1
EXAMPLE = "such as mass=0.5:1.5:5 (LOW:HIGH:COUNT), mass=0.5,1,2 or obs_noise=0.1"
EACH_WRITTEN = 64
"""A heat map of more cells has no numbers in them."""


def parse_ranges(words: Sequence[str]) -> Ranges:
    """NAME=LOW:HIGH:COUNT, NAME=VALUE,VALUE,... or NAME=VALUE, each a parameter.

    Raises UserError for anything else, and a parameter given twice.
    """
    ranges: Ranges = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not (name and equals):
            raise UserError(f"--perturb {word!r} is no parameter with values, {EXAMPLE}")
        if name in ranges:
            raise UserError(f"--perturb has {name} twice: give all its values at once")
        ranges[name] = _parse_values(word, text)
    return ranges


def _parse_values(word: str, text: str) -> list[float]:
    parts = text.split(":")
    try:
        if len(parts) == 1:
            values = [float(value) for value in text.split(",")]
        else:
            low, high, count = float(parts[0]), float(parts[1]), int(parts[2])
            # Rounded: 0.1:1.9:7 has 1 in its middle, not a neighbour of it.
            values = [round(float(value), 12) for value in np.linspace(low, high, count)]
        is_range = len(parts) == 1 or (len(parts) == 3 and low < high and count > 1)
    except (ValueError, IndexError) as error:
        raise UserError(f"--perturb {word!r}: the values are given {EXAMPLE}") from error
    if not is_range or not np.isfinite(values).all():
        raise UserError(f"--perturb {word!r}: a range is LOW:HIGH:COUNT, upwards, of 2 or more")
    if len(set(values)) < len(values):
        raise UserError(f"--perturb {word!r} has a value twice")
    return values


@dataclass(frozen=True, slots=True)
class Robustness:
    """The evaluations of a grid, and of the environment as it is."""

    ranges: Ranges
    nominal: Evaluation
    grid: list[Evaluation]
    """At every combination of the ranges' values, the last one fastest."""

    @property
    def points(self) -> list[dict[str, float]]:
        """Parameter to value, of each evaluation of the grid."""
        return [
            dict(zip(self.ranges, p, strict=True)) for p in itertools.product(*self.ranges.values())
        ]

    @property
    def scores(self) -> Array:
        """(episodes, points) returns; a row is one seed."""
        return np.array([evaluation.returns for evaluation in self.grid]).T

    @property
    def means(self) -> Array:
        """(points,) mean returns."""
        return np.asarray(self.scores.mean(0))

    @property
    def worst(self) -> dict[str, float]:
        """The point of the lowest mean return."""
        return self.points[int(self.means.argmin())]

    def summary(self) -> dict[str, Interval]:
        """Mean returns with 95 % bootstrap intervals over the episodes' seeds.

        "nominal"; and over the points, each weighing the same: "mean", "cvar" (the mean of the
        lowest CVAR_LEVEL of them) and "worst".
        """
        statistics = {"mean": mean, "cvar": _cvar_of_points, "worst": _worst_of_points}
        return {
            "nominal": paired_bootstrap(self.nominal.returns, mean),
            **{name: paired_bootstrap(self.scores, f) for name, f in statistics.items()},
        }

    def table(self) -> str:
        """A few lines for people."""
        titles = {
            "nominal": "nominal",
            "mean": f"mean of {len(self.grid)}",
            "cvar": f"CVaR {CVAR_LEVEL:.0%}",
            "worst": "worst",
        }
        lines = []
        for name, (point, low, high) in self.summary().items():
            where = f"  at {_spell(self.worst)}" if name == "worst" else ""
            interval = f"(95 %: {low:,.1f} to {high:,.1f})"
            lines.append(f"  {titles[name]:<12} {point:>10,.1f}  {interval}{where}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Everything."""
        return {
            "ranges": self.ranges,
            "cvar_level": CVAR_LEVEL,
            "summary": {name: value._asdict() for name, value in self.summary().items()},
            "worst_at": self.worst,
            "nominal": self.nominal.to_json(),
            "grid": [
                {"at": point, **evaluation.to_json()}
                for point, evaluation in zip(self.points, self.grid, strict=True)
            ],
        }

    def to_csv(self) -> str:
        """A row for every point and episode."""
        out = io.StringIO()
        table = csv.writer(out, lineterminator="\n")
        table.writerow([*self.ranges, "episode", "return", "length"])
        for point, evaluation in zip(self.points, self.grid, strict=True):
            for episode, row in enumerate(zip(evaluation.returns, evaluation.lengths, strict=True)):
                table.writerow([*point.values(), episode, *row])
        return out.getvalue()


def evaluate_robustness(
    folder: Path,
    ranges: Ranges,
    *,
    episodes: int | None = None,
    seed: int | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Robustness:
    """Evaluate a run's newest checkpoint on the grid of ``ranges``; all values are checked first.

    Episodes and seeds are by default those of the run's own evaluations. ``say`` is told of every
    evaluation. Raises UserError for parameters and values that the environment does not take.
    """
    evaluate = run_evaluator(folder, episodes=episodes, seed=seed)
    experiment = read_experiment(folder)
    single = replace(experiment, run=replace(experiment.run, evaluation_episodes=1))
    for name, values in ranges.items():
        for value in values:
            build_evaluation(single, None, {name: value}).close()
    base = evaluate({})
    say(f"nominal: mean return {base.mean_return:,.1f}")
    points = [
        dict(zip(ranges, point, strict=True)) for point in itertools.product(*ranges.values())
    ]
    grid = []
    for number, point in enumerate(points, 1):
        grid.append(evaluate(point))
        say(f"{number} of {len(points)}: {_spell(point)}, mean return {grid[-1].mean_return:,.1f}")
    return Robustness(ranges, base, grid)


def write_robustness(result: Robustness, folder: Path) -> list[Path]:
    """Write robustness-PARAMETERS.json and .csv to ``folder``; where they are."""
    stem = folder / f"robustness-{'-'.join(result.ranges)}"
    files = {
        stem.with_name(f"{stem.name}.json"): json.dumps(result.to_json(), indent=1),
        stem.with_name(f"{stem.name}.csv"): result.to_csv(),
    }
    for path, text in files.items():
        path.write_text(text)
    return list(files)


def plot_robustness(result: Robustness, out: Path) -> Path:
    """Write the picture of a grid: a curve along one range, a heat map over two; ``out``.

    Raises UserError if there are none or more than two ranges, or if matplotlib is missing.
    """
    swept = {name: values for name, values in result.ranges.items() if len(values) > 1}
    if len(swept) not in (1, 2):
        raise UserError(f"a picture has one or two ranges, here there are {len(swept)}")
    figure = make_figure(4.8, 3.6)
    axes = figure.subplots()
    axes.tick_params(labelsize=8)
    (_draw_curve if len(swept) == 1 else _draw_map)(figure, axes, swept, result)
    axes.set_title(_spell(_fixed(result)), fontsize=9)
    return write_figure(figure, out)


def _fixed(result: Robustness) -> dict[str, float]:
    return {name: values[0] for name, values in result.ranges.items() if len(values) == 1}


def _draw_curve(figure: Figure, axes: Axes, swept: Ranges, result: Robustness) -> None:
    ((name, x),) = swept.items()
    order = np.argsort(x)
    returns, at = result.scores[:, order], np.array(x)[order]
    axes.fill_between(at, returns.min(0), returns.max(0), color=COLOURS[0], alpha=0.2, lw=0)
    label = "mean of episodes, lowest to highest"
    axes.plot(at, returns.mean(0), color=COLOURS[0], lw=1.5, marker="o", ms=3, label=label)
    axes.axhline(result.nominal.mean_return, color=COLOURS[1], lw=1, ls="--", label="nominal")
    axes.set_xlabel(name, fontsize=9)
    axes.set_ylabel("return per episode", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3, lw=0.5)
    axes.yaxis.set_major_formatter(lambda value, _: format_count(value))
    figure.legend(loc="outside lower center", fontsize=8, frameon=False)


def _draw_map(figure: Figure, axes: Axes, swept: Ranges, result: Robustness) -> None:
    (down, rows), (across, columns) = swept.items()
    values = result.means.reshape(len(rows), len(columns))
    image = axes.imshow(values, origin="lower", aspect="auto", cmap="viridis")
    for set_ticks, ticks in ((axes.set_xticks, columns), (axes.set_yticks, rows)):
        set_ticks(range(len(ticks)), [f"{tick:g}" for tick in ticks])
    axes.set_xlabel(across, fontsize=9)
    axes.set_ylabel(down, fontsize=9)
    if values.size <= EACH_WRITTEN:
        middle = (values.min() + values.max()) / 2
        for (row, column), value in np.ndenumerate(values):
            ink = "black" if value > middle else "white"
            text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color=ink)
    x, y = nominal(across), nominal(down)
    is_swept = all(nominal(name) in result.ranges[name] for name in result.ranges)
    if is_swept and x is not None and y is not None:
        at = columns.index(x), rows.index(y)
        look: dict[str, Any] = {"marker": "s", "ms": 14, "mfc": "none", "mec": COLOURS[1], "ls": ""}
        axes.plot(*([x] for x in at), **look, label="nominal")
        figure.legend(loc="outside lower center", fontsize=8, frameon=False)
    bar = figure.colorbar(image, ax=axes)
    bar.set_label("mean return per episode", fontsize=9)
    bar.ax.tick_params(labelsize=8)


def _spell(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name}={value:g}" for name, value in values.items())


def _cvar_of_points(scores: Array) -> Array:
    return cvar(scores.mean(axis=-2, keepdims=True), CVAR_LEVEL)


def _worst_of_points(scores: Array) -> Array:
    return np.asarray(scores.mean(axis=-2).min(axis=-1))
