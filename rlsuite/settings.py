"""Configuration dataclasses: frozen, typed, checked when built, one docstring line a field."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Annotated, Any, TypeVar, dataclass_transform, get_args

import pydantic
import pydantic.dataclasses
from pydantic import Field, ValidationError

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


def build_settings(cls: type, values: Any, key: str, problems: list[str]) -> Any:
    """An instance of ``cls``, and of the settings in it; what is wrong is added to ``problems``."""
    if not isinstance(values, dict):
        problems.append(f"{key} is {values!r} but should be a section of settings")
        return None
    given = dict(values)
    for item in dataclasses.fields(cls):
        inner = _settings_in(cls, item.name)
        if inner and isinstance(given.get(item.name), dict):
            built = build_settings(inner, given.pop(item.name), f"{key}.{item.name}", problems)
            given |= {} if built is None else {item.name: built}
    try:
        return cls(**given)
    except ValidationError as error:
        problems += _explain(error, key, cls)
        return None


def _settings_in(cls: type, name: str) -> type | None:
    """The settings that a field holds, such as ``StepSize``, or None."""
    annotation = cls.__pydantic_fields__[name].annotation  # type: ignore[attr-defined]
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            return kind
    return None


def unknown_setting(key: str, known: list[str]) -> str:
    """What to say of a setting that there is not."""
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if not known:
        return f"unknown setting {key}; there are none here"
    hint = f"did you mean {near[0]}?" if near else f"known are: {', '.join(known)}"
    return f"unknown setting {key}; {hint}"


def _explain(error: ValidationError, section: str, cls: type) -> list[str]:
    """One text a setting; the alternatives of a union are told together."""
    texts: dict[str, list[str]] = {}
    given: dict[str, Any] = {}
    for problem in error.errors(include_url=False):
        setting = str(problem["loc"][0]) if problem["loc"] else ""
        key = f"{section}.{setting}" if setting else section
        if problem["type"] == "unexpected_keyword_argument":
            own = [f"{section}.{item.name}" for item in dataclasses.fields(cls)]
            texts[key] = [unknown_setting(key, own)]
            continue
        if problem["type"] == "missing":
            meaning = describe_field(cls, setting)
            lacks = (
                "is missing" if len(problem["loc"]) == 1 else f"has {problem['input']!r}, too few"
            )
            texts[key] = [f"{key} {lacks}: {meaning}"]
            continue
        given[key] = problem["input"]
        message = problem["msg"].removeprefix("Input should be ")
        texts.setdefault(key, []).append(message[0].lower() + message[1:])
    return [
        f"{key} is {given[key]!r} but should be {' or '.join(dict.fromkeys(text))}"
        if key in given
        else text[0]
        for key, text in texts.items()
    ]
