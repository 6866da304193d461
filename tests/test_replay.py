"""The ring storage: what comes out is what went in, n-step sums, saving, memory."""

import dataclasses
import gc
import subprocess
import sys
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import rlsuite.buffers.ring as ring_module
from rlsuite.buffers import Replay, ReshuffleSampler, UniformSampler
from rlsuite.checkpoint import CheckpointStore
from rlsuite.errors import UserError
from rlsuite.types import Batch, Step

STEP = ("obs", "action", "reward", "next_obs", "terminated", "truncated")


class Stream:
    """Episodes of random length in N environments; every number tells where it belongs."""

    def __init__(self, num_envs: int, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.num_envs = num_envs
        self.episode = np.zeros(num_envs, int)
        self.time = np.zeros(num_envs, int)
        self.rows: list[dict[str, np.ndarray]] = []

    def code(self) -> np.ndarray:
        return np.arange(self.num_envs) * 1_000_000 + self.episode * 1_000 + self.time

    def step(self) -> Step:
        code = self.code()
        ends = self.rng.random((2, self.num_envs)) < 0.12
        row = {
            "obs": code,
            "next_obs": code + 1,
            "reward": self.rng.normal(size=self.num_envs).astype(np.float32),
            "terminated": ends[0],
            "truncated": ends[1],
        }
        self.rows.append(row)
        done = ends.any(0)
        self.episode += done
        self.time = np.where(done, 0, self.time + 1)
        image = np.stack([code % 256, code % 251], 1).astype(np.uint8)
        return Step(
            obs={"code": torch.tensor(code), "image": torch.tensor(image)},
            action=torch.tensor(code, dtype=torch.float32)[:, None] / 2,
            reward=torch.tensor(row["reward"]),
            next_obs={"code": torch.tensor(code + 1), "image": torch.tensor(image + 1)},
            terminated=torch.tensor(ends[0]),
            truncated=torch.tensor(ends[1]),
            extra={"log_prob": torch.tensor(row["reward"]) * 3},
        )


def fill(replay: Replay, stream: Stream, steps: int) -> None:
    for _ in range(steps):
        replay.add(stream.step())


def expected(stream: Stream, replay: Replay, code: int, n_step: int) -> dict[str, float]:
    """Brute force: walk the stream from this observation on."""
    env = code // 1_000_000
    start = next(t for t, row in enumerate(stream.rows) if row["obs"][env] == code)
    total, discount, t = 0.0, 1.0, start
    for t in range(start, min(start + n_step, len(stream.rows))):
        row = stream.rows[t]
        total += discount * float(row["reward"][env])
        discount *= replay.discount
        if row["terminated"][env] or row["truncated"][env]:
            break
    row = stream.rows[t]
    return {
        "reward": total,
        "next_obs": row["next_obs"][env],
        "terminated": row["terminated"][env],
        "truncated": row["truncated"][env],
        "discount": 0.0 if row["terminated"][env] else discount,
    }


def check_batch(batch: Batch, stream: Stream, replay: Replay, n_step: int) -> None:
    oldest = max(0, len(stream.rows) - replay.steps)
    for i, code in enumerate(batch.obs["code"].tolist()):
        want = expected(stream, replay, code, n_step)
        env = code // 1_000_000
        assert code in [row["obs"][env] for row in stream.rows[oldest:]]
        assert batch.next_obs["code"][i] == want["next_obs"]
        assert batch.terminated[i] == want["terminated"]
        assert batch.truncated[i] == want["truncated"]
        assert float(batch.reward[i]) == pytest.approx(want["reward"], rel=1e-6, abs=1e-6)
        assert float(batch.discount[i]) == pytest.approx(want["discount"], rel=1e-6)
        assert batch.obs["image"][i].tolist() == [code % 256, code % 251]
        assert float(batch.action[i]) == np.float32(code) / 2


@pytest.mark.parametrize("n_step", [1, 3, 5])
@pytest.mark.parametrize("sampler", [UniformSampler, ReshuffleSampler])
def test_every_row_is_a_real_transition(sampler: type, n_step: int) -> None:
    """T5 and T20: E = 3, random ends, before the ring is full and over three wraps.

    Compared with brute force over the stream, at terminations, truncations and the write head.
    """
    stream = Stream(3, seed=n_step)
    replay = Replay(60, sampler(0), num_envs=3, n_step=n_step, discount=0.9)
    for _ in range(14):
        fill(replay, stream, 5)
        check_batch(replay.sample(50), stream, replay, n_step)
    assert len(replay) == 60


@settings(max_examples=30)
@given(
    num_envs=st.integers(1, 4),
    capacity=st.integers(1, 30),
    n_step=st.integers(1, 6),
    steps=st.integers(1, 40),
    seed=st.integers(0, 1000),
)
def test_any_size(num_envs: int, capacity: int, n_step: int, steps: int, seed: int) -> None:
    stream = Stream(num_envs, seed)
    replay = Replay(capacity, ReshuffleSampler(seed), num_envs=num_envs, n_step=n_step)
    fill(replay, stream, steps)
    assert replay.capacity >= capacity and replay.capacity % num_envs == 0
    check_batch(replay.sample(20), stream, replay, n_step)


def test_extra_follows_its_transition() -> None:
    stream = Stream(2, 0)
    replay = Replay(20, UniformSampler(), num_envs=2)
    fill(replay, stream, 25)
    batch = replay.sample(32)
    assert torch.equal(batch.extra["log_prob"], batch.reward * 3)


@pytest.mark.parametrize("sampler", [UniformSampler, ReshuffleSampler])
@pytest.mark.parametrize("n_step", [1, 3])
def test_saved_and_loaded_gives_the_same_batches(tmp_path, sampler: type, n_step: int) -> None:
    """T21: the next 100 batches are identical, also while new transitions come in."""
    replay = Replay(64, sampler(0), num_envs=2, n_step=n_step)
    stream = Stream(2, 5)
    fill(replay, stream, 50)
    replay.sample(7)
    store = CheckpointStore(tmp_path)
    store.save(1, replay.state_dict())
    other = Replay(64, sampler(1), num_envs=2, n_step=n_step)
    other.load_state_dict(store.load())
    for _ in range(100):
        step = stream.step()
        for memory in (replay, other):
            memory.add(step)
        ours, theirs = replay.sample(9), other.sample(9)
        for name in ("action", "reward", "terminated", "truncated", "discount", "index"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
        assert torch.equal(ours.next_obs["code"], theirs.next_obs["code"])


def test_saving_costs_what_is_new(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that did not change since the last checkpoint are linked, not written; always right."""
    monkeypatch.setattr(ring_module, "SEGMENT_BYTES", 10 * 64)
    replay, stream = Replay(100, UniformSampler(), num_envs=1), Stream(1, 0)
    store, seen = CheckpointStore(tmp_path), {}
    for save in range(1, 40):
        fill(replay, stream, 7)
        folder = store.save(save, replay.state_dict())
        inodes = {path.stat().st_ino for path in folder.glob("transitions-*")}
        written = inodes - set(seen.get("inodes", ()))
        # 7 new rows touch one piece, or two where they cross a border (or wrap around).
        assert len(written) <= 3, f"{len(written)} of {len(inodes)} pieces written"
        seen["inodes"] = inodes
        other = Replay(100, UniformSampler(), num_envs=1)
        other.load_state_dict(store.load())
        stored = min(len(stream.rows), 100)
        assert torch.equal(other._ring.rows[:stored], replay._ring.rows[:stored])
    assert len(inodes) > 5


def test_a_cut_episode_is_not_summed_over() -> None:
    """After a cut, n-step sums stop at the newest transition, which then counts as truncated."""
    replay = Replay(10, UniformSampler(), num_envs=2, n_step=3, discount=0.5)

    def step(value: float) -> Step:
        x, no = torch.full((2,), value), torch.zeros(2, dtype=torch.bool)
        return Step(x, x, x, x + 1, no, no)

    replay.add(step(0))
    replay.add(step(1))
    replay.cut([1])
    replay.add(step(2))
    batch = replay.sample(200)
    for obs, reward, truncated, index in zip(
        batch.obs, batch.reward, batch.truncated, batch.index, strict=True
    ):
        if index == 3:
            assert (float(reward), bool(truncated)) == (1.0, True)
        if index == 1:
            assert (float(reward), bool(truncated)) == (0.5, True)
        if index == 0:
            assert (float(reward), bool(truncated)) == (0.5 + 0.25 * 2, False)
        assert obs == index // 2


def test_what_is_stored_does_not_hold_on_to_a_graph() -> None:
    replay = Replay(4, UniformSampler())
    step = Stream(1, 0).step()
    reward = torch.ones(1, requires_grad=True) * 2
    replay.add(Step(**{name: getattr(step, name) for name in STEP} | {"reward": reward}))
    batch = replay.sample(3)
    assert not batch.reward.requires_grad and batch.reward.tolist() == [2.0, 2.0, 2.0]


def test_wrong_use_is_named() -> None:
    with pytest.raises(ValueError, match="discount in"):
        Replay(10, UniformSampler(), discount=1.5)
    replay, stream = Replay(10, UniformSampler(), num_envs=2), Stream(2, 0)
    with pytest.raises(ValueError, match="empty replay"):
        replay.sample(3)
    fill(replay, stream, 1)
    step = stream.step()
    with pytest.raises(ValueError, match=r"reward is torch\.float64"):
        replay.add(Step(step.obs, step.action, step.reward.double(), *_rest(step)))
    with pytest.raises(ValueError, match="leaves changed: extra/log_prob"):
        replay.add(Step(step.obs, step.action, step.reward, *_rest(step)[:3], {}))
    other = Replay(20, UniformSampler(), num_envs=2)
    with pytest.raises(UserError, match="capacity 10, this one 20"):
        other.load_state_dict(replay.state_dict())


def _rest(step: Step) -> tuple:
    return (step.next_obs, step.terminated, step.truncated, step.extra)


def test_too_large_a_replay_is_refused_before_it_is_allocated() -> None:
    replay = Replay(10**13, UniformSampler(), num_envs=1)
    with pytest.raises(UserError, match=r"set replay\.capacity to"):
        replay.add(Stream(1, 0).step())


MEMORY = """
import psutil, torch
from rlsuite.buffers import Replay, ReshuffleSampler
from rlsuite.types import Step
def rss(): return psutil.Process().memory_info().rss
n = 10_000
step = Step(torch.ones(n, 17), torch.ones(n, 6), torch.ones(n), torch.ones(n, 17),
            torch.zeros(n, dtype=torch.bool), torch.zeros(n, dtype=torch.bool))
first = Replay(n, ReshuffleSampler(), num_envs=n)  # so that libraries' own memory is not counted
first.add(step)
first.sample(256)
del first
before = rss()
replay = Replay(1_000_000, ReshuffleSampler(), num_envs=n)
for _ in range(100):
    replay.add(step)
replay.sample(256)
print(rss() - before, 1_000_000 * (17 * 4 + 6 * 4 + 4 + 17 * 4 + 1 + 1))
"""


def test_memory_of_a_million_halfcheetah_transitions() -> None:
    """Storage, order and all: within 5 % of the bytes of the arrays themselves."""
    out = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True
    ).stdout.split()
    used, arrays = map(int, out)
    assert used <= 1.05 * arrays


LEAVES = st.sampled_from(
    [np.float32, np.float64, np.float16, np.int64, np.int32, np.int16, np.uint8, np.bool_]
)


@settings(max_examples=40)
@example(kinds=[(np.bool_, [])], num_envs=4, form="arrays", seed=0)  # words off their boundary
@given(
    kinds=st.lists(st.tuples(LEAVES, st.lists(st.integers(0, 3), max_size=3)), max_size=4),
    num_envs=st.integers(1, 5),
    form=st.sampled_from(["arrays", "tensors", "strided"]),
    seed=st.integers(0, 1000),
)
def test_any_leaves_come_back(kinds: list, num_envs: int, form: str, seed: int) -> None:
    """Whatever their dtypes, shapes and order, as NumPy arrays, tensors or views of others."""
    rng = np.random.default_rng(seed)

    def leaf(dtype: type, shape: Sequence[int]) -> np.ndarray:
        return rng.integers(0, 2 if dtype == np.bool_ else 100, (num_envs, *shape)).astype(dtype)

    def given(array: np.ndarray) -> Any:
        if form == "strided":
            array = np.repeat(array, 2, 0)[::2]
        return torch.from_numpy(array) if form == "tensors" else array

    replay = Replay(3 * num_envs, UniformSampler(seed), num_envs=num_envs)
    stored = []
    for _ in range(5):
        obs = {f"{i}": leaf(dtype, shape) for i, (dtype, shape) in enumerate(kinds)}
        obs["number"] = leaf(np.float32, (2,))
        action, reward = leaf(np.uint8, (4,)), leaf(np.float32, ())
        ended = leaf(np.bool_, ()), leaf(np.bool_, ())
        extra = {"log_prob": leaf(np.float64, ())}
        stored.append((obs, action, reward, ended[0], extra["log_prob"]))
        tree = {name: given(array) for name, array in obs.items()}
        extra = {name: given(array) for name, array in extra.items()}
        replay.add(Step(tree, *map(given, (action, reward)), tree, *map(given, ended), extra))
    batch = replay.sample(20)
    # Row k was last written by the addition 3 + k or, if k = 2, by addition 2.
    for at, slot in enumerate(batch.index.tolist()):
        k, env = divmod(slot, num_envs)
        obs, action, reward, terminated, log_prob = stored[k + 3 if k < 2 else 2]
        for name, array in obs.items():
            assert np.array_equal(batch.obs[name][at].numpy(), array[env])
            assert np.array_equal(batch.next_obs[name][at].numpy(), array[env])
        assert np.array_equal(batch.action[at].numpy(), action[env])
        assert batch.reward[at] == reward[env] and batch.terminated[at] == terminated[env]
        assert batch.extra["log_prob"][at] == log_prob[env]


def test_bfloat16_is_stored() -> None:
    """NumPy has no such numbers."""
    replay = Replay(4, UniformSampler(), num_envs=2)
    obs = torch.tensor([[1.5, -2.0], [0.25, 3.0]], dtype=torch.bfloat16)
    no = torch.zeros(2, dtype=torch.bool)
    step = Step(obs, torch.zeros(2, 1), torch.zeros(2), obs + 1, no, no)
    replay.add(step)
    batch = replay.sample(8)
    assert torch.equal(batch.obs, obs[batch.index]) and batch.obs.dtype == torch.bfloat16
    assert torch.equal(batch.next_obs, obs[batch.index] + 1)
    with pytest.raises(ValueError, match=r"obs is torch\.int16"):
        replay.add(dataclasses.replace(step, obs=obs.view(torch.int16)))


def test_a_refused_transition_changes_nothing() -> None:
    replay = Replay(2, UniformSampler())
    no = np.zeros(1, bool)
    good = Step(
        np.ones((1, 2), np.float32), no, np.ones(1, np.float32), np.ones((1, 2), np.float32), no, no
    )
    replay.add(good)
    before = replay._ring.rows.clone()
    bad = {
        "obs is float64": {"obs": np.zeros((1, 2))},
        r"next_obs is float32 \(1, 3\)": {"next_obs": np.zeros((1, 3), np.float32)},
        r"reward is float32 \(1, 1\)": {"reward": np.zeros((1, 1), np.float32)},
        r"terminated is torch\.float32": {"terminated": torch.zeros(1)},
        r"truncated is bool \(2,\)": {"truncated": np.zeros(2, bool)},
    }
    for message, change in bad.items():
        with pytest.raises(ValueError, match=message):
            replay.add(dataclasses.replace(good, **{"obs": 2 * good.obs, **change}))
        assert torch.equal(replay._ring.rows, before) and len(replay) == 1


def test_memory_of_batches_does_not_grow_with_their_sizes() -> None:
    replay = Replay(64, UniformSampler(0))
    for k in range(8):
        x, no = torch.tensor([float(k)]), torch.zeros(1, dtype=torch.bool)
        replay.add(Step(x, x, x, x, no, no))
    kept = [weakref.ref(replay.sample(n).weight) for n in range(1, 30)]
    gc.collect()
    assert sum(batch() is not None for batch in kept) <= 4
    assert replay.sample(3) is replay.sample(3)


class Stuck(UniformSampler):
    """Draws what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.slots = [0, 1]

    def sample(self, n: int) -> tuple[torch.Tensor, None]:
        return torch.tensor(self.slots), None


def test_slots_that_are_not_there_are_named() -> None:
    replay, stream = Replay(6, Stuck(), num_envs=2), Stream(2, 0)
    fill(replay, stream, 2)
    before = replay.sample(2).obs["code"].clone()
    for slots, bad in (([1, 6], 6), ([-1, 0], -1)):
        replay.sampler.slots = slots
        with pytest.raises(IndexError, match=rf"slot {bad} of the batch is outside \[0, 6\)"):
            replay.sample(2)
        assert torch.equal(replay._outputs[2].batch.obs["code"], before)
