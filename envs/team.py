"""An environment of several agents as one Gymnasium environment."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from rlsuite.envs.layout import Array, head_sizes
from rlsuite.errors import UserError

TEAM_REWARDS = ("shared", "sum", "mean")
_STEP = ("observations", "rewards", "terminated", "truncated", "infos")


def check_team_reward(rule: str) -> None:
    """Raise ``UserError`` for a rule that there is not."""
    if rule not in TEAM_REWARDS:
        raise UserError(f"team_reward must be one of {TEAM_REWARDS}, not {rule!r}")


def rewards_differ(rewards: Mapping[Any, Any]) -> UserError:
    """The error for rewards by agent that were to be shared."""
    given = ", ".join(f"{agent}: {value:g}" for agent, value in rewards.items())
    return UserError(
        f"the agents' rewards differ ({given}), and a team has one: set team_reward (in "
        'env.kwargs) to "sum" or "mean"'
    )


def broken(what: str) -> UserError:
    """The error for an environment that does not keep the protocol."""
    return UserError(f"{what}: check the environment with rlsuite.envs.check_parallel_env")


def require_names(agents: Sequence[Any]) -> None:
    """Raise ``UserError`` unless the agents' names are different as strings too."""
    if len({str(agent) for agent in agents}) < len(agents):
        raise UserError(f"possible_agents {list(agents)} need names that differ as strings")


def is_number(value: Any) -> bool:
    """Whether ``value`` is one finite number."""
    try:
        return np.ndim(value) == 0 and math.isfinite(value)
    except (TypeError, ValueError):
        return False


def is_parallel(env: Any) -> bool:
    """Whether ``env`` has the methods of PettingZoo's ``ParallelEnv``."""
    return hasattr(env, "possible_agents") and callable(getattr(env, "observation_space", None))


