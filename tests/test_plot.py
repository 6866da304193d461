"""Learning curves: what the picture shows, and what it refuses to show."""

import csv
import json
import struct
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlsuite.errors import UserError
from rlsuite.plot import format_count, learning_curves, plot_runs
from rlsuite.stats import iqm, mean, stratified_bootstrap

STEPS = (10_000, 20_000, 30_000)
Evaluations = Sequence[tuple[int, list[float]]]


def write_run(
    folder: Path,
    *,
    evaluations: Evaluations | None = tuple((t, [t / 100, t / 100 + 50]) for t in STEPS),
    training: Sequence[tuple[float, float | str]] = tuple((t, t / 200) for t in STEPS),
    config: str = "sac/halfcheetah",
    **changed: Any,
) -> Path:
    """A run folder; ``changed`` are settings as section_name."""
    experiment: dict[str, Any] = {
        "algorithm": "sac",
        "description": "",
        "env": {"id": "HalfCheetah-v5", "kwargs": {}},
        "agent": {"lr_actor": 3e-4, "hidden": [256, 256]},
        "run": {"seed": 0, "threads": 2, "checkpoint_every_transitions": 10_000},
    }
    for name, value in changed.items():
        section, _, setting = name.partition("_")
        experiment[section][setting] = value
    folder.mkdir(parents=True)
    (folder / "experiment.json").write_text(
        json.dumps({"config": config, "experiment": experiment, "versions": {}})
    )
    with (folder / "metrics.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["transitions", "episode/return", "episode/length"])
        for transitions, value in training:
            table.writerow([transitions, value, "" if value == "" else 1000])
    if evaluations is not None:
        entries = [
            {"transitions": t, "returns": r, "lengths": [9] * len(r), "seed": 1}
            for t, r in evaluations
        ]
        (folder / "evaluation.json").write_text(json.dumps({"evaluations": entries}))
    return folder


def write_seeds(folder: Path, values: Sequence[float], **changed: Any) -> list[Path]:
    """One run a value, which its evaluations return on average; half of it in training."""
    return [
        write_run(
            folder / f"seed{seed}",
            run_seed=seed,
            evaluations=[(t, [value - 1, value + 1]) for t in STEPS],
            training=[(t, value / 2) for t in STEPS],
            **changed,
        )
        for seed, value in enumerate(values)
    ]


def curves(axes: Axes) -> dict[str, Any]:
    """Labelled lines by label; those without a label are counted under ""."""
    lines: dict[str, Any] = {"": 0}
    for line in axes.get_lines():
        label = str(line.get_label()).replace("\n", " ")
        if label.startswith("_"):
            lines[""] += 1
        else:
            assert label not in lines
            lines[label] = line
    return lines


def bands(axes: Axes) -> list[tuple[float, float]]:
    """Lowest and highest value of each band."""
    extents = [patch.get_paths()[0].get_extents() for patch in axes.collections]
    return [(float(box.y0), float(box.y1)) for box in extents]


def legends(figure: Figure) -> list[list[str]]:
    found = [*figure.legends, *(axes.get_legend() for axes in figure.axes)]
    return [[text.get_text().replace("\n", " ") for text in x.get_texts()] for x in found if x]


def titles(figure: Figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes]


@pytest.mark.parametrize(
    ("name", "magic"),
    [
        ("a.png", b"\x89PNG"),
        ("new/folder/a.pdf", b"%PDF"),
        ("a.svg", b"<?xml"),
        ("A.PNG", b"\x89P"),
    ],
)
def test_pictures_are_written_in_the_format_of_their_name(
    tmp_path: Path, name: str, magic: bytes
) -> None:
    out = tmp_path / name
    assert plot_runs([write_run(tmp_path / "run")], out) == out
    content = out.read_bytes()
    assert content.startswith(magic) and len(content) > 5000
    if name == "a.png":
        assert struct.unpack(">II", content[16:24]) == (4.5 * 150, 3.2 * 150)
    if name.endswith(".pdf"):
        assert b"/Type3" not in content


def test_one_run(tmp_path: Path) -> None:
    figure = learning_curves([write_run(tmp_path / "run")])
    (axes,) = figure.axes
    lines = curves(axes)
    label = "evaluation: mean of episodes, lowest to highest"
    assert lines.keys() == {"", "training", label} and lines[""] == 0
    np.testing.assert_allclose(lines[label].get_xydata(), [(t, t / 100 + 25) for t in STEPS])
    np.testing.assert_allclose(lines["training"].get_xydata(), [(t, t / 200) for t in STEPS])
    assert lines["training"].get_linewidth() < lines[label].get_linewidth()
    assert bands(axes) == [(100, 350)]
    assert sorted(legends(figure)[0]) == sorted({"training", label})
    assert figure.get_suptitle() == "HalfCheetah-v5"
    assert axes.get_xlabel() == "environment transitions"
    assert axes.get_ylabel() == "return per episode"
    assert axes.xaxis.get_major_formatter()(50_000) == "50k"


@pytest.mark.parametrize("evaluations", [None, []])
def test_a_run_without_evaluations_shows_its_training(
    tmp_path: Path, evaluations: Evaluations | None
) -> None:
    run = write_run(tmp_path / "a", evaluations=evaluations)
    assert curves(learning_curves([run]).axes[0]).keys() == {"", "training"}
    other = write_run(tmp_path / "b", evaluations=evaluations, run_seed=1)
    assert titles(learning_curves([run, other])) == ["training"]


def test_a_run_without_training_returns_shows_its_evaluations(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", training=[(1000, ""), (2000, "")])
    assert len(curves(learning_curves([run]).axes[0])) == 2
    (run / "metrics.csv").write_text("transitions,solve/gap\n1000,0.5\n")
    assert len(curves(learning_curves([run]).axes[0])) == 2


def test_blank_cells_and_a_row_being_written_are_left_out(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", training=[(1000, 5), (2000, ""), (3000, 7)])
    with (run / "metrics.csv").open("a") as file:
        file.write("4000,-1")  # of -1234.5,1000
    line = curves(learning_curves([run]).axes[0])["training"]
    assert line.get_xydata().tolist() == [[1000, 5], [3000, 7]]


def test_five_seeds_become_their_iqm_with_an_interval(tmp_path: Path) -> None:
    values = [0.0, 10, 20, 60, 1000]
    figure = learning_curves(write_seeds(tmp_path, values))
    label = "sac/halfcheetah: IQM of 5 seeds, 95 % interval"
    assert titles(figure) == ["evaluation", "training"]
    assert legends(figure) == [[label]]
    for axes, scale in zip(figure.axes, (1, 0.5), strict=True):
        lines = curves(axes)
        assert lines.keys() == {"", label} and lines[""] == 0
        np.testing.assert_allclose(lines[label].get_xdata(), STEPS)
        np.testing.assert_allclose(lines[label].get_ydata(), scale * 30)
        _, low, high = stratified_bootstrap(np.array(values) * scale, iqm, resamples=2000)
        assert bands(axes) == [pytest.approx((low, high))]


def test_three_seeds_become_their_mean_with_an_interval(tmp_path: Path) -> None:
    figure = learning_curves(write_seeds(tmp_path, [0, 10, 50]))
    label = "sac/halfcheetah: mean of 3 seeds, 95 % interval"
    assert legends(figure) == [[label]]
    np.testing.assert_allclose(curves(figure.axes[0])[label].get_ydata(), 20)
    _, low, high = stratified_bootstrap([0, 10, 50], mean, resamples=2000)
    assert bands(figure.axes[0]) == [pytest.approx((low, high))]


def test_two_seeds_are_shown_one_by_one_too(tmp_path: Path) -> None:
    figure = learning_curves(write_seeds(tmp_path, [0, 10]))
    lines = curves(figure.axes[0])
    assert lines.keys() == {"", "sac/halfcheetah: mean of 2 seeds"} and lines[""] == 2
    thin = [line for line in figure.axes[0].get_lines() if str(line.get_label()).startswith("_")]
    assert [line.get_ydata()[0] for line in thin] == [0, 10]
    assert bands(figure.axes[0]) == []


def test_groups_are_named_by_the_settings_that_differ(tmp_path: Path) -> None:
    runs = write_seeds(tmp_path / "a", [0, 10, 20, 30])
    runs += write_seeds(tmp_path / "b", [5, 6, 7], agent_lr_actor=0.001)
    runs += write_seeds(tmp_path / "c", [5], agent_lr_actor=0.001, env_time_limit=50)
    figure = learning_curves(runs)
    a = "agent.lr_actor=0.0003, env.time_limit=unset: IQM of 4 seeds, 95 % interval"
    b = "agent.lr_actor=0.001, env.time_limit=unset: mean of 3 seeds, 95 % interval"
    c = "agent.lr_actor=0.001, env.time_limit=50: 1 seed"
    assert legends(figure) == [[a, b, c]]
    lines = curves(figure.axes[0])
    assert [float(lines[name].get_ydata()[0]) for name in (a, b, c)] == [15, 6, 5]
    assert len({lines[name].get_color() for name in (a, b, c)}) == 3
    assert len(bands(figure.axes[0])) == 2


def test_groups_of_several_configs_are_named_by_them(tmp_path: Path) -> None:
    runs = write_seeds(tmp_path / "a", [0, 10])
    runs += write_seeds(tmp_path / "b", [5, 6], config="sac/hopper", env_id="Hopper-v5")
    figure = learning_curves(runs)
    assert legends(figure) == [["sac/halfcheetah: mean of 2 seeds", "sac/hopper: mean of 2 seeds"]]
    assert figure.get_suptitle() == ""
    runs.append(write_run(tmp_path / "c", env_time_limit=50))
    assert legends(learning_curves(runs)) == [
        [
            "sac/halfcheetah, env.time_limit=unset: mean of 2 seeds",
            "sac/hopper: mean of 2 seeds",
            "sac/halfcheetah, env.time_limit=50: 1 seed",
        ]
    ]


def test_threads_and_checkpoints_do_not_make_another_experiment(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / "a", run_seed=0, run_threads=2),
        write_run(tmp_path / "b", run_seed=1, run_threads=64, run_checkpoint_every_transitions=7),
    ]
    assert legends(learning_curves(runs)) == [["sac/halfcheetah: mean of 2 seeds"]]


def test_eight_groups_can_be_told_apart(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / str(i), agent_lr_actor=i / 10) for i in range(8)]
    lines = learning_curves(runs).axes[0].get_lines()
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 8


def test_training_returns_are_interpolated_where_all_seeds_have_been(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / "a", training=[(1000, 0), (3000, 20)]),
        write_run(tmp_path / "b", training=[(2000, 4), (4000, 8)], run_seed=1),
    ]
    with pytest.warns(UserWarning, match=r"training curve ends where .*a does"):
        figure = learning_curves(runs)
    line = curves(figure.axes[1])["sac/halfcheetah: mean of 2 seeds"]
    np.testing.assert_allclose(line.get_xydata(), [(2000, 7), (3000, 13)])


