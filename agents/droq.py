"""DroQ: critics with dropout and layer normalisation, updated often (Hiraoka et al., ICLR 2022).

SAC with two such critics in place of a large ensemble (arXiv 2110.02034): twenty critic updates for
each transition (``plan.updates_per_transition``), one policy update for twenty of the critics.

Trained by ``rlsuite.loops.replay_loop``. Continuous actions; observations are flattened.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

import gymnasium as gym
import torch
import torch.nn.functional as F
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
    "value/q": "Mean of the critics' values of the batch, under dropout.",
    "policy/entropy": "Minus the mean log probability of the policy's actions, in nats.",
    "policy/temperature": "Weight of the entropy against the reward.",
}


@settings
class DroQConfig:
    """Settings of DroQ. The defaults are the paper's, with its most common dropout."""

    hidden: Annotated[tuple[PositiveCount, ...], Field(strict=False)] = (256, 256)
    """Units of each hidden layer, of the actor and of each critic."""
    critics: PositiveCount = 2
    """Number of critics; the target takes the least of their values, the policy the mean."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """Probability that a unit of a critic's hidden layer is dropped, in the targets too."""
    critic_updates_per_policy_update: PositiveCount = 20
    """At every so many updates the policy and the temperature make one update too."""
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
    minus the number of action dimensions. The paper has a value for each task, as REDQ has."""
    target_rate: Fraction = 0.005
    """Share of the critics that flows into their targets at each update (tau)."""
    init: Init = "xavier"
    """First weights: "torch" (PyTorch's linear layer) or "xavier" (uniform, zero biases)."""


class Draws(NamedTuple):
    """What is random in an update of B transitions. ``policy`` fields are None without one."""

    next_action: Tensor
    """(B, D) standard normal."""
    target: list[Tensor]
    """A (K, B, units) factor for each hidden layer: 0, or 1 / (1 - dropout)."""
    critic: list[Tensor]
    """Likewise."""
    policy_action: Tensor | None
    """(B, D) standard normal."""
    policy_critic: list[Tensor] | None
    """Like ``critic``."""


class DroQ:
    """DroQ: K critics under dropout.

    Actions at the interface are in the environment's units, inside scaled to [-1, 1].
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        config: DroQConfig | None = None,
        *,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        """Fresh networks. Raises UserError unless the action space is a bounded Box."""
        self.config = config = config or DroQConfig()
        self.device = torch.device(device)
        self.policy = SquashedNormalPolicy(action_space, self.device, "DroQ")
        actions, obs_size = self.policy.actions, observation_size(observation_space, "DroQ")

        weights = generator(seed, "droq weights")

        def network(members: int, sizes: list[int]) -> EnsembleMLP:
            return EnsembleMLP(
                members, sizes, init=config.init, generator=weights, device=self.device
            )

        critic_sizes = [obs_size + actions, *config.hidden, 1]
        self.actor = network(1, [obs_size, *config.hidden, 2 * actions])
        self.critic = DropoutCritics(network(config.critics, critic_sizes))
        self.target = DropoutCritics(network(config.critics, critic_sizes)).requires_grad_(False)
        move_target(self.target.parameters(), self.critic.parameters(), 1.0)

        self.actor_optimizer = make_optimizer(
            config.optimizer, self.actor.parameters(), config.lr_actor
        )
        self.critic_optimizer = make_optimizer(
            config.optimizer, self.critic.parameters(), config.lr_critic
        )
        self.temperature = make_temperature(config, actions, self.device)
        self.noise = generator(seed, "droq noise", device=self.device)
        self.updates = 0

    @torch.no_grad()
    def act(self, obs: Tree, *, explore: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
        """(N, *action shape) actions in the environment's units, sampled or, without ``explore``,
        at the squashed mean; nothing to store beside them."""
        output = self.actor(self._features(obs))[0]
        return self.policy.act(output, self.noise, explore=explore), {}

    def update(self, batch: Batch) -> Update:
        """One update from a batch on the agent's device, with fresh draws."""
        self.updates += 1
        policy = self.updates % self.config.critic_updates_per_policy_update == 0
        return self.learn(batch, self.draw(len(batch.reward), policy=policy))

    def draw(self, rows: int, *, policy: bool) -> Draws:
        """The random part of an update from ``rows`` transitions."""

        def normal() -> Tensor:
            shape = (rows, self.policy.actions)
            return torch.randn(shape, generator=self.noise, device=self.device)

        def factors() -> list[Tensor]:
            keep = 1.0 - self.config.dropout
            shapes = [(self.config.critics, rows, units) for units in self.config.hidden]
            uniform = [torch.rand(s, generator=self.noise, device=self.device) for s in shapes]
            return [(u < keep).to(u.dtype) / keep for u in uniform]

        always = normal(), factors(), factors()
        return Draws(*always, normal(), factors()) if policy else Draws(*always, None, None)

    def learn(self, batch: Batch, draws: Draws) -> Update:
        """One update with given draws: critics, then policy and temperature, targets.

        Returns:
            METRICS and, as priority, the greatest absolute error of the critics.
        """
        obs, next_obs = self._features(batch.obs), self._features(batch.next_obs)
        assert isinstance(batch.reward, Tensor)
        action = self.policy.to_unit(batch.action)
        temperature = self.temperature.value()

        with torch.no_grad():
            next_action, next_log_prob = self.policy.sample(
                self.actor(next_obs)[0], draws.next_action
            )
            next_value = self._values(self.target, next_obs, next_action, draws.target).amin(0)
            target = batch.reward + batch.discount * (next_value - temperature * next_log_prob)

        value = self._values(self.critic, obs, action, draws.critic)
        error = value - target
        critic_loss = 0.5 * (batch.weight * error.square()).mean(1).sum()
        descend(critic_loss, self.critic_optimizer)
        metrics = {"loss/critic": critic_loss.detach(), "value/q": value.detach().mean()}

        if draws.policy_action is not None and draws.policy_critic is not None:
            new_action, log_prob = self.policy.sample(self.actor(obs)[0], draws.policy_action)
            new_value = self._values(self.critic, obs, new_action, draws.policy_critic).mean(0)
            actor_loss = (temperature * log_prob - new_value).mean()
            descend(actor_loss, self.actor_optimizer)
            metrics |= {
                "loss/actor": actor_loss.detach(),
                "loss/temperature": self.temperature.update(log_prob),
                "policy/entropy": -log_prob.detach().mean(),
                "policy/temperature": temperature,
            }

        move_target(self.target.parameters(), self.critic.parameters(), self.config.target_rate)
        return Update(metrics, priority=error.detach().abs().amax(0))

    def _features(self, obs: Tree) -> Tensor:
        return flatten_features(to_device(obs, self.device))

    def _values(
        self, critic: nn.Module, features: Tensor, action: Tensor, factors: list[Tensor]
    ) -> Tensor:
        """(K, B) values."""
        values: Tensor = critic(torch.cat([features, action], dim=1), factors)
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


class DropoutCritics(nn.Module):
    """K perceptrons; a hidden layer is linear, dropout, layer normalisation, ReLU (figure 1)."""

    def __init__(self, linear: EnsembleMLP) -> None:
        super().__init__()
        self.linear = linear
        hidden = list(linear.biases)[:-1]
        self.gains = nn.ParameterList(nn.Parameter(torch.ones_like(bias)) for bias in hidden)
        self.shifts = nn.ParameterList(nn.Parameter(torch.zeros_like(bias)) for bias in hidden)

    def forward(self, x: Tensor, factors: list[Tensor]) -> Tensor:
        """(B, in), the same for all members, to (K, B, out); ``factors`` as in ``Draws``."""
        *hidden, (last_weight, last_bias) = zip(
            self.linear.weights, self.linear.biases, strict=True
        )
        h = x.expand(len(last_weight), -1, -1)
        layers = zip(hidden, factors, self.gains, self.shifts, strict=True)
        for (weight, bias), factor, gain, shift in layers:
            h = torch.baddbmm(bias, h, weight) * factor
            h = torch.relu(F.layer_norm(h, h.shape[-1:]) * gain + shift)
        return torch.baddbmm(last_bias, h, last_weight)
