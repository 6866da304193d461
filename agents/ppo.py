"""Proximal Policy Optimization, with the clipped objective (Schulman et al., arXiv 1707.06347).

Trained by ``rlsuite.loops.rollout_loop``. Box, Discrete and MultiDiscrete actions; Box observations
(images go through convolutions, everything else is flattened), or a Dict of "observation" and
"action_mask", which is 1 where an action is available. Policy and value have networks of their own.
The pieces of the update, ``clipped_loss``, ``value_loss``, ``normalized`` and ``minibatches``, are
those of the multi-agent descendants too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, NamedTuple

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from rlsuite.errors import UserError
from rlsuite.nets import OrthogonalNetwork
from rlsuite.optim import descend, load_optimizer_state, make_optimizer, optimizer_state
from rlsuite.parts import ValueNorm
from rlsuite.returns import generalized_advantage
from rlsuite.rng import derive_seed, generator
from rlsuite.rollout_policies import make_policy
from rlsuite.settings import Finite, Fraction, NonNegative, Positive, PositiveCount, settings
from rlsuite.tree import map_tree, to_device
from rlsuite.types import Metrics, Rollout, State, Tree, Update

METRICS = {
    "loss/actor": "Minus the clipped surrogate objective; mean over minibatches, like all others.",
    "loss/critic": "Half the squared error of the values.",
    "value/mean": "Mean value of the rollout's states before the update.",
    "policy/entropy": "Mean entropy of the policy, in nats.",
    "policy/kl": "Estimate of KL(old policy, new policy), in nats.",
    "policy/clipped": "Share of the samples whose likelihood ratio is beyond the clip.",
}


@settings
class PPOConfig:
    """Settings of PPO. The defaults are those of Stable-Baselines3."""

    hidden: Annotated[tuple[PositiveCount, ...], Field(strict=False)] = (64, 64)
    """Units of each hidden layer, of the policy and of the value."""
    activation: Literal["tanh", "relu"] = "tanh"
    """Between layers."""
    initial_log_std: Finite = 0.0
    """Log standard deviation of Box actions at the start."""
    lr: Positive = 3e-4
    """Learning rate."""
    optimizer: str = "Adam"
    """Class name in torch.optim, or in the package pytorch-optimizer."""
    optimizer_eps: Positive | None = 1e-5
    """Added to the denominator of the optimizer's step; unset keeps the optimizer's own."""
    discount: Fraction = 0.99
    """Discount of future reward, per step."""
    trace: Fraction = 0.95
    """Decay of the advantage's sum (lambda of GAE): 0 is the one-step error, 1 the return."""
    epochs: PositiveCount = 10
    """Passes over a rollout."""
    batch_size: PositiveCount = 64
    """Transitions in a minibatch; the last of an epoch may have less."""
    clip: Positive = 0.2
    """How far a likelihood ratio may be from 1 before more of it brings nothing."""
    clip_value: Positive | None = None
    """How far a value may move from what it was in the rollout; unset does not clip."""
    normalize_advantage: bool = True
    """Whether the advantages of a minibatch are given mean 0 and standard deviation 1."""
    normalize_values: bool = False
    """Whether the value predicts returns scaled by their running mean and deviation."""
    entropy_coef: NonNegative = 0.0
    """Weight of the policy's entropy in the objective."""
    value_coef: NonNegative = 1.0
    """Weight of half the squared value error in the loss; twice the vf_coef of other libraries."""
    max_grad_norm: Positive | None = 0.5
    """Longest gradient, over all weights; unset does not clip."""
    target_kl: Positive | None = None
    """A minibatch whose estimated KL is beyond 1.5 of it, and all later ones of the rollout, change
    nothing; metrics count them. Unset never stops."""


class Samples(NamedTuple):
    """Transitions of a rollout, in any order."""

    obs: Tree
    """(R, ...)."""
    sample: Tensor
    """(R, D) what the policy drew."""
    log_prob: Tensor
    """(R,) of the sample, when it was drawn."""
    value: Tensor
    """(R,) when the sample was drawn, in the network's scale."""
    advantage: Tensor
    """(R,)."""
    target: Tensor
    """(R,) what the value learns, in the network's scale."""


