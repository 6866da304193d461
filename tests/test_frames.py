"""Frames stored once: stacks equal those that went in, memory, early giving up, saving, disk."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlsuite.buffers import (
    DenseRRMSampler,
    LazyRRMSampler,
    PrioritizedSampler,
    RankSampler,
    RecencySampler,
    Replay,
    ReshuffleSampler,
    UniformSampler,
    lap,
    ring,
)
from rlsuite.checkpoint import CheckpointStore
from rlsuite.errors import UserError
from rlsuite.types import Batch, Sampler, State, Step


class Video:
    """Random frames in N environments, in groups of M in turn, with random ends of episodes.

    ``padding``: how the stack of a first observation is filled, with zeros or its own frame.
    Now and then an episode goes on after a termination (a lost life).
    """

    def __init__(self, num_envs: int, group: int, seed: int, *, size: int = 4, ends: float = 0.1):
        self.rng = np.random.default_rng(seed)
        self.num_envs, self.group, self.size, self.ends = num_envs, group, size, ends
        self.obs = torch.stack([self.first() for _ in range(num_envs)])
        self.turn = 0
        self.steps: list[Step] = []

    def frame(self) -> torch.Tensor:
        return torch.tensor(self.rng.integers(0, 256, (3, 2)), dtype=torch.uint8)

    def first(self) -> torch.Tensor:
        frame = self.frame()
        if self.rng.random() < 0.5:
            return torch.stack([frame] * self.size)
        return torch.stack([torch.zeros_like(frame)] * (self.size - 1) + [frame])

    def step(self) -> Step:
        envs = range(self.turn, self.turn + self.group)
        self.turn = (self.turn + self.group) % self.num_envs
        obs = self.obs[envs.start : envs.stop].clone()
        new = torch.stack([self.frame() for _ in envs])
        next_obs = torch.cat([obs[:, 1:], new[:, None]], 1)
        terminated, truncated = torch.tensor(self.rng.random((2, self.group)) < self.ends)
        for i, env in enumerate(envs):
            over = terminated[i] or truncated[i]
            goes_on = not over or (terminated[i] and self.rng.random() < 0.3)
            self.obs[env] = next_obs[i] if goes_on else self.first()
        number = torch.tensor([float(len(self.steps))] * self.group)
        step = Step(obs, number, number, next_obs, terminated, truncated)
        self.steps.append(step)
        return step

    def check(self, replay: Replay, batch: Batch) -> None:
        """Exactly what was put in, by brute force; rewards tell which step a row is."""
        per_env = self.num_envs // self.group
        for i, slot in enumerate(batch.index.tolist()):
            env = slot % self.num_envs
            k = int(batch.action[i])
            lane = env - (k % per_env) * self.group
            assert 0 <= lane < self.group
            assert torch.equal(batch.obs[i], self.steps[k].obs[lane])
            last = k
            for _ in range(replay.n_step - 1):
                over = self.steps[last].terminated[lane] | self.steps[last].truncated[lane]
                if over or last + per_env >= len(self.steps):
                    break
                last += per_env
            assert torch.equal(batch.next_obs[i], self.steps[last].next_obs[lane])
            assert batch.terminated[i] == self.steps[last].terminated[lane]
            if replay.n_step == 1:
                assert float(batch.discount[i]) == pytest.approx(
                    0.0 if batch.terminated[i] else replay.discount
                )


SAMPLERS: dict[str, Callable[[int], Sampler]] = {
    "uniform": UniformSampler,
    "reshuffle": ReshuffleSampler,
    "prioritized": PrioritizedSampler,
    "recency": RecencySampler,
    "rank": RankSampler,
    "lap": partial(PrioritizedSampler, priority=lap(), draw="stratified"),
    # Stratified: small replays have not enough different transitions for a batch.
    "rrm dense": partial(DenseRRMSampler, priority=lap(0.6, 0.01), draw="stratified"),
    "rrm lazy": partial(LazyRRMSampler, priority=lap(0.6, 0.01), draw="stratified"),
}
GROUPS = [(1, 1), (3, 3), (4, 2)]
SOME = ["uniform", "reshuffle", "prioritized", "recency"]
REST = [name for name in SAMPLERS if name not in SOME]


@pytest.mark.parametrize(
    ("envs", "group", "n_step", "sampler"),
    [(*g, n, s) for g in GROUPS for n in (1, 3) for s in SOME] + [(4, 2, 3, s) for s in REST],
)
def test_stacks_are_those_that_went_in(envs: int, group: int, n_step: int, sampler: str) -> None:
    """T19: uint8 equality, over three wraps of the ring, at starts, ends, the head, in groups.

    The authors' code mixes the newest frames into the oldest stacks of a full ring; next_obs-free
    buffers return the observation after the reset at truncations (cleanrl #460, sb3 #934).
    """
    video = Video(envs, group, seed=envs + n_step)
    made: Sampler = SAMPLERS[sampler](0)
    replay = Replay(60, made, num_envs=envs, n_step=n_step, frame_stack=4)
    for _ in range(3 * 60 // group // 5):
        for _ in range(5):
            replay.add(video.step())
        video.check(replay, replay.sample(64))
    if sampler != "recency":
        drawn = torch.cat([replay.sample(512).index.clone() for _ in range(10)])
        assert len(drawn.unique()) == len(replay) > 40


@settings(max_examples=40)
@given(
    groups=st.integers(1, 4),
    group=st.integers(1, 3),
    capacity=st.integers(1, 40),
    size=st.integers(2, 5),
    ends=st.sampled_from([0.0, 0.05, 0.6, 0.9]),
    turns=st.integers(1, 20),
    sampler=st.sampled_from(sorted(SAMPLERS)),
)
def test_any_shape(
    groups: int, group: int, capacity: int, size: int, ends: float, turns: int, sampler: str
) -> None:
    """Also where episodes are so short that frames run out before transitions."""
    envs = groups * group
    video = Video(envs, group, seed=turns, size=size, ends=ends)
    replay = Replay(capacity, SAMPLERS[sampler](0), num_envs=envs, frame_stack=size)
    for k in range(turns * groups):
        replay.add(video.step())
        assert min(k * group + group, envs) <= len(replay) <= replay.capacity
        video.check(replay, replay.sample(9))


@pytest.mark.parametrize(("envs", "group"), [(4, 2), (2, 1)])
def test_short_episodes_in_groups(envs: int, group: int) -> None:
    """T19: the group whose transition is the oldest need not be the one with the oldest frames."""
    least = 40
    for seed in range(4):
        video = Video(envs, group, seed=seed, ends=0.6)
        replay = Replay(40, UniformSampler(0), num_envs=envs, frame_stack=4)
        for _ in range(100):
            replay.add(video.step())
            video.check(replay, replay.sample(32))
            least = min(least, len(replay)) if replay.written > 40 else least
    assert least < 40


@pytest.mark.parametrize("sampler", REST)
def test_what_was_given_up_is_not_drawn(sampler: str) -> None:
    """Nor after its slot has got a priority from a batch that was drawn before."""
    video = Video(4, 2, seed=0, ends=0.6)
    replay = Replay(40, SAMPLERS[sampler](0), num_envs=4, frame_stack=4)
    replay.add(video.step())
    least = 40
    for _ in range(50):
        batch = replay.sample(16)
        video.check(replay, batch)
        replay.add(video.step())
        replay.update(batch, batch.action)
        least = min(least, len(replay)) if replay.written > 40 else least
    assert least < 40


def test_short_episodes_give_up_the_oldest() -> None:
    """Every step a new episode of four new frames: a fifth of the transitions fit."""
    replay = Replay(1000, ReshuffleSampler(), frame_stack=4)
    for k in range(2500):
        frames = torch.full((1, 5, 2, 2), k % 256, dtype=torch.uint8)
        frames[0, :, 0, 0] = torch.arange(5)
        number, no = torch.tensor([float(k)]), torch.zeros(1, dtype=torch.bool)
        replay.add(Step(frames[:, :4], number, number, frames[:, 1:], no, no))
    assert 200 <= len(replay) <= 220
    batch = replay.sample(5 * len(replay))
    assert sorted(set(batch.action.tolist())) == list(range(2500 - len(replay), 2500))
    assert (batch.obs[:, :, 1, 1] == (batch.action % 256)[:, None]).all()


def test_a_stack_outlives_those_of_environments_that_begin_anew() -> None:
    """Environment 0 goes on while all others begin anew at every step, in the smallest ring."""
    video = Video(4, 4, seed=0, ends=0.0)
    replay = Replay(4, UniformSampler(0), num_envs=4, frame_stack=4)
    for _ in range(40):
        video.obs[1:] = torch.stack(
            [torch.stack([video.frame() for _ in range(4)]) for _ in range(3)]
        )
        replay.add(video.step())
        assert len(replay) == 4
        video.check(replay, replay.sample(16))


def test_sequences() -> None:
    """Pieces of episodes: rows that follow each other, masked from the end or the head on."""
    video = Video(3, 3, seed=0)
    replay = Replay(60, UniformSampler(0), num_envs=3, frame_stack=4, discount=0.5)
    for _ in range(50):
        replay.add(video.step())
    batch, mask = replay.sequences(64, 6)
    assert batch.obs.shape == (64, 6, 4, 3, 2) and mask.shape == (64, 6) and mask[:, 0].all()
    for i in range(64):
        env, first = int(batch.index[i]) % 3, int(batch.action[i, 0])
        alive = True
        for t in range(6):
            alive = alive and first + t < 50
            assert bool(mask[i, t]) == alive
            if not alive:
                break
            step = video.steps[first + t]
            assert torch.equal(batch.obs[i, t], step.obs[env])
            assert torch.equal(batch.next_obs[i, t], step.next_obs[env])
            assert float(batch.reward[i, t]) == first + t
            assert float(batch.discount[i, t]) == 0.5 * (not step.terminated[env])
            alive = not (step.terminated[env] or step.truncated[env])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_saved_and_loaded_it_goes_on(sampler: str, tmp_path) -> None:
    """T21: the next 100 batches are identical, with saves in between that change nothing."""
    video, store = Video(4, 2, seed=1, ends=0.6), CheckpointStore(tmp_path)

    def fresh() -> Replay:
        return Replay(40, SAMPLERS[sampler](3), num_envs=4, n_step=2, frame_stack=4)

    ours = fresh()
    for _ in range(27):
        ours.add(video.step())
        batch = ours.sample(8)
        ours.update(batch, batch.action)
    store.save(1, ours.state_dict())
    theirs = fresh()
    state = store.load()
    assert state is not None
    theirs.load_state_dict(state)
    for k in range(100):
        step = video.step()
        for replay in (ours, theirs):
            replay.add(step)
        if k % 9 == 0:
            ours.state_dict()
        a, b = ours.sample(8), theirs.sample(8)
        for field in dataclasses.fields(Batch):
            if field.name != "extra":
                assert torch.equal(getattr(a, field.name), getattr(b, field.name)), field.name
        for replay in (ours, theirs):
            replay.update(a, a.action)


def test_on_disk(tmp_path) -> None:
    """As in memory; the file goes with the process; what is no folder is named."""
    video = Video(2, 2, seed=0)
    replays = [
        Replay(40, UniformSampler(0), num_envs=2, frame_stack=4, directory=directory)
        for directory in (None, tmp_path)
    ]
    for _ in range(60):
        step = video.step()
        for replay in replays:
            replay.add(step)
    a, b = (replay.sample(64) for replay in replays)
    assert torch.equal(a.obs, b.obs) and torch.equal(a.reward, b.reward)
    assert list(tmp_path.iterdir()) == []
    missing = Replay(40, UniformSampler(0), num_envs=2, directory=tmp_path / "missing")
    with pytest.raises(UserError, match=r"replay\.directory .*missing cannot be used"):
        missing.add(step)
    with pytest.raises(UserError, match=r"replay\.directory needs run\.device cpu"):
        Replay(40, UniformSampler(0), directory=tmp_path, device="meta")


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the platform reserves nothing")
def test_the_room_on_disk_is_taken_at_once(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sparse file's blocks may be gone when they are written: SIGBUS."""
    resource = pytest.importorskip("resource")
    taken, from_file = [], torch.from_file

    def measured(path: str, **kwargs: Any) -> torch.Tensor:
        taken.append(os.stat(path).st_blocks * 512)
        return from_file(path, **kwargs)

    monkeypatch.setattr(torch, "from_file", measured)
    make = lambda: ring.Ring("rows", 1000, 9000, torch.device("cpu"), tmp_path)  # noqa: E731
    assert make().rows.shape == (1000, 9000) and taken[0] >= 9_000_000
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_000_000, limits[1]))
    try:
        with pytest.raises(UserError, match=rf"{tmp_path} cannot hold 9,000,000 bytes more, \d"):
            make()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_wrong_use_is_named() -> None:
    replay = Replay(40, UniformSampler(0), num_envs=2, frame_stack=4)
    x, no = torch.zeros(2, 3), torch.zeros(2, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"frame_stack 4 needs \(N, S, \.\.\.\) obs, not \(2, 3\)"):
        replay.add(Step(x, x, x[:, 0], x, no, no))
    frames = torch.randint(256, (2, 4, 3, 3), dtype=torch.uint8)
    with pytest.raises(ValueError, match="next_obs is not obs moved on by one frame"):
        replay.add(Step(frames, x, x[:, 0], frames.flip(1), no, no))
    video = Video(4, 2, seed=0)
    replay = Replay(40, UniformSampler(0), num_envs=3, frame_stack=4)
    replay.add(video.step())
    with pytest.raises(ValueError, match="got 2 transitions at environment 2 of 3"):
        replay.add(video.step())
    huge = Replay(10**11, UniformSampler(0), num_envs=4, frame_stack=4)
    with pytest.raises(UserError, match=r"their transitions need .* set replay\.capacity to"):
        huge.add(video.step())


