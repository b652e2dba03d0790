"""The pod of one worker. It always satisfies the Pod Security level `restricted`."""

from collections.abc import Sequence
from dataclasses import dataclass

from trainwright.api.names import (
    CHECKPOINT_MOUNT,
    CODE_MOUNT,
    CODE_VOLUME,
    CONFIG_FILE,
    CONFIG_MOUNT,
    ENV_ATTEMPT,
    ENV_CONFIG,
    ENV_MIN_WORKERS,
    ENV_POD_NAME,
    ENV_RENDEZVOUS_HOST,
    ENV_TERMINATION_LOG,
    ENV_WORKER_INDEX,
    ENV_WORKERS,
    TOKEN_FILE,
    TOKEN_MOUNT,
    WORKER_CONTAINER,
    report_audience,
)
from trainwright.api.spec import TrainingJobSpec, WorkersSpec
from trainwright.api.spec.environment import EnvFromSource, EnvVar
from trainwright.api.spec.volumes import VolumeSpec
from trainwright.api.training_class import ClassPods
from trainwright.build.gang import Group, join
from trainwright.build.manifest import Manifest
from trainwright.build.naming import (
    companion_name,
    owner_reference,
    pod_name,
    rendezvous_host,
    worker_hostname,
    worker_labels,
)
from trainwright.build.settings import Settings

USER = 65532
"""Numeric user and group of every worker; also the group of its volumes."""

TOKEN_SECONDS = 600
"""The shortest lifetime that Kubernetes allows, so that a stolen token soon expires. The kubelet renews tokens in time."""
LOCAL_HOST = "localhost"
_NODE_TAINTS = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
NODE_LOSS_SECONDS = 30
"""Seconds until a pod is evicted from an unreachable node. With Kubernetes' default of 300, all workers would wait that long."""


@dataclass(frozen=True)
class WorkerSlot:
    """Identifies one of a job's pods.

    Attributes:
        index: The worker, 0 up to workers.count - 1.
        attempt: The attempt that creates the pod.
        oldest_attempt: The oldest attempt whose pods are kept: that of the last start of all workers.
        avoided_nodes: Nodes that the pod must not run on.
        group: The gang that the pod belongs to, if any.
    """

    index: int
    attempt: int
    oldest_attempt: int
    avoided_nodes: tuple[str, ...] = ()
    group: Group | None = None


def worker_pod(
    namespace: str, name: str, uid: str, spec: TrainingJobSpec, settings: Settings, config: str, slot: WorkerSlot
) -> Manifest:
    """Return the pod of one worker of a job, which mounts the ConfigMap called `config`."""
    workers = spec.workers
    several = workers.count > 1
    host = rendezvous_host(namespace, name, uid, slot.oldest_attempt) if several else LOCAL_HOST
    audience = None if settings.reports_url is None else report_audience(namespace, name, uid)
    pod: Manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod_name(name, slot.index, slot.attempt),
            "namespace": namespace,
            "labels": {**(workers.labels or {}), **worker_labels(name, slot.index, slot.attempt)},
            "annotations": {
                **(workers.annotations or {}),
                "kubectl.kubernetes.io/default-container": WORKER_CONTAINER,
            },
            "ownerReferences": [owner_reference(name, uid)],
        },
        "spec": {
            **_placement(workers, slot.avoided_nodes),
            "restartPolicy": "Never",
            "hostname": worker_hostname(slot.index, slot.oldest_attempt),
            **({"subdomain": companion_name(name, uid)} if several else {}),
            "terminationGracePeriodSeconds": workers.termination_grace_period_seconds,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": _pod_security(workers),
            "containers": [_container(spec, settings, slot, host, reports=audience is not None)],
            "volumes": _own_volumes(spec, config, audience) + [_volume(volume) for volume in workers.volumes or ()],
        },
    }
    return join(pod, spec, slot.group)


