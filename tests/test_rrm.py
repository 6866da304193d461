"""RR-M, dense and lazy: counts held to their expectation (arXiv 2503.02269)."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from torch import Tensor

from rlsuite.buffers import (
    DenseRRMSampler,
    ImportanceWeights,
    LazyRRMSampler,
    PrioritizedSampler,
    Priority,
)
from rlsuite.samplers import SAMPLERS, Context, RRMConfig

RRM: TypeAlias = DenseRRMSampler | LazyRRMSampler
Make: TypeAlias = Callable[..., RRM]
CPU = torch.device("cpu")
# The error itself is the weight.
PLAIN = Priority(1.0, 0.0, 1e-12)
BOTH = pytest.mark.parametrize("make", [DenseRRMSampler, LazyRRMSampler])


def filled(make: Make, weights: Tensor, **options: object) -> RRM:
    sampler = make(0, priority=PLAIN, **options)
    sampler.prepare(len(weights), CPU)
    sampler.add(range(len(weights)))
    sampler.update(torch.arange(len(weights)), weights)
    return sampler


def by_rank(count: int, exponent: float) -> Tensor:
    return torch.arange(1, count + 1, dtype=torch.float64) ** -exponent


@BOTH
def test_counts_follow_their_expectation(make: Make) -> None:
    weights = by_rank(1000, 0.5)
    sampler = filled(make, weights)
    for _ in range(4000):
        slots, _ = sampler.sample(32)
        assert len(slots.unique()) == 32
        assert float((sampler.actual - sampler.expected).max()) < 1
    actual, expected = sampler.actual, sampler.expected
    assert float(actual.sum()) == 4000 * 32
    torch.testing.assert_close(actual.sum(), expected.sum(), rtol=1e-9, atol=0)
    torch.testing.assert_close(expected, 4000 * 32 * weights / weights.sum())
    assert float((actual - expected).square().mean()) < 0.6
    torch.testing.assert_close(actual[:3] / expected[:3], torch.ones(3).double(), atol=2e-3, rtol=0)


def test_what_is_not_masked_does_not_follow() -> None:
    weights = by_rank(1000, 0.5)
    for draw, least in (("with_replacement", 80), ("stratified", 60)):
        sampler = PrioritizedSampler(0, priority=PLAIN, draw=draw)  # type: ignore[arg-type]
        sampler.prepare(1000, CPU)
        sampler.add(range(1000))
        sampler.update(torch.arange(1000), weights)
        ahead = -4000 * 32 * weights / weights.sum()
        for _ in range(4000):
            ahead += torch.bincount(sampler.sample(32)[0], minlength=1000)
        assert float(ahead.square().mean()) > least


@pytest.mark.parametrize("cap", [None, 0.3, 2.0])
@pytest.mark.parametrize("repeats", [False, True])
def test_lazy_masks_are_the_dense_ones(repeats: bool, cap: float | None) -> None:
    rng, count, batch = np.random.default_rng(1), 300, 16
    draws = torch.Generator().manual_seed(1)
    weights = torch.from_numpy(rng.random(count) ** 3 + 1e-3)
    dense = filled(DenseRRMSampler, weights, deficit_cap=cap)
    lazy = filled(LazyRRMSampler, weights, deficit_cap=cap)
    batches = 3000 if cap is None else 600
    masked = full = 0
    for _ in range(batches):
        assert torch.equal(dense.masked(), lazy.masked())
        masked += int(dense.masked().sum())
        free = dense.priorities.sums.values * torch.where(dense.masked(), 1e-8, 1.0)
        slots = torch.multinomial(free, batch, replacement=repeats, generator=draws)
        new = torch.from_numpy(rng.random(batch) ** 3 + 1e-3)
        for sampler in (dense, lazy):
            sampler.count(slots)
            sampler.update(slots, new)
        assert torch.equal(dense.actual, lazy.actual)
        torch.testing.assert_close(dense.expected, lazy.expected, atol=1e-9, rtol=0)
        full += int((dense.expected - dense.actual > (cap or math.inf) - 1e-9).sum())
    assert 0.1 < masked / batches / count < 0.9
    assert (cap is None) == (full < batches)


@BOTH
@pytest.mark.parametrize("draw", ["distinct", "stratified"])
def test_an_overwritten_slot_begins_anew_and_sums_stay_equal(make: Make, draw: str) -> None:
    """T15. The authors' code sets A = E = 0 in the slot after the one that was written."""
    rng, count = np.random.default_rng(3), 200
    sampler = filled(make, torch.ones(count, dtype=torch.float64), draw=draw)
    drops = 0.0
    for step in range(2000):
        slot = 4 * step % count
        drops += float((sampler.expected - sampler.actual)[slot : slot + 4].abs().sum())
        sampler.add(range(slot, slot + 4))
        fresh = slice(slot, slot + 4)
        assert not sampler.masked()[fresh].any()
        # The lazy form owes what the slots leave behind until the next draw.
        owed = sampler._carry if isinstance(sampler, LazyRRMSampler) else 0.0
        total = float(sampler.actual.sum())
        assert float(sampler.expected.sum()) + owed == pytest.approx(total, rel=1e-9, abs=1e-9)
        assert not sampler.actual[fresh].any() and not sampler.expected[fresh].any()
        slots, _ = sampler.sample(16)
        if isinstance(sampler, LazyRRMSampler):
            assert sampler._carry == 0.0
        total = float(sampler.actual.sum())
        assert float(sampler.expected.sum()) == pytest.approx(total, rel=1e-9)
        sampler.update(slots, torch.from_numpy(rng.random(16) ** 2 + 0.01))
    assert drops > 100


