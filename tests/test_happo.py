"""HAPPO and MAPPO: against naive updates and PPO, masks, the dead, views and saved states."""

import copy
from collections import OrderedDict
from typing import Any

import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete
from hasac_cases import MIXED, make_spaces, of_living
from rollout_cases import make_rollout, tensors
from torch import Tensor

from rlsuite.agents.happo import HAPPO, METRICS, HAPPOConfig, flat
from rlsuite.agents.mappo import MAPPO, MAPPOConfig
from rlsuite.agents.mappo import METRICS as MAPPO_METRICS
from rlsuite.agents.ppo import PPO, PPOConfig
from rlsuite.errors import UserError
from rlsuite.types import Rollout

SMALL: dict[str, Any] = {"hidden": (16,), "lr_actor": 1e-2, "lr_critic": 1e-2, "epochs": 3}
ALIKE = OrderedDict((name, (Box(-1, 1, (3,)), Discrete(6))) for name in ("z", "a", "m"))


def gae(rollout: Rollout, value: Tensor, following: Tensor, config: HAPPOConfig) -> Tensor:
    """(T, N) advantages, backwards, element by element."""
    result = torch.zeros_like(value)
    for n in range(value.shape[1]):
        carried = 0.0
        for t in reversed(range(len(value))):
            over, cut = rollout.terminated[t, n], rollout.truncated[t, n]
            bootstrap = 0.0 if over else config.discount * following[t, n]
            delta = rollout.reward[t, n] + bootstrap - value[t, n]
            carried = delta + (0.0 if over or cut else config.discount * config.trace * carried)
            result[t, n] = carried
    return result


def naive_happo(agent: HAPPO, rollout: Rollout, order: list[int]) -> None:
    """One update as the paper writes it: no weights, the dead are left out, M is a product."""
    config, names = agent.config, agent.names
    R = rollout.reward.numel()
    obs = {n: rollout.obs["agents"][n].flatten(0, 1) for n in names}
    masks = {n: m.flatten(0, 1) for n, m in rollout.obs.get("mask", {}).items()}
    alive = torch.ones(R, len(names), dtype=torch.int8)
    if "alive" in rollout.obs:
        alive = rollout.obs["alive"].flatten(0, 1)
    state = rollout.obs["state"]
    is_viewed = isinstance(state, dict)
    states = [state[n] for n in names] if is_viewed else [state]
    successors = rollout.next_obs["state"]
    successors = [successors[n] for n in names] if is_viewed else [successors]
    norm = agent.critic.norm
    advantages, targets = [], []
    with torch.no_grad():
        following = torch.stack([agent.critic.net(v.flatten(0, 1))[:, 0] for v in successors])
        following = norm.denormalize(following) if norm else following
        next_obs = {k: v.flatten(0, 1) for k, v in rollout.next_obs.items() if k == "alive"}
        for view, values in enumerate(of_living(following, next_obs)):
            value = rollout.extra["value"][..., view]
            advantages.append(gae(rollout, value, values.view_as(value), config).flatten())
            targets.append(advantages[-1] + value.flatten())
    M = torch.ones(R)
    for i in order:
        name, policy = names[i], agent.policies[names[i]]
        living = alive[:, i].bool()
        a = advantages[i if is_viewed else 0][living]
        # The standard deviation's correction is that of all rows.
        std = ((a - a.mean()).square().sum() * R / len(a) / (R - 1)).sqrt()
        a = (a - a.mean()) / (std + 1e-8)
        mask = masks[name][living] if name in masks else None
        sample = rollout.extra[f"sample_{name}"].flatten(0, 1)
        old = rollout.extra["log_prob"][..., i].flatten()[living]
        for _ in range(config.epochs):
            log_prob, entropy = policy.evaluate(obs[name][living], mask, sample[living])
            ratio = (log_prob - old).exp()
            low, high = 1 - config.clip, 1 + config.clip
            surrogate = M[living] * torch.min(ratio * a, ratio.clamp(low, high) * a)
            step(
                -(surrogate + config.entropy_coef * entropy).mean(), agent.optimizers[name], config
            )
        with torch.no_grad():
            new, _ = policy.evaluate(obs[name][living], mask, sample[living])
            M[living] *= (new - old).exp()
    if norm:
        living = alive.T.bool() if is_viewed else torch.ones(1, R, dtype=torch.bool)
        norm.update(torch.stack(targets)[living])
        targets = [norm.normalize(target) for target in targets]
    for _ in range(config.epochs):
        losses = []
        for i, (view, target) in enumerate(zip(states, targets, strict=True)):
            error = (agent.critic.net(view.flatten(0, 1))[:, 0] - target).abs()
            d = config.huber_threshold
            loss = torch.where(error <= d, error.square() / 2, d * (error - d / 2))
            losses.append(loss[alive[:, i].bool()] if is_viewed else loss)
        step(torch.cat(losses).mean(), agent.critic.optimizer, config)


