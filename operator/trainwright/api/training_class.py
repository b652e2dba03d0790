"""A TrainingClass: what the platform fills into jobs, allows them and limits them to.

The fields that a class can fill in have the names, types and bounds of the job's own fields, because they are made from them.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import Field, ValidationError, create_model
from pydantic.fields import FieldInfo

from trainwright.api.base import Model, Rule
from trainwright.api.mistakes import message_of
from trainwright.api.spec import CheckpointSpec, RestartSpec, SchedulingSpec, TrainingJobSpec, WorkersSpec
from trainwright.api.spec.environment import EnvFromSource
from trainwright.api.spec.placement import Annotations, Labels

Pattern = Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[A-Za-z0-9._/:@*-]+$")]
Patterns = Annotated[list[Pattern], Field(max_length=64)]
DEFAULTS_CHARACTERS: Final = 16 << 10
"""Most characters of the defaults as JSON, because every job records what was filled in."""


def _optional(info: FieldInfo) -> Any:
    """Return a field of the job for a class, where it may be left out."""
    kind: Any = info.annotation
    if info.default is not None:
        for bound in info.metadata:
            kind = Annotated[kind, bound]
        return (kind | None, Field(None, description=info.description))
    return (kind, info)


def _part(name: str, source: type[Model], *fields: str) -> type[Model]:
    """Return a model with these fields of a part of the job's spec, all of them optional."""
    made: dict[str, Any] = {field: _optional(source.model_fields[field]) for field in fields}
    return create_model(name, __base__=Model, __doc__=None, **made)


_DEFAULT_PARTS: Final[dict[str, type[Model]]] = {
    "workers": _part(
        "WorkersDefaults",
        WorkersSpec,
        *("image", "image_pull_policy", "image_pull_secrets", "resources", "env", "node_selector", "tolerations"),
        *("priority_class_name", "runtime_class_name", "scheduler_name"),
    ),
    "scheduling": _part("SchedulingDefaults", SchedulingSpec, "queue", "priority", "gang"),
    "checkpoint": _part("CheckpointDefaults", CheckpointSpec, "persistent_volume_claim", "uri"),
    "restart": _part("RestartDefaults", RestartSpec, "limit"),
}
"""The fields that a class can fill in. To add one, add its name."""


class _Defaults(Model):
    """Fields of the job at the same paths as in its spec."""

    rules = (
        Rule(
            field="checkpoint",
            message="set at most one of persistentVolumeClaim, uri",
            cel="!has(self.checkpoint) || !has(self.checkpoint.persistentVolumeClaim) || !has(self.checkpoint.uri)",
            holds=lambda self: (
                self.checkpoint is None
                or self.checkpoint.persistent_volume_claim is None
                or self.checkpoint.uri is None
            ),
        ),
    )


_parts: dict[str, Any] = {
    name: (part | None, Field(None, description=f"Defaults of spec.{name} of the jobs."))
    for name, part in _DEFAULT_PARTS.items()
}
_times: dict[str, Any] = {
    name: _optional(TrainingJobSpec.model_fields[name])
    for name in ("start_deadline_seconds", "active_deadline_seconds", "ttl_seconds_after_finished")
}
ClassDefaults = create_model("ClassDefaults", __base__=_Defaults, __doc__=None, **_parts, **_times)


class UserIds(Model):
    """A range of numeric user ids."""

    minimum: int = Field(1, ge=1, le=2_147_483_647, description="Lowest user id.")
    maximum: int = Field(2_147_483_647, ge=1, le=2_147_483_647, description="Highest user id.")


