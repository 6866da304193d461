"""Prioritized samplers: their laws, weights, new slots, annealing, saving."""

import math
from collections.abc import Callable
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sac_cases import OBS
from torch import Tensor
from torch.utils._pytree import tree_leaves

from rlsuite.agents.dqn import DQN, DQNConfig
from rlsuite.buffers import (
    DenseRRMSampler,
    ImportanceWeights,
    LazyRRMSampler,
    PrioritizedSampler,
    Priority,
    RankSampler,
    RecencySampler,
    Replay,
    lap,
)
from rlsuite.buffers.prioritized import Draw, Floats, importance
from rlsuite.buffers.sums import FlatSums
from rlsuite.types import Step

CPU = torch.device("cpu")
PRIORITIZED = [PrioritizedSampler, RankSampler, DenseRRMSampler, LazyRRMSampler]
DRAWS: list[Draw] = ["with_replacement", "stratified", "systematic", "distinct"]


def sampler_of(errors: Tensor, **settings) -> PrioritizedSampler:
    """Full, with these errors."""
    sampler = PrioritizedSampler(**{"priority": Priority(1.0, 1e-9), **settings})
    sampler.prepare(len(errors), CPU)
    sampler.add(range(len(errors)))
    sampler.update(torch.arange(len(errors)), errors)
    return sampler


def chi_square(counts: Tensor, expected: Tensor) -> float:
    """Statistic in standard deviations above its mean, by Wilson and Hilferty's cube root."""
    df = len(counts) - 1
    statistic = float(((counts - expected) ** 2 / expected).sum())
    return ((statistic / df) ** (1 / 3) - (1 - 2 / (9 * df))) / math.sqrt(2 / (9 * df))


@pytest.mark.parametrize("draw", ["with_replacement", "stratified", "systematic"])
def test_marginals(draw: Draw) -> None:
    """T10: 4e6 draws of 1,000 slots: chi-square at p > 1e-4 (3.72 sd), every slot within 6 sd.

    Stratified counts vary less, so that the upper bound holds all the more.
    """
    errors = torch.rand(1000, generator=torch.manual_seed(0)) ** 3 + 1e-3
    sampler = sampler_of(errors, draw=draw)
    counts = torch.zeros(1000)
    for _ in range(1000):
        counts += torch.bincount(sampler.sample(4000)[0], minlength=1000)
    p = errors / errors.sum()
    assert chi_square(counts, 4e6 * p) < 3.72
    assert ((counts - 4e6 * p).abs() / (4e6 * p * (1 - p)).sqrt()).max() < 6


@pytest.mark.parametrize("draw", DRAWS)
def test_equal_priorities_are_uniform(draw: Draw) -> None:
    """T11, and without replacement no slot twice in a batch."""
    sampler = sampler_of(torch.ones(100), draw=draw)
    counts = torch.zeros(100)
    for _ in range(4000):
        slots, weight = sampler.sample(25)
        assert weight is None
        assert draw != "distinct" or len(set(slots.tolist())) == 25
        counts += torch.bincount(slots, minlength=100)
    assert chi_square(counts, torch.full((100,), 1000.0)) < 3.72


def test_the_only_priority_is_always_drawn() -> None:
    """T11. An error of nothing keeps (here) a billionth of the probability of the other."""
    errors = torch.zeros(65)
    errors[64] = 1e9
    assert (sampler_of(errors).sample(1000)[0] == 64).all()


def test_counts_in_a_batch() -> None:
    """T12: stratified within 2 of the mean, systematic its floor or ceiling; 1,000 batches."""
    errors = torch.rand(50, generator=torch.manual_seed(1)) ** 2
    mean = 200 * errors.double() / errors.double().sum()
    for draw, bound in (("stratified", 2.0), ("systematic", 1.0)):
        sampler = sampler_of(errors, draw=draw)
        for _ in range(1000):
            counts = torch.bincount(sampler.sample(200)[0], minlength=50)
            assert ((counts - mean).abs() < bound + 1e-6).all()


