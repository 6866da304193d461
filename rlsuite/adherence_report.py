"""The figures of ``adherence_claims`` beside what they should be, and their pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlsuite.adherence_claims import (
    ADHERENCES,
    AGNOSTIC,
    BUDGET,
    BUDGET_EPISODES,
    BUDGET_LEARNERS,
    BUDGETS,
    CAR_MAPS,
    COSTS,
    EPISODES,
    GAP_COSTS,
    HUMANS,
    LEARNERS,
    MAP_COSTS,
    THETAS,
    Frontier,
    Learned,
)
from rlsuite.claims import Claim, Gate, Results, mean_error
from rlsuite.envs.advice_tables import GRID, Human
from rlsuite.plot import COLOURS, STYLES, format_count, make_figure, write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EARLIER = "a prototype of ours"
PAPER = "the paper's claim"
OURS = "ours"


def claims(results: Results) -> list[Claim]:
    """One for every figure of the experiments that were measured."""
    sections = (_cliff, _flight, _regret, _tuned, _explored, _adherence, _budget, _drive)
    return [claim for section in sections for claim in section(results)]


CLIFF = {
    "blind": {0.3: -23.585, 0.5: -28.967, 0.7: -33.476, 0.9: -26.745, 1.0: -13.0},
    "aware": {0.3: -17.0, 0.5: -16.999, 0.7: -16.960, 0.9: -16.372, 1.0: -13.0},
}


def _cliff(results: Results) -> Iterator[Claim]:
    for found in results.get(("cliff", "exact"), []):
        for who, expected in CLIFF.items():
            for theta, value in expected.items():
                measured = found[who][ADHERENCES.index(theta)]
                gate = Gate(value - 6e-4, value + 6e-4)
                what = f"{who}, adherence {theta}: return"
                yield Claim("cliff", what, f"{value:.3f}", EARLIER, measured, gate=gate)
        inner = [i for i, theta in enumerate(ADHERENCES) if 0.3 <= theta <= 0.9]
        lost = max(found["blind"][i] - found["human alone"][i] for i in inner)
        what = "blind less human alone, at most, adherence 0.3 to 0.9"
        yield Claim("cliff", what, "< 0", OURS, lost, gate=Gate(high=-1e-9))
        gained = min(a - h for a, h in zip(found["aware"], found["human alone"], strict=True))
        what = "aware less human alone, at least"
        yield Claim("cliff", what, ">= 0", PAPER, gained, gate=Gate(low=-1e-9))


FLIGHT_BUDGETS = {
    **{0.0: 1.04423, 1.0: 1.92097, 2.0: 2.61576, 3.0: 3.05171},
    **{5.0: 3.25821, 8.0: 3.44907, 12.0: 3.61964, 19.0: 3.65149},
}
"""Of the human Greedy."""
FLIGHT_NET = {
    "greedy": [3.6515, 3.3807, 3.0534, 2.7637, 2.4757, 1.9409, 1.0652],
    "safe": [2.6076, 2.3433, 2.0357, 1.6656, 1.1731, 0.7337, 0.4987],
}
"""By ``COSTS``."""


def _flight(results: Results) -> Iterator[Claim]:
    for human in HUMANS:
        name = f"flight {human}"
        for found in results.get((name, "exact"), []):
            expected = zip(COSTS, FLIGHT_NET[human], found.net, strict=True)
            for cost, value, measured in expected:
                gate, what = Gate(value - 6e-5, value + 6e-5), f"net return at cost {cost}"
                yield Claim(name, what, f"{value:.4f}", EARLIER, measured, gate=gate)
            if human == "greedy":
                for budget, value in FLIGHT_BUDGETS.items():
                    measured = found.budgets[BUDGETS.index(budget)]
                    gate, what = Gate(value - 1e-5, value + 1e-5), f"return with {budget:g} advices"
                    yield Claim(name, what, f"{value:.5f}", EARLIER, measured, gate=gate)
                first, last = found.budgets[0], found.budgets[-1]
                share = (found.budgets[BUDGETS.index(3.0)] - first) / (last - first)
                what = "share of the whole gain that 3 advices bring"
                yield Claim(name, what, "0.77", EARLIER, share, gate=Gate(low=0.75))


REGRET = {
    ("greedy", "UCB-AD"): "179",
    ("greedy", "UCB-AD, c = 1"): "833",
    ("greedy", "FUCB-AD"): "1439",
    ("greedy", "UCBVI, c = 0.005"): "833",
    ("greedy", "EULER, c = 0.0001"): "997",
    ("greedy", "EULER, c = 1.0"): "15727",
    ("safe", "UCB-AD"): "175",
    ("safe", "UCB-AD, c = 1"): "473",
    ("safe", "FUCB-AD"): "922",
    ("safe", "UCBVI, c = 0.005"): "986",
    ("safe", "EULER, c = 0.0001"): "783",
    ("safe", "EULER, c = 1.0"): "11303",
}
"""After 5,000 episodes, 3 seeds."""


def _regret(results: Results) -> Iterator[Claim]:
    for human in HUMANS:
        name = f"regret {human}"
        for arm in LEARNERS:
            for found in results.get((name, arm), []):
                expected = REGRET.get((human, arm), "")
                gate = Gate(high=260) if arm == "UCB-AD" else None
                total = mean_error(found.total[-1])
                what = f"{arm}: regret after {EPISODES}"
                yield Claim(name, what, expected, EARLIER if expected else "", *total, gate)
                gate = Gate(high=0.05) if arm == "UCB-AD" else None
                what = f"{arm}: mean gap of the last 100 episodes"
                yield Claim(name, what, "", "", *mean_error(found.tail), gate)


def _tuned(results: Results) -> Iterator[Claim]:
    """The paper's Figure 2: against the agnostic learners with the constants that suit them."""
    for human in HUMANS:
        name = f"regret {human}"
        totals = {
            arm: float(np.mean(results[name, arm][0].total[-1]))
            for arm in ("UCB-AD", *AGNOSTIC)
            if (name, arm) in results
        }
        for kind in ("UCBVI", "EULER"):
            rivals = {arm: total for arm, total in totals.items() if arm.startswith(kind)}
            if rivals and "UCB-AD" in totals:
                best = min(rivals, key=lambda arm: rivals[arm])
                what = f"regret of {best} (the best c) over UCB-AD's"
                ratio = rivals[best] / totals["UCB-AD"]
                yield Claim(name, what, "> 1", PAPER, ratio, gate=Gate(low=3))


