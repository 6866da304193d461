"""Nature's side of robust policy gradients: what answers a policy with a kernel.

The inner loops of ``agents/drpg.py`` and of its baselines. An adversary maximises the cost of a
fixed policy: exactly, by projected ascent on the kernel (algorithm 2 of the DRPG paper,
arXiv 2212.10439), or on the parameters of a tilted kernel.

Shapes: ``N`` instances, ``S`` states, ``X`` actions, ``B`` successors.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Protocol, TypeAlias

import torch
from pydantic import Field
from torch import Tensor

from rlsuite.agents.robust_planning import (
    Response,
    assess,
    evaluate,
    fill,
    kernel_gradient,
    occupancy,
    robust_evaluate,
    total_cost,
)
from rlsuite.errors import UserError
from rlsuite.rng import generator
from rlsuite.robust import RobustMDP
from rlsuite.settings import Count, Positive, PositiveCount, settings
from rlsuite.tilt import Parameters, TiltedKernel
from rlsuite.types import State, Stateful


@settings
class AscentConfig:
    """Settings of the projected gradient ascent on the kernel."""

    step: Positive = 0.1
    """Step on the probabilities, the authors'."""
    warm: bool = True
    """Start from the kernel of the outer iteration before, not from the nominal. The authors' cold
    start is the documented failure: see ``fill``."""
    fill: bool = True
    """Let actions that the policy does not take have their worst kernel
    (``robust_planning.fill``). The ascent leaves them nominal, as their gradient is zero: they look
    cheap, the policy moves there, and back, for ever."""
    max_solves: PositiveCount = 2000
    """Linear systems in an outer iteration, where the tolerance is not met sooner."""


@settings
class TiltConfig:
    """Settings of the ascent on the parameters of a tilted kernel, which is not concave."""

    step: Positive = 0.01
    """Step on theta and on the multiplier, the authors'."""
    tolerance: Positive = 1e-4
    """Stop when the values move by less in the Euclidean norm; there is no certificate."""
    max_solves: PositiveCount = 10_000
    """Linear systems in an outer iteration, where the tolerance is not met sooner."""
    starts: Annotated[
        tuple[Literal["warm", "ones", "centre"], ...], Field(strict=False, min_length=1)
    ] = ("warm", "ones", "centre")
    """Where ascents begin: the last worst parameters, ones (the authors' only start), the centre;
    the worst end is taken."""
    random: Count = 4
    """Ascents more, from random points."""


PUBLISHED_TILT = TiltConfig(starts=("ones",), random=0)
"""The inner loop of the paper's inventory experiment."""


class Adversary(Stateful, Protocol):
    """The inner loop. What it keeps from one call to the next is its state."""

    certified: ClassVar[bool]
    """Whether no kernel of the problem's set costs more than a response by more than its gap."""

    def respond(self, policy: Tensor, tolerance: Tensor) -> Response:
        """A kernel against the (N, S, X) policy, worst to within (N,) costs if it can tell."""


AdversaryName: TypeAlias = Literal["exact", "ascent", "tilt", "nominal"]


class ExactAdversary:
    """The worst kernel of a rectangular set, by policy iteration of nature: meets any tolerance."""

    certified: ClassVar[bool] = True

    def __init__(self, mdp: RobustMDP) -> None:
        """Raises UserError for a parametric kernel."""
        _ = mdp.rectangular
        self.mdp = mdp
        self.v: Tensor | None = None
        self._worst: Tensor | None = None
        """Against those values, where that is the same for every policy."""

    def respond(self, policy: Tensor, tolerance: Tensor) -> Response:
        """Exact to round-off; the values of the policy before save a solve."""
        response = robust_evaluate(self.mdp, policy, self.v, kernel=self._worst)
        self.v = response.evaluation.v
        self._worst = None if self.mdp.rectangular.per_state else response.worst
        return response

    def state_dict(self) -> State:
        """The last values."""
        return {} if self.v is None else {"v": self.v}

    def load_state_dict(self, state: State) -> None:
        """Continue bit for bit."""
        self.v = state["v"].clone() if "v" in state else None
        self._worst = None


class GradientAdversary:
    """Projected gradient ascent on the kernel (algorithm 2), stopped by its certificate."""

    certified: ClassVar[bool] = True

    def __init__(self, mdp: RobustMDP, config: AscentConfig | None = None) -> None:
        """Start from the nominal. Raises UserError for a parametric kernel, and for a set without
        projection."""
        self.mdp, self.config = mdp, config or AscentConfig()
        mdp.project(mdp.nominal)  # a set that has no projection says so before anything is solved
        self.kernel = mdp.nominal

    def respond(self, policy: Tensor, tolerance: Tensor) -> Response:
        """Ascend until the gap is within the tolerance, each instance by itself."""
        mdp, config = self.mdp, self.config
        kernel = self.kernel if config.warm else mdp.nominal
        for solves in range(1, config.max_solves + 1):
            evaluation, worst, gap = assess(mdp, policy, kernel)
            open_ = gap > tolerance
            if solves == config.max_solves or not bool(open_.any()):
                break
            d = occupancy(mdp, evaluation)
            ascent = kernel_gradient(mdp, d, mdp.target(evaluation.v), policy)
            moved = mdp.project(kernel + config.step * ascent)
            kernel = torch.where(open_[:, None, None, None], moved, kernel)
        self.kernel = kernel
        if config.fill:
            kernel = fill(mdp, policy, kernel, worst)
        return Response(kernel, evaluation, worst, gap, solves)

    def state_dict(self) -> State:
        """The last kernel, before filling."""
        return {"kernel": self.kernel}

    def load_state_dict(self, state: State) -> None:
        """Continue bit for bit."""
        self.kernel = state["kernel"].clone()


