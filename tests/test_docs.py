"""What the documents show is true: the README's program runs, the lists are complete."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from rlsuite.agents import AGENTS, advice_learning, drpg
from rlsuite.evaluate import EXACT_METRICS
from rlsuite.logger import METRICS

ROOT = Path(__file__).resolve().parents[1]


def program(path: str, name: str) -> str:
    text = (ROOT / path).read_text()
    (found,) = re.findall(rf"<!-- {name} -->\n```python\n(.*?)```", text, re.DOTALL)
    return found


def test_the_readmes_own_loop_runs(capsys: pytest.CaptureFixture[str]) -> None:
    whole = program("README.md", "own-loop")
    assert len(whole.splitlines()) <= 25
    short = whole.replace("10_000", "560").replace(">= 500", ">= 500 + 50")
    assert short != whole
    exec(compile(short, "README.md", "exec"), {})
    assert "'loss/critic'" in capsys.readouterr().out


def test_own_robust_mdps_are_solved(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(program("docs/drpg.md", "own-robust-mdp"), "drpg.md", "exec"), {})
    reached, best = re.findall(r"tensor\(\[(-?[\d.]+)\]", capsys.readouterr().out)
    assert reached == best
    short = program("README.md", "own-robust-mdp")
    assert len([line for line in short.splitlines() if line]) <= 10  # imports too
    exec(compile(short, "README.md", "exec"), {})
    assert f"tensor([{best}]" in capsys.readouterr().out


def test_robust_metrics_are_documented() -> None:
    text = (ROOT / "docs" / "drpg.md").read_text()
    listed = re.findall(r"^\| `(\w+/\w+)` \| (.+) \|$", text, re.MULTILINE)
    assert listed == list(drpg.METRICS.items())


def test_the_advice_of_the_docs_is_planned(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs" / "adherence.md").read_text()
    (program,) = re.findall(r"<!-- own-advice -->\n```python\n(.*?)```", text, re.DOTALL)
    exec(compile(program, "adherence.md", "exec"), {})
    found = re.findall(r"tensor\(\[\[([\d.]+)\]", capsys.readouterr().out)
    assert found == ["0.5000", "0.3400", "0.5000", "0.5000"]
    (program,) = re.findall(r"<!-- learn-advice -->\n```python\n(.*?)```", text, re.DOTALL)
    exec(compile(program, "adherence.md", "exec"), {})
    totals = [float(x) for x in re.findall(r"\d+\.\d+", capsys.readouterr().out)]
    assert len(totals) == 5 and 10 < sum(totals) / 5 < 60
    listed = re.findall(r"^\| `(\w+/\w+)` \| (.+) \|$", text, re.MULTILINE)
    assert listed == list(advice_learning.METRICS.items())


def test_the_advisor_of_the_docs_is_trained(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs" / "adherence.md").read_text()
    (program,) = re.findall(r"<!-- own-advisor -->\n```python\n(.*?)```", text, re.DOTALL)
    statements = [line for line in program.splitlines() if line and " import " not in line]
    assert len([line for line in statements if not line.startswith("import")]) <= 15
    short = program.replace("2_000", "60").replace("envs)]", "envs, episodes=16)]")
    assert short != program
    exec(compile(short, "adherence.md", "exec"), {})
    head, human, aware = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["seeds", "gross", "net", "gain"]
    assert 30 < float(human.split()[2]) < 60 and aware.startswith("aware")


def test_metrics_are_documented() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text()
    listed = re.findall(r"^\| `(.+?)` \| (.+) \|$", text, re.MULTILINE)
    known = [
        *METRICS.items(),
        *EXACT_METRICS.items(),
        *(item for entry in AGENTS.values() for item in entry.metrics.items()),
    ]
    assert listed == known


def test_tool_versions_agree() -> None:
    """pre-commit, the dev extra and the constraints name the same linters."""
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    project = (ROOT / "pyproject.toml").read_text()
    constraints = (ROOT / "constraints.txt").read_text()
    for tool, pattern in {"ruff": r"rev: v(\S+)", "mypy": r"name: mypy ([\d.]+)"}.items():
        (version,) = re.findall(pattern, hooks)
        assert f'"{tool}=={version}"' in project
        assert f"{tool}=={version}\n" in constraints


def test_readme_dependencies_are_those_of_the_project() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    core = project.split("dependencies = [")[1].split("]")[0]
    readme = (ROOT / "README.md").read_text().split("## Dependencies")[1]
    for name in re.findall(r'"([a-z-]+)', core):
        assert f"| {name} |" in readme, name


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_make_knows_its_targets() -> None:
    for target in ("train", "test"):
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)
