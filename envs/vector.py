"""Environments stepped together in one process, and what all vector environments of lanes share."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import torch
from torch import Tensor

from rlsuite.envs.lane import End, EpisodeLog, Lane, LocalLanes, Rows
from rlsuite.envs.layout import ActionCodec, Array, ObservationLayout, fresh
from rlsuite.errors import UserError
from rlsuite.rng import generator
from rlsuite.tree import leaves, map_tree
from rlsuite.types import Episode, Spec, State, Step, Stepped, Tree


class Lanes(Protocol):
    """Consecutive environments that are stepped by one process.

    Requests and their results are separate, so that processes work at the same time.
    """

    def request_begin(self, log: EpisodeLog) -> None:
        """Ask to restore the unfinished episodes of ``log``."""

    def begin(self, obs: list[Array], returns: list[float]) -> None:
        """Wait; write its rows of the (N, ...) observations and of the returns so far."""

    def request_step(self, actions: Array) -> None:
        """Ask for a step with its rows of the (N, ...) actions."""

    def step(self, rows: Rows) -> None:
        """Wait; write its rows of what the step brought."""

    def begin_next(self, ends: list[End], obs: list[Array]) -> None:
        """Write the first observations of the episodes that follow those that ended."""

    def close(self) -> None:
        """Free the environments."""


def build_lanes(
    make: Callable[[], gym.Env[Any, Any]], indices: range, distinct: int | None = None
) -> tuple[LocalLanes, gym.Env[Any, Any]]:
    """The environments numbered ``indices`` in this process, and the first of them.

    Those whose numbers are equal modulo ``distinct`` have the same seeds; None: no two have.
    Raises ``UserError`` if ``make`` does not always return the same spaces, or if they are not
    supported.
    """
    envs = [make() for _ in indices]
    for env, index in zip(envs, indices, strict=True):
        require_equal(env, (envs[0].observation_space, envs[0].action_space), index)
    lanes = [
        Lane(env, index, None if distinct is None else index % distinct)
        for env, index in zip(envs, indices, strict=True)
    ]
    layout = ObservationLayout(envs[0].observation_space)
    codec = ActionCodec(envs[0].action_space, len(envs))
    return LocalLanes(lanes, layout, codec), envs[0]


def require_equal(
    env: gym.Env[Any, Any], spaces: tuple[gym.Space[Any], gym.Space[Any]], index: int
) -> None:
    """Raise ``UserError`` unless environment ``index`` observes and acts in these two spaces."""
    if (env.observation_space, env.action_space) != spaces:
        raise UserError(
            f"environment {index} has other spaces than those before it: all environments of a "
            "vector must have the same spaces"
        )


def episode_limit(env: gym.Env[Any, Any]) -> int | None:
    """Steps after which the environment truncates an episode, None if it does not say."""
    if env.spec is not None and env.spec.max_episode_steps is not None:
        return env.spec.max_episode_steps
    while isinstance(env, gym.Wrapper):
        if isinstance(env, gym.wrappers.TimeLimit):
            return int(env._max_episode_steps)
        env = env.env
    return None


def frame_stack(env: gym.Env[Any, Any]) -> int:
    """Frames that ``gymnasium.wrappers.FrameStackObservation`` put on the first axis, 1 if none.

    Wrappers around it must leave its observations as they are.
    """
    inner = env
    while isinstance(inner, gym.Wrapper) and not isinstance(inner, gym.ObservationWrapper):
        if isinstance(inner, gym.wrappers.FrameStackObservation):
            is_outermost = env.observation_space == inner.observation_space
            return inner.stack_size if is_outermost else 1
        inner = inner.env
    return 1


class _Output(NamedTuple):
    """Fresh tensors for what one step returns, and views to write them."""

    next_obs: Tree
    next_obs_arrays: list[Array]
    reward: Tensor
    reward_array: Array
    terminated: Tensor
    truncated: Tensor


# Between steps of MuJoCo, which evict torch's code from the caches, an allocation takes several
# times as long as in a row.
_OUTPUTS_AT_ONCE = 64
_OUTPUT_BYTES = 1 << 17


class LaneVectorEnv:
    """A ``VectorEnv`` over groups of lanes; see ``SerialVectorEnv`` and ``WorkerVectorEnv``.

    Observations are trees with the keys of the space: float32 for spaces of floats, int64 for
    Discrete, else the space's dtype. Discrete values are the environment's own, from ``start`` on.
    """

    def __init__(
        self,
        groups: list[Lanes],
        example: gym.Env[Any, Any],
        num_envs: int,
        seed: int,
        resumable: bool,
    ) -> None:
        self.spec = Spec(
            num_envs,
            num_envs,
            example.observation_space,
            example.action_space,
            episode_limit(example),
            resumable,
            frame_stack(example),
        )
        self._groups = groups
        self._layout = ObservationLayout(example.observation_space)
        self._codec = ActionCodec(example.action_space, num_envs)
        self._seed = seed
        self._log = self._new_log()
        self._random = generator(seed, "sample_actions")
        self.lost: list[int] = []
        """Environments whose unfinished episode the last ``load_state_dict`` could not restore."""
        self._outputs: Iterator[_Output] = iter(())
        self._is_ready = False

    def reset(self, seed: int | None = None) -> Tree:
        """Begin the whole stream anew: episode 0 everywhere, and the generator of actions.

        Without ``seed`` with the seed of before. Returns (N, ...) observations.
        """
        self._seed = self._seed if seed is None else seed
        self._log = self._new_log()
        self._random = generator(self._seed, "sample_actions")
        self._log.obs, _, _ = self._begin()
        return self._log.obs

    def step(self, action: Tree, extra: dict[str, Tensor] | None = None) -> Stepped:
        """One step of every environment with (N, ...) actions, on any device.

        ``extra`` comes back in the transition. Raises ``RuntimeError`` if an environment raises, or
        the environment's own ``UserError``; only ``reset`` and ``load_state_dict`` are possible
        after that.
        """
        self._check_ready()
        actions = self._codec.encode(action)
        self._is_ready = False
        for lanes in self._groups:
            lanes.request_step(actions)
        output = next(self._outputs, None)
        if output is None:
            self._outputs = self._new_outputs()
            output = next(self._outputs)
        rows = Rows([0.0] * len(actions), output.next_obs_arrays, [])
        for lanes in self._groups:
            lanes.step(rows)
        output.reward_array[:] = rows.reward
        self._log.record(actions, rows.reward)
        obs, self._log.obs = self._log.obs, output.next_obs
        episodes = self._end(rows.ends, output) if rows.ends else []
        self._is_ready = True
        step = Step(
            obs,
            action,
            output.reward,
            output.next_obs,
            output.terminated,
            output.truncated,
            extra or {},
        )
        return Stepped(step, self._log.obs, episodes)

    def sample_actions(self) -> Tree:
        """(N, ...) uniform actions: float32 within the Box, int64 if discrete.

        Agents of a team draw among the actions that are available to them now. Raises ``UserError``
        if a Box is unbounded.
        """
        return self._codec.sample(self._random, self._log.obs)

    def observe(self) -> Tree:
        """(N, ...) what to act on now; the tensors that ``reset`` or ``step`` returned."""
        self._check_ready()
        return self._log.obs

    def state_dict(self) -> State:
        """Seeds, actions, times and current observations, and the generator of actions."""
        self._check_ready()
        return {**self._log.state_dict(), "generator": self._random.get_state()}

    def load_state_dict(self, state: State) -> None:
        """Reset every environment and replay its unfinished episode.

        Where that does not lead to the same observation and return, bit for bit, or if
        ``spec.resumable`` is False, the episode is given up with a warning and the next one begins.
        """
        self._log = self._new_log()
        self._log.load_state_dict(state)
        self._seed = self._log.seed
        self._random.set_state(state["generator"])
        lost = list(range(self.spec.num_envs))
        if self.spec.resumable:
            obs, obs_rows, returns = self._begin()
            lost = [
                env for env in lost if not self._log.is_restored(env, obs_rows, env, returns[env])
            ]
        self.lost = lost
        if lost:
            warnings.warn(
                f"the unfinished episodes of environments {lost} cannot be restored exactly; "
                "their next episodes begin",
                RuntimeWarning,
                stacklevel=2,
            )
            for env in lost:
                self._log.skip(env)
            obs, _, _ = self._begin()
        self._log.obs = obs

    def close(self) -> None:
        """Free the environments; closing twice does nothing."""
        self._is_ready = False
        for lanes in self._groups:
            lanes.close()
        self._groups = []

    def _end(self, ends: list[End], output: _Output) -> list[Episode]:
        """Close the episodes that ended and begin the next ones."""
        self._log.obs = map_tree(torch.clone, output.next_obs)
        obs_arrays: list[Array] = [leaf.numpy() for _, leaf in leaves(self._log.obs)]
        for lanes in self._groups:
            lanes.begin_next(ends, obs_arrays)
        for row, terminated, truncated in ends:
            output.terminated[row] = terminated
            output.truncated[row] = truncated
        return [self._log.finish(end.row) for end in ends]

    def _new_outputs(self) -> Iterator[_Output]:
        num_envs = self.spec.num_envs
        count = min(_OUTPUTS_AT_ONCE, _OUTPUT_BYTES // (num_envs * self._layout.nbytes()) + 1)
        next_obs, next_obs_arrays = self._layout.fresh(num_envs, count)
        reward, reward_arrays = fresh((num_envs,), torch.float32, count)
        terminated, _ = fresh((num_envs,), torch.bool, count)
        truncated, _ = fresh((num_envs,), torch.bool, count)
        return map(_Output, next_obs, next_obs_arrays, reward, reward_arrays, terminated, truncated)

    def _new_log(self) -> EpisodeLog:
        return EpisodeLog(self._seed, self.spec.num_envs, self._layout, self._codec)

    def _begin(self) -> tuple[Tree, list[Array], list[float]]:
        """Bring all environments to where the log says; observations and returns there."""
        self._is_ready = False
        (obs,), (obs_rows,) = self._layout.fresh(self.spec.num_envs, 1)
        returns = [0.0] * self.spec.num_envs
        for lanes in self._groups:
            lanes.request_begin(self._log)
        for lanes in self._groups:
            lanes.begin(obs_rows, returns)
        self._is_ready = True
        return obs, obs_rows, returns

    def _check_ready(self) -> None:
        if not self._is_ready:
            raise RuntimeError("call reset first (also after an environment raised)")


class SerialVectorEnv(LaneVectorEnv):
    """``num_envs`` environments of ``make``, stepped one after the other in this process.

    ``resumable`` is what ``gym_env.is_resumable`` found. Environments whose numbers are equal
    modulo ``distinct`` have the same seeds, so the same first states and noise (common random
    numbers); None: no two have. Raises ``UserError`` for spaces that are not supported.
    """

    def __init__(
        self,
        make: Callable[[], gym.Env[Any, Any]],
        num_envs: int,
        seed: int = 0,
        *,
        resumable: bool = True,
        distinct: int | None = None,
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, not {num_envs}")
        lanes, example = build_lanes(make, range(num_envs), distinct)
        super().__init__([lanes], example, num_envs, seed, resumable)
