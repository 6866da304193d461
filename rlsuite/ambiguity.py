"""Ambiguity sets of robust MDPs: the worst kernel, the best policy against it, the projection.

Nature picks the transition probabilities within a ball around the nominal ones and MAXIMISES the
cost. A set is (s,a)-rectangular (a ball for each state and action) or s-rectangular (the actions of
a state share one budget, and nature does not see which action was sampled).

Shapes: ``N`` instances, ``S`` states, ``X`` actions, ``B`` successors of a state and action. All
methods take ``nominal`` (N, S, X, B) probabilities and ``support`` (N, S, X, B) bool, where nature
may put mass; ``z`` (N, S, X, B) is cost(s, a, s') + discount * v(s'). No loop over states or
actions, no wait for the device.
"""

from __future__ import annotations

from typing import ClassVar, Protocol, runtime_checkable

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from rlsuite.errors import UserError
from rlsuite.projections import fall_to, project_box

HALVINGS = 60
"""Of a bisection: what is left of the bracket is below the last bit of float64."""


@runtime_checkable
class AmbiguitySet(Protocol):
    """What the solvers need of a convex rectangular set."""

    per_state: ClassVar[bool]
    """Whether it is s-rectangular."""
    radius: Tensor
    """(N, S, X), or (N, S) if per state."""

    def __init__(self, radius: ArrayLike | Tensor) -> None:
        """A number, or anything that broadcasts to the shape of the radius."""

    @staticmethod
    def largest(actions: int) -> float:
        """The greatest radius that means anything."""

    def worst(self, z: Tensor, nominal: Tensor, support: Tensor, policy: Tensor) -> Tensor:
        """(N, S, X, B) maximiser of sum_a policy(s, a) * p(s, a) . z(s, a) in every state.

        Rows whose action the (N, S, X) policy never takes are maximised too, as far as the budget
        allows.
        """

    def improve(self, z: Tensor, nominal: Tensor, support: Tensor) -> tuple[Tensor, Tensor]:
        """(N, S, X) policy and (N, S) value of min over policies, max over p: robust Bellman."""

    def project(self, kernel: Tensor, nominal: Tensor, support: Tensor) -> Tensor:
        """(N, S, X, B) member of the set that is nearest in the Euclidean norm."""

    def violation(self, kernel: Tensor, nominal: Tensor, support: Tensor) -> Tensor:
        """(N, S, X) or (N, S) by how much the distance to the nominal exceeds the radius."""


class L1:
    """(s,a)-rectangular ||p - nominal||_1 <= radius, from 0 to 2."""

    per_state: ClassVar[bool] = False

    def __init__(self, radius: ArrayLike | Tensor) -> None:
        """See ``AmbiguitySet``."""
        self.radius = _tensor(radius)

    @staticmethod
    def largest(actions: int) -> float:
        """Two distributions are at most 2 apart."""
        return 2.0

    def worst(self, z: Tensor, nominal: Tensor, support: Tensor, policy: Tensor) -> Tensor:
        """Half the radius moves from the cheapest successors to the dearest: one sort."""
        to_best = _dearest(z, support)[1]
        moved = _hand_out(self.radius[..., None] / 2, nominal, z.argsort(-1))
        return nominal - moved + to_best * summed(moved)[..., None]

    def improve(self, z: Tensor, nominal: Tensor, support: Tensor) -> tuple[Tensor, Tensor]:
        """The action whose worst case is cheapest."""
        return _greedy(self, z, nominal, support)

    def project(self, kernel: Tensor, nominal: Tensor, support: Tensor) -> Tensor:
        """Onto the simplex; if that is too far, exactly radius / 2 moves up, and as much down."""
        inside = project_box(kernel, torch.zeros_like(nominal), support.to(nominal), 1.0)
        half = self.radius[..., None] / 2
        far = (inside - nominal).abs().sum(-1, keepdim=True) > 2 * half
        zero = torch.zeros_like(nominal)
        up = project_box(kernel - nominal, zero, support.to(nominal), half)
        down = project_box(nominal - kernel, zero, nominal, half)
        return torch.where(far, nominal + up - down, inside)

    def violation(self, kernel: Tensor, nominal: Tensor, support: Tensor) -> Tensor:
        """(N, S, X)."""
        return (kernel - nominal).abs().sum(-1) - self.radius


