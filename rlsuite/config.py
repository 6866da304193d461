"""Experiments: TOML files and command-line settings, checked and merged into dataclasses."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from rlsuite.advisees import AdviceConfig
from rlsuite.agents import AGENTS, AADQNConfig, BlindDQNConfig
from rlsuite.agents.adversaries import ADVERSARY_CONFIGS
from rlsuite.errors import UserError
from rlsuite.loops import ReplayPlan, RolloutPlan, SolvePlan
from rlsuite.problems import ProblemConfig, problem_settings
from rlsuite.run import RunConfig
from rlsuite.samplers import SAMPLERS, SamplerName
from rlsuite.settings import (
    Count,
    Fraction,
    Positive,
    PositiveCount,
    build_settings,
    describe_field,
    settings,
    unknown_setting,
)

Bounds = Annotated[tuple[Positive, Positive], Field(strict=False)]


@settings
class EnvConfig:
    """Which environments to train in."""

    id: str
    """A Gymnasium id, an import path package.module:make, or environments of several agents:
    mpe/spread, mpe/reference, mpe/speaker_listener, or vmas/ and the name of a VMAS scenario."""
    protocol: Literal["dqn", "machado2018"] | None = None
    """How Atari games are played: "dqn" without sticky actions, with the game's own actions, up to
    30 no-ops at the beginning, and lost lives that end the bootstrapping; "machado2018" with sticky
    actions and all 18 of them. Unset is "machado2018" for ids that start with ALE/."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment's constructor; of several agents also team_reward: "shared" (all
    get the same), "sum" or "mean"; of Atari games all_actions alone: true for all 18 actions, false
    for the game's own."""
    num_envs: PositiveCount = 1
    """Environments stepped together."""
    workers: Count = 0
    """Processes that step a part of them; 0 steps all in the main process."""
    groups: PositiveCount = 1
    """Groups of Atari games that take turns: with 2, one half plays while the other half's actions
    are chosen and the agent learns."""
    time_limit: PositiveCount | None = None
    """Steps until an episode is truncated; unset keeps the environment's own limit."""
    uncertain: dict[str, Bounds] = field(default_factory=dict)
    """Physics that nature chooses for every episode, for robust_ppo: the lowest and the highest
    scale, with 1 between, of parameters as `rlsuite evaluate --perturb` names them."""
    normalize_obs: bool = False
    """Whether observations are scaled by their running mean and variance."""
    normalize_reward: bool = False
    """Whether rewards are scaled by the running deviation of the discounted return."""

    @property
    def is_atari(self) -> bool:
        """Whether ``AtariVectorEnv`` plays it."""
        return self.id.startswith("ALE/")

    @property
    def is_particles(self) -> bool:
        """Whether ``ParticleVectorEnv`` steps it."""
        return self.id.startswith("mpe/")

    @property
    def is_vmas(self) -> bool:
        """Whether ``VmasVectorEnv`` steps it."""
        return self.id.startswith("vmas/")

    @property
    def atari_protocol(self) -> Literal["dqn", "machado2018"]:
        """The protocol, also where it is unset."""
        return self.protocol or "machado2018"


@settings
class ReplayConfig:
    """What is kept, and how it is drawn."""

    capacity: PositiveCount = 1_000_000
    """Transitions kept; the oldest go first."""
    sampler: SamplerName = "reshuffle"
    """"reshuffle" draws every transition once an epoch, in random order; "uniform" draws with
    replacement; "recency" prefers new ones; "prioritized", "rank", "lap" and "rrm" those of great
    error. Settings of each: section sampler."""
    n_step: PositiveCount = 1
    """Steps of reward in a target before bootstrapping."""
    discount: Fraction = 0.99
    """Discount of future reward, per step."""
    directory: str | None = None
    """Folder for the data, for a replay that is larger than memory; unset keeps it in memory."""


