"""Generalised advantages: by hand, and against the definition as a double sum."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rlsuite.returns import generalized_advantage


def test_by_hand() -> None:
    """discount 0.5, trace 0.5: a sum is multiplied by 0.25 at each step back.

    Environment 0: a termination after step 1 (no bootstrap from its value of 100), then a step at
    the end of the rollout. Environment 1: the same with a truncation, which bootstraps from 8.
    """
    reward = torch.tensor([[1.0, 1.0], [2.0, 2.0], [4.0, 4.0]])
    value = torch.tensor([[2.0, 2.0], [4.0, 4.0], [6.0, 6.0]])
    next_value = torch.tensor([[4.0, 4.0], [100.0, 8.0], [10.0, 10.0]])
    terminated = torch.tensor([[False, False], [True, False], [False, False]])
    truncated = torch.tensor([[False, False], [False, True], [False, False]])
    advantage, target = generalized_advantage(
        reward, value, next_value, terminated, truncated, discount=0.5, trace=0.5
    )
    # delta: 1 + 2 - 2 = 1; 2 - 4 = -2, or 2 + 4 - 4 = 2; 4 + 5 - 6 = 3.
    expected = torch.tensor([[1 - 0.25 * 2, 1 + 0.25 * 2], [-2.0, 2.0], [3.0, 3.0]])
    assert torch.equal(advantage, expected)
    assert torch.equal(target, expected + value)


def brute_force(
    reward: Tensor, value: Tensor, following: Tensor, over: Tensor, cut: Tensor, g: float, k: float
) -> Tensor:
    """A_t = sum over l of (g k)^l delta_{t+l}, up to the end of the episode or of the rollout."""
    result = torch.zeros_like(value)
    for t in range(len(reward)):
        for n in range(reward.shape[1]):
            for later in range(t, len(reward)):
                bootstrap = 0.0 if over[later, n] else g * following[later, n]
                delta = reward[later, n] + bootstrap - value[later, n]
                result[t, n] += (g * k) ** (later - t) * delta
                if over[later, n] or cut[later, n]:
                    break
    return result


@given(
    seed=st.integers(0, 2**31),
    steps=st.integers(1, 6),
    envs=st.integers(1, 3),
    discount=st.sampled_from([0.0, 0.9, 1.0]),
    trace=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_is_the_sum_of_its_definition(
    seed: int, steps: int, envs: int, discount: float, trace: float
) -> None:
    random = torch.Generator().manual_seed(seed)
    reward, value, following = torch.randn((3, steps, envs), generator=random, dtype=torch.float64)
    over, cut = torch.rand((2, steps, envs), generator=random) < 0.3
    advantage, target = generalized_advantage(
        reward, value, following, over, cut, discount=discount, trace=trace
    )
    expected = brute_force(reward, value, following, over, cut, discount, trace)
    torch.testing.assert_close(advantage, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(target, expected + value, rtol=0, atol=1e-12)
    if trace == 1.0 and discount == 1.0 and not (over | cut).any():
        total = reward.flip(0).cumsum(0).flip(0) + following[-1]  # telescopes if V is consistent
        consistent = torch.cat([value[1:], following[-1:]])
        _, target = generalized_advantage(
            reward, value, consistent, over, cut, discount=1.0, trace=1.0
        )
        torch.testing.assert_close(target, total, rtol=0, atol=1e-12)


def test_several_values_a_state() -> None:
    """Every view's value by itself, from the same reward and the same ends."""
    random = torch.Generator().manual_seed(0)
    reward = torch.randn((5, 2), generator=random)
    value, following = torch.randn((2, 5, 2, 3), generator=random)
    over, cut = torch.rand((2, 5, 2), generator=random) < 0.3
    both = generalized_advantage(reward, value, following, over, cut, discount=0.9, trace=0.8)
    for view in range(3):
        one = generalized_advantage(
            reward, value[..., view], following[..., view], over, cut, discount=0.9, trace=0.8
        )
        for all_views, single in zip(both, one, strict=True):
            torch.testing.assert_close(all_views[..., view], single)


@pytest.mark.parametrize("views", [(), (1,)])
def test_one_environment(views: tuple[int, ...]) -> None:
    shape = (1, 1, *views)
    ends = torch.zeros(1, 1, dtype=torch.bool)
    advantage, _ = generalized_advantage(
        torch.ones(1, 1),
        torch.ones(shape),
        torch.ones(shape),
        ends,
        ends,
        discount=0.5,
        trace=1.0,
    )
    assert advantage.shape == shape and advantage.item() == 0.5
