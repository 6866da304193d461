"""C51, distributional DQN (Bellemare et al., arXiv 1707.06887).

Trained by ``rlsuite.loops.replay_loop``. Discrete actions; Box observations: images go through
convolutions, everything else is flattened. n-step sums, prioritized draws and importance weights
are the replay's.
"""

from __future__ import annotations

from typing import Annotated, Any

import gymnasium as gym
import torch
from pydantic import Field
from torch import Tensor

from rlsuite.errors import UserError
from rlsuite.nets import Network
from rlsuite.optim import descend, load_optimizer_state, make_optimizer, optimizer_state
from rlsuite.parts import EpsilonGreedy, LinearSchedule, discrete_actions, move_target
from rlsuite.rng import generator
from rlsuite.settings import Count, Finite, Fraction, Positive, PositiveCount, settings
from rlsuite.tree import to_device
from rlsuite.types import Batch, State, Tree, Update

METRICS = {
    "loss/critic": "Cross-entropy of the value distribution, in nats.",
    "value/q": "Mean value of the batch's actions.",
    "policy/epsilon": "Probability of a random action while exploring.",
}


@settings
class C51Config:
    """Settings of C51. The defaults are those of CleanRL for Atari."""

    hidden: Annotated[tuple[PositiveCount, ...], Field(strict=False)] = (512,)
    """Units of each fully connected layer, after the convolutions if observations are images."""
    atoms: Annotated[int, Field(ge=2)] = 51
    """Values that a distribution is over, evenly spaced."""
    v_min: Finite = -10.0
    """The least of them, in units of discounted return."""
    v_max: Finite = 10.0
    """The greatest of them."""
    lr: Positive = 2.5e-4
    """Learning rate."""
    optimizer: str = "Adam"
    """Class name in torch.optim, or in the package pytorch-optimizer."""
    optimizer_eps: Positive | None = 3.125e-4
    """Added to the denominator of the optimizer's step; unset keeps the optimizer's own."""
    max_grad_norm: Positive | None = None
    """Longest gradient, over all weights; unset does not clip."""
    target_period: PositiveCount = 2_500
    """Updates between two copies of the network to its target."""
    epsilon_initial: Fraction = 1.0
    """Probability of a random action when exploration begins, after the warm-up."""
    epsilon_final: Fraction = 0.01
    """Probability of a random action at the end of the schedule and after it."""
    epsilon_transitions: Count = 1_000_000
    """Transitions, after the warm-up, from the initial to the final probability, linearly."""
    epsilon_evaluation: Fraction = 0.0
    """Probability of a random action without exploration."""


def project(value: Tensor, probability: Tensor, support: Tensor) -> Tensor:
    """A distribution over any values as one over the support (arXiv 1707.06887, eq. 7).

    Values outside the support go to its ends; those between two atoms are shared by them, the
    nearer one getting more, so that the mean stays.

    Args:
        value: (B, atoms) float32, in any order.
        probability: (B, atoms) float32 of each value.
        support: (atoms,) float32, evenly spaced, ascending.

    Returns:
        (B, atoms) float32 probabilities of the support's atoms.
    """
    last = len(support) - 1
    position = (value - support[0]) / (support[-1] - support[0]) * last
    # Rounding could leave the support by a little, and the floor by a whole atom.
    position = position.clamp(0, last)
    lower = position.floor()
    upper_share = position - lower
    lower_index = lower.long()
    upper_index = (lower_index + 1).clamp(max=last)
    out = torch.zeros_like(probability)
    out.scatter_add_(1, lower_index, probability * (1.0 - upper_share))
    out.scatter_add_(1, upper_index, probability * upper_share)
    return out


