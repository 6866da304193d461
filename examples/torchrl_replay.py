"""Our samplers in TorchRL's replay buffers: reshuffled epochs, and priorities.

python examples/torchrl_replay.py
"""

from functools import partial

import torch
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

from rlsuite.buffers import LazyRRMSampler, ReshuffleSampler, lap
from rlsuite.torchrl_replay import TorchRLSampler


def main(capacity: int = 10_000) -> None:
    for sampler in (ReshuffleSampler, partial(LazyRRMSampler, priority=lap())):
        buffer = TensorDictReplayBuffer(
            storage=LazyTensorStorage(capacity),
            sampler=TorchRLSampler(capacity, sampler),
            batch_size=50,
        )
        buffer.extend(TensorDict({"obs": torch.randn(capacity, 17)}, [capacity]))
        seen = torch.zeros(capacity)
        for _ in range(capacity // 50):
            batch = buffer.sample()
            seen[batch["index"]] += 1
            buffer.update_priority(batch["index"], batch["obs"][:, 0])
        print(buffer.sampler, "drew each item", seen.min().item(), "to", seen.max().item(), "times")


if __name__ == "__main__":
    main()
