"""The figures of ``drpg_claims`` beside what they should be, and their pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rlsuite.claims import Claim, Gate, Results, mean_error
from rlsuite.drpg_claims import (
    GARNETS,
    GARNETS_PER_STATE,
    INNER,
    INNER_STEPS,
    JUDGED,
    PAPER_STEP,
    SEEN,
    SPEEDS,
    STEPS,
    STEPS_PER_STATE,
    SUCCESS_RATES,
    TOY_RADII,
    TOYS,
    VALUE_ITERATION,
    Array,
    Chatter,
    Descent,
    Inventory,
    Judged,
    Toy,
)
from rlsuite.plot import COLOURS, make_figure, write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

THEORY = "exact, docs/drpg.md"
EARLIER = "an earlier simulation of ours"
ROUND_OFF = 1e-9
"""Of costs of about 50."""


def claims(results: Results) -> list[Claim]:
    """One for every figure of the experiments that were measured."""
    sections = (
        _convergence,
        _per_state,
        _certificates,
        _inner_loops,
        _worth,
        _inventory_starts,
        _inventory_means,
        _toys,
        _shifts,
        _speeds,
    )
    return [claim for section in sections for claim in section(results)]


def joined(batches: Sequence[Descent]) -> Descent:
    """One batch of all instances."""
    return Descent(
        np.concatenate([one.cost for one in batches], 1),
        np.concatenate([one.certificate for one in batches], 1),
        np.concatenate([one.optimum for one in batches]),
        float(np.mean([one.mixed for one in batches])),
    )


def relative_gap(descent: Descent) -> Array:
    """(T, N) distance of the iterates' costs to the optimum, over the optimum."""
    gap: Array = descent.cost / descent.optimum - 1
    return gap


FIGURE = {"garnet 5-6-3": 0.099, "garnet 10-6-3": 0.36, "garnet 15-8-3": 0.81}
"""Mean |J - J of value iteration| after 100 iterations with the paper's steps."""


def _convergence(results: Results) -> Iterator[Claim]:
    for name in GARNETS:
        found = {
            arm: joined(results[name, arm])
            for arm in (PAPER_STEP, *STEPS, VALUE_ITERATION)
            if (name, arm) in results
        }
        for arm, iteration, enough in (("greedy step", 10, 1e-9), ("step 1000", 40, 1e-4)):
            if arm in found:
                gap = relative_gap(found[arm])[iteration]
                what = f"{arm}: greatest relative gap of {len(gap)}, iteration {iteration}"
                gate = Gate(high=enough)
                yield Claim(name, what, f"<= {enough:g}", EARLIER, float(gap.max()), gate=gate)
        if PAPER_STEP in found and VALUE_ITERATION in found:
            off = np.abs(found[PAPER_STEP].cost - found[VALUE_ITERATION].cost)[100]
            expected = FIGURE.get(name)
            near = Gate(0.7 * expected, 1.3 * expected) if expected else None
            what = f"{PAPER_STEP}: |J - J of value iteration|, iteration 100"
            source = EARLIER if expected else ""
            yield Claim(name, what, f"{expected or ''}", source, *mean_error(off), near)
        if PAPER_STEP in found:
            last = relative_gap(found[PAPER_STEP])[-1]
            what = f"{PAPER_STEP}: relative gap, last iteration, median"
            yield Claim(name, what, "", "", float(np.median(last)))


def _per_state(results: Results) -> Iterator[Claim]:
    for name in GARNETS_PER_STATE:
        for arm in STEPS_PER_STATE:
            if (name, arm) in results:
                yield from _per_state_step(name, arm, joined(results[name, arm]))


def _per_state_step(name: str, arm: str, found: Descent) -> Iterator[Claim]:
    wide, gap = name.endswith("wide"), relative_gap(found)
    if arm == "constant step":
        what = f"{arm}: relative gap, iteration 100, median"
        floor = float(np.median(gap[100]))
        high = Gate(low=1e-2) if wide else None
        yield Claim(name, what, ">= 0.01", EARLIER, floor, gate=high)
        return
    best, gated = gap.min(0), wide and arm == "decaying step"
    for which, value, enough in (
        ("median", float(np.median(best)), 8e-4),
        ("greatest", float(best.max()), 2e-3),
    ):
        what = f"{arm}: relative gap of the best iterate, {which} of {len(best)}"
        gate = Gate(high=enough) if gated else None
        source = EARLIER if gated else ""
        yield Claim(name, what, f"<= {enough:g}" if gated else "", source, value, gate=gate)
    if arm == "decaying step":
        what = "states in which the optimal policy randomises, share"
        yield Claim(name, what, "every state", EARLIER, found.mixed)


