"""Short training runs that have to reach a return that a broken implementation does not reach.

The long ones are commands: ``benchmarks/learning.py``.
"""

import itertools
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from processes import Process, command, finish

from rlsuite.config import load_experiment
from rlsuite.robustness import evaluate_robustness

SECONDS = 1_500
"""For a run that hangs: a slow machine with other work takes ten minutes for some."""
CATCH = """
algorithm = "dqn"
[env]
id = "tests.toy_envs:CatchEnv"
[agent]
hidden = [64]
lr = 1e-3
target_period = 50
epsilon_final = 0.1
epsilon_transitions = 3_000
[replay]
capacity = 20_000
[plan]
warmup_transitions = 500
updates_per_transition = 0.5
batch_size = 64
[run]
evaluation_episodes = 50
"""


class Gate(NamedTuple):
    """Median over three seeds of the mean return of the evaluation at the end."""

    config: str
    """Name or text."""
    transitions: int
    at_least: float


GATES = {
    # A random policy is at -1,200 to -1,500. With the temperature's gradient reversed seed 0 is at
    # -1,198, without bootstrapping at -1,199.
    "sac-pendulum": Gate("sac/pendulum", 4_000, -350),
    "tqc-pendulum": Gate("tqc/pendulum", 4_000, -350),
    "crossq-pendulum": Gate("crossq/pendulum", 4_000, -350),
    # With 20 updates for each transition.
    "droq-pendulum": Gate("droq/pendulum", 1_250, -350),
    # A random policy is at 22. Without bootstrapping seed 0 is at 9, 27 and 29; the three seeds of
    # each are between 176 and 338.
    "dqn-cartpole": Gate("dqn/cartpole", 6_000, 120),
    "c51-cartpole": Gate("c51/cartpole", 6_000, 120),
    "discrete_sac-cartpole": Gate("discrete_sac/cartpole", 4_000, 120),
    # A random policy is at -500, and so is seed 0 without bootstrapping; here -105 to -141.
    "dqn-acrobot": Gate("dqn/acrobot", 8_000, -250),
    # A random policy is at -79, an untrained one at -70 or less.
    "hasac-spread": Gate("hasac/spread", 25_000, -62),
    # Untrained policies are at -73 to -78. Seeds 0 to 2 of HATD3 are at -60, -60 and -63; seed 0
    # without bootstrapping at -88, with targets that stay at -87, with the policies' sign reversed
    # at -197.
    "hatd3-spread": Gate("hatd3/spread", 30_000, -65),
    # Here all three are at 500; where terminations are bootstrapped over seed 0 is at 9.
    "ppo-cartpole": Gate("ppo/cartpole", 50_000, 400),
    # Here -158 to -183.
    "ppo-pendulum": Gate("ppo/pendulum", 65_536, -300),
    # Here -58 to -61; a random policy, and an untrained one, is as above.
    "happo-spread": Gate("happo/spread", 40_000, -66),
    # Net of the cost. The human alone is at 43; advice that is blind to adherence (blind_dqn) falls
    # to 83-140, seeds 0 to 4; here 217 to 281.
    "aadqn-cartpole": Gate("aadqn/cartpole", 32_000, 190),
    # A random policy is at -0.8, seed 0 without bootstrapping at -0.24; here all three are at 1.
    "dqn-catch": Gate(CATCH, 7_000, 0.6),
}


def train(config: str, transitions: int, folder: Path, seeds: Sequence[int]) -> None:
    """Each seed in a folder of its number."""
    options = (
        *("--plan.total_transitions", transitions, "--run.threads", 1),
        *("--run.evaluate_every_transitions", 0, "--run.checkpoint_every_transitions", 0),
    )
    processes = [
        Process(
            command,
            *("train", config, "--folder", folder / str(seed), "--run.seed", seed, *options),
        )
        for seed in seeds
    ]
    for process in processes:
        finish(process, SECONDS)


def median_passes(gate: float, scores: Callable[[Sequence[int]], list[float]]) -> bool:
    """Whether the median of seeds 0 to 2 is at least the gate; a third is run if two disagree."""
    first = scores((0, 1))
    if (first[0] >= gate) == (first[1] >= gate):
        return first[0] >= gate
    return scores((2,))[0] >= gate


@pytest.mark.parametrize("values", list(itertools.product((0.0, 1.0, 2.0), repeat=3)))
def test_two_that_agree_decide_a_median(values: tuple[float, ...]) -> None:
    expected = statistics.median(values) >= 1.0
    assert median_passes(1.0, lambda seeds: [values[seed] for seed in seeds]) == expected


@pytest.mark.learning
@pytest.mark.timeout(2 * SECONDS)
@pytest.mark.parametrize("name", GATES)
def test_learns(name: str, tmp_path: Path) -> None:
    gate, config = GATES[name], GATES[name].config
    if "\n" in config:
        (tmp_path / "config.toml").write_text(config)
        config = str(tmp_path / "config.toml")

    def scores(seeds: Sequence[int]) -> list[float]:
        train(config, gate.transitions, tmp_path, seeds)
        means = []
        for seed in seeds:
            content = json.loads((tmp_path / str(seed) / "evaluation.json").read_text())
            (evaluation,) = content["evaluations"]
            means.append(statistics.fmean(evaluation["returns"]))
        print(name, seeds, means)
        return means

    assert median_passes(gate.at_least, scores)


@pytest.mark.learning
@pytest.mark.timeout(2 * SECONDS)
def test_robust_ppo_withstands_the_worst_corner(tmp_path: Path) -> None:
    """Of the box: PPO's seeds are at 229, 500 and 12 on its grid, here all three at 500."""
    bounds = load_experiment("robust_ppo/cartpole").env.uncertain
    corners = {name: list(ends) for name, ends in bounds.items()}

    def scores(seeds: Sequence[int]) -> list[float]:
        train("robust_ppo/cartpole", 50_000, tmp_path, seeds)
        found = [evaluate_robustness(tmp_path / str(s), corners, episodes=3) for s in seeds]
        print(seeds, [result.means for result in found])
        return [float(result.means.min()) for result in found]

    assert median_passes(400, scores)
