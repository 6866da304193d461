"""Sum structures: exact inverse, no slot of weight zero, no drift, duplicates; every form alike."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlsuite.buffers.sum_tree import TreeSums
from rlsuite.buffers.sums import BlockSums, FlatSums, make_sums
from rlsuite.buffers.sums import Sums as Form

CPU = torch.device("cpu")
FORMS: dict[str, Callable[[int], Form[Any]]] = {
    "tree": TreeSums,
    "flat": lambda capacity: FlatSums(capacity, CPU),
    "blocks": lambda capacity: BlockSums(capacity, CPU),
}
forms = pytest.mark.parametrize("form", FORMS)


class Sums:
    """A form, spoken to in tensors."""

    def __init__(self, form: Form[Any]) -> None:
        self.form = form

    def set(self, slots: Tensor, values: Tensor) -> None:
        self.form.set(self.form.array(slots), self.form.array(values))

    def revise(self, slots: Tensor, values: Tensor) -> None:
        self.form.revise(self.form.array(slots), self.form.array(values))

    def find(self, fraction: Tensor) -> Tensor:
        return self.form.tensor(self.form.find(self.form.array(fraction)))

    def find_distinct(self, n: int, generator: torch.Generator) -> Tensor:
        return self.form.tensor(self.form.find_distinct(n, generator))

    @property
    def values(self) -> Tensor:
        return self.form.tensor(self.form.values)

    @property
    def total(self) -> Tensor:
        return self.form.tensor(self.form.total).sum()


def filled(form: str, values: Tensor) -> Sums:
    sums = Sums(FORMS[form](len(values)))
    sums.set(torch.arange(len(values)), values)
    return sums


@forms
@pytest.mark.parametrize("n", [1, 2, 3, 5, 63, 64, 65, 1000, 1025, 4097, 100_003])
def test_the_middle_of_a_slot_finds_it(form: str, n: int) -> None:
    """T6: any capacity, not powers of two alone (CleanRL's tree gave wrong indices there, #546)."""
    values = torch.rand(n, dtype=torch.float64, generator=torch.manual_seed(n)) + 0.1
    sums = filled(form, values)
    middle = (values.cumsum(0) - values / 2) / values.sum()
    assert torch.equal(sums.find(middle), torch.arange(n))
    assert float(sums.total) == pytest.approx(float(values.sum()), rel=1e-12)


@forms
@pytest.mark.parametrize("n", [2, 65, 1000, 4097])
def test_a_weight_of_zero_is_never_found(form: str, n: int) -> None:
    """T7: u = 0, the total, twice the total, and 1e5 uniforms, half the weights zero.

    Float32 trees return such slots by rounding, and with them empty transitions (flashbax #52,
    Trajectories #59, Core PR #83: with weights of zero, which ended the learning) or slots beyond
    the stored ones (torchrl #2230).
    """
    rng = torch.manual_seed(n)
    values = torch.rand(n, dtype=torch.float64, generator=rng) * 10.0 ** torch.randint(
        -12, 3, (n,), generator=rng
    )
    for zeros in (torch.arange(n) % 2 == 0, torch.arange(n) % 2 == 1, torch.arange(n) > n // 2):
        sums = filled(form, torch.where(zeros, 0.0, values))
        edges = torch.tensor([0.0, 1.0, 2.0, 1 - 2**-53], dtype=torch.float64)
        uniform = torch.rand(100_000, dtype=torch.float64, generator=rng)
        found = sums.find(torch.cat([edges, uniform]))
        assert not zeros[found].any()


@pytest.mark.parametrize("form", ["flat", "blocks"])
def test_a_running_sum_that_rises_where_there_is_nothing(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device adds in parallel: the sum may rise, or fall, by a rounding error at a zero."""
    n = 200
    zeros = torch.arange(n) % 3 > 0
    sums = filled(form, torch.where(zeros, 0.0, 1.0).double())
    exact = Tensor.cumsum
    noise = 0.01 * torch.rand(n, dtype=torch.float64, generator=torch.manual_seed(0))
    monkeypatch.setattr(
        Tensor, "cumsum", lambda self, dim: exact(self, dim) + noise[: self.shape[dim]]
    )
    uniform = torch.rand(20_000, dtype=torch.float64, generator=torch.manual_seed(1))
    assert not zeros[sums.find(uniform)].any()


@forms
def test_the_last_slot_counts(form: str) -> None:
    """stable-baselines #941: the last item was left out of the mass; ray #7180: a full ring."""
    sums = filled(form, torch.tensor([1.0, 1.0, 2.0], dtype=torch.float64))
    fraction = torch.tensor([0.0, 0.24, 0.26, 0.49, 0.51, 0.999999], dtype=torch.float64)
    assert sums.find(fraction).tolist() == [0, 0, 1, 1, 2, 2]


@forms
def test_sums_do_not_drift(form: str) -> None:
    """T8: 1e5 single updates and 2,000 batches with duplicates: root - sum of leaves <= 1e-12.

    Trees that add differences drift (Dopamine's; the authors' code of ER-RR), to negative sums in
    flashbax PR 51.
    """
    n, rng = 1000, torch.manual_seed(0)
    sums = filled(form, torch.rand(n, dtype=torch.float64, generator=rng))
    singles = 100_000 if form == "tree" else 2_000
    slots = torch.randint(n, (singles, 1), generator=rng)
    values = 10 ** (8 * torch.rand(singles, 1, dtype=torch.float64, generator=rng) - 4)
    for slot, value in zip(slots, values, strict=True):
        sums.set(slot, value)
    for _ in range(2000):
        slots = torch.randint(n, (32,), generator=rng)
        sums.set(slots, torch.rand(32, dtype=torch.float64, generator=rng))
    exact = sums.values.sum()
    assert abs(float(sums.total - exact)) <= 1e-12 * float(exact)


@forms
@settings(max_examples=25)
@given(data=st.data(), n=st.integers(1, 200))
def test_the_greatest_of_duplicates_stays(form: str, data: st.DataObject, n: int) -> None:
    """T9: as one after the other with the rule of the greatest, in 20 repeats in other orders."""
    slots = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=40))
    numbers = st.floats(0, 100, allow_subnormal=False)
    values = data.draw(st.lists(numbers, min_size=len(slots), max_size=len(slots)))
    want = torch.full((n,), 0.5, dtype=torch.float64)
    for slot in set(slots):
        want[slot] = max(v for s, v in zip(slots, values, strict=True) if s == slot)
    index, weights = torch.tensor(slots), torch.tensor(values, dtype=torch.float64)
    rng = torch.manual_seed(n)
    for _ in range(20):
        order = torch.randperm(len(slots), generator=rng)
        sums = filled(form, torch.full((n,), 0.5, dtype=torch.float64))
        sums.set(index[order], weights[order])
        assert torch.equal(sums.values, want)
        assert float(sums.total) == pytest.approx(float(want.sum()), rel=1e-12)


@forms
def test_revising_leaves_zeros_alone(form: str) -> None:
    sums = filled(form, torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64))
    sums.revise(torch.tensor([0, 1, 1]), torch.tensor([5.0, 7.0, 8.0], dtype=torch.float64))
    assert sums.values.tolist() == [5.0, 0.0, 2.0]
    assert float(sums.total) == 7.0


