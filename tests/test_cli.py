"""The command line as its user meets it: what works, and one line for each mistake."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
import pytest

import rlsuite
from rlsuite import build
from rlsuite.cli import main
from rlsuite.config import load_experiment
from rlsuite.errors import UserError

TINY = [
    *("--plan.total_transitions", "250", "--plan.warmup_transitions", "200"),
    *("--agent.hidden", "[8]", "--run.evaluation_episodes", "2", "--run.threads", "1"),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, not to be changed."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    assert main(["train", "sac/pendulum", "--quiet", "--folder", str(folder), *TINY]) == 0
    return folder


@pytest.fixture
def broken(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run that may be damaged."""
    subprocess.run(["cp", "-r", str(trained), str(tmp_path / "run")], check=True)
    return tmp_path / "run"


def failure(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one line that a mistake gets, with exit code 2."""
    capsys.readouterr()
    try:
        code = main([str(word) for word in words])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line]
    lines = [line for line in errors if not line.startswith(("warning: ", "training "))]
    assert len(lines) == 1, errors
    assert lines[0].startswith("error: ")
    return lines[0]


TRAIN = ("train", "sac/pendulum")
MISTAKES = {
    "unknown command": (("trian", "sac/pendulum"), "invalid choice: 'trian'"),
    "no command": ((), "required: COMMAND"),
    "no config": (("train",), "required: CONFIG"),
    "unknown option": ((*TRAIN, "--sede", "1"), "unrecognized arguments: --sede"),
    "unknown config": (("train", "sac/pendulm"), "did you mean sac/pendulum?"),
    "missing file": (("train", "my/own.toml"), "no config 'my/own.toml'"),
    "unknown setting": ((*TRAIN, "--agent.lr_actr", "1"), "did you mean agent.lr_actor?"),
    "wrong type": (
        (*TRAIN, "--run.seed", "one"),
        "run.seed is 'one' but should be a valid integer",
    ),
    "out of range": ((*TRAIN, "--agent.target_rate", "7"), "should be less than or equal to 1"),
    "value forgotten": ((*TRAIN, "--run.seed"), "--run.seed needs a value"),
    "value forgotten in the middle": ((*TRAIN, "--run.seed", "--quiet"), "needs a value"),
    "unknown environment": (
        (*TRAIN, "--env.id", "HalfCheeta-v5"),
        "unknown environment 'HalfCheeta-v5'; did you mean 'HalfCheetah-v5'?",
    ),
    "unknown import path": ((*TRAIN, "--env.id", "nowhere.envs:make"), "cannot import"),
    "discrete actions": ((*TRAIN, "--env.id", "CartPole-v1"), "SAC needs continuous actions"),
    "bad constructor argument": ((*TRAIN, "--env.kwargs", "{gravty = 1}"), "gravty"),
    "device not there": ((*TRAIN, "--run.device", "cuda:7"), "'cuda:7' is not there"),
    "device unheard of": ((*TRAIN, "--run.device", "gpu"), "run.device 'gpu' is not there"),
    "unknown optimizer": ((*TRAIN, "--agent.optimizer", "Adamm"), "unknown optimizer 'Adamm'"),
    "nothing to learn": ((*TRAIN, "--plan.warmup_transitions", "10000"), "leaves nothing to learn"),
    "too large a replay": (
        (*TRAIN, "--replay.capacity", "100_000_000_000", *TINY),
        "set replay.capacity to",
    ),
    "no run folder": (("resume", "no/such/run"), "no/such/run is not a run folder"),
    "evaluate no run": (("evaluate", "no/such/run"), "is not a run folder"),
    "enjoy no run": (("enjoy", "no/such/run"), "is not a run folder"),
    "plot no run": (("plot", "no/such/run"), "no/such/run"),
    "settings where they do not belong": (
        ("resume", "run", "--run.seed", "3"),
        "settings can be given to train and describe alone",
    ),
    "too few episodes": (("evaluate", "run", "--episodes", "0"), "0 is less than 1"),
    "no seed": (("evaluate", "run", "--seed", "-1"), "-1 is less than 0"),
    "a team's mistake in a worker": (
        (
            *("train", "hasac/spread_discrete", "--env.id", "toy_teams:make_breaking", *TINY),
            *("--env.kwargs", "{}", "--env.num_envs", "2", "--env.workers", "1"),
        ),
        "the reward of agent ally_0 is 'one', not a finite number",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_get_one_line(
    case: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words, message = MISTAKES[case]
    assert message in failure(capsys, *words)


def test_an_existing_run_folder_is_kept(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (trained / "metrics.csv").read_bytes()
    assert f"rlsuite resume {trained}" in failure(capsys, *TRAIN, "--folder", trained, *TINY)
    assert (trained / "metrics.csv").read_bytes() == before


def test_two_processes_do_not_train_in_one_folder(
    broken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with filelock.FileLock(broken / "lock"):
        message = failure(capsys, "resume", broken, "--quiet")
        assert f"another process is training in {broken}" in message
        assert main(["evaluate", str(broken), "--episodes", "1"]) == 0


def test_a_run_that_another_process_began_meanwhile_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = build._write_record

    def late(*arguments: Any) -> None:
        write(*arguments)
        lock.acquire()

    lock = filelock.FileLock(tmp_path / "run" / "lock")
    monkeypatch.setattr(build, "_write_record", late)
    with pytest.raises(UserError, match="another process is training"):
        build.train(load_experiment("dqn/cartpole"), tmp_path / "run", quiet=True)
    lock.release()
    assert (tmp_path / "run" / "experiment.json").exists()


def test_a_refused_experiment_leaves_no_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for setting in (("--env.id", "CartPole-v1"), ("--run.device", "cuda:7")):
        failure(capsys, *TRAIN, "--quiet", "--folder", tmp_path / "run", *setting)
        assert not (tmp_path / "run").exists()


def damage_experiment(run: Path) -> None:
    (run / "experiment.json").write_text("{")


def damage_checkpoint(run: Path) -> None:
    for path in (run / "checkpoints").glob("*/tensors.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])


def remove_checkpoints(run: Path) -> None:
    subprocess.run(["rm", "-r", str(run / "checkpoints")], check=True)


def future_format(run: Path) -> None:
    for path in (run / "checkpoints").glob("*/manifest.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_experiment, "experiment.json cannot be read"),
        (damage_checkpoint, "tensors.safetensors is not what was written; no other checkpoint"),
        (remove_checkpoints, "has no checkpoint yet"),
        (future_format, "has checkpoint format 99, this version reads 1"),
    ],
)
def test_broken_runs_are_named(
    broken: Path,
    damage: Callable[[Path], None],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage(broken)
    assert message in failure(capsys, "evaluate", broken)


def test_a_missing_extra_is_named_with_its_install_command(
    capsys: pytest.CaptureFixture[str],
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, words in {
        "matplotlib": ("plot", trained, "--out", tmp_path / "x.png"),
        "imageio_ffmpeg": ("enjoy", trained, "--video", tmp_path / "x.mp4"),
    }.items():
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            for loaded in [m for m in sys.modules if m.startswith(f"{name}.")]:
                patch.delitem(sys.modules, loaded)
            assert "pip install 'rlsuite[report]'" in failure(capsys, *words)


def test_a_missing_plot_does_not_fail_the_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for loaded in [m for m in sys.modules if m.startswith("matplotlib.")]:
        monkeypatch.delitem(sys.modules, loaded)
    assert main([*TRAIN, "--quiet", "--folder", str(tmp_path / "run"), *TINY]) == 0
    captured = capsys.readouterr()
    assert "evaluation after 250 transitions" in captured.out
    assert "warning: no learning curve" in captured.err


def limited(words: list[str], kilobytes: int) -> subprocess.CompletedProcess[str]:
    """The command in a process whose files cannot grow beyond a size, as on a full disk."""
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({kilobytes * 1024},) * 2);"
        "from rlsuite.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)


def test_full_disk(tmp_path: Path) -> None:
    """What was saved before stays, and the run goes on once there is room."""
    folder = tmp_path / "run"
    words = ["train", "sac/pendulum", "--folder", str(folder), *TINY, "--agent.hidden", "[200,200]"]
    result = limited([*words, "--quiet"], kilobytes=100)
    assert result.returncode == 2
    (line,) = [text for text in result.stderr.splitlines() if text.startswith("error: ")]
    assert "cannot write the checkpoint" in line and "then resume the run" in line
    assert "Traceback" not in result.stderr
    assert main(["resume", str(folder), "--quiet"]) == 0


def test_a_nan_names_the_tensor_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    message = failure(
        capsys,
        *("train", "sac/pendulum", "--quiet", "--folder", folder, *TINY),
        *("--env.id", "tests.toy_faults:make", "--run.checkpoint_every_transitions", "210"),
        *("--run.log_every_transitions", "1000"),
    )
    assert "loss/" in message or "agent/" in message
    assert [p.name for p in (folder / "checkpoints").glob("0*")] == ["000000000210"]


@pytest.mark.parametrize("sampler", ["uniform", "prioritized", "rank"])
def test_what_diverges_is_told_in_one_line(
    sampler: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = failure(
        capsys,
        *("train", "dqn/cartpole", "--quiet", "--folder", tmp_path / "run"),
        *("--agent.optimizer", "SGD", "--agent.lr", "1e30", "--replay.sampler", sampler),
        *("--plan.warmup_transitions", "70", "--plan.total_transitions", "300"),
        *("--run.log_every_transitions", "10"),
    )
    assert "the last good checkpoint is kept in" in message
    assert ("priority" in message) == (sampler != "uniform")


def test_a_replay_that_is_refused_leaves_no_run_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    words = ["train", "dqn/cartpole", "--quiet", "--folder", folder, "--plan.total_transitions"]
    words += ["300", "--plan.warmup_transitions", "100"]
    message = failure(capsys, *words, "--replay.capacity", "100_000_000_000")
    assert "capacity" in message
    assert not folder.exists()
    assert main([*map(str, words), "--replay.capacity", "1_000"]) == 0


def test_train_leaves_what_it_says(trained: Path) -> None:
    names = {path.name for path in trained.iterdir()}
    assert names - {"lock"} == {
        *("experiment.json", "metrics.csv", "tensorboard", "checkpoints"),
        *("evaluation.json", "learning_curve.png"),
    }
    record = json.loads((trained / "experiment.json").read_text())
    assert record["versions"]["torch"] and record["experiment"]["run"]["threads"] == 1
    (evaluation,) = json.loads((trained / "evaluation.json").read_text())["evaluations"]
    assert evaluation["transitions"] == 250 and len(evaluation["returns"]) == 2


def test_evaluate_again_gives_the_same(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (logged,) = json.loads((trained / "evaluation.json").read_text())["evaluations"]
    capsys.readouterr()
    assert main(["evaluate", str(trained), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == logged
    assert main(["evaluate", str(trained), "--episodes", "3", "--seed", "5", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["returns"]) == 3


def test_resuming_a_finished_run_shows_its_result(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["resume", str(trained), "--quiet"]) == 0
    assert "evaluation after 250 transitions" in capsys.readouterr().out


def test_enjoy_records_a_video(trained: Path, tmp_path: Path) -> None:
    target = tmp_path / "policy.mp4"
    environment = {k: v for k, v in os.environ.items() if k != "DISPLAY"}
    subprocess.run(
        [sys.executable, "-m", "rlsuite", "enjoy", str(trained), "--video", str(target)],
        check=True,
        env=environment,
    )
    import imageio.v3 as imageio

    frames = imageio.imread(target)
    assert len(frames) == 200 and frames.std() > 1


def test_plot_several_runs(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plot", str(trained), str(trained), "--out", "curves.pdf"]) == 0
    assert (tmp_path / "curves.pdf").stat().st_size > 1000


def test_configs_and_describe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert any(line.startswith("sac/halfcheetah ") for line in listed)
    assert main(["describe", "sac/pendulum", "--run.seed", "3"]) == 0
    described = capsys.readouterr().out
    for expected in ("run.seed", "command line", "agent.lr_actor", "0.001", "sac/pendulum"):
        assert expected in described


@pytest.mark.parametrize(
    "command", ["", "train", "resume", "evaluate", "enjoy", "plot", "describe"]
)
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "usage: rlsuite" in text
    if command in ("train", "describe"):
        assert "--SECTION.NAME VALUE" in text


def test_load_gives_an_agent_to_act_with(trained: Path) -> None:
    import torch

    agent = rlsuite.load(trained)
    action, _ = agent.act(torch.zeros(5, 3), explore=False)
    assert action.shape == (5, 1) and (action.abs() <= 2).all()
