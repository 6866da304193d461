"""SAC as its caller sees it: actions, spaces, settings, seeds and restarts."""

import copy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pydantic
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sac_cases import ACT, OBS, make_batch, weights

from rlsuite.agents.sac import METRICS, SAC, SACConfig
from rlsuite.buffers import Replay, UniformSampler
from rlsuite.checkpoint import CheckpointStore, find_nonfinite
from rlsuite.errors import UserError
from rlsuite.types import Step, Tree

SMALL = SACConfig(hidden=(8, 8))


def saturate(agent: SAC, sign: float) -> SAC:
    """The policy's mean far out, its standard deviation small."""
    with torch.no_grad():
        agent.actor.weights[-1].zero_()
        agent.actor.biases[-1][..., : agent.actions] = 30.0 * sign
        agent.actor.biases[-1][..., agent.actions :] = -5.0
    return agent


@pytest.mark.parametrize(
    "space",
    [
        ACT,
        gym.spaces.Box(-2, 2, (1,), np.float32),
        gym.spaces.Box(
            np.array([[-1, 0, 2], [-5, -1, 0]], np.float32),
            np.array([[1, 4, 3], [5, 0, 9]], np.float32),
        ),
    ],
    ids=str,
)
def test_actions_are_in_the_environments_units(space: gym.spaces.Box) -> None:
    agent = SAC(OBS, space, SMALL)
    action, extra = agent.act(torch.randn(7, 3))
    assert action.shape == (7, *space.shape) and action.dtype == torch.float32 and extra == {}
    assert not action.requires_grad
    assert all(space.contains(a.numpy()) for a in action)
    high, _ = saturate(agent, 1).act(torch.randn(2, 3))
    np.testing.assert_allclose(high[0], space.high, rtol=1e-6)
    low, _ = saturate(agent, -1).act(torch.randn(2, 3))
    np.testing.assert_allclose(low[1], space.low, rtol=1e-6)
    with torch.no_grad():
        agent.actor.biases[-1].zero_()
    middle, _ = agent.act(torch.randn(1, 3), explore=False)
    np.testing.assert_allclose(middle[0], (space.low + space.high) / 2, rtol=1e-6, atol=1e-7)


def test_one_number_as_action() -> None:
    space = gym.spaces.Box(-2, 6, (), np.float32)
    agent = SAC(OBS, space, SMALL)
    assert agent.act(torch.zeros(5, 3))[0].shape == (5,)
    assert agent.update(make_batch(4, act=space)).priority.shape == (4,)


@settings(deadline=None, max_examples=50)
@given(
    low=st.lists(st.floats(-100, 100, width=32), min_size=3, max_size=3),
    extent=st.floats(0.125, 100, width=32),
    sign=st.sampled_from([1, -1]),
)
def test_saturated_actions_stay_in_the_box(low: list[float], extent: float, sign: int) -> None:
    bounds = np.array(low, np.float32)
    space = gym.spaces.Box(bounds, bounds + np.float32(extent), dtype=np.float32)
    action, _ = saturate(SAC(OBS, space, SACConfig(hidden=())), sign).act(torch.zeros(1, 3))
    assert space.contains(action[0].numpy()), (action[0] - torch.tensor(space.high)).tolist()


def test_without_exploration_the_squashed_mean() -> None:
    agent = SAC(OBS, ACT, SMALL)
    obs = torch.randn(5, 3)
    first, _ = agent.act(obs, explore=False)
    noise = agent.noise.get_state()
    assert torch.equal(agent.act(obs, explore=False)[0], first)
    assert torch.equal(agent.noise.get_state(), noise)
    drawn = [agent.act(obs)[0] for _ in range(2)]
    assert not torch.equal(*drawn)
    # tanh is monotone, so the median of the drawn actions is the squashed mean.
    with torch.no_grad():
        agent.actor.biases[-1][..., 2:] -= 2
    first, _ = agent.act(obs[:1], explore=False)
    median = agent.act(obs[:1].expand(4001, 3))[0].median(0).values
    torch.testing.assert_close(median, first[0], rtol=0, atol=0.05)


