"""Time of one HASAC update, ours beside the same update written plainly.

    python benchmarks/hasac_update.py

Three agents of MPE's spread, batch 256, two layers of 128, with one thread of torch and with two
(``run.threads``). The plain form has networks of ``torch.nn`` for every actor and critic,
concatenates the state and all actions for every value, draws everybody's action before the turns
and after every turn, backpropagates with ``backward`` through all that a loss depends on, steps
torch's default Adam, and has no metrics. A second one, "frozen", spares one thing: in the policies'
turns the critics' weights get no gradients. All start from the same weights and noise; after the
first updates all weights must agree to 1e-4, then the forms take turns. Times are by the clock on
the wall: the machine has to be quiet. Writes benchmarks/results/hasac-update.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlsuite.actors import Actor, CategoricalActor, NormalActor
from rlsuite.agents.hasac import HASAC, HASACConfig
from rlsuite.buffers import Replay, UniformSampler
from rlsuite.envs import ParticleVectorEnv
from rlsuite.types import Batch

COMMIT = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
CONFIG = HASACConfig(hidden=(128, 128))


class Plain:
    """HASAC's update, step by step as in the paper."""

    def __init__(self, agent: HASAC, *, frozen: bool) -> None:
        """From the agent's weights and generators; ``frozen``: are the critics in the turns."""
        self.agent, self.frozen = agent, frozen
        self.policies = {name: policy_of(actor) for name, actor in agent.actors.items()}
        self.critics = [critic_of(agent.critic.net, k) for k in range(CONFIG.critics)]
        self.targets = [critic_of(agent.target.net, k) for k in range(CONFIG.critics)]
        params = [p for critic in self.critics for p in critic.parameters()]
        self.critic_optimizer = torch.optim.Adam(params, CONFIG.lr_critic)
        self.optimizers = {
            name: torch.optim.Adam(actor.parameters(), CONFIG.lr_actor)
            for name, actor in agent.actors.items()
        }
        self.log_alphas = {
            name: nn.Parameter(torch.tensor(CONFIG.initial_temperature).log())
            for name in agent.names
        }
        # For draws that change nothing, so that the noise of the others agrees with ours.
        self.spare = torch.Generator()
        self.alpha_optimizers = {
            name: torch.optim.Adam([p], CONFIG.lr_temperature)
            for name, p in self.log_alphas.items()
        }

    def policy(
        self, obs: Any, name: str, *, spare: bool = False
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """An action, its log probability, and if there are few actions all of theirs."""
        actor = self.agent.actors[name]
        output = self.policies[name](obs["agents"][name])
        noise = self.spare if spare else self.agent.noise
        if isinstance(actor, NormalActor):
            draw = torch.randn(len(output), actor.size, generator=noise)
            return *actor.policy.sample(output, draw), None
        log_pi = actor.log_pi(output, None)
        return *actor.sample(output, None, noise)[:2], log_pi

    def value(self, critics: list[nn.Sequential], obs: Any, actions: list[Tensor]) -> list[Tensor]:
        x = torch.cat([obs["state"], *actions], 1)
        return [critic(x).squeeze(1) for critic in critics]

    def step(self, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def update(self, batch: Batch) -> None:
        agent, names = self.agent, self.agent.names
        order = agent.orders.permutation(len(names)).tolist()
        alpha = {name: p.detach().exp() for name, p in self.log_alphas.items()}
        with torch.no_grad():
            next_actions, bonus = [], torch.zeros_like(batch.reward)
            for name in names:
                action, log_prob, log_pi = self.policy(batch.next_obs, name)
                if log_pi is not None:
                    log_prob = (log_pi.exp() * log_pi).sum(1)
                next_actions.append(action)
                bonus = bonus - alpha[name] * log_prob
            next_value = torch.min(*self.value(self.targets, batch.next_obs, next_actions))
            target = batch.reward + batch.discount * (next_value + bonus)
        taken = [agent.actors[name].encode(batch.action[name]) for name in names]
        values = self.value(self.critics, batch.obs, taken)
        loss = sum((batch.weight * 0.5 * (value - target) ** 2).mean() for value in values)
        self.step(loss, self.critic_optimizer)
        for critic in self.critics:
            critic.requires_grad_(not self.frozen)

        with torch.no_grad():
            actions = [torch.empty(0)] * len(names)
            for i in order:  # ours leaves out the first, whom nobody sees before its turn
                actions[i] = self.policy(batch.obs, names[i], spare=i == order[0])[0]
        for i in order:
            self.turn(batch, i, actions, alpha[names[i]])
            with torch.no_grad():  # ours leaves out the last, whom nobody sees after its turn
                actions[i] = self.policy(batch.obs, names[i], spare=i == order[-1])[0]
        with torch.no_grad():
            for slow, fast in zip(self.targets, self.critics, strict=True):
                for p, q in zip(slow.parameters(), fast.parameters(), strict=True):
                    p.mul_(1 - CONFIG.target_rate).add_(CONFIG.target_rate * q)
        for critic in self.critics:
            critic.requires_grad_(True)

    def turn(self, batch: Batch, i: int, actions: list[Tensor], alpha: Tensor) -> None:
        name = self.agent.names[i]
        actor = self.agent.actors[name]
        if isinstance(actor, CategoricalActor):
            log_pi = actor.log_pi(self.policies[name](batch.obs["agents"][name]), None)
            values = []
            for k in range(actor.size):
                one = F.one_hot(torch.tensor(k), actor.size).float().expand(len(log_pi), -1)
                joint = [*actions[:i], one, *actions[i + 1 :]]
                values.append(torch.min(*self.value(self.critics, batch.obs, joint)))
            soft = (log_pi.exp() * (alpha * log_pi - torch.stack(values, 1))).sum(1)
            log_prob = (log_pi.exp() * log_pi).sum(1)
        else:
            action, log_prob, _ = self.policy(batch.obs, name)
            joint = [*actions[:i], action, *actions[i + 1 :]]
            soft = alpha * log_prob - torch.min(*self.value(self.critics, batch.obs, joint))
        self.step(soft.mean(), self.optimizers[name])
        excess = (log_prob + actor.target_entropy(self.agent.shares[name], None)).detach()
        self.step(-(self.log_alphas[name] * excess).mean(), self.alpha_optimizers[name])

    def weights(self) -> list[Tensor]:
        """Of actors, critics, their targets, and the log temperatures."""
        nets = [*self.agent.actors.values(), *self.critics, *self.targets]
        return [*(p for net in nets for p in net.parameters()), *self.log_alphas.values()]


def policy_of(actor: Actor) -> nn.Sequential:
    """The network of an actor, with its layers."""
    layers: list[nn.Module] = []
    if isinstance(actor, CategoricalActor):
        first, *norms = actor.norms
        for layer, norm in zip(actor.layers, norms, strict=True):
            layers += [layer, nn.ReLU(), norm]
        return nn.Sequential(first, *layers, actor.head)
    for layer in actor.layers:
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1], nn.Tanh(), actor.head)