def step(loss: Tensor, optimizer: torch.optim.Optimizer, config: HAPPOConfig) -> None:
    params = [p for group in optimizer.param_groups for p in group["params"]]
    optimizer.zero_grad(set_to_none=False)
    loss.backward(inputs=params)
    if config.max_grad_norm:
        torch.nn.utils.clip_grad_norm_(params, config.max_grad_norm)
    optimizer.step()


@pytest.mark.parametrize("views", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("more", [{}, {"normalize_values": False, "max_grad_norm": 0.3}])
def test_update_equals_the_naive_one(views: bool, masked: bool, more: dict[str, Any]) -> None:
    """Factors, weights for the dead, one loss for all views: 1e-5 after two updates."""
    spaces = make_spaces(MIXED, views=views, masked=masked)
    config = HAPPOConfig(huber_threshold=0.5, clip=0.02, **SMALL | more)
    ours, theirs = HAPPO(*spaces, config, seed=1), HAPPO(*spaces, config, seed=1)
    for seed, order in enumerate([[2, 0, 1], [1, 2, 0]]):
        rollout = make_rollout(ours, spaces[0], 6, 4, seed)
        metrics = ours.learn(rollout, order)
        naive_happo(theirs, rollout, order)
        assert metrics.keys() == METRICS.keys()
        assert metrics["policy/factor"] != 1 and metrics["policy/clipped"] > 0
    a, b = tensors(ours.state_dict()), tensors(theirs.state_dict())
    for name in a:
        if name != "/noise":
            torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("action", [MIXED["box"][1], MIXED["multi"][1]], ids=["box", "multi"])
@pytest.mark.parametrize("normalize_values", [False, True])
def test_one_agent_is_ppo(action: Any, normalize_values: bool) -> None:
    """With one minibatch, no norm of gradients and no bend in the value's loss: to 1e-6."""
    space = Box(-1, 1, (4,))
    spaces = make_spaces(OrderedDict(only=(space, action)), state=4)
    common: dict[str, Any] = {"hidden": (16, 8), "epochs": 4, "max_grad_norm": None}
    common |= {"entropy_coef": 0.02, "normalize_values": normalize_values, "activation": "tanh"}
    happo = HAPPO(
        *spaces, HAPPOConfig(lr_actor=3e-3, lr_critic=3e-3, huber_threshold=1e6, **common)
    )
    ppo = PPO(space, action, PPOConfig(lr=3e-3, batch_size=24, **common))
    ppo.policy.load_state_dict(happo.policies["only"].state_dict())
    ppo.value.load_state_dict(happo.critic.net.state_dict())
    for seed in range(2):
        ours = make_rollout(happo, spaces[0], 6, 4, seed)
        ours.obs["state"], ours.next_obs["state"] = (
            tree["agents"]["only"] for tree in (ours.obs, ours.next_obs)
        )
        with torch.no_grad():
            value = happo.critic.values({"state": ours.obs["state"].flatten(0, 1)})
        ours.extra["value"] = value.view(6, 4, 1)
        theirs = Rollout(
            ours.obs["state"],
            ours.action["only"],
            ours.reward,
            ours.next_obs["state"],
            ours.terminated,
            ours.truncated,
            {
                "sample": ours.extra["sample_only"],
                "log_prob": ours.extra["log_prob"][..., 0],
                "value": ours.extra["value"][..., 0],
            },
        )
        a, b = happo.update(ours).metrics, ppo.update(theirs).metrics
        for name in b:
            torch.testing.assert_close(a[name], b[name], rtol=1e-5, atol=1e-6, msg=name)
    pairs = [
        (happo.policies["only"].state_dict(), ppo.policy.state_dict()),
        (happo.critic.net.state_dict(), ppo.value.state_dict()),
    ]
    for mine, other in pairs:
        for name in mine:
            torch.testing.assert_close(mine[name], other[name], rtol=0, atol=1e-6)


def parameters(module: torch.nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()]).clone()


