"""Every config of several agents builds, and learns a little from a few random steps."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rlsuite.build import build_agent, build_envs, build_replay
from rlsuite.config import config_names, load_experiment
from rlsuite.envs import MultiAgentMujoco, Skirmish
from rlsuite.errors import UserError

FOLDERS = ("hasac", "masac", "hatd3", "haddpg", "matd3", "maddpg")
NAMES = [name for name in config_names() if name.split("/")[0] in FOLDERS]
SUPPLIED = {"smac_env": "smac", "dexhands_env": "dexhands"}
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
        "smac_env": lambda map_name: Skirmish(),
        "dexhands_env": lambda task: MultiAgentMujoco("HalfCheetah-v5", "2x3"),
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
def test_what_the_user_has_to_supply_is_named(module: str) -> None:
    names = [name for name in NAMES if name.startswith(f"hasac/{SUPPLIED[module]}_")]
    assert len(names) in (8, 9)
    for name in names:
        with pytest.raises(UserError, match=f"cannot import '{module}'") as caught:
            build_envs(load_experiment(name))
        assert "\n" not in str(caught.value)
