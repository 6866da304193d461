"""Deep robust policy gradient: a policy for the worst physics of a box, not for the nominal one.

An extension of the double-loop robust policy gradient (Wang, Ho and Petrik, ICML 2023, arXiv
2212.10439, Algorithm 1) to sampled environments; no theorem of the paper covers it. Trained by
``rlsuite.loops.rollout_loop`` in environments with ``env.uncertain`` (``rlsuite.envs.perturb``),
where an action is a Dict of the policy's "action" and nature's "physics" of the episode. The inner
loop comes before each rollout and is a global search: nature tries the worst physics of the search
before, corners of the box and points anywhere in it, with common random numbers, and keeps the
worst, over which the environments are spread. A local search would not do: it stays in one corner,
and the policy over-fits to it. The outer loop is an update of PPO, which with one minibatch a
rollout is a step of the policy gradient with a baseline: there the likelihood ratio is 1, and
nothing is clipped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import gymnasium as gym
import torch
from torch import Tensor

from rlsuite.agents import ppo
from rlsuite.agents.ppo import PPO, PPOConfig, observed
from rlsuite.errors import UserError
from rlsuite.rng import derive_seed, generator
from rlsuite.settings import Count, PositiveCount, settings
from rlsuite.tree import leaves, to_device
from rlsuite.types import Actor, Rollout, State, Tree, Update

METRICS = {
    **ppo.METRICS,
    "nature/mean": "Mean return over nature's candidates, while exploring; 0 without a search.",
    "nature/worst": "The same over the worst of them, which are played; too low by the choice.",
    "nature/transitions": "Environment steps of the episodes of all searches so far.",
}


@settings
class RobustPPOConfig(PPOConfig):
    """Settings of PPO, and nature's."""

    candidates: PositiveCount = 24
    """Physics that nature tries before each rollout: the worst of the search before, and of the
    rest half corners of the box and half uniform points of it."""
    episodes: Count = 2
    """Episodes with which each candidate is tried. With 0 there is no search: the episodes of
    training have uniform physics, which is domain randomisation."""
    worst: PositiveCount = 8
    """Candidates of the lowest mean return that are kept and played; less than candidates."""


class Trial(Protocol):
    """What nature learns from an evaluation."""

    returns: list[float]
    """Undiscounted, of each episode."""
    lengths: list[int]
    """Steps of each."""


Play = Callable[[Actor, int], Trial]
"""One episode in each of candidates x episodes environments by an actor, with a seed, where those
whose numbers are equal modulo episodes have common seeds (``SerialVectorEnv(distinct=episodes)``).
"""


