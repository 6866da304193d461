"""DRPG by its configs: what a run leaves, exact evaluations, resuming, and mistakes in one line."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from robust_cases import three_states

import rlsuite
from rlsuite import build
from rlsuite.agents.drpg import DRPG, DRPGConfig, StepSize
from rlsuite.agents.robust_planning import (
    evaluate,
    robust_cost,
    robust_value_iteration,
    total_cost,
)
from rlsuite.ambiguity import L1, L1PerState
from rlsuite.checkpoint import CheckpointStore
from rlsuite.cli import main
from rlsuite.config import build_experiment, config_names, load_experiment
from rlsuite.envs.garnet import garnet, garnet_policy
from rlsuite.envs.tabular import tabular
from rlsuite.errors import UserError
from rlsuite.problems import SETS, GarnetConfig, TableConfig
from rlsuite.robust import RobustMDP

SMALL = {
    **{"env.states": "6", "env.actions": "4", "env.instances": "3", "run.seed": "3"},
    **{"agent.step.size": "5", "run.evaluate_every_transitions": "4"},
    **{"run.checkpoint_every_transitions": "3"},
}


def train(folder: Path, config: str = "drpg/garnet", **settings: str) -> Path:
    """A run folder; ``section__name`` is a setting."""
    own = {name.replace("__", "."): value for name, value in settings.items()}
    experiment = load_experiment(config, {**(SMALL if config == "drpg/garnet" else {}), **own})
    build.train(experiment, folder, quiet=True)
    return folder


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return [
            {name: cell for name, cell in row.items() if not name.startswith("time/")}
            for row in csv.DictReader(file)
        ]


def evaluations(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "evaluation.json").read_text())["evaluations"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    return train(tmp_path_factory.mktemp("solving") / "run")


def one_line(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """What a mistake gets, with exit code 2."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    lines = capsys.readouterr().err.splitlines()
    (line,) = [text for text in lines if text and not text.startswith("training ")]
    assert line.startswith("error: ")
    return line


def test_a_run_is_what_the_library_does_and_ends_by_its_certificate(trained: Path) -> None:
    mdp = garnet(6, 4, 3, instances=3, seed=3)
    config = DRPGConfig(certify_every=1, step=StepSize(size=5.0))
    solver = DRPG(mdp, config, policy=garnet_policy(mdp, 3))
    lines = [row for row in rows(trained) if row["cost/robust"]]
    assert 8 < len(lines) < 100
    for row in lines:
        metrics = solver.iterate()
        assert all(float(row[name]) == float(value) for name, value in metrics.items())
    assert float(lines[-1]["cost/gap"]) <= 1e-6 < float(lines[-2]["cost/gap"])
    loaded = rlsuite.load(trained)
    assert torch.equal(loaded.solution, solver.solution)


