"""Killed at any moment and resumed, a run ends as if it had never been interrupted, bit for bit.

Every agent has to pass this: add its config to ``CASES``. More kills than the default:
``python -m pytest tests/test_resume.py --kills 20``.
"""

import csv
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from processes import Process, command, finish

from rlsuite.checkpoint import CheckpointStore
from rlsuite.types import Chunk

# Odd numbers on purpose: checkpoints fall between log lines, the ring wraps, episodes are cut in
# the middle, and the epoch of the sampler is never done at a checkpoint.
REPLAY_PLAN = """
[plan]
total_transitions = 1_001
warmup_transitions = 101
updates_per_transition = 0.5
batch_size = 33
"""
# Checkpoints fall inside rollouts, of 74 to 111 transitions.
ROLLOUT_PLAN = """
[plan]
total_transitions = 1_001
steps_per_rollout = 37
"""
RUN = """
[run]
threads = 1
log_every_transitions = 70
evaluate_every_transitions = 300
evaluation_episodes = 2
checkpoint_every_transitions = 60
"""
ON_POLICY = ("ppo", "robust_ppo", "happo", "mappo")
CASES = {
    "sac": """
algorithm = "sac"
[env]
id = "Pendulum-v1"
num_envs = 2
time_limit = 90
[agent]
hidden = [32, 32]
[replay]
capacity = 701
n_step = 3
""",
    "tqc": """
algorithm = "tqc"
[env]
id = "Pendulum-v1"
num_envs = 2
time_limit = 90
[agent]
hidden_actor = [16]
hidden_critic = [16, 16]
critics = 2
quantiles = 5
[replay]
capacity = 701
""",
    "droq": """
algorithm = "droq"
[env]
id = "Pendulum-v1"
num_envs = 2
time_limit = 90
[agent]
hidden = [16, 16]
dropout = 0.1
critic_updates_per_policy_update = 3
[replay]
capacity = 701
""",
    "hasac": """
algorithm = "hasac"
[env]
id = "mpe/reference"
num_envs = 3
kwargs = { continuous = false }
[agent]
hidden = [16]
[replay]
capacity = 701
sampler = "prioritized"
n_step = 2
""",
    "hatd3": """
algorithm = "hatd3"
[env]
id = "mpe/speaker_listener"
num_envs = 3
[agent]
hidden = [16]
policy_period = 3
[replay]
capacity = 701
sampler = "prioritized"
n_step = 2
""",
    "crossq": """
algorithm = "crossq"
[env]
id = "Pendulum-v1"
num_envs = 2
time_limit = 90
[agent]
hidden_actor = [16]
hidden_critic = [16, 16]
renorm_warmup = 200
[replay]
capacity = 701
""",
    "sac-workers-mujoco-normalized": """
algorithm = "sac"
[env]
id = "Hopper-v5"
num_envs = 3
workers = 1
normalize_obs = true
normalize_reward = true
[agent]
hidden = [16]
policy_period = 2
[replay]
capacity = 5_000
sampler = "uniform"
""",
    "dqn": """
algorithm = "dqn"
[env]
id = "CartPole-v1"
num_envs = 2
[agent]
hidden = [16]
double = true
dueling = true
target_period = 37
epsilon_transitions = 600
epsilon_evaluation = 0.1
[replay]
capacity = 701
n_step = 3
""",
    "dqn-image": """
algorithm = "dqn"
[env]
id = "tests.toy_envs:CatchEnv"
[agent]
hidden = [16]
loss = "huber"
optimizer = "RMSprop"
[replay]
capacity = 701
""",
    "dqn-atari-groups-rrm": """
algorithm = "dqn"
[env]
id = "ALE/Pong-v5"
num_envs = 4
groups = 2
time_limit = 60
[agent]
hidden = [16]
loss = "huber"
huber_threshold = 0.01
[replay]
capacity = 701
sampler = "rrm"
[plan]
total_transitions = 1_001
warmup_transitions = 101
updates_per_transition = 0.05
batch_size = 9
""",
    "c51": """
algorithm = "c51"
[env]
id = "Acrobot-v1"
num_envs = 2
time_limit = 90
[agent]
hidden = [16]
target_period = 37
[replay]
capacity = 701
""",
    "discrete_sac": """
algorithm = "discrete_sac"
[env]
id = "CartPole-v1"
num_envs = 2
[agent]
hidden = [16]
value = "mean"
q_clip = 0.5
entropy_penalty = 0.5
[replay]
capacity = 701
""",
    "aadqn": """
algorithm = "aadqn"
[env]
id = "CartPole-v1"
num_envs = 2
[advice]
human = "rlsuite.envs.humans:cartpole_angle"
adherence = "rlsuite.envs.adherence:Fatigue"
adherence_kwargs = { value = 0.8, drop = 0.5, steps = 7 }
cost = 0.1
budget = 20
[agent]
hidden = [16]
known_human = true
greatest_cost = 0.5
target_period = 3
[replay]
capacity = 701
sampler = "prioritized"
""",
    "blind_dqn-normalized": """
algorithm = "blind_dqn"
[env]
id = "CartPole-v1"
num_envs = 3
workers = 1
normalize_obs = true
[advice]
human = "rlsuite.envs.humans:cartpole_angle"
adherence = 0.6
[agent]
hidden = [16]
threshold = 0.1
[replay]
capacity = 701
""",
    "ppo": """
algorithm = "ppo"
[env]
id = "CartPole-v1"
num_envs = 2
[agent]
hidden = [16]
epochs = 3
batch_size = 32
target_kl = 0.01
""",
    "ppo-workers-normalized": """
algorithm = "ppo"
[env]
id = "Pendulum-v1"
num_envs = 3
workers = 1
time_limit = 50
normalize_obs = true
normalize_reward = true
[agent]
hidden = [16]
normalize_values = true
""",
    "robust_ppo-workers-mujoco-normalized": """
algorithm = "robust_ppo"
[env]
id = "InvertedPendulum-v5"
num_envs = 3
workers = 1
normalize_obs = true
normalize_reward = true
uncertain = { mass = [0.5, 2.0], gravity = [0.9, 1.2] }
[agent]
hidden = [16]
candidates = 4
worst = 2
""",
    "happo": """
algorithm = "happo"
[env]
id = "mpe/speaker_listener"
num_envs = 3
kwargs = { continuous = false }
[agent]
hidden = [16]
minibatches = 2
""",
    "mappo": """
algorithm = "mappo"
[env]
id = "rlsuite.envs.skirmish:Skirmish"
num_envs = 2
[agent]
hidden = [16]
""",
    "drpg": """
algorithm = "drpg"
[env]
id = "garnet"
states = 9
actions = 5
instances = 4
[agent]
adversary = "ascent"
step = { size = 0.01, relative = false }
[adversary]
max_solves = 5
[plan]
total_iterations = 1_001
""",
}


