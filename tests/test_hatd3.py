"""HATD3, HADDPG, MATD3 and MADDPG: their update against a naive one and against TD3's."""

import copy
from collections import OrderedDict
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from hasac_cases import MIXED, make_batch, make_spaces
from hatd3_cases import BOXES, KINDS, NOT_TWIN, ONE, Naive, weights
from test_hasac import tensors

from rlsuite.agents.hatd3 import HATD3, HATD3Config
from rlsuite.config import load_experiment
from rlsuite.errors import UserError

SMALL = {"hidden": (16, 16), "lr_actor": 1e-2, "lr_critic": 1e-2, "target_rate": 0.1}


def make(kind: str = "hatd3", spaces: Any = None, seed: int = 1, **settings: Any) -> HATD3:
    config = HATD3Config(**{**SMALL, **KINDS[kind], **settings})
    return HATD3(*(spaces or make_spaces(BOXES)), config, seed=seed)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("views", "masked"), [(False, False), (False, True), (True, True)])
def test_update_equals_the_naive_one(kind: str, views: bool, masked: bool) -> None:
    """The cached first layer and the first critic alone change nothing: 1e-5 after each of five
    updates, of critics, policies and targets."""
    spaces = make_spaces(BOXES, views=views, masked=masked)
    ours, theirs = make(kind, spaces), Naive(make(kind, spaces))
    start = weights(ours)
    for seed in range(5):
        batch = make_batch(*spaces, seed=seed)
        loss = ours.update(batch).metrics["loss/critic"]
        assert float(loss) == pytest.approx(theirs.update(batch), rel=1e-5)
        expected = weights(theirs.agent)
        for name, value in weights(ours).items():
            torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-5, msg=name)
    assert all((value - start[name]).abs().max() > 1e-3 for name, value in weights(ours).items())


@pytest.mark.parametrize("kind", ["hatd3", "haddpg"])
def test_one_agent_learns_as_td3_and_ddpg(kind: str) -> None:
    """Against Stable-Baselines3's TD3, whose DDPG is a setting of it: the same weights, batches and
    noise, equal to 1e-5 after each of four updates."""
    sb3 = pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.logger import Logger
    from stable_baselines3.common.type_aliases import ReplayBufferSamples

    spaces = make_spaces(ONE, state=4)
    agent = make(kind, spaces, hidden=(32, 16), lr_actor=1e-3)

    class Alone(gym.Env):
        observation_space, action_space = ONE["only"]

    model = (sb3.TD3 if kind == "hatd3" else sb3.DDPG)(
        *("MlpPolicy", Alone()),
        tau=0.1,
        learning_rate=1e-3,
        buffer_size=1,
        policy_kwargs={"net_arch": [32, 16]},
    )
    model.set_logger(Logger(None, []))
    for group in model.critic.optimizer.param_groups:
        group["lr"] = 1e-2
    model._update_learning_rate = lambda optimizers: None
    copy_weights(agent, model)
    for seed in range(4):
        batch: Any = make_batch(*spaces, seed=seed)
        state = batch.obs["agents"]["only"]
        batch.obs["state"] = state
        batch.next_obs["state"] = batch.next_obs["agents"]["only"]
        batch.weight[:] = 1
        space = ONE["only"][1]
        low, high = torch.from_numpy(space.low), torch.from_numpy(space.high)
        sample = ReplayBufferSamples(
            state,
            2 * (batch.action["only"] - low) / (high - low) - 1,
            batch.next_obs["state"],
            batch.terminated.float()[:, None],
            batch.reward[:, None],
        )
        model.gamma = 0.9
        model.replay_buffer.sample = lambda *args, sample=sample, **kwargs: sample
        torch.manual_seed(seed)
        agent.noise.manual_seed(seed)
        agent.update(batch)
        model.train(gradient_steps=1, batch_size=16)
        other = make(kind, spaces, hidden=(32, 16))
        copy_weights(other, model)
        expected = weights(other)
        for name, value in weights(agent).items():
            torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-5, msg=name)