PLANS: dict[str, type] = {"replay": ReplayPlan, "rollout": RolloutPlan, "solve": SolvePlan}
"""The settings in section ``plan``, by the agent's loop."""
ORDER = ("env", "advice", "agent", "adversary", "replay", "sampler", "plan", "run")
"""Of the sections, for people."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """Everything that decides what a run does."""

    name: str
    """Of the config it came from, such as ``sac/halfcheetah``."""
    algorithm: str
    """A key of ``rlsuite.agents.AGENTS``."""
    description: str
    env: EnvConfig | ProblemConfig
    agent: Any
    """The algorithm's settings, such as ``SACConfig``."""
    plan: ReplayPlan | RolloutPlan | SolvePlan
    run: RunConfig
    replay: ReplayConfig | None = None
    """None for an agent that learns from rollouts."""
    sampler: Any = None
    """The sampler's settings, such as ``PrioritizedConfig``; None without a replay."""
    advice: AdviceConfig | None = None
    """Who acts on the agent's advice; None if the agent acts itself."""
    adversary: Any = None
    """Settings of a solver's inner loop, such as ``AscentConfig``; None if it has none."""
    sources: dict[str, str] = field(default_factory=dict, compare=False)
    """Dotted setting to where its value came from, for those that are not defaults."""

    @property
    def sections(self) -> list[str]:
        """Those that there are, for people in this order."""
        return [section for section in ORDER if getattr(self, section) is not None]

    @property
    def simulator(self) -> EnvConfig:
        """Section env of an agent. Raises UserError for a solver, which has a problem there."""
        if isinstance(self.env, EnvConfig):
            return self.env
        raise UserError(
            f"{self.name}: {self.algorithm} solves {self.env.id} exactly, there is nothing to play:"
            " rlsuite evaluate and plot show what it found"
        )

    @property
    def total(self) -> int:
        """Transitions to make, or a solver's iterations at most."""
        plan = self.plan
        return plan.total_iterations if isinstance(plan, SolvePlan) else plan.total_transitions

    @property
    def length(self) -> str:
        """The same in words."""
        if not isinstance(self.plan, SolvePlan):
            return f"{self.total:,} transitions"
        tolerance = self.plan.tolerance
        until = "" if tolerance is None else f" or until the certified gap is {tolerance:g}"
        return f"{self.total:,} iterations{until}"

    @property
    def discount(self) -> float:
        """Of future reward, per step: the replay's, else the agent's."""
        return float((self.replay or self.agent).discount)

    def to_dict(self) -> dict[str, Any]:
        """Plain values by section, for JSON and TOML."""
        return {
            "algorithm": self.algorithm,
            "description": self.description,
            **{section: dataclasses.asdict(getattr(self, section)) for section in self.sections},
        }

    def rows(self) -> Iterator[tuple[str, Any, str, str]]:
        """(dotted setting, value, where from, meaning), section by section."""
        for section in self.sections:
            yield from self._rows(section, getattr(self, section))

    def _rows(self, prefix: str, part: Any) -> Iterator[tuple[str, Any, str, str]]:
        for item in dataclasses.fields(part):
            key, value = f"{prefix}.{item.name}", getattr(part, item.name)
            if dataclasses.is_dataclass(value):
                yield from self._rows(key, value)
            else:
                source = self.sources.get(key, "default")
                yield key, value, source, describe_field(type(part), item.name)


def config_names() -> list[str]:
    """The configs that come with the suite."""
    return sorted(
        f"{folder.name}/{file.name.removesuffix('.toml')}"
        for folder in _configs().iterdir()
        if folder.is_dir()
        for file in folder.iterdir()
        if file.name.endswith(".toml")
    )


def load_experiment(config: str, overrides: Mapping[str, str] | None = None) -> Experiment:
    """Read a config by name or path, put ``overrides`` (dotted setting to text) on top, check.

    Raises UserError that lists all problems: unknown settings with the nearest known one, wrong
    types, values out of range.
    """
    name, source, data = _read(config)
    sources = dict.fromkeys(_keys(data), source)
    for key, text in (overrides or {}).items():
        *path, setting = key.split(".")
        if not path:
            raise UserError(f"--{key}: settings are named section.name, such as --run.seed")
        values = data
        for section in path:
            values = values.setdefault(section, {})
            if not isinstance(values, dict):
                raise UserError(
                    f"--{key}: {section} is no section; sections are {', '.join(ORDER)}"
                )
        value = values[setting] = _parse_value(key, text)
        sources = {name: old for name, old in sources.items() if not name.startswith(f"{key}.")}
        named = list(itertools.accumulate([*path, setting], "{}.{}".format))[1:]
        inner = _keys(value, f"{key}.") if isinstance(value, dict) else ()
        sources |= dict.fromkeys([*named, *inner], "command line")
    return build_experiment(name, data, sources)


def build_experiment(
    name: str, data: Mapping[str, Any], sources: dict[str, str] | None = None
) -> Experiment:
    """An experiment from plain values by section. Raises UserError that lists all problems."""
    algorithm = data.get("algorithm")
    if algorithm not in AGENTS:
        known = ", ".join(AGENTS)
        raise UserError(f"{name}: algorithm is {algorithm!r}; known are: {known}")
    sections = _sections(algorithm, data)
    keys = [*sections, "algorithm", "description"]
    problems = [unknown_setting(key, keys) for key in data if key not in keys]
    parts = {
        section: build_settings(cls, data.get(section, {}), section, problems)
        for section, cls in sections.items()
    }
    if not problems:
        problems = _cross_check(algorithm, parts)
    if problems:
        raise UserError(f"{name}: {'; '.join(problems)}")
    return Experiment(
        name=name,
        algorithm=algorithm,
        description=str(data.get("description", "")),
        sources=sources or {},
        **parts,
    )


