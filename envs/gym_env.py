"""Any Gymnasium environment by its id, or one's own by its import path."""

from __future__ import annotations

import copy
import difflib
import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np

from rlsuite.envs.layout import sample_available
from rlsuite.envs.team import TeamEnv, in_place_of, is_parallel
from rlsuite.envs.tuple_env import TupleEnv
from rlsuite.errors import UserError

_NUMBERS = ("reward", "terminated", "truncated")


def make_env(
    env_id: str,
    *,
    time_limit: int | None = None,
    kwargs: dict[str, Any] | None = None,
    render_mode: str | None = None,
) -> gym.Env[Any, Any]:
    """One environment, without Gymnasium's passive checker.

    ``env_id`` is a Gymnasium id, ``module:id`` where importing the module registers it, or
    ``package.module:make``: a callable that returns an environment. ``time_limit`` (steps) replaces
    the environment's own limit; around the result of a callable a limit is put on top of its own.
    Environments of several agents, with PettingZoo's parallel methods or with Gymnasium's Tuple
    spaces, become a ``TeamEnv``; ``kwargs["team_reward"]`` is its argument.

    Raises ``UserError`` for an unknown id, a missing extra, an import path that does not lead to an
    environment, arguments that it does not take, or a time limit below 1.
    """
    if time_limit is not None and (isinstance(time_limit, bool) or time_limit < 1):
        raise UserError(f"time_limit must be a positive number of steps, not {time_limit!r}")
    arguments = dict(kwargs or {})
    team_reward = arguments.pop("team_reward", None)
    if render_mode is not None:
        arguments["render_mode"] = render_mode
    module, _, name = env_id.rpartition(":")
    try:
        if module:
            make = _imported(env_id, module, name)
            _quiet_mujoco()
            if name not in gym.registry:
                env = _made_by(make, env_id, arguments)
                env = _as_one(env, env_id, team_reward)
                return env if time_limit is None else gym.wrappers.TimeLimit(env, time_limit)
        return _as_one(_registered(name, arguments, time_limit), env_id, team_reward)
    except (TypeError, ImportError) as error:
        if isinstance(error, TypeError) and "unexpected keyword argument" not in str(error):
            raise
        given = f" (it was given {kwargs}: env.kwargs)" if kwargs else ""
        raise UserError(f"environment {env_id!r}: {_one_line(error)}{given}") from error


def _registered(
    env_id: str, arguments: dict[str, Any], time_limit: int | None
) -> gym.Env[Any, Any]:
    spec = gym.registry.get(env_id)
    is_mujoco = spec is not None and str(spec.entry_point).startswith("gymnasium.envs.mujoco")
    if is_mujoco:
        import_extra("mujoco", env_id, "mujoco")
        _quiet_mujoco()
    if env_id.startswith("ALE/"):
        import_extra("ale_py", env_id, "atari")
    try:
        return gym.make(env_id, max_episode_steps=time_limit, disable_env_checker=True, **arguments)
    except gym.error.UnregisteredEnv as error:
        raise unknown_id(env_id) from error
    except (gym.error.Error, ImportError) as error:
        raise UserError(f"environment {env_id!r}: {_one_line(error)}") from error


def _quiet_mujoco() -> None:
    """By itself MuJoCo repeats its warnings, and appends them to a file in the working folder."""
    if "mujoco" in sys.modules:
        # What it calls instead must not raise: no Python warning.
        sys.modules["mujoco"].set_mju_user_warning(_print_once)


def unknown_id(env_id: str) -> UserError:
    """The error for an id that is not registered, with the nearest one that is."""
    near = difflib.get_close_matches(env_id, gym.registry.keys(), n=1)
    hint = f"did you mean {near[0]!r}?" if near else "is the package that registers it imported?"
    lists = "gymnasium.pprint_registry() lists those there are"
    return UserError(f"unknown environment {env_id!r}; {hint} {lists}")


@functools.cache
def _print_once(message: str) -> None:
    print(f"MuJoCo: {message}", file=sys.stderr)


EXTRA_OF = {
    **dict.fromkeys(
        ("pettingzoo", "mpe2", "lbforaging", "rware", "gymnasium_robotics", "vmas"), "multi-agent"
    ),
    "mujoco": "mujoco",
}
"""By package that may be missing the extra that has it."""


