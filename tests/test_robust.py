"""Robust MDPs as data: what is refused, dense arrays, batches, Garnet, inventory, toy text."""

import dataclasses
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from robust_cases import COST, KERNEL, random_mdp

from rlsuite.agents.robust_planning import robust_policy_iteration, total_cost
from rlsuite.ambiguity import KL, L1, Contamination, L1PerState, LInf
from rlsuite.envs.garnet import garnet, garnet_policy
from rlsuite.envs.inventory import inventory, inventory_start
from rlsuite.envs.tabular import tabular
from rlsuite.errors import UserError
from rlsuite.projections import project_l1
from rlsuite.robust import RobustMDP
from rlsuite.tilt import Parameters, TiltedKernel

GOOD: dict[str, Any] = {
    "kernel": KERNEL,
    "cost": COST,
    "initial": [0.5, 0.3, 0.2],
    "discount": 0.9,
    "ambiguity": L1(0.2),
}
SHORT = np.array(KERNEL)
SHORT[1, 0, 2] = 0.2
NEGATIVE = np.array(KERNEL)
NEGATIVE[2, 1] = [-0.1, 0.3, 0.8]

UNKNOWN = np.array(KERNEL)
UNKNOWN[2, 1] = [np.nan, 1.0, 0.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernel": SHORT}, r"nominal at instance 0, state 1, action 0 sums to 0.9"),
        ({"kernel": NEGATIVE}, r"negative at instance 0, state 2, action 1, successor 0"),
        (
            {"kernel": UNKNOWN},
            r"kernel is not finite at instance 0, state 2, action 1",
        ),
        ({"initial": [0.5, np.nan, 0.5]}, r"initial is not finite at instance 0, state 1"),
        ({"kernel": np.ones((2, 3))}, r"kernel has shape \(2, 3\)"),
        ({"initial": [0.5, 0.3, 0.3]}, r"initial at instance 0 sums to 1.1"),
        ({"initial": [0.5, 0.5]}, r"initial"),
        ({"discount": 1.0}, r"discount is 1.0"),
        ({"cost": None}, r"the reward or the cost"),
        ({"reward": COST}, r"the reward or the cost"),
        ({"cost": np.ones((3, 2, 4))}, r"do not fit"),
        ({"cost": np.full((3, 2), np.nan)}, r"cost is not finite at instance 0, state 0"),
        ({"ambiguity": L1(2.1)}, r"radius of L1 is 2.1 at .*state 0, action 0.* from 0 to 2"),
        ({"ambiguity": L1([[0.1, -0.1]])}, r"radius of L1 is -0.1 at .*action 1"),
        ({"ambiguity": LInf(1.5)}, r"radius of LInf is 1.5"),
        ({"ambiguity": Contamination(1.5)}, r"radius of Contamination is 1.5"),
        ({"ambiguity": KL(float("inf"))}, r"radius of KL is inf"),
        ({"ambiguity": L1PerState(4.5)}, r"radius of L1PerState is 4.5 .* 0 to 4"),
        ({"ambiguity": L1([0.1, 0.2, 0.3, 0.4])}, r"radius of shape \(4,\) does not fit"),
        ({"ambiguity": 0.2}, r"ambiguity is of type float, has to be a set, such as"),
        ({"ambiguity": L1}, r"ambiguity is the class L1, has to be a set"),
        ({"support": "some"}, r"support is 'some'"),
        ({"support": np.ones((3, 2, 2), bool)}, r"mask of the support has shape"),
        ({"support": np.eye(3, dtype=bool)[:, None].repeat(2, 1)}, r"empty set at .* state 0"),
    ],
)
def test_what_is_no_robust_mdp_is_refused(change: dict[str, Any], message: str) -> None:
    RobustMDP.from_arrays(**GOOD)
    with pytest.raises(UserError, match=message):
        RobustMDP.from_arrays(**{**GOOD, **change})


def test_sparse_lists_are_checked_too() -> None:
    mdp = RobustMDP.from_arrays(**GOOD)
    for change, message in (
        ({"successor": mdp.successor + 1}, "0 to 2"),
        ({"successor": mdp.successor.clamp(max=1)}, "listed twice at instance 0, state 0"),
        ({"support": mdp.support & (mdp.successor > 0)}, "empty set"),
        ({"cost": mdp.cost.float()}, "float32"),
        ({"nominal": mdp.nominal[0]}, "shape"),
        ({"ambiguity": L1(0.2)}, "radius is"),
    ):
        with pytest.raises(UserError, match=message):
            dataclasses.replace(mdp, **change)


