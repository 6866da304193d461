"""Learning curves of run folders, as pictures that can go into a paper.

matplotlib comes with an extra (``report``) and is imported when a picture is drawn.
"""

from __future__ import annotations

import csv
import json
import math
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rlsuite.errors import UserError
from rlsuite.stats import iqm, mean, stratified_bootstrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array: TypeAlias = NDArray[np.float64]

# Okabe and Ito's colours, told apart by colour-blind readers; without the yellow, faint on white.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
STYLES = ["-", "--", ":", "-."]
IGNORED = {"run.seed", "run.threads", "run.checkpoint_every_transitions", "description"}
"""Settings by which runs of one experiment may differ: what they do does not follow from them."""

FEWEST_FOR_IQM = 4  # of fewer seeds the interquartile mean drops none: it is called the mean
FEWEST_FOR_BAND = 3  # fewer seeds have no interval worth the name
RESAMPLES = 2000  # a point of a curve
FEWEST_UNMARKED = 26  # points; a curve of one alone would not be seen
TRAINING_POINTS = 200  # of a group's training curve; log lines can be any number


class Scale(NamedTuple):
    """What is measured, in words, and where it is found."""

    time: str
    value: str
    unit: str
    """What an evaluation averages over."""
    evaluation: str
    """Key in an evaluation of evaluation.json."""
    training: str
    """Column of metrics.csv."""


AGENT = Scale(
    "environment transitions", "return per episode", "episodes", "returns", "episode/return"
)
SOLVER = Scale("iterations", "robust cost", "instances", "robust", "cost/robust")


class Curve(NamedTuple):
    """Something measured along a run."""

    x: Array
    """(points,) environment transitions or iterations, increasing."""
    y: Array
    """(points,) mean returns per episode, or robust costs."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What a run folder tells."""

    folder: Path
    config: str
    settings: dict[str, Any]
    """Dotted name to value, without the IGNORED ones."""
    seed: int
    evaluation: list[tuple[int, list[float]]]
    """Transitions and the return of each episode; of a solver the costs of the instances."""
    training: Curve
    """Of the episodes that ended since the last log line; of a solver the iterates."""
    scale: Scale

    def evaluation_means(self) -> Curve:
        """The mean over the episodes of each evaluation."""
        returns = [sum(values) / len(values) for _, values in self.evaluation]
        return Curve(np.array([x for x, _ in self.evaluation], float), np.array(returns))


def plot_runs(folders: Sequence[Path], out: Path) -> Path:
    """Write the picture of ``learning_curves`` to ``out``, in the format of its suffix; ``out``.

    .png (150 dots an inch), .pdf, .svg or whatever else matplotlib writes. Raises UserError as
    ``learning_curves`` does, and for a suffix or a place that cannot be written.
    """
    return write_figure(learning_curves(folders), out)


