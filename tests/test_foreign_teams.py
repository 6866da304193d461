"""The examples' adapters of SMAC, football and LAG, on stand-ins with those interfaces."""

import numpy as np
import pytest
import standins
from adapter_cases import train_hasac

from rlsuite.envs import TeamEnv, check_parallel_env, is_resumable, make_env
from rlsuite.errors import UserError

MAKERS = [standins.make_smac, standins.make_football, standins.make_air_combat]
EVERY = pytest.mark.parametrize("make", MAKERS)


@EVERY
def test_protocol(make):
    check_parallel_env(make())
    assert is_resumable(lambda: TeamEnv(make()), 3)
    team = TeamEnv(make())
    team.close()
    assert team.env.env.is_closed
    parallel = pytest.importorskip("pettingzoo.test")
    parallel.parallel_api_test(make(), num_cycles=40)
    if make is not standins.make_smac:  # of which the seed test takes actions that are not there
        parallel.parallel_seed_test(make, num_cycles=20)


@pytest.mark.parametrize("name", ["smac_team", "football_team", "air_combat_team"])
def test_an_adapter_is_short(name):
    text = (standins.EXAMPLES / f"{name}.py").read_text().split('"""')[2]
    assert sum(bool(line.strip()) for line in text.splitlines()) < 50


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("smac", {"map_name": "3m"}),
        ("football", {"env_name": "a", "players": 2}),
        ("air_combat", {"config": "a"}),
    ],
)
def test_a_game_that_is_not_installed_is_named(name, kwargs, monkeypatch):
    monkeypatch.syspath_prepend(standins.EXAMPLES)
    with pytest.raises(UserError, match=f"environment '{name}_team:make': (No module|import)"):
        make_env(f"{name}_team:make", kwargs=kwargs)


@EVERY
def test_hasac_trains(make, tmp_path):
    train_hasac(tmp_path / "run", id=f"standins:{make.__name__}")


def all_do(env, choose):
    """Step with ``choose(agent number, mask)``; what the step brought."""
    masks = env.observation.get("mask", {})
    actions = {name: choose(i, masks.get(name)) for i, name in enumerate(env.observation["agents"])}
    env.observation, *rest = env.step(actions)
    return env.observation, *rest[:3]


def begin(name, seed=0, **kwargs):
    env = make_env(f"standins:{name}", kwargs=kwargs)
    env.observation, _ = env.reset(seed=seed)
    return env


def stop(_, mask):
    return 1 if mask[1] else 0


def test_smac_masks_deaths_and_the_limit():
    env = begin("make_smac")
    assert env.observation["mask"]["unit_0"].tolist() == [0, 1, 0, 0, 1, 0, 0, 0]
    assert env.observation["mask"]["unit_2"].tolist() == [0, 1, 0, 0, 1, 1, 1, 1]
    assert env.observation["agents"]["unit_2"].tolist() == [2, 3, 4, 4]
    assert env.observation["state"].tolist() == [1, 2, 3, 4, 4]
    for _ in range(5):
        observation, reward, terminated, truncated = all_do(env, stop)
        assert (reward, terminated, truncated) == (0, False, False)
    observation, *_ = all_do(env, stop)  # the third shot kills unit_2
    assert observation["alive"].tolist() == [1, 1, 0]
    assert observation["mask"]["unit_2"].tolist() == [1] + [0] * 7
    assert not observation["agents"]["unit_2"].any()
    for _ in range(3):
        observation, _, terminated, truncated = all_do(env, stop)
    assert (terminated, truncated) == (False, True)
    assert observation["alive"].tolist() == [1, 1, 0]


def test_smac_victory_and_crash():
    def attack(_, mask):
        return 6 + int(mask[6:].argmax()) if mask[6:].any() else 4

    rewards = []
    for limit in (5, 4):  # unit_1 comes in range with one step; unit_0 dies at the second
        env = begin("make_smac", limit=limit)
        for _ in range(limit):
            _, reward, *ends = all_do(env, attack)
            rewards.append(reward)
        assert ends == [limit == 5, limit == 4]  # won at the last step that there is, or late
    assert rewards == [1, 2, 1, 2, 12, 1, 2, 1, 2]
    env = begin("make_smac", crash_at=2)
    all_do(env, stop)
    assert all_do(env, stop)[1:] == (0, False, True)


def test_football_ends():
    env = begin("make_football", duration=5)
    assert env.observation["agents"]["player_1"].shape == (115,) and "alive" not in env.observation
    assert env.observation["agents"]["player_1"][97:100].tolist() == [0, 1, 0]
    for _ in range(5):
        assert env.observation["state"].shape == (230,)
        _, reward, terminated, truncated = all_do(env, lambda i, _: 9)
    assert (reward, terminated, truncated) == (0, False, True)
    env = begin("make_football", duration=50)
    ends = [all_do(env, lambda i, _: 18)[1:] for _ in range(3 - env.env.env.ball)]
    assert ends[-1] == (1, True, False) and ends[0] == (0, False, False)


def test_air_combat_deaths_and_ends():
    def fly(down):
        return lambda i, _: np.array([2 if i in down else 1, 2, 1])

    env = begin("make_air_combat")
    height = env.env.env.height.copy()
    assert env.observation["state"].shape == (12,) and len(env.observation["agents"]) == 2
    for _ in range(int(height[1])):
        assert env.observation["alive"].tolist() == [1, 1]
        observation, reward, *_ = all_do(env, fly({1}))
    assert observation["alive"].tolist() == [1, 0]
    assert reward == height[0] / 2  # the opponents keep theirs, and do not count
    while env.env.env.current_step < 6:
        observation, _, terminated, truncated = all_do(env, fly(()))
    assert (terminated, truncated) == (False, True)
    assert observation["alive"].tolist() == [1, 0]
    env = begin("make_air_combat")
    ends = [all_do(env, fly({0, 1}))[2:] for _ in range(int(env.env.env.height[:2].max()))]
    assert ends[-1] == (True, False)


def test_a_crash_at_the_last_step_is_no_truncation():
    env = begin("make_air_combat")
    env.env.env.max_steps = int(env.env.env.height[:2].max())
    for _ in range(env.env.env.max_steps):
        *_, terminated, truncated = all_do(env, lambda i, _: np.array([2, 2, 1]))
    assert (terminated, truncated) == (True, False)


def test_air_combat_is_won_against_an_opponent():
    seen = []

    def sink(views):
        seen.append(views)
        return np.array([[2, 2, 1]] * len(views))

    env = TeamEnv(standins.AirCombatTeam(standins.AirCombat(), sink))
    env.observation, _ = env.reset(seed=1)
    enemies = env.env.env.height[2:].copy()
    ends = [all_do(env, lambda i, _: np.array([1, 2, 1]))[2:] for _ in range(int(enemies.max()))]
    assert ends[-1] == (True, False) and not any(map(any, ends[:-1]))
    np.testing.assert_array_equal(seen[0][:, 0], enemies)
