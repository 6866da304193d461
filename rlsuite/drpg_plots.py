"""Pictures of what ``drpg_claims`` measured: convergence, inventory, the worth of robustness."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rlsuite.claims import Results
from rlsuite.drpg_claims import (
    GARNETS,
    GARNETS_PER_STATE,
    JUDGED,
    PAPER_STEP,
    SEEN,
    SINGLE_LOOP,
    STEPS_PER_STATE,
    VALUE_ITERATION,
    Array,
    Inventory,
)
from rlsuite.drpg_report import ORACLE, joined, judged, relative_gap
from rlsuite.plot import COLOURS, make_figure, write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(results: Results, folder: Path) -> list[Path]:
    """Write pictures of convergence, inventory and the worth of robustness; their paths.

    What was not measured is left out. Raises UserError if matplotlib is missing.
    """
    drawn = [
        name for name in GARNETS if (name, PAPER_STEP) in results and (name, "step 1000") in results
    ]
    judged = [name for name in JUDGED if {(name, "robust"), (name, "non-robust")} <= set(results)]
    mixed = [name for name in GARNETS_PER_STATE if (name, "decaying step") in results]
    pictures: dict[str, list[Callable[[Axes], None]]] = {
        "convergence.png": [partial(_draw_convergence, results, name) for name in drawn],
        "convergence_per_state.png": [partial(_draw_per_state, results, name) for name in mixed],
        "inventory.png": (
            [partial(_draw_inventory, results), partial(_draw_kernels, results)]
            if ("inventory", "non-robust") in results
            else []
        ),
        "worth.png": [partial(_draw_worth, results, name) for name in judged],
    }
    return [_write(panels, folder / file) for file, panels in pictures.items() if panels]


def _write(panels: Sequence[Callable[[Axes], None]], path: Path) -> Path:
    """Panels in one or two rows, and one legend for all."""
    rows = 2 if len(panels) > 3 else 1
    columns = -(-len(panels) // rows)
    figure = make_figure(3.8 * columns, 2.9 * rows + 0.6)
    places = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, panel in zip(places, panels, strict=False):
        panel(axes)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3, lw=0.5)
    for empty in places[len(panels) :]:
        empty.remove()
    lines = places[0].get_legend_handles_labels()
    figure.legend(*lines, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return write_figure(figure, path)


def _label(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)


def _band(axes: Axes, rows: Array, colour: str, label: str, x: Array | None = None) -> None:
    """Mean of (T, N) rows, and the band from their 5th to their 95th percentile."""
    x = np.arange(len(rows), dtype=np.float64) if x is None else x
    axes.plot(x, rows.mean(1), color=colour, lw=1.4, label=label)
    low, high = np.percentile(rows, (5, 95), axis=1)
    axes.fill_between(x, low, high, color=colour, alpha=0.2, lw=0)


LEAST_SHOWN = 1e-6
"""Gaps below are drawn there: what is left is the arithmetic's."""


def _draw_convergence(results: Results, name: str, axes: Axes) -> None:
    """The paper's figure, |J - J of value iteration|, and the distances to the optimum."""
    _label(axes, f"{name}, mean and 5 to 95 %", "iteration", "cost")
    axes.set_yscale("log")
    paper, default = (joined(results[name, arm]) for arm in (PAPER_STEP, "step 1000"))
    if (name, VALUE_ITERATION) in results:
        sweeps = joined(results[name, VALUE_ITERATION])
        off = np.abs(paper.cost - sweeps.cost).clip(LEAST_SHOWN)
        _band(axes, off, COLOURS[0], "the paper's figure: |DRPG - value iteration|")
        gap = np.abs(sweeps.cost - sweeps.optimum).clip(LEAST_SHOWN)
        _band(axes, gap, COLOURS[3], "value iteration: gap")
    for i, (label, found) in enumerate({"paper's step": paper, "step 1000": default}.items()):
        gap = (found.cost - found.optimum).clip(LEAST_SHOWN)
        _band(axes, gap, COLOURS[1 + i], f"{label}: gap")
        certified = found.certificate.clip(LEAST_SHOWN).mean(1)
        axes.plot(certified, color=COLOURS[1 + i], lw=1, ls="--", label=f"{label}: certified gap")
    if (name, SINGLE_LOOP) in results:
        single = joined(results[name, SINGLE_LOOP])
        gap = (single.cost - single.optimum).clip(LEAST_SHOWN)
        _band(axes, gap, COLOURS[4], f"{SINGLE_LOOP}: gap")


def _draw_per_state(results: Results, name: str, axes: Axes) -> None:
    title = name.removeprefix("garnet ")
    _label(axes, f"{title}, mean and 5 to 95 %", "iteration", "relative gap of the last iterate")
    axes.set_yscale("log")
    for i, arm in enumerate((*STEPS_PER_STATE, VALUE_ITERATION)):
        if (name, arm) in results:
            found = joined(results[name, arm])
            _band(axes, np.abs(relative_gap(found)).clip(LEAST_SHOWN), COLOURS[i], arm)
            certified = (found.certificate / np.abs(found.optimum)).clip(LEAST_SHOWN).mean(1)
            axes.plot(certified, color=COLOURS[i], lw=1, ls="--", label=f"{arm}: certified gap")


def _draw_inventory(results: Results, axes: Axes) -> None:
    _label(axes, "inventory, worst case", "iteration", "cost")
    axes.set_xscale("symlog")
    for i, arm in enumerate(ORACLE):
        found: Sequence[Inventory] = results.get(("inventory", arm), [])
        if found:
            rows = np.concatenate([one.cost[:, 1:] for one in found], 1)
            _band(axes, rows, COLOURS[i], arm, np.array(SEEN, np.float64))


def _draw_kernels(results: Results, axes: Axes) -> None:
    _label(axes, "inventory, random kernels", "cost", "share of kernels")
    found: dict[str, Sequence[Inventory]] = {
        arm: results[key] for arm in ORACLE if (key := ("inventory", arm)) in results
    }
    costs = [np.concatenate([one.random[1:].ravel() for one in found[arm]]) for arm in found]
    bins = np.histogram_bin_edges(np.concatenate(costs), 40).tolist()
    for i, (arm, drawn) in enumerate(zip(found, costs, strict=True)):
        share = np.full(len(drawn), 1 / len(drawn))
        axes.hist(drawn, bins, weights=share, histtype="step", color=COLOURS[i], label=arm)


def _draw_worth(results: Results, name: str, axes: Axes) -> None:
    """Costs of both policies over the least worst-case cost, and their standard errors."""
    _label(axes, name.removeprefix("worth "), "kernel", "cost / least worst-case cost")
    for i, arm in enumerate(("robust", "non-robust")):
        found = judged(results, name, arm)
        least = found.least[:, 0]
        shares = [
            found.nominal / least,
            (found.random / least[:, None]).mean(1),
            found.worst / least,
        ]
        means, errors = np.mean(shares, 1), np.std(shares, 1) / np.sqrt(len(least))
        x = np.arange(3) + (i - 0.5) * 0.2
        axes.errorbar(x, means, errors, fmt="o", ms=4, color=COLOURS[i], label=arm)
    axes.set_xticks(range(3), ["nominal", "random", "worst"])
    axes.set_xlim(-0.5, 2.5)
