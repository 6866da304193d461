"""People from section ``advice`` of a config: by import path, or an earlier run of the suite."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from rlsuite.build import (
    build_agent,
    build_envs,
    evaluate_run,
    load,
    load_state,
    resume,
    train,
)
from rlsuite.checkpoint import CheckpointStore
from rlsuite.cli import main
from rlsuite.config import load_experiment
from rlsuite.envs.humans import StickyHuman, cartpole_angle
from rlsuite.errors import UserError

SHORT = {
    "plan.total_transitions": "200",
    "plan.warmup_transitions": "100",
    "env.num_envs": "4",
    "run.evaluation_episodes": "4",
}


def novice_probs(novice: Any, obs: torch.Tensor) -> torch.Tensor:
    """Of erring in one step of five."""
    action = novice.act(obs, explore=False)[0]
    return torch.full((len(obs), 2), 0.1).scatter(1, action[:, None], 0.9)


def mindful() -> StickyHuman:
    return StickyHuman(cartpole_angle(), 0.5)


def test_a_run_of_the_suite_is_advised(tmp_path: Path) -> None:
    """Its agent, clumsy at the rate that is set, in training, evaluation and pictures."""
    train(load_experiment("dqn/cartpole", SHORT), tmp_path / "novice", quiet=True)
    people = {"advice.human": str(tmp_path / "novice"), "advice.human_kwargs": "{ epsilon = 0.2 }"}
    experiment = load_experiment("aadqn/cartpole", SHORT | people)
    envs = build_envs(experiment)
    obs, novice = envs.reset(), load(tmp_path / "novice")
    probs = envs._people.human.probs(obs)
    torch.testing.assert_close(probs.float(), novice_probs(novice, obs))

    last = train(experiment, tmp_path / "advised", quiet=True)
    assert evaluate_run(tmp_path / "advised").returns == last.returns
    advisor = load(tmp_path / "advised")
    assert set(advisor.act(obs)[0].tolist()) <= {0, 1, 2}

    known = people | {"agent.known_human": "true", "advice.budget": "9"}
    experiment = load_experiment("aadqn/cartpole", SHORT | known)
    envs = build_envs(experiment)
    knows, obs = build_agent(experiment, envs.spec), envs.reset()
    assert obs.shape == (4, 5)  # the novice does not see what is left of the budget
    torch.testing.assert_close(knows.believe(obs)[0], novice_probs(novice, obs[:, :4]))
    picture = str(tmp_path / "advised.gif")
    assert main(["enjoy", str(tmp_path / "advised"), "--video", picture]) == 0
    assert Path(picture).exists()


def test_who_is_advised_stays_the_same(tmp_path: Path) -> None:
    """The human's run goes on: who resumes or evaluates is told. A checkpoint can be named."""
    novice, advised = tmp_path / "novice", tmp_path / "advised"
    train(load_experiment("dqn/cartpole", SHORT), novice, quiet=True)
    checkpoint = novice / "checkpoints" / f"{200:012d}"
    people = {"advice.human_kwargs": "{}", "advice.human": str(novice)}
    train(load_experiment("aadqn/cartpole", SHORT | people), advised, quiet=True)
    fixed = people | {"advice.human": str(checkpoint)}
    train(load_experiment("aadqn/cartpole", SHORT | fixed), tmp_path / "fixed", quiet=True)
    resume(advised, quiet=True)
    record = json.loads((advised / "experiment.json").read_text())
    assert record["human"]["checkpoint"] == checkpoint.name

    store = CheckpointStore(novice / "checkpoints")
    store.save(300, {**load_state(novice), "more": 1})
    for go_on in (lambda: resume(advised, quiet=True), lambda: evaluate_run(advised)):
        with pytest.raises(
            UserError, match=f"at checkpoint {300:012d}, and the run had {200:012d}"
        ):
            go_on()
    resume(tmp_path / "fixed", quiet=True)
    store.save(300, load_state(checkpoint))  # the same agent under another name: still another
    with pytest.raises(UserError, match="at checkpoint"):
        resume(advised, quiet=True)


KNOWN = {"agent.known_human": "true", "advice.human_kwargs": "{}"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"advice.human": "rlsuite.envs.humans:nobody"}, "has no attribute 'nobody'"),
        ({"advice.human": "no.such:human"}, "No module named"),
        ({"advice.human": "builtins:dict", "advice.human_kwargs": "{}"}, "it has no probs"),
        ({"advice.human": "/nowhere"}, "is not a run folder"),
        ({"advice.human": "/nowhere", "advice.human_kwargs": "{ a = 1 }"}, "epsilon alone"),
        ({"advice.adherence": "builtins:dict"}, "no theta"),
        ({"advice.adherence": "1.5"}, "advice.adherence is 1.5"),
        ({"env.id": "Pendulum-v1"}, "Discrete actions"),
        ({"advice.human": f"{__name__}:mindful"} | KNOWN, "it has a memory"),
    ],
)
def test_mistakes_are_named(settings: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        experiment = load_experiment("aadqn/cartpole", settings)
        build_agent(experiment, build_envs(experiment).spec)
