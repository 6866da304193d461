"""The figures of ``hasac_claims`` beside what they should be, and their pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from rlsuite.claims import Claim, Gate, Results, mean_error
from rlsuite.envs.matrix_games import PAYOFFS
from rlsuite.hasac_claims import (
    CURVES,
    DEEP_GAMES,
    EQUILIBRIA,
    GAMES,
    SAMPLED,
    SCHEDULES,
    STARTS,
    Curve,
    Equilibrium,
    Reached,
    equilibria,
    reached,
)
from rlsuite.plot import COLOURS, format_count, make_figure, write_figure
from rlsuite.stats import iqm, probability_of_improvement, stratified_bootstrap, wilson

if TYPE_CHECKING:
    from matplotlib.axes import Axes

THEORY = "exact, docs/hasac.md"
EARLIER = "an earlier simulation of ours"
EARLIER_SEED = "an earlier simulation of ours, one seed, 110k"
PAPER = "the paper's claim"


def claims(results: Results) -> list[Claim]:
    """One for every figure of the experiments that were measured."""
    sections = (
        _sweeps,
        _sampled,
        _order,
        _equilibria,
        _deep_games,
        _deep_equilibria,
        _curves,
        _versus,
    )
    return [claim for section in sections for claim in section(results)]


GREEDY = {
    "mne": 1 - 15 / 39 - 15 / 35 + 15 / 59,
    "penalty": 5 / 33,
    "climbing": 121 / 656,
    "nonmono": 25 / 64,
}
"""Share of the Dirichlet(1) starts from which exact best responses find the optimum."""
FIXED = {"mne": "0.90", "penalty": "1.00", "climbing": "0.00", "nonmono": "0.00"}
"""At temperature 10."""
HELPS = ("mne", "penalty")
"""Games in which the better equilibrium has the larger basin at high temperature."""


def _sweeps(results: Results) -> Iterator[Claim]:
    for game in GAMES:
        for schedule in SCHEDULES:
            found: Sequence[Reached] = results.get((f"matrix {game}", schedule), [])
            if found:
                yield from _schedule(game, schedule, found)


def _schedule(game: str, schedule: str, found: Sequence[Reached]) -> Iterator[Claim]:
    name, best = f"matrix {game}", f"{schedule}: P(best joint action)"
    mass = mean_error([one.optimal for one in found])
    if schedule == "greedy":
        share = GREEDY[game]
        off = 4 * math.sqrt(share * (1 - share) / (STARTS * len(found)))
        yield Claim(name, best, f"{share:.4f}", THEORY, *mass, Gate(share - off, share + off))
    elif schedule == "temperature 10":
        yield Claim(name, best, "", "", *mass)
        likeliest = mean_error([one.likeliest for one in found])
        what = f"{schedule}: starts whose likeliest joint action is the best"
        yield Claim(name, what, FIXED[game], EARLIER, *likeliest)
    elif (game, schedule) == ("penalty", "annealed from 200"):
        # The start is forgotten up to rounding, and what rounding leaves decides.
        yield Claim(name, best, "0.15", EARLIER, *mass)
    else:
        helps = game in HELPS
        gate = Gate(low=0.99) if helps else Gate(high=0.01)
        yield Claim(name, best, "1.00" if helps else "0.00", EARLIER, *mass, gate)
    payoff = mean_error([one.payoff for one in found])
    expected = PAYOFF[game].get(schedule, "")
    source = EARLIER if expected else ""
    yield Claim(name, f"{schedule}: mean payoff", expected, source, *payoff)


PAYOFF = {
    "mne": {"greedy": "13.3", "annealed from 20": "20.0"},
    "penalty": {"greedy": "3.1", "annealed from 20": "10.0", "annealed from 200": "2"},
    "climbing": {"greedy": "7.9", "annealed from 20": "7.0"},
    "nonmono": {"greedy": "2.8", "annealed from 20": "0.0"},
}

SHARES = {
    ("mne", "greedy"): "0.60",
    ("mne", "annealed"): "1.00",
    ("mne", "annealed, at once"): "1.00",
    ("penalty", "greedy"): "0.35",
    ("penalty", "annealed"): "1.00",
}
"""Of 20 seeds, by game and method."""
SHARE_GATES = {
    **{(game, method): Gate(low=0.95) for game in HELPS for method in SAMPLED},
    # Above the 95 % interval of 12 seeds of 20, the larger of the two shares.
    **{(game, "greedy"): Gate(high=0.8) for game in HELPS},
    **{(game, "annealed"): Gate(high=0.05) for game in ("climbing", "nonmono")},
}


def _sampled(results: Results) -> Iterator[Claim]:
    for game in GAMES:
        for method in SAMPLED:
            for found in results.get(("matrix sampled", f"{game}, {method}"), []):
                yield from _method(game, method, found)


def _method(game: str, method: str, found: Sequence[Reached]) -> Iterator[Claim]:
    name, arm, seeds = "matrix sampled", f"{game}, {method}", len(found)
    share = wilson(sum(one.likeliest == 1.0 for one in found), seeds)
    expected, gate = SHARES.get((game, method), ""), SHARE_GATES.get((game, method))
    source = EARLIER if expected else ""
    what = f"{arm}: share of {seeds} seeds whose likeliest joint action is the best"
    yield Claim(name, what, expected, source, share.point, gate=gate, interval=share)
    best = mean_error([one.optimal for one in found])
    yield Claim(name, f"{arm}: P(best joint action)", "", "", *best)
    payoff = mean_error([one.payoff for one in found])
    yield Claim(name, f"{arm}: mean payoff", "", "", *payoff)


ORDER = {
    "sequential": (0.615, 0.680, 0.917, 1.000),
    "simultaneous": (0.615, 0.283, 0.002, 0.000),
}
"""Soft values before and after each step."""


def _order(results: Results) -> Iterator[Claim]:
    for arm, expected in ORDER.items():
        for values in results.get(("matrix order", arm), []):
            for step, (value, predicted) in enumerate(zip(values, expected, strict=True)):
                gate = Gate(predicted - 5e-4, predicted + 5e-4)
                what = f"{arm}: soft value after step {step}"
                yield Claim("matrix order", what, f"{predicted:.3f}", THEORY, value, gate=gate)


RESTS = {
    "mne, temperature 5": (19.9460, 20.0067),
    "mne, temperature 10": (16.5501, 20.8032),
    "mne, temperature 20": (-7.2625, 35.0652),
    "mne, temperature 40": (-9.0719, 78.5978),
    "coordination, temperature 1": (3.8434, 4.0381),
    "coordination, temperature 2": (2.7698, 4.6081),
    "climbing, temperature 2": (6.0943, 8.1467),
}
"""Expected payoff and soft value of the quantal response equilibria; the tests have a root solver
find the same ones."""


def _equilibria(results: Results) -> Iterator[Claim]:
    name = "matrix equilibria"
    for arm, (payoff, soft) in RESTS.items():
        found: Sequence[Equilibrium] = results.get((name, arm), [])
        for one in found:
            pairs = [("expected payoff", payoff, one.payoff), ("soft value", soft, one.soft)]
            for what, expected, value in pairs:
                gate = Gate(expected - 5e-5, expected + 5e-5)
                what = f"{arm}: {what}"
                yield Claim(name, what, f"{expected:.4f}", EARLIER, value, gate=gate)
            what, gate = f"{arm}: distance from a quantal response", Gate(high=1e-12)
            yield Claim(name, what, "0", THEORY, one.residual, gate=gate)
            what, gate = f"{arm}: greatest loss in a step", Gate(high=1e-9)
            yield Claim(name, what, "none", THEORY, one.fall, gate=gate)


DEEP_GATES: dict[tuple[str, str], Callable[[int], Gate]] = {
    ("mne", "annealed"): lambda seeds: Gate(low=math.ceil(0.9 * seeds)),
    ("climbing", "annealed"): lambda seeds: Gate(high=seeds // 10),
}
"""By game and arm, for a number of seeds."""


def _deep_games(results: Results) -> Iterator[Claim]:
    for game in DEEP_GAMES:
        name = f"matrix {game}, deep"
        for arm in ("greedy", "annealed"):
            found = [_reached(game, one) for one in results.get((name, arm), [])]
            if found:
                won = sum(one.likeliest == 1.0 for one in found)
                what = f"{arm}: seeds of {len(found)} that end at the best joint action"
                share = {"greedy": GREEDY[game], "annealed": float(game in HELPS)}[arm]
                gate = DEEP_GATES.get((game, arm))
                scaled = gate and gate(len(found))
                expected, source = f"{share * len(found):.2g}", "exact responses, docs/hasac.md"
                yield Claim(name, what, expected, source, won, gate=scaled)
                payoff = mean_error([one.payoff for one in found])
                yield Claim(name, f"{arm}: mean payoff", "", "", *payoff)


def _reached(game: str, probabilities: Sequence[Sequence[float]]) -> Reached:
    policies = [torch.tensor([row], dtype=torch.float64).log() for row in probabilities]
    return reached(torch.tensor(PAYOFFS[game]), policies)


CLOSE = Gate(high=0.05)
"""Total variation."""


def _deep_equilibria(results: Results) -> Iterator[Claim]:
    name = "matrix equilibria, deep"
    for arm, (game, temperature) in EQUILIBRIA.items():
        exact = [rest.policies for rest in equilibria(game, temperature)]
        found = results.get((name, arm), [])
        if found:
            # Which equilibrium, the theorem does not say.
            worst = max(min(_distance(one, each) for each in exact) for one in found)
            what = f"{arm}: greatest total variation of {len(found)} seeds to an equilibrium"
            yield Claim(name, what, "0", THEORY, worst, gate=CLOSE)
            near = sum(_distance(one, exact[0]) <= CLOSE.high for one in found)
            what = f"{arm}: seeds of {len(found)} at the one that is reached from uniform policies"
            yield Claim(name, what, "", "", near)


def _distance(policies: Sequence[Sequence[float]], exact: Sequence[Sequence[float]]) -> float:
    """The greatest total variation of an agent's policy."""
    pairs = zip(policies, exact, strict=True)
    return max(0.5 * float(np.abs(np.subtract(*pair)).sum()) for pair in pairs)