def with_additions(pod: Manifest, additions: ClassPods) -> Manifest:
    """Return the pod with what a TrainingClass adds; what the pod has already takes precedence."""
    metadata, spec = pod["metadata"], pod["spec"]
    worker, *others = spec["containers"]
    # The last source of a variable counts.
    sources = [*_sources(additions.env_from), *worker.get("envFrom", ())]
    return {
        **pod,
        "metadata": {
            **metadata,
            "labels": {**(additions.labels or {}), **metadata["labels"]},
            "annotations": {**(additions.annotations or {}), **metadata["annotations"]},
        },
        "spec": {**spec, "containers": [{**worker, **({"envFrom": sources} if sources else {})}, *others]},
    }


def _placement(workers: WorkersSpec, avoided: tuple[str, ...]) -> Manifest:
    """Return the allowlisted pod fields that are set, with our own tolerations and node affinity added."""
    fields = {
        "image_pull_secrets",
        "node_selector",
        "tolerations",
        "affinity",
        "topology_spread_constraints",
        "priority_class_name",
        "runtime_class_name",
        "scheduler_name",
        "service_account_name",
        "dns_config",
    }
    placement = workers.model_dump(mode="json", by_alias=True, exclude_none=True, include=fields)
    if "imagePullSecrets" in placement:
        placement["imagePullSecrets"] = [{"name": secret} for secret in placement["imagePullSecrets"]]
    # The first toleration that matches a taint applies, so ours come before one that tolerates everything.
    placement["tolerations"] = _patience(workers) + placement.get("tolerations", [])
    if avoided:
        placement["affinity"] = _keep_off(placement.get("affinity") or {}, avoided)
    return placement


def _keep_off(affinity: Manifest, nodes: tuple[str, ...]) -> Manifest:
    """Return the affinity with these nodes excluded.

    The terms of a node selector are alternatives, so each of them has to exclude the nodes.
    """
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    others = [{"key": "metadata.name", "operator": "NotIn", "values": [node]} for node in nodes]
    ours = affinity.get("nodeAffinity", {})
    alternatives = ours.get(required, {}).get("nodeSelectorTerms", [])
    # An empty term matches no node. With the exclusion added, it would match all other nodes, so it is dropped.
    terms = [
        {**term, "matchFields": [*term.get("matchFields", ()), *others]} for term in alternatives if any(term.values())
    ]
    if not alternatives:
        terms = [{"matchFields": others}]
    return {**affinity, "nodeAffinity": {**ours, required: {"nodeSelectorTerms": terms or alternatives}}}


def _patience(workers: WorkersSpec) -> list[Manifest]:
    """Return our tolerations for unreachable nodes, except for taints that the user's tolerations name.

    A toleration without a key does not count, because users write it for reserved nodes, not for dead ones.
    """
    said = {toleration.key for toleration in workers.tolerations or () if toleration.effect in (None, "NoExecute")}
    brief = {"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": NODE_LOSS_SECONDS}
    return [{"key": taint, **brief} for taint in _NODE_TAINTS if taint not in said]


def _pod_security(workers: WorkersSpec) -> Manifest:
    own = {} if workers.security_context is None else workers.security_context.to_wire()
    return {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        # Avoid changing the ownership of every file at each start: a volume may hold many checkpoints.
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
        **own,
    }


def _container(spec: TrainingJobSpec, settings: Settings, slot: WorkerSlot, host: str, *, reports: bool) -> Manifest:
    workers = spec.workers
    pull_policy = workers.image_pull_policy or (settings.worker_pull_policy if workers.image is None else None)
    container: Manifest = {
        "name": WORKER_CONTAINER,
        "image": workers.image or settings.worker_image,
        "env": _environment(workers, slot, host),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": _own_mounts(spec, reports=reports) + [_mount(volume) for volume in workers.volumes or ()],
    }
    if workers.env_from:
        container["envFrom"] = _sources(workers.env_from)
    if pull_policy is not None:
        container["imagePullPolicy"] = str(pull_policy)
    if workers.resources is not None:
        container["resources"] = workers.resources.to_wire()
    if settings.metrics_port is not None:
        container["ports"] = [
            {"name": f"metrics-{rank}" if rank else "metrics", "containerPort": settings.metrics_port + rank}
            for rank in range(workers.processes_per_worker)
        ]
    return container


