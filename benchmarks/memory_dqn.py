"""Peak memory of DQN on Pong, 100,000 transitions in its replay, beside Stable-Baselines3.

    python benchmarks/memory_dqn.py

Each library fills its replay by random play of 8 games and then makes some updates, in a process of
its own with one thread. Writes benchmarks/results/memory-dqn.json.
"""

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

TRANSITIONS = 100_000
LEARNING = 1_000
COMMIT = ["git", "describe", "--always", "--dirty", "--abbrev=40"]


def ours() -> None:
    from rlsuite.build import train
    from rlsuite.config import load_experiment

    settings = {
        "replay.capacity": TRANSITIONS,
        "plan.warmup_transitions": TRANSITIONS,
        "plan.total_transitions": TRANSITIONS + LEARNING,
        "run.threads": 1,
        "run.evaluate_every_transitions": 0,
        "run.checkpoint_every_transitions": 0,
        "run.evaluation_episodes": 1,
        "env.time_limit": 500,
    }
    experiment = load_experiment("dqn/pong", {key: str(value) for key, value in settings.items()})
    with tempfile.TemporaryDirectory() as folder:
        train(experiment, Path(folder) / "run", quiet=True)


def theirs() -> None:
    import ale_py
    import gymnasium as gym
    import torch
    from stable_baselines3 import DQN
    from stable_baselines3.common.env_util import make_atari_env
    from stable_baselines3.common.vec_env import VecFrameStack

    torch.set_num_threads(1)
    gym.register_envs(ale_py)
    env = VecFrameStack(make_atari_env("PongNoFrameskip-v4", n_envs=8, seed=0), 4)
    model = DQN("CnnPolicy", env, buffer_size=TRANSITIONS, learning_starts=TRANSITIONS)
    model.learn(TRANSITIONS + LEARNING)


def main() -> None:
    if sys.argv[1:]:
        {"ours": ours, "theirs": theirs}[sys.argv[1]]()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    peak = {}
    for name in ("ours", "theirs"):
        out = subprocess.run([sys.executable, __file__, name], stdout=subprocess.PIPE, check=True)
        peak[name] = round(float(out.stdout.split()[-1]))
        print(f"{name:<7} {peak[name]:,} MiB", flush=True)
    ratio = peak["ours"] / peak["theirs"]
    print(f"ratio   {ratio:.3f} (at most 0.2)")
    here = Path(__file__).parent
    commit = subprocess.run(COMMIT, cwd=here, capture_output=True, text=True, check=True)
    result = {
        "command": "python benchmarks/memory_dqn.py",
        "commit": commit.stdout.strip(),
        "peak_mib": peak,
        "ratio": ratio,
    }
    (here / "results" / "memory-dqn.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
