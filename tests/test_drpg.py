"""Double-loop robust policy gradient: reference figures, its guarantee, and its documented failure.

The linear programs and exact planners are tested elsewhere; here they are the oracle.
"""

import copy
import csv
import itertools
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from robust_cases import random_mdp, random_policy
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
    METRICS,
    DRPGConfig,
    StepSize,
    Tolerance,
    nominal_policy_gradient,
    published,
    single_loop,
)
from rlsuite.agents.robust_planning import (
    Response,
    evaluate,
    kernel_gradient,
    nominal_policy_iteration,
    occupancy,
    robust_cost,
    robust_evaluate,
    robust_policy_iteration,
    total_cost,
)
from rlsuite.ambiguity import KL, L1, AmbiguitySet, Contamination, L1PerState, LInf
from rlsuite.checkpoint import CheckpointStore
from rlsuite.envs.garnet import garnet, garnet_policy
from rlsuite.envs.inventory import inventory, inventory_start
from rlsuite.envs.tabular import tabular
from rlsuite.errors import UserError
from rlsuite.loops import SolvePlan, solve_loop
from rlsuite.robust import RobustMDP
from rlsuite.run import Run, RunConfig, Stopped
from rlsuite.tilt import Parameters, TiltedKernel

SEEDS = st.integers(0, 10**6)


def run(solver: DRPG, iterations: int) -> dict[str, Tensor]:
    for _ in range(iterations):
        metrics = solver.iterate()
    names = [name for name in METRICS if name != "cost/gap" or solver.adversary.certified]
    assert list(metrics) == names
    return metrics


def optimum(mdp: RobustMDP) -> Tensor:
    return total_cost(mdp, robust_policy_iteration(mdp).v)


def gap(solver: DRPG) -> Tensor:
    """(N,) relative distance of the returned policy's exact robust cost to the optimum."""
    best = optimum(solver.mdp)
    return (robust_cost(solver.mdp, solver.solution) - best) / best.abs()


def steps(size: float, power: float = 0.0, *, relative: bool = True) -> DRPGConfig:
    return DRPGConfig(step=StepSize(size=size, power=power, relative=relative))


@pytest.mark.parametrize("size", [(5, 4, 3), (10, 6, 3), (15, 8, 3)])
def test_garnets_are_solved(size: tuple[int, int, int]) -> None:
    mdp = garnet(*size, instances=10)
    greedy = DRPG(mdp, steps(1e6), policy=garnet_policy(mdp))
    run(greedy, 10)
    assert float(gap(greedy).max()) <= 1e-9
    default = DRPG(mdp, policy=garnet_policy(mdp))
    run(default, 40)
    assert float(gap(default).max()) <= 1e-4


@pytest.mark.parametrize("ambiguity", [LInf(0.15), KL(0.1), Contamination(0.15)])
def test_garnets_with_other_sets_are_solved(ambiguity: AmbiguitySet) -> None:
    mdp = garnet(10, 6, 3, instances=5).with_ambiguity(ambiguity)
    solver = DRPG(mdp, policy=garnet_policy(mdp))
    assert float((robust_cost(mdp, solver.policy) / optimum(mdp)).min()) > 1.1
    run(solver, 40)
    assert float(gap(solver).max()) <= 1e-9


@pytest.mark.parametrize(("size", "instances"), [((10, 5, 10), 10), ((15, 8, 15), 3)])
def test_garnets_with_a_budget_per_state_are_solved(
    size: tuple[int, int, int], instances: int
) -> None:
    mdp = garnet(*size, instances=instances, rectangular="s", radius=(0.5, 1.0))
    solver = DRPG(mdp, policy=garnet_policy(mdp))
    run(solver, 200)
    assert float(gap(solver).median()) <= 8e-4 and float(gap(solver).max()) <= 1e-3
    best = robust_policy_iteration(mdp)
    mixed = (best.policy > 1e-6).sum(-1) > 1
    assert float(mixed.double().mean()) > 0.5  # randomising pays in most states
    # The documented failure: a constant step does not get below a floor.
    constant = DRPG(mdp, steps(0.2, relative=False), policy=garnet_policy(mdp))
    run(constant, 100)
    assert float((constant.cost / total_cost(mdp, best.v) - 1).median()) >= 1e-2


