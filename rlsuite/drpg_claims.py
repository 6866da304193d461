"""What of "Policy Gradient in Robust MDPs with Global Convergence Guarantee" is measured again.

Wang, Ho and Petrik, ICML 2023, arXiv 2212.10439. On random problems, against exact planners: how
fast the policy gradient converges, what its inner loop has to be, and what robustness is worth
under the worst and under random kernels. The inventory problem with its parametric kernel, and toy
text. All costs are exact, none is estimated from episodes. docs/drpg.md says what is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlsuite.agents.adversaries import (
    PUBLISHED_TILT,
    Adversary,
    AscentConfig,
    ExactAdversary,
    FixedKernel,
    GradientAdversary,
    TiltAdversary,
    TiltConfig,
)
from rlsuite.agents.drpg import (
    DRPG,
    PER_STATE_STEP,
    DRPGConfig,
    StepSize,
    nominal_policy_gradient,
    published,
    single_loop,
)
from rlsuite.agents.robust_planning import (
    RobustValueIteration,
    evaluate,
    nominal_policy_iteration,
    optimality_gap,
    robust_cost,
    robust_policy_iteration,
    robust_value_iteration,
    total_cost,
)
from rlsuite.ambiguity import L1
from rlsuite.claims import Task
from rlsuite.envs.garnet import garnet, garnet_policy
from rlsuite.envs.inventory import inventory, inventory_start
from rlsuite.envs.tabular import tabular
from rlsuite.rng import derive_seed, generator
from rlsuite.robust import RobustMDP
from rlsuite.tilt import TiltedKernel

Array: TypeAlias = NDArray[np.float64]
Size: TypeAlias = tuple[int, int, int]

TITLE = "Policy Gradient in Robust MDPs with Global Convergence Guarantee (arXiv 2212.10439)"

ITERATIONS = 200
INSTANCES = 10
"""Of a batch; an experiment has several."""


class Garnets(NamedTuple):
    """Random problems of one kind."""

    size: Size
    """States, actions, successors."""
    rectangular: Literal["sa", "s"] = "sa"
    radius: tuple[float, float] | None = None
    """Range of the radii; None is the paper's."""

    def draw(self, seed: int, instances: int) -> tuple[RobustMDP, Tensor]:
        """Problems, and policies to start from."""
        mdp = garnet(
            *self.size,
            instances=instances,
            rectangular=self.rectangular,
            radius=self.radius,
            seed=seed,
        )
        return mdp, garnet_policy(mdp, seed)


GARNETS = {
    "garnet 5-4-3": Garnets((5, 4, 3)),
    "garnet 5-6-3": Garnets((5, 6, 3)),
    "garnet 10-6-3": Garnets((10, 6, 3)),
    "garnet 15-8-3": Garnets((15, 8, 3)),
}
"""(s,a)-rectangular. The first, third and fourth are in the paper's legend, the second in its
code."""
GARNETS_PER_STATE = {
    "garnet per state 10-5-10": Garnets((10, 5, 10), "s"),
    "garnet per state 15-8-15": Garnets((15, 8, 15), "s"),
    "garnet per state 10-5-10, wide": Garnets((10, 5, 10), "s", (0.5, 1.0)),
    "garnet per state 15-8-15, wide": Garnets((15, 8, 15), "s", (0.5, 1.0)),
}
"""s-rectangular; wide have the radii of the follow-up paper's code."""

PAPER_STEP, VALUE_ITERATION = "paper's step", "value iteration"
SINGLE_LOOP = "single loop"
"""With the paper's outer step, and one inner step of 0.1 for each."""
STEPS = {
    "step 1000": StepSize(size=1000.0),
    "greedy step": StepSize(size=1e6),
}
"""Relative, for (s,a)-rectangular sets."""
STEPS_PER_STATE = {
    "decaying step": PER_STATE_STEP,
    "constant step": StepSize(size=0.2, relative=False),
}
"""For s-rectangular ones: the default, and one that fails."""


class Descent(NamedTuple):
    """Costs by iteration, (T, N) of N instances; the first row is that of the start."""

    cost: Array
    """What the method holds its policy to cost."""
    certificate: Array
    """The method's own bound on the distance of that cost to the optimum."""
    optimum: Array
    """(N,)."""
    mixed: float = 0.0
    """Share of the states in which the optimal policy randomises."""


