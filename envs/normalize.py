"""Observations and rewards scaled by running statistics of the environments' own stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rlsuite.tree import leaves, map_tree
from rlsuite.types import State, Stepped, Tree, VectorEnv

CLIP = 10.0
"""Normalised values stay within plus and minus this."""
EPSILON = 1e-8
"""Added to a variance before its root is taken."""


class RunningMoments:
    """Mean and variance of all rows seen so far, in float64.

    Batches are merged as in Chan, Golub & LeVeque (1983), eq. 2.1: exact, no decay, no prior.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.count = 0
        self.mean = torch.zeros(shape, dtype=torch.float64)
        self._squares = torch.zeros(shape, dtype=torch.float64)

    @property
    def variance(self) -> Tensor:
        """Of the population; ones before the first row."""
        return self._squares / self.count if self.count else torch.ones_like(self._squares)

    def update(self, rows: Tensor) -> None:
        """Count the rows of an (n, ...) tensor, n >= 1."""
        rows = rows.to(torch.float64)
        n, mean = len(rows), rows.mean(0)
        total = self.count + n
        delta = mean - self.mean
        self.mean = self.mean + delta * (n / total)
        self._squares = (
            self._squares
            + (rows - mean).square().sum(0)
            + delta.square() * (self.count * n / total)
        )
        self.count = total

    def state_dict(self) -> State:
        """Count, mean and sum of squared deviations."""
        return {"count": self.count, "mean": self.mean, "squares": self._squares}

    def load_state_dict(self, state: State) -> None:
        """Continue from there."""
        self.count, self.mean, self._squares = state["count"], state["mean"], state["squares"]


class ObsNorm:
    """Subtracts the running mean and divides by the running standard deviation.

    For each floating leaf of the observations and each of its elements by itself; other leaves,
    images for instance, are left alone. Results are float32 within plus and minus ``CLIP``.
    """

    def __init__(self) -> None:
        self._moments: dict[str, RunningMoments] = {}

    def update(self, obs: Tree) -> None:
        """Count the rows of (n, ...) observations."""
        for path, leaf in leaves(obs):
            if leaf.is_floating_point():
                if path not in self._moments:
                    self._moments[path] = RunningMoments(tuple(leaf.shape[1:]))
                self._moments[path].update(leaf)

    def normalize(self, obs: Tree) -> Tree:
        """The tree of normalised (n, ...) observations; unchanged before the first update."""
        return self._normalize(obs, "")

    def _normalize(self, obs: Tree, path: str) -> Tree:
        if isinstance(obs, Tensor):
            return self._normalize_leaf(obs, path)
        return {
            key: self._normalize(child, f"{path}/{key}" if path else key)
            for key, child in obs.items()
        }

    def _normalize_leaf(self, leaf: Tensor, path: str) -> Tensor:
        if path not in self._moments:
            return leaf
        moments = self._moments[path]
        scaled = (leaf.to(torch.float64) - moments.mean) / (moments.variance + EPSILON).sqrt()
        return scaled.clamp(-CLIP, CLIP).to(torch.float32)

    def state_dict(self) -> State:
        """The statistics of every floating leaf, in the order of the leaves."""
        return {
            str(i): {"path": path, **moments.state_dict()}
            for i, (path, moments) in enumerate(self._moments.items())
        }

    def load_state_dict(self, state: State) -> None:
        """Continue with these statistics."""
        self._moments = {}
        for leaf in state.values():
            self._moments[leaf["path"]] = RunningMoments(tuple(leaf["mean"].shape))
            self._moments[leaf["path"]].load_state_dict(leaf)


class RewardNorm:
    """Divides rewards by the running standard deviation of the discounted return.

    The return of each environment, G <- discount * G + reward, starts from 0 in every episode; one
    value a step and environment is counted. No mean is subtracted, so that signs are kept.
    (Gymnasium's ``NormalizeReward`` does not clip, has a prior of weight 1e-4, carries G over
    truncations, and forgets at a termination what came before its reward, not after.)
    """

    def __init__(self, discount: float) -> None:
        self._discount = discount
        self._moments = RunningMoments(())
        self._returns: Tensor | None = None

    def begin(self, envs: Sequence[int]) -> None:
        """These environments begin an episode; the statistics stay."""
        if self._returns is not None:
            self._returns = self._returns.index_fill(0, torch.tensor(envs, dtype=torch.int64), 0.0)

    def update(self, reward: Tensor, ended: Tensor) -> None:
        """Count the (N,) rewards of one step; ``ended`` (N,) marks the last ones of episodes."""
        if self._returns is None:
            self._returns = torch.zeros(len(reward), dtype=torch.float64)
        self._returns = self._discount * self._returns + reward
        self._moments.update(self._returns)
        self._returns = self._returns.masked_fill(ended, 0.0)

    def normalize(self, reward: Tensor) -> Tensor:
        """The (N,) rewards scaled, float32."""
        scaled = reward.to(torch.float64) / (self._moments.variance + EPSILON).sqrt()
        return scaled.clamp(-CLIP, CLIP).to(torch.float32)

    def state_dict(self) -> State:
        """The statistics and the running returns."""
        returns = torch.zeros(0) if self._returns is None else self._returns
        return {"moments": self._moments.state_dict(), "returns": returns}

    def load_state_dict(self, state: State) -> None:
        """Continue with these."""
        self._moments.load_state_dict(state["moments"])
        self._returns = state["returns"] if len(state["returns"]) else None


