"""Who imports whom: arrows point down only; and importing rlsuite loads nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A module may import those of lower layers, and earlier ones of its own layer.
LAYERS: list[list[str]] = [
    ["errors", "types", "tree", "rng", "settings"],
    [
        "nets",
        "distributions",
        "optim",
        "parts",
        "policies",
        "teams",
        "actors",
        "joint_critic",
        "stats",
    ],
    ["returns", "rollout_policies"],
    ["projections", "ambiguity", "tilt", "robust", "advice"],
    [
        "buffers.uniform",
        "buffers.reshuffle",
        "buffers.recency",
        "buffers.sum_tree",
        "buffers.checks",
        "buffers.sums",
        "buffers.prioritized",
        "buffers.rank",
        "buffers.rrm",
        "buffers.lazy_kernels",
        "buffers.lazy_rrm",
        "buffers.ring",
        "buffers.rows",
        "buffers.compiled_rows",
        "buffers.frames",
        "buffers.output",
        "buffers.replay",
        "buffers.rollout",
        "buffers",
    ],
    [
        "envs.layout",
        "envs.lane",
        "envs.team",
        "envs.team_checks",
        "envs.tuple_env",
        "envs.gym_env",
        "envs.disturb",
        "envs.perturb",
        "envs.skirmish",
        "envs.mamujoco",
        "envs.vector",
        "envs.shared",
        "envs.workers",
        "envs.normalize",
        "envs.atari",
        "envs.particles",
        "envs.mpe",
        "envs.matrix_games",
        "envs.vmas_env",
        "envs.garnet",
        "envs.inventory",
        "envs.tabular",
        "envs.advice_tables",
        "envs.humans",
        "envs.adherence",
        "envs.people",
        "envs.advice_games",
        "envs.advice_env",
        "envs",
    ],
    [
        "agents.sac",
        "agents.tqc",
        "agents.crossq",
        "agents.droq",
        "agents.dqn",
        "agents.c51",
        "agents.discrete_sac",
        "agents.hasac",
        "agents.hatd3",
        "agents.ppo",
        "agents.robust_ppo",
        "agents.happo",
        "agents.mappo",
        "agents.soft_policy_iteration",
        "agents.mehaml",
        "agents.robust_planning",
        "agents.adversaries",
        "agents.drpg",
        "agents.advice_planning",
        "agents.advice_budget",
        "agents.advice_lp",
        "agents.advice_estimates",
        "agents.advice_learning",
        "agents.ucb_ad",
        "agents.fucb",
        "agents.agnostic_advice",
        "agents.rfe",
        "agents.uc_cfh",
        "agents.aadqn",
        "agents.blind_dqn",
        "agents",
    ],
    ["logger", "checkpoint", "evaluate", "run", "loops"],
    ["samplers", "advisees", "problems", "config", "solving", "build"],
    [
        "video",
        "plot",
        "robustness",
        "sb3",
        "sb3_replay",
        "torchrl_replay",
        "kept",
        "claims",
        "er_rr",
        "er_rr_report",
        "hasac_sampled",
        "hasac_claims",
        "hasac_report",
        "drpg_claims",
        "drpg_report",
        "drpg_plots",
        "adherence_claims",
        "adherence_report",
        "reproduce",
        "advice_report",
        "cli",
        "__main__",
        "",
    ],
]
# Storage, environments and agents know nothing of each other; loops know protocols alone.
FORBIDDEN = {
    "agents": ["buffers", "envs"],
    "buffers": ["envs", "agents", "nets", "distributions", "optim", "parts", "policies", "stats"],
    "envs": ["buffers", "agents", "nets", "distributions", "optim", "parts", "policies", "stats"],
    "logger": ["agents", "buffers", "envs"],
    "checkpoint": ["agents", "buffers", "envs"],
    "evaluate": ["agents", "buffers", "envs"],
    "run": ["agents", "buffers", "envs"],
    "loops": ["agents", "buffers", "envs"],
}
ORDER = [name for layer in LAYERS for name in layer]


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted((ROOT / "rlsuite").glob("*.py")):
        found[path.stem] = path
    for folder in ("agents", "buffers", "envs", "configs"):
        for path in sorted((ROOT / folder).glob("*.py")):
            found[f"{folder}.{path.stem}"] = path
    return {name.removesuffix(".__init__").removesuffix("__init__"): p for name, p in found.items()}


def imports_of(path: Path) -> set[str]:
    """Modules of ours that a file imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("rlsuite"):
            base = node.module.removeprefix("rlsuite").removeprefix(".")
            known = modules()
            for alias in node.names:
                child = f"{base}.{alias.name}".lstrip(".")
                names.add(child if child in known else base)
        elif isinstance(node, ast.Import):
            names |= {
                alias.name.removeprefix("rlsuite").removeprefix(".")
                for alias in node.names
                if alias.name.split(".")[0] == "rlsuite"
            }
    return names


@pytest.mark.parametrize("name", [name for name in modules() if name != "configs"])
def test_arrows_point_down(name: str) -> None:
    assert name in ORDER, f"give rlsuite.{name} a place in LAYERS"
    family = name.split(".")[0]
    for target in imports_of(modules()[name]):
        if name == "" or target == "":
            continue  # the package itself: version and lazy names
        assert ORDER.index(target) < ORDER.index(name), f"{name} imports {target}, which is above"
        assert target.split(".")[0] not in FORBIDDEN.get(family, []), f"{name} imports {target}"


def test_importing_the_package_is_light() -> None:
    code = (
        "import sys, rlsuite; assert rlsuite.__version__;"
        "heavy = {'torch', 'gymnasium', 'numpy', 'pydantic'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
