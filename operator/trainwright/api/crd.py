"""The CustomResourceDefinition, generated from the types: what pydantic accepts is what the API server accepts.

Pydantic's JSON schema becomes the structural schema that Kubernetes asks for: references inlined, `null` left out (the
API server drops a null like an absent field), bounds in OpenAPI 3.0 form, `rules` as CEL. Pure: no files, no YAML.
"""

from collections.abc import Iterable
from copy import deepcopy
from typing import Any, Final

from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from trainwright.api.base import Model, Rule, camel
from trainwright.api.job import NAME_LENGTH, NAME_PATTERN, NAME_RULE_MESSAGE
from trainwright.api.names import GROUP, KIND, PLURAL, SHORT_NAME, SINGULAR, VERSION
from trainwright.api.spec import TrainingJobSpec, WorkersSpec
from trainwright.api.status import TrainingJobStatus

Schema = dict[str, Any]

MUTABLE: Final = frozenset(
    {"suspend", "start_deadline_seconds", "active_deadline_seconds", "ttl_seconds_after_finished", "restart", "budget"}
)
"""Fields of the spec that may change after the first start; the others decide what is trained, and how."""
MUTABLE_OF_WORKERS: Final = frozenset({"count", "min_count"})
"""Those of workers that may: how many there are decides how fast a job trains, not what."""

_RULES: Final = "x-kubernetes-validations"
_ANYTHING: Final = "x-kubernetes-preserve-unknown-fields"

_COLUMNS: Final = (
    ("State", "string", ".status.phase", 0, "Where the job is in its life."),
    ("Progress", "string", ".status.summary.progress", 0, "Percent of the steps done."),
    ("ETA", "string", ".status.summary.eta", 0, "Time left."),
    ("Loss", "string", ".status.summary.loss", 0, "Training loss."),
    ("Workers", "string", ".status.summary.workers", 0, "Ready and desired workers."),
    ("Restarts", "integer", ".status.restarts", 0, "Restarts after failures."),
    ("Age", "date", ".metadata.creationTimestamp", 0, "Time since the job was created."),
    ("Step", "integer", ".status.progress.step", 1, "Optimizer steps done."),
    ("Metric", "string", ".status.summary.metric", 1, "Main metric of the newest evaluation."),
    ("Throughput", "string", ".status.summary.throughput", 1, "Samples per second."),
    ("Reason", "string", ".status.reason", 1, "Why the job is in this state, in one word."),
)


