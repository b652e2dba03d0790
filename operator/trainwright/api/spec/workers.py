"""The worker pods: their number, resources and the pod fields that a user may set."""

import re
from enum import StrEnum
from typing import Annotated, Any, Final, Self

from pydantic import BeforeValidator, Field, PlainValidator, WithJsonSchema, model_validator
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

from trainwright.api.amounts import QUANTITY, quantity_value
from trainwright.api.base import Model, Rule, one_of
from trainwright.api.devices import count_gpus, is_gpu
from trainwright.api.spec.placement import (
    Affinity,
    LabelKey,
    Labels,
    Toleration,
    TopologySpreadConstraint,
    without_nulls,
)

DnsLabel = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
DnsName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$")]
QUANTITY_LENGTH = 64


def _quantity(value: Any) -> int | str:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63:
        return value
    if isinstance(value, str) and len(value) <= QUANTITY_LENGTH and re.fullmatch(QUANTITY, value):
        return value
    raise PydanticCustomError("quantity", "must be a quantity: a whole number, or text like 500m, 1.5 or 16Gi")


Quantity = Annotated[
    int | str,
    PlainValidator(_quantity),
    WithJsonSchema(
        {
            # One schema for both forms: the pattern binds text, the bound binds numbers.
            "x-kubernetes-int-or-string": True,
            "maxLength": QUANTITY_LENGTH,
            "pattern": QUANTITY,
            "minimum": 0,
        }
    ),
]


Quantities = Annotated[dict[LabelKey, Quantity], Field(max_length=16), BeforeValidator(without_nulls)]


class PullPolicy(StrEnum):
    """When a node pulls the image."""

    ALWAYS = "Always"
    IF_NOT_PRESENT = "IfNotPresent"
    NEVER = "Never"


_OWN: Final = ("cpu", "memory", "ephemeral-storage")
"""The resources of every node. Apart from huge pages, Kubernetes has no other resources without a domain."""


def _whole(resource: str) -> bool:
    """Return whether a resource cannot be overcommitted, so that request and limit must be equal."""
    return resource.startswith("hugepages-") or ("/" in resource and "kubernetes.io/" not in resource)


def _named(field: str) -> Rule:
    """Return the rule that a field names only resources that Kubernetes accepts."""
    return Rule(
        field=field,
        message="must name cpu, memory, ephemeral-storage, hugepages-SIZE, or a device with its domain: nvidia.com/gpu, "
        "not gpu",
        cel=f"!has(self.{field}) || self.{field}.all(key, key in {list(_OWN)} || key.startsWith('hugepages-') || "
        "key.contains('/'))",
        holds=lambda self: all(
            key in _OWN or key.startswith("hugepages-") or "/" in key for key in getattr(self, field) or ()
        ),
    )


class ResourcesSpec(Model):
    """Compute resources of one worker, as in any container."""

    requests: Quantities | None = Field(None, description="Resources that the scheduler reserves.")
    limits: Quantities | None = Field(
        None, description="Limits on the worker's resources. Set GPUs here, for example nvidia.com/gpu: 1."
    )

    rules = (
        _named("requests"),
        _named("limits"),
        Rule(
            field="requests",
            message="devices such as nvidia.com/gpu, and huge pages, need the same amount in limits; a limit without "
            "a request is enough",
            cel="!has(self.requests) || self.requests.all(key, (has(self.limits) && key in self.limits) || "
            "!(key.startsWith('hugepages-') || (key.contains('/') && !key.contains('kubernetes.io/'))))",
            holds=lambda self: all(key in (self.limits or ()) or not _whole(key) for key in self.requests or ()),
        ),
    )

    @model_validator(mode="after")
    def _requests_fit_the_limits(self) -> Self:
        """Refuse requests that pod validation would reject. Only the operator checks this, since CEL cannot compare quantities here."""
        mistakes = []
        requests, limits = self.requests or {}, self.limits or {}
        for name in sorted(requests.keys() & limits.keys()):
            request, limit = requests[name], limits[name]
            more = quantity_value(request) - quantity_value(limit)
            if more > 0 or (more and _whole(name)):
                bound = "equal" if _whole(name) else "be at most"
                mistakes.append((f"requests.{name}", f"must {bound} its limit, {limit}, found {request}"))
        if mistakes:
            raise PydanticCustomError("rules", "resources", {"mistakes": mistakes})
        return self


