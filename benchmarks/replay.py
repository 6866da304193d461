"""Replay beside Stable-Baselines3, Tianshou, TorchRL, cpprb and skrl: rates and ratios.

    python benchmarks/replay.py --rounds 9

Run it where benchmarks/requirements-replay.txt is installed; a peer that is missing, or cannot do
a task, is skipped with a line. One thread. All contestants of a task are filled first and then take
turns of about 0.1 s; a figure is the median of its turns, so that other load on the machine falls
on all alike. Every batch ends as torch tensors on the CPU. Writes benchmarks/results/replay.json
and replay.png.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete

from rlsuite.buffers import (
    ImportanceWeights,
    PrioritizedSampler,
    Replay,
    ReshuffleSampler,
    UniformSampler,
)
from rlsuite.types import Step

Call = Callable[[], Any]
CAPACITY, BATCH = 1_000_000, 256
FRAMES, FRAMES_BATCH = 20_000, 32
PEERS = ("stable_baselines3", "tianshou", "torchrl", "cpprb", "skrl")
COMMIT = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
RNG = np.random.default_rng(0)
EXPECTED = {"obs": {"shape": 17}, "act": {"shape": 6}, "rew": {}, "next_obs": {"shape": 17}}
EXPECTED["done"] = {}


def rows(n: int) -> dict[str, np.ndarray]:
    """n transitions of HalfCheetah's sizes."""
    normal = RNG.standard_normal((n, 41), dtype=np.float32)
    names = {"obs": normal[:, :17], "next_obs": normal[:, 17:34], "act": normal[:, 34:40]}
    names = {name: np.ascontiguousarray(part) for name, part in names.items()}
    return {**names, "rew": normal[:, 40].copy(), "done": np.zeros(n, bool)}


def tensors(n: int) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in rows(n).items()}


def step(n: int) -> Step:
    t = tensors(n)
    return Step(t["obs"], t["act"], t["rew"], t["next_obs"], t["done"], t["done"].clone())


def array_step(n: int) -> Step:
    """NumPy arrays, as environments return them and as SB3, Tianshou and cpprb are given them."""
    x = rows(n)
    return Step(x["obs"], x["act"], x["rew"], x["next_obs"], x["done"], x["done"].copy())


def errors(n: int) -> torch.Tensor:
    return torch.from_numpy(RNG.gamma(0.6, 1.0, n) + 1e-6)


# ---------------------------------------------------------------- add


def add_ours(n: int) -> Call:
    replay, x = Replay(CAPACITY, UniformSampler(), num_envs=n), array_step(n)
    return lambda: replay.add(x)


def add_ours_reshuffled(n: int) -> Call:
    replay, x = Replay(CAPACITY, ReshuffleSampler(), num_envs=n), array_step(n)
    return lambda: replay.add(x)


def add_ours_tensors(n: int) -> Call:
    replay, x = Replay(CAPACITY, UniformSampler(), num_envs=n), step(n)
    return lambda: replay.add(x)


def add_sb3(n: int) -> Call:
    from stable_baselines3.common.buffers import ReplayBuffer

    spaces = (Box(-np.inf, np.inf, (17,), np.float32), Box(-1, 1, (6,), np.float32))
    buffer = ReplayBuffer(CAPACITY, *spaces, n_envs=n, device="cpu")
    x, infos = rows(n), [{} for _ in range(n)]
    return lambda: buffer.add(x["obs"], x["next_obs"], x["act"], x["rew"], x["done"], infos)


def tianshou_batch(x: dict[str, np.ndarray]) -> Any:
    from tianshou.data import Batch

    return Batch(
        obs=x["obs"],
        act=x["act"],
        rew=x["rew"],
        terminated=x["done"],
        truncated=x["done"],
        obs_next=x["next_obs"],
        info=Batch(),
    )


def add_tianshou(n: int) -> Call:
    from tianshou.data import VectorReplayBuffer

    buffer, x = VectorReplayBuffer(CAPACITY, n), rows(n)
    return lambda: buffer.add(tianshou_batch(x))


