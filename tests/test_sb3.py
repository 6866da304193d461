"""Stable-Baselines3 models beside ours: the same actions, the same returns, clear refusals."""

import functools
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from rlsuite.agents.sac import SAC, SACConfig
from rlsuite.config import load_experiment
from rlsuite.envs import AdviceVectorEnv, SerialVectorEnv
from rlsuite.envs.humans import EpsilonHuman
from rlsuite.errors import UserError
from rlsuite.evaluate import evaluate
from rlsuite.sb3 import SB3Agent, SB3Human, copy_sb3_sac, from_sb3

sb3 = pytest.importorskip("stable_baselines3")


class Shaped(gym.Env):
    """Observations and actions of two axes, and bounds that are not symmetric."""

    action_space = gym.spaces.Box(
        np.array([[-1, 0, 2], [-5, -1, 0]], np.float32),
        np.array([[1, 4, 3], [5, 0, 9]], np.float32),
    )

    def __init__(self, observation_space: gym.Space[Any] | None = None) -> None:
        self.observation_space = observation_space or gym.spaces.Box(-1, 1, (2, 2), np.float32)


def pendulum() -> gym.Env[Any, Any]:
    return gym.make("Pendulum-v1", max_episode_steps=50)


def sac(env: gym.Env[Any, Any], policy: str = "MlpPolicy", **kwargs: Any) -> Any:
    policy_kwargs = {"net_arch": [32, 32], **kwargs.pop("policy_kwargs", {})}
    return sb3.SAC(
        policy, env, seed=3, device="cpu", buffer_size=2, policy_kwargs=policy_kwargs, **kwargs
    )


def decisive(model: Any) -> Any:
    """Untrained heads are near zero: enlarge them, so that actions differ from state to state."""
    with torch.no_grad():
        for head in (model.actor.mu, model.actor.log_std):
            head.weight.mul_(8)
    return model


@pytest.mark.parametrize("make", [pendulum, Shaped])
def test_same_actions(make: Callable[[], gym.Env[Any, Any]], tmp_path: Path) -> None:
    decisive(sac(make())).save(tmp_path / "model.zip")
    model = sb3.SAC.load(tmp_path / "model.zip", device="cpu")
    obs = torch.randn(
        64, *model.observation_space.shape, generator=torch.Generator().manual_seed(0)
    )
    expected = model.predict(obs.numpy(), deterministic=True)[0]
    atol = 1e-6 * max(1.0, (model.action_space.high - model.action_space.low).max() / 2)
    assert expected.std(0).min() > 0.05
    for agent in (SB3Agent(model), from_sb3(model)):
        action, extra = agent.act(obs, explore=False)
        assert extra == {}
        np.testing.assert_allclose(action.numpy(), expected, rtol=0, atol=atol)


def test_same_returns() -> None:
    model = decisive(sac(pendulum()))
    results = []
    for agent in (SB3Agent(model), from_sb3(model)):
        envs = SerialVectorEnv(pendulum, 4)
        results.append(evaluate(agent, envs, seed=11, transitions=0))
        envs.close()
    theirs, ours = results
    assert len(set(theirs.returns)) == 4
    np.testing.assert_allclose(ours.returns, theirs.returns, rtol=1e-3)
    assert ours.lengths == theirs.lengths == [50] * 4


def test_exploration_samples_the_same_law() -> None:
    model = sac(pendulum())
    with torch.no_grad():
        model.actor.log_std.bias.fill_(-1.0)
        model.actor.mu.bias.fill_(0.3)
    obs = torch.zeros(20_000, 3)
    torch.manual_seed(0)
    theirs, ours = (agent.act(obs)[0] for agent in (SB3Agent(model), from_sb3(model)))
    for moment in (torch.mean, torch.std):
        assert moment(ours).item() == pytest.approx(moment(theirs).item(), abs=0.02)
    assert theirs.std() > 0.3


