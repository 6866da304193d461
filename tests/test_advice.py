"""Advice as data: the two forms of following, what is refused, the tables of the environments."""

from typing import Any

import numpy as np
import pytest
import torch
from advice_cases import random_model
from torch import Tensor
from torch.testing import assert_close

from rlsuite.advice import AdviceModel, to_exclusive, to_mixture
from rlsuite.envs.advice_tables import CRASH, GRID, flappy
from rlsuite.envs.tabular import advised
from rlsuite.errors import UserError


def executed(model: AdviceModel) -> Tensor:
    """(N, S, X, X) the paper's three cases, as remembered, from the exclusive adherence."""
    human = model.human
    theta = to_exclusive(model.adherence, human)
    others = (1 - theta) / (1 - human)
    eye = torch.eye(model.actions).double()
    return eye * theta[..., None] + (1 - eye) * others[..., None] * human[..., None, :]


def test_the_two_forms_are_one_family() -> None:
    model = random_model(0, instances=200)
    joint = model.joint()
    assert_close(joint.sum(-1), torch.ones(200, 5, 4).double(), rtol=0, atol=1e-12)
    assert_close(joint[:, :, :3], executed(model), rtol=0, atol=1e-12)
    assert_close(joint[:, :, 3], model.human, rtol=0, atol=0)
    exclusive = to_exclusive(model.adherence, model.human)
    assert_close(to_mixture(exclusive, model.human), model.adherence, rtol=0, atol=1e-11)


def one_step(**changes: Any) -> AdviceModel:
    """Case A of docs/adherence.md's model: one state, two actions, the second pays."""
    given: dict[str, Any] = {
        "kernel": [[[1.0], [1.0]]],
        "reward": [[0.0, 1.0]],
        "human": [[0.8, 0.2]],
        "adherence": [[0.9, 0.6]],
        "initial": 0,
        "form": "exclusive",
    }
    return AdviceModel.from_arrays(**(given | changes))


def test_exclusive_adherence_is_converted() -> None:
    assert_close(one_step().adherence, torch.tensor([[[0.5, 0.5]]]).double())
    expected = torch.tensor([[[0.9, 0.1], [0.4, 0.6], [0.8, 0.2]]]).double()
    assert_close(one_step().joint()[0], expected)


def test_what_the_human_does_anyway_is_done_when_advised() -> None:
    model = one_step(human=[[1.0, 0.0]], adherence=[[0.3, 0.6]])
    assert_close(model.joint()[0, 0], torch.tensor([[1, 0], [0.4, 0.6], [1, 0]]).double())


def test_the_induced_mdp_is_the_mixture_of_the_kernels() -> None:
    model = random_model(1, instances=3)
    kernel, reward = model.induced(cost=0.25)
    base = torch.zeros(3, 5, 3, 5).double().scatter_add(3, model.successor, model.probability)
    for m in range(3):
        theta, pi = model.adherence[:, :, m, None], model.human[..., None]
        mixed = theta * base[:, :, m] + (1 - theta) * (pi * base).sum(2)
        assert_close(kernel[:, :, m], mixed)
        gained = theta[..., 0] * model.reward[..., m]
        gained = gained + (1 - theta[..., 0]) * (model.human * model.reward).sum(2)
        assert_close(reward[..., m], gained - 0.25)
    assert_close(reward[..., 3], (model.human * model.reward).sum(2))


@pytest.mark.parametrize("instances", [1, 4])
def test_expectations_with_a_shared_kernel_and_with_one_each(instances: int) -> None:
    model = random_model(2, instances)
    values = torch.rand(4, 5, 7).double()
    base = torch.zeros(instances, 5, 3, 5).double()
    base = base.scatter_add(3, model.successor, model.probability).expand(4, -1, -1, -1)
    assert_close(model.expect(values), torch.einsum("nsxt,ntc->nsxc", base, values))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adherence": [[0.7, 0.6]]}, "adherence of -0.5 .* state 0, action 0, .* contrarian"),
        ({"adherence": [[1.2, 0.6]]}, r"adherence of 2 .* from 0 to 1"),
        ({"adherence": [[-0.1, 0.6]], "contrarian": True}, "adherence of -4.5"),
        ({"human": [[0.8, 0.3]]}, r"human at instance 0, state 0 sums to 1\.1"),
        ({"human": [[1.2, -0.2]], "adherence": 1}, "human at .* has negative entries"),
        ({"kernel": [[[0.9], [1.0]]]}, r"probability at .* action 0 sums to 0\.9"),
        ({"kernel": [[1.0], [1.0]]}, "kernel has shape"),
        ({"reward": [[0.0, np.nan]]}, "reward is not finite at .* action 1"),
        ({"reward": [[0.0, 1.0, 2.0]]}, r"reward has shape \(1, 1, 3\), needs \(1 or 1, 1, 2\)"),
        ({"form": "third"}, "form is 'third'"),
    ],
)
def test_what_is_no_model_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        one_step(**changes)


