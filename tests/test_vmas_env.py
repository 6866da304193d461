"""VMAS as a vector environment: VMAS's own numbers, ends, seeds, resume, and HASAC trains."""

import numpy as np
import pytest
import torch
from adapter_cases import train_hasac
from gymnasium import spaces
from test_vector import same_bits, same_step

from rlsuite.config import build_experiment
from rlsuite.envs import VmasVectorEnv
from rlsuite.envs.lane import episode_seed
from rlsuite.errors import UserError

vmas = pytest.importorskip("vmas")
LIMIT = 7


def build(scenario="balance", num_envs=3, seed=5, **kwargs):
    return VmasVectorEnv(scenario, num_envs, seed, **{"step_limit": LIMIT, **kwargs})


@pytest.mark.parametrize(
    ("scenario", "kwargs"),
    [
        ("balance", {"n_agents": 2}),
        ("balance", {"continuous_actions": False}),
        ("simple_reference", {"team_reward": "sum"}),
        ("wheel", {"n_agents": 2}),  # whose rewards are (N, 1)
        ("simple_reference", {"team_reward": "mean", "continuous_actions": False}),
    ],
)
def test_steps_are_those_of_vmas(scenario, kwargs):
    envs = build(scenario, **kwargs)
    rule = kwargs.pop("team_reward", "mean")  # of equal rewards any
    own = vmas.make_env(scenario, 3, seed=0, **kwargs)
    numbers, length = [0, 0, 0], torch.zeros(3)

    def begin(row):
        own.seed(episode_seed(5, row, numbers[row]))
        return own.reset_at(row)

    for row in range(3):
        expected = begin(row)
    obs = envs.reset()
    ends = 0
    for _ in range(4 * LIMIT):
        assert list(obs["agents"]) == [agent.name for agent in own.agents]
        for seen, wanted in zip(obs["agents"].values(), expected, strict=True):
            assert torch.equal(seen, wanted)
        assert torch.equal(obs["state"], torch.cat(expected, 1))
        actions = envs.sample_actions()
        stepped = envs.step(actions)
        expected, rewards, done, _ = own.step(list(actions.values()))
        assert torch.equal(stepped.step.next_obs["state"], torch.cat(expected, 1))
        total = getattr(torch.stack(rewards).reshape(-1, 3), rule)(0)
        torch.testing.assert_close(stepped.step.reward, total, rtol=1e-6, atol=1e-6)
        length += 1
        assert torch.equal(stepped.step.terminated, done)
        assert torch.equal(stepped.step.truncated, length >= LIMIT)
        over = (done | (length >= LIMIT)).nonzero()[:, 0].tolist()
        assert [(e.env, e.number) for e in stepped.episodes] == [(r, numbers[r]) for r in over]
        assert [e.length for e in stepped.episodes] == length[over].tolist()
        ends += len(over)
        for row in over:
            numbers[row] += 1
            length[row] = 0
            expected = begin(row)
        obs = stepped.obs
    assert ends >= 12


def test_terminated_is_the_scenarios_own():
    envs = build(num_envs=8, step_limit=60)
    envs.reset()
    steps = [envs.step(envs.sample_actions()).step for _ in range(60)]
    terminated = torch.stack([step.terminated for step in steps])
    assert terminated.any() and not torch.stack([step.truncated for step in steps]).all()


def test_spaces_and_spec():
    envs = build("simple_reference", continuous_actions=False, multidiscrete_actions=True)
    assert envs.spec.action_space["agent_1"] == spaces.MultiDiscrete([3, 3, 10])
    assert envs.spec.observation_space["agents"]["agent_0"] == spaces.Box(-np.inf, np.inf, (21,))
    assert envs.spec.observation_space["state"].shape == (42,)
    assert (envs.spec.num_envs, envs.spec.episode_limit) == (3, LIMIT)
    assert envs.spec.resumable


