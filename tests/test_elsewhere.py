"""What went wrong in other libraries' replay, and was reported there: none of it happens here.

The rest of the list is in the tests of the part it concerns (search for "#" and the number).
"""

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rlsuite.buffers import (
    DenseRRMSampler,
    ImportanceWeights,
    LazyRRMSampler,
    PrioritizedSampler,
    RankSampler,
    RecencySampler,
    Replay,
    ReshuffleSampler,
    Sequences,
    UniformSampler,
)
from rlsuite.distributions import squashed_normal
from rlsuite.types import Sampler, Step

SAMPLERS = {
    "uniform": UniformSampler,
    "reshuffle": ReshuffleSampler,
    "recency": RecencySampler,
    "prioritized": lambda seed: PrioritizedSampler(seed, weights=ImportanceWeights()),
    "rank": RankSampler,
    "rrm": LazyRRMSampler,
    "rrm dense": DenseRRMSampler,
}
samplers = pytest.mark.parametrize("sampler", SAMPLERS)


def numbered(first: int, num_envs: int = 1) -> Step:
    """Transitions ``first``, ``first`` + 1, ... whose successor is their number and a half."""
    number = torch.arange(first, first + num_envs, dtype=torch.float32)
    no = torch.zeros(num_envs, dtype=torch.bool)
    return Step(number, number, number, number + 0.5, no, no)


def make(sampler: str, capacity: int, num_envs: int = 1, **settings) -> Replay:
    made: Sampler = SAMPLERS[sampler](0)
    return Replay(capacity, made, num_envs=num_envs, **settings)


@samplers
def test_every_number_of_stored_transitions(sampler: str) -> None:
    """ray #7180 (exactly full: IndexError), torchrl #2230 (beyond the stored ones), lerobot PR 918
    (the newest row's successor was not written yet), every capacity and fill."""
    for capacity in (1, 2, 3, 8, 9):
        replay = make(sampler, capacity)
        for k in range(3 * capacity):
            replay.add(numbered(k))
            batch = replay.sample(len(replay))
            oldest = max(0, k + 1 - capacity)
            assert oldest <= batch.obs.min() and batch.obs.max() <= k
            assert torch.equal(batch.next_obs, batch.obs + 0.5)
            replay.update(batch, batch.obs)


def test_once_an_epoch_with_several_environments() -> None:
    """The authors' RR-C took over a random environment index, so that with more than one
    environment transitions were not drawn once an epoch; TD3 #17 asked for just that."""
    replay = make("reshuffle", 60, num_envs=3)
    for k in range(0, 60, 3):
        replay.add(numbered(k, 3))
    drawn = torch.cat([replay.sample(12).obs.clone() for _ in range(10)])
    assert drawn.sort().values.tolist() == sorted([*range(60), *range(60)])


def test_epochs_do_not_end() -> None:
    """torchrl #994: nobody could tell when a sampler was exhausted; #2185: the tail was dropped."""
    replay = make("reshuffle", 7)
    for k in range(7):
        replay.add(numbered(k))
    drawn = torch.cat([replay.sample(3).obs.clone() for _ in range(14)])
    assert (torch.bincount(drawn.long()) == 6).all()


@samplers
def test_global_generators_are_left_alone(sampler: str) -> None:
    """The authors' code and torchrl draw from NumPy's global generator: a call of anybody else's
    changes the run, and a checkpoint cannot restore it."""

    def drawn(seed: int) -> torch.Tensor:
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        replay = make(sampler, 20)
        for k in range(20):
            replay.add(numbered(k))
        state = np.random.get_state
        before = state()[1].copy(), torch.get_rng_state()
        batches = torch.stack([replay.sample(8).index.clone() for _ in range(5)])
        assert (state()[1] == before[0]).all()
        assert torch.equal(torch.get_rng_state(), before[1])
        return batches

    assert torch.equal(drawn(1), drawn(2))


@samplers
def test_a_restored_replay_of_several_environments_goes_on(sampler: str) -> None:
    """tianshou #728: a prioritized vector buffer lost its weights; torchrl #3120: no prioritized
    buffer on loaded storage."""
    ours = make(sampler, 24, num_envs=3)
    for k in range(0, 45, 3):
        ours.add(numbered(k, 3))
        ours.update(ours.sample(3), torch.rand(3, generator=torch.manual_seed(k)))
    theirs = make(sampler, 24, num_envs=3)
    theirs.load_state_dict(ours.state_dict())
    for k in range(45, 90, 3):
        batches = []
        for replay in (ours, theirs):
            replay.add(numbered(k, 3))
            batches.append(replay.sample(5))
            replay.update(batches[-1], torch.rand(5, generator=torch.manual_seed(k)))
        assert torch.equal(batches[0].index, batches[1].index)
        assert torch.equal(batches[0].weight, batches[1].weight)