class ClassAllowed(Model):
    """What jobs may ask for themselves.

    A list that is absent allows anything. With a list, a job may use what one of its patterns matches and what the class fills
    in; an empty list allows only the latter. In a pattern, * stands for any characters.
    """

    images: Patterns | None = Field(
        None, description="Images for workers.image. A pattern without a tag or digest allows every tag and digest."
    )
    priority_classes: Patterns | None = Field(None, description="Names for workers.priorityClassName.")
    runtime_classes: Patterns | None = Field(None, description="Names for workers.runtimeClassName.")
    schedulers: Patterns | None = Field(
        None, description="Names for workers.schedulerName, and for the schedulers that scheduling.gang implies."
    )
    tolerations: Patterns | None = Field(
        None, description="Keys of workers.tolerations. A toleration without a key needs the pattern *."
    )
    queues: Patterns | None = Field(None, description="Names for scheduling.queue.")
    service_accounts: Patterns | None = Field(
        None,
        description="Names for workers.serviceAccountName, which must also be on the operator's own list. `default` is always "
        "allowed.",
    )
    labels: Patterns | None = Field(None, description="Keys of workers.labels.")
    annotations: Patterns | None = Field(None, description="Keys of workers.annotations.")
    volumes: Patterns | None = Field(
        None, description="Kinds of workers.volumes: persistentVolumeClaim, configMap, secret, emptyDir."
    )
    user_ids: UserIds | None = Field(None, description="Range for workers.securityContext.runAsUser.")


class JobLimits(Model):
    """The most that one job may have."""

    workers: int | None = Field(None, ge=1, le=10_000, description="Workers.")
    gpus: int | None = Field(None, ge=0, le=1_000_000, description="GPUs, or slices of GPUs, of all its workers.")


class NamespaceLimits(Model):
    """The most that the jobs of one namespace have together. Further jobs wait for their turn."""

    jobs: int | None = Field(None, ge=1, le=100_000, description="Jobs that run.")
    workers: int | None = Field(None, ge=1, le=1_000_000, description="Workers of these jobs.")
    gpus: int | None = Field(None, ge=0, le=10_000_000, description="GPUs, or slices of GPUs, of these workers.")


class ClassLimits(Model):
    """Limits on the jobs of the class."""

    per_job: JobLimits = Field(JobLimits(), description="The most that one job may have.")
    per_namespace: NamespaceLimits = Field(
        NamespaceLimits(), description="The most that the jobs of one namespace have together; further ones wait."
    )


class ClassPods(Model):
    """What the class adds to worker pods. Nothing that Trainwright or the job sets is replaced."""

    labels: Labels | None = Field(None, description="Labels.")
    annotations: Annotations | None = Field(None, description="Annotations.")
    env_from: list[EnvFromSource] | None = Field(
        None,
        max_length=8,
        description="ConfigMaps and Secrets whose values are environment variables. The job's own variables take precedence.",
    )

    rules = tuple(
        Rule(
            field=field,
            message="keys that begin with trainwright.dev/ are reserved: choose another prefix",
            cel=f"!has(self.{field}) || !self.{field}.exists(key, key.startsWith('trainwright.dev/'))",
            holds=lambda self, field=field: (  # type: ignore[misc]
                not any(key.startswith("trainwright.dev/") for key in getattr(self, field) or ())
            ),
        )
        for field in ("labels", "annotations")
    )


class TrainingClassSpec(Model):
    """Defaults, limits and allowlists for the jobs of the class."""

    default: bool = Field(
        False,
        description="Whether the class is that of jobs that name none, in namespaces whose label trainwright.dev/class names "
        "none. At most one class may be the default.",
    )
    namespaces: Patterns | None = Field(
        None, description="Namespaces whose jobs may use the class, where * stands for any characters; all if absent."
    )
    defaults: ClassDefaults | None = Field(
        None, description="What a job does not say itself. A field at its default of the API counts as not said."
    )
    pods: ClassPods | None = Field(None, description="What the class adds to worker pods.")
    allowed: ClassAllowed = Field(ClassAllowed(), description="What jobs may ask for themselves.")
    limits: ClassLimits = Field(ClassLimits(), description="Limits on the jobs of the class.")


def read_class(raw: Mapping[str, Any]) -> TrainingClassSpec | str:
    """Return the typed spec of a class, or what is wrong with it."""
    try:
        spec = TrainingClassSpec.model_validate_json(_text(raw), by_alias=True, by_name=False)
    except ValidationError as error:
        found = error.errors()[0]
        path = ".".join(str(part) for part in found["loc"])
        return f"spec.{path}: {message_of(found)}"
    if len(_text(raw.get("defaults"))) > DEFAULTS_CHARACTERS:
        return f"spec.defaults: is longer than {DEFAULTS_CHARACTERS:,} characters as JSON: shorten the values of env"
    return spec


def _text(value: Any) -> str:
    return json.dumps(value)
