"""People who get advice, from section ``advice`` of a config."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import field
from pathlib import Path
from typing import Any

from gymnasium.spaces import Discrete
from torch import Tensor

from rlsuite.advice import AdviceSpace, Form
from rlsuite.checkpoint import CheckpointStore, fingerprint, is_checkpoint
from rlsuite.envs import AdviceVectorEnv
from rlsuite.envs.adherence import Adherence
from rlsuite.envs.humans import AgentHuman, EpsilonHuman, Human
from rlsuite.envs.people import People, remembers
from rlsuite.errors import UserError
from rlsuite.settings import Fraction, NonNegative, PositiveCount, settings
from rlsuite.types import VectorEnv


@settings
class AdviceConfig:
    """Who gets advice: the agent's actions are then advice to a simulated human, who acts."""

    human: str
    """Who acts: package.module:make, a callable that returns a Human of rlsuite.envs.humans, such
    as rlsuite.envs.humans:cartpole_angle; or the folder of a run whose agent it is, as of its
    newest checkpoint, or of one checkpoint, RUN/checkpoints/TRANSITIONS."""
    human_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of that callable; for the folder of a run, epsilon alone: how often it errs."""
    adherence: Fraction | str = 1.0
    """How probable it is that advice is followed: a number, or package.module:make, a callable that
    returns an Adherence of rlsuite.envs.adherence."""
    adherence_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of that callable."""
    form: Form = "mixture"
    """What adherence means: "mixture", the probability of following, beside which the human may do
    the same unaided; or "exclusive", that of the advised action being executed."""
    cost: NonNegative = 0.0
    """Reward that an advice costs, followed or not."""
    budget: PositiveCount | None = None
    """Advices an episode; further ones are not heard. Unset has no limit."""


def with_people(
    envs: VectorEnv, config: AdviceConfig, seed: int, load: Callable[[str], Any]
) -> AdviceVectorEnv:
    """``envs`` with people of their own around them; ``load`` makes the agent of a run's folder.

    Raises UserError for people that cannot be made, and for actions that cannot be advised.
    """
    return AdviceVectorEnv(
        envs,
        _human(config, int(getattr(envs.spec.action_space, "n", 0)), load),
        _adherence(config),
        cost=config.cost,
        form=config.form,
        budget=config.budget,
        seed=seed,
    )


def human_checkpoint(config: AdviceConfig | None) -> dict[str, str] | None:
    """The checkpoint that acts, if an agent of the suite does: its name and SHA-256.

    Raises UserError if there is none.
    """
    if config is None or ":" in config.human:
        return None
    folder = Path(config.human)
    found = folder if is_checkpoint(folder) else CheckpointStore(folder / "checkpoints").newest()
    if found is None:
        raise UserError(f"advice.human {config.human} is not the folder of a run or checkpoint")
    return {"checkpoint": found.name, "sha256": fingerprint(found)}


def check_same_human(config: AdviceConfig | None, recorded: dict[str, str] | None) -> None:
    """Raise UserError unless who acts is still who was recorded; nothing recorded is anybody."""
    if config is None or recorded is None:
        return
    now = human_checkpoint(config)
    if now != recorded:
        raise UserError(
            f"advice.human {config.human} is at checkpoint {now and now['checkpoint']}, and the "
            f"run had {recorded['checkpoint']} act: bring that back, or train anew with "
            "advice.human = RUN/checkpoints/TRANSITIONS, which stays as it is"
        )


def known_human(
    config: AdviceConfig, space: AdviceSpace, load: Callable[[str], Any]
) -> Callable[[Tensor], Tensor]:
    """The people's (B, X) probabilities of what they do unaided on the advisor's observations.

    Raises UserError for people with a memory, for whom an observation is not enough.
    """
    human = _human(config, space.actions, load)
    if remembers(human):
        raise UserError(
            f"agent.known_human: what {config.human} does does not follow from the observation "
            "alone (it has a memory); unset it"
        )
    people = People(Discrete(space.actions), human, _adherence(config), budget=config.budget)
    # What ``People.append`` has added is not for them to see.
    return lambda obs: human.probs(obs[:, : -people.features] if people.features else obs)


def _human(config: AdviceConfig, actions: int, load: Callable[[str], Any]) -> Human:
    if ":" in config.human:
        human = made("advice.human", config.human, config.human_kwargs)
        if not hasattr(human, "probs"):
            raise UserError(f"advice.human {config.human!r} returned no Human: it has no probs")
        return human  # type: ignore[no-any-return]
    unknown = config.human_kwargs.keys() - {"epsilon"}
    if unknown:
        raise UserError(f"advice.human_kwargs of a run can have epsilon alone, not {unknown}")
    novice = AgentHuman(load(config.human), actions)
    return EpsilonHuman(novice, float(config.human_kwargs.get("epsilon", 0.0)))


def _adherence(config: AdviceConfig) -> Adherence | float:
    if not isinstance(config.adherence, str):
        return float(config.adherence)
    adherence = made("advice.adherence", config.adherence, config.adherence_kwargs)
    if not hasattr(adherence, "theta"):
        raise UserError(f"advice.adherence {config.adherence!r} returned no Adherence: no theta")
    return adherence  # type: ignore[no-any-return]


def made(setting: str, path: str, kwargs: dict[str, Any]) -> Any:
    """What the callable at package.module:make, the value of ``setting``, returns.

    Raises UserError for a path that leads to none, and for arguments that it does not take.
    """
    module, _, name = path.rpartition(":")
    try:
        make = getattr(importlib.import_module(module), name)
        return make(**kwargs)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{setting} {path!r}: {error}; needs package.module:make") from error
