"""PPO against nature: a policy for the worst physics of a box, not for the nominal one.

An extension of the double-loop robust policy gradient (Wang, Ho and Petrik, ICML 2023, arXiv
2212.10439) to sampled environments; no theorem of the paper covers it. Trained by
``rlsuite.loops.rollout_loop`` in environments with ``env.uncertain`` (``rlsuite.envs.perturb``),
where an action is a Dict of the policy's "action" and nature's "physics" of the episode. The outer
loop is an update of PPO. The inner loop is a global search: some environments try physics drawn
anew, corners of the box and points anywhere in it; the others play those with the lowest returns in
a memory of the latest episodes, one each. A local search would not do: it stays in one corner, and
the policy over-fits to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym
import torch
from torch import Tensor

from rlsuite.agents import ppo
from rlsuite.agents.ppo import PPO, PPOConfig
from rlsuite.errors import UserError
from rlsuite.rng import generator
from rlsuite.settings import Fraction, PositiveCount, settings
from rlsuite.tree import leaves
from rlsuite.types import Rollout, State, Tree, Update

METRICS = {
    **ppo.METRICS,
    "nature/mean": "Mean return of the episodes in nature's memory; 0 before there is one.",
    "nature/worst": "Lowest mean return in it of one physics; 0 before there is one.",
}


@settings
class RobustPPOConfig(PPOConfig):
    """Settings of PPO, and nature's."""

    search: Fraction = 0.5
    """Share of the environments that try physics drawn anew, half of them corners of the box; 1 is
    domain randomisation. The others play the worst that are known."""
    memory: PositiveCount = 64
    """Latest episodes among which the worst physics are looked for."""


class Memory(NamedTuple):
    """The latest episodes, the newest first."""

    physics: Tensor
    """(M, K)."""
    returns: Tensor
    """(M,) undiscounted, in the scale that PPO learns from."""
    known: Tensor
    """(M,) bool: where there is an episode. The others come last."""