class LInf:
    """(s,a)-rectangular |p_i - nominal_i| <= radius for every successor, from 0 to 1."""

    per_state: ClassVar[bool] = False

    def __init__(self, radius: ArrayLike | Tensor) -> None:
        """See ``AmbiguitySet``."""
        self.radius = _tensor(radius)

    @staticmethod
    def largest(actions: int) -> float:
        """Probabilities are at most 1 apart."""
        return 1.0

    def _box(self, nominal: Tensor, support: Tensor) -> tuple[Tensor, Tensor]:
        radius = self.radius[..., None]
        return (nominal - radius).clamp(min=0), (nominal + radius).clamp(max=1) * support

    def worst(self, z: Tensor, nominal: Tensor, support: Tensor, policy: Tensor) -> Tensor:
        """From the least probabilities up, the dearest successor first."""
        return _fill_box(z, *self._box(nominal, support))

    def improve(self, z: Tensor, nominal: Tensor, support: Tensor) -> tuple[Tensor, Tensor]:
        """The action whose worst case is cheapest."""
        return _greedy(self, z, nominal, support)

    def project(self, kernel: Tensor, nominal: Tensor, support: Tensor) -> Tensor:
        """Onto a box and the plane of sum 1."""
        return project_box(kernel, *self._box(nominal, support), 1.0)

    def violation(self, kernel: Tensor, nominal: Tensor, support: Tensor) -> Tensor:
        """(N, S, X)."""
        return (kernel - nominal).abs().amax(-1) - self.radius


class Contamination:
    """(s,a)-rectangular (1 - radius) * nominal + radius * any distribution, radius from 0 to 1."""

    per_state: ClassVar[bool] = False

    def __init__(self, radius: ArrayLike | Tensor) -> None:
        """See ``AmbiguitySet``."""
        self.radius = _tensor(radius)

    @staticmethod
    def largest(actions: int) -> float:
        """All of the nominal is replaced."""
        return 1.0

    def _box(self, nominal: Tensor, support: Tensor) -> tuple[Tensor, Tensor]:
        return (1 - self.radius[..., None]) * nominal, support.to(nominal)

    def worst(self, z: Tensor, nominal: Tensor, support: Tensor, policy: Tensor) -> Tensor:
        """All that is free goes to the dearest successor."""
        return _fill_box(z, *self._box(nominal, support))

    def improve(self, z: Tensor, nominal: Tensor, support: Tensor) -> tuple[Tensor, Tensor]:
        """The action whose worst case is cheapest."""
        return _greedy(self, z, nominal, support)

    def project(self, kernel: Tensor, nominal: Tensor, support: Tensor) -> Tensor:
        """Onto a box and the plane of sum 1."""
        return project_box(kernel, *self._box(nominal, support), 1.0)

    def violation(self, kernel: Tensor, nominal: Tensor, support: Tensor) -> Tensor:
        """(N, S, X)."""
        return (self._box(nominal, support)[0] - kernel).amax(-1)


class KL:
    """(s,a)-rectangular KL(p || nominal) <= radius in nats; p is 0 where the nominal is."""

    per_state: ClassVar[bool] = False

    def __init__(self, radius: ArrayLike | Tensor) -> None:
        """See ``AmbiguitySet``."""
        self.radius = _tensor(radius)

    @staticmethod
    def largest(actions: int) -> float:
        """Any finite number."""
        return float("inf")

    def worst(self, z: Tensor, nominal: Tensor, support: Tensor, policy: Tensor) -> Tensor:
        """The tilt nominal * exp(z / temperature); its temperature by bisection of the KL."""
        scaled = _scaled(z, nominal > 0)
        low, high = (torch.full_like(self.radius[..., None], x) for x in (-25.0, 40.0))
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            inside = self._tilt(scaled, nominal, middle)[1] <= self.radius[..., None]
            low, high = torch.where(inside, low, middle), torch.where(inside, middle, high)
        return self._tilt(scaled, nominal, high)[0]

    @staticmethod
    def _tilt(scaled: Tensor, nominal: Tensor, log_temperature: Tensor) -> tuple[Tensor, Tensor]:
        """The tilted kernel, and its KL (..., 1) from ratios - 1: exact down to a KL of 0."""
        exponent = scaled * torch.exp(-log_temperature)
        weight, growth = nominal * exponent.exp(), exponent.expm1()
        mean = (nominal * growth).sum(-1, keepdim=True)
        change = ((growth - mean) / (1 + mean)).clamp(min=-1)
        terms = nominal * (torch.special.xlog1py(1 + change, change) - change)
        return weight / weight.sum(-1, keepdim=True), terms.sum(-1, keepdim=True)

    def improve(self, z: Tensor, nominal: Tensor, support: Tensor) -> tuple[Tensor, Tensor]:
        """The action whose worst case is cheapest."""
        return _greedy(self, z, nominal, support)

    def project(self, kernel: Tensor, nominal: Tensor, support: Tensor) -> Tensor:
        """Raises UserError: this projection has no closed form."""
        raise UserError("there is no projection onto a KL ball: take the exact inner loop")

    def violation(self, kernel: Tensor, nominal: Tensor, support: Tensor) -> Tensor:
        """(N, S, X)."""
        return _kl(kernel, nominal) - self.radius


