"""What of "Maximum Entropy Heterogeneous-Agent Reinforcement Learning" a CPU can show.

Liu et al., ICLR 2024, arXiv 2306.10715. In matrix games, exact and with networks: where entropy
leads to the better equilibrium, and where to the worse; what the order of the agents' steps is
good for. In particle environments: learning curves. docs/hasac.md says what is left out.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from rlsuite.actors import CategoricalActor
from rlsuite.agents.hasac import HASAC, METRICS
from rlsuite.agents.soft_policy_iteration import (
    Annealing,
    MarkovGame,
    quantal_residual,
    respond,
    respond_at_once,
    soft_value,
    uniform,
)
from rlsuite.build import (
    EXPERIMENT,
    build_agent,
    build_envs,
    build_replay,
    read_experiment,
    resume,
    train,
)
from rlsuite.claims import Task
from rlsuite.config import load_experiment
from rlsuite.envs.matrix_games import PAYOFFS
from rlsuite.errors import UserError
from rlsuite.evaluate import Evaluation
from rlsuite.hasac_sampled import ANNEALED, learn
from rlsuite.loops import ReplayPlan, replay_loop
from rlsuite.rng import derive_seed, generator
from rlsuite.run import Run
from rlsuite.teams import own
from rlsuite.types import Tree

Array: TypeAlias = NDArray[np.float64]

TITLE = "Maximum Entropy Heterogeneous-Agent Reinforcement Learning (Liu et al., arXiv 2306.10715)"

SCHEDULES = {
    # Not 0: a soft best response needs a temperature. Payoffs differ by 1 or more.
    "greedy": Annealing(initial=1e-3),
    "temperature 10": Annealing(initial=10.0),
    **{
        f"annealed from {initial}": Annealing(initial=float(initial), decay=0.97, least=0.05)
        for initial in (20, 50, 200)
    },
}
"""Temperature by sweep."""
GAMES = ("mne", "penalty", "climbing", "nonmono")
STARTS, SWEEPS = 200, 400


class Reached(NamedTuple):
    """Where one or many starts of a game have led, means over the starts."""

    optimal: float
    """Probability of the best joint action."""
    likeliest: float
    """Share of the starts whose likeliest joint action is the best one."""
    payoff: float
    """Expected payoff."""


def sweeps(seed: int, *, game: str, schedule: Annealing) -> Reached:
    """Exact soft best responses, agent 0 then agent 1, from Dirichlet(1) starts."""
    payoff = torch.tensor(PAYOFFS[game])
    starts = random_starts(np.random.default_rng(seed), payoff.shape, STARTS)
    policies = [torch.from_numpy(start).log() for start in starts]
    q = payoff.expand(STARTS, *payoff.shape)  # an episode has one step
    for k in range(SWEEPS):
        for agent in range(2):
            policies[agent] = respond(q, policies, agent, schedule(k))
    return reached(payoff, policies)


def random_starts(rng: np.random.Generator, actions: Sequence[int], count: int) -> list[Array]:
    """(count, X_i) positive probabilities for each agent."""
    return [rng.dirichlet(np.ones(n), count) for n in actions]


def reached(payoff: torch.Tensor, policies: Sequence[torch.Tensor]) -> Reached:
    """From (count, X_i) log probabilities of two agents."""
    joint = policies[0].exp()[:, :, None] * policies[1].exp()[:, None, :]
    best = (payoff == payoff.max()).to(torch.float64)
    likeliest = best[policies[0].argmax(1), policies[1].argmax(1)]
    mean = (joint * payoff).sum((1, 2)).mean()
    return Reached(float((joint * best).sum((1, 2)).mean()), float(likeliest.mean()), float(mean))


def sampled(seed: int, *, game: str, schedule: Annealing, at_once: bool = False) -> list[Reached]:
    """Where each seed of ``hasac_sampled.learn`` has come to: noisy rewards, gradient steps."""
    payoff = torch.tensor(PAYOFFS[game])
    policies = learn(payoff, schedule, generator(seed, "sampled"), at_once=at_once)
    seeds = range(len(policies[0]))
    return [reached(payoff, [policy[[k]] for policy in policies]) for k in seeds]


SAMPLED = {
    "greedy": partial(sampled, schedule=SCHEDULES["greedy"]),
    "annealed": partial(sampled, schedule=ANNEALED),
    "annealed, at once": partial(sampled, schedule=ANNEALED, at_once=True),
}
"""Taking turns, unless it says at once."""


ANTI_COORDINATION_STEPS = 3


def anti_coordination(seed: int, *, at_once: bool) -> list[float]:
    """Soft values of [[0, 1], [1, 0]] at temperature 0.1 from (0.6, 0.4), for both agents.

    After each of 3 steps: of one agent after the other, or of both at once. Nothing is drawn.
    """
    game = MarkovGame.one_step(torch.tensor(PAYOFFS["anti_coordination"]))
    policies = [torch.tensor([[0.6, 0.4]], dtype=torch.float64).log() for _ in range(2)]
    values = [float(soft_value(game, policies, 0.1))]
    for step in range(ANTI_COORDINATION_STEPS):
        if at_once:
            policies = respond_at_once(game.payoff, policies, 0.1)
        else:
            policies[step % 2] = respond(game.payoff, policies, step % 2, 0.1)
        values.append(float(soft_value(game, policies, 0.1)))
    return values


EQUILIBRIA = {
    **{f"mne, temperature {alpha}": ("mne", float(alpha)) for alpha in (5, 10, 20, 40)},
    **{f"coordination, temperature {alpha}": ("coordination", float(alpha)) for alpha in (1, 2)},
    "climbing, temperature 2": ("climbing", 2.0),
}
"""Game and temperature."""
SURE = 20.0
"""Log odds of an agent's favourite action."""


