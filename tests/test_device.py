"""The update path needs no host and no dynamic shapes: shown on a fake device, and on CUDA if any.

On the fake device tensors have shapes but no values, so that whatever needs a value (``.item()``,
``if``, a boolean index) raises. A copy from the device would pass silently, hence ``NoWaiting``.
"""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from family_cases import SMALL as FAMILY
from family_cases import draws, tensors
from hasac_cases import MIXED, draw, make_spaces
from hasac_cases import make_batch as make_joint_batch
from hatd3_cases import BOXES, KINDS
from sac_cases import ACT, OBS, make_batch, make_noise, weights
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rlsuite.advice import AdviceSpace
from rlsuite.agents.aadqn import AADQN, AADQNConfig
from rlsuite.agents.blind_dqn import BlindDQN, BlindDQNConfig
from rlsuite.agents.c51 import C51, C51Config
from rlsuite.agents.discrete_sac import DiscreteSAC, DiscreteSACConfig
from rlsuite.agents.dqn import DQN, DQNConfig
from rlsuite.agents.happo import HAPPO, HAPPOConfig
from rlsuite.agents.hasac import HASAC, HASACConfig
from rlsuite.agents.hatd3 import HATD3, HATD3Config
from rlsuite.agents.mappo import MAPPO
from rlsuite.agents.mehaml import HASACKLConfig, MEHATRPOConfig, hasac_kl, me_hatrpo
from rlsuite.agents.ppo import PPO, PPOConfig
from rlsuite.agents.robust_ppo import RobustPPO, RobustPPOConfig
from rlsuite.agents.sac import SAC, SACConfig
from rlsuite.buffers import (
    DenseRRMSampler,
    ImportanceWeights,
    PrioritizedSampler,
    Priority,
    RankSampler,
    RecencySampler,
    Replay,
    ReshuffleSampler,
    RolloutStorage,
    UniformSampler,
    sums,
)
from rlsuite.envs.humans import EpsilonHuman, ScriptedHuman
from rlsuite.rng import generator
from rlsuite.types import Agent, Batch, Step, Update

SMALL = SACConfig(hidden=(16, 16))
COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class Waited(Exception):
    """Host and device had to wait for one another."""