def test_a_turn_moves_its_own_agent_alone() -> None:
    spaces = make_spaces(MIXED)
    agent = HAPPO(*spaces, HAPPOConfig(**SMALL))
    before = {name: parameters(policy) for name, policy in agent.policies.items()}
    agent.learn(make_rollout(agent, spaces[0], 6, 4), [1])
    moved = [n for n, p in agent.policies.items() if not torch.equal(before[n], parameters(p))]
    assert moved == ["discrete"]


def test_orders_are_uniform() -> None:
    """600 updates: each of the 6 orders 100 times, within 5 standard deviations (46)."""
    agent = HAPPO(*make_spaces(MIXED), HAPPOConfig(**SMALL))
    orders: list[tuple[int, ...]] = []
    agent.learn = lambda rollout, order: orders.append(tuple(order))
    for _ in range(600):
        agent.update(None)
    counts = [orders.count(order) for order in set(orders)]
    assert len(counts) == 6 and max(abs(count - 100) for count in counts) < 46


def make(algorithm: type, masked: bool = True, views: bool = True) -> tuple[Any, Any]:
    spaces = make_spaces(MIXED if algorithm is HAPPO else ALIKE, views=views, masked=masked)
    return algorithm(*spaces, HAPPOConfig(**SMALL)), spaces


@pytest.mark.parametrize("algorithm", [HAPPO, MAPPO])
def test_actions_are_of_their_spaces_and_available(algorithm: type) -> None:
    agent, (observation_space, action_space) = make(algorithm)
    rollout = make_rollout(agent, observation_space, 100, 5)
    obs = {k: v[0] if isinstance(v, Tensor) else v for k, v in rollout.obs.items()}
    obs = {k: {n: x[0] for n, x in v.items()} if isinstance(v, dict) else v for k, v in obs.items()}
    greedy, extra = agent.act(obs, explore=False)
    assert extra == {}
    for name, space in action_space.items():
        for action in (rollout.action[name].flatten(0, 1), greedy[name]):
            assert all(space.contains(value.astype(space.dtype)) for value in action.numpy())
        if isinstance(space, Discrete):
            mask = rollout.obs["mask"][name].flatten(0, 1)
            assert (mask == 0).any()
            taken = rollout.action[name].flatten() - int(space.start)
            assert mask.gather(1, taken[:, None]).all()


@pytest.mark.parametrize("algorithm", [HAPPO, MAPPO])
def test_the_dead_do_not_teach(algorithm: type) -> None:
    """What a dead agent observes and draws changes neither policies nor values, nor what is known
    of them: its gradient is zero, its likelihood ratio is not in the factor, and the return after
    its death is what the living expect."""
    ends = []
    for garbage in (0.0, 1.0):
        agent, spaces = make(algorithm)
        rollout = make_rollout(agent, spaces[0], 6, 4)
        name = agent.names[1]
        dead = rollout.obs["alive"][..., 1] == 0
        assert dead.any() and not dead.all()
        rollout.obs["agents"][name][dead] += garbage
        rollout.obs["state"][name][dead] += garbage
        rollout.extra["log_prob"][..., 1][dead] -= garbage
        after = rollout.next_obs
        after["state"][name][after["alive"][..., 1] == 0] += garbage
        value = agent.critic.values(flat(rollout.obs)).detach()
        rollout.extra["value"] = value.view_as(rollout.extra["value"])
        agent.update(rollout)
        ends.append(tensors(agent.state_dict()))
    for key in ends[0]:
        torch.testing.assert_close(ends[0][key], ends[1][key], rtol=0, atol=1e-6, msg=key)


def is_of_policies(path: str) -> bool:
    return path.startswith(("/polic", "/optimizer"))


@pytest.mark.parametrize("algorithm", [HAPPO, MAPPO])
def test_where_nobody_lives_nothing_is_learned(algorithm: type) -> None:
    """Neither do policies move by the momentum of their optimizers."""
    agent, spaces = make(algorithm)
    agent.update(make_rollout(agent, spaces[0], 6, 4))
    before = {k: v for k, v in tensors(agent.state_dict()).items() if is_of_policies(k)}
    before = {k: v.clone() for k, v in before.items()}
    rollout = make_rollout(agent, spaces[0], 6, 4)
    rollout.obs["alive"][:] = 0
    agent.update(rollout)
    after = tensors(agent.state_dict())
    assert before and all(torch.equal(value, after[key]) for key, value in before.items())


