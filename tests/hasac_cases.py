"""Spaces, batches and a second, naive HASAC update for the tests of the multi-agent algorithms."""

from collections import OrderedDict
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from torch import Tensor

from rlsuite.actors import Actor, NormalActor, noisy
from rlsuite.agents.hasac import HASAC
from rlsuite.types import Batch

MIXED = OrderedDict(
    box=(Box(-1, 1, (4,)), Box(np.float32([-1, 0]), np.float32([1, 5]))),
    discrete=(Box(-1, 1, (3,)), Discrete(5, start=2)),
    multi=(Box(-1, 1, (2,)), MultiDiscrete([3, 2])),
)
"""By agent its observation and action space."""
TWINS = OrderedDict((f"{name}_{i}", pair) for i in range(2) for name, pair in MIXED.items())
"""Two of each of MIXED, not side by side."""


def make_spaces(
    agents: OrderedDict[str, Any], *, state: int = 6, views: bool = False, masked: bool = False
) -> tuple[gym.spaces.Dict, gym.spaces.Dict]:
    view = Box(-1, 1, (state,))
    parts: dict[str, Any] = {
        "agents": gym.spaces.Dict(OrderedDict((n, obs) for n, (obs, _) in agents.items())),
        "state": gym.spaces.Dict(OrderedDict((n, view) for n in agents)) if views else view,
    }
    if masked:
        parts["mask"] = gym.spaces.Dict(
            OrderedDict((n, MultiBinary(size(a))) for n, (_, a) in agents.items() if size(a))
        )
        parts["alive"] = MultiBinary(len(agents))
    actions = gym.spaces.Dict(OrderedDict((n, a) for n, (_, a) in agents.items()))
    return gym.spaces.Dict(OrderedDict(parts)), actions


def size(space: gym.Space[Any]) -> int:
    """Numbers in a mask; 0 for a Box."""
    if isinstance(space, Discrete):
        return int(space.n)
    return int(space.nvec.sum()) if isinstance(space, MultiDiscrete) else 0


def draw(space: gym.Space[Any], n: int, rng: np.random.Generator) -> Any:
    """A tree of n elements of a space, as the environment layer returns them."""
    if isinstance(space, gym.spaces.Dict):
        return {name: draw(child, n, rng) for name, child in space.items()}
    if isinstance(space, Box):
        low, high = space.low, space.high
        values = low + (high - low) * rng.random((n, *space.shape))
        return torch.from_numpy(values.astype(np.float32))
    if isinstance(space, MultiBinary):
        values = rng.integers(0, 2, (n, space.n), np.int8)
        values[:, ::3] = 1  # one action of every head of MIXED
        return torch.from_numpy(values)
    if isinstance(space, Discrete):
        return torch.from_numpy(space.start + rng.integers(0, space.n, n))
    return torch.from_numpy(rng.integers(0, space.nvec, (n, len(space.nvec))))


def make_batch(
    observation_space: gym.spaces.Dict, action_space: gym.spaces.Dict, n: int = 16, seed: int = 0
) -> Batch:
    rng = np.random.default_rng(seed)
    terminated = torch.from_numpy(rng.random(n) < 0.2)
    return Batch(
        obs=draw(observation_space, n, rng),
        action=draw(action_space, n, rng),
        reward=torch.from_numpy(rng.standard_normal(n, np.float32)),
        next_obs=draw(observation_space, n, rng),
        terminated=terminated,
        truncated=torch.zeros(n, dtype=torch.bool),
        extra={},
        discount=0.9 * ~terminated,
        index=torch.arange(n),
        weight=torch.from_numpy(rng.uniform(0.5, 1.5, n).astype(np.float32)),
    )


def of_living(values: Tensor, obs: Any) -> Tensor:
    """(V, B) values of views, row by row: those of the dead are the mean of the living's."""
    if len(values) == 1 or "alive" not in obs:
        return values
    result = values.clone()
    for row, alive in enumerate(obs["alive"].bool()):
        result[~alive, row] = values[alive, row].mean()
    return result


def mean_of_living(values: Tensor, obs: Any) -> Tensor:
    """(V, B) values of views to (B,), differentiable."""
    if len(values) == 1 or "alive" not in obs:
        return values.mean(0)
    weight = obs["alive"].T / obs["alive"].sum(1)
    return (weight * values).sum(0)


