"""From an experiment to running parts: the one place that builds agents, replay and envs."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor

from rlsuite.advice import AdviceSpace
from rlsuite.advisees import check_same_human, human_checkpoint, known_human, with_people
from rlsuite.agents import AGENTS
from rlsuite.buffers import Replay, RolloutStorage
from rlsuite.checkpoint import CheckpointStore, is_checkpoint, read
from rlsuite.config import EnvConfig, Experiment, build_experiment
from rlsuite.envs import (
    AtariVectorEnv,
    DisturbedVectorEnv,
    NormalizedVectorEnv,
    ObsNorm,
    ParticleVectorEnv,
    RewardNorm,
    SerialVectorEnv,
    VmasVectorEnv,
    WorkerVectorEnv,
    is_resumable,
    make_env,
)
from rlsuite.envs.atari import STEP_LIMIT, make_watched
from rlsuite.envs.disturb import DISTURBANCES
from rlsuite.envs.mpe import make_watched_world
from rlsuite.envs.perturb import ATARI_PHYSICS, changed, check_physics
from rlsuite.envs.vmas_env import STEP_LIMIT as VMAS_LIMIT
from rlsuite.errors import UserError
from rlsuite.evaluate import Assessment, Evaluation, evaluate
from rlsuite.loops import Job, ReplayPlan, RolloutPlan, replay_loop, rollout_loop
from rlsuite.rng import derive_seed
from rlsuite.run import Run
from rlsuite.samplers import SAMPLERS, Context
from rlsuite.solving import build_job, evaluate_solver, is_solved, load_solver
from rlsuite.types import Agent, RolloutAgent, Spec, Tree, VectorEnv

EXPERIMENT = "experiment.json"


def env_maker(
    config: EnvConfig, render_mode: str | None = None, scales: Mapping[str, float] | None = None
) -> Callable[[], gym.Env[Any, Any]]:
    """What builds one environment, its physics scaled; it can be sent to a process."""
    if config.is_atari:
        return functools.partial(
            make_watched, config.id, config.atari_protocol, render_mode, **config.kwargs
        )
    if config.is_particles:
        return functools.partial(make_watched_world, config.id.removeprefix("mpe/"), config.kwargs)
    if config.is_vmas:
        raise UserError(f"{config.id} cannot be shown here: vmas.render_interactively does")
    make = functools.partial(
        make_env,
        config.id,
        time_limit=config.time_limit,
        kwargs=config.kwargs,
        render_mode=render_mode,
    )
    if not (scales or config.uncertain):
        return make
    return functools.partial(changed, make, scales or {}, config.uncertain)


def _build_native(
    config: EnvConfig,
    num_envs: int,
    seed: int = 0,
    *,
    groups: int = 1,
    training: bool = True,
    physics: Mapping[str, float] | None = None,
) -> VectorEnv | None:
    """Environments that come as a vector; None for those that come one by one.

    Raises UserError for ``physics`` that they do not have.
    """
    physics = physics or {}
    if config.is_atari or config.is_particles or config.is_vmas:
        check_physics(config.id, ATARI_PHYSICS if config.is_atari else [], physics)
    if config.is_atari:
        return AtariVectorEnv(
            config.id,
            num_envs,
            seed,
            protocol=config.atari_protocol,
            groups=groups,
            training=training,
            sticky=physics.get("sticky"),
            step_limit=config.time_limit or STEP_LIMIT,
            **config.kwargs,
        )
    if config.is_particles:
        return ParticleVectorEnv(config.id.removeprefix("mpe/"), num_envs, seed, **config.kwargs)
    if config.is_vmas:
        limit, scenario = config.time_limit or VMAS_LIMIT, config.id.removeprefix("vmas/")
        return VmasVectorEnv(scenario, num_envs, seed, step_limit=limit, **config.kwargs)
    return None


def _build_one_by_one(config: EnvConfig, seed: int) -> VectorEnv:
    make, num_envs, workers = env_maker(config), config.num_envs, config.workers
    resumable = is_resumable(make, seed)
    if workers:
        return WorkerVectorEnv(make, num_envs, seed, workers=workers, resumable=resumable)
    return SerialVectorEnv(make, num_envs, seed, resumable=resumable)


def build_envs(experiment: Experiment) -> VectorEnv:
    """The training environments. Raises UserError for environments that cannot be made."""
    config, seed = experiment.simulator, derive_seed(experiment.run.seed, "training envs", bits=31)
    envs = _build_native(config, config.num_envs, seed, groups=config.groups)
    if envs is None:
        envs = _build_one_by_one(config, seed)
    envs = advised(experiment, envs, derive_seed(seed, "people"))
    if config.normalize_obs or config.normalize_reward:
        envs = NormalizedVectorEnv(
            envs,
            ObsNorm() if config.normalize_obs else None,
            RewardNorm(experiment.discount) if config.normalize_reward else None,
        )
    return envs


def advised(experiment: Experiment, envs: VectorEnv, seed: int = 0) -> VectorEnv:
    """``envs`` with the experiment's people around them, if the agent gives advice."""
    config = experiment.advice
    return envs if config is None else with_people(envs, config, seed, load)


