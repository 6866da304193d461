"""AADQN: adherence-aware deep Q-learning of advice, factored into tasks and people.

A deep form of the model of Chen, Li, Sun and Wang (ICLR 2024, arXiv 2310.00817), who plan with
tables and have no deep experiments: the network learns the value U(s, a) of *executing* an action,
what the human does unaided, and how probable it is that an advice is done; the value of an advice
follows from the three. So every transition, advised or not, followed or not, trains U at the action
that was executed, and the cost of advice enters only when an advice is chosen. Ours, and beyond the
theory: function approximation, discounting, replay, epsilon-greedy exploration. That people are
Markov and do not react to the advisor is an assumption about them.

Trained by ``rlsuite.loops.replay_loop`` in an ``AdviceVectorEnv``. Box observations: images go
through convolutions, everything else is flattened. One-step targets alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import gymnasium as gym
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from rlsuite.advice import AdviceSpace, to_exclusive, to_mixture
from rlsuite.errors import UserError
from rlsuite.nets import Encoder, perceptron
from rlsuite.optim import descend, load_optimizer_state, make_optimizer, optimizer_state
from rlsuite.parts import EpsilonGreedy, LinearSchedule, move_target
from rlsuite.rng import generator
from rlsuite.settings import Count, Fraction, Positive, PositiveCount, settings
from rlsuite.tree import to_device
from rlsuite.types import Batch, State, Tree, Update

METRICS = {
    "loss/critic": "Huber loss of the values of the executed actions.",
    "loss/people": "Negative log likelihood of the executed actions given the advice, in nats.",
    "value/q": "Mean value of the batch's executed actions.",
    "people/adherence": "Mean estimated probability that an advice is executed, over all advices.",
    "policy/advised": "Share of the batch's successors where the greedy policy advises.",
    "policy/epsilon": "Probability of a random advice while exploring.",
}

TINY = 1e-6
"""Probabilities of a known human, and of their executing an advice or not, are no less."""


@settings
class AADQNConfig:
    """Settings of AADQN."""

    hidden: Annotated[tuple[PositiveCount, ...], Field(strict=False)] = (128, 128)
    """Units of each fully connected layer of the values, after the convolutions if observations are
    images."""
    hidden_people: Annotated[tuple[PositiveCount, ...], Field(strict=False)] = (64, 64)
    """The same of the network of the human and their adherence."""
    greatest_cost: Positive | None = None
    """Learn the values for all costs from 0 to this one at once, with the cost as an input, and
    explore at costs that are spread evenly over the environments (half of it in one alone); unset
    does both at the environment's cost."""
    known_human: bool = False
    """Know what the human does unaided, in place of an estimate; adherence is learned. For people
    who act by the observation alone."""
    huber_threshold: Positive = 1.0
    """Error of a value from which its loss is linear."""
    lr: Positive = 1e-3
    """Learning rate."""
    optimizer: str = "Adam"
    """Class name in torch.optim, or in the package pytorch-optimizer."""
    max_grad_norm: Positive | None = 10.0
    """Longest gradient, over all weights; unset does not clip."""
    target_rate: Fraction = 0.01
    """Share of the values that flows into their target when it moves (tau); 1 copies."""
    target_period: PositiveCount = 1
    """Updates between two moves of the target."""
    epsilon_initial: Fraction = 1.0
    """Probability of a random advice when exploration begins, after the warm-up."""
    epsilon_final: Fraction = 0.05
    """Probability of a random advice at the end of the schedule and after it."""
    epsilon_transitions: Count = 10_000
    """Transitions, after the warm-up, from the initial to the final probability, linearly."""