def crd() -> dict[str, Any]:
    """Return the CustomResourceDefinition of TrainingJob, as plain JSON types in the order that reads best."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": SINGULAR,
                "shortNames": [SHORT_NAME],
                "categories": ["all"],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [_column(*column) for column in _COLUMNS],
                    "schema": {"openAPIV3Schema": _root()},
                }
            ],
        },
    }


def _column(name: str, kind: str, path: str, priority: int, description: str) -> Schema:
    column = {"name": name, "type": kind, "jsonPath": path, "description": description}
    return column | {"priority": priority} if priority else column


def _root() -> Schema:
    return {
        "type": "object",
        "description": "A TrainingJob trains one PyTorch model on the data it names, with the workers it asks for. "
        "Its status tells how far it is, how well it learns, when it will end, and why it does not run.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {
                "type": "string",
                "description": f"{GROUP}/{VERSION}: the version of the API that this object is written in.",
            },
            "kind": {"type": "string", "description": f"{KIND}."},
            "metadata": {"type": "object"},  # Kubernetes describes it itself, and allows no description here
            "spec": _schema_of(TrainingJobSpec, "What to train, on what, how, and with which workers."),
            "status": _without_defaults(
                _schema_of(TrainingJobStatus, "What the operator says about the job; it alone writes it.")
            ),
        },
        _RULES: [_name_rule(), _immutability(), _durability()],
    }


def _name_rule() -> Schema:
    return {
        "rule": f"self.metadata.name.size() <= {NAME_LENGTH} && self.metadata.name.matches('{NAME_PATTERN}')",
        "message": f"metadata.name {NAME_RULE_MESSAGE}",
    }


def _immutability() -> Schema:
    """Return the transition rule for the fields that may not change once workers were started.

    It is one rule, because the API server judges it with every write of a status, too, and a rule per field would cost it
    as much as all the rest of that. Such a write passes at the first term: who changes a spec cannot change the status with
    it, so where the ledger has gone on the spec is the same. An optional field counts as changed when it comes or goes.
    """
    status_write = "self.?status.?goodput.?until != oldSelf.?status.?goodput.?until"
    started = "has(oldSelf.status) && has(oldSelf.status.attempt) && oldSelf.status.attempt >= 1"
    unchanged = {}
    for path, field in _fixed_fields():
        new, old = f"self.{path}", f"oldSelf.{path}"
        same = f"{new} == {old}"
        if not field.is_required() and field.default is None:
            same = f"has({new}) == has({old}) && (!has({new}) || {same})"
        unchanged[path] = f"({same})"
    refusal = "cannot change after the first start (create a new job instead)"
    named = " + ".join(f"({same} ? '' : ' {path}')" for path, same in unchanged.items())
    return {
        "rule": f"{status_write} || !({started}) || ({' && '.join(unchanged.values())})",
        "message": f"what is trained {refusal}",
        "messageExpression": f"'{refusal}:' + {named}",
        "fieldPath": ".spec",
    }


def _durability() -> Schema:
    """Return the rule that keeps a job from losing what it has learnt to a change of its size."""
    return {
        "rule": "self.spec.workers.count == oldSelf.spec.workers.count || "
        "!(has(oldSelf.status) && has(oldSelf.status.progress) && has(oldSelf.status.progress.step) && "
        "oldSelf.status.progress.step > 0) || has(self.spec.checkpoint.persistentVolumeClaim) || "
        "has(self.spec.checkpoint.uri)",
        "message": "spec.workers.count cannot change once steps were taken unless checkpoint.persistentVolumeClaim or "
        "checkpoint.uri is set: the state lies in worker 0's scratch space and would go with its pod",
        "fieldPath": ".spec.workers.count",
    }


def _fixed_fields() -> Iterable[tuple[str, FieldInfo]]:
    """Yield the path of every field that may not change once workers were started."""
    for name, field in TrainingJobSpec.model_fields.items():
        if name == "workers":
            parts = ((part, info) for part, info in WorkersSpec.model_fields.items() if part not in MUTABLE_OF_WORKERS)
            yield from ((f"spec.workers.{camel(part)}", info) for part, info in parts)
        elif name not in MUTABLE:
            yield f"spec.{camel(name)}", field


def _schema_of(model: type[Model], description: str) -> Schema:
    raw = model.model_json_schema(by_alias=True, schema_generator=_WithRules)
    return _structural(raw | {"description": description}, raw.get("$defs", {}))


def _without_defaults(schema: Schema) -> Schema:
    """Return the schema without defaults: the operator writes the status whole, so what is absent was not said."""
    for _, part in walk(schema):
        part.pop("default", None)
    return schema


class _WithRules(GenerateJsonSchema):
    """Pydantic's JSON schema, with each model's rules as CEL."""

    def model_schema(self, schema: core_schema.ModelSchema) -> Schema:
        result = super().model_schema(schema)
        if rules := schema["cls"].rules:
            result[_RULES] = [_validation(rule) for rule in rules]
        return result


def _validation(rule: Rule) -> Schema:
    validation = {"rule": rule.cel, "message": rule.message}
    return validation | {"fieldPath": f".{rule.field}"} if rule.field else validation


def _structural(node: Schema, definitions: Schema) -> Schema:
    """Return a node of pydantic's JSON schema as Kubernetes wants it."""
    node = _inlined(node, definitions)
    result: Schema = {key: deepcopy(node[key]) for key in _KEPT if key in node}
    if _RULES in result:
        result[_RULES] = [
            {key: rule[key] for key in ("rule", "message", "fieldPath") if key in rule} for rule in result[_RULES]
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
    _RULES,
)


def _inlined(node: Schema, definitions: Schema) -> Schema:
    """Return the node with its reference resolved and the alternative `null` removed; what stands beside them wins."""
    while "$ref" in node or "anyOf" in node:
        rest = {key: value for key, value in node.items() if key not in ("$ref", "anyOf")}
        if "$ref" in node:
            inner = definitions[node["$ref"].removeprefix("#/$defs/")]
        else:
            (inner,) = (choice for choice in node["anyOf"] if choice != {"type": "null"})
        node = inner | rest
    return node


def _map_values(node: Schema, definitions: Schema) -> Schema:
    """Return what describes the values of a map, and its keys: a structural schema has no patterns for keys, CEL has."""
    if "patternProperties" in node:
        ((pattern, values),) = node["patternProperties"].items()
        longest = node["propertyNames"]["maxLength"]
        rule = {
            "rule": f"self.all(key, key.size() <= {longest} && key.matches('{pattern}'))",
            "message": f"keys must match {pattern} and have at most {longest} characters",
        }
        return {"additionalProperties": _structural(values, definitions), _RULES: [rule]}
    values = node.get("additionalProperties")
    if not isinstance(values, dict):
        return {}
    values = _structural(values, definitions)
    if values == {_ANYTHING: True}:
        # Said of the map itself: CEL does not see a field whose values have no type.
        return {_ANYTHING: True}
    return {"additionalProperties": values}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return value


def walk(schema: Schema, path: str = "") -> Iterable[tuple[str, Schema]]:
    """Yield every field of a structural schema with its path, parents first."""
    for name, part in schema.get("properties", {}).items():
        yield f"{path}.{name}".lstrip("."), part
        yield from walk(part, f"{path}.{name}")
    if "items" in schema:
        yield from walk(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        yield from walk(schema["additionalProperties"], f"{path}.*")