def build_agent(experiment: Experiment, spec: Spec, trials: VectorEnv | None = None) -> Any:
    """A fresh ``Agent`` or ``RolloutAgent`` on the experiment's device.

    ``trials``: where nature searches, from ``build_trials``; only needed to train.
    """
    known: dict[str, Any] = {}
    if trials is not None:
        envs = trials
        known["play"] = lambda actor, seed: evaluate(actor, envs, seed=seed, transitions=0)
    if getattr(experiment.agent, "known_human", False):
        assert experiment.advice is not None and isinstance(spec.action_space, AdviceSpace)
        known["human"] = known_human(experiment.advice, spec.action_space, load)
    return AGENTS[experiment.algorithm].agent(
        spec.observation_space,
        spec.action_space,
        experiment.agent,
        device=find_device(experiment.run.device),
        seed=experiment.run.seed,
        **known,
    )


def build_replay(experiment: Experiment, spec: Spec) -> Replay:
    """An empty replay on the experiment's device."""
    config, plan, device = experiment.replay, experiment.plan, find_device(experiment.run.device)
    assert config is not None and isinstance(plan, ReplayPlan)
    learning = plan.total_transitions - plan.warmup_transitions
    context = Context(
        experiment.run.seed, int(learning * plan.updates_per_transition), device.type == "cpu"
    )
    return Replay(
        config.capacity,
        SAMPLERS[config.sampler].build(experiment.sampler, context),
        num_envs=spec.num_envs,
        device=device,
        n_step=config.n_step,
        discount=config.discount,
        frame_stack=spec.frame_stack,
        directory=config.directory,
    )


def build_evaluation(
    experiment: Experiment, envs: VectorEnv | None, values: Mapping[str, float] | None = None
) -> VectorEnv:
    """One environment an evaluation episode; with the training environments' normalisation.

    ``values``: physics (``Physics``) and disturbances (``DisturbedVectorEnv``). Raises UserError
    for those that make no sense there.
    """
    config, episodes, values = (
        experiment.simulator,
        experiment.run.evaluation_episodes,
        values or {},
    )
    physics = {name: value for name, value in values.items() if name not in DISTURBANCES}
    made = _build_native(config, episodes, training=False, physics=physics)
    if made is None:
        made = SerialVectorEnv(env_maker(config, scales=physics), episodes)
    disturbances = {name: value for name, value in values.items() if name in DISTURBANCES}
    if disturbances:
        made = DisturbedVectorEnv(made, disturbances, config.id)
    made = advised(experiment, made)
    return envs.frozen(made) if isinstance(envs, NormalizedVectorEnv) else made


def build_trials(experiment: Experiment, envs: VectorEnv) -> VectorEnv | None:
    """Where nature tries physics, with the training environments' normalisation; None if it does
    not: a block of ``agent.episodes`` environments with the same seeds for each candidate."""
    config, agent = experiment.simulator, experiment.agent
    if not (config.uncertain and agent.episodes):
        return None
    made = SerialVectorEnv(
        env_maker(config), agent.candidates * agent.episodes, distinct=agent.episodes
    )
    return envs.frozen(made) if isinstance(envs, NormalizedVectorEnv) else made


