"""Configuration dataclasses: frozen, typed, checked when built, one docstring line a field."""

from __future__ import annotations

from typing import Annotated, TypeVar, dataclass_transform

import pydantic
import pydantic.dataclasses
from pydantic import Field

T = TypeVar("T")

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
PositiveCount = Annotated[int, Field(ge=1)]


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(Field,))
def settings(cls: type[T]) -> type[T]:
    """Make ``cls`` a frozen keyword-only dataclass that refuses unknown keys and wrong types.

    Types are strict (``"1e-3"`` is not a number, ``1.0`` not an integer); an integer passes for a
    float. Building one with bad values raises ``pydantic.ValidationError`` naming every field.
    """
    config = pydantic.ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)
    decorate = pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=config)
    return decorate(cls)  # type: ignore[return-value]


def describe_field(cls: type, name: str) -> str:
    """The docstring line of a settings field."""
    info = cls.__pydantic_fields__[name]  # type: ignore[attr-defined]
    return " ".join((info.description or "").split())