@pytest.mark.parametrize(
    ("size", "costs"),
    # |J_DRPG - J*| / J* of 10 instances; issue, 11.2: 2.8e-4 at 50; 4.3e-2 at 50; 3.2e-2 at 100.
    [((5, 6, 3), (50, 2e-3)), ((10, 6, 3), (50, 0.1)), ((15, 8, 3), (100, 0.1))],
)
def test_published_steps_descend_slowly(
    size: tuple[int, int, int], costs: tuple[int, float]
) -> None:
    mdp = garnet(*size, instances=10)
    solver = DRPG(mdp, published(size[0]), policy=garnet_policy(mdp))
    first = float((solver.iterate()["cost/robust"] / optimum(mdp).mean()) - 1)
    run(solver, costs[0])
    assert 0.5 < first < 1.2
    middle = float(gap(solver).median())
    assert middle <= costs[1] and (size[0] == 5 or middle >= 1e-3)


@settings(max_examples=20)
@given(
    st.sampled_from([L1, LInf, Contamination, KL, L1PerState]),
    SEEDS,
    st.sampled_from(["direct", "softmax"]),
)
def test_the_bound_holds_and_the_best_iterate_is_kept(
    kind: type[AmbiguitySet], seed: int, form: Any
) -> None:
    mdp = random_mdp(seed, kind(0.2), instances=2)
    config = DRPGConfig(policy=form, tolerance=Tolerance(initial=0.1))
    adversary = None if kind is KL else GradientAdversary(mdp, AscentConfig(max_solves=20))
    solver = DRPG(mdp, config, adversary=adversary)
    bounds = []
    for _ in range(12):
        solver.iterate()
        bounds.append(solver.bound)
        exact = robust_cost(mdp, solver.solution)
        assert bool((exact <= solver.bound + 1e-9).all())
        assert bool((optimum(mdp) <= exact + 1e-9).all())
    assert all(bool((new <= old).all()) for old, new in itertools.pairwise(bounds))


@settings(max_examples=15)
@given(SEEDS, st.sampled_from([L1, LInf, Contamination]))
def test_the_inner_loop_meets_the_tolerance(seed: int, kind: type[AmbiguitySet]) -> None:
    mdp = random_mdp(seed, kind(0.3), instances=3)
    policy = random_policy(mdp, seed)
    adversary = GradientAdversary(mdp, AscentConfig(step=1.0, max_solves=20_000))
    tolerance = torch.tensor([1e-1, 1e-3, 1e-6], dtype=torch.float64)
    response = adversary.respond(policy, tolerance)
    missing = robust_cost(mdp, policy) - total_cost(mdp, response.evaluation.v)
    assert bool((missing >= -1e-10).all())
    assert bool((missing <= response.gap + 1e-10).all())
    assert bool((response.gap <= tolerance).all())
    # Each stops by itself: nothing of the others is in an instance's answer.
    alone = GradientAdversary(mdp, AscentConfig(step=1.0)).respond(policy, tolerance[:1].repeat(3))
    torch.testing.assert_close(alone.kernel[0], response.kernel[0], rtol=0, atol=1e-12)


def test_unused_actions_have_their_worst_kernel() -> None:
    mdp = garnet(6, 4, 3, instances=5)
    policy = garnet_policy(mdp)
    policy[..., 1] = 0
    policy = policy / policy.sum(-1, keepdim=True)
    exact = robust_evaluate(mdp, policy)
    z = mdp.target(exact.evaluation.v)
    bellman = (mdp.worst(z, policy) * z).sum(3)[..., 1]
    tolerance = torch.full((5,), 1e-9, dtype=torch.float64)

    def q(adversary: Adversary) -> Tensor:
        response = adversary.respond(policy, tolerance)
        return (response.kernel * mdp.target(response.evaluation.v)).sum(3)[..., 1]

    torch.testing.assert_close(q(ExactAdversary(mdp)), bellman, rtol=0, atol=1e-9)
    filled = q(GradientAdversary(mdp, AscentConfig(step=1.0)))
    torch.testing.assert_close(filled, bellman, rtol=0, atol=1e-6)
    bare = q(GradientAdversary(mdp, AscentConfig(step=1.0, fill=False, warm=False)))
    assert float((bellman - bare).min()) > 0.01  # they look cheap


