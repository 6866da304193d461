"""Late and noisy actions and noisy observations: by hand, by their statistics, and what stays."""

import copy
import math
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from torch import Tensor
from toy_teams import make_mixed

from rlsuite.envs import DisturbedVectorEnv, ParticleVectorEnv, SerialVectorEnv, make_env
from rlsuite.envs.perturb import changed
from rlsuite.errors import UserError
from rlsuite.tree import leaves
from rlsuite.types import Tree, VectorEnv

FLOATS = Box(-np.inf, np.inf, (2,), np.float32)
TWO = Box(-np.float32([1, 4]), np.float32([1, 4]))


class Echo(gym.Env):
    """Remembers what was done; observes the lowest value of its space."""

    def __init__(
        self, acted: gym.Space[Any], observed: gym.Space[Any] = FLOATS, limit: int = 10_000
    ) -> None:
        self.action_space, self.observation_space, self.limit = acted, observed, limit
        self.taken: list[Any] = []

    def observe(self) -> Any:
        return np.zeros(self.observation_space.shape or (), self.observation_space.dtype)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.time = 0
        return self.observe(), {}

    def step(self, action: Any) -> Any:
        self.taken.append(copy.deepcopy(action))
        self.time += 1
        return self.observe(), 0.0, False, self.time >= self.limit, {}


def disturbed(
    values: dict[str, float], acted: gym.Space[Any], observed: gym.Space[Any] = FLOATS
) -> tuple[DisturbedVectorEnv, Echo]:
    echo = Echo(acted, observed)
    return DisturbedVectorEnv(SerialVectorEnv(lambda: echo, 1), values, "Echo"), echo


def noise(
    values: dict[str, float], acted: gym.Space[Any] = TWO, steps: int = 3000, seed: int = 5
) -> tuple[np.ndarray, np.ndarray]:
    """Actions taken instead of zeros, and observations instead of zeros."""
    envs, echo = disturbed(values, acted)
    seen = [envs.reset(seed)]
    still = torch.zeros((1, *(acted.shape or ())), dtype=torch.float32)
    still = still if isinstance(acted, Box) else still.to(torch.int64)
    seen += [envs.step(still).obs for _ in range(steps)]
    return np.array(echo.taken), torch.cat(seen).numpy()  # type: ignore[arg-type]


def test_actions_take_effect_late() -> None:
    """Each environment's episodes end when they do, and begin without the last one's actions."""
    echoes = iter([Echo(Discrete(99), limit=3), Echo(Discrete(99), limit=5)])
    kept: list[Echo] = []

    def make() -> Echo:
        kept.append(next(echoes))
        return kept[-1]

    envs = DisturbedVectorEnv(SerialVectorEnv(make, 2), {"action_delay": 2}, "Echo")
    for _ in range(2):
        envs.reset(0)
        for time in range(8):
            stepped = envs.step(torch.tensor([time, 50 + time]))
            assert stepped.step.action.tolist() == [time, 50 + time]  # type: ignore[union-attr]
        assert kept[0].taken == [0, 0, 0, 3, 3, 3, 6, 6]
        assert kept[1].taken == [50, 50, 50, 51, 52, 55, 55, 55]
        kept[0].taken, kept[1].taken = [], []


def test_observations_are_noisy_by_the_seed() -> None:
    """One seed, one noise, whose size alone differs (common random numbers)."""
    small, large = (noise({"obs_noise": size})[1] for size in (0.1, 0.2))
    np.testing.assert_allclose(large, 2 * small, rtol=1e-6)
    assert small[0].any() and abs(small.std() - 0.1) < 5 * 0.1 / math.sqrt(2 * small.size)
    assert abs(small.mean()) < 5 * 0.1 / math.sqrt(small.size)
    assert not np.allclose(noise({"obs_noise": 0.1}, seed=6)[1], small)


def test_the_two_noises_are_independent() -> None:
    actions, observations = noise({"action_noise": 0.1, "obs_noise": 0.1})
    for shift in (0, 1):
        both = np.corrcoef(actions.ravel(), observations[shift : len(actions) + shift].ravel())
        assert abs(both[0, 1]) < 5 / math.sqrt(actions.size)


def test_what_is_seen_is_what_is_stored() -> None:
    """Where an episode ended too: its last observation, and the next one's first."""
    make = partial(Echo, TWO, limit=2)
    envs = DisturbedVectorEnv(SerialVectorEnv(make, 2), {"obs_noise": 1.0}, "Echo")
    seen = envs.reset(3)
    for _ in range(5):
        new = envs.step(torch.zeros(2, 2))
        assert torch.equal(new.step.obs, seen)  # type: ignore[arg-type]
        assert torch.equal(new.step.next_obs, new.obs)  # type: ignore[arg-type]
        assert torch.equal(envs.observe(), new.obs)  # type: ignore[arg-type]
        seen = new.obs


