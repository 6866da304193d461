"""Late and noisy actions and noisy observations, in any environments that are stepped together."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import gymnasium as gym
import torch
from gymnasium import spaces
from torch import Tensor

from rlsuite.errors import UserError
from rlsuite.rng import generator
from rlsuite.tree import map_tree
from rlsuite.types import State, Stepped, Tree, VectorEnv

DISTURBANCES = ("action_delay", "action_noise", "obs_noise")
"""What every environment has beside its physics; 0 as it is."""


class DisturbedVectorEnv:
    """A ``VectorEnv`` around another one, which is acted on and observed late or inaccurately.

    The other one has to step all its environments together (``spec.group_size`` N). ``values``:

    - action_delay, steps until an action takes effect; before, the episode's first one does;
    - action_noise, for a Box the standard deviation of Gaussian noise as a share of half the range,
      clipped to it; for discrete actions the probability of a uniformly random one instead. Agents
      of a team slip independently;
    - obs_noise, the standard deviation of Gaussian noise in the units of the observations; those of
      integers are rounded and stay within their bounds. Of a team, what its agents observe: no
      state, no mask.

    Noise follows from the seed of ``reset`` and the step: with one seed it is the same but for its
    size (common random numbers). Nominal values, 0, leave every bit as it is. A transition has the
    action that was asked for. Physics that nature chooses (``Uncertain``) are not disturbed. Raises
    ``UserError`` for a value that makes no sense there; ``name`` is the environments'.
    """

    def __init__(self, envs: VectorEnv, values: Mapping[str, float], name: str) -> None:
        self.spec = envs.spec
        observed, acted = envs.spec.observation_space, envs.spec.action_space
        self._sensed = _sensed(observed)
        """Key of the part of the observations that is noisy; None for all of them."""
        is_uncertain = isinstance(acted, spaces.Dict) and self._sensed != "agents"
        self._acted = "action" if is_uncertain else None
        """The same of the actions."""
        for key, value in values.items():
            problem = _problem(observed, _part(acted, self._acted), key, value)
            if problem:
                raise UserError(f"{key}={value:g} for {name}: {problem}")
        self._envs = envs
        self._delay = int(values.get("action_delay", 0))
        self._action_noise = values.get("action_noise", 0.0)
        self._obs_noise = values.get("obs_noise", 0.0)
        self._obs: Tree = {}
        self._pending: deque[Tree]
        """The newest actions first."""
        self._begin(0)

    @property
    def lost(self) -> list[int]:
        """Environments whose unfinished episode the last ``load_state_dict`` could not restore."""
        return self._envs.lost

    def reset(self, seed: int | None = None) -> Tree:
        """Begin episode 0 everywhere and, with a seed, the noise; (N, ...) observations."""
        obs = self._envs.reset(seed)
        if seed is not None:
            self._begin(seed)
        self._age.zero_()
        self._obs = self._observe(obs, self._draw(obs))
        return self._obs

    def step(self, action: Tree, extra: dict[str, Tensor] | None = None) -> Stepped:
        """One step of every environment with (N, ...) actions, on any device."""
        new = self._envs.step(self._act(action), extra)
        self._age += 1
        ended = torch.tensor([episode.env for episode in new.episodes], dtype=torch.int64)
        self._age.index_fill_(0, ended, 0)
        noise = self._draw(new.obs)
        next_obs = self._observe(new.step.next_obs, noise)
        obs, self._obs = self._obs, self._observe(new.obs, noise) if new.episodes else next_obs
        step = replace(new.step, obs=obs, action=action, next_obs=next_obs)
        return Stepped(step, self._obs, new.episodes)

    def sample_actions(self) -> Tree:
        """(N, ...) uniformly random actions from the environment's own generator."""
        return self._envs.sample_actions()

    def observe(self) -> Tree:
        """(N, ...) what to act on now, as the last step returned it."""
        return self._obs

    def state_dict(self) -> State:
        """The environments' state, the pending actions, and the noise."""
        return {
            "envs": self._envs.state_dict(),
            "age": self._age,
            "pending": {str(i): action for i, action in enumerate(self._pending)},
            "obs": self._obs,
            "of_actions": self._of_actions.get_state(),
            "of_obs": self._of_obs.get_state(),
        }

    def load_state_dict(self, state: State) -> None:
        """Replay the unfinished episodes. Raises ``ValueError`` if one cannot be restored."""
        self._envs.load_state_dict(state["envs"])
        if self.lost:
            raise ValueError(f"the disturbed episodes of {self.lost} cannot be restored")
        self._age, self._obs = state["age"].clone(), state["obs"]
        self._pending = deque(state["pending"].values(), self._delay + 1)
        self._of_actions.set_state(state["of_actions"])
        self._of_obs.set_state(state["of_obs"])

    def close(self) -> None:
        """Free the environments."""
        self._envs.close()

    def _begin(self, seed: int) -> None:
        # Two streams: the one noise is the same with and without the other.
        self._of_actions = generator(seed, "action noise")
        self._of_obs = generator(seed, "obs noise")
        self._pending = deque(maxlen=self._delay + 1)
        self._age = torch.zeros(self.spec.num_envs, dtype=torch.int64)
        """(N,) steps of the episodes under way."""

    def _act(self, action: Tree) -> Tree:
        """What is done instead of ``action``: that of ``delay`` steps ago, or of the first step of
        younger episodes, with noise."""
        if not (self._delay or self._action_noise):
            return action
        self._pending.appendleft(map_tree(lambda leaf: leaf.detach().cpu(), action))
        back, rows = self._age.clamp(max=self._delay), torch.arange(self.spec.num_envs)
        taken = _stacked(list(self._pending))
        taken = map_tree(lambda leaf: leaf[back, rows], taken)
        if not self._action_noise:
            return taken
        part = _part(self.spec.action_space, self._acted)
        return _changed(
            taken,
            self._acted,
            lambda own: _slipped(part, own, self._action_noise, self._of_actions),
        )

    def _draw(self, obs: Tree) -> Tree | None:
        """Standard normal, for every number that is sensed."""
        if not self._obs_noise:
            return None
        sensed = obs if self._sensed is None else obs[self._sensed]  # type: ignore[index]
        return map_tree(lambda leaf: torch.randn(leaf.shape, generator=self._of_obs), sensed)

    def _observe(self, obs: Tree, noise: Tree | None) -> Tree:
        if noise is None:
            return obs
        part = _part(self.spec.observation_space, self._sensed)
        return _changed(obs, self._sensed, lambda own: _added(part, own, self._obs_noise, noise))


