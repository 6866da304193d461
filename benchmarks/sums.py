"""Which form of sums draws fastest on a device, by the number of slots: all of them, side by side.

    python benchmarks/sums.py --device cuda --out benchmarks/results/sums-cuda.json

A turn is a draw of 256 slots and the update of their weights; microseconds, the least of the
repeats. ``rlsuite.buffers.sums.FLAT_LIMIT`` is to be where the running sum over all slots and the
sums of blocks cross on a GPU.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from rlsuite.buffers.sum_tree import TreeSums
from rlsuite.buffers.sums import FLAT_LIMIT, Array, BlockSums, FlatSums, Sums

COMMIT = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
BATCH = 256


def microseconds(call: Callable[[], object], device: torch.device, repeats: int) -> float:
    """The least of ``repeats`` times of ten calls, for one."""
    least = float("inf")
    for _ in range(repeats):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        began = time.perf_counter()
        for _ in range(10):
            call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        least = min(least, (time.perf_counter() - began) / 10)
    return 1e6 * least


def measure(form: Callable[[], Sums], capacity: int, device: torch.device, repeats: int) -> float:
    sums, generator = form(), torch.Generator(device).manual_seed(0)

    def numbers(n: int) -> Array:
        return sums.array(torch.rand(n, dtype=torch.float64, device=device, generator=generator))

    sums.set(sums.array(torch.arange(capacity, device=device)), numbers(capacity))
    weights = numbers(BATCH)

    def turn() -> None:
        sums.set(sums.find(numbers(BATCH)), weights)

    for _ in range(3):
        turn()
    return microseconds(turn, device, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--sizes", nargs="+", type=int, default=[2**k for k in range(10, 25, 2)])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(options.device)
    result: dict[str, dict[str, float]] = {}
    for size in options.sizes:
        forms: dict[str, Callable[[], Sums]] = {
            "flat": lambda n=size: FlatSums(n, device),
            "blocks": lambda n=size: BlockSums(n, device),
        }
        if device.type == "cpu":
            forms["tree"] = lambda n=size: TreeSums(n)
        found = {name: measure(form, size, device, options.repeats) for name, form in forms.items()}
        result[str(size)] = found
        row = "".join(f"{name:>9}{spent:10,.0f} us" for name, spent in found.items())
        print(f"{size:>12,} slots{row}", flush=True)
    faster = [int(size) for size, row in result.items() if row["blocks"] < row["flat"]]
    print(f"blocks are faster at {faster or 'no size'}; FLAT_LIMIT is {FLAT_LIMIT:,}")
    if options.out:
        record = {
            "command": "python benchmarks/" + " ".join(["sums.py", *sys.argv[1:]]),
            "commit": subprocess.run(COMMIT, capture_output=True, text=True).stdout.strip(),
            "machine": platform.platform(),
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "microseconds": result,
        }
        options.out.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
