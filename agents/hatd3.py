"""Deterministic policies of several agents with joint critics: HATD3, HADDPG, MATD3, MADDPG.

Trained by ``rlsuite.loops.replay_loop`` on cooperative environments whose spaces are keyed by agent
(``rlsuite.envs.team``), with Box actions. Every agent has a policy and a target policy of its own;
the critics see the state and all actions. The settings make the algorithm:

=======  ========  ============  =============  ==================================================
         critics   target_noise  policy_period  order
=======  ========  ============  =============  ==================================================
HATD3    2         0.2           2              random (Zhong et al., JMLR 2024, arXiv 2304.09870)
HADDPG   1         0             1              random (the same)
MATD3    2         0.2           2              simultaneous (Ackermann et al., arXiv 1910.01465)
MADDPG   1         0             1              simultaneous (Lowe et al., arXiv 1706.02275)
=======  ========  ============  =============  ==================================================

With one agent the first two are TD3 (Fujimoto et al., arXiv 1802.09477) and DDPG, and so are the
others. The team has one reward, hence one set of critics where MADDPG has one for each agent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import gymnasium as gym
import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from rlsuite.errors import UserError
from rlsuite.joint_critic import JointCritic
from rlsuite.nets import Network
from rlsuite.optim import descend, load_optimizer_state, make_optimizer, optimizer_state
from rlsuite.parts import move_target
from rlsuite.policies import action_bounds
from rlsuite.rng import derive_seed, generator
from rlsuite.settings import Fraction, NonNegative, Positive, PositiveCount, settings
from rlsuite.teams import (
    agent_spaces,
    alive_of,
    climbed,
    lived,
    of_living,
    own,
    state_size,
    view_weights,
    views_of,
)
from rlsuite.tree import flatten_features, to_device
from rlsuite.types import Batch, State, Tree, Update

METRICS = {
    "loss/critic": "Squared temporal-difference error, summed over the critics.",
    "loss/actor": "-Q, the loss of a policy; mean over agents.",
    "value/q": "Mean of the critics' values of the batch.",
}


@settings
class HATD3Config:
    """Settings of HATD3; the defaults are those of its authors on MuJoCo."""

    hidden: Annotated[tuple[PositiveCount, ...], Field(strict=False, min_length=1)] = (256, 256)
    """Units of each hidden layer, of every actor and of each critic."""
    critics: PositiveCount = 2
    """Number of critics; targets take the least of their values, policies climb the first's."""
    lr_actor: Positive = 5e-4
    """Learning rate of the policies."""
    lr_critic: Positive = 1e-3
    """Learning rate of the critics."""
    optimizer: str = "Adam"
    """Class name in torch.optim, or in the package pytorch-optimizer."""
    exploration_noise: NonNegative = 0.1
    """Standard deviation of what is added to actions while exploring, in half-ranges of the Box."""
    target_noise: NonNegative = 0.2
    """Standard deviation of what is added to the target policies' actions, in half-ranges."""
    target_noise_limit: NonNegative = 0.5
    """Where that noise is clipped, in half-ranges."""
    policy_period: PositiveCount = 2
    """Critic updates for each update of policies and targets."""
    order: Literal["random", "fixed", "simultaneous"] = "random"
    """Of the agents in an update: drawn anew, as the environment names them, or all at once, each
    against the others' actions in the replay (MADDPG, MATD3)."""
    actor_views: Literal["all", "own"] = "all"
    """Where every agent has a view of the state: which of the views' values a policy climbs."""
    target_rate: Fraction = 0.005
    """Share of critics and policies that flows into their targets at each update of them (tau)."""
    max_grad_norm: Positive | None = None
    """Longest gradient of an actor or of the critics; longer ones are scaled down."""


