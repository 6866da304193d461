"""Environments of several agents as one: layout, deaths, masks, ends, rewards, resume."""

import functools
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from test_vector import same_bits, same_step
from toy_teams import FATES, NAMES, MixedTeam, PairTuple, broken, drop, make_mixed

from rlsuite.buffers import Replay, UniformSampler
from rlsuite.envs import (
    NormalizedVectorEnv,
    ObsNorm,
    SerialVectorEnv,
    TeamEnv,
    WorkerVectorEnv,
    check_parallel_env,
    is_resumable,
    make_env,
)
from rlsuite.envs.layout import ActionCodec
from rlsuite.envs.tuple_env import TupleEnv
from rlsuite.errors import UserError


def act(env):
    """Some action that is available to everybody."""
    pick = 1 + int(env.env.pick_mask().argmax())
    multi = env.env.multi_mask()
    first, second = multi[:3].argmax(), 5 + multi[3:].argmax()
    return {
        "z_box": np.zeros(2, np.float32),
        "a_pick": pick,
        "m_multi": np.array([first, second]),
    }


def test_spaces_keep_the_order_of_agents_and_are_not_padded():
    """Section 5, row 13 of the specification: mixed spaces in one team."""
    env = make_mixed()
    assert list(env.observation_space.spaces) == ["agents", "state", "mask", "alive"]
    agents = env.observation_space["agents"]
    assert list(agents.spaces) == list(env.action_space.spaces) == NAMES
    assert agents["z_box"] == spaces.Box(-np.inf, np.inf, (3,), np.float32)
    assert agents["a_pick"] == spaces.Discrete(7, start=2)
    assert agents["m_multi"] == spaces.Box(0, 255, (2, 2), np.uint8)  # without its mask
    assert env.observation_space["state"] == spaces.Box(-np.inf, np.inf, (14,), np.float32)
    assert env.observation_space["mask"] == spaces.Dict(
        a_pick=spaces.MultiBinary(4), m_multi=spaces.MultiBinary(5)
    )
    assert env.observation_space["alive"] == spaces.MultiBinary(3)
    envs = SerialVectorEnv(make_mixed, 2)
    obs, action = envs.reset(), envs.sample_actions()
    assert {k: v.shape for k, v in obs["agents"].items()} == {
        "z_box": (2, 3),
        "a_pick": (2,),
        "m_multi": (2, 2, 2),
    }
    assert [(k, v.dtype, v.shape) for k, v in action.items()] == [
        ("z_box", torch.float32, (2, 2)),
        ("a_pick", torch.int64, (2,)),
        ("m_multi", torch.int64, (2, 2)),
    ]


def test_a_dead_agent_and_a_truncated_end_by_hand():
    env = make_mixed(FATES)
    first, _ = env.reset(seed=3)
    assert env.observation_space.contains(first)
    assert first["alive"].tolist() == [1, 1, 1]
    one_hot, image, total = [1, 0, 0, 0, 0, 0, 0], [10] * 4, first["agents"]["z_box"][2]
    np.testing.assert_array_equal(first["state"], [0, 1, total, *one_hot, *image])
    env.step(act(env))
    dead, reward, terminated, truncated, _ = env.step(act(env))
    assert reward == 1 + 2 + 3 + 3 * 2 / 8  # it was alive before the step
    assert (terminated, truncated) == (False, False)
    assert dead["alive"].tolist() == [0, 1, 1] and dead["agents"]["z_box"].tolist() == [0, 0, 0]
    np.testing.assert_array_equal(dead["state"][:10], [0, 0, 0, 0, 0, 1, 0, 0, 0, 0])
    _, reward, *_ = env.step(act(env))  # an action of z_box is given, and must not get through
    assert reward == 2 + 3 + 2 * 3 / 8
    last, _, terminated, truncated, _ = env.step(act(env))
    assert (terminated, truncated) == (False, True)
    assert last["alive"].tolist() == [0, 1, 1]  # one bootstraps from those that were cut
    assert last["agents"]["a_pick"] == 6
    assert last["agents"]["m_multi"].tolist() == [[14, 14], [14, 14]]


