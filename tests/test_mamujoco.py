"""Robots shared out among agents: Gymnasium's own trajectories, indices, one scaling, views."""

import functools

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from rlsuite.envs import MultiAgentMujoco, TeamEnv, check_parallel_env, make_env
from rlsuite.envs.mamujoco import PARTITIONS, standardise
from rlsuite.errors import UserError

CASES = [(family, name) for family, parts in PARTITIONS.items() for name in parts]
make_cheetah = functools.partial(MultiAgentMujoco, "HalfCheetah-v5", "2x3")


@pytest.mark.parametrize(("family", "partition"), CASES)
def test_every_actuator_has_one_agent(family, partition):
    owned = [i for own in PARTITIONS[family][partition] for i in own]
    (count,) = gym.make(f"{family}-v5").action_space.shape
    assert sorted(owned) == list(range(count))


@pytest.mark.parametrize(
    ("task", "partition", "order"),
    [
        ("Walker2d-v5", "2x3", [2, 1, 0, 5, 4, 3]),
        ("Ant-v5", "2x4d", [2, 3, 0, 1, 4, 5, 6, 7]),
        ("Humanoid-v5", "9|8", [2, 0, 1, 11, 12, 13, 14, 15, 16, 3, 5, 4, 6, 7, 9, 8, 10]),
        ("HalfCheetah-v5", "3x2", [0, 1, 2, 3, 4, 5]),
    ],
)
def test_joint_actions_move_the_actuators_that_are_named(task, partition, order):
    """Section 5, rows 9 and 10: explicit indices, and nothing scaled a second time."""
    team, own = MultiAgentMujoco(task, partition), gym.make(task)
    team.reset(seed=5)
    own.reset(seed=5)
    random = np.random.default_rng(0)
    for _ in range(15):
        joint = random.uniform(own.action_space.low, own.action_space.high).astype(np.float32)
        if not team.agents:
            break
        shares = iter(joint[order])
        actions = {
            agent: np.array([next(shares) for _ in range(team.action_space(agent).shape[0])])
            for agent in team.agents
        }
        observations, rewards, terminated, truncated, _ = team.step(actions)
        expected, reward, ended, cut, _ = own.step(joint)
        np.testing.assert_array_equal(team.env.unwrapped.data.ctrl, joint)
        np.testing.assert_array_equal(team.env.unwrapped.data.qpos, own.unwrapped.data.qpos)
        assert set(rewards.values()) == {reward}
        assert set(terminated.values()) == {ended} and set(truncated.values()) == {cut}
        np.testing.assert_array_equal(team.state(), standardise(expected))
        for i, agent in enumerate(observations):
            full = np.concatenate([expected, np.eye(len(observations))[i]])
            by_hand = ((full - np.mean(full)) / np.std(full)).astype(np.float32)
            np.testing.assert_allclose(observations[agent], by_hand, rtol=1e-6)


def test_bounds_are_the_actuators_own():
    """Section 5, row 9: a humanoid's torques reach 0.4, not 0.16."""
    env = MultiAgentMujoco("Humanoid-v5", "9|8")
    assert env.action_space("agent_0") == spaces.Box(-0.4, 0.4, (9,), np.float32)
    actions = {agent: env.action_space(agent).high for agent in env.possible_agents}
    env.reset(seed=0)
    env.step(actions)
    np.testing.assert_array_equal(env.env.unwrapped.data.ctrl, np.full(17, np.float32(0.4)))


def test_standardise():
    np.testing.assert_allclose(standardise(np.array([1.0, 3.0])), [-1, 1])
    assert standardise(np.full(3, 2.0)).tolist() == [0, 0, 0]
    assert standardise(np.arange(5.0)).dtype == np.float32


def test_a_team_of_equal_rewards_that_is_truncated_together():
    env = make_env(
        "rlsuite.envs:MultiAgentMujoco", kwargs={"task": "HalfCheetah-v5", "partition": "6x1"}
    )
    assert isinstance(env, TeamEnv) and "alive" not in env.observation_space.spaces
    env.reset(seed=0)
    env.action_space.seed(0)
    for step in range(1, 1001):
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        assert (terminated, truncated) == (False, step == 1000)
    assert env.env.agents == []
    hopper = TeamEnv(MultiAgentMujoco("Hopper-v5", "3x1"))
    hopper.reset(seed=0)
    ends = (False, False)
    while not any(ends):
        ends = hopper.step(hopper.action_space.sample())[2:4]
    assert ends == (True, False)


def test_protocol():
    check_parallel_env(make_cheetah(), steps=30)
    parallel = pytest.importorskip("pettingzoo.test")
    parallel.parallel_api_test(make_cheetah(), num_cycles=50)
    parallel.parallel_seed_test(make_cheetah, num_cycles=10)


def test_mistakes():
    with pytest.raises(UserError, match="no partition '2x2' of 'HalfCheetah-v5'; known are: Half"):
        MultiAgentMujoco("HalfCheetah-v5", "2x2")
    with pytest.raises(UserError, match="no partition '2x3' of 'Pendulum-v1'"):
        MultiAgentMujoco("Pendulum-v1", "2x3")
