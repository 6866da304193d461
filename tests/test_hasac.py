"""HASAC: its update against a naive one, its temperatures, masks, views and saved states."""

import copy
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from hasac_cases import MIXED, TWINS, Naive, make_batch, make_spaces
from hatd3_cases import BOXES

from rlsuite.agents.happo import HAPPO
from rlsuite.agents.hasac import HASAC, METRICS, HASACConfig, Mirror
from rlsuite.agents.hatd3 import HATD3, HATD3Config
from rlsuite.agents.mehaml import KLBall, KLDrift
from rlsuite.errors import UserError
from rlsuite.evaluate import Evaluation
from rlsuite.joint_critic import JointCritic
from rlsuite.parts import LearnedTemperatures, ValueNorm
from rlsuite.run import Run, RunConfig
from rlsuite.teams import views_of

SMALL = {"hidden": (16, 16), "lr_actor": 1e-2, "lr_critic": 1e-2, "initial_temperature": 0.3}


def tensors(tree: Any, prefix: str = "") -> dict[str, torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        return {prefix: tree}
    if isinstance(tree, list):
        tree = dict(enumerate(tree))
    if isinstance(tree, dict):
        return {
            k: v
            for key, child in tree.items()
            for k, v in tensors(child, f"{prefix}/{key}").items()
        }
    return {}


@pytest.mark.parametrize("gradient", ["exact", "gumbel"])
@pytest.mark.parametrize("views", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("agents", [MIXED, TWINS], ids=["mixed", "twins"])
def test_update_equals_the_naive_one(agents: Any, gradient: Any, views: bool, masked: bool) -> None:
    """Cached first layer, exact sums, actors that are computed at once and derivatives that are
    written out change nothing: 1e-6 after three updates.

    Steps in proportion to the gradient, for Adam makes whole steps of what rounding leaves of
    gradients that are nearly zero.
    """
    spaces = make_spaces(agents, views=views, masked=masked)
    steps: Any = {"lr_actor": 1.0, "lr_critic": 0.1, "lr_temperature": 0.1, "optimizer": "SGD"}
    config = HASACConfig(gradient=gradient, hidden=(16, 16), initial_temperature=0.3, **steps)
    ours, theirs = HASAC(*spaces, config, seed=1), Naive(HASAC(*spaces, config, seed=1))
    for seed in range(3):
        batch = make_batch(*spaces, seed=seed)
        found = ours.update(batch)
        assert float(found.metrics["loss/critic"]) == pytest.approx(
            theirs.update(batch)["loss/critic"], rel=1e-5
        )
    a, b = tensors(ours.state_dict()), tensors(theirs.agent.state_dict())
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=1e-6, msg=name)


def parameters(agent: HASAC, name: str) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in agent.actors[name].parameters()]).clone()


def test_a_turn_moves_its_own_agent_alone() -> None:
    """Neither the other policies nor, beyond the critics' own step, the critics move in a turn."""
    spaces = make_spaces(MIXED)
    agents = [HASAC(*spaces, HASACConfig(**SMALL), seed=3) for _ in range(2)]
    before = {name: parameters(agents[0], name) for name in MIXED}
    agents[0].learn(make_batch(*spaces), [1])
    agents[1].learn(make_batch(*spaces), [2])
    after = {name: parameters(agents[0], name) for name in MIXED}
    changed = [name for name in MIXED if not torch.equal(before[name], after[name])]
    assert changed == ["discrete"]
    for a, b in zip(agents[0].critic.parameters(), agents[1].critic.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("order", "drawn"), [("random", [1, 2, 0, 1]), ("simultaneous", [0, 1, 2])]
)
def test_successors_see_the_new_actions_of_their_predecessors(order: Any, drawn: list[int]) -> None:
    """In turns 0, 1, 2: draws of the old policies 1 and 2, then of the new 0 and the new 1."""
    spaces = make_spaces(MIXED)
    agent = HASAC(*spaces, HASACConfig(order=order, **SMALL), seed=3)
    seen: list[tuple[int, torch.Tensor]] = []
    draw = agent._draw

    def spy(obs: Any, i: int, output: torch.Tensor) -> torch.Tensor:
        seen.append((i, output.detach().clone()))
        return draw(obs, i, output)

    agent._draw = spy
    batch = make_batch(*spaces)
    agent.learn(batch, [0, 1, 2])
    assert [i for i, _ in seen] == drawn
    if order == "random":
        assert not torch.equal(seen[0][1], seen[3][1])
        new = agent.actors["discrete"](batch.obs["agents"]["discrete"])
        torch.testing.assert_close(seen[3][1], new.detach())


