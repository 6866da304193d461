"""What of "Learning to Make Adherence-Aware Advice" tables can show, measured again.

Chen, Li, Sun and Wang, ICLR 2024, arXiv 2310.00817. In the flight, the drive and beside the cliff:
what advice is worth as adherence, its cost or its budget change, exactly; how learners get there,
by exact regret. Their code and numbers were never published: the orderings are the paper's claims,
the figures those of a prototype of ours. docs/adherence.md says whose is what.

How many runs there are was set before they were made, from what few had shown. Regret by adherence:
of 5 runs the ratio of the regret after all episodes to that after half has a standard deviation of
0.06 around 1.69, and its gate is 1.7: 20 runs halve that. The drive: of 3 runs a map's gap passes
its gate with a probability of 0.90 to 0.96, so that some one of 10 maps often fails: 12 runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlsuite.advice import AdviceModel
from rlsuite.agents.advice_budget import plan_budget
from rlsuite.agents.advice_learning import (
    AdviceLearning,
    AdviceTask,
    Advisor,
    FixedAdvice,
    Replanning,
)
from rlsuite.agents.advice_planning import (
    blind,
    evaluate,
    full_control,
    plan,
    silence,
)
from rlsuite.agents.agnostic_advice import AgnosticAdvice, EULERConfig, UCBVIConfig
from rlsuite.agents.fucb import FUCB
from rlsuite.agents.rfe import RFE
from rlsuite.agents.uc_cfh import UCCFH, UCCFHConfig
from rlsuite.agents.ucb_ad import UCBAD, UCBADConfig
from rlsuite.claims import Task
from rlsuite.envs.advice_tables import (
    CAR_HORIZON,
    CLIFF_HORIZON,
    FLAPPY_HORIZON,
    ROWS,
    Human,
    car,
    cliff_panic,
    flappy,
)
from rlsuite.kept import keep
from rlsuite.rng import derive_seed

TITLE = "Learning to Make Adherence-Aware Advice (Chen et al., arXiv 2310.00817)"

HUMANS: tuple[Human, ...] = ("greedy", "safe")
ADHERENCES = [i / 20 for i in range(21)]
COSTS = [0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 1.0]
SWEEP = [i / 200 for i in range(201)]
BUDGETS = [i / 2 for i in range(39)]
MAP_COSTS = [0.0, 0.1, 0.4]
GAP_COSTS = [0.0, 0.05, 0.1, 0.2, 0.4]
THETAS = (0.25, 0.5, 0.75, 1.0)
RUNS, ADHERENCE_RUNS = 5, 20
CAR_MAPS, CAR_RUNS = 10, 12
"""Each of the maps is learned so often."""
EPISODES, BUDGET_EPISODES, CAR_EPISODES = 5_000, 2_000, 3_000
MARKS = sorted({*(round(10 ** (i / 12)) for i in range(45)), 100, 300, 500, 1000, 2000, 2500, 5000})
"""Episodes after which learning is looked at."""
TAIL = 100
"""Episodes at the end of which the mean gap is taken."""
BUDGET = 3.0


def returns(model: AdviceModel, policy: Tensor) -> list[float]:
    """Gross return by instance."""
    found: list[float] = model.start(evaluate(model, policy).gross)[:, 0].tolist()
    return found


def cliff(seed: int) -> dict[str, list[float]]:
    """Returns beside the cliff by adherence, for the human alone and for advice. Exact."""
    model = cliff_panic([[[theta]] for theta in ADHERENCES])
    most = full_control(model, CLIFF_HORIZON).value
    return {
        "human alone": returns(model, silence(model, CLIFF_HORIZON)),
        "blind": returns(model, blind(model, CLIFF_HORIZON)),
        "aware": model.start(plan(model, CLIFF_HORIZON).value)[:, 0].tolist(),
        "full control": [float(model.start(most))] * len(ADHERENCES),
    }


class Frontier(NamedTuple):
    """What a number of advices buys in the flight."""

    gross: list[float]
    """By ``SWEEP``."""
    advices: list[float]
    budgets: list[float]
    """Return by ``BUDGETS``."""
    blind: list[float]
    """Return and number of advices."""
    maps: list[list[list[int]]]
    """Advice by ``MAP_COSTS``, column and row; the column is the stage."""
    net: list[float]
    """Net return by ``COSTS``."""


def frontier(seed: int, *, human: Human) -> Frontier:
    """Exact."""
    model = flappy(human)
    swept = evaluate(model, plan(model, FLAPPY_HORIZON, SWEEP).policy)
    told = evaluate(model, blind(model, FLAPPY_HORIZON))
    policy = plan(model, FLAPPY_HORIZON, MAP_COSTS).policy[0]
    stage = torch.arange(FLAPPY_HORIZON)[:, None]
    place = ROWS * stage + torch.arange(ROWS)
    return Frontier(
        model.start(swept.gross)[0].tolist(),
        model.start(swept.advices)[0].tolist(),
        plan_budget(model, FLAPPY_HORIZON, BUDGETS).value[0].tolist(),
        [float(model.start(told.gross)), float(model.start(told.advices))],
        policy[:, stage, place].tolist(),
        model.start(plan(model, FLAPPY_HORIZON, COSTS).value)[0].tolist(),
    )


class Learned(NamedTuple):
    """How runs side by side have learned; lists by mark, then by run."""

    marks: list[int]
    total: list[list[float]]
    gap: list[list[float]]
    gross: list[list[float]]
    advices: list[list[float]]
    tail: list[float]
    """Mean gap over the last ``TAIL`` episodes, by run."""
    by_cost: list[list[list[float]]]
    """Of reward-free exploration: the gaps of plans by mark, ``GAP_COSTS`` and run."""


Start = Callable[[AdviceTask, int], Advisor]
"""An advisor for a task and a seed."""


def learn(
    seed: int,
    *,
    model: Callable[[], AdviceModel],
    horizon: int,
    start: Start,
    episodes: int,
    runs: int = RUNS,
    budget: float | None = None,
    dense: int = 100,
) -> Learned:
    """Learn from episodes; decide before each of the first ``dense``, then before every tenth."""
    task = AdviceTask(model(), horizon, budget=budget, runs=runs)
    advisor = start(task, seed)
    learning = AdviceLearning(task, advisor, replanning=Replanning(dense=dense), seed=seed)
    marks = sorted({episodes, *(mark for mark in MARKS if mark < episodes)})
    found = Learned(marks, [], [], [], [], [0.0] * task.size[0], [])
    tail = torch.zeros_like(learning.total)
    for episode in range(1, episodes + 1):
        learning.iterate()
        if episode > episodes - TAIL:
            tail += learning.gap / TAIL
        if episode in marks:
            for name in ("total", "gap", "gross", "advices"):
                getattr(found, name).append(getattr(learning, name).tolist())
            if isinstance(advisor, RFE) and budget is None:
                found.by_cost.append(gaps_by_cost(task, advisor))
    return found._replace(tail=tail.tolist())


def gaps_by_cost(task: AdviceTask, advisor: RFE) -> list[list[float]]:
    """By ``GAP_COSTS`` and run, what the plan from what was seen loses in the truth."""
    model, costs = task.model, torch.tensor(GAP_COSTS, dtype=torch.float64)
    reached = evaluate(model, advisor.plan(costs).policy)
    net = model.start(reached.gross) - costs * model.start(reached.advices)
    best = model.start(plan(model, task.horizon, costs).value)
    gaps: list[list[float]] = (best - net).T.tolist()
    return gaps


def _agnostic(config: UCBVIConfig | EULERConfig) -> Start:
    return lambda task, seed: AgnosticAdvice(task, config, seed=seed)


def _ucb_ad(scale: float, episodes: int = EPISODES) -> Start:
    return lambda task, seed: UCBAD(task, UCBADConfig(scale=scale, episodes=episodes))


LEARNERS: dict[str, Start] = {
    "UCB-AD": _ucb_ad(0.1),
    "UCB-AD, c = 1": _ucb_ad(1.0),
    "RFE-AD": lambda task, seed: RFE(task, seed=seed),
    "FUCB-AD": lambda task, seed: FUCB(task, seed=seed),
    **{f"UCBVI, c = {c}": _agnostic(UCBVIConfig(scale=c)) for c in (0.02, 0.005, 0.001, 3e-4)},
    **{f"EULER, c = {c}": _agnostic(EULERConfig(scale=c)) for c in (1.0, 1e-3, 1e-4, 1e-5, 1e-6)},
    "human alone": lambda task, seed: FixedAdvice(task, silence(task.model, task.horizon)),
    "blind": lambda task, seed: FixedAdvice(task, blind(task.model, task.horizon)),
    "oracle": lambda task, seed: FixedAdvice(task, plan(task.model, task.horizon).policy),
}
"""c is the factor on the bonus; without one it is the default."""
AGNOSTIC = [name for name in LEARNERS if name.startswith(("UCBVI", "EULER"))]

BUDGET_LEARNERS: dict[str, Start] = {
    "RFE-CMDP": lambda task, seed: RFE(task, seed=seed),
    **{
        f"UC-CFH, c = {c}": partial(lambda c, task, seed: UCCFH(task, c, seed=seed), config)
        for c, config in ((c, UCCFHConfig(scale=c)) for c in (1e-2, 1e-3, 1e-4))
    },
}

EXPERIMENTS: dict[str, Mapping[str, Callable[[int], Any]]] = {
    "cliff": {"exact": cliff},
    **{f"flight {human}": {"exact": partial(frontier, human=human)} for human in HUMANS},
    **{
        f"regret {human}": {
            name: partial(
                learn,
                model=partial(flappy, human),
                horizon=FLAPPY_HORIZON,
                start=start,
                episodes=EPISODES,
            )
            for name, start in LEARNERS.items()
        }
        for human in HUMANS
    },
    **{
        f"adherence {human}": {
            f"theta {theta}": partial(
                learn,
                model=partial(flappy, human, adherence=theta),
                horizon=FLAPPY_HORIZON,
                start=LEARNERS["UCB-AD"],
                episodes=EPISODES,
                runs=ADHERENCE_RUNS,
            )
            for theta in THETAS
        }
        for human in HUMANS
    },
    "budget greedy": {
        name: partial(
            learn,
            model=partial(flappy, "greedy"),
            horizon=FLAPPY_HORIZON,
            start=start,
            episodes=BUDGET_EPISODES,
            runs=3,
            budget=BUDGET,
            dense=0,
        )
        for name, start in BUDGET_LEARNERS.items()
    },
    "drive env3": {
        f"UCB-AD, c = {scale}": partial(
            learn,
            model=partial(car, "env3", CAR_RUNS * list(range(CAR_MAPS))),
            horizon=CAR_HORIZON,
            start=_ucb_ad(scale, CAR_EPISODES),
            episodes=CAR_EPISODES,
            runs=1,
        )
        for scale in (0.1, 1.0)
    },
}
"""Name to arms, called with a seed."""


def tasks() -> list[Task]:
    """All that has to be measured, the long ones first; several runs make up one task."""
    names = sorted(EXPERIMENTS, key=lambda name: name.split()[0] not in ("budget", "regret"))
    return [Task(name, arm, 0) for name in names for arm in EXPERIMENTS[name]]


def run(task: Task, seed: int, folder: Path) -> Any:
    """Measure one arm, kept below ``folder``; arms of one experiment meet the same luck."""
    own_seed = derive_seed(seed, task.experiment, bits=31)

    def measure() -> Any:
        found = EXPERIMENTS[task.experiment][task.arm](own_seed)
        return found if isinstance(found, dict) else found._asdict()

    found = keep(folder / "parts", f"{task.experiment} {task.arm}", own_seed, measure)
    kind = {"cliff": dict, "flight": Frontier}.get(task.experiment.split()[0], Learned)
    return kind(**found)
