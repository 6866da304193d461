"""The mirror-learning template: its checker, and the instances with drift and trust region."""

import math
from typing import Any

import pytest
import torch
from hasac_cases import MIXED, make_batch, make_spaces
from torch import Tensor
from torch.distributions import Categorical, Normal, kl_divergence

from rlsuite.actors import Actor, CategoricalActor, NormalActor
from rlsuite.agents import HASAC, HASACConfig, HASACKLConfig, MEHATRPOConfig, hasac_kl, me_hatrpo
from rlsuite.agents.hasac import Mirror
from rlsuite.agents.mehaml import KLBall, KLDrift, check_mirror

SMALL: dict[str, Any] = {"hidden": (16, 16), "lr_actor": 1e-2, "lr_critic": 1e-2}


def actor_of(name: str) -> Actor:
    return HASAC(*make_spaces(MIXED), HASACConfig(**SMALL)).actors[name]


@pytest.mark.parametrize("mirror", [Mirror(), KLDrift(3.0, 4), KLBall(0.01, 4)])
def test_instances_keep_the_conditions(mirror: Mirror) -> None:
    assert check_mirror(mirror) == []


class Norm(Mirror):
    """Not squared: zero at the old policy, with a slope."""

    def drift(self, actor: Actor, output: Tensor, old: Tensor, mask: Tensor | None) -> Tensor:
        return (output - old).norm(dim=1)


class Bonus(Mirror):
    """An entropy bonus belongs into the objective."""

    def drift(self, actor: Actor, output: Tensor, old: Tensor, mask: Tensor | None) -> Tensor:
        return -output.square().sum(1)


class Frozen(Mirror):
    """A neighbourhood of the old policy alone."""

    def neighbourhood(
        self, actor: Actor, obs: Tensor, old: Tensor, mask: Tensor | None, weight: Tensor
    ) -> Any:
        before = [p.detach().clone() for p in actor.parameters()]

        def limit() -> None:
            with torch.no_grad():
                for p, b in zip(actor.parameters(), before, strict=True):
                    p.copy_(b)

        return limit


@pytest.mark.parametrize(
    ("mirror", "conditions"),
    [(Norm(), {"D2"}), (Bonus(), {"D1", "D2"}), (Frozen(), {"U1"})],
)
def test_the_checker_names_what_is_broken(mirror: Mirror, conditions: set[str]) -> None:
    found = check_mirror(mirror)
    spaces = [line.rsplit(": ", 2)[1] for line in found if line.count(": ") >= 2]
    assert conditions <= set(spaces)
    assert any("matrix game ends" in line for line in found) or isinstance(mirror, Bonus)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda kl: kl * torch.nan, "D1: a drift that is infinite or no number"),
        (lambda kl: kl[:, None], "a drift of shape (64, 1), where 64 rows need a number each"),
        (lambda kl: kl.mean(), "a drift of shape (), where 64 rows need a number each"),
        (lambda kl: kl.detach(), "a drift without a gradient holds nothing back"),
    ],
)
def test_drifts_that_would_do_nothing_or_harm(change: Any, problem: str) -> None:
    class Broken(KLDrift):
        def drift(self, *args: Any) -> Tensor:
            return change(super().drift(*args))

    found = check_mirror(Broken(3.0, 4))
    assert f"Discrete(4): {problem}" in found


def test_a_drift_that_ignores_masks_is_found() -> None:
    class Unmasked(Mirror):
        def drift(self, actor: Actor, output: Tensor, old: Tensor, mask: Tensor | None) -> Tensor:
            return actor.kl(output, old, None) if mask is None else (output - old).norm(dim=1)

    found = check_mirror(Unmasked())
    assert (
        "Discrete(4), masked: D2: a drift whose derivative at the old policy is not zero" in found
    )
    assert not any(line.startswith("Discrete(4):") for line in found)


def test_the_drift_is_of_the_new_policy_from_the_old() -> None:
    new, old = torch.full((2, 1, 5), -1e9)
    new[0, :2], old[0, :2] = torch.tensor([0.9, 0.1]).log(), torch.tensor([0.5, 0.5]).log()
    actor = actor_of("discrete")
    by_hand = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)  # the other way 0.51
    drift = KLDrift(2.0, 4).drift(actor, new, old, None)
    assert drift.tolist() == pytest.approx([2.0 * by_hand])


def test_divergences_equal_torchs() -> None:
    torch.manual_seed(0)
    normal, categorical, multi = (actor_of(name) for name in MIXED)
    assert isinstance(normal, NormalActor)
    a, b = torch.randn(2, 50, 4)
    means_and_stds = [normal.policy.mean_and_log_std(x) for x in (a, b)]
    p, q = (Normal(mean, log_std.exp()) for mean, log_std in means_and_stds)
    torch.testing.assert_close(normal.kl(a, b, None), kl_divergence(p, q).sum(1))

    for actor in (categorical, multi):
        assert isinstance(actor, CategoricalActor)
        a, b = torch.randn(2, 50, 5)
        expected = sum(
            kl_divergence(Categorical(logits=x), Categorical(logits=y))
            for x, y in zip(a.split(actor.heads, 1), b.split(actor.heads, 1), strict=True)
        )
        torch.testing.assert_close(actor.kl(a, b, None), expected)
        mask = torch.ones(50, 5, dtype=torch.int8)
        mask[:, 1] = 0  # what is not available counts for nothing
        b[:, 1] += 100.0
        other = a.clone()
        other[:, 1] -= 7.0
        torch.testing.assert_close(actor.kl(a, b, mask), actor.kl(other, b, mask))