def _explored(results: Results) -> Iterator[Claim]:
    """The paper's Figure 3a: one exploration for all costs."""
    for human in HUMANS:
        name = f"regret {human}"
        for found in results.get((name, "RFE-AD"), []):
            for episodes in (100, 300, 1000, 5000):
                gaps = found.by_cost[found.marks.index(episodes)]
                for cost, runs in zip(GAP_COSTS, gaps, strict=True):
                    gate = Gate(high=0.15) if episodes == 1000 else None
                    what = f"RFE-beta: gap of the plan at cost {cost} after {episodes}"
                    expected = EXPLORED.get((human, episodes), {}).get(cost, "")
                    source = EARLIER if expected else ""
                    yield Claim(name, what, expected, source, *mean_error(runs), gate)


def _by_cost(*gaps: str) -> dict[float, str]:
    return dict(zip(GAP_COSTS, gaps, strict=True))


EXPLORED = {
    ("greedy", 100): _by_cost("1.36", "0.93", "0.85", "0.97", "1.18"),
    ("greedy", 300): _by_cost("0.36", "0.12", "0.03", "0.11", "0.17"),
    ("greedy", 1000): _by_cost("0.10", "0.07", "0.05", "0.06", "0.06"),
    ("greedy", 5000): _by_cost("0.005", "0.024", "0.040", "0.027", "0.000"),
    ("safe", 300): _by_cost("0.66", "0.61", "0.47", "0.30", "0.19"),
    ("safe", 1000): _by_cost("0.11", "0.07", "0.06", "0.06", "0.04"),
    ("safe", 5000): _by_cost("0.026", "0.044", "0.007", "0.005", "0.008"),
}


