"""The values and protocols that agents, replay, environments and loops exchange.

Shape letters, everywhere in the suite: ``N`` environments, ``A`` agents, ``B`` batch, ``T`` time,
``K`` ensemble members, ``D`` features, ``S`` and ``X`` tabular states and actions. The environment
or batch axis comes first. Data are trees: tensors, or (nested) dicts of tensors; code that moves
data never looks inside.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import gymnasium as gym
import torch
from torch import Tensor

Tree: TypeAlias = "Tensor | dict[str, Tree]"
"""A tensor, or a dict of trees."""

Metrics: TypeAlias = dict[str, Tensor]
"""Name to 0-d tensor, left on its device until a log line is written."""

State: TypeAlias = dict[str, Any]
"""What a restart needs: nested dicts of tensors, numbers, strings, lists and ``Chunk``."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a state whose name tells its content: two of one name hold equal bytes.

    A checkpoint links to the previous one's file instead of writing an equal chunk again.
    """

    name: str
    tensors: dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Step:
    """One vectorised transition. ``Replay.add`` takes NumPy arrays in place of tensors too."""

    obs: Tree
    """(N, ...) what was acted on."""
    action: Tree
    """(N, ...) in the units of the environment."""
    reward: Tree
    """(N,) float32."""
    next_obs: Tree
    """(N, ...) the true successor, also where the episode ended."""
    terminated: Tensor
    """(N,) bool: the task ended; nothing to bootstrap from."""
    truncated: Tensor
    """(N,) bool: the episode was cut; bootstrap from ``next_obs``. May be True beside
    ``terminated``."""
    extra: dict[str, Tensor] = field(default_factory=dict)
    """(N, ...) whatever ``Agent.act`` returned beside the action."""


@dataclass(frozen=True, slots=True)
class Batch:
    """``B`` transitions as an agent learns from them; n-step sums are already taken.

    With n-step returns ``reward`` is the discounted sum, and ``next_obs``, ``terminated`` and
    ``truncated`` are those of the last step of the sum.
    """

    obs: Tree
    """(B, ...)."""
    action: Tree
    """(B, ...)."""
    reward: Tree
    """(B,) float32."""
    next_obs: Tree
    """(B, ...) what to bootstrap from."""
    terminated: Tensor
    """(B,) bool."""
    truncated: Tensor
    """(B,) bool."""
    extra: dict[str, Tensor]
    """(B, ...)."""
    discount: Tensor
    """(B,) float32: discount**k for the k steps the target spans; 0 after a termination."""
    index: Tensor
    """(B,) int64 slots, for priorities."""
    weight: Tensor
    """(B,) float32 importance weights; ones unless the sampler is biased."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """``T`` steps of ``N`` environments, all acted by one policy."""

    obs: Tree
    """(T, N, ...) what was acted on."""
    action: Tree
    """(T, N, ...) in the units of the environment."""
    reward: Tensor
    """(T, N) float32."""
    next_obs: Tree
    """(T, N, ...) the true successors, also where episodes ended."""
    terminated: Tensor
    """(T, N) bool: nothing to bootstrap from."""
    truncated: Tensor
    """(T, N) bool: the episode was cut; bootstrap from ``next_obs``."""
    extra: dict[str, Tensor]
    """(T, N, ...) what the policy returned beside its actions, such as their log probabilities."""


class Update(NamedTuple):
    """What one call of ``Agent.update`` reports."""

    metrics: Metrics
    """Names are fixed by the agent's module (``METRICS``)."""
    priority: Tensor | None = None
    """(B,) how surprising each transition was, if the agent can say."""


class Alarm(NamedTuple):
    """What a metric does when something is wrong."""

    limit: float
    """The greatest value that is all right."""
    remedy: str
    """What it means to pass it, and what to do."""
    rises: float = math.inf
    """So many in a row, from each evaluation to the next, are wrong too."""


class Episode(NamedTuple):
    """The record of one finished episode."""

    env: int
    """Index of the environment, 0 to N-1."""
    number: int
    """How many episodes this environment had finished before."""
    episode_return: float
    """Undiscounted sum of the environment's own rewards."""
    length: int
    """Steps."""
    seconds: float
    """Wall time from reset to end."""


class Stepped(NamedTuple):
    """What ``VectorEnv.step`` returns: fresh tensors on the CPU, never overwritten later."""

    step: Step
    """The transition that finished, of M environments; with several groups it began at an earlier
    call, and there is none, zero rows, until the first group's turn comes again."""
    obs: Tree
    """(M, ...) what to act on next: where an episode ended, the first of the next one."""
    episodes: list[Episode]
    """Those that ended in this step, by environment."""


@dataclass(frozen=True, slots=True)
class Spec:
    """What is fixed about a ``VectorEnv``."""

    num_envs: int
    """N, over all groups."""
    group_size: int
    """M, the environments of one step. They take turns in N/M groups; M = N if all are stepped
    together. Group g holds environments gM to gM + M-1."""
    observation_space: gym.Space[Any]
    """Of one environment."""
    action_space: gym.Space[Any]
    """Of one environment."""
    episode_limit: int | None
    """Steps after which an episode is truncated, if known."""
    resumable: bool = True
    """Whether replaying an episode's seed and actions restores it exactly."""
    frame_stack: int = 1
    """S, the frames stacked on the first axis of an observation, the oldest first: a frame is in S
    consecutive observations. 1 if observations are not stacked."""