@torch.no_grad()
def copy_weights(agent: HATD3, model: Any) -> None:
    """From a TD3 of Stable-Baselines3."""
    for critic, theirs in ((agent.critic, model.critic), (agent.target, model.critic_target)):
        for k, net in enumerate(theirs.q_networks):
            layers = [layer for layer in net if hasattr(layer, "weight")]
            for i, layer in enumerate(layers):
                critic.net.weights[i][k] = layer.weight.T
                critic.net.biases[i][k] = layer.bias
    for actors, theirs in ((agent.actors, model.actor), (agent.target_actors, model.actor_target)):
        pairs = zip(actors["only"].parameters(), theirs.mu.parameters(), strict=True)
        for mine, other in pairs:
            mine.copy_(other)


def test_successors_see_the_new_actions_of_their_predecessors() -> None:
    """In turns 0, 1, 2 the critic is climbed at (new, old, old), (new, new, old), (new, new, new):
    agent 2's policy moves as if the others' had been new from the beginning, unlike with stale
    actions."""
    spaces = make_spaces(BOXES)
    batch = make_batch(*spaces)
    found = {}
    for case in ("sequential", "moved before", "stale"):
        agent = make("haddpg", spaces, lr_critic=1e-12, order="fixed")
        if case == "moved before":
            agent.learn(batch, [0])
            agent.learn(batch, [1])
        agent.learn(batch, [0, 1, 2] if case == "sequential" else [2])
        found[case] = weights(agent)["actor m"]
    torch.testing.assert_close(found["sequential"], found["moved before"], rtol=0, atol=1e-6)
    assert (found["sequential"] - found["stale"]).abs().max() > 1e-4


def test_simultaneous_updates_climb_at_the_stored_actions() -> None:
    """As in MADDPG's gradient: neither order nor the others' policies matter, their actions do."""
    spaces = make_spaces(BOXES)
    agents = [make("maddpg", spaces, lr_critic=1e-12) for _ in range(4)]
    batch: Any = make_batch(*spaces)
    with torch.no_grad():
        agents[1].actors["a"].net.head[-1].bias += 0.5
    agents[0].learn(batch, [0, 1, 2])
    agents[1].learn(batch, [2, 1, 0])
    agents[2].learn(batch, [0])
    batch.action["a"] = batch.action["a"].flip(0)
    agents[3].learn(batch, [0])
    first, second, third, fourth = (weights(agent)["actor z"] for agent in agents)
    assert torch.equal(first, second) and torch.equal(first, third)
    assert not torch.equal(first, fourth)


def test_a_turn_moves_its_own_policy_alone() -> None:
    """Neither the other policies nor, beyond the critics' own step, the critics move in a turn."""
    spaces = make_spaces(BOXES)
    agents = [make(spaces=spaces) for _ in range(2)]
    before = weights(agents[0])
    agents[0].learn(make_batch(*spaces), [1])
    agents[1].learn(make_batch(*spaces), [])
    one, none = weights(agents[0]), weights(agents[1])
    changed = [name for name in one if not torch.equal(one[name], before[name])]
    assert changed == ["critic", "target", "actor a", "target actor a"]
    assert torch.equal(one["critic"], none["critic"])


def test_policies_climb_the_first_critic_alone() -> None:
    spaces = make_spaces(BOXES)
    agents = [make(spaces=spaces, lr_critic=1e-12) for _ in range(3)]
    with torch.no_grad():
        for p in agents[1].critic.parameters():
            p[1] += 1
        for p in agents[2].critic.parameters():
            p[0] += 1
    for agent in agents:
        agent.learn(make_batch(*spaces), [0, 1, 2])
    first, second, third = (weights(agent)["actor z"] for agent in agents)
    assert torch.equal(first, second) and not torch.equal(first, third)


