"""Parses a TrainingJob from a manifest or the API server into typed objects, and reports every mistake with its field."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from trainwright.api.mistakes import REQUIRED, UNKNOWN, found_text, message_of, no_string
from trainwright.api.names import API_VERSION, KIND
from trainwright.api.spec import TrainingJobSpec

NAME_LENGTH = 45
"""Child names append an index and an attempt to it, and must be DNS labels of at most 63 characters."""
GENERATED_LENGTH = 5
"""Characters that the API server appends to metadata.generateName."""
NAME_PATTERN = "^[a-z]([-a-z0-9]*[a-z0-9])?$"
NAME_RULE_MESSAGE = (
    f"must be at most {NAME_LENGTH} lower-case letters, digits and hyphens, begin with a letter and not end with a "
    "hyphen, since worker pods are named after it"
)
METADATA_FIELDS = (
    *("name", "namespace", "labels", "annotations", "finalizers", "generateName", "ownerReferences", "uid"),
    *("resourceVersion", "generation", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"),
    *("managedFields", "selfLink"),
)
"""The fields of Kubernetes' ObjectMeta; kubectl rejects any other field."""


SPEC_CHARACTERS = 128 << 10
"""Maximum length of a spec as JSON. `args` is free-form, and an object within etcd's limit can hold 250,000 empty objects."""
TOO_LARGE = f"is longer than {SPEC_CHARACTERS:,} characters as JSON: keep long values in files or ConfigMaps"
OVERSIZED = "(left out: too large)"
"""Replaces a spec that is too large. A valid spec is never a string."""


@dataclass(frozen=True)
class FieldError:
    """One mistake in a manifest.

    Attributes:
        field: Path of the field in wire names, for example `spec.optimizer.learningRate`.
        message: The mistake and how to fix it.
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
        InvalidJobError: The spec is too large or violates the schema or a rule. The error lists every mistake with its field.
    """
    if raw is None:
        raise InvalidJobError([FieldError("spec", REQUIRED)])
    text = json.dumps(raw, default=str)
    if raw == OVERSIZED or len(text) > SPEC_CHARACTERS:
        raise InvalidJobError([FieldError("spec", TOO_LARGE)])
    try:
        return _parsed(text)
    except ValidationError as error:
        raise InvalidJobError([mistake for detail in error.errors() for mistake in _field_errors(detail)]) from None


@lru_cache(maxsize=256)
def _parsed(text: str) -> TrainingJobSpec:
    """Return the spec parsed from JSON. Cached, since consecutive reconcile passes read the same spec."""
    # Accept camelCase names only, as the API server does.
    return TrainingJobSpec.model_validate_json(json.dumps(_as_sent(json.loads(text))), by_alias=True, by_name=False)


@cache
def api_defaults() -> Mapping[str, Any]:
    """Return a spec as JSON in which every field has its default, without the fields that have none."""
    fields = TrainingJobSpec.model_fields.items()
    unset = {name: field.default for name, field in fields if not field.is_required()}
    return TrainingJobSpec.model_construct(**unset).to_wire()


def read_manifest(manifest: Any) -> TrainingJobSpec:
    """Return the typed spec of a manifest, after checking its kind, metadata and name too.

    Raises:
        InvalidJobError: The manifest is not a valid TrainingJob.
    """
    if not isinstance(manifest, Mapping):
        raise InvalidJobError([FieldError("(manifest)", "must be a mapping with apiVersion, kind, metadata, spec")])
    errors = [
        FieldError(field, f"must be {expected!r}, found {manifest[field]!r}" if field in manifest else REQUIRED)
        for field, expected in (("apiVersion", API_VERSION), ("kind", KIND))
        if manifest.get(field) != expected
    ]
    errors += [
        FieldError(str(field), UNKNOWN)
        for field in manifest
        if field not in ("apiVersion", "kind", "metadata", "spec", "status")
    ]
    errors += _metadata_errors(manifest.get("metadata"))
    try:
        spec = read_spec(manifest.get("spec"))
    except InvalidJobError as error:
        raise InvalidJobError(errors + error.errors) from None
    if errors:
        raise InvalidJobError(errors)
    return spec


def _metadata_errors(metadata: Any) -> list[FieldError]:
    if metadata is not None and not isinstance(metadata, Mapping):
        return [FieldError("metadata", f"must be a mapping, found {found_text(metadata)}")]
    metadata = metadata or {}
    unknown = [FieldError(f"metadata.{field}", UNKNOWN) for field in metadata if field not in METADATA_FIELDS]
    name, prefix = metadata.get("name"), metadata.get("generateName")
    names = _name_errors(name) if name or prefix is None else _prefix_errors(prefix)
    return [*names, *unknown]


def _prefix_errors(prefix: Any) -> list[FieldError]:
    """Return what is wrong with the beginning of a name that the API server generates."""
    longest = NAME_LENGTH - GENERATED_LENGTH
    if isinstance(prefix, str) and len(prefix) <= longest and re.fullmatch("[a-z][-a-z0-9]*", prefix):
        return []
    rule = f"must be at most {longest} lower-case letters, digits and hyphens, and begin with a letter"
    return [FieldError("metadata.generateName", f"{rule}, found {found_text(prefix)}")]


def _name_errors(name: Any) -> list[FieldError]:
    if name is None or name == "":
        return [FieldError("metadata.name", REQUIRED)]
    if not isinstance(name, str):
        return [FieldError("metadata.name", f"{no_string(name)}, found {found_text(name)}; it {NAME_RULE_MESSAGE}")]
    if len(name) <= NAME_LENGTH and re.fullmatch(NAME_PATTERN, name):
        return []
    return [FieldError("metadata.name", NAME_RULE_MESSAGE)]


def _as_sent(value: Any) -> Any:
    """Return the value as kubectl sends it: a whole number is an integer even when it is written as 5.0."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {key: _as_sent(item) for key, item in value.items()}
    return [_as_sent(item) for item in value] if isinstance(value, list) else value


def _path(location: tuple[int | str, ...]) -> str:
    """Return a path as the API server writes it: `spec.model.layers[0].dense`."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in location if part != "[key]")
    return "spec" + "".join(parts)


def _field_errors(detail: ErrorDetails) -> list[FieldError]:
    path, context = _path(detail["loc"]), detail.get("ctx", {})
    if detail["type"] == "rules":
        return [FieldError(f"{path}.{field}", message) for field, message in context["mistakes"]]
    if detail["type"] == "rule":
        return [FieldError(f"{path}.{context['field']}" if context.get("field") else path, detail["msg"])]
    message = message_of(detail)
    if message != REQUIRED and not isinstance(detail["input"], dict | list):
        message = f"{message}, found {found_text(detail['input'])}"
    return [FieldError(path, message)]
