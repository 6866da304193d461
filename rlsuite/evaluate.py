"""Evaluation: separate environments, fixed seeds, whole episodes, no exploration."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rlsuite.errors import UserError
from rlsuite.stats import Interval, iqm, stratified_bootstrap
from rlsuite.types import Actor, VectorEnv

STEP_LIMIT = 1_000_000
"""An evaluation episode that lasts longer is taken for one that never ends."""


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
