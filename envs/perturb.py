"""Environments under another physics.

Physical parameters are scales, 1 as it is; ``Physics`` sets them, of Gymnasium's MuJoCo and classic
control environments, also where agents share a robot. In an ``Uncertain`` environment nature
chooses the physics of every episode. ``rlsuite.envs.disturb`` is for what goes in and out.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control import (
    AcrobotEnv,
    CartPoleEnv,
    Continuous_MountainCarEnv,
    MountainCarEnv,
    PendulumEnv,
)

from rlsuite.envs.disturb import DISTURBANCES
from rlsuite.envs.layout import Array
from rlsuite.envs.team import TeamEnv
from rlsuite.errors import UserError

_LINKS = ("LINK_LENGTH_1", "LINK_LENGTH_2", "LINK_COM_POS_1", "LINK_COM_POS_2")
_CLASSIC: dict[type, dict[str, tuple[str, ...]]] = {
    CartPoleEnv: {
        "gravity": ("gravity",),
        "cart_mass": ("masscart",),
        "pole_mass": ("masspole",),
        "pole_length": ("length",),
        "force": ("force_mag",),
    },
    PendulumEnv: {"gravity": ("g",), "mass": ("m",), "length": ("l",)},
    AcrobotEnv: {"mass": ("LINK_MASS_1", "LINK_MASS_2", "LINK_MOI"), "length": _LINKS},
    MountainCarEnv: {"gravity": ("gravity",), "force": ("force",)},
    Continuous_MountainCarEnv: {"force": ("power",)},
}
"""Attributes by parameter."""


ATARI_PHYSICS = ["sticky"]
"""What an Atari game has: the probability that an action is repeated, not a scale of it."""


def nominal(name: str) -> float | None:
    """The value of a parameter that changes nothing; None if it depends on the protocol."""
    if name in ATARI_PHYSICS:
        return None
    return 0.0 if name in DISTURBANCES else 1.0


class Physics:
    """The physical parameters of an environment, by name; none if it is of no known kind.

    Of MuJoCo's models: mass (with inertia), friction (sliding, of contacts), gravity, damping (of
    joints) and strength (gears of actuators), those that are not zero anyway.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self._env = _simulator(env)
        model = getattr(self._env, "model", None)
        self._model: Any = model if type(model).__name__ == "MjModel" else None
        self._arrays = {} if self._model is None else _arrays(self._model)
        self._attributes: dict[str, tuple[str, ...]] = {}
        for kind, attributes in _CLASSIC.items():
            if isinstance(self._env, kind):
                self._attributes = attributes
        self._nominal: dict[str, list[Any]] = {
            name: [array.copy() for array in arrays] for name, arrays in self._arrays.items()
        }
        for name, names in self._attributes.items():
            self._nominal[name] = [getattr(self._env, attribute) for attribute in names]
        self.names = list(self._nominal)
        self._scales = dict.fromkeys(self.names, 1.0)

    def set(self, scales: Mapping[str, float]) -> None:
        """Scale the parameters named; the others become nominal. Resets do not undo it.

        It takes force at the next reset, or step. Constants that follow from the parameters follow.
        """
        wanted = {name: scales.get(name, 1.0) for name in self.names}
        if wanted == self._scales:
            return
        self._scales = wanted
        for name, scale in wanted.items():
            values = [value * scale for value in self._nominal[name]]
            for array, value in zip(self._arrays.get(name, ()), values, strict=False):
                array[...] = value
            for attribute, value in zip(self._attributes.get(name, ()), values, strict=False):
                setattr(self._env, attribute, value)
        if self._model is not None:
            import mujoco

            # Into a scratch MjData, which it leaves in the initial pose.
            mujoco.mj_setConst(self._model, mujoco.MjData(self._model))
        if isinstance(self._env, CartPoleEnv):
            self._env.total_mass = self._env.masspole + self._env.masscart
            self._env.polemass_length = self._env.masspole * self._env.length


