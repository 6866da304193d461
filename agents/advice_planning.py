"""Exact planning of advice that may be ignored: when to speak, what to say, what it is worth.

Dynamic programming in the tables of ``rlsuite.advice.AdviceModel``, after Chen, Li, Sun and Wang
(ICLR 2024, arXiv 2310.00817) and, discounted, Grand-Clement and Pauphilet (arXiv 2209.01874).
Neither text was at hand in full. The papers': the model, the monotonicity of the optimal value in
adherence. Ours, derived and tested: the form of the Bellman equation used here, the rule of when to
advise. Advice on a budget is in ``advice_budget``.

With V the value after the step and u(s, a) = r(s, a) + E[V(s') | s, a] that of *executing* a:

    Q(s, defer) = u^H(s) = sum_a pi^H(a|s) u(s, a)
    Q(s, m)     = u^H(s) + theta(s, m) (u(s, m) - u^H(s)) - cost,    theta in the mixture form

so that one advises where adherence times the advantage over the human exceeds the cost of advice,
and then the action at which that product is greatest. Ties go to deferring.

Everything is computed for all instances and all costs (or policies) at once.

Shapes: ``N`` instances, ``C`` costs or policies, ``H`` stages, ``S`` states, ``X`` actions; advice
X is to defer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from rlsuite.advice import AdviceModel, is_whole
from rlsuite.errors import UserError

TIE = {torch.float64: 1e-12, torch.float32: 1e-6}
"""An advice that gains no more than this over deferring is not given."""

Pick: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Which of two gains nature takes: the elementwise minimum or maximum."""


class Plan(NamedTuple):
    """Optimal advice."""

    value: Tensor
    """(N, C, S) return net of the cost of advice, from the first stage on."""
    policy: Tensor
    """(N, C, H, S) int64 advice, X to defer; with a discount (N, C, S), at any time."""


class Evaluation(NamedTuple):
    """What a policy of advice leads to, from each state at the first stage."""

    gross: Tensor
    """(N, C, S) expected return, the cost of advice not subtracted."""
    advices: Tensor
    """(N, C, S) expected number of advices, followed or not; discounted with the rewards."""


def plan(model: AdviceModel, horizon: int, cost: ArrayLike | Tensor = 0.0) -> Plan:
    """Optimal advice over ``horizon`` stages.

    Args:
        model: the problems.
        horizon: H, from 1 on.
        cost: of an advice, followed or not, from 0 on: a number, (C,) or (N, C).

    Raises:
        UserError: for a cost that is negative or not finite, or a horizon that is no whole number
            from 1 on.
    """
    return backward(model, [model.adherence], check_horizon(horizon), _costs(model, cost))


def plan_robust(
    model: AdviceModel,
    low: ArrayLike | Tensor,
    high: ArrayLike | Tensor,
    horizon: int,
    cost: ArrayLike | Tensor = 0.0,
) -> Plan:
    """Advice for the worst adherence between ``low`` and ``high``, and the value it guarantees.

    The worst is taken per stage, state and advice. Where no advice repels (``low`` from 0 on) this
    is ``plan`` at ``low``, by monotonicity; else nature chooses between the two ends.

    Args:
        model: the problems; their own adherence is not used.
        low: (N or 1, S, X) mixture form, or what broadcasts to it, such as a number.
        high: the same.
        horizon: H.
        cost: as in ``plan``.

    Raises:
        UserError: as ``plan``, for ends that are no adherence, and for low above high.
    """
    thetas = _ends(model, low, high)
    return backward(model, thetas, check_horizon(horizon), _costs(model, cost))


def plan_optimistic(
    model: AdviceModel,
    low: ArrayLike | Tensor,
    high: ArrayLike | Tensor,
    horizon: int,
    cost: ArrayLike | Tensor = 0.0,
) -> Plan:
    """Advice for the best adherence between ``low`` and ``high``; its value bounds all others'.

    Where no advice repels this is ``plan`` at ``high``, by monotonicity; else one of the two ends
    is best. Arguments and errors as for ``plan_robust``.
    """
    thetas = _ends(model, low, high)[0 if model.contrarian else 1 :]
    return backward(model, thetas, check_horizon(horizon), _costs(model, cost), torch.maximum)