def config_of(case: str) -> str:
    if case == "drpg":  # evaluated exactly
        return CASES[case] + RUN.replace("evaluation_episodes = 2\n", "")
    if "[plan]" in CASES[case]:
        return CASES[case] + RUN
    return CASES[case] + (ROLLOUT_PLAN if case.split("-")[0] in ON_POLICY else REPLAY_PLAN) + RUN


def outcome(folder: Path) -> dict:
    """Everything that must be equal: the last state, every metric, every evaluation."""
    state = CheckpointStore(folder / "checkpoints").load()
    for name in ("seconds", "csv_bytes"):
        del state["run"][name]
    with (folder / "metrics.csv").open() as file:
        rows = [
            {name: text for name, text in row.items() if not name.startswith("time/")}
            for row in csv.DictReader(file)
        ]
    evaluations = json.loads((folder / "evaluation.json").read_text())
    return {"state": state, "metrics": rows, "evaluations": evaluations}


def differences(a: object, b: object, path: str = "") -> list[str]:
    if isinstance(a, Chunk) and isinstance(b, Chunk):
        return differences({a.name: a.tensors}, {b.name: b.tensors}, path)
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if torch.equal(a, b) else [path]
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [d for key in a for d in differences(a[key], b[key], f"{path}/{key}")]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        pairs = enumerate(zip(a, b, strict=True))
        return [d for i, (x, y) in pairs for d in differences(x, y, f"{path}/{i}")]
    if path.endswith("/seconds"):  # how long the unfinished episodes have taken so far
        return []
    return [] if a == b else [path]


def wait_for_rows(process: Process, folder: Path, rows: int) -> None:
    """Until so many rows of metrics have been written, or the process has ended."""
    log = folder / "metrics.csv"
    while process.running() and not (log.exists() and log.read_bytes().count(b"\n") > rows):
        time.sleep(0.003)