def test_actions_are_noisy_within_their_box() -> None:
    """Standard deviation as a share of half the range, whether or not observations are noisy."""
    taken, _ = noise({"action_noise": 0.1})
    assert taken.dtype == np.float32
    np.testing.assert_allclose(taken.std(0), [0.1, 0.4], rtol=5 / math.sqrt(2 * len(taken)))
    np.testing.assert_array_equal(noise({"action_noise": 0.1, "obs_noise": 1})[0], taken)
    wild = noise({"action_noise": 2.0})[0]
    assert all(TWO.contains(action) for action in wild)
    inside = abs(wild) < TWO.high
    np.testing.assert_allclose(wild[inside], 20 * taken[inside], rtol=1e-4)


def test_discrete_actions_slip() -> None:
    """With the probability given to a uniform action; more slips contain the fewer."""
    space = Discrete(4, start=-7)
    few, many = (noise({"action_noise": p}, space)[0] for p in (0.2, 0.6))
    slipped = few != 0  # 0 is not in the space: what was asked for
    assert abs(slipped.mean() - 0.2) < 5 * math.sqrt(0.2 * 0.8 / len(few))
    assert (many != 0)[slipped].all() and (many[slipped] == few[slipped]).all()
    counts = np.array([(many == action).sum() for action in range(-7, -3)])
    assert counts.sum() == (many != 0).sum()
    assert abs(counts - counts.mean()).max() < 5 * math.sqrt(counts.mean())


def test_several_heads_slip_together() -> None:
    space = MultiDiscrete([3, 2], start=[1, 5])
    envs, echo = disturbed({"action_noise": 0.5}, Dict({"action": space, "physics": TWO}))
    envs.reset(0)
    action: Tree = {"action": torch.zeros((1, 2), dtype=torch.int64), "physics": torch.zeros(1, 2)}
    for _ in range(1000):
        envs.step(action)
    taken = np.array([each["action"] for each in echo.taken])
    slipped = (taken != 0).any(1)
    assert abs(slipped.mean() - 0.5) < 5 * math.sqrt(0.25 / 1000)
    assert all(space.contains(each) for each in taken[slipped])
    pairs = np.unique(taken[slipped], axis=0, return_counts=True)[1]
    assert len(pairs) == 6 and abs(pairs - pairs.mean()).max() < 5 * math.sqrt(pairs.mean())
    assert not any(each["physics"].any() for each in echo.taken)  # nature's choice stays


def test_images_stay_images() -> None:
    space = Box(0, 255, (8, 8), np.uint8)
    envs, _ = disturbed({"obs_noise": 40.0}, TWO, space)
    seen = envs.reset(0)
    assert isinstance(seen, Tensor) and seen.dtype == torch.uint8
    values = torch.cat([envs.step(torch.zeros(1, 2)).obs for _ in range(40)])  # type: ignore[misc]
    positive = values[values > 0].float()  # half of the noise is below black
    assert abs(len(positive) / values.numel() - 0.5) < 5 * 0.5 / math.sqrt(values.numel()) + 0.01
    assert abs(positive.square().mean().sqrt() - 40) < 4
    # P(N(0, 0.3^2) rounds to 1) = P(N > 0.5 / 0.3) = 0.0478; cut off, it would be 0.0004.
    envs, _ = disturbed({"obs_noise": 0.3}, TWO, space)
    envs.reset(0)
    ones = torch.cat([envs.step(torch.zeros(1, 2)).obs for _ in range(40)]).float()  # type: ignore[misc]
    assert abs(ones.mean() - 0.0478) < 5 * math.sqrt(0.0478 / ones.numel())


def trace(envs: VectorEnv, steps: int = 30) -> list[tuple[str, Tensor]]:
    seen = list(leaves(envs.reset(4)))
    for _ in range(steps):
        new = envs.step(envs.sample_actions())
        seen += [*leaves(new.obs), *leaves(new.step.next_obs), *leaves(new.step.reward)]
    return seen


MAKES = {
    "CartPole": lambda: SerialVectorEnv(partial(make_env, "CartPole-v1"), 3, 0),
    "team": lambda: SerialVectorEnv(partial(make_env, "rlsuite.envs.skirmish:Skirmish"), 2, 0),
    "vector": lambda: ParticleVectorEnv("spread", 2, 0),
}


@pytest.mark.parametrize("name", MAKES)
def test_nominal_values_change_no_bit(name: str) -> None:
    values = {"action_delay": 0.0, "action_noise": 0.0, "obs_noise": 0.0}
    found = trace(DisturbedVectorEnv(MAKES[name](), values, name))
    expected = trace(MAKES[name]())
    for (path, leaf), (key, other) in zip(found, expected, strict=True):
        assert path == key and torch.equal(leaf, other)