class NormalizedVectorEnv:
    """A ``VectorEnv`` around another one, whose observations and rewards it normalises.

    The other one has to step all its environments together (``spec.group_size`` N).

    Every observation that an environment returns is counted once: those of ``reset``; after a step
    every ``next_obs``, last ones of episodes included, and the first one of each episode that
    begins. The step's ``next_obs`` and ``obs`` are both normalised after that, with the same
    statistics. Episode records keep the environment's own rewards. With ``update=False`` nothing is
    counted. ``obs_norm`` and ``reward_norm`` may be None: that part is passed on as it is.
    """

    def __init__(
        self,
        envs: VectorEnv,
        obs_norm: ObsNorm | None,
        reward_norm: RewardNorm | None,
        *,
        update: bool = True,
    ) -> None:
        self.spec = envs.spec
        if obs_norm is not None:
            space = _normalized_space(envs.spec.observation_space)
            self.spec = replace(envs.spec, observation_space=space)
        self._envs = envs
        self._obs_norm = obs_norm
        self._reward_norm = reward_norm
        self._update = update
        self._obs: Tree = {}

    def frozen(self, envs: VectorEnv) -> NormalizedVectorEnv:
        """``envs``, for evaluation: observed through these statistics, which it never changes.

        The statistics are shared, so later evaluations see newer ones. Rewards stay raw.
        """
        return NormalizedVectorEnv(envs, self._obs_norm, None, update=False)

    def reset(self, seed: int | None = None) -> Tree:
        """Begin episode 0 everywhere; (N, ...) observations. Statistics are kept."""
        obs = self._envs.reset(seed)
        if self._reward_norm is not None:
            self._reward_norm.begin(range(self.spec.num_envs))
        self._count(obs)
        self._obs = self._normalize(obs)
        return self._obs

    def step(self, action: Tree, extra: dict[str, Tensor] | None = None) -> Stepped:
        """One step of every environment with (N, ...) actions, on any device."""
        new = self._envs.step(action, extra)
        raw = new.step
        ended = raw.terminated | raw.truncated
        self._count(raw.next_obs)
        if new.episodes:
            self._count(map_tree(lambda leaf: leaf[ended], new.obs))
        next_obs = self._normalize(raw.next_obs)
        obs, self._obs = self._obs, self._normalize(new.obs) if new.episodes else next_obs
        reward = raw.reward
        if self._reward_norm is not None:
            assert isinstance(reward, Tensor)
            if self._update:
                self._reward_norm.update(reward, ended)
            reward = self._reward_norm.normalize(reward)
        step = replace(raw, obs=obs, reward=reward, next_obs=next_obs)
        return Stepped(step, self._obs, new.episodes)

    def sample_actions(self) -> Tree:
        """(N, ...) uniformly random actions from the environment's own generator."""
        return self._envs.sample_actions()

    @property
    def lost(self) -> list[int]:
        """Environments whose unfinished episode the last ``load_state_dict`` could not restore."""
        return self._envs.lost

    def observe(self) -> Tree:
        """(N, ...) what to act on now, as the last step returned it."""
        return self._obs

    def state_dict(self) -> State:
        """The environments' state and the statistics."""
        state = {"envs": self._envs.state_dict()}
        if self._obs_norm is not None:
            state["obs_norm"] = self._obs_norm.state_dict()
        if self._reward_norm is not None:
            state["reward_norm"] = self._reward_norm.state_dict()
        return state

    def load_state_dict(self, state: State) -> None:
        """Replay the unfinished episodes; nothing is counted twice, new episodes are.

        The current observations were normalised by the statistics as they are in ``state``, since
        statistics change only within a step, before its observations are normalised. So that is
        repeated here, and gives the same bits.
        """
        self._envs.load_state_dict(state["envs"])
        if self._obs_norm is not None:
            self._obs_norm.load_state_dict(state["obs_norm"])
        if self._reward_norm is not None:
            self._reward_norm.load_state_dict(state["reward_norm"])
            self._reward_norm.begin(self.lost)
        obs = self._envs.observe()
        if self.lost:
            self._count(map_tree(lambda leaf: leaf[self.lost], obs))
        self._obs = self._normalize(obs)

    def close(self) -> None:
        """Free the environments."""
        self._envs.close()

    def _count(self, obs: Tree) -> None:
        if self._update and self._obs_norm is not None:
            self._obs_norm.update(obs)

    def _normalize(self, obs: Tree) -> Tree:
        return obs if self._obs_norm is None else self._obs_norm.normalize(obs)


def _normalized_space(space: gym.Space[Any]) -> gym.Space[Any]:
    """The space with every Box of floats bounded by ``CLIP``."""
    if isinstance(space, spaces.Dict):
        return spaces.Dict([(key, _normalized_space(child)) for key, child in space.items()])
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return spaces.Box(-CLIP, CLIP, space.shape, np.float32)
    return space