class NoWaiting(TorchDispatchMode):
    """Raise ``Waited`` at a result on the CPU of a tensor elsewhere, and at a blocking copy."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        read, made = ([t for t in tree_leaves(x) if isinstance(t, Tensor)] for x in (args, result))
        if any(not t.is_cpu for t in read) and any(t.is_cpu for t in made):
            raise Waited(f"{func} copies from the device")
        # To the device too: without non_blocking the host waits until the device has it.
        blocks = not (kwargs.get("non_blocking") or (func is COPIES[1] and args[2:] == (True,)))
        if func in COPIES and blocks and not made[0].is_cpu and any(t.is_cpu for t in read):
            raise Waited(f"{func} blocks")
        return result


@pytest.fixture
def fakegpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    def device_generator(*names: Any, device: Any = "cpu") -> torch.Generator | None:
        # The fake device has no generators; a real one has.
        return generator(*names) if str(device) == "cpu" else None

    def tensor(*args: Any, device: Any = None, **kwargs: Any) -> Tensor:
        # torch.tensor makes the copy to a device below the fake mode, where there is no device.
        made = real_tensor(*args, **kwargs)
        on_cpu = device is None or str(device) == "cpu"
        return made if on_cpu else torch.zeros(made.shape, dtype=made.dtype, device=device)

    # The compiler notes torch's functions once; not while one of them is another.
    torch._dynamo.trace_rules.get_torch_obj_rule_map()
    real_tensor = torch.tensor
    for name, module in sorted(sys.modules.items()):
        if name.startswith("rlsuite.") and getattr(module, "generator", None) is generator:
            monkeypatch.setattr(module, "generator", device_generator)
    monkeypatch.setattr(torch, "tensor", tensor)
    with FakeTensorMode():
        yield "fakegpu"


def read_to_host(x: Tensor) -> Any:
    x.cpu()


def write_through(x: Tensor) -> Any:
    torch.zeros(3).copy_(x, non_blocking=True)


def write_blocking(x: Tensor) -> Any:
    x.copy_(torch.zeros(3))


def move_blocking(x: Tensor) -> Any:
    torch.zeros(3).to(x.device)


@pytest.mark.parametrize(
    ("use", "error"),
    [
        (lambda x: x.sum().item(), DataDependentOutputException),
        (lambda x: x.sum() > 0 or None, DataDependentOutputException),
        (lambda x: x[x > 0], DynamicOutputShapeException),
        (lambda x: x.nonzero(), DynamicOutputShapeException),
        (lambda x: x + torch.zeros(3), RuntimeError),
        (read_to_host, Waited),
        (write_through, Waited),
        (write_blocking, Waited),
        (move_blocking, Waited),
    ],
    ids=["item", "if", "mask", "nonzero", "mixed", "cpu", "copy_", "blocking copy_", "blocking to"],
)
def test_the_fake_device_catches(
    fakegpu: str, use: Callable[[Tensor], Any], error: type[Exception]
) -> None:
    x = torch.ones(3, device=fakegpu)
    with NoWaiting(), pytest.raises(error):
        use(x)


def test_the_fake_device_lets_pass(fakegpu: str) -> None:
    x = torch.ones(3, device=fakegpu)
    with NoWaiting():
        x.copy_(torch.zeros(3), non_blocking=True)
        y = torch.zeros(3).to(fakegpu, non_blocking=True) + x.clone()
    assert y.device.type == fakegpu


def transition(num_envs: int, agent: Agent, obs: Any) -> Step:
    """From the CPU, as environments are, but for the action."""
    ends = torch.zeros(num_envs, dtype=torch.bool)
    action, extra = agent.act(obs)
    return Step(obs, action, torch.zeros(num_envs), obs, ends, ends, extra)


def train(agent: Agent, replay: Replay, obs: Any, guard: Callable[[], Any]) -> Update:
    """A few transitions, past the end of the ring, and two updates, all under ``guard``."""
    with guard():
        for _ in range(5):
            replay.add(transition(2, agent, obs))
        for _ in range(2):
            batch = replay.sample(8)
            update = agent.update(batch)
            replay.update(batch, update.priority)
    return update


DEVICE_CONFIGS = {
    "default": (SAC, SMALL),
    "fixed": (SAC, SACConfig(hidden=(16,), temperature=0.2, actor_value="mean", log_std="tanh")),
    "delayed": (
        SAC,
        SACConfig(hidden=(), policy_period=2, actor_value="first", log_prob="epsilon"),
    ),
    "AdamW": (SAC, SACConfig(hidden=(16,), optimizer="AdamW")),
    **{agent.__name__: (agent, config) for agent, config in FAMILY.items()},
}


def on_host(a: Tensor, b: Tensor) -> bool:
    """Frames are compared before they go to the device; in the fake mode they have no values."""
    assert a.is_cpu and b.is_cpu
    return True


ANNEALED = ImportanceWeights(0.4, anneal_batches=10)
SAMPLERS: dict[str, Callable[[], Any]] = {
    "uniform": UniformSampler,
    "reshuffle": ReshuffleSampler,
    "recency": RecencySampler,
    "prioritized": lambda: PrioritizedSampler(weights=ANNEALED),
    "stratified": lambda: PrioritizedSampler(
        draw="stratified", greatest="stored", weights=ImportanceWeights(normalize="buffer")
    ),
    "distinct": lambda: PrioritizedSampler(
        draw="distinct", weights=ImportanceWeights(normalize="none")
    ),
    "systematic": lambda: PrioritizedSampler(draw="systematic"),
    "rank": lambda: RankSampler(weights=ANNEALED),
    "rrm": lambda: DenseRRMSampler(weights=ANNEALED),
    "rrm stratified": lambda: DenseRRMSampler(draw="stratified", deficit_cap=4.0),
}


@pytest.mark.parametrize("limit", [sums.FLAT_LIMIT, 1], ids=["flat", "blocks"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_and_frames_on_the_fake_device(
    fakegpu: str, sampler: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No synchronisation and fixed shapes in add, sample, gather, priorities and giving up."""
    monkeypatch.setattr(sums, "FLAT_LIMIT", limit)
    monkeypatch.setattr(torch, "equal", on_host)
    space = gym.spaces.Box(0, 255, (4, 3, 3), "uint8")
    agent = SAC(space, ACT, SMALL, device=fakegpu)
    replay = Replay(12, SAMPLERS[sampler](), num_envs=2, device=fakegpu, n_step=2, frame_stack=4)
    with NoWaiting():
        for k in range(9):
            replay.add(transition(2, agent, torch.zeros(2, 4, 3, 3, dtype=torch.uint8)))
            if k < 4:
                continue
            batch = replay.sample(8)
            replay.update(batch, agent.update(batch).priority)
        replay.sampler.drop(range(2))
        replay.sample(4)
        pieces = replay.sequences(4, 3)
        replay.update(pieces.batch, pieces.priority(pieces.batch.reward, burn_in=1))
    assert {batch.obs.device.type, batch.weight.device.type} == {fakegpu}


