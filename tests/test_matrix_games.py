"""One step, one payoff for all; PettingZoo's own tests."""

import itertools
import warnings

import numpy as np
import pytest

from rlsuite.envs.matrix_games import PAYOFFS, MatrixGame
from rlsuite.errors import UserError

CUBE = np.arange(24.0).reshape(2, 3, 4)


def test_the_payoffs_of_the_papers() -> None:
    optimum = {
        "mne": (2, 2, 20),
        "penalty": (0, 2, 10),
        "climbing": (0, 0, 11),
        "nonmono": (0, 0, 8),
        "anti_coordination": (0, 1, 1),
        "coordination": (0, 0, 4),
    }
    assert PAYOFFS.keys() == optimum.keys()
    for name, (first, second, best) in optimum.items():
        assert PAYOFFS[name][first, second] == PAYOFFS[name].max() == best
    # Entries weighted by 1, 2, 3, ... in reading order: two of them cannot change places.
    weighted = {
        name: (payoff.ravel() * (1 + np.arange(payoff.size))).sum()
        for name, payoff in PAYOFFS.items()
    }
    assert weighted == {
        "mne": 5 + 50 + 180 - 20 * (2 + 3 + 4 + 6 + 7 + 8),
        "penalty": -100 + 30 + 10 + 70 - 900,
        "climbing": 11 - 60 - 120 + 35 + 36 + 45,
        "nonmono": 8 - 12 * (2 + 3 + 4 + 7),
        "anti_coordination": 2 + 3,
        "coordination": 4 + 4,
    }
    with pytest.raises(ValueError, match="read-only"):
        PAYOFFS["mne"][0, 0] = 1.0


@pytest.mark.parametrize("payoff", [*PAYOFFS.values(), CUBE, np.array([3.0, 1.0])])
def test_every_joint_action_pays_its_entry_once(payoff: np.ndarray) -> None:
    env = MatrixGame(payoff)
    assert [env.action_space(agent).n for agent in env.possible_agents] == list(payoff.shape)
    for joint in itertools.product(*map(range, payoff.shape)):
        obs, infos = env.reset()
        assert obs.keys() == infos.keys() == set(env.agents)
        actions = dict(zip(env.possible_agents, joint, strict=True))
        obs, reward, terminated, truncated, infos = env.step(actions)
        assert reward == dict.fromkeys(env.possible_agents, float(payoff[joint]))
        assert all(terminated.values()) and not any(truncated.values())
        assert all(env.observation_space(name).contains(value) for name, value in obs.items())
        assert env.state_space.contains(env.state())
        assert list(terminated) == list(truncated) == list(infos) == env.possible_agents
        assert env.agents == []


def test_actions_are_taken_by_name() -> None:
    env = MatrixGame(CUBE)
    env.reset()
    _, reward, *_ = env.step({"agent_2": 3, "agent_0": 1, "agent_1": 0})
    assert reward["agent_0"] == CUBE[1, 0, 3]


def rewards(env: MatrixGame, episodes: int, seed: int | None) -> list[float]:
    values = []
    for episode in range(episodes):
        env.reset(seed if episode == 0 else None)
        _, reward, *_ = env.step({"agent_0": 0, "agent_1": 0})
        assert len(set(reward.values())) == 1  # one draw, shared
        values.append(reward["agent_0"])
    return values


def test_noise_has_its_standard_deviation_and_follows_the_seed() -> None:
    env = MatrixGame("climbing", noise=0.5)
    values = rewards(env, 4000, seed=3)
    assert np.mean(values) == pytest.approx(11, abs=5 * 0.5 / 4000**0.5)
    assert np.std(values) == pytest.approx(0.5, rel=5 / (2 * 4000) ** 0.5)
    assert rewards(env, 20, seed=3) == values[:20]  # a seed begins the stream anew
    assert rewards(MatrixGame("climbing", noise=0.5), 20, seed=4) != values[:20]


def test_bad_input_is_named() -> None:
    with pytest.raises(UserError, match=r"no payoff 'penalti'.*did you mean penalty\?"):
        MatrixGame("penalti")
    with pytest.raises(UserError, match=r"shape \(\)"):
        MatrixGame(3.0)
    with pytest.raises(UserError, match="finite"):
        MatrixGame([1.0, np.nan])
    with pytest.raises(UserError, match="array of numbers"):
        MatrixGame([[1, 2], [3]])
    with pytest.raises(UserError, match="noise is -1"):
        MatrixGame(noise=-1)
    env = MatrixGame()
    with pytest.raises(UserError, match="call reset"):
        env.step({"agent_0": 0, "agent_1": 0})
    env.reset()
    with pytest.raises(UserError, match="agent_1 is 3"):
        env.step({"agent_0": 0, "agent_1": 3})
    with pytest.raises(UserError, match="agent_1 is missing"):
        env.step({"agent_0": 0})
    env.step({"agent_0": 0, "agent_1": 0})  # a refused step does not end the episode
    with pytest.raises(UserError, match="call reset"):
        env.step({"agent_0": 0, "agent_1": 0})


@pytest.mark.parametrize("payoff", ["penalty", CUBE])
def test_pettingzoo_accepts_it(payoff: str | np.ndarray) -> None:
    test = pytest.importorskip("pettingzoo.test")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        test.parallel_api_test(MatrixGame(payoff, noise=0.1), num_cycles=10)
        test.parallel_seed_test(lambda: MatrixGame(payoff, noise=0.1), num_cycles=10)