def test_orders_are_uniform() -> None:
    """600 updates: each of the 6 orders 100 times, within 5 standard deviations (46)."""
    spaces = make_spaces(MIXED)
    agent = HASAC(*spaces, HASACConfig(**SMALL), seed=3)
    orders: list[tuple[int, ...]] = []
    agent.learn = lambda batch, order: orders.append(tuple(order))
    for _ in range(600):
        agent.update(make_batch(*spaces, n=2))
    counts = [orders.count(order) for order in set(orders)]
    assert len(counts) == 6 and max(abs(count - 100) for count in counts) < 46


@pytest.mark.parametrize("mirror", [None, KLDrift(1.0, 2), KLBall(1e-4, 2)])
def test_a_saved_state_continues_bit_for_bit(mirror: Mirror | None) -> None:
    spaces = make_spaces(MIXED, views=True, masked=True)
    config = HASACConfig(normalize_values=True, critic_loss="huber", **SMALL)
    agent, other = (HASAC(*spaces, config, mirror=mirror, seed=seed) for seed in (0, 1))
    agent.update(make_batch(*spaces, seed=0))
    other.load_state_dict(copy.deepcopy(agent.state_dict()))
    for seed in (1, 2):
        agent.update(make_batch(*spaces, seed=seed))
        other.update(make_batch(*spaces, seed=seed))
    a, b = tensors(agent.state_dict()), tensors(other.state_dict())
    assert all(torch.equal(a[name], b[name]) for name in a)
    obs = make_batch(*spaces).obs
    (mine, _), (theirs, _) = agent.act(obs), other.act(obs)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_actions_are_of_their_spaces_and_available() -> None:
    spaces = make_spaces(MIXED, masked=True)
    agent = HASAC(*spaces, HASACConfig(**SMALL))
    obs = make_batch(*spaces, n=500).obs
    for explore in (True, False):
        actions, extra = agent.act(obs, explore=explore)
        assert extra == {}
        for name, (_, space) in MIXED.items():
            values = actions[name].numpy()
            assert all(space.contains(value.astype(space.dtype)) for value in values)
        mask = obs["mask"]["discrete"]
        taken = actions["discrete"] - 2
        assert mask.gather(1, taken[:, None]).all()


def test_everyone_acts_by_its_own_policy() -> None:
    """A copy of an agent too, when it has learned what the other has."""
    spaces = make_spaces(TWINS, masked=True)
    agent = HASAC(*spaces, HASACConfig(**SMALL))
    copied = copy.deepcopy(agent)
    batch = make_batch(*spaces)
    acted = []
    for each in (agent, copied):
        each.update(batch)
        actions, _ = each.act(batch.obs, explore=False)
        acted.append(actions)
        assert list(actions) == list(TWINS)
        for name, actor in each.actors.items():
            output, mask = actor(batch.obs["agents"][name]), batch.obs["mask"].get(name)
            expected = actor.act(output, mask, None, explore=False)
            torch.testing.assert_close(actions[name], expected)
    for name in TWINS:
        assert torch.equal(*(actions[name] for actions in acted))


def test_the_entropy_to_hold_follows_what_is_available() -> None:
    """Row 1 of the known defects: the target was 0 for Discrete, log(heads) for MultiDiscrete."""
    actors = HASAC(*make_spaces(MIXED)).actors
    assert actors["box"].target_entropy(0.3, None) == -2.0
    assert actors["discrete"].target_entropy(0.3, None) == pytest.approx(0.3 * np.log(5))
    assert actors["multi"].target_entropy(0.3, None) == pytest.approx(0.3 * np.log(6))
    mask = torch.tensor([[1, 0, 1, 1, 1], [1, 0, 0, 0, 1]], dtype=torch.int8)
    found = actors["multi"].target_entropy(0.5, mask)
    torch.testing.assert_close(found, 0.5 * torch.tensor([2.0 * 2, 1.0 * 1]).log())


