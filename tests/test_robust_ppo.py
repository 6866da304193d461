"""Robust PPO: nature's search by hand, the policy's update, what survives a restart."""

import copy
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete
from rollout_cases import make_rollout, tensors

from rlsuite.agents.ppo import PPO, PPOConfig
from rlsuite.agents.robust_ppo import METRICS, RobustPPO, RobustPPOConfig
from rlsuite.build import build_agent, build_envs, build_trials
from rlsuite.config import load_experiment
from rlsuite.errors import UserError

OBS = Box(-1, 1, (3,))
PHYSICS = Box(np.float32([0.3, 1.0]), np.float32([1.0, 4.0]))
ACTION = Dict([("action", Discrete(2)), ("physics", PHYSICS)])
SMALL: dict[str, Any] = {"hidden": (8,), "batch_size": 8, "epochs": 2}
FEW: dict[str, Any] = {"candidates": 6, "worst": 2}


class Plays:
    """Returns by physics, and what was asked for; odd episodes bring 1 more."""

    def __init__(self, score: Any = lambda physics: 10 * physics[:, 0] + physics[:, 1]) -> None:
        self.score = score
        self.physics: list[torch.Tensor] = []
        self.seeds: list[int] = []
        self.actions: list[torch.Tensor] = []

    def __call__(self, actor: Any, seed: int) -> Any:
        action, extra = actor.act(torch.zeros(12, 3))
        assert not extra
        self.physics.append(action["physics"])
        self.actions.append(action["action"])
        self.seeds.append(seed)
        returns = self.score(action["physics"]) + torch.arange(12) % 2
        return SimpleNamespace(returns=returns.tolist(), lengths=[3] * 12)


def make(seed: int = 0, play: Any = None, **settings: Any) -> RobustPPO:
    config = RobustPPOConfig(**{**SMALL, **FEW, **settings})
    return RobustPPO(OBS, ACTION, config, seed=seed, play=play or Plays())


def played(agent: RobustPPO, envs: int = 5) -> torch.Tensor:
    """(N, K) physics of the next rollout."""
    agent.chosen = None
    action, _ = agent.act(torch.zeros(envs, 3))
    assert isinstance(action, dict) and isinstance(action["physics"], torch.Tensor)
    return action["physics"]


def test_the_worst_candidates_are_played_in_turn_and_tried_again() -> None:
    plays = Plays()
    agent = make(play=plays)
    for search in range(4):
        before = agent.worst
        chosen = played(agent)
        tried = plays.physics[-1]
        assert torch.equal(tried[::2], tried[1::2])  # two episodes each
        candidates = tried[::2]
        assert torch.equal(candidates[:2], before) and len(candidates) == 6
        order = sorted({tuple(row) for row in candidates.tolist()}, key=lambda p: 10 * p[0] + p[1])
        assert [tuple(row) for row in agent.worst.tolist()] == order[:2]
        assert torch.equal(chosen, agent.worst[[0, 1, 0, 1, 0]])
        expected = 10 * candidates[:, 0] + candidates[:, 1] + 0.5
        lowest = expected.sort().values[:2]
        torch.testing.assert_close(
            agent.scores, torch.stack([expected.mean(), lowest.mean()]), rtol=1e-5, atol=0
        )
        assert agent.tried == search + 1 and agent.transitions == 36 * (search + 1)
    assert len(set(plays.seeds)) == 4


def test_of_equal_candidates_one_is_kept() -> None:
    """The worst corner would fill all places otherwise."""
    agent = make(candidates=40, play=lambda actor, seed: flat(actor))
    agent.worst = torch.tensor([[0.3, 1.0], [0.3, 1.0]])
    kept = {tuple(row) for row in played(agent).tolist()}
    assert len(kept) == 2 and tuple(PHYSICS.low.tolist()) in kept


def flat(actor: Any) -> Any:
    """Far lower returns at the lowest corner."""
    physics = actor.act(torch.zeros(80, 3))[0]["physics"]
    returns = physics.sum(1) - 100.0 * (physics == torch.as_tensor(PHYSICS.low)).all(1)
    return SimpleNamespace(returns=returns.tolist(), lengths=[1] * 80)