@settings(max_examples=50)
@given(
    errors=st.lists(st.floats(-50, 50), min_size=1, max_size=30),
    alpha=st.floats(0, 1),
    seed=st.integers(0, 100),
)
def test_importance_weights_undo_the_bias(errors: list[float], alpha: float, seed: int) -> None:
    """T13: with beta 1, unnormalised, sum of P w f is the mean of f, by enumeration.

    Normalised by batch or buffer they are at most 1, and the ratio between two is the same
    (baselines #1131, takoika/PER #2, chainerrl #570 and seed_rl #3 confused the two).
    """
    values = torch.tensor(errors)
    # Positive: a mean near zero would leave nothing of the relative tolerance.
    f = torch.rand(len(errors), dtype=Floats, generator=torch.manual_seed(seed)) + 0.1
    n = len(errors)
    raw = (values.abs().double() + 1e-3) ** alpha
    p = raw / raw.sum()
    weights = {}
    for normalize in ("none", "batch", "buffer"):
        rule = ImportanceWeights(1.0, normalize=normalize)
        sampler = sampler_of(values, priority=Priority(alpha, 1e-3), weights=rule)
        slots, weight = sampler.sample(64)
        assert weight is not None and weight.dtype == torch.float32
        exact = 1 / (n * p[slots])
        if normalize != "none":
            assert weight.max() <= 1
            exact /= exact.max() if normalize == "batch" else (1 / (n * p)).max()
        assert torch.allclose(weight.double(), exact, rtol=1e-6, atol=0)
        weights[normalize] = weight
    leaf = sampler.priorities.sums
    whole = torch.from_numpy(importance(leaf.values, leaf.total / n, 1.0))
    assert float((p * whole * f).sum()) == pytest.approx(float(f.mean()), rel=1e-6, abs=0)


def test_beta_rises_linearly_to_one() -> None:
    rule = ImportanceWeights(0.4, anneal_batches=10)
    assert [rule.beta_after(k) for k in (0, 5, 10, 11)] == pytest.approx([0.4, 0.7, 1.0, 1.0])
    assert ImportanceWeights(0.4).beta_after(10**9) == 0.4
    sampler = sampler_of(torch.tensor([1.0, 2.0]), weights=rule)
    seen = [float(sampler.sample(100)[1].min()) for _ in range(11)]
    assert seen == pytest.approx([2.0 ** -rule.beta_after(k) for k in range(11)])


def test_a_new_slot_has_the_greatest_priority() -> None:
    """T17: the exponent once (torchrl #3925 twice), no rounding of the maximum (flashbax PR 58),
    absolute values (cpnota PR 106: negative errors had the lowest priority), and of the slot that
    was written (the authors' buffer gave it to the next one)."""
    sampler = PrioritizedSampler(priority=Priority(0.6, 1e-6))
    sampler.prepare(1000, CPU)
    sampler.add(range(990))
    sampler.update(torch.tensor([3]), torch.tensor([-7.3]))
    assert float(sampler.priorities.sums.values[3]) == pytest.approx((7.3 + 1e-6) ** 0.6)
    sampler.add(range(990, 991))
    drawn: set[int] = set()
    total = 989 + 2 * 7.3**0.6
    for _ in range(math.ceil(total / (7.3**0.6 * 32)) * 20):
        drawn |= set(sampler.sample(32)[0].tolist())
    assert 990 in drawn and max(drawn) == 990
    values = sampler.priorities.sums.values
    assert values[990] == values[3] and (values[991:] == 0).all()


def test_an_outlier_of_long_ago() -> None:
    """torchrl #2210: the greatest priority ever goes stale; "stored" follows what is stored."""
    for greatest, want in (("ever", 100.0), ("stored", 2.0)):
        sampler = sampler_of(torch.ones(4), priority=Priority(1.0, 0.0, 1e-3), greatest=greatest)
        sampler.update(torch.tensor([0]), torch.tensor([100.0]))
        sampler.update(torch.tensor([0, 1]), torch.tensor([1.0, 2.0]))
        sampler.add(range(2, 3))
        sampler.sample(1)
        assert float(sampler.priorities.sums.values[2]) == pytest.approx(want)


@pytest.mark.parametrize(("alpha", "threshold"), [(0.4, 1.0), (0.6, 0.01)])
def test_lap_equals_pal(alpha: float, threshold: float) -> None:
    """T16: our Huber loss under LAP's probabilities has, error by error, the gradient of our PAL
    under uniform ones."""
    errors = torch.randn(1000, dtype=Floats, generator=torch.manual_seed(0))
    errors *= 3 * threshold
    sampler = PrioritizedSampler(priority=lap(alpha, threshold))
    sampler.prepare(1000, CPU)
    sampler.add(range(1000))
    sampler.update(torch.arange(1000), errors)
    sums = sampler.priorities.sums

    def gradient(loss: Literal["huber", "pal"], probability: Tensor) -> Tensor:
        config = DQNConfig(hidden=(), loss=loss, huber_threshold=threshold, pal_alpha=alpha)
        value = errors.clone().requires_grad_()
        losses = DQN(OBS, gym.spaces.Discrete(2), config).penalty(value, torch.zeros_like(value))
        return torch.autograd.grad((probability * losses).sum(), value)[0]

    assert 200 < (errors.abs() > threshold).sum() < 800
    ours = gradient("huber", torch.from_numpy(sums.values / sums.total))
    theirs = gradient("pal", torch.full_like(errors, 1e-3))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)