def descend(
    seed: int, *, garnets: Garnets, step: StepSize | None = None, single: bool = False
) -> Descent:
    """DRPG against the exact adversary, or the single loop; without a step, that of the paper.

    All policies are judged by the exact adversary.
    """
    mdp, policy = garnets.draw(seed, INSTANCES)
    judge = ExactAdversary(mdp)
    config = published(mdp.states) if step is None else DRPGConfig(step=step)
    if single:
        solver = single_loop(mdp, config, policy=policy)
    else:
        solver = DRPG(mdp, config, adversary=judge, policy=policy)
    costs, certificates = [], []
    for _ in range(ITERATIONS):
        if single:
            judge.respond(solver.policy, torch.zeros(INSTANCES))
        solver.iterate()
        assert judge.v is not None
        costs.append(total_cost(mdp, judge.v))
        certificates.append(optimality_gap(mdp, judge.v))
    best = robust_policy_iteration(mdp)
    mixed = ((best.policy > 1e-6).sum(-1) > 1).double().mean()
    optimum = total_cost(mdp, best.v)
    return Descent(_rows(costs), _rows(certificates), optimum.numpy(), float(mixed))


def sweep(seed: int, *, garnets: Garnets) -> Descent:
    """Robust value iteration from the nominal values of the first policy."""
    mdp, policy = garnets.draw(seed, INSTANCES)
    solver = RobustValueIteration(mdp, evaluate(mdp, policy, mdp.nominal).v)
    costs, certificates = [], []
    for _ in range(ITERATIONS):
        costs.append(total_cost(mdp, solver.v))
        solver.iterate()
        certificates.append(solver.change / (1 - mdp.discount))
    optimum = total_cost(mdp, robust_policy_iteration(mdp).v)
    return Descent(_rows(costs), _rows(certificates), optimum.numpy())


def _rows(values: list[Tensor]) -> Array:
    array: Array = torch.stack(values).numpy()
    return array


INNER = {
    "cold": AscentConfig(warm=False, fill=False, max_solves=100),
    "warm": AscentConfig(warm=True, fill=False, max_solves=100),
    "fill": AscentConfig(warm=False, fill=True, max_solves=100),
    "warm and fill": AscentConfig(max_solves=100),
    "exact": None,
}
"""Inner loops; None is nature's policy iteration."""
INNER_SIZE = (5, 6, 3)
INNER_ITERATIONS = {0.05: 60, 1.0: 400}
"""By outer step, raw. With steps of 1 the last instances arrive after some hundreds; with 0.05 the
inner loops do not differ."""


class Chatter(NamedTuple):
    """How a run with some inner loop ends."""

    gap: Array
    """(N,) relative distance of the last policy's robust cost to the optimum."""
    solves: float
    """Linear systems of an outer iteration, mean."""


def chatter(seed: int, *, ascent: AscentConfig | None, step: float) -> Chatter:
    """The outer loop with raw, constant steps; inner steps of 0.1."""
    mdp, policy = Garnets(INNER_SIZE).draw(seed, 3)
    adversary: Adversary = ExactAdversary(mdp) if ascent is None else GradientAdversary(mdp, ascent)
    config = DRPGConfig(step=StepSize(size=step, relative=False))
    solver = DRPG(mdp, config, adversary=adversary, policy=policy)
    solves = [float(solver.iterate()["inner/steps"]) for _ in range(INNER_ITERATIONS[step])]
    best = total_cost(mdp, robust_policy_iteration(mdp).v)
    gap = robust_cost(mdp, solver.policy) / best - 1
    return Chatter(gap.numpy(), float(np.mean(solves)))


JUDGED: dict[str, Garnets] = {
    **{name.replace("garnet", "worth"): garnets for name, garnets in GARNETS.items()},
    **{
        name: GARNETS_PER_STATE[name.replace("worth", "garnet")]
        for name in ("worth per state 10-5-10", "worth per state 10-5-10, wide")
    },
}
KERNELS = 100
"""Random ones, of an instance."""


class Judged(NamedTuple):
    """A policy under kernels of the set."""

    worst: Array
    """(N,) cost under the worst."""
    nominal: Array
    """(N,) under the nominal one."""
    random: Array
    """(N, K) under random ones."""
    least: Array
    """(N, 2) the least worst-case cost, and the least nominal cost."""


