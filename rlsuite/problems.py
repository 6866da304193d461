"""Section ``env`` of a config that is solved: which robust MDPs, by name.

Its settings follow from ``id``: ``garnet`` and ``inventory``, the problems of the DRPG paper
(arXiv 2212.10439, section 6), Gymnasium's environments with a table ``P``, and one's own.
"""

from __future__ import annotations

import difflib
from dataclasses import field
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

import gymnasium as gym
from pydantic import Field
from torch import Tensor

from rlsuite.advisees import made
from rlsuite.ambiguity import KL, L1, AmbiguitySet, Contamination, L1PerState, LInf
from rlsuite.envs import make_env
from rlsuite.envs.garnet import garnet, garnet_policy
from rlsuite.envs.inventory import inventory, inventory_start
from rlsuite.envs.tabular import tabular
from rlsuite.errors import UserError
from rlsuite.robust import RobustMDP, Support
from rlsuite.settings import Fraction, NonNegative, PositiveCount, settings

SETS: dict[str, type[AmbiguitySet]] = {
    "l1": L1,
    "linf": LInf,
    "kl": KL,
    "contamination": Contamination,
    "l1_per_state": L1PerState,
}
"""By the setting ``env.ambiguity``."""


class Problem(NamedTuple):
    """What is solved."""

    mdp: RobustMDP
    """With the initial distribution that is reported for."""
    training: RobustMDP
    """With the one that the solver sees."""
    policy: Tensor | None
    """(N, S, X) the first; None for the solver's own."""


@settings
class GarnetConfig:
    """The paper's random problems."""

    id: Literal["garnet"] = "garnet"
    """Random problems of the paper, discount 0.95; else "inventory", the Gymnasium id of an
    environment with a table P, or an import path package.module:make of a RobustMDP."""
    states: PositiveCount = 10
    """Number of states."""
    actions: PositiveCount = 6
    """Number of actions."""
    branches: PositiveCount = 3
    """Successors of a state and action, all states at most."""
    instances: PositiveCount = 50
    """Problems solved at once, drawn with run.seed, as are the first policies."""
    rectangular: Literal["sa", "s"] = "sa"
    """L1 balls for each state and action, or one budget for all actions of a state."""
    radius: Annotated[tuple[NonNegative, NonNegative], Field(strict=False)] | None = None
    """Least and greatest L1 radius, drawn uniformly; unset is the paper's: [0.1, 0.5], and
    [0.01, 1] where "s"."""

    def build(self, seed: int) -> Problem:
        """Raises UserError for more branches than states, and radii that are too large."""
        mdp = garnet(
            self.states,
            self.actions,
            self.branches,
            instances=self.instances,
            rectangular=self.rectangular,
            radius=self.radius,
            seed=seed,
        )
        return Problem(mdp, mdp, garnet_policy(mdp, seed))


@settings
class InventoryConfig:
    """The paper's problem with a parametric kernel."""

    id: Literal["inventory"] = "inventory"
    """The paper's inventory problem, discount 0.95, of a tilted kernel."""
    instances: PositiveCount = 10
    """Starts solved at once: initial distributions and first policies, drawn with run.seed."""

    def build(self, seed: int) -> Problem:
        """Problem and first policies."""
        initial, policy = inventory_start(seed, self.instances)
        mdp = inventory(initial)
        return Problem(mdp, mdp, policy)


@settings
class TableConfig:
    """An environment by its table."""

    id: str
    """Gymnasium id of an environment with a table P, such as FrozenLake-v1, CliffWalking-v1 or
    Taxi-v4; else "garnet", "inventory", or an import path package.module:make of a RobustMDP."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment's constructor."""
    ambiguity: Literal["l1", "linf", "kl", "contamination", "l1_per_state"] = "l1"
    """What nature chooses from: the distance to the nominal probabilities that is bounded."""
    radius: NonNegative
    """That bound, for every state and action; 0 is the environment as it is."""
    support: Support = "nominal"
    """Where nature may put mass: on the successors that the table lists for state and action, on
    those of any action of the "state", or on "all" states. A deterministic table needs "state"."""
    discount: Fraction = 0.99
    """Discount of future reward, per step; below 1."""
    uniform_start: Fraction = 0.5
    """Share of a uniform first state in what the solver sees, as states that are never visited have
    no gradient; evaluations are of the true first states."""

    def build(self, seed: int) -> Problem:
        """Raises UserError for an unknown id, an environment without a table, a bad radius."""
        env = make_env(self.id, kwargs=self.kwargs)
        kind = SETS[self.ambiguity](self.radius)
        mdp = tabular(env, kind, discount=self.discount, support=self.support)
        return Problem(mdp, mdp.mix_initial(self.uniform_start), None)


@settings
class OwnConfig:
    """A problem of one's own."""

    id: str
    """Import path package.module:make of a callable that returns a rlsuite.robust.RobustMDP."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the callable."""
    uniform_start: Fraction = 0.0
    """Share of a uniform first state in what the solver sees; evaluations are of the true ones."""

    def build(self, seed: int) -> Problem:
        """Raises UserError for a path that does not lead to a problem."""
        mdp = made("env.id", self.id, self.kwargs)
        if not isinstance(mdp, RobustMDP):
            raise UserError(f"env.id {self.id!r} returned {type(mdp).__name__}, not a RobustMDP")
        return Problem(mdp, mdp.mix_initial(self.uniform_start), None)


ProblemConfig: TypeAlias = GarnetConfig | InventoryConfig | TableConfig | OwnConfig
PROBLEMS: dict[str, type[ProblemConfig]] = {"garnet": GarnetConfig, "inventory": InventoryConfig}
"""By ``id``, those that are no environments."""


def problem_settings(name: object) -> type[ProblemConfig]:
    """The settings that go with an ``id``. Raises UserError for one that is not known."""
    if not isinstance(name, str) or name in PROBLEMS:
        return PROBLEMS.get(str(name), TableConfig)
    if ":" in name:
        return OwnConfig
    if name not in gym.registry:
        near = difflib.get_close_matches(name, [*PROBLEMS, *gym.registry], n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(PROBLEMS)}"
        raise UserError(f"env.id: unknown problem {name!r}; {hint}")
    return TableConfig