class Equilibrium(NamedTuple):
    """Where the solver comes to rest."""

    policies: list[list[float]]
    """Probabilities by agent."""
    payoff: float
    soft: float
    """Value with the entropy."""
    residual: float
    """Greatest distance of a probability from its quantal response."""
    fall: float
    """Greatest loss of soft value in a step of one agent; below 0 if every step gained."""


def equilibrium(
    seed: int,
    *,
    game: str,
    temperature: float,
    sweeps: int = 2000,
    favourite: int | None = None,
) -> Equilibrium:
    """From uniform policies, agent 0 first, at a fixed temperature; or against an agent 1 that
    almost always takes its ``favourite`` action. Nothing is drawn."""
    one_step = MarkovGame.one_step(torch.tensor(PAYOFFS[game]))
    policies, fall = uniform(one_step), -np.inf
    if favourite is not None:
        policies[1][:, favourite] += SURE
        policies[1] = policies[1].log_softmax(1)
    value = float(soft_value(one_step, policies, temperature))
    for _ in range(sweeps):
        for agent in range(2):
            policies[agent] = respond(one_step.payoff, policies, agent, temperature)
            new = float(soft_value(one_step, policies, temperature))
            value, fall = new, max(fall, value - new)
        residual = float(quantal_residual(one_step.payoff, policies, temperature))
        if residual < 1e-13:
            break
    return Equilibrium(
        [policy[0].exp().tolist() for policy in policies],
        reached(one_step.payoff[0], policies).payoff,
        value,
        residual,
        fall,
    )


def equilibria(game: str, temperature: float) -> list[Equilibrium]:
    """Where the solver comes to rest from uniform policies, and from every action of agent 1."""
    favourites = [None, *range(PAYOFFS[game].shape[1])]
    solve = partial(equilibrium, 0, game=game, temperature=temperature)
    return [solve(favourite=action) for action in favourites]


MATRIX_CONFIG = "hasac/matrix_mne"
COLD = 0.05
"""The temperature that the annealed one ends at."""


def train_in_matrix(
    seed: int, *, game: str, temperature: float | None = None, random_start: bool = False
) -> list[list[float]]:
    """HASAC of the config hasac/matrix_mne in a game; its probabilities by agent.

    At a fixed temperature, or annealed as the config says; from uniform policies, or from a
    Dirichlet(1) start.
    """
    overrides = {"env.kwargs": f'{{payoff = "{game}"}}', "run.seed": str(seed)}
    if temperature is not None:
        overrides["agent.temperature"] = str(temperature)
    experiment = load_experiment(MATRIX_CONFIG, overrides)
    torch.set_num_threads(experiment.run.threads)
    envs = build_envs(experiment)
    agent = build_agent(experiment, envs.spec)
    assert isinstance(agent, HASAC)
    if random_start:
        rng = np.random.default_rng(derive_seed(seed, "start"))
        starts = random_starts(rng, PAYOFFS[game].shape, 1)
        for actor, start in zip(agent.actors.values(), starts, strict=True):
            # Everything before the head is 0: it normalises an observation of one number.
            actor.load_state_dict({"head.bias": torch.from_numpy(start[0]).log()}, strict=False)
    replay = build_replay(experiment, envs.spec)
    plan = experiment.plan
    assert isinstance(plan, ReplayPlan)
    with (
        tempfile.TemporaryDirectory() as folder,
        Run(Path(folder), experiment.run, plan.total_transitions, METRICS, None, quiet=True) as run,
    ):
        replay_loop(agent, envs, replay, plan, run)
    return probabilities(agent, envs.observe())


def probabilities(agent: HASAC, obs: Tree) -> list[list[float]]:
    """Of every action, by agent, for the first of (N, ...) observations."""
    found = []
    for name, actor in agent.actors.items():
        assert isinstance(actor, CategoricalActor)
        with torch.no_grad():
            found.append(actor.log_pi(actor(own(obs, name)), None)[0].exp().tolist())
    return found


