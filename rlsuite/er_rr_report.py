"""The figures of ``er_rr`` beside what they should be, and their pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rlsuite.claims import Claim, Gate, Results, mean_error, ratio_error
from rlsuite.er_rr import CHAINS, MEASURE_EVERY, STEP_SIZES, Tracking
from rlsuite.plot import COLOURS, make_figure, write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

THEORY = "exact, docs/er_rr.md"
LIMIT = "first order in the step size, docs/er_rr.md"
EARLIER = "an earlier simulation of ours"
PAPER = "the paper's claim"


def claims(results: Results) -> list[Claim]:
    """One for every figure of the experiments that were measured."""
    sections = (_lifetime, _tracking, _chains, _grid, _prioritized, _noise)
    return [claim for section in sections for claim in section(results)]


LIFETIME = {
    "uniform": ("8", Gate(7.4, 8.6)),
    "WOR": ("7.74", Gate(7.24, 8.44)),
    "RR-C": ("1/3", Gate(0.283, 0.383)),
}


def _lifetime(results: Results) -> Iterator[Claim]:
    for arm, (variance, gate) in LIFETIME.items():
        counts = results.get(("lifetime", arm), [])
        if counts:
            found = mean_error([one.var() for one in counts])
            what = f"{arm}: draws in a life"
            yield Claim("lifetime", f"{what}, variance", variance, THEORY, *found, gate)
            if arm == "RR-C":
                found = mean_error([one.mean() for one in counts])
                least, most = min(one.min() for one in counts), max(one.max() for one in counts)
                exact = Gate(7.97, 8.03)
                yield Claim("lifetime", f"{what}, mean", "8", THEORY, *found, exact)
                yield Claim("lifetime", f"{what}, least", "7", THEORY, least, None, Gate(low=7))
                yield Claim("lifetime", f"{what}, most", "9", THEORY, most, None, Gate(high=9))


TRACKING: dict[str, tuple[str, Gate | None]] = {
    "PER": ("127.7", Gate(low=80)),
    "PER stratified": ("123", Gate(low=60)),
    "RR-M": ("0.31", Gate(high=0.6)),
    "RR-M dense": ("0.31", Gate(high=0.6)),
    "RR-M stratified": ("2.0 if repeats count once; here they count", None),
}


def _tracking(results: Results) -> Iterator[Claim]:
    for arm, (square, gate) in TRACKING.items():
        found: Sequence[Tracking] = results.get(("tracking", arm), [])
        if found:
            far = mean_error([one.square for one in found])
            source = THEORY if arm == "PER" else EARLIER  # PER: 128,000 P (1 - P), mean of slots
            yield Claim("tracking", f"{arm}: mean (A - E)²", square, source, *far, gate)
        if found and arm in ("RR-M", "RR-M dense"):
            over, repeats = max(one.over for one in found), sum(one.repeats for one in found)
            what = f"{arm}: most A - E"
            yield Claim("tracking", what, "< 1", THEORY, over, None, Gate(high=1))
            what = f"{arm}: batches with a slot twice"
            yield Claim("tracking", what, "0", THEORY, repeats, None, Gate(high=0))


def _chains(results: Results) -> Iterator[Claim]:
    for name, (length, batch) in CHAINS.items():
        if (name, "uniform") not in results or (name, "RR-C") not in results:
            continue
        epochs = {arm: v for (experiment, arm), v in results.items() if experiment == name}
        gate = Gate(1.62, 1.82) if name == "chain 200, batch 1" else None
        ratio = ratio_error(epochs["uniform"], epochs["RR-C"])
        expected = "e - 1 = 1.718" if batch == 1 else "less than e - 1"
        yield Claim(name, "epochs of uniform / of RR-C", expected, THEORY, *ratio, gate)
        if "WOR" in epochs:
            ratio = ratio_error(epochs["uniform"], epochs["WOR"])
            # The next link's chance to be in a batch, without and with replacement.
            expected = f"{batch / length / (1 - (1 - 1 / length) ** batch):.3f}"
            yield Claim(name, "epochs of uniform / of WOR", expected, THEORY, *ratio)


def _wins(
    results: Results, name: str, pair: tuple[str, str], enough: tuple[int, int] | None = None
) -> Iterator[Claim]:
    """How often the second of ``pair`` has the smaller area under its error, and by how much.

    ``enough``: so many of so many seeds, to be scaled to the number there is.
    """
    if any((name, arm) not in results for arm in pair):
        return
    first, second = (np.mean(results[name, arm], axis=1) for arm in pair)
    won = int(np.sum(second < first))
    gate = enough and Gate(low=math.ceil(enough[0] * len(first) / enough[1]))
    what = f"seeds of {len(first)} in which {pair[1]} beats {pair[0]}"
    source = PAPER if gate else EARLIER
    yield Claim(name, what, "most" if gate else "about half", source, won, gate=gate)
    what = f"mean error of {pair[0]} - of {pair[1]}"
    yield Claim(name, what, "> 0" if gate else "about 0", source, *mean_error(first - second))


def _grid(results: Results) -> Iterator[Claim]:
    yield from _wins(results, "grid", ("uniform", "RR-C"), (25, 30))
    yield from _wins(results, "grid", ("uniform", "WOR"))


def _prioritized(results: Results) -> Iterator[Claim]:
    name = "prioritized grid"
    yield from _wins(results, name, ("PER", "RR-M"), (13, 16))
    yield from _wins(results, name, ("PER", "PER stratified"))
    yield from _wins(results, name, ("PER", "PER WOR"))


NOISE: dict[float, tuple[str, str, Gate | None]] = {
    # The bias of the start has not gone by then.
    0.01: ("1 to 300 (1.3)", f"{LIMIT} ({EARLIER})", None),
    0.05: ("12 (16)", f"{LIMIT} ({EARLIER})", Gate(low=8)),
    0.2: ("above 1 (2.5)", f"{LIMIT} ({EARLIER})", Gate(low=1.8)),
}


def _noise(results: Results) -> Iterator[Claim]:
    for size in STEP_SIZES:
        name = f"noise floor, step {size:g}"
        if (name, "uniform") in results:
            prediction, source, gate = NOISE[size]
            ratio = ratio_error(results[name, "uniform"], results[name, "RR-C"])
            what = "squared error of uniform / of RR-C"
            yield Claim(name, what, prediction, source, *ratio, gate)


def draw(results: Results, folder: Path) -> list[Path]:
    """Write a picture of counts and noise, and one of the learning problems; their paths.

    What was not measured is left out. Raises UserError if matplotlib is missing.
    """
    panels: dict[str, dict[str, Callable[[Axes, Results], None]]] = {
        "counts.png": {
            "lifetime": _draw_lifetime,
            f"noise floor, step {STEP_SIZES[0]:g}": _draw_noise,
        },
        "learning.png": {
            "chain 200, batch 1": _draw_chains,
            "grid": _draw_grid,
            "prioritized grid": _draw_prioritized,
        },
    }
    measured = {experiment for experiment, _ in results}
    paths = []
    for name, draws in panels.items():
        shown = [panel for experiment, panel in draws.items() if experiment in measured]
        if not shown:
            continue
        figure = make_figure(3.6 * len(shown), 3.0)
        for axes, panel in zip(np.ravel(figure.subplots(1, len(shown))), shown, strict=True):
            panel(axes, results)
            axes.tick_params(labelsize=8)
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(alpha=0.3, lw=0.5)
            axes.legend(fontsize=8, frameon=False)
        paths.append(write_figure(figure, folder / name))
    return paths


LOOK = {"uniform": 0, "RR-C": 1, "WOR": 2, "PER": 3, "PER stratified": 4, "PER WOR": 5, "RR-M": 6}


def _colour(arm: str) -> str:
    return COLOURS[LOOK[arm]]


def _label(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)


def _draw_lifetime(axes: Axes, results: Results) -> None:
    _label(axes, "how often a transition is drawn", "draws in its life", "share of transitions")
    for arm in LIFETIME:
        counts = np.concatenate(results["lifetime", arm])
        shares = np.bincount(counts) / len(counts)
        axes.plot(shares, color=_colour(arm), marker="o", ms=3, lw=1, label=arm)


def _draw_noise(axes: Axes, results: Results) -> None:
    _label(axes, "noise floor of TD(0)", "step size", "mean squared error")
    axes.set_xscale("log")
    axes.set_yscale("log")
    sizes = [size for size in STEP_SIZES if (f"noise floor, step {size:g}", "RR-C") in results]
    for arm in ("uniform", "RR-C"):
        found = [mean_error(results[f"noise floor, step {size:g}", arm]) for size in sizes]
        y, error = ([row[i] or 0.0 for row in found] for i in range(2))
        axes.errorbar(sizes, y, error, color=_colour(arm), marker="o", ms=3, lw=1, label=arm)


def _draw_chains(axes: Axes, results: Results) -> None:
    _label(axes, "values along a chain", "length, batch", "epochs until all are exact")
    for offset, arm in ((-0.25, "uniform"), (0, "WOR"), (0.25, "RR-C")):
        shown = [(i, name) for i, name in enumerate(CHAINS) if (name, arm) in results]
        found = [mean_error(results[name, arm]) for _, name in shown]
        y, error = ([row[i] or 0.0 for row in found] for i in range(2))
        x = [i + offset for i, _ in shown]
        axes.bar(x, y, 0.24, yerr=error, color=_colour(arm), label=arm)
    axes.set_xticks(range(len(CHAINS)), [f"{length}, {batch}" for length, batch in CHAINS.values()])


def _draw_grid(axes: Axes, results: Results) -> None:
    _draw_errors(axes, results, "grid", ("uniform", "WOR", "RR-C"))


def _draw_prioritized(axes: Axes, results: Results) -> None:
    _draw_errors(axes, results, "prioritized grid", ("PER", "PER stratified", "PER WOR", "RR-M"))


def _draw_errors(axes: Axes, results: Results, name: str, arms: tuple[str, ...]) -> None:
    _label(axes, f"{name}, mean of seeds", "transitions", "mean |Q - Q*| / mean |Q*|")
    for arm in arms:
        curve = np.mean(results[name, arm], axis=0)
        axes.plot(
            MEASURE_EVERY * np.arange(1, len(curve) + 1), curve, color=_colour(arm), label=arm
        )
