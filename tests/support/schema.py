"""Whether a value is what a structural schema allows, as the API server would judge it (CEL apart)."""

import re
from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
}


def violations(value: Any, schema: Schema, path: str = "") -> Iterator[str]:
    """Yield every place at which the value breaks the schema; unknown fields are no violation only where they are kept."""
    kind = schema.get("type")
    if kind is not None:
        fits = isinstance(value, _TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))
        if not fits:
            yield f"{path}: {value!r} is no {kind}"
            return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{path}: {value!r} is none of {schema['enum']}"
    match value:
        case dict():
            yield from _object(value, schema, path)
        case list():
            yield from _bounds(len(value), schema, "Items", path)
            for index, item in enumerate(value):
                yield from violations(item, schema.get("items", {}), f"{path}[{index}]")
        case str():
            yield from _bounds(len(value), schema, "Length", path)
            if "pattern" in schema and not re.search(schema["pattern"], value):
                yield f"{path}: {value!r} does not match {schema['pattern']}"
        case int() | float():
            yield from _bounds(value, schema, "imum", path)


def _object(value: dict[str, Any], schema: Schema, path: str) -> Iterator[str]:
    known, more = schema.get("properties", {}), schema.get("additionalProperties")
    yield from _bounds(len(value), schema, "Properties", path)
    yield from (f"{path}.{name} is missing" for name in schema.get("required", ()) if name not in value)
    for name, item in value.items():
        if name in known or more is not None:
            yield from violations(item, known.get(name, more), f"{path}.{name}")
        elif not schema.get("x-kubernetes-preserve-unknown-fields"):
            yield f"{path}.{name} is unknown"


def _bounds(number: float, schema: Schema, what: str, path: str) -> Iterator[str]:
    least, most = schema.get(f"min{what}"), schema.get(f"max{what}")
    if least is not None and (number < least or (number == least and schema.get("exclusiveMinimum"))):
        yield f"{path}: {number} is less than {least}"
    if most is not None and (number > most or (number == most and schema.get("exclusiveMaximum"))):
        yield f"{path}: {number} is more than {most}"
