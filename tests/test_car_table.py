"""The drive: its map, its moves, its human by simulation, its values beside the prototype's."""

from typing import Any

import numpy as np
import pytest
import torch

from rlsuite.agents.advice_learning import AdviceLearning, AdviceTask
from rlsuite.agents.advice_planning import blind, evaluate, full_control, plan, silence
from rlsuite.agents.ucb_ad import UCBAD, UCBADConfig
from rlsuite.envs.advice_tables import (
    CAR_HORIZON,
    CELL_COSTS,
    TRAFFIC,
    _drive,
    _least,
    car,
    car_map,
)
from rlsuite.errors import UserError

GRASS, CAR = 1, 3


def test_cells_are_drawn_by_lane() -> None:
    for traffic, lanes in TRAFFIC.items():
        cells = np.stack([car_map(traffic, seed) for seed in range(400)])
        shares = (cells[..., None] == np.arange(4)).mean((0, 1))
        np.testing.assert_allclose(shares, lanes, atol=4 * 0.5 / 4000**0.5)
    assert (car_map("env3", 7) == car_map("env3", 7)).all()
    assert (car_map("env3", 7) != car_map("env3", 8)).any()


def test_moves_and_rewards_by_hand() -> None:
    model, cells = car("env3", [3]), car_map("env3", 3)
    pays = 1 - CELL_COSTS[cells] / 5
    dense = torch.zeros(1, 30, 3, 30).double()
    dense = dense.scatter_add(3, model.successor, model.probability)[0].numpy()
    assert dense[4, 0, 6] == dense[4, 1, 7] == dense[4, 2, 8] == 1  # row 1, the middle lane
    assert dense[3, 0, 6] == dense[3, 0, 7] == 0.5 and dense[3, 1, 6] == dense[3, 2, 7] == 1
    assert dense[5, 2, 8] == dense[5, 2, 7] == 0.5
    assert (dense[27:, :, 27:] == np.eye(3)[:, None]).all()
    reward = model.reward[0].numpy()
    assert reward[4].tolist() == pytest.approx(pays[2].tolist())
    assert reward[3, 0] == pytest.approx((pays[2, 0] + pays[2, 1]) / 2)
    assert not reward[27:].any()
    assert model.initial[0, 1] == 1
    assert not bool(model.live[0, 27:].any())


@pytest.mark.parametrize("costs", [[0.0, 2.0, 4.0], [2.0, 2.0], [0.0, 0.0, 2.0], [4.0]])
def test_what_looks_least_by_simulation(costs: list[float]) -> None:
    seen = np.array(costs) + np.random.default_rng(0).normal(0, 1.5, (200_000, len(costs)))
    shares = (seen.argmin(1)[:, None] == np.arange(len(costs))).mean(0)
    np.testing.assert_allclose(_least(np.array(costs), 1.5), shares, atol=0.005)


def test_the_human_panics_by_hand() -> None:
    """One of two equal cells elsewhere; two cars; nothing but cars; a wall beside."""
    road = 0
    assert _drive(1, np.array([road, CAR, road]), 1, 0.4) == pytest.approx([0.3, 0.4, 0.3])
    total = 0.4 + 0.4 + 0.6
    assert _drive(1, np.array([CAR, GRASS, CAR]), 1, 0.4) == pytest.approx(
        np.array([0.4, 0.6, 0.4]) / total
    )
    assert _drive(1, np.array([CAR, CAR, CAR]), 1, 0.4) == pytest.approx([1 / 3] * 3)
    assert _drive(0, np.array([CAR, CAR, road]), 1, 0.4) == pytest.approx([0, 0.5, 0.5])
    assert _drive(2, np.array([road, road, CAR]), 1, 0.4) == pytest.approx([0.6, 0.4, 0])
    assert _drive(2, np.array([CAR, GRASS, road]), 1e-3, 0.4) == pytest.approx([0, 1, 0])


FIGURES = {  # human, blind, aware, full control; at cost 0.05 gross return and advices
    "env1": (8.89, 8.97, 8.97, 9.00, 8.89, 0.0),
    "env2": (6.81, 7.75, 7.76, 8.17, 7.71, 4.3),
    "env3": (6.54, 7.82, 7.87, 8.39, 7.79, 4.8),
}
"""The prototype's means over 30 other maps."""


@pytest.mark.parametrize("traffic", FIGURES)
def test_figures_of_the_prototype(traffic: Any) -> None:
    """Means over 300 maps, within three standard errors of those over 30."""
    model = car(traffic, range(300))
    dear = evaluate(model, plan(model, CAR_HORIZON, 0.05).policy)
    values = [
        evaluate(model, silence(model, CAR_HORIZON)).gross,
        evaluate(model, blind(model, CAR_HORIZON)).gross,
        plan(model, CAR_HORIZON).value,
        full_control(model, CAR_HORIZON).value,
        *dear,
    ]
    for value, expected in zip(values, FIGURES[traffic], strict=True):
        found = model.start(value)[:, 0]
        off = 3 * float(found.std()) * (1 / 30 + 1 / 300) ** 0.5 + 0.006
        assert float(found.mean()) == pytest.approx(expected, abs=off)


def test_ucb_ad_learns_every_map() -> None:
    """The prototype's gap over the last 100 of 3000 episodes: up to 0.0054, on 4 maps."""
    task = AdviceTask(car("env3", range(10)), CAR_HORIZON)
    learning = AdviceLearning(task, UCBAD(task, UCBADConfig(scale=0.1, episodes=3000)))
    for _ in range(1000):
        learning.iterate()
    assert float(learning.gap.max()) < 0.1
    assert float(learning.total.max()) < 40


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"traffic": "env4"}, "traffic is 'env4', has to be one of env1, env2, env3, env3_light"),
        ({"traffic": "env1", "noise": 0}, "noise is 0"),
        ({"traffic": "env1", "panic": 1.5}, "panic 1.5"),
        ({"traffic": "env1", "seeds": 3}, r"seeds is 3, has to be a list .*, such as \[3\]"),
        ({"traffic": "env1", "seeds": []}, r"seeds is \[\]"),
        ({"traffic": "env1", "seeds": [0, -1]}, "seed of a map is -1, has to be a whole number"),
        ({"traffic": "env1", "seeds": [1.5]}, "seed of a map is 1.5"),
    ],
)
def test_bad_input_is_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        car(**wrong)
