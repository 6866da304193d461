"""Experiments: TOML files and command-line settings, checked and merged into dataclasses."""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from rlsuite.advisees import AdviceConfig
from rlsuite.agents import AGENTS, AADQNConfig, BlindDQNConfig
from rlsuite.errors import UserError
from rlsuite.loops import ReplayPlan, RolloutPlan
from rlsuite.run import RunConfig
from rlsuite.samplers import SAMPLERS, SamplerName
from rlsuite.settings import Count, Fraction, Positive, PositiveCount, describe_field, settings

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


PLANS: dict[str, type] = {"replay": ReplayPlan, "rollout": RolloutPlan}
"""The settings in section ``plan``, by the agent's loop."""
ORDER = ("env", "advice", "agent", "replay", "sampler", "plan", "run")
"""Of the sections, for people."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """Everything that decides what a run does."""

    name: str
    """Of the config it came from, such as ``sac/halfcheetah``."""
    algorithm: str
    """A key of ``rlsuite.agents.AGENTS``."""
    description: str
    env: EnvConfig
    agent: Any
    """The algorithm's settings, such as ``SACConfig``."""
    plan: ReplayPlan | RolloutPlan
    run: RunConfig
    replay: ReplayConfig | None = None
    """None for an agent that learns from rollouts."""
    sampler: Any = None
    """The sampler's settings, such as ``PrioritizedConfig``; None without a replay."""
    advice: AdviceConfig | None = None
    """Who acts on the agent's advice; None if the agent acts itself."""
    sources: dict[str, str] = field(default_factory=dict, compare=False)
    """Dotted setting to where its value came from, for those that are not defaults."""

    @property
    def sections(self) -> list[str]:
        """Those that there are, for people in this order."""
        return [section for section in ORDER if getattr(self, section) is not None]

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
            part = getattr(self, section)
            for item in dataclasses.fields(part):
                key = f"{section}.{item.name}"
                yield (
                    key,
                    getattr(part, item.name),
                    self.sources.get(key, "default"),
                    describe_field(type(part), item.name),
                )


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
    sources = {
        f"{section}.{key}": source
        for section, values in data.items()
        if isinstance(values, dict)
        for key in values
    }
    for key, text in (overrides or {}).items():
        section, _, setting = key.partition(".")
        if not setting:
            raise UserError(f"--{key}: settings are named section.name, such as --run.seed")
        values = data.setdefault(section, {})
        if not isinstance(values, dict):
            raise UserError(f"--{key}: {section} is no section; sections are {', '.join(ORDER)}")
        values[setting] = _parse_value(text)
        sources[key] = "command line"
    return build_experiment(name, data, sources)


def build_experiment(
    name: str, data: Mapping[str, Any], sources: dict[str, str] | None = None
) -> Experiment:
    """An experiment from plain values by section. Raises UserError that lists all problems."""
    algorithm = data.get("algorithm")
    if algorithm not in AGENTS:
        known = ", ".join(AGENTS)
        raise UserError(f"{name}: algorithm is {algorithm!r}; known are: {known}")
    entry = AGENTS[algorithm]
    sections = {"env": EnvConfig, "agent": entry.config, "plan": PLANS[entry.loop]}
    if "advice" in data:
        sections["advice"] = AdviceConfig
    if entry.loop == "replay":
        sampler = SAMPLERS.get(_chosen_sampler(data), SAMPLERS["reshuffle"])
        sections |= {"replay": ReplayConfig, "sampler": sampler.config}
    sections["run"] = RunConfig
    keys = [*sections, "algorithm", "description"]
    problems = [_unknown(key, keys) for key in data if key not in keys]
    parts = {}
    for section, cls in sections.items():
        try:
            parts[section] = cls(**data.get(section, {}))
        except ValidationError as error:
            problems += _explain(error, section, sections)
    if not problems:
        problems = _cross_check(parts)
        if parts["env"].uncertain and algorithm != "robust_ppo":
            problems.append(f"env.uncertain is for robust_ppo, not for {algorithm}")
    if problems:
        raise UserError(f"{name}: {'; '.join(problems)}")
    return Experiment(
        name=name,
        algorithm=algorithm,
        description=str(data.get("description", "")),
        sources=sources or {},
        **parts,
    )


def _chosen_sampler(data: Mapping[str, Any]) -> str:
    replay = data.get("replay", {})
    return str(replay.get("sampler", "reshuffle")) if isinstance(replay, dict) else ""


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


def _parse_value(text: str) -> Any:
    """As TOML reads it; what is no TOML value is a string, and "unset" removes a value."""
    if text == "unset":
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, KeyError):
        return text


def _unknown(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"known are: {', '.join(known)}"
    return f"unknown setting {key}; {hint}"


def _explain(error: ValidationError, section: str, sections: Mapping[str, type]) -> list[str]:
    """One text a setting; the alternatives of a union are told together."""
    texts: dict[str, list[str]] = {}
    given: dict[str, Any] = {}
    for problem in error.errors(include_url=False):
        setting = str(problem["loc"][0]) if problem["loc"] else ""
        key = f"{section}.{setting}" if setting else section
        if problem["type"] == "unexpected_keyword_argument":
            own = [f"{section}.{item.name}" for item in dataclasses.fields(sections[section])]
            texts[key] = [_unknown(key, own)]
            continue
        if problem["type"] == "missing":
            meaning = describe_field(sections[section], setting)
            lacks = (
                "is missing" if len(problem["loc"]) == 1 else f"has {problem['input']!r}, too few"
            )
            texts[key] = [f"{key} {lacks}: {meaning}"]
            continue
        given[key] = problem["input"]
        message = problem["msg"].removeprefix("Input should be ")
        texts.setdefault(key, []).append(message[0].lower() + message[1:])
    return [
        f"{key} is {given[key]!r} but should be {' or '.join(dict.fromkeys(text))}"
        if key in given
        else text[0]
        for key, text in texts.items()
    ]


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


def _cross_check(parts: Mapping[str, Any]) -> list[str]:
    check = _check_replay if "replay" in parts else _check_rollout
    return check(**parts) + _check_env(parts["env"]) + _check_advice(**parts)


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


def _check_replay(env: EnvConfig, plan: ReplayPlan, replay: ReplayConfig, **rest: Any) -> list[str]:
    problems = []
    if plan.warmup_transitions >= plan.total_transitions:
        problems.append(
            f"plan.warmup_transitions ({plan.warmup_transitions:,}) leaves nothing to learn of "
            f"plan.total_transitions ({plan.total_transitions:,})"
        )
    if replay.capacity < env.num_envs * replay.n_step:
        problems.append(
            f"replay.capacity ({replay.capacity:,}) is less than env.num_envs * replay.n_step"
        )
    return problems
