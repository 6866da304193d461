"""Soft Actor-Critic for discrete actions (Christodoulou, arXiv 1910.07207), with remedies.

The published form often fails where actions are discrete. The remedies are settings: a reachable
target entropy and a bounded temperature; the mean of the critics with a clipped loss and a penalty
on jumps of the entropy (Zhou et al., arXiv 2209.10081); critics without the entropy bonus
(arXiv 2509.09838).

Trained by ``rlsuite.loops.replay_loop``. Discrete actions; Box observations: images go through
convolutions, everything else is flattened. Actor and critics share no layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import gymnasium as gym
import torch
from pydantic import Field
from torch import Tensor, nn

from rlsuite.errors import UserError
from rlsuite.nets import Network
from rlsuite.optim import descend, load_optimizer_state, make_optimizer, optimizer_state
from rlsuite.parts import FixedTemperature, LearnedTemperature, discrete_actions, move_target
from rlsuite.rng import generator
from rlsuite.settings import Finite, Fraction, NonNegative, Positive, PositiveCount, settings
from rlsuite.tree import to_device
from rlsuite.types import Alarm, Batch, State, Tree, Update

METRICS = {
    "loss/critic": "Half the squared temporal-difference error, summed over the critics.",
    "loss/actor": "Mean over the policy of temperature * log pi - Q, and the entropy penalty.",
    "loss/temperature": "The loss of the log temperature; 0 if the temperature is fixed.",
    "value/q": "Mean of the critics' values of the batch's actions.",
    "policy/entropy": "Mean entropy of the policy, in nats.",
    "policy/temperature": "Weight of the entropy against the reward; above 10, or at its upper "
    "bound, the target entropy is out of reach: lower agent.target_entropy_ratio.",
}


@settings
class DiscreteSACConfig:
    """Settings of discrete SAC."""

    hidden: Annotated[tuple[PositiveCount, ...], Field(strict=False)] = (512,)
    """Units of each fully connected layer of the actor and of each critic, after the convolutions
    if observations are images."""
    critics: PositiveCount = 2
    """Number of critics."""
    value: Literal["min", "mean"] = "min"
    """What targets and policy take of the critics' values of an action."""
    q_clip: Positive | None = None
    """Greatest change of a value against its target network's that lowers the loss: per transition
    the loss is the greater of the plain and the clipped one (0.5 published, with "mean")."""
    entropy_penalty: NonNegative = 0.0
    """Weight of the squared change of the policy's entropy since it acted (0.5 published)."""
    lr_actor: Positive = 3e-4
    """Learning rate of the policy."""
    lr_critic: Positive = 3e-4
    """Learning rate of the critics."""
    lr_temperature: Positive = 3e-4
    """Learning rate of the log temperature."""
    optimizer: str = "Adam"
    """Class name in torch.optim, or in the package pytorch-optimizer."""
    optimizer_eps: Positive | None = None
    """Added to the denominator of the networks' optimizers; unset keeps the optimizer's own."""
    temperature: Literal["auto"] | Positive = "auto"
    """Weight of the entropy against the reward: "auto" learns it, a number fixes it."""
    initial_temperature: Positive = 1.0
    """Where a learned temperature starts."""
    target_entropy_ratio: Fraction = 0.5
    """Entropy that a learned temperature holds, as a share of the uniform policy's. Near 1 it is
    out of reach where the task needs certain actions, and the temperature explodes."""
    log_temperature_bounds: Annotated[tuple[Finite, Finite], Field(strict=False)] = (-10.0, 2.0)
    """Least and greatest logarithm of a learned temperature."""
    critic_temperature: Literal["actor"] | NonNegative = "actor"
    """Weight of the entropy in the critics' targets: the actor's temperature, or a number; 0 leaves
    the entropy to the policy's loss."""
    target_rate: Fraction = 0.005
    """Share of the critics that flows into their targets when these move (tau); 1 copies."""
    target_period: PositiveCount = 1
    """Updates between two moves of the targets."""


