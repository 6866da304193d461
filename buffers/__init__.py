"""Replay: storage on any device, and the samplers that choose from it."""

from rlsuite.buffers.lazy_rrm import LazyRRMSampler
from rlsuite.buffers.prioritized import ImportanceWeights, PrioritizedSampler, Priority, lap
from rlsuite.buffers.rank import RankSampler
from rlsuite.buffers.recency import RecencySampler
from rlsuite.buffers.replay import Replay, Sequences
from rlsuite.buffers.reshuffle import ReshuffleSampler
from rlsuite.buffers.rollout import RolloutStorage
from rlsuite.buffers.rrm import DenseRRMSampler
from rlsuite.buffers.uniform import UniformSampler

__all__ = [
    "DenseRRMSampler",
    "ImportanceWeights",
    "LazyRRMSampler",
    "PrioritizedSampler",
    "Priority",
    "RankSampler",
    "RecencySampler",
    "Replay",
    "ReshuffleSampler",
    "RolloutStorage",
    "Sequences",
    "UniformSampler",
    "lap",
]

if __name__ == "buffers":
    raise ImportError("import rlsuite.buffers, not buffers")