def plan_discounted(
    model: AdviceModel,
    discount: float,
    cost: ArrayLike | Tensor = 0.0,
    tolerance: float = 1e-8,
) -> Plan:
    """Optimal stationary advice without a horizon, by value iteration.

    Args:
        model: the problems.
        discount: from 0 to below 1.
        cost: as in ``plan``.
        tolerance: the value is this near the optimum in every state, up to rounding.

    Raises:
        UserError: for a discount or cost out of range.
    """
    costs = _costs(model, cost)
    thetas = [model.adherence]

    def update(v: Tensor) -> Tensor:
        return _advise(model, thetas, _execute(model, v, discount), costs)[0]

    v = _zeros(model, costs)
    v = _fixed_point(update, v, model, discount, tolerance, float(costs.max()))
    _, policy = _advise(model, thetas, _execute(model, v, discount), costs)
    return Plan(v.transpose(1, 2), policy.transpose(1, 2))


def evaluate(model: AdviceModel, policy: Tensor) -> Evaluation:
    """Exact return, and expected number of advices in live states, of policies (N or 1, C, H, S).

    In the others no episode goes on.
    """
    v = model.reward.new_zeros((_width(model, policy), model.states, 2 * policy.shape[1]))
    policy = torch.where(model.live[:, None, None], policy, model.actions)
    for h in reversed(range(policy.shape[2])):
        v = _follow(model, policy[:, :, h].transpose(1, 2), v, 1.0)
    return _evaluation(v)


def evaluate_discounted(
    model: AdviceModel, policy: Tensor, discount: float, tolerance: float = 1e-8
) -> Evaluation:
    """Discounted return and number of advices, in live states, of stationary policies (N or 1, C,
    S).

    Both are within ``tolerance`` in every state, up to rounding. Raises UserError for a discount
    out of range.
    """
    v = model.reward.new_zeros((_width(model, policy), model.states, 2 * policy.shape[1]))
    advice = torch.where(model.live[:, None], policy, model.actions).transpose(1, 2)

    def update(v: Tensor) -> Tensor:
        return _follow(model, advice, v, discount)

    return _evaluation(_fixed_point(update, v, model, discount, tolerance, 1.0))


def silence(model: AdviceModel, horizon: int) -> Tensor:
    """(1, 1, H, S) the policy that always defers: the human alone."""
    shape = (1, 1, check_horizon(horizon), model.states)
    return torch.full(shape, model.actions, device=model.reward.device)


def full_control(model: AdviceModel, horizon: int) -> Plan:
    """What the machine would do and earn if it acted itself: a bound, not advice."""
    return plan(model.with_adherence(1.0), horizon)


def blind(model: AdviceModel, horizon: int, margin: float = -math.inf) -> Tensor:
    """(N, 1, H, S) advice that takes adherence for granted: the base MDP's optimal action.

    Given in every live state where that action's value in the base MDP exceeds the human's (with
    optimal actions to follow) by more than ``margin``; -inf for always, the cost of advice for the
    usual threshold. Of equally good actions the first.
    """
    v = _zeros(model, model.reward.new_zeros((1, 1)))
    policy = torch.empty((check_horizon(horizon), *v.shape[:2]), dtype=torch.int64, device=v.device)
    tie = TIE[v.dtype]
    for h in reversed(range(horizon)):
        u = _execute(model, v, 1.0)
        v = u.amax(2)
        advice = (u >= v[:, :, None] - tie).to(torch.int8).argmax(2)
        said = (v - _unaided(model, u) > margin) & model.live[..., None]
        policy[h] = torch.where(said, advice, model.actions)[..., 0]
    return policy.transpose(0, 1)[:, None]


def where_it_differs(model: AdviceModel, policy: Tensor) -> Tensor:
    """(N, C, H, S) the policy, silent where it says what the human most likely does anyway."""
    mode = model.human.argmax(2)[:, None, None]
    return torch.where(policy == mode, model.actions, policy)


def _ends(model: AdviceModel, low: ArrayLike | Tensor, high: ArrayLike | Tensor) -> list[Tensor]:
    ends = [model.with_adherence(end).adherence for end in (low, high)]
    if len({1, *map(len, ends)}) > 2:
        raise UserError(f"low is of {len(ends[0])} instances, high of {len(ends[1])}")
    if bool((ends[0] > ends[1]).any()):
        raise UserError("the interval of adherence is empty somewhere: low is above high")
    return ends


def backward(
    model: AdviceModel,
    thetas: list[Tensor],
    horizon: int,
    costs: Tensor,
    nature: Pick = torch.minimum,
) -> Plan:
    """``plan`` with its arguments checked: costs (N or 1, C).

    ``thetas`` are the ends of the adherence, (N or 1, S, X) each, of which nature takes one.
    """
    v = _zeros(model, costs, *thetas)
    policy = torch.empty((horizon, *v.shape), dtype=torch.int64, device=v.device)
    for h in reversed(range(horizon)):
        v, policy[h] = _advise(model, thetas, _execute(model, v, 1.0), costs, nature)
    return Plan(v.transpose(1, 2), policy.permute(1, 3, 0, 2))


