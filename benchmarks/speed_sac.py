"""SAC beside Stable-Baselines3's on HalfCheetah-v5: transitions a second, learning included.

    python benchmarks/speed_sac.py --pairs 5 --threads 1

Runs are processes in turn, ours, theirs, ours, ...; each makes 3,000 transitions with one update
each (batch 256, two hidden layers of 256, one environment) after 1,000 without learning, and only
those with learning are timed. Ratios are taken pair by pair, so that they hold when the machine's
speed drifts. The result is written to benchmarks/results/speed-sac.json.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

WARMUP, TIMED = 1_000, 3_000


def ours(threads: int) -> float:
    import tempfile

    from rlsuite.build import train
    from rlsuite.config import load_experiment

    settings = {
        "plan.total_transitions": str(WARMUP + TIMED),
        "plan.warmup_transitions": str(WARMUP),
        "run.threads": str(threads),
        "run.evaluate_every_transitions": "0",
        "run.evaluation_episodes": "1",
        "run.log_every_transitions": "500",
        "run.checkpoint_every_transitions": "0",
        "replay.capacity": "1_000_000",
    }
    experiment = load_experiment("sac/halfcheetah", settings)
    with tempfile.TemporaryDirectory() as folder:
        train(experiment, Path(folder) / "run", quiet=True)
        lines = (Path(folder) / "run" / "metrics.csv").read_text().splitlines()
    names = lines[0].split(",")
    rate, count = names.index("time/transitions_per_second"), names.index("transitions")
    rows = [line.split(",") for line in lines[1:]]
    rates = [float(row[rate]) for row in rows if row[rate] and int(row[count]) > WARMUP + 500]
    return statistics.median(rates)


def theirs(threads: int) -> float:
    import torch
    from stable_baselines3 import SAC
    from stable_baselines3.common.callbacks import BaseCallback

    class Clock(BaseCallback):
        rates: ClassVar[list[float]] = []

        def _on_step(self) -> bool:
            if self.num_timesteps == WARMUP + 500:
                self.last = time.perf_counter()
            elif self.num_timesteps > WARMUP + 500 and self.num_timesteps % 500 == 0:
                now = time.perf_counter()
                self.rates.append(500 / (now - self.last))
                self.last = now
            return True

    torch.set_num_threads(threads)
    model = SAC("MlpPolicy", "HalfCheetah-v5", learning_starts=WARMUP, device="cpu", seed=0)
    clock = Clock()
    model.learn(WARMUP + TIMED, callback=clock)
    return statistics.median(clock.rates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--one", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps({"ours": ours, "theirs": theirs}[options.one](options.threads[0])))
        return
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40"], capture_output=True, text=True
    ).stdout.strip()
    result = {"command": f"python benchmarks/speed_sac.py --pairs {options.pairs}"}
    result |= {"commit": commit, "machine": platform.platform(), "unit": "transitions/s"}
    for threads in options.threads:
        pairs = []
        for number in range(options.pairs):
            pair = {}
            for who in ("ours", "theirs"):
                words = [sys.executable, __file__, "--one", who, "--threads", str(threads)]
                out = subprocess.run(words, capture_output=True, text=True, check=True).stdout
                pair[who] = float(out.strip().splitlines()[-1])
            pairs.append(pair)
            ratio = pair["ours"] / pair["theirs"]
            print(f"{threads} threads, pair {number}: {pair}, ratio {ratio:.2f}", flush=True)
        ratios = sorted(pair["ours"] / pair["theirs"] for pair in pairs)
        result[f"{threads} threads"] = {"pairs": pairs, "median ratio": statistics.median(ratios)}
        print(f"{threads} threads: median ratio {statistics.median(ratios):.2f}, {ratios}")
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "speed-sac.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
