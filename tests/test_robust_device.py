"""Robust planning on a device: the fake one of test_device.py, and CUDA if there is any."""

import dataclasses
from typing import Any

import pytest
import torch
from test_device import NoWaiting, fakegpu  # noqa: F401
from torch._subclasses.fake_tensor import DataDependentOutputException

from rlsuite.agents.adversaries import FixedKernel
from rlsuite.agents.drpg import DRPG, DRPGConfig
from rlsuite.agents.robust_planning import (
    assess,
    fill,
    kernel_gradient,
    occupancy,
    optimality_gap,
    robust_evaluate,
)
from rlsuite.ambiguity import KL, L1, Contamination, L1PerState, LInf
from rlsuite.envs.garnet import garnet
from rlsuite.robust import RobustMDP
from rlsuite.tilt import Parameters, TiltedKernel

ROBUST_SETS = [L1, LInf, Contamination, KL, L1PerState]


def unchecked(cls: type[Any], *fields: Any) -> Any:
    """A frozen dataclass without its checks, which read values."""
    made = object.__new__(cls)
    for field, value in zip(dataclasses.fields(cls), fields, strict=True):
        object.__setattr__(made, field.name, value)
    return made


def robust_mdp(kind: Any, device: str) -> RobustMDP:
    shape = (2, 4, 3, 2)
    successor = torch.zeros(shape, dtype=torch.int64, device=device)
    nominal, initial = (torch.ones(s, device=device).double() for s in (shape, shape[:2]))
    ambiguity = kind(nominal[..., 0, 0] if kind.per_state else nominal[..., 0])
    support = torch.ones(shape, dtype=torch.bool, device=device)
    return unchecked(  # type: ignore[no-any-return]
        RobustMDP, successor, support, nominal, nominal, initial, 0.9, ambiguity
    )


@pytest.mark.parametrize("kind", ROBUST_SETS)
def test_planning_waits_only_to_stop(fakegpu: str, kind: Any) -> None:  # noqa: F811
    """Inner problems, evaluation, gradients, steps; a loop reads whether it may end, no more."""
    mdp = robust_mdp(kind, fakegpu)
    for form in ("direct", "softmax"):
        solver = DRPG(mdp, DRPGConfig(policy=form), adversary=FixedKernel(mdp))
        with NoWaiting():
            assert all(str(x.device) == "fakegpu:0" for x in solver.iterate().values())
    with NoWaiting():
        evaluation, worst, _ = assess(mdp, solver.policy, mdp.nominal)
        z, d = mdp.target(evaluation.v), occupancy(mdp, evaluation)
        ascent = kernel_gradient(mdp, d, z, solver.policy)
        mdp.improve(z)
        optimality_gap(mdp, evaluation.v)
        fill(mdp, solver.policy, worst, worst)
        if kind is not KL:
            mdp.project(worst + ascent)
    with pytest.raises(DataDependentOutputException):
        robust_evaluate(mdp, solver.policy)


def test_tilts_wait_for_nothing(fakegpu: str) -> None:  # noqa: F811
    mdp = robust_mdp(L1, fakegpu)
    xi = Parameters(*(torch.ones((2, 3), device=fakegpu).double() for _ in range(2)))
    phi, zeta = (torch.ones(s, device=fakegpu).double() for s in ((2, 4, 3), (2, 4, 3, 3)))
    tilt = unchecked(TiltedKernel, mdp.nominal, phi, zeta, xi, (1.0, 1.0), 1e-5)
    with NoWaiting():
        kernel = tilt.kernel(xi, mdp.successor)
        tilt.project(tilt.gradient(xi, mdp.successor, kernel))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.cuda
@pytest.mark.parametrize("rectangular", ["sa", "s"])
def test_cpu_and_cuda_plan_the_same(rectangular: Any) -> None:
    mdp = garnet(10, 5, 6, instances=5, rectangular=rectangular)
    on_cpu, on_cuda = DRPG(mdp), DRPG(mdp.to("cuda"))
    for _ in range(5):
        on_cpu.iterate(), on_cuda.iterate()
    torch.testing.assert_close(on_cuda.bound.cpu(), on_cpu.bound, rtol=1e-8, atol=0)
