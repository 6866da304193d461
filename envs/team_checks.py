"""A checker for one's own environment of several agents."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from rlsuite.envs.layout import ActionCodec, Array, ObservationLayout, sample_available
from rlsuite.envs.team import (
    View,
    check_team_reward,
    is_number,
    is_parallel,
    require_names,
    rewards_differ,
    state_of,
)
from rlsuite.errors import UserError


def check_parallel_env(
    env: Any, *, steps: int = 200, seed: int = 0, team_reward: str | None = None
) -> None:
    """Check one's own environment with PettingZoo's parallel methods by playing it at random.

    ``steps`` random available actions, twice with the same seeds. Raises ``UserError`` for the
    first mistake: a part of the protocol that is missing or of another type; spaces that are not
    supported or differ between calls; observations of another shape, dtype or range than their
    space; values that are missing for an agent; rewards that are not finite, or that differ between
    agents with ``team_reward="shared"``; masks of another length, other values than 0 and 1, or
    nothing available; agents that are done but stay in ``agents``, or the reverse, or that leave
    early against ``metadata["agents_die"]``; a state of changing shape or dtype, without an agent
    or not finite; and other results when the same seed and actions are repeated. Warns if no
    episode ended.
    """
    if not is_parallel(env):
        raise UserError("the environment needs possible_agents, observation_space(agent) and so on")
    agents = list(env.possible_agents)
    _require(bool(agents), f"possible_agents is {agents}")
    require_names(agents)
    if team_reward is not None:
        check_team_reward(team_reward)
    metadata = getattr(env, "metadata", None)
    _require(
        isinstance(metadata, dict), f"metadata must be a dict (it may be empty), not {metadata}"
    )
    for agent in agents:
        for kind in ("observation_space", "action_space"):
            first, again = _space(env, kind, agent), _space(env, kind, agent)
            _require(
                first is again, f"{kind}({agent!r}) must return one and the same object every time"
            )
        ObservationLayout(env.observation_space(agent))
        ActionCodec(spaces.Dict({"action": env.action_space(agent)}), 1)
    played = [list(_play(env, seed, steps, team_reward)) for _ in range(2)]
    for step, (before, after) in enumerate(zip(*played, strict=False)):
        _require(
            before == after,
            f"step {step} of a repeated episode differs: draw everything from a generator that "
            "reset(seed=seed) makes anew, and let nothing survive a reset",
        )


def _require(is_right: bool, message: str) -> None:
    if not is_right:
        raise UserError(message)


def _space(env: Any, kind: str, agent: Any) -> gym.Space[Any]:
    try:
        space: gym.Space[Any] = getattr(env, kind)(agent)
    except KeyError as error:
        raise UserError(f"{kind}({agent!r}) raises KeyError: {error}") from error
    return space


def _play(env: Any, seed: int, steps: int, team_reward: str | None) -> Iterator[list[bytes]]:
    """The bits of everything that is returned, checked."""
    views = {agent: View(env, agent) for agent in env.possible_agents}
    for i, view in enumerate(views.values()):
        view.action_space.seed(seed + i)
    episodes = 0
    described: list[str] | None = None
    live: list[Any] = []
    masks: dict[Any, Array | None] = {}
    for _ in range(steps):
        if not live:
            returned = _begin(env, seed + episodes)
            episodes, live = episodes + 1, list(env.agents)
            _require(bool(live), "after reset, agents is empty")
            _require(set(live) <= set(views), f"agents must be of possible_agents, not {live}")
            masks = _check_views(views, live, live, *returned)
            state = state_of(env)
            described = described or _described(state, list(views))
            yield _bits([returned[0], state])
        returned = env.step({a: sample_available(env.action_space(a), masks[a]) for a in live})
        is_five = isinstance(returned, tuple) and len(returned) == 5
        _require(is_five, "step must return observations, rewards, terminated, truncated, infos")
        observations, rewards, terminated, truncated, infos = returned
        _check_agents(env, list(views))
        _check_results(env.agents, live, rewards, terminated, truncated)
        if team_reward == "shared" and any(rewards[a] != rewards[live[0]] for a in live):
            raise rewards_differ({a: rewards[a] for a in live})
        # One bootstraps from agents that were truncated, as if they could act.
        acting = [a for a in views if a in env.agents or truncated.get(a)]
        acting = [a for a in acting if not terminated.get(a)]
        seen = [a for a in views if a in live or a in acting]
        masks = _check_views(views, seen, acting, observations, infos)
        state = state_of(env)
        now = _described(state, list(views))
        _require(described == now, f"the state was {described} after reset, and is now {now}")
        yield _bits([*returned[:4], state])
        live = list(env.agents)
    if episodes == 1 and live:
        warnings.warn(
            f"no episode ended in {steps} steps: if none ever does, set env.time_limit, which "
            "truncates it",
            stacklevel=2,
        )


def _begin(env: Any, seed: int) -> tuple[Any, Any]:
    try:
        returned = env.reset(seed=seed, options=None)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise UserError(f"reset must take seed and options: {error}") from error
    is_pair = isinstance(returned, tuple) and len(returned) == 2
    _require(is_pair, "reset must return observations and infos")
    return returned[0], returned[1]


def _check_agents(env: Any, possible: list[Any]) -> None:
    now = list(env.possible_agents)
    _require(
        now == possible,
        f"possible_agents was {possible}, and is now {now}: agents must be a list of its own",
    )
    can_die = env.metadata.get("agents_die", True)
    _require(
        can_die or len(env.agents) in (0, len(possible)),
        f'metadata["agents_die"] is False, but of {possible} only {env.agents} are left',
    )


def _check_views(
    views: Mapping[Any, View], agents: list[Any], acting: list[Any], observations: Any, infos: Any
) -> dict[Any, Array | None]:
    """Check observations of ``agents``, and masks of those that are ``acting``; the masks."""
    masks: dict[Any, Array | None] = {}
    is_dict = isinstance(infos, dict) and all(isinstance(infos.get(a, {}), dict) for a in agents)
    _require(is_dict, "infos must be a dict of dicts by agent")
    _require(isinstance(observations, dict), "observations must be a dict by agent")
    missing = [a for a in agents if a not in observations]
    _require(not missing, f"observations have no agent {', '.join(map(repr, missing))}")
    for agent in agents:
        view = views[agent]
        _check_inside(view.given, observations[agent], f"agent {agent!r}")
        _, mask = view.read(observations[agent], infos.get(agent, {}))
        view.has_mask |= mask is not None
        masks[agent] = None
        if view.has_mask and agent in acting:
            is_binary = mask is None or bool(np.isin(mask, (0, 1)).all())
            _require(is_binary, f"the mask of agent {agent!r} has values that are not 0 or 1")
            masks[agent] = view.check_mask(mask)
    return masks


def _check_inside(space: gym.Space[Any], value: Any, where: str) -> None:
    if isinstance(space, spaces.Dict):
        has_keys = isinstance(value, dict) and value.keys() == space.spaces.keys()
        _require(has_keys, f"the observation of {where} must have the keys {list(space.spaces)}")
        for key, child in space.items():
            _check_inside(child, value[key], f"{where}, {key!r}")
        return
    shape, dtype = np.shape(value), np.asarray(value).dtype
    _require(
        shape == (space.shape or ()),
        f"the observation of {where} has shape {shape}, its space {space.shape}",
    )
    is_cast = space.dtype is None or np.can_cast(dtype, space.dtype)
    is_index = isinstance(space, spaces.Discrete | spaces.MultiDiscrete) and dtype.kind in "iu"
    _require(
        is_cast or is_index,
        f"the observation of {where} has dtype {dtype}, its space {space.dtype}",
    )
    _require(space.contains(value), f"the observation of {where} is outside its space {space}")


def _check_results(
    remaining: list[Any], acted: list[Any], rewards: Any, terminated: Any, truncated: Any
) -> None:
    parts = {"rewards": rewards, "terminated": terminated, "truncated": truncated}
    for name, part in parts.items():
        _require(isinstance(part, dict), f"{name} must be a dict by agent, not {part}")
        missing = [agent for agent in acted if agent not in part]
        _require(not missing, f"{name} have no agent {', '.join(map(repr, missing))}")
    for agent in acted:
        reward = rewards[agent]
        _require(
            is_number(reward), f"the reward of agent {agent!r} is {reward!r}, not a finite number"
        )
        is_done = bool(terminated[agent] or truncated[agent])
        _require(
            is_done != (agent in remaining),
            f"agent {agent!r} is done but still in agents: remove it there"
            if is_done
            else f"agent {agent!r} left agents but is neither terminated nor truncated",
        )


def _described(state: Any, agents: list[Any]) -> list[str]:
    """Shapes and dtypes of a state, checked."""
    if isinstance(state, dict):
        missing = [agent for agent in agents if agent not in state]
        _require(not missing, f"the state has no agent {', '.join(map(repr, missing))}")
    arrays = list(map(np.asarray, state.values() if isinstance(state, dict) else [state]))
    is_finite = all(array.dtype.kind != "f" or bool(np.isfinite(array).all()) for array in arrays)
    _require(is_finite, "the state has values that are infinite or no number")
    return [f"{array.dtype} {array.shape}" for array in arrays]


def _bits(value: Any) -> list[bytes]:
    if isinstance(value, dict):
        return [bits for key in value for bits in _bits(value[key])]
    if isinstance(value, list):
        return [bits for part in value for bits in _bits(part)]
    return [np.asarray(value).tobytes()]
