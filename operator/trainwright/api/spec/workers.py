"""The worker pods: their number, resources and the pod fields that a user may set."""

import re
from enum import StrEnum
from typing import Annotated, Final, Self

from pydantic import Field, model_validator
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

from trainwright.api.amounts import quantity_value
from trainwright.api.base import Model, Rule
from trainwright.api.devices import count_gpus, is_gpu
from trainwright.api.spec.environment import EnvFromSource, EnvVar
from trainwright.api.spec.placement import Affinity, Annotations, Labels, Toleration, TopologySpreadConstraint
from trainwright.api.spec.primitives import DnsName, Quantities, Quantity
from trainwright.api.spec.volumes import VolumeSpec


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


_RESERVED_KEYS: Final = r"^([^/]*[.])?(kubernetes[.]io|k8s[.]io|x-k8s[.]io|trainwright[.]dev)/"


def _own_keys(field: str) -> Rule:
    """Return the rule that a map has no keys that belong to Kubernetes or to Trainwright."""
    return Rule(
        field=field,
        message="keys of kubernetes.io, k8s.io, x-k8s.io and trainwright.dev are reserved: use a domain of your own",
        cel=f"!has(self.{field}) || !self.{field}.exists(key, key.matches('{_RESERVED_KEYS}'))",
        holds=lambda self: not any(re.match(_RESERVED_KEYS, key) for key in getattr(self, field) or ()),
    )


class DnsOption(Model):
    """One option of a resolver."""

    name: str = Field(min_length=1, max_length=253, description="Its name, for example ndots.")
    value: str | None = Field(None, max_length=253, description="Its value.")


class DnsConfig(Model):
    """Settings of the resolver, in addition to those of the cluster."""

    nameservers: list[Annotated[str, Field(min_length=1, max_length=45)]] | None = Field(
        None, max_length=3, description="Addresses of name servers."
    )
    searches: list[DnsName] | None = Field(None, max_length=32, description="Domains to search.")
    options: list[DnsOption] | None = Field(None, max_length=16, description="Options.")


Id = Annotated[int, Field(ge=0, le=2_147_483_647)]


class SecurityContext(Model):
    """User and groups of the workers' processes. They are never root."""

    run_as_user: int | None = Field(
        None, ge=1, le=2_147_483_647, description="User, for example the owner of the files on a volume."
    )
    run_as_group: Id | None = Field(None, description="Primary group.")
    fs_group: Id | None = Field(None, description="Group that volumes are made accessible to.")
    supplemental_groups: list[Id] | None = Field(None, max_length=32, description="Further groups.")


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
    env_from: list[EnvFromSource] | None = Field(
        None,
        max_length=16,
        description="ConfigMaps and Secrets whose values are environment variables; env comes first.",
    )
    volumes: list[VolumeSpec] | None = Field(
        None, max_length=32, description="Volumes to mount.", json_schema_extra=_BY_NAME
    )
    shared_memory_size: Quantity | None = Field(
        None, description="Largest size of /dev/shm; by default, the memory of the worker is its only limit."
    )
    labels: Labels | None = Field(None, description="Labels of the pods, for example for cost reports.")
    annotations: Annotations | None = Field(None, description="Annotations of the pods.")
    security_context: SecurityContext | None = Field(None, description="User and groups of the processes.")
    dns_config: DnsConfig | None = Field(None, description="Settings of the resolver, as in any pod.")
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
        _own_keys("labels"),
        _own_keys("annotations"),
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
