"""Spaces of the tests of HATD3 and its kin, their settings, and a second, naive update."""

from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from hasac_cases import mean_of_living, of_living
from torch import Tensor

from rlsuite.agents.hatd3 import HATD3
from rlsuite.types import Batch

# Neither alike nor symmetric, so that a wrong scale or order shows. (The fake device cannot take
# actions of a single number.)
BOXES = OrderedDict(
    z=(Box(-1, 1, (4,)), Box(np.float32([-1, 0]), np.float32([1, 5]))),
    a=(Box(-1, 1, (3,)), Box(-2, 0.5, (2,))),
    m=(Box(-1, 1, (2, 2)), Box(0, 1, (3, 1))),
)
"""By agent its observation and action space."""
ONE = OrderedDict(only=BOXES["z"])
NOT_TWIN = {"critics": 1, "target_noise": 0.0, "policy_period": 1}
KINDS: dict[str, dict[str, Any]] = {
    "hatd3": {},
    "haddpg": NOT_TWIN,
    "matd3": {"order": "simultaneous"},
    "maddpg": {**NOT_TWIN, "order": "simultaneous"},
}
"""The settings that make each algorithm."""


class Naive:
    """One update as the papers write it: whole networks, autograd, plain loops.

    Takes over a HATD3's networks and generators, so that results must be equal.
    """

    def __init__(self, agent: HATD3) -> None:
        self.agent, self.count = agent, 0
        adam = torch.optim.Adam
        self.critic_adam = adam(agent.critic.parameters(), agent.config.lr_critic)
        self.adams = {
            name: adam(actor.parameters(), agent.config.lr_actor)
            for name, actor in agent.actors.items()
        }

    def views(self, obs: Any) -> list[Tensor]:
        state = obs["state"]
        return [state] if isinstance(state, Tensor) else [state[n] for n in self.agent.names]

    def scaled(self, action: Any, name: str) -> Tensor:
        """To [-1, 1], by the bounds of the case."""
        space = {**BOXES, **ONE}[name][1]
        low, high = torch.from_numpy(space.low), torch.from_numpy(space.high)
        return (2 * (action[name] - low) / (high - low) - 1).flatten(1)

    def update(self, batch: Any) -> float:
        a, c = self.agent, self.agent.config
        with torch.no_grad():
            nexts = []
            for name in a.names:
                action = a.target_actors[name](batch.next_obs["agents"][name])
                if c.target_noise > 0:
                    noise = c.target_noise * torch.randn(action.shape, generator=a.noise)
                    action = torch.clip(action + torch.clip(noise, -0.5, 0.5), -1, 1)
                nexts.append(action)
        taken = [self.scaled(batch.action, name) for name in a.names]
        alive = batch.obs.get("alive", torch.ones(len(batch.reward), len(a.names))).float()
        views, next_views = self.views(batch.obs), self.views(batch.next_obs)
        loss = torch.zeros(())
        with torch.no_grad():
            best = torch.stack([a.target(view, nexts).min(0).values for view in next_views])
            best = of_living(best, batch.next_obs)
        for v, view in enumerate(views):
            target = batch.reward + batch.discount * best[v]
            weight = batch.weight
            if len(views) > 1:
                weight = weight * alive[:, v] / alive.mean()
            for k in range(c.critics):
                error = a.critic(view, taken)[k] - target
                loss = loss + (weight * error**2).mean() / len(views)
        self.step(loss, self.critic_adam)
        self.count += 1
        if self.count % c.policy_period == 0:
            self.improve_actors(batch, taken, views, alive)
        return float(loss.detach())

    def improve_actors(
        self, batch: Batch, taken: list[Tensor], views: list[Tensor], alive: Tensor
    ) -> None:
        a, obs = self.agent, {n: batch.obs["agents"][n] for n in self.agent.names}
        order = list(range(len(a.names)))
        is_sequential = a.config.order != "simultaneous"
        if a.config.order == "random":
            order = a.orders.permutation(len(order)).tolist()
        others = [a.actors[n](obs[n]).detach() for n in a.names] if is_sequential else taken
        for i in order:
            name = a.names[i]
            joint = [*others[:i], a.actors[name](obs[name]), *others[i + 1 :]]
            values = torch.stack([a.critic(view, joint)[0] for view in views])
            value = mean_of_living(values, batch.obs)
            self.step(-(alive[:, i] * value).sum() / alive[:, i].sum(), self.adams[name])
            if is_sequential:
                others[i] = a.actors[name](obs[name]).detach()
        pairs = [(a.target, a.critic), *((a.target_actors[n], a.actors[n]) for n in a.names)]
        with torch.no_grad():
            for slow, fast in pairs:
                for p, q in zip(slow.parameters(), fast.parameters(), strict=True):
                    p.copy_(p * (1 - a.config.target_rate) + q * a.config.target_rate)

    def step(self, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        params = [p for group in optimizer.param_groups for p in group["params"]]
        loss.backward(inputs=params)
        optimizer.step()


def weights(agent: HATD3) -> dict[str, Tensor]:
    """Copies of all weights, by network."""
    nets: dict[str, Any] = {"critic": agent.critic, "target": agent.target}
    nets |= {f"actor {n}": net for n, net in agent.actors.items()}
    nets |= {f"target actor {n}": net for n, net in agent.target_actors.items()}
    return {
        name: torch.cat([p.detach().flatten() for p in net.parameters()])
        for name, net in nets.items()
    }