def test_rows_and_frames_have_to_fit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them alone would: 32,000 and 6,000 bytes of 35,000. Nothing is allocated."""
    monkeypatch.setattr(ring, "_available", lambda *_: (35_000, "here"))
    video = Video(1, 1, seed=0)
    replay = Replay(1000, UniformSampler(0), frame_stack=4)
    with pytest.raises(UserError, match="frames and their transitions need"):
        replay.add(video.step())
    assert replay.nbytes == 0
    Replay(900, UniformSampler(0), frame_stack=4).add(video.step())


MEMORY = """
import psutil, torch
from rlsuite.buffers import Replay, ReshuffleSampler
from rlsuite.types import Step
def rss(): return psutil.Process().memory_info().rss
def fill(replay, n):
    obs = torch.zeros(1, 4, 84, 84, dtype=torch.uint8)
    no, x = torch.zeros(1, dtype=torch.bool), torch.zeros(1)
    for k in range(n):
        over = torch.tensor([k % 500 == 499])
        frame = torch.full((1, 1, 84, 84), k % 251, dtype=torch.uint8)
        new = torch.cat([obs[:, 1:], frame], 1)
        replay.add(Step(obs, torch.zeros(1, dtype=torch.int64), x, new, over, no))
        obs = torch.full((1, 4, 84, 84), k % 13, dtype=torch.uint8) if over else new
    replay.sample(32)