def judge(seed: int, *, garnets: Garnets, robust: bool) -> Judged:
    """The policy of DRPG, or of the same loop against the nominal kernel.

    Random kernels are at the edge of the set: each the worst of values of its own, drawn from a
    normal distribution for every (s, a, s').
    """
    mdp, policy = garnets.draw(seed, INSTANCES)
    # Against one kernel a deterministic policy is optimal, whatever the set: the step may be long.
    long = DRPGConfig(step=STEPS["step 1000"])
    solver = DRPG(mdp, policy=policy) if robust else nominal_policy_gradient(mdp, long)
    for _ in range(ITERATIONS):
        solver.iterate()
    chosen = solver.solution
    worst = robust_cost(mdp, chosen)
    wide = mdp.repeat(KERNELS)
    random = generator(seed, "random kernels")
    z = torch.randn(wide.nominal.shape, generator=random, dtype=torch.float64)
    drawn = total_cost(
        wide, evaluate(wide, chosen.repeat_interleave(KERNELS, 0), wide.worst(z, wide.uniform())).v
    )
    plans = robust_policy_iteration(mdp), nominal_policy_iteration(mdp)
    return Judged(
        worst.numpy(),
        total_cost(mdp, evaluate(mdp, chosen, mdp.nominal).v).numpy(),
        drawn.view(-1, KERNELS).numpy(),
        torch.stack([total_cost(mdp, plan.v) for plan in plans], 1).numpy(),
    )


INVENTORY_ITERATIONS, INVENTORY_STARTS = 100, 10
SEEN = (0, 1, 2, 5, 10, 20, 50, 99)
"""Iterations of the inventory problem after which the policy is looked at."""
WIDER_TILT = TiltConfig(starts=("ones", "centre"), max_solves=2000)
"""Six ascents, by which the last policies are judged."""


class Inventory(NamedTuple):
    """Worst-case costs of the inventory problem; instance 0 has uniform start and policy."""

    cost: Array
    """(len(SEEN), N) by the paper's inner loop."""
    ends: Array
    """(N,) of the last policy, the highest of that and of ascents from more starts."""
    nominal: Array
    """(N,) of the last policy at the nominal kernel."""
    random: Array
    """(N, K) of it under random parameters."""


def inventories(seed: int, *, step: float, robust: bool) -> Inventory:
    """Raw, constant outer steps, and the paper's inner loop from ones."""
    first, policy = inventory_start(seed, INVENTORY_STARTS)
    mdp = inventory(torch.cat([torch.full_like(first[:1], 1 / 8), first]))
    policy = torch.cat([torch.full_like(policy[:1], 1 / 3), policy])
    config = DRPGConfig(step=StepSize(size=step, relative=False))
    inner = TiltAdversary(mdp, PUBLISHED_TILT)
    solver = DRPG(mdp, config, adversary=inner if robust else FixedKernel(mdp), policy=policy)
    nothing, costs, last = torch.zeros(len(policy)), [], policy
    for t in range(INVENTORY_ITERATIONS):
        last = solver.policy
        if t in SEEN and not robust:
            costs.append(total_cost(mdp, inner.respond(last, nothing).evaluation.v))
        solver.iterate()
        if t in SEEN and robust:
            costs.append(solver.cost)
    wider = TiltAdversary(mdp, WIDER_TILT, seed=seed)
    ends = torch.maximum(costs[-1], total_cost(mdp, wider.respond(last, nothing).evaluation.v))
    wide, tilt = mdp.repeat(KERNELS), mdp.ambiguity
    assert isinstance(tilt, TiltedKernel)
    xi = tilt.sample(KERNELS, generator(seed, "random kernels"))
    kernel = tilt.repeat(KERNELS).kernel(xi, wide.successor)
    drawn = total_cost(wide, evaluate(wide, last.repeat_interleave(KERNELS, 0), kernel).v)
    nominal = total_cost(mdp, evaluate(mdp, last, mdp.nominal).v)
    return Inventory(_rows(costs), ends.numpy(), nominal.numpy(), drawn.view(-1, KERNELS).numpy())


TOYS: dict[str, tuple[str, dict[str, Any]]] = {
    "FrozenLake 4x4": ("FrozenLake-v1", {"map_name": "4x4"}),
    "FrozenLake 8x8": ("FrozenLake-v1", {"map_name": "8x8"}),
    "CliffWalking": ("CliffWalking-v1", {"is_slippery": True}),
}
TOY_RADII = (0.0, 0.1, 0.3, 0.6)
TOY_ITERATIONS = 20


