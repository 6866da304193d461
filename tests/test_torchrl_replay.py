"""Our samplers in TorchRL's replay buffers."""

import functools

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, ReplayBuffer, TensorDictReplayBuffer

from rlsuite.buffers import ImportanceWeights, LazyRRMSampler, PrioritizedSampler, ReshuffleSampler
from rlsuite.errors import UserError
from rlsuite.torchrl_replay import TorchRLSampler

PRIORITIZED = functools.partial(PrioritizedSampler, weights=ImportanceWeights())


def make(capacity: int, sampler, batch: int, kind: type = TensorDictReplayBuffer):
    storage = LazyTensorStorage(capacity)
    return kind(storage=storage, sampler=TorchRLSampler(capacity, sampler), batch_size=batch)


def numbered(first: int, count: int) -> TensorDict:
    return TensorDict({"number": torch.arange(first, first + count)}, batch_size=[count])


def test_epochs_are_exact_also_while_the_storage_fills() -> None:
    """TorchRL's own sampler draws a new permutation whenever the storage grew."""
    buffer = make(60, ReshuffleSampler, 12)
    buffer.extend(numbered(0, 60))
    drawn = torch.cat([buffer.sample()["number"] for _ in range(15)])
    assert (torch.bincount(drawn, minlength=60) == 3).all()
    growing = make(1000, ReshuffleSampler, 10)
    counts = torch.zeros(1000)
    for k in range(0, 1000, 10):
        growing.extend(numbered(k, 10))
        counts += torch.bincount(growing.sample()["number"], minlength=1000)
    # With a new permutation each time the first ones would be drawn some five times on average,
    # with a variance as large; in epochs the count of any two old items differs by 2 at most.
    assert counts[:100].max() - counts[:100].min() <= 3


@pytest.mark.parametrize("sampler", [PRIORITIZED, LazyRRMSampler])
def test_priorities(sampler) -> None:
    buffer = make(100, sampler, 20)
    buffer.extend(numbered(0, 100))
    for _ in range(60):
        batch = buffer.sample()
        buffer.update_priority(batch["index"], 1e-3 + 100.0 * (batch["number"] < 50))
    drawn = torch.cat([buffer.sample()["number"] for _ in range(10)])
    assert (drawn < 50).float().mean() > 0.9


def test_saved_and_loaded_the_stream_goes_on(tmp_path) -> None:
    ours, theirs = make(50, PRIORITIZED, 8), make(50, PRIORITIZED, 8)
    ours.extend(numbered(0, 70))
    ours.sample()
    ours.dumps(tmp_path)
    theirs.loads(tmp_path)
    for _ in range(5):
        assert torch.equal(ours.sample()["number"], theirs.sample()["number"])


def test_plain_replay_buffer_and_wrong_use() -> None:
    buffer = make(10, ReshuffleSampler, 5, ReplayBuffer)
    buffer.extend(torch.arange(10))
    both = torch.cat([buffer.sample(), buffer.sample()])
    assert both.sort().values.tolist() == list(range(10))
    mismatched = ReplayBuffer(
        storage=LazyTensorStorage(10), sampler=TorchRLSampler(7), batch_size=2
    )
    with pytest.raises(UserError, match="max_size=7"):
        mismatched.extend(torch.arange(10))