def _execute(model: AdviceModel, v: Tensor, discount: float) -> Tensor:
    """(N, S, X, C) u(s, a), the value of executing a."""
    u = model.expect(v)
    if discount != 1:
        u *= discount
    u += model.reward[..., None]
    return u


def _unaided(model: AdviceModel, u: Tensor) -> Tensor:
    """(N, S, C) u^H(s)."""
    return torch.einsum("nsxc,nsx->nsc", u, model.human.expand(u.shape[:3]))


def _advise(
    model: AdviceModel,
    thetas: list[Tensor],
    u: Tensor,
    costs: Tensor,
    nature: Pick = torch.minimum,
) -> tuple[Tensor, Tensor]:
    """(N, S, C) value and advice of the Bellman operator; overwrites u."""
    alone = _unaided(model, u)
    advantage = u.sub_(alone[:, :, None])  # in place: memory of this size is slow to come by
    others = [advantage * theta[..., None] for theta in thetas[1:]]
    gain = advantage.mul_(thetas[0][..., None])
    for other in others:
        gain = nature(gain, other)
    best, advice = gain.max(2)
    net = best - costs[:, None]
    said = net > TIE[u.dtype]
    return alone + torch.where(said, net, 0.0), torch.where(said, advice, model.actions)


def _follow(model: AdviceModel, advice: Tensor, v: Tensor, discount: float) -> Tensor:
    """(N, S, 2 C) gross return and number of advices, side by side, one stage earlier."""
    n, s, columns = v.shape
    count = columns // 2
    u = discount * model.expect(v)
    u[..., :count] += model.reward[..., None]
    alone = _unaided(model, u)
    said, taken = advice < model.actions, advice.clamp(max=model.actions - 1)
    taken = taken.expand(n, s, count)
    theta = model.adherence.expand(n, s, -1).gather(2, taken)
    theta = torch.where(said, theta, 0.0).repeat(1, 1, 2)
    executed = u.gather(2, taken.repeat(1, 1, 2)[:, :, None])[:, :, 0]
    before = alone + theta * (executed - alone)
    before[..., count:] += said
    return before


def _fixed_point(
    update: Callable[[Tensor], Tensor],
    v: Tensor,
    model: AdviceModel,
    discount: float,
    tolerance: float,
    cost: float,
) -> Tensor:
    if not 0 <= discount < 1:
        raise UserError(f"discount is {discount}, has to be from 0 to below 1")
    if not 0 < tolerance < math.inf:
        raise UserError(f"tolerance is {tolerance}, has to be a finite number above 0")
    enough = tolerance * (1 - discount)
    # the change shrinks by the discount each time: so many iterations suffice, whatever rounds off
    change = float(model.reward.abs().max()) + cost
    most = 1 if discount == 0 else math.ceil(math.log(enough / (change + enough), discount)) + 1
    for _ in range(most):
        old, v = v, update(v)
        if float((v - old).abs().max()) <= enough:
            break
    return v


def _evaluation(v: Tensor) -> Evaluation:
    gross, advices = v.transpose(1, 2).chunk(2, 1)
    return Evaluation(gross, advices)


def _zeros(model: AdviceModel, costs: Tensor, *thetas: Tensor) -> Tensor:
    n = max(model.instances, len(costs), *(len(theta) for theta in thetas), 1)
    return model.reward.new_zeros((n, model.states, costs.shape[1]))


def _width(model: AdviceModel, policy: Tensor) -> int:
    if len(policy) not in (1, model.instances) and model.instances != 1:
        raise UserError(f"policies of {len(policy)} instances, the model has {model.instances}")
    return max(model.instances, len(policy))


def check_horizon(horizon: int) -> int:
    """The horizon. Raises UserError for what is no whole number from 1 on."""
    if not is_whole(horizon, 1):
        raise UserError(f"horizon is {horizon!r}, has to be a whole number from 1 on")
    return int(horizon)


def _costs(model: AdviceModel, cost: ArrayLike | Tensor) -> Tensor:
    """(N or 1, C)."""
    given = torch.as_tensor(cost, dtype=model.reward.dtype, device=model.reward.device)
    given = given.reshape((1,) * (2 - given.dim()) + given.shape)
    if given.dim() != 2 or (len(given) not in (1, model.instances) and model.instances != 1):
        shape = tuple(given.shape)
        raise UserError(f"cost has shape {shape}, needs (C,) or ({model.instances}, C)")
    wrong = ~((given >= 0) & (given < math.inf))
    if bool(wrong.any()):
        first = float(given[wrong][0])
        raise UserError(f"an advice costs {first:.6g}, has to be a finite number from 0 on")
    return given
