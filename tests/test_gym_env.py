import functools
import sys

import gymnasium as gym
import numpy as np
import pytest
from toy_envs import CountingEnv, GlobalCounterEnv, MemoryEnv, NoisyEnv, SampleEnv

from rlsuite.envs import is_resumable, make_env
from rlsuite.errors import UserError


def wrappers(env):
    found = []
    while isinstance(env, gym.Wrapper):
        found.append(type(env))
        env = env.env
    return found


def steps_until_truncated(env):
    env.reset(seed=0)
    env.action_space.seed(0)
    for step in range(1, 10_000):
        action = env.action_space.sample()
        given = int(action) if isinstance(env.action_space, gym.spaces.Discrete) else action
        _, _, terminated, truncated, _ = env.step(given)
        if truncated:
            return step
        assert not terminated
    raise AssertionError("never truncated")


def test_any_gymnasium_id_without_the_passive_checker():
    env = make_env("Pendulum-v1")
    assert type(env.unwrapped).__name__ == "PendulumEnv"
    assert gym.wrappers.PassiveEnvChecker not in wrappers(env)
    assert steps_until_truncated(env) == 200


def test_arguments_and_render_mode():
    env = make_env("Pendulum-v1", kwargs={"g": 3.0}, render_mode="rgb_array")
    assert env.unwrapped.g == 3.0
    env.reset(seed=0)
    assert env.render().shape == (500, 500, 3)
    assert make_env("toy_envs:make_counting", kwargs={"length": 7}).pattern == ((7, True, False),)


@pytest.mark.parametrize("limit", [7, 250])
def test_time_limit_replaces_the_registered_one(limit):
    assert steps_until_truncated(make_env("Pendulum-v1", time_limit=limit)) == limit


def test_time_limit_around_an_import_path():
    env = make_env("toy_envs:CountingEnv", kwargs={"pattern": ((50, True, False),)}, time_limit=4)
    assert steps_until_truncated(env) == 4
    assert type(make_env("toy_envs:CountingEnv")) is CountingEnv


def test_id_that_an_import_registers(tmp_path, monkeypatch):
    (tmp_path / "registers_toy.py").write_text(
        "import gymnasium\n"
        "gymnasium.register('Toy-v0', 'toy_envs:CountingEnv', max_episode_steps=6)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    env = make_env("registers_toy:Toy-v0", kwargs={"pattern": ((50, True, False),)})
    assert isinstance(env.unwrapped, CountingEnv) and env.spec.max_episode_steps == 6
    del gym.registry["Toy-v0"]


LISTS = "gymnasium.pprint_registry() lists those there are"


@pytest.mark.parametrize(
    ("env_id", "arguments", "message"),
    [
        (
            "HalfCheeta-v5",
            {},
            f"unknown environment 'HalfCheeta-v5'; did you mean 'HalfCheetah-v5'? {LISTS}",
        ),
        (
            "HalfCheetah-v9",
            {},
            f"unknown environment 'HalfCheetah-v9'; did you mean 'HalfCheetah-v5'? {LISTS}",
        ),
        (
            "zzzzzz",
            {},
            f"unknown environment 'zzzzzz'; is the package that registers it imported? {LISTS}",
        ),
        (
            "toy_envs:Unknown-v0",
            {},
            "environment 'toy_envs:Unknown-v0': 'toy_envs' has no 'Unknown-v0'",
        ),
        (
            "toy_envs:make_countin",
            {},
            "environment 'toy_envs:make_countin': 'toy_envs' has no 'make_countin'; did you mean "
            "'make_counting'?",
        ),
        (
            "nowhere.module:make",
            {},
            "environment 'nowhere.module:make': cannot import 'nowhere.module': No module named "
            "'nowhere'",
        ),
        (
            "toy_envs:A_NUMBER",
            {},
            "environment 'toy_envs:A_NUMBER' is not callable; name a function or a class",
        ),
        (
            "toy_envs:NotAnEnv",
            {},
            "environment 'toy_envs:NotAnEnv' returned NotAnEnv, neither a gymnasium.Env nor an "
            "environment with PettingZoo's parallel methods",
        ),
        ("Pendulum-v1", {"time_limit": 0}, "time_limit must be a positive number of steps, not 0"),
        (
            "Pendulum-v1",
            {"time_limit": True},
            "time_limit must be a positive number of steps, not True",
        ),
    ],
)
def test_mistakes_are_explained_in_one_line(env_id, arguments, message):
    with pytest.raises(UserError) as error:
        make_env(env_id, **arguments)
    assert str(error.value) == message


class Missing:
    """A finder of modules that hides a package, as if it were not installed."""

    def __init__(self, package):
        self.package = package

    def find_spec(self, name, path=None, target=None):
        if name == self.package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.mark.parametrize(
    ("package", "path", "extra"),
    [
        ("mpe2", "mpe2.simple_spread_v3:parallel_env", "multi-agent"),
        ("pettingzoo", "pettingzoo.butterfly.pistonball_v6:parallel_env", "multi-agent"),
        ("lbforaging", "lbforaging:Foraging-8x8-2p-2f-v3", "multi-agent"),
        ("rware", "rware:rware-tiny-2ag-v2", "multi-agent"),
        ("gymnasium_robotics", "gymnasium_robotics:FetchReach-v4", "multi-agent"),
        ("mujoco", "needs_mujoco:make", "mujoco"),
    ],
)
def test_an_extra_that_is_missing_is_named(package, path, extra, monkeypatch, tmp_path):
    """Also when the user's own module is what imports it."""
    (tmp_path / "needs_mujoco.py").write_text("import mujoco")
    monkeypatch.syspath_prepend(tmp_path)
    module = path.partition(":")[0]
    for name in [n for n in sys.modules if n in (module, package) or n.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Missing(package), *sys.meta_path])
    with pytest.raises(UserError) as error:
        make_env(path)
    needs = f"environment {path!r} needs the {extra} extra: pip install 'rlsuite[{extra}]'"
    assert str(error.value) == needs


