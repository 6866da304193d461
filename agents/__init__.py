"""The agents: one file an algorithm, its settings beside it."""

from typing import Any, NamedTuple

from rlsuite.agents import c51, discrete_sac, dqn, droq, sac, tqc
__all__ = ["AGENTS", "SAC", "TQC", "AgentEntry", "DroQ", "DroQConfig", "SACConfig", "TQCConfig"]
from rlsuite.agents.c51 import C51, C51Config
from rlsuite.agents.discrete_sac import DiscreteSAC, DiscreteSACConfig
from rlsuite.agents.dqn import DQN, DQNConfig
from rlsuite.agents.sac import SAC, SACConfig
from rlsuite.agents.tqc import TQC, TQCConfig

    "AGENTS",
    "C51",
    "DQN",
    "SAC",
    "TQC",
    "AgentEntry",
    "C51Config",
    "DQNConfig",
    "DiscreteSAC",
    "DiscreteSACConfig",
    "SACConfig",
    "TQCConfig",
]
from rlsuite.agents.droq import DroQ, DroQConfig


class AgentEntry(NamedTuple):
    """What a config needs to know of an algorithm."""

    agent: Any
    """Called with (observation_space, action_space, config, device=, seed=)."""
    config: type
    """Its settings."""
    metrics: dict[str, str]
    """Name to meaning of what ``update`` reports."""


AGENTS = {
    "sac": AgentEntry(SAC, SACConfig, sac.METRICS),
    "dqn": AgentEntry(DQN, DQNConfig, dqn.METRICS),
    "tqc": AgentEntry(TQC, TQCConfig, tqc.METRICS),
    "c51": AgentEntry(C51, C51Config, c51.METRICS),
    "discrete_sac": AgentEntry(DiscreteSAC, DiscreteSACConfig, discrete_sac.METRICS),
    "droq": AgentEntry(DroQ, DroQConfig, droq.METRICS),
}
"""By the ``algorithm`` of a config."""

if __name__ == "agents":
    raise ImportError("import rlsuite.agents, not agents")
