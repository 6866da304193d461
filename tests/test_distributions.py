"""The squashed normal: values, normalisation, entropy and gradients far in the tails."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from rlsuite.distributions import log_tanh_jacobian, squashed_normal

TABLE = {
    0.0: 0.0,
    0.5: -0.240229,
    1.0: -0.867562,
    3.0: -4.618657,
    5.0: -8.613796,
    8.0: -14.613706,
    10.0: -18.613706,
    20.0: -38.613706,
}
HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("u", "expected"), TABLE.items())
def test_log_jacobian_table(u: float, expected: float, sign: int) -> None:
    single = log_tanh_jacobian(torch.tensor(sign * u, dtype=torch.float32))
    double = log_tanh_jacobian(torch.tensor(sign * u, dtype=torch.float64))
    assert single.item() == pytest.approx(expected, abs=1e-5)
    assert double.item() == pytest.approx(expected, abs=6e-7)  # the table has six decimals
    assert double.item() == pytest.approx(-2 * math.log(math.cosh(u)), rel=1e-14, abs=1e-15)


def log_prob_at(u: float, epsilon: float | None) -> torch.Tensor:
    """log density at tanh(u) of a squashed normal whose mean is u, std 1; differentiable in u."""
    mean = torch.tensor([[u]], requires_grad=True)
    _, log_prob = squashed_normal(mean, torch.zeros(1, 1), torch.zeros(1, 1), epsilon)
    (gradient,) = torch.autograd.grad(log_prob.sum(), mean)
    return torch.stack([log_prob.detach()[0], gradient[0, 0]])


@pytest.mark.parametrize("u", [20.0, -20.0])
def test_tails_keep_value_and_gradient(u: float) -> None:
    value, gradient = log_prob_at(u, None)
    assert value.item() == pytest.approx(-HALF_LOG_TWO_PI + 38.613706, abs=1e-5)
    # -d log(1 - tanh(u)**2) / du = 2 tanh(u)
    assert gradient.item() == pytest.approx(math.copysign(2.0, u), abs=1e-6)


@pytest.mark.parametrize("u", [20.0, -20.0])
def test_epsilon_form_caps_the_correction(u: float) -> None:
    value, gradient = log_prob_at(u, 1e-6)
    assert value.item() == pytest.approx(-HALF_LOG_TWO_PI + 13.8155, abs=1e-4)
    assert gradient.item() == 0.0


def test_gradient_of_log_std_in_the_tail() -> None:
    # u = 0 + exp(log 4) * 5 = 20: d log pi / d log std = -1 + 2 tanh(u) * 4 * 5 = 39
    log_std = torch.full((1, 1), math.log(4.0), requires_grad=True)
    _, log_prob = squashed_normal(torch.zeros(1, 1), log_std, torch.full((1, 1), 5.0))
    (gradient,) = torch.autograd.grad(log_prob.sum(), log_std)
    assert gradient.item() == pytest.approx(39.0, rel=1e-6)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.7, 0.3)])
def test_density_integrates_to_one(mean: float, std: float) -> None:
    n = 200_000
    action = (torch.arange(n, dtype=torch.float64)[:, None] + 0.5) * (2 / n) - 1
    noise = (torch.atanh(action) - mean) / std
    again, log_prob = squashed_normal(
        torch.full_like(noise, mean), torch.full_like(noise, math.log(std)), noise
    )
    torch.testing.assert_close(again, action, rtol=0, atol=1e-12)
    assert log_prob.exp().sum().item() * 2 / n == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize(("mean", "std", "entropy"), [(0.0, 1.0, 0.669804), (0.7, 0.3, -0.296758)])
def test_monte_carlo_entropy(mean: float, std: float, entropy: float) -> None:
    noise = torch.randn(100_000, 1, generator=torch.Generator().manual_seed(0))
    _, log_prob = squashed_normal(
        torch.full_like(noise, mean), torch.full_like(noise, math.log(std)), noise
    )
    assert -log_prob.mean().item() == pytest.approx(entropy, abs=0.01)


# Beyond |u| = 5, tanh loses so many digits that torch cannot invert it.
@given(
    rows=st.lists(
        st.tuples(st.floats(-2, 2), st.floats(-3, 0), st.floats(-3, 3)), min_size=1, max_size=4
    )
)
def test_agrees_with_torch(rows: list[tuple[float, float, float]]) -> None:
    mean, log_std, noise = torch.tensor(rows, dtype=torch.float64).T[:, None]
    action, log_prob = squashed_normal(mean, log_std, noise)
    normal = Independent(Normal(mean, log_std.exp()), 1)
    reference = TransformedDistribution(normal, [TanhTransform()])
    torch.testing.assert_close(log_prob, reference.log_prob(action), rtol=1e-7, atol=1e-7)
    assert log_prob.shape == (1,)