def _sensed(space: gym.Space[Any]) -> str | None:
    """Key of what agents observe; None if that is all there is."""
    if isinstance(space, spaces.Dict):
        for key in ("agents", "observation"):
            if key in space.spaces:
                return key
    return None


def _part(space: gym.Space[Any], key: str | None) -> gym.Space[Any]:
    if key is None:
        return space
    assert isinstance(space, spaces.Dict)
    return space[key]


def _changed(tree: Tree, key: str | None, change: Callable[[Tree], Tree]) -> Tree:
    """The tree with ``change`` of one key, or of all of it."""
    if key is None:
        return change(tree)
    assert isinstance(tree, dict)
    return {**tree, key: change(tree[key])}


def _stacked(trees: list[Tree]) -> Tree:
    """Leaves on a new first axis."""
    first = trees[0]
    if isinstance(first, Tensor):
        return torch.stack(trees)  # type: ignore[arg-type]
    return {key: _stacked([tree[key] for tree in trees]) for key in first}  # type: ignore[index]


def _slipped(space: gym.Space[Any], action: Tree, size: float, random: torch.Generator) -> Tree:
    """Actions with noise, of each space of a Dict by itself."""
    if isinstance(action, dict):
        assert isinstance(space, spaces.Dict)
        return {key: _slipped(space[key], own, size, random) for key, own in action.items()}
    if isinstance(space, spaces.Box):
        low, high = torch.as_tensor(space.low), torch.as_tensor(space.high)
        noise = torch.randn(action.shape, generator=random) * (high - low) / 2
        return (action + size * noise).clamp(low, high).to(action.dtype)
    assert isinstance(space, spaces.Discrete | spaces.MultiDiscrete)
    slips = torch.rand(len(action), generator=random) < size
    unit = torch.rand(action.shape, generator=random, dtype=torch.float64)
    choices = torch.as_tensor(space.n if isinstance(space, spaces.Discrete) else space.nvec)
    other = (unit * choices).to(action.dtype) + torch.as_tensor(space.start)
    return torch.where(slips.view(-1, *[1] * (action.ndim - 1)), other, action)


def _added(space: gym.Space[Any], obs: Tree, size: float, noise: Tree) -> Tree:
    """Observations with noise, of each space of a Dict by itself."""
    if isinstance(obs, dict):
        assert isinstance(space, spaces.Dict) and isinstance(noise, dict)
        return {key: _added(space[key], own, size, noise[key]) for key, own in obs.items()}
    assert isinstance(space, spaces.Box) and isinstance(noise, Tensor)
    noisy = obs + size * noise
    if obs.is_floating_point():
        return noisy
    low, high = torch.as_tensor(space.low), torch.as_tensor(space.high)
    return noisy.round().clamp(low, high).to(obs.dtype)


def _problem(observed: gym.Space[Any], acted: gym.Space[Any], key: str, value: float) -> str:
    """What is wrong with a value; empty if nothing is."""
    if value < 0:
        return "it has to be at least 0, which is nominal"
    if value == 0:
        return ""
    if key == "obs_noise":
        is_box = _all(_part(observed, _sensed(observed)), lambda s: isinstance(s, spaces.Box))
        return "" if is_box else "the observations have to be Boxes"
    if isinstance(observed, spaces.Dict) and {"mask", "action_mask"} & observed.spaces.keys():
        return "its mask of actions would not fit the action that is taken"
    if key == "action_delay":
        return "" if value == int(value) else "it counts steps: give a whole number"
    if not _all(acted, lambda s: not isinstance(s, spaces.Box) or s.is_bounded()):
        return "the actions have to be discrete or a bounded Box"
    is_only_box = _all(acted, lambda s: isinstance(s, spaces.Box))
    return "" if value <= 1 or is_only_box else "it is a probability"


def _all(space: gym.Space[Any], test: Callable[[gym.Space[Any]], bool]) -> bool:
    """Whether a space, or each of a Dict, passes."""
    if isinstance(space, spaces.Dict):
        return all(_all(child, test) for child in space.spaces.values())
    return test(space)
