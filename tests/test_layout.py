"""The root folders, their links, one name a module, and a wheel that holds them all."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("agents", "buffers", "envs", "configs")


@pytest.mark.parametrize("name", FOLDERS)
def test_links_are_relative_and_resolve(name: str) -> None:
    link = ROOT / "rlsuite" / name
    assert link.is_symlink() and os.readlink(link) == f"../{name}"
    assert (link / "__init__.py").is_file()


@pytest.mark.parametrize("name", FOLDERS)
def test_bare_names_are_refused(name: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", f"import {name}"], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert f"import rlsuite.{name}, not {name}" in result.stderr


def test_file_names_are_unique() -> None:
    names = [
        path.name
        for folder in ("rlsuite", "agents", "buffers", "envs")
        for path in (ROOT / folder).glob("*.py")
        if path.name not in ("__init__.py", "__main__.py")
    ]
    assert len(names) == len(set(names))


def test_folders_are_at_most_two_levels_deep() -> None:
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    code = [name for name in tracked if name.endswith((".py", ".toml"))]
    assert max(name.count("/") for name in code) <= 2


def test_the_wheel_holds_the_tree(tmp_path: Path) -> None:
    """Built by way of an sdist, as for publishing; then trained with from elsewhere."""
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")}
    tree = {
        f"rlsuite/{path.relative_to(ROOT / 'rlsuite')}"
        for path in (ROOT / "rlsuite").glob("*")
        if path.suffix in (".py", ".toml") or path.name == "py.typed"
    }
    for folder in FOLDERS:
        tree |= {
            f"rlsuite/{path.relative_to(ROOT)}"
            for path in (ROOT / folder).rglob("*")
            if path.suffix in (".py", ".toml")
        }
    installed = {name for name in names if ".dist-info/" not in name}
    assert installed == tree

    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    result = subprocess.run(
        [
            *(sys.executable, "-P", "-m", "rlsuite", "train", "sac/pendulum", "--quiet"),
            *("--folder", str(tmp_path / "run"), "--plan.total_transitions", "300"),
            *("--plan.warmup_transitions", "200", "--run.evaluation_episodes", "1"),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "run" / "learning_curve.png").is_file()
