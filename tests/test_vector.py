import functools
import itertools

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_envs import (
    ACTION_SPACES,
    OBSERVATION_SPACES,
    BoxCountingEnv,
    CountingEnv,
    FailingEnv,
    MultiActionEnv,
    SampleEnv,
    WrongShapeEnv,
)

from rlsuite.envs import SerialVectorEnv, make_env
from rlsuite.errors import UserError
from rlsuite.rng import derive_seed
from rlsuite.tree import leaves
from rlsuite.types import Episode, Step, Stepped

GYMNASIUM = {
    "CartPole-v1": None,
    "Pendulum-v1": 13,
    "MountainCarContinuous-v0": 17,
    "Acrobot-v1": 11,
    "FrozenLake-v1": None,
    "Taxi-v4": 15,
    "InvertedPendulum-v5": None,
    "Hopper-v5": 12,
    "HalfCheetah-v5": 10,
}
patterns = st.lists(
    st.tuples(st.integers(1, 6), st.booleans(), st.booleans()).filter(lambda p: p[1] or p[2]),
    min_size=1,
    max_size=4,
).map(tuple)


def same_bits(a, b):
    """Equal trees, dtypes and bits."""
    a, b = dict(leaves(a)), dict(leaves(b))
    return list(a) == list(b) and all(
        a[k].dtype == b[k].dtype
        and a[k].shape == b[k].shape
        and a[k].numpy().tobytes() == b[k].numpy().tobytes()
        for k in a
    )


def trees(stepped):
    """Everything that a step brought but the episodes."""
    step = stepped.step
    ends = (step.terminated, step.truncated)
    return (step.obs, step.action, step.reward, step.next_obs, *ends, step.extra, stepped.obs)


def same_step(a, b):
    """Equal in everything but the wall time."""
    return all(same_bits(x, y) for x, y in zip(trees(a), trees(b), strict=True)) and [
        e[:4] for e in a.episodes
    ] == [e[:4] for e in b.episodes]


def to_tree(observations):
    """What the plain observations of several environments must become."""
    if isinstance(observations[0], dict):
        return {key: to_tree([o[key] for o in observations]) for key in observations[0]}
    stacked = np.stack([np.asarray(o) for o in observations])
    if np.issubdtype(stacked.dtype, np.floating):
        stacked = stacked.astype(np.float32)
    return torch.from_numpy(stacked.copy())


class Reference:
    """The same stream by the plain Gymnasium interface, one environment after the other."""

    def __init__(self, make, num_envs, seed):
        self.envs = [make() for _ in range(num_envs)]
        self.seed = seed
        self.numbers = [0] * num_envs
        self.rewards = [[] for _ in range(num_envs)]
        self.obs = to_tree([self.reset(i) for i in range(num_envs)])

    def reset(self, i):
        seed = derive_seed(self.seed, "episode", i, self.numbers[i], bits=31)
        return self.copy(self.envs[i].reset(seed=seed)[0])

    def copy(self, observation):
        if isinstance(observation, dict):
            return {key: self.copy(child) for key, child in observation.items()}
        return np.array(observation)

    def step(self, actions):
        rewards, nexts, ends, cuts, obs, episodes = [], [], [], [], [], []
        before = self.obs
        for i, (env, action) in enumerate(zip(self.envs, actions, strict=True)):
            is_box = isinstance(env.action_space, gym.spaces.Box)
            given = np.array(action, env.action_space.dtype) if is_box else int(action)
            observation, reward, terminated, truncated, _ = env.step(given)
            observation = self.copy(observation)
            self.rewards[i].append(float(reward))
            rewards.append(reward)
            nexts.append(observation)
            ends.append(terminated)
            cuts.append(truncated)
            if terminated or truncated:
                total = 0.0
                for r in self.rewards[i]:
                    total += r
                episodes.append((i, self.numbers[i], total, len(self.rewards[i])))
                self.numbers[i] += 1
                self.rewards[i] = []
                observation = self.reset(i)
            obs.append(observation)
        self.obs = to_tree(obs)
        rewards = torch.tensor(np.array(rewards, np.float64), dtype=torch.float32)
        step = Step(
            before,
            torch.from_numpy(actions),
            rewards,
            to_tree(nexts),
            torch.tensor(ends),
            torch.tensor(cuts),
        )
        return Stepped(step, self.obs, [Episode(*episode, 0.0) for episode in episodes])


def check_against_reference(make, num_envs, seed, steps):
    envs = SerialVectorEnv(make, num_envs, seed)
    reference = Reference(make, num_envs, seed)
    assert same_bits(envs.reset(), reference.obs)
    ended = 0
    for _ in range(steps):
        actions = envs.sample_actions()
        step = envs.step(actions.clone())
        assert same_step(step, reference.step(actions.numpy()))
        assert same_bits(envs.observe(), step.obs)
        ended += len(step.episodes)
    envs.close()
    return ended


