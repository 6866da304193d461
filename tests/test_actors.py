"""The policies of agents among several: what their networks compute, and from what they begin."""

import copy
import math
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from hasac_cases import differentiable_sample, draw, make_spaces
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rlsuite.actors import CategoricalActor, NormalActor, make_actor, make_actors
from rlsuite.nets import tanh
from rlsuite.optim import descend, make_optimizer

OBS = Box(-1.0, 1.0, (4,))
CPU = torch.device("cpu")
SPACES = [Box(-1.0, 1.0, (2,)), Discrete(5), MultiDiscrete([3, 2])]


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


IMAGE = Box(0, 255, (4, 8, 8), np.uint8)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("seen", [OBS, IMAGE], ids=["vector", "image"])
@pytest.mark.parametrize("action", [Box(-1, 2, (2,)), Discrete(4, start=1), MultiDiscrete([2, 3])])
def test_a_stack_is_its_actors(seen: Box, action: Any, masked: bool) -> None:
    """Outputs, actions and log probabilities of three agents at once are those of each, and are
    still when weights have moved, by an optimizer, a saved state or to other memory."""
    agents = OrderedDict((name, (seen, action)) for name in "abc")
    masked = masked and not isinstance(action, Box)
    spaces = make_spaces(agents, masked=masked)
    rng = torch.Generator().manual_seed(0)
    make = {"generator": rng, "device": CPU}
    actors, (stack,) = make_actors(spaces[0], agents, (16, 16), "test", **make)
    obs = draw(spaces[0], 8, np.random.default_rng(0))

    def check() -> None:
        output, mask = stack(obs)
        assert not output.requires_grad
        assert (mask is not None) is masked
        rows = [stack.stacked.act(output, mask, None, explore=False)]
        noise = torch.Generator().manual_seed(1)
        rows += stack.stacked.sample(output, mask, noise)[:2]
        noise.manual_seed(1)
        for i, (name, actor) in enumerate(actors.items()):
            own_mask = obs["mask"][name] if masked else None
            alone = actor(obs["agents"][name])
            torch.testing.assert_close(output[i], alone, atol=1e-6, rtol=1e-5)
            expected = [actor.act(alone, own_mask, None, explore=False)]
            expected += actor.sample(alone, own_mask, noise)[:2]
            for found, of_one in zip(rows, expected, strict=True):
                torch.testing.assert_close(found[i], of_one, atol=1e-5, rtol=1e-5)

    check()
    saved = {name: copy.deepcopy(actor.state_dict()) for name, actor in actors.items()}
    for actor in actors.values():
        optimizer = make_optimizer("Adam", actor.parameters(), 0.1)
        descend(actor(obs["agents"]["a"]).square().sum(), optimizer)
    check()
    moved, _ = stack(obs)
    for name, actor in actors.items():
        actor.load_state_dict(saved[name])
    check()
    assert not torch.equal(moved, stack(obs)[0])
    for actor in actors.values():
        for p in actor.parameters():
            p.data = p.data + 0.1
    check()


def test_who_is_stacked() -> None:
    """Agents of equal observations, actions and masks, whatever stands between them."""
    agents = OrderedDict(
        a=(OBS, Discrete(4)),
        b=(OBS, Box(-1, 1, (2,))),
        c=(Box(-9.0, 9.0, (4,)), Discrete(4)),
        d=(OBS, Discrete(4, start=1)),
        e=(Box(-1.0, 1.0, (5,)), Discrete(4)),
        f=(OBS, Box(-1, 2, (2,))),
        g=(OBS, Discrete(4)),
    )
    spaces = make_spaces(agents, masked=True)
    del spaces[0]["mask"].spaces["g"]
    make = {"generator": torch.Generator(), "device": CPU}
    actors, stacks = make_actors(spaces[0], agents, (4,), "test", **make)
    assert list(actors) == list(agents)
    assert [stack.names for stack in stacks] == [["a", "c"], ["b"], ["d"], ["e"], ["f"], ["g"]]


def test_stacked_agents_have_weights_of_their_own() -> None:
    agents = OrderedDict((name, (OBS, Discrete(4))) for name in "ab")
    make = {"generator": torch.Generator(), "device": CPU}
    actors, _ = make_actors(make_spaces(agents)[0], agents, (4,), "test", **make)
    before = [p.detach().clone() for p in actors["b"].parameters()]
    optimizer = make_optimizer("Adam", actors["a"].parameters(), 0.1)
    descend(actors["a"](torch.ones(2, 4)).square().sum(), optimizer)
    for p, old in zip(actors["b"].parameters(), before, strict=True):
        assert torch.equal(p, old)


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1))
def test_the_tanh_of_a_hidden_layer(numbers: list[float]) -> None:
    """Within 2e-7 of the exact one, for infinite numbers too; its derivative within 5e-7."""
    x = torch.tensor(numbers, requires_grad=True)
    exact = torch.tanh(x.detach().double())
    y = tanh(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert ((y.detach().double() - exact).abs() <= 2e-7).all()
    assert ((slope.double() - (1.0 - exact.square())).abs() <= 5e-7).all()


@given(st.integers(0, 2**32 - 1), st.sampled_from(SPACES), st.floats(0.1, 20.0), st.booleans())
def test_derivatives_through_a_draw_are_those_of_autograd(
    seed: int, space: Any, scale: float, masked: bool
) -> None:
    """In double precision, also where the deviation is clamped, actions are not available, and with
    a number or a row each for the log probabilities."""
    rng = torch.Generator().manual_seed(seed)
    actor = make_actor(OBS, space, (8,), "test", generator=rng, device=CPU)
    outputs = actor.head.out_features
    output = scale * torch.randn(16, outputs, generator=rng, dtype=torch.float64)
    output.requires_grad_()
    mask = None
    if masked and isinstance(actor, CategoricalActor):
        mask = torch.randint(2, (16, outputs), generator=rng)
        mask[:, ::3] = 1  # one action of every head
    by_encoding = torch.randn(16, actor.size, generator=rng, dtype=torch.float64)
    by_log_prob = torch.randn(16, generator=rng, dtype=torch.float64)
    encoding, log_prob, pull = actor.sample(output, mask, rng.manual_seed(1))
    expected = differentiable_sample(actor, output, mask, rng.manual_seed(1))
    torch.testing.assert_close((encoding, log_prob), expected, check_dtype=False)
    for by in (by_log_prob, by_log_prob[0]):
        loss = (by_encoding * expected[0]).sum() + (by * expected[1]).sum()
        (slope,) = torch.autograd.grad(loss, output, retain_graph=True)
        # torch takes softplus(x) as x from 20 on: its derivative lacks 2e-9, times what multiplies
        # it, deviation and noise.
        atol = 1e-6 if isinstance(actor, NormalActor) else 1e-9
        torch.testing.assert_close(pull(by_encoding, by), slope, rtol=1e-8, atol=atol)