def test_a_cold_start_chatters() -> None:
    """Section 5.4 of the issue: a floor with the authors' inner loop, none warm or filled."""
    mdp = garnet(5, 6, 3, instances=3)
    gaps = {}
    for name, (warm, fill) in {
        "cold": (False, False),
        "warm": (True, False),
        "fill": (False, True),
        "both": (True, True),
    }.items():
        config = AscentConfig(warm=warm, fill=fill, max_solves=100)
        adversary = GradientAdversary(mdp, config)
        solver = DRPG(mdp, steps(1.0, relative=False), adversary=adversary)
        counts = [float(solver.iterate()["inner/steps"]) for _ in range(60)]
        worst = robust_cost(mdp, solver.policy) / optimum(mdp) - 1
        gaps[name] = float(worst.max())
    assert gaps["cold"] >= 3e-3
    # Filled, a cold start is as good as its tolerance; only a warm one is exact so soon.
    assert gaps["fill"] <= 1e-3 and max(gaps["warm"], gaps["both"]) <= 1e-9
    assert sum(counts) / 60 <= 5


@pytest.mark.parametrize("rectangular", ["sa", "s"])
def test_policies_do_not_depend_on_scale_and_shift_of_the_costs(rectangular: Any) -> None:
    mdp = garnet(6, 4, 4, instances=3, rectangular=rectangular)
    moved = RobustMDP(
        mdp.successor,
        mdp.support,
        mdp.nominal,
        10 * mdp.cost + 3,
        mdp.initial,
        mdp.discount,
        mdp.ambiguity,
    )
    ends = {}
    for relative in (True, False):
        config = steps(1.0, 0.5, relative=relative)
        one, other = (DRPG(m, config, policy=garnet_policy(mdp)) for m in (mdp, moved))
        run(one, 10), run(other, 10)
        ends[relative] = float((one.policy - other.policy).abs().max())
    assert ends[True] <= 1e-9 and ends[False] > 1e-2


def test_a_batch_is_its_instances() -> None:
    mdp = garnet(8, 4, 3, instances=3)
    both = DRPG(mdp, steps(5.0))
    run(both, 15)
    for i in range(3):
        rows = (x[i : i + 1] for x in (mdp.successor, mdp.support, mdp.nominal, mdp.cost))
        radius = L1(mdp.rectangular.radius[i : i + 1])
        alone = DRPG(RobustMDP(*rows, mdp.initial[i : i + 1], mdp.discount, radius), steps(5.0))
        run(alone, 15)
        torch.testing.assert_close(alone.policy[0], both.policy[i], rtol=0, atol=1e-10)
    again = DRPG(garnet(8, 4, 3, instances=3), steps(5.0))
    run(again, 15)
    assert torch.equal(again.policy, both.policy) and torch.equal(again.bound, both.bound)


def test_softmax_policies_descend() -> None:
    mdp = garnet(5, 4, 3, instances=5)
    solver = DRPG(mdp, DRPGConfig(policy="softmax"), policy=garnet_policy(mdp))
    run(solver, 200)
    assert float(gap(solver).max()) <= 1e-4


def test_baselines() -> None:
    mdp = garnet(10, 6, 3, instances=5)
    plain = nominal_policy_gradient(mdp)
    run(plain, 40)
    plan = nominal_policy_iteration(mdp)
    torch.testing.assert_close(plain.bound, total_cost(mdp, plan.v), rtol=1e-6, atol=0)
    assert float(gap(plain).max()) > 1e-3  # not robust
    single = single_loop(mdp, steps(1.0, relative=False))
    metrics = run(single, 300)
    assert float(metrics["inner/steps"]) <= 2
    assert float(gap(single).median()) < float(gap(plain).median()) / 3