def test_ranks() -> None:
    """T18: the frequency of rank r is r**-alpha / sum, within 5 % for the first 20; 1e6 draws."""
    n, rng = 1000, torch.manual_seed(0)
    errors = torch.rand(n, generator=rng) + 0.5
    sampler = RankSampler(alpha=0.7, weights=ImportanceWeights(1.0, normalize="none"))
    sampler.prepare(2 * n, CPU)
    sampler.add(range(n))
    sampler.update(torch.arange(n), -errors)
    counts = torch.zeros(n)
    for _ in range(1000):
        slots, weight = sampler.sample(1000)
        counts += torch.bincount(slots, minlength=n)
    order = errors.argsort(descending=True)
    p = torch.arange(1, n + 1, dtype=torch.float64) ** -0.7
    p /= p.sum()
    assert ((counts[order] / 1e6 / p - 1).abs()[:20] < 0.05).all()
    rank = torch.empty(n, dtype=torch.int64)
    rank[order] = torch.arange(n)
    assert torch.allclose(weight.double(), 1 / (n * p[rank[slots]]), rtol=1e-5)


def test_a_batch_takes_one_rank_of_each_part_of_the_mass() -> None:
    """So that the count of the first r ranks is within 1 of its mean, for every r."""
    sampler = RankSampler(alpha=0.7)
    sampler.prepare(80, CPU)
    sampler.add(range(50))
    sampler.update(torch.arange(50), torch.arange(50.0, 0.0, -1.0))
    mass = torch.arange(1, 51, dtype=Floats) ** -0.7
    mean = 64 * mass.cumsum(0) / mass.sum()
    for _ in range(20):
        counts = torch.bincount(sampler.sample(64)[0], minlength=50).cumsum(0)
        assert ((counts - mean).abs() < 1 + 1e-9).all()


def test_ranks_follow_new_errors_and_new_slots() -> None:
    sampler = RankSampler(alpha=5.0, stale=0.5)
    sampler.prepare(20, CPU)
    sampler.add(range(10))
    sampler.update(torch.arange(10), torch.linspace(0.1, 1.0, 10))
    most = lambda: int(torch.bincount(sampler.sample(200)[0]).argmax())  # noqa: E731
    assert most() == 9
    sampler.update(torch.arange(5), torch.tensor([0.0, 0.0, 9.0, 0.0, 0.0]))
    assert most() == 2
    sampler.add(range(10, 17))
    assert 2 <= most() <= 16 and sampler.sample(500)[0].max() <= 16
    sampler.drop(range(3))
    sampler.update(torch.tensor([2]), torch.tensor([100.0]))
    assert sampler.sample(500)[0].min() >= 3


def test_recent_slots_come_more_often() -> None:
    """Age k with P proportional to exp(-k / horizon): chi-square; also after the ring's end."""
    sampler = RecencySampler(horizon=30.0)
    sampler.prepare(100, CPU)
    sampler.add(range(100))
    sampler.add(range(40))
    sampler.drop(range(40, 50))
    slots = sampler.sample(100_000)[0]
    counts = torch.bincount((39 - slots) % 100, minlength=100).double()
    assert counts[90:].sum() == 0
    p = torch.exp(-torch.arange(90, dtype=torch.float64) / 30)
    assert chi_square(counts[:90], 100_000 * p / p.sum()) < 3.72


def test_dropped_slots_are_never_drawn_until_they_are_written_again() -> None:
    sampler = sampler_of(torch.ones(6))
    sampler.drop(range(2))
    sampler.update(torch.tensor([0, 2]), torch.tensor([50.0, 1.0]))  # sampled before the drop
    assert sampler.sample(500)[0].min() == 2
    sampler.add(range(1))
    assert set(sampler.sample(500)[0].tolist()) == {0, 2, 3, 4, 5}