class L1PerState:
    """s-rectangular sum_a ||p_a - nominal_a||_1 <= radius, from 0 to 2 X."""

    per_state: ClassVar[bool] = True

    def __init__(self, radius: ArrayLike | Tensor) -> None:
        """See ``AmbiguitySet``."""
        self.radius = _tensor(radius)

    @staticmethod
    def largest(actions: int) -> float:
        """Every action's distribution is at most 2 away."""
        return 2.0 * actions

    def worst(self, z: Tensor, nominal: Tensor, support: Tensor, policy: Tensor) -> Tensor:
        """A fractional knapsack: mass of (a, i) moves where it gains most, one sort per state."""
        best, to_best = _dearest(z, support)
        capacity = nominal * ~to_best
        # What the policy never does comes last but not never: its rows get what budget is left.
        gain = policy.clamp(min=1e-30)[..., None] * (best - z)
        order = gain.flatten(-2).argsort(-1, descending=True)
        mass = torch.minimum(self.radius / 2, capacity.sum((-2, -1)))[..., None]
        moved = _hand_out(mass, capacity.flatten(-2), order).view_as(capacity)
        return nominal - moved + to_best * moved.sum(-1, keepdim=True)

    def improve(self, z: Tensor, nominal: Tensor, support: Tensor) -> tuple[Tensor, Tensor]:
        """Bisection of u = max over t of min_a q_a(t_a), sum_a t_a <= radius / 2.

        q_a(t) is the value of action a once mass t has moved: concave and piecewise linear, its
        slopes the gains in descending order. Actions are mixed so that nature gains as much by
        moving mass in any of them.
        """
        best, to_best = _dearest(z, support)
        order = torch.where(support, z, best).argsort(-1)
        gain = (best - torch.where(support, z, best)).gather(-1, order)
        capacity = (nominal * ~to_best).gather(-1, order)
        unmoved = (nominal * z).sum(-1)
        rise = gain * capacity
        start = unmoved[..., None] + (rise.cumsum(-1) - rise)
        budget, ceiling = self.radius / 2, best[..., 0].amin(-1)

        def needed(u: Tensor) -> Tensor:
            reach = (u[..., None, None] - start) / gain.clamp(min=1e-300)
            return torch.minimum(reach.clamp(min=0), capacity).sum((-2, -1))

        low, high = torch.minimum(unmoved.amin(-1), ceiling), ceiling
        saturated = needed(ceiling) <= budget
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            inside = needed(middle) <= budget
            low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
        started = start <= low[..., None, None]
        slope = torch.where(started, gain, torch.inf).amin(-1).clamp(min=1e-300)
        weight = slope.amin(-1, keepdim=True) / slope  # 0 where nothing has started
        mixed = weight / weight.sum(-1, keepdim=True)
        return torch.where(saturated[..., None], _one_hot(best[..., 0]), mixed), low

    def project(self, kernel: Tensor, nominal: Tensor, support: Tensor) -> Tensor:
        """Moves shrunk by a threshold that the actions of a state share, found by bisection."""
        move = kernel - nominal
        most = torch.where(support, move, -torch.inf).amax(-1, keepdim=True)

        def shrunk(threshold: Tensor) -> Tensor:
            # Of each entry p(shift) = (nominal + soft(move - shift, threshold))+, which falls from
            # some shift that is too small, rests at the nominal, and falls to 0.
            up, down = move - threshold, move + threshold
            starts = torch.cat([torch.minimum(most - threshold - 2, up), down], -1)
            ends = torch.cat([up, down + nominal], -1)
            top = nominal + up - starts[..., : move.shape[-1]]
            both = torch.cat([support, support], -1)
            starts, ends = (torch.where(both, x, 0) for x in (starts, ends))
            shift = fall_to(1.0, torch.where(support, top, 0), starts, ends)
            p = nominal + (up - shift).clamp(min=0) + (down - shift).clamp(max=0)
            return torch.where(support, p.clamp(min=0), 0)

        radius = self.radius[..., None, None]
        low = torch.zeros_like(radius)
        high = torch.where(support, move, 0).abs().amax((-2, -1), keepdim=True) * 2 + 1
        inside = shrunk(low)
        near = (inside - nominal).abs().sum((-2, -1), keepdim=True) <= radius
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            fits = (shrunk(middle) - nominal).abs().sum((-2, -1), keepdim=True) <= radius
            low, high = torch.where(fits, low, middle), torch.where(fits, middle, high)
        return torch.where(near, inside, shrunk(high))

    def violation(self, kernel: Tensor, nominal: Tensor, support: Tensor) -> Tensor:
        """(N, S)."""
        return (kernel - nominal).abs().sum((-2, -1)) - self.radius


