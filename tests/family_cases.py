"""The agents that share SAC's parts, small, and readings of them that several tests share."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlsuite.agents.crossq import CrossQ, CrossQConfig
from rlsuite.agents.droq import DroQ, DroQConfig
from rlsuite.agents.tqc import TQC, TQCConfig
from rlsuite.types import Batch

GOLDEN = Path(__file__).parent / "golden" / "sb3_contrib.json"
SMALL: dict[type, Any] = {
    TQC: TQCConfig(hidden_actor=(8,), hidden_critic=(8, 8), critics=2, quantiles=5),
    CrossQ: CrossQConfig(
        hidden_actor=(8,),
        hidden_critic=(8, 8),
        critic_updates_per_policy_update=2,
        renorm_warmup=2,
    ),
    DroQ: DroQConfig(hidden=(8, 8), dropout=0.2, critic_updates_per_policy_update=2),
}


def draws(agent: Any, rows: int, seed: int = 0) -> tuple[Any, ...]:
    """What ``learn`` takes beside a batch of ``rows``."""
    if isinstance(agent, DroQ):
        agent.noise.manual_seed(seed)
        return (agent.draw(rows, policy=True),)
    g = torch.Generator().manual_seed(seed)
    return (torch.randn(2, rows, agent.policy.actions, generator=g),)


NETWORKS = ("actor", "critic", "target")


def tensors(agent: Any) -> dict[str, Tensor]:
    """Copies of all weights, running statistics, and the log temperature, by name."""
    found = {
        f"{net}/{name}": value
        for net in NETWORKS
        if hasattr(agent, net)
        for name, value in getattr(agent, net).state_dict().items()
    }
    log_value = getattr(agent.temperature, "log_value", None)
    if log_value is not None:
        found["log_temperature"] = log_value
    return {name: value.detach().clone() for name, value in found.items()}


def set_constant(net: nn.Module, *rows: list[float]) -> None:
    """Make each member return its row, whatever the input; ``net`` has weights and biases."""
    with torch.no_grad():
        for p in [*net.weights, *net.biases]:
            p.zero_()
        for member, row in enumerate(rows):
            net.biases[-1][member, 0].copy_(torch.tensor(row))


def golden(algorithm: str) -> dict[str, Any]:
    """Updates of sb3-contrib; how they were made is in the file."""
    content: dict[str, Any] = json.loads(GOLDEN.read_text())
    return content[algorithm]


def golden_batch(update: dict[str, Any], agent: Any) -> tuple[Batch, Tensor]:
    """A float64 batch with the agent's action units, and its noise: next actions, then policy."""
    t = {
        name: torch.tensor(update[name], dtype=torch.float64)
        for name in ("obs", "unit_action", "reward", "next_obs", "terminated", "noise")
    }
    rows = len(t["reward"])
    return Batch(
        obs=t["obs"],
        action=agent.policy.center + agent.policy.half_range * t["unit_action"],
        reward=t["reward"],
        next_obs=t["next_obs"],
        terminated=t["terminated"].bool(),
        truncated=torch.zeros(rows, dtype=torch.bool),
        extra={},
        discount=0.99 * (1 - t["terminated"]),
        index=torch.arange(rows),
        weight=torch.ones(rows, dtype=torch.float64),
    ), t["noise"]


def golden_layers(members: list[dict[str, Any]]) -> list[tuple[Tensor, Tensor]]:
    """By layer: (K, in, out) weights and (K, 1, out) biases, the actor's two heads side by side."""
    layers = [
        (torch.tensor([w for w, _ in layer]), torch.tensor([[b] for _, b in layer]))
        for layer in zip(*(member["linears"] for member in members), strict=True)
    ]
    if layers[-2][0].shape == layers[-1][0].shape and len(members) == 1:
        heads = zip(*layers[-2:], strict=True)
        layers[-2:] = [tuple(torch.cat(pair, dim=2) for pair in heads)]
    return layers
