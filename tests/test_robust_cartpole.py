"""What E7's benchmark adds of its own: the local search, and the outcome of a budget."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete

from rlsuite.agents.robust_ppo import Memory, RobustPPOConfig

E7 = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks/robust_cartpole.py"))


def test_the_local_search_stays_near_the_worst_known_in_antithetic_pairs() -> None:
    low, high = np.float32([0.2, -10]), np.float32([5.0, 30])
    space = Dict([("action", Discrete(2)), ("physics", Box(low, high))])
    agent = E7["local_agent"](Box(-1, 1, (3,)), space, RobustPPOConfig(memory=2), seed=0)
    drawn = agent.draw(4001)
    agent.memory = Memory(
        torch.tensor([[3.0, 10.0], [0.2, 0.0]]), torch.tensor([1.0, 2.0]), torch.ones(2) > 0
    )
    # Four deviations from each end: as good as nothing is clipped.
    pairs = agent.draw(4000) - torch.tensor([3.0, 10.0])
    torch.testing.assert_close(pairs[::2], -pairs[1::2], rtol=0, atol=1e-5)
    torch.testing.assert_close(
        pairs[::2].std(0) / E7["STEP"], torch.tensor([4.8, 40.0]), rtol=0.1, atol=0
    )
    assert len(drawn) == 4001 and drawn[:, 0].min() == low[0]  # clipped
    assert (drawn[:, 1].mean() - 1.0).abs() < 0.3  # about the nominal, as long as none is known
    assert all(space["physics"].contains(row.numpy()) for row in drawn)


@pytest.mark.parametrize(
    ("robust", "ppo", "outcome", "passed"),
    [
        ([400.0, 300.0], [100.0, 299.0], ["above", "above"], True),
        ([500.0, 500.0], [100.0, 500.0], ["above", "equal"], False),  # a tie is not above
        ([400.0, 250.0], [100.0, 100.0], ["above", "above"], False),  # 325 on average
        ([400.0, 400.0], [100.0, 401.0], ["above", "below"], False),
    ],
)
def test_a_budget_is_passed_where_all_seeds_are_above(
    robust: list[float], ppo: list[float], outcome: list[str], passed: bool
) -> None:
    """Whatever the local arm does."""
    for other in ("ppo", "randomised"):
        worst = {"ppo": [1.0, 2.0], "randomised": [1.0, 2.0], "local": [500.0] * 2}
        found = E7["accept"]({**worst, other: ppo, "robust": robust})
        assert found["passed"] is passed
        against = found["robust against"][other]
        assert against["seeds"] == outcome
        assert against["difference"]["point"] == pytest.approx(np.mean(robust) - np.mean(ppo))