def _adherence(results: Results) -> Iterator[Claim]:
    """The paper's Figure 2c."""
    for human in HUMANS:
        name = f"adherence {human}"
        for theta in THETAS:
            for found in results.get((name, f"theta {theta}"), []):
                total = mean_error(found.total[-1])
                yield Claim(name, f"adherence {theta}: regret after {EPISODES}", "", "", *total)
                half = np.mean(found.total[found.marks.index(EPISODES // 2)])
                if half == 0:  # who is always followed is as optimism has it
                    continue
                what = f"adherence {theta}: regret after {EPISODES} over that after half"
                gate = Gate(high=1.7)
                ratio = total[0] / float(half)
                yield Claim(name, what, "< 2: sublinear", PAPER, ratio, gate=gate)


def _budget(results: Results) -> Iterator[Claim]:
    """The paper's Figures 3b and 3c."""
    name = "budget greedy"
    for arm in BUDGET_LEARNERS:
        for found in results.get((name, arm), []):
            own = arm == "RFE-CMDP"
            expected = {300: ("2.52-2.98", "2.88-3.07"), 1000: ("3.03-3.05", "2.93-2.99")}
            expected[2000] = ("3.03-3.05", "2.95-3.05")
            for episodes, (gross, advices) in expected.items():
                last = own and episodes == BUDGET_EPISODES
                mark = found.marks.index(episodes)
                source = EARLIER if own else ""
                what, gate = f"{arm}: return after {episodes}", Gate(low=2.95) if last else None
                values = mean_error(found.gross[mark])
                yield Claim(name, what, gross if own else "", source, *values, gate)
                what, gate = f"{arm}: advices after {episodes}", Gate(high=3.1) if last else None
                values = mean_error(found.advices[mark])
                yield Claim(name, what, advices if own else "", source, *values, gate)


def _drive(results: Results) -> Iterator[Claim]:
    name = "drive env3"
    for arm, gap, total in (("0.1", "0-0.0054", "6-25"), ("1.0", "0.0006-0.024", "15-121")):
        for found in results.get((name, f"UCB-AD, c = {arm}"), []):
            gate = Gate(high=0.02) if arm == "0.1" else None
            by_map = np.reshape(found.tail, (-1, CAR_MAPS))
            what = f"UCB-AD, c = {arm}: gap of the last 100 episodes, mean of the runs"
            yield Claim(name, what, gap, EARLIER, *mean_error(found.tail))
            what = f"UCB-AD, c = {arm}: gap of the last 100 episodes, greatest mean of a map"
            yield Claim(name, what, gap, EARLIER, float(by_map.mean(0).max()), gate=gate)
            what = f"UCB-AD, c = {arm}: gap of the last 100 episodes, greatest of a run"
            yield Claim(name, what, gap, EARLIER, float(by_map.max()))
            what = f"UCB-AD, c = {arm}: regret, mean of the runs"
            yield Claim(name, what, total, EARLIER, *mean_error(found.total[-1]))


def draw(results: Results, folder: Path) -> list[Path]:
    """Write the pictures of what was measured; their paths. UserError if matplotlib is missing."""
    pairs = [(human, results.get((f"flight {human}", "exact"), [])) for human in HUMANS]
    exact: dict[Human, Frontier] = {human: found[0] for human, found in pairs if found}
    pictures: dict[str, list[Callable[[Axes], None]]] = {
        "adherence.png": [partial(_draw_cliff, one) for one in results.get(("cliff", "exact"), [])],
        "frontier.png": [partial(_draw_frontier, *entry) for entry in exact.items()],
        "map.png": [
            partial(_draw_map, human, one, i)
            for human, one in exact.items()
            for i in range(len(MAP_COSTS))
        ],
        "regret.png": _panels(results, "regret", SHOWN, "total", "regret"),
        "regret_by_adherence.png": _panels(results, "adherence", None, "total", "regret"),
        "gap_by_cost.png": [
            partial(_draw_gaps, human, results[f"regret {human}", "RFE-AD"][0])
            for human in HUMANS
            if (f"regret {human}", "RFE-AD") in results
        ],
        "budget.png": [
            *_panels(results, "budget", None, "gross", "return"),
            *_panels(results, "budget", None, "advices", "advices an episode"),
        ],
    }
    paths = []
    for file, panels in pictures.items():
        if panels:
            wide = min(len(panels), 3)
            high = -(-len(panels) // wide)
            figure = make_figure(3.8 * wide, (2.2 if file == "map.png" else 3.4) * high)
            grid = np.ravel(figure.subplots(high, wide, squeeze=False))
            for axes, panel in zip(grid, panels, strict=False):
                panel(axes)
                axes.tick_params(labelsize=8)
            paths.append(write_figure(figure, folder / file))
    return paths


SHOWN = [
    *("UCB-AD", "UCB-AD, c = 1", "RFE-AD", "FUCB-AD"),
    *("UCBVI, c = 0.005", "EULER, c = 0.0001", "EULER, c = 1.0", "human alone"),
]


def _dress(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3, lw=0.5)
    axes.legend(fontsize=7, frameon=False)


def _draw_cliff(found: dict[str, list[float]], axes: Axes) -> None:
    for i, (who, values) in enumerate(found.items()):
        axes.plot(ADHERENCES, values, color=COLOURS[i], ls=STYLES[i % 4], label=who)
    _dress(axes, "beside the cliff", "adherence", "return")


def _draw_frontier(human: str, found: Frontier, axes: Axes) -> None:
    axes.plot(BUDGETS, found.budgets, color=COLOURS[0], label="on a budget")
    axes.plot(found.advices, found.gross, "o", ms=3, color=COLOURS[1], label="at a cost")
    axes.plot(found.blind[1], found.blind[0], "x", color=COLOURS[2], label="blind, always")
    _dress(axes, f"human {human}", "advices an episode", "return")


def _draw_map(human: str, found: Frontier, which: int, axes: Axes) -> None:
    """Where one speaks, and what: down, up, twice up."""
    advice = np.array(found.maps[which]).T
    said = np.full(GRID.shape, np.nan)
    said[:, : advice.shape[1]] = np.where(advice < 3, advice, np.nan)
    said[GRID == "#"] = np.nan
    axes.imshow(GRID == "#", cmap="Greys", vmin=0, vmax=2)
    for action, mark in enumerate(("v", "^", "$2$")):
        y, x = np.nonzero(said == action)
        axes.plot(x, y, ls="", marker=mark, ms=4, color=COLOURS[action])
    y, x = np.nonzero(GRID == "*")
    axes.plot(x, y, ls="", marker="*", ms=8, mfc="none", mec=COLOURS[4])
    axes.set_title(f"human {human}, cost {MAP_COSTS[which]}", fontsize=9)


def _panels(
    results: Results, kind: str, arms: list[str] | None, what: str, label: str
) -> list[Callable[[Axes], None]]:
    """A panel for each human of the arms (or all) that were measured."""
    panels: list[Callable[[Axes], None]] = []
    for human in HUMANS:
        name = f"{kind} {human}"
        own = [arm for experiment, arm in results if experiment == name]
        found = {arm: results[name, arm][0] for arm in arms or own if arm in own}
        if found:
            panels.append(partial(_draw_curves, f"human {human}", found, what, label))
    return panels


def _draw_curves(title: str, arms: dict[str, Learned], what: str, label: str, axes: Axes) -> None:
    """Mean of the runs; the band goes from the lowest to the highest."""
    for i, (arm, found) in enumerate(arms.items()):
        y: Any = np.array(getattr(found, what))
        axes.plot(found.marks, y.mean(1), color=COLOURS[i % 7], ls=STYLES[i // 7], label=arm)
        axes.fill_between(found.marks, y.min(1), y.max(1), color=COLOURS[i % 7], alpha=0.15, lw=0)
    axes.set_xscale("log")
    if what == "total":
        axes.set_yscale("log")
    if what == "advices":
        axes.axhline(BUDGET, color="grey", lw=0.8, ls=":", label="budget")
    axes.xaxis.set_major_formatter(lambda value, _: format_count(value))
    _dress(axes, title, "episodes", label)


def _draw_gaps(human: str, found: Learned, axes: Axes) -> None:
    gaps = np.array(found.by_cost).mean(2)
    for i, cost in enumerate(GAP_COSTS):
        axes.plot(found.marks, gaps[:, i], color=COLOURS[i], label=f"cost {cost}")
    axes.axhline(0, color="red", lw=0.8, ls="--")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: format_count(value))
    _dress(axes, f"human {human}: plans of one exploration", "episodes", "value gap")
