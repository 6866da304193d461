"""The training loops. Each is one function; an agent's module names the one it is for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from rlsuite.errors import UserError
from rlsuite.evaluate import Assessment
from rlsuite.parts import Due
from rlsuite.run import Run
from rlsuite.settings import Count, NonNegative, PositiveCount, settings
from rlsuite.types import (
    Agent,
    Alarm,
    CertifiedSolver,
    ReplayMemory,
    RolloutAgent,
    RolloutMemory,
    Solver,
    VectorEnv,
)


class Job(NamedTuple):
    """A loop with its parts, and what a run has to know of them."""

    loop: Callable[[Run], None]
    evaluate: Callable[[int], Assessment]
    """Of transitions."""
    metrics: dict[str, str]
    unit: str = "transitions"
    """What the run counts, for people."""
    alarms: Mapping[str, Alarm] | None = None
    close: Callable[[], None] = lambda: None
    """To be called at the end, however it ends."""


@settings
class ReplayPlan:
    """How long to train from replay, and how much."""

    total_transitions: PositiveCount = 1_000_000
    """Environment transitions to make, over all environments."""
    warmup_transitions: Count = 5_000
    """Transitions with uniformly random actions, without learning, at the start."""
    updates_per_transition: NonNegative = 1.0
    """Updates for each environment transition, whatever the number of environments; may be
    fractional."""
    batch_size: PositiveCount = 256
    """Transitions in an update."""


def replay_loop(
    agent: Agent, envs: VectorEnv, replay: ReplayMemory, plan: ReplayPlan, run: Run
) -> None:
    """Act, store, learn from replay, until ``plan.total_transitions``.

    Continues from the run folder's newest checkpoint if there is one. Raises ``run.Stopped``
    after a checkpoint if a stop was asked for.
    """
    due = Due(plan.updates_per_transition)
    obs = run.restore(envs, replay=replay, agent=agent, due=due)
    replay.cut(envs.lost)
    while run.transitions < plan.total_transitions:
        warming_up = run.transitions < plan.warmup_transitions
        action, extra = agent.act(obs, explore=not warming_up)  # what is stored has one form
        action = envs.sample_actions() if warming_up else action
        new = envs.step(action, extra)
        replay.add(new.step)
        obs = new.obs
        transitions = len(new.step.terminated)
        run.advance(transitions, new.episodes)
        for _ in range(0 if warming_up else due(transitions)):
            batch = replay.sample(plan.batch_size)
            out = agent.update(batch)
            replay.update(batch, out.priority)
            run.log(out.metrics)
        run.housekeeping()


@settings
class RolloutPlan:
    """How long to train from rollouts, and how often."""

    total_transitions: PositiveCount = 1_000_000
    """Environment transitions to make, over all environments. Those after the last full rollout are
    not learned from."""
    steps_per_rollout: PositiveCount = 2_048
    """Steps of every environment between two updates."""


def rollout_loop(
    agent: RolloutAgent, envs: VectorEnv, rollout: RolloutMemory, plan: RolloutPlan, run: Run
) -> None:
    """Act until the rollout is full, learn from it, begin anew, until ``plan.total_transitions``.

    Continues from the run folder's newest checkpoint, which holds the unfinished rollout, if there
    is one. Raises ``run.Stopped`` after a checkpoint if a stop was asked for.
    """
    obs = run.restore(envs, rollout=rollout, agent=agent)
    rollout.cut(envs.lost)
    while run.transitions < plan.total_transitions:
        action, extra = agent.act(obs)
        new = envs.step(action, extra)
        rollout.add(new.step)
        obs = new.obs
        run.advance(len(new.step.terminated), new.episodes)
        if rollout.is_full():
            out = agent.update(rollout.take())
            run.log(out.metrics)
        run.housekeeping()


@settings
class SolvePlan:
    """How long to solve."""

    total_iterations: PositiveCount = 1_000
    """Iterations, at most. To section run an iteration is a transition."""
    tolerance: NonNegative | None = None
    """End as soon as the solver's certified gap, in units of its costs, is at most this; unset is
    to make all iterations."""


def solve_loop(solver: Solver, plan: SolvePlan, run: Run) -> None:
    """Iterate until ``plan.total_iterations``; an iteration is a transition to the run's clocks.

    Ends sooner if the gap is within ``plan.tolerance``. Continues from the run folder's newest
    checkpoint if there is one. Raises ``run.Stopped`` after a checkpoint if a stop was asked for,
    UserError for a tolerance with a solver that has no certificate.
    """
    run.resume(solver=solver)
    solved = _is_solved(solver, plan.tolerance)
    while run.transitions < plan.total_iterations and not solved:
        metrics = solver.iterate()
        solved = _is_solved(solver, plan.tolerance)
        run.advance(1, [])
        run.log(metrics)
        run.housekeeping(finished=solved)


def _is_solved(solver: Solver, tolerance: float | None) -> bool:
    if tolerance is None:
        return False
    if not isinstance(solver, CertifiedSolver):
        name = type(solver).__name__
        raise UserError(
            f"tolerance is {tolerance:g}, but {name} has no certified gap: leave it out"
        )
    return bool(solver.gap <= tolerance)