def find_device(name: str) -> torch.device:
    """The torch device of this name. Raises UserError if it is not there."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        found = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        raise UserError(
            f"run.device {name!r} is not there: this machine has {', '.join(found)}"
        ) from error
    return device


def train(experiment: Experiment, folder: Path, *, quiet: bool = False) -> Assessment:
    """Train in a new run folder; the last evaluation.

    Raises UserError if the folder exists, ``run.Stopped`` if a signal ended the run early.
    """
    if folder.exists() and any(folder.iterdir()):
        raise UserError(
            f"the run folder {folder} exists: continue it with `rlsuite resume {folder}`, or give "
            "another one with --folder"
        )
    return _run(experiment, folder, quiet, is_new=True)


def resume(folder: Path, *, quiet: bool = False) -> Assessment:
    """Continue a run from its newest good checkpoint, bit for bit; the last evaluation.

    A finished run just returns its last evaluation. Raises UserError if it is no run folder, or if
    the run whose agent it advises has gone on.
    """
    return _run(_same_people(folder), folder, quiet, is_new=False)


def _run(experiment: Experiment, folder: Path, quiet: bool, *, is_new: bool) -> Assessment:
    torch.set_num_threads(experiment.run.threads)
    if is_solved(experiment):
        job = build_job(experiment, find_device(experiment.run.device))
    else:
        job = _build_training(experiment)
    if is_new:  # only now: most mistakes have shown by here
        _write_record(experiment, folder)
    refused = False
    try:
        with Run(
            folder,
            experiment.run,
            experiment.total,
            job.metrics,
            job.evaluate,
            alarms=job.alarms,
            quiet=quiet,
            unit=job.unit,
        ) as run:
            try:
                job.loop(run)
            except UserError:
                refused = is_new and not run.transitions
                raise
    finally:
        job.close()
        if refused:  # so that the command, put right, can be given again
            shutil.rmtree(folder)
    return run.evaluations[-1]


def _build_training(experiment: Experiment) -> Job:
    envs = build_envs(experiment)
    trials = build_trials(experiment, envs)
    agent = build_agent(experiment, envs.spec, trials)
    evaluation_envs = build_evaluation(experiment, envs)
    loop = _build_loop(experiment, agent, envs)
    seed = derive_seed(experiment.run.seed, "evaluation", bits=31)

    def run_evaluation(transitions: int) -> Evaluation:
        return evaluate(agent, evaluation_envs, seed=seed, transitions=transitions)

    def close() -> None:
        for made in (envs, evaluation_envs, *([trials] if trials else [])):
            made.close()

    metrics = AGENTS[experiment.algorithm].metrics
    alarms = getattr(agent, "alarms", None)
    return Job(loop, run_evaluation, metrics, alarms=alarms, close=close)


def _build_loop(experiment: Experiment, agent: Any, envs: VectorEnv) -> Callable[[Run], None]:
    """The agent's loop, with the memory that goes with it."""
    plan = experiment.plan
    if isinstance(plan, RolloutPlan):
        rollout = RolloutStorage(plan.steps_per_rollout, find_device(experiment.run.device))
        return functools.partial(rollout_loop, agent, envs, rollout, plan)
    assert isinstance(plan, ReplayPlan)
    replay = build_replay(experiment, envs.spec)
    return functools.partial(replay_loop, agent, envs, replay, plan)