def _certificates(results: Results) -> Iterator[Claim]:
    for name in (*GARNETS, *GARNETS_PER_STATE):
        arms = [arm for found, arm in results if found == name]
        slacks = []
        for arm in arms:
            found = joined(results[name, arm])
            slacks.append((found.certificate - np.abs(found.cost - found.optimum)).min())
        if slacks:
            what, gate = "least certificate less true gap, all iterates", Gate(low=-ROUND_OFF)
            yield Claim(name, what, ">= 0", THEORY, float(min(slacks)), gate=gate)
        if VALUE_ITERATION in arms:
            bound = joined(results[name, VALUE_ITERATION]).certificate
            factor = float((bound[1:] / bound[:-1]).max())
            what, gate = f"{VALUE_ITERATION}: greatest factor of a sweep", Gate(high=0.95 + 1e-6)
            yield Claim(name, what, "<= 0.95", THEORY, factor, gate=gate)


INNER_GAPS = {
    "cold": ">= 0.001",
    "warm": "<= 1e-09",
    "warm and fill": "<= 1e-09",
    "exact": "<= 1e-09",
}
"""Greatest gap with steps of 1, of three instances from uniform policies. No gate but that of the
documented failure: three are few, and these start elsewhere."""


def _inner_loops(results: Results) -> Iterator[Claim]:
    name = "inner loop"
    for step in INNER_STEPS:
        for loop in INNER:
            arm = f"{loop}, step {step:g}"
            found: Sequence[Chatter] = results.get((name, arm), [])
            if found:
                gap = np.concatenate([one.gap for one in found])
                expected = INNER_GAPS.get(loop, "") if step == 1 else ""
                gate = Gate(low=1e-3) if expected and loop == "cold" else None
                what = f"{arm}: greatest relative gap of {len(gap)}"
                source = EARLIER if expected else ""
                yield Claim(name, what, expected, source, float(gap.max()), gate=gate)
                solves = mean_error([one.solves for one in found])
                what, few = f"{arm}: linear systems an iteration", loop == "warm and fill"
                gate = Gate(high=5) if few else None
                yield Claim(
                    name, what, "<= 5" if few else "", EARLIER if few else "", *solves, gate
                )


PRICES = {
    "worth 5-6-3": (2.0, 1.2),
    "worth 10-6-3": (2.3, 2.7),
    "worth 15-8-3": (4.1, 3.4),
}
"""Per cent: non-robust policy under the worst kernel, robust one under the nominal."""


def _worth(results: Results) -> Iterator[Claim]:
    for name in JUDGED:
        if (name, "robust") in results and (name, "non-robust") in results:
            yield from _compared(
                name, *(_judged(results, name, arm) for arm in ("robust", "non-robust"))
            )


def _judged(results: Results, name: str, arm: str) -> Judged:
    batches: Sequence[Judged] = results[name, arm]
    return Judged(*(np.concatenate(parts) for parts in zip(*batches, strict=True)))


def _compared(name: str, robust: Judged, plain: Judged) -> Iterator[Claim]:
    least, nominal = robust.least.T
    extra = 100 * (plain.worst / least - 1)
    cost = 100 * (robust.nominal / nominal - 1)
    price = [f"{x:g}" for x in PRICES.get(name, ())] or ["", ""]
    sources = [EARLIER if x else "" for x in price]
    what = "worst kernel: non-robust policy costs more by, %"
    yield Claim(name, what, price[0], sources[0], *mean_error(extra))
    # The earlier simulation's 12 came of fewer instances: it is no bound.
    what, expected = f"the same, greatest of {len(extra)}", "12, no bound" if price[0] else ""
    yield Claim(name, what, expected, sources[0], float(extra.max()), gate=Gate(low=-ROUND_OFF))
    what = "nominal kernel: robust policy costs more by, %"
    yield Claim(name, what, price[1], sources[1], *mean_error(cost))
    what, expected = "ambiguity raises the least cost by, %", "26 to 30" if price[0] else ""
    yield Claim(name, what, expected, sources[0], *mean_error(100 * (least / nominal - 1)))
    change = 100 * (robust.random.mean(1) / plain.random.mean(1) - 1)
    what = "random kernels: robust policy costs more by, %"
    yield Claim(name, what, "", "", *mean_error(change))
    spread = 100 * (robust.random.std(1) / plain.random.std(1) - 1)
    what = "random kernels: standard deviation is larger by, %"
    yield Claim(name, what, "", "", *mean_error(spread))
    won = (robust.random < plain.random).mean(1)
    what = "random kernels under which the robust policy costs less, share"
    yield Claim(name, what, "", "", *mean_error(won))
    what = "greatest cost of a random kernel less that of the worst"
    over = max(float((one.random - one.worst[:, None]).max()) for one in (robust, plain))
    yield Claim(name, what, "<= 0", THEORY, over, gate=Gate(high=ROUND_OFF))


