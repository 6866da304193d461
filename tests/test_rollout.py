"""The storage of a rollout, and the loop that fills it."""

import copy
import functools
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import pytest
import torch
from toy_faults import make_unseeded

from rlsuite.agents.ppo import METRICS, PPO, PPOConfig
from rlsuite.buffers import RolloutStorage
from rlsuite.envs import SerialVectorEnv
from rlsuite.loops import RolloutPlan, rollout_loop
from rlsuite.run import Run, RunConfig
from rlsuite.types import Rollout, Step, Update


def step(k: float, n: int = 2) -> Step:
    ends = torch.zeros(n, dtype=torch.bool)
    return Step(
        {"a": torch.full((n, 3), k), "b": {"c": torch.full((n,), int(k), dtype=torch.int8)}},
        torch.full((n,), int(k)),
        torch.full((n,), k),
        {"a": torch.full((n, 3), k + 1), "b": {"c": torch.zeros(n, dtype=torch.int8)}},
        ends,
        ends.clone(),
        {"log_prob": torch.full((n,), -k)},
    )


def test_steps_come_back_in_order_and_the_next_rollout_begins_anew() -> None:
    storage = RolloutStorage(3)
    for k in range(5):
        assert not storage.is_full() or k == 3
        storage.add(step(float(k)))
        if k == 2:
            first = storage.take()
            assert first.reward.tolist() == [[0.0] * 2, [1.0] * 2, [2.0] * 2]
    with pytest.raises(ValueError, match="the rollout has 2 of 3 steps"):
        storage.take()
    storage.add(step(5.0))
    rollout = storage.take()
    assert rollout.reward[:, 0].tolist() == [3.0, 4.0, 5.0]
    assert rollout.obs["a"].shape == (3, 2, 3) and rollout.obs["b"]["c"].dtype == torch.int8
    assert rollout.next_obs["a"][:, 0, 0].tolist() == [4.0, 5.0, 6.0]
    assert rollout.action[:, 1].tolist() == [3, 4, 5]
    assert rollout.extra["log_prob"][:, 0].tolist() == [-3.0, -4.0, -5.0]


def test_what_is_stored_does_not_change_with_the_source() -> None:
    storage, source = RolloutStorage(2), step(1.0)
    storage.add(source)
    source.reward.fill_(9.0)
    storage.add(step(2.0))
    assert storage.take().reward[0].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("before", range(5))
def test_a_saved_state_continues(before: int) -> None:
    storage, other = RolloutStorage(3), RolloutStorage(3)
    for k in range(before):
        storage.add(step(float(k)))
    other.load_state_dict(copy.deepcopy(storage.state_dict()))
    for k in range(before, 6):
        for part in (storage, other):
            part.add(step(float(k)))
    a, b = storage.take(), other.take()
    assert torch.equal(a.reward, b.reward) and torch.equal(a.obs["a"], b.obs["a"])


def test_a_lost_episode_is_truncated_where_it_was_left() -> None:
    storage = RolloutStorage(3)
    storage.cut([0])  # nothing is stored
    storage.add(step(0.0))
    over = step(1.0)
    over.terminated[1] = True
    storage.add(over)
    storage.cut([0, 1])
    storage.add(step(2.0))
    rollout = storage.take()
    assert rollout.truncated.tolist() == [[False] * 2, [True, False], [False] * 2]


class Recorder(PPO):
    """PPO that keeps what it learned from."""

    def update(self, rollout: Rollout) -> Update:
        names = ("obs", "next_obs", "truncated", "terminated", "reward")
        self.seen = [*getattr(self, "seen", []), {n: getattr(rollout, n).clone() for n in names}]
        return super().update(rollout)


def train(folder: Path, agent: PPO, make: Callable[[], gym.Env], transitions: int) -> None:
    """Two environments, ten steps a rollout; continues if there is a checkpoint."""
    plan = RolloutPlan(total_transitions=transitions, steps_per_rollout=10)
    envs = SerialVectorEnv(make, 2, seed=0)
    with Run(folder, RunConfig(), plan.total_transitions, METRICS, None, quiet=True) as run:
        rollout_loop(agent, envs, RolloutStorage(10), plan, run)


def test_a_resumed_run_cuts_the_episodes_that_it_cannot_restore(tmp_path: Path) -> None:
    """Stopped in the third step of the second rollout: what follows there begins anew."""
    space = gym.make("Pendulum-v1")
    first, again = (
        Recorder(space.observation_space, space.action_space, PPOConfig(hidden=(8,)))
        for _ in range(2)
    )
    train(tmp_path, first, make_unseeded, 26)
    with pytest.warns(RuntimeWarning, match="cannot be restored exactly"):
        train(tmp_path, again, make_unseeded, 40)
    (seen,) = again.seen
    assert seen["truncated"].nonzero().tolist() == [[2, 0], [2, 1]]
    assert not torch.equal(seen["next_obs"][2], seen["obs"][3])


def test_the_loop_learns_from_every_full_rollout_and_true_successors(tmp_path: Path) -> None:
    """Pendulum cut after 7 steps: what follows a last step is its successor, not the next obs."""
    make = functools.partial(gym.make, "Pendulum-v1", max_episode_steps=7)
    agent = Recorder(make().observation_space, make().action_space, PPOConfig(hidden=(8,)))
    train(tmp_path, agent, make, 64)
    assert len(agent.seen) == 3
    for number, seen in enumerate(agent.seen):
        ends = [t for t in range(10) if (10 * number + t) % 7 == 6]
        assert torch.nonzero(seen["truncated"][:, 0]).flatten().tolist() == ends
        assert not seen["terminated"].any()
        for t in range(9):
            follows = torch.equal(seen["obs"][t + 1], seen["next_obs"][t])
            assert follows == (t not in ends)
