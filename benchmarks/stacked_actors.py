"""Time of all agents' forward passes, one after the other and by torch.vmap over stacked weights.

    python benchmarks/stacked_actors.py

Policies of equal shapes with weights of their own, two layers of 128, observations of 18 numbers,
one thread, without gradients; the results are the same to 1e-6. HASAC calls its actors one after
the other. Writes benchmarks/results/stacked-actors.json.
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

from rlsuite.actors import make_actor

OUT = Path("benchmarks/results/stacked-actors.json")
COMMIT = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
ACTIONS = {"continuous": gym.spaces.Box(-1, 1, (2,)), "discrete": gym.spaces.Discrete(5)}


def seconds(call: Callable[[], object], times: int = 50) -> float:
    began = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - began) / times


@torch.no_grad()
def measure(agents: int, kind: str, batch_size: int, rounds: int = 15) -> dict[str, float]:
    space, device = gym.spaces.Box(-1, 1, (18,)), torch.device("cpu")
    actors = [
        make_actor(
            space,
            ACTIONS[kind],
            (128, 128),
            "HASAC",
            generator=torch.Generator().manual_seed(i),
            device=device,
        )
        for i in range(agents)
    ]
    weights, _ = stack_module_state(actors)
    obs = [torch.randn(batch_size, 18) for _ in actors]

    def one(weights: dict[str, Tensor], obs: Tensor) -> Tensor:
        out: Tensor = functional_call(actors[0], weights, (obs,))
        return out

    def looped() -> list[Tensor]:
        return [actor(each) for actor, each in zip(actors, obs, strict=True)]

    def stacked() -> Tensor:
        return torch.vmap(one)(weights, torch.stack(obs))

    torch.testing.assert_close(torch.stack(looped()), stacked(), atol=1e-6, rtol=1e-6)
    pairs = [(seconds(looped), seconds(stacked)) for _ in range(rounds)]
    return {
        "looped": statistics.median(a for a, _ in pairs),
        "stacked": statistics.median(b for _, b in pairs),
        "ratio": statistics.median(b / a for a, b in pairs),
    }


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
        print(
            f"{agents:>2} {kind:<10} batch {batch_size:>3}: looped {1e3 * found['looped']:.2f} ms, "
            f"stacked {1e3 * found['stacked']:.2f} ms, ratio {found['ratio']:.2f}"
        )
    OUT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