def _environment(workers: WorkersSpec, slot: WorkerSlot, host: str) -> list[Manifest]:
    return [
        {"name": ENV_CONFIG, "value": f"{CONFIG_MOUNT}/{CONFIG_FILE}"},
        {"name": ENV_WORKER_INDEX, "value": str(slot.index)},
        {"name": ENV_WORKERS, "value": str(workers.count)},
        *([{"name": ENV_MIN_WORKERS, "value": str(workers.min_count)}] if workers.min_count is not None else []),
        {"name": ENV_ATTEMPT, "value": str(slot.attempt)},
        {"name": ENV_RENDEZVOUS_HOST, "value": host},
        {"name": ENV_POD_NAME, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": ENV_TERMINATION_LOG, "value": "/dev/termination-log"},
        # The root file system is read-only, and some libraries need a writable cache folder.
        {"name": "HOME", "value": "/tmp"},  # noqa: S108 - an emptyDir of this pod alone
        *(_variable(variable) for variable in workers.env or ()),
    ]


def _sources(sources: Sequence[EnvFromSource] | None) -> list[Manifest]:
    return [source.model_dump(mode="json", by_alias=True, exclude_defaults=True) for source in sources or ()]


def _variable(variable: EnvVar) -> Manifest:
    if variable.value_from is None:
        return {"name": variable.name, "value": variable.value}
    return {"name": variable.name, "valueFrom": variable.value_from.to_wire()}


def _own_mounts(spec: TrainingJobSpec, *, reports: bool) -> list[Manifest]:
    mounts: list[Manifest] = [
        {"name": "config", "mountPath": CONFIG_MOUNT, "readOnly": True},
        {"name": "checkpoints", "mountPath": CHECKPOINT_MOUNT},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - an emptyDir of this pod alone
        {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - collectives need more than the default 64 MiB
    ]
    if _code_map(spec) is not None:
        mounts.append({"name": CODE_VOLUME, "mountPath": CODE_MOUNT, "readOnly": True})
    if reports:
        mounts.append({"name": "token", "mountPath": TOKEN_MOUNT, "readOnly": True})
    return mounts


def _own_volumes(spec: TrainingJobSpec, config: str, audience: str | None) -> list[Manifest]:
    claim = spec.checkpoint.persistent_volume_claim
    volumes: list[Manifest] = [
        {"name": "config", "configMap": {"name": config}},
        {"name": "checkpoints", "persistentVolumeClaim": {"claimName": claim}}
        if claim is not None
        else {"name": "checkpoints", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory", **_size_limit(spec.workers.shared_memory_size)}},
    ]
    code = _code_map(spec)
    if code is not None:
        volumes.append({"name": CODE_VOLUME, "configMap": {"name": code}})
    if audience is not None:
        token = {"audience": audience, "expirationSeconds": TOKEN_SECONDS, "path": TOKEN_FILE}
        volumes.append({"name": "token", "projected": {"sources": [{"serviceAccountToken": token}]}})
    return volumes


def _size_limit(size: int | str | None) -> Manifest:
    return {} if size is None else {"sizeLimit": size}


def _code_map(spec: TrainingJobSpec) -> str | None:
    """Return the name of the ConfigMap with the user's own code, if there is one."""
    return None if spec.code is None or spec.code.config_map is None else spec.code.config_map.name


def _volume(volume: VolumeSpec) -> Manifest:
    return volume.model_dump(
        mode="json",
        by_alias=True,
        exclude_none=True,
        include={"name", "persistent_volume_claim", "config_map", "secret", "empty_dir"},
    )


def _mount(volume: VolumeSpec) -> Manifest:
    within = {} if volume.sub_path is None else {"subPath": volume.sub_path}
    return {"name": volume.name, "mountPath": volume.mount_path, **within, "readOnly": volume.read_only}
