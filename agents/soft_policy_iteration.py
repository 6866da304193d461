"""Heterogeneous-agent soft policy iteration, exact, for small cooperative Markov games.

The tabular algorithm behind HASAC (Liu et al., arXiv 2306.10715): the joint soft value of a product
policy is solved for, then the agents improve one after the other, each against the policies that
its predecessors already have. A solver, for ``solve_loop``: there is no stream of experience.

Shapes: ``S`` states, ``A`` agents, ``X_i`` actions of agent i; everything is float64 on the CPU.
Torch rather than NumPy: metrics, checkpoints and generators of the suite are torch's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, Self

import torch
from pydantic import Field
from torch import Tensor

from rlsuite.errors import UserError
from rlsuite.rng import generator
from rlsuite.settings import Count, NonNegative, Positive, settings
from rlsuite.types import Metrics, State

METRICS = {
    "value/soft": "Soft value of the new policies from the initial states, entropy included.",
    "value/payoff": "Expected discounted payoff of the new policies, entropy left out.",
    "policy/entropy": "Entropy of the new joint policy in nats, mean over the states.",
    "policy/residual": "Greatest distance of a probability from its quantal response.",
    "policy/temperature": "Weight of the entropy against the payoff in this iteration.",
}

Policies = Sequence[Tensor]
"""For each agent the (S, X_i) logarithms of its probabilities: they keep what exp would lose."""


@dataclass(frozen=True, slots=True)
class MarkovGame:
    """A game with one payoff for all. Raises UserError unless the arrays make up a game."""

    payoff: Tensor
    """(S, X_0, ..., X_{A-1}) float64 r(s, a)."""
    transition: Tensor
    """(S, X_0, ..., X_{A-1}, S) float64 P(s' | s, a)."""
    initial: Tensor
    """(S,) float64 distribution of the first state."""
    discount: float
    """From 0 to below 1."""

    def __post_init__(self) -> None:
        tensors: dict[str, Any] = {
            "payoff": self.payoff,
            "transition": self.transition,
            "initial": self.initial,
        }
        for name, tensor in tensors.items():
            if not isinstance(tensor, Tensor):
                kind = type(tensor).__name__
                raise UserError(f"the game's {name} has to be a tensor, is of type {kind}")
            if tensor.dtype != torch.float64 or not bool(torch.isfinite(tensor).all()):
                raise UserError(f"the game's {name} has to be finite float64, is {tensor.dtype}")
        if self.payoff.dim() < 2 or self.payoff.numel() == 0:
            raise UserError(f"payoff has shape {tuple(self.payoff.shape)}, has to be (S, X_0, ...)")
        states = len(self.payoff)
        shapes = {"transition": (*self.payoff.shape, states), "initial": (states,)}
        for name, shape in shapes.items():
            if tensors[name].shape != shape:
                raise UserError(f"{name} has shape {tuple(tensors[name].shape)}, needs {shape}")
            if not _is_distribution(tensors[name]):
                raise UserError(
                    f"{name} has to hold probabilities that sum to 1 over its last axis"
                )
        if not 0 <= self.discount < 1:
            raise UserError(f"discount is {self.discount}, has to be from 0 to below 1")

    @classmethod
    def one_step(cls, payoff: Any) -> Self:
        """The matrix game with (X_0, ..., X_{A-1}) payoffs, a tensor, an array or lists: one state,
        nothing afterwards."""
        payoff = torch.as_tensor(payoff, dtype=torch.float64)[None]
        one = torch.ones(1, dtype=torch.float64)
        return cls(payoff, torch.ones_like(payoff)[..., None], one, 0.0)

    @property
    def actions(self) -> tuple[int, ...]:
        """X_0, ..., X_{A-1}."""
        return tuple(self.payoff.shape[1:])


@settings
class Annealing:
    """temperature_k = max(least, initial * decay^k) in iteration k; a decay of 1 keeps it fixed."""

    initial: Positive
    """In the payoff's units per nat."""
    decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor from one iteration to the next."""
    least: Positive = 1e-6
    """Where the decay stops: at zero there is no soft response."""

    def __call__(self, iteration: int) -> float:
        """The temperature of an iteration, counted from 0."""
        return max(self.least, self.initial * self.decay**iteration)


@settings
class SoftPolicyIterationConfig:
    """Settings of soft policy iteration."""

    temperature: Annealing = Annealing(initial=1.0)
    """Weight of the entropy, by iteration."""
    drift: NonNegative = 0.0
    """Weight 1/eta of the penalty KL(new || old) on each agent's step; 0 is HASAC, more is the
    mirror step, which moves less and has the same fixed points."""
    order: tuple[Count, ...] | None = None
    """The agents in the order of their steps; None draws a permutation for each iteration."""


class Values(NamedTuple):
    """The soft values of joint policies (arXiv 2306.10715, section 3)."""

    v: Tensor
    """(S,) float64 V(s) = E[Q(s, a) - temperature * sum_i log pi^i(a^i | s)]."""
    q: Tensor
    """(S, X_0, ..., X_{A-1}) float64 Q(s, a) = r(s, a) + discount * E[V(s')]."""


class SoftPolicyIteration:
    """The solver: ``iterate`` evaluates, and improves each agent once.

    The soft value of every state never falls at a fixed temperature, and limit points are quantal
    response equilibria: which one depends on the start, the order and the path of the temperature.
    """

    def __init__(
        self,
        game: MarkovGame,
        config: SoftPolicyIterationConfig | None = None,
        *,
        policies: Sequence[Tensor] | None = None,
        seed: int = 0,
    ) -> None:
        """Start from uniform policies, or from (S, X_i) positive probabilities for each agent.

        Raises UserError for policies of other shapes and for an order that is no permutation.
        """
        self.game, self.config = game, config or SoftPolicyIterationConfig()
        agents = list(range(len(game.actions)))
        if self.config.order is not None and sorted(self.config.order) != agents:
            raise UserError(f"order is {self.config.order}, has to be a permutation of {agents}")
        self.policies = uniform(game) if policies is None else _logarithms(game, policies)
        self.generator = generator(seed, "soft policy iteration order")
        self.iteration = 0

    def iterate(self) -> Metrics:
        """Evaluate, then improve every agent once (section 4, algorithm 1)."""
        game, temperature = self.game, self.config.temperature(self.iteration)
        q = evaluate(game, self.policies, temperature).q
        for agent in self.config.order or self._draw_order():
            self.policies[agent] = respond(
                q, self.policies, agent, temperature, drift=self.config.drift
            )
        self.iteration += 1
        new = evaluate(game, self.policies, temperature)
        return {
            "value/soft": game.initial @ new.v,
            "value/payoff": expected_payoff(game, self.policies),
            "policy/entropy": entropy(self.policies).mean(),
            "policy/residual": quantal_residual(new.q, self.policies, temperature),
            "policy/temperature": torch.tensor(temperature, dtype=torch.float64),
        }

    def state_dict(self) -> State:
        """Policies, iteration and generator."""
        policies = {f"agent_{i}": policy for i, policy in enumerate(self.policies)}
        state = self.generator.get_state()
        return {"policies": policies, "iteration": self.iteration, "generator": state}

    def load_state_dict(self, state: State) -> None:
        """Continue bit for bit."""
        count = len(self.policies)
        self.policies = [state["policies"][f"agent_{i}"].clone() for i in range(count)]
        self.iteration = state["iteration"]
        self.generator.set_state(state["generator"])

    def _draw_order(self) -> list[int]:
        return torch.randperm(len(self.policies), generator=self.generator).tolist()


def uniform(game: MarkovGame) -> list[Tensor]:
    """Log probabilities of the policies that choose uniformly."""
    states = len(game.payoff)
    return [game.payoff.new_zeros((states, n)).log_softmax(1) for n in game.actions]


def average(values: Tensor, policies: Policies, keep: Sequence[int] = ()) -> Tensor:
    """Expectation over the actions of all agents but ``keep``.

    Args:
        values: (S, X_0, ..., X_{A-1}, ...) float64.
        policies: log probabilities of A agents; those of ``keep`` are not used.
        keep: the agents whose actions stay open.

    Returns:
        (S, X_k for k in keep, in this order, ...).
    """
    axes = list(range(values.dim()))
    operands: list[Tensor | list[int]] = [values, axes]
    for agent, policy in enumerate(policies):
        if agent not in keep:
            operands += [policy.exp(), [0, 1 + agent]]
    rest = axes[1 + len(policies) :]
    return torch.einsum(*operands, [0, *(1 + agent for agent in keep), *rest])


def entropy(policies: Policies) -> Tensor:
    """(S,) entropy of the joint policy in nats: the sum over the agents, for it is a product."""
    return -torch.stack([(policy.exp() * policy).sum(1) for policy in policies]).sum(0)


def evaluate(game: MarkovGame, policies: Policies, temperature: float) -> Values:
    """The fixed point of the soft Bellman operator, from the linear system of the (S,) values."""
    reward = average(game.payoff, policies) + temperature * entropy(policies)
    chain = average(game.transition, policies)
    identity = torch.eye(len(chain), dtype=chain.dtype)
    v = torch.linalg.solve(identity - game.discount * chain, reward)
    return Values(v, game.payoff + game.discount * (game.transition @ v))


def respond(
    q: Tensor, policies: Policies, agent: int, temperature: float, *, drift: float = 0.0
) -> Tensor:
    """(S, X_i) log probabilities of agent i's step against the policies of the others.

    The maximum over p of E_p[q_i] + temperature * H(p) - drift * KL(p || pi_i), with q_i the mean
    of ``q`` over the others' actions: where its derivative is the same for all actions,
    (temperature + drift) log p = q_i + drift * log pi_i + constant. Without drift this is
    the soft best response.
    """
    score = average(q, policies, [agent])
    if drift:
        score = score + drift * policies[agent]
    return (score / (temperature + drift)).log_softmax(1)


def respond_at_once(q: Tensor, policies: Policies, temperature: float) -> list[Tensor]:
    """Soft best responses of all agents to the same old policies.

    The counter-example: this may lower the value and cycle. No solver uses it.
    """
    return [respond(q, policies, agent, temperature) for agent in range(len(policies))]


def soft_q(q: Tensor, policies: Policies, agents: Sequence[int], temperature: float) -> Tensor:
    """The multi-agent soft Q of an ordered subset (equation of section 3, definition 2).

    (S, X_i for i in agents): the mean of ``q`` over the others' actions plus temperature times the
    others' entropy. All agents give ``q``, none gives the state values.
    """
    others = [policy for agent, policy in enumerate(policies) if agent not in agents]
    mean = average(q, policies, agents)
    if not others:
        return mean
    return mean + temperature * entropy(others).view(-1, *[1] * len(agents))


def soft_value(game: MarkovGame, policies: Policies, temperature: float) -> Tensor:
    """0-d J: expected discounted sum of payoff and temperature times entropy."""
    return game.initial @ evaluate(game, policies, temperature).v


def expected_payoff(game: MarkovGame, policies: Policies) -> Tensor:
    """0-d expected discounted sum of the payoff alone."""
    return soft_value(game, policies, 0.0)


def quantal_residual(q: Tensor, policies: Policies, temperature: float) -> Tensor:
    """0-d: how far the policies are from a quantal response equilibrium.

    The greatest |pi^i(a | s) - softmax(q_i / temperature)(a | s)| over agents, states and actions;
    ``q`` is the soft value of these policies at this temperature.
    """
    distances = [
        (policy.exp() - respond(q, policies, agent, temperature).exp()).abs().max()
        for agent, policy in enumerate(policies)
    ]
    return torch.stack(distances).max()


def _is_distribution(probabilities: Tensor, tolerance: float = 1e-9) -> bool:
    total = probabilities.sum(-1)
    return bool((probabilities >= 0).all()) and bool(((total - 1).abs() < tolerance).all())


def _logarithms(game: MarkovGame, policies: Sequence[Tensor]) -> list[Tensor]:
    shapes = [(len(game.payoff), n) for n in game.actions]
    policies = [torch.as_tensor(policy) for policy in policies]
    if [tuple(policy.shape) for policy in policies] != shapes:
        given = [tuple(policy.shape) for policy in policies]
        raise UserError(f"policies have shapes {given}, the game needs {shapes}")
    policies = [policy.to(torch.float64) for policy in policies]
    for agent, policy in enumerate(policies):
        # Float32 probabilities are welcome; log_softmax makes them sum to 1 in float64.
        if not _is_distribution(policy, 1e-6) or not bool((policy > 0).all()):
            raise UserError(f"policy {agent} has to hold positive probabilities that sum to 1")
    return [policy.log().log_softmax(1) for policy in policies]
