"""Random reshuffling: exact epochs, the law while filling, and the counts over a lifetime."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlsuite.buffers import ReshuffleSampler, UniformSampler


def filled(capacity: int, seed: int = 0) -> ReshuffleSampler:
    sampler = ReshuffleSampler(seed)
    sampler.prepare(capacity, torch.device("cpu"))
    sampler.add(range(capacity))
    return sampler


@pytest.mark.parametrize("batch", [1, 7, 32, 1000, 1500])
def test_every_slot_once_per_epoch(batch: int) -> None:
    """T1: after any whole number of epochs every slot was drawn exactly that often."""
    capacity, epochs = 1000, 21
    sampler = filled(capacity)
    draws = torch.cat(
        [sampler.sample(batch)[0] for _ in range(math.ceil(capacity * epochs / batch))]
    )
    for k in (1, 2, 7, epochs):
        counts = torch.bincount(draws[: k * capacity], minlength=capacity)
        assert (counts == k).all()


def rejection_counts(rng: np.random.Generator, capacity: int, start: int) -> np.ndarray:
    """The paper's form: permute all slots of the ring, skip those not yet filled."""
    queue: list[int] = []
    counts = np.zeros(capacity, int)
    for size in range(start, capacity + 1):
        for _ in range(2):
            while True:
                if not queue:
                    queue = rng.permutation(capacity).tolist()
                slot = queue.pop()
                if slot < size:
                    break
            counts[slot] += 1
    return counts


def insertion_counts(seed: int, capacity: int, start: int) -> np.ndarray:
    sampler = filled(start, seed)
    counts = np.zeros(capacity, int)
    for size in range(start, capacity + 1):
        sampler.add(range(size - 1, size))
        for slot in sampler.sample(2)[0].tolist():
            assert slot < size
            counts[slot] += 1
    return counts


def test_filling_follows_the_law_of_the_rejection_form() -> None:
    """T2: per-slot means and variances while the ring fills, 20,000 runs of each form.

    The standard error of a mean is at most 0.006 and of a variance 0.01, so that 0.03 fails by
    chance with a probability below 1e-3 for all 24 comparisons together.
    """
    runs, capacity, start = 20_000, 12, 3
    rng = np.random.default_rng(1)
    theirs = np.stack([rejection_counts(rng, capacity, start) for _ in range(runs)])
    ours = np.stack([insertion_counts(seed, capacity, start) for seed in range(runs)])
    assert np.abs(theirs.mean(0) - ours.mean(0)).max() <= 0.03
    assert np.abs(theirs.var(0) - ours.var(0)).max() <= 0.03


def lifetime_counts(draw, adds: int = 12_000, capacity: int = 1000, every: int = 4) -> np.ndarray:
    """How often items 2000 to 11000 were drawn between being written and overwritten."""
    holder = np.arange(capacity)
    counts = np.zeros(adds, int)
    for item in range(capacity, adds):
        holder[item % capacity] = item
        if item % every == 0:
            np.add.at(counts, holder[draw(item % capacity)], 1)
    return counts[2000:11_000]


def test_counts_over_a_lifetime() -> None:
    """T3: eight draws a lifetime: 7, 8 or 9 with variance 1/3; with replacement variance 8."""
    ours = filled(1000)

    def draw_ours(slot: int) -> np.ndarray:
        ours.add(range(slot, slot + 1))
        return ours.sample(32)[0].numpy()

    reshuffled = lifetime_counts(draw_ours)
    assert set(reshuffled) == {7, 8, 9}
    assert reshuffled.mean() == pytest.approx(8, abs=0.03)
    assert reshuffled.var() == pytest.approx(1 / 3, abs=0.05)

    uniform = UniformSampler()
    uniform.prepare(1000, torch.device("cpu"))
    uniform.add(range(1000))
    replaced = lifetime_counts(lambda slot: uniform.sample(32)[0].numpy())
    assert replaced.var() == pytest.approx(8, abs=0.6)
    assert replaced.var() / reshuffled.var() > 15

    rng = np.random.default_rng(0)
    in_batch = lifetime_counts(lambda slot: rng.permutation(1000)[:32])
    assert in_batch.var() == pytest.approx(7.84, abs=0.6)


def test_order_is_random() -> None:
    """T4: first positions are uniform (chi-square, 9 df, p > 1e-4); epochs do not correlate."""
    sampler = filled(10)
    epochs = np.stack([sampler.sample(10)[0].numpy() for _ in range(5000)])
    counts = np.bincount(epochs[:, 0], minlength=10)
    chi_square = ((counts - 500) ** 2 / 500).sum()
    assert chi_square < 33.72  # the 1 - 1e-4 quantile of 9 degrees of freedom
    place = np.argsort(epochs, axis=1)
    correlation = np.corrcoef(place[:-1].ravel(), place[1:].ravel())[0, 1]
    assert abs(correlation) < 0.05


@given(
    moves=st.lists(st.tuples(st.sampled_from(["add", "draw", "save"]), st.integers(1, 40))),
    seed=st.integers(0, 2**32),
)
def test_saving_never_changes_the_stream(moves: list[tuple[str, int]], seed: int) -> None:
    """Saving at any moment, and going on from what was saved, leaves every later draw as it was."""
    capacity, written = 100, 0
    plain, saved = ReshuffleSampler(seed), ReshuffleSampler(seed)
    for move, n in [("add", 1), *moves, ("draw", 300)]:
        if move == "add":
            slots = range(written % capacity, min(written % capacity + n, capacity))
            written += len(slots)
            plain.add(slots)
            saved.add(slots)
        elif move == "draw":
            assert torch.equal(plain.sample(n)[0], saved.sample(n)[0])
        else:
            state = saved.state_dict()
            saved = ReshuffleSampler(seed + 1)
            saved.load_state_dict(state)


@given(
    moves=st.lists(st.tuples(st.booleans(), st.integers(1, 50)), min_size=1),
    seed=st.integers(0, 100),
)
def test_never_an_empty_slot_and_counts_stay_together(
    moves: list[tuple[bool, int]], seed: int
) -> None:
    """Slots present from the start are drawn equally often, give or take one, at any moment."""
    sampler = filled(5, seed)
    size, counts = 5, np.zeros(200, int)
    for grow, n in moves:
        if grow and size + n <= 200:
            sampler.add(range(size, size + n))
            size += n
        else:
            slots = sampler.sample(n)[0].numpy()
            assert slots.max() < size
            np.add.at(counts, slots, 1)
            assert counts[:5].max() - counts[:5].min() <= 1


def test_empty_sampler_says_so() -> None:
    for sampler in (ReshuffleSampler(), UniformSampler()):
        with pytest.raises(ValueError, match="empty replay"):
            sampler.sample(1)


def test_uniform_is_uniform() -> None:
    """Chi-square with 99 df, p > 1e-4."""
    sampler = UniformSampler(3)
    sampler.prepare(100, torch.device("cpu"))
    sampler.add(range(100))
    counts = torch.bincount(sampler.sample(100_000)[0], minlength=100).double()
    assert float(((counts - 1000) ** 2 / 1000).sum()) < 158.6