def test_successors_outside_are_refused() -> None:
    model = random_model(3, 1)
    rest = (model.probability, model.reward, model.human, model.adherence, model.initial)
    with pytest.raises(UserError, match="not one of the states 0 to 4"):
        AdviceModel(model.successor + 1, *rest)
    with pytest.raises(UserError, match=r"float32, the probability torch\.float64"):
        AdviceModel(model.successor, rest[0], rest[1].float(), *rest[2:])
    with pytest.raises(
        UserError, match=r"probability has shape \(2, 5, 3, 5\), needs \(3 or 1, 5, 3, 5\)"
    ):
        AdviceModel(
            model.successor.repeat(2, 1, 1, 1),
            rest[0].repeat(2, 1, 1, 1),
            rest[1],
            rest[2],
            model.adherence.repeat(3, 1, 1),
            rest[4],
        )


def test_a_state_that_is_not_left_is_live_if_it_pays() -> None:
    assert one_step().live.tolist() == [[True]]
    assert one_step(reward=[[0.0, 0.0]]).live.tolist() == [[False]]


def test_a_crash_is_not_live_and_stars_pay_once() -> None:
    model = flappy("greedy")
    assert model.live[0].tolist() == [True] * CRASH + [False]
    assert int((GRID == "*").sum()) == 8 and float(model.reward.max()) == 1
    slipping = flappy("greedy", slip=0.3)
    assert_close(slipping.reward.sum(), model.reward.sum())


def test_flappy_refuses_what_it_has_not() -> None:
    with pytest.raises(UserError, match="has to be greedy or safe"):
        flappy("brave")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="slip is 2"):
        flappy("safe", slip=2)


@pytest.mark.parametrize("rows", [3, 15, 17])
def test_tables_of_people_have_a_row_for_each_state(rows: int) -> None:
    with pytest.raises(UserError, match=f"the human has {rows} rows, the environment 16 states"):
        advised("FrozenLake-v1", human=np.full((rows, 4), 0.25), adherence=0.5)
    with pytest.raises(UserError, match=f"the adherence has {rows} rows"):
        human = np.full((16, 4), 0.25)
        advised("FrozenLake-v1", human=human, adherence=np.full((rows, 4), 0.5))


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ("FrozenLak-v1", r"'FrozenLak-v1'; did you mean 'FrozenLake-v1'\? .*pprint_registry"),
        ("CartPole-v1", "no table P: FrozenLake"),
        (3, "3 has no table P: FrozenLake"),
    ],
)
def test_environments_without_a_table_are_refused(env: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        advised(env, human=[[1.0]], adherence=0.5)


def test_the_first_state_by_its_number() -> None:
    parts = {"kernel": np.eye(3)[:, None], "reward": np.zeros((3, 1)), "human": np.ones((3, 1))}
    for first in (2, np.int64(2)):
        model = AdviceModel.from_arrays(**parts, adherence=1.0, initial=first)
        assert model.initial.tolist() == [[0, 0, 1]]
    for wrong in (-1, 3):
        with pytest.raises(UserError, match=f"initial is state {wrong}, has to be from 0 to 2"):
            AdviceModel.from_arrays(**parts, adherence=1.0, initial=wrong)


def test_toy_text_keeps_its_states_and_rewards() -> None:
    human = np.full((500, 6), 1 / 6)
    model = advised("Taxi-v4", human=human, adherence=np.full((500, 6), 0.5))
    assert model.states >= 500 and model.successor.shape[3] == 1  # by lists, not dense
    assert float(model.reward[0, :500].max()) == 20 and float(model.reward.min()) == -10
    assert_close(model.initial.sum(), torch.ones(()).double())
    assert int((~model.live).sum()) == 4  # where the passenger has arrived