@pytest.mark.parametrize("config", DEVICE_CONFIGS)
@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("sampler", [UniformSampler, ReshuffleSampler])
def test_update_path_on_the_fake_device(
    fakegpu: str, sampler: Callable[[], Any], n_step: int, config: str
) -> None:
    build, settings = DEVICE_CONFIGS[config]
    agent = build(OBS, ACT, settings, device=fakegpu)
    replay = Replay(8, sampler(), num_envs=2, device=fakegpu, n_step=n_step)
    update = train(agent, replay, torch.randn(2, 3), NoWaiting)
    assert update.priority.shape == (8,)
    found = [*update.metrics.values(), update.priority, *tensors(agent).values()]
    assert {t.device.type for t in found} == {fakegpu}


def test_dict_observations_on_the_fake_device(fakegpu: str) -> None:
    space = gym.spaces.Dict({"pixel": gym.spaces.Box(0, 255, (2, 2), "uint8"), "state": OBS})
    agent = SAC(space, ACT, SMALL, device=fakegpu)
    replay = Replay(8, UniformSampler(), num_envs=2, device=fakegpu)
    obs = {"pixel": torch.zeros(2, 2, 2, dtype=torch.uint8), "state": torch.zeros(2, 3)}
    assert train(agent, replay, obs, NoWaiting).priority.device.type == fakegpu


IMAGE = gym.spaces.Box(0, 255, (4, 36, 36), "uint8")
FOUR = gym.spaces.Discrete(4, start=1)
DISCRETE = {
    "dqn": (DQN, DQNConfig(hidden=(16,), target_period=1)),
    "dqn-all": (
        DQN,
        DQNConfig(
            hidden=(16, 8),
            double=True,
            dueling=True,
            loss="huber",
            max_grad_norm=10.0,
            optimizer_eps=1e-4,
            epsilon_evaluation=0.1,
        ),
    ),
    "dqn-pal": (DQN, DQNConfig(hidden=(), loss="pal")),
    "c51": (C51, C51Config(hidden=(16,), max_grad_norm=10.0, target_period=1)),
    "discrete_sac": (DiscreteSAC, DiscreteSACConfig(hidden=(16,))),
    "discrete_sac-remedies": (
        DiscreteSAC,
        DiscreteSACConfig(
            hidden=(),
            value="mean",
            q_clip=0.5,
            entropy_penalty=0.5,
            critic_temperature=0.0,
            temperature=0.05,
        ),
    ),
}


@pytest.mark.parametrize("space", [OBS, IMAGE], ids=["vector", "image"])
@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("name", DISCRETE)
def test_discrete_actions_on_the_fake_device(
    fakegpu: str, name: str, n_step: int, space: gym.spaces.Box
) -> None:
    make, config = DISCRETE[name]
    agent = make(space, FOUR, config, device=fakegpu)
    replay = Replay(8, ReshuffleSampler(), num_envs=2, device=fakegpu, n_step=n_step)
    obs = torch.zeros(2, *space.shape, dtype=torch.uint8 if space is IMAGE else torch.float32)
    update = train(agent, replay, obs, NoWaiting)
    with NoWaiting():
        assert agent.act(obs, explore=False)[0].shape == (2,)
    found = [*update.metrics.values(), update.priority]
    for part in vars(agent).values():
        if isinstance(part, torch.nn.Module):
            found += part.parameters()
    assert {t.device.type for t in found} == {fakegpu}


