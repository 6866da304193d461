"""Changed physics: the simulator computes with what was set, and nominal changes no bit."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from gymnasium.envs.classic_control import PendulumEnv
from toy_teams import make_mixed

from rlsuite.envs import Physics, Uncertain, make_env
from rlsuite.envs.gym_env import is_resumable
from rlsuite.envs.perturb import changed
from rlsuite.errors import UserError

MODEL = """
<mujoco>
  <option gravity="0 0 {gravity}"/>
  <default><geom density="{mass}" friction="{friction} .01 .001"/></default>
  <worldbody>
    <geom type="plane" size="5 5 1"/>
    <body pos="0 0 1"><freejoint/><geom name="a" size=".2"/>
      <body pos=".3 0 0"><joint name="j" axis="0 1 0" damping="{damping}"/>
        <geom name="b" type="capsule" size=".05" fromto="0 0 0 .4 0 .1"/></body></body>
    <body pos="2 0 1"><freejoint/><geom name="c" size=".1"/></body>
  </worldbody>
  <contact><pair geom1="a" geom2="c" friction="{friction} {friction} .01 .001 .001"/></contact>
  <actuator><motor joint="j" gear="{strength}"/></actuator>
</mujoco>"""
MAMUJOCO_V1 = "gymnasium_robotics.envs.multiagent_mujoco.mamujoco_v1"
MAMUJOCO = {"scenario": "Hopper", "agent_conf": "3x1"}
NOMINAL = {"gravity": -9.81, "mass": 900.0, "friction": 0.8, "damping": 0.5, "strength": 3.0}


class ModelEnv(gym.Env):
    """Around a model that a test wrote."""

    def __init__(self, model: Any) -> None:
        self.model = model


def arrays(model: Any) -> dict[str, np.ndarray]:
    found = {name: getattr(model, name) for name in dir(model) if not name.startswith("_")}
    found |= {f"opt.{name}": getattr(model.opt, name) for name in dir(model.opt)}
    return {name: array for name, array in found.items() if isinstance(array, np.ndarray)}


@pytest.mark.parametrize("name", NOMINAL)
def test_a_model_is_as_if_compiled_with_the_scaled_numbers(name: str) -> None:
    """Every array of it, also those that MuJoCo derives from masses."""
    model = mujoco.MjModel.from_xml_string(MODEL.format(**NOMINAL))
    physics = Physics(ModelEnv(model))
    assert set(physics.names) == set(NOMINAL)
    physics.set({name: 1.7})
    scaled = MODEL.format(**{**NOMINAL, name: 1.7 * NOMINAL[name]})
    expected = arrays(mujoco.MjModel.from_xml_string(scaled))
    for key, array in arrays(model).items():
        np.testing.assert_allclose(array, expected[key], rtol=1e-9, atol=1e-12, err_msg=key)
    if name == "mass":
        assert not np.allclose(model.dof_invweight0, arrays(original())["dof_invweight0"])
    physics.set({})
    for key, array in arrays(model).items():
        np.testing.assert_array_equal(array, arrays(original())[key], err_msg=key)


def original() -> Any:
    return mujoco.MjModel.from_xml_string(MODEL.format(**NOMINAL))


@pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [
        ("rlsuite.envs:MultiAgentMujoco", {"task": "Hopper-v5", "partition": "3x1"}),
        (f"{MAMUJOCO_V1}:parallel_env", MAMUJOCO),
    ],
)
def test_agents_that_share_a_robot_share_its_physics(env_id: str, kwargs: dict[str, Any]) -> None:
    """They feel it as one agent does; nature plays against one agent alone."""
    rewards = {}
    for scale in (1.0, 2.0):
        team = changed(partial(make_env, env_id, kwargs=kwargs), {"mass": scale}, {})
        plain = changed(partial(make_env, "Hopper-v5"), {"mass": scale}, {})
        team.reset(seed=0), plain.reset(seed=0)
        action = np.float32([0.5, -0.5, 0.25])
        joint = dict(zip(team.action_space, action.reshape(3, 1), strict=True))  # type: ignore[call-overload]
        rewards[scale] = [team.step(joint)[1] for _ in range(5)]
        np.testing.assert_allclose(rewards[scale], [plain.step(action)[1] for _ in range(5)])
    assert rewards[1.0] != rewards[2.0]
    with pytest.raises(UserError, match="several agents"):
        Uncertain(make_env(env_id, kwargs=kwargs), {"mass": (0.5, 2.0)})


def test_what_is_zero_anyway_is_no_parameter() -> None:
    model = mujoco.MjModel.from_xml_string(MODEL.format(**{**NOMINAL, "damping": 0, "gravity": 0}))
    assert Physics(ModelEnv(model)).names == ["mass", "friction", "strength"]


def trace(env: gym.Env[Any, Any], episodes: int = 2, steps: int = 60) -> list[Any]:
    """Observations and rewards; an episode that ended goes on after a reset."""
    env.action_space.seed(3)
    seen = []
    for seed in range(episodes):
        seen.append(env.reset(seed=seed)[0])
        for _ in range(steps):
            observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            seen += [observation, np.asarray(reward)]
            if terminated or truncated:
                seen.append(env.reset(seed=seed + 10)[0])
    return seen


def is_equal(a: list[Any], b: list[Any]) -> bool:
    return [np.asarray(x).tobytes() for x in a] == [np.asarray(x).tobytes() for x in b]


IDS = {
    "Hopper-v5": ("mass", "friction", "gravity", "damping", "strength"),
    "CartPole-v1": ("gravity", "cart_mass", "pole_mass", "pole_length", "force"),
    "Pendulum-v1": ("gravity", "mass", "length"),
    "Acrobot-v1": ("mass", "length"),
    "MountainCar-v0": ("gravity", "force"),
    "MountainCarContinuous-v0": ("force",),
}
PARAMETERS = [(env, name) for env, names in IDS.items() for name in names]


@pytest.mark.parametrize(("env_id", "name"), PARAMETERS)
def test_each_parameter_changes_the_simulation_for_good(env_id: str, name: str) -> None:
    """In the second episode too: resets do not undo it. And back to nominal is to the bit."""
    plain, scaled = (
        trace(make_env(env_id)),
        trace(changed(partial(make_env, env_id), {name: 1.3}, {})),
    )
    half = len(scaled) // 2
    assert is_equal(plain[:1], scaled[:1]) and not is_equal(plain[:half], scaled[:half])
    # From a later first state the other episode differs as well.
    assert not is_equal(plain[half:], scaled[half:])
    env = make_env(env_id)
    physics = Physics(env)
    physics.set({name: 1.3})
    assert is_equal(trace(env), scaled)
    physics.set({})
    assert is_equal(trace(env), plain)


@pytest.mark.parametrize("env_id", IDS)
def test_nominal_values_change_no_bit(env_id: str) -> None:
    values = dict.fromkeys(IDS[env_id], 1.0)
    assert set(Physics(make_env(env_id)).names) == set(IDS[env_id])
    make = partial(make_env, env_id)
    assert is_equal(trace(changed(make, values, {})), trace(make()))


def test_cartpole_by_hand() -> None:
    """The equations of Barto, Sutton and Anderson with the scaled numbers."""
    scales = {"cart_mass": 2.0, "pole_mass": 3.0, "pole_length": 0.5, "force": 1.5, "gravity": 1.1}
    env = changed(partial(make_env, "CartPole-v1"), scales, {})
    env.reset(seed=0)
    x, v, angle, spin = env.unwrapped.state  # type: ignore[attr-defined]
    cart, pole, half, force, gravity = 2.0, 0.3, 0.25, 15.0, 10.78
    sine, cosine = math.sin(angle), math.cos(angle)
    push = (force + pole * half * spin**2 * sine) / (cart + pole)
    turn = (gravity * sine - cosine * push) / (half * (4 / 3 - pole * cosine**2 / (cart + pole)))
    slide = push - pole * half * turn * cosine / (cart + pole)
    new = [x + 0.02 * v, v + 0.02 * slide, angle + 0.02 * spin, spin + 0.02 * turn]
    np.testing.assert_allclose(env.step(1)[0], new, rtol=1e-6)


BOUNDS = {"mass": (0.5, 2.0), "friction": (0.3, 1.0)}


def play(env: gym.Env[Any, Any], scales: list[list[float]], steps: int = 40) -> list[Any]:
    """An episode of random actions; nature plays ``scales`` one after the other."""
    rng = np.random.default_rng(0)
    seen = [env.reset(seed=4)[0]]
    for t in range(steps):
        action: Any = rng.uniform(-1, 1, 3).astype(np.float32)
        if isinstance(env, Uncertain):
            physics = np.float32(scales[min(t, len(scales) - 1)])
            action = {"action": action, "physics": physics}
        seen += list(env.step(action)[:2])
    return seen


def test_nature_chooses_the_physics_of_an_episode_at_its_first_step() -> None:
    """And of that one alone: the next begins from the nominal first state."""
    env = Uncertain(make_env("Hopper-v5"), BOUNDS)
    for scales in ([2.0, 0.5], [0.5, 1.0], [1.0, 1.0]):
        plain = make_env("Hopper-v5")
        expected = [plain.reset(seed=4)[0]]
        Physics(plain).set(dict(zip(BOUNDS, scales, strict=True)))
        expected += play_on(plain)
        assert is_equal(play(env, [scales, [1.5, 0.7]]), expected)
    assert is_equal(play(env, [[1.0, 1.0]]), play(make_env("Hopper-v5"), []))


def play_on(env: gym.Env[Any, Any], steps: int = 40) -> list[Any]:
    rng = np.random.default_rng(0)
    actions = [rng.uniform(-1, 1, 3).astype(np.float32) for _ in range(steps)]
    return [x for action in actions for x in env.step(action)[:2]]


def test_uncertain_environments_repeat_themselves() -> None:
    """The Humanoid observes its inertias, also in the first observation of an episode."""
    bounds = {"mass": (0.5, 2.0)}
    assert is_resumable(lambda: Uncertain(make_env("Humanoid-v5"), bounds), seed=0)


def test_nature_chooses_around_what_is_perturbed() -> None:
    make = partial(make_env, "Hopper-v5")
    both = play(changed(make, {"mass": 0.75}, BOUNDS), [[2.0, 1.0]])
    assert is_equal(both[1:], play(changed(make, {}, BOUNDS), [[1.5, 1.0]])[1:])
    plain = changed(make, {}, {})
    assert not isinstance(plain, Uncertain)


@pytest.mark.parametrize(
    ("make", "bounds", "message"),
    [
        (PendulumEnv, {"mas": (0.5, 2.0)}, "PendulumEnv has no 'mas'; did you mean mass?"),
        (PendulumEnv, {"mass": (1.5, 2.0)}, "1 within their bounds, not (1.5, 2.0)"),
        (PendulumEnv, {"mass": (0.5, 0.9)}, "1 within their bounds, not (0.5, 0.9)"),
        (PendulumEnv, {"mass": (0.0, 2.0)}, "mass=0 for PendulumEnv: a scale has to be above 0"),
        (PendulumEnv, {"obs_noise": (0.0, 2.0)}, "obs_noise is no physics"),
        (make_mixed, {"mass": (0.5, 2.0)}, "has several agents"),
    ],
)
def test_mistakes_in_bounds(
    make: Callable[[], gym.Env[Any, Any]], bounds: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as raised:
        Uncertain(make(), bounds)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("make", "values", "message"),
    [
        (
            partial(make_env, "Hopper-v5"),
            {"frction": 1.0},
            "Hopper-v5 has no 'frction'; did you mean friction? it has mass, friction, gravity, "
            "damping, strength, action_delay, action_noise, obs_noise",
        ),
        (
            partial(make_env, "tests.toy_envs:CountingEnv"),
            {"mass": 2.0},
            "CountingEnv has no 'mass'; it has no physics that is known (MuJoCo and classic "
            "control have), action_delay, action_noise, obs_noise",
        ),
        (PendulumEnv, {"mass": 0.0}, "mass=0 for PendulumEnv: a scale has to be above 0"),
        (make_mixed, {"mass": 2.0}, "MixedTeam has no 'mass'"),
    ],
)
def test_mistakes(
    make: Callable[[], gym.Env[Any, Any]], values: dict[str, float], message: str
) -> None:
    with pytest.raises(UserError) as raised:
        changed(make, values, {})
    assert message in str(raised.value)