@given(patterns, st.integers(1, 4), st.integers(0, 2**40))
@settings(max_examples=60, deadline=None)
def test_stream_equals_plain_loop(pattern, num_envs, seed):
    ended = check_against_reference(functools.partial(CountingEnv, pattern), num_envs, seed, 30)
    assert ended >= 30 // max(length for length, _, _ in pattern)


@pytest.mark.parametrize("observation", OBSERVATION_SPACES)
def test_observation_spaces(observation):
    make = functools.partial(SampleEnv, observation, "discrete start")
    assert check_against_reference(make, 3, 5, 40) > 5


@pytest.mark.parametrize("action", ACTION_SPACES)
def test_action_spaces(action):
    assert check_against_reference(functools.partial(SampleEnv, "dict", action), 3, 6, 40) > 5


@pytest.mark.parametrize(("env_id", "time_limit"), GYMNASIUM.items())
def test_gymnasium_environments_equal_plain_loop(env_id, time_limit):
    make = functools.partial(make_env, env_id, time_limit=time_limit)
    ended = check_against_reference(make, 2, 3, 60)
    assert ended > 0 or env_id == "Acrobot-v1"


def test_tree_has_the_keys_and_dtypes_of_the_space():
    obs = SerialVectorEnv(functools.partial(SampleEnv, "dict"), 2).reset()
    found = {path: (leaf.dtype, tuple(leaf.shape)) for path, leaf in leaves(obs)}
    assert list(found.items()) == [
        ("z", (torch.float32, (2, 2, 2))),
        ("a/bits", (torch.int8, (2, 2))),
        ("a/id", (torch.int64, (2,))),
        ("image", (torch.uint8, (2, 2, 2, 1))),
    ]


def test_true_successor_and_next_beginning():
    # Environment 0 and 1 by hand: episodes of two steps, cut; the successor has step 2, what is
    # acted on next has step 0 and another seed. (CleanRL, #499: with Gymnasium 1.0 code that reads
    # infos["final_observation"] stops or stores the reset as a transition. No autoreset is used.)
    envs = SerialVectorEnv(functools.partial(CountingEnv, ((2, False, True),)), 2, seed=11)
    first = envs.reset()
    extra = {"entropy": torch.tensor([0.5, 0.25])}
    new = envs.step(torch.tensor([1, 2]), extra)
    assert new.step.obs is first and new.step.action.tolist() == [1, 2]
    assert new.step.extra is extra
    assert new.obs is new.step.next_obs and new.episodes == []
    second, new = new.obs, envs.step(torch.tensor([1, -2]))
    step = new.step
    assert step.obs is second and step.action.tolist() == [1, -2] and step.extra == {}
    assert step.next_obs[:, 2].tolist() == [2, 2] and step.next_obs[:, 3].tolist() == [2, 0]
    assert torch.equal(step.next_obs[:, :2], first[:, :2])
    assert new.obs[:, 2:].tolist() == [[0, 0], [0, 0]]
    seeds = [derive_seed(11, "episode", i, 1, bits=31) for i in range(2)]
    assert new.obs[:, :2].tolist() == [list(divmod(seed, 2**16)) for seed in seeds]
    assert step.truncated.tolist() == [True, True] and step.terminated.tolist() == [False, False]
    assert [(e.env, e.number, e.length) for e in new.episodes] == [(0, 0, 2), (1, 0, 2)]
    assert all(e.seconds > 0 for e in new.episodes)


def test_every_episode_has_its_own_seed():
    made = []

    def make():
        made.append(CountingEnv(((2, True, False),)))
        return made[-1]

    envs = SerialVectorEnv(make, 3, seed=4)
    envs.reset()
    for _ in range(8):
        envs.step(envs.sample_actions())
    seeds = [env.seeds for env in made]
    assert seeds == [[derive_seed(4, "episode", i, k, bits=31) for k in range(5)] for i in range(3)]
    assert len(set(itertools.chain(*seeds))) == 15 and max(map(max, seeds)) < 2**31


def test_reset_begins_the_stream_anew():
    envs = SerialVectorEnv(CountingEnv, 2, seed=1)
    first, actions = envs.reset(), envs.sample_actions()
    envs.step(actions)
    assert same_bits(envs.reset(), first) and same_bits(envs.sample_actions(), actions)
    other = envs.reset(seed=2)
    assert not same_bits(other, first) and not same_bits(envs.sample_actions(), actions)
    assert same_bits(envs.reset(), other)


def test_outputs_are_never_overwritten_and_aligned():
    envs = SerialVectorEnv(functools.partial(SampleEnv, "box float64", "box"), 3)
    kept = [(envs.reset(), envs.observe().clone())]
    pointers = []
    for _ in range(100):
        step = envs.step(envs.sample_actions())
        new = [tree for tree in trees(step)[2:] if len(tree)]
        kept += [(tensor, tensor.clone()) for tensor in new]
        pointers += [tensor.data_ptr() for tensor in new]
    assert all(same_bits(tensor, copy) for tensor, copy in kept)
    assert all(pointer % 64 == 0 for pointer in pointers)


