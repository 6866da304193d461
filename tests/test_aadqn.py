"""Deep advice: values and likelihoods against the exact model, targets by hand, a small problem
whose best advice is known, and what blind advice makes of it."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from dqn_cases import IMAGE, OBS, assert_equal_states, make_batch, parameters, set_constant
from hypothesis import given, settings
from hypothesis import strategies as st

from rlsuite.advice import AdviceModel, AdviceSpace
from rlsuite.agents import AADQN, DQN, AADQNConfig, BlindDQN, BlindDQNConfig, DQNConfig
from rlsuite.agents.aadqn import advice_values, beliefs, surprise
from rlsuite.buffers import Replay, UniformSampler
from rlsuite.config import build_experiment, load_experiment
from rlsuite.envs import AdviceVectorEnv, SerialVectorEnv
from rlsuite.envs.adherence import TabularTheta
from rlsuite.envs.humans import TabularHuman
from rlsuite.errors import UserError
from rlsuite.parts import Due
from rlsuite.types import Batch

TWO = AdviceSpace(2, 0.25)
SMALL = AADQNConfig(hidden=(16,), hidden_people=(8,))
# One state, actions 0 and 1 worth 0 and 1 (the specification's case A).
HUMAN, THETA = torch.tensor([[0.8, 0.2]]), torch.tensor([[0.9, 0.6]])


def test_values_of_advice_by_hand() -> None:
    """0.1 and 0.6 before the cost, 0.2 for silence: worth speaking below a cost of 0.4."""
    executed = torch.tensor([[0.0, 1.0]])[:, None].expand(-1, 2, -1)
    for cost, best in ((0.0, 1), (0.3, 1), (0.39, 1), (0.41, 2), (0.5, 2)):
        found = advice_values(executed, HUMAN, THETA, torch.tensor([[cost]]))
        expected = torch.tensor([[0.1 - cost, 0.6 - cost, 0.2]])
        torch.testing.assert_close(found, expected)
        assert found.argmax(1).item() == best
    # Below the human's own probability, adherence counts as none.
    repelled = advice_values(executed, HUMAN, torch.tensor([[0.1, 0.1]]), torch.zeros(1, 1))
    torch.testing.assert_close(repelled, torch.tensor([[0.2, 0.2, 0.2]]))
    certain = advice_values(executed, torch.tensor([[0.0, 1.0]]), THETA, torch.zeros(1, 1))
    torch.testing.assert_close(certain[0, 1:], torch.ones(2))
    # Unaided 4 and 5; advised 0.5 * 0.8 and 0.5 * (1 + 0.2) of 0 and 1.
    apart = advice_values(torch.tensor([[[4.0, 5], [0, 1]]]), HUMAN, THETA, torch.zeros(1, 1))
    torch.testing.assert_close(apart, torch.tensor([[0.1, 0.6, 4.2]]))


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), actions=st.integers(2, 5))
def test_values_and_likelihoods_are_those_of_the_exact_model(seed: int, actions: int) -> None:
    """sum_a g(a | s, m) U(s, a) - cost, and -log g: with g of ``AdviceModel.joint``."""
    rng = np.random.default_rng(seed)
    states = 6
    model = AdviceModel.from_arrays(
        np.full((states, actions, states), 1 / states),
        reward=rng.normal(size=(states, actions)),
        human=rng.dirichlet(np.full(actions, 2.0), states) * 0.99 + 0.01 / actions,
        adherence=rng.uniform(0.05, 0.95, (states, actions)),
        initial=0,
    )
    joint, human, executed = model.joint()[0], model.human[0], model.reward[0]
    theta = joint[:, :actions].diagonal(dim1=1, dim2=2)
    expected = (joint @ executed[..., None])[..., 0]
    expected[:, :actions] -= 0.3
    cost = torch.full((states, 1), 0.3, dtype=torch.float64)
    both = executed[:, None].expand(-1, 2, -1)
    torch.testing.assert_close(advice_values(both, human, theta, cost), expected)

    output = torch.cat([human.log(), theta.logit()], 1)
    for found, true in zip(beliefs(output), (human, theta), strict=True):
        torch.testing.assert_close(found, true)
    for m in range(actions + 1):
        for a in range(actions):
            nats = surprise(output, torch.full((states,), m), torch.full((states,), a))
            torch.testing.assert_close(nats, -joint[:, m, a].log())


def batch_of(n: int, seed: int = 0, space: gym.spaces.Box = OBS, actions: int = 2) -> Batch:
    g = torch.Generator().manual_seed(seed)
    extra = {
        "executed": torch.randint(actions, (n,), generator=g),
        "reward": torch.randn(n, generator=g),
    }
    return make_batch(n, seed, obs=space, act=gym.spaces.Discrete(actions + 1), extra=extra)


# The online network says U = (1, 3), the target (5, 2). The human does 0 with probability 0.75
# (logits log 3 and 0), advice is done with probability 0.875 and 0.5 (logits log 7 and 0): mixture
# form 0.5 and 1/3. Online: U_H = 1.5, advice 0 brings 1.25, advice 1 brings 2, less 0.25: advise 1.
# Target: U_H = 4.25, so that advice 1 brings 4.25 + (2 - 4.25) / 3 - 0.25 = 3.25. With reward 1 and
# discount 0.5: 2.625. What was executed is worth 3 online, or 1.
@pytest.mark.parametrize(("executed", "error"), [(1, 0.375), (0, 1.625)])
def test_target_by_hand(executed: int, error: float) -> None:
    agent = AADQN(OBS, TWO, SMALL)
    set_constant(agent.values.head, [1.0, 3.0])
    set_constant(agent.target.head, [5.0, 2.0])
    set_constant(agent.people, np.log([3.0, 1, 7, 1]).tolist())
    n = 4
    batch = replace(
        batch_of(n),
        action=torch.full((n,), 2),
        extra={"executed": torch.full((n,), executed), "reward": torch.ones(n)},
        reward=torch.full((n,), 99.0),
        discount=torch.tensor([0.5, 0.5, 0.5, 0.0]),
        weight=torch.tensor([1.0, 1.0, 2.0, 0.0]),
    )
    update = agent.update(batch)
    value = 3.0 if executed else 1.0
    last = abs(value - 1.0)
    torch.testing.assert_close(update.priority, torch.tensor([error] * 3 + [last]))
    huber = error**2 / 2 if error < 1 else error - 0.5
    found = {name: value.item() for name, value in update.metrics.items()}
    assert found == pytest.approx(
        {
            "loss/critic": huber,
            "loss/people": np.log(4) if executed else np.log(4 / 3),
            "value/q": value,
            "people/adherence": (0.875 + 0.5) / 2,
            "policy/advised": 1.0,
            "policy/epsilon": 1.0,
        },
        rel=1e-5,
    )


# As above where advised; unaided everything is worth 1.5 online and 4 by the target. Advice 1 is
# best, at 3.25 by the target, while it is heard; where the budget is spent there is silence, at 4.
@pytest.mark.parametrize(("left", "after"), [(0.0, 4.0), (0.5, 3.25)])
def test_target_on_a_budget_by_hand(left: float, after: float) -> None:
    agent = AADQN(OBS, AdviceSpace(2, 0.25, features=1, limited=True), SMALL)
    set_constant(agent.values.head, [1.5, 1.5, 1.0, 3.0])
    set_constant(agent.target.head, [4.0, 4.0, 5.0, 2.0])
    set_constant(agent.people, np.log([3.0, 1, 7, 1]).tolist())
    batch = replace(
        batch_of(3),
        action=torch.tensor([2, 0, 0]),
        obs=torch.tensor([[0.0, 0, 1], [0, 0, 1], [0, 0, 0]]),  # the last was not heard
        next_obs=torch.tensor([[0.0, 0, left]]).expand(3, -1),
        extra={"executed": torch.tensor([0, 1, 0]), "reward": torch.ones(3)},
        discount=torch.full((3,), 0.5),
    )
    assert agent.act(batch.next_obs, explore=False)[0].tolist() == [2 if left == 0 else 1] * 3
    update = agent.update(batch)
    target = 1 + after / 2
    torch.testing.assert_close(update.priority, (torch.tensor([1.5, 3.0, 1.5]) - target).abs())
    # Silent, does 0; hears 0, does 1; hears nothing, does 0.
    nats = np.log([4 / 3, 8, 4 / 3]).mean()
    assert float(update.metrics["loss/people"]) == pytest.approx(nats, rel=1e-5)


def test_a_known_human_takes_the_place_of_the_estimate() -> None:
    """In advice, beliefs, targets and likelihoods. The network says what is followed: 0.875, 0.2.
    Who is torn does 1 with 0.6 on advice, at 2.2 less 0.25: silence, worth 2, and 3.5 by the
    target. Who does 0 for sure does 1 with 0.2: 1.4 less 0.25 against 1, and 4.4 less 0.25."""

    def human(obs: torch.Tensor) -> torch.Tensor:
        return torch.where(obs[:, :1] > 0, torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0]))

    agent = AADQN(OBS, TWO, replace(SMALL, known_human=True), human=human)
    set_constant(agent.values.head, [1.0, 3.0])
    set_constant(agent.target.head, [5.0, 2.0])
    set_constant(agent.people, np.log([3.0, 1, 7, 0.25]).tolist())
    seen = torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]])
    assert agent.act(seen, explore=False)[0].tolist() == [2, 1]
    probs, theta = agent.believe(seen)
    torch.testing.assert_close(probs, torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
    torch.testing.assert_close(theta, torch.tensor([[0.9375, 0.6], [1.0, 0.2]]))
    batch = replace(
        batch_of(2),
        obs=seen,
        next_obs=seen,
        action=torch.tensor([1, 1]),
        discount=torch.tensor([0.5, 0.5]),
        extra={"executed": torch.tensor([1, 0]), "reward": torch.zeros(2)},
    )
    update = agent.update(batch)
    expected = torch.tensor([3 - 3.5 / 2, abs(1 - 4.15 / 2)])
    torch.testing.assert_close(update.priority, expected)
    assert float(update.metrics["loss/people"]) == pytest.approx(-np.log([0.6, 0.8]).mean())
    assert all(p.isfinite().all() for p in agent.people.parameters())


def test_the_target_follows() -> None:
    agent = AADQN(OBS, TWO, replace(SMALL, target_rate=0.25, target_period=2))
    start = parameters(agent.target.state_dict())
    assert all(torch.equal(a, start[k]) for k, a in parameters(agent.values.state_dict()).items())
    for i in range(2):
        agent.update(batch_of(8, i))
        if i == 0:
            assert_equal_states(parameters(agent.target.state_dict()), start)
    online, moved = (parameters(x.state_dict()) for x in (agent.values, agent.target))
    for name, value in moved.items():
        torch.testing.assert_close(value, 0.75 * start[name] + 0.25 * online[name])


# State 0: safe ends with 0.5, risky goes on to state 1, where good pays 1 and bad nothing (the
# specification's case B). The human alone is safe, and bad; follows in state 0 with probability
# 0.8, in state 1 with t. Lured to state 1 and left there one is worse off than unadvised: t = 0.3.
class TwoSteps(gym.Env[Any, Any]):
    observation_space = gym.spaces.Box(0, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.state = 0
        return np.eye(2, dtype=np.float32)[0], {}

    def step(self, action: int) -> Any:
        state, self.state = self.state, 1
        reward = 0.5 * (action == 0) if state == 0 else float(action == 0)
        return np.eye(2, dtype=np.float32)[1], reward, state == 1 or action == 0, False, {}


SAFE, RISKY, GOOD, SILENT = 0, 1, 0, 2
QUICK = {
    "hidden": (32,),
    "hidden_people": (16,),
    "epsilon_transitions": 500,
    "lr": 3e-3,
    "target_rate": 0.05,
}


def two_steps(t: float, cost: float = 0.0, noise: float = 0.1) -> AdviceVectorEnv:
    human = TabularHuman([[1 - noise, noise], [noise, 1 - noise]])
    adherence = TabularTheta([[0.8, 0.8], [t, t]])
    return AdviceVectorEnv(SerialVectorEnv(TwoSteps, 8), human, adherence, cost=cost)


def trained(make: Any, envs: AdviceVectorEnv, config: Any, transitions: int = 8_000) -> Any:
    """The loop without its run."""
    agent = make(envs.spec.observation_space, envs.spec.action_space, config)
    replay, due = Replay(10_000, UniformSampler(), num_envs=8, discount=1.0), Due(0.1)
    obs = envs.reset(0)
    for made in range(0, transitions, 8):
        action, extra = agent.act(obs)
        new = envs.step(envs.sample_actions() if made < 400 else action, extra)
        replay.add(new.step)
        obs = new.obs
        for _ in range(due(8) if made >= 400 else 0):
            agent.update(replay.sample(64))
    return agent


def advice(agent: Any) -> list[int]:
    return agent.act(torch.eye(2), explore=False)[0].tolist()


def test_advice_is_learned_where_blind_advice_is_worse_than_silence() -> None:
    """At t = 0.3 it keeps silent in state 0, at 0.9 it advises to risk it, as exact plans do; blind
    advice lures in both."""
    config = AADQNConfig(**QUICK)
    timid = trained(AADQN, two_steps(0.3), config)
    assert advice(timid) in ([SILENT, GOOD], [SAFE, GOOD])  # alone one is safe; so is the advice
    human, theta = timid.believe(torch.eye(2))
    truth = torch.tensor([[0.9, 0.1], [0.1, 0.9]])
    mixture = torch.tensor([[0.8, 0.8], [0.3, 0.3]])
    torch.testing.assert_close(human, truth, rtol=0, atol=0.08)
    torch.testing.assert_close(theta, mixture + (1 - mixture) * truth, rtol=0, atol=0.12)
    assert advice(trained(AADQN, two_steps(0.9), config)) == [RISKY, GOOD]
    blind = BlindDQNConfig(hidden=(32,), lr=3e-3, target_period=20, epsilon_transitions=500)
    assert advice(trained(BlindDQN, two_steps(0.3), blind)) == [RISKY, GOOD]


class Twice(gym.Env[Any, Any]):
    """Action 1 pays 0.6, and in the second step 1."""

    observation_space = gym.spaces.Box(0, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return np.eye(2, dtype=np.float32)[0], {}

    def step(self, action: int) -> Any:
        self.steps += 1
        reward = (0.6, 1.0)[self.steps - 1] * (action == 1)
        return np.eye(2, dtype=np.float32)[1], reward, self.steps == 2, False, {}


@pytest.mark.parametrize("make", [AADQN, DQN])
def test_one_advice_is_kept_for_the_better_step(make: Any) -> None:
    """The human does 0 and follows: exactly, silence is worth 1 at first, and advice 0.6."""
    human = TabularHuman([[1.0, 0], [1, 0]], lambda obs: obs.argmax(1))
    envs = AdviceVectorEnv(SerialVectorEnv(Twice, 8), human, 1.0, budget=1)
    quick = (
        AADQNConfig(**QUICK)
        if make is AADQN
        else DQNConfig(
            hidden=(32,), lr=3e-3, target_period=20, epsilon_transitions=500, epsilon_final=0.1
        )
    )
    agent = trained(make, envs, quick, 4_000)
    seen = torch.tensor([[1.0, 0, 1], [0, 1, 1], [0, 1, 0]])
    assert agent.act(seen, explore=False)[0].tolist()[:2] == [2, 1]


def test_one_network_advises_at_every_cost() -> None:
    """Without noise risking it pays up to 0.8 * (0.9 - c - 0.5) = c, c = 0.178; in state 1 advice
    pays up to 0.9."""
    config = AADQNConfig(**QUICK, greatest_cost=1.2)
    agent = trained(AADQN, two_steps(0.9, 0.1, noise=0.0), config)
    assert agent.cost == 0.1
    found = {}
    for cost in (0.05, 0.3, 0.75, 1.1):
        agent.cost = cost
        found[cost] = advice(agent)
    assert found[0.05] == [RISKY, GOOD]
    assert found[0.3] == found[0.75] == [SILENT, GOOD]
    assert found[1.1] == [SILENT, SILENT]


def test_costs_that_are_learned_and_asked_for() -> None:
    """Uniform up to the greatest; the network gets them as shares of it; all advice is explored."""
    agent = AADQN(OBS, TWO, AADQNConfig(hidden=(), greatest_cost=2.0))
    costs = torch.cat([agent._cost(500), agent._cost(500)])
    assert costs.shape == (1000, 1) and len(costs.unique()) > 990
    assert 0 <= costs.min() < 0.02 and 1.98 < costs.max() <= 2
    assert abs(costs.mean() - 1) < 0.1
    set_constant(agent.values.head, [0.0, 0.0])
    with torch.no_grad():
        agent.values.head[0].weight[:, -1] = torch.tensor([0.0, 3.0])  # U = 0, 3 share
    set_constant(agent.people, [9.0, -9.0, 9.0, 9.0])  # does 0, follows whatever is advised
    for cost, advised in ((0.5, 1), (1.5, 1), (2.0, 1)):  # 3 share - cost is half the cost
        agent.cost = cost
        assert agent.act(torch.randn(2, 3), explore=False)[0].tolist() == [advised] * 2
    with torch.no_grad():
        agent.values.head[0].weight[:, -1] = torch.tensor([0.0, 1.9])
    assert agent.act(torch.randn(2, 3), explore=False)[0].tolist() == [2, 2]
    explored = torch.cat([agent.act(torch.randn(2, 3))[0] for _ in range(60)])
    assert explored.unique().tolist() == [0, 1, 2]


def test_it_explores_at_costs_spread_over_the_environments() -> None:
    """With greatest cost 2 over four of them at 0.25, 0.75, 1.25 and 1.75; advice gains 1."""
    never = {"epsilon_initial": 0.0, "epsilon_final": 0.0}
    seen = torch.randn(4, 3)
    for greatest, advised in ((2.0, [1, 1, 2, 2]), (None, [1, 1, 1, 1])):
        agent = AADQN(OBS, TWO, AADQNConfig(hidden=(), greatest_cost=greatest, **never))
        set_constant(agent.values.head, [0.0, 1.0])
        set_constant(agent.people, [9.0, -9.0, 9.0, 9.0])  # does 0, follows whatever is advised
        assert agent.act(seen)[0].tolist() == advised
        assert agent.act(seen, explore=False)[0].tolist() == [1] * 4


def test_blind_advice_by_hand() -> None:
    """The task's action is learned from, whatever was advised; the best is advised, or, with a
    threshold, where it is better than what the human likely does by more than that."""
    seen = torch.randn(3, 3)
    for threshold, expected in ((None, 1), (1.5, 1), (2.0, 2)):
        config = BlindDQNConfig(hidden=(8,), double=True, threshold=threshold, target_period=99)
        agent = BlindDQN(OBS, TWO, config)
        set_constant(agent.dqn.online.head, [1.0, 3.0])
        set_constant(agent.dqn.target.head, [5.0, 2.0])
        set_constant(agent.people.head, [1.0, 0.0, 0.0, 0.0])
        assert agent.act(seen, explore=False)[0].tolist() == [expected] * 3
    batch = replace(batch_of(4), discount=torch.full((4,), 0.5), action=torch.full((4,), 2))
    update = agent.update(batch)
    value = torch.tensor([1.0, 3.0])[batch.extra["executed"]]
    torch.testing.assert_close(update.priority, (value - batch.extra["reward"] - 1.0).abs())
    explored = torch.cat([agent.act(seen)[0] for _ in range(50)])
    assert explored.unique().tolist() == [0, 1, 2]


@pytest.mark.parametrize("make", [AADQN, BlindDQN])
@pytest.mark.parametrize("space", [OBS, IMAGE], ids=["vector", "image"])
def test_restored_it_goes_on_the_same(make: Any, space: gym.spaces.Box) -> None:
    small = {"hidden": (16,), "hidden_people": (8,)}
    config = AADQNConfig(**small, greatest_cost=1.0) if make is AADQN else BlindDQNConfig(**small)
    agents = [make(space, TWO, config, seed=s) for s in (0, 1)]
    seen = batch_of(6, 9, space).obs
    for i in range(3):
        agents[0].update(batch_of(6, i, space))
        agents[0].act(seen)
    agents[1].load_state_dict(agents[0].state_dict())
    for i in range(3):
        metrics = [agent.update(batch_of(6, i, space)).metrics for agent in agents]
        assert_equal_states(*metrics)
        assert torch.equal(*(agent.act(seen)[0] for agent in agents))
    assert_equal_states(*(agent.state_dict() for agent in agents))


def test_images_share_their_encoder_which_people_do_not_train() -> None:
    agent = AADQN(IMAGE, TWO, SMALL)
    before = [parameters(part.state_dict()) for part in (agent.values, agent.people)]
    agent.update(replace(batch_of(8, 0, IMAGE), weight=torch.zeros(8)))  # nothing for the values
    values, people = (parameters(part.state_dict()) for part in (agent.values, agent.people))
    assert_equal_states(values, before[0])
    assert all(not torch.equal(value, before[1][name]) for name, value in people.items())


def lake() -> gym.Env[Any, Any]:
    flat = gym.wrappers.FlattenObservation(gym.make("FrozenLake-v1"))
    return gym.wrappers.DtypeObservation(flat, np.float32)


@pytest.mark.parametrize("budget", [None, 3])
def test_states_by_their_number_are_flattened_as_the_errors_say(budget: int | None) -> None:
    human, theta = np.full((16, 4), 0.25), TabularTheta(np.full((16, 4), 0.5))
    envs = AdviceVectorEnv(SerialVectorEnv(lake, 4), TabularHuman(human), theta, budget=budget)
    agent = AADQN(envs.spec.observation_space, envs.spec.action_space, SMALL)
    replay, obs = Replay(100, UniformSampler(), num_envs=4), envs.reset(seed=0)
    for _ in range(5):
        new = envs.step(agent.act(obs)[0])
        replay.add(new.step)
        obs = new.obs
    assert torch.isfinite(agent.update(replay.sample(8)).metrics["loss/critic"])
    assert obs.shape == (4, 16 + (budget is not None))


PRIVILEGED = re.compile(r"human_action|\.followed\b|privileged|\"theta\"|\.last\b")


def test_no_agent_reads_what_only_the_simulation_knows() -> None:
    """Transitions do not hold it (tests/test_advice_env.py), and no agent's code names it."""
    for path in (Path(__file__).parents[1] / "agents").glob("*.py"):
        code = re.sub(r'""".*?"""|#.*', "", path.read_text(), flags=re.DOTALL)
        assert not PRIVILEGED.search(code), path
    reading = 'batch.extra["human_action"]', "envs.last", 'info["theta"]', "done.followed"
    assert all(PRIVILEGED.search(text) for text in reading)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AADQN(OBS, gym.spaces.Discrete(3)), "AADQN gives advice"),
        (lambda: BlindDQN(OBS, gym.spaces.Discrete(3)), "blind DQN gives advice"),
        (lambda: AADQN(OBS, TWO, AADQNConfig(greatest_cost=0.1)), "less than the environment's"),
        (lambda: AADQN(gym.spaces.Discrete(4), TWO), "needs Box observations.*FlattenObservation"),
        (lambda: AADQN(OBS, TWO, AADQNConfig(known_human=True)), "a human is not given"),
        (lambda: AADQN(OBS, TWO, human=lambda obs: obs), "known_human is False"),
        (lambda: load_experiment("aadqn/cartpole", {"replay.n_step": "2"}), "n_step must be 1"),
        (lambda: load_experiment("aadqn/cartpole", {"advice.cots": "2"}), "did you mean"),
        (lambda: load_experiment("aadqn/cartpole", {"advice.cost": "-1"}), "advice.cost is -1"),
        (
            lambda: load_experiment("aadqn/cartpole", {"env.normalize_reward": "true"}),
            "env.normalize_reward cannot",
        ),
        (
            lambda: load_experiment(
                "aadqn/cartpole", {"env.normalize_obs": "true", "agent.known_human": "true"}
            ),
            "env.normalize_obs cannot",
        ),
        (
            lambda: load_experiment(
                "aadqn/cartpole", {"env.normalize_obs": "true", "advice.budget": "3"}
            ),
            "set with advice.budget",
        ),
        (
            lambda: build_experiment("x", {"algorithm": "aadqn", "env": {"id": "CartPole-v1"}}),
            "section advice is missing",
        ),
    ],
)
def test_mistakes_are_named(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()