def differentiable_sample(
    actor: Actor, output: Tensor, mask: Tensor | None, noise: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """The draw of ``actor.sample``, with torch's own derivatives."""
    if isinstance(actor, NormalActor):
        shape = (*output.shape[:-1], actor.size)
        return actor.policy.sample(output, torch.randn(shape, generator=noise))
    log_pi = actor.log_pi(output, mask)
    parts = []
    for scores in torch.split(noisy(log_pi, noise), actor.heads, -1):
        hard = F.one_hot(scores.argmax(-1), scores.shape[-1])
        soft = scores.softmax(-1)
        parts.append(hard + (soft - soft.detach()))
    encoding = torch.cat(parts, -1)
    return encoding, (encoding * log_pi).sum(-1)


class Naive:
    """One HASAC update as the specification writes it: no cached layer, autograd for everything.

    Takes over a HASAC's networks and generators (of a copy), so that results must be equal.
    """

    def __init__(self, agent: HASAC) -> None:
        self.agent = agent

    def value(self, critic: Any, obs: Any, actions: list[Tensor]) -> Tensor:
        """(K, views, B)."""
        state = obs["state"]
        views = [state] if isinstance(state, Tensor) else [state[n] for n in self.agent.names]
        return torch.stack([critic(view, actions) for view in views], 1)

    def climbed(self, obs: Any, actions: list[Tensor]) -> Tensor:
        """(B,)."""
        return mean_of_living(self.value(self.agent.critic, obs, actions).min(0).values, obs)

    def policy(self, obs: Any, name: str) -> tuple[Any, Tensor, Tensor | None]:
        actor = self.agent.actors[name]
        return actor, actor(obs["agents"][name]), obs.get("mask", {}).get(name)

    def step(self, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad(set_to_none=False)
        params = [p for group in optimizer.param_groups for p in group["params"]]
        loss.backward(inputs=params)
        optimizer.step()

    def update(self, batch: Batch) -> dict[str, float]:
        a, config = self.agent, self.agent.config
        order = a.orders.permutation(len(a.names)).tolist()
        alpha = dict(zip(a.names, a.temperature.value().expand(len(a.names)), strict=True))
        excesses = {}
        with torch.no_grad():
            next_actions, entropy = {}, 0.0
            living = batch.next_obs.get("alive", torch.ones(len(batch.reward), len(a.names)))
            for name in (name for stack in a.stacks for name in stack.names):  # in order of draws
                i = a.names.index(name)
                actor, output, mask = self.policy(batch.next_obs, name)
                action, log_prob = differentiable_sample(actor, output, mask, a.noise)
                if a._is_exact(actor):
                    p = actor.log_pi(output, mask).exp()
                    log_prob = torch.special.xlogy(p, p).sum(1)
                next_actions[name] = action
                entropy = entropy - living[:, i] * alpha[name] * log_prob
            joint = [next_actions[name] for name in a.names]
            next_value = self.value(a.target, batch.next_obs, joint).min(0).values
            next_value = of_living(next_value, batch.next_obs)
            target = batch.reward + batch.discount * (next_value + entropy)
        taken = [a.actors[n].encode(batch.action[n]) for n in a.names]
        error = self.value(a.critic, batch.obs, taken) - target
        weight = batch.weight[None].expand(error.shape[1:])
        alive = batch.obs.get("alive", torch.ones(len(batch.reward), len(a.names))).float()
        if error.shape[1] > 1:
            weight = weight * alive.T / alive.mean()
        loss = sum((weight * 0.5 * e.square()).mean() for e in error)
        self.step(loss, a.critic_optimizer)

        with torch.no_grad():
            current = [torch.zeros(len(alive), actor.size) for actor in a.actors.values()]
            for i in order[1:]:  # the first in order replaces its action at once
                actor, output, mask = self.policy(batch.obs, a.names[i])
                current[i] = differentiable_sample(actor, output, mask, a.noise)[0]
        for i in order:
            name = a.names[i]
            actor, output, mask = self.policy(batch.obs, name)
            w = alive[:, i] / alive[:, i].sum()
            if a._is_exact(actor):
                log_pi = actor.log_pi(output, mask)
                values = []
                for k in range(actor.size):
                    one = F.one_hot(torch.tensor(k), actor.size).float().expand(len(w), -1)
                    actions = [*current[:i], one, *current[i + 1 :]]
                    values.append(self.climbed(batch.obs, actions))
                p = log_pi.exp()
                soft = (p * (alpha[name] * log_pi - torch.stack(values, 1).detach())).sum(1)
                log_prob = (p * log_pi).sum(1)
            else:
                action, log_prob = differentiable_sample(actor, output, mask, a.noise)
                actions = [*current[:i], action, *current[i + 1 :]]
                value = self.climbed(batch.obs, actions)
                soft = alpha[name] * log_prob - value
            self.step((w * soft).sum(), a.actor_optimizers[name])
            excess = log_prob + actor.target_entropy(a.shares[name], mask)
            excesses[name] = (w * excess).sum().detach()
            if i == order[-1]:
                break
            with torch.no_grad():
                actor, output, mask = self.policy(batch.obs, name)
                current[i] = differentiable_sample(actor, output, mask, a.noise)[0]
        a.temperature.update(torch.stack([excesses[n] for n in a.names]))
        with torch.no_grad():
            for slow, fast in zip(a.target.parameters(), a.critic.parameters(), strict=True):
                slow.lerp_(fast, config.target_rate)
        return {"loss/critic": float(loss.detach())}