def _tensor(radius: ArrayLike | Tensor) -> Tensor:
    if isinstance(radius, Tensor) and radius.is_floating_point():
        return radius
    return torch.as_tensor(radius, dtype=torch.float64)


def summed(values: Tensor) -> Tensor:
    """(..., B) summed over the successors: (...)."""
    # Over so few a sum takes the CPU six times as long as this product.
    return values @ values.new_ones(values.shape[-1])


def _dearest(z: Tensor, support: Tensor) -> tuple[Tensor, Tensor]:
    """(..., 1) greatest z of the support, and (..., B) bool, where its first occurrence is."""
    best, index = torch.where(support, z, -torch.inf).max(-1, keepdim=True)
    places = torch.arange(z.shape[-1], device=z.device)
    return best, places == index


def _hand_out(mass: Tensor, capacity: Tensor, order: Tensor) -> Tensor:
    """(..., B) shares of (..., 1) mass: in this order, each filled before the next."""
    ordered = capacity.gather(-1, order)
    left = mass - (ordered.cumsum(-1) - ordered)
    shares = torch.minimum(left.clamp(min=0), ordered)
    return torch.zeros_like(capacity).scatter(-1, order, shares)


def _fill_box(z: Tensor, low: Tensor, high: Tensor) -> Tensor:
    mass = (1 - low.sum(-1, keepdim=True)).clamp(min=0)
    return low + _hand_out(mass, high - low, z.argsort(-1, descending=True))


def _one_hot(cost: Tensor) -> Tensor:
    """(..., X) all on the first least cost."""
    places = torch.arange(cost.shape[-1], device=cost.device)
    return (places == cost.argmin(-1, keepdim=True)).to(cost)


def _greedy(
    ambiguity: AmbiguitySet, z: Tensor, nominal: Tensor, support: Tensor
) -> tuple[Tensor, Tensor]:
    q = summed(ambiguity.worst(z, nominal, support, torch.empty(0)) * z)
    return _one_hot(q), q.amin(-1)


def _scaled(z: Tensor, support: Tensor) -> Tensor:
    """z moved and scaled to -1..0 over the support, 0 outside."""
    most = torch.where(support, z, -torch.inf).amax(-1, keepdim=True)
    span = most - torch.where(support, z, torch.inf).amin(-1, keepdim=True)
    return torch.where(support, (z - most) / span.clamp(min=1e-300), 0)


def _kl(kernel: Tensor, nominal: Tensor) -> Tensor:
    """(...) KL(kernel || nominal); infinite where the nominal is 0 and the kernel is not."""
    terms: Tensor = torch.special.xlogy(kernel, kernel) - torch.special.xlogy(kernel, nominal)
    return terms.sum(-1)