def test_inventory_gradients() -> None:
    mdp = inventory()
    tilt = mdp.ambiguity
    assert isinstance(tilt, TiltedKernel)
    policy = mdp.uniform()
    nominal = evaluate(mdp, policy, mdp.nominal)
    assert float(total_cost(mdp, nominal.v)) == pytest.approx(39.282045, abs=5e-7)
    ones = Parameters(*(torch.ones_like(x) for x in tilt.centre))
    at_ones = evaluate(mdp, policy, tilt.kernel(ones, mdp.successor))
    assert float(total_cost(mdp, at_ones.v)) == pytest.approx(49.416522, abs=5e-7)
    d = occupancy(mdp, nominal)
    slope = kernel_gradient(mdp, d, mdp.target(nominal.v), policy)
    gradient = tilt.gradient(tilt.centre, mdp.successor, slope)
    assert gradient.theta[0].tolist() == pytest.approx([9.668899, -19.383387], abs=5e-7)
    assert gradient.multiplier[0].tolist() == pytest.approx([9.632954, 11.390701], abs=5e-7)


@settings(max_examples=10)
@given(SEEDS)
def test_gradients_of_tilts_equal_autograd(seed: int) -> None:
    initial, policy = inventory_start(seed, 2)
    mdp = inventory(initial)
    tilt = mdp.ambiguity
    assert isinstance(tilt, TiltedKernel)
    xi = tilt.sample(1, torch.Generator().manual_seed(seed))
    xi = Parameters(*(x.clamp(min=0.1).requires_grad_() for x in xi))
    kernel = tilt.kernel(xi, mdp.successor)
    taken = torch.einsum("nsx,nsxt->nst", policy, mdp.dense(kernel))
    cost = (policy[..., None] * kernel * mdp.cost).sum((2, 3))
    v = torch.linalg.solve(torch.eye(8).double() - mdp.discount * taken, cost)
    theirs = torch.autograd.grad((mdp.initial * v).sum(), list(xi))
    xi, kernel = Parameters(*(x.detach() for x in xi)), kernel.detach()
    evaluation = evaluate(mdp, policy, kernel)
    d = occupancy(mdp, evaluation)
    slope = kernel_gradient(mdp, d, mdp.target(evaluation.v), policy)
    for ours, other in zip(tilt.gradient(xi, mdp.successor, slope), theirs, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-8, atol=1e-8)


def test_inventory_costs() -> None:
    """O6 of the issue: uniform start and policy, the paper's inner loop, outer steps of 0.1."""
    mdp = inventory()
    config = steps(0.1, relative=False)
    solver = DRPG(mdp, config, adversary=TiltAdversary(mdp, PUBLISHED_TILT))
    costs = []
    for _ in range(6):
        solver.iterate()
        costs.append(float(solver.cost))
    assert [costs[t] for t in (0, 1, 2, 5)] == pytest.approx(
        [70.727, 51.170, 50.097, 47.994], abs=1e-2
    )
    plain = nominal_policy_gradient(mdp, config)
    judged = {}
    for t in range(6):
        if t in (0, 1, 5):
            judge = TiltAdversary(mdp, PUBLISHED_TILT).respond(plain.policy, torch.zeros(1))
            judged[t] = float(total_cost(mdp, judge.evaluation.v))
        plain.iterate()
    assert list(judged.values()) == pytest.approx([70.727, 54.500, 53.214], abs=1e-2)