def test_dead_agents_are_left_with_their_first_action():
    fates = {"z_box": (4, "cut"), "a_pick": (1, "end"), "m_multi": (2, "end")}
    env = make_mixed(fates)
    env.reset(seed=0)
    observation, *_ = env.step(act(env))
    assert observation["mask"]["a_pick"].tolist() == [1, 0, 0, 0]
    assert observation["agents"]["a_pick"] == 2  # the first value of its space
    assert observation["mask"]["m_multi"].tolist() == [0, 1, 1, 1, 0]
    observation, *_ = env.step(act(env))
    assert observation["mask"]["m_multi"].tolist() == [1, 0, 0, 1, 0]
    assert not observation["agents"]["m_multi"].any()
    envs = SerialVectorEnv(functools.partial(make_mixed, fates), 1)
    envs.reset()
    envs.step(envs.sample_actions())
    assert {int(envs.sample_actions()["a_pick"]) for _ in range(20)} == {1}


@pytest.mark.parametrize(
    ("fates", "terminated", "alive"),
    [
        ({"z_box": (2, "end"), "a_pick": (2, "end"), "m_multi": (2, "end")}, True, [0, 0, 0]),
        ({"z_box": (2, "cut"), "a_pick": (2, "cut"), "m_multi": (2, "cut")}, False, [1, 1, 1]),
        ({"z_box": (2, "end"), "a_pick": (2, "cut"), "m_multi": (2, "end")}, False, [0, 1, 0]),
        ({"z_box": (2, "both"), "a_pick": (2, "both"), "m_multi": (2, "both")}, True, [0, 0, 0]),
        # An agent that was cut earlier is as good as dead: nothing is left to act for.
        ({"z_box": (1, "cut"), "a_pick": (2, "end"), "m_multi": (2, "end")}, True, [0, 0, 0]),
        ({"z_box": (1, "end"), "a_pick": (1, "end"), "m_multi": (2, "cut")}, False, [0, 0, 1]),
    ],
)
def test_how_an_episode_ends(fates, terminated, alive):
    env = make_mixed(fates)
    env.reset(seed=0)
    *_, ended, cut, _ = env.step(act(env))
    assert not ended and not cut
    last, _, ended, cut, _ = env.step(act(env))
    assert (ended, cut) == (terminated, not terminated)
    assert last["alive"].tolist() == alive
    # Nobody bootstraps from a terminated end: its observation is the true one of all that acted.
    is_seen = fates["z_box"] == (2, "cut") or (terminated and fates["z_box"][0] == 2)
    assert bool(last["agents"]["z_box"].any()) == is_seen


def test_final_masks_are_the_true_ones_at_episode_ends():
    """Section 5, row 5: the mask of the reset must not stand beside the final observation."""
    fates = dict.fromkeys(NAMES, (1, "cut"))
    envs = SerialVectorEnv(functools.partial(make_mixed, fates), 2)
    envs.reset()
    new = envs.step(envs.sample_actions())
    assert new.step.truncated.all()
    assert new.step.next_obs["mask"]["a_pick"].tolist() == [[1, 1, 0, 0]] * 2
    assert new.step.next_obs["mask"]["m_multi"].tolist() == [[0, 1, 1, 1, 0]] * 2
    assert new.obs["mask"]["a_pick"].tolist() == [[1, 0, 0, 1]] * 2
    assert new.obs["mask"]["m_multi"].tolist() == [[1, 1, 0, 0, 1]] * 2


def test_a_time_limit_also_ends_with_the_true_masks():
    make = lambda: gym.wrappers.TimeLimit(make_mixed(dict.fromkeys(NAMES, (9, "end"))), 1)  # noqa: E731
    envs = SerialVectorEnv(make, 1)
    envs.reset()
    new = envs.step(envs.sample_actions())
    assert new.step.truncated.all() and new.step.next_obs["alive"].tolist() == [[1, 1, 1]]
    assert new.step.next_obs["mask"]["a_pick"].tolist() == [[1, 1, 0, 0]]


def test_death_flags_are_cleared_per_environment():
    """Section 5, row 4: the end of one environment must not revive the dead of another."""
    fates = iter(
        [
            dict.fromkeys(NAMES, (2, "end")),
            {**dict.fromkeys(NAMES, (5, "end")), "z_box": (1, "end")},
        ]
    )
    envs = SerialVectorEnv(lambda: make_mixed(next(fates)), 2)
    envs.reset()
    alive = [envs.step(envs.sample_actions()).obs["alive"].tolist() for _ in range(5)]
    assert alive[0] == [[1, 1, 1], [0, 1, 1]]
    assert alive[1] == [[1, 1, 1], [0, 1, 1]]  # the first one began anew
    assert alive[3] == [[1, 1, 1], [0, 1, 1]]
    assert alive[4] == [[1, 1, 1], [1, 1, 1]]  # and now the second