def read_experiment(folder: Path) -> Experiment:
    """The experiment of a run folder. Raises UserError if it is none."""
    path = folder / EXPERIMENT
    try:
        record = json.loads(path.read_text())
        return build_experiment(record["config"], record["experiment"])
    except FileNotFoundError as error:
        raise UserError(f"{folder} is not a run folder: it has no {EXPERIMENT}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def _same_people(folder: Path) -> Experiment:
    """``read_experiment``. Raises UserError if its human is another one by now."""
    experiment = read_experiment(folder)
    recorded = json.loads((folder / EXPERIMENT).read_text()).get("human")
    check_same_human(experiment.advice, recorded)
    return experiment


@dataclass(frozen=True, slots=True)
class NormalizedAgent:
    """A trained agent together with the normalisation of what it observes."""

    agent: Agent | RolloutAgent
    obs_norm: ObsNorm

    def act(self, obs: Tree, *, explore: bool = True) -> tuple[Tree, dict[str, Tensor]]:
        """Actions for (N, ...) observations as the environment gives them."""
        return self.agent.act(self.obs_norm.normalize(obs), explore=explore)

    @property
    def probs(self) -> Callable[[Tree], Tensor]:
        """The agent's own, if it has any, for observations as the environment gives them."""
        agent: Any = self.agent
        probs = agent.probs
        return lambda obs: probs(self.obs_norm.normalize(obs))


def load(folder: str | Path) -> Any:
    """The agent of a run folder as of its newest checkpoint, ready to ``act``; or of a checkpoint's
    own folder, RUN/checkpoints/TRANSITIONS.

    ``agent.act(obs, explore=False)`` takes (N, ...) observations as the environment gives them. Of
    a solver's run it is the solver: ``solver.solution`` is the (N, S, X) policy.
    Raises UserError if there is no run or no checkpoint in the folder.
    """
    folder = Path(folder)
    run = folder.resolve().parents[1] if is_checkpoint(folder) else folder
    experiment, state = read_experiment(run), load_state(folder)
    if is_solved(experiment):
        return load_solver(experiment, state, find_device(experiment.run.device))
    return _load_agent(experiment, state)


def _load_agent(experiment: Experiment, state: dict[str, Any]) -> Any:
    agent = build_agent(experiment, _find_spec(experiment))
    agent.load_state_dict(state["agent"])
    if experiment.simulator.normalize_obs:
        obs_norm = ObsNorm()
        obs_norm.load_state_dict(state["envs"]["obs_norm"])
        return NormalizedAgent(agent, obs_norm)
    return agent


def _find_spec(experiment: Experiment) -> Spec:
    config = experiment.simulator
    envs = _build_native(config, 1) or SerialVectorEnv(env_maker(config), 1)
    envs = advised(experiment, envs)
    envs.close()
    return envs.spec


def load_state(folder: Path) -> dict[str, Any]:
    """The newest good checkpoint of a run, or that of its own folder. Raises UserError if there is
    none."""
    if is_checkpoint(folder):
        return read(folder)
    state = CheckpointStore(folder / "checkpoints").load()
    if state is None:
        raise UserError(f"{folder} has no checkpoint yet: train further, or resume it")
    return state


def evaluate_run(
    folder: Path, *, episodes: int | None = None, seed: int | None = None
) -> Assessment:
    """Evaluate a run's newest checkpoint.

    By default with the episodes and seeds of the run's own evaluations. Of a solver exactly: raises
    UserError for episodes or a seed.
    """
    experiment = read_experiment(folder)
    if is_solved(experiment):
        if episodes is not None or seed is not None:
            raise UserError(f"{folder} is evaluated exactly: it has no --episodes and no --seed")
        return evaluate_solver(experiment, load_state(folder), find_device(experiment.run.device))
    return run_evaluator(folder, episodes=episodes, seed=seed)({})


def run_evaluator(
    folder: Path, *, episodes: int | None = None, seed: int | None = None
) -> Callable[[Mapping[str, float]], Evaluation]:
    """``evaluate_run`` in environments perturbed by the values that the result is called with.

    Calls do not depend on one another, and all have the same seeds. Raises UserError for a solver.
    """
    saved = _same_people(folder)
    _ = saved.simulator
    state = load_state(folder)
    run = replace(saved.run, evaluation_episodes=episodes or saved.run.evaluation_episodes)
    experiment = replace(saved, run=run)
    if seed is None:
        seed = derive_seed(run.seed, "evaluation", bits=31)

    def run_evaluation(values: Mapping[str, float]) -> Evaluation:
        # Loaded anew: some agents draw random numbers also where they do not explore.
        agent = _load_agent(experiment, state)
        envs = build_evaluation(experiment, None, values)
        try:
            return evaluate(agent, envs, seed=seed, transitions=state["run"]["transitions"])
        finally:
            envs.close()

    return run_evaluation


def _write_record(experiment: Experiment, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / EXPERIMENT).write_text(json.dumps(_record(experiment), indent=1))
    except OSError as error:
        raise UserError(f"cannot write the run folder {folder}: {error.strerror}") from error


def _record(experiment: Experiment) -> dict[str, Any]:
    packages = ["rlsuite", "torch", "numpy", "gymnasium", "mujoco", "ale-py", "pettingzoo", "mpe2"]
    packages += ["lbforaging", "rware", "gymnasium-robotics", "vmas"]
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "config": experiment.name,
        "experiment": experiment.to_dict(),
        "sources": experiment.sources,
        "versions": versions,
        "commit": find_commit(),
        "command": sys.argv,
        "human": human_checkpoint(experiment.advice),
        "machine": platform.platform(),
    }


def find_commit() -> str | None:
    """The checkout's commit, marked if there are changes; None for an installed package."""
    here = Path(__file__).resolve().parent
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
