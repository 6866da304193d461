"""Gymnasium's toy-text environments by their table ``P``: as robust MDPs, and with advice."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlsuite.advice import AdviceModel, Form
from rlsuite.ambiguity import AmbiguitySet
from rlsuite.envs.gym_env import make_env
from rlsuite.errors import UserError
from rlsuite.robust import RobustMDP, Support

Floats = NDArray[np.float64]


def tabular(
    env: str | gym.Env[Any, Any],
    ambiguity: AmbiguitySet,
    *,
    discount: float = 0.99,
    support: Support = "nominal",
    **kwargs: Any,
) -> RobustMDP:
    """The robust MDP around an environment with a table ``P``: FrozenLake, CliffWalking, Taxi.

    A state that ends episodes is absorbing and costs nothing, whatever nature does; one that is
    also passed through gets a second, absorbing copy behind the environment's own states, so that
    rows 0 to S - 1 of a policy are the environment's. A successor listed twice counts once, with
    the sum of the probabilities and the mean reward. With support "state" an action that does not
    list a successor is rewarded for it as the state's other actions are, in the mean. A
    deterministic table has nothing ambiguous with support "nominal": take "state".

    Args:
        env: an id, with ``kwargs`` for ``gymnasium.make``, or an environment.
        ambiguity: a set of ``rlsuite.ambiguity``.
        discount: from 0 to below 1.
        support: see ``RobustMDP.from_arrays``; with "all" what is nowhere listed is rewarded with
            the mean of state and action.

    Raises:
        UserError: for an unknown environment, and for one without a table.
    """
    kernel, reward, start, ends, _ = _read(env, kwargs)
    allowed: Support | NDArray[np.bool_] = support
    if support == "all":  # but nobody comes back from an end
        allowed = np.ones(kernel.shape, np.bool_)
        allowed[ends] = kernel[ends] > 0
    return RobustMDP.from_arrays(
        kernel,
        reward=reward,
        initial=start,
        discount=discount,
        ambiguity=ambiguity,
        support=allowed,
    )


def advised(
    env: str | gym.Env[Any, Any],
    *,
    human: ArrayLike,
    adherence: ArrayLike,
    form: Form = "mixture",
    **kwargs: Any,
) -> AdviceModel:
    """A human who gets advice in an environment with a table ``P``, with states as in ``tabular``.

    Rewards are as they are, not scaled to [0, 1]: exact planning needs no scale. A time limit of
    the environment is the horizon that one plans with.

    Args:
        env: an id, with ``kwargs`` for ``gymnasium.make``, or an environment.
        human: (S, X) probabilities of what the human does unaided in the environment's S states.
        adherence: (S, X), or a number for all.
        form: see ``AdviceModel.from_arrays``.

    Raises:
        UserError: as ``tabular``, and for tables that fit no human.
    """
    kernel, reward, start, _, states = _read(env, kwargs)
    tables = [np.asarray(table, np.float64) for table in (human, adherence)]
    for name, table in zip(("human", "adherence"), tables, strict=True):
        if table.ndim == 2 and len(table) not in (states, len(kernel)):
            raise UserError(f"the {name} has {len(table)} rows, the environment {states} states")
    for i, table in enumerate(tables):
        extra = len(kernel) - len(table) if table.ndim == 2 else 0
        if extra:  # the absorbing copies, where nothing matters
            filler = np.full((extra, table.shape[1]), 1.0 if i else 1 / table.shape[1])
            tables[i] = np.concatenate([table, filler])
    return AdviceModel.from_arrays(
        kernel,
        reward=(kernel * reward).sum(2),
        human=tables[0],
        adherence=tables[1],
        initial=start,
        form=form,
    )


def _read(
    env: str | gym.Env[Any, Any], kwargs: dict[str, Any]
) -> tuple[Floats, Floats, Floats, list[int], int]:
    """Kernel, mean rewards of transitions, distribution of the first state, absorbing states, and
    how many states the environment has of its own."""
    made = make_env(env, kwargs=kwargs) if isinstance(env, str) else env
    base = getattr(made, "unwrapped", None)
    table = getattr(base, "P", None)
    initial = getattr(base, "initial_state_distrib", None)
    if table is None or initial is None:
        raise UserError(f"{made} has no table P: FrozenLake, CliffWalking and Taxi have")
    kernel, reward, ends = _arrays(table)
    start = np.zeros(len(kernel))
    start[: len(initial)] = np.asarray(initial, np.float64) / np.sum(initial)
    return kernel, reward, start, ends, len(table)


def _arrays(table: Any) -> tuple[Floats, Floats, list[int]]:
    """(S', X, S') probabilities and mean rewards, with the absorbing copies; what is absorbing."""
    states, actions = len(table), len(table[0])
    rows = [(s, a, *entry) for s in range(states) for a in range(actions) for entry in table[s][a]]
    ends = {t for _, _, p, t, _, done in rows if done and p > 0}
    passed = sorted(ends & {t for s, _, p, t, _, done in rows if not done and p > 0 and s != t})
    ends -= set(passed)
    inner = [row for row in rows if row[0] not in ends]
    copy = {t: states + i for i, t in enumerate(passed)}
    size = states + len(passed)
    kernel, gained = (np.zeros((size, actions, size)) for _ in range(2))
    for s, a, p, t, r, done in inner:
        end = copy.get(t, t) if done else t
        kernel[s, a, end] += p
        gained[s, a, end] += p * float(r)
    absorbing = [*ends, *copy.values()]
    for s in absorbing:
        kernel[s, :, s] = 1.0
    return kernel, _rewards(kernel, gained), absorbing


def _rewards(kernel: Floats, gained: Floats) -> Floats:
    listed, of_state = kernel.sum(1), gained.sum(1)
    others = np.divide(of_state, listed, out=np.zeros_like(listed), where=listed > 0)
    row = np.broadcast_to(gained.sum(2, keepdims=True), gained.shape)
    unlisted = np.where(listed[:, None] > 0, others[:, None], row)
    return np.divide(gained, kernel, out=unlisted.copy(), where=kernel > 0)
