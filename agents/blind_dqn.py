"""Blind advice: deep Q-learning of the task itself, whose best action is the advice.

The baseline that AADQN is measured against. It learns from the actions that were executed, and
takes it that advice is always followed. (The other baseline, which takes the advices for the
actions and does not look at what was executed, is agents/dqn.py in an ``AdviceVectorEnv``.)

Trained by ``rlsuite.loops.replay_loop`` in an ``AdviceVectorEnv``. Box observations.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import gymnasium as gym
import torch
from pydantic import Field
from torch import Tensor

from rlsuite.agents import dqn
from rlsuite.agents.aadqn import advice_space, beliefs, surprise
from rlsuite.agents.dqn import DQN, DQNConfig
from rlsuite.nets import Network
from rlsuite.optim import descend, load_optimizer_state, make_optimizer, optimizer_state
from rlsuite.rng import generator
from rlsuite.settings import NonNegative, PositiveCount, settings
from rlsuite.tree import to_device
from rlsuite.types import Batch, State, Tree, Update

METRICS = {
    **dqn.METRICS,
    "loss/people": "Negative log likelihood of the executed actions given the advice, in nats.",
}


@settings
class BlindDQNConfig(DQNConfig):
    """Settings of blind advice: DQN's, and when to be silent."""

    hidden_people: Annotated[tuple[PositiveCount, ...], Field(strict=False)] = (64, 64)
    """Units of each fully connected layer of the network of the human."""
    threshold: NonNegative | None = None
    """Advise only where the best action is worth more than this above the human's likeliest one;
    unset always advises."""


class BlindDQN:
    """A DQN of the task, whose actions are advised. Actions at the interface are advice."""

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        config: BlindDQNConfig | None = None,
        *,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        """Fresh networks. Raises UserError unless actions are advice and observations a Box."""
        self.config = config = config or BlindDQNConfig()
        self.device = torch.device(device)
        self.space = advice_space(action_space, "blind DQN")
        self.actions = self.space.actions
        executed = gym.spaces.Discrete(self.actions)
        self.dqn = DQN(observation_space, executed, config, device=device, seed=seed)
        self.people = Network(
            observation_space,
            config.hidden_people,
            2 * self.actions,
            generator=generator(seed, "blind dqn people"),
            device=self.device,
        )
        self.optimizer = make_optimizer(config.optimizer, self.people.parameters(), config.lr)

    @torch.no_grad()
    def act(self, obs: Tree, *, explore: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
        """(N,) int64 epsilon-greedy advice; nothing to store beside it."""
        on_device = to_device(obs, self.device)
        values = self.dqn.online(on_device)
        advice = values.argmax(1)
        if self.config.threshold is not None:
            likely = beliefs(self.people(on_device))[0].argmax(1, keepdim=True)
            gain = values.amax(1) - values.gather(1, likely)[:, 0]
            advice = torch.where(gain > self.config.threshold, advice, self.actions)
        return self.dqn.exploration(advice, self.actions + 1, explore=explore), {}

    def update(self, batch: Batch) -> Update:
        """One update from a batch on the agent's device: the task's values, and the human."""
        assert isinstance(batch.action, Tensor) and isinstance(batch.obs, Tensor)
        executed, reward = batch.extra["executed"], batch.extra["reward"]
        update = self.dqn.update(replace(batch, action=executed, reward=reward))
        heard = self.space.heard(batch.obs, batch.action)
        loss = surprise(self.people(batch.obs), heard, executed).mean()
        descend(loss, self.optimizer, self.config.max_grad_norm)
        return update._replace(metrics=update.metrics | {"loss/people": loss.detach()})

    def state_dict(self) -> State:
        """The DQN's, network and optimizer of the human."""
        return {
            "dqn": self.dqn.state_dict(),
            "people": self.people.state_dict(),
            "optimizer": optimizer_state(self.optimizer),
        }

    def load_state_dict(self, state: State) -> None:
        """Continue from a saved state of an agent with the same spaces and config."""
        self.dqn.load_state_dict(state["dqn"])
        self.people.load_state_dict(state["people"])
        load_optimizer_state(self.optimizer, state["optimizer"])
