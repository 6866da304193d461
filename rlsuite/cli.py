"""The command line: train, resume, evaluate, enjoy, plot, reproduce, configs, describe."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from rlsuite import __version__
from rlsuite.errors import UserError

if TYPE_CHECKING:
    from rlsuite.evaluate import Assessment

EXIT_FAILED = 1
EXIT_USER_ERROR = 2
EXIT_STOPPED = 75
"""``EX_TEMPFAIL``: the run has saved itself, and resuming it goes on."""


PERTURB = """\
perturb: such as --perturb mass=0.5:1.5:5 friction=0.5:1.5:5 (a heat map), pole_length=0.5,1,2 (a
  curve) or obs_noise=0.1 (one value); results also go to RUN/robustness-NAMES.{json,csv,png}
  scales, 1 as trained: MuJoCo mass, friction, gravity, damping, strength; CartPole gravity,
  cart_mass, pole_mass, pole_length, force; Pendulum gravity, mass, length; Acrobot mass, length;
  MountainCar gravity, force
  any environment of one agent, 0 as trained: action_delay in steps; action_noise as a share of
  half the actions' range, or as the probability of a random action; obs_noise in the units of
  the observations"""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """Print and exit with code 2."""
        print(f"error: {message} (see: {self.prog} --help)", file=sys.stderr)
        raise SystemExit(EXIT_USER_ERROR)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. No traceback for what a user can put right."""
    warnings.showwarning = _one_line_warning
    words, overrides = _split_overrides(list(sys.argv[1:] if arguments is None else arguments))
    try:
        options = _parser().parse_args(words)
        if overrides and options.command not in ("train", "describe"):
            key = next(iter(overrides))
            raise UserError(f"--{key}: settings can be given to train and describe alone")
        options.overrides = overrides
        run: Callable[[argparse.Namespace], int] = options.run
        return run(options)
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_USER_ERROR
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except OSError as error:
        if error.filename is None and error.strerror is None:
            raise
        where = f": {error.filename}" if error.filename else ""
        print(f"error: {error.strerror}{where}", file=sys.stderr)
        return EXIT_USER_ERROR