def add_torchrl(n: int) -> Call:
    from tensordict import TensorDict
    from torchrl.data import LazyTensorStorage, ReplayBuffer

    buffer, x = ReplayBuffer(storage=LazyTensorStorage(CAPACITY)), TensorDict(tensors(n), [n])
    return lambda: buffer.extend(x)


def add_cpprb(n: int) -> Call:
    import cpprb

    buffer, x = cpprb.ReplayBuffer(CAPACITY, EXPECTED), rows(n)
    return lambda: buffer.add(**x)


def add_skrl(n: int) -> Call:
    buffer = skrl_memory(n)
    x = {name: leaf.float().view(n, -1) for name, leaf in tensors(n).items()}
    return lambda: buffer.add_samples(**x)


def skrl_memory(n: int) -> Any:
    from skrl.memories.torch import RandomMemory

    memory = RandomMemory(memory_size=CAPACITY // n, num_envs=n, device="cpu", replacement=True)
    for name, size in {"obs": 17, "next_obs": 17, "act": 6, "rew": 1, "done": 1}.items():
        memory.create_tensor(name=name, size=size, dtype=torch.float32)
        memory.tensors[name].uniform_()
    return memory


# ---------------------------------------------------------------- sample


def sample_ours(sampler: Any) -> Call:
    replay = Replay(CAPACITY, sampler, num_envs=1_000)
    for _ in range(CAPACITY // 1_000):
        replay.add(step(1_000))
    return lambda: replay.sample(BATCH)


def sample_sb3() -> Call:
    from stable_baselines3.common.buffers import ReplayBuffer

    spaces = (Box(-np.inf, np.inf, (17,), np.float32), Box(-1, 1, (6,), np.float32))
    buffer = ReplayBuffer(CAPACITY, *spaces, device="cpu")
    for array in (buffer.observations, buffer.next_observations, buffer.actions, buffer.rewards):
        array[:] = RNG.standard_normal(array.shape[1:])
    buffer.full = True
    return lambda: buffer.sample(BATCH)


def tianshou_full() -> Any:
    from tianshou.data import ReplayBuffer

    x, no = rows(CAPACITY), np.zeros(CAPACITY, bool)
    return ReplayBuffer.from_data(x["obs"], x["act"], x["rew"], no, no, no, x["next_obs"])


def sample_tianshou() -> Call:
    buffer = tianshou_full()

    def sample() -> Any:
        batch, _ = buffer.sample(BATCH)
        names = ("obs", "act", "rew", "terminated", "obs_next")
        return [torch.as_tensor(getattr(batch, name)) for name in names]

    return sample


def torchrl_full(sampler: Any) -> Any:
    from tensordict import TensorDict
    from torchrl.data import LazyTensorStorage, ReplayBuffer

    buffer = ReplayBuffer(storage=LazyTensorStorage(CAPACITY), sampler=sampler, batch_size=BATCH)
    for _ in range(10):
        buffer.extend(TensorDict(tensors(CAPACITY // 10), [CAPACITY // 10]))
    return buffer


def sample_torchrl(name: str) -> Call:
    from torchrl.data import replay_buffers

    return torchrl_full(getattr(replay_buffers, name)()).sample


def sample_cpprb() -> Call:
    import cpprb

    buffer = cpprb.ReplayBuffer(CAPACITY, EXPECTED)
    for _ in range(10):
        buffer.add(**rows(CAPACITY // 10))
    return lambda: {name: torch.from_numpy(x) for name, x in buffer.sample(BATCH).items()}


def sample_skrl() -> Call:
    memory = skrl_memory(1)
    memory.filled = True
    return lambda: memory.sample(names=list(memory.tensors), batch_size=BATCH)


# ---------------------------------------------------------------- prioritized: sample + update


def prioritized_ours(n: int) -> Call:
    sampler = PrioritizedSampler(weights=ImportanceWeights())
    replay = Replay(CAPACITY, sampler, num_envs=1_000)
    for _ in range(CAPACITY // 1_000):
        replay.add(step(1_000))
    sampler.update(torch.arange(CAPACITY), errors(CAPACITY))
    error = errors(n).float()
    return lambda: replay.update(replay.sample(n), error)


def prioritized_tianshou(n: int) -> Call:
    from tianshou.data import PrioritizedReplayBuffer

    buffer = PrioritizedReplayBuffer(CAPACITY, alpha=0.6, beta=0.4)
    vars(buffer).update({k: v for k, v in vars(tianshou_full()).items() if k != "options"})
    buffer.weight[np.arange(CAPACITY)] = errors(CAPACITY).numpy() ** 0.6
    error = errors(n).numpy()

    def cycle() -> None:
        batch, index = buffer.sample(n)
        for name in ("obs", "act", "rew", "terminated", "obs_next", "weight"):
            torch.as_tensor(getattr(batch, name))
        buffer.update_weight(index, error)

    return cycle


def prioritized_torchrl(n: int) -> Call:
    from torchrl.data.replay_buffers import PrioritizedSampler as Theirs

    buffer = torchrl_full(Theirs(CAPACITY, alpha=0.6, beta=0.4))
    buffer.update_priority(torch.arange(CAPACITY), errors(CAPACITY).float())
    error = errors(n).float()

    def cycle() -> None:
        _, info = buffer.sample(n, return_info=True)
        buffer.update_priority(info["index"], error)

    return cycle


def prioritized_cpprb(n: int) -> Call:
    import cpprb

    buffer = cpprb.PrioritizedReplayBuffer(CAPACITY, EXPECTED, alpha=0.6)
    for _ in range(10):
        part = CAPACITY // 10
        buffer.add(**rows(part), priorities=errors(part).float().numpy())
    error = errors(n).numpy()

    def cycle() -> None:
        batch = buffer.sample(n, beta=0.4)
        for array in batch.values():
            torch.from_numpy(array)
        buffer.update_priorities(batch["indexes"], error)

    return cycle


# ---------------------------------------------------------------- stacks of frames


def pictures(n: int) -> np.ndarray:
    """(n, 84, 84) uint8 frames that differ."""
    return RNG.integers(0, 255, (n, 84, 84), np.uint8)


def frames_ours() -> Call:
    replay = Replay(FRAMES, UniformSampler(), frame_stack=4)
    film = torch.from_numpy(pictures(1_000))
    no = torch.zeros(1, dtype=torch.bool)
    for k in range(FRAMES):
        stacks = [film[torch.arange(k + i, k + i + 4) % 1_000][None] for i in (0, 1)]
        action = torch.zeros(1, dtype=torch.int64)
        replay.add(Step(stacks[0], action, torch.zeros(1), stacks[1], no, no))
    least = FRAMES * (84 * 84 + 8 + 4 + 2)  # a frame, action, reward and two flags each
    NOTES["frames-once bytes / minimal bytes"] = replay.nbytes / least
    return lambda: replay.sample(FRAMES_BATCH)


def frames_sb3() -> Call:
    from stable_baselines3.common.buffers import ReplayBuffer

    space = Box(0, 255, (4, 84, 84), np.uint8)
    buffer = ReplayBuffer(FRAMES, space, Discrete(6), device="cpu")
    buffer.observations[:] = buffer.next_observations[:] = pictures(4)
    buffer.full = True
    return lambda: buffer.sample(FRAMES_BATCH)


def frames_tianshou() -> Call:
    from tianshou.data import VectorReplayBuffer

    kwargs = {"ignore_obs_next": True, "save_only_last_obs": True, "stack_num": 4}
    buffer = VectorReplayBuffer(FRAMES, 1, **kwargs)
    x = {"obs": pictures(4)[None], "act": np.zeros(1, int), "rew": np.zeros(1)}
    x |= {"done": np.zeros(1, bool), "next_obs": x["obs"]}
    for _ in range(FRAMES):
        buffer.add(tianshou_batch(x))

    def sample() -> Any:
        batch, _ = buffer.sample(FRAMES_BATCH)
        return torch.as_tensor(batch.obs), torch.as_tensor(batch.obs_next)

    return sample


def frames_torchrl() -> Call:
    from tensordict import TensorDict
    from torchrl.data import LazyTensorStorage, ReplayBuffer

    buffer = ReplayBuffer(storage=LazyTensorStorage(FRAMES), batch_size=FRAMES_BATCH)
    film = torch.from_numpy(pictures(4)).expand(1_000, 4, 84, 84)
    small = {"act": torch.zeros(1_000, dtype=torch.int64), "rew": torch.zeros(1_000)}
    for _ in range(FRAMES // 1_000):
        leaves = {"obs": film.clone(), "next_obs": film.clone(), "done": small["rew"] > 0, **small}
        buffer.extend(TensorDict(leaves, [1_000]))
    return buffer.sample


def frames_cpprb() -> Call:
    import cpprb

    image = {"shape": (4, 84, 84), "dtype": np.uint8}
    fields = {"obs": image, "next_obs": image, "act": {"dtype": np.int64}, "rew": {}, "done": {}}
    buffer = cpprb.ReplayBuffer(FRAMES, fields)
    film, none = np.repeat(pictures(4)[None], 100, 0), np.zeros(100)
    for _ in range(FRAMES // 100):
        buffer.add(obs=film, next_obs=film, act=none, rew=none, done=none)
    return lambda: {name: torch.from_numpy(x) for name, x in buffer.sample(FRAMES_BATCH).items()}


# ---------------------------------------------------------------- the race

NOTES: dict[str, float] = {}
ADD = {
    "ours": add_ours,
    "ours, reshuffled": add_ours_reshuffled,
    "ours, from tensors": add_ours_tensors,
    "SB3": add_sb3,
    "Tianshou": add_tianshou,
    "TorchRL": add_torchrl,
    "cpprb": add_cpprb,
    "skrl": add_skrl,
}
PRIORITIZED = {
    "ours": prioritized_ours,
    "Tianshou": prioritized_tianshou,
    "TorchRL": prioritized_torchrl,
    "cpprb": prioritized_cpprb,
}
TASKS: dict[str, tuple[int, dict[str, Call]]] = {
    **{
        f"add {n}": (n, {who: (lambda f=f, n=n: f(n)) for who, f in ADD.items()})
        for n in (1, 8, 64)
    },
    "sample 256 of 1M": (
        1,
        {
            "ours": lambda: sample_ours(UniformSampler()),
            "ours, reshuffled": lambda: sample_ours(ReshuffleSampler()),
            "SB3": sample_sb3,
            "Tianshou": sample_tianshou,
            "TorchRL": lambda: sample_torchrl("RandomSampler"),
            "TorchRL, no replacement": lambda: sample_torchrl("SamplerWithoutReplacement"),
            "cpprb": sample_cpprb,
            "skrl": sample_skrl,
        },
    ),
    **{
        f"prioritized {n} of 1M": (
            1,
            {who: (lambda f=f, n=n: f(n)) for who, f in PRIORITIZED.items()},
        )
        for n in (32, 256)
    },
    "sample 32 stacks of 4x84x84": (
        1,
        {
            "ours": frames_ours,
            "SB3": frames_sb3,
            "Tianshou": frames_tianshou,
            "TorchRL": frames_torchrl,
            "cpprb": frames_cpprb,
        },
    ),
}
"""By name: transitions (or batches) that a call handles, and who prepares the call."""
GATES: list[tuple[str, str, str, float]] = [
    ("sample 256 of 1M", "ours", "fastest", 3.0),
    ("sample 256 of 1M", "ours, reshuffled", "fastest", 3.0),
    ("sample 256 of 1M", "ours", "SB3", 6.0),
    ("sample 256 of 1M", "ours, reshuffled", "SB3", 6.0),
    ("add 1", "ours", "SB3", 1.0),
    ("add 64", "ours", "SB3", 2.0),
    ("prioritized 256 of 1M", "ours", "fastest", 2.0),
    ("prioritized 32 of 1M", "ours", "fastest", 1.0),
    ("sample 32 stacks of 4x84x84", "ours", "fastest", 1.4),
]
"""Task, whom of ours, against whom, least ratio."""


def turn(call: Call, seconds: float) -> float:
    """Calls a second."""
    count, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        for _ in range(10):
            call()
        count += 10
    return count / passed


def race(task: str, rounds: int, seconds: float) -> dict[str, float]:
    """Median rate of each contestant."""
    size, makers = TASKS[task]
    calls: dict[str, Call] = {}
    for who, make in makers.items():
        try:
            calls[who] = make()
            calls[who]()
        except Exception as problem:
            calls.pop(who, None)
            print(f"{task}: {who} is skipped ({type(problem).__name__}: {problem})"[:160])
    rates: dict[str, list[float]] = {who: [] for who in calls}
    for call in calls.values():
        turn(call, seconds)
    for _ in range(rounds):
        for who, call in calls.items():
            rates[who].append(size * turn(call, seconds))
    return {who: statistics.median(each) for who, each in rates.items()}


def judge(results: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    verdicts = []
    for task, who, against, least in GATES:
        rates = results.get(task, {})
        peers = {name: rate for name, rate in rates.items() if not name.startswith("ours")}
        name = max(peers, key=peers.__getitem__, default="") if against == "fastest" else against
        if name not in peers:
            continue
        ratio = rates[who] / peers[name]
        verdicts.append(
            {"task": task, "who": who, "against": name, "ratio": ratio, "gate": least}
            | {"passed": ratio >= least}
        )
    return verdicts


def plot(results: dict[str, dict[str, float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 4, figsize=(16, 6))
    for axis, (task, rates) in zip(axes.flat, results.items(), strict=False):
        names = list(rates)[::-1]
        colors = ["tab:blue" if name.startswith("ours") else "lightgray" for name in names]
        axis.barh(names, [rates[name] for name in names], color=colors)
        axis.set_title(task)
        axis.set_xlabel("transitions/s" if task.startswith("add") else "batches/s")
    for axis in axes.flat[len(results) :]:
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def versions() -> dict[str, str]:
    found = {}
    for name in (*PEERS, "torch", "numpy", "numba"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            print(f"{name} is not installed: skipped (benchmarks/requirements-replay.txt)")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.1, help="of one turn")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    found, results = versions(), {}
    for task in options.tasks:
        results[task] = race(task, options.rounds, options.seconds)
        for who, rate in results[task].items():
            ratio = results[task]["ours"] / rate
            print(f"{task:28} {who:24} {rate:14,.0f}/s   ours is {ratio:6.2f} x", flush=True)
    verdicts = judge(results)
    for v in verdicts:
        text = "passed" if v["passed"] else "MISSED"
        head = f"{v['task']:28} {v['who']:17} {v['ratio']:5.2f} x {v['against']}"
        print(f"{head}, gate {v['gate']}: {text}")
    print(NOTES)
    commit = subprocess.run(COMMIT, capture_output=True, text=True).stdout.strip()
    options.results.mkdir(parents=True, exist_ok=True)
    record = {
        "command": "python benchmarks/" + " ".join(["replay.py", *sys.argv[1:]]),
        "commit": commit,
        "machine": platform.platform(),
        "versions": found,
        "threads": 1,
        "rates": results,
        "gates": verdicts,
        "notes": NOTES,
    }
    (options.results / "replay.json").write_text(json.dumps(record, indent=1))
    plot(results, options.results / "replay.png")


if __name__ == "__main__":
    main()
