import contextlib
import functools
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from multiprocessing import resource_tracker
from pathlib import Path

import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_vector import same_bits, same_step
from toy_envs import CountingEnv, FailingEnv, GlobalCounterEnv, KillingEnv, SampleEnv
from toy_teams import make_breaking

from rlsuite.envs import SerialVectorEnv, WorkerError, WorkerVectorEnv, make_env
from rlsuite.envs.workers import WorkerLanes
from rlsuite.errors import UserError
from rlsuite.rng import derive_seed

# No worker may die by itself.
pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")
PATTERN = ((3, True, False), (2, False, True), (5, True, True), (9, True, False))


def processes(envs):
    return [lanes._worker.process for lanes in envs._groups if isinstance(lanes, WorkerLanes)]


@contextlib.contextmanager
def pair(make, num_envs, workers, seed=0):
    """The same environments serially and with workers."""
    serial = SerialVectorEnv(make, num_envs, seed)
    parallel = WorkerVectorEnv(make, num_envs, seed, workers=workers)
    try:
        yield serial, parallel
    finally:
        parallel.close()


def compare(serial, parallel, steps):
    ended = 0
    for _ in range(steps):
        actions = serial.sample_actions()
        assert same_bits(actions, parallel.sample_actions())
        expected, step = serial.step(actions), parallel.step(actions)
        assert same_step(expected, step)
        assert same_bits(serial.observe(), parallel.observe())
        ended += len(step.episodes)
    return ended


@pytest.mark.parametrize(("num_envs", "workers", "used"), [(1, 3, 0), (3, 3, 2), (5, 2, 2)])
def test_equals_serial_step_by_step(num_envs, workers, used):
    make = functools.partial(CountingEnv, PATTERN)
    with pair(make, num_envs, workers, seed=7) as (serial, parallel):
        assert len(processes(parallel)) == used
        assert parallel.spec == serial.spec
        for seed in (None, 3):
            assert same_bits(serial.reset(seed), parallel.reset(seed))
            assert compare(serial, parallel, 60) > 5 * num_envs


@pytest.fixture(scope="module")
def four():
    """Four environments of every kind of leaf, two of them in a worker each."""
    make = functools.partial(SampleEnv, "dict", "box asymmetric")
    with pair(make, 4, 2) as envs:
        yield envs


@given(st.integers(0, 2**62), st.integers(0, 20), st.integers(0, 12))
@settings(max_examples=25, deadline=None)
def test_states_are_interchangeable(four, seed, before, after):
    serial, parallel = four
    assert same_bits(serial.reset(seed), parallel.reset(seed))
    compare(serial, parallel, before)
    ours, theirs = parallel.state_dict(), serial.state_dict()
    compare(serial, parallel, 3)
    serial.load_state_dict(ours)
    parallel.load_state_dict(theirs)
    assert same_bits(serial.observe(), parallel.observe())
    compare(serial, parallel, after)


def test_killed_workers_are_replaced_and_the_stream_is_the_same():
    choose = random.Random(5)
    make = functools.partial(SampleEnv, "dict", "box")
    serial = SerialVectorEnv(make, 4, seed=1)
    parallel = WorkerVectorEnv(make, 4, seed=1, workers=2)
    pids = set()

    def kill(number):
        for process in choose.sample(processes(parallel), number):
            pids.add(process.pid)
            os.kill(process.pid, signal.SIGKILL)

    try:
        assert same_bits(serial.reset(), parallel.reset())
        for number in (1, 2):
            compare(serial, parallel, choose.randrange(2, 30))
            kill(number)
            with pytest.warns(
                RuntimeWarning, match=r"of environments \d \(episode \d+, reset seed"
            ):
                compare(serial, parallel, 2)
            compare(serial, parallel, 20)
        kill(1)
        with pytest.warns(RuntimeWarning, match="died with exit code -9"):
            assert same_bits(serial.reset(4), parallel.reset(4))
        compare(serial, parallel, 20)
        assert len(pids) == 4 and not any(psutil.pid_exists(pid) for pid in pids)
    finally:
        parallel.close()


def test_killed_while_stepping_mujoco():
    # The kill comes at whatever moment it comes: within a step more often than not.
    make = functools.partial(make_env, "HalfCheetah-v5", time_limit=50)
    with pair(make, 2, 1, seed=1) as (serial, parallel):
        assert same_bits(serial.reset(), parallel.reset())
        assert compare(serial, parallel, 60) == 2
        victim = processes(parallel)[0]
        killer = subprocess.Popen(["/bin/sh", "-c", f"sleep 0.1; kill -9 {victim.pid}"])
        with pytest.warns(RuntimeWarning, match="died"):
            while victim.is_alive():
                compare(serial, parallel, 1)
            compare(serial, parallel, 60)
        killer.wait()


def test_worker_that_dies_of_the_same_step_again():
    envs = WorkerVectorEnv(KillingEnv, 3, seed=6, workers=1)
    try:
        envs.reset()
        envs.step(torch.tensor([0, 1, 1]))
        named = [
            rf"{i} \(episode 0, reset seed {derive_seed(6, 'episode', i, 0, bits=31)}\)"
            for i in (1, 2)
        ]
        with (
            pytest.warns(RuntimeWarning, match=", ".join(named)),
            pytest.raises(WorkerError, match=", ".join(named) + ".*again"),
        ):
            envs.step(torch.tensor([0, 0, 2]))
        with pytest.raises(RuntimeError, match="reset first"):
            envs.observe()
    finally:
        envs.close()


