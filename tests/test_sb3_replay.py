"""Stable-Baselines3 with our replay: contents as theirs, and their agents train with it."""

import functools
import io

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import DQN, SAC, TD3
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.save_util import load_from_pkl, save_to_pkl

from rlsuite.buffers import ImportanceWeights, LazyRRMSampler, PrioritizedSampler, UniformSampler
from rlsuite.errors import UserError
from rlsuite.sb3_replay import SB3ReplayBuffer

OBS = gym.spaces.Box(-1, 1, (3,), np.float32)
ACT = gym.spaces.Box(-1, 1, (2,), np.float32)
PRIORITIZED = functools.partial(PrioritizedSampler, weights=ImportanceWeights())


def fill(buffers: list[ReplayBuffer], steps: int, num_envs: int, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        obs, next_obs = rng.normal(size=(2, num_envs, 3)).astype(np.float32)
        action = rng.normal(size=(num_envs, 2)).astype(np.float32)
        reward = rng.normal(size=num_envs).astype(np.float32)
        done = rng.random(num_envs) < 0.3
        cut = done & (rng.random(num_envs) < 0.5)
        infos = [{"TimeLimit.truncated": bool(c)} for c in cut]
        for buffer in buffers:
            buffer.add(obs, next_obs, action, reward, done, infos)


@pytest.mark.parametrize("num_envs", [1, 3])
def test_contents_are_those_of_theirs(num_envs: int) -> None:
    """Same stream in; every transition of theirs comes out of ours and no other, over a wrap."""
    theirs = ReplayBuffer(30, OBS, ACT, "cpu", num_envs)
    ours = SB3ReplayBuffer(30, OBS, ACT, "cpu", num_envs)
    fill([theirs, ours], 17, num_envs)
    assert ours.size() == theirs.size() and ours.full == theirs.full and ours.pos == theirs.pos
    size = theirs.size()
    rows = [
        theirs._get_samples(np.full(num_envs, t), None)
        for t in range(size)
        for _ in range(20 * num_envs)
    ]
    want = {tuple(r.observations[i].tolist()): (r, i) for r in rows for i in range(num_envs)}
    seen = set()
    for _ in range(4):
        got = ours.sample(size * num_envs)
        for k in range(len(got.rewards)):
            key = tuple(got.observations[k].tolist())
            seen.add(key)
            r, i = want[key]
            for name in ("actions", "next_observations", "dones", "rewards"):
                assert torch.equal(getattr(got, name)[k], getattr(r, name)[i]), name
    assert len(seen) == size * num_envs


@pytest.mark.parametrize("sampler", [UniformSampler, PRIORITIZED, LazyRRMSampler])
@pytest.mark.parametrize(
    ("algorithm", "env"), [(SAC, "Pendulum-v1"), (TD3, "Pendulum-v1"), (DQN, "CartPole-v1")]
)
def test_their_agents_train(algorithm: type, env: str, sampler: type) -> None:
    settings = {"sampler": sampler}
    model = algorithm(
        "MlpPolicy",
        env,
        learning_starts=50,
        batch_size=16,
        replay_buffer_class=SB3ReplayBuffer,
        replay_buffer_kwargs=settings,
        seed=0,
    )
    before = [p.clone() for p in model.policy.parameters()]
    model.learn(150)
    assert any(
        not torch.equal(a, b) for a, b in zip(before, model.policy.parameters(), strict=True)
    )
    assert model.replay_buffer.size() >= 150


def test_priorities_reach_the_sampler() -> None:
    buffer = SB3ReplayBuffer(100, OBS, ACT, "cpu", sampler=PRIORITIZED)
    fill([buffer], 100, 1)
    for _ in range(40):
        batch = buffer.sample(20)
        buffer.update_priorities(1e3 * (batch.dones - 0.001))
    drawn = torch.cat([buffer.sample(50).dones for _ in range(10)])
    assert drawn.mean() > 0.8 and buffer.weights.shape == (50, 1) and buffer.weights.max() == 1
    with pytest.raises(UserError, match="pass one error for each"):
        buffer.update_priorities(torch.ones(3))


def test_silence_is_said_once(recwarn: pytest.WarningsRecorder) -> None:
    buffer = SB3ReplayBuffer(100, OBS, ACT, "cpu", sampler=PRIORITIZED)
    fill([buffer], 10, 1)
    for _ in range(2_100):
        buffer.sample(2)
    assert [str(w.message)[:45] for w in recwarn if "priority" in str(w.message)] == [
        "1,000 batches were sampled and no priority wa"
    ]


def test_frames_are_stored_once() -> None:
    space = gym.spaces.Box(0, 255, (4, 36, 36), np.uint8)
    act = gym.spaces.Discrete(3)
    ours = SB3ReplayBuffer(200, space, act, "cpu", frame_stack=4)
    rng, stream = np.random.default_rng(0), {}
    obs = np.zeros((1, 4, 36, 36), np.uint8)
    for k in range(300):
        frame = rng.integers(0, 256, (1, 1, 36, 36), dtype=np.uint8)
        new = np.concatenate([obs[:, 1:], frame], 1)
        ours.add(obs, new, np.array([k % 3]), np.array([float(k)]), np.array([False]), [{}])
        stream[k] = (obs, new)
        obs = new
    batch = ours.sample(256)
    for k, a, b in zip(
        batch.rewards[:, 0].tolist(), batch.observations, batch.next_observations, strict=True
    ):
        assert k >= 100 and (a.numpy() == stream[int(k)][0][0]).all()
        assert (b.numpy() == stream[int(k)][1][0]).all()
    assert ours.nbytes < 1.2 * 200 * 36 * 36


def test_saved_and_loaded_the_stream_goes_on() -> None:
    ours = SB3ReplayBuffer(60, OBS, ACT, "cpu", 2, sampler=PRIORITIZED)
    fill([ours], 40, 2)
    file = io.BytesIO()
    save_to_pkl(file, ours)
    file.seek(0)
    again = load_from_pkl(file)
    for _ in range(5):
        a, b = ours.sample(16), again.sample(16)
        assert torch.equal(a.observations, b.observations)


def test_wrong_use_is_named() -> None:
    with pytest.raises(UserError, match="HerReplayBuffer"):
        SB3ReplayBuffer(10, OBS, ACT, "cpu", n_sampled_goal=4)
    with pytest.raises(UserError, match="leave optimize_memory_usage off"):
        SB3ReplayBuffer(10, OBS, ACT, "cpu", optimize_memory_usage=True)
    with pytest.raises(UserError, match="frame_stack needs uint8 images"):
        SB3ReplayBuffer(10, OBS, ACT, "cpu", frame_stack=4)