def test_evaluations_are_exact(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    solver = rlsuite.load(trained)
    mdp, policy = solver.mdp, solver.solution
    found = evaluations(trained)
    iterations = int(rows(trained)[-1]["transitions"])
    assert [entry["transitions"] for entry in found] == [*range(4, iterations, 4), iterations]
    last = found[-1]
    assert last["robust"] == robust_cost(mdp, policy).tolist()
    assert last["nominal"] == total_cost(mdp, evaluate(mdp, policy, mdp.nominal).v).tolist()
    least = total_cost(mdp, robust_value_iteration(mdp).v)
    torch.testing.assert_close(torch.tensor(last["least"]).double(), least, rtol=1e-6, atol=0)
    excess = float((robust_cost(mdp, policy) - least).max())
    assert float(rows(trained)[-1]["evaluate/gap"]) == pytest.approx(excess, abs=1e-8)

    capsys.readouterr()
    assert main(["evaluate", str(trained), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == last
    assert main(["evaluate", str(trained)]) == 0
    text = capsys.readouterr().out
    assert f"after {iterations} iterations" in text and "gap to the least" in text
    assert f"{sum(last['robust']) / 3:,.6g}" in text


def test_a_power_cut_changes_nothing(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = DRPG.iterate

    def cut(self: DRPG) -> Any:
        if self.iteration == 5:
            raise RuntimeError("power cut")
        return whole(self)

    with monkeypatch.context() as patch:
        patch.setattr(DRPG, "iterate", cut)
        with pytest.raises(RuntimeError, match="power cut"):
            train(tmp_path / "run")
    for _ in range(2):  # a run that has ended does nothing more
        build.resume(tmp_path / "run", quiet=True)
        assert rows(tmp_path / "run") == rows(trained)
        assert evaluations(tmp_path / "run") == evaluations(trained)
    states = [CheckpointStore(f / "checkpoints").load() for f in (trained, tmp_path / "run")]
    for name in ("solution", "parameters", "bound", "lower"):
        assert torch.equal(states[0]["solver"][name], states[1]["solver"][name])


def test_the_lake_is_solved_for_its_true_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert main(["train", "drpg/frozen_lake", "--folder", str(folder), "--quiet"]) == 0
    assert "evaluation after" in capsys.readouterr().out
    assert (folder / "learning_curve.png").exists()
    last = evaluations(folder)[-1]
    assert last["robust"] == pytest.approx([-0.061989], abs=1e-6)  # oracle O5
    assert last["robust"] == pytest.approx(last["least"], abs=1e-9)
    solver = rlsuite.load(folder)
    assert solver.mdp.initial[0, 0] == 0.5 + 0.5 / solver.mdp.states


def make(radius: float = 0.2) -> RobustMDP:
    return three_states(L1(radius))


def make_none() -> int:
    return 3


def test_an_own_problem_without_a_certificate_and_with_the_paper_s_inner_loop(
    tmp_path: Path,
) -> None:
    config = tmp_path / "own.toml"
    config.write_text('algorithm = "drpg"\n[env]\nid = "tests.test_solving:make"\n')
    often = {"plan__total_iterations": "20", "run__log_every_transitions": "1"}
    ascent, nominal = (
        train(tmp_path / name, str(config), agent__adversary=name, **often)
        for name in ("ascent", "nominal")
    )
    for folder in (ascent, nominal):
        # Oracle O3, with its radius of 0.2: the optimum takes actions 0, 1, 0, as the nominal one.
        assert evaluations(folder)[-1]["least"] == pytest.approx([16.91024682])
        assert evaluations(folder)[-1]["robust"] == pytest.approx([16.91024682], rel=1e-6)
    mdp = make()
    start = float(total_cost(mdp, evaluate(mdp, mdp.uniform(), mdp.nominal).v))
    assert float(rows(nominal)[0]["cost/robust"]) == pytest.approx(start, rel=1e-12)
    assert float(rows(ascent)[0]["cost/robust"]) > start + 1e-3


def test_a_parametric_kernel_has_no_least_cost(tmp_path: Path) -> None:
    few = {"adversary__max_solves": "3", "plan__total_iterations": "2", "env__instances": "1"}
    folder = train(tmp_path / "run", "drpg/inventory", **few)
    (last,) = evaluations(folder)
    assert last["least"] is None and rows(folder)[-1]["evaluate/gap"] == ""
    # The log has what three ascents found, the evaluation the worst of ascents that arrived.
    assert last["robust"][0] > float(rows(folder)[0]["cost/best"]) > last["nominal"][0]


GARNET = ("train", "drpg/garnet", "--folder", "run")
LAKE = ("train", "drpg/frozen_lake", "--folder", "run")
MISTAKES = {
    "unknown setting": ((*GARNET, "--env.state", "5"), "did you mean env.states?"),
    "an agent's setting": ((*GARNET, "--env.num_envs", "5"), "unknown setting env.num_envs"),
    "nested": ((*GARNET, "--agent.step.siz", "5"), "did you mean agent.step.size?"),
    "nested, range": ((*GARNET, "--agent.step.size", "0"), "agent.step.size is 0 but should be"),
    "nested, no settings": ((*GARNET, "--agent.step", "5"), "instance of StepSize"),
    "no section": ((*GARNET, "--env.states.x", "5"), "states is no section"),
    "too many branches": ((*GARNET, "--env.branches", "50"), "50 distinct successors of 15"),
    "too large a radius": ((*GARNET, "--env.radius", "[2, 3]"), "radius of L1 is"),
    "unknown problem": ((*GARNET, "--env.id", "granet"), "did you mean 'garnet'?"),
    "unknown environment": ((*LAKE, "--env.id", "FrozenLak-v1"), "did you mean 'FrozenLake-v1'?"),
    "no table": ((*LAKE, "--env.id", "CartPole-v1"), "has no table P"),
    "bad argument": ((*LAKE, "--env.kwargs.slippery", "true"), "slippery"),
    "no radius": ((*LAKE, "--env.radius", "unset"), "env.radius is None but should be"),
    "unknown set": ((*LAKE, "--env.ambiguity", "l2"), "env.ambiguity is 'l2' but should be"),
    "no discount": ((*LAKE, "--env.discount", "1"), "has to be from 0 to below 1"),
    "unknown adversary": ((*GARNET, "--agent.adversary", "pga"), "agent.adversary is 'pga'"),
    "its settings without it": ((*GARNET, "--adversary.step", "1"), "unknown setting adversary"),
    "a tilt of nothing": ((*GARNET, "--agent.adversary", "tilt"), "the set is no tilted kernel"),
    "no projection": (
        (*LAKE, "--env.ambiguity", "kl", "--agent.adversary", "ascent"),
        "no projection onto a KL ball",
    ),
    "no certificate": (
        ("train", "drpg/inventory", "--plan.tolerance", "1e-3"),
        "TiltAdversary certifies no gap",
    ),
    "episodes": ((*GARNET, "--run.evaluation_episodes", "5"), "its evaluations are exact"),
    "no device": ((*GARNET, "--run.device", "cuda:7"), "'cuda:7' is not there"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_get_one_line(
    case: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words, message = MISTAKES[case]
    assert message in one_line(capsys, *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere.problems:make", "No module named 'nowhere'"),
        ("tests.test_solving:make_none", "returned int, not a RobustMDP"),
    ],
)
def test_an_own_problem_that_is_none(path: str, message: str, tmp_path: Path) -> None:
    experiment = build_experiment("own", {"algorithm": "drpg", "env": {"id": path}})
    with pytest.raises(UserError, match=message):
        build.train(experiment, tmp_path / "run")


def test_what_only_agents_have_is_refused(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exact = "is evaluated exactly: it has no --episodes and no --seed"
    assert exact in one_line(capsys, "evaluate", trained, "--episodes", "3")
    assert exact in one_line(capsys, "evaluate", trained, "--seed", "0")
    nothing = "drpg solves garnet exactly, there is nothing to play"
    assert nothing in one_line(capsys, "evaluate", trained, "--perturb", "mass=0.5,2")
    assert nothing in one_line(capsys, "enjoy", trained)


def test_costs_are_plotted_apart_from_returns(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rlsuite.plot import learning_curves

    other = train(tmp_path / "other", run__seed="4")
    single, both = learning_curves([trained]), learning_curves([trained, other])
    (axes,) = single.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("iterations", "robust cost")
    evaluated, training = axes.get_lines()[1], axes.get_lines()[0]
    means = [sum(entry["robust"]) / 3 for entry in evaluations(trained)]
    assert list(evaluated.get_ydata()) == pytest.approx(means)
    assert len(training.get_xdata()) == int(rows(trained)[-1]["transitions"])
    assert "2 seeds" in both.legends[0].get_texts()[0].get_text()

    agent = tmp_path / "agent"
    agent.mkdir()
    record = {"config": "sac/x", "experiment": {"run": {"seed": 0}, "env": {"id": "x"}}}
    (agent / "experiment.json").write_text(json.dumps(record))
    (agent / "metrics.csv").write_text("transitions,episode/return\n5,1.0\n")
    assert "plot them apart" in one_line(capsys, "plot", trained, agent)


@pytest.mark.parametrize("name", [name for name in config_names() if name.startswith("drpg/")])
def test_the_problems_of_the_configs_exist(name: str) -> None:
    from rlsuite.solving import build_problem, build_solver

    experiment = load_experiment(name)
    problem = build_problem(experiment, torch.device("cpu"))
    solver = build_solver(experiment, problem)
    assert solver.mdp.states == problem.mdp.states > 4
    again = json.loads(json.dumps(experiment.to_dict()))
    assert build_experiment(name, again) == experiment


def test_a_table_is_made_as_the_library_makes_it() -> None:
    """The cliff is deterministic: with the mass on its own successors nature could do nothing."""
    settings = {"env.id": "CliffWalking-v1", "env.radius": "0.3", "env.support": "state"}
    experiment = load_experiment("drpg/frozen_lake", {**settings, "env.kwargs": "{}"})
    assert isinstance(experiment.env, TableConfig)
    for name, kind in SETS.items():
        config = replace(experiment.env, ambiguity=name)
        mdp, training, policy = config.build(0)
        expected = tabular(
            gym.make("CliffWalking-v1"), kind(0.3), discount=config.discount, support="state"
        )
        uniform = mdp.uniform()
        assert policy is None and type(mdp.ambiguity) is kind
        assert torch.equal(robust_cost(mdp, uniform), robust_cost(expected, uniform))
        nominal = total_cost(mdp, evaluate(mdp, uniform, mdp.nominal).v)
        # Mass on what has none is infinitely far by KL.
        assert (robust_cost(mdp, uniform) > nominal + 1e-3).all() == (name != "kl")
        assert not torch.equal(training.initial, mdp.initial)


def test_garnets_with_a_budget_per_state() -> None:
    config = load_experiment("drpg/garnet_s").env
    assert isinstance(config, GarnetConfig)
    mdp, _, policy = replace(config, instances=2).build(3)
    sizes = (config.states, config.actions, config.branches)
    expected = garnet(*sizes, instances=2, rectangular="s", seed=3)
    assert policy is not None and torch.equal(policy, garnet_policy(expected, 3))
    assert torch.equal(robust_cost(mdp, policy), robust_cost(expected, policy))
    assert type(mdp.ambiguity) is L1PerState


def test_describe_lists_settings_in_settings(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--agent.step.power", "0.5", "--agent.tolerance", "{ decay = 0.9 }")
    assert main(["describe", "drpg/like_icml_garnet", *words]) == 0
    found = {}
    for line in capsys.readouterr().out.splitlines():
        if line.startswith(("agent.", "env.", "adversary.")):
            key, value, source = line.split(maxsplit=2)
            found[key] = (value, source)
    assert found["agent.step.size"] == ("0.01", "drpg/like_icml_garnet")
    assert found["agent.step.power"] == ("0.5", "command line")
    assert found["agent.step.relative"] == ("false", "drpg/like_icml_garnet")
    assert found["agent.tolerance.decay"] == ("0.9", "command line")
    assert found["adversary.step"] == ("0.1", "drpg/like_icml_garnet")
    assert found["env.rectangular"] == ('"sa"', "default")