class RobustPPO:
    """PPO, or the policy gradient, against the worst physics."""

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        config: RobustPPOConfig | None = None,
        *,
        device: torch.device | str = "cpu",
        seed: int = 0,
        play: Play | None = None,
    ) -> None:
        """Fresh networks. ``play`` is what nature searches with; to act without exploration none is
        needed. Raises UserError unless nature can choose physics."""
        if not isinstance(action_space, gym.spaces.Dict) or list(action_space) != [
            "action",
            "physics",
        ]:
            raise UserError(
                "robust_ppo needs physics that nature chooses: set env.uncertain, such as "
                "{mass = [0.5, 1.5]}"
            )
        self.config = config = config or RobustPPOConfig()
        if config.worst >= config.candidates:
            raise UserError(
                f"agent.worst ({config.worst}) must be less than agent.candidates "
                f"({config.candidates}), of which nature keeps them"
            )
        self.device = torch.device(device)
        self.ppo = PPO(
            observation_space, action_space["action"], config, device=self.device, seed=seed
        )
        box = action_space["physics"]
        assert isinstance(box, gym.spaces.Box)
        self.low = torch.as_tensor(box.low, device=self.device)
        self.high = torch.as_tensor(box.high, device=self.device)
        self.random = generator(seed, "robust_ppo physics", device=self.device)
        self.noise = generator(seed, "robust_ppo trials", device=self.device)
        self.search: Callable[[], Tensor] = self._search
        """(k, K) the physics to play in the next rollout, the worst first."""
        self.worst = self.draw(config.worst)
        """(k, K) those that the last search kept."""
        self.scores = torch.zeros(2, device=self.device)
        """Mean returns in the last trial: over all, and over the worst k."""
        self.tried = 0
        """Trials so far."""
        self.transitions = 0
        """Environment steps in them."""
        self.chosen: Tensor | None = None
        """(N, K) physics of each training environment's episodes that begin in this rollout."""
        self._seed = seed
        self._play = play

    @torch.no_grad()
    def act(self, obs: Tree, *, explore: bool = True) -> tuple[Tree, dict[str, Tensor]]:
        """(N, ...) actions as PPO's, and nature's; without ``explore`` its physics are nominal.

        While exploring, nature searches before the first action of a rollout.
        """
        action, extra = self.ppo.act(obs, explore=explore)
        envs = len(next(leaf for _, leaf in leaves(obs)))
        if not explore:
            nominal = torch.ones((envs, len(self.low)), device=self.device)
            return {"action": action, "physics": nominal}, extra
        if self.chosen is None:
            self.chosen = self._choose(envs)
        return {"action": action, "physics": self.chosen}, extra

    def update(self, rollout: Rollout) -> Update:
        """PPO's over a rollout; what nature chose is out of date after it."""
        metrics = self.ppo.update(rollout).metrics
        self.chosen = None
        metrics["nature/mean"], metrics["nature/worst"] = self.scores.clone()
        metrics["nature/transitions"] = torch.full((), float(self.transitions), device=self.device)
        return Update(metrics)

    def _choose(self, envs: int) -> Tensor:
        """(N, K): the worst in turn; without a search uniform points."""
        if not self.config.episodes:
            return self._uniform(envs)
        self.worst = self.search()
        return self.worst[torch.arange(envs, device=self.device) % len(self.worst)]

    def _search(self) -> Tensor:
        """(k, K) the worst of those known, corners and points anywhere."""
        fresh = self.draw(self.config.candidates - len(self.worst))
        candidates = torch.cat([self.worst, fresh])
        returns = self.trial(candidates)
        # A set: of equal candidates one alone is kept.
        is_again = (candidates[:, None] == candidates).all(-1).tril(-1).any(1)
        ordered = returns.masked_fill(is_again, torch.inf).argsort()
        return candidates.index_select(0, ordered[: self.config.worst])

    def trial(self, candidates: Tensor) -> Tensor:
        """(C,) mean returns of the policy, acting as in training, in (C, K) physics.

        With common random numbers: the first states and the noise of the policy are the same in
        all. Raises ``RuntimeError`` if there is nothing to search with.
        """
        if self._play is None:
            raise RuntimeError("nature has no environments to search in: give the agent `play`")
        episodes = self.config.episodes
        found = self._play(
            _Trying(self, candidates.repeat_interleave(episodes, 0)),
            derive_seed(self._seed, "robust_ppo trials", self.tried, bits=31),
        )
        self.tried += 1
        self.transitions += sum(found.lengths)
        returns = torch.tensor(found.returns, device=self.device).view(-1, episodes).mean(1)
        lowest = returns.topk(min(self.config.worst, len(returns)), largest=False).values
        self.scores = torch.stack([returns.mean(), lowest.mean()])
        return returns

    def draw(self, count: int) -> Tensor:
        """(count, K): corners of the box in even rows, uniform points in odd ones."""
        is_odd = torch.arange(count, device=self.device)[:, None] % 2 == 1
        corners = self._uniform(count) > (self.low + self.high) / 2
        return torch.where(is_odd, self._uniform(count), self.high.where(corners, self.low))

    def _uniform(self, count: int) -> Tensor:
        """(count, K) points of the box."""
        unit = torch.rand((count, len(self.low)), generator=self.random, device=self.device)
        # Rounding could leave the box by the last bit.
        return (self.low + unit * (self.high - self.low)).clamp(self.low, self.high)

    def state_dict(self) -> State:
        """PPO's, nature's generators and counts, what it found last and what is played."""
        state = {
            "ppo": self.ppo.state_dict(),
            "random": self.random.get_state(),
            "noise": self.noise.get_state(),
            "tried": self.tried,
            "transitions": self.transitions,
            "nature": {"worst": self.worst, "scores": self.scores},
        }
        if self.chosen is not None:
            state["nature"]["chosen"] = self.chosen  # type: ignore[index]
        return state

    def load_state_dict(self, state: State) -> None:
        """Continue from a saved state of an agent with the same spaces and config."""
        self.ppo.load_state_dict(state["ppo"])
        self.random.set_state(state["random"])
        self.noise.set_state(state["noise"])
        self.tried, self.transitions = state["tried"], state["transitions"]
        found = {name: x.to(self.device) for name, x in state["nature"].items()}
        self.worst, self.scores = found["worst"], found["scores"]
        self.chosen = found.get("chosen")


class _Trying:
    """Acts as the agent does in training, in given physics."""

    def __init__(self, agent: RobustPPO, physics: Tensor) -> None:
        self._agent = agent
        self._physics = physics

    @torch.no_grad()
    def act(self, obs: Tree, *, explore: bool = True) -> tuple[Tree, dict[str, Tensor]]:
        """Samples, whatever ``explore`` says: it is the exploring policy that is learned."""
        agent, policy = self._agent, self._agent.ppo.policy
        features, mask = observed(to_device(obs, agent.device))
        sample, _ = policy.sample(
            features, mask, agent.noise, explore=True, distinct=agent.config.episodes
        )
        return {"action": policy.to_action(sample), "physics": self._physics}, {}