def test_dense_arrays_come_back_and_rewards_are_negative_costs() -> None:
    mdp = RobustMDP.from_arrays(**GOOD)
    torch.testing.assert_close(mdp.dense(mdp.nominal)[0], torch.tensor(KERNEL).double())
    paid = RobustMDP.from_arrays(**{**GOOD, "cost": None, "reward": -np.array(COST)})
    torch.testing.assert_close(paid.cost, mdp.cost)
    v = torch.tensor([[1.0, -2.0, 4.0]], dtype=torch.float64)
    expected = torch.tensor(COST[1][1]).double() + 0.9 * v[0]
    place = mdp.successor[0, 1, 1].argsort()
    torch.testing.assert_close(mdp.target(v)[0, 1, 1][place], expected)
    by_state = RobustMDP.from_arrays(**{**GOOD, "cost": [1.0, 2.0, 3.0]})
    assert by_state.cost[0, 2].unique().tolist() == [3.0]


def test_supports_grow() -> None:
    kernel = np.zeros((3, 2, 3))
    kernel[:, 0, 0] = kernel[:, 1, 1] = 1.0
    sizes = {}
    for support in ("nominal", "state", "all"):
        mdp = RobustMDP.from_arrays(**{**GOOD, "kernel": kernel, "support": support})
        sizes[support] = mdp.nominal.shape[-1]
        assert bool(mdp.support.all())
    assert sizes == {"nominal": 1, "state": 2, "all": 3}


def test_a_batch_is_its_instances() -> None:
    one, other = (random_mdp(seed, L1(0.1 + seed), states=5) for seed in (0, 1))
    both = RobustMDP.stack([one, other])
    assert (both.instances, both.states, both.actions) == (2, 5, 3)
    v = robust_policy_iteration(both).v
    for i, mdp in enumerate((one, other)):
        torch.testing.assert_close(v[i], robust_policy_iteration(mdp).v[0], rtol=0, atol=1e-10)
    with pytest.raises(UserError, match="one size"):
        RobustMDP.stack([one, random_mdp(1, L1(0.1), states=4)])
    with pytest.raises(UserError, match="one kind"):
        RobustMDP.stack([one, random_mdp(1, KL(0.1), states=5)])
    again = one.repeat(3)
    assert torch.equal(again.nominal[2], one.nominal[0]) and again.instances == 3


def test_other_precisions() -> None:
    half = random_mdp(0, L1(0.1)).to("cpu", torch.float32)
    assert half.to("cpu").nominal.dtype == torch.float32  # a move alone does not convert
    assert half.ambiguity.radius.dtype == half.cost.dtype == torch.float32
    exact = robust_policy_iteration(random_mdp(0, L1(0.1))).v
    torch.testing.assert_close(robust_policy_iteration(half).v.double(), exact, rtol=1e-4, atol=0)
    assert inventory().to("cpu", torch.float32).ambiguity.base.dtype == torch.float32


def test_rounding_of_narrower_arrays_is_no_mistake() -> None:
    """In float32 thirds do not sum to 1 to 1e-9; what is further off than rounding is refused."""
    thirds = {**GOOD, "kernel": np.full((3, 2, 3), 1 / 3), "initial": np.full(3, 1 / 3)}
    exact = RobustMDP.from_arrays(**thirds)
    for rounded in (np.float32, lambda array: torch.tensor(array, dtype=torch.float32)):
        narrow = {name: rounded(thirds[name]) for name in ("kernel", "initial")}
        mdp = RobustMDP.from_arrays(**{**thirds, **narrow})
        assert mdp.nominal.dtype == torch.float64
        assert float((mdp.nominal.sum(-1) - 1).abs().max()) < 1e-15
        torch.testing.assert_close(mdp.nominal, exact.nominal, rtol=1e-6, atol=0)
    with pytest.raises(UserError, match=r"sums to 0\.99989"):
        short = (thirds["kernel"] * 0.9999).astype(np.float32)
        RobustMDP.from_arrays(**{**thirds, "kernel": short})


def test_garnets() -> None:
    mdp = garnet(10, 6, 3, instances=4, seed=1)
    assert mdp.nominal.shape == (4, 10, 6, 3) and mdp.discount == 0.95
    assert 0 <= float(mdp.cost.min()) < 0.1 and 4.9 < float(mdp.cost.max()) <= 5
    radius = mdp.rectangular.radius
    assert radius.shape == (4, 10, 6)
    assert bool(((radius >= 0.1) & (radius <= 0.5)).all())
    alone = garnet(10, 6, 3, instances=2, seed=1)
    assert torch.equal(alone.cost, mdp.cost[:2]) and torch.equal(alone.successor, mdp.successor[:2])
    assert not torch.equal(mdp.cost[0], mdp.cost[1])
    assert not torch.equal(mdp.cost, garnet(10, 6, 3, instances=4, seed=2).cost)
    dense = garnet(10, 5, 10, rectangular="s")
    assert isinstance(dense.ambiguity, L1PerState) and dense.ambiguity.radius.shape == (1, 10)
    policy = garnet_policy(mdp)
    torch.testing.assert_close(policy.sum(-1), torch.ones(4, 10, dtype=torch.float64))
    assert float(policy.max() / policy.min()) < 25
    for bad in (0, 11):
        with pytest.raises(UserError, match="distinct successors"):
            garnet(10, 6, bad)
    with pytest.raises(UserError, match="has to be sa or s"):
        garnet(10, 6, 3, rectangular="x")  # type: ignore[arg-type]


