"""Maximum-entropy heterogeneous-agent mirror learning (Liu et al., arXiv 2306.10715, section 3).

The template behind HASAC: every agent in its turn climbs the soft value less a drift, inside a
neighbourhood of its old policy. Whatever the two are, if they keep the conditions that
``check_mirror`` checks, exact steps never lower the soft value of a state and end in quantal
response equilibria. With networks and a few gradient steps per turn that is a heuristic.

Instances here: HASAC itself (``rlsuite.agents.hasac.Mirror``), HASAC-KL (``KLDrift``), and the
neighbourhood of ME-HATRPO (``KLBall``). All take their states from the replay, where ME-HATRPO's
theory has the newest policy's own: a small ``replay.capacity`` comes nearer to that.

Trained by ``rlsuite.loops.replay_loop``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import gymnasium as gym
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from torch import Tensor, nn

from rlsuite.actors import Actor, make_actor
from rlsuite.agents.hasac import HASAC, METRICS, HASACConfig, Mirror
from rlsuite.agents.soft_policy_iteration import (
    MarkovGame,
    average,
    quantal_residual,
    soft_value,
)
from rlsuite.rng import generator
from rlsuite.settings import NonNegative, Positive, PositiveCount, settings

__all__ = [
    "METRICS",
    "HASACKLConfig",
    "KLBall",
    "KLDrift",
    "MEHATRPOConfig",
    "check_mirror",
    "hasac_kl",
    "me_hatrpo",
]

HALVINGS = 5
"""How often a step that leaves a KL ball is halved, before it is taken back."""


class KLDrift(Mirror):
    """HASAC-KL: the drift ``weight`` * KL(new || old)."""

    def __init__(self, weight: float, inner_steps: int) -> None:
        """``weight`` is 1/eta, in the reward's units per nat."""
        self.weight, self.inner_steps = weight, inner_steps

    def drift(self, actor: Actor, output: Tensor, old: Tensor, mask: Tensor | None) -> Tensor:
        """(B,) weighted KL divergences."""
        return self.weight * actor.kl(output, old, mask)


class KLBall(Mirror):
    """ME-HATRPO's neighbourhood: mean KL(old || new) of at most ``radius`` nats.

    A gradient step that leaves it is halved until it does not, as in a line search.
    """

    def __init__(self, radius: float, inner_steps: int) -> None:
        self.radius, self.inner_steps = radius, inner_steps

    def neighbourhood(
        self, actor: Actor, obs: Tensor, old: Tensor, mask: Tensor | None, weight: Tensor
    ) -> Callable[[], None]:
        """See ``Mirror``."""
        params = list(actor.parameters())
        before = [p.detach().clone() for p in params]

        @torch.no_grad()
        def limit() -> None:
            for halving in range(HALVINGS + 1):
                divergence = (weight * actor.kl(old, actor(obs), mask)).mean()
                share = 0.5 if halving < HALVINGS else 1.0  # the last takes the step back
                # A tensor, so that the host need not know whether the step was too long.
                back = torch.where(divergence > self.radius, share, 0.0)
                for p, b in zip(params, before, strict=True):
                    p.add_((b - p) * back)
            for p, b in zip(params, before, strict=True):
                b.copy_(p)

        return limit


@settings
class HASACKLConfig(HASACConfig):
    """Settings of HASAC-KL: HASAC's, and what holds the policies back."""

    drift: NonNegative = 1.0
    """Weight 1/eta of the drift KL(new || old), in the reward's units per nat."""
    inner_steps: PositiveCount = 4
    """Gradient steps in an agent's turn; a drift does nothing in the first."""


@settings
class MEHATRPOConfig(HASACConfig):
    """Settings of the trust region: HASAC's, and what holds the policies back."""

    radius: Positive = 0.01
    """Nats of mean KL(old || new) that a policy may move in a turn."""
    inner_steps: PositiveCount = 4
    """Gradient steps in an agent's turn."""


