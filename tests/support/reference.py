"""The API reference, `docs/api.md`, from the CRD: every field with its type, default, bounds and meaning."""

from collections.abc import Iterator
from typing import Any

from trainwright.api.crd import class_spec_schema, crd, spec_schema

Schema = dict[str, Any]

_HEAD = """# API reference

Generated from the types in `operator/trainwright/api` by `make generate`; `kubectl explain tj.spec --recursive` shows the same.
"""


def reference() -> str:
    """Return the reference as Markdown."""
    version = crd()["spec"]["versions"][0]
    properties = version["schema"]["openAPIV3Schema"]["properties"]
    lines = [_HEAD]
    lines += [*_object("spec", spec_schema()), *_object("status", properties["status"])]
    lines += ["## TrainingClass\n", *_object("class.spec", class_spec_schema())]
    return "\n".join(lines).rstrip() + "\n"


def _object(path: str, schema: Schema) -> Iterator[str]:
    """Yield the section of an object and of every object below it."""
    level = min(path.count(".") + 2, 4)
    yield f"{'#' * level} {path}\n"
    yield f"{schema.get('description', '')}\n"
    rules = [_rule(rule) for rule in schema.get("x-kubernetes-validations", ())]
    yield from rules
    if rules:
        yield ""
    properties: dict[str, Schema] = schema.get("properties", {})
    if properties:
        yield "| field | type | default | |\n|---|---|---|---|"
        required = schema.get("required", ())
        yield from (_row(name, field, name in required) for name, field in properties.items())
        yield ""
    for name, field in properties.items():
        inner = field.get("items", field)
        if inner.get("properties"):
            yield from _object(f"{path}.{name}" + ("[]" if "items" in field else ""), inner)


def _rule(rule: Schema) -> str:
    field = rule.get("fieldPath", "").lstrip(".")
    return f"- `{field}`: {rule['message']}" if field else f"- {rule['message']}"


def _row(name: str, schema: Schema, required: bool) -> str:  # noqa: FBT001
    default = "required" if required else _plain(schema["default"]) if "default" in schema else ""
    meaning = schema.get("description", "").replace("|", "\\|")
    return f"| `{name}` | {_type(schema)} | {default} | {meaning} |"


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _type(schema: Schema) -> str:
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("x-kubernetes-int-or-string"):
        return "quantity"
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {_type(schema['items'])}"
    if kind == "object" and "additionalProperties" in schema:
        return f"map to {_type(schema['additionalProperties'])}"
    return kind + _bounds(schema)


def _bounds(schema: Schema) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    parts = []
    if low is not None:
        parts.append(f"{'>' if schema.get('exclusiveMinimum') else '≥'} {_number(low)}")
    if high is not None:
        parts.append(f"{'<' if schema.get('exclusiveMaximum') else '≤'} {_number(high)}")
    return f" ({', '.join(parts)})" if parts else ""


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"