class SecretKey(Model):
    """One value of a Secret of the job's own namespace."""

    name: DnsName = Field(description="Name of the Secret.")
    key: str = Field(min_length=1, max_length=253, pattern="^[-._a-zA-Z0-9]+$", description="Key within it.")


class ValueSource(Model):
    """Where the value of a variable comes from."""

    secret_key_ref: SecretKey = Field(
        description="A Secret that the kubelet reads when the worker starts; the operator never sees it."
    )


class EnvVar(Model):
    """An environment variable of the worker."""

    name: str = Field(
        min_length=1, max_length=253, pattern="^[A-Za-z_][A-Za-z0-9_]*$", description="Name of the variable."
    )
    value: str = Field("", max_length=32_768, description="Its value.")
    value_from: ValueSource | None = Field(None, description="Where its value comes from, for credentials.")

    rules = (
        Rule(
            field="value",
            message="set value or valueFrom, not both",
            cel="!has(self.valueFrom) || !has(self.value) || self.value == ''",
            holds=lambda self: self.value_from is None or not self.value,
        ),
    )


class ClaimVolume(Model):
    """A PersistentVolumeClaim of the job's own namespace."""

    claim_name: DnsName = Field(description="Name of the claim.")


class ConfigMapVolume(Model):
    """A ConfigMap of the job's own namespace."""

    name: DnsName = Field(description="Name of the ConfigMap.")


class EmptyDirVolume(Model):
    """Scratch space that lives as long as the pod."""

    medium: str | None = Field(None, pattern="^(Memory)?$", max_length=6, description="Memory for a RAM disk.")
    size_limit: Quantity | None = Field(None, description="Largest size.")


RESERVED_PATHS = ("/checkpoints", "/etc", "/var", "/run", "/proc", "/sys", "/dev", "/tmp", "/opt/trainwright")  # noqa: S108
"""Paths at which users may not mount volumes, because Trainwright or the system uses them."""


class VolumeSpec(Model):
    """A volume and its mount path. Host paths are not allowed."""

    name: DnsLabel = Field(description="Name of the volume.")
    mount_path: str = Field(
        min_length=2,
        max_length=1024,
        pattern=r"^(/\.?[^/:.][^/:]*)+$",
        description="Path in the workers. Mount data at /data to use relative paths in dataset.",
    )
    read_only: bool = Field(False, description="Mount read-only.")
    persistent_volume_claim: ClaimVolume | None = Field(None, description="A PersistentVolumeClaim.")
    config_map: ConfigMapVolume | None = Field(None, description="A ConfigMap.")
    empty_dir: EmptyDirVolume | None = Field(None, description="Scratch space.")

    rules = (
        one_of("persistent_volume_claim", "config_map", "empty_dir", what="volume"),
        Rule(
            field="mountPath",
            message="this path is reserved for Trainwright or the system: mount the volume elsewhere",
            cel=f"!{list(RESERVED_PATHS)}.exists(own, self.mountPath == own || self.mountPath.startsWith(own + '/'))",
            holds=lambda self: (
                not any(self.mount_path == own or self.mount_path.startswith(own + "/") for own in RESERVED_PATHS)
            ),
        ),
    )


_BY_NAME: JsonDict = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
"""Lists whose items are identified by name, so that several field managers can own items."""