def wait_for_more(process: Process, folder: Path, since: float) -> None:
    """Until there are metrics of after ``since``."""
    log = folder / "metrics.csv"
    while process.running() and not (log.exists() and log.stat().st_mtime >= since):
        time.sleep(0.003)


def wait_for_a_checkpoint_being_written(process: Process, folder: Path) -> None:
    while process.running() and not list((folder / "checkpoints").glob(".staging-*")):
        pass


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, float, dict]]:
    return {}


def reference(case: str, references: dict, tmp_path_factory: pytest.TempPathFactory) -> tuple:
    if case not in references:
        folder = tmp_path_factory.mktemp(case)
        config = folder / "config.toml"
        config.write_text(config_of(case))
        process = Process(command, "train", config, "--folder", folder / "run")
        wait_for_rows(process, folder / "run", 1)
        began = time.monotonic()
        finish(process)
        references[case] = (config, time.monotonic() - began, outcome(folder / "run"))
    return references[case]


@pytest.mark.parametrize("case", CASES)
def test_killed_and_resumed_ends_the_same(
    case: str,
    references: dict,
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
    pytestconfig: pytest.Config,
) -> None:
    config, seconds, expected = reference(case, references, tmp_path_factory)
    assert len(expected["metrics"]) >= 15 and len(expected["evaluations"]["evaluations"]) == 4
    rng = random.Random(case)
    killed, wanted = 0, pytestconfig.getoption("kills")
    for number in range(3 * wanted):  # on a busy machine some runs end before they are killed
        if killed == wanted:
            break
        folder = tmp_path / str(number)
        process = Process(command, "train", config, "--folder", folder)
        # By progress, for no two runs take as long.
        wait_for_rows(process, folder, rng.randint(1, 8 if number % 2 else 11))
        if number % 2:
            wait_for_a_checkpoint_being_written(process, folder)
            time.sleep(rng.uniform(0, 0.01))
        else:
            time.sleep(rng.uniform(0, 0.07) * seconds)
        killed += process.kill()
        if rng.random() < 0.4:  # killed once more while it resumes
            process, since = Process(command, "resume", folder), time.time()
            wait_for_more(process, folder, since)
            time.sleep(rng.uniform(0, 0.3) * seconds)
            process.kill()
        finish(Process(command, "resume", folder))
        assert differences(expected, outcome(folder)) == []
    assert killed == wanted
    print(f"{case}: {killed} runs killed, all endings identical")


def test_stopped_by_a_signal_and_resumed_ends_the_same(
    references: dict, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    """Ctrl-C saves, at a moment between the regular checkpoints, and says how to go on."""
    config, _, expected = reference("sac", references, tmp_path_factory)
    process = Process(command, "train", config, "--folder", tmp_path / "run")
    wait_for_rows(process, tmp_path / "run", 5)
    process.signal(signal.SIGINT)
    code, errors = process.finish(60)
    assert code == 75
    assert f"continue with: rlsuite resume {tmp_path / 'run'}" in errors
    finish(Process(command, "resume", tmp_path / "run"))
    assert differences(expected, outcome(tmp_path / "run")) == []


def test_how_often_one_saves_changes_nothing(
    references: dict, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    config, _, expected = reference("sac", references, tmp_path_factory)
    never = ("--run.checkpoint_every_transitions", 0)
    finish(Process(command, "train", config, "--folder", tmp_path / "run", *never))
    assert differences(expected, outcome(tmp_path / "run")) == []


def test_an_environment_that_does_not_repeat_itself(tmp_path: Path) -> None:
    """Said aloud at the start and when resuming; the run still ends well, on new episodes."""
    config = tmp_path / "config.toml"
    config.write_text(config_of("sac").replace("Pendulum-v1", "tests.toy_faults:make_unseeded"))
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "rlsuite", "train", str(config), "--folder", str(folder)],
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (folder / "checkpoints" / "latest").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert "does not repeat itself" in errors
    result = subprocess.run(
        [sys.executable, "-m", "rlsuite", "resume", str(folder)], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "their next episodes begin" in result.stderr
    state = CheckpointStore(folder / "checkpoints").load()
    assert state["replay"]["ring"]["rewrites"] == 1 and state["run"]["transitions"] >= 1_001