def test_sequences_stay_in_their_episode() -> None:
    """flashbax PR 51: what did not follow was sampled as if it did; torchrl #2205: slices went from
    one trajectory into the next."""
    replay = make("uniform", 40, num_envs=2)
    for k in range(0, 100, 2):
        step = numbered(k, 2)
        step.truncated[0] = k % 14 == 0
        replay.add(step)
    batch, mask = replay.sequences(500, 5)
    follows = (batch.obs[:, 1:] - batch.obs[:, :-1] == 2) | ~mask[:, 1:]
    assert follows.all()
    ended = (batch.truncated[:, :-1] & mask[:, 1:]).any()
    assert not ended and mask[:, 0].all() and not mask.all()


class Largest(TorchDispatchMode):
    """The most elements that any operator returned or worked on, storage apart."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        made = [t for t in tree_leaves(result) if isinstance(t, torch.Tensor)]
        self.elements = max([self.elements, *(t.numel() for t in made)])
        return result


def test_priority_of_a_sequence() -> None:
    """0.9 of the greatest error and 0.1 of the mean, after burn-in and before the end."""
    mask = torch.tensor([[True] * 4, [True, True, True, False], [True, False, False, False]])
    errors = torch.tensor([[9.0, -4.0, 1.0, 1.0], [9.0, 1.0, -3.0, 9.0], [9.0, 9.0, 9.0, 9.0]])
    pieces = Sequences(None, mask)  # type: ignore[arg-type]
    expected = torch.tensor([0.9 * 4 + 0.1 * 2, 0.9 * 3 + 0.1 * 2, 0.0])
    torch.testing.assert_close(pieces.priority(errors, burn_in=1), expected)
    torch.testing.assert_close(pieces.priority(errors, share=0.0)[1], torch.tensor(13 / 3))
    for burn_in in (-1, 4):
        with pytest.raises(ValueError, match=r"burn_in must be in \[0, 4\), pieces are 4 long"):
            pieces.priority(errors, burn_in=burn_in)


def test_sequences_of_great_errors_come_more_often() -> None:
    replay = make("prioritized", 64)
    for k in range(64):
        replay.add(numbered(k))
    for _ in range(20):
        pieces = replay.sequences(64, 4)
        replay.update(pieces.batch, pieces.priority((pieces.batch.reward == 40) * 1.0))
    starts = replay.sequences(200, 4).batch.reward[:, 0]
    assert ((starts >= 37) & (starts <= 40)).float().mean() > 0.5  # of four in 64


def test_sequences_cost_what_they_return() -> None:
    """torchrl #2422, #2431, #2669: a sample of slices looked at all that is stored, in the end for
    1.65 s."""
    replay = make("uniform", 100_000, num_envs=1000)
    for k in range(100):
        replay.add(numbered(1000 * k, 1000))
    with Largest() as largest:
        replay.sequences(32, 8)
    assert largest.elements <= 32 * 8 * replay.nbytes / replay.capacity


def test_handing_out_stacks_does_not_keep_them() -> None:
    """openai/baselines #295, #896, #943, tianshou #225: stacks that are put together are cached,
    and a replay of a million frames grows to 30 to 56 GB while one samples."""
    replay = make("uniform", 2_000, frame_stack=4)
    obs = torch.zeros(1, 4, 84, 84, dtype=torch.uint8)
    no = torch.zeros(1, dtype=torch.bool)
    for k in range(2_000):
        new = torch.cat([obs[:, 1:], torch.full((1, 1, 84, 84), k % 256, dtype=torch.uint8)], 1)
        replay.add(Step(obs, no, torch.zeros(1), new, no, no))
        obs = new
    replay.sample(32)
    before = psutil.Process().memory_info().rss
    for _ in range(500):
        replay.sample(32)
    assert psutil.Process().memory_info().rss - before < 0.2 * replay.nbytes


@given(
    mean=st.floats(-50, 50), log_std=st.floats(-20, 2), noise=st.floats(-6, 6), n=st.integers(1, 3)
)
def test_log_probabilities_are_finite(mean: float, log_std: float, noise: float, n: int) -> None:
    """ray #14878, torchrl #2199 and others: NaN from inverting tanh, or from log(1 - tanh**2)."""
    parameters = [torch.full((1, n), x, requires_grad=True) for x in (mean, log_std)]
    action, log_prob = squashed_normal(*parameters, torch.full((1, n), noise), None)
    assert torch.isfinite(action).all() and torch.isfinite(log_prob).all()
    for gradient in torch.autograd.grad(log_prob.sum() + action.sum(), parameters):
        assert torch.isfinite(gradient).all()