@BOTH
def test_what_overwritten_slots_leave_is_spread_by_its_sign(make: Make) -> None:
    """Two drawn slots go with A > E: the others have expected more than they were drawn."""
    sampler = filled(make, torch.ones(4, dtype=torch.float64))
    sampler.count(torch.tensor([0, 1]))
    assert sampler.expected.tolist() == [0.5] * 4
    sampler.add(range(2))
    # Sum of A is 0 now, of E 1 by the two left: too much by 1, so the next 2 add 1 in all.
    sampler.masked()
    sampler.count(torch.tensor([2, 3]))
    assert float(sampler.actual.sum()) == 2
    assert float(sampler.expected.sum()) == pytest.approx(2)


@BOTH
def test_a_dropped_slot_leaves_no_counts(make: Make) -> None:
    """The sum of E has to be that of A over the stored slots, also when it is written again."""
    sampler = filled(make, torch.arange(1.0, 5.0, dtype=torch.float64))
    sampler.count(torch.tensor([2, 3, 3]))
    assert sampler.expected.tolist() == pytest.approx([0.3, 0.6, 0.9, 1.2])
    sampler.drop(range(2))
    assert not sampler.actual[:2].any() and not sampler.expected[:2].any()
    sampler.count(torch.tensor([2, 3]))
    assert sampler.actual.tolist() == [0, 0, 2, 3]
    # The draws that are left, 5, by priority.
    assert sampler.expected.tolist() == pytest.approx([0, 0, 15 / 7, 20 / 7])
    sampler.add(range(2))  # with the greatest priority, 4 of now 15
    assert not sampler.masked()[:2].any()
    sampler.count(torch.tensor([0, 1]))
    assert sampler.actual.tolist() == [1, 1, 2, 3]
    more = [8 / 15, 8 / 15, 15 / 7 + 6 / 15, 20 / 7 + 8 / 15]
    assert sampler.expected.tolist() == pytest.approx(more)


