"""Replay: storage on any device, and the samplers that choose from it."""

from rlsuite.buffers.replay import Replay
from rlsuite.buffers.reshuffle import ReshuffleSampler
from rlsuite.buffers.uniform import UniformSampler

__all__ = ["Replay", "ReshuffleSampler", "UniformSampler"]

if __name__ == "buffers":
    raise ImportError("import rlsuite.buffers, not buffers")
