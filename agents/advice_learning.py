"""Learning whom to advise what, by episodes: who plays, who learns, and the exact regret.

A solver, for ``solve_loop``: one iteration is one episode in each of ``N`` runs that learn side by
side. An advisor (``ucb_ad``, ``fucb``, ``agnostic_advice``, ``rfe``, ``uc_cfh``, or fixed advice)
decides; the episode is drawn from the tables, and of it the advisor sees states, its advice, the
actions executed and their rewards. What its policy is worth is computed in the true tables, not
sampled. The setting is that of Chen, Li, Sun and Wang (ICLR 2024, arXiv 2310.00817), whose full
text was not at hand; the protocol and this form of regret are the field's.

Tables are small and lists of what was seen grow: on the CPU, float64. Shapes: ``N`` runs, ``C``
policies, ``H`` stages, ``S`` states, ``X`` actions; advice X is to defer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from rlsuite.advice import AdviceModel
from rlsuite.agents.advice_budget import plan_budget
from rlsuite.agents.advice_planning import evaluate, plan
from rlsuite.errors import UserError
from rlsuite.rng import generator
from rlsuite.settings import Count, PositiveCount, settings
from rlsuite.types import Metrics, State, Stateful

METRICS = {
    "regret/gap": "What the advisor's policy loses against the optimum, exact; mean of the runs.",
    "regret/total": "Sum of the gaps of all episodes so far; mean of the runs.",
    "advice/return": "Expected return of that policy, the cost of advice not subtracted; mean.",
    "advice/number": "Expected number of advices an episode of that policy; mean.",
    "advice/promise": "What the advisor believes the policy to be worth, net of costs; mean.",
}


@dataclass(frozen=True, slots=True)
class AdviceTask:
    """What is to be learned. Raises UserError for a budget or number of runs that cannot be."""

    model: AdviceModel
    """The truth, of one instance that all runs share, or of one for each."""
    horizon: int
    """H."""
    cost: float = 0.0
    """Of an advice, from 0 on; known to the advisor."""
    budget: float | None = None
    """Expected number of advices an episode that is allowed; None is any. Then there is no cost."""
    runs: int = 1
    """N, if the instances do not say."""

    def __post_init__(self) -> None:
        n = self.model.instances
        if self.runs < 1 or (n > 1 and self.runs not in (1, n)):
            raise UserError(f"there are {self.runs} runs of {n} instances; needs 1 or {n}")
        if self.budget is not None and self.cost != 0:
            raise UserError(f"advice has a budget and costs {self.cost}: give one of the two")
        if self.model.probability.dtype != torch.float64:
            raise UserError(f"learning needs float64 tables, not {self.model.probability.dtype}")

    @property
    def size(self) -> tuple[int, int, int]:
        """N, S, X."""
        return max(self.runs, self.model.instances), self.model.states, self.model.actions

    def optimum(self) -> Tensor:
        """(N or 1,) the best expected return, net of costs and within the budget."""
        if self.budget is not None:
            return plan_budget(self.model, self.horizon, self.budget).value[:, 0]
        return self.model.start(plan(self.model, self.horizon, self.cost).value)[:, 0]


class Mixture(NamedTuple):
    """Policies of which each episode draws one at its start."""

    policies: Tensor
    """(N, C, H, S) int64 advice."""
    weight: Tensor
    """(N, C) probabilities."""


def pure(policy: Tensor) -> Mixture:
    """The mixture of one policy (N, H, S)."""
    return Mixture(policy[:, None], torch.ones((len(policy), 1), dtype=torch.float64))


class Decision(NamedTuple):
    """What an advisor makes of all that it has seen."""

    play: Mixture
    """To learn from."""
    deploy: Mixture
    """To earn with: regret is its. Most advisors play what they would deploy."""
    value: Tensor
    """(N,) what the advisor believes ``deploy`` to be worth, or at most to be worth."""


class Episodes(NamedTuple):
    """One episode of each run."""

    state: Tensor
    """(N, H + 1) int64."""
    advice: Tensor
    """(N, H) int64, X for none."""
    action: Tensor
    """(N, H) int64 executed."""
    reward: Tensor
    """(N, H) of the environment, the cost of advice not subtracted."""


class Advisor(Stateful, Protocol):
    """Who gives advice, and may learn."""

    def decide(self) -> Decision:
        """The policies for the next episodes."""

    def learn(self, episodes: Episodes) -> None:
        """See one episode of each run."""


class FixedAdvice:
    """Advice that learns nothing: the human alone, the oracle, blind advice in its three forms.

    ``FixedAdvice(task, policy)`` of ``advice_planning``'s ``silence``, ``plan(...).policy``,
    ``blind`` (always, or above a threshold) and ``where_it_differs``.
    """

    def __init__(self, task: AdviceTask, policy: Tensor) -> None:
        """``policy`` is (N or 1, 1, H, S)."""
        self.decision = _settle(task, policy.expand(task.size[0], -1, -1, -1)[:, 0])

    def decide(self) -> Decision:
        """Always the same."""
        return self.decision

    def learn(self, episodes: Episodes) -> None:
        """Nothing."""

    def state_dict(self) -> State:
        """Empty."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """Nothing to restore."""


def _settle(task: AdviceTask, policy: Tensor) -> Decision:
    reached = evaluate(task.model, policy[:, None])
    net = task.model.start(reached.gross - task.cost * reached.advices)[:, 0]
    return Decision(pure(policy), pure(policy), net)


class World:
    """Draws episodes from the tables; inverse transform, so that equal draws are equal luck."""

    def __init__(self, model: AdviceModel, runs: int) -> None:
        """For ``runs`` runs, N."""
        self.model, self.rows = model, torch.arange(runs)
        tables = (model.initial, model.joint(), model.probability)
        self.first, self.executes, self.arrives = (_ladder(x) for x in tables)

    def play(self, policy: Tensor, draws: torch.Generator) -> Episodes:
        """One episode of each run with policies (N, H, S)."""
        n, horizon, _ = policy.shape
        luck = torch.rand((horizon + 1, 2, n), generator=draws, dtype=torch.float64)
        state = _climb(self._at(self.first), luck[horizon, 0])
        states, advices, actions, rewards = [state], [], [], []
        for h in range(horizon):
            advices.append(policy[self.rows, h, state])
            action = _climb(self._at(self.executes, state, advices[h]), luck[h, 0])
            rewards.append(self._at(self.model.reward, state, action))
            slot = _climb(self._at(self.arrives, state, action), luck[h, 1])
            state = self._at(self.model.successor, state, action, slot)
            states.append(state)
            actions.append(action)
        return Episodes(*(torch.stack(x, 1) for x in (states, advices, actions, rewards)))

    def _at(self, table: Tensor, *index: Tensor) -> Tensor:
        """(N, ...) entries of each run, of tables of their own or of one that they share."""
        rows = self.rows if len(table) > 1 else torch.zeros_like(self.rows)
        return table[(rows, *index)]


def _ladder(probability: Tensor) -> Tensor:
    """Cumulative over the last axis; the last entry that can happen is exactly 1."""
    total = probability.cumsum(-1)
    return total / total[..., -1:]


def _climb(ladder: Tensor, luck: Tensor) -> Tensor:
    """(N,) the first entries of (N, n) ladders above (N,) uniform numbers below 1."""
    return (ladder <= luck[:, None]).sum(1)


@settings
class Replanning:
    """When advisors decide anew: after every episode at first, later after every few."""

    dense: Count = 100
    """Episodes before each of which one decides."""
    every: PositiveCount = 10
    """Episodes from one decision to the next, afterwards."""

    def due(self, episode: int) -> bool:
        """Whether to decide before this episode, counted from 0."""
        return episode < self.dense or (episode - self.dense) % self.every == 0


class AdviceLearning:
    """The solver: ``iterate`` is one episode of every run."""

    def __init__(
        self,
        task: AdviceTask,
        advisor: Advisor,
        *,
        replanning: Replanning | None = None,
        seed: int = 0,
    ) -> None:
        """``seed`` is of the episodes; an advisor that draws has its own."""
        self.task, self.advisor = task, advisor
        self.replanning = replanning or Replanning()
        n = task.size[0]
        self.world = World(task.model, n)
        self.optimum = task.optimum()
        self.draws = generator(seed, "advice episodes")
        self.episode = 0
        self.total = torch.zeros(n, dtype=torch.float64)
        """(N,) regret so far."""
        self._judge(advisor.decide())

    def iterate(self) -> Metrics:
        """Decide if it is time, play, learn."""
        if self.episode and self.replanning.due(self.episode):
            self._judge(self.advisor.decide())
        play, _, value = self.decision
        luck = torch.rand((len(self.total), 1), generator=self.draws, dtype=torch.float64)
        drawn = _climb(_ladder(play.weight), luck[:, 0])
        policy = play.policies[self.world.rows, drawn]
        self.advisor.learn(self.world.play(policy, self.draws))
        self.total = self.total + self.gap
        self.episode += 1
        return {
            "regret/gap": self.gap.mean(),
            "regret/total": self.total.mean(),
            "advice/return": self.gross.mean(),
            "advice/number": self.advices.mean(),
            "advice/promise": value.mean(),
        }

    def _judge(self, decision: Decision) -> None:
        """Exact figures of the deployed policies, all (N,)."""
        self.decision, task = decision, self.task
        deploy = decision.deploy
        reached = evaluate(task.model, deploy.policies)
        self.gross, self.advices = ((task.model.start(x) * deploy.weight).sum(1) for x in reached)
        self.gap = self.optimum - (self.gross - task.cost * self.advices)

    def state_dict(self) -> State:
        """Episodes, regret, generator, the policies under way, and what the advisor knows."""
        play, deploy, value = self.decision
        return {
            "episode": self.episode,
            "total": self.total,
            "draws": self.draws.get_state(),
            "play": play._asdict(),
            "deploy": deploy._asdict(),
            "value": value,
            "advisor": self.advisor.state_dict(),
        }

    def load_state_dict(self, state: State) -> None:
        """Continue bit for bit."""
        self.episode, self.total = state["episode"], state["total"].clone()
        self.draws.set_state(state["draws"])
        self.advisor.load_state_dict(state["advisor"])
        play, deploy = (Mixture(**state[name]) for name in ("play", "deploy"))
        self._judge(Decision(play, deploy, state["value"]))