def parameters(agent: HASAC) -> Tensor:
    return torch.cat([p.detach().flatten() for a in agent.actors.values() for p in a.parameters()])


@torch.no_grad()
def distance(agent: HASAC, start: HASAC, batch: Any) -> list[float]:
    return [
        float(
            actor.kl(
                start.actors[name](batch.obs["agents"][name]),
                actor(batch.obs["agents"][name]),
                None,
            ).mean()
        )
        for name, actor in agent.actors.items()
    ]


def test_a_drift_does_nothing_in_a_turn_of_one_step() -> None:
    """By D2 its gradient at the old policy is zero; in more steps it holds policies back."""
    spaces, batch = make_spaces(MIXED), make_batch(*make_spaces(MIXED), n=64)
    start = HASAC(*spaces, HASACConfig(**SMALL), seed=1)

    def after(drift: float, inner_steps: int) -> HASAC:
        config = HASACKLConfig(drift=drift, inner_steps=inner_steps, **SMALL)
        agent = hasac_kl(*spaces, config, seed=1)
        agent.learn(batch, [0, 1, 2])
        return agent

    # Rounding is all that Adam sees of the drift; its steps are of 1e-2.
    one = [parameters(after(drift, 1)) for drift in (0.0, 100.0)]
    torch.testing.assert_close(*one, rtol=0.0, atol=5e-4)
    free, held = (distance(after(drift, 8), start, batch) for drift in (0.0, 100.0))
    assert all(h < 0.5 * f for h, f in zip(held, free, strict=True))


class Coupled(KLDrift):
    """Every row's drift is the mean over the rows."""

    def drift(self, actor: Actor, output: Tensor, old: Tensor, mask: Tensor | None) -> Tensor:
        return super().drift(actor, output, old, mask).mean().expand(len(output))


@pytest.mark.parametrize("mirror", [KLDrift(20.0, 3), Coupled(20.0, 3)])
def test_a_turn_with_a_drift_is_that_of_autograd(mirror: Mirror) -> None:
    """Three steps of one agent, dead in some rows: its policy, and the last loss with the drift."""
    spaces = make_spaces(MIXED, masked=True)
    batch, config = make_batch(*spaces), HASACConfig(hidden=(8,), optimizer="SGD", lr_actor=0.1)
    ours, theirs = (HASAC(*spaces, config, mirror=mirror, seed=1) for _ in range(2))
    with torch.no_grad():
        for agent in (ours, theirs):  # policies and values that differ from row to row
            agent.actors["discrete"].head.weight.mul_(100.0)
            agent.critic.net.weights[-1].mul_(10.0)
    (found,) = ours._improve_actors(batch, torch.full((3,), 0.3), [1])
    obs: Any = batch.obs
    actor, seen = theirs.actors["discrete"], obs["agents"]["discrete"]
    mask, old = obs["mask"]["discrete"], actor(seen).detach()
    assert isinstance(actor, CategoricalActor)
    alive = obs["alive"][:, 1].float()
    assert 0.0 < alive.mean() < 1.0
    box, _, multi = (torch.zeros(len(seen), other.size) for other in theirs.actors.values())
    each = [one.expand(len(seen), -1) for one in torch.eye(actor.size)]
    values = [theirs.critic(obs["state"], [box, one, multi]).amin(0).detach() for one in each]
    optimizer = torch.optim.SGD(actor.parameters(), 0.1)
    for _ in range(3):
        output = actor(seen)
        log_pi = actor.log_pi(output, mask)
        soft = (log_pi.exp() * (0.3 * log_pi - torch.stack(values, 1))).sum(1)
        drift = mirror.drift(actor, output, old, mask)
        loss = (alive * (soft + drift)).sum() / alive.sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    torch.testing.assert_close(found[0], loss.detach())
    for p, expected in zip(ours.actors["discrete"].parameters(), actor.parameters(), strict=True):
        torch.testing.assert_close(p, expected, rtol=0.0, atol=1e-6)


def test_no_turn_leaves_the_trust_region() -> None:
    spaces, batch = make_spaces(MIXED), make_batch(*make_spaces(MIXED), n=64)
    start = HASAC(*spaces, HASACConfig(**SMALL), seed=1)
    moved = {}
    for radius in (1e-4, 1e3):
        config = MEHATRPOConfig(radius=radius, inner_steps=6, **SMALL)
        agent = me_hatrpo(*spaces, config, seed=1)
        agent.learn(batch, [0, 1, 2])
        moved[radius] = distance(agent, start, batch)
    assert all(0.0 < d <= 1e-4 for d in moved[1e-4])
    assert all(d > 1e-4 for d in moved[1e3])


def test_a_step_that_leaves_the_trust_region_costs_none_before_it() -> None:
    actor, obs = actor_of("box"), torch.randn(64, 4)
    limit = KLBall(0.01, 2).neighbourhood(actor, obs, actor(obs).detach(), None, torch.ones(64))
    params = list(actor.parameters())
    for distance in (1e-3, 1e3):
        before = [p.detach().clone() for p in params]
        with torch.no_grad():
            for p in params:
                p.add_(distance)
        limit()
    torch.testing.assert_close([p.detach() for p in params], before)


def test_the_trivial_instance_is_hasac() -> None:
    spaces, batch = make_spaces(MIXED), make_batch(*make_spaces(MIXED))
    plain = HASAC(*spaces, HASACConfig(**SMALL), seed=1)
    other = hasac_kl(*spaces, HASACKLConfig(drift=0.0, inner_steps=1, **SMALL), seed=1)
    for agent in (plain, other):
        agent.update(batch)
    assert torch.equal(parameters(plain), parameters(other))
