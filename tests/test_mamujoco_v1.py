"""gymnasium-robotics' MaMuJoCo, as it is, through TeamEnv."""

import functools

import numpy as np
import pytest
from adapter_cases import train_hasac

from rlsuite.envs import check_parallel_env, is_resumable, make_env
from rlsuite.errors import UserError

mamujoco = pytest.importorskip("gymnasium_robotics.envs.multiagent_mujoco.mamujoco_v1")
ID = "gymnasium_robotics.envs.multiagent_mujoco.mamujoco_v1:parallel_env"
CHEETAH = {"scenario": "HalfCheetah", "agent_conf": "2x3", "agent_obsk": 0}
make = functools.partial(make_env, ID, kwargs=CHEETAH, time_limit=6)


def test_steps_are_mamujocos():
    team, own = make(), mamujoco.parallel_env(**CHEETAH)
    observation, _ = team.reset(seed=3)
    expected, _ = own.reset(seed=3)
    for t in range(6):
        assert [v.shape for v in observation["agents"].values()] == [(11,), (11,)]
        for agent, view in expected.items():
            np.testing.assert_array_equal(observation["agents"][agent], view)
        np.testing.assert_array_equal(observation["state"], own.state())
        team.action_space.seed(t)
        actions = team.action_space.sample()
        observation, reward, terminated, truncated, _ = team.step(actions)
        expected, rewards, *_ = own.step(actions)
        assert set(rewards.values()) == {reward} and not terminated
    assert truncated
    assert is_resumable(make, 0)
    with pytest.warns(UserWarning, match="no episode ended in 30 steps"):
        check_parallel_env(mamujoco.parallel_env(**CHEETAH), steps=30, team_reward="shared")


@pytest.mark.parametrize("unset", ["agent_obsk", "agent_conf"])
def test_one_agent_for_all_is_no_team(unset):
    with pytest.raises(UserError, match="is no team: it has one agent, 'agent_0'") as error:
        make_env(ID, kwargs={**CHEETAH, unset: None})
    assert "\n" not in str(error.value)


def test_hasac_trains(tmp_path):
    train_hasac(tmp_path / "run", id=ID, time_limit=10, kwargs=CHEETAH)