@pytest.mark.parametrize(("kind", "period"), [("hatd3", 2), ("matd3", 3), ("haddpg", 1)])
def test_policies_and_targets_move_every_so_often(kind: str, period: int) -> None:
    spaces = make_spaces(BOXES)
    agent = make(kind, spaces, policy_period=period)
    for update in range(1, 7):
        before = weights(agent)
        metrics = agent.update(make_batch(*spaces, seed=update)).metrics
        after = weights(agent)
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        is_time = update % period == 0
        assert changed == (set(before) if is_time else {"critic"})
        assert ("loss/actor" in metrics) == is_time


def test_target_noise_is_scaled_and_clipped_twice() -> None:
    """A policy whose action is 0 exactly: noise of 0.2, cut at 0.5; one whose action is 1 stays in
    [-1, 1]."""
    agent = make()
    obs = {"agents": {"a": torch.zeros(100_000, 3)}}
    with torch.no_grad():
        for p in agent.target_actors["a"].parameters():
            p.zero_()
    noise = agent._smoothed(obs, "a")
    # Clipping a normal at 2.5 deviations makes its variance 0.9795 of what it was.
    assert float(noise.std()) == pytest.approx(0.2 * 0.9795**0.5, rel=0.01)
    assert float(noise.abs().max()) == 0.5
    with torch.no_grad():
        agent.target_actors["a"].net.head[-1].bias += 10
    near = agent._smoothed(obs, "a")
    assert float(near.max()) == 1.0 and float(near.min()) == pytest.approx(0.5)
    assert torch.equal(
        make(target_noise=0.0)._smoothed(obs, "a"), make().target_actors["a"](obs["agents"]["a"])
    )


def test_exploration_noise_is_in_half_ranges() -> None:
    """Of the Box (-2, 0.5), around a policy that is at its middle, -0.75; without noise exactly."""
    agent = make()
    with torch.no_grad():
        for p in agent.actors["a"].parameters():
            p.zero_()
    obs = make_batch(*make_spaces(BOXES), n=100_000).obs
    taken, extra = agent.act(obs)
    assert extra == {}
    assert float(taken["a"].mean()) == pytest.approx(-0.75, abs=0.003)
    assert float(taken["a"].std()) == pytest.approx(0.1 * 1.25, rel=0.02)
    assert (agent.act(obs, explore=False)[0]["a"] == -0.75).all()
    loud = make(exploration_noise=100.0).act(obs)[0]
    for name, (_, space) in BOXES.items():
        assert taken[name].shape == (100_000, *space.shape)
        low, high = torch.from_numpy(space.low), torch.from_numpy(space.high)
        assert (loud[name] >= low).all() and (loud[name] <= high).all()
        assert (loud[name] == low).any() and (loud[name] == high).any()


def test_critics_see_actions_scaled_to_one() -> None:
    agent = make()
    for name, (_, space) in BOXES.items():
        actor = agent.actors[name]
        ends = torch.from_numpy(np.stack([space.low, space.high]))
        unit = actor.encode(ends)
        torch.testing.assert_close(unit, torch.tensor([[-1.0], [1.0]]).expand(2, actor.size))
        torch.testing.assert_close(actor.decode(unit), ends)


@pytest.mark.parametrize("kind", ["hatd3", "maddpg"])
def test_the_dead_do_not_teach(kind: str) -> None:
    """What a dead agent observes changes neither its own policy nor, with views, the critics."""
    spaces = make_spaces(BOXES, views=True, masked=True)
    ends = []
    for garbage in (0.0, 1.0):
        agent, batch = make(kind, spaces), make_batch(*spaces)
        obs: Any = batch.obs
        dead = obs["alive"][:, 1] == 0
        assert dead.any()
        obs["state"]["a"][dead] += garbage
        obs["agents"]["a"][dead] += garbage
        obs["alive"][:, [0, 2]] = 1
        agent.learn(batch, [])
        critic = weights(agent)["critic"]
        obs["state"]["a"][dead] -= garbage  # the living climb all views
        agent.learn(batch, [1])
        ends.append((critic, weights(agent)["actor a"]))
    for before, after in zip(*ends, strict=True):
        torch.testing.assert_close(before, after)