class Toy(NamedTuple):
    """Worst-case returns from the environment's start."""

    values: list[float]
    """The best there are, by radius of ``TOY_RADII``."""
    mixed: float
    """At radius 0.3, of DRPG's policy trained half from a uniform start."""
    unmixed: float
    """Trained from the environment's start alone."""


def toy_text(seed: int, *, env: str) -> Toy:
    """Robust value iteration, and 20 iterations of DRPG. Nothing is drawn."""
    name, kwargs = TOYS[env]
    values, found = [], {}
    for radius in TOY_RADII:
        mdp = tabular(name, L1(radius), **kwargs)
        values.append(-float(total_cost(mdp, robust_value_iteration(mdp).v)))
    mdp = tabular(name, L1(0.3), **kwargs)
    for weight in (0.5, 0.0):
        solver = DRPG(mdp.mix_initial(weight))
        for _ in range(TOY_ITERATIONS):
            solver.iterate()
        found[weight] = -float(robust_cost(mdp, solver.solution))
    return Toy(values, found[0.5], found[0.0])


SUCCESS_RATES = (1 / 3, 0.5, 0.6, 0.8, 0.9, 1.0)


def shifted(seed: int, *, radius: float) -> list[float]:
    """FrozenLake's returns at ``SUCCESS_RATES``, planned at 0.6 with a radius. Nothing is drawn."""
    lakes = [tabular("FrozenLake-v1", L1(radius), success_rate=rate) for rate in SUCCESS_RATES]
    policy = robust_policy_iteration(lakes[SUCCESS_RATES.index(0.6)]).policy
    return [-float(total_cost(mdp, evaluate(mdp, policy, mdp.nominal).v)) for mdp in lakes]


class Experiment(NamedTuple):
    """A measurement, the arms that it compares, and how often."""

    arms: Mapping[str, Callable[[int], Any]]
    """Called with the seed."""
    batches: int = 1


EXPERIMENTS: dict[str, Experiment] = {
    "inventory": Experiment(
        {
            "robust, step 0.1": partial(inventories, step=0.1, robust=True),
            "robust, step 0.01": partial(inventories, step=0.01, robust=True),
            "non-robust": partial(inventories, step=0.1, robust=False),
        }
    ),
    "inner loop": Experiment(
        {
            f"{name}, step {step:g}": partial(chatter, ascent=ascent, step=step)
            for step in INNER_ITERATIONS
            for name, ascent in INNER.items()
        },
        3,
    ),
    **{
        name: Experiment(
            {
                **{
                    arm: partial(descend, garnets=kind, step=s)
                    for arm, s in STEPS_PER_STATE.items()
                },
                VALUE_ITERATION: partial(sweep, garnets=kind),
            },
            5,
        )
        for name, kind in GARNETS_PER_STATE.items()
    },
    **{
        name: Experiment(
            {
                PAPER_STEP: partial(descend, garnets=kind),
                SINGLE_LOOP: partial(descend, garnets=kind, single=True),
                **{arm: partial(descend, garnets=kind, step=s) for arm, s in STEPS.items()},
                VALUE_ITERATION: partial(sweep, garnets=kind),
            },
            5,
        )
        for name, kind in GARNETS.items()
    },
    **{
        name: Experiment(
            {
                arm: partial(judge, garnets=kind, robust=arm == "robust")
                for arm in ("robust", "non-robust")
            },
            5,
        )
        for name, kind in JUDGED.items()
    },
    "toy text": Experiment({name: partial(toy_text, env=name) for name in TOYS}),
    "shifted lake": Experiment(
        {f"radius {radius:g}": partial(shifted, radius=radius) for radius in (0.0, 0.4)}
    ),
}


def tasks() -> list[Task]:
    """All that has to be measured, the long ones first."""
    return [
        Task(name, arm, repeat)
        for name, entry in EXPERIMENTS.items()
        for repeat in range(entry.batches)
        for arm in entry.arms
    ]


def run(task: Task, seed: int, folder: Path) -> Any:
    """Measure one arm on one batch; the arms see the same problems."""
    own_seed = derive_seed(seed, task.experiment, task.repeat, bits=31)
    return EXPERIMENTS[task.experiment].arms[task.arm](own_seed)
