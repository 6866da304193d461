"""What to report of an advisor: returns never without the number of advices.

``rlsuite evaluate RUN...`` prints the table of runs that give advice; those of one config are put
together as seeds. All play the same episodes with the same people in the same luck.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from rlsuite.agents.advice_planning import evaluate, plan
from rlsuite.build import build_evaluation, env_maker, load, read_experiment
from rlsuite.config import Experiment
from rlsuite.envs import AdviceVectorEnv
from rlsuite.envs.advice_games import TableGame
from rlsuite.envs.people import People
from rlsuite.envs.tabular import advised
from rlsuite.errors import UserError
from rlsuite.evaluate import STEP_LIMIT
from rlsuite.stats import mean, stratified_bootstrap
from rlsuite.tree import leaves
from rlsuite.types import Tree


class Advisor(Protocol):
    """Whatever acts: an agent of this suite, or one's own."""

    def act(self, obs: Tree, *, explore: bool = True) -> tuple[Tree, dict[str, Tensor]]:
        """(N,) advice for (N, ...) observations, and a dict that is not looked at."""


class Silent:
    """Never advises: the human alone."""

    def __init__(self, envs: AdviceVectorEnv) -> None:
        self.silence = int(envs.spec.action_space.n) - 1  # type: ignore[attr-defined]

    def act(self, obs: Tree, *, explore: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
        """To defer, everywhere."""
        rows = len(next(leaf for _, leaf in leaves(obs)))
        return torch.full((rows,), self.silence), {}


@dataclass(frozen=True, slots=True)
class Score:
    """Means over the episodes of one advisor."""

    gross: float
    """Return, the cost of advice not subtracted."""
    net: float
    """Return less the cost of advice."""
    gain: float
    """Gross return above that of the human alone, in the same episodes."""
    advices: float
    """An episode."""
    rate: float
    """Share of the steps that were advised."""
    matched: float
    """Share of the advices that were executed; NaN without any, like what follows."""
    gain_per_advice: float
    """Gain over advices."""
    needed: float
    """Share of the advices that differ from what the human would have done: what only a simulation
    knows."""
    brier: float
    """Mean squared error of the advisor's probability that its advice is executed; NaN if it does
    not say (``believe``)."""
    regret: float
    """What its net return misses of the best advice's, both exact; NaN without an ``Oracle``."""


FIELDS = tuple(field.name for field in fields(Score))


def measure(
    agent: Advisor,
    envs: AdviceVectorEnv,
    *,
    episodes: int = 100,
    seed: int = 0,
    oracle: Oracle | None = None,
    alone: Score | None = None,
) -> Score:
    """Play without exploration, with an equal number of episodes in each of the N environments.

    Args:
        agent: the advisor.
        envs: are reset, and left in the middle of episodes.
        episodes: rounded up to a multiple of N.
        seed: of the episodes and of people; the same seed, the same luck.
        oracle: of the same people, if there is one.
        alone: the human's in the same episodes; they are played if it is None.

    Raises:
        UserError: if an episode does not end.
    """
    if alone is None and not isinstance(agent, Silent):
        alone = measure(Silent(envs), envs, episodes=episodes, seed=seed)
    sums = _play(agent, envs, episodes, seed)
    played, advices = sums["episodes"], sums["advices"]
    gross, per_advice = sums["reward"] / played, advices if advices else float("nan")
    gain = 0.0 if alone is None else gross - alone.gross
    return Score(
        gross=gross,
        net=sums["net"] / played,
        gain=gain,
        advices=advices / played,
        rate=advices / sums["steps"],
        matched=sums["matched"] / per_advice,
        gain_per_advice=gain * played / per_advice,
        needed=sums["needed"] / per_advice,
        brier=sums["brier"] / per_advice,
        regret=float("nan") if oracle is None else oracle.regret(agent),
    )


def _play(agent: Advisor, envs: AdviceVectorEnv, episodes: int, seed: int) -> dict[str, float]:
    """Sums over all steps of the first episodes of each environment."""
    each = -(-episodes // envs.spec.num_envs)
    left = torch.full((envs.spec.num_envs,), each)
    sums = dict.fromkeys(("reward", "net", "advices", "steps", "matched", "needed", "brier"), 0.0)
    obs = envs.reset(seed)
    for _ in range(each * STEP_LIMIT):
        advice, _ = agent.act(obs, explore=False)
        new = envs.step(advice)
        assert envs.last is not None
        done, step, counts = envs.last, new.step, left > 0
        needed = done.advised & (done.human_action != done.advice)
        values = {
            "reward": step.extra["reward"],
            "net": step.reward,
            "advices": done.advised,
            "steps": counts,
            "matched": done.matched,
            "needed": needed,
            "brier": _squared_error(agent, obs, done.advice, done.matched),
        }
        for name, value in values.items():
            assert isinstance(value, Tensor)
            sums[name] += float(value[counts].sum(dtype=torch.float64))
        obs = new.obs
        left = left - (step.terminated | step.truncated).long()
        if bool((left <= 0).all()):
            return {**sums, "episodes": float(each * len(left))}
    raise UserError(f"an episode did not end in {STEP_LIMIT:,} steps: set a time limit")


def _squared_error(agent: Any, obs: Tree, advice: Tensor, matched: Tensor) -> Tensor:
    """(N,) of the probability that the advice is executed; 0 where there is none."""
    if not hasattr(agent, "believe"):
        return torch.full(advice.shape, float("nan"))
    theta = agent.believe(obs)[1].cpu()
    said = advice < theta.shape[1]
    guess = theta.gather(1, torch.where(said, advice, 0)[:, None])[:, 0]
    return torch.where(said, (guess - matched.float()).square(), 0.0)


class Oracle:
    """The exact problem of people in a game with known tables, ``TableGame``."""

    def __init__(self, game: TableGame, people: People, horizon: int | None = None) -> None:
        """``people`` have to be Markov; ``horizon`` is the time limit, if there is one."""
        self.states, self.cost = game.observations(), people.cost
        self.horizon, n = horizon or len(self.states), len(self.states)
        human = people.human.probs(self.states)
        theta = [
            people.adherence.theta(self.states, torch.full((n,), m), human)
            for m in range(people.actions)
        ]
        self.model = advised(game, human=human, adherence=torch.stack(theta, 1), form=people.form)
        best = plan(self.model, self.horizon, self.cost).value
        self.optimum = float(self.model.start(best))
        """Net return of the best advice."""

    def regret(self, agent: Advisor) -> float:
        """Of an advisor whose advice follows from the observation."""
        advice = agent.act(self.states, explore=False)[0]
        assert isinstance(advice, Tensor)
        # The tables go on after the end, where nobody advises.
        policy = torch.where(self.model.live[0], advice.cpu(), self.model.actions)
        policy = policy.expand(1, 1, self.horizon, -1)
        gross, advices = (float(self.model.start(x)) for x in evaluate(self.model, policy))
        return self.optimum - (gross - self.cost * advices)


def find_oracle(experiment: Experiment, people: People) -> Oracle | None:
    """For Markov people in a game with tables; None for others."""
    config = experiment.simulator
    if config.is_atari or config.is_particles or config.is_vmas or not people.is_markov:
        return None
    with contextlib.closing(env_maker(config)()) as env:
        game = env.unwrapped
    return Oracle(game, people, config.time_limit) if isinstance(game, TableGame) else None


def table(scores: Mapping[str, Sequence[Score]]) -> str:
    """A line an advisor: means over seeds; of net return and gain also their bootstrap 95 %
    intervals, from two seeds on (five or more make a claim)."""
    rows = [["", "seeds", *(field.replace("_per_", "/") for field in FIELDS)]]
    for name, found in scores.items():
        row = [name, str(len(found))]
        row += [_cell([getattr(score, field) for score in found], field) for field in FIELDS]
        rows.append(row)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def _cell(values: list[float], field: str) -> str:
    if np.isnan(values).all():
        return "-"
    middle = f"{np.nanmean(values):.4g}"
    if field not in ("net", "gain") or len(values) < 2:
        return middle
    interval = stratified_bootstrap(np.array(values)[:, None], mean)
    return f"{middle} ({interval.low:.4g} to {interval.high:.4g})"


def to_json(scores: Mapping[str, Sequence[Score]]) -> dict[str, list[dict[str, float | None]]]:
    """The same numbers, by advisor and seed; None for NaN."""
    return {
        name: [{k: None if v != v else v for k, v in asdict(score).items()} for score in found]
        for name, found in scores.items()
    }


def report(folders: Sequence[Path], *, episodes: int | None = None, seed: int = 0) -> str:
    """The table of ``compare``; empty if no run gives advice."""
    scores = compare(folders, episodes=episodes, seed=seed)
    return table(scores) if scores else ""


def compare(
    folders: Sequence[Path], *, episodes: int | None = None, seed: int = 0
) -> dict[str, list[Score]]:
    """Scores of runs in one and the same task with the same people, by advisor and seed; the human
    alone first. Empty if no run gives advice.

    By default with as many episodes as the first run's own evaluations. Raises UserError for runs
    of different tasks or people, or of which only some give advice.
    """
    scores: dict[str, list[Score]] = {}
    agents: dict[str, Any] = {}
    experiments = [read_experiment(folder) for folder in folders]
    first = experiments[0]
    if all(experiment.advice is None for experiment in experiments):
        return scores
    episodes = episodes or first.run.evaluation_episodes
    for folder, experiment in zip(folders, experiments, strict=True):
        if experiment.advice is None:
            raise UserError(f"{folder} has no section advice: evaluate it without runs that have")
        if (experiment.env, experiment.advice) != (first.env, first.advice):
            raise UserError(f"{folder} is of another task, or of other people, than {folders[0]}")
        run = replace(experiment.run, evaluation_episodes=min(episodes, 64))
        envs = build_evaluation(replace(experiment, run=run), None)
        assert isinstance(envs, AdviceVectorEnv)
        judge = partial(
            measure,
            envs=envs,
            episodes=episodes,
            seed=seed,
            oracle=find_oracle(experiment, envs.people),
        )
        if "human" not in scores:
            scores["human"] = [judge(Silent(envs))]
        alone = scores["human"][0]
        name = f"{experiment.algorithm} {experiment.name}"
        if agents.setdefault(name, experiment.agent) != experiment.agent:
            name = str(folder)  # of other settings: no seed of the same
        scores.setdefault(name, []).append(judge(load(folder), alone=alone))
        envs.close()
    return scores