RULE = EpsilonHuman(ScriptedHuman(lambda obs: obs.flatten(1)[:, 2] > 0, 3), 0.1)
ADVICE = {
    "aadqn": (AADQN, AADQNConfig(hidden=(16,), hidden_people=(8,))),
    "aadqn-conditioned": (AADQN, AADQNConfig(hidden=(), greatest_cost=1.0, target_period=2)),
    "aadqn-known": (partial(AADQN, human=RULE.probs), AADQNConfig(known_human=True)),
    "blind_dqn": (BlindDQN, BlindDQNConfig(hidden=(16,), threshold=0.1, target_period=1)),
}


@pytest.mark.parametrize("space", [OBS, IMAGE], ids=["vector", "image"])
@pytest.mark.parametrize("name", ADVICE)
def test_advice_on_the_fake_device(fakegpu: str, name: str, space: gym.spaces.Box) -> None:
    make, config = ADVICE[name]
    agent = make(space, AdviceSpace(3, 0.1), config, device=fakegpu)
    replay = Replay(8, ReshuffleSampler(), num_envs=2, device=fakegpu)
    obs = torch.zeros(2, *space.shape, dtype=torch.uint8 if space is IMAGE else torch.float32)
    done = {"executed": torch.zeros(2, dtype=torch.int64), "reward": torch.zeros(2)}
    with NoWaiting():
        for _ in range(5):
            step = transition(2, agent, obs)
            replay.add(Step(obs, step.action, step.reward, obs, *[step.terminated] * 2, done))
            batch = replay.sample(4)
            update = agent.update(batch)
            replay.update(batch, update.priority)
        assert agent.act(obs, explore=False)[0].shape == (2,)
    found = [*update.metrics.values(), update.priority, *agent.people.parameters()]
    assert {t.device.type for t in found} == {fakegpu}


SEVERAL = {
    "hasac": (HASAC, MIXED, HASACConfig(hidden=(16,))),
    "hasac-gumbel": (
        HASAC,
        MIXED,
        HASACConfig(hidden=(16,), gradient="gumbel", normalize_values=True, critic_loss="huber"),
    ),
    "masac": (
        HASAC,
        MIXED,
        HASACConfig(hidden=(16,), order="simultaneous", temperature="annealed", max_grad_norm=1.0),
    ),
    "hasac_kl": (hasac_kl, MIXED, HASACKLConfig(hidden=(16,))),
    "me_hatrpo": (me_hatrpo, MIXED, MEHATRPOConfig(hidden=(16,))),
    **{
        kind: (HATD3, BOXES, HATD3Config(hidden=(16,), max_grad_norm=1.0, **settings))
        for kind, settings in KINDS.items()
    },
}


@pytest.mark.parametrize("views", [False, True])
@pytest.mark.parametrize("name", SEVERAL)
def test_several_agents_on_the_fake_device(fakegpu: str, name: str, views: bool) -> None:
    make, agents, config = SEVERAL[name]
    spaces = make_spaces(agents, views=views, masked=True)
    agent = make(*spaces, config, device=fakegpu)
    replay = Replay(8, ReshuffleSampler(), num_envs=2, device=fakegpu)
    rng = np.random.default_rng(0)
    obs, action = draw(spaces[0], 2, rng), draw(spaces[1], 2, rng)
    over = torch.zeros(2, dtype=torch.bool)
    with NoWaiting():
        for _ in range(5):
            agent.act(obs)
            replay.add(Step(obs, action, torch.zeros(2), obs, over, over))
            batch = replay.sample(4)
            update = agent.update(batch)
            replay.update(batch, update.priority)
    found = [*update.metrics.values(), update.priority, *agent.critic.parameters()]
    assert {t.device.type for t in found} == {fakegpu}