class PPO:
    """Proximal Policy Optimization."""

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        config: PPOConfig | None = None,
        *,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        """Fresh networks. Raises UserError for spaces that it cannot learn in."""
        self.config = config = config or PPOConfig()
        self.device = torch.device(device)
        weights = generator(seed, "ppo weights")
        space = _observation_space(observation_space)
        self.policy = make_policy(
            space,
            action_space,
            config.hidden,
            "PPO",
            activation=config.activation,
            initial_log_std=config.initial_log_std,
            generator=weights,
            device=self.device,
        )
        self.value = OrthogonalNetwork(
            space,
            config.hidden,
            1,
            activation=config.activation,
            gain=1.0,
            generator=weights,
            device=self.device,
        )
        self.value_norm = ValueNorm(self.device) if config.normalize_values else None
        self.optimizer = make_optimizer(
            config.optimizer,
            [*self.policy.parameters(), *self.value.parameters()],
            config.lr,
            eps=config.optimizer_eps,
        )
        self.noise = generator(seed, "ppo noise", device=self.device)
        # The host's own: minibatches are the same on every device.
        self.orders = np.random.Generator(np.random.PCG64(derive_seed(seed, "ppo orders")))

    @torch.no_grad()
    def act(self, obs: Tree, *, explore: bool = True) -> tuple[Tree, dict[str, Tensor]]:
        """(N, ...) actions in the environment's units: sampled or, without ``explore``, the mean
        and the likeliest. While exploring also what ``update`` needs of them: the samples, their
        log probabilities, and the states' values."""
        features, mask = observed(to_device(obs, self.device))
        sample, log_prob = self.policy.sample(features, mask, self.noise, explore=explore)
        action = self.policy.to_action(sample)
        if not explore:
            return action, {}
        return action, {"sample": sample, "log_prob": log_prob, "value": self._values(features)}

    def update(self, rollout: Rollout) -> Update:
        """All epochs over a rollout on the agent's device, made by the policy as it is."""
        samples = self.prepare(rollout)
        rows, config = len(samples.log_prob), self.config
        batches = minibatches(self.orders, rows, config.batch_size, config.epochs, self.device)
        return Update(self.learn(samples, batches) | {"value/mean": rollout.extra["value"].mean()})

    @torch.no_grad()
    def prepare(self, rollout: Rollout) -> Samples:
        """The T N samples of a rollout, with advantages and the value's targets."""
        flat = map_tree(lambda leaf: leaf.flatten(0, 1), rollout.next_obs)
        value = rollout.extra["value"]
        advantage, target = generalized_advantage(
            rollout.reward,
            value,
            self._values(observed(flat)[0]).view_as(value),
            rollout.terminated,
            rollout.truncated,
            discount=self.config.discount,
            trace=self.config.trace,
        )
        if self.value_norm:
            value = self.value_norm.normalize(value)  # what the network gave: before the update
            self.value_norm.update(target.flatten())
            target = self.value_norm.normalize(target)
        return Samples(
            map_tree(lambda leaf: leaf.flatten(0, 1), rollout.obs),
            rollout.extra["sample"].flatten(0, 1),
            rollout.extra["log_prob"].flatten(),
            value.flatten(),
            advantage.flatten(),
            target.flatten(),
        )

    def learn(self, samples: Samples, batches: Iterable[Tensor]) -> Metrics:
        """One step for each minibatch, given by (B,) int64 rows of the samples; mean METRICS."""
        going = torch.ones((), dtype=torch.bool, device=self.device)
        found = []
        for rows in batches:
            loss, metrics = self._loss(take(samples, rows))
            found.append(metrics)
            if self.config.target_kl is None:
                descend(loss, self.optimizer, self.config.max_grad_norm)
                continue
            going = going & (metrics["policy/kl"] <= 1.5 * self.config.target_kl)
            descend(loss, self.optimizer, self.config.max_grad_norm, going=going)
        return means(found)

    def _loss(self, batch: Samples) -> tuple[Tensor, Metrics]:
        config = self.config
        features, mask = observed(batch.obs)
        log_prob, entropy = self.policy.evaluate(features, mask, batch.sample)
        advantage = normalized(batch.advantage) if config.normalize_advantage else batch.advantage
        loss, metrics = clipped_loss(log_prob, batch.log_prob, advantage, config.clip)
        value = self.value(features)[:, 0]
        if config.clip_value is not None:  # no gradient beyond
            step = (value - batch.value).clamp(-config.clip_value, config.clip_value)
            value = batch.value + step
        critic_loss = value_loss(value, batch.target).mean()
        entropy = entropy.mean()
        metrics |= {"loss/critic": critic_loss.detach(), "policy/entropy": entropy.detach()}
        return loss - config.entropy_coef * entropy + config.value_coef * critic_loss, metrics

    def _values(self, features: Tensor) -> Tensor:
        """(B,) in the rewards' scale."""
        value: Tensor = self.value(features)[:, 0]
        return self.value_norm.denormalize(value) if self.value_norm else value

    def state_dict(self) -> State:
        """Networks, optimizer, value statistics and both generators."""
        return {
            "policy": self.policy.state_dict(),
            "value": self.value.state_dict(),
            "optimizer": optimizer_state(self.optimizer),
            "value_norm": self.value_norm.state_dict() if self.value_norm else {},
            "noise": self.noise.get_state(),
            "orders": self.orders.bit_generator.state,
        }

    def load_state_dict(self, state: State) -> None:
        """Continue from a saved state of an agent with the same spaces and config."""
        self.policy.load_state_dict(state["policy"])
        self.value.load_state_dict(state["value"])
        load_optimizer_state(self.optimizer, state["optimizer"])
        if self.value_norm:
            self.value_norm.load_state_dict(state["value_norm"])
        self.noise.set_state(state["noise"])
        self.orders.bit_generator.state = state["orders"]