@pytest.mark.parametrize("views", [False, True])
def test_mappo_is_one_policy_of_all_agents_rows(views: bool) -> None:
    """The naive form: one sum over agents and their living rows; a one-hot number beside each."""
    spaces = make_spaces(ALIKE, views=views, masked=True)
    config = MAPPOConfig(**SMALL)
    ours, theirs = MAPPO(*spaces, config, seed=1), MAPPO(*spaces, config, seed=1)
    rollout = make_rollout(ours, spaces[0], 6, 4)
    metrics = ours.update(rollout).metrics
    assert metrics.keys() == MAPPO_METRICS.keys()
    advantage, _ = theirs.critic.advantages(rollout)
    parts = []
    for i, name in enumerate(theirs.names):
        living = rollout.obs["alive"][..., i].flatten().bool()
        number = torch.zeros(24, 3)
        number[:, i] = 1
        parts.append(
            (
                torch.cat([rollout.obs["agents"][name].flatten(0, 1), number], 1)[living],
                rollout.obs["mask"][name].flatten(0, 1)[living],
                (rollout.action[name].flatten()[:, None])[living],
                rollout.extra["log_prob"][..., i].flatten()[living],
                advantage[:, i if views else 0][living],
            )
        )
    obs, mask, sample, old, a = (torch.cat(part) for part in zip(*parts, strict=True))
    R = 3 * 24
    std = ((a - a.mean()).square().sum() * R / len(a) / (R - 1)).sqrt()
    a = (a - a.mean()) / (std + 1e-8)
    for _ in range(config.epochs):
        log_prob, entropy = theirs.policy.evaluate(obs, mask, sample)
        ratio = (log_prob - old).exp()
        surrogate = torch.min(ratio * a, ratio.clamp(0.8, 1.2) * a)
        step(-(surrogate + 0.01 * entropy).mean(), theirs.optimizer, config)
    for name, value in theirs.policy.state_dict().items():
        torch.testing.assert_close(ours.policy.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_mappos_agents_act_as_their_rows_say() -> None:
    """Log probabilities and samples come back under the agent that drew them."""
    agent, spaces = make(MAPPO)
    rollout = make_rollout(agent, spaces[0], 3, 4)
    for i, name in enumerate(agent.names):
        number = torch.eye(3)[i].expand(12, -1)
        obs = torch.cat([rollout.obs["agents"][name].flatten(0, 1), number], 1)
        sample = rollout.extra["sample"][:, :, i].flatten(0, 1)
        assert torch.equal(sample[:, 0], rollout.action[name].flatten())
        log_prob, _ = agent.policy.evaluate(obs, rollout.obs["mask"][name].flatten(0, 1), sample)
        torch.testing.assert_close(log_prob, rollout.extra["log_prob"][..., i].flatten())


@pytest.mark.parametrize("algorithm", [HAPPO, MAPPO])
def test_minibatches_divide_every_pass(algorithm: type) -> None:
    spaces = make_spaces(MIXED if algorithm is HAPPO else ALIKE)
    agent: Any = algorithm(*spaces, HAPPOConfig(**SMALL, minibatches=5))
    sizes = [len(batch) for batch in agent._batches(24)]
    assert sizes == [5, 5, 5, 5, 4] * 3


@pytest.mark.parametrize("algorithm", [HAPPO, MAPPO])
def test_a_saved_state_continues_bit_for_bit(algorithm: type) -> None:
    spaces = make_spaces(MIXED if algorithm is HAPPO else ALIKE, views=True, masked=True)
    config = HAPPOConfig(minibatches=2, **SMALL)
    agent, other = (algorithm(*spaces, config, seed=seed) for seed in (0, 1))
    agent.update(make_rollout(agent, spaces[0], 6, 4))
    other.load_state_dict(copy.deepcopy(agent.state_dict()))
    for seed in (1, 2):
        mine, theirs = (make_rollout(part, spaces[0], 6, 4, seed) for part in (agent, other))
        assert torch.equal(mine.extra["log_prob"], theirs.extra["log_prob"])
        agent.update(mine)
        other.update(theirs)
    a, b = tensors(agent.state_dict()), tensors(other.state_dict())
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_bad_spaces_are_named() -> None:
    with pytest.raises(UserError, match="HAPPO needs an environment of several agents"):
        HAPPO(Box(-1, 1, (2,)), Discrete(2))
    with pytest.raises(UserError, match=r"MAPPO shares one policy .* box has .*: take HAPPO"):
        MAPPO(*make_spaces(MIXED))
    observations, actions = make_spaces(ALIKE, masked=True)
    masks = Dict({"z": observations["mask"]["z"]})
    partly = Dict(OrderedDict(observations.spaces) | {"mask": masks})
    with pytest.raises(UserError, match="only z have: take HAPPO"):
        MAPPO(partly, actions)
