"""Environments under another physics, with late and noisy actions, or with noisy observations.

Physical parameters are scales, 1 as it is; ``Physics`` sets them, of Gymnasium's MuJoCo and classic
control environments. ``Perturbed`` also disturbs what goes in and out of any environment of one
agent. In an ``Uncertain`` environment nature chooses the physics of every episode.
"""

from __future__ import annotations

import copy
import difflib
from collections import deque
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

from rlsuite.envs.layout import Array
from rlsuite.errors import UserError
from rlsuite.rng import derive_seed

DISTURBANCES = ("action_delay", "action_noise", "obs_noise")
"""What every environment of one agent has beside its physics; 0 as it is."""

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


def nominal(name: str) -> float:
    """The value of a parameter that changes nothing."""
    return 0.0 if name in DISTURBANCES else 1.0


class Physics:
    """The physical parameters of an environment, by name; none if it is of no known kind.

    Of MuJoCo's models: mass (with inertia), friction (sliding, of contacts), gravity, damping (of
    joints) and strength (gears of actuators), those that are not zero anyway.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self._env: Any = env.unwrapped
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


class Perturbed(gym.Wrapper[Any, Any, Any, Any]):
    """An environment of one agent with some of its parameters changed, for good.

    ``values`` holds scales of the physics and: action_delay, steps until an action takes effect
    (before, the first one does); action_noise, for Box actions the standard deviation of Gaussian
    noise as a share of half the range, clipped to the Box, for Discrete ones the probability of a
    uniformly random action instead; obs_noise, the standard deviation of Gaussian noise in the
    units of the observation. Noise follows from the seed of the reset: with one seed it is the same
    but for its size. Nominal values leave every bit as it is.
    Raises UserError for a parameter that the environment does not have, and a value out of range.
    """

    def __init__(self, env: gym.Env[Any, Any], values: Mapping[str, float]) -> None:
        super().__init__(env)
        physics = Physics(env)
        _check(env, physics.names, values)
        physics.set({name: value for name, value in values.items() if name in physics.names})
        self._action_noise = values.get("action_noise", 0.0)
        self._obs_noise = values.get("obs_noise", 0.0)
        self._pending: deque[Any] = deque(maxlen=int(values.get("action_delay", 0)) + 1)
        self._seed(0)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; with a seed the noise begins anew too."""
        if seed is not None:
            self._seed(seed)
        self._pending.clear()
        observation, info = self.env.reset(seed=seed, options=options)
        return self._observed(observation), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Act late and inaccurately; observe inaccurately."""
        self._pending.append(action)
        taken = self._acted(copy.copy(self._pending[0]))
        observation, reward, terminated, truncated, info = self.env.step(taken)
        return self._observed(observation), reward, terminated, truncated, info

    def _seed(self, seed: int) -> None:
        # Two streams: the one noise is the same with and without the other.
        self._of_actions, self._of_obs = (
            np.random.Generator(np.random.PCG64(derive_seed(seed, name)))
            for name in ("action noise", "obs noise")
        )

    def _acted(self, action: Any) -> Any:
        if not self._action_noise:
            return action
        space = self.action_space
        if isinstance(space, gym.spaces.Discrete):
            slips = self._of_actions.random() < self._action_noise
            other = int(self._of_actions.integers(space.n) + space.start)
            return other if slips else action
        assert isinstance(space, gym.spaces.Box)
        noise = self._of_actions.standard_normal(space.shape) * (space.high - space.low) / 2
        noisy = action + self._action_noise * noise
        return np.clip(noisy, space.low, space.high).astype(space.dtype)

    def _observed(self, observation: Any) -> Any:
        if not self._obs_noise:
            return observation
        noise = self._of_obs.standard_normal(observation.shape)
        return (observation + self._obs_noise * noise).astype(observation.dtype)


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
        for low, high in bounds.values():
            _check(env, self._physics.names, dict.fromkeys(bounds, low))
            if not low <= 1.0 <= high:
                raise UserError(f"uncertain physics have 1 within their bounds, not {low, high}")
        of_interface = [name for name in bounds if name in DISTURBANCES]
        if of_interface:
            raise UserError(f"{of_interface[0]} is no physics: nature can choose physics alone")
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
    values: Mapping[str, float],
    bounds: Mapping[str, tuple[float, float]],
) -> gym.Env[Any, Any]:
    """What ``make`` makes, ``Perturbed`` and, around that, ``Uncertain`` where there are any."""
    env = make()
    if values:
        env = Perturbed(env, values)
    return Uncertain(env, bounds) if bounds else env


def _check(env: gym.Env[Any, Any], physics: list[str], values: Mapping[str, float]) -> None:
    name = env.spec.id if env.spec is not None else type(env.unwrapped).__name__
    if isinstance(env.action_space, gym.spaces.Dict):
        raise UserError(f"{name} has several agents: environments of one alone can be perturbed")
    known = [*physics, *DISTURBANCES]
    for key, value in values.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            none = "" if physics else "no physics that is known (MuJoCo and classic control have), "
            raise UserError(f"{name} has no {key!r}; {hint}it has {none}{', '.join(known)}")
        problem = _problem(env, key, value)
        if problem:
            raise UserError(f"{key}={value:g} for {name}: {problem}")


def _problem(env: gym.Env[Any, Any], key: str, value: float) -> str:
    """What is wrong with a value; empty if nothing is."""
    if key not in DISTURBANCES:
        return "" if value > 0 else "a scale has to be above 0; 1 is nominal"
    if value < 0:
        return "it has to be at least 0, which is nominal"
    if value and key == "obs_noise":
        space = env.observation_space
        is_float = isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating)
        return "" if is_float else "the observations have to be a Box of floats"
    if value and isinstance(env.observation_space, gym.spaces.Dict):
        return "its mask of actions would not fit the action that is taken"
    if key == "action_delay":
        return "" if value == int(value) else "it counts steps: give a whole number"
    return _noise_problem(env.action_space, value)


def _noise_problem(space: gym.Space[Any], value: float) -> str:
    if isinstance(space, gym.spaces.Discrete):
        return "" if value <= 1 else "it is a probability"
    if isinstance(space, gym.spaces.Box) and space.is_bounded():
        return ""
    return "" if value == 0 else "the actions have to be Discrete or a bounded Box"
