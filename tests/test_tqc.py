"""TQC's loss, truncation and update, by hand and against sb3-contrib."""

import itertools

import gymnasium as gym
import numpy as np
import pytest
import torch
from family_cases import SMALL, golden, golden_batch, golden_layers, set_constant, tensors
from sac_cases import ACT, OBS, make_batch
from torch import Tensor

import rlsuite.agents.tqc
import rlsuite.policies
from rlsuite.agents.tqc import TQC, TQCConfig, quantile_huber_loss
from rlsuite.buffers import Replay, UniformSampler
from rlsuite.errors import UserError
from rlsuite.types import Step


def test_quantile_huber_loss_by_hand() -> None:
    """Levels 1/4 and 3/4; errors of the quantiles 0 and 2 to the atoms -1, 0.5, 4.

    0: -1, 0.5, 4: Huber 0.5, 0.125, 3.5, weights 3/4, 1/4, 1/4: 0.375 + 0.03125 + 0.875 = 1.28125.
    2: -3, -1.5, 2: Huber 2.5, 1, 1.5, weights 1/4, 1/4, 3/4: 0.625 + 0.25 + 1.125 = 2.
    """
    quantiles, atoms = torch.tensor([[[0.0, 2.0]]]), torch.tensor([[-1.0, 0.5, 4.0]])
    loss = quantile_huber_loss(quantiles, atoms)
    assert loss.shape == (1,) and loss.item() == pytest.approx((1.28125 + 2) / 6)
    two_critics = torch.tensor([[[0.0, 2.0]], [[2.0, 0.0]]])
    # 2 at level 1/4: weights 3/4, 3/4, 1/4; 0 at level 3/4: weights 1/4, 3/4, 3/4.
    swapped = (1.875 + 0.75 + 0.375) + (0.125 + 0.09375 + 2.625)
    expected = ((1.28125 + 2) / 6 + swapped / 6) / 2
    assert quantile_huber_loss(two_critics, atoms).item() == pytest.approx(expected)


def test_quantile_huber_loss_is_least_at_the_quantiles() -> None:
    """With atoms far apart on the scale of kappa it is quantile regression."""
    atoms = torch.arange(8.0)[None] * 1000
    grid = [torch.tensor([[[x, y]]]) for x, y in itertools.product(range(0, 8000, 500), repeat=2)]
    best = min(grid, key=lambda q: quantile_huber_loss(q.float(), atoms).item())
    low, high = best.flatten().tolist()
    assert 1000 <= low <= 2000 and 5000 <= high <= 6000


def test_gradient_is_that_of_the_definition() -> None:
    quantiles = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    atoms = torch.randn(3, 5, dtype=torch.float64) * 2
    expected = torch.zeros(3, dtype=torch.float64)
    for k, b, m, i in itertools.product(range(2), range(3), range(4), range(5)):
        error = atoms[b, i] - quantiles[k, b, m]
        huber = error**2 / 2 if error.abs() <= 1 else error.abs() - 0.5
        level = (2 * m + 1) / 8
        expected[b] += (1 - level if error < 0 else level) * huber / (2 * 4 * 5)
    loss = quantile_huber_loss(quantiles, atoms)
    torch.testing.assert_close(loss, expected)
    gradients = [torch.autograd.grad(x.sum(), quantiles)[0] for x in (loss, expected)]
    torch.testing.assert_close(*gradients)


# As in test_sac_update.py: the action is 0, log pi -0.918939, temperature 0.5. The target critics
# say 1, 7, 3 and 5, 2, 9: pooled and sorted 1, 2, 3, 5, 7, 9, of which 2 * 1 are dropped. With
# reward 1 and discount 0.9 the atoms are 1 + 0.9 * (z + 0.459469). The priority is the mean
# deviation of the critics' means, 0 and 6, from the mean of the atoms, which is between them.
def test_target_by_hand() -> None:
    one = gym.spaces.Box(-2, 2, (1,), np.float32)
    config = TQCConfig(
        hidden_actor=(4,),
        hidden_critic=(4,),
        critics=2,
        quantiles=3,
        dropped_quantiles=1,
        temperature=0.5,
    )
    agent = TQC(OBS, one, config)
    set_constant(agent.actor, [0.0, 0.0])
    set_constant(agent.target, [1.0, 7.0, 3.0], [5.0, 2.0, 9.0])
    set_constant(agent.critic, [0.0, 0.0, 0.0], [5.0, 6.0, 7.0])
    replay = Replay(1, UniformSampler(), discount=0.9)
    obs, no = torch.randn(1, 3), torch.tensor([False])
    replay.add(Step(obs, torch.tensor([[0.7]]), torch.ones(1), obs + 1, no, no))
    update = agent.learn(replay.sample(1), torch.zeros(2, 1, 1))
    atoms = [1 + 0.9 * (z + 0.459469) for z in (1, 2, 3, 5)]
    assert 0 < sum(atoms) / 4 < 6
    assert update.priority.item() == pytest.approx(3.0, abs=1e-5)
    quantiles = torch.tensor([[[0.0, 0.0, 0.0]], [[5.0, 6.0, 7.0]]])
    loss = quantile_huber_loss(quantiles, torch.tensor([atoms])).item()
    assert update.metrics["loss/critic"].item() == pytest.approx(loss, abs=1e-5)
    assert update.metrics["value/q"].item() == 3.0


