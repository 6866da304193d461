"""Advice around any environment: who executes what, what it costs, and that luck is common."""

import functools
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from test_vector import same_bits, same_step

from rlsuite.advice import AdviceModel
from rlsuite.agents.c51 import C51, C51Config
from rlsuite.agents.dqn import DQN, DQNConfig
from rlsuite.build import NormalizedAgent
from rlsuite.envs import AdviceEnv, AdviceVectorEnv, ObsNorm, SerialVectorEnv, make_env
from rlsuite.envs.adherence import (
    Adherence,
    Buckets,
    Called,
    Confidence,
    Constant,
    Drift,
    Fatigue,
    TabularTheta,
    Trust,
)
from rlsuite.envs.humans import (
    AgentHuman,
    EpsilonHuman,
    Human,
    LaggedHuman,
    ScriptedHuman,
    SeesThrough,
    StickyHuman,
    TabularHuman,
    UniformHuman,
    cartpole_angle,
    mountain_car_right,
)
from rlsuite.errors import UserError


class Line(gym.Env):
    """Ten steps whatever one does; the reward is the action, the observation (state, step)."""

    observation_space = gym.spaces.Box(-9, 99, (2,), np.float32)
    action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        self.state = int(self.np_random.integers(2))
        return np.array([self.state, 0], np.float32), {}

    def step(self, action):
        self.steps += 1
        obs = np.array([self.state, self.steps], np.float32)
        return obs, float(action), self.steps == 10, False, {}


HUMAN = torch.tensor([[0.25, 0.25, 0.5], [0.625, 0.25, 0.125]])
THETA = torch.tensor([[0.1, 0.5, 0.9], [1.0, 0.0, 0.4]], dtype=torch.float64)


def state(obs: torch.Tensor) -> torch.Tensor:
    return obs[:, 0].long()


def person() -> Human:
    return SeesThrough(TabularHuman(HUMAN), state)


def envs(
    human: Human | None = None, adherence: Any = 0.5, n: int = 3, **kwargs: Any
) -> AdviceVectorEnv:
    return AdviceVectorEnv(SerialVectorEnv(Line, n), human or person(), adherence, **kwargs)


def advice(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers)


@pytest.mark.parametrize("form", ["mixture", "exclusive"])
def test_what_is_executed_has_the_probabilities_of_the_model(form: str) -> None:
    """``AdviceModel.joint``, the exact g(a | s, m), against frequencies."""
    theta = THETA if form == "mixture" else THETA + (1 - THETA) * HUMAN
    model = AdviceModel.from_arrays(
        np.full((2, 3, 2), 0.5),
        reward=np.zeros((2, 3)),
        human=HUMAN.double(),
        adherence=theta,
        initial=0,
        form=form,
    )
    people = envs(person(), Called(lambda obs, m: theta[state(obs), m]), 2000, form=form)
    obs = people.reset(1)
    counts = torch.zeros(2, 4, 3)
    for step in range(40):
        m = torch.arange(2000).add(step) % 4
        new = people.step(m)
        counts.index_put_((state(obs), m, new.step.extra["executed"]), torch.ones(()), True)
        obs = new.obs
    found = counts / counts.sum(2, keepdim=True)
    assert torch.allclose(found.double(), model.joint()[0], atol=0.02)


def test_the_same_luck_whatever_is_advised() -> None:
    """Human and follower draw the same, step by step and episode by episode; another seed not."""

    def luck(m: int, seed: int) -> torch.Tensor:
        people = envs(UniformHuman(3), 0.5)
        people.reset(seed)
        rows = []
        for _ in range(35):
            people.step(advice(m, m, m))
            rows.append(torch.stack([people.last.human_action, people.last.followed.long()]))
        return torch.stack(rows)

    silent = luck(3, 0)
    assert torch.equal(silent, luck(1, 0)) and torch.equal(silent, luck(3, 0))
    assert not torch.equal(silent, luck(3, 1))
    assert not torch.equal(silent[:10], silent[10:20])  # another episode, another luck
    assert not torch.equal(silent[..., 0], silent[..., 1])