def test_views_of_the_dead_have_no_priority() -> None:
    """Critics do not learn from them: their errors would never shrink."""
    spaces = make_spaces(BOXES, views=True, masked=True)
    batch, found = make_batch(*spaces), []
    obs: Any = batch.obs
    for garbage in (0.0, 100.0):
        obs["state"]["a"][obs["alive"][:, 1] == 0] += garbage
        found.append(make("hatd3", spaces).learn(batch, []).priority)
    assert torch.equal(*found)


def test_a_policy_may_climb_its_own_view() -> None:
    spaces = make_spaces(BOXES, views=True)
    found = []
    for views in ("own", "all"):
        for other in (0.0, 1.0):
            agent, batch = (
                make(spaces=spaces, actor_views=views, lr_critic=1e-12),
                make_batch(*spaces),
            )
            state: Any = batch.obs["state"]
            state["z"] += other
            agent.learn(batch, [1])
            found.append(weights(agent)["actor a"])
    torch.testing.assert_close(found[0], found[1])
    assert not torch.allclose(found[2], found[3])


def test_a_saved_state_continues_bit_for_bit() -> None:
    spaces = make_spaces(BOXES, views=True, masked=True)
    agent, other = make(spaces=spaces, seed=0), make(spaces=spaces, seed=1)
    agent.update(make_batch(*spaces, seed=0))  # one before policies move
    other.load_state_dict(copy.deepcopy(agent.state_dict()))
    for seed in (1, 2, 3):
        agent.update(make_batch(*spaces, seed=seed))
        other.update(make_batch(*spaces, seed=seed))
    a, b = tensors(agent.state_dict()), tensors(other.state_dict())
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert agent.orders.bit_generator.state == other.orders.bit_generator.state
    obs = make_batch(*spaces).obs
    (mine, _), (theirs, _) = agent.act(obs), other.act(obs)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_orders_are_uniform() -> None:
    """600 updates: each of the 6 orders 100 times, within 5 standard deviations (46)."""
    agent = make("haddpg")
    orders: list[tuple[int, ...]] = []
    agent.learn = lambda batch, order: orders.append(tuple(order))
    for _ in range(600):
        agent.update(None)
    counts = [orders.count(order) for order in set(orders)]
    assert len(counts) == 6 and max(abs(count - 100) for count in counts) < 46


@pytest.mark.parametrize("kind", KINDS)
def test_configs_make_the_algorithm_that_they_are_named_after(kind: str) -> None:
    config = load_experiment(f"{kind}/spread").agent
    expected = HATD3Config(**KINDS[kind])
    for name in ("critics", "target_noise", "target_noise_limit", "policy_period", "order"):
        assert getattr(config, name) == getattr(expected, name)
    assert NOT_TWIN["critics"] == 1


def test_bad_spaces_are_named() -> None:
    with pytest.raises(UserError, match="HATD3 needs an environment of several agents"):
        HATD3(Box(-1, 1, (2,)), Box(-1, 1, (2,)))
    with pytest.raises(
        UserError, match=r'those of discrete are Discrete.*take algorithm = "hasac"'
    ):
        HATD3(*make_spaces(MIXED))
    unbounded = OrderedDict(a=(Box(-1, 1, (1,)), Box(-np.inf, np.inf, (1,))))
    with pytest.raises(UserError, match="HATD3 needs bounded actions"):
        HATD3(*make_spaces(unbounded))
    images = OrderedDict(a=(Discrete(2), Box(-1, 1, (1,))))
    with pytest.raises(UserError, match="needs Box observations"):
        HATD3(*make_spaces(images))
