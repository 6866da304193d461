"""Multi-Agent Proximal Policy Optimization (Yu et al., NeurIPS 2022, arXiv 2103.01955).

Trained by ``rlsuite.loops.rollout_loop`` on cooperative environments with spaces keyed by agent
(``rlsuite.envs.team``), the same for all agents. They share one policy, which sees the
agent's number as a one-hot vector beside its observation, and learns from all of them at once; the
value is central, as HAPPO's.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from rlsuite.agents import happo
from rlsuite.agents.happo import (
    CentralValue,
    HAPPOConfig,
    Rows,
    flat,
    improve,
    standardized,
)
from rlsuite.agents.ppo import minibatches
from rlsuite.errors import UserError
from rlsuite.optim import load_optimizer_state, make_optimizer, optimizer_state
from rlsuite.policies import observation_size
from rlsuite.rng import derive_seed, generator
from rlsuite.rollout_policies import make_policy
from rlsuite.teams import agent_spaces, alive_of, mask_of, own
from rlsuite.tree import flatten_features, to_device
from rlsuite.types import Rollout, State, Tree, Update

METRICS = {name: meaning for name, meaning in happo.METRICS.items() if name != "policy/factor"}

MAPPOConfig = HAPPOConfig


class MAPPO:
    """Multi-Agent Proximal Policy Optimization. Observations and actions are those of HAPPO."""

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        config: MAPPOConfig | None = None,
        *,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        """Fresh networks. Raises UserError unless the spaces are keyed by agent and all equal."""
        self.config = config = config or MAPPOConfig()
        self.device = torch.device(device)
        spaces = agent_spaces(observation_space, action_space, "MAPPO", flattens=True)
        self.names = list(spaces)
        observation, action = _common(spaces, observation_space)
        weights = generator(seed, "mappo weights")
        features = observation_size(observation, "MAPPO") + len(self.names)
        self.policy = make_policy(
            gym.spaces.Box(-np.inf, np.inf, (features,)),
            action,
            config.hidden,
            "MAPPO",
            activation=config.activation,
            initial_log_std=config.initial_log_std,
            generator=weights,
            device=self.device,
        )
        self.optimizer = make_optimizer(
            config.optimizer, self.policy.parameters(), config.lr_actor, eps=config.optimizer_eps
        )
        self.critic = CentralValue(observation_space, self.names, config, weights, self.device)
        self.numbers = torch.eye(len(self.names), device=self.device)
        self.noise = generator(seed, "mappo noise", device=self.device)
        # The host's own: minibatches are the same on every device.
        self.orders = np.random.Generator(np.random.PCG64(derive_seed(seed, "mappo orders")))

    @torch.no_grad()
    def act(self, obs: Tree, *, explore: bool = True) -> tuple[Tree, dict[str, Tensor]]:
        """(N, ...) actions of every agent in the environment's units: sampled or, without
        ``explore``, the means and the likeliest. While exploring also what ``update`` needs of
        them: (N, A, D) samples, (N, A) log probabilities, and (N, views) values."""
        obs = to_device(obs, self.device)
        features, mask = self._stacked(obs)
        sample, log_prob = self.policy.sample(features, mask, self.noise, explore=explore)
        parts = self.policy.to_action(sample).chunk(len(self.names))
        actions: dict[str, Tree] = dict(zip(self.names, parts, strict=True))
        if not explore:
            return actions, {}
        return actions, {
            "sample": torch.stack(sample.chunk(len(self.names)), 1),
            "log_prob": torch.stack(log_prob.chunk(len(self.names)), 1),
            "value": self.critic.values(obs),
        }

    def update(self, rollout: Rollout) -> Update:
        """All epochs over a rollout on the agent's device, made by the policy as it is."""
        advantage, target = self.critic.advantages(rollout)
        obs, steps = flat(rollout.obs), len(target)
        alive = alive_of(obs, self.names, steps, self.device)
        rows = Rows(
            *self._stacked(obs),
            rollout.extra["sample"].flatten(0, 1).transpose(0, 1).flatten(0, 1),
            rollout.extra["log_prob"].flatten(0, 1).T.flatten(),
            standardized(advantage.expand_as(alive).T.flatten(), alive.T.flatten()),
            alive.T.flatten(),
            "alive" in obs,
        )
        metrics = improve(
            self.policy, self.optimizer, rows, self._batches(len(rows.alive)), self.config
        )
        metrics |= self.critic.learn(obs, target, alive, self._batches(steps))
        return Update(metrics | {"value/mean": rollout.extra["value"].mean()})

    def _batches(self, rows: int) -> Any:
        size = -(-rows // self.config.minibatches)
        return minibatches(self.orders, rows, size, self.config.epochs, self.device)

    def _stacked(self, obs: Tree) -> tuple[Tensor, Tensor | None]:
        """(A B, ...) what the policy sees, agent after agent, and which actions are available."""
        features = torch.stack([flatten_features(own(obs, name)) for name in self.names])
        numbers = self.numbers[:, None].expand(-1, features.shape[1], -1)
        masks = [mask_of(obs, name) for name in self.names]
        mask = None if masks[0] is None else torch.cat(masks)  # type: ignore[arg-type]
        return torch.cat([features, numbers], 2).flatten(0, 1), mask

    def state_dict(self) -> State:
        """Networks, optimizers, value statistics and both generators."""
        return {
            "policy": self.policy.state_dict(),
            "optimizer": optimizer_state(self.optimizer),
            "critic": self.critic.state_dict(),
            "noise": self.noise.get_state(),
            "orders": self.orders.bit_generator.state,
        }

    def load_state_dict(self, state: State) -> None:
        """Continue from a saved state of an agent with the same spaces and config."""
        self.policy.load_state_dict(state["policy"])
        load_optimizer_state(self.optimizer, state["optimizer"])
        self.critic.load_state_dict(state["critic"])
        self.noise.set_state(state["noise"])
        self.orders.bit_generator.state = state["orders"]


def _common(
    spaces: dict[str, tuple[gym.Space[Any], gym.Space[Any]]], observation_space: gym.Space[Any]
) -> tuple[gym.Space[Any], gym.Space[Any]]:
    """The observation and action space that all agents have."""
    (first, pair), *others = spaces.items()
    for name, other in others:
        if other != pair:
            raise UserError(
                "MAPPO shares one policy among agents with equal spaces; "
                f"{first} has {pair}, {name} has {other}: take HAPPO"
            )
    masked = observation_space["mask"].keys() if "mask" in observation_space.keys() else ()  # type: ignore[attr-defined, index]  # noqa: SIM118
    if 0 < len(masked) < len(spaces):
        raise UserError(
            "MAPPO shares one policy among agents that all have action masks, or none; only "
            f"{', '.join(masked)} have: take HAPPO"
        )
    return pair
