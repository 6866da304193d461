"""Optimizers by name, and the one way a loss moves parameters."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from rlsuite.errors import UserError
from rlsuite.types import State


def make_optimizer(
    name: str, params: Iterable[nn.Parameter], lr: float, **options: Any
) -> torch.optim.Optimizer:
    """The optimizer of class ``name`` of ``torch.optim``, else of the package pytorch-optimizer.

    The fused kernel is taken where the class has one. Gradients get fixed memory here, so that a
    step can be captured in a CUDA graph. ``options`` go to the class; None keeps its own. Raises
    UserError for an unknown name, or options that the class does not take.
    """
    params = list(params)
    for p in params:
        p.grad = torch.zeros_like(p)
    cls = getattr(torch.optim, name, None)
    if cls is None:
        try:
            import pytorch_optimizer
        except ImportError:
            raise UserError(
                f"unknown optimizer {name!r}: take one of torch.optim (Adam, AdamW, ...) or "
                "install more with: pip install pytorch-optimizer"
            ) from None
        cls = getattr(pytorch_optimizer, name, None)
    # These need a closure, or sparse gradients.
    unusable = (torch.optim.LBFGS, torch.optim.SparseAdam)
    if not (isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)) or cls in unusable:
        raise UserError(
            f"unknown optimizer {name!r}: take Adam, AdamW, RMSprop, ... of torch.optim, or one "
            "of pytorch-optimizer"
        )
    options = {name: value for name, value in options.items() if value is not None}
    if cls in (torch.optim.Adam, torch.optim.AdamW):
        options = {"fused": True, "capturable": params[0].is_cuda, **options}
    try:
        return cls(params, **{"lr": lr, **options})
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"optimizer {name!r} cannot be used here: {error}") from error


def descend(
    value: Tensor,
    optimizer: torch.optim.Optimizer,
    max_grad_norm: float | None = None,
    *,
    going: Tensor | None = None,
    slope: Tensor | None = None,
) -> None:
    """One optimizer step down the gradient of a loss, in the optimizer's own parameters alone.

    ``value`` is the loss; or something that it depends on, of any shape, and ``slope`` the loss's
    derivative by that. A gradient longer than ``max_grad_norm``, over all parameters,
    is scaled down to it. Where ``going`` is false the step is undone, and the host need not know: a
    bool, or of the shape of the parameters; then what the optimizer keeps for all of them, its
    count of steps, goes on.
    """
    params = [p for group in optimizer.param_groups for p in group["params"]]
    if going is not None:
        before = [p.detach().clone() for p in params]
        kept = [t.clone() for t in _state_of(optimizer)]
    for p in params:
        if p.grad is None:  # of a copy: torch copies parameters without
            p.grad = torch.zeros_like(p)
    torch._foreach_copy_([p.grad for p in params], torch.autograd.grad(value, params, slope))
    if max_grad_norm is not None:
        nn.utils.clip_grad_norm_(params, max_grad_norm)
    optimizer.step()
    if going is not None:
        _undo_unless(going, optimizer, params, before, kept)


@torch.no_grad()
def _undo_unless(
    going: Tensor,
    optimizer: torch.optim.Optimizer,
    params: list[nn.Parameter],
    before: list[Tensor],
    kept: list[Tensor],
) -> None:
    """Take parameters and the optimizer's state back to what they were."""
    for p, old in zip(params, before, strict=True):
        p.copy_(torch.where(going, p, old))
    state = _state_of(optimizer)
    # What the first step has made began at zero.
    for now, was in zip(state, kept or [torch.zeros_like(t) for t in state], strict=True):
        # A count that is kept on the host would have to wait for the device.
        if now.ndim >= going.ndim and now.device == going.device:
            now.copy_(torch.where(going, now, was))


def _state_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """All tensors that the optimizer keeps."""
    return [t for s in optimizer.state.values() for t in s.values() if isinstance(t, Tensor)]


def optimizer_state(optimizer: torch.optim.Optimizer) -> State:
    """What the optimizer has accumulated, by the parameter's number, and its groups' counters.

    Not its settings: those come from the config and the device.
    """
    whole = optimizer.state_dict()
    groups = [
        {
            key: value
            for key, value in group.items()
            if key not in optimizer.defaults and isinstance(value, bool | int | float)
        }
        for group in whole["param_groups"]
    ]
    return {"state": {str(i): dict(s) for i, s in whole["state"].items()}, "groups": groups}


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: State) -> None:
    """Continue with what ``optimizer_state`` returned; nothing is shared with ``state``."""
    whole = optimizer.state_dict()
    whole["state"] = {int(i): copy.deepcopy(values) for i, values in state["state"].items()}
    for group, saved in zip(whole["param_groups"], state["groups"], strict=True):
        group.update(saved)
    optimizer.load_state_dict(whole)
