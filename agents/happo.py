"""Heterogeneous-Agent Proximal Policy Optimisation (Kuba et al., ICLR 2022, arXiv 2109.11251).

Trained by ``rlsuite.loops.rollout_loop`` on cooperative environments with spaces keyed by agent
(``rlsuite.envs.team``). Every agent has a policy of its own; one central value sees the state. The
agents are updated one after the other, in random order: the advantage that an agent climbs is
weighted by the likelihood ratios of all those before it. With one agent it is PPO.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from rlsuite.agents.ppo import clipped_loss, means, minibatches, normalized, value_loss
from rlsuite.nets import OrthogonalNetwork
from rlsuite.optim import descend, load_optimizer_state, make_optimizer, optimizer_state
from rlsuite.parts import ValueNorm
from rlsuite.returns import generalized_advantage
from rlsuite.rng import derive_seed, generator
from rlsuite.rollout_policies import Policy, make_policy
from rlsuite.settings import Finite, Fraction, NonNegative, Positive, PositiveCount, settings
from rlsuite.teams import (
    agent_spaces,
    alive_of,
    mask_of,
    of_living,
    own,
    state_size,
    view_weights,
    views_of,
)
from rlsuite.tree import map_tree, to_device
from rlsuite.types import Metrics, Rollout, State, Tree, Update

METRICS = {
    "loss/actor": "Minus the clipped surrogate objective; mean over minibatches and agents.",
    "loss/critic": "Huber loss of the central value; mean over minibatches.",
    "value/mean": "Mean value of the rollout's states before the update.",
    "policy/entropy": "Mean entropy of a policy, in nats; mean of the same.",
    "policy/kl": "Estimate of KL(old policy, new policy), in nats; mean of the same.",
    "policy/clipped": "Share of the samples whose likelihood ratio is beyond the clip.",
    "policy/factor": "Mean product of all agents' likelihood ratios after the update.",
}


@settings
class HAPPOConfig:
    """Settings of HAPPO, and of MAPPO. The defaults are those of HARL for particle environments."""

    hidden: Annotated[tuple[PositiveCount, ...], Field(strict=False)] = (128, 128)
    """Units of each hidden layer, of every policy and of the value."""
    activation: Literal["tanh", "relu"] = "relu"
    """Between layers."""
    initial_log_std: Finite = 0.0
    """Log standard deviation of Box actions at the start."""
    lr_actor: Positive = 5e-4
    """Learning rate of the policies."""
    lr_critic: Positive = 5e-4
    """Learning rate of the value."""
    optimizer: str = "Adam"
    """Class name in torch.optim, or in the package pytorch-optimizer."""
    optimizer_eps: Positive | None = 1e-5
    """Added to the denominator of the optimizer's step; unset keeps the optimizer's own."""
    discount: Fraction = 0.99
    """Discount of future reward, per step."""
    trace: Fraction = 0.95
    """Decay of the advantage's sum (lambda of GAE): 0 is the one-step error, 1 the return."""
    epochs: PositiveCount = 5
    """Passes over a rollout, of every policy and of the value."""
    minibatches: PositiveCount = 1
    """Into which a pass is divided."""
    clip: Positive = 0.2
    """How far a likelihood ratio may be from 1 before more of it brings nothing."""
    huber_threshold: Positive = 10.0
    """Error of the value, in its own scale, up to which the loss is a square."""
    normalize_values: bool = True
    """Whether the value predicts returns scaled by their running mean and deviation."""
    entropy_coef: NonNegative = 0.01
    """Weight of a policy's entropy in its objective."""
    max_grad_norm: Positive | None = 10.0
    """Longest gradient of a policy, and of the value; unset does not clip."""