def test_of_a_team_what_its_agents_see_is_noisy() -> None:
    """Each by itself; not the state, which the policies do not see."""
    plain, noisy = MAKES["vector"](), MAKES["vector"]()
    true = dict(leaves(plain.reset(4)))
    seen = dict(leaves(DisturbedVectorEnv(noisy, {"obs_noise": 0.5}, "x").reset(4)))
    added = {path: leaf - true[path] for path, leaf in seen.items()}
    for path, leaf in added.items():
        assert leaf.bool().all() if path.startswith("agents/") else not leaf.any()
    a, b, *_ = (leaf for path, leaf in added.items() if path.startswith("agents/"))
    assert not torch.equal(a, b)


def test_agents_of_a_team_slip_independently() -> None:
    acted: list[Tree] = []
    envs = ParticleVectorEnv("spread", 400, 0, continuous=False)
    disturbed = DisturbedVectorEnv(envs, {"action_noise": 0.5}, "spread")
    step = envs.step
    envs.step = lambda action, extra=None: (acted.append(action), step(action, extra))[1]  # type: ignore[assignment,func-returns-value]
    disturbed.reset(0)
    still = {name: torch.full((400,), 4) for name in envs.spec.action_space}  # type: ignore[attr-defined]
    disturbed.step(still)
    a, b, c = ((leaf != 4).double() for _, leaf in leaves(acted[0]))
    for one, other in ((a, b), (b, c), (a, c)):
        assert abs(torch.corrcoef(torch.stack([one, other]))[0, 1]) < 5 / math.sqrt(400)
        assert abs(one.mean() - 0.4) < 5 * math.sqrt(0.24 / 400)  # a fifth of slips change nothing


def test_a_restored_vector_goes_on_bit_for_bit() -> None:
    values = {"action_delay": 2.0, "action_noise": 0.3, "obs_noise": 0.1}
    envs, other = (DisturbedVectorEnv(MAKES["CartPole"](), values, "x") for _ in range(2))
    trace(envs, 25)
    other.load_state_dict(copy.deepcopy(envs.state_dict()))
    assert torch.equal(envs.observe(), other.observe())  # type: ignore[arg-type]
    for _ in range(20):
        one, two = envs.step(envs.sample_actions()), other.step(other.sample_actions())
        assert torch.equal(one.obs, two.obs)  # type: ignore[arg-type]


def test_what_cannot_be_restored_is_refused() -> None:
    """The noise of an episode that begins anew would be that of another."""
    values = {"obs_noise": 0.1}
    envs, other = (DisturbedVectorEnv(MAKES["CartPole"](), values, "x") for _ in range(2))
    trace(envs, 25)
    state = copy.deepcopy(envs.state_dict())
    other._envs.load_state_dict = lambda state: setattr(other._envs, "lost", [1])  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"the disturbed episodes of \[1\] cannot be restored"):
        other.load_state_dict(state)


MASKED = Dict({"observation": Box(0, 1, (1,)), "action_mask": MultiBinary(2)})


class Masked(Echo):
    def observe(self) -> Any:
        return {"observation": np.zeros(1, np.float32), "action_mask": np.ones(2, np.int8)}


@pytest.mark.parametrize(
    ("make", "values", "message"),
    [
        (partial(Echo, TWO), {"obs_noise": -0.1}, "obs_noise=-0.1 for this: it has to be at least"),
        (partial(Echo, TWO), {"action_delay": 1.5}, "action_delay=1.5 for this: it counts steps"),
        (partial(Echo, Discrete(2)), {"action_noise": 1.1}, "it is a probability"),
        (partial(Echo, Box(-np.inf, 1, (1,))), {"action_noise": 0.1}, "discrete or a bounded Box"),
        (partial(Echo, TWO, Discrete(3)), {"obs_noise": 0.1}, "observations have to be Boxes"),
        (partial(Masked, Discrete(2), MASKED), {"action_delay": 1}, "its mask of actions would"),
        (partial(Masked, Discrete(2), MASKED), {"action_noise": 0.5}, "its mask of actions would"),
        (make_mixed, {"action_noise": 0.1}, "its mask of actions would not fit"),
        (make_mixed, {"obs_noise": 0.1}, "observations have to be Boxes"),
    ],
)
def test_mistakes(make: Any, values: dict[str, float], message: str) -> None:
    with pytest.raises(UserError) as raised:
        DisturbedVectorEnv(SerialVectorEnv(make, 1), values, "this")
    assert message in str(raised.value)


def test_observations_beside_a_mask_are_noisy() -> None:
    envs, _ = disturbed({}, Discrete(2))
    envs = DisturbedVectorEnv(
        SerialVectorEnv(partial(Masked, Discrete(2), MASKED), 1), {"obs_noise": 0.5}, "x"
    )
    seen = dict(leaves(envs.reset(0)))
    assert seen["observation"].all() and torch.equal(seen["action_mask"].float(), torch.ones(1, 2))


def test_nature_chooses_beside_what_is_disturbed() -> None:
    make = partial(changed, partial(make_env, "CartPole-v1"), {}, {"force": (0.5, 2.0)})
    envs = DisturbedVectorEnv(SerialVectorEnv(make, 2), {"action_noise": 0.5}, "x")
    assert isinstance(envs.sample_actions(), dict)
    trace(envs, 5)
