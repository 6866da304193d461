"""Soft Actor-Critic with a learned temperature (Haarnoja et al., arXiv 1812.05905).

Trained by ``rlsuite.loops.replay_loop``. Continuous actions; observations are flattened.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import gymnasium as gym
import torch
from pydantic import Field
from torch import Tensor, nn

from rlsuite.nets import EnsembleMLP, Init
from rlsuite.optim import descend, load_optimizer_state, make_optimizer, optimizer_state
from rlsuite.parts import make_temperature, move_target
from rlsuite.policies import SquashedNormalPolicy, observation_size
from rlsuite.rng import generator
from rlsuite.settings import Finite, Fraction, Positive, PositiveCount, settings
from rlsuite.tree import flatten_features, to_device
from rlsuite.types import Batch, State, Tree, Update

METRICS = {
    "loss/critic": "Half the squared temporal-difference error, summed over the critics.",
    "loss/actor": "temperature * log pi - Q, the loss of the policy.",
    "loss/temperature": "The loss of the log temperature; 0 if the temperature is fixed.",
    "value/q": "Mean of the critics' values of the batch.",
    "policy/entropy": "Minus the mean log probability of the policy's actions, in nats.",
    "policy/temperature": "Weight of the entropy against the reward.",
}


@settings
class SACConfig:
    """Settings of SAC. The defaults are those of Stable-Baselines3, but for the exact density."""

    hidden: Annotated[tuple[PositiveCount, ...], Field(strict=False)] = (256, 256)
    """Units of each hidden layer, of the actor and of each critic."""
    critics: PositiveCount = 2
    """Number of critics; the target takes the least of their values."""
    actor_value: Literal["min", "mean", "first"] = "min"
    """What the policy climbs: the least, the mean or the first of the critics' values."""
    lr_actor: Positive = 3e-4
    """Learning rate of the policy."""
    lr_critic: Positive = 3e-4
    """Learning rate of the critics."""
    lr_temperature: Positive = 3e-4
    """Learning rate of the log temperature."""
    optimizer: str = "Adam"
    """Class name in torch.optim, or in the package pytorch-optimizer."""
    temperature: Literal["auto"] | Positive = "auto"
    """Weight of the entropy against the reward: "auto" learns it, a number fixes it."""
    initial_temperature: Positive = 1.0
    """Where a learned temperature starts."""
    target_entropy: Literal["auto"] | Finite = "auto"
    """Entropy in nats, over actions scaled to [-1, 1], that a learned temperature holds; "auto" is
    minus the number of action dimensions."""
    target_rate: Fraction = 0.005
    """Share of the critics that flows into their targets at each update (tau)."""
    policy_period: PositiveCount = 1
    """Critic updates between policy updates; the policy then makes as many updates in a row."""
    log_std: Literal["clamp", "tanh"] = "clamp"
    """How the log standard deviation is bounded: clamped to [-20, 2] or by a tanh to [-5, 2]."""
    log_prob: Literal["exact", "epsilon"] = "exact"
    """Density of the squashed normal: exact, or with 1e-6 under the logarithm (other libraries)."""
    init: Init = "torch"
    """First weights: "torch" (PyTorch's linear layer) or "xavier" (uniform, zero biases)."""


