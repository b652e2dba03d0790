"""Converts manifests from the cluster to the typed objects on which the planner decides."""

import json
import re
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from trainwright.api.job import InvalidJobError, read_spec
from trainwright.api.names import ANNOTATION_LIMIT_RANGER, LABEL_GROUP, WORKER_CONTAINER
from trainwright.api.spec import TrainingJobSpec
from trainwright.api.status import ConditionType, Phase, read_status
from trainwright.api.training_class import read_class as read_class_spec
from trainwright.api.worker import Termination
from trainwright.build import Manifest
from trainwright.build.naming import read_pod_name
from trainwright.plan.pods import NEVER_STARTED, Pod
from trainwright.plan.types import Job, Neighbour, TrainingClass

_DEFAULTED = re.compile(rf"(?P<resources>[^:;]+) (?P<kind>request|limit) for container {WORKER_CONTAINER}(?=;|$)")
"""In the annotation that Kubernetes' LimitRanger writes: `cpu, memory limit for container worker`."""


def read_job(manifest: Manifest) -> Job:
    """Return a TrainingJob as typed parts; a spec that breaks the schema is kept as the error that says why."""
    metadata = manifest["metadata"]
    spec: TrainingJobSpec | InvalidJobError
    try:
        spec = read_spec(manifest.get("spec"))
    except InvalidJobError as error:
        spec = error
    return Job(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        generation=metadata.get("generation", 1),
        created_at=read_time(metadata["creationTimestamp"]),
        deleting=metadata.get("deletionTimestamp") is not None,
        spec=spec,
        status=read_status(manifest.get("status")),
        time_to_live=_time_to_live(manifest.get("spec")),
    )


def read_class(manifest: Manifest) -> TrainingClass:
    """Return a TrainingClass as typed parts; one that breaks the schema is kept with what is wrong."""
    raw = manifest.get("spec") or {}
    return TrainingClass(manifest["metadata"]["name"], read_class_spec(raw), is_default=raw.get("default") is True)


def read_neighbour(manifest: Manifest) -> Neighbour:
    """Return what limits per namespace need to know of a job. Jobs are many, so little of each is read."""
    metadata, spec, status = manifest["metadata"], manifest.get("spec"), manifest.get("status") or {}
    spec = spec if isinstance(spec, dict) else {}
    workers, applied, phase = spec.get("workers") or {}, status.get("class") or {}, status.get("phase")
    started = status.get("attempt", 0) > 0
    held = phase == Phase.QUEUED and status.get("startedAt") is None
    ended = phase in (Phase.SUCCEEDED, Phase.FAILED)
    idle = not started or phase == Phase.SUSPENDED or held
    filled = json.loads(applied.get("filled", {}).get("workers.resources", "{}"))
    return Neighbour(
        uid=metadata["uid"],
        created_at=read_time(metadata["creationTimestamp"]),
        started=started,
        active=not idle and not ended,
        waiting=idle and not ended and not spec.get("suspend") and not _is_held_up(manifest, status),
        class_name=applied.get("name") if started else spec.get("class"),
        workers=max(workers.get("count", 1), status.get("workers", {}).get("desired", 0) if started else 0),
        limits=(workers.get("resources") or {}).get("limits") or {},
        filled=filled.get("limits", {}),
    )


def _is_held_up(manifest: Manifest, status: Manifest) -> bool:
    """Return whether a job is being deleted or, as its spec is now, was not accepted: others need not wait for it."""
    metadata = manifest["metadata"]
    return metadata.get("deletionTimestamp") is not None or any(
        condition["type"] == ConditionType.ACCEPTED
        and condition["status"] == "False"
        and condition.get("observedGeneration") == metadata.get("generation", 1)
        for condition in status.get("conditions") or ()
    )


def _time_to_live(raw: Any) -> int | None:
    seconds = raw.get("ttlSecondsAfterFinished") if isinstance(raw, dict) else None
    return seconds if isinstance(seconds, int) else None