class TiltAdversary:
    """Projected ascent on the parameters of a tilted kernel, from several starts at once."""

    certified: ClassVar[bool] = False

    def __init__(self, mdp: RobustMDP, config: TiltConfig | None = None, *, seed: int = 0) -> None:
        """Raises UserError unless the problem has a tilted kernel."""
        if not isinstance(mdp.ambiguity, TiltedKernel):
            raise UserError("the set is no tilted kernel: take ExactAdversary, GradientAdversary")
        self.tilt, self.config = mdp.ambiguity, config or TiltConfig()
        self.starts = len(self.config.starts) + self.config.random
        self.mdp, self.wide = mdp, mdp.repeat(self.starts)
        self.xi = Parameters(*(torch.ones_like(x) for x in self.tilt.centre))
        """The last worst parameters, of every instance."""
        self.generator = generator(seed, "drpg tilt starts")

    def respond(self, policy: Tensor, tolerance: Tensor) -> Response:
        """The worst end of the ascents; a stationary point, so that the gap is not known: 0."""
        mdp, wide, config = self.mdp, self.wide, self.config
        many = policy.repeat_interleave(self.starts, 0)
        tilt = wide.ambiguity
        assert isinstance(tilt, TiltedKernel)
        xi = self._begin()
        kernel = tilt.kernel(xi, wide.successor)
        evaluation, solves = evaluate(wide, many, kernel), 1
        open_ = torch.ones_like(evaluation.v[:, :1], dtype=torch.bool)
        while bool(open_.any()) and solves < config.max_solves:
            d = occupancy(wide, evaluation)
            slope = kernel_gradient(wide, d, wide.target(evaluation.v), many)
            ascent = tilt.gradient(xi, wide.successor, slope)
            moved = tilt.project(
                Parameters(*(x + config.step * g for x, g in zip(xi, ascent, strict=True)))
            )
            xi = Parameters(*(torch.where(open_, m, x) for m, x in zip(moved, xi, strict=True)))
            kernel, before = tilt.kernel(xi, wide.successor), evaluation.v
            evaluation, solves = evaluate(wide, many, kernel), solves + 1
            change = (evaluation.v - before).norm(dim=1, keepdim=True)
            open_ = open_ & (change > config.tolerance)
        cost = total_cost(wide, evaluation.v).view(mdp.instances, -1)
        best = cost.argmax(1) + self.starts * torch.arange(mdp.instances, device=cost.device)
        self.xi = Parameters(*(x[best] for x in xi))
        lu, pivots = evaluation.factor
        evaluation = evaluation._replace(v=evaluation.v[best], factor=(lu[best], pivots[best]))
        gap = torch.zeros_like(mdp.initial[:, 0])
        return Response(kernel[best], evaluation, kernel[best], gap, solves)

    def _begin(self) -> Parameters:
        """(N * starts, ...) parameters, those of an instance side by side."""
        ones = Parameters(*(torch.ones_like(x) for x in self.tilt.centre))
        named = {"warm": self.xi, "ones": ones, "centre": self.tilt.centre}
        points = [self.tilt.project(named[name]) for name in self.config.starts]
        if self.config.random:
            drawn = self.tilt.sample(self.config.random, self.generator)
            views = [x.view(self.mdp.instances, -1, x.shape[1]) for x in drawn]
            points += [Parameters(*(x[:, i] for x in views)) for i in range(self.config.random)]
        return Parameters(*(torch.stack(x, 1).flatten(0, 1) for x in zip(*points, strict=True)))

    def state_dict(self) -> State:
        """The last parameters, and the generator of random starts."""
        return {**self.xi._asdict(), "generator": self.generator.get_state()}

    def load_state_dict(self, state: State) -> None:
        """Continue bit for bit."""
        self.xi = Parameters(*(state[name].clone() for name in Parameters._fields))
        self.generator.set_state(state["generator"])


class FixedKernel:
    """No adversary: always the nominal kernel."""

    certified: ClassVar[bool] = False

    def __init__(self, mdp: RobustMDP) -> None:
        """Nothing is kept."""
        self.mdp = mdp

    def respond(self, policy: Tensor, tolerance: Tensor) -> Response:
        """One evaluation; in a set of one kernel there is no gap."""
        kernel = self.mdp.nominal
        gap = torch.zeros_like(self.mdp.initial[:, 0])
        return Response(kernel, evaluate(self.mdp, policy, kernel), kernel, gap, 1)

    def state_dict(self) -> State:
        """Empty."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """Nothing to load."""


ADVERSARY_CONFIGS: dict[str, type] = {"ascent": AscentConfig, "tilt": TiltConfig}
"""Settings of the adversaries that have any, by name."""


def make_adversary(
    mdp: RobustMDP, name: AdversaryName | None = None, config: Any = None, *, seed: int = 0
) -> Adversary:
    """The adversary of this name, with its settings of ``ADVERSARY_CONFIGS`` or their defaults.

    None is "exact" for a rectangular set and "tilt" for a tilted kernel. ``seed`` is that of random
    starts. Raises UserError for one that does not fit the problem's set.
    """
    name = name or ("tilt" if isinstance(mdp.ambiguity, TiltedKernel) else "exact")
    if name == "ascent":
        return GradientAdversary(mdp, config)
    if name == "tilt":
        return TiltAdversary(mdp, config, seed=seed)
    return ExactAdversary(mdp) if name == "exact" else FixedKernel(mdp)