class HAPPO:
    """Heterogeneous-Agent Proximal Policy Optimisation.

    Observations are ``{"agents": {name: (N, ...)}, "state": ...}``, and where the environment has
    them ``"mask"`` and ``"alive"`` (see ``rlsuite.envs.team``); actions ``{name: (N, ...)}``.
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        config: HAPPOConfig | None = None,
        *,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        """Fresh networks. Raises UserError unless the spaces are keyed by agent."""
        self.config = config = config or HAPPOConfig()
        self.device = torch.device(device)
        spaces = agent_spaces(observation_space, action_space, "HAPPO")
        self.names = list(spaces)
        weights = generator(seed, "happo weights")
        self.policies: dict[str, Policy] = {
            name: make_policy(
                *pair,
                config.hidden,
                "HAPPO",
                activation=config.activation,
                initial_log_std=config.initial_log_std,
                generator=weights,
                device=self.device,
            )
            for name, pair in spaces.items()
        }
        self.optimizers = {
            name: make_optimizer(
                config.optimizer, policy.parameters(), config.lr_actor, eps=config.optimizer_eps
            )
            for name, policy in self.policies.items()
        }
        self.critic = CentralValue(observation_space, self.names, config, weights, self.device)
        self.noise = generator(seed, "happo noise", device=self.device)
        # The host's own, for the order of agents decides what it does next.
        self.orders = np.random.Generator(np.random.PCG64(derive_seed(seed, "happo orders")))

    @torch.no_grad()
    def act(self, obs: Tree, *, explore: bool = True) -> tuple[Tree, dict[str, Tensor]]:
        """(N, ...) actions of every agent in the environment's units: sampled or, without
        ``explore``, the means and the likeliest. While exploring also what ``update`` needs of
        them: samples, (N, A) log probabilities, and (N, views) values."""
        obs = to_device(obs, self.device)
        samples, log_probs = {}, []
        actions: dict[str, Tree] = {}
        for name, policy in self.policies.items():
            sample, log_prob = policy.sample(
                own(obs, name), mask_of(obs, name), self.noise, explore=explore
            )
            actions[name] = policy.to_action(sample)
            samples[f"sample_{name}"] = sample
            log_probs.append(log_prob)
        if not explore:
            return actions, {}
        extra = {"log_prob": torch.stack(log_probs, 1), "value": self.critic.values(obs)}
        return actions, extra | samples

    def update(self, rollout: Rollout) -> Update:
        """All epochs over a rollout on the agent's device, made by the policies as they are:
        policies in random order, then the value."""
        return Update(self.learn(rollout, self.orders.permutation(len(self.names)).tolist()))

    def learn(self, rollout: Rollout, order: Sequence[int]) -> Metrics:
        """One update with the agents' turns in the given order (algorithm 4); METRICS."""
        advantage, target = self.critic.advantages(rollout)
        obs, extra = flat(rollout.obs), {k: v.flatten(0, 1) for k, v in rollout.extra.items()}
        alive = alive_of(obs, self.names, len(target), self.device)
        factor = torch.ones_like(alive[:, 0])
        found = []
        for i in order:
            name = self.names[i]
            rows = Rows(
                own(obs, name),
                mask_of(obs, name),
                extra[f"sample_{name}"],
                extra["log_prob"][:, i],
                # The factor is positive: it may as well stand inside of the least of the two.
                factor * standardized(advantage[:, i % advantage.shape[1]], alive[:, i]),
                alive[:, i],
                "alive" in obs,
            )
            found.append(self._turn(name, rows))
            with torch.no_grad():
                new, _ = self.policies[name].evaluate(rows.obs, rows.mask, rows.sample)
                ratio = (new - rows.log_prob).exp()
                # What a dead agent would have done changes nothing.
                factor = factor * torch.where(rows.alive > 0, ratio, 1.0)
        critic = self.critic.learn(obs, target, alive, self._batches(len(target)))
        value = rollout.extra["value"].mean()
        return means(found) | critic | {"value/mean": value, "policy/factor": factor.mean()}

    def _turn(self, name: str, rows: Rows) -> Metrics:
        """All epochs of one agent's policy."""
        return improve(
            self.policies[name],
            self.optimizers[name],
            rows,
            self._batches(len(rows.alive)),
            self.config,
        )

    def _batches(self, rows: int) -> Iterable[Tensor]:
        size = -(-rows // self.config.minibatches)
        return minibatches(self.orders, rows, size, self.config.epochs, self.device)

    def state_dict(self) -> State:
        """Networks, optimizers, value statistics and both generators."""
        return {
            "policies": {name: policy.state_dict() for name, policy in self.policies.items()},
            "optimizers": {name: optimizer_state(part) for name, part in self.optimizers.items()},
            "critic": self.critic.state_dict(),
            "noise": self.noise.get_state(),
            "orders": self.orders.bit_generator.state,
        }

    def load_state_dict(self, state: State) -> None:
        """Continue from a saved state of an agent with the same spaces and config."""
        for name in self.names:
            self.policies[name].load_state_dict(state["policies"][name])
            load_optimizer_state(self.optimizers[name], state["optimizers"][name])
        self.critic.load_state_dict(state["critic"])
        self.noise.set_state(state["noise"])
        self.orders.bit_generator.state = state["orders"]


class Rows(NamedTuple):
    """What one policy learns from, in any order."""

    obs: Tensor
    """(R, ...)."""
    mask: Tensor | None
    """(R, n) 1 where an action is available; None where all are."""
    sample: Tensor
    """(R, D) what the policy drew."""
    log_prob: Tensor
    """(R,) of the sample, when it was drawn."""
    advantage: Tensor
    """(R,)."""
    alive: Tensor
    """(R,) float32: rows at 0 teach nothing."""
    can_die: bool
    """Whether there may be such rows."""

    def take(self, index: Tensor) -> Rows:
        """The (B,) int64 rows."""
        tensors: dict[str, Any] = {
            name: value.index_select(0, index)
            for name, value in self._asdict().items()
            if isinstance(value, Tensor)
        }
        return self._replace(**tensors)


def improve(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    rows: Rows,
    batches: Iterable[Tensor],
    config: HAPPOConfig,
) -> Metrics:
    """One step of a policy for each minibatch, given by (B,) int64 rows; mean METRICS."""
    found = []
    for index in batches:
        batch = rows.take(index)
        weight = weights_of(batch.alive)
        log_prob, entropy = policy.evaluate(batch.obs, batch.mask, batch.sample)
        loss, metrics = clipped_loss(log_prob, batch.log_prob, batch.advantage, config.clip, weight)
        entropy = (weight * entropy).mean()
        # Without a living row nothing moves, not by the optimizer's momentum.
        going = batch.alive.any() if rows.can_die else None
        loss = loss - config.entropy_coef * entropy
        descend(loss, optimizer, config.max_grad_norm, going=going)
        found.append(metrics | {"policy/entropy": entropy.detach()})
    return means(found)


class CentralValue:
    """V of a team's state, with its optimizer and statistics.

    (B, V) values: one, or, where every agent has its own view of the state, one of each view.
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        names: list[str],
        config: HAPPOConfig,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        self.names, self.config, self.device = names, config, device
        size = state_size(observation_space, "the central value")
        self.net = OrthogonalNetwork(
            gym.spaces.Box(-np.inf, np.inf, (size,)),
            config.hidden,
            1,
            activation=config.activation,
            gain=1.0,
            generator=generator,
            device=device,
        )
        self.optimizer = make_optimizer(
            config.optimizer, self.net.parameters(), config.lr_critic, eps=config.optimizer_eps
        )
        self.norm = ValueNorm(device) if config.normalize_values else None

    def values(self, obs: Tree) -> Tensor:
        """(B, V) in the rewards' scale; of a dead agent's view the mean of the living's."""
        value = self._predict(views_of(obs, self.names).transpose(0, 1))
        value = self.norm.denormalize(value) if self.norm else value
        return of_living(value.T, obs).T

    @torch.no_grad()
    def advantages(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """(R, V) advantages of the R = T N steps, and what ``learn`` takes for targets."""
        value = rollout.extra["value"]
        advantage, target = generalized_advantage(
            rollout.reward,
            value,
            self.values(flat(rollout.next_obs)).view_as(value),
            rollout.terminated,
            rollout.truncated,
            discount=self.config.discount,
            trace=self.config.trace,
        )
        if self.norm:
            obs = flat(rollout.obs)
            weight = view_weights(views_of(obs, self.names), obs, self.names).T
            self.norm.update(target.flatten(), weight.flatten())
            target = self.norm.normalize(target)
        return advantage.flatten(0, 1), target.flatten(0, 1)

    def learn(self, obs: Tree, target: Tensor, alive: Tensor, batches: Iterable[Tensor]) -> Metrics:
        """One step for each minibatch of the (R, ...) observations; the mean loss."""
        views, found = views_of(obs, self.names).transpose(0, 1), []
        for index in batches:
            value = self._predict(views.index_select(0, index))
            goal = target.index_select(0, index)
            loss = value_loss(value, goal, huber_threshold=self.config.huber_threshold)
            if loss.shape[1] > 1:  # the dead have no view
                loss = weights_of(alive.index_select(0, index)) * loss
            descend(loss.mean(), self.optimizer, self.config.max_grad_norm)
            found.append({"loss/critic": loss.detach().mean()})
        return means(found)

    def _predict(self, views: Tensor) -> Tensor:
        value: Tensor = self.net(views.flatten(0, 1))
        return value.view(views.shape[:2])

    def state_dict(self) -> State:
        """Network, optimizer, statistics."""
        return {
            "net": self.net.state_dict(),
            "optimizer": optimizer_state(self.optimizer),
            "norm": self.norm.state_dict() if self.norm else {},
        }

    def load_state_dict(self, state: State) -> None:
        """Continue from a saved state."""
        self.net.load_state_dict(state["net"])
        load_optimizer_state(self.optimizer, state["optimizer"])
        if self.norm:
            self.norm.load_state_dict(state["norm"])


def standardized(advantage: Tensor, alive: Tensor) -> Tensor:
    """(R,) advantages with mean 0 and standard deviation 1 over the rows where ``alive`` is 1."""
    return normalized(advantage, weights_of(alive))


def weights_of(alive: Tensor) -> Tensor:
    """Weights of mean 1, 0 for the dead; all 0 if nobody is alive."""
    return alive / alive.mean().clamp(min=1e-8)


def flat(tree: Tree) -> Tree:
    """(T, N, ...) leaves as (T N, ...)."""
    return map_tree(lambda leaf: leaf.flatten(0, 1), tree)