@pytest.mark.parametrize("adherence", [1.0, 0.0])
def test_costs_rewards_and_records(adherence: float) -> None:
    """Advice is paid for, followed or not."""
    people = envs(ScriptedHuman(lambda obs: advice(0, 0, 0), 3), adherence, cost=0.25)
    people.reset(0)
    for t in range(10):
        new = people.step(advice(2, 3, 2 if t < 4 else 3))
        paid = torch.tensor([0.25, 0.0, 0.25 if t < 4 else 0.0])
        executed = new.step.extra["executed"]
        assert executed[0] == 2 * adherence and torch.equal(
            new.step.extra["reward"], executed.float()
        )
        assert torch.equal(new.step.reward, executed.float() - paid)
        assert torch.equal(new.step.action, advice(2, 3, 2 if t < 4 else 3))
    assert new.episodes[0].episode_return == 10 * (2 * adherence - 0.25)
    assert new.step.next_obs[:, 1].tolist() == [10] * 3 and new.obs[:, 1].tolist() == [0] * 3
    assert sorted(new.step.extra) == ["executed", "reward"]  # nothing privileged


@pytest.mark.parametrize("adherence", [1.0, 0.0])
def test_a_budget(adherence: float) -> None:
    """Spent, advice is not heard and costs nothing; the share left is observed."""
    people = envs(adherence=adherence, cost=0.5, budget=2, n=1)
    obs = people.reset(0)
    assert people.spec.observation_space.shape == (3,) and obs[0, 2] == 1
    found = [people.step(advice(2)) for _ in range(10)]
    assert [float(new.step.next_obs[0, 2]) for new in found] == [0.5] + [0] * 9
    assert [int(new.step.action) for new in found] == [2] * 10  # what was said, heard or not
    paid = sum(float(new.step.extra["reward"] - new.step.reward) for new in found)
    assert paid == 1.0 and found[-1].obs[0, 2] == 1  # the next episode's
    assert people.spec.observation_space.contains(found[-1].obs[0].numpy())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AdviceVectorEnv(pendulum(), person(), 0.5), "Discrete actions that start at 0"),
        (lambda: envs(adherence=1.5), "adherence is 1.5"),
        (lambda: envs(adherence=np.float32(1.5)), "adherence is 1.5"),
        (lambda: envs(adherence=torch.tensor(float("nan"))), "adherence is nan"),
        (lambda: envs(adherence="often"), "adherence is 'often', has to be a number"),
        (lambda: envs(cost=-1.0), r"cost is -1\.0, has to be a number of 0 or more"),
        (lambda: envs(cost=float("nan")), "cost is nan"),
        (lambda: envs(cost="x"), "cost is 'x'"),
        (lambda: envs(budget=2.5), r"budget is 2\.5, has to be a whole number of 1 or more"),
        (lambda: envs(budget=True), "budget is True"),
        (
            lambda: envs(lambda obs: 0),
            "has no probs, begin, acted, state_dict, load_state_dict: inh",
        ),
        (lambda: envs(UniformHuman), "is a class, not an object: inherit"),
        (lambda: envs(Rows([0.9, 0.9, -0.8])), "-0.8.*, which are no probabilities"),
        (lambda: envs(Rows([0.9, 0.9, 0.9])), "0.9, 0.9.* which are no probabilities"),
        (lambda: envs(Rows([np.nan, 0.5, 0.5])), "nan, 0.5.* which are no probabilities"),
        (lambda: envs(Rows([0.0, 0.0, 0.0])), "0.0, 0.0.* which are no probabilities"),
        (lambda: envs(ScriptedHuman(lambda o: state(o) + 3, 3)), "chose .* of the actions 0 to 2"),
        (lambda: StickyHuman(person(), 2.0), "stick is 2"),
        (lambda: LaggedHuman(person(), 2.5), "lag is 2.5"),
        (lambda: Drift(0.1, 0.2, 0), "steps is 0"),
        (lambda: Fatigue(0.1, 0.2, 0), "steps is 0"),
        (lambda: AdviceVectorEnv(gym.vector.SyncVectorEnv([Line]), person(), 0.5), "of this suite"),
        (lambda: envs(budget=0), "budget is 0"),
        (lambda: envs(form="odd"), "form is 'odd'"),
        (lambda: envs(UniformHuman(2)), r"shape \(3, 2\), needs \(3, 3\)"),
        (lambda: envs(adherence=Called(lambda obs, m: m + 2)), "has to be from 0 to 1"),
        (lambda: envs(adherence=0.05, form="exclusive"), "below the human's own"),
        (lambda: taxi(), r"these are Discrete\(500\): flatten them"),
        (lambda: TabularHuman([[0.5, 0.6]]), "sum to 1"),
        (lambda: TabularHuman([[0.5, np.nan]]), "sum to 1"),
        (lambda: envs(TabularHuman(HUMAN, beyond)), r"human's .* 0 to 1, and .* \[2, 2, 2\]"),
        (lambda: envs(adherence=TabularTheta(THETA, below)), r"adherence's .* in \[-1, -1, -1\]"),
        (lambda: envs(adherence=TabularTheta(THETA, beyond)), "adherence's .* states 0 to 1"),
        (lambda: TabularTheta(THETA[0]), r"a table of shape \(3,\), needs \(S, X\)"),
        (lambda: envs(adherence=TabularTheta(THETA[:, :2], first)), "2 columns, .* the 3 actions"),
        (lambda: Buckets(state, []), r"values of buckets are \[\], needs a list"),
        (lambda: Buckets(state, [0.2, float("nan")]), r"values of buckets are \[0.2, nan\]"),
        (lambda: Buckets(state, [0.2, 1.5]), r"values of buckets are \[0.2, 1.5\]"),
        (lambda: Buckets(state, [-0.1, 0.5]), r"values of buckets are \[-0.1, 0.5\]"),
        (lambda: Buckets(state, 0.5), "values of buckets are 0.5"),
        (lambda: Buckets([0, 1], [0.2, 0.5]), r"bucket is \[0, 1\], has to be a function"),
        (lambda: envs(adherence=Buckets(beyond, [0.2, 0.5])), r"groups \[2, 2, 2\], .* 0 to 1"),
        (lambda: envs(adherence=Buckets(below, [0.2, 0.5])), r"groups \[-1, -1, -1\]"),
        (lambda: AdviceEnv(Line(), person(), 0.5).step(2), "call reset first"),
        (lambda: EpsilonHuman(person(), 2.0), "epsilon is 2"),
        (lambda: LaggedHuman(person(), 0), "lag is 0"),
    ],
)
def test_mistakes_are_named(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        made = make()
        made.reset(0)
        made.step(advice(2, 2, 2))


def first(obs: torch.Tensor) -> torch.Tensor:
    return torch.zeros(len(obs), dtype=torch.int64)


def beyond(obs: torch.Tensor) -> torch.Tensor:
    return first(obs) + 2


def below(obs: torch.Tensor) -> torch.Tensor:
    return first(obs) - 1


class Rows(Human):
    """The same probabilities always, as NumPy gives them."""

    def __init__(self, row: list[float]) -> None:
        self.row = row

    def probs(self, obs: Any) -> Any:
        return np.tile(self.row, (len(obs), 1))


def test_probabilities_may_be_arrays() -> None:
    people = envs(Rows([0.0, 0.0, 1.0]))
    people.reset(0)
    assert people.step(advice(3, 3, 3)).step.extra["executed"].tolist() == [2, 2, 2]


def test_who_was_never_seeded_meets_other_people() -> None:
    def moods(seed: int | None) -> list[int]:
        env = AdviceEnv(Line(), UniformHuman(3), 0.0, privileged=True)
        env.reset(seed=seed)
        return [env.step(3)[4]["human_action"] for _ in range(9)] + [env.reset()[1] == {}]

    assert moods(None) != moods(None)  # equal once in 20,000 times
    assert moods(4) == moods(4)


@pytest.mark.parametrize("number", [np.float32(0.5), torch.tensor(0.5), np.array(0.5), 1])
def test_adherence_is_any_number(number: Any) -> None:
    assert envs(adherence=number).people.adherence.value == float(number)


def pendulum() -> SerialVectorEnv:
    return SerialVectorEnv(functools.partial(make_env, "Pendulum-v1"), 1)


def taxi() -> AdviceVectorEnv:
    made = SerialVectorEnv(functools.partial(make_env, "Taxi-v4"), 1)
    return AdviceVectorEnv(made, UniformHuman(6), 0.5, budget=3)


def test_an_advice_that_is_none() -> None:
    people = envs()
    people.reset(0)
    with pytest.raises(ValueError, match="from 0 to 3"):
        people.step(advice(0, 4, 0))


REMEMBER: dict[str, tuple[Any, Any]] = {
    "plain": (person, lambda: 0.5),
    "sticky fatigue": (lambda: StickyHuman(person(), 0.7), lambda: Fatigue(0.9, 0.8, 3)),
    "lagged trust": (lambda: LaggedHuman(person(), 3), lambda: Trust(0.5, 0.1, 0.2, 1.0)),
    "drift": (lambda: EpsilonHuman(StickyHuman(person(), 0.5), 0.1), lambda: Drift(0, 1, 40)),
}


@pytest.mark.parametrize("case", REMEMBER)
def test_resumed_it_goes_on_the_same(case: str) -> None:
    human, adherence = REMEMBER[case]
    budget = 4 if case == "plain" else None
    one, other = (envs(human(), adherence(), budget=budget) for _ in range(2))
    one.reset(3)
    for _ in range(27):
        one.step(one.sample_actions())
    other.reset(8)
    other.step(advice(1, 1, 1))
    other.load_state_dict(one.state_dict())
    assert same_bits(one.observe(), other.observe())
    for _ in range(25):
        a, b = (made.step(made.sample_actions()) for made in (one, other))
        assert same_step(a, b)


def test_where_the_environment_does_not_repeat_itself_people_begin_anew() -> None:
    one, other = (
        AdviceVectorEnv(SerialVectorEnv(Line, 2, resumable=False), person(), 0.5, budget=3)
        for _ in range(2)
    )
    one.reset(0)
    for _ in range(5):
        one.step(advice(1, 1))
    with pytest.warns(RuntimeWarning):
        other.load_state_dict(one.state_dict())
    assert other.lost == [0, 1] and torch.equal(other.observe()[:, 2], torch.ones(2))
    one.reset(0)
    fresh = [one.step(advice(1, 1)) for _ in range(15)][10:]
    again = [other.step(advice(1, 1)) for _ in range(5)]
    assert all(same_step(a, b) for a, b in zip(fresh, again, strict=True))


def test_people() -> None:
    obs = torch.tensor([[0.0, 0.0], [1.0, 5.0]])
    assert torch.equal(UniformHuman(4).probs(obs), torch.full((2, 4), 0.25).double())
    assert torch.equal(person().probs(obs), HUMAN.double())
    assert torch.equal(TabularHuman(HUMAN).probs(torch.eye(2)), HUMAN.double())  # one-hot
    rule = ScriptedHuman(lambda o: state(o) + 1, 3)
    assert rule.probs(obs).tolist() == [[0, 1, 0], [0, 0, 1]]
    assert ScriptedHuman(lambda o: HUMAN, 3).probs(obs).equal(HUMAN.double())
    clumsy = EpsilonHuman(rule, 0.3).probs(obs)
    assert torch.allclose(clumsy[0], torch.tensor([0.1, 0.8, 0.1]).double())
    agent = DQN(Line.observation_space, Line.action_space)
    probs = AgentHuman(agent, 3).probs(obs)
    assert torch.equal(probs.argmax(1), agent.act(obs, explore=False)[0])
    assert probs.sum(1).tolist() == [1, 1]
    for make, config in ((DQN, DQNConfig), (C51, C51Config)):
        clumsy_agent = make(
            Line.observation_space, Line.action_space, config(epsilon_evaluation=0.3)
        )
        before = clumsy_agent.exploration.generators["evaluation"].get_state()
        given = NormalizedAgent(clumsy_agent, ObsNorm())
        seen = given.obs_norm.normalize(obs)
        for found, view in ((AgentHuman(clumsy_agent, 3), seen), (AgentHuman(given, 3), obs)):
            assert found.probs(view).sort(1).values.tolist() == [pytest.approx([0.1, 0.1, 0.8])] * 2
        # the suite's own stream draws, not the agent's
        assert torch.equal(before, clumsy_agent.exploration.generators["evaluation"].get_state())
        greedy = clumsy_agent.probs(obs).argmax(1)
        acts = [clumsy_agent.act(obs, explore=False)[0] for _ in range(200)]
        assert 0.7 < (torch.stack(acts) == greedy).double().mean() < 0.9
    lean = torch.tensor([[0, 0, 0.1, 0], [0, 0, -0.1, 0]])
    assert torch.allclose(
        cartpole_angle().probs(lean), torch.tensor([[0.05, 0.95], [0.95, 0.05]]).double()
    )
    assert mountain_car_right(0.0).probs(lean)[0].tolist() == [0, 0, 1]


def test_people_with_a_memory() -> None:
    everyone, nobody = torch.ones(2, dtype=torch.bool), torch.zeros(2, dtype=torch.bool)
    obs = torch.tensor([[0.0, 0], [1, 0]])
    sticky = StickyHuman(person(), 0.5)
    sticky.begin(everyone)
    assert torch.equal(sticky.probs(obs), HUMAN.double())
    sticky.acted(torch.tensor([2, 0]))
    assert torch.allclose(sticky.probs(obs), HUMAN.double() / 2 + torch.eye(3)[[2, 0]] / 2)
    sticky.begin(torch.tensor([True, False]))
    assert torch.equal(sticky.probs(obs)[0], HUMAN[0].double())

    lagged = LaggedHuman(ScriptedHuman(state, 3), 2)
    lagged.begin(everyone)
    seen = []
    for t in range(5):
        lagged.begin(torch.tensor([t == 3, False]) if t else nobody)
        now = torch.tensor([[[0.0, 1, 2, 2, 0][t], 0], [t % 2, 0]])
        seen.append(lagged.probs(now).argmax(1).tolist())
    assert seen == [[0, 0], [0, 0], [0, 0], [2, 1], [2, 0]]


def test_adherences() -> None:
    obs, human = torch.tensor([[0.0, 0], [1, 0]]), HUMAN.double()
    m = advice(2, 0)

    def theta(model: Adherence) -> list[float]:
        return [round(x, 6) for x in model.theta(obs, m, human).tolist()]

    assert theta(Constant(0.3)) == [0.3, 0.3]
    assert TabularTheta(THETA).theta(torch.tensor([0, 1]), m, human).tolist() == [0.9, 1.0]
    assert theta(Buckets(state, [0.2, 0.7])) == [0.2, 0.7]
    assert theta(Called(lambda o, a: a / 4)) == [0.5, 0.0]
    assert theta(Confidence(0.1, 0.5)) == [0.35, 0.4125]
    tired = Fatigue(0.8, 0.5, 4)
    tired.begin(torch.tensor([True, True]))
    for said in ([True, False], [True, True], [False, False]):
        tired.happened(torch.tensor(said), ~torch.tensor(said), torch.zeros(2))
    assert theta(tired) == [0.6, 0.7]
    assert tired.observe().tolist() == [[0.5], [0.25]]
    tired.begin(torch.tensor([True, False]))
    assert theta(tired) == [0.8, 0.7]
    trust = Trust(0.5, 0.1, 0.4)
    trust.begin(torch.tensor([True, True]))
    for reward in (1.0, -1.0, -1.0):
        trust.happened(
            torch.tensor([True, True]), torch.tensor([True, False]), torch.full((2,), reward)
        )
    assert theta(trust) == [0.0, 0.5]  # 0.5, 0.6, 0.2, 0
    drift = Drift(0.2, 0.6, 4)
    for expected in (0.2, 0.3, 0.4, 0.5, 0.6, 0.6):
        assert theta(drift) == [expected] * 2
        drift.happened(m > 0, m > 0, torch.zeros(2))


def test_the_gymnasium_form() -> None:
    """Equal to the vector of one; ``info`` says what happened, privileged facts if asked for."""
    env = AdviceEnv(Line(), person(), 0.5, cost=0.25, budget=5, privileged=True)
    obs, _ = env.reset(seed=7)
    assert env.observation_space.contains(obs) and env.action_space == gym.spaces.Discrete(4)
    draws = []
    for t in range(10):
        obs, reward, ended, _, info = env.step(t % 4)
        assert env.observation_space.contains(obs)
        assert info["advised"] == (t % 4 < 3 and t < 6)
        assert info["advice"] == (t % 4 if t < 6 else 3)
        assert reward == info["env_reward"] - info["advice_cost"]
        assert info["advice_cost"] == 0.25 * info["advised"]
        assert info["matched"] == (info["advised"] and info["executed_action"] == info["advice"])
        followed = info["advised"] and info["followed"]
        done = info["advice"] if followed else info["human_action"]
        assert info["executed_action"] == done == info["env_reward"]
        draws.append((info["human_action"], info["followed"]))
    assert ended and obs[-1] == 0
    quiet = AdviceEnv(Line(), person(), 0.5)
    quiet.reset(seed=7)
    assert "human_action" not in quiet.step(3)[-1]
    env.reset(seed=7)
    again = [env.step(3)[-1] for _ in range(10)]
    assert draws == [(info["human_action"], info["followed"]) for info in again]
    for seed in (None, 8):  # another episode, another seed
        env.reset(seed=seed)
        later = [env.step(3)[-1] for _ in range(10)]
        assert draws != [(info["human_action"], info["followed"]) for info in later]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["CartPole-v1", "FrozenLake-v1", "Taxi-v4", "Acrobot-v1"])