@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.Discrete(3),
        gym.spaces.MultiBinary(3),
        gym.spaces.Box(-np.inf, np.inf, (2,), np.float32),
        gym.spaces.Box(np.array([-1, -np.inf], np.float32), np.ones(2, np.float32)),
        gym.spaces.Box(np.array([0, 1], np.float32), np.ones(2, np.float32)),
        gym.spaces.Box(0, 5, (2,), np.int64),
        gym.spaces.Dict({"a": ACT}),
        gym.spaces.Box(-1e300, 1e300, (1,), np.float64),
        gym.spaces.Box(-3e38, 3e38, (1,), np.float32),
        gym.spaces.Box(1.0, 1.0 + 1e-12, (1,), np.float64),
    ],
    ids=str,
)
def test_refuses_action_spaces(space: gym.Space[Any]) -> None:
    with pytest.raises(UserError, match="SAC needs"):
        SAC(OBS, space, SMALL)


@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.Discrete(3),
        gym.spaces.MultiDiscrete([3, 2]),
        gym.spaces.Tuple([OBS, OBS]),
        gym.spaces.Text(4),
        gym.spaces.Dict({"a": OBS, "b": gym.spaces.Discrete(3)}),
    ],
    ids=str,
)
def test_refuses_observations_that_are_not_boxes(space: gym.Space[Any]) -> None:
    with pytest.raises(UserError):
        SAC(space, ACT, SMALL)


DICT = gym.spaces.Dict(
    {
        "byte": gym.spaces.Box(0, 255, (2,), np.uint8),
        "deep": gym.spaces.Dict({"matrix": gym.spaces.Box(-1, 1, (2, 2), np.float32)}),
    }
)


def test_dict_observations_are_laid_side_by_side() -> None:
    byte, matrix = torch.tensor([[3, 250]], dtype=torch.uint8), torch.randn(1, 2, 2)
    flat = torch.cat([byte.float(), matrix.flatten(1)], dim=1)
    nested: Tree = {"byte": byte, "deep": {"matrix": matrix}}
    expected, _ = SAC(gym.spaces.Box(-1, 255, (6,)), ACT, SMALL).act(flat, explore=False)
    action, _ = SAC(DICT, ACT, SMALL).act(nested, explore=False)
    assert torch.equal(action, expected)


def test_replay_keeps_the_features_in_the_order_that_acting_has() -> None:
    """Leaves of several widths: the replay packs the widest first, the agent must not see it."""
    obs: Tree = {
        "byte": torch.tensor([[3, 250]], dtype=torch.uint8),
        "deep": {"matrix": torch.randn(1, 2, 2)},
    }
    agent, replay = SAC(DICT, ACT, SMALL), Replay(4, UniformSampler())
    no = torch.tensor([False])
    replay.add(Step(obs, agent.act(obs)[0], torch.zeros(1), obs, no, no))
    stored = replay.sample(1)
    expected, _ = agent.act(obs, explore=False)
    for kept in (stored.obs, stored.next_obs):
        assert torch.equal(agent.act(kept, explore=False)[0], expected)