def test_observations_are_normalised_with_the_model() -> None:
    envs = sb3.common.vec_env.VecNormalize(sb3.common.vec_env.DummyVecEnv([pendulum]))
    model = decisive(sac(envs))
    envs.obs_rms.mean[:], envs.obs_rms.var[:] = 1.0, 4.0
    obs = torch.randn(8, 3)
    action, _ = SB3Agent(model).act(obs, explore=False)
    expected, _ = from_sb3(model).act((obs - 1) / 2, explore=False)
    torch.testing.assert_close(action, expected, rtol=0, atol=1e-5)


def test_other_algorithms_and_dict_observations_can_act() -> None:
    space = gym.spaces.Dict({"a": gym.spaces.Box(-1, 1, (2,)), "b": gym.spaces.Discrete(3)})
    model = sac(Shaped(space), "MultiInputPolicy")
    action, _ = SB3Agent(model).act({"a": torch.zeros(5, 2), "b": torch.ones(5, dtype=torch.int64)})
    assert action.shape == (5, 2, 3)
    dqn = sb3.DQN("MlpPolicy", "CartPole-v1", device="cpu", buffer_size=2)
    action, _ = SB3Agent(dqn).act(torch.zeros(5, 4), explore=False)
    assert action.shape == (5,) and action.dtype == torch.int64


def test_settings_come_along() -> None:
    model = sac(
        pendulum(),
        tau=0.02,
        learning_rate=1e-3,
        ent_coef="auto_0.2",
        target_entropy=-2.5,
        policy_kwargs={"n_critics": 3},
    )
    assert from_sb3(model).config == SACConfig(
        hidden=(32, 32),
        critics=3,
        lr_actor=1e-3,
        lr_critic=1e-3,
        lr_temperature=1e-3,
        target_rate=0.02,
        target_entropy=-2.5,
        log_prob="epsilon",
    )
    assert from_sb3(model).temperature.value().item() == pytest.approx(0.2)
    assert from_sb3(sac(pendulum(), ent_coef=0.3)).temperature.value().item() == pytest.approx(0.3)