def _parser() -> Parser:
    parser = Parser(
        prog="rlsuite",
        description="Train, continue, evaluate and compare reinforcement-learning agents.",
        epilog="Begin with: rlsuite configs, then rlsuite train sac/pendulum",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"rlsuite {__version__}")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=Parser
    )

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str) -> Parser:
        sub: Parser = commands.add_parser(
            name,
            help=text,
            description=text,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(run=run)
        return sub

    settings = (
        "settings: --SECTION.NAME VALUE for any setting that `rlsuite describe CONFIG` lists,\n"
        "  such as --run.seed 3 --agent.lr_actor 1e-3 --plan.total_transitions 100_000;\n"
        "  VALUE unset takes an optional setting away"
    )
    sub = command("train", _train, "Train an agent from a config, in a new run folder.")
    sub.epilog = settings
    sub.add_argument("config", metavar="CONFIG", help="a name from `rlsuite configs`, or a .toml")
    sub.add_argument("--folder", type=Path, help="run folder (default: runs/CONFIG-TIME-seedSEED)")
    sub.add_argument("--video", action="store_true", help="also record the final policy")
    sub.add_argument("--quiet", action="store_true", help="no progress, only the final table")

    sub = command("resume", _resume, "Continue a run from its newest checkpoint, bit for bit.")
    sub.add_argument("folder", metavar="RUN", type=Path, help="a run folder")
    sub.add_argument("--quiet", action="store_true", help="no progress, only the final table")

    sub = command(
        "evaluate", _evaluate, "Evaluate the newest checkpoints of runs; compare advisors."
    )
    sub.add_argument("folders", metavar="RUN", type=Path, nargs="+", help="run folders")
    sub.add_argument("--episodes", type=_count, help="episodes (default: the run's own number)")
    sub.add_argument("--seed", type=_seed, help="of the environments (default: the run's own)")
    sub.add_argument(
        "--json", action="store_true", help="print every episode, and advisors, as JSON"
    )
    sub.add_argument(
        "--perturb",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=LOW:HIGH:COUNT",
        help="evaluate in perturbed environments: a grid of up to two ranges is also drawn",
    )
    sub.epilog = PERTURB

    sub = command("enjoy", _enjoy, "Watch the policy of a run: a video file, or a window.")
    sub.add_argument("folder", metavar="RUN", type=Path, help="a run folder")
    sub.add_argument("--video", type=Path, help="file to write (default: RUN/video.mp4)")
    sub.add_argument("--window", action="store_true", help="show a window instead")
    sub.add_argument("--seed", type=_seed, default=0, help="of the environment (default: 0)")

    sub = command("plot", _plot, "Plot learning curves; runs that differ by seed are put together.")
    sub.add_argument("folders", metavar="RUN", type=Path, nargs="+", help="run folders")
    sub.add_argument("--out", type=Path, help="file: .png, .pdf or .svg (default: in the run)")

    sub = command("reproduce", _reproduce, "Measure a paper's claims; without a name, list papers.")
    sub.epilog = "exit code 1 if a figure is outside its gate"
    sub.add_argument("paper", metavar="PAPER", nargs="?", help="a name from the list")
    sub.add_argument("--folder", type=Path, help="of the results (default: runs/reproduce-PAPER)")
    sub.add_argument("--only", default="", help="experiments whose names begin with this")
    sub.add_argument("--seed", type=_seed, default=0, help="of all experiments (default: 0)")
    sub.add_argument("--processes", type=_count, help="at once (default: one a core)")
    sub.add_argument("--quiet", action="store_true", help="no progress, only the table")

    command("configs", _configs, "List the configs that come with the suite.")

    sub = command("describe", _describe, "Every setting of a config: value, source, meaning.")
    sub.epilog = settings
    sub.add_argument("config", metavar="CONFIG", help="a name from `rlsuite configs`, or a .toml")
    return parser


def _split_overrides(words: list[str]) -> tuple[list[str], dict[str, str]]:
    """Take ``--section.name value`` and ``--section.name=value`` out of the words."""
    rest: list[str] = []
    overrides: dict[str, str] = {}
    queue = iter(words)
    for word in queue:
        key, equals, value = word.partition("=")
        if not (key.startswith("--") and "." in key):
            rest.append(word)
            continue
        if not equals:
            value = next(queue, "")
            if not value or (value.startswith("--") and len(value) > 2):
                print(f"error: {key} needs a value", file=sys.stderr)
                raise SystemExit(EXIT_USER_ERROR)
        overrides[key.removeprefix("--").replace("-", "_")] = value
    return rest, overrides


def _whole(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:  # argparse would name the function that reads it
        raise argparse.ArgumentTypeError(f"invalid int value: {text!r}") from None
    if value < least:
        raise argparse.ArgumentTypeError(f"{text} is less than {least}")
    return value


def _count(text: str) -> int:
    return _whole(text, 1)


def _seed(text: str) -> int:
    return _whole(text, 0)


def _one_line_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)


def _train(options: argparse.Namespace) -> int:
    from rlsuite.build import train
    from rlsuite.config import load_experiment

    experiment = load_experiment(options.config, options.overrides)
    name = experiment.name.replace("/", "-")
    stamp = time.strftime("%Y%m%d-%H%M%S")
    folder = options.folder or Path("runs") / f"{name}-{stamp}-seed{experiment.run.seed}"
    if not options.quiet:
        print(
            f"training {experiment.algorithm} on {experiment.env.id}, "
            f"{experiment.length}, in {folder}",
            file=sys.stderr,
        )
    return _finish(lambda: train(experiment, folder, quiet=options.quiet), folder, options.video)


def _resume(options: argparse.Namespace) -> int:
    from rlsuite.build import resume

    return _finish(lambda: resume(options.folder, quiet=options.quiet), options.folder, video=False)


def _finish(work: Callable[[], Assessment], folder: Path, video: bool) -> int:
    """Do the work; then the evaluation table, the pictures and where things are."""
    from rlsuite.run import Stopped

    try:
        result = work()
    except Stopped:
        print(f"stopped; continue with: rlsuite resume {folder}", file=sys.stderr)
        return EXIT_STOPPED
    print(f"\nevaluation after {result.progress}\n{result.table()}\n")
    places = [("run folder", folder), ("metrics", folder / "metrics.csv")]
    extras: list[tuple[str, Callable[[], Path]]] = [("learning curve", lambda: _curve(folder))]
    if video:
        extras.append(("video", lambda: _video(folder)))
    for what, make in extras:
        try:
            places.append((what, make()))
        except UserError as error:
            # The run itself is good: a missing extra must not make it look failed.
            print(f"warning: no {what}: {error}", file=sys.stderr)
    for what, path in places:
        print(f"  {what:<16} {path}")
    return 0


def _curve(folder: Path) -> Path:
    from rlsuite.plot import plot_runs

    return plot_runs([folder], folder / "learning_curve.png")


def _video(folder: Path, path: Path | None = None, seed: int = 0) -> Path:
    from rlsuite.build import load, read_experiment
    from rlsuite.video import record_video

    target = path or folder / "video.mp4"
    return record_video(load(folder), read_experiment(folder), target, seed=seed)


def _evaluate(options: argparse.Namespace) -> int:
    from rlsuite.advice_report import compare, table, to_json
    from rlsuite.build import evaluate_run

    if options.perturb:
        return _perturb(options)
    episodes, seed, is_text = options.episodes, options.seed, not options.json
    scores = compare(options.folders, episodes=episodes, seed=seed or 0)
    for folder in options.folders:
        result = evaluate_run(folder, episodes=episodes, seed=seed)
        where = f"{folder}, " if len(options.folders) > 1 else ""
        text = f"{where}after {result.progress}\n{result.table()}"
        print(text if is_text else json.dumps(result.to_json()))
    if scores:
        print(f"\n{table(scores)}" if is_text else json.dumps({"advisors": to_json(scores)}))
    return 0


def _perturb(options: argparse.Namespace) -> int:
    from rlsuite.robustness import (
        evaluate_robustness,
        parse_ranges,
        plot_robustness,
        write_robustness,
    )

    def say(text: str) -> None:
        print(text, file=sys.stderr)

    folder = options.folders[0]
    if len(options.folders) > 1:
        raise UserError(f"--perturb is for one run, not {len(options.folders)}")
    result = evaluate_robustness(
        folder,
        parse_ranges(options.perturb),
        episodes=options.episodes,
        seed=options.seed,
        say=say,
    )
    files = write_robustness(result, folder)
    try:
        files.append(plot_robustness(result, files[0].with_suffix(".png")))
    except UserError as error:
        print(f"warning: no picture: {error}", file=sys.stderr)
    if options.json:
        print(json.dumps(result.to_json()))
        return 0
    episodes = len(result.nominal.returns)
    print(f"\nafter {result.nominal.transitions:,} transitions, {episodes} episodes a point")
    print(result.table())
    for path in files:
        print(f"  {path}")
    return 0


def _enjoy(options: argparse.Namespace) -> int:
    from rlsuite.build import load, read_experiment
    from rlsuite.video import show

    if options.window:
        experiment = read_experiment(options.folder)
        for value in show(load(options.folder), experiment, seed=options.seed):
            print(f"return {value:,.1f}")
    else:
        print(_video(options.folder, options.video, options.seed))
    return 0


def _plot(options: argparse.Namespace) -> int:
    from rlsuite.plot import plot_runs

    out = options.out
    if out is None:
        single = len(options.folders) == 1
        out = options.folders[0] / "learning_curve.png" if single else Path("learning_curves.png")
    print(plot_runs(options.folders, out))
    return 0


def _reproduce(options: argparse.Namespace) -> int:
    from rlsuite.claims import markdown
    from rlsuite.reproduce import PAPERS, reproduce
    from rlsuite.run import Stopped

    if options.paper is None:
        for name, paper in PAPERS.items():
            print(f"{name:<28} {paper.title}")
        return 0
    folder = options.folder or Path("runs") / f"reproduce-{options.paper}"
    try:
        result = reproduce(
            options.paper,
            folder,
            only=options.only,
            seed=options.seed,
            processes=options.processes,
            quiet=options.quiet,
        )
    except Stopped:
        print("stopped; the same command goes on from there", file=sys.stderr)
        return EXIT_STOPPED
    print(markdown(result.claims))
    for path in result.files:
        print(f"  {path}")
    for warning in result.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    failed = [f"{c.experiment}, {c.quantity}: {c.value:.4g}, not {c.gate}" for c in result.failures]
    if failed:
        print(f"failed: {'; '.join(failed)}", file=sys.stderr)
    return EXIT_FAILED if failed else 0


def _configs(options: argparse.Namespace) -> int:
    from rlsuite.config import config_names, load_experiment

    for name in config_names():
        print(f"{name:<28} {load_experiment(name).description}")
    return 0


def _describe(options: argparse.Namespace) -> int:
    from rlsuite.config import load_experiment

    experiment = load_experiment(options.config, options.overrides)
    print(f"{experiment.name}: {experiment.description} (algorithm: {experiment.algorithm})")
    section = ""
    for key, value, source, meaning in experiment.rows():
        if key.partition(".")[0] != section:
            section = key.partition(".")[0]
            print()
        shown = "unset" if value is None else json.dumps(value)
        print(f"{key:<32} {shown:<18} {source}\n    {meaning}")
    return 0