def test_gymnasiums_check_passes(name: str) -> None:
    base = gym.make(name)
    human = UniformHuman(int(base.action_space.n))
    check_env(AdviceEnv(base.unwrapped, human, 0.7, cost=0.1), skip_render_check=True)


@pytest.mark.parametrize("mode", ["NEXT_STEP", "SAME_STEP"])
def test_in_gymnasiums_own_vectors(mode: str) -> None:
    """Both autoreset modes: nothing is charged for a step that only resets, luck is common."""

    def run(m: int) -> tuple[list[tuple[int, ...]], float]:
        vector = gym.vector.SyncVectorEnv(
            [lambda: AdviceEnv(Line(), person(), 0.0, cost=1.0, privileged=True)] * 2,
            autoreset_mode=gym.vector.AutoresetMode[mode],
        )
        vector.reset(seed=5)
        acted, cost = [], 0.0
        for _ in range(30):
            _, _, _, _, info = vector.step([m, m])
            infos = [info, *([info["final_info"]] if "final_info" in info else [])]
            for part in infos:
                mask = part.get("_advice_cost", np.zeros(2, bool))
                cost += float(np.sum(part.get("advice_cost", np.zeros(2))[mask]))
                acted += part.get("human_action", np.zeros(2, int))[mask].tolist()
        return acted, cost

    (silent, nothing), (spoken, cost) = run(3), run(1)
    steps = 2 * (30 if mode == "SAME_STEP" else 28)  # ten steps, and one that resets
    assert silent == spoken and len(spoken) == steps
    assert (nothing, cost) == (0.0, steps)