class DeterministicActor(nn.Module):
    """A perceptron with a tanh at its end, for actions of a bounded Box scaled to [-1, 1]."""

    def __init__(
        self,
        name: str,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        hidden: Sequence[int],
        *,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        """Raises UserError, which names the agent, unless actions are a bounded Box."""
        super().__init__()
        if not isinstance(action_space, gym.spaces.Box):
            raise UserError(
                f"HATD3 and its kin need Box actions, but those of {name} are {action_space}: take "
                'algorithm = "hasac", which has policies for them'
            )
        low, high = action_bounds(action_space, "HATD3")
        self.shape, self.size = low.shape, low.size
        self.low = torch.as_tensor(low, device=device).flatten()
        self.high = torch.as_tensor(high, device=device).flatten()
        self.center, self.half_range = (self.high + self.low) / 2, (self.high - self.low) / 2
        self.net = Network(observation_space, hidden, self.size, generator=generator, device=device)

    def forward(self, obs: Tensor) -> Tensor:
        """(B, *obs) to (B, size) actions in [-1, 1]."""
        return torch.tanh(self.net(obs))

    def encode(self, action: Tree) -> Tensor:
        """(B, *action shape) of the Box to (B, size) in [-1, 1]."""
        return (flatten_features(action) - self.center) / self.half_range

    def decode(self, unit: Tensor) -> Tensor:
        """(B, size) in [-1, 1] to (B, *action shape) of the Box."""
        action = torch.clamp(self.center + self.half_range * unit, self.low, self.high)
        return action.view(-1, *self.shape)


class HATD3:
    """Deterministic policies of several agents, joint critics.

    Observations are ``{"agents": {name: (N, ...)}, "state": ...}``, and where agents can die
    ``"alive"`` (see ``rlsuite.envs.team``); actions ``{name: (N, ...)}``.
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        config: HATD3Config | None = None,
        *,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        """Fresh networks. Raises UserError unless the spaces are keyed by agent, observations are
        Boxes and actions bounded ones."""
        self.config = config = config or HATD3Config()
        self.device = torch.device(device)
        spaces = agent_spaces(observation_space, action_space, "HATD3")
        self.names = list(spaces)
        new: dict[str, Any] = {"generator": generator(seed, "hatd3 weights"), "device": self.device}
        self.actors, self.target_actors = (
            {
                name: DeterministicActor(name, *pair, config.hidden, **new)
                for name, pair in spaces.items()
            }
            for _ in range(2)
        )
        size = state_size(observation_space, "HATD3")
        sizes = [actor.size for actor in self.actors.values()]
        self.critic, self.target = (
            JointCritic(config.critics, size, sizes, config.hidden, **new) for _ in range(2)
        )
        for net in (self.target, *self.target_actors.values()):
            net.requires_grad_(False)
        self._move_targets(1.0)

        self.actor_optimizers = {
            name: make_optimizer(config.optimizer, actor.parameters(), config.lr_actor)
            for name, actor in self.actors.items()
        }
        self.critic_optimizer = make_optimizer(
            config.optimizer, self.critic.parameters(), config.lr_critic
        )
        self.noise = generator(seed, "hatd3 noise", device=self.device)
        # The host's own, for the order decides what it does next.
        self.orders = np.random.Generator(np.random.PCG64(derive_seed(seed, "hatd3 orders")))
        self.updates = 0

    @torch.no_grad()
    def act(self, obs: Tree, *, explore: bool = True) -> tuple[Tree, dict[str, Tensor]]:
        """(N, ...) actions of every agent in the environment's units, to ``explore`` with normal
        noise, clipped to the Box; nothing to store beside them."""
        obs = to_device(obs, self.device)
        actions: dict[str, Tree] = {}
        for name, actor in self.actors.items():
            unit = actor(own(obs, name))
            if explore:
                unit = unit + self.config.exploration_noise * self._draw(unit)
            actions[name] = actor.decode(unit)
        return actions, {}

    def update(self, batch: Batch) -> Update:
        """One update from a batch on the agent's device: critics; every ``policy_period``-th time
        also every policy, then targets."""
        self.updates += 1
        if self.updates % self.config.policy_period:
            return self.learn(batch, [])
        order = list(range(len(self.names)))
        if self.config.order == "random":
            order = self.orders.permutation(len(order)).tolist()
        return self.learn(batch, order)

    def learn(self, batch: Batch, order: Sequence[int]) -> Update:
        """One update with the agents' turns in the given order; if it is empty, of critics alone.

        Returns METRICS (the actors' only if they moved) and, as priority, the mean of the critics'
        absolute errors, the greatest of the views of the state.
        """
        metrics, error = self._improve_critics(batch)
        if order:
            metrics["loss/actor"] = self._improve_actors(batch, order)
            self._move_targets(self.config.target_rate)
        return Update(metrics, priority=error.abs().mean(0).amax(0))

    def _improve_critics(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Metrics, and the (K, views, B) errors."""
        assert isinstance(batch.reward, Tensor) and isinstance(batch.action, dict)
        with torch.no_grad():  # TD3, eq. 14
            actions = [self._smoothed(batch.next_obs, name) for name in self.names]
            next_value = self.target.of_views(views_of(batch.next_obs, self.names), actions).amin(0)
            next_value = of_living(next_value, batch.next_obs)
            target = batch.reward + batch.discount * next_value
        taken = [actor.encode(batch.action[name]) for name, actor in self.actors.items()]
        views = views_of(batch.obs, self.names)
        value = self.critic.of_views(views, taken)
        error = value - target
        weight = view_weights(views, batch.obs, self.names)
        loss = (batch.weight * weight * error.square()).mean((1, 2)).sum()
        descend(loss, self.critic_optimizer, self.config.max_grad_norm)
        metrics = {"loss/critic": loss.detach(), "value/q": (value.detach() * weight).mean()}
        # What is not learned from has no error that could shrink.
        return metrics, error.detach() * (weight > 0)

    def _smoothed(self, next_obs: Tree, name: str) -> Tensor:
        """(B, size) actions of an agent's target policy, with clipped noise."""
        unit: Tensor = self.target_actors[name](own(next_obs, name))
        if not self.config.target_noise:
            return unit
        limit = self.config.target_noise_limit
        noise = (self.config.target_noise * self._draw(unit)).clamp(-limit, limit)
        return (unit + noise).clamp(-1.0, 1.0)

    def _improve_actors(self, batch: Batch, order: Sequence[int]) -> Tensor:
        """Every agent's turn; the mean of the losses."""
        assert isinstance(batch.action, dict)
        views = views_of(batch.obs, self.names)
        alive = alive_of(batch.obs, self.names, len(batch.discount), self.device)
        living, seen = lived(batch.obs), self.config.actor_views
        # Until its turn an agent's policy stays as it is: one pass serves successors and turn.
        actions = [self.actors[name](own(batch.obs, name)) for name in self.names]
        first = self.critic.state_part(views.flatten(0, 1))[:1]
        if self.config.order == "simultaneous":
            others = [self.actors[name].encode(batch.action[name]) for name in self.names]
        else:
            others = [action.detach() for action in actions]
        losses = []
        for i in order:
            here = actions[i].detach()
            value, slope = self.critic.least(i, self.critic.first(first, others, i, here))
            value = climbed(value.view(len(views), -1), i, seen, batch.obs)
            slope = climbed(slope.view(len(views), *here.shape), i, seen, batch.obs)
            # To first order in the action, which is zero here: the value, with its gradient.
            value = value + ((actions[i] - here) * slope).sum(1)
            weight = alive[:, i] / alive[:, i].mean().clamp(min=1e-8)
            loss = -(weight * value).mean()
            name = self.names[i]
            # Of an agent that is dead everywhere nothing moves, not by the optimizer's momentum.
            going = None if living is None else living[i]
            descend(loss, self.actor_optimizers[name], self.config.max_grad_norm, going=going)
            losses.append(loss.detach())
            if self.config.order != "simultaneous" and i != order[-1]:
                with torch.no_grad():  # successors see the new policy
                    others[i] = self.actors[name](own(batch.obs, name))
        return torch.stack(losses).mean()

    def _draw(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.noise, device=self.device)

    def _move_targets(self, rate: float) -> None:
        move_target(self.target.parameters(), self.critic.parameters(), rate)
        for name, actor in self.actors.items():
            move_target(self.target_actors[name].parameters(), actor.parameters(), rate)

    def state_dict(self) -> State:
        """Networks, optimizers, both generators and the count of updates."""
        return {
            "actors": {name: actor.state_dict() for name, actor in self.actors.items()},
            "target_actors": {
                name: actor.state_dict() for name, actor in self.target_actors.items()
            },
            "critic": self.critic.state_dict(),
            "target": self.target.state_dict(),
            "actor_optimizers": {
                name: optimizer_state(part) for name, part in self.actor_optimizers.items()
            },
            "critic_optimizer": optimizer_state(self.critic_optimizer),
            "noise": self.noise.get_state(),
            "orders": self.orders.bit_generator.state,
            "updates": self.updates,
        }

    def load_state_dict(self, state: State) -> None:
        """Continue from a saved state of an agent with the same spaces and config."""
        for name in self.names:
            self.actors[name].load_state_dict(state["actors"][name])
            self.target_actors[name].load_state_dict(state["target_actors"][name])
            load_optimizer_state(self.actor_optimizers[name], state["actor_optimizers"][name])
        self.critic.load_state_dict(state["critic"])
        self.target.load_state_dict(state["target"])
        load_optimizer_state(self.critic_optimizer, state["critic_optimizer"])
        self.noise.set_state(state["noise"])
        self.orders.bit_generator.state = state["orders"]
        self.updates = state["updates"]