ORACLE = {
    "robust, step 0.1": (70.727, 51.170, 50.097, 47.994, 46.989, 46.364, 46.299, 46.297),
    "robust, step 0.01": (70.727, 51.772, 51.374, 50.911, 50.349, 49.267, 47.777, 46.893),
    "non-robust": (70.727, 54.500, 54.150, 53.214, 51.968, 50.718, 49.681, 49.774),
}
"""From uniform start and policy, at the iterations of ``SEEN``."""


def _inventory_starts(results: Results) -> Iterator[Claim]:
    for arm, expected in ORACLE.items():
        for found in results.get(("inventory", arm), []):
            for t, value, predicted in zip(SEEN, found.cost[:, 0], expected, strict=True):
                gate = Gate(predicted - 1e-2, predicted + 1e-2)
                what = f"{arm}: uniform start, iteration {t}"
                source, value = EARLIER, float(value)
                yield Claim("inventory", what, f"{predicted:.3f}", source, value, gate=gate)


INVENTORY_MEANS = {
    "robust, step 0.1": (46.3, 0.3, "16.30"),
    "non-robust": (49.7, 0.7, "15.05"),
}
"""Worst-case cost and its tolerance, nominal cost."""


def _inventory_means(results: Results) -> Iterator[Claim]:
    name = "inventory"
    ends: dict[str, Array] = {}
    for arm in ORACLE:
        found: Sequence[Inventory] = results.get((name, arm), [])
        if found:
            ends[arm] = last = np.concatenate([one.cost[-1, 1:] for one in found])
            middle, off, nominal = INVENTORY_MEANS.get(arm, (None, 0.0, ""))
            gate = Gate(middle - off, middle + off) if middle else None
            source = EARLIER if middle else ""
            what = f"{arm}: worst case, random starts"
            yield Claim(name, what, f"{middle or ''}", source, *mean_error(last), gate)
            wider = mean_error(np.concatenate([one.ends[1:] for one in found]))
            yield Claim(name, f"{arm}: the same, six ascents", "", "", *wider)
            there = mean_error(np.concatenate([one.nominal[1:] for one in found]))
            yield Claim(name, f"{arm}: nominal kernel", nominal, source, *there)
            drawn = mean_error(np.concatenate([one.random[1:].mean(1) for one in found]))
            yield Claim(name, f"{arm}: random kernels", "", "", *drawn)
    if {"robust, step 0.1", "non-robust"} <= set(ends):
        saving = 100 * (1 - ends["robust, step 0.1"] / ends["non-robust"])
        what, gate = "robust, step 0.1: worst case is lower by, %", Gate(6, 8)
        yield Claim(name, what, "6 to 8", EARLIER, *mean_error(saving), gate)


TOY_VALUES = {
    "FrozenLake 4x4": (0.542026, 0.364385, 0.061989, 0.000009),
    "FrozenLake 8x8": (0.414640, 0.218813, 0.008892, None),
    "CliffWalking": (-46.352672, -58.430626, -92.734138, -100.0),
}
"""By radius of ``TOY_RADII``; None has not been solved before."""