def custom_features() -> type:
    class Doubled(sb3.common.torch_layers.FlattenExtractor):
        def forward(self, observations: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(observations)

    return Doubled


UNSUPPORTED = {
    "gSDE": lambda: sac(pendulum(), use_sde=True),
    "Tanh": lambda: sac(pendulum(), policy_kwargs={"activation_fn": nn.Tanh}),
    "hidden layers": lambda: sac(pendulum(), policy_kwargs={"net_arch": {"pi": [8], "qf": [9]}}),
    "Doubled": lambda: sac(
        pendulum(), policy_kwargs={"features_extractor_class": custom_features()}
    ),
    "AdamW": lambda: sac(pendulum(), policy_kwargs={"optimizer_class": torch.optim.AdamW}),
    "eps": lambda: sac(pendulum(), policy_kwargs={"optimizer_kwargs": {"eps": 1e-3}}),
    "target_update_interval 2": lambda: sac(pendulum(), target_update_interval=2),
    "ent_coef": lambda: sac(pendulum(), ent_coef=0.0),
    "Discrete": lambda: sac(Shaped(gym.spaces.Discrete(3))),
    "CnnPolicy": lambda: sac(Shaped(gym.spaces.Box(0, 255, (36, 36, 3), np.uint8)), "CnnPolicy"),
    "observations Box": lambda: sac(Shaped(gym.spaces.Box(0, 255, (36, 36, 3), np.uint8))),
    "MultiInputPolicy": lambda: sac(
        Shaped(gym.spaces.Dict({"a": gym.spaces.Box(-1, 1, (2,))})), "MultiInputPolicy"
    ),
    "TD3": lambda: sb3.TD3("MlpPolicy", pendulum(), device="cpu", buffer_size=2),
    "str": lambda: "model.zip",
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_from_sb3_names_what_it_does_not_support(name: str) -> None:
    with pytest.raises(UserError, match=name):
        from_sb3(UNSUPPORTED[name]())


def test_copy_refuses_networks_of_other_sizes() -> None:
    model = sac(pendulum())
    other = SAC(model.observation_space, model.action_space, SACConfig(hidden=(32, 31)))
    before = [p.clone() for p in other.actor.parameters()]
    with pytest.raises(UserError, match="from_sb3"):
        copy_sb3_sac(model, other)
    assert all(torch.equal(p, q) for p, q in zip(before, other.actor.parameters(), strict=True))


def test_sb3_agent_takes_a_loaded_model_and_does_not_learn() -> None:
    with pytest.raises(UserError, match=r"SAC\.load"):
        SB3Agent("model.zip")
    agent = SB3Agent(sac(pendulum()))
    with pytest.raises(UserError, match="from_sb3"):
        agent.update(None)
    agent.load_state_dict(agent.state_dict())


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model = sac(pendulum())
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    for function in (SB3Agent, from_sb3):
        with pytest.raises(UserError, match=r"sb3 extra: pip install 'rlsuite\[sb3\]'"):
            function(model)


def test_preset_is_sb3s_own_defaults() -> None:
    """``sac/like_sb3`` against the signature of the installed library."""
    theirs = {n: p.default for n, p in inspect.signature(sb3.SAC.__init__).parameters.items()}
    ours = load_experiment("sac/like_sb3")
    agent = ours.agent
    assert theirs["learning_rate"] == agent.lr_actor == agent.lr_critic == agent.lr_temperature
    assert (theirs["tau"], theirs["gamma"]) == (agent.target_rate, ours.replay.discount)
    assert theirs["buffer_size"] == ours.replay.capacity
    assert theirs["learning_starts"] == ours.plan.warmup_transitions
    assert theirs["batch_size"] == ours.plan.batch_size
    assert (theirs["ent_coef"], theirs["target_entropy"]) == ("auto", "auto")
    assert (agent.temperature, agent.target_entropy, agent.initial_temperature) == (
        *("auto", "auto"),
        1.0,
    )
    assert theirs["train_freq"] == theirs["gradient_steps"] == ours.plan.updates_per_transition
    assert ours.replay.sampler == "uniform" and theirs["n_steps"] == ours.replay.n_step


@pytest.mark.parametrize("name", ["PPO", "A2C", "DQN"])
def test_a_model_as_the_human_who_gets_advice(name: str) -> None:
    """Its own probabilities; at temperature 0 what it predicts; and it is advised in CartPole."""
    kwargs = {"buffer_size": 2} if name == "DQN" else {}
    model = getattr(sb3, name)("MlpPolicy", "CartPole-v1", seed=1, device="cpu", **kwargs)
    obs = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    greedy = SB3Human(model, temperature=0.0).probs(obs)
    predicted = torch.as_tensor(model.predict(obs.numpy(), deterministic=True)[0])
    assert torch.equal(greedy.argmax(1), predicted) and set(greedy.unique().tolist()) == {0.0, 1.0}
    if name == "DQN":
        expected = (model.q_net(obs) / 0.5).softmax(1)
        found = SB3Human(model, temperature=0.5).probs(obs)
    else:
        expected = model.policy.get_distribution(obs).distribution.probs
        found = SB3Human(model).probs(obs)
    torch.testing.assert_close(found, expected.detach().double(), rtol=1e-5, atol=1e-6)
    envs = SerialVectorEnv(functools.partial(gym.make, "CartPole-v1"), 2)
    people = AdviceVectorEnv(envs, EpsilonHuman(SB3Human(model), 0.2), 0.5)
    people.reset(0)
    assert people.step(people.sample_actions()).step.extra["executed"].shape == (2,)


def test_a_human_has_discrete_actions() -> None:
    with pytest.raises(UserError, match="needs Discrete actions"):
        SB3Human(sac(pendulum()))