def learn_from_rollout(agent: Any, obs: Any, device: str) -> dict[str, Tensor]:
    """Acting, storing, and an update; the metrics."""
    storage = RolloutStorage(4, device)
    ends = torch.zeros(2, dtype=torch.bool)
    with NoWaiting():
        for _ in range(6):
            action, extra = agent.act(obs)
            storage.add(Step(obs, action, torch.zeros(2), obs, ends, ends, extra))
            if storage.is_full():
                update = agent.update(storage.take())
    return update.metrics


@pytest.mark.parametrize("space", [OBS, IMAGE], ids=["vector", "image"])
@pytest.mark.parametrize("action", [ACT, FOUR], ids=["box", "discrete"])
@pytest.mark.parametrize(
    "settings", [{}, {"target_kl": 0.01, "clip_value": 0.2, "normalize_values": True}]
)
def test_rollouts_on_the_fake_device(
    fakegpu: str, settings: dict[str, Any], action: gym.Space[Any], space: gym.spaces.Box
) -> None:
    config = PPOConfig(hidden=(16,), batch_size=3, epochs=2, **settings)
    agent = PPO(space, action, config, device=fakegpu)
    obs = torch.zeros(2, *space.shape, dtype=torch.uint8 if space is IMAGE else torch.float32)
    metrics = learn_from_rollout(agent, obs, fakegpu)
    found = [*metrics.values(), *agent.policy.parameters(), *agent.value.parameters()]
    assert {t.device.type for t in found} == {fakegpu}


def test_nature_on_the_fake_device(fakegpu: str) -> None:
    box = gym.spaces.Box(np.float32([0.5, 0.2]), np.float32([2.0, 1.0]))
    action = gym.spaces.Dict([("action", FOUR), ("physics", box)])

    def play(actor: Any, seed: int) -> Any:
        actor.act(torch.zeros(6, *OBS.shape))
        return SimpleNamespace(returns=[0.0] * 6, lengths=[1] * 6)

    config = RobustPPOConfig(hidden=(16,), batch_size=3, epochs=2, candidates=3, worst=2)
    agent = RobustPPO(OBS, action, config, device=fakegpu, play=play)
    metrics = learn_from_rollout(agent, torch.zeros(2, *OBS.shape), fakegpu)
    assert agent.chosen is not None and agent.tried == 2
    found = [*metrics.values(), agent.worst, agent.chosen, agent.scores]
    assert {t.device.type for t in found} == {fakegpu}


