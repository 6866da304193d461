"""The flight and the drive to play: drawn from the tables, seen in two ways, shown in two ways."""

import functools
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from rlsuite.advice import AdviceModel
from rlsuite.agents.advice_planning import evaluate as exact
from rlsuite.agents.advice_planning import plan, silence
from rlsuite.envs import AdviceVectorEnv, SerialVectorEnv, is_resumable, make_env
from rlsuite.envs.advice_games import (
    car_advice,
    car_human,
    flappy_adherence,
    flappy_advice,
    flappy_human,
)
from rlsuite.envs.advice_tables import CAR_HORIZON, FLAPPY_HORIZON, FLAPPY_MAP, car, flappy
from rlsuite.envs.tabular import advised
from rlsuite.errors import UserError

GAMES = {
    "flappy": (flappy_advice, {}, flappy("greedy"), FLAPPY_HORIZON),
    "flappy slip": (flappy_advice, {"slip": 0.1}, flappy("safe", slip=0.1), FLAPPY_HORIZON),
    "car": (car_advice, {"map_seed": 4}, car("env3", [4]), CAR_HORIZON),
    "car env2": (car_advice, {"traffic": "env2"}, car("env2", [0]), CAR_HORIZON),
}


@pytest.mark.parametrize("name", GAMES)
def test_the_table_of_the_game_has_the_exact_values(name: str) -> None:
    """Read back from ``P``, by another way, it plans and evaluates to the same figures."""
    make, kwargs, model, horizon = GAMES[name]
    env = make(**kwargs)
    again = advised(env, human=model.human[0], adherence=model.adherence[0])
    for cost in (0.0, 0.1):
        best, same = plan(model, horizon, cost), plan(again, horizon, cost)
        torch.testing.assert_close(again.start(same.value), model.start(best.value))
    mean = [
        [sum(p * reward for p, _, reward, _ in rows) for rows in actions.values()]
        for actions in env.P.values()
    ]
    live = ~env._over
    assert np.allclose(np.array(mean)[live], model.reward[0].numpy()[live], atol=1e-12)


@pytest.mark.parametrize("name", GAMES)
def test_steps_are_drawn_from_the_table(name: str) -> None:
    make, kwargs, _, horizon = GAMES[name]
    env = make(**kwargs)
    table = env.P
    rng, lengths, drawn, expected = np.random.default_rng(0), [], 0, 0.0
    for episode in range(1500):
        state, _ = env.reset(seed=episode)
        over, steps = False, 0
        while not over:
            action, steps = int(rng.integers(3)), steps + 1
            after, reward, over, truncated, _ = env.step(action)
            rows = {t: (p, r, d) for p, t, r, d in table[state][action]}
            p, r, d = rows[after]
            assert (reward, over, truncated) == (r, d, False)
            if 0 < p < 1:  # that the likeliest successor is drawn as often as it should
                likeliest = max(rows, key=lambda t: rows[t][0])
                drawn += after == likeliest
                expected += rows[likeliest][0]
            state = after
        lengths.append(steps)
    assert max(lengths) == horizon
    assert abs(drawn - expected) < 4 * np.sqrt(max(expected, 1) * 0.5)


@pytest.mark.parametrize("obs", ["state", "grid"])
@pytest.mark.parametrize("game", ["FlappyAdvice-v0", "CarAdvice-v0"])
def test_gymnasiums_check_passes(game: str, obs: str) -> None:
    check_env(gym.make(game, obs=obs).unwrapped)
    assert is_resumable(functools.partial(make_env, game, kwargs={"obs": obs}), 0)


@pytest.mark.parametrize("game", ["flappy", "car"])
def test_both_views_show_the_same(game: str) -> None:
    make, human = (flappy_advice, flappy_human()) if game == "flappy" else (car_advice, car_human())
    number, grid = make(obs="state"), make(obs="grid")
    views = [[env.reset(seed=3)[0]] for env in (number, grid)]
    for action in [0, 1, 1] if game == "flappy" else [1, 0, 2, 1]:
        for env, seen in zip((number, grid), views, strict=True):
            seen.append(env.step(action)[0])
    states, planes = torch.tensor(views[0]), torch.from_numpy(np.stack(views[1]))
    assert planes[:, 0].sum((1, 2)).tolist() == [1] * len(states)
    assert torch.equal(human.probs(states), human.probs(planes))
    one_hot = torch.nn.functional.one_hot(states, number.observation_space.n).float()
    assert torch.equal(human.probs(states), human.probs(one_hot))
    if game == "flappy":
        theta = flappy_adherence()
        m = torch.zeros(len(states), dtype=torch.int64)
        found = [theta.theta(obs, m, human.probs(states)) for obs in (states, planes)]
        assert torch.equal(*found) and set(found[0].tolist()) == {0.4, 0.9}
        assert planes[0, 1].sum() == sum(row.count("#") for row in FLAPPY_MAP)


def test_it_shows_itself() -> None:
    env = flappy_advice(render_mode="ansi")
    env.reset(seed=0)
    rows = env.render().splitlines()
    assert rows[3] == "@........." + FLAPPY_MAP[3][10:]
    env.step(0)
    assert env.render().splitlines()[4][1] == "@"
    env.step(0)
    _, reward, over, _, _ = env.step(0)
    assert over and reward == 0  # into the pipe of column 3
    assert env.render().splitlines()[5][2] == "@"
    env = car_advice(render_mode="rgb_array")
    env.reset(seed=0)
    picture = env.render()
    assert picture.shape == (240, 72, 3) and picture.dtype == np.uint8
    assert picture[12, 36].tolist() == [220, 40, 40]
    assert flappy_advice().render() is None
    with pytest.raises(UserError, match="obs is 'pixels'"):
        flappy_advice(obs="pixels")
    with pytest.raises(UserError, match="seed of a map is -1"):
        gym.make("CarAdvice-v0", map_seed=-1)


def mean_return(model: AdviceModel, policy: torch.Tensor | None, horizon: int, human: Any) -> float:
    """Of whole episodes of 64 people, by the advice of (H, S)."""
    make = functools.partial(make_env, "FlappyAdvice-v0")
    people = AdviceVectorEnv(SerialVectorEnv(make, 64), human, flappy_adherence())
    obs, time, found = people.reset(0), torch.zeros(64, dtype=torch.int64), []
    while len(found) < 1500:
        advice = torch.full((64,), 3) if policy is None else policy[time, obs]
        new = people.step(advice)
        obs = new.obs
        time = torch.where(new.step.terminated, 0, time + 1)
        found += [episode.episode_return for episode in new.episodes]
    return float(np.mean(found))


def test_simulated_people_earn_what_the_exact_plan_says() -> None:
    """Silence 1.044, the best advice 3.651 (the specification's figures)."""
    model, human = flappy("greedy"), flappy_human()
    alone = float(model.start(exact(model, silence(model, FLAPPY_HORIZON)).gross))
    assert mean_return(model, None, FLAPPY_HORIZON, human) == pytest.approx(alone, abs=0.1)
    best = plan(model, FLAPPY_HORIZON)
    assert mean_return(model, best.policy.reshape(FLAPPY_HORIZON, -1), 19, human) == pytest.approx(
        3.651486, abs=0.12
    )
