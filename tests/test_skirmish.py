"""The battle on a line: rules by hand, masks, deaths, views of the state, the reference."""

import functools

import numpy as np
import pytest
import torch

from rlsuite.envs import SerialVectorEnv, Skirmish, TeamEnv, check_parallel_env, is_resumable
from rlsuite.envs.skirmish import LIMIT, focus_fire
from rlsuite.errors import UserError


def placed(allies, enemies, health=3):
    """Units at these places."""
    env = Skirmish(len(allies))
    env.reset(seed=0)
    env._place = np.array([allies, enemies])
    env._health[:] = health
    return env


def test_what_is_available():
    env = placed([0, 5, 10], [2, 7, 9])
    # stay, left, right, and the enemies within two places
    assert env.mask(0).tolist() == [1, 0, 1, 1, 0, 0]
    assert env.mask(1).tolist() == [1, 1, 1, 0, 1, 0]
    assert env.mask(2).tolist() == [1, 1, 0, 0, 0, 1]
    env._health[1, 2] = env._health[0, 0] = 0
    assert env.mask(2).tolist() == [1, 1, 0, 0, 0, 0]  # it is dead
    env._place[0, 0] = 5
    assert env.mask(0).tolist() == [1, 0, 0, 0, 0, 0]  # and so am I


def test_a_round_by_hand():
    env = placed([3, 4], [5, 9])
    _, rewards, *_ = env.step({"ally_0": 3, "ally_1": 1})
    # The first enemy lost 1; it attacks the nearest, ally_0 (both are at 3 now, and it is first);
    # the second one comes nearer.
    assert set(rewards.values()) == {1.0}
    assert env._place.tolist() == [[3, 3], [5, 8]] and env._health.tolist() == [[2, 3], [2, 3]]
    # Two attacks at once on 1 of health: only what was there counts. Out of reach nothing happens.
    env._health[1, 0] = 1
    _, rewards, *_ = env.step({"ally_0": 3, "ally_1": 3})
    assert set(rewards.values()) == {1.0} and env._health[1].tolist() == [0, 3]
    before = env._place[0].tolist()
    _, rewards, *_ = env.step({"ally_0": 4, "ally_1": 4})
    assert set(rewards.values()) == {0.0} and env._place[0].tolist() == before


def test_victory_defeat_and_death():
    env = placed([3, 4], [5, 9], health=1)
    env._health[1, 1] = 0
    _, rewards, terminated, truncated, _ = env.step({"ally_0": 3, "ally_1": 0})
    assert rewards == {"ally_0": 11.0, "ally_1": 11.0}
    assert all(terminated.values()) and not any(truncated.values()) and env.agents == []
    env = placed([4, 4], [5, 9], health=1)
    _, _, terminated, _, infos = env.step({"ally_0": 0, "ally_1": 0})
    assert terminated == {"ally_0": True, "ally_1": False} and env.agents == ["ally_1"]
    assert infos["ally_1"]["action_mask"].tolist() == [1, 1, 1, 1, 0]
    _, rewards, terminated, _, _ = env.step({"ally_1": 0})
    assert rewards == {"ally_1": 0.0} and terminated == {"ally_1": True} and env.agents == []


def test_a_draw_is_truncated():
    env = placed([0], [10], health=10**6)
    for step in range(1, LIMIT + 1):
        _, _, terminated, truncated, _ = env.step({"ally_0": 0})
        assert terminated == {"ally_0": False} and truncated == {"ally_0": step == LIMIT}


def test_views_of_the_state_begin_with_oneself():
    env = placed([0, 5, 10], [2, 7, 9])
    env._health[0] = [1, 2, 3]
    enemies = [0.2, 1, 0.7, 1, 0.9, 1]
    third = 1 / 3
    for agent, allies in {
        "ally_0": [0, third, 0.5, 2 * third, 1, 1],
        "ally_1": [0.5, 2 * third, 1, 1, 0, third],
        "ally_2": [1, 1, 0, third, 0.5, 2 * third],
    }.items():
        np.testing.assert_allclose(env.state()[agent], [*allies, *enemies], rtol=1e-6)
    # What an ally observes: relative, near and alive.
    seen = env._observations()["ally_1"]
    np.testing.assert_allclose(seen[:6], [0.5, 2 * third, 0, 0, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(seen[6:], [-0.3, 1, 0.2, 1, 0.4, 1], rtol=1e-6)
    env._health[1, 1] = 0
    seen = env._observations()["ally_1"]
    np.testing.assert_allclose(seen[6:], [-0.3, 1, 0, 0, 0.4, 1], rtol=1e-6)


def play(policy, episodes=100):
    """(episodes,) wins and team returns."""
    wins, returns = [], []
    for seed in range(episodes):
        env = Skirmish(3)
        env.reset(seed=seed)
        total = 0.0
        while env.agents:
            total += next(iter(env.step(policy(env))[1].values()))
        wins.append(not env._health[1].any())
        returns.append(total)
    return np.mean(wins), np.mean(returns)


def test_focus_fire_beats_random_play():
    random = np.random.default_rng(0)

    def at_random(env):
        masks = {agent: env.mask(env.possible_agents.index(agent)) for agent in env.agents}
        return {agent: int(random.choice(np.flatnonzero(mask))) for agent, mask in masks.items()}

    wins, score = play(focus_fire)
    assert wins > 0.95 and score > 18
    wins, score = play(at_random)
    assert wins < 0.1 and 1 < score < 5


def test_as_a_team():
    envs = SerialVectorEnv(functools.partial(TeamEnv, Skirmish(3)), 1)
    obs = envs.reset()
    assert list(obs["state"]) == ["ally_0", "ally_1", "ally_2"]
    deaths = 0
    for _ in range(300):
        actions = envs.sample_actions()
        obs = envs.observe()
        for name, choice in actions.items():
            assert obs["mask"][name][0, choice[0]] == 1
        dead = obs["alive"][0] == 0
        stacked = torch.stack(list(obs["agents"].values()))[:, 0]
        assert (stacked[dead] == 0).all() and (stacked[~dead, 1] > 0).all()
        deaths += int(dead.sum())
        envs.step(actions)
    assert deaths > 50


def test_protocol():
    assert is_resumable(functools.partial(TeamEnv, Skirmish(3)), 0, steps=60)
    check_parallel_env(Skirmish(2))
    parallel = pytest.importorskip("pettingzoo.test")
    parallel.parallel_api_test(Skirmish(3), num_cycles=100)
    parallel.parallel_seed_test(Skirmish, num_cycles=20)


def test_nobody_is_no_team() -> None:
    with pytest.raises(UserError, match="needs 1 ally or more, n is 0"):
        Skirmish(0)
