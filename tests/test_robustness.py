"""Robust evaluation from the command line, its figures by hand, and one line a mistake."""

import csv
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlsuite.build import load, read_experiment, run_evaluator
from rlsuite.cli import main
from rlsuite.envs import AtariVectorEnv, DisturbedVectorEnv, SerialVectorEnv, make_env
from rlsuite.envs.perturb import changed
from rlsuite.errors import UserError
from rlsuite.evaluate import Evaluation
from rlsuite.evaluate import evaluate as evaluate_agent
from rlsuite.robustness import Robustness, parse_ranges, plot_robustness

TINY = [
    *("--plan.total_transitions", "250", "--plan.warmup_transitions", "200", "--quiet"),
    *("--agent.hidden", "[8]", "--run.evaluation_episodes", "3", "--run.threads", "1"),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose policy also draws random numbers where it is evaluated."""
    folder = tmp_path_factory.mktemp("robustness") / "run"
    words = ["train", "dqn/cartpole", "--folder", str(folder), *TINY]
    assert main([*words, "--agent.epsilon_evaluation", "0.3"]) == 0
    return folder


def test_a_grid_from_the_command_line(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", str(trained), "--perturb", "force=0.5:1.5:3", "obs_noise=0,0.5"]
    assert main(words) == 0
    printed = capsys.readouterr()
    assert "3 episodes a point" in printed.out and "6 of 6: force=1.5, obs_noise=0.5" in printed.err
    stem = trained / "robustness-force-obs_noise"
    assert stem.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    with stem.with_suffix(".csv").open() as file:
        rows = list(csv.DictReader(file))
    assert main(["evaluate", str(trained), "--json"]) == 0
    nominal = json.loads(capsys.readouterr().out)
    result = json.loads(stem.with_suffix(".json").read_text())
    assert result["nominal"] == nominal
    # Scale 1 and noise 0 is the nominal evaluation to the bit; everything else is another one.
    grid = {tuple(point["at"].values()): point["returns"] for point in result["grid"]}
    assert grid.pop((1.0, 0.0)) == nominal["returns"] and len(grid) == 5
    assert nominal["returns"] not in grid.values()
    assert [float(row["return"]) for row in rows if row["force"] == "1.5"] == [
        *grid[1.5, 0.0],
        *grid[1.5, 0.5],
    ]
    means = np.array([np.mean(point["returns"]) for point in result["grid"]])
    summary = {name: interval["point"] for name, interval in result["summary"].items()}
    expected = (np.mean(nominal["returns"]), means.mean(), means.min(), means.min())
    assert tuple(summary.values()) == pytest.approx(expected)  # a tenth of six points is the worst
    assert list(result["worst_at"].values()) == list(list(grid_of(result))[means.argmin()])
    for name, value in {"nominal": expected[0], "mean of 6": expected[1]}.items():
        assert f"  {name:<12} {value:>10,.1f}" in printed.out
    assert f"CVaR 10%     {means.min():>10,.1f}" in printed.out


def grid_of(result: dict) -> list[list[float]]:
    return [list(point["at"].values()) for point in result["grid"]]


def test_evaluations_do_not_depend_on_one_another(trained: Path) -> None:
    evaluate = run_evaluator(trained, episodes=2, seed=4)
    first = evaluate({"pole_length": 2.0})
    evaluate({"force": 0.5})
    assert evaluate({"pole_length": 2.0}) == first != evaluate({})


def test_json_and_no_picture(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A single point, and three ranges, have no picture; the figures are there all the same."""
    three = ["force=1,2", "gravity=1,2", "action_delay=0,1"]
    for words, points in ((["force=2"], 1), (three, 8)):
        options = ["--episodes", "1", "--seed", "3", "--json"]
        assert main(["evaluate", str(trained), "--perturb", *words, *options]) == 0
        printed = capsys.readouterr()
        result = json.loads(printed.out)
        assert result["nominal"]["seed"] == 3 and len(result["grid"]) == points
        assert "warning: no picture: a picture has one or two ranges" in printed.err


def test_figures_by_hand() -> None:
    """25 points: the lowest tenth is two and a half of them."""
    means = np.arange(25.0)[::-1]
    grid = [Evaluation(9, [m - 1, m + 1, m], [1, 2, 3], 0) for m in means]
    ranges = {"mass": [0.0, 0.25, 0.5, 0.75, 1.0], "friction": [1.0, 2.0, 3.0, 4.0, 5.0]}
    result = Robustness(ranges, Evaluation(9, [50.0, 70.0, 60.0], [1, 2, 3], 0), grid)
    assert result.points[7] == {"mass": 0.25, "friction": 3.0}
    assert result.worst == {"mass": 1.0, "friction": 5.0}
    points = {name: interval.point for name, interval in result.summary().items()}
    # (0 + 1 + 2 / 2) / 2.5
    assert points == pytest.approx({"nominal": 60.0, "mean": 12.0, "cvar": 0.8, "worst": 0.0})
    # All points move together: the seeds are the same, so the mean is as uncertain as one point.
    summary = result.summary()
    assert summary["mean"].high - 12.0 == pytest.approx(summary["worst"].high)
    assert summary["mean"].high > 12.5
    assert "worst               0.0" in result.table() and "at mass=1, friction=5" in result.table()


@pytest.mark.parametrize("ranges", [{"mass": [2.0, 0.5, 1.0]}, {"mass": [0.5, 1], "noise": [0, 1]}])
def test_pictures_show_the_means(
    ranges: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n = int(np.prod([len(values) for values in ranges.values()]))
    grid = [Evaluation(0, [10.0 * i, 10.0 * i + 4], [1, 1], 0) for i in range(n)]
    result = Robustness(ranges, grid[0], grid)
    drawn = []
    monkeypatch.setattr("rlsuite.robustness.write_figure", lambda figure, out: drawn.append(figure))
    plot_robustness(result, tmp_path / "x.png")
    axes = drawn[0].axes[0]
    if n == 3:  # in the order of the axis
        line = axes.lines[0]
        assert (list(line.get_xdata()), list(line.get_ydata())) == ([0.5, 1, 2], [12, 22, 2])
    else:
        np.testing.assert_array_equal(axes.images[0].get_array(), [[2, 12], [22, 32]])
        assert [text.get_text() for text in axes.texts] == ["2", "12", "22", "32"]
        assert (axes.get_ylabel(), axes.get_xlabel()) == ("mass", "noise")
        assert [label.get_text() for label in axes.get_yticklabels()] == ["0.5", "1"]


def test_a_policy_trained_against_nature_is_evaluated_without_it(tmp_path: Path) -> None:
    """As the plain environment is, also under what nature could not choose, or not so far."""
    folder = tmp_path / "run"
    words = ["train", "robust_ppo/cartpole", "--folder", str(folder), "--quiet"]
    words += ["--plan.total_transitions", "512", "--plan.steps_per_rollout", "32"]
    assert main([*words, "--run.evaluation_episodes", "2"]) == 0
    evaluate = run_evaluator(folder)
    agent, experiment = load(folder), read_experiment(folder)
    for values in ({}, {"force": 3.0}, {"gravity": 2.0, "obs_noise": 0.1}):
        scales = {name: value for name, value in values.items() if name != "obs_noise"}
        make = partial(changed, partial(make_env, "CartPole-v1"), scales, {})
        noise = {"obs_noise": values.get("obs_noise", 0.0)}
        envs = DisturbedVectorEnv(SerialVectorEnv(make, 2), noise, "CartPole-v1")
        result = evaluate(values)
        assert evaluate_agent(agent.ppo, envs, seed=result.seed, transitions=512) == result
    assert experiment.env.uncertain["force"] == (0.5, 2.0)


@given(st.integers(-40, 40), st.integers(1, 60), st.integers(2, 12))
def test_ranges_have_their_ends_and_even_steps(low: int, width: int, count: int) -> None:
    start, end = low / 10, (low + width) / 10
    values = parse_ranges([f"x={start}:{end}:{count}"])["x"]
    assert (values[0], values[-1], len(values)) == (start, end, count)
    np.testing.assert_allclose(np.diff(values), (end - start) / (count - 1), atol=1e-11)


def test_values_are_what_was_typed() -> None:
    """A range whose middle is 1 has 1 there, not a neighbour that differs by its last bit."""
    assert parse_ranges(["a=0.1:1.9:7", "b=3,1e-1", "c=2"]) == {
        "a": [0.1, 0.4, 0.7, 1.0, 1.3, 1.6, 1.9],
        "b": [3.0, 0.1],
        "c": [2.0],
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mass"], "'mass' is no parameter with values, such as mass=0.5:1.5:5"),
        (["mass="], "the values are given such as"),
        (["=1"], "is no parameter with values"),
        (["mass=a"], "the values are given such as"),
        (["mass=1:2"], "the values are given such as"),
        (["mass=1:2:2.5"], "the values are given such as"),
        (["mass=2:1:3"], "a range is LOW:HIGH:COUNT, upwards"),
        (["mass=1:2:1"], "a range is LOW:HIGH:COUNT, upwards"),
        (["mass=1:2:-1"], "the values are given such as"),
        (["mass=1:2:3:4"], "a range is LOW:HIGH:COUNT, upwards"),
        (["mass=nan"], "a range is LOW:HIGH:COUNT"),
        (["mass=1,2,1"], "has a value twice"),
        (["mass=1", "mass=2"], "has mass twice"),
    ],
)
def test_mistakes_in_ranges(words: list[str], message: str) -> None:
    with pytest.raises(UserError) as raised:
        parse_ranges(words)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pole_mas=1:2:3"], "CartPole-v1 has no 'pole_mas'; did you mean pole_mass?"),
        (["friction=1:2:3"], "it has gravity, cart_mass, pole_mass, pole_length, force, action_"),
        (["action_delay=0:3:3"], "action_delay=1.5 for CartPole-v1: it counts steps"),
    ],
)
def test_mistakes_are_found_before_anything_is_evaluated(
    words: list[str],
    message: str,
    trained: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["evaluate", str(trained), "--perturb", "force=1,2", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


SPREAD = 'id = "mpe/spread"'
SKIRMISH = 'id = "rlsuite.envs.skirmish:Skirmish"'
ROBOT = """
id = "rlsuite.envs:MultiAgentMujoco"
kwargs = { task = "Hopper-v5", partition = "3x1" }
time_limit = 30
"""
PONG = """
id = "ALE/Pong-v5"
time_limit = 20
"""


def train_tiny(algorithm: str, env: str, folder: Path) -> None:
    config = folder.with_suffix(".toml")
    config.write_text(
        f'algorithm = "{algorithm}"\n[env]\n{env}\n[plan]\nupdates_per_transition = 0.02\n'
    )
    assert main(["train", str(config), "--folder", str(folder), *TINY]) == 0


@pytest.mark.parametrize(
    ("env", "ranges"),
    [
        (SPREAD, ["obs_noise=0,1", "action_noise=0,0.5", "action_delay=0,2"]),
        (SKIRMISH, ["obs_noise=0,30"]),
        (ROBOT, ["mass=1,2", "friction=1", "action_noise=0,0.5"]),
        (PONG, ["obs_noise=0,90", "action_delay=0,3", "sticky=0.25,0.9"]),
    ],
)
def test_teams_and_games(
    env: str, ranges: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nominal values are the nominal evaluation to the bit, the others are not."""
    folder = tmp_path / "run"
    train_tiny("dqn" if env is PONG else "hasac", env, folder)
    capsys.readouterr()
    assert main(["evaluate", str(folder), "--perturb", *ranges, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    first, *others = [(point["returns"], point["lengths"]) for point in result["grid"]]
    nominal = result["nominal"]["returns"], result["nominal"]["lengths"]
    assert first == nominal
    if env is not PONG:  # whose first 20 steps bring nothing
        assert nominal not in others


def test_a_game_where_actions_always_stick_does_not_obey() -> None:
    seen: dict[float, list[list[float]]] = {0.0: [], 1.0: []}
    for sticky, frames in seen.items():
        for action in (2, 3):
            envs = AtariVectorEnv("ALE/Pong-v5", 1, sticky=sticky)
            envs.reset(0)
            for _ in range(30):
                stepped = envs.step(torch.tensor([action]))
            frames.append(stepped.obs.flatten().tolist())  # type: ignore[union-attr]
            envs.close()
    assert seen[1.0][0] == seen[1.0][1] and seen[0.0][0] != seen[0.0][1]


@pytest.mark.parametrize(
    ("env", "words", "message"),
    [
        (SPREAD, "mass=1,2", "mpe/spread has no 'mass'; it has no physics that is known"),
        (SKIRMISH, "action_noise=0.5", "its mask of actions would not fit"),
        (ROBOT, "mas=1,2", "has no 'mas'; did you mean mass?"),
    ],
)
def test_what_makes_no_sense_is_refused(
    env: str, words: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    train_tiny("hasac", env, folder)
    capsys.readouterr()
    assert main(["evaluate", str(folder), "--perturb", words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
