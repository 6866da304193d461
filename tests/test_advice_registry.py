"""Advice around every environment with discrete actions that Gymnasium and this suite register."""

import functools
import warnings
from collections import defaultdict
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

import rlsuite.envs.advice_games  # noqa: F401 - registers its games
from rlsuite.envs import AdviceEnv, AdviceVectorEnv, SerialVectorEnv, make_env
from rlsuite.envs.humans import UniformHuman
from rlsuite.errors import UserError

# Of the many Atari games, all alike and slow, one. MuJoCo has continuous actions alone.
IDS = sorted(
    name
    for name, spec in gym.registry.items()
    if str(spec.entry_point).startswith(("gymnasium.envs.", "rlsuite.envs."))
    and ".mujoco." not in str(spec.entry_point)
)
IDS.append("ALE/Pong-v5")
LIMIT, N = 15, 2
NEXT, SAME = gym.vector.AutoresetMode.NEXT_STEP, gym.vector.AutoresetMode.SAME_STEP

Luck = dict[tuple[int, int], list[tuple[int, bool]]]
"""By environment and episode: what the human would have done, and whether they would follow."""


def make(name: str) -> gym.Env[Any, Any]:
    """With episodes of at most ``LIMIT`` steps; tuples of observations (Blackjack) flattened."""
    env = make_env(name, time_limit=LIMIT)
    is_tuple = isinstance(env.observation_space, gym.spaces.Tuple)
    return gym.wrappers.FlattenObservation(env) if is_tuple else env


def around(name: str) -> AdviceEnv:
    env = make(name)
    human = UniformHuman(int(env.action_space.n))  # type: ignore[attr-defined]
    return AdviceEnv(env, human, 0.5, cost=1.0, privileged=True)


def steps_of(name: str) -> int:
    """Of each of the N: 200 together, but fewer of Atari, which is slow."""
    return 40 if name.startswith("ALE/") else 100


def advices(name: str, actions: int, *, silent: bool) -> Any:
    """(steps, N) deferring, or advice at random."""
    rng, shape = np.random.default_rng(3), (steps_of(name), N)
    return np.full(shape, actions) if silent else rng.integers(0, actions, shape)


def ours(name: str, *, silent: bool) -> Luck:
    """In an ``AdviceVectorEnv``."""
    plain = SerialVectorEnv(functools.partial(make, name), N)
    actions = int(plain.spec.action_space.n)  # type: ignore[attr-defined]
    people = AdviceVectorEnv(plain, UniformHuman(actions), 0.5, cost=1.0)
    people.reset(5)
    luck: Luck = defaultdict(list)
    episode = torch.zeros(N, dtype=torch.int64)
    for advice in torch.from_numpy(advices(name, actions, silent=silent)):
        step = people.step(advice).step
        assert people.last is not None and isinstance(step.reward, torch.Tensor)
        assert torch.equal(step.extra["reward"] - step.reward, torch.full((N,), 1.0 - silent))
        drawn = zip(people.last.human_action.tolist(), people.last.followed.tolist(), strict=True)
        for env, draw in enumerate(drawn):
            luck[env, int(episode[env])].append(draw)
        episode += step.terminated | step.truncated
    people.close()
    return luck


def theirs(name: str, mode: gym.vector.AutoresetMode, *, silent: bool) -> Luck:
    """In a vector of Gymnasium's; a step that only resets draws nothing and costs nothing."""
    vector = gym.vector.SyncVectorEnv([functools.partial(around, name)] * N, autoreset_mode=mode)
    vector.reset(seed=5)
    luck: Luck = defaultdict(list)
    episode, cost = np.zeros(N, int), 0.0
    actions = int(vector.single_action_space.n) - 1  # type: ignore[attr-defined]
    for advice in advices(name, actions, silent=silent):
        _, _, terminated, truncated, info = vector.step(advice)
        for part in (info, info.get("final_info", {})):
            for env in np.flatnonzero(part.get("_human_action", ())):
                draw = int(part["human_action"][env]), bool(part["followed"][env])
                luck[int(env), int(episode[env])].append(draw)
                cost += part["advice_cost"][env]
        episode += terminated | truncated
    vector.close()
    steps = sum(map(len, luck.values()))
    assert cost == (0 if silent else steps)
    resets = episode.sum() if mode is NEXT else 0
    most = N * steps_of(name)
    assert most - resets <= steps <= most - max(resets - N, 0)  # the last may be to come
    return luck


def complaints(env: gym.Env[Any, Any]) -> set[str]:
    """Of Gymnasium's check, but for that a wrapper is one."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env, skip_render_check=True)
    texts = {str(warning.message) for warning in caught}
    return {text for text in texts if "different from the unwrapped version" not in text}


@pytest.mark.parametrize("name", IDS)
@pytest.mark.filterwarnings("ignore")
def test_advice_in_every_registered_environment(name: str) -> None:
    """Gymnasium's check finds nothing that it does not find in the environment as it is; human and
    follower draw the same whatever is advised, in vectors of ours and in both of Gymnasium's."""
    try:
        plain = make(name)
    except UserError as error:
        pytest.skip(str(error))
    if not isinstance(plain.action_space, gym.spaces.Discrete):
        pytest.skip(f"actions are {plain.action_space}")
    assert complaints(around(name)) <= complaints(plain)
    for luck in (ours, functools.partial(theirs, mode=NEXT), functools.partial(theirs, mode=SAME)):
        silent, spoken = luck(name, silent=True), luck(name, silent=False)
        for episode in silent.keys() & spoken.keys():
            common = min(len(silent[episode]), len(spoken[episode]))
            assert silent[episode][:common] == spoken[episode][:common]
        assert {(0, 0), (1, 0), (0, 1), (1, 1)} <= silent.keys() & spoken.keys()
        for env in range(N):  # another episode, another luck
            assert silent[env, 0] != silent[env, 1]
