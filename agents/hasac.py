"""Heterogeneous-Agent Soft Actor-Critic (Liu et al., ICLR 2024, arXiv 2306.10715).

Trained by ``rlsuite.loops.replay_loop`` on cooperative environments whose spaces are keyed by agent
(``rlsuite.envs.team``). Every agent has a policy and a temperature of its own; the critics see the
state and all actions. What sets it apart from one SAC per agent:

- the critics' targets lose the entropy term of the joint action, the sum over agents;
- agents are updated one after the other, each against the new actions of those before it;
- in an agent's turn its own action alone carries a gradient.

Where no gradient is needed, the policies of agents that are alike are computed at once, with
weights of their own; a turn is one agent's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, Literal, TypeAlias

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from rlsuite.actors import Actor, CategoricalActor, make_actors
from rlsuite.joint_critic import JointCritic
from rlsuite.optim import descend, load_optimizer_state, make_optimizer, optimizer_state
from rlsuite.parts import (
    AnnealedTemperature,
    FixedTemperature,
    LearnedTemperatures,
    ValueNorm,
    move_target,
)
from rlsuite.rng import derive_seed, generator
from rlsuite.settings import Fraction, NonNegative, Positive, PositiveCount, settings
from rlsuite.teams import (
    agent_spaces,
    alive_of,
    by_agent,
    climbed,
    lived,
    mask_of,
    of_living,
    own,
    state_size,
    view_weights,
    views_of,
)
from rlsuite.tree import to_device
from rlsuite.types import Alarm, Batch, Metrics, State, Tree, Update

METRICS = {
    "loss/critic": "Loss of the temporal-difference errors, summed over the critics.",
    "loss/actor": "temperature * log pi - Q, the loss of a policy; mean over agents.",
    "loss/temperature": "The loss of a log temperature; mean over agents.",
    "value/q": "Mean of the critics' values of the batch.",
    "value/q_std": "Standard deviation of those values.",
    "policy/entropy": "Entropy of a policy in nats; mean over agents.",
    "policy/entropy_min": "The least of the agents' entropies.",
    "policy/entropy_max": "The greatest of the agents' entropies.",
    "policy/temperature": "Weight of the entropy against the reward; mean over agents.",
    "policy/temperature_min": "The least of the agents' temperatures.",
    "policy/temperature_max": "The greatest of the agents' temperatures; if it keeps rising, one "
    "agent cannot hold its entropy: lower its agent.entropy_share.",
}
ALARMS = {
    "policy/temperature_max": Alarm(
        math.inf, "an agent cannot hold its entropy, lower its agent.entropy_share", rises=20
    )
}
"""Of learned temperatures."""
FirstLayer: TypeAlias = Callable[[Tensor], Tensor]
MOST_EXACT_ACTIONS = 32
"""With more actions than this the sum over an agent's actions costs more than it brings."""


@settings
class HASACConfig:
    """Settings of HASAC."""

    hidden: Annotated[tuple[PositiveCount, ...], Field(strict=False, min_length=1)] = (256, 256)
    """Units of each hidden layer, of every actor and of each critic."""
    critics: PositiveCount = 2
    """Number of critics; targets and policies take the least of their values."""
    lr_actor: Positive = 5e-4
    """Learning rate of the policies."""
    lr_critic: Positive = 5e-4
    """Learning rate of the critics."""
    lr_temperature: Positive = 3e-4
    """Learning rate of the log temperatures."""
    optimizer: str = "Adam"
    """Class name in torch.optim, or in the package pytorch-optimizer."""
    temperature: Literal["auto", "annealed"] | Positive = "auto"
    """Weight of the entropy against the reward: "auto" learns one for each agent, "annealed" lets
    them shrink, a number fixes them."""
    initial_temperature: Positive = 0.1
    """Where a learned or annealed temperature starts."""
    temperature_decay: Fraction = 0.9997
    """Factor of an annealed temperature at each update."""
    least_temperature: NonNegative = 0.0
    """Where an annealed temperature stops."""
    entropy_share: Fraction | dict[str, Fraction] = 0.3
    """Entropy that a learned temperature holds for Discrete and MultiDiscrete actions, as a share
    of the uniform policy's over what is available; by agent or for all. Near 0 for agents whose
    best policy is deterministic, such as those that only send messages. For a Box the entropy held
    is minus the number of dimensions."""
    order: Literal["random", "fixed", "simultaneous"] = "random"
    """Of the agents in an update: drawn anew, as the environment names them, or all at once, each
    against the old actions of the others (multi-agent SAC)."""
    gradient: Literal["exact", "gumbel"] = "exact"
    """Of a Discrete policy: the sum over its actions (up to 32), or a Gumbel-softmax sample.
    MultiDiscrete policies always sample."""
    critic_loss: Literal["square", "huber"] = "square"
    """Of a temporal-difference error."""
    huber_threshold: Positive = 10.0
    """Error up to which the Huber loss is a square."""
    normalize_values: bool = False
    """Whether critics predict values divided by their running standard deviation."""
    actor_views: Literal["all", "own"] = "all"
    """Where every agent has a view of the state: which of the views' values a policy climbs."""
    target_rate: Fraction = 0.005
    """Share of the critics that flows into their targets at each update (tau)."""
    max_grad_norm: Positive | None = None
    """Longest gradient of an actor or of the critics; longer ones are scaled down."""


