"""The policies of agents among several: what their networks compute, and from what they begin."""

import math

import torch
import torch.nn.functional as F
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from torch import Tensor

from rlsuite.actors import CategoricalActor, NormalActor

OBS = Box(-1.0, 1.0, (4,))
CPU = torch.device("cpu")


def linear(x: Tensor, layer: torch.nn.Module) -> Tensor:
    weight, bias = layer.parameters()
    return x @ weight.T + bias


def normal(x: Tensor) -> Tensor:
    """Layer normalisation without scale and shift, as at the start."""
    return (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()


def test_a_normal_policy_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    box = Box(-1.0, 1.0, (3,))
    actor = NormalActor(OBS, box, (8, 7), "test", generator=generator, device=CPU)
    obs = torch.randn(5, 4, generator=generator)
    first, last = actor.layers
    expected = linear(linear(linear(obs, first).clamp(min=0.0), last).tanh(), actor.head)
    torch.testing.assert_close(actor(obs), expected)
    assert expected.shape == (5, 6)


def test_a_categorical_policy_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    space = MultiDiscrete([3, 2])
    actor = CategoricalActor(OBS, space, (8, 7), "test", generator=generator, device=CPU)
    obs = torch.randn(5, 4, generator=generator)
    x = normal(obs)
    for layer in actor.layers:
        x = normal(linear(x, layer).clamp(min=0.0))
    expected = linear(x, actor.head)
    torch.testing.assert_close(actor(obs), expected)
    parts = expected[:, :3].log_softmax(1), expected[:, 3:].log_softmax(1)
    torch.testing.assert_close(actor.log_pi(expected, None), torch.cat(parts, 1))


def test_a_categorical_policy_begins_nearly_uniform() -> None:
    generator = torch.Generator().manual_seed(0)
    actor = CategoricalActor(OBS, Discrete(5), (8, 7), "test", generator=generator, device=CPU)
    gains = [math.sqrt(2.0), math.sqrt(2.0), 0.01]
    for layer, gain in zip([*actor.layers, actor.head], gains, strict=True):
        weight, bias = layer.parameters()
        rows = weight if len(weight) <= weight.shape[1] else weight.T
        torch.testing.assert_close(rows @ rows.T, gain**2 * torch.eye(len(rows)))
        assert not bias.any()
    pi = F.softmax(actor(torch.randn(50, 4, generator=generator)), 1)
    assert (pi - 0.2).abs().max() < 0.01
