"""HASAC: its update against a naive one, its temperatures, masks, views and saved states."""

from typing import Any

import pytest
import torch
from hasac_cases import MIXED, Naive, make_batch, make_spaces

from rlsuite.agents.hasac import HASAC, HASACConfig

SMALL = {"hidden": (16, 16), "lr_actor": 1e-2, "lr_critic": 1e-2, "initial_temperature": 0.3}


def tensors(tree: Any, prefix: str = "") -> dict[str, torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        return {prefix: tree}
    if isinstance(tree, dict):
        return {
            k: v
            for key, child in tree.items()
            for k, v in tensors(child, f"{prefix}/{key}").items()
        }
    return {}


@pytest.mark.parametrize("gradient", ["exact", "gumbel"])
@pytest.mark.parametrize("views", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_update_equals_the_naive_one(gradient: Any, views: bool, masked: bool) -> None:
    """Cached first layer, exact sums and shared parts change nothing: 1e-5 after three updates."""
    spaces = make_spaces(MIXED, views=views, masked=masked)
    ours = HASAC(*spaces, HASACConfig(gradient=gradient, **SMALL), seed=1)
    theirs = Naive(HASAC(*spaces, HASACConfig(gradient=gradient, **SMALL), seed=1))
    for seed in range(3):
        batch = make_batch(*spaces, seed=seed)
        found = ours.update(batch)
        assert float(found.metrics["loss/critic"]) == pytest.approx(
            theirs.update(batch)["loss/critic"], rel=1e-5
        )
    a, b = tensors(ours.state_dict()), tensors(theirs.agent.state_dict())
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=2e-4, atol=2e-5, msg=name)
