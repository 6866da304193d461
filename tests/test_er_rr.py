"""The experiments of random reshuffling, small; each check fails for a sampler that is not it."""

import math
import subprocess
import sys

import numpy as np

from rlsuite.buffers import (
    LazyRRMSampler,
    PrioritizedSampler,
    Priority,
    ReshuffleSampler,
    UniformSampler,
)
from rlsuite.er_rr import ROOT, chain, grid, grid_values, lifetime_counts, noise_floor, tracking


def test_values_propagate_faster() -> None:
    """e - 1 times as fast (theory); with replacement 1."""

    def ratio(sampler: type) -> float:
        slow = np.mean([chain(UniformSampler(s), s, length=100, batch=1) for s in range(20)])
        return slow / np.mean([chain(sampler(50 + s), s, length=100, batch=1) for s in range(20)])

    assert 1.55 <= ratio(ReshuffleSampler) <= 1.89
    assert ratio(UniformSampler) < 1.2


def test_values_of_the_grid() -> None:
    value = grid_values()
    assert value[98].max() == 1.0 and value[99].max() == 0.0
    assert math.isclose(value[0].max(), 0.95**17)


def test_reshuffling_learns_the_grid_faster() -> None:
    better = [
        grid(ReshuffleSampler(s), s, steps=3000).mean()
        < grid(UniformSampler(s), s, steps=3000).mean()
        for s in range(6)
    ]
    assert sum(better) >= 5


def test_counts_of_a_lifetime() -> None:
    assert abs(lifetime_counts(ReshuffleSampler(0), 0, adds=6000).var() - 1 / 3) < 0.05
    assert abs(lifetime_counts(UniformSampler(0), 0, adds=6000).var() - 8) < 0.8


def test_masking_follows_expectation() -> None:
    """T14: mean (A - E)**2 below 0.6, A - E below 1, nothing twice in a batch; PER above 20."""
    ours = tracking(LazyRRMSampler(0, priority=ROOT), 0, batches=1000)
    assert ours.square < 0.6 and ours.over < 1 and ours.repeats == 0
    assert tracking(PrioritizedSampler(0, priority=ROOT), 0, batches=1000).square > 20


def test_noise_floor() -> None:
    floors = [
        np.mean([noise_floor(make(s), s, step_size=0.05, epochs=(40, 60)) for s in range(3)])
        for make in (UniformSampler, ReshuffleSampler)
    ]
    assert floors[0] / floors[1] > 2
    assert Priority(0.5, 0.0, 1e-12) == ROOT


def test_an_unknown_paper_is_named() -> None:
    command = [sys.executable, "-m", "rlsuite", "reproduce", "er-r"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "did you mean er-rr?" in done.stderr
