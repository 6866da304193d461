"""Truncated Quantile Critics (Kuznetsov et al., arXiv 2005.04269).

SAC whose critics predict quantiles of the return; the highest of the pooled quantiles are left out
of the target, which tames overestimation in finer steps than the least of two values.

Trained by ``rlsuite.loops.replay_loop``. Continuous actions; observations are flattened.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import gymnasium as gym
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from rlsuite.errors import UserError
from rlsuite.nets import EnsembleMLP, Init
from rlsuite.optim import descend, load_optimizer_state, make_optimizer, optimizer_state
from rlsuite.parts import make_temperature, move_target
from rlsuite.policies import SquashedNormalPolicy, observation_size
from rlsuite.rng import generator
from rlsuite.settings import Count, Finite, Fraction, Positive, PositiveCount, settings
from rlsuite.tree import flatten_features, to_device
from rlsuite.types import Batch, State, Tree, Update

METRICS = {
    "loss/critic": "Quantile Huber loss, mean over critics, quantiles and target atoms.",
    "loss/actor": "temperature * log pi - Q, the loss of the policy.",
    "loss/temperature": "The loss of the log temperature; 0 if the temperature is fixed.",
    "value/q": "Mean of all quantiles of all critics over the batch.",
    "policy/entropy": "Minus the mean log probability of the policy's actions, in nats.",
    "policy/temperature": "Weight of the entropy against the reward.",
}


@settings
class TQCConfig:
    """Settings of TQC. The defaults are the paper's."""

    hidden_actor: Annotated[tuple[PositiveCount, ...], Field(strict=False)] = (256, 256)
    """Units of each hidden layer of the actor."""
    hidden_critic: Annotated[tuple[PositiveCount, ...], Field(strict=False)] = (512, 512, 512)
    """Units of each hidden layer of each critic."""
    critics: PositiveCount = 5
    """Number of critics."""
    quantiles: PositiveCount = 25
    """Quantiles that each critic predicts."""
    dropped_quantiles: Count = 2
    """Quantiles left out of the target for each critic, below ``quantiles``: the highest
    ``critics * dropped_quantiles`` of all critics' pooled."""
    lr_actor: Positive = 3e-4
    """Learning rate of the policy."""
    lr_critic: Positive = 3e-4
    """Learning rate of the critics."""
    lr_temperature: Positive = 3e-4
    """Learning rate of the log temperature."""
    optimizer: str = "Adam"
    """Class name in torch.optim, or in the package pytorch-optimizer."""
    temperature: Literal["auto"] | Positive = "auto"
    """Weight of the entropy against the reward: "auto" learns it, a number fixes it."""
    initial_temperature: Positive = 1.0
    """Where a learned temperature starts."""
    target_entropy: Literal["auto"] | Finite = "auto"
    """Entropy in nats, over actions scaled to [-1, 1], that a learned temperature holds; "auto" is
    minus the number of action dimensions."""
    target_rate: Fraction = 0.005
    """Share of the critics that flows into their targets at each update (tau)."""
    init: Init = "torch"
    """First weights: "torch" (PyTorch's linear layer) or "xavier" (uniform, zero biases)."""