def critic_of(net: Any, k: int) -> nn.Sequential:
    """Member k of an ensemble as a network of its own."""
    layers: list[nn.Module] = []
    for weight, bias in zip(net.weights, net.biases, strict=True):
        layer = nn.Linear(*weight.shape[1:])
        layer.weight.data, layer.bias.data = (
            weight[k].T.detach().clone(),
            bias[k, 0].detach().clone(),
        )
        layers += [nn.ReLU()] * bool(layers) + [layer]
    return nn.Sequential(*layers)


def weights_of(agent: HASAC) -> list[Tensor]:
    """In the order and the shapes of the plain form's."""
    ensembles = (agent.critic.net, agent.target.net)
    members = [critic_of(net, k) for net in ensembles for k in range(CONFIG.critics)]
    nets = [*agent.actors.values(), *members]
    return [*(p for net in nets for p in net.parameters()), *agent.temperature.log_value]


def measure(continuous: bool, rounds: int, updates: int) -> dict[str, Any]:
    envs = ParticleVectorEnv("spread", 20, continuous=continuous)
    replay = Replay(10_000, UniformSampler(), num_envs=20, discount=0.95)
    envs.reset()
    for _ in range(500):
        replay.add(envs.step(envs.sample_actions()).step)
    spaces = envs.spec.observation_space, envs.spec.action_space
    ours = HASAC(*spaces, CONFIG)
    others = {
        name: Plain(HASAC(*spaces, CONFIG), frozen=name == "frozen") for name in ("plain", "frozen")
    }
    updates_of = {"ours": ours.update, **{name: other.update for name, other in others.items()}}
    batch = replay.sample(256)
    for _ in range(5):
        for update in updates_of.values():
            update(batch)
    pairs = [
        pair for o in others.values() for pair in zip(weights_of(ours), o.weights(), strict=True)
    ]
    difference = max(float((a - b).detach().abs().max()) for a, b in pairs)
    assert difference < 1e-4, difference
    times: dict[str, list[float]] = {name: [] for name in updates_of}
    for _ in range(rounds):
        for name, update in updates_of.items():
            began = time.perf_counter()
            for _ in range(updates):
                update(batch)
            times[name].append((time.perf_counter() - began) / updates)
    ratios = {
        name: [b / a for a, b in zip(times["ours"], times[name], strict=True)] for name in others
    }
    return {
        "seconds": {name: statistics.median(each) for name, each in times.items()},
        "ratio": {name: statistics.median(each) for name, each in ratios.items()},
        "ratios": ratios,
        "greatest difference of a weight": difference,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--updates", type=int, default=50)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/hasac-update.json"))
    options = parser.parse_args()
    result: dict[str, Any] = {"command": "python benchmarks/hasac_update.py"}
    result["commit"] = subprocess.run(COMMIT, capture_output=True, text=True).stdout.strip()
    result |= {
        "machine": platform.platform(),
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg(),
        "versions": {name: version(name) for name in ("numpy", "torch")},
    }
    for threads, kind in itertools.product((1, 2), ("continuous", "discrete")):
        torch.set_num_threads(threads)
        found = measure(kind == "continuous", options.rounds, options.updates)
        result[f"{kind}, threads {threads}"] = found
        parts = [f"{who} {1e3 * value:.1f} ms" for who, value in found["seconds"].items()]
        parts += [f"{who} / ours {value:.2f}" for who, value in found["ratio"].items()]
        print(f"{kind:<10} threads {threads}: {', '.join(parts)}")
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
