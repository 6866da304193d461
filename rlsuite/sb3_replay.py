"""Our replay inside Stable-Baselines3: a ``replay_buffer_class`` for its SAC, TD3, DQN and DDPG.

    SAC("MlpPolicy", env, replay_buffer_class=SB3ReplayBuffer)

Nothing else of theirs changes; for prioritized samplers see ``SB3ReplayBuffer``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from rlsuite.buffers import Replay, ReshuffleSampler
from rlsuite.errors import UserError
from rlsuite.samplers import PriorityWatch, made
from rlsuite.tree import map_tree
from rlsuite.types import Batch, Chunk, Sampler, State, Step, Tree

try:
    from stable_baselines3.common.buffers import ReplayBuffer
    from stable_baselines3.common.preprocessing import (
        is_image_space,
        is_image_space_channels_first,
    )
    from stable_baselines3.common.type_aliases import (
        DictReplayBufferSamples,
        ReplayBufferSamples,
    )
    from stable_baselines3.common.vec_env import VecNormalize
except ImportError:
    raise UserError("Stable-Baselines3 needs the sb3 extra: pip install 'rlsuite[sb3]'") from None


class SB3ReplayBuffer(ReplayBuffer):
    """The contract of Stable-Baselines3's ``ReplayBuffer`` over our storage and samplers.

    ``replay_buffer_kwargs`` (beside ``handle_timeout_termination``, which means what it does in
    theirs):

    - ``sampler``: called with a seed, returns the sampler: a class of ``rlsuite.buffers`` or a
      partial, ``partial(PrioritizedSampler, priority=lap())``. The seed is drawn from NumPy's
      global generator, which the model's ``seed`` sets. Default: random reshuffling.
    - ``frame_stack``: S for observations of a ``VecFrameStack(env, S)``; each frame is then stored
      once, in about an eighth of the memory for S = 4.
    - ``n_steps``, ``gamma``: n-step returns, as in their ``NStepReplayBuffer``.

    Observations may be a Dict space. Data lie in main memory, batches are copies on ``device``.

    Stable-Baselines3 computes TD errors but hands them to no buffer. With a prioritized sampler
    the model's ``train`` has to be overridden: multiply the loss with ``weights`` and call
    ``update_priorities`` (``examples/sb3_replay.py`` does for DQN). Without that all transitions
    keep their first priority; a warning says so once.

    ``save_replay_buffer`` and ``load_replay_buffer`` work, and the stream of batches goes on where
    it was; ``sampler`` has to be picklable then (no lambda).
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        device: torch.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        *,
        sampler: Callable[[int], Sampler] = ReshuffleSampler,
        frame_stack: int = 1,
        n_steps: int = 1,
        gamma: float = 0.99,
        **unknown: Any,
    ) -> None:
        """``buffer_size`` transitions, rounded down to a multiple of ``n_envs``.

        Raises UserError for settings that are not supported.
        """
        if unknown:
            raise UserError(
                f"SB3ReplayBuffer knows no {', '.join(sorted(unknown))} (hindsight relabelling is "
                "HerReplayBuffer's alone); replay_buffer_kwargs may have sampler, frame_stack, "
                "n_steps, gamma, handle_timeout_termination"
            )
        if optimize_memory_usage:
            raise UserError(
                "SB3ReplayBuffer keeps the true next observation: leave optimize_memory_usage off; "
                "for stacked frames pass frame_stack, which saves more"
            )
        # Theirs would allocate its arrays; the base class sets spaces, sizes and device.
        super(ReplayBuffer, self).__init__(
            buffer_size, observation_space, action_space, device, n_envs
        )
        self.buffer_size = max(buffer_size // n_envs, 1)
        self.optimize_memory_usage = False
        self.handle_timeout_termination = handle_timeout_termination
        self.frame_stack, self.n_steps, self.gamma = frame_stack, n_steps, gamma
        self._make_sampler = sampler
        self._seed = int(np.random.randint(2**31))  # noqa: NPY002  # what a model's seed sets
        if frame_stack > 1:
            self._stack_axis = _stack_axis(observation_space, frame_stack)
        self.reset()

    def reset(self) -> None:
        """Forget all transitions and begin the sampler's stream anew."""
        super().reset()
        sampler = made(self._make_sampler, self._seed)
        self._replay = Replay(
            self.buffer_size * self.n_envs,
            sampler,
            num_envs=self.n_envs,
            n_step=self.n_steps,
            discount=self.gamma,
            frame_stack=self.frame_stack,
        )
        self._watch = PriorityWatch(
            sampler,
            "needs a model whose train() calls replay_buffer.update_priorities(td_error); see "
            "examples/sb3_replay.py",
        )
        self._last: Batch | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the storage; 0 before the first ``add``."""
        return self._replay.nbytes

    def add(
        self,
        obs: Any,
        next_obs: Any,
        action: np.ndarray[Any, Any],
        reward: np.ndarray[Any, Any],
        done: np.ndarray[Any, Any],
        infos: list[dict[str, Any]],
    ) -> None:
        """Store a transition of each of the N environments; ``next_obs`` is the true successor.

        Raises ValueError if ``frame_stack`` is set and ``next_obs`` is not ``obs`` moved on by a
        frame.
        """
        done = np.asarray(done, bool)
        timeout = np.zeros(self.n_envs, bool)
        if self.handle_timeout_termination:
            timeout[:] = [info.get("TimeLimit.truncated", False) for info in infos]
        dtype = self._maybe_cast_dtype(self.action_space.dtype)
        self._replay.add(
            Step(
                obs=self._observation(obs),
                action=_tensor(action, dtype, (self.n_envs, self.action_dim)),
                reward=_tensor(reward, np.float32, (self.n_envs,)),
                next_obs=self._observation(next_obs),
                terminated=torch.from_numpy(done & ~timeout),
                truncated=torch.from_numpy(done & timeout),
            )
        )
        self.pos += 1
        if self.pos == self.buffer_size:
            self.full, self.pos = True, 0

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> Any:
        """A fresh ``ReplayBufferSamples`` (or ``DictReplayBufferSamples``) on ``device``.

        Observations are (B, ...) in the dtype of the space, actions (B, action_dim), ``dones``
        (1 where the task ended, not at time limits) and ``rewards`` (B, 1) float32; ``discounts``
        (B, 1) with n-step returns, else None. ``env`` normalises as in theirs.

        Raises ValueError while nothing is stored, UserError for n-step returns of rewards that a
        ``VecNormalize`` clips one by one.
        """
        if env is not None and self.n_steps > 1 and env.norm_reward:
            raise UserError(
                "n_steps > 1 sums rewards before VecNormalize sees them: "
                "use VecNormalize(..., norm_reward=False)"
            )
        batch = self._last = self._replay.sample(batch_size)
        self._watch.sampled()
        assert isinstance(batch.reward, Tensor) and isinstance(batch.action, Tensor)
        reward: Any = batch.reward[:, None].numpy()
        fields = {
            "observations": self._normalized(batch.obs, env),
            "actions": self._copy(batch.action),
            "next_observations": self._normalized(batch.next_obs, env),
            "dones": self._copy(batch.terminated[:, None].float()),
            "rewards": self._copy(torch.from_numpy(self._normalize_reward(reward, env))),
        }
        if isinstance(self.observation_space, gym.spaces.Dict):
            samples: Any = DictReplayBufferSamples
        else:
            samples = ReplayBufferSamples
        if self.n_steps > 1:
            fields["discounts"] = self._copy(batch.discount[:, None])
        return samples(**fields)

    @property
    def weights(self) -> Tensor:
        """(B, 1) float32 importance weights of the batch last sampled, on ``device``; ones unless
        the sampler has any. Raises UserError before the first batch."""
        return self._copy(self._last_batch().weight[:, None])

    def update_priorities(self, td_error: Tensor) -> None:
        """Hand (B,) or (B, 1) errors of the batch last sampled to the sampler; signs do not matter.

        Of several critics take the greatest error. Raises UserError before the first batch or if
        there are more or fewer errors than the batch has transitions.
        """
        batch = self._last_batch()
        error = td_error.detach().flatten().cpu()
        if error.shape != batch.index.shape:
            raise UserError(
                f"update_priorities got {tuple(td_error.shape)}, the batch last sampled has "
                f"{len(batch.index)} transitions: pass one error for each"
            )
        self._watch.updated()
        self._replay.update(batch, error)

    def _last_batch(self) -> Batch:
        if self._last is None:
            raise UserError("no batch was sampled yet: call sample first")
        return self._last

    def _observation(self, obs: Any) -> Tree:
        if isinstance(self.observation_space, gym.spaces.Dict):
            return {
                key: _tensor(obs[key], space.dtype, (self.n_envs, *self.obs_shape[key]))  # type: ignore[call-overload]
                for key, space in self.observation_space.spaces.items()
            }
        dtype = self.observation_space.dtype
        stacked = _tensor(obs, dtype, (self.n_envs, *self.obs_shape))
        if self.frame_stack == 1:
            return stacked
        shape, axis = stacked.shape, self._stack_axis
        split = stacked.view(*shape[:axis], self.frame_stack, -1, *shape[axis + 1 :])
        return split.movedim(axis, 1)

    def _normalized(self, obs: Tree, env: VecNormalize | None) -> Any:
        if self.frame_stack > 1:
            assert isinstance(obs, Tensor)
            axis = self._stack_axis
            obs = obs.movedim(1, axis).flatten(axis, axis + 1)
        if env is None:
            return map_tree(self._copy, obs)
        normal = self._normalize_obs(_arrays(obs), env)
        if isinstance(normal, dict):
            return {key: self._copy(torch.from_numpy(array)) for key, array in normal.items()}
        return self._copy(torch.from_numpy(normal))

    def _copy(self, leaf: Tensor) -> Tensor:
        # The replay overwrites its batches; theirs last.
        return leaf.to(self.device, copy=True)

    def __getstate__(self) -> State:
        state = {key: value for key, value in vars(self).items() if key not in ("_replay", "_last")}
        return {"settings": state, "replay": _without_chunks(self._replay.state_dict())}

    def __setstate__(self, state: State) -> None:
        vars(self).update(state["settings"])
        watch, pos, full = self._watch, self.pos, self.full
        self.reset()
        self._watch, self.pos, self.full = watch, pos, full
        self._replay.load_state_dict(_with_chunks(state["replay"]))


def _stack_axis(space: gym.Space[Any], frame_stack: int) -> int:
    """The axis of (N, ...) observations along which frames are stacked."""
    if not isinstance(space, gym.spaces.Box) or not is_image_space(space):
        raise UserError(
            f"frame_stack needs uint8 images in a Box of (channels, height, width) or (height, "
            f"width, channels), not {space}"
        )
    axis = 1 if is_image_space_channels_first(space) else 3
    channels = space.shape[axis - 1]
    if channels % frame_stack:
        raise UserError(
            f"frame_stack {frame_stack} does not divide the {channels} channels of {space.shape}: "
            "it has to be the n_stack of VecFrameStack"
        )
    return axis


def _tensor(array: Any, dtype: Any, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype).reshape(shape))


def _arrays(obs: Tree) -> Any:
    if isinstance(obs, Tensor):
        return obs.numpy()
    return {key: _arrays(child) for key, child in obs.items()}


def _without_chunks(state: Any) -> Any:
    """Pieces of rows as arrays: a pickled view of a tensor would hold the whole ring."""
    if isinstance(state, Chunk):
        return ("chunk", state.name, {key: rows.numpy() for key, rows in state.tensors.items()})
    if isinstance(state, dict):
        return {key: _without_chunks(child) for key, child in state.items()}
    return state


def _with_chunks(state: Any) -> Any:
    if isinstance(state, tuple):
        _, name, arrays = state
        return Chunk(name, {key: torch.from_numpy(rows) for key, rows in arrays.items()})
    if isinstance(state, dict):
        return {key: _with_chunks(child) for key, child in state.items()}
    return state