@pytest.mark.parametrize("dropped", [0, 1, 4])
def test_the_highest_of_the_pool_are_dropped(dropped: int) -> None:
    config = TQCConfig(
        hidden_actor=(4,), hidden_critic=(4,), critics=3, quantiles=5, dropped_quantiles=dropped
    )
    quantiles = torch.randn(3, 7, 5)
    kept = TQC(OBS, ACT, config)._keep_lowest(quantiles)
    assert kept.shape == (7, 3 * (5 - dropped))
    for row in range(7):
        pool = sorted(quantiles[:, row].flatten().tolist())
        assert kept[row].tolist() == pool[: 3 * (5 - dropped)]


def test_nothing_left_is_refused() -> None:
    with pytest.raises(UserError, match="dropped_quantiles is 25"):
        TQC(OBS, ACT, TQCConfig(dropped_quantiles=25))


def test_updates_are_those_of_sb3_contrib(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (rlsuite.agents.tqc, rlsuite.policies):
        monkeypatch.setattr(module, "flatten_features", lambda tree: tree)  # else float32
    expected = golden("tqc")
    config = TQCConfig(
        hidden_actor=(6, 6),
        hidden_critic=(6, 6),
        critics=3,
        quantiles=4,
        dropped_quantiles=1,
        lr_actor=1e-3,
        lr_critic=1e-3,
        lr_temperature=1e-3,
        target_rate=0.02,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        agent = TQC(OBS, ACT, config)
        policy = agent.policy
        policy.epsilon = 1e-6
        policy.center, policy.half_range = policy.center.double(), policy.half_range.double()
        start = networks(expected["start"])
        with torch.no_grad():
            for name, value in start.items():
                net, kind, layer = name.split("/")
                getattr(getattr(agent, net), kind)[int(layer)].copy_(value)
        for update in expected["updates"]:
            metrics = agent.learn(*golden_batch(update, agent)).metrics
            assert metrics["loss/critic"].item() == pytest.approx(
                update["losses"]["critic_loss"], rel=1e-10
            )
            assert metrics["loss/actor"].item() == pytest.approx(
                update["losses"]["actor_loss"], rel=1e-10
            )
        found = tensors(agent)
        end = networks(expected["end"])
    finally:
        torch.set_default_dtype(before)
    assert {n.replace("/", ".").replace(".", "/") for n in end} <= {
        n.replace(".", "/") for n in found
    }
    for name, value in end.items():
        net, kind, layer = name.split("/")
        assert not torch.equal(value, start[name])
        torch.testing.assert_close(found[f"{net}/{kind}.{layer}"], value, rtol=0, atol=1e-9)
    assert found["log_temperature"].item() == pytest.approx(
        expected["end"]["log_temperature"], rel=1e-9
    )


def networks(state: dict) -> dict[str, Tensor]:
    return {
        f"{net}/{kind}/{i}": layer[which]
        for net in ("actor", "critic", "target")
        for i, layer in enumerate(golden_layers(state[net]))
        for which, kind in enumerate(("weights", "biases"))
    }


def test_the_policy_climbs_the_mean_of_all_quantiles() -> None:
    agent = TQC(OBS, ACT, SMALL[TQC])
    set_constant(agent.critic, [1.0, 2.0, 3.0, 4.0, 5.0], [0.0, 0.0, 0.0, 0.0, 20.0])
    agent.critic_optimizer.param_groups[0]["lr"] = 0.0
    metrics = agent.update(make_batch(4)).metrics
    loss = -metrics["policy/entropy"].item() * 1.0 - 3.5  # the temperature is 1
    assert metrics["loss/actor"].item() == pytest.approx(loss, abs=1e-5)
