"""The samplers by the names that configs use, their settings, and how they are built."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from rlsuite.buffers import (
    DenseRRMSampler,
    ImportanceWeights,
    LazyRRMSampler,
    PrioritizedSampler,
    Priority,
    RankSampler,
    RecencySampler,
    ReshuffleSampler,
    UniformSampler,
    lap,
)
from rlsuite.buffers.prioritized import Draw, Greatest, Normalize
from rlsuite.buffers.rrm import RRMDraw
from rlsuite.errors import UserError
from rlsuite.settings import Fraction, NonNegative, Positive, PositiveCount, settings
from rlsuite.types import Sampler


@settings
class NoSettings:
    """There is nothing to set."""


@settings
class RecencyConfig:
    """Recent transitions are drawn more often."""

    horizon: Positive = 100_000.0
    """Age in transitions at which the probability has fallen to 1/e."""


@settings
class RankConfig:
    """Rank-based prioritized replay (Schaul et al. 2016)."""

    alpha: NonNegative = 0.7
    """Probability is rank**-alpha."""
    beta: Fraction = 0.5
    """Exponent of the importance weights at the start."""
    anneal_beta: Literal["training"] | PositiveCount | None = "training"
    """Updates over which beta rises to 1: all of the training, a number, or unset to keep it."""


@settings
class PrioritizedConfig:
    """Proportional prioritized replay (Schaul et al. 2016)."""

    alpha: NonNegative = 0.6
    """Exponent of the priority |error| + epsilon."""
    epsilon: Positive = 1e-6
    """Added to the error, so that nothing is never drawn again."""
    beta: Fraction = 0.4
    """Exponent of the importance weights at the start."""
    anneal_beta: Literal["training"] | PositiveCount | None = "training"
    """Updates over which beta rises to 1: all of the training, a number, or unset to keep it."""
    normalize: Normalize = "batch"
    """Importance weights are divided by the greatest of the batch, by the greatest that any stored
    transition would have, or not at all."""
    draw: Draw = "with_replacement"
    """"with_replacement", "stratified", "systematic" or "distinct" (none twice in a batch)."""
    new: Greatest = "ever"
    """New transitions get the greatest priority ever seen, or the greatest stored now."""


@settings
class LAPConfig:
    """Loss-adjusted prioritized replay (Fujimoto et al. 2020), for a Huber loss."""

    alpha: NonNegative = 0.4
    """Exponent of the priority (Atari: 0.6)."""
    least: Positive = 1.0
    """Least priority: the threshold of the agent's Huber loss (Atari: 0.01)."""
    draw: Draw = "stratified"
    """"with_replacement", "stratified", "systematic" or "distinct" (none twice in a batch)."""


@settings
class RRMConfig:
    """Prioritized random reshuffling by masking (Fujita 2025), with the priorities of LAP."""

    alpha: NonNegative = 0.6
    """Exponent of the priority."""
    least: Positive = 0.01
    """Least priority: the threshold of the agent's Huber loss."""
    draw: RRMDraw = "distinct"
    """"distinct": none twice in a batch; "stratified": one from each of equal parts of the mass."""
    deficit_cap: Positive | None = None
    """Most draws that a transition may lag behind, for small replays. Unset is the paper's."""


class Context(NamedTuple):
    """What a sampler is built from beside its settings."""

    seed: int
    updates: int
    """Of the whole training."""
    is_cpu: bool


class SamplerEntry(NamedTuple):
    """What a config needs to know of a sampler."""

    config: type
    build: Callable[[Any, Context], Sampler]


def _weights(config: Any, context: Context) -> ImportanceWeights:
    anneal = context.updates if config.anneal_beta == "training" else config.anneal_beta
    return ImportanceWeights(config.beta, anneal or None, getattr(config, "normalize", "batch"))


def _rank(config: RankConfig, context: Context) -> Sampler:
    return RankSampler(context.seed, alpha=config.alpha, weights=_weights(config, context))


def _prioritized(config: PrioritizedConfig, context: Context) -> Sampler:
    return PrioritizedSampler(
        context.seed,
        priority=Priority(config.alpha, config.epsilon),
        weights=_weights(config, context),
        draw=config.draw,
        greatest=config.new,
    )


def _lap(config: LAPConfig, context: Context) -> Sampler:
    priority = lap(config.alpha, config.least)
    return PrioritizedSampler(context.seed, priority=priority, draw=config.draw)


def _rrm(config: RRMConfig, context: Context) -> Sampler:
    priority = lap(config.alpha, config.least)
    form = LazyRRMSampler if context.is_cpu else DenseRRMSampler
    return form(context.seed, priority=priority, draw=config.draw, deficit_cap=config.deficit_cap)


SamplerName = Literal["reshuffle", "uniform", "recency", "prioritized", "rank", "lap", "rrm"]

SAMPLERS: dict[str, SamplerEntry] = {
    "reshuffle": SamplerEntry(NoSettings, lambda _, context: ReshuffleSampler(context.seed)),
    "uniform": SamplerEntry(NoSettings, lambda _, context: UniformSampler(context.seed)),
    "recency": SamplerEntry(
        RecencyConfig,
        lambda config, context: RecencySampler(context.seed, horizon=config.horizon),
    ),
    "prioritized": SamplerEntry(PrioritizedConfig, _prioritized),
    "rank": SamplerEntry(RankConfig, _rank),
    "lap": SamplerEntry(LAPConfig, _lap),
    "rrm": SamplerEntry(RRMConfig, _rrm),
}
"""By the ``replay.sampler`` of a config."""


def made(make: Callable[[int], Sampler], seed: int) -> Sampler:
    """The sampler that a user of an adapter asked for. Raises UserError for what makes none."""
    if callable(make):
        sampler = make(seed)
        if hasattr(sampler, "sample"):
            return sampler
    raise UserError(
        f"sampler is {make!r} but should be a class of rlsuite.buffers, such as ReshuffleSampler, "
        "or a partial of one: it is called with a seed"
    )


SILENT_BATCHES = 1_000
"""Batches without a priority after which a prioritized sampler's user is warned."""


class PriorityWatch:
    """Warns once if a prioritized sampler is drawn from but never told a priority.

    Libraries that know no prioritized replay train on silently: every transition then keeps the
    priority that it got when it was new.
    """

    def __init__(self, sampler: Sampler, remedy: str) -> None:
        """``remedy`` says what the user has to call."""
        prioritized = (PrioritizedSampler, RankSampler, DenseRRMSampler, LazyRRMSampler)
        self._batches: int | None = 0 if isinstance(sampler, prioritized) else None
        self._remedy = f"{type(sampler).__name__} {remedy}"

    def sampled(self) -> None:
        """Count a batch."""
        if self._batches is None:
            return
        self._batches += 1
        if self._batches == SILENT_BATCHES:
            warnings.warn(
                f"{SILENT_BATCHES:,} batches were sampled and no priority was ever set: "
                f"{self._remedy}",
                stacklevel=4,
            )
            self._batches = None

    def updated(self) -> None:
        """A priority was set: all is well."""
        self._batches = None
