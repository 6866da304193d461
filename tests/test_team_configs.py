"""Every config of several agents builds, and learns a little from a few random steps."""

import math
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hatd3_cases import KINDS

from rlsuite.build import build_agent, build_envs, build_replay
from rlsuite.config import config_names, load_experiment
from rlsuite.envs import MultiAgentMujoco, Skirmish
from rlsuite.errors import UserError

FOLDERS = ("hasac", "hasac_kl", "me_hatrpo", "masac", "hatd3", "haddpg", "matd3", "maddpg")
NAMES = [name for name in config_names() if name.split("/")[0] in FOLDERS]
TASKS = ("spread", "reference", "speaker_listener")
SUPPLIED = {"smac_team": "smac", "dexhands_team": "dexhands"}
"""Modules that configs expect of the user."""
TINY = {
    "env.num_envs": "2",
    "replay.capacity": "60",
    "plan.warmup_transitions": "50",
    "plan.total_transitions": "100",
    "plan.batch_size": "8",
    "run.threads": "1",
}


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks, deaths and a state for each agent as in SMAC; Box actions as those of hands."""
    for module, make in {
        "smac_team": lambda map_name: Skirmish(),
        "dexhands_team": lambda task: MultiAgentMujoco("HalfCheetah-v5", "2x3"),
    }.items():
        monkeypatch.setitem(sys.modules, module, SimpleNamespace(make=make))


@pytest.mark.parametrize("name", NAMES)
def test_builds_and_learns(name: str, stand_ins: None) -> None:
    experiment = load_experiment(name, TINY)
    envs = build_envs(experiment)
    agent: Any = build_agent(experiment, envs.spec)
    replay = build_replay(experiment, envs.spec)
    obs = envs.reset()
    for _ in range(30):
        replay.add(envs.step(envs.sample_actions()).step)
    seen = {}
    for _ in range(getattr(experiment.agent, "policy_period", 1)):
        batch = replay.sample(8)
        update = agent.update(batch)
        replay.update(batch, update.priority)
        seen |= update.metrics
    assert "loss/actor" in seen
    assert all(torch.isfinite(value).all() for value in seen.values())
    actions, _ = agent.act(obs, explore=False)
    envs.step(actions)
    envs.close()


@pytest.mark.parametrize("module", SUPPLIED)
def test_what_the_user_has_to_supply_is_named(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not there
    names = [name for name in NAMES if name.startswith(f"hasac/{SUPPLIED[module]}_")]
    assert len(names) in (8, 9)
    for name in names:
        with pytest.raises(UserError, match=f"cannot import .*{module}") as caught:
            build_envs(load_experiment(name))
        assert "\n" not in str(caught.value)


AUTO, ANNEALED = ("auto", 1.0), ("annealed", 1.0)
HASAC = {
    **{f"like_harl_{task}": (0.99, 20, 1000, 5e-4, 5e-4, AUTO, 1e7) for task in TASKS},
    **{f"like_harl_{task}_discrete": (0.99, 20, 1000, 5e-4, 5e-4, ANNEALED, 1e7) for task in TASKS},
    "halfcheetah_2x3": (0.99, 10, 1000, 1e-3, 1e-3, AUTO, 1e7),
    "halfcheetah_3x2": (0.99, 10, 1000, 1e-3, 1e-3, AUTO, 1e7),
    "manysegmentswimmer_10x2": (0.99, 10, 1000, 1e-3, 1e-3, AUTO, 1e7),
    "halfcheetah_6x1": (0.99, 10, 1000, 1e-3, 1e-3, AUTO, 1e7),
    "humanoidstandup_17x1": (0.99, 10, 1000, 1e-3, 1e-3, AUTO, 1e7),
    "walker2d_2x3": (0.99, 20, 1000, 5e-4, 1e-3, (0.2,), 1e7),
    "walker2d_6x1": (0.99, 20, 1000, 5e-4, 1e-3, (0.2,), 1e7),
    "ant_4x2": (0.99, 5, 1000, 1e-3, 3e-4, (0.2,), 1e7),
    "ant_2x4": (0.99, 5, 2200, 1e-3, 3e-4, (0.2,), 1e7),
    "ant_8x1": (0.99, 5, 2200, 1e-3, 3e-4, (0.2,), 1e7),
    "smac_10m_vs_11m": (0.95, 20, 1000, 3e-4, 5e-4, ANNEALED, 1e7),
    "smac_5m_vs_6m": (0.95, 20, 1000, 3e-4, 5e-4, ANNEALED, 1e7),
    "smac_8m_vs_9m": (0.95, 5, 1000, 3e-4, 5e-4, ANNEALED, 1e7),
    "smac_3s5z": (0.99, 20, 1000, 3e-4, 5e-4, ANNEALED, 1e7),
    "smac_mmm2": (0.95, 20, 1000, 3e-4, 5e-4, ANNEALED, 2e7),
    "smac_3s5z_vs_3s6z": (0.99, 10, 1000, 3e-4, 5e-4, ANNEALED, 2e7),
    "smac_corridor": (0.99, 5, 1000, 5e-4, 5e-4, (0.002,), 2e7),
    "smac_6h_vs_8z": (0.99, 5, 1000, 3e-4, 5e-4, ANNEALED, 4e7),
    "dexhands_catch_abreast": (0.95, 20, 1000, 5e-4, 5e-4, AUTO, 1e7),
    "dexhands_door_close_inward": (0.95, 20, 1000, 5e-4, 5e-4, AUTO, 1e7),
    "dexhands_door_open_inward": (0.95, 20, 1000, 5e-4, 5e-4, AUTO, 1e7),
    "dexhands_pen": (0.95, 20, 1000, 5e-4, 5e-4, AUTO, 1e7),
    "dexhands_door_open_outward": (0.99, 20, 1000, 5e-4, 5e-4, AUTO, 1e7),
    "dexhands_lift_underarm": (0.99, 20, 1000, 5e-4, 5e-4, AUTO, 1e7),
    "dexhands_catch_over2_underarm": (0.99, 20, 1000, 5e-4, 5e-4, AUTO, 2e7),
    "dexhands_over": (0.95, 20, 1000, 5e-4, 5e-4, AUTO, 5e7),
    "dexhands_two_catch_underarm": (0.95, 20, 1000, 5e-4, 5e-4, (5e-5,), 1e7),
}
"""HARL's tuned settings (commit d539bad): discount, n-step, batch, learning rates of actors and
critics, temperature and where it starts, transitions."""


@pytest.mark.parametrize("name", HASAC)
def test_published_settings_of_hasac(name: str) -> None:
    """All with 20 environments, an update for each of their steps, and two layers of 256."""
    e = load_experiment(f"hasac/{name}")
    discount, n_step, batch, actor, critic, temperature, total = HASAC[name]
    assert (e.replay.discount, e.replay.n_step, e.plan.batch_size) == (discount, n_step, batch)
    assert (e.agent.lr_actor, e.agent.lr_critic, e.agent.lr_temperature) == (actor, critic, 3e-4)
    assert (e.agent.temperature, e.agent.initial_temperature)[: len(temperature)] == temperature
    assert e.plan.total_transitions == total
    assert e.env.num_envs * e.plan.updates_per_transition == 1
    assert (e.plan.warmup_transitions, e.agent.hidden) == (10_000, (256, 256))
    is_smac = name.startswith("smac")
    assert (e.agent.critic_loss == "huber") == e.agent.normalize_values == is_smac
    # Where HARL's entropy target is 0 its temperature decays by exp(-3e-4) an update.
    assert e.agent.temperature_decay == pytest.approx(math.exp(-3e-4), abs=1e-7)


BASELINES = {
    # n-step and policy period of the TD3s, n-step, noise and updates a transition of the DDPGs.
    "halfcheetah_2x3": (10, 2, 20, 0.1, 0.1),
    "ant_4x2": (5, 2, 20, 0.05, 0.05),
    "hopper_3x1": (5, 2, 20, 0.1, 0.1),
    "walker2d_2x3": (20, 8, 10, 0.1, 0.1),
    "walker2d_6x1": (25, 2, 20, 0.1, 0.1),
}


@pytest.mark.parametrize("algorithm", KINDS)
@pytest.mark.parametrize("name", BASELINES)
def test_published_settings_of_the_deterministic_ones(name: str, algorithm: str) -> None:
    e = load_experiment(f"{algorithm}/{name}")
    n_step, period, n_step_ddpg, noise, updates = BASELINES[name]
    is_ddpg = "ddpg" in algorithm
    assert e.replay.n_step == (n_step_ddpg if is_ddpg else n_step)
    assert e.agent.policy_period == (1 if is_ddpg else period)
    assert e.agent.exploration_noise == (noise if is_ddpg else 0.1)
    assert e.plan.updates_per_transition == (updates if is_ddpg else 0.1)
    assert (e.agent.lr_actor, e.agent.lr_critic, e.agent.hidden) == (5e-4, 1e-3, (256, 256))
    assert (e.replay.discount, e.plan.batch_size, e.env.num_envs) == (0.99, 1000, 10)
    settings = {**KINDS[algorithm], "policy_period": e.agent.policy_period}
    assert all(getattr(e.agent, key) == value for key, value in settings.items())


@pytest.mark.parametrize("algorithm", KINDS)
@pytest.mark.parametrize("task", TASKS)
def test_published_settings_on_particles(task: str, algorithm: str) -> None:
    e = load_experiment(f"{algorithm}/like_harl_{task}")
    assert (e.replay.discount, e.replay.n_step, e.plan.batch_size) == (0.99, 1, 1000)
    assert (e.agent.lr_actor, e.agent.lr_critic, e.agent.hidden) == (5e-4, 1e-3, (128, 128))
    assert (e.env.num_envs, e.plan.updates_per_transition) == (20, 0.05)
    assert e.plan.total_transitions == 5e6
    assert all(getattr(e.agent, key) == value for key, value in KINDS[algorithm].items())
