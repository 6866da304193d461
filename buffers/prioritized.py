"""Sampling in proportion to priorities: PER (Schaul et al. 2016) and LAP (Fujimoto et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from rlsuite.buffers.checks import require_choice, require_numbers, require_slots
from rlsuite.buffers.sums import Array, Sums, make_sums, namespace
from rlsuite.rng import generator
from rlsuite.types import State

Draw = Literal["with_replacement", "stratified", "systematic", "distinct"]
Greatest = Literal["ever", "stored"]
Normalize = Literal["batch", "buffer", "none"]
Floats = torch.float64
LEAST_WEIGHT = 1e-300
"""Of what can be drawn: an error's power may be zero, which means that a slot is not there. The
least of the normal numbers is 2e-308; what RR-M masks has to be above it too."""


@dataclass(frozen=True, slots=True)
class ImportanceWeights:
    """Weights that undo the bias of prioritized sampling: (N P(i))**-beta (Schaul et al., 3.4).

    ``beta`` rises linearly to 1 over ``anneal_batches`` batches; None keeps it. Weights are divided
    by the greatest of the batch, by the greatest that any stored slot would have ("buffer", which
    looks at all slots for each batch), or not at all.
    """

    beta: float = 0.4
    anneal_batches: int | None = None
    normalize: Normalize = "batch"

    def __post_init__(self) -> None:
        if not 0 <= self.beta <= 1:
            raise ValueError(f"beta must be in [0, 1], not {self.beta}")
        if self.anneal_batches is not None and not self.anneal_batches >= 1:
            raise ValueError(f"anneal_batches must be 1 or more, or None: {self.anneal_batches}")
        require_choice("normalize", self.normalize, Normalize)

    def beta_after(self, batches: int) -> float:
        """beta for the batch that follows ``batches`` batches."""
        share = min(1.0, batches / self.anneal_batches) if self.anneal_batches else 0.0
        return self.beta + (1.0 - self.beta) * share

    def unit(self, value: Array, least: Callable[[], Array], total: Array, size: int) -> Array:
        """The leaf weight whose importance is 1, or leaf weights of which it is the least.

        The batch has (B,) leaf weights ``value``, all ``size`` slots have ``least`` and ``total``.
        """
        match self.normalize:
            case "batch":  # the factor (N / total)**-beta cancels
                return value
            case "buffer":
                return least()
            case "none":
                return total / size


def importance(value: Array, unit: Array, beta: float) -> Array:
    """(B,) weights of slots with leaf weights (B,) ``value`` (Schaul et al., 3.4)."""
    weight: Array = (value / unit.min()) ** -beta
    return weight


@dataclass(frozen=True, slots=True)
class Priority:
    """From a temporal-difference error to a slot's weight: max(|error| + epsilon, least)**alpha.

    PER: ``epsilon`` > 0 and ``least`` 0 (Schaul et al., 3.3). LAP: ``epsilon`` 0 and ``least`` the
    threshold of the Huber loss (Fujimoto et al., arXiv 2007.06049, eq. 8), without importance
    weights.
    """

    alpha: float = 0.6
    epsilon: float = 1e-6
    least: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < math.inf:
            raise ValueError(f"alpha must be 0 or more and finite, not {self.alpha}")
        if not (self.epsilon >= 0 and self.least >= 0 and 0 < self.epsilon + self.least < math.inf):
            raise ValueError(
                "epsilon or least must be above 0, or what has no error is never drawn again, and "
                f"both finite: got {self.epsilon}, {self.least}"
            )


def prioritize(
    size: Array, epsilon: float, least: float, alpha: float, most: Array
) -> tuple[Array, Any]:
    """(B,) weights of errors of (B,) ``size``, and the greatest priority before the exponent, or
    the one in ``most`` if that is greater."""
    raw = (size + epsilon).clip(least, math.inf)
    return (raw**alpha).clip(LEAST_WEIGHT, math.inf), raw.clip(most.min()).max()


def lap(alpha: float = 0.4, least: float = 1.0) -> Priority:
    """The priorities of LAP; the defaults are the paper's for MuJoCo (Atari: 0.6, 0.01)."""
    return Priority(alpha, 0.0, least)


