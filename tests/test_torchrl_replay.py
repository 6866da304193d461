"""Our samplers in TorchRL's own buffers."""

import runpy
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rlsuite.samplers as samplers_module
from rlsuite.buffers import (
    ImportanceWeights,
    LazyRRMSampler,
    PrioritizedSampler,
    ReshuffleSampler,
    UniformSampler,
    lap,
)
from rlsuite.errors import UserError

pytest.importorskip("torchrl")
from tensordict import TensorDict
from torchrl.data import (
    LazyTensorStorage,
    ReplayBuffer,
    TensorDictMaxValueWriter,
    TensorDictReplayBuffer,
)

from rlsuite.torchrl_replay import TorchRLSampler

ROOT = Path(__file__).resolve().parents[1]
SAMPLERS: list[Any] = [
    UniformSampler,
    ReshuffleSampler,
    partial(PrioritizedSampler, weights=ImportanceWeights()),
    partial(LazyRRMSampler, priority=lap()),
]


def items(*names: int) -> TensorDict:
    return TensorDict({"name": torch.tensor(names)}, [len(names)])


def make(sampler: Any, capacity: int = 40, cls: Any = TensorDictReplayBuffer, **kwargs: Any) -> Any:
    return cls(
        storage=LazyTensorStorage(capacity),
        sampler=TorchRLSampler(capacity, sampler),
        batch_size=8,
        **kwargs,
    )


@pytest.mark.parametrize("cls", [ReplayBuffer, TensorDictReplayBuffer])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_items_come_back(sampler: Any, cls: Any) -> None:
    buffer = make(sampler, cls=cls)
    buffer.add(items(0)[0])
    seen = 1
    for count in (8, 27, 17, 40, 3):  # past the end, and the whole ring at once
        buffer.extend(items(*range(seen, seen + count)))
        seen += count
        batch, info = buffer.sample(return_info=True)
        stored = range(max(0, seen - 40), seen)
        assert set(batch["name"].tolist()) <= set(stored)
        assert torch.equal(batch["name"] % 40, info["index"])
        buffer.update_priority(info["index"], torch.rand(8, 1))
    names = torch.cat([buffer.sample()["name"] for _ in range(200)])
    assert len(names.unique()) == 40


def test_epochs_are_exact_while_growing() -> None:
    """The law of RR-C: an item inserted into the epoch is drawn at most once in it; over a long
    time nobody is more than two draws ahead of its age."""
    buffer = make(ReshuffleSampler, 400)
    drawn = np.zeros(400, int)
    expected = np.zeros(400)
    for step in range(50):
        buffer.extend(items(*range(8 * step, 8 * step + 8)))
        for _ in range(2):
            np.add.at(drawn, buffer.sample()["name"].numpy(), 1)
            expected[: 8 * step + 8] += 8 / (8 * step + 8)
    assert abs(drawn - expected).max() < 2
    rest = buffer.sampler._sampler
    buffer.sample(int(rest._size - rest._cursor) or 400)
    epoch = torch.cat([buffer.sample(50)["name"] for _ in range(8)])
    assert sorted(epoch.tolist()) == list(range(400))


def test_priorities_and_weights() -> None:
    weights = ImportanceWeights(0.5, normalize="none")
    buffer = make(partial(PrioritizedSampler, weights=weights), 4)
    buffer.extend(items(0, 1, 2, 3))
    buffer.update_priority(torch.arange(4), torch.tensor([1e-9, 1e-9, 5.0, 1e-9]))
    batch = buffer.sample(400)
    heavy = batch["name"] == 2
    assert heavy.double().mean() > 0.98
    half = batch["priority_weight"][heavy]
    torch.testing.assert_close(half, torch.full_like(half, 0.5), rtol=2e-3, atol=0)
    buffer.update_priority(torch.tensor([0, 1]), 7.0)  # one error for several
    assert set(buffer.sample(400)["name"].tolist()) == {0, 1, 2}


def test_extend_takes_priorities_along() -> None:
    buffer = make(PrioritizedSampler, 4)
    data = items(0, 1, 2, 3)
    data["td_error"] = torch.tensor([1e-9, 3.0, 1e-9, 1e-9])
    buffer.extend(data)
    assert (buffer.sample(400)["name"] == 1).double().mean() > 0.98


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_saved_and_loaded_goes_on(sampler: Any, on_disk: bool, tmp_path: Path) -> None:
    buffer, again = make(sampler), make(sampler)
    buffer.extend(items(*range(25)))
    for _ in range(5):
        index = buffer.sample()["index"]
        buffer.update_priority(index, torch.rand(8))
    if on_disk:
        buffer.dumps(tmp_path)
        again.loads(tmp_path)
    else:
        again.load_state_dict(buffer.state_dict())
    for _ in range(10):
        ours, theirs = buffer.sample(), again.sample()
        assert torch.equal(ours["name"], theirs["name"])
        for one, batch in ((buffer, ours), (again, theirs)):
            one.update_priority(batch["index"], batch["name"] / 9)
            one.extend(items(*range(3)))


def test_empty_begins_anew() -> None:
    buffer = make(ReshuffleSampler)
    buffer.extend(items(*range(30)))
    buffer.sample()
    buffer.empty()
    with pytest.raises(ValueError, match="empty replay"):
        buffer.sample()
    buffer.extend(items(*range(8)))
    assert sorted(buffer.sample()["name"].tolist()) == list(range(8))


def test_refusals() -> None:
    with pytest.raises(UserError, match="storage of one dimension"):
        TorchRLSampler(8).extend(torch.zeros(3, 2, dtype=torch.int64))
    with pytest.raises(UserError, match="sampler is 'uniform' but should be a class of"):
        TorchRLSampler(8, "uniform")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="max_size=30"):
        buffer = ReplayBuffer(storage=LazyTensorStorage(20), sampler=TorchRLSampler(30))
        buffer.extend(items(*range(15)))
        buffer.extend(items(*range(15)))
    buffer = make(ReshuffleSampler, 4, writer=TensorDictMaxValueWriter(rank_key="name"))
    with pytest.raises(UserError, match="written in order"):
        for name in (5, 3, 2, 1, 9, 8):
            buffer.extend(items(name))


@pytest.mark.parametrize("sampler", SAMPLERS[2:])
def test_priorities_of_items_that_are_not_there_are_refused(sampler: Any) -> None:
    buffer = make(sampler)
    buffer.extend(items(*range(40)))
    with pytest.raises(ValueError, match=r"slot 100 of the batch is outside \[0, 40\)"):
        buffer.update_priority(torch.tensor([100]), torch.tensor([9.0]))
    with pytest.raises(ValueError, match=r"got \(8,\) and \(4,\)"):
        buffer.update_priority(buffer.sample()["index"], torch.ones(4))


def test_silence_is_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samplers_module, "SILENT_BATCHES", 5)
    buffer = make(PrioritizedSampler)
    buffer.extend(items(*range(9)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(12):
            batch = buffer.sample()
            batch["td_error"] = torch.ones(8)
            buffer.update_tensordict_priority(batch)  # does nothing for foreign samplers
    assert sum("no priority was ever set" in str(w.message) for w in caught) == 1


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "examples" / "torchrl_replay.py"))["main"](500)
    assert "ReshuffleSampler) drew each item 1.0 to 1.0 times" in capsys.readouterr().out
