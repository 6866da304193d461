"""The vectorized environment layer."""

if __name__ == "envs":
    raise ImportError("import rlsuite.envs, not envs")

from rlsuite.envs.advice_env import AdviceEnv, AdviceVectorEnv
from rlsuite.envs.advice_games import TableGame
from rlsuite.envs.atari import AtariVectorEnv
from rlsuite.envs.disturb import DisturbedVectorEnv
from rlsuite.envs.gym_env import is_resumable, make_env
from rlsuite.envs.mamujoco import MultiAgentMujoco
from rlsuite.envs.mpe import ParticleParallelEnv, ParticleVectorEnv, parallel_env
from rlsuite.envs.normalize import NormalizedVectorEnv, ObsNorm, RewardNorm
from rlsuite.envs.perturb import Physics, Uncertain
from rlsuite.envs.skirmish import Skirmish
from rlsuite.envs.team import TeamEnv
from rlsuite.envs.team_checks import check_parallel_env
from rlsuite.envs.vector import SerialVectorEnv
from rlsuite.envs.vmas_env import VmasVectorEnv
from rlsuite.envs.workers import WorkerError, WorkerVectorEnv

__all__ = [
    "AdviceEnv",
    "AdviceVectorEnv",
    "AtariVectorEnv",
    "DisturbedVectorEnv",
    "MultiAgentMujoco",
    "NormalizedVectorEnv",
    "ObsNorm",
    "ParticleParallelEnv",
    "ParticleVectorEnv",
    "Physics",
    "RewardNorm",
    "SerialVectorEnv",
    "Skirmish",
    "TableGame",
    "TeamEnv",
    "Uncertain",
    "VmasVectorEnv",
    "WorkerError",
    "WorkerVectorEnv",
    "check_parallel_env",
    "is_resumable",
    "make_env",
    "parallel_env",
]