def test_long_training_curves_are_thinned(tmp_path: Path) -> None:
    long = [(1000 * i, i) for i in range(1, 1001)]
    runs = [write_run(tmp_path / str(i), training=long, run_seed=i) for i in range(3)]
    (line,) = learning_curves(runs).axes[1].get_lines()
    x, y = line.get_data()
    assert 100 <= len(x) <= 200 and x[-1] > 990_000
    np.testing.assert_allclose(y, np.array(x) / 1000)


def test_a_group_ends_with_its_shortest_run_aloud(tmp_path: Path) -> None:
    runs = write_seeds(tmp_path, [0, 10])
    short = write_run(tmp_path / "short", run_seed=2, evaluations=[(10_000, [20.0])])
    with pytest.warns(UserWarning, match=r"evaluation curve ends where .*short does"):
        axes = learning_curves([*runs, short]).axes[0]
    line = curves(axes)["sac/halfcheetah: mean of 3 seeds, 95 % interval"]
    assert line.get_xydata().tolist() == [[10_000, 10]]
    assert line.get_marker() == "o"  # or it would not be seen
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learning_curves(runs)


def test_a_seed_without_evaluations_is_left_out_aloud(tmp_path: Path) -> None:
    runs = write_seeds(tmp_path, [0, 10])
    begun = write_run(tmp_path / "begun", run_seed=2, evaluations=None, training=[(1000, 9.0)])
    with pytest.warns(UserWarning, match="begun has not measured all yet: it is left out"):
        figure = learning_curves([*runs, begun])
    label = "sac/halfcheetah: mean of 2 seeds"
    assert legends(figure) == [[label]]
    for axes in figure.axes:
        assert curves(axes)[label].get_xdata().tolist() == list(STEPS)


