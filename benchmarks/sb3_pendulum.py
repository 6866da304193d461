"""Stable-Baselines3's SAC on Pendulum-v1 with our replay and with its own: returns of ten seeds.

    python benchmarks/sb3_pendulum.py

5,000 transitions each (learning rate 1e-3, 500 transitions of warmup, everything else its
defaults), then 20 episodes without exploration. Writes benchmarks/results/sb3-pendulum.json.
"""

import json
import platform
import subprocess
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

SEEDS = range(10)
COMMIT = ["git", "describe", "--always", "--dirty", "--abbrev=40"]


def final_return(who: str, seed: int) -> float:
    import gymnasium as gym
    import torch
    from stable_baselines3 import SAC
    from stable_baselines3.common.buffers import ReplayBuffer
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.monitor import Monitor

    from rlsuite.sb3_replay import SB3ReplayBuffer

    torch.set_num_threads(1)
    cls = SB3ReplayBuffer if who == "ours" else ReplayBuffer
    settings = {"learning_rate": 1e-3, "learning_starts": 500, "device": "cpu"}
    model = SAC("MlpPolicy", "Pendulum-v1", seed=seed, replay_buffer_class=cls, **settings)
    model.learn(5_000)
    env = Monitor(gym.make("Pendulum-v1"))
    env.reset(seed=1_000)
    return float(evaluate_policy(model, env, 20)[0])


def main() -> None:
    runs = [(who, seed) for seed in SEEDS for who in ("ours", "theirs")]
    with ProcessPoolExecutor(2) as pool:
        returns = list(pool.map(final_return, *zip(*runs, strict=True)))
    commit = subprocess.run(COMMIT, capture_output=True, text=True).stdout.strip()
    result = {"command": "python benchmarks/sb3_pendulum.py", "commit": commit}
    result |= {"machine": platform.platform(), "transitions": 5_000, "seeds": list(SEEDS)}
    for who in ("ours", "theirs"):
        result[who] = [value for (name, _), value in zip(runs, returns, strict=True) if name == who]
        print(who, result[who])
    Path("benchmarks/results/sb3-pendulum.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