class TeamEnv(gym.Env[dict[str, Any], dict[str, Any]]):
    """An environment with PettingZoo's parallel methods as one with Dict spaces.

    With A agents, in the order of ``possible_agents``; names are made strings:

    - observation ``{"agents": {name: observation}, "state": state, "mask": {name: (n,) int8},
      "alive": (A,) int8}``. The state is ``env.state()``, which may be a dict with a view for each
      agent; without one it is float32, all observations side by side (discrete ones one-hot). Masks
      (1 = available, the heads of MultiDiscrete side by side) are ``infos[agent]["action_mask"]``
      or the key ``"action_mask"`` of the agent's Dict observation, and there only for agents that
      have one at the first reset. ``alive`` is missing if ``env.metadata["agents_die"]`` is False.
    - action ``{name: action}``. Nothing is padded: spaces may differ as they like.
    - the reward is the team's: ``team_reward`` "sum" or "mean" (over all A, dead ones count 0), or
      "shared" if all agents get the same.

    An agent that terminates or leaves before the others is dead until the next reset: alive 0, its
    observation zeros (of discrete spaces the first value), its mask only action 0, its action
    ignored. When no agent is left the episode is truncated if an agent of the last step was,
    without having terminated: those agents stay alive in the last observation, with their true
    observation and mask, since one bootstraps from there. Otherwise it is terminated.

    Raises ``UserError`` for spaces that are not supported, names that are equal as strings,
    "shared" rewards that differ, and where the environment breaks the protocol.
    """

    def __init__(self, env: Any, team_reward: str = "shared") -> None:
        check_team_reward(team_reward)
        if hasattr(env, "agent_selection"):
            raise UserError(
                f"{env} is turn-based (PettingZoo's AEC); take its parallel_env, or wrap it in "
                "pettingzoo.utils.aec_to_parallel"
            )
        self.env = env
        self.metadata = env.metadata
        self.render_mode = getattr(env, "render_mode", None)
        self._rule = team_reward
        self._agents = list(env.possible_agents)
        require_names(self._agents)
        self._live: list[Any] = []
        self._gone: set[Any] = set()
        self._views = {agent: View(env, agent) for agent in self._agents}
        self.action_space = spaces.Dict(
            OrderedDict((v.name, v.action_space) for v in self._views.values())
        )
        self.observation_space = self._find_observation_space()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin an episode; info has the agents' infos."""
        observations, infos = self._begin(seed=seed, options=options)
        self._live = [agent for agent in self._agents if agent in self.env.agents]
        if not self._live:
            raise broken(f"no agents after reset; there may be {self._agents}")
        self._gone = set()
        return self._observe(observations, infos, self._live, self._live), {"agents": infos}

    def step(
        self, action: dict[str, Any]
    ) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """One step of all that are alive; info has the agents' infos and rewards."""
        acting = self._live
        joint = {agent: action[self._views[agent].name] for agent in acting}
        found = _by_agent(self.env.step(joint), "step", _STEP)
        observations, rewards, terminated, truncated, infos = found
        reward = self._reward({agent: _of(rewards, agent, "reward") for agent in acting})
        here = set(self.env.agents)
        cut = [a for a in acting if truncated.get(a) and not terminated.get(a)]
        self._gone.update(cut, (a for a in acting if terminated.get(a) or a not in here))
        self._live = [a for a in self._agents if a in here and a not in self._gone]
        is_over = not self._live
        alive = cut if is_over else self._live
        # An observation that is not acted on and not bootstrapped from is still the true one.
        seen = acting if is_over and not cut else alive
        observation = self._observe(observations, infos, seen, alive)
        info = {"agents": infos, "rewards": rewards}
        return observation, reward, is_over and not cut, is_over and bool(cut), info

    def render(self) -> Any:
        """As the environment does."""
        return self.env.render()

    def close(self) -> None:
        """Free the environment, if there is something to free."""
        if hasattr(self.env, "close"):
            self.env.close()

    def _begin(self, **arguments: Any) -> tuple[Any, ...]:
        """Observations and infos of the environment's reset."""
        return _by_agent(self.env.reset(**arguments), "reset", ("observations", "infos"))

    def _find_observation_space(self) -> spaces.Dict:
        observations, infos = self._begin(seed=0)
        for agent in self.env.agents:
            view = self._views[agent]
            given = _of(observations, agent, "observation")
            view.has_mask = view.read(given, infos.get(agent, {}))[1] is not None
        parts: OrderedDict[str, spaces.Space[Any]] = OrderedDict()
        parts["agents"] = spaces.Dict(OrderedDict((v.name, v.space) for v in self._views.values()))
        self._agents_space = parts["agents"]
        state = self._own_state()
        if state is None:
            shape = (spaces.flatdim(self._agents_space),)
            parts["state"] = spaces.Box(-np.inf, np.inf, shape, np.float32)
        elif isinstance(state, dict):
            parts["state"] = spaces.Dict(OrderedDict((k, _box_of(v)) for k, v in state.items()))
        else:
            own = getattr(self.env, "state_space", None)
            is_own = isinstance(own, spaces.Box) and own.shape == state.shape
            parts["state"] = own if is_own and own is not None else _box_of(state)
        masked = [v for v in self._views.values() if v.has_mask]
        if masked:
            parts["mask"] = spaces.Dict(
                OrderedDict((v.name, spaces.MultiBinary(sum(v.heads))) for v in masked)
            )
        self._can_die = bool(self.metadata.get("agents_die", True))
        if self._can_die:
            parts["alive"] = spaces.MultiBinary(len(self._agents))
        return spaces.Dict(parts)

    def _observe(
        self, observations: Mapping[Any, Any], infos: Mapping[Any, Any], seen: Any, alive: Any
    ) -> dict[str, Any]:
        """``seen`` have their own observations, ``alive`` their own masks."""
        if not self._can_die and len(alive) not in (0, len(self._agents)):
            raise broken('metadata["agents_die"] is False, but an agent left before the others')
        by_name: dict[str, Any] = {}
        masks: dict[str, Array] = {}
        for agent, view in self._views.items():
            mask = None
            by_name[view.name] = view.zeros
            if agent in seen:
                given = _of(observations, agent, "observation")
                by_name[view.name], mask = view.read(given, infos.get(agent, {}))
            if view.has_mask:
                masks[view.name] = view.check_mask(mask) if agent in alive else view.only_first
            elif mask is not None:
                raise broken(f"agent {view.name} has an action mask, but had none at first")
        observation = {"agents": by_name, "state": self._own_state()}
        if observation["state"] is None:
            flat: Any = spaces.flatten(self._agents_space, by_name)
            observation["state"] = flat.astype(np.float32)
        if masks:
            observation["mask"] = masks
        if self._can_die:
            observation["alive"] = np.array([agent in alive for agent in self._agents], np.int8)
        return observation

    def _own_state(self) -> Array | dict[str, Array] | None:
        """What the environment says; None if it says nothing."""
        state = state_of(self.env)
        if state is None:
            return None
        if isinstance(state, dict):
            return {v.name: np.asarray(_of(state, a, "state")) for a, v in self._views.items()}
        return np.asarray(state)

    def _reward(self, rewards: dict[Any, Any]) -> float:
        for agent, reward in rewards.items():
            if not is_number(reward):
                raise broken(f"the reward of agent {agent} is {reward!r}, not a finite number")
        values = [float(reward) for reward in rewards.values()]
        if self._rule == "sum":
            return sum(values)
        if self._rule == "mean":
            return sum(values) / len(self._agents)
        if any(value != values[0] for value in values):
            raise rewards_differ(rewards)
        return values[0]