@pytest.mark.parametrize(
    ("rule", "rewards"), [("sum", [6.375, 5.5]), ("mean", [6.375 / 3, 5.5 / 3])]
)
def test_team_rewards_count_every_agent(rule, rewards):
    """Section 5, row 11: not the first agent's reward alone. The dead count 0."""
    env = TeamEnv(MixedTeam({**FATES, "z_box": (1, "end")}), rule)
    env.reset(seed=0)
    assert [env.step(act(env))[1] for _ in range(2)] == pytest.approx(rewards)


def test_shared_rewards_must_be_equal():
    env = TeamEnv(MixedTeam(FATES))
    env.reset(seed=0)
    with pytest.raises(UserError) as error:
        env.step(act(env))
    assert str(error.value) == (
        "the agents' rewards differ (z_box: 1.125, a_pick: 2.125, m_multi: 3.125), and a team has "
        'one: set team_reward (in env.kwargs) to "sum" or "mean"'
    )
    envs = SerialVectorEnv(lambda: TeamEnv(MixedTeam(FATES)), 1)
    envs.reset()
    with pytest.raises(UserError, match=r"the agents' rewards differ \(z_box: 1.125"):
        envs.step(envs.sample_actions())
    with pytest.raises(UserError, match=r"team_reward must be one of"):
        TeamEnv(MixedTeam(), "first")


def test_random_actions_are_uniform_among_the_available_ones():
    envs = SerialVectorEnv(functools.partial(make_mixed, dict.fromkeys(NAMES, (3, "cut"))), 4)
    envs.reset()
    draws = [envs.sample_actions() for _ in range(1500)]
    pick = torch.stack([d["a_pick"] for d in draws]).ravel()
    multi = torch.stack([d["m_multi"] for d in draws]).reshape(-1, 2)
    # 6,000 draws: a share of one half has a deviation of 0.0065.
    assert set(pick.tolist()) == {1, 4} and abs((pick == 1).double().mean() - 0.5) < 0.03
    assert set(multi[:, 0].tolist()) == {0, 1} and set(multi[:, 1].tolist()) == {6}
    assert abs(multi[:, 0].double().mean() - 0.5) < 0.03
    box = torch.stack([d["z_box"] for d in draws]).reshape(-1, 2)
    # Section 5, row 8: bounds that are not symmetric are used from end to end.
    assert torch.allclose(box.amin(0), torch.tensor([-2.0, 0]), atol=0.01)
    assert torch.allclose(box.amax(0), torch.tensor([0, 5.0]), atol=0.01)


def test_discrete_actions_without_masks_are_uniform_from_their_start():
    space = spaces.Dict(
        a=spaces.Discrete(3, start=7), b=spaces.MultiDiscrete([2, 3], start=[5, -1])
    )
    action = ActionCodec(space, 3000).sample(torch.Generator().manual_seed(0))
    for draws, values in (
        (action["a"], {7, 8, 9}),
        (action["b"][:, 0], {5, 6}),
        (action["b"][:, 1], {-1, 0, 1}),
    ):
        counts = [int((draws == value).sum()) for value in values]
        assert sum(counts) == 3000 and min(counts) > 3000 / len(values) - 130


@given(st.integers(1, 3), st.integers(0, 2**31), st.booleans())
@settings(max_examples=30, deadline=None)
def test_joint_actions_survive_their_encoding(num_envs, seed, is_wide):
    space = spaces.Dict(
        z=spaces.Box(-3, 7, (2, 2), np.float64 if is_wide else np.float32),
        pick=spaces.Discrete(2**40, start=-5),
        many=spaces.MultiDiscrete([3, 2**31]),
        scalar=spaces.Box(-1, 1, (), np.float32),
    )
    codec = ActionCodec(space, num_envs)
    action = codec.sample(torch.Generator().manual_seed(seed))
    array = codec.encode(action)
    assert array.shape == codec.shape and array.dtype == codec.dtype
    for env, given_action in enumerate(codec.decode(array)):
        assert list(given_action) == list(space.spaces) and type(given_action["pick"]) is int
        assert space.contains(given_action)
        for name, value in given_action.items():
            np.testing.assert_array_equal(value, action[name][env].numpy())