def test_groups_may_measure_different_things(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / "a"),
        write_run(tmp_path / "b", config="sac/begun", agent_lr_actor=1.0, evaluations=None),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = learning_curves(runs)
    a, b = "sac/halfcheetah: 1 seed", "sac/begun: 1 seed"
    assert [curves(axes).keys() for axes in figure.axes] == [{"", a}, {"", a, b}]
    assert legends(figure) == [[a, b]]
    colours = [curves(axes)[a].get_color() for axes in figure.axes]
    assert colours[0] == colours[1] != curves(figure.axes[1])[b].get_color()
    solved = write_run(tmp_path / "c", config="solver", agent_lr_actor=2.0, training=[])
    assert legends(learning_curves([solved, *runs])) == [["solver: 1 seed", a, b]]


def test_one_run_named_twice_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    assert len(learning_curves([run, Path("run")]).axes) == 1


def test_two_runs_of_one_seed_are_refused(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "a"), write_run(tmp_path / "copy")]
    with pytest.raises(UserError, match="copy are one experiment with one seed"):
        learning_curves(runs)


def test_evaluations_are_not_interpolated(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / "a"),
        write_run(tmp_path / "b", evaluations=[(10_000, [0.0]), (30_000, [5.0])], run_seed=1),
    ]
    line = curves(learning_curves(runs).axes[0])["sac/halfcheetah: mean of 2 seeds"]
    np.testing.assert_allclose(line.get_xydata(), [(10_000, 62.5), (30_000, 165)])