def _toys(results: Results) -> Iterator[Claim]:
    name = "toy text"
    for arm in TOYS:
        found: Sequence[Toy] = results.get((name, arm), [])
        for one in found:
            for radius, value, known in zip(TOY_RADII, one.values, TOY_VALUES[arm], strict=True):
                gate = None if known is None else Gate(known - 1e-5, known + 1e-5)
                what, expected = f"{arm}: return, radius {radius:g}", str(known or "")
                yield Claim(name, what, expected, EARLIER if gate else "", value, gate=gate)
            best = one.values[TOY_RADII.index(0.3)]
            what, gate = f"{arm}: DRPG falls short by, mixed start", Gate(high=1e-6)
            yield Claim(name, what, "0", EARLIER, best - one.mixed, gate=gate)
            # Without mass on every state there is no guarantee: it may fail, and here it does.
            stuck = arm == "CliffWalking"
            what, gate = f"{arm}: DRPG's return, true start", Gate(high=-99.9) if stuck else None
            expected, source = ("-100", EARLIER) if stuck else ("", "")
            yield Claim(name, what, expected, source, one.unmixed, gate=gate)


SHIFTS = {
    "radius 0": (0.265, 0.465, 0.534, 0.407, 0.173, 0.000),
    "radius 0.4": (0.058, 0.230, 0.380, 0.696, 0.833, 0.951),
}
"""Returns by ``SUCCESS_RATES``."""


def _shifts(results: Results) -> Iterator[Claim]:
    for arm, expected in SHIFTS.items():
        for values in results.get(("shifted lake", arm), []):
            for rate, value, known in zip(SUCCESS_RATES, values, expected, strict=True):
                what = f"{arm}: return at success rate {rate:.2g}"
                yield Claim("shifted lake", what, f"{known:.3f}", EARLIER, value)


SPEED_MILLISECONDS = {
    "50 of 15-8-3": "4.5",
    "one of 100-10-10": "2.7",
    "50 of 100-10-10": "91",
    "one of 300-10-10": "10",
    "one of 1000-10-10": "150",
    "one of 1000-10-100": "385",
}


def _speeds(results: Results) -> Iterator[Claim]:
    for arm in SPEEDS:
        for value in results.get(("speed", arm), []):
            what = f"{arm}: CPU milliseconds of an outer iteration"
            yield Claim("speed", what, SPEED_MILLISECONDS[arm], "another machine", value)


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
    paths = []
    for file, panels in pictures.items():
        if panels:
            figure = make_figure(3.6 * len(panels), 3.2)
            for axes, panel in zip(np.ravel(figure.subplots(1, len(panels))), panels, strict=True):
                panel(axes)
                axes.tick_params(labelsize=8)
                axes.spines[["top", "right"]].set_visible(False)
                axes.grid(alpha=0.3, lw=0.5)
                axes.legend(fontsize=7, frameon=False)
            paths.append(write_figure(figure, folder / file))
    return paths


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


def _draw_per_state(results: Results, name: str, axes: Axes) -> None:
    title = name.removeprefix("garnet ")
    _label(axes, f"{title}, mean and 5 to 95 %", "iteration", "relative gap of the last iterate")
    axes.set_yscale("log")
    for i, arm in enumerate(STEPS_PER_STATE):
        if (name, arm) in results:
            gap = relative_gap(joined(results[name, arm])).clip(LEAST_SHOWN)
            _band(axes, gap, COLOURS[i], arm)


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
    for i, arm in enumerate(ORACLE):
        found: Sequence[Inventory] = results.get(("inventory", arm), [])
        if found:
            costs = np.concatenate([one.random[1:].ravel() for one in found])
            share = np.full(len(costs), 1 / len(costs))
            axes.hist(costs, 40, weights=share, histtype="step", color=COLOURS[i], label=arm)


def _draw_worth(results: Results, name: str, axes: Axes) -> None:
    """Costs of both policies over the least worst-case cost."""
    _label(axes, name.removeprefix("worth "), "kernel", "cost / least worst-case cost")
    for i, arm in enumerate(("robust", "non-robust")):
        found = _judged(results, name, arm)
        least = found.least[:, 0]
        shares = [
            found.nominal / least,
            (found.random / least[:, None]).mean(1),
            found.worst / least,
        ]
        means, errors = np.mean(shares, 1), np.std(shares, 1) / np.sqrt(len(least))
        x = np.arange(3) + (i - 0.5) * 0.4
        axes.bar(x, means, 0.38, yerr=errors, color=COLOURS[i], label=arm)
    axes.set_xticks(range(3), ["nominal", "random", "worst"])
    axes.set_ylim(0.5, 1.15)