class Priorities:
    """The weights of all slots, and the greatest priority, which new slots get.

    ``greatest``: "ever" is the greatest priority ever seen (starting at 1), "stored" the greatest
    that is stored now: an outlier of long ago does not keep every new slot on top then, at the cost
    of looking at all slots.
    """

    def __init__(
        self,
        rule: Priority | None,
        weights: ImportanceWeights | None,
        greatest: Greatest,
    ) -> None:
        """``weights`` None gives none. Raises ValueError for another ``greatest``."""
        require_choice("greatest", greatest, Greatest)
        self.rule, self.weights, self.greatest = rule or Priority(), weights, greatest
        self.batches = 0
        """Batches weighed, on which beta depends."""
        self.sums: Sums[Any]
        self.size = 0
        """Slots that can be drawn."""
        self.unsettled: list[range] = []
        """New slots that have no weight yet."""

    def prepare(self, sums: Sums[Any], capacity: int, device: torch.device) -> None:
        """Keep the weights of ``capacity`` slots in ``sums``."""
        self.sums, self.capacity, self.device = sums, capacity, device
        self._xp = namespace(sums.values)
        self._importance = sums.compiled(importance)
        self._prioritize = sums.compiled(prioritize)
        self.max: Any = self._xp.ones_like(sums.values[:1])
        """(1,) greatest priority, before the exponent."""

    def add(self, slots: range) -> None:
        """Note new slots; they get their weight before the next draw or update."""
        self.size = min(self.size + len(slots), self.capacity)
        if self.unsettled and self.unsettled[-1].stop == slots.start:
            slots = range(self.unsettled.pop().start, slots.stop)
        self.unsettled.append(slots)

    def drop(self, slots: range) -> None:
        """Never draw these slots, the oldest, until they are added again."""
        self.settle()
        self.size -= len(slots)
        self._fill(slots, 0.0)

    def settle(self) -> list[range]:
        """Give the new slots their weight; the slots it gave one."""
        new, self.unsettled = self.unsettled, []
        if new:
            value = self.max**self.rule.alpha
            if self.greatest == "stored":
                stored = self.sums.values.max()
                value = self._xp.where(stored > 0, stored, value)
            for slots in new:
                self._fill(slots, value)
        return new

    def weigh(self, slots: Any) -> Tensor | None:
        """(B,) float32 importance weights of the next batch, or None.

        ``slots`` are (B,) int64, as the sums return them.
        """
        if self.weights is None:
            return None
        beta = self.weights.beta_after(self.batches)
        self.batches += 1
        sums = self.sums
        value = sums.values[slots]
        unit = self.weights.unit(value, sums.least, sums.total, self.size)
        weight = self._importance(value, unit, beta)
        return sums.tensor(self._xp.asarray(weight, dtype=self._xp.float32))

    def update(self, slots: Tensor, error: Tensor) -> None:
        """Weights from (B,) errors; slots dropped meanwhile stay out.

        Raises ValueError for other shapes, and on the CPU for a slot that there is not or an error
        that is no finite number; nothing is changed then.
        """
        sums = self.sums
        rule, index, size = self.rule, sums.array(slots), sums.sizes(error)
        require_slots(index, size, self.capacity)
        value, most = self._prioritize(size, rule.epsilon, rule.least, rule.alpha, self.max)
        require_numbers(error, most)
        self.settle()
        sums.revise(index, value)  # which refuses what overflows
        self.max[0] = most

    def require(self, n: int) -> None:
        """Raises ValueError unless at least ``n`` slots can be drawn."""
        if self.size == 0:
            raise ValueError("cannot sample from an empty replay: add transitions first")
        if self.size < n:
            raise ValueError(
                f"cannot draw {n} different transitions of {self.size}: add more first"
            )

    def _fill(self, slots: range, value: Any) -> None:
        index = self.sums.array(torch.arange(slots.start, slots.stop, device=self.device))
        self.sums.set(index, self._xp.zeros_like(index, dtype=self._xp.float64) + value)

    def state_dict(self) -> State:
        """The weights, the greatest priority, the slots without weight yet, and counts."""
        return {
            "values": self.sums.tensor(self.sums.values).clone(),
            "max": self.sums.tensor(self.max)[0].clone(),
            "size": self.size,
            "batches": self.batches,
            "new": [[slots.start, slots.stop] for slots in self.unsettled],
        }

    def load_state_dict(self, state: State) -> None:
        """Hold the same weights."""
        self.unsettled = [range(start, stop) for start, stop in state["new"]]
        self.size, self.batches = state["size"], state["batches"]
        sums = self.sums
        self.max[0] = sums.array(state["max"].to(self.device))
        index = torch.arange(self.capacity, device=self.device)
        sums.set(sums.array(index), sums.array(state["values"].to(self.device)))