def test_inventory() -> None:
    mdp = inventory()
    row = [0.004173, 0.037971, 0.861981, 0.01228, 0.058848, 0.001993, 0.011314, 0.01144]
    torch.testing.assert_close(mdp.nominal[0, 0, 0], torch.tensor(row).double(), rtol=0, atol=5e-7)
    tilt = mdp.ambiguity
    assert isinstance(tilt, TiltedKernel)
    assert float(tilt.zeta.min()) == pytest.approx(-0.864, abs=5e-4)
    assert float(tilt.zeta.max()) == pytest.approx(-0.080, abs=5e-4)
    initial, policy = inventory_start(0, 3)
    assert initial.shape == (3, 8) and policy.shape == (3, 8, 3)
    assert inventory(initial).instances == 3
    with pytest.raises(UserError, match="rectangular set"):
        robust_policy_iteration(mdp)
    with pytest.raises(UserError, match="zeta has to be positive"):
        dataclasses.replace(tilt, zeta=tilt.zeta + 0.5)
    with pytest.raises(UserError, match="below its least"):
        dataclasses.replace(tilt, least=0.65)
    with pytest.raises(UserError, match="radii"):
        dataclasses.replace(tilt, radius=(-1.0, 1.0))


def test_what_is_no_tilt_is_refused() -> None:
    mdp = inventory()
    tilt = mdp.ambiguity
    assert isinstance(tilt, TiltedKernel)
    nowhere = Parameters(tilt.centre.theta[:, :1], tilt.centre.multiplier)
    for change, message in (
        ({"base": tilt.base / 2}, "probabilities from 0 on that sum to 1"),
        ({"base": -tilt.base}, "probabilities"),
        ({"base": tilt.base * np.nan}, "base of a tilt is not finite"),
        ({"base": tilt.base[0]}, r"base \(N, S, X, B\)"),
        ({"base": tilt.base[:, :4]}, r"phi of a tilt is .*\(1, 8, 2\), needs .*\(1, 4, 2\)"),
        ({"phi": tilt.phi.float()}, "phi of a tilt is torch.float32"),
        ({"phi": tilt.phi * np.inf}, "phi of a tilt is not finite"),
        ({"zeta": tilt.zeta[:, :, :2]}, "zeta of a tilt"),
        ({"centre": nowhere}, r"theta of a tilt is .*\(1, 1\), needs .*\(1, 2\)"),
    ):
        with pytest.raises(UserError, match=message):
            dataclasses.replace(tilt, **change)
    # The nominal is the kernel at the centre, not the base, and of the same size.
    with pytest.raises(UserError, match=r"instance 0, state 0, action 0 is 0.* off the tilted"):
        dataclasses.replace(mdp, nominal=tilt.base)
    with pytest.raises(UserError, match=r"base of the tilted kernel is .*\(2, 8, 3, 8\)"):
        dataclasses.replace(mdp, ambiguity=tilt.repeat(2))


def test_a_tilt_is_no_set_that_is_broadcast() -> None:
    tilt: Any = inventory().ambiguity
    for build in (
        lambda: RobustMDP.from_arrays(**{**GOOD, "ambiguity": tilt}),
        lambda: random_mdp(0, L1(0.1)).with_ambiguity(tilt),
    ):
        with pytest.raises(UserError, match=r"takes a set of rlsuite\.ambiguity"):
            build()
    with pytest.raises(UserError, match="nothing to stack"):
        RobustMDP.stack([])


