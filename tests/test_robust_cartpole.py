"""What E7's benchmark adds of its own: the local search, its arms, and the outcome."""

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete

from rlsuite.agents.robust_ppo import RobustPPOConfig

E7 = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks/robust_cartpole.py"))
LOW, HIGH = np.float32([0.2, -10]), np.float32([5.0, 30])


def test_the_local_search_goes_down_by_antithetic_steps() -> None:
    """From the nominal physics first, then from those of before; within the box."""
    seen: list[torch.Tensor] = []

    def play(actor: Any, seed: int) -> Any:
        seen.append(actor.act(torch.zeros(80, 3))[0]["physics"])
        return SimpleNamespace(returns=seen[-1][:, 1].tolist(), lengths=[1] * 80)

    space = Dict([("action", Discrete(2)), ("physics", Box(LOW, HIGH))])
    config = RobustPPOConfig(candidates=80, episodes=1, worst=1)
    agent = E7["local_agent"](Box(-1, 1, (3,)), space, config, seed=0, play=play)
    before = torch.ones(2)
    for _ in range(4):
        agent.chosen = None
        chosen = agent.act(torch.zeros(3, 3))[0]["physics"]
        # Deviations of tried pairs from where the search stands; clipped ones aside.
        tried = seen[-E7["STEPS"]]
        steps = tried - before
        inside = ((tried > agent.low) & (tried < agent.high)).all(1)
        inside = inside[:40] & inside[40:]
        torch.testing.assert_close(steps[:40][inside], -steps[40:][inside], rtol=0, atol=1e-5)
        assert steps.abs().max() < 5 * E7["WIDTH"] * 40
        assert torch.equal(chosen[0], chosen[2]) and len(agent.worst) == 1
        # Lower where returns are: three steps of about a tenth of the width, till the box's end.
        assert before[1] - chosen[0, 1] > 4 or chosen[0, 1] == LOW[1]
        before = chosen[0]
    assert before[1] == LOW[1] and space["physics"].contains(before.numpy())


def test_arms_have_as_many_transitions_and_searches_as_many_episodes() -> None:
    arms = {arm: E7["experiment_of"](arm, 7) for arm in E7["ARMS"]}
    assert {arm.plan.total_transitions for arm in arms.values()} == {80 * 32 * 500}
    assert {arm.run.seed for arm in arms.values()} == {7}
    assert arms["nominal"].algorithm == "ppo" and not arms["nominal"].env.uncertain
    assert arms["randomised"].agent.episodes == 0
    searched = arms["global"].agent.candidates * arms["global"].agent.episodes
    local = arms["local"].agent
    assert local.candidates * local.episodes * E7["STEPS"] == searched == 48


@pytest.mark.parametrize(
    ("found", "other", "outcome", "passed"),
    [
        ([400.0, 300.0], [100.0, 299.0], ["above", "above"], True),
        ([500.0, 500.0], [100.0, 500.0], ["above", "equal"], False),  # a tie is not above
        ([400.0, 250.0], [100.0, 100.0], ["above", "above"], False),  # 325 on average
        ([400.0, 400.0], [100.0, 401.0], ["above", "below"], False),
    ],
)
def test_it_is_passed_where_all_seeds_are_above(
    found: list[float], other: list[float], outcome: list[str], passed: bool
) -> None:
    """Whatever the local arm does."""
    for name in ("nominal", "randomised"):
        worst = {"nominal": [1.0, 2.0], "randomised": [1.0, 2.0], "local": [500.0] * 2}
        result = E7["accept"]({**worst, name: other, "global": found})
        assert result["passed"] is passed
        against = result["global against"][name]
        assert against["seeds"] == outcome
        assert against["difference"]["point"] == pytest.approx(np.mean(found) - np.mean(other))