def clipped_loss(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantage: Tensor,
    clip: float,
    weight: Tensor | float = 1.0,
) -> tuple[Tensor, Metrics]:
    """Minus the clipped surrogate objective (eq. 7), a mean over (B,) samples, and its METRICS.

    ``weight``: (B,) of the samples, with mean 1. The KL is estimated as in
    http://joschu.net/blog/kl-approx.html: ratio - 1 - log ratio.
    """
    log_ratio = log_prob - old_log_prob
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1.0 - clip, 1.0 + clip)
    loss = -(weight * torch.minimum(ratio * advantage, clipped * advantage)).mean()
    with torch.no_grad():
        beyond = ((ratio - 1.0).abs() > clip).to(ratio.dtype)
        metrics = {
            "loss/actor": loss.detach(),
            "policy/kl": (weight * (ratio - 1.0 - log_ratio)).mean(),
            "policy/clipped": (weight * beyond).mean(),
        }
    return loss, metrics


def value_loss(
    value: Tensor,
    target: Tensor,
    *,
    huber_threshold: float | None = None,
) -> Tensor:
    """Half the squared error of each value; beyond ``huber_threshold`` it grows linearly."""
    if huber_threshold is None:
        return 0.5 * (value - target).square()
    return F.huber_loss(value, target, "none", huber_threshold)


def normalized(advantage: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    """(B,) advantages with mean 0 and standard deviation 1, as (B,) weights of mean 1 see them.

    A single one is left as it is.
    """
    if len(advantage) == 1:
        return advantage
    deviation = advantage - (weight * advantage).mean()
    variance = (weight * deviation.square()).sum() / (len(advantage) - 1)
    return deviation / (variance.sqrt() + 1e-8)


def minibatches(
    orders: np.random.Generator, rows: int, size: int, epochs: int, device: torch.device
) -> Iterator[Tensor]:
    """(size,) int64 rows, or less at the end of an epoch; every epoch in a fresh random order."""
    for _ in range(epochs):
        order = torch.from_numpy(orders.permutation(rows))
        yield from torch.split(order.to(device, non_blocking=True), size)


def take(samples: Samples, rows: Tensor) -> Samples:
    """The (B,) rows of samples."""
    return Samples(*(map_tree(lambda leaf: leaf.index_select(0, rows), part) for part in samples))  # type: ignore[arg-type]


def means(found: list[Metrics]) -> Metrics:
    """The mean of each metric."""
    return {name: torch.stack([metrics[name] for metrics in found]).mean() for name in found[0]}


def _observation_space(space: gym.Space[Any]) -> gym.Space[Any]:
    """Without the mask."""
    if not isinstance(space, gym.spaces.Dict):
        return space
    if set(space.keys()) != {"observation", "action_mask"}:
        raise UserError(
            "PPO needs Box observations, or a Dict of observation and action_mask, the environment "
            f"has {space}"
        )
    return space["observation"]


def observed(obs: Tree) -> tuple[Tensor, Tensor | None]:
    """(B, ...) what the networks see, and (B, n) which actions are available."""
    if isinstance(obs, Tensor):
        return obs, None
    return obs["observation"], obs["action_mask"]  # type: ignore[return-value]