def _sections(algorithm: str, data: Mapping[str, Any]) -> dict[str, type]:
    """By name, the settings of each."""
    entry = AGENTS[algorithm]
    sections: dict[str, type] = {"env": EnvConfig}
    if entry.loop == "solve":
        sections = {"env": problem_settings(_chosen(data, "env", "id"))}
    sections |= {"agent": entry.config, "plan": PLANS[entry.loop]}
    if "advice" in data and entry.loop != "solve":
        sections["advice"] = AdviceConfig
    adversary = ADVERSARY_CONFIGS.get(str(_chosen(data, "agent", "adversary")))
    if entry.loop == "solve" and adversary:
        sections["adversary"] = adversary
    if entry.loop == "replay":
        sampler = SAMPLERS.get(str(_chosen(data, "replay", "sampler")), SAMPLERS["reshuffle"])
        sections |= {"replay": ReplayConfig, "sampler": sampler.config}
    return sections | {"run": RunConfig}


def _chosen(data: Mapping[str, Any], section: str, setting: str) -> Any:
    values = data.get(section, {})
    return values.get(setting) if isinstance(values, dict) else None


def _keys(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted names of all that is below the sections."""
    for key, value in values.items():
        if prefix:
            yield prefix + key
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{key}.")


def _configs() -> Traversable:
    return resources.files("rlsuite.configs")


def _read(config: str) -> tuple[str, str, dict[str, Any]]:
    """Name, where it was read, content."""
    path = Path(config)
    if config in config_names():
        text, name = (_configs() / f"{config}.toml").read_text(), config
    elif path.suffix == ".toml" and path.is_file():
        text, name = path.read_text(), path.stem
    else:
        near = difflib.get_close_matches(config, config_names(), n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(
            f"no config {config!r}: {hint}take a name that `rlsuite configs` lists or the path of "
            "a .toml file"
        )
    try:
        return name, config, tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{config} is not valid TOML: {error}") from error


def _parse_value(key: str, text: str) -> Any:
    """As TOML reads it; what is no TOML value is a string, and "unset" removes a value. Raises
    UserError for what looks like a table or a list but is none."""
    if text == "unset":
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, KeyError) as error:
        if text.startswith(("{", "[")):
            raise UserError(
                f"--{key}: {text} is not valid TOML, where a table is {{ name = 1, other = true }} "
                f"and a list [1, 2]: {error}"
            ) from error
        return text


ATARI = {
    "uncertain": "it has no physics to choose",
    "workers": "it has its own threads",
    "normalize_obs": "its observations are images, scaled by the network",
    "normalize_reward": "its rewards are clipped to their sign",
}
"""Settings that make no sense for Atari games, and why."""
PARTICLES = {
    "uncertain": "it has no physics to choose",
    "workers": "all its environments are stepped at once",
    "time_limit": "its episodes have 25 steps",
    "normalize_obs": "its observations have unit scale",
    "normalize_reward": "its rewards have unit scale",
}
"""The same for the particle environments."""
VMAS = {
    "uncertain": "it has no physics to choose",
    "workers": "all its environments are stepped at once",
}
"""The same for VMAS."""


def _senseless(env: EnvConfig) -> dict[str, str]:
    if env.is_vmas:
        return VMAS
    return ATARI if env.is_atari else PARTICLES if env.is_particles else {}


def _check_env(env: EnvConfig) -> list[str]:
    problems = []
    if not env.is_atari:
        given = [name for name in ("protocol", "groups") if getattr(env, name) not in (None, 1)]
        problems += [
            f"env.{name} is only for Atari games (ids that start with ALE/), not {env.id}"
            for name in given
        ]
        if env.workers >= env.num_envs and env.workers:
            problems.append(
                f"env.workers ({env.workers}) must be less than env.num_envs ({env.num_envs}): "
                "the main process steps some too"
            )
    problems += [
        f"env.{name} cannot be set for {env.id}: {reason}"
        for name, reason in _senseless(env).items()
        if getattr(env, name)
    ]
    if env.is_particles and not env.kwargs.keys() <= {"continuous"}:
        problems.append(f"env.kwargs of {env.id} can have continuous alone, not {env.kwargs}")
    if env.is_atari and not (
        env.kwargs.keys() <= {"all_actions"}
        and all(isinstance(value, bool) for value in env.kwargs.values())
    ):
        problems.append(
            f"env.kwargs of {env.id} can have all_actions = true or false alone, not {env.kwargs}: "
            "env.protocol says how the game is played"
        )
    if env.is_atari and env.num_envs % env.groups:
        problems.append(
            f"env.num_envs ({env.num_envs}) must be a multiple of env.groups ({env.groups})"
        )
    return problems


def _cross_check(algorithm: str, parts: Mapping[str, Any]) -> list[str]:
    if isinstance(parts["plan"], SolvePlan):
        return _check_solve(**parts)
    check = _check_replay if "replay" in parts else _check_rollout
    problems = check(**parts) + _check_env(parts["env"]) + _check_advice(**parts)
    if parts["env"].uncertain and algorithm != "robust_ppo":
        problems.append(f"env.uncertain is for robust_ppo, not for {algorithm}")
    return problems


def _check_solve(run: RunConfig, **rest: Any) -> list[str]:
    if run.evaluation_episodes == RunConfig().evaluation_episodes:
        return []
    return ["run.evaluation_episodes cannot be set for a solver: its evaluations are exact"]


def _check_advice(
    agent: Any, env: EnvConfig, advice: AdviceConfig | None = None, **rest: Any
) -> list[str]:
    problems = []
    is_advisor = isinstance(agent, AADQNConfig | BlindDQNConfig)
    if is_advisor:
        if advice is None:
            problems.append("section advice is missing: this agent gives advice, to whom?")
        if rest["replay"].n_step > 1:
            problems.append("replay.n_step must be 1: it learns from what was executed")
    if getattr(agent, "known_human", False) and env.normalize_obs:
        problems.append(
            "env.normalize_obs cannot be set with agent.known_human: people see the raw ones"
        )
    if is_advisor and advice is not None and advice.budget and env.normalize_obs:
        problems.append(
            "env.normalize_obs cannot be set with advice.budget: what is left of it is read"
        )
    if advice is not None and env.normalize_reward:
        problems.append("env.normalize_reward cannot be set with advice, whose cost is in rewards")
    if advice is not None and env.groups > 1:
        problems.append("env.groups must be 1 with advice: people act together")
    return problems


def _check_rollout(env: EnvConfig, plan: RolloutPlan, **rest: Any) -> list[str]:
    problems = []
    if env.groups > 1:
        problems.append(
            f"env.groups ({env.groups}) must be 1 for an agent that learns from rollouts"
        )
    if plan.total_transitions < plan.steps_per_rollout * env.num_envs:
        problems.append(
            f"plan.total_transitions ({plan.total_transitions:,}) is less than one rollout, "
            f"plan.steps_per_rollout * env.num_envs ({plan.steps_per_rollout * env.num_envs:,})"
        )
    return problems


def _check_replay(
    agent: Any, env: EnvConfig, plan: ReplayPlan, replay: ReplayConfig, sampler: Any, **rest: Any
) -> list[str]:
    problems = _check_loss(agent, replay.sampler, sampler)
    if plan.warmup_transitions >= plan.total_transitions:
        problems.append(
            f"plan.warmup_transitions ({plan.warmup_transitions:,}) leaves nothing to learn of "
            f"plan.total_transitions ({plan.total_transitions:,})"
        )
    if replay.capacity < env.num_envs * replay.n_step:
        problems.append(
            f"replay.capacity ({replay.capacity:,}) is less than env.num_envs * replay.n_step"
        )
    first = min(plan.warmup_transitions + env.num_envs, replay.capacity)
    first -= env.num_envs * (replay.n_step - 1)  # whose sums go on
    if getattr(sampler, "draw", None) == "distinct" and plan.batch_size > first:
        problems.append(
            f"plan.batch_size ({plan.batch_size:,}) is more than the {max(first, 0):,} different "
            "transitions that plan.warmup_transitions and replay.capacity leave to a first batch"
        )
    return problems


def _check_loss(agent: Any, name: str, sampler: Any) -> list[str]:
    """Without importance weights only the Huber loss has the gradient that is meant."""
    if name not in ("lap", "rrm"):
        return []
    for key in ("loss", "critic_loss"):
        if getattr(agent, key, "huber") != "huber":
            return [
                f"agent.{key} is {getattr(agent, key)!r} but should be 'huber', with "
                f"agent.huber_threshold = {sampler.least}: replay.sampler {name!r} has no "
                "importance weights"
            ]
    threshold = getattr(agent, "huber_threshold", sampler.least)
    if threshold != sampler.least:
        return [
            f"agent.huber_threshold ({threshold}) and sampler.least ({sampler.least}) must be equal"
        ]
    return []