@pytest.mark.parametrize("views", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("algorithm", [HAPPO, MAPPO])
def test_rollouts_of_several_agents_on_the_fake_device(
    fakegpu: str, algorithm: Any, masked: bool, views: bool
) -> None:
    teams = MIXED if algorithm is HAPPO else dict.fromkeys("ba", MIXED["discrete"])
    spaces = make_spaces(teams, views=views, masked=masked)
    config = HAPPOConfig(hidden=(16,), minibatches=2)
    agent = algorithm(*spaces, config, device=fakegpu)
    obs = draw(spaces[0], 2, np.random.default_rng(0))
    metrics = learn_from_rollout(agent, obs, fakegpu)
    assert {t.device.type for t in [*metrics.values(), *agent.critic.net.parameters()]} == {fakegpu}


@pytest.fixture
def traceable() -> Iterator[None]:
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        yield
    torch._dynamo.reset()


def without_torchs_graph_breaks(agent: Any) -> Any:
    """Make the optimizers traceable.

    Breaks that are torch's, not ours: its wrappers around ``step`` (profiling hooks, switching
    gradients on and off) break the graph, and the fused kernel is excluded from compilation.
    """
    parts = [*vars(agent).values(), *getattr(agent, "actor_optimizers", {}).values()]
    parts.append(getattr(getattr(agent, "temperature", None), "optimizer", None))
    for optimizer in (part for part in parts if isinstance(part, torch.optim.Optimizer)):
        for group in optimizer.param_groups:
            group.update(fused=False, foreach=True)
        plain = type(optimizer).step
        while hasattr(plain, "__wrapped__"):
            plain = plain.__wrapped__

        def step(optimizer: torch.optim.Optimizer = optimizer, plain: Any = plain) -> None:
            with torch.no_grad():
                plain(optimizer)

        optimizer.step = step
    return agent


def test_update_compiles_without_graph_breaks(traceable: None) -> None:
    agent, eager = without_torchs_graph_breaks(SAC(OBS, ACT, SMALL)), SAC(OBS, ACT, SMALL)
    # The graph is what matters here; generating code for it would take a minute.
    learn = torch.compile(agent.learn, fullgraph=True, backend="aot_eager")
    for i in range(3):
        batch, noise = make_batch(32, i), make_noise(agent, 32, i)
        update, expected = learn(batch, noise), eager.learn(batch, noise)
        torch.testing.assert_close(update.priority, expected.priority, rtol=0, atol=1e-5)
        after = weights(agent)
        for name, value in weights(eager).items():
            torch.testing.assert_close(after[name], value, rtol=0, atol=1e-5, msg=name)
    assert agent.actor_optimizer.state_dict()["state"][0]["step"].item() == 3


@pytest.mark.parametrize("build", FAMILY)
def test_updates_of_the_family_compile_without_graph_breaks(traceable: None, build: Any) -> None:
    agent = without_torchs_graph_breaks(build(OBS, ACT, FAMILY[build]))
    eager = build(OBS, ACT, FAMILY[build])
    learn = torch.compile(agent.learn, fullgraph=True, backend="aot_eager")
    for i in range(3):
        batch, drawn = make_batch(32, i), draws(agent, 32, i)
        update, expected = learn(batch, *drawn), eager.learn(batch, *drawn)
        torch.testing.assert_close(update.priority, expected.priority, rtol=0, atol=1e-5)
        after = tensors(agent)
        for name, value in tensors(eager).items():
            torch.testing.assert_close(after[name], value, rtol=0, atol=1e-5, msg=name)
    assert agent.actor_optimizer.state_dict()["state"][0]["step"].item() == 3


def test_updates_of_advice_compile_without_graph_breaks(traceable: None) -> None:
    space, config = AdviceSpace(3, 0.1), AADQNConfig(hidden=(16,), greatest_cost=1.0)
    agent, eager = without_torchs_graph_breaks(AADQN(OBS, space, config)), AADQN(OBS, space, config)
    learn = torch.compile(agent.learn, fullgraph=True, backend="aot_eager")
    for i in range(3):
        g = torch.Generator().manual_seed(i)
        done = {"executed": torch.randint(3, (32,), generator=g), "reward": torch.ones(32)}
        advice = torch.randint(4, (32,), generator=g)
        batch = dataclasses.replace(make_batch(32, i), action=advice, extra=done)
        cost = torch.rand(32, 1, generator=g)
        update, expected = learn(batch, cost), eager.learn(batch, cost)
        torch.testing.assert_close(update.priority, expected.priority, rtol=0, atol=1e-5)
        pairs = zip(agent.values.parameters(), eager.values.parameters(), strict=True)
        for value, other in pairs:
            torch.testing.assert_close(value, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "order"), [("hasac", [2, 0, 1]), ("hatd3", [1, 2, 0])])
def test_updates_of_several_agents_compile_without_graph_breaks(
    traceable: None, name: str, order: list[int]
) -> None:
    make, agents, config = SEVERAL[name]
    spaces = make_spaces(agents, masked=True)
    agent, eager = without_torchs_graph_breaks(make(*spaces, config)), make(*spaces, config)
    agent.noise = eager.noise = None  # torch cannot trace a generator other than its own
    learn = torch.compile(agent.learn, fullgraph=True, backend="aot_eager")
    for i in range(3):
        batch, found = make_joint_batch(*spaces, seed=i), []
        for update in (learn, eager.learn):
            torch.manual_seed(i)
            found.append(update(batch, order))
        torch.testing.assert_close(found[0].priority, found[1].priority, rtol=0, atol=1e-5)
        for part in ("actors", "critic", "target"):
            pairs = zip(*(tree_leaves(own_state(a, part)) for a in (agent, eager)), strict=True)
            for value, expected in pairs:
                torch.testing.assert_close(value, expected, rtol=0, atol=1e-5, msg=part)