def test_dead_worker_of_an_environment_that_does_not_repeat_itself():
    for resumable, message in ((False, "does not repeat itself"), (True, "led elsewhere")):
        envs = WorkerVectorEnv(GlobalCounterEnv, 2, workers=1, resumable=resumable)
        try:
            envs.reset()
            for _ in range(5):  # the replacement counts from the beginning of the last episode
                envs.step(envs.sample_actions())
            os.kill(processes(envs)[0].pid, signal.SIGKILL)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with pytest.raises(WorkerError, match=message):
                    envs.step(envs.sample_actions())
        finally:
            envs.close()


def test_environment_that_raises_in_a_worker():
    with pair(FailingEnv, 3, 1, seed=3) as (serial, parallel):
        first = parallel.reset()
        assert same_bits(first, serial.reset())
        actions = torch.tensor([0, 0, 2])
        messages = []
        for envs in (serial, parallel):
            with pytest.raises(RuntimeError, match="ZeroDivisionError: the number of lives") as e:
                envs.step(actions)
            messages.append(str(e.value))
        assert messages[0] == messages[1]
        seed = derive_seed(3, "episode", 2, 0, bits=31)
        assert messages[0].startswith(f"environment 2, episode 0 (reset seed {seed}, step 0)")
        assert "toy_envs.py" in e.value.__notes__[0]
        # In both processes at once; the worker's answer is left over, and must not be taken for
        # that of the next request.
        for _ in range(2):
            assert same_bits(parallel.reset(), first)
            with pytest.raises(RuntimeError, match="environment 0"):
                parallel.step(torch.tensor([2, 0, 2]))
        assert same_bits(parallel.reset(), serial.reset())
        for _ in range(5):
            actions = torch.tensor([1, 0, -1])
            assert same_step(serial.step(actions), parallel.step(actions))


def test_what_a_user_can_put_right_is_one_line_from_a_worker_too():
    reward = "the reward of agent ally_0 is 'one', not a finite number"
    missing = "no observation of agent ally_1, only of ['ally_0']"
    envs = WorkerVectorEnv(functools.partial(make_breaking, everywhere=True), 2, workers=1)

    def step(*first):
        envs.step({"ally_0": torch.tensor(first), "ally_1": torch.zeros(2, dtype=torch.int64)})

    def refused(message, work, *arguments):
        with pytest.raises(UserError) as error:
            work(*arguments)
        assert str(error.value).startswith(f"{message}: check the environment with")
        return getattr(error.value, "__notes__", None)

    try:
        envs.reset()
        for _ in range(2):
            (note,) = refused(reward, step, 1, 0)
            assert note.startswith("in a worker process") and "envs/team.py" in note
            refused(missing, envs.reset)
            envs.reset()
        # In both processes at once; the worker's answer is left over, and must not be taken for
        # that of the next request.
        assert refused(reward, step, 0, 0) is None
        assert refused(missing, envs.reset) is None
        envs.reset()
        step(1, 1)
    finally:
        envs.close()


def test_what_a_user_can_put_right_in_construction():
    envs = WorkerVectorEnv(functools.partial(make_breaking, True), 2, workers=1)
    try:
        with pytest.raises(UserError, match="no observation of agent ally_1"):
            envs.reset()
    finally:
        envs.close()


def differing_spaces():
    in_worker = multiprocessing.parent_process() is not None
    return SampleEnv("discrete start" if in_worker else "discrete")


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match="picklable"):
        WorkerVectorEnv(lambda: CountingEnv(), 2, workers=1)
    with pytest.raises(ValueError, match="at least 1"):
        WorkerVectorEnv(CountingEnv, 2, workers=0)
    envs = WorkerVectorEnv(differing_spaces, 2, workers=1)
    try:
        with pytest.raises(UserError, match="environment 1 has other spaces than those before it"):
            envs.reset()
    finally:
        envs.close()


def gone(exists, what, seconds=10):
    """Whether none of ``what`` is there any more, if need be after a while."""
    end = time.monotonic() + seconds
    while any(map(exists, what)):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def test_nothing_is_left_behind(monkeypatch):
    # What has a name outlives a killed process; what is in /dev/shm may be another process's.
    named, children = [], set(multiprocessing.active_children())
    monkeypatch.setattr(resource_tracker, "register", lambda *resource: named.append(resource))
    envs = WorkerVectorEnv(CountingEnv, 2, workers=1)
    envs.reset()
    dropped = WorkerVectorEnv(CountingEnv, 2, workers=1)  # not even reset, not closed
    (worker,), pids = processes(envs), [p.pid for p in processes(envs) + processes(dropped)]
    assert len(pids) == 2 and all(psutil.pid_exists(pid) for pid in pids)
    assert not named and not list(Path("/dev/shm").glob(f"pym-{os.getpid()}-*"))
    envs.close()
    envs.close()
    assert worker.exitcode == 0
    del dropped
    assert gone(psutil.pid_exists, pids)
    assert set(multiprocessing.active_children()) <= children


SCRIPT = """
import os, sys, time
from toy_envs import CountingEnv
from rlsuite.envs import WorkerVectorEnv

if __name__ == "__main__":
    envs = WorkerVectorEnv(CountingEnv, 2, workers=1)
    envs.reset()
    print(envs._groups[1]._worker.process.pid, flush=True)
    if sys.argv[1] == "hang":
        time.sleep(60)
"""


@pytest.mark.parametrize("how", ["exit", "hang"])
def test_workers_end_with_the_main_process(tmp_path, how):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent)])
    main = subprocess.Popen(
        [sys.executable, script, how],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    pid = int(main.stdout.readline())
    assert psutil.pid_exists(pid) or how == "exit"
    if how == "hang":
        os.kill(pid, signal.SIGINT)  # as Ctrl-C and schedulers do, to the whole group
        os.kill(pid, signal.SIGTERM)
        time.sleep(0.2)
        assert psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        main.kill()
    _, errors = main.communicate(timeout=10)
    assert gone(psutil.pid_exists, [pid])
    assert errors == ""