class TQC:
    """Truncated Quantile Critics: K critics of M quantiles.

    Actions at the interface are in the environment's units, inside scaled to [-1, 1].
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        config: TQCConfig | None = None,
        *,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        """Fresh networks. Raises UserError unless the action space is a bounded Box, or if no
        quantile would be left."""
        self.config = config = config or TQCConfig()
        if config.dropped_quantiles >= config.quantiles:
            raise UserError(
                f"dropped_quantiles is {config.dropped_quantiles}: TQC needs less than the "
                f"{config.quantiles} quantiles that each critic has"
            )
        self.device = torch.device(device)
        self.policy = SquashedNormalPolicy(action_space, self.device, "TQC")
        actions, obs_size = self.policy.actions, observation_size(observation_space, "TQC")

        weights = generator(seed, "tqc weights")

        def network(members: int, sizes: list[int]) -> EnsembleMLP:
            return EnsembleMLP(
                members, sizes, init=config.init, generator=weights, device=self.device
            )

        critic_sizes = [obs_size + actions, *config.hidden_critic, config.quantiles]
        self.actor = network(1, [obs_size, *config.hidden_actor, 2 * actions])
        self.critic = network(config.critics, critic_sizes)
        self.target = network(config.critics, critic_sizes).requires_grad_(False)
        move_target(self.target.parameters(), self.critic.parameters(), 1.0)

        self.actor_optimizer = make_optimizer(
            config.optimizer, self.actor.parameters(), config.lr_actor
        )
        self.critic_optimizer = make_optimizer(
            config.optimizer, self.critic.parameters(), config.lr_critic
        )
        self.temperature = make_temperature(config, actions, self.device)
        self.noise = generator(seed, "tqc noise", device=self.device)

    @torch.no_grad()
    def act(self, obs: Tree, *, explore: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
        """(N, *action shape) actions in the environment's units, sampled or, without ``explore``,
        at the squashed mean; nothing to store beside them."""
        output = self.actor(self._features(obs))[0]
        return self.policy.act(output, self.noise, explore=explore), {}

    def update(self, batch: Batch) -> Update:
        """One update from a batch on the agent's device, with fresh noise."""
        shape = (2, len(batch.reward), self.policy.actions)
        noise = torch.randn(shape, generator=self.noise, device=self.device)
        return self.learn(batch, noise)

    def learn(self, batch: Batch, noise: Tensor) -> Update:
        """One update with given standard normal noise: critics, policy, temperature, targets.

        Args:
            batch: B transitions.
            noise: (2, B, D): for the next actions, then for the policy's update.

        Returns:
            METRICS and, as priority, the mean over the critics of the absolute difference between
            a critic's mean and the target's.
        """
        obs, next_obs = self._features(batch.obs), self._features(batch.next_obs)
        assert isinstance(batch.reward, Tensor)
        reward, discount = batch.reward[:, None], batch.discount[:, None]
        action = self.policy.to_unit(batch.action)
        temperature = self.temperature.value()

        with torch.no_grad():  # figure 2: the kept atoms of the pool, and their backup
            next_action, next_log_prob = self.policy.sample(self.actor(next_obs)[0], noise[0])
            next_atoms = self._keep_lowest(self._quantiles(self.target, next_obs, next_action))
            atoms = reward + discount * (next_atoms - temperature * next_log_prob[:, None])

        quantiles = self._quantiles(self.critic, obs, action)
        critic_loss = (batch.weight * quantile_huber_loss(quantiles, atoms)).mean()
        descend(critic_loss, self.critic_optimizer)

        new_action, log_prob = self.policy.sample(self.actor(obs)[0], noise[1])
        value = self._quantiles(self.critic, obs, new_action).mean((0, 2))
        actor_loss = (temperature * log_prob - value).mean()
        descend(actor_loss, self.actor_optimizer)
        temperature_loss = self.temperature.update(log_prob)

        move_target(self.target.parameters(), self.critic.parameters(), self.config.target_rate)
        means = quantiles.detach().mean(2)
        metrics = {
            "loss/critic": critic_loss.detach(),
            "loss/actor": actor_loss.detach(),
            "loss/temperature": temperature_loss,
            "value/q": means.mean(),
            "policy/entropy": -log_prob.detach().mean(),
            "policy/temperature": temperature,
        }
        return Update(metrics, priority=(means - atoms.mean(1)).abs().mean(0))

    def _features(self, obs: Tree) -> Tensor:
        return flatten_features(to_device(obs, self.device))

    def _quantiles(self, critic: nn.Module, features: Tensor, action: Tensor) -> Tensor:
        """(K, B, M) quantiles."""
        quantiles: Tensor = critic(torch.cat([features, action], dim=1))
        return quantiles

    def _keep_lowest(self, quantiles: Tensor) -> Tensor:
        """(K, B, M) quantiles, pooled over the critics, to the (B, kept) lowest."""
        kept = self.config.critics * (self.config.quantiles - self.config.dropped_quantiles)
        return quantiles.transpose(0, 1).flatten(1).sort(dim=1).values[:, :kept]

    def state_dict(self) -> State:
        """Networks, optimizers, temperature and noise generator."""
        return {
            "actor": self.actor.state_dict(),
            "critic": self.critic.state_dict(),
            "target": self.target.state_dict(),
            "actor_optimizer": optimizer_state(self.actor_optimizer),
            "critic_optimizer": optimizer_state(self.critic_optimizer),
            "temperature": self.temperature.state_dict(),
            "noise": self.noise.get_state(),
        }

    def load_state_dict(self, state: State) -> None:
        """Continue from a saved state of an agent with the same spaces and config."""
        for name in ("actor", "critic", "target"):
            getattr(self, name).load_state_dict(state[name])
        load_optimizer_state(self.actor_optimizer, state["actor_optimizer"])
        load_optimizer_state(self.critic_optimizer, state["critic_optimizer"])
        self.temperature.load_state_dict(state["temperature"])
        self.noise.set_state(state["noise"])


def quantile_huber_loss(quantiles: Tensor, atoms: Tensor) -> Tensor:
    """(B,) loss of (K, B, M) quantiles against the (B, L) atoms of a target (kappa 1).

    Quantile m of M is the level (2m - 1) / 2M. The mean over critics, quantiles and atoms, as in
    the authors' code; the paper sums over the quantiles.
    """
    count = quantiles.shape[-1]
    shape = (*quantiles.shape, atoms.shape[-1])
    guess = quantiles[..., None].expand(shape)
    atom = atoms[:, None].expand(shape)
    levels = (torch.arange(count, device=quantiles.device)[:, None] + 0.5) / count
    below = (atom < guess).to(levels.dtype)
    huber = F.huber_loss(guess, atom, reduction="none")
    return ((levels - below).abs() * huber).mean((0, 2, 3))