def read_pod(manifest: Manifest, job: str) -> Pod:
    """Return a worker pod of this job as typed parts. Its name identifies the worker, because labels can be changed and names cannot.

    Raises:
        ValueError: No worker of this job is called so, whatever its labels and owners.
    """
    metadata, spec, status = manifest["metadata"], manifest.get("spec", {}), manifest.get("status", {})
    index, attempt = read_pod_name(job, metadata["name"])
    container = _worker_container(status.get("containerStatuses"))
    state = container.get("state", {})
    ended, running = state.get("terminated", {}), state.get("running", {})
    phase = status.get("phase", "Pending")
    unstarted = ended.get("reason") in NEVER_STARTED
    said = None if unstarted else ended.get("message")
    termination = _termination(said)
    outlived = bool(ended) and phase not in ("Succeeded", "Failed")
    if ended:
        # The worker is never started again (restartPolicy: Never). A sidecar may keep the pod running, or make it a failed one.
        phase = "Succeeded" if ended.get("exitCode") == 0 else "Failed"
    made = _worker_container(spec.get("containers"))
    limits = (made.get("resources") or {}).get("limits") or {}
    return Pod(
        name=metadata["name"],
        uid=metadata["uid"],
        index=index,
        attempt=attempt,
        phase=phase,
        outlived=outlived,
        image=made.get("image"),
        group=(metadata.get("labels") or {}).get(LABEL_GROUP),
        deletes_at=read_time(metadata["deletionTimestamp"]) if metadata.get("deletionTimestamp") else None,
        node=spec.get("nodeName"),
        scheduler=spec.get("schedulerName"),
        limits={name: str(limits[name]) for name in ("cpu", "memory") if name in limits},
        defaults=_defaults(metadata),
        waiting=_waiting(status, state),
        exit_code=ended.get("exitCode"),
        reason=status.get("reason") or ended.get("reason"),
        message=ended.get("message", "") if unstarted else status.get("message") or _failed_init(status),
        disrupted=_disruption(status),
        silent=_is_silent(status, container),
        termination=termination,
        garbled=termination is None and bool(said),
        created_at=read_time(metadata["creationTimestamp"]) if metadata.get("creationTimestamp") else None,
        started_at=read_time(running["startedAt"]) if running.get("startedAt") else None,
        finished_at=read_time(ended["finishedAt"]) if ended.get("finishedAt") else None,
    )


def read_time(text: str) -> datetime:
    """Return a Kubernetes timestamp as an aware time."""
    return datetime.fromisoformat(text)


def _worker_container(containers: list[Manifest] | None) -> Manifest:
    return next((c for c in containers or () if c.get("name") == WORKER_CONTAINER), {})


def _defaults(metadata: Manifest) -> frozenset[str]:
    """Return what a LimitRange of the namespace has added to the worker container: `memory limit`, `cpu request`, ..."""
    said = (metadata.get("annotations") or {}).get(ANNOTATION_LIMIT_RANGER, "")
    return frozenset(
        f"{resource.strip()} {found['kind']}"
        for found in _DEFAULTED.finditer(said)
        for resource in found["resources"].split(",")
    )


def _waiting(status: Manifest, state: Manifest) -> tuple[str, str] | None:
    """Return why the pod does not run yet: the scheduler's reason, else the kubelet's."""
    if status.get("phase", "Pending") != "Pending":
        return None
    scheduled = _condition(status, "PodScheduled")
    if scheduled.get("status") == "False":
        return scheduled.get("reason", "Unschedulable"), scheduled.get("message", "")
    waiting = state.get("waiting", {})
    if waiting:
        return waiting.get("reason", "Waiting"), waiting.get("message", "")
    return None


def _disruption(status: Manifest) -> str | None:
    """Return why the pod is taken away, in the cluster's words or, under the other name, in Kueue's."""
    conditions = (_condition(status, kind) for kind in ("DisruptionTarget", "TerminationTarget"))
    targets = (target for target in conditions if target.get("status") == "True")
    return next((target.get("message") or target.get("reason") for target in targets), None)


def _is_silent(status: Manifest, container: Manifest) -> bool:
    """Return whether the node is silent: the control plane calls the pod unready, against the kubelet's last word.

    It changes no more than that word. A kubelet gives a reason: another container of the pod, a sidecar, may not be ready.
    """
    ready = _condition(status, "Ready")
    return ready.get("status") == "False" and not ready.get("reason") and container.get("ready") is True


def _failed_init(status: Manifest) -> str:
    """Return the failed init container, which an admission webhook may have added; empty if none failed."""
    for container in status.get("initContainerStatuses") or ():
        ended = container.get("state", {}).get("terminated", {})
        if ended.get("exitCode"):
            return f"its init container {container['name']} ended with code {ended['exitCode']}"
    return ""


def _condition(status: Manifest, kind: str) -> Manifest:
    conditions: list[Manifest] = status.get("conditions") or []
    return next((c for c in conditions if c.get("type") == kind), {})


def _termination(message: Any) -> Termination | None:
    """Return the worker's termination message. A custom image may write anything or nothing."""
    try:
        return Termination.model_validate_json(message) if message else None
    except ValidationError:
        return None