def test_a_search_lasts_for_a_rollout() -> None:
    plays = Plays()
    agent = make(play=plays)
    first = played(agent, 4)
    assert agent.act(torch.zeros(4, 3))[0]["physics"] is first  # type: ignore[index]
    agent.update(make_rollout(make(), OBS, 3, 4))
    assert agent.chosen is None and len(plays.seeds) == 1
    agent.act(torch.zeros(4, 3))
    assert len(plays.seeds) == 2


def test_candidates_have_common_noise() -> None:
    """Equal observations, so equal actions in the same episode of all candidates."""
    agent = make(play=(plays := Plays()), seed=4)
    for _ in range(20):
        played(agent)
    actions = torch.stack(plays.actions).view(20, 6, 2)
    assert (actions == actions[:, :1]).all()
    assert (actions[:, 0, 0] != actions[:, 0, 1]).any()


def test_common_noise_of_a_box() -> None:
    space = Dict([("action", Box(-9, 9, (3,))), ("physics", PHYSICS)])
    agent = RobustPPO(OBS, space, RobustPPOConfig(**SMALL), seed=0)
    sample, _ = agent.ppo.policy.sample(
        torch.zeros(6, 3), None, torch.Generator().manual_seed(0), explore=True, distinct=2
    )
    assert torch.equal(sample[:2].repeat(3, 1), sample) and (sample[0] != sample[1]).all()


def test_physics_are_drawn_at_corners_and_anywhere() -> None:
    drawn = make().draw(4000)
    assert all(PHYSICS.contains(row.numpy()) for row in drawn)
    corners, counts = drawn[::2].unique(dim=0, return_counts=True)
    expected = torch.tensor([[low, high] for low in (0.3, 1.0) for high in (1.0, 4.0)])
    torch.testing.assert_close(corners, expected)
    assert (counts - 500).abs().max() < 5 * math.sqrt(2000 * 0.25 * 0.75)
    assert_uniform(drawn[1::2])


def assert_uniform(points: torch.Tensor) -> None:
    unit = (points - torch.as_tensor(PHYSICS.low)) / torch.as_tensor(PHYSICS.high - PHYSICS.low)
    assert ((unit >= 0) & (unit <= 1)).all()
    assert (unit.mean(0) - 0.5).abs().max() < 5 / math.sqrt(12 * len(unit))
    assert (unit.std(0) - 1 / math.sqrt(12)).abs().max() < 0.02


def test_without_episodes_it_is_domain_randomisation() -> None:
    agent = RobustPPO(OBS, ACTION, RobustPPOConfig(**SMALL, episodes=0))
    first = played(agent, 2000)
    assert_uniform(first)
    assert not torch.equal(played(agent, 2000), first)


def test_the_policy_learns_as_ppo_does() -> None:
    agent, plain = make(seed=3), PPO(OBS, Discrete(2), PPOConfig(**SMALL), seed=3)
    rollout = make_rollout(agent, OBS, 6, 4)
    other = make_rollout(plain, OBS, 6, 4)
    assert torch.equal(rollout.action["action"], other.action)  # type: ignore[arg-type,index]
    metrics, expected = agent.update(rollout).metrics, plain.update(other).metrics
    found, wanted = tensors(agent.ppo.state_dict()), tensors(plain.state_dict())
    assert all(torch.equal(found[path], wanted[path]) for path in wanted)
    assert set(metrics) == set(METRICS)
    assert all(torch.equal(metrics[name], expected[name]) for name in expected)
    assert metrics["nature/transitions"] == 36
    assert metrics["nature/worst"] <= metrics["nature/mean"]