def own_state(agent: Any, part: str) -> Any:
    """A network's tensors, or those of all actors."""
    found = getattr(agent, part)
    if isinstance(found, dict):
        return {name: actor.state_dict() for name, actor in found.items()}
    return found.state_dict()


def test_a_graph_break_would_be_seen(traceable: None) -> None:
    agent = without_torchs_graph_breaks(SAC(OBS, ACT, SMALL))

    def branching(batch: Batch, noise: Tensor) -> Tensor:
        loss = agent.learn(batch, noise).metrics["loss/actor"]
        return loss if loss > 0 else -loss

    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(branching, fullgraph=True, backend="eager")(
            make_batch(8), make_noise(agent, 8)
        )


cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@contextlib.contextmanager
def no_synchronisation() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def on_device(batch: Batch) -> Batch:
    moved = {name: getattr(batch, name) for name in Batch.__dataclass_fields__}
    return Batch(**{n: t.cuda() if isinstance(t, Tensor) else t for n, t in moved.items()})


@cuda
@pytest.mark.cuda
@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_update_path_never_waits_on_cuda(sampler: str, n_step: int) -> None:
    """T23."""
    agent = SAC(OBS, ACT, SMALL, device="cuda")
    replay = Replay(8, SAMPLERS[sampler](), num_envs=2, device="cuda", n_step=n_step)
    train(agent, replay, torch.randn(2, 3), contextlib.nullcontext)  # lazy initialisation may wait
    train(agent, replay, torch.randn(2, 3), no_synchronisation)


@cuda
@pytest.mark.cuda
def test_learn_is_captured_in_a_cuda_graph() -> None:
    agent, eager = (SAC(OBS, ACT, SMALL, device="cuda") for _ in range(2))
    batch, noise = on_device(make_batch(32)), make_noise(agent, 32).cuda()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            agent.learn(batch, noise)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        update = agent.learn(batch, noise)
    for _ in range(3):
        eager.learn(batch, noise)
    for i in range(1, 4):
        fresh, fresh_noise = on_device(make_batch(32, i)), make_noise(agent, 32, i).cuda()
        for name in Batch.__dataclass_fields__:
            if name != "extra":
                getattr(batch, name).copy_(getattr(fresh, name))
        noise.copy_(fresh_noise)
        graph.replay()
        expected = eager.learn(fresh, fresh_noise)
        torch.testing.assert_close(update.priority, expected.priority, rtol=1e-4, atol=1e-4)
    after = weights(agent)
    for name, value in weights(eager).items():
        torch.testing.assert_close(after[name], value, rtol=1e-4, atol=1e-5, msg=name)


@cuda
@pytest.mark.cuda
@pytest.mark.parametrize("form", [sums.FlatSums, sums.BlockSums])
def test_draws_are_captured_in_a_cuda_graph(form: Callable[..., Any]) -> None:
    """T24 and T25: 1,000 replays of drawing and setting follow the weights; no slot of weight 0."""
    device = torch.device("cuda")
    weights = torch.rand(1000, dtype=torch.float64) * (torch.arange(1000) % 2)
    drawn = form(1000, device)
    drawn.set(torch.arange(1000, device=device), weights.to(device))
    fraction = torch.empty(4000, dtype=torch.float64, device=device)
    slots = torch.empty(4000, dtype=torch.int64, device=device)

    def draw() -> None:
        slots.copy_(drawn.find(fraction.uniform_()))
        drawn.set(slots, drawn.values[slots])

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        draw()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        draw()
    counts = torch.zeros(1000)
    for _ in range(1000):
        graph.replay()
        counts += torch.bincount(slots, minlength=1000).cpu()
    p = (weights / weights.sum()).float()
    assert (counts[p == 0] == 0).all()
    deviation = (counts - 4e6 * p)[p > 0] / (4e6 * p * (1 - p)).sqrt()[p > 0]
    assert deviation.abs().max() < 6


