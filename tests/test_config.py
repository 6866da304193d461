"""Configs: every shipped one is valid, layers merge, and mistakes are named."""

import dataclasses
import json
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlsuite.config import build_experiment, config_names, load_experiment
from rlsuite.errors import UserError
from rlsuite.samplers import SAMPLERS, SamplerName
from rlsuite.settings import describe_field


@pytest.mark.parametrize("name", config_names())
def test_shipped_configs_are_valid_and_say_what_they_are(name: str) -> None:
    experiment = load_experiment(name)
    assert experiment.name == name
    assert experiment.description
    assert len(experiment.description) < 100


def test_every_setting_is_documented() -> None:
    for key, _, _, meaning in load_experiment("sac/pendulum").rows():
        assert len(meaning) > 10, key
        assert meaning.endswith("."), key


def test_layers(tmp_path: Path) -> None:
    """Defaults < file < command line, and where each value came from."""
    path = tmp_path / "mine.toml"
    path.write_text(
        'algorithm = "sac"\n[env]\nid = "Pendulum-v1"\n[agent]\nlr_actor = 1e-3\nlr_critic = 1e-3\n'
    )
    experiment = load_experiment(
        str(path), {"agent.lr_critic": "5e-4", "agent.hidden": "[64, 32]", "env.time_limit": "50"}
    )
    rows = {key: (value, source) for key, value, source, _ in experiment.rows()}
    assert rows["agent.lr_actor"] == (1e-3, str(path))
    assert rows["agent.lr_critic"] == (5e-4, "command line")
    assert rows["agent.lr_temperature"] == (3e-4, "default")
    assert rows["agent.hidden"] == ((64, 32), "command line")
    assert rows["env.time_limit"] == (50, "command line")
    assert rows["replay.sampler"] == ("reshuffle", "default")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"agent.lr": "1"}, "unknown setting agent.lr; did you mean agent.lr_"),
        ({"agnt.lr_actor": "1"}, "unknown setting agnt; did you mean agent?"),
        ({"agent.lr_actor": "fast"}, "agent.lr_actor is 'fast' but should be a valid number"),
        ({"agent.lr_actor": '"1e-3"'}, "agent.lr_actor is '1e-3' but should be a valid number"),
        ({"agent.lr_actor": "0"}, "agent.lr_actor is 0 but should be greater than 0"),
        ({"agent.lr_actor": "inf"}, "agent.lr_actor is inf but should be a finite number"),
        ({"plan.batch_size": "1e2"}, "plan.batch_size is 100.0 but should be a valid integer"),
        ({"agent.temperature": "hot"}, "should be 'auto' or a valid number"),
        ({"replay.sampler": "per"}, "replay.sampler is 'per' but should be 'reshuffle', "),
        ({"replay.discount": "1.1"}, "replay.discount is 1.1 but should be less than or equal"),
        ({"env.id": "unset"}, "env.id is None but should be a valid string"),
        ({"run.seed": "true"}, "run.seed is True but should be a valid integer"),
        ({"plan.warmup_transitions": "10000"}, "leaves nothing to learn"),
        ({"env.workers": "2"}, "env.workers (2) must be less than env.num_envs (1)"),
        ({"description.x": "2"}, "description is no section"),
        ({"seed": "2"}, "settings are named section.name"),
    ],
)
def test_mistakes_are_named(overrides: dict[str, str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_experiment("sac/pendulum", overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("config", ["hasac/spread", "hatd3/spread"])
def test_joint_critics_need_a_hidden_layer(config: str) -> None:
    with pytest.raises(UserError, match=r"agent\.hidden is \[\] but should be .* at least 1 item"):
        load_experiment(config, {"agent.hidden": "[]"})


def test_all_problems_at_once() -> None:
    with pytest.raises(UserError) as caught:
        build_experiment("x", {"algorithm": "sac", "agent": {"lr_actor": -1, "tau": 3}, "envs": {}})
    text = str(caught.value)
    for part in ("unknown setting envs", "agent.lr_actor is -1", "agent.tau", "env.id is missing"):
        assert part in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("lr = ", "is not valid TOML"),
        ("[env]\nid='x'", "algorithm is None; known are: sac"),
        ("algorithm = 'a2c'", "algorithm is 'a2c'; known are: sac"),
    ],
)
def test_broken_files(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        load_experiment(str(path))


def test_unknown_config_suggests() -> None:
    with pytest.raises(UserError, match="did you mean sac/halfcheetah"):
        load_experiment("sac/halfcheeta")


def test_json_round_trip_is_the_same_experiment() -> None:
    experiment = load_experiment("sac/halfcheetah", {"agent.hidden": "[7]", "env.kwargs": "{a=1}"})
    again = build_experiment(experiment.name, json.loads(json.dumps(experiment.to_dict())))
    assert again == experiment


@given(text=st.text(max_size=20), key=st.sampled_from(["agent.lr_actor", "env.id", "run.seed"]))
def test_any_text_is_a_value_or_a_user_error(text: str, key: str) -> None:
    try:
        experiment = load_experiment("sac/pendulum", {key: text})
    except UserError:
        return
    section, name = key.split(".")
    assert getattr(getattr(experiment, section), name) is not None


def test_sections_cover_the_experiment() -> None:
    experiment = load_experiment("sac/pendulum")
    keys = {key for key, *_ in experiment.rows()}
    for section in ("env", "agent", "replay", "sampler", "plan", "run"):
        part = getattr(experiment, section)
        assert {f"{section}.{f.name}" for f in dataclasses.fields(part)} <= keys
        assert all(describe_field(type(part), f.name) for f in dataclasses.fields(part))


def test_an_agent_brings_the_plan_of_its_loop() -> None:
    """One that learns from rollouts has no replay, and its discount is its own."""
    experiment = load_experiment("ppo/pendulum", {"plan.steps_per_rollout": "128"})
    assert experiment.sections == ["env", "agent", "plan", "run"]
    assert {key.split(".")[0] for key, *_ in experiment.rows()} == set(experiment.sections)
    assert experiment.plan.steps_per_rollout == 128 and experiment.discount == 0.9
    assert load_experiment("sac/pendulum", {"replay.discount": "0.8"}).discount == 0.8
    again = build_experiment(experiment.name, json.loads(json.dumps(experiment.to_dict())))
    assert again == experiment


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"plan.batch_size": "3"}, "unknown setting plan.batch_size"),
        ({"replay.capacity": "3"}, "unknown setting replay"),
        ({"plan.total_transitions": "4_095"}, "(4,095) is less than one rollout, "),
        ({"env.id": "ALE/Pong-v5", "env.groups": "2"}, "env.groups (2) must be 1 for an agent"),
    ],
)
def test_mistakes_in_a_plan_of_rollouts(overrides: dict[str, str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_experiment("ppo/pendulum", overrides)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("config", "bounds", "message"),
    [
        ("ppo/cartpole", "{force = [0.5, 2]}", "env.uncertain is for robust_ppo, not for ppo"),
        ("robust_ppo/cartpole", "{force = [0.5]}", "env.uncertain has [0.5], too few: Physics"),
        ("robust_ppo/cartpole", "{force = [0, 2]}", "env.uncertain is 0 but should be greater"),
        ("robust_ppo/cartpole", "[1, 2]", "env.uncertain is [1, 2] but should be"),
    ],
)
def test_mistakes_in_uncertain_physics(config: str, bounds: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_experiment(config, {"env.uncertain": bounds})
    assert message in str(caught.value)


MSE = {"agent.loss": "mse"}
HUBER = {"agent.loss": "huber", "agent.huber_threshold": "0.5"}


@pytest.mark.parametrize(
    ("config", "overrides", "message"),
    [
        ("dqn/cartpole", MSE | {"replay.sampler": "lap"}, "agent.loss is 'mse' but should be"),
        ("dqn/cartpole", MSE | {"replay.sampler": "rrm"}, "agent.huber_threshold = 0.01"),
        ("hasac/spread", {"replay.sampler": "lap"}, "agent.critic_loss is 'square' but"),
        (
            "dqn/cartpole",
            HUBER | {"replay.sampler": "lap"},
            "agent.huber_threshold (0.5) and sampler.least (1.0) must be equal",
        ),
        ("dqn/cartpole", HUBER | {"replay.sampler": "lap", "sampler.least": "0.5"}, None),
        ("dqn/cartpole", MSE | {"replay.sampler": "prioritized"}, None),
    ],
)
def test_a_loss_without_importance_weights(
    config: str, overrides: dict[str, str], message: str | None
) -> None:
    if message is None:
        load_experiment(config, overrides)
        return
    with pytest.raises(UserError) as caught:
        load_experiment(config, overrides)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "available"),
    [
        ({"plan.warmup_transitions": "55"}, 56),
        ({"replay.capacity": "40"}, 40),
        ({"plan.warmup_transitions": "65", "replay.n_step": "4"}, 63),
        ({"plan.warmup_transitions": "66", "replay.n_step": "4"}, None),
    ],
)
def test_a_first_batch_of_different_transitions(
    overrides: dict[str, str], available: int | None
) -> None:
    distinct = {"replay.sampler": "prioritized", "sampler.draw": "distinct"}
    distinct |= {"env.num_envs": "1", "plan.batch_size": "64"}
    load_experiment("dqn/cartpole", distinct | overrides | {"sampler.draw": "stratified"})
    if available is None:
        load_experiment("dqn/cartpole", distinct | overrides)
        return
    with pytest.raises(UserError, match=rf"batch_size \(64\) is more than the {available} differ"):
        load_experiment("dqn/cartpole", distinct | overrides)