@pytest.mark.parametrize("draw", DRAWS)
def test_saved_and_loaded_it_goes_on(draw: Draw) -> None:
    """T21, T22: the next batches are identical, also with slots that have no weight yet."""

    def fresh() -> PrioritizedSampler:
        weights = ImportanceWeights(0.4, 1000)
        sampler = PrioritizedSampler(5, weights=weights, draw=draw)
        sampler.prepare(200, CPU)
        return sampler

    ours, rng = fresh(), torch.manual_seed(0)
    ours.add(range(100))
    for _ in range(20):
        ours.update(ours.sample(16)[0], torch.rand(16, generator=rng) * 9)
    ours.add(range(100, 120))
    theirs = fresh()
    theirs.load_state_dict(ours.state_dict())
    for k in range(100):
        (a, v), (b, w) = ours.sample(16), theirs.sample(16)
        assert torch.equal(a, b) and torch.equal(v, w)
        error = torch.rand(16, generator=rng)
        for sampler in (ours, theirs):
            sampler.update(a, error)
            sampler.add(range(120 + k % 80, 121 + k % 80))


WRONG: dict[str, Callable[[], object]] = {
    "draw is 'stratifed' but .* 'with_replacement', 'stratified', 'systematic', 'distinct'": (
        lambda: PrioritizedSampler(draw="stratifed")  # type: ignore[arg-type]
    ),
    "draw is 'systematic' but should be one of 'distinct', 'stratified'": (
        lambda: LazyRRMSampler(draw="systematic")  # type: ignore[arg-type]
    ),
    "draw is 'x'": lambda: DenseRRMSampler(draw="x"),  # type: ignore[arg-type]
    "greatest is 'x' but should be one of 'ever', 'stored'": (
        lambda: PrioritizedSampler(greatest="x")  # type: ignore[arg-type]
    ),
    "normalize is 'max' but": lambda: ImportanceWeights(normalize="max"),  # type: ignore[arg-type]
    "anneal_batches must be 1 or more, or None: -5": lambda: ImportanceWeights(0.4, -5),
    "deficit_cap must be .* -1": lambda: DenseRRMSampler(deficit_cap=-1.0),
    "deficit_cap must be .* nan": lambda: LazyRRMSampler(deficit_cap=math.nan),
    "both finite: got inf": lambda: Priority(epsilon=math.inf),
    "alpha must be .* inf": lambda: Priority(math.inf),
    "horizon must be .* inf": lambda: RecencySampler(horizon=math.inf),
    "whole numbers .* got 10.5": lambda: Replay(10.5, RecencySampler()),  # type: ignore[arg-type]
    "n_step.* got 10, 1, 2.0": lambda: Replay(10, RecencySampler(), n_step=2.0),  # type: ignore[arg-type]
    "sampler is <class .*RecencySampler'> but": lambda: Replay(10, RecencySampler),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("message", WRONG)
def test_what_makes_no_sense_is_refused(message: str) -> None:
    """A draw misspelt was drawn in another way, silently."""
    with pytest.raises(ValueError, match=message):
        WRONG[message]()


def test_wrong_use_is_named() -> None:
    with pytest.raises(ValueError, match="never drawn again"):
        Priority(0.6, 0.0)
    with pytest.raises(ValueError, match="beta must be in"):
        ImportanceWeights(1.5)
    for sampler in (PrioritizedSampler(), RankSampler(), RecencySampler()):
        sampler.prepare(10, CPU)
        with pytest.raises(ValueError, match="empty replay"):
            sampler.sample(3)
    distinct = PrioritizedSampler(draw="distinct")
    distinct.prepare(10, CPU)
    distinct.add(range(2))
    with pytest.raises(ValueError, match="cannot draw 3 different transitions of 2"):
        distinct.sample(3)  # the authors' loop never ends here


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("make", PRIORITIZED)
def test_an_error_that_is_no_number_changes_nothing(make: Callable[[int], Any], bad: float) -> None:
    """On the CPU it is refused with its place; who catches that can go on."""
    ours, theirs = make(3), make(3)
    for sampler in (ours, theirs):
        sampler.prepare(10, CPU)
        sampler.add(range(8))
        sampler.update(sampler.sample(4)[0], torch.tensor([0.5, 0.2, 3.0, 0.1]))
    before = tree_leaves(ours.state_dict())
    with pytest.raises(ValueError, match="priority 2 of the batch is infinite or no number"):
        ours.update(torch.arange(4), torch.tensor([1.0, 9.0, bad, bad]))
    assert all(map(same, tree_leaves(ours.state_dict()), before))
    for sampler in (ours, theirs):
        sampler.add(range(8, 10))
    for _ in range(20):
        assert torch.equal(ours.sample(4)[0], theirs.sample(4)[0])


def same(a: object, b: object) -> bool:
    return torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a == b


ODD_UPDATES = {
    r"slot 100 of the batch is outside \[0, 40\)": ([3, 100], (2,)),
    r"slot -3 of the batch is outside \[0, 40\)": ([-3], (1,)),
    r"slot 100000000 of the batch": ([100_000_000], (1,)),
    r"got \(2,\) and \(1,\)": ([3, 4], (1,)),
    r"got \(2,\) and \(2, 1\)": ([3, 4], (2, 1)),
    r"got \(2, 1\) and \(2, 1\)": ([[3], [4]], (2, 1)),
    r"at least one: got \(0,\) and \(0,\)": ([], (0,)),
    "slots in int64, not float64": ([3.0], (1,)),
}


@pytest.mark.parametrize("message", ODD_UPDATES)
@pytest.mark.parametrize("make", PRIORITIZED)
def test_an_update_of_what_is_not_there_changes_nothing(
    make: Callable[[int], Any], message: str
) -> None:
    """Compiled code looks at no bounds: the tree was overwritten, or the process died."""
    sampler = make(0)
    sampler.prepare(40, CPU)
    sampler.add(range(40))
    before = tree_leaves(sampler.state_dict())
    slots, shape = ODD_UPDATES[message]
    index = torch.tensor(slots, dtype=torch.float64 if slots == [3.0] else torch.int64)
    with pytest.raises(ValueError, match=message):
        sampler.update(index, torch.full(shape, 5.0))
    assert all(map(same, tree_leaves(sampler.state_dict()), before))


def test_priorities_of_another_batch_are_refused() -> None:
    replay = Replay(8, PrioritizedSampler())
    x, no = torch.zeros(1), torch.zeros(1, dtype=torch.bool)
    replay.add(Step(x, x, x, x, no, no))
    batch = replay.sample(8)
    for count in (4, 1):
        with pytest.raises(ValueError, match=rf"got \(8,\) and \({count},\)"):
            replay.update(batch, torch.ones(count))


def test_an_error_whose_power_is_infinite_is_refused_too() -> None:
    sampler = sampler_of(torch.ones(4), priority=Priority(9.0))
    with pytest.raises(ValueError, match="priority 1 of the batch"):
        sampler.update(torch.tensor([0, 1]), torch.tensor([1.0, 1e38]))
    assert float(sampler.priorities.max[0]) < 2


@pytest.mark.parametrize("make", [PrioritizedSampler, DenseRRMSampler, LazyRRMSampler])
def test_an_error_whose_power_is_zero_is_drawn_all_the_same(make: Callable[..., Any]) -> None:
    """A weight of zero means that nothing is stored there."""
    for errors in (torch.zeros(4), torch.tensor([0.0, 0.0, 0.0, 1.0])):
        for draw in ("distinct", "stratified"):
            sampler = make(0, priority=Priority(60.0), draw=draw)
            sampler.prepare(9, CPU)
            sampler.add(range(4))
            sampler.update(torch.arange(4), errors)
            drawn = [sampler.sample(4)[0] for _ in range(4)]
            assert max(int(slots.max()) for slots in drawn) < 4
            if draw == "distinct":
                assert all(sorted(slots.tolist()) == [0, 1, 2, 3] for slots in drawn)
            elif not errors.any():
                assert set(torch.cat(drawn).tolist()) == {0, 1, 2, 3}


def test_the_replay_passes_weights_and_priorities_on() -> None:
    replay = Replay(64, PrioritizedSampler(weights=ImportanceWeights(1.0)), num_envs=1)
    for k in range(64):
        x, no = torch.tensor([float(k)]), torch.zeros(1, dtype=torch.bool)
        replay.add(Step(x, x, x, x, no, no))
    batch = replay.sample(32)
    assert (batch.weight == 1).all()
    replay.update(batch, 1e4 * (batch.index == batch.index[0]))
    batch = replay.sample(32)
    assert (batch.index == batch.obs).all()
    counts = np.bincount(batch.index.numpy(), minlength=64)
    assert counts.max() >= 20 and float(batch.weight.max()) == 1.0
    assert float(batch.weight.min()) == pytest.approx(1e4**-0.6)


def test_forms_agree() -> None:
    """T25: the device's form draws by the same law as the CPU's (here the same slots)."""
    errors = torch.rand(500, generator=torch.manual_seed(3))
    ours, theirs = sampler_of(errors), sampler_of(errors)
    flat = FlatSums(500, CPU)
    flat.set(torch.arange(500), torch.from_numpy(theirs.priorities.sums.values))
    theirs.priorities.prepare(flat, 500, CPU)
    assert (ours.sample(4000)[0] == theirs.sample(4000)[0]).float().mean() > 0.999
