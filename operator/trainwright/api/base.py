"""The base of every API type: strict, frozen, camelCase on the wire, with rules that hold in Python and in CEL alike.

A `Rule` is written once, next to the fields that it relates. Pydantic checks its Python side when a manifest is read. The
admission policy contains its CEL side, so the API server refuses the same manifest at `kubectl apply` with the same message.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Final, Self

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

_RESERVED_IN_CEL: Final = (
    *("as", "break", "const", "continue", "else", "for", "function", "if", "import", "let"),
    *("loop", "namespace", "package", "return", "var", "void", "while"),
)
"""Words that CEL does not accept as the name of a field."""


def camel(name: str) -> str:
    """Return the wire name of a field: `max_pool2d` is `maxPool2d`."""
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


@dataclass(frozen=True)
class Rule:
    """A relation between fields of one object.

    Attributes:
        field: The camelCase field that breaks the rule, relative to the object; empty for the object itself.
        message: What is wrong and what to do instead.
        cel: The rule as a CEL expression over `self`, for the admission policy.
        holds: The same rule over the Python object.
    """

    field: str
    message: str
    cel: str
    holds: Callable[[Any], bool]


def listed(names: Iterable[str], conjunction: str) -> str:
    """Return names joined for use in a sentence: `adam, adamw or lamb`."""
    *others, last = names
    return f"{', '.join(others)} {conjunction} {last}" if others else last


def is_set_in_cel(name: str) -> str:
    """Return a CEL expression for whether `self` has a field. A field with a reserved name can only be looked up as a key."""
    return f"'{name}' in self" if name in _RESERVED_IN_CEL else f"has(self.{name})"


def in_cel(names: Iterable[str]) -> str:
    """Return names as a list in CEL."""
    return str([str(name) for name in names])


def quoted(text: str) -> str:
    """Return a text as a CEL string literal, which uses the same escapes as JSON."""
    return json.dumps(text, ensure_ascii=False)


def one_of(*fields: str, what: str) -> Rule:
    """Return the rule that exactly one of `fields` (snake_case) is set."""
    return _choice(fields, what, "exactly", "==", lambda count: count == 1)


def at_most_one_of(*fields: str, what: str) -> Rule:
    """Return the rule that no two of `fields` (snake_case) are set together."""
    return _choice(fields, what, "at most", "<=", lambda count: count <= 1)


def _choice(fields: tuple[str, ...], what: str, quantity: str, operator: str, holds: Callable[[int], bool]) -> Rule:
    names = [camel(field) for field in fields]
    return Rule(
        field="",
        message=f"{what}: set {quantity} one of {', '.join(names)}",
        cel=f"[{', '.join(is_set_in_cel(name) for name in names)}].filter(set, set).size() {operator} 1",
        holds=lambda self: holds(sum(getattr(self, field) is not None for field in fields)),
    )


class Model(BaseModel):
    """An object of the API."""

    model_config = ConfigDict(
        alias_generator=camel,
        validate_by_name=True,
        validate_by_alias=True,
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:
        """Read an explicit null as an absent field, as the API server does; an unknown field stays one."""
        if isinstance(value, dict) and None in value.values():
            known = {name for field, info in cls.model_fields.items() for name in (field, info.alias)}
            return {key: item for key, item in value.items() if item is not None or key not in known}
        return value

    @model_validator(mode="after")
    def _keep_rules(self) -> Self:
        for rule in self.rules:
            if not rule.holds(self):
                raise PydanticCustomError("rule", "{message}", {"message": rule.message, "field": rule.field})
        return self

    def to_wire(self) -> dict[str, Any]:
        """Return the object as plain JSON types under its wire names, without unset optional fields."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    def changed(self, **fields: Any) -> Self:
        """Return a copy in which these fields have other values.

        The values are not validated, since they come from typed code; the names are checked.

        Raises:
            TypeError: The object has no field of that name.
        """
        return self.model_copy(update=fields)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy; `changed` is shorter to call. Pydantic alone would accept unknown field names silently."""
        unknown = [] if update is None else [name for name in update if name not in type(self).model_fields]
        if unknown:
            raise TypeError(f"{type(self).__name__} has no field {', '.join(unknown)}")
        return super().model_copy(update=update, deep=deep)


class StatusModel(Model):
    """A part of the status: tolerant of fields it does not know, and of texts of any length.

    Messages from schedulers, webhooks and exceptions can be arbitrarily long, and the API server would refuse the whole
    status because of a single text that is too long. Every text is therefore shortened to its field's `max_length` as soon
    as it enters a status, so that code decides on, compares and writes the same value.
    """

    model_config = ConfigDict(extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _shorten(cls, value: Any) -> Any:
        return _fitting(cls, value) if isinstance(value, dict) else value

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with other values, whose texts are shortened too."""
        return super().model_copy(update=update and _fitting(type(self), update), deep=deep)


def _fitting(model: type[StatusModel], values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the values of a model's fields with texts that are too long shortened."""
    limits = _limits(model)
    excess = {
        name for name, text in values.items() if isinstance(text, str) and len(text) > limits.get(name, len(text))
    }
    return {**values, **{name: _shortened(values[name], limits[name]) for name in excess}} if excess else values


@cache
def _limits(model: type[StatusModel]) -> Mapping[str, int]:
    """Return the most characters that each field may have, under its name in Python and on the wire."""
    return {
        name: rule.max_length
        for field, info in model.model_fields.items()
        for rule in info.metadata
        if hasattr(rule, "max_length")
        for name in (field, camel(field))
    }


def _shortened(text: str, longest: int) -> str:
    """Return a text without its middle, because the beginning says what happened and the end says what to do."""
    head = longest * 2 // 3
    return f"{text[:head]}…{text[len(text) - (longest - head - 1) :]}"