def test_log_probabilities_of_heads_are_summed() -> None:
    """Row 7 of the known defects: heads were broadcast against the critics' values."""
    actor = HASAC(*make_spaces(MIXED)).actors["multi"]
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0, 0.0]])
    _, log_prob, _ = actor.sample(logits, None, torch.Generator())
    torch.testing.assert_close(log_prob, -torch.tensor([6.0]).log())


def test_the_dead_do_not_teach() -> None:
    """What a dead agent observes changes neither its own policy nor the critics."""
    spaces = make_spaces(MIXED, views=True, masked=True)
    ends = []
    for garbage in (0.0, 1.0):
        agents = [HASAC(*spaces, HASACConfig(**SMALL)) for _ in range(2)]
        batch = make_batch(*spaces)
        obs: Any = batch.obs
        dead = obs["alive"][:, 1] == 0
        assert dead.any()
        # Not the same on all numbers: the layer normalisation would hide that.
        obs["agents"]["discrete"][dead] *= torch.tensor([1.0, 1.0 - 3.0 * garbage, 1.0 + garbage])
        obs["alive"][:, [0, 2]] = 1
        agents[0].learn(batch, [0])
        agents[1].learn(batch, [1])
        critic = [p.detach() for p in agents[0].critic.parameters()]
        ends.append((parameters(agents[1], "discrete"), critic))
    torch.testing.assert_close(ends[0], ends[1])


BOTH = pytest.mark.parametrize(
    ("make", "agents", "config"),
    [
        (HASAC, MIXED, HASACConfig(**SMALL)),
        (HASAC, MIXED, HASACConfig(gradient="gumbel", normalize_values=True, **SMALL)),
        (HATD3, BOXES, HATD3Config(hidden=(16,), policy_period=1)),
    ],
    ids=["exact", "gumbel", "hatd3"],
)


@BOTH
def test_nothing_comes_from_views_of_the_dead(make: Any, agents: Any, config: Any) -> None:
    """Neither targets, value statistics and priorities, nor what the living climb, nor metrics."""
    spaces, ends = make_spaces(agents, views=True, masked=True), []
    for garbage in (0.0, 100.0):
        agent, batch = make(*spaces, config), make_batch(*spaces)
        for obs in (batch.obs, batch.next_obs):
            for i, name in enumerate(agent.names):
                dead = obs["alive"][:, i] == 0  # type: ignore[index]
                obs["state"][name][dead] += garbage  # type: ignore[index]
        found = agent.learn(batch, [2, 0, 1])
        ends.append(tensors(agent.state_dict()) | found.metrics | {"priority": found.priority})
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def test_value_statistics_are_those_of_the_living() -> None:
    spaces = make_spaces(MIXED, views=True, masked=True)
    agent = HASAC(*spaces, HASACConfig(normalize_values=True, **SMALL))
    batch, target = make_batch(*spaces), torch.arange(48.0).view(3, 16)
    agent._target = lambda *arguments: target.clone()  # type: ignore[method-assign]
    agent._improve_critics(batch, torch.zeros(3))
    living = target[batch.obs["alive"].T.bool()]  # type: ignore[index]
    assert isinstance(agent.value_norm, ValueNorm) and len(living) < 48
    found = torch.stack(agent.value_norm.mean_and_std())
    torch.testing.assert_close(found, torch.stack([living.mean(), living.std(correction=0)]))


def test_the_return_goes_on_after_a_death() -> None:
    """Agent 1 dies in the step: the target of its last view has the mean of what the others' next
    views are worth, where nobody knows what its own is."""
    spaces = make_spaces(MIXED, views=True, masked=True)
    agent, batch = HASAC(*spaces, HASACConfig(**SMALL)), make_batch(*spaces)
    batch.next_obs["alive"][:] = torch.tensor([1, 0, 1])  # type: ignore[index]
    first, dead, last = agent._target(batch, torch.full((3,), 0.1))
    assert not torch.allclose(first, last)
    torch.testing.assert_close(dead, (first + last) / 2)