def test_several_ascents_find_what_one_may_miss() -> None:
    mdp = inventory()
    policy = nominal_policy_gradient(mdp, steps(0.1, relative=False))
    run(policy, 20)
    costs = {}
    for name, config in {
        "one": TiltConfig(starts=("centre",), random=0),
        "many": TiltConfig(),
    }.items():
        adversary = TiltAdversary(mdp, config)
        response = adversary.respond(policy.policy, torch.zeros(1))
        assert response.kernel.shape == mdp.nominal.shape
        exact = evaluate(mdp, policy.policy, response.kernel).v
        torch.testing.assert_close(exact, response.evaluation.v)
        d = occupancy(mdp, response.evaluation)
        assert float(d.sum()) == pytest.approx(1)
        costs[name] = float(total_cost(mdp, exact))
    assert costs["many"] >= costs["one"] - 1e-6 and costs["many"] >= 50.7


def test_the_worst_end_of_the_ascents_is_taken() -> None:
    initial, policy = inventory_start(1, 2)
    mdp = inventory(initial)
    ends = {}
    for starts in (("ones",), ("centre",), ("ones", "centre")):
        config = TiltConfig(starts=starts, random=0, max_solves=3)
        response = TiltAdversary(mdp, config).respond(policy, torch.zeros(2))
        ends[starts] = total_cost(mdp, response.evaluation.v)
        assert response.steps == 3
    one, other, both = ends.values()
    assert float((one - other).abs().min()) > 0.1
    torch.testing.assert_close(both, torch.maximum(one, other))


def test_tolerances_shrink_by_the_discount() -> None:
    mdp = garnet(5, 4, 3, instances=2)
    asked: list[Tensor] = []

    class Listener(ExactAdversary):
        def respond(self, policy: Tensor, tolerance: Tensor) -> Response:
            asked.append(tolerance)
            return super().respond(policy, tolerance)

    run(DRPG(mdp, adversary=Listener(mdp)), 3)
    spread = mdp.cost.amax((1, 2, 3)) - mdp.cost.amin((1, 2, 3))
    for t, tolerance in enumerate(asked):
        torch.testing.assert_close(tolerance, 0.01 * 0.95**t * spread / 0.05)
    fast = DRPGConfig(tolerance=Tolerance(initial=1.0, decay=0.5))
    run(DRPG(mdp, fast, adversary=Listener(mdp)), 2)
    torch.testing.assert_close(asked[-1], 0.5 * spread / 0.05)


@pytest.mark.parametrize(
    ("name", "options"),
    [("FrozenLake-v1", {}), ("FrozenLake-v1", {"map_name": "8x8"}), ("CliffWalking-v1", "slip")],
)
def test_toy_text_is_solved_from_mixed_starts(name: str, options: Any) -> None:
    options = {"is_slippery": True} if options == "slip" else options
    mdp = tabular(name, L1(0.3), **options)
    solver = DRPG(mdp.mix_initial(0.5))
    run(solver, 20)
    reached = robust_cost(mdp, solver.solution)
    torch.testing.assert_close(reached, optimum(mdp), rtol=0, atol=1e-6)


def test_one_start_is_not_enough() -> None:
    """States that are never visited have no gradient: the initial distribution has to be wide."""
    mdp = tabular("CliffWalking-v1", L1(0.3), is_slippery=True)
    solver = DRPG(mdp, steps(1.0, relative=False))
    run(solver, 40)
    assert float(robust_cost(mdp, solver.solution)) > 99.9


def test_what_is_refused() -> None:
    mdp = garnet(5, 4, 3)
    for policy, message in (
        (mdp.uniform()[0], "shape"),
        (mdp.uniform().float(), "float32"),
        (2 * mdp.uniform(), "sum to 1"),
        (mdp.uniform() * torch.nan, "sum to 1"),
    ):
        with pytest.raises(UserError, match=message):
            DRPG(mdp, policy=policy)
    with pytest.raises(UserError, match="no tilted kernel"):
        TiltAdversary(mdp)
    for adversary in (ExactAdversary, GradientAdversary):
        with pytest.raises(UserError, match="rectangular set"):
            adversary(inventory())
    for bad in ({"size": 0.0}, {"size": 1.0, "power": -1.0}):
        with pytest.raises(ValidationError):
            StepSize(**bad)
    with pytest.raises(ValidationError):
        TiltConfig(starts=())


