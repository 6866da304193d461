"""Time of all agents' policies: one after the other, at once as HASAC has them, and by torch.vmap.

    python benchmarks/stacked_actors.py

Policies of equal shapes with weights of their own, two layers of 128, observations of 18 numbers,
one thread, without gradients; the outputs are the same to 1e-5. Times are the process's own,
without the turns of others. Writes benchmarks/results/stacked-actors.json.
"""

from __future__ import annotations

import itertools
import json
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state

from rlsuite.actors import make_actors

OUT = Path("benchmarks/results/stacked-actors.json")
COMMIT = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
ACTIONS = {"continuous": gym.spaces.Box(-1, 1, (2,)), "discrete": gym.spaces.Discrete(5)}


def seconds(call: Callable[[], object], times: int = 50) -> float:
    began = time.process_time()
    for _ in range(times):
        call()
    return (time.process_time() - began) / times


@torch.no_grad()
def measure(agents: int, kind: str, batch_size: int, rounds: int = 15) -> dict[str, float]:
    spaces = {f"agent_{i}": (gym.spaces.Box(-1, 1, (18,)), ACTIONS[kind]) for i in range(agents)}
    actors, (stack,) = make_actors(
        gym.spaces.Dict(),
        spaces,
        (128, 128),
        "HASAC",
        generator=torch.Generator().manual_seed(0),
        device=torch.device("cpu"),
    )
    seen = {name: torch.randn(batch_size, 18) for name in actors}
    obs = {"agents": seen}
    weights, _ = stack_module_state(list(actors.values()))
    first = next(iter(actors.values()))

    def one(weights: dict[str, Tensor], obs: Tensor) -> Tensor:
        out: Tensor = functional_call(first, weights, (obs,))
        return out

    def draw_each() -> None:
        for name, actor in actors.items():
            actor.act(actor(seen[name]), None, None, explore=True)

    calls: dict[str, Callable[[], object]] = {
        "each": lambda: [actor(seen[name]) for name, actor in actors.items()],
        "at once": lambda: stack(obs),
        "torch.vmap": lambda: torch.vmap(one)(weights, torch.stack(list(seen.values()))),
        "each, with actions": draw_each,
        "at once, with actions": lambda: stack.stacked.act(*stack(obs), None, explore=True),
    }
    looped = torch.stack([actor(seen[name]) for name, actor in actors.items()])
    for output in (stack(obs)[0], calls["torch.vmap"]()):
        torch.testing.assert_close(looped, output, atol=1e-5, rtol=1e-5)
    times = [{name: seconds(call) for name, call in calls.items()} for _ in range(rounds)]
    return {name: statistics.median(each[name] for each in times) for name in calls}


def main() -> None:
    torch.set_num_threads(1)
    commit = subprocess.run(COMMIT, capture_output=True, text=True).stdout.strip()
    result: dict[str, object] = {
        "command": "python benchmarks/stacked_actors.py",
        "commit": commit,
    }
    for agents, kind, batch_size in itertools.product((3, 10), ACTIONS, (20, 256)):
        found = measure(agents, kind, batch_size)
        result[f"{agents} {kind}, batch {batch_size}"] = found
        shown = ", ".join(f"{name} {1e3 * value:.2f} ms" for name, value in found.items())
        print(f"{agents:>2} {kind:<10} batch {batch_size:>3}: {shown}")
    OUT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