def hasac_kl(
    observation_space: gym.Space[Any],
    action_space: gym.Space[Any],
    config: HASACKLConfig | None = None,
    *,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> HASAC:
    """A HASAC with the drift of HASAC-KL. Raises what HASAC raises."""
    config = config or HASACKLConfig()
    mirror = KLDrift(config.drift, config.inner_steps)
    return HASAC(observation_space, action_space, config, mirror=mirror, device=device, seed=seed)


def me_hatrpo(
    observation_space: gym.Space[Any],
    action_space: gym.Space[Any],
    config: MEHATRPOConfig | None = None,
    *,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> HASAC:
    """A HASAC in the neighbourhood of ME-HATRPO. Raises what HASAC raises."""
    config = config or MEHATRPOConfig()
    mirror = KLBall(config.radius, config.inner_steps)
    return HASAC(observation_space, action_space, config, mirror=mirror, device=device, seed=seed)


def check_mirror(mirror: Mirror, *, seed: int = 0) -> list[str]:
    """What an instance breaks of the template's conditions; empty if nothing was found.

    Tries that a drift is one finite number for each row, with a gradient; (D1) that it is not
    negative, and zero at the old policy; (D2) that its gradient there is zero; (U1) that a
    neighbourhood holds the old policy and those close to it: on random policies of Box, Discrete
    and MultiDiscrete spaces, the latter with all actions and with masks. Then it takes exact steps
    in a matrix game of three equilibria, in float64: the soft value must not fall, and the policies
    must end in a quantal response equilibrium. Takes seconds.
    """
    found: list[str] = []
    for space in (Box(-1.0, 1.0, (2,)), Discrete(4), MultiDiscrete([3, 2])):
        for masked in (False, True) if not isinstance(space, Box) else (False,):
            where = f"{space}{', masked' if masked else ''}"
            problems = _check_conditions(mirror, space, seed, masked=masked)
            found += [f"{where}: {problem}" for problem in problems]
    return found + _check_steps(mirror, seed)


def _check_conditions(
    mirror: Mirror, space: gym.Space[Any], seed: int, *, masked: bool
) -> list[str]:
    random = generator(seed, "check mirror", str(space))
    make = {"generator": random, "device": torch.device("cpu")}
    actor = make_actor(Box(-1.0, 1.0, (4,)), space, (16,), "check_mirror", **make)  # type: ignore[arg-type]
    obs = torch.randn(64, 4, generator=random)
    old = actor(obs).detach()
    mask = torch.ones(old.shape, dtype=torch.int8) if masked else None
    if mask is not None:
        mask[::2, 1] = 0
    found = _check_drift(mirror, actor, old.double(), mask, random)
    for distance in (0.0, 1e-4):
        limit = mirror.neighbourhood(actor, obs, actor(obs).detach(), mask, torch.ones(64))
        params = list(actor.parameters())
        with torch.no_grad():
            for p in params:
                p.add_(distance * torch.randn(p.shape, generator=random))
        asked = [p.detach().clone() for p in params]
        limit()
        if not all(torch.equal(p, q) for p, q in zip(params, asked, strict=True)):
            found.append(f"U1: a policy at distance {distance} from the old one is not allowed")
    return found


def _check_drift(
    mirror: Mirror, actor: Actor, old: Tensor, mask: Tensor | None, random: torch.Generator
) -> list[str]:
    direction = torch.randn(old.shape, generator=random, dtype=torch.float64).requires_grad_()
    drifts = []
    for distance in (0.0, 1e-3, 2e-3, 1.0):
        drift = torch.as_tensor(mirror.drift(actor, old + distance * direction, old, mask))
        # A number, which has no gradient, may stand for no drift.
        if drift.shape != old.shape[:1] and (drift.shape or drift.requires_grad):
            return [
                f"a drift of shape {tuple(drift.shape)}, where {len(old)} rows need a number each"
            ]
        drifts.append(drift.detach())
    acts = drift.requires_grad or not drift.any()
    still, near, far, farther = drifts
    if not bool(torch.stack([drift.isfinite().all() for drift in drifts]).all()):
        return ["D1: a drift that is infinite or no number"]
    problems = {
        "D1: a drift at the old policy that is not zero": (still.abs() > 1e-9).any(),
        "D1: a drift below zero": (near < -1e-9).any() | (farther < -1e-9).any(),
        # Without a first derivative it grows by the square of the distance, or faster.
        "D2: a drift whose derivative at the old policy is not zero": (
            (near.abs() > 1e-12) & (far.abs() < 3.0 * near.abs())
        ).any(),
        "a drift without a gradient holds nothing back": not acts,
    }
    return [problem for problem, is_there in problems.items() if is_there]


class _Table(nn.Module):
    """The policy of a single state by its (1, actions) logits."""

    def __init__(self, like: Actor, log_pi: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(log_pi.clone())
        self.kl = like.kl

    def forward(self, obs: Tensor) -> Tensor:
        return self.logits * 1.0


def _check_steps(mirror: Mirror, seed: int, temperature: float = 10.0) -> list[str]:
    payoff = torch.tensor([[5.0, -20.0, -20.0], [-20.0, 10.0, -20.0], [-20.0, -20.0, 20.0]])
    game = MarkovGame.one_step(payoff)
    random = generator(seed, "check mirror steps")
    make = {"generator": random, "device": torch.device("cpu")}
    like = make_actor(Box(-1.0, 1.0, (1,)), Discrete(3), (), "check_mirror", **make)  # type: ignore[arg-type]
    policies = [
        torch.randn(1, 3, generator=random, dtype=torch.float64).log_softmax(1) for _ in range(2)
    ]
    values = [float(soft_value(game, policies, temperature))]
    for _ in range(150):
        for agent in (0, 1):
            score = average(game.payoff, policies, [agent])
            policies[agent] = _step(mirror, like, policies[agent], score, temperature)
        values.append(float(soft_value(game, policies, temperature)))
        if not math.isfinite(values[-1]):
            break
    found = []
    worst = float(torch.tensor(values, dtype=torch.float64).diff().min())
    if not worst >= -1e-9:  # nor is it no number
        found.append(f"the soft value falls by {-worst:.3g} in a sweep of a matrix game")
    residual = float(quantal_residual(game.payoff, policies, temperature))
    if not residual <= 1e-6:
        found.append(f"a matrix game ends {residual:.3g} from a quantal response equilibrium")
    return found


def _step(mirror: Mirror, like: Actor, old: Tensor, score: Tensor, temperature: float) -> Tensor:
    """The template's exact step of one agent: (1, actions) log probabilities from the old ones and
    the actions' values."""
    table, obs = _Table(like, old), torch.zeros(1, 1)
    actor = cast(Actor, table)
    limit = mirror.neighbourhood(actor, obs, old, None, torch.ones(1))
    optimizer = torch.optim.LBFGS(
        table.parameters(),
        max_iter=100,
        tolerance_grad=1e-12,
        tolerance_change=1e-16,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        log_pi = table(obs).log_softmax(1)
        value = (log_pi.exp() * (score - temperature * log_pi)).sum(1)
        total: Tensor = (mirror.drift(actor, table(obs), old, None) - value).sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    limit()
    return table.logits.detach().log_softmax(1)
