"""What of "Experience Replay with Random Reshuffling" (Fujita, arXiv 2503.02269) a CPU can show.

The counts that its samplers promise, and small problems in which what follows from them can be
worked out or measured in seconds; docs/er_rr.md says what is left out. All samplers are those of
``rlsuite.buffers``, used as a replay uses them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from rlsuite.buffers import (
    DenseRRMSampler,
    LazyRRMSampler,
    PrioritizedSampler,
    Priority,
    ReshuffleSampler,
    UniformSampler,
)
from rlsuite.claims import Task
from rlsuite.rng import derive_seed
from rlsuite.types import Sampler

Array: TypeAlias = NDArray[np.float64]

TITLE = "Experience Replay with Random Reshuffling (Fujita, arXiv 2503.02269)"

ARMS: dict[str, Callable[[int, Priority], Sampler]] = {
    "uniform": lambda seed, _: UniformSampler(seed),
    # Equal priorities, none twice in a batch: uniform without replacement in the batch alone.
    "WOR": lambda seed, _: PrioritizedSampler(seed, priority=Priority(0.0), draw="distinct"),
    "RR-C": lambda seed, _: ReshuffleSampler(seed),
    "PER": lambda seed, rule: PrioritizedSampler(seed, priority=rule),
    "PER stratified": lambda seed, rule: PrioritizedSampler(seed, priority=rule, draw="stratified"),
    "PER WOR": lambda seed, rule: PrioritizedSampler(seed, priority=rule, draw="distinct"),
    "RR-M": lambda seed, rule: LazyRRMSampler(seed, priority=rule),
    "RR-M dense": lambda seed, rule: DenseRRMSampler(seed, priority=rule),
    "RR-M stratified": lambda seed, rule: LazyRRMSampler(seed, priority=rule, draw="stratified"),
}
"""Sampler by name, from a seed and the rule of priorities (for those that have any)."""


def chain(sampler: Sampler, seed: int, *, length: int, batch: int) -> float:
    """Epochs (draws / ``length``) until the first state of a deterministic chain is exact.

    Reward 1 at the end, discount 0.99, step size 1, all transitions stored from the start. A value
    is 0 or exact, since it is set to what follows from its successor's. ``seed`` is not needed:
    the data are fixed.
    """
    _fill(sampler, length)
    value = [0.0] * (length + 1)
    draws = 0
    while value[0] == 0.0:
        slots = sampler.sample(batch)[0].tolist()
        # All from the values before the batch, as in a minibatch.
        new = [1.0 if slot == length - 1 else 0.99 * value[slot + 1] for slot in slots]
        for slot, target in zip(slots, new, strict=True):
            value[slot] = target
        draws += batch
    return draws / length


SIDE, GOAL = 10, 99
DISCOUNT = 0.95
CAPACITY, WARMUP, BATCH, STEP_SIZE = 1000, 50, 4, 0.5
EPISODE_LIMIT, MEASURE_EVERY = 100, 250


def _moves() -> NDArray[np.int64]:
    """(100, 4) successors; a wall keeps you where you are, and so does the goal."""
    row, column = np.divmod(np.arange(SIDE * SIDE), SIDE)
    steps = [(-1, 0), (1, 0), (0, -1), (0, 1)]
    last = SIDE - 1
    moves = [(row + y).clip(0, last) * SIDE + (column + x).clip(0, last) for y, x in steps]
    successors = np.stack(moves, axis=1)
    successors[GOAL] = GOAL
    return successors


def grid_values() -> Array:
    """(100, 4) optimal action values of the grid; 0 at the goal."""
    successors = _moves()
    value = np.zeros((SIDE * SIDE, 4))
    for _ in range(2 * SIDE):  # no way is longer
        value = np.where(successors == GOAL, 1.0, DISCOUNT * value.max(1)[successors])
        value[GOAL] = 0.0
    return value


def grid(sampler: Sampler, seed: int, *, steps: int = 6000) -> Array:
    """Error of Q-learning on a 10 x 10 grid, every 250 steps: mean |Q - Q*| / mean |Q*|.

    Reward 1 at the goal in a corner, which ends the episode; discount 0.95; random moves, random
    starts, episodes cut after 100 steps; the last 1000 transitions, a batch of 4 for each step,
    step size 0.5. What is experienced depends on ``seed`` alone, not on the sampler.
    """
    sampler.prepare(CAPACITY, torch.device("cpu"))
    rng = np.random.default_rng(seed)
    actions, starts = rng.integers(4, size=steps).tolist(), rng.integers(GOAL, size=steps).tolist()
    successors, best = _moves().tolist(), grid_values()
    value = [[0.0] * 4 for _ in range(SIDE * SIDE)]
    memory: list[tuple[int, int, int]] = [(0, 0, 0)] * CAPACITY
    state, age, errors = starts[0], 0, []
    for step, action in enumerate(actions):
        following, slot = successors[state][action], step % CAPACITY
        memory[slot] = state, action, following
        sampler.add(range(slot, slot + 1))
        state, age = following, age + 1
        if state == GOAL or age == EPISODE_LIMIT:
            state, age = starts[step], 0
        if step >= WARMUP:
            _learn(sampler, value, memory)
        if (step + 1) % MEASURE_EVERY == 0:
            errors.append(np.abs(np.array(value) - best).sum() / best.sum())
    return np.array(errors)


def _learn(sampler: Sampler, value: list[list[float]], memory: list[tuple[int, int, int]]) -> None:
    slots, _ = sampler.sample(BATCH)
    batch = [memory[slot] for slot in slots.tolist()]
    # A corrected value anywhere in the batch is not seen by the rest of it, as in a minibatch.
    wrong = [
        (1.0 if following == GOAL else DISCOUNT * max(value[following])) - value[state][action]
        for state, action, following in batch
    ]
    for (state, action, _), error in zip(batch, wrong, strict=True):
        value[state][action] += STEP_SIZE * error
    sampler.update(slots, torch.tensor(wrong))


def noise_floor(
    sampler: Sampler,
    seed: int,
    *,
    step_size: float,
    states: int = 20,
    visits: int = 20,
    epochs: tuple[int, int] = (100, 150),
) -> float:
    """Mean squared error of TD(0) with a constant step, at the ends of the given epochs.

    A fixed set of ``visits`` transitions from each state, successors uniform, rewards normal with
    variance 1, discount 0.9; the error is to the fixed point of TD on this very set.
    """
    rng = np.random.default_rng(seed)
    count = states * visits
    state = np.arange(count) % states
    following, reward = rng.integers(states, size=count), rng.standard_normal(count)
    transition = np.zeros((states, states))
    np.add.at(transition, (state, following), 1 / visits)
    mean_reward = np.bincount(state, reward) / visits
    fixed_point = np.linalg.solve(np.eye(states) - 0.9 * transition, mean_reward)
    _fill(sampler, count)
    value = [0.0] * states
    data = list(zip(state.tolist(), reward.tolist(), following.tolist(), strict=True))
    errors = []
    for epoch in range(epochs[1]):
        for slot in sampler.sample(count)[0].tolist():
            s, r, after = data[slot]
            value[s] += step_size * (r + 0.9 * value[after] - value[s])
        if epoch >= epochs[0]:
            errors.append(np.mean((np.array(value) - fixed_point) ** 2))
    return float(np.mean(errors))


def lifetime_counts(sampler: Sampler, seed: int, *, adds: int = 12_000) -> NDArray[np.int64]:
    """How often each transition was drawn from its writing to its overwriting.

    1000 slots, batches of 32, one for every 4 new transitions: 8 draws in a life on average. Those
    written before the replay is full twice over and in the last life are left out.
    """
    capacity, batch, new = 1000, 32, 4
    sampler.prepare(capacity, torch.device("cpu"))
    counts = np.zeros(adds, np.int64)
    owner = np.zeros(capacity, np.int64)
    for first in range(0, adds, new):
        slot = first % capacity
        owner[slot : slot + new] = range(first, first + new)
        sampler.add(range(slot, slot + new))
        if first + new >= batch:
            np.add.at(counts, owner[sampler.sample(batch)[0].numpy()], 1)
    return counts[2 * capacity : -capacity]


class Tracking(NamedTuple):
    """How far draws follow their expectation."""

    square: float
    """Mean (A - E)**2 over slots at the end; A draws, E expected draws."""
    over: float
    """Greatest A - E of any slot after any batch."""
    repeats: int
    """Batches that held a slot twice."""


def tracking(sampler: Sampler, seed: int, *, batches: int = 4000) -> Tracking:
    """Draws from 1000 slots of fixed priorities rank**-0.5, in batches of 32."""
    count, batch = 1000, 32
    _fill(sampler, count)
    error = 1.0 / np.arange(1, count + 1)
    sampler.update(torch.arange(count), torch.from_numpy(error))
    share = batch * np.sqrt(error) / np.sqrt(error).sum()
    ahead, over, repeats = np.zeros(count), 0.0, 0
    for _ in range(batches):
        slots = sampler.sample(batch)[0].numpy()
        repeats += len(np.unique(slots)) < batch
        np.add.at(ahead, slots, 1.0)
        ahead -= share
        over = max(over, float(ahead.max()))
    return Tracking(float(np.mean(ahead**2)), over, repeats)


def _fill(sampler: Sampler, count: int) -> None:
    sampler.prepare(count, torch.device("cpu"))
    sampler.add(range(count))


class Experiment(NamedTuple):
    """A measurement, the arms that it compares, and how often."""

    measure: Callable[..., Any]
    """Called with a fresh sampler and the seed of the data."""
    arms: tuple[str, ...]
    seeds: int
    priority: Priority = Priority()


CHAINS = {"chain 200, batch 1": (200, 1), "chain 100, batch 1": (100, 1)}
CHAINS |= {"chain 200, batch 8": (200, 8), "chain 400, batch 32": (400, 32)}
STEP_SIZES = (0.01, 0.05, 0.2)
# Priorities of the tracking: the error to the power 1/2, nothing added.
ROOT = Priority(0.5, 0.0, 1e-12)

EXPERIMENTS: dict[str, Experiment] = {
    "lifetime": Experiment(lifetime_counts, ("uniform", "WOR", "RR-C"), 5),
    "tracking": Experiment(
        tracking, ("PER", "PER stratified", "RR-M", "RR-M dense", "RR-M stratified"), 5, ROOT
    ),
    **{
        name: Experiment(
            partial(chain, length=length, batch=batch),
            ("uniform", "RR-C", "WOR") if batch > 1 else ("uniform", "RR-C"),
            40,
        )
        for name, (length, batch) in CHAINS.items()
    },
    "grid": Experiment(grid, ("uniform", "WOR", "RR-C"), 30),
    "prioritized grid": Experiment(
        grid, ("PER", "PER stratified", "PER WOR", "RR-M"), 16, Priority(0.6, 0.01)
    ),
    **{
        f"noise floor, step {size:g}": Experiment(
            partial(noise_floor, step_size=size), ("uniform", "RR-C"), 10
        )
        for size in STEP_SIZES
    },
}


def tasks() -> list[Task]:
    """All that has to be measured, the long ones first."""
    return [
        Task(name, arm, repeat)
        for name, experiment in reversed(EXPERIMENTS.items())
        for arm in experiment.arms
        for repeat in range(experiment.seeds)
    ]


def run(task: Task, seed: int, folder: Path) -> Any:
    """Measure one arm with one seed; nothing is kept. All arms see the same data in one repeat."""
    experiment = EXPERIMENTS[task.experiment]
    own = derive_seed(seed, task.experiment, task.arm, task.repeat)
    sampler = ARMS[task.arm](own, experiment.priority)
    return experiment.measure(sampler, derive_seed(seed, task.experiment, task.repeat))