def filled(sampler: Any, device: str) -> tuple[Replay, Tensor]:
    """500 transitions, the n-th with reward n, and their (500,) errors."""
    replay = Replay(500, sampler, num_envs=500, device=device)
    number = torch.arange(500, dtype=torch.float32)
    obs, over = torch.zeros(500, 3), torch.zeros(500, dtype=torch.bool)
    replay.add(Step(obs, torch.zeros(500, 2), number, obs, over, over))
    error = torch.rand(500, generator=torch.Generator().manual_seed(0)) + 0.1
    replay.sampler.sample(1)  # settles the new slots
    replay.sampler.update(torch.arange(500, device=device), error.to(device))
    return replay, error


@cuda
@pytest.mark.cuda
@pytest.mark.parametrize("draw", ["with_replacement", "stratified"])
def test_sampler_gather_and_update_are_captured_in_a_cuda_graph(draw: Any) -> None:
    """T24: 1,000 replays of a batch that is drawn, gathered and given its priorities back; T10's
    bounds. The graph has to know the sampler's generator."""
    sampler = PrioritizedSampler(priority=Priority(1.0, 0.0, 1e-9), draw=draw)
    replay, error = filled(sampler, "cuda")
    errors, counts = error.cuda(), torch.zeros(500, device="cuda")

    def turn() -> None:
        batch = replay.sample(256)
        replay.update(batch, errors.index_select(0, batch.index))
        counts.index_add_(0, batch.reward.long(), batch.weight)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        turn()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(sampler._generator)
    with torch.cuda.graph(graph):
        turn()
    counts.zero_()
    for _ in range(1000):
        graph.replay()
    p = error.double() / error.double().sum()
    deviation = (counts.cpu() - 256_000 * p) / (256_000 * p * (1 - p)).sqrt()
    assert float(counts.sum()) == 256_000 and deviation.abs().max() < 6
    if draw == "with_replacement":  # chi-square of 499 degrees of freedom, p > 1e-4
        assert float((deviation.square() * (1 - p)).sum()) < 625


@cuda
@pytest.mark.cuda
@pytest.mark.parametrize(
    "make",
    [
        lambda: PrioritizedSampler(draw="stratified"),
        lambda: PrioritizedSampler(draw="distinct"),
        RankSampler,
        DenseRRMSampler,
    ],
    ids=["stratified", "distinct", "rank", "rrm"],
)
def test_samplers_draw_by_the_same_law_on_cpu_and_cuda(make: Callable[[], Any]) -> None:
    """T25: counts of 500 batches agree within 6 standard deviations of their difference.

    No sampler's counts vary more than with replacement.
    """
    counts = []
    for device in ("cpu", "cuda"):
        replay, _ = filled(make(), device)
        drawn = torch.zeros(500)
        for _ in range(500):
            drawn += torch.bincount(replay.sample(64).reward.long().cpu(), minlength=500)
        counts.append(drawn)
    ours, theirs = counts
    assert ((ours - theirs).abs() <= 6 * (ours + theirs).clamp(min=1).sqrt()).all()
    assert ours.std() > 12  # of uniform draws: 8


@cuda
@pytest.mark.cuda
def test_cpu_and_cuda_compute_the_same() -> None:
    on_cpu, on_cuda = (SAC(OBS, ACT, SMALL, device=d, seed=3) for d in ("cpu", "cuda"))
    for i in range(3):
        batch, noise = make_batch(32, i), make_noise(on_cpu, 32, i)
        expected = on_cpu.learn(batch, noise)
        update = on_cuda.learn(on_device(batch), noise.cuda())
        torch.testing.assert_close(update.priority.cpu(), expected.priority, rtol=1e-3, atol=1e-3)
    after = weights(on_cuda)
    for name, value in weights(on_cpu).items():
        torch.testing.assert_close(after[name].cpu(), value, rtol=1e-3, atol=1e-4, msg=name)
    obs = torch.zeros(20_000, 3)
    ours, theirs = on_cpu.act(obs)[0], on_cuda.act(obs)[0].cpu()
    for moment in (torch.mean, torch.std):
        torch.testing.assert_close(moment(theirs, 0), moment(ours, 0), rtol=0, atol=0.03)