def make_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches. Raises UserError if matplotlib is missing."""
    try:
        # Not pyplot, whose figures are global and open windows.
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("plots need matplotlib: pip install 'rlsuite[report]'") from error
    return Figure(figsize=(width, height), layout="constrained")


def write_figure(figure: Figure, out: Path) -> Path:
    """Write ``figure`` to ``out``, in the format of its suffix; ``out``.

    Raises UserError for a suffix or a place that cannot be written.
    """
    import matplotlib

    known = sorted(figure.canvas.get_supported_filetypes())
    if out.suffix.lower().removeprefix(".") not in known:
        raise UserError(f"cannot write {out}: the name has to end in .{', .'.join(known)}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # TrueType: conferences refuse matplotlib's default, Type 3.
        with matplotlib.rc_context({"pdf.fonttype": 42, "svg.fonttype": "none"}):
            figure.savefig(out, dpi=150)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}") from error
    return out


def learning_curves(folders: Sequence[Path]) -> Figure:
    """The returns per episode of runs against environment transitions; of solvers, their robust
    costs against iterations.

    One run: the mean over each evaluation's episodes with a band from the lowest to the highest,
    and the training return as a thin line. Several: evaluation and training side by side, runs
    that differ by their seed alone put together. Such a group shows the interquartile mean over
    its seeds (the mean with fewer than 4) with a pointwise 95 % bootstrap interval (with fewer
    than 3, the single runs thin instead), as far as all its seeds have come.
    Raises UserError for folders that are no runs, files that cannot be read, runs that measured
    nothing yet, two runs of one experiment and seed, solvers beside agents, and if matplotlib is
    missing.
    """
    if not folders:
        raise UserError("no run folders to plot: name at least one")
    # The same folder twice, as two patterns may give, is one run.
    records = [_read_run(folder) for folder in {f.resolve(): f for f in folders}.values()]
    if len({record.scale for record in records}) > 1:
        raise UserError("solvers and agents have no scale in common: plot them apart")
    wide = len(records) > 1
    figure = make_figure(7.0 if wide else 4.5, 3.2)
    ids = {str(record.settings.get("env.id", "")) for record in records}
    figure.suptitle(ids.pop() if len(ids) == 1 else "", fontsize=10)
    if wide:
        _draw_groups(figure, records)
    else:
        _draw_run(figure, records[0])
    return figure


def _draw_run(figure: Figure, record: RunRecord) -> None:
    axes = _dress(figure.subplots(), record.scale)
    if record.training.x.size:
        axes.plot(*record.training, color=COLOURS[1], lw=0.7, alpha=0.8, label="training")
    if record.evaluation:
        x, y = record.evaluation_means()
        low, high = ([end(values) for _, values in record.evaluation] for end in (min, max))
        label = f"evaluation: mean of {record.scale.unit}, lowest to highest"
        _draw_line(axes, x, y, label, {"color": COLOURS[0], "lw": 1.5})
        axes.fill_between(x, low, high, color=COLOURS[0], alpha=0.2, lw=0)
    _add_legend(figure, [axes])


def _draw_groups(figure: Figure, records: list[RunRecord]) -> None:
    groups = _group(records)
    names = _names([group[0] for group in groups])
    panels = {
        "evaluation": [[r.evaluation_means() for r in group] for group in groups],
        "training": [[r.training for r in group] for group in groups],
    }
    shown = [what for what, sets in panels.items() if any(c.x.size for cs in sets for c in cs)]
    row = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for what, axes in zip(shown, row, strict=True):
        _dress(axes, records[0].scale).set_title(what, fontsize=9)
        axes.label_outer()
        for i, curves in enumerate(panels[what]):
            if curves[0].x.size:
                x, y = _align(what, groups[i], curves)
                look = {"color": COLOURS[i % 7], "ls": STYLES[i // 7 % 4], "lw": 1.5}
                _draw_group(axes, names[i], x, y, look)
    _add_legend(figure, list(row))


def _draw_group(axes: Axes, name: str, x: Array, y: Array, look: dict[str, Any]) -> None:
    """``y`` is (points, seeds)."""
    seeds = y.shape[1]
    what, statistic = ("mean", mean) if seeds < FEWEST_FOR_IQM else ("IQM", iqm)
    label = f"{name}: {what} of {seeds} seeds" if seeds > 1 else f"{name}: 1 seed"
    centre = [float(statistic(point)) for point in y]
    if seeds >= FEWEST_FOR_BAND:
        label += ", 95 % interval"
        ends = [stratified_bootstrap(point, statistic, resamples=RESAMPLES)[1:] for point in y]
        axes.fill_between(x, *zip(*ends, strict=True), color=look["color"], alpha=0.2, lw=0)
    elif seeds > 1:
        for single in y.T:
            axes.plot(x, single, **(look | {"lw": 0.6}), alpha=0.6, label="_one seed")
    _draw_line(axes, x, np.array(centre), label, look)


def _draw_line(axes: Axes, x: Array, y: Array, label: str, look: dict[str, Any]) -> None:
    marker = "o" if x.size < FEWEST_UNMARKED else None
    axes.plot(x, y, **look, marker=marker, ms=3, label=textwrap.fill(label, 60))


def _align(what: str, records: Sequence[RunRecord], curves: Sequence[Curve]) -> tuple[Array, Array]:
    """(points,) transitions that all runs have reached, and (points, runs) returns at them.

    Evaluations are taken as they are. Training episodes end whenever they end, so training returns
    are interpolated between the log lines of a run.
    """
    ends = [curve.x[-1] for curve in curves]
    x = np.unique(np.concatenate([curve.x for curve in curves]))
    x = x[(x >= max(curve.x[0] for curve in curves)) & (x <= min(ends))]
    if what == "training":
        x = x[:: math.ceil(x.size / TRAINING_POINTS) or 1]
    else:
        x = x[np.all([np.isin(x, curve.x) for curve in curves], axis=0)]
    if min(ends) < 0.9 * max(ends):
        short = records[ends.index(min(ends))].folder
        warnings.warn(f"a group's {what} curve ends where {short} does", stacklevel=2)
    if not x.size:
        folders = ", ".join(str(record.folder) for record in records)
        raise UserError(f"nowhere do all of these runs have {what} returns: {folders}")
    return x, np.stack([np.interp(x, *curve) for curve in curves], axis=1)


def _dress(axes: Axes, scale: Scale) -> Axes:
    axes.set_xlabel(scale.time, fontsize=9)
    axes.set_ylabel(scale.value, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3, lw=0.5)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: format_count(value))
    return axes


def _add_legend(figure: Figure, row: list[Axes]) -> None:
    """One for all panels; it takes two columns if there is room."""
    entries: dict[str, Any] = {}
    for axes in row:
        handles, labels = axes.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    look: dict[str, Any] = {"loc": "outside lower center", "fontsize": 8, "frameon": False}
    columns = 2 if len(row) > 1 and max(map(len, entries)) <= 50 else 1
    figure.legend(list(entries.values()), list(entries), ncols=columns, **look)


def format_count(value: float) -> str:
    """50k for 50,000 and 1.5M for 1,500,000."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _group(records: list[RunRecord]) -> list[list[RunRecord]]:
    """Runs that differ by IGNORED settings alone, in the order they were named."""
    groups: dict[str, dict[int, RunRecord]] = {}
    for record in records:
        group = groups.setdefault(json.dumps(record.settings, sort_keys=True), {})
        other = group.setdefault(record.seed, record)
        if other is not record:
            raise UserError(
                f"{other.folder} and {record.folder} are one experiment with one seed, which does "
                "not count twice: leave one out"
            )
    return [_complete(list(group.values())) for group in groups.values()]