# A run of the solver that stops, dies and goes on, as in test_solve_loop.py.

PLAN = SolvePlan(total_iterations=23)
RUN = RunConfig(log_every_transitions=3, checkpoint_every_transitions=5)


def make(name: str) -> DRPG:
    if name == "tilt":
        mdp = inventory(inventory_start(0, 2)[0])
        quick = TiltConfig(tolerance=0.5, random=1)
        return DRPG(mdp, steps(0.1, relative=False), adversary=TiltAdversary(mdp, quick, seed=3))
    mdp = garnet(6, 4, 3, instances=3, rectangular="s" if name == "s" else "sa")
    adversary = {
        "exact": ExactAdversary(mdp),
        "s": ExactAdversary(mdp),
        "gradient": GradientAdversary(mdp),
        "fixed": FixedKernel(mdp),
    }[name]
    form = "softmax" if name == "fixed" else "direct"
    return DRPG(mdp, DRPGConfig(policy=form), adversary=adversary, policy=garnet_policy(mdp))


class Interrupted:
    """The solver, with something happening when iteration ``at`` ends."""

    def __init__(self, name: str, at: int | None = None, event: str = "") -> None:
        self.inner, self.at, self.event = make(name), at, event
        self.state_dict, self.load_state_dict = self.inner.state_dict, self.inner.load_state_dict

    def iterate(self) -> dict[str, Tensor]:
        metrics = self.inner.iterate()
        if self.inner.iteration == self.at:
            if self.event == "crash":
                raise RuntimeError("power cut")
            os.kill(os.getpid(), signal.SIGTERM)
        return metrics


def solve(name: str, folder: Path, at: int | None = None, event: str = "") -> DRPG:
    folder.mkdir(exist_ok=True)
    solver = Interrupted(name, at, event)
    with Run(folder, RUN, PLAN.total_iterations, METRICS, None, quiet=True) as session:
        solve_loop(solver, PLAN, session)
    return solver.inner


def outcome(folder: Path) -> tuple[list[dict[str, str]], dict[str, Any]]:
    with (folder / "metrics.csv").open() as file:
        rows = [
            {name: cell for name, cell in row.items() if not name.startswith("time/")}
            for row in csv.DictReader(file)
        ]
    state = CheckpointStore(folder / "checkpoints").load()
    assert state is not None
    solver = state["solver"]
    return rows, {**solver.pop("adversary"), **solver}


@pytest.mark.parametrize("name", ["exact", "s", "gradient", "fixed", "tilt"])
def test_interrupted_runs_end_like_an_uninterrupted_one(name: str, tmp_path: Path) -> None:
    assert solve(name, tmp_path / "whole").iteration == 23
    rows, state = outcome(tmp_path / "whole")
    names = [*METRICS] if name in ("exact", "s", "gradient") else [*{*METRICS} - {"cost/gap"}]
    assert all(row[metric] for row in rows for metric in names)
    with pytest.raises(Stopped, match="SIGTERM"):
        solve(name, tmp_path / "cut", 7)
    with pytest.raises(RuntimeError, match="power cut"):
        solve(name, tmp_path / "cut", 19, "crash")
    solve(name, tmp_path / "cut")
    again, other = outcome(tmp_path / "cut")
    assert again == rows and other.keys() == state.keys()
    for key, value in state.items():
        assert torch.equal(other[key], value) if isinstance(value, Tensor) else other[key] == value
    assert math.isfinite(float(rows[-1]["cost/best"]))


def test_a_solver_that_went_on_can_be_taken_back() -> None:
    """What the adversary remembers beside its state is of values that it no longer has."""
    mdp = garnet(15, 8, 3, instances=5, seed=1)
    solver = DRPG(mdp, policy=garnet_policy(mdp, 1))
    run(solver, 1)
    state = copy.deepcopy(solver.state_dict())
    first = [solver.iterate() for _ in range(3)]
    run(solver, 20)
    solver.load_state_dict(state)
    for metrics in first:
        for name, value in solver.iterate().items():
            assert torch.equal(value, metrics[name]), name
