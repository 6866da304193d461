"""Deep Q-Networks (Mnih et al., Nature 518, 2015), also double and dueling.

Trained by ``rlsuite.loops.replay_loop``. Discrete actions; Box observations: images go through
convolutions, everything else is flattened. n-step sums, prioritized draws and importance weights
are the replay's.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import gymnasium as gym
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from rlsuite.nets import DuelingNetwork, Network
from rlsuite.optim import descend, load_optimizer_state, make_optimizer, optimizer_state
from rlsuite.parts import EpsilonGreedy, LinearSchedule, discrete_actions, move_target
from rlsuite.rng import generator
from rlsuite.settings import Count, Fraction, Positive, PositiveCount, settings
from rlsuite.tree import to_device
from rlsuite.types import Batch, State, Tree, Update

METRICS = {
    "loss/critic": "The loss of the action values.",
    "value/q": "Mean value of the batch's actions.",
    "policy/epsilon": "Probability of a random action while exploring.",
}


@settings
class DQNConfig:
    """Settings of DQN. The defaults are those of CleanRL for Atari."""

    hidden: Annotated[tuple[PositiveCount, ...], Field(strict=False)] = (512,)
    """Units of each fully connected layer, after the convolutions if observations are images."""
    double: bool = False
    """Whether the online network chooses the action whose target value is bootstrapped (Double
    DQN, arXiv 1509.06461)."""
    dueling: bool = False
    """Whether Q is the sum of a state's value and an action's advantage, each with a last hidden
    layer of its own."""
    loss: Literal["mse", "huber", "pal"] = "mse"
    """Squared error; Huber: half of it up to the threshold, linear beyond; or PAL, which with
    uniform draws has the expected gradient of Huber with the sampler "lap"."""
    huber_threshold: Positive = 1.0
    """Error from which Huber is linear, and PAL a power; with LAP the sampler's least priority."""
    pal_alpha: Fraction = 0.6
    """Alpha of the "lap" that PAL stands for: beyond the threshold PAL grows with the power 1 +
    alpha (published: 0.6 for Atari, 0.4 for MuJoCo)."""
    lr: Positive = 1e-4
    """Learning rate."""
    optimizer: str = "Adam"
    """Class name in torch.optim, or in the package pytorch-optimizer."""
    optimizer_eps: Positive | None = None
    """Added to the denominator of the optimizer's step; unset keeps the optimizer's own."""
    max_grad_norm: Positive | None = None
    """Longest gradient, over all weights; unset does not clip."""
    target_period: PositiveCount = 250
    """Updates between two copies of the network to its target."""
    epsilon_initial: Fraction = 1.0
    """Probability of a random action when exploration begins, after the warm-up."""
    epsilon_final: Fraction = 0.01
    """Probability of a random action at the end of the schedule and after it."""
    epsilon_transitions: Count = 1_000_000
    """Transitions, after the warm-up, from the initial to the final probability, linearly."""
    epsilon_evaluation: Fraction = 0.0
    """Probability of a random action without exploration."""


class DQN:
    """Deep Q-Network.

    Actions at the interface are the environment's own, ``start`` to ``start + n - 1``.
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        config: DQNConfig | None = None,
        *,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        """Fresh networks. Raises UserError unless actions are Discrete and observations a Box."""
        self.config = config = config or DQNConfig()
        self.device = torch.device(device)
        self.actions, self.start = discrete_actions(action_space, "DQN")
        make = DuelingNetwork if config.dueling else Network
        self.online, self.target = (
            make(
                observation_space,
                config.hidden,
                self.actions,
                generator=generator(seed, "dqn weights"),
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
        greedy = self.online(to_device(obs, self.device)).argmax(1)
        return self.start + self.exploration(greedy, self.actions, explore=explore), {}

    @torch.no_grad()
    def probs(self, obs: Tree) -> Tensor:
        """(N, X) float64 with which ``act`` takes each action without exploration."""
        greedy = self.online(to_device(obs, self.device)).argmax(1)
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
        """One step down the loss; metrics but for epsilon, and the absolute errors as priority."""
        assert isinstance(batch.action, Tensor) and isinstance(batch.reward, Tensor)
        with torch.no_grad():
            next_values = self.target(batch.next_obs)  # arXiv 1509.06461, eq. 2 and 4
            ranking = self.online(batch.next_obs) if self.config.double else next_values
            best = ranking.argmax(1, keepdim=True)
            target = batch.reward + batch.discount * next_values.gather(1, best)[:, 0]

        value = self.online(batch.obs).gather(1, batch.action[:, None] - self.start)[:, 0]
        loss = (batch.weight * self.penalty(value, target)).mean()
        descend(loss, self.optimizer, self.config.max_grad_norm)
        value = value.detach()
        metrics = {"loss/critic": loss.detach(), "value/q": value.mean()}
        return Update(metrics, priority=(value - target).abs())

    def penalty(self, value: Tensor, target: Tensor) -> Tensor:
        """(B,) losses of (B,) values against their targets, before weights."""
        if self.config.loss == "mse":
            return F.mse_loss(value, target, reduction="none")
        threshold = self.config.huber_threshold
        if self.config.loss == "huber":
            return F.huber_loss(value, target, reduction="none", delta=threshold)
        return pal_loss(value, target, self.config.pal_alpha, threshold)

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


def pal_loss(value: Tensor, target: Tensor, alpha: float, threshold: float = 1.0) -> Tensor:
    """(B,) losses of prioritized approximation, PAL (Fujimoto et al., arXiv 2007.06049, eq. 11).

    With threshold 1: error**2 / 2 below 1, |error|**(1 + alpha) / (1 + alpha) beyond, divided by
    the batch's mean of max(|error|, 1)**alpha, as a constant. As in the authors' code any threshold
    will do: then the mean gradient is that of Huber under LAP's probabilities with this least
    priority.
    """
    size = (value - target).abs()
    near = threshold**alpha * 0.5 * size.square()
    far = threshold * size.clamp(min=threshold).pow(1 + alpha) / (1 + alpha)
    scale = size.detach().clamp(min=threshold).pow(alpha).mean()
    return torch.where(size < threshold, near, far) / scale