def test_lazy_is_dense_after_drops() -> None:
    """Expected counts in proportion to priorities are scaled alike by a factor and by growth."""
    rng, draws, count = np.random.default_rng(2), torch.Generator().manual_seed(2), 60
    weights = torch.from_numpy(rng.random(count) + 0.1)
    both = filled(DenseRRMSampler, weights), filled(LazyRRMSampler, weights)
    dense, lazy = both
    masked = 0
    for step in range(200):
        if step % 10 == 0 and step < 100:
            for sampler in both:
                sampler.drop(range(step // 2, step // 2 + 5))
        if step == 100:
            for sampler in both:
                sampler.add(range(50))
        free = torch.where(dense.masked(), 1e-8, 1.0) * dense.priorities.sums.values
        lazy.masked()
        slots = torch.multinomial(free, 6, generator=draws)
        for sampler in both:
            sampler.count(slots)
        assert torch.equal(dense.actual, lazy.actual)
        torch.testing.assert_close(dense.expected, lazy.expected, atol=1e-9, rtol=0)
        assert torch.equal(dense.masked(), lazy.masked())
        masked += int(dense.masked().sum())
    assert 1000 < masked < 8000


@BOTH
@pytest.mark.parametrize("normalize", ["none", "batch", "buffer"])
def test_importance_weights_are_of_the_unmasked_priorities(make: Make, normalize: Any) -> None:
    """Of four slots three are drawn: now and then a masked one too."""
    priorities = torch.arange(1.0, 5.0, dtype=torch.float64)
    rule = ImportanceWeights(0.5, normalize=normalize)
    sampler = filled(partial(make, weights=rule), priorities)
    exact = (4 * priorities / 10) ** -0.5
    drawn_masked = 0
    for _ in range(20):
        masked = sampler.masked().clone()
        slots, weight = sampler.sample(3)
        drawn_masked += int(masked[slots].sum())
        unit = {"none": 1.0, "batch": exact[slots].max(), "buffer": exact.max()}[normalize]
        assert weight is not None
        torch.testing.assert_close(weight, (exact[slots] / unit).float())
    assert 0 < drawn_masked < 60


@BOTH
def test_an_item_that_no_batch_can_satisfy_is_in_all_of_them(make: Make) -> None:
    weights = torch.ones(200, dtype=torch.float64)
    weights[0] = 199 / 3  # a quarter of the mass: 4 of a batch of 16
    sampler = filled(make, weights)
    hits = 0
    for _ in range(1000):
        slots, _ = sampler.sample(16)
        assert len(slots.unique()) == 16
        hits += int((slots == 0).sum())
    assert hits >= 990
    assert float(sampler.expected[0] - sampler.actual[0]) == pytest.approx(4000 - hits)


@BOTH
@pytest.mark.parametrize("heavy", [1, 5])
def test_the_cap_bounds_deficits_and_keeps_sums_equal(make: Make, heavy: int) -> None:
    weights = torch.ones(200, dtype=torch.float64)
    weights[:heavy] = 199 / 3
    sampler = filled(make, weights, deficit_cap=4.0)
    hits = 0
    for _ in range(2000):
        hits += int((sampler.sample(16)[0] == 0).sum())
        assert float((sampler.expected - sampler.actual).max()) <= 4 + 1e-9
    assert hits >= 1980
    assert float(sampler.expected.sum()) == pytest.approx(2000 * 16, rel=1e-9)


@BOTH
def test_the_cap_keeps_sums_equal_while_priorities_change(make: Make) -> None:
    """Where a slot's share is cut, others may reach the cap by it, and theirs is shared again."""
    rng = np.random.default_rng(5)
    sampler = filled(make, torch.from_numpy(rng.random(60) ** 4 + 1e-3), deficit_cap=1.0)
    for _ in range(2000):
        slots, _ = sampler.sample(8)
        total = float(sampler.actual.sum())
        assert float(sampler.expected.sum()) == pytest.approx(total, abs=1e-7)
        assert float((sampler.expected - sampler.actual).max()) <= 1 + 1e-9
        sampler.update(slots, torch.from_numpy(rng.random(8) ** 4 + 1e-3))


def test_a_stratified_slot_that_comes_twice_counts_twice() -> None:
    weights = torch.ones(20, dtype=torch.float64)
    weights[0] = 20.0
    for make in (DenseRRMSampler, LazyRRMSampler):
        sampler = filled(make, weights, draw="stratified")
        for _ in range(300):
            sampler.sample(8)
        assert float(sampler.actual.sum()) == 2400
        assert float(sampler.expected.sum()) == pytest.approx(2400)


@BOTH
@pytest.mark.parametrize("cap", [None, 0.5])
@pytest.mark.parametrize("draw", ["distinct", "stratified"])
def test_saved_and_loaded_it_goes_on(make: Make, draw: str, cap: float | None) -> None:
    """T22: counts, masks and priorities; also with new slots that have no weight yet."""

    def fresh() -> RRM:
        weights = ImportanceWeights(0.4, 1000)
        sampler = make(5, priority=Priority(), weights=weights, draw=draw, deficit_cap=cap)
        sampler.prepare(120, CPU)
        return sampler

    def turn(sampler: RRM, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        slots, weight = sampler.sample(8)
        sampler.update(slots, torch.rand(8, generator=torch.manual_seed(k)))
        sampler.add(range(k % 120, k % 120 + 1))
        return slots, weight

    ours, theirs = fresh(), fresh()
    ours.add(range(120))
    for k in range(200):
        turn(ours, k)
    theirs.load_state_dict(ours.state_dict())
    for k in range(200, 300):
        if k % 7 == 0:
            ours.state_dict()
        (a, v), (b, w) = turn(ours, k), turn(theirs, k)
        assert torch.equal(a, b) and torch.equal(v, w)


def test_configs_get_the_form_that_suits_the_device() -> None:
    build, config = SAMPLERS["rrm"].build, RRMConfig(deficit_cap=4.0)
    assert isinstance(build(config, Context(0, 1, is_cpu=True)), LazyRRMSampler)
    assert isinstance(build(config, Context(0, 1, is_cpu=False)), DenseRRMSampler)