@BOTH
@pytest.mark.parametrize("before", [0, 2])
def test_where_an_agent_lives_nowhere_it_stays_as_it_is(
    make: Any, agents: Any, config: Any, before: int
) -> None:
    """Neither policy nor temperature moves, nor what their optimizers keep: momentum included."""
    spaces = make_spaces(agents, masked=True)
    agent, (first, name, _) = make(*spaces, config), agents
    for seed in range(before):
        agent.update(make_batch(*spaces, seed=seed))

    def state(name: str) -> torch.Tensor:
        saved = agent.state_dict()
        parts = tensors([saved[key][name] for key in ("actors", "actor_optimizers")])
        return torch.cat([part.flatten().float() for part in parts.values()]).clone()

    def temperatures() -> torch.Tensor:
        saved = agent.state_dict().get("temperature", {})
        return torch.stack([t for t in tensors(saved).values() if t.ndim] or [torch.arange(3.0)])

    old, moving, alpha = state(name), state(first), temperatures().clone()
    batch = make_batch(*spaces, seed=9)
    batch.obs["alive"][:] = torch.tensor([1, 0, 1])  # type: ignore[index]
    agent.learn(batch, [0, 1, 2])
    new = state(name)
    assert torch.equal(new[: len(old)], old) and not new[len(old) :].any()
    assert not torch.equal(state(first)[: len(moving)], moving)
    after = temperatures()
    assert torch.equal(after[: len(alpha), 1], alpha[:, 1]) and not after[len(alpha) :, 1].any()
    if make is HASAC:
        assert (after[0, [0, 2]] != alpha[0, [0, 2]]).all()


def test_the_dead_have_no_entropy() -> None:
    """Where nobody is alive afterwards the target is the same at every temperature."""
    spaces, losses = make_spaces(MIXED, masked=True), []
    for temperature in (0.1, 10.0):
        batch = make_batch(*spaces)
        batch.next_obs["alive"][:] = 0  # type: ignore[index]
        agent = HASAC(*spaces, HASACConfig(temperature=temperature, **SMALL))
        losses.append(agent.learn(batch, [0, 1, 2]).metrics["loss/critic"])
    assert torch.equal(*losses)


def test_views_of_the_dead_have_no_priority() -> None:
    """Critics do not learn from them: their errors would never shrink."""
    spaces = make_spaces(MIXED, views=True, masked=True)
    batch, found = make_batch(*spaces), []
    obs: Any = batch.obs
    for garbage in (0.0, 100.0):
        obs["state"]["discrete"][obs["alive"][:, 1] == 0] += garbage
        found.append(HASAC(*spaces, HASACConfig(**SMALL)).learn(batch, [0, 2]).priority)
    assert torch.equal(*found)


def test_the_sum_over_actions_is_what_samples_give_on_average() -> None:
    """The loss of 20,000 draws of a Discrete policy, and its gradient by the score function, beside
    the sum over the actions: within 5 standard errors.

    Not the gradient of ``_sampled_loss`` itself: the straight-through Gumbel-softmax is biased, and
    agrees with the sum over the actions in expectation only where values are linear in the action.
    """
    agents = OrderedDict(only=(Box(-1, 1, (1,)), Discrete(3)))
    spaces = make_spaces(agents, state=1)
    agent = HASAC(*spaces, HASACConfig(hidden=(8,)), seed=2)
    n, temperature = 20_000, torch.tensor(0.2)
    with torch.no_grad():
        agent.critic.net.weights[-1].mul_(10.0)  # values that differ
    first = agent.critic.state_part(torch.full((n, 1), 0.5))
    logits = torch.tensor([[0.3, -0.5, 0.1]])
    first_of = partial(agent.critic.first, first, [], 0)
    one = partial(agent.critic.first, first[:, :1], [], 0)
    exact, negative, slope = agent._exact_loss({}, 0, logits, one, temperature)
    many = logits.repeat(n, 1).requires_grad_()
    state = agent.noise.get_state()
    loss, log_prob, _ = agent._sampled_loss({}, 0, many, first_of, temperature)
    agent.noise.set_state(state)  # the same draws again
    taken = agent.actors["only"].draw(many, None, agent.noise)
    (score,) = torch.autograd.grad((agent.actors["only"].log_pi(many, None) * taken).sum(), many)
    pairs = [
        (loss[:, None], exact),
        (log_prob[:, None], negative),
        (score * loss[:, None], slope[0]),
    ]
    for samples, expected in pairs:
        samples, expected = samples.detach(), expected.detach()
        error = samples.std(0) / n**0.5
        assert ((samples.mean(0) - expected).abs() < 5 * error).all()
        assert (5 * error < 0.2 * expected.abs().max()).all()