class SAC:
    """Soft Actor-Critic.

    Actions at the interface are in the environment's units; inside, policy and critics work on
    actions scaled to [-1, 1] per dimension, and log probabilities are taken there.
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        config: SACConfig | None = None,
        *,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        """Fresh networks. Raises UserError unless the action space is a bounded Box."""
        self.config = config = config or SACConfig()
        self.device = torch.device(device)
        self.policy = SquashedNormalPolicy(
            action_space,
            self.device,
            "SAC",
            log_std=config.log_std,
            epsilon=1e-6 if config.log_prob == "epsilon" else None,
        )
        self.actions, obs_size = self.policy.actions, observation_size(observation_space, "SAC")

        init = {
            "init": config.init,
            "generator": generator(seed, "sac weights"),
            "device": self.device,
        }
        actor_sizes = [obs_size, *config.hidden, 2 * self.actions]
        critic_sizes = [obs_size + self.actions, *config.hidden, 1]
        self.actor = EnsembleMLP(1, actor_sizes, **init)  # type: ignore[arg-type]
        self.critic = EnsembleMLP(config.critics, critic_sizes, **init)  # type: ignore[arg-type]
        self.target = EnsembleMLP(config.critics, critic_sizes, **init)  # type: ignore[arg-type]
        self.target.requires_grad_(False)
        move_target(self.target.parameters(), self.critic.parameters(), 1.0)

        self.actor_optimizer = make_optimizer(
            config.optimizer, self.actor.parameters(), config.lr_actor
        )
        self.critic_optimizer = make_optimizer(
            config.optimizer, self.critic.parameters(), config.lr_critic
        )
        self.temperature = make_temperature(config, self.actions, self.device)
        self.noise = generator(seed, "sac noise", device=self.device)
        self.updates = 0

    @torch.no_grad()
    def act(self, obs: Tree, *, explore: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
        """(N, *action shape) actions in the environment's units, sampled or, without ``explore``,
        at the squashed mean; nothing to store beside them."""
        output = self.actor(self._features(obs))[0]
        return self.policy.act(output, self.noise, explore=explore), {}

    def update(self, batch: Batch) -> Update:
        """One update from a batch on the agent's device, with fresh noise."""
        shape = (1 + self.config.policy_period, len(batch.reward), self.actions)
        noise = torch.randn(shape, generator=self.noise, device=self.device)
        self.updates += 1
        return self.learn(batch, noise, policy=self.updates % self.config.policy_period == 0)

    def learn(self, batch: Batch, noise: Tensor, *, policy: bool = True) -> Update:
        """One update with given standard normal noise: critics, then policy, temperature, targets.

        Args:
            batch: B transitions.
            noise: (1 + policy_period, B, D): for the next actions, then for the policy's updates.
            policy: whether policy and temperature move too.

        Returns:
            METRICS and, as priority, the greatest absolute error of the critics.
        """
        obs, next_obs = self._features(batch.obs), self._features(batch.next_obs)
        assert isinstance(batch.reward, Tensor)
        action = self.policy.to_unit(batch.action)
        temperature = self.temperature.value()

        with torch.no_grad():  # eq. 5-6: the soft value of the next state, by the target critics
            next_action, next_log_prob = self.policy.sample(self.actor(next_obs)[0], noise[0])
            next_value = self._values(self.target, next_obs, next_action).amin(0)
            target = batch.reward + batch.discount * (next_value - temperature * next_log_prob)

        value = self._values(self.critic, obs, action)
        error = value - target
        critic_loss = 0.5 * (batch.weight * error.square()).mean(1).sum()
        descend(critic_loss, self.critic_optimizer)
        metrics = {"loss/critic": critic_loss.detach(), "value/q": value.detach().mean()}

        if policy:
            for policy_noise in noise[1:]:
                metrics |= self._improve_policy(obs, policy_noise, temperature)
                temperature = self.temperature.value()

        move_target(self.target.parameters(), self.critic.parameters(), self.config.target_rate)
        return Update(metrics, priority=error.detach().abs().amax(0))

    def _improve_policy(self, obs: Tensor, noise: Tensor, temperature: Tensor) -> dict[str, Tensor]:
        action, log_prob = self.policy.sample(self.actor(obs)[0], noise)
        values = self._values(self.critic, obs, action)
        match self.config.actor_value:
            case "min":
                value = values.amin(0)
            case "mean":
                value = values.mean(0)
            case "first":
                value = values[0]
        actor_loss = (temperature * log_prob - value).mean()  # eq. 9
        descend(actor_loss, self.actor_optimizer)
        return {
            "loss/actor": actor_loss.detach(),
            "loss/temperature": self.temperature.update(log_prob),
            "policy/entropy": -log_prob.detach().mean(),
            "policy/temperature": temperature,
        }

    def _features(self, obs: Tree) -> Tensor:
        return flatten_features(to_device(obs, self.device))

    def _values(self, critic: nn.Module, features: Tensor, action: Tensor) -> Tensor:
        """(K, B) values."""
        values: Tensor = critic(torch.cat([features, action], dim=1))
        return values.squeeze(2)

    def state_dict(self) -> State:
        """Networks, optimizers, temperature, noise generator and the count of updates."""
        return {
            "actor": self.actor.state_dict(),
            "critic": self.critic.state_dict(),
            "target": self.target.state_dict(),
            "actor_optimizer": optimizer_state(self.actor_optimizer),
            "critic_optimizer": optimizer_state(self.critic_optimizer),
            "temperature": self.temperature.state_dict(),
            "noise": self.noise.get_state(),
            "updates": self.updates,
        }

    def load_state_dict(self, state: State) -> None:
        """Continue from a saved state of an agent with the same spaces and config."""
        for name in ("actor", "critic", "target"):
            getattr(self, name).load_state_dict(state[name])
        load_optimizer_state(self.actor_optimizer, state["actor_optimizer"])
        load_optimizer_state(self.critic_optimizer, state["critic_optimizer"])
        self.temperature.load_state_dict(state["temperature"])
        self.noise.set_state(state["noise"])
        self.updates = state["updates"]