def _complete(group: list[RunRecord]) -> list[RunRecord]:
    """Without those that measured less than the others, so that all panels show the same seeds."""
    measured = [(bool(record.evaluation), record.training.x.size > 0) for record in group]
    complete = []
    for record, kinds in zip(group, measured, strict=True):
        if kinds == max(measured):
            complete.append(record)
        else:
            warnings.warn(f"{record.folder} has not measured all yet: it is left out", stacklevel=2)
    return complete


def _names(records: list[RunRecord]) -> list[str]:
    """What tells these experiments apart: their configs, or the settings that differ."""
    several_configs = len({record.config for record in records}) > 1
    names = []
    for record in records:
        rivals = [other.settings for other in records if other.config == record.config]
        parts = [
            f"{key}={'unset' if record.settings.get(key) is None else record.settings[key]}"
            for key in sorted({key for settings in rivals for key in settings})
            if len({json.dumps(settings.get(key)) for settings in rivals}) > 1
        ]
        if several_configs or not parts:
            parts.insert(0, record.config)
        names.append(", ".join(parts))
    return names


def _read_run(folder: Path) -> RunRecord:
    path = folder / "experiment.json"
    if not path.is_file():
        raise UserError(f"{folder} is not a run folder: it has no experiment.json; name another")
    content = _read_json(path)
    try:
        settings = _flatten(content["experiment"])
        config, seed = str(content["config"]), int(settings["run.seed"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _broken(path, f"no config, experiment or run.seed ({error!r})") from error
    kept = {key: value for key, value in settings.items() if key not in IGNORED}
    scale = SOLVER if "plan.total_iterations" in settings else AGENT
    evaluation = _read_evaluations(folder / "evaluation.json", scale.evaluation)
    training = _read_training(folder / "metrics.csv", scale.training)
    if not evaluation and not training.x.size:
        raise UserError(f"{folder} has measured no return yet: plot it when it has gone further")
    return RunRecord(folder, config, kept, seed, evaluation, training, scale)


def _read_evaluations(path: Path, key: str) -> list[tuple[int, list[float]]]:
    content = _read_json(path) if path.exists() else {"evaluations": []}  # not evaluated yet
    try:
        found = {
            int(_finite(entry["transitions"])): [_finite(value) for value in entry[key]]
            for entry in content["evaluations"]
        }
    except (KeyError, TypeError, ValueError) as error:
        raise _broken(path, f"not a list of evaluations ({error!r})") from error
    if not all(found.values()):
        raise _broken(path, "an evaluation has no returns")
    return sorted(found.items())


def _read_training(path: Path, name: str) -> Curve:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        if rows and len(rows[-1]) < len(header):  # the run is writing it right now
            rows.pop()
        time = header.index("transitions")
        column = header.index(name) if name in header else None
        points = [
            (_finite(row[time]), _finite(row[column]))
            for row in rows
            if column is not None and row[column]
        ]
    except (OSError, ValueError, IndexError, csv.Error) as error:
        raise _broken(path, f"empty, or no table with transitions ({error})") from error
    return Curve(*np.array(points, float).reshape(-1, 2).T)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise _broken(path, f"not JSON ({error})") from error


def _broken(path: Path, why: str) -> UserError:
    return UserError(f"{path} cannot be read: {why}; leave this run out, or train it again")


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value} is not finite")
    return number


def _flatten(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted names to values."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