@pytest.mark.parametrize("text", ['{"continuous": false}', "[1, 2", "{continuous: false}"])
def test_what_looks_like_a_table_but_is_none(text: str) -> None:
    with pytest.raises(UserError) as caught:
        load_experiment("hasac/spread", {"env.kwargs": text})
    assert f"--env.kwargs: {text} is not valid TOML, where a table is {{ name" in str(caught.value)
    good = load_experiment("hasac/spread", {"env.kwargs": "{continuous = false}"})
    assert good.env.kwargs == {"continuous": False}


def test_a_sampler_brings_its_own_settings() -> None:
    assert set(get_args(SamplerName)) == set(SAMPLERS)
    experiment = load_experiment("sac/pendulum", {"replay.sampler": "lap", "sampler.alpha": "0.5"})
    assert (experiment.sampler.alpha, experiment.sampler.least) == (0.5, 1.0)
    again = build_experiment("again", experiment.to_dict())
    assert again == dataclasses.replace(experiment, name="again")
    with pytest.raises(UserError, match=r"unknown setting sampler\.beta"):
        load_experiment("sac/pendulum", {"replay.sampler": "lap", "sampler.beta": "0.5"})
    with pytest.raises(UserError, match=r"unknown setting sampler\.alpha"):
        load_experiment("sac/pendulum", {"sampler.alpha": "0.5"})
