"""The CustomResourceDefinition: structural, described, bounded, and complete."""

import pytest

from trainwright.api.crd import crd
from trainwright.api.schema import levels, walk
from trainwright.api.spec import TrainingJobSpec
from trainwright.api.status import TrainingJobStatus

VERSION = crd()["spec"]["versions"][0]
SCHEMA = VERSION["schema"]["openAPIV3Schema"]
FIELDS = list(walk(SCHEMA))
SPEC = [(path, field) for path, field in FIELDS if path.startswith("spec")]
ALLOWED = {
    *("type", "description", "format", "enum", "pattern", "default", "required", "properties", "items"),
    *("minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    *("minItems", "maxItems", "maxProperties", "additionalProperties", "x-kubernetes-int-or-string"),
    *("x-kubernetes-preserve-unknown-fields", "x-kubernetes-list-type", "x-kubernetes-list-map-keys"),
    "x-kubernetes-map-type",
}


def at(path):
    return dict(FIELDS)[path]


def test_every_field_is_described():
    # Kubernetes describes metadata itself, and forbids a description there.
    assert [path for path, field in FIELDS if not field.get("description") and not path.startswith("metadata")] == []


def test_descriptions_are_sentences():
    assert [path for path, field in FIELDS if not field.get("description", ".").endswith((".", ")"))] == []


def test_only_structural_keywords_are_used():
    assert {key for _, part in levels(SCHEMA) for key in part} <= ALLOWED


def test_every_part_has_a_type_or_is_open_on_purpose():
    untyped = [part for _, part in levels(SCHEMA) if "type" not in part and "x-kubernetes-int-or-string" not in part]
    assert untyped == []


def test_what_is_open():
    open_fields = [path for path, field in FIELDS if field.get("x-kubernetes-preserve-unknown-fields")]
    assert open_fields == ["spec.model.args", "spec.loss.args", "spec.distillation.args"]


@pytest.mark.parametrize("kind", ["string", "array"])
def test_everything_of_variable_size_in_the_spec_is_bounded(kind):
    bound = {"string": ("maxLength", "enum"), "array": ("maxItems",)}[kind]
    unbounded = [path for path, field in SPEC if field.get("type") == kind and not any(key in field for key in bound)]
    assert unbounded == []


def test_every_field_of_the_types_is_in_the_schema():
    for model, part in ((TrainingJobSpec, "spec"), (TrainingJobStatus, "status")):
        names = {field.alias for field in model.model_fields.values()}
        assert set(SCHEMA["properties"][part]["properties"]) == names


def test_bounds_are_in_openapi_3_0_form():
    learning_rate = at("spec.optimizer.learningRate")
    assert (learning_rate["minimum"], learning_rate["exclusiveMinimum"], learning_rate["default"]) == (0, True, 0.001)


def test_defaults_are_whole_because_rules_are_checked_on_them():
    assert at("spec.dataset.split")["default"] == {"validation": 0.1, "test": 0.1}


def test_the_status_has_no_defaults():
    assert [path for path, field in FIELDS if path.startswith("status") and "default" in field] == []


def test_whoever_writes_a_block_or_the_status_owns_all_of_it_but_the_workers_are_shared():
    whole = {path for path, field in FIELDS if field.get("x-kubernetes-map-type") == "atomic"}
    spec = SCHEMA["properties"]["spec"]["properties"]
    blocks = {f"spec.{name}" for name, block in spec.items() if "properties" in block}
    assert whole == {"status", *blocks} - {"spec.workers"}


def test_lists_that_merge_by_key():
    keys = {path: field.get("x-kubernetes-list-map-keys") for path, field in FIELDS}
    merged = {path: key for path, key in keys.items() if key}
    assert merged == {
        "spec.workers.env": ["name"],
        "spec.workers.volumes": ["name"],
        "status.conditions": ["type"],
    }


def test_columns():
    columns = {column["name"]: column for column in VERSION["additionalPrinterColumns"]}
    narrow = [name for name, column in columns.items() if not column.get("priority")]
    assert narrow == ["State", "Progress", "ETA", "Loss", "Workers", "Restarts", "Age"]
    known = dict(FIELDS) | {"metadata.creationTimestamp": None}
    assert {column["jsonPath"].removeprefix(".") for column in columns.values()} <= set(known)


def test_names():
    assert crd()["metadata"]["name"] == "trainingjobs.trainwright.dev"
    assert crd()["spec"]["names"] == {
        "kind": "TrainingJob",
        "listKind": "TrainingJobList",
        "plural": "trainingjobs",
        "singular": "trainingjob",
        "shortNames": ["tj"],
        "categories": ["all"],
    }
