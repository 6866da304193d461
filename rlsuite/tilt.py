"""The parametric kernel of the DRPG paper: an exponential tilt of a base kernel.

    p(s'|s,a) ~ base(s'|s,a) * exp(theta . phi(s') / (multiplier . zeta(s, a)))

It is the worst case of a KL ball with the value of s' replaced by theta . phi(s') and the
multiplier of (s, a) by multiplier . zeta(s, a): a few numbers stand for the whole adversary. The
parameters lie in L1 balls around their centres; the set of kernels is neither convex nor
rectangular.

Shapes: ``N`` instances, ``S`` states, ``X`` actions, ``B`` successors, ``D`` state features and
``E`` state-action features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from rlsuite.errors import UserError
from rlsuite.projections import project_l1


def sum_tolerance(dtype: torch.dtype) -> float:
    """By how much probabilities given by a user may miss a sum of 1."""
    return 1e-9 if dtype == torch.float64 else 1e-5


class Parameters(NamedTuple):
    """A point, or a direction."""

    theta: Tensor
    """(N, D)."""
    multiplier: Tensor
    """(N, E)."""


@dataclass(frozen=True, slots=True)
class TiltedKernel:
    """The set of kernels. Raises UserError for tensors that make up none.

    Base rows have to be probabilities, and the ratio has to keep its sign over the set.
    """

    base: Tensor
    """(N, S, X, B) probabilities."""
    phi: Tensor
    """(N, S, D) features of the successor state."""
    zeta: Tensor
    """(N, S, X, E) features of state and action, all positive or all negative."""
    centre: Parameters
    """Of the nominal kernel, which is not the base."""
    radius: tuple[float, float]
    """L1 radii around the centres of theta and of the multiplier."""
    least: float = 1e-5
    """Lower bound of every multiplier."""

    def __post_init__(self) -> None:
        self._check_tensors()
        if not bool((self.zeta > 0).all() | (self.zeta < 0).all()):
            raise UserError("zeta has to be positive everywhere or negative everywhere: the tilt")
        if min(self.radius) < 0 or self.least <= 0:
            raise UserError(f"radii {self.radius} from 0 on, least {self.least} above 0 are needed")
        if bool((self.centre.multiplier < self.least).any()):
            raise UserError(f"the centre of the multiplier is below its least value {self.least}")

    def _check_tensors(self) -> None:
        if self.base.dim() != 4 or self.phi.dim() != 3 or self.zeta.dim() != 4:
            raise UserError("a tilt has base (N, S, X, B), phi (N, S, D) and zeta (N, S, X, E)")
        shape, features = tuple(self.base.shape[:3]), (self.phi.shape[2], self.zeta.shape[3])
        theta, multiplier = self.centre
        for name, tensor, expected in (
            ("phi", self.phi, (*shape[:2], features[0])),
            ("zeta", self.zeta, (*shape, features[1])),
            ("theta", theta, (shape[0], features[0])),
            ("multiplier", multiplier, (shape[0], features[1])),
            ("base", self.base, tuple(self.base.shape)),
        ):
            if tuple(tensor.shape) != expected or tensor.dtype != self.base.dtype:
                given = f"{tensor.dtype} of shape {tuple(tensor.shape)}"
                wanted = f"{self.base.dtype} of {expected}, as the base has {shape}"
                raise UserError(f"{name} of a tilt is {given}, needs {wanted}")
            if not bool(torch.isfinite(tensor).all()):
                raise UserError(f"{name} of a tilt is not finite")
        off = (self.base.sum(-1) - 1).abs().amax()
        if bool((self.base < 0).any()) or float(off) > sum_tolerance(self.base.dtype):
            raise UserError("base of a tilt has to hold probabilities from 0 on that sum to 1")

    def kernel(self, xi: Parameters, successor: Tensor) -> Tensor:
        """(N, S, X, B) probabilities of the (N, S, X, B) successors."""
        return self._parts(xi, successor)[2]

    def gradient(self, xi: Parameters, successor: Tensor, kernel_gradient: Tensor) -> Parameters:
        """That of a function of the kernel, from its derivative (N, S, X, B) by the kernel.

        The cost has the derivative w * z (``robust_planning.kernel_gradient``); what comes out is
        sum w * Cov(phi, z) / l for theta and -sum w * zeta * Cov(theta . phi, z) / l^2 for the
        multiplier, with l = multiplier . zeta and the covariances under p(.|s, a).
        """
        score, ratio, kernel = self._parts(xi, successor)
        mean = (kernel * kernel_gradient).sum(-1, keepdim=True)
        weight = kernel * (kernel_gradient - mean) / ratio[..., None]
        flat = torch.zeros(self.phi.shape[:2], dtype=weight.dtype, device=weight.device)
        by_state = flat.scatter_add(1, successor.flatten(1), weight.flatten(1))
        pull = (weight * score).sum(-1) / ratio
        return Parameters(
            torch.einsum("ns,nsd->nd", by_state, self.phi),
            -torch.einsum("nsx,nsxe->ne", pull, self.zeta),
        )

    def _parts(self, xi: Parameters, successor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """theta . phi(s') (N, S, X, B), multiplier . zeta (N, S, X) and the kernel."""
        by_state = torch.einsum("nsd,nd->ns", self.phi, xi.theta)
        score = by_state.gather(1, successor.flatten(1)).view_as(self.base)
        ratio = torch.einsum("nsxe,ne->nsx", self.zeta, xi.multiplier)
        return score, ratio, (score / ratio[..., None] + self.base.log()).softmax(-1)

    def project(self, xi: Parameters) -> Parameters:
        """Nearest parameters of the set."""
        theta = project_l1(xi.theta, self.centre.theta, self.radius[0], -torch.inf)
        bounds = self.radius[1], self.least
        return Parameters(theta, project_l1(xi.multiplier, self.centre.multiplier, *bounds))

    def sample(self, count: int, random: torch.Generator) -> Parameters:
        """(N * count, ...) points of the set, those of an instance side by side."""
        draws = []
        for centre, radius in zip(self.centre, self.radius, strict=True):
            shape = (len(centre) * count, centre.shape[1])
            draw = 2 * torch.rand(shape, generator=random, dtype=centre.dtype) - 1
            draws.append(centre.repeat_interleave(count, 0) + radius * draw.to(centre.device))
        return self.repeat(count).project(Parameters(*draws))

    def repeat(self, count: int) -> TiltedKernel:
        """Every instance ``count`` times, side by side."""
        return self.map(lambda x: x.repeat_interleave(count, 0))

    def map(self, change: Callable[[Tensor], Tensor]) -> TiltedKernel:
        """The same set with ``change`` of every tensor."""
        base, phi, zeta = change(self.base), change(self.phi), change(self.zeta)
        centre = Parameters(*(change(x) for x in self.centre))
        return TiltedKernel(base, phi, zeta, centre, self.radius, self.least)