@pytest.mark.parametrize("make", [HASAC, HATD3])
def test_priorities_are_means_over_critics_and_the_greatest_of_the_views(make: Any) -> None:
    spaces = make_spaces(BOXES, views=True)
    agent, batch = make(*spaces), make_batch(*spaces)
    error = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(0))
    loss, q = torch.zeros(2)
    found = {"loss/critic": loss, "value/q": q}
    agent._improve_critics = lambda *arguments: (found, error)
    expected = [max(sum(abs(error[:, v, b])) / 2 for v in range(3)) for b in range(16)]
    order = [0] if make is HASAC else []
    torch.testing.assert_close(agent.learn(batch, order).priority, torch.stack(expected))


@pytest.mark.parametrize("gradient", ["exact", "gumbel"])
def test_a_policy_may_climb_its_own_view(gradient: Any) -> None:
    spaces, found = make_spaces(MIXED, views=True), []
    for views in ("own", "all"):
        for other in (0.0, 1.0):
            config = HASACConfig(
                gradient=gradient, actor_views=views, hidden=(16,), lr_critic=1e-12
            )
            agent, batch = HASAC(*spaces, config), make_batch(*spaces)
            batch.obs["state"]["box"] += other  # type: ignore[index]
            agent.learn(batch, [1])
            found.append(parameters(agent, "discrete"))
    torch.testing.assert_close(found[0], found[1])
    assert not torch.allclose(found[2], found[3])


def test_log_temperatures_have_bounds() -> None:
    """-10 and 5; Adam's first step is as long as the learning rate."""
    temperature = HASAC(*make_spaces(MIXED), HASACConfig(lr_temperature=1.0)).temperature
    assert isinstance(temperature, LearnedTemperatures)
    with torch.no_grad():
        temperature.log_value.copy_(torch.tensor([4.9, -9.9, 0.0]))
    temperature.update(torch.tensor([1.0, -1.0, 1.0]))
    torch.testing.assert_close(temperature.log_value.detach(), torch.tensor([5.0, -10.0, 1.0]))


def test_metrics_are_of_every_agent_and_of_the_batch() -> None:
    """Means with their extremes over the agents; values in the scale of rewards, with their
    deviation, where views of the dead do not count."""
    spaces = make_spaces(MIXED, views=True, masked=True)
    config = HASACConfig(normalize_values=True, hidden=(16,), lr_actor=1e-12)
    agent, batch = HASAC(*spaces, config), make_batch(*spaces)
    assert isinstance(agent.temperature, LearnedTemperatures)
    with torch.no_grad():
        agent.temperature.log_value.copy_(torch.tensor([0.1, 0.2, 0.5]).log())
        taken = [actor.encode(batch.action[n]) for n, actor in agent.actors.items()]  # type: ignore[index]
        values = agent.critic.of_views(views_of(batch.obs, agent.names), taken)
    losses, entropies, turn = [], [], agent._turn

    def spy(*arguments: Any) -> Any:
        found = turn(*arguments)
        losses.append(found[0].item())
        entropies.append(-found[1].item())
        return found

    agent._turn = spy  # type: ignore[method-assign]
    living = values[:, batch.obs["alive"].T.bool()]  # type: ignore[index]
    found = agent.learn(batch, [2, 0, 1]).metrics
    assert found.keys() == METRICS.keys()
    for name, each in (("temperature", [0.1, 0.2, 0.5]), ("entropy", entropies)):
        assert len(set(each)) == 3
        for end, value in {"": sum(each) / 3, "_min": min(each), "_max": max(each)}.items():
            assert found[f"policy/{name}{end}"].item() == pytest.approx(value)
    assert found["loss/actor"].item() == pytest.approx(sum(losses) / 3)
    assert isinstance(agent.value_norm, ValueNorm)
    mean, std = agent.value_norm.mean_and_std()
    torch.testing.assert_close(found["value/q"], living.mean() * std + mean)
    torch.testing.assert_close(found["value/q_std"], living.std(correction=0) * std)


