"""Evaluation: of agents in separate environments, with fixed seeds, whole episodes and without
exploration; of the solutions of robust MDPs exactly."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, Protocol

from rlsuite.errors import UserError
from rlsuite.stats import Interval, iqm, stratified_bootstrap
from rlsuite.types import Actor, VectorEnv

STEP_LIMIT = 1_000_000
"""An evaluation episode that lasts longer is taken for one that never ends."""
EXACT_METRICS = {
    "evaluate/robust_cost": "Robust cost of the solution, true start; mean over the instances.",
    "evaluate/nominal_cost": "Its cost under the nominal kernel, mean over the instances.",
    "evaluate/gap": "Its robust cost above the least, by exact planning; the greatest.",
}
"""What the evaluations of a solver log. Of a parametric kernel the worst is the worst that ascents
have found, and there is no gap."""


class Assessment(Protocol):
    """An evaluation, of whatever kind."""

    @property
    def transitions(self) -> int:
        """Training transitions before it; a solver's iterations."""

    @property
    def progress(self) -> str:
        """The same in words."""

    @property
    def metrics(self) -> dict[str, float]:
        """What is logged."""

    def summary(self) -> str:
        """A few words."""

    def table(self) -> str:
        """A few lines for people."""

    def to_json(self) -> dict[str, Any]:
        """For ``evaluation.json``; ``read_assessment`` reads it."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Every episode of one evaluation; means are for whoever reads it."""

    transitions: int
    """Training transitions before it."""
    returns: list[float]
    """Undiscounted return per episode."""
    lengths: list[int]
    """Steps per episode."""
    seed: int
    """The evaluation environments' seed: the same seed, the same first states."""
    deterministic: bool = True

    @property
    def mean_return(self) -> float:
        """Mean over episodes."""
        return sum(self.returns) / len(self.returns)

    @property
    def mean_length(self) -> float:
        """Mean steps per episode."""
        return sum(self.lengths) / len(self.lengths)

    @property
    def progress(self) -> str:
        """Transitions, in words."""
        return f"{self.transitions:,} transitions"

    @property
    def metrics(self) -> dict[str, float]:
        """What is logged."""
        return {"evaluate/return": self.mean_return, "evaluate/length": self.mean_length}

    def summary(self) -> str:
        """A few words."""
        low, high = min(self.returns), max(self.returns)
        return f"return {self.mean_return:,.1f} (lowest {low:,.1f}, highest {high:,.1f})"

    def to_json(self) -> dict[str, Any]:
        """For ``evaluation.json``."""
        return asdict(self)

    def table(self) -> str:
        """A few lines for people."""
        iqm = iqm_interval(self.returns)
        n = len(self.returns)
        rows = [
            ("episodes", f"{n}"),
            ("mean return", f"{self.mean_return:,.1f}"),
            (
                "IQM return",
                f"{iqm.point:,.1f}  (95 %: {iqm.low:,.1f} to {iqm.high:,.1f})",
            ),
            ("lowest, highest", f"{min(self.returns):,.1f}, {max(self.returns):,.1f}"),
            ("mean length", f"{self.mean_length:,.1f} steps"),
        ]
        return "\n".join(f"  {name:<16} {value}" for name, value in rows)


@dataclass(frozen=True, slots=True)
class ExactEvaluation:
    """The solution of each instance of a robust MDP, in discounted costs from its true start."""

    transitions: int
    """Iterations before it."""
    robust: list[float]
    """Cost against the worst kernel of the set."""
    nominal: list[float]
    """Cost under the nominal kernel."""
    least: list[float] | None
    """The least robust cost of all policies; None for a parametric kernel, which no planner
    solves."""

    @property
    def gaps(self) -> list[float]:
        """Robust cost above the least of each instance; empty if that is not known."""
        return [cost - best for cost, best in zip(self.robust, self.least or [], strict=False)]

    @property
    def progress(self) -> str:
        """Iterations, in words."""
        return f"{self.transitions:,} iterations"

    @property
    def metrics(self) -> dict[str, float]:
        """What is logged."""
        costs = {"robust_cost": fmean(self.robust), "nominal_cost": fmean(self.nominal)}
        found = {f"evaluate/{name}": value for name, value in costs.items()}
        return found | ({"evaluate/gap": max(self.gaps)} if self.least else {})

    def summary(self) -> str:
        """A few words."""
        text = f"robust cost {fmean(self.robust):,.6g}, nominal {fmean(self.nominal):,.6g}"
        return text + (f", at most {max(self.gaps):.2g} above the least" if self.least else "")

    def to_json(self) -> dict[str, Any]:
        """For ``evaluation.json``."""
        return asdict(self)

    def table(self) -> str:
        """A few lines for people."""
        rows = {"robust cost": self.robust, "nominal cost": self.nominal}
        if self.least:
            rows |= {"least robust cost": self.least, "gap to the least": self.gaps}
        count = len(self.robust)
        lines = [f"  {f'instances: {count:,}':<20}{'mean':>14}{'lowest':>14}{'highest':>14}"]
        for name, values in rows.items():
            cells = (fmean(values), min(values), max(values))
            lines.append(f"  {name:<20}" + "".join(f"{value:>14,.6g}" for value in cells))
        return "\n".join(lines)


def read_assessment(entry: dict[str, Any]) -> Assessment:
    """From what its ``to_json`` gave."""
    return ExactEvaluation(**entry) if "robust" in entry else Evaluation(**entry)


def iqm_interval(returns: list[float]) -> Interval:
    """Interquartile mean of episode returns with its 95 % bootstrap interval."""
    return stratified_bootstrap([[value] for value in returns], iqm)


def evaluate(agent: Actor, envs: VectorEnv, *, seed: int, transitions: int) -> Evaluation:
    """The first episode of each environment, acted without exploration.

    Raises UserError if an episode does not end within STEP_LIMIT steps.
    """
    episodes = envs.spec.num_envs
    returns: list[float | None] = [None] * episodes
    lengths = [0] * episodes
    obs = envs.reset(seed)
    for _ in range(STEP_LIMIT):
        action, _ = agent.act(obs, explore=False)
        stepped = envs.step(action)
        obs = stepped.obs
        for episode in stepped.episodes:
            if episode.number == 0:
                returns[episode.env] = episode.episode_return
                lengths[episode.env] = episode.length
        if None not in returns:
            done = [value for value in returns if value is not None]
            return Evaluation(transitions, done, lengths, seed)
    raise UserError(
        f"an evaluation episode did not end in {STEP_LIMIT:,} steps: set env.time_limit"
    )