LEVELS: dict[str, tuple[float, float | None, float]] = {
    # Mean return of random play, what an earlier run had after 110,000 transitions (if there was
    # one), the gate.
    "particles spread": (-79, -36.8, -50),
    "particles spread, discrete": (-83, -38.6, -50),
    # -29.9 is what can be had without communication: to wait at the landmarks' centroid.
    "particles speaker-listener, discrete": (-76, -19.6, -25),
    "particles speaker-listener, continuous": (-76, None, -25),
}


def _curves(results: Results) -> Iterator[Claim]:
    for name, (_, reached_earlier, enough) in LEVELS.items():
        curves: Sequence[Curve] = results.get((name, "HASAC"), [])
        if curves:
            ends = [curve.returns[-1] for curve in curves]
            after = format_count(curves[0].transitions[-1])
            what, gate = f"HASAC: return after {after} transitions", Gate(low=enough)
            known = ("", "") if reached_earlier is None else (f"{reached_earlier:g}", EARLIER_SEED)
            yield Claim(name, what, *known, *mean_error(ends), gate)
            yield Claim(name, f"HASAC: lowest of {len(ends)} seeds", "", "", min(ends))


def _versus(results: Results) -> Iterator[Claim]:
    """HASAC beside every other arm of an experiment, at the end and over the whole curve."""
    for name, (_, arms) in CURVES.items():
        found = {arm: results[name, arm] for arm in arms if (name, arm) in results}
        if "HASAC" not in found or len(found) == 1:
            continue
        ends = {arm: [curve.returns[-1] for curve in curves] for arm, curves in found.items()}
        means = {arm: [np.mean(curve.returns) for curve in found[arm]] for arm in found}
        for arm, scores in ends.items():
            middle = stratified_bootstrap(scores, iqm)
            what = f"{arm}: return at the end, IQM"
            yield Claim(name, what, "", "", middle.point, interval=middle)
        for arm in [arm for arm in found if arm != "HASAC"]:
            for when, scored in {"at the end": ends, "mean of the curve": means}.items():
                won = probability_of_improvement(scored["HASAC"], scored[arm])
                what = f"probability that HASAC beats {arm}, {when}"
                yield Claim(name, what, "> 0.5", PAPER, won.point, interval=won)


