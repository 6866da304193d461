"""CrossQ: SAC with batch normalisation and without target networks (Bhatt et al., ICLR 2024).

arXiv 1902.05605 (v4). The critics see transitions and successors in one joint batch, so that the
statistics that normalise them are those of both.

Trained by ``rlsuite.loops.replay_loop``. Continuous actions; observations are flattened.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import gymnasium as gym
import torch
from pydantic import Field
from torch import Tensor, nn

from rlsuite.nets import BatchRenorm, EnsembleMLP, Init
from rlsuite.optim import descend, load_optimizer_state, make_optimizer, optimizer_state
from rlsuite.parts import make_temperature
from rlsuite.policies import SquashedNormalPolicy, observation_size
from rlsuite.rng import generator
from rlsuite.settings import Count, Finite, Positive, PositiveCount, settings
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
class CrossQConfig:
    """Settings of CrossQ. The defaults are the paper's."""

    hidden_actor: Annotated[tuple[PositiveCount, ...], Field(strict=False)] = (256, 256)
    """Units of each hidden layer of the actor."""
    hidden_critic: Annotated[tuple[PositiveCount, ...], Field(strict=False)] = (2048, 2048)
    """Units of each hidden layer of each critic."""
    critics: PositiveCount = 2
    """Number of critics; target and policy take the least of their values."""
    critic_updates_per_policy_update: PositiveCount = 3
    """At every so many updates the policy and the temperature make one update too."""
    renorm_warmup: Count = 100_000
    """Training passes of a layer with plain batch statistics, before renormalisation begins."""
    lr_actor: Positive = 1e-3
    """Learning rate of the policy."""
    lr_critic: Positive = 1e-3
    """Learning rate of the critics."""
    lr_temperature: Positive = 1e-3
    """Learning rate of the log temperature."""
    optimizer: str = "Adam"
    """Class name in torch.optim, or in the package pytorch-optimizer; one that takes betas."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """First beta of the optimizers of policy and critics, the decay of the mean gradient; that of
    the temperature keeps its default."""
    temperature: Literal["auto"] | Positive = "auto"
    """Weight of the entropy against the reward: "auto" learns it, a number fixes it."""
    initial_temperature: Positive = 1.0
    """Where a learned temperature starts."""
    target_entropy: Literal["auto"] | Finite = "auto"
    """Entropy in nats, over actions scaled to [-1, 1], that a learned temperature holds; "auto" is
    minus the number of action dimensions."""
    init: Init = "torch"
    """First weights: "torch" (PyTorch's linear layer) or "xavier" (uniform, zero biases)."""


class CrossQ:
    """CrossQ.

    Actions at the interface are in the environment's units, inside scaled to [-1, 1]. A network
    normalises by the batch, and moves its running statistics, only in its own loss; everywhere
    else, and to act, it normalises by the running statistics.
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        config: CrossQConfig | None = None,
        *,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        """Fresh networks. Raises UserError unless the action space is a bounded Box."""
        self.config = config = config or CrossQConfig()
        self.device = torch.device(device)
        self.policy = SquashedNormalPolicy(action_space, self.device, "CrossQ")
        actions, obs_size = self.policy.actions, observation_size(observation_space, "CrossQ")

        weights = generator(seed, "crossq weights")

        def network(members: int, sizes: list[int]) -> RenormMLP:
            linear = EnsembleMLP(
                members, sizes, init=config.init, generator=weights, device=self.device
            )
            return RenormMLP(linear, config.renorm_warmup)

        self.actor = network(1, [obs_size, *config.hidden_actor, 2 * actions])
        self.critic = network(config.critics, [obs_size + actions, *config.hidden_critic, 1])

        betas = (config.beta1, 0.999)
        self.actor_optimizer = make_optimizer(
            config.optimizer, self.actor.parameters(), config.lr_actor, betas=betas
        )
        self.critic_optimizer = make_optimizer(
            config.optimizer, self.critic.parameters(), config.lr_critic, betas=betas
        )
        self.temperature = make_temperature(config, actions, self.device)
        self.noise = generator(seed, "crossq noise", device=self.device)
        self.updates = 0

    @torch.no_grad()
    def act(self, obs: Tree, *, explore: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
        """(N, *action shape) actions in the environment's units, sampled or, without ``explore``,
        at the squashed mean; nothing to store beside them."""
        output = self.actor(self._features(obs), training=False)[0]
        return self.policy.act(output, self.noise, explore=explore), {}

    def update(self, batch: Batch) -> Update:
        """One update from a batch on the agent's device, with fresh noise."""
        shape = (2, len(batch.reward), self.policy.actions)
        noise = torch.randn(shape, generator=self.noise, device=self.device)
        self.updates += 1
        policy = self.updates % self.config.critic_updates_per_policy_update == 0
        return self.learn(batch, noise, policy=policy)

    def learn(self, batch: Batch, noise: Tensor, *, policy: bool = True) -> Update:
        """One update with given standard normal noise: critics, then policy and temperature.

        Args:
            batch: B transitions.
            noise: (2, B, D): for the next actions, then for the policy's update.
            policy: whether policy and temperature move too.

        Returns:
            METRICS and, as priority, the greatest absolute error of the critics.
        """
        obs, next_obs = self._features(batch.obs), self._features(batch.next_obs)
        assert isinstance(batch.reward, Tensor)
        action = self.policy.to_unit(batch.action)
        temperature = self.temperature.value()

        with torch.no_grad():
            output = self.actor(next_obs, training=False)[0]
            next_action, next_log_prob = self.policy.sample(output, noise[0])

        # Both halves of the joint batch are normalised by the same statistics.
        joint = torch.cat([torch.cat([obs, action], 1), torch.cat([next_obs, next_action], 1)])
        value, next_value = self.critic(joint, training=True).squeeze(2).chunk(2, dim=1)
        soft_value = next_value.detach().amin(0) - temperature * next_log_prob
        error = value - (batch.reward + batch.discount * soft_value)
        critic_loss = 0.5 * (batch.weight * error.square()).mean(1).sum()
        descend(critic_loss, self.critic_optimizer)
        metrics = {"loss/critic": critic_loss.detach(), "value/q": value.detach().mean()}

        if policy:
            output = self.actor(obs, training=True)[0]
            new_action, log_prob = self.policy.sample(output, noise[1])
            new_value = self.critic(torch.cat([obs, new_action], 1), training=False).amin(0)
            actor_loss = (temperature * log_prob - new_value.squeeze(1)).mean()
            descend(actor_loss, self.actor_optimizer)
            metrics |= {
                "loss/actor": actor_loss.detach(),
                "loss/temperature": self.temperature.update(log_prob),
                "policy/entropy": -log_prob.detach().mean(),
                "policy/temperature": temperature,
            }
        return Update(metrics, priority=error.detach().abs().amax(0))

    def _features(self, obs: Tree) -> Tensor:
        return flatten_features(to_device(obs, self.device))

    def state_dict(self) -> State:
        """Networks with running statistics, optimizers, temperature, noise, count of updates."""
        return {
            "actor": self.actor.state_dict(),
            "critic": self.critic.state_dict(),
            "actor_optimizer": optimizer_state(self.actor_optimizer),
            "critic_optimizer": optimizer_state(self.critic_optimizer),
            "temperature": self.temperature.state_dict(),
            "noise": self.noise.get_state(),
            "updates": self.updates,
        }

    def load_state_dict(self, state: State) -> None:
        """Continue from a saved state of an agent with the same spaces and config."""
        self.actor.load_state_dict(state["actor"])
        self.critic.load_state_dict(state["critic"])
        load_optimizer_state(self.actor_optimizer, state["actor_optimizer"])
        load_optimizer_state(self.critic_optimizer, state["critic_optimizer"])
        self.temperature.load_state_dict(state["temperature"])
        self.noise.set_state(state["noise"])
        self.updates = state["updates"]


class RenormMLP(nn.Module):
    """K perceptrons with batch renormalisation of the input and after the ReLU of each layer."""

    def __init__(self, linear: EnsembleMLP, warmup: int) -> None:
        super().__init__()
        self.linear = linear
        self.norms = nn.ModuleList(
            BatchRenorm(w.shape[0], w.shape[1], device=w.device, warmup=warmup)
            for w in linear.weights
        )

    def forward(self, x: Tensor, *, training: bool) -> Tensor:
        """(B, in), the same for all members, to (K, B, out)."""
        weights, biases = list(self.linear.weights), list(self.linear.biases)
        h = self.norms[0](x.expand(len(weights[0]), -1, -1), training=training)
        for weight, bias, norm in zip(weights[:-1], biases[:-1], self.norms[1:], strict=True):
            h = norm(torch.relu(torch.baddbmm(bias, h, weight)), training=training)
        return torch.baddbmm(biases[-1], h, weights[-1])