def test_mistakes_in_joint_actions():
    codec = ActionCodec(spaces.Dict(a=spaces.Discrete(2), b=spaces.Box(0, 1, (1,))), 2)
    right = {"a": torch.zeros(2, dtype=torch.int64), "b": torch.zeros(2, 1)}
    for wrong, message in (
        ({"a": right["a"]}, r"the keys \['a', 'b'\], not \['a'\]"),
        (right["b"], r"the keys \['a', 'b'\], not Tensor"),
        ({**right, "a": torch.zeros(2)}, "must be integers"),
        ({**right, "b": torch.zeros(1, 2)}, r"shape \(2, 1\), not \(1, 2\)"),
    ):
        with pytest.raises(ValueError, match=message):
            codec.encode(wrong)
    for space in (spaces.MultiDiscrete([2, 2]), spaces.Dict(a=spaces.MultiBinary(2))):
        with pytest.raises(UserError, match="is not supported; supported are Box of floats"):
            ActionCodec(space, 2)


def test_resume_is_exact_at_every_step():
    """Mixed spaces, masks, deaths and both kinds of end, three environments."""
    envs = SerialVectorEnv(make_mixed, 3, seed=8)
    envs.reset()
    ends, deaths = torch.zeros(2), 0
    for _ in range(25):
        resumed = SerialVectorEnv(make_mixed, 3, seed=99)
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            resumed.load_state_dict(envs.state_dict())
        assert same_bits(resumed.observe(), envs.observe())
        actions = envs.sample_actions()
        assert same_bits(actions, resumed.sample_actions())
        new = envs.step(actions)
        assert same_step(new, resumed.step(actions))
        ends += torch.stack([new.step.terminated.sum(), new.step.truncated.sum()])
        deaths += int((new.obs["alive"] == 0).sum())
    assert ends.min() > 2 and deaths > 10


def test_workers_step_teams_as_one_process_does():
    serial, workers = (
        SerialVectorEnv(make_mixed, 3, 5),
        WorkerVectorEnv(make_mixed, 3, 5, workers=1),
    )
    try:
        assert same_bits(serial.reset(), workers.reset())
        for _ in range(30):
            actions = serial.sample_actions()
            assert same_bits(actions, workers.sample_actions())
            assert same_step(serial.step(actions), workers.step(actions))
    finally:
        workers.close()


def test_replay_stores_teams():
    envs = SerialVectorEnv(make_mixed, 2, 5)
    envs.reset()
    replay = Replay(64, UniformSampler(0), num_envs=2, discount=0.9)
    steps = [envs.step(envs.sample_actions()).step for _ in range(10)]
    for step in steps:
        replay.add(step)
    batch = replay.sample(200)
    rows = {tuple(row.tolist()) for step in steps for row in step.action["z_box"]}
    assert {tuple(row.tolist()) for row in batch.action["z_box"]} == rows
    assert (batch.next_obs["mask"]["a_pick"].sum(1) >= 1).all()
    assert batch.obs["alive"].shape == (200, 3) and batch.obs["alive"].dtype == torch.int8


def test_is_resumable_plays_available_actions():
    assert is_resumable(make_mixed, seed=3, steps=60)

    class Forgetful(MixedTeam):
        def reset(self, seed=None, options=None):
            return super().reset()

    assert not is_resumable(lambda: TeamEnv(Forgetful(), "sum"), seed=3)


def test_make_env_wraps_teams():
    env = make_env("toy_teams:MixedTeam", kwargs={"team_reward": "mean", "fates": FATES})
    assert isinstance(env, TeamEnv)
    env.reset(seed=0)
    assert env.step(act(env))[1] == pytest.approx(6.375 / 3)
    with pytest.raises(UserError, match="is no team: it has one agent, 'ally_0'"):
        make_env("rlsuite.envs:Skirmish", kwargs={"n": 1})
    limited = make_env("toy_teams:MixedTeam", time_limit=3)
    assert isinstance(limited, gym.wrappers.TimeLimit)
    with pytest.raises(UserError, match="has one agent: team_reward is for several"):
        make_env("Pendulum-v1", kwargs={"team_reward": "sum"})


