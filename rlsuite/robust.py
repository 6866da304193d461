"""Robust Markov decision processes as data: batches of them, checked when built.

The discounted cost is minimised by the policy and maximised by nature, which picks the transition
kernel within an ambiguity set. Rewards become costs here, in ``RobustMDP.from_arrays``, and nowhere
else.

Shapes: ``N`` instances, ``S`` states, ``X`` actions, ``B`` successors kept of a state and action
(the most that any has; shorter lists are padded outside the support).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from rlsuite.ambiguity import AmbiguitySet
from rlsuite.errors import UserError
from rlsuite.tilt import TiltedKernel, sum_tolerance

Support: TypeAlias = Literal["nominal", "state", "all"]


@dataclass(frozen=True, slots=True)
class RobustMDP:
    """``N`` robust MDPs of one size. Raises UserError unless the tensors make them up."""

    successor: Tensor
    """(N, S, X, B) int64: s' by its place in the list of (s, a)."""
    support: Tensor
    """(N, S, X, B) bool: where nature may put mass; padding is outside."""
    nominal: Tensor
    """(N, S, X, B) probabilities of the nominal kernel."""
    cost: Tensor
    """(N, S, X, B) c(s, a, s')."""
    initial: Tensor
    """(N, S) distribution of the first state."""
    discount: float
    """From 0 to below 1."""
    ambiguity: AmbiguitySet | TiltedKernel
    """What nature may choose from; the radius has the full shape of the set."""

    def __post_init__(self) -> None:
        _check_set(self.ambiguity)
        self._check_tensors()
        self._check_probabilities("nominal", self.nominal)
        self._check_probabilities("initial", self.initial)
        if not 0 <= self.discount < 1:
            raise UserError(f"discount is {self.discount}, has to be from 0 to below 1")
        if bool(((self.nominal > 0) & ~self.support).any()):
            where = _first((self.nominal > 0) & ~self.support)
            raise UserError(f"empty set at {where}: the nominal has mass outside the support")
        if isinstance(self.ambiguity, TiltedKernel):
            self._check_tilt(self.ambiguity)
        else:
            self._check_radius(self.ambiguity)

    def _check_tensors(self) -> None:
        if self.nominal.dim() != 4 or self.nominal.numel() == 0:
            raise UserError(f"nominal has shape {tuple(self.nominal.shape)}, needs (N, S, X, B)")
        shape = self.nominal.shape
        for name in ("successor", "support", "cost", "initial"):
            expected = tuple(shape[:2] if name == "initial" else shape)
            if tuple(getattr(self, name).shape) != expected:
                given = tuple(getattr(self, name).shape)
                raise UserError(f"{name} has shape {given}, needs {expected}")
        for name in ("nominal", "cost", "initial"):
            tensor = getattr(self, name)
            if tensor.dtype != self.nominal.dtype or not tensor.is_floating_point():
                raise UserError(f"{name} is {tensor.dtype}, has to be floating, as the nominal")
            if not bool(torch.isfinite(tensor).all()):
                raise UserError(f"{name} is not finite at {_first(~torch.isfinite(tensor))}")
        if bool(((self.successor < 0) | (self.successor >= shape[1])).any()):
            raise UserError(f"a successor is not one of the states 0 to {shape[1] - 1}")
        places = -1 - torch.arange(shape[3], device=self.nominal.device)
        listed = torch.where(self.support, self.successor, places).sort(-1).values
        twice = listed[..., 1:] == listed[..., :-1]
        if bool(twice.any()):
            raise UserError(f"a successor is listed twice at {_first(twice.any(-1))}: merge them")

    def _check_probabilities(self, name: str, tensor: Tensor) -> None:
        total = tensor.sum(-1)
        wrong = ((total - 1).abs() > sum_tolerance(tensor.dtype)) | (tensor < 0).any(-1)
        if bool(wrong.any()):
            where = _first(wrong)
            raise UserError(
                f"{name} at {where} sums to {float(total[wrong][0]):.12g} or has negative entries;"
                " probabilities are from 0 on and sum to 1"
            )

    def _check_radius(self, ambiguity: AmbiguitySet) -> None:
        shape = self.nominal.shape[: 2 if ambiguity.per_state else 3]
        radius, largest = ambiguity.radius, ambiguity.largest(self.actions)
        if radius.shape != shape or radius.dtype != self.nominal.dtype:
            given = f"{radius.dtype} of shape {tuple(radius.shape)}"
            raise UserError(f"radius is {given}, needs {self.nominal.dtype} of {tuple(shape)}")
        wrong = ~((radius >= 0) & (radius <= largest) & torch.isfinite(radius))
        if bool(wrong.any()):
            name, value = type(ambiguity).__name__, float(radius[wrong][0])
            raise UserError(
                f"radius of {name} is {value:.6g} at {_first(wrong)}, has to be from 0 to {largest}"
            )

    def _check_tilt(self, tilt: TiltedKernel) -> None:
        if tilt.base.shape != self.nominal.shape or tilt.base.dtype != self.nominal.dtype:
            given = f"{tilt.base.dtype} of shape {tuple(tilt.base.shape)}"
            wanted = f"{self.nominal.dtype} of {tuple(self.nominal.shape)}"
            raise UserError(f"the base of the tilted kernel is {given}, needs {wanted}")
        off = (tilt.kernel(tilt.centre, self.successor) - self.nominal).abs().amax(-1)
        wrong = off > sum_tolerance(self.nominal.dtype)
        if bool(wrong.any()):
            raise UserError(
                f"nominal at {_first(wrong)} is {float(off[wrong][0]):.2g} off the tilted kernel at"
                " its centre: it has to be tilt.kernel(tilt.centre, successor)"
            )

    @classmethod
    def from_arrays(
        cls,
        kernel: ArrayLike,
        *,
        initial: ArrayLike,
        discount: float,
        ambiguity: AmbiguitySet,
        reward: ArrayLike | None = None,
        cost: ArrayLike | None = None,
        support: Support | NDArray[np.bool_] = "nominal",
    ) -> RobustMDP:
        """From dense arrays, of one instance or with a leading N.

        Args:
            kernel: (S, X, S) or (N, S, X, S) nominal probabilities P(s' | s, a). In float32 they
                are scaled to sum to 1, if they miss it by no more than 1e-5.
            initial: (S,) or (N, S) distribution of the first state, likewise.
            discount: from 0 to below 1.
            ambiguity: a set of ``rlsuite.ambiguity``; its radius is broadcast.
            reward: (S,), (S, X) or (S, X, S), or with a leading N and all three axes.
            cost: instead of the reward, its negative.
            support: the successors that nature may use: those of the nominal kernel, those of any
                action of the state, all states, or a mask of the kernel's shape.

        Raises:
            UserError: for arrays that are no robust MDP, or a tilted kernel as set.
        """
        _refuse_tilt(ambiguity)
        dense = _probabilities(kernel)
        if dense.dim() not in (3, 4) or dense.shape[-1] != dense.shape[-3]:
            raise UserError(f"kernel has shape {tuple(dense.shape)}, needs (S, X, S), (N, S, X, S)")
        dense = dense if dense.dim() == 4 else dense[None]
        for wrong, what in ((~torch.isfinite(dense), "not finite"), (dense < 0, "negative")):
            if bool(wrong.any()):
                raise UserError(f"kernel is {what} at {_first(wrong)}; these are probabilities")
        costs = _costs(reward, cost, dense)
        mask = _mask(support, dense)
        size = int(mask.sum(-1).max().clamp(min=1))
        order = mask.to(torch.int8).argsort(dim=-1, descending=True, stable=True)[..., :size]
        first = _probabilities(initial)
        nominal = torch.where(mask, dense, 0).gather(-1, order)
        _same_mass(dense, nominal)
        axes = 2 if ambiguity.per_state else 3
        return cls(
            order,
            mask.gather(-1, order),
            nominal,
            costs.gather(-1, order),
            first.expand(len(dense), len(first)).clone() if first.dim() == 1 else first,
            float(discount),
            _with_radius(ambiguity, nominal.shape[:axes]),
        )

    @classmethod
    def stack(cls, problems: Sequence[RobustMDP]) -> RobustMDP:
        """One batch of all instances; sizes, discounts and kinds of set have to be the same."""
        if not problems:
            raise UserError("there is nothing to stack: give one problem or more")
        first = problems[0]
        kinds = {(type(p.ambiguity), p.discount, p.nominal.shape[1:3]) for p in problems}
        if len(kinds) > 1 or isinstance(first.ambiguity, TiltedKernel):
            raise UserError("a batch has one size, one discount and one kind of rectangular set")
        size = max(p.nominal.shape[3] for p in problems)

        def joined(name: str) -> Tensor:
            parts = [getattr(p, name) for p in problems]
            pads = [(0, size - part.shape[3]) for part in parts]
            padded = [torch.nn.functional.pad(x, pad) for x, pad in zip(parts, pads, strict=True)]
            return torch.cat(padded)

        initial = torch.cat([p.initial for p in problems])
        radii = [p.ambiguity.radius for p in problems if not isinstance(p.ambiguity, TiltedKernel)]
        return cls(
            joined("successor"),
            joined("support"),
            joined("nominal"),
            joined("cost"),
            initial,
            first.discount,
            type(first.ambiguity)(torch.cat(radii)),
        )

    @property
    def instances(self) -> int:
        """N."""
        return self.nominal.shape[0]

    @property
    def states(self) -> int:
        """S."""
        return self.nominal.shape[1]

    @property
    def actions(self) -> int:
        """X."""
        return self.nominal.shape[2]

    @property
    def rectangular(self) -> AmbiguitySet:
        """The ambiguity set, if it is rectangular: raises UserError for a parametric kernel."""
        if isinstance(self.ambiguity, TiltedKernel):
            raise UserError("this takes a rectangular set (rlsuite.ambiguity), not a tilted kernel")
        return self.ambiguity

    def target(self, v: Tensor) -> Tensor:
        """(N, S, X, B) z = c(s, a, s') + discount * v(s') of (N, S) values."""
        following = v.gather(1, self.successor.flatten(1)).view_as(self.cost)
        return self.cost + self.discount * following

    def worst(self, z: Tensor, policy: Tensor) -> Tensor:
        """(N, S, X, B) the set's worst kernel (``AmbiguitySet.worst``)."""
        return self.rectangular.worst(z, self.nominal, self.support, policy)

    def improve(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """(N, S, X) policy and (N, S) value of the robust Bellman operator at z."""
        return self.rectangular.improve(z, self.nominal, self.support)

    def project(self, kernel: Tensor) -> Tensor:
        """(N, S, X, B) nearest kernel of the set."""
        return self.rectangular.project(kernel, self.nominal, self.support)

    def dense(self, kernel: Tensor) -> Tensor:
        """(N, S, X, S) of a kernel (N, S, X, B)."""
        wide = kernel.new_zeros((*kernel.shape[:3], self.states))
        return wide.scatter_add(-1, self.successor, kernel)

    def uniform(self) -> Tensor:
        """(N, S, X) the policy that chooses uniformly."""
        return torch.full_like(self.nominal[..., 0], 1 / self.actions)

    def mix_initial(self, weight: float) -> RobustMDP:
        """Starts (1 - weight) * initial + weight * uniform: every state gets a gradient."""
        return replace(self, initial=(1 - weight) * self.initial + weight / self.states)

    def with_ambiguity(self, ambiguity: AmbiguitySet) -> RobustMDP:
        """The same nominal problem with another rectangular set; its radius is broadcast.

        Raises UserError for a tilted kernel: its base and features are part of the problem.
        """
        _refuse_tilt(ambiguity)
        shape = self.nominal.shape[: 2 if ambiguity.per_state else 3]
        radius = ambiguity.radius.to(self.nominal)
        return replace(self, ambiguity=_with_radius(type(ambiguity)(radius), shape))

    def repeat(self, count: int) -> RobustMDP:
        """Every instance ``count`` times, side by side."""
        names = ("successor", "support", "nominal", "cost", "initial")
        parts = {name: getattr(self, name).repeat_interleave(count, 0) for name in names}
        kind = self.ambiguity
        more = (
            kind.repeat(count)
            if isinstance(kind, TiltedKernel)
            else type(kind)(kind.radius.repeat_interleave(count, 0))
        )
        return replace(self, ambiguity=more, **parts)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> RobustMDP:
        """On another device, or in another precision than its own.

        float32 leaves relative gaps of about 1e-5.
        """
        dtype = dtype or self.nominal.dtype
        names = ("nominal", "cost", "initial")
        parts: dict[str, Any] = {name: getattr(self, name).to(device, dtype) for name in names}
        parts |= {name: getattr(self, name).to(device) for name in ("successor", "support")}
        kind = self.ambiguity
        if isinstance(kind, TiltedKernel):
            parts["ambiguity"] = kind.map(lambda x: x.to(device, dtype))
        else:
            parts["ambiguity"] = type(kind)(kind.radius.to(device, dtype))
        return replace(self, **parts)


def _check_set(ambiguity: object) -> None:
    if not isinstance(ambiguity, AmbiguitySet | TiltedKernel):
        given = (
            f"the class {ambiguity.__name__}"
            if isinstance(ambiguity, type)
            else f"of type {type(ambiguity).__name__}"
        )
        raise UserError(f"ambiguity is {given}, has to be a set, such as rlsuite.ambiguity.L1(0.2)")


def _refuse_tilt(ambiguity: object) -> None:
    _check_set(ambiguity)
    if isinstance(ambiguity, TiltedKernel):
        raise UserError(
            "this takes a set of rlsuite.ambiguity; with a tilted kernel build RobustMDP(...)"
            " itself, as rlsuite.envs.inventory does"
        )


def _first(wrong: Tensor) -> str:
    names = ("instance", "state", "action", "successor")
    place = wrong.nonzero()[0].tolist()
    return ", ".join(f"{name} {i}" for name, i in zip(names, place, strict=False))


def _costs(reward: ArrayLike | None, cost: ArrayLike | None, dense: Tensor) -> Tensor:
    if (reward is None) == (cost is None):
        raise UserError("give the reward or the cost, one of the two")
    given = -np.array(reward, np.float64) if cost is None else np.array(cost, np.float64)
    if given.ndim < 3:  # r(s) and r(s, a) pay the same whatever follows
        given = given.reshape(given.shape + (1,) * (3 - given.ndim))
    try:
        return torch.from_numpy(given).expand(dense.shape)
    except RuntimeError:
        shape = tuple(dense.shape)
        raise UserError(f"costs of shape {given.shape} do not fit a kernel of {shape}") from None


def _probabilities(given: ArrayLike) -> Tensor:
    """In float64, narrower ones without their rounding."""
    array = np.asarray(given)
    exact = torch.from_numpy(np.array(array, np.float64))
    if array.dtype.kind == "f" and array.dtype.itemsize < 8:
        total = exact.sum(-1, keepdim=True)
        near = (total - 1).abs() <= sum_tolerance(torch.float32)
        exact = torch.where(near, exact / total, exact)
    return exact


def _mask(support: Support | NDArray[np.bool_], dense: Tensor) -> Tensor:
    if isinstance(support, str):
        if support not in ("nominal", "state", "all"):
            raise UserError(f"support is {support!r}, has to be nominal, state, all or a mask")
        positive = dense > 0
        wide = {"nominal": positive, "state": positive.any(2, keepdim=True)}
        return wide.get(support, torch.ones_like(positive)).expand(dense.shape)
    mask = torch.from_numpy(np.array(support, bool))
    if mask.shape != dense.shape[-mask.dim() :] or mask.dim() < 3:
        given, shape = tuple(mask.shape), tuple(dense.shape)
        raise UserError(f"the mask of the support has shape {given}, the kernel {shape}")
    return mask.expand(dense.shape)


def _same_mass(dense: Tensor, nominal: Tensor) -> None:
    lost = dense.sum(-1) - nominal.sum(-1) > 1e-12
    if bool(lost.any()):
        raise UserError(f"empty set at {_first(lost)}: the nominal has mass outside the support")


def _with_radius(ambiguity: AmbiguitySet, shape: torch.Size) -> AmbiguitySet:
    try:
        return type(ambiguity)(ambiguity.radius.expand(shape).clone())
    except RuntimeError:
        given = tuple(ambiguity.radius.shape)
        raise UserError(f"a radius of shape {given} does not fit {tuple(shape)}") from None