class C51:
    """Distributional DQN with a fixed support.

    Actions at the interface are the environment's own, ``start`` to ``start + n - 1``.
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        config: C51Config | None = None,
        *,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        """Fresh networks.

        Raises UserError unless actions are Discrete, observations a Box and v_min < v_max.
        """
        self.config = config = config or C51Config()
        if config.v_min >= config.v_max:
            raise UserError(
                f"agent.v_min ({config.v_min}) must be less than agent.v_max ({config.v_max})"
            )
        self.device = torch.device(device)
        self.actions, self.start = discrete_actions(action_space, "C51")
        self.support = torch.linspace(config.v_min, config.v_max, config.atoms).to(self.device)
        self.online, self.target = (
            Network(
                observation_space,
                config.hidden,
                self.actions * config.atoms,
                generator=generator(seed, "c51 weights"),
                device=self.device,
            )
            for _ in range(2)
        )
        self.target.requires_grad_(False)
        self.optimizer = make_optimizer(
            config.optimizer, self.online.parameters(), config.lr, eps=config.optimizer_eps
        )
        schedule = LinearSchedule(
            config.epsilon_initial, config.epsilon_final, config.epsilon_transitions
        )
        self.exploration = EpsilonGreedy(
            schedule, config.epsilon_evaluation, seed=seed, device=self.device
        )
        self.updates = 0

    @torch.no_grad()
    def act(self, obs: Tree, *, explore: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
        """(N,) int64 epsilon-greedy actions; nothing to store beside them."""
        greedy = self._values(self._log_probs(self.online, to_device(obs, self.device))).argmax(1)
        return self.start + self.exploration(greedy, self.actions, explore=explore), {}

    @torch.no_grad()
    def probs(self, obs: Tree) -> Tensor:
        """(N, X) float64 with which ``act`` takes each action without exploration."""
        greedy = self._values(self._log_probs(self.online, to_device(obs, self.device))).argmax(1)
        return self.exploration.probs(greedy, self.actions)

    def update(self, batch: Batch) -> Update:
        """One update from a batch on the agent's device, and the target's copy when it is due."""
        update = self.learn(batch)
        self.updates += 1
        if self.updates % self.config.target_period == 0:
            move_target(self.target.parameters(), self.online.parameters(), 1.0)
        epsilon = torch.full((), self.exploration.epsilon(), device=self.device)
        return update._replace(metrics=update.metrics | {"policy/epsilon": epsilon})

    def learn(self, batch: Batch) -> Update:
        """One step down the cross-entropy; metrics but for epsilon.

        The priority is the divergence of the prediction from its target, KL(target || prediction):
        unlike the cross-entropy it is zero where the prediction is right.
        """
        assert isinstance(batch.action, Tensor) and isinstance(batch.reward, Tensor)
        row = torch.arange(len(batch.reward), device=self.device)
        with torch.no_grad():  # algorithm 1
            next_log_probs = self._log_probs(self.target, batch.next_obs)
            best = self._values(next_log_probs).argmax(1)
            returns = batch.reward[:, None] + batch.discount[:, None] * self.support
            target = project(returns, next_log_probs[row, best].exp(), self.support)

        log_prob = self._log_probs(self.online, batch.obs)[row, batch.action - self.start]
        cross_entropy = -(target * log_prob).sum(1)
        loss = (batch.weight * cross_entropy).mean()
        descend(loss, self.optimizer, self.config.max_grad_norm)

        entropy = -torch.xlogy(target, target).sum(1)
        # Rounding could make it a little less than zero.
        divergence = (cross_entropy.detach() - entropy).clamp(min=0.0)
        value = self._values(log_prob.detach()).mean()
        return Update({"loss/critic": loss.detach(), "value/q": value}, priority=divergence)

    def _log_probs(self, network: Network, obs: Tree) -> Tensor:
        """(B, actions, atoms)."""
        logits: Tensor = network(obs)
        return logits.view(-1, self.actions, self.config.atoms).log_softmax(2)

    def _values(self, log_probs: Tensor) -> Tensor:
        """Means of (..., atoms) distributions."""
        return log_probs.exp() @ self.support

    def state_dict(self) -> State:
        """Networks, optimizer, exploration and the count of updates."""
        return {
            "online": self.online.state_dict(),
            "target": self.target.state_dict(),
            "optimizer": optimizer_state(self.optimizer),
            "exploration": self.exploration.state_dict(),
            "updates": self.updates,
        }

    def load_state_dict(self, state: State) -> None:
        """Continue from a saved state of an agent with the same spaces and config."""
        self.online.load_state_dict(state["online"])
        self.target.load_state_dict(state["target"])
        load_optimizer_state(self.optimizer, state["optimizer"])
        self.exploration.load_state_dict(state["exploration"])
        self.updates = state["updates"]