@forms
def test_distinct_draws_follow_the_law_of_drawing_without_putting_back(form: str) -> None:
    """Two of three slots, weights 1, 2, 5: every ordered pair within 5 standard errors."""
    weights = [1.0, 2.0, 5.0]
    sums = filled(form, torch.tensor(weights, dtype=torch.float64))
    rng, counts, runs = torch.manual_seed(1), torch.zeros(3, 3), 20_000
    for _ in range(runs):
        a, b = sums.find_distinct(2, rng).tolist()
        counts[a, b] += 1
    for a in range(3):
        for b in range(3):
            p = 0.0 if a == b else weights[a] / 8 * weights[b] / (8 - weights[a])
            assert abs(float(counts[a, b]) / runs - p) <= 5 * (p * (1 - p) / runs) ** 0.5
    assert sums.values.tolist() == weights and float(sums.total) == 8.0


@forms
def test_the_least_weight_is_not_zero(form: str) -> None:
    sums = filled(form, torch.tensor([3.0, 0.0, 2.0], dtype=torch.float64)).form
    assert sums.least().tolist() in (2.0, [2.0])


@forms
def test_sizes_are_whole(form: str) -> None:
    """An int or half precision error counts in float64, as the sums do; one with a gradient too."""
    sums = FORMS[form](3)
    errors = torch.tensor([-0.1, 2.0, -3.0])
    for error in (errors, errors.half(), errors.int(), errors.clone().requires_grad_()):
        sizes = sums.tensor(sums.sizes(error))
        assert torch.equal(sizes, error.detach().double().abs())


def test_what_is_no_weight_is_refused() -> None:
    """A NaN error would take the whole tree with it."""
    sums = filled("tree", torch.ones(4, dtype=torch.float64))
    for bad in (float("nan"), float("inf"), -1.0):
        with pytest.raises(ValueError, match="priority 1 of the batch is negative or no number"):
            sums.set(torch.tensor([0, 1]), torch.tensor([2.0, bad], dtype=torch.float64))
        assert sums.values.tolist() == [1.0] * 4


def test_the_form_suits_the_device() -> None:
    """None is an extension that has to be built for a version of torch (torchrl #3508)."""
    meta = torch.device("meta")
    assert isinstance(make_sums(10, CPU), TreeSums)
    assert isinstance(make_sums(1 << 22, meta), FlatSums)
    assert isinstance(make_sums((1 << 22) + 1, meta), BlockSums)