def test_parameters_are_projected_exactly() -> None:
    centre = torch.tensor([[0.7, 0.6, -0.2]], dtype=torch.float64)
    random = torch.Generator().manual_seed(0)
    for scale, least in ((0.2, 0.1), (1.0, 0.1), (3.0, 0.1), (3.0, -torch.inf)):
        centre_ = centre if least < 0 else centre.abs()
        y = centre_ + scale * torch.randn((200, 3), generator=random, dtype=torch.float64)
        near = project_l1(y, centre_.expand(200, 3), 1.0, least)
        assert float((near - centre_).abs().sum(1).max()) <= 1 + 1e-12
        assert float(near.min()) >= least
        # No member of the set lies on the far side of the plane through the projection.
        draws = torch.randn((500, 3), generator=random, dtype=torch.float64)
        members = project_l1(draws * 2, centre_.expand(500, 3), 1.0, least)
        assert float(((y - near) @ members.T - ((y - near) * near).sum(1)[:, None]).max()) < 1e-9
    assert torch.equal(project_l1(centre, centre, 0.0, -torch.inf), centre)
    tilt = inventory().ambiguity
    assert isinstance(tilt, TiltedKernel)
    points = tilt.sample(50, random)
    again = tilt.repeat(50).project(points)
    for before, after in zip(points, again, strict=True):
        torch.testing.assert_close(after, before, rtol=0, atol=1e-12)
    assert isinstance(points, Parameters) and points.theta.std(0).min() > 0.1


RETURNS = [
    ("FrozenLake-v1", {}, {0.0: 0.542026, 0.1: 0.364385, 0.3: 0.061989, 0.6: 0.000009}),
    ("FrozenLake-v1", {"map_name": "8x8"}, {0.0: 0.414640, 0.1: 0.218813, 0.3: 0.008892}),
    (
        "CliffWalking-v1",
        {"is_slippery": True},
        {0.0: -46.352672, 0.1: -58.430626, 0.3: -92.734138, 0.6: -100.0},
    ),
]


@pytest.mark.parametrize(("name", "options", "returns"), RETURNS)
def test_toy_text_returns(name: str, options: Any, returns: dict[float, float]) -> None:
    for radius, expected in returns.items():
        mdp = tabular(name, L1(radius), discount=0.99, **options)
        optimum = total_cost(mdp, robust_policy_iteration(mdp).v)
        assert -float(optimum) == pytest.approx(expected, abs=1e-6)


def test_taxi_ends_in_copies_of_states_that_are_passed_through() -> None:
    (name,) = [name for name in gym.registry if name.startswith("Taxi") and name != "Taxi-v3"]
    mdp = tabular(name, L1(0.0), discount=0.99)
    assert mdp.states == 504
    v = robust_policy_iteration(mdp).v[0]
    assert float(v[500:].abs().max()) == 0
    table = gym.make(name).unwrapped.P  # type: ignore[attr-defined]
    ours = np.zeros(500)  # value iteration as the table has it
    for _ in range(3000):
        rows = [
            max(
                sum(p * (r + 0.99 * (0 if done else ours[t])) for p, t, r, done in table[s][a])
                for a in range(6)
            )
            for s in range(500)
        ]
        if np.abs(np.array(rows) - ours).max() < 1e-11:
            break
        ours = np.array(rows)
    np.testing.assert_allclose(-v[:500].numpy(), ours, atol=1e-8)


class Table(gym.Env[Any, Any]):
    """(probability, successor, reward, terminated) with a successor that is listed twice."""

    P: ClassVar[Any] = {
        0: {0: [(0.25, 1, 4.0, False), (0.25, 1, 0.0, False), (0.5, 2, 1.0, True)]},
        1: {0: [(1.0, 0, 0.0, False), (0.0, 2, 9.0, False)]},
        2: {0: [(1.0, 1, 5.0, False)]},
    }
    initial_state_distrib = np.array([1.0, 0.0, 0.0])


def test_tables_are_merged_and_end() -> None:
    mdp = tabular(Table(), L1(1.0), discount=0.9)
    assert mdp.states == 3
    dense, cost = mdp.dense(mdp.nominal)[0, :, 0], mdp.dense(mdp.cost)[0, :, 0]
    assert dense.tolist() == [[0, 0.5, 0.5], [1, 0, 0], [0, 0, 1]]
    assert cost[0].tolist() == [0, -2, -1] and float(cost[2].abs().max()) == 0
    with pytest.raises(UserError, match="no table P"):
        tabular("Blackjack-v1", L1(0.1))


def test_rewards_of_what_an_action_does_not_list() -> None:
    mdp = tabular("CliffWalking-v1", L1(0.5), support="state")
    reward = -mdp.dense(mdp.cost)[0]
    assert float(reward[37 - 12, 0, 36]) == -100  # above the cliff, going up: falling costs 100
    everywhere = tabular("CliffWalking-v1", L1(0.5), support="all")
    # Whoever is at the goal has arrived, and nature can do no more.
    assert float(robust_policy_iteration(everywhere).v[0, 47]) == 0
    assert everywhere.support[0, 46].sum() == 4 * 48 and everywhere.support[0, 47].sum() == 4
    assert float(-everywhere.dense(everywhere.cost)[0, 25, 0, 0]) == -1