@pytest.mark.parametrize(
    "space", [Discrete(4), MultiBinary(3), MultiDiscrete([2, 3]), Dict(a=Box(-1, 1, (2,)))]
)
@pytest.mark.parametrize("make", [HASAC, HATD3, HAPPO])
def test_observations_that_no_network_takes_are_named(make: Any, space: Any) -> None:
    agents = OrderedDict(BOXES, a=(space, BOXES["a"][1]))
    with pytest.raises(UserError) as caught:
        make(*make_spaces(agents))
    assert str(caught.value) == (
        f"{make.__name__} needs Box observations, but those of a are {space}: make them one Box, "
        "as gymnasium.spaces.flatten_space does"
    )


def test_bad_spaces_are_named() -> None:
    with pytest.raises(UserError, match="HASAC needs an environment of several agents"):
        HASAC(Box(-1, 1, (2,)), Discrete(2))
    with pytest.raises(UserError, match="entropy_share names a; the agents are box, discrete"):
        HASAC(*make_spaces(MIXED), HASACConfig(entropy_share={"a": 0.1}))


@pytest.mark.parametrize("make", [HASAC, HATD3, HAPPO])
def test_views_of_different_sizes_are_refused(make: Any) -> None:
    observation_space, action_space = make_spaces(BOXES, views=True)
    observation_space["state"].spaces["a"] = Box(-1, 1, (7,))
    with pytest.raises(UserError, match="state of one size, they have z 6, a 7, m 6"):
        make(observation_space, action_space)


def test_a_temperature_that_keeps_rising_is_told_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At the twentieth rise in a row from evaluation to evaluation, a resumed run counting on."""
    spaces = make_spaces(MIXED)
    agent = HASAC(*spaces, HASACConfig(**SMALL), seed=3)
    assert HASAC(*spaces, HASACConfig(temperature=0.1, **SMALL)).alarms == {}
    config = RunConfig(
        log_every_transitions=1, evaluate_every_transitions=1, checkpoint_every_transitions=30
    )
    # The first value is no rise, nor is the eleventh; the twentieth after that is the 31st.
    values = [*range(10, 20), *range(5, 40)]

    def evaluate(transitions: int) -> Evaluation:
        return Evaluation(transitions, [0.0], [1], 0)

    for steps in (range(30), range(30, 40)):
        with Run(tmp_path, config, 99, METRICS, evaluate, alarms=agent.alarms) as run:
            run.resume(agent=agent)
            for step in steps:
                run.advance(1, [])
                run.log({"policy/temperature_max": torch.tensor(float(values[step]))})
                run.housekeeping()
                text = capsys.readouterr().err
                assert text.count("warning: policy/temperature_max is") == (step == 30)
                assert ("lower its agent.entropy_share" in text) == (step == 30)


@pytest.mark.parametrize("taken", [1, 2, 3])
@pytest.mark.parametrize("hidden", [(8,), (8, 9), (8, 9, 10)])
def test_least_values_and_slopes_are_those_of_autograd(hidden: Any, taken: int) -> None:
    """Of the first of three critics, for the second of three agents; the state's part is kept."""
    rng = torch.Generator().manual_seed(0)
    cpu = torch.device("cpu")
    critic = JointCritic(3, 4, [2, 3, 1], hidden, generator=rng, device=cpu)
    with torch.no_grad():  # so that every critic is the least somewhere
        for bias in critic.net.biases:
            bias.zero_()
    state, *actions = (torch.randn(64, size, generator=rng) for size in (4, 2, 3, 1))
    part = critic.state_part(state)[:taken]
    before = part.clone()
    found = critic.least(1, critic.first(part, actions, 1, actions[1]))
    assert torch.equal(part, before)
    actions[1].requires_grad_()
    value, member = critic(state, actions)[:taken].min(0)
    assert len(member.unique()) == taken
    expected = value, torch.autograd.grad(value.sum(), actions[1])[0]
    torch.testing.assert_close(found, expected)