def fractions(n: int, draw: Draw, rng: torch.Generator, device: torch.device) -> Tensor:
    """(n,) float64 in [0, 1): independent, one in each of n equal strata, or equally spaced."""
    if draw == "with_replacement":
        return torch.rand(n, dtype=Floats, generator=rng, device=device)
    offset = torch.rand(
        n if draw == "stratified" else 1, dtype=Floats, generator=rng, device=device
    )
    return torch.arange(n, device=device).add(offset).div_(n)


class PrioritizedSampler:
    """Draws slot i with probability P(i) = p_i / sum of p (Schaul et al. 2016, eq. 1).

    ``draw`` chooses how a batch is drawn, each with the same P(i) on average:
    "with_replacement"; "stratified", one from each of n equal parts of the mass (the paper's
    appendix B.2.1), so that a slot's count in a batch is within 2 of its mean; "systematic", with
    one offset for all parts: within 1; "distinct", no slot twice in a batch.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        priority: Priority | None = None,
        weights: ImportanceWeights | None = None,
        draw: Draw = "with_replacement",
        greatest: Greatest = "ever",
    ) -> None:
        """Without ``weights`` there are no importance weights (LAP needs none).

        Raises ValueError for another ``draw`` or ``greatest``.
        """
        require_choice("draw", draw, Draw)
        self.priorities = Priorities(priority, weights, greatest)
        self.draw: Draw = draw
        self._seed = seed

    def prepare(self, capacity: int, device: torch.device) -> None:
        """Take the memory for ``capacity`` slots on ``device``."""
        self.priorities.prepare(make_sums(capacity, device), capacity, device)
        self._generator = generator(self._seed, "prioritized sampler", device=device)

    def add(self, slots: range) -> None:
        """Tell that ``slots`` were written: they get the greatest priority."""
        self.priorities.add(slots)

    def drop(self, slots: range) -> None:
        """Never draw these slots, the oldest, until they are added again."""
        self.priorities.drop(slots)

    def sample(self, n: int) -> tuple[Tensor, Tensor | None]:
        """(n,) int64 slots and (n,) float32 importance weights or None.

        Raises ValueError while too little is stored.
        """
        distinct = self.draw == "distinct"
        self.priorities.require(n if distinct else 1)
        self.priorities.settle()
        sums = self.priorities.sums
        if distinct:
            slots = sums.find_distinct(n, self._generator)
        else:
            part = fractions(n, self.draw, self._generator, self.priorities.device)
            slots = sums.find(sums.array(part))
        return sums.tensor(slots), self.priorities.weigh(slots)

    def update(self, slots: Tensor, priority: Tensor) -> None:
        """Set priorities from (n,) errors. Of a slot that comes twice the greatest counts.

        Raises ValueError for other shapes, and on the CPU for a slot that there is not or an error
        that is no finite number; nothing is changed then.
        """
        self.priorities.update(slots, priority)

    def state_dict(self) -> State:
        """Priorities and generator."""
        return {
            "priorities": self.priorities.state_dict(),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: State) -> None:
        """Continue the same stream of slots."""
        self.priorities.load_state_dict(state["priorities"])
        self._generator.set_state(state["generator"])