def test_what_breaks_the_protocol_is_named():
    class NoMask(MixedTeam):
        def infos(self):
            return super().infos() if self.time == 0 else {}

    class AllZero(MixedTeam):
        def multi_mask(self):
            mask = super().multi_mask()
            mask[:3] *= self.time == 0
            return mask

    class Missing(MixedTeam):
        def observations(self):
            return {a: o for a, o in super().observations().items() if self.time == 0}

    class Short(MixedTeam):
        def observations(self):
            own = super().observations()
            return own if self.time == 0 else {**own, "z_box": np.zeros(1, np.float32)}

    class Rewards(MixedTeam):
        value: object = np.ones(1)

        def step(self, actions):
            observations, rewards, *rest = super().step(actions)
            return observations, dict.fromkeys(rewards, self.value), *rest

    class Words(Rewards):
        value = "one"

    class NaN(Rewards):
        value = float("nan")

    for team, message in (
        (Rewards, r"the reward of agent z_box is array\(\[1.\]\), not a finite number"),
        (Words, "the reward of agent z_box is 'one', not a finite number"),
        (NaN, "the reward of agent z_box is nan, not a finite number"),
        (NoMask, r"the action mask of agent a_pick is none, but .* needs \(4,\)"),
        (AllZero, "no action is available to agent m_multi"),
        (Missing, "no observation of agent z_box, only of .*check_parallel_env"),
        (Short, r"the observation of agent z_box has shape \(1,\), its space \(3,\)"),
    ):
        env = TeamEnv(team(FATES), "sum")
        env.reset(seed=0)
        with pytest.raises(UserError, match=message):
            env.step(act(env))
    env = MixedTeam(FATES)
    env.metadata = {"agents_die": False}
    team = TeamEnv(env, "sum")
    assert "alive" not in team.observation_space.spaces
    team.reset(seed=0)
    team.step(act(team))
    with pytest.raises(UserError, match="an agent left before the others"):
        team.step(act(team))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda r: r[:4],
            r"a tuple of 4, not \(observations, rewards, terminated, truncated, infos",
        ),
        (list, "list, not "),
        (lambda r: (r[0], 1.0, *r[2:]), "float as rewards, not a dict by agent: check the env"),
        (lambda r: (*r[:4], None), "NoneType as infos, not a dict by agent"),
        (lambda r: (*r[:4], dict.fromkeys(r[4])), "info of agent z_box is NoneType, not a dict"),
    ],
)
def test_steps_that_return_something_else_are_named(change, message):
    env = TeamEnv(broken("step", lambda _, results: change(results), FATES), "sum")
    env.reset(seed=0)
    with pytest.raises(UserError, match=message):
        env.step(act(env))


@pytest.mark.parametrize(
    ("returned", "found"), [({}, "dict"), (({},), "a tuple of 1"), ([{}, {}], "list")]
)
def test_resets_that_return_something_else_are_named(returned, found):
    with pytest.raises(UserError, match=rf"reset returned {found}, not \(observations, infos"):
        TeamEnv(broken("reset", lambda *_: returned), "sum")


def test_an_agent_without_a_first_observation_is_named():
    with pytest.raises(UserError, match=r"no observation of agent m_multi, only of .*a_pick"):
        TeamEnv(broken("observations", lambda self, o: drop(0, "m_multi")(self, [o])[0]), "sum")


def test_a_reset_without_agents_is_named():
    def empty(team, results):
        team.agents = []
        return results

    with pytest.raises(UserError, match="no agents after reset; there may be"):
        TeamEnv(broken("reset", empty), "sum").reset(seed=0)


def test_a_late_joiner_is_absent_until_it_comes():
    class Late(MixedTeam):
        def reset(self, seed=None, options=None):
            observations, infos = super().reset(seed)
            self.agents.remove("z_box")
            return observations, infos

        def step(self, actions):
            results = super().step(actions)
            if self.time == 1:
                self.agents.insert(0, "z_box")
                results[0]["z_box"] = np.ones(3, np.float32)
            return results

    env = TeamEnv(Late(FATES), "sum")
    observation, _ = env.reset(seed=0)
    assert observation["alive"].tolist() == [0, 1, 1] and not observation["agents"]["z_box"].any()
    observation, reward, *_ = env.step(act(env))
    assert reward == 2 + 3 + 2 / 8 and observation["alive"].tolist() == [1, 1, 1]
    assert observation["agents"]["z_box"].tolist() == [1, 1, 1]