def draw(results: Results, folder: Path) -> list[Path]:
    """Write a picture of the matrix games, and one of the learning curves; their paths.

    What was not measured is left out. Raises UserError if matplotlib is missing.
    """
    pictures: dict[str, list[Callable[[Axes], None]]] = {
        "matrix_games.png": [
            *([partial(_draw_sweeps, results)] if ("matrix mne", "greedy") in results else []),
            *([partial(_draw_order, results)] if ("matrix order", "sequential") in results else []),
        ],
        "learning_curves.png": [
            partial(_draw_curves, results, name) for name in CURVES if (name, "HASAC") in results
        ],
    }
    paths = []
    for file, panels in pictures.items():
        if panels:
            figure = make_figure(3.8 * len(panels), 3.2)
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


def _draw_sweeps(results: Results, axes: Axes) -> None:
    _label(axes, "where entropy helps, and where not", "game", "P(best joint action)")
    width = 0.8 / len(SCHEDULES)
    for i, schedule in enumerate(SCHEDULES):
        shown = [(j, g) for j, g in enumerate(GAMES) if (f"matrix {g}", schedule) in results]
        heights = [
            np.mean([one.optimal for one in results[f"matrix {game}", schedule]])
            for _, game in shown
        ]
        x = [j + (i - (len(SCHEDULES) - 1) / 2) * width for j, _ in shown]
        axes.bar(x, heights, width, color=COLOURS[i], label=schedule)
    axes.set_xticks(range(len(GAMES)), GAMES)


def _draw_order(results: Results, axes: Axes) -> None:
    _label(axes, "[[0, 1], [1, 0]], temperature 0.1", "steps", "soft value")
    for i, arm in enumerate(ORDER):
        for values in results.get(("matrix order", arm), []):
            axes.plot(values, color=COLOURS[i], marker="o", ms=3, lw=1, label=arm)
    axes.set_xticks(range(len(ORDER["sequential"])))


def _draw_curves(results: Results, name: str, axes: Axes) -> None:
    """Every seed thin, the mean thick."""
    title = name.removeprefix("particles ")
    _label(axes, title, "environment transitions", "return per episode")
    for i, arm in enumerate(CURVES[name][1]):
        curves: Sequence[Curve] = results.get((name, arm), [])
        for curve in curves:
            axes.plot(*curve, color=COLOURS[i], lw=0.6, alpha=0.5)
        if curves:
            mean = np.mean([curve.returns for curve in curves], axis=0)
            seeds = f"{arm}, mean of {len(curves)} seeds"
            axes.plot(curves[0].transitions, mean, color=COLOURS[i], lw=1.8, label=seeds)
    axes.axhline(LEVELS[name][0], color="grey", lw=0.8, ls=":", label="random play")
    axes.xaxis.set_major_formatter(lambda value, _: format_count(value))