class DiscreteSAC:
    """Soft Actor-Critic whose expectations over actions are exact sums.

    Actions at the interface are the environment's own, ``start`` to ``start + n - 1``.
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        config: DiscreteSACConfig | None = None,
        *,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        """Fresh networks.

        Raises UserError unless actions are Discrete, observations a Box and the bounds in order.
        """
        self.config = config = config or DiscreteSACConfig()
        self.device = torch.device(device)
        self.actions, self.start = discrete_actions(action_space, "discrete SAC")
        weights = generator(seed, "discrete sac weights")

        def network() -> Network:
            return Network(
                observation_space,
                config.hidden,
                self.actions,
                generator=weights,
                device=self.device,
            )

        self.actor = network()
        self.critic = nn.ModuleList(network() for _ in range(config.critics))
        self.target = nn.ModuleList(network() for _ in range(config.critics))
        self.target.requires_grad_(False)
        move_target(self.target.parameters(), self.critic.parameters(), 1.0)

        self.actor_optimizer = make_optimizer(
            config.optimizer, self.actor.parameters(), config.lr_actor, eps=config.optimizer_eps
        )
        self.critic_optimizer = make_optimizer(
            config.optimizer, self.critic.parameters(), config.lr_critic, eps=config.optimizer_eps
        )
        self.temperature = self._temperature(config)
        self.alarms = _alarms(config)
        """Of the temperature, if it is learned."""
        self.noise = generator(seed, "discrete sac noise", device=self.device)
        self.updates = 0

    def _temperature(self, config: DiscreteSACConfig) -> FixedTemperature | LearnedTemperature:
        if config.temperature != "auto":
            return FixedTemperature(config.temperature, self.device)
        low, high = config.log_temperature_bounds
        if not low <= math.log(config.initial_temperature) <= high:
            raise UserError(
                f"the logarithm of agent.initial_temperature ({config.initial_temperature}) must "
                f"lie in agent.log_temperature_bounds ({low} to {high})"
            )
        return LearnedTemperature(
            config.initial_temperature,
            config.target_entropy_ratio * math.log(self.actions),
            config.optimizer,
            config.lr_temperature,
            self.device,
            bounds=(low, high),
        )

    @torch.no_grad()
    def act(self, obs: Tree, *, explore: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
        """(N,) int64 actions, sampled or, without ``explore``, the likeliest.

        Beside them, if there is an entropy penalty, the policy's (N,) entropy in nats.
        """
        log_pi = self._log_pi(to_device(obs, self.device))
        extra = {"entropy": _entropy(log_pi)} if self.config.entropy_penalty else {}
        if explore:  # the argmax of log pi + Gumbel noise is distributed as pi
            noise = torch.empty_like(log_pi).exponential_(generator=self.noise)
            log_pi = log_pi - noise.log()
        return self.start + log_pi.argmax(1), extra

    def update(self, batch: Batch) -> Update:
        """One update from a batch on the agent's device: critics, policy, temperature, targets."""
        assert isinstance(batch.action, Tensor) and isinstance(batch.reward, Tensor)
        temperature = self.temperature.value()
        with torch.no_grad():
            target = batch.reward + batch.discount * self._soft_value(batch.next_obs, temperature)
        critic_loss, value = self._critic_loss(batch, target)
        descend(critic_loss, self.critic_optimizer)

        actor_loss, entropy = self._actor_loss(batch, temperature)
        descend(actor_loss, self.actor_optimizer)
        metrics = {
            "loss/critic": critic_loss.detach(),
            "loss/actor": actor_loss.detach(),
            "loss/temperature": self.temperature.update(-entropy),
            "value/q": value.mean(),
            "policy/entropy": entropy.mean(),
            "policy/temperature": temperature,
        }
        self.updates += 1
        if self.updates % self.config.target_period == 0:
            rate = self.config.target_rate
            move_target(self.target.parameters(), self.critic.parameters(), rate)
        return Update(metrics, priority=(value - target).abs().amax(0))

    def _soft_value(self, obs: Tree, temperature: Tensor) -> Tensor:
        """(B,) values by the target critics: arXiv 1910.07207, eq. 10."""
        bonus = self.config.critic_temperature
        weight = temperature if bonus == "actor" else bonus
        log_pi = self._log_pi(obs)
        soft = self._reduce(_values(self.target, obs)) - weight * log_pi
        return (log_pi.exp() * soft).sum(1)

    def _critic_loss(self, batch: Batch, target: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and (K, B) values of the batch's actions without gradient."""
        assert isinstance(batch.action, Tensor)
        index = (batch.action - self.start).expand(self.config.critics, -1)[..., None]
        value = _values(self.critic, batch.obs).gather(2, index)[..., 0]
        penalty = (value - target).square()
        clip = self.config.q_clip
        if clip is not None:  # arXiv 2209.10081, section 4.2
            with torch.no_grad():
                old = _values(self.target, batch.obs).gather(2, index)[..., 0]
            clipped = old + (value - old).clamp(-clip, clip)
            penalty = torch.maximum(penalty, (clipped - target).square())
        return 0.5 * (batch.weight * penalty).mean(1).sum(), value.detach()

    def _actor_loss(self, batch: Batch, temperature: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and the policy's (B,) entropy without gradient."""
        with torch.no_grad():
            value = self._reduce(_values(self.critic, batch.obs))
        log_pi = self._log_pi(batch.obs)
        loss = (log_pi.exp() * (temperature * log_pi - value)).sum(1).mean()  # eq. 12
        entropy = _entropy(log_pi)
        if self.config.entropy_penalty:  # arXiv 2209.10081, section 4.1
            change = batch.extra["entropy"] - entropy
            loss = loss + self.config.entropy_penalty * change.square().mean()
        return loss, entropy.detach()

    def _log_pi(self, obs: Tree) -> Tensor:
        """(B, actions) log probabilities."""
        logits: Tensor = self.actor(obs)
        return logits.log_softmax(1)

    def _reduce(self, values: Tensor) -> Tensor:
        """(K, B, actions) values of the critics to (B, actions)."""
        return values.amin(0) if self.config.value == "min" else values.mean(0)

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


def _alarms(config: DiscreteSACConfig) -> dict[str, Alarm]:
    if config.temperature != "auto":
        return {}
    # A bound is as telling as the 10 that it may keep the temperature from; means are rounded.
    limit = min(10.0, 0.99 * math.exp(config.log_temperature_bounds[1]))
    remedy = "the target entropy is out of reach, lower agent.target_entropy_ratio"
    return {"policy/temperature": Alarm(limit, remedy)}


def _entropy(log_pi: Tensor) -> Tensor:
    """(B,) nats of (B, actions) log probabilities."""
    return -(log_pi.exp() * log_pi).sum(1)


def _values(critics: Iterable[nn.Module], obs: Tree) -> Tensor:
    """(K, B, actions)."""
    return torch.stack([critic(obs) for critic in critics])