def _simulator(env: gym.Env[Any, Any]) -> Any:
    """What holds the parameters: of agents that share a robot, the task of one agent."""
    inner: Any = env.unwrapped
    if isinstance(inner, TeamEnv):
        team = inner.env
        inner = getattr(team, "single_agent_env", getattr(team, "env", team))
    return getattr(inner, "unwrapped", inner)


def _arrays(model: Any) -> dict[str, list[Array]]:
    """Views of the model's memory, by parameter."""
    found: dict[str, list[Array]] = {
        "mass": [model.body_mass, model.body_inertia],
        "friction": [model.geom_friction[:, 0], model.pair_friction[:, :2]],
        "gravity": [model.opt.gravity],
        "damping": [model.dof_damping],
        "strength": [model.actuator_gear],
    }
    return {name: arrays for name, arrays in found.items() if any(a.any() for a in arrays)}


class Uncertain(gym.Wrapper[Any, Any, Any, Any]):
    """An environment whose physics nature chooses for every episode, within a box.

    ``bounds`` holds the lowest and the highest scale by parameter; 1 is between. An action is a
    Dict of "action" and "physics", the (K,) scales in the order of ``bounds``: that of the first
    step is in force throughout the episode, as seed and actions alone have to restore an episode.
    Raises UserError for parameters that the environment does not have, and bounds without 1.
    """

    def __init__(self, env: gym.Env[Any, Any], bounds: Mapping[str, tuple[float, float]]) -> None:
        super().__init__(env)
        self._physics = Physics(env)
        if isinstance(env.action_space, gym.spaces.Dict):
            raise UserError(f"{_name(env)} has several agents: nature plays against one alone")
        of_interface = [name for name in bounds if name in DISTURBANCES]
        if of_interface:
            raise UserError(f"{of_interface[0]} is no physics: nature can choose physics alone")
        for name, (low, high) in bounds.items():
            check_physics(_name(env), self._physics.names, {name: low})
            if not low <= 1.0 <= high:
                raise UserError(f"uncertain physics have 1 within their bounds, not {low, high}")
        self._names = list(bounds)
        self._is_chosen = False
        low, high = np.array(list(bounds.values()), np.float32).T
        self.action_space = gym.spaces.Dict(
            [("action", env.action_space), ("physics", gym.spaces.Box(low, high))]
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; its first state and observation are those of the nominal physics."""
        self._physics.set({})
        self._is_chosen = False
        return self.env.reset(seed=seed, options=options)

    def step(self, action: dict[str, Any]) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Act; the first step of an episode also sets its physics."""
        if not self._is_chosen:
            self._is_chosen = True
            self._physics.set(dict(zip(self._names, action["physics"].tolist(), strict=True)))
        return self.env.step(action["action"])


def changed(
    make: Callable[[], gym.Env[Any, Any]],
    scales: Mapping[str, float],
    bounds: Mapping[str, tuple[float, float]],
) -> gym.Env[Any, Any]:
    """What ``make`` makes, with its physics scaled for good and, around that, ``Uncertain`` where
    there are bounds.

    Raises UserError for a parameter that the environment does not have, and scales out of range.
    """
    env = make()
    if scales:
        physics = Physics(env)
        check_physics(_name(env), physics.names, scales)
        physics.set(scales)
    return Uncertain(env, bounds) if bounds else env


def check_physics(env: str, physics: list[str], scales: Mapping[str, float]) -> None:
    """Raise UserError unless all are of the ``physics`` that ``env`` has, scales above 0."""
    for key, value in scales.items():
        if key not in physics:
            known = [*physics, *DISTURBANCES]
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            none = "" if physics else "no physics that is known (MuJoCo and classic control have), "
            raise UserError(f"{env} has no {key!r}; {hint}it has {none}{', '.join(known)}")
        if key in ATARI_PHYSICS:
            if not 0 <= value <= 1:
                raise UserError(f"{key}={value:g} for {env}: it is a probability")
        elif value <= 0:
            raise UserError(f"{key}={value:g} for {env}: a scale has to be above 0; 1 is nominal")


def _name(env: gym.Env[Any, Any]) -> str:
    return env.spec.id if env.spec is not None else type(_simulator(env)).__name__