def test_seeds() -> None:
    def stream(seed: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        agent = SAC(OBS, ACT, SMALL, seed=seed)
        first = weights(agent)
        with torch.no_grad():  # one policy for all seeds: what differs then is the noise
            for p in agent.actor.parameters():
                p.zero_()
        return first, torch.stack([agent.act(torch.ones(4, 3))[0] for _ in range(3)])

    (first, acts), (again, acts_again), (other, acts_other) = stream(5), stream(5), stream(6)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert torch.equal(acts, acts_again)
    differ = [name for name in first if not torch.equal(first[name], other[name])]
    assert set(first) - set(differ) == {"log_temperature"}
    assert not torch.equal(acts, acts_other)
    critics = first["critic/weights.0"]
    assert not torch.equal(critics[0], critics[1])
    assert torch.equal(critics, first["target/weights.0"])


RESTARTS = {
    "learned": SACConfig(hidden=(8,)),
    "fixed": SACConfig(hidden=(8,), temperature=0.2),
    "delayed": SACConfig(hidden=(8,), policy_period=2),
    "rmsprop": SACConfig(hidden=(8,), optimizer="RMSprop"),
    "stateless": SACConfig(hidden=(8,), optimizer="SGD"),
}


@pytest.mark.parametrize("through", ["references", "copies", "files"])
@pytest.mark.parametrize("name", RESTARTS)
def test_restart_continues_bit_for_bit(name: str, through: str, tmp_path: Path) -> None:
    agent = SAC(OBS, ACT, RESTARTS[name], seed=1)
    for i in range(3):
        agent.update(make_batch(16, i))
        agent.act(torch.ones(2, 3))
    state = agent.state_dict()
    if through == "copies":
        state = copy.deepcopy(state)
    elif through == "files":
        CheckpointStore(tmp_path).save(3, state)
        state = CheckpointStore(tmp_path).load()
    twin = SAC(OBS, ACT, RESTARTS[name], seed=2)
    twin.update(make_batch(16))  # what it had is to be forgotten
    twin.load_state_dict(state)
    for i in range(3, 6):
        for one in (agent, twin):
            one.update(make_batch(16, i))
        mine, its = agent.act(torch.ones(2, 3))[0], twin.act(torch.ones(2, 3))[0]
        assert torch.equal(mine, its), i
    mine, its = weights(agent), weights(twin)
    assert [n for n in mine if not torch.equal(mine[n], its[n])] == []
    assert agent.updates == twin.updates == 6


NOT_POSITIVE = st.one_of(
    st.floats(max_value=0), st.sampled_from([float("nan"), float("inf"), "1", None, True])
)
NOT_A_COUNT = st.one_of(st.integers(max_value=0), st.floats(), st.sampled_from(["1", None, True]))
BAD: dict[str, st.SearchStrategy[Any]] = {
    "hidden": st.one_of(
        st.lists(st.integers(max_value=0), min_size=1).map(tuple), st.sampled_from([8, "8", ("8",)])
    ),
    "critics": NOT_A_COUNT,
    "policy_period": NOT_A_COUNT,
    **dict.fromkeys(
        ("lr_actor", "lr_critic", "lr_temperature", "temperature", "initial_temperature"),
        NOT_POSITIVE,
    ),
    "target_entropy": st.sampled_from(["half", None, True, float("nan"), float("inf")]),
    "target_rate": st.one_of(
        st.floats(max_value=0, exclude_max=True),
        st.floats(min_value=1, exclude_min=True),
        st.sampled_from([float("nan"), "0.1", True]),
    ),
    **dict.fromkeys(
        ("actor_value", "log_std", "log_prob", "init"), st.text().map(lambda text: text + "?")
    ),
    "optimizer": st.sampled_from([None, 1, True]),
    "learning_rate": st.just(3e-4),
}


@settings(deadline=None, max_examples=25)
@given(data=st.data())
@pytest.mark.parametrize("field", BAD)
def test_config_refuses(field: str, data: st.DataObject) -> None:
    value = data.draw(BAD[field])
    with pytest.raises(pydantic.ValidationError, match=field):
        SACConfig(**{field: value})


@pytest.mark.parametrize("name", ["NoSuch", "Optimizer", "lr_scheduler", "LBFGS", "SparseAdam"])
def test_unusable_optimizers_are_named(name: str) -> None:
    with pytest.raises(UserError, match=name):
        SAC(OBS, ACT, SACConfig(hidden=(8,), optimizer=name))


CONFIGS = st.builds(
    SACConfig,
    hidden=st.lists(st.integers(1, 9), max_size=3).map(tuple),
    critics=st.integers(1, 3),
    actor_value=st.sampled_from(["min", "mean", "first"]),
    lr_actor=st.floats(1e-6, 1e-2),
    lr_critic=st.floats(1e-6, 1e-2),
    lr_temperature=st.floats(1e-6, 1e-2),
    # Not SGD: it diverges on large observations, and should.
    optimizer=st.sampled_from(["Adam", "AdamW", "RMSprop", "NAdam", "Adagrad"]),
    temperature=st.one_of(st.just("auto"), st.floats(1e-3, 10)),
    initial_temperature=st.floats(1e-3, 10),
    target_entropy=st.one_of(st.just("auto"), st.floats(-20, 20)),
    target_rate=st.floats(0, 1),
    policy_period=st.integers(1, 3),
    log_std=st.sampled_from(["clamp", "tanh"]),
    log_prob=st.sampled_from(["exact", "epsilon"]),
    init=st.sampled_from(["torch", "xavier"]),
)


@settings(deadline=None, max_examples=60)
@given(config=CONFIGS, rows=st.integers(1, 5), scale=st.sampled_from([1.0, 100.0]))
def test_any_config_updates_to_finite_numbers(config: SACConfig, rows: int, scale: float) -> None:
    agent = SAC(OBS, ACT, config)
    for i in range(3):
        batch = make_batch(rows, i)
        batch.obs.mul_(scale)
        update = agent.update(batch)
        assert update.metrics.keys() <= METRICS.keys()
        assert all(m.shape == () and not m.requires_grad for m in update.metrics.values())
        assert find_nonfinite(update.metrics) is None
        assert update.priority.shape == (rows,) and (update.priority >= 0).all()
    assert update.metrics.keys() == METRICS.keys() or agent.updates % config.policy_period
    assert find_nonfinite(agent.state_dict()) is None