def test_seeds_that_never_meet_are_refused(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / "a", evaluations=[(1000, [1.0])]),
        write_run(tmp_path / "b", evaluations=[(2000, [1.0])], run_seed=1),
    ]
    with (
        pytest.warns(UserWarning, match="ends where"),
        pytest.raises(UserError, match="nowhere do all of these runs have evaluation returns"),
    ):
        learning_curves(runs)


EXPERIMENT = '{"config": "sac/x", "experiment": {"run": {"seed": 0}}}'
BROKEN = {
    "cut experiment": (
        "experiment.json",
        EXPERIMENT[:30],
        "experiment.json cannot be read: not JS",
    ),
    "empty experiment": ("experiment.json", "", "experiment.json cannot be read: not JSON"),
    "no experiment": ("experiment.json", '{"config": "a"}', "no config, experiment or run.seed"),
    "list": ("experiment.json", "[]", "no config, experiment or run.seed"),
    "no seed": ("experiment.json", EXPERIMENT.replace("seed", "sead"), "run.seed"),
    "seed": ("experiment.json", EXPERIMENT.replace("0", '"x"'), "run.seed"),
    "empty evaluation": ("evaluation.json", "", "evaluation.json cannot be read: not JSON"),
    "no list": ("evaluation.json", '{"evaluation": []}', "not a list of evaluations"),
    "words": ("evaluation.json", '{"evaluations": ["a"]}', "not a list of evaluations"),
    "no return": (
        "evaluation.json",
        '{"evaluations": [{"transitions": 1, "returns": []}]}',
        "an evaluation has no returns",
    ),
    "nan": (
        "evaluation.json",
        '{"evaluations": [{"transitions": 1, "returns": [NaN]}]}',
        "nan is not finite",
    ),
    "empty metrics": ("metrics.csv", "", "metrics.csv cannot be read: empty"),
    "no transitions": ("metrics.csv", "a,b\n1,2\n", "no table with transitions"),
    "text": ("metrics.csv", "transitions,episode/return\n1,x\n", "'x'"),
    "infinite": ("metrics.csv", "transitions,episode/return\n1,inf\n", "inf is not finite"),
    "short row": ("metrics.csv", "transitions,episode/return\n1\n2,3\n", "no table"),
    "binary": ("metrics.csv", b"\xff\xfe\x00", "metrics.csv cannot be read"),
    "folder": ("evaluation.json", None, "evaluation.json cannot be read"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_named(tmp_path: Path, case: str) -> None:
    name, content, message = BROKEN[case]
    run = write_run(tmp_path / "run")
    path = run / name
    path.unlink()
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as caught:
        learning_curves([run])
    text = str(caught.value)
    assert message in text and str(path) in text and "\n" not in text
    assert text.endswith("leave this run out, or train it again")


def test_folders_that_cannot_be_plotted(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run folders to plot"):
        learning_curves([])
    with pytest.raises(UserError, match=r"nowhere is not a run folder: it has no experiment\.json"):
        learning_curves([tmp_path / "nowhere"])
    with pytest.raises(UserError, match="is not a run folder"):
        learning_curves([write_run(tmp_path / "good"), tmp_path])
    run = write_run(tmp_path / "lost")
    (run / "metrics.csv").unlink()
    with pytest.raises(UserError, match=r"metrics.csv cannot be read: .*No such file"):
        learning_curves([run])
    begun = write_run(tmp_path / "begun", evaluations=[], training=[])
    with pytest.raises(UserError, match="begun has measured no return yet"):
        learning_curves([begun])


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    for name in ("a.docx", "a"):
        with pytest.raises(UserError, match=rf"{name}: the name has to end in .*\.pdf, .*\.png"):
            plot_runs([run], tmp_path / name)
    with pytest.raises(UserError, match=r"cannot write .*a\.png: "):
        plot_runs([run], run / "metrics.csv" / "a.png")


def test_without_matplotlib_its_install_command_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "run")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r"plots need matplotlib: pip install 'rlsuite\[report\]'"):
        plot_runs([run], tmp_path / "a.png")


def test_importing_loads_no_matplotlib_and_drawing_no_pyplot(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    code = (
        "import sys; from pathlib import Path; import rlsuite.plot as plot;"
        "assert 'matplotlib' not in sys.modules;"
        f"plot.plot_runs([Path({str(run)!r})], Path({str(tmp_path / 'a.png')!r}));"
        "assert 'matplotlib.pyplot' not in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


def test_counts_are_short() -> None:
    expected = {
        0: "0",
        0.25: "0.25",
        999: "999",
        50e3: "50k",
        1e6: "1M",
        1.5e6: "1.5M",
        -2e3: "-2k",
    }
    assert {value: format_count(value) for value in expected} == expected