class Stateful(Protocol):
    """Whatever has to survive a restart."""

    def state_dict(self) -> State:
        """Everything a restart needs."""

    def load_state_dict(self, state: State) -> None:
        """Continue as if never interrupted."""


class Actor(Protocol):
    """Whatever can act."""

    def act(self, obs: Tree, *, explore: bool = True) -> tuple[Tree, dict[str, Tensor]]:
        """Actions for (N, ...) observations, and what to store beside them."""


class Agent(Stateful, Protocol):
    """A learner. Nothing else has to be called by a loop."""

    def act(self, obs: Tree, *, explore: bool = True) -> tuple[Tree, dict[str, Tensor]]:
        """Actions for (N, ...) observations, and what to store beside them."""

    def update(self, batch: Batch) -> Update:
        """One learning step."""


class RolloutAgent(Stateful, Protocol):
    """A learner from its own newest experience alone. Nothing else has to be called by a loop."""

    def act(self, obs: Tree, *, explore: bool = True) -> tuple[Tree, dict[str, Tensor]]:
        """Actions for (N, ...) observations, and what to store beside them."""

    def update(self, rollout: Rollout) -> Update:
        """Learn from a rollout of the policy as it is."""


class Solver(Stateful, Protocol):
    """A planner or equilibrium solver: it has a model, and no stream of experience."""

    def iterate(self) -> Metrics:
        """One iteration; names are fixed by the solver's module (``METRICS``)."""


@runtime_checkable
class CertifiedSolver(Solver, Protocol):
    """A solver that knows a bound on how far it is from what it solves for."""

    @property
    def gap(self) -> Tensor:
        """0-d, never below the true distance; infinite as long as nothing is known."""


class Sampler(Stateful, Protocol):
    """Chooses slots of the replay; never sees the data.

    Slots are written in order, and again from 0 on when the last was written.
    """

    def prepare(self, capacity: int, device: torch.device) -> None:
        """Called once, before anything else: the number of slots, and where the data lie."""

    def add(self, slots: range) -> None:
        """Tell that these slots were written, new or overwritten."""

    def drop(self, slots: range) -> None:
        """Tell that these slots, the oldest, cannot be used until they are written again."""

    def sample(self, n: int) -> tuple[Tensor, Tensor | None]:
        """(n,) int64 slots and (n,) weights, None meaning ones; on the CPU or the data's device."""

    def update(self, slots: Tensor, priority: Tensor) -> None:
        """Learn the priorities of (n,) slots."""


class ReplayMemory(Stateful, Protocol):
    """Storage and a sampler."""

    def __len__(self) -> int:
        """Transitions that can be sampled."""

    def add(self, step: Step) -> None:
        """Store one vectorised transition."""

    def sample(self, n: int) -> Batch:
        """``n`` transitions."""

    def update(self, batch: Batch, priority: Tensor | None) -> None:
        """Pass priorities to the sampler."""

    def cut(self, envs: list[int]) -> None:
        """End the episodes under way in these environments: what is added next does not follow."""


class RolloutMemory(Stateful, Protocol):
    """The rollout under way."""

    def add(self, step: Step) -> None:
        """Store one step of all environments."""

    def is_full(self) -> bool:
        """Whether it has all its steps."""

    def take(self) -> Rollout:
        """The full rollout, valid until the next ``add``, which begins a new one."""

    def cut(self, envs: list[int]) -> None:
        """End the episodes under way in these environments: what is added next does not follow."""


class VectorEnv(Protocol):
    """``N`` environments, each reset by itself when its episode ends.

    All are stepped together, M = N; or groups of M take turns, so that one is stepped while the
    others' actions are chosen: a step then takes one group's actions and returns the transitions of
    the group whose turn is next. Every episode is reset with a seed that follows from (seed,
    environment, episode number), so that the seed and the actions of the unfinished episodes are
    all that a checkpoint needs.
    """

    spec: Spec

    @property
    def lost(self) -> list[int]:
        """Environments whose unfinished episode the last ``load_state_dict`` could not restore."""

    def reset(self, seed: int | None = None) -> Tree:
        """Begin episode 0 everywhere; (M, ...) observations."""

    def step(self, action: Tree, extra: dict[str, Tensor] | None = None) -> Stepped:
        """One step of the M environments last observed, with (M, ...) actions, on any device.

        ``extra`` comes back beside the actions in the transition's ``Step``.
        """

    def sample_actions(self) -> Tree:
        """(M, ...) uniformly random actions from the environment's own generator."""

    def observe(self) -> Tree:
        """(M, ...) what to act on now."""

    def state_dict(self) -> State:
        """Seeds and actions of the unfinished episodes, and the action generator."""

    def load_state_dict(self, state: State) -> None:
        """Reset and replay the unfinished episodes."""

    def close(self) -> None:
        """Free the environments."""
