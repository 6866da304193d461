"""Random problems of advice, and slow solutions of them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rlsuite.advice import AdviceModel
from rlsuite.agents.advice_learning import (
    AdviceLearning,
    AdviceTask,
    Advisor,
    Episodes,
    Replanning,
)
from rlsuite.agents.advice_lp import solve, write_program
from rlsuite.agents.agnostic_advice import AgnosticAdvice, EULERConfig
from rlsuite.agents.fucb import FUCB
from rlsuite.agents.rfe import RFE, OnlineRFE
from rlsuite.agents.uc_cfh import UCCFH
from rlsuite.agents.ucb_ad import UCBAD

Floats = NDArray[np.float64]


def random_model(seed: int, instances: int, states: int = 5, actions: int = 3) -> AdviceModel:
    """Dirichlet kernels and humans, uniform rewards and adherence, starting in state 0."""
    rng = np.random.default_rng(seed)
    shape = (instances, states, actions)
    return AdviceModel.from_arrays(
        rng.dirichlet(np.full(states, 0.5), shape),
        reward=rng.random(shape),
        human=rng.dirichlet(np.ones(actions), shape[:2]),
        adherence=rng.random(shape),
        initial=0,
    )


def plan_by_loops(kernel: Floats, reward: Floats, horizon: int) -> tuple[Floats, NDArray[np.int64]]:
    """(H + 1, S) values and (H, S) first best actions of an ordinary MDP, state by state."""
    states, actions = reward.shape
    value, policy = np.zeros((horizon + 1, states)), np.zeros((horizon, states), np.int64)
    for h in reversed(range(horizon)):
        for s in range(states):
            q = [reward[s, a] + kernel[s, a] @ value[h + 1] for a in range(actions)]
            policy[h, s] = int(np.argmax(q))
            value[h, s] = max(q)
    return value, policy


def budget_by_lp(
    kernel: Floats, reward: Floats, initial: Floats, horizon: int, budget: float
) -> float:
    """Of an MDP (S, M, S), (S, M), (S,) whose last action defers."""
    states = len(reward)
    program = write_program(kernel.reshape(-1, states), reward.ravel(), initial, horizon)
    return float(program.reward @ solve(program, budget))


def see(advisor: Advisor, *steps: tuple[int, int, int, float, int], times: int = 1) -> None:
    """Show an advisor of one run steps (state, advice, action, reward, successor)."""
    for _ in range(times):
        for state, advice, action, reward, after in steps:
            advisor.learn(
                Episodes(
                    torch.tensor([[state, after]]),
                    torch.tensor([[advice]]),
                    torch.tensor([[action]]),
                    torch.tensor([[reward]], dtype=torch.float64),
                )
            )


ADVISORS: dict[str, Callable[[AdviceTask], Advisor]] = {
    "ucb_ad": UCBAD,
    "fucb": FUCB,
    "ucbvi": AgnosticAdvice,
    "euler": lambda task: AgnosticAdvice(task, EULERConfig()),
    "rfe": RFE,
    "rfe online": lambda task: OnlineRFE(RFE(task)),
    "uc_cfh": UCCFH,
}
"""By name, with the settings that they have."""


def study(
    name: str, model: AdviceModel, *, only: int | None = None, **kwargs: Any
) -> AdviceLearning:
    """An advisor in a random model over 4 stages, of all its instances or of one."""
    if only is not None:
        parts = ("successor", "probability", "reward", "human", "adherence")
        model = replace(model, **{part: getattr(model, part)[only : only + 1] for part in parts})
    budget = 1.5 if name == "uc_cfh" else None
    task = AdviceTask(model, 4, budget=budget, **kwargs)
    return AdviceLearning(task, ADVISORS[name](task), replanning=Replanning(dense=4, every=4))
