"""A short HASAC run in an environment that an adapter brought."""

import csv
import math

from rlsuite.build import train
from rlsuite.config import build_experiment


def train_hasac(folder, **env):
    """Some updates, whose losses must be finite; the last evaluation."""
    data = {
        "algorithm": "hasac",
        "env": {"num_envs": 2, **env},
        "agent": {"hidden": [16]},
        "plan": {"total_transitions": 80, "warmup_transitions": 40, "batch_size": 16},
        "run": {"evaluation_episodes": 2, "log_every_transitions": 20},
    }
    evaluation = train(build_experiment("adapter", data), folder, quiet=True)
    with (folder / "metrics.csv").open() as file:
        losses = [row["loss/critic"] for row in csv.DictReader(file) if row["loss/critic"]]
    assert losses and all(math.isfinite(float(loss)) for loss in losses)
    assert evaluation.transitions == 80
    return evaluation
