"""Learning from noisy rewards: steps by hand, the memory, equilibria, and the gates."""

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from rlsuite import hasac_report, hasac_sampled
from rlsuite.agents.soft_policy_iteration import Annealing
from rlsuite.envs.matrix_games import PAYOFFS
from rlsuite.hasac_claims import SCHEDULES, Reached, equilibrium, reached
from rlsuite.hasac_sampled import RATE, ascend, learn, take_turns

Q = [[4.0, 1.0], [0.0, 2.0]]


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def both(*chances: float) -> list[Tensor]:
    """Policies of one seed from the chances of action 0."""
    return [torch.tensor([[p, 1 - p]], dtype=torch.float64).log() for p in chances]


def moved(p: float, advantage: float, temperature: float) -> float:
    """The chance of action 0 of 2 after a step: its logit gains p (1 - p) times the difference of
    the soft values, that of the other loses as much."""
    odds = math.log(p / (1 - p))
    odds += 2 * RATE * p * (1 - p) * (advantage - temperature * odds)
    return 1 / (1 + math.exp(-odds))


def test_a_gradient_step_by_hand() -> None:
    q, policies = torch.tensor([Q], dtype=torch.float64), both(0.5, 0.75)
    # Agent 0: means 3.25 and 0.5, no difference of entropy: log odds 2 * 0.03 * 0.25 * 2.75.
    found = ascend(q, policies, 0, 2.0)[0].exp().tolist()
    assert found == pytest.approx([1 / (1 + math.exp(-0.04125)), 1 / (1 + math.exp(0.04125))])
    # Agent 1: means 2 and 1.5, log odds ln 3.
    expected = moved(0.75, 0.5, 2.0)
    assert expected < 0.75  # entropy wins
    assert float(ascend(q, policies, 1, 2.0)[0, 0].exp()) == pytest.approx(expected)


def test_the_second_sees_the_new_policy_of_the_first() -> None:
    x, y = 0.3, 0.6
    q = torch.tensor([Q, Q], dtype=torch.float64)
    policies = [row.expand(2, 2) for row in both(x, y)]
    found = take_turns(q, policies, torch.tensor([[True], [False]]), 0.5)
    first = moved(x, 4 * y + (1 - y) - 2 * (1 - y), 0.5)
    second = moved(y, 4 * first - (first + 2 * (1 - first)), 0.5)
    assert [float(row[0, 0].exp()) for row in found] == pytest.approx([first, second], rel=1e-12)
    second = moved(y, 4 * x - (x + 2 * (1 - x)), 0.5)
    first = moved(x, 4 * second + (1 - second) - 2 * (1 - second), 0.5)
    assert [float(row[1, 0].exp()) for row in found] == pytest.approx([first, second], rel=1e-12)


def test_at_once_nobody_sees_what_is_new() -> None:
    """After one step the follower has another policy than at once, and the leader the same."""
    payoff, schedule = torch.tensor(PAYOFFS["mne"]), Annealing(initial=1.0)
    turns, at_once = (
        learn(payoff, schedule, draws(0), at_once=each, seeds=400, steps=1)
        for each in (False, True)
    )
    same = [(a == b).all(1) for a, b in zip(turns, at_once, strict=True)]
    assert bool((same[0] ^ same[1]).all())
    assert 140 < int(same[0].sum()) < 260  # six standard deviations of 10


def test_the_memory_holds_mean_rewards(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def record(q: Tensor, policies: Sequence[Tensor], leads: Tensor, temperature: float) -> object:
        seen.append((q[0].tolist(), temperature))
        return policies

    sure = [[1e3, -1e3], [-1e3, -1e3, 1e3]]
    values = itertools.chain(sure, [1.0, 2.0, 6.0])
    monkeypatch.setattr(hasac_sampled, "take_turns", record)
    monkeypatch.setattr(
        hasac_sampled,
        "normal",
        lambda draws, *shape: torch.tensor(next(values), dtype=torch.float64).view(1, -1),
    )
    payoff = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], dtype=torch.float64)
    learn(payoff, Annealing(initial=8.0, decay=0.5), draws(0), seeds=1, steps=3)
    for (q, temperature), mean, expected in zip(
        seen, (3.1, 3.15, 3.3), (8.0, 4.0, 2.0), strict=True
    ):
        assert q == [[0, 0, pytest.approx(mean)], [0, 0, 0]]
        assert temperature == expected


def test_at_a_fixed_temperature_it_ends_at_the_equilibrium() -> None:
    """mne at 10, from most starts: (0.02, 0.02, 0.96) for both."""
    exact = equilibrium(0, game="mne", temperature=10.0).policies
    payoff = torch.tensor(PAYOFFS["mne"])
    found = learn(payoff, Annealing(initial=10.0), draws(1), seeds=30, steps=600)
    for policy, expected in zip(found, exact, strict=True):
        middle = policy.exp().median(0).values.tolist()
        assert middle == pytest.approx(expected, abs=0.005)


def test_entropy_finds_what_greedy_steps_miss() -> None:
    """A shorter path of temperatures: of 40 seeds all were at the optimum, and 0.48 of greedy's.

    An annealed share of 0.98 would fail 1.2 of 1,000 times, a greedy one of 0.6 2.1 times.
    """
    payoff = torch.tensor(PAYOFFS["penalty"])
    annealed, greedy = (
        reached(payoff, learn(payoff, schedule, draws(2), seeds=40, steps=900)).likeliest
        for schedule in (Annealing(initial=20.0, decay=0.995), SCHEDULES["greedy"])
    )
    assert annealed >= 0.9
    assert greedy <= 0.82


@pytest.mark.parametrize(
    ("arm", "good", "passed"),
    [
        ("mne, annealed", 190, True),
        ("mne, annealed, at once", 189, False),
        ("penalty, annealed", 189, False),
        ("penalty, greedy", 160, True),
        ("mne, greedy", 161, False),
        ("climbing, annealed", 10, True),
        ("nonmono, annealed", 11, False),
        ("climbing, greedy", 40, None),
    ],
)
def test_gates(arm: str, good: int, passed: bool | None) -> None:
    found = [Reached(0.9, 1.0, 20.0)] * good + [Reached(0.1, 0.0, 5.0)] * (200 - good)
    share, best, payoff = hasac_report._sampled({("matrix sampled", arm): [found]})
    assert share.quantity.startswith(f"{arm}: share of 200 seeds")
    assert (share.value, share.passed) == (good / 200, passed)
    assert share.interval is not None and share.interval.low < share.value < share.interval.high
    assert best.value == pytest.approx(0.1 + 0.8 * good / 200)
    assert payoff.value == pytest.approx(5 + 15 * good / 200)