def test_tuple_spaces_are_teams():
    env = TeamEnv(TupleEnv(PairTuple()), "sum")
    observation, _ = env.reset(seed=0)
    assert observation["agents"]["agent_1"].tolist() == [0, 1] and "alive" not in observation
    observation, reward, *ends, _ = env.step({"agent_0": 2, "agent_1": 4})
    assert reward == 6 and ends == [False, False]
    assert observation["state"].tolist() == [1, 0, 1, 1]
    env.step({"agent_0": 0, "agent_1": 0})
    assert env.step({"agent_0": 1, "agent_1": 0})[1:4] == (1, True, False)
    check_parallel_env(TupleEnv(PairTuple()))
    parallel = pytest.importorskip("pettingzoo.test")
    parallel.parallel_api_test(TupleEnv(PairTuple()), num_cycles=10)
    parallel.parallel_seed_test(lambda: TupleEnv(PairTuple()), num_cycles=10)


def test_tuples_are_wanted():
    with pytest.raises(UserError, match="must be Tuples of one length"):
        TupleEnv(gym.make("CartPole-v1"))


@pytest.mark.parametrize("env_id", ["lbforaging:Foraging-8x8-2p-2f-v3", "rware:rware-tiny-2ag-v2"])
def test_registered_tuple_environments(env_id):
    pytest.importorskip(env_id.split(":")[0])
    make = functools.partial(make_env, env_id, time_limit=30, kwargs={"team_reward": "sum"})
    assert all(is_resumable(make, seed) for seed in range(3))
    team, own = make(), gym.make(env_id, disable_env_checker=True)
    team.reset(seed=4)
    own.reset(seed=4)
    for t in range(30):
        team.action_space.seed(t)
        actions = team.action_space.sample()
        observation, reward, _, truncated, _ = team.step(actions)
        own_observation, rewards, *_ = own.step(list(actions.values()))
        for seen, expected in zip(observation["agents"].values(), own_observation, strict=True):
            np.testing.assert_array_equal(seen, expected)
        assert reward == sum(rewards)
    assert truncated


@pytest.mark.parametrize(
    "module", ["pettingzoo.butterfly.cooperative_pong_v6", "mpe2.simple_speaker_listener_v4"]
)
def test_pettingzoo_environments(module):
    parallel = pytest.importorskip(module).parallel_env
    make = functools.partial(make_env, f"{module}:parallel_env", kwargs={"team_reward": "sum"})
    env, own = make(), parallel()
    observation, _ = env.reset(seed=3)
    expected, _ = own.reset(seed=3)
    for t in range(5):
        assert list(observation["agents"]) == own.agents
        for agent in own.agents:
            np.testing.assert_array_equal(observation["agents"][agent], expected[agent])
        np.testing.assert_array_equal(observation["state"], own.state())
        env.action_space.seed(t)
        actions = env.action_space.sample()
        observation, reward, *_ = env.step(actions)
        expected, rewards, *_ = own.step(actions)
        assert reward == pytest.approx(sum(rewards.values()))
    assert is_resumable(make, 0)


def test_a_state_that_is_not_implemented_is_none():
    class Unstated(MixedTeam):
        def state(self):
            raise NotImplementedError

    class Stated(MixedTeam):
        def state(self):
            return np.array([self.time, 7], np.int16)

    assert TeamEnv(Unstated()).observation_space["state"].shape == (14,)
    env = TeamEnv(Stated(FATES), "sum")
    assert env.observation_space["state"] == spaces.Box(-(2**15), 2**15 - 1, (2,), np.int16)
    env.reset(seed=0)
    assert env.step(act(env))[0]["state"].tolist() == [1, 7]


def test_normalisation_leaves_masks_and_flags_alone():
    plain = SerialVectorEnv(make_mixed, 2, 4)
    scaled = NormalizedVectorEnv(SerialVectorEnv(make_mixed, 2, 4), ObsNorm(), None)
    assert list(scaled.spec.observation_space["agents"].spaces) == NAMES
    plain.reset()
    scaled.reset()
    for _ in range(20):
        actions = scaled.sample_actions()
        assert same_bits(actions, plain.sample_actions())
        ours, theirs = scaled.step(actions), plain.step(actions)
        for key in ("mask", "alive"):
            assert same_bits(ours.step.next_obs[key], theirs.step.next_obs[key])
        assert same_bits(ours.obs["agents"]["a_pick"], theirs.obs["agents"]["a_pick"])
        assert not same_bits(ours.obs["state"], theirs.obs["state"])


def test_turn_based_environments_are_refused():
    env = MixedTeam()
    env.agent_selection = "z_box"
    with pytest.raises(UserError, match="is turn-based"):
        TeamEnv(env)