@pytest.mark.parametrize("action", ACTION_SPACES)
def test_sample_actions(action):
    envs = SerialVectorEnv(functools.partial(SampleEnv, "discrete", action), 4, seed=2)
    space = envs.spec.action_space
    samples = torch.stack([envs.sample_actions() for _ in range(500)])
    is_box = isinstance(space, gym.spaces.Box)
    assert samples.dtype == (torch.float32 if is_box else torch.int64)
    assert samples.shape == (500, 4, *space.shape)
    if is_box:
        low, high = torch.tensor(space.low).float(), torch.tensor(space.high).float()
        assert bool(((samples >= low) & (samples <= high)).all())
        unit = ((samples - low) / (high - low)).flatten(0, 1)
        assert torch.allclose(unit.mean(0), torch.tensor(0.5), atol=0.03)
        assert torch.allclose(unit.var(0), torch.tensor(1 / 12), atol=0.01)
        assert unit.min() < 0.01 and unit.max() > 0.99
    else:
        values, counts = samples.unique(return_counts=True)
        assert values.tolist() == list(range(space.start, space.start + space.n))
        assert counts.min() > 500


def test_episode_limit():
    assert SerialVectorEnv(functools.partial(make_env, "Pendulum-v1"), 1).spec.episode_limit == 200
    make = functools.partial(make_env, "toy_envs:make_counting", time_limit=2)
    assert SerialVectorEnv(make, 1).spec.episode_limit == 2
    assert SerialVectorEnv(CountingEnv, 1).spec.episode_limit is None


def test_groups_and_frame_stack():
    def stacked(outer):
        env = gym.wrappers.FrameStackObservation(make_env("toy_envs:make_counting"), 3)
        return outer(gym.wrappers.RecordEpisodeStatistics(env))

    spec = SerialVectorEnv(CountingEnv, 3).spec
    assert spec.num_envs == spec.group_size == 3 and spec.frame_stack == 1
    assert SerialVectorEnv(lambda: stacked(lambda env: env), 1).spec.frame_stack == 3
    assert (
        SerialVectorEnv(lambda: stacked(gym.wrappers.FlattenObservation), 1).spec.frame_stack == 1
    )


def test_failing_environment_is_named_and_reset_recovers():
    envs = SerialVectorEnv(FailingEnv, 3, seed=3)
    with pytest.raises(RuntimeError, match="reset first"):
        envs.step(torch.zeros(3, dtype=torch.int64))
    first = envs.reset()
    envs.step(torch.tensor([0, 1, 0]))
    seed = derive_seed(3, "episode", 1, 0, bits=31)
    message = (
        rf"environment 1, episode 0 \(reset seed {seed}, step 1\).*ZeroDivisionError: the number"
    )
    with pytest.raises(RuntimeError, match=message):
        envs.step(torch.tensor([0, 2, 0]))
    for call in (envs.observe, envs.state_dict):
        with pytest.raises(RuntimeError, match="reset first"):
            call()
    assert same_bits(envs.reset(), first)


def test_wrong_actions_are_refused():
    envs = SerialVectorEnv(functools.partial(SampleEnv, "discrete", "discrete"), 2)
    envs.reset()
    with pytest.raises(ValueError, match=r"the shape \(2,\), not \(2, 1\)"):
        envs.step(torch.zeros(2, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match="integers"):
        envs.step(torch.zeros(2))
    with pytest.raises(ValueError, match="not dict"):
        envs.step({})
    envs.step(torch.zeros(2, dtype=torch.int32))


def test_actions_may_require_gradients():
    envs = SerialVectorEnv(functools.partial(SampleEnv, "discrete", "box"), 2)
    envs.reset()
    envs.step(torch.zeros(2, 2, requires_grad=True))


def test_unsupported_spaces_are_refused():
    with pytest.raises(UserError, match=r"Tuple\(Discrete\(32\).*not supported; supported are Box"):
        SerialVectorEnv(functools.partial(make_env, "Blackjack-v1"), 1)
    with pytest.raises(
        UserError, match=r"action space MultiDiscrete.*Box of floats, Discrete, and"
    ):
        SerialVectorEnv(MultiActionEnv, 1)
    with pytest.raises(UserError, match="unbounded Box"):
        SerialVectorEnv(BoxCountingEnv, 1).sample_actions()


def test_mistakes_of_environments_and_arguments():
    with pytest.raises(RuntimeError, match=r"environment 0.*has shape \(1,\), its space \(4,\)"):
        SerialVectorEnv(WrongShapeEnv, 1).reset()
    kinds = itertools.cycle(["discrete", "discrete start"])
    with pytest.raises(UserError, match="environment 1 has other spaces than those before it"):
        SerialVectorEnv(lambda: SampleEnv("discrete", next(kinds)), 2)
    with pytest.raises(ValueError, match="at least 1"):
        SerialVectorEnv(CountingEnv, 0)