def import_extra(module: str, env_id: str, extra: str) -> Any:
    """A module that ``env_id`` needs; UserError with the install command if it is not there."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise _needs(extra, env_id) from error


def _needs(extra: str, env_id: str) -> UserError:
    return UserError(
        f"environment {env_id!r} needs the {extra} extra: pip install 'rlsuite[{extra}]'"
    )


def _imported(env_id: str, module: str, name: str) -> Any:
    """What ``name`` is in ``module``; None if it is an id that the module registered."""
    try:
        imported = importlib.import_module(module)
    except ImportError as error:
        if error.name in EXTRA_OF:
            raise _needs(EXTRA_OF[error.name], env_id) from error
        raise UserError(f"environment {env_id!r}: cannot import {module!r}: {error}") from error
    if name in gym.registry:
        return None
    if not hasattr(imported, name):
        near = difflib.get_close_matches(name, dir(imported), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"environment {env_id!r}: {module!r} has no {name!r}{hint}")
    return getattr(imported, name)


def _made_by(make: Any, env_id: str, arguments: dict[str, Any]) -> Any:
    if not callable(make):
        raise UserError(f"environment {env_id!r} is not callable; name a function or a class")
    return make(**arguments)


def _as_one(env: Any, env_id: str, team_reward: str | None) -> gym.Env[Any, Any]:
    """The environment; that of several agents as a ``TeamEnv``."""
    if isinstance(env, gym.Env) and isinstance(env.action_space, gym.spaces.Tuple):
        env = TupleEnv(env)
    if is_parallel(env):
        if len(env.possible_agents) == 1:
            raise UserError(
                f"environment {env_id!r} is no team: it has one agent, {env.possible_agents[0]!r} "
                "(as MaMuJoCo where agent_obsk or agent_conf is None)"
            )
        return TeamEnv(env) if team_reward is None else TeamEnv(env, team_reward)
    if not isinstance(env, gym.Env):
        raise UserError(
            f"environment {env_id!r} returned {type(env).__name__}, neither a gymnasium.Env nor an "
            "environment with PettingZoo's parallel methods"
        )
    if team_reward is not None:
        raise UserError(f"environment {env_id!r} has one agent: team_reward is for several")
    return env


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def is_resumable(make: Callable[[], gym.Env[Any, Any]], seed: int, steps: int = 30) -> bool:
    """Whether an episode's seed and actions determine it, so that replaying them restores it.

    A used and a fresh environment are reset with the same seed and given the same ``steps`` random
    actions (of those that are available to a team); what they return must agree bit for bit (NaN
    equals NaN). Raises ``UserError`` if that is not what Gymnasium asks for.
    """
    used, fresh = make(), make()
    try:
        for _ in _trace(used, seed + 1, steps):
            pass
        return list(_trace(used, seed, steps)) == list(_trace(fresh, seed, steps))
    finally:
        used.close()
        fresh.close()


def _trace(env: gym.Env[Any, Any], seed: int, steps: int) -> Iterator[list[bytes]]:
    """The bits of everything that the environment returns; an ended episode is followed by more."""
    env.action_space.seed(seed)
    observation, _ = _returned(env.reset(seed=seed), "reset", ("observation", "info"))
    yield _bits(observation)
    for t in range(steps):
        action = _random_action(env.action_space, observation)
        returned = env.step(copy.deepcopy(action))
        observation, *numbers, _ = _returned(returned, "step", ("observation", *_NUMBERS, "info"))
        for name, value in zip(_NUMBERS, numbers, strict=True):
            if value is None or np.ndim(value) > 0:
                raise UserError(
                    f"the environment's step returned {type(value).__name__} as {name}, where "
                    "Gymnasium asks for one number or bool"
                )
        yield [*_bits(observation), *_bits(numbers)]
        if numbers[1] or numbers[2]:
            observation, _ = env.reset(seed=seed + t + 2)
            yield _bits(observation)


def _returned(values: Any, method: str, parts: tuple[str, ...]) -> tuple[Any, ...]:
    """The values. Raises UserError unless there are as many as parts."""
    if found := in_place_of(parts, values):
        raise UserError(
            f"the environment's {method} returned {found}, where Gymnasium asks for "
            f"({', '.join(parts)}); if it is for the old gym, shimmy converts it"
        )
    return tuple(values)


def _random_action(space: gym.Space[Any], observation: Any) -> Any:
    if not isinstance(space, gym.spaces.Dict):
        return sample_available(space)
    masks = observation.get("mask", {}) if isinstance(observation, dict) else {}
    return {name: sample_available(child, masks.get(name)) for name, child in space.items()}


def _bits(value: Any) -> list[bytes]:
    if isinstance(value, dict):
        return [bits for key in value for bits in _bits(value[key])]
    if isinstance(value, tuple | list):
        return [bits for child in value for bits in _bits(child)]
    return [np.asarray(value).tobytes()]