fill(Replay(100, ReshuffleSampler(), frame_stack=4), 600)
before = rss()
replay = Replay(20_000, ReshuffleSampler(), frame_stack=4)
fill(replay, 25_000)
assert len(replay) == 20_000
print((rss() - before) / (20_000 * 84 * 84))
"""


def test_memory() -> None:
    """At most 1.05 times one copy of each frame, all included."""
    command = [sys.executable, "-c", MEMORY]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert 0.99 <= float(out) <= 1.05


REFUSED: dict[str, Callable[[Step], dict[str, Any]]] = {
    r"reward is torch\.float64": lambda step: {"reward": step.reward.double()},
    "not obs moved on": lambda step: {"next_obs": torch.cat([step.next_obs[:1], step.obs[1:]])},
    r"obs is torch\.float32": lambda step: {"obs": step.obs.float()},
    r"next_obs is torch\.uint8 \(2, 4, 1, 2\)": lambda step: {"next_obs": step.next_obs[:, :, :1]},
    r"obs is torch\.uint8 \(1, 4, 3, 2\)": lambda step: {"obs": step.obs[:1]},
}


@pytest.mark.parametrize("refusal", REFUSED)
def test_a_refused_transition_changes_nothing(refusal: str) -> None:
    """Nor in the ring of frames, whose oldest would be overwritten, nor what stacks go on from."""
    ours, theirs = (Replay(20, UniformSampler(), num_envs=2, frame_stack=4) for _ in range(2))
    video = Video(2, 2, seed=0, ends=0.0)
    for k in range(30):
        step = video.step()
        if k:
            with pytest.raises(ValueError, match=refusal):
                ours.add(dataclasses.replace(step, **REFUSED[refusal](step)))
            video.check(ours, ours.sample(20))
        if k % 3:  # else it is missed: the next stacks begin anew
            continue
        for replay in (ours, theirs):
            replay.add(step)
    assert all(map(torch.equal, *(tensors(replay.state_dict()) for replay in (ours, theirs))))


def test_a_refused_first_transition_settles_nothing() -> None:
    replay, step = Replay(20, UniformSampler(), num_envs=2, frame_stack=4), Video(2, 2, 0).step()
    other = dataclasses.replace(step, obs=step.obs.float(), next_obs=step.next_obs.float())
    for bad, change in {
        "not obs moved on": {"next_obs": other.obs},
        r"reward is \(1,\), of 2 transitions": {"reward": step.reward[:1]},
    }.items():
        with pytest.raises(ValueError, match=bad):
            replay.add(dataclasses.replace(other, **change))
        assert replay.nbytes == 0
    replay.add(step)
    assert replay.sample(3).obs.dtype == torch.uint8


def tensors(state: State) -> list[torch.Tensor]:
    """The frames, what they go on from, and the rows."""
    frames, rows = state["frames"], state["ring"]["rows"]
    chunks = [*frames["ring"]["rows"].values(), *rows.values()]
    return [frames["numbers"], *frames["last"].values(), *(c.tensors["rows"] for c in chunks)]
