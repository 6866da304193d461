"""From the experiment of a solver to its run and its exact evaluation."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rlsuite.agents import AGENTS
from rlsuite.agents.adversaries import TiltAdversary, make_adversary
from rlsuite.agents.robust_planning import (
    evaluate,
    robust_cost,
    robust_policy_iteration,
    total_cost,
)
from rlsuite.config import Experiment
from rlsuite.errors import UserError
from rlsuite.evaluate import EXACT_METRICS, ExactEvaluation
from rlsuite.loops import Job, SolvePlan, solve_loop
from rlsuite.problems import Problem
from rlsuite.robust import RobustMDP
from rlsuite.tilt import TiltedKernel


def is_solved(experiment: Experiment) -> bool:
    """Whether a solver makes it, not an agent that plays."""
    return isinstance(experiment.plan, SolvePlan)


def build_problem(experiment: Experiment, device: torch.device) -> Problem:
    """What section env says. Raises UserError for a problem that cannot be made."""
    config: Any = experiment.env
    mdp, training, policy = config.build(experiment.run.seed)
    policy = policy if policy is None else policy.to(device)
    return Problem(mdp.to(device), training.to(device), policy)


def build_solver(experiment: Experiment, problem: Problem) -> Any:
    """A fresh solver. Raises UserError for an adversary that does not fit, or a tolerance that no
    certificate can meet."""
    config, plan = experiment.agent, experiment.plan
    adversary = make_adversary(
        problem.training, config.adversary, experiment.adversary, seed=experiment.run.seed
    )
    if isinstance(plan, SolvePlan) and plan.tolerance is not None and not adversary.certified:
        raise UserError(
            f"plan.tolerance is {plan.tolerance:g}, but {type(adversary).__name__} certifies no"
            " gap: leave it out, or take agent.adversary exact or ascent"
        )
    make = AGENTS[experiment.algorithm].agent
    return make(problem.training, config, adversary=adversary, policy=problem.policy)


def build_job(experiment: Experiment, device: torch.device) -> Job:
    """``solve_loop`` with solver and evaluation."""
    assert isinstance(experiment.plan, SolvePlan)
    problem = build_problem(experiment, device)
    solver = build_solver(experiment, problem)
    judge = evaluator(experiment, problem)
    return Job(
        functools.partial(solve_loop, solver, experiment.plan),
        lambda iterations: judge(solver.solution, iterations),
        EXACT_METRICS | AGENTS[experiment.algorithm].metrics,
        unit="iterations",
    )


def evaluator(experiment: Experiment, problem: Problem) -> Callable[[Tensor, int], ExactEvaluation]:
    """What evaluates an (N, S, X) policy after so many iterations, from the true start.

    The least robust cost is planned once. For a parametric kernel the worst is the worst of ascents
    from several starts, the same in each evaluation.
    """
    mdp = problem.mdp
    parametric = isinstance(mdp.ambiguity, TiltedKernel)
    plan = functools.cache(lambda: total_cost(mdp, robust_policy_iteration(mdp).v).tolist())

    def judge(policy: Tensor, iterations: int) -> ExactEvaluation:
        nominal = total_cost(mdp, evaluate(mdp, policy, mdp.nominal).v)
        if parametric:
            worst, least = _tilted_cost(mdp, policy, experiment.run.seed), None
        else:
            worst, least = robust_cost(mdp, policy), plan()
        return ExactEvaluation(iterations, worst.tolist(), nominal.tolist(), least)

    return judge


def _tilted_cost(mdp: RobustMDP, policy: Tensor, seed: int) -> Tensor:
    found = TiltAdversary(mdp, seed=seed).respond(policy, torch.zeros_like(mdp.initial[:, 0]))
    return total_cost(mdp, found.evaluation.v)


def load_solver(experiment: Experiment, state: dict[str, Any], device: torch.device) -> Any:
    """The solver of a checkpoint: its ``solution`` is the policy, its ``mdp`` the problem."""
    solver = build_solver(experiment, build_problem(experiment, device))
    solver.load_state_dict(state["solver"])
    return solver


def evaluate_solver(
    experiment: Experiment, state: dict[str, Any], device: torch.device
) -> ExactEvaluation:
    """Of the solution in a checkpoint."""
    judge = evaluator(experiment, build_problem(experiment, device))
    policy = state["solver"]["solution"].to(device)
    return judge(policy, state["run"]["transitions"])
