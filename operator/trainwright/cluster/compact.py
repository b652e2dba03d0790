"""Strips unused fields from manifests, to keep the memory for a thousand jobs and their pods small."""

import sys
from typing import Any

from trainwright.api.job import OVERSIZED, SPEC_CHARACTERS
from trainwright.api.names import ANNOTATION_LIMIT_RANGER, GROUP, WORKER_CONTAINER
from trainwright.cluster.port import Manifest

_METADATA = (
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
)
_LONGEST_ANNOTATION = 1024
_POD_SPEC = ("nodeName", "schedulerName", "terminationGracePeriodSeconds")
_CONTAINER = ("name", "image")
_LIMITS = ("cpu", "memory")
_POD_STATUS = ("phase", "reason", "message")
_POD_CONDITIONS = ("PodScheduled", "Ready", "DisruptionTarget", "TerminationTarget")
_CONTAINER_STATUS = ("name", "ready", "state")
_WORD = 24
"""Strings up to this length are words like "Running", label values and short names: worth keeping only once."""


def compact(manifest: Manifest) -> Manifest:
    """Return a copy of a job without unused metadata, such as labels and annotations, and without a spec that is too large."""
    kept = {**manifest, "metadata": _pick(manifest["metadata"], _METADATA)}
    if not _is_short(manifest.get("spec"), SPEC_CHARACTERS):
        kept["spec"] = OVERSIZED
    shared: Manifest = _share(kept)
    return shared


def compact_pod(pod: Manifest) -> Manifest:
    """Return a copy of a pod with only the fields that are used: of its spec the node, the image and little more.

    Whoever may create pods may give one our label and a megabyte of anything else.
    """
    meta, status = pod["metadata"], pod.get("status") or {}
    kept = {
        "metadata": _pick(meta, _METADATA),
        "spec": _pick(pod.get("spec") or {}, _POD_SPEC),
        "status": _pick(status, _POD_STATUS),
    }
    labels = {key: value for key, value in (meta.get("labels") or {}).items() if key.startswith(f"{GROUP}/")}
    if labels:
        kept["metadata"]["labels"] = labels
    owners = [owner for owner in meta.get("ownerReferences") or () if owner.get("controller")]
    if owners:
        kept["metadata"]["ownerReferences"] = owners
    limited = (meta.get("annotations") or {}).get(ANNOTATION_LIMIT_RANGER)
    if limited:
        kept["metadata"]["annotations"] = {ANNOTATION_LIMIT_RANGER: limited[:_LONGEST_ANNOTATION]}
    containers = [item for item in (pod.get("spec") or {}).get("containers") or () if item["name"] == WORKER_CONTAINER]
    if containers:
        kept["spec"]["containers"] = [_container(item) for item in containers]
    statuses = [item for item in status.get("containerStatuses") or () if item.get("name") == WORKER_CONTAINER]
    if statuses:
        kept["status"]["containerStatuses"] = [_pick(item, _CONTAINER_STATUS) for item in statuses]
    failed = [item for item in status.get("initContainerStatuses") or () if _has_failed(item)]
    if failed:
        kept["status"]["initContainerStatuses"] = [_pick(item, _CONTAINER_STATUS) for item in failed]
    conditions = [item for item in status.get("conditions") or () if item.get("type") in _POD_CONDITIONS]
    if conditions:
        kept["status"]["conditions"] = conditions
    shared: Manifest = _share(kept)
    return shared


def _container(container: Manifest) -> Manifest:
    limits = _pick((container.get("resources") or {}).get("limits") or {}, _LIMITS)
    return _pick(container, _CONTAINER) | ({"resources": {"limits": limits}} if limits else {})


def _is_short(value: Any, most: int) -> bool:
    """Return whether JSON data may have as few characters as text: counts the least that they can take, without a copy."""
    rest, left = [value], most
    while rest and left >= 0:
        match rest.pop():
            case dict() as fields:
                left -= 2 + sum(len(name) + 4 for name in fields)
                rest += fields.values()
            case list() as items:
                left -= 1 + len(items)
                rest += items
            case str() as text:
                left -= len(text) + 2
            case _:
                left -= 1
    return left >= 0


def _has_failed(container: Manifest) -> bool:
    return bool(container.get("state", {}).get("terminated", {}).get("exitCode"))


def _pick(source: Manifest, names: tuple[str, ...]) -> Manifest:
    return {name: source[name] for name in names if source.get(name) is not None}


def _share(value: Any) -> Any:
    """Copy JSON data so that equal keys and words are one object in memory: manifests repeat them endlessly."""
    match value:
        case dict():
            return {sys.intern(key): _share(item) for key, item in value.items()}
        case list():
            return [_share(item) for item in value]
        case str() if len(value) <= _WORD:
            return sys.intern(value)
        case _:
            return value
