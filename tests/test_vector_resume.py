"""States of vector environments: continuing is bit for bit as if never interrupted."""

import functools
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_vector import GYMNASIUM, patterns, same_bits, same_step
from toy_envs import OBSERVATION_SPACES, CountingEnv, LateDriftEnv, SampleEnv

from rlsuite.envs import SerialVectorEnv, make_env
from rlsuite.rng import derive_seed


def test_callers_and_environments_may_spoil_actions():
    # SampleEnv overwrites its actions; the caller overwrites its tensor. Replaying is still exact.
    make = functools.partial(SampleEnv, "box float32", "box")
    envs, other = SerialVectorEnv(make, 2, 3), SerialVectorEnv(make, 2, 3)
    envs.reset()
    actions = torch.zeros(2, 2)
    for _ in range(2):
        actions.copy_(envs.sample_actions())
        envs.step(actions)
        assert actions.abs().max() <= 1
        actions.fill_(55)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other.load_state_dict(envs.state_dict())


def resumed_equals_uninterrupted(make, num_envs, steps_before, steps_after, saves=1):
    envs = SerialVectorEnv(make, num_envs, seed=8)
    envs.reset()
    for _ in range(steps_before):
        envs.step(envs.sample_actions())
    resumed = envs
    beginning = SerialVectorEnv(make, num_envs, seed=8).reset()
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        for _ in range(saves):  # also a state saved right after loading
            state = resumed.state_dict()
            resumed = SerialVectorEnv(make, num_envs, seed=999)
            resumed.load_state_dict(state)
    assert same_bits(resumed.observe(), envs.observe())
    for _ in range(steps_after):
        actions = envs.sample_actions()
        assert same_bits(actions, resumed.sample_actions())
        assert same_step(envs.step(actions), resumed.step(actions))
    assert same_bits(resumed.reset(), beginning)


@given(patterns, st.integers(1, 3), st.integers(0, 30), st.integers(1, 2))
@settings(max_examples=40, deadline=None)
def test_resume_is_exact_at_any_moment(pattern, num_envs, before, saves):
    make = functools.partial(CountingEnv, pattern)
    resumed_equals_uninterrupted(make, num_envs, before, 20, saves)


@pytest.mark.parametrize(("env_id", "time_limit"), GYMNASIUM.items())
@pytest.mark.parametrize("before", [7, 38])
def test_resume_is_exact_with_gymnasium(env_id, time_limit, before):
    make = functools.partial(make_env, env_id, time_limit=time_limit)
    resumed_equals_uninterrupted(make, 2, before, 25)


@pytest.mark.parametrize("observation", OBSERVATION_SPACES)
def test_resume_is_exact_with_every_space(observation):
    make = functools.partial(SampleEnv, observation, "box asymmetric")
    resumed_equals_uninterrupted(make, 3, 9, 20)


def test_state_can_be_written_and_seconds_go_on():
    envs = SerialVectorEnv(CountingEnv, 2)
    envs.reset()
    envs.step(envs.sample_actions())
    state = envs.state_dict()

    def check(node):
        if isinstance(node, dict):
            assert all(isinstance(key, str) for key in node)
            for child in node.values():
                check(child)
        else:
            assert isinstance(node, torch.Tensor | int | float | str)

    check(state)
    for episode in state["episodes"].values():
        episode["seconds"] = 1000.0
    envs.load_state_dict(state)
    episodes = []
    while not episodes:
        episodes = envs.step(envs.sample_actions()).episodes
    assert all(1000 < e.seconds < 1100 for e in episodes)


def test_only_unfinished_episodes_are_remembered():
    envs = SerialVectorEnv(functools.partial(CountingEnv, ((4, True, False),)), 3)
    envs.reset()
    for step in range(21):
        envs.step(envs.sample_actions())
        assert len(envs._log._actions) == len(envs._log._rewards) == (step + 1) % 4


def test_state_of_another_number_of_environments():
    small, large = SerialVectorEnv(CountingEnv, 1), SerialVectorEnv(CountingEnv, 2)
    small.reset()
    with pytest.raises(ValueError, match="1 environments, not 2"):
        large.load_state_dict(small.state_dict())


def test_episode_that_cannot_be_restored_is_given_up_aloud():
    # Fifteen steps into its second episode this environment has drifted; a fresh one has not.
    make = functools.partial(LateDriftEnv, ((30, True, False),))
    envs = SerialVectorEnv(make, 2, seed=5)
    envs.reset()
    for _ in range(45):
        envs.step(envs.sample_actions())
    resumed = SerialVectorEnv(make, 2)
    with pytest.warns(RuntimeWarning, match=r"environments \[0, 1\] cannot be restored exactly"):
        resumed.load_state_dict(envs.state_dict())
    seeds = [derive_seed(5, "episode", i, 2, bits=31) for i in range(2)]
    assert resumed.observe()[:, :2].tolist() == [list(divmod(seed, 2**16)) for seed in seeds]
    assert resumed.observe()[:, 2].tolist() == [0, 0] and resumed.lost == [0, 1]
    # Restoring to another return is noticed too, and only where it is so.
    state = SerialVectorEnv(make, 2, seed=5)
    state.reset()
    state.step(state.sample_actions())
    altered = state.state_dict()
    altered["episodes"]["1"]["rewards"] += 1
    with pytest.warns(RuntimeWarning, match=r"environments \[1\] cannot"):
        resumed.load_state_dict(altered)
    assert resumed.observe()[:, 2].tolist() == [1, 0]


def test_not_resumable_begins_the_next_episodes():
    envs = SerialVectorEnv(CountingEnv, 2, seed=5, resumable=False)
    assert not envs.spec.resumable
    envs.reset()
    envs.step(envs.sample_actions())
    resumed = SerialVectorEnv(CountingEnv, 2, resumable=False)
    with pytest.warns(RuntimeWarning, match=r"environments \[0, 1\] cannot be restored"):
        resumed.load_state_dict(envs.state_dict())
    assert resumed.observe()[:, 2].tolist() == [0, 0]
    while not (episodes := resumed.step(resumed.sample_actions()).episodes):
        pass
    assert episodes[0].number == 1
