"""A TrainingJob as it lies in a manifest or on the API server, read once into typed parts."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from trainwright.api.names import API_VERSION, KIND
from trainwright.api.spec import TrainingJobSpec

NAME_LENGTH = 45
"""Names of children append an index and an attempt, and must stay DNS labels of at most 63 characters."""


@dataclass(frozen=True)
class FieldError:
    """One mistake in a manifest.

    Attributes:
        field: Path of the field in wire names, for example `spec.optimizer.learningRate`.
        message: What is wrong and what would be right.
    """

    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


class InvalidJobError(ValueError):
    """A manifest that is not a valid TrainingJob.

    Attributes:
        errors: All mistakes found.
    """

    def __init__(self, errors: list[FieldError]) -> None:
        super().__init__("; ".join(str(error) for error in errors))
        self.errors = errors


def read_spec(raw: Any) -> TrainingJobSpec:
    """Return the typed spec of a TrainingJob.

    Raises:
        InvalidJobError: The spec breaks the schema or a rule; carries every mistake with its field.
    """
    try:
        return TrainingJobSpec.model_validate_json(json.dumps(raw))
    except ValidationError as error:
        raise InvalidJobError([_field_error(detail) for detail in error.errors()]) from None


def read_manifest(manifest: Any) -> TrainingJobSpec:
    """Return the typed spec of a manifest as a user wrote it, with its kind and name checked too.

    Raises:
        InvalidJobError: The manifest is not a valid TrainingJob.
    """
    if not isinstance(manifest, Mapping):
        raise InvalidJobError([FieldError("(manifest)", "must be a mapping with apiVersion, kind, metadata, spec")])
    errors = [
        FieldError(field, f"must be {expected!r}, found {manifest.get(field)!r}")
        for field, expected in (("apiVersion", API_VERSION), ("kind", KIND))
        if manifest.get(field) != expected
    ]
    errors += [
        FieldError(str(field), "unknown field")
        for field in manifest
        if field not in ("apiVersion", "kind", "metadata", "spec", "status")
    ]
    errors += _name_errors((manifest.get("metadata") or {}).get("name"))
    try:
        spec = read_spec(manifest.get("spec"))
    except InvalidJobError as error:
        raise InvalidJobError(errors + error.errors) from None
    if errors:
        raise InvalidJobError(errors)
    return spec


def _name_errors(name: Any) -> list[FieldError]:
    if not isinstance(name, str) or not name:
        return [FieldError("metadata.name", "is required")]
    legal = name[0].isascii() and name[0].isalpha() and name[-1] != "-"
    legal = legal and all(c == "-" or (c.isascii() and (c.islower() or c.isdigit())) for c in name)
    if legal and len(name) <= NAME_LENGTH:
        return []
    return [FieldError("metadata.name", NAME_RULE_MESSAGE)]


NAME_RULE_MESSAGE = (
    f"must be at most {NAME_LENGTH} lower-case letters, digits and hyphens, begin with a letter and not end with a "
    "hyphen, since worker pods are named after it"
)


def _field_error(detail: ErrorDetails) -> FieldError:
    path = ".".join(["spec", *(f"{part}" for part in detail["loc"])])
    context = detail.get("ctx", {})
    if detail["type"] == "rule" and context.get("field"):
        path = f"{path}.{context['field']}"
    messages = {
        "extra_forbidden": "unknown field",
        "missing": "is required",
    }
    message = messages.get(detail["type"], detail["msg"])
    if detail["type"] not in {"rule", "missing"} and not isinstance(detail["input"], dict | list):
        message = f"{message}, found {detail['input']!r}"
    return FieldError(path, message)
