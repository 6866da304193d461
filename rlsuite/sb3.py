"""Stable-Baselines3 models next to ours: evaluate or advise one, or go on from its SAC's weights.

All take a model that the caller has loaded (``stable_baselines3.SAC.load``). Its zip files hold
pickles, and loading one runs whatever code is in it: load only files whose origin you trust.
Nothing here reads such a file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from rlsuite.agents.sac import SAC, SACConfig
from rlsuite.envs.humans import Human
from rlsuite.errors import UserError
from rlsuite.nets import EnsembleMLP
from rlsuite.parts import LearnedTemperature
from rlsuite.types import Batch, State, Tree, Update

if TYPE_CHECKING:
    import stable_baselines3 as sb3


class SB3Agent:
    """A trained Stable-Baselines3 model as an agent that acts: for ``rlsuite.evaluate``.

    Any algorithm of Stable-Baselines3 itself serves (SAC, TD3, PPO, DQN, ...). Observations are
    normalised if the model was loaded with a ``VecNormalize`` environment. Exploration draws from
    torch's global generator, as in Stable-Baselines3.
    """

    def __init__(self, model: sb3.common.base_class.BaseAlgorithm) -> None:
        """``model`` is used as it is, on its own device. Raises UserError for anything else."""
        base = _import_sb3().common.base_class.BaseAlgorithm
        if not isinstance(model, base):
            raise UserError(
                f"SB3Agent needs a loaded Stable-Baselines3 model, got {type(model).__name__}: "
                "load it yourself, for instance with stable_baselines3.SAC.load(path)"
            )
        self.model = model

    def act(self, obs: Tree, *, explore: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
        """(N, ...) actions in the environment's units; nothing to store beside them."""
        action, _ = self.model.predict(self.normalized(obs), deterministic=not explore)
        return torch.as_tensor(np.asarray(action)), {}

    def normalized(self, obs: Tree) -> Any:
        """(N, ...) NumPy observations as the model was trained on."""
        array = _to_numpy(obs)
        normalize = self.model.get_vec_normalize_env()
        return array if normalize is None else normalize.normalize_obs(array)

    def update(self, batch: Batch) -> Update:
        """Raises UserError: the model is not trained here."""
        raise UserError("SB3Agent only acts: train the model with its own learn, or use from_sb3")

    def state_dict(self) -> State:
        """Nothing changes here, nothing is kept."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """Nothing is kept."""


class SB3Human(Human):
    """A trained Stable-Baselines3 model with discrete actions as the human who gets advice.

    Acts from softmax(scores / temperature): scores are a policy's logits (PPO, A2C) or DQN's action
    values; 0 takes the best. ``EpsilonHuman`` around it makes it clumsy, ``SeesThrough`` shows it
    other observations than the advisor's. Observations are normalised as for ``SB3Agent``.
    """

    def __init__(self, model: Any, temperature: float = 1.0) -> None:
        """Raises UserError unless it is a loaded model of DQN, or has a policy over Discrete."""
        self.agent, self.temperature = SB3Agent(model), temperature
        if not isinstance(model.action_space, gym.spaces.Discrete) or temperature < 0:
            raise UserError(
                f"SB3Human needs Discrete actions and a temperature of 0 or more, not "
                f"{model.action_space} and {temperature}"
            )

    @torch.no_grad()
    def probs(self, obs: Tree) -> Tensor:
        """(N, X) float64."""
        model = self.agent.model
        seen, _ = model.policy.obs_to_tensor(self.agent.normalized(obs))
        is_dqn = hasattr(model, "q_net")
        given = model if is_dqn else model.policy.get_distribution(seen).distribution
        scores: Tensor = given.q_net(seen) if is_dqn else given.logits
        scores = scores.cpu().to(torch.float64)
        if self.temperature == 0:
            return nn.functional.one_hot(scores.argmax(1), scores.shape[1]).to(torch.float64)
        return (scores / self.temperature).softmax(1)


def from_sb3(model: sb3.SAC, *, device: torch.device | str = "cpu", seed: int = 0) -> SAC:
    """Our SAC with the weights, targets, temperature and settings of a Stable-Baselines3 SAC.

    Its actions are those of ``model.predict``, its updates those of ``model.train`` at the learning
    rate that the model began with; only the optimizers start anew. Observations that were
    normalised by a ``VecNormalize`` have to be normalised for it too. Raises UserError unless the
    model has an MlpPolicy on a Box with ReLU, equal hidden layers for actor and critics, Adam and
    no gSDE.
    """
    check_sb3_sac(model)
    rate = float(model.lr_schedule(1.0))
    learned = model.ent_coef_optimizer is not None
    config = SACConfig(
        hidden=tuple(model.actor.net_arch),
        critics=model.critic.n_critics,
        lr_actor=rate,
        lr_critic=rate,
        lr_temperature=rate,
        temperature="auto" if learned else float(model.ent_coef_tensor),
        target_entropy=float(model.target_entropy),
        target_rate=model.tau,
        log_prob="epsilon",
    )
    agent = SAC(model.observation_space, model.action_space, config, device=device, seed=seed)
    copy_sb3_sac(model, agent)
    return agent


def copy_sb3_sac(model: sb3.SAC, agent: SAC) -> None:
    """Copy networks, targets and a learned temperature of a Stable-Baselines3 SAC into ``agent``.

    The agent's config has to fit (``from_sb3`` makes one that does); its optimizers stay as they
    are. Raises UserError if the networks differ in size or the model is not supported.
    """
    check_sb3_sac(model)
    actor = [[*_linears(model.actor.latent_pi), _stacked_heads(model.actor)]]
    critic = [_linears(net) for net in model.critic.q_networks]
    target = [_linears(net) for net in model.critic_target.q_networks]
    pairs = [(agent.actor, actor), (agent.critic, critic), (agent.target, target)]
    for ours, theirs in pairs:
        if _sizes(ours) != [[(w.shape[1], w.shape[0]) for w, _ in net] for net in theirs]:
            raise UserError(
                f"the agent's networks are {_sizes(ours)}, the model's "
                f"{[[(w.shape[1], w.shape[0]) for w, _ in net] for net in theirs]}: "
                "build the agent with from_sb3"
            )
    for ours, theirs in pairs:
        _copy_networks(theirs, ours)
    if isinstance(agent.temperature, LearnedTemperature) and model.log_ent_coef is not None:
        with torch.no_grad():
            agent.temperature.log_value.copy_(model.log_ent_coef)


def check_sb3_sac(model: sb3.SAC) -> None:
    """Raise UserError, with all reasons, unless our SAC computes what ``model`` does."""
    library = _import_sb3()
    if not isinstance(model, library.SAC):
        raise UserError(
            f"needs a loaded Stable-Baselines3 SAC, got {type(model).__name__}: "
            "load it yourself with stable_baselines3.SAC.load(path)"
        )
    policy, is_image = model.policy, library.common.preprocessing.is_image_space
    extractor, flat = policy.features_extractor_class, library.common.torch_layers.FlattenExtractor
    adam = policy.optimizer_class is torch.optim.Adam and not policy.optimizer_kwargs
    problems = {
        f"the policy {type(policy).__name__}": type(policy) is not library.sac.policies.SACPolicy,
        f"the observations {model.observation_space}": (
            not isinstance(model.observation_space, gym.spaces.Box)
            or (policy.normalize_images and is_image(model.observation_space))
        ),
        f"the features {extractor.__name__}": extractor is not flat,
        "gSDE (use_sde)": model.use_sde,
        f"the activation {policy.activation_fn.__name__}": policy.activation_fn is not nn.ReLU,
        "other hidden layers in the critics than in the actor": (
            isinstance(policy.net_arch, dict) and policy.net_arch["pi"] != policy.net_arch["qf"]
        ),
        f"the optimizer {policy.optimizer_class.__name__} {policy.optimizer_kwargs}": not adam,
        f"target_update_interval {model.target_update_interval}": model.target_update_interval != 1,
        "a temperature (ent_coef) of zero": (
            model.ent_coef_optimizer is None and float(model.ent_coef_tensor) <= 0
        ),
    }
    found = [name for name, present in problems.items() if present]
    if found:
        raise UserError(
            f"this Stable-Baselines3 SAC has {', '.join(found)}; supported is an MlpPolicy on a "
            "Box, with ReLU, equal hidden layers, Adam, targets moved at every update, no gSDE"
        )


def _import_sb3() -> Any:
    try:
        import stable_baselines3
    except ImportError:
        raise UserError(
            "Stable-Baselines3 needs the sb3 extra: pip install 'rlsuite[sb3]'"
        ) from None
    return stable_baselines3


def _to_numpy(obs: Tree) -> Any:
    if isinstance(obs, Tensor):
        return obs.cpu().numpy()
    return {key: _to_numpy(child) for key, child in obs.items()}


def _linears(net: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """(out, in) weight and (out,) bias of each linear layer, first to last."""
    return [(m.weight, m.bias) for m in net.modules() if isinstance(m, nn.Linear)]


def _stacked_heads(actor: Any) -> tuple[Tensor, Tensor]:
    """Our actor has mean and log standard deviation in one last layer, in this order."""
    heads = (actor.mu, actor.log_std)
    return torch.cat([h.weight for h in heads]), torch.cat([h.bias for h in heads])


def _sizes(net: EnsembleMLP) -> list[list[tuple[int, int]]]:
    """(in, out) of each layer of each member."""
    return [[(w.shape[1], w.shape[2]) for w in net.weights] for _ in range(len(net.weights[0]))]


@torch.no_grad()
def _copy_networks(theirs: list[list[tuple[Tensor, Tensor]]], ours: EnsembleMLP) -> None:
    for member, net in enumerate(theirs):
        for layer, (weight, bias) in enumerate(net):
            ours.weights[layer][member].copy_(weight.T)
            ours.biases[layer][member, 0].copy_(bias)
