"""The agents: one file an algorithm, its settings beside it."""

from typing import Any, Literal, NamedTuple

from rlsuite.agents import (
    aadqn,
    blind_dqn,
    c51,
    crossq,
    discrete_sac,
    dqn,
    droq,
    drpg,
    happo,
    hasac,
    hatd3,
    mappo,
    mehaml,
    ppo,
    robust_ppo,
    sac,
    tqc,
)
from rlsuite.agents.aadqn import AADQN, AADQNConfig
from rlsuite.agents.blind_dqn import BlindDQN, BlindDQNConfig
from rlsuite.agents.c51 import C51, C51Config
from rlsuite.agents.crossq import CrossQ, CrossQConfig
from rlsuite.agents.discrete_sac import DiscreteSAC, DiscreteSACConfig
from rlsuite.agents.dqn import DQN, DQNConfig
from rlsuite.agents.droq import DroQ, DroQConfig
from rlsuite.agents.drpg import DRPG, DRPGConfig
from rlsuite.agents.happo import HAPPO, HAPPOConfig
from rlsuite.agents.hasac import HASAC, HASACConfig
from rlsuite.agents.hatd3 import HATD3, HATD3Config
from rlsuite.agents.mappo import MAPPO, MAPPOConfig
from rlsuite.agents.mehaml import HASACKLConfig, MEHATRPOConfig, hasac_kl, me_hatrpo
from rlsuite.agents.ppo import PPO, PPOConfig
from rlsuite.agents.robust_ppo import RobustPPO, RobustPPOConfig
from rlsuite.agents.sac import SAC, SACConfig
from rlsuite.agents.tqc import TQC, TQCConfig

__all__ = [
    "AADQN",
    "AGENTS",
    "C51",
    "DQN",
    "DRPG",
    "HAPPO",
    "HASAC",
    "HATD3",
    "MAPPO",
    "PPO",
    "SAC",
    "TQC",
    "AADQNConfig",
    "AgentEntry",
    "BlindDQN",
    "BlindDQNConfig",
    "C51Config",
    "CrossQ",
    "CrossQConfig",
    "DQNConfig",
    "DRPGConfig",
    "DiscreteSAC",
    "DiscreteSACConfig",
    "DroQ",
    "DroQConfig",
    "HAPPOConfig",
    "HASACConfig",
    "HASACKLConfig",
    "HATD3Config",
    "MAPPOConfig",
    "MEHATRPOConfig",
    "PPOConfig",
    "RobustPPO",
    "RobustPPOConfig",
    "SACConfig",
    "TQCConfig",
]


class AgentEntry(NamedTuple):
    """What a config needs to know of an algorithm."""

    agent: Any
    """Called with (observation_space, action_space, config, device=, seed=); a solver with
    (problem, config, adversary=, policy=)."""
    config: type
    """Its settings."""
    metrics: dict[str, str]
    """Name to meaning of what ``update`` or ``iterate`` reports."""
    loop: Literal["replay", "rollout", "solve"] = "replay"
    """Which of ``rlsuite.loops`` trains it."""


AGENTS = {
    "sac": AgentEntry(SAC, SACConfig, sac.METRICS),
    "tqc": AgentEntry(TQC, TQCConfig, tqc.METRICS),
    "crossq": AgentEntry(CrossQ, CrossQConfig, crossq.METRICS),
    "droq": AgentEntry(DroQ, DroQConfig, droq.METRICS),
    "dqn": AgentEntry(DQN, DQNConfig, dqn.METRICS),
    "c51": AgentEntry(C51, C51Config, c51.METRICS),
    "hasac": AgentEntry(HASAC, HASACConfig, hasac.METRICS),
    "hasac_kl": AgentEntry(hasac_kl, HASACKLConfig, mehaml.METRICS),
    "me_hatrpo": AgentEntry(me_hatrpo, MEHATRPOConfig, mehaml.METRICS),
    "hatd3": AgentEntry(HATD3, HATD3Config, hatd3.METRICS),
    "discrete_sac": AgentEntry(DiscreteSAC, DiscreteSACConfig, discrete_sac.METRICS),
    "ppo": AgentEntry(PPO, PPOConfig, ppo.METRICS, "rollout"),
    "robust_ppo": AgentEntry(RobustPPO, RobustPPOConfig, robust_ppo.METRICS, "rollout"),
    "happo": AgentEntry(HAPPO, HAPPOConfig, happo.METRICS, "rollout"),
    "mappo": AgentEntry(MAPPO, MAPPOConfig, mappo.METRICS, "rollout"),
    "aadqn": AgentEntry(AADQN, AADQNConfig, aadqn.METRICS),
    "blind_dqn": AgentEntry(BlindDQN, BlindDQNConfig, blind_dqn.METRICS),
    "drpg": AgentEntry(DRPG, DRPGConfig, drpg.METRICS, "solve"),
}
"""By the ``algorithm`` of a config."""

if __name__ == "agents":
    raise ImportError("import rlsuite.agents, not agents")
