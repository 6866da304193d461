"""The learning runs: train configs over seeds, and say whether each reaches its gate.

    python benchmarks/learning.py sac/pendulum sac/halfcheetah --seeds 0 1 2 --jobs 2

Every run is one process with one thread; a run that was interrupted is resumed. Results go to
benchmarks/results/CONFIG.json: every evaluation of every seed, with command, commit and versions.
Beside it goes a picture of the learning curves, with those of earlier results under --beside.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rlsuite.plot import plot_runs
from rlsuite.stats import iqm, stratified_bootstrap

# What each config has to reach, with the place it comes from. Evaluations are the mean over 10
# episodes without exploration; "final" is the last one, "best" the best of a seed's evaluations.
GATES = {
    "sac/pendulum": ("final", -220.0, "a correct SAC is at -150 to -250 from 6,000 on"),
    "sac/inverted_pendulum": ("best", 950.0, "of 1,000; touched and lost again by every library"),
    "sac/hopper": ("final", 400.0, "published at 100,000: 897 (SB3), 1,145 to 1,164 (Spinning Up)"),
    "dqn/pong": ("final", -10.0, "a random policy is at -20.7; 21 is perfect"),
    "sac/halfcheetah": ("final", 3500.0, "published at 100,000: 4,961 (SB3), 6,081 to 6,285 (SU)"),
    "hasac/halfcheetah_2x3_short": ("final", 1000.0, "expected at an update in four: 1,000-2,000"),
    "hasac/reference": ("final", -30.0, "clearly above -35.1, the most without messages"),
    "hasac/reference_discrete": ("final", -30.0, "clearly above -35.1, the most without messages"),
    "maddpg/spread": ("final", -50.0, "coordination; random play -79, scripted optimum -20.5"),
    "mappo/spread": ("final", -50.0, "coordination; random play -83, scripted optimum -26.3"),
    "happo/spread": ("final", -50.0, "coordination; random play -83, scripted optimum -26.3"),
}


def run(config: str, seed: int, runs: Path) -> Path:
    folder = runs / f"{config.replace('/', '-')}-seed{seed}"
    words = ["resume", str(folder)]
    if not folder.exists():
        words = ["train", config, "--folder", str(folder), "--run.seed", str(seed)]
        words += ["--run.threads", "1"]
    subprocess.run([sys.executable, "-m", "rlsuite", *words, "--quiet"], check=True)
    return folder


def collect(config: str, folders: dict[int, Path]) -> dict:
    records = {seed: json.loads((f / "experiment.json").read_text()) for seed, f in folders.items()}
    first = next(iter(records.values()))
    evaluations = {
        seed: json.loads((folder / "evaluation.json").read_text())["evaluations"]
        for seed, folder in folders.items()
    }
    return {
        "config": config,
        "command": f"python benchmarks/learning.py {config} --seeds "
        + " ".join(str(seed) for seed in folders),
        "commits": sorted({record["commit"] or "unknown" for record in records.values()}),
        "versions": first["versions"],
        "machine": first["machine"],
        "experiment": first["experiment"],
        "returns": {
            seed: {entry["transitions"]: entry["returns"] for entry in entries}
            for seed, entries in evaluations.items()
        },
    }


def unpacked(path: Path, folder: Path) -> list[Path]:
    """A committed result as run folders, as far as a plot needs them."""
    result, folders = json.loads(path.read_text()), []
    for seed, by_time in result["returns"].items():
        run = folder / f"{path.stem}-seed{seed}"
        run.mkdir()
        experiment = result["experiment"]
        record = {
            "config": result["config"],
            "experiment": {**experiment, "run": {**experiment["run"], "seed": int(seed)}},
        }
        entries = [{"transitions": time, "returns": each} for time, each in by_time.items()]
        (run / "experiment.json").write_text(json.dumps(record))
        (run / "evaluation.json").write_text(json.dumps({"evaluations": entries}))
        (run / "metrics.csv").write_text("transitions\n")
        folders.append(run)
    return folders


def draw(config: str, beside: list[str], results: Path) -> None:
    """The curves of committed results, into CONFIG.png."""
    names = [each.replace("/", "-") for each in (config, *beside)]
    with tempfile.TemporaryDirectory() as folder:
        runs = [run for name in names for run in unpacked(results / f"{name}.json", Path(folder))]
        plot_runs(runs, results / f"{names[0]}.png")


def report(result: dict) -> bool:
    """Print a line a seed and the gate; whether the median seed passes."""
    kind, gate, source = GATES.get(result["config"], ("final", float("-inf"), "no gate"))
    finals, values = [], []
    for seed, by_time in result["returns"].items():
        means = [statistics.fmean(returns) for returns in by_time.values()]
        finals.append([means[-1]])
        values.append(means[-1] if kind == "final" else max(means))
        print(f"  seed {seed}: final {means[-1]:,.1f}, best {max(means):,.1f}")
    interval = stratified_bootstrap(finals, iqm)
    median = statistics.median(values)
    passed = median >= gate
    print(
        f"  final: IQM {interval.point:,.1f} (95 %: {interval.low:,.1f} to {interval.high:,.1f})\n"
        f"  gate: median of the seeds' {kind} {median:,.1f} >= {gate:,.1f} ({source}): "
        f"{'passed' if passed else 'NOT PASSED'}"
    )
    return passed


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("configs", nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2, help="runs at the same time")
    parser.add_argument("--runs", type=Path, default=Path("runs/learning"))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--beside", nargs="+", default=[], help="configs with committed results")
    options = parser.parse_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    passed = True
    with ThreadPoolExecutor(options.jobs) as pool:
        jobs = {
            (config, seed): pool.submit(run, config, seed, options.runs)
            for config in options.configs
            for seed in options.seeds
        }
        for config in options.configs:
            folders = {seed: jobs[config, seed].result() for seed in options.seeds}
            result = collect(config, folders)
            path = options.results / f"{config.replace('/', '-')}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(result, indent=1))
            draw(config, options.beside, options.results)
            print(config)
            passed &= report(result)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