def test_an_episode_follows_from_its_seed_alone():
    few, many = build("navigation", 2, team_reward="sum"), build("navigation", 4, team_reward="sum")
    first, more = few.reset(), many.reset()
    assert torch.equal(first["state"], more["state"][:2])
    assert not torch.equal(first["state"][0], first["state"][1])
    assert same_bits(few.reset(), first) and not same_bits(few.reset(6), first)
    assert same_bits(few.reset(5), first)


@pytest.mark.parametrize(
    ("scenario", "kwargs"),
    [("balance", {}), ("discovery", {"team_reward": "sum", "continuous_actions": False})],
)
def test_resumes_at_any_step_bit_for_bit(scenario, kwargs):
    # Balance terminates early, so episodes are not in step with each other.
    envs = build(scenario, 3, **kwargs, step_limit=30)
    envs.reset()
    steps, states = [], []
    for _ in range(50):
        states.append(envs.state_dict())
        steps.append(envs.step(envs.sample_actions()))
    other = build(scenario, 3, seed=9, **kwargs, step_limit=30)
    for t in range(0, 46, 5):
        other.load_state_dict(states[t])
        assert other.lost == [] and same_bits(other.observe(), steps[t].step.obs)
        for expected in steps[t : t + 4]:
            assert same_step(other.step(other.sample_actions()), expected)


def test_noise_within_a_step_is_resumed(monkeypatch):
    """VMAS has one generator for all its environments of a process."""
    from vmas.scenarios import balance

    def noisy(self, agent):
        return observation(self, agent) + torch.rand(self.world.batch_dim, 1)

    observation = balance.Scenario.observation
    monkeypatch.setattr(balance.Scenario, "observation", noisy)
    envs, other = (VmasVectorEnv(balance.Scenario(), 2, 1, step_limit=6) for _ in range(2))
    envs.reset()
    for _ in range(4):
        envs.step(envs.sample_actions())
    state, expected = envs.state_dict(), envs.step(envs.sample_actions())
    assert envs.spec.resumable
    other.load_state_dict(state)
    assert other.lost == [] and same_step(other.step(other.sample_actions()), expected)


def test_environments_that_influence_each_other_are_told(monkeypatch):
    from vmas.scenarios import balance

    def leaky(self, agent):
        return reward(self, agent) + self.world.agents[0].state.pos.sum()

    reward = balance.Scenario.reward
    monkeypatch.setattr(balance.Scenario, "reward", leaky)
    envs = VmasVectorEnv(balance.Scenario(), 2, 1)
    assert not envs.spec.resumable
    envs.reset()
    envs.step(envs.sample_actions())
    with pytest.warns(RuntimeWarning, match="cannot be restored exactly"):
        envs.load_state_dict(envs.state_dict())
    assert envs.lost == [0, 1]


def test_bad_input_is_told_in_one_line():
    for scenario, kwargs, message in (
        ("balanse", {}, "environment 'vmas/balanse': balanse.py scenario not found"),
        (
            "navigation",
            {"shared_rew": False},
            "the agents' rewards differ .agent_0: .* set team_reward",
        ),
        ("balance", {"team_reward": "max"}, "team_reward must be one of"),
    ):
        with pytest.raises(UserError, match=message) as error:
            build(scenario, **kwargs)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="num_envs must be at least 1"):
        build(num_envs=0)


@pytest.mark.parametrize("continuous", [True, False])
def test_hasac_trains(tmp_path, continuous):
    kwargs = {"n_agents": 2, "continuous_actions": continuous}
    env = {"id": "vmas/balance", "time_limit": 10, "normalize_obs": True, "kwargs": kwargs}
    assert set(train_hasac(tmp_path / "run", **env).lengths) <= set(range(1, 11))


def test_settings_that_make_no_sense():
    data = {"algorithm": "hasac", "env": {"id": "vmas/balance", "num_envs": 4, "workers": 2}}
    with pytest.raises(UserError, match=r"env.workers cannot be set for vmas/balance"):
        build_experiment("vmas", data)
