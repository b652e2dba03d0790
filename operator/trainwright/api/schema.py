"""Converts pydantic's JSON schema into the structural schema that Kubernetes requires.

References are inlined, `null` is left out (the API server drops a null like an absent field), bounds are in OpenAPI 3.0 form.
Rules between fields are added as CEL. This module does no I/O.
"""

from collections.abc import Iterable, Iterator
from copy import deepcopy
from typing import Any, Final

from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from trainwright.api.base import Model, Rule

Schema = dict[str, Any]

RULES: Final = "x-kubernetes-validations"
_ANYTHING: Final = "x-kubernetes-preserve-unknown-fields"


def schema_of(model: type[Model], description: str) -> Schema:
    """Return the structural schema of a model, with the rules of each level under `RULES`."""
    raw = model.model_json_schema(by_alias=True, schema_generator=_WithRules)
    return _structural(raw | {"description": description}, raw.get("$defs", {}))


def without(key: str, schema: Schema) -> Schema:
    """Return a copy of the schema without this keyword on any level."""
    schema = deepcopy(schema)
    for _, level in levels(schema):
        level.pop(key, None)
    return schema


def levels(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Yield a schema and every schema within it, parents first, each with its path: `a.b[]` for items, `a.b.*` for values."""
    yield path, schema
    for name, part in schema.get("properties", {}).items():
        yield from levels(part, f"{path}.{name}".lstrip("."))
    if "items" in schema:
        yield from levels(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        yield from levels(schema["additionalProperties"], f"{path}.*")


def walk(schema: Schema, path: str = "") -> Iterable[tuple[str, Schema]]:
    """Yield every field of a structural schema with its path, parents first."""
    return ((place, field) for place, field in levels(schema, path) if place != path and place[-1] not in "]*")


class _WithRules(GenerateJsonSchema):
    """Pydantic's JSON schema, with each model's rules as CEL."""

    def model_schema(self, schema: core_schema.ModelSchema) -> Schema:
        result = super().model_schema(schema)
        if rules := schema["cls"].rules:
            result[RULES] = [_validation(rule) for rule in rules]
        return result


def _validation(rule: Rule) -> Schema:
    validation = {"rule": rule.cel, "message": rule.message}
    return validation | {"fieldPath": f".{rule.field}"} if rule.field else validation


def _structural(node: Schema, definitions: Schema) -> Schema:
    """Return a node of pydantic's JSON schema as Kubernetes wants it."""
    node = _inlined(node, definitions)
    result: Schema = {key: deepcopy(node[key]) for key in _KEPT if key in node}
    if RULES in result:
        result[RULES] = [
            {key: rule[key] for key in ("rule", "message", "fieldPath") if key in rule} for rule in result[RULES]
        ]
    if "exclusiveMinimum" in node:
        result |= {"minimum": node["exclusiveMinimum"], "exclusiveMinimum": True}
    if "exclusiveMaximum" in node:
        result |= {"maximum": node["exclusiveMaximum"], "exclusiveMaximum": True}
    if node.get("default") is not None:
        result["default"] = _without_nulls(node["default"])
    if "properties" in node:
        result["properties"] = {name: _structural(part, definitions) for name, part in node["properties"].items()}
    if "items" in node:
        result["items"] = _structural(node["items"], definitions)
    if "type" not in result and "x-kubernetes-int-or-string" not in result:
        result[_ANYTHING] = True
    return result | _map_values(node, definitions)


_KEPT: Final = (
    "type",
    "description",
    "format",
    "enum",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "required",
    "x-kubernetes-int-or-string",
    _ANYTHING,
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    RULES,
)


def _inlined(node: Schema, definitions: Schema) -> Schema:
    """Return the node with its reference resolved and the alternative `null` removed. Sibling keywords take precedence."""
    while "$ref" in node or "anyOf" in node:
        rest = {key: value for key, value in node.items() if key not in ("$ref", "anyOf")}
        if "$ref" in node:
            inner = definitions[node["$ref"].removeprefix("#/$defs/")]
        else:
            (inner,) = (choice for choice in node["anyOf"] if choice != {"type": "null"})
        node = inner | rest
    return node


def _map_values(node: Schema, definitions: Schema) -> Schema:
    """Return the schema of a map's values. Structural schemas cannot constrain keys, so a CEL rule does."""
    if "patternProperties" in node:
        ((pattern, values),) = node["patternProperties"].items()
        longest = node["propertyNames"]["maxLength"]
        rule = {
            "rule": f"self.all(key, key.size() <= {longest} && key.matches('{pattern}'))",
            "message": f"keys must match {pattern} and have at most {longest} characters",
        }
        return {"additionalProperties": _structural(values, definitions), RULES: [rule]}
    values = node.get("additionalProperties")
    if not isinstance(values, dict):
        return {}
    values = _structural(values, definitions)
    if values == {_ANYTHING: True}:
        # The keyword must be on the map itself: CEL cannot access a map whose values have no type.
        return {_ANYTHING: True}
    return {"additionalProperties": values}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return value
