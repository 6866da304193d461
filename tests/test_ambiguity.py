"""Inner problems of robust MDPs: vectors by hand, linear programs, what projections have to do."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from robust_cases import improve_by_lp, random_mdp, random_policy, random_z, worst_by_lp
from scipy.optimize import minimize_scalar
from torch import Tensor

from rlsuite.ambiguity import (
    KL,
    L1,
    AmbiguitySet,
    Contamination,
    L1PerState,
    LInf,
)
from rlsuite.errors import UserError
from rlsuite.projections import project_box, project_simplex
from rlsuite.robust import RobustMDP

BOXES: list[type[AmbiguitySet]] = [L1, LInf, Contamination]
SETS: list[type[AmbiguitySet]] = [*BOXES, KL, L1PerState]
SEEDS = st.integers(0, 10**6)
FRACTIONS = st.one_of(st.just(0.0), st.just(1.0), st.floats(0, 1))


def double(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def one_row(ambiguity: AmbiguitySet, kernel: list[float] | None = None) -> RobustMDP:
    nominal = double(*(kernel or [0.5, 0.3, 0.2]))[None, None, None]
    nominal = nominal.expand(1, 3, 1, 3).clone()
    return RobustMDP.from_arrays(
        nominal.numpy(), cost=[0.0], initial=[1, 0, 0], discount=0, ambiguity=ambiguity
    )


@pytest.mark.parametrize(
    ("ambiguity", "expected"),
    [
        (L1(0.6), (0.2, 0.6, 0.2)),
        (LInf(0.15), (0.35, 0.45, 0.2)),
        (Contamination(0.5), (0.25, 0.65, 0.1)),
        (KL(0.1), (0.32385049, 0.51117284, 0.16497667)),
        (L1PerState(0.6), (0.2, 0.6, 0.2)),
    ],
)
def test_worst_of_a_vector(ambiguity: AmbiguitySet, expected: tuple[float, ...]) -> None:
    mdp = one_row(ambiguity)
    z = double(1, 5, 2).expand(mdp.nominal.shape)
    worst = mdp.worst(z, mdp.uniform())
    torch.testing.assert_close(worst[0, 0, 0], double(*expected), rtol=0, atol=5e-9)


def test_projections_of_a_vector() -> None:
    torch.testing.assert_close(project_simplex(double(0.9, 0.4, -0.2)), double(0.75, 0.25, 0))
    for ambiguity in (L1, L1PerState):
        for point, radius, expected in (
            ((0.9, 0.4, -0.2), 0.3, (0.65, 0.3, 0.05)),
            ((0.1, 0.2, 1.0), 0.5, (0.25, 0.3, 0.45)),
        ):
            mdp = one_row(ambiguity(radius))
            near = mdp.project(double(*point).expand(mdp.nominal.shape))
            torch.testing.assert_close(near[0, 0, 0], double(*expected), rtol=0, atol=1e-12)


def test_there_is_no_projection_onto_a_kl_ball() -> None:
    mdp = one_row(KL(0.1))
    with pytest.raises(UserError, match="exact inner loop"):
        mdp.project(mdp.nominal)


def radius_of(kind: type[AmbiguitySet], fraction: float, actions: int = 3) -> float:
    return fraction * (1.5 if kind is KL else kind.largest(actions))


def problem(
    kind: type[AmbiguitySet], seed: int, fraction: float, support: str = "nominal"
) -> tuple[RobustMDP, Tensor, Tensor]:
    mdp = random_mdp(seed, kind(radius_of(kind, fraction)), support=support)
    return mdp, random_z(mdp, seed), random_policy(mdp, seed, zeros=seed % 2 == 0)


@settings(max_examples=25)
@given(st.sampled_from(BOXES), SEEDS, FRACTIONS, st.sampled_from(["nominal", "state", "all"]))
def test_worst_equals_the_linear_program(
    kind: type[AmbiguitySet], seed: int, fraction: float, support: str
) -> None:
    mdp, z, policy = problem(kind, seed, fraction, support)
    ours = (mdp.worst(z, policy) * z).sum(-1)
    radius = radius_of(kind, fraction)
    for s, a in itertools.product(range(2), range(mdp.actions)):
        rows = (x[0, s, a : a + 1] for x in (z, mdp.nominal, mdp.support))
        program = worst_by_lp(kind.__name__, radius, [1.0], *rows)
        assert float(ours[0, s, a]) == pytest.approx(program, abs=1e-8)


@settings(max_examples=25)
@given(SEEDS, FRACTIONS, st.sampled_from(["nominal", "state", "all"]))
def test_worst_per_state_equals_the_linear_program(
    seed: int, fraction: float, support: str
) -> None:
    mdp, z, policy = problem(L1PerState, seed, fraction, support)
    ours = (policy * (mdp.worst(z, policy) * z).sum(-1)).sum(-1)
    for s in range(mdp.states):
        rows = (x[0, s] for x in (z, mdp.nominal, mdp.support))
        weight = policy[0, s].tolist()
        program = worst_by_lp("L1", radius_of(L1PerState, fraction), weight, *rows)
        assert float(ours[0, s]) == pytest.approx(program, abs=1e-8)


@settings(max_examples=25)
@given(SEEDS, FRACTIONS, st.sampled_from(["nominal", "state", "all"]))
def test_improving_per_state_equals_the_linear_program(
    seed: int, fraction: float, support: str
) -> None:
    mdp, z, _ = problem(L1PerState, seed, fraction**2, support)
    policy, value = mdp.improve(z)
    attained = (policy * (mdp.worst(z, policy) * z).sum(-1)).sum(-1)
    torch.testing.assert_close(attained, value, rtol=0, atol=1e-9)
    assert bool((policy >= 0).all())
    torch.testing.assert_close(policy.sum(-1), torch.ones_like(value))
    for s in range(mdp.states):
        rows = (x[0, s] for x in (z, mdp.nominal, mdp.support))
        program = improve_by_lp(radius_of(L1PerState, fraction**2), *rows)
        assert float(value[0, s]) == pytest.approx(program, abs=1e-8)


@settings(max_examples=15)
@given(SEEDS, st.floats(1e-3, 1.5))
def test_worst_of_kl_equals_its_dual(seed: int, radius: float) -> None:
    mdp = random_mdp(seed, KL(radius))
    z = random_z(mdp, seed)
    ours = (mdp.worst(z, mdp.uniform()) * z).sum(-1)
    for a in range(mdp.actions):
        used = mdp.nominal[0, 0, a] > 0
        p, row = mdp.nominal[0, 0, a][used].numpy(), z[0, 0, a][used].numpy()

        def dual(log_weight: float, p: Tensor = p, row: Tensor = row) -> float:
            weight, most = np.exp(log_weight), row.max()
            tilted = np.log(np.sum(p * np.exp((row - most) / weight)))
            return float(weight * radius + most + weight * tilted)

        grid = np.linspace(-20, 15, 400)
        near = grid[np.argmin([dual(x) for x in grid])]
        fine = {"xatol": 1e-9}
        least = minimize_scalar(
            dual, bounds=(near - 0.1, near + 0.1), method="bounded", options=fine
        )
        assert float(ours[0, 0, a]) == pytest.approx(float(least.fun), abs=1e-8)


def test_worst_is_no_worse_than_any_vertex() -> None:
    """The vertices of an L1 ball in the simplex: the greedy under all orders of the successors."""
    mdp = random_mdp(3, L1(0.7), support="all")
    z = random_z(mdp, 3)
    ours = (mdp.worst(z, mdp.uniform()) * z).sum(-1)[0]
    best = torch.full_like(ours, -torch.inf)
    for order in itertools.permutations(range(4)):
        rank = torch.tensor(order, dtype=torch.float64).expand(z.shape)
        best = torch.maximum(best, (mdp.worst(rank, mdp.uniform()) * z).sum(-1)[0])
    torch.testing.assert_close(ours, best, rtol=0, atol=1e-12)


def is_member(mdp: RobustMDP, kernel: Tensor, tolerance: float = 1e-12) -> bool:
    out = mdp.rectangular.violation(kernel, mdp.nominal, mdp.support)
    sums = (kernel.sum(-1) - 1).abs() <= tolerance
    outside = (kernel * ~mdp.support).abs() <= tolerance
    return all(bool(x.all()) for x in (out <= tolerance, sums, outside, kernel >= -tolerance))


@settings(max_examples=40)
@given(st.sampled_from(SETS), SEEDS, FRACTIONS, st.sampled_from(["nominal", "state", "all"]))
def test_worst_is_feasible_invariant_and_equivariant(
    kind: type[AmbiguitySet], seed: int, fraction: float, support: str
) -> None:
    mdp, z, policy = problem(kind, seed, fraction, support)
    worst = mdp.worst(z, policy)
    assert is_member(mdp, worst)
    torch.testing.assert_close(mdp.worst(z + 7.25, policy), worst, rtol=0, atol=1e-9)
    order = torch.randperm(z.shape[-1], generator=torch.Generator().manual_seed(seed))
    moved = mdp.rectangular.worst(
        z[..., order], mdp.nominal[..., order], mdp.support[..., order], policy
    )
    torch.testing.assert_close(moved, worst[..., order], rtol=0, atol=1e-12)


@settings(max_examples=40)
@given(
    st.sampled_from([*BOXES, L1PerState]),
    SEEDS,
    FRACTIONS,
    st.sampled_from(["nominal", "state", "all"]),
    st.sampled_from([0.1, 1.0, 30.0]),
)
def test_projections(
    kind: type[AmbiguitySet], seed: int, fraction: float, support: str, scale: float
) -> None:
    mdp, z, _ = problem(kind, seed, fraction, support)
    point = mdp.nominal + scale * z / 5
    near = mdp.project(point)
    assert is_member(mdp, near, 1e-11)
    torch.testing.assert_close(mdp.project(near), near, rtol=0, atol=1e-11)
    # <point - near, x - near> <= 0 for all members x: ask the linear oracle for the worst x.
    outward = torch.where(mdp.support, point - near, 0)
    for x in (mdp.worst(outward, torch.ones_like(mdp.uniform())), mdp.nominal):
        assert float((outward * (x - near)).sum()) <= 1e-9 * max(1.0, scale)


@pytest.mark.parametrize("kind", SETS)
def test_a_thousand_random_members_cost_less(kind: type[AmbiguitySet]) -> None:
    one, z, policy = problem(kind, 11, 0.3, "state")
    mdp, draws = one.repeat(1000), random_z(one.repeat(1000), 12)
    # The KL ball has no projection: its members are worst cases of other costs.
    members = mdp.worst(draws, policy) if kind is KL else mdp.project(mdp.nominal + 0.3 * draws)
    assert len(members.unique(dim=0)) == 1000
    least = (policy * (one.worst(z, policy) * z).sum(-1)).sum(-1)
    assert bool(((policy * (members * z).sum(-1)).sum(-1) <= least + 1e-9).all())


@settings(max_examples=30)
@given(SEEDS, st.sampled_from([1.0, 100.0, 1e6]))
def test_simplex_is_the_box_without_bounds(seed: int, scale: float) -> None:
    y = scale * torch.randn((5, 4), generator=torch.Generator().manual_seed(seed)).double()
    ours = project_simplex(y)
    torch.testing.assert_close(ours.sum(-1), torch.ones(5, dtype=torch.float64))
    box = project_box(y, torch.zeros_like(y), torch.ones_like(y), 1.0)
    torch.testing.assert_close(ours, box, rtol=0, atol=1e-15 * scale + 1e-14)


@settings(max_examples=15)
@given(SEEDS, st.floats(0, 2))
def test_l1_lies_in_linf_and_equals_it_over_three_successors(seed: int, radius: float) -> None:
    many, few = (random_mdp(seed, L1(radius), states=n, support="all") for n in (5, 3))
    for mdp, equal in ((many, False), (few, True)):
        z = random_z(mdp, seed)
        wide = mdp.with_ambiguity(LInf(radius / 2))
        inner, outer = ((m.worst(z, m.uniform()) * z).sum(-1) for m in (mdp, wide))
        assert bool((inner <= outer + 1e-12).all())
        if equal:
            torch.testing.assert_close(inner, outer, rtol=0, atol=1e-12)