def test_one_minibatch_is_a_step_of_the_policy_gradient() -> None:
    """Of REINFORCE with the value as its baseline: nothing is reused, so nothing is clipped."""
    config = RobustPPOConfig(
        **{**SMALL, **FEW, "batch_size": 999, "epochs": 1}, trace=1.0, optimizer="SGD",
        optimizer_eps=None, lr=0.5, max_grad_norm=None, clip=1e-3, value_coef=0.0
    )  # fmt: skip
    agent = RobustPPO(OBS, ACTION, config, play=Plays())
    rollout = make_rollout(agent, OBS, 7, 3)
    assert isinstance(rollout.obs, torch.Tensor) and isinstance(rollout.next_obs, torch.Tensor)
    rollout.next_obs[:-1] = rollout.obs[1:]
    rollout.terminated[-1] = True  # no bootstrapping
    returns, sums = torch.zeros(3), []
    ended = rollout.terminated
    rollout.truncated.zero_()
    for reward, ends in zip(rollout.reward.flip(0), ended.flip(0), strict=True):
        returns = reward + 0.99 * returns * ~ends
        sums.append(returns)
    advantage = torch.stack(sums[::-1]) - rollout.extra["value"]
    advantage = (advantage - advantage.mean()) / advantage.std()
    policy = copy.deepcopy(agent.ppo.policy)
    log_prob, _ = policy.evaluate(
        rollout.obs.flatten(0, 1), None, rollout.extra["sample"].flatten(0, 1)
    )
    (log_prob * advantage.flatten()).mean().backward()
    agent.update(rollout)
    for before, after in zip(policy.parameters(), agent.ppo.policy.parameters(), strict=True):
        assert before.grad is not None
        torch.testing.assert_close(after, before + 0.5 * before.grad)


def test_without_exploration_nature_is_nominal() -> None:
    agent = RobustPPO(OBS, ACTION, RobustPPOConfig(**SMALL))  # and needs nothing to search in
    before = copy.deepcopy(agent.state_dict())
    action, extra = agent.act(torch.randn(5, 3), explore=False)
    assert isinstance(action, dict) and not extra
    assert torch.equal(action["physics"], torch.ones(5, 2))  # type: ignore[arg-type]
    after = tensors(agent.state_dict())
    assert all(torch.equal(after[path], tensor) for path, tensor in tensors(before).items())
    with pytest.raises(RuntimeError, match="give the agent `play`"):
        agent.act(torch.randn(5, 3))


def test_a_restored_agent_goes_on_bit_for_bit() -> None:
    agent, other = make(seed=1), make(seed=1)
    rollouts = [make_rollout(make(seed=5), OBS, 5, 4, seed=seed) for seed in range(3)]
    played(agent, 4)
    agent.update(rollouts[0])
    for middle in (False, True):  # between rollouts, and within one
        if middle:
            agent.act(torch.ones(4, 3))
        other.load_state_dict(copy.deepcopy(agent.state_dict()))
        for rollout in rollouts[1:]:
            action, again = agent.act(torch.ones(4, 3))[0], other.act(torch.ones(4, 3))[0]
            assert torch.equal(action["physics"], again["physics"])  # type: ignore[arg-type,index]
            agent.update(rollout)
            other.update(rollout)
        found, expected = other.state_dict(), agent.state_dict()
        assert found["tried"] == expected["tried"] > 2
        assert found["transitions"] == expected["transitions"]
        found, expected = tensors(found), tensors(expected)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[path], expected[path]) for path in expected)


@pytest.mark.parametrize("space", [Discrete(2), Dict({"a": Discrete(2), "b": Discrete(2)})])
def test_other_environments_are_refused(space: Any) -> None:
    with pytest.raises(UserError, match=r"set env.uncertain, such as \{mass = \[0.5, 1.5\]\}"):
        RobustPPO(OBS, space)


def test_nature_has_to_have_a_choice() -> None:
    with pytest.raises(UserError, match=r"agent.worst \(6\) must be less than agent.candidates"):
        make(worst=6)


def test_trials_have_common_first_states_and_bring_what_their_physics_do() -> None:
    """In CartPole, the physics of a candidate decide alone; weak forces differ from strong ones."""
    settings = {"agent.candidates": "6", "agent.worst": "2", "env.num_envs": "2"}
    experiment = load_experiment("robust_ppo/cartpole_e7", settings)
    envs = build_envs(experiment)
    trials = build_trials(experiment, envs)
    assert trials is not None
    obs = trials.reset(3)
    assert isinstance(obs, torch.Tensor)
    assert torch.equal(obs, obs[:2].repeat(6, 1)) and not torch.equal(obs[0], obs[1])
    agent = build_agent(experiment, envs.spec, trials)
    physics = torch.tensor([[1.0, 1.0, 1.0]] * 3 + [[5.0, 0.333, 2.0]] * 3)
    returns = agent.trial(physics)
    assert (returns[:3] == returns[0]).all() and (returns[3:] == returns[3]).all()
    assert returns[0] != returns[3] and agent.transitions == 2 * returns.sum()
