"""RR-M: counts follow their expectation, both forms mask alike, recycling, saturation, saving."""

import pytest
import torch

from rlsuite.buffers import DenseRRMSampler, ImportanceWeights, LazyRRMSampler, Priority
from rlsuite.types import Sampler

CPU = torch.device("cpu")
FORMS = [DenseRRMSampler, LazyRRMSampler]
forms = pytest.mark.parametrize("form", FORMS)
EXACT = Priority(1.0, 0.0, 1e-9)


def full(form: type, errors: torch.Tensor, **settings) -> Sampler:
    sampler = form(0, priority=EXACT, **settings)
    sampler.prepare(len(errors), CPU)
    sampler.add(range(len(errors)))
    sampler.update(torch.arange(len(errors)), errors)
    return sampler


@forms
def test_counts_follow_their_expectation(form: type) -> None:
    """T14: priorities rank**-0.5, 4,000 batches of 32 from 1,000."""
    errors = torch.arange(1, 1001, dtype=torch.float64) ** -0.5
    sampler = full(form, errors)
    for _ in range(4000):
        slots = sampler.sample(32)[0]
        assert len(slots.unique()) == 32
        assert (sampler.actual - sampler.expected).max() < 1
    total = float(sampler.actual.sum())
    assert total == 4000 * 32
    assert abs(float(sampler.expected.sum()) - total) <= 1e-6 * total
    assert ((sampler.actual - sampler.expected) ** 2).mean() < 0.6
    ratio = (sampler.actual / sampler.expected)[:3]
    assert (ratio - 1).abs().max() < 0.002


def test_both_forms_mask_alike() -> None:
    """T15: the same masks, batch by batch, when the same slots are drawn; priorities change too."""
    rng = torch.manual_seed(0)
    errors = torch.rand(300, generator=rng) ** 2 + 1e-3
    dense, lazy = (full(form, errors) for form in FORMS)
    for _ in range(3000):
        masks = dense.masked(), lazy.masked()
        assert torch.equal(*masks)
        slots = dense.sample(8)[0]
        lazy.count(slots)
        error = torch.rand(8, generator=rng) + 1e-3
        for sampler in (dense, lazy):
            sampler.update(slots, error)
    assert torch.equal(dense.actual, lazy.actual)
    assert torch.allclose(dense.expected, lazy.expected, rtol=1e-9)
    assert 30 < dense.masked().sum() < 270


@forms
def test_recycling(form: type) -> None:
    """T15: overwritten slots begin at A = E = 0 and can be drawn at once; the sums stay equal.

    The lazy form gives what an overwritten slot was owed to the others with the next batch.
    """
    sampler = full(form, torch.rand(200, generator=torch.manual_seed(0)) + 0.1)
    for k in range(2000):
        slots = sampler.sample(16)[0]
        sampler.update(slots, torch.rand(16, generator=torch.manual_seed(k)) + 0.1)
        start = 4 * k % 200
        sampler.add(range(start, start + 4))
        masked = sampler.masked()
        assert not masked[start : start + 4].any()
        assert (sampler.actual[start : start + 4] == 0).all()
        assert (sampler.expected[start : start + 4].abs() < 1e-12).all()
        actual, expected = float(sampler.actual.sum()), float(sampler.expected.sum())
        carry = sampler._carry if form is LazyRRMSampler else 0.0
        assert actual == pytest.approx(expected + carry, rel=1e-9)


@forms
def test_saturation(form: type) -> None:
    """T15: a slot due four times a batch comes in each, once; its deficit is capped."""
    errors = torch.ones(100)
    errors[7] = 99.0 * 4 / (16 - 4)
    for cap in (None, 4.0):
        sampler = full(form, errors, deficit_cap=cap)
        drawn = 0
        for _ in range(500):
            slots = sampler.sample(16)[0].tolist()
            assert slots.count(7) <= 1
            drawn += 7 in slots
        assert drawn >= 495
        deficit = float((sampler.expected - sampler.actual)[7])
        assert deficit > 1000 if cap is None else deficit <= 4.0 + 1e-9


@forms
@pytest.mark.parametrize("draw", ["distinct", "stratified"])
def test_saved_and_loaded_it_goes_on(form: type, draw: str) -> None:
    """T22: counts, masks and priorities; also with new slots that have no weight yet."""

    def fresh() -> Sampler:
        weights = ImportanceWeights(0.4, 1000)
        sampler = form(5, priority=Priority(), weights=weights, draw=draw)
        sampler.prepare(120, CPU)
        return sampler

    def turn(sampler: Sampler, k: int) -> tuple[torch.Tensor, torch.Tensor]:
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


@forms
def test_stratified_draws_count_every_time(form: type) -> None:
    """The authors' code counts a slot that comes twice once, so that the mask weakens with time."""
    errors = torch.arange(1, 101, dtype=torch.float64) ** -1.0
    sampler = full(form, errors, draw="stratified")
    for _ in range(500):
        sampler.sample(32)
    assert float(sampler.actual.sum()) == 500 * 32
    assert float(sampler.expected.sum()) == pytest.approx(500 * 32, rel=1e-9)


def test_the_lazy_form_needs_the_cpu() -> None:
    with pytest.raises(ValueError, match="LazyRRMSampler works on the CPU alone"):
        LazyRRMSampler().prepare(10, torch.device("meta"))