class RobustPPO:
    """Proximal Policy Optimization against the worst physics."""

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        config: RobustPPOConfig | None = None,
        *,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        """Fresh networks, an empty memory. Raises UserError unless nature can choose physics."""
        if not isinstance(action_space, gym.spaces.Dict) or list(action_space) != [
            "action",
            "physics",
        ]:
            raise UserError(
                "robust_ppo needs physics that nature chooses: set env.uncertain, such as "
                "{mass = [0.5, 1.5]}"
            )
        self.config = config = config or RobustPPOConfig()
        self.device = torch.device(device)
        self.ppo = PPO(
            observation_space, action_space["action"], config, device=self.device, seed=seed
        )
        box = action_space["physics"]
        assert isinstance(box, gym.spaces.Box)
        self.low = torch.as_tensor(box.low, device=self.device)
        self.high = torch.as_tensor(box.high, device=self.device)
        self.memory = Memory(
            torch.ones((config.memory, *box.shape), device=self.device),
            torch.zeros(config.memory, device=self.device),
            torch.zeros(config.memory, dtype=torch.bool, device=self.device),
        )
        self.random = generator(seed, "robust_ppo physics", device=self.device)
        self.draw: Callable[[int], Tensor] = self._draw
        """(N, K) physics for N environments that search."""
        # Of each training environment, from the first action on:
        self.chosen: Tensor | None = None
        """(N, K) physics of the episodes that begin from now on."""
        self.playing: Tensor
        """(N, K) physics of the episodes under way."""
        self.so_far: Tensor
        """(N,) their returns so far."""

    @torch.no_grad()
    def act(self, obs: Tree, *, explore: bool = True) -> tuple[Tree, dict[str, Tensor]]:
        """(N, ...) actions as PPO's, and nature's; without ``explore`` its physics are nominal."""
        action, extra = self.ppo.act(obs, explore=explore)
        envs = len(next(leaf for _, leaf in leaves(obs)))
        if not explore:
            nominal = torch.ones((envs, len(self.low)), device=self.device)
            return {"action": action, "physics": nominal}, extra
        if self.chosen is None:
            self.chosen = self.playing = self.draw(envs)
            self.so_far = torch.zeros(envs, device=self.device)
        return {"action": action, "physics": self.chosen}, extra

    def update(self, rollout: Rollout) -> Update:
        """All epochs of PPO over a rollout; then nature looks at its episodes and chooses anew."""
        metrics = self.ppo.update(rollout).metrics
        with torch.no_grad():
            self._watch(rollout.reward, rollout.terminated | rollout.truncated)
            scores = score(self.memory)
            self.chosen = self._choose(scores)
            episodes = self.memory.known.sum().clamp(min=1)
            worst = scores.min()
        metrics["nature/mean"] = self.memory.returns.sum() / episodes
        metrics["nature/worst"] = worst.where(worst.isfinite(), 0.0)
        return Update(metrics)

    def _watch(self, reward: Tensor, ended: Tensor) -> None:
        """Remember the episodes that ended in a rollout of (T, N) rewards."""
        assert self.chosen is not None
        physics, returns = [], []
        for t in range(len(reward)):
            self.so_far = self.so_far + reward[t]
            physics.append(self.playing)
            returns.append(self.so_far)
            self.playing = torch.where(ended[t, :, None], self.chosen, self.playing)
            self.so_far = self.so_far.where(~ended[t], 0.0)
        found = torch.stack(physics).flatten(0, 1), torch.stack(returns).flatten()
        self.memory = remember(self.memory, Memory(*found, ended.flatten()))

    def _choose(self, scores: Tensor) -> Tensor:
        """(N, K) physics: drawn anew, the last rows the worst that are known, as far as any are."""
        assert self.chosen is not None
        drawn = self.draw(len(self.chosen))
        worst = min(round((1 - self.config.search) * len(drawn)), self.config.memory)
        lowest, at = scores.topk(worst, largest=False)
        found = self.memory.physics.index_select(0, at)
        known = lowest.isfinite()[:, None]
        searching = len(drawn) - worst
        return torch.cat([drawn[:searching], torch.where(known, found, drawn[searching:])])

    def _draw(self, envs: int) -> Tensor:
        """(N, K): corners of the box in even rows, uniform points in odd ones."""
        unit = torch.rand((envs, len(self.low)), generator=self.random, device=self.device)
        is_odd = torch.arange(envs, device=self.device)[:, None] % 2 == 1
        unit = torch.where(is_odd, unit, unit.round())
        # Rounding could leave the box by the last bit.
        return (self.low + unit * (self.high - self.low)).clamp(self.low, self.high)

    def state_dict(self) -> State:
        """PPO's, nature's memory and generator, and what the environments play."""
        state = {
            "ppo": self.ppo.state_dict(),
            "memory": self.memory._asdict(),
            "random": self.random.get_state(),
        }
        if self.chosen is not None:
            envs = {"chosen": self.chosen, "playing": self.playing, "so_far": self.so_far}
            state["envs"] = envs
        return state

    def load_state_dict(self, state: State) -> None:
        """Continue from a saved state of an agent with the same spaces and config."""
        self.ppo.load_state_dict(state["ppo"])
        self.memory = Memory(**{name: x.to(self.device) for name, x in state["memory"].items()})
        self.random.set_state(state["random"])
        if "envs" in state:
            for name, x in state["envs"].items():
                setattr(self, name, x.to(self.device))


def remember(memory: Memory, new: Memory) -> Memory:
    """The M newest episodes of ``memory`` and of ``new``, whose (R,) rows are oldest first."""
    rows, size = len(new.known), len(memory.known)
    device = new.known.device
    age_new = torch.arange(rows, 0, -1, device=device).where(new.known, rows + size + 1)
    age_old = torch.arange(rows + 1, rows + size + 1, device=device)
    _, newest = torch.cat([age_new, age_old]).topk(size, largest=False, sorted=True)
    parts = zip(new, memory, strict=True)
    return Memory(*(torch.cat(part).index_select(0, newest) for part in parts))


def score(memory: Memory) -> Tensor:
    """(M,) mean return of all episodes with a row's physics; infinite but in their newest row.

    The mean is over luck: of single episodes the lowest would be those that were unlucky.
    """
    same = (memory.physics[:, None] == memory.physics).all(-1) & memory.known
    mean = (same * memory.returns).sum(1) / same.sum(1).clamp(min=1)
    is_newest = ~same.tril(-1).any(1)
    return mean.where(memory.known & is_newest, torch.inf)