class WorkersSpec(Model):
    """The worker pods: their number, resources and placement. Only the pod fields listed here can be set."""

    count: int = Field(1, ge=1, le=10_000, description="Number of worker pods.")
    min_count: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="Minimum number of workers to train with, including worker 0; all workers by default. With fewer "
        "workers, each process takes a larger share of every batch, if necessary in several passes. Late workers join.",
    )
    processes_per_worker: int = Field(
        1, ge=1, le=64, description="Training processes (ranks) per worker; one per GPU is usual."
    )
    resources: ResourcesSpec | None = Field(None, description="CPU, memory and GPUs of one worker.")
    image: str | None = Field(
        None, min_length=1, max_length=512, description="Worker image; the operator's default if unset."
    )
    image_pull_policy: PullPolicy | None = Field(None, description="When nodes pull the image.")
    image_pull_secrets: list[DnsName] | None = Field(
        None, max_length=8, description="Names of pull secrets in the job's namespace."
    )
    env: list[EnvVar] | None = Field(
        None, max_length=128, description="Environment variables.", json_schema_extra=_BY_NAME
    )
    volumes: list[VolumeSpec] | None = Field(
        None, max_length=32, description="Volumes to mount.", json_schema_extra=_BY_NAME
    )
    node_selector: Labels | None = Field(None, description="Labels that a node must have.")
    tolerations: list[Toleration] | None = Field(None, max_length=32, description="Taints that the workers accept.")
    affinity: Affinity | None = Field(None, description="Pods and nodes that the workers run near to or away from.")
    topology_spread_constraints: list[TopologySpreadConstraint] | None = Field(
        None, max_length=16, description="How workers spread over zones or nodes, as in any pod."
    )
    priority_class_name: DnsName | None = Field(None, description="Priority class of the pods.")
    runtime_class_name: DnsName | None = Field(None, description="Runtime class of the pods, for example nvidia.")
    scheduler_name: DnsName | None = Field(None, description="Scheduler that places the pods.")
    service_account_name: DnsName | None = Field(
        None, description="Service account of the pods; must be on the operator's allowlist. `default` always is."
    )
    termination_grace_period_seconds: int = Field(
        60, ge=1, le=3600, description="Seconds that a worker has to save and exit after it is told to stop."
    )

    rules = (
        Rule(
            field="minCount",
            message="must be at most count",
            cel="!has(self.minCount) || self.minCount <= self.count",
            holds=lambda self: self.min_count is None or self.min_count <= self.count,
        ),
        Rule(
            field="volumes",
            message="every volume needs a unique name",
            cel="!has(self.volumes) || self.volumes.all(v, self.volumes.exists_one(w, w.name == v.name))",
            holds=lambda self: len({v.name for v in self.volumes or ()}) == len(self.volumes or ()),
        ),
        Rule(
            field="volumes",
            message="config, token, checkpoints, tmp and shm are reserved for Trainwright's volumes: choose another name",
            cel="!has(self.volumes) || !self.volumes.exists(v, v.name in ['config', 'token', 'checkpoints', 'tmp', "
            "'shm'])",
            holds=lambda self: (
                not any(v.name in {"config", "token", "checkpoints", "tmp", "shm"} for v in self.volumes or ())
            ),
        ),
        Rule(
            field="env",
            message="every variable needs a unique name",
            cel="!has(self.env) || self.env.all(e, self.env.exists_one(f, f.name == e.name))",
            holds=lambda self: len({e.name for e in self.env or ()}) == len(self.env or ()),
        ),
        Rule(
            field="env",
            message="names that begin with TRAINWRIGHT_ are reserved: choose another name",
            cel="!has(self.env) || !self.env.exists(e, e.name.startsWith('TRAINWRIGHT_'))",
            holds=lambda self: not any(e.name.startswith("TRAINWRIGHT_") for e in self.env or ()),
        ),
    )

    @property
    def gpus(self) -> int:
        """GPUs, or slices of GPUs, that each worker asks for."""
        return count_gpus((self.resources and self.resources.limits) or {})

    @property
    def asks_for_gpus(self) -> bool:
        """Whether the limits of a worker hold more than zero of some GPU resource."""
        limits = (self.resources and self.resources.limits) or {}
        return any(is_gpu(resource) and quantity_value(amount) > 0 for resource, amount in limits.items())