@pytest.mark.parametrize(
    ("env_id", "arguments", "part"),
    [
        ("a:b:c", {}, "cannot import 'a:b'"),
        ("not an id!", {}, "Malformed environment ID"),
        # Either is named, whether or not gymnasium-robotics was imported before.
        ("HalfCheetah-v3", {}, "ujoco"),
        ("Pendulum-v1", {"kwargs": {"gravity": 1}}, "unexpected keyword argument 'gravity'"),
        ("toy_envs:make_counting", {"kwargs": {"size": 1}}, "unexpected keyword argument 'size'"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*out of date")
def test_other_mistakes(env_id, arguments, part):
    with pytest.raises(UserError) as error:
        make_env(env_id, **arguments)
    assert part in str(error.value) and "\n" not in str(error.value)
    assert repr(env_id) in str(error.value)


def test_other_missing_packages_are_explained_in_one_line():
    def needs_a_package():
        raise gym.error.DependencyNotInstalled("box is missing:\n  pip install box")

    gym.register("Needy-v0", needs_a_package)
    try:
        with pytest.raises(UserError) as error:
            make_env("Needy-v0")
    finally:
        del gym.registry["Needy-v0"]
    assert str(error.value) == "environment 'Needy-v0': box is missing: pip install box"


@pytest.mark.parametrize(
    ("env_id", "module", "extra"),
    [("Hopper-v5", "mujoco", "mujoco"), ("ALE/Pong-v5", "ale_py", "atari")],
)
def test_missing_extra_is_named_with_its_command(monkeypatch, env_id, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError) as error:
        make_env(env_id)
    assert str(error.value) == (
        f"environment {env_id!r} needs the {extra} extra: pip install 'rlsuite[{extra}]'"
    )


def test_mujoco_leaves_no_log_file_and_prints_a_warning_once(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        env = make_env("HalfCheetah-v5")
        env.reset(seed=0)
        env.unwrapped.data.qvel[0] = 1e300  # unstable at the first step
        env.step(env.action_space.sample())
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr().err.count("The simulation is unstable. Time = 0.0000") == 1


@pytest.mark.parametrize(
    "env_id",
    ["CartPole-v1", "Pendulum-v1", "FrozenLake-v1", "Blackjack-v1", "Hopper-v5", "HalfCheetah-v5"],
)
def test_resumable(env_id):
    assert is_resumable(functools.partial(make_env, env_id), seed=3)


def test_toys_are_resumable_whatever_their_spaces():
    assert is_resumable(CountingEnv, seed=1)
    assert is_resumable(SampleEnv, seed=1)


@pytest.mark.parametrize("impure", [GlobalCounterEnv, NoisyEnv, MemoryEnv])
def test_not_resumable(impure):
    assert not is_resumable(impure, seed=1)


def test_the_check_closes_what_it_makes_also_after_an_error():
    closed = []

    class Closing(CountingEnv):
        def close(self):
            closed.append(self)

    class Broken(Closing):
        def step(self, action):
            raise OSError("broken")

    assert is_resumable(Closing, seed=1) and len(closed) == 2
    with pytest.raises(OSError, match="broken"):
        is_resumable(Broken, seed=1)
    assert len(closed) == 4


@pytest.mark.parametrize(
    ("method", "values", "message"),
    [
        ("reset", np.zeros(2), r"reset returned ndarray, where .* \(observation, info\)"),
        ("reset", (0, {}, {}), "reset returned a tuple of 3"),
        ("step", (0, 1.0, False, {}), r"step returned a tuple of 4, .* truncated, info\)"),
        ("step", (0, None, False, False, {}), "step returned NoneType as reward, .* one number"),
        ("step", (0, 1.0, [False], False, {}), "step returned list as terminated"),
        ("step", (0, 1.0, False, np.array([0]), {}), "step returned ndarray as truncated"),
    ],
)
def test_what_is_not_gymnasiums_interface_is_named(method, values, message):
    class Odd(CountingEnv):
        pass

    setattr(Odd, method, lambda self, *args, **kwargs: values)
    with pytest.raises(UserError, match=f"^the environment's {message}"):
        is_resumable(Odd, seed=1)