class ExecutedValues(nn.Module):
    """U(s, a), the value of executing a; conditioned, for a cost that is an input.

    Where observations tell of advice, as what is left of a budget does, what follows depends on
    whether there was any: such values are told apart, unaided and advised.
    """

    def __init__(
        self,
        space: gym.Space[Any],
        hidden: Sequence[int],
        advice: AdviceSpace,
        *,
        conditioned: bool,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.conditioned, self.actions = conditioned, advice.actions
        self.encoder = Encoder(space, generator=generator, device=device)
        outputs = self.actions * (2 if advice.features else 1)
        sizes = [self.encoder.features + conditioned, *hidden, outputs]
        self.head = perceptron(sizes, generator, device)

    def forward(self, features: Tensor, cost: Tensor) -> Tensor:
        """(B, 2, X), unaided and advised, of (B, D) features and the (B, 1) cost, from 0 to 1."""
        given = torch.cat([features, cost], 1) if self.conditioned else features
        values: Tensor = self.head(given)
        return values.view(len(values), -1, self.actions).expand(-1, 2, -1)


class AADQN:
    """Adherence-aware advisor.

    Actions at the interface are advice: 0 to X - 1, or X to defer. ``cost`` is what it takes an
    advice to cost; if conditioned on it, another one can be set at any time. A known human is the
    setting E1 of the paper, but for the dynamics.
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        config: AADQNConfig | None = None,
        *,
        human: Callable[[Tensor], Tensor] | None = None,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        """Fresh networks.

        ``human``, if known: (B, X) probabilities of what they do unaided on (B, ...) observations,
        such as ``probs`` of a Human; on the observations' device, or each update waits for copies.

        Raises UserError unless actions are advice, observations a Box and the cost within range;
        and for a ``human`` without ``config.known_human`` or the other way round.
        """
        self.config = config = config or AADQNConfig()
        self.device = torch.device(device)
        self.space = advice_space(action_space, "AADQN")
        self.actions, self.cost, self.human = self.space.actions, self.space.cost, human
        if config.known_human is not (human is not None):
            raise UserError(
                f"agent.known_human is {config.known_human}, and a human is "
                f"{'not ' if human is None else ''}given: AADQN(..., human=...) needs both"
            )
        if config.greatest_cost is not None and self.cost > config.greatest_cost:
            raise UserError(
                f"agent.greatest_cost ({config.greatest_cost}) is less than the environment's cost "
                f"of advice ({self.cost})"
            )
        weights = generator(seed, "aadqn weights")
        self.values, self.target = (
            ExecutedValues(
                observation_space,
                config.hidden,
                self.space,
                conditioned=config.greatest_cost is not None,
                generator=weights,
                device=self.device,
            )
            for _ in range(2)
        )
        self.target.requires_grad_(False)
        move_target(self.target.parameters(), self.values.parameters(), 1.0)
        sizes = [self.values.encoder.features, *config.hidden_people, 2 * self.actions]
        self.people = perceptron(sizes, weights, self.device)
        parameters = [*self.values.parameters(), *self.people.parameters()]
        self.optimizer = make_optimizer(config.optimizer, parameters, config.lr)
        schedule = LinearSchedule(
            config.epsilon_initial, config.epsilon_final, config.epsilon_transitions
        )
        self.exploration = EpsilonGreedy(schedule, 0.0, seed=seed, device=self.device)
        self.costs = generator(seed, "aadqn costs", device=self.device)
        self.updates = 0

    @torch.no_grad()
    def act(self, obs: Tree, *, explore: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
        """(N,) int64 epsilon-greedy advice; nothing to store beside it."""
        seen = to_device(obs, self.device)
        assert isinstance(seen, Tensor)
        features = self.values.encoder(seen)
        cost = self._acting_cost(features, explore)
        human, theta = beliefs(self._people(seen, features))
        values = advice_values(self.values(features, self._scaled(cost)), human, theta, cost)
        greedy = self.space.heard(seen, values.argmax(1))
        return self.exploration(greedy, self.actions + 1, explore=explore), {}

    @torch.no_grad()
    def believe(self, obs: Tree) -> tuple[Tensor, Tensor]:
        """(N, X) estimates: what the human does unaided, and P(a = m | s, m), the exclusive form.

        Both are frequencies that the advisor has seen, unless the human is known;
        ``rlsuite.advice.to_mixture`` converts.
        """
        seen = to_device(obs, self.device)
        return beliefs(self._people(seen, self.values.encoder(seen)))

    def update(self, batch: Batch) -> Update:
        """One update from a batch on the agent's device: values, people, target."""
        cost = self._cost(len(batch.terminated))
        update = self.learn(batch, cost)
        self.updates += 1
        if self.updates % self.config.target_period == 0:
            rate = self.config.target_rate
            move_target(self.target.parameters(), self.values.parameters(), rate)
        epsilon = torch.full((), self.exploration.epsilon(), device=self.device)
        return update._replace(metrics=update.metrics | {"policy/epsilon": epsilon})

    def learn(self, batch: Batch, cost: Tensor) -> Update:
        """One step down the loss, at (B, 1) costs; metrics but for epsilon, and the absolute errors
        of the values as priority."""
        assert isinstance(batch.action, Tensor) and isinstance(batch.obs, Tensor)
        executed, scaled = batch.extra["executed"], self._scaled(cost)
        with torch.no_grad():
            target, best, theta = self._target(batch, cost)

        features = self.values.encoder(batch.obs)
        heard = self.space.heard(batch.obs, batch.action)
        taken = self.actions * (heard < self.actions) + executed
        value = self.values(features, scaled).flatten(1).gather(1, taken[:, None])[:, 0]
        threshold = self.config.huber_threshold
        errors = F.huber_loss(value, target, reduction="none", delta=threshold)
        critic_loss = (batch.weight * errors).mean()
        people = self._people(batch.obs, features.detach())
        people_loss = surprise(people, heard, executed).mean()
        descend(critic_loss + people_loss, self.optimizer, self.config.max_grad_norm)
        value = value.detach()
        metrics = {
            "loss/critic": critic_loss.detach(),
            "loss/people": people_loss.detach(),
            "value/q": value.mean(),
            "people/adherence": theta.mean(),
            "policy/advised": (best < self.actions).float().mean(),
        }
        return Update(metrics, priority=(value - target).abs())

    def _target(self, batch: Batch, cost: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B,) targets of U at what was executed; the (B,) best advice and (B, X) adherence next.

        The environment's own reward, and the value of the best advice afterwards, whose cost is in
        it; chosen by the online values (Double DQN, arXiv 1509.06461, eq. 4). Where no advice is
        heard any more that is the human's value.
        """
        assert isinstance(batch.next_obs, Tensor)
        features = self.values.encoder(batch.next_obs)
        scaled = self._scaled(cost)
        human, theta = beliefs(self._people(batch.next_obs, features))
        online = advice_values(self.values(features, scaled), human, theta, cost)
        best = self.space.heard(batch.next_obs, online.argmax(1))
        later = self.target(self.target.encoder(batch.next_obs), scaled)
        value = advice_values(later, human, theta, cost).gather(1, best[:, None])[:, 0]
        return batch.extra["reward"] + batch.discount * value, best, theta

    def _people(self, obs: Tree, features: Tensor) -> Tensor:
        """(B, 2X) what ``beliefs`` and ``surprise`` take, of observations and their features.

        Where the human is known they are in it, and the network says with which probability advice
        is followed (the mixture form): executing advice is at least as probable as without it.
        """
        output: Tensor = self.people(features)
        if self.human is None:
            return output
        assert isinstance(obs, Tensor)
        human = self.human(obs).to(output, non_blocking=True)
        theta = to_exclusive(output.chunk(2, 1)[1].sigmoid(), human)
        return torch.cat([human.clamp(min=TINY).log(), theta.logit(TINY)], 1)

    def _cost(self, rows: int) -> Tensor:
        """(rows, 1) costs to learn at: uniform up to the greatest, or the environment's."""
        greatest = self.config.greatest_cost
        if greatest is None:
            return torch.full((rows, 1), self.cost, device=self.device)
        return greatest * torch.rand((rows, 1), generator=self.costs, device=self.device)

    def _acting_cost(self, features: Tensor, explore: bool) -> Tensor:
        """(N, 1) costs to act at, of (N, D) features.

        Exploring at one cost alone leads to the states of its policy, and those of dear advice are
        learned worse.
        """
        rows, greatest = len(features), self.config.greatest_cost
        if greatest is None or not explore:
            return features.new_full((rows, 1), self.cost)
        return greatest * (torch.arange(rows, device=features.device)[:, None] + 0.5) / rows

    def _scaled(self, cost: Tensor) -> Tensor:
        return cost / (self.config.greatest_cost or 1.0)

    def state_dict(self) -> State:
        """Networks, optimizer, exploration, generator of costs and the count of updates."""
        return {
            "values": self.values.state_dict(),
            "target": self.target.state_dict(),
            "people": self.people.state_dict(),
            "optimizer": optimizer_state(self.optimizer),
            "exploration": self.exploration.state_dict(),
            "costs": self.costs.get_state(),
            "updates": self.updates,
        }

    def load_state_dict(self, state: State) -> None:
        """Continue from a saved state of an agent with the same spaces and config."""
        for name in ("values", "target", "people"):
            getattr(self, name).load_state_dict(state[name])
        load_optimizer_state(self.optimizer, state["optimizer"])
        self.exploration.load_state_dict(state["exploration"])
        self.costs.set_state(state["costs"])
        self.updates = state["updates"]


def advice_values(executed: Tensor, human: Tensor, theta: Tensor, cost: Tensor) -> Tensor:
    """(B, X + 1) values of advising each action, and of deferring.

    Q(m) = U_H + theta_mx(m) (U(m) - U_H) - cost and Q(defer) = U_H = sum_a pi(a) U(a), where
    theta_mx is the adherence in the mixture form, from 0 on: nobody is repelled.

    Args:
        executed: (B, 2, X) U, the values of executing: unaided, for Q(defer), and advised.
        human: (B, X) probabilities of what the human does unaided.
        theta: (B, X) P(a = m | m), the exclusive form.
        cost: (B, 1) of an advice.
    """
    unaided, ignored = (human[:, None] * executed).sum(2, keepdim=True).unbind(1)
    follow = to_mixture(theta, human).clamp(0.0, 1.0)
    return torch.cat([ignored + follow * (executed[:, 1] - ignored) - cost, unaided], 1)


def beliefs(output: Tensor) -> tuple[Tensor, Tensor]:
    """(B, X) human and (B, X) exclusive adherence of the network's (B, 2X) output."""
    human, theta = output.chunk(2, 1)
    return human.softmax(1), theta.sigmoid()


def surprise(output: Tensor, advice: Tensor, executed: Tensor) -> Tensor:
    """(B,) nats: -log g(executed | s, advice) in the exclusive form.

    Deferring: -log pi(a). Advice m that was done: -log theta(m). Advice that was not:
    -log (1 - theta(m)) - log pi(a) + log (1 - pi(m)).

    Args:
        output: (B, 2X) of the network.
        advice: (B,) from 0 to X.
        executed: (B,) from 0 to X - 1.
    """
    human, theta = output.chunk(2, 1)
    log_pi, actions = human.log_softmax(1), human.shape[1]
    said = advice.clamp(max=actions - 1)[:, None]
    logit = theta.gather(1, said)[:, 0]
    own = -log_pi.gather(1, executed[:, None])[:, 0]
    others = (1 - log_pi.gather(1, said)[:, 0].exp()).clamp(min=1e-3).log()
    rejected = F.softplus(logit) + own + others
    heard = torch.where(executed == advice, F.softplus(-logit), rejected)
    return torch.where(advice == actions, own, heard)


def advice_space(space: gym.Space[Any], agent: str) -> AdviceSpace:
    """The space, if it is one of advice. Raises UserError, which names the ``agent``, if not."""
    if not isinstance(space, AdviceSpace):
        raise UserError(
            f"{agent} gives advice, and the environment takes actions ({space}): put people around "
            "it (section advice of a config, or rlsuite.envs.AdviceVectorEnv)"
        )
    return space