class Arm(NamedTuple):
    """What is trained: a config, and settings on top."""

    config: str
    overrides: Mapping[str, str] = MappingProxyType({})


CURVES: dict[str, tuple[int, dict[str, Arm]]] = {
    "particles spread": (
        5,
        {
            "HASAC": Arm("hasac/spread"),
            # Multi-agent SAC: every agent against the old actions of the others.
            "simultaneous": Arm("hasac/spread", {"agent.order": "simultaneous"}),
            "HATD3": Arm("hatd3/spread"),
        },
    ),
    "particles spread, discrete": (3, {"HASAC": Arm("hasac/spread_discrete")}),
    "particles speaker-listener, discrete": (
        3,
        {"HASAC": Arm("hasac/speaker_listener_discrete")},
    ),
    "particles speaker-listener, continuous": (3, {"HASAC": Arm("hasac/speaker_listener")}),
}
"""Number of seeds, and what is compared, all for the same number of transitions."""


class Curve(NamedTuple):
    """A learning curve."""

    transitions: list[int]
    returns: list[float]
    """Mean of an evaluation's episodes."""


def learning_curve(seed: int, folder: Path, *, arm: Arm) -> Curve:
    """Train in a run folder, or go on in it.

    Raises UserError if the folder holds a run of other settings, ``Stopped`` after a stop signal.
    """
    experiment = load_experiment(arm.config, {**arm.overrides, "run.seed": str(seed)})
    if not (folder / EXPERIMENT).exists():
        train(experiment, folder, quiet=True)
    elif read_experiment(folder) == experiment:
        resume(folder, quiet=True)
    else:
        raise UserError(
            f"{folder} holds a run of other settings than {arm.config} has now: remove it, or give "
            "another folder with --folder"
        )
    record = json.loads((folder / "evaluation.json").read_text())
    evaluations = [Evaluation(**entry) for entry in record["evaluations"]]
    return Curve([e.transitions for e in evaluations], [e.mean_return for e in evaluations])


class Experiment(NamedTuple):
    """A measurement, the arms that it compares, and how often."""

    arms: Mapping[str, Callable[[int], Any]]
    """Called with the seed."""
    seeds: int = 1


DEEP_GAMES = ("mne", "penalty", "climbing")
EXPERIMENTS: dict[str, Experiment] = {
    **{
        f"matrix {game}": Experiment(
            {
                name: partial(sweeps, game=game, schedule=schedule)
                for name, schedule in SCHEDULES.items()
            },
            10,
        )
        for game in GAMES
    },
    # Its seeds are learned side by side, in one repeat.
    "matrix sampled": Experiment(
        {
            f"{game}, {method}": partial(measure, game=game)
            for game in GAMES
            for method, measure in SAMPLED.items()
        }
    ),
    "matrix order": Experiment(
        {
            "sequential": partial(anti_coordination, at_once=False),
            "simultaneous": partial(anti_coordination, at_once=True),
        }
    ),
    "matrix equilibria": Experiment(
        {
            name: partial(equilibrium, game=game, temperature=temperature)
            for name, (game, temperature) in EQUILIBRIA.items()
        }
    ),
    "matrix equilibria, deep": Experiment(
        {
            name: partial(
                train_in_matrix, game=EQUILIBRIA[name][0], temperature=EQUILIBRIA[name][1]
            )
            for name in EQUILIBRIA
        },
        3,
    ),
    **{
        f"matrix {game}, deep": Experiment(
            {
                "greedy": partial(train_in_matrix, game=game, temperature=COLD, random_start=True),
                "annealed": partial(train_in_matrix, game=game, random_start=True),
            },
            10,
        )
        for game in DEEP_GAMES
    },
}
"""But for the learning curves."""


def tasks() -> list[Task]:
    """All that has to be measured, the long ones first."""
    counts: list[tuple[str, Iterable[str], int]] = [
        *((name, arms, seeds) for name, (seeds, arms) in CURVES.items()),
        *((name, entry.arms, entry.seeds) for name, entry in reversed(EXPERIMENTS.items())),
    ]
    return [
        Task(name, arm, repeat)
        for name, arms, seeds in counts
        for repeat in range(seeds)
        for arm in arms
    ]


def run(task: Task, seed: int, folder: Path) -> Any:
    """Measure one arm with one seed; learning curves in run folders below ``folder``."""
    own_seed = derive_seed(seed, task.experiment, task.repeat, bits=31)
    if task.experiment in CURVES:
        arm = CURVES[task.experiment][1][task.arm]
        name = f"{task.experiment} {task.arm} {task.repeat}".replace(", ", "-").replace(" ", "-")
        return learning_curve(own_seed, folder / "runs" / name.lower(), arm=arm)
    return EXPERIMENTS[task.experiment].arms[task.arm](own_seed)