class Mirror:
    """What an instance of the MEHAML template (section 3) adds to an agent's turn: a drift, which
    holds the new policy near the old, and a neighbourhood, which it may not leave. This one is
    HASAC: no drift, every policy. Others are in ``rlsuite.agents.mehaml``.

    The template's third part, the distribution of states, is the sampler of the replay.
    """

    inner_steps: int = 1
    """Gradient steps in a turn. By its conditions a drift has no gradient at the old policy, where
    the first step is taken: it needs two or more."""

    def drift(
        self, actor: Actor, output: Tensor, old: Tensor, mask: Tensor | None
    ) -> Tensor | float:
        """(B,) what is added to the loss, differentiable by the (B, outputs) ``output`` and by the
        policy through that alone; ``old`` is the output before the turn."""
        return 0.0

    def neighbourhood(
        self, actor: Actor, obs: Tensor, old: Tensor, mask: Tensor | None, weight: Tensor
    ) -> Callable[[], None]:
        """Called before a turn; what it returns is called after every step and takes the actor back
        into the neighbourhood of the old policy. ``weight`` is (B,), 0 where the agent is
        dead."""
        return lambda: None


class HASAC:
    """Heterogeneous-Agent Soft Actor-Critic.

    Observations are ``{"agents": {name: (N, ...)}, "state": ...}``, and where the environment has
    them ``"mask"`` and ``"alive"`` (see ``rlsuite.envs.team``); actions ``{name: (N, ...)}``.
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        config: HASACConfig | None = None,
        *,
        mirror: Mirror | None = None,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        """Fresh networks; another ``mirror`` is another instance of the template. Raises UserError
        unless the spaces are keyed by agent and the state's views of one size, or if
        ``entropy_share`` names other agents than there are."""
        self.config = config = config or HASACConfig()
        self.mirror = mirror or Mirror()
        self.device = torch.device(device)
        spaces = agent_spaces(observation_space, action_space, "HASAC")
        self.names = list(spaces)
        weights = generator(seed, "hasac weights")
        self.actors, self.stacks = make_actors(
            observation_space,
            spaces,
            config.hidden,
            "HASAC",
            generator=weights,
            device=self.device,
        )
        sizes = [actor.size for actor in self.actors.values()]
        self.critic, self.target = (
            JointCritic(
                config.critics,
                state_size(observation_space, "HASAC"),
                sizes,
                config.hidden,
                generator=weights,
                device=self.device,
            )
            for _ in range(2)
        )
        self.target.requires_grad_(False)
        move_target(self.target.parameters(), self.critic.parameters(), 1.0)

        self.actor_optimizers = {
            name: make_optimizer(config.optimizer, actor.parameters(), config.lr_actor)
            for name, actor in self.actors.items()
        }
        self.critic_optimizer = make_optimizer(
            config.optimizer, self.critic.parameters(), config.lr_critic
        )
        self.temperature = self._make_temperature()
        self.alarms = {} if config.temperature != "auto" else ALARMS
        self.shares = by_agent(config.entropy_share, self.names, "entropy_share")
        self.value_norm = ValueNorm(self.device) if config.normalize_values else None
        self.noise = generator(seed, "hasac noise", device=self.device)
        # The host's own, for the order decides what it does next.
        self.orders = np.random.Generator(np.random.PCG64(derive_seed(seed, "hasac orders")))

    def _make_temperature(self) -> FixedTemperature | LearnedTemperatures | AnnealedTemperature:
        config = self.config
        if config.temperature == "auto":
            return LearnedTemperatures(
                len(self.names),
                config.initial_temperature,
                config.optimizer,
                config.lr_temperature,
                self.device,
                bounds=(-10.0, 5.0),
            )
        if config.temperature == "annealed":
            return AnnealedTemperature(
                config.initial_temperature,
                config.temperature_decay,
                config.least_temperature,
                self.device,
            )
        return FixedTemperature(config.temperature, self.device)

    @torch.no_grad()
    def act(self, obs: Tree, *, explore: bool = True) -> tuple[Tree, dict[str, Tensor]]:
        """(N, ...) actions of every agent in the environment's units, sampled or, without
        ``explore``, the squashed means and the likeliest; nothing to store beside them."""
        obs = to_device(obs, self.device)
        found: dict[str, Tensor] = {}
        for stack in self.stacks:
            actions = stack.stacked.act(*stack(obs), self.noise, explore=explore)
            found |= zip(stack.names, actions, strict=True)
        return {name: found[name] for name in self.names}, {}

    def update(self, batch: Batch) -> Update:
        """One update from a batch on the agent's device: critics, then every policy with its
        temperature, then targets."""
        numbers = range(len(self.names))
        order = list(numbers)
        if self.config.order == "random":
            order = self.orders.permutation(len(order)).tolist()
        return self.learn(batch, order)

    def learn(self, batch: Batch, order: Sequence[int]) -> Update:
        """One update with the agents' turns in the given order.

        Returns METRICS and, as priority, the mean of the critics' absolute errors, the greatest of
        the views of the state.
        """
        temperature = self.temperature.value().expand(len(self.names))
        metrics, error = self._improve_critics(batch, temperature)
        turns = self._improve_actors(batch, temperature, order)
        loss, log_prob, found = torch.stack(turns, 1)
        excess = torch.zeros_like(temperature)
        for i, value in zip(order, found, strict=True):
            excess[i] = value
        temperature_loss = self.temperature.update(excess, lived(batch.obs))
        move_target(self.target.parameters(), self.critic.parameters(), self.config.target_rate)
        metrics |= {
            "loss/actor": loss.mean(),
            "loss/temperature": temperature_loss.mean(),
            **_mean_and_ends("policy/entropy", -log_prob),
            **_mean_and_ends("policy/temperature", temperature),
        }
        return Update(metrics, priority=error.abs().mean(0).amax(0))

    def _improve_critics(self, batch: Batch, temperature: Tensor) -> tuple[Metrics, Tensor]:
        """METRICS of the critics, and the (K, views, B) errors."""
        assert isinstance(batch.reward, Tensor) and isinstance(batch.action, dict)
        views = views_of(batch.obs, self.names)
        weight = view_weights(views, batch.obs, self.names)
        with torch.no_grad():
            target = self._target(batch, temperature)
            if self.value_norm:
                self.value_norm.update(target.flatten(), weight.flatten())
                target = self.value_norm.normalize(target)
        taken = [actor.encode(batch.action[name]) for name, actor in self.actors.items()]
        predicted = self.critic.of_views(views, taken)
        value = predicted.detach()
        error = value - target
        if self.config.critic_loss == "square":
            penalty, slope = 0.5 * error.square(), error
        else:
            longest = self.config.huber_threshold
            penalty = F.huber_loss(error, torch.zeros_like(error), "none", longest)
            slope = error.clamp(-longest, longest)
        share = batch.weight * weight / weight.numel()
        loss = (share * penalty).sum()
        limit = self.config.max_grad_norm
        descend(predicted, self.critic_optimizer, limit, slope=share * slope)
        mean = (value * weight).mean()
        variance = ((value - mean).square() * weight).mean()
        metrics = {
            "loss/critic": loss,
            "value/q": self._denormalized(mean),
            "value/q_std": self._scaled(variance.sqrt()),
        }
        # What is not learned from has no error that could shrink.
        return metrics, error * (weight > 0)

    def _target(self, batch: Batch, temperature: Tensor) -> Tensor:
        """(views, B) targets: reward and the soft value of the next state (section 4.2)."""
        assert isinstance(batch.reward, Tensor)
        alive = alive_of(batch.next_obs, self.names, len(batch.reward), self.device)
        actions: dict[str, Tensor] = {}
        log_probs: dict[str, Tensor] = {}
        for stack in self.stacks:
            actor, (output, mask) = stack.stacked, stack(batch.next_obs)
            if self._is_exact(actor):  # the expectation in place of the sample: less variance
                assert isinstance(actor, CategoricalActor)
                action = actor.draw(output, mask, self.noise)
                log_prob = -actor.entropy(actor.log_pi(output, mask))
            else:
                action, log_prob, _ = actor.sample(output, mask, self.noise)
            actions |= zip(stack.names, action, strict=True)
            log_probs |= zip(stack.names, log_prob, strict=True)
        # Nothing follows from what the dead would do: their entropy is none of the team's.
        log_prob = torch.stack([log_probs[name] for name in self.names], 1)
        bonus = -(temperature * alive * log_prob).sum(1)
        joint = [actions[name] for name in self.names]
        values = self.target.of_views(views_of(batch.next_obs, self.names), joint).amin(0)
        values = of_living(self._denormalized(values), batch.next_obs)
        return batch.reward + batch.discount * (values + bonus)

    def _improve_actors(
        self, batch: Batch, temperature: Tensor, order: Sequence[int]
    ) -> list[Tensor]:
        """Every agent's turn (section 4.3); what each returns, in the order of the turns."""
        views = views_of(batch.obs, self.names)
        alive = alive_of(batch.obs, self.names, len(batch.discount), self.device)
        weights, living = alive / alive.mean(0).clamp(min=1e-8), lived(batch.obs)
        # Until its turn an agent's policy stays as it is: one pass serves its first draw and turn.
        outputs = [self.actors[name](own(batch.obs, name)) for name in self.names]
        first = self.critic.state_part(views.flatten(0, 1))
        # Nobody needs the first draw of whoever comes first, or the last of whoever comes last.
        drawn = order if self.config.order == "simultaneous" else order[1:]
        actions = [first.new_zeros(len(alive), actor.size) for actor in self.actors.values()]
        for i in drawn:
            actions[i] = self._draw(batch.obs, i, outputs[i])
        found = []
        for i in order:
            going = None if living is None else living[i]
            first_of = partial(self.critic.first, first, actions, i)
            row = (outputs[i], first_of, weights[:, i], temperature[i], going)
            found.append(self._turn(batch.obs, i, *row))
            if self.config.order != "simultaneous" and i != order[-1]:
                with torch.no_grad():
                    output = self.actors[self.names[i]](own(batch.obs, self.names[i]))
                actions[i] = self._draw(batch.obs, i, output)
        return found

    def _turn(
        self,
        obs: Tree,
        i: int,
        output: Tensor,
        first_of: FirstLayer,
        weight: Tensor,
        temperature: Tensor,
        going: Tensor | None,
    ) -> Tensor:
        """Agent i's policy climbs the soft value, by as many steps as the template's instance asks.

        Args:
            output: of the agent's network for ``obs``.
            first_of: (B, size) encodings of the agent's action to the (K, views * B, units) sums of
                the critics' first layer, the others' actions being what they are.
            weight: (B,) 0 where the agent is dead; the mean is 1.
            going: 0-d bool, false if it is dead everywhere: then nothing moves. None if agents
                cannot die.

        Returns:
            (3,) means over the living: the loss, log pi, and the excess, which is the entropy that
            is missing, in nats.
        """
        name, actor = self.names[i], self.actors[self.names[i]]
        mask, old = mask_of(obs, name), output.detach()
        limit = self.mirror.neighbourhood(actor, own(obs, name), old, mask, weight)
        share = weight / len(weight)
        for step in range(self.mirror.inner_steps):
            output = actor(own(obs, name)) if step else output
            soft_loss = self._exact_loss if self._is_exact(actor) else self._sampled_loss
            loss, log_prob, slope = soft_loss(obs, i, output, first_of, temperature)
            slope = slope * share[:, None]
            drift = self.mirror.drift(actor, output, old, mask)
            if isinstance(drift, Tensor) and drift.requires_grad:
                slope = slope + torch.autograd.grad(drift, output, share)[0]
            optimizer = self.actor_optimizers[name]
            descend(output, optimizer, self.config.max_grad_norm, going=going, slope=slope)
            limit()
        excess = log_prob + actor.target_entropy(self.shares[name], mask)
        rows = torch.stack([loss + drift, log_prob, excess])
        return (share * rows).sum(1).detach()

    @torch.no_grad()
    def _exact_loss(
        self, obs: Tree, i: int, output: Tensor, first_of: FirstLayer, temperature: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(B,) expectations of temperature * log pi - Q over all actions, and of log pi; (B,
        actions) derivatives of the former by the output."""
        actor = self.actors[self.names[i]]
        assert isinstance(actor, CategoricalActor)
        log_pi = actor.log_pi(output, mask_of(obs, self.names[i]))
        others = first_of(torch.zeros_like(log_pi))
        each = others[:, :, None] + self.critic.weight_of(i)[:, None]
        values = self.critic.rest(each.flatten(1, 2)).amin(0)
        values = self._denormalized(values.view(-1, *log_pi.shape))
        value = climbed(values, i, self.config.actor_views, obs)
        pi, losses = log_pi.exp(), temperature * log_pi - value
        loss = (pi * losses).sum(1)
        return loss, (pi * log_pi).sum(1), pi * (losses - loss[:, None])

    @torch.no_grad()
    def _sampled_loss(
        self, obs: Tree, i: int, output: Tensor, first_of: FirstLayer, temperature: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(B,) temperature * log pi - Q of a draw, and its log pi; (B, outputs) derivatives of the
        former by the output."""
        mask = mask_of(obs, self.names[i])
        action, log_prob, pull = self.actors[self.names[i]].sample(output, mask, self.noise)
        value, slope = self.critic.least(i, first_of(action))
        seen = self.config.actor_views
        value = climbed(self._denormalized(value.view(-1, len(action))), i, seen, obs)
        slope = climbed(self._scaled(slope.view(-1, *action.shape)), i, seen, obs)
        return temperature * log_prob - value, log_prob, pull(-slope, temperature)

    def _draw(self, obs: Tree, i: int, output: Tensor) -> Tensor:
        """(B, size) encodings of actions of agent i."""
        name = self.names[i]
        return self.actors[name].draw(output, mask_of(obs, name), self.noise)

    def _denormalized(self, values: Tensor) -> Tensor:
        return self.value_norm.denormalize(values) if self.value_norm else values

    def _scaled(self, slopes: Tensor) -> Tensor:
        return slopes * self.value_norm.mean_and_std()[1] if self.value_norm else slopes

    def _is_exact(self, actor: Actor) -> bool:
        return (
            isinstance(actor, CategoricalActor)
            and self.config.gradient == "exact"
            and len(actor.heads) == 1
            and actor.size <= MOST_EXACT_ACTIONS
        )

    def state_dict(self) -> State:
        """Networks, optimizers, temperatures, value statistics and both generators."""
        return {
            "actors": {name: actor.state_dict() for name, actor in self.actors.items()},
            "critic": self.critic.state_dict(),
            "target": self.target.state_dict(),
            "actor_optimizers": {
                name: optimizer_state(part) for name, part in self.actor_optimizers.items()
            },
            "critic_optimizer": optimizer_state(self.critic_optimizer),
            "temperature": self.temperature.state_dict(),
            "value_norm": self.value_norm.state_dict() if self.value_norm else {},
            "noise": self.noise.get_state(),
            "orders": self.orders.bit_generator.state,
        }

    def load_state_dict(self, state: State) -> None:
        """Continue from a saved state of an agent with the same spaces and config."""
        for name in self.names:
            self.actors[name].load_state_dict(state["actors"][name])
            load_optimizer_state(self.actor_optimizers[name], state["actor_optimizers"][name])
        self.temperature.load_state_dict(state["temperature"])
        self.critic.load_state_dict(state["critic"])
        self.target.load_state_dict(state["target"])
        load_optimizer_state(self.critic_optimizer, state["critic_optimizer"])
        if self.value_norm:
            self.value_norm.load_state_dict(state["value_norm"])
        self.noise.set_state(state["noise"])
        self.orders.bit_generator.state = state["orders"]


def _mean_and_ends(name: str, values: Tensor) -> Metrics:
    """The mean over the agents, the least and the greatest."""
    least, greatest = values.aminmax()
    return {name: values.mean(), f"{name}_min": least, f"{name}_max": greatest}