class View:
    """What one agent observes, and may do."""

    def __init__(self, env: Any, agent: Any) -> None:
        self.name = str(agent)
        self.action_space: gym.Space[Any] = env.action_space(agent)
        self.heads = head_sizes(self.action_space)
        self.given: gym.Space[Any] = env.observation_space(agent)
        """Its observation space, with the mask if that is a part of it."""
        self._keys = _unmasked_keys(self.given)
        self.space = self.given
        if self._keys:
            assert isinstance(self.given, spaces.Dict)
            rest = OrderedDict((key, self.given[key]) for key in self._keys)
            self.space = rest[self._keys[0]] if len(rest) == 1 else spaces.Dict(rest)
        self.zeros = _zeros(self.space)
        self.has_mask = False
        self.only_first: Array = np.concatenate(
            [np.arange(n) == 0 for n in self.heads] or [[]]
        ).astype(np.int8)

    def read(self, observation: Any, info: Mapping[str, Any]) -> tuple[Any, Array | None]:
        """The observation without the mask, and the mask of either convention. Raises ``UserError``
        for an info that is no dict, a mask of actions that are not discrete, and an observation of
        another shape."""
        if not isinstance(info, Mapping):
            raise broken(f"the info of agent {self.name} is {_kind(info)}, not a dict")
        mask = info.get("action_mask")
        if self._keys:
            mask = observation["action_mask"]
            rest = {key: observation[key] for key in self._keys}
            observation = rest[self._keys[0]] if len(rest) == 1 else rest
        if mask is not None and not self.heads:
            raise broken(f"agent {self.name} has an action mask, but its actions are numbers")
        if isinstance(mask, tuple | list):  # Gymnasium's form for MultiDiscrete
            mask = np.concatenate([np.ravel(head) for head in mask])
        # NumPy would broadcast it silently.
        if isinstance(self.space, spaces.Box) and np.shape(observation) != self.space.shape:
            raise broken(
                f"the observation of agent {self.name} has shape {np.shape(observation)}, its "
                f"space {self.space.shape}"
            )
        return observation, mask

    def check_mask(self, mask: Array | None) -> Array:
        """The mask of an agent that acts. Raises ``UserError`` if it is none."""
        if mask is None or np.shape(mask) != (sum(self.heads),):
            shape = "none" if mask is None else f"of shape {np.shape(mask)}"
            raise broken(
                f"the action mask of agent {self.name} is {shape}, but its action space "
                f"{self.action_space} needs ({sum(self.heads)},)"
            )
        mask = np.asarray(mask, np.int8)
        if len(self.heads) == 1:
            is_possible = mask.any()
        else:
            is_possible = np.logical_or.reduceat(mask, np.cumsum([0, *self.heads[:-1]])).all()
        if not is_possible:
            raise broken(f"no action is available to agent {self.name}, whose mask is all zero")
        return mask


def _unmasked_keys(space: gym.Space[Any]) -> list[str]:
    """Of a Dict observation with a mask, the other keys; else none."""
    if not isinstance(space, spaces.Dict) or "action_mask" not in space.spaces:
        return []
    return [key for key in space.spaces if key != "action_mask"]


def state_of(env: Any) -> Any:
    """``env.state()``; None if it has none, or PettingZoo's that is not implemented."""
    try:
        return env.state() if callable(getattr(env, "state", None)) else None
    except NotImplementedError:
        return None


def in_place_of(parts: tuple[str, ...], returned: Any) -> str | None:
    """What came in place of a tuple of the parts, in words; None if it is one."""
    if not isinstance(returned, tuple):
        return _kind(returned)
    return None if len(returned) == len(parts) else f"a tuple of {len(returned)}"


def _by_agent(returned: Any, method: str, parts: tuple[str, ...]) -> tuple[Any, ...]:
    """What a method returned. Raises ``UserError`` unless it is a dict by agent for each part."""
    if found := in_place_of(parts, returned):
        raise broken(f"{method} returned {found}, not ({', '.join(parts)})")
    for part, values in zip(parts, returned, strict=True):
        if not isinstance(values, Mapping):
            raise broken(f"{method} returned {_kind(values)} as {part}, not a dict by agent")
    return tuple(returned)


def _kind(value: Any) -> str:
    return type(value).__name__


def _of(values: Mapping[Any, Any], agent: Any, what: str) -> Any:
    try:
        return values[agent]
    except KeyError:
        raise broken(f"no {what} of agent {agent}, only of {list(values)}") from None


def _zeros(space: gym.Space[Any]) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _zeros(child) for key, child in space.items()}
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        return space.start
    return np.zeros(space.shape or (), space.dtype)


def _box_of(array: Array) -> spaces.Box:
    if np.issubdtype(array.dtype, np.floating):
        return spaces.Box(-np.inf, np.inf, array.shape, np.float32)
    is_bool = array.dtype == np.bool_
    low, high = (0, 1) if is_bool else (np.iinfo(array.dtype).min, np.iinfo(array.dtype).max)
    return spaces.Box(low, high, array.shape, array.dtype.type)
